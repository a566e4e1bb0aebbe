//! A small store on a disk in memory, and everything that is in it: what the tests of tools work on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use haypile_engine::background::Job;
use haypile_engine::clock::{Clock, TimeMs};
use haypile_engine::engine::{Engine, Options};
use haypile_engine::error::Result;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::fs::{Fs, OpenMode};
use haypile_engine::key::Key;
use haypile_engine::simulation::{self, tag};
use haypile_engine::tx::{Read, Tx};
use haypile_engine::types::Slot;
use haypile_engine::value::Value;
use haypile_server::tools;

/// Where the store lies.
pub const DIR: &str = "/store";

/// What a slot holds: each key's value, and each element's.
pub type Content = BTreeMap<Slot, BTreeMap<Vec<u8>, Vec<u8>>>;

/// The slot with this number.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn slot(number: u16) -> Slot {
    Slot::new(number).expect("below 1024")
}

/// A key of a slot: the name with the first hash tag that leads there.
#[must_use]
pub fn key(slot: Slot, name: &str) -> Key {
    Key::new(format!("{name}{{{}}}", tag(slot)).as_bytes())
}

/// A clock that goes on by itself, by the same steps in every run.
#[derive(Debug, Default)]
struct SteadyClock(AtomicU64);

impl Clock for SteadyClock {
    fn wall(&self) -> TimeMs {
        TimeMs(1_700_000_000_000 + self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// Runs `work` on locked slots, again after each miss, and commits.
///
/// # Errors
/// What the engine meets.
pub fn transact<T>(engine: &Engine, slots: &[Slot], work: impl FnMut(&mut Tx<'_>) -> Read<T>) -> Result<T> {
    simulation::transact(engine, slots, work).map(|(answer, _)| answer)
}

/// Opens the store.
///
/// # Errors
/// As [`Engine::open`].
pub fn open(fs: &MemoryFs) -> Result<Engine> {
    let options =
        Options { memory_bytes: 1 << 20, log_segment_bytes: 64 << 10, seed: Some(7), ..Options::default() };
    let clock = Arc::new(SteadyClock::default());
    Engine::open(Arc::new(fs.clone()), Path::new(DIR), clock, options).map(|(engine, _)| engine)
}

/// Puts a value under a name in each of these slots, as one transaction.
///
/// # Errors
/// What the engine meets.
pub fn put(engine: &Engine, slots: &[Slot], name: &str, value: &[u8]) -> Result<()> {
    transact(engine, slots, |tx| {
        for &slot in slots {
            let expiry = (value.len().is_multiple_of(3)).then_some(TimeMs(1 << 45));
            let value = Value { expiry, ..Value::whole(0, 0, Bytes::copy_from_slice(value)) };
            tx.put(&key(slot, name), &value)?;
        }
        Ok(())
    })?;
    engine.write()
}

/// Makes a collection with elements of its own.
///
/// # Errors
/// What the engine meets.
pub fn put_collection(engine: &Engine, slot: Slot, name: &str, elements: u32) -> Result<()> {
    let key = key(slot, name);
    transact(engine, &[slot], |tx| {
        let generation = tx.next_generation(&key);
        let payload = Bytes::copy_from_slice(&elements.to_le_bytes());
        tx.put(&key, &Value { generation: Some(generation), ..Value::whole(1, 1, payload) })?;
        for element in 0..elements {
            tx.put_element(&key, generation, &element.to_be_bytes(), vec![7; 9]);
        }
        Ok(())
    })?;
    engine.write()
}

/// Removes a name in a slot.
///
/// # Errors
/// What the engine meets.
pub fn delete(engine: &Engine, slot: Slot, name: &str) -> Result<()> {
    transact(engine, &[slot], |tx| tx.delete(&key(slot, name)))?;
    engine.write()
}

/// Makes a store in which every kind of thing occurs: runs of several slots in one pack, runs that were merged, records
/// that are in no file, sealed segments, a slot that was removed, one that follows, control records.
///
/// # Errors
/// What the engine meets.
///
/// # Panics
/// Never.
pub fn fill(engine: &Engine) -> Result<()> {
    let all: Vec<Slot> = [1, 2, 3, 500, 1023].map(slot).to_vec();
    engine.add_slots(&all)?;
    for round in 0..12_u32 {
        for number in 0..8_u32 {
            let value = format!("{round}.{number}.").repeat(usize::try_from(20 + 9 * number).expect("small"));
            put(engine, &all[..3], &format!("key{number}"), value.as_bytes())?;
            put(engine, &all[3..], &format!("name{}", number * round), value.as_bytes())?;
        }
        put_collection(engine, all[0], &format!("set{round}"), 10)?;
        delete(engine, all[1], &format!("key{}", round % 8))?;
        match round {
            2 => engine.flush_all()?,
            5 => engine.flush(&all[1..4])?,
            6 => while engine.step(Job::Compact)? {},
            7 => engine.remove_slots(&all[4..])?,
            9 => engine.follow(&all[2..3], "127.0.0.1:9")?,
            _ => {}
        }
        match round {
            7 => engine.add_slots(&all[4..])?,
            9 => engine.promote(&all[2..3])?,
            _ => {}
        }
        while engine.step(Job::Prepare)? {}
    }
    put(engine, &all[..2], "large", &vec![b'x'; 70_000])?;
    put(engine, &all, "last", b"one")?;
    while engine.step(Job::Sync)? {}
    // What follows a sync promises what was before it.
    put(engine, &all, "end", b"two")?;
    while engine.step(Job::Sync)? {}
    engine.follow(&all[3..4], "127.0.0.1:9")
}

/// Everything that each slot of the store holds.
///
/// # Errors
/// What the engine meets.
///
pub fn content(engine: &Engine) -> Result<Content> {
    let mut out = Content::new();
    for slot in Slot::all().filter(|slot| engine.role(*slot) != haypile_engine::slot::Role::Absent) {
        let mut found = BTreeMap::new();
        let mut from = Some(0);
        let mut keys = 0;
        while let Some(hash) = from {
            let page = transact(engine, &[slot], |tx| {
                let (page, next) = tx.keys(slot, hash, 50)?;
                let mut values = Vec::new();
                for (user, value) in &page {
                    let key = Key::new(user);
                    let mut raw = Vec::new();
                    value.encode(&mut raw);
                    values.push((user.to_vec(), raw));
                    let Some(generation) = value.generation else { continue };
                    for number in 0..10_u32 {
                        let element = tx.element(&key, generation, &number.to_be_bytes())?;
                        let name = [user, &number.to_be_bytes()[..]].concat();
                        values.extend(element.map(|element| (name, element.to_vec())));
                    }
                }
                Ok((page.len(), values, next))
            })?;
            keys += page.0;
            found.extend(page.1);
            from = page.2;
        }
        let said = engine.position(slot).keys;
        found.insert(b"\0keys".to_vec(), format!("{keys}, said {said}").into_bytes());
        out.insert(slot, found);
    }
    Ok(out)
}

/// All files below a folder of the store, by their paths.
///
/// # Panics
/// If they can't be listed.
#[must_use]
pub fn files(fs: &MemoryFs, folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs.list(Path::new(folder)).expect("a folder") {
        let path = format!("{folder}/{}", entry.name);
        if entry.is_dir {
            found.extend(files(fs, &path));
        } else {
            found.push(path);
        }
    }
    found
}

/// A file's bytes.
///
/// # Panics
/// If it can't be read.
#[must_use]
pub fn read(fs: &dyn Fs, path: &str) -> Vec<u8> {
    let file = fs.open(Path::new(path), OpenMode::Read).expect("it opens");
    let mut bytes = vec![0; usize::try_from(file.size().expect("it has a size")).expect("small")];
    let got = file.read_at(&mut bytes, 0).expect("it reads");
    bytes.truncate(got);
    bytes
}

/// Writes over a file's bytes.
///
/// # Panics
/// If it can't be written.
pub fn overwrite(fs: &dyn Fs, path: &str, offset: usize, bytes: &[u8]) {
    let file = fs.open(Path::new(path), OpenMode::Write).expect("it opens");
    file.write_at(bytes, offset as u64).expect("it writes");
}

/// Makes a file of these bytes, and the folders above it.
///
/// # Panics
/// If it can't be written.
pub fn create(fs: &dyn Fs, path: &str, bytes: &[u8]) {
    let path = Path::new(path);
    fs.create_dir_all(path.parent().expect("a folder above it")).expect("a folder");
    let file = fs.open(path, OpenMode::CreateNew).expect("it is new");
    file.write_at(bytes, 0).expect("it writes");
}

/// The store with everything in it, as a kill leaves it.
///
/// # Panics
/// If it can't be written.
#[must_use]
pub fn filled() -> MemoryFs {
    let fs = MemoryFs::new();
    let engine = open(&fs).expect("a fresh folder opens");
    fill(&engine).expect("writes");
    drop(engine);
    fs.restart()
}

/// What `haypile check` says of the store: its exit status and its lines.
///
/// # Panics
/// If it could not run.
pub fn check(fs: &MemoryFs) -> (u8, String) {
    let mut out = Vec::new();
    let status = tools::check(fs, Path::new(DIR), &mut out).unwrap_or_else(|why| panic!("{why}"));
    (status, String::from_utf8(out).expect("text"))
}
