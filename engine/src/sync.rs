//! Locks, atomics and counted pointers of what the models explore: std's, or loom's with the feature `loom`.
//!
//! A module uses these names, and not std's, for whatever its threads meet at; `engine/tests/models/` then runs that
//! very code through the interleavings of a few threads. With the feature nothing of it works outside a model.
//! Without it this file is a list of names.
//!
//! Not for what is counted under a lock that is not of this file: a model that goes on to another thread there would
//! never come back. So the blocks in the cache have std's [`std::sync::Arc`].

#[cfg(feature = "loom")]
mod counted;

#[cfg(not(feature = "loom"))]
pub use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak, atomic};

#[cfg(feature = "loom")]
pub use {
    counted::{Arc, Weak},
    loom::sync::{Condvar, Mutex, MutexGuard, atomic},
};
