//! The count that SRANDMEMBER, HRANDFIELD and ZRANDMEMBER take.

use crate::cx::{self, Fail};

/// The most elements that are chosen with repeats for one command: beyond it, one short request would ask for a reply
/// that no memory holds.
pub const REPEATS_MAX: usize = 1 << 20;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// Different elements, as many as there are at most.
    Distinct(usize),
    /// Each chosen among all.
    Repeated(usize),
}

/// Reads a count: negative if elements may repeat.
///
/// # Errors
/// In Redis' words.
pub fn choice(text: &[u8]) -> Result<Choice, Fail> {
    let message =
        "ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807";
    let count = cx::integer_in(text, -i64::MAX, i64::MAX, message)?;
    let size = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    match count {
        0.. => Ok(Choice::Distinct(size)),
        _ if size <= REPEATS_MAX => Ok(Choice::Repeated(size)),
        _ => Err(Fail::error(format!(
            "ERR value is out of range, at most {REPEATS_MAX} elements with repeats"
        ))),
    }
}
