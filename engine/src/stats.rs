//! What an engine has done since it was opened, in numbers that only grow. Any thread may count and look; nothing is ordered
//! by them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::engine::Engine;
use crate::sst::RunMeta;

/// See the file's head.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stats {
    /// Bytes that were appended to the log. This alone counts from the store's making.
    pub log_write_bytes: u64,
    /// Bytes of runs that flushes wrote.
    pub flush_write_bytes: u64,
    /// Bytes of runs that compactions wrote.
    pub compaction_write_bytes: u64,
    /// How often a block was in the cache.
    pub cache_hits: u64,
    /// How often a block was not there.
    pub cache_misses: u64,
    /// How often a writer had to wait for memory.
    pub stalls: u64,
    /// How long all writers together waited for it.
    pub stalled: Duration,
}

/// The counters behind [`Stats`] that are kept nowhere else.
#[derive(Default, Debug)]
pub(crate) struct Work {
    flush_write_bytes: AtomicU64,
    compaction_write_bytes: AtomicU64,
    stalls: AtomicU64,
    stalled_ns: AtomicU64,
}

impl Work {
    /// A flush wrote these runs.
    pub fn flushed(&self, runs: &[RunMeta]) {
        self.flush_write_bytes.fetch_add(bytes(runs), Ordering::Relaxed);
    }

    /// A compaction wrote these runs.
    pub fn compacted(&self, runs: &[RunMeta]) {
        self.compaction_write_bytes.fetch_add(bytes(runs), Ordering::Relaxed);
    }

    /// A writer had to wait for memory so long.
    pub fn stalled(&self, waited: Duration) {
        let waited = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        self.stalls.fetch_add(1, Ordering::Relaxed);
        self.stalled_ns.fetch_add(waited, Ordering::Relaxed);
    }
}

fn bytes(runs: &[RunMeta]) -> u64 {
    runs.iter().map(|run| run.len).sum()
}

impl Engine {
    /// What it has done since it was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let work = self.work();
        Stats {
            log_write_bytes: self.log_end().0,
            flush_write_bytes: count(&work.flush_write_bytes),
            compaction_write_bytes: count(&work.compaction_write_bytes),
            cache_hits: self.cache().hits(),
            cache_misses: self.cache().misses(),
            stalls: count(&work.stalls),
            stalled: Duration::from_nanos(count(&work.stalled_ns)),
        }
    }
}
