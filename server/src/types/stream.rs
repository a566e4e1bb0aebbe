//! Streams: entries by id, and groups of consumers with what each was given and has not acknowledged.
//!
//! ```text
//! part of the format; a number is a varint, an id is two of them (milliseconds, sequence)
//! payload   length, entries ever added, groups, number of the next group, last id, id of the first entry (0-0 if none),
//!           greatest id that was deleted by name
//! sub-key   tag 0x01, id (16 bytes, big-endian)            an entry: how many strings, then each with its length before it:
//!                                                          field, value, field, value ...
//!           tags 0x02 to 0x05                              see `groups`
//! ```
//! A stream has no small form: its meta data stand at the key and every entry is an element, so that adding, reading and
//! trimming cost what they touch, at any length. A stream without entries is a stream still.
//!
//! The first entry's id is kept so that nobody looks for it among the traces of those that were trimmed before.

pub mod groups;

use std::fmt;
use std::ops::Bound;

use bytes::Bytes;
use haypile_engine::clock::TimeMs;
use haypile_engine::key::{Generation, Key};
use haypile_engine::read::Direction;
use haypile_engine::tx::{Read, Tx};
use haypile_engine::value::Value;
use haypile_engine::varint;

use super::{LARGE, Misses, SubKey, damaged, new_generation};
use crate::kind::Kind;

/// The tag of entries. Part of the format.
const ENTRY: u8 = 1;

/// Elements read at a time.
const PAGE: usize = 512;

/// Entries that an approximate trimming removes together or not at all: what Redis has in a node by default.
pub const NODE_ENTRIES: u64 = 100;

/// What an entry is found by: a time in milliseconds, and a number among those of one millisecond.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Id {
    /// Milliseconds since 1970, if the id was made here; any number if a client gave it.
    pub ms: u64,
    /// Which of that millisecond.
    pub seq: u64,
}

impl Id {
    /// The least: no entry has it.
    pub const MIN: Id = Id { ms: 0, seq: 0 };
    /// The greatest.
    pub const MAX: Id = Id { ms: u64::MAX, seq: u64::MAX };

    /// The id right after it.
    #[must_use]
    pub fn next(self) -> Option<Id> {
        match self.seq.checked_add(1) {
            Some(seq) => Some(Id { ms: self.ms, seq }),
            None => Some(Id { ms: self.ms.checked_add(1)?, seq: 0 }),
        }
    }

    /// The id right before it.
    #[must_use]
    pub fn previous(self) -> Option<Id> {
        match self.seq.checked_sub(1) {
            Some(seq) => Some(Id { ms: self.ms, seq }),
            None => Some(Id { ms: self.ms.checked_sub(1)?, seq: u64::MAX }),
        }
    }

    /// The bytes that order it in a sub-key.
    fn bytes(self) -> [u8; 16] {
        (u128::from(self.ms) << 64 | u128::from(self.seq)).to_be_bytes()
    }

    fn of_bytes(bytes: &[u8]) -> Option<Id> {
        let (ms, seq) = bytes.split_first_chunk::<8>()?;
        Some(Id { ms: u64::from_be_bytes(*ms), seq: u64::from_be_bytes(seq.try_into().ok()?) })
    }

    fn put(self, out: &mut Vec<u8>) {
        varint::put(out, self.ms);
        varint::put(out, self.seq);
    }

    fn take(bytes: &mut &[u8]) -> Option<Id> {
        Some(Id { ms: varint::take(bytes)?, seq: varint::take(bytes)? })
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// What a stream knows of itself.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Meta {
    /// How many entries it has.
    pub length: u64,
    /// How many it ever had.
    pub added: u64,
    /// How many groups it has.
    pub groups: u64,
    /// The number that the next group gets: no two groups of a stream ever have one.
    next_group: u64,
    /// The id after which the next one comes.
    pub last: Id,
    /// The first entry's id; [`Id::MIN`] if there is none.
    pub first: Id,
    /// The greatest id that was deleted by name.
    pub deleted: Id,
}

impl Meta {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        [self.length, self.added, self.groups, self.next_group]
            .into_iter()
            .for_each(|number| varint::put(&mut out, number));
        [self.last, self.first, self.deleted].into_iter().for_each(|id| id.put(&mut out));
        out
    }

    fn decode(mut bytes: &[u8]) -> Option<Meta> {
        let bytes = &mut bytes;
        Some(Meta {
            length: varint::take(bytes)?,
            added: varint::take(bytes)?,
            groups: varint::take(bytes)?,
            next_group: varint::take(bytes)?,
            last: Id::take(bytes)?,
            first: Id::take(bytes)?,
            deleted: Id::take(bytes)?,
        })
    }

    /// Whether an entry from `from` on may have been deleted by name: then nothing tells how many lie before an id.
    #[must_use]
    pub fn has_holes_from(&self, from: Id) -> bool {
        self.length > 0 && self.deleted != Id::MIN && self.first <= self.deleted && from <= self.deleted
    }

    /// How many entries were ever added up to an id, where that can be told.
    #[must_use]
    pub fn added_up_to(&self, id: Id) -> Option<u64> {
        if self.added == 0 {
            return Some(0);
        }
        if (self.length == 0 && id <= self.last) || id == self.last {
            return Some(self.added);
        }
        if id > self.last || (self.deleted != Id::MIN && self.deleted >= self.first) || id > self.first {
            return None;
        }
        let gone = self.added.wrapping_sub(self.length);
        Some(if id == self.first { gone.wrapping_add(1) } else { gone })
    }
}

/// A stream, as its key's value tells; changes to its meta data are kept by [`Stream::save`].
#[derive(Debug)]
pub struct Stream<'k> {
    key: &'k Key,
    expiry: Option<TimeMs>,
    generation: Generation,
    /// What it knows of itself.
    pub meta: Meta,
}

/// Entries: ids, each with its fields as they lie in the engine (see [`fields`]).
pub type Entries = Vec<(Id, Bytes)>;

impl<'k> Stream<'k> {
    /// The stream of a value that stands at the key.
    ///
    /// # Errors
    /// [`haypile_engine::tx::Stop::Failed`] if the value has no meaning.
    pub fn open<P: AsRef<[u8]>>(key: &'k Key, value: &Value<P>) -> Read<Stream<'k>> {
        let (LARGE, Some(generation)) = (value.encoding, value.generation) else { return Err(damaged(key)) };
        let meta = Meta::decode(value.payload.as_ref()).ok_or_else(|| damaged(key))?;
        Ok(Stream { key, expiry: value.expiry, generation, meta })
    }

    /// A new stream without entries at a key where there is nothing.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn create(tx: &mut Tx<'_>, key: &'k Key) -> Read<Stream<'k>> {
        let generation = new_generation(tx, key)?;
        let stream = Stream { key, expiry: None, generation, meta: Meta::default() };
        // Elements are nobody's unless the value at the key has their generation: it comes first.
        stream.save(tx)?;
        Ok(stream)
    }

    /// Writes the meta data.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn save(&self, tx: &mut Tx<'_>) -> Read<()> {
        let value = Value {
            kind: Kind::Stream as u8,
            encoding: LARGE,
            expiry: self.expiry,
            generation: Some(self.generation),
            payload: self.meta.encode(),
        };
        tx.put(self.key, &value)
    }

    /// Adds an entry of these strings (field, value, field, value ...).
    ///
    /// # Panics
    /// If its id does not come after the last one.
    pub fn append(&mut self, tx: &mut Tx<'_>, id: Id, strings: &[&[u8]]) {
        assert!(id > self.meta.last, "ids of a stream ascend");
        let mut value = Vec::with_capacity(strings.iter().map(|string| string.len() + 2).sum::<usize>() + 1);
        varint::put(&mut value, strings.len() as u64);
        strings.iter().for_each(|string| varint::put_slice(&mut value, string));
        tx.put_element(self.key, self.generation, &sub_key(&[ENTRY], id), value);
        self.meta.length += 1;
        self.meta.added = self.meta.added.wrapping_add(1);
        self.meta.last = id;
        if self.meta.length == 1 {
            self.meta.first = id;
        }
    }

    /// The fields of these entries, each if it is there.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn entries(&self, tx: &mut Tx<'_>, ids: &[Id]) -> Read<Vec<Option<Bytes>>> {
        let (mut out, mut misses) = (Vec::with_capacity(ids.len()), Misses::default());
        for &id in ids {
            let found = tx.element(self.key, self.generation, &sub_key(&[ENTRY], id));
            out.extend(misses.pass(found)?);
        }
        misses.end()?;
        Ok(out)
    }

    /// A walk over the entries with ids from `from` to `to`, both in it.
    #[must_use]
    pub fn walk(&self, from: Id, to: Id, direction: Direction) -> Walk<'k> {
        let from = if self.meta.length == 0 { Id::MAX } else { from.max(self.meta.first) };
        Walk::new(self.key, self.generation, SubKey::from_slice(&[ENTRY]), from, to, direction)
    }

    /// Gives the entries with ids from `from` to `to`, both in it, to `visit` where they lie, until it says stop
    /// (`false`).
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn read_range(
        &self,
        tx: &mut Tx<'_>,
        (from, to): (Id, Id),
        direction: Direction,
        visit: &mut dyn FnMut(Id, &[u8]) -> bool,
    ) -> Read<()> {
        let from = from.max(self.meta.first);
        if self.meta.length == 0 || from > to {
            return Ok(());
        }
        let (from, to) = (sub_key(&[ENTRY], from), sub_key(&[ENTRY], to));
        let range = (Bound::Included(&from[..]), Bound::Included(&to[..]));
        let mut is_sound = true;
        tx.read_elements(self.key, self.generation, range, direction, &mut |sub, entry| {
            let id = sub.get(1..).and_then(Id::of_bytes);
            is_sound = id.is_some();
            id.is_some_and(|id| visit(id, entry))
        })?;
        if is_sound { Ok(()) } else { Err(damaged(self.key)) }
    }

    /// Removes the entries with these ids; says how many there were.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn delete(&mut self, tx: &mut Tx<'_>, ids: &[Id]) -> Read<usize> {
        self.entries(tx, ids)?;
        let mut deleted = 0;
        for &id in ids {
            let sub = sub_key(&[ENTRY], id);
            if tx.element(self.key, self.generation, &sub)?.is_some() {
                tx.delete_element(self.key, self.generation, &sub);
                self.meta.length = self.meta.length.checked_sub(1).ok_or_else(|| damaged(self.key))?;
                self.meta.deleted = self.meta.deleted.max(id);
                deleted += 1;
            }
        }
        if deleted > 0 {
            self.find_first(tx)?;
            self.save(tx)?;
        }
        Ok(deleted)
    }

    /// Looks for the first entry where the last known first one may be gone.
    fn find_first(&mut self, tx: &mut Tx<'_>) -> Read<()> {
        self.meta.first = match self.meta.length {
            0 => Id::MIN,
            _ => {
                let found = self.walk(Id::MIN, Id::MAX, Direction::Forward).next(tx, 1)?;
                found.first().ok_or_else(|| damaged(self.key))?.0
            }
        };
        Ok(())
    }

    /// Removes the oldest entries; says how many.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn trim(&mut self, tx: &mut Tx<'_>, trim: Trim) -> Read<u64> {
        let (batch, limit) = match trim.approximate {
            None => (1, u64::MAX),
            Some(limit) => (NODE_ENTRIES, if limit == 0 { u64::MAX } else { limit }),
        };
        let goes = |length: u64, count: u64, last: Id| match trim.until {
            Until::Length(most) => length - count >= most,
            Until::Id(id) => last < id,
        };
        let mut walk = self.walk(Id::MIN, Id::MAX, Direction::Forward);
        let (mut doomed, mut deleted): (Vec<Id>, u64) = (Vec::new(), 0);
        while self.meta.length > deleted {
            let left = self.meta.length - deleted;
            let together = batch.min(left);
            if deleted + together > limit {
                break;
            }
            let count = usize::try_from(together).expect("at most a batch");
            if doomed.len() < count {
                // What can be told without a look.
                if !goes(left, together, self.meta.first.max(walk.from)) {
                    break;
                }
                let page = walk.next(tx, PAGE)?;
                if page.is_empty() {
                    return Err(damaged(self.key));
                }
                doomed.extend(page.into_iter().map(|(id, _)| id));
                continue;
            }
            if !goes(left, together, doomed[count - 1]) {
                break;
            }
            for id in doomed.drain(..count) {
                tx.delete_element(self.key, self.generation, &sub_key(&[ENTRY], id));
                deleted += 1;
            }
        }
        if deleted > 0 {
            self.meta.length -= deleted;
            self.find_first(tx)?;
            self.save(tx)?;
        }
        Ok(deleted)
    }
}

/// The sub-key of the first entry of a stream with this payload.
#[must_use]
pub fn first_place(payload: &[u8], _: i64) -> Option<SubKey> {
    Meta::decode(payload).map(|meta| sub_key(&[ENTRY], meta.first))
}

/// How far a stream is trimmed.
#[derive(Clone, Copy, Debug)]
pub struct Trim {
    /// What stays.
    pub until: Until,
    /// Set if only whole batches of [`NODE_ENTRIES`] go, and no more than this many entries; 0 is no limit.
    pub approximate: Option<u64>,
}

/// What stays of a stream that is trimmed.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// So many entries.
    Length(u64),
    /// The entries from this id on.
    Id(Id),
}

/// The strings of an entry, field, value, field, value ...; `None` if the bytes have no meaning.
#[must_use]
pub fn fields(mut entry: &[u8]) -> Option<Vec<&[u8]>> {
    let count = usize::try_from(varint::take(&mut entry)?).ok()?;
    let strings = (0..count).map_while(|_| varint::take_slice(&mut entry)).collect::<Vec<_>>();
    (strings.len() == count && entry.is_empty()).then_some(strings)
}

fn sub_key(prefix: &[u8], id: Id) -> SubKey {
    let mut out = SubKey::from_slice(prefix);
    out.extend_from_slice(&id.bytes());
    out
}

/// A walk over elements that ids order, a page at a time. What the walk has passed may be written meanwhile.
#[derive(Debug)]
pub struct Walk<'k> {
    key: &'k Key,
    generation: Generation,
    prefix: SubKey,
    from: Id,
    to: Id,
    direction: Direction,
    ended: bool,
}

impl<'k> Walk<'k> {
    fn new(
        key: &'k Key,
        generation: Generation,
        prefix: SubKey,
        from: Id,
        to: Id,
        direction: Direction,
    ) -> Walk<'k> {
        Walk { key, generation, prefix, from, to, direction, ended: false }
    }

    /// All that is left, at most so many.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn gather(&mut self, tx: &mut Tx<'_>, most: usize) -> Read<Entries> {
        let mut out = Entries::new();
        while out.len() < most {
            let page = self.next(tx, most - out.len())?;
            if page.is_empty() {
                break;
            }
            out.extend(page);
        }
        Ok(out)
    }

    /// The next ones, at most so many; none at the end.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn next(&mut self, tx: &mut Tx<'_>, most: usize) -> Read<Entries> {
        if self.ended || self.from > self.to {
            return Ok(Entries::new());
        }
        let (from, to) = (sub_key(&self.prefix, self.from), sub_key(&self.prefix, self.to));
        let (from, to) = (Bound::Included(&from[..]), Bound::Included(&to[..]));
        let most = most.min(PAGE);
        let page = tx.elements(self.key, self.generation, from, to, self.direction, most)?;
        self.ended = page.len() < most;
        let mut out = Entries::with_capacity(page.len());
        for (sub, value) in page {
            let id = sub.get(self.prefix.len()..).and_then(Id::of_bytes).ok_or_else(|| damaged(self.key))?;
            out.push((id, value));
        }
        if let Some(&(last, _)) = out.last() {
            let beyond = match self.direction {
                Direction::Forward => last.next(),
                Direction::Backward => last.previous(),
            };
            match (self.direction, beyond) {
                (Direction::Forward, Some(id)) => self.from = id,
                (Direction::Backward, Some(id)) => self.to = id,
                (_, None) => self.ended = true,
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests;
