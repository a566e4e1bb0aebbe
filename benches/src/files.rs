//! The benchmark's own files: results, a line each run.

use std::path::Path;
use std::sync::Arc;

use haypile_engine::fs::{Fs, OpenMode, real::RealFs};

use crate::error::{Error, Result};

/// The operating system's file system.
#[must_use]
pub fn real() -> Arc<dyn Fs> {
    Arc::new(RealFs)
}

/// Appends a line to a file, making it if it is not there.
///
/// # Errors
/// As the operating system says.
pub fn append_line(path: &Path, line: &str) -> Result<()> {
    let append = || {
        let fs = real();
        let mode = if fs.exists(path)? { OpenMode::Write } else { OpenMode::CreateNew };
        let file = fs.open(path, mode)?;
        file.write_at(format!("{line}\n").as_bytes(), file.size()?)
    };
    append().map_err(|error: std::io::Error| Error::file(path, error))
}

/// A results file is not larger.
const TEXT_BYTES_MAX: u64 = 1 << 30;

/// The text of a file.
///
/// # Errors
/// If it can't be read, is too large, or is no text.
pub fn read_text(path: &Path) -> Result<String> {
    let read = || {
        let file = real().open(path, OpenMode::Read)?;
        let size = file.size()?;
        if size > TEXT_BYTES_MAX {
            return Err(std::io::Error::other(format!("{size} bytes are too many")));
        }
        let mut bytes = vec![0; usize::try_from(size).map_err(std::io::Error::other)?];
        let read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        String::from_utf8(bytes).map_err(std::io::Error::other)
    };
    read().map_err(|error| Error::file(path, error))
}

/// Writes a file, replacing what it held.
///
/// # Errors
/// As the operating system says.
pub fn write_text(path: &Path, text: &str) -> Result<()> {
    let write = || {
        let fs = real();
        let mode = if fs.exists(path)? { OpenMode::Write } else { OpenMode::CreateNew };
        let file = fs.open(path, mode)?;
        file.set_size(0)?;
        file.write_at(text.as_bytes(), 0)
    };
    write().map_err(|error: std::io::Error| Error::file(path, error))
}
