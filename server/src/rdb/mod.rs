//! Values as Redis serialises them: what DUMP gives and RESTORE takes, and what codis-server's migration carries.
//!
//! ```text
//! payload, Redis' format
//!  0   1   type       see below
//!  1   n   object     by its type
//!  .   2   version    little-endian; written: 6, taken: up to 11
//!  .   8   checksum   little-endian CRC-64 (Jones: reflected 0xad93d23594c935a9, from 0) of all before it
//!
//!  type            object                                                                       Redis has it
//!   0 string       string                                                                        always, written
//!   1 list         length, as many strings                                                       always, written
//!   2 set          length, as many strings                                                       always, written
//!   3 sorted set   length, as often: string, score in text                                       always, written
//!   4 hash         length, as often: string, string                                              always, written
//!   5 sorted set   length, as often: string, score as little-endian f64                          from 4.0
//!   9 hash         string holding a zipmap                                                       until 2.6
//!  10 list         string holding a ziplist                                                      until 3.2
//!  11 set          string holding an intset                                                      from 2.2
//!  12 sorted set   string holding a ziplist: member, score in turn                               until 7.0
//!  13 hash         string holding a ziplist: field, value in turn                                until 7.0
//!  14 list         length, as many strings holding ziplists                                      until 7.0
//!  15 stream       see `stream`                                                                  from 5.0
//!  16 hash         string holding a listpack: field, value in turn                               from 7.0
//!  17 sorted set   string holding a listpack: member, score in turn                              from 7.0
//!  18 list         length, as often: length 1 and a string, or length 2 and a string holding a listpack   from 7.0
//!  19 stream       see `stream`                                                                  from 7.0, written
//!  20 set          string holding a listpack                                                     from 7.2
//!  21 stream       see `stream`                                                                  from 7.2
//!
//!  length          00xxxxxx | 01xxxxxx x8 | 0x80, 4 bytes | 0x81, 8 bytes; big-endian
//!  string          length, bytes | 0xc0 i8 | 0xc1 i16 | 0xc2 i32 (little-endian, meaning decimal digits)
//!                  | 0xc3, length packed, length unpacked, bytes packed by LZF
//!  score in text   0xfd not a number | 0xfe infinite | 0xff -infinite | one byte of length, digits
//! ```
//! What is written is the plainest form of each type, which every Redis from 2.6 on and codis-server read. What is read
//! is checked byte by byte: nothing is taken on trust because the checksum holds. Knows no command, no key and no
//! engine.

mod checksum;
mod lzf;
mod packed;
mod read;
pub mod stream;
mod write;

use std::fmt;

use bytes::Bytes;

pub use checksum::crc64;
pub use read::{load, load_functions};
pub use write::{Writer, dump_functions};

/// The version that is written: Redis 2.6's, as codis-server takes none above 7.
pub const VERSION: u16 = 6;

/// The version that is written with a stream: Redis 7.0's, as none before keeps all of one.
pub const STREAM_VERSION: u16 = 10;

/// The newest version whose payloads are taken: Redis 7.2's.
pub const VERSION_MAX: u16 = 11;

/// The longest string and the longest packed form, in bytes.
pub const STRING_BYTES_MAX: usize = 512 << 20;

/// Bytes of version and checksum.
const FOOTER_BYTES: usize = 10;

/// The types, as numbers in a payload.
mod types {
    pub const STRING: u8 = 0;
    pub const LIST: u8 = 1;
    pub const SET: u8 = 2;
    pub const ZSET: u8 = 3;
    pub const HASH: u8 = 4;
    pub const ZSET_2: u8 = 5;
    pub const HASH_ZIPMAP: u8 = 9;
    pub const LIST_ZIPLIST: u8 = 10;
    pub const SET_INTSET: u8 = 11;
    pub const ZSET_ZIPLIST: u8 = 12;
    pub const HASH_ZIPLIST: u8 = 13;
    pub const LIST_QUICKLIST: u8 = 14;
    pub const HASH_LISTPACK: u8 = 16;
    pub const ZSET_LISTPACK: u8 = 17;
    pub const LIST_QUICKLIST_2: u8 = 18;
    pub const STREAM: u8 = 15;
    pub const STREAM_2: u8 = 19;
    pub const STREAM_3: u8 = 21;
    pub const SET_LISTPACK: u8 = 20;
    /// Not a value: the text of a library of functions follows.
    pub const FUNCTION: u8 = 245;
}

/// What a payload holds. A collection is never empty, but for a stream.
#[derive(Clone, PartialEq, Debug)]
pub enum Object {
    /// Bytes.
    String(Bytes),
    /// Items in order.
    List(Vec<Bytes>),
    /// Members; that they are distinct is not checked.
    Set(Vec<Bytes>),
    /// Members with scores, which are numbers; that the members are distinct is not checked.
    SortedSet(Vec<(Bytes, f64)>),
    /// Fields with values; that the fields are distinct is not checked.
    Hash(Vec<(Bytes, Bytes)>),
    /// Entries and groups; it may be empty.
    Stream(Box<stream::Stream>),
}

/// Why a payload is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Its version is newer than we know, or its checksum does not hold.
    Footer,
    /// Its bytes are no object, or one of a type that there is not here.
    Format,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::Footer => "DUMP payload version or checksum are wrong",
            Refused::Format => "Bad data format",
        })
    }
}

/// The payload that stands for an object.
#[must_use]
pub fn dump(object: &Object) -> Vec<u8> {
    match object {
        Object::String(bytes) => Writer::string(bytes).finish(),
        Object::Stream(stream) => Writer::stream(stream).finish(),
        Object::List(items) => written(Writer::list(items.len()), items.iter(), |out, item| out.item(item)),
        Object::Set(members) => {
            written(Writer::set(members.len()), members.iter(), |out, member| out.item(member))
        }
        Object::SortedSet(members) => {
            written(Writer::sorted_set(members.len()), members.iter(), |out, (member, score)| {
                out.item(member);
                out.score(*score);
            })
        }
        Object::Hash(fields) => written(Writer::hash(fields.len()), fields.iter(), |out, (field, value)| {
            out.item(field);
            out.item(value);
        }),
    }
}

fn written<T>(mut out: Writer, elements: impl Iterator<Item = T>, write: impl Fn(&mut Writer, T)) -> Vec<u8> {
    elements.for_each(|element| write(&mut out, element));
    out.finish()
}

#[cfg(test)]
mod tests;
