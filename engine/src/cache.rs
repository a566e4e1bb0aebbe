//! The block cache: decompressed, checked blocks, within a budget of bytes. Any thread may use it.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::sst::{Block, BlockId, Blocks, FileNo};

/// What the crate is told to prepare for; only a guess.
const BLOCK_BYTES_GUESS: u64 = 8 << 10;

#[derive(Clone)]
struct ByBytes;

impl Weighter<BlockId, Arc<Block>> for ByBytes {
    fn weight(&self, _: &BlockId, block: &Arc<Block>) -> u64 {
        block.memory_bytes() as u64
    }
}

/// See the file's head. Its policy is S3-FIFO: a scan that reads each block once does not push out what is used.
pub struct BlockCache {
    blocks: Cache<BlockId, Arc<Block>, ByBytes>,
}

impl BlockCache {
    /// A cache of at most this many bytes.
    #[must_use]
    pub fn new(bytes_max: u64) -> BlockCache {
        let blocks_guess = usize::try_from(bytes_max / BLOCK_BYTES_GUESS).unwrap_or(usize::MAX);
        BlockCache { blocks: Cache::with_weighter(blocks_guess, bytes_max, ByBytes) }
    }

    /// The block, if it is there.
    #[must_use]
    pub fn get(&self, id: BlockId) -> Option<Arc<Block>> {
        self.blocks.get(&id)
    }

    /// Puts a block in, pushing others out. One that is larger than a shard's share is not kept.
    pub fn insert(&self, id: BlockId, block: Arc<Block>) {
        self.blocks.insert(id, block);
    }

    /// Drops the blocks of files that are gone. Walks the whole cache.
    pub fn purge(&self, files: &[FileNo]) {
        if !files.is_empty() {
            self.blocks.retain(|id, _| !files.contains(&id.file));
        }
    }

    /// Changes the budget; pushes out what is beyond it.
    pub fn set_bytes_max(&self, bytes_max: u64) {
        self.blocks.set_capacity(bytes_max);
    }

    /// Bytes that its blocks take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blocks.weight()
    }

    /// How often a block was there.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.blocks.hits()
    }

    /// How often a block was not there.
    #[must_use]
    pub fn misses(&self) -> u64 {
        self.blocks.misses()
    }
}

impl Blocks for &BlockCache {
    fn block(&mut self, id: BlockId) -> Option<Arc<Block>> {
        self.get(id)
    }
}
