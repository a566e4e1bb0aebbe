//! Writes payloads, an element at a time: what is dumped need not be in memory as an [`Object`](super::Object).

use super::{STREAM_VERSION, VERSION, crc64, types};
use crate::number::format_double;

/// A payload on its way. Whoever makes one for a collection writes as many elements as were announced.
#[derive(Debug)]
pub struct Writer(pub(super) Vec<u8>);

impl Writer {
    /// A string, whole.
    #[must_use]
    pub fn string(bytes: &[u8]) -> Writer {
        let mut out = Writer(Vec::with_capacity(bytes.len() + 20));
        out.0.push(types::STRING);
        out.item(bytes);
        out
    }

    /// A list of so many items.
    #[must_use]
    pub fn list(len: usize) -> Writer {
        Writer::collection(types::LIST, len)
    }

    /// A set of so many members.
    #[must_use]
    pub fn set(len: usize) -> Writer {
        Writer::collection(types::SET, len)
    }

    /// A sorted set of so many members, each an item and a score.
    #[must_use]
    pub fn sorted_set(len: usize) -> Writer {
        Writer::collection(types::ZSET, len)
    }

    /// A hash of so many fields, each two items.
    #[must_use]
    pub fn hash(len: usize) -> Writer {
        Writer::collection(types::HASH, len)
    }

    fn collection(kind: u8, len: usize) -> Writer {
        let mut out = Writer(vec![kind]);
        out.length(len);
        out
    }

    fn length(&mut self, len: usize) {
        self.number(len as u64);
    }

    /// A length, or a number that is written as one.
    pub(super) fn number(&mut self, len: u64) {
        let out = &mut self.0;
        match u32::try_from(len) {
            Ok(len @ 0..64) => out.extend_from_slice(&len.to_be_bytes()[3..]),
            Ok(len @ 64..16384) => out.extend_from_slice(&(len | 0x4000).to_be_bytes()[2..]),
            Ok(len) => {
                out.push(0x80);
                out.extend_from_slice(&len.to_be_bytes());
            }
            Err(_) => {
                out.push(0x81);
                out.extend_from_slice(&len.to_be_bytes());
            }
        }
    }

    /// An item, a member, a field or its value.
    pub fn item(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    /// A member's score, after the member.
    pub fn score(&mut self, score: f64) {
        if score.is_finite() {
            let digits = format_double(score);
            self.0.push(u8::try_from(digits.len()).expect("17 digits, a point, an exponent"));
            self.0.extend_from_slice(digits.as_bytes());
        } else {
            self.0.push(match score {
                f64::INFINITY => 0xfe,
                f64::NEG_INFINITY => 0xff,
                _ => 0xfd,
            });
        }
    }

    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was written yet: never.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The payload, with version and checksum.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        let mut out = self.0;
        let version = if out.first() == Some(&types::STREAM_2) { STREAM_VERSION } else { VERSION };
        out.extend_from_slice(&version.to_le_bytes());
        let checksum = crc64(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }
}

/// The payload of FUNCTION DUMP: the texts of libraries.
pub fn dump_functions<'a>(texts: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = Writer(Vec::new());
    for text in texts {
        out.0.push(types::FUNCTION);
        out.item(text);
    }
    out.finish()
}
