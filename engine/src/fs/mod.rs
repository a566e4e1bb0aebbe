//! The file system as a small trait, so that a test can crash it.
//!
//! Everything the project does to files goes through [`Fs`] and [`File`]; nothing outside this folder calls
//! `std::fs`. Errors are `io::Error`; callers add the path (`Error::io`).

pub mod memory;
pub mod pool;
pub mod real;

use std::io;
use std::path::Path;
use std::sync::Arc;

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// For reading; it must exist.
    Read,
    /// For reading and writing; it must exist.
    Write,
    /// For reading and writing; it must not exist.
    CreateNew,
}

/// A folder's entry.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DirEntry {
    /// The name within the folder.
    pub name: String,
    /// Whether it is a folder itself.
    pub is_dir: bool,
}

/// A file system. Called from any thread.
///
/// A new name (created, renamed, linked) and a removed one are durable only after [`Fs::sync_dir`] of the
/// folder; a file's bytes and length only after [`File::sync`].
pub trait Fs: Send + Sync + 'static {
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// Gives a file a new name, replacing what had it, atomically; or a folder, to a name that nothing has.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file a second name, which must not exist.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name. Whoever has it open reads on.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// The folder's entries, by name, ascending.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// Makes a folder and those above it; fine if it exists.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Makes the folder's names durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Whether something has this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Takes an exclusive lock on a file, made if need be, for as long as the value lives.
    ///
    /// # Errors
    /// `WouldBlock` if another process has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
    /// Takes a shared lock on a file that exists, for as long as the value lives: others may share it, nobody can
    /// [`Fs::lock`] it. Writes nothing.
    ///
    /// # Errors
    /// `WouldBlock` if somebody has it for itself; `NotFound`.
    fn lock_shared(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
    /// How many files this process may have open at a time, if that is limited.
    fn open_files_max(&self) -> Option<u64>;
    /// Bytes that an unprivileged user can still write below this folder.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
}

/// An open file. Called from any thread; positions are explicit, there is no cursor.
pub trait File: Send + Sync {
    /// Reads up to `buf.len()` bytes at `offset`; fewer only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// As [`File::read_at`], but `Ok(None)` where the device would have to be waited for.
    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>>;
    /// As [`File::try_read_at`], and `Ok(None)` too where the system can't tell whether it would have to wait: never waits.
    fn peek_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>>;
    /// Writes all of `buf` at `offset`, growing the file if need be.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the file's bytes and size durable. Never retried after a failure: the kernel forgets.
    fn sync(&self) -> io::Result<()>;
    /// The file's size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Extends a file to `size` bytes for which the device has room; those that were not written read as zeros.
    fn reserve(&self, size: u64) -> io::Result<()>;
    /// Asks the system to forget what it remembers of the file from `offset` on. Changes no byte: what was not synced
    /// stays, and where nothing is remembered nothing is done.
    fn forget_cached(&self, offset: u64);
    /// Cuts or extends (with zeros) the file.
    fn set_size(&self, size: u64) -> io::Result<()>;
}
