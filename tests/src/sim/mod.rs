//! A cluster in one thread: real engines on simulated disks, the real machines and drivers of replication, queues
//! instead of sockets, one seed for everything that happens.
//!
//! Nodes are killed, lose power, stop and start; connections are cut with what is under way; slots are followed,
//! handed over, removed, added, forked by force; clients write to whoever owns a slot. Checked all the while: no
//! two nodes own a slot (unless an operator forked it), no two take writes in one epoch, and what a node holds of a
//! slot is what was written up to its last record. When the faults end, everything converges within a bounded
//! time, and no acknowledged write is missing unless an operator gave it up.

pub mod linear;
pub mod model;
pub mod net;
pub mod node;
pub mod operator;
mod power;
pub mod world;

mod check;
mod clients;
mod faults;
mod settle;
mod tails;
mod traffic;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use haypile_engine::error::Error;
use node::Arena;
use world::World;

/// How an error of a disk begins: it is no wrong where a disk was told to fail.
const DISK: &str = "the disk: ";

/// What an engine says, so that its disk's errors can be told from others.
fn told(error: &Error) -> String {
    match error {
        Error::Io { .. } | Error::ReadOnly(_) | Error::Poisoned(_) => format!("{DISK}{error}"),
        other => other.to_string(),
    }
}

/// How large a cluster is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Size {
    /// Two to six nodes, one to four slots, a character of its own.
    #[default]
    Any,
    /// Two nodes and two slots.
    Small,
}

/// Steps of a small run: about fifty of them are clients' writes.
pub const SMALL_STEPS: usize = 400;

/// What a run is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setup {
    /// Decides everything.
    pub seed: u64,
    /// How large the cluster is.
    pub size: Size,
    /// Steps before the faults end.
    pub steps: usize,
    /// Whether to print the trace of every step: to look at a seed that fails.
    pub verbose: bool,
}

/// What came of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// A hash of everything that happened.
    pub trace: u64,
    /// Writes that were acknowledged.
    pub acknowledged: usize,
    /// Handovers that were finished.
    pub handovers: usize,
    /// Copies that were begun.
    pub copies: usize,
    /// Starts of nodes.
    pub starts: u64,
    /// Records that masters took back from replicas.
    pub taken_back: u64,
}

/// Runs a cluster.
///
/// # Errors
/// What was found wrong, and when.
pub fn run(setup: Setup) -> Result<Outcome, String> {
    run_without(setup, BTreeSet::new())
}

/// Runs a cluster without some of its steps: each step's choices are its own, so that the others do what they did, as
/// far as they still can.
fn run_without(setup: Setup, skipped: BTreeSet<usize>) -> Result<Outcome, String> {
    let arena = Arena::default();
    let mut world = World::new(&arena, setup, skipped)?;
    world.run()?;
    Ok(world.outcome())
}

/// The shortest run that still fails, found by leaving steps out: half of them, a quarter, and so on. Prints its trace, a
/// line for each event, and gives back how many steps it has and what is wrong with it; `None` if the run does not fail.
/// At most `runs_max` runs.
#[must_use]
pub fn shrink(setup: Setup, runs_max: usize) -> Option<(usize, String)> {
    let quiet = Setup { verbose: false, ..setup };
    let mut wrong = attempt(quiet, &BTreeSet::new())?;
    let mut setup = quiet;
    if let Some(step) = failed_at(&wrong) {
        setup.steps = setup.steps.min(step + 1);
    }
    let mut skipped = BTreeSet::new();
    let (mut chunk, mut runs) = (setup.steps.div_ceil(2).max(1), 0);
    loop {
        let mut from = 0;
        while from < setup.steps && runs < runs_max {
            let more: Vec<usize> =
                (from..setup.steps.min(from + chunk)).filter(|step| !skipped.contains(step)).collect();
            from += chunk;
            if more.is_empty() {
                continue;
            }
            let mut fewer = skipped.clone();
            fewer.extend(more);
            runs += 1;
            if let Some(still) = attempt(setup, &fewer) {
                (skipped, wrong) = (fewer, still);
            }
        }
        if chunk == 1 || runs >= runs_max {
            break;
        }
        chunk = chunk.div_ceil(2);
    }
    let steps = setup.steps - skipped.len();
    // The trace of what is left; that it fails is known.
    let _ = attempt(Setup { verbose: true, ..setup }, &skipped);
    Some((steps, wrong))
}

/// What is wrong with a run, a panic included.
fn attempt(setup: Setup, skipped: &BTreeSet<usize>) -> Option<String> {
    let run = AssertUnwindSafe(|| run_without(setup, skipped.clone()));
    match catch_unwind(run) {
        Ok(outcome) => outcome.err(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            Some(text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned())
        }
    }
}

/// The step that a failure names at its beginning.
fn failed_at(wrong: &str) -> Option<usize> {
    wrong.strip_prefix("step ")?.split(':').next()?.parse().ok()
}
