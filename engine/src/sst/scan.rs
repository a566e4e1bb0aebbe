//! Reading a run from its first entry to its last with large reads of its own, past the cache: for merges and
//! checks. Waits for the disk; belongs to one thread.

use std::collections::VecDeque;

use super::block::Block;
use super::entry::EntryRef;
use super::run::Run;
use crate::error::Result;
use crate::sync::Arc;

/// Bytes of one read. A block that is larger is read alone.
const READ_BYTES: u64 = 256 << 10;

/// See the file's head.
pub struct Scan {
    run: Arc<Run>,
    /// The first block that was not read yet.
    next_block: usize,
    /// The blocks read ahead; the entry stands in the first.
    blocks: VecDeque<Block>,
    entry: usize,
}

impl Scan {
    /// Stands at the first entry.
    ///
    /// # Errors
    /// As [`Run::read_block`].
    pub fn new(run: Arc<Run>) -> Result<Scan> {
        let mut scan = Scan { run, next_block: 0, blocks: VecDeque::new(), entry: 0 };
        scan.fill()?;
        Ok(scan)
    }

    fn fill(&mut self) -> Result<()> {
        if self.blocks.is_empty() && self.next_block < self.run.block_count() {
            self.blocks.extend(self.run.read_blocks(self.next_block, READ_BYTES)?);
            self.next_block += self.blocks.len();
        }
        Ok(())
    }

    /// The entry that it stands at; `None` after the last.
    #[must_use]
    pub fn current(&self) -> Option<(&[u8], EntryRef<'_>)> {
        Some(self.blocks.front()?.entry_ref(self.entry))
    }

    /// Goes on to the next entry. After an error it is of no more use.
    ///
    /// # Errors
    /// As [`Run::read_block`].
    pub fn advance(&mut self) -> Result<()> {
        let Some(block) = self.blocks.front() else { return Ok(()) };
        self.entry += 1;
        if self.entry == block.count() {
            self.blocks.pop_front();
            self.entry = 0;
            self.fill()?;
        }
        Ok(())
    }
}
