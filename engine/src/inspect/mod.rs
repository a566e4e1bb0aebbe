//! A store's folder, looked at from outside: read-only, and on through damage. For tools; a node never calls it while
//! it serves.
//!
//! What lies in one file is read by that file's own layer (`log/inspect.rs`, `manifest/inspect.rs`, `sst/inspect.rs`);
//! here it is put together: whether the files agree, and what of which slot is lost if they don't.

pub mod check;
mod findings;
mod follow;
mod log;
pub(crate) mod marker;
mod packs;

use std::io::ErrorKind;
use std::path::Path;

use crate::error::{Error, Result};
use crate::fs::Fs;

pub use check::{Depth, check};
pub use findings::{Damage, Figures, Finding, Report, Weight};

/// Holds a folder so that no node starts in it, for as long as the value lives. Writes nothing.
///
/// # Errors
/// `Unusable` if a node runs in it; `Io`.
pub fn hold(fs: &dyn Fs, dir: &Path) -> Result<Option<Box<dyn Send + Sync>>> {
    let path = dir.join("LOCK");
    match fs.lock_shared(&path) {
        Ok(held) => Ok(Some(held)),
        // A copy has none, and nobody serves from a folder that has none.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(Error::Unusable {
            path: dir.to_owned(),
            why: "in use by a running node, which changes it: stop the node first, or look at a copy of the folder"
                .to_owned(),
        }),
        Err(error) => Err(Error::io(&path, "lock", &error)),
    }
}

/// Whether a node runs in this folder.
///
/// # Errors
/// `Io`.
pub fn is_in_use(fs: &dyn Fs, dir: &Path) -> Result<bool> {
    match hold(fs, dir) {
        Ok(_) => Ok(false),
        Err(Error::Unusable { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}
