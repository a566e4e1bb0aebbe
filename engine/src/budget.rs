//! One budget of memory, and who may take how much of it. Pure arithmetic.
//!
//! The program itself takes some MiB; of what is left:
//!
//! ```text
//! 1/2    memtables, frozen ones included; from 3/8 on the largest are flushed, a piece at a time
//! 1/32   the log's tail, for readers that follow live
//! 1/16   what is appended and not written yet, and its twin that is being written
//! 3/16   what no one counts: the allocator's slack, buffers of a flush and a compaction, stacks
//! rest   indexes and filters of the runs in files and indexes of the log's segments, which stay in memory, and the block
//!        cache: what those leave of it
//! ```

/// See the file's head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Budget(usize);

/// What the process takes before the first key.
const PROGRAM_BYTES: usize = 5 << 20;
/// A piece is at least so large: a flush costs a file and two syncs, whatever it holds.
const PIECE_BYTES_MIN: usize = 256 << 10;
/// And at most so large: writers that find the memory full wait for one piece.
const PIECE_BYTES_MAX: usize = 8 << 20;

impl Budget {
    /// So many bytes for all.
    pub(crate) fn new(bytes: usize) -> Budget {
        Budget(bytes - (bytes / 8).min(PROGRAM_BYTES))
    }

    /// Memtables of more than this are flushed.
    pub(crate) const fn flush_at(self) -> usize {
        self.0 / 8 * 3
    }

    /// Memtables never take more: writers wait.
    pub(crate) const fn memtables_max(self) -> usize {
        self.0 / 2
    }

    /// About so much is flushed at a time.
    pub(crate) fn flush_piece(self) -> usize {
        (self.0 / 16).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX)
    }

    /// The log's last frames.
    pub(crate) const fn log_tail(self) -> usize {
        self.0 / 32
    }

    /// What may wait for the next write of the log.
    pub(crate) const fn log_pending(self) -> usize {
        self.0 / 32
    }

    /// Blocks of files, where indexes and filters take `pinned` bytes. A little is left to the cache whatever they take.
    pub(crate) fn cache(self, pinned: usize) -> usize {
        let shared = self.0 - self.0 / 2 - self.0 / 32 - self.0 / 16 - self.0 / 16 * 3;
        shared.saturating_sub(pinned).max(self.0 / 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Options;

    #[test]
    fn a_log_segment_is_a_quarter_of_the_memory_at_most() {
        for memory_bytes in [1, 16 << 20, 100 << 20, 129 << 20, 256 << 20, 1 << 30] {
            let options = Options { memory_bytes, ..Options::default() };
            let bytes = options.segment_bytes();
            assert!(bytes.is_power_of_two() && bytes <= (memory_bytes as u64 / 4).max(2 << 20), "{bytes}");
            assert!(bytes * 8 > (memory_bytes as u64).min(256 << 20), "{bytes}");
        }
    }

    #[test]
    fn the_shares_are_the_whole_and_no_more() {
        for bytes in [4 << 10, 1 << 20, 64 << 20, (1 << 30) + 1] {
            let budget = Budget::new(bytes);
            let bytes = bytes - (bytes / 8).min(PROGRAM_BYTES);
            let taken = budget.memtables_max()
                + budget.log_tail()
                + 2 * budget.log_pending()
                + budget.cache(0)
                + bytes / 16 * 3;
            assert!(taken <= bytes && taken + 128 > bytes, "{taken} of {bytes}");
            assert!(budget.flush_at() < budget.memtables_max());
            let pinned = budget.cache(0) / 2;
            assert_eq!(budget.cache(pinned), budget.cache(0) - pinned);
            assert_eq!(budget.cache(bytes), bytes / 32);
        }
    }
}
