//! What reads a stream's entries by id: XRANGE, XREVRANGE, XLEN.

use haypile_engine::read::Direction;

use super::{Done, open, range_end, range_start, reply_entry, write_entry};
use crate::cx::{Cx, Fail, integer, is};
use crate::types::damaged;
use crate::types::stream::{Id, Stream};

pub(super) fn xlen(cx: &mut Cx<'_>) -> Done {
    let length = open(cx, 0)?.map_or(0, |stream| stream.meta.length);
    cx.reply.integer(length.cast_signed());
    Ok(())
}

pub(super) fn xrange(cx: &mut Cx<'_>) -> Done {
    range(cx, 2, 3, Direction::Forward)
}

pub(super) fn xrevrange(cx: &mut Cx<'_>) -> Done {
    range(cx, 3, 2, Direction::Backward)
}

fn range(cx: &mut Cx<'_>, start: usize, end: usize, direction: Direction) -> Done {
    let (from, to) = (range_start(cx.args[start])?, range_end(cx.args[end])?);
    let mut count = None;
    let mut rest = cx.args[4..].iter();
    while let Some(option) = rest.next() {
        let value = rest.next().filter(|_| is(option, "count")).ok_or_else(Fail::syntax)?;
        count = Some(usize::try_from(integer(value)?).unwrap_or(0));
    }
    let Some(stream) = open(cx, 0)? else {
        cx.reply.array(0);
        return Ok(());
    };
    if count == Some(0) {
        cx.reply.null_array();
        return Ok(());
    }
    reply_range(cx, 0, &stream, (from, to), direction, count.unwrap_or(usize::MAX))
}

/// Replies with the entries of a range as an array.
pub(super) fn reply_range(
    cx: &mut Cx<'_>,
    key: usize,
    stream: &Stream<'_>,
    (from, to): (Id, Id),
    direction: Direction,
    count: usize,
) -> Done {
    if count <= ENTRIES_AT_ONCE {
        return reply_few(cx, key, stream, (from, to), direction, count);
    }
    let first = stream.walk(from, to, direction).gather(&mut cx.tx, count.min(ENTRIES_AT_ONCE + 1))?;
    if first.len() > ENTRIES_AT_ONCE {
        return reply_many(cx, key, stream, (from, to), direction, count);
    }
    cx.reply.array(first.len());
    for (id, entry) in first {
        reply_entry(cx, key, id, &entry)?;
    }
    Ok(())
}

/// As [`reply_range`], where there can't be many: where they lie, and told how many they are once that is known.
fn reply_few(
    cx: &mut Cx<'_>,
    key: usize,
    stream: &Stream<'_>,
    range: (Id, Id),
    direction: Direction,
    most: usize,
) -> Done {
    let Cx { tx, reply, keys, .. } = cx;
    reply.array_of(|reply| {
        let (mut count, mut is_sound) = (0, true);
        if most == 0 {
            return Ok(0);
        }
        stream.read_range(tx, range, direction, &mut |id, entry| {
            is_sound = write_entry(reply, id, entry).is_some();
            count += 1;
            is_sound && count < most
        })?;
        if is_sound { Ok(count) } else { Err(damaged(&keys[key]).into()) }
    })
}

/// Replies of more entries are made of some at a time: they are too many to be kept together.
const ENTRIES_AT_ONCE: usize = 4096;

/// As [`reply_range`], in two walks: the reply begins with how many entries there are.
fn reply_many(
    cx: &mut Cx<'_>,
    key: usize,
    stream: &Stream<'_>,
    (from, to): (Id, Id),
    direction: Direction,
    most: usize,
) -> Done {
    let (mut count, mut walk) = (0, stream.walk(from, to, direction));
    while count < most {
        match walk.next(&mut cx.tx, most - count)?.len() {
            0 => break,
            more => count += more,
        }
    }
    cx.reply.array(count);
    let (mut left, mut walk) = (count, stream.walk(from, to, direction));
    while left > 0 {
        let page = walk.next(&mut cx.tx, left)?;
        if page.is_empty() {
            return Err(damaged(cx.key(key)).into());
        }
        left -= page.len();
        for (id, entry) in page {
            reply_entry(cx, key, id, &entry)?;
        }
    }
    Ok(())
}
