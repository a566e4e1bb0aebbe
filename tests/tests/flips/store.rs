//! A small store with everything in it, the states that it went through, and reading all of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use haypile_engine::background::Job;
use haypile_engine::engine::{Engine, Options};
use haypile_engine::error::Result;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::key::Key;
use haypile_engine::log::{ReadOutcome, records};
use haypile_engine::random::Coin;
use haypile_engine::simulation::SimClock;
use haypile_engine::slot::Role;
use haypile_engine::types::{Lsn, NodeId, Seq, Slot};
use haypile_engine::value::Value;
use haypile_tests::store::{self, transact};

/// The store's folder.
pub const DIR: &str = "/haypile";
/// The slots that are in use, ascending.
const SLOTS: [u16; 4] = [0, 1, 511, 1023];
/// Names of keys in each.
const KEYS: usize = 8;

/// What all slots hold: by slot, then by key. A slot that is not there is missing.
pub type Content = BTreeMap<u16, BTreeMap<usize, Bytes>>;

/// How a store was left behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stopped {
    /// In order.
    Cleanly,
    /// Killed, with everything written and a part of it synced.
    Killed,
    /// As killed, and the power went too; by seed.
    PowerLost(u64),
}

/// A store that nobody has open.
pub struct Left {
    /// Its files.
    pub fs: MemoryFs,
    /// What it held after each group commit, with the log's end then; the last is what it should hold.
    pub states: Vec<(Lsn, Content)>,
}

/// Opens the store.
pub fn open(fs: &MemoryFs) -> Result<Engine> {
    open_with(fs, 1 << 20)
}

/// Opens the store with so little memory that everything is read from its files again and again.
pub fn open_without_caches(fs: &MemoryFs) -> Result<Engine> {
    open_with(fs, 0)
}

fn open_with(fs: &MemoryFs, memory_bytes: usize) -> Result<Engine> {
    let options = Options {
        memory_bytes,
        log_segment_bytes: 64 << 10,
        block_bytes: 256,
        seed: Some(5),
        ..Options::default()
    };
    Engine::open(Arc::new(fs.clone()), Path::new(DIR), Arc::new(SimClock::at(60_000)), options)
        .map(|(engine, _)| engine)
}

fn slots() -> impl Iterator<Item = Slot> {
    SLOTS.into_iter().map(|number| Slot::new(number).expect("below 1024"))
}

fn key(slot: Slot, number: usize) -> Key {
    store::key(slot, &format!("k{number}"))
}

/// The engine while the store is made.
struct Builder {
    engine: Engine,
    coin: Coin,
    states: Vec<(Lsn, Content)>,
}

impl Builder {
    /// Puts into some slots as one transaction, written as one frame.
    fn commit(&mut self, parts: &[Slot], bytes_max: usize) {
        let mut state = self.states.last().map(|(_, state)| state.clone()).unwrap_or_default();
        let mut puts = Vec::new();
        for slot in parts {
            for _ in 0..=self.coin.below(2) {
                let (number, len) = (self.coin.below(KEYS), self.coin.below(bytes_max) + 1);
                // Half of the values are noise, so that some blocks are stored as they are.
                let fill = self.coin.next_u64();
                let mut noise = Coin::new(fill);
                let bytes: Vec<u8> = match self.coin.chance(1, 2) {
                    true => (0..len).map(|_| noise.next_u64().to_le_bytes()[0]).collect(),
                    false => vec![fill.to_le_bytes()[0]; len],
                };
                puts.push((*slot, number, Bytes::from(bytes)));
            }
        }
        transact(&self.engine, parts, |tx| {
            for (slot, number, bytes) in &puts {
                tx.put(&key(*slot, *number), &Value::whole(0, 0, bytes.clone()))?;
            }
            Ok(())
        })
        .expect("commits");
        self.engine.write().expect("writes");
        for (slot, number, bytes) in puts {
            state.entry(slot.number()).or_default().insert(number, bytes);
        }
        self.states.push((self.engine.log_end(), state));
    }

    fn commits(&mut self, count: usize, bytes_max: usize) {
        let all: Vec<Slot> = slots().collect();
        for _ in 0..count {
            let one = self.coin.below(all.len());
            let parts = if self.coin.chance(1, 4) { &all[..] } else { &all[one..=one] };
            self.commit(parts, bytes_max);
        }
    }

    fn step(&self, job: Job) {
        self.engine.step(job).expect("works");
    }
}

/// Makes the store: log segments sealed and open, with a frame that spans two of them, and a spare one; packs of many
/// slots and of one, from flushes and a compaction; a manifest with edits of each kind; then leaves it behind.
pub fn make(stopped: Stopped, seed: u64) -> Left {
    let fs = MemoryFs::new();
    let engine = open(&fs).expect("opens");
    let all: Vec<Slot> = slots().collect();
    engine.add_slots(&all).expect("adds");
    let empty: Content = SLOTS.into_iter().map(|slot| (slot, BTreeMap::new())).collect();
    let mut builder = Builder { states: vec![(engine.log_end(), empty)], coin: Coin::new(seed), engine };
    // A replica that has nothing yet keeps the log, so that what is flushed stays in it too.
    let replica = NodeId([9; 20]);
    builder.engine.register_replica(replica, "127.0.0.1:7000");
    builder.engine.pin(replica, all[1], Seq::ZERO);
    for _ in 0..5 {
        builder.commits(6, 500);
        builder.engine.flush(&all).expect("flushes");
    }
    builder.step(Job::Compact);
    builder.step(Job::Flush);
    let gone = Slot::new(7).expect("below 1024");
    builder.engine.add_slots(&[gone]).expect("adds");
    builder.engine.remove_slots(&[gone]).expect("removes");
    builder.engine.flush(&all[..1]).expect("flushes");
    // Larger than what is left of the segment.
    builder.commit(&all[2..3], 1);
    builder.commit_large(all[3], 40 << 10);
    builder.commits(4, 300);
    if stopped == Stopped::Cleanly {
        builder.engine.close().expect("stops");
        return Left { fs: fs.restart(), states: builder.states };
    }
    builder.engine.flush(&all[..2]).expect("flushes");
    builder.commits(4, 300);
    builder.step(Job::Sync);
    builder.step(Job::Prepare);
    // From here on nothing is promised; the first of these frames promises all before.
    builder.commits(4, 300);
    let left = match stopped {
        Stopped::PowerLost(seed) => fs.crash(seed),
        _ => fs.restart(),
    };
    Left { fs: left, states: builder.states }
}

impl Builder {
    fn commit_large(&mut self, slot: Slot, len: usize) {
        let mut state = self.states.last().map(|(_, state)| state.clone()).unwrap_or_default();
        let bytes = Bytes::from(vec![b'L'; len]);
        transact(&self.engine, &[slot], |tx| tx.put(&key(slot, 0), &Value::whole(0, 0, bytes.clone())))
            .expect("commits");
        self.engine.write().expect("writes");
        state.entry(slot.number()).or_default().insert(0, bytes);
        self.states.push((self.engine.log_end(), state));
    }
}

/// Everything that can be read: each key in a walk and alone, every record of the log.
///
/// # Panics
/// If two ways of reading the same differ.
pub fn read_all(engine: &Engine) -> Result<Content> {
    let mut content = Content::new();
    for slot in Slot::all().filter(|slot| engine.role(*slot) != Role::Absent) {
        assert_eq!(engine.role(slot), Role::Master, "slot {slot}");
        let (keys, rest) = transact(engine, &[slot], |tx| tx.keys(slot, 0, usize::MAX))?;
        assert!(rest.is_none(), "a walk without a limit ends");
        let mut held = BTreeMap::new();
        for number in 0..KEYS {
            let key = key(slot, number);
            let alone = transact(engine, &[slot], |tx| tx.get(&key))?;
            let walked = keys.iter().find(|(user, _)| user[..] == *key.user()).map(|(_, value)| value);
            assert_eq!(alone.as_ref(), walked, "slot {slot} k{number}: read alone and in a walk");
            if let Some(value) = alone {
                held.insert(number, value.payload);
            }
        }
        assert_eq!(held.len(), keys.len(), "slot {slot} has keys that nobody wrote");
        content.insert(slot.number(), held);
    }
    read_log(engine)?;
    Ok(content)
}

fn read_log(engine: &Engine) -> Result<()> {
    let mut last: BTreeMap<Slot, Seq> = BTreeMap::new();
    let from = slots().filter_map(|slot| engine.locate(slot, Seq(1))).min().unwrap_or(Lsn::ZERO);
    let mut reader = engine.reader(from);
    loop {
        match reader.next() {
            ReadOutcome::Frame { records: frame, .. } => {
                for record in records(&frame) {
                    let record = record.expect("a frame that holds has records that hold");
                    if !record.body.is_history() {
                        continue;
                    }
                    let header = record.header;
                    let before = last.insert(header.slot, header.seq);
                    assert!(before.is_none_or(|seq| seq.next() == header.seq), "{header:?} after {before:?}");
                }
            }
            ReadOutcome::CaughtUp => return Ok(()),
            ReadOutcome::Corrupt(error) => return Err(error),
            ReadOutcome::Gone => panic!("the log is gone at {:?}", reader.position()),
        }
    }
}
