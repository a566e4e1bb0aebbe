//! The commands that look at a store while no node serves from it: `haypile check`, `inspect` and `repair`.
//!
//! Each is a function of a file system, its arguments and where to write, and gives the process's exit status:
//! 0 all is well, 1 it found damage, 2 it could not run.

mod check;
mod inspect;
mod repair;
mod sheet;

use std::path::{Path, PathBuf};

use haypile_engine::error::Error;

pub use check::{advice, check};
pub use inspect::{Subject, inspect};
pub use repair::{Answer, Wanted, repair};
pub use sheet::Form;

/// All is well.
pub const FINE: u8 = 0;
/// Damage was found.
pub const DAMAGED: u8 = 1;
/// It could not be done.
pub const FAILED: u8 = 2;

/// Why a command could not run, on one line.
#[derive(Debug)]
pub enum Failure {
    /// The store or a file of it.
    Store(Error),
    /// The output could not be written.
    Output(std::io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Store(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::Output(error)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Store(error) => error.fmt(f),
            Failure::Output(error) => write!(f, "can't write the output: {error}"),
        }
    }
}

/// A file's name within the store, which is how findings name it.
fn within(dir: &Path, path: &Path) -> PathBuf {
    path.strip_prefix(dir).unwrap_or(path).to_owned()
}
