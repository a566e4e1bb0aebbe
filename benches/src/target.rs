//! What is measured: the interface that a storage engine or a client of a server is put behind.
//!
//! An embedded engine implements [`Target`] once and [`Worker`] for what a thread uses of it; everything else (operations,
//! timing, counters from outside, output) is the same for all. A target that has many operations under way at once, as a
//! pipelining client has, implements [`Driver`] instead of [`Worker`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::lane::Lane;
use crate::load::operation::{KeyList, PairList};
use crate::plan::{Plan, Settle, Sync};

/// What a read found.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Found {
    /// Entries that were there.
    pub entries: u64,
    /// Bytes of their values (of scans: and keys).
    pub bytes: u64,
}

impl Found {
    /// Nothing was there.
    pub const NOTHING: Found = Found { entries: 0, bytes: 0 };

    /// One entry was there.
    #[must_use]
    pub fn one(bytes: usize) -> Found {
        Found { entries: 1, bytes: bytes as u64 }
    }

    /// Counts an entry.
    pub fn add(&mut self, bytes: usize) {
        self.entries += 1;
        self.bytes += bytes as u64;
    }
}

/// A number that a target knows about itself. Numbers that only grow are shown as what a run added to them.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Counter {
    /// What it counts, its unit last: `compaction_write_bytes`.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// Whether it only grows.
    pub grows: bool,
}

impl Counter {
    /// A number that only grows: of a run, the difference is shown.
    #[must_use]
    pub fn total(name: &str, value: u64) -> Counter {
        Counter { name: name.to_owned(), value: value as f64, grows: true }
    }

    /// A number that goes up and down: of a run, its last value is shown.
    #[must_use]
    pub fn level(name: &str, value: f64) -> Counter {
        Counter { name: name.to_owned(), value, grows: false }
    }
}

/// A store that is open, in this process or as a server. All methods may be called from any thread.
///
/// Counters that have a meaning in every report, where a target can tell: `log_write_bytes`, `flush_write_bytes`,
/// `compaction_write_bytes` (write amplification by cause), `cache_hits`, `cache_misses`, `stalls`, `stall_ms`
/// (writers that were stopped), `slowed`, `slowed_ms` (writers that were let go on a little later).
pub trait Target: Send + std::marker::Sync {
    /// Its name and version in reports, such as `rocksdb 7.8.3`.
    fn name(&self) -> String;

    /// Every setting that matters, as it runs: printed, and kept with the result.
    fn configuration(&self) -> Vec<(String, String)>;

    /// What a thread of a run uses; called in that thread. `lane` is below the count of lanes.
    ///
    /// # Errors
    /// If there is none.
    fn driver(&self, plan: &Plan, lane: usize) -> Result<Box<dyn Driver + '_>>;

    /// Says before a run when writes have to be answered.
    ///
    /// # Errors
    /// If it can't do that: a run at another durability is not made.
    fn set_sync(&self, sync: Sync) -> Result<()>;

    /// Waits as [`Settle`] says. Counted as part of the run.
    ///
    /// # Errors
    /// What the target meets.
    fn settle(&self, settle: Settle) -> Result<()>;

    /// What it knows about itself.
    fn counters(&self) -> Vec<Counter>;

    /// Where its files are, if that is known: for its disk space.
    fn folder(&self) -> Option<PathBuf>;

    /// The process that does its work, if that is known: for CPU, memory and I/O. An embedded engine's is this one.
    fn process(&self) -> Option<u32>;

    /// Bytes that the user gave it for memory, if that is known: for comparing with what it took.
    fn memory_budget(&self) -> Option<u64> {
        None
    }

    /// Closes it cleanly.
    ///
    /// # Errors
    /// What it meets.
    fn close(self: Box<Self>) -> Result<()>;
}

/// Does the operations of one lane.
pub trait Driver {
    /// Takes operations from the lane, does them and tells the lane of each, until the lane has no more.
    ///
    /// # Errors
    /// What the target meets: the run is given up.
    fn drive(&mut self, lane: &mut Lane<'_>) -> Result<()>;
}

/// One thread's handle to an embedded engine: one operation at a time.
///
/// A read has to make the bytes available as the engine's own interface gives them to a user: copied or borrowed, but at
/// hand when the method returns. A write returns when [`Target::set_sync`]'s bound is reached.
pub trait Worker {
    /// Puts a value at a key.
    ///
    /// # Errors
    /// What the engine meets.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()>;

    /// Reads the value at a key.
    ///
    /// # Errors
    /// What the engine meets.
    fn get(&mut self, key: &[u8]) -> Result<Found>;

    /// Removes a key, whether or not it is there.
    ///
    /// # Errors
    /// What the engine meets.
    fn delete(&mut self, key: &[u8]) -> Result<()>;

    /// Puts all, or none.
    ///
    /// # Errors
    /// What the engine meets.
    fn batch(&mut self, pairs: PairList<'_>) -> Result<()>;

    /// From the first key not below `from`, up to so many entries, keys and values, ascending by their bytes. Called
    /// only if [`Plan::ordered`].
    ///
    /// # Errors
    /// What the engine meets.
    fn scan(&mut self, from: &[u8], entries: usize) -> Result<Found>;

    /// The next so many entries, from where the last call ended, with one iterator or cursor if the engine has such; from
    /// the least key on at the first call and after the greatest. Called only if [`Plan::ordered`].
    ///
    /// # Errors
    /// What the engine meets.
    fn walk(&mut self, entries: usize) -> Result<Found>;

    /// Reads the values at many keys, in one call if the engine has such.
    ///
    /// # Errors
    /// What the engine meets.
    fn multi_get(&mut self, keys: KeyList<'_>) -> Result<Found> {
        let mut all = Found::NOTHING;
        for key in keys.iter() {
            let found = self.get(key)?;
            all.entries += found.entries;
            all.bytes += found.bytes;
        }
        Ok(all)
    }

    /// Reads the value at a key, then puts another there.
    ///
    /// # Errors
    /// What the engine meets.
    fn read_modify_write(&mut self, key: &[u8], value: &[u8]) -> Result<Found> {
        let found = self.get(key)?;
        self.put(key, value)?;
        Ok(found)
    }
}

impl<W: Worker> Driver for W {
    fn drive(&mut self, lane: &mut Lane<'_>) -> Result<()> {
        lane.drive(self)
    }
}
