//! The whole engine: transactions over the same slots, their replies, flushes and compactions under readers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use haypile_engine::clock::{Clock, TimeMs};
use haypile_engine::engine::{Engine, Fetched, Gate, Options, SyncMode};
use haypile_engine::fs::Fs;
use haypile_engine::key::Key;
use haypile_engine::tx::{Read, Stop, Tx};
use haypile_engine::types::Slot;
use haypile_engine::value::Value;
use loom::future::block_on;
use loom::thread;

use crate::disk::Disk;
use crate::explore;

/// Time stands still, so that a model is the same each time.
struct Still;

impl Clock for Still {
    fn wall(&self) -> TimeMs {
        TimeMs(1_000_000)
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

fn key(name: &str) -> Key {
    Key::new(name.as_bytes())
}

fn slots_of(names: &[&str]) -> Vec<Slot> {
    let mut slots: Vec<_> = names.iter().map(|name| key(name).slot()).collect();
    slots.sort_unstable();
    slots.dedup();
    slots
}

fn open(disk: &Disk, names: &[&str]) -> Arc<Engine> {
    let options =
        Options { log_segment_bytes: 64 << 10, memory_bytes: 1 << 20, seed: Some(1), ..Options::default() };
    let (engine, _) =
        Engine::open(Arc::new(disk.clone()), Path::new("/haypile"), Arc::new(Still), options).expect("opens");
    engine.set_sync_mode(SyncMode::No);
    engine.add_slots(&slots_of(names)).expect("added");
    Arc::new(engine)
}

/// Runs a transaction over the slots of these keys, again with what it missed, as the server does.
fn run<T>(engine: &Engine, names: &[&str], mut act: impl FnMut(&mut Tx<'_>) -> Read<T>) -> (T, Gate) {
    let mut fetched = Fetched::default();
    loop {
        let mut tx = engine.begin(&slots_of(names), &fetched);
        match act(&mut tx) {
            Ok(done) => return (done, tx.commit().expect("room")),
            Err(Stop::Miss) => {
                let wanted = tx.abandon();
                engine.fetch(wanted, &mut fetched).expect("a version's files can be read");
            }
            Err(Stop::Failed(error)) => panic!("{error}"),
        }
    }
}

/// Sets all these keys to a value.
fn set(engine: &Engine, names: &[&str], value: &'static str) -> Gate {
    let put =
        |tx: &mut Tx<'_>| names.iter().try_for_each(|name| tx.put(&key(name), &Value::whole(0, 0, value)));
    run(engine, names, put).1
}

/// What stands at these keys, and when that may be told.
fn read(engine: &Engine, names: &[&str]) -> (Vec<Option<Bytes>>, Gate) {
    let get = |tx: &mut Tx<'_>| {
        names.iter().map(|name| Ok(tx.get(&key(name))?.map(|value| value.payload))).collect::<Read<Vec<_>>>()
    };
    run(engine, names, get)
}

fn value(value: &'static str) -> Option<Bytes> {
    Some(Bytes::from(value))
}

/// A client: sets both keys, waits until that may be told, and holds that it is true then.
fn set_both(disk: &Disk, engine: &Engine, value: &'static str) {
    let gate = set(engine, NAMES, value);
    engine.write().expect("written");
    block_on(engine.reached(gate)).expect("sound");
    assert!(disk.holds(value.as_bytes(), false), "a reply before its write");
}

const NAMES: &[&str] = &["one", "two"];

/// Words of stack that opening a store takes, and more: loom's own threads have 4096.
const STACK_WORDS: usize = 1 << 17;

fn spawn<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    thread::Builder::new().stack_size(STACK_WORDS).spawn(act).expect("a thread")
}

/// As [`explore`], on a larger stack.
fn explore_deep(preemptions: usize, model: fn()) {
    explore(preemptions, move || spawn(model).join().expect("ends"));
}

#[test]
fn a_transaction_over_two_slots_is_seen_whole_and_is_in_the_log_where_it_was_applied() {
    explore_deep(2, || {
        let disk = Disk::new();
        let engine = open(&disk, NAMES);
        let other = {
            let (disk, engine) = (disk.clone(), Arc::clone(&engine));
            spawn(move || set_both(&disk, &engine, "set by the other"))
        };
        let (seen, gate) = read(&engine, NAMES);
        assert_eq!(seen[0], seen[1], "a group is seen whole");
        block_on(engine.reached(gate)).expect("sound");
        assert!(
            seen[0].as_ref().is_none_or(|seen| disk.holds(seen, false)),
            "a read's reply before the write"
        );
        set_both(&disk, &engine, "set by this one");
        other.join().expect("ends");
        let (last, _) = read(&engine, NAMES);
        assert_eq!(last[0], last[1]);
        drop(engine);
        let again = open(&disk, NAMES);
        assert_eq!(read(&again, NAMES).0, last, "the log's order is the order in which it was applied");
    });
}

#[test]
fn a_key_is_found_while_it_goes_from_memory_to_a_file() {
    explore_deep(3, || {
        let disk = Disk::new();
        let engine = open(&disk, &["one"]);
        set(&engine, &["one"], "first");
        engine.flush(&slots_of(&["one"])).expect("flushed");
        set(&engine, &["one"], "second");
        let flusher = {
            let engine = Arc::clone(&engine);
            spawn(move || engine.flush(&slots_of(&["one"])).expect("flushed"))
        };
        assert_eq!(read(&engine, &["one"]).0, [value("second")]);
        flusher.join().expect("ends");
        assert_eq!(read(&engine, &["one"]).0, [value("second")]);
    });
}

#[test]
fn a_run_that_a_flush_replaces_is_read_to_its_end_and_goes_after_it() {
    explore_deep(2, || {
        let disk = Disk::new();
        let engine = open(&disk, &["one"]);
        set(&engine, &["one"], "first");
        engine.flush(&slots_of(&["one"])).expect("flushed");
        let packs = disk.list(Path::new("/haypile/data")).expect("listed");
        assert_eq!(packs.len(), 1);
        let flusher = {
            let engine = Arc::clone(&engine);
            spawn(move || {
                let clear = |tx: &mut Tx<'_>| {
                    tx.clear(key("one").slot());
                    tx.put(&key("one"), &Value::whole(0, 0, "second"))
                };
                run(&engine, &["one"], clear);
                engine.flush(&slots_of(&["one"])).expect("flushed");
            })
        };
        let (seen, _) = read(&engine, &["one"]);
        assert!([value("first"), value("second")].contains(&seen[0]), "{seen:?}");
        flusher.join().expect("ends");
        // Whoever changes the manifest next removes what a reader held.
        set(&engine, &["one"], "third");
        engine.flush(&slots_of(&["one"])).expect("flushed");
        assert!(
            !disk.exists(&Path::new("/haypile/data").join(&packs[0].name)).expect("looked"),
            "it stays for ever"
        );
    });
}

/// An engine whose slot has as many runs as a compaction wants, all with the same key, and the files that they are in.
fn with_runs(disk: &Disk) -> (Arc<Engine>, Vec<PathBuf>) {
    let engine = open(disk, &["one"]);
    for value in ["first", "second", "third", "fourth"] {
        set(&engine, &["one"], value);
        engine.flush(&slots_of(&["one"])).expect("flushed");
    }
    let packs = files(disk);
    assert_eq!(packs.len(), 4);
    (engine, packs)
}

fn files(disk: &Disk) -> Vec<PathBuf> {
    let dir = Path::new("/haypile/data");
    disk.list(dir).expect("listed").into_iter().map(|entry| dir.join(entry.name)).collect()
}

fn compact(engine: &Engine) {
    assert!(engine.compact_once(&AtomicBool::new(false)).expect("compacted"), "there are enough runs");
}

#[test]
fn what_a_compaction_merges_is_read_to_its_end_and_goes_after_it() {
    explore_deep(2, || {
        let disk = Disk::new();
        let (engine, merged) = with_runs(&disk);
        let compaction = {
            let engine = Arc::clone(&engine);
            spawn(move || compact(&engine))
        };
        assert_eq!(read(&engine, &["one"]).0, [value("fourth")]);
        compaction.join().expect("ends");
        assert_eq!(read(&engine, &["one"]).0, [value("fourth")]);
        // Whoever changes the manifest next removes what a reader held.
        set(&engine, &["one"], "fifth");
        engine.flush(&slots_of(&["one"])).expect("flushed");
        let left = files(&disk);
        assert!(
            merged.iter().all(|file| !left.contains(file)) && left.len() == 2,
            "they stay for ever: {left:?}"
        );
    });
}

#[test]
fn a_compaction_and_a_flush_of_one_slot_install_both_under_a_reader() {
    explore_deep(2, || {
        let disk = Disk::new();
        let (engine, merged) = with_runs(&disk);
        set(&engine, &["one"], "fifth");
        let compaction = {
            let engine = Arc::clone(&engine);
            spawn(move || compact(&engine))
        };
        engine.flush(&slots_of(&["one"])).expect("flushed");
        assert_eq!(read(&engine, &["one"]).0, [value("fifth")]);
        compaction.join().expect("ends");
        assert_eq!(read(&engine, &["one"]).0, [value("fifth")]);
        set(&engine, &["one"], "sixth");
        engine.flush(&slots_of(&["one"])).expect("flushed");
        let left = files(&disk);
        assert!(
            merged.iter().all(|file| !left.contains(file)) && left.len() <= 3,
            "they stay for ever: {left:?}"
        );
        engine.close().expect("stops");
        drop(engine);
        let again = open(&disk, &["one"]);
        assert_eq!(read(&again, &["one"]).0, [value("sixth")], "the manifest says what was installed");
    });
}
