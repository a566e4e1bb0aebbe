//! How commands name positions and counts: arguments that lists and sorted sets read alike.

use std::ops::RangeInclusive;

use crate::cx::Fail;
use crate::number;

/// Where a range of positions lies in something of a length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The first position.
    pub from: usize,
    /// How many there are.
    pub count: usize,
}

impl Span {
    /// From `start` to `stop`, both in it; negative ones count from the end, -1 is the last.
    #[must_use]
    pub fn new(start: i64, stop: i64, len: usize) -> Span {
        let from = usize::try_from(from_end(start, len)).unwrap_or(0);
        let end = usize::try_from(from_end(stop, len)).map_or(0, |stop| stop.saturating_add(1).min(len));
        if from < end { Span { from, count: end - from } } else { Span { from: 0, count: 0 } }
    }
}

/// A position where negative ones count from the end; `None` if there is none.
#[must_use]
pub fn position(index: i64, len: usize) -> Option<usize> {
    usize::try_from(from_end(index, len)).ok().filter(|position| *position < len)
}

fn from_end(index: i64, len: usize) -> i64 {
    if index < 0 { index.saturating_add_unsigned(len as u64) } else { index }
}

/// Reads a number within limits; whatever else stands there has one error.
///
/// # Errors
/// `message`, with its code.
pub fn bounded(text: &[u8], limits: RangeInclusive<i64>, message: &'static str) -> Result<i64, Fail> {
    number::integer(text).filter(|value| limits.contains(value)).ok_or_else(|| Fail::error(message))
}

/// Reads how many are wanted, which may be more than there are.
///
/// # Errors
/// In Redis' words if it is negative or no number.
pub fn count(text: &[u8]) -> Result<usize, Fail> {
    let count = bounded(text, 0..=i64::MAX, "ERR value is out of range, must be positive")?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

/// Reads how many are wanted where none makes no sense; `message` is for what is no such number.
///
/// # Errors
/// `message`, with its code.
pub fn some(text: &[u8], message: &'static str) -> Result<usize, Fail> {
    Ok(usize::try_from(bounded(text, 1..=i64::MAX, message)?).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_cut_to_what_there_is() {
        let span = |start, stop, len| {
            let Span { from, count } = Span::new(start, stop, len);
            (from, count)
        };
        assert_eq!(span(0, -1, 5), (0, 5));
        assert_eq!(span(1, 3, 5), (1, 3));
        assert_eq!(span(-2, 99, 5), (3, 2));
        assert_eq!(span(-99, -4, 5), (0, 2));
        assert_eq!(span(i64::MIN, i64::MAX, 5), (0, 5));
        for (start, stop) in [(3, 2), (5, 9), (0, -6), (-1, -2), (i64::MAX, i64::MIN)] {
            assert_eq!(span(start, stop, 5), (0, 0), "{start} {stop}");
        }
        assert_eq!(span(0, -1, 0), (0, 0));
        assert_eq!((position(-1, 5), position(-6, 5), position(5, 5)), (Some(4), None, None));
    }
}
