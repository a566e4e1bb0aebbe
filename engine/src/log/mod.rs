//! The log: records in frames in segments. The write-ahead log and the replication log are this one structure.
//!
//! [`Log::recover`] opens it, [`Log::begin`] appends, [`Log::write`] and [`Log::sync`] make a group commit visible
//! and durable, [`Watermark`] says how far both got, [`Log::reader`] reads it again for replicas,
//! [`retention::retain`] decides what may go and [`Log::remove_below`] removes it.
//!
//! | file | what it is |
//! |---|---|
//! | `record`, `frame`, `index`, `segment` | the formats, inside out |
//! | `layout`, `pending`, `spares`, `writer` | appending: where parts go, what waits, room ahead, the writing |
//! | `watermark`, `tail`, `reader` | who waits and who reads |
//! | `frames`, `scan`, `salvage`, `recover`, `inspect` | reading what a crash left behind |
//! | `retention` | which segments may go |

pub mod frame;
mod frames;
pub mod index;
pub mod inspect;
mod layout;
mod parse;
mod pending;
pub mod reader;
pub mod record;
mod recover;
pub mod retention;
mod salvage;
mod scan;
pub mod segment;
mod spares;
mod tail;
mod view;
pub mod watermark;
mod writer;

#[cfg(test)]
mod tests;

pub use pending::{Appender, GROUP_BYTES_MAX};
pub use reader::{LogReader, ReadOutcome};
pub use recover::{Cut, Recovered, Start};
pub use view::SegmentInfo;
pub use watermark::{Mark, Ticket, Wait, Watermark};
pub use writer::{Log, LogState};

use crate::sync::{Mutex, MutexGuard};
use crate::types::Lsn;
use record::{BadRecord, Record};
use segment::Room;
use std::sync::PoisonError;

/// How a log is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogOptions {
    /// The size of segments made from now on; rounded to a multiple of 8 and into the bounds of `segment.rs`.
    pub segment_bytes: u64,
    /// How much of the log's end is kept in memory for readers.
    pub tail_bytes: usize,
    /// How much may be appended and not written yet before whoever appends writes it; within bounds.
    pub pending_bytes: usize,
    /// How the first segment of a new log is made.
    pub room: Room,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            segment_bytes: 64 << 20,
            tail_bytes: 16 << 20,
            pending_bytes: 8 << 20,
            room: Room::Reserved,
        }
    }
}

/// A record and where it lies.
#[derive(Clone, Debug)]
pub struct RecordAt<'a> {
    /// The logical frame that holds it.
    pub lsn: Lsn,
    /// The record.
    pub record: Record<'a>,
}

/// The records of a logical frame's body, in order; after an error there is nothing more.
pub fn records(mut body: &[u8]) -> impl Iterator<Item = Result<Record<'_>, BadRecord>> {
    std::iter::from_fn(move || {
        if body.is_empty() {
            return None;
        }
        let record = Record::take(&mut body);
        if record.is_err() {
            body = &[];
        }
        Some(record)
    })
}

/// Locks, also if another thread panicked meanwhile: what these locks hold is whole between any two statements, and
/// whoever leaves a write half done poisons the log itself.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
