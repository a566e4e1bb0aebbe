//! SLOTSRESTORE and its kin: keys that come from a codis-server one by one, or by any node towards a proxy's other group.
//!
//! | command | answer |
//! |---|---|
//! | `SLOTSRESTORE key ttl payload [key ttl payload ...]` | OK: all of them or none, whatever stood there is replaced |
//! | `SLOTSRESTORE-ASYNC DELETE key` | ack: 1 if it was there, else 0 |
//! | `SLOTSRESTORE-ASYNC STRING key ttl bytes`, `OBJECT key ttl payload` | ack: 1; an error if the key is there |
//! | `SLOTSRESTORE-ASYNC LIST\|HASH\|DICT\|ZSET key ttl hint elements ...` | ack: how many it has now; they are added to what came before |
//! | `SLOTSRESTORE-ASYNC EXPIRE key ttl` | ack: 1; after the last elements |
//! | `SLOTSRESTORE-ASYNC-AUTH password`, `-SELECT db` | ack: OK |
//!
//! A `ttl` is in milliseconds from now, 0 for ever; scores are 8 bytes, little-endian; DICT is a set. An *ack* is the array
//! `SLOTSRESTORE-ASYNC-ACK code text`, which codis-server reads as a command. It takes nothing else for an answer: these commands' errors
//! are acks too, with the code -1, and end the connection (see [`Flags::ACKED`]).

use haypile_engine::clock::TimeMs;
use haypile_engine::key::Key;
use haypile_engine::tx::Tx;
use haypile_engine::value::Value;

use super::{connection, dump, strings};
use crate::cx::{Cx, Fail, integer, is};
use crate::kind::Kind;
use crate::resp::ReplyWriter;
use crate::session::SessionCx;
use crate::table::{Command, Flags, Group, Keys};
use crate::types::dict::Dict;
use crate::types::list::{End, List};
use crate::types::zset::Zset;

const RESTORE: Flags = Flags::WRITE.with(Flags::DANGEROUS).with(Flags::NO_MULTI);
const CHUNK: Flags = RESTORE.with(Flags::ACKED);
const GREETING: Flags = Flags::ACKED.with(Flags::NO_MULTI);

const TRIPLES: Keys = Keys::Range { first: 1, last: -1, step: 3 };
const THIRD: Keys = Keys::Custom(|args, positions| {
    if args.len() > 2 {
        positions.push(2);
    }
});

const GROUP: Group = Group("cluster");

/// See the file's head.
#[rustfmt::skip]
pub const COMMANDS: &[Command] = &[
    GROUP.data("slotsrestore", -4, RESTORE, TRIPLES, "1.0.0", "Makes keys of what another node gave.", restore).own(),
    GROUP.data("slotsrestore-async", -1, CHUNK, THIRD, "1.0.0", "Makes a key of what another node gives, in pieces.", restore_piece).own(),
    GROUP.session("slotsrestore-async-auth", 2, GREETING.with(Flags::NO_AUTH), "1.0.0", "Gives the password, for SLOTSRESTORE-ASYNC.", auth).own(),
    GROUP.session("slotsrestore-async-select", 2, GREETING, "1.0.0", "Names the database, for SLOTSRESTORE-ASYNC.", select).own(),
    GROUP.session("slotsrestore-async-ack", 3, Flags::NO_MULTI, "1.0.0", "Answers SLOTSRESTORE-ASYNC.", unasked).own(),
];

/// Appends an ack.
pub fn ack(reply: &mut ReplyWriter, code: i64, text: &str) {
    reply.array(3);
    reply.bulk(b"SLOTSRESTORE-ASYNC-ACK");
    reply.bulk(code.to_string().as_bytes());
    reply.bulk(text.as_bytes());
}

/// When what has this time to live expires.
fn expiry(cx: &Cx<'_>, key: &Key, ttl: &[u8]) -> Result<Option<TimeMs>, Fail> {
    let ttl = integer(ttl).ok().and_then(|ttl| u64::try_from(ttl).ok());
    let ttl = ttl.ok_or_else(|| Fail::error("ERR invalid TTL value, must be >= 0"))?;
    Ok((ttl > 0).then(|| TimeMs(cx.now(key).0.saturating_add(ttl))))
}

fn restore(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let args = cx.args;
    if !(args.len() - 1).is_multiple_of(3) {
        return Err(Fail::arity("slotsrestore"));
    }
    for (key, triple) in cx.keys.iter().zip(args[1..].chunks_exact(3)) {
        let expiry = expiry(cx, key, triple[1])?;
        let object = dump::parse(triple[2])?;
        cx.tx.delete(key)?;
        dump::put(&mut cx.tx, key, expiry, &object)?;
    }
    cx.reply.ok();
    Ok(())
}

fn restore_piece(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let args = cx.args;
    let few = || Fail::error(format!("ERR wrong number of arguments (argc={})", args.len()));
    let (Some(what), Some(key)) = (args.get(1), cx.keys.first()) else { return Err(few()) };
    if is(what, "delete") && args.len() == 3 {
        let was_there = cx.tx.delete(key)?;
        ack(cx.reply, 0, if was_there { "1" } else { "0" });
        return Ok(());
    }
    let expiry = expiry(cx, key, args.get(3).ok_or_else(few)?)?;
    let count = if is(what, "expire") && args.len() == 4 {
        1
    } else if let (Some(whole), 5) = (args.get(4), args.len())
        && (is(what, "string") || is(what, "object"))
    {
        if cx.tx.read(key, |_| ())?.is_some() {
            return Err(Fail::error("ERR the specified key already exists"));
        }
        if is(what, "object") {
            dump::put(&mut cx.tx, key, None, &dump::parse(whole)?)?;
        } else {
            strings::check_length(whole.len())?;
            cx.tx.put(key, &strings::string(whole))?;
        }
        1
    } else {
        let hint = args.get(4).and_then(|hint| integer(hint).ok()).filter(|hint| *hint >= 0);
        hint.ok_or_else(|| Fail::error("ERR invalid hint value, or wrong number of arguments"))?;
        add(&mut cx.tx, key, what, &args[5..])?
    };
    let Some(value) = cx.tx.get(key)? else {
        return Err(Fail::error("ERR the specified key doesn't exist"));
    };
    cx.tx.put(key, &Value { expiry, ..value })?;
    ack(cx.reply, 0, &count.to_string());
    Ok(())
}

/// Adds elements to a collection, which begins with them if it is not there; how many it has then.
fn add(tx: &mut Tx<'_>, key: &Key, what: &[u8], elements: &[&[u8]]) -> Result<usize, Fail> {
    let kinds = [("list", Kind::List), ("hash", Kind::Hash), ("dict", Kind::Set), ("zset", Kind::SortedSet)];
    let Some((_, kind)) = kinds.into_iter().find(|(name, _)| is(what, name)) else {
        return Err(Fail::error(format!("ERR unknown command (cmd={})", String::from_utf8_lossy(what))));
    };
    let there = tx.get(key)?;
    match &there {
        Some(value) if value.kind != kind as u8 => return Err(Fail::error("ERR wrong type")),
        None if elements.is_empty() => return Err(Fail::error("ERR the specified key doesn't exist")),
        _ => {}
    }
    let odd = || Fail::error("ERR wrong number of arguments: elements without values");
    let pairs = elements.chunks_exact(2);
    if matches!(kind, Kind::Hash | Kind::SortedSet) && !pairs.remainder().is_empty() {
        return Err(odd());
    }
    Ok(match kind {
        Kind::List => {
            let mut list = there.map_or_else(|| Ok(List::new(key)), |value| List::decode(key, &value))?;
            for element in elements {
                list.push(tx, End::Tail, element)?;
            }
            let count = list.len();
            list.save(tx)?;
            count
        }
        Kind::Hash => {
            let mut hash = there.map_or_else(|| Ok(Dict::new_hash(key)), |value| Dict::hash(key, &value))?;
            for pair in pairs {
                hash.put(tx, pair[0], pair[1])?;
            }
            let count = hash.len();
            hash.close(tx)?;
            count
        }
        Kind::Set => {
            let mut set = there.map_or_else(|| Ok(Dict::new_set(key)), |value| Dict::set(key, &value))?;
            for element in elements {
                set.put(tx, element, b"")?;
            }
            let count = set.len();
            set.close(tx)?;
            count
        }
        _ => {
            let mut zset = there.map_or_else(|| Ok(Zset::new(key)), |value| Zset::decode(key, &value))?;
            for pair in pairs {
                let score = pair[1].try_into().map(f64::from_le_bytes).ok().filter(|score| !score.is_nan());
                let score = score.ok_or_else(|| Fail::error("ERR invalid zset score, bad raw bits"))?;
                let old = zset.score(tx, pair[0])?;
                zset.put(tx, pair[0], old, score)?;
            }
            let count = zset.len();
            zset.save(tx)?;
            count
        }
    })
}

fn auth(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    connection::authenticate(cx, b"default", cx.args[1])?;
    ack(cx.reply, 0, "OK");
    Ok(())
}

/// Nothing is selected: behind a proxy the connection is shared. A codis-server has a connection for each of its databases.
fn select(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    if integer(cx.arg(1)).ok() != Some(0) {
        return Err(Fail::error("ERR invalid DB index: only db 0 holds data here"));
    }
    ack(cx.reply, 0, "OK");
    Ok(())
}

fn unasked(_: &mut SessionCx<'_>) -> Result<(), Fail> {
    Err(Fail::error("ERR invalid client, permission denied"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::rdb::{self, Object};
    use crate::testing::Bench;

    const ACK: &str = "*3 $22 SLOTSRESTORE-ASYNC-ACK";

    fn piece(bench: &mut Bench, args: &[&[u8]]) -> String {
        let args: Vec<&[u8]> = [&b"slotsrestore-async"[..]].iter().chain(args).copied().collect();
        let reply = bench.run_raw(&args);
        let reply = String::from_utf8_lossy(&reply).replace("\r\n", " ").trim_end().to_owned();
        reply.strip_prefix(ACK).unwrap_or_else(|| panic!("no ack: {reply}")).trim().to_owned()
    }

    #[test]
    fn whole_keys_replace_what_stood_there_all_or_none() {
        let mut bench = Bench::with(Settings { slots: "all".into(), ..Settings::default() });
        let (string, list) =
            (rdb::dump(&Object::String("v".into())), rdb::dump(&Object::List(vec!["x".into(), "y".into()])));
        bench.check("set a old -> +OK");
        let reply = bench.run_raw(&[&b"slotsrestore"[..], b"a", b"0", &list, b"b", b"60000", &string]);
        assert_eq!(reply, b"+OK\r\n");
        bench.check("lrange a 0 -1 -> *2 $1 x $1 y\n ttl a -> :-1\n get b -> $1 v");
        assert_ne!(bench.run("pttl b"), ":-1");
        let reply = bench.run_raw(&[&b"slotsrestore"[..], b"a", b"0", &string, b"b", b"0", b"rubbish"]);
        assert_eq!(reply, b"-ERR DUMP payload version or checksum are wrong\r\n");
        bench.check(
            "llen a                   -> :2
             slotsrestore a 0         -> -ERR wrong number of arguments for 'slotsrestore' command
             slotsrestore a 0 x b     -> -ERR wrong number of arguments for 'slotsrestore' command
             slotsrestore a -1 x      -> -ERR invalid TTL value, must be >= 0",
        );
    }

    #[test]
    fn keys_come_in_pieces_and_get_their_time_to_live_at_the_end() {
        let mut bench = Bench::new();
        assert_eq!(piece(&mut bench, &[b"delete", b"k"]), "$1 0 $1 0");
        assert_eq!(piece(&mut bench, &[b"string", b"k", b"0", b"v"]), "$1 0 $1 1");
        assert_eq!(piece(&mut bench, &[b"delete", b"k"]), "$1 0 $1 1");
        let object = rdb::dump(&Object::Set(vec!["x".into(), "y".into()]));
        assert_eq!(piece(&mut bench, &[b"object", b"k", b"50000", &object]), "$1 0 $1 1");
        bench.check("scard k -> :2");
        assert_ne!(bench.run("pttl k"), ":-1");
        for (what, ask, width) in
            [("list", "llen", 1), ("hash", "hlen", 2), ("dict", "scard", 1), ("zset", "zcard", 2)]
        {
            for from in [0_u32, 300] {
                let names: Vec<Vec<u8>> = (from..from + 300)
                    .flat_map(|n| {
                        let name = n.to_string().into_bytes();
                        [name, f64::from(n).to_le_bytes().to_vec()].into_iter().take(width)
                    })
                    .collect();
                let mut args: Vec<&[u8]> = vec![what.as_bytes(), what.as_bytes(), b"15000", b"600"];
                args.extend(names.iter().map(Vec::as_slice));
                let told = (from + 300).to_string();
                assert_eq!(piece(&mut bench, &args), format!("$1 0 $3 {told}"), "{what}");
            }
            assert_eq!(bench.run(&format!("{ask} {what}")), ":600");
            assert_ne!(bench.run(&format!("pttl {what}")), ":-1", "it goes if nothing more comes");
            assert_eq!(piece(&mut bench, &[b"expire", what.as_bytes(), b"0"]), "$1 0 $1 1");
            assert_eq!(bench.run(&format!("pttl {what}")), ":-1");
        }
        bench.check("zscore zset 299 -> $3 299\n lindex list 599 -> $3 599");
    }

    #[test]
    fn what_can_not_be_taken_is_told_in_an_ack_and_ends_the_connection() {
        let mut bench =
            Bench::with(Settings { standalone: true, requirepass: "p".into(), ..Settings::default() });
        bench.check("set a 1 -> +OK");
        let refused: &[(&[&[u8]], &str)] = &[
            (&[b"string", b"a", b"0", b"v"], "ERR the specified key already exists"),
            (&[b"expire", b"none", b"0"], "ERR the specified key doesn't exist"),
            (&[b"list", b"a", b"0", b"1", b"x"], "ERR wrong type"),
            (&[b"hash", b"h", b"0", b"1", b"x"], "ERR wrong number of arguments: elements without values"),
            (&[b"zset", b"z", b"0", b"1", b"x", b"1"], "ERR invalid zset score, bad raw bits"),
            (&[b"object", b"o", b"0", b"x"], "ERR DUMP payload version or checksum are wrong"),
            (&[b"string", b"s", b"-1", b"x"], "ERR invalid TTL value, must be >= 0"),
            (&[b"what", b"s", b"0", b"0"], "ERR unknown command (cmd=what)"),
            (&[b"delete"], "ERR wrong number of arguments (argc=2)"),
        ];
        for (args, why) in refused {
            assert_eq!(piece(&mut bench, args), format!("$2 -1 ${} {why}", why.len()));
            assert!(std::mem::take(&mut bench.session.closing));
        }
        bench.session.authenticated = false;
        assert_eq!(piece(&mut bench, &[b"delete", b"a"]), "$2 -1 $31 NOAUTH Authentication required.");
        assert!(bench.run("slotsrestore-async-auth x").starts_with(&format!("{ACK} $2 -1")));
        assert_eq!(bench.run("slotsrestore-async-auth p"), format!("{ACK} $1 0 $2 OK"));
        assert_eq!(bench.run("slotsrestore-async-select 0"), format!("{ACK} $1 0 $2 OK"));
        assert!(bench.run("slotsrestore-async-select 3").starts_with(&format!("{ACK} $2 -1")));
        let engine = bench.node.engine.clone();
        engine.follow(&[Key::new(b"a").slot()], "127.0.0.1:7").expect("it can follow");
        let why = piece(&mut bench, &[b"delete", b"a"]);
        assert!(why.ends_with("ERR Server in read-only: slot 579 follows 127.0.0.1:7"), "{why}");
        bench.check("slotsrestore-async-ack 0 1 -> -ERR invalid client, permission denied");
    }
}
