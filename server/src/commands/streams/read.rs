//! XREAD and XREADGROUP.

use bytes::Bytes;
use haypile_engine::read::Direction;

use super::range::reply_range;
use super::{Done, no_group, now_ms, open, open_group_at, reply_entry, reply_id, strict_id};
use crate::cx::{Blocks, Cx, Fail, integer, is};
use crate::resp::Proto;
use crate::types::stream::groups::Group;
use crate::types::stream::{Id, Stream};

/// Where the keys stand: the first half of what follows STREAMS.
pub(super) fn keys(args: &[&[u8]], positions: &mut Vec<usize>) {
    let mut at = 1;
    while at < args.len() {
        let word = args[at];
        if is(word, "streams") {
            let count = args.len() - at - 1;
            if count.is_multiple_of(2) {
                positions.extend(at + 1..=at + count / 2);
            }
            return;
        }
        at += match word {
            _ if is(word, "block") || is(word, "count") => 2,
            _ if is(word, "group") => 3,
            _ if is(word, "noack") => 1,
            _ => return,
        };
    }
}

/// The arguments of both commands.
struct Request<'a> {
    count: usize,
    /// Group and consumer.
    group: Option<(&'a [u8], &'a [u8])>,
    no_ack: bool,
    /// For how many milliseconds to wait where there is nothing; 0 is for ever.
    block_ms: Option<u64>,
    /// The streams' keys.
    names: &'a [&'a [u8]],
    /// The ids, one for each key.
    ids: &'a [&'a [u8]],
}

impl<'a> Request<'a> {
    /// The id for the command's key of this number. A writer who serves it runs it with the one key that has something.
    fn id(&self, cx: &Cx<'_>, index: usize) -> &'a [u8] {
        let at = match self.names.iter().position(|name| *name == cx.key(index).user()) {
            Some(at) if cx.keys.len() < self.names.len() => at,
            _ => index,
        };
        self.ids[at]
    }
}

fn request<'a>(cx: &Cx<'a>, for_group: bool) -> Result<Request<'a>, Fail> {
    let args = cx.args;
    let mut out = Request { count: 0, group: None, no_ack: false, block_ms: None, names: &[], ids: &[] };
    let mut streams = None;
    let mut at = 1;
    while at < args.len() {
        let (option, more) = (args[at], args.len() - 1 - at);
        if is(option, "block") && more > 0 {
            if cx.in_script {
                let name = String::from_utf8_lossy(args[0]);
                return Err(Fail::error(format!(
                    "ERR {name} command is not allowed with BLOCK option from scripts"
                )));
            }
            out.block_ms = Some(timeout(args[at + 1])?);
            at += 1;
        } else if is(option, "count") && more > 0 {
            out.count = usize::try_from(integer(args[at + 1])?).unwrap_or(0);
            at += 1;
        } else if is(option, "streams") && more > 0 {
            if !more.is_multiple_of(2) {
                return Err(Fail::error(
                    "ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified.",
                ));
            }
            streams = Some((at + 1, at + 1 + more / 2));
            break;
        } else if is(option, "group") && more >= 2 {
            if !for_group {
                return Err(only_for_groups("GROUP"));
            }
            out.group = Some((args[at + 1], args[at + 2]));
            at += 2;
        } else if is(option, "noack") {
            if !for_group {
                return Err(only_for_groups("NOACK"));
            }
            out.no_ack = true;
        } else {
            return Err(Fail::syntax());
        }
        at += 1;
    }
    let (names, ids) = streams.ok_or_else(Fail::syntax)?;
    (out.names, out.ids) = (&args[names..ids], &args[ids..]);
    if for_group && out.group.is_none() {
        return Err(Fail::error("ERR Missing GROUP option for XREADGROUP"));
    }
    if out.count == 0 {
        out.count = usize::MAX;
    }
    Ok(out)
}

fn only_for_groups(option: &str) -> Fail {
    Fail::error(format!("ERR The {option} option is only supported by XREADGROUP. You called XREAD instead."))
}

/// Reads how long to wait, in milliseconds.
fn timeout(text: &[u8]) -> Result<u64, Fail> {
    let timeout = crate::number::integer(text)
        .ok_or_else(|| Fail::error("ERR timeout is not an integer or out of range"))?;
    u64::try_from(timeout).map_err(|_| Fail::error("ERR timeout is negative"))
}

pub(super) fn xread(cx: &mut Cx<'_>) -> Done {
    let request = request(cx, false)?;
    let mut streams = Vec::new();
    for index in 0..cx.keys.len() {
        let stream = open(cx, index)?;
        let after = match request.id(cx, index) {
            b"$" => stream.as_ref().map_or(Id::MIN, |stream| stream.meta.last),
            b">" => {
                return Err(Fail::error(
                    "ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> <consumer> \
                     option.",
                ));
            }
            text => strict_id(text, 0)?,
        };
        streams.push((stream, after));
    }
    // What was the last entry when it came stays that while it waits.
    let ids: Vec<Id> = streams.iter().map(|(_, after)| *after).collect();
    let mut served = Vec::new();
    for (index, (stream, after)) in streams.into_iter().enumerate() {
        let (Some(stream), Some(from)) = (stream, after.next()) else { continue };
        let any = stream.walk(from, Id::MAX, Direction::Forward).next(&mut cx.tx, 1)?;
        if !any.is_empty() {
            served.push((index, stream, from));
        }
    }
    head(cx, served.len(), &request, &ids)?;
    for (index, stream, from) in served {
        name(cx, index);
        reply_range(cx, index, &stream, (from, Id::MAX), Direction::Forward, request.count)?;
    }
    Ok(())
}

/// The head of the reply, for so many streams. Where there is none it may be that it waits, for what comes after these ids
/// if they are given.
fn head(cx: &mut Cx<'_>, streams: usize, request: &Request<'_>, ids: &[Id]) -> Done {
    match (streams, cx.reply.proto()) {
        (0, _) => {
            cx.reply.null_array();
            if let Some(ms) = request.block_ms {
                let mut args: Vec<Bytes> = cx.args.iter().map(|arg| Bytes::copy_from_slice(arg)).collect();
                let from = args.len() - request.ids.len();
                for (arg, id) in args[from..].iter_mut().zip(ids) {
                    *arg = Bytes::from(id.to_string());
                }
                let waits = Blocks::for_any(Some(ms).filter(|ms| *ms > 0));
                return Err(Fail::Blocks(Blocks { args: Some(args), ..waits }));
            }
        }
        (_, Proto::Resp2) => cx.reply.array(streams),
        (_, Proto::Resp3) => cx.reply.map(streams),
    }
    Ok(())
}

/// The name of a stream, after which its entries come.
fn name(cx: &mut Cx<'_>, index: usize) {
    if cx.reply.proto() == Proto::Resp2 {
        cx.reply.array(2);
    }
    cx.reply.bulk(cx.key(index).user());
}

/// What a consumer wants of a stream.
#[derive(Clone, Copy)]
enum Wanted {
    /// What nobody of the group was given.
    New,
    /// What it was given itself and has not acknowledged, after this id.
    Own(Id),
}

/// Entries for a consumer; one that is pending may be gone from the stream.
type Given = Vec<(Id, Option<Bytes>)>;

pub(super) fn xreadgroup(cx: &mut Cx<'_>) -> Done {
    let request = request(cx, true)?;
    let Some((group, consumer)) = request.group else { return Err(Fail::syntax()) };
    let mut wanted = Vec::new();
    for index in 0..cx.keys.len() {
        if open_group_at(cx, index, group)?.is_none() {
            let more = " in XREADGROUP with GROUP option";
            return Err(no_group(cx.key(index).user(), group, more));
        }
        wanted.push(match request.id(cx, index) {
            b"$" => {
                return Err(Fail::error(
                    "ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the history of this \
                     consumer by specifying a proper ID, or use the > ID to get new messages. The $ ID would just return \
                     an empty result set.",
                ));
            }
            b">" => Wanted::New,
            text => match strict_id(text, 0)? {
                Id::MAX => Wanted::New,
                id => Wanted::Own(id),
            },
        });
    }
    let mut served = Vec::new();
    for (index, wanted) in wanted.into_iter().enumerate() {
        // Opened anew: one stream may be named twice.
        let Some((stream, mut group)) = open_group_at(cx, index, group)? else { continue };
        let given = match wanted {
            Wanted::New => fresh(cx, index, &stream, &mut group, &request)?,
            Wanted::Own(after) => {
                let now = now_ms(cx, index);
                group.see(&mut cx.tx, consumer, now)?;
                Some(own(cx, index, &stream, &mut group, consumer, after, request.count)?)
            }
        };
        if let Some(given) = given {
            group.close(&mut cx.tx)?;
            served.push((index, given));
        }
    }
    head(cx, served.len(), &request, &[])?;
    for (index, given) in served {
        name(cx, index);
        cx.reply.array(given.len());
        for (id, entry) in given {
            match entry {
                Some(entry) => reply_entry(cx, index, id, &entry)?,
                None => {
                    cx.reply.array(2);
                    reply_id(cx.reply, id);
                    cx.reply.null_array();
                }
            }
        }
    }
    Ok(())
}

/// Gives a consumer what nobody of its group was given; `None` if there is nothing.
fn fresh(
    cx: &mut Cx<'_>,
    index: usize,
    stream: &Stream<'_>,
    group: &mut Group<'_>,
    request: &Request<'_>,
) -> Result<Option<Given>, Fail> {
    let (Some(from), Some((_, consumer))) = (group.last.next(), request.group) else { return Ok(None) };
    let consumer = Bytes::copy_from_slice(consumer);
    let now = now_ms(cx, index);
    let mut walk = stream.walk(from, Id::MAX, Direction::Forward);
    let mut given = Given::new();
    while given.len() < request.count {
        let page = walk.next(&mut cx.tx, request.count - given.len())?;
        if page.is_empty() {
            break;
        }
        if given.is_empty() {
            group.see(&mut cx.tx, &consumer, now)?;
        }
        let ids: Vec<Id> = page.iter().map(|(id, _)| *id).collect();
        // The last id that the group has given out may have been set back: some may be pending.
        let pending = if request.no_ack { Vec::new() } else { group.pending_at(&mut cx.tx, &ids)? };
        for (position, id) in ids.into_iter().enumerate() {
            group.pass(&stream.meta, id);
            if let Some(old) = pending.get(position) {
                group.give(&mut cx.tx, id, old.as_ref(), &consumer, now, 1)?;
            }
        }
        given.extend(page.into_iter().map(|(id, entry)| (id, Some(entry))));
    }
    Ok((!given.is_empty()).then_some(given))
}

/// Gives a consumer again what it has not acknowledged.
fn own(
    cx: &mut Cx<'_>,
    index: usize,
    stream: &Stream<'_>,
    group: &mut Group<'_>,
    name: &[u8],
    after: Id,
    count: usize,
) -> Result<Given, Fail> {
    let now = now_ms(cx, index);
    let name = Bytes::copy_from_slice(name);
    let (Some(from), Some(consumer)) = (after.next(), group.consumer(&mut cx.tx, &name)?.cloned()) else {
        return Ok(Given::new());
    };
    let mut walk = group.walk_own(&consumer, from, Id::MAX);
    let mut given = Given::new();
    while given.len() < count {
        let page = walk.next(&mut cx.tx, count - given.len())?;
        if page.is_empty() {
            break;
        }
        let ids: Vec<Id> = page.into_iter().map(|(id, _)| id).collect();
        let entries = stream.entries(&mut cx.tx, &ids)?;
        let pending = group.pending_at(&mut cx.tx, &ids)?;
        for ((id, entry), old) in ids.into_iter().zip(entries).zip(pending) {
            if entry.is_some()
                && let Some(old) = old
            {
                group.give(&mut cx.tx, id, Some(&old), &name, now, old.count.wrapping_add(1))?;
            }
            given.push((id, entry));
        }
    }
    Ok(given)
}
