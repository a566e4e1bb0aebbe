//! The block cache: decompressed, checked blocks, within a budget of bytes. Any thread may use it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::planted::{self, Bug};
use crate::sst::{Block, BlockId, Blocks, FileNo};

/// What the crate is told to prepare for; only a guess.
const BLOCK_BYTES_GUESS: u64 = 4 << 10;

/// How often it is seen whether there is room, of the times that somebody asks.
const LOOK_EVERY: u64 = 64;

/// Of so many blocks that are looked at while the cache is full, one comes in.
const ADMITTED_OF: u64 = 4;

/// What a block is kept under.
fn place(id: BlockId) -> BlockId {
    if planted::is(Bug::CacheKeyCollides) { BlockId { offset: id.offset & !0xfff, ..id } } else { id }
}

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
    /// How often it was asked for room, and whether there was none. Nothing is ordered by them.
    asked: AtomicU64,
    full: AtomicBool,
}

impl BlockCache {
    /// A cache of at most this many bytes.
    #[must_use]
    pub fn new(bytes_max: u64) -> BlockCache {
        let blocks_guess = usize::try_from(bytes_max / BLOCK_BYTES_GUESS).unwrap_or(usize::MAX);
        let blocks = Cache::with_weighter(blocks_guess, bytes_max, ByBytes);
        BlockCache { blocks, asked: AtomicU64::new(0), full: AtomicBool::new(false) }
    }

    /// The block, if it is there.
    #[must_use]
    pub fn get(&self, id: BlockId) -> Option<Arc<Block>> {
        self.blocks.get(&place(id))
    }

    /// Puts a block in, pushing others out. One that is larger than a shard's share is not kept: who needs it holds
    /// on to it himself.
    pub fn insert(&self, id: BlockId, block: Arc<Block>) {
        self.blocks.insert(place(id), block);
    }

    /// Drops the blocks of files that are gone. Walks the whole cache.
    pub fn purge(&self, files: &[FileNo]) {
        if !files.is_empty() {
            self.blocks.retain(|id, _| !files.contains(&id.file));
        }
    }

    /// Whether another block pushes none out, most likely: as it was when it was looked at last.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.ask().0
    }

    /// Whether a block that was looked at in the system's memory should come in: while there is room, and else one in
    /// [`ADMITTED_OF`]. What is looked at often comes in soon all the same, and what is looked at once is spared the making
    /// of a block and the leaving of another.
    #[must_use]
    pub fn admits(&self) -> bool {
        let (has_room, asked) = self.ask();
        has_room || asked.is_multiple_of(ADMITTED_OF)
    }

    fn ask(&self) -> (bool, u64) {
        // To look is to lock each shard.
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        if asked.is_multiple_of(LOOK_EVERY) {
            // No shard is ever filled to the last byte.
            let full = self.blocks.weight() >= self.blocks.capacity() / 4 * 3;
            self.full.store(full, Ordering::Relaxed);
        }
        (!self.full.load(Ordering::Relaxed), asked)
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::fs::Fs;
    use crate::fs::memory::MemoryFs;
    use crate::key::entry_key;
    use crate::memtable::Entry;
    use crate::sst::{EntryRef, PackWriter, Packs, Probe, Run, RunOptions};
    use crate::types::{NodeId, Seq, Slot};
    use crate::version::{Answer, Version};

    const KEYS: u32 = 2000;

    fn key(number: u32) -> Vec<u8> {
        entry_key(&number.to_be_bytes()).to_vec()
    }

    /// A run that says `says` at every `step`th key.
    fn run(fs: &Arc<MemoryFs>, file: u64, step: usize, says: EntryRef<'_>) -> Arc<Run> {
        let mut pack =
            PackWriter::create(fs.clone(), Path::new("/"), FileNo(file), NodeId([0; 20])).expect("creates");
        let mut keys: Vec<_> = (0..KEYS).step_by(step).map(key).collect();
        keys.sort();
        pack.begin_run(
            Slot::of_key(b""),
            RunOptions { compress: false, block_bytes: 1024, entries_max: 2000 },
        );
        keys.iter().for_each(|key| pack.add(key, says).expect("adds"));
        pack.end_run(Seq(file), Seq(file)).expect("ends");
        let metas = pack.finish().expect("finishes");
        Packs::new(fs.clone(), Path::new("/")).open_run(&metas[0]).expect("opens")
    }

    fn get(version: &Version, cache: &BlockCache, key: &[u8]) -> Option<Entry> {
        let mut blocks = cache;
        let mut fetched = 0;
        loop {
            match version.get(Probe::new(key), &mut blocks) {
                Answer::Found(found) => return Some(found.to_entry()),
                Answer::Absent => return None,
                Answer::NeedsBlock(run, id) => {
                    cache.insert(id, run.read_block(id).expect("reads"));
                    fetched += 1;
                    assert!(fetched <= version.runs().len(), "each run needs one block at most");
                }
            }
        }
    }

    #[test]
    fn a_version_read_through_the_cache_gives_the_newest_entry_and_the_cache_keeps_its_budget() {
        let fs = Arc::new(MemoryFs::new());
        fs.create_dir_all(Path::new("/")).expect("makes it");
        let runs: Vec<_> =
            [(1, EntryRef::Value(b"\x01old")), (2, EntryRef::Value(b"\x01new")), (3, EntryRef::Tombstone)]
                .into_iter()
                .map(|(file, says)| run(&fs, file, usize::try_from(file).expect("small"), says))
                .collect();
        let version = Version::new(runs.clone());
        assert_eq!(version.runs()[0].meta().file, FileNo(3), "newest first");
        assert_eq!(version.max_seq(), Seq(3));
        let cache = BlockCache::new(100 << 10);
        for number in (0..KEYS).chain(0..KEYS) {
            let expected = match number {
                n if n % 3 == 0 => Entry::Tombstone,
                n if n % 2 == 0 => Entry::Value(bytes::Bytes::from_static(b"\x01new")),
                _ => Entry::Value(bytes::Bytes::from_static(b"\x01old")),
            };
            assert_eq!(get(&version, &cache, &key(number)), Some(expected), "{number}");
            assert!(cache.bytes() <= 100 << 10, "{}", cache.bytes());
        }
        assert_eq!(get(&version, &cache, &key(KEYS)), None);
        assert!(cache.hits() > cache.misses() && cache.bytes() > 30 << 10);

        let files = [FileNo(1), FileNo(2), FileNo(3)];
        let blocks_of = |file| runs.iter().find(|run| run.meta().file == file).expect("is there");
        cache.purge(&files[..2]);
        for file in files {
            let run = blocks_of(file);
            let cached =
                (0..run.block_count()).filter(|&number| cache.get(run.block_id(number)).is_some()).count();
            assert!(cached == 0 || file == FileNo(3), "{file:?}");
        }

        let merged = version.edited(&[], &[runs[1].meta().clone(), runs[2].meta().clone()]);
        assert_eq!(merged.runs().len(), 1);
        assert_eq!(get(&merged, &cache, &key(3)), Some(Entry::Value(bytes::Bytes::from_static(b"\x01old"))));
        cache.set_bytes_max(0);
        assert_eq!(cache.bytes(), 0);
    }
}
