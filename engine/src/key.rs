//! How a slot's entries are ordered: by a hash of the user's key, so that a scan's cursor is a number.
//!
//! ```text
//! entry key, part of the format
//!  0   6   hash48     the top 48 bits of xxh3-64 of the user key, big-endian
//!  6   v   key length varint
//!  .   n   user key
//!          ---- a collection's elements have two parts more ----
//!  .   8   generation big-endian: the seq of the record that created the collection
//!  .   m   sub-key    the type's own; decides the order of elements
//! ```
//! A key's own entry is a strict prefix of its elements' entries and of nobody else's, so it comes right before
//! them: a merge sees it first and knows which of them still live.

use smallvec::SmallVec;

use crate::types::{Seq, Slot};
use crate::varint;

/// The bytes that order an entry; short ones without an allocation.
pub type EntryKey = SmallVec<[u8; INLINE_BYTES]>;

/// The longest entry key without an allocation, in bytes.
const INLINE_BYTES: usize = 64;

/// An entry key of these parts.
fn concat<const N: usize>(parts: [&[u8]; N]) -> EntryKey {
    let len = parts.iter().map(|part| part.len()).sum();
    if len > INLINE_BYTES {
        return EntryKey::from_vec(parts.concat());
    }
    let mut bytes = [0; INLINE_BYTES];
    let mut at = 0;
    for part in parts {
        bytes[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    EntryKey::from_buf_and_len(bytes, len)
}

/// The 48-bit hash that orders keys. Part of the format.
#[must_use]
pub fn hash48(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key) >> 16
}

/// Which life of a collection an element belongs to: the seq of the record that created the collection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation of a collection that the record `seq` creates.
    #[must_use]
    pub fn created_at(seq: Seq) -> Generation {
        Generation(seq.0)
    }
}

/// A user's key with what is computed from it once: its slot and its entry key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Key {
    slot: Slot,
    /// Invariant: what [`entry_key`] gives for the user's key, which is its tail.
    entry: EntryKey,
    user_start: usize,
}

impl Key {
    /// The key that a user names.
    #[must_use]
    pub fn new(user: &[u8]) -> Key {
        let entry = entry_key(user);
        let user_start = entry.len() - user.len();
        Key { slot: Slot::of_key(user), entry, user_start }
    }

    /// The slot that it belongs to.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// What the user typed.
    #[must_use]
    pub fn user(&self) -> &[u8] {
        &self.entry[self.user_start..]
    }

    /// Its entry key, the prefix of its elements' entry keys.
    #[must_use]
    pub fn entry(&self) -> &[u8] {
        &self.entry
    }

    /// The entry key of one of its elements.
    #[must_use]
    pub fn element(&self, generation: Generation, sub: &[u8]) -> EntryKey {
        concat([&self.entry, &generation.0.to_be_bytes(), sub])
    }
}

/// The entry key of a user's key.
#[must_use]
pub fn entry_key(key: &[u8]) -> EntryKey {
    let mut len = [0; 10];
    varint::write(&mut len, key.len() as u64);
    concat([&hash48(key).to_be_bytes()[2..], &len[..varint::len(key.len() as u64)], key])
}

/// The entry key of a collection's element.
#[must_use]
pub fn element_key(key: &[u8], generation: Generation, sub: &[u8]) -> EntryKey {
    concat([&entry_key(key), &generation.0.to_be_bytes(), sub])
}

/// An entry key taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parts<'a> {
    /// The user's key.
    pub key: &'a [u8],
    /// What comes before the element's parts: the entry key of the user's key.
    pub prefix: &'a [u8],
    /// The element, if it is one.
    pub element: Option<(Generation, &'a [u8])>,
}

impl Parts<'_> {
    /// The hash that orders the key.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let mut raw = [0; 8];
        raw[2..].copy_from_slice(&self.prefix[..6]);
        u64::from_be_bytes(raw)
    }

    /// A bound after the last element of the key and before the next key.
    #[must_use]
    pub fn after_elements(&self) -> EntryKey {
        // A generation is below 2^48, so its first byte is zero: one 0xff is beyond all of them.
        let mut out = EntryKey::from_slice(self.prefix);
        out.push(0xff);
        out
    }
}

/// Takes an entry key apart; `None` if it is not one.
#[must_use]
pub fn split(entry: &[u8]) -> Option<Parts<'_>> {
    let rest = entry.get(6..)?;
    let (len, used) = varint::read(rest)?;
    let len = usize::try_from(len).ok()?;
    let key = rest.get(used..)?.get(..len)?;
    let (prefix, tail) = entry.split_at(6 + used + len);
    let element = match tail {
        [] => None,
        _ => {
            let (generation, sub) = tail.split_at_checked(8)?;
            Some((Generation(u64::from_be_bytes(generation.try_into().ok()?)), sub))
        }
    };
    Some(Parts { key, prefix, element })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_right_before_its_elements() {
        let mut entries = Vec::new();
        for key in [&b"k"[..], b"key", b"key2", b"", b"\xff\xff"] {
            entries.push(entry_key(key));
            entries.push(element_key(key, Generation(1), b"a"));
            entries.push(element_key(key, Generation(2), b""));
        }
        entries.sort();
        for three in entries.chunks(3) {
            let owner = split(&three[0]).expect("a key");
            assert!(owner.element.is_none());
            for element in &three[1..] {
                let parts = split(element).expect("an element");
                assert_eq!((parts.key, parts.prefix), (owner.key, &three[0][..]));
                assert!(parts.element.is_some());
            }
        }
    }
}
