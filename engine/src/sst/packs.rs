//! The pack files of a node: which are open, how much of each is in use, and when one goes.
//!
//! A file stays as long as the manifest refers to one of its runs, and then until the last reader lets go. Letting
//! go never removes a file by itself, since it may happen on a thread that must not wait for a disk:
//! [`Packs::sweep`] does, called by whoever just changed the manifest. Any thread may use it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::{OpenFiles, PackFile, lock};
use super::filter::Filter;
use super::index::Index;
use super::properties::RunMeta;
use super::run::Run;
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::sync::{self, Mutex, Weak};

/// How many pack files are open at a time, unless told otherwise.
pub const OPEN_FILES_MAX: usize = 512;

/// The number that names a pack file. Never used for two files that the manifest refers to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FileNo(pub u64);

impl FileNo {
    /// The number of the file that follows.
    #[must_use]
    pub const fn next(self) -> FileNo {
        FileNo(self.0 + 1)
    }
}

/// Where a pack file lies.
#[must_use]
pub fn pack_path(dir: &Path, file: FileNo) -> PathBuf {
    dir.join(format!("{:06}.pack", file.0))
}

/// The number in a pack file's name.
pub(crate) fn file_no_of(name: &str) -> Option<FileNo> {
    let number = name.strip_suffix(".pack")?.parse().ok().map(FileNo)?;
    (format!("{:06}.pack", number.0) == name).then_some(number)
}

/// How much of a pack file is in use: what makes it worth evacuating.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackUsage {
    /// The file.
    pub file: FileNo,
    /// Runs in it that the manifest refers to.
    pub live_runs: usize,
    /// Their bytes.
    pub live_bytes: u64,
    /// Bytes of all runs that it ever had since the start of this process.
    pub total_bytes: u64,
}

impl PackUsage {
    /// Whether rewriting what lives frees more than twice as much as it writes.
    #[must_use]
    pub fn is_mostly_dead(&self) -> bool {
        self.live_bytes * 10 < self.total_bytes * 3
    }
}

#[derive(Default)]
struct Known {
    open: Weak<PackFile>,
    live_runs: usize,
    live_bytes: u64,
    total_bytes: u64,
}

/// See the file's head.
pub struct Packs {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    known: Mutex<HashMap<FileNo, Known>>,
    files: Arc<OpenFiles>,
}

impl Packs {
    /// The pack files of a folder, none of which is in use yet. At most [`OPEN_FILES_MAX`] are open at a time, and at most
    /// a quarter of what the process may open: connections need the others.
    #[must_use]
    pub fn new(fs: Arc<dyn Fs>, dir: &Path) -> Packs {
        let allowed = fs.open_files_max().and_then(|allowed| usize::try_from(allowed / 4).ok());
        let files_max = allowed.map_or(OPEN_FILES_MAX, |allowed| allowed.clamp(1, OPEN_FILES_MAX));
        Packs::with_open_files_max(fs, dir, files_max)
    }

    /// As [`Packs::new`], with another number of files that are open at a time.
    #[must_use]
    pub fn with_open_files_max(fs: Arc<dyn Fs>, dir: &Path, files_max: usize) -> Packs {
        let files = OpenFiles::new(Arc::clone(&fs), files_max);
        Packs { fs, dir: dir.to_owned(), known: Mutex::default(), files }
    }

    /// How many pack files are open.
    #[must_use]
    pub fn open_files(&self) -> usize {
        self.files.count()
    }

    /// Bytes of memory that the indexes and filters of all open runs take.
    #[must_use]
    pub fn pinned_bytes(&self) -> usize {
        self.files.pinned_bytes()
    }

    /// Opens a run. Reads its index and filter; waits for the disk.
    ///
    /// # Errors
    /// `Corrupt` if it is not what the manifest means, `Unusable` if its format is newer, `Io`.
    pub fn open_run(&self, meta: &RunMeta) -> Result<sync::Arc<Run>> {
        Run::open(self.file(meta.file)?, meta)
    }

    /// Opens a run that was just written, of which this stays in memory.
    pub(super) fn open_made(&self, meta: RunMeta, filter: Filter, index: Index) -> Result<sync::Arc<Run>> {
        Ok(Run::made(self.file(meta.file)?, meta, filter, index))
    }

    fn file(&self, file_no: FileNo) -> Result<sync::Arc<PackFile>> {
        let held = lock(&self.known).get(&file_no).and_then(|known| known.open.upgrade());
        held.map_or_else(|| self.open_file(file_no), Ok)
    }

    fn open_file(&self, file_no: FileNo) -> Result<sync::Arc<PackFile>> {
        let opened = PackFile::shared(file_no, pack_path(&self.dir, file_no), Arc::clone(&self.files));
        let size = opened.size()?;
        let mut all = lock(&self.known);
        let known = all.entry(file_no).or_default();
        known.total_bytes = known.total_bytes.max(size);
        // Another thread may have come first: all of a file's runs share one.
        if let Some(theirs) = known.open.upgrade() {
            return Ok(theirs);
        }
        let opened = sync::Arc::new(opened);
        known.open = sync::Arc::downgrade(&opened);
        Ok(opened)
    }

    /// The manifest now refers to these runs.
    pub fn adopt<'a>(&self, runs: impl IntoIterator<Item = &'a RunMeta>) {
        let mut all = lock(&self.known);
        for run in runs {
            let known = all.entry(run.file).or_default();
            known.live_runs += 1;
            known.live_bytes += run.len;
            known.total_bytes = known.total_bytes.max(run.offset + run.len);
        }
    }

    /// The manifest refers to a file that runs of a copy go to: it stays until [`Packs::let_go`].
    pub fn hold(&self, file: FileNo) {
        lock(&self.known).entry(file).or_default().live_runs += 1;
    }

    /// The manifest does not refer any more to a file that was held.
    ///
    /// # Panics
    /// If it was not.
    pub fn let_go(&self, file: FileNo) {
        let mut all = lock(&self.known);
        self.drop_run(&mut all, file, 0);
    }

    /// The manifest no longer refers to these runs. A file none of whose runs is left goes with its last reader,
    /// at the next [`Packs::sweep`].
    ///
    /// # Panics
    /// If one was not adopted, or is released twice.
    pub fn release<'a>(&self, runs: impl IntoIterator<Item = &'a RunMeta>) {
        let mut all = lock(&self.known);
        for run in runs {
            self.drop_run(&mut all, run.file, run.len);
        }
    }

    fn drop_run(&self, all: &mut HashMap<FileNo, Known>, file: FileNo, bytes: u64) {
        let known = all.get_mut(&file).expect("a run is adopted before it is released");
        known.live_runs = known.live_runs.checked_sub(1).expect("a run is released once");
        known.live_bytes -= bytes;
        if known.live_runs > 0 {
            return;
        }
        let open = known.open.upgrade();
        all.remove(&file);
        match open {
            Some(file) => file.set_obsolete(),
            None => self.files.discard(file),
        }
    }

    /// Removes the files that were released and that nobody reads any more, and tells which.
    ///
    /// # Errors
    /// `Io`; what could not be removed is tried again at the next call.
    pub fn sweep(&self) -> Result<Vec<FileNo>> {
        let mut removed = Vec::new();
        loop {
            let Some(file) = self.files.take_discarded() else { return Ok(removed) };
            let path = pack_path(&self.dir, file);
            if let Err(error) = self.fs.remove(&path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                self.files.discard(file);
                return Err(Error::io(&path, "remove", &error));
            }
            removed.push(file);
        }
    }

    /// How much of each file is in use.
    #[must_use]
    pub fn usage(&self) -> Vec<PackUsage> {
        let all: BTreeMap<FileNo, PackUsage> = lock(&self.known)
            .iter()
            .map(|(&file, known)| {
                let Known { live_runs, live_bytes, total_bytes, .. } = *known;
                (file, PackUsage { file, live_runs, live_bytes, total_bytes })
            })
            .collect();
        all.into_values().collect()
    }

    /// Removes every file of the folder that no adopted run lies in: what a crash left behind. Called once at the
    /// start, after all of the manifest's runs were adopted and before anything is written.
    ///
    /// # Errors
    /// `Io`; `Unusable` if the folder holds something that this program did not make.
    pub fn remove_orphans(&self) -> Result<Vec<String>> {
        let entries = self.fs.list(&self.dir).map_err(|error| Error::io(&self.dir, "list", &error))?;
        let mut removed = Vec::new();
        for entry in entries {
            let path = self.dir.join(&entry.name);
            let Some(file) = file_no_of(&entry.name).filter(|_| !entry.is_dir) else {
                let why = "not a file of this program: move it out of the data folder".to_owned();
                return Err(Error::Unusable { path, why });
            };
            if !lock(&self.known).contains_key(&file) {
                self.fs.remove(&path).map_err(|error| Error::io(&path, "remove", &error))?;
                removed.push(entry.name);
            }
        }
        Ok(removed)
    }
}
