//! A slot's newest entries, in memory, ordered by entry key. No versions: the slot's lock isolates.
//!
//! Costs nothing when empty. Filled under the slot's lock; once frozen it never changes and is shared by `Arc`.
//! `arena` holds the bytes; `keys` and `elements` hold the order, of the users' own keys and of the elements of their
//! collections. Why it is built so: `docs/decisions/0004`.

mod arena;
mod elements;
mod keys;
mod pool;

use std::ops::{self, Bound, Deref};

use bytes::Bytes;

use arena::{Arena, At};
use elements::{Elements, Known};
use keys::Keys;

use crate::key;
use crate::read::Direction;
use crate::sst::EntryRef;

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

    /// The same, borrowed.
    #[must_use]
    pub fn stored(&self) -> Stored<'_> {
        match self {
            Entry::Value(bytes) => Stored::Value(ValueRef::Shared(bytes)),
            Entry::Tombstone => Stored::Tombstone,
        }
    }
}

/// A value's bytes, borrowed.
#[derive(Clone, Copy, Debug)]
pub enum ValueRef<'a> {
    /// They lie among others: to keep them is to copy them.
    Inline(&'a [u8]),
    /// They have a buffer of their own, which can be shared.
    Shared(&'a Bytes),
}

impl ValueRef<'_> {
    /// The bytes to keep.
    #[must_use]
    pub fn to_bytes(self) -> Bytes {
        match self {
            ValueRef::Inline(bytes) => Bytes::copy_from_slice(bytes),
            ValueRef::Shared(bytes) => bytes.clone(),
        }
    }

    /// The bytes from `start` on, to keep.
    #[must_use]
    pub fn tail(self, start: usize) -> Bytes {
        match self {
            ValueRef::Inline(bytes) => Bytes::copy_from_slice(&bytes[start..]),
            ValueRef::Shared(bytes) => bytes.slice(start..),
        }
    }
}

impl Deref for ValueRef<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            ValueRef::Inline(bytes) => bytes,
            ValueRef::Shared(bytes) => bytes,
        }
    }
}

/// What stands at an entry key, borrowed from a memtable.
#[derive(Clone, Copy, Debug)]
pub enum Stored<'a> {
    /// A value.
    Value(ValueRef<'a>),
    /// Nothing, whatever older runs say.
    Tombstone,
}

impl<'a> Stored<'a> {
    /// The value, or nothing for a tombstone.
    #[must_use]
    pub fn value(self) -> Option<ValueRef<'a>> {
        match self {
            Stored::Value(value) => Some(value),
            Stored::Tombstone => None,
        }
    }

    /// A value's bytes as they are.
    #[must_use]
    pub fn inline(bytes: &'a [u8]) -> Stored<'a> {
        Stored::Value(ValueRef::Inline(bytes))
    }
}

impl<'a> From<Stored<'a>> for EntryRef<'a> {
    fn from(stored: Stored<'a>) -> EntryRef<'a> {
        match stored {
            Stored::Value(ValueRef::Inline(bytes)) => EntryRef::Value(bytes),
            Stored::Value(ValueRef::Shared(bytes)) => EntryRef::Value(bytes),
            Stored::Tombstone => EntryRef::Tombstone,
        }
    }
}

/// Replaced bytes are collected once they are this many and outweigh the living ones.
const GARBAGE_BYTES_MIN: usize = 32 << 10;
/// A larger table is not collected (it would hold the slot's lock for long) but flushed earlier.
const COLLECTED_BYTES_MAX: usize = 1 << 20;

/// See the file's head.
#[derive(Debug, Default)]
pub struct Memtable {
    arena: Arena,
    keys: Keys,
    elements: Elements,
    clears_older: bool,
}

/// Whether an entry key is a user's own key: all others lie among the elements, where order is all that matters.
fn is_own(key: &[u8]) -> bool {
    key::split(key).is_some_and(|parts| parts.element.is_none())
}

/// Whether all that lies between bounds are elements of one collection: no user's key stands between these.
pub(crate) fn are_of_one(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => {
            key::split(from).is_some_and(|from| from.element.is_some() && to.starts_with(from.prefix))
        }
        _ => false,
    }
}

/// So many elements' places are remembered: a member of a sorted set is written with some counts.
const ELEMENTS_SEEN: usize = 8;

/// Where a key was found last and some elements were, or were missed: whoever has looked something up and then writes there
/// need not search again. No more than a guess: the table, or another one, may have changed since.
#[derive(Clone, Default, Debug)]
pub(crate) struct Seen {
    key: Option<keys::Place>,
    elements: [elements::Place; ELEMENTS_SEEN],
    /// How many were noted: each takes the place of the oldest.
    noted: usize,
}

/// Where an element probably is, or would be.
#[derive(Clone, Copy, Debug)]
pub struct Guess(elements::Place);

impl Seen {
    /// Begins with guesses.
    pub(crate) fn expect(&mut self, guesses: &[Guess]) {
        guesses.iter().for_each(|guess| self.note(guess.0));
    }

    /// What the places that were noted say of an element.
    fn known(&self, elements: &Elements, key: &[u8], arena: &Arena) -> Option<Known> {
        let noted = &self.elements[..self.noted.min(ELEMENTS_SEEN)];
        noted.iter().find_map(|place| elements.known(*place, key, arena))
    }

    fn note(&mut self, element: elements::Place) {
        self.elements[self.noted % ELEMENTS_SEEN] = element;
        self.noted += 1;
    }
}

impl Memtable {
    /// What stands at `key` here; `None` says nothing about older places unless [`Memtable::clears_older`].
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Stored<'_>> {
        self.get_noting(key, &mut Seen::default())
    }

    /// As [`Memtable::get`], and notes where that is.
    pub(crate) fn get_noting(&self, key: &[u8], seen: &mut Seen) -> Option<Stored<'_>> {
        let at = if is_own(key) {
            let (place, found) = self.keys.search(key, &self.arena);
            found.then(|| {
                seen.key = Some(place);
                self.keys.at(place)
            })
        } else {
            let (place, found) = match seen.known(&self.elements, key, &self.arena) {
                Some(Known::There(place)) => (place, true),
                Some(Known::Between(place)) => (place, false),
                None => {
                    let (place, found) = self.elements.get(key, &self.arena);
                    seen.note(place);
                    (place, found)
                }
            };
            found.then(|| self.elements.at(place))
        };
        at.map(|at| self.arena.get(at).1)
    }

    /// The last element up to `key`, and what stands there; notes where that is.
    pub(crate) fn last_element(&self, key: &[u8], seen: &mut Seen) -> Option<(&[u8], Stored<'_>)> {
        let place = self.elements.not_above(key, &self.arena)?;
        seen.note(place);
        Some(self.arena.get(self.elements.at(place)))
    }

    /// Reads where the search for a user's own key will begin. What is read means nothing: see `near.rs`.
    pub(crate) fn look_home(&self, key: &[u8]) -> u64 {
        self.keys.look_home(key)
    }

    /// Reads what probably stands at a user's own key. What is read means nothing.
    pub(crate) fn look_entry(&self, key: &[u8]) -> u64 {
        self.keys.likely(key).map_or(0, |at| self.arena.look(at))
    }

    /// A search for an element that goes down one node at each step; see `near.rs`.
    pub(crate) fn search(&self) -> Search<'_> {
        Search { table: self, descent: self.elements.descent() }
    }

    /// Sets what stands at `key`.
    pub fn insert(&mut self, key: &[u8], stored: Stored<'_>) {
        self.insert_seen(key, stored, &Seen::default());
    }

    /// As [`Memtable::insert`], where the key may have been seen.
    pub(crate) fn insert_seen(&mut self, key: &[u8], stored: Stored<'_>, seen: &Seen) {
        if is_own(key) {
            let known = seen.key.filter(|place| self.keys.is_at(*place, key, &self.arena));
            let (place, found) =
                known.map_or_else(|| self.keys.search(key, &self.arena), |place| (place, true));
            if !found {
                let at = self.arena.add(key, stored);
                return self.keys.insert(place, key, at);
            }
            let old = self.keys.at(place);
            let at = self.arena.replace(old, stored);
            if at == old {
                return;
            }
            self.keys.moved(place, at);
        } else {
            let place = match seen.known(&self.elements, key, &self.arena) {
                Some(Known::There(place)) => place,
                Some(Known::Between(place)) if self.elements.has_room(place) => {
                    let at = self.arena.add(key, stored);
                    return self.elements.insert_between(place, key, at);
                }
                _ => {
                    let found = self.elements.find(key, &self.arena);
                    let Some(place) = found.exact() else {
                        let at = self.arena.add(key, stored);
                        return self.elements.insert(found, key, at, &self.arena);
                    };
                    place
                }
            };
            let old = self.elements.at(place);
            let at = self.arena.replace(old, stored);
            if at == old {
                return;
            }
            self.elements.moved(place, at);
        }
        self.collect_garbage();
    }

    /// A few hot keys that grow and grow must not fill the memory with their pasts.
    fn collect_garbage(&mut self) {
        let (dead, all) = (self.arena.dead(), self.arena.bytes());
        if dead < GARBAGE_BYTES_MIN || dead * 2 < all || all > COLLECTED_BYTES_MAX {
            return;
        }
        let old = std::mem::take(&mut self.arena);
        let arena = &mut self.arena;
        let mut renew = |at| {
            let (key, stored) = old.get(at);
            arena.add(key, stored)
        };
        self.keys.renew(&mut renew);
        self.elements.renew(&mut renew);
    }

    /// Drops everything here and hides all that is older.
    pub fn clear(&mut self) {
        *self = Memtable { clears_older: true, ..Memtable::default() };
    }

    /// The same entries once more.
    #[must_use]
    pub fn copy(&self) -> Memtable {
        let mut copy = Memtable { clears_older: self.clears_older, ..Memtable::default() };
        self.iter().for_each(|(key, stored)| copy.insert(key, stored));
        copy
    }

    /// Whether entries in older places are gone: a clear came before all entries here.
    #[must_use]
    pub fn clears_older(&self) -> bool {
        self.clears_older
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.arena.bytes() + self.keys.bytes() + self.elements.bytes()
    }

    /// Whether there is nothing to flush.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && !self.clears_older
    }

    /// How many entries it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len() + self.elements.len()
    }

    /// The entries in a range of entry keys, ascending; walk it backwards for descending.
    #[must_use]
    pub fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Range<'_> {
        let inverted = match (from, to) {
            (Bound::Included(from), Bound::Included(to)) => from > to,
            (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => {
                from >= to
            }
            _ => false,
        };
        let of_one = are_of_one(from, to);
        let key = |key, after| match of_one {
            true => self.keys.end(),
            false => self.keys.lower_bound(key, after, &self.arena),
        };
        let element = |key, after| self.elements.lower_bound(key, after, &self.arena);
        let (keys, elements) = match from {
            _ if inverted => (self.keys.end(), self.elements.end()),
            Bound::Included(from) => (key(from, false), element(from, false)),
            Bound::Excluded(from) => (key(from, true), element(from, true)),
            Bound::Unbounded => (self.keys.start(), self.elements.start()),
        };
        let (keys_end, elements_end) = match to {
            Bound::Included(to) if !inverted => (key(to, true), element(to, true)),
            Bound::Excluded(to) if !inverted => (key(to, false), element(to, false)),
            _ => (self.keys.end(), self.elements.end()),
        };
        Range { table: self, keys: keys..keys_end, elements: elements..elements_end }
    }

    /// Gives the elements of one collection between bounds to `visit`, in a direction, until it says stop (`false`). Where they
    /// begin may have been seen.
    pub(crate) fn walk_elements<'a>(
        &'a self,
        bounds: (Bound<&[u8]>, Bound<&[u8]>),
        direction: Direction,
        seen: &Seen,
        visit: impl FnMut(&'a [u8], Stored<'a>) -> bool,
    ) {
        debug_assert!(are_of_one(bounds.0, bounds.1), "a user's key may stand between");
        let begun = match (bounds.0, bounds.1, direction) {
            (Bound::Included(key), _, Direction::Forward)
            | (_, Bound::Included(key), Direction::Backward) => seen.known(&self.elements, key, &self.arena),
            _ => None,
        };
        self.elements.walk(bounds, direction, begun, &self.arena, visit);
    }

    /// The users' own keys from one on, ascending, with what stands there.
    pub(crate) fn own_keys(&self, from: &[u8]) -> impl Iterator<Item = (&[u8], Stored<'_>)> {
        let mut place = self.keys.lower_bound(from, false, &self.arena);
        std::iter::from_fn(move || {
            let here = (place != self.keys.end()).then_some(place)?;
            place = self.keys.next(here);
            Some(self.arena.get(self.keys.at(here)))
        })
    }

    /// All entries, ascending.
    #[must_use]
    pub fn iter(&self) -> Range<'_> {
        self.range(Bound::Unbounded, Bound::Unbounded)
    }
}

/// A search for an element in steps: what each looks at can be read before it. What is read means nothing.
pub(crate) struct Search<'a> {
    table: &'a Memtable,
    descent: elements::Descent,
}

impl<'a> Search<'a> {
    /// Another one, from the beginning.
    pub(crate) fn again(&self) -> Search<'a> {
        self.table.search()
    }

    /// Steps to the element's place.
    pub(crate) fn steps(&self) -> usize {
        self.table.elements.height() + 1
    }

    /// Reads what the next step looks at.
    pub(crate) fn look(&self) -> u64 {
        self.table.elements.look(self.descent)
    }

    /// Takes a step.
    pub(crate) fn step(&mut self, key: &[u8]) {
        self.table.elements.step(&mut self.descent, key);
    }

    /// After all steps: where the element probably is.
    pub(crate) fn guess(&self) -> Guess {
        Guess(self.descent.place())
    }

    /// Reads where what stands there lies.
    pub(crate) fn look_place(&self) -> u64 {
        self.table.elements.get_at(self.descent.place()).map_or(0, At::look)
    }

    /// Reads what stands there, and behind it: so many entries, as far as they are neighbours in memory too.
    pub(crate) fn look_entries(&self, count: usize) -> u64 {
        let entries = self.table.elements.some_from(self.descent.place(), count);
        entries.iter().fold(0, |all, at| all ^ self.table.arena.look(*at))
    }

    /// The value of the element, if it stands there.
    pub(crate) fn value(&self, key: &[u8]) -> Option<ValueRef<'a>> {
        let at = self.table.elements.get_at(self.descent.place())?;
        let (other, stored) = self.table.arena.get(at);
        stored.value().filter(|_| other == key)
    }
}

/// Some neighbouring entries of a memtable: users' keys and elements, merged.
pub struct Range<'a> {
    table: &'a Memtable,
    keys: ops::Range<keys::Place>,
    elements: ops::Range<elements::Place>,
}

impl<'a> Iterator for Range<'a> {
    type Item = (&'a [u8], Stored<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let Memtable { arena, keys, elements, .. } = self.table;
        let key = (self.keys.start != self.keys.end).then(|| keys.at(self.keys.start));
        let element = (self.elements.start != self.elements.end).then(|| elements.at(self.elements.start));
        let at = match (key, element) {
            (Some(key), Some(element)) if arena.key(element) < arena.key(key) => element,
            (key, element) => key.or(element)?,
        };
        if key == Some(at) {
            self.keys.start = keys.next(self.keys.start);
        } else {
            self.elements.start = elements.next(self.elements.start);
        }
        Some(arena.get(at))
    }
}

impl DoubleEndedIterator for Range<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let Memtable { arena, keys, elements, .. } = self.table;
        let key = (self.keys.start != self.keys.end).then(|| keys.prev(self.keys.end));
        let element = (self.elements.start != self.elements.end).then(|| elements.prev(self.elements.end));
        let key_at = key.map(|place| keys.at(place));
        let element_at = element.map(|place| elements.at(place));
        let at = match (key_at, element_at) {
            (Some(key), Some(element)) if arena.key(element) > arena.key(key) => element,
            (key, element) => key.or(element)?,
        };
        if key_at == Some(at) {
            self.keys.end = key?;
        } else {
            self.elements.end = element?;
        }
        Some(arena.get(at))
    }
}

#[cfg(test)]
mod tests;
