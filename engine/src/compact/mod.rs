//! Compaction of one slot's runs: deciding (`pick`, a pure function) apart from doing (`merge`).
//!
//! Lazily levelled: a few tiered runs above one sorted bottom run. A slot's job touches no other slot, and what it
//! makes is installed by the caller with one manifest edit.

mod merge;
mod pick;
#[cfg(test)]
mod tests;

pub use merge::{MergeOptions, MergeOutcome, MergeResult, merge};
pub use pick::{Job, PickOptions, Reason, pick, pick_all};
