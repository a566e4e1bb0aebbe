//! Crash safety as a loop: an engine on a simulated disk, a seeded workload, a model of what was promised, and a stop
//! at every operation.
//!
//! ```text
//! workload   steps drawn from a seed (or a fuzzer's bytes)
//! setup      the options it runs under
//! node       an engine on a disk in memory; does the steps, tells the model, polls the replies
//! model      the states that each slot may be in after a kill, after a loss of power
//! inspect    what a recovered engine holds, and its files
//! checkpoint one place for checkpoints, and what may be in it
//! explore    the loops: cut every operation, fail every operation, cut recoveries
//! case       one run of them as a short text
//! shrink     fewer steps that still break a promise
//! ```
//! Everything follows from a seed; no thread, no real clock, no real disk. It is here and not in the tests because
//! `haypile torture --sim` runs it too. A broken promise is a [`Violation`], never a panic; a panic of the engine
//! is one too.

mod case;
mod checkpoint;
mod clock;
mod explore;
mod inspect;
mod model;
mod node;
mod setup;
mod shrink;
mod slots;
#[cfg(test)]
mod tests;
mod violation;
mod workload;

pub use case::{Case, Cut};
pub use checkpoint::Place;
pub use clock::SimClock;
pub use explore::{FAILURES, Found, GoOn, Tally, Workload};
pub use model::{Content, Held, Model, State, Stopped};
pub use node::{DIR, Done, Machine, Node, Told, transact};
pub use setup::{Besides, Disk, Setup};
pub use shrink::shrink;
pub use violation::Violation;
pub use workload::{Change, Choices, Payload, SLOTS, Step, Work, key, slot, tag};
