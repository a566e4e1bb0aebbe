//! A file system in memory that can lose power, fail an operation and run full; deterministic.
//!
//! What it promises after [`MemoryFs::crash`]: bytes that [`File::sync`] covered and names that [`Fs::sync_dir`]
//! covered are there; every other 512-byte sector and every other change of a name is there or not, each by
//! the seed. After a failed sync the bytes read back as written, and are gone after a crash even if a later
//! sync succeeds: that is what Linux does. [`Failure`] says what else a failure can leave.
//!
//! Operations that change something, and syncs, are numbered; each can be failed, be the machine's last, be seen
//! ([`MemoryFs::watch`]) and be noted ([`MemoryFs::record_operations`]). Clones share one file system; a copy
//! ([`MemoryFs::restart`], [`MemoryFs::crash`], [`Step::before`]) shares bytes with it until one of them changes
//! them, and so costs little. Files opened before a crash go on living in the file system before it.

mod content;
mod disk;
mod inode;
mod journal;
#[cfg(test)]
mod tests;

pub use journal::{Action, Failure, Operation};

use super::{DirEntry, File, Fs, OpenMode};
use crate::random::Coin;
use disk::{Disk, InodeNo};
use inode::Inode;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the file's head.
#[derive(Clone, Default)]
pub struct MemoryFs {
    state: Arc<Mutex<State>>,
}

type Interruption = Box<dyn FnOnce() + Send>;
type Meanwhile = Box<dyn FnMut() + Send>;
type Watcher = Box<dyn FnMut(&Step<'_>) + Send>;

#[derive(Default)]
struct State {
    disk: Disk,
    locks: BTreeSet<PathBuf>,
    /// How many share a lock.
    shared_locks: BTreeMap<PathBuf, usize>,
    operations: u64,
    failures: BTreeMap<u64, Failure>,
    stop_at: Option<u64>,
    no_links: bool,
    peeks: u64,
    ignores_syncs: bool,
    journal: Option<Vec<Operation>>,
    watcher: Option<Watcher>,
    interruption: Option<(PathBuf, Interruption)>,
    during_syncs: Option<(PathBuf, Meanwhile)>,
}

/// An operation that is about to be done, and the file system before it.
pub struct Step<'a> {
    operation: &'a Operation,
    disk: &'a Disk,
    write: Option<(InodeNo, &'a [u8], usize)>,
}

impl Step<'_> {
    /// What is about to be done.
    #[must_use]
    pub fn operation(&self) -> &Operation {
        self.operation
    }

    /// The file system before it, as a new process finds it.
    #[must_use]
    pub fn before(&self) -> MemoryFs {
        MemoryFs::with(self.disk.clone())
    }

    /// If it is a write of more than one byte, the file system with a prefix of it, by `seed`: neither nothing nor all.
    #[must_use]
    pub fn torn(&self, seed: u64) -> Option<MemoryFs> {
        let (inode, bytes, offset) = self.write.filter(|(_, bytes, _)| bytes.len() > 1)?;
        let mut disk = self.disk.clone();
        let count = 1 + Coin::new(seed).below(bytes.len() - 1);
        disk.write(inode, &bytes[..count], offset).ok()?;
        Some(MemoryFs::with(disk))
    }
}

/// How an operation goes.
enum Gate {
    Pass,
    /// It takes effect, but whoever asked does not live to see it.
    PassThenStop,
    Fail(Failure),
    Stopped,
}

fn stopped() -> io::Error {
    io::Error::other("the simulated machine has stopped")
}

impl MemoryFs {
    /// An empty file system.
    #[must_use]
    pub fn new() -> MemoryFs {
        MemoryFs::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(disk: Disk) -> MemoryFs {
        MemoryFs { state: Arc::new(Mutex::new(State { disk, ..State::default() })) }
    }

    /// How many operations that change something (or sync) were asked for so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Makes the operation with this number (the first is 0) fail: see [`Failure`]. A plain [`ErrorKind`] is a failure
    /// without any effect, and of a sync one that loses what it should have made durable.
    pub fn fail_operation(&self, number: u64, failure: impl Into<Failure>) {
        self.state().failures.insert(number, failure.into());
    }

    /// Stops the machine at the operation with this number: that one may or may not reach the disk, and it and
    /// all after it fail. Follow it with [`MemoryFs::crash`].
    pub fn stop_at(&self, number: u64) {
        self.state().stop_at = Some(number);
    }

    /// Limits the sum of all files' sizes; what would grow a file beyond it fails with `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().disk.capacity_bytes = bytes;
    }

    /// Whether that sum is limited.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.state().disk.capacity_bytes.is_some()
    }

    /// Refuses every link from here on, as one between two devices is.
    pub fn forbid_links(&self) {
        self.state().no_links = true;
    }

    /// From now on the sync of a file says that it was done, and does nothing: a device that lies. What is above it can't
    /// keep its promises; a test that does not notice is none.
    pub fn ignore_syncs(&self) {
        self.state().ignores_syncs = true;
    }

    /// The sum of the sizes of all files that have a name.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state().disk.used_bytes()
    }

    /// From now on every operation is noted, or none is and what was noted is dropped.
    pub fn record_operations(&self, on: bool) {
        self.state().journal = on.then(Vec::new);
    }

    /// The operations noted so far.
    #[must_use]
    pub fn journal(&self) -> Vec<Operation> {
        self.state().journal.clone().unwrap_or_default()
    }

    /// From now on `watcher` is shown every operation before it is done. It must not use this file system, but what
    /// [`Step`] gives it. A machine that has stopped shows nothing.
    pub fn watch(&self, watcher: impl FnMut(&Step<'_>) + Send + 'static) {
        self.state().watcher = Some(Box::new(watcher));
    }

    /// Does this before the next file is made in a folder, on the same thread and once; it may use this file system. So
    /// other work comes in the midst of one that makes a file, at the same place in every run.
    pub fn before_next_file(&self, dir: &Path, act: impl FnOnce() + Send + 'static) {
        self.state().interruption = Some((dir.to_owned(), Box::new(act)));
    }

    /// Forgets what was to be done before the next file is made.
    pub fn before_no_file(&self) {
        let _forgotten = self.state().interruption.take();
    }

    /// From now on does this in the midst of every sync of a file in a folder that has its final name, on the same thread: what others see and do
    /// while a device takes its time. The bytes are not durable yet; it may use this file system, but for its syncs.
    pub fn during_syncs(&self, dir: &Path, act: impl FnMut() + Send + 'static) {
        self.state().during_syncs = Some((dir.to_owned(), Box::new(act)));
    }

    /// Syncs take no time again.
    pub fn during_no_sync(&self) {
        let _forgotten = self.state().during_syncs.take();
    }

    fn meanwhile(&self, inode: InodeNo) {
        let mut state = self.state();
        let Some((dir, mut act)) = state.during_syncs.take() else { return };
        let name = state.disk.name(inode);
        // One that is being made may be synced by somebody who holds what others wait for: a log that makes its next
        // segment while a record is appended.
        let due = name.parent() == Some(&dir) && name.extension().is_none_or(|extension| extension != "tmp");
        drop(state);
        if due {
            act();
        }
        self.state().during_syncs.get_or_insert((dir, act));
    }

    /// Turns a bit (0 is the lowest) of a file over, as it is seen and on the disk.
    ///
    /// # Errors
    /// If there is no such file; a byte beyond its end is no error and changes nothing.
    pub fn flip(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        self.state().disk.flip(path, index(offset)?, bit)
    }

    /// The file system as it is after a loss of power, by `seed`. This one stays as it is.
    #[must_use]
    pub fn crash(&self, seed: u64) -> MemoryFs {
        MemoryFs::with(self.state().disk.after_crash(&mut Coin::new(seed)))
    }

    /// The file system as a new process finds it after a kill: nothing is lost, nothing became durable.
    #[must_use]
    pub fn restart(&self) -> MemoryFs {
        let disk = self.state().disk.clone();
        MemoryFs::with(disk.without_dead_files())
    }

    fn handle(&self, inode: InodeNo) -> Arc<dyn File> {
        Arc::new(MemoryFile { fs: self.clone(), inode })
    }

    fn operate<T>(
        &self,
        path: &Path,
        action: Action,
        effect: impl FnOnce(&mut Disk) -> io::Result<T>,
    ) -> io::Result<T> {
        self.state().operate(|_| path.to_owned(), action, None, effect, |_, _| Ok(()))
    }
}

impl State {
    fn gate(&self, number: u64) -> Gate {
        match self.stop_at {
            Some(stop) if number == stop => return Gate::PassThenStop,
            Some(stop) if number > stop => return Gate::Stopped,
            _ => {}
        }
        self.failures.get(&number).map_or(Gate::Pass, |failure| Gate::Fail(*failure))
    }

    /// Does an operation, or fails it, or stops at it. `partly` is what a failure with a seed leaves of it.
    fn operate<T>(
        &mut self,
        path: impl FnOnce(&Disk) -> PathBuf,
        action: Action,
        write: Option<(InodeNo, &[u8], usize)>,
        effect: impl FnOnce(&mut Disk) -> io::Result<T>,
        partly: impl FnOnce(&mut Disk, &mut Option<Coin>) -> io::Result<()>,
    ) -> io::Result<T> {
        let number = self.operations;
        self.operations += 1;
        let gate = self.gate(number);
        // A stop loses a sync: nobody can rely on it.
        let is_sync = matches!(action, Action::Sync | Action::SyncDir);
        let seen = (self.journal.is_some() || self.watcher.is_some()) && !matches!(gate, Gate::Stopped);
        let mut operation = seen.then(|| Operation { number, path: path(&self.disk), action, failed: None });
        if let (Some(watcher), Some(operation)) = (&mut self.watcher, &operation) {
            watcher(&Step { operation, disk: &self.disk, write });
        }
        let result = match gate {
            Gate::Pass => effect(&mut self.disk),
            Gate::PassThenStop if is_sync => Err(stopped()),
            Gate::PassThenStop => effect(&mut self.disk).and_then(|_| Err(stopped())),
            Gate::Stopped => Err(stopped()),
            Gate::Fail(Failure { kind, partly: seed }) => {
                let left = partly(&mut self.disk, &mut seed.map(Coin::new));
                left.and(Err(io::Error::new(kind, "a failure that the test asked for")))
            }
        };
        if let (Some(journal), Some(mut operation)) = (&mut self.journal, operation.take()) {
            operation.failed = result.as_ref().err().map(io::Error::kind);
            journal.push(operation);
        }
        result
    }
}

impl Fs for MemoryFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        if mode == OpenMode::CreateNew {
            let due = |(dir, _): &mut (PathBuf, Interruption)| path.parent() == Some(dir);
            let interruption = self.state().interruption.take_if(due);
            if let Some((_, act)) = interruption {
                act();
            }
            let inode = self.operate(path, Action::Create, |disk| disk.create(path))?;
            return Ok(self.handle(inode));
        }
        let state = self.state();
        if state.stop_at.is_some_and(|stop| state.operations > stop) {
            return Err(stopped());
        }
        Ok(self.handle(state.disk.file(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operate(from, Action::Rename(to.to_owned()), |disk| disk.rename(from, to))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let refused = self.state().no_links;
        self.operate(from, Action::Link(to.to_owned()), |disk| match refused {
            true => Err(io::Error::new(ErrorKind::CrossesDevices, "links were forbidden")),
            false => disk.add_link(from, to),
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.operate(path, Action::Remove, |disk| disk.remove(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.operate(path, Action::RemoveDir, |disk| disk.remove_dir(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.state().disk.list(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.operate(dir, Action::CreateDir, |disk| disk.create_dirs(dir))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.state().operate(
            |_| dir.to_owned(),
            Action::SyncDir,
            None,
            |disk| disk.sync_dir(dir),
            |disk, coin| {
                if let Some(coin) = coin {
                    disk.scatter_dir(dir, coin);
                }
                Ok(())
            },
        )
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.state().disk.exists(path))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.state();
        if state.shared_locks.contains_key(path) || !state.locks.insert(path.to_owned()) {
            return Err(io::Error::new(ErrorKind::WouldBlock, "another process has the lock"));
        }
        Ok(Box::new(Lock { fs: self.clone(), path: path.to_owned() }))
    }

    fn lock_shared(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.state();
        if state.locks.contains(path) {
            return Err(io::Error::new(ErrorKind::WouldBlock, "another process has the lock"));
        }
        *state.shared_locks.entry(path.to_owned()).or_default() += 1;
        Ok(Box::new(SharedLock { fs: self.clone(), path: path.to_owned() }))
    }

    fn open_files_max(&self) -> Option<u64> {
        None
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(self.state().disk.free_bytes())
    }
}

struct Lock {
    fs: MemoryFs,
    path: PathBuf,
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.fs.state().locks.remove(&self.path);
    }
}

struct SharedLock {
    fs: MemoryFs,
    path: PathBuf,
}

impl Drop for SharedLock {
    fn drop(&mut self) {
        let shared = &mut self.fs.state().shared_locks;
        if let Some(count) = shared.get_mut(&self.path) {
            *count -= 1;
            if *count == 0 {
                shared.remove(&self.path);
            }
        }
    }
}

struct MemoryFile {
    fs: MemoryFs,
    inode: InodeNo,
}

fn index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::Error::new(ErrorKind::FileTooLarge, "offset"))
}

impl File for MemoryFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(self.fs.state().disk.inode(self.inode).read(buf, index(offset)?))
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        self.read_at(buf, offset).map(Some)
    }

    fn peek_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        let mut state = self.fs.state();
        // By turns, so that both ways are taken.
        state.peeks += 1;
        if state.peeks.is_multiple_of(2) {
            return Ok(None);
        }
        Ok(Some(state.disk.inode(self.inode).read(buf, index(offset)?)))
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let (inode, at) = (self.inode, index(offset)?);
        self.fs.state().operate(
            |disk| disk.name(inode),
            Action::Write { offset, len: buf.len() as u64 },
            Some((inode, buf, at)),
            |disk| disk.write(inode, buf, at),
            |disk, coin| match coin {
                Some(coin) => disk.write(inode, &buf[..coin.below(buf.len() + 1)], at),
                None => Ok(()),
            },
        )
    }

    fn sync(&self) -> io::Result<()> {
        let inode = self.inode;
        self.fs.meanwhile(inode);
        let mut state = self.fs.state();
        let lies = state.ignores_syncs;
        state.operate(
            |disk| disk.name(inode),
            Action::Sync,
            None,
            |disk| if lies { Ok(()) } else { disk.sync(inode, Inode::sync) },
            |disk, coin| {
                disk.sync(inode, |file| match coin {
                    Some(coin) => file.scatter(coin),
                    None => file.forget(),
                })
            },
        )
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.fs.state().disk.inode(self.inode).len() as u64)
    }

    fn reserve(&self, size: u64) -> io::Result<()> {
        self.set_size(size)
    }

    fn forget_cached(&self, _: u64) {}

    fn set_size(&self, size: u64) -> io::Result<()> {
        let (inode, wanted) = (self.inode, index(size)?);
        self.fs.state().operate(
            |disk| disk.name(inode),
            Action::SetSize(size),
            None,
            |disk| disk.set_size(inode, wanted),
            |_, _| Ok(()),
        )
    }
}
