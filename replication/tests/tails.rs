//! Masters that lose power, and take back from their replicas what they had not synced: real engines, real sockets.

mod common;

use std::time::Duration;

use common::{Node, assert_same, key_in, runtime, slot, slots, until};
use haypile_engine::engine::SyncMode;
use haypile_engine::error::Error;
use haypile_engine::slot::Role;
use haypile_engine::types::{Seq, Slot};

/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(3600);

fn fill(node: &Node, slots: &[Slot], keys: u32, value: &str) {
    for &slot in slots {
        for key in 0..keys {
            node.set(&key_in(slot, &format!("k{key}")), &format!("{value}{key}")).expect("is its master");
        }
    }
}

/// A master that syncs nothing by itself, and its replica, which its manifest knows: what is written from now on is lost
/// with the power, more or less.
fn pair(all: &[Slot]) -> (Node, Node) {
    let (mut a, b) = (Node::start(all), Node::start(all));
    (a.sync, a.tail_wait) = (SyncMode::No, Some(FOR_EVER));
    a.kill();
    a.open();
    fill(&a, all, 20, "v");
    b.follow(all, &a, false).expect("follows");
    b.wait_connected(all);
    a.wait_drained(all, 1);
    a.engine().sync().expect("is synced");
    until("the manifest knows the replica", || a.owed_on_disk() == all.len());
    (a, b)
}

#[test]
fn a_master_takes_back_what_it_lost_and_its_replicas_go_on() {
    let all = slots(0..4);
    let (mut a, b) = pair(&all);
    let mut lost = 0;
    for seed in 0..4 {
        fill(&a, &all, 60, &format!("unsynced{seed}"));
        if seed == 0 {
            // Longer than one message; not so long that the log is synced for its sake.
            fill(&a, &all[..1], 1, &"x".repeat(3 << 19));
        }
        a.wait_drained(&all, 1);
        let last: Vec<Seq> = all.iter().map(|&slot| a.engine().position(slot).last_seq).collect();
        a.lose_power(seed);
        lost += all.iter().zip(&last).filter(|(slot, last)| a.last_on_disk(**slot) < **last).count();
        a.open();
        until("all is served again", || all.iter().all(|&slot| a.role(slot) == Role::Master));
        fill(&a, &all, 1, "after");
        a.wait_drained(&all, 1);
        assert_same(&a, &b, &all);
        for (&slot, last) in all.iter().zip(&last) {
            let position = a.engine().position(slot);
            let began = position.history.starts().last().expect("it has epochs").first_seq;
            assert_eq!(began, last.next(), "slot {slot}: the next epoch begins after all that was written");
            assert_eq!(b.engine().position(slot).base_seq, Seq(0), "slot {slot} was copied");
        }
    }
    assert!(lost > 0, "nothing was lost in any run");
}

#[test]
fn who_asks_serves_nobody_gives_nothing_away_and_waits_for_a_replica_that_is_away() {
    let one = slots([1]);
    let (mut a, mut b) = pair(&one);
    fill(&a, &one, 30, "unsynced");
    a.wait_drained(&one, 1);
    let last = a.engine().position(slot(1)).last_seq;
    let c = Node::start(&one);
    b.kill();
    a.lose_power(7);
    a.open();
    assert_eq!(a.role(slot(1)), Role::Owed);
    assert_eq!(a.set(&key_in(slot(1), "x"), "y"), Err(Role::Owed));
    assert!(matches!(a.engine().remove_slots(&one), Err(Error::Limit(_))));
    assert!(matches!(a.engine().fence(&one), Err(Error::Limit(_))));
    c.follow(&one, &a, false).expect("is asked for again until it is ready");
    until("c waits", || {
        c.replication()
            .status(slot(1))
            .upstream
            .is_some_and(|upstream| upstream.last_error.is_some_and(|why| why.contains("asks its replicas")))
    });
    b.open();
    until("it is served again", || a.role(slot(1)) == Role::Master);
    assert_eq!(a.engine().position(slot(1)).last_seq, last.next());
    a.wait_drained(&one, 2);
    assert_same(&a, &b, &one);
    assert_same(&a, &c, &one);
}

#[test]
fn replicas_that_do_not_come_are_not_waited_for_longer_than_is_said() {
    let one = slots([1]);
    let (mut a, mut b) = pair(&one);
    fill(&a, &one, 30, "unsynced");
    a.wait_drained(&one, 1);
    b.kill();
    a.lose_power(3);
    a.tail_wait = Some(Duration::from_millis(50));
    a.open();
    until("it is served again", || a.role(slot(1)) == Role::Master);
    b.open();
    a.wait_drained(&one, 1);
    assert_same(&a, &b, &one);
}

#[test]
fn a_stop_while_it_asks_leaves_owed_what_is() {
    let one = slots([1]);
    let (mut a, mut b) = pair(&one);
    let term = |node: &Node| node.engine().position(slot(1)).history.current().expect("has one").term;
    let before = term(&a);
    b.kill();
    a.kill();
    a.open();
    assert_eq!((a.role(slot(1)), term(&a)), (Role::Owed, before));
    a.kill();
    a.open();
    assert_eq!((a.role(slot(1)), term(&a)), (Role::Owed, before));
    a.stop();
    a.open();
    assert_eq!((a.role(slot(1)), term(&a)), (Role::Owed, before), "not even one in order gives the tail up");
    b.open();
    until("it is served again", || a.role(slot(1)) == Role::Master);
    a.stop();
    a.open();
    assert_eq!((a.role(slot(1)), term(&a)), (Role::Master, before + 1), "a clean stop owes nothing");
}

/// Only the address that the master remembered was tried, for as long as it waited.
#[test]
fn a_replica_that_comes_back_at_another_address_is_asked_there() {
    let one = slots([1]);
    let (mut a, mut b) = pair(&one);
    fill(&a, &one, 30, "unsynced");
    a.wait_drained(&one, 1);
    let last = a.engine().position(slot(1)).last_seq;
    b.kill();
    a.lose_power(7);
    a.open();
    assert_eq!(a.role(slot(1)), Role::Owed);
    b.move_elsewhere();
    b.open();
    until("it is served again", || a.role(slot(1)) == Role::Master);
    assert_eq!(a.engine().position(slot(1)).last_seq, last.next());
    a.wait_drained(&one, 1);
    assert_same(&a, &b, &one);
}

/// A handover was refused at once while the master asked its replicas.
#[test]
fn a_handover_waits_for_a_master_that_asks_its_replicas_and_says_what_it_waited_for() {
    let one = slots([1]);
    let (mut a, mut b) = pair(&one);
    fill(&a, &one, 30, "unsynced");
    a.wait_drained(&one, 1);
    let last = a.engine().position(slot(1)).last_seq;
    let c = Node::start(&one);
    b.kill();
    a.lose_power(7);
    a.open();
    c.follow(&one, &a, false).expect("is asked for again until it is ready");
    until("c waits", || {
        let upstream = c.replication().status(slot(1)).upstream;
        upstream
            .is_some_and(|upstream| upstream.last_error.is_some_and(|why| why.contains("asks its replicas")))
    });
    let no_one = |patience| runtime().block_on(c.replication().no_one(&one, false, patience));
    let refused = no_one(Duration::from_millis(50)).expect_err("there is nobody to give the rest");
    assert!(refused.to_string().contains("asks its replicas"), "{refused}");
    assert_eq!(a.role(slot(1)), Role::Owed);
    std::thread::scope(|scope| {
        let taken = scope.spawn(|| no_one(Duration::from_secs(60)));
        b.open();
        taken.join().expect("no panic").expect("waits");
    });
    assert_eq!(c.role(slot(1)), Role::Master);
    assert!(
        c.engine().position(slot(1)).last_seq > last.next(),
        "with all that was lost, and two more epochs"
    );
    assert!(matches!(a.role(slot(1)), Role::Moved { .. }), "{:?}", a.role(slot(1)));
}

#[test]
fn an_old_master_gives_way_to_its_heir_and_follows_it_without_a_copy() {
    let one = slots([1]);
    let (mut a, b) = pair(&one);
    fill(&a, &one, 30, "unsynced");
    a.wait_drained(&one, 1);
    a.lose_power(5);
    b.no_one(&one, true).expect("is promoted");
    fill(&b, &one, 5, "heir");
    a.tail_wait = Some(Duration::from_millis(50));
    a.open();
    until("it hears of its heir", || a.replication().heir(slot(1)).is_some());
    assert_eq!(a.set(&key_in(slot(1), "x"), "y"), Err(Role::Owed));
    a.no_one(&one, false).expect_err("the heir answers");
    a.follow(&one, &b, false).expect("follows");
    assert_eq!(a.replication().heir(slot(1)), None, "it is told");
    b.wait_drained(&one, 1);
    assert_eq!(a.engine().position(slot(1)).base_seq, Seq(0), "was copied");
    assert_same(&b, &a, &one);
}

#[test]
fn an_old_master_serves_again_when_its_heir_follows_it_or_when_it_is_forced_to() {
    for by_force in [false, true] {
        let one = slots([1]);
        let (mut a, b) = pair(&one);
        a.lose_power(5);
        b.no_one(&one, true).expect("is promoted");
        fill(&b, &one, 5, "heir");
        a.open();
        until("it hears of its heir", || a.replication().heir(slot(1)).is_some());
        if by_force {
            a.no_one(&one, true).expect("is an owner beside it");
            assert_eq!(a.role(slot(1)), Role::Master);
        }
        b.follow(&one, &a, true).expect("follows");
        until("it is served again", || a.role(slot(1)) == Role::Master);
        fill(&a, &one, 1, "after");
        a.wait_drained(&one, 1);
        assert_same(&a, &b, &one);
    }
}
