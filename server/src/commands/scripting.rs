//! EVAL and its kin, and SCRIPT.

use std::sync::Arc;

use crate::cx::{Cx, Fail, integer, is};
use crate::scripting::Script;
use crate::scripting::machine::{self, MayWrite};
use crate::session::SessionCx;
use crate::table::{Command, Flags, Group, Keys, numbered_keys};

/// The group of these commands: no script may call one.
pub const GROUP: &str = "scripting";

const KEYS: Keys = Keys::Custom(|args, positions| numbered_keys(args, 2, positions));

const T: Group = Group(GROUP);

/// How scripts differ.
const HOLDS: &str = "a script holds the slots of its keys: commands on those wait, and are answered BUSY once it has run for longer \
     than lua-time-limit; all others go on; one that runs longer than script-time-max, or in MULTI than lua-time-limit, is \
     stopped and nothing of it is kept; keys in slots of none of KEYS are \
     refused behind Codis; of commands that are on no keys a script may call TIME, PING, ECHO, SELECT, PUBLISH and SPUBLISH, and on \
     a standalone node KEYS, SCAN, RANDOMKEY, DBSIZE, FLUSHALL and FLUSHDB; a standalone node runs such a script, and one that walks over keys, again with all its slots locked, \
     and stops it after lua-time-limit";

type Done = Result<(), Fail>;

/// See the file's head.
#[rustfmt::skip]
pub const COMMANDS: &[Command] = &[
    T.data("eval", -3, Flags::WRITE, KEYS, "2.6.0", "Runs a Lua script.", |cx| eval(cx, MayWrite::Yes)).differs(HOLDS),
    T.data("eval_ro", -3, Flags::READONLY, KEYS, "7.0.0", "Runs a Lua script that only reads.", |cx| eval(cx, MayWrite::No)),
    T.data("evalsha", -3, Flags::WRITE, KEYS, "2.6.0", "Runs a Lua script that is known.", |cx| evalsha(cx, MayWrite::Yes)).differs(HOLDS),
    T.data("evalsha_ro", -3, Flags::READONLY, KEYS, "7.0.0", "Runs a Lua script that is known and only reads.", |cx| evalsha(cx, MayWrite::No)),
    T.family("script", Flags::NONE, "2.6.0", "Loads, finds, forgets and ends scripts.", SUBS),
];

const SUBS: &[Command] = &[
    T.session("script|debug", 3, Flags::NONE, "3.2.0", "Not supported: there is no debugger.", debug),
    T.session(
        "script|exists",
        -3,
        Flags::NONE,
        "2.6.0",
        "Says which of these scripts are known, by their SHA-1.",
        exists,
    ),
    T.session("script|flush", -2, Flags::NONE, "2.6.0", "Forgets all scripts.", flush),
    T.session(
        "script|kill",
        2,
        Flags::NONE,
        "2.6.0",
        "Ends the scripts that run; nothing of them is kept.",
        kill,
    )
    .differs("ends one that has written, too: nothing of it is kept"),
    T.session("script|load", 3, Flags::NONE, "2.6.0", "Makes a script known, and gives its SHA-1.", load),
];

fn eval(cx: &mut Cx<'_>, may_write: MayWrite) -> Done {
    let keys = key_count(cx)?;
    let script = machine::script(cx.args[1], &cx.node.scripts)?;
    run(cx, &script, keys, may_write)
}

fn evalsha(cx: &mut Cx<'_>, may_write: MayWrite) -> Done {
    let keys = key_count(cx)?;
    let script = cx.node.scripts.find(cx.args[1]);
    let script = script.ok_or_else(|| Fail::error("NOSCRIPT No matching script. Please use EVAL."))?;
    run(cx, &script, keys, may_write)
}

fn run(cx: &mut Cx<'_>, script: &Arc<Script>, keys: usize, may_write: MayWrite) -> Done {
    if may_write == MayWrite::No {
        script.check_read_only()?;
    }
    let may_write = if script.promises_not_to_write() { MayWrite::No } else { may_write };
    machine::run(cx, script, keys, may_write)
}

/// How many of the arguments are keys.
pub(super) fn key_count(cx: &Cx<'_>) -> Result<usize, Fail> {
    let count = integer(cx.args[2])?;
    let count = usize::try_from(count).map_err(|_| Fail::error("ERR Number of keys can't be negative"))?;
    if count > cx.args.len() - 3 {
        return Err(Fail::error("ERR Number of keys can't be greater than number of args"));
    }
    Ok(count)
}

fn load(cx: &mut SessionCx<'_>) -> Done {
    let script = Script::new(cx.arg(2))?;
    machine::check(&script, cx.node.scripts.flushes())?;
    let script = cx.node.scripts.load(script)?;
    cx.reply.bulk(script.sha.as_bytes());
    Ok(())
}

fn exists(cx: &mut SessionCx<'_>) -> Done {
    cx.reply.array(cx.args.len() - 2);
    for sha in &cx.args[2..] {
        cx.reply.integer(i64::from(cx.node.scripts.find(sha).is_some()));
    }
    Ok(())
}

fn flush(cx: &mut SessionCx<'_>) -> Done {
    match cx.args[2..] {
        [] => {}
        [how] if is(how, "sync") || is(how, "async") => {}
        _ => return Err(Fail::error("ERR SCRIPT FLUSH only support SYNC|ASYNC option")),
    }
    cx.node.scripts.flush();
    cx.reply.ok();
    Ok(())
}

fn kill(cx: &mut SessionCx<'_>) -> Done {
    if !cx.node.scripts.kill() {
        return Err(Fail::error("NOTBUSY No scripts in execution right now."));
    }
    cx.reply.ok();
    Ok(())
}

fn debug(cx: &mut SessionCx<'_>) -> Done {
    match cx.arg(2) {
        how if is(how, "no") => {
            cx.reply.ok();
            Ok(())
        }
        how if is(how, "yes") || is(how, "sync") => {
            Err(Fail::error("ERR SCRIPT DEBUG is not supported: try the script on a Redis server"))
        }
        _ => Err(Fail::error("ERR Use SCRIPT DEBUG YES/SYNC/NO")),
    }
}

#[cfg(test)]
mod tests;
