//! Scripts: EVAL and its kin, in Lua 5.1.
//!
//! A script runs as one command: under the locks of its keys' slots, in one transaction, committed as a whole. When it
//! needs a block that is not in memory it is run again from its start, like any command: nothing that it does is seen
//! before it ends. So a script that runs too long, or is killed, leaves nothing, whatever it has written. One that runs for
//! more than a moment is given up and runs again off the workers ([`aside`]).
//!
//! Each worker has a Lua state of its own ([`machine`]); what scripts are known is the node's ([`Scripts`]).

pub mod aside;
mod bits;
mod convert;
pub mod follow;
pub mod functions;
mod json;
pub mod machine;
mod msgpack;
mod structs;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::cx::Fail;

/// Scripts that are known only because they were run; beyond it the oldest are forgotten.
const RUN_MAX: usize = 4096;

/// The most bytes of all scripts.
const BYTES_MAX: usize = 64 << 20;

/// A script.
#[derive(Debug)]
pub struct Script {
    /// 40 lower-case hexadecimal digits of its text's SHA-1.
    pub sha: String,
    /// Its text.
    text: Bytes,
    /// Where the Lua in it begins: after `#!lua ...`.
    start: usize,
    /// Whether it has told by flags what it does.
    declared: bool,
    /// Whether it promised not to write.
    no_writes: bool,
}

impl Script {
    /// Reads a script's text; what follows `#!` in its first line is understood.
    ///
    /// # Errors
    /// In Redis' words if that line makes no sense.
    pub fn new(text: &[u8]) -> Result<Script, Fail> {
        let mut script = Script {
            sha: sha1hex(text),
            text: Bytes::copy_from_slice(text),
            start: 0,
            declared: false,
            no_writes: false,
        };
        // Compiled code is not checked by Lua, and could do anything.
        if text.starts_with(b"\x1b") {
            return Err(Fail::error("ERR Error compiling script (new function): it is compiled code"));
        }
        if text.starts_with(b"#!") {
            let end = text.iter().position(|byte| *byte == b'\n');
            let end = end.ok_or_else(|| Fail::error("ERR Invalid script shebang"))?;
            script.start = end;
            script.declared = true;
            script.no_writes = no_writes(&String::from_utf8_lossy(&text[..end]))?;
        }
        Ok(script)
    }

    /// Whether it may be run where nothing may be written.
    ///
    /// # Errors
    /// In Redis' words if it may not.
    pub fn check_read_only(&self) -> Result<(), Fail> {
        if self.declared && !self.no_writes {
            return Err(Fail::error("ERR Can not execute a script with write flag using *_ro command."));
        }
        Ok(())
    }

    /// Whether it promised not to write.
    #[must_use]
    pub fn promises_not_to_write(&self) -> bool {
        self.no_writes
    }

    /// Its text.
    fn text(&self) -> &[u8] {
        &self.text
    }

    /// The Lua in it.
    fn code(&self) -> &[u8] {
        &self.text[self.start..]
    }
}

/// Reads `#!lua flags=...`.
fn no_writes(line: &str) -> Result<bool, Fail> {
    let mut words = line.split_ascii_whitespace();
    let engine = words.next().unwrap_or_default();
    if engine != "#!lua" {
        let name = engine.trim_start_matches("#!");
        return Err(Fail::error(format!("ERR Unexpected engine in script shebang: {name}")));
    }
    let mut out = false;
    for word in words {
        let Some(flags) = word.strip_prefix("flags=") else {
            return Err(Fail::error(format!("ERR Unknown lua shebang option: {word}")));
        };
        for flag in flags.split(',').filter(|flag| !flag.is_empty()) {
            match flag {
                "no-writes" => out = true,
                "allow-oom" | "allow-stale" | "no-cluster" | "allow-cross-slot-keys" => {}
                _ => return Err(Fail::error(format!("ERR Unexpected flag in script shebang: {flag}"))),
            }
        }
    }
    Ok(out)
}

/// The SHA-1 of bytes as 40 lower-case hexadecimal digits.
#[must_use]
pub fn sha1hex(bytes: &[u8]) -> String {
    sha1_smol::Sha1::from(bytes).hexdigest()
}

/// A script that runs.
#[derive(Debug, Default)]
pub struct Running {
    killed: AtomicBool,
}

impl Running {
    /// Whether it was told to end.
    #[must_use]
    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }
}

/// The scripts that a node knows, and those that run on it.
#[derive(Debug, Default)]
pub struct Scripts {
    known: Mutex<Known>,
    running: Mutex<Vec<Arc<Running>>>,
    /// Those that run off the workers.
    pub asides: Arc<aside::Asides>,
    /// Goes up when all are forgotten: workers forget theirs, too.
    flushes: AtomicU64,
    /// Goes up when any is forgotten: whoever runs it makes it known again.
    changes: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    by_sha: HashMap<String, Arc<Script>>,
    /// Those that were only run, in the order in which they came.
    run: VecDeque<String>,
    bytes: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scripts {
    /// The script with this SHA-1, in any case.
    #[must_use]
    pub fn find(&self, sha: &[u8]) -> Option<Arc<Script>> {
        let sha = std::str::from_utf8(sha).ok()?.to_ascii_lowercase();
        lock(&self.known).by_sha.get(&sha).cloned()
    }

    /// Keeps a script that was loaded until all are forgotten.
    ///
    /// # Errors
    /// If all together would take too much room.
    pub fn load(&self, script: Script) -> Result<Arc<Script>, Fail> {
        let known = &mut *lock(&self.known);
        known.run.retain(|sha| *sha != script.sha);
        if known.bytes + script.text.len() > BYTES_MAX {
            return Err(Fail::error(format!(
                "ERR scripts may take {BYTES_MAX} bytes together: SCRIPT FLUSH forgets them"
            )));
        }
        Ok(known.keep(script))
    }

    /// Keeps a script that was run for a while.
    #[must_use]
    pub fn note(&self, script: Script) -> Arc<Script> {
        let known = &mut *lock(&self.known);
        if !known.by_sha.contains_key(&script.sha) {
            known.run.push_back(script.sha.clone());
        }
        let script = known.keep(script);
        while known.run.len() > RUN_MAX || (known.bytes > BYTES_MAX && !known.run.is_empty()) {
            self.changes.fetch_add(1, Ordering::Relaxed);
            let oldest = known.run.pop_front().and_then(|sha| known.by_sha.remove(&sha));
            known.bytes -= oldest.map_or(0, |script| script.text.len());
        }
        script
    }

    /// Forgets all scripts.
    pub fn flush(&self) {
        let known = &mut *lock(&self.known);
        *known = Known::default();
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// How often all scripts were forgotten.
    #[must_use]
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    /// How often any script was forgotten.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Tells all that run to end; says whether there were any.
    #[must_use]
    pub fn kill(&self) -> bool {
        let running = lock(&self.running);
        running.iter().for_each(|running| running.killed.store(true, Ordering::Relaxed));
        !running.is_empty()
    }

    /// Notes that a script begins; it has to end by [`Scripts::end`].
    fn begin(&self) -> Arc<Running> {
        let running = Arc::new(Running::default());
        lock(&self.running).push(running.clone());
        running
    }

    fn end(&self, running: &Arc<Running>) {
        lock(&self.running).retain(|other| !Arc::ptr_eq(other, running));
    }
}

impl Known {
    fn keep(&mut self, script: Script) -> Arc<Script> {
        let bytes = &mut self.bytes;
        let sha = script.sha.clone();
        let kept = self.by_sha.entry(sha).or_insert_with(|| {
            *bytes += script.text.len();
            Arc::new(script)
        });
        kept.clone()
    }
}
