//! The numbers that name things: slots, epochs, sequence numbers, log positions, nodes.
//!
//! Each is a type of its own, so that a byte position can't be taken for a sequence number.
//! Plain values; any thread may use them.

use std::fmt;

/// How many slots the keyspace is cut into. Part of the format, and of Codis' contract.
#[cfg(not(feature = "loom"))]
pub const SLOT_COUNT: u16 = 1024;
/// Few in models: each of them goes through every lock that a walk over all slots takes.
#[cfg(feature = "loom")]
pub const SLOT_COUNT: u16 = 4;

/// One of the 1024 partitions of the keys.
///
/// Invariant: the number inside is below [`SLOT_COUNT`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// The slot with this number, or `None` at [`SLOT_COUNT`] and above.
    pub const fn new(number: u16) -> Option<Slot> {
        if number < SLOT_COUNT { Some(Slot(number)) } else { None }
    }

    /// The slot that a key belongs to: CRC-32 (IEEE) of the hash tag, or of the key, modulo 1024.
    ///
    /// The tag is what stands between the first `{` and the first `}` after it, and may be empty
    /// (then the slot is 0). This is Codis' rule, not Redis Cluster's.
    pub fn of_key(key: &[u8]) -> Slot {
        let crc = crc32fast::hash(hash_tag(key));
        let number = crc % u32::from(SLOT_COUNT);
        Slot(u16::try_from(number).expect("a number modulo 1024 fits in 16 bits"))
    }

    /// The slot's number, 0 to 1023.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The slot's number as an index into a table of all slots.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Ascending slots as people write them, neighbours joined to ranges: `0-3,8`.
    #[must_use]
    pub fn group(slots: impl IntoIterator<Item = Slot>) -> String {
        let mut parts: Vec<(u16, u16)> = Vec::new();
        for slot in slots.into_iter().map(Slot::number) {
            match parts.last_mut() {
                Some((_, last)) if *last + 1 == slot => *last = slot,
                _ => parts.push((slot, slot)),
            }
        }
        let text = |(first, last): &(u16, u16)| {
            if first == last { first.to_string() } else { format!("{first}-{last}") }
        };
        parts.iter().map(text).collect::<Vec<_>>().join(",")
    }

    /// All slots, ascending.
    pub fn all() -> impl DoubleEndedIterator<Item = Slot> + ExactSizeIterator {
        (0..SLOT_COUNT).map(Slot)
    }
}

/// The part of a key that decides its slot.
pub fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&b| b == b'{') else { return key };
    let after = &key[open + 1..];
    match after.iter().position(|&b| b == b'}') {
        Some(close) => &after[..close],
        None => key,
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {}", self.0)
    }
}

/// The number of a record within its slot. Dense: each record's is its predecessor's plus one, across epochs
/// too. `Seq(0)` is "before the first record".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub u64);

impl Seq {
    /// Before the first record.
    pub const ZERO: Seq = Seq(0);
    /// The greatest that a record can carry: 48 bits. Part of the format.
    pub const MAX: Seq = Seq((1 << 48) - 1);

    /// The number of the record that follows.
    #[must_use]
    pub const fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seq {}", self.0)
    }
}

/// A byte position in this node's log, over all segments it ever had. Never leaves the node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The start of the first segment.
    pub const ZERO: Lsn = Lsn(0);

    /// The position `bytes` further on.
    #[must_use]
    pub const fn advance(self, bytes: u64) -> Lsn {
        Lsn(self.0 + bytes)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lsn {:#x}", self.0)
    }
}

/// Which ownership of a slot a record belongs to: a term that grows, and a random tag drawn by the master that
/// began it, so that two promotions at once never mint the same epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch {
    /// Grows with each ownership of the slot.
    pub term: u32,
    /// Random. Equal terms with different tags are different epochs.
    pub tag: u64,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.term, self.tag)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {self}")
    }
}

/// Who a node is, wherever it listens: drawn at random when its data folder is made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub [u8; 20]);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_to_the_slots_that_codis_gives_them() {
        for (key, slot) in [("a", 579), ("b", 1017), ("c", 879), ("foo", 289), ("", 0), ("aaa", 813)] {
            assert_eq!(Slot::of_key(key.as_bytes()).number(), slot, "{key}");
        }
    }

    #[test]
    fn the_first_tag_decides_and_an_empty_tag_is_slot_zero() {
        assert_eq!(Slot::of_key(b"x{foo}y{a}"), Slot::of_key(b"foo"));
        assert_eq!(Slot::of_key(b"x{}y").number(), 0);
        assert_eq!(hash_tag(b"x{foo"), b"x{foo");
        assert_eq!(hash_tag(b"}x{foo}"), b"foo");
    }
}
