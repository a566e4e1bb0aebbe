//! Where lanes put what they measured: histograms a kind, and of each second.
//!
//! A lane records into histograms of its own and reports them once a second, so that nothing is shared on the way of an
//! operation. The board adds up under one lock.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use hdrhistogram::Histogram;

use crate::lane::Moment;
use crate::load::operation::Kind;
use crate::target::Found;

/// Nanoseconds; what takes longer counts as this.
const LATENCY_MAX_NS: u64 = 1_000_000_000_000;

/// Nanoseconds of a second.
pub const SECOND_NS: u64 = 1_000_000_000;

/// Latencies with three digits: off by less than a thousandth.
fn exact() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("these bounds are legal")
}

/// Latencies with two digits: there is one for each second.
fn coarse() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, 2).expect("these bounds are legal")
}

/// What was done within one second.
#[derive(Clone, Debug)]
pub struct Second {
    /// Operations that ended in it.
    pub operations: u64,
    /// Their latencies in nanoseconds.
    pub latency: Histogram<u64>,
}

impl Default for Second {
    fn default() -> Second {
        Second { operations: 0, latency: coarse() }
    }
}

/// What is on a board.
#[derive(Debug, Default)]
pub struct Sums {
    /// Operations of each kind, by [`Kind::ALL`].
    pub operations: [u64; Kind::ALL.len()],
    /// Their latencies in nanoseconds, those that there are.
    pub latency: [Option<Histogram<u64>>; Kind::ALL.len()],
    /// Seconds since the start.
    pub seconds: BTreeMap<u64, Second>,
    /// What reads found.
    pub found: Found,
    /// Bytes of keys and values that were put.
    pub written_bytes: u64,
    /// Operations that were answered with an error.
    pub errors: u64,
    /// The first of these errors.
    pub first_error: Option<String>,
    /// When the last operation ended.
    pub end: Moment,
}

impl Sums {
    /// All latencies in one histogram.
    #[must_use]
    pub fn all_latencies(&self) -> Histogram<u64> {
        let mut all = exact();
        for histogram in self.latency.iter().flatten() {
            all.add(histogram).expect("the bounds are the same");
        }
        all
    }

    /// Operations of all kinds.
    #[must_use]
    pub fn all_operations(&self) -> u64 {
        self.operations.iter().sum()
    }
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Board(Mutex<Sums>);

impl Board {
    /// What was reported by now.
    ///
    /// # Panics
    /// If a lane panicked while it reported.
    pub fn sums(&self) -> MutexGuard<'_, Sums> {
        self.0.lock().expect("no lane panics while it reports")
    }
}

/// A lane's own histograms.
pub struct Recorder<'a> {
    board: &'a Board,
    muted: bool,
    /// By [`Kind::ALL`], made when they are first needed.
    latency: [Option<Histogram<u64>>; Kind::ALL.len()],
    operations: [u64; Kind::ALL.len()],
    found: Found,
    start: Moment,
    /// When the second ends that is recorded.
    second_end: Moment,
    end: Moment,
    reported: bool,
}

impl<'a> Recorder<'a> {
    /// A recorder that is muted.
    #[must_use]
    pub fn new(board: &'a Board) -> Recorder<'a> {
        Recorder {
            board,
            muted: true,
            latency: Default::default(),
            operations: Default::default(),
            found: Found::NOTHING,
            start: Moment(0),
            second_end: Moment(u64::MAX),
            end: Moment(0),
            reported: false,
        }
    }

    /// From now on nothing counts.
    pub fn mute(&mut self) {
        self.muted = true;
    }

    /// From now on everything counts; seconds begin at `start`.
    pub fn begin(&mut self, start: Moment) {
        self.muted = false;
        self.start = start;
        self.end = start;
        self.second_end = start.plus(SECOND_NS);
    }

    /// Counts an operation.
    #[inline]
    pub fn record(&mut self, kind: Kind, count: u64, latency_ns: u64, end: Moment, found: Found) {
        if self.muted {
            return;
        }
        if end >= self.second_end {
            self.report();
            self.second_end = self.start.plus((end.since(self.start) / SECOND_NS + 1) * SECOND_NS);
        }
        let kind = kind as usize;
        self.latency[kind].get_or_insert_with(exact).saturating_record(latency_ns.max(1));
        self.operations[kind] += count;
        self.found.entries += found.entries;
        self.found.bytes += found.bytes;
        self.end = end;
    }

    /// Counts an operation that was answered with an error.
    pub fn failed(&mut self, why: &str) {
        let mut sums = self.board.sums();
        sums.errors += 1;
        sums.first_error.get_or_insert_with(|| why.to_owned());
    }

    /// Whether [`Recorder::record`] has reported since this was asked last.
    pub fn has_reported(&mut self) -> bool {
        std::mem::take(&mut self.reported)
    }

    /// Reports what was recorded.
    pub fn report(&mut self) {
        if self.muted {
            return;
        }
        self.reported = true;
        let mut sums = self.board.sums();
        let second = self.second_end.since(self.start) / SECOND_NS - 1;
        for (kind, mine) in self.latency.iter_mut().enumerate() {
            let Some(mine) = mine.as_mut().filter(|mine| !mine.is_empty()) else { continue };
            let operations = std::mem::take(&mut self.operations[kind]);
            sums.operations[kind] += operations;
            sums.latency[kind].get_or_insert_with(exact).add(&*mine).expect("the bounds are the same");
            let of_second = sums.seconds.entry(second).or_default();
            of_second.operations += operations;
            of_second.latency.add(&*mine).expect("the bounds are the same");
            mine.reset();
        }
        sums.found.entries += self.found.entries;
        sums.found.bytes += self.found.bytes;
        self.found = Found::NOTHING;
        sums.end = sums.end.max(self.end);
    }

    /// Reports the rest, and what was put.
    pub fn finish(&mut self, written_bytes: u64) {
        if !self.muted {
            self.report();
            self.board.sums().written_bytes += written_bytes;
        }
    }
}
