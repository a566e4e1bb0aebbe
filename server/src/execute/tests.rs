use std::sync::Arc;

use haypile_engine::testing;
use haypile_engine::types::{Epoch, NodeId, Slot};

use super::*;
use crate::config::Settings;
use crate::testing::Bench;

/// The slot of the key `a`, and that of `b`.
const A: u16 = 579;

fn slot(number: u16) -> Slot {
    Slot::new(number).expect("in range")
}

#[test]
fn a_slot_that_is_not_served_is_named_with_the_remedy() {
    let mut bench = Bench::new();
    bench.check("set a 1 -> +OK");
    let engine = bench.node.engine.clone();
    engine.follow(&[slot(A)], "127.0.0.1:7").expect("it can follow");
    let read_only = "-ERR Server in read-only: slot 579 follows 127.0.0.1:7";
    assert_eq!(bench.run("set a 2"), read_only);
    assert_eq!(bench.run("mset b 1 a 2"), read_only);
    // What was written before still stands, whether it may be read or waits for a copy.
    let read = bench.run("get a");
    assert!(
        read == "$1 1" || read.starts_with("-LOADING slot 579 is being copied from 127.0.0.1:7"),
        "{read}"
    );
    engine.remove_slots(&[slot(A)]).expect("it can be removed");
    let absent = bench.run("get a");
    assert!(absent.starts_with("-ERR Partition not found: slot 579 is not on this node;"), "{absent}");
    bench.check("get b -> $-1");
}

#[test]
fn a_slot_that_was_given_away_says_to_whom() {
    let mut bench = Bench::new();
    bench.check("set a 1 -> +OK");
    let engine = bench.node.engine.clone();
    engine.fence(&[slot(A)]).expect("its master fences it");
    engine.grant(slot(A), NodeId([7; 20]), "127.0.0.1:7").expect("its master grants it");
    let given = "-ERR Partition not found: slot 579 was handed over to 127.0.0.1:7";
    assert_eq!(bench.run("set a 2"), given);
    assert_eq!(bench.run("get a"), given);
    engine.finish_grants(NodeId([7; 20]), &[(slot(A), Epoch { term: 2, tag: 7 })]);
    assert_eq!(bench.run("get a"), given);
    assert_eq!(bench.run("scan 0 count 1000"), "*2 $1 0 *0");
}

#[test]
fn every_command_waits_for_a_slot_that_comes_back_after_a_move_that_was_given_up() {
    let settings = Settings { standalone: true, handover_hold_ms: 20, ..Settings::default() };
    let mut bench = Bench::on(Arc::new(testing::engine()), settings);
    bench.check("set a 1 -> +OK");
    let (node, now_ms) = (bench.node.clone(), bench.node.monotonic_ms());
    let move_ = node.moves.ask(slot(A), "127.0.0.1:7", 1, now_ms).expect("nobody asked before");
    node.engine.fence(&[slot(A)]).expect("its master fences it");
    node.engine.grant(slot(A), NodeId([7; 20]), "127.0.0.1:7").expect("its master grants it");
    node.engine.finish_grants(NodeId([7; 20]), &[(slot(A), Epoch { term: 2, tag: 7 })]);
    node.moves.done(move_, now_ms);
    bench.check(
        "set a 2         -> -ERR slot 579 is being handed over and takes no writes yet: try again
         get a           -> -ERR slot 579 is being handed over and takes no writes yet: try again
         watch a         -> -ERR slot 579 is being handed over and takes no writes yet: try again
         watch b a       -> -ERR slot 579 is being handed over and takes no writes yet: try again
         watch b         -> +OK
         multi           -> +OK
         set b 1         -> +QUEUED
         get a           -> +QUEUED
         exec            -> -ERR slot 579 is being handed over and takes no writes yet: try again
         get b           -> $-1",
    );
    node.moves.stays(slot(A));
    bench.check(
        "get a   -> -ERR Partition not found: slot 579 was handed over to 127.0.0.1:7
         watch a -> -ERR Partition not found: slot 579 was handed over to 127.0.0.1:7",
    );
}

#[test]
fn a_write_to_a_fenced_slot_waits_for_the_handover_but_not_for_ever() {
    let settings = Settings { standalone: true, handover_hold_ms: 20, ..Settings::default() };
    let mut bench = Bench::on(Arc::new(testing::engine()), settings);
    bench.check("set a 1 -> +OK");
    let engine = bench.node.engine.clone();
    engine.fence(&[slot(A)]).expect("its master fences it");
    bench.check(
        "get a      -> $1 1
         set a 2    -> -ERR slot 579 is being handed over and takes no writes yet: try again
         flushall   -> -ERR slot 579 is being handed over and takes no writes yet: try again
         get a      -> $1 1",
    );
    let pair = ("handover-hold-ms".to_owned(), "600000".to_owned());
    bench.node.change_settings(&[pair]).expect("a key");
    let waiting = std::thread::spawn(move || bench.run("set a 3"));
    engine.unfence(&[slot(A)]);
    assert_eq!(waiting.join().expect("it goes on"), "+OK");
}

#[test]
fn a_command_that_fails_half_way_leaves_nothing() {
    let mut bench = Bench::new();
    bench.check(
        "set n x            -> +OK
         incr n             -> -ERR value is not an integer or out of range
         hset h f v         -> :1
         set h v get        -> -WRONGTYPE Operation against a key holding the wrong kind of value
         type h             -> +hash",
    );
}

#[test]
fn an_unknown_command_is_shown_with_a_part_of_its_arguments() {
    let long = [0, 1, 2].map(|n| n.to_string().repeat(60));
    let args: Vec<&[u8]> =
        std::iter::once("nosuch").chain(long.iter().map(|arg| &arg[..])).map(str::as_bytes).collect();
    let text = unknown(&args);
    let shown = format!("'{}' '{}' '22' ", "0".repeat(60), "1".repeat(60));
    assert_eq!(text, format!("ERR unknown command 'nosuch', with args beginning with: {shown}"));
}

/// Redis counts each step of a transaction; what was created and removed again left nothing to compare.
#[test]
fn who_watches_a_key_hears_of_one_that_was_created_and_removed_in_one_transaction() {
    let mut bench = Bench::new();
    let mut other = bench.beside();
    bench.check("watch k -> +OK");
    other.check(
        "multi    -> +OK
         set k v  -> +QUEUED
         del k    -> +QUEUED
         exec     -> *2 +OK :1",
    );
    bench.check(
        "multi    -> +OK
         exec     -> *-1",
    );
}
