//! INCR and its kin: numbers kept as strings.

use haypile_engine::value::Value;

use super::strings::{replace, string};
use crate::cx::{Cx, Fail, integer};
use crate::extended::{Extended, Parsed};
use crate::kind::Kind;
use crate::number::Decimal;
use crate::table::{Command, Flags, Group, Keys};

const T: Group = Group("string");
const FAST: Flags = Flags::WRITE.with(Flags::FAST);

/// See the file's head.
#[rustfmt::skip]
pub const COMMANDS: &[Command] = &[
    T.data("incr", 2, FAST, Keys::FIRST, "1.0.0", "Adds one to a number.", |cx| add(cx, 1)),
    T.data("decr", 2, FAST, Keys::FIRST, "1.0.0", "Takes one from a number.", |cx| add(cx, -1)),
    T.data("incrby", 3, FAST, Keys::FIRST, "1.0.0", "Adds to a number.", |cx| add(cx, integer(cx.arg(2))?)),
    T.data("decrby", 3, FAST, Keys::FIRST, "1.0.0", "Takes from a number.", decrby),
    T.data("incrbyfloat", 3, FAST, Keys::FIRST, "2.6.0", "Adds to a number with a fraction.", incrbyfloat),
];

fn decrby(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let by = integer(cx.arg(2))?.checked_neg().ok_or_else(|| Fail::error("ERR decrement would overflow"))?;
    add(cx, by)
}

fn add(cx: &mut Cx<'_>, by: i64) -> Result<(), Fail> {
    let key = cx.key(0);
    let old = cx.open(key, Kind::String, |old| integer(old.payload).map(|value| (value, old.expiry)))?;
    let (value, expiry) = old.unwrap_or_default();
    let sum =
        value.checked_add(by).ok_or_else(|| Fail::error("ERR increment or decrement would overflow"))?;
    cx.reply.integer(sum);
    let mut digits = Decimal::default();
    Ok(cx.tx.put(key, &Value { expiry, ..string(digits.format(sum)) })?)
}

/// The sum of two numbers in text, as Redis writes it.
///
/// # Errors
/// In Redis' words if one is no number or the sum is none.
pub fn add_fractions(value: &[u8], by: &[u8]) -> Result<String, Fail> {
    let parse = |text: &[u8]| Extended::parse(text).ok_or_else(Fail::not_float);
    let sum = match (parse(value)?, parse(by)?) {
        (Parsed::Finite(value), Parsed::Finite(by)) => value.add(&by),
        _ => None,
    };
    match sum {
        Some(sum) => Ok(sum.to_string()),
        None => Err(Fail::error("ERR increment would produce NaN or Infinity")),
    }
}

fn incrbyfloat(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let key = cx.key(0);
    let old: Option<Value> = cx.read(key, Kind::String)?;
    let value = old.as_ref().map_or(&b"0"[..], |old| &old.payload);
    let sum = add_fractions(value, cx.arg(2))?;
    cx.reply.bulk(sum.as_bytes());
    replace(cx, key, old.as_ref(), sum.into_bytes())
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    #[test]
    fn numbers_are_counted_as_in_redis() {
        Bench::new().check(
            "incr n                          -> :1
             incrby n 41                     -> :42
             decr n                          -> :41
             decrby n 1                      -> :40
             get n                           -> $2 40
             incrby n x                      -> -ERR value is not an integer or out of range
             decrby n -9223372036854775808   -> -ERR decrement would overflow
             set n 9223372036854775807       -> +OK
             incr n                          -> -ERR increment or decrement would overflow
             set n \" 1\"                    -> +OK
             incr n                          -> -ERR value is not an integer or out of range
             set n 3 ex 100                  -> +OK
             incrbyfloat n 0.5               -> $3 3.5
             ttl n                           -> :100
             incrbyfloat n inf               -> -ERR increment would produce NaN or Infinity
             incrbyfloat n x                 -> -ERR value is not a valid float",
        );
    }
}
