//! The folder of a checkpoint: built under another name, durable before it has its own, gone if it is not finished.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Progress;
use crate::error::{Error, Result};
use crate::fs::{Fs, OpenMode};
use crate::manifest::{self, Manifest, State};
use crate::recover::{Folders, make_durably};
use crate::sst::{FileNo, pack_path};

/// What the name of a folder ends in while it is built or removed. Nothing else may have such a name.
const PARTIAL: &str = ".haypile-partial";
/// Names of files in a data folder that are not the engine's, and that a checkpoint may have too.
pub const CARRIED: [&str; 1] = ["functions"];
/// How much of a file is copied at a time.
const COPY_BYTES: usize = 1 << 20;

fn io_error(path: &Path, operation: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |error| Error::io(path, operation, &error)
}

fn partial_path(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(PARTIAL);
    dir.with_file_name(name)
}

fn parent_of(dir: &Path) -> &Path {
    dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A checkpoint's folder that is not whole yet. Removed when it is dropped before [`Folder::finish`] has returned.
pub(super) struct Folder<'a> {
    fs: &'a dyn Fs,
    dir: &'a Path,
    /// Where it is now.
    at: PathBuf,
    linked: u64,
    copied: u64,
    finished: bool,
}

impl<'a> Folder<'a> {
    /// Begins a folder that is to be `dir`; what a crash left of an earlier attempt goes.
    pub(super) fn begin(fs: &'a dyn Fs, dir: &'a Path) -> Result<Folder<'a>> {
        let unusable = |why: &str| Err(Error::Unusable { path: dir.to_owned(), why: why.to_owned() });
        if dir.file_name().is_none() {
            return unusable("not a name for a new folder");
        }
        if fs.exists(dir).map_err(io_error(dir, "look for"))? {
            return unusable(
                "is there already: a checkpoint makes its folder itself; name one that is not there",
            );
        }
        let at = partial_path(dir);
        remove_store(fs, &at)?;
        make_durably(fs, parent_of(dir))?;
        let folder = Folder { fs, dir, at, linked: 0, copied: 0, finished: false };
        let Folders { log, data, .. } = Folders::of(&folder.at);
        for inner in [&log, &data] {
            fs.create_dir_all(inner).map_err(io_error(inner, "create folder"))?;
        }
        Ok(folder)
    }

    /// Takes a pack file of the store whose data folder is `from`: by a link, or where there can be none by a copy.
    pub(super) fn take(&mut self, from: &Path, file: FileNo, progress: &Progress) -> Result<()> {
        progress.check()?;
        let (old, new) = (pack_path(from, file), pack_path(&Folders::of(&self.at).data, file));
        match self.fs.link(&old, &new) {
            Ok(()) => self.linked += 1,
            Err(error) if is_no_link(error.kind()) => {
                self.copy(&old, &new, progress)?;
                self.copied += 1;
            }
            Err(error) => return Err(Error::io(&new, "link", &error)),
        }
        Ok(())
    }

    fn copy(&self, old: &Path, new: &Path, progress: &Progress) -> Result<()> {
        let from = self.fs.open(old, OpenMode::Read).map_err(io_error(old, "open"))?;
        let to = self.fs.open(new, OpenMode::CreateNew).map_err(io_error(new, "create"))?;
        let mut buffer = vec![0; COPY_BYTES];
        let mut at = 0;
        loop {
            progress.check()?;
            let read = from.read_at(&mut buffer, at).map_err(io_error(old, "read"))?;
            if read == 0 {
                break;
            }
            to.write_at(&buffer[..read], at).map_err(io_error(new, "write"))?;
            at += read as u64;
        }
        to.sync().map_err(io_error(new, "sync"))
    }

    /// Makes a file that is not the engine's, durable with the folder.
    pub(super) fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        assert!(CARRIED.contains(&name), "{name} is no file that a checkpoint carries");
        let path = self.at.join(name);
        let file = self.fs.open(&path, OpenMode::CreateNew).map_err(io_error(&path, "create"))?;
        file.write_at(bytes, 0).map_err(io_error(&path, "write"))?;
        file.sync().map_err(io_error(&path, "sync"))
    }

    /// Makes it durable under its own name. Says how many files were linked, and how many copied.
    pub(super) fn finish(mut self, fs: &Arc<dyn Fs>, state: State) -> Result<(u64, u64)> {
        let Folders { data, manifest, .. } = Folders::of(&self.at);
        fs.sync_dir(&data).map_err(io_error(&data, "sync folder"))?;
        Manifest::create(Arc::clone(fs), &manifest, state)?;
        fs.sync_dir(&self.at).map_err(io_error(&self.at, "sync folder"))?;
        fs.rename(&self.at, self.dir).map_err(io_error(self.dir, "rename to"))?;
        self.dir.clone_into(&mut self.at);
        let parent = parent_of(self.dir);
        fs.sync_dir(parent).map_err(io_error(parent, "sync folder"))?;
        self.finished = true;
        Ok((self.linked, self.copied))
    }
}

impl Drop for Folder<'_> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // Never by its own name: cut in the middle, it must not look whole.
        let removed = match self.at == self.dir {
            true => remove(self.fs, self.dir),
            false => remove_store(self.fs, &self.at),
        };
        if let Err(error) = removed {
            tracing::warn!(at = %self.at.display(), %error, "what is left of a checkpoint stays until the next one");
        }
    }
}

/// Whether there can be no link between these places, so that the bytes have to be copied.
pub(crate) fn is_no_link(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::CrossesDevices
            | ErrorKind::Unsupported
            | ErrorKind::PermissionDenied
            | ErrorKind::TooManyLinks
    )
}

/// Whether a folder holds a whole checkpoint that no node was started on.
///
/// # Errors
/// `Io`, `Corrupt` if what should say so does not hold.
pub fn is_unused(fs: &dyn Fs, dir: &Path) -> Result<bool> {
    let found = manifest::read(fs, &Folders::of(dir).manifest)?;
    Ok(found.is_some_and(|(_, state)| state.node.incarnation == 0))
}

/// Removes a checkpoint: cut in the middle, it does not look whole.
///
/// # Errors
/// `Io`; `Unusable` if there is something in the folder that no checkpoint makes.
pub fn remove(fs: &dyn Fs, dir: &Path) -> Result<()> {
    let partial = partial_path(dir);
    remove_store(fs, &partial)?;
    fs.rename(dir, &partial).map_err(io_error(dir, "rename"))?;
    remove_store(fs, &partial)
}

/// Removes what crashes left of checkpoints in the folder `dir` whose names begin so. Says how many there were.
///
/// # Errors
/// As [`remove`].
pub fn remove_leftovers(fs: &dyn Fs, dir: &Path, prefix: &str) -> Result<usize> {
    if !fs.exists(dir).map_err(io_error(dir, "look for"))? {
        return Ok(0);
    }
    let mut removed = 0;
    for entry in fs.list(dir).map_err(io_error(dir, "list"))? {
        if entry.name.starts_with(prefix) && entry.name.ends_with(PARTIAL) {
            remove_store(fs, &dir.join(&entry.name))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Removes the folder of a store that nobody has opened, if it is there: its three folders of files and what a checkpoint may
/// carry, nothing else.
fn remove_store(fs: &dyn Fs, dir: &Path) -> Result<()> {
    if !fs.exists(dir).map_err(io_error(dir, "look for"))? {
        return Ok(());
    }
    let Folders { log, data, manifest } = Folders::of(dir);
    let inner = [manifest, data, log];
    let mut carried = Vec::new();
    for entry in fs.list(dir).map_err(io_error(dir, "list"))? {
        let path = dir.join(&entry.name);
        if !entry.is_dir && CARRIED.contains(&&*entry.name) {
            carried.push(path);
        } else if !entry.is_dir || !inner.contains(&path) {
            let why = "not a part of a checkpoint: move it out of the way".to_owned();
            return Err(Error::Unusable { path, why });
        }
    }
    // Whatever a loss of power brings back, it is not half of this under the name of a whole one: also where who renamed
    // it did not live to see that name durable.
    let parent = parent_of(dir);
    fs.sync_dir(parent).map_err(io_error(parent, "sync folder"))?;
    for folder in inner {
        if !fs.exists(&folder).map_err(io_error(&folder, "look for"))? {
            continue;
        }
        for entry in fs.list(&folder).map_err(io_error(&folder, "list"))? {
            let path = folder.join(&entry.name);
            fs.remove(&path).map_err(io_error(&path, "remove"))?;
        }
        fs.remove_dir(&folder).map_err(io_error(&folder, "remove folder"))?;
    }
    for path in carried {
        fs.remove(&path).map_err(io_error(&path, "remove"))?;
    }
    fs.remove_dir(dir).map_err(io_error(dir, "remove folder"))
}
