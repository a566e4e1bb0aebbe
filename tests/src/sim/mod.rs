//! A cluster in one thread: real engines on simulated disks, the real machines and drivers of replication, queues
//! instead of sockets, one seed for everything that happens.
//!
//! Nodes are killed, lose power, stop and start; connections are cut with what is under way; slots are followed,
//! handed over, removed, added, forked by force; clients write to whoever owns a slot. Checked all the while: no
//! two nodes own a slot (unless an operator forked it), no two take writes in one epoch, and what a node holds of a
//! slot is what was written up to its last record. When the faults end, everything converges within a bounded
//! time, and no acknowledged write is missing unless an operator gave it up.

pub mod model;
pub mod net;
pub mod node;
pub mod operator;
pub mod world;

use node::Arena;
use world::World;

/// What a run is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setup {
    /// Decides everything.
    pub seed: u64,
    /// Steps before the faults end.
    pub steps: usize,
    /// Whether to keep the trace of every step: to look at a seed that fails.
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
}

/// Runs a cluster.
///
/// # Errors
/// What was found wrong, and when.
pub fn run(setup: Setup) -> Result<Outcome, String> {
    let arena = Arena::default();
    let mut world = World::new(&arena, setup)?;
    let result = world.run();
    if setup.verbose || result.is_err() {
        world.print_trace();
    }
    result?;
    Ok(world.outcome())
}
