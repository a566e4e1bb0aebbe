//! What can be saved out of a stretch of a segment that holds no frames any more: records carry checksums of their
//! own, so a frame that does not hold still has all records but those that the damage hit.
//!
//! Of those the header may be hit too, and it alone says whose record it is. But where the next record that holds
//! begins, this one ends, and its checksum tells which bit was flipped, or which byte of the header: what it said
//! then is known. Nothing that does not hold is ever given back as data; this is for naming what is lost.

use super::frame::{self, HEADER_BYTES as FRAME_HEADER_BYTES};
use super::index::SlotIndex;
use super::record::{Claim, HEADER_BYTES as RECORD_HEADER_BYTES, Header, Record, claimed};
use super::scan::Image;
use crate::flipped::flipped;
use std::ops::Range;

/// Checksums over more bytes than this are not computed to look for records where they need not begin.
const HASHED_BYTES_MAX: usize = 1 << 30;
/// A longer record's checksum is not asked for what was hit: the chance that it tells something else grows with it.
const EXPLAINED_BYTES_MAX: usize = 1 << 20;

/// A record that does not hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LostRecord {
    /// What it says of itself.
    pub header: Header,
    /// It said so when it was written, by its checksum. Else this may have been hit too.
    pub sure: bool,
}

/// What is left of damaged bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Salvage {
    /// Where in the segment records lie that hold, ascending.
    pub(super) records: Vec<Range<usize>>,
    /// Records that do not hold.
    pub(super) lost: Vec<LostRecord>,
    /// There may have been more records, of any slot.
    pub(super) unknown: bool,
}

/// Looks for records in the bytes `from..to` of a segment, in which no frame holds. The first byte is where a frame
/// should begin.
pub(super) fn salvage(image: &Image, from: usize, to: usize) -> Salvage {
    let mut search = Search::default();
    let names_itself = |at: &usize| frame::claimed_len(&image.bytes[*at..to], image.lsn(*at)).is_some();
    let others = (frame::align(from + 1)..to).step_by(frame::ALIGN_BYTES).filter(names_itself);
    let starts: Vec<usize> = std::iter::once(from).chain(others).collect();
    for (index, &start) in starts.iter().enumerate() {
        let end = starts.get(index + 1).copied().unwrap_or(to);
        let body = (start + FRAME_HEADER_BYTES).min(end);
        // Flags are not believed: whether the logical frame goes on shows before and after it, and in its records.
        match frame::claimed_body(&image.bytes[start..end], image.lsn(start)) {
            _ if image.seal_offset() == Some(start) => {}
            // What a seal said can be told from the records.
            Some((flags, bytes)) if flags & frame::SEAL != 0 && is_index(image, body, end, bytes) => {}
            _ => search.take(&image.bytes, body..end, frame::ALIGN_BYTES - 1),
        }
    }
    search.found
}

fn is_index(image: &Image, body: usize, end: usize, bytes: usize) -> bool {
    bytes > 0 && body + bytes <= end && SlotIndex::decode(&image.bytes[body..body + bytes]).is_some()
}

/// As [`salvage`], in the body of a logical frame that is not whole.
pub(super) fn salvage_body(body: &[u8]) -> Salvage {
    let mut search = Search::default();
    search.take(body, 0..body.len(), 0);
    Salvage { unknown: true, ..search.found }
}

#[derive(Default)]
struct Search {
    found: Salvage,
    hashed_bytes: usize,
}

impl Search {
    /// Takes the records that hold; between them, what must have been records. At the end there may be as much padding.
    fn take(&mut self, bytes: &[u8], body: Range<usize>, padding_max: usize) {
        let mut at = body.start;
        while at < body.end {
            let rest = &bytes[at..body.end];
            if rest.len() <= padding_max {
                return;
            }
            if let Some(len) = self.holds(rest) {
                self.found.records.push(at..at + len);
                at += len;
            } else {
                at += self.pass(rest, padding_max);
            }
        }
    }

    /// The length of the record at the front, if it holds.
    fn holds(&mut self, bytes: &[u8]) -> Option<usize> {
        let len = claimed(bytes)?.bytes;
        if len > bytes.len() || self.hashed_bytes > HASHED_BYTES_MAX {
            return None;
        }
        self.hashed_bytes += len;
        Record::take(&mut &bytes[..len]).is_ok().then_some(len)
    }

    /// Notes the record that does not hold at the front, or all up to the next that does; gives their bytes.
    fn pass(&mut self, rest: &[u8], padding_max: usize) -> usize {
        let next = (1..rest.len()).find(|&to| self.holds(&rest[to..]).is_some());
        let end = next.unwrap_or(rest.len());
        // By its own word it may end later: one that holds may lie within its value.
        let later = claimed(rest).map(|claim| claim.bytes).filter(|&to| {
            end < to
                && to <= rest.len()
                && (is_padding(&rest[to..], padding_max) || self.holds(&rest[to..]).is_some())
        });
        let unpadded = (0..=if next.is_none() { padding_max.min(end) } else { 0 })
            .take_while(|&count| rest[end - count..end].iter().all(|byte| *byte == 0))
            .map(|count| end - count);
        for end in later.into_iter().chain(unpadded) {
            if let Some(claim) = explained(&rest[..end]) {
                self.lose(&[claim], true);
                return end;
            }
        }
        match chain(rest, later.unwrap_or(end), padding_max) {
            Some(claims) => self.lose(&claims, false),
            None => self.found.unknown = true,
        }
        later.unwrap_or(end)
    }

    fn lose(&mut self, claims: &[Claim], sure: bool) {
        let history = claims.iter().filter(|claim| claim.is_history);
        self.found.lost.extend(history.map(|claim| LostRecord { header: claim.header, sure }));
    }
}

fn is_padding(bytes: &[u8], padding_max: usize) -> bool {
    bytes.len() <= padding_max && bytes.iter().all(|byte| *byte == 0)
}

/// The records that fill `rest[..end]` by their own word.
fn chain(rest: &[u8], end: usize, padding_max: usize) -> Option<Vec<Claim>> {
    let (mut claims, mut at) = (Vec::new(), 0);
    while at < end && !(end == rest.len() && is_padding(&rest[at..], padding_max)) {
        let claim = claimed(&rest[at..]).filter(|claim| claim.bytes <= end - at)?;
        claims.push(claim);
        at += claim.bytes;
    }
    Some(claims)
}

/// What the record that fills these bytes said of itself, if a flipped bit or a hit byte in its header is all that is
/// wrong with it.
fn explained(bytes: &[u8]) -> Option<Claim> {
    let mut head = *bytes.first_chunk::<RECORD_HEADER_BYTES>()?;
    let body_len = u32::try_from(bytes.len() - RECORD_HEADER_BYTES).ok()?.to_le_bytes();
    let other_len = head[4..8] != body_len;
    head[4..8].copy_from_slice(&body_len);
    if bytes.len() > EXPLAINED_BYTES_MAX {
        return None;
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[4..]);
    hasher.update(&bytes[RECORD_HEADER_BYTES..]);
    let wrong = hasher.finalize() ^ u32::from_le_bytes(*head.first_chunk()?);
    // The length alone was hit, or a bit of the checksum itself.
    let is_told = wrong == 0 || (!other_len && wrong.is_power_of_two());
    if !is_told {
        let (at, byte) = flipped(bytes.len() - 4, RECORD_HEADER_BYTES - 4, wrong).filter(|_| !other_len)?;
        if let Some(hit) = head.get_mut(4 + at) {
            *hit ^= byte;
        }
    }
    claimed(&head).filter(|claim| claim.bytes == bytes.len())
}

#[cfg(test)]
mod tests {
    use super::super::record::{Body, encode};
    use super::*;
    use crate::types::{Seq, Slot};

    fn three() -> (Vec<u8>, Vec<Range<usize>>, Vec<Header>) {
        let (mut bytes, mut ranges, mut headers) = (Vec::new(), Vec::new(), Vec::new());
        for (slot, seq, body) in [(5, 1, 300), (1023, 7_000_000, 40), (6, 2, 0)] {
            let header = Header { slot: Slot::new(slot).unwrap(), term: 3, seq: Seq(seq) };
            let from = bytes.len();
            encode(&mut bytes, header, &Body::Batch(&vec![0xa5; body]));
            ranges.push(from..bytes.len());
            headers.push(header);
        }
        (bytes, ranges, headers)
    }

    fn search(bytes: &[u8], padding_max: usize) -> Salvage {
        let mut search = Search::default();
        search.take(bytes, 0..bytes.len(), padding_max);
        search.found
    }

    #[test]
    fn whichever_bit_is_flipped_its_record_is_named_and_the_others_are_kept() {
        let (whole, ranges, headers) = three();
        for padding in [0, 3] {
            for bit in 0..whole.len() * 8 {
                let mut bytes = whole.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                bytes.resize(bytes.len() + padding, 0);
                let found = search(&bytes, padding);
                let hit = ranges.iter().position(|range| range.contains(&(bit / 8))).unwrap();
                let (mut kept, mut left) = (found.records.clone(), ranges.clone());
                left.remove(hit);
                kept.sort_by_key(|range| range.start);
                assert_eq!(kept, left, "bit {bit}");
                assert_eq!(found.lost, [LostRecord { header: headers[hit], sure: true }], "bit {bit}");
                assert!(!found.unknown, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_header_that_lost_a_byte_is_known_by_its_checksum() {
        let (whole, ranges, headers) = three();
        for (range, header) in ranges.iter().zip(headers) {
            for at in range.start + 4..range.start + RECORD_HEADER_BYTES {
                let mut bytes = whole.clone();
                bytes[at] ^= 0x5a;
                let found = search(&bytes, 0);
                assert_eq!(found.lost, [LostRecord { header, sure: true }], "byte {at}");
                assert_eq!((found.records.len(), found.unknown), (2, false), "byte {at}");
            }
        }
    }

    #[test]
    fn what_can_not_be_known_is_told_as_such() {
        let (whole, _, headers) = three();
        // More of a body than a bit: the header is as it was, and nothing proves it.
        let mut bytes = whole.clone();
        bytes[30..50].fill(0);
        assert_eq!(search(&bytes, 0).lost, [LostRecord { header: headers[0], sure: false }]);
        // The whole of it.
        let mut bytes = whole.clone();
        bytes[..320].fill(0xff);
        let found = search(&bytes, 0);
        assert_eq!((found.records.len(), found.lost.len(), found.unknown), (2, 0, true));
        // A record in a value is not taken for one of the log while the one around it tells its length.
        let inner = &whole[..320];
        let mut outer = Vec::new();
        encode(&mut outer, headers[1], &Body::Batch(inner));
        outer[21] ^= 4;
        let found = search(&outer, 0);
        assert_eq!(found.lost, [LostRecord { header: headers[1], sure: true }]);
        assert_eq!(found.records, []);
    }
}
