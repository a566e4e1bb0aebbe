//! sled as a target.
//!
//! With `sync=none` it syncs by itself every 500 ms, as it does unless told otherwise: it has no mode in which a write is in
//! the kernel but not on the device; what it has not written yet, a killed process loses.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use haypile_bench::config::Config;
use haypile_bench::error::{Error, Result};
use haypile_bench::load::operation::PairList;
use haypile_bench::plan::{Plan, Settle, Sync};
use haypile_bench::target::{Counter, Driver, Found, Target, Worker};
use sled::{Db, IVec};

use crate::common::{self, shown};

/// An open store.
pub struct Sled {
    db: Db,
    dir: PathBuf,
    memory_bytes: usize,
    flush_ms: u64,
    /// Set between runs, read by their threads.
    synced: AtomicBool,
}

fn failed(doing: &'static str) -> impl Fn(sled::Error) -> Error {
    move |why| Error::target(doing, why)
}

impl Sled {
    /// Opens or makes a store.
    ///
    /// # Errors
    /// If the configuration is not as it should be, or what sled says.
    pub fn open(dir: &Path, mut config: Config) -> Result<Sled> {
        let memory_bytes = config.size("memory", 256 << 20)?;
        let cache_bytes = config.size("cache", memory_bytes)?;
        let flush_ms = config.number("flush_ms", 500)?;
        config.all_used()?;
        let db = sled::Config::new()
            .path(dir.join("sled"))
            .cache_capacity(cache_bytes as u64)
            .mode(sled::Mode::HighThroughput)
            .flush_every_ms((flush_ms > 0).then_some(flush_ms))
            .open()
            .map_err(failed("opening sled"))?;
        let synced = AtomicBool::new(false);
        Ok(Sled { db, dir: dir.to_owned(), memory_bytes: cache_bytes, flush_ms, synced })
    }
}

impl Target for Sled {
    fn name(&self) -> String {
        format!("sled {}", common::locked_version("sled"))
    }

    fn configuration(&self) -> Vec<(String, String)> {
        shown([
            ("cache", self.memory_bytes.to_string()),
            ("mode", "high throughput".to_owned()),
            ("flush_ms", self.flush_ms.to_string()),
            ("compression", "none".to_owned()),
            ("sync", if self.synced.load(Ordering::Relaxed) { "always" } else { "no" }.to_owned()),
        ])
    }

    fn driver(&self, _: &Plan, _: usize) -> Result<Box<dyn Driver + '_>> {
        let synced = self.synced.load(Ordering::Relaxed);
        Ok(Box::new(SledWorker { db: &self.db, synced, walk: None }))
    }

    fn set_sync(&self, sync: Sync) -> Result<()> {
        self.synced.store(common::synced(sync)?, Ordering::Relaxed);
        Ok(())
    }

    fn settle(&self, settle: Settle) -> Result<()> {
        match settle {
            Settle::None => Ok(()),
            Settle::Debt | Settle::Flush => self.db.flush().map(drop).map_err(failed("flushing")),
        }
    }

    fn counters(&self) -> Vec<Counter> {
        Vec::new()
    }

    fn folder(&self) -> Option<PathBuf> {
        Some(self.dir.clone())
    }

    fn process(&self) -> Option<u32> {
        Some(std::process::id())
    }

    fn memory_budget(&self) -> Option<u64> {
        Some(self.memory_bytes as u64)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.db.flush().map(drop).map_err(failed("closing"))
    }
}

struct SledWorker<'e> {
    db: &'e Db,
    synced: bool,
    walk: Option<sled::Iter>,
}

impl SledWorker<'_> {
    fn sync(&self) -> Result<()> {
        if self.synced {
            self.db.flush().map_err(failed("syncing"))?;
        }
        Ok(())
    }
}

/// Bytes of an entry, which lies in memory now.
fn bytes(entry: sled::Result<(IVec, IVec)>) -> Result<usize> {
    let (key, value) = std::hint::black_box(entry.map_err(failed("walking"))?);
    Ok(key.len() + value.len())
}

impl Worker for SledWorker<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.db.insert(key, value).map_err(failed("putting"))?;
        self.sync()
    }

    fn get(&mut self, key: &[u8]) -> Result<Found> {
        let value = self.db.get(key).map_err(failed("reading"))?;
        Ok(std::hint::black_box(value).map_or(Found::NOTHING, |value| Found::one(value.len())))
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        self.db.remove(key).map_err(failed("deleting"))?;
        self.sync()
    }

    fn batch(&mut self, pairs: PairList<'_>) -> Result<()> {
        let mut batch = sled::Batch::default();
        pairs.iter().for_each(|(key, value)| batch.insert(key, value));
        self.db.apply_batch(batch).map_err(failed("writing a batch"))?;
        self.sync()
    }

    fn scan(&mut self, from: &[u8], entries: usize) -> Result<Found> {
        let mut found = Found::NOTHING;
        for entry in self.db.range(from..).take(entries) {
            found.add(bytes(entry)?);
        }
        Ok(found)
    }

    fn walk(&mut self, entries: usize) -> Result<Found> {
        let db = self.db;
        common::walk(&mut self.walk, entries, || Ok(db.iter()), |iter| iter.next().map(bytes).transpose())
    }
}
