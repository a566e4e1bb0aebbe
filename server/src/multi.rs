//! What a connection gathers between MULTI and EXEC, and the keys that it watches.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use haypile_engine::engine::Fetched;
use haypile_engine::key::{EntryKey, Key};
use haypile_engine::tx::{Read, Tx};
use haypile_engine::types::Epoch;
use haypile_engine::watch::{Before, Flag};

use crate::node::Node;
use crate::table::{Command, Run};

/// A command that waits for EXEC.
pub struct Queued {
    /// Which.
    pub command: &'static Command,
    /// Its arguments; the first is its name.
    pub args: Vec<Bytes>,
    /// Its keys, in the order in which the table finds them.
    pub keys: Vec<Key>,
    /// Its random seed.
    pub seed: u64,
}

impl Queued {
    /// Its arguments as a command takes them.
    #[must_use]
    pub fn args(&self) -> Vec<&[u8]> {
        self.args.iter().map(|arg| &arg[..]).collect()
    }

    /// Whether it runs on the data of its keys' slots.
    #[must_use]
    pub fn is_on_data(&self) -> bool {
        matches!(self.command.run, Run::Data(_))
    }
}

/// What came since MULTI.
#[derive(Default)]
pub struct Multi {
    /// The commands, in order.
    pub queue: Vec<Queued>,
    /// Bytes of their arguments.
    pub bytes: u64,
    /// Whether a command was refused: EXEC runs none then.
    pub failed: bool,
}

/// A watched key, as it was when its watch began.
struct WatchedKey {
    key: Key,
    before: Before,
    epoch: Option<Epoch>,
}

/// About what a watched key takes beside its bytes, here and in its slot.
const WATCH_BYTES: u64 = 2 * (size_of::<WatchedKey>() + size_of::<EntryKey>()) as u64;

/// What watching a key takes, in bytes.
fn bytes_of(key: &Key) -> u64 {
    // Its entry key stands here twice, and in its slot.
    WATCH_BYTES + 3 * key.entry().len() as u64
}

/// The keys that a connection watches. Ends the watch when it is dropped: no slot may be locked then by who drops it.
pub struct Watching {
    node: Arc<Node>,
    flag: Flag,
    keys: Vec<WatchedKey>,
    /// The entry keys of `keys`.
    known: HashSet<EntryKey>,
    /// What all of it takes.
    bytes: u64,
}

impl Watching {
    /// Watches nothing yet.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Watching {
        Watching { node, flag: Flag::default(), keys: Vec::new(), known: HashSet::new(), bytes: 0 }
    }

    /// Whether it watches the key.
    #[must_use]
    pub fn has(&self, key: &Key) -> bool {
        self.known.contains(key.entry())
    }

    /// What it would take in memory, in bytes, to watch these keys besides.
    #[must_use]
    pub fn bytes_with(watching: Option<&Watching>, keys: &[Key]) -> u64 {
        let is_new = |key: &&Key| watching.is_none_or(|watching| !watching.has(key));
        let new: u64 = keys.iter().filter(is_new).map(bytes_of).sum();
        watching.map_or(0, |watching| watching.bytes) + new
    }

    /// Watches a key whose slot is locked.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn add(&mut self, tx: &mut Tx<'_>, key: &Key) -> Read<()> {
        if !self.has(key) {
            let before = tx.watch(key, &self.flag)?;
            self.known.insert(EntryKey::from_slice(key.entry()));
            self.bytes += bytes_of(key);
            self.keys.push(WatchedKey { key: key.clone(), before, epoch: tx.epoch(key.slot()) });
        }
        Ok(())
    }

    /// The keys.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter().map(|watched| &watched.key)
    }

    /// Waits until one of the keys has been written.
    pub async fn changed(&self) {
        self.flag.raised().await;
    }

    /// Whether a key is not any more what it was, or has expired since. All slots of the keys are locked.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn has_changed(&self, tx: &mut Tx<'_>) -> Read<bool> {
        if self.flag.is_raised() {
            return Ok(true);
        }
        for WatchedKey { key, before, epoch } in &self.keys {
            let gone = *before == Before::Lived && tx.read(key, |_| ())?.is_none();
            if gone || tx.epoch(key.slot()) != *epoch {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let fetched = Fetched::default();
        for WatchedKey { key, .. } in &self.keys {
            self.node.engine.begin(&[key.slot()], &fetched).unwatch(key, &self.flag);
        }
    }
}
