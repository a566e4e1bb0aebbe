//! Haypile's storage engine: a log-structured store of 1024 slots whose write-ahead log is also the
//! replication log.
//!
//! It knows records, keys and files; it knows no command, socket or replica. See `docs/ARCHITECTURE.md`.

pub mod background;
mod budget;
pub mod cache;
pub mod checkpoint;
pub mod clock;
pub mod compact;
mod compaction;
pub mod copy;
pub mod engine;
pub mod error;
mod expire;
pub mod features;
mod flipped;
mod flush;
pub mod fs;
pub mod history;
pub mod inspect;
pub mod key;
pub mod log;
pub mod manifest;
pub mod memtable;
mod overlay;
pub mod planted;
pub mod random;
pub mod read;
mod recover;
pub mod registry;
pub mod repair;
mod replay;
pub mod replica;
pub mod roles;
pub mod signal;
pub mod simulation;
pub mod slot;
pub mod sst;
pub mod stats;
pub mod sync;
pub mod testing;
pub mod tx;
pub mod types;
pub mod value;
pub mod varint;
pub mod version;
pub mod worker;
