//! How many members of a large sorted set lie before a place, and which lies at a rank: a tree of counts over the elements
//! of scores.
//!
//! ```text
//! index of a set's payload, part of the format; nothing in sets that have no tree
//!  v   levels     varint
//!  v   nodes      for each level, the lowest first, varint
//! element of a node, part of the format
//!  sub-key  2+n       tag 3, level (1 is the lowest), place: what follows the tag in the sub-key of a score's element; a level's
//!                     first node has none
//!  value    v v       two varints: members beneath, and nodes of the level below beneath (at level 1: members again)
//! ```
//! A node stands for all that lies from its place on up to the next one of its level. Levels are added while the highest has
//! more than [`CHILDREN_MAX`] nodes, and the lowest while there are more members: so a rank is a walk over at most so many
//! nodes of each level, and a change writes one small element for each level. A node that grows beyond it is split into halves;
//! one that gets small joins its next sibling.
//!
//! Sets that were made before there was this have none ([`Index::decode`] of an empty text), and keep counting.

use std::ops::Bound;

use haypile_engine::key::{Generation, Key};
use haypile_engine::read::Direction;
use haypile_engine::tx::{Read, Tx};
use haypile_engine::varint;
use smallvec::SmallVec;

use super::score::SCORES;
use crate::types::{Misses, SubKey, damaged};

/// Tag of the nodes. Part of the format.
const NODES: u8 = 3;

/// The most children of a node. Part of the format only in that readers take what they find. Few in tests, so that there are
/// many levels.
pub const CHILDREN_MAX: usize = if cfg!(test) { 8 } else { 512 };

/// A node with fewer may join the next.
const CHILDREN_MIN: u64 = CHILDREN_MAX as u64 / 8;

/// Children of a node where many members come at once.
const CHILDREN_FILLED: usize = CHILDREN_MAX * 3 / 4;

/// Two that join have no more than so many together.
const CHILDREN_JOINED: u64 = CHILDREN_MAX as u64 / 2;

/// More levels than memory can hold members for.
const LEVELS_MAX: usize = 24;

/// What follows the tag in the sub-key of a score's element.
type Place = SubKey;

/// The tree of a set that has one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Index {
    /// How many nodes each level has, the lowest first; none has less than two, but by the end of a call.
    nodes: SmallVec<[u64; 3]>,
}

/// A node's two varints.
type Counts = SmallVec<[u8; 24]>;

/// A node.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Node {
    place: Place,
    members: u64,
    children: u64,
}

/// Where a set's elements are.
#[derive(Clone, Copy)]
pub struct At<'k>(pub &'k Key, pub Generation);

fn level_key(level: usize, place: &[u8]) -> SubKey {
    let mut out = SubKey::from_slice(&[NODES, u8::try_from(level).expect("there are few levels")]);
    out.extend_from_slice(place);
    out
}

fn score_key(place: &[u8]) -> SubKey {
    let mut out = SubKey::from_slice(&[SCORES]);
    out.extend_from_slice(place);
    out
}

impl Node {
    fn decode(sub: &[u8], value: &[u8]) -> Option<Node> {
        let mut value = value;
        let (members, children) = (varint::take(&mut value)?, varint::take(&mut value)?);
        let place = Place::from_slice(sub.get(2..)?);
        value.is_empty().then_some(Node { place, members, children })
    }

    fn put(&self, tx: &mut Tx<'_>, at: At<'_>, level: usize) {
        let mut value = Counts::new();
        varint::put(&mut value, self.members);
        varint::put(&mut value, self.children);
        tx.put_element(at.0, at.1, &level_key(level, &self.place), value);
    }
}

impl At<'_> {
    /// Nodes of a level, from the one at `from` on, as long as their places are not beyond `to`.
    fn nodes(
        self,
        tx: &mut Tx<'_>,
        level: usize,
        from: Bound<&[u8]>,
        to: Option<&[u8]>,
        most: usize,
    ) -> Read<Vec<Node>> {
        let from = from.map(|place| level_key(level, place));
        let to = match to {
            Some(place) => Bound::Included(level_key(level, place)),
            None => Bound::Excluded(level_key(level + 1, b"")),
        };
        let (from, to) = (slice_of(&from), slice_of(&to));
        let page = tx.elements(self.0, self.1, from, to, Direction::Forward, most)?;
        page.iter().map(|(sub, value)| Node::decode(sub, value).ok_or_else(|| damaged(self.0))).collect()
    }

    /// The node of a level in which a place lies.
    fn node(self, tx: &mut Tx<'_>, level: usize, place: &[u8]) -> Read<Node> {
        let (from, to) = (level_key(level, b""), level_key(level, place));
        let node = tx.last_element(self.0, self.1, &from, &to, Node::decode)?;
        node.flatten().ok_or_else(|| damaged(self.0))
    }

    /// The first `count` children of the nodes of a level, from a place on: how many members they have, and the place of the
    /// child behind them.
    fn first_half(
        self,
        tx: &mut Tx<'_>,
        level: usize,
        place: &[u8],
        count: usize,
    ) -> Read<Option<(u64, Place)>> {
        if level > 1 {
            let children = self.nodes(tx, level - 1, Bound::Included(place), None, count + 1)?;
            let members = children.iter().take(count).map(|node| node.members).sum();
            return Ok(children.get(count).map(|node| (members, node.place.clone())));
        }
        let (from, to) = (score_key(place), [SCORES + 1]);
        let (from, to) = (Bound::Included(&from[..]), Bound::Excluded(&to[..]));
        let page = tx.elements(self.0, self.1, from, to, Direction::Forward, count + 1)?;
        Ok(page.get(count).map(|(sub, _)| (count as u64, Place::from_slice(&sub[1..]))))
    }

    /// Cuts a node of a level in halves: what is left of it, and what is new.
    fn split(self, tx: &mut Tx<'_>, level: usize, node: &Node) -> Read<(Node, Node)> {
        let half = node.children / 2;
        let count = usize::try_from(half).map_err(|_| damaged(self.0))?;
        let (members, place) =
            self.first_half(tx, level, &node.place, count)?.ok_or_else(|| damaged(self.0))?;
        let rest = node.members.checked_sub(members).ok_or_else(|| damaged(self.0))?;
        let first = Node { place: node.place.clone(), members, children: half };
        Ok((first, Node { place, members: rest, children: node.children - half }))
    }
}

fn slice_of(bound: &Bound<SubKey>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(key) => Bound::Included(key),
        Bound::Excluded(key) => Bound::Excluded(key),
        Bound::Unbounded => Bound::Unbounded,
    }
}

impl Index {
    /// The tree as a set's payload tells of it; `None` inside if the set has none.
    pub fn decode(mut bytes: &[u8]) -> Option<Option<Index>> {
        if bytes.is_empty() {
            return Some(None);
        }
        let levels =
            usize::try_from(varint::take(&mut bytes)?).ok().filter(|levels| *levels <= LEVELS_MAX)?;
        let nodes = (0..levels).map(|_| varint::take(&mut bytes)).collect::<Option<_>>()?;
        bytes.is_empty().then_some(Some(Index { nodes }))
    }

    /// What stands in the payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        varint::put(out, self.nodes.len() as u64);
        self.nodes.iter().for_each(|nodes| varint::put(out, *nodes));
    }

    /// The tree of members that come all at once, in order: the sub-keys of their scores' elements.
    pub fn build(tx: &mut Tx<'_>, at: At<'_>, keys: &[SubKey]) -> Index {
        let mut index = Index::default();
        if keys.len() <= CHILDREN_MAX {
            return index;
        }
        let node = |chunk: &[SubKey]| Node {
            place: Place::from_slice(&chunk[0][1..]),
            members: chunk.len() as u64,
            children: chunk.len() as u64,
        };
        let mut nodes: Vec<Node> = keys.chunks(CHILDREN_FILLED).map(node).collect();
        loop {
            let level = index.nodes.len() + 1;
            nodes[0].place = Place::new();
            nodes.iter().for_each(|node| node.put(tx, at, level));
            index.nodes.push(nodes.len() as u64);
            if nodes.len() <= CHILDREN_MAX {
                return index;
            }
            let parent = |chunk: &[Node]| Node {
                place: chunk[0].place.clone(),
                members: chunk.iter().map(|node| node.members).sum(),
                children: chunk.len() as u64,
            };
            nodes = nodes.chunks(CHILDREN_FILLED).map(parent).collect();
        }
    }

    /// Brings the nodes of a place into memory, together with those of other places.
    ///
    /// # Errors
    /// See [`Misses::pass`].
    pub fn gather(&self, tx: &mut Tx<'_>, at: At<'_>, place: &[u8], misses: &mut Misses) -> Read<()> {
        (1..=self.nodes.len()).try_for_each(|level| misses.pass(at.node(tx, level, place)).map(drop))
    }

    /// A member was added at a place; there are `len` now.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn add(&mut self, tx: &mut Tx<'_>, at: At<'_>, place: &[u8], len: u64) -> Read<()> {
        let mut grew = true;
        for level in 1..=self.nodes.len() {
            let mut node = at.node(tx, level, place)?;
            node.members += 1;
            node.children += u64::from(grew);
            grew = node.children > CHILDREN_MAX as u64;
            if grew {
                let (first, second) = at.split(tx, level, &node)?;
                first.put(tx, at, level);
                second.put(tx, at, level);
                self.nodes[level - 1] += 1;
            } else {
                node.put(tx, at, level);
            }
        }
        let children = self.nodes.last().copied().unwrap_or(len);
        if children > CHILDREN_MAX as u64 {
            let level = self.nodes.len() + 1;
            let all = Node { place: Place::new(), members: len, children };
            let (first, second) = at.split(tx, level, &all)?;
            first.put(tx, at, level);
            second.put(tx, at, level);
            self.nodes.push(2);
        }
        Ok(())
    }

    /// A member was removed from a place.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn remove(&mut self, tx: &mut Tx<'_>, at: At<'_>, place: &[u8]) -> Read<()> {
        let mut shrank = true;
        for level in 1..=self.nodes.len() {
            let mut node = at.node(tx, level, place)?;
            let less = |count: u64, by: u64| count.checked_sub(by).ok_or_else(|| damaged(at.0));
            node.members = less(node.members, 1)?;
            node.children = less(node.children, u64::from(shrank))?;
            shrank = false;
            if node.children < CHILDREN_MIN
                && let Some(next) = self.next_sibling(tx, at, level, &node)?
                && node.children + next.children <= CHILDREN_JOINED
            {
                node.members += next.members;
                node.children += next.children;
                tx.delete_element(at.0, at.1, &level_key(level, &next.place));
                self.nodes[level - 1] = less(self.nodes[level - 1], 1)?;
                shrank = true;
            }
            node.put(tx, at, level);
        }
        while self.nodes.last() == Some(&1) {
            tx.delete_element(at.0, at.1, &level_key(self.nodes.len(), b""));
            self.nodes.pop();
        }
        Ok(())
    }

    /// The node behind one that has the same parent.
    fn next_sibling(&self, tx: &mut Tx<'_>, at: At<'_>, level: usize, node: &Node) -> Read<Option<Node>> {
        let next = at.nodes(tx, level, Bound::Excluded(&node.place), None, 1)?.pop();
        let Some(next) = next else { return Ok(None) };
        // A parent stands at the place of its first child.
        let begins = level < self.nodes.len() && at.node(tx, level + 1, &next.place)?.place == next.place;
        Ok(Some(next).filter(|_| !begins))
    }

    /// A member has moved from one place to another.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn shift(&mut self, tx: &mut Tx<'_>, at: At<'_>, from: &[u8], to: &[u8], len: u64) -> Read<()> {
        let mut nodes: SmallVec<[(Node, Node); 3]> = SmallVec::new();
        for level in 1..=self.nodes.len() {
            let (mut less, mut more) = (at.node(tx, level, from)?, at.node(tx, level, to)?);
            if less.place == more.place {
                break;
            }
            less.members = less.members.checked_sub(1).ok_or_else(|| damaged(at.0))?;
            more.members += 1;
            if level == 1 {
                less.children = less.children.checked_sub(1).ok_or_else(|| damaged(at.0))?;
                more.children += 1;
                if less.children < CHILDREN_MIN || more.children > CHILDREN_MAX as u64 {
                    self.remove(tx, at, from)?;
                    return self.add(tx, at, to, len);
                }
            }
            nodes.push((less, more));
        }
        // No node joins another or is parted: what is above changes by members alone.
        for (level, (less, more)) in (1..).zip(&nodes) {
            less.put(tx, at, level);
            more.put(tx, at, level);
        }
        Ok(())
    }

    /// The last place that is not beyond this one and before which it is known how many members lie: that place, and so
    /// many. The rest, fewer than a node has, are to be counted.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn before(&self, tx: &mut Tx<'_>, at: At<'_>, place: &[u8]) -> Read<(Place, u64)> {
        let (mut from, mut members) = (Place::new(), 0);
        for level in (1..=self.nodes.len()).rev() {
            let nodes = at.nodes(tx, level, Bound::Included(&from), Some(place), usize::MAX)?;
            let (last, passed) = nodes.split_last().ok_or_else(|| damaged(at.0))?;
            members += passed.iter().map(|node| node.members).sum::<u64>();
            from = last.place.clone();
        }
        Ok((from, members))
    }

    /// A place from which on the member of this rank is so many behind.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn find(&self, tx: &mut Tx<'_>, at: At<'_>, rank: u64) -> Read<(Place, u64)> {
        let (mut from, mut left) = (Place::new(), rank);
        for level in (1..=self.nodes.len()).rev() {
            let nodes = at.nodes(tx, level, Bound::Included(&from), None, CHILDREN_MAX + 1)?;
            let mut nodes = nodes.into_iter();
            let node = loop {
                let node = nodes.next().ok_or_else(|| damaged(at.0))?;
                if left < node.members {
                    break node;
                }
                left -= node.members;
            };
            from = node.place;
        }
        Ok((from, left))
    }
}
