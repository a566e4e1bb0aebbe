//! What an engine has done since it was opened, and what it holds. Any thread may count and look; nothing is ordered by
//! these numbers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::compact::Reason;
use crate::engine::Engine;
use crate::pace::Crowd;
use crate::sst::RunMeta;
use crate::types::Slot;

/// See the file's head.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stats {
    /// Bytes that were appended to the log. This alone counts from the store's making.
    pub log_write_bytes: u64,
    /// Bytes of runs that flushes wrote.
    pub flush_write_bytes: u64,
    /// Bytes of runs that compactions wrote.
    pub compaction_write_bytes: u64,
    /// The same by why they were done, in the order of [`REASONS`].
    pub compaction_write_bytes_by_reason: [u64; REASONS.len()],
    /// Bytes of the records that were written: what users' writes are before anything is written twice.
    pub record_bytes: u64,
    /// Bytes of frames that were written to the log, their records included.
    pub frame_bytes: u64,
    /// How often a block was in the cache.
    pub cache_hits: u64,
    /// How often a block was not there.
    pub cache_misses: u64,
    /// Waits of writers for a flush, since memory was full.
    pub stalls: u64,
    /// How long all writers together waited for it.
    pub stalled: Duration,
    /// The longest of these waits.
    pub stalled_worst: Duration,
    /// Waits of writers that were slowed, since memory was short.
    pub slowed: u64,
    /// How long all writers together waited so.
    pub slowed_for: Duration,
    /// The longest of these waits.
    pub slowed_worst: Duration,
    /// Flushes that waited since compaction was far behind, and slowed writers by that.
    pub held: u64,
    /// How long they waited.
    pub held_for: Duration,
    /// Bytes of memtables a second that flushes have been freeing of late: what writers are slowed to.
    pub flush_rate: u64,
    /// How often one write of the log took longer than [`SLOW_LOG_WRITE`].
    pub slow_log_writes: u64,
    /// The longest write of the log among them.
    pub slow_log_write_worst: Duration,
    /// How often a write had to make the log's next segment itself, since none was ready.
    pub segments_waited_for: u64,
    /// Bytes of memory that the engine may take, all in all.
    pub memory_max: usize,
    /// Bytes that memtables take.
    pub memtable_bytes: usize,
    /// Bytes that cached blocks take.
    pub cache_bytes: u64,
    /// Bytes that indexes and filters of open runs and indexes of log segments take.
    pub pinned_bytes: usize,
    /// Bytes that the log's last frames take.
    pub log_tail_bytes: usize,
    /// Bytes of log on disk, room ahead not counted.
    pub log_bytes: u64,
    /// Bytes of runs on disk that are in use.
    pub run_bytes: u64,
    /// How many runs there are.
    pub runs: usize,
    /// How many pack files they lie in.
    pub files: usize,
    /// How many of these are open.
    pub open_files: usize,
    /// How many files of the log's full segments are open.
    pub log_open_files: usize,
}

/// Why compactions are done.
pub const REASONS: [Reason; 6] = [
    Reason::TooManyRuns,
    Reason::Bottom,
    Reason::Tombstones,
    Reason::Tier,
    Reason::Evacuation,
    Reason::Asked,
];

/// A write of the log that takes longer is counted as slow.
pub const SLOW_LOG_WRITE: Duration = Duration::from_millis(20);

/// The name of a reason, in words.
#[must_use]
pub const fn reason_name(reason: Reason) -> &'static str {
    match reason {
        Reason::TooManyRuns => "too_many_runs",
        Reason::Bottom => "bottom",
        Reason::Tombstones => "tombstones",
        Reason::Tier => "tier",
        Reason::Evacuation => "evacuation",
        Reason::Asked => "asked",
    }
}

impl Stats {
    /// How many bytes were written for each byte of the records: log, flushes and compactions. 0 before any write.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // a ratio to look at
    pub fn write_amplification(&self) -> f64 {
        let written = self.frame_bytes + self.flush_write_bytes + self.compaction_write_bytes;
        if self.record_bytes == 0 { 0.0 } else { written as f64 / self.record_bytes as f64 }
    }
}

/// Waits of one kind.
#[derive(Default, Debug)]
struct Waits {
    count: AtomicU64,
    sum_ns: AtomicU64,
    worst_ns: AtomicU64,
}

impl Waits {
    fn add(&self, waited: Duration) {
        let waited = nanoseconds(waited);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(waited, Ordering::Relaxed);
        self.worst_ns.fetch_max(waited, Ordering::Relaxed);
    }
}

/// The counters behind [`Stats`] that are kept nowhere else.
#[derive(Default, Debug)]
pub(crate) struct Work {
    flush_write_bytes: AtomicU64,
    compaction_write_bytes: [AtomicU64; REASONS.len()],
    stalled: Waits,
    slowed: Waits,
    held: Waits,
    slow_log_writes: AtomicU64,
    slow_log_write_worst_ns: AtomicU64,
}

impl Work {
    /// A flush wrote these runs.
    pub fn flushed<'a>(&self, runs: impl Iterator<Item = &'a RunMeta>) {
        self.flush_write_bytes.fetch_add(runs.map(|run| run.len).sum(), Ordering::Relaxed);
    }

    /// A compaction wrote this run.
    pub fn compacted(&self, reason: Reason, run: &RunMeta) {
        if let Some(number) = REASONS.iter().position(|other| *other == reason) {
            self.compaction_write_bytes[number].fetch_add(run.len, Ordering::Relaxed);
        }
    }

    /// A write of the log took so long.
    pub fn wrote_log(&self, took: Duration) {
        if took >= SLOW_LOG_WRITE {
            self.slow_log_writes.fetch_add(1, Ordering::Relaxed);
            self.slow_log_write_worst_ns.fetch_max(nanoseconds(took), Ordering::Relaxed);
        }
    }

    /// A flush waited so long for compaction, if it did.
    pub fn held_for_compaction(&self, waited: Duration) {
        if !waited.is_zero() {
            self.held.add(waited);
        }
    }

    /// A writer had to wait for memory so long, and this was the worst of it.
    pub fn waited(&self, crowd: Crowd, waited: Duration) {
        match crowd {
            Crowd::Full => self.stalled.add(waited),
            Crowd::Slowed => self.slowed.add(waited),
        }
    }
}

fn nanoseconds(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

impl Engine {
    /// What it has done since it was opened, and what it holds. Looks at every slot: not for every command.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (work, log) = (self.work(), self.log());
        let by_reason = work.compaction_write_bytes.each_ref().map(count);
        let usage = self.packs().usage();
        let nanoseconds = |counter: &AtomicU64| Duration::from_nanos(count(counter));
        Stats {
            log_write_bytes: self.log_end().0,
            flush_write_bytes: count(&work.flush_write_bytes),
            compaction_write_bytes: by_reason.iter().sum(),
            compaction_write_bytes_by_reason: by_reason,
            record_bytes: log.record_bytes(),
            frame_bytes: log.frame_bytes(),
            cache_hits: self.cache().hits(),
            cache_misses: self.cache().misses(),
            stalls: count(&work.stalled.count),
            stalled: nanoseconds(&work.stalled.sum_ns),
            stalled_worst: nanoseconds(&work.stalled.worst_ns),
            slowed: count(&work.slowed.count),
            slowed_for: nanoseconds(&work.slowed.sum_ns),
            slowed_worst: nanoseconds(&work.slowed.worst_ns),
            held: count(&work.held.count),
            held_for: nanoseconds(&work.held.sum_ns),
            flush_rate: self.flush_rate(),
            slow_log_writes: count(&work.slow_log_writes),
            slow_log_write_worst: nanoseconds(&work.slow_log_write_worst_ns),
            segments_waited_for: log.segments_waited_for(),
            memory_max: self.options().memory_bytes,
            memtable_bytes: self.memtable_bytes(),
            cache_bytes: self.cache().bytes(),
            pinned_bytes: self.packs().pinned_bytes() + log.index_bytes(),
            log_tail_bytes: log.tail_bytes(),
            log_bytes: log.segments().iter().map(|segment| segment.end.0 - segment.base.0).sum(),
            run_bytes: usage.iter().map(|file| file.live_bytes).sum(),
            runs: Slot::all().map(|slot| self.lock(slot).version.runs().len()).sum(),
            files: usage.len(),
            open_files: self.packs().open_files(),
            log_open_files: log.open_files(),
        }
    }
}
