//! Writing a pack file: runs one after another, then directory and footer, then fsync of file and folder.
//!
//! Memory is bounded by what the opened run will pin (filter and index), one block, and a write buffer. Nothing in
//! the file counts until [`PackWriter::finish`] has returned and the manifest refers to it; a writer that is
//! dropped before removes its file. One thread.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::FileNo;
use super::block::{BLOCK_BYTES_MAX, BlockBuilder, COMPRESS_BYTES_MAX};
use super::entry::EntryRef;
use super::file::PackFile;
use super::filter::{Filter, KeyHash};
use super::footer::{self, DirectoryEntry, RUNS_MAX, RunFooter};
use super::index::{Index, IndexBuilder};
use super::packs::{Packs, pack_path};
use super::properties::{Properties, RunMeta, bound_above, bound_below};
use super::run::Run;
use crate::clock::TimeMs;
use crate::error::{Error, Result};
use crate::fs::{File, Fs, OpenMode};
use crate::key;
use crate::planted::{self, Bug};
use crate::sync;
use crate::types::{NodeId, Seq, Slot};
use crate::value::Header;

const WRITE_BYTES: usize = 256 << 10;

/// How a run is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunOptions {
    /// Whether blocks are tried with LZ4.
    pub compress: bool,
    /// The size that a block aims at, at most [`BLOCK_BYTES_MAX`]. A larger entry has a block of its own.
    pub block_bytes: usize,
    /// Not fewer than the entries that will come: sizes the filter. Too low a number costs needless reads later.
    pub entries_max: u64,
}

impl RunOptions {
    /// 8 KiB blocks.
    #[must_use]
    pub fn new(compress: bool, entries_max: u64) -> RunOptions {
        RunOptions { compress, block_bytes: 8 << 10, entries_max }
    }
}

/// The run being written.
struct OpenRun {
    slot: Slot,
    options: RunOptions,
    /// Where it begins in the file.
    offset: u64,
    crc: crc32fast::Hasher,
    block: BlockBuilder,
    index: IndexBuilder,
    filter: Filter,
    first_key: Vec<u8>,
    last_key: Vec<u8>,
    entries: u64,
    tombstones: u64,
    keys: u64,
    raw_bytes: u64,
    min_expiry: Option<TimeMs>,
}

/// The run being taken over from another node.
struct Import {
    offset: u64,
    len: u64,
    crc: u32,
    hasher: crc32fast::Hasher,
}

enum State {
    Between,
    Run(Box<OpenRun>),
    Import(Import),
}

/// See the file's head.
pub struct PackWriter {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    path: PathBuf,
    file: Arc<dyn File>,
    file_no: FileNo,
    node: NodeId,
    /// Bytes that are in the file.
    written: u64,
    /// Bytes that follow them.
    buffer: Vec<u8>,
    state: State,
    runs: Vec<RunMeta>,
    /// Between runs: room that is used again.
    block: BlockBuilder,
    /// What of each run that was made here stays in memory when it is open, by its first byte in the file.
    pinned: BTreeMap<u64, (Filter, Index)>,
    finished: bool,
    /// The file's name is durable.
    named: bool,
}

impl PackWriter {
    /// Creates the file `dir/NNNNNN.pack`, which must not exist.
    ///
    /// # Errors
    /// `Io`.
    pub fn create(fs: Arc<dyn Fs>, dir: &Path, file_no: FileNo, node: NodeId) -> Result<PackWriter> {
        let path = pack_path(dir, file_no);
        let file = fs.open(&path, OpenMode::CreateNew).map_err(|error| Error::io(&path, "create", &error))?;
        Ok(PackWriter::over(fs, dir, file, file_no, node))
    }

    /// A file in which nothing is yet, and whose name is not durable.
    fn over(fs: Arc<dyn Fs>, dir: &Path, file: Arc<dyn File>, file_no: FileNo, node: NodeId) -> PackWriter {
        PackWriter {
            fs,
            dir: dir.to_owned(),
            path: pack_path(dir, file_no),
            file,
            file_no,
            node,
            written: 0,
            buffer: Vec::new(),
            state: State::Between,
            runs: Vec::new(),
            block: BlockBuilder::default(),
            pinned: BTreeMap::new(),
            finished: false,
            named: false,
        }
    }

    /// Goes on with a file that a [`PackWriter::suspend`] left, after `end` bytes. None of its runs counts yet: see
    /// [`PackWriter::adopt_import`]. What lies beyond is overwritten. Dropped before [`PackWriter::finish`] it leaves
    /// the file.
    ///
    /// # Errors
    /// `Io`; `Corrupt` if the file is shorter.
    pub fn resume(
        fs: Arc<dyn Fs>,
        dir: &Path,
        file_no: FileNo,
        node: NodeId,
        end: u64,
    ) -> Result<PackWriter> {
        let path = pack_path(dir, file_no);
        let io = |operation| {
            let path = path.clone();
            move |error: std::io::Error| Error::io(&path, operation, &error)
        };
        let file = fs.open(&path, OpenMode::Write).map_err(io("open"))?;
        let size = file.size().map_err(io("read size"))?;
        if size < end {
            return Err(Error::corrupt(&path, size, format!("ends before byte {end}, which was durable")));
        }
        let mut writer = PackWriter::over(fs, dir, file, file_no, node);
        (writer.written, writer.finished, writer.named) = (end, true, true);
        Ok(writer)
    }

    /// Holds bytes that are in the file to their checksum.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn check_here(&self, offset: u64, bytes: u64, crc: u32) -> Result<()> {
        self.unshared().check(offset, bytes, crc, "a copy's run")
    }

    fn unshared(&self) -> PackFile {
        PackFile::unshared(self.file_no, self.path.clone(), Arc::clone(&self.file))
    }

    /// The number of the file.
    #[must_use]
    pub fn file_no(&self) -> FileNo {
        self.file_no
    }

    /// Bytes that the file has so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Whether nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The runs that are complete, in the order they were written.
    #[must_use]
    pub fn runs(&self) -> &[RunMeta] {
        &self.runs
    }

    fn begin(&self) {
        assert!(matches!(self.state, State::Between), "a run is written after another, not within");
        assert!(self.runs.len() < RUNS_MAX, "more than {RUNS_MAX} runs in a pack");
    }

    fn write_buffer(&mut self) -> Result<()> {
        self.file
            .write_at(&self.buffer, self.written)
            .map_err(|error| Error::io(&self.path, "write", &error))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        self.buffer.shrink_to(2 * WRITE_BYTES);
        Ok(())
    }

    /// Begins a slot's run.
    ///
    /// # Panics
    /// If a run is open, there are 1024 already, or the options are out of range.
    pub fn begin_run(&mut self, slot: Slot, options: RunOptions) {
        self.begin();
        assert!(
            (1..=BLOCK_BYTES_MAX).contains(&options.block_bytes),
            "blocks of {} bytes",
            options.block_bytes
        );
        self.state = State::Run(Box::new(OpenRun {
            slot,
            options,
            offset: self.len(),
            crc: crc32fast::Hasher::new(),
            block: std::mem::take(&mut self.block),
            index: IndexBuilder::default(),
            filter: Filter::for_keys(options.entries_max),
            first_key: Vec::new(),
            last_key: Vec::new(),
            entries: 0,
            tombstones: 0,
            keys: 0,
            raw_bytes: 0,
            min_expiry: None,
        }));
    }

    /// Adds an entry to the open run.
    ///
    /// # Errors
    /// `Io`; the writer is then of no more use.
    ///
    /// # Panics
    /// If no run is open, the key is no entry key, or it does not ascend.
    pub fn add(&mut self, key: &[u8], entry: EntryRef<'_>) -> Result<()> {
        let State::Run(run) = &mut self.state else { panic!("an entry outside a run") };
        assert!(run.entries == 0 || run.last_key.as_slice() < key, "keys of a run must ascend");
        if !run.block.has_room(key, entry, run.options.block_bytes) {
            run.finish_block(self.written, &mut self.buffer);
        }
        if entry.value_len() > COMPRESS_BYTES_MAX && run.block.is_empty() && !self.buffer.is_empty() {
            // Into an empty buffer its block goes without a copy.
            self.write_buffer()?;
            return self.add(key, entry);
        }
        if run.block.is_empty() {
            let offset = self.written + self.buffer.len() as u64 - run.offset;
            run.index.add(offset, &run.last_key, key);
        }
        run.note(key, entry);
        run.block.add(key, entry);
        if self.buffer.len() >= WRITE_BYTES { self.write_buffer() } else { Ok(()) }
    }

    /// Ends the open run, which holds the effects of the records `min_seq..=max_seq`. `None`, and nothing in the
    /// file, if no entry was added.
    ///
    /// # Errors
    /// `Io`; the writer is then of no more use.
    ///
    /// # Panics
    /// If no run is open or the seqs are out of order.
    pub fn end_run(&mut self, min_seq: Seq, max_seq: Seq) -> Result<Option<RunMeta>> {
        assert!(min_seq <= max_seq, "a run from {min_seq} to {max_seq}");
        let State::Run(mut run) = std::mem::replace(&mut self.state, State::Between) else {
            panic!("the end of a run that was not begun")
        };
        if run.entries == 0 {
            self.block = run.block;
            return Ok(None);
        }
        run.finish_block(self.written, &mut self.buffer);
        self.block = std::mem::take(&mut run.block);
        let props = run.properties(min_seq, max_seq);
        let tail_from = self.buffer.len();
        let position = |buffer: &Vec<u8>| self.written + buffer.len() as u64 - run.offset;
        let filter_at = position(&self.buffer);
        run.filter.shrink_to(run.entries);
        run.filter.encode(&mut self.buffer);
        footer::seal(&mut self.buffer, tail_from);
        let index_at = position(&self.buffer);
        let from = self.buffer.len();
        run.index.encode(&mut self.buffer);
        let index = Index::decode(&self.buffer[from..], filter_at).expect("an index that was just made");
        footer::seal(&mut self.buffer, from);
        let properties_at = position(&self.buffer);
        let from = self.buffer.len();
        props.encode(&mut self.buffer);
        footer::seal(&mut self.buffer, from);
        let len = position(&self.buffer) + footer::RUN_FOOTER_BYTES as u64;
        let parts = RunFooter { filter_at, index_at, properties_at, run_len: len, slot: run.slot };
        parts.encode(&mut self.buffer);
        run.crc.update(&self.buffer[tail_from..]);
        let crc = run.crc.finalize();
        let meta = RunMeta { file: self.file_no, offset: run.offset, len, crc, props };
        assert_eq!(run.offset + len, self.len(), "a run is as long as it says");
        self.runs.push(meta.clone());
        self.pinned.insert(run.offset, (run.filter, index));
        if self.buffer.len() >= WRITE_BYTES {
            self.write_buffer()?;
        }
        Ok(Some(meta))
    }

    /// Begins to take over another node's run as it lies on that node's disk: `len` bytes with this checksum, both
    /// from its [`RunMeta`] there.
    ///
    /// # Panics
    /// If a run is open or there are 1024 already.
    pub fn begin_import(&mut self, len: u64, crc: u32) {
        self.begin();
        self.state = State::Import(Import { offset: self.len(), len, crc, hasher: crc32fast::Hasher::new() });
    }

    /// As [`PackWriter::begin_import`] for a run of which the file's last bytes, from `offset` on, are here: `crc_here`
    /// is their CRC-32.
    ///
    /// # Panics
    /// If a run is open, there are 1024 already, or `offset` is beyond the end.
    pub fn resume_import(&mut self, offset: u64, crc_here: u32, len: u64, crc: u32) {
        self.begin();
        let here = self.len().checked_sub(offset).expect("a run that is in the file begins in it");
        let hasher = crc32fast::Hasher::new_with_initial_len(crc_here, here);
        self.state = State::Import(Import { offset, len, crc, hasher });
    }

    /// Counts a run among this file's that an import brought whole before the writer was suspended.
    ///
    /// # Errors
    /// As [`PackWriter::end_import`].
    ///
    /// # Panics
    /// If a run is open or there are 1024 already.
    pub fn adopt_import(&mut self, offset: u64, len: u64, crc: u32) -> Result<()> {
        self.begin();
        let meta = self.read_run(offset, len, crc)?;
        self.runs.push(meta);
        Ok(())
    }

    /// Whether a run is being taken over.
    #[must_use]
    pub fn is_importing(&self) -> bool {
        matches!(self.state, State::Import(_))
    }

    /// Takes back what lies from `offset` on: what follows is written over it.
    ///
    /// # Panics
    /// If a run is open or there are fewer bytes.
    pub fn cut(&mut self, offset: u64) {
        assert!(matches!(self.state, State::Between) && offset <= self.len(), "a cut at byte {offset}");
        if offset < self.written {
            self.buffer.clear();
            self.written = offset;
        } else {
            let kept = usize::try_from(offset - self.written).expect("within the buffer");
            self.buffer.truncate(kept);
        }
    }

    /// Makes durable what is there, to be gone on with after a restart, and says how many bytes of the open import
    /// that are and their CRC-32 (0 of none, if none is open). The file stays when the writer is dropped only after
    /// [`PackWriter::keep`].
    ///
    /// # Errors
    /// `Io`; the writer is then of no more use.
    pub fn suspend(&mut self) -> Result<(u64, u32)> {
        self.write_buffer()?;
        self.file.sync().map_err(|error| Error::io(&self.path, "sync", &error))?;
        if !self.named {
            let io = |error| Error::io(&self.path, "sync folder of", &error);
            self.fs.sync_dir(&self.dir).map_err(io)?;
            self.named = true;
        }
        Ok(match &self.state {
            State::Import(import) => (self.written - import.offset, import.hasher.clone().finalize()),
            _ => (0, 0),
        })
    }

    /// The file stays, also if the writer is dropped: somebody refers to it.
    pub fn keep(&mut self) {
        self.finished = true;
    }

    /// Adds the bytes that follow to the run being taken over.
    ///
    /// # Errors
    /// `Io`. Bytes beyond the announced length are an error at the end.
    ///
    /// # Panics
    /// If no import is open.
    pub fn import(&mut self, chunk: &[u8]) -> Result<()> {
        let State::Import(import) = &mut self.state else { panic!("bytes of a run outside an import") };
        import.hasher.update(chunk);
        if chunk.len() >= WRITE_BYTES {
            // As it came: nothing is gained by a copy.
            if !self.buffer.is_empty() {
                self.write_buffer()?;
            }
            self.file
                .write_at(chunk, self.written)
                .map_err(|error| Error::io(&self.path, "write", &error))?;
            self.written += chunk.len() as u64;
            return Ok(());
        }
        self.buffer.extend_from_slice(chunk);
        if self.buffer.len() >= WRITE_BYTES { self.write_buffer() } else { Ok(()) }
    }

    /// Checks the run that was taken over and counts it among this file's.
    ///
    /// # Errors
    /// `Corrupt` if length, checksum or structure do not hold: it is then as if the import had not begun.
    /// `Unusable` if its format is newer. `Io`: the writer is then of no more use.
    ///
    /// # Panics
    /// If no import is open.
    pub fn end_import(&mut self) -> Result<RunMeta> {
        let State::Import(import) = std::mem::replace(&mut self.state, State::Between) else {
            panic!("the end of an import that was not begun")
        };
        self.write_buffer()?;
        let meta = self.check_import(&import);
        match &meta {
            Ok(meta) => self.runs.push(meta.clone()),
            // What follows is written over it.
            Err(_) => self.written = import.offset,
        }
        meta
    }

    fn check_import(&self, import: &Import) -> Result<RunMeta> {
        let got = self.written - import.offset;
        if got != import.len || import.hasher.clone().finalize() != import.crc {
            let what = format!("received run: {got} bytes of {}, or a wrong checksum", import.len);
            return Err(Error::corrupt(&self.path, import.offset, what));
        }
        self.read_run(import.offset, import.len, import.crc)
    }

    fn read_run(&self, offset: u64, len: u64, crc: u32) -> Result<RunMeta> {
        let file = crate::sync::Arc::new(self.unshared());
        let (run, _) = Run::read(file, offset, len, crc)?;
        Ok(run.meta().clone())
    }

    /// As [`PackWriter::finish`], and opens the runs: those that were made here without reading anything of them again.
    ///
    /// # Errors
    /// `Io`.
    ///
    /// # Panics
    /// If a run is open.
    pub fn finish_open(mut self, packs: &Packs) -> Result<Vec<sync::Arc<Run>>> {
        let mut pinned = std::mem::take(&mut self.pinned);
        let open = |meta: RunMeta| match pinned.remove(&meta.offset) {
            Some((filter, index)) => packs.open_made(meta, filter, index),
            None => packs.open_run(&meta),
        };
        self.finish()?.into_iter().map(open).collect()
    }

    /// Writes directory and footer and makes the file durable: bytes, then name. No file is left if it holds no
    /// run.
    ///
    /// # Errors
    /// `Io`.
    ///
    /// # Panics
    /// If a run is open.
    pub fn finish(mut self) -> Result<Vec<RunMeta>> {
        assert!(matches!(self.state, State::Between), "the end of a pack within a run");
        self.runs.sort_by_key(|run| run.offset);
        if self.runs.is_empty() {
            return Ok(Vec::new());
        }
        let entry = |meta: &RunMeta| DirectoryEntry {
            slot: meta.props.slot,
            offset: meta.offset,
            len: meta.len,
            crc: meta.crc,
        };
        let directory: Vec<_> = self.runs.iter().map(entry).collect();
        let directory_at = self.len();
        footer::encode_directory(&directory, directory_at, self.file_no, self.node, &mut self.buffer);
        self.write_buffer()?;
        let io = |operation| move |error: std::io::Error| (operation, error);
        let durable = || -> Result<(), (&'static str, std::io::Error)> {
            // A refused import may have left bytes beyond the end.
            if self.file.size().map_err(io("read size"))? > self.written {
                self.file.set_size(self.written).map_err(io("cut"))?;
            }
            self.file.sync().map_err(io("sync"))?;
            if planted::is(Bug::NoFolderSync) {
                return Ok(());
            }
            self.fs.sync_dir(&self.dir).map_err(io("sync folder of"))
        };
        durable().map_err(|(operation, error)| Error::io(&self.path, operation, &error))?;
        self.finished = true;
        Ok(std::mem::take(&mut self.runs))
    }
}

impl Drop for PackWriter {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = self.fs.remove(&self.path)
        {
            // The next start removes it: no manifest refers to it.
            tracing::warn!(path = %self.path.display(), %error, "can't remove an unfinished pack file");
        }
    }
}

impl OpenRun {
    fn finish_block(&mut self, written: u64, buffer: &mut Vec<u8>) {
        let from = buffer.len();
        let offset_in_run = written + from as u64 - self.offset;
        self.block.finish(self.options.compress, self.slot, offset_in_run, buffer);
        self.crc.update(&buffer[from..]);
    }

    /// Counts an entry.
    fn note(&mut self, key: &[u8], entry: EntryRef<'_>) {
        let parts = key::split(key).expect("only entry keys are written");
        match entry {
            EntryRef::Tombstone => self.tombstones += 1,
            EntryRef::Value(value) if parts.element.is_none() => {
                self.keys += 1;
                let expiry = Header::decode(value).and_then(|header| header.expiry);
                self.min_expiry = self.min_expiry.into_iter().chain(expiry).min();
            }
            EntryRef::Value(_) => {}
        }
        if self.entries == 0 {
            self.first_key.extend_from_slice(key);
        }
        self.entries += 1;
        self.raw_bytes += (key.len() + entry.value_len()) as u64;
        self.filter.insert(KeyHash::of(key));
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
    }

    fn properties(&self, min_seq: Seq, max_seq: Seq) -> Properties {
        Properties {
            slot: self.slot,
            entries: self.entries,
            tombstones: self.tombstones,
            keys: self.keys,
            min_seq,
            max_seq,
            raw_bytes: self.raw_bytes,
            min_expiry: self.min_expiry,
            first_key: bound_below(&self.first_key),
            last_key: bound_above(&self.last_key),
        }
    }
}
