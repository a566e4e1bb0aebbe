//! The order of a memtable's entries: an array of sorted leaves, each entry by the first eight bytes of its key.
//!
//! Two levels only: a slot's memtable has thousands of entries, and is flushed long before the upper array gets
//! slow to shift. Entry keys begin with a hash, so eight bytes nearly always decide; the arena's whole key decides
//! the rest (elements of one collection, which share their first bytes).

use super::arena::{Arena, At};
use crate::sst::{partition_point, prefix_of};

/// Entries in a leaf at most.
const LEAF_ENTRIES: usize = 32;

/// Some neighbouring entries, ascending.
#[derive(Debug)]
struct Leaf {
    len: usize,
    prefixes: [u64; LEAF_ENTRIES],
    at: [At; LEAF_ENTRIES],
}

/// A place between entries: before entry `index` of leaf `leaf`. Ordered as the entries are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    leaf: usize,
    index: usize,
}

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Leaves {
    /// The prefix of each leaf's first key: what a search looks at.
    firsts: Vec<u64>,
    /// Invariant: none is empty. Boxed, so that to insert one shifts pointers only.
    #[allow(clippy::vec_box)]
    leaves: Vec<Box<Leaf>>,
    len: usize,
}

impl Leaf {
    fn new() -> Box<Leaf> {
        Box::new(Leaf { len: 0, prefixes: [0; LEAF_ENTRIES], at: [At::NOWHERE; LEAF_ENTRIES] })
    }

    fn insert(&mut self, index: usize, prefix: u64, at: At) {
        self.prefixes.copy_within(index..self.len, index + 1);
        self.at.copy_within(index..self.len, index + 1);
        (self.prefixes[index], self.at[index]) = (prefix, at);
        self.len += 1;
    }

    /// Moves the upper half to a leaf of its own.
    fn split(&mut self) -> Box<Leaf> {
        let half = self.len / 2;
        let mut upper = Leaf::new();
        upper.len = self.len - half;
        upper.prefixes[..upper.len].copy_from_slice(&self.prefixes[half..self.len]);
        upper.at[..upper.len].copy_from_slice(&self.at[half..self.len]);
        self.len = half;
        upper
    }
}

impl Leaves {
    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.leaves.len() * size_of::<Leaf>() + (self.leaves.capacity() + self.firsts.capacity()) * 8
    }

    /// The place of `key`: of the entry that has it, or where it would be inserted.
    fn search(&self, key: &[u8], arena: &Arena) -> (Place, bool) {
        let prefix = prefix_of(key);
        let above = partition_point(&self.firsts, prefix, |leaf| arena.key(self.leaves[leaf].at[0]) <= key);
        let number = above.saturating_sub(1);
        let Some(leaf) = self.leaves.get(number) else { return (Place { leaf: 0, index: 0 }, false) };
        let prefixes = &leaf.prefixes[..leaf.len];
        let index = partition_point(prefixes, prefix, |index| arena.key(leaf.at[index]) < key);
        let found = prefixes.get(index) == Some(&prefix) && arena.key(leaf.at[index]) == key;
        (Place { leaf: number, index }, found)
    }

    /// Where the entry of `key` lies.
    pub(super) fn find(&self, key: &[u8], arena: &Arena) -> Option<(Place, At)> {
        let (place, found) = self.search(key, arena);
        found.then(|| (place, self.at(place)))
    }

    /// Adds a key that is not there.
    pub(super) fn insert(&mut self, key: &[u8], at: At, arena: &Arena) {
        let (place, found) = self.search(key, arena);
        debug_assert!(!found, "the key is there already");
        let prefix = prefix_of(key);
        self.len += 1;
        let Some(leaf) = self.leaves.get_mut(place.leaf) else {
            let mut leaf = Leaf::new();
            leaf.insert(0, prefix, at);
            self.leaves.push(leaf);
            self.firsts.push(prefix);
            return;
        };
        let (mut number, mut index) = (place.leaf, place.index);
        if leaf.len == LEAF_ENTRIES {
            // Ascending keys (a list that is pushed to) leave full leaves behind.
            let upper = if index == LEAF_ENTRIES { Leaf::new() } else { leaf.split() };
            let half = leaf.len;
            self.leaves.insert(number + 1, upper);
            self.firsts.insert(number + 1, 0);
            if index > half || half == LEAF_ENTRIES {
                (number, index) = (number + 1, index - half);
            }
            self.leaves[number].insert(index, prefix, at);
            for touched in [number, place.leaf, place.leaf + 1] {
                self.firsts[touched] = self.leaves[touched].prefixes[0];
            }
            return;
        }
        leaf.insert(index, prefix, at);
        self.firsts[number] = leaf.prefixes[0];
    }

    /// Says where the entry at a place lies now.
    pub(super) fn moved(&mut self, place: Place, at: At) {
        self.leaves[place.leaf].at[place.index] = at;
    }

    /// Lets `renew` say for every entry where it lies now.
    pub(super) fn renew(&mut self, mut renew: impl FnMut(At) -> At) {
        for leaf in &mut self.leaves {
            for at in &mut leaf.at[..leaf.len] {
                *at = renew(*at);
            }
        }
    }

    /// Where the entry after a place lies.
    pub(super) fn at(&self, place: Place) -> At {
        self.leaves[place.leaf].at[place.index]
    }

    /// Before all entries.
    pub(super) fn start(&self) -> Place {
        Place { leaf: 0, index: 0 }
    }

    /// After all entries.
    pub(super) fn end(&self) -> Place {
        Place { leaf: self.leaves.len(), index: 0 }
    }

    /// Before the first entry whose key is `key` (`after`: is above `key`) or greater.
    pub(super) fn lower_bound(&self, key: &[u8], after: bool, arena: &Arena) -> Place {
        let (mut place, found) = self.search(key, arena);
        place.index += usize::from(found && after);
        self.settled(place)
    }

    /// The same place, named by the entry that follows it.
    fn settled(&self, place: Place) -> Place {
        match self.leaves.get(place.leaf) {
            Some(leaf) if place.index == leaf.len => Place { leaf: place.leaf + 1, index: 0 },
            _ => place,
        }
    }

    /// The next place up.
    pub(super) fn next(&self, place: Place) -> Place {
        self.settled(Place { index: place.index + 1, ..place })
    }

    /// The next place down; there is one unless this is the start.
    pub(super) fn prev(&self, place: Place) -> Place {
        match place.index.checked_sub(1) {
            Some(index) => Place { index, ..place },
            None => Place { leaf: place.leaf - 1, index: self.leaves[place.leaf - 1].len - 1 },
        }
    }
}
