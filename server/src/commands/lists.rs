//! LPUSH, LRANGE, LPOP and what else works on lists, but for what waits for an item.

use haypile_engine::key::Key;
use haypile_engine::read::Direction;

use super::ranges::{self, Span};
use crate::cx::{self, Blocks, Cx, Fail, integer};
use crate::kind::Kind;
use crate::resp::ReplyWriter;
use crate::table::{Command, Flags, Group, Keys, numbered_keys};
use crate::types::Look;
use crate::types::list::{End, List};
use crate::types::small::{self, Broken};

const READ: Flags = Flags::READONLY;
const WRITE: Flags = Flags::WRITE;
const FAST: Flags = Flags::WRITE.with(Flags::FAST);
const ALL_BUT_LAST: Keys = Keys::Range { first: 1, last: -2, step: 1 };
const NUMBERED_SECOND: Keys = Keys::Custom(|args, positions| numbered_keys(args, 2, positions));
const NUMBERED: Keys = Keys::Custom(|args, positions| numbered_keys(args, 1, positions));

/// See the file's head.
#[rustfmt::skip]
pub const COMMANDS: &[Command] = &[
    GROUP.data("blmove", 6, WRITE, Keys::FIRST_TWO, "6.2.0", "Moves an item from an end of a list to one of another; waits for one.", blmove),
    GROUP.data("blmpop", -5, WRITE, NUMBERED_SECOND, "7.0.0", "Takes items off the first list that has any; waits for one.", blmpop),
    GROUP.data("blpop", -3, WRITE, ALL_BUT_LAST, "2.0.0", "Takes an item off the head of the first list that has any; waits for one.", |cx| bpop(cx, End::Head)),
    GROUP.data("brpop", -3, WRITE, ALL_BUT_LAST, "2.0.0", "Takes an item off the tail of the first list that has any; waits for one.", |cx| bpop(cx, End::Tail)),
    GROUP.data("brpoplpush", 4, WRITE, Keys::FIRST_TWO, "2.2.0", "Moves an item from a tail to a head; waits for one.", brpoplpush),
    GROUP.data("lindex", 3, READ, Keys::FIRST, "1.0.0", "Gives the item at a position.", lindex),
    GROUP.data("linsert", 5, WRITE, Keys::FIRST, "2.2.0", "Inserts an item before or after another.", linsert),
    GROUP.data("llen", 2, READ.with(Flags::FAST), Keys::FIRST, "1.0.0", "Gives the length of a list.", llen),
    GROUP.data("lmove", 5, WRITE, Keys::FIRST_TWO, "6.2.0", "Moves an item from an end of a list to one of another.", lmove),
    GROUP.data("lmpop", -4, WRITE, NUMBERED, "7.0.0", "Takes items off the first list that has any.", lmpop),
    GROUP.data("lpop", -2, FAST, Keys::FIRST, "1.0.0", "Takes items off the head.", |cx| pop(cx, End::Head)),
    GROUP.data("lpos", -3, READ, Keys::FIRST, "6.0.6", "Finds the positions of an item.", lpos),
    GROUP.data("lpush", -3, FAST, Keys::FIRST, "1.0.0", "Adds items at the head.", |cx| push(cx, End::Head)),
    GROUP.data("lpushx", -3, FAST, Keys::FIRST, "2.2.0", "Adds items at the head of a list that is there.", |cx| pushx(cx, End::Head)),
    GROUP.data("lrange", 4, READ, Keys::FIRST, "1.0.0", "Gives the items of a range.", lrange),
    GROUP.data("lrem", 4, WRITE, Keys::FIRST, "1.0.0", "Removes items that are equal to one.", lrem),
    GROUP.data("lset", 4, WRITE, Keys::FIRST, "1.0.0", "Replaces the item at a position.", lset),
    GROUP.data("ltrim", 4, WRITE, Keys::FIRST, "1.0.0", "Removes all items outside of a range.", ltrim),
    GROUP.data("rpop", -2, FAST, Keys::FIRST, "1.0.0", "Takes items off the tail.", |cx| pop(cx, End::Tail)),
    GROUP.data("rpoplpush", 3, WRITE, Keys::FIRST_TWO, "1.2.0", "Moves an item from a tail to a head.", |cx| transfer(cx, End::Tail, End::Head)),
    GROUP.data("rpush", -3, FAST, Keys::FIRST, "1.0.0", "Adds items at the tail.", |cx| push(cx, End::Tail)),
    GROUP.data("rpushx", -3, FAST, Keys::FIRST, "2.2.0", "Adds items at the tail of a list that is there.", |cx| pushx(cx, End::Tail)),
];

const GROUP: Group = Group("list");

/// The list at a key.
fn open<'a>(cx: &mut Cx<'_>, key: &'a Key) -> Result<Option<List<'a>>, Fail> {
    cx.open(key, Kind::List, |value| List::decode(key, value))
}

fn end(text: &[u8]) -> Result<End, Fail> {
    match text {
        _ if cx::is(text, "left") => Ok(End::Head),
        _ if cx::is(text, "right") => Ok(End::Tail),
        _ => Err(Fail::syntax()),
    }
}

fn push(cx: &mut Cx<'_>, end: End) -> Result<(), Fail> {
    let list = open(cx, cx.key(0))?.unwrap_or_else(|| List::new(cx.key(0)));
    push_all(cx, list, end)
}

fn pushx(cx: &mut Cx<'_>, end: End) -> Result<(), Fail> {
    match open(cx, cx.key(0))? {
        Some(list) => push_all(cx, list, end)?,
        None => cx.reply.integer(0),
    }
    Ok(())
}

fn push_all(cx: &mut Cx<'_>, mut list: List<'_>, end: End) -> Result<(), Fail> {
    for item in &cx.args[2..] {
        list.push(&mut cx.tx, end, item)?;
    }
    cx.reply.count(list.len());
    Ok(list.save(&mut cx.tx)?)
}

fn pop(cx: &mut Cx<'_>, end: End) -> Result<(), Fail> {
    let count = match cx.args {
        [_, _] => None,
        [_, _, count] => Some(ranges::count(count)?),
        _ => return Err(Fail::arity(if end == End::Head { "lpop" } else { "rpop" })),
    };
    let Some(mut list) = open(cx, cx.key(0))? else {
        if count.is_some() {
            cx.reply.null_array()
        } else {
            cx.reply.null()
        }
        return Ok(());
    };
    if count == Some(0) {
        cx.reply.array(0);
        return Ok(());
    }
    let items = list.pop(&mut cx.tx, end, count.unwrap_or(1))?;
    match count {
        Some(_) => cx.reply.bulks(items.iter()),
        None => cx.reply.bulk_or_null(items.first().map(|item| &item[..])),
    }
    Ok(list.save(&mut cx.tx)?)
}

fn bpop(cx: &mut Cx<'_>, end: End) -> Result<(), Fail> {
    let timeout_ms = cx::timeout(cx.arg(cx.args.len() - 1))?;
    for key in cx.keys {
        if let Some(mut list) = open(cx, key)? {
            let items = list.pop(&mut cx.tx, end, 1)?;
            cx.reply.array(2);
            cx.reply.bulk(key.user());
            cx.reply.bulk_or_null(items.first().map(|item| &item[..]));
            return Ok(list.save(&mut cx.tx)?);
        }
    }
    cx.reply.null_array();
    Err(Fail::Blocks(Blocks::for_any(timeout_ms)))
}

fn brpoplpush(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let timeout_ms = cx::timeout(cx.arg(3))?;
    transfer_or_wait(cx, End::Tail, End::Head, timeout_ms)
}

fn blmove(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let (from, to) = (end(cx.arg(3))?, end(cx.arg(4))?);
    let timeout_ms = cx::timeout(cx.arg(5))?;
    transfer_or_wait(cx, from, to, timeout_ms)
}

fn transfer_or_wait(cx: &mut Cx<'_>, from: End, to: End, timeout_ms: Option<u64>) -> Result<(), Fail> {
    if open(cx, cx.key(0))?.is_none() {
        cx.reply.null();
        return Err(Fail::Blocks(Blocks::for_first(timeout_ms)));
    }
    transfer(cx, from, to)
}

fn blmpop(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let timeout_ms = cx::timeout(cx.arg(1))?;
    if take_first(cx, &cx.args[2..])? {
        return Ok(());
    }
    Err(Fail::Blocks(Blocks::for_any(timeout_ms)))
}

fn lmpop(cx: &mut Cx<'_>) -> Result<(), Fail> {
    take_first(cx, &cx.args[1..]).map(drop)
}

/// LMPOP with its arguments from the number of keys on. Says whether there was an item.
fn take_first(cx: &mut Cx<'_>, args: &[&[u8]]) -> Result<bool, Fail> {
    let keys = ranges::some(args[0], "ERR numkeys should be greater than 0")?;
    let (which, options) = match args[1..].get(keys..) {
        Some([which, options @ ..]) => (end(which)?, options),
        _ => return Err(Fail::syntax()),
    };
    let count = match options {
        [] => 1,
        [name, count] if cx::is(name, "count") => ranges::some(count, "ERR count should be greater than 0")?,
        // As in Redis, the count that is there is read before what follows it is found wrong.
        [name, count, ..] if cx::is(name, "count") => {
            ranges::some(count, "ERR count should be greater than 0")?;
            return Err(Fail::syntax());
        }
        _ => return Err(Fail::syntax()),
    };
    for key in cx.keys {
        if let Some(mut list) = open(cx, key)? {
            let items = list.pop(&mut cx.tx, which, count)?;
            cx.reply.array(2);
            cx.reply.bulk(key.user());
            cx.reply.bulks(items.iter());
            list.save(&mut cx.tx)?;
            return Ok(true);
        }
    }
    cx.reply.null_array();
    Ok(false)
}

fn lmove(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let (from, to) = (end(cx.arg(3))?, end(cx.arg(4))?);
    transfer(cx, from, to)
}

fn transfer(cx: &mut Cx<'_>, from: End, to: End) -> Result<(), Fail> {
    let (source, target) = (cx.key(0), cx.key(1));
    let Some(mut list) = open(cx, source)? else {
        cx.reply.null();
        return Ok(());
    };
    if source == target {
        let items = list.pop(&mut cx.tx, from, 1)?;
        cx.reply.bulk_or_null(items.first().map(|item| &item[..]));
        items.iter().try_for_each(|item| list.push(&mut cx.tx, to, item))?;
        return Ok(list.save(&mut cx.tx)?);
    }
    let mut other = open(cx, target)?.unwrap_or_else(|| List::new(target));
    let items = list.pop(&mut cx.tx, from, 1)?;
    cx.reply.bulk_or_null(items.first().map(|item| &item[..]));
    items.iter().try_for_each(|item| other.push(&mut cx.tx, to, item))?;
    list.save(&mut cx.tx)?;
    Ok(other.save(&mut cx.tx)?)
}

/// Gives the items of the list at the command's key, if that is small, to `show`; says whether there is one that is large.
fn show<'a>(
    cx: &mut Cx<'a>,
    show: impl FnOnce(&mut ReplyWriter, small::Walk<'_>) -> Result<(), Broken>,
) -> Result<Option<Look<List<'a>, ()>>, Fail> {
    let key = cx.key(0);
    cx.show(key, Kind::List, |value, reply| List::look(key, value, |items| show(reply, items)))
}

fn llen(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let shown = show(cx, |reply, items| {
        reply.count(items.left());
        Ok(())
    })?;
    match shown {
        None => cx.reply.integer(0),
        Some(Look::Small(())) => {}
        Some(Look::Large(list)) => cx.reply.count(list.len()),
    }
    Ok(())
}

fn lindex(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let index = cx.arg(2);
    // A list that is not there has no index to be looked at.
    let mut wanted = Ok(0);
    let shown = show(cx, |reply, mut items| {
        wanted = integer(index);
        let position = wanted.as_ref().ok().and_then(|index| ranges::position(*index, items.left()));
        let item = match position {
            Some(position) => {
                items.skip(position)?;
                items.next()?
            }
            None => None,
        };
        reply.bulk_or_null(item);
        Ok(())
    })?;
    match shown {
        None => cx.reply.null(),
        Some(Look::Small(())) => drop(wanted?),
        Some(Look::Large(list)) => {
            let item = match ranges::position(integer(index)?, list.len()) {
                Some(position) => list.get(&mut cx.tx, position)?,
                None => None,
            };
            cx.reply.bulk_or_null(item.as_deref());
        }
    }
    Ok(())
}

fn lset(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let Some(mut list) = open(cx, cx.key(0))? else { return Err(Fail::error("ERR no such key")) };
    let Some(position) = ranges::position(integer(cx.arg(2))?, list.len()) else {
        return Err(Fail::error("ERR index out of range"));
    };
    list.set(&mut cx.tx, position, cx.args[3])?;
    list.save(&mut cx.tx)?;
    cx.reply.ok();
    Ok(())
}

fn lrange(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let (start, stop) = (integer(cx.arg(2))?, integer(cx.arg(3))?);
    let shown = show(cx, |reply, mut items| {
        let Span { from, count } = Span::new(start, stop, items.left());
        reply.array(count);
        items.skip(from)?;
        (0..count).try_for_each(|_| {
            reply.bulk(items.next()?.ok_or(Broken)?);
            Ok(())
        })
    })?;
    match shown {
        None => cx.reply.array(0),
        Some(Look::Small(())) => {}
        Some(Look::Large(list)) => {
            let Span { from, count } = Span::new(start, stop, list.len());
            cx.reply.array(count);
            let reply = &mut *cx.reply;
            list.walk(&mut cx.tx, from, count, Direction::Forward, |_, item| {
                reply.bulk(item);
                true
            })?;
        }
    }
    Ok(())
}

fn ltrim(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let (start, stop) = (integer(cx.arg(2))?, integer(cx.arg(3))?);
    if let Some(mut list) = open(cx, cx.key(0))? {
        let Span { from, count } = Span::new(start, stop, list.len());
        if count < list.len() {
            list.trim(&mut cx.tx, from, count)?;
            list.save(&mut cx.tx)?;
        }
    }
    cx.reply.ok();
    Ok(())
}

fn linsert(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let side = cx.arg(2);
    let after = cx::is(side, "after");
    if !after && !cx::is(side, "before") {
        return Err(Fail::syntax());
    }
    let Some(mut list) = open(cx, cx.key(0))? else {
        cx.reply.integer(0);
        return Ok(());
    };
    let found = find(cx, &list, cx.arg(3), Direction::Forward, 0, 1, usize::MAX)?;
    let Some(&pivot) = found.first() else {
        cx.reply.integer(-1);
        return Ok(());
    };
    list.insert(&mut cx.tx, pivot + usize::from(after), cx.args[4])?;
    cx.reply.count(list.len());
    Ok(list.save(&mut cx.tx)?)
}

fn lrem(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let count = integer(cx.arg(2))?;
    let Some(mut list) = open(cx, cx.key(0))? else {
        cx.reply.integer(0);
        return Ok(());
    };
    let direction = if count < 0 { Direction::Backward } else { Direction::Forward };
    let most = if count == 0 { usize::MAX } else { saturated(count.unsigned_abs()) };
    let mut positions = find(cx, &list, cx.arg(3), direction, 0, most, usize::MAX)?;
    cx.reply.count(positions.len());
    if positions.is_empty() {
        return Ok(());
    }
    positions.sort_unstable();
    list.remove(&mut cx.tx, &positions)?;
    Ok(list.save(&mut cx.tx)?)
}

fn lpos(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let (mut rank, mut count, mut most) = (1, None, usize::MAX);
    for option in cx.args[3..].chunks(2) {
        let [name, value] = option else { return Err(Fail::syntax()) };
        if cx::is(name, "rank") {
            rank = integer(value)?;
            if rank == 0 {
                return Err(Fail::error(
                    "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use \
                     negative to start from the end of the list",
                ));
            }
        } else if cx::is(name, "count") {
            count = Some(ranges::bounded(value, 0..=i64::MAX, "ERR COUNT can't be negative")?);
        } else if cx::is(name, "maxlen") {
            let maxlen = ranges::bounded(value, 0..=i64::MAX, "ERR MAXLEN can't be negative")?;
            most = if maxlen == 0 { usize::MAX } else { saturated(maxlen.unsigned_abs()) };
        } else {
            return Err(Fail::syntax());
        }
    }
    let found = match open(cx, cx.key(0))? {
        None => Vec::new(),
        Some(list) => {
            let direction = if rank < 0 { Direction::Backward } else { Direction::Forward };
            let wanted = match count {
                None => 1,
                Some(0) => usize::MAX,
                Some(count) => saturated(count.unsigned_abs()),
            };
            find(cx, &list, cx.arg(2), direction, saturated(rank.unsigned_abs() - 1), wanted, most)?
        }
    };
    match (count, found.first()) {
        (Some(_), _) => {
            cx.reply.array(found.len());
            found.iter().for_each(|&position| cx.reply.count(position));
        }
        (None, Some(&position)) => cx.reply.count(position),
        (None, None) => cx.reply.null(),
    }
    Ok(())
}

/// The positions of up to `count` items that are equal to `item`, without the first `skip` of them, among the first
/// `most` items in a direction; in the order in which they are met.
fn find(
    cx: &mut Cx<'_>,
    list: &List<'_>,
    item: &[u8],
    direction: Direction,
    skip: usize,
    count: usize,
    most: usize,
) -> Result<Vec<usize>, Fail> {
    let (mut found, mut skip) = (Vec::new(), skip);
    let most = most.min(list.len());
    let from = if direction == Direction::Forward { 0 } else { list.len() - most };
    list.walk(&mut cx.tx, from, most, direction, |position, other| {
        if other == item {
            if skip > 0 {
                skip -= 1;
            } else {
                found.push(position);
            }
        }
        found.len() < count
    })?;
    Ok(found)
}

fn saturated(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
