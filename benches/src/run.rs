//! One run of one workload on one target: threads, a line a second, counters before and after.
//!
//! What is measured: from the moment that all lanes are ready until the last operation's end (`seconds`), and from there
//! until the target is settled (`settle_seconds`). CPU, bytes and the target's own counters cover both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use haypile_engine::clock::{Clock, SystemClock};

use crate::board::{Board, SECOND_NS, Sums};
use crate::error::{Error, Result};
use crate::lane::{self, Lane, Moment};
use crate::load::generator::{Generator, Load};
use crate::load::operation::Kind;
use crate::load::workload::{Needs, Workload};
use crate::plan::Plan;
use crate::process::{self, Process, Sample};
use crate::record::{FORMAT, Latency, OfKind, Outside, PerSecond, Run};
use crate::target::{Counter, Driver, Target};
use crate::targets::null::NullWorker;

/// Operations that the harness' own cost is measured with, each time.
const CALIBRATION_OPERATIONS: u64 = 10_000;
/// How often it is measured.
const CALIBRATION_ROUNDS: usize = 5;
/// A lane notes within this time that a second is over, if it does anything: then it is reported.
const REPORT_NS: u64 = SECOND_NS / 50;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Order {
    /// The workload.
    pub workload: &'static Workload,
    /// Its settings.
    pub plan: Plan,
    /// All workloads on the same data.
    pub chain: Vec<String>,
    /// Which repetition, from 1.
    pub repeat: u32,
    /// How many keys there are: the plan's, and those that earlier runs inserted.
    pub inserted: u64,
}

/// One second that has passed, for whoever watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tick {
    /// Which, from 1.
    pub second: u64,
    /// Operations in it.
    pub operations: u64,
    /// How much of the run's operations is done, if it has a number of them.
    pub done: Option<f64>,
    /// The target's process now, and a second ago.
    pub process: Option<(Sample, Sample)>,
    /// Median, 99th percentile and greatest latency of the last second that all lanes have reported, in nanoseconds.
    pub latency_ns: Option<(u64, u64, u64)>,
}

/// Whoever watches a run.
pub trait Watcher {
    /// A second has passed.
    fn tick(&mut self, tick: &Tick);
    /// The operations are done; the target settles.
    fn settling(&mut self);
}

/// Nobody watches.
#[derive(Clone, Copy, Debug)]
pub struct Unwatched;

impl Watcher for Unwatched {
    fn tick(&mut self, _: &Tick) {}
    fn settling(&mut self) {}
}

/// Runs a workload; gives what it measured, and how many keys there are now.
///
/// # Errors
/// If the target can't do the workload, or fails.
pub fn run(target: &dyn Target, order: &Order, watcher: &mut dyn Watcher) -> Result<(Run, u64)> {
    let (plan, workload) = (&order.plan, order.workload);
    let clock = SystemClock::new();
    let started_ms = clock.wall().0;
    let harness_ns = calibrate(order, &clock)?;
    let load = Load::new(plan, workload, order.inserted)?;
    target.set_sync(plan.sync)?;
    let lanes = Lanes::new(&load, &clock, plan.threads + usize::from(workload.writer_beside));
    let outcome = lanes.run(target, watcher)?;

    let sums = &*lanes.board.sums();
    let seconds = (sums.end.since(outcome.start) as f64 / SECOND_NS as f64).max(1e-9);
    let operations = sums.all_operations();
    let beside = workload.writer_beside.then(|| {
        let beside = lanes.beside.sums();
        let (operations, latency) = (beside.all_operations(), Latency::of(&beside.all_latencies()));
        OfKind { kind: Kind::Write, operations, latency }
    });
    let result = Run {
        format: FORMAT,
        started_ms,
        machine: process::machine().into_iter().collect(),
        target: target.name(),
        configuration: target.configuration().into_iter().collect(),
        workload: workload.name.to_owned(),
        label: None,
        chain: order.chain.clone(),
        repeat: order.repeat,
        plan: plan.clone(),
        operations,
        seconds,
        settle_seconds: outcome.settled.since(sums.end) as f64 / SECOND_NS as f64,
        operations_per_second: operations as f64 / seconds,
        harness_ns,
        found_entries: sums.found.entries,
        found_bytes: sums.found.bytes,
        written_bytes: sums.written_bytes + lanes.beside.sums().written_bytes,
        errors: sums.errors,
        first_error: sums.first_error.clone(),
        latency: Latency::of(&sums.all_latencies()),
        kinds: kinds(sums),
        beside,
        series: series(sums, &outcome.samples),
        outside: outside(&outcome.samples, outcome.after),
        disk_start_bytes: outcome.disk_start_bytes,
        disk_end_bytes: target.folder().and_then(|dir| process::disk_bytes(&dir)),
        memory_budget_bytes: target.memory_budget(),
        counters: counters(&outcome.counters_before, &target.counters()),
    };
    Ok((result, load.inserted()))
}

/// Says why a target can't do a workload, before anything is opened.
///
/// # Errors
/// [`Error::Unsupported`].
pub fn check(target: &str, speaks_redis: bool, workload: &Workload) -> Result<()> {
    let why = match workload.needs {
        Needs::Redis if !speaks_redis => "it is for servers that speak the Redis protocol: resp HOST:PORT",
        Needs::Order if speaks_redis => "Redis' keys have no order to walk in",
        _ => return Ok(()),
    };
    Err(Error::Unsupported { target: target.to_owned(), workload: workload.name, why })
}

/// Nanoseconds that making and timing an operation costs by itself.
fn calibrate(order: &Order, clock: &SystemClock) -> Result<f64> {
    if order.workload.needs == Needs::Redis {
        return Ok(0.0);
    }
    let load = Load::new(&order.plan, order.workload, order.inserted)?;
    let mut least = f64::INFINITY;
    // The least of a few is what it costs when nobody else wants the processor.
    for round in 0..CALIBRATION_ROUNDS {
        let (board, live, stop) = (Board::default(), AtomicU64::new(0), AtomicBool::new(false));
        let generator = Generator::new(&load, round, CALIBRATION_ROUNDS);
        let mut lane = Lane::new(generator, clock, &board, &live, &stop);
        let start = lane.now();
        lane.measure(CALIBRATION_OPERATIONS, start, start, Moment(u64::MAX), None);
        lane.drive(&mut NullWorker)?;
        lane.finish();
        let sums = board.sums();
        least = least.min(sums.end.since(start) as f64 / sums.all_operations().max(1) as f64);
    }
    Ok(least)
}

struct Lanes<'a> {
    load: &'a Arc<Load>,
    clock: &'a SystemClock,
    board: Board,
    /// Of the writer beside.
    beside: Board,
    live: Vec<AtomicU64>,
    /// The measured lanes are through, or something failed.
    stop: AtomicBool,
    /// Set by the main thread between two barriers.
    start_ns: AtomicU64,
    barrier: Barrier,
}

struct Outcome {
    start: Moment,
    settled: Moment,
    /// At the start and after each second, with the moment.
    samples: Vec<(Moment, Sample)>,
    after: Option<Sample>,
    counters_before: Vec<Counter>,
    disk_start_bytes: Option<u64>,
}

impl<'a> Lanes<'a> {
    fn new(load: &'a Arc<Load>, clock: &'a SystemClock, count: usize) -> Lanes<'a> {
        Lanes {
            load,
            clock,
            board: Board::default(),
            beside: Board::default(),
            live: (0..count).map(|_| AtomicU64::new(0)).collect(),
            stop: AtomicBool::new(false),
            start_ns: AtomicU64::new(0),
            barrier: Barrier::new(count + 1),
        }
    }

    fn run(&self, target: &dyn Target, watcher: &mut dyn Watcher) -> Result<Outcome> {
        let measured = self.load.plan().threads;
        let process = target.process().map(Process::new);
        let sample = || process.as_ref().and_then(Process::sample);
        std::thread::scope(|scope| {
            let (sender, finished) = mpsc::channel();
            for number in 0..self.live.len() {
                let sender = sender.clone();
                scope.spawn(move || {
                    let result = self.lane(target, number);
                    if result.is_err() {
                        self.stop.store(true, Ordering::Relaxed);
                    }
                    // Who listens is gone only if it panicked.
                    let _ = sender.send((number, result));
                });
            }
            drop(sender);
            self.barrier.wait();
            let counters_before = target.counters();
            let disk_start_bytes = target.folder().and_then(|dir| process::disk_bytes(&dir));
            let mut samples: Vec<(Moment, Sample)> = Vec::new();
            let start = lane::now(self.clock);
            samples.extend(sample().map(|sample| (start, sample)));
            self.start_ns.store(start.0, Ordering::Relaxed);
            self.barrier.wait();

            let mut failed = None;
            let mut left = measured;
            let mut second = 1;
            let mut shown = 0;
            loop {
                let due = start.plus(second * SECOND_NS);
                let wait = Duration::from_nanos(due.plus(REPORT_NS).since(lane::now(self.clock)));
                match finished.recv_timeout(wait) {
                    Ok((number, result)) => {
                        failed = failed.or(result.err());
                        left -= usize::from(number < measured);
                        if left == 0 {
                            self.stop.store(true, Ordering::Relaxed);
                        }
                    }
                    Err(mpsc::RecvTimeoutError::Timeout) => {
                        let now = sample();
                        let before = samples.last().map(|(_, sample)| *sample);
                        samples.extend(now.map(|sample| (due, sample)));
                        let all: u64 =
                            self.live[..measured].iter().map(|done| done.load(Ordering::Relaxed)).sum();
                        watcher.tick(&Tick {
                            second,
                            operations: all.saturating_sub(shown),
                            done: self.load.plan().operations.map(|count| all as f64 / count.max(1) as f64),
                            process: now.zip(before),
                            latency_ns: self.latency_of(second - 1),
                        });
                        shown = all;
                        second += 1;
                    }
                    Err(mpsc::RecvTimeoutError::Disconnected) => break,
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
            watcher.settling();
            target.settle(self.load.plan().settle)?;
            let settled = lane::now(self.clock);
            Ok(Outcome { start, settled, samples, after: sample(), counters_before, disk_start_bytes })
        })
    }

    /// The latencies of a second, counted from 0.
    fn latency_of(&self, second: u64) -> Option<(u64, u64, u64)> {
        let sums = self.board.sums();
        let latency = &sums.seconds.get(&second)?.latency;
        let at = |percentile| latency.value_at_percentile(percentile);
        Some((at(50.0), at(99.0), latency.max()))
    }

    /// What one thread does. It passes both barriers whatever happens, else all others would wait for ever.
    fn lane(&self, target: &dyn Target, number: usize) -> Result<()> {
        // Sleeping until an operation is due shall not be off by the kernel's default of 50 microseconds.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        let plan = self.load.plan();
        let writer = number >= plan.threads;
        let generator = match writer {
            false => Generator::new(self.load, number, plan.threads),
            true => Generator::writer(self.load, number),
        };
        let board = if writer { &self.beside } else { &self.board };
        let mut lane = Lane::new(generator, self.clock, board, &self.live[number], &self.stop);
        let rate = plan.rate.filter(|_| !writer).map(|rate| rate / plan.threads as f64);
        let prepared = self.prepare(target, number, &mut lane, rate);
        self.barrier.wait();
        self.barrier.wait();
        let start = Moment(self.start_ns.load(Ordering::Relaxed));
        let mut driver = prepared?;
        let deadline = match plan.seconds {
            Some(seconds) if !writer => start.plus(nanoseconds(seconds)),
            _ => Moment(u64::MAX),
        };
        let operations = if writer { u64::MAX } else { lane::share(plan, number) };
        // The lanes of an open loop take turns.
        let begin = match rate {
            Some(rate) => start.plus(nanoseconds(number as f64 / (rate * plan.threads as f64))),
            None => start,
        };
        lane.measure(operations, start, begin, deadline, rate);
        let driven = driver.drive(&mut lane);
        lane.finish();
        driven
    }

    fn prepare<'t>(
        &self,
        target: &'t dyn Target,
        number: usize,
        lane: &mut Lane<'_>,
        rate: Option<f64>,
    ) -> Result<Box<dyn Driver + 't>> {
        let plan = self.load.plan();
        let mut driver = target.driver(plan, number)?;
        if plan.warm_up_seconds > 0.0 {
            lane.warm_up(lane.now().plus(nanoseconds(plan.warm_up_seconds)), rate);
            driver.drive(lane)?;
        }
        Ok(driver)
    }
}

fn nanoseconds(seconds: f64) -> u64 {
    crate::load::floor(seconds * SECOND_NS as f64)
}

fn kinds(sums: &Sums) -> Vec<OfKind> {
    let of = |kind: Kind| {
        let latency = Latency::of(sums.latency[kind as usize].as_ref()?);
        Some(OfKind { kind, operations: sums.operations[kind as usize], latency })
    };
    Kind::ALL.into_iter().filter_map(of).collect()
}

/// Second by second, those without any operation too.
fn series(sums: &Sums, samples: &[(Moment, Sample)]) -> Vec<PerSecond> {
    let seconds = sums.seconds.keys().last().map_or(0, |last| last + 1);
    let of = |second: u64| {
        let mut out = PerSecond::default();
        if let Some(done) = sums.seconds.get(&second) {
            out.operations = done.operations;
            out.p50_ns = done.latency.value_at_percentile(50.0);
            out.p99_ns = done.latency.value_at_percentile(99.0);
            out.max_ns = done.latency.max();
        }
        let index = usize::try_from(second).unwrap_or(usize::MAX);
        if let Some([(_, before), (_, after)]) = samples.get(index..index.saturating_add(2)) {
            out.cpu_seconds = Some(after.cpu_seconds() - before.cpu_seconds());
            out.read_bytes = Some(after.read_bytes.saturating_sub(before.read_bytes));
            out.write_bytes = Some(after.write_bytes.saturating_sub(before.write_bytes));
            out.rss_bytes = Some(after.rss_bytes);
        }
        out
    };
    (0..seconds).map(of).collect()
}

fn outside(samples: &[(Moment, Sample)], after: Option<Sample>) -> Option<Outside> {
    let ((_, before), after) = samples.first().zip(after)?;
    let peak = samples.iter().map(|(_, sample)| sample.rss_bytes).chain([after.rss_bytes]).max();
    // The kernel's own peak, where it grew during the run, sees what lies between two samples.
    let grown = (after.rss_peak_bytes > before.rss_peak_bytes).then_some(after.rss_peak_bytes);
    Some(Outside {
        user_seconds: after.user_seconds - before.user_seconds,
        system_seconds: after.system_seconds - before.system_seconds,
        read_bytes: after.read_bytes.saturating_sub(before.read_bytes),
        write_bytes: after.write_bytes.saturating_sub(before.write_bytes),
        read_call_bytes: after.read_call_bytes.saturating_sub(before.read_call_bytes),
        write_call_bytes: after.write_call_bytes.saturating_sub(before.write_call_bytes),
        rss_start_bytes: before.rss_bytes,
        rss_peak_bytes: peak.max(grown).unwrap_or_default(),
        rss_end_bytes: after.rss_bytes,
    })
}

fn counters(before: &[Counter], after: &[Counter]) -> BTreeMap<String, f64> {
    let value = |counter: &Counter| {
        let earlier = before.iter().find(|earlier| earlier.name == counter.name && counter.grows);
        counter.value - earlier.map_or(0.0, |earlier| earlier.value)
    };
    after.iter().map(|counter| (counter.name.clone(), value(counter))).collect()
}
