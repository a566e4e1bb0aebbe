//! What stands at a user's key: a small header that the engine understands, and a payload that it does not.
//!
//! ```text
//! value, part of the format
//!  0   1   head       bits 0-3 kind, bit 4 has expiry, bit 5 has generation, bits 6-7 encoding (the type's own)
//!  .   8   expiry     little-endian milliseconds since 1970, if bit 4
//!  .   8   generation little-endian, if bit 5: the payload is a collection's meta data, its elements are entries
//!                     of their own
//!  .   n   payload    the type's own
//! ```

use bytes::Bytes;

use crate::clock::TimeMs;
use crate::key::Generation;
use crate::memtable::ValueRef;

const HAS_EXPIRY: u8 = 0x10;
const HAS_GENERATION: u8 = 0x20;

/// A value, taken apart. Its payload is its own, or borrowed where it lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Value<P = Bytes> {
    /// The type, 0 to 15. The engine gives it no meaning.
    pub kind: u8,
    /// The type's own choice of form, 0 to 3. The engine gives it no meaning.
    pub encoding: u8,
    /// When it ceases to be.
    pub expiry: Option<TimeMs>,
    /// Set if the elements are entries of their own, belonging to this generation.
    pub generation: Option<Generation>,
    /// The type's own.
    pub payload: P,
}

impl Value {
    /// A value whole in itself, without expiry.
    #[must_use]
    pub fn whole(kind: u8, encoding: u8, payload: impl Into<Bytes>) -> Value {
        Value { kind, encoding, expiry: None, generation: None, payload: payload.into() }
    }

    /// Reads a value; `None` if the bytes are too short. The payload shares `bytes`' memory.
    #[must_use]
    pub fn decode(bytes: &Bytes) -> Option<Value> {
        Value::read(ValueRef::Shared(bytes))
    }

    /// As [`Value::decode`]; what can't be shared is copied.
    #[must_use]
    pub fn read(bytes: ValueRef<'_>) -> Option<Value> {
        let header = Header::decode(&bytes)?;
        Some(header.with(bytes.tail(header.len)))
    }
}

impl<'a> Value<&'a [u8]> {
    /// As [`Value::decode`], all borrowed.
    #[must_use]
    pub fn borrow(bytes: &'a [u8]) -> Option<Value<&'a [u8]>> {
        let header = Header::decode(bytes)?;
        Some(header.with(&bytes[header.len..]))
    }
}

impl<P: AsRef<[u8]>> Value<P> {
    /// Whether it is gone at `now`.
    #[must_use]
    pub fn is_expired(&self, now: TimeMs) -> bool {
        self.expiry.is_some_and(|at| at <= now)
    }

    /// Appends the bytes that stand for it.
    ///
    /// # Panics
    /// If kind or encoding is out of its range.
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.kind < 16 && self.encoding < 4, "kind {} encoding {}", self.kind, self.encoding);
        let expiry = if self.expiry.is_some() { HAS_EXPIRY } else { 0 };
        let generation = if self.generation.is_some() { HAS_GENERATION } else { 0 };
        out.push(self.kind | expiry | generation | self.encoding << 6);
        if let Some(TimeMs(at)) = self.expiry {
            out.extend_from_slice(&at.to_le_bytes());
        }
        if let Some(Generation(number)) = self.generation {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(self.payload.as_ref());
    }

    /// How many bytes [`Value::encode`] appends.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let numbers = usize::from(self.expiry.is_some()) + usize::from(self.generation.is_some());
        1 + 8 * numbers + self.payload.as_ref().len()
    }
}

/// A value's header alone: what a merge needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The type.
    pub kind: u8,
    /// The type's form.
    pub encoding: u8,
    /// When the value ceases to be.
    pub expiry: Option<TimeMs>,
    /// The generation of its elements.
    pub generation: Option<Generation>,
    /// Bytes that the header takes.
    pub len: usize,
}

impl Header {
    /// The value of this header with its payload.
    pub(crate) fn with<P>(self, payload: P) -> Value<P> {
        let Header { kind, encoding, expiry, generation, .. } = self;
        Value { kind, encoding, expiry, generation, payload }
    }

    /// Reads the header; `None` if the bytes are too short.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Header> {
        let (&head, mut rest) = bytes.split_first()?;
        let mut number = |present: bool| -> Option<Option<u64>> {
            if !present {
                return Some(None);
            }
            let (raw, tail) = rest.split_first_chunk::<8>()?;
            rest = tail;
            Some(Some(u64::from_le_bytes(*raw)))
        };
        let expiry = number(head & HAS_EXPIRY != 0)?.map(TimeMs);
        let generation = number(head & HAS_GENERATION != 0)?.map(Generation);
        Some(Header {
            kind: head & 0x0f,
            encoding: head >> 6,
            expiry,
            generation,
            len: bytes.len() - rest.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_of_value_reads_back_and_a_cut_header_is_refused() {
        for expiry in [None, Some(TimeMs(1 << 41))] {
            for generation in [None, Some(Generation(77))] {
                let value =
                    Value { kind: 9, encoding: 2, expiry, generation, payload: Bytes::from_static(b"abc") };
                let mut out = Vec::new();
                value.encode(&mut out);
                let header = Header::decode(&out).expect("whole");
                assert_eq!(&out[header.len..], b"abc");
                for cut in 0..header.len {
                    assert_eq!(Header::decode(&out[..cut]), None);
                }
                assert_eq!(Value::decode(&Bytes::from(out)), Some(value));
            }
        }
    }
}
