//! Chunks of memtables between two uses.
//!
//! Memtables fill on the threads that write and are emptied by the one that flushes. Given back to the allocator, their
//! memory would stay with whichever thread's share it came from, to be used by that thread alone: with a few writers the
//! process took half as much again as its memtables. So chunks of the usual size are kept here, for all of the process.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The usual size of a chunk.
pub(super) const CHUNK_BYTES: usize = 4 << 10;

/// Invariant: all are empty and have room for [`CHUNK_BYTES`] exactly.
static FREE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn free() -> MutexGuard<'static, Vec<Vec<u8>>> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A chunk of the usual size, empty.
pub(super) fn take() -> Vec<u8> {
    let kept = free().pop();
    kept.unwrap_or_else(|| Vec::with_capacity(CHUNK_BYTES))
}

/// Keeps those of the chunks that have the usual size for the next who takes one. As many stay as were ever in use at once,
/// which is what the memtables' budget allows.
pub(super) fn give(chunks: &mut Vec<Vec<u8>>) {
    chunks.retain(|chunk| chunk.capacity() == CHUNK_BYTES);
    if !chunks.is_empty() {
        chunks.iter_mut().for_each(Vec::clear);
        free().append(chunks);
    }
}
