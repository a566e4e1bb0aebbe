//! The Redis protocol as far as a load needs it: requests as bytes, and where a reply ends.
//!
//! Nothing is kept of a reply but what it was: found or not, how many bytes, or an error.

use crate::load::operation::Operation;
use crate::target::Found;

/// The longest line of a reply.
const LINE_BYTES_MAX: usize = 64 << 10;
/// The longest bulk string of a reply.
const BULK_BYTES_MAX: usize = 512 << 20;
/// How deep arrays may lie in arrays.
const DEPTH_MAX: usize = 8;

/// A number in decimal.
pub fn decimal(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    let mut left = number;
    loop {
        start -= 1;
        digits[start] = b'0' + u8::try_from(left % 10).expect("below 10");
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

fn bulk(out: &mut Vec<u8>, word: &[u8]) {
    out.push(b'$');
    decimal(out, word.len() as u64);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(word);
    out.extend_from_slice(b"\r\n");
}

fn number(out: &mut Vec<u8>, number: u64) {
    let mut digits = Vec::new();
    decimal(&mut digits, number);
    bulk(out, &digits);
}

/// Appends a request of some words.
pub fn request(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.push(b'*');
    decimal(out, words.len() as u64);
    out.extend_from_slice(b"\r\n");
    words.iter().for_each(|word| bulk(out, word));
}

/// Appends the requests of an operation; how many replies they get.
pub fn encode(out: &mut Vec<u8>, operation: &Operation<'_>) -> usize {
    let head = |out: &mut Vec<u8>, head: &[u8], key: &[u8]| {
        out.extend_from_slice(head);
        bulk(out, key);
    };
    match *operation {
        Operation::Get(key) => head(out, b"*2\r\n$3\r\nGET\r\n", key),
        Operation::Put(key, value) => {
            head(out, b"*3\r\n$3\r\nSET\r\n", key);
            bulk(out, value);
        }
        Operation::Delete(key) => head(out, b"*2\r\n$3\r\nDEL\r\n", key),
        Operation::ReadModifyWrite(key, value) => {
            encode(out, &Operation::Get(key));
            encode(out, &Operation::Put(key, value));
            return 2;
        }
        Operation::MultiGet(keys) => {
            out.push(b'*');
            decimal(out, keys.len() as u64 + 1);
            out.extend_from_slice(b"\r\n$4\r\nMGET\r\n");
            keys.iter().for_each(|key| bulk(out, key));
        }
        Operation::Batch(pairs) => {
            out.push(b'*');
            decimal(out, 2 * pairs.len() as u64 + 1);
            out.extend_from_slice(b"\r\n$4\r\nMSET\r\n");
            for (key, value) in pairs.iter() {
                bulk(out, key);
                bulk(out, value);
            }
        }
        Operation::PutExpiring(key, value, milliseconds) => {
            head(out, b"*5\r\n$3\r\nSET\r\n", key);
            bulk(out, value);
            out.extend_from_slice(b"$2\r\nPX\r\n");
            number(out, milliseconds);
        }
        Operation::Increment(key) => head(out, b"*2\r\n$4\r\nINCR\r\n", key),
        Operation::HashSet(key, field, value) => {
            head(out, b"*4\r\n$4\r\nHSET\r\n", key);
            bulk(out, field);
            bulk(out, value);
        }
        Operation::ListPush(key, value) => {
            head(out, b"*3\r\n$5\r\nLPUSH\r\n", key);
            bulk(out, value);
        }
        Operation::ListPop(key) => head(out, b"*2\r\n$4\r\nRPOP\r\n", key),
        Operation::SortedSetAdd(key, score, member) => {
            head(out, b"*4\r\n$4\r\nZADD\r\n", key);
            number(out, score);
            bulk(out, member);
        }
        Operation::Scan(..) | Operation::Walk(_) => {
            unreachable!("a workload that walks keys in order is refused for servers before it begins")
        }
    }
    1
}

/// A reply that is there as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply<'a> {
    /// Its bytes.
    pub len: usize,
    /// The bulk strings in it that are not nil.
    pub found: Found,
    /// What it says, if it is an error.
    pub error: Option<&'a [u8]>,
}

/// What stands at the beginning of received bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Read<'a> {
    /// A reply.
    Reply(Reply<'a>),
    /// The beginning of one.
    Incomplete,
    /// Something else.
    Malformed,
}

/// Finds out where the first reply ends.
#[must_use]
pub fn read(bytes: &[u8]) -> Read<'_> {
    let mut found = Found::NOTHING;
    match end(bytes, 0, 0, &mut found) {
        Ok(len) => {
            let error = match bytes.first() {
                Some(b'-') => bytes.get(1..len.saturating_sub(2)),
                _ => None,
            };
            Read::Reply(Reply { len, found, error })
        }
        Err(why) => why,
    }
}

/// The text of a whole reply; of an array, that of its last part; `None` if there is nothing.
#[must_use]
pub fn last_text(reply: &[u8]) -> Option<String> {
    let mut at = 0;
    let mut last = None;
    while let Some(line) = reply.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == b'\n')) {
        let text = reply.get(at + 1..(at + line).saturating_sub(1))?;
        let (kind, after) = (reply[at], at + line + 1);
        last = match kind {
            b'$' => {
                let len = length(text)??;
                at = after + len + 2;
                reply.get(after..after + len)
            }
            b'*' => {
                at = after;
                None
            }
            _ => {
                at = after;
                Some(text)
            }
        };
    }
    last.map(|text| String::from_utf8_lossy(text).into_owned())
}

/// Where the reply ends that begins at `at`.
fn end<'a>(bytes: &[u8], at: usize, depth: usize, found: &mut Found) -> Result<usize, Read<'a>> {
    if depth > DEPTH_MAX {
        return Err(Read::Malformed);
    }
    let rest = bytes.get(at..).unwrap_or_default();
    let Some(&kind) = rest.first() else { return Err(Read::Incomplete) };
    let window = rest.get(..LINE_BYTES_MAX).unwrap_or(rest);
    let Some(line) = window.iter().position(|&byte| byte == b'\n') else {
        return Err(if rest.len() < LINE_BYTES_MAX { Read::Incomplete } else { Read::Malformed });
    };
    let after = at + line + 1;
    let text = rest.get(1..line.saturating_sub(1)).unwrap_or_default();
    match kind {
        b'+' | b'-' | b':' => Ok(after),
        b'$' => match length(text).ok_or(Read::Malformed)? {
            None => Ok(after),
            Some(len) if len > BULK_BYTES_MAX => Err(Read::Malformed),
            Some(len) => {
                if bytes.len() < after + len + 2 {
                    return Err(Read::Incomplete);
                }
                found.add(len);
                Ok(after + len + 2)
            }
        },
        b'*' => {
            let count = length(text).ok_or(Read::Malformed)?.unwrap_or_default();
            (0..count).try_fold(after, |at, _| end(bytes, at, depth + 1, found))
        }
        _ => Err(Read::Malformed),
    }
}

/// A length; `Some(None)` is -1, which says that there is nothing.
fn length(text: &[u8]) -> Option<Option<usize>> {
    if text == b"-1" {
        return Some(None);
    }
    if text.is_empty() || text.len() > 12 {
        return None;
    }
    text.iter()
        .try_fold(0usize, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + usize::from(digit - b'0')))
        .map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::operation::KeyList;

    #[test]
    fn a_reply_ends_where_it_ends_however_much_of_it_is_there() {
        for (text, entries, bytes) in [
            (&b"+OK\r\n"[..], 0, 0),
            (b":12\r\n", 0, 0),
            (b"$5\r\nhello\r\n", 1, 5),
            (b"$0\r\n\r\n", 1, 0),
            (b"$-1\r\n", 0, 0),
            (b"*0\r\n", 0, 0),
            (b"*3\r\n$1\r\na\r\n$-1\r\n*1\r\n$2\r\nbc\r\n", 2, 3),
        ] {
            for cut in 0..text.len() {
                assert_eq!(read(&text[..cut]), Read::Incomplete, "{cut} of {text:?}");
            }
            let more = [text, b"+more"].concat();
            let found = Found { entries, bytes };
            assert_eq!(read(&more), Read::Reply(Reply { len: text.len(), found, error: None }));
        }
        let error = Read::Reply(Reply { len: 8, found: Found::NOTHING, error: Some(b"ERR x") });
        assert_eq!(read(b"-ERR x\r\n"), error);
        for text in [&b"x\r\n"[..], b"$x\r\n", b"$9999999999999\r\n", b"$-2\r\n", b"*+1\r\n"] {
            assert_eq!(read(text), Read::Malformed, "{text:?}");
        }
        assert_eq!(read(&b"*1\r\n".repeat(20)), Read::Malformed);
        assert_eq!(read(&[b'+'; LINE_BYTES_MAX]), Read::Malformed);
    }

    #[test]
    fn the_last_text_of_a_reply_is_a_settings_value() {
        assert_eq!(last_text(b"*2\r\n$3\r\ndir\r\n$2\r\n/d\r\n").as_deref(), Some("/d"));
        assert_eq!(last_text(b"$2\r\n\r\n\r\n").as_deref(), Some("\r\n"));
        assert_eq!(last_text(b"+OK\r\n").as_deref(), Some("OK"));
        assert_eq!(last_text(b"*0\r\n"), None);
        assert_eq!(last_text(b"$-1\r\n"), None);
    }

    #[test]
    fn requests_are_arrays_of_bulk_strings() {
        for (operation, text, replies) in [
            (Operation::Get(b"k"), "*2 $3 GET $1 k", 1),
            (Operation::Put(b"k", b"value"), "*3 $3 SET $1 k $5 value", 1),
            (Operation::ReadModifyWrite(b"k", b"v"), "*2 $3 GET $1 k *3 $3 SET $1 k $1 v", 2),
            (Operation::MultiGet(KeyList::new(b"abcd", 2)), "*3 $4 MGET $2 ab $2 cd", 1),
            (Operation::PutExpiring(b"k", b"v", 150), "*5 $3 SET $1 k $1 v $2 PX $3 150", 1),
            (Operation::HashSet(b"k", b"f", b"v"), "*4 $4 HSET $1 k $1 f $1 v", 1),
            (Operation::SortedSetAdd(b"k", 10, b"m"), "*4 $4 ZADD $1 k $2 10 $1 m", 1),
            (Operation::ListPush(b"k", b"v"), "*3 $5 LPUSH $1 k $1 v", 1),
            (Operation::ListPop(b"k"), "*2 $4 RPOP $1 k", 1),
            (Operation::Increment(b"k"), "*2 $4 INCR $1 k", 1),
            (Operation::Delete(b"k"), "*2 $3 DEL $1 k", 1),
        ] {
            let mut out = Vec::new();
            assert_eq!(encode(&mut out, &operation), replies);
            assert_eq!(String::from_utf8_lossy(&out), text.replace(' ', "\r\n") + "\r\n");
        }
    }
}
