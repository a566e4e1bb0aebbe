//! An engine under a seeded workload, beside a model of what it promised.
//!
//! Every commit leaves a number in its slot, so that a recovered slot says itself which state it is in. The model keeps,
//! for each slot, all states since the last one that is promised; after a crash the slot must be in one of them, in
//! all respects: no hole, no half record, no half group.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use haypile_engine::background::Job;
use haypile_engine::clock::{Clock, TimeMs};
use haypile_engine::engine::{Engine, Fetched, Options};
use haypile_engine::error::{Error, Result};
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::key::Key;
use haypile_engine::slot::Role;
use haypile_engine::tx::{Read, Stop, Tx};
use haypile_engine::types::Slot;
use haypile_engine::value::Value;

use haypile_engine::random::Coin;

/// How many slots the workload uses.
const SLOTS: usize = 4;
/// How many keys in each.
const KEYS: usize = 6;
/// The longest value, in bytes.
const VALUE_BYTES_MAX: usize = 2000;
/// The key that holds the number of the slot's last commit.
const NUMBER: usize = KEYS;

/// A clock that goes on by itself, by the same steps in every run.
#[derive(Debug, Default)]
pub struct SteadyClock(AtomicU64);

impl Clock for SteadyClock {
    fn wall(&self) -> TimeMs {
        TimeMs(1_700_000_000_000 + self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// A clock that stands still.
#[derive(Debug)]
pub struct StillClock;

impl Clock for StillClock {
    fn wall(&self) -> TimeMs {
        TimeMs(1_700_000_000_000)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(60)
    }
}

/// What a slot holds: the value of each key. `None` if the slot is not there.
type State = Option<BTreeMap<usize, Bytes>>;

/// A slot's states since the last promised one, with the number of the atomic group that led to each, if one did.
#[derive(Clone, Debug)]
struct Past {
    states: Vec<(State, Option<u64>)>,
    /// How many of the states are written at least: what a kill leaves.
    written: usize,
}

impl Past {
    fn last(&self) -> &State {
        &self.states.last().expect("a slot is always in some state").0
    }

    /// From here on only the newest state is allowed.
    fn settle(&mut self) {
        self.states.drain(..self.states.len() - 1);
        self.written = 0;
    }
}

/// How the machine stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stopped {
    /// The process was killed: the operating system keeps what was written.
    Killed,
    /// Power was lost: what was not synced may be gone.
    PowerLost,
}

/// The model.
#[derive(Clone, Debug)]
pub struct Model {
    slots: Vec<Past>,
    groups: u64,
    commits: u64,
}

impl Default for Model {
    fn default() -> Model {
        Model { slots: vec![Past { states: vec![(None, None)], written: 0 }; SLOTS], groups: 0, commits: 0 }
    }
}

fn slot(index: usize) -> Slot {
    const NUMBERS: [u16; SLOTS] = [0, 1, 511, 1023];
    Slot::new(NUMBERS[index]).expect("below 1024")
}

/// A key of a slot: the first name with the wanted hash tag.
fn key(index: usize, number: usize) -> Key {
    let tag = (0_u32..)
        .find(|tag| Slot::of_key(tag.to_string().as_bytes()) == slot(index))
        .expect("every slot has a tag");
    Key::new(format!("k{number}{{{tag}}}").as_bytes())
}

/// Opens the engine of the workload.
///
/// # Errors
/// As [`Engine::open`].
pub fn open(fs: &MemoryFs, seed: u64) -> Result<Engine> {
    let options = Options {
        memory_bytes: 1 << 20,
        log_segment_bytes: 64 << 10,
        seed: Some(seed),
        ..Options::default()
    };
    let dir = Path::new("/haypile");
    Engine::open(Arc::new(fs.clone()), dir, Arc::new(SteadyClock::default()), options)
        .map(|(engine, _)| engine)
}

/// Runs `work` on locked slots, again after each miss, and commits.
///
/// # Errors
/// What the engine meets.
pub fn transact<T>(
    engine: &Engine,
    slots: &[Slot],
    mut work: impl FnMut(&mut Tx<'_>) -> Read<T>,
) -> Result<T> {
    let mut fetched = Fetched::default();
    loop {
        let wanted = {
            let mut tx = engine.begin(slots, &fetched);
            match work(&mut tx) {
                Ok(answer) => return tx.commit().map(|_| answer),
                Err(Stop::Miss) => tx.abandon(),
                Err(Stop::Failed(error)) => return Err(error),
            }
        };
        engine.fetch(wanted, &mut fetched)?;
    }
}

/// One step of the workload.
#[derive(Debug)]
enum Step {
    /// Puts and deletes in some slots, as one transaction.
    Commit(Vec<(usize, Vec<Change>)>),
    Write,
    Sync,
    Flush(Vec<usize>),
    Background(Job),
    Add(Vec<usize>),
    Remove(usize),
}

#[derive(Debug)]
enum Change {
    Put(usize, Bytes),
    Delete(usize),
    Clear,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = |slots: &[usize]| {
            slots.iter().map(|index| slot(*index).to_string()).collect::<Vec<_>>().join(",")
        };
        match self {
            Step::Commit(parts) => {
                let slots: Vec<usize> = parts.iter().map(|(index, _)| *index).collect();
                write!(f, "commit in slots {}", all(&slots))
            }
            Step::Write => f.write_str("write"),
            Step::Sync => f.write_str("sync"),
            Step::Flush(slots) => write!(f, "flush slots {}", all(slots)),
            Step::Background(job) => write!(f, "{job:?}"),
            Step::Add(slots) => write!(f, "add slots {}", all(slots)),
            Step::Remove(index) => write!(f, "remove slot {}", slot(*index)),
        }
    }
}

impl Model {
    /// Does `steps` steps chosen by the coin. Stops at the first error that ends all acknowledgement, or that says
    /// that the machine has stopped; any other leaves the model as it was.
    ///
    /// # Errors
    /// The error that it stopped at.
    pub fn run(&mut self, engine: &Engine, coin: &mut Coin, steps: usize) -> Result<()> {
        for _ in 0..steps {
            let step = self.choose(coin);
            let told = step.to_string();
            let done = self.step(engine, step);
            // Shown by the test runner if the test fails.
            println!(
                "  {told}{}",
                done.as_ref().map_or_else(|error| format!(": {error}"), |()| String::new())
            );
            if let Err(error @ (Error::Poisoned(_) | Error::Corrupt { .. })) = done {
                return Err(error);
            }
        }
        Ok(())
    }

    /// From here on only the newest state of each slot is allowed.
    pub fn settle(&mut self) {
        self.slots.iter_mut().for_each(Past::settle);
    }

    fn present(&self) -> Vec<usize> {
        (0..SLOTS).filter(|&index| self.slots[index].last().is_some()).collect()
    }

    fn choose(&mut self, coin: &mut Coin) -> Step {
        let present = self.present();
        if present.len() < SLOTS && coin.chance(1, 3) || present.is_empty() {
            return Step::Add((0..SLOTS).filter(|index| !present.contains(index)).collect());
        }
        let one = present[coin.below(present.len())];
        match coin.below(24) {
            0 | 1 => Step::Write,
            2 | 3 => Step::Sync,
            4 => Step::Flush(vec![one]),
            5 => Step::Flush(present),
            6 => Step::Background(Job::Compact),
            7 => Step::Background(Job::Prepare),
            8 => Step::Background(Job::Flush),
            9 if coin.chance(1, 3) => Step::Remove(one),
            10..=12 => Step::Commit(present.into_iter().map(|index| (index, changes(coin))).collect()),
            _ => Step::Commit(vec![(one, changes(coin))]),
        }
    }

    fn step(&mut self, engine: &Engine, step: Step) -> Result<()> {
        match step {
            Step::Commit(parts) => self.commit(engine, &parts)?,
            Step::Write => {
                engine.write()?;
                self.slots.iter_mut().for_each(|past| past.written = past.states.len() - 1);
            }
            Step::Sync => {
                engine.write()?;
                engine.step(Job::Sync)?;
                self.slots.iter_mut().for_each(Past::settle);
            }
            Step::Flush(slots) => engine.flush(&slots.into_iter().map(slot).collect::<Vec<_>>())?,
            Step::Background(job) => engine.step(job).map(drop)?,
            Step::Add(slots) => {
                let before = self.clone();
                slots.iter().for_each(|&index| self.slots[index].states.push((Some(BTreeMap::new()), None)));
                let numbers: Vec<_> = slots.iter().map(|&index| slot(index)).collect();
                engine.add_slots(&numbers).inspect_err(|error| self.undo(before, error))?;
                slots.iter().for_each(|&index| self.slots[index].settle());
            }
            Step::Remove(index) => {
                let before = self.clone();
                self.slots[index].states.push((None, None));
                engine.remove_slots(&[slot(index)]).inspect_err(|error| self.undo(before, error))?;
                self.slots[index].settle();
            }
        }
        Ok(())
    }

    /// After an error that leaves the outcome open, both the old and the new state are allowed; else the old.
    fn undo(&mut self, before: Model, error: &Error) {
        if !matches!(error, Error::Poisoned(_) | Error::Io { .. }) {
            *self = before;
        }
    }

    fn commit(&mut self, engine: &Engine, parts: &[(usize, Vec<Change>)]) -> Result<()> {
        self.commits += 1;
        let number = Bytes::from(self.commits.to_string());
        let mut after: Vec<(usize, BTreeMap<usize, Bytes>)> = Vec::new();
        for (index, changes) in parts {
            let mut state = self.slots[*index].last().clone().expect("only slots that are there are written");
            for change in changes {
                match change {
                    Change::Put(key, value) => _ = state.insert(*key, value.clone()),
                    Change::Delete(key) => _ = state.remove(key),
                    Change::Clear => state.clear(),
                }
            }
            state.insert(NUMBER, number.clone());
            after.push((*index, state));
        }
        let slots: Vec<Slot> = parts.iter().map(|(index, _)| slot(*index)).collect();
        transact(engine, &slots, |tx| {
            for (index, changes) in parts {
                for change in changes {
                    match change {
                        Change::Put(name, value) => {
                            tx.put(&key(*index, *name), &Value::whole(0, 0, value.clone()))?
                        }
                        Change::Delete(name) => _ = tx.delete(&key(*index, *name))?,
                        Change::Clear => tx.clear(slot(*index)),
                    }
                }
                tx.put(&key(*index, NUMBER), &Value::whole(0, 0, number.clone()))?;
            }
            Ok(())
        })?;
        let group = (parts.len() > 1).then(|| {
            self.groups += 1;
            self.groups
        });
        for (index, state) in after {
            self.slots[index].states.push((Some(state), group));
        }
        Ok(())
    }

    /// Checks an engine that was opened after a stop, and takes what it holds as the new truth.
    ///
    /// # Panics
    /// If a promise is broken, with what was found.
    pub fn check_recovered(&mut self, engine: &Engine, stopped: Stopped) {
        let mut at = Vec::new();
        for index in 0..SLOTS {
            let found = read(engine, index);
            let past = &self.slots[index];
            let place = past.states.iter().rposition(|(state, _)| *state == found);
            let Some(place) = place else {
                panic!("slot {} is in a state that it never had: {}", slot(index), show(&found));
            };
            if stopped == Stopped::Killed {
                assert!(
                    place >= past.written,
                    "slot {} lost what was written: state {place}, {} were written, of {}",
                    slot(index),
                    past.written,
                    past.states.len() - 1
                );
            }
            at.push(place);
        }
        self.check_groups(&at);
        for (past, place) in self.slots.iter_mut().zip(at) {
            past.states.truncate(place + 1);
            past.settle();
        }
        let keys: usize = self.slots.iter().filter_map(|past| past.last().as_ref()).map(BTreeMap::len).sum();
        assert_eq!(engine.key_count(), keys as u64, "the count of keys");
    }

    /// An atomic group is in all its slots or in none. A slot that was removed or added since tells nothing of it.
    fn check_groups(&self, at: &[usize]) {
        let mut seen: BTreeMap<u64, Vec<(usize, bool)>> = BTreeMap::new();
        for (index, (past, &place)) in self.slots.iter().zip(at).enumerate() {
            let lives =
                |from: usize, to: usize| past.states[from..=to].iter().all(|(state, _)| state.is_some());
            for (number, (_, group)) in past.states.iter().enumerate().skip(1) {
                if let Some(group) = group
                    && lives(number.min(place), number.max(place))
                {
                    seen.entry(*group).or_default().push((index, number <= place));
                }
            }
        }
        for (group, slots) in seen {
            let kept = slots.iter().filter(|(_, kept)| *kept).count();
            assert!(kept == 0 || kept == slots.len(), "group {group} is half there: {slots:?}");
        }
    }
}

fn changes(coin: &mut Coin) -> Vec<Change> {
    let mut out = Vec::new();
    for _ in 0..coin.below(3) + 1 {
        let name = coin.below(KEYS);
        out.push(match coin.below(20) {
            0 => Change::Clear,
            1..=4 => Change::Delete(name),
            _ => {
                let byte = u8::try_from(coin.below(256)).expect("a byte");
                Change::Put(name, Bytes::from(vec![byte; coin.below(VALUE_BYTES_MAX)]))
            }
        });
    }
    out
}

/// All that a slot holds, read through the engine.
fn read(engine: &Engine, index: usize) -> State {
    let names: BTreeMap<Vec<u8>, usize> =
        (0..=KEYS).map(|number| (key(index, number).user().to_vec(), number)).collect();
    let state = transact(engine, &[slot(index)], |tx| {
        if *tx.role(slot(index)) == Role::Absent {
            return Ok(None);
        }
        let (keys, rest) = tx.keys(slot(index), 0, usize::MAX)?;
        assert!(rest.is_none(), "a walk without a limit ends");
        let mut state = BTreeMap::new();
        for (user, value) in keys {
            let name = *names.get(&user[..]).unwrap_or_else(|| panic!("a key that nobody wrote: {user:?}"));
            let single = tx.get(&key(index, name))?.map(|value| value.payload);
            assert_eq!(single.as_ref(), Some(&value.payload), "a key read alone and in a walk");
            state.insert(name, value.payload);
        }
        for name in (0..=KEYS).filter(|name| !state.contains_key(name)) {
            assert!(tx.get(&key(index, name))?.is_none(), "a key that a walk does not see");
        }
        Ok(Some(state))
    });
    state.unwrap_or_else(|error| panic!("slot {} can't be read: {error}", slot(index)))
}

fn show(state: &State) -> String {
    let Some(state) = state else { return "absent".to_owned() };
    let entry = |(key, value): (&usize, &Bytes)| match *key {
        NUMBER => format!("number {}", String::from_utf8_lossy(value)),
        _ => format!("k{key} = {} bytes of {:?}", value.len(), value.first()),
    };
    state.iter().map(entry).collect::<Vec<_>>().join(", ")
}
