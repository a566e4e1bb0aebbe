//! What can go wrong, by what whoever started the run does next.

use std::io;
use std::path::Path;

/// Why a run did not take place or was not finished.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or a configuration makes no sense: to be written otherwise.
    #[error("{0}")]
    Usage(String),
    /// The target can't do this workload at all.
    #[error("{target} can't run {workload}: {why}")]
    Unsupported {
        /// The target's name.
        target: String,
        /// The workload's name.
        workload: &'static str,
        /// What it lacks.
        why: &'static str,
    },
    /// The target failed: the run's figures mean nothing.
    #[error("{doing}: {why}")]
    Target {
        /// What was being done.
        doing: &'static str,
        /// What the target said.
        why: String,
    },
    /// The benchmark's own files.
    #[error("{path}: {why}")]
    File {
        /// Which file.
        path: String,
        /// What the operating system or the parser said.
        why: String,
    },
}

impl Error {
    /// The target said no while something was being done.
    pub fn target(doing: &'static str, why: impl ToString) -> Error {
        Error::Target { doing, why: why.to_string() }
    }

    /// One of the benchmark's own files can't be read or written.
    pub fn file(path: &Path, why: impl ToString) -> Error {
        Error::File { path: path.display().to_string(), why: why.to_string() }
    }
}

impl From<haypile_engine::error::Error> for Error {
    fn from(error: haypile_engine::error::Error) -> Error {
        Error::target("the engine", error)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::target("the operating system", error)
    }
}

/// What a step of a run gives.
pub type Result<T> = std::result::Result<T, Error>;
