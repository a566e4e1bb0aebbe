//! RocksDB and LevelDB as targets, from Debian's packages.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use haypile_bench::config::Config;
use haypile_bench::error::Result;
use haypile_bench::load::operation::{KeyList, PairList};
use haypile_bench::plan::{Plan, Settle, Sync};
use haypile_bench::target::{Counter, Driver, Found, Target, Worker};

use crate::common::{self, Budget, shown};
use crate::ffi::{Batch, Db, Iter, MultiGet, Settings};

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Engine {
    RocksDb,
    LevelDb,
}

/// An open store.
pub struct Leveled {
    engine: Engine,
    db: Db,
    dir: PathBuf,
    budget: Budget,
    settings: Settings,
    /// Set between runs, read by their threads.
    synced: AtomicBool,
}

impl Leveled {
    fn settings(config: &mut Config, engine: Engine) -> Result<(Budget, Settings)> {
        let budget = Budget::take(config)?;
        // As RocksDB's tuning guide has it: the first level as large as the files before it may become, four write buffers.
        let level_bytes = 4 * budget.buffer_bytes;
        let file_bytes = match engine {
            Engine::RocksDb => (level_bytes / 4).max(2 << 20),
            // Its file size bounds a compaction too; 2 MiB is its default.
            Engine::LevelDb => 2 << 20,
        };
        let settings = Settings {
            buffer_bytes: budget.buffer_bytes,
            cache_bytes: budget.cache_bytes,
            block_bytes: config.size("block", 4 << 10)?,
            compress: config.switch("compress", true)?,
            threads: 2,
            hash_index: engine == Engine::RocksDb && config.switch("hash_index", false)?,
            level_bytes: level_bytes as u64,
            statistics: engine == Engine::RocksDb && config.switch("statistics", false)?,
            file_bytes: config.size("file", file_bytes)?,
        };
        config.all_used()?;
        Ok((budget, settings))
    }

    /// Opens or makes a RocksDB.
    ///
    /// # Errors
    /// If the configuration is not as it should be, or what RocksDB says.
    pub fn rocksdb(dir: &Path, mut config: Config) -> Result<Leveled> {
        let (budget, settings) = Leveled::settings(&mut config, Engine::RocksDb)?;
        let db = Db::rocksdb(dir, &settings)?;
        Ok(Leveled {
            engine: Engine::RocksDb,
            db,
            dir: dir.to_owned(),
            budget,
            settings,
            synced: AtomicBool::new(false),
        })
    }

    /// Opens or makes a LevelDB.
    ///
    /// # Errors
    /// If the configuration is not as it should be, or what LevelDB says.
    pub fn leveldb(dir: &Path, mut config: Config) -> Result<Leveled> {
        let (budget, settings) = Leveled::settings(&mut config, Engine::LevelDb)?;
        let db = Db::leveldb(dir, &settings)?;
        Ok(Leveled {
            engine: Engine::LevelDb,
            db,
            dir: dir.to_owned(),
            budget,
            settings,
            synced: AtomicBool::new(false),
        })
    }

    fn number(&self, name: &std::ffi::CStr) -> u64 {
        self.db.property(name).and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// Whether no flush or compaction is due or under way, as far as the store can tell.
    fn is_settled(&self, before: &mut Option<String>) -> bool {
        match self.engine {
            Engine::RocksDb => {
                let due = [
                    c"rocksdb.mem-table-flush-pending",
                    c"rocksdb.num-running-flushes",
                    c"rocksdb.compaction-pending",
                    c"rocksdb.num-running-compactions",
                ];
                due.into_iter().all(|name| self.number(name) == 0)
            }
            Engine::LevelDb => {
                let now = self.db.property(c"leveldb.stats");
                let same = *before == now;
                *before = now;
                same && self.number(c"leveldb.num-files-at-level0") < 4
            }
        }
    }
}

impl Target for Leveled {
    fn name(&self) -> String {
        match self.engine {
            Engine::RocksDb => format!("rocksdb {}", rocksdb_version(&self.dir)),
            Engine::LevelDb => format!("leveldb {}", Db::leveldb_version()),
        }
    }

    fn configuration(&self) -> Vec<(String, String)> {
        let settings = &self.settings;
        let mut all = self.budget.shown();
        let compression = match (settings.compress, self.engine) {
            (false, _) => "none",
            (true, Engine::RocksDb) => "lz4",
            (true, Engine::LevelDb) => "snappy",
        };
        all.extend(shown([
            ("block", settings.block_bytes.to_string()),
            ("bloom_bits", "10".to_owned()),
            ("compression", compression.to_owned()),
            ("file", settings.file_bytes.to_string()),
            ("sync", if self.synced.load(Ordering::Relaxed) { "always" } else { "no" }.to_owned()),
        ]));
        if self.engine == Engine::RocksDb {
            all.extend(shown([
                ("background_threads", format!("{} and 1 for flushes", settings.threads)),
                ("dynamic_levels", "yes".to_owned()),
                ("level_base", settings.level_bytes.to_string()),
                ("hash_index", settings.hash_index.to_string()),
                ("index_and_filter", "outside the cache".to_owned()),
                ("statistics", settings.statistics.to_string()),
            ]));
        }
        all
    }

    fn driver(&self, _: &Plan, _: usize) -> Result<Box<dyn Driver + '_>> {
        Ok(Box::new(LeveledWorker {
            db: &self.db,
            synced: self.synced.load(Ordering::Relaxed),
            batch: self.db.batch(),
            many: MultiGet::default(),
            walk: None,
        }))
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
            self.db.flush()?;
        }
        let mut before = None;
        common::wait_until(self.engine == Engine::RocksDb, || Ok(self.is_settled(&mut before)))
    }

    fn counters(&self) -> Vec<Counter> {
        match self.engine {
            Engine::RocksDb => {
                let mut all = rocksdb_counters(&self.db.property(c"rocksdb.stats").unwrap_or_default());
                all.extend(rocksdb_cache(&self.db.statistics().unwrap_or_default()));
                let level = |name: &str, property| Counter::level(name, self.number(property) as f64);
                all.push(level("memtable_bytes", c"rocksdb.cur-size-all-mem-tables"));
                all.push(level("cache_bytes", c"rocksdb.block-cache-usage"));
                all.push(level("index_and_filter_bytes", c"rocksdb.estimate-table-readers-mem"));
                all
            }
            Engine::LevelDb => leveldb_counters(&self.db.property(c"leveldb.stats").unwrap_or_default()),
        }
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
        Ok(())
    }
}

/// What its own log begins with.
fn rocksdb_version(dir: &Path) -> String {
    let log = std::fs::read_to_string(dir.join("LOG")).unwrap_or_default();
    let rest = log.split_once("RocksDB version: ").map_or("?", |(_, rest)| rest);
    rest.split_whitespace().next().unwrap_or("?").to_owned()
}

/// The number before `unit` that follows `after` in a line that begins with `start`.
fn number_in(text: &str, start: &str, after: &str, unit: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with(start))?;
    let rest = line[start.len()..].split_once(after)?.1;
    rest.split_once(unit)?.0.trim().parse().ok()
}

/// Of `rocksdb.stats`. It rounds to hundredths of a gigabyte, the flushes' to thousandths.
fn rocksdb_counters(stats: &str) -> Vec<Counter> {
    let bytes = |gigabytes: f64| (gigabytes * f64::from(1 << 30)).max(0.0);
    let total = |name: &str, value| Counter { name: name.to_owned(), value, grows: true };
    let all = number_in(stats, "Cumulative compaction:", "", "GB write");
    let flushed = number_in(stats, "Flush(GB):", "cumulative", ",");
    let logged = number_in(stats, "Cumulative WAL:", "written:", "GB");
    let stall = stats.lines().find(|line| line.starts_with("Cumulative stall:")).and_then(stall_ms);
    let mut out = Vec::new();
    out.extend(logged.map(|value| total("log_write_bytes", bytes(value))));
    out.extend(flushed.map(|value| total("flush_write_bytes", bytes(value))));
    let compacted = all.zip(flushed).map(|(all, flushed)| all - flushed);
    out.extend(compacted.map(|value| total("compaction_write_bytes", bytes(value))));
    out.extend(stall.map(|value| total("stall_ms", value)));
    out
}

/// `Cumulative stall: 00:01:2.345 H:M:S, 1.2 percent`
fn stall_ms(line: &str) -> Option<f64> {
    let time = line.split_once(':')?.1.split_once("H:M:S")?.0.trim();
    let mut seconds = 0.0;
    for part in time.split(':') {
        seconds = seconds * 60.0 + part.parse::<f64>().ok()?;
    }
    Some(seconds * 1000.0)
}

/// Of the statistics, `rocksdb.block.cache.hit COUNT : 5`.
fn rocksdb_cache(statistics: &str) -> Vec<Counter> {
    let counter = |name: &str, start: &str| {
        let line = statistics.lines().find(|line| line.starts_with(start))?;
        let value = line.rsplit(' ').next()?.parse().ok()?;
        Some(Counter { name: name.to_owned(), value, grows: true })
    };
    let hits = counter("cache_hits", "rocksdb.block.cache.hit COUNT");
    let misses = counter("cache_misses", "rocksdb.block.cache.miss COUNT");
    hits.into_iter().chain(misses).collect()
}

/// Of LevelDB's table of levels: the last column is megabytes that were written, level 0's by flushes.
fn leveldb_counters(stats: &str) -> Vec<Counter> {
    let mut flushed = 0.0;
    let mut compacted = 0.0;
    for line in stats.lines() {
        let columns: Vec<f64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
        if let [level, _, _, _, _, written] = columns[..] {
            *(if level == 0.0 { &mut flushed } else { &mut compacted }) += written * f64::from(1 << 20);
        }
    }
    let total = |name: &str, value| Counter { name: name.to_owned(), value, grows: true };
    vec![total("flush_write_bytes", flushed), total("compaction_write_bytes", compacted)]
}

struct LeveledWorker<'e> {
    db: &'e Db,
    synced: bool,
    batch: Batch,
    many: MultiGet,
    walk: Option<Iter<'e>>,
}

impl Worker for LeveledWorker<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.db.put(key, value, self.synced)
    }

    fn get(&mut self, key: &[u8]) -> Result<Found> {
        self.db.get(key)
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        self.db.delete(key, self.synced)
    }

    fn batch(&mut self, pairs: PairList<'_>) -> Result<()> {
        self.batch.clear();
        pairs.iter().for_each(|(key, value)| self.batch.put(key, value));
        self.db.write(&self.batch, self.synced)
    }

    fn scan(&mut self, from: &[u8], entries: usize) -> Result<Found> {
        let mut iter = self.db.iter();
        iter.seek(Some(from));
        let mut found = Found::NOTHING;
        while found.entries < entries as u64 {
            match iter.take()? {
                Some(bytes) => found.add(bytes),
                None => break,
            }
        }
        Ok(found)
    }

    fn walk(&mut self, entries: usize) -> Result<Found> {
        let db = self.db;
        let open = || {
            let mut iter = db.iter();
            iter.seek(None);
            Ok(iter)
        };
        common::walk(&mut self.walk, entries, open, Iter::take)
    }

    fn multi_get(&mut self, keys: KeyList<'_>) -> Result<Found> {
        if let Some(found) = self.db.multi_get(keys.iter(), &mut self.many)? {
            return Ok(found);
        }
        let mut all = Found::NOTHING;
        for key in keys.iter() {
            let found = self.db.get(key)?;
            all.entries += found.entries;
            all.bytes += found.bytes;
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(counters: &[Counter], name: &str) -> f64 {
        counters.iter().find(|counter| counter.name == name).map_or(-1.0, |counter| counter.value)
    }

    #[test]
    fn rocksdb_says_what_it_wrote() {
        let stats = "Flush(GB): cumulative 0.250, interval 0.000\n\
            Cumulative compaction: 1.25 GB write, 61.72 MB/s write, 0.33 GB read, 16.20 MB/s read, 9.8 seconds\n\
            Cumulative WAL: 2000K writes, 0 syncs, 2000000.00 writes per sync, written: 0.50 GB, 0.00 MB/s\n\
            Cumulative stall: 00:01:2.500 H:M:S, 1.2 percent\n";
        let counters = rocksdb_counters(stats);
        assert_eq!(value(&counters, "flush_write_bytes"), f64::from(1 << 28));
        assert_eq!(value(&counters, "compaction_write_bytes"), f64::from(1 << 30));
        assert_eq!(value(&counters, "log_write_bytes"), f64::from(1 << 29));
        assert_eq!(value(&counters, "stall_ms"), 62_500.0);
    }

    #[test]
    fn rocksdb_says_what_it_found_in_its_cache() {
        let text = "rocksdb.block.cache.miss COUNT : 7\nrocksdb.block.cache.hit COUNT : 12\n";
        let counters = rocksdb_cache(text);
        assert_eq!((value(&counters, "cache_hits"), value(&counters, "cache_misses")), (12.0, 7.0));
        assert!(rocksdb_cache("").is_empty());
    }

    #[test]
    fn leveldb_says_what_it_wrote() {
        let stats = "                               Compactions\n\
            Level  Files Size(MB) Time(sec) Read(MB) Write(MB)\n\
            --------------------------------------------------\n  \
            0        2       16         1        0        24\n  \
            1        5       10         2       30        28\n  \
            2        9       40         2       30        12\n";
        let counters = leveldb_counters(stats);
        assert_eq!(value(&counters, "flush_write_bytes"), f64::from(24 << 20));
        assert_eq!(value(&counters, "compaction_write_bytes"), f64::from(40 << 20));
    }
}
