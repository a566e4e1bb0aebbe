//! fjall as a target.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use fjall::{Database, Guard, Keyspace, KeyspaceCreateOptions, PersistMode};
use haypile_bench::config::Config;
use haypile_bench::error::{Error, Result};
use haypile_bench::load::operation::PairList;
use haypile_bench::plan::{Plan, Settle, Sync};
use haypile_bench::target::{Counter, Driver, Found, Target, Worker};

use crate::common::{self, Budget, shown};

/// Threads for flushes and compactions.
const THREADS: usize = 2;

/// An open store.
pub struct Fjall {
    database: Database,
    keyspace: Keyspace,
    dir: PathBuf,
    budget: Budget,
    /// Set between runs, read by their threads.
    synced: AtomicBool,
}

fn failed(doing: &'static str) -> impl Fn(fjall::Error) -> Error {
    move |why| Error::target(doing, why)
}

impl Fjall {
    /// Opens or makes a store.
    ///
    /// # Errors
    /// If the configuration is not as it should be, or what fjall says.
    pub fn open(dir: &Path, mut config: Config) -> Result<Fjall> {
        let budget = Budget::take(&mut config)?;
        config.all_used()?;
        let database = Database::builder(dir)
            .cache_size(budget.cache_bytes as u64)
            .worker_threads(THREADS)
            .open()
            .map_err(failed("opening fjall"))?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(budget.buffer_bytes as u64);
        let keyspace = database.keyspace("bench", options).map_err(failed("opening fjall's keyspace"))?;
        Ok(Fjall { database, keyspace, dir: dir.to_owned(), budget, synced: AtomicBool::new(false) })
    }
}

impl Target for Fjall {
    fn name(&self) -> String {
        format!("fjall {}", common::locked_version("fjall"))
    }

    fn configuration(&self) -> Vec<(String, String)> {
        let mut all = self.budget.shown();
        all.extend(shown([
            ("worker_threads", THREADS.to_string()),
            ("block", "4096".to_owned()),
            ("bloom", "1e-4 in level 0, then 10 bits".to_owned()),
            ("compression", "lz4 from level 2 on".to_owned()),
            ("journal", "512 MiB, in the kernel after each write".to_owned()),
            ("sync", if self.synced.load(Ordering::Relaxed) { "always" } else { "no" }.to_owned()),
        ]));
        all
    }

    fn driver(&self, _: &Plan, _: usize) -> Result<Box<dyn Driver + '_>> {
        let synced = self.synced.load(Ordering::Relaxed);
        Ok(Box::new(FjallWorker { target: self, synced, walk: None }))
    }

    fn set_sync(&self, sync: Sync) -> Result<()> {
        self.synced.store(common::synced(sync)?, Ordering::Relaxed);
        Ok(())
    }

    fn settle(&self, settle: Settle) -> Result<()> {
        if settle == Settle::None {
            return Ok(());
        }
        if settle == Settle::Flush {
            self.keyspace.rotate_memtable_and_wait().map_err(failed("flushing"))?;
        }
        common::wait_until(false, || {
            let (database, keyspace) = (&self.database, &self.keyspace);
            Ok(database.outstanding_flushes() == 0
                && keyspace.sealed_memtable_count() == 0
                && database.active_compactions() == 0)
        })
    }

    fn counters(&self) -> Vec<Counter> {
        let compacting = u64::try_from(self.database.time_compacting().as_millis()).unwrap_or(u64::MAX);
        vec![
            Counter::total("compactions", self.database.compactions_completed() as u64),
            Counter::total("compaction_ms", compacting),
            Counter::level("memtable_bytes", self.database.write_buffer_size() as f64),
            Counter::level("cache_bytes", self.database.cache_size() as f64),
            Counter::level("files", self.keyspace.table_count() as f64),
        ]
    }

    fn folder(&self) -> Option<PathBuf> {
        Some(self.dir.clone())
    }

    fn process(&self) -> Option<u32> {
        Some(std::process::id())
    }

    fn memory_budget(&self) -> Option<u64> {
        Some(self.budget.bytes as u64)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.database.persist(PersistMode::SyncAll).map_err(failed("closing"))
    }
}

struct FjallWorker<'e> {
    target: &'e Fjall,
    synced: bool,
    walk: Option<fjall::Iter>,
}

impl FjallWorker<'_> {
    fn sync(&self) -> Result<()> {
        if self.synced {
            self.target.database.persist(PersistMode::SyncData).map_err(failed("syncing"))?;
        }
        Ok(())
    }
}

/// Bytes of an entry, which lies in memory now.
fn bytes(guard: Guard) -> Result<usize> {
    let (key, value) = std::hint::black_box(guard.into_inner().map_err(failed("walking"))?);
    Ok(key.len() + value.len())
}

impl Worker for FjallWorker<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.target.keyspace.insert(key, value).map_err(failed("putting"))?;
        self.sync()
    }

    fn get(&mut self, key: &[u8]) -> Result<Found> {
        let value = self.target.keyspace.get(key).map_err(failed("reading"))?;
        Ok(std::hint::black_box(value).map_or(Found::NOTHING, |value| Found::one(value.len())))
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        self.target.keyspace.remove(key).map_err(failed("deleting"))?;
        self.sync()
    }

    fn batch(&mut self, pairs: PairList<'_>) -> Result<()> {
        let mut batch = self.target.database.batch();
        for (key, value) in pairs.iter() {
            batch.insert(&self.target.keyspace, key, value);
        }
        batch.commit().map_err(failed("writing a batch"))?;
        self.sync()
    }

    fn scan(&mut self, from: &[u8], entries: usize) -> Result<Found> {
        let mut found = Found::NOTHING;
        for guard in self.target.keyspace.range(from..).take(entries) {
            found.add(bytes(guard)?);
        }
        Ok(found)
    }

    fn walk(&mut self, entries: usize) -> Result<Found> {
        let keyspace = &self.target.keyspace;
        common::walk(
            &mut self.walk,
            entries,
            || Ok(keyspace.iter()),
            |iter| iter.next().map(bytes).transpose(),
        )
    }
}
