//! XPENDING.

use super::{Done, no_group, now_ms, open_group, range_end, range_start, reply_id};
use crate::cx::{Cx, Fail, integer, is};
use crate::types::stream::Id;
use crate::types::stream::groups::{Group, Pending};

pub(super) fn xpending(cx: &mut Cx<'_>) -> Done {
    match cx.args.len() {
        3 => {
            let group = group(cx)?;
            summary(cx, &group)
        }
        6..=9 => listed(cx),
        _ => Err(Fail::syntax()),
    }
}

fn group<'a>(cx: &mut Cx<'a>) -> Result<Group<'a>, Fail> {
    let found = open_group(cx, cx.args[2])?;
    found.map(|(_, group)| group).ok_or_else(|| no_group(cx.args[1], cx.args[2], ""))
}

fn summary(cx: &mut Cx<'_>, group: &Group<'_>) -> Done {
    let first = group.walk_pending(Id::MIN, Id::MAX).next(&mut cx.tx, 1)?;
    let last = group.last_pending(&mut cx.tx)?;
    cx.reply.array(4);
    cx.reply.integer(group.pending.cast_signed());
    let (Some((first, _)), Some(last)) = (first.first(), last) else {
        cx.reply.null();
        cx.reply.null();
        cx.reply.null_array();
        return Ok(());
    };
    reply_id(cx.reply, *first);
    reply_id(cx.reply, last);
    let mut consumers = group.consumers(&mut cx.tx)?;
    consumers.retain(|(_, consumer)| consumer.pending > 0);
    cx.reply.array(consumers.len());
    for (name, consumer) in consumers {
        cx.reply.array(2);
        cx.reply.bulk(&name);
        cx.reply.bulk_integer(consumer.pending.cast_signed());
    }
    Ok(())
}

/// The form that lists entries.
fn listed(cx: &mut Cx<'_>) -> Done {
    let mut at = 3;
    let mut idle_min = 0;
    if is(cx.args[3], "idle") {
        idle_min = integer(cx.args[4])?;
        if cx.args.len() < 8 {
            return Err(Fail::syntax());
        }
        at += 2;
    }
    let count = usize::try_from(integer(cx.args[at + 2])?).unwrap_or(0);
    let (from, to) = (range_start(cx.args[at])?, range_end(cx.args[at + 1])?);
    let consumer = cx.args.get(at + 3);
    let mut group = group(cx)?;
    let now = now_ms(cx, 0);
    let idle = |pending: &Pending| now.cast_signed().wrapping_sub(pending.given_ms.cast_signed());
    let fits = |pending: &Pending| idle_min == 0 || idle(pending) >= idle_min;
    let mut found = Vec::new();
    let mut walk = match consumer {
        None => group.walk_pending(from, to),
        Some(name) => match group.consumer(&mut cx.tx, name)?.cloned() {
            Some(consumer) => group.walk_own(&consumer, from, to),
            None => {
                cx.reply.array(0);
                return Ok(());
            }
        },
    };
    while found.len() < count {
        let most = if idle_min == 0 { count - found.len() } else { usize::MAX };
        let page = walk.next(&mut cx.tx, most)?;
        if page.is_empty() {
            break;
        }
        let ids: Vec<Id> = page.iter().map(|(id, _)| *id).collect();
        let pending = match consumer {
            Some(_) => group.pending_at(&mut cx.tx, &ids)?.into_iter().flatten().collect(),
            None => page.iter().map(|(_, value)| group.read_pending(value)).collect::<Result<Vec<_>, _>>()?,
        };
        found.extend(ids.into_iter().zip(pending).filter(|(_, pending)| fits(pending)));
    }
    found.truncate(count);
    cx.reply.array(found.len());
    for (id, pending) in found {
        cx.reply.array(4);
        reply_id(cx.reply, id);
        cx.reply.bulk(&pending.consumer);
        cx.reply.integer(idle(&pending).max(0));
        cx.reply.integer(pending.count.cast_signed());
    }
    Ok(())
}
