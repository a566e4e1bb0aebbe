//! Haypile's storage engine: a log-structured store of 1024 slots whose write-ahead log is also the
//! replication log.
//!
//! It knows records, keys and files; it knows no command, socket or replica. See `docs/ARCHITECTURE.md`.
//!
//! A program that wants a store begins at [`Store`]; `engine/examples/store.rs` is one. What a server needs is at
//! [`engine::Engine`]: transactions over several slots, roles, replication. Modules that are not shown are public for the
//! other crates of this workspace only.

pub mod background;
mod budget;
#[doc(hidden)]
pub mod cache;
pub mod checkpoint;
pub mod clock;
#[doc(hidden)]
pub mod compact;
mod compaction;
#[doc(hidden)]
pub mod copy;
mod debt;
pub mod digest;
pub mod engine;
pub mod error;
mod expire;
#[doc(hidden)]
pub mod features;
mod flipped;
mod flush;
pub mod fs;
pub mod history;
#[doc(hidden)]
pub mod inspect;
pub mod key;
pub mod log;
#[doc(hidden)]
pub mod manifest;
#[doc(hidden)]
pub mod memtable;
pub mod near;
mod overlay;
pub mod owed;
pub mod pace;
pub mod pins;
#[doc(hidden)]
pub mod planted;
#[doc(hidden)]
pub mod random;
pub mod read;
mod recover;
#[doc(hidden)]
pub mod registry;
#[doc(hidden)]
pub mod repair;
mod replay;
#[doc(hidden)]
pub mod replica;
#[doc(hidden)]
pub mod roles;
#[doc(hidden)]
pub mod signal;
#[doc(hidden)]
pub mod simulation;
#[doc(hidden)]
pub mod slot;
pub mod slot_table;
#[doc(hidden)]
pub mod sst;
pub mod stats;
pub mod store;
#[doc(hidden)]
pub mod sync;
#[doc(hidden)]
pub mod testing;
pub mod tx;
pub mod types;
pub mod value;
#[doc(hidden)]
pub mod varint;
#[doc(hidden)]
pub mod version;
#[doc(hidden)]
pub mod watch;
#[doc(hidden)]
pub mod worker;

pub use engine::{Options, SyncMode};
pub use error::{Error, Result};
pub use stats::Stats;
pub use store::{Batch, Snapshot, Store};
pub use types::Slot;
