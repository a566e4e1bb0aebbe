//! The index of a run: for each block where it begins, and a key that parts it from the block before.
//!
//! ```text
//! index, part of the format
//!  varint   n          blocks, at least 1
//!  n times: varint     offset of the block in the run, less that of the block before (0 for the first)
//!           varint, m  separator: empty for the first block, else the shortest prefix of the block's first key
//!                      that is greater than the last key of the block before
//! ```
//! Keys begin with a uniform hash, so a separator is 3 or 4 bytes in most runs, and nearly every search is decided
//! by the first 8 bytes, kept side by side as numbers.

use super::search::{partition_point, prefix_of};
use crate::varint;

/// Collects blocks.
#[derive(Default)]
pub struct IndexBuilder {
    entries: Vec<u8>,
    count: u64,
    last_offset: u64,
}

impl IndexBuilder {
    /// Adds a block that begins at `offset` with `first_key`, after a block that ended with `last_key`.
    pub fn add(&mut self, offset: u64, last_key: &[u8], first_key: &[u8]) {
        varint::put(&mut self.entries, offset - self.last_offset);
        let separator = if self.count == 0 { &[] } else { separator(last_key, first_key) };
        varint::put_slice(&mut self.entries, separator);
        self.count += 1;
        self.last_offset = offset;
    }

    /// Appends the index.
    pub fn encode(&self, out: &mut Vec<u8>) {
        varint::put(out, self.count);
        out.extend_from_slice(&self.entries);
    }
}

/// The shortest prefix of `above` that is greater than `below`, which is less than `above`.
fn separator<'a>(below: &[u8], above: &'a [u8]) -> &'a [u8] {
    let common = below.iter().zip(above).take_while(|(b, a)| b == a).count();
    &above[..(common + 1).min(above.len())]
}

/// An index in memory.
pub struct Index {
    /// The first 8 bytes of each separator, big-endian, filled up with zeros.
    prefixes: Vec<u64>,
    /// Where each block begins in the run; one more: where the last ends.
    offsets: Vec<u64>,
    /// Where each separator ends in `separators`.
    ends: Vec<usize>,
    separators: Vec<u8>,
}

impl Index {
    /// Reads an index over blocks that end at `data_len`; `None` if it does not hold together.
    #[must_use]
    pub fn decode(mut bytes: &[u8], data_len: u64) -> Option<Index> {
        let count = usize::try_from(varint::take(&mut bytes)?).ok()?;
        if count == 0 || count > bytes.len() {
            return None;
        }
        let mut index = Index {
            prefixes: Vec::with_capacity(count),
            offsets: Vec::with_capacity(count + 1),
            ends: Vec::with_capacity(count),
            separators: Vec::new(),
        };
        let mut offset = 0u64;
        for number in 0..count {
            let step = varint::take(&mut bytes)?;
            let separator = varint::take_slice(&mut bytes)?;
            let ascends = match number {
                0 => step == 0 && separator.is_empty(),
                _ => step > 0 && separator > index.separator(number - 1),
            };
            offset = offset.checked_add(step)?;
            if !ascends {
                return None;
            }
            index.prefixes.push(prefix_of(separator));
            index.offsets.push(offset);
            index.separators.extend_from_slice(separator);
            index.ends.push(index.separators.len());
        }
        index.offsets.push(data_len);
        index.separators.shrink_to_fit();
        (bytes.is_empty() && offset < data_len).then_some(index)
    }

    /// What parts a block from the one before; no key of the block is below.
    ///
    /// # Panics
    /// If `block` is not below [`Index::count`].
    #[must_use]
    pub fn separator(&self, block: usize) -> &[u8] {
        let start = if block == 0 { 0 } else { self.ends[block - 1] };
        &self.separators[start..self.ends[block]]
    }

    /// How many blocks there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.prefixes.len()
    }

    /// The only block that may hold `key`.
    #[must_use]
    pub fn block_of(&self, key: &[u8]) -> usize {
        let above = partition_point(&self.prefixes, prefix_of(key), |block| self.separator(block) <= key);
        above.max(1) - 1
    }

    /// Where a block lies in the run.
    ///
    /// # Panics
    /// If `block` is not below [`Index::count`].
    #[must_use]
    pub fn extent(&self, block: usize) -> std::ops::Range<u64> {
        self.offsets[block]..self.offsets[block + 1]
    }

    /// The block that begins at this offset in the run.
    #[must_use]
    pub fn block_at(&self, offset: u64) -> Option<usize> {
        self.offsets[..self.count()].binary_search(&offset).ok()
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.prefixes.len() * 8 + self.offsets.len() * 8 + self.ends.len() * 8 + self.separators.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(keys: &[(&[u8], &[u8])]) -> Index {
        let mut builder = IndexBuilder::default();
        let mut last: &[u8] = b"";
        for (number, (first, end)) in keys.iter().enumerate() {
            builder.add(number as u64 * 10, last, first);
            last = end;
        }
        let mut bytes = Vec::new();
        builder.encode(&mut bytes);
        Index::decode(&bytes, keys.len() as u64 * 10).expect("just encoded")
    }

    #[test]
    fn every_key_is_looked_for_in_the_block_that_holds_it() {
        let long = b"prefixprefix";
        let keys: Vec<Vec<u8>> = (0..200u32)
            .map(|n| match n {
                0..50 => n.to_be_bytes().to_vec(),
                50..150 => [&long[..], &n.to_be_bytes()[..]].concat(),
                _ => [b"z".repeat(n as usize), vec![0]].concat(),
            })
            .collect();
        for per_block in 1..7 {
            let blocks: Vec<_> = keys.chunks(per_block).collect();
            let bounds: Vec<_> = blocks.iter().map(|b| (&b[0][..], &b[b.len() - 1][..])).collect();
            let index = build(&bounds);
            for (number, block) in blocks.iter().enumerate() {
                for key in *block {
                    assert_eq!(index.block_of(key), number, "{key:?} of {per_block}");
                }
                assert_eq!(index.block_at(number as u64 * 10), Some(number));
            }
            assert_eq!(index.block_of(b""), 0);
            assert_eq!(index.block_of(&[0xff; 20]), blocks.len() - 1);
        }
    }

    #[test]
    fn separators_are_short_and_part_the_blocks() {
        assert_eq!(separator(b"abc", b"abd"), b"abd");
        assert_eq!(separator(b"abc", b"b"), b"b");
        assert_eq!(separator(b"ab", b"abcd"), b"abc");
        assert_eq!(separator(b"", b"abcd"), b"a");
    }

    #[test]
    fn an_index_that_does_not_hold_together_is_refused() {
        let mut builder = IndexBuilder::default();
        builder.add(0, b"", b"a");
        builder.add(10, b"b", b"c");
        let mut bytes = Vec::new();
        builder.encode(&mut bytes);
        assert!(Index::decode(&bytes, 20).is_some());
        assert!(Index::decode(&bytes, 10).is_none());
        for cut in 0..bytes.len() {
            assert!(Index::decode(&bytes[..cut], 20).is_none(), "{cut}");
        }
        assert!(Index::decode(&[0xff, 0xff, 0xff, 0xff, 0x0f], 20).is_none());
    }
}
