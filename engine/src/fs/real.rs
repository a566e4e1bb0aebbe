//! The operating system's file system. The one file of the workspace that calls `std::fs`.
#![allow(clippy::disallowed_methods)] // this is where the trait meets the operating system

use super::{DirEntry, File, Fs, OpenMode};
use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::{Errno, ReadWriteFlags};
use std::fs;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// The operating system's file system. Has no state; any thread may use it.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

impl Fs for RealFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => {}
            OpenMode::Write => _ = options.write(true),
            OpenMode::CreateNew => _ = options.write(true).create_new(true),
        }
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name().into_string().map_err(|name| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{name:?} is not a name that this node gives"),
                )
            })?;
            entries.push(DirEntry { name, is_dir: entry.file_type()?.is_dir() });
        }
        entries.sort();
        Ok(entries)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        match fs::exists(path) {
            // Below a file there is nothing.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
            looked => looked,
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(file)) // the kernel lets the lock go when the file is closed
    }

    fn lock_shared(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let file = fs::File::open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared)?;
        Ok(Box::new(file))
    }

    fn open_files_max(&self) -> Option<u64> {
        rustix::process::getrlimit(rustix::process::Resource::Nofile).current
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

struct RealFile(fs::File);

/// What a read that does not wait found.
enum Cached {
    /// So many bytes.
    Read(usize),
    /// The device would have to be waited for.
    No,
    /// The file system can't tell.
    Unknown,
}

impl RealFile {
    fn read_nowait(&self, buf: &mut [u8], offset: u64) -> io::Result<Cached> {
        let wanted = buf.len();
        let slices = &mut [IoSliceMut::new(buf)];
        match rustix::io::preadv2(&self.0, slices, offset, ReadWriteFlags::NOWAIT) {
            Ok(count) if count == wanted => Ok(Cached::Read(count)),
            // Fewer bytes: the end of the file, or the rest is not in memory.
            Ok(count) if offset + count as u64 >= self.size()? => Ok(Cached::Read(count)),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(Cached::No),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(Cached::Unknown),
            Err(error) => Err(error.into()),
        }
    }
}

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        match self.read_nowait(buf, offset)? {
            Cached::Read(count) => Ok(Some(count)),
            Cached::No => Ok(None),
            Cached::Unknown => self.read_at(buf, offset).map(Some),
        }
    }

    fn peek_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        match self.read_nowait(buf, offset)? {
            Cached::Read(count) => Ok(Some(count)),
            Cached::No | Cached::Unknown => Ok(None),
        }
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn reserve(&self, size: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, size) {
            Ok(()) => Ok(()),
            // Where the file system can't, it is filled.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                let zeros = [0; 64 << 10];
                let mut at = self.size()?;
                while at < size {
                    let count = zeros.len().min(usize::try_from(size - at).unwrap_or(usize::MAX));
                    self.write_at(&zeros[..count], at)?;
                    at += count as u64;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn forget_cached(&self, offset: u64) {
        // Only advice: if it is not taken, nothing is wrong.
        let _ = rustix::fs::fadvise(&self.0, offset, None, rustix::fs::Advice::DontNeed);
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.0.set_len(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_with_and_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let file = RealFs.open(&path, OpenMode::CreateNew).unwrap();
        file.write_at(b"hello", 3).unwrap();
        file.sync().unwrap();
        RealFs.sync_dir(dir.path()).unwrap();
        assert_eq!(file.size().unwrap(), 8);
        let mut buf = [9; 10];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), 8);
        assert_eq!(&buf[..8], b"\0\0\0hello");
        // What was just written is in memory, unless the file system can't tell and reads plainly.
        let mut part = [0; 5];
        if let Some(count) = file.try_read_at(&mut part, 3).unwrap() {
            assert_eq!(&part[..count], b"hello");
        }
        assert_eq!(file.try_read_at(&mut [0; 4], 8).unwrap(), Some(0));
        file.reserve(100_000).unwrap();
        assert_eq!(file.size().unwrap(), 100_000);
        assert_eq!((file.read_at(&mut buf, 4).unwrap(), buf), (10, *b"ello\0\0\0\0\0\0"));
        let names: Vec<_> = RealFs.list(dir.path()).unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["a"]);
        let again = RealFs.open(&path, OpenMode::CreateNew).err().unwrap();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert!(RealFs.exists(&path).unwrap());
        assert!(!RealFs.exists(&dir.path().join("b")).unwrap());
        assert!(!RealFs.exists(&path.join("below a file")).unwrap());
        assert!(RealFs.free_bytes(dir.path()).unwrap() > 0);
    }

    #[test]
    fn a_lock_is_exclusive_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let held = RealFs.lock(&path).unwrap();
        assert_eq!(RealFs.lock(&path).err().unwrap().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(RealFs.lock_shared(&path).err().unwrap().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        let shared = (RealFs.lock_shared(&path).unwrap(), RealFs.lock_shared(&path).unwrap());
        assert_eq!(RealFs.lock(&path).err().unwrap().kind(), io::ErrorKind::WouldBlock);
        drop(shared);
        RealFs.lock(&path).unwrap();
    }
}
