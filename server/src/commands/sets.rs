//! SADD, SINTER and what else works on sets.

use std::collections::HashSet;

use bytes::Bytes;
use haypile_engine::key::Key;

use crate::commands::random::{self, Choice};
use crate::commands::{elements, scan};
use crate::cx::{self, Cx, Fail};
use crate::kind::Kind;
use crate::number;
use crate::table::{Command, Flags, Group, Keys, numbered_keys};
use crate::types::dict::{Dict, Finder};
use crate::types::{Misses, damaged};

const READ: Flags = Flags::READONLY;
const READ_FAST: Flags = Flags::READONLY.with(Flags::FAST);
const WRITE: Flags = Flags::WRITE;
const WRITE_FAST: Flags = Flags::WRITE.with(Flags::FAST);
const NUMBERED: Keys = Keys::Custom(|args, positions| numbered_keys(args, 1, positions));

type Done = Result<(), Fail>;

const GROUP: Group = Group("set");

/// See the file's head.
#[rustfmt::skip]
pub const COMMANDS: &[Command] = &[
    GROUP.data("sadd", -3, WRITE_FAST, Keys::FIRST, "1.0.0", "Adds members, and counts the new ones.", sadd),
    GROUP.data("scard", 2, READ_FAST, Keys::FIRST, "1.0.0", "Counts the members.", scard),
    GROUP.data("sdiff", -2, READ, Keys::ALL, "1.0.0", "Gives what is in the first set and in no other.", sdiff),
    GROUP.data("sdiffstore", -3, WRITE, Keys::ALL, "1.0.0", "Stores what is in the first set and in no other.", sdiffstore),
    GROUP.data("sinter", -2, READ, Keys::ALL, "1.0.0", "Gives what is in all sets.", sinter),
    GROUP.data("sintercard", -3, READ, NUMBERED, "7.0.0", "Counts what is in all sets.", sintercard),
    GROUP.data("sinterstore", -3, WRITE, Keys::ALL, "1.0.0", "Stores what is in all sets.", sinterstore),
    GROUP.data("sismember", 3, READ_FAST, Keys::FIRST, "1.0.0", "Says whether a member is there.", sismember),
    GROUP.data("smembers", 2, READ, Keys::FIRST, "1.0.0", "Gives all members.", smembers),
    GROUP.data("smismember", -3, READ_FAST, Keys::FIRST, "6.2.0", "Says of each member whether it is there.", smismember),
    GROUP.data("smove", 4, WRITE_FAST, Keys::FIRST_TWO, "1.0.0", "Moves a member to another set.", smove),
    GROUP.data("spop", -2, WRITE_FAST, Keys::FIRST, "1.0.0", "Removes members chosen at random, and gives them.", spop),
    GROUP.data("srandmember", -2, READ, Keys::FIRST, "1.0.0", "Gives members chosen at random.", srandmember),
    GROUP.data("srem", -3, WRITE_FAST, Keys::FIRST, "1.0.0", "Removes members; the set goes with its last one.", srem),
    GROUP.data("sscan", -3, READ, Keys::FIRST, "2.8.0", "Walks over the members.", sscan),
    GROUP.data("sunion", -2, READ, Keys::ALL, "1.0.0", "Gives what is in any of the sets.", sunion),
    GROUP.data("sunionstore", -3, WRITE, Keys::ALL, "1.0.0", "Stores what is in any of the sets.", sunionstore),
];

/// The set at a key.
fn open<'k>(cx: &mut Cx<'_>, key: &'k Key) -> Result<Dict<'k>, Fail> {
    let set = cx.open(key, Kind::Set, |value| Dict::set(key, value))?;
    Ok(set.unwrap_or_else(|| Dict::new_set(key)))
}

/// The set at the command's first key.
fn first<'a>(cx: &mut Cx<'a>) -> Result<Dict<'a>, Fail> {
    let key = cx.key(0);
    open(cx, key)
}

fn sadd(cx: &mut Cx<'_>) -> Done {
    let mut set = first(cx)?;
    let members = &cx.args[2..];
    set.gather(&mut cx.tx, members.iter())?;
    let mut new = 0;
    for member in members {
        new += usize::from(set.put(&mut cx.tx, member, b"")?);
    }
    set.close(&mut cx.tx)?;
    cx.reply.count(new);
    Ok(())
}

fn srem(cx: &mut Cx<'_>) -> Done {
    let mut set = first(cx)?;
    let members = &cx.args[2..];
    set.gather(&mut cx.tx, members.iter())?;
    let mut removed = 0;
    for member in members {
        removed += usize::from(set.remove(&mut cx.tx, member)?);
    }
    set.close(&mut cx.tx)?;
    cx.reply.count(removed);
    Ok(())
}

fn smove(cx: &mut Cx<'_>) -> Done {
    let mut source = first(cx)?;
    let moved = if source.is_empty() {
        // Redis does not look at the other key then.
        false
    } else {
        let target_key = cx.key(1);
        let mut target = open(cx, target_key)?;
        if cx.key(0) == cx.key(1) {
            source.has(&mut cx.tx, cx.args[3])?
        } else {
            let was_there = source.remove(&mut cx.tx, cx.args[3])?;
            if was_there {
                target.put(&mut cx.tx, cx.args[3], b"")?;
                source.close(&mut cx.tx)?;
                target.close(&mut cx.tx)?;
            }
            was_there
        }
    };
    cx.reply.integer(i64::from(moved));
    Ok(())
}

fn scard(cx: &mut Cx<'_>) -> Done {
    let large = elements::show(cx, Kind::Set, |reply, members| {
        reply.count(elements::count(members));
        Ok(())
    })?;
    large.iter().for_each(|set| cx.reply.count(set.len()));
    Ok(())
}

fn sismember(cx: &mut Cx<'_>) -> Done {
    let member = cx.args[2];
    let large = elements::show(cx, Kind::Set, |reply, members| {
        let there = elements::find(members, member)?.is_some();
        reply.integer(i64::from(there));
        Ok(())
    })?;
    if let Some(set) = large {
        let there = set.has(&mut cx.tx, member)?;
        cx.reply.integer(i64::from(there));
    }
    Ok(())
}

fn smismember(cx: &mut Cx<'_>) -> Done {
    let set = first(cx)?;
    let members = &cx.args[2..];
    set.gather(&mut cx.tx, members.iter())?;
    cx.reply.array(members.len());
    let finder = set.finder(members.len());
    for member in members {
        let there = finder.has(&mut cx.tx, member)?;
        cx.reply.integer(i64::from(there));
    }
    Ok(())
}

/// Gives every member of a set to `take`.
fn each(cx: &mut Cx<'_>, set: &Dict<'_>, mut take: impl FnMut(&mut Cx<'_>, Bytes)) -> Done {
    let mut walk = set.walk();
    loop {
        let page = walk.next(&mut cx.tx)?;
        if page.is_empty() {
            return Ok(());
        }
        page.into_iter().for_each(|(member, _)| take(cx, member));
    }
}

fn smembers(cx: &mut Cx<'_>) -> Done {
    let large = elements::show(cx, Kind::Set, |reply, members| {
        reply.set(elements::count(members.clone()));
        let Some(mut members) = members else { return Ok(()) };
        while let Some((member, _)) = members.next()? {
            reply.bulk(member);
        }
        Ok(())
    })?;
    let Some(set) = large else { return Ok(()) };
    cx.reply.set(set.len());
    let mut seen = 0;
    each(cx, &set, |cx, member| {
        cx.reply.bulk(&member);
        seen += 1;
    })?;
    // The reply's head has told how many there are.
    if seen == set.len() { Ok(()) } else { Err(damaged(cx.key(0)).into()) }
}

fn sscan(cx: &mut Cx<'_>) -> Done {
    let cursor = scan::cursor(cx.arg(2))?;
    let set = first(cx)?;
    let (mut page, mut next) = (Vec::new(), 0);
    if !set.is_empty() {
        let options = scan::Options::parse(&cx.args[3..])?;
        (page, next) = set.scan(&mut cx.tx, cursor, options.count)?;
        page.retain(|(member, _)| options.takes(member));
    }
    cx.reply.array(2);
    cx.reply.bulk(next.to_string().as_bytes());
    cx.reply.bulks(page.iter().map(|(member, _)| member));
    Ok(())
}

fn spop(cx: &mut Cx<'_>) -> Done {
    if cx.args.len() > 3 {
        return Err(Fail::syntax());
    }
    let mut rng = cx.rng();
    let Some(count) = cx.args.get(2) else {
        let mut set = first(cx)?;
        let chosen = set.random(&mut cx.tx, &mut rng)?;
        if let Some((member, _)) = &chosen {
            set.remove(&mut cx.tx, member)?;
            set.close(&mut cx.tx)?;
        }
        cx.reply.bulk_or_null(chosen.as_ref().map(|(member, _)| &member[..]));
        return Ok(());
    };
    let count = number::integer(count)
        .and_then(|count| usize::try_from(count).ok())
        .ok_or_else(|| Fail::error("ERR value is out of range, must be positive"))?;
    let mut set = first(cx)?;
    let chosen = set.sample(&mut cx.tx, count, &mut rng)?;
    if !chosen.is_empty() && chosen.len() == set.len() {
        cx.tx.delete(&cx.keys[0])?;
    } else {
        for (member, _) in &chosen {
            set.remove(&mut cx.tx, member)?;
        }
        set.close(&mut cx.tx)?;
    }
    cx.reply.set(chosen.len());
    chosen.iter().for_each(|(member, _)| cx.reply.bulk(member));
    Ok(())
}

fn srandmember(cx: &mut Cx<'_>) -> Done {
    if cx.args.len() > 3 {
        return Err(Fail::syntax());
    }
    let mut rng = cx.rng();
    let Some(count) = cx.args.get(2) else {
        let chosen = first(cx)?.random(&mut cx.tx, &mut rng)?;
        cx.reply.bulk_or_null(chosen.as_ref().map(|(member, _)| &member[..]));
        return Ok(());
    };
    let choice = random::choice(count)?;
    let set = first(cx)?;
    let chosen = match choice {
        Choice::Distinct(count) => set.sample(&mut cx.tx, count, &mut rng)?,
        Choice::Repeated(count) => set.sample_with_repeats(&mut cx.tx, count, &mut rng)?,
    };
    cx.reply.bulks(chosen.iter().map(|(member, _)| member));
    Ok(())
}

/// The sets at some keys, all looked at, as one of another type is an error wherever it stands.
fn open_all<'k>(cx: &mut Cx<'_>, keys: &'k [Key]) -> Result<Vec<Dict<'k>>, Fail> {
    keys.iter().map(|key| open(cx, key)).collect()
}

/// Gives up to `limit` members that are in all sets to `take`.
fn intersect(cx: &mut Cx<'_>, keys: &[Key], limit: usize, take: impl FnMut(&[u8])) -> Done {
    let mut sets = open_all(cx, keys)?;
    sets.sort_by_key(Dict::len);
    let Some((least, others)) = sets.split_first() else { return Ok(()) };
    let others: Vec<Finder<'_, '_>> = others.iter().map(|other| other.finder(least.len())).collect();
    let holds = |cx: &mut Cx<'_>, misses: &mut Misses, member: &[u8]| {
        for other in &others {
            if misses.pass(other.has(&mut cx.tx, member))? != Some(true) {
                return Ok(false);
            }
        }
        Ok(true)
    };
    select(cx, least, limit, holds, take)
}

/// The members that are in all sets.
fn intersection(cx: &mut Cx<'_>, keys: &[Key]) -> Result<Vec<Bytes>, Fail> {
    let mut chosen = Vec::new();
    intersect(cx, keys, usize::MAX, |member| chosen.push(Bytes::copy_from_slice(member)))?;
    Ok(chosen)
}

/// Gives up to `limit` members of a set that the condition holds for to `take`. Where it can't be known yet, `misses` has noted
/// why.
fn select(
    cx: &mut Cx<'_>,
    set: &Dict<'_>,
    limit: usize,
    mut holds: impl FnMut(&mut Cx<'_>, &mut Misses, &[u8]) -> Result<bool, Fail>,
    mut take: impl FnMut(&[u8]),
) -> Done {
    let (mut chosen, mut misses) = (0, Misses::default());
    // Whether there is to be no more.
    let mut look = |cx: &mut Cx<'_>, misses: &mut Misses, member: &[u8]| -> Result<bool, Fail> {
        if holds(cx, misses, member)? {
            chosen += 1;
            take(member);
        }
        Ok(chosen == limit)
    };
    if let Some(members) = set.small_members() {
        for member in members {
            if look(cx, &mut misses, member)? {
                return Ok(());
            }
        }
        return Ok(misses.end()?);
    }
    let mut walk = set.walk();
    loop {
        let page = walk.next(&mut cx.tx)?;
        if page.is_empty() {
            return Ok(misses.end()?);
        }
        for (member, _) in page {
            if look(cx, &mut misses, &member)? {
                return Ok(());
            }
        }
    }
}

/// The members that are in any of the sets, each once.
fn union(cx: &mut Cx<'_>, keys: &[Key]) -> Result<Vec<Bytes>, Fail> {
    let sets = open_all(cx, keys)?;
    let mut members = HashSet::new();
    for set in &sets {
        each(cx, set, |_, member| {
            members.insert(member);
        })?;
    }
    Ok(members.into_iter().collect())
}

/// The members of the first set that are in no other.
fn difference(cx: &mut Cx<'_>, keys: &[Key]) -> Result<Vec<Bytes>, Fail> {
    let mut sets = open_all(cx, keys)?;
    let Some((first, others)) = sets.split_first_mut() else { return Ok(Vec::new()) };
    // Either look for each member in the others, or take all of the others' members away: by Redis' estimate of
    // what is less work.
    let look = first.len().saturating_mul(others.len() + 1) / 2;
    let take = others.iter().fold(first.len(), |sum, set| sum.saturating_add(set.len()));
    if look <= take {
        // In a large one a member is soon found, and is not looked for further.
        others.sort_by_key(|set| std::cmp::Reverse(set.len()));
        let others: Vec<Finder<'_, '_>> = others.iter().map(|other| other.finder(first.len())).collect();
        let holds = |cx: &mut Cx<'_>, misses: &mut Misses, member: &[u8]| {
            for other in &others {
                if misses.pass(other.has(&mut cx.tx, member))? != Some(false) {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let mut chosen = Vec::new();
        let take = |member: &[u8]| chosen.push(Bytes::copy_from_slice(member));
        select(cx, first, usize::MAX, holds, take)?;
        return Ok(chosen);
    }
    let mut members = HashSet::new();
    each(cx, first, |_, member| {
        members.insert(member);
    })?;
    for other in &*others {
        each(cx, other, |_, member| {
            members.remove(&member);
        })?;
    }
    Ok(members.into_iter().collect())
}

fn reply_all(cx: &mut Cx<'_>, members: &[Bytes]) -> Done {
    cx.reply.set(members.len());
    members.iter().for_each(|member| cx.reply.bulk(member));
    Ok(())
}

/// Puts a set of these distinct members in place of whatever stands at the first key.
fn store(cx: &mut Cx<'_>, members: &[Bytes]) -> Done {
    let target = cx.key(0);
    if members.is_empty() {
        cx.tx.delete(target)?;
    } else {
        let mut set = Dict::new_set(target);
        for member in members {
            set.put_new(&mut cx.tx, member, b"")?;
        }
        set.close(&mut cx.tx)?;
    }
    cx.reply.count(members.len());
    Ok(())
}

fn sinter(cx: &mut Cx<'_>) -> Done {
    let keys = cx.keys;
    let members = intersection(cx, keys)?;
    reply_all(cx, &members)
}

fn sunion(cx: &mut Cx<'_>) -> Done {
    let keys = cx.keys;
    let members = union(cx, keys)?;
    reply_all(cx, &members)
}

fn sdiff(cx: &mut Cx<'_>) -> Done {
    let keys = cx.keys;
    let members = difference(cx, keys)?;
    reply_all(cx, &members)
}

fn sinterstore(cx: &mut Cx<'_>) -> Done {
    let keys = &cx.keys[1..];
    let members = intersection(cx, keys)?;
    store(cx, &members)
}

fn sunionstore(cx: &mut Cx<'_>) -> Done {
    let keys = &cx.keys[1..];
    let members = union(cx, keys)?;
    store(cx, &members)
}

fn sdiffstore(cx: &mut Cx<'_>) -> Done {
    let keys = &cx.keys[1..];
    let members = difference(cx, keys)?;
    store(cx, &members)
}

fn sintercard(cx: &mut Cx<'_>) -> Done {
    let numkeys = number::integer(cx.arg(1))
        .and_then(|count| usize::try_from(count).ok())
        .filter(|&count| count > 0)
        .ok_or_else(|| Fail::error("ERR numkeys should be greater than 0"))?;
    if numkeys > cx.args.len() - 2 {
        return Err(Fail::error("ERR Number of keys can't be greater than number of args"));
    }
    let mut limit = 0;
    for option in cx.args[2 + numkeys..].chunks(2) {
        match option {
            [name, value] if cx::is(name, "limit") => {
                limit = number::integer(value)
                    .and_then(|limit| usize::try_from(limit).ok())
                    .ok_or_else(|| Fail::error("ERR LIMIT can't be negative"))?;
            }
            _ => return Err(Fail::syntax()),
        }
    }
    let limit = if limit == 0 { usize::MAX } else { limit };
    let keys = cx.keys;
    let mut count = 0;
    intersect(cx, keys, limit, |_| count += 1)?;
    cx.reply.count(count);
    Ok(())
}

#[cfg(test)]
mod tests;
