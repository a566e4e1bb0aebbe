//! Reads payloads.

use bytes::Bytes;

use super::packed::{Cursor, digits};
use super::{
    FOOTER_BYTES, Object, Refused, STRING_BYTES_MAX, VERSION_MAX, crc64, lzf, packed, stream, types,
};
use crate::number;

/// The object of a payload; its items share the payload's memory where they lie in it as they are.
///
/// # Errors
/// What is wrong with the payload.
pub fn load(payload: &Bytes) -> Result<Object, Refused> {
    let mut reader = Reader(Cursor::new(body(payload)?));
    reader.object().filter(|_| reader.0.is_at_end()).ok_or(Refused::Format)
}

/// The texts of the libraries that FUNCTION DUMP gave.
///
/// # Errors
/// What is wrong with the payload.
pub fn load_functions(payload: &Bytes) -> Result<Vec<Bytes>, Refused> {
    let mut reader = Reader(Cursor::new(body(payload)?));
    let mut out = Vec::new();
    while !reader.0.is_at_end() {
        if reader.0.byte().ok_or(Refused::Format)? != types::FUNCTION {
            return Err(Refused::Format);
        }
        out.push(reader.string().ok_or(Refused::Format)?);
    }
    Ok(out)
}

/// What a payload holds, without its footer, which is checked.
fn body(payload: &Bytes) -> Result<Bytes, Refused> {
    let (body, checksum) = payload.split_last_chunk::<8>().ok_or(Refused::Footer)?;
    let (object, version) = body.split_last_chunk::<2>().ok_or(Refused::Footer)?;
    debug_assert_eq!(object.len() + FOOTER_BYTES, payload.len());
    let known = u16::from_le_bytes(*version) <= VERSION_MAX;
    if !known || crc64(body) != u64::from_le_bytes(*checksum) {
        return Err(Refused::Footer);
    }
    Ok(payload.slice(..object.len()))
}

pub(super) struct Reader(Cursor);

/// A string's length, or how else it is given.
enum Length {
    Plain(u64),
    Encoded(u8),
}

impl Reader {
    fn object(&mut self) -> Option<Object> {
        let kind = self.0.byte()?;
        let object = match kind {
            types::STRING => return Some(Object::String(self.string()?)),
            types::LIST => Object::List(self.many(Reader::string)?),
            types::SET => Object::Set(self.many(Reader::string)?),
            types::ZSET => Object::SortedSet(self.many(|reader| Some((reader.string()?, reader.score()?)))?),
            types::ZSET_2 => {
                Object::SortedSet(self.many(|reader| Some((reader.string()?, reader.binary_score()?)))?)
            }
            types::HASH => Object::Hash(self.many(|reader| Some((reader.string()?, reader.string()?)))?),
            types::HASH_ZIPMAP => Object::Hash(pairs(packed::zipmap(&self.string()?)?)?),
            types::HASH_ZIPLIST => Object::Hash(pairs(packed::ziplist(&self.string()?)?)?),
            types::HASH_LISTPACK => Object::Hash(pairs(packed::listpack(&self.string()?)?)?),
            types::LIST_ZIPLIST => Object::List(packed::ziplist(&self.string()?)?),
            types::LIST_QUICKLIST => {
                Object::List(self.many(|reader| packed::ziplist(&reader.string()?))?.concat())
            }
            types::LIST_QUICKLIST_2 => Object::List(self.many(Reader::quicklist_node)?.concat()),
            types::STREAM | types::STREAM_2 | types::STREAM_3 => {
                return Some(Object::Stream(Box::new(stream::read(self, kind)?)));
            }
            types::SET_INTSET => Object::Set(packed::intset(&self.string()?)?),
            types::SET_LISTPACK => Object::Set(packed::listpack(&self.string()?)?),
            types::ZSET_ZIPLIST => Object::SortedSet(scored(packed::ziplist(&self.string()?)?)?),
            types::ZSET_LISTPACK => Object::SortedSet(scored(packed::listpack(&self.string()?)?)?),
            _ => return None,
        };
        let empty = match &object {
            Object::String(_) | Object::Stream(_) => false,
            Object::List(items) | Object::Set(items) => items.is_empty(),
            Object::SortedSet(members) => members.is_empty(),
            Object::Hash(fields) => fields.is_empty(),
        };
        (!empty).then_some(object)
    }

    fn length(&mut self) -> Option<Length> {
        let head = self.0.byte()?;
        Some(match head {
            0x00..=0x3f => Length::Plain(u64::from(head)),
            0x40..=0x7f => Length::Plain(u64::from(head & 0x3f) << 8 | u64::from(self.0.byte()?)),
            0x80 => Length::Plain(u64::from(u32::from_be_bytes(self.0.array()?))),
            0x81 => Length::Plain(u64::from_be_bytes(self.0.array()?)),
            0x82..=0xbf => return None,
            0xc0..=0xff => Length::Encoded(head & 0x3f),
        })
    }

    /// A length, or a number that is written as one.
    pub(super) fn number(&mut self) -> Option<u64> {
        match self.length()? {
            Length::Plain(len) => Some(len),
            Length::Encoded(_) => None,
        }
    }

    /// What is read.
    pub(super) fn cursor(&mut self) -> &mut Cursor {
        &mut self.0
    }

    fn plain_length(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok()
    }

    pub(super) fn string(&mut self) -> Option<Bytes> {
        match self.length()? {
            Length::Plain(len) => self.0.take(usize::try_from(len).ok()?),
            Length::Encoded(0) => Some(digits(i64::from(i8::from_le_bytes(self.0.array()?)))),
            Length::Encoded(1) => Some(digits(i64::from(i16::from_le_bytes(self.0.array()?)))),
            Length::Encoded(2) => Some(digits(i64::from(i32::from_le_bytes(self.0.array()?)))),
            Length::Encoded(3) => {
                let (from, to) = (self.plain_length()?, self.plain_length()?);
                let packed = self.0.take(from)?;
                (to <= STRING_BYTES_MAX).then(|| lzf::unpack(&packed, to))?.map(Bytes::from)
            }
            Length::Encoded(_) => None,
        }
    }

    /// As many things as a length announces. Memory is taken as they come.
    fn many<T>(&mut self, read: impl Fn(&mut Reader) -> Option<T>) -> Option<Vec<T>> {
        let count = self.plain_length()?;
        let mut out = Vec::new();
        for _ in 0..count {
            out.push(read(self)?);
        }
        Some(out)
    }

    fn quicklist_node(&mut self) -> Option<Vec<Bytes>> {
        match self.plain_length()? {
            1 => Some(vec![self.string()?]),
            2 => packed::listpack(&self.string()?),
            _ => None,
        }
    }

    fn score(&mut self) -> Option<f64> {
        match self.0.byte()? {
            0xfd => None,
            0xfe => Some(f64::INFINITY),
            0xff => Some(f64::NEG_INFINITY),
            len => number::double(&self.0.take(usize::from(len))?),
        }
    }

    fn binary_score(&mut self) -> Option<f64> {
        let score = f64::from_le_bytes(self.0.array()?);
        (!score.is_nan()).then_some(score)
    }
}

fn pairs(items: Vec<Bytes>) -> Option<Vec<(Bytes, Bytes)>> {
    let mut items = items.into_iter();
    let mut out = Vec::with_capacity(items.len() / 2);
    while let Some(first) = items.next() {
        out.push((first, items.next()?));
    }
    Some(out)
}

fn scored(items: Vec<Bytes>) -> Option<Vec<(Bytes, f64)>> {
    pairs(items)?.into_iter().map(|(member, score)| Some((member, number::double(&score)?))).collect()
}
