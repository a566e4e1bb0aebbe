//! A budget of files that are open at a time, for files that are only read.
//!
//! A file is opened when it is read and closed again when too many are open, the least used first (a second chance
//! for each that was read meanwhile). Whoever removes its name loses it as soon as it is closed. Any thread may read.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use super::{File, Fs, OpenMode};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// See the file's head.
pub struct FilePool {
    fs: Arc<dyn Fs>,
    files_max: usize,
    /// In the order in which they were opened or spared.
    ring: Mutex<VecDeque<Weak<Handle>>>,
}

/// A file of a pool: open or not.
pub struct PooledFile {
    path: PathBuf,
    handle: Arc<Handle>,
    pool: Arc<FilePool>,
}

/// A file while it is open.
#[derive(Default)]
struct Handle {
    open: Mutex<Option<Arc<dyn File>>>,
    /// Set by every read, cleared by [`FilePool`] when it spares the file.
    used: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no code panics under this lock")
}

impl FilePool {
    /// At most `files_max` open files, but one at least.
    #[must_use]
    pub fn new(fs: Arc<dyn Fs>, files_max: usize) -> Arc<FilePool> {
        Arc::new(FilePool { fs, files_max: files_max.max(1), ring: Mutex::default() })
    }

    /// A file that is opened when it is read.
    #[must_use]
    pub fn file(self: &Arc<FilePool>, path: &Path) -> PooledFile {
        PooledFile { path: path.to_owned(), handle: Arc::default(), pool: Arc::clone(self) }
    }

    /// A file that somebody opened: it stays so for a while.
    #[must_use]
    pub fn opened(self: &Arc<FilePool>, path: &Path, file: Arc<dyn File>) -> PooledFile {
        let pooled = self.file(path);
        *lock(&pooled.handle.open) = Some(file);
        self.note_open(&pooled.handle);
        pooled
    }

    /// How many files are open.
    #[must_use]
    pub fn count(&self) -> usize {
        lock(&self.ring).iter().filter(|file| file.strong_count() > 0).count()
    }

    /// A file was opened: closes others beyond the budget.
    fn note_open(&self, file: &Arc<Handle>) {
        let mut closed = Vec::new();
        let mut ring = lock(&self.ring);
        ring.push_back(Arc::downgrade(file));
        // Twice round at most: the first round clears every `used`.
        for _ in 0..2 * ring.len() {
            if ring.len() <= self.files_max {
                break;
            }
            let Some(oldest) = ring.pop_front().and_then(|oldest| oldest.upgrade()) else { continue };
            let spare = oldest.used.swap(false, Ordering::Relaxed) || Arc::ptr_eq(&oldest, file);
            if spare {
                ring.push_back(Arc::downgrade(&oldest));
            } else {
                closed.extend(lock(&oldest.open).take());
            }
        }
        drop(ring);
        // Closing is a system call: not under the lock.
        drop(closed);
    }
}

impl PooledFile {
    /// The file, if it is open.
    fn held(&self) -> Option<Arc<dyn File>> {
        self.handle.used.store(true, Ordering::Relaxed);
        lock(&self.handle.open).clone()
    }

    fn open(&self) -> io::Result<Arc<dyn File>> {
        if let Some(file) = self.held() {
            return Ok(file);
        }
        let opened = self.pool.fs.open(&self.path, OpenMode::Read)?;
        // Another thread may have opened it meanwhile: one is enough.
        let file = match &mut *lock(&self.handle.open) {
            Some(theirs) => return Ok(Arc::clone(theirs)),
            empty => Arc::clone(empty.insert(opened)),
        };
        self.pool.note_open(&self.handle);
        Ok(file)
    }
}

fn only_read() -> io::Error {
    io::Error::new(ErrorKind::Unsupported, "a file that is only read")
}

impl File for PooledFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.open()?.read_at(buf, offset)
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        // Opening a file may wait too.
        self.held().map_or(Ok(None), |file| file.try_read_at(buf, offset))
    }

    fn peek_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        self.held().map_or(Ok(None), |file| file.peek_at(buf, offset))
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(only_read())
    }

    fn sync(&self) -> io::Result<()> {
        Err(only_read())
    }

    fn size(&self) -> io::Result<u64> {
        self.open()?.size()
    }

    fn reserve(&self, _: u64) -> io::Result<()> {
        Err(only_read())
    }

    fn forget_cached(&self, _: u64) {}

    fn set_size(&self, _: u64) -> io::Result<()> {
        Err(only_read())
    }
}
