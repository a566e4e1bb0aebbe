//! SET and GETEX with their options.

use haypile_engine::clock::TimeMs;
use haypile_engine::value::Value;

use super::strings::string;
use crate::cx::{Cx, Fail, is};
use crate::expiry::{Base, Unit, deadline};
use crate::kind::Kind;
use crate::table::{Command, Flags, Group, Keys};

/// See the file's head.
pub const COMMANDS: &[Command] = &[
    Group("string").data("set", -3, Flags::WRITE, Keys::FIRST, "1.0.0", "Sets a key to a string.", set),
    Group("string").data(
        "getex",
        -2,
        Flags::WRITE.with(Flags::FAST),
        Keys::FIRST,
        "6.2.0",
        "Gives a string and changes its expiry.",
        getex,
    ),
];

/// What becomes of the key's expiry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expiry<'a> {
    /// No option says anything.
    Unsaid,
    Keep,
    Persist,
    At(&'a [u8], Unit, Since),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Since {
    Now,
    Epoch,
}

/// What must be so for the write to happen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Only {
    Always,
    IfAbsent,
    IfPresent,
}

struct Options<'a> {
    expiry: Expiry<'a>,
    only: Only,
    give_old: bool,
}

/// The options of SET.
const FOR_SET: bool = true;
/// The options of GETEX.
const FOR_GETEX: bool = false;

/// Reads the options. As in Redis, one may be said twice, but none may contradict another.
fn options<'a>(args: &'a [&'a [u8]], for_set: bool) -> Result<Options<'a>, Fail> {
    let mut options = Options { expiry: Expiry::Unsaid, only: Only::Always, give_old: false };
    let mut rest = args.iter().copied();
    while let Some(arg) = rest.next() {
        if for_set && is(arg, "nx") && options.only != Only::IfPresent {
            options.only = Only::IfAbsent;
        } else if for_set && is(arg, "xx") && options.only != Only::IfAbsent {
            options.only = Only::IfPresent;
        } else if for_set && is(arg, "get") {
            options.give_old = true;
        } else if for_set && is(arg, "keepttl") && matches!(options.expiry, Expiry::Unsaid | Expiry::Keep) {
            options.expiry = Expiry::Keep;
        } else if !for_set && is(arg, "persist") && matches!(options.expiry, Expiry::Unsaid | Expiry::Persist)
        {
            options.expiry = Expiry::Persist;
        } else if let Some((unit, since)) = expiry_option(arg) {
            let again = match options.expiry {
                Expiry::Unsaid => true,
                Expiry::At(_, before, from) => (before, from) == (unit, since),
                Expiry::Keep | Expiry::Persist => false,
            };
            let value = rest.next().filter(|_| again).ok_or_else(Fail::syntax)?;
            options.expiry = Expiry::At(value, unit, since);
        } else {
            return Err(Fail::syntax());
        }
    }
    Ok(options)
}

fn expiry_option(arg: &[u8]) -> Option<(Unit, Since)> {
    [
        ("ex", Unit::Seconds, Since::Now),
        ("px", Unit::Milliseconds, Since::Now),
        ("exat", Unit::Seconds, Since::Epoch),
        ("pxat", Unit::Milliseconds, Since::Epoch),
    ]
    .into_iter()
    .find(|(name, ..)| is(arg, name))
    .map(|(_, unit, since)| (unit, since))
}

/// The moment that an option means.
fn moment(cx: &Cx<'_>, value: &[u8], unit: Unit, since: Since, command: &str) -> Result<TimeMs, Fail> {
    let base = match since {
        Since::Now => Base::Now(cx.now(cx.key(0))),
        Since::Epoch => Base::Epoch,
    };
    deadline(value, unit, base, command)
}

fn set(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let key = cx.key(0);
    let Options { expiry, only, give_old } = options(&cx.args[3..], FOR_SET)?;
    let at = match expiry {
        Expiry::At(value, unit, since) => Some(moment(cx, value, unit, since, "set")?),
        _ => None,
    };
    // A plain SET looks at nothing: the key may not be in memory, and need not be.
    let looks = give_old || only != Only::Always || expiry == Expiry::Keep;
    let old = if looks { cx.tx.get(key)? } else { None };
    if give_old {
        if old.as_ref().is_some_and(|old| old.kind != Kind::String as u8) {
            return Err(Fail::wrong_type());
        }
        cx.reply.bulk_or_null(old.as_ref().map(|old| &old.payload[..]));
    }
    let wanted = match only {
        Only::Always => true,
        Only::IfAbsent => old.is_none(),
        Only::IfPresent => old.is_some(),
    };
    if !wanted {
        if !give_old {
            cx.reply.null();
        }
        return Ok(());
    }
    let kept = old.and_then(|old| old.expiry).filter(|_| expiry == Expiry::Keep);
    if at.is_some_and(|at| at <= cx.now(key)) {
        cx.tx.delete(key)?;
    } else {
        cx.tx.put(key, &Value { expiry: at.or(kept), ..string(cx.arg(2)) })?;
    }
    if !give_old {
        cx.reply.ok();
    }
    Ok(())
}

fn getex(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let key = cx.key(0);
    let Options { expiry, .. } = options(&cx.args[2..], FOR_GETEX)?;
    let Some(value) = cx.read(key, Kind::String)? else {
        cx.reply.null();
        return Ok(());
    };
    let at = match expiry {
        Expiry::At(text, unit, since) => Some(moment(cx, text, unit, since, "getex")?),
        _ => None,
    };
    cx.reply.bulk(&value.payload);
    match at {
        Some(at) if at <= cx.now(key) => {
            cx.tx.delete(key)?;
        }
        Some(_) => cx.tx.put(key, &Value { expiry: at, ..value })?,
        None if expiry == Expiry::Persist && value.expiry.is_some() => {
            cx.tx.put(key, &Value { expiry: None, ..value })?;
        }
        None => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    #[test]
    fn set_keeps_to_its_conditions() {
        Bench::new().check(
            "set k 1 xx          -> $-1
             set k 1 nx          -> +OK
             set k 2 nx          -> $-1
             set k 2 XX          -> +OK
             set k 3 get         -> $1 2
             set k 4 nx get      -> $1 3
             set n 4 nx get      -> $-1
             get n               -> $1 4
             get k               -> $1 3
             set k 1 nx xx       -> -ERR syntax error
             set k 1 ex          -> -ERR syntax error
             set k 1 ex 1 px 1   -> -ERR syntax error
             set k 1 keepttl ex 5 -> -ERR syntax error
             set k 1 persist     -> -ERR syntax error
             set k 1 foo         -> -ERR syntax error",
        );
    }

    #[test]
    fn set_and_getex_change_expiries() {
        Bench::new().check(
            "set k v ex 100          -> +OK
             ttl k                   -> :100
             set k w keepttl         -> +OK
             ttl k                   -> :100
             set k w                 -> +OK
             ttl k                   -> :-1
             set k w ex 0            -> -ERR invalid expire time in 'set' command
             set k w px x            -> -ERR value is not an integer or out of range
             set k w exat 1          -> +OK
             exists k                -> :0
             set k w pxat 99999999999999 -> +OK
             pexpiretime k           -> :99999999999999
             getex k                 -> $1 w
             pexpiretime k           -> :99999999999999
             getex k persist         -> $1 w
             ttl k                   -> :-1
             getex k ex 50           -> $1 w
             ttl k                   -> :50
             getex k ex 0            -> -ERR invalid expire time in 'getex' command
             getex k nx              -> -ERR syntax error
             getex k exat 1          -> $1 w
             getex k                 -> $-1",
        );
    }
}
