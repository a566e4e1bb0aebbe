//! A pack file that runs read from, and the budget of those that are open at a time.
//!
//! A file is opened when it is read and closed again when too many are open (`fs/pool`). It keeps its name for as long as
//! anybody may read it, so it can always be opened again. Any thread may read.

use std::path::PathBuf;
use std::sync::Arc;

use super::FileNo;
use crate::error::{Error, Result};
use crate::fs::pool::FilePool;
use crate::fs::{File, Fs};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// See the file's head.
pub(super) struct PackFile {
    pub(super) file_no: FileNo,
    pub(super) path: PathBuf,
    file: Arc<dyn File>,
    /// Whose budget it is in; `None` if it stays open.
    files: Option<Arc<OpenFiles>>,
    /// Set under the lock of `Packs` when the manifest no longer refers to it; read when it is dropped.
    obsolete: AtomicBool,
}

/// The pack files that are open, and those that wait to be removed.
pub(super) struct OpenFiles {
    pool: Arc<FilePool>,
    /// Files that nobody refers to or reads any more.
    trash: Mutex<Vec<FileNo>>,
    /// Bytes of memory that what was read of them takes for good. Only a measure: nothing is ordered by it.
    pinned: AtomicUsize,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no code panics under this lock")
}

impl PackFile {
    /// A file that stays open: read by its own writer, or by a tool.
    pub(super) fn unshared(file_no: FileNo, path: PathBuf, file: Arc<dyn File>) -> PackFile {
        PackFile { file_no, path, file, files: None, obsolete: AtomicBool::new(false) }
    }

    /// A file that is opened when it is read.
    pub(super) fn shared(file_no: FileNo, path: PathBuf, files: Arc<OpenFiles>) -> PackFile {
        let file = Arc::new(files.pool.file(&path));
        PackFile { file_no, path, file, files: Some(files), obsolete: AtomicBool::new(false) }
    }

    /// The manifest no longer refers to it: it goes with the last who reads it.
    pub(super) fn set_obsolete(&self) {
        self.obsolete.store(true, Ordering::Release);
    }

    /// Counts bytes of memory that are kept of the file until [`PackFile::unpin`]; says how many were counted.
    pub(super) fn pin(&self, bytes: usize) -> usize {
        let Some(files) = &self.files else { return 0 };
        files.pinned.fetch_add(bytes, Ordering::Relaxed);
        bytes
    }

    /// Ends the counting of what [`PackFile::pin`] counted.
    pub(super) fn unpin(&self, bytes: usize) {
        if let Some(files) = &self.files {
            files.pinned.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Bytes of the file.
    pub(super) fn size(&self) -> Result<u64> {
        self.file.size().map_err(|error| Error::io(&self.path, "read size", &error))
    }

    /// Reads exactly `buf.len()` bytes of `what`; fewer are corruption.
    pub(super) fn read(&self, buf: &mut [u8], offset: u64, what: &str) -> Result<()> {
        let got = self.file.read_at(buf, offset).map_err(|error| Error::io(&self.path, "read", &error))?;
        if got == buf.len() {
            return Ok(());
        }
        let what = format!("{what} cut short: {got} of {} bytes", buf.len());
        Err(Error::corrupt(&self.path, offset, what))
    }

    /// Holds `bytes` bytes from `offset` on to their checksum.
    pub(super) fn check(&self, offset: u64, bytes: u64, crc: u32, what: &str) -> Result<()> {
        const PIECE: u64 = 1 << 20;
        let (mut hasher, mut at, end) = (crc32fast::Hasher::new(), offset, offset.saturating_add(bytes));
        let mut piece = Vec::new();
        while at < end {
            let len = PIECE.min(end - at);
            piece.resize(usize::try_from(len).expect("a piece lies in memory"), 0);
            self.read(&mut piece, at, what)?;
            hasher.update(&piece);
            at += len;
        }
        match hasher.finalize() == crc {
            true => Ok(()),
            false => {
                Err(Error::corrupt(&self.path, offset, format!("wrong checksum of {bytes} bytes of {what}")))
            }
        }
    }

    /// Reads all of `buf` if that needs no waiting; tells whether it did.
    pub(super) fn try_read(&self, buf: &mut [u8], offset: u64) -> Result<bool> {
        let got =
            self.file.try_read_at(buf, offset).map_err(|error| Error::io(&self.path, "read", &error))?;
        // A part is as good as nothing: the read that waits tells a cut file from a cold page.
        Ok(got == Some(buf.len()))
    }

    /// As [`PackFile::try_read`], and never waits, whatever the file system.
    pub(super) fn peek(&self, buf: &mut [u8], offset: u64) -> Result<bool> {
        let got = self.file.peek_at(buf, offset).map_err(|error| Error::io(&self.path, "read", &error))?;
        Ok(got == Some(buf.len()))
    }
}

impl Drop for PackFile {
    fn drop(&mut self) {
        if let Some(files) = &self.files
            && self.obsolete.load(Ordering::Acquire)
        {
            files.discard(self.file_no);
        }
    }
}

impl OpenFiles {
    /// At most `files_max` open files, but one at least.
    pub(super) fn new(fs: Arc<dyn Fs>, files_max: usize) -> Arc<OpenFiles> {
        Arc::new(OpenFiles {
            pool: FilePool::new(fs, files_max),
            trash: Mutex::default(),
            pinned: AtomicUsize::new(0),
        })
    }

    /// A file that may be removed.
    pub(super) fn discard(&self, file: FileNo) {
        lock(&self.trash).push(file);
    }

    /// See [`PackFile::pin`].
    pub(super) fn pinned_bytes(&self) -> usize {
        self.pinned.load(Ordering::Relaxed)
    }

    /// Takes one of the files that may be removed.
    pub(super) fn take_discarded(&self) -> Option<FileNo> {
        lock(&self.trash).pop()
    }

    /// How many files are open.
    pub(super) fn count(&self) -> usize {
        self.pool.count()
    }
}
