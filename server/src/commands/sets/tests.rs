use std::collections::{BTreeSet, HashSet};

use bytes::Bytes;
use proptest::prelude::*;

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
