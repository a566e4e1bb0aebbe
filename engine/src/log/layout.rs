//! Where a logical frame's parts will lie. Pure arithmetic, so that room is known before anything is accepted.

use super::frame::{self, HEADER_BYTES as FRAME_HEADER_BYTES};
use super::segment::{HEADER_BYTES as SEGMENT_HEADER_BYTES, SEAL_ROOM_BYTES, SegmentHeader};
use crate::types::{Lsn, NodeId};

/// A shorter part than this is not begun at a segment's end, unless it is the whole.
const PART_BYTES_MIN: u64 = 256;

/// A place in the log: where in the file of which segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// The segment's number.
    pub segment: u64,
    /// Where in its file.
    pub offset: u64,
}

/// A part of a logical frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// Where its frame begins.
    pub at: Place,
    /// Bytes of its body.
    pub body_bytes: u64,
}

/// The sizes of the segments from the one that was active at the start on: its own, and one for all later ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    first: SegmentHeader,
    segment_bytes: u64,
}

impl Geometry {
    /// Of a log whose segment `first` is active and whose later segments have `segment_bytes`.
    #[must_use]
    pub fn new(first: SegmentHeader, segment_bytes: u64) -> Geometry {
        Geometry { first, segment_bytes }
    }

    /// The header of the segment with this number.
    ///
    /// # Panics
    /// If it is before the first.
    #[must_use]
    pub fn header(&self, number: u64) -> SegmentHeader {
        let after =
            number.checked_sub(self.first.number).expect("only segments from the first on are asked for");
        if after == 0 {
            return self.first;
        }
        let base = self.first.end().advance((after - 1) * self.segment_bytes);
        SegmentHeader { node: self.node(), number, base, bytes: self.segment_bytes }
    }

    /// Whose log it is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.first.node
    }

    /// The position of a place.
    #[must_use]
    pub fn lsn(&self, place: Place) -> Lsn {
        self.header(place.segment).base.advance(place.offset)
    }

    /// Where the parts of a logical frame of `body_bytes` lie if it begins at `from` or after, and where the next
    /// one may begin.
    pub fn plan(&self, from: Place, body_bytes: u64, mut each: impl FnMut(Part)) -> Place {
        let (mut at, mut left) = (from, body_bytes);
        let header_bytes = FRAME_HEADER_BYTES as u64;
        loop {
            let bytes = if at.segment == self.first.number { self.first.bytes } else { self.segment_bytes };
            let room = (bytes - SEAL_ROOM_BYTES as u64).saturating_sub(at.offset);
            if room < header_bytes + left.min(PART_BYTES_MIN) {
                at = Place { segment: at.segment + 1, offset: SEGMENT_HEADER_BYTES as u64 };
                continue;
            }
            let body_bytes = left.min(room - header_bytes);
            each(Part { at, body_bytes });
            at.offset += (header_bytes + body_bytes).next_multiple_of(frame::ALIGN_BYTES as u64);
            left -= body_bytes;
            if left == 0 {
                return at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::segment::SEGMENT_BYTES_MIN;

    #[test]
    fn parts_fill_segments_and_never_reach_into_the_seals_room() {
        let first =
            SegmentHeader { node: NodeId([0; 20]), number: 2, base: Lsn(9), bytes: 2 * SEGMENT_BYTES_MIN };
        let geometry = Geometry::new(first, SEGMENT_BYTES_MIN);
        for body_bytes in (0..300_000).step_by(777) {
            for offset in [64, 4096, first.frames_end() - 296, first.frames_end() - 32, first.frames_end()] {
                let mut parts = Vec::new();
                let end = geometry.plan(Place { segment: 2, offset }, body_bytes, |part| parts.push(part));
                assert_eq!(parts.iter().map(|part| part.body_bytes).sum::<u64>(), body_bytes);
                for pair in parts.windows(2) {
                    assert_eq!(pair[1].at, Place { segment: pair[0].at.segment + 1, offset: 64 });
                }
                for part in &parts {
                    let header = geometry.header(part.at.segment);
                    assert!(part.at.offset + 32 + part.body_bytes <= header.frames_end());
                    assert!(part.at.offset.is_multiple_of(8));
                }
                assert!(end > parts[parts.len() - 1].at && end.offset.is_multiple_of(8));
            }
        }
        assert_eq!(geometry.header(4).base, Lsn(9 + 3 * SEGMENT_BYTES_MIN));
    }
}
