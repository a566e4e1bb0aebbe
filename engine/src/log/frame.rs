//! Frames: one group commit, or a part of it, within a segment.
//!
//! ```text
//! frame, part of the format; all numbers little-endian; begins at a multiple of 8 bytes within its segment
//!  0   4   crc          CRC-32 of the segment's salt, then of everything after this field, padding included
//!  4   2   magic        0x6648 ("Hf")
//!  6   2   flags        1 more, 2 continued, 4 seal, 8 clean stop; others 0
//!  8   4   body_len     bytes of the body
//! 12   4   incarnation  which start of the node wrote it; never falls from one frame to the next
//! 16   8   lsn          its own position
//! 24   8   synced_lsn   everything before this was known durable when the frame was written; at most lsn
//! 32   n   body         records back to back; of a seal: the slot index (index.rs)
//!      0-7 padding      zeros up to a multiple of 8
//! ```
//! A *logical frame* is a chain: each part but the last says `more`, each but the first says `continued`, the
//! bodies are put together. It is valid only with its last part. A seal may stand between two parts.

use crate::planted::{self, Bug};
use crate::types::Lsn;
use std::ops::Range;

/// Bytes of a frame's header. Part of the format.
pub const HEADER_BYTES: usize = 32;
/// The greatest body of a logical frame. Part of the format.
pub const LOGICAL_BYTES_MAX: usize = 2 << 30;
/// Frames begin at multiples of this. Part of the format.
pub const ALIGN_BYTES: usize = 8;

const MAGIC: [u8; 2] = *b"Hf";

/// The logical frame goes on in the next frame.
pub const MORE: u16 = 1;
/// This frame goes on with the one before.
pub const CONTINUED: u16 = 2;
/// The segment's last frame; its body is the slot index.
pub const SEAL: u16 = 4;
/// The node stopped here in order; everything before is durable.
pub const CLEAN_STOP: u16 = 8;
const KNOWN_FLAGS: u16 = MORE | CONTINUED | SEAL | CLEAN_STOP;

/// What ties frames to their segment's file: the checksum begins with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Salt(pub u32);

/// A frame's header without what follows from the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// [`MORE`], [`CONTINUED`], [`SEAL`], [`CLEAN_STOP`].
    pub flags: u16,
    /// The start of the node that wrote it.
    pub incarnation: u32,
    /// Its position.
    pub lsn: Lsn,
    /// What was durable when it was written.
    pub synced: Lsn,
}

impl FrameHeader {
    /// Whether a flag is set.
    #[must_use]
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// A frame found in a segment's bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Its header.
    pub header: FrameHeader,
    /// Where in the given bytes its body lies.
    pub body: Range<usize>,
    /// Where in the given bytes the next frame may begin.
    pub end: usize,
}

/// What lies at a position.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// A frame whose checksum and position hold.
    Frame(Frame),
    /// A header of zeros: nothing was written here.
    Blank,
    /// Something else.
    Bad(&'static str),
}

/// Rounds up to where a frame may end.
#[must_use]
pub const fn align(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGN_BYTES)
}

/// Makes a frame of `buffer`, which holds [`HEADER_BYTES`] of anything and then the body; pads it.
///
/// # Panics
/// If the buffer is shorter than a header, longer than 4 GiB, or promises what comes after it.
pub fn seal_up(buffer: &mut Vec<u8>, header: &FrameHeader, salt: Salt) {
    let body_bytes = buffer.len().checked_sub(HEADER_BYTES).expect("the buffer begins with a header's place");
    buffer.resize(align(buffer.len()), 0);
    seal(buffer, body_bytes, header, salt);
}

/// Makes a frame of `buffer`, which holds [`HEADER_BYTES`] of anything, the body and its padding.
///
/// # Panics
/// If the buffer is not as long as this, longer than 4 GiB, or promises what comes after it.
pub fn seal(buffer: &mut [u8], body_bytes: usize, header: &FrameHeader, salt: Salt) {
    assert!(header.synced <= header.lsn, "a frame at {} can't promise {}", header.lsn, header.synced);
    assert_eq!(buffer.len(), align(HEADER_BYTES + body_bytes), "a frame is header, body and padding");
    let body_len = u32::try_from(body_bytes).expect("a frame is shorter than its segment");
    buffer[4..6].copy_from_slice(&MAGIC);
    buffer[6..8].copy_from_slice(&header.flags.to_le_bytes());
    buffer[8..12].copy_from_slice(&body_len.to_le_bytes());
    buffer[12..16].copy_from_slice(&header.incarnation.to_le_bytes());
    buffer[16..24].copy_from_slice(&header.lsn.0.to_le_bytes());
    buffer[24..32].copy_from_slice(&header.synced.0.to_le_bytes());
    let crc = checksum(&buffer[4..], salt);
    buffer[..4].copy_from_slice(&crc.to_le_bytes());
}

/// The bytes that the frame whose header stands at the front of `bytes` takes, by its own word; `None` if this
/// is not the header of a frame at `lsn`.
#[must_use]
pub fn claimed_len(bytes: &[u8], lsn: Lsn) -> Option<usize> {
    let head = bytes.first_chunk::<HEADER_BYTES>()?;
    let is_frame = head[4..6] == MAGIC && le64(&head[16..]) == lsn.0;
    let body_len = usize::try_from(le32(&head[8..])).ok()?;
    is_frame.then_some(align(HEADER_BYTES.checked_add(body_len)?))
}

/// Flags and length of the body of the frame whose header stands at the front of `bytes`, by its own word; as
/// [`claimed_len`].
#[must_use]
pub fn claimed_body(bytes: &[u8], lsn: Lsn) -> Option<(u16, usize)> {
    claimed_len(bytes, lsn)?;
    let flags = u16::from_le_bytes([*bytes.get(6)?, *bytes.get(7)?]);
    Some((flags, usize::try_from(le32(bytes.get(8..)?)).ok()?))
}

/// Looks at the frame at `bytes[at..]`, which must be at the position `lsn`.
#[must_use]
pub fn parse(bytes: &[u8], at: usize, lsn: Lsn, salt: Salt) -> Parsed {
    let rest = bytes.get(at..).unwrap_or_default();
    let Some(head) = rest.first_chunk::<HEADER_BYTES>() else {
        return if rest.iter().all(|byte| *byte == 0) { Parsed::Blank } else { Parsed::Bad("cut short") };
    };
    if *head == [0; HEADER_BYTES] {
        return Parsed::Blank;
    }
    if head[4..6] != MAGIC {
        return Parsed::Bad("not a frame");
    }
    let Some(whole) = claimed_len(head, lsn) else { return Parsed::Bad("a frame of another position") };
    let Some(bytes) = rest.get(..whole) else { return Parsed::Bad("longer than its segment") };
    if checksum(&bytes[4..], salt) != le32(head) && !planted::is(Bug::TornFrameAccepted) {
        return Parsed::Bad("wrong checksum");
    }
    let flags = u16::from_le_bytes([head[6], head[7]]);
    let header = FrameHeader { flags, incarnation: le32(&head[12..]), lsn, synced: Lsn(le64(&head[24..])) };
    if flags & !KNOWN_FLAGS != 0 {
        return Parsed::Bad("flags of a newer version");
    }
    if header.synced > lsn {
        return Parsed::Bad("promises more than what lies before it");
    }
    let body_len = usize::try_from(le32(&head[8..])).unwrap_or(usize::MAX);
    let body = at + HEADER_BYTES..at + HEADER_BYTES + body_len;
    Parsed::Frame(Frame { header, body, end: at + whole })
}

fn checksum(bytes: &[u8], salt: Salt) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt.0);
    hasher.update(bytes);
    hasher.finalize()
}

fn le32(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |raw| u32::from_le_bytes(*raw))
}

fn le64(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |raw| u64::from_le_bytes(*raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_back_at_its_own_position_only() {
        let header = FrameHeader { flags: MORE, incarnation: 3, lsn: Lsn(4096), synced: Lsn(64) };
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.extend_from_slice(b"hello");
        seal_up(&mut bytes, &header, Salt(7));
        assert_eq!(bytes.len(), 40);
        let frame = Frame { header, body: 32..37, end: 40 };
        assert_eq!(parse(&bytes, 0, Lsn(4096), Salt(7)), Parsed::Frame(frame));
        assert!(matches!(parse(&bytes, 0, Lsn(4104), Salt(7)), Parsed::Bad(_)));
        assert!(matches!(parse(&bytes, 0, Lsn(4096), Salt(8)), Parsed::Bad(_)));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(parse(&bad, 0, Lsn(4096), Salt(7)), Parsed::Bad(_)), "bit {bit}");
        }
        for len in 1..bytes.len() {
            assert!(!matches!(parse(&bytes[..len], 0, Lsn(4096), Salt(7)), Parsed::Frame(_)), "{len}");
        }
        assert_eq!(parse(&[0; 40], 8, Lsn(4096), Salt(7)), Parsed::Blank);
    }
}
