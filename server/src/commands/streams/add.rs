//! What changes a stream's entries: XADD, XDEL, XTRIM, XSETID.

use super::{Done, Written, now_ms, open, reply_id, strict_id, written_id};
use crate::cx::{Cx, Fail, integer, is};
use crate::types::stream::{Id, NODE_ENTRIES, Stream, Trim, Until};

/// The most bytes of an entry's strings.
const ENTRY_BYTES_MAX: usize = 1 << 30;

/// The options that XADD and XTRIM share.
#[derive(Default)]
struct Options {
    trim: Option<Trim>,
    no_mkstream: bool,
    /// Where the first argument stands that is no option.
    end: usize,
}

/// Reads the options; those of XADD end at what must be an id.
fn options(args: &[&[u8]], xadd: bool) -> Result<Options, Fail> {
    let mut out = Options { end: args.len(), ..Options::default() };
    let (mut until, mut approximate, mut limit) = (None, false, None);
    let mut at = 2;
    while at < args.len() {
        let (option, more) = (args[at], args.len() - 1 - at);
        let length = is(option, "maxlen");
        if (length || is(option, "minid")) && more > 0 && !(xadd && option == b"*") {
            if until.is_some() {
                return Err(Fail::error(
                    "ERR syntax error, MAXLEN and MINID options at the same time are not compatible",
                ));
            }
            approximate = more >= 2 && args[at + 1] == b"~";
            at += usize::from(approximate || more >= 2 && args[at + 1] == b"=");
            until = Some(if length {
                Until::Length(not_negative(args[at + 1], "ERR The MAXLEN argument must be >= 0.")?)
            } else {
                Until::Id(strict_id(args[at + 1], 0)?)
            });
            at += 1;
        } else if is(option, "limit") && more > 0 {
            limit = Some(not_negative(args[at + 1], "ERR The LIMIT argument must be >= 0.")?);
            at += 1;
        } else if xadd && is(option, "nomkstream") {
            out.no_mkstream = true;
        } else if xadd {
            if option != b"*" {
                written_id(option, 0)?;
            }
            out.end = at;
            break;
        } else {
            return Err(Fail::syntax());
        }
        at += 1;
    }
    if limit.is_some_and(|limit| limit > 0) && until.is_none() {
        return Err(Fail::error(
            "ERR syntax error, LIMIT cannot be used without specifying a trimming strategy",
        ));
    }
    if !xadd && until.is_none() {
        return Err(Fail::error("ERR syntax error, XTRIM must be called with a trimming strategy"));
    }
    if limit.is_some() && !approximate {
        return Err(Fail::error("ERR syntax error, LIMIT cannot be used without the special ~ option"));
    }
    let approximate = approximate.then(|| limit.unwrap_or(100 * NODE_ENTRIES));
    out.trim = until.map(|until| Trim { until, approximate });
    Ok(out)
}

fn not_negative(text: &[u8], message: &'static str) -> Result<u64, Fail> {
    u64::try_from(integer(text)?).map_err(|_| Fail::error(message))
}

pub(super) fn xadd(cx: &mut Cx<'_>) -> Done {
    let options = options(cx.args, true)?;
    let strings = cx.args.get(options.end + 1..).unwrap_or_default();
    if strings.is_empty() || !strings.len().is_multiple_of(2) {
        return Err(Fail::arity("xadd"));
    }
    let wanted = match cx.args[options.end] {
        b"*" => None,
        text => Some(written_id(text, 0)?),
    };
    if matches!(wanted, Some(Written::Whole(Id::MIN))) {
        return Err(Fail::error("ERR The ID specified in XADD must be greater than 0-0"));
    }
    let found = open(cx, 0)?;
    if found.is_none() && options.no_mkstream {
        cx.reply.null();
        return Ok(());
    }
    let last = found.as_ref().map_or(Id::MIN, |stream| stream.meta.last);
    if last == Id::MAX {
        return Err(Fail::error(
            "ERR The stream has exhausted the last possible ID, unable to add more items",
        ));
    }
    let id = match wanted {
        None => {
            let now = now_ms(cx, 0);
            if now > last.ms { Some(Id { ms: now, seq: 0 }) } else { last.next() }
        }
        Some(Written::Whole(id)) => Some(id),
        Some(Written::Millisecond(ms)) if ms == last.ms => last.seq.checked_add(1).map(|seq| Id { ms, seq }),
        Some(Written::Millisecond(ms)) => Some(Id { ms, seq: 0 }),
    };
    let id = id.filter(|id| *id > last).ok_or_else(|| {
        Fail::error("ERR The ID specified in XADD is equal or smaller than the target stream top item")
    })?;
    if strings.iter().map(|string| string.len()).sum::<usize>() > ENTRY_BYTES_MAX {
        return Err(Fail::error("ERR Elements are too large to be stored"));
    }
    let mut stream = match found {
        Some(stream) => stream,
        None => {
            let key = cx.key(0);
            Stream::create(&mut cx.tx, key)?
        }
    };
    stream.append(&mut cx.tx, id, strings);
    stream.save(&mut cx.tx)?;
    if let Some(trim) = options.trim {
        stream.trim(&mut cx.tx, trim)?;
    }
    reply_id(cx.reply, id);
    Ok(())
}

pub(super) fn xtrim(cx: &mut Cx<'_>) -> Done {
    let options = options(cx.args, false)?;
    let removed = match (open(cx, 0)?, options.trim) {
        (Some(mut stream), Some(trim)) => stream.trim(&mut cx.tx, trim)?,
        _ => 0,
    };
    cx.reply.integer(removed.cast_signed());
    Ok(())
}

pub(super) fn xdel(cx: &mut Cx<'_>) -> Done {
    let removed = match open(cx, 0)? {
        None => 0,
        Some(mut stream) => {
            let ids = ids(&cx.args[2..])?;
            stream.delete(&mut cx.tx, &ids)?
        }
    };
    cx.reply.count(removed);
    Ok(())
}

pub(super) fn xsetid(cx: &mut Cx<'_>) -> Done {
    let id = strict_id(cx.args[2], 0)?;
    let (mut added, mut deleted) = (None, None);
    let mut rest = cx.args[3..].iter();
    while let Some(option) = rest.next() {
        let value = rest.next().ok_or_else(Fail::syntax)?;
        if is(option, "entriesadded") {
            added = Some(not_negative(value, "ERR entries_added must be positive")?);
        } else if is(option, "maxdeletedid") {
            let most = strict_id(value, 0)?;
            if id < most {
                return Err(Fail::error(
                    "ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id",
                ));
            }
            deleted = Some(most);
        } else {
            return Err(Fail::syntax());
        }
    }
    let mut stream = open(cx, 0)?.ok_or_else(|| Fail::error("ERR no such key"))?;
    if stream.meta.length > 0 {
        let direction = haypile_engine::read::Direction::Backward;
        let top = stream.walk(Id::MIN, Id::MAX, direction).next(&mut cx.tx, 1)?;
        if top.first().is_some_and(|(top, _)| id < *top) {
            return Err(Fail::error(
                "ERR The ID specified in XSETID is smaller than the target stream top item",
            ));
        }
        if added.is_some_and(|added| stream.meta.length > added) {
            return Err(Fail::error(
                "ERR The entries_added specified in XSETID is smaller than the target stream length",
            ));
        }
    }
    stream.meta.last = id;
    stream.meta.added = added.unwrap_or(stream.meta.added);
    stream.meta.deleted = deleted.filter(|id| *id != Id::MIN).unwrap_or(stream.meta.deleted);
    stream.save(&mut cx.tx)?;
    cx.reply.ok();
    Ok(())
}

/// Ids that all have to be right before any is looked at.
pub(super) fn ids(texts: &[&[u8]]) -> Result<Vec<Id>, Fail> {
    texts.iter().map(|text| strict_id(text, 0)).collect()
}
