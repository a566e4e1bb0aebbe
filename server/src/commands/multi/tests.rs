use std::sync::Arc;

use haypile_engine::testing;
use haypile_engine::types::Slot;

use crate::config::Settings;
use crate::testing::Bench;

/// The slot of the key `a`.
const A: u16 = 579;

fn slot(number: u16) -> Slot {
    Slot::new(number).expect("in range")
}

#[test]
fn commands_between_multi_and_exec_are_run_as_one_over_any_slots() {
    let mut bench = Bench::new();
    bench.check(
        "multi             -> +OK
         set a 1           -> +QUEUED
         incr a            -> +QUEUED
         mget a b c        -> +QUEUED
         lpush c x         -> +QUEUED
         ping              -> +QUEUED
         get a             -> +QUEUED
         exec              -> *6 +OK :2 *3 $1 2 $-1 $-1 :1 +PONG $1 2
         get a             -> $1 2
         exec              -> -ERR EXEC without MULTI
         discard           -> -ERR DISCARD without MULTI
         multi             -> +OK
         set a 5           -> +QUEUED
         discard           -> +OK
         get a             -> $1 2
         multi             -> +OK
         exec              -> *0",
    );
    // One group of records, however many slots.
    let before = bench.node.engine.log_end();
    bench.check("multi -> +OK\nset a 1 -> +QUEUED\nset b 1 -> +QUEUED\nexec -> *2 +OK +OK");
    assert!(bench.node.engine.log_end() > before);
}

#[test]
fn what_is_refused_while_commands_are_gathered_makes_exec_run_none() {
    let mut bench = Bench::new();
    for wrong in ["nosuch", "get", "shutdown", "haypile.sync 1 2 3"] {
        bench.check("multi -> +OK\nset a 1 -> +QUEUED");
        assert!(bench.run(wrong).starts_with("-ERR "));
        bench.check(
            "set a 2  -> +QUEUED
             exec     -> -EXECABORT Transaction discarded because of previous errors.
             get a    -> $-1",
        );
    }
    // These are wrong, and no reason to give up.
    bench.check(
        "multi     -> +OK
         multi     -> -ERR MULTI calls can not be nested
         watch a   -> -ERR WATCH inside MULTI is not allowed
         set a 1   -> +QUEUED
         exec      -> *1 +OK
         multi     -> +OK
         reset     -> +RESET
         exec      -> -ERR EXEC without MULTI",
    );
}

#[test]
fn a_command_that_fails_leaves_nothing_and_lets_the_others_be() {
    let mut bench = Bench::new();
    bench.check(
        "rpush list a b            -> :2
         set text x                -> +OK
         multi                     -> +OK
         set a 1                   -> +QUEUED
         lpush a 2                 -> +QUEUED
         incr text                 -> +QUEUED
         rpush list c              -> +QUEUED
         bitop not list text text  -> +QUEUED
         get a                     -> +QUEUED
         exec                      -> *6 +OK -WRONGTYPE Operation against a key holding the wrong kind of value -ERR value is not an integer or out of range :3 -ERR BITOP NOT must be called with a single source key. $1 1",
    );
}

#[test]
fn a_watched_key_that_changed_stops_exec_and_no_other() {
    let mut bench = Bench::new();
    let mut other = bench.beside();
    let run = |bench: &mut Bench| {
        bench.check("multi -> +OK\nget w -> +QUEUED");
        bench.run("exec") == "*-1"
    };
    let mut changes = |before: &str, change: &str| {
        bench.run("flushall");
        if !before.is_empty() {
            assert!(!bench.run(before).starts_with('-'), "{before}");
        }
        bench.check("watch w v w -> +OK");
        let reply = other.run(change);
        assert!(!reply.starts_with('-'), "{change}: {reply}");
        let stopped = run(&mut bench);
        bench.check("multi -> +OK\nexec -> *0");
        stopped
    };
    for (before, change, stops) in [
        ("", "set w 1", true),
        ("set w 1", "set w 1", true),
        ("set w 1", "get w", false),
        ("set w 1", "set x 1", false),
        ("set w 1", "setnx w 2", false),
        ("set w 1", "del w", true),
        ("", "del w", false),
        ("set w 1", "persist w", false),
        ("set w 1", "expire w 100", true),
        ("set w 1", "rename w x", true),
        ("set x 1", "rename x w", true),
        ("set w 1", "copy w x", false),
        ("sadd w a", "sadd w a", false),
        ("sadd w a", "sadd w b", true),
        ("sadd w a b", "srem w a", true),
        ("", "flushall", false),
        ("set w 1", "flushall", true),
        ("set v 1", "flushall", true),
        ("set w 1", "flushdb", true),
    ] {
        assert_eq!(changes(before, change), stops, "{before:?}, then {change:?}");
    }
}

#[test]
fn watched_keys_are_forgotten_by_unwatch_discard_exec_and_reset_and_the_own_writes_count() {
    let mut bench = Bench::new();
    let mut other = bench.beside();
    for forget in ["unwatch", "reset", "multi\ndiscard", "multi\nexec"] {
        bench.check("watch w -> +OK");
        forget.lines().for_each(|line| assert!(!bench.run(line).starts_with('-')));
        other.check("set w 1 -> +OK");
        bench.check("multi -> +OK\nping -> +QUEUED\nexec -> *1 +PONG");
    }
    bench.check("watch w -> +OK\nset w 2 -> +OK\nmulti -> +OK\nexec -> *-1");
    // A connection that ends watches no longer.
    drop({
        let mut third = bench.beside();
        third.check("watch w -> +OK");
        third
    });
    bench.check("set w 3 -> +OK\nunwatch -> +OK\nwatch w -> +OK\nunwatch -> +OK\nset w 3 -> +OK");
}

#[test]
fn a_watched_key_that_expired_stops_exec_but_not_one_that_had_expired_before() {
    let mut bench = Bench::new();
    bench.check("set w 1 pxat 1 -> +OK\nwatch w -> +OK\nmulti -> +OK\nexec -> *0");
    bench.check("set w 1 px 1 -> +OK");
    let end = bench.node.wall().0 + 1;
    bench.check("set v 1 -> +OK");
    // It may have expired before the watch begins: then begin again.
    bench.run("set w 1 px 50");
    bench.check("watch w -> +OK");
    let lived = bench.run("exists w") == ":1";
    while bench.node.wall().0 <= end + 60 {
        std::hint::spin_loop();
    }
    bench.check("multi -> +OK\nget v -> +QUEUED");
    let reply = bench.run("exec");
    assert!(reply == "*-1" || !lived && reply == "*1 $1 1", "{reply}");
}

#[test]
fn a_slot_that_is_not_served_stops_all_of_exec() {
    let mut bench = Bench::new();
    bench.check("set a 1 -> +OK\nwatch a -> +OK\nmulti -> +OK\nset b 2 -> +QUEUED\nset a 2 -> +QUEUED");
    let engine = bench.node.engine.clone();
    engine.follow(&[slot(A)], "127.0.0.1:7").expect("it can follow");
    let refused =
        "-EXECABORT Transaction discarded because of: ERR Server in read-only: slot 579 follows 127.0.0.1:7";
    assert_eq!(bench.run("exec"), refused);
    bench.check("get b -> $-1\nmulti -> +OK\nset b 3 -> +QUEUED\nexec -> *1 +OK");
    engine.remove_slots(&[slot(A)]).expect("it can be removed");
    assert!(bench.run("watch a").starts_with("-ERR Partition not found"));
}

#[test]
fn a_slot_that_was_renewed_meanwhile_counts_as_changed() {
    let mut bench = Bench::new();
    bench.check("watch a -> +OK");
    let engine = bench.node.engine.clone();
    engine.remove_slots(&[slot(A)]).expect("it can be removed");
    engine.add_slots(&[slot(A)]).expect("it can be added");
    bench.check("multi -> +OK\nget a -> +QUEUED\nexec -> *-1");
}

#[test]
fn exec_waits_for_a_fenced_slot_but_not_for_ever() {
    let settings = Settings { standalone: true, handover_hold_ms: 20, ..Settings::default() };
    let mut bench = Bench::on(Arc::new(testing::engine()), settings);
    let engine = bench.node.engine.clone();
    engine.fence(&[slot(A)]).expect("its master fences it");
    bench.check(
        "multi    -> +OK
         get a    -> +QUEUED
         set b 1  -> +QUEUED
         exec     -> *2 $-1 +OK
         multi    -> +OK
         set a 1  -> +QUEUED
         set b 2  -> +QUEUED
         exec     -> -ERR slot 579 is being handed over and takes no writes yet: try again
         get b    -> $1 1",
    );
}

#[test]
fn what_a_sentinel_sends_when_it_promotes_is_run_in_order() {
    let mut bench = Bench::new();
    let reply = "multi                      -> +OK
         slaveof no one             -> +QUEUED
         config rewrite             -> +QUEUED
         client kill type normal    -> +QUEUED
         client kill type pubsub    -> +QUEUED
         exec                       -> *4 +OK +OK :0 :0";
    bench.check(reply);
    bench.check("set a 1 -> +OK");
}

#[test]
fn what_may_wait_is_run_at_its_place() {
    let mut bench = Bench::new();
    bench.check(
        "multi      -> +OK
         set a 1    -> +QUEUED
         dbsize     -> +QUEUED
         flushall   -> +QUEUED
         get a      -> +QUEUED
         set b 1    -> +QUEUED
         keys *     -> +QUEUED
         exec       -> *6 +OK :1 +OK $-1 +OK *1 $1 b
         watch w    -> +OK
         multi      -> +OK
         set a 1    -> +QUEUED
         flushall   -> +QUEUED
         get a      -> +QUEUED
         exec       -> *3 +OK +OK $-1",
    );
}

#[test]
fn exec_reads_what_is_not_in_memory() {
    let mut bench = Bench::cold(["set a 1".to_owned(), "rpush list x y".to_owned()]);
    bench.check(
        "watch a list     -> +OK
         multi            -> +OK
         incr a           -> +QUEUED
         lrange list 0 -1 -> +QUEUED
         rpush list z     -> +QUEUED
         exec             -> *3 :2 *2 $1 x $1 y :3",
    );
}
