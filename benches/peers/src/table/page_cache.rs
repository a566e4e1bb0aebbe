//! Holds what the kernel keeps in memory of a store's files to a limit, from outside of the process that reads them: the same
//! for every target, and without the rights that a control group needs.
//!
//! A thread asks each millisecond how much is cached (`cachestat`, Linux 6.5). Over the limit, a hand that goes round over all
//! files drops what it comes by (`POSIX_FADV_DONTNEED`) until it is less. Of reads that are spread evenly any such rule has as
//! many hits as the cache has of the files. What a process has mapped the kernel does not drop: [`PageCache::end`] tells how
//! much there was on average, for whoever shows the figures.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{Advice, fadvise};

use crate::ffi;

/// Between two looks.
const TICK: Duration = Duration::from_millis(1);
/// Files come and go: after so many looks they are listed anew.
const LOOKS_BETWEEN_LISTS: u32 = 64;
/// What is dropped at once. The kernel keeps files in pieces of up to this size, and drops whole ones only.
const STEP_BYTES: u64 = 2 << 20;

/// What may be cached of a store's files, held while this lives.
pub struct PageCache {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<f64>>,
}

impl PageCache {
    /// Brings the files in `folder` to the device, drops what is cached of them, and from then on keeps that below
    /// `limit_bytes`.
    ///
    /// # Errors
    /// If the kernel can't tell how much is cached, or the files can't be read.
    pub fn hold(folder: &Path, limit_bytes: u64) -> io::Result<PageCache> {
        let mut files = Files::list(folder)?;
        files.drop_all()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("page-cache".to_owned()).spawn(move || {
            let (mut sum, mut looks) = (0.0, 0_u32);
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(TICK);
                looks += 1;
                if looks.is_multiple_of(LOOKS_BETWEEN_LISTS) {
                    files.list_again();
                }
                let cached = files.cached();
                sum += cached as f64;
                if cached > limit_bytes {
                    files.drop_until(limit_bytes);
                }
            }
            sum / f64::from(looks.max(1))
        })?;
        Ok(PageCache { stop, thread: Some(thread) })
    }

    /// Lets go; says how many bytes were cached on average when it was looked, before anything was dropped.
    #[must_use]
    pub fn end(mut self) -> f64 {
        self.stop()
    }

    fn stop(&mut self) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for PageCache {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The files of a folder, open.
pub struct Files {
    folder: PathBuf,
    open: BTreeMap<PathBuf, File>,
    /// Where the hand is: in which file, and where in it.
    hand: (PathBuf, u64),
}

impl Files {
    /// All files in a folder and in those within it.
    ///
    /// # Errors
    /// If they can't be read, or the kernel can't tell what is cached of them.
    pub fn list(folder: &Path) -> io::Result<Files> {
        let mut files = Files { folder: folder.to_owned(), open: BTreeMap::new(), hand: (PathBuf::new(), 0) };
        files.add(folder)?;
        for file in files.open.values() {
            ffi::cached_bytes(file.as_fd(), 0, 0)?;
        }
        Ok(files)
    }

    fn add(&mut self, folder: &Path) -> io::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                self.add(&path)?;
            } else if let Entry::Vacant(place) = self.open.entry(path) {
                let file = File::open(place.key())?;
                place.insert(file);
            }
        }
        Ok(())
    }

    /// As the folder is now. What goes meanwhile is found gone the next time.
    fn list_again(&mut self) {
        self.open.retain(|path, _| path.exists());
        let folder = self.folder.clone();
        let _ = self.add(&folder);
    }

    /// How many bytes of them are cached.
    #[must_use]
    pub fn cached(&self) -> u64 {
        self.open.values().map(|file| ffi::cached_bytes(file.as_fd(), 0, 0).unwrap_or_default()).sum()
    }

    /// Brings all to the device, so that it can be dropped, and drops it.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn drop_all(&self) -> io::Result<()> {
        for file in self.open.values() {
            file.sync_all()?;
            fadvise(file, 0, None, Advice::DontNeed)?;
        }
        Ok(())
    }

    /// Moves the hand on until no more than `limit_bytes` are cached, once around at most.
    pub fn drop_until(&mut self, limit_bytes: u64) {
        let (mut cached, mut at) = (self.cached(), std::mem::take(&mut self.hand));
        // Where the hand was comes first and, all else having been passed, last.
        let (here, before) = (at.0.clone().., ..=at.0.clone());
        for (path, file) in self.open.range(here).chain(self.open.range(before)) {
            let bytes = file.metadata().map_or(0, |metadata| metadata.len());
            if *path != at.0 || at.1 >= bytes {
                at = (path.clone(), 0);
            }
            while at.1 < bytes && cached > limit_bytes {
                let part = || ffi::cached_bytes(file.as_fd(), at.1, STEP_BYTES).unwrap_or_default();
                let before = part();
                // What can't be dropped shows in what is told at the end.
                let _ = fadvise(file, at.1, STEP_BYTES.try_into().ok(), Advice::DontNeed);
                cached = cached.saturating_sub(before.saturating_sub(part()));
                at.1 += STEP_BYTES;
            }
            if cached <= limit_bytes {
                break;
            }
        }
        self.hand = at;
    }
}
