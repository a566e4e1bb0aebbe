//! Requests: arrays of bulk strings (RESP2) and inline commands, cut out of a buffer that fills bit by bit.
//!
//! Promises: arguments are found where they lie; work already done is not repeated when more bytes come; memory
//! grows only with bytes that were received, never with a length that was merely announced. The texts of
//! errors are Redis' own. Does not read sockets.

use std::ops::Range;

use smallvec::SmallVec;

/// The longest line (inline command or length) that is looked for, in bytes.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// How many arguments a client may send before it has authenticated.
const UNAUTHENTICATED_ARGS_MAX: i64 = 10;
/// How long its arguments may be, in bytes.
const UNAUTHENTICATED_BULK_BYTES_MAX: i64 = 16 * 1024;

/// What a request may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The longest argument, in bytes.
    pub bulk_bytes_max: u64,
    /// The most arguments, with the command's name.
    pub args_max: i64,
    /// The most bytes of one request.
    pub request_bytes_max: usize,
    /// Whether the client has authenticated or need not: else much smaller limits hold.
    pub authenticated: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            bulk_bytes_max: 512 << 20,
            args_max: 1024 * 1024,
            request_bytes_max: 1 << 30,
            authenticated: true,
        }
    }
}

/// The client does not speak the protocol, or wants too much: tell it and close.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("Protocol error: {0}")]
pub struct ProtocolError(pub String);

impl ProtocolError {
    fn new(what: &str) -> ProtocolError {
        ProtocolError(what.to_owned())
    }
}

/// A request's arguments; the first is the command's name.
pub type Args<'a> = SmallVec<[&'a [u8]; 6]>;

/// What stands at the front of a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// A request of so many bytes: see [`Parser::args`].
    Request(usize),
    /// So many bytes that ask for nothing.
    Nothing(usize),
    /// Not all of a request.
    Incomplete,
}

/// Where in a request the bytes ended.
///
/// Invariant: positions are relative to the start of the request, which is the start of the buffer.
#[derive(Debug, Default)]
pub struct Parser {
    /// Bytes of the request already looked at.
    position: usize,
    /// Arguments that are still to come; 0 between requests.
    missing: i64,
    /// The announced length of the argument being read.
    bulk: Option<usize>,
    /// Arguments found so far: in the buffer, or in `words`.
    found: Vec<Range<usize>>,
    /// An inline command's words without their quotes, back to back.
    words: Option<Vec<u8>>,
}

impl Parser {
    /// Looks for a request at the front of `buffer`. Once it is found or passed over, the next call's buffer begins after it;
    /// until then, with the same bytes and more.
    ///
    /// # Errors
    /// See [`ProtocolError`]; the connection can't be used further.
    pub fn next(&mut self, buffer: &[u8], limits: &Limits) -> Result<Parsed, ProtocolError> {
        let Some(&first) = buffer.first() else { return Ok(Parsed::Incomplete) };
        if self.missing == 0 {
            self.found.clear();
            self.words = None;
            if first != b'*' {
                return self.inline(buffer);
            }
        }
        if !self.multibulk(buffer, limits)? {
            return if buffer.len() > limits.request_bytes_max {
                Err(ProtocolError::new("too big request"))
            } else {
                Ok(Parsed::Incomplete)
            };
        }
        let bytes = std::mem::take(&mut self.position);
        Ok(if self.found.is_empty() { Parsed::Nothing(bytes) } else { Parsed::Request(bytes) })
    }

    fn inline(&mut self, buffer: &[u8]) -> Result<Parsed, ProtocolError> {
        let window = &buffer[..buffer.len().min(LINE_BYTES_MAX + 1)];
        let Some(end) = window.iter().position(|&byte| byte == b'\n') else {
            return if buffer.len() > LINE_BYTES_MAX {
                Err(ProtocolError::new("too big inline request"))
            } else {
                Ok(Parsed::Incomplete)
            };
        };
        let text = &buffer[..end];
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let words = split_words(text).ok_or_else(|| ProtocolError::new("unbalanced quotes in request"))?;
        if words.is_empty() {
            return Ok(Parsed::Nothing(end + 1));
        }
        let mut text = Vec::new();
        for word in words {
            self.found.push(text.len()..text.len() + word.len());
            text.extend_from_slice(&word);
        }
        self.words = Some(text);
        Ok(Parsed::Request(end + 1))
    }

    /// The arguments of the request that was found in `buffer`.
    #[must_use]
    pub fn args<'a>(&'a self, buffer: &'a [u8]) -> Args<'a> {
        let text = self.words.as_deref().unwrap_or(buffer);
        self.found.iter().map(|range| &text[range.clone()]).collect()
    }

    /// Where these arguments lie, counted from where the request begins; unless it is an inline one.
    #[must_use]
    pub fn places(&self) -> &[Range<usize>] {
        &self.found
    }

    /// Whether the request is an inline one, whose arguments lie nowhere but here.
    #[must_use]
    pub fn is_inline(&self) -> bool {
        self.words.is_some()
    }

    /// How many more bytes the argument being read needs at least: a hint for the buffer's next growth.
    #[must_use]
    pub fn wanted(&self, buffer: &[u8]) -> usize {
        self.bulk.map_or(0, |len| (self.position + len + 2).saturating_sub(buffer.len()))
    }

    /// Goes on with an array of bulk strings; true once it is whole.
    fn multibulk(&mut self, buffer: &[u8], limits: &Limits) -> Result<bool, ProtocolError> {
        if self.missing == 0 {
            let Some(line) = line(buffer, 0, "too big mbulk count string")? else { return Ok(false) };
            let count = integer(&buffer[1..line.end])
                .filter(|&count| count <= limits.args_max)
                .ok_or_else(|| ProtocolError::new("invalid multibulk length"))?;
            if count > UNAUTHENTICATED_ARGS_MAX && !limits.authenticated {
                return Err(ProtocolError::new("unauthenticated multibulk length"));
            }
            self.position = line.next;
            if count <= 0 {
                return Ok(true);
            }
            self.missing = count;
        }
        while self.missing > 0 {
            let len = match self.bulk {
                Some(len) => len,
                None => match self.short_header(buffer, limits) {
                    Some(len) => len,
                    None => match self.bulk_header(buffer, limits)? {
                        Some(len) => len,
                        None => return Ok(false),
                    },
                },
            };
            self.bulk = Some(len);
            if buffer.len() - self.position < len + 2 {
                return Ok(false);
            }
            self.found.push(self.position..self.position + len);
            self.position += len + 2;
            self.bulk = None;
            self.missing -= 1;
        }
        Ok(true)
    }

    /// As [`Parser::bulk_header`] of an argument of 1 to 99 bytes, as nearly all are; `None` says nothing.
    fn short_header(&mut self, buffer: &[u8], limits: &Limits) -> Option<usize> {
        let digit = |digit: u8| usize::from(digit - b'0');
        let (len, bytes) = match buffer.get(self.position..)? {
            [b'$', ones @ b'1'..=b'9', b'\r', _, ..] => (digit(*ones), 4),
            [b'$', tens @ b'1'..=b'9', ones @ b'0'..=b'9', b'\r', _, ..] => {
                (digit(*tens) * 10 + digit(*ones), 5)
            }
            _ => return None,
        };
        if len as u64 > limits.bulk_bytes_max {
            return None;
        }
        self.position += bytes;
        Some(len)
    }

    fn bulk_header(&mut self, buffer: &[u8], limits: &Limits) -> Result<Option<usize>, ProtocolError> {
        let Some(line) = line(buffer, self.position, "too big bulk count string")? else { return Ok(None) };
        let first = buffer[self.position];
        if first != b'$' {
            return Err(ProtocolError(format!("expected '$', got '{}'", printable(first))));
        }
        let len = integer(&buffer[self.position + 1..line.end])
            .ok_or_else(|| ProtocolError::new("invalid bulk length"))?;
        if u64::try_from(len).ok().is_none_or(|len| len > limits.bulk_bytes_max) {
            return Err(ProtocolError::new("invalid bulk length"));
        }
        if len > UNAUTHENTICATED_BULK_BYTES_MAX && !limits.authenticated {
            return Err(ProtocolError::new("unauthenticated bulk length"));
        }
        self.position = line.next;
        Ok(Some(usize::try_from(len).map_err(|_| ProtocolError::new("invalid bulk length"))?))
    }
}

/// A line in a buffer: where its text ends and where the next begins.
struct Span {
    end: usize,
    next: usize,
}

/// The line that begins at `start`; `None` if its end is not there yet.
fn line(buffer: &[u8], start: usize, too_long: &str) -> Result<Option<Span>, ProtocolError> {
    let rest = &buffer[start..];
    let window = &rest[..rest.len().min(LINE_BYTES_MAX + 1)];
    match window.iter().position(|&byte| byte == b'\r') {
        // The byte after the carriage return is not looked at, as in Redis, but must be there.
        Some(at) if at + 1 < rest.len() => Ok(Some(Span { end: start + at, next: start + at + 2 })),
        Some(_) => Ok(None),
        None if rest.len() > LINE_BYTES_MAX => Err(ProtocolError::new(too_long)),
        None => Ok(None),
    }
}

/// A length as the protocol writes it: an optional minus and digits, no leading zero, nothing else.
fn integer(text: &[u8]) -> Option<i64> {
    crate::number::integer(text)
}

fn printable(byte: u8) -> char {
    if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '?' }
}

/// Cuts a line into words with Redis' quoting: `"…"` with escapes (`\n \r \t \b \a \xHH`), `'…'` with `\'` only.
/// `None` if a quote is not closed or is followed by something else than a blank.
#[must_use]
pub fn split_words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        let blank = rest.iter().take_while(|byte| is_blank(**byte)).count();
        rest = &rest[blank..];
        if rest.is_empty() {
            return Some(words);
        }
        let (word, after) = take_word(rest)?;
        words.push(word);
        rest = after;
    }
}

fn is_blank(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b || byte == 0
}

/// One word off the front of `rest`, which does not begin with a blank.
fn take_word(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut word = Vec::new();
    loop {
        match rest {
            [] => return Some((word, rest)),
            [b'"', after @ ..] => {
                rest = double_quoted(after, &mut word)?;
                return at_word_end(rest).then_some((word, rest));
            }
            [b'\'', after @ ..] => {
                rest = single_quoted(after, &mut word)?;
                return at_word_end(rest).then_some((word, rest));
            }
            [byte, after @ ..] => {
                if is_blank(*byte) {
                    return Some((word, rest));
                }
                word.push(*byte);
                rest = after;
            }
        }
    }
}

fn at_word_end(rest: &[u8]) -> bool {
    rest.first().is_none_or(|&byte| is_blank(byte))
}

fn double_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [] => return None,
            [b'"', after @ ..] => return Some(after),
            [b'\\', b'x', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                word.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            [b'\\', escaped, after @ ..] => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                rest = after;
            }
            [byte, after @ ..] => {
                word.push(*byte);
                rest = after;
            }
        }
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [] => return None,
            [b'\\', b'\'', after @ ..] => {
                word.push(b'\'');
                rest = after;
            }
            [b'\'', after @ ..] => return Some(after),
            [byte, after @ ..] => {
                word.push(*byte);
                rest = after;
            }
        }
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.to_ascii_uppercase().wrapping_sub(b'A').wrapping_add(10),
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
