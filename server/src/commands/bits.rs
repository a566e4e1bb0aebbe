//! Strings as arrays of bits: SETBIT, GETBIT, BITCOUNT, BITPOS, BITOP.
//!
//! Bit 0 is the highest of the first byte.

use bytes::Bytes;

use super::strings::{bulk_bytes_max, replace, string};
use crate::config::BULK_BYTES_MAX_LEAST;
use crate::cx::{Cx, Fail, integer, is};
use crate::kind::Kind;
use crate::node::Node;
use crate::number;
use crate::table::{Command, Flags, Group, Keys};

const READ: Flags = Flags::READONLY;
const WRITE: Flags = Flags::WRITE;
const BITOP_KEYS: Keys = Keys::Range { first: 2, last: -1, step: 1 };

/// See the file's head.
pub const COMMANDS: &[Command] = &[
    GROUP.data("setbit", 4, WRITE, Keys::FIRST, "2.2.0", "Sets a bit and gives the old one.", setbit),
    GROUP.data("getbit", 3, READ.with(Flags::FAST), Keys::FIRST, "2.2.0", "Gives a bit.", getbit),
    GROUP.data("bitcount", -2, READ, Keys::FIRST, "2.6.0", "Counts the bits that are set.", bitcount),
    GROUP.data("bitpos", -3, READ, Keys::FIRST, "2.8.7", "Finds the first bit that is set or clear.", bitpos),
    GROUP.data("bitop", -4, WRITE, BITOP_KEYS, "2.6.0", "Combines strings bit by bit.", bitop),
];

const GROUP: Group = Group("bitmap");

/// Reads a bit's place.
///
/// # Errors
/// In Redis' words if it lies in no string that there may be.
pub fn bit_offset(node: &Node, text: &[u8]) -> Result<usize, Fail> {
    let may_be = |byte: usize| byte < BULK_BYTES_MAX_LEAST || byte < bulk_bytes_max(node);
    number::integer(text)
        .and_then(|offset| usize::try_from(offset).ok())
        .filter(|offset| may_be(offset / 8))
        .ok_or_else(|| Fail::error("ERR bit offset is not an integer or out of range"))
}

/// The bit at a place; clear beyond the end.
fn bit_at(bytes: &[u8], offset: usize) -> bool {
    bytes.get(offset / 8).is_some_and(|byte| byte >> (7 - offset % 8) & 1 == 1)
}

fn setbit(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let offset = bit_offset(cx.node, cx.arg(2))?;
    let bit = match cx.arg(3) {
        b"0" => 0,
        b"1" => 1,
        _ => return Err(Fail::error("ERR bit is not an integer or out of range")),
    };
    let key = cx.key(0);
    let old = cx.read(key, Kind::String)?;
    let mut bytes = old.as_ref().map_or_else(Vec::new, |old| old.payload.to_vec());
    let is_set = bit_at(&bytes, offset);
    cx.reply.integer(i64::from(is_set));
    let byte = offset / 8;
    // As in Redis, who watches the key is not told of what changes nothing.
    if byte < bytes.len() && is_set == (bit == 1) {
        return Ok(());
    }
    bytes.resize(bytes.len().max(byte + 1), 0);
    let mask = 0x80 >> (offset % 8);
    bytes[byte] = if bit == 1 { bytes[byte] | mask } else { bytes[byte] & !mask };
    replace(cx, key, old.as_ref(), bytes)
}

fn getbit(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let offset = bit_offset(cx.node, cx.arg(2))?;
    let bit = cx.show(cx.key(0), Kind::String, |value, _| Ok::<_, Fail>(bit_at(value.payload, offset)))?;
    cx.reply.integer(i64::from(bit.unwrap_or(false)));
    Ok(())
}

/// What a range counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Count {
    Bytes,
    Bits,
}

fn count_of(arg: Option<&&[u8]>) -> Result<Count, Fail> {
    match arg {
        None => Ok(Count::Bytes),
        Some(arg) if is(arg, "byte") => Ok(Count::Bytes),
        Some(arg) if is(arg, "bit") => Ok(Count::Bits),
        Some(_) => Err(Fail::syntax()),
    }
}

/// The bits from the first to before the second, out of a range as Redis reads it; `None` if it is empty.
fn bit_range(start: i64, end: i64, count: Count, bytes: usize) -> Option<(usize, usize)> {
    let places = match count {
        Count::Bytes => bytes,
        Count::Bits => bytes * 8,
    };
    let (start, end) = super::strings::places(start, end, places)?;
    Some(match count {
        Count::Bytes => (start * 8, end * 8 + 8),
        Count::Bits => (start, end + 1),
    })
}

fn bitcount(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let args = cx.args;
    let count = cx.show(cx.key(0), Kind::String, |value, _| {
        let bytes = value.payload;
        let range = match &args[2..] {
            [] => Some((0, bytes.len() * 8)),
            [start, end, rest @ ..] if rest.len() <= 1 => {
                let (start, end) = (integer(start)?, integer(end)?);
                if start < 0 && end < 0 && start > end {
                    None
                } else {
                    bit_range(start, end, count_of(rest.first())?, bytes.len())
                }
            }
            _ => return Err(Fail::syntax()),
        };
        Ok(range.map_or(0, |(from, to)| ones(bytes, from, to)))
    })?;
    cx.reply.count(count.unwrap_or(0));
    Ok(())
}

/// How many bits from `from` to before `to` are set.
fn ones(bytes: &[u8], from: usize, to: usize) -> usize {
    let whole = |bytes: &[u8]| {
        let words = bytes.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word).count_ones() as usize
        });
        words.sum::<usize>()
    };
    // All bits of the bytes that the range touches, without those before and after it.
    let (first, last) = (from / 8, to.div_ceil(8));
    let before = (first * 8..from).filter(|&bit| bit_at(bytes, bit)).count();
    let after = (to..last * 8).filter(|&bit| bit_at(bytes, bit)).count();
    whole(&bytes[first..last]) - before - after
}

fn bitpos(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let bit = match integer(cx.arg(2))? {
        0 => false,
        1 => true,
        _ => return Err(Fail::error("ERR The bit argument must be 1 or 0.")),
    };
    let Some(value) = cx.read(cx.key(0), Kind::String)? else {
        // Nothing is as good as endless zeros.
        cx.reply.integer(if bit { -1 } else { 0 });
        return Ok(());
    };
    let bytes = &value.payload[..];
    let (range, end_given) = match &cx.args[3..] {
        [] => (bit_range(0, -1, Count::Bytes, bytes.len()), false),
        [start] => (bit_range(integer(start)?, -1, Count::Bytes, bytes.len()), false),
        [start, end, rest @ ..] if rest.len() <= 1 => {
            let start = integer(start)?;
            let count = count_of(rest.first())?;
            (bit_range(start, integer(end)?, count, bytes.len()), true)
        }
        _ => return Err(Fail::syntax()),
    };
    let found = range.and_then(|(from, to)| match first(bytes, bit, from, to) {
        Some(at) => Some(at),
        // A string is followed by zeros, unless the range says where to stop.
        None if !bit && !end_given => Some(bytes.len() * 8),
        None => None,
    });
    cx.reply.integer(found.map_or(-1, |at| i64::try_from(at).unwrap_or(i64::MAX)));
    Ok(())
}

/// The first bit from `from` to before `to` that is `bit`.
fn first(bytes: &[u8], bit: bool, from: usize, to: usize) -> Option<usize> {
    let other = if bit { 0x00 } else { 0xff };
    let mut at = from;
    while at < to {
        if at.is_multiple_of(8) {
            let rest = &bytes[at / 8..to.div_ceil(8)];
            at += rest.iter().take_while(|byte| **byte == other).count() * 8;
            if at >= to {
                return None;
            }
        }
        if bit_at(bytes, at) == bit {
            return Some(at);
        }
        at += 1;
    }
    None
}

fn bitop(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let combine: fn(u8, u8) -> u8 = match cx.arg(1).to_ascii_lowercase().as_slice() {
        b"and" => |a, b| a & b,
        b"or" => |a, b| a | b,
        b"xor" => |a, b| a ^ b,
        b"not" if cx.args.len() != 4 => {
            return Err(Fail::error("ERR BITOP NOT must be called with a single source key."));
        }
        b"not" => |a, _| !a,
        _ => return Err(Fail::syntax()),
    };
    let (target, sources) = cx.keys.split_first().expect("the arity asks for a target and a source");
    let mut strings = Vec::with_capacity(sources.len());
    for source in sources {
        strings.push(cx.read(source, Kind::String)?.map(|value| value.payload).unwrap_or_default());
    }
    let len = strings.iter().map(Bytes::len).max().unwrap_or(0);
    let negates = is(cx.arg(1), "not");
    let mut result = strings[0].to_vec();
    result.resize(len, 0);
    if negates {
        result.iter_mut().for_each(|byte| *byte = combine(*byte, 0));
    }
    for string in &strings[1..] {
        let (common, beyond) = result.split_at_mut(string.len());
        common.iter_mut().zip(&string[..]).for_each(|(byte, other)| *byte = combine(*byte, *other));
        beyond.iter_mut().for_each(|byte| *byte = combine(*byte, 0));
    }
    cx.reply.count(result.len());
    if result.is_empty() {
        cx.tx.delete(target)?;
    } else {
        cx.tx.put(target, &string(result))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Bench;

    #[test]
    fn bits_are_set_and_read() {
        Bench::new().check(
            "setbit k 7 1               -> :0
             setbit k 7 0               -> :1
             setbit k 7 1               -> :0
             get k                      -> $1 \u{1}
             getbit k 7                 -> :1
             getbit k 100               -> :0
             getbit nope 0              -> :0
             setbit k 4294967296 1      -> -ERR bit offset is not an integer or out of range
             setbit k -1 1              -> -ERR bit offset is not an integer or out of range
             getbit k x                 -> -ERR bit offset is not an integer or out of range
             setbit k 1 2               -> -ERR bit is not an integer or out of range
             setbit far 100 0           -> :0
             strlen far                 -> :13",
        );
    }

    #[test]
    fn bits_are_counted_and_found() {
        Bench::new().check(
            "set k foobar               -> +OK
             bitcount k                 -> :26
             bitcount k 0 0             -> :4
             bitcount k 1 1             -> :6
             bitcount k 1 1 byte        -> :6
             bitcount k 5 30 BIT        -> :17
             bitcount k -5 -1 bit       -> :2
             bitcount k 3 1             -> :0
             bitcount k 1               -> -ERR syntax error
             bitcount k 1 1 foo         -> -ERR syntax error
             bitcount nope 1            -> :0
             bitpos k 1                 -> :1
             bitpos k 0                 -> :0
             bitpos k 2                 -> -ERR The bit argument must be 1 or 0.
             set ones \"\\xff\\xff\"    -> +OK
             bitpos ones 0              -> :16
             bitpos ones 0 0 -1         -> :-1
             bitpos ones 0 1            -> :16
             bitpos ones 0 5            -> :-1
             bitpos ones 1 2 3 bit      -> :2
             set mixed \"\\xff\\xf0\\x00\" -> +OK
             bitpos mixed 0             -> :12
             bitpos mixed 0 0 11 bit    -> :-1
             bitpos mixed 1 2           -> :-1
             bitpos nope 0              -> :0
             bitpos nope 1              -> :-1",
        );
    }

    #[test]
    fn counting_agrees_with_looking_at_each_bit() {
        let bytes: Vec<u8> = (0..20u8).map(|n| n.wrapping_mul(73) ^ 0x5a).collect();
        for from in 0..bytes.len() * 8 {
            for to in from..=bytes.len() * 8 {
                let each = (from..to).filter(|&bit| bit_at(&bytes, bit));
                assert_eq!(ones(&bytes, from, to), each.clone().count());
                assert_eq!(first(&bytes, true, from, to), each.clone().next());
                assert_eq!(first(&bytes, false, from, to), (from..to).find(|&bit| !bit_at(&bytes, bit)));
            }
        }
    }

    #[test]
    fn strings_are_combined_bit_by_bit() {
        Bench::new().check(
            "mset a abc b ab        -> +OK
             bitop and r a b        -> :3
             get r                  -> $3 ab\0
             bitop or r a b nope    -> :3
             get r                  -> $3 abc
             bitop xor r a a        -> :3
             get r                  -> $3 \0\0\0
             bitop not r nope       -> :0
             exists r               -> :0
             bitop not r a b        -> -ERR BITOP NOT must be called with a single source key.
             bitop foo r a          -> -ERR syntax error",
        );
    }
}
