//! OBJECT and MEMORY USAGE: how a value is kept.

use haypile_engine::key::Key;
use haypile_engine::value::Value;

use crate::cx::{Cx, Fail, integer, is};
use crate::kind::Kind;
use crate::number;
use crate::table::{Command, Flags, Group, Keys};
use crate::types::dict::Dict;
use crate::types::small;
use crate::types::zset::Zset;

const READ: Flags = Flags::READONLY;
/// The key follows the subcommand, but for HELP.
const KEYS: Keys = Keys::Custom(|args, positions| {
    if args.len() > 2 {
        positions.push(2);
    }
});

/// See the file's head.
#[rustfmt::skip]
pub const COMMANDS: &[Command] = &[
    GROUP.data("object", -2, READ, KEYS, "2.2.3", "Tells how a value is kept.", object),
    Group("server").data("memory", -2, READ, KEYS, "4.0.0", "Tells how many bytes a key takes.", memory),
];

const GROUP: Group = Group("generic");

/// The longest string that Redis keeps in one piece with its header.
const EMBEDDED_BYTES_MAX: usize = 44;
/// The most members of a set that Redis keeps as packed numbers.
const INTSET_MEMBERS_MAX: usize = 512;

fn unknown(cx: &Cx<'_>, command: &str) -> Fail {
    let name = String::from_utf8_lossy(&cx.arg(1)[..cx.arg(1).len().min(128)]).into_owned();
    Fail::error(format!("ERR unknown subcommand '{name}'. Try {command} HELP."))
}

fn help(cx: &mut Cx<'_>, lines: &[&str]) {
    cx.reply.array(lines.len());
    lines.iter().for_each(|line| cx.reply.simple(line));
}

fn object(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let name = cx.arg(1);
    if is(name, "help") && cx.args.len() == 2 {
        help(
            cx,
            &[
                "OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "ENCODING <key>",
                "    The form in which Redis would keep the value.",
                "FREQ <key>",
                "    Refused: how often a key is used is not counted.",
                "IDLETIME <key>",
                "    0: when a key was used is not kept.",
                "REFCOUNT <key>",
                "    1: no value is shared.",
            ],
        );
        return Ok(());
    }
    let known = ["encoding", "freq", "idletime", "refcount"].into_iter().find(|known| is(name, known));
    let Some(known) = known else { return Err(unknown(cx, "OBJECT")) };
    let [key] = cx.keys else { return Err(Fail::arity(&format!("object|{known}"))) };
    if cx.args.len() != 3 {
        return Err(Fail::arity(&format!("object|{known}")));
    }
    let Some(value) = cx.tx.get(key)? else {
        cx.reply.null();
        return Ok(());
    };
    match known {
        "encoding" => {
            let encoding = encoding(cx, key, &value)?;
            cx.reply.bulk(encoding.as_bytes());
        }
        "freq" => {
            return Err(Fail::error(
                "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when \
                 switching between policies at runtime LRU and LFU data will take some time to adjust.",
            ));
        }
        "idletime" => cx.reply.integer(0),
        _ => cx.reply.integer(1),
    }
    Ok(())
}

/// The form in which Redis 7.0 would keep the value, by its default limits.
fn encoding(cx: &mut Cx<'_>, key: &Key, value: &Value) -> Result<&'static str, Fail> {
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

fn memory(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let name = cx.arg(1);
    if is(name, "help") && cx.args.len() == 2 {
        help(
            cx,
            &[
                "MEMORY <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "USAGE <key> [SAMPLES <count>]",
                "    Bytes of the key with its value, uncompressed; what elements take is estimated from samples.",
            ],
        );
        return Ok(());
    }
    if !is(name, "usage") {
        return Err(unknown(cx, "MEMORY"));
    }
    let [key] = cx.keys else { return Err(Fail::arity("memory|usage")) };
    let samples = match &cx.args[3..] {
        [] => 5,
        [option, count] if is(option, "samples") => {
            usize::try_from(integer(count)?).map_err(|_| Fail::syntax())?
        }
        _ => return Err(Fail::syntax()),
    };
    let Some(value) = cx.tx.get(key)? else {
        cx.reply.null();
        return Ok(());
    };
    let own = key.entry().len() + value.encoded_len();
    let elements = match value.generation {
        None => 0,
        Some(generation) => {
            let samples = if samples == 0 { usize::MAX } else { samples };
            elements_bytes(cx, key, &value, generation, samples)?
        }
    };
    cx.reply.count(own + elements);
    Ok(())
}

/// How many bytes the elements of a large collection take, by the average of a few.
fn elements_bytes(
    cx: &mut Cx<'_>,
    key: &Key,
    value: &Value,
    generation: haypile_engine::key::Generation,
    samples: usize,
) -> Result<usize, Fail> {
    use std::ops::Bound::Unbounded;

    use haypile_engine::read::Direction;

    // An element's key has its collection's, with the generation.
    const GENERATION_BYTES: usize = 8;
    let len = match Kind::of(value) {
        Some(Kind::List) => crate::types::list::List::decode(key, value)?.len(),
        Some(Kind::Set) => Dict::set(key, value)?.len(),
        Some(Kind::Hash) => Dict::hash(key, value)?.len(),
        // Each member has two: by its name and by its score.
        Some(Kind::SortedSet) => Zset::decode(key, value)?.len() * 2,
        _ => samples,
    };
    let page = cx.tx.elements(key, generation, Unbounded, Unbounded, Direction::Forward, samples)?;
    let taken: usize =
        page.iter().map(|(sub, value)| key.entry().len() + GENERATION_BYTES + sub.len() + value.len()).sum();
    Ok(if page.is_empty() { 0 } else { taken * len.max(page.len()) / page.len() })
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
