//! An engine for the tests of the layers above: all slots, nothing on a real disk.

use std::path::Path;
use std::sync::Arc;

use crate::clock::SystemClock;
use crate::engine::{Engine, Options};
use crate::fs::memory::MemoryFs;
use crate::types::Slot;

/// An engine that owns all slots, on a disk in memory.
///
/// # Panics
/// If it can't be opened: the test has found something.
#[must_use]
pub fn engine() -> Engine {
    let options = Options { log_segment_bytes: 1 << 20, ..Options::default() };
    let fs = Arc::new(MemoryFs::new());
    let (engine, _) = Engine::open(fs, Path::new("/haypile"), Arc::new(SystemClock::new()), options)
        .expect("an empty folder opens");
    engine.add_slots(&Slot::all().collect::<Vec<_>>()).expect("slots are added");
    engine
}
