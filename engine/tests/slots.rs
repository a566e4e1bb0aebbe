//! A slot's life on one node and between two: added, followed, copied, promoted, handed over, removed.

mod common;

use std::sync::Arc;

use common::{TestClock, del, fresh, get, load_of, open, open_at, set, slot_of};
use haypile_engine::background::Job;
use haypile_engine::clock::TimeMs;
use haypile_engine::copy::{Load, part_id};
use haypile_engine::engine::Engine;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::history::Relation;
use haypile_engine::log::ReadOutcome;
use haypile_engine::log::record::Record;
use haypile_engine::replica::AppendError;
use haypile_engine::roles::GrantFate;
use haypile_engine::slot::Role;
use haypile_engine::types::{Epoch, NodeId, Seq, Slot};

const NAMES: [&str; 3] = ["{x}1", "{x}2", "{x}3"];

fn slot() -> Slot {
    slot_of("x")
}

/// All records of a slot after `after`, as they lie in the engine's log.
fn records(engine: &Engine, slot: Slot, after: Seq) -> Vec<u8> {
    let Some(from) = engine.locate(slot, after.next()) else { return Vec::new() };
    let mut reader = engine.reader(from);
    let mut out = Vec::new();
    loop {
        match reader.next() {
            ReadOutcome::Frame { records, .. } => {
                let mut rest = &records[..];
                while !rest.is_empty() {
                    let record = Record::take(&mut rest).expect("a record of the log");
                    if record.header.slot == slot && record.header.seq > after && record.body.is_history() {
                        out.extend_from_slice(record.bytes);
                    }
                }
            }
            ReadOutcome::CaughtUp => return out,
            other => panic!("{other:?}"),
        }
    }
}

/// The old owner hears that the new one has begun its epoch.
fn finish(old: &Engine, new: &Engine) {
    let began = new.position(slot()).history.current().expect("owns it");
    let ended = old.position(slot()).history.current().expect("owned it");
    assert_eq!(old.finish_grants(NodeId([0xee; 20]), &[(slot(), began)]), [], "it was granted to another");
    assert_eq!(
        old.finish_grants(new.node(), &[(slot(), ended)]),
        [],
        "that is the epoch which the grant ended"
    );
    assert_eq!(old.finish_grants(new.node(), &[(slot(), began)]), [slot()]);
    assert_eq!(old.finish_grants(new.node(), &[(slot(), began)]), [], "it is known");
}

/// Copies the slot from `master` to `replica`, with all that follows.
fn copy(master: &Engine, replica: &Engine, slot: Slot) {
    replica.follow(&[slot], "master:1").expect("follows");
    copy_into(master, replica, slot);
}

fn copy_into(master: &Engine, replica: &Engine, slot: Slot) {
    master.register_replica(replica.node(), "replica:1");
    let source = master.copy_source(slot).expect("a source");
    replica.start_loading(&[load_of(slot, &source)]).expect("makes room");
    // Records come while the runs still do.
    let appended = replica.append_replicated(&records(master, slot, source.seq)).expect("takes records");
    assert!(appended.failed.is_empty(), "{:?}", appended.failed);
    let mut import = replica.importer(slot, master.node()).expect("is loading");
    for run in &source.runs {
        import.begin_run(part_id(run.meta()), 0).expect("begins");
        let mut chunk = [0; 1000];
        let mut offset = 0;
        while offset < run.meta().len {
            let got = run.read_image(offset, &mut chunk).expect("reads");
            import.chunk(&chunk[..got]).expect("writes");
            offset += got as u64;
        }
        import.end_run().expect("is whole");
    }
    import.finish().expect("installs");
    replica.write().expect("writes");
}

fn pair() -> (MemoryFs, Arc<Engine>, MemoryFs, Arc<Engine>) {
    let (left, right) = (MemoryFs::new(), MemoryFs::new());
    let master = fresh(&left);
    let (replica, _) = open(&right).expect("opens");
    replica.add_slots(&[slot()]).expect("adds");
    (left, master, right, replica)
}

#[test]
fn roles_and_data_survive_a_restart_and_a_removed_slot_leaves_nothing() {
    let fs = MemoryFs::new();
    let engine = fresh(&fs);
    set(&engine, "{x}1", "old").expect("writes");
    engine.flush_all().expect("flushes");
    set(&engine, "{x}2", "old").expect("writes");
    engine.remove_slots(&[slot()]).expect("removes");
    engine.remove_slots(&[slot()]).expect("again is fine");
    assert_eq!(engine.role(slot()), Role::Absent);
    engine.add_slots(&[slot()]).expect("adds");
    assert_eq!(get(&engine, "{x}1"), None);
    set(&engine, "{x}3", "new").expect("writes");
    drop(engine);
    let (engine, _) = open(&fs.restart()).expect("opens");
    assert_eq!(NAMES.map(|name| get(&engine, name)), [None, None, Some("new".to_owned())]);
    let history = engine.position(slot()).history;
    assert_eq!(history.starts().len(), 2, "an unclean start begins an epoch: {history:?}");
}

#[test]
fn a_copy_with_what_followed_it_equals_its_source_and_streams_on() {
    let (_, master, disk, replica) = pair();
    (0..200).for_each(|n| set(&master, &format!("{{x}}n{n}"), "before").expect("writes"));
    master.flush(&[slot()]).expect("flushes");
    (0..50).for_each(|n| assert!(del(&master, &format!("{{x}}n{n}")).expect("deletes")));
    set(&master, "{x}1", "after").expect("writes");
    copy(&master, &replica, slot());
    let same = |replica: &Engine| {
        let (mine, theirs) = (replica.position(slot()), master.position(slot()));
        assert_eq!((mine.last_seq, mine.keys), (theirs.last_seq, theirs.keys));
        assert_eq!(theirs.history.relate(theirs.last_seq, &mine.history, mine.last_seq), Relation::Prefix);
        assert_eq!(get(replica, "{x}1"), get(&master, "{x}1"));
        assert_eq!(get(replica, "{x}n0"), None);
        assert_eq!(get(replica, "{x}n199").as_deref(), Some("before"));
    };
    same(&replica);
    set(&master, "{x}1", "later").expect("writes");
    let last = replica.position(slot()).last_seq;
    let more = records(&master, slot(), last);
    replica.append_replicated(&more).expect("takes");
    replica.write().expect("writes");
    same(&replica);
    assert_eq!(records(&replica, slot(), last), more, "the same bytes in both logs");
    let again = replica.append_replicated(&more).expect("is no poison");
    assert!(matches!(again.failed[..], [(_, AppendError::Gap { .. })]), "{again:?}");
    replica.flush(&[slot()]).expect("flushes");
    while replica.step(Job::Compact).expect("compacts") {}
    same(&replica);
    drop(replica);
    let (replica, _) = open(&disk.restart()).expect("opens");
    assert!(matches!(replica.role(slot()), Role::Replica { .. }));
    same(&replica);
}

#[test]
fn a_clear_while_the_copy_comes_is_not_undone_by_it() {
    let (_, master, _, replica) = pair();
    set(&master, "{x}1", "1").expect("writes");
    master.flush(&[slot()]).expect("flushes");
    let key = haypile_engine::key::Key::new(b"{x}1");
    common::run(&master, &key, |tx| {
        tx.clear(key.slot());
        Ok(())
    })
    .expect("clears");
    set(&master, "{x}2", "2").expect("writes");
    copy(&master, &replica, slot());
    assert_eq!((get(&replica, "{x}1"), get(&replica, "{x}2").as_deref()), (None, Some("2")));
    assert_eq!(replica.position(slot()).keys, 1);
}

#[test]
fn a_clear_that_power_takes_has_taken_nothing_of_the_copy_with_it() {
    let (_, master, disk, replica) = pair();
    set(&master, "{x}1", "1").expect("writes");
    master.flush(&[slot()]).expect("flushes");
    let base = master.position(slot()).last_seq;
    let key = haypile_engine::key::Key::new(b"{x}1");
    common::run(&master, &key, |tx| {
        tx.clear(key.slot());
        Ok(())
    })
    .expect("clears");
    copy(&master, &replica, slot());
    for seed in 0..16 {
        let (replica, _) = open(&disk.crash(seed)).expect("opens");
        let position = replica.position(slot());
        if matches!(position.role, Role::Replica { .. }) {
            let cleared = position.last_seq > base;
            assert_eq!(get(&replica, "{x}1").is_none(), cleared, "at {}", position.last_seq);
        }
    }
}

#[test]
fn a_handover_leaves_one_owner_at_every_step_and_after_every_restart() {
    let (left, master, right, replica) = pair();
    set(&master, "{x}1", "1").expect("writes");
    copy(&master, &replica, slot());
    master.fence(&[slot()]).expect("fences");
    let granted = master.grant(slot(), replica.node(), "replica:1").expect("grants");
    assert!(matches!(master.role(slot()), Role::Granted { .. }));
    // The old owner is killed: the log knows that it gave the slot away.
    let (restarted, _) = open(&left.restart()).expect("opens");
    assert!(matches!(restarted.role(slot()), Role::Granted { .. }), "{:?}", restarted.role(slot()));
    let last = replica.position(slot()).last_seq;
    replica.append_replicated(&records(&restarted, slot(), last)).expect("takes the grant");
    replica.write().expect("writes");
    assert_eq!(replica.position(slot()).last_seq, granted);
    // The new owner is killed before it begins its epoch. It does not begin it by itself when it comes back: the
    // record may have left the old owner before it was durable there. Once that one has said so, it does.
    drop(replica);
    let (replica, _) = open(&right.restart()).expect("opens");
    assert!(matches!(replica.role(slot()), Role::Replica { .. }), "{:?}", replica.role(slot()));
    replica.take_grants(&[slot()]).expect("takes it");
    assert_eq!(replica.role(slot()), Role::Master);
    set(&replica, "{x}1", "2").expect("owns it");
    finish(&restarted, &replica);
    restarted.detach(&[slot()]).expect("no one, typed on the old master");
    assert!(matches!(restarted.role(slot()), Role::Moved { .. }));
    assert!(restarted.add_slots(&[slot()]).is_err(), "a moved slot is removed before it is added");
    restarted.follow(&[slot()], "replica:1").expect("may follow the new owner");
    let last = restarted.position(slot()).last_seq;
    let appended = restarted.append_replicated(&records(&replica, slot(), last)).expect("takes");
    assert!(appended.failed.is_empty(), "{appended:?}");
    assert_eq!(get(&restarted, "{x}1").as_deref(), Some("2"));
    assert_eq!(restarted.position(slot()).granted, None);
}

#[test]
fn a_third_node_that_saw_the_grant_can_only_detach() {
    let (_, master, _, replica) = pair();
    copy(&master, &replica, slot());
    master.fence(&[slot()]).expect("fences");
    master.grant(slot(), haypile_engine::types::NodeId([9; 20]), "other:1").expect("grants");
    let last = replica.position(slot()).last_seq;
    replica.append_replicated(&records(&master, slot(), last)).expect("takes");
    replica.detach(&[slot()]).expect("detaches");
    assert_eq!(replica.role(slot()), Role::Moved { to: "other:1".to_owned() });
    assert!(replica.promote(&[slot()]).is_err());
    replica.remove_slots(&[slot()]).expect("removes");
}

/// The slot goes from `master` to `replica` by a grant, whose epoch is returned.
/// A copy that was taken after the granting record did not say to whom it grants: whoever took it could be promoted
/// past the grant, and the slot had two owners.
#[test]
fn a_third_node_that_gets_the_grant_with_a_copy_can_only_detach() {
    let (_, master, right, third) = pair();
    set(&master, NAMES[0], "1").expect("writes");
    master.fence(&[slot()]).expect("holds");
    let to = NodeId([7; 20]);
    master.grant(slot(), to, "new:1").expect("grants");
    master.flush_all().expect("flushes");
    copy(&master, &third, slot());
    assert_eq!(third.position(slot()).granted, Some((to, "new:1".to_owned())));
    drop(third);
    let (third, _) = open(&right.restart()).expect("opens");
    assert_eq!(third.position(slot()).granted, Some((to, "new:1".to_owned())), "also after a restart");
    third.detach(&[slot()]).expect("is somebody else's");
}

/// What an operator said with `force` was forgotten when the node stopped before its master had answered.
#[test]
fn force_is_remembered_over_a_restart_until_the_masters_data_come() {
    let (_, master, right, replica) = pair();
    set(&replica, NAMES[0], "mine").expect("writes");
    replica.follow_by_force(&[slot()], "master:1").expect("follows");
    drop(replica);
    let right = right.restart();
    let (replica, _) = open(&right).expect("opens");
    assert!(replica.position(slot()).force);
    replica.follow(&[slot()], "master:1").expect("turned to it again");
    assert!(!replica.position(slot()).force, "not said this time");
    replica.follow_by_force(&[slot()], "master:1").expect("follows");
    copy_into(&master, &replica, slot());
    assert!(!replica.position(slot()).force, "it has been of use");
    drop(replica);
    let (replica, _) = open(&right.restart()).expect("opens");
    assert!(!replica.position(slot()).force);
}

/// The first record of the upstream's ended it in memory only: the next start had it again, and what parted the two after that
/// was overwritten unasked.
#[test]
fn force_is_used_up_when_the_master_goes_on_from_what_is_here() {
    let (_, master, right, replica) = pair();
    copy(&master, &replica, slot());
    replica.follow_by_force(&[slot()], "master:1").expect("follows");
    let last = replica.position(slot()).last_seq;
    set(&master, NAMES[0], "more").expect("writes");
    replica.append_replicated(&records(&master, slot(), last)).expect("takes the record");
    replica.write().expect("writes");
    drop(replica);
    let killed = right.restart();
    let (replica, _) = open(&killed).expect("opens");
    assert!(!replica.position(slot()).force, "its first record came");
    replica.follow_by_force(&[slot()], "master:1").expect("follows");
    replica.forget_force(&[slot()]).expect("is durable");
    assert!(!replica.position(slot()).force);
    drop(replica);
    for seed in 0..8 {
        let (replica, _) = open(&killed.crash(seed)).expect("opens");
        assert!(!replica.position(slot()).force, "the master had said that it goes on");
    }
}

#[test]
fn grants_that_can_not_all_be_taken_leave_every_slot_as_it_was() {
    let (_, master, _, replica) = pair();
    copy(&master, &replica, slot());
    for owned in [0, 1023].map(|number| Slot::new(number).expect("in range")) {
        replica.add_slots(&[owned]).expect("is added");
        assert!(replica.take_grants(&[slot(), owned]).is_err());
        assert_eq!(replica.position(slot()).granted, None);
        assert!(matches!(replica.role(slot()), Role::Replica { .. }));
    }
}

fn grant(master: &Engine, replica: &Engine) -> Epoch {
    let ended = master.position(slot()).history.current().expect("an owner has an epoch");
    master.fence(&[slot()]).expect("fences");
    master.grant(slot(), replica.node(), "replica:1").expect("grants");
    let last = replica.position(slot()).last_seq;
    replica.append_replicated(&records(master, slot(), last)).expect("takes the record");
    replica.write().expect("writes");
    ended
}

/// A node took a slot, handed it on and removed it, while the old owner was down. When that one came back and asked,
/// the answer was that nobody took it, and it owned the slot again beside the third node.
#[test]
fn a_grant_that_was_taken_stays_taken_whatever_became_of_the_slot_since() {
    let (_, master, right, replica) = pair();
    copy(&master, &replica, slot());
    let ended = grant(&master, &replica);
    replica.take_grants(&[slot()]).expect("takes it");
    let began = replica.position(slot()).history.current().expect("owns it");
    // What it copies from the old owner has the grant to it again: it took that one already.
    let mut away = replica;
    for again in [false, true] {
        if again {
            away.fence(&[slot()]).expect("fences");
            away.grant(slot(), haypile_engine::types::NodeId([9; 20]), "third:1").expect("grants");
            let third = NodeId([9; 20]);
            assert_eq!(away.finish_grants(third, &[(slot(), Epoch { term: 9, tag: 9 })]), [slot()]);
            away.follow(&[slot()], "master:1").expect("follows");
            copy(&master, &away, slot());
            assert!(away.take_grants(&[slot()]).is_err(), "a grant is taken once");
            away.remove_slots(&[slot()]).expect("removes");
        }
        assert_eq!(away.refuse_grant(slot(), ended).expect("knows"), GrantFate::Taken(began));
        drop(away);
        away = open(&right.restart()).expect("opens").0;
    }
    assert_eq!(away.refuse_grant(slot(), ended).expect("knows"), GrantFate::Taken(began));
}

/// The answer "refused" was no promise: with the slot added and followed anew, the node took the grant after all,
/// while the old owner began an epoch upon the refusal.
#[test]
fn a_refused_grant_is_never_taken() {
    let (_, master, right, replica) = pair();
    copy(&master, &replica, slot());
    let ended = grant(&master, &replica);
    assert_eq!(replica.grant_fate(slot(), ended), GrantFate::Open);
    replica.remove_slots(&[slot()]).expect("removes");
    assert_eq!(replica.refuse_grant(slot(), ended).expect("refuses"), GrantFate::Refused);
    drop(replica);
    let (replica, _) = open(&right.restart()).expect("opens");
    replica.add_slots(&[slot()]).expect("adds");
    copy(&master, &replica, slot());
    assert!(matches!(replica.role(slot()), Role::Replica { .. }));
    assert!(replica.take_grants(&[slot()]).is_err(), "it was refused");
}

/// A slot that a node takes in for another was its own for a moment, empty: a stop in that moment left a second, writable owner.
#[test]
fn a_slot_that_is_added_as_a_replica_never_is_an_owner_whenever_the_node_stops() {
    let master = fresh(&MemoryFs::new());
    set(&master, "{x}1", "theirs").expect("writes");
    let mut added = 0;
    for stop_at in 0..64 {
        let fs = MemoryFs::new();
        let (replica, _) = open(&fs).expect("opens");
        fs.stop_at(fs.operations() + stop_at);
        let told = replica.add_replicas(&[slot()], "master:1");
        assert!(!matches!(replica.role(slot()), Role::Master), "{stop_at}");
        drop(replica);
        let (replica, _) = open(&fs.crash(stop_at)).expect("opens");
        match replica.role(slot()) {
            Role::Absent => assert!(told.is_err(), "{stop_at}: what was said is durable"),
            Role::Loading { upstream } => {
                added += 1;
                assert_eq!(upstream, "master:1");
                assert!(replica.promote(&[slot()]).is_err(), "it has nothing");
                assert!(replica.add_replicas(&[slot()], "other:1").is_err(), "it is there");
                copy_into(&master, &replica, slot());
                assert_eq!(get(&replica, "{x}1").as_deref(), Some("theirs"));
            }
            role => panic!("{stop_at}: {role:?}"),
        }
        if told.is_ok() {
            break;
        }
    }
    assert!(added > 0, "it never got through");
}

/// A node was killed while its new master sent it the slot's history, after the start of an epoch that had once been
/// its own: it came back as the owner of a slot that another one owned.
#[test]
fn a_replica_that_is_sent_the_start_of_its_own_old_epoch_stays_a_replica() {
    let (_, master, right, replica) = pair();
    copy(&master, &replica, slot());
    replica.promote(&[slot()]).expect("begins an epoch");
    master.follow(&[slot()], "replica:1").expect("follows");
    let last = master.position(slot()).last_seq;
    master.append_replicated(&records(&replica, slot(), last)).expect("takes the epoch");
    master.promote(&[slot()]).expect("begins the next");
    replica.follow(&[slot()], "master:1").expect("follows");
    let source = master.copy_source(slot()).expect("a source");
    let load = Load { complete: true, ..load_of(slot(), &source) };
    replica.start_loading(&[load]).expect("nothing was ever flushed");
    let all = records(&master, slot(), source.seq);
    let mut rest = &all[..];
    let first = Record::take(&mut rest).expect("the start of the replica's own epoch");
    assert_ne!(rest.len(), 0, "the master's own epoch follows");
    replica.append_replicated(first.bytes).expect("takes it");
    replica.write().expect("writes");
    drop(replica);
    let (replica, _) = open(&right.restart()).expect("opens");
    assert!(matches!(replica.role(slot()), Role::Replica { .. }), "{:?}", replica.role(slot()));
}

#[test]
fn expired_keys_are_hidden_at_once_reclaimed_later_and_a_replica_keeps_its_masters_time() {
    let (disk, clock) = (MemoryFs::new(), Arc::new(TestClock::default()));
    let (engine, _) = open_at(&disk, clock.clone()).expect("opens");
    engine.add_slots(&[slot()]).expect("adds");
    let key = haypile_engine::key::Key::new(b"{x}1");
    let value = haypile_engine::value::Value {
        expiry: Some(TimeMs(1_000_500)),
        ..haypile_engine::value::Value::whole(0, 0, &b"v"[..])
    };
    common::run(&engine, &key, |tx| tx.put(&key, &value)).expect("writes");
    engine.flush_all().expect("flushes");
    assert_eq!(get(&engine, "{x}1").as_deref(), Some("v"));
    assert!(!engine.step(Job::Expire).expect("nothing is due"));
    clock.advance(600);
    assert_eq!((get(&engine, "{x}1"), engine.key_count()), (None, 1));
    while engine.step(Job::Expire).expect("walks") {}
    assert_eq!(engine.key_count(), 0);
    drop(engine);
    let (engine, _) = open_at(&disk.restart(), clock).expect("opens");
    assert_eq!((get(&engine, "{x}1"), engine.key_count()), (None, 0));
}

/// A node that owned a slot and follows again from an older position gets its own old epoch back in the stream. It
/// was killed right then, and took itself for the master: two owners.
#[test]
fn a_former_owner_that_is_killed_when_its_own_old_epoch_comes_back_stays_a_replica() {
    let (left, master, _, replica) = pair();
    // The left node begins a second epoch, then hands over.
    master.follow(&[slot()], "replica:1").expect("follows");
    master.promote(&[slot()]).expect("is promoted");
    set(&master, "{x}1", "1").expect("writes");
    copy(&master, &replica, slot());
    master.fence(&[slot()]).expect("fences");
    master.grant(slot(), replica.node(), "replica:1").expect("grants");
    let last = replica.position(slot()).last_seq;
    replica.append_replicated(&records(&master, slot(), last)).expect("takes");
    replica.promote(&[slot()]).expect("takes the grant");
    finish(&master, &replica);
    master.remove_slots(&[slot()]).expect("removes");
    master.add_slots(&[slot()]).expect("adds");
    master.follow(&[slot()], "replica:1").expect("follows");
    let history = replica.position(slot()).history.up_to(Seq(0));
    master
        .start_loading(&[Load {
            granted: None,
            slot: slot(),
            history,
            base: Seq(0),
            keys: 0,
            time: TimeMs(0),
            complete: true,
        }])
        .expect("begins anew");
    let all = records(&replica, slot(), Seq(0));
    let mut rest = &all[..];
    let mut disk = left;
    let mut master = master;
    while !rest.is_empty() {
        let record = Record::take(&mut rest).expect("a record");
        let appended = master.append_replicated(record.bytes).expect("takes");
        assert!(appended.failed.is_empty(), "{appended:?}");
        master.write().expect("writes");
        drop(master);
        disk = disk.restart();
        (master, _) = open(&disk).expect("opens");
        assert!(matches!(master.role(slot()), Role::Replica { .. }), "after {:?}", record.header);
    }
    assert_eq!(get(&master, "{x}1").as_deref(), Some("1"));
}

#[test]
fn a_load_that_is_refused_leaves_the_slot_following_as_before() {
    let (_, master, _, replica) = pair();
    copy(&master, &replica, slot());
    let position = replica.position(slot());
    let load = Load {
        granted: None,
        slot: slot(),
        history: position.history.clone(),
        base: position.last_seq,
        keys: 0,
        time: TimeMs(0),
        complete: true,
    };
    let error = replica.start_loading(&[load.clone(), load]).expect_err("twice at once").to_string();
    assert!(error.contains("twice"), "{error}");
    set(&master, "{x}1", "1").expect("writes");
    let appended = replica.append_replicated(&records(&master, slot(), position.last_seq)).expect("takes");
    assert!(appended.failed.is_empty(), "{appended:?}");
    assert_eq!(get(&replica, "{x}1").as_deref(), Some("1"));
}
