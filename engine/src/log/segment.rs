//! Segment files: a header, frames back to back, a seal and a trailer at the end.
//!
//! ```text
//! segment, part of the format; all numbers little-endian; the file has its full size from the start
//!  0   4   crc           CRC-32 of bytes 4 to 64
//!  4   4   magic         "HPLG"
//!  8   2   version       1
//! 10   2   zero
//! 12  20   node          whose log it is
//! 32   8   number        of the segment: 0, 1, 2 ...; also the file's name, 16 hex digits and ".log"
//! 40   8   base_lsn      position of the file's first byte
//! 48   8   bytes         the file's size; the next segment's base is base_lsn + bytes
//! 56   8   features      `features.rs`
//! 64       frames        (frame.rs), then zeros; the last frame of a sealed segment is its seal
//! -16  4   crc           trailer: CRC-32 of the salt, then of what follows it
//! -12  4   magic         "HPSL"
//! -8   8   seal offset   where in the file the seal begins
//! ```
//! The salt of a segment's frames and trailer is the CRC-32 of its header's bytes 12 to 48: frames of another
//! node or another segment never hold here. A file named `.tmp` instead of `.log` is a segment that was prepared
//! and is not in use.

use super::frame::{self, HEADER_BYTES as FRAME_HEADER_BYTES, Parsed, Salt};
use super::index::{ENTRY_BYTES, SlotIndex};
use crate::error::{Error, Result};
use crate::features::{self, Features};
use crate::fs::pool::FilePool;
use crate::fs::{File, Fs, OpenMode};
use crate::types::{Lsn, NodeId, SLOT_COUNT};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Bytes of a segment's header. Part of the format.
pub const HEADER_BYTES: usize = 64;
/// Bytes of the trailer. Part of the format.
pub const TRAILER_BYTES: usize = 16;
/// What is kept free at a segment's end for the seal of all slots and the trailer. Part of the format.
pub const SEAL_ROOM_BYTES: usize =
    frame::align(FRAME_HEADER_BYTES + SLOT_COUNT as usize * ENTRY_BYTES) + TRAILER_BYTES;
/// The smallest segment.
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// The largest segment: one is read into memory at recovery.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;

const _: () = assert!((SEAL_ROOM_BYTES as u64) < SEGMENT_BYTES_MIN / 2);
const _: () = assert!(SEAL_ROOM_BYTES.is_multiple_of(frame::ALIGN_BYTES) && HEADER_BYTES.is_multiple_of(8));

const MAGIC: [u8; 4] = *b"HPLG";
const TRAILER_MAGIC: [u8; 4] = *b"HPSL";
const VERSION: u16 = 1;
const ZEROS: &[u8] = &[0; 256 << 10];
/// What the device writes of them in a few milliseconds.
const ZEROED_AT_ONCE_BYTES: u64 = 2 << 20;

/// How room is made for a segment. Either way its file has its full size, reads as zeros and finds the device with room
/// for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// The file system is asked to keep it: nothing is written.
    Reserved,
    /// Zeros are written: each later sync has a page to write and no extent to convert. Worth it where a sync is waited for.
    Zeroed,
}

/// What a segment's header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// Whose log it is.
    pub node: NodeId,
    /// Which segment of that log.
    pub number: u64,
    /// The position of the file's first byte.
    pub base: Lsn,
    /// The file's size.
    pub bytes: u64,
}

/// Why a segment's header can't be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadHeader {
    /// The bytes are not what was written.
    Damaged(&'static str),
    /// A later version of the format.
    Newer(u16),
    /// A feature that this program does not know.
    Feature(u32),
}

impl SegmentHeader {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[4..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[12..32].copy_from_slice(&self.node.0);
        out[32..40].copy_from_slice(&self.number.to_le_bytes());
        out[40..48].copy_from_slice(&self.base.0.to_le_bytes());
        out[48..56].copy_from_slice(&self.bytes.to_le_bytes());
        out[56..].copy_from_slice(&Features::WRITTEN.encode());
        let crc = crc32fast::hash(&out[4..]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header and checks it.
    ///
    /// # Errors
    /// See [`BadHeader`].
    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader, BadHeader> {
        let raw = bytes.first_chunk::<HEADER_BYTES>().ok_or(BadHeader::Damaged("shorter than a header"))?;
        if raw[4..8] != MAGIC {
            return Err(BadHeader::Damaged("not a log segment"));
        }
        let version = u16::from_le_bytes([raw[8], raw[9]]);
        if crc32fast::hash(&raw[4..]) != u32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]) {
            return Err(BadHeader::Damaged("the header's checksum is wrong"));
        }
        if version > VERSION {
            return Err(BadHeader::Newer(version));
        }
        if let Some(bit) = Features::decode(&raw[56..]).unknown() {
            return Err(BadHeader::Feature(bit));
        }
        let number_at = |at: usize| raw[at..].first_chunk().map_or(0, |raw| u64::from_le_bytes(*raw));
        let mut node = NodeId([0; 20]);
        node.0.copy_from_slice(&raw[12..32]);
        let header =
            SegmentHeader { node, number: number_at(32), base: Lsn(number_at(40)), bytes: number_at(48) };
        // There is a next one's number to every number.
        if header.number == u64::MAX {
            return Err(BadHeader::Damaged("number out of bounds"));
        }
        let sound = (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&header.bytes)
            && header.bytes.is_multiple_of(frame::ALIGN_BYTES as u64)
            && header.base.0.checked_add(header.bytes).is_some();
        if sound { Ok(header) } else { Err(BadHeader::Damaged("size out of bounds")) }
    }

    /// What the segment's frames and trailer are salted with.
    #[must_use]
    pub fn salt(&self) -> Salt {
        Salt(crc32fast::hash(&self.encode()[12..48]))
    }

    /// The position after the segment: the next one's base.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.base.advance(self.bytes)
    }

    /// Where in the file frames must end.
    #[must_use]
    pub fn frames_end(&self) -> u64 {
        self.bytes - SEAL_ROOM_BYTES as u64
    }

    /// Where in the file a position lies.
    ///
    /// # Panics
    /// If it lies before the segment.
    #[must_use]
    pub fn offset_of(&self, lsn: Lsn) -> u64 {
        lsn.0.checked_sub(self.base.0).expect("the position lies in this segment")
    }

    /// The trailer of the segment whose seal begins at `seal_offset`.
    #[must_use]
    pub fn trailer(&self, seal_offset: u64) -> [u8; TRAILER_BYTES] {
        let mut out = [0; TRAILER_BYTES];
        out[4..8].copy_from_slice(&TRAILER_MAGIC);
        out[8..].copy_from_slice(&seal_offset.to_le_bytes());
        let crc = trailer_crc(&out, self.salt());
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Where the seal begins, by a trailer's word.
    #[must_use]
    pub fn seal_offset(&self, trailer: &[u8]) -> Option<u64> {
        let raw = trailer.first_chunk::<TRAILER_BYTES>()?;
        let offset = raw[8..].first_chunk().map(|raw| u64::from_le_bytes(*raw))?;
        let holds = raw[4..8] == TRAILER_MAGIC
            && trailer_crc(raw, self.salt()).to_le_bytes() == raw[..4]
            && offset <= self.frames_end();
        holds.then_some(offset)
    }
}

fn trailer_crc(trailer: &[u8; TRAILER_BYTES], salt: Salt) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt.0);
    hasher.update(&trailer[4..]);
    hasher.finalize()
}

/// The path of the segment with this number.
#[must_use]
pub fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.log"))
}

/// The path of that segment while it is prepared.
#[must_use]
pub fn spare_path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.tmp"))
}

/// The number in a segment's file name.
#[must_use]
pub fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (format!("{number:016x}") == digits).then_some(number)
}

/// An open segment.
pub struct Segment {
    /// Its header.
    pub header: SegmentHeader,
    /// The header's salt.
    pub salt: Salt,
    /// Its file's name.
    pub path: PathBuf,
    /// Its file.
    pub file: Arc<dyn File>,
    /// Its slots; set when it is sealed.
    pub index: OnceLock<Arc<SlotIndex>>,
}

impl Segment {
    /// A segment around an open file.
    pub fn new(header: SegmentHeader, path: PathBuf, file: Arc<dyn File>) -> Segment {
        Segment { header, salt: header.salt(), path, file, index: OnceLock::new() }
    }

    /// The segment, sealed, with its slots: its file is opened when it is read.
    pub(super) fn sealed(&self, index: Arc<SlotIndex>, pool: &Arc<FilePool>) -> Segment {
        let file = Arc::new(pool.opened(&self.path, Arc::clone(&self.file)));
        let (header, salt, path) = (self.header, self.salt, self.path.clone());
        Segment { header, salt, path, file, index: OnceLock::from(index) }
    }

    /// Makes the file of a segment, zeros behind its header, synced, under its spare name.
    ///
    /// # Errors
    /// As the file system says; what was made of the file is removed then.
    pub fn prepare(fs: &dyn Fs, dir: &Path, header: SegmentHeader, room: Room) -> Result<Segment> {
        let path = spare_path_of(dir, header.number);
        let made = Self::prepare_at(fs, &path, header, room);
        if made.is_err() {
            // Nobody refers to it; recovery removes what this can't.
            let _ = fs.remove(&path);
        }
        made.map_err(|error| Error::io(&path, "prepare", &error))
    }

    fn prepare_at(fs: &dyn Fs, path: &Path, header: SegmentHeader, room: Room) -> std::io::Result<Segment> {
        if fs.exists(path)? {
            fs.remove(path)?;
        }
        let free_bytes = fs.free_bytes(path.parent().unwrap_or(path))?;
        if free_bytes < header.bytes {
            // Not tried: each try would fill the device to the last byte for a while.
            let why = format!("no space: {free_bytes} bytes are free");
            return Err(std::io::Error::new(std::io::ErrorKind::StorageFull, why));
        }
        let file = fs.open(path, OpenMode::CreateNew)?;
        file.write_at(&header.encode(), 0)?;
        match room {
            Room::Reserved => file.reserve(header.bytes)?,
            Room::Zeroed => zero_by_and_by(&*file, HEADER_BYTES as u64, header.bytes)?,
        }
        file.sync()?;
        Ok(Segment::new(header, path.to_owned(), file))
    }

    /// Opens a segment and checks its header.
    ///
    /// # Errors
    /// `Corrupt` if the header is not what was written, `Unusable` if the segment is another node's or a newer
    /// version's.
    pub fn open(fs: &dyn Fs, path: &Path, node: NodeId, mode: OpenMode) -> Result<Segment> {
        let segment = Segment::open_any(fs, path, mode)?;
        if segment.header.node != node {
            let why = format!("belongs to node {}, this is node {node}", segment.header.node);
            return Err(Error::Unusable { path: path.to_owned(), why });
        }
        Ok(segment)
    }

    /// As [`Segment::open`], whichever node's it is.
    ///
    /// # Errors
    /// As [`Segment::open`].
    pub fn open_any(fs: &dyn Fs, path: &Path, mode: OpenMode) -> Result<Segment> {
        let file = fs.open(path, mode).map_err(|error| Error::io(path, "open", &error))?;
        let mut head = [0; HEADER_BYTES];
        let count = file.read_at(&mut head, 0).map_err(|error| Error::io(path, "read", &error))?;
        match SegmentHeader::decode(&head[..count]) {
            Ok(header) => Ok(Segment::new(header, path.to_owned(), file)),
            Err(BadHeader::Damaged(what)) => Err(Error::corrupt(path, 0, what)),
            Err(BadHeader::Feature(bit)) => Err(features::refusal(path, bit)),
            Err(BadHeader::Newer(version)) => Err(Error::Unusable {
                path: path.to_owned(),
                why: format!("is of format version {version}, this program knows {VERSION}: use a newer one"),
            }),
        }
    }

    /// The slot index as the trailer and the seal give it; `None` if there is none or it does not hold.
    ///
    /// # Errors
    /// As the file system says.
    pub fn read_index(&self) -> Result<Option<SlotIndex>> {
        let read = |buf: &mut [u8], offset| {
            self.file.read_at(buf, offset).map_err(|error| Error::io(&self.path, "read", &error))
        };
        let mut trailer = [0; TRAILER_BYTES];
        let count = read(&mut trailer, self.header.bytes - TRAILER_BYTES as u64)?;
        let Some(offset) = self.header.seal_offset(&trailer[..count]) else { return Ok(None) };
        let room = self.header.bytes - TRAILER_BYTES as u64 - offset;
        let mut bytes = vec![0; usize::try_from(room).unwrap_or(0).min(SEAL_ROOM_BYTES)];
        let count = read(&mut bytes, offset)?;
        let seal = frame::parse(&bytes[..count], 0, self.header.base.advance(offset), self.salt);
        let Parsed::Frame(seal) = seal else { return Ok(None) };
        Ok(seal.header.has(frame::SEAL).then(|| SlotIndex::decode(&bytes[seal.body])).flatten())
    }
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segment")
            .field("header", &self.header)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// As [`zero`], synced every few megabytes: clients wait for syncs of the active segment meanwhile, each of which would wait
/// until the device has all of a file.
fn zero_by_and_by(file: &dyn File, mut from: u64, to: u64) -> std::io::Result<()> {
    while to - from > ZEROED_AT_ONCE_BYTES {
        zero(file, from, from + ZEROED_AT_ONCE_BYTES)?;
        file.sync()?;
        from += ZEROED_AT_ONCE_BYTES;
    }
    zero(file, from, to)
}

/// Writes zeros from `from` to `to`.
///
/// # Errors
/// As the file system says.
pub fn zero(file: &dyn File, mut from: u64, to: u64) -> std::io::Result<()> {
    while from < to {
        let count = ZEROS.len().min(usize::try_from(to - from).unwrap_or(usize::MAX));
        file.write_at(&ZEROS[..count], from)?;
        from += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: SegmentHeader =
        SegmentHeader { node: NodeId([7; 20]), number: 3, base: Lsn(3 << 16), bytes: 1 << 16 };

    #[test]
    fn a_header_and_a_trailer_read_back_and_every_flipped_bit_is_noticed() {
        let raw = HEADER.encode();
        assert_eq!(SegmentHeader::decode(&raw), Ok(HEADER));
        let trailer = HEADER.trailer(4096);
        assert_eq!(HEADER.seal_offset(&trailer), Some(4096));
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = raw;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(SegmentHeader::decode(&bad), Err(BadHeader::Damaged(_))), "bit {bit}");
        }
        for bit in 0..TRAILER_BYTES * 8 {
            let mut bad = trailer;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(HEADER.seal_offset(&bad), None, "bit {bit}");
        }
    }

    /// A tool that went on from such a segment to the next panicked.
    #[test]
    fn a_number_that_none_can_follow_is_damage() {
        let last = SegmentHeader { number: u64::MAX, ..HEADER };
        assert_eq!(SegmentHeader::decode(&last.encode()), Err(BadHeader::Damaged("number out of bounds")));
        let before = SegmentHeader { number: u64::MAX - 1, ..HEADER };
        assert_eq!(SegmentHeader::decode(&before.encode()), Ok(before));
    }

    #[test]
    fn names_are_numbers_in_one_form_only() {
        let path = path_of(Path::new("log"), 0x1f);
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(name, "000000000000001f.log");
        assert_eq!(number_of(name), Some(0x1f));
        for name in ["1f.log", "000000000000001F.log", "000000000000001f.tmp", "+00000000000001f.log"] {
            assert_eq!(number_of(name), None, "{name}");
        }
    }
}
