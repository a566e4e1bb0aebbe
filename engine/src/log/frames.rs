//! The frames of a segment one after another, through a window that moves over the file: recovery's memory is the
//! window, or the greatest frame, and not the segment.

use super::frame::{self, HEADER_BYTES as FRAME_HEADER_BYTES, Parsed};
use super::segment::{Segment, TRAILER_BYTES};
use crate::error::{Error, Result};
use crate::types::Lsn;

/// What is read at first: a log that holds little is opened with little.
const WINDOW_BYTES_MIN: usize = 256 << 10;
/// A larger window is no faster, and what was read is in the processor's cache no more when its records are replayed.
const WINDOW_BYTES_MAX: usize = 8 << 20;

/// See the file's head. Serves one segment after another.
#[derive(Default)]
pub(super) struct Window {
    bytes: Vec<u8>,
    /// The position of the first of `bytes`.
    base: Lsn,
    /// What the next read asks for.
    wanted: usize,
    bytes_max: usize,
}

impl Window {
    /// A window of about `bytes_max`, more only if one frame needs it.
    pub(super) fn new(bytes_max: usize) -> Window {
        let bytes_max = bytes_max.clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX);
        Window { wanted: WINDOW_BYTES_MIN, bytes_max, ..Window::default() }
    }

    /// The window's bytes. They stay until [`Window::cover`].
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether all of what begins at `offset` of the segment is here: the frame, by its own word, or as much of one as
    /// the segment has room for.
    pub(super) fn covers(&self, segment: &Segment, offset: usize) -> bool {
        self.at(segment, offset).is_some_and(|at| {
            let needed = self.needed(segment, offset, at);
            self.bytes.len() - at >= needed
        })
    }

    /// Reads on from `offset` of the segment, as far as the frame that begins there needs at least.
    pub(super) fn cover(&mut self, segment: &Segment, offset: usize) -> Result<()> {
        self.read(segment, offset, self.wanted)?;
        self.wanted = (self.wanted * 2).min(self.bytes_max);
        let needed = self.needed(segment, offset, 0);
        if needed > self.bytes.len() {
            self.read(segment, offset, needed)?;
        }
        Ok(())
    }

    /// What lies at `offset` of the segment, which the window covers. Ranges are of [`Window::bytes`].
    pub(super) fn frame(&self, segment: &Segment, offset: usize) -> Parsed {
        // Where frames must end there is nothing to cover.
        let at = self.at(segment, offset).unwrap_or(self.bytes.len());
        frame::parse(&self.bytes, at, segment.header.base.advance(offset as u64), segment.salt)
    }

    fn at(&self, segment: &Segment, offset: usize) -> Option<usize> {
        let lsn = segment.header.base.advance(offset as u64);
        let at = usize::try_from(lsn.0.checked_sub(self.base.0)?).ok()?;
        (at < self.bytes.len()).then_some(at)
    }

    fn needed(&self, segment: &Segment, offset: usize, at: usize) -> usize {
        let lsn = segment.header.base.advance(offset as u64);
        let claimed = frame::claimed_len(&self.bytes[at..], lsn).unwrap_or(FRAME_HEADER_BYTES);
        claimed.min(frames_end(segment).saturating_sub(offset))
    }

    fn read(&mut self, segment: &Segment, offset: usize, wanted: usize) -> Result<()> {
        let bytes = wanted.min(frames_end(segment).saturating_sub(offset));
        self.bytes.resize(bytes, 0);
        self.base = segment.header.base.advance(offset as u64);
        let read = segment.file.read_at(&mut self.bytes, offset as u64);
        let count = read.map_err(|error| Error::io(&segment.path, "read", &error))?;
        // What a shorter file lacks is zeros.
        self.bytes[count..].fill(0);
        Ok(())
    }
}

/// Where frames must end.
fn frames_end(segment: &Segment) -> usize {
    let bytes = usize::try_from(segment.header.bytes).expect("a segment is at most 1 GiB");
    bytes - TRAILER_BYTES
}
