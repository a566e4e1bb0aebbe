//! A slot's content in one number, the same on every node that has the same records.
//!
//! What counts is what a reader could see at a time: keys that have expired by then are left out, since each node
//! drops them when it likes, and so are the elements of collections that are gone. Two nodes with the same last record
//! of the same epoch and digests for one time that neither is ahead of have the same content if the digests are equal.

use std::ops::Bound;

use xxhash_rust::xxh3::Xxh3;

use crate::clock::TimeMs;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::key::{self, EntryKey, Generation};
use crate::read::{BlockSource, Direction, Fetched, Layers, WriteSet};
use crate::slot::{Role, SlotCell};
use crate::tx::Stop;
use crate::types::{Epoch, Seq, Slot};
use crate::value::Header;

/// Entries that are read before they are counted: a missing block begins such a page anew.
const PAGE_ENTRIES: usize = 4096;

/// What a slot holds, in short.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Digest {
    /// The running epoch.
    pub epoch: Option<Epoch>,
    /// The last record.
    pub seq: Seq,
    /// What expires at this time or before is left out.
    pub time: TimeMs,
    /// The keys that count.
    pub keys: u64,
    /// 128 bits over keys, values and elements, in the order of their entries.
    pub hash: u128,
}

/// A walk over a slot's entries.
struct Walk {
    hasher: Xxh3,
    keys: u64,
    time: TimeMs,
    /// The generation of the elements that count now: that of the key before them.
    living: Option<Generation>,
}

impl Engine {
    /// The digest of a slot as it is now, while it is read, written and compacted. Waits for the disk.
    ///
    /// `time` is what decides which keys have expired; the slot's own if it is `None`. It should not be before the times
    /// of the nodes that are compared.
    ///
    /// # Errors
    /// `Limit` if the slot has no complete data here; `Io`, `Corrupt`.
    pub fn digest(&self, slot: Slot, time: Option<TimeMs>) -> Result<Digest> {
        let cell = self.frozen_cell(slot);
        if matches!(cell.role, Role::Absent | Role::Loading { .. }) {
            return Err(Error::Limit(format!("slot {slot} has no complete data here")));
        }
        let time = time.unwrap_or(cell.time);
        let mut walk = Walk { hasher: Xxh3::new(), keys: 0, time, living: None };
        let mut from = Bound::Included(EntryKey::new());
        loop {
            let page = self.page(&cell, &from)?;
            page.iter().for_each(|(entry, value)| walk.count(entry, value));
            match page.into_iter().nth(PAGE_ENTRIES - 1) {
                Some((last, _)) => from = Bound::Excluded(last),
                None => break,
            }
        }
        let (epoch, seq) = (cell.history.current(), cell.last_seq);
        Ok(Digest { epoch, seq, time, keys: walk.keys, hash: walk.hasher.digest128() })
    }

    fn page(&self, cell: &SlotCell, from: &Bound<EntryKey>) -> Result<Vec<(EntryKey, Vec<u8>)>> {
        let mut fetched = Fetched::default();
        loop {
            let wanted = std::cell::RefCell::default();
            let mut page = Vec::new();
            let read = {
                let blocks =
                    BlockSource { cache: self.cache(), fetched: &fetched, wanted: &wanted, waits: false };
                let layers = Layers { writes: &WriteSet::default(), cell, blocks: &blocks };
                let from = from.as_ref().map(|entry| &entry[..]);
                layers.range(from, Bound::Unbounded, Direction::Forward, &mut |entry, value| {
                    page.push((EntryKey::from_slice(entry), value.to_vec()));
                    page.len() < PAGE_ENTRIES
                })
            };
            match read {
                Ok(()) => return Ok(page),
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Miss) => self.fetch(wanted.into_inner(), &mut fetched)?,
            }
        }
    }
}

impl Walk {
    fn count(&mut self, entry: &[u8], value: &[u8]) {
        let Some(parts) = key::split(entry) else { return };
        let counts = match parts.element {
            Some((generation, _)) => self.living == Some(generation),
            None => {
                let header = Header::decode(value);
                let lives = header.is_some_and(|header| header.expiry.is_none_or(|at| at > self.time));
                self.living = header.filter(|_| lives).and_then(|header| header.generation);
                self.keys += u64::from(lives);
                lives
            }
        };
        if counts {
            for part in [entry, value] {
                self.hasher.update(&(part.len() as u64).to_le_bytes());
                self.hasher.update(part);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::background::Job;
    use crate::key::Key;
    use crate::testing::engine;
    use crate::value::Value;

    fn slot() -> Slot {
        Slot::of_key(b"{a}")
    }

    fn change(engine: &Engine, change: impl Fn(&mut crate::tx::Tx<'_>)) {
        let fetched = Fetched::default();
        let mut tx = engine.begin(&[slot()], &fetched);
        change(&mut tx);
        tx.commit().expect("commits");
        engine.write().expect("writes");
    }

    fn value(text: &str, expiry: Option<u64>) -> Value {
        Value { expiry: expiry.map(TimeMs), ..Value::whole(1, 0, bytes::Bytes::from(text.to_owned())) }
    }

    #[test]
    fn a_digest_tells_content_and_not_where_it_lies_or_what_has_expired() {
        let (one, two) = (engine(), engine());
        for engine in [&one, &two] {
            engine.add_slots(&[slot()]).expect("added");
            for number in 0..9000 {
                let key = Key::new(format!("{{a}}{number}").as_bytes());
                change(engine, |tx| tx.put(&key, &value(&format!("v{number}"), None)).expect("in memory"));
            }
        }
        let hash = |engine: &Engine, time| {
            let digest = engine.digest(slot(), Some(TimeMs(time))).expect("read");
            (digest.keys, digest.hash)
        };
        assert_eq!(hash(&one, 5), hash(&two, 5));
        one.flush_all().expect("flushed");
        while one.step(Job::Compact).expect("compacts") {}
        assert_eq!(hash(&one, 5), hash(&two, 5));
        assert_eq!(hash(&one, 5).0, 9000);
        let key = Key::new(b"{a}x");
        change(&one, |tx| tx.put(&key, &value("x", Some(u64::MAX - 1))).expect("in memory"));
        assert_ne!(hash(&one, 5), hash(&two, 5));
        assert_eq!(hash(&one, u64::MAX), hash(&two, u64::MAX), "it has expired then");
        let key = Key::new(b"{a}7");
        change(&one, |tx| tx.put(&key, &value("V7", None)).expect("in memory"));
        assert_ne!(hash(&one, u64::MAX), hash(&two, u64::MAX));
        one.remove_slots(&[slot()]).expect("removed");
        assert!(one.digest(slot(), None).is_err(), "it is not there");
    }
}
