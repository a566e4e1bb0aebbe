//! The `cjson` table: JSON as the cjson library that Redis has reads and writes it by its defaults.

use mlua::{Lua, Table, Value};

/// How deep values may be nested.
const DEPTH_MAX: usize = 1000;

/// An array with holes is refused beyond this length, if more than half of it is holes.
const SPARSE_SAFE: usize = 10;

pub(super) fn table(lua: &Lua) -> mlua::Result<Table> {
    let out = lua.create_table()?;
    out.raw_set("null", Value::NULL)?;
    out.raw_set("_NAME", "cjson")?;
    out.raw_set("_VERSION", "2.1.0")?;
    let encode = lua.create_function(|lua, value: Value| {
        let mut text = Vec::new();
        Ok(match encode(&mut text, &value, 0) {
            Ok(()) => (Value::String(lua.create_string(&text)?), Value::Nil),
            Err(why) => (Value::Nil, Value::String(lua.create_string(why)?)),
        })
    })?;
    let decode = lua.create_function(|lua, text: mlua::LuaString| {
        let text = text.as_bytes();
        let mut reader = Reader { text: &text, at: 0 };
        Ok(match reader.whole(lua) {
            Ok(value) => (Value::Boolean(true), value),
            Err(why) => (Value::Boolean(false), Value::String(lua.create_string(why)?)),
        })
    })?;
    // Errors are raised in Lua, so that they are plain strings there.
    let raising = "local encode, decode = ... \
        return function(...) \
            if select('#', ...) ~= 1 then error('bad argument #1 to \\'encode\\' (expected 1 argument)', 2) end \
            local text, why = encode((...)) \
            if not text then error(why, 2) end \
            return text \
        end, function(...) \
            local text = ... \
            if select('#', ...) ~= 1 then error('bad argument #1 to \\'decode\\' (expected 1 argument)', 2) end \
            if type(text) ~= 'string' and type(text) ~= 'number' then \
                error('bad argument #1 to \\'decode\\' (string expected, got ' .. type(text) .. ')', 2) \
            end \
            local good, value = decode(text) \
            if not good then error(value, 2) end \
            return value \
        end";
    let (encode, decode): (mlua::Function, mlua::Function) = lua.load(raising).call((encode, decode))?;
    out.raw_set("encode", encode)?;
    // A buffer is kept or not: nobody sees it.
    out.raw_set(
        "encode_keep_buffer",
        lua.create_function(|_, keep: Option<bool>| Ok(keep.unwrap_or(true)))?,
    )?;
    out.raw_set("decode", decode)?;
    Ok(out)
}

/// A number as C's `%.14g` writes it.
fn number(value: f64) -> String {
    const DIGITS: usize = 14;
    if value == 0.0 {
        return if value.is_sign_negative() { "-0" } else { "0" }.to_owned();
    }
    let scientific = format!("{value:.*e}", DIGITS - 1);
    let (mantissa, exponent) = scientific.split_once('e').expect("the format has an exponent");
    let exponent: i32 = exponent.parse().expect("the format writes a whole exponent");
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if !(-4..14).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trim(mantissa), exponent.abs());
    }
    let decimals = usize::try_from(13 - exponent).expect("an exponent below 14");
    trim(&format!("{value:.decimals$}"))
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    for &byte in text {
        match byte {
            b'"' | b'\\' | b'/' => out.extend([b'\\', byte]),
            8 => out.extend(b"\\b"),
            9 => out.extend(b"\\t"),
            10 => out.extend(b"\\n"),
            12 => out.extend(b"\\f"),
            13 => out.extend(b"\\r"),
            0..32 | 127 => out.extend(format!("\\u{byte:04x}").bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

fn encode(out: &mut Vec<u8>, value: &Value, depth: usize) -> Result<(), String> {
    match value {
        Value::Nil => out.extend(b"null"),
        Value::LightUserData(data) if data.0.is_null() => out.extend(b"null"),
        Value::Boolean(value) => out.extend(value.to_string().bytes()),
        #[allow(clippy::cast_precision_loss)] // it was a double
        Value::Integer(value) => out.extend(number(*value as f64).bytes()),
        Value::Number(value) if value.is_finite() => out.extend(number(*value).bytes()),
        Value::Number(_) => return Err("Cannot serialise number: must not be NaN or Inf".to_owned()),
        Value::String(text) => string(out, &text.as_bytes()),
        Value::Table(table) => return encode_table(out, table, depth + 1),
        other => return Err(format!("Cannot serialise {}: type not supported", other.type_name())),
    }
    Ok(())
}

/// A key as a position of an array.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // it is checked
fn position(key: &Value) -> Option<usize> {
    match key {
        Value::Integer(index) => usize::try_from(*index).ok().filter(|index| *index > 0),
        Value::Number(index) if index.fract() == 0.0 && *index >= 1.0 && *index < 9e15 => {
            Some(*index as usize)
        }
        _ => None,
    }
}

fn encode_table(out: &mut Vec<u8>, table: &Table, depth: usize) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("Cannot serialise, excessive depth: {depth}"));
    }
    let pairs =
        table.pairs::<Value, Value>().collect::<mlua::Result<Vec<_>>>().map_err(|error| error.to_string())?;
    let positions: Option<Vec<usize>> = pairs.iter().map(|(key, _)| position(key)).collect();
    if let Some(positions) = positions.filter(|positions| !positions.is_empty()) {
        let len = positions.iter().copied().max().unwrap_or(0);
        if len > SPARSE_SAFE && len > positions.len().saturating_mul(2) {
            return Err("Cannot serialise table: excessively sparse array".to_owned());
        }
        let mut items = vec![&Value::Nil; len];
        for (position, (_, value)) in positions.iter().zip(&pairs) {
            items[position - 1] = value;
        }
        out.push(b'[');
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            encode(out, item, depth)?;
        }
        out.push(b']');
        return Ok(());
    }
    out.push(b'{');
    for (index, (key, value)) in pairs.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        match key {
            Value::String(key) => string(out, &key.as_bytes()),
            #[allow(clippy::cast_precision_loss)] // it was a double
            Value::Integer(key) => string(out, number(*key as f64).as_bytes()),
            Value::Number(key) => string(out, number(*key).as_bytes()),
            _ => return Err("Cannot serialise table: table key must be a number or string".to_owned()),
        }
        out.push(b':');
        encode(out, value, depth)?;
    }
    out.push(b'}');
    Ok(())
}

struct Reader<'t> {
    text: &'t [u8],
    at: usize,
}

impl Reader<'_> {
    fn whole(&mut self, lua: &Lua) -> Result<Value, String> {
        let value = self.value(lua, 0)?;
        self.blanks();
        if self.at < self.text.len() { Err(self.expected("the end")) } else { Ok(value) }
    }

    fn blanks(&mut self) {
        while self.text.get(self.at).is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// What is said of something else than what was expected.
    fn expected(&self, what: &str) -> String {
        let found = match self.text.get(self.at) {
            None => "T_END",
            Some(b'{') => "T_OBJ_BEGIN",
            Some(b'}') => "T_OBJ_END",
            Some(b'[') => "T_ARR_BEGIN",
            Some(b']') => "T_ARR_END",
            Some(b'"') => "T_STRING",
            Some(b'0'..=b'9' | b'-') => "T_NUMBER",
            Some(b't' | b'f') => "T_BOOLEAN",
            Some(b'n') => "T_NULL",
            Some(b':') => "T_COLON",
            Some(b',') => "T_COMMA",
            Some(_) => "invalid token",
        };
        format!("Expected {what} but found {found} at character {}", self.at + 1)
    }

    fn eat(&mut self, word: &[u8]) -> bool {
        let found = self.text[self.at..].starts_with(word);
        self.at += if found { word.len() } else { 0 };
        found
    }

    fn value(&mut self, lua: &Lua, depth: usize) -> Result<Value, String> {
        self.blanks();
        let fail = |error: mlua::Error| error.to_string();
        match self.text.get(self.at) {
            Some(b'{' | b'[') if depth >= DEPTH_MAX => {
                Err(format!("Found too many nested data structures ({})", depth + 1))
            }
            Some(b'{') => self.object(lua, depth + 1),
            Some(b'[') => self.array(lua, depth + 1),
            Some(b'"') => Ok(Value::String(lua.create_string(self.string()?).map_err(fail)?)),
            Some(b'0'..=b'9' | b'-') => self.number(),
            _ if self.eat(b"true") => Ok(Value::Boolean(true)),
            _ if self.eat(b"false") => Ok(Value::Boolean(false)),
            _ if self.eat(b"null") => Ok(Value::NULL),
            None => Err(self.expected("value")),
            Some(b'}' | b']' | b':' | b',') => Err(self.expected("value")),
            Some(_) => Err(format!("Expected value but found invalid token at character {}", self.at + 1)),
        }
    }

    fn number(&mut self) -> Result<Value, String> {
        let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let len = self.text[self.at..].iter().take_while(|byte| is_part(byte)).count();
        let text = std::str::from_utf8(&self.text[self.at..self.at + len]).unwrap_or_default();
        let value = text
            .parse::<f64>()
            .map_err(|_| format!("Expected value but found invalid number at character {}", self.at + 1))?;
        self.at += len;
        Ok(Value::Number(value))
    }

    fn array(&mut self, lua: &Lua, depth: usize) -> Result<Value, String> {
        let fail = |error: mlua::Error| error.to_string();
        let out = lua.create_table().map_err(fail)?;
        self.at += 1;
        self.blanks();
        if self.eat(b"]") {
            return Ok(Value::Table(out));
        }
        for index in 1.. {
            out.raw_set(index, self.value(lua, depth)?).map_err(fail)?;
            self.blanks();
            if self.eat(b"]") {
                break;
            }
            if !self.eat(b",") {
                return Err(self.expected("comma or array end"));
            }
        }
        Ok(Value::Table(out))
    }

    fn object(&mut self, lua: &Lua, depth: usize) -> Result<Value, String> {
        let fail = |error: mlua::Error| error.to_string();
        let out = lua.create_table().map_err(fail)?;
        self.at += 1;
        self.blanks();
        if self.eat(b"}") {
            return Ok(Value::Table(out));
        }
        loop {
            self.blanks();
            if self.text.get(self.at) != Some(&b'"') {
                return Err(self.expected("object key string"));
            }
            let key = lua.create_string(self.string()?).map_err(fail)?;
            self.blanks();
            if !self.eat(b":") {
                return Err(self.expected("colon"));
            }
            let value = self.value(lua, depth)?;
            out.raw_set(key, value).map_err(fail)?;
            self.blanks();
            if self.eat(b"}") {
                return Ok(Value::Table(out));
            }
            if !self.eat(b",") {
                return Err(self.expected("comma or object end"));
            }
        }
    }

    fn string(&mut self) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        self.at += 1;
        loop {
            let byte = *self.text.get(self.at).ok_or_else(|| self.bad("unexpected end of string"))?;
            self.at += 1;
            match byte {
                b'"' => return Ok(out),
                b'\\' => {
                    let escaped =
                        *self.text.get(self.at).ok_or_else(|| self.bad("unexpected end of string"))?;
                    self.at += 1;
                    match escaped {
                        b'"' | b'\\' | b'/' => out.push(escaped),
                        b'b' => out.push(8),
                        b'f' => out.push(12),
                        b'n' => out.push(10),
                        b'r' => out.push(13),
                        b't' => out.push(9),
                        b'u' => {
                            let character = self.unicode()?;
                            out.extend(character.encode_utf8(&mut [0; 4]).bytes());
                        }
                        _ => return Err(self.bad("invalid escape code")),
                    }
                }
                0..32 => return Err(self.bad("invalid token")),
                _ => out.push(byte),
            }
        }
    }

    fn bad(&self, what: &str) -> String {
        format!("Expected value but found {what} at character {}", self.at)
    }

    fn unit(&mut self) -> Option<u32> {
        let digits =
            self.text.get(self.at..self.at + 4).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        self.at += 4;
        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    }

    /// The character of `\u....`, of which two may make one.
    fn unicode(&mut self) -> Result<char, String> {
        let first = self.unit();
        let code = match first {
            Some(high @ 0xd800..0xdc00) if self.eat(b"\\u") => match self.unit() {
                Some(low @ 0xdc00..0xe000) => Some(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00)),
                _ => None,
            },
            code => code,
        };
        code.and_then(char::from_u32).ok_or_else(|| self.bad("invalid unicode escape code"))
    }
}
