//! Waits and counts, as acknowledgements come, replicas come and go, and slots are replaced.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;

fn slot(number: u16) -> Slot {
    Slot::new(number).expect("in range")
}

fn replica(name: u8) -> Arc<Follower> {
    Arc::new(Follower::new(NodeId([name; 20]), 0))
}

/// How a wait stands right now.
fn stands(wait: &Wait) -> Option<Waited> {
    match pin!(wait.over()).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(waited) => Some(waited),
        Poll::Pending => None,
    }
}

#[test]
fn a_wait_ends_when_enough_replicas_have_every_record() {
    let acks = Arc::new(Acks::default());
    let (one, two) = (replica(1), replica(2));
    for number in [3, 5] {
        acks.enter(&one, slot(number), Some(Seq(9)), 0);
    }
    acks.enter(&two, slot(3), None, 0);
    let records = [(slot(3), Seq(10)), (slot(5), Seq(9))];
    assert!(acks.wait(&records[1..], 1).is_none(), "all of that is there already");
    let (first, both) = (acks.wait(&records, 1).expect("waits"), acks.wait(&records[..1], 2).expect("waits"));
    assert_eq!((stands(&first), acks.count(&records)), (None, 0));
    acks.acked(&one, slot(3), Seq(10));
    assert_eq!((stands(&first), acks.count(&records)), (Some(Waited::Acked), 1));
    assert_eq!(stands(&both), None, "the other one has no copy yet");
    acks.acked(&two, slot(3), Seq(12));
    assert_eq!(stands(&both), Some(Waited::Acked));
    assert_eq!(acks.count(&records), 1, "of slot 5 there is one replica");
}

#[test]
fn what_was_reached_stays_so_when_the_replica_goes() {
    let acks = Arc::new(Acks::default());
    let one = replica(1);
    acks.enter(&one, slot(1), Some(Seq(1)), 0);
    let wait = acks.wait(&[(slot(1), Seq(2))], 1).expect("waits");
    acks.acked(&one, slot(1), Seq(2));
    acks.leave_all(&one);
    assert_eq!(stands(&wait), Some(Waited::Acked));
    assert_eq!(acks.count(&[(slot(1), Seq(1))]), 0);
}

#[test]
fn two_connections_of_one_node_are_one_replica() {
    let acks = Arc::new(Acks::default());
    let (old, new) = (replica(1), replica(1));
    acks.enter(&old, slot(1), Some(Seq(5)), 0);
    acks.enter(&new, slot(1), Some(Seq(4)), 0);
    acks.acked(&old, slot(1), Seq(7));
    acks.leave_all(&old);
    assert_eq!(acks.count(&[(slot(1), Seq(4))]), 1);
    assert_eq!(acks.count(&[(slot(1), Seq(5))]), 0, "the old connection counts no more");
}

#[test]
fn no_acknowledgement_of_a_former_life_counts() {
    let acks = Arc::new(Acks::default());
    let one = replica(1);
    acks.enter(&one, slot(1), Some(Seq(50)), 0);
    let wait = acks.wait(&[(slot(1), Seq(60))], 1).expect("waits");
    acks.forget(slot(1));
    assert_eq!(stands(&wait), Some(Waited::Gone));
    // It was on its way when the slot was replaced.
    acks.acked(&one, slot(1), Seq(60));
    assert_eq!(acks.count(&[(slot(1), Seq(1))]), 0);
}

#[test]
fn who_gives_up_leaves_nothing_behind() {
    let acks = Arc::new(Acks::default());
    drop(acks.wait(&[(slot(1), Seq(1)), (slot(2), Seq(1))], 1));
    assert!(acks.of(slot(1)).waiters.is_empty() && acks.of(slot(2)).waiters.is_empty());
}

#[test]
fn a_replica_is_good_while_it_is_heard_and_whole_when_it_lacks_nothing() {
    let acks = Arc::new(Acks::default());
    let (one, two) = (replica(1), replica(2));
    acks.enter(&one, slot(1), Some(Seq(1)), 0);
    acks.enter(&two, slot(1), None, 0);
    one.heard(1000);
    two.heard(1000);
    assert_eq!(acks.good(slot(1), 2000, 1000), 1, "one that is being copied to is not good");
    assert_eq!(acks.good(slot(1), 2001, 1000), 0);
    let whole_ms = || acks.seen(slot(1), NodeId([1; 20])).expect("follows").whole_ms;
    acks.mark(&one, slot(1), Seq(1), 3000);
    assert_eq!(whole_ms(), 3000);
    acks.mark(&one, slot(1), Seq(5), 4000);
    acks.mark(&one, slot(1), Seq(9), 5000);
    assert_eq!(whole_ms(), 3000);
    acks.acked(&one, slot(1), Seq(5));
    assert_eq!(whole_ms(), 4000, "it has what there was then");
}

/// A master died while a slot was on its way to another group. The node that took the slot there had acknowledged a write, the
/// replica that was promoted had not got it.
#[test]
fn who_takes_a_slot_to_another_group_does_not_count() {
    let acks = Arc::new(Acks::default());
    let (own, taker) = (replica(1), replica(2));
    acks.set_taker(slot(3), NodeId([2; 20]));
    for follower in [&own, &taker] {
        acks.enter(follower, slot(3), Some(Seq(9)), 0);
    }
    let records = [(slot(3), Seq(10))];
    let wait = acks.wait(&records, 1).expect("waits");
    acks.acked(&taker, slot(3), Seq(10));
    assert_eq!((stands(&wait), acks.count(&records), acks.good(slot(3), 0, 1)), (None, 0, 1));
    acks.no_taker(slot(3), NodeId([7; 20]));
    assert_eq!(stands(&wait), None, "another node's move ended");
    acks.acked(&own, slot(3), Seq(10));
    assert_eq!(stands(&wait), Some(Waited::Acked));
    let wait = acks.wait(&[(slot(3), Seq(11))], 1).expect("waits");
    acks.acked(&taker, slot(3), Seq(11));
    acks.no_taker(slot(3), NodeId([2; 20]));
    assert_eq!((stands(&wait), acks.good(slot(3), 0, 1)), (Some(Waited::Acked), 2));
}
