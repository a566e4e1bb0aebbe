//! A file system in memory that can lose power, fail an operation and run full; deterministic.
//!
//! What it promises after [`MemoryFs::crash`]: bytes that [`File::sync`] covered and names that [`Fs::sync_dir`]
//! covered are there; every other 512-byte sector and every other change of a name is there or not, each by
//! the seed. After a failed sync the bytes read back as written, and are gone after a crash even if a later
//! sync succeeds: that is what Linux does.
//!
//! Clones share one file system. Files opened before a crash go on living in the file system before it.

use super::{DirEntry, File, Fs, OpenMode};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What survives or vanishes as one when power is lost.
const SECTOR_BYTES: usize = 512;

/// See the file's head.
#[derive(Clone, Default)]
pub struct MemoryFs {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Node {
    File(usize),
    Dir,
}

type Names = BTreeMap<PathBuf, Node>;

/// A change of names that is not durable yet, with the folder whose sync makes it so.
#[derive(Clone, Debug)]
struct NameChange {
    dir: PathBuf,
    remove: Option<PathBuf>,
    insert: Option<(PathBuf, Node)>,
}

/// `path` where it lies after the folder `from` was renamed; `None` if it does not lie in it.
fn moved(path: &Path, from: &Path, to: &Path) -> Option<PathBuf> {
    let rest = path.strip_prefix(from).ok().filter(|rest| !rest.as_os_str().is_empty())?;
    Some(to.join(rest))
}

impl NameChange {
    /// The folder that it renames, and to what.
    fn renamed_dir(&self) -> Option<(&Path, &Path)> {
        match (&self.remove, &self.insert) {
            (Some(from), Some((to, Node::Dir))) => Some((from, to)),
            _ => None,
        }
    }

    /// This change after the folder `from` was renamed, if what it changes lies in it.
    fn follow(&mut self, from: &Path, to: &Path) {
        let inside = self.insert.as_mut().map(|(path, _)| path);
        for path in std::iter::once(&mut self.dir).chain(&mut self.remove).chain(inside) {
            if let Some(now) = moved(path, from, to) {
                *path = now;
            }
        }
        if self.dir == from {
            self.dir = to.to_owned();
        }
    }

    fn apply(&self, names: &mut Names) {
        if let Some((from, to)) = self.renamed_dir() {
            let inside =
                names.iter().filter_map(|(path, &node)| Some((path.clone(), moved(path, from, to)?, node)));
            for (old, new, node) in inside.collect::<Vec<_>>() {
                names.remove(&old);
                names.insert(new, node);
            }
        }
        if let Some(path) = &self.remove {
            names.remove(path);
        }
        if let Some((path, node)) = &self.insert {
            names.insert(path.clone(), *node);
        }
    }
}

/// A sector that differs from the disk.
#[derive(Clone)]
struct Unsynced {
    on_disk: [u8; SECTOR_BYTES],
    /// A sync of it failed: the kernel will not write it again unless it is written again.
    forgotten: bool,
}

#[derive(Clone, Default)]
struct Inode {
    bytes: Vec<u8>,
    unsynced: BTreeMap<usize, Unsynced>,
    size_on_disk: usize,
}

#[derive(Default)]
struct State {
    names: Names,
    durable_names: Names,
    changes: Vec<NameChange>,
    inodes: Vec<Inode>,
    locks: BTreeSet<PathBuf>,
    /// How many share a lock.
    shared_locks: BTreeMap<PathBuf, usize>,
    operations: u64,
    failures: BTreeMap<u64, ErrorKind>,
    stop_at: Option<u64>,
    capacity_bytes: Option<u64>,
}

/// What the gate says to an operation that changes something.
enum Gate {
    Pass,
    /// It takes effect, but whoever asked does not live to see it.
    PassThenStop,
    Fail(io::Error),
}

fn stopped() -> io::Error {
    io::Error::other("the simulated machine has stopped")
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(ErrorKind::NotFound, format!("{}: no such file or folder", path.display()))
}

fn parent(path: &Path) -> PathBuf {
    path.parent().map(Path::to_path_buf).unwrap_or_default()
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

    /// How many operations that change something (or sync) were asked for so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Makes the operation with this number (the first is 0) fail with `kind`. A write that fails has no effect;
    /// a sync that fails loses what it should have made durable.
    pub fn fail_operation(&self, number: u64, kind: ErrorKind) {
        self.state().failures.insert(number, kind);
    }

    /// Stops the machine at the operation with this number: that one may or may not reach the disk, and it and
    /// all after it fail. Follow it with [`MemoryFs::crash`].
    pub fn stop_at(&self, number: u64) {
        self.state().stop_at = Some(number);
    }

    /// Limits the sum of all files' sizes; what would grow a file beyond it fails with `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity_bytes = bytes;
    }

    /// The file system as it is after a loss of power, by `seed`. This one stays as it is.
    #[must_use]
    pub fn crash(&self, seed: u64) -> MemoryFs {
        let state = self.state();
        let mut coin = Coin(seed);
        let mut names = state.durable_names.clone();
        for change in &state.changes {
            if coin.heads() {
                change.apply(&mut names);
            }
        }
        // What lies in a folder that was lost is lost.
        let all = names.clone();
        let is_dir = |dir: &Path| dir.parent().is_none() || all.get(dir) == Some(&Node::Dir);
        names.retain(|path, _| path.ancestors().skip(1).all(|dir| dir.as_os_str().is_empty() || is_dir(dir)));
        let inodes = state.inodes.iter().map(|inode| inode.after_crash(&mut coin)).collect();
        MemoryFs::with(State {
            durable_names: names.clone(),
            names,
            inodes,
            capacity_bytes: state.capacity_bytes,
            ..State::default()
        })
    }

    /// The file system as a new process finds it after a kill: nothing is lost, nothing became durable.
    #[must_use]
    pub fn restart(&self) -> MemoryFs {
        let state = self.state();
        MemoryFs::with(State {
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            changes: state.changes.clone(),
            inodes: state.inodes.clone(),
            capacity_bytes: state.capacity_bytes,
            ..State::default()
        })
    }

    fn with(state: State) -> MemoryFs {
        MemoryFs { state: Arc::new(Mutex::new(state)) }
    }

    /// Changes a name, if the gate lets it pass.
    fn change(&self, kind: impl FnOnce(&mut State) -> io::Result<Vec<NameChange>>) -> io::Result<()> {
        let mut state = self.state();
        let gate = state.gate();
        if let Gate::Fail(error) = gate {
            return Err(error);
        }
        for change in kind(&mut state)? {
            change.apply(&mut state.names);
            state.changes.push(change);
        }
        if matches!(gate, Gate::PassThenStop) { Err(stopped()) } else { Ok(()) }
    }

    fn handle(&self, inode: usize) -> Arc<dyn File> {
        Arc::new(MemoryFile { fs: self.clone(), inode })
    }
}

impl State {
    fn gate(&mut self) -> Gate {
        let number = self.operations;
        self.operations += 1;
        match self.stop_at {
            Some(stop) if number == stop => return Gate::PassThenStop,
            Some(stop) if number > stop => return Gate::Fail(stopped()),
            _ => {}
        }
        match self.failures.get(&number) {
            Some(&kind) => Gate::Fail(io::Error::new(kind, "a failure that the test asked for")),
            None => Gate::Pass,
        }
    }

    fn has_dir(&self, dir: &Path) -> bool {
        dir.parent().is_none() || dir.as_os_str().is_empty() || self.names.get(dir) == Some(&Node::Dir)
    }

    fn file(&self, path: &Path) -> io::Result<usize> {
        match self.names.get(path) {
            Some(Node::File(inode)) => Ok(*inode),
            Some(Node::Dir) => Err(io::Error::new(ErrorKind::IsADirectory, "is a folder")),
            None => Err(not_found(path)),
        }
    }

    fn used_bytes(&self) -> u64 {
        let linked: BTreeSet<usize> = self
            .names
            .values()
            .filter_map(|node| if let Node::File(inode) = node { Some(*inode) } else { None })
            .collect();
        linked.iter().map(|&inode| self.inodes[inode].bytes.len() as u64).sum()
    }

    fn may_grow(&self, inode: usize, size: usize) -> io::Result<()> {
        let grown = size.saturating_sub(self.inodes[inode].bytes.len()) as u64;
        match self.capacity_bytes {
            Some(capacity) if grown > 0 && self.used_bytes() + grown > capacity => {
                Err(io::Error::new(ErrorKind::StorageFull, "no space left on the simulated device"))
            }
            _ => Ok(()),
        }
    }
}

impl Fs for MemoryFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        if mode != OpenMode::CreateNew {
            let state = self.state();
            if state.stop_at.is_some_and(|stop| state.operations > stop) {
                return Err(stopped());
            }
            return Ok(self.handle(state.file(path)?));
        }
        let mut inode = 0;
        self.change(|state| {
            if !state.has_dir(&parent(path)) {
                return Err(not_found(&parent(path)));
            }
            if state.names.contains_key(path) {
                return Err(io::Error::new(ErrorKind::AlreadyExists, "exists"));
            }
            inode = state.inodes.len();
            state.inodes.push(Inode::default());
            let insert = Some((path.to_owned(), Node::File(inode)));
            Ok(vec![NameChange { dir: parent(path), remove: None, insert }])
        })?;
        Ok(self.handle(inode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|state| {
            let node = *state.names.get(from).ok_or_else(|| not_found(from))?;
            if node == Node::Dir && state.names.contains_key(to) {
                return Err(io::Error::new(ErrorKind::AlreadyExists, "exists"));
            }
            if !state.has_dir(&parent(to)) {
                return Err(not_found(&parent(to)));
            }
            let insert = Some((to.to_owned(), node));
            Ok(vec![NameChange { dir: parent(to), remove: Some(from.to_owned()), insert }])
        })
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|state| {
            let node = Node::File(state.file(from)?);
            if state.names.contains_key(to) {
                return Err(io::Error::new(ErrorKind::AlreadyExists, "exists"));
            }
            if !state.has_dir(&parent(to)) {
                return Err(not_found(&parent(to)));
            }
            Ok(vec![NameChange { dir: parent(to), remove: None, insert: Some((to.to_owned(), node)) }])
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(|state| {
            state.file(path)?;
            Ok(vec![NameChange { dir: parent(path), remove: Some(path.to_owned()), insert: None }])
        })
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.change(|state| {
            if state.names.get(path) != Some(&Node::Dir) {
                return Err(not_found(path));
            }
            if state.names.keys().any(|other| other.parent() == Some(path)) {
                return Err(io::Error::new(ErrorKind::DirectoryNotEmpty, "not empty"));
            }
            Ok(vec![NameChange { dir: parent(path), remove: Some(path.to_owned()), insert: None }])
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.state();
        if !state.has_dir(dir) {
            return Err(not_found(dir));
        }
        let inside = state.names.iter().filter(|(path, _)| path.parent() == Some(dir));
        let named = inside.filter_map(|(path, node)| {
            let name = path.file_name()?.to_str()?.to_owned();
            Some(DirEntry { name, is_dir: *node == Node::Dir })
        });
        Ok(named.collect())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.change(|state| {
            let mut missing: Vec<_> = dir.ancestors().filter(|dir| !state.has_dir(dir)).collect();
            missing.reverse();
            if let Some(file) = missing.iter().find(|path| state.names.contains_key(**path)) {
                return Err(io::Error::new(
                    ErrorKind::AlreadyExists,
                    format!("{} is a file", file.display()),
                ));
            }
            let made = |dir: &&Path| NameChange {
                dir: parent(dir),
                remove: None,
                insert: Some((dir.to_path_buf(), Node::Dir)),
            };
            Ok(missing.iter().map(made).collect())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        match state.gate() {
            Gate::Fail(error) => return Err(error),
            Gate::PassThenStop => return Err(stopped()),
            Gate::Pass => {}
        }
        if !state.has_dir(dir) {
            return Err(not_found(dir));
        }
        let changes = std::mem::take(&mut state.changes);
        for change in changes {
            if change.dir == dir {
                change.apply(&mut state.durable_names);
                if let Some((from, to)) = change.renamed_dir() {
                    // What is not durable in the folder goes with it.
                    state.changes.iter_mut().for_each(|earlier| earlier.follow(from, to));
                }
            } else {
                state.changes.push(change);
            }
        }
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.state();
        Ok(state.names.contains_key(path) || state.has_dir(path))
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

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        let state = self.state();
        Ok(state.capacity_bytes.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used_bytes())))
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
    inode: usize,
}

fn index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::Error::new(ErrorKind::FileTooLarge, "offset"))
}

impl File for MemoryFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.fs.state();
        let bytes = state.inodes[self.inode].bytes.get(index(offset)?..).unwrap_or_default();
        let count = bytes.len().min(buf.len());
        buf[..count].copy_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        self.read_at(buf, offset).map(Some)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let offset = index(offset)?;
        let mut state = self.fs.state();
        let gate = state.gate();
        if let Gate::Fail(error) = gate {
            return Err(error);
        }
        state.may_grow(self.inode, offset + buf.len())?;
        state.inodes[self.inode].write(buf, offset);
        if matches!(gate, Gate::PassThenStop) { Err(stopped()) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.fs.state();
        let gate = state.gate();
        let inode = &mut state.inodes[self.inode];
        match gate {
            Gate::Pass => {
                inode.unsynced.retain(|_, sector| sector.forgotten);
                inode.size_on_disk = inode.bytes.len();
                Ok(())
            }
            Gate::PassThenStop => Err(stopped()),
            Gate::Fail(error) => {
                inode.unsynced.values_mut().for_each(|sector| sector.forgotten = true);
                Err(error)
            }
        }
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.fs.state().inodes[self.inode].bytes.len() as u64)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        let size = index(size)?;
        let mut state = self.fs.state();
        let gate = state.gate();
        if let Gate::Fail(error) = gate {
            return Err(error);
        }
        state.may_grow(self.inode, size)?;
        let inode = &mut state.inodes[self.inode];
        let old = inode.bytes.len();
        inode.remember(size.min(old), old);
        inode.bytes.resize(size, 0);
        if matches!(gate, Gate::PassThenStop) { Err(stopped()) } else { Ok(()) }
    }
}

impl Inode {
    /// Keeps what the disk has in the sectors of this range, before it is changed.
    fn remember(&mut self, from: usize, to: usize) {
        for number in from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES) {
            let start = number * SECTOR_BYTES;
            let bytes = &self.bytes;
            let sector = self.unsynced.entry(number).or_insert_with(|| {
                let mut on_disk = [0; SECTOR_BYTES];
                let known = bytes.get(start..).unwrap_or_default();
                let count = known.len().min(SECTOR_BYTES);
                on_disk[..count].copy_from_slice(&known[..count]);
                Unsynced { on_disk, forgotten: false }
            });
            sector.forgotten = false;
        }
    }

    fn write(&mut self, buf: &[u8], offset: usize) {
        let end = offset + buf.len();
        self.remember(offset, end);
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(buf);
    }

    fn after_crash(&self, coin: &mut Coin) -> Inode {
        let size_is_new = self.bytes.len() == self.size_on_disk || coin.heads();
        let mut bytes = self.bytes.clone();
        let reach = self.unsynced.keys().next_back().map_or(0, |last| (last + 1) * SECTOR_BYTES);
        bytes.resize(bytes.len().max(reach).max(self.size_on_disk), 0);
        for (number, sector) in &self.unsynced {
            let lost = !coin.heads() || sector.forgotten;
            if lost {
                let start = number * SECTOR_BYTES;
                bytes[start..start + SECTOR_BYTES].copy_from_slice(&sector.on_disk);
            }
        }
        let size = if size_is_new { self.bytes.len() } else { self.size_on_disk };
        bytes.truncate(size);
        Inode { bytes, unsynced: BTreeMap::new(), size_on_disk: size }
    }
}

/// splitmix64, a bit at a time.
struct Coin(u64);

impl Coin {
    fn heads(&mut self) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEDS: std::ops::Range<u64> = 0..32;

    fn file_in(fs: &MemoryFs) -> Arc<dyn File> {
        fs.create_dir_all(Path::new("/d")).unwrap();
        fs.sync_dir(Path::new("/")).unwrap();
        fs.open(Path::new("/d/a"), OpenMode::CreateNew).unwrap()
    }

    fn read(fs: &MemoryFs, path: &str) -> io::Result<Vec<u8>> {
        let file = fs.open(Path::new(path), OpenMode::Read)?;
        let mut bytes = vec![0; usize::try_from(file.size()?).unwrap()];
        file.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    #[test]
    fn what_is_synced_survives_and_each_sector_of_the_rest_lives_or_dies() {
        let fs = MemoryFs::new();
        let file = file_in(&fs);
        file.write_at(&[1; 1024], 0).unwrap();
        file.sync().unwrap();
        fs.sync_dir(Path::new("/d")).unwrap();
        file.write_at(&[2; 1024], 0).unwrap();
        let mut seen = BTreeSet::new();
        for seed in SEEDS {
            let after = read(&fs.crash(seed), "/d/a").unwrap();
            assert_eq!(after, read(&fs.crash(seed), "/d/a").unwrap());
            assert!(after[..512].iter().all(|byte| *byte == after[0]));
            assert!(after[512..].iter().all(|byte| *byte == after[512]));
            seen.insert((after[0], after[512]));
        }
        assert_eq!(seen.len(), 4);
        assert_eq!(read(&fs.restart(), "/d/a").unwrap(), [2; 1024]);
    }

    #[test]
    fn a_name_without_a_sync_of_its_folder_may_vanish_and_a_rename_is_whole() {
        let fs = MemoryFs::new();
        let file = file_in(&fs);
        file.sync().unwrap();
        let kept = SEEDS.filter(|&seed| fs.crash(seed).exists(Path::new("/d/a")).unwrap()).count();
        assert!(kept > 0 && kept < 32, "{kept}");
        fs.sync_dir(Path::new("/d")).unwrap();
        fs.rename(Path::new("/d/a"), Path::new("/d/b")).unwrap();
        for seed in SEEDS {
            let after = fs.crash(seed);
            let names = ["/d/a", "/d/b"].map(|name| after.exists(Path::new(name)).unwrap());
            assert!(names[0] != names[1], "{names:?}");
        }
    }

    #[test]
    fn a_folder_is_renamed_with_what_is_durable_in_it() {
        let fs = MemoryFs::new();
        file_in(&fs).sync().unwrap();
        fs.sync_dir(Path::new("/d")).unwrap();
        fs.open(Path::new("/d/unsynced"), OpenMode::CreateNew).unwrap();
        fs.rename(Path::new("/d"), Path::new("/e")).unwrap();
        let names =
            |fs: &MemoryFs, dir: &str| fs.list(Path::new(dir)).map(|all| all.len()).unwrap_or_default();
        assert_eq!((names(&fs, "/d"), names(&fs, "/e")), (0, 2));
        for seed in SEEDS {
            let after = fs.crash(seed);
            let there = ["/d/a", "/e/a"].map(|name| after.exists(Path::new(name)).unwrap());
            assert!(there[0] != there[1], "{there:?}");
        }
        fs.sync_dir(Path::new("/")).unwrap();
        let kept = SEEDS.filter(|&seed| names(&fs.crash(seed), "/e") == 2).count();
        assert!(kept > 0 && kept < 32, "{kept}");
        fs.sync_dir(Path::new("/e")).unwrap();
        assert!(SEEDS.into_iter().all(|seed| names(&fs.crash(seed), "/e") == 2));
        fs.create_dir_all(Path::new("/f")).unwrap();
        assert_eq!(fs.rename(Path::new("/f"), Path::new("/e")).unwrap_err().kind(), ErrorKind::AlreadyExists);
    }

    #[test]
    fn after_a_failed_sync_the_bytes_read_back_but_never_become_durable() {
        let fs = MemoryFs::new();
        let file = file_in(&fs);
        file.write_at(&[1; 512], 0).unwrap();
        file.sync().unwrap();
        fs.sync_dir(Path::new("/d")).unwrap();
        file.write_at(&[2; 512], 0).unwrap();
        fs.fail_operation(fs.operations(), ErrorKind::Other);
        assert!(file.sync().is_err());
        file.sync().unwrap();
        assert_eq!(read(&fs, "/d/a").unwrap(), [2; 512]);
        SEEDS.for_each(|seed| assert_eq!(read(&fs.crash(seed), "/d/a").unwrap(), [1; 512]));
        file.write_at(&[3; 512], 0).unwrap();
        file.sync().unwrap();
        SEEDS.for_each(|seed| assert_eq!(read(&fs.crash(seed), "/d/a").unwrap(), [3; 512]));
    }

    #[test]
    fn a_full_device_refuses_growth_only() {
        let fs = MemoryFs::new();
        let file = file_in(&fs);
        fs.set_capacity(Some(1000));
        file.write_at(&[1; 1000], 0).unwrap();
        assert_eq!(file.write_at(&[1; 2], 999).unwrap_err().kind(), ErrorKind::StorageFull);
        file.write_at(&[2; 1000], 0).unwrap();
        assert_eq!(fs.free_bytes(Path::new("/d")).unwrap(), 0);
        fs.remove(Path::new("/d/a")).unwrap();
        assert_eq!(fs.free_bytes(Path::new("/d")).unwrap(), 1000);
    }

    #[test]
    fn a_stopped_machine_does_nothing_more() {
        let fs = MemoryFs::new();
        let file = file_in(&fs);
        fs.stop_at(fs.operations());
        assert!(file.write_at(&[1; 512], 0).is_err());
        assert!(file.sync().is_err());
        assert!(fs.rename(Path::new("/d/a"), Path::new("/d/b")).is_err());
        assert!(fs.exists(Path::new("/d/a")).unwrap());
    }
}
