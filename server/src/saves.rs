//! Checkpoints as clients ask for them: one at a time, each on a thread of its own, the last result kept for INFO.
//!
//! BGSAVE and SAVE put theirs into the folder of `backup-dir`, named after the node and the time so that no two get one
//! name, and remove their oldest beyond `backup-keep`; `PKCLUSTER CHECKPOINT` names its folder. A checkpoint that some
//! node was started on is that node's, and is never removed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use haypile_engine::checkpoint::{self, Checkpoint, Done, Progress};
use haypile_engine::clock::TimeMs;
use haypile_engine::engine::Engine;
use haypile_engine::error::Error;
use haypile_engine::types::Slot;
use tokio::sync::oneshot;

use crate::node::Node;
use crate::scripting::functions;
use crate::topology;

/// How many checkpoints of one second there may be.
const SAME_SECOND_MAX: usize = 100;

/// Where a checkpoint goes, and of what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Plan {
    /// All slots, to a new folder in that of `backup-dir`.
    Backup,
    /// These slots, to this folder.
    At(PathBuf, Vec<Slot>),
}

/// See the file's head.
#[derive(Debug)]
pub struct Saves {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    running: Option<Running>,
    /// When the last one of all slots ended; before the first, when the process began.
    saved: TimeMs,
    /// Records of all slots at that time.
    saved_records: u64,
    last: Option<Last>,
    taken: u64,
    failed: u64,
    /// Ended, but for its last few instructions, or running.
    thread: Option<JoinHandle<()>>,
    /// None may begin any more.
    stopped: bool,
}

#[derive(Debug)]
struct Running {
    progress: Arc<Progress>,
    since_ms: u64,
}

/// How the last one ended.
#[derive(Clone, Debug)]
pub struct Last {
    /// Its folder.
    pub dir: PathBuf,
    /// What was made, or why it was not.
    pub outcome: Result<Checkpoint, String>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// All of it at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// How far the running one is, and for how long it has been running, in milliseconds.
    pub running: Option<(Done, u64)>,
    /// When the last one of all slots ended; before the first, when the process began.
    pub saved: TimeMs,
    /// Records of all slots at that time.
    pub saved_records: u64,
    /// How the last one ended.
    pub last: Option<Last>,
    /// How many succeeded since the start.
    pub taken: u64,
    /// How many failed since the start.
    pub failed: u64,
}

impl Saves {
    /// None was made yet in this process, which began `now` with so many records in all slots.
    #[must_use]
    pub fn new(now: TimeMs, records: u64) -> Saves {
        let state = State {
            running: None,
            saved: now,
            saved_records: records,
            last: None,
            taken: 0,
            failed: 0,
            thread: None,
            stopped: false,
        };
        Saves { state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics under this lock")
    }

    /// What there is to tell.
    #[must_use]
    pub fn status(&self, now_ms: u64) -> Status {
        let state = self.state();
        let running = state.running.as_ref();
        Status {
            running: running.map(|run| (run.progress.done(), now_ms.saturating_sub(run.since_ms))),
            saved: state.saved,
            saved_records: state.saved_records,
            last: state.last.clone(),
            taken: state.taken,
            failed: state.failed,
        }
    }

    /// Begins a checkpoint; the receiver gets what becomes of it.
    ///
    /// # Errors
    /// For the client: one is being made already, or there is no thread for it.
    pub fn begin(node: &Arc<Node>, plan: Plan) -> Result<oneshot::Receiver<Result<(), String>>, String> {
        let mut state = node.saves.state();
        if state.stopped {
            return Err("ERR the node stops".to_owned());
        }
        if state.running.is_some() {
            return Err("ERR Background save already in progress".to_owned());
        }
        let progress = Arc::new(Progress::default());
        let (told, wait) = oneshot::channel();
        let (worker, shown) = (Arc::clone(node), Arc::clone(&progress));
        let thread = std::thread::Builder::new().name("haypile-save".to_owned());
        let spawned = thread.spawn(move || {
            let began_ms = worker.monotonic_ms();
            let (dir, outcome) = save(&worker, &plan, &shown);
            let outcome = outcome.map_err(|error| error.to_string());
            match &outcome {
                Ok(made) => {
                    let (slots, took) = (made.slots.len(), made.took);
                    tracing::info!(dir = %dir.display(), slots, bytes = made.bytes, ?took, "checkpoint made");
                }
                Err(why) => tracing::error!(dir = %dir.display(), %why, "no checkpoint was made"),
            }
            let answer = outcome.as_ref().map(drop).map_err(Clone::clone);
            let took_ms = worker.monotonic_ms().saturating_sub(began_ms);
            worker.saves.end(Last { dir, outcome, took_ms }, &plan, worker.wall());
            // Nobody waits for a BGSAVE.
            let _ = told.send(answer);
        });
        let spawned = spawned.map_err(|error| format!("ERR can't start a thread: {error}"))?;
        state.running = Some(Running { progress, since_ms: node.monotonic_ms() });
        // The thread of the one before has nothing left to do.
        state.thread = Some(spawned);
        Ok(wait)
    }

    fn end(&self, last: Last, plan: &Plan, now: TimeMs) {
        let mut state = self.state();
        state.running = None;
        match &last.outcome {
            Ok(made) => {
                state.taken += 1;
                if *plan == Plan::Backup {
                    state.saved = now;
                    state.saved_records = made.slots.iter().map(|(_, seq)| seq.0).sum();
                }
            }
            Err(_) => state.failed += 1,
        }
        state.last = Some(last);
    }

    /// Lets none begin any more, gives up the one that runs, and waits for its thread.
    pub fn stop(&self) {
        let thread = {
            let mut state = self.state();
            state.stopped = true;
            state.running.iter().for_each(|running| running.progress.cancel());
            state.thread.take()
        };
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a checkpoint ended by a panic");
        }
    }
}

/// Makes a checkpoint, and says where.
fn save(node: &Node, plan: &Plan, progress: &Progress) -> (PathBuf, Result<Checkpoint, Error>) {
    match plan {
        Plan::At(dir, slots) => {
            let slots: BTreeSet<Slot> = slots.iter().copied().collect();
            (dir.clone(), made(node, dir, &slots, progress))
        }
        Plan::Backup => {
            let folder = backup_dir(node);
            let prefix = prefix(node);
            let slots: BTreeSet<Slot> = topology::present(&node.engine).into_iter().collect();
            let named = new_name(node, &folder, &prefix);
            let dir = match named {
                Ok(dir) => dir,
                Err(error) => return (folder, Err(error)),
            };
            let made = made(node, &dir, &slots, progress);
            if made.is_ok()
                && let Err(error) = remove_old(node, &folder, &prefix)
            {
                tracing::warn!(folder = %folder.display(), %error, "old checkpoints stay");
            }
            (dir, made)
        }
    }
}

/// A checkpoint with the node's libraries of functions.
fn made(node: &Node, dir: &Path, slots: &BTreeSet<Slot>, progress: &Progress) -> Result<Checkpoint, Error> {
    let functions = node.functions.kept();
    node.engine.checkpoint_with(
        dir,
        slots,
        progress,
        functions.as_deref().map(|kept| (functions::FILE, kept)),
    )
}

/// Records of all slots of a node.
#[must_use]
pub fn records(engine: &Engine) -> u64 {
    Slot::all().map(|slot| engine.pulse(slot).last_seq.0).sum()
}

/// Where BGSAVE puts its checkpoints.
fn backup_dir(node: &Node) -> PathBuf {
    let settings = node.config.now();
    match settings.backup_dir.as_str() {
        "" => Path::new(&settings.dir).join("backup"),
        dir => PathBuf::from(dir),
    }
}

/// What the names of this node's begin with: others may have theirs in the same folder.
fn prefix(node: &Node) -> String {
    let mut name = node.engine.node().to_string();
    name.truncate(8);
    name + "-"
}

/// A name that nothing has, after what crashes left was removed.
fn new_name(node: &Node, folder: &Path, prefix: &str) -> Result<PathBuf, Error> {
    let fs = &**node.engine.fs();
    checkpoint::remove_leftovers(fs, folder, prefix)?;
    let first = format!("{prefix}{}", utc(node.wall()));
    let names = (1..=SAME_SECOND_MAX).map(|number| match number {
        1 => folder.join(&first),
        _ => folder.join(format!("{first}-{number:03}")),
    });
    for path in names {
        if !fs.exists(&path).map_err(|error| Error::io(&path, "look for", &error))? {
            return Ok(path);
        }
    }
    Err(Error::Limit(format!("{SAME_SECOND_MAX} checkpoints were made within a second")))
}

/// Removes the oldest of this node's checkpoints beyond those that are to be kept.
fn remove_old(node: &Node, folder: &Path, prefix: &str) -> Result<(), Error> {
    let keep = node.config.now().backup_keep;
    if keep == 0 {
        return Ok(());
    }
    let fs = &**node.engine.fs();
    let mut made = Vec::new();
    for entry in fs.list(folder).map_err(|error| Error::io(folder, "list", &error))? {
        let path = folder.join(&entry.name);
        if entry.is_dir && entry.name.starts_with(prefix) && checkpoint::is_unused(fs, &path)? {
            made.push(path);
        }
    }
    made.sort();
    let surplus = made.len().saturating_sub(keep);
    made[..surplus].iter().try_for_each(|dir| checkpoint::remove(fs, dir))
}

/// A moment as `20261122T140530Z`.
fn utc(at: TimeMs) -> String {
    let seconds = at.0 / 1000;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let (year, month, day) = date(seconds / 86_400);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// The date of a day since 1970 (Howard Hinnant, `chrono`-Compatible Low-Level Date Algorithms).
fn date(days: u64) -> (u64, u64, u64) {
    // Years begin in March here, so that a leap day is a year's last.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_so_that_names_sort_by_it() {
        for (at, text) in [
            (0, "19700101T000000Z"),
            (951_782_400_000, "20000229T000000Z"),
            (951_868_799_999, "20000229T235959Z"),
            (1_772_323_200_000, "20260301T000000Z"),
            (1_798_761_599_000, "20261231T235959Z"),
        ] {
            assert_eq!(utc(TimeMs(at)), text);
        }
    }
}
