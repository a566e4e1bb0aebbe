//! When a key ceases to be: read from arguments as Redis reads it.

use haypile_engine::clock::TimeMs;

use crate::cx::{Fail, integer};

/// What an argument counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
}

/// What it counts from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Base {
    /// The time in the key's slot.
    Now(TimeMs),
    /// 1970.
    Epoch,
}

/// The moment that an argument of SET and its kin means. It is after 1970, but may be past.
///
/// # Errors
/// In Redis' words.
pub fn deadline(text: &[u8], unit: Unit, base: Base, command: &str) -> Result<TimeMs, Fail> {
    let count = integer(text)?;
    if count <= 0 {
        return Err(invalid(command));
    }
    let at = moment(count, unit, base).ok_or_else(|| invalid(command))?;
    u64::try_from(at).map(TimeMs).map_err(|_| invalid(command))
}

/// The moment that an argument of EXPIRE and its kin means, in milliseconds since 1970; may be long past.
///
/// # Errors
/// In Redis' words.
pub fn moment_of(count: i64, unit: Unit, base: Base, command: &str) -> Result<i64, Fail> {
    moment(count, unit, base).ok_or_else(|| invalid(command))
}

fn moment(count: i64, unit: Unit, base: Base) -> Option<i64> {
    let ms = match unit {
        Unit::Seconds => count.checked_mul(1000)?,
        Unit::Milliseconds => count,
    };
    match base {
        Base::Now(TimeMs(now)) => ms.checked_add(i64::try_from(now).ok()?),
        Base::Epoch => Some(ms),
    }
}

fn invalid(command: &str) -> Fail {
    Fail::error(format!("ERR invalid expire time in '{command}' command"))
}
