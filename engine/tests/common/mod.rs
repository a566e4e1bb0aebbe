//! What the engine's tests share: an engine on a simulated disk, and a small way to write and read.
#![allow(dead_code)] // each test file uses its part

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use haypile_engine::clock::{Clock, TimeMs};
use haypile_engine::copy::{CopySource, Load};
use haypile_engine::engine::{Engine, Opened, Options, SyncMode};
use haypile_engine::error::Result;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::key::Key;
use haypile_engine::read::Fetched;
use haypile_engine::tx::{Read, Stop, Tx};
use haypile_engine::types::Slot;
use haypile_engine::value::Value;

/// A clock that a test turns.
#[derive(Debug, Default)]
pub struct TestClock(AtomicU64);

impl TestClock {
    pub fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn wall(&self) -> TimeMs {
        TimeMs(1_000_000 + self.0.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

static SEEDS: AtomicU64 = AtomicU64::new(7);

/// Small segments and little memory, so that a few writes go through everything.
pub fn options() -> Options {
    Options {
        sync: SyncMode::Always,
        memory_bytes: 1 << 20,
        log_segment_bytes: 64 << 10,
        log_retain_bytes: 1 << 20,
        copy_durable_bytes: 2000,
        // Two nodes of one test are never the same node.
        seed: Some(SEEDS.fetch_add(1, Ordering::Relaxed)),
        ..Options::default()
    }
}

pub fn open(fs: &MemoryFs) -> Result<(Arc<Engine>, Opened)> {
    open_at(fs, Arc::new(TestClock::default()))
}

pub fn open_at(fs: &MemoryFs, clock: Arc<TestClock>) -> Result<(Arc<Engine>, Opened)> {
    let (engine, opened) = Engine::open(Arc::new(fs.clone()), Path::new("/haypile"), clock, options())?;
    Ok((Arc::new(engine), opened))
}

/// An engine that owns all slots.
pub fn fresh(fs: &MemoryFs) -> Arc<Engine> {
    let (engine, _) = open(fs).expect("a fresh folder opens");
    engine.add_slots(&Slot::all().collect::<Vec<_>>()).expect("slots are added");
    engine
}

/// Runs a command on one key as the server does: again after a miss.
pub fn run<T>(engine: &Engine, key: &Key, mut body: impl FnMut(&mut Tx<'_>) -> Read<T>) -> Result<T> {
    let mut fetched = Fetched::default();
    loop {
        let mut tx = engine.begin(&[key.slot()], &fetched);
        match body(&mut tx) {
            Ok(out) => {
                tx.commit()?;
                engine.write()?;
                return Ok(out);
            }
            Err(Stop::Miss) => {
                let wanted = tx.abandon();
                engine.fetch(wanted, &mut fetched)?;
            }
            Err(Stop::Failed(error)) => return Err(error),
        }
    }
}

pub fn set(engine: &Engine, name: &str, value: &str) -> Result<()> {
    let key = Key::new(name.as_bytes());
    let value = Value::whole(0, 0, Bytes::copy_from_slice(value.as_bytes()));
    run(engine, &key, |tx| tx.put(&key, &value))
}

pub fn del(engine: &Engine, name: &str) -> Result<bool> {
    let key = Key::new(name.as_bytes());
    run(engine, &key, |tx| tx.delete(&key))
}

pub fn get(engine: &Engine, name: &str) -> Option<String> {
    let key = Key::new(name.as_bytes());
    let value = run(engine, &key, |tx| tx.get(&key)).expect("a read that can be answered");
    value.map(|value| String::from_utf8(value.payload.to_vec()).expect("text"))
}

/// What a receiver has to know of a copy before its runs come.
pub fn load_of(slot: Slot, source: &CopySource) -> Load {
    Load {
        slot,
        history: source.history.clone(),
        base: source.seq,
        keys: source.keys,
        time: source.time,
        granted: source.granted.clone(),
        complete: false,
    }
}

/// The slot of a key.
pub fn slot_of(name: &str) -> Slot {
    Slot::of_key(name.as_bytes())
}
