//! The types of values: the numbers that stand for them on disk, and their names.

use haypile_engine::value::Value;

/// The type of what stands at a key. The numbers are part of the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Bytes.
    String = 0,
    /// Fields with values.
    Hash = 1,
    /// Elements in the order they were pushed in.
    List = 2,
    /// Distinct members.
    Set = 3,
    /// Distinct members by score.
    SortedSet = 4,
    /// Entries by id, and groups of consumers.
    Stream = 5,
}

impl Kind {
    /// All types.
    pub const ALL: [Kind; 6] =
        [Kind::String, Kind::Hash, Kind::List, Kind::Set, Kind::SortedSet, Kind::Stream];

    /// The type of a value; `None` for one that a newer version wrote.
    #[must_use]
    pub fn of<P>(value: &Value<P>) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == value.kind)
    }

    /// What TYPE answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::String => "string",
            Kind::Hash => "hash",
            Kind::List => "list",
            Kind::Set => "set",
            Kind::SortedSet => "zset",
            Kind::Stream => "stream",
        }
    }
}
