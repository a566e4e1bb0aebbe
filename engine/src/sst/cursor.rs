//! A place among a run's entries that moves both ways, without waiting for the disk.
//!
//! Every move answers [`Step`]; after `NeedsBlock` the same move is asked again once the block is there. A cursor
//! holds on to the blocks that it stands in, so a cache that drops them meanwhile can't make it go round for ever.

use super::block::{Block, BlockId, Blocks, Parsed};
use super::entry::EntryRef;
use super::run::Run;
use crate::memtable::Stored;
use crate::sync::Arc;

/// What came of a move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It stands at an entry.
    At,
    /// There is no entry further on; it stands nowhere.
    End,
    /// This block is missing: ask again when it is there. After `next` and `prev` it still stands where it stood,
    /// after a seek nowhere.
    NeedsBlock(BlockId),
}

/// See the file's head.
pub struct RunCursor {
    run: Arc<Run>,
    /// The block that it stands in.
    here: Option<(usize, std::sync::Arc<Block>)>,
    /// The entry in that block, and where it lies there; `None` if it stands nowhere.
    entry: Option<(usize, Parsed)>,
}

impl RunCursor {
    /// A cursor that stands nowhere: seek first.
    #[must_use]
    pub fn new(run: Arc<Run>) -> RunCursor {
        RunCursor { run, here: None, entry: None }
    }

    /// Takes block `number` from what it holds or from `blocks`.
    fn load(&self, number: usize, blocks: &mut dyn Blocks) -> Result<std::sync::Arc<Block>, Step> {
        if let Some((held, block)) = &self.here
            && *held == number
        {
            return Ok(std::sync::Arc::clone(block));
        }
        let id = self.run.block_id(number);
        blocks.block(id).or_else(|| blocks.missing(&self.run, id)).ok_or(Step::NeedsBlock(id))
    }

    fn stand(&mut self, number: usize, block: std::sync::Arc<Block>, entry: usize) -> Step {
        self.entry = Some((entry, block.parsed(entry)));
        self.here = Some((number, block));
        Step::At
    }

    fn end(&mut self) -> Step {
        self.entry = None;
        Step::End
    }

    /// Moves to the first entry whose key is `key` or greater.
    pub fn seek(&mut self, key: &[u8], blocks: &mut dyn Blocks) -> Step {
        let number = self.run.block_of(key);
        self.entry = None;
        match self.load(number, blocks) {
            Err(missing) => missing,
            Ok(block) => {
                let entry = block.lower_bound(key);
                if entry < block.count() {
                    return self.stand(number, block, entry);
                }
                // Between two blocks. This one is kept, so that asking again needs only the next.
                self.here = Some((number, block));
                self.enter_first(number + 1, blocks)
            }
        }
    }

    /// Moves to the last entry whose key is below `key`.
    pub fn seek_before(&mut self, key: &[u8], blocks: &mut dyn Blocks) -> Step {
        let number = self.run.block_of(key);
        self.entry = None;
        match self.load(number, blocks) {
            Err(missing) => missing,
            Ok(block) => match block.lower_bound(key).checked_sub(1) {
                Some(entry) => self.stand(number, block, entry),
                None => {
                    self.here = Some((number, block));
                    self.enter_last(number.checked_sub(1), blocks)
                }
            },
        }
    }

    /// Moves to the first entry of all.
    pub fn seek_first(&mut self, blocks: &mut dyn Blocks) -> Step {
        self.entry = None;
        self.enter_first(0, blocks)
    }

    /// Moves to the last entry of all.
    pub fn seek_last(&mut self, blocks: &mut dyn Blocks) -> Step {
        self.entry = None;
        self.enter_last(self.run.block_count().checked_sub(1), blocks)
    }

    fn enter_first(&mut self, number: usize, blocks: &mut dyn Blocks) -> Step {
        if number == self.run.block_count() {
            return self.end();
        }
        match self.load(number, blocks) {
            Err(missing) => missing,
            Ok(block) => self.stand(number, block, 0),
        }
    }

    fn enter_last(&mut self, number: Option<usize>, blocks: &mut dyn Blocks) -> Step {
        let Some(number) = number else { return self.end() };
        match self.load(number, blocks) {
            Err(missing) => missing,
            Ok(block) => {
                let last = block.count() - 1;
                self.stand(number, block, last)
            }
        }
    }

    /// Moves to the following entry. [`Step::End`] if it stands nowhere.
    pub fn next(&mut self, blocks: &mut dyn Blocks) -> Step {
        let (Some((number, block)), Some((entry, _))) = (&self.here, &self.entry) else { return Step::End };
        let next = entry + 1;
        if next < block.count() {
            self.entry = Some((next, block.parsed(next)));
            return Step::At;
        }
        self.enter_first(number + 1, blocks)
    }

    /// Moves to the entry before. [`Step::End`] if it stands nowhere.
    pub fn prev(&mut self, blocks: &mut dyn Blocks) -> Step {
        let (Some((number, block)), Some((entry, _))) = (&self.here, &self.entry) else { return Step::End };
        if let Some(before) = entry.checked_sub(1) {
            self.entry = Some((before, block.parsed(before)));
            return Step::At;
        }
        self.enter_last(number.checked_sub(1), blocks)
    }

    /// The entry that it stands at.
    #[must_use]
    pub fn current(&self) -> Option<(&[u8], EntryRef<'_>)> {
        let (block, place) = self.place()?;
        Some(block.entry_at(place))
    }

    /// The key of the entry that it stands at.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        let (block, place) = self.place()?;
        Some(block.key_at(place))
    }

    /// Gives the entry that it stands at to `read`, without a copy.
    pub fn read<T>(&self, read: impl FnOnce(&[u8], Stored<'_>) -> T) -> Option<T> {
        let (block, place) = self.place()?;
        Some(block.read(place, |stored| read(block.key_at(place), stored)))
    }

    fn place(&self) -> Option<(&Block, &Parsed)> {
        let (_, block) = self.here.as_ref()?;
        let (_, place) = self.entry.as_ref()?;
        Some((block, place))
    }

    /// The run that it walks.
    #[must_use]
    pub fn run(&self) -> &Arc<Run> {
        &self.run
    }
}
