//! One operation, as borrowed bytes.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// What an operation counts as: each kind has a histogram of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A point read.
    Read,
    /// Many point reads in one call.
    MultiRead,
    /// A range read.
    Scan,
    /// A value put at a key.
    Write,
    /// Many values put in one atomic call.
    Batch,
    /// A value put at a key that was not there (YCSB's insert).
    Insert,
    /// A read and then a write of the same key (YCSB's read-modify-write).
    ReadModifyWrite,
    /// A key removed.
    Delete,
    /// A command on a counter, hash, list or sorted set.
    Command,
}

impl Kind {
    /// All kinds, in order: a kind's place is `kind as usize`.
    pub const ALL: [Kind; 9] = [
        Kind::Read,
        Kind::MultiRead,
        Kind::Scan,
        Kind::Write,
        Kind::Batch,
        Kind::Insert,
        Kind::ReadModifyWrite,
        Kind::Delete,
        Kind::Command,
    ];

    /// Its name in words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Read => "read",
            Kind::MultiRead => "multi-read",
            Kind::Scan => "scan",
            Kind::Write => "write",
            Kind::Batch => "batch",
            Kind::Insert => "insert",
            Kind::ReadModifyWrite => "read-modify-write",
            Kind::Delete => "delete",
            Kind::Command => "command",
        }
    }
}

/// Keys of one length, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct KeyList<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) each: usize,
}

impl<'a> KeyList<'a> {
    /// Keys that lie one after the other, each of `each` bytes.
    ///
    /// # Panics
    /// If `each` is 0.
    #[must_use]
    pub fn new(bytes: &'a [u8], each: usize) -> KeyList<'a> {
        assert!(each > 0, "a key has bytes");
        KeyList { bytes, each }
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() / self.each
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Each of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        self.bytes.chunks_exact(self.each)
    }
}

/// Keys with their values.
#[derive(Clone, Copy, Debug)]
pub struct PairList<'a> {
    pub(crate) keys: KeyList<'a>,
    pub(crate) data: &'a [u8],
    pub(crate) values: &'a [Range<usize>],
}

impl<'a> PairList<'a> {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Each of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let data = self.data;
        self.keys.iter().zip(self.values).map(move |(key, value)| (key, &data[value.clone()]))
    }
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub enum Operation<'a> {
    /// Puts a value at a key.
    Put(&'a [u8], &'a [u8]),
    /// Reads the value at a key.
    Get(&'a [u8]),
    /// Removes a key.
    Delete(&'a [u8]),
    /// Reads the value at a key, then puts another there.
    ReadModifyWrite(&'a [u8], &'a [u8]),
    /// From the first key not below this one, so many entries, keys and values, ascending.
    Scan(&'a [u8], usize),
    /// So many entries, one after the other, from where the last such operation of this lane ended; from the least key on
    /// after the greatest.
    Walk(usize),
    /// Reads the values at many keys.
    MultiGet(KeyList<'a>),
    /// Puts many values, all or none.
    Batch(PairList<'a>),
    /// Puts a value that goes after so many milliseconds.
    PutExpiring(&'a [u8], &'a [u8], u64),
    /// Adds one to a counter.
    Increment(&'a [u8]),
    /// Sets a field of a hash: key, field, value.
    HashSet(&'a [u8], &'a [u8], &'a [u8]),
    /// Puts an element at the head of a list.
    ListPush(&'a [u8], &'a [u8]),
    /// Takes an element from the tail of a list.
    ListPop(&'a [u8]),
    /// Sets a member's score in a sorted set: key, score, member.
    SortedSetAdd(&'a [u8], u64, &'a [u8]),
}

impl Operation<'_> {
    /// What it counts as, unless the workload says otherwise.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Operation::Put(..) => Kind::Write,
            Operation::PutExpiring(..) => Kind::Write,
            Operation::Get(_) => Kind::Read,
            Operation::Delete(_) => Kind::Delete,
            Operation::ReadModifyWrite(..) => Kind::ReadModifyWrite,
            Operation::Scan(..) | Operation::Walk(_) => Kind::Scan,
            Operation::MultiGet(_) => Kind::MultiRead,
            Operation::Batch(_) => Kind::Batch,
            Operation::Increment(_)
            | Operation::HashSet(..)
            | Operation::ListPush(..)
            | Operation::ListPop(_)
            | Operation::SortedSetAdd(..) => Kind::Command,
        }
    }

    /// For how many operations it counts: its keys. A scan counts as one, a walk as its entries.
    #[must_use]
    pub fn count(&self) -> u64 {
        match self {
            Operation::MultiGet(keys) => keys.len() as u64,
            Operation::Batch(pairs) => pairs.len() as u64,
            Operation::Walk(entries) => *entries as u64,
            _ => 1,
        }
    }

    /// Bytes of keys and values that it puts; of a delete, its key.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        let bytes = match self {
            Operation::Put(key, value)
            | Operation::PutExpiring(key, value, _)
            | Operation::ReadModifyWrite(key, value)
            | Operation::ListPush(key, value)
            | Operation::SortedSetAdd(key, _, value) => key.len() + value.len(),
            Operation::HashSet(key, field, value) => key.len() + field.len() + value.len(),
            Operation::Delete(key) | Operation::Increment(key) | Operation::ListPop(key) => key.len(),
            Operation::Batch(pairs) => {
                pairs.keys.bytes.len() + pairs.values.iter().map(Range::len).sum::<usize>()
            }
            Operation::Get(_) | Operation::Scan(..) | Operation::Walk(_) | Operation::MultiGet(_) => 0,
        };
        bytes as u64
    }
}
