//! A node under a client's commands: replies are well-formed, and data are the same in memory and in files.
//!
//! An input is a list of calls: a byte picks the command, a byte the number of arguments, a byte each argument from
//! [`WORDS`], so that nearly every input means something. Only commands on data: what they do follows from the input
//! but for a few random picks.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use haypile_engine::clock::SystemClock;
use haypile_engine::engine::{Engine, Options};
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::types::Slot;
use haypile_server::config::Settings;
use haypile_server::table::{self, Command, Run};
use haypile_server::testing::Bench;

/// Arguments: keys and members first, then numbers, then the words that options are made of.
const WORDS: &[&str] = &[
    "a",
    "b",
    "c{a}",
    "d{a}",
    "e",
    "",
    "hello world",
    "\u{0}\u{1}\u{ff}",
    "0",
    "1",
    "-1",
    "2",
    "3",
    "5",
    "10",
    "-3",
    "100",
    "1000",
    "1.5",
    "-2.25",
    "1e300",
    "inf",
    "-inf",
    "nan",
    "9223372036854775807",
    "-9223372036854775808",
    "4294967296",
    "007",
    "0x10",
    "(1",
    "(5",
    "[a",
    "[c",
    "(b",
    "-",
    "+",
    "*",
    "?*",
    "[a-c]*",
    "u8",
    "i16",
    "#1",
    "BYTE",
    "BIT",
    "NX",
    "XX",
    "GT",
    "LT",
    "CH",
    "INCR",
    "EX",
    "PX",
    "KEEPTTL",
    "PERSIST",
    "GET",
    "SET",
    "INCRBY",
    "OVERFLOW",
    "SAT",
    "FAIL",
    "LIMIT",
    "WITHSCORES",
    "WITHVALUES",
    "BYSCORE",
    "BYLEX",
    "REV",
    "COUNT",
    "MATCH",
    "WEIGHTS",
    "AGGREGATE",
    "SUM",
    "MIN",
    "MAX",
    "LEFT",
    "RIGHT",
    "BEFORE",
    "AFTER",
    "RANK",
    "MAXLEN",
    "AND",
    "OR",
    "XOR",
    "NOT",
    "LEN",
    "IDX",
    "MINMATCHLEN",
    "WITHMATCHLEN",
    "FIELDS",
    "REPLACE",
    "STORE",
    "TYPE",
    "string",
    "hash",
    "list",
    "set",
    "zset",
];
/// Bytes of the longest argument that is not a word: large enough for every collection to change its form.
const LONG_BYTES: usize = 700;
/// Calls of one input.
const CALLS_MAX: usize = 64;

/// The commands on data.
static COMMANDS: LazyLock<Vec<&'static Command>> = LazyLock::new(|| {
    table::all().iter().copied().filter(|command| matches!(command.run, Run::Data(_))).collect()
});

/// The calls of an input.
fn calls(mut bytes: &[u8]) -> Vec<Vec<Bytes>> {
    let mut next = || {
        let (byte, rest) = bytes.split_first()?;
        bytes = rest;
        Some(*byte)
    };
    let mut calls = Vec::new();
    while let Some(pick) = next().filter(|_| calls.len() < CALLS_MAX) {
        let command = COMMANDS[usize::from(pick) % COMMANDS.len()];
        let least = usize::try_from(command.arity.unsigned_abs()).unwrap_or(1);
        let more = if command.arity < 0 { usize::from(next().unwrap_or(0)) % 10 } else { 0 };
        let mut args = vec![Bytes::from_static(command.name.as_bytes())];
        args.extend((1..least + more).map(|_| word(next().unwrap_or(0))));
        calls.push(args);
    }
    calls
}

fn word(pick: u8) -> Bytes {
    match WORDS.get(usize::from(pick)) {
        Some(word) => Bytes::from_static(word.as_bytes()),
        // The others are members of their own: short ones, and few long ones.
        None if pick >= 0xf0 => Bytes::from(vec![pick; LONG_BYTES]),
        None => Bytes::from(format!("member {pick}")),
    }
}

/// The bytes that make these calls; what is no word is left out.
fn written(calls: &[&str]) -> Vec<u8> {
    let byte = |place: Option<usize>| u8::try_from(place.expect("it is there")).expect("fewer than 256");
    let mut out = Vec::new();
    for call in calls {
        let mut words = call.split(' ');
        let name = words.next().unwrap_or_default();
        let place = COMMANDS.iter().position(|command| command.name == name);
        let command = COMMANDS[place.unwrap_or_else(|| panic!("there is no {name}"))];
        let args: Vec<u8> = words.map(|word| byte(WORDS.iter().position(|other| *other == word))).collect();
        let least = usize::try_from(command.arity.unsigned_abs()).unwrap_or(1) - 1;
        out.push(byte(place));
        if command.arity < 0 {
            out.push(byte(args.len().checked_sub(least)));
        }
        out.extend_from_slice(&args);
    }
    out
}

pub(super) fn samples() -> Vec<Vec<u8>> {
    let many: Vec<u8> = (0xa0..=0xff).collect();
    let mut large = Vec::new();
    for name in ["sadd", "hset", "zadd", "rpush"] {
        let place = COMMANDS.iter().position(|command| command.name == name).expect("a command");
        for chunk in many.chunks(8) {
            large.extend([
                u8::try_from(place).expect("fewer than 256"),
                7,
                u8::try_from(place % 4).unwrap_or(0),
            ]);
            large.extend_from_slice(
                &chunk[..chunk.len().min(if name == "sadd" || name == "rpush" { 8 } else { 6 })],
            );
        }
    }
    vec![
        written(&["set a 100", "append a 1.5", "getrange a 0 -1", "incrby e 5", "incrbyfloat e 1.5"]),
        written(&[
            "rpush a 1 2 3",
            "lpush a b",
            "linsert a BEFORE 2 e",
            "lrange a 0 -1",
            "lpop a 2",
            "ltrim a 0 1",
        ]),
        written(&["hset a b 1 e 2", "hincrby a b 5", "hgetall a", "hdel a b", "hscan a 0 COUNT 10"]),
        written(&["sadd a 1 2 3", "sadd c{a} 2 3 5", "sinterstore d{a} a c{a}", "smembers a", "spop a 2"]),
        written(&[
            "zadd a 1 b 2 e",
            "zadd a GT CH 5 b",
            "zrange a 0 -1 WITHSCORES",
            "zrangebyscore a (1 inf",
        ]),
        written(&[
            "set a 1 EX 100",
            "setbit e 5 1",
            "bitcount e 0 -1",
            "bitfield e INCRBY u8 #1 5",
            "getex a PX 1000",
        ]),
        large,
    ]
}

/// Where the value that begins `bytes` ends; `None` if it is none.
fn value_end(bytes: &[u8], depth: usize) -> Option<usize> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let (kind, text) = bytes[..line].split_first()?;
    let after = line + 2;
    let number = || std::str::from_utf8(text).ok()?.parse::<i64>().ok();
    let items = match kind {
        b'+' | b'-' => return (!text.is_empty()).then_some(after),
        b':' => return number().map(|_| after),
        b'_' => return text.is_empty().then_some(after),
        b'#' => return (text == b"t" || text == b"f").then_some(after),
        b',' => return (!text.is_empty()).then_some(after),
        b'$' | b'=' => {
            let Ok(len) = usize::try_from(number()?) else { return (text == b"-1").then_some(after) };
            return (bytes.get(after + len..after + len + 2)? == b"\r\n").then_some(after + len + 2);
        }
        b'*' | b'~' | b'>' if text == b"-1" => return Some(after),
        b'*' | b'~' | b'>' => usize::try_from(number()?).ok()?,
        b'%' => 2 * usize::try_from(number()?).ok()?,
        _ => return None,
    };
    let mut end = after;
    for _ in 0..items {
        end += value_end(bytes.get(end..)?, depth.checked_sub(1)?)?;
    }
    Some(end)
}

/// All that the node holds, in the words of its replies.
fn contents(bench: &mut Bench) -> Vec<String> {
    let mut out = Vec::new();
    for key in WORDS[..KEYS].iter().map(|word| Bytes::from_static(word.as_bytes())) {
        let mut ask = |words: &[&'static str]| {
            let mut args: Vec<Bytes> = words.iter().map(|word| Bytes::from_static(word.as_bytes())).collect();
            args.insert(1, key.clone());
            String::from_utf8_lossy(&bench.run_raw(&args)).into_owned()
        };
        let kind = ask(&["type"]);
        out.push(match kind.trim() {
            "+string" => ask(&["get"]),
            "+list" => ask(&["lrange", "0", "-1"]),
            "+hash" => ask(&["hgetall"]),
            "+set" => ask(&["smembers"]),
            "+zset" => ask(&["zrange", "0", "-1", "WITHSCORES"]),
            "+none" => String::new(),
            other => panic!("a key of the type {other}"),
        });
    }
    out
}

/// How many of the first words are keys that the node has the slots of.
const KEYS: usize = 8;

/// A node with as few slots as will do: it is made for every input.
fn bench() -> Bench {
    let options = Options { log_segment_bytes: 64 << 10, seed: Some(1), ..Options::default() };
    let (fs, clock) = (Arc::new(MemoryFs::new()), Arc::new(SystemClock::new()));
    let (engine, _) = Engine::open(fs, Path::new("/haypile"), clock, options).expect("an empty folder opens");
    let mut slots: Vec<Slot> = WORDS[..KEYS].iter().map(|key| Slot::of_key(key.as_bytes())).collect();
    slots.sort_unstable();
    slots.dedup();
    engine.add_slots(&slots).expect("slots are added");
    Bench::on(Arc::new(engine), Settings { standalone: true, ..Settings::default() })
}

pub(super) fn commands(bytes: &[u8]) {
    let Some((version, bytes)) = bytes.split_first() else { return };
    let mut bench = bench();
    if version % 2 == 1 {
        bench = bench.resp3();
    }
    for call in calls(bytes) {
        let reply = bench.run_raw(&call);
        assert_eq!(
            value_end(&reply, 8),
            Some(reply.len()),
            "{call:?} replies {:?}",
            String::from_utf8_lossy(&reply)
        );
        assert!(
            !reply.starts_with(b"-ERR internal"),
            "{call:?} replies {:?}",
            String::from_utf8_lossy(&reply)
        );
    }
    let before = contents(&mut bench);
    bench.node.engine.flush_all().expect("a disk in memory takes it");
    assert_eq!(contents(&mut bench), before, "what was read from memory is read from files otherwise");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_that_is_not_well_formed_is_noticed() {
        for reply in
            ["+OK\r\n", "$-1\r\n", "$2\r\n\r\n\r\n", "*2\r\n:1\r\n*0\r\n", "%1\r\n+a\r\n_\r\n", ",1.5\r\n"]
        {
            assert_eq!(value_end(reply.as_bytes(), 8), Some(reply.len()), "{reply:?}");
        }
        for reply in
            ["", "+OK\n", "$2\r\nabc\r\n", "$2\r\na\r\n", "*2\r\n:1\r\n", ":x\r\n", "%1\r\n+a\r\n", "?\r\n"]
        {
            assert_eq!(value_end(reply.as_bytes(), 8), None, "{reply:?}");
        }
        assert_eq!(value_end(&b"*1\r\n".repeat(9), 8), None, "too deep");
    }
}
