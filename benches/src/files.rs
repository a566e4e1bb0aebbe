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
