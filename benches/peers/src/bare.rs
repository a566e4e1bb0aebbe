//! The least that a store can be: a log that is appended to, and a map of everything in memory beside it.
//!
//! One write call an operation, under one lock; nothing is preallocated, grouped, compacted or checked, nothing is ever
//! removed from the log, and a log is never read again. What it needs is about what the kernel and a tree in memory cost:
//! a yardstick, not a store.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use haypile_bench::config::Config;
use haypile_bench::error::Result;
use haypile_bench::load::operation::{KeyList, PairList};
use haypile_bench::plan::{Plan, Settle, Sync};
use haypile_bench::target::{Counter, Driver, Found, Target, Worker};
use haypile_engine::fs::{File, Fs, OpenMode, real::RealFs};

use crate::common::{self, shown};

/// Where a removed key has its value's length.
const REMOVED: u32 = u32::MAX;

/// An open one.
pub struct Bare {
    dir: PathBuf,
    state: RwLock<State>,
    /// Set between runs, read by their threads.
    synced: AtomicBool,
}

struct State {
    log: Arc<dyn File>,
    end: u64,
    map: BTreeMap<Box<[u8]>, Box<[u8]>>,
    record: Vec<u8>,
}

impl State {
    fn append(&mut self, key: &[u8], value: Option<&[u8]>) {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("keys and values are below 64 MiB");
        self.record.extend_from_slice(&length(key).to_le_bytes());
        self.record.extend_from_slice(&value.map_or(REMOVED, length).to_le_bytes());
        self.record.extend_from_slice(key);
        self.record.extend_from_slice(value.unwrap_or_default());
    }

    /// One write call for what was appended.
    fn write(&mut self, synced: bool) -> Result<()> {
        self.log.write_at(&self.record, self.end)?;
        self.end += self.record.len() as u64;
        self.record.clear();
        if synced {
            self.log.sync()?;
        }
        Ok(())
    }

    fn put(&mut self, key: &[u8], value: &[u8]) {
        match self.map.get_mut(key) {
            Some(place) if place.len() == value.len() => place.copy_from_slice(value),
            Some(place) => *place = value.into(),
            None => _ = self.map.insert(key.into(), value.into()),
        }
    }
}

impl Bare {
    /// Begins one in an empty folder.
    ///
    /// # Errors
    /// If the folder is not empty, or what the operating system says.
    pub fn open(dir: &Path, config: &Config) -> Result<Bare> {
        config.all_used()?;
        let log = RealFs.open(&dir.join("log"), OpenMode::CreateNew)?;
        let state = State { log, end: 0, map: BTreeMap::new(), record: Vec::new() };
        Ok(Bare { dir: dir.to_owned(), state: RwLock::new(state), synced: AtomicBool::new(false) })
    }
}

impl Target for Bare {
    fn name(&self) -> String {
        "bare".to_owned()
    }

    fn configuration(&self) -> Vec<(String, String)> {
        let synced = self.synced.load(Ordering::Relaxed);
        shown([
            ("log", "one write call an operation".to_owned()),
            ("memory", "all data, in a BTreeMap".to_owned()),
            ("sync", if synced { "always, one by one" } else { "no" }.to_owned()),
        ])
    }

    fn driver(&self, _: &Plan, _: usize) -> Result<Box<dyn Driver + '_>> {
        let synced = self.synced.load(Ordering::Relaxed);
        Ok(Box::new(BareWorker { state: &self.state, synced, walk: None }))
    }

    fn set_sync(&self, sync: Sync) -> Result<()> {
        self.synced.store(common::synced(sync)?, Ordering::Relaxed);
        Ok(())
    }

    fn settle(&self, _: Settle) -> Result<()> {
        Ok(())
    }

    fn counters(&self) -> Vec<Counter> {
        vec![Counter::total("log_write_bytes", read(&self.state).end)]
    }

    fn folder(&self) -> Option<PathBuf> {
        Some(self.dir.clone())
    }

    fn process(&self) -> Option<u32> {
        Some(std::process::id())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

fn read(state: &RwLock<State>) -> std::sync::RwLockReadGuard<'_, State> {
    state.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(state: &RwLock<State>) -> std::sync::RwLockWriteGuard<'_, State> {
    state.write().unwrap_or_else(PoisonError::into_inner)
}

struct BareWorker<'e> {
    state: &'e RwLock<State>,
    synced: bool,
    /// The last key of a walk.
    walk: Option<Box<[u8]>>,
}

fn one(state: &State, key: &[u8]) -> Found {
    state.map.get(key).map_or(Found::NOTHING, |value| Found::one(std::hint::black_box(value).len()))
}

impl Worker for BareWorker<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let mut state = write(self.state);
        state.append(key, Some(value));
        state.write(self.synced)?;
        state.put(key, value);
        Ok(())
    }

    fn get(&mut self, key: &[u8]) -> Result<Found> {
        Ok(one(&read(self.state), key))
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        let mut state = write(self.state);
        state.append(key, None);
        state.write(self.synced)?;
        state.map.remove(key);
        Ok(())
    }

    fn batch(&mut self, pairs: PairList<'_>) -> Result<()> {
        let mut state = write(self.state);
        pairs.iter().for_each(|(key, value)| state.append(key, Some(value)));
        state.write(self.synced)?;
        pairs.iter().for_each(|(key, value)| state.put(key, value));
        Ok(())
    }

    fn scan(&mut self, from: &[u8], entries: usize) -> Result<Found> {
        let mut found = Found::NOTHING;
        let state = read(self.state);
        for (key, value) in
            state.map.range::<[u8], _>((Bound::Included(from), Bound::Unbounded)).take(entries)
        {
            std::hint::black_box((key, value));
            found.add(key.len() + value.len());
        }
        Ok(found)
    }

    fn walk(&mut self, entries: usize) -> Result<Found> {
        let state = read(self.state);
        let mut found = Found::NOTHING;
        let mut ends = 0;
        while found.entries < entries as u64 && ends < 2 {
            let from = self.walk.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let left = usize::try_from(entries as u64 - found.entries).unwrap_or(usize::MAX);
            let mut last = None;
            for (key, value) in state.map.range::<[u8], _>((from, Bound::Unbounded)).take(left) {
                std::hint::black_box((key, value));
                found.add(key.len() + value.len());
                last = Some(key.clone());
            }
            let full = found.entries == entries as u64;
            ends += usize::from(!full);
            self.walk = last.filter(|_| full);
        }
        Ok(found)
    }

    fn multi_get(&mut self, keys: KeyList<'_>) -> Result<Found> {
        let state = read(self.state);
        let mut all = Found::NOTHING;
        for key in keys.iter() {
            let found = one(&state, key);
            all.entries += found.entries;
            all.bytes += found.bytes;
        }
        Ok(all)
    }
}
