//! The engine under one set of options: does the list's operations, and between them what nobody should notice.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use haypile_engine::background::Job;
use haypile_engine::checkpoint::Progress;
use haypile_engine::clock::{Clock, TimeMs};
use haypile_engine::copy::{CopySource, Load, part_id};
use haypile_engine::engine::{Engine, Options, SyncMode};
use haypile_engine::error::Error;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::key::{Generation, Key};
use haypile_engine::random::Coin;
use haypile_engine::read::Direction;
use haypile_engine::slot::Role;
use haypile_engine::tx::{Read, Tx};
use haypile_engine::types::{NodeId, Slot};
use haypile_engine::value::Value;
use haypile_tests::store::{self, transact};

use crate::list::{Answer, BEGINNING, Body, Change, Entry, KEYS, Model, Op, SLOTS, Shown, SlotState};

/// What nobody should notice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A group commit.
    Write,
    /// A step of background work.
    Work(Job),
    /// Slots go to files.
    Flush(Vec<usize>),
    /// A flush that finds the disk full: what it froze stays in memory, beneath what comes then.
    FlushInVain(Vec<usize>),
    /// A clean stop and a start.
    Restart,
    /// A kill after everything was written, and a start.
    Kill,
    /// A loss of power after everything was synced, by seed, and a start.
    PowerLoss(u64),
    /// A checkpoint of all slots, from which everything goes on: the store that it was taken of is left behind.
    Checkpoint,
    /// A walk over a slot's keys, begun earlier or now, goes on by so many keys. It outlives all other events.
    Walk(usize, usize),
    /// A copy of a slot is taken; what it holds is looked at later.
    Copy(usize),
    /// The copies that were taken are read on a node of their own.
    ReadCopies,
    /// A key vanishes behind the model's back: for the test that shows that this would be noticed.
    Lie(usize, usize),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Work(job) => write!(f, "* {job:?}"),
            Event::Flush(slots) => write!(f, "* flush {slots:?}"),
            Event::FlushInVain(slots) => write!(f, "* flush {slots:?} to a full disk"),
            Event::Walk(slot, limit) => write!(f, "* walk on in s{slot} by {limit}"),
            Event::Copy(slot) => write!(f, "* take a copy of s{slot}"),
            other => write!(f, "* {other:?}"),
        }
    }
}

/// The options of a run, and how often which event comes.
#[derive(Clone, Debug)]
pub struct Setting {
    options: Options,
    /// Events come before each operation in so many of 8 cases.
    events: usize,
}

impl Setting {
    /// The first run has large memory and no events; all others are as the coin says.
    pub fn choose(run: u64, coin: &mut Coin) -> Setting {
        let mut pick = |of: &[usize]| of[coin.below(of.len())];
        let options = Options {
            // A sixteenth is the log's tail, a quarter the cache: of the least, nothing is cached.
            memory_bytes: pick(&[512, 16 << 10, 128 << 10, 4 << 20]),
            log_segment_bytes: pick(&[64 << 10, 100 << 10, 1 << 20]) as u64,
            log_retain_bytes: pick(&[0, 128 << 10, 1 << 30]) as u64,
            block_bytes: pick(&[1, 64, 1000, 8 << 10]),
            compress: pick(&[0, 1]) == 1,
            // Most begin a new manifest file all the time.
            manifest_bytes: if run.is_multiple_of(3) { 1 << 20 } else { 256 },
            sync: [SyncMode::Always, SyncMode::EverySec, SyncMode::No][pick(&[0, 1, 2])],
            seed: Some(run),
            // Of no meaning but after a checkpoint.
            copy_durable_bytes: 10_000,
            own_copies: true,
            // Nobody follows.
            keep_owed: false,
        };
        let events = pick(&[1, 3, 6]);
        if run > 0 {
            return Setting { options, events };
        }
        let options = Options { seed: Some(0), log_segment_bytes: 4 << 20, ..Options::default() };
        Setting { options, events: 0 }
    }

    /// What comes before an operation.
    pub fn events(&self, coin: &mut Coin) -> Vec<Event> {
        if !coin.chance(self.events, 8) {
            return Vec::new();
        }
        (0..=coin.below(3)).map(|_| event(coin)).collect()
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options {
            sync, memory_bytes, log_segment_bytes, log_retain_bytes, compress, block_bytes, ..
        } = &self.options;
        write!(
            f,
            "{sync:?}, memory {memory_bytes}, segment {log_segment_bytes}, retain {log_retain_bytes}, blocks \
             {block_bytes} {}",
            if *compress { "LZ4" } else { "raw" }
        )
    }
}

fn event(coin: &mut Coin) -> Event {
    let slot = coin.below(SLOTS);
    match coin.below(34) {
        0..=3 => Event::Write,
        4..=6 => Event::Work(Job::Sync),
        7..=9 => Event::Work(Job::Flush),
        10..=14 => Event::Work(Job::Compact),
        15 => Event::Work(Job::Prepare),
        16 | 17 => Event::Work(Job::Expire),
        18..=20 => Event::Flush(vec![slot]),
        21 => Event::FlushInVain(vec![slot]),
        22 => Event::Flush((0..SLOTS).collect()),
        23 => Event::Restart,
        24 => Event::Kill,
        25 => Event::PowerLoss(coin.next_u64()),
        26..=28 => Event::Walk(slot, 1 + coin.below(4)),
        29 | 30 => Event::Copy(slot),
        31 | 32 => Event::Checkpoint,
        _ => Event::ReadCopies,
    }
}

/// A clock that stands still until it is told.
#[derive(Debug)]
struct HandClock(AtomicU64);

impl Clock for HandClock {
    fn wall(&self) -> TimeMs {
        TimeMs(self.0.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// A walk over a slot's keys that others' work interrupts.
struct Walk {
    next: u64,
    /// Keys that were there since it began.
    always: BTreeSet<usize>,
    /// Keys that were there at some time since it began.
    ever: BTreeSet<usize>,
    seen: Vec<usize>,
}

/// A copy and what it has to hold.
struct Copied {
    slot: usize,
    source: CopySource,
    content: SlotState,
}

/// See the file's head.
pub struct Machine {
    setting: Setting,
    fs: MemoryFs,
    dir: PathBuf,
    /// Checkpoints that were taken.
    checkpoints: usize,
    clock: Arc<HandClock>,
    /// `None` only while it is restarted.
    engine: Option<Engine>,
    walks: Vec<Option<Walk>>,
    copies: Vec<Copied>,
}

/// What went wrong.
pub type Failure = String;

fn told(error: impl fmt::Display) -> Failure {
    format!("the engine says: {error}")
}

fn number(index: usize) -> Slot {
    const NUMBERS: [u16; SLOTS] = [0, 3, 511, 1023];
    Slot::new(NUMBERS[index]).expect("below 1024")
}

/// A key of a slot: a name with a tag of that slot.
fn name(slot: usize, key: usize) -> Key {
    store::key(number(slot), &format!("k{key}"))
}

fn key_of(user: &[u8]) -> usize {
    let text = std::str::from_utf8(user).unwrap_or_default();
    let key = text.strip_prefix('k').and_then(|rest| rest.split('{').next()?.parse().ok());
    key.unwrap_or_else(|| panic!("a key that nobody wrote: {text:?}"))
}

fn sub_name(sub: usize) -> [u8; 1] {
    [u8::try_from(sub).expect("few elements")]
}

fn whole(content: Bytes, expiry: Option<u64>) -> Value {
    Value { expiry: expiry.map(TimeMs), ..Value::whole(0, 0, content) }
}

/// A collection's value: its payload is the number of elements.
fn collection(generation: Generation, expiry: Option<TimeMs>, count: u32) -> Value {
    let payload = Bytes::copy_from_slice(&count.to_le_bytes());
    Value { kind: 1, encoding: 0, expiry, generation: Some(generation), payload }
}

fn count_of(value: &Value) -> u32 {
    u32::from_le_bytes(value.payload[..].try_into().expect("four bytes were written"))
}

fn shown(value: &Value) -> Shown {
    let body = match value.generation {
        None => Ok(value.payload.clone()),
        Some(_) => Err(usize::try_from(count_of(value)).expect("few elements")),
    };
    Shown { expiry: value.expiry.map(|at| at.0), body }
}

impl Machine {
    /// Opens an empty store.
    pub fn new(setting: &Setting) -> Result<Machine, Failure> {
        let mut machine = Machine {
            setting: setting.clone(),
            fs: MemoryFs::new(),
            dir: PathBuf::from("/haypile"),
            checkpoints: 0,
            clock: Arc::new(HandClock(AtomicU64::new(BEGINNING))),
            engine: None,
            walks: (0..SLOTS).map(|_| None).collect(),
            copies: Vec::new(),
        };
        machine.start(MemoryFs::new())?;
        Ok(machine)
    }

    fn start(&mut self, fs: MemoryFs) -> Result<(), Failure> {
        // The copies' files belong to the process that ends.
        self.read_copies()?;
        self.engine = None;
        self.fs = fs;
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let options = self.setting.options.clone();
        let opened = Engine::open(Arc::new(self.fs.clone()), &self.dir, clock, options);
        self.engine = Some(opened.map_err(told)?.0);
        Ok(())
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("only a start that fails leaves none")
    }

    /// Does an operation and answers.
    pub fn apply(&self, op: &Op) -> Result<Answer, Failure> {
        let engine = self.engine();
        let here = |slot: usize| engine.role(number(slot)) == Role::Master;
        let read = |slot: usize, work: &mut dyn FnMut(&mut Tx<'_>) -> Read<Answer>| {
            if !here(slot) {
                return Ok(Answer::NoSlot);
            }
            transact(engine, &[number(slot)], work).map_err(told)
        };
        match op {
            Op::Commit(parts) => {
                if !parts.iter().all(|(slot, _)| here(*slot)) {
                    return Ok(Answer::NoSlot);
                }
                let slots: Vec<Slot> = parts.iter().map(|(slot, _)| number(*slot)).collect();
                transact(engine, &slots, |tx| commit(tx, parts)).map_err(told)
            }
            Op::Pass(ms) => {
                self.clock.0.fetch_add(*ms, Ordering::Relaxed);
                Ok(Answer::Done)
            }
            Op::Add(slots) => {
                let slots: Vec<Slot> = slots.iter().copied().map(number).collect();
                engine.add_slots(&slots).map_err(told)?;
                Ok(Answer::Done)
            }
            Op::Remove(slot) => {
                engine.remove_slots(&[number(*slot)]).map_err(told)?;
                Ok(Answer::Done)
            }
            Op::Get(slot, key) => {
                read(*slot, &mut |tx| Ok(Answer::Value(tx.get(&name(*slot, *key))?.as_ref().map(shown))))
            }
            Op::Keys(slot, limit) if here(*slot) => Ok(Answer::Keys(keys(engine, *slot, *limit)?)),
            Op::Keys(..) => Ok(Answer::NoSlot),
            Op::Element(slot, key, sub) => read(*slot, &mut |tx| {
                let key = name(*slot, *key);
                match tx.get(&key)?.and_then(|value| value.generation) {
                    Some(generation) => Ok(Answer::Element(tx.element(&key, generation, &sub_name(*sub))?)),
                    None => Ok(Answer::Element(None)),
                }
            }),
            Op::Elements { slot, key, from, to, backward, limit } => read(*slot, &mut |tx| {
                let way = if *backward { Direction::Backward } else { Direction::Forward };
                elements(tx, &name(*slot, *key), *from..*to, way, *limit).map(Answer::Elements)
            }),
        }
    }

    /// Lets an event happen. Nothing that anybody reads may be different after it.
    pub fn happen(&mut self, event: &Event, model: &Model) -> Result<(), Failure> {
        match event {
            Event::Write => self.engine().write().map_err(told),
            Event::Work(job) => {
                self.engine().write().map_err(told)?;
                self.engine().step(*job).map(drop).map_err(told)
            }
            Event::Flush(slots) => {
                let slots: Vec<Slot> = slots.iter().copied().map(number).collect();
                self.engine().flush(&slots).map_err(told)
            }
            Event::FlushInVain(slots) => {
                self.fs.set_capacity(Some(0));
                let slots: Vec<Slot> = slots.iter().copied().map(number).collect();
                let flushed = self.engine().flush(&slots);
                self.fs.set_capacity(None);
                match flushed {
                    Err(error @ Error::Poisoned(_)) => Err(told(error)),
                    _ => Ok(()),
                }
            }
            Event::Restart => {
                self.engine().close().map_err(told)?;
                self.start(self.fs.restart())
            }
            Event::Kill => {
                self.engine().write().map_err(told)?;
                self.start(self.fs.restart())
            }
            Event::PowerLoss(seed) => {
                self.engine().write().map_err(told)?;
                self.engine().step(Job::Sync).map_err(told)?;
                self.start(self.fs.crash(*seed))
            }
            Event::Checkpoint => self.go_on_from_a_checkpoint(),
            Event::Walk(slot, limit) => self.walk(*slot, *limit, model),
            Event::Copy(slot) => self.take_copy(*slot, model),
            Event::ReadCopies => self.read_copies(),
            Event::Lie(slot, key) => {
                if self.engine().role(number(*slot)) == Role::Master {
                    let delete = |tx: &mut Tx<'_>| tx.delete(&name(*slot, *key));
                    transact(self.engine(), &[number(*slot)], delete).map_err(told)?;
                }
                Ok(())
            }
        }
    }

    /// Notes for the walks under way what is there after an operation.
    pub fn note(&mut self, model: &Model) {
        for (walk, state) in self.walks.iter_mut().zip(&model.slots) {
            match (walk.as_mut(), state) {
                (Some(walk), Some(state)) => {
                    walk.always.retain(|key| state.contains_key(key));
                    walk.ever.extend(state.keys());
                }
                _ => *walk = None,
            }
        }
    }

    fn walk(&mut self, slot: usize, limit: usize, model: &Model) -> Result<(), Failure> {
        let Some(state) = &model.slots[slot] else { return Ok(()) };
        let there: BTreeSet<usize> = state.keys().copied().collect();
        let fresh = || Walk { next: 0, always: there.clone(), ever: there.clone(), seen: Vec::new() };
        let mut walk = self.walks[slot].take().unwrap_or_else(fresh);
        let page = transact(self.engine(), &[number(slot)], |tx| tx.keys(number(slot), walk.next, limit));
        let (page, next) = page.map_err(told)?;
        walk.seen.extend(page.iter().map(|(user, _)| key_of(user)));
        if let Some(next) = next {
            walk.next = next;
            self.walks[slot] = Some(walk);
            return Ok(());
        }
        let seen: BTreeSet<usize> = walk.seen.iter().copied().collect();
        if seen.len() < walk.seen.len() {
            return Err(format!("a walk in s{slot} saw a key twice: {:?}", walk.seen));
        }
        if !seen.is_superset(&walk.always) || !seen.is_subset(&walk.ever) {
            return Err(format!(
                "a walk in s{slot} saw {seen:?}; all the time there were {:?}, at some time {:?}",
                walk.always, walk.ever
            ));
        }
        Ok(())
    }

    fn go_on_from_a_checkpoint(&mut self) -> Result<(), Failure> {
        let present = Slot::all().filter(|&slot| self.engine().role(slot) != Role::Absent);
        let present: BTreeSet<Slot> = present.collect();
        if present.is_empty() {
            return Ok(());
        }
        self.checkpoints += 1;
        let dir = PathBuf::from(format!("/checkpoint-{}", self.checkpoints));
        let made = self.engine().checkpoint(&dir, &present, &Progress::default()).map_err(told)?;
        if made.slots.len() != present.len() {
            return Err(format!("a checkpoint of {present:?} holds {:?}", made.slots));
        }
        self.dir = dir;
        self.start(self.fs.restart())
    }

    fn take_copy(&mut self, slot: usize, model: &Model) -> Result<(), Failure> {
        let Some(content) = model.slots[slot].clone() else { return Ok(()) };
        self.engine().flush(&[number(slot)]).map_err(told)?;
        self.engine().pulse(number(slot));
        let source = self.engine().copy_source(number(slot)).map_err(told)?;
        self.copies.push(Copied { slot, source, content });
        Ok(())
    }

    fn read_copies(&mut self) -> Result<(), Failure> {
        for copied in std::mem::take(&mut self.copies) {
            let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
            let fs = Arc::new(MemoryFs::new());
            let options = Options { seed: Some(77), log_segment_bytes: 0, ..Options::default() };
            let (other, _) = Engine::open(fs, Path::new("/copy"), clock, options).map_err(told)?;
            import(&other, &copied).map_err(told)?;
            let held = content(&other, copied.slot)?;
            if held != copied.content {
                let difference = difference(&copied.content, &held);
                return Err(format!("the copy of s{} is not what was there: {difference}", copied.slot));
            }
        }
        Ok(())
    }

    /// Compares everything that can be read with the model; then again after a clean restart, and the count of keys
    /// once what has expired is reclaimed.
    pub fn check_all(&mut self, model: &Model) -> Result<(), Failure> {
        self.check_content(model)?;
        self.happen(&Event::Restart, model)?;
        self.check_content(model)?;
        while self.engine().step(Job::Expire).map_err(told)? {}
        self.check_content(model)?;
        let keys: usize = model.slots.iter().flatten().map(SlotState::len).sum();
        let counted = self.engine().key_count();
        if counted != keys as u64 {
            return Err(format!("{counted} keys are counted, there are {keys}"));
        }
        Ok(())
    }

    fn check_content(&self, model: &Model) -> Result<(), Failure> {
        for slot in 0..SLOTS {
            let there = self.engine().role(number(slot)) == Role::Master;
            let Some(state) = &model.slots[slot] else {
                if there {
                    return Err(format!("s{slot} is there"));
                }
                continue;
            };
            if !there {
                return Err(format!("s{slot} is not there"));
            }
            let held = content(self.engine(), slot)?;
            if held != *state {
                return Err(format!("s{slot} in the end: {}", difference(state, &held)));
            }
        }
        Ok(())
    }
}

fn commit(tx: &mut Tx<'_>, parts: &[(usize, Vec<Change>)]) -> Read<Answer> {
    let mut deleted = Vec::new();
    for (slot, changes) in parts {
        let now = tx.now(number(*slot)).0;
        for change in changes {
            match change {
                Change::Put(key, content, lives) => {
                    tx.put(&name(*slot, *key), &whole(content.bytes(), lives.map(|ms| now + ms)))?;
                }
                Change::Delete(key) => deleted.push(tx.delete(&name(*slot, *key))?),
                Change::PutElement(key, sub, content) => {
                    put_element(tx, &name(*slot, *key), *sub, content.bytes())?;
                }
                Change::DeleteElement(key, sub) => delete_element(tx, &name(*slot, *key), *sub)?,
                Change::Clear => tx.clear(number(*slot)),
            }
        }
    }
    Ok(Answer::Deleted(deleted))
}

fn put_element(tx: &mut Tx<'_>, key: &Key, sub: usize, content: Bytes) -> Read<()> {
    let old = tx.get(key)?.and_then(|value| Some((value.generation?, value)));
    let (generation, expiry, count) = match old {
        Some((generation, value)) => (generation, value.expiry, count_of(&value)),
        None => (tx.next_generation(key), None, 0),
    };
    let is_new = count == 0 || tx.element(key, generation, &sub_name(sub))?.is_none();
    if is_new {
        tx.put(key, &collection(generation, expiry, count + 1))?;
    }
    tx.put_element(key, generation, &sub_name(sub), content);
    Ok(())
}

fn delete_element(tx: &mut Tx<'_>, key: &Key, sub: usize) -> Read<()> {
    let Some(value) = tx.get(key)? else { return Ok(()) };
    let Some(generation) = value.generation else { return Ok(()) };
    if tx.element(key, generation, &sub_name(sub))?.is_none() {
        return Ok(());
    }
    match count_of(&value) {
        1 => _ = tx.delete(key)?,
        count => {
            tx.put(key, &collection(generation, value.expiry, count - 1))?;
            tx.delete_element(key, generation, &sub_name(sub));
        }
    }
    Ok(())
}

fn elements(
    tx: &mut Tx<'_>,
    key: &Key,
    range: std::ops::Range<usize>,
    way: Direction,
    limit: usize,
) -> Read<Vec<(usize, Bytes)>> {
    let Some(generation) = tx.get(key)?.and_then(|value| value.generation) else { return Ok(Vec::new()) };
    let (from, to) = (sub_name(range.start), sub_name(range.end));
    let found = tx.elements(key, generation, Bound::Included(&from), Bound::Excluded(&to), way, limit)?;
    Ok(found.into_iter().map(|(sub, value)| (usize::from(sub[0]), value)).collect())
}

/// All keys, by pages; each must be found by a lookup of its own too.
fn keys(engine: &Engine, slot: usize, limit: usize) -> Result<Vec<(usize, Shown)>, Failure> {
    let mut all = Vec::new();
    let mut next = Some(0);
    while let Some(hash) = next {
        let page = transact(engine, &[number(slot)], |tx| tx.keys(number(slot), hash, limit));
        let (page, rest) = page.map_err(told)?;
        all.extend(page.iter().map(|(user, value)| (key_of(user), shown(value))));
        next = rest;
    }
    all.sort_by_key(|(key, _)| *key);
    Ok(all)
}

/// Everything that a slot holds, each key read in every way there is.
fn content(engine: &Engine, slot: usize) -> Result<SlotState, Failure> {
    let listed = keys(engine, slot, 3)?;
    let mut state = SlotState::new();
    for key in 0..KEYS {
        let walked = listed.iter().filter(|(other, _)| *other == key).map(|(_, shown)| shown);
        let walked: Vec<&Shown> = walked.collect();
        let read = transact(engine, &[number(slot)], |tx| {
            let Some(value) = tx.get(&name(slot, key))? else { return Ok(None) };
            let whole_range = 0..usize::from(u8::MAX);
            let elements = elements(tx, &name(slot, key), whole_range, Direction::Forward, usize::MAX)?;
            Ok(Some((value, elements)))
        });
        let read = read.map_err(told)?;
        let alone = read.as_ref().map(|(value, _)| shown(value));
        if walked != alone.iter().collect::<Vec<_>>() {
            return Err(format!("s{slot} k{key}: a walk sees {walked:?}, a lookup {alone:?}"));
        }
        if let Some((value, elements)) = read {
            let body = match shown(&value).body {
                Ok(bytes) => Body::Whole(bytes),
                Err(count) if count == elements.len() => Body::Elements(elements.into_iter().collect()),
                Err(count) => {
                    return Err(format!("s{slot} k{key} counts {count} elements, has {}", elements.len()));
                }
            };
            state.insert(key, Entry { expiry: value.expiry.map(|at| at.0), body });
        }
    }
    Ok(state)
}

fn import(engine: &Engine, copied: &Copied) -> haypile_engine::error::Result<()> {
    let Copied { slot, source, .. } = copied;
    let slot = number(*slot);
    engine.add_slots(&[slot])?;
    engine.follow(&[slot], "source:1")?;
    engine.start_loading(&[Load {
        granted: None,
        slot,
        history: source.history.clone(),
        base: source.seq,
        keys: source.keys,
        time: source.time,
        complete: source.runs.is_empty(),
    }])?;
    if source.runs.is_empty() {
        return Ok(());
    }
    let mut import = engine.importer(slot, NodeId([9; 20]))?;
    for run in &source.runs {
        import.begin_run(part_id(run.meta()), 0)?;
        let mut chunk = vec![0; 4096];
        let mut offset = 0;
        while offset < run.meta().len {
            let got = run.read_image(offset, &mut chunk)?;
            import.chunk(&chunk[..got])?;
            offset += got as u64;
        }
        import.end_run()?;
    }
    import.finish()
}

/// Where two states differ, in short.
fn difference(expected: &SlotState, found: &SlotState) -> String {
    let shown = |state: &SlotState, key: usize| {
        state.get(&key).map_or("nothing".to_owned(), |entry| match &entry.body {
            Body::Whole(bytes) => {
                format!("{} bytes of {:?}, expiry {:?}", bytes.len(), bytes.first(), entry.expiry)
            }
            Body::Elements(elements) => format!("elements {:?}, expiry {:?}", elements.keys(), entry.expiry),
        })
    };
    let differing = (0..KEYS).filter(|key| expected.get(key) != found.get(key));
    let lines =
        differing.map(|key| format!("k{key} should be {}, is {}", shown(expected, key), shown(found, key)));
    lines.collect::<Vec<_>>().join("; ")
}
