//! redb as a target.
//!
//! It has no log, and so no mode in which a write is in the kernel but not on the device: with `sync=none` its commits are
//! `Durability::None`, which a killed process loses. That is less than the others promise, and the nearest that there is.
//! What was put off is committed when a run settles.
//!
//! A reader keeps its transaction as long as nobody has written since, as a user who reads much would.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use haypile_bench::config::Config;
use haypile_bench::error::{Error, Result};
use haypile_bench::load::operation::{KeyList, PairList};
use haypile_bench::plan::{Plan, Settle, Sync};
use haypile_bench::target::{Counter, Driver, Found, Target, Worker};
use redb::{Database, Durability, Range, ReadOnlyTable, ReadableDatabase, TableDefinition};

use crate::common::{self, shown};

const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("bench");

/// The file's name in the target's folder.
const FILE: &str = "bench.redb";

/// An open store.
pub struct Redb {
    database: Database,
    dir: PathBuf,
    memory_bytes: usize,
    /// Set between runs, read by their threads.
    synced: AtomicBool,
    /// How many commits there were: a reader that has seen another number looks anew.
    commits: AtomicU64,
}

fn failed<E: Into<redb::Error>>(doing: &'static str) -> impl Fn(E) -> Error {
    move |why| Error::target(doing, why.into())
}

impl Redb {
    /// Opens or makes a store.
    ///
    /// # Errors
    /// If the configuration is not as it should be, or what redb says.
    pub fn open(dir: &Path, mut config: Config) -> Result<Redb> {
        let memory_bytes = config.size("memory", 256 << 20)?;
        let cache_bytes = config.size("cache", memory_bytes)?;
        config.all_used()?;
        let database = Database::builder()
            .set_cache_size(cache_bytes)
            .create(dir.join(FILE))
            .map_err(failed("opening redb"))?;
        let target = Redb {
            database,
            dir: dir.to_owned(),
            memory_bytes: cache_bytes,
            synced: AtomicBool::new(false),
            commits: AtomicU64::new(0),
        };
        target.write(true, |_| Ok(()))?;
        Ok(target)
    }

    /// One transaction.
    fn write(
        &self,
        synced: bool,
        change: impl FnOnce(&mut redb::Table<'_, &'static [u8], &'static [u8]>) -> Result<()>,
    ) -> Result<()> {
        let mut transaction = self.database.begin_write().map_err(failed("beginning"))?;
        let durability = if synced { Durability::Immediate } else { Durability::None };
        transaction.set_durability(durability).map_err(failed("beginning"))?;
        {
            let mut table = transaction.open_table(TABLE).map_err(failed("opening a table"))?;
            change(&mut table)?;
        }
        transaction.commit().map_err(failed("committing"))?;
        // Pairs with the load in `RedbWorker::table`: whoever sees this number opens a table that has the commit.
        self.commits.fetch_add(1, Ordering::Release);
        Ok(())
    }
}

impl Target for Redb {
    fn name(&self) -> String {
        format!("redb {}", common::locked_version("redb"))
    }

    fn configuration(&self) -> Vec<(String, String)> {
        let synced = self.synced.load(Ordering::Relaxed);
        shown([
            ("cache", self.memory_bytes.to_string()),
            ("durability", if synced { "immediate" } else { "none, one commit when settling" }.to_owned()),
            ("read_transaction", "kept until the next commit".to_owned()),
        ])
    }

    fn driver(&self, _: &Plan, _: usize) -> Result<Box<dyn Driver + '_>> {
        let synced = self.synced.load(Ordering::Relaxed);
        Ok(Box::new(RedbWorker { target: self, synced, table: None, walk: None }))
    }

    fn set_sync(&self, sync: Sync) -> Result<()> {
        self.synced.store(common::synced(sync)?, Ordering::Relaxed);
        Ok(())
    }

    fn settle(&self, settle: Settle) -> Result<()> {
        match settle {
            Settle::None => Ok(()),
            Settle::Debt | Settle::Flush => self.write(true, |_| Ok(())),
        }
    }

    fn counters(&self) -> Vec<Counter> {
        vec![Counter::total("commits", self.commits.load(Ordering::Relaxed))]
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
        self.write(true, |_| Ok(()))
    }
}

type Table = ReadOnlyTable<&'static [u8], &'static [u8]>;

struct RedbWorker<'e> {
    target: &'e Redb,
    synced: bool,
    /// With the number of commits that it was opened at.
    table: Option<(u64, Table)>,
    walk: Option<Range<'static, &'static [u8], &'static [u8]>>,
}

impl RedbWorker<'_> {
    /// The newest table.
    fn table(&mut self) -> Result<&Table> {
        let commits = self.target.commits.load(Ordering::Acquire);
        if self.table.as_ref().is_none_or(|(seen, _)| *seen != commits) {
            self.table = None;
            let transaction = self.target.database.begin_read().map_err(failed("beginning"))?;
            let table = transaction.open_table(TABLE).map_err(failed("opening a table"))?;
            self.table = Some((commits, table));
        }
        let (_, table) = self.table.as_ref().expect("it was just opened");
        Ok(table)
    }

    fn write(
        &mut self,
        change: impl FnOnce(&mut redb::Table<'_, &'static [u8], &'static [u8]>) -> Result<()>,
    ) -> Result<()> {
        // What a reader holds can't be used again.
        self.table = None;
        self.target.write(self.synced, change)
    }
}

fn one(table: &Table, key: &[u8]) -> Result<Found> {
    let value = table.get(key).map_err(failed("reading"))?;
    Ok(value.map_or(Found::NOTHING, |value| Found::one(std::hint::black_box(value.value()).len())))
}

fn next(range: &mut Range<'static, &'static [u8], &'static [u8]>) -> Result<Option<usize>> {
    let Some(entry) = range.next() else { return Ok(None) };
    let (key, value) = entry.map_err(failed("walking"))?;
    let (key, value) = std::hint::black_box((key.value(), value.value()));
    Ok(Some(key.len() + value.len()))
}

impl Worker for RedbWorker<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.write(|table| table.insert(key, value).map(drop).map_err(failed("putting")))
    }

    fn get(&mut self, key: &[u8]) -> Result<Found> {
        one(self.table()?, key)
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        self.write(|table| table.remove(key).map(drop).map_err(failed("deleting")))
    }

    fn batch(&mut self, pairs: PairList<'_>) -> Result<()> {
        self.write(|table| {
            pairs
                .iter()
                .try_for_each(|(key, value)| table.insert(key, value).map(drop).map_err(failed("putting")))
        })
    }

    fn scan(&mut self, from: &[u8], entries: usize) -> Result<Found> {
        let mut range = self.table()?.range(from..).map_err(failed("walking"))?;
        let mut found = Found::NOTHING;
        while found.entries < entries as u64 {
            match next(&mut range)? {
                Some(bytes) => found.add(bytes),
                None => break,
            }
        }
        Ok(found)
    }

    fn walk(&mut self, entries: usize) -> Result<Found> {
        let mut walk = self.walk.take();
        let open = || self.table()?.range::<&[u8]>(..).map_err(failed("walking"));
        let found = common::walk(&mut walk, entries, open, next);
        self.walk = walk;
        found
    }

    fn multi_get(&mut self, keys: KeyList<'_>) -> Result<Found> {
        let table = self.table()?;
        let mut all = Found::NOTHING;
        for key in keys.iter() {
            let found = one(table, key)?;
            all.entries += found.entries;
            all.bytes += found.bytes;
        }
        Ok(all)
    }
}
