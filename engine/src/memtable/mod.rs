//! A slot's newest entries, in memory, ordered by entry key. No versions: the slot's lock isolates.
//!
//! Costs nothing when empty. Filled under the slot's lock; once frozen it never changes and is shared by `Arc`.
//! `arena` holds the bytes, `leaves` the order. Why it is built so: `docs/decisions/0004`.

mod arena;
mod leaves;

use std::ops::{Bound, Deref};

use bytes::Bytes;

use arena::Arena;
use leaves::{Leaves, Place, Probe};

use crate::sst::EntryRef;

/// What stands at an entry key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    /// A value: encoded as in `value.rs` at a user's key, opaque at an element's.
    Value(Bytes),
    /// Nothing, whatever older runs say.
    Tombstone,
}

impl Entry {
    /// The value's bytes, or nothing for a tombstone.
    #[must_use]
    pub fn value(&self) -> Option<&Bytes> {
        match self {
            Entry::Value(bytes) => Some(bytes),
            Entry::Tombstone => None,
        }
    }

    /// The same, borrowed.
    #[must_use]
    pub fn stored(&self) -> Stored<'_> {
        match self {
            Entry::Value(bytes) => Stored::Value(ValueRef::Shared(bytes)),
            Entry::Tombstone => Stored::Tombstone,
        }
    }
}

/// A value's bytes, borrowed.
#[derive(Clone, Copy, Debug)]
pub enum ValueRef<'a> {
    /// They lie among others: to keep them is to copy them.
    Inline(&'a [u8]),
    /// They have a buffer of their own, which can be shared.
    Shared(&'a Bytes),
}

impl ValueRef<'_> {
    /// The bytes to keep.
    #[must_use]
    pub fn to_bytes(self) -> Bytes {
        match self {
            ValueRef::Inline(bytes) => Bytes::copy_from_slice(bytes),
            ValueRef::Shared(bytes) => bytes.clone(),
        }
    }

    /// The bytes from `start` on, to keep.
    #[must_use]
    pub fn tail(self, start: usize) -> Bytes {
        match self {
            ValueRef::Inline(bytes) => Bytes::copy_from_slice(&bytes[start..]),
            ValueRef::Shared(bytes) => bytes.slice(start..),
        }
    }
}

impl Deref for ValueRef<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            ValueRef::Inline(bytes) => bytes,
            ValueRef::Shared(bytes) => bytes,
        }
    }
}

/// What stands at an entry key, borrowed from a memtable.
#[derive(Clone, Copy, Debug)]
pub enum Stored<'a> {
    /// A value.
    Value(ValueRef<'a>),
    /// Nothing, whatever older runs say.
    Tombstone,
}

impl<'a> Stored<'a> {
    /// The value, or nothing for a tombstone.
    #[must_use]
    pub fn value(self) -> Option<ValueRef<'a>> {
        match self {
            Stored::Value(value) => Some(value),
            Stored::Tombstone => None,
        }
    }

    /// A value's bytes as they are.
    #[must_use]
    pub fn inline(bytes: &'a [u8]) -> Stored<'a> {
        Stored::Value(ValueRef::Inline(bytes))
    }
}

impl<'a> From<Stored<'a>> for EntryRef<'a> {
    fn from(stored: Stored<'a>) -> EntryRef<'a> {
        match stored {
            Stored::Value(ValueRef::Inline(bytes)) => EntryRef::Value(bytes),
            Stored::Value(ValueRef::Shared(bytes)) => EntryRef::Value(bytes),
            Stored::Tombstone => EntryRef::Tombstone,
        }
    }
}

/// Replaced bytes are collected once they are this many and outweigh the living ones.
const GARBAGE_BYTES_MIN: usize = 32 << 10;
/// A larger table is not collected (it would hold the slot's lock for long) but flushed earlier.
const COLLECTED_BYTES_MAX: usize = 1 << 20;

/// See the file's head.
#[derive(Debug, Default)]
pub struct Memtable {
    arena: Arena,
    leaves: Leaves,
    clears_older: bool,
}

impl Memtable {
    /// What stands at `key` here; `None` says nothing about older places unless [`Memtable::clears_older`].
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Stored<'_>> {
        let (place, found) = self.leaves.search(&Probe::new(key), &self.arena);
        found.then(|| self.arena.get(self.leaves.at(place)).1)
    }

    /// Sets what stands at `key`.
    pub fn insert(&mut self, key: &[u8], stored: Stored<'_>) {
        let probe = Probe::new(key);
        let (place, found) = self.leaves.search(&probe, &self.arena);
        if found {
            let old = self.leaves.at(place);
            let at = self.arena.replace(old, stored);
            if at != old {
                self.leaves.moved(place, at);
                self.collect_garbage();
            }
            return;
        }
        let at = self.arena.add(key, stored);
        self.leaves.insert(place, &probe, at);
    }

    /// A few hot keys that grow and grow must not fill the memory with their pasts.
    fn collect_garbage(&mut self) {
        let (dead, all) = (self.arena.dead(), self.arena.bytes());
        if dead < GARBAGE_BYTES_MIN || dead * 2 < all || all > COLLECTED_BYTES_MAX {
            return;
        }
        let old = std::mem::take(&mut self.arena);
        let arena = &mut self.arena;
        self.leaves.renew(|at| {
            let (key, stored) = old.get(at);
            arena.add(key, stored)
        });
    }

    /// Drops everything here and hides all that is older.
    pub fn clear(&mut self) {
        *self = Memtable { clears_older: true, ..Memtable::default() };
    }

    /// Whether entries in older places are gone: a clear came before all entries here.
    #[must_use]
    pub fn clears_older(&self) -> bool {
        self.clears_older
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.arena.bytes() + self.leaves.bytes()
    }

    /// Whether there is nothing to flush.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && !self.clears_older
    }

    /// How many entries it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.leaves.len()
    }

    /// The entries in a range of entry keys, ascending; walk it backwards for descending.
    #[must_use]
    pub fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Range<'_> {
        let place = |key, after| self.leaves.lower_bound(key, after, &self.arena);
        let front = match from {
            Bound::Included(key) => place(key, false),
            Bound::Excluded(key) => place(key, true),
            Bound::Unbounded => self.leaves.start(),
        };
        let back = match to {
            Bound::Included(key) => place(key, true),
            Bound::Excluded(key) => place(key, false),
            Bound::Unbounded => self.leaves.end(),
        };
        // An inverted range is empty.
        Range { table: self, front: front.min(back), back }
    }

    /// All entries, ascending.
    #[must_use]
    pub fn iter(&self) -> Range<'_> {
        self.range(Bound::Unbounded, Bound::Unbounded)
    }
}

/// Some neighbouring entries of a memtable.
pub struct Range<'a> {
    table: &'a Memtable,
    front: Place,
    back: Place,
}

impl<'a> Iterator for Range<'a> {
    type Item = (&'a [u8], Stored<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.front == self.back {
            return None;
        }
        let at = self.table.leaves.at(self.front);
        self.front = self.table.leaves.next(self.front);
        Some(self.table.arena.get(at))
    }
}

impl DoubleEndedIterator for Range<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.front == self.back {
            return None;
        }
        self.back = self.table.leaves.prev(self.back);
        Some(self.table.arena.get(self.table.leaves.at(self.back)))
    }
}

#[cfg(test)]
mod tests;
