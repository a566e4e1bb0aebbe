//! What reads a stream's entries by id: XRANGE, XREVRANGE, XLEN.

use haypile_engine::read::Direction;

use super::{Done, open, range_end, range_start, reply_entry};
use crate::cx::{Cx, Fail, integer, is};
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
    let entries = stream.walk(from, to, direction).gather(&mut cx.tx, count)?;
    cx.reply.array(entries.len());
    for (id, entry) in entries {
        reply_entry(cx, key, id, &entry)?;
    }
    Ok(())
}
