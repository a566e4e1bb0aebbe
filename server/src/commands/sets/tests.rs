use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use haypile_engine::clock::SystemClock;
use haypile_engine::engine::{Engine, Options};
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::types::Slot;
use proptest::prelude::*;

use crate::config::Settings;
use crate::testing::Bench;

/// The replies are those of Redis 7.0.
#[test]
fn sets_answer_as_redis_does() {
    Bench::new().check(
        "sadd s a b c a            -> :3
         sadd s                    -> -ERR wrong number of arguments for 'sadd' command
         sadd s a d                -> :1
         scard s                   -> :4
         smembers s                -> *4 $1 a $1 b $1 c $1 d
         smembers none             -> *0
         sismember s b             -> :1
         sismember s x             -> :0
         smismember s b x c        -> *3 :1 :0 :1
         smismember none b c       -> *2 :0 :0
         srem s a x a              -> :1
         srem none a               -> :0
         scard none                -> :0
         sadd n 1 01 -5            -> :3
         smembers n                -> *3 $1 1 $2 01 $2 -5
         smove none n b            -> :0
         smove s s b               -> :1
         smove s s zz              -> :0
         smove s t b               -> :1
         smove s t b               -> :0
         smembers t                -> *1 $1 b
         smove t s b               -> :1
         scard t                   -> :0
         srem s b c d              -> :3
         smembers s                -> *0",
    );
}

#[test]
fn a_key_of_another_type_is_refused() {
    let mut bench = Bench::new();
    bench.run("set str v");
    bench.run("sadd s b");
    for command in [
        "sadd str a",
        "srem str a",
        "smembers str",
        "sismember str a",
        "smismember str a",
        "scard str",
        "spop str",
        "spop str 1",
        "srandmember str",
        "srandmember str 2",
        "smove str s b",
        "smove s str b",
        "sinter none str",
        "sinter str none",
        "sinterstore d s str",
        "sintercard 2 none str",
        "sunion none str",
        "sunionstore d none str",
        "sdiff none str",
        "sdiff s str",
        "sdiffstore d str",
        "sscan str 0 foo",
    ] {
        let reply = bench.run(command);
        assert_eq!(reply, "-WRONGTYPE Operation against a key holding the wrong kind of value", "{command}");
    }
    assert_eq!(bench.run("smove none str a"), ":0");
}

#[test]
fn members_chosen_at_random_answer_as_redis_does() {
    Bench::new().check(
        "spop none                           -> $-1
         spop none 3                         -> *0
         spop none x                         -> -ERR value is out of range, must be positive
         srandmember none                    -> $-1
         srandmember none 1                  -> *0
         sadd s a                            -> :1
         spop s 0                            -> *0
         spop s -1                           -> -ERR value is out of range, must be positive
         spop s abc                          -> -ERR value is out of range, must be positive
         spop s 1 2                          -> -ERR syntax error
         srandmember s                       -> $1 a
         srandmember s 5                     -> *1 $1 a
         srandmember s -3                    -> *3 $1 a $1 a $1 a
         srandmember s 0                     -> *0
         srandmember s abc                   -> -ERR value is not an integer or out of range
         srandmember s 1 2                   -> -ERR syntax error
         srandmember s -9223372036854775808  -> -ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807
         srandmember s 9223372036854775808   -> -ERR value is not an integer or out of range
         spop s                              -> $1 a
         spop s                              -> $-1
         sadd s a                            -> :1
         spop s 5                            -> *1 $1 a
         scard s                             -> :0",
    );
}

#[test]
fn sets_are_combined_as_redis_does() {
    Bench::new().check(
        "sadd s c                      -> :1
         set str v                     -> +OK
         sinterstore str none s        -> :0
         get str                       -> $-1
         set str v                     -> +OK
         sunionstore str s none        -> :1
         smembers str                  -> *1 $1 c
         sdiffstore s s                -> :1
         sdiffstore s s s              -> :0
         smembers s                    -> *0
         sadd s c                      -> :1
         sintercard 0 s                -> -ERR numkeys should be greater than 0
         sintercard abc s              -> -ERR numkeys should be greater than 0
         sintercard -1 s               -> -ERR numkeys should be greater than 0
         sintercard 2 s                -> -ERR Number of keys can't be greater than number of args
         sintercard 1 s limit          -> -ERR syntax error
         sintercard 1 s limit -1       -> -ERR LIMIT can't be negative
         sintercard 1 s limit x        -> -ERR LIMIT can't be negative
         sintercard 1 s foo 1          -> -ERR syntax error
         sintercard 1 s limit 0        -> :1
         sintercard 1 s limit 1 limit 0 -> :1
         sintercard 2 s none           -> :0
         sscan s 0 count               -> -ERR syntax error
         sscan s 0 foo                 -> -ERR syntax error
         sscan s x                     -> -ERR invalid cursor
         sscan none 0                  -> *2 $1 0 *0
         sscan s 0 match *             -> *2 $1 0 *1 $1 c
         sscan s 0 match d             -> *2 $1 0 *0",
    );
}

#[test]
fn resp3_has_sets() {
    Bench::new().resp3().check(
        "sadd r a                      -> :1
         smembers r                    -> ~1 $1 a
         sinter r r                    -> ~1 $1 a
         sunion r                      -> ~1 $1 a
         sdiff r                       -> ~1 $1 a
         sdiff none                    -> ~0
         smembers none                 -> ~0
         srandmember r 2               -> *1 $1 a
         srandmember none 1            -> *0
         srandmember none              -> _
         smismember r a b              -> *2 :1 :0
         sismember r a                 -> :1
         spop none 1                   -> ~0
         spop none                     -> _
         spop r 0                      -> ~0
         sscan r 0                     -> *2 $1 0 *1 $1 a
         spop r 3                      -> ~1 $1 a",
    );
}

/// The strings of a reply that is one array, or an array in an array.
fn strings(reply: &str) -> Vec<String> {
    let words: Vec<&str> = reply.split(' ').collect();
    words.windows(2).filter(|pair| pair[0].starts_with('$')).map(|pair| pair[1].to_owned()).collect()
}

#[test]
fn a_large_set_is_walked_and_popped_to_nothing() {
    let mut bench = Bench::new();
    let members: BTreeSet<String> = (0..2000).map(|n| format!("m{n}")).collect();
    for chunk in members.iter().collect::<Vec<_>>().chunks(100) {
        let mut args = vec![Bytes::from_static(b"sadd"), Bytes::from_static(b"s")];
        args.extend(chunk.iter().map(|member| Bytes::from((*member).clone())));
        assert_eq!(bench.run_raw(&args), b":100\r\n");
    }
    let set = |strings: Vec<String>| strings.into_iter().collect::<BTreeSet<_>>();
    assert_eq!(set(strings(&bench.run("smembers s"))), members);
    let few = strings(&bench.run("srandmember s 100"));
    assert_eq!((few.len(), few.iter().collect::<HashSet<_>>().len()), (100, 100));
    assert_eq!(strings(&bench.run("srandmember s -50")).len(), 50);
    let mut popped = BTreeSet::new();
    for count in [1, 10, 500, 1000, 300, 1000] {
        for member in strings(&bench.run(&format!("spop s {count}"))) {
            assert!(popped.insert(member), "no member twice");
        }
        popped.extend(strings(&bench.run("spop s")));
        assert_eq!(bench.run("scard s"), format!(":{}", members.len() - popped.len()));
    }
    assert_eq!(popped, members);
    assert_eq!(bench.node.engine.key_count(), 0);
}

#[test]
fn two_choices_differ_from_one_command_to_the_next() {
    let mut bench = Bench::new();
    bench.run(&format!("sadd s {}", (0..100).map(|n| n.to_string()).collect::<Vec<_>>().join(" ")));
    let choices: HashSet<String> = (0..50).map(|_| bench.run("srandmember s")).collect();
    assert!(choices.len() > 20, "{choices:?}");
}

/// A node that has `m0` to `m2999` in the set `a`, `m2000` to `m4999` in `b`, the same with `f` in the hash `h`, all in
/// files, and memory for a few blocks only.
fn cold() -> Bench {
    let fs = Arc::new(MemoryFs::new());
    let open = |memory_bytes| {
        let options = Options { log_segment_bytes: 1 << 20, memory_bytes, ..Options::default() };
        let clock = Arc::new(SystemClock::new());
        Engine::open(fs.clone(), Path::new("/haypile"), clock, options).expect("the folder opens").0
    };
    let engine = Arc::new(open(64 << 20));
    engine.add_slots(&Slot::all().collect::<Vec<_>>()).expect("slots are added");
    let settings = Settings { standalone: true, ..Settings::default() };
    let mut bench = Bench::on(engine, settings.clone());
    for n in (0..3000).step_by(100) {
        let numbers = |from: i32| from..from + 100;
        bench.run(&format!("sadd a {}", words(numbers(n).map(|n| format!("m{n}")))));
        bench.run(&format!("sadd b {}", words(numbers(n + 2000).map(|n| format!("m{n}")))));
        bench.run(&format!("hset h {}", words(numbers(n).map(|n| format!("f{n} {n}")))));
    }
    bench.node.engine.close().expect("it stops cleanly");
    drop(bench);
    Bench::on(Arc::new(open(1 << 16)), settings)
}

#[test]
fn sets_that_are_not_in_memory_are_read_in_few_runs() {
    let mut bench = cold();
    let runs = |bench: &mut Bench, command: &str, runs_max: u64| {
        let before = bench.node.stats.keyspace_fetches.load(Ordering::Relaxed);
        let reply = bench.run(command);
        let runs = bench.node.stats.keyspace_fetches.load(Ordering::Relaxed) - before;
        assert!(runs <= runs_max, "{command}: ran {runs} times more");
        reply
    };
    let blocks = 16;
    let thousand: BTreeSet<String> = (2000..3000).map(|n| format!("m{n}")).collect();
    let set = |reply: String| strings(&reply).into_iter().collect::<BTreeSet<_>>();
    assert_eq!(set(runs(&mut bench, "sinter a b", blocks)), thousand);
    assert_eq!(runs(&mut bench, "sintercard 2 b a", blocks), ":1000");
    assert_eq!(strings(&runs(&mut bench, "sdiff a b", blocks)).len(), 2000);
    assert_eq!(strings(&runs(&mut bench, "sunion a b", blocks)).len(), 5000);
    assert_eq!(strings(&runs(&mut bench, "smembers a", blocks)).len(), 3000);
    assert_eq!(strings(&runs(&mut bench, "hkeys h", blocks)).len(), 3000);
    assert_eq!(set(runs(&mut bench, "srandmember a 300", 12)).len(), 300);
    let many = words((0..3000).step_by(10).map(|n| format!("f{n}")));
    assert_eq!(strings(&runs(&mut bench, &format!("hmget h {many}"), 4)).len(), 300);
    assert_eq!(set(runs(&mut bench, "spop a 300", 16)).len(), 300);
    assert_eq!(runs(&mut bench, "scard a", 2), ":2700");
    assert_eq!(runs(&mut bench, &format!("hdel h {many}"), 4), ":300");
    let union = strings(&runs(&mut bench, "sunion a b", blocks)).len();
    assert_eq!(runs(&mut bench, "sunionstore c a b", blocks), format!(":{union}"));
    assert_eq!(runs(&mut bench, "sinterstore b b c", blocks), ":3000");
    assert!(bench.node.stats.keyspace_fetches.load(Ordering::Relaxed) > 20, "it was in memory");
}

#[derive(Clone, Debug)]
enum Step {
    Add(u8, BTreeSet<u16>),
    Remove(u8, BTreeSet<u16>),
    Combine(&'static str, Vec<u8>),
    Store(&'static str, u8, Vec<u8>),
    Move(u8, u8, u16),
}

const COMBINED: [&str; 3] = ["sinter", "sunion", "sdiff"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let members = || {
        prop_oneof![
            prop::collection::btree_set(0..400u16, 1..20),
            prop::collection::btree_set(0..400u16, 150..250)
        ]
    };
    let keys = || prop::collection::vec(0..5u8, 1..4);
    let step = prop_oneof![
        4 => (0..4u8, members()).prop_map(|(key, members)| Step::Add(key, members)),
        2 => (0..4u8, members()).prop_map(|(key, members)| Step::Remove(key, members)),
        4 => (prop::sample::select(&COMBINED[..]), keys()).prop_map(|(how, keys)| Step::Combine(how, keys)),
        2 => (prop::sample::select(&COMBINED[..]), 0..4u8, keys())
            .prop_map(|(how, target, keys)| Step::Store(how, target, keys)),
        2 => (0..4u8, 0..4u8, 0..400u16).prop_map(|(from, to, member)| Step::Move(from, to, member)),
    ];
    prop::collection::vec(step, 1..30)
}

fn words<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(" ")
}

fn combine(model: &[BTreeSet<u16>; 5], how: &str, keys: &[u8]) -> BTreeSet<u16> {
    let sets = keys.iter().map(|&key| model[usize::from(key)].clone());
    let combined = sets.reduce(|a, b| match how {
        "sinter" => &a & &b,
        "sunion" => &a | &b,
        _ => &a - &b,
    });
    combined.unwrap_or_default()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Key 4 never exists.
    #[test]
    fn sets_small_and_large_combine_as_sets_do(steps in steps()) {
        let mut bench = Bench::new();
        let mut model: [BTreeSet<u16>; 5] = Default::default();
        for step in steps {
            match step {
                Step::Add(key, members) => {
                    let set = &mut model[usize::from(key)];
                    let new = members.iter().filter(|&&member| set.insert(member)).count();
                    prop_assert_eq!(bench.run(&format!("sadd {key} {}", words(&members))), format!(":{new}"));
                }
                Step::Remove(key, members) => {
                    let set = &mut model[usize::from(key)];
                    let gone = members.iter().filter(|member| set.remove(member)).count();
                    prop_assert_eq!(bench.run(&format!("srem {key} {}", words(&members))), format!(":{gone}"));
                }
                Step::Combine(how, keys) => {
                    let expected = combine(&model, how, &keys);
                    let reply = strings(&bench.run(&format!("{how} {}", words(&keys))));
                    prop_assert_eq!(reply.len(), expected.len());
                    let reply: BTreeSet<u16> = reply.iter().map(|member| member.parse().expect("a number")).collect();
                    prop_assert_eq!(reply, expected);
                    let common = combine(&model, "sinter", &keys).len();
                    for limit in [0, 7] {
                        let card = bench.run(&format!("sintercard {} {} limit {limit}", keys.len(), words(&keys)));
                        let expected = if limit == 0 { common } else { common.min(limit) };
                        prop_assert_eq!(card, format!(":{expected}"));
                    }
                }
                Step::Store(how, target, keys) => {
                    let stored = combine(&model, how, &keys);
                    let reply = bench.run(&format!("{how}store {target} {}", words(&keys)));
                    prop_assert_eq!(reply, format!(":{}", stored.len()));
                    model[usize::from(target)] = stored;
                }
                Step::Move(from, to, member) => {
                    let moved = model[usize::from(from)].contains(&member);
                    if moved {
                        model[usize::from(from)].remove(&member);
                        model[usize::from(to)].insert(member);
                    }
                    let reply = bench.run(&format!("smove {from} {to} {member}"));
                    prop_assert_eq!(reply, format!(":{}", i32::from(moved)));
                }
            }
            for (key, set) in model.iter().enumerate() {
                prop_assert_eq!(bench.run(&format!("scard {key}")), format!(":{}", set.len()));
            }
        }
        let living = model.iter().filter(|set| !set.is_empty()).count();
        prop_assert_eq!(bench.node.engine.key_count(), living as u64);
    }
}
