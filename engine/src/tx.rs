//! A transaction: some slots locked, reads through all layers, writes gathered and committed as one record a slot.
//!
//! Held for memory work only: it is not `Send`, never waits for a device, and a read that needs a block which is
//! not in memory answers [`Stop::Miss`]. The caller then drops the transaction, fetches ([`Engine::fetch`]) what
//! [`Tx::abandon`] names, and runs the same command again. Nothing is written before [`Tx::commit`].

use std::cell::{Cell, RefCell};
use std::ops::Bound;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::clock::TimeMs;
use crate::engine::{Engine, Gate};
use crate::error::Error;
use crate::key::{self, EntryKey, Generation, Key};
use crate::log::Appender;
use crate::log::record::{self, Body, Op, put_op, put_value};
use crate::memtable::{Guess, Seen, ValueRef};
use crate::overlay::{Overlay, Written};
use crate::planted::{self, Bug};
use crate::read::{BlockSource, Direction, Fetched, Layers, Wanted, WriteSet};
use crate::slot::{Role, SlotCell};
use crate::sync::MutexGuard;
use crate::types::{Epoch, Seq, Slot};
use crate::value::{Header, Value};
use crate::watch::{Before, Flag};
use still::Still;

/// Why a read gave no answer.
#[derive(Debug)]
pub enum Stop {
    /// A block is not in memory: see [`Tx::abandon`].
    Miss,
    /// The engine can't.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

/// What a read gives.
pub type Read<T> = Result<T, Stop>;

/// Living keys with their values, and the hash to go on from, or `None` at the end.
pub type KeyPage = (Vec<(Bytes, Value)>, Option<u64>);

/// Room for the record of most commands, in bytes.
const RECORD_BYTES: usize = 512;

struct Locked<'e> {
    slot: Slot,
    cell: MutexGuard<'e, SlotCell>,
    writes: WriteSet,
    /// The latest expiry of what a read did not see because it had expired.
    hidden: TimeMs,
}

impl Locked<'_> {
    /// Whether the log has to learn the slot's time before anybody hears what was read: what has expired for one reader
    /// must not come back for the next, whatever the clock says after a stop.
    fn tells_time(&self) -> bool {
        let cell = &self.cell;
        self.hidden > cell.kept_time && cell.last_seq > Seq::ZERO && !planted::is(Bug::TimeNotKept)
    }
}

impl Locked<'_> {
    /// Of the record that the slot's writes become.
    fn next_header(&self) -> record::Header {
        let epoch = self.cell.history.current().expect("a master's slot has an epoch");
        record::Header { slot: self.slot, term: epoch.term, seq: self.cell.last_seq.next() }
    }

    /// The record so far, to append operations to: of about so many bytes now.
    fn record(&mut self, bytes: usize) -> &mut Vec<u8> {
        let record = &mut self.writes.record;
        if record.is_empty() {
            record.reserve(RECORD_BYTES.max(bytes + RECORD_BYTES / 4));
            record.resize(record::HEADER_BYTES, 0);
        }
        record
    }

    /// Notes that the value with which the operations end stands at an entry key now.
    fn wrote(&mut self, entry_key: EntryKey, value_len: usize) {
        let end = self.writes.record.len();
        self.writes.overlay.insert(entry_key, Written::value(end - value_len..end));
    }
}

/// See the file's head.
pub struct Tx<'e> {
    engine: &'e Engine,
    fetched: &'e Fetched,
    wanted: RefCell<Wanted>,
    /// Invariant: ascending by slot, no slot twice; locks are taken in that order everywhere.
    locked: SmallVec<[Locked<'e>; 1]>,
    /// What was found last at a key: most commands write where they have read. Nothing was written there since.
    found: Option<(EntryKey, Option<Header>)>,
    /// Where in a memtable that was, and the last element that was read: what is written there finds its place at once.
    seen: RefCell<Seen>,
    /// How many elements it may still read in pages: see [`still`].
    elements_left: Cell<usize>,
    /// What it reads, if that is not the slots as they are now.
    still: Option<&'e Still>,
}

impl<'e> Tx<'e> {
    pub(crate) fn begin(engine: &'e Engine, slots: &[Slot], fetched: &'e Fetched, now: TimeMs) -> Tx<'e> {
        assert!(slots.is_sorted_by(|a, b| a < b), "slots are locked in ascending order");
        let mut tx = Tx::on(engine, fetched);
        tx.locked.reserve(slots.len());
        for &slot in slots {
            let mut cell = engine.lock(slot);
            // Only an owner's clock moves a slot's time; a replica's is its master's.
            if cell.role.owns() {
                cell.time = cell.time.max(now);
            }
            tx.locked.push(Locked { slot, cell, writes: WriteSet::default(), hidden: TimeMs::default() });
        }
        tx
    }

    /// On no slot yet. Made where it will lie: it is some hundreds of bytes for each slot.
    fn on(engine: &'e Engine, fetched: &'e Fetched) -> Tx<'e> {
        Tx {
            engine,
            fetched,
            wanted: RefCell::default(),
            locked: SmallVec::new(),
            found: None,
            seen: RefCell::default(),
            elements_left: Cell::new(usize::MAX),
            still: None,
        }
    }

    fn position(&self, slot: Slot) -> usize {
        match self.locked.binary_search_by_key(&slot, |locked| locked.slot) {
            Ok(index) => index,
            Err(_) => {
                panic!("slot {slot} is used but was not locked: the command's keys are declared wrongly")
            }
        }
    }

    fn locked(&self, slot: Slot) -> &Locked<'e> {
        &self.locked[self.position(slot)]
    }

    fn locked_mut(&mut self, slot: Slot) -> &mut Locked<'e> {
        let index = self.position(slot);
        &mut self.locked[index]
    }

    fn blocks(&self) -> BlockSource<'_> {
        let (cache, waits) = (self.engine.cache(), self.still.is_some());
        BlockSource { cache, fetched: self.fetched, wanted: &self.wanted, waits }
    }

    /// What stands at an entry key of a slot.
    fn lookup<T>(
        &self,
        slot: Slot,
        entry_key: &[u8],
        read: impl FnOnce(ValueRef<'_>) -> T,
    ) -> Read<Option<T>> {
        let locked = self.locked(slot);
        let layers = Layers { writes: &locked.writes, cell: &locked.cell, blocks: &self.blocks() };
        layers.get_noting(entry_key, &mut self.seen.borrow_mut(), read)
    }

    /// The header of the value at a key, expired or not, which is about to be written.
    fn header(&mut self, key: &Key) -> Read<Option<Header>> {
        if let Some((_, header)) = self.found.take_if(|(found, _)| found[..] == *key.entry()) {
            return Ok(header);
        }
        let locked = self.locked(key.slot());
        let layers = Layers { writes: &locked.writes, cell: &locked.cell, blocks: &self.blocks() };
        let header = layers.header(key.entry(), &mut self.seen.borrow_mut())?;
        Ok(header.map(|header| sound(header, key)).transpose()?)
    }

    /// Looks for elements where they probably are before it searches.
    pub fn expect(&mut self, guesses: &[Guess]) {
        self.seen.get_mut().expect(guesses);
    }

    /// The slots that are locked, ascending.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        self.locked.iter().map(|locked| locked.slot)
    }

    /// What this node is to the slot.
    #[must_use]
    pub fn role(&self, slot: Slot) -> &Role {
        &self.locked(slot).cell.role
    }

    /// The slot's time: what decides whether a key is expired.
    #[must_use]
    pub fn now(&self, slot: Slot) -> TimeMs {
        self.locked(slot).cell.time
    }

    /// How many keys the slot has, as the last commit left it.
    #[must_use]
    pub fn key_count(&self, slot: Slot) -> u64 {
        self.locked(slot).cell.keys
    }

    /// As [`Tx::key_count`], with what the transaction has written itself.
    #[must_use]
    pub fn key_count_here(&self, slot: Slot) -> u64 {
        let locked = self.locked(slot);
        locked.cell.keys.saturating_add_signed(locked.writes.keys_delta)
    }

    /// The value at a key, unless there is none or it is expired.
    ///
    /// # Errors
    /// See [`Stop`].
    pub fn get(&mut self, key: &Key) -> Read<Option<Value>> {
        self.view(key, |header, bytes| header.with(bytes.tail(header.len)))
    }

    /// Gives the value at a key to `view`, unless there is none or it is expired: spares a copy of it.
    ///
    /// # Errors
    /// See [`Stop`].
    pub fn read<T>(&mut self, key: &Key, read: impl FnOnce(Value<&[u8]>) -> T) -> Read<Option<T>> {
        self.view(key, |header, bytes| read(header.with(&bytes[header.len..])))
    }

    /// As [`Tx::read`], for whoever will not write there: what was found is not remembered.
    ///
    /// # Errors
    /// See [`Stop`].
    pub fn look<T>(&mut self, key: &Key, look: impl FnOnce(Value<&[u8]>) -> T) -> Read<Option<T>> {
        let now = self.now(key.slot());
        let looked = self.lookup(key.slot(), key.entry(), |bytes| {
            let header = Header::decode(&bytes)?;
            let lives = header.expiry.is_none_or(|at| at > now);
            Some((header.expiry, lives.then(|| look(header.with(&bytes[header.len..])))))
        })?;
        let Some(looked) = looked else { return Ok(None) };
        let (expiry, looked) = sound(looked, key)?;
        if looked.is_none() {
            self.hide(key.slot(), expiry);
        }
        Ok(looked)
    }

    fn view<T>(&mut self, key: &Key, view: impl FnOnce(&Header, ValueRef<'_>) -> T) -> Read<Option<T>> {
        let now = self.now(key.slot());
        let viewed = self.lookup(key.slot(), key.entry(), |bytes| {
            let header = Header::decode(&bytes)?;
            let lives = header.expiry.is_none_or(|at| at > now);
            Some((header, lives.then(|| view(&header, bytes))))
        })?;
        let (header, viewed) = match viewed {
            Some(viewed) => sound(viewed, key).map(|(header, viewed)| (Some(header), viewed))?,
            None => (None, None),
        };
        if viewed.is_none() {
            self.hide(key.slot(), header.and_then(|header| header.expiry));
        }
        self.found = Some((EntryKey::from_slice(key.entry()), header));
        Ok(viewed)
    }

    /// Notes that something was taken to be gone because it had expired.
    pub(crate) fn hide(&mut self, slot: Slot, expiry: Option<TimeMs>) {
        let locked = self.locked_mut(slot);
        locked.hidden = locked.hidden.max(expiry.unwrap_or_default());
    }

    /// Sets the value at a key. A collection that stood there is gone, unless the value is of its generation.
    ///
    /// # Errors
    /// See [`Stop`].
    pub fn put<P: AsRef<[u8]>>(&mut self, key: &Key, value: &Value<P>) -> Read<()> {
        let old = self.header(key)?;
        let existed = old.is_some();
        self.bury_new_elements(key, old, value.generation);
        let locked = self.locked_mut(key.slot());
        locked.writes.earliest_expiry = crate::slot::earliest(locked.writes.earliest_expiry, value.expiry);
        put_value(locked.record(value.encoded_len()), key.user(), value, existed);
        locked.writes.keys_delta += i64::from(!existed);
        locked.wrote(EntryKey::from_slice(key.entry()), value.encoded_len());
        Ok(())
    }

    /// Removes a key with all its elements. Says whether it was there (and not expired).
    ///
    /// # Errors
    /// See [`Stop`].
    pub fn delete(&mut self, key: &Key) -> Read<bool> {
        let Some(old) = self.header(key)? else { return Ok(false) };
        let lived = old.expiry.is_none_or(|at| at > self.now(key.slot()));
        if !lived {
            self.hide(key.slot(), old.expiry);
        }
        self.bury_new_elements(key, Some(old), None);
        let locked = self.locked_mut(key.slot());
        put_op(locked.record(0), &Op::Delete { key: key.user() });
        locked.writes.keys_delta -= 1;
        locked.writes.overlay.insert(EntryKey::from_slice(key.entry()), Written::Tombstone);
        Ok(lived)
    }

    /// Takes away the elements of a collection that this very transaction created, when it goes or is replaced:
    /// the next one that it creates at the key has the same generation.
    fn bury_new_elements(&mut self, key: &Key, old: Option<Header>, next: Option<Generation>) {
        let generation = self.next_generation(key);
        if next == Some(generation) || old.is_none_or(|old| old.generation != Some(generation)) {
            return;
        }
        let (from, to) = (key.element(generation, b""), key.element(Generation(generation.0 + 1), b""));
        let writes = &mut self.locked_mut(key.slot()).writes;
        let record = &mut writes.record;
        writes.overlay.change(&from, &to, |entry_key, entry| {
            let sub = &entry_key[key.entry().len() + 8..];
            put_op(record, &Op::DeleteElement { key: key.user(), generation, sub });
            *entry = Written::Tombstone;
        });
    }

    /// The generation of a collection that this transaction creates in the key's slot.
    #[must_use]
    pub fn next_generation(&self, key: &Key) -> Generation {
        Generation::created_at(self.locked(key.slot()).cell.last_seq.next())
    }

    /// A collection's element.
    ///
    /// # Errors
    /// See [`Stop`].
    pub fn element(&mut self, key: &Key, generation: Generation, sub: &[u8]) -> Read<Option<Bytes>> {
        self.lookup(key.slot(), &key.element(generation, sub), |value| value.to_bytes())
    }

    /// Gives a collection's element to `read`, if it is there: spares a copy of it.
    ///
    /// # Errors
    /// See [`Stop`].
    pub fn read_element<T>(
        &mut self,
        key: &Key,
        generation: Generation,
        sub: &[u8],
        read: impl FnOnce(&[u8]) -> T,
    ) -> Read<Option<T>> {
        self.lookup(key.slot(), &key.element(generation, sub), |value| read(&value))
    }

    /// Gives the last element (sub-key, value) of a collection from one sub-key to another, both included, to `read`.
    ///
    /// # Errors
    /// See [`Stop`].
    pub fn last_element<T>(
        &mut self,
        key: &Key,
        generation: Generation,
        from: &[u8],
        to: &[u8],
        read: impl FnOnce(&[u8], &[u8]) -> T,
    ) -> Read<Option<T>> {
        let (from, to) = (key.element(generation, from), key.element(generation, to));
        let locked = self.locked(key.slot());
        let layers = Layers { writes: &locked.writes, cell: &locked.cell, blocks: &self.blocks() };
        let sub_start = key.entry().len() + 8;
        let read = |entry: &[u8], value: ValueRef<'_>| read(&entry[sub_start..], &value);
        layers.last(&from, &to, &mut self.seen.borrow_mut(), read)
    }

    /// Sets a collection's element.
    pub fn put_element(&mut self, key: &Key, generation: Generation, sub: &[u8], value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        let locked = self.locked_mut(key.slot());
        put_op(locked.record(value.len()), &Op::PutElement { key: key.user(), generation, sub, value });
        locked.wrote(key.element(generation, sub), value.len());
    }

    /// Removes a collection's element.
    pub fn delete_element(&mut self, key: &Key, generation: Generation, sub: &[u8]) {
        let locked = self.locked_mut(key.slot());
        put_op(locked.record(0), &Op::DeleteElement { key: key.user(), generation, sub });
        locked.writes.overlay.insert(key.element(generation, sub), Written::Tombstone);
    }

    /// Up to `limit` elements (sub-key, value) of a collection in a range of sub-keys.
    ///
    /// # Errors
    /// See [`Stop`].
    pub fn elements(
        &mut self,
        key: &Key,
        generation: Generation,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
        limit: usize,
    ) -> Read<Vec<(Bytes, Bytes)>> {
        let mut out = Vec::new();
        if limit > 0 {
            self.walk_elements(key, generation, (from, to), direction, &mut |sub, value| {
                out.push((Bytes::copy_from_slice(sub), value.to_bytes()));
                out.len() < limit
            })?;
        }
        Ok(out)
    }

    /// As [`Tx::elements`], gives them to `visit` where they lie until that says stop (`false`): spares copies of them. After a
    /// [`Stop::Miss`] all of them come again, from the first on.
    ///
    /// # Errors
    /// See [`Stop`].
    pub fn read_elements(
        &mut self,
        key: &Key,
        generation: Generation,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Read<()> {
        self.walk_elements(key, generation, range, direction, &mut |sub, value| visit(sub, &value))
    }

    fn walk_elements(
        &self,
        key: &Key,
        generation: Generation,
        (from, to): (Bound<&[u8]>, Bound<&[u8]>),
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], ValueRef<'_>) -> bool,
    ) -> Read<()> {
        if !self.may_read_elements() {
            return Err(Stop::Miss);
        }
        let whole = |bound: Bound<&[u8]>, open: Bound<EntryKey>| match bound {
            Bound::Included(sub) => Bound::Included(key.element(generation, sub)),
            Bound::Excluded(sub) => Bound::Excluded(key.element(generation, sub)),
            Bound::Unbounded => open,
        };
        let from = whole(from, Bound::Included(key.element(generation, b"")));
        let to = whole(to, Bound::Excluded(key.element(Generation(generation.0 + 1), b"")));
        let sub_start = key.entry().len() + 8;
        let left = self.elements_left.get();
        let (mut seen, mut is_whole) = (0, true);
        let locked = self.locked(key.slot());
        let layers = Layers { writes: &locked.writes, cell: &locked.cell, blocks: &self.blocks() };
        let bounds = (as_slice(&from), as_slice(&to));
        layers.elements(bounds, direction, &self.seen.borrow(), &mut |entry, value| {
            is_whole = seen < left && (!seen.is_multiple_of(still::LOOK_EVERY) || self.may_read_elements());
            if !is_whole {
                return false;
            }
            seen += 1;
            visit(&entry[sub_start..], value)
        })?;
        self.elements_left.set(left - seen);
        if is_whole { Ok(()) } else { Err(Stop::Miss) }
    }

    /// The living keys of a slot in the order of their 48-bit hash, from `from_hash` on: about `limit` keys are
    /// looked at, all of one hash or none; and the hash to go on from, or `None` at the end.
    ///
    /// A walk with the returned hash sees every key that is there from its beginning to its end, whatever is
    /// written, flushed or compacted meanwhile.
    ///
    /// # Errors
    /// See [`Stop`].
    pub fn keys(&mut self, slot: Slot, from_hash: u64, limit: usize) -> Read<KeyPage> {
        let mut out = Vec::new();
        let next = self.living_keys(slot, from_hash, limit, &mut |key, header, bytes| {
            out.push((Bytes::copy_from_slice(key), header.with(bytes.tail(header.len))));
        })?;
        Ok((out, next))
    }

    /// As [`Tx::keys`], gives them to `visit` where they lie: spares copies of them. After a [`Stop::Miss`] all of them come
    /// again, from the first on.
    ///
    /// # Errors
    /// See [`Stop`].
    pub fn read_keys(
        &mut self,
        slot: Slot,
        from_hash: u64,
        limit: usize,
        mut visit: impl FnMut(&[u8], Value<&[u8]>),
    ) -> Read<Option<u64>> {
        self.living_keys(slot, from_hash, limit, &mut |key, header, bytes| {
            visit(key, header.with(&bytes[header.len..]));
        })
    }

    fn living_keys(
        &mut self,
        slot: Slot,
        from_hash: u64,
        limit: usize,
        visit: &mut dyn FnMut(&[u8], Header, ValueRef<'_>),
    ) -> Read<Option<u64>> {
        let now = self.now(slot);
        let mut hidden = None;
        let next = self.walk_keys(slot, from_hash, limit, &mut |key, header, bytes| {
            if header.expiry.is_some_and(|at| at <= now) {
                hidden = hidden.max(header.expiry);
            } else {
                visit(key, header, bytes);
            }
        })?;
        self.hide(slot, hidden);
        Ok(next)
    }

    /// As [`Tx::keys`], but all keys, the expired ones too, one by one.
    pub(crate) fn walk_keys(
        &mut self,
        slot: Slot,
        from_hash: u64,
        limit: usize,
        visit: &mut dyn FnMut(&[u8], Header, ValueRef<'_>),
    ) -> Read<Option<u64>> {
        let mut from = EntryKey::from_slice(&from_hash.to_be_bytes()[2..]);
        let mut visited = 0;
        let mut last_hash = None;
        loop {
            let mut skip_elements_of = None;
            let mut next_hash = None;
            let mut give = |entry: &[u8], bytes: ValueRef<'_>| {
                let Some(parts) = key::split(entry) else { return true };
                let hash = parts.hash();
                if visited >= limit && last_hash.is_some_and(|last| last != hash) {
                    next_hash = Some(hash);
                    return false;
                }
                last_hash = Some(hash);
                if parts.element.is_some() {
                    skip_elements_of = Some(parts.after_elements());
                    return false;
                }
                if let Some(header) = Header::decode(&bytes) {
                    visited += 1;
                    visit(parts.key, header, bytes);
                }
                true
            };
            let locked = self.locked(slot);
            let layers = Layers { writes: &locked.writes, cell: &locked.cell, blocks: &self.blocks() };
            if !layers.own_keys(&from, &mut give) {
                layers.range(Bound::Included(&from), Bound::Unbounded, Direction::Forward, &mut give)?;
            }
            match skip_elements_of {
                Some(after) => from = after,
                None => return Ok(next_hash),
            }
        }
    }

    /// Removes all keys of a slot.
    pub fn clear(&mut self, slot: Slot) {
        self.found = None;
        let locked = self.locked_mut(slot);
        let keys = i64::try_from(locked.cell.keys).expect("a slot has fewer than 2^63 keys");
        put_op(locked.record(0), &Op::Clear);
        locked.writes.overlay = Overlay::default();
        locked.writes.cleared = true;
        locked.writes.keys_delta = -keys;
    }

    /// Raises the flag once the key is not what it is now: see [`crate::watch`]. Whoever watches it ends that by
    /// [`Tx::unwatch`].
    ///
    /// # Errors
    /// See [`Stop`].
    pub fn watch(&mut self, key: &Key, flag: &Flag) -> Read<Before> {
        let before = if self.read(key, |_| ())?.is_some() { Before::Lived } else { Before::Absent };
        let watched = self.locked_mut(key.slot()).cell.watched.get_or_insert_default();
        watched.add(key.entry(), flag.clone(), before);
        Ok(before)
    }

    /// Ends what [`Tx::watch`] began.
    pub fn unwatch(&mut self, key: &Key, flag: &Flag) {
        let watched = &mut self.locked_mut(key.slot()).cell.watched;
        // Not to be taken for the end of the slot's life: nobody is left to be told.
        watched.take_if(|watched| !watched.remove(key.entry(), flag));
    }

    /// The epoch that the slot is in.
    #[must_use]
    pub fn epoch(&self, slot: Slot) -> Option<Epoch> {
        self.locked(slot).cell.history.current()
    }

    /// Bytes of operations that were written so far: tells whether a part of the transaction wrote anything.
    #[must_use]
    pub fn written_bytes(&self) -> usize {
        self.locked.iter().map(|locked| locked.writes.record.len()).sum()
    }

    /// Whether a value was written at the key and stands there now.
    #[must_use]
    pub fn has_written(&self, key: &Key) -> bool {
        matches!(self.locked(key.slot()).writes.overlay.get(key.entry()), Some(Written::Value(_)))
    }

    /// Whether the key was removed and nothing stands there now.
    #[must_use]
    pub fn has_removed(&self, key: &Key) -> bool {
        matches!(self.locked(key.slot()).writes.overlay.get(key.entry()), Some(Written::Tombstone))
    }

    /// Gives up what was written so far and keeps the locks.
    pub fn forget_writes(&mut self) {
        self.found = None;
        self.locked.iter_mut().for_each(|locked| locked.writes = WriteSet::default());
    }

    /// Gives up, and says what has to be fetched before the command is run again.
    #[must_use]
    pub fn abandon(self) -> Wanted {
        self.wanted.into_inner()
    }

    /// Whether anything was written.
    #[must_use]
    pub fn has_writes(&self) -> bool {
        self.locked.iter().any(|locked| !locked.writes.record.is_empty())
    }

    /// Gives up what was written, for an answer that is an error: that tells of what was read, too. Gives its gate.
    ///
    /// # Errors
    /// As [`Tx::commit`].
    pub fn discard(mut self) -> Result<Gate, Error> {
        self.forget_writes();
        if self.still.is_some() {
            return self.commit_now(|_, _| {}).map(Option::unwrap_or_default);
        }
        self.commit()
    }

    /// Writes everything as one record a slot, all in one atomic group, and applies it. The records are in the
    /// log's buffer then; [`Engine::write`] writes them, and [`Engine::reached`] waits for the gate.
    ///
    /// A transaction that only read gives the gate of the last writes that it can have seen. If it did not see a key
    /// because that had expired, the log learns the slot's time with it, and the gate waits for that too. Where a full
    /// disk leaves the log no room even for that, the read is answered all the same: only a start with the clock set
    /// back, before there is room again and somebody reads, could show the key once more.
    ///
    /// # Errors
    /// If something was written and the log takes no writes, or if it has stopped; nothing has happened then.
    ///
    /// # Panics
    /// If a written slot is not this node's to write: the caller checks [`Tx::role`] first.
    pub fn commit(self) -> Result<Gate, Error> {
        self.commit_noting(|_, _| {})
    }

    /// As [`Tx::commit`], and tells of each record that was written.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub fn commit_noting(mut self, wrote: impl FnMut(Slot, Seq)) -> Result<Gate, Error> {
        self.commit_here(wrote)
    }

    /// As [`Tx::commit_noting`], without moving it. It is of no more use, but to be dropped, which unlocks the slots.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub fn commit_here(&mut self, mut wrote: impl FnMut(Slot, Seq)) -> Result<Gate, Error> {
        assert!(self.still.is_none(), "what is still does not change");
        if self.has_writes() || self.locked.iter().any(Locked::tells_time) {
            // Before the log's buffer is locked: others wait for that.
            for locked in self.locked.iter_mut().filter(|locked| !locked.writes.record.is_empty()) {
                assert_eq!(
                    locked.cell.role,
                    Role::Master,
                    "slot {} is written by its master only",
                    locked.slot
                );
                let header = locked.next_header();
                locked.writes.check_size()?;
                record::seal_batch(&mut locked.writes.record, header);
            }
            let mut appender =
                if self.has_writes() { self.engine.append()? } else { self.engine.log().begin_note()? };
            match self.tell_time(&mut appender) {
                // Whoever wrote is refused, whoever read is not.
                Err(Error::ReadOnly(_)) if !self.has_writes() => {
                    drop(appender);
                    return Ok(self.seen());
                }
                told => told?,
            }
            for locked in self.locked.iter().filter(|locked| !locked.writes.record.is_empty()) {
                appender.push_sealed(locked.next_header(), &locked.writes.record)?;
            }
            let ticket = appender.finish();
            for locked in self.locked.iter_mut().filter(|locked| locked.tells_time()) {
                locked.cell.kept_time = locked.cell.time;
                locked.cell.last_ticket = ticket;
            }
            let seen = self.seen.get_mut();
            let skipped = u64::from(planted::is(Bug::SeqSkipped) && self.locked.len() > 1);
            for locked in self.locked.iter_mut().filter(|locked| !locked.writes.record.is_empty()) {
                let cell = &mut *locked.cell;
                cell.last_seq = Seq(cell.last_seq.0 + 1 + skipped);
                cell.last_ticket = ticket;
                wrote(locked.slot, cell.last_seq);
                let mut writes = std::mem::take(&mut locked.writes);
                let before = cell.memtable.bytes();
                if let Some(watched) = &cell.watched {
                    writes.tell(watched);
                }
                if writes.cleared {
                    cell.memtable.clear();
                }
                writes.put_all(|key, stored| cell.memtable.insert_seen(key, stored, seen));
                cell.keys = cell
                    .keys
                    .checked_add_signed(writes.keys_delta)
                    .expect("every key that goes was counted when it came");
                cell.next_expiry = crate::slot::earliest(cell.next_expiry, writes.earliest_expiry);
                self.engine.account_memtable(before, cell.memtable.bytes());
            }
        }
        Ok(self.seen())
    }

    /// The gate of the last writes that can have been seen.
    fn seen(&self) -> Gate {
        let mut gate = Gate::default();
        self.locked.iter().for_each(|locked| gate.cover(locked.cell.last_ticket));
        gate
    }

    /// Puts the time of the slots into the log in which something was hidden that expired after what the log knows.
    fn tell_time(&self, appender: &mut Appender<'_>) -> Result<(), Error> {
        self.locked.iter().filter(|locked| locked.tells_time()).try_for_each(|locked| {
            let (slot, cell) = (locked.slot, &locked.cell);
            let term = cell.history.current().map_or(0, |epoch| epoch.term);
            appender.push(record::Header { slot, term, seq: cell.last_seq }, &Body::Time(cell.time))
        })
    }
}

/// What was read at a key, if it has a meaning.
fn sound<T>(read: Option<T>, key: &Key) -> Result<T, Error> {
    read.ok_or_else(|| {
        Error::Limit(format!(
            "the value in slot {} has no meaning: the store is damaged, run check",
            key.slot()
        ))
    })
}

fn as_slice(bound: &Bound<EntryKey>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(bytes) => Bound::Included(bytes),
        Bound::Excluded(bytes) => Bound::Excluded(bytes),
        Bound::Unbounded => Bound::Unbounded,
    }
}

pub mod marks;
pub mod still;
#[cfg(test)]
mod tests;
