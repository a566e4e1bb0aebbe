//! WAIT on a node whose replicas are played: what they acknowledge is said to the node as their connections do.

use std::sync::Arc;

use haypile_engine::types::{NodeId, Seq, Slot};
use haypile_replication::acks::Follower;

use crate::node::Node;
use crate::testing::Bench;

/// A replica of all slots that has nothing yet.
fn replica(node: &Node, name: u8) -> Arc<Follower> {
    let follower = Arc::new(Follower::new(NodeId([name; 20]), node.monotonic_ms()));
    for slot in Slot::all() {
        node.replication.acks().enter(&follower, slot, Some(Seq::ZERO), node.monotonic_ms());
    }
    follower
}

/// It takes all that there is of a key's slot.
fn takes(node: &Node, follower: &Arc<Follower>, key: &str) {
    let slot = Slot::of_key(key.as_bytes());
    node.replication.acks().acked(follower, slot, node.engine.pulse(slot).last_seq);
}

/// Does something on another thread once a client waits.
fn once_somebody_waits(
    bench: &Bench,
    act: impl FnOnce(&Node) + Send + 'static,
) -> std::thread::JoinHandle<()> {
    let node = bench.node.clone();
    std::thread::spawn(move || {
        while node.blocked.count() == 0 {
            std::thread::yield_now();
        }
        act(&node);
    })
}

#[test]
fn the_answer_is_the_number_of_replicas_that_have_everything() {
    let mut bench = Bench::new();
    bench.check("wait 1 1 -> :0");
    let (one, two) = (replica(&bench.node, 1), replica(&bench.node, 2));
    // Who wrote nothing needs nobody to take anything.
    bench.check("wait 2 0 -> :2");
    bench.check("mset a 1 b 2 -> +OK");
    bench.check("wait 1 1 -> :0");
    takes(&bench.node, &one, "a");
    bench.check("wait 1 1 -> :0");
    takes(&bench.node, &one, "b");
    bench.check("wait 1 0 -> :1");
    takes(&bench.node, &two, "a");
    bench.check("wait 2 1 -> :1");
    takes(&bench.node, &two, "b");
    bench.check("wait 2 0 -> :2");
    // Another client has written nothing.
    bench.run("set a 3");
    bench.beside().check("wait 2 0 -> :2");
}

#[test]
fn who_waits_goes_on_when_the_last_of_them_acknowledges() {
    let mut bench = Bench::new();
    let one = replica(&bench.node, 1);
    bench.run("set a 1");
    let acks = once_somebody_waits(&bench, move |node| takes(node, &one, "a"));
    bench.check("wait 1 0 -> :1");
    acks.join().expect("no panic");
}

#[test]
fn a_wait_is_ended_by_client_unblock_and_by_losing_the_slot() {
    let mut bench = Bench::new();
    bench.run("set a 1");
    for (how, reply) in [("timeout", ":0"), ("error", "-UNBLOCKED client unblocked via CLIENT UNBLOCK")] {
        let mut other = bench.beside();
        let line = format!("client unblock {} {how}", bench.session.client.id);
        let node = bench.node.clone();
        let ends = std::thread::spawn(move || {
            while node.blocked.count() == 0 {
                std::thread::yield_now();
            }
            assert_eq!(other.run(&line), ":1");
        });
        assert_eq!(bench.run("wait 1 0"), reply);
        ends.join().expect("no panic");
    }
    let follows = once_somebody_waits(&bench, |node| {
        node.engine.follow(&[Slot::of_key(b"a")], "10.0.0.9:9221").expect("a master may follow");
    });
    let reply = bench.run("wait 1 0");
    assert!(reply.starts_with("-UNBLOCKED force unblock from blocking operation, instance state"), "{reply}");
    follows.join().expect("no panic");
}

#[test]
fn in_a_transaction_it_waits_for_nothing() {
    let mut bench = Bench::new();
    bench.check(
        "multi             -> +OK
         set a 1           -> +QUEUED
         wait 1 0          -> +QUEUED
         set a 2           -> +QUEUED
         exec              -> *3 +OK :0 +OK
         wait x 0          -> -ERR value is not an integer or out of range
         wait 1 x          -> -ERR timeout is not an integer or out of range
         wait 1 -1         -> -ERR timeout is negative
         wait 0 0          -> :0
         wait -1 0         -> :0",
    );
}

#[test]
fn a_node_that_only_follows_has_no_replicas_to_wait_for() {
    let mut bench = Bench::new();
    bench.node.engine.follow(&Slot::all().collect::<Vec<_>>(), "10.0.0.9:9221").expect("it may");
    assert!(bench.run("wait 1 0").starts_with("-ERR WAIT cannot be used with replica instances"));
}

#[test]
fn writes_are_refused_where_too_few_replicas_are_heard() {
    let mut bench = Bench::new();
    bench.check("config set min-replicas-to-write 1 min-slaves-max-lag 3 -> +OK");
    let refused = "-NOREPLICAS Not enough good replicas to write.";
    for line in ["set a 1", "flushall", "eval return 0"] {
        let line = if line.starts_with("eval") { "eval \"return 0\" 1 a" } else { line };
        assert_eq!(bench.run(line), refused, "{line}");
    }
    bench.check(
        "get a  -> $-1
         multi  -> +OK
         set a 1 -> +QUEUED
         exec   -> -EXECABORT Transaction discarded because of: NOREPLICAS Not enough good replicas to write.",
    );
    let one = replica(&bench.node, 1);
    bench.check("set a 1 -> +OK");
    bench.node.replication.acks().leave(&one, Slot::of_key(b"a"));
    bench.check(
        "set a 3                              -> -NOREPLICAS Not enough good replicas to write.
         config get min-*                     -> *8 $20 min-replicas-max-lag $1 3 $21 min-replicas-to-write $1 1 $18 min-slaves-max-lag $1 3 $19 min-slaves-to-write $1 1
         config set min-replicas-to-write 0   -> +OK
         set a 3                              -> +OK",
    );
}
