//! The `struct` table: bytes by a format, as Roberto Ierusalimschy's library that Redis has.
//!
//! | in a format | means |
//! |---|---|
//! | `>` `<` `=` | the highest byte first; the lowest; as here: the lowest |
//! | `!n` | numbers begin at multiples of their size, of n at most |
//! | `b` `h` `i` `l` `T` | a number of 1, 2, 4, 8, 8 bytes, `in` of n; in capitals (but `T`) without a sign |
//! | `f` `d` | a fraction of 4 or 8 bytes |
//! | `x` | a byte of nothing |
//! | `s` | a string and a zero |
//! | `cn` | n bytes of a string; `c0` all of it, or so many as the number before it says |

use mlua::{Lua, MultiValue, Table, Value};

/// The most bytes that a number has.
const NUMBER_BYTES_MAX: usize = 8;
/// The most bytes that something is aligned to.
const ALIGNMENT_MAX: usize = 16;

pub(super) fn table(lua: &Lua) -> mlua::Result<Table> {
    let out = lua.create_table()?;
    out.raw_set("pack", lua.create_function(|lua, values: MultiValue| pack(lua, values))?)?;
    let unpack = |lua: &Lua, (format, text, from): (mlua::LuaString, mlua::LuaString, Option<usize>)| {
        unpack(lua, &format.as_bytes(), &text.as_bytes(), from.unwrap_or(1))
    };
    out.raw_set("unpack", lua.create_function(unpack)?)?;
    out.raw_set("size", lua.create_function(|_, format: mlua::LuaString| size(&format.as_bytes()))?)?;
    Ok(out)
}

fn wrong(text: impl std::fmt::Display) -> mlua::Error {
    mlua::Error::runtime(text)
}

/// A part of a format.
#[derive(Clone, Copy)]
enum Part {
    Number { bytes: usize, signed: bool },
    Single,
    Double,
    Nothing,
    Terminated,
    Bytes(usize),
}

impl Part {
    fn bytes(self) -> usize {
        match self {
            Part::Number { bytes, .. } => bytes,
            Part::Single => 4,
            Part::Double => 8,
            Part::Nothing => 1,
            Part::Terminated => 0,
            Part::Bytes(count) => count,
        }
    }
}

/// Reads a format part by part.
struct Format<'a> {
    rest: &'a [u8],
    high_first: bool,
    alignment: usize,
}

impl Format<'_> {
    fn number(&mut self) -> Option<usize> {
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, rest) = self.rest.split_at(digits);
        self.rest = rest;
        std::str::from_utf8(number).ok()?.parse().ok()
    }

    fn next(&mut self) -> mlua::Result<Option<Part>> {
        while let [letter, rest @ ..] = self.rest {
            self.rest = rest;
            let number = |bytes: usize| Part::Number { bytes, signed: letter.is_ascii_lowercase() };
            return Ok(Some(match letter {
                b'>' => {
                    self.high_first = true;
                    continue;
                }
                b'<' | b'=' => {
                    self.high_first = false;
                    continue;
                }
                b'!' => {
                    let alignment = self.number().unwrap_or(8);
                    if !alignment.is_power_of_two() || alignment > ALIGNMENT_MAX {
                        return Err(wrong("alignment is not a power of 2"));
                    }
                    self.alignment = alignment;
                    continue;
                }
                b' ' => continue,
                b'b' | b'B' => number(1),
                b'h' | b'H' => number(2),
                b'l' | b'L' => number(8),
                b'T' => Part::Number { bytes: 8, signed: false },
                b'i' | b'I' => {
                    let bytes = self.number().unwrap_or(4);
                    if bytes == 0 || bytes > NUMBER_BYTES_MAX {
                        return Err(wrong(format!(
                            "integral size {bytes} is larger than limit of {NUMBER_BYTES_MAX}"
                        )));
                    }
                    number(bytes)
                }
                b'f' => Part::Single,
                b'd' => Part::Double,
                b'x' => Part::Nothing,
                b's' => Part::Terminated,
                b'c' => Part::Bytes(self.number().unwrap_or(1)),
                other => return Err(wrong(format!("invalid format option '{}'", char::from(*other)))),
            }));
        }
        Ok(None)
    }

    /// How many bytes of nothing come before a part that begins at `at`.
    fn padding(&self, part: Part, at: usize) -> usize {
        let alignment = match part {
            Part::Bytes(_) | Part::Terminated => 1,
            part => part.bytes().min(self.alignment),
        };
        if alignment > 1 && alignment.is_power_of_two() { at.wrapping_neg() & (alignment - 1) } else { 0 }
    }
}

fn begin(format: &[u8]) -> Format<'_> {
    Format { rest: format, high_first: false, alignment: 1 }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // the low bytes are what is asked for
fn low_bits(value: f64) -> u64 {
    if value < 0.0 { (value as i64).cast_unsigned() } else { value as u64 }
}

fn put(out: &mut Vec<u8>, value: u64, bytes: usize, high_first: bool) {
    let low = &value.to_le_bytes()[..bytes];
    if high_first { out.extend(low.iter().rev()) } else { out.extend(low) }
}

#[allow(clippy::cast_precision_loss)] // Lua has no other numbers
fn double(value: &Value) -> mlua::Result<f64> {
    match value {
        Value::Integer(value) => Ok(*value as f64),
        Value::Number(value) => Ok(*value),
        Value::String(text) => {
            text.to_string_lossy().trim().parse().map_err(|_| wrong("number expected, got string"))
        }
        other => Err(wrong(format!("number expected, got {}", other.type_name()))),
    }
}

fn pack(lua: &Lua, values: MultiValue) -> mlua::Result<mlua::LuaString> {
    let mut values = values.into_iter();
    let Some(Value::String(text)) = values.next() else { return Err(wrong("a format is expected")) };
    let text = text.as_bytes();
    let mut format = begin(&text);
    let mut out = Vec::new();
    while let Some(part) = format.next()? {
        out.resize(out.len() + format.padding(part, out.len()), 0);
        let mut value = || values.next().ok_or_else(|| wrong("data string expected, got no value"));
        match part {
            Part::Nothing => out.push(0),
            Part::Number { bytes, .. } => {
                put(&mut out, low_bits(double(&value()?)?), bytes, format.high_first)
            }
            #[allow(clippy::cast_possible_truncation)] // that is what is asked for
            Part::Single => {
                put(&mut out, u64::from((double(&value()?)? as f32).to_bits()), 4, format.high_first)
            }
            Part::Double => put(&mut out, double(&value()?)?.to_bits(), 8, format.high_first),
            Part::Terminated | Part::Bytes(_) => {
                let Value::String(text) = value()? else { return Err(wrong("string expected")) };
                let text = text.as_bytes();
                let count = if let Part::Bytes(count @ 1..) = part { count } else { text.len() };
                let bytes = text.get(..count).ok_or_else(|| wrong("string too short"))?;
                out.extend_from_slice(bytes);
                if matches!(part, Part::Terminated) {
                    out.push(0);
                }
            }
        }
    }
    lua.create_string(&out)
}

#[allow(clippy::cast_precision_loss)] // Lua has no other numbers
fn unpack(lua: &Lua, text: &[u8], bytes: &[u8], from: usize) -> mlua::Result<MultiValue> {
    let short = || wrong("data string too short");
    let mut at = from.checked_sub(1).ok_or_else(|| wrong("offset must be 1 or greater"))?;
    let mut format = begin(text);
    let mut values: Vec<Value> = Vec::new();
    while let Some(part) = format.next()? {
        at = at.checked_add(format.padding(part, at)).ok_or_else(short)?;
        let mut count = part.bytes();
        let rest = bytes.get(at..).ok_or_else(short)?;
        if let Part::Bytes(0) = part {
            // The number before says how many.
            let told = values.pop().ok_or_else(|| wrong("format 'c0' needs a previous size"))?;
            count = usize::try_from(low_bits(double(&told)?)).map_err(|_| short())?;
        } else if let Part::Terminated = part {
            count =
                rest.iter().position(|byte| *byte == 0).ok_or_else(|| wrong("unfinished string in data"))?;
        }
        let taken = rest.get(..count).ok_or_else(short)?;
        at += count;
        let number = || {
            let join = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
            if format.high_first { taken.iter().fold(0, join) } else { taken.iter().rev().fold(0, join) }
        };
        values.push(match part {
            Part::Nothing => continue,
            Part::Number { bytes, signed: true } => {
                let shift = 64 - 8 * u32::try_from(bytes).unwrap_or(8);
                Value::Number(((number() << shift).cast_signed() >> shift) as f64)
            }
            Part::Number { .. } => Value::Number(number() as f64),
            Part::Single => Value::Number(f64::from(f32::from_bits(u32::try_from(number()).unwrap_or(0)))),
            Part::Double => Value::Number(f64::from_bits(number())),
            Part::Terminated => {
                at += 1;
                Value::String(lua.create_string(taken)?)
            }
            Part::Bytes(_) => Value::String(lua.create_string(taken)?),
        });
    }
    values.push(Value::Integer(i64::try_from(at + 1).unwrap_or(i64::MAX)));
    Ok(values.into_iter().collect())
}

fn size(text: &[u8]) -> mlua::Result<i64> {
    let mut format = begin(text);
    let mut total = 0usize;
    while let Some(part) = format.next()? {
        if matches!(part, Part::Terminated | Part::Bytes(0)) {
            return Err(wrong("variable-size format for 'size'"));
        }
        total = total.saturating_add(format.padding(part, total)).saturating_add(part.bytes());
    }
    i64::try_from(total).map_err(|_| wrong("format result too large"))
}
