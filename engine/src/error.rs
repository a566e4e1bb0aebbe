//! What can go wrong in the engine, by what the caller does next.

use std::io;
use std::path::{Path, PathBuf};

/// The engine's error. Every variant names the place and, where there is one, the remedy.
#[derive(Debug, thiserror::Error, Clone)]
pub enum Error {
    /// The operating system refused an operation on a file. What was in progress did not happen.
    #[error("{}: {operation}: {message}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried: `read`, `write`, `sync` ...
        operation: &'static str,
        /// The operating system's kind of error.
        kind: io::ErrorKind,
        /// The operating system's words.
        message: String,
    },

    /// Bytes on disk that had been promised as durable are not what was written.
    #[error("{}: at byte {offset}: corrupt: {what}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What does not hold, with slots and seqs where they are known.
        what: String,
    },

    /// The data folder can't be used as it is: of a newer format, not a data folder. The text says what
    /// to do.
    #[error("{}: {why}", path.display())]
    Unusable {
        /// The data folder or a file in it.
        path: PathBuf,
        /// Why, and the remedy.
        why: String,
    },

    /// Another process has the data folder. It may be one that was killed and whose last threads still end.
    #[error("{}: in use by another process: stop that one, or give this one a folder of its own", path.display())]
    InUse {
        /// The data folder.
        path: PathBuf,
    },

    /// The engine takes no writes now but may again (no space left). The text says why.
    #[error("{0}")]
    ReadOnly(String),

    /// A write or sync of the log or the manifest failed: nothing is acknowledged any more in this process.
    #[error("the node has stopped acknowledging writes: {0}")]
    Poisoned(String),

    /// The caller asked for something that the engine's limits do not allow.
    #[error("{0}")]
    Limit(String),
}

impl Error {
    /// An I/O error with its place.
    pub fn io(path: &Path, operation: &'static str, error: &io::Error) -> Error {
        Error::Io { path: path.to_owned(), operation, kind: error.kind(), message: error.to_string() }
    }

    /// A corruption with its place.
    pub fn corrupt(path: &Path, offset: u64, what: impl Into<String>) -> Error {
        Error::Corrupt { path: path.to_owned(), offset, what: what.into() }
    }
}

/// The engine's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
