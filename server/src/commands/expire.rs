//! When keys cease to be: EXPIRE, TTL and their kin, PERSIST.

use haypile_engine::clock::TimeMs;
use haypile_engine::value::Value;

use crate::cx::{Cx, Fail, integer, is};
use crate::expiry::{Base, Unit, moment_of};
use crate::table::{Command, Flags, Group, Keys};

const READ: Flags = Flags::READONLY.with(Flags::FAST);
const WRITE: Flags = Flags::WRITE.with(Flags::FAST);

const T: Group = Group("generic");

/// See the file's head.
pub const COMMANDS: &[Command] = &[
    T.data("expire", -3, WRITE, Keys::FIRST, "1.0.0", "Sets an expiry in seconds from now.", |cx| {
        let base = Base::Now(cx.now(cx.key(0)));
        expire(cx, Unit::Seconds, base, "expire")
    }),
    T.data("pexpire", -3, WRITE, Keys::FIRST, "2.6.0", "Sets an expiry in milliseconds from now.", |cx| {
        let base = Base::Now(cx.now(cx.key(0)));
        expire(cx, Unit::Milliseconds, base, "pexpire")
    }),
    T.data("expireat", -3, WRITE, Keys::FIRST, "1.2.0", "Sets an expiry in seconds since 1970.", |cx| {
        expire(cx, Unit::Seconds, Base::Epoch, "expireat")
    }),
    T.data(
        "pexpireat",
        -3,
        WRITE,
        Keys::FIRST,
        "2.6.0",
        "Sets an expiry in milliseconds since 1970.",
        |cx| expire(cx, Unit::Milliseconds, Base::Epoch, "pexpireat"),
    ),
    T.data("ttl", 2, READ, Keys::FIRST, "1.0.0", "Gives the seconds until the expiry.", |cx| {
        tell(cx, |at, now| (at.saturating_sub(now) + 500) / 1000)
    }),
    T.data("pttl", 2, READ, Keys::FIRST, "2.6.0", "Gives the milliseconds until the expiry.", |cx| {
        tell(cx, u64::saturating_sub)
    }),
    T.data("expiretime", 2, READ, Keys::FIRST, "7.0.0", "Gives the expiry in seconds since 1970.", |cx| {
        tell(cx, |at, _| at.saturating_add(500) / 1000)
    }),
    T.data(
        "pexpiretime",
        2,
        READ,
        Keys::FIRST,
        "7.0.0",
        "Gives the expiry in milliseconds since 1970.",
        |cx| tell(cx, |at, _| at),
    ),
    T.data("persist", 2, WRITE, Keys::FIRST, "2.2.0", "Takes the expiry away.", persist),
];

/// When an expiry is set only.
#[derive(Default)]
struct Conditions {
    if_none: bool,
    if_some: bool,
    if_later: bool,
    if_sooner: bool,
}

impl Conditions {
    fn read(args: &[&[u8]]) -> Result<Conditions, Fail> {
        let mut conditions = Conditions::default();
        for arg in args {
            let flag = if is(arg, "nx") {
                &mut conditions.if_none
            } else if is(arg, "xx") {
                &mut conditions.if_some
            } else if is(arg, "gt") {
                &mut conditions.if_later
            } else if is(arg, "lt") {
                &mut conditions.if_sooner
            } else {
                return Err(Fail::error(format!("ERR Unsupported option {}", String::from_utf8_lossy(arg))));
            };
            *flag = true;
        }
        if conditions.if_none && (conditions.if_some || conditions.if_later || conditions.if_sooner) {
            return Err(Fail::error("ERR NX and XX, GT or LT options at the same time are not compatible"));
        }
        if conditions.if_later && conditions.if_sooner {
            return Err(Fail::error("ERR GT and LT options at the same time are not compatible"));
        }
        Ok(conditions)
    }

    /// Whether a key that ceases at `current` may be set to cease at `at`. No expiry counts as the latest of all.
    fn hold(&self, current: Option<i64>, at: i64) -> bool {
        !(self.if_none && current.is_some()
            || self.if_some && current.is_none()
            || self.if_later && current.is_none_or(|current| at <= current)
            || self.if_sooner && current.is_some_and(|current| at >= current))
    }
}

fn expire(cx: &mut Cx<'_>, unit: Unit, base: Base, command: &str) -> Result<(), Fail> {
    let key = cx.key(0);
    let conditions = Conditions::read(&cx.args[3..])?;
    let at = moment_of(integer(cx.arg(2))?, unit, base, command)?;
    let Some(value) = cx.tx.get(key)? else {
        cx.reply.integer(0);
        return Ok(());
    };
    let current = value.expiry.map(|TimeMs(at)| i64::try_from(at).unwrap_or(i64::MAX));
    let set = conditions.hold(current, at);
    if set {
        match u64::try_from(at).map(TimeMs) {
            Ok(at) if at > cx.now(key) => cx.tx.put(key, &Value { expiry: Some(at), ..value })?,
            _ => {
                cx.tx.delete(key)?;
            }
        }
    }
    cx.reply.integer(i64::from(set));
    Ok(())
}

/// Answers what `show` makes of the expiry and the time; -1 without expiry, -2 without key.
fn tell(cx: &mut Cx<'_>, show: fn(u64, u64) -> u64) -> Result<(), Fail> {
    let key = cx.key(0);
    let answer = match cx.tx.get(key)? {
        None => -2,
        Some(Value { expiry: None, .. }) => -1,
        Some(Value { expiry: Some(TimeMs(at)), .. }) => {
            i64::try_from(show(at, cx.now(key).0)).unwrap_or(i64::MAX)
        }
    };
    cx.reply.integer(answer);
    Ok(())
}

fn persist(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let key = cx.key(0);
    let value = cx.tx.get(key)?.filter(|value| value.expiry.is_some());
    cx.reply.integer(i64::from(value.is_some()));
    if let Some(value) = value {
        cx.tx.put(key, &Value { expiry: None, ..value })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    #[test]
    fn expiries_are_set_told_and_taken_away() {
        Bench::new().check(
            "ttl k                       -> :-2
             expire k 10                 -> :0
             set k v                     -> +OK
             ttl k                       -> :-1
             pexpiretime k               -> :-1
             persist k                   -> :0
             expire k 100                -> :1
             ttl k                       -> :100
             persist k                   -> :1
             expireat k 99999999999      -> :1
             expiretime k                -> :99999999999
             pexpireat k 99999999999500  -> :1
             expiretime k                -> :100000000000
             pexpiretime k               -> :99999999999500
             pexpire k x                 -> -ERR value is not an integer or out of range
             expire k 9223372036854775807 -> -ERR invalid expire time in 'expire' command
             pexpire k 9223372036854775807 -> -ERR invalid expire time in 'pexpire' command
             expire k -9223372036854775808 -> -ERR invalid expire time in 'expire' command
             expire k -1                 -> :1
             exists k                    -> :0",
        );
    }

    #[test]
    fn conditions_on_expiries_hold() {
        Bench::new().check(
            "set k v                 -> +OK
             expire k 100 gt         -> :0
             expire k 100 xx         -> :0
             expire k 100 nx         -> :1
             expire k 100 nx         -> :0
             expire k 50 gt          -> :0
             expire k 200 gt         -> :1
             expire k 300 lt         -> :0
             expire k 100 lt xx      -> :1
             persist k               -> :1
             expire k 100 lt         -> :1
             expire k 1 nx gt        -> -ERR NX and XX, GT or LT options at the same time are not compatible
             expire k 1 lt gt        -> -ERR GT and LT options at the same time are not compatible
             expire k 1 foo          -> -ERR Unsupported option foo",
        );
    }
}
