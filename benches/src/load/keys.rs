//! Keys: number to bytes, and in which slot they fall.
//!
//! A key is ASCII and of fixed length, so that any store and any server takes it and order by bytes is order by number:
//!
//! ```text
//! 0000000000001234     all 1024 slots, uniform: the number, zero-padded; its slot is what CRC-32 says
//! {0a7}00000001234     fewer slots, slots of unequal heat, or ordered workloads: a tag first, one for each slot
//! ```
//! With tags the keys are cut into as many ranges of equal size as there are slots, in the order of the tags: keys of one
//! slot are neighbours in every target, and the order by number still is the order by bytes.

use haypile_engine::types::{SLOT_COUNT, Slot};

use super::below;
use crate::error::{Error, Result};

/// Bytes of a tag with its braces.
const TAG_BYTES: usize = 5;

/// The longest key.
pub const KEY_BYTES_MAX: usize = 512;

/// What a key's first digit is replaced by, so that keys of different types never meet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// Strings: the digit stays.
    Plain,
    /// Counters.
    Counter,
    /// Hashes.
    Hash,
    /// Lists.
    List,
    /// Sorted sets.
    SortedSet,
}

impl Space {
    fn letter(self) -> Option<u8> {
        match self {
            Space::Plain => None,
            Space::Counter => Some(b'c'),
            Space::Hash => Some(b'h'),
            Space::List => Some(b'l'),
            Space::SortedSet => Some(b'z'),
        }
    }
}

/// How keys are written.
#[derive(Clone, Debug)]
pub struct Keys {
    bytes: usize,
    count: u64,
    /// Ascending; empty if keys have no tags.
    tags: Vec<[u8; TAG_BYTES]>,
}

impl Keys {
    /// Keys of so many bytes for numbers below `count`, in so many slots, with or without tags.
    ///
    /// # Errors
    /// If the numbers don't fit.
    pub fn new(bytes: usize, count: u64, slots: u16, tagged: bool) -> Result<Keys> {
        if slots == 0 || slots > SLOT_COUNT {
            return Err(Error::Usage(format!("there are 1 to {SLOT_COUNT} slots, not {slots}")));
        }
        let tagged = tagged || slots < SLOT_COUNT;
        let digits_min = if tagged { TAG_BYTES } else { 0 } + count.max(10).to_string().len() + 1;
        if bytes < digits_min || bytes > KEY_BYTES_MAX {
            return Err(Error::Usage(format!(
                "a key of {count} needs {digits_min} to {KEY_BYTES_MAX} bytes, not {bytes}"
            )));
        }
        Ok(Keys { bytes, count: count.max(1), tags: if tagged { tags(slots) } else { Vec::new() } })
    }

    /// Bytes of each key.
    /// Bytes of each key.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The tags, ascending: none if keys have none.
    #[must_use]
    pub fn tags(&self) -> &[[u8; TAG_BYTES]] {
        &self.tags
    }

    /// How many ranges with a tag of their own there are; 0 if keys have no tags.
    #[must_use]
    pub fn ranges(&self) -> u64 {
        self.tags.len() as u64
    }

    /// The numbers of a range.
    #[must_use]
    pub fn range(&self, range: u64) -> std::ops::Range<u64> {
        let ranges = self.ranges().max(1);
        let border = |index: u64| {
            let border = u128::from(self.count) * u128::from(index) / u128::from(ranges);
            u64::try_from(border).expect("a part of the count")
        };
        border(range)..border(range + 1)
    }

    /// A number near `picked` in a given range: for slots that are hotter than others.
    #[must_use]
    pub fn within(&self, range: u64, picked: u64) -> u64 {
        let numbers = self.range(range);
        numbers.start + picked % (numbers.end - numbers.start).max(1)
    }

    /// Writes the key of a number over `out`, which has [`Keys::bytes`].
    pub fn write(&self, out: &mut [u8], number: u64, space: Space) {
        let digits_start = if self.tags.is_empty() {
            0
        } else {
            // Numbers that were inserted beyond the count stay in the last range.
            let place = number.min(self.count - 1);
            let ranges = self.tags.len() as u64;
            let guess = u128::from(place) * u128::from(ranges) / u128::from(self.count);
            let guess = usize::try_from(guess).expect("below the number of ranges");
            // Borders are rounded down, so the guess is right or one too low.
            let next = guess + 1;
            let range =
                if next < self.tags.len() && self.range(next as u64).start <= place { next } else { guess };
            out[..TAG_BYTES].copy_from_slice(&self.tags[range]);
            TAG_BYTES
        };
        let digits = &mut out[digits_start..];
        write_digits(digits, number);
        if let Some(letter) = space.letter() {
            digits[0] = letter;
        }
    }

    /// Makes a written key one that was never written, right after it in the order.
    pub fn make_missing(&self, key: &mut [u8]) {
        // Digits come before it, so the key lies between two numbers that exist.
        if let Some(last) = key.last_mut() {
            *last = b'~';
        }
    }
}

/// Writes a number in decimal, right-aligned, zeros before it.
pub fn write_digits(out: &mut [u8], mut number: u64) {
    const PAIRS: &[u8; 200] =
        b"00010203040506070809101112131415161718192021222324252627282930313233343536373839\
        40414243444546474849505152535455565758596061626364656667686970717273747576777879\
        8081828384858687888990919293949596979899";
    let mut end = out.len();
    while number >= 10 && end >= 2 {
        let pair = usize::try_from(number % 100).expect("below 100") * 2;
        out[end - 2..end].copy_from_slice(&PAIRS[pair..pair + 2]);
        number /= 100;
        end -= 2;
    }
    if number > 0 && end >= 1 {
        out[end - 1] = b'0' + u8::try_from(number % 10).expect("below 10");
        end -= 1;
    }
    out[..end].fill(b'0');
}

/// Tags of so many different slots, ascending, the same every time.
fn tags(slots: u16) -> Vec<[u8; TAG_BYTES]> {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut taken = vec![false; usize::from(SLOT_COUNT)];
    let mut found = Vec::new();
    for &a in DIGITS {
        for &b in DIGITS {
            for &c in DIGITS {
                let tag = [b'{', a, b, c, b'}'];
                let slot = Slot::of_key(&tag).index();
                if found.len() < usize::from(slots) && !std::mem::replace(&mut taken[slot], true) {
                    found.push(tag);
                }
            }
        }
    }
    assert_eq!(found.len(), usize::from(slots), "46656 tags reach every slot");
    found
}

/// Every number below a bound once, in an order that looks random: a bijection, so that nothing is remembered.
#[derive(Clone, Copy, Debug)]
pub struct Shuffle {
    bound: u64,
    bits: u32,
    seed: u64,
}

impl Shuffle {
    /// An order of the numbers below `bound`.
    #[must_use]
    pub fn new(bound: u64, seed: u64) -> Shuffle {
        let bits = (64 - bound.saturating_sub(1).leading_zeros()).max(2);
        Shuffle { bound: bound.max(1), bits, seed }
    }

    /// The number that comes at a place below the bound.
    #[must_use]
    pub fn at(&self, place: u64) -> u64 {
        let mask = if self.bits == 64 { u64::MAX } else { (1 << self.bits) - 1 };
        let mut number = place;
        // Each step is a bijection below the power of two; walking on until it is below the bound keeps it one there.
        loop {
            for round in 0..3 {
                number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) & mask;
                number ^= number >> (self.bits / 2);
                number = number.wrapping_add(self.seed.rotate_left(round * 21)) & mask;
            }
            if number < self.bound {
                return number;
            }
        }
    }

    /// A number below the bound, from 64 random bits.
    #[must_use]
    pub fn any(&self, bits: u64) -> u64 {
        below(bits, self.bound)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_are_ordered_as_their_numbers_and_each_range_has_its_slot() {
        for (slots, tagged) in [(1, true), (7, true), (1024, true), (1024, false)] {
            let count = 3000;
            let keys = Keys::new(16, count, slots, tagged).expect("fits");
            let mut last = vec![0; 16];
            let mut slots_seen = BTreeSet::new();
            for number in 0..count {
                let mut key = vec![b'x'; 16];
                keys.write(&mut key, number, Space::Plain);
                assert!(key > last, "{number}: {key:?} after {last:?}");
                assert!(key.ends_with(format!("{number:06}").as_bytes()));
                slots_seen.insert(Slot::of_key(&key));
                let mut missing = key.clone();
                keys.make_missing(&mut missing);
                assert!(missing > key);
                last = key;
            }
            let expected = if tagged { usize::from(slots) } else { 970 };
            assert!(slots_seen.len() >= expected && slots_seen.len() <= usize::from(slots));
            let all: u64 =
                (0..keys.ranges()).map(|range| keys.range(range).end - keys.range(range).start).sum();
            assert_eq!(all, if tagged { count } else { 0 });
        }
    }

    #[test]
    fn a_number_that_does_not_fit_is_refused() {
        assert!(Keys::new(16, u64::MAX, 1, true).is_err());
        assert!(Keys::new(8, 1000, 1, true).is_err());
        assert!(Keys::new(8, 1000, 1024, false).is_ok());
        assert!(Keys::new(16, 1000, 0, false).is_err());
        assert!(Keys::new(16, 1000, 1025, false).is_err());
    }

    #[test]
    fn a_shuffle_gives_every_number_once() {
        for bound in [1, 2, 3, 100, 1000, 4096] {
            let shuffle = Shuffle::new(bound, 99);
            let seen: BTreeSet<u64> = (0..bound).map(|place| shuffle.at(place)).collect();
            assert_eq!((seen.len() as u64, seen.last().copied()), (bound, Some(bound - 1)));
        }
        let shuffle = Shuffle::new(1000, 7);
        let rising = (1..1000).filter(|&place| shuffle.at(place) > shuffle.at(place - 1)).count();
        assert!((400..600).contains(&rising), "{rising} of 999 steps go up");
    }
}
