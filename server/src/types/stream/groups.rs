//! Groups of consumers: how far each has read, and what its consumers were given and have not acknowledged.
//!
//! ```text
//! part of the format; a number is a varint, an id is two of them
//! sub-key   tag 0x02, name                                 a group: its number, last id given, entries read (0 not known,
//!                                                          else one more), pending ones, consumers, number of the next
//!                                                          consumer, no pending id is below, none is above
//!           tag 0x03, group, name                          a consumer: its number, when it was seen, pending ones
//!           tag 0x04, group, id                            pending: the consumer's number, when it was given, how often,
//!                                                          then the consumer's name
//!           tag 0x05, group, consumer, id                  pending, by consumer: nothing
//! group, consumer: their numbers, 8 bytes, big-endian; an id has 16
//! ```
//! Every pending entry stands twice, so that a consumer's own and all of a group are both found in the order of ids. That
//! no pending id is below a bound spares looking among the traces of what was acknowledged; that none is above another
//! spares looking for what can't be there.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;

use bytes::Bytes;
use haypile_engine::key::{Generation, Key};
use haypile_engine::read::Direction;
use haypile_engine::tx::{Read, Tx};
use haypile_engine::varint;

use super::super::{Misses, Page, Pages, SubKey, damaged};
use super::{Id, Meta, Stream, Walk, sub_key};

// Part of the format.
const GROUP: u8 = 2;
const CONSUMER: u8 = 3;
const PENDING: u8 = 4;
const OWN: u8 = 5;

/// A group of a stream. What is changed in it and its consumers is kept by [`Group::close`].
#[derive(Debug)]
pub struct Group<'k> {
    key: &'k Key,
    generation: Generation,
    /// Its name.
    pub name: Bytes,
    number: u64,
    /// The last id that it has given out.
    pub last: Id,
    /// How many of all the entries ever added it has read, if known.
    pub read: Option<u64>,
    /// How many entries are pending.
    pub pending: u64,
    /// How many consumers it has.
    pub consumers: u64,
    next_consumer: u64,
    /// No pending id is below.
    floor: Id,
    /// None is above.
    top: Id,
    /// Consumers as they are now, where that is not yet written.
    touched: BTreeMap<Bytes, Consumer>,
}

/// A consumer of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Consumer {
    number: u64,
    /// When it last asked for something, in milliseconds since 1970.
    pub seen_ms: u64,
    /// How many entries it has not acknowledged.
    pub pending: u64,
}

/// An entry that was given to a consumer and not acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pending {
    number: u64,
    /// When it was given out last, in milliseconds since 1970.
    pub given_ms: u64,
    /// How often it was given out.
    pub count: u64,
    /// Whose it is.
    pub consumer: Bytes,
}

impl Consumer {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        [self.number, self.seen_ms, self.pending]
            .into_iter()
            .for_each(|number| varint::put(&mut out, number));
        out
    }

    fn decode(mut bytes: &[u8]) -> Option<Consumer> {
        let bytes = &mut bytes;
        Some(Consumer {
            number: varint::take(bytes)?,
            seen_ms: varint::take(bytes)?,
            pending: varint::take(bytes)?,
        })
    }
}

impl Pending {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.consumer.len());
        [self.number, self.given_ms, self.count].into_iter().for_each(|number| varint::put(&mut out, number));
        out.extend_from_slice(&self.consumer);
        out
    }

    /// Reads what stands behind an id in a group's list; `None` if it has no meaning.
    #[must_use]
    pub fn decode(bytes: &Bytes) -> Option<Pending> {
        let mut rest = &bytes[..];
        let mut take = || varint::take(&mut rest);
        let (number, given_ms, count) = (take()?, take()?, take()?);
        Some(Pending { number, given_ms, count, consumer: bytes.slice(bytes.len() - rest.len()..) })
    }
}

/// A tag and numbers.
fn prefix(tag: u8, numbers: &[u64]) -> SubKey {
    let mut out = SubKey::from_slice(&[tag]);
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
    out
}

/// All sub-keys that begin so.
fn beginning_with<'k>(key: &'k Key, generation: Generation, prefix: &[u8]) -> Pages<'k> {
    let mut after = prefix.to_vec();
    while after.last() == Some(&u8::MAX) {
        after.pop();
    }
    *after.last_mut().expect("a tag is less than the greatest byte") += 1;
    let (from, to) = (Bytes::copy_from_slice(prefix), Bytes::from(after));
    Pages::range(key, generation, Bound::Included(from), Bound::Excluded(to), Direction::Forward)
}

impl<'k> Stream<'k> {
    /// The group of this name.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn group(&self, tx: &mut Tx<'_>, name: &[u8]) -> Read<Option<Group<'k>>> {
        let mut sub = prefix(GROUP, &[]);
        sub.extend_from_slice(name);
        let found = tx.element(self.key, self.generation, &sub)?;
        found.map(|value| self.decode_group(Bytes::copy_from_slice(name), &value)).transpose()
    }

    fn decode_group(&self, name: Bytes, value: &[u8]) -> Read<Group<'k>> {
        Group::decode(self.key, self.generation, name, value).ok_or_else(|| damaged(self.key))
    }

    /// All groups, in the order of their names.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn groups(&self, tx: &mut Tx<'_>) -> Read<Vec<Group<'k>>> {
        let mut out = Vec::new();
        let mut pages = beginning_with(self.key, self.generation, &[GROUP]);
        loop {
            let page = pages.next(tx)?;
            if page.is_empty() {
                return Ok(out);
            }
            for (sub, value) in page {
                out.push(self.decode_group(sub.slice(1..), &value)?);
            }
        }
    }

    /// A new group, where there is none of its name.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn create_group(&mut self, tx: &mut Tx<'_>, name: &[u8], last: Id, read: Option<u64>) -> Read<()> {
        let number = self.meta.next_group;
        self.meta.next_group += 1;
        self.meta.groups += 1;
        self.save(tx)?;
        Group {
            key: self.key,
            generation: self.generation,
            name: Bytes::copy_from_slice(name),
            number,
            last,
            read,
            pending: 0,
            consumers: 0,
            next_consumer: 0,
            floor: Id::MAX,
            top: Id::MIN,
            touched: BTreeMap::new(),
        }
        .close(tx)
    }

    /// Removes a group with all that is pending in it.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn destroy_group(&mut self, tx: &mut Tx<'_>, group: &Group<'k>) -> Read<()> {
        for tag in [CONSUMER, PENDING, OWN] {
            let mut pages = beginning_with(self.key, self.generation, &prefix(tag, &[group.number]));
            loop {
                let page = pages.next(tx)?;
                if page.is_empty() {
                    break;
                }
                page.iter().for_each(|(sub, _)| tx.delete_element(self.key, self.generation, sub));
            }
        }
        tx.delete_element(self.key, self.generation, &group.sub_key());
        self.meta.groups = self.meta.groups.checked_sub(1).ok_or_else(|| damaged(self.key))?;
        self.save(tx)
    }
}

impl<'k> Group<'k> {
    fn decode(key: &'k Key, generation: Generation, name: Bytes, mut bytes: &[u8]) -> Option<Group<'k>> {
        let bytes = &mut bytes;
        Some(Group {
            key,
            generation,
            name,
            number: varint::take(bytes)?,
            last: Id::take(bytes)?,
            read: varint::take(bytes)?.checked_sub(1),
            pending: varint::take(bytes)?,
            consumers: varint::take(bytes)?,
            next_consumer: varint::take(bytes)?,
            floor: Id::take(bytes)?,
            top: Id::take(bytes)?,
            touched: BTreeMap::new(),
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        varint::put(&mut out, self.number);
        self.last.put(&mut out);
        let read = self.read.map_or(0, |read| read.saturating_add(1));
        [read, self.pending, self.consumers, self.next_consumer]
            .into_iter()
            .for_each(|number| varint::put(&mut out, number));
        self.floor.put(&mut out);
        self.top.put(&mut out);
        out
    }

    fn sub_key(&self) -> SubKey {
        let mut out = prefix(GROUP, &[]);
        out.extend_from_slice(&self.name);
        out
    }

    fn consumer_key(&self, name: &[u8]) -> SubKey {
        let mut out = prefix(CONSUMER, &[self.number]);
        out.extend_from_slice(name);
        out
    }

    /// How many entries it has still to read, if that can be told.
    #[must_use]
    pub fn lag(&self, meta: &Meta) -> Option<i64> {
        if meta.added == 0 {
            return Some(0);
        }
        let read = match self.read {
            Some(read) if !meta.has_holes_from(self.last) => read,
            _ => meta.added_up_to(self.last)?,
        };
        Some(meta.added.wrapping_sub(read).cast_signed())
    }

    /// Notes that an entry of the stream is given out.
    pub fn pass(&mut self, meta: &Meta, id: Id) {
        if id > self.last {
            match self.read {
                Some(read) if !meta.has_holes_from(id) => self.read = Some(read.wrapping_add(1)),
                _ if meta.added > 0 => self.read = meta.added_up_to(id),
                _ => {}
            }
            self.last = id;
        }
    }

    /// Writes the group and those of its consumers that were touched.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn close(mut self, tx: &mut Tx<'_>) -> Read<()> {
        if self.pending == 0 {
            (self.floor, self.top) = (Id::MAX, Id::MIN);
        } else {
            let found = self.walk_pending(self.floor, Id::MAX).next(tx, 1)?;
            self.floor = found.first().ok_or_else(|| damaged(self.key))?.0;
        }
        for (name, consumer) in &self.touched {
            tx.put_element(self.key, self.generation, &self.consumer_key(name), consumer.encode());
        }
        tx.put_element(self.key, self.generation, &self.sub_key(), self.encode());
        Ok(())
    }

    /// The consumer of this name.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn consumer(&mut self, tx: &mut Tx<'_>, name: &[u8]) -> Read<Option<&mut Consumer>> {
        let sub = self.consumer_key(name);
        match self.touched.entry(Bytes::copy_from_slice(name)) {
            Entry::Occupied(touched) => Ok(Some(touched.into_mut())),
            Entry::Vacant(place) => match tx.element(self.key, self.generation, &sub)? {
                None => Ok(None),
                Some(value) => {
                    let consumer = Consumer::decode(&value).ok_or_else(|| damaged(self.key))?;
                    Ok(Some(place.insert(consumer)))
                }
            },
        }
    }

    /// Notes that the consumer of this name was seen; makes it if there is none, and says whether it did.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn see(&mut self, tx: &mut Tx<'_>, name: &[u8], now_ms: u64) -> Read<bool> {
        if let Some(consumer) = self.consumer(tx, name)? {
            consumer.seen_ms = now_ms;
            return Ok(false);
        }
        let consumer = Consumer { number: self.next_consumer, seen_ms: now_ms, pending: 0 };
        self.next_consumer += 1;
        self.consumers += 1;
        self.touched.insert(Bytes::copy_from_slice(name), consumer);
        Ok(true)
    }

    /// Removes a consumer and all that it has pending; says how many those were, `None` if there is no such consumer.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn delete_consumer(&mut self, tx: &mut Tx<'_>, name: &[u8]) -> Read<Option<u64>> {
        let Some(consumer) = self.consumer(tx, name)?.cloned() else { return Ok(None) };
        let own = prefix(OWN, &[self.number, consumer.number]);
        let mut walk =
            Walk::new(self.key, self.generation, own.clone(), Id::MIN, Id::MAX, Direction::Forward);
        loop {
            let page = walk.next(tx, usize::MAX)?;
            if page.is_empty() {
                break;
            }
            for (id, _) in page {
                tx.delete_element(self.key, self.generation, &sub_key(&own, id));
                tx.delete_element(self.key, self.generation, &self.pending_key(id));
                self.pending = self.pending.checked_sub(1).ok_or_else(|| damaged(self.key))?;
            }
        }
        tx.delete_element(self.key, self.generation, &self.consumer_key(name));
        self.touched.remove(name);
        self.consumers = self.consumers.checked_sub(1).ok_or_else(|| damaged(self.key))?;
        Ok(Some(consumer.pending))
    }

    /// All consumers with their names, in the order of those.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn consumers(&self, tx: &mut Tx<'_>) -> Read<Vec<(Bytes, Consumer)>> {
        let prefix = prefix(CONSUMER, &[self.number]);
        let mut pages = beginning_with(self.key, self.generation, &prefix);
        let mut out = Vec::new();
        loop {
            let page: Page = pages.next(tx)?;
            if page.is_empty() {
                return Ok(out);
            }
            for (sub, value) in page {
                let consumer = Consumer::decode(&value).ok_or_else(|| damaged(self.key))?;
                out.push((sub.slice(prefix.len()..), consumer));
            }
        }
    }

    fn pending_key(&self, id: Id) -> SubKey {
        sub_key(&prefix(PENDING, &[self.number]), id)
    }

    fn own_key(&self, consumer: u64, id: Id) -> SubKey {
        sub_key(&prefix(OWN, &[self.number, consumer]), id)
    }

    /// Which of these ids are pending, and with whom.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn pending_at(&self, tx: &mut Tx<'_>, ids: &[Id]) -> Read<Vec<Option<Pending>>> {
        let (mut out, mut misses) = (Vec::with_capacity(ids.len()), Misses::default());
        for &id in ids {
            if id < self.floor || id > self.top {
                out.push(None);
                continue;
            }
            let found = misses.pass(tx.element(self.key, self.generation, &self.pending_key(id)))?;
            let Some(found) = found else { continue };
            out.push(found.map(|value| self.read_pending(&value)).transpose()?);
        }
        misses.end()?;
        Ok(out)
    }

    /// Reads what stands behind an id in the group's list.
    ///
    /// # Errors
    /// [`haypile_engine::tx::Stop::Failed`] if it has no meaning.
    pub fn read_pending(&self, value: &Bytes) -> Read<Pending> {
        Pending::decode(value).ok_or_else(|| damaged(self.key))
    }

    /// A walk over what is pending in the group from one id to another, both in it: see [`Pending::decode`].
    #[must_use]
    pub fn walk_pending(&self, from: Id, to: Id) -> Walk<'k> {
        let prefix = prefix(PENDING, &[self.number]);
        let (from, to) = (from.max(self.floor), to.min(self.top));
        Walk::new(self.key, self.generation, prefix, from, to, Direction::Forward)
    }

    /// The last id that is pending.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn last_pending(&self, tx: &mut Tx<'_>) -> Read<Option<Id>> {
        let prefix = prefix(PENDING, &[self.number]);
        let mut walk =
            Walk::new(self.key, self.generation, prefix, self.floor, self.top, Direction::Backward);
        Ok(walk.next(tx, 1)?.first().map(|(id, _)| *id))
    }

    /// A walk over a consumer's own pending ids; nothing stands behind them.
    #[must_use]
    pub fn walk_own(&self, consumer: &Consumer, from: Id, to: Id) -> Walk<'k> {
        let prefix = prefix(OWN, &[self.number, consumer.number]);
        let (from, to) = (from.max(self.floor), to.min(self.top));
        Walk::new(self.key, self.generation, prefix, from, to, Direction::Forward)
    }

    /// Makes an entry pending with the consumer of this name, which was seen; `old` is how it was pending before.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn give(
        &mut self,
        tx: &mut Tx<'_>,
        id: Id,
        old: Option<&Pending>,
        name: &Bytes,
        given_ms: u64,
        count: u64,
    ) -> Read<()> {
        let Some(consumer) = self.consumer(tx, name)? else { return Err(damaged(self.key)) };
        let number = consumer.number;
        if old.is_none_or(|old| old.number != number) {
            consumer.pending += 1;
            match old {
                None => self.pending += 1,
                Some(old) => self.take_from(tx, id, old)?,
            }
            tx.put_element(self.key, self.generation, &self.own_key(number, id), b"");
        }
        let pending = Pending { number, given_ms, count, consumer: name.clone() };
        tx.put_element(self.key, self.generation, &self.pending_key(id), pending.encode());
        (self.floor, self.top) = (self.floor.min(id), self.top.max(id));
        Ok(())
    }

    /// Takes a pending entry from its consumer's own.
    fn take_from(&mut self, tx: &mut Tx<'_>, id: Id, old: &Pending) -> Read<()> {
        tx.delete_element(self.key, self.generation, &self.own_key(old.number, id));
        let key = self.key;
        let consumer = self.consumer(tx, &old.consumer)?.ok_or_else(|| damaged(key))?;
        consumer.pending = consumer.pending.checked_sub(1).ok_or_else(|| damaged(key))?;
        Ok(())
    }

    /// Ends an entry's being pending.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn acknowledge(&mut self, tx: &mut Tx<'_>, id: Id, old: &Pending) -> Read<()> {
        self.take_from(tx, id, old)?;
        tx.delete_element(self.key, self.generation, &self.pending_key(id));
        self.pending = self.pending.checked_sub(1).ok_or_else(|| damaged(self.key))?;
        Ok(())
    }
}
