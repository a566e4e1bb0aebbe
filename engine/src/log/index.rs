//! Which records of which slots a segment holds.
//!
//! ```text
//! slot index, the body of a seal; part of the format; one entry per slot present, slots ascending
//!  0   2   slot
//!  2   6   first seq    of the slot's last dense run of seqs in this segment
//!  8   6   last seq
//! 14   4   first offset in the segment, of the logical frame that holds the first record
//! 18   4   last offset  in the segment, of the logical frame that holds the last record
//! ```
//! A logical frame belongs to the segment in which it begins. A slot whose seqs do not go on where they stopped
//! (it was dropped and made again, or took a copy) begins a new run; only the last run is indexed, because what
//! lies before is of no use to anybody.

use crate::types::{SLOT_COUNT, Seq, Slot};

/// Bytes of an entry. Part of the format.
pub const ENTRY_BYTES: usize = 22;

/// Where a slot's records lie in a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The first record of the slot's last dense run.
    pub first: Seq,
    /// The last record.
    pub last: Seq,
    /// Where in the segment's file the logical frame with the first record begins.
    pub first_offset: u32,
    /// Where in the segment's file the logical frame with the last record begins.
    pub last_offset: u32,
}

/// The slots of a segment, ascending, each with its span.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SlotIndex {
    /// Invariant: slots strictly ascend.
    spans: Box<[(Slot, Span)]>,
}

impl SlotIndex {
    /// Bytes of memory that it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.spans)
    }

    /// The slot's span, if the segment has records of it.
    #[must_use]
    pub fn get(&self, slot: Slot) -> Option<&Span> {
        let at = self.spans.binary_search_by_key(&slot, |(slot, _)| *slot).ok()?;
        Some(&self.spans[at].1)
    }

    /// All slots present, ascending.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Slot, &Span)> {
        self.spans.iter().map(|(slot, span)| (*slot, span))
    }

    /// Appends the index as a seal's body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for (slot, span) in self.iter() {
            out.extend_from_slice(&slot.number().to_le_bytes());
            out.extend_from_slice(&span.first.0.to_le_bytes()[..6]);
            out.extend_from_slice(&span.last.0.to_le_bytes()[..6]);
            out.extend_from_slice(&span.first_offset.to_le_bytes());
            out.extend_from_slice(&span.last_offset.to_le_bytes());
        }
    }

    /// Reads a seal's body; `None` if it is none.
    #[must_use]
    pub fn decode(body: &[u8]) -> Option<SlotIndex> {
        let (entries, rest) = body.as_chunks::<ENTRY_BYTES>();
        let spans = entries.iter().map(decode_entry).collect::<Option<Box<[_]>>>()?;
        let ordered = spans.windows(2).all(|pair| pair[0].0 < pair[1].0);
        (ordered && rest.is_empty()).then_some(SlotIndex { spans })
    }
}

fn decode_entry(entry: &[u8; ENTRY_BYTES]) -> Option<(Slot, Span)> {
    let slot = Slot::new(u16::from_le_bytes(*entry.first_chunk()?))?;
    let span = Span {
        first: take_seq(&entry[2..8]),
        last: take_seq(&entry[8..14]),
        first_offset: u32::from_le_bytes(*entry[14..].first_chunk()?),
        last_offset: u32::from_le_bytes(*entry[18..].first_chunk()?),
    };
    (span.first <= span.last && span.first_offset <= span.last_offset).then_some((slot, span))
}

fn take_seq(bytes: &[u8]) -> Seq {
    let mut raw = [0; 8];
    raw[..bytes.len()].copy_from_slice(bytes);
    Seq(u64::from_le_bytes(raw))
}

/// The index of a segment that still grows.
#[derive(Clone, Debug)]
pub struct GrowingIndex {
    spans: Box<[Option<Span>]>,
}

impl Default for GrowingIndex {
    fn default() -> GrowingIndex {
        GrowingIndex { spans: vec![None; usize::from(SLOT_COUNT)].into_boxed_slice() }
    }
}

impl GrowingIndex {
    /// Notes a record in the logical frame that begins at `offset` in the segment's file.
    pub fn add(&mut self, slot: Slot, seq: Seq, offset: u32) {
        match &mut self.spans[slot.index()] {
            Some(span) if span.last.next() == seq => {
                span.last = seq;
                span.last_offset = offset;
            }
            other => {
                *other = Some(Span { first: seq, last: seq, first_offset: offset, last_offset: offset });
            }
        }
    }

    /// The slot's span so far.
    #[must_use]
    pub fn get(&self, slot: Slot) -> Option<&Span> {
        self.spans[slot.index()].as_ref()
    }

    /// The index as it is now.
    #[must_use]
    pub fn snapshot(&self) -> SlotIndex {
        let spans = Slot::all().filter_map(|slot| Some((slot, self.spans[slot.index()]?))).collect();
        SlotIndex { spans }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(number: u16) -> Slot {
        Slot::new(number).unwrap()
    }

    #[test]
    fn an_index_reads_back_and_keeps_a_slots_last_run() {
        let mut growing = GrowingIndex::default();
        for (number, seq, offset) in
            [(7, 900, 64), (3, 1, 64), (7, 901, 128), (3, 2, 256), (7, 1, 256), (7, 2, 300)]
        {
            growing.add(slot(number), Seq(seq), offset);
        }
        let index = growing.snapshot();
        let span = |first, last, first_offset, last_offset| Span { first, last, first_offset, last_offset };
        assert_eq!(index.get(slot(7)), Some(&span(Seq(1), Seq(2), 256, 300)));
        assert_eq!(index.get(slot(3)), Some(&span(Seq(1), Seq(2), 64, 256)));
        assert_eq!(index.get(slot(4)), None);
        let mut bytes = Vec::new();
        index.encode(&mut bytes);
        assert_eq!(bytes.len(), 2 * ENTRY_BYTES);
        assert_eq!(SlotIndex::decode(&bytes), Some(index));
        assert_eq!(SlotIndex::decode(&bytes[1..]), None);
    }
}
