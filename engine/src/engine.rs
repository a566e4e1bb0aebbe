//! The engine's handle: open, begin a transaction, write, wait for a reply's bound.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::clock::Clock;
use crate::error::Result;
use crate::fs::Fs;
use crate::placeholder::{Log, Ticket};
use crate::signal::Signal;
use crate::slot::SlotCell;
use crate::tx::Tx;
use crate::types::{SLOT_COUNT, Slot};

/// When a reply may leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SyncMode {
    /// Once its write is on the device.
    Always,
    /// Once its write has been handed to the operating system; a sync follows within a second or so.
    #[default]
    EverySec,
    /// Once its write has been handed to the operating system, which syncs when it likes.
    No,
}

/// How an engine is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// When a reply may leave.
    pub sync: SyncMode,
    /// Bytes for memtables, block cache, log tail and pinned indexes together.
    pub memory_bytes: usize,
    /// Bytes of a log segment.
    pub log_segment_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { sync: SyncMode::EverySec, memory_bytes: 256 << 20, log_segment_bytes: 64 << 20 }
    }
}

/// What opening found and did.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    /// Whether the folder was made now.
    pub fresh: bool,
    /// Whether the last stop was a clean one.
    pub clean: bool,
    /// Records replayed from the log.
    pub records: u64,
    /// Bytes of log read.
    pub log_bytes: u64,
    /// Bytes cut off a torn tail.
    pub cut_bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// What a reply waits for: the group commits that it depends on. See [`Engine::reached`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Gate(Ticket);

impl Gate {
    /// Waits for this group commit too.
    pub(crate) fn cover(&mut self, ticket: Ticket) {
        self.0 = self.0.max(ticket);
    }

    /// Waits for what the other waits for too: a batch of commands has one gate.
    pub fn join(&mut self, other: Gate) {
        self.0 = self.0.max(other.0);
    }
}

/// Blocks that a command needs and that are not in memory.
#[derive(Debug, Default)]
pub struct Wanted(());

/// Blocks that were fetched for a command: pinned while it runs again, so that it gets further each time.
#[derive(Debug, Default)]
pub struct Fetched(());

/// A store of slots in a folder. Shared by `Arc`; all methods may be called from any thread.
pub struct Engine {
    slots: Box<[Mutex<SlotCell>]>,
    log: Log,
    clock: Arc<dyn Clock>,
    role_changes: Signal,
    memtable_bytes: AtomicUsize,
}

impl Engine {
    /// Opens the store in a folder, making it if it is not there, and recovers what was acknowledged.
    ///
    /// # Errors
    /// [`crate::error::Error::Unusable`], `Corrupt` or `Io`, each with its place and remedy.
    pub fn open(
        _fs: Arc<dyn Fs>,
        _dir: &Path,
        clock: Arc<dyn Clock>,
        _options: Options,
    ) -> Result<(Engine, Opened)> {
        let slots = (0..SLOT_COUNT).map(|_| Mutex::default()).collect();
        let engine = Engine {
            slots,
            log: Log::default(),
            clock,
            role_changes: Signal::default(),
            memtable_bytes: AtomicUsize::new(0),
        };
        Ok((engine, Opened { fresh: true, clean: true, ..Opened::default() }))
    }

    /// Locks slots (ascending, none twice) for one command. `fetched` is what [`Engine::fetch`] gave for this
    /// command so far.
    pub fn begin<'e>(&'e self, slots: &[Slot], fetched: &'e Fetched) -> Tx<'e> {
        Tx::begin(self, slots, fetched)
    }

    /// Reads what a command wants, where that needs no waiting; `Err` gives back what has to be waited for.
    ///
    /// # Errors
    /// What is left to fetch with [`Engine::fetch`], off the worker.
    pub fn try_fetch(&self, _wanted: Wanted, _fetched: &mut Fetched) -> Result<(), Wanted> {
        Ok(())
    }

    /// Reads what a command wants. Waits for the device.
    ///
    /// # Errors
    /// `Io`, `Corrupt`.
    pub fn fetch(&self, _wanted: Wanted, _fetched: &mut Fetched) -> Result<()> {
        Ok(())
    }

    /// Writes everything that transactions committed so far: one write(2).
    ///
    /// # Errors
    /// If it fails nothing is acknowledged any more.
    pub fn write(&self) -> Result<()> {
        self.log.write().map(drop)
    }

    /// Waits until a reply with this gate may leave: written, and in [`SyncMode::Always`] synced.
    ///
    /// # Errors
    /// If it can't be reached any more: the reply must not leave.
    pub async fn reached(&self, _gate: Gate) -> Result<()> {
        Ok(())
    }

    /// Counts changes of any slot's role: whoever found a slot fenced waits for the next ([`Signal::wait_past`])
    /// and looks again.
    pub fn role_changes(&self) -> &Signal {
        &self.role_changes
    }

    /// How many keys all slots of this node have.
    pub fn key_count(&self) -> u64 {
        Slot::all().map(|slot| self.lock(slot).keys).sum()
    }

    /// Stops cleanly: everything is written and synced, so that the next start replays little and proves nothing.
    ///
    /// # Errors
    /// What the last write or sync met.
    pub fn close(&self) -> Result<()> {
        self.write()
    }

    pub(crate) fn lock(&self, slot: Slot) -> MutexGuard<'_, SlotCell> {
        self.slots[slot.index()].lock().expect("a panic under a slot's lock ends the process")
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// The clock that it was opened with.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(crate) fn account_memtable(&self, before: usize, after: usize) {
        if after >= before {
            self.memtable_bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.memtable_bytes.fetch_sub(before - after, Ordering::Relaxed);
        }
    }
}
