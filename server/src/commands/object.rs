//! OBJECT: how a value is kept.

use haypile_engine::key::Key;
use haypile_engine::value::Value;

use crate::cx::{Cx, Fail};
use crate::kind::Kind;
use crate::number;
use crate::table::{Command, Flags, Group, Keys};
use crate::types::dict::Dict;
use crate::types::small;
use crate::types::zset::Zset;

const READ: Flags = Flags::READONLY;

/// The key follows the second word.
const SECOND: Keys = Keys::Range { first: 2, last: 2, step: 1 };

const T: Group = Group("generic");

/// See the file's head.
pub const COMMANDS: &[Command] =
    &[T.family("object", Flags::NONE, "2.2.3", "Tells how a value is kept.", SUBS)];

#[rustfmt::skip]
const SUBS: &[Command] = &[
    T.data("object|encoding", 3, READ, SECOND, "2.2.3", "Names the form in which Redis would keep the value.", |cx| {
        told(cx, |cx, key, value| {
            let encoding = encoding(cx, key, value)?;
            cx.reply.bulk(encoding.as_bytes());
            Ok(())
        })
    })
    .differs("the form that Redis would choose by its default limits; a sorted set or hash that shrinks is told of as small again"),
    T.data("object|freq", 3, READ, SECOND, "4.0.0", "How often a key is used is not counted.", |cx| told(cx, |_, _, _| Err(Fail::error(NO_FREQUENCY)))),
    T.data("object|idletime", 3, READ, SECOND, "2.2.3", "When a key was used is not kept.", |cx| told(cx, |cx, _, _| told_number(cx, 0)))
        .differs("always 0: reads leave no trace"),
    T.data("object|refcount", 3, READ, SECOND, "2.2.3", "No value is shared.", |cx| told(cx, |cx, _, _| told_number(cx, 1)))
        .differs("always 1: no value is shared"),
];

const NO_FREQUENCY: &str = "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching between \
     policies at runtime LRU and LFU data will take some time to adjust.";

/// The longest string that Redis keeps in one piece with its header.
const EMBEDDED_BYTES_MAX: usize = 44;
/// The most members of a set that Redis keeps as packed numbers.
const INTSET_MEMBERS_MAX: usize = 512;

/// Tells of the value at the command's key, if there is one.
fn told(
    cx: &mut Cx<'_>,
    tell: impl FnOnce(&mut Cx<'_>, &Key, &Value) -> Result<(), Fail>,
) -> Result<(), Fail> {
    let key = cx.key(0);
    match cx.tx.get(key)? {
        Some(value) => tell(cx, key, &value),
        None => {
            cx.reply.null();
            Ok(())
        }
    }
}

#[allow(clippy::unnecessary_wraps)] // as `told` calls it
fn told_number(cx: &mut Cx<'_>, number: i64) -> Result<(), Fail> {
    cx.reply.integer(number);
    Ok(())
}

/// The form in which Redis 7.0 would keep the value, by its default limits.
pub(super) fn encoding(cx: &mut Cx<'_>, key: &Key, value: &Value) -> Result<&'static str, Fail> {
    let short = |bytes: &[u8]| bytes.len() <= small::ITEM_BYTES_MAX;
    Ok(match Kind::of(value) {
        Some(Kind::String) if number::integer(&value.payload).is_some() => "int",
        Some(Kind::String) if value.payload.len() <= EMBEDDED_BYTES_MAX => "embstr",
        Some(Kind::String) => "raw",
        Some(Kind::List) => "quicklist",
        Some(Kind::Hash) => {
            let hash = Dict::hash(key, value)?;
            let packed = hash.len() <= small::ELEMENTS_MAX
                && hash.all(&mut cx.tx)?.iter().all(|(field, value)| short(field) && short(value));
            if packed { "listpack" } else { "hashtable" }
        }
        Some(Kind::Set) => {
            let set = Dict::set(key, value)?;
            let packed = set.len() <= INTSET_MEMBERS_MAX
                && set.all(&mut cx.tx)?.iter().all(|(member, _)| number::integer(member).is_some());
            if packed { "intset" } else { "hashtable" }
        }
        Some(Kind::SortedSet) => {
            let zset = Zset::decode(key, value)?;
            let packed = zset.len() <= small::ELEMENTS_MAX
                && zset.all(&mut cx.tx)?.iter().all(|(member, _)| short(member));
            if packed { "listpack" } else { "skiplist" }
        }
        Some(Kind::Stream) => "stream",
        None => "unknown",
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    #[test]
    fn forms_are_told_in_redis_words() {
        let mut bench = Bench::new();
        bench.check(
            "mset i 12345 e hello        -> +OK
             object encoding i           -> $3 int
             object encoding e           -> $6 embstr
             object encoding none        -> $-1
             object refcount e           -> :1
             object idletime e           -> :0
             object bad e                -> -ERR unknown subcommand 'bad'. Try OBJECT HELP.
             object encoding             -> -ERR wrong number of arguments for 'object|encoding' command
             rpush l a                   -> :1
             object encoding l           -> $9 quicklist
             sadd s 1 2 3                -> :3
             object encoding s           -> $6 intset
             sadd s x                    -> :1
             object encoding s           -> $9 hashtable
             hset h a 1                  -> :1
             object encoding h           -> $8 listpack
             zadd z 1 a                  -> :1
             object encoding z           -> $8 listpack
             memory usage none           -> $-1
             memory usage e samples -1   -> -ERR syntax error
             memory bad                  -> -ERR unknown subcommand 'bad'. Try MEMORY HELP.",
        );
        let long = "x".repeat(100);
        bench.run(&format!("hset h b {long}"));
        bench.run(&format!("zadd z 2 {long}"));
        bench.run(&format!("set raw {long}"));
        bench.check(
            "object encoding h   -> $9 hashtable
             object encoding z   -> $8 skiplist
             object encoding raw -> $3 raw",
        );
        let bytes = |reply: String| reply.trim_start_matches(':').parse::<usize>().expect("a number");
        assert!((100..200).contains(&bytes(bench.run("memory usage raw"))));
        for n in 0..1000 {
            bench.run(&format!("hset large field{n} {long}"));
        }
        let (few, all) =
            (bytes(bench.run("memory usage large")), bytes(bench.run("memory usage large samples 0")));
        assert!((100_000..200_000).contains(&all) && few.abs_diff(all) < all / 10, "{few} {all}");
    }
}
