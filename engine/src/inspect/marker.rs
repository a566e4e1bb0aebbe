//! The mark that a repair leaves in `trash/` while the log has no segment to go on in: what lies before the position in
//! it was given up by intent.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::fs::{Fs, OpenMode};
use crate::types::Lsn;

/// The folder, within the store, of what repairs have dropped.
pub(crate) const TRASH: &str = "trash";

fn path(dir: &Path) -> PathBuf {
    dir.join(TRASH).join("log-begins-at")
}

fn io_error(path: &Path, operation: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |error| Error::io(path, operation, &error)
}

/// Makes a folder in `trash/`, durably.
pub(crate) fn make_folder(fs: &dyn Fs, dir: &Path, folder: &Path) -> Result<()> {
    fs.create_dir_all(folder).map_err(io_error(folder, "create folder"))?;
    let within = folder.ancestors().skip(1).take_while(|above| above.starts_with(dir));
    for above in within {
        fs.sync_dir(above).map_err(io_error(above, "sync folder"))?;
    }
    Ok(())
}

/// Where the log is to begin anew, if a repair has said so and has not done it.
pub(crate) fn read(fs: &dyn Fs, dir: &Path) -> Result<Option<Lsn>> {
    let path = path(dir);
    let file = match fs.open(&path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(&path, "open", &error)),
    };
    let mut text = [0; 64];
    let got = file.read_at(&mut text, 0).map_err(io_error(&path, "read"))?;
    let text = std::str::from_utf8(&text[..got]).unwrap_or_default();
    Ok(text.trim_end().parse().ok().map(Lsn))
}

/// Leaves the mark, durably.
pub(crate) fn write(fs: &dyn Fs, dir: &Path, at: Lsn) -> Result<()> {
    remove(fs, dir)?;
    let path = path(dir);
    let folder = dir.join(TRASH);
    make_folder(fs, dir, &folder)?;
    let file = fs.open(&path, OpenMode::CreateNew).map_err(io_error(&path, "create"))?;
    file.write_at(format!("{}\n", at.0).as_bytes(), 0).map_err(io_error(&path, "write"))?;
    file.sync().map_err(io_error(&path, "sync"))?;
    fs.sync_dir(&folder).map_err(io_error(&folder, "sync folder"))
}

/// Takes the mark away.
pub(crate) fn remove(fs: &dyn Fs, dir: &Path) -> Result<()> {
    let path = path(dir);
    match fs.remove(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(&path, "remove", &error)),
        _ => Ok(()),
    }
}
