//! The elements of a memtable's collections: a B+ tree over the arena.
//!
//! What neighbouring keys begin with they share: the user's key, the generation, often much of the sub-key. So a node
//! knows how many bytes all keys under it share, and keeps for each key the eight bytes that follow those, its *word*.
//! A search goes down by words alone, as if the key it looks for shared what the node's keys share; that it does is seen at
//! the end, at the one key of the arena that is looked at anyway. If it does not, the search begins anew and looks at each
//! node's keys. Where words are equal, whole keys decide.
//!
//! A key never leaves; entries of a node therefore keep the first key that they were parted at.

use std::cmp::Ordering;
use std::hint::black_box;
use std::ops::Bound;

use smallvec::SmallVec;

use super::Stored;
use super::arena::{Arena, At};
use crate::read::Direction;
use crate::sst::{first_not_below_few, partition_within, prefix_of};

/// Entries of a node at most.
const FAN: usize = 64;
/// A node's words are taken anew where they would begin so many bytes further on.
const GAIN_BYTES_MIN: usize = 4;
/// Bytes that are not counted as shared though they are: neighbours that will come may differ in them.
const SLACK_BYTES: usize = 2;

/// Words of a cache line.
const LINE_WORDS: usize = 8;

/// A walk looks at so many entries together before it reads them: they come from memory at the same time.
const LOOKED_AT: usize = 8;

/// No leaf.
const NONE: u32 = u32::MAX;

/// Some neighbouring entries, ascending. A leaf's are keys; an inner node's are nodes, each by its first key.
#[derive(Debug)]
struct Node<T> {
    /// Bytes that all keys in and under it begin with; perhaps they share more.
    shared: usize,
    len: usize,
    words: [u64; FAN],
    to: [T; FAN],
    /// The leaves before and after.
    before: u32,
    after: u32,
}

type Leaf = Node<At>;
type Inner = Node<u32>;

/// The way to a leaf: inner nodes, from the root on, and the entry taken in each.
type Path = SmallVec<[(u32, usize); 6]>;

/// A place between elements: before entry `index` of leaf `leaf`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Place {
    leaf: u32,
    index: usize,
}

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Elements {
    /// The first is the first in order. Boxed, so that growth moves pointers only.
    #[allow(clippy::vec_box)]
    leaves: Vec<Box<Leaf>>,
    #[allow(clippy::vec_box)]
    inners: Vec<Box<Inner>>,
    /// A leaf if `height` is 0, else an inner node.
    root: u32,
    /// Levels of inner nodes.
    height: usize,
    /// The last in order.
    last: u32,
    len: usize,
}

/// A search that goes down one node at each step: those of many keys wait for memory together. It goes by words alone, so
/// that where it ends is a guess.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descent {
    node: u32,
    /// Levels above the leaves.
    level: usize,
    index: usize,
}

impl Descent {
    /// Where it has come to, once it is through.
    pub(super) fn place(self) -> Place {
        Place { leaf: self.node, index: self.index }
    }
}

/// What is known of a key before it is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Known {
    /// It stands there.
    There(Place),
    /// It is not there, and would stand here.
    Between(Place),
}

/// What a search found, for as long as nothing is added.
pub(super) struct Found {
    path: Path,
    place: Place,
    /// Whether the key stands there.
    exact: bool,
    /// Bytes that the key shares with its neighbour in the leaf, if fewer than a node on its way says.
    agreed: Option<usize>,
}

impl Found {
    /// Where the key stands, if it does.
    pub(super) fn exact(&self) -> Option<Place> {
        self.exact.then_some(self.place)
    }
}

impl<T: Copy> Node<T> {
    fn new(fill: T) -> Box<Node<T>> {
        Box::new(Node { shared: 0, len: 0, words: [0; FAN], to: [fill; FAN], before: NONE, after: NONE })
    }

    /// Reads a word of each cache line that a search looks at.
    fn look(&self) -> u64 {
        let words = self.words.iter().step_by(LINE_WORDS).fold(0, |all, word| all ^ word);
        words ^ self.words[FAN - 1] ^ self.len as u64
    }

    fn insert(&mut self, index: usize, word: u64, to: T) {
        self.words.copy_within(index..self.len, index + 1);
        self.to.copy_within(index..self.len, index + 1);
        (self.words[index], self.to[index]) = (word, to);
        self.len += 1;
    }

    /// Moves the entries from `start` on to a node of its own.
    fn split(&mut self, start: usize) -> Box<Node<T>> {
        let mut upper = Node::new(self.to[0]);
        upper.shared = self.shared;
        upper.len = self.len - start;
        upper.words[..upper.len].copy_from_slice(&self.words[start..self.len]);
        upper.to[..upper.len].copy_from_slice(&self.to[start..self.len]);
        self.len = start;
        upper
    }

    /// Where a full node is parted for an entry to come at `index`. What grows at its ends leaves full nodes behind.
    fn part_at(index: usize) -> usize {
        match index {
            0 => 0,
            FAN => FAN,
            _ => FAN / 2,
        }
    }

    /// Counts no more than `shared` bytes as shared. `key` is any of its keys.
    fn loosen(&mut self, shared: usize, key: &[u8]) {
        let Some(bytes) = self.shared.checked_sub(shared).filter(|bytes| *bytes > 0) else { return };
        let prefix = prefix_of(&key[shared..self.shared]);
        for word in &mut self.words[..self.len] {
            *word = if bytes < 8 { prefix | *word >> (8 * bytes) } else { prefix };
        }
        self.shared = shared;
    }

    /// Takes the words further on, if that parts its keys better. `first` and `last` are the ends of what is under it.
    fn tighten<'a>(&mut self, first: &[u8], last: &[u8], key: impl Fn(T) -> &'a [u8]) {
        let shared = shared_bytes(first, last).saturating_sub(SLACK_BYTES);
        if shared >= self.shared + GAIN_BYTES_MIN {
            self.shared = shared;
            for index in 0..self.len {
                self.words[index] = prefix_of(&key(self.to[index])[shared..]);
            }
        }
    }
}

fn shared_bytes(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The first of `words` that is not below `word`, and the first that is above it.
fn equal_range(words: &[u64], word: u64) -> (usize, usize) {
    let low = first_not_below_few(words, word);
    let high = match words.get(low..low + 2) {
        Some(&[first, second]) if first == word && second == word => {
            low + words[low..].partition_point(|&other| other == word)
        }
        _ => low + usize::from(words.get(low) == Some(&word)),
    };
    (low, high)
}

impl Elements {
    /// How many elements there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.leaves.len() * size_of::<Leaf>()
            + self.inners.len() * size_of::<Inner>()
            + (self.leaves.capacity() + self.inners.capacity()) * 8
    }

    fn leaf(&self, number: u32) -> &Leaf {
        &self.leaves[number as usize]
    }

    fn inner(&self, number: u32) -> &Inner {
        &self.inners[number as usize]
    }

    /// The first key under a node that stands `level` levels above the leaves.
    fn first_key<'a>(&self, mut node: u32, level: usize, arena: &'a Arena) -> &'a [u8] {
        for _ in 0..level {
            node = self.inner(node).to[0];
        }
        arena.key(self.leaf(node).to[0])
    }

    fn last_key<'a>(&self, mut node: u32, level: usize, arena: &'a Arena) -> &'a [u8] {
        for _ in 0..level {
            let inner = self.inner(node);
            node = inner.to[inner.len - 1];
        }
        let leaf = self.leaf(node);
        arena.key(leaf.to[leaf.len - 1])
    }

    /// The place of a key, or where it would be inserted.
    pub(super) fn find(&self, key: &[u8], arena: &Arena) -> Found {
        let (mut path, mut shared) = (Path::new(), 0);
        let mut note = |node, index| path.push((node, index));
        let place = self.descend(key, arena, &mut note, |node_shared, _, _| {
            shared = node_shared.max(shared);
            Ordering::Equal
        });
        let Some((near, exact)) = self.neighbour(place, key, arena) else {
            return Found { path, place, exact: false, agreed: None };
        };
        if exact || key.get(..shared) == near.get(..shared) {
            return Found { path, place, exact, agreed: None };
        }
        path.clear();
        let note = |node, index| path.push((node, index));
        let place = self.descend(key, arena, note, |shared, node, level| {
            let prefix = &self.first_key(node, level, arena)[..shared];
            key[..key.len().min(shared)].cmp(prefix)
        });
        let near = self.neighbour(place, key, arena).expect("it is not empty").0;
        Found { path, place, exact: false, agreed: Some(shared_bytes(key, near)) }
    }

    /// The key after a place, or the last one before it, of the same leaf; and whether it is `key`.
    fn neighbour<'a>(&self, place: Place, key: &[u8], arena: &'a Arena) -> Option<(&'a [u8], bool)> {
        let leaf = self.leaves.get(place.leaf as usize)?;
        let near = arena.key(leaf.to[place.index.min(leaf.len - 1)]);
        Some((near, place.index < leaf.len && near == key))
    }

    /// Goes down to the place of a key. `beside` says of a node (what its keys share, which one it is, its level) whether
    /// the key is below all that begins so, or above, or begins so itself. `note` hears of the inner nodes on the way, and
    /// of the entry taken in each.
    fn descend(
        &self,
        key: &[u8],
        arena: &Arena,
        mut note: impl FnMut(u32, usize),
        mut beside: impl FnMut(usize, u32, usize) -> Ordering,
    ) -> Place {
        let mut node = self.root;
        for level in (1..=self.height).rev() {
            let inner = self.inner(node);
            let index = match beside(inner.shared, node, level) {
                Ordering::Less => 0,
                Ordering::Greater => inner.len - 1,
                Ordering::Equal => {
                    let (low, high) = equal_range(&inner.words[1..inner.len], word_of(key, inner.shared));
                    partition_within(low..high, |index| {
                        self.first_key(inner.to[index + 1], level - 1, arena) <= key
                    })
                }
            };
            note(node, index);
            node = inner.to[index];
        }
        let Some(leaf) = self.leaves.get(node as usize) else { return Place { leaf: NONE, index: 0 } };
        let index = match beside(leaf.shared, node, 0) {
            Ordering::Less => 0,
            Ordering::Greater => leaf.len,
            Ordering::Equal => {
                let (low, high) = equal_range(&leaf.words[..leaf.len], word_of(key, leaf.shared));
                partition_within(low..high, |index| arena.key(leaf.to[index]) < key)
            }
        };
        Place { leaf: node, index }
    }

    /// Where a search begins that goes down one node at each step.
    pub(super) fn descent(&self) -> Descent {
        Descent { node: self.root, level: self.height, index: 0 }
    }

    /// Reads of the node that a search stands at what the next step looks at. What is read means nothing.
    pub(super) fn look(&self, descent: Descent) -> u64 {
        if descent.level > 0 {
            self.inners.get(descent.node as usize).map_or(0, |inner| inner.look())
        } else {
            self.leaves.get(descent.node as usize).map_or(0, |leaf| leaf.look())
        }
    }

    /// Goes down to the node where the key probably is, or to its place in the leaf.
    pub(super) fn step(&self, descent: &mut Descent, key: &[u8]) {
        if descent.level > 0 {
            let Some(inner) = self.inners.get(descent.node as usize) else { return };
            let (_, index) = equal_range(&inner.words[1..inner.len], word_of(key, inner.shared));
            (descent.node, descent.level) = (inner.to[index], descent.level - 1);
        } else if let Some(leaf) = self.leaves.get(descent.node as usize) {
            descent.index = equal_range(&leaf.words[..leaf.len], word_of(key, leaf.shared)).0;
        }
    }

    /// Levels that a search has to go down before it is in a leaf.
    pub(super) fn height(&self) -> usize {
        self.height
    }

    /// Where what stands at a place lies, if anything does.
    pub(super) fn get_at(&self, place: Place) -> Option<At> {
        let leaf = self.leaves.get(place.leaf as usize).filter(|leaf| place.index < leaf.len)?;
        Some(leaf.to[place.index])
    }

    /// Where what stands at a place lies, and what stands behind it in the same leaf: up to so many.
    pub(super) fn some_from(&self, place: Place, count: usize) -> &[At] {
        let leaf = self.leaves.get(place.leaf as usize);
        let rest = leaf.and_then(|leaf| leaf.to[..leaf.len].get(place.index..)).unwrap_or_default();
        &rest[..count.min(rest.len())]
    }

    /// Where a key stands; or, and that is only a guess, where it would; and whether it stands there.
    pub(super) fn get(&self, key: &[u8], arena: &Arena) -> (Place, bool) {
        let place = self.descend(key, arena, |_, _| {}, |_, _, _| Ordering::Equal);
        // A key that is there shares what the nodes above it share, so that its words led to it.
        (place, self.neighbour(place, key, arena).is_some_and(|(_, exact)| exact))
    }

    /// The last element that is not above a key.
    pub(super) fn not_above(&self, key: &[u8], arena: &Arena) -> Option<Place> {
        let Found { place, exact, .. } = self.find(key, arena);
        if exact {
            return Some(place);
        }
        (place != self.start()).then(|| self.prev(place))
    }

    /// What a place, of whatever table and time, says of a key; `None` if nothing.
    pub(super) fn known(&self, place: Place, key: &[u8], arena: &Arena) -> Option<Known> {
        let Place { leaf, index } = place;
        let leaf = self.leaves.get(leaf as usize).filter(|leaf| index < leaf.len)?;
        let word = word_of(key, leaf.shared);
        if word == leaf.words[index] {
            return (arena.key(leaf.to[index]) == key).then_some(Known::There(place));
        }
        let between = index > 0 && leaf.words[index - 1] < word && word < leaf.words[index];
        let near = || arena.key(leaf.to[index]).get(..leaf.shared);
        (between && key.get(..leaf.shared) == near()).then_some(Known::Between(place))
    }

    /// Whether one more can stand at a place as it is.
    pub(super) fn has_room(&self, place: Place) -> bool {
        self.leaf(place.leaf).len < FAN
    }

    /// Adds a key between two of a leaf that has room: as it shares what they share, nothing changes above it.
    pub(super) fn insert_between(&mut self, place: Place, key: &[u8], at: At) {
        self.len += 1;
        self.put(place.leaf, place.index, key, at);
    }

    /// Adds a key that [`Elements::find`] did not find.
    pub(super) fn insert(&mut self, found: Found, key: &[u8], at: At, arena: &Arena) {
        self.len += 1;
        if self.leaves.is_empty() {
            let mut leaf = Node::new(At::NOWHERE);
            leaf.shared = key.len().saturating_sub(SLACK_BYTES);
            self.leaves.push(leaf);
            self.put(0, 0, key, at);
            return;
        }
        let Found { path, place: Place { leaf: mut number, mut index }, agreed, .. } = found;
        if let Some(agreed) = agreed {
            let leaf = &mut self.leaves[number as usize];
            let near = arena.key(leaf.to[0]);
            leaf.loosen(agreed, near);
            path.iter().for_each(|&(inner, _)| self.inners[inner as usize].loosen(agreed, near));
        }
        if self.leaf(number).len == FAN {
            let start = Leaf::part_at(index);
            let upper = self.part_leaf(number, start);
            if index > start || start == FAN {
                (number, index) = (upper, index - start);
            }
            self.put(number, index, key, at);
            for half in [self.leaf(upper).before, upper] {
                let (first, last) = (self.first_key(half, 0, arena), self.last_key(half, 0, arena));
                self.leaves[half as usize].tighten(first, last, |at| arena.key(at));
            }
            self.add_node(&path, upper, arena);
        } else {
            self.put(number, index, key, at);
        }
    }

    fn put(&mut self, leaf: u32, index: usize, key: &[u8], at: At) {
        let leaf = &mut self.leaves[leaf as usize];
        leaf.insert(index, prefix_of(&key[leaf.shared..]), at);
    }

    /// Moves a leaf's entries from `start` on to a new leaf.
    fn part_leaf(&mut self, number: u32, start: usize) -> u32 {
        let new = narrow(self.leaves.len());
        let lower = &mut self.leaves[number as usize];
        let mut upper = lower.split(start);
        (upper.before, upper.after) = (number, lower.after);
        lower.after = new;
        match upper.after {
            NONE => self.last = new,
            after => self.leaves[after as usize].before = new,
        }
        self.leaves.push(upper);
        new
    }

    /// Enters a new node right after the one that `path` leads to, and parts the nodes above that are full.
    fn add_node(&mut self, path: &Path, mut new: u32, arena: &Arena) {
        for (level, &(number, index)) in (1..).zip(path.iter().rev()) {
            let index = index + 1;
            let first = self.first_key(new, level - 1, arena);
            let word = |inner: &Inner| prefix_of(&first[inner.shared..]);
            let inner = &mut self.inners[number as usize];
            if inner.len < FAN {
                inner.insert(index, word(inner), new);
                return;
            }
            let start = Inner::part_at(index);
            let mut upper = inner.split(start);
            if index > start || start == FAN {
                upper.insert(index - start, word(&upper), new);
            } else {
                inner.insert(index, word(inner), new);
            }
            new = narrow(self.inners.len());
            self.inners.push(upper);
            self.tighten_inner(number, level, arena);
            self.tighten_inner(new, level, arena);
        }
        let mut root = Node::new(0);
        let first = self.first_key(new, self.height, arena);
        root.insert(0, 0, self.root);
        root.insert(1, prefix_of(first), new);
        self.height += 1;
        self.root = narrow(self.inners.len());
        self.inners.push(root);
        self.tighten_inner(self.root, self.height, arena);
    }

    fn tighten_inner(&mut self, number: u32, level: usize, arena: &Arena) {
        let (first, last) = (self.first_key(number, level, arena), self.last_key(number, level, arena));
        // The node is taken out while its children are looked at.
        let mut inner = std::mem::replace(&mut self.inners[number as usize], Node::new(0));
        inner.tighten(first, last, |child| self.first_key(child, level - 1, arena));
        self.inners[number as usize] = inner;
    }

    /// Says where the element at a place lies now.
    pub(super) fn moved(&mut self, place: Place, at: At) {
        self.leaves[place.leaf as usize].to[place.index] = at;
    }

    /// Lets `renew` say for every element where it lies now.
    pub(super) fn renew(&mut self, mut renew: impl FnMut(At) -> At) {
        for leaf in &mut self.leaves {
            leaf.to[..leaf.len].iter_mut().for_each(|at| *at = renew(*at));
        }
    }

    /// Where the element after a place lies.
    pub(super) fn at(&self, place: Place) -> At {
        self.leaf(place.leaf).to[place.index]
    }

    /// Before all elements.
    pub(super) fn start(&self) -> Place {
        if self.leaves.is_empty() { self.end() } else { Place { leaf: 0, index: 0 } }
    }

    /// After all elements.
    pub(super) fn end(&self) -> Place {
        Place { leaf: NONE, index: 0 }
    }

    /// Before the first element whose key is `key` (`after`: is above `key`) or greater.
    pub(super) fn lower_bound(&self, key: &[u8], after: bool, arena: &Arena) -> Place {
        let Found { mut place, exact, .. } = self.find(key, arena);
        place.index += usize::from(exact && after);
        self.settled(place)
    }

    /// Gives the elements from `from` to `to` in a direction to `visit` until it says stop (`false`). `begun` is what is known of
    /// the bound where it begins, if that is included.
    pub(super) fn walk<'a>(
        &self,
        (from, to): (Bound<&[u8]>, Bound<&[u8]>),
        direction: Direction,
        begun: Option<Known>,
        arena: &'a Arena,
        mut visit: impl FnMut(&'a [u8], Stored<'a>) -> bool,
    ) {
        let forward = direction == Direction::Forward;
        let mut place = match (begun, if forward { from } else { to }) {
            (Some(Known::There(place)), _) if !forward => Place { index: place.index + 1, ..place },
            (Some(Known::There(place) | Known::Between(place)), _) => place,
            (None, Bound::Included(key)) => self.lower_bound(key, !forward, arena),
            (None, Bound::Excluded(key)) => self.lower_bound(key, forward, arena),
            (None, Bound::Unbounded) if forward => self.start(),
            (None, Bound::Unbounded) => self.end(),
        };
        let beyond = |key: &[u8]| match (if forward { to } else { from }, forward) {
            (Bound::Included(end), true) => key > end,
            (Bound::Excluded(end), true) => key >= end,
            (Bound::Included(end), false) => key < end,
            (Bound::Excluded(end), false) => key <= end,
            (Bound::Unbounded, _) => false,
        };
        let mut give = |at: &At| {
            let (key, stored) = arena.get(*at);
            !beyond(key) && visit(key, stored)
        };
        let look = |some: &[At]| black_box(some.iter().fold(0, |all, at| all ^ arena.look(*at)));
        if !forward && place == self.end() && !self.leaves.is_empty() {
            place = Place { leaf: self.last, index: self.leaf(self.last).len };
        }
        while let Some(leaf) = self.leaves.get(place.leaf as usize) {
            let goes_on = if forward {
                leaf.to[place.index..leaf.len].chunks(LOOKED_AT).all(|some| {
                    look(some);
                    some.iter().all(&mut give)
                })
            } else {
                leaf.to[..place.index].rchunks(LOOKED_AT).all(|some| {
                    look(some);
                    some.iter().rev().all(&mut give)
                })
            };
            if !goes_on {
                return;
            }
            let next = if forward { leaf.after } else { leaf.before };
            let index = if forward { 0 } else { self.leaves.get(next as usize).map_or(0, |leaf| leaf.len) };
            place = Place { leaf: next, index };
        }
    }

    /// The same place, named by the element that follows it.
    fn settled(&self, place: Place) -> Place {
        match self.leaves.get(place.leaf as usize) {
            Some(leaf) if place.index == leaf.len => Place { leaf: leaf.after, index: 0 },
            _ => place,
        }
    }

    /// The next place up.
    pub(super) fn next(&self, place: Place) -> Place {
        self.settled(Place { index: place.index + 1, ..place })
    }

    /// The next place down; there is one unless this is the start.
    pub(super) fn prev(&self, place: Place) -> Place {
        if let Some(index) = place.index.checked_sub(1) {
            return Place { index, ..place };
        }
        let leaf = if place.leaf == NONE { self.last } else { self.leaf(place.leaf).before };
        Place { leaf, index: self.leaf(leaf).len - 1 }
    }
}

/// The word of a key that is looked for, which may be shorter than what a node's keys share.
fn word_of(key: &[u8], shared: usize) -> u64 {
    key.get(shared..).map_or(0, prefix_of)
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number)
        .ok()
        .filter(|number| *number != NONE)
        .expect("memory holds far fewer nodes than 2^32")
}
