//! Redis' packed forms of small collections: ziplist, listpack, intset, zipmap. Read only; each gives its items in order.
//!
//! ```text
//! ziplist, Redis' format; numbers little-endian unless said
//!  0   4   bytes      of all of it
//!  4   4   tail       where the last entry begins
//!  8   2   count      0xffff: not known
//! 10   n   entries    previous entry's length (1 byte, or 0xfe and 4), encoding, data:
//!                     00nnnnnn, 01nnnnnn x8 (big-endian), 0x80 and 4 bytes (big-endian): length of a string
//!                     0xc0 i16 | 0xd0 i32 | 0xe0 i64 | 0xf0 i24 | 0xfe i8 | 0xf1 to 0xfd: 0 to 12
//!  .   1   end        0xff
//!
//! listpack, Redis' format; numbers little-endian unless said
//!  0   4   bytes      of all of it
//!  4   2   count      0xffff: not known
//!  6   n   entries    encoding, data, then their length backwards (1 to 5 bytes by how long they are):
//!                     0nnnnnnn: 0 to 127 | 110nnnnn x8: i13 (big-endian)
//!                     10nnnnnn, 1110nnnn x8 (big-endian), 0xf0 and 4 bytes: length of a string
//!                     0xf1 i16 | 0xf2 i24 | 0xf3 i32 | 0xf4 i64
//!  .   1   end        0xff
//!
//! intset, Redis' format; little-endian
//!  0   4   width      2, 4 or 8
//!  4   4   count
//!  8   n   members    ascending, each of that width
//!
//! zipmap, Redis' format
//!  0   1   count      0xfe and above: not known
//!  1   n   entries    field's length (1 byte, or 0xfe and 4 little-endian), field, value's length, 1 byte of how many
//!                     unused bytes follow the value, value, those
//!  .   1   end        0xff
//! ```

use bytes::Bytes;

use crate::number::Decimal;

/// Where reading has come to, in bytes that are shared by the items that are found there.
pub struct Cursor {
    rest: Bytes,
}

impl Cursor {
    /// At the beginning.
    pub fn new(bytes: Bytes) -> Cursor {
        Cursor { rest: bytes }
    }

    /// The next bytes, if there are as many.
    pub fn take(&mut self, count: usize) -> Option<Bytes> {
        (count <= self.rest.len()).then(|| self.rest.split_to(count))
    }

    /// The next byte.
    pub fn byte(&mut self) -> Option<u8> {
        let byte = *self.rest.first()?;
        self.rest = self.rest.slice(1..);
        Some(byte)
    }

    /// The next bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.as_ref().try_into().ok()
    }

    /// Whether nothing follows.
    pub fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    fn length(bytes: [u8; 4], big: bool) -> Option<usize> {
        usize::try_from(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }).ok()
    }

    /// A little-endian number with a sign, of `N` bytes.
    fn signed<const N: usize>(&mut self) -> Option<i64> {
        let raw: [u8; N] = self.array()?;
        let fill = if raw.last().is_some_and(|top| top & 0x80 != 0) { 0xff } else { 0 };
        let mut wide = [fill; 8];
        wide[..N].copy_from_slice(&raw);
        Some(i64::from_le_bytes(wide))
    }
}

/// A number's digits as an item.
pub fn digits(value: i64) -> Bytes {
    Bytes::copy_from_slice(Decimal::default().format(value))
}

/// Checks the announced length of all, and the announced count after the items were read.
fn is_whole(bytes: &Bytes) -> Option<()> {
    let announced = Cursor::length(*bytes.first_chunk()?, false)?;
    (announced == bytes.len()).then_some(())
}

fn is_counted(count: [u8; 2], items: &[Bytes]) -> bool {
    let count = u16::from_le_bytes(count);
    count == u16::MAX || usize::from(count) == items.len()
}

/// The items of a ziplist; `None` if the bytes are none.
pub fn ziplist(bytes: &Bytes) -> Option<Vec<Bytes>> {
    is_whole(bytes)?;
    let mut cursor = Cursor::new(bytes.slice(4..));
    cursor.take(4)?;
    let count = cursor.array()?;
    let mut items = Vec::new();
    loop {
        match cursor.byte()? {
            0xff => break,
            0xfe => {
                cursor.take(4)?;
            }
            _ => {}
        }
        let head = cursor.byte()?;
        let len = match head {
            0x00..=0x3f => usize::from(head),
            0x40..=0x7f => usize::from(head & 0x3f) << 8 | usize::from(cursor.byte()?),
            0x80 => Cursor::length(cursor.array()?, true)?,
            _ => {
                items.push(digits(match head {
                    0xc0 => cursor.signed::<2>()?,
                    0xd0 => cursor.signed::<4>()?,
                    0xe0 => cursor.signed::<8>()?,
                    0xf0 => cursor.signed::<3>()?,
                    0xfe => cursor.signed::<1>()?,
                    0xf1..=0xfd => i64::from(head) - 0xf1,
                    _ => return None,
                }));
                continue;
            }
        };
        items.push(cursor.take(len)?);
    }
    (cursor.is_at_end() && is_counted(count, &items)).then_some(items)
}

/// The items of a listpack; `None` if the bytes are none.
pub fn listpack(bytes: &Bytes) -> Option<Vec<Bytes>> {
    is_whole(bytes)?;
    let mut cursor = Cursor::new(bytes.slice(4..));
    let count = cursor.array()?;
    let mut items = Vec::new();
    loop {
        let before = cursor.rest.len();
        let head = cursor.byte()?;
        let item = match head {
            0xff => break,
            0x00..=0x7f => digits(i64::from(head)),
            0x80..=0xbf => cursor.take(usize::from(head & 0x3f))?,
            0xc0..=0xdf => {
                let value = i64::from(head & 0x1f) << 8 | i64::from(cursor.byte()?);
                digits(if value < 1 << 12 { value } else { value - (1 << 13) })
            }
            0xe0..=0xef => {
                let len = usize::from(head & 0x0f) << 8 | usize::from(cursor.byte()?);
                cursor.take(len)?
            }
            0xf0 => {
                let len = Cursor::length(cursor.array()?, false)?;
                cursor.take(len)?
            }
            0xf1 => digits(cursor.signed::<2>()?),
            0xf2 => digits(cursor.signed::<3>()?),
            0xf3 => digits(cursor.signed::<4>()?),
            0xf4 => digits(cursor.signed::<8>()?),
            _ => return None,
        };
        items.push(item);
        cursor.take(backwards_bytes(before - cursor.rest.len()))?;
    }
    (cursor.is_at_end() && is_counted(count, &items)).then_some(items)
}

/// Bytes that the length of a listpack's entry takes behind it. The limits are Redis'.
fn backwards_bytes(entry: usize) -> usize {
    match entry {
        0..=127 => 1,
        128..=16382 => 2,
        16383..=2_097_150 => 3,
        2_097_151..=268_435_454 => 4,
        _ => 5,
    }
}

/// A listpack on its way.
pub struct Listpack {
    bytes: Vec<u8>,
    count: u16,
}

impl Default for Listpack {
    fn default() -> Listpack {
        Listpack { bytes: vec![0; 6], count: 0 }
    }
}

impl Listpack {
    /// Appends bytes.
    pub fn string(&mut self, text: &[u8]) {
        let start = self.bytes.len();
        let len = u32::try_from(text.len()).expect("no string here is longer");
        let [.., high, low] = len.to_be_bytes();
        match len {
            0..64 => self.bytes.push(0x80 | low),
            64..4096 => self.bytes.extend([0xe0 | high, low]),
            _ => {
                self.bytes.push(0xf0);
                self.bytes.extend(len.to_le_bytes());
            }
        }
        self.bytes.extend_from_slice(text);
        self.end(start);
    }

    /// Appends a number.
    pub fn integer(&mut self, value: i64) {
        let start = self.bytes.len();
        let raw = value.to_le_bytes();
        match value {
            0..=127 => self.bytes.push(raw[0]),
            -4096..=4095 => self.bytes.extend([0xc0 | raw[1] & 0x1f, raw[0]]),
            -32_768..=32_767 => self.wide(0xf1, &raw[..2]),
            -8_388_608..=8_388_607 => self.wide(0xf2, &raw[..3]),
            -2_147_483_648..=2_147_483_647 => self.wide(0xf3, &raw[..4]),
            _ => self.wide(0xf4, &raw),
        }
        self.end(start);
    }

    fn wide(&mut self, head: u8, raw: &[u8]) {
        self.bytes.push(head);
        self.bytes.extend_from_slice(raw);
    }

    /// Ends an item with its length, to be read from behind: seven bits a byte, the highest first.
    fn end(&mut self, start: usize) {
        let len = self.bytes.len() - start;
        let bytes = backwards_bytes(len);
        for at in (0..bytes).rev() {
            let seven = u8::try_from(len >> (7 * at) & 0x7f).expect("seven bits");
            self.bytes.push(if at + 1 == bytes { seven } else { seven | 0x80 });
        }
        self.count = self.count.saturating_add(1);
    }

    /// All of it.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.push(0xff);
        let len = u32::try_from(self.bytes.len()).expect("no string here is longer");
        self.bytes[..4].copy_from_slice(&len.to_le_bytes());
        self.bytes[4..6].copy_from_slice(&self.count.to_le_bytes());
        self.bytes
    }
}

/// The members of an intset; `None` if the bytes are none.
pub fn intset(bytes: &Bytes) -> Option<Vec<Bytes>> {
    let mut cursor = Cursor::new(bytes.clone());
    let width = Cursor::length(cursor.array()?, false)?;
    let count = Cursor::length(cursor.array()?, false)?;
    if !matches!(width, 2 | 4 | 8) || count.checked_mul(width)? != cursor.rest.len() {
        return None;
    }
    let mut members = Vec::with_capacity(count);
    let mut last = None;
    for _ in 0..count {
        let value = match width {
            2 => cursor.signed::<2>()?,
            4 => cursor.signed::<4>()?,
            8 => cursor.signed::<8>()?,
            _ => return None,
        };
        if last.is_some_and(|last| last >= value) {
            return None;
        }
        last = Some(value);
        members.push(digits(value));
    }
    Some(members)
}

/// The fields of a zipmap with their values, in turn; `None` if the bytes are none.
pub fn zipmap(bytes: &Bytes) -> Option<Vec<Bytes>> {
    let mut cursor = Cursor::new(bytes.clone());
    let count = cursor.byte()?;
    let mut items = Vec::new();
    while let Some(len) = zipmap_length(&mut cursor)? {
        items.push(cursor.take(len)?);
        let len = zipmap_length(&mut cursor)??;
        let unused = usize::from(cursor.byte()?);
        items.push(cursor.take(len)?);
        cursor.take(unused)?;
    }
    let counted = count >= 0xfe || usize::from(count) * 2 == items.len();
    (cursor.is_at_end() && counted).then_some(items)
}

/// A length in a zipmap; `Some(None)` at its end.
fn zipmap_length(cursor: &mut Cursor) -> Option<Option<usize>> {
    Some(match cursor.byte()? {
        0xff => None,
        0xfe => Some(Cursor::length(cursor.array()?, false)?),
        len => Some(usize::from(len)),
    })
}
