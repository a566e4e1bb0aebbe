//! A disk for models: its files meet at loom's locks, so that a model sees what reads and writes depend on.
//!
//! A write comes in two halves. A sync covers what was there when it began, and counts from when it ends. After a
//! sync that failed what it should have covered is never durable, whatever later syncs say.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use haypile_engine::fs::{DirEntry, File, Fs, OpenMode};
use loom::sync::Mutex;

const ZEROS: &[u8] = &[0; 256 << 10];

/// See the file's head. Clones are the same disk.
#[derive(Clone)]
pub struct Disk {
    names: Arc<Mutex<BTreeMap<PathBuf, Arc<Contents>>>>,
    faults: Arc<Faults>,
}

/// How many writes and syncs succeed before one fails; negative: all.
struct Faults {
    writes: AtomicI64,
    syncs: AtomicI64,
}

impl Faults {
    /// Called under the file's lock, which orders it for the model.
    fn take(left: &AtomicI64) -> io::Result<()> {
        match left.load(Ordering::Relaxed) {
            0 => {
                // Once is all that a kernel tells.
                left.store(-1, Ordering::Relaxed);
                Err(io::Error::other("the disk burns"))
            }
            1.. => {
                left.fetch_sub(1, Ordering::Relaxed);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// A file.
struct Contents {
    bytes: Mutex<Bytes>,
    faults: Arc<Faults>,
}

#[derive(Default)]
struct Bytes {
    size: usize,
    /// Without zeros that were never anything else.
    now: Vec<u8>,
    durable: Vec<u8>,
    /// A sync failed: what was written until then is lost.
    lost: bool,
}

impl Disk {
    /// An empty disk without faults.
    pub fn new() -> Disk {
        let faults = Faults { writes: AtomicI64::new(-1), syncs: AtomicI64::new(-1) };
        Disk { names: Arc::new(Mutex::new(BTreeMap::new())), faults: Arc::new(faults) }
    }

    /// From now on so many writes succeed, then one fails.
    pub fn fail_write_after(&self, writes: i64) {
        self.faults.writes.store(writes, Ordering::Relaxed);
    }

    /// From now on so many syncs succeed, then one fails.
    pub fn fail_sync_after(&self, syncs: i64) {
        self.faults.syncs.store(syncs, Ordering::Relaxed);
    }

    /// Whether some file holds these bytes: written, or on the device.
    pub fn holds(&self, wanted: &[u8], durably: bool) -> bool {
        let files: Vec<_> = self.names.lock().expect("sound").values().map(Arc::clone).collect();
        files.iter().any(|file| {
            let bytes = file.bytes.lock().expect("sound");
            let bytes = if durably { &bytes.durable } else { &bytes.now };
            bytes.windows(wanted.len()).any(|window| window == wanted)
        })
    }
}

fn missing(path: &Path) -> io::Error {
    io::Error::new(ErrorKind::NotFound, path.display().to_string())
}

impl Fs for Disk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut names = self.names.lock().expect("sound");
        if mode == OpenMode::CreateNew {
            let bytes = Mutex::new(Bytes::default());
            let file = Arc::new(Contents { bytes, faults: Arc::clone(&self.faults) });
            assert!(names.insert(path.to_owned(), Arc::clone(&file)).is_none(), "{} exists", path.display());
            return Ok(file);
        }
        let file = names.get(path).ok_or_else(|| missing(path))?;
        Ok(Arc::<Contents>::clone(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut names = self.names.lock().expect("sound");
        let file = names.remove(from).ok_or_else(|| missing(from))?;
        names.insert(to.to_owned(), file);
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut names = self.names.lock().expect("sound");
        let file = Arc::clone(names.get(from).ok_or_else(|| missing(from))?);
        assert!(names.insert(to.to_owned(), file).is_none(), "{} exists", to.display());
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut names = self.names.lock().expect("sound");
        names.remove(path).map(drop).ok_or_else(|| missing(path))
    }

    fn remove_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let names = self.names.lock().expect("sound");
        let inside = names.keys().filter(|path| path.parent() == Some(dir));
        let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(inside.filter_map(name).map(|name| DirEntry { name, is_dir: false }).collect())
    }

    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.names.lock().expect("sound").contains_key(path))
    }

    fn lock(&self, _: &Path) -> io::Result<Box<dyn Send + Sync>> {
        Ok(Box::new(()))
    }

    fn lock_shared(&self, _: &Path) -> io::Result<Box<dyn Send + Sync>> {
        Ok(Box::new(()))
    }

    /// So few that one pack file is open at a time: a file that is read again is found by its name again.
    fn open_files_max(&self) -> Option<u64> {
        Some(1)
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

impl Bytes {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        self.size = self.size.max(end);
        if offset >= self.now.len() && ZEROS.get(..bytes.len()) == Some(bytes) {
            return;
        }
        self.now.resize(end.max(self.now.len()), 0);
        self.now[offset..end].copy_from_slice(bytes);
    }
}

impl File for Contents {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let offset = usize::try_from(offset).expect("small files");
        let bytes = self.bytes.lock().expect("sound");
        let count = buf.len().min(bytes.size.saturating_sub(offset));
        let there = bytes.now.get(offset..).unwrap_or_default();
        let there = &there[..count.min(there.len())];
        buf[..there.len()].copy_from_slice(there);
        buf[there.len()..count].fill(0);
        Ok(count)
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        self.read_at(buf, offset).map(Some)
    }

    /// Nothing is ever at hand: what is read under a slot's lock meets nobody, what is fetched without it does.
    fn peek_at(&self, _: &mut [u8], _: u64) -> io::Result<Option<usize>> {
        Ok(None)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).expect("small files");
        let (first, second) = buf.split_at(buf.len() / 2);
        {
            let mut bytes = self.bytes.lock().expect("sound");
            bytes.write(first, offset);
            Faults::take(&self.faults.writes)?;
        }
        self.bytes.lock().expect("sound").write(second, offset + first.len());
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let covered = {
            let mut bytes = self.bytes.lock().expect("sound");
            if let Err(error) = Faults::take(&self.faults.syncs) {
                bytes.lost = true;
                return Err(error);
            }
            bytes.now.clone()
        };
        let mut bytes = self.bytes.lock().expect("sound");
        if !bytes.lost && covered.len() >= bytes.durable.len() {
            bytes.durable = covered;
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().expect("sound").size as u64)
    }

    fn reserve(&self, size: u64) -> io::Result<()> {
        self.set_size(size)
    }

    fn forget_cached(&self, _: u64) {}

    fn set_size(&self, size: u64) -> io::Result<()> {
        let mut bytes = self.bytes.lock().expect("sound");
        bytes.size = usize::try_from(size).expect("small files");
        let size = bytes.size;
        bytes.now.truncate(size);
        Ok(())
    }
}
