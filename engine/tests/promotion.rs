//! A whole node is promoted after its master's death: all of its slots, or none, wherever it is stopped.

mod common;

use std::sync::{Arc, Mutex};

use common::{fresh, get, open, set};
use haypile_engine::engine::Engine;
use haypile_engine::error::Error;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::slot::Role;
use haypile_engine::types::Slot;

const NAMES: [&str; 4] = ["one", "two", "three", "four"];
/// Losses of power tried at each operation: each lets other parts of what was not synced live.
const LOSSES: u64 = 3;

fn all() -> Vec<Slot> {
    Slot::all().collect()
}

/// A node that follows another for all slots, so many that their epochs' records do not fit into one segment of the log.
fn replica() -> (MemoryFs, Arc<Engine>) {
    let fs = MemoryFs::new();
    let engine = fresh(&fs);
    NAMES.iter().for_each(|name| set(&engine, name, name).expect("is written"));
    engine.follow(&all(), "master:1").expect("follows");
    engine.flush_all().expect("flushes");
    NAMES.iter().for_each(|name| assert_eq!(get(&engine, name).as_deref(), Some(*name)));
    (fs, engine)
}

fn owned(engine: &Engine) -> usize {
    Slot::all().filter(|&slot| engine.role(slot) == Role::Master).count()
}

/// How many slots a node owns that starts on this disk; as many at the start after.
fn owned_after(disk: &MemoryFs) -> usize {
    let (engine, _) = open(disk).expect("opens");
    let count = owned(&engine);
    NAMES.iter().for_each(|name| assert_eq!(get(&engine, name).as_deref(), Some(*name)));
    drop(engine);
    let (engine, _) = open(&disk.restart()).expect("opens again");
    assert_eq!(owned(&engine), count, "what a start finds stays");
    if count == 0 {
        engine.promote(&all()).expect("is tried again");
        assert_eq!(owned(&engine), all().len());
    }
    count
}

#[test]
fn a_promotion_that_is_stopped_anywhere_leaves_all_slots_promoted_or_none() {
    let (fs, engine) = replica();
    let stops = Arc::new(Mutex::new(Vec::new()));
    let (kept, mut number) = (Arc::clone(&stops), 0);
    fs.watch(move |step| {
        number += 1;
        let mut found = kept.lock().expect("no panic");
        found.push((format!("before {:?}", step.operation()), step.before()));
        found.extend(step.torn(number).map(|disk| (format!("within {:?}", step.operation()), disk)));
    });
    engine.promote(&all()).expect("is promoted");
    assert_eq!(owned(&engine), all().len());
    let mut stops = std::mem::take(&mut *stops.lock().expect("no panic"));
    stops.push(("after all".to_owned(), fs.restart()));

    let (mut none, mut promoted) = (0, 0);
    for (when, disk) in stops {
        let killed = disk.restart();
        let lost = (0..LOSSES).map(|seed| disk.crash(seed));
        for (how, disk) in std::iter::once(killed).chain(lost).enumerate() {
            match owned_after(&disk) {
                0 => none += 1,
                count if count == all().len() => promoted += 1,
                count => panic!("{count} slots are promoted after a stop {when} ({how})"),
            }
        }
    }
    assert!(none > 0 && promoted > 0, "{none} found none promoted, {promoted} all");
}

#[test]
fn a_promotion_whose_disk_fails_leaves_all_slots_promoted_or_none() {
    let (fs, engine) = replica();
    let before = fs.restart();
    drop(engine);
    let mut failed = 0;
    for ahead in 0.. {
        let disk = before.restart();
        let (engine, _) = open(&disk).expect("opens");
        disk.fail_operation(disk.operations() + ahead, std::io::ErrorKind::Other);
        let done = engine.promote(&all());
        if done.is_ok() && ahead > 0 {
            break;
        }
        failed += usize::from(done.is_err());
        assert!(!matches!(done, Err(Error::Corrupt { .. })), "{done:?}");
        let served = owned(&engine);
        assert!(served == 0 || served == all().len(), "{served} slots are served after {done:?}");
        drop(engine);
        for disk in std::iter::once(disk.restart()).chain((0..LOSSES).map(|seed| disk.crash(seed))) {
            let count = owned_after(&disk);
            assert!(count == 0 || count == all().len(), "{count} slots are promoted after {done:?}");
        }
    }
    assert!(failed > 1, "its writes and its syncs failed");
}

#[test]
fn a_promotion_with_a_slot_that_is_not_whole_promotes_nothing() {
    let (_, engine) = replica();
    let lacking = all()[7];
    engine.remove_slots(&[lacking]).expect("is removed");
    assert!(matches!(engine.promote(&all()), Err(Error::Limit(_))));
    assert_eq!(owned(&engine), 0);
}
