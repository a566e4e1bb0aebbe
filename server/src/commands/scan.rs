//! What SCAN, HSCAN, SSCAN and ZSCAN have in common: cursor, MATCH, COUNT.

use bytes::Bytes;

use crate::cx::{self, Fail};
use crate::glob;

/// Elements looked at in one answer, unless COUNT says otherwise.
const COUNT: usize = 10;

/// What a scan is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Elements to look at, about.
    pub count: usize,
    pattern: Option<Bytes>,
}

impl Options {
    /// Reads the options that stand after the cursor.
    ///
    /// # Errors
    /// In Redis' words.
    pub fn parse(options: &[&[u8]]) -> Result<Options, Fail> {
        let mut parsed = Options { count: COUNT, pattern: None };
        for option in options.chunks(2) {
            let [name, value] = option else { return Err(Fail::syntax()) };
            if cx::is(name, "count") {
                let count = cx::integer(value)?;
                let count = usize::try_from(count).map_err(|_| Fail::syntax())?;
                parsed.count = if count == 0 { return Err(Fail::syntax()) } else { count };
            } else if cx::is(name, "match") {
                parsed.pattern = Some(*value).filter(|pattern| *pattern != b"*").map(Bytes::copy_from_slice);
            } else {
                return Err(Fail::syntax());
            }
        }
        Ok(parsed)
    }

    /// Whether a name is among those that are asked for.
    #[must_use]
    pub fn takes(&self, name: &[u8]) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| glob::matches(pattern, name))
    }
}

/// Reads a cursor, as C's `strtoul` does: nothing is zero, a minus counts down from the greatest.
///
/// # Errors
/// In Redis' words.
pub fn cursor(text: &[u8]) -> Result<u64, Fail> {
    let invalid = || Fail::error("ERR invalid cursor");
    let (negative, digits) = match text {
        [] => return Ok(0),
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(invalid());
    }
    let digits = std::str::from_utf8(digits).map_err(|_| invalid())?;
    let value: u64 = digits.parse().map_err(|_| invalid())?;
    Ok(if negative { value.wrapping_neg() } else { value })
}
