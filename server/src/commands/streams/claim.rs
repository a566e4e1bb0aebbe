//! XCLAIM and XAUTOCLAIM.

use bytes::Bytes;

use super::{Done, no_group, now_ms, open_group, range_start, reply_entry, reply_id, strict_id};
use crate::cx::{Cx, Fail, is};
use crate::number;
use crate::types::stream::Id;
use crate::types::stream::groups::Pending;

/// How many pending entries XAUTOCLAIM looks at for each that it may claim.
const ATTEMPTS: usize = 10;

/// The options of XCLAIM.
struct Options {
    force: bool,
    just_id: bool,
    given_ms: u64,
    retries: Option<u64>,
    last: Id,
}

fn whole(text: &[u8], message: &'static str) -> Result<i64, Fail> {
    number::integer(text).ok_or_else(|| Fail::error(message))
}

fn options(args: &[&[u8]], now: u64) -> Result<Options, Fail> {
    let mut out = Options { force: false, just_id: false, given_ms: now, retries: None, last: Id::MIN };
    let signed_now = now.cast_signed();
    let mut given = -1;
    let mut rest = args.iter();
    while let Some(option) = rest.next() {
        if is(option, "force") {
            out.force = true;
        } else if is(option, "justid") {
            out.just_id = true;
        } else {
            let known = ["idle", "time", "retrycount", "lastid"].into_iter().find(|name| is(option, name));
            let (Some(name), Some(value)) = (known, rest.next()) else {
                let option = String::from_utf8_lossy(option);
                return Err(Fail::error(format!("ERR Unrecognized XCLAIM option '{option}'")));
            };
            match name {
                "idle" => {
                    let idle = whole(value, "ERR Invalid IDLE option argument for XCLAIM")?;
                    given = signed_now.wrapping_sub(idle);
                }
                "time" => given = whole(value, "ERR Invalid TIME option argument for XCLAIM")?,
                "retrycount" => {
                    let count = whole(value, "ERR Invalid RETRYCOUNT option argument for XCLAIM")?;
                    out.retries = u64::try_from(count).ok();
                }
                _ => out.last = strict_id(value, 0)?,
            }
        }
    }
    // A moment that makes no sense is taken as now: clients compute it, and clocks differ.
    out.given_ms = u64::try_from(given).ok().filter(|given| *given <= now).unwrap_or(now);
    Ok(out)
}

/// Entries that were claimed, as they are replied.
type Claimed = Vec<(Id, Bytes)>;

fn reply_claimed(cx: &mut Cx<'_>, claimed: Claimed, just_id: bool) -> Done {
    cx.reply.array(claimed.len());
    for (id, entry) in claimed {
        if just_id {
            reply_id(cx.reply, id);
        } else {
            reply_entry(cx, 0, id, &entry)?;
        }
    }
    Ok(())
}

/// Whether an entry has been pending long enough to be claimed.
fn idle_enough(pending: &Pending, now: u64, idle_min: i64) -> bool {
    idle_min == 0 || now.cast_signed().wrapping_sub(pending.given_ms.cast_signed()) >= idle_min
}

pub(super) fn xclaim(cx: &mut Cx<'_>) -> Done {
    let args = cx.args;
    let found = open_group(cx, args[2])?;
    let (stream, mut group) = found.ok_or_else(|| no_group(args[1], args[2], ""))?;
    let idle_min = whole(args[4], "ERR Invalid min-idle-time argument for XCLAIM")?.max(0);
    let ids: Vec<Id> = args[5..].iter().map_while(|text| strict_id(text, 0).ok()).collect();
    let now = now_ms(cx, 0);
    let options = options(&args[5 + ids.len()..], now)?;
    let name = Bytes::copy_from_slice(args[3]);
    let mut changed = options.last > group.last;
    group.last = group.last.max(options.last);
    let entries = stream.entries(&mut cx.tx, &ids)?;
    group.pending_at(&mut cx.tx, &ids)?;
    let mut claimed = Claimed::new();
    for (id, entry) in ids.into_iter().zip(entries) {
        // Looked at again: an id may be named twice.
        let old = group.pending_at(&mut cx.tx, &[id])?.pop().flatten();
        let Some(entry) = entry else {
            if let Some(old) = old {
                group.acknowledge(&mut cx.tx, id, &old)?;
                changed = true;
            }
            continue;
        };
        let idle = old.as_ref().map_or(options.force, |old| idle_enough(old, now, idle_min));
        if !idle {
            continue;
        }
        group.see(&mut cx.tx, &name, now)?;
        let before = old.as_ref().map_or(1, |old| old.count);
        let after = if options.just_id { before } else { before.wrapping_add(1) };
        let count = options.retries.unwrap_or(after);
        group.give(&mut cx.tx, id, old.as_ref(), &name, options.given_ms, count)?;
        claimed.push((id, entry));
        changed = true;
    }
    if changed {
        group.close(&mut cx.tx)?;
    }
    reply_claimed(cx, claimed, options.just_id)
}

pub(super) fn xautoclaim(cx: &mut Cx<'_>) -> Done {
    let args = cx.args;
    let idle_min = whole(args[4], "ERR Invalid min-idle-time argument for XAUTOCLAIM")?.max(0);
    let start = range_start(args[5])?;
    let (mut count, mut just_id) = (100, false);
    let mut rest = args[6..].iter();
    while let Some(option) = rest.next() {
        if is(option, "justid") {
            just_id = true;
        } else if is(option, "count")
            && let Some(value) = rest.next()
        {
            let most = i64::MAX / 16;
            let wanted = crate::commands::ranges::bounded(value, 1..=most, "ERR COUNT must be > 0")?;
            count = usize::try_from(wanted).unwrap_or(usize::MAX);
        } else {
            return Err(Fail::syntax());
        }
    }
    let found = open_group(cx, args[2])?;
    let (stream, mut group) = found.ok_or_else(|| no_group(args[1], args[2], ""))?;
    let now = now_ms(cx, 0);
    let name = Bytes::copy_from_slice(args[3]);
    let mut attempts = count.saturating_mul(ATTEMPTS);
    let (mut claimed, mut gone) = (Claimed::new(), Vec::new());
    let mut walk = group.walk_pending(start, Id::MAX);
    let mut next = None;
    'walk: loop {
        let left = count - claimed.len() - gone.len();
        let page = walk.next(&mut cx.tx, attempts.min(left.saturating_mul(2)).saturating_add(1))?;
        if page.is_empty() {
            break;
        }
        let ids: Vec<Id> = page.iter().map(|(id, _)| *id).collect();
        let entries = stream.entries(&mut cx.tx, &ids)?;
        for ((id, value), entry) in page.into_iter().zip(entries) {
            if attempts == 0 || claimed.len() + gone.len() == count {
                next = Some(id);
                break 'walk;
            }
            attempts -= 1;
            let old = group.read_pending(&value)?;
            match entry {
                None => {
                    group.acknowledge(&mut cx.tx, id, &old)?;
                    gone.push(id);
                }
                Some(entry) if idle_enough(&old, now, idle_min) => {
                    group.see(&mut cx.tx, &name, now)?;
                    let count = old.count.wrapping_add(u64::from(!just_id));
                    group.give(&mut cx.tx, id, Some(&old), &name, now, count)?;
                    claimed.push((id, entry));
                }
                Some(_) => {}
            }
        }
    }
    if !claimed.is_empty() || !gone.is_empty() {
        group.close(&mut cx.tx)?;
    }
    cx.reply.array(3);
    reply_id(cx.reply, next.unwrap_or(Id::MIN));
    reply_claimed(cx, claimed, just_id)?;
    cx.reply.array(gone.len());
    gone.into_iter().for_each(|id| reply_id(cx.reply, id));
    Ok(())
}
