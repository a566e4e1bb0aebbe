//! Small text files, through the engine's file system.

use std::path::Path;

use haypile_engine::fs::{Fs, OpenMode};

/// The longest text file, in bytes.
const TEXT_BYTES_MAX: u64 = 16 << 20;

/// Reads a text file whole.
///
/// # Errors
/// A line that names the file.
pub fn read_text(fs: &dyn Fs, path: &Path) -> Result<String, String> {
    let named = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = fs.open(path, OpenMode::Read).map_err(named)?;
    let size = file.size().map_err(named)?;
    if size > TEXT_BYTES_MAX {
        return Err(format!("{}: {size} bytes are too many for a text file", path.display()));
    }
    let mut bytes = vec![0; usize::try_from(size).map_err(|error| error.to_string())?];
    let read = file.read_at(&mut bytes, 0).map_err(named)?;
    bytes.truncate(read);
    String::from_utf8(bytes).map_err(|_| format!("{}: not UTF-8 text", path.display()))
}

/// Replaces a text file, durably, or leaves it as it was.
///
/// # Errors
/// A line that names the file.
pub fn replace_text(fs: &dyn Fs, path: &Path, text: &str) -> Result<(), String> {
    let named = |error: std::io::Error| format!("{}: {error}", path.display());
    let new = path.with_extension("new");
    if fs.exists(&new).map_err(named)? {
        fs.remove(&new).map_err(named)?;
    }
    let file = fs.open(&new, OpenMode::CreateNew).map_err(named)?;
    file.write_at(text.as_bytes(), 0).map_err(named)?;
    file.sync().map_err(named)?;
    fs.rename(&new, path).map_err(named)?;
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs.sync_dir(folder).map_err(named)
}

/// Reads up to `limit` bytes of one of the kernel's own files, which have no size.
#[must_use]
pub fn read_kernel(fs: &dyn Fs, path: &str, limit: usize) -> Option<String> {
    let file = fs.open(Path::new(path), OpenMode::Read).ok()?;
    let mut bytes = vec![0; limit];
    let read = file.read_at(&mut bytes, 0).ok()?;
    bytes.truncate(read);
    String::from_utf8(bytes).ok()
}
