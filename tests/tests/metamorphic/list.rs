//! The list of logical operations, and what each answers by a model of nothing but maps.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use haypile_engine::random::Coin;

/// How many slots the list uses.
pub const SLOTS: usize = 4;
/// How many keys in each.
pub const KEYS: usize = 10;
/// How many elements a collection may have.
pub const SUBS: usize = 12;
/// Where the clock begins, in milliseconds.
pub const BEGINNING: u64 = 1_700_000_000_000;

/// A value as the list shows it: so many bytes that follow from a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Content {
    seed: u8,
    len: usize,
    /// Whether LZ4 can make nothing of it.
    noise: bool,
}

impl Content {
    /// The bytes.
    pub fn bytes(self) -> Bytes {
        if !self.noise {
            return Bytes::from(vec![self.seed; self.len]);
        }
        let mut coin = Coin::new(u64::from(self.seed));
        let words = self.len.div_ceil(8);
        let mut bytes: Vec<u8> = (0..words).flat_map(|_| coin.next_u64().to_le_bytes()).collect();
        bytes.truncate(self.len);
        Bytes::from(bytes)
    }
}

/// One change in a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Sets a key; it expires after so many milliseconds, if any.
    Put(usize, Content, Option<u64>),
    /// Removes a key.
    Delete(usize),
    /// Sets an element of a collection, which is made if the key holds none.
    PutElement(usize, usize, Content),
    /// Removes an element; the last one takes the collection with it.
    DeleteElement(usize, usize),
    /// Removes all keys of the slot.
    Clear,
}

/// One logical operation. What names a slot that is not there answers that.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Changes in one slot or several, ascending, as one transaction.
    Commit(Vec<(usize, Vec<Change>)>),
    /// Reads a key.
    Get(usize, usize),
    /// Reads all keys, so many at a time.
    Keys(usize, usize),
    /// Reads an element.
    Element(usize, usize, usize),
    /// Reads up to `limit` elements from `from` to before `to`, or backwards.
    Elements { slot: usize, key: usize, from: usize, to: usize, backward: bool, limit: usize },
    /// Lets so many milliseconds pass.
    Pass(u64),
    /// Adds slots; those that are there stay as they are.
    Add(Vec<usize>),
    /// Removes a slot.
    Remove(usize),
}

/// What stands at a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// A value whole in itself.
    Whole(Bytes),
    /// A collection.
    Elements(BTreeMap<usize, Bytes>),
}

/// A key's value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// When it expires.
    pub expiry: Option<u64>,
    /// What it is.
    pub body: Body,
}

/// A slot's living keys.
pub type SlotState = BTreeMap<usize, Entry>;

/// What a reader sees of a key without reading a collection's elements.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// When it expires.
    pub expiry: Option<u64>,
    /// The value, or the number of elements.
    pub body: Result<Bytes, usize>,
}

impl Entry {
    /// What a reader sees of it.
    pub fn shown(&self) -> Shown {
        let body = match &self.body {
            Body::Whole(bytes) => Ok(bytes.clone()),
            Body::Elements(elements) => Err(elements.len()),
        };
        Shown { expiry: self.expiry, body }
    }
}

/// What an operation answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The slot is not there.
    NoSlot,
    /// It is done.
    Done,
    /// For each delete in the transaction whether the key was there.
    Deleted(Vec<bool>),
    /// What a key has.
    Value(Option<Shown>),
    /// All keys.
    Keys(Vec<(usize, Shown)>),
    /// What an element has.
    Element(Option<Bytes>),
    /// Elements.
    Elements(Vec<(usize, Bytes)>),
}

/// The model.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Model {
    /// The time, in milliseconds.
    pub now: u64,
    /// Each slot's living keys; `None` if it is not there.
    pub slots: Vec<Option<SlotState>>,
}

impl Default for Model {
    fn default() -> Model {
        Model { now: BEGINNING, slots: vec![None; SLOTS] }
    }
}

impl Model {
    /// Does an operation and answers.
    pub fn apply(&mut self, op: &Op) -> Answer {
        let answer = self.answer(op);
        let now = self.now;
        for slot in self.slots.iter_mut().flatten() {
            slot.retain(|_, entry| entry.expiry.is_none_or(|at| at > now));
        }
        answer
    }

    fn answer(&mut self, op: &Op) -> Answer {
        match op {
            Op::Commit(parts) => self.commit(parts),
            Op::Pass(ms) => {
                self.now += ms;
                Answer::Done
            }
            Op::Add(slots) => {
                slots.iter().for_each(|&slot| _ = self.slots[slot].get_or_insert_default());
                Answer::Done
            }
            Op::Remove(slot) => {
                self.slots[*slot] = None;
                Answer::Done
            }
            Op::Get(slot, key) => self.read(*slot, |state| Answer::Value(state.get(key).map(Entry::shown))),
            Op::Keys(slot, _) => self.read(*slot, |state| {
                Answer::Keys(state.iter().map(|(key, entry)| (*key, entry.shown())).collect())
            }),
            Op::Element(slot, key, sub) => {
                self.read(*slot, |state| Answer::Element(elements(state, *key).get(sub).cloned()))
            }
            Op::Elements { slot, key, from, to, backward, limit } => self.read(*slot, |state| {
                let in_range = |(sub, _): &(usize, Bytes)| (*from..*to).contains(sub);
                let mut all: Vec<_> = elements(state, *key).into_iter().filter(in_range).collect();
                if *backward {
                    all.reverse();
                }
                all.truncate(*limit);
                Answer::Elements(all)
            }),
        }
    }

    fn read(&self, slot: usize, read: impl FnOnce(&SlotState) -> Answer) -> Answer {
        self.slots[slot].as_ref().map_or(Answer::NoSlot, read)
    }

    fn commit(&mut self, parts: &[(usize, Vec<Change>)]) -> Answer {
        if parts.iter().any(|(slot, _)| self.slots[*slot].is_none()) {
            return Answer::NoSlot;
        }
        let now = self.now;
        let mut deleted = Vec::new();
        for (slot, changes) in parts {
            let state = self.slots[*slot].as_mut().expect("looked at above");
            for change in changes {
                // What is put already expired is never seen, not even by the same transaction.
                state.retain(|_, entry| entry.expiry.is_none_or(|at| at > now));
                deleted.extend(change_state(state, change, now));
            }
        }
        Answer::Deleted(deleted)
    }
}

fn elements(state: &SlotState, key: usize) -> BTreeMap<usize, Bytes> {
    match state.get(&key) {
        Some(Entry { body: Body::Elements(elements), .. }) => elements.clone(),
        _ => BTreeMap::new(),
    }
}

fn change_state(state: &mut SlotState, change: &Change, now: u64) -> Option<bool> {
    match change {
        Change::Put(key, content, lives) => {
            let body = Body::Whole(content.bytes());
            state.insert(*key, Entry { expiry: lives.map(|ms| now + ms), body });
        }
        Change::Delete(key) => return Some(state.remove(key).is_some()),
        Change::PutElement(key, sub, content) => {
            let entry = state.entry(*key).or_insert(Entry { expiry: None, body: Body::Whole(Bytes::new()) });
            if let Body::Whole(_) = entry.body {
                *entry = Entry { expiry: None, body: Body::Elements(BTreeMap::new()) };
            }
            if let Body::Elements(elements) = &mut entry.body {
                elements.insert(*sub, content.bytes());
            }
        }
        Change::DeleteElement(key, sub) => {
            if let Some(Entry { body: Body::Elements(elements), .. }) = state.get_mut(key) {
                elements.remove(sub);
                if elements.is_empty() {
                    state.remove(key);
                }
            }
        }
        Change::Clear => state.clear(),
    }
    None
}

/// A list of operations; the first adds the slots.
pub fn operations(coin: &mut Coin, count: usize) -> Vec<Op> {
    let mut list = vec![Op::Add((0..SLOTS).collect())];
    list.extend((1..count).map(|_| operation(coin)));
    list
}

fn operation(coin: &mut Coin) -> Op {
    let (slot, key) = (coin.below(SLOTS), coin.below(KEYS));
    match coin.below(40) {
        0..=5 => Op::Get(slot, key),
        6 | 7 => Op::Keys(slot, 1 + coin.below(KEYS + 2)),
        8 | 9 => Op::Element(slot, key, coin.below(SUBS)),
        10..=13 => {
            let (from, to) = (coin.below(SUBS), coin.below(SUBS + 1));
            let (backward, limit) = (coin.chance(1, 2), coin.below(SUBS));
            Op::Elements { slot, key, from: from.min(to), to: from.max(to), backward, limit }
        }
        14..=16 => Op::Pass(100 * (1 + coin.next_u64() % 4)),
        17 => Op::Add((0..SLOTS).filter(|_| coin.chance(1, 2)).collect()),
        18 if coin.chance(1, 2) => Op::Remove(slot),
        19..=22 => {
            let slots = (0..SLOTS).filter(|_| coin.chance(2, 3));
            let slots: Vec<usize> = slots.collect();
            Op::Commit(slots.into_iter().map(|slot| (slot, changes(coin))).collect())
        }
        _ => Op::Commit(vec![(slot, changes(coin))]),
    }
}

fn changes(coin: &mut Coin) -> Vec<Change> {
    (0..=coin.below(4)).map(|_| change(coin)).collect()
}

fn change(coin: &mut Coin) -> Change {
    let key = coin.below(KEYS);
    match coin.below(30) {
        0 if coin.chance(1, 3) => Change::Clear,
        0..=3 => Change::Delete(key),
        4..=12 => Change::PutElement(key, coin.below(SUBS), content(coin, 300)),
        13..=15 => Change::DeleteElement(key, coin.below(SUBS)),
        16..=18 => Change::Put(key, content(coin, 100), Some(100 * (coin.next_u64() % 15))),
        // Larger than a segment: it spans several.
        19 if coin.chance(1, 12) => Change::Put(key, content(coin, 150_000), None),
        _ => Change::Put(key, content(coin, 2500), None),
    }
}

fn content(coin: &mut Coin, max: usize) -> Content {
    let seed = u8::try_from(coin.below(256)).expect("a byte");
    Content { seed, len: coin.below(max), noise: coin.chance(1, 2) }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.noise { "noise" } else { "bytes" };
        write!(f, "{} {kind} of {}", self.len, self.seed)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Put(key, content, None) => write!(f, "put k{key} ({content})"),
            Change::Put(key, content, Some(ms)) => write!(f, "put k{key} ({content}) for {ms} ms"),
            Change::Delete(key) => write!(f, "delete k{key}"),
            Change::PutElement(key, sub, content) => write!(f, "put k{key}.{sub} ({content})"),
            Change::DeleteElement(key, sub) => write!(f, "delete k{key}.{sub}"),
            Change::Clear => f.write_str("clear"),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Commit(parts) => {
                f.write_str("commit")?;
                for (slot, changes) in parts {
                    let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
                    write!(f, " s{slot}[{}]", changes.join(", "))?;
                }
                Ok(())
            }
            Op::Get(slot, key) => write!(f, "get s{slot} k{key}"),
            Op::Keys(slot, limit) => write!(f, "keys s{slot}, {limit} at a time"),
            Op::Element(slot, key, sub) => write!(f, "element s{slot} k{key}.{sub}"),
            Op::Elements { slot, key, from, to, backward, limit } => {
                let way = if *backward { "backward" } else { "forward" };
                write!(f, "elements s{slot} k{key}.{from}..{to} {way}, at most {limit}")
            }
            Op::Pass(ms) => write!(f, "{ms} ms pass"),
            Op::Add(slots) => write!(f, "add {slots:?}"),
            Op::Remove(slot) => write!(f, "remove s{slot}"),
        }
    }
}
