//! The order of a memtable's entries: an array of sorted leaves, each entry by two words of its key.
//!
//! The first word is the first eight bytes of the entry key, so a hash: it nearly always decides between different
//! user's keys. The elements of one collection share it; among them the second word decides, the first eight bytes of
//! the sub-key. Only what both leave open is looked up in the arena.
//!
//! Two levels only: a slot's memtable is flushed long before the upper arrays get slow to shift.

use super::arena::{Arena, At};
use crate::key;
use crate::sst::{first_not_below, partition_within, prefix_of};

/// Entries in a leaf at most.
const LEAF_ENTRIES: usize = 64;

/// A key as it is searched for.
pub(super) struct Probe<'a> {
    key: &'a [u8],
    words: Words,
    /// How much of the key is the same for all elements of its collection; `None` at a user's own key.
    owner_len: Option<usize>,
}

/// See the file's head. The second is 0 at a user's own key.
#[derive(Clone, Copy, Debug, Default)]
struct Words(u64, u64);

impl Probe<'_> {
    pub(super) fn new(key: &[u8]) -> Probe<'_> {
        let element = key::split(key).and_then(|parts| parts.element);
        let owner_len = element.map(|(_, sub)| key.len() - sub.len());
        let words = Words(prefix_of(key), element.map_or(0, |(_, sub)| prefix_of(sub)));
        Probe { key, words, owner_len }
    }
}

/// Some neighbouring entries, ascending.
#[derive(Debug)]
struct Leaf {
    len: usize,
    firsts: [u64; LEAF_ENTRIES],
    seconds: [u64; LEAF_ENTRIES],
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
    /// The words of each leaf's first key: what a search looks at.
    firsts: Vec<u64>,
    seconds: Vec<u64>,
    /// Invariant: none is empty. Boxed, so that to insert one shifts pointers only.
    #[allow(clippy::vec_box)]
    leaves: Vec<Box<Leaf>>,
    len: usize,
}

/// Sorted keys by their words, and the way to a whole key.
struct Sorted<'a, K: Fn(usize) -> &'a [u8]> {
    firsts: &'a [u64],
    seconds: &'a [u64],
    key: K,
}

impl<'a, K: Fn(usize) -> &'a [u8]> Sorted<'a, K> {
    /// The first key that is not below the probe's (`after`: that is above it).
    fn search(&self, probe: &Probe<'_>, after: bool) -> usize {
        let is_before = |index: usize| {
            let key = (self.key)(index);
            key < probe.key || (after && key == probe.key)
        };
        let low = first_not_below(self.firsts, probe.words.0);
        let equal = |words: &[u64], from: usize, word: u64| {
            if words.get(from + 1) == Some(&word) {
                from + words[from..].partition_point(|&other| other == word)
            } else {
                from + usize::from(words.get(from) == Some(&word))
            }
        };
        let high = equal(self.firsts, low, probe.words.0);
        let (mut low, mut high) = (low, high);
        if high - low > 2
            && let Some(owner_len) = probe.owner_len
        {
            let owner = &probe.key[..owner_len];
            let belongs = |index: usize| (self.key)(index).get(..owner_len) == Some(owner);
            // The user's own key comes right before its elements.
            let first = low + usize::from(is_before(low));
            // What lies between two elements of a collection is of that collection.
            if first < high && belongs(first) && belongs(high - 1) {
                let seconds = &self.seconds[..high];
                low = first + first_not_below(&seconds[first..], probe.words.1);
                high = equal(seconds, low, probe.words.1);
            }
        }
        partition_within(low..high, is_before)
    }
}

impl Leaf {
    fn new() -> Box<Leaf> {
        let words = [0; LEAF_ENTRIES];
        Box::new(Leaf { len: 0, firsts: words, seconds: words, at: [At::NOWHERE; LEAF_ENTRIES] })
    }

    fn insert(&mut self, index: usize, words: Words, at: At) {
        self.firsts.copy_within(index..self.len, index + 1);
        self.seconds.copy_within(index..self.len, index + 1);
        self.at.copy_within(index..self.len, index + 1);
        (self.firsts[index], self.seconds[index], self.at[index]) = (words.0, words.1, at);
        self.len += 1;
    }

    /// Moves the entries from `start` on to a leaf of its own.
    fn split(&mut self, start: usize) -> Box<Leaf> {
        let mut upper = Leaf::new();
        upper.len = self.len - start;
        upper.firsts[..upper.len].copy_from_slice(&self.firsts[start..self.len]);
        upper.seconds[..upper.len].copy_from_slice(&self.seconds[start..self.len]);
        upper.at[..upper.len].copy_from_slice(&self.at[start..self.len]);
        self.len = start;
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
        self.leaves.len() * size_of::<Leaf>()
            + (self.leaves.capacity() + self.firsts.capacity() + self.seconds.capacity()) * 8
    }

    /// The place of a key: of the entry that has it, or where it would be inserted; and whether it is there.
    pub(super) fn search(&self, probe: &Probe<'_>, arena: &Arena) -> (Place, bool) {
        let leaves = &self.leaves;
        let key = |leaf: usize| arena.key(leaves[leaf].at[0]);
        let above = Sorted { firsts: &self.firsts, seconds: &self.seconds, key }.search(probe, true);
        let number = above.saturating_sub(1);
        let Some(leaf) = leaves.get(number) else { return (Place { leaf: 0, index: 0 }, false) };
        let (firsts, seconds) = (&leaf.firsts[..leaf.len], &leaf.seconds[..leaf.len]);
        let key = |index: usize| arena.key(leaf.at[index]);
        let index = Sorted { firsts, seconds, key }.search(probe, false);
        let found = firsts.get(index) == Some(&probe.words.0) && key(index) == probe.key;
        (Place { leaf: number, index }, found)
    }

    /// Adds a key at the place where [`Leaves::search`] did not find it.
    pub(super) fn insert(&mut self, place: Place, probe: &Probe<'_>, at: At) {
        let (mut number, mut index) = (place.leaf, place.index);
        if self.leaves.is_empty() {
            self.add_leaf(0, Leaf::new());
        }
        if self.leaves[number].len == LEAF_ENTRIES {
            // Lists grow at their ends: there a full leaf stays full.
            let start = match index {
                0 => 0,
                LEAF_ENTRIES => LEAF_ENTRIES,
                _ => LEAF_ENTRIES / 2,
            };
            let upper = self.leaves[number].split(start);
            self.add_leaf(number + 1, upper);
            if index > start || start == LEAF_ENTRIES {
                (number, index) = (number + 1, index - start);
            }
            self.name(place.leaf);
            self.name(place.leaf + 1);
        }
        self.leaves[number].insert(index, probe.words, at);
        self.name(number);
        self.len += 1;
    }

    fn add_leaf(&mut self, number: usize, leaf: Box<Leaf>) {
        self.leaves.insert(number, leaf);
        self.firsts.insert(number, 0);
        self.seconds.insert(number, 0);
    }

    /// Sets the words of a leaf to those of its first key.
    fn name(&mut self, number: usize) {
        let leaf = &self.leaves[number];
        (self.firsts[number], self.seconds[number]) = (leaf.firsts[0], leaf.seconds[0]);
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
        let (mut place, found) = self.search(&Probe::new(key), arena);
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
