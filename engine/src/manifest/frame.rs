//! Frames of a manifest file: each holds edits that take effect together or not at all.
//!
//! ```text
//! manifest file `manifest/NNNNNN`, part of the format; all numbers little-endian: frames, one after another
//!  0   4   crc        CRC-32 of everything after it
//!  4   4   body_len   bytes after the header; 0 in a frame that only confirms the one before
//!  8   8   position   of this frame in the file
//! 16   2   format     version, 1
//! 18   6   magic      "HPMANI"
//! 24   8   features   `features.rs`
//! 32   n   body       edits (`edit.rs`); of the first frame: those that make up the whole state
//!
//! `manifest/CURRENT`, part of the format: one line of text: the file's name, a space, CRC-32 of the name as 8
//! hexadecimal digits
//! ```
//! A frame is synced before the next is written, so a frame that does not hold is damage if a valid frame follows,
//! else the torn end of a write that nobody was told of. After each sync an empty frame is written, without a sync of
//! its own, and the next frame takes its place: it tells damage to the last frame from a torn end.

use crate::features::Features;
use crate::flipped::flipped;

/// Bytes of a frame's header. Part of the format.
pub(super) const HEADER_BYTES: usize = 32;
/// The format's version.
pub(super) const FORMAT_VERSION: u16 = 1;
const MAGIC: [u8; 6] = *b"HPMANI";

/// What lies at a position.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Found<'a> {
    /// A whole frame and its length.
    Frame { body: &'a [u8], len: usize },
    /// A whole frame of a version that this program does not know.
    Newer(u16),
    /// A whole frame that needs a feature that this program does not know.
    Feature(u32),
    /// No whole frame.
    Nothing,
}

/// Appends a frame that will stand at `position`.
///
/// # Panics
/// If the body is above 4 GiB.
pub(super) fn encode(out: &mut Vec<u8>, position: u64, body: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let len = u32::try_from(body.len()).expect("edits of one frame are far below 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&position.to_le_bytes());
    out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&Features::WRITTEN.encode());
    out.extend_from_slice(body);
    let crc = crc32fast::hash(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Looks for a frame at `position` of the file's bytes.
pub(super) fn read_at(file: &[u8], position: usize) -> Found<'_> {
    parse(file, position).unwrap_or(Found::Nothing)
}

fn parse(file: &[u8], position: usize) -> Option<Found<'_>> {
    let bytes = file.get(position..)?;
    let head = bytes.first_chunk::<HEADER_BYTES>()?;
    let (crc, rest) = head.split_first_chunk::<4>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (own, rest) = rest.split_first_chunk::<8>()?;
    let (version, rest) = rest.split_first_chunk::<2>()?;
    let (magic, features) = rest.split_first_chunk::<6>()?;
    if u64::from_le_bytes(*own) != position as u64 || *magic != MAGIC {
        return None;
    }
    let len = HEADER_BYTES.checked_add(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
    let whole = bytes.get(..len)?;
    if crc32fast::hash(&whole[4..]) != u32::from_le_bytes(*crc) {
        return None;
    }
    match u16::from_le_bytes(*version) {
        FORMAT_VERSION if let Some(bit) = Features::decode(features).unknown() => Some(Found::Feature(bit)),
        FORMAT_VERSION => Some(Found::Frame { body: &whole[HEADER_BYTES..], len }),
        newer => Some(Found::Newer(newer)),
    }
}

/// The body that the frame which fills these bytes had, if one flipped bit is all that is wrong with it.
pub(super) fn explained(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut frame = bytes.to_vec();
    let len = u32::try_from(bytes.len().checked_sub(HEADER_BYTES)?).ok()?.to_le_bytes();
    let other_len = frame[4..8] != len;
    frame[4..8].copy_from_slice(&len);
    let wrong = crc32fast::hash(&frame[4..]) ^ u32::from_le_bytes(*frame.first_chunk()?);
    if wrong != 0 && (other_len || !wrong.is_power_of_two()) {
        let (at, bit) = flipped(frame.len() - 4, 0, wrong).filter(|_| !other_len)?;
        *frame.get_mut(4 + at)? ^= bit;
    }
    Some(frame.split_off(HEADER_BYTES))
}

/// The first position after `from` at which a whole frame lies.
pub(super) fn next_after(file: &[u8], from: usize) -> Option<usize> {
    (from + 1..file.len()).find(|&at| read_at(file, at) != Found::Nothing)
}
