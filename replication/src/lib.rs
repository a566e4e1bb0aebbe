//! Haypile's replication: records of a master's log, shipped as they are, to nodes that append and apply them.
//!
//! It knows records, not commands. State machines (`shipper`, `receiver`, `handover`) decide, with no socket, clock
//! or thread inside. See `docs/PROTOCOL.md` for what is said on the wire.

pub mod decide;
pub mod handover;
pub mod message;
pub mod receiver;
pub mod shipper;

#[cfg(test)]
mod pair_tests;
