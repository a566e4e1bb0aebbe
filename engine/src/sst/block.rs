//! Blocks: a few neighbouring entries, read, checked and cached together.
//!
//! ```text
//! block, part of the format; all numbers little-endian
//! raw form
//!  0   .   entries    ascending by key, each: varint key length; varint 0 for a tombstone, else value length + 1;
//!                     key; value
//!  .   2n  offsets    u16 each: where entry i begins
//!  .   2   n          how many entries, at least 1
//! stored form
//!  0   m   payload    the raw form, or its LZ4 block where that is shorter than 7/8
//!  m   1   codec      0 raw, 1 LZ4
//!  .   4   raw_len    bytes of the raw form
//!  .   4   crc        CRC-32 of the slot (2 bytes), the block's offset in its run (8 bytes), and all before it
//! ```
//! The checksum covers the place, so that a block read from a wrong place is noticed. An entry begins below
//! [`BLOCK_BYTES_MAX`], so 16 bits address it; a larger entry has a block of its own.

use std::cmp::Ordering;

use bytes::Bytes;
use lz4_flex::block::CompressTable;

use super::entry::EntryRef;
use super::search::{partition_point, prefix_of};
use crate::memtable::{Entry, Stored, ValueRef};
use crate::types::Slot;
use crate::varint;

/// The greatest size that a block may be asked to aim at. Part of the format: offsets have 16 bits.
pub const BLOCK_BYTES_MAX: usize = 32 << 10;
/// Bytes after the payload. Part of the format.
pub const TRAILER_BYTES: usize = 9;
/// Larger blocks (one huge value) are not compressed: it would hold a core for too long.
pub(super) const COMPRESS_BYTES_MAX: usize = 16 << 20;
/// LZ4 can't expand by more; a greater claim is damage, refused before memory is taken.
const LZ4_EXPANSION_MAX: usize = 256;

/// Keys that share less are of many users' keys, and parted well by their first 8 bytes as they are: a search need
/// not look at what they share.
const SHARED_BYTES_MIN: usize = 6;

/// To keep a smaller value is to copy it: else it would keep its whole block in memory.
const SHARED_VALUE_BYTES_MIN: usize = 2 << 10;

const NO_MEANING: &str = "entries of a block have no meaning";

const CODEC_RAW: u8 = 0;
const CODEC_LZ4: u8 = 1;

const _: () = assert!(BLOCK_BYTES_MAX <= u16::MAX as usize);

/// Where a block lies: its identity in the cache.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlockId {
    /// The pack file.
    pub file: super::FileNo,
    /// The block's first byte in that file.
    pub offset: u64,
}

/// Where blocks come from without waiting: a cache, or what was fetched for this command.
pub trait Blocks {
    /// The block, or `None` if it has to be read from disk first.
    fn block(&mut self, id: BlockId) -> Option<std::sync::Arc<Block>>;

    /// A block of a run that was not there, if it can be had after all without waiting.
    fn missing(&mut self, run: &super::Run, id: BlockId) -> Option<std::sync::Arc<Block>> {
        let _ = (run, id);
        None
    }

    /// Whether a block that was read for one look at it should come into memory.
    fn keeps_looked_at(&self) -> bool {
        false
    }
}

/// A block in memory: checked, decompressed, every entry readable.
#[derive(Clone, Debug)]
pub struct Block {
    raw: Bytes,
    /// Where the offsets begin in `raw`; 2 bytes each up to the last 2 bytes.
    offsets_at: usize,
    /// Bytes that all keys begin with; 0 if they are few.
    shared: usize,
    /// For each key the 8 bytes that follow those: a search looks at these, and at one or two keys.
    prefixes: Box<[u64]>,
}

/// Where an entry lies in its block.
#[derive(Debug)]
pub struct Parsed {
    key: std::ops::Range<usize>,
    /// `None` for a tombstone.
    value: Option<std::ops::Range<usize>>,
}

#[inline]
fn parse_entry(raw: &[u8], at: usize) -> Option<Parsed> {
    let mut rest = raw.get(at..)?;
    let key_len = usize::try_from(varint::take(&mut rest)?).ok()?;
    let value_len = varint::take(&mut rest)?;
    let key_at = raw.len() - rest.len();
    let key_end = key_at.checked_add(key_len)?;
    let value = match value_len.checked_sub(1) {
        None => None,
        Some(len) => Some(key_end..key_end.checked_add(usize::try_from(len).ok()?)?),
    };
    let end = value.as_ref().map_or(key_end, |value| value.end);
    (end <= raw.len()).then_some(Parsed { key: key_at..key_end, value })
}

/// Checks a stored block's sum and lengths; gives its payload, whether that is compressed, and the bytes of its raw form.
fn checked(stored: &[u8], slot: Slot, offset_in_run: u64) -> Result<(&[u8], bool, usize), &'static str> {
    let Some((payload, trailer)) = stored.split_last_chunk::<TRAILER_BYTES>() else {
        return Err("block cut short");
    };
    let [codec, len0, len1, len2, len3, crc @ ..] = *trailer;
    if checksum(&stored[..stored.len() - 4], slot, offset_in_run) != u32::from_le_bytes(crc) {
        return Err("wrong checksum of a block");
    }
    let raw_len = u32::from_le_bytes([len0, len1, len2, len3]);
    let raw_len = usize::try_from(raw_len).map_err(|_| "block too large for this machine")?;
    match codec {
        CODEC_RAW if payload.len() == raw_len => Ok((payload, false, raw_len)),
        CODEC_LZ4 if raw_len <= payload.len().saturating_mul(LZ4_EXPANSION_MAX) => {
            Ok((payload, true, raw_len))
        }
        CODEC_RAW | CODEC_LZ4 => Err("block of the wrong length"),
        _ => Err("unknown codec of a block: written by a newer version"),
    }
}

/// Looks a key up in a stored block and gives what stands there to `look`: spares the making of a [`Block`] for one look.
/// `room` is any buffer.
///
/// # Errors
/// What does not hold.
pub(super) fn look_up<T>(
    stored: &[u8],
    (slot, offset_in_run): (Slot, u64),
    key: &[u8],
    room: &mut Vec<u8>,
    look: impl FnOnce(Stored<'_>) -> T,
) -> Result<Option<T>, &'static str> {
    let (payload, compressed, raw_len) = checked(stored, slot, offset_in_run)?;
    let raw = match compressed {
        false => payload,
        true => {
            if room.len() < raw_len {
                room.resize(raw_len, 0);
            }
            match lz4_flex::block::decompress_into(payload, &mut room[..raw_len]) {
                Ok(len) if len == raw_len => &room[..raw_len],
                Ok(_) => return Err("LZ4 expands to the wrong length"),
                Err(_) => return Err("LZ4 does not expand"),
            }
        }
    };
    let parsed = find_in(raw, key).ok_or(NO_MEANING)?;
    Ok(parsed.map(|parsed| look(parsed.value.map_or(Stored::Tombstone, |value| Stored::inline(&raw[value])))))
}

/// Where the entry of a key lies in a block's raw form; the outer `None` if that has no meaning.
fn find_in(raw: &[u8], key: &[u8]) -> Option<Option<Parsed>> {
    let (rest, count) = raw.split_last_chunk::<2>()?;
    let offsets_at = rest.len().checked_sub(2 * usize::from(u16::from_le_bytes(*count)))?;
    let (entries, offsets) = rest.split_at(offsets_at);
    let (offsets, _) = offsets.as_chunks::<2>();
    let (mut low, mut high) = (0, offsets.len());
    while low < high {
        let middle = low.midpoint(high);
        let parsed = parse_entry(entries, usize::from(u16::from_le_bytes(offsets[middle])))?;
        match entries.get(parsed.key.clone())?.cmp(key) {
            Ordering::Less => low = middle + 1,
            Ordering::Greater => high = middle,
            Ordering::Equal => return Some(Some(parsed)),
        }
    }
    Some(None)
}

impl Block {
    /// Checks and decompresses a stored block.
    ///
    /// # Errors
    /// What does not hold.
    pub fn decode(stored: &[u8], slot: Slot, offset_in_run: u64) -> Result<Block, &'static str> {
        let (payload, compressed, raw_len) = checked(stored, slot, offset_in_run)?;
        let raw = match compressed {
            false => Bytes::copy_from_slice(payload),
            true => {
                let raw = lz4_flex::block::decompress(payload, raw_len).map_err(|_| "LZ4 does not expand")?;
                if raw.len() != raw_len {
                    return Err("LZ4 expands to the wrong length");
                }
                Bytes::from(raw)
            }
        };
        Block::from_raw(raw).ok_or(NO_MEANING)
    }

    /// As [`Block::decode`]; what is not compressed stays where it is.
    ///
    /// # Errors
    /// What does not hold.
    pub fn decode_owned(mut stored: Vec<u8>, slot: Slot, offset_in_run: u64) -> Result<Block, &'static str> {
        if is_compressed(&stored) {
            return Block::decode(&stored, slot, offset_in_run);
        }
        let (_, _, raw_len) = checked(&stored, slot, offset_in_run)?;
        stored.truncate(raw_len);
        Block::from_raw(Bytes::from(stored)).ok_or(NO_MEANING)
    }

    /// Takes the raw form; `None` unless entries and offsets fit each other exactly.
    pub(super) fn from_raw(raw: Bytes) -> Option<Block> {
        let (rest, count) = raw.split_last_chunk::<2>()?;
        let count = usize::from(u16::from_le_bytes(*count));
        let offsets_at = rest.len().checked_sub(2 * count)?;
        let (entries, offsets) = rest.split_at(offsets_at);
        let (offsets, _) = offsets.as_chunks::<2>();
        let offset = |raw: &[u8; 2]| usize::from(u16::from_le_bytes(*raw));
        let key = |at: usize| entries.get(parse_entry(entries, at)?.key);
        let (first, last) = (key(offset(offsets.first()?))?, key(offset(offsets.last()?))?);
        // Since keys ascend, what the first and the last share is shared by all; if a bug had misplaced one, the
        // shorter slice keeps it from being read beyond its end.
        let shared = first.iter().zip(last).take_while(|(a, b)| a == b).count();
        let shared = if shared < SHARED_BYTES_MIN { 0 } else { shared };
        let mut prefixes = Vec::with_capacity(count);
        let mut at = 0;
        for begin in offsets {
            if offset(begin) != at {
                return None;
            }
            let entry = parse_entry(entries, at)?;
            at = entry.value.map_or(entry.key.end, |value| value.end);
            prefixes.push(prefix_of(entries[entry.key].get(shared..).unwrap_or_default()));
        }
        (at == offsets_at).then_some(Block { raw, offsets_at, shared, prefixes: prefixes.into() })
    }

    /// How many entries it has; at least one.
    #[must_use]
    pub fn count(&self) -> usize {
        self.prefixes.len()
    }

    /// Bytes of memory that it takes, about.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.raw.len() + 8 * self.prefixes.len() + 96
    }

    /// Where an entry lies.
    pub(super) fn parsed(&self, index: usize) -> Parsed {
        assert!(index < self.count(), "entry {index} of {}", self.count());
        let at = self.offsets_at + 2 * index;
        let offset = u16::from_le_bytes([self.raw[at], self.raw[at + 1]]);
        parse_entry(&self.raw, usize::from(offset)).expect("every entry was parsed when the block was made")
    }

    /// The key of an entry.
    ///
    /// # Panics
    /// Like all that take an index: if it is not below [`Block::count`].
    #[must_use]
    pub fn key(&self, index: usize) -> &[u8] {
        &self.raw[self.parsed(index).key]
    }

    /// An entry, borrowed.
    #[must_use]
    pub fn entry_ref(&self, index: usize) -> (&[u8], EntryRef<'_>) {
        self.entry_at(&self.parsed(index))
    }

    /// The entry that lies there, borrowed.
    pub(super) fn entry_at(&self, place: &Parsed) -> (&[u8], EntryRef<'_>) {
        let value = place.value.clone();
        let entry = value.map_or(EntryRef::Tombstone, |value| EntryRef::Value(&self.raw[value]));
        (self.key_at(place), entry)
    }

    /// The key that lies there.
    pub(super) fn key_at(&self, place: &Parsed) -> &[u8] {
        &self.raw[place.key.clone()]
    }

    /// An entry; a value shares the block's memory.
    #[must_use]
    pub fn entry(&self, index: usize) -> Entry {
        self.owned(self.parsed(index))
    }

    /// The first entry whose key is `key` or greater; [`Block::count`] if there is none.
    #[must_use]
    pub fn lower_bound(&self, key: &[u8]) -> usize {
        if self.shared > 0 {
            let shared = &self.key(0)[..self.shared];
            match key[..key.len().min(self.shared)].cmp(shared) {
                Ordering::Less => return 0,
                Ordering::Greater => return self.count(),
                Ordering::Equal => {}
            }
        }
        partition_point(&self.prefixes, prefix_of(&key[self.shared..]), |index| self.key(index) < key)
    }

    /// Where the entry of exactly this key lies.
    #[must_use]
    pub fn find(&self, key: &[u8]) -> Option<Parsed> {
        let index = self.lower_bound(key);
        if index == self.count() {
            return None;
        }
        let parsed = self.parsed(index);
        (self.raw[parsed.key.clone()] == *key).then_some(parsed)
    }

    /// Gives what stands there to `read`, without a copy: a small value lies among others, a large one shares the
    /// block's memory.
    pub(super) fn read<T>(&self, parsed: &Parsed, read: impl FnOnce(Stored<'_>) -> T) -> T {
        match &parsed.value {
            None => read(Stored::Tombstone),
            Some(value) if value.len() < SHARED_VALUE_BYTES_MIN => {
                read(Stored::inline(&self.raw[value.clone()]))
            }
            Some(value) => read(Stored::Value(ValueRef::Shared(&self.raw.slice(value.clone())))),
        }
    }

    /// What stands there, sharing the block's memory.
    #[must_use]
    pub fn owned(&self, parsed: Parsed) -> Entry {
        parsed.value.map_or(Entry::Tombstone, |value| Entry::Value(self.raw.slice(value)))
    }
}

/// Whether a stored block's payload is compressed.
pub(super) fn is_compressed(stored: &[u8]) -> bool {
    stored.len().checked_sub(TRAILER_BYTES).and_then(|at| stored.get(at)) == Some(&CODEC_LZ4)
}

pub(super) fn checksum(stored: &[u8], slot: Slot, offset_in_run: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&slot.number().to_le_bytes());
    hasher.update(&offset_in_run.to_le_bytes());
    hasher.update(stored);
    hasher.finalize()
}

/// Collects entries into one block.
#[derive(Default)]
pub struct BlockBuilder {
    entries: Vec<u8>,
    offsets: Vec<u8>,
    scratch: Vec<u8>,
    /// What the compression remembers; made when it is used first.
    table: Option<CompressTable>,
}

impl BlockBuilder {
    /// Whether it has no entry yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Whether another entry of this size fits a block that aims at `block_bytes`. The first always does.
    #[must_use]
    pub fn has_room(&self, key: &[u8], entry: EntryRef<'_>, block_bytes: usize) -> bool {
        let now = self.entries.len() + self.offsets.len();
        self.is_empty() || now + key.len() + entry.value_len() + 8 <= block_bytes
    }

    /// Adds an entry whose key is above the last.
    ///
    /// # Panics
    /// If it has no room: see [`BlockBuilder::has_room`].
    pub fn add(&mut self, key: &[u8], entry: EntryRef<'_>) {
        let offset =
            u16::try_from(self.entries.len()).expect("has_room() holds the offset below the maximum");
        self.offsets.extend_from_slice(&offset.to_le_bytes());
        varint::put(&mut self.entries, key.len() as u64);
        match entry {
            EntryRef::Value(value) => {
                varint::put(&mut self.entries, value.len() as u64 + 1);
                self.entries.extend_from_slice(key);
                self.entries.extend_from_slice(value);
            }
            EntryRef::Tombstone => {
                varint::put(&mut self.entries, 0);
                self.entries.extend_from_slice(key);
            }
        }
    }

    /// Appends the stored form to `out` and begins anew.
    ///
    /// # Panics
    /// If it is empty, or its single entry is above 4 GiB (the limits of keys and values are far below).
    pub fn finish(&mut self, compress: bool, slot: Slot, offset_in_run: u64, out: &mut Vec<u8>) {
        let count = u16::try_from(self.offsets.len() / 2).expect("entries begin at different 16-bit offsets");
        assert!(count > 0, "a block holds at least one entry");
        self.entries.extend_from_slice(&self.offsets);
        self.entries.extend_from_slice(&count.to_le_bytes());
        let raw = &self.entries;
        let raw_len = u32::try_from(raw.len()).expect("an entry is below 4 GiB");
        let start = out.len();
        let mut codec = CODEC_RAW;
        if compress && raw.len() <= COMPRESS_BYTES_MAX {
            let room = lz4_flex::block::get_maximum_output_size(raw.len());
            if self.scratch.len() < room {
                self.scratch.resize(room, 0);
            }
            let table = self.table.get_or_insert_default();
            let len = lz4_flex::block::compress_into_with_table(raw, &mut self.scratch, table)
                .expect("room for the worst case");
            if len < raw.len() / 8 * 7 {
                codec = CODEC_LZ4;
                out.extend_from_slice(&self.scratch[..len]);
            }
        }
        if codec == CODEC_RAW && out.is_empty() && raw.len() > COMPRESS_BYTES_MAX {
            // Too much to have twice in memory.
            std::mem::swap(out, &mut self.entries);
        } else if codec == CODEC_RAW {
            out.extend_from_slice(raw);
        }
        out.push(codec);
        out.extend_from_slice(&raw_len.to_le_bytes());
        let crc = checksum(&out[start..], slot, offset_in_run);
        out.extend_from_slice(&crc.to_le_bytes());
        self.entries.clear();
        self.offsets.clear();
        // One huge value must not keep its memory for all the blocks that follow.
        self.entries.shrink_to(COMPRESS_BYTES_MAX);
        self.scratch.truncate(COMPRESS_BYTES_MAX);
        self.scratch.shrink_to(COMPRESS_BYTES_MAX);
    }
}
