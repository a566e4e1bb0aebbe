//! A run, opened: index and filter are in memory for as long as it lives, blocks are read on demand.
//!
//! Any thread may use it. Lookups never wait for a disk: they answer which block they miss, and the caller fetches
//! it outside every lock and asks again.

use std::cell::RefCell;

use super::block::{BLOCK_BYTES_MAX, Block, BlockId, Blocks, Parsed, look_up};
use super::file::PackFile;
use super::filter::{Filter, KeyHash};
use super::footer;
use super::index::Index;
use super::properties::{Properties, RunMeta};
use crate::error::{Error, Result};
use crate::memtable::{Entry, Stored};
use crate::sync::Arc;

/// A key to look up, with what is computed from it once for all runs.
#[derive(Clone, Copy, Debug)]
pub struct Probe<'a> {
    /// The entry key.
    pub key: &'a [u8],
    /// Its hash.
    pub hash: KeyHash,
}

impl<'a> Probe<'a> {
    /// Prepares an entry key for lookups.
    #[must_use]
    pub fn new(key: &'a [u8]) -> Probe<'a> {
        Probe { key, hash: KeyHash::of(key) }
    }
}

/// An entry that was found, in its block.
pub struct Found {
    block: std::sync::Arc<Block>,
    place: Parsed,
}

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.read(|entry| entry.fmt(f))
    }
}

impl Found {
    /// Gives what stands there to `read`, without a copy.
    pub fn read<T>(&self, read: impl FnOnce(Stored<'_>) -> T) -> T {
        self.block.read(&self.place, read)
    }

    /// An entry of its own.
    #[must_use]
    pub fn to_entry(&self) -> Entry {
        self.read(|entry| entry.value().map_or(Entry::Tombstone, |value| Entry::Value(value.to_bytes())))
    }
}

/// What a run says about a key.
#[derive(Debug)]
pub enum Lookup {
    /// This. It hides whatever older runs say.
    Found(Found),
    /// Nothing: ask older runs.
    Absent,
    /// Unknown until this block is there.
    NeedsBlock(BlockId),
}

/// What a run says about a key of which one look was wanted.
#[derive(Debug)]
pub enum Looked<T> {
    /// This. It hides whatever older runs say.
    Found(T),
    /// Nothing: ask older runs.
    Absent,
    /// Unknown until this block is there.
    NeedsBlock(BlockId),
}

/// See the file's head.
pub struct Run {
    meta: RunMeta,
    file: Arc<PackFile>,
    index: Index,
    filter: Filter,
    /// What was counted of its memory.
    pinned: usize,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.file.unpin(self.pinned);
    }
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Run").field(&self.meta).finish()
    }
}

/// A block of more bytes is one large value, mostly.
const KEPT_BYTES: usize = 2 * BLOCK_BYTES_MAX;

/// Gives `read` a buffer of so many bytes, whatever they are. Of usual blocks it is always the same one: to take and
/// zero another for each would cost as much as to look for a key in them.
fn with_room<T>(bytes: usize, read: impl FnOnce(&mut [u8]) -> T) -> T {
    thread_local!(static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
    if bytes > KEPT_BYTES {
        return read(&mut vec![0; bytes]);
    }
    // Taken out, not borrowed: models run many threads on one.
    let mut room = ROOM.take();
    if room.len() < bytes {
        room.resize(bytes, 0);
    }
    let found = read(&mut room[..bytes]);
    ROOM.set(room);
    found
}

/// Gives `work` a buffer for what a block expands to.
fn with_raw_room<T>(work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    thread_local!(static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
    let mut room = ROOM.take();
    let out = work(&mut room);
    room.truncate(KEPT_BYTES);
    room.shrink_to(KEPT_BYTES);
    ROOM.set(room);
    out
}

impl Run {
    /// Opens the run at a place of a file, whose properties it must have.
    pub(super) fn open(file: Arc<PackFile>, meta: &RunMeta) -> Result<Arc<Run>> {
        let read = Run::read(file, meta.offset, meta.len, meta.crc);
        let (mut run, props) = read.map_err(|error| meta.naming(error))?;
        if props != meta.props {
            let error = Error::corrupt(&run.file.path, meta.offset, "not the run that the manifest means");
            return Err(meta.naming(error));
        }
        run.pinned = run.file.pin(run.pinned_bytes());
        Ok(Arc::new(run))
    }

    /// The run that was just written there, of which this stays in memory.
    pub(super) fn made(file: Arc<PackFile>, meta: RunMeta, filter: Filter, index: Index) -> Arc<Run> {
        let mut run = Run { meta, file, index, filter, pinned: 0 };
        run.pinned = run.file.pin(run.pinned_bytes());
        Arc::new(run)
    }

    /// Opens whatever run lies there.
    pub(super) fn read(file: Arc<PackFile>, offset: u64, len: u64, crc: u32) -> Result<(Run, Properties)> {
        let path = &file.path;
        let (footer, props) = footer::read_properties(&file, offset, len)?;
        let corrupt = |at: u64, what: &str| Error::corrupt(path, offset + at, what);
        let part = |at: u64, end: u64, what: &str| -> Result<Vec<u8>> {
            let bytes = usize::try_from(end - at).map_err(|_| corrupt(at, "too large for this machine"))?;
            let mut sealed = vec![0; bytes];
            file.read(&mut sealed, offset + at, what)?;
            let body =
                footer::unseal(&sealed).ok_or_else(|| corrupt(at, &format!("wrong checksum of a {what}")))?;
            let len = body.len();
            sealed.truncate(len);
            Ok(sealed)
        };
        let filter = Filter::decode(&part(footer.filter_at, footer.index_at, "filter")?)
            .ok_or_else(|| corrupt(footer.filter_at, "filter has no meaning"))?;
        let index = Index::decode(&part(footer.index_at, footer.properties_at, "index")?, footer.filter_at)
            .ok_or_else(|| corrupt(footer.index_at, "index has no meaning"))?;
        let meta = RunMeta { file: file.file_no, offset, len, crc, props: props.clone() };
        Ok((Run { meta, file, index, filter, pinned: 0 }, props))
    }

    /// Its place and properties.
    #[must_use]
    pub fn meta(&self) -> &RunMeta {
        &self.meta
    }

    /// Bytes of memory that index and filter take for as long as it is open.
    #[must_use]
    pub fn pinned_bytes(&self) -> usize {
        self.index.memory_bytes() + self.filter.memory_bytes() + std::mem::size_of::<Run>()
    }

    /// Looks a key up in what is in memory.
    pub fn get(&self, probe: Probe<'_>, blocks: &mut dyn Blocks) -> Lookup {
        if !self.filter.may_contain(probe.hash) {
            return Lookup::Absent;
        }
        let id = self.block_id(self.index.block_of(probe.key));
        match blocks.block(id).or_else(|| blocks.missing(self, id)) {
            Some(block) => match block.find(probe.key) {
                Some(place) => Lookup::Found(Found { block, place }),
                None => Lookup::Absent,
            },
            None => Lookup::NeedsBlock(id),
        }
    }

    /// As [`Run::get`], where one look is all that is wanted: a block that the system has in memory is looked at there.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn look<T>(
        &self,
        probe: Probe<'_>,
        blocks: &mut dyn Blocks,
        look: impl FnOnce(Stored<'_>) -> T,
    ) -> Result<Looked<T>> {
        if !self.filter.may_contain(probe.hash) {
            return Ok(Looked::Absent);
        }
        let number = self.index.block_of(probe.key);
        let id = self.block_id(number);
        let mut block = blocks.block(id);
        if block.is_none() && blocks.keeps_looked_at() {
            block = blocks.missing(self, id);
            if block.is_none() {
                return Ok(Looked::NeedsBlock(id));
            }
        }
        if let Some(block) = block {
            let place = block.find(probe.key);
            return Ok(place.map_or(Looked::Absent, |place| Looked::Found(block.read(&place, look))));
        }
        let extent = self.index.extent(number);
        let bytes = self.len_of(&extent)?;
        if bytes > KEPT_BYTES {
            return Ok(Looked::NeedsBlock(id));
        }
        with_room(bytes, |stored| {
            if !self.file.peek(stored, id.offset)? {
                return Ok(Looked::NeedsBlock(id));
            }
            let place = (self.meta.props.slot, extent.start);
            let found = with_raw_room(|room| look_up(stored, place, probe.key, room, look));
            let found = found.map_err(|what| self.corrupt(extent.start, what))?;
            Ok(found.map_or(Looked::Absent, Looked::Found))
        })
    }

    /// `false` if the run certainly says nothing about the key.
    #[must_use]
    pub fn may_contain(&self, probe: Probe<'_>) -> bool {
        self.filter.may_contain(probe.hash)
    }

    /// How many blocks it has.
    #[must_use]
    pub fn block_count(&self) -> usize {
        self.index.count()
    }

    /// The identity of a block.
    ///
    /// # Panics
    /// If `number` is not below [`Run::block_count`].
    #[must_use]
    pub fn block_id(&self, number: usize) -> BlockId {
        BlockId { file: self.meta.file, offset: self.meta.offset + self.index.extent(number).start }
    }

    /// The number of a block.
    ///
    /// # Panics
    /// If the block is not one of this run's.
    #[must_use]
    pub fn number_of(&self, id: BlockId) -> usize {
        assert_eq!(id.file, self.meta.file, "a block of another file");
        let number = id.offset.checked_sub(self.meta.offset).and_then(|offset| self.index.block_at(offset));
        number.expect("a block of this run")
    }

    /// The only block that may hold the key; the first one for a range that begins there.
    pub(crate) fn block_of(&self, key: &[u8]) -> usize {
        self.index.block_of(key)
    }

    /// Reads, checks and decompresses a block; waits for the disk.
    ///
    /// # Errors
    /// `Corrupt` with file, offset and slot; `Io`.
    ///
    /// # Panics
    /// If the block is not one of this run's.
    pub fn read_block(&self, id: BlockId) -> Result<std::sync::Arc<Block>> {
        let extent = self.extent_of(id);
        let bytes = self.len_of(&extent)?;
        if bytes > KEPT_BYTES {
            let mut stored = vec![0; bytes];
            self.read_at(&mut stored, extent.start, "block")?;
            let block = Block::decode_owned(stored, self.meta.props.slot, extent.start);
            return block.map(std::sync::Arc::new).map_err(|what| self.corrupt(extent.start, what));
        }
        with_room(bytes, |stored| {
            self.read_at(stored, extent.start, "block")?;
            self.decode(stored, extent.start).map(std::sync::Arc::new)
        })
    }

    /// As [`Run::read_block`], but `None` where the disk would have to be waited for.
    ///
    /// # Errors
    /// As [`Run::read_block`].
    ///
    /// # Panics
    /// As [`Run::read_block`].
    pub fn try_read_block(&self, id: BlockId) -> Result<Option<std::sync::Arc<Block>>> {
        let extent = self.extent_of(id);
        with_room(self.len_of(&extent)?, |stored| {
            if !self.file.try_read(stored, id.offset)? {
                return Ok(None);
            }
            self.decode(stored, extent.start).map(|block| Some(std::sync::Arc::new(block)))
        })
    }

    /// As [`Run::try_read_block`], and never waits: also `None` where that can't be known, for large blocks, and where it fails,
    /// which whoever waits for it hears.
    #[must_use]
    pub fn peek_block(&self, id: BlockId) -> Option<std::sync::Arc<Block>> {
        let extent = self.extent_of(id);
        let bytes = self.len_of(&extent).ok().filter(|bytes| *bytes <= KEPT_BYTES)?;
        with_room(bytes, |stored| {
            let read = self.file.peek(stored, id.offset).ok()?;
            let block = read.then(|| self.decode(stored, extent.start).ok()).flatten()?;
            Some(std::sync::Arc::new(block))
        })
    }

    fn extent_of(&self, id: BlockId) -> std::ops::Range<u64> {
        self.index.extent(self.number_of(id))
    }

    fn len_of(&self, extent: &std::ops::Range<u64>) -> Result<usize> {
        usize::try_from(extent.end - extent.start)
            .map_err(|_| self.corrupt(extent.start, "block too large for this machine"))
    }

    fn decode(&self, stored: &[u8], offset_in_run: u64) -> Result<Block> {
        Block::decode(stored, self.meta.props.slot, offset_in_run)
            .map_err(|what| self.corrupt(offset_in_run, what))
    }

    /// An error about something at this offset in the run.
    pub(crate) fn corrupt(&self, offset_in_run: u64, what: &str) -> Error {
        self.meta.naming(Error::corrupt(&self.file.path, self.meta.offset + offset_in_run, what))
    }

    /// Reads bytes at this offset in the run.
    fn read_at(&self, buf: &mut [u8], offset_in_run: u64, what: &str) -> Result<()> {
        let read = self.file.read(buf, self.meta.offset + offset_in_run, what);
        read.map_err(|error| self.meta.naming(error))
    }

    /// Reads neighbouring blocks with one read: from block `first`, as many as fit in `bytes_max`, at least one.
    pub(super) fn read_blocks(&self, first: usize, bytes_max: u64) -> Result<Vec<Block>> {
        let start = self.index.extent(first).start;
        let fits =
            (first + 1..self.block_count()).take_while(|&n| self.index.extent(n).end - start <= bytes_max);
        let last = fits.last().unwrap_or(first);
        let mut stored = vec![0; self.len_of(&(start..self.index.extent(last).end))?];
        self.read_at(&mut stored, start, "blocks")?;
        if last == first {
            let block = Block::decode_owned(stored, self.meta.props.slot, start);
            return block.map(|block| vec![block]).map_err(|what| self.corrupt(start, what));
        }
        let mut rest = &stored[..];
        let blocks = (first..=last).map(|number| {
            let extent = self.index.extent(number);
            let (block, tail) = rest.split_at(self.len_of(&extent)?);
            rest = tail;
            self.decode(block, extent.start)
        });
        blocks.collect()
    }

    /// Reads the run's bytes as they lie on disk, from `offset` in the run; fewer than asked only at its end. What
    /// a slot copy sends; the receiver checks them against the checksum in [`RunMeta`].
    ///
    /// # Errors
    /// `Io`; `Corrupt` if the file is cut.
    pub fn read_image(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let left = usize::try_from(self.meta.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let want = left.min(buf.len());
        self.read_at(&mut buf[..want], offset, "run")?;
        Ok(want)
    }

    /// Reads all of the run and checks it: its checksum, every block, the order of keys, index, filter, counts.
    ///
    /// # Errors
    /// `Corrupt` at the first thing that does not hold; `Io`.
    pub fn verify(&self) -> Result<()> {
        let mut crc = crc32fast::Hasher::new();
        let mut buf = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < self.meta.len {
            let got = self.read_image(offset, &mut buf)?;
            crc.update(&buf[..got]);
            offset += got as u64;
        }
        if crc.finalize() != self.meta.crc {
            return Err(self.corrupt(0, "wrong checksum of the whole run"));
        }
        let mut last: Option<Vec<u8>> = None;
        let mut entries = 0;
        for number in 0..self.block_count() {
            let at = self.index.extent(number).start;
            for block in self.read_blocks(number, 0)? {
                for index in 0..block.count() {
                    let key = block.key(index);
                    let placed =
                        self.index.block_of(key) == number && self.filter.may_contain(KeyHash::of(key));
                    if !placed || last.as_deref().is_some_and(|last| last >= key) {
                        return Err(self.corrupt(at, "a key is where it will not be found"));
                    }
                    last = Some(key.to_vec());
                    entries += 1;
                }
            }
        }
        if entries == self.meta.props.entries {
            Ok(())
        } else {
            Err(self.corrupt(0, "wrong count of entries"))
        }
    }
}
