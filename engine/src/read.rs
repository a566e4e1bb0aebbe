//! Reading a slot's entries through its layers: own writes, memtable, frozen memtables, runs; newest wins.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::cache::BlockCache;
use crate::clock::TimeMs;
use crate::error::Error;
use crate::key::EntryKey;
use crate::log::record::{self, BODY_BYTES_MAX, HEADER_BYTES};
use crate::memtable::{self, Memtable, Seen, Stored, ValueRef};
use crate::overlay::{self, Overlay, Written, wide};
use crate::slot::SlotCell;
use crate::sst::{Block, BlockId, Blocks, Looked, Probe, Run, RunCursor, Step};
use crate::sync::Arc;
use crate::tx::{Read, Stop};
use crate::value::Header;
use crate::watch::Watched;

/// Which way a range is walked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Ascending.
    Forward,
    /// Descending.
    Backward,
}

/// What a transaction has written to one slot so far.
#[derive(Debug, Default)]
pub(crate) struct WriteSet {
    /// The operations as they will stand in the log, behind the place of the record's header; empty if there are none.
    pub record: Vec<u8>,
    /// What they do to entries; the values lie in `record`.
    pub overlay: Overlay,
    /// Whether everything older is gone.
    pub cleared: bool,
    /// What they do to the count of keys.
    pub keys_delta: i64,
    /// The first moment at which one of the values expires.
    pub earliest_expiry: Option<TimeMs>,
}

impl WriteSet {
    /// Tells those who watch the slot of what is being committed: of each step, as replicas hear of it, be it undone by a later one.
    pub fn tell(&self, watched: &Watched) {
        for op in record::ops(self.record.get(HEADER_BYTES..).unwrap_or_default()) {
            watched.changed_by(&op.expect("this transaction wrote it"));
        }
    }

    /// An entry of the overlay.
    pub fn stored(&self, written: &Written) -> Stored<'_> {
        match written {
            Written::Value(place) => Stored::inline(&self.record[wide(place)]),
            Written::Tombstone => Stored::Tombstone,
        }
    }
}

/// From so many bytes of operations on, a value that is most of them keeps their buffer instead of being copied out of it.
const KEPT_BYTES_MIN: usize = 64 << 10;
/// A buffer that is kept holds at most this part more than the value that keeps it: only the value is counted.
const SLACK: usize = 4;

impl WriteSet {
    /// Whether it fits into a record.
    pub fn check_size(&self) -> Result<(), Error> {
        let bytes = self.record.len().saturating_sub(HEADER_BYTES);
        if bytes <= BODY_BYTES_MAX {
            return Ok(());
        }
        Err(Error::Limit(format!("a write of {bytes} bytes; at most {BODY_BYTES_MAX}")))
    }

    /// Gives every entry of the overlay to `put`, ascending; the record is used up.
    pub fn put_all(&mut self, mut put: impl FnMut(&[u8], Stored<'_>)) {
        if self.record.len() < KEPT_BYTES_MIN {
            return self.overlay.for_each(|key, written| put(key, self.stored(written)));
        }
        let mut record = std::mem::take(&mut self.record);
        if record.capacity() - record.len() > record.len() / SLACK {
            // Room that was never used would stay with the value, uncounted.
            record.shrink_to_fit();
        }
        let record = Bytes::from(record);
        self.overlay.for_each(|key, written| match written {
            Written::Value(place) if place.len() >= record.len() - record.len() / SLACK => {
                put(key, Stored::Value(ValueRef::Shared(&record.slice(wide(place)))));
            }
            Written::Value(place) => put(key, Stored::inline(&record[wide(place)])),
            Written::Tombstone => put(key, Stored::Tombstone),
        });
    }
}

/// Blocks that a command needs and that are not in memory. See [`crate::engine::Engine::fetch`].
#[derive(Default)]
pub struct Wanted(pub(crate) Vec<(Arc<Run>, BlockId)>);

impl Wanted {
    /// Whether there is nothing to fetch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Blocks that were fetched for a command: pinned while it runs again, so that it gets further each time.
#[derive(Default)]
pub struct Fetched {
    /// All that most commands need.
    few: SmallVec<[(BlockId, std::sync::Arc<Block>); 4]>,
    /// Those that came after them.
    more: BTreeMap<BlockId, std::sync::Arc<Block>>,
}

impl Fetched {
    pub(crate) fn insert(&mut self, id: BlockId, block: std::sync::Arc<Block>) {
        if self.few.len() < self.few.inline_size() {
            self.few.push((id, block));
        } else {
            self.more.insert(id, block);
        }
    }

    fn get(&self, id: BlockId) -> Option<&std::sync::Arc<Block>> {
        let few = self.few.iter().find(|(other, _)| *other == id).map(|(_, block)| block);
        few.or_else(|| self.more.get(&id))
    }

    fn len(&self) -> usize {
        self.few.len() + self.more.len()
    }
}

/// Where a transaction finds blocks, and where it notes those that it did not find.
pub(crate) struct BlockSource<'a> {
    pub cache: &'a BlockCache,
    pub fetched: &'a Fetched,
    pub wanted: &'a RefCell<Wanted>,
    /// Whether its reader may wait for the device: blocks are read when they are missed, and not kept.
    pub waits: bool,
}

impl Blocks for &BlockSource<'_> {
    fn block(&mut self, id: BlockId) -> Option<std::sync::Arc<Block>> {
        self.fetched.get(id).cloned().or_else(|| self.cache.get(id))
    }

    fn missing(&mut self, run: &Run, id: BlockId) -> Option<std::sync::Arc<Block>> {
        self.waited_for(run, id)
    }
}

/// Blocks for one look at a key.
struct Looking<'a, 'b> {
    source: &'a BlockSource<'b>,
    /// Whether what is found is about to be overwritten.
    to_write: bool,
}

impl Blocks for Looking<'_, '_> {
    fn block(&mut self, id: BlockId) -> Option<std::sync::Arc<Block>> {
        let mut source = self.source;
        source.block(id)
    }

    /// What the system has in memory is read at once: to give the command up and run it again costs as much as that.
    fn missing(&mut self, run: &Run, id: BlockId) -> Option<std::sync::Arc<Block>> {
        if self.source.waits {
            return self.source.waited_for(run, id);
        }
        let block = run.peek_block(id)?;
        self.source.cache.insert(id, std::sync::Arc::clone(&block));
        Some(block)
    }

    fn keeps_looked_at(&self) -> bool {
        if self.source.waits {
            return true;
        }
        if self.to_write { self.source.cache.has_room() } else { self.source.cache.admits() }
    }
}

impl BlockSource<'_> {
    /// A block for which the reader waits, if it does; not one that can't be read, which whoever fetches it hears.
    fn waited_for(&self, run: &Run, id: BlockId) -> Option<std::sync::Arc<Block>> {
        self.waits.then(|| run.read_block(id).ok()).flatten()
    }

    /// Notes a missing block.
    fn want(&self, run: &Arc<Run>, id: BlockId) {
        self.wanted.borrow_mut().0.push((Arc::clone(run), id));
    }

    /// Notes a block that a walk up to a limit misses, and those that it will miss next: as many again as were fetched for this
    /// command already, so that a walk over n blocks starts over log n times only.
    fn want_from(&self, run: &Arc<Run>, id: BlockId, direction: Direction, limit: &Bound<EntryKey>) {
        const AHEAD_MIN: usize = 4;
        const AHEAD_MAX: usize = 1024;
        let first = run.number_of(id);
        let ahead = self.fetched.len().clamp(AHEAD_MIN, AHEAD_MAX);
        // The block that was missed is wanted wherever it lies.
        let last = match limit {
            Bound::Included(key) | Bound::Excluded(key) => run.block_of(key),
            Bound::Unbounded if direction == Direction::Forward => run.block_count() - 1,
            Bound::Unbounded => 0,
        };
        let numbers: Vec<usize> = match direction {
            Direction::Forward => (first..=last.max(first)).take(ahead).collect(),
            Direction::Backward => (last.min(first)..=first).rev().take(ahead).collect(),
        };
        for number in numbers {
            let id = run.block_id(number);
            let mut blocks = self;
            if blocks.block(id).is_none() {
                self.want(run, id);
            }
        }
    }
}

/// The layers of one slot, newest first, as one transaction sees them.
pub(crate) struct Layers<'a> {
    /// The transaction's own writes.
    pub writes: &'a WriteSet,
    /// The slot.
    pub cell: &'a SlotCell,
    /// Where blocks come from.
    pub blocks: &'a BlockSource<'a>,
}

impl<'a> Layers<'a> {
    /// Gives the value at an entry key to `read`; `None` if there is none, or if it was deleted.
    pub fn get<T>(&self, key: &[u8], read: impl FnOnce(ValueRef<'_>) -> T) -> Read<Option<T>> {
        self.get_noting(key, &mut Seen::default(), read)
    }

    /// As [`Layers::get`], and notes where in the memtable it was found, if it was there.
    pub fn get_noting<T>(
        &self,
        key: &[u8],
        seen: &mut Seen,
        read: impl FnOnce(ValueRef<'_>) -> T,
    ) -> Read<Option<T>> {
        match self.in_memory(key, seen) {
            Some(found) => Ok(found.map(read)),
            None => self.in_files(key, false, read),
        }
    }

    /// The header of the value at a user's key, which is about to be written, if there is a value; the inner `None` if it has
    /// no meaning. As [`Layers::get_noting`], but a block that is read for this one look only comes into the cache where that
    /// has room: the key's newest value is in memory from now on.
    pub fn header(&self, key: &[u8], seen: &mut Seen) -> Read<Option<Option<Header>>> {
        let header = |value: ValueRef<'_>| Header::decode(&value);
        match self.in_memory(key, seen) {
            Some(found) => Ok(found.map(header)),
            None => self.in_files(key, true, header),
        }
    }

    /// Gives the value that files have at a key to `read`.
    fn in_files<T>(
        &self,
        key: &[u8],
        to_write: bool,
        read: impl FnOnce(ValueRef<'_>) -> T,
    ) -> Read<Option<T>> {
        let (probe, mut blocks) = (Probe::new(key), Looking { source: self.blocks, to_write });
        let mut read = Some(read);
        for run in self.cell.version.runs() {
            let look = |stored: Stored<'_>| stored.value().zip(read.take()).map(|(value, read)| read(value));
            match run.look(probe, &mut blocks, look)? {
                Looked::Found(found) => return Ok(found),
                Looked::Absent => {}
                Looked::NeedsBlock(id) => {
                    self.blocks.want(run, id);
                    return Err(Stop::Miss);
                }
            }
        }
        Ok(None)
    }

    /// What stands at a key, if what is in memory says; the inner `None` if nothing does.
    fn in_memory(&self, key: &[u8], seen: &mut Seen) -> Option<Option<ValueRef<'_>>> {
        if let Some(written) = self.writes.overlay.get(key) {
            return Some(self.writes.stored(written).value());
        }
        if self.writes.cleared {
            return Some(None);
        }
        if let Some(stored) = self.cell.memtable.get_noting(key, seen) {
            return Some(stored.value());
        }
        if self.cell.memtable.clears_older() {
            return Some(None);
        }
        for table in self.tables().skip(1) {
            if let Some(stored) = table.get(key) {
                return Some(stored.value());
            }
            if table.clears_older() {
                return Some(None);
            }
        }
        self.cell.version.runs().is_empty().then_some(None)
    }

    /// Gives the last living entry from `from` to `to`, elements of one collection, both included, to `read`. Of all layers but
    /// what was written here and the memtable it is a walk.
    pub fn last<T>(
        &self,
        from: &[u8],
        to: &[u8],
        seen: &mut Seen,
        read: impl FnOnce(&[u8], ValueRef<'_>) -> T,
    ) -> Read<Option<T>> {
        if self.has_only_memtable() && !self.writes.cleared {
            let memtable = &self.cell.memtable;
            let written = self.writes.overlay.last(from, to);
            let stored = memtable.last_element(to, seen).filter(|(key, _)| *key >= from);
            let last = match (written, stored) {
                (Some((key, written)), stored) if stored.is_none_or(|(other, _)| key >= other) => {
                    Some((key, self.writes.stored(written)))
                }
                (_, stored) => stored,
            };
            match last.map(|(key, stored)| (key, stored.value())) {
                None => return Ok(None),
                Some((key, Some(value))) => return Ok(Some(read(key, value))),
                // It was deleted: the one before it is looked for.
                Some((_, None)) => {}
            }
        }
        let (mut read, mut out) = (Some(read), None);
        let (from, to) = (Bound::Included(from), Bound::Included(to));
        self.range(from, to, Direction::Backward, &mut |key, value| {
            out = read.take().map(|read| read(key, value));
            false
        })?;
        Ok(out)
    }

    /// Whether the memtable hides what is older, or nothing is.
    fn has_only_memtable(&self) -> bool {
        let SlotCell { memtable, frozen, version, .. } = self.cell;
        memtable.clears_older() || frozen.is_empty() && version.runs().is_empty()
    }

    /// Gives the living users' keys from one on to `visit` until it says stop (`false`), if all there is lies in the memtable;
    /// says whether it does.
    pub fn own_keys(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], ValueRef<'_>) -> bool) -> bool {
        let is_all = self.writes.overlay.is_empty() && !self.writes.cleared && self.has_only_memtable();
        if is_all {
            let mut keys = self.cell.memtable.own_keys(from);
            keys.all(|(key, stored)| stored.value().is_none_or(|value| visit(key, value)));
        }
        is_all
    }

    fn tables(&self) -> impl Iterator<Item = &'a Memtable> + use<'a> {
        std::iter::once(&self.cell.memtable).chain(self.cell.frozen.iter().map(|frozen| &frozen.table))
    }

    /// As [`Layers::range`], of a range of one collection's elements, whose beginning may have been seen.
    pub fn elements(
        &self,
        (from, to): (Bound<&[u8]>, Bound<&[u8]>),
        direction: Direction,
        seen: &Seen,
        visit: &mut dyn FnMut(&[u8], ValueRef<'_>) -> bool,
    ) -> Read<()> {
        let is_all = self.writes.overlay.is_empty() && !self.writes.cleared && self.has_only_memtable();
        if !is_all {
            return self.range(from, to, direction, visit);
        }
        self.cell.memtable.walk_elements((from, to), direction, seen, |key, stored| {
            stored.value().is_none_or(|value| visit(key, value))
        });
        Ok(())
    }

    /// Gives the living entries of a range to `visit` until it says stop (`false`).
    pub fn range(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], ValueRef<'_>) -> bool,
    ) -> Read<()> {
        let mut sources = Vec::new();
        if !self.writes.overlay.is_empty() {
            sources.push(Source::writes(self.writes, from, to, direction));
        }
        let mut hidden = self.writes.cleared;
        for table in self.tables() {
            if !hidden {
                sources.push(Source::table(table.range(from, to), direction));
                hidden = table.clears_older();
            }
        }
        if !hidden {
            let mut missed = false;
            for run in self.cell.version.runs() {
                match RunSource::seek(run, from, to, direction, self.blocks) {
                    Ok(source) => sources.push(Source::Run(Box::new(source))),
                    Err(_) => missed = true,
                }
            }
            if missed {
                return Err(Stop::Miss);
            }
        }
        while let Some(newest) = next_key(&sources, direction) {
            // What older sources say about the key is passed over.
            for other in newest + 1..sources.len() {
                let (before, after) = sources.split_at_mut(other);
                if before[newest].key() == after[0].key() {
                    after[0].advance(self.blocks)?;
                }
            }
            if !sources[newest].give(visit) {
                break;
            }
            sources[newest].advance(self.blocks)?;
        }
        Ok(())
    }
}

/// The source that has the next key; where several have it, the newest of them.
fn next_key(sources: &[Source<'_>], direction: Direction) -> Option<usize> {
    let mut best: Option<(usize, &[u8])> = None;
    for (index, source) in sources.iter().enumerate() {
        let Some(key) = source.key() else { continue };
        let better = match best {
            None => true,
            Some((_, least)) if direction == Direction::Forward => key < least,
            Some((_, least)) => key > least,
        };
        if better {
            best = Some((index, key));
        }
    }
    best.map(|(index, _)| index)
}

/// One layer's entries in a range, with the one that it stands at.
enum Source<'a> {
    Writes {
        writes: &'a WriteSet,
        entries: overlay::Entries<'a>,
        direction: Direction,
        here: Option<(&'a [u8], &'a Written)>,
    },
    Table {
        entries: memtable::Range<'a>,
        direction: Direction,
        here: Option<(&'a [u8], Stored<'a>)>,
    },
    Run(Box<RunSource>),
}

/// The next entry in a direction.
fn step<T>(entries: &mut impl DoubleEndedIterator<Item = T>, direction: Direction) -> Option<T> {
    if direction == Direction::Forward { entries.next() } else { entries.next_back() }
}

impl<'a> Source<'a> {
    fn writes(
        writes: &'a WriteSet,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
    ) -> Source<'a> {
        let mut entries = writes.overlay.range(from, to);
        let here = step(&mut entries, direction);
        Source::Writes { writes, entries, direction, here }
    }

    fn table(mut entries: memtable::Range<'a>, direction: Direction) -> Source<'a> {
        let here = step(&mut entries, direction);
        Source::Table { entries, direction, here }
    }

    /// The key that it stands at; `None` at its end.
    fn key(&self) -> Option<&[u8]> {
        match self {
            Source::Writes { here, .. } => here.map(|(key, _)| key),
            Source::Table { here, .. } => here.map(|(key, _)| key),
            Source::Run(run) => run.key(),
        }
    }

    /// Gives the entry that it stands at to `visit`, if it lives; whether to go on.
    fn give(&self, visit: &mut dyn FnMut(&[u8], ValueRef<'_>) -> bool) -> bool {
        let mut give = |key: &[u8], stored: Stored<'_>| stored.value().is_none_or(|value| visit(key, value));
        match self {
            Source::Writes { writes, here: Some((key, written)), .. } => give(key, writes.stored(written)),
            Source::Table { here: Some((key, stored)), .. } => give(key, *stored),
            Source::Run(run) if run.inside => run.cursor.read(give).unwrap_or(true),
            _ => true,
        }
    }

    fn advance(&mut self, blocks: &BlockSource<'_>) -> Read<()> {
        match self {
            Source::Writes { entries, direction, here, .. } => *here = step(entries, *direction),
            Source::Table { entries, direction, here } => *here = step(entries, *direction),
            Source::Run(run) => run.advance(blocks)?,
        }
        Ok(())
    }
}

/// A run's entries in a range.
struct RunSource {
    cursor: RunCursor,
    direction: Direction,
    /// The far end of the range.
    limit: Bound<EntryKey>,
    inside: bool,
}

impl RunSource {
    fn seek(
        run: &Arc<Run>,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
        blocks: &BlockSource<'_>,
    ) -> Read<RunSource> {
        let mut cursor = RunCursor::new(Arc::clone(run));
        let mut source = blocks;
        let start = match (direction, from, to) {
            (Direction::Forward, Bound::Unbounded, _) => cursor.seek_first(&mut source),
            (Direction::Forward, Bound::Included(key), _) => cursor.seek(key, &mut source),
            (Direction::Forward, Bound::Excluded(key), _) => cursor.seek(&after(key), &mut source),
            (Direction::Backward, _, Bound::Unbounded) => cursor.seek_last(&mut source),
            (Direction::Backward, _, Bound::Included(key)) => cursor.seek_before(&after(key), &mut source),
            (Direction::Backward, _, Bound::Excluded(key)) => cursor.seek_before(key, &mut source),
        };
        let far = if direction == Direction::Forward { to } else { from };
        let mut found = RunSource { cursor, direction, limit: far.map(EntryKey::from_slice), inside: false };
        found.arrive(start, blocks)?;
        Ok(found)
    }

    fn arrive(&mut self, step: Step, blocks: &BlockSource<'_>) -> Read<()> {
        match step {
            Step::NeedsBlock(id) => {
                blocks.want_from(self.cursor.run(), id, self.direction, &self.limit);
                return Err(Stop::Miss);
            }
            Step::End => self.inside = false,
            Step::At => {
                let key = self.cursor.key().unwrap_or_default();
                self.inside = match (self.direction, &self.limit) {
                    (_, Bound::Unbounded) => true,
                    (Direction::Forward, Bound::Included(end)) => key <= &end[..],
                    (Direction::Forward, Bound::Excluded(end)) => key < &end[..],
                    (Direction::Backward, Bound::Included(end)) => key >= &end[..],
                    (Direction::Backward, Bound::Excluded(end)) => key > &end[..],
                };
            }
        }
        Ok(())
    }

    fn advance(&mut self, blocks: &BlockSource<'_>) -> Read<()> {
        let mut source = blocks;
        let step = match self.direction {
            Direction::Forward => self.cursor.next(&mut source),
            Direction::Backward => self.cursor.prev(&mut source),
        };
        self.arrive(step, blocks)
    }

    fn key(&self) -> Option<&[u8]> {
        if !self.inside {
            return None;
        }
        self.cursor.key()
    }
}

/// The least key above `key`.
fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}
