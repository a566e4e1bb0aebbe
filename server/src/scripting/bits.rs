//! The `bit` table: operations on 32 bits, as in the BitOp library that Redis has.

use mlua::{Lua, Table, Variadic};

/// A number's low 32 bits.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // that is what is asked for
fn bits(value: f64) -> u32 {
    // Beyond 2^53 a number has no low bits of its own.
    (value.rem_euclid(4_294_967_296.0)).round_ties_even() as u64 as u32
}

fn signed(bits: u32) -> f64 {
    f64::from(bits.cast_signed())
}

pub(super) fn table(lua: &Lua) -> mlua::Result<Table> {
    let out = lua.create_table()?;
    let one = |name: &str, operation: fn(u32) -> u32| {
        out.raw_set(name, lua.create_function(move |_, value: f64| Ok(signed(operation(bits(value)))))?)
    };
    one("tobit", |bits| bits)?;
    one("bnot", |bits| !bits)?;
    one("bswap", u32::swap_bytes)?;
    let many = |name: &str, operation: fn(u32, u32) -> u32| {
        let function = lua.create_function(move |_, values: Variadic<f64>| {
            let joined = values.iter().map(|value| bits(*value)).reduce(operation);
            joined
                .map(signed)
                .ok_or_else(|| mlua::Error::runtime("bad argument #1 (number expected, got no value)"))
        })?;
        out.raw_set(name, function)
    };
    many("band", |a, b| a & b)?;
    many("bor", |a, b| a | b)?;
    many("bxor", |a, b| a ^ b)?;
    let shift = |name: &str, operation: fn(u32, u32) -> u32| {
        let function = lua.create_function(move |_, (value, by): (f64, f64)| {
            Ok(signed(operation(bits(value), bits(by) & 31)))
        })?;
        out.raw_set(name, function)
    };
    shift("lshift", |bits, by| bits << by)?;
    shift("rshift", |bits, by| bits >> by)?;
    shift("arshift", |bits, by| (bits.cast_signed() >> by).cast_unsigned())?;
    shift("rol", u32::rotate_left)?;
    shift("ror", u32::rotate_right)?;
    let tohex = lua.create_function(|_, (value, digits): (f64, Option<f64>)| {
        let digits = digits.unwrap_or(8.0);
        let upper = digits < 0.0;
        let count = if digits.abs() >= 8.0 { 8 } else { bits(digits.abs()) as usize };
        let text = format!("{:08x}", bits(value));
        let text = &text[8 - count..];
        Ok(if upper { text.to_ascii_uppercase() } else { text.to_owned() })
    })?;
    out.raw_set("tohex", tohex)?;
    Ok(out)
}
