//! What a store is after it was closed, killed, or lost its power.

mod common;

use std::collections::BTreeMap;
use std::io::ErrorKind;

use common::{del, fresh, get, open, set, slot_of};
use haypile_engine::background::Job;
use haypile_engine::engine::Engine;
use haypile_engine::error::{Error, Result};
use haypile_engine::fs::memory::{Failure, MemoryFs};

type Model = BTreeMap<String, Option<String>>;

fn check(engine: &Engine, model: &Model) {
    for (name, value) in model {
        assert_eq!(get(engine, name).as_ref(), value.as_ref(), "{name}");
    }
    let living = model.values().flatten().count();
    assert_eq!(engine.key_count(), living as u64, "the count of keys");
}

/// Writes, overwrites and deletes, with a step of background work now and then.
fn churn(engine: &Engine, model: &mut Model, rounds: u32, from: u32) -> Result<()> {
    for round in from..from + rounds {
        let name = format!("key{}", round * 7 % 50);
        if round % 5 == 4 {
            del(engine, &name)?;
            model.insert(name, None);
        } else {
            let value = format!("{round:0>100}");
            set(engine, &name, &value)?;
            model.insert(name, Some(value));
        }
        match round % 40 {
            13 => drop(engine.step(Job::Sync)?),
            20 => engine.flush_all()?,
            27 => drop(engine.step(Job::Compact)?),
            34 => drop(engine.step(Job::Prepare)?),
            _ => {}
        }
    }
    Ok(())
}

#[test]
fn everything_is_there_after_a_clean_stop_and_nothing_is_replayed() {
    let fs = MemoryFs::new();
    let engine = fresh(&fs);
    let mut model = Model::new();
    churn(&engine, &mut model, 300, 0).expect("writes");
    check(&engine, &model);
    engine.close().expect("closes");
    drop(engine);
    let (engine, opened) = open(&fs.crash(1)).expect("opens again");
    assert!(opened.clean && !opened.fresh, "{opened:?}");
    check(&engine, &model);
    set(&engine, "later", "1").expect("writes go on");
}

#[test]
fn a_kill_loses_nothing_that_was_written() {
    let fs = MemoryFs::new();
    let engine = fresh(&fs);
    let mut model = Model::new();
    churn(&engine, &mut model, 130, 0).expect("writes");
    check(&engine, &model);
    let killed = fs.restart();
    drop(engine);
    for life in 1..4 {
        let (engine, opened) = open(&killed).expect("opens");
        assert!(!opened.clean);
        check(&engine, &model);
        churn(&engine, &mut model, 130, life * 130).expect("writes");
        check(&engine, &model);
    }
}

/// Power loss at every I/O operation of a workload, and again during the recovery that follows: what was synced is
/// there, and each key has a value that it had at or after the last sync.
#[test]
fn power_may_fail_at_every_operation() {
    let total = {
        let fs = MemoryFs::new();
        let engine = fresh(&fs);
        let start = fs.operations();
        synced_churn(&engine, &mut Model::new()).expect("writes");
        (start, fs.operations())
    };
    for stop in total.0..total.1 {
        let fs = MemoryFs::new();
        let engine = fresh(&fs);
        fs.stop_at(stop);
        let mut model = Model::new();
        let pending = synced_churn(&engine, &mut model).err().map(|error| error.0);
        drop(engine);
        let mut disk = fs.crash(stop);
        // The recovery is cut too, at an operation that moves with the crash point.
        let recovery = disk.operations() + stop % 23;
        disk.stop_at(recovery);
        drop(open(&disk));
        disk = disk.crash(stop + 1);
        let (engine, _) = open(&disk).unwrap_or_else(|error| panic!("stopped at {stop}: {error}"));
        for (name, value) in &model {
            let found = get(&engine, name);
            let maybe = pending.as_ref().filter(|(pending, _)| pending == name).map(|(_, value)| value);
            assert!(
                found == *value || maybe.is_some_and(|maybe| found == *maybe),
                "stopped at {stop}: {name} is {found:?}, should be {value:?} (or {maybe:?})"
            );
        }
        set(&engine, "later", "1").expect("writes go on");
    }
}

type Pending = (String, Option<String>);

/// Writes that are synced one by one. The error names the write that was not acknowledged.
fn synced_churn(engine: &Engine, model: &mut Model) -> std::result::Result<(), (Pending, Error)> {
    for round in 0..60u32 {
        let name = format!("key{}", round * 7 % 11);
        let value = (round % 5 != 4).then(|| format!("{round:0>60}"));
        let done = match &value {
            Some(value) => set(engine, &name, value),
            None => del(engine, &name).map(drop),
        };
        let done = done.and_then(|()| engine.step(Job::Sync).map(drop));
        if let Err(error) = done {
            return Err(((name, value), error));
        }
        model.insert(name.clone(), value);
        let behind = match round % 10 {
            5 => engine.flush_all(),
            8 => engine.step(Job::Compact).map(drop),
            _ => Ok(()),
        };
        if let Err(error) = behind {
            let same = model.get(&name).cloned().flatten();
            return Err(((name, same), error));
        }
    }
    Ok(())
}

#[test]
fn a_folder_in_use_or_without_its_manifest_is_refused_with_the_remedy() {
    let fs = MemoryFs::new();
    let engine = fresh(&fs);
    let error = open(&fs).err().expect("in use").to_string();
    assert!(error.contains("in use by another process"), "{error}");
    drop(engine);
    use haypile_engine::fs::Fs;
    fs.remove(std::path::Path::new("/haypile/manifest/CURRENT")).expect("removes");
    let error = open(&fs).err().expect("no manifest").to_string();
    assert!(error.contains("CURRENT") || error.contains("manifest"), "{error}");
}

#[test]
fn a_node_that_is_killed_twice_before_it_flushed_opens_again() {
    let fs = MemoryFs::new();
    let engine = fresh(&fs);
    set(&engine, "key", "1").expect("writes");
    drop(engine);
    let mut disk = fs;
    for life in 2..5 {
        disk = disk.restart();
        let (engine, _) = open(&disk).unwrap_or_else(|error| panic!("life {life}: {error}"));
        set(&engine, "key", &life.to_string()).expect("writes");
        assert_eq!(get(&engine, "key"), Some(life.to_string()));
    }
}

/// The power failed after a slot was added, and took away what others had written before: the log ended before the
/// position where the slot's life begins, and all that was written to the slot from then on was passed over at the
/// next start.
#[test]
fn a_slot_that_was_added_before_power_was_lost_keeps_what_is_written_later() {
    for seed in 0..8 {
        let fs = MemoryFs::new();
        let (engine, _) = open(&fs).expect("opens");
        engine.add_slots(&[slot_of("old")]).expect("adds");
        (0..20).for_each(|round| set(&engine, "old", &format!("{round:0>500}")).expect("writes"));
        engine.add_slots(&[slot_of("new")]).expect("adds");
        drop(engine);
        let fs = fs.crash(seed);
        let (engine, _) = open(&fs).expect("opens");
        set(&engine, "new", "1").expect("writes");
        while engine.step(Job::Sync).expect("syncs") {}
        drop(engine);
        let (engine, _) = open(&fs.crash(seed)).expect("opens");
        assert_eq!(get(&engine, "new").as_deref(), Some("1"), "power lost by seed {seed}");
    }
}

/// Power took all that was written after a start, so that the log ended in the mark of the clean stop before it: the
/// node went on in the same epoch, with other records under numbers that its replicas had already.
#[test]
fn a_clean_stop_counts_only_for_the_start_that_follows_it() {
    for seed in 0..8 {
        let fs = MemoryFs::new();
        let engine = fresh(&fs);
        set(&engine, "key", "1").expect("writes");
        engine.close().expect("closes");
        drop(engine);
        let (engine, opened) = open(&fs).expect("opens");
        assert!(opened.clean);
        let before = engine.position(slot_of("key")).history.current();
        set(&engine, "key", "2").expect("writes");
        drop(engine);
        let (engine, opened) = open(&fs.crash(seed)).expect("opens again");
        assert!(!opened.clean, "seed {seed}");
        assert_ne!(engine.position(slot_of("key")).history.current(), before, "seed {seed}");
    }
}

/// The manifest's sync failed while it took the result of a compaction: the other threads of the background removed the
/// new file, which no version referred to. But the edit that names it stood in the manifest for the next start, which
/// found no such file.
#[test]
fn files_stay_where_nobody_knows_whether_the_manifest_names_them() {
    let failing = |number: Option<u64>| {
        let fs = MemoryFs::new();
        let engine = fresh(&fs);
        let work = || -> Result<()> {
            for round in 0..12 {
                set(&engine, "key", &format!("{round:0>900}"))?;
                engine.flush(&[slot_of("key")])?;
                engine.step(Job::Compact)?;
            }
            Ok(())
        };
        let start = fs.operations();
        number
            .into_iter()
            .for_each(|number| fs.fail_operation(start + number, Failure::from(ErrorKind::Other)));
        let ended = work();
        for job in [Job::Flush, Job::Compact, Job::Expire, Job::Prepare, Job::Sync] {
            let _refused = engine.step(job);
        }
        let poisoned = matches!(ended, Err(Error::Poisoned(_)));
        (fs.operations() - start, poisoned, fs)
    };
    let (operations, ..) = failing(None);
    let mut stopped = 0;
    for number in 0..operations {
        let (_, poisoned, fs) = failing(Some(number));
        stopped += u32::from(poisoned);
        for left in [fs.restart(), fs.crash(number)] {
            let (engine, _) =
                open(&left).unwrap_or_else(|error| panic!("operation {number} failed: {error}"));
            assert!(get(&engine, "key").is_some() || number < 2, "operation {number} failed");
        }
    }
    assert!(stopped > 40, "{stopped} of {operations} failures stopped the engine");
}

/// A node was read-only for ever once its log had filled the disk, although nothing but records in memory held that log.
#[test]
fn a_log_that_fills_the_disk_makes_room_for_itself() {
    let fs = MemoryFs::new();
    let engine = fresh(&fs);
    fs.set_capacity(Some(fs.used_bytes() + (400 << 10)));
    let mut written = 0_u32;
    let full = loop {
        match set(&engine, &format!("key{}", written % 3), &format!("{written:0>4000}")) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1000, "the disk is full some time");
        drop(engine.step(Job::Prepare));
    };
    assert!(matches!(full, Error::ReadOnly(_)), "{full}");
    let mut steps = 0;
    while set(&engine, "key0", "again").is_err() {
        engine.step(Job::Flush).expect("there is room for a file");
        drop(engine.step(Job::Prepare));
        steps += 1;
        assert!(steps < 5, "read-only for ever");
    }
    assert!(steps > 0);
    drop(engine);
    let (engine, _) = open(&fs.restart()).expect("opens");
    assert_eq!(get(&engine, "key0").as_deref(), Some("again"));
    let last = (0..written).rev().find(|number| number % 3 == 1).expect("there were many");
    assert_eq!(get(&engine, "key1"), Some(format!("{last:0>4000}")));
}

/// A node that was killed with its log's disk full did not start again before somebody made room, although what held
/// the log could go into files.
#[test]
fn a_start_on_a_disk_that_its_log_has_filled_makes_room_for_itself() {
    let fs = MemoryFs::new();
    let (engine, _) = open(&fs).expect("a fresh folder opens");
    // A manifest of all slots is as large as a segment here.
    engine.add_slots(&["key0", "key1", "key2"].map(slot_of)).expect("slots are added");
    fs.set_capacity(Some(fs.used_bytes() + (400 << 10)));
    let mut written = 0_u32;
    let value = |number: u32| format!("{number:0>100}");
    while set(&engine, &format!("key{}", written % 3), &value(written)).is_ok() {
        written += 1;
        assert!(written < 10_000, "the disk is full some time");
    }
    drop(engine);
    let full = fs.restart().used_bytes();
    let (mut advised, mut last_refusal) = (0, String::new());
    // From not even a frame of the manifest to a file, but never another segment.
    for more in (0..20 << 10).step_by(128) {
        let fs = fs.restart();
        fs.set_capacity(Some(full + more));
        let (engine, opened) = match open(&fs) {
            Ok(opened) => opened,
            Err(refused) => {
                let refused = refused.to_string();
                assert!(refused.contains("make room for ") || refused.contains("no space left"), "{refused}");
                advised += u32::from(refused.contains("make room for "));
                last_refusal = refused;
                continue;
            }
        };
        assert!(!opened.clean && opened.records > 0 && advised > 0, "{opened:?}, advised {advised} times");
        set(&engine, "key0", "again").expect("there is room again");
        for key in 1..3 {
            let last = (0..written).rev().find(|number| number % 3 == key).expect("there were many");
            assert_eq!(get(&engine, &format!("key{key}")), Some(value(last)));
        }
        return;
    }
    panic!("room for a file was not enough: {last_refusal}");
}
