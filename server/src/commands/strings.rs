//! Strings: read, replaced, extended, cut. SET and GETEX, which have options, are in `set.rs`.

use haypile_engine::key::Key;
use haypile_engine::value::Value;

use crate::config::BULK_BYTES_MAX_LEAST;
use crate::cx::{Cx, Fail, integer};
use crate::expiry::{Base, Unit, deadline};
use crate::kind::Kind;
use crate::node::Node;
use crate::table::{Command, Flags, Group, Keys};

/// The longest string, in bytes.
pub const STRING_BYTES_MAX: usize = 512 << 20;

const READ: Flags = Flags::READONLY.with(Flags::FAST);
const WRITE: Flags = Flags::WRITE;
const FAST: Flags = Flags::WRITE.with(Flags::FAST);
const PAIRS: Keys = Keys::Range { first: 1, last: -1, step: 2 };

/// See the file's head.
pub const COMMANDS: &[Command] = &[
    GROUP.data("get", 2, READ, Keys::FIRST, "1.0.0", "Gives the string at a key.", get),
    GROUP.data("getset", 3, FAST, Keys::FIRST, "1.0.0", "Replaces a string and gives the old one.", getset),
    GROUP.data("getdel", 2, FAST, Keys::FIRST, "6.2.0", "Gives a string and removes its key.", getdel),
    GROUP.data("setnx", 3, FAST, Keys::FIRST, "1.0.0", "Sets a key that is not there.", setnx),
    GROUP.data("setex", 4, WRITE, Keys::FIRST, "2.0.0", "Sets a key with an expiry in seconds.", setex),
    GROUP.data(
        "psetex",
        4,
        WRITE,
        Keys::FIRST,
        "2.6.0",
        "Sets a key with an expiry in milliseconds.",
        psetex,
    ),
    GROUP.data("mget", -2, READ, Keys::ALL, "1.0.0", "Gives the strings at several keys.", mget),
    GROUP.data("mset", -3, WRITE, PAIRS, "1.0.1", "Sets several keys at once.", mset),
    GROUP.data("msetnx", -3, WRITE, PAIRS, "1.0.1", "Sets several keys if none of them is there.", msetnx),
    GROUP.data("append", 3, FAST, Keys::FIRST, "2.0.0", "Appends to a string.", append),
    GROUP.data("strlen", 2, READ, Keys::FIRST, "2.2.0", "Gives the length of a string.", strlen),
    GROUP.data("getrange", 4, Flags::READONLY, Keys::FIRST, "2.4.0", "Gives a part of a string.", getrange),
    GROUP.data("substr", 4, Flags::READONLY, Keys::FIRST, "1.0.0", "Gives a part of a string.", getrange),
    GROUP.data("setrange", 4, WRITE, Keys::FIRST, "2.2.0", "Overwrites a part of a string.", setrange),
];

const GROUP: Group = Group("string");

/// A string as it stands at a key, without expiry.
pub fn string<P>(payload: P) -> Value<P> {
    Value { kind: Kind::String as u8, encoding: 0, expiry: None, generation: None, payload }
}

/// Refuses a length that no string can have, whatever the settings say.
///
/// # Errors
/// In Redis' words.
pub fn check_length(bytes: usize) -> Result<(), Fail> {
    if bytes > STRING_BYTES_MAX { Err(too_long()) } else { Ok(()) }
}

/// Refuses a length that a string can't grow to: `proto-max-bulk-len` is a limit of what is made as of what is sent.
///
/// # Errors
/// In Redis' words.
pub fn check_growth(node: &Node, bytes: usize) -> Result<(), Fail> {
    if bytes > BULK_BYTES_MAX_LEAST && bytes > bulk_bytes_max(node) { Err(too_long()) } else { Ok(()) }
}

/// The setting `proto-max-bulk-len`, never less than [`BULK_BYTES_MAX_LEAST`].
pub fn bulk_bytes_max(node: &Node) -> usize {
    usize::try_from(node.config.now().bulk_bytes_max).unwrap_or(usize::MAX)
}

fn too_long() -> Fail {
    Fail::error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
}

/// Puts new bytes at a key and keeps its expiry.
///
/// # Errors
/// What the engine meets.
pub fn replace(
    cx: &mut Cx<'_>,
    key: &Key,
    old: Option<&Value>,
    payload: impl AsRef<[u8]>,
) -> Result<(), Fail> {
    let value = Value { expiry: old.and_then(|old| old.expiry), ..string(payload) };
    Ok(cx.tx.put(key, &value)?)
}

fn get(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let reply = &mut *cx.reply;
    let found = cx.tx.read(&cx.keys[0], |value| {
        let is_string = value.kind == Kind::String as u8;
        if is_string {
            reply.bulk(value.payload);
        }
        is_string
    })?;
    match found {
        Some(true) => Ok(()),
        Some(false) => Err(Fail::wrong_type()),
        None => {
            cx.reply.null();
            Ok(())
        }
    }
}

fn getset(cx: &mut Cx<'_>) -> Result<(), Fail> {
    get(cx)?;
    Ok(cx.tx.put(cx.key(0), &string(cx.arg(2)))?)
}

fn getdel(cx: &mut Cx<'_>) -> Result<(), Fail> {
    get(cx)?;
    cx.tx.delete(cx.key(0))?;
    Ok(())
}

fn setnx(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let absent = cx.tx.read(cx.key(0), |_| ())?.is_none();
    if absent {
        cx.tx.put(cx.key(0), &string(cx.arg(2)))?;
    }
    cx.reply.integer(i64::from(absent));
    Ok(())
}

fn setex(cx: &mut Cx<'_>) -> Result<(), Fail> {
    set_expiring(cx, Unit::Seconds, "setex")
}

fn psetex(cx: &mut Cx<'_>) -> Result<(), Fail> {
    set_expiring(cx, Unit::Milliseconds, "psetex")
}

fn set_expiring(cx: &mut Cx<'_>, unit: Unit, command: &str) -> Result<(), Fail> {
    let key = cx.key(0);
    let at = deadline(cx.arg(2), unit, Base::Now(cx.now(key)), command)?;
    cx.tx.put(key, &Value { expiry: Some(at), ..string(cx.arg(3)) })?;
    cx.reply.ok();
    Ok(())
}

fn mget(cx: &mut Cx<'_>) -> Result<(), Fail> {
    cx.reply.array(cx.keys.len());
    for key in cx.keys {
        let reply = &mut *cx.reply;
        let found = cx.tx.look(key, |value| {
            let is_string = value.kind == Kind::String as u8;
            reply.bulk_or_null(is_string.then_some(value.payload));
        })?;
        if found.is_none() {
            cx.reply.null();
        }
    }
    Ok(())
}

/// Sets all pairs; where a key comes twice its last value stays.
fn put_pairs(cx: &mut Cx<'_>) -> Result<(), Fail> {
    for (key, value) in cx.keys.iter().zip(cx.args[2..].iter().step_by(2)) {
        cx.tx.put(key, &string(value))?;
    }
    Ok(())
}

fn mset(cx: &mut Cx<'_>) -> Result<(), Fail> {
    if cx.args.len().is_multiple_of(2) {
        return Err(Fail::arity("mset"));
    }
    put_pairs(cx)?;
    cx.reply.ok();
    Ok(())
}

fn msetnx(cx: &mut Cx<'_>) -> Result<(), Fail> {
    if cx.args.len().is_multiple_of(2) {
        return Err(Fail::arity("msetnx"));
    }
    for key in cx.keys {
        if cx.tx.read(key, |_| ())?.is_some() {
            cx.reply.integer(0);
            return Ok(());
        }
    }
    put_pairs(cx)?;
    cx.reply.integer(1);
    Ok(())
}

fn append(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let key = cx.key(0);
    let old = cx.read(key, Kind::String)?;
    let head = old.as_ref().map_or(&[][..], |old| &old.payload[..]);
    check_growth(cx.node, head.len() + cx.arg(2).len())?;
    let whole = [head, cx.arg(2)].concat();
    cx.reply.count(whole.len());
    replace(cx, key, old.as_ref(), whole)
}

fn strlen(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let len = cx.show(cx.key(0), Kind::String, |value, _| Ok::<_, Fail>(value.payload.len()))?;
    cx.reply.count(len.unwrap_or(0));
    Ok(())
}

fn getrange(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let (start, end) = (integer(cx.arg(2))?, integer(cx.arg(3))?);
    let shown = cx.show(cx.key(0), Kind::String, |value, reply| {
        match range(start, end, value.payload.len()) {
            Some((start, end)) => reply.bulk(&value.payload[start..=end]),
            None => reply.bulk(b""),
        }
        Ok::<_, Fail>(())
    })?;
    if shown.is_none() {
        cx.reply.bulk(b"");
    }
    Ok(())
}

/// A range as Redis reads it, ends included and negative ones counted from the end, over `len` places; `None` if it is
/// empty.
#[must_use]
pub fn range(start: i64, end: i64, len: usize) -> Option<(usize, usize)> {
    if start < 0 && end < 0 && start > end { None } else { places(start, end, len) }
}

/// As [`range`], but two places before the beginning are both the beginning, in whatever order.
#[must_use]
pub fn places(start: i64, end: i64, len: usize) -> Option<(usize, usize)> {
    let places = i64::try_from(len).ok()?;
    let from_end = |index: i64| if index < 0 { (places + index).max(0) } else { index };
    let (start, end) = (from_end(start), from_end(end).min(places - 1));
    if start > end {
        return None;
    }
    Some((usize::try_from(start).ok()?, usize::try_from(end).ok()?))
}

fn setrange(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let offset = integer(cx.arg(2))?;
    let offset = usize::try_from(offset).map_err(|_| Fail::error("ERR offset is out of range"))?;
    let (key, patch) = (cx.key(0), cx.arg(3));
    let old = cx.read(key, Kind::String)?;
    let mut whole = old.as_ref().map_or_else(Vec::new, |old| old.payload.to_vec());
    if patch.is_empty() {
        cx.reply.count(whole.len());
        return Ok(());
    }
    check_growth(cx.node, offset.saturating_add(patch.len()))?;
    let end = offset + patch.len();
    whole.resize(whole.len().max(end), 0);
    whole[offset..end].copy_from_slice(patch);
    cx.reply.count(whole.len());
    replace(cx, key, old.as_ref(), whole)
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    #[test]
    fn strings_are_read_and_replaced_as_in_redis() {
        Bench::new().check(
            "getset k 1          -> $-1
             getset k 2          -> $1 1
             strlen k            -> :1
             append k bc         -> :3
             append new x        -> :1
             get k               -> $3 2bc
             getdel k            -> $3 2bc
             getdel k            -> $-1
             setnx n a           -> :1
             setnx n b           -> :0
             get n               -> $1 a
             mset a 1 b 2 a 3    -> +OK
             mset a 1 b          -> -ERR wrong number of arguments for 'mset' command
             mget a b nope       -> *3 $1 3 $1 2 $-1
             msetnx c 1 a 2      -> :0
             msetnx c 1 d 2      -> :1
             mget c d            -> *2 $1 1 $1 2
             msetnx c 1 d        -> -ERR wrong number of arguments for 'msetnx' command",
        );
    }

    #[test]
    fn parts_of_strings_are_read_and_overwritten_as_in_redis() {
        Bench::new().check(
            "set k \"Hello World\"   -> +OK
             getrange k 0 4          -> $5 Hello
             getrange k -5 -1        -> $5 World
             getrange k 0 -1         -> $11 Hello World
             getrange k 5 3          -> $0
             getrange k -1 -5        -> $0
             getrange k -100 100     -> $11 Hello World
             getrange k 20 30        -> $0
             getrange nope 0 -1      -> $0
             substr k 0 0            -> $1 H
             getrange k a 1          -> -ERR value is not an integer or out of range
             setrange k 6 Redis      -> :11
             get k                   -> $11 Hello Redis
             setrange k 12 !         -> :13
             getrange k 11 12        -> $2 \0!
             setrange nope 3 \"\"    -> :0
             exists nope             -> :0
             setrange k -1 x         -> -ERR offset is out of range
             setrange k 536870912 x  -> -ERR string exceeds maximum allowed size (proto-max-bulk-len)
             setrange z 2 x          -> :3",
        );
    }

    #[test]
    fn expiries_that_make_no_sense_are_refused() {
        Bench::new().check(
            "setex k 0 v                     -> -ERR invalid expire time in 'setex' command
             setex k x v                     -> -ERR value is not an integer or out of range
             setex k 9223372036854775807 v   -> -ERR invalid expire time in 'setex' command
             psetex k -5 v                   -> -ERR invalid expire time in 'psetex' command
             setex k 100 v                   -> +OK
             ttl k                           -> :100
             append k w                      -> :2
             ttl k                           -> :100
             getset k w                      -> $2 vw
             ttl k                           -> :-1",
        );
    }
}
