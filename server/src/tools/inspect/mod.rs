//! `haypile inspect`: what lies in the files of a store. Read-only, also beside a running node.
//!
//! No damage keeps the rest from being shown, and all that it meets is told: in the rows of the log and of the manifest, or
//! in a table `damage` at the end.

mod log;
mod packs;
mod rows;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use haypile_engine::error::Error;
use haypile_engine::fs::Fs;
use haypile_engine::inspect::is_in_use;
use haypile_engine::manifest::State;
use haypile_engine::manifest::inspect as manifest;
use haypile_engine::sst::inspect::BlocksWanted;
use haypile_engine::sst::pack_path;
use haypile_engine::types::Slot;

use super::sheet::{Cell, Column, Form, Sheet};
use super::{FINE, Failure, within};
use packs::place;
use rows::{RUNS, SLOTS, lsn, manifest_row, name_of, slot_row};

/// What to look at.
#[derive(Clone, Debug)]
pub enum Subject {
    /// The log, or one segment: frames and records.
    Log {
        /// Only this slot's records.
        slot: Option<Slot>,
        /// At most so many rows.
        limit: usize,
    },
    /// The manifest's edits, and what they add up to.
    Manifest,
    /// Pack files: their runs.
    Pack,
    /// Runs: their blocks, and entries.
    Sst {
        /// Only this slot's runs.
        slot: Option<Slot>,
        /// Whether entries are shown.
        entries: bool,
    },
    /// Everything of one slot.
    Slot(Slot),
    /// Every slot's runs.
    Tree,
}

/// Shows it; the exit status.
///
/// # Errors
/// If there is nothing of that kind at `path`, or it is of a newer format.
pub fn inspect(
    fs: &dyn Fs,
    path: &Path,
    subject: &Subject,
    form: Form,
    out: &mut dyn Write,
) -> Result<u8, Failure> {
    let has = |name: &str| {
        let folder = path.join(name);
        fs.exists(&folder).map_err(|error| Error::io(&folder, "look for", &error))
    };
    // One of them may be what is damaged.
    let is_store = has("manifest")? || (has("log")? && has("data")?);
    if !is_store && matches!(subject, Subject::Slot(_) | Subject::Tree) {
        let why = "no store: there is no manifest in it, nor log and data".to_owned();
        return Err(Error::Unusable { path: path.to_owned(), why }.into());
    }
    let mut sheet = Sheet::begin(out, form)?;
    let mut look =
        Look { fs, dir: path, is_store, in_use: false, sheet: &mut sheet, state: None, damage: Vec::new() };
    if is_store {
        look.in_use = look.hurt(is_in_use(fs, path))?.unwrap_or(false);
        look.sheet.table("store", &[("folder", 30), ("in_use", 6)])?;
        look.sheet.row(&[path.display().to_string().into(), Cell::Flag(look.in_use)])?;
    }
    match subject {
        Subject::Log { slot, limit } => look.log(*slot, *limit)?,
        Subject::Manifest => look.manifest()?,
        Subject::Pack => look.packs(None, BlocksWanted::No, false)?,
        Subject::Sst { slot, entries } => look.packs(*slot, BlocksWanted::Yes, *entries)?,
        Subject::Slot(slot) => look.slot(*slot)?,
        Subject::Tree => look.tree()?,
    }
    look.tell_damage()?;
    sheet.end()?;
    Ok(FINE)
}

/// Something that does not hold.
#[derive(PartialEq, Eq)]
struct Damage {
    file: String,
    offset: Option<u64>,
    what: String,
}

struct Look<'l, 'o> {
    fs: &'l dyn Fs,
    dir: &'l Path,
    is_store: bool,
    in_use: bool,
    sheet: &'l mut Sheet<'o>,
    /// What the manifest adds up to, once it was read.
    state: Option<Option<State>>,
    damage: Vec<Damage>,
}

/// The first error of many rows; the rest is not written.
struct Rows<'s, 'o> {
    sheet: &'s mut Sheet<'o>,
    left: usize,
    done: std::io::Result<()>,
}

impl Rows<'_, '_> {
    fn row(&mut self, cells: &[Cell]) {
        if self.done.is_ok() && self.left > 0 {
            self.left -= 1;
            self.done = self.sheet.row(cells);
        }
    }
}

impl Look<'_, '_> {
    /// Notes damage, once.
    fn damaged(&mut self, path: &Path, offset: Option<u64>, what: impl Into<String>) {
        let file = if self.is_store { within(self.dir, path).display().to_string() } else { name_of(path) };
        let damage = Damage { file, offset, what: what.into() };
        if !self.damage.contains(&damage) {
            self.damage.push(damage);
        }
    }

    /// Notes what kept a file from being read.
    fn unreadable(&mut self, path: &Path, error: Error) {
        match error {
            Error::Corrupt { path, offset, what } => self.damaged(&path, Some(offset), what),
            Error::Io { path, operation, message, .. } => {
                self.damaged(&path, None, format!("{operation}: {message}"));
            }
            Error::Unusable { path, why } => self.damaged(&path, None, why),
            error => self.damaged(path, None, error.to_string()),
        }
    }

    /// Notes damage, and what the file system refuses; a newer format is the caller's to refuse.
    fn hurt<T>(&mut self, done: Result<T, Error>) -> Result<Option<T>, Failure> {
        match done {
            Ok(value) => Ok(Some(value)),
            Err(error @ (Error::Corrupt { .. } | Error::Io { .. })) => {
                self.unreadable(self.dir, error);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn tell_damage(&mut self) -> Result<(), Failure> {
        if !self.damage.is_empty() {
            self.sheet.table("damage", &[("file", 20), ("offset", 9), ("what", 0)])?;
        }
        for Damage { file, offset, what } in std::mem::take(&mut self.damage) {
            self.sheet.row(&[file.into(), offset.into(), what.into()])?;
        }
        Ok(())
    }

    fn manifest(&mut self) -> Result<(), Failure> {
        let path = match self.is_store {
            true => self.manifest_path()?,
            false => Some(self.dir.to_owned()),
        };
        let columns: &[Column] = &[("offset", 9), ("bytes", 7), ("what", 12), ("slot", 4), ("note", 0)];
        self.sheet.table("edits", columns)?;
        let Some(path) = path else { return Ok(()) };
        let mut rows = Rows { sheet: self.sheet, left: usize::MAX, done: Ok(()) };
        let walked = manifest::walk(self.fs, &path, &mut |item| rows.row(&manifest_row(&item)));
        rows.done?;
        // A file that was named is there, or there is nothing to show.
        let state = if self.is_store { self.hurt(walked)?.flatten() } else { walked? };
        let Some(state) = state else { return Ok(()) };
        let columns: &[Column] =
            &[("node", 40), ("incarnation", 11), ("clean_end", 12), ("log_start", 12), ("next_file", 9)];
        self.sheet.table("node", columns)?;
        let node = state.node;
        self.sheet.row(&[
            node.node.to_string().into(),
            u64::from(node.incarnation).into(),
            node.clean_end.map_or(Cell::None, lsn),
            lsn(node.log_start),
            node.next_file.0.into(),
        ])?;
        self.sheet.table("slots", SLOTS)?;
        for (slot, entry) in &state.slots {
            self.sheet.row(&slot_row(*slot, entry))?;
        }
        self.sheet.table("replicas", &[("node", 40), ("address", 21), ("slot", 4), ("acked", 8)])?;
        for (node, replica) in &state.replicas {
            for (slot, seq) in &replica.acked {
                let slot = Cell::Number(slot.number().into());
                self.sheet.row(&[
                    node.to_string().into(),
                    replica.address.as_str().into(),
                    slot,
                    seq.0.into(),
                ])?;
            }
        }
        Ok(())
    }

    /// The manifest file that counts, if there is any.
    fn manifest_path(&mut self) -> Result<Option<PathBuf>, Failure> {
        let folder = self.dir.join("manifest");
        let Some(found) = self.hurt(manifest::folder(self.fs, &folder))? else { return Ok(None) };
        if let Some(error) = found.bad_current {
            self.unreadable(&folder, error);
        } else if found.current.is_none() {
            let what = "there is no manifest: nothing tells which files make up which slot";
            self.damaged(&folder.join("CURRENT"), None, what);
        }
        Ok(found.current)
    }

    /// What the manifest adds up to; nothing if there is none.
    fn state(&mut self) -> Result<Option<State>, Failure> {
        if let Some(state) = &self.state {
            return Ok(state.clone());
        }
        let state = self.read_state()?;
        self.state = Some(state.clone());
        Ok(state)
    }

    fn read_state(&mut self) -> Result<Option<State>, Failure> {
        let Some(path) = self.manifest_path()? else { return Ok(None) };
        let mut bad = Vec::new();
        let walked = manifest::walk(self.fs, &path, &mut |item| match item {
            manifest::Item::Damage { offset, what, .. } => bad.push((offset, what.to_owned())),
            manifest::Item::BadEdit { offset, what, .. } => bad.push((offset, what)),
            _ => {}
        });
        bad.into_iter().for_each(|(offset, what)| self.damaged(&path, Some(offset), what));
        Ok(self.hurt(walked)?.flatten())
    }

    fn slot(&mut self, slot: Slot) -> Result<(), Failure> {
        let state = self.state()?;
        let known = state.is_some();
        let entry = state.as_ref().and_then(|state| state.slots.get(&slot)).cloned().unwrap_or_default();
        self.sheet.table("slot", SLOTS)?;
        if known {
            self.sheet.row(&slot_row(slot, &entry))?;
        }
        self.sheet.table("history", &[("epoch", 24), ("first_seq", 9)])?;
        for start in entry.meta.history.starts() {
            self.sheet.row(&[start.epoch.to_string().into(), start.first_seq.0.into()])?;
        }
        let columns: &[Column] = &[("node", 40), ("address", 21), ("acked", 8)];
        self.sheet.table("replicas", columns)?;
        for (node, replica) in state.iter().flat_map(|state| &state.replicas) {
            if let Some(seq) = replica.acked.get(&slot) {
                self.sheet.row(&[node.to_string().into(), replica.address.as_str().into(), seq.0.into()])?;
            }
        }
        self.sheet.table("runs", RUNS)?;
        for run in &entry.runs {
            let path = pack_path(&self.dir.join("data"), run.file);
            self.run(&path, place(run), Some(&run.props), BlocksWanted::No)?;
        }
        self.log_of(slot, entry.meta.base_lsn)
    }

    fn tree(&mut self) -> Result<(), Failure> {
        let columns: &[Column] = &[
            ("slot", 4),
            ("run", 6),
            ("file", 12),
            ("offset", 9),
            ("bytes", 10),
            ("entries", 9),
            ("tombstones", 10),
            ("min_seq", 9),
            ("max_seq", 9),
        ];
        self.sheet.table("tree", columns)?;
        let Some(state) = self.state()? else { return Ok(()) };
        let (mut bytes, mut entries, mut count) = (0, 0, 0_u64);
        let mut files = BTreeSet::new();
        for (slot, entry) in &state.slots {
            for (index, run) in entry.runs.iter().enumerate() {
                let level = if index + 1 == entry.runs.len() { "bottom" } else { "upper" };
                let props = &run.props;
                let path = pack_path(&self.dir.join("data"), run.file);
                self.sheet.row(&[
                    Cell::Number(slot.number().into()),
                    level.into(),
                    name_of(&path).into(),
                    run.offset.into(),
                    run.len.into(),
                    props.entries.into(),
                    props.tombstones.into(),
                    props.min_seq.0.into(),
                    props.max_seq.0.into(),
                ])?;
                (bytes, entries, count) = (bytes + run.len, entries + props.entries, count + 1);
                if self.fs.exists(&path).unwrap_or(false) {
                    files.insert(path);
                }
            }
        }
        let slots = state.slots.values().filter(|entry| !entry.runs.is_empty()).count();
        self.sheet.table("total", &[("slots", 5), ("runs", 6), ("bytes", 12), ("entries", 12)])?;
        self.sheet.row(&[slots.into(), count.into(), bytes.into(), entries.into()])?;
        self.missing_packs(&files)
    }
}
