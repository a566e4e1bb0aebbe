//! Reads pack files for a person or a tool: read-only, and on through damage. Memory is bounded by one block, and by
//! the filter and index of one run.

use crate::sync::Arc;
use std::path::Path;

use super::FileNo;
use super::block::{self, Block};
use super::entry::EntryRef;
use super::file::PackFile;
use super::filter::{Filter, KeyHash};
use super::footer;
use super::index::Index;
use super::properties::{Properties, bound_above, bound_below};
use crate::clock::TimeMs;
use crate::error::{Error, Result};
use crate::fs::{Fs, OpenMode};
use crate::key;
use crate::types::{NodeId, Slot};
use crate::value::Header;

pub use footer::DirectoryEntry;

/// What a pack file says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Directory {
    /// Its number.
    pub file: FileNo,
    /// The node that wrote it.
    pub node: NodeId,
    /// Its size.
    pub bytes: u64,
    /// Its runs, as they lie.
    pub runs: Vec<DirectoryEntry>,
}

/// Where a run lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunPlace {
    /// Its first byte in the file.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
    /// CRC-32 of all of them.
    pub crc: u32,
}

/// What is kept of a run in memory.
#[derive(Clone, PartialEq, Debug)]
pub struct Figures {
    /// Blocks.
    pub blocks: u64,
    /// Bytes of the filter.
    pub filter_bytes: u64,
    /// The share of the filter's bits that are set.
    pub filter_fill: f64,
    /// How often the filter answers "perhaps" for a key that is not there, by that share.
    pub filter_false_share: f64,
    /// Bytes of the index.
    pub index_bytes: u64,
}

/// Something that lies in a run.
#[derive(Debug)]
pub enum Item<'a> {
    /// What it says of itself.
    Properties(&'a Properties),
    /// Filter and index.
    Figures(&'a Figures),
    /// A block.
    Block {
        /// Its number in the run.
        number: u64,
        /// Where in the file.
        offset: u64,
        /// Its bytes there.
        bytes: u64,
        /// Whether it is compressed.
        compressed: bool,
        /// Its entries, ascending.
        block: &'a Block,
    },
    /// Something that does not hold.
    Fault {
        /// Where in the file.
        offset: u64,
        /// What.
        what: String,
    },
}

/// Reads the directory at a pack's end; the runs themselves are not looked at.
///
/// # Errors
/// `Corrupt`, `Unusable` if it is of a newer format, `Io`.
pub fn directory(fs: &dyn Fs, path: &Path) -> Result<Directory> {
    footer::read_entries(&open(fs, path)?)
}

/// Holds `bytes` bytes from `offset` on to their checksum.
///
/// # Errors
/// `Corrupt` if they do not hold or are not there; `Io`.
pub fn check_bytes(fs: &dyn Fs, path: &Path, offset: u64, bytes: u64, crc: u32) -> Result<()> {
    open(fs, path)?.check(offset, bytes, crc, "a copy's run")
}

fn open(fs: &dyn Fs, path: &Path) -> Result<Arc<PackFile>> {
    let file = fs.open(path, OpenMode::Read).map_err(|error| Error::io(path, "open", &error))?;
    Ok(Arc::new(PackFile::unshared(FileNo(0), path.to_owned(), file)))
}

/// Reads a run from its first byte to its last and gives all that lies in it, and all that does not hold, to `see`.
/// What does not need blocks is looked at first. `expected` is what the manifest knows of it.
///
/// # Errors
/// `Unusable` if it is of a newer format; `Io` if the file can't be opened. What can't be read is a fault.
pub fn walk_run(
    fs: &dyn Fs,
    path: &Path,
    place: RunPlace,
    expected: Option<&Properties>,
    blocks: BlocksWanted,
    see: &mut dyn FnMut(Item<'_>),
) -> Result<()> {
    let file = open(fs, path)?;
    let size = file.size()?;
    if place.offset.checked_add(place.len).is_none_or(|end| end > size) {
        let what = format!("a run of {} bytes should be here, the file has {size} bytes", place.len);
        see(Item::Fault { offset: place.offset, what });
        return Ok(());
    }
    let (parts, props) = match footer::read_properties(&file, place.offset, place.len) {
        Ok(found) => found,
        Err(error) => return fault_of(error, place.offset, see),
    };
    see(Item::Properties(&props));
    if expected.is_some_and(|expected| *expected != props) {
        let what = format!("slot {}: not the run that the manifest means", props.slot);
        see(Item::Fault { offset: place.offset + parts.properties_at, what });
    }
    let part = |at: u64, end: u64, name: &'static str| -> Result<Vec<u8>> {
        let corrupt = |what: String| Error::corrupt(path, place.offset + at, what);
        let bytes = usize::try_from(end - at).map_err(|_| corrupt(format!("{name} too large")))?;
        let mut sealed = vec![0; bytes];
        file.read(&mut sealed, place.offset + at, name)?;
        footer::unseal(&sealed)
            .map(<[u8]>::to_vec)
            .ok_or_else(|| corrupt(format!("wrong checksum of the {name}")))
    };
    let meaning =
        |at: u64, name: &str| Error::corrupt(path, place.offset + at, format!("the {name} has no meaning"));
    let filter = part(parts.filter_at, parts.index_at, "filter")
        .and_then(|bytes| Filter::decode(&bytes).ok_or_else(|| meaning(parts.filter_at, "filter")));
    let index = part(parts.index_at, parts.properties_at, "index").and_then(|bytes| {
        Index::decode(&bytes, parts.filter_at).ok_or_else(|| meaning(parts.index_at, "index"))
    });
    let (filter, index) = (ok_or_fault(filter, place.offset, see)?, ok_or_fault(index, place.offset, see)?);
    if let (Some(filter), Some(index)) = (&filter, &index) {
        let (fill, share) = filter.fill();
        see(Item::Figures(&Figures {
            blocks: index.count() as u64,
            filter_bytes: filter.memory_bytes() as u64,
            filter_fill: fill,
            filter_false_share: share,
            index_bytes: parts.properties_at - parts.index_at,
        }));
    }
    if blocks == BlocksWanted::No {
        return Ok(());
    }
    let mut reading = Reading { file, place, crc: crc32fast::Hasher::new(), whole: true };
    match &index {
        Some(index) => {
            let mut recount = Recount::default();
            let mut sound = true;
            for number in 0..index.count() {
                let extent = index.extent(number);
                let Some(stored) = reading.read(extent.clone(), see) else {
                    sound = false;
                    continue;
                };
                match Block::decode(&stored, props.slot, extent.start) {
                    Ok(block) => {
                        let offset = place.offset + extent.start;
                        let compressed = block::is_compressed(&stored);
                        let bytes = stored.len() as u64;
                        see(Item::Block { number: number as u64, offset, bytes, compressed, block: &block });
                        let at = Placed { index, filter: filter.as_ref(), number, slot: props.slot };
                        if let Some(what) = recount.add(&block, &at) {
                            see(Item::Fault { offset, what });
                        }
                    }
                    Err(what) => {
                        sound = false;
                        let what = format!("slot {}: {what}", props.slot);
                        see(Item::Fault { offset: place.offset + extent.start, what });
                    }
                }
            }
            if sound && let Some(what) = recount.compare(&props) {
                let what = format!("slot {}: {what}", props.slot);
                see(Item::Fault { offset: place.offset + parts.properties_at, what });
            }
        }
        None => reading.pass(0..parts.filter_at, see),
    }
    reading.pass(parts.filter_at..place.len, see);
    if reading.whole && reading.crc.finalize() != place.crc {
        let what = format!("slot {}: wrong checksum of the whole run", props.slot);
        see(Item::Fault { offset: place.offset, what });
    }
    Ok(())
}

/// Whether blocks are read, or only what a start reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlocksWanted {
    /// All of them.
    Yes,
    /// None.
    No,
}

/// What can't be read is a fault; a newer format is not for this program to judge.
fn fault_of(error: Error, at: u64, see: &mut dyn FnMut(Item<'_>)) -> Result<()> {
    match error {
        Error::Corrupt { offset, what, .. } => see(Item::Fault { offset, what }),
        Error::Io { operation, message, .. } => {
            see(Item::Fault { offset: at, what: format!("{operation}: {message}") });
        }
        other => return Err(other),
    }
    Ok(())
}

fn ok_or_fault<T>(result: Result<T>, at: u64, see: &mut dyn FnMut(Item<'_>)) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) => fault_of(error, at, see).map(|()| None),
    }
}

/// A run that is read from its first byte to its last.
struct Reading {
    file: Arc<PackFile>,
    place: RunPlace,
    crc: crc32fast::Hasher,
    /// Everything so far could be read.
    whole: bool,
}

impl Reading {
    fn read(&mut self, extent: std::ops::Range<u64>, see: &mut dyn FnMut(Item<'_>)) -> Option<Vec<u8>> {
        let offset = self.place.offset + extent.start;
        let bytes = usize::try_from(extent.end - extent.start).ok()?;
        let mut out = vec![0; bytes];
        match self.file.read(&mut out, offset, "run") {
            Ok(()) => {
                self.crc.update(&out);
                Some(out)
            }
            Err(error) => {
                self.whole = false;
                see(Item::Fault { offset, what: error.to_string() });
                None
            }
        }
    }

    /// Reads for the checksum only.
    fn pass(&mut self, extent: std::ops::Range<u64>, see: &mut dyn FnMut(Item<'_>)) {
        const PIECE: u64 = 1 << 20;
        let mut at = extent.start;
        while at < extent.end {
            let end = (at + PIECE).min(extent.end);
            if self.read(at..end, see).is_none() {
                return;
            }
            at = end;
        }
    }
}

/// Where an entry was found, and what should lead to it.
struct Placed<'a> {
    index: &'a Index,
    filter: Option<&'a Filter>,
    number: usize,
    slot: Slot,
}

/// A run's entries, counted again.
#[derive(Default)]
struct Recount {
    entries: u64,
    tombstones: u64,
    keys: u64,
    raw_bytes: u64,
    min_expiry: Option<TimeMs>,
    first: Option<Vec<u8>>,
    last: Vec<u8>,
}

impl Recount {
    /// Counts a block's entries; says what is wrong with the first that is wrong.
    fn add(&mut self, block: &Block, at: &Placed<'_>) -> Option<String> {
        let mut wrong = None;
        for index in 0..block.count() {
            let (entry_key, entry) = block.entry_ref(index);
            if let Some(what) = self.add_entry(entry_key, entry, at) {
                wrong.get_or_insert_with(|| format!("slot {}: entry {index} of this block: {what}", at.slot));
            }
        }
        wrong
    }

    fn add_entry(&mut self, entry_key: &[u8], entry: EntryRef<'_>, at: &Placed<'_>) -> Option<&'static str> {
        let ascends = self.first.is_none() || self.last.as_slice() < entry_key;
        self.first.get_or_insert_with(|| entry_key.to_vec());
        self.last.clear();
        self.last.extend_from_slice(entry_key);
        self.entries += 1;
        self.raw_bytes += (entry_key.len() + entry.value_len()) as u64;
        let parts = key::split(entry_key);
        let header = match entry {
            EntryRef::Tombstone => {
                self.tombstones += 1;
                None
            }
            EntryRef::Value(value) if parts.is_some_and(|parts| parts.element.is_none()) => {
                self.keys += 1;
                let header = Header::decode(value);
                let expiry = header.and_then(|header| header.expiry);
                self.min_expiry = self.min_expiry.into_iter().chain(expiry).min();
                Some(header)
            }
            EntryRef::Value(_) => None,
        };
        match parts {
            None => Some("no entry key"),
            Some(_) if !ascends => Some("its key does not ascend"),
            Some(parts) if Slot::of_key(parts.key) != at.slot => Some("its key belongs to another slot"),
            Some(parts) if key::hash48(parts.key) != parts.hash() => Some("its key has another hash"),
            Some(_) if header == Some(None) => Some("its value has no header"),
            Some(_) if at.index.block_of(entry_key) != at.number => Some("the index leads past it"),
            Some(_) if at.filter.is_some_and(|filter| !filter.may_contain(KeyHash::of(entry_key))) => {
                Some("the filter says that it is not there")
            }
            Some(_) => None,
        }
    }

    fn compare(&self, props: &Properties) -> Option<String> {
        let first = self.first.as_deref().unwrap_or_default();
        let pairs = [
            ("entries", self.entries, props.entries),
            ("tombstones", self.tombstones, props.tombstones),
            ("keys", self.keys, props.keys),
            ("bytes", self.raw_bytes, props.raw_bytes),
        ];
        if let Some((name, found, said)) = pairs.into_iter().find(|(_, found, said)| found != said) {
            return Some(format!("the run has {found} {name}, its properties say {said}"));
        }
        if self.min_expiry != props.min_expiry {
            return Some("the properties give another first expiry".to_owned());
        }
        let bounds = bound_below(first) == props.first_key && bound_above(&self.last) == props.last_key;
        (!bounds).then(|| "the properties give other first and last keys".to_owned())
    }
}
