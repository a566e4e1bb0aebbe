//! A slot's newest entries, in memory, ordered by entry key. No versions: the slot's lock isolates.
//!
//! Costs nothing when empty. Filled under the slot's lock; once frozen it never changes and is shared by `Arc`.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

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
}

/// Bytes charged for an entry besides its key and value: the tree's node share and the two fat pointers.
const ENTRY_OVERHEAD_BYTES: usize = 96;

/// See the file's head.
#[derive(Debug, Default)]
pub struct Memtable {
    entries: BTreeMap<Bytes, Entry>,
    /// Invariant: the sum of [`charge`] over `entries`.
    bytes: usize,
    clears_older: bool,
}

fn charge(key: &[u8], entry: &Entry) -> usize {
    key.len() + entry.value().map_or(0, Bytes::len) + ENTRY_OVERHEAD_BYTES
}

impl Memtable {
    /// What stands at `key` here; `None` says nothing about older places unless [`Memtable::clears_older`].
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Sets what stands at `key`.
    pub fn insert(&mut self, key: Bytes, entry: Entry) {
        let added = charge(&key, &entry);
        let key_bytes = key.len();
        if let Some(old) = self.entries.insert(key, entry) {
            self.bytes -= key_bytes + old.value().map_or(0, Bytes::len) + ENTRY_OVERHEAD_BYTES;
        }
        self.bytes += added;
    }

    /// Drops everything here and hides all that is older.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
        self.clears_older = true;
    }

    /// Whether entries in older places are gone: a clear came before all entries here.
    #[must_use]
    pub fn clears_older(&self) -> bool {
        self.clears_older
    }

    /// Bytes of memory that it takes, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing to flush.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && !self.clears_older
    }

    /// How many entries it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The entries in a range of entry keys, ascending; walk it backwards for descending.
    pub fn range<'a>(
        &'a self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = (&'a Bytes, &'a Entry)> + use<'a> {
        // BTreeMap::range panics on an inverted range; such a range is empty.
        let inverted = match (from, to) {
            (Bound::Included(a), Bound::Included(b)) => a > b,
            (Bound::Included(a) | Bound::Excluded(a), Bound::Excluded(b))
            | (Bound::Excluded(a), Bound::Included(b)) => a >= b,
            _ => false,
        };
        let range = if inverted { None } else { Some(self.entries.range::<[u8], _>((from, to))) };
        range.into_iter().flatten()
    }

    /// All entries, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&Bytes, &Entry)> {
        self.entries.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_follow_inserts_overwrites_and_clears() {
        let mut table = Memtable::default();
        assert!(table.is_empty() && table.bytes() == 0);
        table.insert(Bytes::from_static(b"a"), Entry::Value(Bytes::from_static(b"12345")));
        table.insert(Bytes::from_static(b"a"), Entry::Value(Bytes::from_static(b"1")));
        assert_eq!(table.bytes(), 2 + ENTRY_OVERHEAD_BYTES);
        table.insert(Bytes::from_static(b"a"), Entry::Tombstone);
        assert_eq!((table.bytes(), table.len()), (1 + ENTRY_OVERHEAD_BYTES, 1));
        table.clear();
        assert!(table.bytes() == 0 && table.clears_older() && !table.is_empty());
    }

    #[test]
    fn an_inverted_range_is_empty() {
        let mut table = Memtable::default();
        table.insert(Bytes::from_static(b"b"), Entry::Tombstone);
        assert_eq!(table.range(Bound::Included(b"c"), Bound::Included(b"a")).count(), 0);
        assert_eq!(table.range(Bound::Excluded(b"b"), Bound::Excluded(b"b")).count(), 0);
        assert_eq!(table.range(Bound::Included(b"b"), Bound::Unbounded).count(), 1);
    }
}
