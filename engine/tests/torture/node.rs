//! One node: an engine on a simulated disk, with the model of each of its slots.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::io::ErrorKind;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use haypile_engine::engine::{Engine, Opened, Options, SyncMode};
use haypile_engine::error::{Error, Result};
use haypile_engine::fs::Fs;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::key::{Generation, Key};
use haypile_engine::manifest;
use haypile_engine::read::{Direction, Fetched};
use haypile_engine::sst::FileNo;
use haypile_engine::tx::{Read, Stop, Tx};
use haypile_engine::types::Slot;
use haypile_engine::value;

use crate::common::TestClock;
use crate::model::{Dice, Effect, Is, Model, Record, State, Value, slot_of_tag};

pub const TAGS: usize = 5;
pub const SEGMENT_BYTES: u64 = 64 << 10;
/// Log that is kept for replicas.
pub const RETAIN_BYTES: u64 = 128 << 10;
const DIR: &str = "/haypile";

pub struct Node {
    pub me: usize,
    pub fs: MemoryFs,
    pub engine: Arc<Engine>,
    clock: Arc<TestClock>,
    seed: u64,
    pub starts: u64,
    pub models: Vec<Model>,
    /// What slots may be instead, after a step of a slot's life that failed.
    maybe: Vec<Vec<Model>>,
    /// Commits over several slots since the last start: slot's tag, life and seq of each part.
    groups: Vec<Vec<(usize, u64, u64)>>,
    /// It has stopped acknowledging.
    pub dead: bool,
}

/// What a command does to one slot.
#[derive(Clone)]
pub enum Plan {
    Set { key: Vec<u8>, payload: Vec<u8>, expire_in: Option<u64> },
    Delete { key: Vec<u8> },
    Create { key: Vec<u8>, elements: Vec<(Vec<u8>, Vec<u8>)> },
    Element { key: Vec<u8>, sub: Vec<u8>, value: Vec<u8> },
    NoElement { key: Vec<u8>, sub: Vec<u8> },
    Expire { key: Vec<u8>, expire_in: Option<u64> },
    Clear,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy;
        match self {
            Plan::Set { key, payload, expire_in } => {
                write!(
                    f,
                    "set {} {}x{} {expire_in:?}",
                    text(key),
                    text(&payload[..payload.len().min(1)]),
                    payload.len()
                )
            }
            Plan::Delete { key } => write!(f, "delete {}", text(key)),
            Plan::Create { key, elements } => write!(f, "create {} {}", text(key), elements.len()),
            Plan::Element { key, sub, .. } => write!(f, "element {} {}", text(key), text(sub)),
            Plan::NoElement { key, sub } => write!(f, "no element {} {}", text(key), text(sub)),
            Plan::Expire { key, expire_in } => write!(f, "expire {} {expire_in:?}", text(key)),
            Plan::Clear => f.write_str("clear"),
        }
    }
}

fn options(seed: u64) -> Options {
    Options {
        sync: SyncMode::EverySec,
        memory_bytes: 64 << 10,
        log_segment_bytes: SEGMENT_BYTES,
        log_retain_bytes: RETAIN_BYTES,
        seed: Some(seed),
        ..Options::default()
    }
}

fn open(fs: &MemoryFs, clock: &Arc<TestClock>, seed: u64) -> Result<(Arc<Engine>, Opened)> {
    let (engine, opened) =
        Engine::open(Arc::new(fs.clone()), Path::new(DIR), Arc::clone(clock) as Arc<_>, options(seed))?;
    Ok((Arc::new(engine), opened))
}

impl Node {
    pub fn new(me: usize, seed: u64, clock: &Arc<TestClock>) -> Node {
        let fs = MemoryFs::new();
        let seed = seed.wrapping_mul(1000) + 500 * me as u64;
        let (engine, opened) = open(&fs, clock, seed).expect("a fresh folder opens");
        assert!(opened.fresh);
        Node {
            me,
            fs,
            engine,
            clock: Arc::clone(clock),
            seed,
            starts: 0,
            models: vec![Model::absent(); TAGS],
            maybe: vec![Vec::new(); TAGS],
            groups: Vec::new(),
            dead: false,
        }
    }

    /// What an operation came to: `None` if it failed, and then whether the node lives.
    pub fn outcome<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(out) => Some(out),
            Err(error) => {
                match &error {
                    Error::Poisoned(_) => self.dead = true,
                    Error::Io { .. } | Error::ReadOnly(_) => {}
                    _ => panic!("node {}: {error}", self.me),
                }
                None
            }
        }
    }

    /// A step of a slot's life: `after` if it succeeds, either if it fails in the end.
    pub fn life_step(&mut self, result: Result<()>, after: Vec<(usize, Model)>) {
        if self.outcome(result).is_some() {
            for (tag, model) in after {
                self.models[tag] = model;
            }
        } else {
            for (tag, model) in after {
                self.maybe[tag].push(model);
            }
        }
    }

    /// Runs a command on some slots, and writes it (or leaves it to somebody's next write).
    pub fn write(&mut self, plans: &[(usize, Vec<Plan>)], write: bool) {
        let mut slots: Vec<(Slot, usize)> = plans.iter().map(|(tag, _)| (slot_of_tag(*tag), *tag)).collect();
        slots.sort_unstable();
        let locked: Vec<Slot> = slots.iter().map(|(slot, _)| *slot).collect();
        let engine = Arc::clone(&self.engine);
        let mut fetched = Fetched::default();
        let (effects, committed) = loop {
            let mut tx = engine.begin(&locked, &fetched);
            let done: Read<Vec<(usize, Vec<Effect>)>> = plans
                .iter()
                .map(|(tag, plan)| {
                    let mut shadow = self.models[*tag].state.clone();
                    let mut effects = Vec::new();
                    for plan in plan {
                        execute(&mut tx, slot_of_tag(*tag), plan, &mut shadow, &mut effects)?;
                    }
                    Ok((*tag, effects))
                })
                .collect();
            match done {
                Ok(effects) => break (effects, tx.commit()),
                Err(Stop::Miss) => {
                    let wanted = tx.abandon();
                    let read = engine.fetch(wanted, &mut fetched);
                    read.expect("reads do not fail here");
                }
                Err(Stop::Failed(error)) => panic!("node {}: {error}", self.me),
            }
        };
        if self.outcome(committed).is_none() {
            return;
        }
        let mut group = Vec::new();
        for (tag, effects) in effects.into_iter().filter(|(_, effects)| !effects.is_empty()) {
            let model = &mut self.models[tag];
            model.push(Record::Batch(effects));
            group.push((tag, model.life, model.last()));
        }
        if group.len() > 1 {
            self.groups.push(group);
        }
        if write {
            let written = self.engine.write();
            if self.outcome(written).is_some() {
                self.models.iter_mut().for_each(Model::all_written);
            }
        }
    }

    pub fn all_synced(&mut self) {
        self.models.iter_mut().for_each(Model::all_synced);
    }

    /// Stops it, in order or not, and starts it again.
    pub fn restart(&mut self, power_lost: bool, dice: &mut Dice, trace: &mut VecDeque<String>) {
        let crash_seed = dice.next();
        let mut fs = if power_lost { self.fs.crash(crash_seed) } else { self.fs.restart() };
        let mut lost = power_lost;
        while dice.one_in(3) {
            // The recovery is cut or fails, too.
            let at = fs.operations() + dice.below(60);
            let power = dice.one_in(2);
            let how = dice.below(3);
            match how {
                0 => fs.fail_operation(at, ErrorKind::StorageFull),
                1 => fs.fail_operation(at, ErrorKind::Other),
                _ => fs.stop_at(at),
            }
            self.starts += 1;
            let opened = open(&fs, &self.clock, self.seed + self.starts).map(drop);
            trace.push_back(format!(
                "node {}: start cut at {at} by {how}, power lost {power}: {opened:?}",
                self.me
            ));
            fs = if power { fs.crash(dice.next()) } else { fs.restart() };
            lost |= power;
        }
        self.starts += 1;
        let (engine, opened) = open(&fs, &self.clock, self.seed + self.starts)
            .unwrap_or_else(|error| panic!("node {} does not open: {error}", self.me));
        trace.push_back(format!("node {}: {opened:?}", self.me));
        self.fs = fs;
        self.engine = engine;
        self.dead = false;
        assert!(!opened.fresh);
        self.recovered(lost);
        self.check_files();
    }

    /// Finds out what is left after a restart, and that it is what was promised.
    fn recovered(&mut self, power_lost: bool) {
        let mut prefixes = Vec::new();
        for tag in 0..TAGS {
            let candidates = std::iter::once(self.models[tag].clone()).chain(self.maybe[tag].drain(..));
            let mut why = Vec::new();
            let fits = candidates.into_iter().find_map(|mut model| {
                match fit(&mut model, self.me, &self.engine, tag, power_lost) {
                    Ok(prefix) => Some((model, prefix)),
                    Err(what) => {
                        why.push(what);
                        None
                    }
                }
            });
            let Some((model, prefix)) = fits else { panic!("node {} slot t{tag}: {why:?}", self.me) };
            prefixes.push((model.life, prefix));
            self.models[tag] = model;
        }
        for group in self.groups.drain(..) {
            let of_now = group.iter().filter(|(tag, life, _)| prefixes[*tag].0 == *life);
            let there: BTreeSet<bool> = of_now.map(|(tag, _, seq)| *seq <= prefixes[*tag].1).collect();
            assert!(there.len() < 2, "node {}: half of a group {group:?}, left: {prefixes:?}", self.me);
        }
        (0..TAGS).for_each(|tag| self.check(tag));
    }

    /// Holds that a slot is what the model says.
    pub fn check(&mut self, tag: usize) {
        let (slot, model) = (slot_of_tag(tag), &self.models[tag]);
        let place = format!("node {} slot t{tag}", self.me);
        let position = self.engine.position(slot);
        assert_eq!(Is::of(&position.role), model.is, "{place}: role");
        if model.is == Is::Absent {
            assert_eq!((position.last_seq.0, position.keys), (0, 0), "{place}: something of an absent slot");
            return;
        }
        assert_eq!(position.last_seq.0, model.last(), "{place}: last record");
        assert_eq!(position.keys, model.state.0.len() as u64, "{place}: keys counted");
        if model.is == Is::Loading {
            return;
        }
        let (now, found) = read_slot(&self.engine, slot, &model.state);
        let mut living = model.state.clone();
        living.0.retain(|_, (value, _)| value.expiry.is_none_or(|at| at > now));
        for key in found.0.keys().chain(living.0.keys()) {
            let (is, should) = (found.0.get(key), living.0.get(key));
            let name = String::from_utf8_lossy(key);
            assert_eq!(is, should, "{place}: {name} at {now} after record {}", model.last());
        }
    }

    /// Holds that every file is referred to.
    fn check_files(&self) {
        let folder = Path::new(DIR);
        let (_, state) =
            manifest::read(&self.fs, &folder.join("manifest")).expect("reads").expect("is there");
        let named: BTreeSet<FileNo> = state.files().collect();
        let files = self.fs.list(&folder.join("data")).expect("lists");
        let found: BTreeSet<String> = files.into_iter().map(|entry| entry.name).collect();
        let named: BTreeSet<String> = named.into_iter().map(|file| format!("{:06}.pack", file.0)).collect();
        assert_eq!(found, named, "node {}: pack files", self.me);
        let others = self.fs.list(&folder.join("manifest")).expect("lists").len();
        assert_eq!(others, 2, "node {}: CURRENT and one manifest", self.me);
        let logs = self.fs.list(&folder.join("log")).expect("lists");
        assert!(logs.iter().all(|entry| !entry.name.ends_with(".tmp")), "node {}: {logs:?}", self.me);
    }
}

/// Cuts the model to what the engine has; why not, if that is not what was promised.
fn fit(
    model: &mut Model,
    me: usize,
    engine: &Engine,
    tag: usize,
    power_lost: bool,
) -> std::result::Result<u64, String> {
    let position = engine.position(slot_of_tag(tag));
    let is = Is::of(&position.role);
    if is == Is::Absent || model.is == Is::Absent {
        return if is == model.is { Ok(0) } else { Err(format!("is {is:?}, should be {:?}", model.is)) };
    }
    let found = position.history.starts();
    if position.base_seq.0 != model.base_seq {
        return Err(format!("base {:?}, should be {}", position.base_seq, model.base_seq));
    }
    if !model.starts.is_empty() && found.first() != model.starts.first() {
        return Err(format!("history {found:?}, should go on {:?}", model.starts));
    }
    if model.starts.is_empty() {
        model.starts.extend(found.first());
    }
    let new: Vec<_> = found.iter().filter(|start| !model.starts.contains(start)).collect();
    let last = position.last_seq.0;
    let prefix = new.first().map_or(last, |start| start.first_seq.0 - 1);
    let bounds = model.survivors(power_lost);
    if !bounds.contains(&prefix) || last - prefix != new.len() as u64 {
        return Err(format!(
            "recovered to {prefix} (and on to {last}), should be in {bounds:?}; {found:?} after {:?}",
            model.starts
        ));
    }
    let mut should = model.is_after(me, prefix);
    if !new.is_empty() && should != Is::Master {
        return Err(format!("began {new:?}, should be {should:?}"));
    }
    if model.is == Is::Replica && is == Is::Replica {
        // A grant below a term that the node has seen may be an old one that came back: it waits to be asked.
        should = Is::Replica;
    }
    if is != should {
        return Err(format!("is {is:?}, should be {should:?}"));
    }
    std::mem::swap(&mut model.is, &mut should);
    model.cut(prefix);
    new.iter().for_each(|_| model.push(Record::Epoch));
    model.starts = found.to_vec();
    model.all_synced();
    Ok(prefix)
}

/// Does a plan to one slot, and tells what it did.
fn execute(
    tx: &mut Tx<'_>,
    slot: Slot,
    plan: &Plan,
    shadow: &mut State,
    effects: &mut Vec<Effect>,
) -> Read<()> {
    let mut note = |shadow: &mut State, effect: Effect| {
        shadow.take(&effect);
        effects.push(effect);
    };
    let now = tx.now(slot).0;
    let living = |shadow: &State, key: &[u8]| {
        let (value, _) = shadow.0.get(key)?;
        value.expiry.is_none_or(|at| at > now).then(|| value.clone())
    };
    match plan {
        Plan::Set { key, payload, expire_in } => {
            let value =
                Value { payload: payload.clone(), expiry: expire_in.map(|ms| now + ms), generation: None };
            tx.put(&Key::new(key), &encode(&value))?;
            note(shadow, Effect::Put { key: key.clone(), value });
        }
        Plan::Delete { key } => {
            let lives = living(shadow, key).is_some();
            let there = shadow.0.contains_key(key);
            assert_eq!(tx.delete(&Key::new(key))?, lives, "what a delete says");
            if there {
                note(shadow, Effect::Delete { key: key.clone() });
            }
        }
        Plan::Create { key, elements } => {
            let key_ = Key::new(key);
            tx.delete(&key_)?;
            if shadow.0.contains_key(key) {
                note(shadow, Effect::Delete { key: key.clone() });
            }
            let generation = tx.next_generation(&key_);
            let value = Value { payload: b"large".to_vec(), expiry: None, generation: Some(generation.0) };
            tx.put(&key_, &encode(&value))?;
            note(shadow, Effect::Put { key: key.clone(), value });
            for (sub, value) in elements {
                tx.put_element(&key_, generation, sub, value.clone());
                let (key, sub, value) = (key.clone(), sub.clone(), value.clone());
                note(shadow, Effect::PutElement { key, generation: generation.0, sub, value });
            }
        }
        Plan::Element { .. } | Plan::NoElement { .. } => {
            let (Plan::Element { key, sub, .. } | Plan::NoElement { key, sub }) = plan else { return Ok(()) };
            let (key_, key, sub) = (Key::new(key), key.clone(), sub.clone());
            let found = tx.get(&key_)?;
            let expected = living(shadow, &key);
            assert_eq!(found.as_ref().map(decode), expected, "what a transaction reads");
            let Some(generation) = found.and_then(|value| value.generation) else { return Ok(()) };
            let before = tx.element(&key_, generation, &sub)?.map(|bytes| bytes.to_vec());
            assert_eq!(before.as_ref(), shadow.0[&key].1.get(&sub), "what a transaction reads of an element");
            if let Plan::Element { value, .. } = plan {
                tx.put_element(&key_, generation, &sub, value.clone());
                let value = value.clone();
                note(shadow, Effect::PutElement { key, generation: generation.0, sub, value });
            } else if before.is_some() {
                tx.delete_element(&key_, generation, &sub);
                note(shadow, Effect::DeleteElement { key, generation: generation.0, sub });
            }
        }
        Plan::Expire { key, expire_in } => {
            let Some(mut value) = living(shadow, key) else { return Ok(()) };
            value.expiry = expire_in.map(|ms| now + ms);
            tx.put(&Key::new(key), &encode(&value))?;
            note(shadow, Effect::Put { key: key.clone(), value });
        }
        Plan::Clear => {
            tx.clear(slot);
            note(shadow, Effect::Clear);
        }
    }
    Ok(())
}

fn encode(value: &Value) -> value::Value {
    value::Value {
        expiry: value.expiry.map(haypile_engine::clock::TimeMs),
        generation: value.generation.map(Generation),
        ..value::Value::whole(0, 0, Bytes::from(value.payload.clone()))
    }
}

fn decode(value: &value::Value) -> Value {
    Value {
        payload: value.payload.to_vec(),
        expiry: value.expiry.map(|at| at.0),
        generation: value.generation.map(|generation| generation.0),
    }
}

/// Everything living in a slot, read in pages and by key, and the slot's time.
fn read_slot(engine: &Engine, slot: Slot, asked: &State) -> (u64, State) {
    let mut fetched = Fetched::default();
    loop {
        let mut tx = engine.begin(&[slot], &fetched);
        match read_all(&mut tx, slot, asked) {
            Ok(state) => return (tx.now(slot).0, state),
            Err(Stop::Miss) => {
                let wanted = tx.abandon();
                engine.fetch(wanted, &mut fetched).expect("reads");
            }
            Err(Stop::Failed(error)) => panic!("{error}"),
        }
    }
}

fn read_all(tx: &mut Tx<'_>, slot: Slot, asked: &State) -> Read<State> {
    let mut found = State::default();
    let mut from = Some(0);
    while let Some(hash) = from {
        let (page, next) = tx.keys(slot, hash, 3)?;
        for (key, value) in page {
            let key_ = Key::new(&key);
            let (whole, open) = (Bound::Unbounded, Bound::Unbounded);
            let elements = match value.generation {
                Some(generation) => {
                    let up = tx.elements(&key_, generation, whole, open, Direction::Forward, usize::MAX)?;
                    let mut down =
                        tx.elements(&key_, generation, whole, open, Direction::Backward, usize::MAX)?;
                    down.reverse();
                    assert_eq!(up, down, "elements, forwards and backwards");
                    up
                }
                None => Vec::new(),
            };
            let elements = elements.into_iter().map(|(sub, value)| (sub.to_vec(), value.to_vec())).collect();
            let twice = found.0.insert(key.to_vec(), (decode(&value), elements));
            assert!(twice.is_none(), "a walk gave a key twice");
        }
        from = next;
    }
    for key in asked.0.keys() {
        let got = tx.get(&Key::new(key))?;
        assert_eq!(
            got.as_ref().map(decode).as_ref(),
            found.0.get(key).map(|(value, _)| value),
            "a walk and a get"
        );
    }
    Ok(found)
}
