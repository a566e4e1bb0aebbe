//! Haypile's own engine in this process, without sockets and commands.
//!
//! How keys lie in it is a setting, `layout`, because the engine has two orders:
//!
//! - `keys`: each key is a user's key, as a string of the server is. They are ordered by slot and hash, so nothing walks
//!   them in the order of their bytes. For workloads without ranges.
//! - `ordered`: each slot has one collection, and keys are its elements, as a sorted set's members are: in the order of
//!   their bytes. A range that ends in one slot goes on in the next, as the tags of keys are in order. For chains with
//!   ranges, all of them: a chain's fill pays for the layout that its ranges need.
//!
//! Every operation is one transaction, as the server's commands are; a write is one `write(2)`, unless other threads' writes
//! go with it. What is read is looked at where it lies, as the peers' targets do it.

use std::future::Future;
use std::hint::black_box;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use haypile_engine::background::{Background, Job};
use haypile_engine::clock::SystemClock;
use haypile_engine::engine::{Engine, Fetched, Gate, Options, SyncMode};
use haypile_engine::fs::Fs;
use haypile_engine::key::{Generation, Key};
use haypile_engine::read::Direction;
use haypile_engine::tx::{Read, Stop, Tx};
use haypile_engine::types::Slot;
use haypile_engine::value::Value;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::load::keys::Keys;
use crate::load::operation::{KeyList, PairList};
use crate::plan::{Plan, Settle, Sync};
use crate::target::{Counter, Driver, Found, Target, Worker};

/// The type of strings, as the server has it.
const STRING: u8 = 0;
/// A type that the server gives to none of its own.
const COLLECTION: u8 = 15;

/// How many keys of different slots one transaction reads.
const MULTI_GET_KEYS: usize = 64;

/// How keys lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Layout {
    Keys,
    Ordered,
}

/// A store that is open, with its background threads.
pub struct EngineTarget {
    engine: Arc<Engine>,
    background: Mutex<Option<Background>>,
    dir: PathBuf,
    options: Options,
    layout: Layout,
}

impl EngineTarget {
    /// Opens or makes a store in a folder.
    ///
    /// # Errors
    /// If the configuration or the folder is not as it should be.
    pub fn open(fs: Arc<dyn Fs>, dir: &Path, mut config: Config, plan: &Plan) -> Result<EngineTarget> {
        let defaults = Options::default();
        let mut options = Options {
            memory_bytes: config.size("memory", defaults.memory_bytes)?,
            block_bytes: config.size("block", defaults.block_bytes)?,
            compress: config.switch("compress", defaults.compress)?,
            sync: mode(plan.sync),
            ..defaults
        };
        let segment_bytes = usize::try_from(options.log_segment_bytes).unwrap_or(usize::MAX);
        options.log_segment_bytes = config.size("segment", segment_bytes)? as u64;
        let wanted = if plan.ordered { "ordered" } else { "keys" };
        let layout = match config.text("layout", wanted).as_str() {
            "keys" if plan.ordered => {
                return Err(Error::Usage(
                    "layout=keys has no order by bytes, and this chain has ranges".into(),
                ));
            }
            "keys" => Layout::Keys,
            "ordered" => Layout::Ordered,
            other => return Err(Error::Usage(format!("layout={other}: keys or ordered"))),
        };
        config.all_used()?;
        let clock = Arc::new(SystemClock::new());
        let (engine, _) = Engine::open(fs, dir, clock, options.clone())?;
        engine.add_slots(&Slot::all().collect::<Vec<_>>())?;
        let engine = Arc::new(engine);
        let background = Mutex::new(Some(Background::start(&engine)?));
        Ok(EngineTarget { engine, background, dir: dir.to_owned(), options, layout })
    }
}

fn mode(sync: Sync) -> SyncMode {
    match sync {
        Sync::None => SyncMode::No,
        Sync::Everysec => SyncMode::EverySec,
        Sync::Always => SyncMode::Always,
    }
}

impl Target for EngineTarget {
    fn name(&self) -> String {
        format!("haypile {}", env!("CARGO_PKG_VERSION"))
    }

    fn configuration(&self) -> Vec<(String, String)> {
        let layout = match self.layout {
            Layout::Keys => "keys",
            Layout::Ordered => "ordered",
        };
        [
            ("layout", layout.to_owned()),
            ("memory", self.options.memory_bytes.to_string()),
            ("segment", self.options.log_segment_bytes.to_string()),
            ("block", self.options.block_bytes.to_string()),
            ("compress", if self.options.compress { "yes" } else { "no" }.to_owned()),
            ("sync", format!("{:?}", self.engine.sync_mode()).to_lowercase()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    fn driver(&self, plan: &Plan, _: usize) -> Result<Box<dyn Driver + '_>> {
        let tasks = Tasks::new();
        let engine = &*self.engine;
        Ok(match self.layout {
            Layout::Keys => Box::new(KeysWorker { engine, tasks }),
            Layout::Ordered => Box::new(OrderedWorker::new(engine, tasks, plan)?),
        })
    }

    fn set_sync(&self, sync: Sync) -> Result<()> {
        self.engine.set_sync_mode(mode(sync));
        Ok(())
    }

    fn settle(&self, settle: Settle) -> Result<()> {
        if settle == Settle::None {
            return Ok(());
        }
        // What is left is done here, one step after the other, with the threads stopped: nothing is done twice.
        let mut background = self.background.lock().expect("no code panics under this lock");
        drop(background.take());
        if settle == Settle::Flush {
            self.engine.flush_all()?;
        }
        while self.engine.step(Job::Flush)? || self.engine.step(Job::Compact)? {}
        *background = Some(Background::start(&self.engine)?);
        Ok(())
    }

    fn counters(&self) -> Vec<Counter> {
        let stats = self.engine.stats();
        let ms = |took: Duration| u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let (stall_ms, slowed_ms) = (ms(stats.stalled), ms(stats.slowed_for));
        vec![
            Counter::total("log_write_bytes", stats.log_write_bytes),
            Counter::total("flush_write_bytes", stats.flush_write_bytes),
            Counter::total("compaction_write_bytes", stats.compaction_write_bytes),
            Counter::total("cache_hits", stats.cache_hits),
            Counter::total("cache_misses", stats.cache_misses),
            Counter::total("stalls", stats.stalls),
            Counter::total("stall_ms", stall_ms),
            Counter::total("slowed", stats.slowed),
            Counter::total("slowed_ms", slowed_ms),
            Counter::total("held", stats.held),
            Counter::total("held_ms", ms(stats.held_for)),
            Counter::level("stall_worst_ms", stats.stalled_worst.as_secs_f64() * 1e3),
            Counter::level("slowed_worst_ms", stats.slowed_worst.as_secs_f64() * 1e3),
            Counter::level("log_write_worst_ms", stats.slow_log_write_worst.as_secs_f64() * 1e3),
            Counter::total("log_segment_waits", stats.segments_waited_for),
            Counter::level("memtable_bytes", self.engine.memtable_bytes() as f64),
        ]
    }

    fn folder(&self) -> Option<PathBuf> {
        Some(self.dir.clone())
    }

    fn process(&self) -> Option<u32> {
        Some(std::process::id())
    }

    fn memory_budget(&self) -> Option<u64> {
        Some(self.options.memory_bytes as u64)
    }

    fn close(self: Box<Self>) -> Result<()> {
        drop(self.background.lock().expect("no code panics under this lock").take());
        Ok(self.engine.close()?)
    }
}

/// Waits for futures on this thread.
struct Tasks(Waker);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Tasks {
    fn new() -> Tasks {
        Tasks(Waker::from(Arc::new(Unpark(std::thread::current()))))
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let mut cx = Context::from_waker(&self.0);
        loop {
            match future.as_mut().poll(&mut cx) {
                Poll::Ready(value) => return value,
                Poll::Pending => std::thread::park(),
            }
        }
    }
}

/// Runs a command: again and again with the blocks that it lacked.
fn run<T>(
    engine: &Engine,
    slots: &[Slot],
    mut command: impl FnMut(&mut Tx<'_>) -> Read<T>,
) -> Result<(T, Gate)> {
    let mut fetched = Fetched::default();
    loop {
        let wanted = {
            let mut tx = engine.begin(slots, &fetched);
            match command(&mut tx) {
                Ok(value) => return Ok((value, tx.commit()?)),
                Err(Stop::Failed(error)) => return Err(error.into()),
                Err(Stop::Miss) => tx.abandon(),
            }
        };
        engine.fetch(wanted, &mut fetched)?;
    }
}

/// Runs a command that writes, and waits until its write is answered.
fn write<T>(
    engine: &Engine,
    tasks: &Tasks,
    slots: &[Slot],
    command: impl FnMut(&mut Tx<'_>) -> Read<T>,
) -> Result<T> {
    if engine.crowd().is_some() {
        tasks.wait(engine.room())?;
    }
    let (value, gate) = run(engine, slots, command)?;
    engine.settle(gate)?;
    Ok(value)
}

/// The slots of some keys, ascending, none twice.
fn slots_of(keys: &[Key]) -> Vec<Slot> {
    let mut slots: Vec<Slot> = keys.iter().map(Key::slot).collect();
    slots.sort_unstable();
    slots.dedup();
    slots
}

/// A string, where its bytes lie.
fn string(payload: &[u8]) -> Value<&[u8]> {
    Value { kind: STRING, encoding: 0, expiry: None, generation: None, payload }
}

/// A value that was found, where it lies.
fn one(value: &[u8]) -> Found {
    Found::one(black_box(value).len())
}

/// Each key is a user's key.
struct KeysWorker<'e> {
    engine: &'e Engine,
    tasks: Tasks,
}

impl Worker for KeysWorker<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let key = Key::new(key);
        write(self.engine, &self.tasks, &[key.slot()], |tx| tx.put(&key, &string(value)))
    }

    fn get(&mut self, key: &[u8]) -> Result<Found> {
        let key = Key::new(key);
        let (found, _) = run(self.engine, &[key.slot()], |tx| tx.read(&key, |value| one(value.payload)))?;
        Ok(found.unwrap_or(Found::NOTHING))
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        let key = Key::new(key);
        write(self.engine, &self.tasks, &[key.slot()], |tx| tx.delete(&key)).map(drop)
    }

    fn batch(&mut self, pairs: PairList<'_>) -> Result<()> {
        let keys: Vec<Key> = pairs.iter().map(|(key, _)| Key::new(key)).collect();
        write(self.engine, &self.tasks, &slots_of(&keys), |tx| {
            keys.iter().zip(pairs.iter()).try_for_each(|(key, (_, value))| tx.put(key, &string(value)))
        })
    }

    fn multi_get(&mut self, keys: KeyList<'_>) -> Result<Found> {
        let mut all = Found::NOTHING;
        let keys: Vec<Key> = keys.iter().map(Key::new).collect();
        for keys in keys.chunks(MULTI_GET_KEYS) {
            let (found, _) = run(self.engine, &slots_of(keys), |tx| {
                let mut found = Found::NOTHING;
                for key in keys {
                    tx.read(key, |value| found.add(black_box(value.payload).len()))?;
                }
                Ok(found)
            })?;
            all.entries += found.entries;
            all.bytes += found.bytes;
        }
        Ok(all)
    }

    fn scan(&mut self, _: &[u8], _: usize) -> Result<Found> {
        Err(Error::target("scan", "layout=keys has no order by bytes"))
    }

    fn walk(&mut self, _: usize) -> Result<Found> {
        Err(Error::target("walk", "layout=keys has no order by bytes"))
    }
}

/// One slot's collection.
struct Collection {
    key: Key,
    generation: Generation,
    tag: Vec<u8>,
}

/// Each key is an element of its slot's collection.
struct OrderedWorker<'e> {
    engine: &'e Engine,
    tasks: Tasks,
    /// Ascending by tag; one without a tag if keys have none.
    collections: Vec<Collection>,
    /// Where the next walk goes on.
    walk: (usize, Vec<u8>),
}

impl<'e> OrderedWorker<'e> {
    /// Finds the collections, making them if they are not there.
    fn new(engine: &'e Engine, tasks: Tasks, plan: &Plan) -> Result<OrderedWorker<'e>> {
        let keys = Keys::new(plan.key_bytes, plan.keys, plan.slots, true)?;
        let open = |tag: &[u8]| -> Result<Collection> {
            let key = Key::new(tag);
            let generation = write(engine, &tasks, &[key.slot()], |tx| {
                if let Some(Value { generation: Some(generation), .. }) = tx.get(&key)? {
                    return Ok(generation);
                }
                let generation = tx.next_generation(&key);
                let mut meta = Value::whole(COLLECTION, 0, Vec::new());
                meta.generation = Some(generation);
                tx.put(&key, &meta)?;
                Ok(generation)
            })?;
            Ok(Collection { key, generation, tag: tag.to_vec() })
        };
        let collections = keys.tags().iter().map(|tag| open(tag)).collect::<Result<_>>()?;
        Ok(OrderedWorker { engine, tasks, collections, walk: (0, Vec::new()) })
    }

    fn place(&self, key: &[u8]) -> usize {
        self.collections.partition_point(|collection| &collection.tag[..] <= key).saturating_sub(1)
    }

    fn of(&self, key: &[u8]) -> &Collection {
        &self.collections[self.place(key)]
    }

    /// Counts up to `limit` entries of one collection where they lie. If they are so many, `last` is the last one's key.
    fn page(
        &self,
        place: usize,
        from: Bound<&[u8]>,
        limit: u64,
        found: &mut Found,
        mut last: Option<&mut Vec<u8>>,
    ) -> Result<()> {
        let at = &self.collections[place];
        let (page, _) = run(self.engine, &[at.key.slot()], |tx| {
            let mut page = Found::NOTHING;
            let mut visit = |key: &[u8], value: &[u8]| {
                page.add(key.len() + black_box(value).len());
                let more = page.entries < limit;
                if !more && let Some(last) = last.as_deref_mut() {
                    last.clear();
                    last.extend_from_slice(key);
                }
                more
            };
            let range = (from, Bound::Unbounded);
            tx.read_elements(&at.key, at.generation, range, Direction::Forward, &mut visit)?;
            Ok(page)
        })?;
        found.entries += page.entries;
        found.bytes += page.bytes;
        Ok(())
    }
}

impl Worker for OrderedWorker<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let at = self.of(key);
        write(self.engine, &self.tasks, &[at.key.slot()], |tx| {
            tx.put_element(&at.key, at.generation, key, value);
            Ok(())
        })
    }

    fn get(&mut self, key: &[u8]) -> Result<Found> {
        let at = self.of(key);
        let (found, _) =
            run(self.engine, &[at.key.slot()], |tx| tx.read_element(&at.key, at.generation, key, one))?;
        Ok(found.unwrap_or(Found::NOTHING))
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        let at = self.of(key);
        write(self.engine, &self.tasks, &[at.key.slot()], |tx| {
            tx.delete_element(&at.key, at.generation, key);
            Ok(())
        })
    }

    fn batch(&mut self, pairs: PairList<'_>) -> Result<()> {
        let mut slots: Vec<Slot> = pairs.iter().map(|(key, _)| self.of(key).key.slot()).collect();
        slots.sort_unstable();
        slots.dedup();
        write(self.engine, &self.tasks, &slots, |tx| {
            for (key, value) in pairs.iter() {
                let at = self.of(key);
                tx.put_element(&at.key, at.generation, key, value);
            }
            Ok(())
        })
    }

    fn scan(&mut self, from: &[u8], entries: usize) -> Result<Found> {
        let mut found = Found::NOTHING;
        let mut start = from;
        for place in self.place(from)..self.collections.len() {
            let left = (entries as u64).saturating_sub(found.entries);
            if left == 0 {
                break;
            }
            self.page(place, Bound::Included(start), left, &mut found, None)?;
            start = b"";
        }
        Ok(found)
    }

    fn walk(&mut self, entries: usize) -> Result<Found> {
        let mut found = Found::NOTHING;
        // The whole store may hold fewer: then once around is all.
        let mut wraps = 0;
        while found.entries < entries as u64 && wraps < 2 {
            let (place, after) = &self.walk;
            let left = entries as u64 - found.entries;
            let mut last = Vec::new();
            self.page(*place, Bound::Excluded(after), left, &mut found, Some(&mut last))?;
            let full = found.entries == entries as u64;
            self.walk = match *place + 1 {
                _ if full => (*place, last),
                next if next < self.collections.len() => (next, Vec::new()),
                _ => {
                    wraps += 1;
                    (0, Vec::new())
                }
            };
        }
        Ok(found)
    }
}
