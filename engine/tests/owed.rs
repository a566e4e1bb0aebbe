//! What a master lost with the power and gets back from elsewhere is there when its next epoch begins, wherever it is
//! stopped on the way.

mod common;

use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{TestClock, get, options, set};
use haypile_engine::background::Job;
use haypile_engine::engine::{Engine, Options, SyncMode};
use haypile_engine::error::Error;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::key::Key;
use haypile_engine::log::record::Record;
use haypile_engine::log::{ReadOutcome, records};
use haypile_engine::slot::Role;
use haypile_engine::types::{NodeId, Seq, Slot};

/// Keys of one slot.
const NAMES: [&str; 6] = ["{a}1", "{a}2", "{a}3", "{a}4", "{a}5", "{a}6"];
/// As many of them are synced before the power goes.
const SYNCED: usize = 2;
/// Losses of power tried at each operation.
const LOSSES: u64 = 3;
const REPLICA: NodeId = NodeId([7; 20]);

fn slot() -> Slot {
    Key::new(NAMES[0].as_bytes()).slot()
}

fn open(fs: &MemoryFs, clock: &Arc<TestClock>) -> Engine {
    let options = Options { sync: SyncMode::EverySec, keep_owed: true, ..options() };
    let clock: Arc<TestClock> = Arc::clone(clock);
    Engine::open(Arc::new(fs.clone()), Path::new("/haypile"), clock, options).expect("opens").0
}

/// A slot's records in a node's log, back to back.
fn log_of(engine: &Engine, slot: Slot) -> Vec<u8> {
    let mut reader = engine.reader(engine.locate(slot, Seq(1)).expect("all is there"));
    let mut all = Vec::new();
    while let ReadOutcome::Frame { records: body, .. } = reader.next() {
        let of_slot =
            records(&body).map(|record| record.expect("whole")).filter(|record| record.header.slot == slot);
        of_slot.for_each(|record| all.extend_from_slice(record.bytes));
    }
    all
}

/// The disk of a master as the power left it, with nothing of what was not synced, and what its replica has. Each key holds
/// its name, so often.
fn lost_of(times: usize) -> (MemoryFs, Arc<TestClock>, Vec<u8>) {
    let (fs, clock) = (MemoryFs::new(), Arc::new(TestClock::default()));
    let engine = open(&fs, &clock);
    engine.add_slots(&[slot()]).expect("is added");
    engine.register_replica(REPLICA, "replica:1");
    engine.pin(REPLICA, slot(), Seq::ZERO);
    clock.advance(10_000);
    engine.step(Job::Flush).expect("the manifest learns of the replica");
    let fill = |names: &[&str]| {
        names.iter().for_each(|name| set(&engine, name, &name.repeat(times)).expect("is written"))
    };
    fill(&NAMES[..SYNCED]);
    engine.sync().expect("is synced");
    let synced = fs.restart();
    fill(&NAMES[SYNCED..]);
    engine.write().expect("is written");
    (synced, clock, log_of(&engine, slot()))
}

fn lost() -> (MemoryFs, Arc<TestClock>, Vec<u8>) {
    lost_of(1)
}

/// A start on this disk, once it has been given what the replica has, holds all.
fn assert_whole(disk: &MemoryFs, clock: &Arc<TestClock>, tail: &[u8], when: &str) {
    let engine = open(disk, clock);
    assert_eq!(engine.role(slot()), Role::Owed, "{when}");
    let owed = engine.owed();
    assert_eq!(owed[0].replicas, [(REPLICA, "replica:1".to_owned())], "{when}");
    if owed[0].epoch.term == 1 {
        engine.append_tail(tail).expect("is taken");
    }
    engine.begin_owed(&[slot()]).expect("begins");
    for name in NAMES {
        assert_eq!(get(&engine, name).as_deref(), Some(name), "{when}, term {}", owed[0].epoch.term);
    }
    set(&engine, NAMES[0], "more").expect("it serves");
}

#[test]
fn what_is_taken_back_outlasts_a_stop_anywhere() {
    let (disk, clock, tail) = lost();
    let fs = disk.restart();
    let engine = open(&fs, &clock);
    let stops = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&stops);
    fs.watch(move |step| {
        kept.lock().expect("no panic").push((format!("before {:?}", step.operation()), step.before()));
    });
    let appended = engine.append_tail(&tail).expect("is taken");
    assert_eq!(appended.applied, [(slot(), Seq(NAMES.len() as u64))]);
    engine.begin_owed(&[slot()]).expect("begins");
    assert_eq!(engine.role(slot()), Role::Master);
    let mut stops = std::mem::take(&mut *stops.lock().expect("no panic"));
    stops.push(("after all".to_owned(), fs.restart()));
    assert!(stops.len() > 3, "it writes and syncs");
    for (when, disk) in stops {
        assert_whole(&disk.restart(), &clock, &tail, &when);
        (0..LOSSES)
            .for_each(|seed| assert_whole(&disk.crash(seed), &clock, &tail, &format!("{when} ({seed})")));
    }
}

#[test]
fn what_a_failing_disk_did_not_take_back_is_owed_still() {
    let (disk, clock, tail) = lost();
    let mut failed = 0;
    for ahead in 0.. {
        let fs = disk.restart();
        let engine = open(&fs, &clock);
        fs.fail_operation(fs.operations() + ahead, std::io::ErrorKind::Other);
        let done = engine.append_tail(&tail).and_then(|_| engine.begin_owed(&[slot()]));
        if done.is_ok() {
            break;
        }
        failed += 1;
        drop(engine);
        assert_whole(&fs.restart(), &clock, &tail, &format!("after {done:?}"));
        (0..LOSSES).for_each(|seed| assert_whole(&fs.crash(seed), &clock, &tail, &format!("after {done:?}")));
    }
    assert!(failed > 1, "its writes and its syncs failed");
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let (disk, clock, tail) = lost();
    let engine = open(&disk, &clock);
    let mut cut = &tail[..];
    let all: Vec<&[u8]> =
        std::iter::from_fn(|| Record::take(&mut cut).ok().map(|record| record.bytes)).collect();
    let gap = engine.append_tail(all[SYNCED + 1]).expect("is a record");
    assert_eq!((gap.applied.len(), gap.failed.len()), (0, 1), "{gap:?}");
    assert!(matches!(engine.append_tail(b"no record"), Err(Error::Limit(_))));
    let known = engine.append_tail(all[0]).expect("is known");
    assert_eq!(known.applied, [(slot(), Seq(SYNCED as u64))], "how far it is, not what came");
    assert_eq!(engine.position(slot()).last_seq, Seq(SYNCED as u64));
    engine.append_tail(&tail).expect("is taken");
    engine.begin_owed(&[slot()]).expect("begins");
    let after = engine.append_tail(&tail).expect("are records");
    assert!(after.applied.is_empty() && after.failed.is_empty(), "nothing is owed any more: {after:?}");
}

#[test]
fn a_stop_in_order_leaves_owed_what_is_owed() {
    let (disk, clock, tail) = lost();
    for taken in [&tail[..0], &tail[..]] {
        let fs = disk.restart();
        let engine = open(&fs, &clock);
        engine.append_tail(taken).expect("is taken");
        engine.close().expect("closes");
        drop(engine);
        assert_whole(&fs.restart(), &clock, &tail, "after a stop in order");
    }
}

#[test]
fn after_what_was_owed_has_begun_a_stop_in_order_is_a_clean_one() {
    let (disk, clock, tail) = lost();
    let engine = open(&disk, &clock);
    engine.append_tail(&tail).expect("is taken");
    engine.begin_owed(&[slot()]).expect("begins");
    engine.close().expect("closes");
    drop(engine);
    let engine = open(&disk.restart(), &clock);
    assert_eq!(engine.role(slot()), Role::Master);
    assert_eq!(engine.position(slot()).history.current().expect("it has one").term, 2);
    NAMES.iter().for_each(|name| assert_eq!(get(&engine, name).as_deref(), Some(*name)));
}

/// A node that had taken a slot over was its owner by the log's word only until the manifest learned it, and began the next
/// epoch after a loss of power without asking those who followed it all the while.
#[test]
fn an_owner_by_the_logs_word_only_asks_too() {
    let (fs, clock) = (MemoryFs::new(), Arc::new(TestClock::default()));
    let engine = open(&fs, &clock);
    engine.add_slots(&[slot()]).expect("is added");
    set(&engine, NAMES[0], "1").expect("is written");
    engine.follow(&[slot()], "master:1").expect("follows");
    engine.register_replica(REPLICA, "replica:1");
    engine.pin(REPLICA, slot(), Seq(1));
    engine.step(Job::Save).expect("the manifest learns of the replica");
    engine.take_grants(&[slot()]).expect("takes it over");
    assert_eq!(engine.role(slot()), Role::Master);
    let synced = fs.restart();
    set(&engine, NAMES[1], "2").expect("is written");
    engine.write().expect("is written");
    let tail = log_of(&engine, slot());
    drop(engine);
    for seed in 0..LOSSES {
        // A stop, and one in order, find it in the log still, or in the manifest.
        let disk = synced.crash(seed);
        for how in 0..3 {
            let engine = open(&disk, &clock);
            assert_eq!(engine.role(slot()), Role::Owed, "loss {seed}, stop {how}");
            match how {
                0 => {}
                1 => engine.flush_all().expect("is flushed"),
                _ => engine.close().expect("closes"),
            }
        }
        let engine = open(&disk, &clock);
        engine.append_tail(&tail).expect("is taken");
        engine.begin_owed(&[slot()]).expect("begins");
        assert_eq!(engine.role(slot()), Role::Master);
        assert_eq!(get(&engine, NAMES[1]).as_deref(), Some("2"), "loss {seed}");
    }
}

/// What a full disk had no room for was given up as what a replica does not have.
#[test]
fn what_a_full_disk_has_no_room_for_is_not_given_up() {
    const TIMES: usize = 10_000;
    let (disk, clock, tail) = lost_of(TIMES);
    let engine = open(&disk, &clock);
    disk.set_capacity(Some(disk.used_bytes()));
    let refused = engine.append_tail(&tail).expect_err("some has no room");
    assert!(matches!(refused, Error::ReadOnly(_)), "{refused:?}");
    let some = engine.position(slot()).last_seq;
    assert!(some < Seq(NAMES.len() as u64), "all had room");
    assert_eq!(engine.role(slot()), Role::Owed);
    disk.set_capacity(None);
    let appended = engine.append_tail(&tail).expect("is taken");
    assert_eq!(appended.applied, [(slot(), Seq(NAMES.len() as u64))], "whatever came before");
    engine.begin_owed(&[slot()]).expect("begins");
    NAMES.iter().for_each(|name| assert_eq!(get(&engine, name), Some(name.repeat(TIMES))));
}
