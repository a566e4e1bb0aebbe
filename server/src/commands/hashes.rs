//! HSET, HGET and what else works on hashes.

use bytes::Bytes;

use crate::commands::random::{self, Choice};
use crate::commands::{elements, scan};
use crate::cx::{self, Cx, Fail};
use crate::extended::{Extended, Parsed};
use crate::kind::Kind;
use crate::number;
use crate::resp::{Proto, ReplyWriter};
use crate::table::{Command, Flags, Group, Keys};
use crate::types::damaged;
use crate::types::dict::Dict;

const READ: Flags = Flags::READONLY;
const READ_FAST: Flags = Flags::READONLY.with(Flags::FAST);
const WRITE_FAST: Flags = Flags::WRITE.with(Flags::FAST);

type Done = Result<(), Fail>;

const T: Group = Group("hash");

/// See the file's head.
#[rustfmt::skip]
pub const COMMANDS: &[Command] = &[
    T.data("hdel", -3, WRITE_FAST, Keys::FIRST, "2.0.0", "Removes fields; the hash goes with its last one.", hdel),
    T.data("hexists", 3, READ_FAST, Keys::FIRST, "2.0.0", "Says whether a field is there.", hexists),
    T.data("hget", 3, READ_FAST, Keys::FIRST, "2.0.0", "Gives a field's value.", hget),
    T.data("hgetall", 2, READ, Keys::FIRST, "2.0.0", "Gives all fields and values.", hgetall),
    T.data("hincrby", 4, WRITE_FAST, Keys::FIRST, "2.0.0", "Adds a whole number to a field's.", hincrby),
    T.data("hincrbyfloat", 4, WRITE_FAST, Keys::FIRST, "2.6.0", "Adds a number to a field's.", hincrbyfloat),
    T.data("hkeys", 2, READ, Keys::FIRST, "2.0.0", "Gives all fields.", hkeys),
    T.data("hlen", 2, READ_FAST, Keys::FIRST, "2.0.0", "Counts the fields.", hlen),
    T.data("hmget", -3, READ_FAST, Keys::FIRST, "2.0.0", "Gives several fields' values.", hmget),
    T.data("hmset", -4, WRITE_FAST, Keys::FIRST, "2.0.0", "Sets fields.", hmset),
    T.data("hrandfield", -2, READ, Keys::FIRST, "6.2.0", "Gives fields chosen at random.", hrandfield),
    T.data("hscan", -3, READ, Keys::FIRST, "2.8.0", "Walks over fields and values.", hscan),
    T.data("hset", -4, WRITE_FAST, Keys::FIRST, "2.0.0", "Sets fields, and counts the new ones.", hset),
    T.data("hsetnx", 4, WRITE_FAST, Keys::FIRST, "2.0.0", "Sets a field that is not there.", hsetnx),
    T.data("hstrlen", 3, READ_FAST, Keys::FIRST, "3.2.0", "Gives the length of a field's value.", hstrlen),
    T.data("hvals", 2, READ, Keys::FIRST, "2.0.0", "Gives all values.", hvals),
];

/// The hash at the command's key.
fn open<'a>(cx: &mut Cx<'a>) -> Result<Dict<'a>, Fail> {
    let key = cx.key(0);
    let hash = cx.open(key, Kind::Hash, |value| Dict::hash(key, value))?;
    Ok(hash.unwrap_or_else(|| Dict::new_hash(key)))
}

/// Sets the fields that the command names; says how many are new.
fn put_all(cx: &mut Cx<'_>, name: &str) -> Result<usize, Fail> {
    let pairs = &cx.args[2..];
    if !pairs.len().is_multiple_of(2) {
        return Err(Fail::arity(name));
    }
    let mut hash = open(cx)?;
    hash.gather(&mut cx.tx, pairs.iter().step_by(2))?;
    let mut new = 0;
    for pair in pairs.chunks_exact(2) {
        new += usize::from(hash.put(&mut cx.tx, pair[0], pair[1])?);
    }
    hash.close(&mut cx.tx)?;
    Ok(new)
}

fn hset(cx: &mut Cx<'_>) -> Done {
    let new = put_all(cx, "hset")?;
    cx.reply.count(new);
    Ok(())
}

fn hmset(cx: &mut Cx<'_>) -> Done {
    put_all(cx, "hmset")?;
    cx.reply.ok();
    Ok(())
}

fn hsetnx(cx: &mut Cx<'_>) -> Done {
    let mut hash = open(cx)?;
    let new = !hash.has(&mut cx.tx, cx.args[2])?;
    if new {
        hash.put_new(&mut cx.tx, cx.args[2], cx.args[3])?;
        hash.close(&mut cx.tx)?;
    }
    cx.reply.integer(i64::from(new));
    Ok(())
}

fn hget(cx: &mut Cx<'_>) -> Done {
    let name = cx.args[2];
    let large = elements::show(cx, Kind::Hash, |reply, fields| {
        reply.bulk_or_null(elements::find(fields, name)?);
        Ok(())
    })?;
    if let Some(hash) = large {
        let value = hash.get(&mut cx.tx, name)?;
        cx.reply.bulk_or_null(value.as_deref());
    }
    Ok(())
}

fn hmget(cx: &mut Cx<'_>) -> Done {
    let names = &cx.args[2..];
    let large = elements::show(cx, Kind::Hash, |reply, fields| {
        reply.array(names.len());
        names.iter().try_for_each(|name| {
            reply.bulk_or_null(elements::find(fields.clone(), name)?);
            Ok(())
        })
    })?;
    let Some(hash) = large else { return Ok(()) };
    hash.gather(&mut cx.tx, names.iter())?;
    cx.reply.array(names.len());
    for name in names {
        let value = hash.get(&mut cx.tx, name)?;
        cx.reply.bulk_or_null(value.as_deref());
    }
    Ok(())
}

fn hdel(cx: &mut Cx<'_>) -> Done {
    let mut hash = open(cx)?;
    let names = &cx.args[2..];
    hash.gather(&mut cx.tx, names.iter())?;
    let mut removed = 0;
    for name in names {
        removed += usize::from(hash.remove(&mut cx.tx, name)?);
    }
    hash.close(&mut cx.tx)?;
    cx.reply.count(removed);
    Ok(())
}

fn hexists(cx: &mut Cx<'_>) -> Done {
    let name = cx.args[2];
    let large = elements::show(cx, Kind::Hash, |reply, fields| {
        let there = elements::find(fields, name)?.is_some();
        reply.integer(i64::from(there));
        Ok(())
    })?;
    if let Some(hash) = large {
        let there = hash.has(&mut cx.tx, name)?;
        cx.reply.integer(i64::from(there));
    }
    Ok(())
}

fn hlen(cx: &mut Cx<'_>) -> Done {
    let large = elements::show(cx, Kind::Hash, |reply, fields| {
        reply.count(elements::count(fields));
        Ok(())
    })?;
    large.iter().for_each(|hash| cx.reply.count(hash.len()));
    Ok(())
}

fn hstrlen(cx: &mut Cx<'_>) -> Done {
    let name = cx.args[2];
    let large = elements::show(cx, Kind::Hash, |reply, fields| {
        let value = elements::find(fields, name)?;
        reply.count(value.map_or(0, <[u8]>::len));
        Ok(())
    })?;
    if let Some(hash) = large {
        let value = hash.get(&mut cx.tx, name)?;
        cx.reply.count(value.map_or(0, |value| value.len()));
    }
    Ok(())
}

/// Writes a head that tells how many elements there are, and something of each; holds what the head has told against what there is.
fn each(
    cx: &mut Cx<'_>,
    head: impl Fn(&mut ReplyWriter, usize),
    write: impl Fn(&mut ReplyWriter, &[u8], &[u8]),
) -> Done {
    let large = elements::show(cx, Kind::Hash, |reply, fields| {
        let Some(mut fields) = fields else {
            head(reply, 0);
            return Ok(());
        };
        head(reply, fields.left());
        while let Some((name, value)) = fields.next()? {
            write(reply, name, value);
        }
        Ok(())
    })?;
    let Some(hash) = large else { return Ok(()) };
    head(cx.reply, hash.len());
    let mut walk = hash.walk();
    let mut seen = 0;
    loop {
        let page = walk.next(&mut cx.tx)?;
        if page.is_empty() {
            break;
        }
        seen += page.len();
        page.iter().for_each(|(name, value)| write(cx.reply, name, value));
    }
    if seen == hash.len() { Ok(()) } else { Err(damaged(cx.key(0)).into()) }
}

fn hgetall(cx: &mut Cx<'_>) -> Done {
    each(cx, ReplyWriter::map, |reply, name, value| {
        reply.bulk(name);
        reply.bulk(value);
    })
}

fn hkeys(cx: &mut Cx<'_>) -> Done {
    each(cx, ReplyWriter::array, |reply, name, _| reply.bulk(name))
}

fn hvals(cx: &mut Cx<'_>) -> Done {
    each(cx, ReplyWriter::array, |reply, _, value| reply.bulk(value))
}

fn hincrby(cx: &mut Cx<'_>) -> Done {
    let by = cx::integer(cx.arg(3))?;
    let mut hash = open(cx)?;
    let old = match hash.get(&mut cx.tx, cx.args[2])? {
        None => 0,
        Some(text) => {
            number::integer(&text).ok_or_else(|| Fail::error("ERR hash value is not an integer"))?
        }
    };
    let new = old.checked_add(by).ok_or_else(|| Fail::error("ERR increment or decrement would overflow"))?;
    hash.put(&mut cx.tx, cx.args[2], number::Decimal::default().format(new))?;
    hash.close(&mut cx.tx)?;
    cx.reply.integer(new);
    Ok(())
}

fn hincrbyfloat(cx: &mut Cx<'_>) -> Done {
    let by = match Extended::parse(cx.arg(3)) {
        Some(Parsed::Finite(by)) => by,
        Some(Parsed::Infinite) => return Err(Fail::error("ERR value is NaN or Infinity")),
        None => return Err(Fail::not_float()),
    };
    let mut hash = open(cx)?;
    let sum = match hash.get(&mut cx.tx, cx.args[2])? {
        None => Some(by),
        Some(text) => match Extended::parse(&text) {
            Some(Parsed::Finite(old)) => old.add(&by),
            Some(Parsed::Infinite) => None,
            None => return Err(Fail::error("ERR hash value is not a float")),
        },
    };
    let Some(sum) = sum else { return Err(Fail::error("ERR increment would produce NaN or Infinity")) };
    let text = sum.to_string();
    hash.put(&mut cx.tx, cx.args[2], text.as_bytes())?;
    hash.close(&mut cx.tx)?;
    cx.reply.bulk(text.as_bytes());
    Ok(())
}

fn hscan(cx: &mut Cx<'_>) -> Done {
    let cursor = scan::cursor(cx.arg(2))?;
    let hash = open(cx)?;
    if hash.is_empty() {
        return scanned(cx, 0, &[]);
    }
    let options = scan::Options::parse(&cx.args[3..])?;
    let (mut page, next) = hash.scan(&mut cx.tx, cursor, options.count)?;
    page.retain(|(name, _)| options.takes(name));
    scanned(cx, next, &page)
}

fn scanned(cx: &mut Cx<'_>, next: u64, page: &[(Bytes, Bytes)]) -> Done {
    cx.reply.array(2);
    cx.reply.bulk(next.to_string().as_bytes());
    cx.reply.array(page.len() * 2);
    for (name, value) in page {
        cx.reply.bulk(name);
        cx.reply.bulk(value);
    }
    Ok(())
}

fn hrandfield(cx: &mut Cx<'_>) -> Done {
    let mut rng = cx.rng();
    if cx.args.len() == 2 {
        let chosen = open(cx)?.random(&mut cx.tx, &mut rng)?;
        cx.reply.bulk_or_null(chosen.as_ref().map(|(name, _)| &name[..]));
        return Ok(());
    }
    let choice = random::choice(cx.arg(2))?;
    if cx.args.len() > 3 {
        if cx.args.len() > 4 || !cx::is(cx.arg(3), "withvalues") {
            return Err(Fail::syntax());
        }
        // Redis doubles the count for its reply.
        cx::integer_in(cx.arg(2), -i64::MAX / 2, i64::MAX / 2, "ERR value is out of range")?;
    }
    let with_values = cx.args.len() == 4;
    let hash = open(cx)?;
    let chosen = match choice {
        Choice::Distinct(count) => hash.sample(&mut cx.tx, count, &mut rng)?,
        Choice::Repeated(count) => hash.sample_with_repeats(&mut cx.tx, count, &mut rng)?,
    };
    let pairs = with_values && cx.reply.proto() == Proto::Resp3;
    cx.reply.array(if with_values && !pairs { chosen.len() * 2 } else { chosen.len() });
    for (name, value) in &chosen {
        if pairs {
            cx.reply.array(2);
        }
        cx.reply.bulk(name);
        if with_values {
            cx.reply.bulk(value);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
