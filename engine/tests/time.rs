//! A slot's time: what has expired for one reader does not come back for the next, whatever the clock says after a stop.

mod common;

use std::sync::Arc;

use common::{TestClock, del, get, load_of, open_at, run, set, slot_of};
use haypile_engine::background::Job;
use haypile_engine::clock::TimeMs;
use haypile_engine::copy::Load;
use haypile_engine::engine::Engine;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::key::Key;
use haypile_engine::log::ReadOutcome;
use haypile_engine::log::record::Record;
use haypile_engine::read::Fetched;
use haypile_engine::types::{Seq, Slot};
use haypile_engine::value::Value;

const NAME: &str = "{x}mortal";

fn slot() -> Slot {
    slot_of("x")
}

/// An engine on a clock that is ahead by so much.
fn opened(fs: &MemoryFs, ahead_ms: u64) -> (Arc<Engine>, Arc<TestClock>) {
    let clock = Arc::new(TestClock::default());
    clock.advance(ahead_ms);
    (open_at(fs, Arc::clone(&clock)).expect("opens").0, clock)
}

/// Sets a key that expires after some milliseconds.
fn set_mortal(engine: &Engine, name: &str, ms: u64) {
    let key = Key::new(name.as_bytes());
    let put = run(engine, &key, |tx| {
        let expiry = Some(TimeMs(tx.now(key.slot()).0 + ms));
        tx.put(&key, &Value { expiry, ..Value::whole(0, 0, "short life") })
    });
    put.expect("writes");
}

fn sync(engine: &Engine) {
    engine.write().expect("writes");
    engine.step(Job::Sync).expect("syncs");
}

/// The slot's records after one, as a replica gets them.
fn records(engine: &Engine, after: Seq) -> Vec<u8> {
    let Some(from) = engine.locate(slot(), after.next()) else { return Vec::new() };
    let (mut reader, mut out) = (engine.reader(from), Vec::new());
    while let ReadOutcome::Frame { records, .. } = reader.next() {
        let mut rest = &records[..];
        while let Ok(record) = Record::take(&mut rest) {
            if record.header.slot == slot() && record.header.seq > after && record.body.is_history() {
                out.extend_from_slice(record.bytes);
            }
        }
    }
    out
}

/// An engine that follows the slot at `master` and has all that it has.
fn replica_of(master: &Engine, fs: &MemoryFs) -> Arc<Engine> {
    let (replica, _) = opened(fs, 0);
    replica.add_slots(&[slot()]).expect("adds");
    replica.follow(&[slot()], "master:1").expect("follows");
    let source = master.copy_source(slot()).expect("a source");
    let load = Load { complete: true, ..load_of(slot(), &source) };
    assert!(source.runs.is_empty(), "the log has everything");
    replica.start_loading(&[load]).expect("makes room");
    catch_up(master, &replica);
    replica
}

fn catch_up(master: &Engine, replica: &Engine) {
    let last = replica.position(slot()).last_seq;
    let appended = replica.append_replicated(&records(master, last)).expect("takes records");
    assert!(appended.failed.is_empty(), "{appended:?}");
    sync(replica);
}

/// Says, before a stop, that the key is gone.
type Tells = fn(&Engine);

const TELL: [(&str, Tells); 5] = [
    ("a read", |engine| assert_eq!(get(engine, NAME), None)),
    ("a walk", |engine| {
        let key = Key::new(NAME.as_bytes());
        let walked = run(engine, &key, |tx| tx.keys(key.slot(), 0, usize::MAX)).expect("walks");
        assert_eq!(walked.0.len(), 1);
    }),
    ("a delete that finds nothing", |engine| {
        assert!(!del(engine, NAME).expect("answers"));
    }),
    ("a write in another place that looked", |engine| {
        let (key, other) = (Key::new(NAME.as_bytes()), Key::new(b"{x}other"));
        let looked = run(engine, &key, |tx| {
            assert!(tx.get(&key)?.is_none());
            tx.put(&other, &Value::whole(0, 0, "no mortal there"))
        });
        looked.expect("writes");
    }),
    ("an error", |engine| {
        let (key, fetched) = (Key::new(NAME.as_bytes()), Fetched::default());
        let mut tx = engine.begin(&[key.slot()], &fetched);
        assert!(matches!(tx.get(&key), Ok(None)));
        assert!(tx.put(&key, &Value::whole(0, 0, "given up")).is_ok());
        tx.discard().expect("has a gate");
        engine.write().expect("writes");
    }),
];

#[test]
fn what_has_expired_for_somebody_is_gone_after_a_stop_with_the_clock_set_back() {
    for (what, tell) in TELL {
        let fs = MemoryFs::new();
        let (engine, clock) = opened(&fs, 0);
        engine.add_slots(&[slot()]).expect("adds");
        set(&engine, "{x}stays", "1").expect("writes");
        set_mortal(&engine, NAME, 100);
        assert_eq!(get(&engine, NAME).as_deref(), Some("short life"));
        clock.advance(100);
        tell(&engine);
        let killed = fs.restart();
        sync(&engine);
        drop(engine);
        for (stop, disk) in [("a kill", killed), ("a loss of power", fs.crash(1))] {
            let (again, _) = opened(&disk, 0);
            assert_eq!(get(&again, NAME), None, "{what}, then {stop}");
            assert_eq!(get(&again, "{x}stays").as_deref(), Some("1"));
            // Another stop before anything was written changes nothing.
            drop(again);
            assert_eq!(get(&opened(&disk.restart(), 0).0, NAME), None, "{what}, then {stop} twice");
        }
    }
}

#[test]
fn what_the_owner_reclaims_has_expired_wherever_its_delete_is() {
    let fs = MemoryFs::new();
    let (engine, clock) = opened(&fs, 0);
    engine.add_slots(&[slot()]).expect("adds");
    set_mortal(&engine, NAME, 100);
    clock.advance(5000);
    assert!(engine.step(Job::Expire).expect("walks"));
    assert_eq!(engine.key_count(), 0);
    let (again, _) = opened(&fs.restart(), 0);
    assert_eq!(again.key_count(), 0);
    assert!(again.position(slot()).time >= TimeMs(1_000_100), "{:?}", again.position(slot()).time);
}

#[test]
fn a_slots_time_outlives_the_log_that_has_it() {
    let fs = MemoryFs::new();
    let (engine, clock) = opened(&fs, 0);
    let busy = Slot::of_key(b"busy");
    engine.add_slots(&[slot(), busy]).expect("adds");
    set_mortal(&engine, NAME, 100);
    engine.flush_all().expect("flushes");
    clock.advance(100);
    assert_eq!(get(&engine, NAME), None);
    let first = engine.log_end();
    // Nothing else happens in the slot until the log is let go of.
    for round in 0.. {
        set(&engine, "busy", &"x".repeat(10_000)).expect("writes");
        engine.flush_all().expect("flushes");
        if engine.locate(busy, Seq(1)).is_none() && round > 20 {
            break;
        }
        assert!(round < 1000, "the log from {first} on is never let go of");
    }
    sync(&engine);
    for disk in [fs.restart(), fs.crash(7)] {
        assert_eq!(get(&opened(&disk, 0).0, NAME), None);
    }
}

#[test]
fn a_replica_keeps_what_its_master_told_it_and_what_it_told_itself() {
    let (left, right) = (MemoryFs::new(), MemoryFs::new());
    let (master, _) = opened(&left, 0);
    master.add_slots(&[slot()]).expect("adds");
    set_mortal(&master, NAME, 100);
    sync(&master);
    let replica = replica_of(&master, &right);
    assert_eq!(get(&replica, NAME).as_deref(), Some("short life"));
    replica.set_slot_time(slot(), TimeMs(1_000_100));
    assert_eq!(get(&replica, NAME), None);
    let (again, _) = opened(&right.restart(), 0);
    assert_eq!(get(&again, NAME), None, "hidden once, on the replica");
    // Its own clock decides nothing.
    let (ahead, _) = opened(&right.restart(), 1_000_000);
    assert_eq!(ahead.position(slot()).time, TimeMs(1_000_100));
    // What the replica told is no record: the slot goes on where it was.
    set(&master, "{x}more", "1").expect("writes");
    catch_up(&master, &again);
    assert_eq!(get(&again, "{x}more").as_deref(), Some("1"));
    let mut time = Vec::new();
    let header = haypile_engine::log::record::Header { slot: slot(), term: 1, seq: Seq(2) };
    let body = haypile_engine::log::record::Body::Time(TimeMs(u64::MAX));
    haypile_engine::log::record::encode(&mut time, header, &body);
    assert_eq!(again.append_replicated(&time).expect("is a record").failed.len(), 1, "times are not sent");
}

#[test]
fn a_slot_that_is_handed_over_takes_its_time_with_it() {
    let (left, right) = (MemoryFs::new(), MemoryFs::new());
    let (master, clock) = opened(&left, 0);
    master.add_slots(&[slot()]).expect("adds");
    set_mortal(&master, NAME, 100);
    sync(&master);
    let replica = replica_of(&master, &right);
    clock.advance(100);
    master.fence(&[slot()]).expect("fences");
    // Reads go on behind the fence.
    assert_eq!(get(&master, NAME), None);
    master.grant(slot(), replica.node(), "replica:1").expect("grants");
    catch_up(&master, &replica);
    replica.take_grants(&[slot()]).expect("takes it");
    assert_eq!(get(&replica, NAME), None, "the new owner's clock is behind");
    let (again, _) = opened(&right.restart(), 0);
    assert_eq!(get(&again, NAME), None);
}

#[test]
fn reads_go_on_while_the_log_is_read_only() {
    let fs = MemoryFs::new();
    let (engine, clock) = opened(&fs, 0);
    engine.add_slots(&[slot()]).expect("adds");
    set_mortal(&engine, NAME, 100);
    clock.advance(100);
    fs.set_capacity(Some(0));
    assert!(engine.step(Job::Prepare).is_err());
    assert!(set(&engine, "{x}more", "1").is_err(), "there is no room for the next segment");
    assert_eq!(get(&engine, NAME), None);
    fs.set_capacity(None);
    assert_eq!(get(&opened(&fs.restart(), 0).0, NAME), None);
}

/// A read that did not see a key because it had expired was refused as soon as the log had no room left, not even for its note.
#[test]
fn a_reader_is_answered_where_a_full_disk_leaves_no_room_to_note_the_time() {
    let name = |number: u64| format!("{{x}}mortal{number}");
    let fs = MemoryFs::new();
    let (engine, clock) = opened(&fs, 0);
    engine.add_slots(&[slot()]).expect("adds");
    for number in 0..500 {
        set_mortal(&engine, &name(number), 1 + number);
    }
    fs.set_capacity(Some(fs.used_bytes()));
    while set(&engine, "{x}stays", &"x".repeat(1000)).is_ok() {}
    let mut told = Vec::new();
    for number in 0..500 {
        clock.advance(1);
        let end = engine.log_end();
        assert_eq!(get(&engine, &name(number)), None);
        told.push(engine.log_end() > end);
        let asked = fs.operations();
        assert_eq!(get(&engine, &name(number)), None);
        assert!(told[told.len() - 1] || fs.operations() == asked, "a reader asks the disk for room");
    }
    let last_told = told.iter().rposition(|told| *told).expect("there is room for some");
    assert!(last_told < 400, "{last_told}: the segment is full some time");
    assert!(set(&engine, "{x}stays", "2").is_err());
    // What was told stays told, and a reader tells the rest as soon as there is room.
    let killed = fs.restart();
    killed.set_capacity(None);
    assert_eq!(get(&opened(&killed, 0).0, &name(last_told as u64)), None);
    fs.set_capacity(None);
    engine.step(Job::Prepare).expect("there is room");
    assert_eq!(get(&engine, &name(499)), None);
    assert_eq!(get(&opened(&fs.restart(), 0).0, &name(499)), None);
    set(&engine, "{x}stays", "3").expect("writes");
}
