//! What was appended and is not written yet: one buffer, shaped like the frame that it becomes.

use super::frame::{HEADER_BYTES as FRAME_HEADER_BYTES, LOGICAL_BYTES_MAX};
use super::layout::Place;
use super::record::{self, BODY_BYTES_MAX, Body, Header, Record};
use super::watermark::Ticket;
use super::writer::Log;
use crate::error::{Error, Result};
use crate::sync::MutexGuard;
use crate::types::{Seq, Slot};

/// From here on, at the latest, whoever begins an append writes first.
pub(super) const PENDING_BYTES_MAX: usize = 64 << 20;
/// What may wait in any case: small writes are not written one by one.
pub(super) const PENDING_BYTES_MIN: usize = 1 << 20;
/// The greatest atomic group: the records of one [`Appender`], in bytes.
pub const GROUP_BYTES_MAX: usize = LOGICAL_BYTES_MAX - PENDING_BYTES_MAX;

const _: () = assert!(GROUP_BYTES_MAX > record::HEADER_BYTES + BODY_BYTES_MAX);

/// What waits for the next write.
pub(super) struct Pending {
    /// A frame header's place, then records back to back.
    pub(super) buffer: Vec<u8>,
    /// Whose the records are, in order.
    pub(super) records: Vec<(Slot, Seq)>,
    /// The number that this group commit will have.
    pub(super) ticket: Ticket,
    /// Where its frame will begin, or after.
    pub(super) at: Place,
}

impl Pending {
    pub(super) fn new(at: Place) -> Pending {
        Pending { buffer: vec![0; FRAME_HEADER_BYTES], records: Vec::new(), ticket: Ticket(1), at }
    }

    pub(super) fn body_bytes(&self) -> usize {
        self.buffer.len() - FRAME_HEADER_BYTES
    }
}

/// Whose records are appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Whose {
    /// Of somebody who writes.
    Writer,
    /// Of a read, which leaves something behind.
    Reader,
}

/// An atomic group that is being appended: recovered whole or not at all. It holds the buffer's lock, so that
/// nobody else's records come between; dropped without [`Appender::finish`] it leaves nothing.
pub struct Appender<'a> {
    log: &'a Log,
    pending: MutexGuard<'a, Pending>,
    bytes_before: usize,
    records_before: usize,
    whose: Whose,
}

impl<'a> Appender<'a> {
    pub(super) fn new(log: &'a Log, pending: MutexGuard<'a, Pending>, whose: Whose) -> Appender<'a> {
        let (bytes_before, records_before) = (pending.buffer.len(), pending.records.len());
        Appender { log, pending, bytes_before, records_before, whose }
    }

    /// Encodes a record in place.
    ///
    /// # Errors
    /// `Limit` if the record or the group is too large, `ReadOnly` if there is no room for it; what was pushed
    /// before stays.
    pub fn push(&mut self, header: Header, body: &Body<'_>) -> Result<()> {
        if let Body::Batch(ops) = body
            && ops.len() > BODY_BYTES_MAX
        {
            return Err(Error::Limit(format!("a write of {} bytes; at most {BODY_BYTES_MAX}", ops.len())));
        }
        let start = self.pending.buffer.len();
        record::encode(&mut self.pending.buffer, header, body);
        self.accept(body.is_history().then_some(header), start)
    }

    /// Copies a record as another node encoded it.
    ///
    /// # Errors
    /// As [`Appender::push`].
    pub fn push_raw(&mut self, record: &Record<'_>) -> Result<()> {
        self.push_sealed(record.header, record.bytes)
    }

    /// Copies a record of the slot's history that was encoded before: others wait for no longer than that takes.
    ///
    /// # Errors
    /// As [`Appender::push`].
    pub fn push_sealed(&mut self, header: Header, record: &[u8]) -> Result<()> {
        let start = self.pending.buffer.len();
        self.pending.buffer.extend_from_slice(record);
        self.accept(Some(header), start)
    }

    /// Bytes of the group so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.pending.buffer.len() - self.bytes_before
    }

    /// Ends the group. Its records are in the log once the ticket is written; an empty group's is reached already.
    #[must_use]
    pub fn finish(mut self) -> Ticket {
        if self.bytes() == 0 {
            return Ticket(0);
        }
        self.bytes_before = self.pending.buffer.len();
        self.records_before = self.pending.records.len();
        self.pending.ticket
    }

    /// Keeps what was pushed from `start` on if there is room for it, else takes it off again. `header` is of what the
    /// index is to know.
    fn accept(&mut self, header: Option<Header>, start: usize) -> Result<()> {
        let room = if self.bytes() > GROUP_BYTES_MAX {
            Err(Error::Limit(format!("a group of more than {GROUP_BYTES_MAX} bytes")))
        } else {
            self.log.make_room(self.pending.at, self.pending.body_bytes(), self.whose)
        };
        match room {
            Ok(()) => self.pending.records.extend(header.map(|header| (header.slot, header.seq))),
            Err(_) => self.pending.buffer.truncate(start),
        }
        room
    }
}

impl Drop for Appender<'_> {
    fn drop(&mut self) {
        self.pending.buffer.truncate(self.bytes_before);
        self.pending.records.truncate(self.records_before);
    }
}
