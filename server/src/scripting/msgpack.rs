//! The `cmsgpack` table: MessagePack as the library that Redis has reads and writes it.

use mlua::{Lua, MultiValue, Table, Value, Variadic};

/// Tables nested deeper are written as nil, as there.
const DEPTH_MAX: usize = 16;
/// Tables nested deeper are refused.
const READ_DEPTH_MAX: usize = 200;

pub(super) fn table(lua: &Lua) -> mlua::Result<Table> {
    let out = lua.create_table()?;
    out.raw_set("_NAME", "cmsgpack")?;
    out.raw_set("_VERSION", "lua-cmsgpack 0.4.0")?;
    let pack = lua.create_function(|lua, values: Variadic<Value>| {
        if values.is_empty() {
            return Err(mlua::Error::runtime("bad argument #0 to 'pack' (MessagePack pack needs input.)"));
        }
        let mut bytes = Vec::new();
        values.iter().try_for_each(|value| write(&mut bytes, value, 0))?;
        lua.create_string(&bytes)
    })?;
    out.raw_set("pack", pack)?;
    let unpack = lua.create_function(|lua, text: mlua::LuaString| {
        let bytes = text.as_bytes();
        let mut reader = Reader { bytes: &bytes, at: 0 };
        let mut values = MultiValue::new();
        while reader.at < bytes.len() {
            values.push_back(reader.value(lua, 0)?);
        }
        Ok(values)
    })?;
    out.raw_set("unpack", unpack)?;
    let one =
        lua.create_function(|lua, (text, from): (mlua::LuaString, Option<usize>)| some(lua, &text, 1, from))?;
    out.raw_set("unpack_one", one)?;
    let limit =
        lua.create_function(|lua, (text, limit, from): (mlua::LuaString, usize, Option<usize>)| {
            some(lua, &text, limit, from)
        })?;
    out.raw_set("unpack_limit", limit)?;
    Ok(out)
}

/// So many values from a place on, behind the place to go on at: -1 at the end.
fn some(lua: &Lua, text: &mlua::LuaString, limit: usize, from: Option<usize>) -> mlua::Result<MultiValue> {
    let bytes = text.as_bytes();
    let from = from.unwrap_or(0);
    if from > bytes.len() {
        let (from, len) = (from, bytes.len());
        return Err(mlua::Error::runtime(format!("Start offset {from} greater than input length {len}.")));
    }
    let mut reader = Reader { bytes: &bytes, at: from };
    let mut values = MultiValue::new();
    while reader.at < bytes.len() && values.len() < limit {
        values.push_back(reader.value(lua, 0)?);
    }
    let next = if reader.at < bytes.len() { i64::try_from(reader.at).unwrap_or(i64::MAX) } else { -1 };
    values.push_front(Value::Integer(next));
    Ok(values)
}

/// Writes a length behind the first of these marks that has room for it: none, one, two or four bytes.
fn length(
    out: &mut Vec<u8>,
    len: usize,
    short: Option<(u8, usize)>,
    marks: [Option<u8>; 3],
) -> mlua::Result<()> {
    match (short, marks, len) {
        (Some((mark, most)), _, _) if len < most => out.push(mark | u8::try_from(len).unwrap_or(0)),
        (_, [Some(mark), ..], 0..=0xff) => out.extend([mark, u8::try_from(len).unwrap_or(0)]),
        (_, [_, Some(mark), _], 0..=0xffff) => {
            out.push(mark);
            out.extend(u16::try_from(len).unwrap_or(0).to_be_bytes());
        }
        (_, [_, _, Some(mark)], _) => {
            let len = u32::try_from(len)
                .map_err(|_| mlua::Error::runtime("the value is too long for MessagePack"))?;
            out.push(mark);
            out.extend(len.to_be_bytes());
        }
        _ => return Err(mlua::Error::runtime("the value is too long for MessagePack")),
    }
    Ok(())
}

#[allow(clippy::cast_possible_truncation)] // each is looked at before
fn integer(out: &mut Vec<u8>, value: i64) {
    match value {
        0..=127 => out.push(value as u8),
        128..=0xff => out.extend([0xcc, value as u8]),
        0x100..=0xffff => {
            out.push(0xcd);
            out.extend((value as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(0xce);
            out.extend((value as u32).to_be_bytes());
        }
        0x1_0000_0000.. => {
            out.push(0xcf);
            out.extend(value.to_be_bytes());
        }
        -32..=-1 => out.push(value as u8),
        -128..=-33 => out.extend([0xd0, value as u8]),
        -0x8000..=-129 => {
            out.push(0xd1);
            out.extend((value as i16).to_be_bytes());
        }
        -0x8000_0000..=-0x8001 => {
            out.push(0xd2);
            out.extend((value as i32).to_be_bytes());
        }
        _ => {
            out.push(0xd3);
            out.extend(value.to_be_bytes());
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::float_cmp)] // whether anything is lost is what is asked
fn number(out: &mut Vec<u8>, value: f64) {
    const WHOLE_MAX: f64 = 9_223_372_036_854_774_784.0;
    if value.fract() == 0.0 && value.abs() <= WHOLE_MAX {
        return integer(out, value as i64);
    }
    let single = value as f32;
    if f64::from(single) == value {
        out.push(0xca);
        out.extend(single.to_be_bytes());
    } else {
        out.push(0xcb);
        out.extend(value.to_be_bytes());
    }
}

fn write(out: &mut Vec<u8>, value: &Value, depth: usize) -> mlua::Result<()> {
    match value {
        Value::Boolean(value) => out.push(if *value { 0xc3 } else { 0xc2 }),
        Value::Integer(value) => integer(out, *value),
        Value::Number(value) => number(out, *value),
        Value::String(text) => {
            let bytes = text.as_bytes();
            length(out, bytes.len(), Some((0xa0, 32)), [Some(0xd9), Some(0xda), Some(0xdb)])?;
            out.extend_from_slice(&bytes);
        }
        Value::Table(table) if depth < DEPTH_MAX => {
            let pairs = table.pairs::<Value, Value>().collect::<mlua::Result<Vec<_>>>()?;
            let len = table.raw_len();
            let is_list = len == pairs.len();
            if is_list {
                length(out, len, Some((0x90, 16)), [None, Some(0xdc), Some(0xdd)])?;
                for at in 1..=len {
                    write(out, &table.raw_get(at)?, depth + 1)?;
                }
            } else {
                length(out, pairs.len(), Some((0x80, 16)), [None, Some(0xde), Some(0xdf)])?;
                for (key, value) in &pairs {
                    write(out, key, depth + 1)?;
                    write(out, value, depth + 1)?;
                }
            }
        }
        // What has no form, and what is too deep.
        _ => out.push(0xc0),
    }
    Ok(())
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self, count: usize) -> mlua::Result<&[u8]> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| mlua::Error::runtime("Missing bytes in input."))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// A number of so many bytes, the highest first.
    fn unsigned(&mut self, count: usize) -> mlua::Result<u64> {
        Ok(self.take(count)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn len(&mut self, count: usize) -> mlua::Result<usize> {
        usize::try_from(self.unsigned(count)?).map_err(|_| mlua::Error::runtime("Bad data format in input."))
    }

    #[allow(clippy::cast_precision_loss)] // Lua has no other numbers
    fn value(&mut self, lua: &Lua, depth: usize) -> mlua::Result<Value> {
        if depth > READ_DEPTH_MAX {
            return Err(mlua::Error::runtime("Bad data format in input."));
        }
        let number = |value: f64| Ok(Value::Number(value));
        let signed = |value: u64, bytes: u32| {
            let shift = 64 - 8 * bytes;
            ((value << shift).cast_signed() >> shift) as f64
        };
        let mark = self.take(1)?[0];
        match mark {
            0..=0x7f => number(f64::from(mark)),
            0xe0..=0xff => number(f64::from(mark.cast_signed())),
            0x80..=0x8f => self.map(lua, usize::from(mark & 15), depth),
            0x90..=0x9f => self.list(lua, usize::from(mark & 15), depth),
            0xa0..=0xbf => self.string(lua, usize::from(mark & 31)),
            0xc0 => Ok(Value::Nil),
            0xc2 => Ok(Value::Boolean(false)),
            0xc3 => Ok(Value::Boolean(true)),
            0xca => number(f64::from(f32::from_bits(u32::try_from(self.unsigned(4)?).unwrap_or(0)))),
            0xcb => number(f64::from_bits(self.unsigned(8)?)),
            0xcc => number(self.unsigned(1)? as f64),
            0xcd => number(self.unsigned(2)? as f64),
            0xce => number(self.unsigned(4)? as f64),
            0xcf => number(self.unsigned(8)? as f64),
            0xd0 => number(signed(self.unsigned(1)?, 1)),
            0xd1 => number(signed(self.unsigned(2)?, 2)),
            0xd2 => number(signed(self.unsigned(4)?, 4)),
            0xd3 => number(signed(self.unsigned(8)?, 8)),
            0xd9 | 0xc4 => self.len(1).and_then(|len| self.string(lua, len)),
            0xda | 0xc5 => self.len(2).and_then(|len| self.string(lua, len)),
            0xdb | 0xc6 => self.len(4).and_then(|len| self.string(lua, len)),
            0xdc => self.len(2).and_then(|len| self.list(lua, len, depth)),
            0xdd => self.len(4).and_then(|len| self.list(lua, len, depth)),
            0xde => self.len(2).and_then(|len| self.map(lua, len, depth)),
            0xdf => self.len(4).and_then(|len| self.map(lua, len, depth)),
            _ => Err(mlua::Error::runtime("Bad data format in input.")),
        }
    }

    fn string(&mut self, lua: &Lua, len: usize) -> mlua::Result<Value> {
        Ok(Value::String(lua.create_string(self.take(len)?)?))
    }

    fn list(&mut self, lua: &Lua, len: usize, depth: usize) -> mlua::Result<Value> {
        let out = lua.create_table()?;
        for at in 1..=len {
            let value = self.value(lua, depth + 1)?;
            out.raw_set(at, value)?;
        }
        Ok(Value::Table(out))
    }

    fn map(&mut self, lua: &Lua, len: usize, depth: usize) -> mlua::Result<Value> {
        let out = lua.create_table()?;
        for _ in 0..len {
            let key = self.value(lua, depth + 1)?;
            let value = self.value(lua, depth + 1)?;
            out.raw_set(key, value)?;
        }
        Ok(Value::Table(out))
    }
}
