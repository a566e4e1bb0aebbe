//! An entry, borrowed: what a writer takes and a scan gives, without a copy.

use bytes::Bytes;

use crate::memtable::Entry;

/// What stands at an entry key. The newest run that says anything wins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryRef<'a> {
    /// The value: encoded as in `value.rs` at a user's key, opaque at an element.
    Value(&'a [u8]),
    /// Nothing, whatever older runs say.
    Tombstone,
}

impl EntryRef<'_> {
    /// Bytes of the value, none at a tombstone.
    #[must_use]
    pub fn value_len(self) -> usize {
        match self {
            EntryRef::Value(value) => value.len(),
            EntryRef::Tombstone => 0,
        }
    }

    /// An entry of its own.
    #[must_use]
    pub fn to_owned(self) -> Entry {
        match self {
            EntryRef::Value(value) => Entry::Value(Bytes::copy_from_slice(value)),
            EntryRef::Tombstone => Entry::Tombstone,
        }
    }
}

impl<'a> From<&'a Entry> for EntryRef<'a> {
    fn from(entry: &'a Entry) -> EntryRef<'a> {
        match entry {
            Entry::Value(value) => EntryRef::Value(value),
            Entry::Tombstone => EntryRef::Tombstone,
        }
    }
}
