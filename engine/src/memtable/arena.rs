//! Where a memtable's keys and values lie: a few chunks of memory instead of an allocation for each.
//!
//! ```text
//! entry, in memory only, native byte order
//!  0   4   key length
//!  4   4   room        bytes kept for the value
//!  8   4   value length, or TOMBSTONE, or APART
//! 12   k   key
//!  .   r   value       or, if APART, its number among the large values
//! ```
//! A value that still fits is overwritten in place; one that grows moves and gets room to grow. Large values are not
//! copied: they stay in the buffer that they came in.

use bytes::Bytes;

use super::{Stored, ValueRef, pool};

/// Values from this size on stay apart.
const APART_BYTES_MIN: usize = 2 << 10;
/// The first chunk: most slots hold little. Each next one doubles what there is, up to the usual size.
const CHUNK_BYTES_MIN: usize = 512;

/// A line of the processor's cache.
const LINE_BYTES: usize = 64;

const HEAD_BYTES: usize = 12;
const TOMBSTONE: u32 = u32::MAX;
const APART: u32 = u32::MAX - 1;

/// Where an entry lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct At {
    chunk: u32,
    offset: u32,
}

impl At {
    pub(super) const NOWHERE: At = At { chunk: u32::MAX, offset: 0 };

    /// A number that can be had only by reading it.
    pub(super) fn look(self) -> u64 {
        u64::from(self.chunk ^ self.offset)
    }
}

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Arena {
    /// Invariant: a chunk never grows beyond the capacity that it was made with, so entries never move.
    chunks: Vec<Vec<u8>>,
    apart: Vec<Bytes>,
    /// Bytes that the chunks have room for, and those of the values apart.
    allocated: usize,
    /// Bytes of entries that were replaced.
    dead: usize,
}

/// What has to be kept for a value: its length field, and the bytes in the chunk.
enum Form<'a> {
    Inline(&'a [u8]),
    Apart(Bytes),
    Tombstone,
}

impl<'a> From<Stored<'a>> for Form<'a> {
    fn from(stored: Stored<'a>) -> Form<'a> {
        match stored {
            Stored::Tombstone => Form::Tombstone,
            Stored::Value(value) if value.len() >= APART_BYTES_MIN => Form::Apart(value.to_bytes()),
            Stored::Value(ValueRef::Inline(bytes)) => Form::Inline(bytes),
            Stored::Value(ValueRef::Shared(bytes)) => Form::Inline(bytes),
        }
    }
}

impl Form<'_> {
    fn room(&self) -> usize {
        match self {
            Form::Inline(bytes) => bytes.len(),
            Form::Apart(_) => 4,
            Form::Tombstone => 0,
        }
    }
}

fn narrow(length: usize) -> u32 {
    u32::try_from(length).expect("keys and values are limited far below 4 GiB")
}

/// An entry's head, taken apart.
struct Head {
    key_len: usize,
    room: usize,
    length: u32,
}

impl Arena {
    /// Bytes of memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.allocated
    }

    /// Bytes that a copy of the living entries alone would not take.
    pub(super) fn dead(&self) -> usize {
        self.dead
    }

    #[inline]
    fn head(&self, at: At) -> (Head, &[u8]) {
        let bytes = &self.chunks[at.chunk as usize][at.offset as usize..];
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>().expect("an entry begins with its head");
        let &[a, b, c, d, e, f, g, h, i, j, k, l] = head;
        let key_len = u32::from_ne_bytes([a, b, c, d]);
        let room = u32::from_ne_bytes([e, f, g, h]);
        let length = u32::from_ne_bytes([i, j, k, l]);
        (Head { key_len: key_len as usize, room: room as usize, length }, rest)
    }

    /// The key of an entry.
    pub(super) fn key(&self, at: At) -> &[u8] {
        let (head, rest) = self.head(at);
        &rest[..head.key_len]
    }

    /// An entry.
    pub(super) fn get(&self, at: At) -> (&[u8], Stored<'_>) {
        let (head, rest) = self.head(at);
        let (key, rest) = rest.split_at(head.key_len);
        let stored = match head.length {
            TOMBSTONE => Stored::Tombstone,
            APART => Stored::Value(ValueRef::Shared(&self.apart[number_of(rest)])),
            length => Stored::Value(ValueRef::Inline(&rest[..length as usize])),
        };
        (key, stored)
    }

    /// Reads some of an entry's bytes, in each of the cache lines where most entries lie.
    pub(super) fn look(&self, at: At) -> u64 {
        let bytes = &self.chunks[at.chunk as usize][at.offset as usize..];
        let look = |offset: usize| bytes.get(offset).copied().map_or(0, u64::from);
        look(0) ^ look(LINE_BYTES) ^ look(2 * LINE_BYTES)
    }

    /// Adds an entry.
    pub(super) fn add(&mut self, key: &[u8], stored: Stored<'_>) -> At {
        self.add_with_room(key, stored.into(), 0)
    }

    /// Sets what stands at an entry, in place where there is room.
    pub(super) fn replace(&mut self, at: At, stored: Stored<'_>) -> At {
        let form = Form::from(stored);
        let (head, rest) = self.head(at);
        let (key_len, room) = (head.key_len, head.room);
        if head.length == APART {
            let number = number_of(&rest[key_len..]);
            self.allocated -= self.apart[number].len();
            if let Form::Apart(bytes) = &form {
                self.allocated += bytes.len();
                self.apart[number] = bytes.clone();
                return at;
            }
            self.apart[number] = Bytes::new();
        }
        if form.room() <= room {
            let number = self.keep_apart(&form);
            let chunk = &mut self.chunks[at.chunk as usize];
            let start = at.offset as usize;
            let (length, value) = stored_form(&form, &number);
            chunk[start + 8..start + 12].copy_from_slice(&length.to_ne_bytes());
            let value_at = start + HEAD_BYTES + key_len;
            chunk[value_at..value_at + value.len()].copy_from_slice(value);
            return at;
        }
        self.dead += HEAD_BYTES + key_len + room;
        let key = self.key(at).to_vec();
        // A value that grew once grows again: a counter, a string appended to, a small collection.
        let spare = form.room() / 2;
        self.add_with_room(&key, form, spare)
    }

    fn add_with_room(&mut self, key: &[u8], form: Form<'_>, spare: usize) -> At {
        let room = form.room() + spare;
        let needed = HEAD_BYTES + key.len() + room;
        if self.chunks.last().is_none_or(|chunk| chunk.capacity() - chunk.len() < needed) {
            let usual = self.allocated.clamp(CHUNK_BYTES_MIN, pool::CHUNK_BYTES);
            let chunk = match usual.max(needed) {
                pool::CHUNK_BYTES => pool::take(),
                capacity => Vec::with_capacity(capacity),
            };
            self.allocated += chunk.capacity();
            self.chunks.push(chunk);
        }
        let number = self.keep_apart(&form);
        let last = self.chunks.len() - 1;
        let chunk = &mut self.chunks[last];
        let at = At { chunk: narrow(last), offset: narrow(chunk.len()) };
        let (length, value) = stored_form(&form, &number);
        chunk.extend_from_slice(&narrow(key.len()).to_ne_bytes());
        chunk.extend_from_slice(&narrow(room).to_ne_bytes());
        chunk.extend_from_slice(&length.to_ne_bytes());
        chunk.extend_from_slice(key);
        chunk.extend_from_slice(value);
        let end = at.offset as usize + needed;
        chunk.resize(end, 0);
        at
    }

    /// Puts a large value aside; its number, as the chunk holds it.
    fn keep_apart(&mut self, form: &Form<'_>) -> [u8; 4] {
        let Form::Apart(bytes) = form else { return [0; 4] };
        self.allocated += bytes.len();
        self.apart.push(bytes.clone());
        narrow(self.apart.len() - 1).to_ne_bytes()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        pool::give(&mut self.chunks);
    }
}

fn stored_form<'a>(form: &'a Form<'_>, number: &'a [u8; 4]) -> (u32, &'a [u8]) {
    match form {
        Form::Tombstone => (TOMBSTONE, &[]),
        Form::Apart(_) => (APART, number),
        Form::Inline(bytes) => (narrow(bytes.len()), bytes),
    }
}

fn number_of(rest: &[u8]) -> usize {
    u32::from_ne_bytes(rest[..4].try_into().expect("four bytes")) as usize
}
