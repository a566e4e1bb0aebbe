//! What can be saved out of a stretch of a segment that holds no frames any more: records carry checksums of their
//! own, so a frame that does not hold still has all records but those that the damage hit.

use super::frame::{self, HEADER_BYTES as FRAME_HEADER_BYTES};
use super::record::{HEADER_BYTES as RECORD_HEADER_BYTES, Header, Record, claimed};
use super::scan::Image;
use std::ops::Range;

/// What is left of damaged bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Salvage {
    /// Where in the segment records lie that hold, ascending.
    pub(super) records: Vec<Range<usize>>,
    /// Records that do not hold, by the word of what is left of their headers.
    pub(super) lost: Vec<Header>,
    /// There may have been more records, of any slot.
    pub(super) unknown: bool,
}

/// Looks for records in the bytes `from..to` of a segment, in which no frame holds. The first byte is where a frame
/// should begin.
pub(super) fn salvage(image: &Image, from: usize, to: usize) -> Salvage {
    let mut out = Salvage::default();
    let names_itself = |at: &usize| frame::claimed_len(&image.bytes[*at..to], image.lsn(*at)).is_some();
    let others = (frame::align(from + 1)..to).step_by(frame::ALIGN_BYTES).filter(names_itself);
    let starts: Vec<usize> = std::iter::once(from).chain(others).collect();
    for (index, &start) in starts.iter().enumerate() {
        let end = starts.get(index + 1).copied().unwrap_or(to);
        let body = (start + FRAME_HEADER_BYTES).min(end);
        match frame::claimed_body(&image.bytes[start..end], image.lsn(start)) {
            // What a seal said can be told from the records.
            Some((flags, _)) if flags & frame::SEAL != 0 => {}
            Some((flags, bytes)) if frame::align(FRAME_HEADER_BYTES + bytes) == end - start => {
                out.unknown |= flags & (frame::MORE | frame::CONTINUED) != 0;
                out.take(&image.bytes, body..body + bytes, 0);
            }
            _ => out.take(&image.bytes, body..end, frame::ALIGN_BYTES - 1),
        }
    }
    out
}

/// As [`salvage`], in the body of a logical frame that is not whole.
pub(super) fn salvage_body(body: &[u8]) -> Salvage {
    let mut out = Salvage::default();
    out.take(body, 0..body.len(), 0);
    out.unknown = true;
    out
}

impl Salvage {
    /// Takes the records that hold; between them, what must have been records. At the end there may be as much padding.
    fn take(&mut self, bytes: &[u8], body: Range<usize>, padding_max: usize) {
        let (mut at, mut gap) = (body.start, body.start);
        while at < body.end {
            let mut rest = &bytes[at..body.end];
            let Ok(record) = Record::take(&mut rest) else {
                at += 1;
                continue;
            };
            let end = at + record.bytes.len();
            self.judge(bytes, gap..at, 0);
            self.records.push(at..end);
            (at, gap) = (end, end);
        }
        self.judge(bytes, gap..body.end, padding_max);
    }

    /// What lay in a gap, by the headers in it.
    fn judge(&mut self, bytes: &[u8], gap: Range<usize>, padding_max: usize) {
        let mut at = gap.start;
        while at < gap.end {
            let rest = &bytes[at..gap.end];
            if rest.len() <= padding_max && rest.iter().all(|byte| *byte == 0) {
                return;
            }
            match claimed(rest)
                .filter(|claim| RECORD_HEADER_BYTES <= claim.bytes && claim.bytes <= rest.len())
            {
                Some(claim) => {
                    self.lost.extend(claim.is_history.then_some(claim.header));
                    at += claim.bytes;
                }
                None => {
                    self.unknown = true;
                    return;
                }
            }
        }
    }
}
