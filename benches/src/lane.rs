//! One thread's share of a run: takes operations from its generator, says when each begins, and times it.
//!
//! *Closed loop*: an operation begins when the one before ends; making it is part of its time, some ten nanoseconds, which
//! the report states. *Open loop* (a rate): an operation has an intended start, and its latency counts from there, whether
//! or not the target could be asked by then: a stall of a second shows in all operations that were due meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use haypile_engine::clock::{Clock, SystemClock};

use crate::board::{Board, Recorder};
use crate::error::Result;
use crate::load::generator::Generator;
use crate::load::operation::{Kind, Operation};
use crate::plan::Plan;
use crate::target::{Found, Worker};

/// A moment, in nanoseconds of the run's clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Moment(pub u64);

impl Moment {
    /// So much later.
    #[must_use]
    pub fn plus(self, nanoseconds: u64) -> Moment {
        Moment(self.0.saturating_add(nanoseconds))
    }

    /// Nanoseconds since an earlier moment.
    #[must_use]
    pub fn since(self, earlier: Moment) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Reads the run's clock.
#[must_use]
pub fn now(clock: &SystemClock) -> Moment {
    let time = clock.monotonic();
    Moment(time.as_secs() * 1_000_000_000 + u64::from(time.subsec_nanos()))
}

/// What a lane has to do next.
#[derive(Debug)]
pub enum Turn<'l> {
    /// This, now; it began or should have begun at `start`.
    Do {
        /// What it counts as.
        kind: Kind,
        /// What to do.
        operation: Operation<'l>,
        /// Where its latency counts from.
        start: Moment,
    },
    /// Nothing before this moment.
    Wait(Moment),
    /// Nothing any more.
    End,
}

/// The rate of an open loop.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// When the next operation should begin.
    next: Moment,
    /// Nanoseconds from one to the next.
    step: f64,
    /// What of a nanosecond the steps so far lack.
    rest: f64,
}

impl Pace {
    fn advance(&mut self, operations: u64) {
        let step = self.step * operations as f64 + self.rest;
        let whole = crate::load::floor(step);
        self.rest = step - whole as f64;
        self.next = self.next.plus(whole);
    }
}

/// See the file's head.
pub struct Lane<'a> {
    generator: Generator,
    clock: &'a SystemClock,
    recorder: Recorder<'a>,
    /// How many operations were done: shown while the run goes on, nothing is ordered by it.
    live: &'a AtomicU64,
    done: u64,
    written_bytes: u64,
    left: u64,
    deadline: Moment,
    pace: Option<Pace>,
    stop: &'a AtomicBool,
}

impl<'a> Lane<'a> {
    /// A lane that does nothing yet.
    #[must_use]
    pub fn new(
        generator: Generator,
        clock: &'a SystemClock,
        board: &'a Board,
        live: &'a AtomicU64,
        stop: &'a AtomicBool,
    ) -> Lane<'a> {
        Lane {
            generator,
            clock,
            recorder: Recorder::new(board),
            live,
            done: 0,
            written_bytes: 0,
            left: 0,
            deadline: Moment(u64::MAX),
            pace: None,
            stop,
        }
    }

    /// From now on: so many operations, until a moment, with `rate` of them a second. What is done is not recorded.
    pub fn warm_up(&mut self, deadline: Moment, rate: Option<f64>) {
        self.recorder.mute();
        self.bounds(u64::MAX, self.now(), deadline, rate);
    }

    /// From now on: so many operations, until a moment, with `rate` of them a second from `begin` on, recorded; seconds
    /// are counted from `start`.
    pub fn measure(
        &mut self,
        operations: u64,
        start: Moment,
        begin: Moment,
        deadline: Moment,
        rate: Option<f64>,
    ) {
        self.recorder.begin(start);
        self.bounds(operations, begin, deadline, rate);
    }

    fn bounds(&mut self, operations: u64, start: Moment, deadline: Moment, rate: Option<f64>) {
        self.left = operations;
        self.deadline = deadline;
        self.done = 0;
        self.written_bytes = 0;
        self.live.store(0, Ordering::Relaxed);
        self.pace = rate.map(|rate| Pace { next: start, step: 1e9 / rate, rest: 0.0 });
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Moment {
        now(self.clock)
    }

    /// Whether it is an open loop.
    #[must_use]
    pub fn is_paced(&self) -> bool {
        self.pace.is_some()
    }

    /// What to do next, asked at `now`.
    pub fn turn(&mut self, now: Moment) -> Turn<'_> {
        if self.left == 0 || now >= self.deadline || self.stop.load(Ordering::Relaxed) {
            return Turn::End;
        }
        let start = match &self.pace {
            None => now,
            Some(pace) if pace.next > now => return Turn::Wait(pace.next.min(self.deadline)),
            Some(pace) => pace.next,
        };
        let Some((kind, operation)) = self.generator.make() else {
            self.left = 0;
            return Turn::End;
        };
        let count = operation.count();
        self.written_bytes += operation.written_bytes();
        self.left = self.left.saturating_sub(count);
        if let Some(pace) = &mut self.pace {
            pace.advance(count);
        }
        Turn::Do { kind, operation, start }
    }

    /// An operation that counts for so many was done at `end`.
    pub fn done(&mut self, kind: Kind, count: u64, start: Moment, end: Moment, found: Found) {
        self.recorder.record(kind, count, end.since(start), end, found);
        self.done += count;
        self.live.store(self.done, Ordering::Relaxed);
    }

    /// An operation was answered with an error: it is counted apart.
    pub fn failed(&mut self, why: &str) {
        self.recorder.failed(why);
    }

    /// How an embedded engine does them: one after the other.
    ///
    /// # Errors
    /// What the worker meets.
    pub fn drive<W: Worker + ?Sized>(&mut self, worker: &mut W) -> Result<()> {
        let mut now = self.now();
        loop {
            let (kind, count, start, found) = match self.turn(now) {
                Turn::End => return Ok(()),
                Turn::Wait(until) => {
                    std::thread::sleep(Duration::from_nanos(until.since(now)));
                    now = self.now();
                    continue;
                }
                Turn::Do { kind, operation, start } => {
                    (kind, operation.count(), start, perform(worker, &operation)?)
                }
            };
            now = self.now();
            self.done(kind, count, start, now, found);
            if self.recorder.has_reported() {
                // That took a while, which is not the next operation's.
                now = self.now();
            }
        }
    }

    /// Hands over what is recorded and not reported yet.
    pub fn finish(&mut self) {
        self.recorder.finish(self.written_bytes);
    }
}

/// A lane's part of a plan's operations.
#[must_use]
pub fn share(plan: &Plan, lane: usize) -> u64 {
    let Some(all) = plan.operations else { return u64::MAX };
    let (lanes, lane) = (plan.threads as u64, lane as u64);
    all / lanes + u64::from(lane < all % lanes)
}

#[inline]
fn perform<W: Worker + ?Sized>(worker: &mut W, operation: &Operation<'_>) -> Result<Found> {
    match *operation {
        Operation::Get(key) => worker.get(key),
        Operation::Put(key, value) => worker.put(key, value).map(|()| Found::NOTHING),
        Operation::Delete(key) => worker.delete(key).map(|()| Found::NOTHING),
        Operation::ReadModifyWrite(key, value) => worker.read_modify_write(key, value),
        Operation::Scan(from, entries) => worker.scan(from, entries),
        Operation::Walk(entries) => worker.walk(entries),
        Operation::MultiGet(keys) => worker.multi_get(keys),
        Operation::Batch(pairs) => worker.batch(pairs).map(|()| Found::NOTHING),
        Operation::PutExpiring(..)
        | Operation::Increment(_)
        | Operation::HashSet(..)
        | Operation::ListPush(..)
        | Operation::ListPop(_)
        | Operation::SortedSetAdd(..) => {
            unreachable!(
                "a workload that needs Redis' types is refused for embedded engines before it begins"
            )
        }
    }
}
