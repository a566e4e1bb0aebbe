//! ZPOPMIN, ZPOPMAX, ZMPOP.

use haypile_engine::read::Direction;

use crate::commands::ranges;
use crate::cx::{self, Blocks, Cx, Fail};
use crate::types::zset::{Scored, Zset};

use super::{Scores, open, reply_members, reply_pairs};

pub fn zpop(cx: &mut Cx<'_>, direction: Direction) -> Result<(), Fail> {
    let count = match cx.args {
        [_, _] => None,
        [_, _, count] => Some(ranges::count(count)?),
        _ => return Err(Fail::syntax()),
    };
    let taken = match open(cx, cx.key(0))? {
        Some(zset) => take(cx, zset, direction, count.unwrap_or(1))?,
        None => Vec::new(),
    };
    match (count, &taken[..]) {
        // Without a count RESP3 has no pairs either.
        (None, [(member, score)]) => {
            cx.reply.array(2);
            cx.reply.bulk(member);
            cx.reply.double(*score);
        }
        _ => reply_members(cx.reply, &taken, Scores::With),
    }
    Ok(())
}

pub fn bzpop(cx: &mut Cx<'_>, direction: Direction) -> Result<(), Fail> {
    let timeout_ms = cx::timeout(cx.arg(cx.args.len() - 1))?;
    for key in cx.keys {
        if let Some(zset) = open(cx, key)? {
            for (member, score) in take(cx, zset, direction, 1)? {
                cx.reply.array(3);
                cx.reply.bulk(key.user());
                cx.reply.bulk(&member);
                cx.reply.double(score);
            }
            return Ok(());
        }
    }
    cx.reply.null_array();
    Err(Fail::Blocks(Blocks::for_any(timeout_ms)))
}

pub fn bzmpop(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let timeout_ms = cx::timeout(cx.arg(1))?;
    if take_first(cx, &cx.args[2..])? {
        return Ok(());
    }
    Err(Fail::Blocks(Blocks::for_any(timeout_ms)))
}

pub fn zmpop(cx: &mut Cx<'_>) -> Result<(), Fail> {
    take_first(cx, &cx.args[1..]).map(drop)
}

/// ZMPOP with its arguments from the number of keys on. Says whether there was a member.
fn take_first(cx: &mut Cx<'_>, args: &[&[u8]]) -> Result<bool, Fail> {
    let keys = ranges::some(args[0], "ERR numkeys should be greater than 0")?;
    let Some([which, options @ ..]) = args[1..].get(keys..) else { return Err(Fail::syntax()) };
    let direction = match &which[..] {
        which if cx::is(which, "min") => Direction::Forward,
        which if cx::is(which, "max") => Direction::Backward,
        _ => return Err(Fail::syntax()),
    };
    let count = match options {
        [] => 1,
        [name, count, rest @ ..] if cx::is(name, "count") => {
            let count = ranges::some(count, "ERR count should be greater than 0")?;
            if !rest.is_empty() {
                return Err(Fail::syntax());
            }
            count
        }
        _ => return Err(Fail::syntax()),
    };
    for key in cx.keys {
        if let Some(zset) = open(cx, key)? {
            let taken = take(cx, zset, direction, count)?;
            cx.reply.array(2);
            cx.reply.bulk(key.user());
            reply_pairs(cx.reply, &taken);
            return Ok(true);
        }
    }
    cx.reply.null_array();
    Ok(false)
}

fn take(
    cx: &mut Cx<'_>,
    mut zset: Zset<'_>,
    direction: Direction,
    count: usize,
) -> Result<Vec<Scored>, Fail> {
    let taken = zset.by_rank(&mut cx.tx, 0, count, direction)?;
    zset.remove_all(&mut cx.tx, &taken)?;
    zset.save(&mut cx.tx)?;
    Ok(taken)
}
