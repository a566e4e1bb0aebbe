//! XINFO.

use haypile_engine::read::Direction;

use super::group::no_such_group;
use super::range::reply_range;
use super::{Done, SECOND, T, no_subcommand, now_ms, open, reply_entry, reply_id};
use crate::cx::{Cx, Fail, integer, is};
use crate::table::{Command, Flags};
use crate::types::stream::groups::Group;
use crate::types::stream::{Id, NODE_ENTRIES, Stream};

const READ: Flags = Flags::READONLY;

/// The second words of XINFO.
#[rustfmt::skip]
pub(super) const SUBS: &[Command] = &[
    T.data("xinfo|consumers", 4, READ, SECOND, "5.0.0", "Tells of a group's consumers.", consumers),
    T.data("xinfo|groups", 3, READ, SECOND, "5.0.0", "Tells of a stream's groups.", groups),
    T.data("xinfo|stream", -3, READ, SECOND, "5.0.0", "Tells of a stream.", stream),
];

fn existing<'a>(cx: &mut Cx<'a>) -> Result<Stream<'a>, Fail> {
    open(cx, 0)?.ok_or_else(|| Fail::error("ERR no such key"))
}

fn field_number(cx: &mut Cx<'_>, name: &str, value: u64) {
    cx.reply.bulk(name.as_bytes());
    cx.reply.integer(value.cast_signed());
}

fn field_id(cx: &mut Cx<'_>, name: &str, id: Id) {
    cx.reply.bulk(name.as_bytes());
    reply_id(cx.reply, id);
}

fn field_optional(cx: &mut Cx<'_>, name: &str, value: Option<i64>) {
    cx.reply.bulk(name.as_bytes());
    match value {
        Some(value) => cx.reply.integer(value),
        None => cx.reply.null(),
    }
}

fn consumers(cx: &mut Cx<'_>) -> Done {
    let stream = existing(cx)?;
    let group = stream.group(&mut cx.tx, cx.args[3])?;
    let group = group.ok_or_else(|| no_such_group(cx.args[3], cx.args[2]))?;
    let now = now_ms(cx, 0);
    let consumers = group.consumers(&mut cx.tx)?;
    cx.reply.array(consumers.len());
    for (name, consumer) in consumers {
        cx.reply.map(3);
        cx.reply.bulk(b"name");
        cx.reply.bulk(&name);
        field_number(cx, "pending", consumer.pending);
        field_number(cx, "idle", now.saturating_sub(consumer.seen_ms));
    }
    Ok(())
}

fn groups(cx: &mut Cx<'_>) -> Done {
    let stream = existing(cx)?;
    let groups = stream.groups(&mut cx.tx)?;
    cx.reply.array(groups.len());
    for group in groups {
        cx.reply.map(6);
        cx.reply.bulk(b"name");
        cx.reply.bulk(&group.name);
        field_number(cx, "consumers", group.consumers);
        field_number(cx, "pending", group.pending);
        progress(cx, &stream, &group);
    }
    Ok(())
}

/// How far a group has read.
fn progress(cx: &mut Cx<'_>, stream: &Stream<'_>, group: &Group<'_>) {
    field_id(cx, "last-delivered-id", group.last);
    field_optional(cx, "entries-read", group.read.map(u64::cast_signed));
    field_optional(cx, "lag", group.lag(&stream.meta));
}

fn stream(cx: &mut Cx<'_>) -> Done {
    let stream = existing(cx)?;
    let full = match cx.args[3..] {
        [] => None,
        [word] if is(word, "full") => Some(10),
        [word, option, count] if is(word, "full") && is(option, "count") => {
            Some(usize::try_from(integer(count)?).unwrap_or(10))
        }
        _ => return Err(no_subcommand(cx, "XINFO")),
    };
    let meta = stream.meta;
    cx.reply.map(if full.is_some() { 9 } else { 10 });
    field_number(cx, "length", meta.length);
    // There is no tree here: what Redis' would be by its defaults.
    let nodes = meta.length.div_ceil(NODE_ENTRIES);
    field_number(cx, "radix-tree-keys", nodes);
    field_number(cx, "radix-tree-nodes", nodes + 1);
    field_id(cx, "last-generated-id", meta.last);
    field_id(cx, "max-deleted-entry-id", meta.deleted);
    field_number(cx, "entries-added", meta.added);
    field_id(cx, "recorded-first-entry-id", meta.first);
    if let Some(count) = full {
        let count = if count == 0 { usize::MAX } else { count };
        return whole(cx, &stream, count);
    }
    field_number(cx, "groups", meta.groups);
    for (name, direction) in [("first-entry", Direction::Forward), ("last-entry", Direction::Backward)] {
        let found = stream.walk(Id::MIN, Id::MAX, direction).next(&mut cx.tx, 1)?.pop();
        cx.reply.bulk(name.as_bytes());
        match found {
            Some((id, entry)) => reply_entry(cx, 0, id, &entry)?,
            None => cx.reply.null(),
        }
    }
    Ok(())
}

/// What FULL tells beyond the rest: entries and groups, up to `count` of each list.
fn whole(cx: &mut Cx<'_>, stream: &Stream<'_>, count: usize) -> Done {
    cx.reply.bulk(b"entries");
    reply_range(cx, 0, stream, (Id::MIN, Id::MAX), Direction::Forward, count)?;
    let groups = stream.groups(&mut cx.tx)?;
    cx.reply.bulk(b"groups");
    cx.reply.array(groups.len());
    for group in groups {
        cx.reply.map(7);
        cx.reply.bulk(b"name");
        cx.reply.bulk(&group.name);
        progress(cx, stream, &group);
        field_number(cx, "pel-count", group.pending);
        cx.reply.bulk(b"pending");
        let pending = group.walk_pending(Id::MIN, Id::MAX).gather(&mut cx.tx, count)?;
        cx.reply.array(pending.len());
        for (id, value) in pending {
            let pending = group.read_pending(&value)?;
            cx.reply.array(4);
            reply_id(cx.reply, id);
            cx.reply.bulk(&pending.consumer);
            cx.reply.integer(pending.given_ms.cast_signed());
            cx.reply.integer(pending.count.cast_signed());
        }
        consumers_of(cx, &group, count)?;
    }
    Ok(())
}

fn consumers_of(cx: &mut Cx<'_>, group: &Group<'_>, count: usize) -> Done {
    let consumers = group.consumers(&mut cx.tx)?;
    cx.reply.bulk(b"consumers");
    cx.reply.array(consumers.len());
    for (name, consumer) in consumers {
        cx.reply.map(4);
        cx.reply.bulk(b"name");
        cx.reply.bulk(&name);
        field_number(cx, "seen-time", consumer.seen_ms);
        field_number(cx, "pel-count", consumer.pending);
        let own = group.walk_own(&consumer, Id::MIN, Id::MAX).gather(&mut cx.tx, count)?;
        let ids: Vec<Id> = own.into_iter().map(|(id, _)| id).collect();
        let pending = group.pending_at(&mut cx.tx, &ids)?;
        cx.reply.bulk(b"pending");
        cx.reply.array(ids.len());
        for (id, pending) in ids.into_iter().zip(pending) {
            cx.reply.array(3);
            reply_id(cx.reply, id);
            let (given_ms, count) = pending.map_or((0, 0), |pending| (pending.given_ms, pending.count));
            cx.reply.integer(given_ms.cast_signed());
            cx.reply.integer(count.cast_signed());
        }
    }
    Ok(())
}
