//! What is done to a file system, an operation at a time, and how one of them may fail.

use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;

/// An operation that changes something, or a sync.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    /// Which one: the first of a file system is 0.
    pub number: u64,
    /// What it is done to, by its present name.
    pub path: PathBuf,
    /// What is done.
    pub action: Action,
    /// How it ended, if not well.
    pub failed: Option<ErrorKind>,
}

/// What an operation does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Makes a file.
    Create,
    /// Writes bytes.
    Write {
        /// Where.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// Makes a file's bytes and size durable.
    Sync,
    /// Cuts or extends a file.
    SetSize(u64),
    /// Gives a file another name.
    Rename(PathBuf),
    /// Gives a file a second name.
    Link(PathBuf),
    /// Removes a file's name.
    Remove,
    /// Makes a folder, and those above it.
    CreateDir,
    /// Removes a folder.
    RemoveDir,
    /// Makes a folder's names durable.
    SyncDir,
}

/// `create /a`, `write /a 0+512`, `sync /a`, `rename /a -> /b`, `sync-dir /`; a failed one ends in `: failed (…)`.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.action {
            Action::Create => write!(f, "create {path}"),
            Action::Write { offset, len } => write!(f, "write {path} {offset}+{len}"),
            Action::Sync => write!(f, "sync {path}"),
            Action::SetSize(size) => write!(f, "set-size {path} {size}"),
            Action::Rename(to) => write!(f, "rename {path} -> {}", to.display()),
            Action::Link(to) => write!(f, "link {path} -> {}", to.display()),
            Action::Remove => write!(f, "remove {path}"),
            Action::CreateDir => write!(f, "create-dir {path}"),
            Action::RemoveDir => write!(f, "remove-dir {path}"),
            Action::SyncDir => write!(f, "sync-dir {path}"),
        }?;
        self.failed.map_or(Ok(()), |kind| write!(f, ": failed ({kind})"))
    }
}

/// How an operation fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failure {
    /// What the caller is told.
    pub kind: ErrorKind,
    /// With a seed, a part of it took effect: of a write a prefix; of a sync each sector is on the disk, or lost and
    /// still read back, or lost and read back as it was; of a folder's sync some names. Without one, a write has
    /// no effect, and what a sync should have made durable reads back but never becomes so.
    pub partly: Option<u64>,
}

impl From<ErrorKind> for Failure {
    fn from(kind: ErrorKind) -> Failure {
        Failure { kind, partly: None }
    }
}
