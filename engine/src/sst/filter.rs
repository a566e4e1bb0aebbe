//! The filter of a run: a Bloom filter in blocks of one cache line, about 10 bits an entry key, 1 % false answers.
//!
//! ```text
//! filter, part of the format; all numbers little-endian
//!  0   64n  lines   512 bits each. The hash of an entry key is its xxh3-64: the high half picks the line
//!                   (half * n >> 32), the low half is multiplied by 0x9e3779b9 (mod 2^32) before each of 6
//!                   probes, whose top 9 bits are the bit in the line
//! ```
//! The scheme is RocksDB's `FastLocalBloom`. The number of entries is only bounded before a run is written, so the
//! filter starts for the bound, and is folded in two as long as it is more than twice too large: with this choice
//! of line, the line of a key in half the filter is half its line.

use crate::planted::{self, Bug};

/// Probes per key. Part of the format.
const PROBES: usize = 6;
const LINE_BYTES: usize = 64;
const BITS_PER_KEY: u64 = 10;
/// 1 GiB of filter: 800 million entries in one run. Beyond, the share of false answers grows.
const LINES_MAX: u64 = 1 << 24;

/// The hash that filters use, computed once per key for all runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyHash(u64);

impl KeyHash {
    /// The hash of an entry key.
    #[must_use]
    pub fn of(entry_key: &[u8]) -> KeyHash {
        KeyHash(xxhash_rust::xxh3::xxh3_64(entry_key))
    }
}

#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Line([u64; 8]);

/// A filter in memory.
pub struct Filter {
    /// Invariant: not empty.
    lines: Vec<Line>,
}

impl Filter {
    /// An empty filter, large enough for this many keys.
    #[must_use]
    pub fn for_keys(keys_max: u64) -> Filter {
        let lines = lines_for(keys_max);
        Filter { lines: vec![Line::default(); lines] }
    }

    fn line_of(&self, hash: KeyHash) -> usize {
        let lines = self.lines.len() as u64;
        usize::try_from(((hash.0 >> 32) * lines) >> 32).expect("below the number of lines")
    }

    /// Inserts a key.
    pub fn insert(&mut self, hash: KeyHash) {
        let line = self.line_of(hash);
        for (word, bit) in probes(hash) {
            self.lines[line].0[word] |= bit;
        }
    }

    /// `false` if the key was certainly not inserted.
    #[must_use]
    pub fn may_contain(&self, hash: KeyHash) -> bool {
        if planted::is(Bug::FilterDenies) && hash.0.is_multiple_of(16) {
            return false;
        }
        let line = &self.lines[self.line_of(hash)].0;
        probes(hash).all(|(word, bit)| line[word] & bit != 0)
    }

    /// Folds it to the size that fits the keys that it really got.
    pub fn shrink_to(&mut self, keys: u64) {
        while self.lines.len().is_multiple_of(2) && self.lines.len() >= 2 * lines_for(keys) {
            let fold = |pair: &[Line]| Line(std::array::from_fn(|word| pair[0].0[word] | pair[1].0[word]));
            self.lines = self.lines.chunks_exact(2).map(fold).collect();
        }
    }

    /// Appends the filter's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.lines.iter().flat_map(|line| line.0).for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    }

    /// Reads a filter; `None` unless it is one line or more and no part of one.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Filter> {
        let (lines, rest) = bytes.as_chunks::<LINE_BYTES>();
        if lines.is_empty() || lines.len() as u64 > LINES_MAX || !rest.is_empty() {
            return None;
        }
        let line = |raw: &[u8; LINE_BYTES]| {
            let (words, _) = raw.as_chunks::<8>();
            Line(std::array::from_fn(|word| u64::from_le_bytes(words[word])))
        };
        Some(Filter { lines: lines.iter().map(line).collect() })
    }

    /// The share of bits that are set, and how often a key that is not there finds all of its bits set.
    #[allow(clippy::cast_precision_loss)] // figures for people
    pub(super) fn fill(&self) -> (f64, f64) {
        let share = |line: &Line| {
            f64::from(line.0.iter().map(|word| word.count_ones()).sum::<u32>()) / (8 * LINE_BYTES) as f64
        };
        let lines = self.lines.len().max(1) as f64;
        let fill = self.lines.iter().map(share).sum::<f64>() / lines;
        let wrong = self.lines.iter().map(|line| share(line).powf(PROBES as f64)).sum::<f64>() / lines;
        (fill, wrong)
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.lines.len() * LINE_BYTES
    }
}

/// An even number (so that it can be folded), at least 1.
fn lines_for(keys: u64) -> usize {
    let exact = keys.saturating_mul(BITS_PER_KEY).div_ceil(8 * LINE_BYTES as u64);
    // A number with many factors of two can be folded that often.
    let step = (exact / 16).max(1).next_power_of_two();
    let lines = exact.div_ceil(step).saturating_mul(step).clamp(1, LINES_MAX);
    usize::try_from(lines).expect("at most 2^24")
}

fn probes(hash: KeyHash) -> impl Iterator<Item = (usize, u64)> {
    #[allow(clippy::cast_possible_truncation)] // the low half is what is meant
    let mut state = hash.0 as u32;
    (0..PROBES).map(move |_| {
        state = state.wrapping_mul(0x9e37_79b9);
        let bit = state >> 23;
        ((bit >> 6) as usize, 1 << (bit & 63))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u64) -> KeyHash {
        KeyHash::of(&number.to_be_bytes())
    }

    #[test]
    fn what_was_inserted_is_found_and_little_else_before_and_after_folding() {
        for (bound, keys) in
            [(1, 1), (1000, 1000), (100_000, 100_000), (100_000, 9_000), (64_000, 1000), (10, 0)]
        {
            let mut filter = Filter::for_keys(bound);
            (0..keys).for_each(|key| filter.insert(hash(key)));
            filter.shrink_to(keys);
            assert!(
                filter.memory_bytes() as u64 <= 64 + keys * 5 / 2 + keys / 4,
                "{bound} {keys}: {}",
                filter.memory_bytes()
            );
            let mut bytes = Vec::new();
            filter.encode(&mut bytes);
            let filter = Filter::decode(&bytes).expect("whole lines");
            assert!((0..keys).all(|key| filter.may_contain(hash(key))), "{bound} {keys}");
            let wrong = (1_000_000..1_010_000).filter(|&key| filter.may_contain(hash(key))).count();
            assert!(wrong < 200, "{bound} {keys}: {wrong} of 10000");
        }
    }

    #[test]
    fn parts_of_a_line_are_refused() {
        assert!(Filter::decode(&[]).is_none());
        assert!(Filter::decode(&[0; 63]).is_none());
        assert!(Filter::decode(&[0; 65]).is_none());
    }
}
