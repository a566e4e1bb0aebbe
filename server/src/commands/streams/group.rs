//! XGROUP and XACK.

use super::{Done, SECOND, T, no_subcommand, now_ms, open, open_group, strict_id};
use crate::commands::streams::add::ids;
use crate::commands::streams::any_id;
use crate::cx::{Cx, Fail, integer, is};
use crate::table::{Command, Flags};
use crate::types::stream::{Id, Stream};

const WRITE: Flags = Flags::WRITE;

/// The second words of XGROUP.
#[rustfmt::skip]
pub(super) const SUBS: &[Command] = &[
    T.data("xgroup|create", -5, WRITE, SECOND, "5.0.0", "Makes a group.", create),
    T.data("xgroup|createconsumer", 5, WRITE, SECOND, "6.2.0", "Makes a group's consumer.", create_consumer),
    T.data("xgroup|delconsumer", 5, WRITE, SECOND, "5.0.0", "Removes a group's consumer.", delete_consumer),
    T.data("xgroup|destroy", 4, WRITE, SECOND, "5.0.0", "Removes a group.", destroy),
    T.data("xgroup|setid", -5, WRITE, SECOND, "5.0.0", "Sets the id after which a group goes on.", set_id),
];

/// What may follow an id.
struct Options {
    mkstream: bool,
    read: Option<u64>,
}

fn options(cx: &Cx<'_>, takes_mkstream: bool) -> Result<Options, Fail> {
    let mut out = Options { mkstream: false, read: None };
    let mut rest = cx.args[5..].iter();
    while let Some(option) = rest.next() {
        if takes_mkstream && is(option, "mkstream") {
            out.mkstream = true;
        } else if is(option, "entriesread")
            && let Some(value) = rest.next()
        {
            out.read = match integer(value)? {
                -1 => None,
                read => Some(
                    u64::try_from(read)
                        .map_err(|_| Fail::error("ERR value for ENTRIESREAD must be positive or -1"))?,
                ),
            };
        } else {
            return Err(no_subcommand(cx, "XGROUP"));
        }
    }
    Ok(out)
}

fn no_key() -> Fail {
    Fail::error(
        "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the MKSTREAM \
         option to create an empty stream automatically.",
    )
}

fn no_group(cx: &Cx<'_>) -> Fail {
    no_such_group(cx.args[3], cx.args[2])
}

/// What is said where the stream has no such group.
pub(super) fn no_such_group(group: &[u8], key: &[u8]) -> Fail {
    let (group, key) = (String::from_utf8_lossy(group), String::from_utf8_lossy(key));
    Fail::error(format!("NOGROUP No such consumer group '{group}' for key name '{key}'"))
}

fn create(cx: &mut Cx<'_>) -> Done {
    let options = options(cx, true)?;
    let found = open(cx, 0)?;
    if found.is_none() && !options.mkstream {
        return Err(no_key());
    }
    let last = match cx.args[4] {
        b"$" => found.as_ref().map_or(Id::MIN, |stream| stream.meta.last),
        text => strict_id(text, 0)?,
    };
    let mut stream = match found {
        Some(stream) => stream,
        None => {
            let key = cx.key(0);
            Stream::create(&mut cx.tx, key)?
        }
    };
    if stream.group(&mut cx.tx, cx.args[3])?.is_some() {
        return Err(Fail::error("BUSYGROUP Consumer Group name already exists"));
    }
    stream.create_group(&mut cx.tx, cx.args[3], last, options.read)?;
    cx.reply.ok();
    Ok(())
}

fn set_id(cx: &mut Cx<'_>) -> Done {
    let options = options(cx, false)?;
    let stream = open(cx, 0)?.ok_or_else(no_key)?;
    let mut group = stream.group(&mut cx.tx, cx.args[3])?.ok_or_else(|| no_group(cx))?;
    group.last = match cx.args[4] {
        b"$" => stream.meta.last,
        text => any_id(text, 0)?,
    };
    group.read = options.read;
    group.close(&mut cx.tx)?;
    cx.reply.ok();
    Ok(())
}

fn destroy(cx: &mut Cx<'_>) -> Done {
    let mut stream = open(cx, 0)?.ok_or_else(no_key)?;
    let group = stream.group(&mut cx.tx, cx.args[3])?;
    if let Some(group) = &group {
        stream.destroy_group(&mut cx.tx, group)?;
    }
    cx.reply.integer(i64::from(group.is_some()));
    Ok(())
}

fn create_consumer(cx: &mut Cx<'_>) -> Done {
    let stream = open(cx, 0)?.ok_or_else(no_key)?;
    let mut group = stream.group(&mut cx.tx, cx.args[3])?.ok_or_else(|| no_group(cx))?;
    let new = group.consumer(&mut cx.tx, cx.args[4])?.is_none();
    if new {
        let now = now_ms(cx, 0);
        group.see(&mut cx.tx, cx.args[4], now)?;
        group.close(&mut cx.tx)?;
    }
    cx.reply.integer(i64::from(new));
    Ok(())
}

fn delete_consumer(cx: &mut Cx<'_>) -> Done {
    let stream = open(cx, 0)?.ok_or_else(no_key)?;
    let mut group = stream.group(&mut cx.tx, cx.args[3])?.ok_or_else(|| no_group(cx))?;
    let pending = group.delete_consumer(&mut cx.tx, cx.args[4])?;
    if pending.is_some() {
        group.close(&mut cx.tx)?;
    }
    cx.reply.integer(pending.unwrap_or(0).cast_signed());
    Ok(())
}

pub(super) fn xack(cx: &mut Cx<'_>) -> Done {
    let mut acknowledged = 0;
    if let Some((_, mut group)) = open_group(cx, cx.args[2])? {
        let ids = ids(&cx.args[3..])?;
        group.pending_at(&mut cx.tx, &ids)?;
        for id in ids {
            // Looked at again: an id may be named twice.
            if let Some(Some(pending)) = group.pending_at(&mut cx.tx, &[id])?.pop() {
                group.acknowledge(&mut cx.tx, id, &pending)?;
                acknowledged += 1;
            }
        }
        if acknowledged > 0 {
            group.close(&mut cx.tx)?;
        }
    }
    cx.reply.integer(acknowledged);
    Ok(())
}
