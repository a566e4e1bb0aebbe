//! Small files, most of them text, through the engine's file system.

use std::path::Path;

use haypile_engine::fs::{Fs, OpenMode};

/// The longest file, in bytes.
const FILE_BYTES_MAX: u64 = 32 << 20;

/// Reads a text file whole.
///
/// # Errors
/// A line that names the file.
pub fn read_text(fs: &dyn Fs, path: &Path) -> Result<String, String> {
    String::from_utf8(read_bytes(fs, path)?).map_err(|_| format!("{}: not UTF-8 text", path.display()))
}

/// Reads a small file whole.
///
/// # Errors
/// A line that names the file.
pub fn read_bytes(fs: &dyn Fs, path: &Path) -> Result<Vec<u8>, String> {
    let named = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = fs.open(path, OpenMode::Read).map_err(named)?;
    let size = file.size().map_err(named)?;
    if size > FILE_BYTES_MAX {
        return Err(format!("{}: {size} bytes are too many for such a file", path.display()));
    }
    let mut bytes = vec![0; usize::try_from(size).map_err(|error| error.to_string())?];
    let read = file.read_at(&mut bytes, 0).map_err(named)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Replaces a text file, durably, or leaves it as it was.
///
/// # Errors
/// A line that names the file.
pub fn replace_text(fs: &dyn Fs, path: &Path, text: &str) -> Result<(), String> {
    replace_bytes(fs, path, text.as_bytes())
}

/// Replaces a small file, durably, or leaves it as it was.
///
/// # Errors
/// A line that names the file.
pub fn replace_bytes(fs: &dyn Fs, path: &Path, bytes: &[u8]) -> Result<(), String> {
    let named = |error: std::io::Error| format!("{}: {error}", path.display());
    let new = path.with_extension("new");
    if fs.exists(&new).map_err(named)? {
        fs.remove(&new).map_err(named)?;
    }
    let file = fs.open(&new, OpenMode::CreateNew).map_err(named)?;
    file.write_at(bytes, 0).map_err(named)?;
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
