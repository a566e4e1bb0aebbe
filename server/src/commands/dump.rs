//! DUMP and RESTORE: values in Redis' serialisation (`rdb`), from and to any type.

use std::collections::HashSet;

use bytes::Bytes;
use haypile_engine::clock::TimeMs;
use haypile_engine::key::Key;
use haypile_engine::read::Direction;
use haypile_engine::tx::Tx;
use haypile_engine::value::Value;

use crate::commands::strings;
use crate::cx::{Cx, Fail, integer, is};
use crate::kind::Kind;
use crate::rdb::{self, Object, Writer};
use crate::table::{Command, Flags, Group, Keys};
use crate::types::damaged;
use crate::types::dict::Dict;
use crate::types::list::{End, List};
use crate::types::stream::{Id, Stream, fields};
use crate::types::zset::{self, Zset};

const RESTORE: Flags = Flags::WRITE.with(Flags::DANGEROUS);

/// See the file's head.
#[rustfmt::skip]
pub const COMMANDS: &[Command] = &[
    GROUP.data("dump", 2, Flags::READONLY, Keys::FIRST, "2.6.0", "Gives what stands at a key in Redis' serialisation.", dump),
    GROUP.data("restore", -4, RESTORE, Keys::FIRST, "2.6.0", "Makes a key of what DUMP gave.", restore),
    GROUP.data("restore-asking", -4, RESTORE, Keys::FIRST, "3.0.0", "As RESTORE.", restore),
];

const GROUP: Group = Group("generic");

fn dump(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let key = cx.key(0);
    let payload = serialise(&mut cx.tx, key)?;
    cx.reply.bulk_or_null(payload.as_deref());
    Ok(())
}

/// What stands at a key as a payload that RESTORE takes; `None` if nothing does.
///
/// # Errors
/// If it is longer than a reply may be, or what the engine meets.
pub fn serialise(tx: &mut Tx<'_>, key: &Key) -> Result<Option<Vec<u8>>, Fail> {
    let Some(value) = tx.get(key)? else { return Ok(None) };
    let out = match Kind::of(&value) {
        Some(Kind::String) => Writer::string(&value.payload),
        Some(Kind::List) => list(tx, key, &value)?,
        Some(Kind::Set) => dict(tx, key, &Dict::set(key, &value)?, Writer::set)?,
        Some(Kind::Hash) => dict(tx, key, &Dict::hash(key, &value)?, Writer::hash)?,
        Some(Kind::SortedSet) => {
            let members = Zset::decode(key, &value)?.all(tx)?;
            let mut out = Writer::sorted_set(members.len());
            for (member, score) in &members {
                out.item(member);
                out.score(*score);
                fits(&out)?;
            }
            out
        }
        Some(Kind::Stream) => stream(tx, key, &value)?,
        None => {
            return Err(Fail::error("ERR a value of this type has no serialisation here"));
        }
    };
    fits(&out)?;
    Ok(Some(out.finish()))
}

/// Refuses what no client takes as one string.
fn fits(out: &Writer) -> Result<(), Fail> {
    fits_bytes(out.len())
}

fn fits_bytes(bytes: usize) -> Result<(), Fail> {
    // A string of the greatest length is still dumped.
    const MARGIN_BYTES: usize = 64;
    if bytes > rdb::STRING_BYTES_MAX + MARGIN_BYTES {
        return Err(Fail::error(
            "ERR the value is too large to be dumped: its payload exceeds proto-max-bulk-len",
        ));
    }
    Ok(())
}

fn list(tx: &mut Tx<'_>, key: &Key, value: &Value) -> Result<Writer, Fail> {
    let list = List::decode(key, value)?;
    let mut out = Writer::list(list.len());
    let mut fit = Ok(());
    list.walk(tx, 0, list.len(), Direction::Forward, |_, item| {
        out.item(item);
        fit = fits(&out);
        fit.is_ok()
    })?;
    fit.map(|()| out)
}

fn stream(tx: &mut Tx<'_>, key: &Key, value: &Value) -> Result<Writer, Fail> {
    let pair = |id: Id| (id.ms, id.seq);
    let stream = Stream::open(key, value)?;
    let meta = &stream.meta;
    let mut out = rdb::stream::Stream {
        last: pair(meta.last),
        deleted: pair(meta.deleted),
        added: meta.added,
        ..rdb::stream::Stream::default()
    };
    let (mut walk, mut bytes) = (stream.walk(Id::MIN, Id::MAX, Direction::Forward), 0);
    loop {
        let page = walk.next(tx, usize::MAX)?;
        if page.is_empty() {
            break;
        }
        for (id, entry) in page {
            bytes += entry.len();
            let strings = fields(&entry).ok_or_else(|| damaged(key))?;
            let strings = strings.into_iter().map(|string| entry.slice_ref(string)).collect();
            out.entries.push((pair(id), strings));
        }
        fits_bytes(bytes)?;
    }
    for group in stream.groups(tx)? {
        let consumers = group.consumers(tx)?;
        let mut pending = Vec::new();
        let mut walk = group.walk_pending(Id::MIN, Id::MAX);
        loop {
            let page = walk.next(tx, usize::MAX)?;
            if page.is_empty() {
                break;
            }
            for (id, value) in page {
                let given = group.read_pending(&value)?;
                let consumer = consumers.binary_search_by(|(name, _)| name.cmp(&given.consumer));
                pending.push(rdb::stream::Pending {
                    id: pair(id),
                    given_ms: given.given_ms,
                    count: given.count,
                    consumer: consumer.map_err(|_| damaged(key))?,
                });
            }
        }
        out.groups.push(rdb::stream::Group {
            name: group.name.clone(),
            last: pair(group.last),
            read: group.read,
            consumers: consumers.into_iter().map(|(name, consumer)| (name, consumer.seen_ms)).collect(),
            pending,
        });
    }
    // The length was announced: a payload that does not hold as many would be refused elsewhere.
    if out.entries.len() as u64 == meta.length { Ok(Writer::stream(&out)) } else { Err(damaged(key).into()) }
}

fn dict(tx: &mut Tx<'_>, key: &Key, dict: &Dict<'_>, begin: fn(usize) -> Writer) -> Result<Writer, Fail> {
    let mut out = begin(dict.len());
    let (mut walk, mut seen) = (dict.walk(), 0);
    loop {
        let page = walk.next(tx)?;
        if page.is_empty() {
            break;
        }
        seen += page.len();
        for (name, value) in &page {
            out.item(name);
            if dict.is_hash() {
                out.item(value);
            }
        }
        fits(&out)?;
    }
    // The length was announced: a payload that does not hold as many would be refused elsewhere.
    if seen == dict.len() { Ok(out) } else { Err(damaged(key).into()) }
}

/// RESTORE's options.
#[derive(Default)]
struct Options {
    replace: bool,
    absolute: bool,
}

impl Options {
    /// How recently or how often a key was used is not kept here: IDLETIME and FREQ are checked, and no more.
    fn read(args: &[&[u8]]) -> Result<Options, Fail> {
        let mut options = Options::default();
        let (mut idle, mut frequent) = (false, false);
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            if is(arg, "replace") {
                options.replace = true;
            } else if is(arg, "absttl") {
                options.absolute = true;
            } else if is(arg, "idletime") && !rest.as_slice().is_empty() && !frequent {
                if integer(rest.next().unwrap_or(&&b""[..]))? < 0 {
                    return Err(Fail::error("ERR Invalid IDLETIME value, must be >= 0"));
                }
                idle = true;
            } else if is(arg, "freq") && !rest.as_slice().is_empty() && !idle {
                if !(0..=255).contains(&integer(rest.next().unwrap_or(&&b""[..]))?) {
                    return Err(Fail::error("ERR Invalid FREQ value, must be >= 0 and <= 255"));
                }
                frequent = true;
            } else {
                return Err(Fail::syntax());
            }
        }
        Ok(options)
    }
}

fn restore(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let key = cx.key(0);
    let options = Options::read(&cx.args[4..])?;
    let there = cx.tx.get(key)?.is_some();
    if there && !options.replace {
        return Err(Fail::error("BUSYKEY Target key name already exists."));
    }
    let ttl =
        u64::try_from(integer(cx.arg(2))?).map_err(|_| Fail::error("ERR Invalid TTL value, must be >= 0"))?;
    let now = cx.now(key);
    let expiry = match ttl {
        0 => None,
        _ if options.absolute => Some(TimeMs(ttl)),
        _ => Some(TimeMs(now.0.saturating_add(ttl))),
    };
    let object = parse(cx.arg(3))?;
    if there {
        cx.tx.delete(key)?;
    }
    if expiry.is_none_or(|at| at > now) {
        put(&mut cx.tx, key, expiry, &object)?;
    }
    cx.reply.ok();
    Ok(())
}

/// The object of a payload.
///
/// # Errors
/// In Redis' words.
pub fn parse(payload: &[u8]) -> Result<Object, Fail> {
    rdb::load(&Bytes::copy_from_slice(payload)).map_err(|refused| Fail::error(format!("ERR {refused}")))
}

/// Puts an object at a key where nothing stands.
///
/// # Errors
/// If a set or hash has something twice, or what the engine meets.
pub fn put(tx: &mut Tx<'_>, key: &Key, expiry: Option<TimeMs>, object: &Object) -> Result<(), Fail> {
    let twice = || Fail::error(format!("ERR {}", rdb::Refused::Format));
    match object {
        Object::String(bytes) => {
            strings::check_length(bytes.len())?;
            return Ok(tx.put(key, &Value { expiry, ..strings::string(bytes) })?);
        }
        Object::List(items) => {
            let mut list = List::new(key);
            for item in items {
                list.push(tx, End::Tail, item)?;
            }
            list.save(tx)?;
        }
        Object::Set(members) => {
            let mut set = Dict::new_set(key);
            for member in members {
                if !set.put(tx, member, b"")? {
                    return Err(twice());
                }
            }
            set.close(tx)?;
        }
        Object::Hash(fields) => {
            let mut hash = Dict::new_hash(key);
            for (field, value) in fields {
                if !hash.put(tx, field, value)? {
                    return Err(twice());
                }
            }
            hash.close(tx)?;
        }
        Object::Stream(stream) => {
            let id = |(ms, seq)| Id { ms, seq };
            let mut made = Stream::create(tx, key)?;
            for (at, strings) in &stream.entries {
                let strings: Vec<&[u8]> = strings.iter().map(|string| &string[..]).collect();
                made.append(tx, id(*at), &strings);
            }
            made.meta.last = id(stream.last);
            made.meta.deleted = id(stream.deleted);
            made.meta.added = stream.added;
            made.save(tx)?;
            for from in &stream.groups {
                if made.group(tx, &from.name)?.is_some() {
                    return Err(twice());
                }
                made.create_group(tx, &from.name, id(from.last), from.read)?;
                let mut group = made.group(tx, &from.name)?.ok_or_else(|| damaged(key))?;
                for (name, seen_ms) in &from.consumers {
                    if !group.see(tx, name, *seen_ms)? {
                        return Err(twice());
                    }
                }
                for pending in &from.pending {
                    let (name, _) = &from.consumers[pending.consumer];
                    group.give(tx, id(pending.id), None, name, pending.given_ms, pending.count)?;
                }
                group.close(tx)?;
            }
        }
        Object::SortedSet(members) => {
            let mut names = HashSet::with_capacity(members.len());
            if !members.iter().all(|(member, _)| names.insert(member)) {
                return Err(twice());
            }
            let mut members = members.clone();
            zset::sort(&mut members);
            Zset::of(tx, key, &members)?.save(tx)?;
        }
    }
    if expiry.is_some()
        && let Some(value) = tx.get(key)?
    {
        tx.put(key, &Value { expiry, ..value })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
