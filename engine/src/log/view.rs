//! What of the log can be read: the live segments, how far they are written, the tail in memory.

use super::index::{GrowingIndex, SlotIndex};
use super::segment::Segment;
use super::tail::Tail;
use crate::types::{Lsn, Seq, Slot};
use std::collections::VecDeque;
use std::sync::Arc;

/// What can be read. Lives behind one short lock, shared by the writer and all readers.
pub(super) struct View {
    /// Oldest first, without gaps; each has its index.
    pub(super) sealed: VecDeque<Arc<Segment>>,
    /// The one that is written.
    pub(super) active: Arc<Segment>,
    /// The active segment's slots. May be ahead of `end` by the frame that is being written.
    pub(super) index: GrowingIndex,
    /// After the last frame that is written.
    pub(super) end: Lsn,
    /// The last frames in memory.
    pub(super) tail: Tail,
}

/// A live segment, for retention and for tools.
#[derive(Clone, Debug)]
pub struct SegmentInfo {
    /// The position of its first byte.
    pub base: Lsn,
    /// The position after it; of the active segment: after what is written.
    pub end: Lsn,
    /// Whether it is full and will not change.
    pub sealed: bool,
    /// Its slots.
    pub index: Arc<SlotIndex>,
}

impl View {
    /// The live segment in which a position lies.
    pub(super) fn segment_at(&self, lsn: Lsn) -> Option<Arc<Segment>> {
        if lsn >= self.active.header.base {
            return Some(Arc::clone(&self.active));
        }
        let after = self.sealed.partition_point(|segment| segment.header.end() <= lsn);
        self.sealed.get(after).filter(|segment| segment.header.base <= lsn).map(Arc::clone)
    }

    /// The start of a frame at or before the record, if it is in a live segment and written.
    pub(super) fn locate(&self, slot: Slot, seq: Seq) -> Option<Lsn> {
        let active = self.index.get(slot).map(|span| (&self.active, span));
        let sealed = self.sealed.iter().rev().filter_map(|segment| {
            let span = segment.index.get().and_then(|index| index.get(slot))?;
            Some((segment, span))
        });
        let (segment, span) =
            active.into_iter().chain(sealed).find(|(_, span)| span.first <= seq && seq <= span.last)?;
        let offset = if seq == span.last { span.last_offset } else { span.first_offset };
        let lsn = segment.header.base.advance(u64::from(offset));
        (lsn < self.end).then_some(lsn)
    }

    /// All live segments, oldest first.
    pub(super) fn segments(&self) -> Vec<SegmentInfo> {
        let sealed = self.sealed.iter().map(|segment| SegmentInfo {
            base: segment.header.base,
            end: segment.header.end(),
            sealed: true,
            index: segment.index.get().map(Arc::clone).unwrap_or_default(),
        });
        let active = SegmentInfo {
            base: self.active.header.base,
            // Its first frame is still on its way, or failed: the log's end lies in the segment before.
            end: self.end.max(self.active.header.base),
            sealed: false,
            index: Arc::new(self.index.snapshot()),
        };
        sealed.chain([active]).collect()
    }
}
