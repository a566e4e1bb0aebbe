//! What a check finds, as values: a line each for a person, and what a repair has to know.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::sst::FileNo;
use crate::types::{Seq, Slot};

/// What a finding means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Weight {
    /// Something is not as it was written.
    Problem,
    /// Nothing is wrong, but somebody who looks may wonder: what a crash left and the next start clears away.
    Note,
}

/// One thing that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Whether it is a problem.
    pub weight: Weight,
    /// The file.
    pub path: PathBuf,
    /// Where in the file.
    pub offset: Option<u64>,
    /// The slot that it hit, where one can be named.
    pub slot: Option<Slot>,
    /// The slot's records that it hit, first and last.
    pub seqs: Option<(Seq, Seq)>,
    /// What it is.
    pub what: String,
}

impl Finding {
    pub(super) fn problem(path: &Path, offset: impl Into<Option<u64>>, what: impl Into<String>) -> Finding {
        let (path, offset, what) = (path.to_owned(), offset.into(), what.into());
        Finding { weight: Weight::Problem, path, offset, slot: None, seqs: None, what }
    }

    pub(super) fn note(path: &Path, what: impl Into<String>) -> Finding {
        Finding { weight: Weight::Note, ..Finding::problem(path, None, what) }
    }

    /// An error that ended the reading of something.
    pub(super) fn of_error(error: &Error) -> Finding {
        match error {
            Error::Corrupt { path, offset, what } => Finding::problem(path, *offset, what.clone()),
            Error::Io { path, operation, message, .. } => {
                Finding::problem(path, None, format!("{operation}: {message}"))
            }
            Error::Unusable { path, why } => Finding::problem(path, None, why.clone()),
            other => Finding::problem(Path::new(""), None, other.to_string()),
        }
    }

    #[must_use]
    pub(super) fn of_slot(self, slot: Slot) -> Finding {
        Finding { slot: Some(slot), ..self }
    }

    #[must_use]
    pub(super) fn of_seqs(self, slot: Slot, first: Seq, last: Seq) -> Finding {
        Finding { slot: Some(slot), seqs: Some((first, last)), ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.weight == Weight::Note {
            f.write_str("note: ")?;
        }
        write!(f, "{}", self.path.display())?;
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        if let Some(slot) = self.slot {
            write!(f, ": slot {slot}")?;
        }
        match self.seqs {
            Some((first, last)) if first == last => write!(f, " seq {first}")?,
            Some((first, last)) => write!(f, " seq {first}..{last}")?,
            None => {}
        }
        write!(f, ": {}", self.what)
    }
}

/// How much was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// Segments of the log.
    pub segments: u64,
    /// Frames in them.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// Pack files.
    pub packs: u64,
    /// Runs that the manifest refers to.
    pub runs: u64,
    /// Their blocks.
    pub blocks: u64,
    /// Their entries.
    pub entries: u64,
    /// Slots that this node has.
    pub slots: u64,
}

/// What is damaged, as far as a repair has to know.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Damage {
    /// Slots that are not whole, each with the first reason: they have to be given up.
    pub lost: BTreeMap<Slot, String>,
    /// Slots of which it can't be told whether they are whole, each with the first reason.
    pub doubtful: BTreeMap<Slot, String>,
    /// The last segment of the log that a start would stumble over.
    pub log_through: Option<u64>,
    /// Pack files that are not as they were written, apart from runs that are lost.
    pub packs: BTreeSet<FileNo>,
    /// The manifest is not as it was written.
    pub manifest: bool,
}

impl Damage {
    pub(super) fn lose(&mut self, slot: Slot, why: &Finding) {
        self.lost.entry(slot).or_insert_with(|| why.to_string());
    }

    pub(super) fn doubt(&mut self, slot: Slot, why: &Finding) {
        self.doubtful.entry(slot).or_insert_with(|| why.to_string());
    }

    pub(super) fn log(&mut self, segment: u64) {
        self.log_through = self.log_through.max(Some(segment));
    }
}

/// What a check found, in sum.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// How many problems.
    pub problems: u64,
    /// How many notes.
    pub notes: u64,
    /// How much was looked at.
    pub figures: Figures,
    /// What is damaged.
    pub damage: Damage,
    /// The last start of the node that wrote to the log.
    pub incarnation: u32,
}
