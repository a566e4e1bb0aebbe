//! What a transaction has written so far, by entry key: a few writes side by side, many in a tree.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};

use smallvec::SmallVec;

use crate::key::EntryKey;

/// Most commands write one or two entries; so many are kept without a tree.
const FEW: usize = 16;

/// Where there are more than two there are often some more: a member of a sorted set with its counts.
const SOME: usize = 8;

/// What was written at an entry key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Written {
    /// A value, which lies here in the transaction's record. Half as wide as a place in memory: entries are moved about, and
    /// a record is shorter than 2^32 bytes, or is refused when it is committed.
    Value(Range<u32>),
    /// Nothing.
    Tombstone,
}

impl Written {
    /// A value that lies there. Of a record that is too long it is some other place: nobody reads that.
    pub(crate) fn value(place: Range<usize>) -> Written {
        let narrow = |at| u32::try_from(at).unwrap_or(u32::MAX);
        Written::Value(narrow(place.start)..narrow(place.end))
    }
}

/// Where in the record a value lies.
pub(crate) fn wide(place: &Range<u32>) -> Range<usize> {
    place.start as usize..place.end as usize
}

/// See the file's head.
#[derive(Debug)]
pub(crate) enum Overlay {
    /// Ascending.
    Few(SmallVec<[(EntryKey, Written); 2]>),
    Many(BTreeMap<EntryKey, Written>),
}

impl Default for Overlay {
    fn default() -> Overlay {
        Overlay::Few(SmallVec::new())
    }
}

/// Some of the entries, ascending.
pub(crate) type Entries<'a> = Box<dyn DoubleEndedIterator<Item = (&'a [u8], &'a Written)> + 'a>;

impl Overlay {
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Overlay::Few(entries) => entries.is_empty(),
            Overlay::Many(entries) => entries.is_empty(),
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Written> {
        match self {
            Overlay::Few(entries) => {
                entries.iter().find(|(other, _)| other[..] == *key).map(|(_, entry)| entry)
            }
            Overlay::Many(entries) => entries.get(key),
        }
    }

    /// The last entry from `from` to `to`, both included.
    pub(crate) fn last(&self, from: &[u8], to: &[u8]) -> Option<(&[u8], &Written)> {
        let last = match self {
            Overlay::Few(entries) => {
                entries.iter().rev().find(|(key, _)| key[..] <= *to).map(|(key, entry)| (&key[..], entry))
            }
            Overlay::Many(entries) => {
                let mut below = entries.range::<[u8], _>((Bound::Unbounded, Bound::Included(to)));
                below.next_back().map(|(key, entry)| (&key[..], entry))
            }
        };
        last.filter(|(key, _)| *key >= from)
    }

    pub(crate) fn insert(&mut self, key: EntryKey, entry: Written) {
        match self {
            Overlay::Few(entries) => match entries.binary_search_by(|(other, _)| other.cmp(&key)) {
                Ok(index) => entries[index].1 = entry,
                Err(index) if entries.len() < FEW => {
                    if entries.len() == entries.inline_size() && !entries.spilled() {
                        entries.reserve(SOME - entries.len());
                    }
                    entries.insert(index, (key, entry));
                }
                Err(_) => {
                    let mut many: BTreeMap<_, _> = entries.drain(..).collect();
                    many.insert(key, entry);
                    *self = Overlay::Many(many);
                }
            },
            Overlay::Many(entries) => drop(entries.insert(key, entry)),
        }
    }

    pub(crate) fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Entries<'_> {
        match self {
            Overlay::Few(entries) => {
                let start = entries.partition_point(|(key, _)| !inside(key, from, Bound::Unbounded));
                let end = entries.partition_point(|(key, _)| inside(key, Bound::Unbounded, to));
                let entries = entries.get(start..end).unwrap_or_default();
                Box::new(entries.iter().map(|(key, entry)| (&key[..], entry)))
            }
            Overlay::Many(entries) => {
                // A tree panics on an inverted range; such a range is empty.
                let inverted = match (from, to) {
                    (Bound::Included(a), Bound::Included(b)) => a > b,
                    (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => {
                        a >= b
                    }
                    _ => false,
                };
                let range = (!inverted).then(|| entries.range::<[u8], _>((from, to)));
                Box::new(range.into_iter().flatten().map(|(key, entry)| (&key[..], entry)))
            }
        }
    }

    /// Gives every entry from `from` to before `to` to `change`.
    pub(crate) fn change(&mut self, from: &[u8], to: &[u8], mut change: impl FnMut(&[u8], &mut Written)) {
        match self {
            Overlay::Few(entries) => {
                let inside = |key: &[u8]| inside(key, Bound::Included(from), Bound::Excluded(to));
                for (key, entry) in entries.iter_mut().filter(|(key, _)| inside(key)) {
                    change(key, entry);
                }
            }
            Overlay::Many(entries) => {
                let range = (Bound::Included(from), Bound::Excluded(to));
                for (key, entry) in entries.range_mut::<[u8], _>(range) {
                    change(key, entry);
                }
            }
        }
    }

    /// All entries, ascending.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&[u8], &Written)) {
        match self {
            Overlay::Few(entries) => entries.iter().for_each(|(key, entry)| visit(key, entry)),
            Overlay::Many(entries) => entries.iter().for_each(|(key, entry)| visit(key, entry)),
        }
    }
}

fn inside(key: &[u8], from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    (match from {
        Bound::Included(from) => key >= from,
        Bound::Excluded(from) => key > from,
        Bound::Unbounded => true,
    }) && match to {
        Bound::Included(to) => key <= to,
        Bound::Excluded(to) => key < to,
        Bound::Unbounded => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn few_and_many_hold_what_an_ordered_map_holds(
            writes in proptest::collection::vec((proptest::collection::vec(0_u8..4, 0..4), any::<bool>()), 0..60),
            from in proptest::collection::vec(0_u8..4, 0..4),
            to in proptest::collection::vec(0_u8..4, 0..4),
        ) {
            let (mut overlay, mut model) = (Overlay::default(), BTreeMap::new());
            for (key, value) in writes {
                let entry = if value { Written::value(0..key.len()) } else { Written::Tombstone };
                overlay.insert(EntryKey::from_slice(&key), entry.clone());
                model.insert(key, entry);
            }
            prop_assert_eq!(overlay.is_empty(), model.is_empty());
            prop_assert_eq!(overlay.get(&from), model.get(&from));
            if from <= to {
                let last = model.range(from.clone()..=to.clone()).next_back().map(|(key, entry)| (&key[..], entry));
                prop_assert_eq!(overlay.last(&from, &to), last);
            }
            let bounds = |key| [Bound::Included(key), Bound::Excluded(key), Bound::Unbounded];
            for from in bounds(&from[..]) {
                for to in bounds(&to[..]).into_iter().chain([from]) {
                    let inside = model.iter().filter(|(key, _)| inside(key, from, to));
                    let expected: Vec<_> = inside.map(|(key, entry)| (&key[..], entry)).collect();
                    prop_assert_eq!(overlay.range(from, to).collect::<Vec<_>>(), expected);
                }
            }
            let mut all = Vec::new();
            overlay.for_each(|key, entry| all.push((key.to_vec(), entry.clone())));
            prop_assert!(all.into_iter().eq(model));
        }
    }
}
