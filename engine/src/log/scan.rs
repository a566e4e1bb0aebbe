//! A segment's bytes in memory, and what can be told from them when they are damaged.

use super::frame::{self, Frame, HEADER_BYTES as FRAME_HEADER_BYTES, Parsed};
use super::index::SlotIndex;
use super::record::{Claim, Header, Record, claimed};
use super::records;
use super::salvage::salvage;
use super::segment::{HEADER_BYTES as SEGMENT_HEADER_BYTES, Segment, SegmentHeader, TRAILER_BYTES};
use crate::error::{Error, Result};
use crate::types::{Lsn, Seq, Slot};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The records of slots' histories in a frame's body, up to the first that does not hold.
fn history(body: &[u8]) -> impl Iterator<Item = Record<'_>> {
    records(body).map_while(Result::ok).filter(|record| record.body.is_history())
}

/// A segment in memory, all of it or what follows a place.
pub(super) struct Image {
    pub(super) header: SegmentHeader,
    pub(super) bytes: Vec<u8>,
    /// From here on there are only zeros.
    pub(super) used_end: usize,
}

/// How much is read at once, and looked at before it is kept.
const PIECE_BYTES: usize = 256 << 10;

/// Where the zeros at the end of `bytes` begin.
fn used_end(bytes: &[u8]) -> usize {
    const PART: usize = 4096;
    // By parts first: comparing them is fast.
    let zeros = bytes.rchunks(PART).take_while(|part| **part == [0; PART][..part.len()]).count();
    let rest = &bytes[..bytes.len().saturating_sub(zeros * PART)];
    rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

impl Image {
    /// The whole segment.
    pub(super) fn load(segment: &Segment) -> Result<Image> {
        Image::load_from(segment, 0)
    }

    /// What lies in the segment from `from` on; before it there are zeros here, whatever the file holds.
    ///
    /// Memory that was never written costs nothing, and pieces of zeros are not copied: the image of a segment that is
    /// nearly empty is as small as what it holds.
    pub(super) fn load_from(segment: &Segment, from: usize) -> Result<Image> {
        let mut bytes = vec![0; usize::try_from(segment.header.bytes).expect("a segment is at most 1 GiB")];
        let mut piece = vec![0; PIECE_BYTES];
        let (mut at, mut end) = (from, from);
        while at < bytes.len() {
            let wanted = PIECE_BYTES.min(bytes.len() - at);
            let read = segment.file.read_at(&mut piece[..wanted], at as u64);
            let count = read.map_err(|error| Error::io(&segment.path, "read", &error))?;
            let used = used_end(&piece[..count]);
            if used > 0 {
                bytes[at..at + used].copy_from_slice(&piece[..used]);
                end = at + used;
            }
            if count < wanted {
                break;
            }
            at += count;
        }
        Ok(Image { header: segment.header, used_end: end, bytes })
    }

    /// Where frames must end, as an index into the bytes.
    fn frames_end(&self) -> usize {
        self.bytes.len() - TRAILER_BYTES
    }

    pub(super) fn lsn(&self, offset: usize) -> Lsn {
        self.header.base.advance(offset as u64)
    }

    /// What lies at `offset`.
    pub(super) fn frame(&self, offset: usize) -> Parsed {
        frame::parse(&self.bytes[..self.frames_end()], offset, self.lsn(offset), self.header.salt())
    }

    /// The first frame that begins after `offset`, wherever it may be.
    pub(super) fn next_frame(&self, offset: usize) -> Option<(usize, Frame)> {
        let first = frame::align(offset + 1);
        let salt = self.header.salt();
        let last = self.frames_end().saturating_sub(FRAME_HEADER_BYTES).min(self.used_end);
        (first..last).step_by(frame::ALIGN_BYTES).find_map(|at| {
            // Most positions are none: look at the header's own word before the checksum.
            frame::claimed_len(&self.bytes[at..self.frames_end()], self.lsn(at))?;
            match frame::parse(&self.bytes[..self.frames_end()], at, self.lsn(at), salt) {
                Parsed::Frame(frame) => Some((at, frame)),
                Parsed::Blank | Parsed::Bad(_) => None,
            }
        })
    }

    /// All frames that begin after `offset`, whatever lies between them.
    pub(super) fn frames_after(&self, mut offset: usize) -> impl Iterator<Item = Frame> {
        std::iter::from_fn(move || {
            let (_, frame) = self.next_frame(offset)?;
            offset = frame.end - frame::ALIGN_BYTES;
            Some(frame)
        })
    }

    /// Where the seal begins, by the trailer's word.
    pub(super) fn seal_offset(&self) -> Option<usize> {
        let offset = self.header.seal_offset(&self.bytes[self.frames_end()..])?;
        usize::try_from(offset).ok()
    }

    /// The last record of each slot in the whole frames before `offset`.
    pub(super) fn last_seqs_before(&self, offset: usize) -> BTreeMap<Slot, Seq> {
        let mut last = BTreeMap::new();
        let mut at = SEGMENT_HEADER_BYTES;
        while at < offset
            && let Parsed::Frame(frame) = self.frame(at)
        {
            at = frame.end;
            if !frame.header.has(frame::SEAL | frame::CONTINUED) {
                for record in history(&self.bytes[frame.body]) {
                    last.insert(record.header.slot, record.header.seq);
                }
            }
        }
        last
    }

    /// Notes the first record of each slot that begins in a frame after `offset`.
    pub(super) fn first_seqs_after(&self, offset: usize, first: &mut BTreeMap<Slot, Seq>) {
        for frame in
            self.frames_after(offset).filter(|frame| !frame.header.has(frame::SEAL | frame::CONTINUED))
        {
            // The last one may go on in the next segment; its header tells all the same.
            let mut body = &self.bytes[frame.body];
            while let Some(Claim { header, bytes, is_history }) = claimed(body) {
                if is_history {
                    first.entry(header.slot).or_insert(header.seq);
                }
                body = body.get(bytes..).unwrap_or_default();
            }
        }
    }
}

/// What is known of the records around and in a damaged stretch.
#[derive(Default)]
pub(super) struct Around {
    /// The last record of each slot before it.
    pub(super) before: BTreeMap<Slot, Seq>,
    /// The first record of each slot in the segments after it.
    pub(super) later: BTreeMap<Slot, Seq>,
    /// The segment's own index.
    pub(super) index: SlotIndex,
    /// The beginning of the logical frame that goes on in the stretch.
    pub(super) begun: Vec<u8>,
    /// What lies from here on was promised by nothing: if it does not hold either, it is torn.
    pub(super) promised: Option<Lsn>,
}

/// The first and the last of some records of a slot.
type Span = (Seq, Seq);

impl Image {
    /// The records that the stretch at `offset`, in which no frame holds, may have held.
    pub(super) fn lost(&self, offset: usize, around: &Around) -> Lost {
        let mut after = BTreeMap::new();
        self.first_seqs_after(offset, &mut after);
        around.later.iter().for_each(|(slot, seq)| _ = after.entry(*slot).or_insert(*seq));
        let mut within = BTreeMap::new();
        if !self.spans_left(offset, around, &after, &mut within) {
            let hit = |(slot, (first, last))| Hit { slot, first, last };
            return Lost { hits: within.into_iter().map(hit).collect(), more: false };
        }
        // The index is of all logical frames that begin in the segment.
        let more = around.index.iter().len() == 0 || !around.begun.is_empty();
        Lost { hits: hits(around, &after, &within), more }
    }

    /// Notes the records whose headers are left in a damaged stretch; says whether there may have been more.
    fn spans_left(
        &self,
        offset: usize,
        around: &Around,
        after: &BTreeMap<Slot, Seq>,
        within: &mut BTreeMap<Slot, Span>,
    ) -> bool {
        let next = self.next_frame(offset);
        let end = next.as_ref().map_or(self.used_end.max(offset), |(at, _)| *at);
        let promised = around.promised.and_then(|promised| promised.0.checked_sub(self.header.base.0));
        let end = end.min(promised.map_or(usize::MAX, |end| usize::try_from(end).unwrap_or(usize::MAX)));
        let saved = salvage(self, offset, end.min(self.frames_end()).max(offset));
        let claims = saved.records.into_iter().filter_map(|range| claimed(&self.bytes[range]));
        let held = claims.filter(|claim| claim.is_history).map(|claim| (claim.header, true));
        let lost = saved.lost.into_iter().map(|lost| (lost.header, lost.sure));
        let mut headers: Vec<_> = held.chain(lost).collect();
        // What has begun lies in frames that hold; only its last record goes on in the stretch.
        let mut begun = &around.begun[..];
        while let Some(claim) = claimed(begun) {
            headers.extend(claim.is_history.then_some((claim.header, true)));
            begun = begun.get(claim.bytes..).unwrap_or_default();
        }
        headers.sort_by_key(|(header, _)| (header.slot, header.seq));
        let goes_on = next.is_some_and(|(_, frame)| frame.header.has(frame::CONTINUED));
        let mut more = saved.unknown || goes_on || !around.begun.is_empty();
        for (Header { slot, seq, .. }, sure) in headers {
            let last = within.get(&slot).map(|span| span.1).or(around.before.get(&slot).copied());
            let follows = last.is_some_and(|last| last.next() == seq);
            // A header that was hit itself may say anything: it counts if it goes on where the slot was. Of a slot that
            // had no record before nothing says where that is.
            let unheard = last.is_none() && after.get(&slot).is_none_or(|next| seq < *next);
            more |= !sure && !follows;
            if sure || follows || unheard {
                within.entry(slot).or_insert((seq, seq)).1 = seq;
            }
        }
        more
    }
}

/// Records that damage may have hit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Hit {
    slot: Slot,
    first: Seq,
    last: Seq,
}

/// The records that lie in a hole, told from what is left in it and from what lies around it: the last record of each
/// slot before it, the first after it, and the span that the segment's own index gives.
fn hits(around: &Around, after: &BTreeMap<Slot, Seq>, within: &BTreeMap<Slot, Span>) -> Vec<Hit> {
    let indexed: BTreeMap<Slot, Span> =
        around.index.iter().map(|(slot, span)| (slot, (span.first, span.last))).collect();
    let slots: BTreeSet<Slot> = after.keys().chain(within.keys()).chain(indexed.keys()).copied().collect();
    let hit = |slot: Slot| {
        let (within, indexed): (Option<&Span>, _) = (within.get(&slot), indexed.get(&slot));
        let before = around.before.get(&slot).map(|seq| seq.next());
        let first = match within {
            // What lies here lies behind what came before, whatever that was: the slot may have begun anew.
            Some((first, _)) => before.filter(|before| before <= first).unwrap_or(*first),
            None => before.or(indexed.map(|span| span.0))?,
        };
        let last = match after.get(&slot) {
            Some(next) if within.is_none_or(|span| span.1 < *next) => Seq(next.0.checked_sub(1)?),
            _ => within.into_iter().chain(indexed).map(|span| span.1).max()?,
        };
        (first <= last).then_some(Hit { slot, first, last })
    };
    slots.into_iter().filter_map(hit).collect()
}

/// How many slots an error names.
const NAMED_HITS_MAX: usize = 16;

/// What damage may have hit, as a person reads it.
pub(super) struct Lost {
    hits: Vec<Hit>,
    /// There may have been more, of any slot.
    more: bool,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.hits.is_empty() {
            let told = if self.more { "which records it held can't be told" } else { "it held no records" };
            return f.write_str(told);
        }
        f.write_str("it held")?;
        for (index, hit) in self.hits.iter().take(NAMED_HITS_MAX).enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma} slot {} seq {}..{}", hit.slot, hit.first, hit.last)?;
        }
        let unnamed = self.hits.len().saturating_sub(NAMED_HITS_MAX);
        if unnamed > 0 {
            write!(f, " and of {unnamed} more slots")?;
        }
        f.write_str(if self.more { ", perhaps more" } else { "" })
    }
}
