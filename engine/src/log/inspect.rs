//! Walks a segment's file for a person or a tool: read-only, and on through damage.

use super::frame::{self, FrameHeader, Parsed};
use super::records;
use super::scan::Image;
use super::segment::{HEADER_BYTES as SEGMENT_HEADER_BYTES, Segment, SegmentHeader};
use crate::error::Result;
use crate::fs::{Fs, OpenMode};
use crate::log::index::SlotIndex;
use crate::log::record::Header;
use std::path::Path;

/// Something that lies in a segment, in the order of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item {
    /// The segment's header.
    Segment(SegmentHeader),
    /// A frame.
    Frame {
        /// Where in the file.
        offset: u64,
        /// Its header.
        header: FrameHeader,
        /// Bytes of its body.
        body_bytes: usize,
    },
    /// A record of the logical frame that ended with the last frame.
    Record {
        /// Slot, term, seq.
        header: Header,
        /// Bytes of the whole record.
        bytes: usize,
    },
    /// The slot index of the seal that came last.
    Index(SlotIndex),
    /// Bytes that are neither a frame nor zeros.
    Damage {
        /// Where in the file.
        offset: u64,
        /// How many bytes until the next frame or until only zeros follow.
        bytes: u64,
        /// What does not hold.
        what: String,
    },
    /// Zeros up to the next frame or the end.
    Blank {
        /// Where in the file.
        offset: u64,
        /// How many.
        bytes: u64,
    },
}

/// Gives everything in the segment at `path` to `see`.
///
/// # Errors
/// As [`Segment::open`] if the header does not hold; else as the file system says. Damage behind the header is an
/// [`Item`].
pub fn walk(fs: &dyn Fs, path: &Path, see: &mut dyn FnMut(Item)) -> Result<()> {
    let segment = Segment::open_any(fs, path, OpenMode::Read)?;
    let image = Image::load(&segment)?;
    see(Item::Segment(segment.header));
    let mut offset = SEGMENT_HEADER_BYTES;
    let mut chain: Option<Vec<u8>> = None;
    loop {
        let what = match image.frame(offset) {
            Parsed::Frame(found) => {
                let (header, body) = (found.header, &image.bytes[found.body.clone()]);
                see(Item::Frame { offset: offset as u64, header, body_bytes: body.len() });
                if header.has(frame::SEAL) {
                    match SlotIndex::decode(body) {
                        Some(index) => see(Item::Index(index)),
                        None => see(damage(offset, found.end - offset, "the seal holds no slot index")),
                    }
                } else {
                    see_body(header, body, offset, &mut chain, see);
                }
                offset = found.end;
                continue;
            }
            Parsed::Blank => None,
            Parsed::Bad(what) => Some(what),
        };
        chain = None;
        let next = image.next_frame(offset).map(|(at, _)| at);
        let end = next.unwrap_or(image.bytes.len() - super::segment::TRAILER_BYTES);
        let used = image.bytes[offset..end].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if used > 0 {
            see(damage(offset, used, what.unwrap_or("bytes among zeros")));
        }
        if offset + used < end {
            see(Item::Blank { offset: (offset + used) as u64, bytes: (end - offset - used) as u64 });
        }
        match next {
            Some(at) => offset = at,
            None => return Ok(()),
        }
    }
}

fn damage(offset: usize, bytes: usize, what: &str) -> Item {
    Item::Damage { offset: offset as u64, bytes: bytes as u64, what: what.to_owned() }
}

/// Puts a logical frame together as far as it lies in this segment, and gives its records.
fn see_body(
    header: FrameHeader,
    body: &[u8],
    offset: usize,
    chain: &mut Option<Vec<u8>>,
    see: &mut dyn FnMut(Item),
) {
    match (header.has(frame::CONTINUED), chain.as_mut()) {
        (false, _) => *chain = Some(body.to_vec()),
        (true, Some(chain)) => chain.extend_from_slice(body),
        // It began in the segment before.
        (true, None) => return,
    }
    if header.has(frame::MORE) {
        return;
    }
    for record in records(&chain.take().unwrap_or_default()) {
        match record {
            Ok(record) => see(Item::Record { header: record.header, bytes: record.bytes.len() }),
            Err(bad) => see(damage(offset, body.len(), &format!("a record: {bad}"))),
        }
    }
}
