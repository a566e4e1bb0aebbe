//! Haypile's replication: records of a master's log, shipped as they are, to nodes that append and apply them.
//!
//! It knows records, not commands. State machines (`shipper`, `receiver`, `handover`) decide, with no socket, clock
//! or thread inside. See `docs/PROTOCOL.md` for what is said on the wire.

pub mod acks;
pub mod copies;
pub mod decide;
pub mod features;
pub mod grants;
pub mod handover;
pub mod hub;
pub mod link;
pub mod message;
mod operate;
mod outbox;
mod owed;
pub mod peer;
pub mod receiver;
pub mod registry;
mod run;
pub mod shipper;
pub mod squeeze;
pub mod status;
pub mod tail;
pub mod told;
pub mod transport;

#[cfg(test)]
mod pair_tests;
