//! Values between the protocol and Lua, as Redis converts them.

use mlua::{Lua, Table, Value};

use crate::number;
use crate::resp::ReplyWriter;

/// How deep a reply may be nested.
const DEPTH_MAX: usize = 512;

/// A reply that was written here, as Lua sees it.
pub(super) fn to_lua(lua: &Lua, bytes: &mut &[u8]) -> mlua::Result<Value> {
    let line_end = bytes.windows(2).position(|two| two == b"\r\n").unwrap_or(bytes.len());
    let (head, rest) = bytes.split_at(line_end);
    *bytes = rest.get(2..).unwrap_or_default();
    let (&kind, text) = head.split_first().unwrap_or((&b'_', &[]));
    let count = || number::integer(text).unwrap_or(0);
    let len = |count: i64| usize::try_from(count).unwrap_or(0);
    match kind {
        b'+' => Ok(Value::Table(single(lua, "ok", lua.create_string(text)?)?)),
        b'-' => Ok(Value::Table(error_table(lua, text)?)),
        #[allow(clippy::cast_precision_loss)] // Lua 5.1 has no other numbers
        b':' => Ok(Value::Number(count() as f64)),
        b'$' if text == b"-1" => Ok(Value::Boolean(false)),
        b'$' => Ok(Value::String(lua.create_string(take(bytes, len(count())))?)),
        b'=' => {
            let text = take(bytes, len(count()));
            let inner = lua.create_table()?;
            inner.raw_set("string", lua.create_string(text.get(4..).unwrap_or_default())?)?;
            inner.raw_set("format", lua.create_string(text.get(..3).unwrap_or_default())?)?;
            Ok(Value::Table(single(lua, "verbatim_string", inner)?))
        }
        b'*' if text == b"-1" => Ok(Value::Boolean(false)),
        b'*' | b'>' => {
            let out = lua.create_table()?;
            for index in 1..=len(count()) {
                out.raw_set(index, to_lua(lua, bytes)?)?;
            }
            Ok(Value::Table(out))
        }
        b'%' | b'~' => {
            let inner = lua.create_table()?;
            for _ in 0..len(count()) {
                let key = to_lua(lua, bytes)?;
                let value = if kind == b'%' { to_lua(lua, bytes)? } else { Value::Boolean(true) };
                inner.raw_set(key, value)?;
            }
            Ok(Value::Table(single(lua, if kind == b'%' { "map" } else { "set" }, inner)?))
        }
        b'#' => Ok(Value::Boolean(text == b"t")),
        b',' => Ok(Value::Table(single(lua, "double", number::double(text).unwrap_or(f64::NAN))?)),
        b'(' => Ok(Value::Table(single(lua, "big_number", lua.create_string(text)?)?)),
        _ => Ok(Value::Nil),
    }
}

fn take<'b>(bytes: &mut &'b [u8], len: usize) -> &'b [u8] {
    let (text, rest) = bytes.split_at(len.min(bytes.len()));
    *bytes = rest.get(2..).unwrap_or_default();
    text
}

fn single(lua: &Lua, name: &str, value: impl mlua::IntoLua) -> mlua::Result<Table> {
    let out = lua.create_table()?;
    out.raw_set(name, value)?;
    Ok(out)
}

/// An error as Lua sees it.
pub(super) fn error_table(lua: &Lua, text: &[u8]) -> mlua::Result<Table> {
    single(lua, "err", lua.create_string(text)?)
}

/// What `redis.error_reply` makes of its argument: a code, and the rest.
pub(super) fn error_text(text: &[u8]) -> Vec<u8> {
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let (code, text) = match text.iter().position(|byte| *byte == b' ') {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (&b"ERR"[..], text),
    };
    let is_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let start = text.iter().position(|byte| !is_end(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !is_end(byte)).map_or(start, |end| end + 1);
    [code, b" ", &text[start..end]].concat()
}

/// Replies with what a script returned; `in_resp3` says which protocol it asked for.
pub(super) fn reply(reply: &mut ReplyWriter, value: &Value, in_resp3: bool) -> mlua::Result<()> {
    nested(reply, value, in_resp3, 0)
}

fn nested(reply: &mut ReplyWriter, value: &Value, in_resp3: bool, depth: usize) -> mlua::Result<()> {
    if depth > DEPTH_MAX {
        reply.error("ERR reached lua stack limit");
        return Ok(());
    }
    match value {
        Value::String(text) => reply.bulk(&text.as_bytes()),
        Value::Boolean(value) if in_resp3 => reply.boolean(*value),
        Value::Boolean(true) => reply.integer(1),
        Value::Integer(value) => reply.integer(*value),
        Value::Number(value) => reply.integer(whole(*value)),
        Value::Table(table) => return from_table(reply, table, in_resp3, depth),
        _ => reply.null(),
    }
    Ok(())
}

fn from_table(reply: &mut ReplyWriter, table: &Table, in_resp3: bool, depth: usize) -> mlua::Result<()> {
    if let Value::String(text) = table.raw_get::<Value>("err")? {
        reply.error(&String::from_utf8_lossy(&text.as_bytes()));
        return Ok(());
    }
    if let Value::String(text) = table.raw_get::<Value>("ok")? {
        reply.simple(&String::from_utf8_lossy(&text.as_bytes()).replace(['\r', '\n'], " "));
        return Ok(());
    }
    match table.raw_get::<Value>("double")? {
        Value::Number(value) => {
            reply.double(value);
            return Ok(());
        }
        #[allow(clippy::cast_precision_loss)] // it was a double
        Value::Integer(value) => {
            reply.double(value as f64);
            return Ok(());
        }
        _ => {}
    }
    if let Value::Table(text) = table.raw_get::<Value>("verbatim_string")?
        && let (Value::String(format), Value::String(text)) =
            (text.raw_get::<Value>("format")?, text.raw_get::<Value>("string")?)
        && format.as_bytes().len() == 3
    {
        let (format, text) = (format.to_string_lossy(), text.to_string_lossy());
        reply.verbatim(&format, &text);
        return Ok(());
    }
    if let Value::Table(map) = table.raw_get::<Value>("map")? {
        let pairs = map.pairs::<Value, Value>().collect::<mlua::Result<Vec<_>>>()?;
        reply.map(pairs.len());
        for (key, value) in pairs {
            nested(reply, &key, in_resp3, depth + 1)?;
            nested(reply, &value, in_resp3, depth + 1)?;
        }
        return Ok(());
    }
    if let Value::Table(set) = table.raw_get::<Value>("set")? {
        let pairs = set.pairs::<Value, Value>().collect::<mlua::Result<Vec<_>>>()?;
        reply.set(pairs.len());
        return pairs.iter().try_for_each(|(key, _)| nested(reply, key, in_resp3, depth + 1));
    }
    reply.array_of(|reply| {
        for index in 1.. {
            match table.raw_get::<Value>(index)? {
                Value::Nil => return Ok(index - 1),
                value => nested(reply, &value, in_resp3, depth + 1)?,
            }
        }
        unreachable!("a table ends")
    })
}

/// A number without its fraction, as Redis' processors make it: what is no such number becomes the least one.
fn whole(value: f64) -> i64 {
    // 2^63, the first that is too large.
    const END: f64 = 9_223_372_036_854_775_808.0;
    #[allow(clippy::cast_possible_truncation)] // it was looked at
    if (-END..END).contains(&value) { value as i64 } else { i64::MIN }
}
