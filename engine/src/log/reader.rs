//! Reading the log while it is written: from memory where it is recent, else from the segments' files.
//!
//! A reader belongs to one thread at a time. [`LogReader::next`] may read a file, so it is not for a thread that
//! must not wait for the disk unless the reader is known to be in the tail ([`LogReader::in_memory`]).

use super::frame::{self, Frame, HEADER_BYTES as FRAME_HEADER_BYTES, LOGICAL_BYTES_MAX, Parsed};
use super::lock;
use super::scan::{Around, Image};
use super::segment::{HEADER_BYTES as SEGMENT_HEADER_BYTES, Segment};
use super::view::View;
use crate::error::{Error, Result};
use crate::sync::Mutex;
use crate::types::{Lsn, Slot};
use bytes::Bytes;
use std::sync::Arc;

/// How much is read from a file at once.
const READ_AHEAD_BYTES: usize = 256 << 10;

/// A cursor over the log's logical frames.
pub struct LogReader {
    view: Arc<Mutex<View>>,
    at: Lsn,
    /// The segment that was read last: it may stay readable when it is removed meanwhile.
    segment: Option<Arc<Segment>>,
    ahead: ReadAhead,
}

/// What a reader finds.
#[derive(Debug)]
pub enum ReadOutcome {
    /// The next logical frame.
    Frame {
        /// Where it begins.
        lsn: Lsn,
        /// Where the reader goes on.
        next: Lsn,
        /// Its records, for [`super::records`]. Each checks its own checksum.
        records: Bytes,
    },
    /// Nothing more is written: wait for [`super::Log::changed`] since the reader's position.
    CaughtUp,
    /// The position lies before the oldest live segment.
    Gone,
    /// What lies there is not what was written.
    Corrupt(Error),
}

impl LogReader {
    pub(super) fn new(view: Arc<Mutex<View>>, at: Lsn) -> LogReader {
        LogReader { view, at, segment: None, ahead: ReadAhead::default() }
    }

    /// Where the next frame is looked for.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.at
    }

    /// Whether the next frame comes from memory.
    #[must_use]
    pub fn in_memory(&self) -> bool {
        lock(&self.view).tail.covers(self.at)
    }

    /// Leaves out sealed segments from here on that hold no record of the slots wanted.
    pub fn skip_to_slots(&mut self, wanted: impl Fn(Slot) -> bool) {
        let view = lock(&self.view);
        let first = view.sealed.partition_point(|segment| segment.header.end() <= self.at);
        for segment in view.sealed.range(first..) {
            let Some(index) = segment.index.get().filter(|_| segment.header.base <= self.at) else { return };
            let offset = segment.header.offset_of(self.at);
            if index.iter().any(|(slot, span)| u64::from(span.last_offset) >= offset && wanted(slot)) {
                return;
            }
            self.at = segment.header.end();
        }
    }

    /// The next logical frame with records.
    #[allow(clippy::should_implement_trait)] // not an iterator: its end is not final
    pub fn next(&mut self) -> ReadOutcome {
        loop {
            let (segment, end) = {
                let view = lock(&self.view);
                let active = view.active.header.base;
                if self.at >= active {
                    // The log may end where the first frame will be.
                    self.at = self.at.max(active.advance(SEGMENT_HEADER_BYTES as u64));
                }
                if self.at >= view.end {
                    return ReadOutcome::CaughtUp;
                }
                if view.tail.covers(self.at) {
                    let Some(frame) = view.tail.first_from(self.at).cloned() else {
                        self.at = view.end;
                        return ReadOutcome::CaughtUp;
                    };
                    self.at = frame.next;
                    return ReadOutcome::Frame { lsn: frame.lsn, next: frame.next, records: frame.records };
                }
                (self.held(self.at).or_else(|| view.segment_at(self.at)), view.end)
            };
            let Some(segment) = segment else { return ReadOutcome::Gone };
            let mut body = Vec::new();
            match self.read_logical(segment, end, &mut body) {
                Ok(Step::Frame { lsn, records }) => {
                    return ReadOutcome::Frame { lsn, next: self.at, records };
                }
                Ok(Step::Nothing) => {}
                Ok(Step::Gone) => return ReadOutcome::Gone,
                Err(_) if self.is_removed() => return ReadOutcome::Gone,
                Err(error) => return ReadOutcome::Corrupt(self.naming(error, body)),
            }
        }
    }

    /// Whether the segment that was read last has been removed since: its file may be closed.
    fn is_removed(&self) -> bool {
        let view = lock(&self.view);
        let oldest = view.sealed.front().unwrap_or(&view.active).header.base;
        self.segment.as_ref().is_some_and(|segment| segment.header.base < oldest)
    }

    /// An error of what lies in the segment that was read last, with the records that are lost with it; `begun`
    /// is of the logical frame that it ends.
    fn naming(&self, error: Error, begun: Vec<u8>) -> Error {
        let Error::Corrupt { path, offset, what } = error else { return error };
        let segment = self.segment.as_ref().filter(|segment| segment.path == path);
        let told = segment.and_then(|segment| {
            let image = Image::load(segment).ok()?;
            let stretch = usize::try_from(offset).ok()?;
            let active = || Arc::new(lock(&self.view).index.snapshot());
            let index = segment.index.get().map_or_else(active, Arc::clone);
            let before = image.last_seqs_before(stretch);
            let around = Around { before, index: (*index).clone(), begun, ..Around::default() };
            Some(format!("{what}; {}", image.lost(stretch, &around)))
        });
        Error::Corrupt { path, offset, what: told.unwrap_or(what) }
    }

    fn held(&self, lsn: Lsn) -> Option<Arc<Segment>> {
        let holds = |segment: &&Arc<Segment>| segment.header.base <= lsn && lsn < segment.header.end();
        self.segment.as_ref().filter(holds).map(Arc::clone)
    }

    /// Reads a frame at the reader's position, and all its parts if it begins a logical frame.
    fn read_logical(&mut self, mut segment: Arc<Segment>, end: Lsn, body: &mut Vec<u8>) -> Result<Step> {
        let mut start = None;
        loop {
            let header = segment.header;
            let offset = header.offset_of(self.at).max(SEGMENT_HEADER_BYTES as u64);
            let lsn = header.base.advance(offset);
            self.segment = Some(Arc::clone(&segment));
            let frame = self.ahead.frame(&segment, offset, end)?;
            let Some((frame, bytes)) = frame else {
                return Err(Error::corrupt(&segment.path, offset, "the log goes on, but not here"));
            };
            if frame.header.has(frame::SEAL) {
                self.at = header.end();
                let Some(next) = lock(&self.view).segment_at(self.at) else { return Ok(Step::Gone) };
                if start.is_none() {
                    return Ok(Step::Nothing);
                }
                segment = next;
                continue;
            }
            self.at =
                header.base.advance(offset + (frame.end - frame.body.start + FRAME_HEADER_BYTES) as u64);
            match (frame.header.has(frame::CONTINUED), start) {
                // The rest of a logical frame whose beginning the reader skipped.
                (true, None) => return Ok(Step::Nothing),
                (false, Some(_)) => {
                    return Err(Error::corrupt(
                        &segment.path,
                        offset,
                        "the rest of a logical frame is missing",
                    ));
                }
                _ => {}
            }
            if body.len() + frame.body.len() > LOGICAL_BYTES_MAX {
                return Err(Error::corrupt(&segment.path, offset, "a logical frame without end"));
            }
            body.extend_from_slice(&bytes[frame.body.clone()]);
            let lsn = *start.get_or_insert(lsn);
            if frame.header.has(frame::MORE) {
                continue;
            }
            if body.is_empty() {
                return Ok(Step::Nothing);
            }
            return Ok(Step::Frame { lsn, records: Bytes::from(std::mem::take(body)) });
        }
    }
}

enum Step {
    Frame { lsn: Lsn, records: Bytes },
    Nothing,
    Gone,
}

/// A piece of a segment's file in memory.
#[derive(Default)]
struct ReadAhead {
    bytes: Vec<u8>,
    /// The position of the first of `bytes`.
    base: Lsn,
}

impl ReadAhead {
    /// The frame at `offset`, which must lie before `end`; `None` if nothing was written there.
    fn frame(&mut self, segment: &Segment, offset: u64, end: Lsn) -> Result<Option<(Frame, &[u8])>> {
        let lsn = segment.header.base.advance(offset);
        let head = self.fill(segment, offset, FRAME_HEADER_BYTES, end)?;
        let claimed = frame::claimed_len(&self.bytes[head..], lsn).unwrap_or(FRAME_HEADER_BYTES);
        let at = self.fill(segment, offset, claimed, end)?;
        match frame::parse(&self.bytes, at, lsn, segment.salt) {
            Parsed::Frame(frame) => Ok(Some((frame, &self.bytes))),
            Parsed::Blank => Ok(None),
            Parsed::Bad(what) => Err(Error::corrupt(&segment.path, offset, what)),
        }
    }

    /// Makes sure that `len` bytes at `offset` are in memory, if the file has them before `end`, and says where.
    fn fill(&mut self, segment: &Segment, offset: u64, len: usize, end: Lsn) -> Result<usize> {
        let lsn = segment.header.base.advance(offset);
        let skipped = lsn.0.checked_sub(self.base.0).and_then(|bytes| usize::try_from(bytes).ok());
        if let Some(at) = skipped.filter(|at| at.saturating_add(len) <= self.bytes.len()) {
            return Ok(at);
        }
        // Beyond the written end there are zeros that may be frames the next time.
        let readable = segment.header.end().min(end).0.saturating_sub(lsn.0);
        let wanted = usize::try_from(readable).unwrap_or(usize::MAX).min(len.max(READ_AHEAD_BYTES));
        self.bytes.resize(wanted, 0);
        self.base = lsn;
        let count = segment
            .file
            .read_at(&mut self.bytes, offset)
            .map_err(|error| Error::io(&segment.path, "read", &error))?;
        self.bytes.truncate(count);
        Ok(0)
    }
}
