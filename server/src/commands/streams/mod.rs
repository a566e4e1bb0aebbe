//! XADD, XREAD, XREADGROUP and what else works on streams.

mod add;
mod claim;
mod group;
mod info;
mod pending;
mod range;
mod read;

use haypile_engine::tx::Read;
use haypile_engine::varint;
use smallvec::SmallVec;

use crate::cx::{Cx, Fail};
use crate::kind::Kind;
use crate::number::Decimal;
use crate::resp::ReplyWriter;
use crate::table::{Command, Flags, Group as Table, Keys};
use crate::types::damaged;
use crate::types::stream::groups::Group;
use crate::types::stream::{Id, Stream};

const READ: Flags = Flags::READONLY;
const READ_FAST: Flags = Flags::READONLY.with(Flags::FAST);
const WRITE: Flags = Flags::WRITE;
const WRITE_FAST: Flags = Flags::WRITE.with(Flags::FAST);

/// The key of a command with a second word.
const SECOND: Keys = Keys::Range { first: 2, last: 2, step: 1 };

type Done = Result<(), Fail>;

const T: Table = Table("stream");

/// See the file's head.
#[rustfmt::skip]
pub const COMMANDS: &[Command] = &[
    T.data("xack", -4, WRITE_FAST, Keys::FIRST, "5.0.0", "Acknowledges entries that a group's consumer was given.", group::xack),
    T.data("xadd", -5, WRITE_FAST, Keys::FIRST, "5.0.0", "Adds an entry to a stream, which it may trim.", add::xadd),
    T.data("xautoclaim", -6, WRITE_FAST, Keys::FIRST, "6.2.0", "Gives a consumer what has long been pending with others.", claim::xautoclaim),
    T.data("xclaim", -6, WRITE_FAST, Keys::FIRST, "5.0.0", "Gives a consumer what is pending with others.", claim::xclaim),
    T.data("xdel", -3, WRITE_FAST, Keys::FIRST, "5.0.0", "Removes entries.", add::xdel),
    T.family("xgroup", Flags::NONE, "5.0.0", "Makes, changes and removes groups and their consumers.", group::SUBS),
    T.family("xinfo", Flags::NONE, "5.0.0", "Tells of a stream, its groups and their consumers.", info::SUBS),
    T.data("xlen", 2, READ_FAST, Keys::FIRST, "5.0.0", "Counts the entries.", range::xlen),
    T.data("xpending", -3, READ, Keys::FIRST, "5.0.0", "Tells what a group's consumers have not acknowledged.", pending::xpending),
    T.data("xrange", -4, READ, Keys::FIRST, "5.0.0", "Gives the entries of a range of ids.", range::xrange),
    T.data("xread", -4, READ, Keys::Custom(read::keys), "5.0.0", "Gives the entries after an id, of several streams.", read::xread),
    T.data("xreadgroup", -7, WRITE, Keys::Custom(read::keys), "5.0.0", "Gives a group's consumer entries that nobody of it was given.", read::xreadgroup),
    T.data("xrevrange", -4, READ, Keys::FIRST, "5.0.0", "Gives the entries of a range of ids, the last one first.", range::xrevrange),
    T.data("xsetid", -3, WRITE_FAST, Keys::FIRST, "5.0.0", "Sets the id after which the next entry comes.", add::xsetid),
    T.data("xtrim", -4, WRITE, Keys::FIRST, "5.0.0", "Removes the oldest entries.", add::xtrim),
];

/// The stream at the command's key of this number.
fn open<'a>(cx: &mut Cx<'a>, key: usize) -> Result<Option<Stream<'a>>, Fail> {
    let key = cx.key(key);
    cx.open(key, Kind::Stream, |value| Stream::open(key, value))
}

/// The stream at the command's first key and one of its groups.
fn open_group<'a>(cx: &mut Cx<'a>, name: &[u8]) -> Result<Option<(Stream<'a>, Group<'a>)>, Fail> {
    open_group_at(cx, 0, name)
}

/// The stream at the command's key of this number and one of its groups.
fn open_group_at<'a>(
    cx: &mut Cx<'a>,
    key: usize,
    name: &[u8],
) -> Result<Option<(Stream<'a>, Group<'a>)>, Fail> {
    let Some(stream) = open(cx, key)? else { return Ok(None) };
    let group = stream.group(&mut cx.tx, name)?;
    Ok(group.map(|group| (stream, group)))
}

/// The length of the stream at the command's first key; `None` if there is none.
pub(super) fn length(cx: &mut Cx<'_>) -> Result<Option<u64>, Fail> {
    match open(cx, 0) {
        Ok(stream) => Ok(stream.map(|stream| stream.meta.length)),
        Err(Fail::Error(_)) => Ok(None),
        Err(fail) => Err(fail),
    }
}

/// For each key whether the consumer that the command names is known to the group that it names, as some number. The
/// group's name is this argument, and the consumer's follows.
pub(super) fn consumers(cx: &mut Cx<'_>, at: usize) -> Result<Vec<Option<u64>>, Fail> {
    let (group, name) = (cx.args[at], cx.args[at + 1]);
    let mut out = Vec::with_capacity(cx.keys.len());
    for key in 0..cx.keys.len() {
        let known = match open_group_at(cx, key, group) {
            Ok(Some((_, mut group))) => group.consumer(&mut cx.tx, name)?.map(|consumer| consumer.pending),
            Ok(None) | Err(Fail::Error(_)) => None,
            Err(fail) => return Err(fail),
        };
        out.push(known);
    }
    Ok(out)
}

/// What is said where a command needs a key and a group.
fn no_group(key: &[u8], group: &[u8], more: &str) -> Fail {
    let (key, group) = (String::from_utf8_lossy(key), String::from_utf8_lossy(group));
    Fail::error(format!("NOGROUP No such key '{key}' or consumer group '{group}'{more}"))
}

/// What is said of a second word that is none, or has the wrong arguments.
fn no_subcommand(cx: &Cx<'_>, command: &str) -> Fail {
    let word = cx.arg(1);
    let word = String::from_utf8_lossy(&word[..word.len().min(128)]);
    Fail::error(format!(
        "ERR unknown subcommand or wrong number of arguments for '{word}'. Try {command} HELP."
    ))
}

/// The time of day in the slot of the command's key, in milliseconds.
fn now_ms(cx: &Cx<'_>, key: usize) -> u64 {
    cx.now(cx.key(key)).0
}

fn bad_id() -> Fail {
    Fail::error("ERR Invalid stream ID specified as stream command argument")
}

/// Reads a number as Redis does here: as C's `strtoull` takes it, but nothing may follow it.
fn number(text: &[u8]) -> Option<u64> {
    if let Some(value) = crate::number::integer(text) {
        return u64::try_from(value).ok();
    }
    let start = text.iter().position(|byte| !byte.is_ascii_whitespace() && *byte != 0x0b)?;
    let (negative, digits) = match &text[start..] {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(if negative { value.wrapping_neg() } else { value })
}

/// An id as a client writes it.
enum Written {
    Whole(Id),
    /// `ms-*`: the sequence is to be found.
    Millisecond(u64),
}

/// Reads an id; where it has no sequence it gets this one.
fn written_id(text: &[u8], missing_seq: u64) -> Result<Written, Fail> {
    const BYTES_MAX: usize = 127;
    if text.len() > BYTES_MAX || matches!(text, b"-" | b"+") {
        return Err(bad_id());
    }
    let (ms, seq) = match text.iter().position(|byte| *byte == b'-') {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let ms = number(ms).ok_or_else(bad_id)?;
    match seq {
        None => Ok(Written::Whole(Id { ms, seq: missing_seq })),
        Some(b"*") => Ok(Written::Millisecond(ms)),
        Some(seq) => Ok(Written::Whole(Id { ms, seq: number(seq).ok_or_else(bad_id)? })),
    }
}

/// Reads an id that is no end of all ids.
fn strict_id(text: &[u8], missing_seq: u64) -> Result<Id, Fail> {
    match written_id(text, missing_seq)? {
        Written::Whole(id) => Ok(id),
        Written::Millisecond(_) => Err(bad_id()),
    }
}

/// Reads an id, `-` or `+`.
fn any_id(text: &[u8], missing_seq: u64) -> Result<Id, Fail> {
    match text {
        b"-" => Ok(Id::MIN),
        b"+" => Ok(Id::MAX),
        _ => strict_id(text, missing_seq),
    }
}

/// Reads where a range begins, which is in it.
fn range_start(text: &[u8]) -> Result<Id, Fail> {
    match text {
        [b'(', rest @ ..] if !rest.is_empty() => {
            strict_id(rest, 0)?.next().ok_or_else(|| Fail::error("ERR invalid start ID for the interval"))
        }
        _ => any_id(text, 0),
    }
}

/// Reads where a range ends, which is in it.
fn range_end(text: &[u8]) -> Result<Id, Fail> {
    match text {
        [b'(', rest @ ..] if !rest.is_empty() => strict_id(rest, u64::MAX)?
            .previous()
            .ok_or_else(|| Fail::error("ERR invalid end ID for the interval")),
        _ => any_id(text, u64::MAX),
    }
}

/// Replies with an id.
fn reply_id(reply: &mut ReplyWriter, id: Id) {
    let mut text: SmallVec<[u8; 48]> = SmallVec::new();
    let mut decimal = Decimal::default();
    text.extend_from_slice(decimal.format_unsigned(id.ms));
    text.push(b'-');
    text.extend_from_slice(decimal.format_unsigned(id.seq));
    reply.bulk(&text);
}

/// Replies with an entry.
fn reply_entry(cx: &mut Cx<'_>, key: usize, id: Id, entry: &[u8]) -> Read<()> {
    write_entry(cx.reply, id, entry).ok_or_else(|| damaged(cx.key(key)))
}

/// The same, of an entry as it lies in the engine; `None` if that has no meaning, and then there is something of a reply.
fn write_entry(reply: &mut ReplyWriter, id: Id, mut entry: &[u8]) -> Option<()> {
    let count = usize::try_from(varint::take(&mut entry)?).ok()?;
    reply.array(2);
    reply_id(reply, id);
    reply.array(count);
    for _ in 0..count {
        reply.bulk(varint::take_slice(&mut entry)?);
    }
    entry.is_empty().then_some(())
}

#[cfg(test)]
mod tests;
