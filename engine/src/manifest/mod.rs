//! The manifest: a log of edits that says which runs make up each slot, what this node is to it, and whom it keeps
//! log for. One for the node; edits of many slots are one frame and one sync.
//!
//! A file begins with the whole state; edits follow; once they outgrow it a new file is begun and `CURRENT` is
//! turned to it. Every start begins a new file: what was read back may never have reached the disk. A failed write
//! or sync poisons it: nothing is applied any more. Only a write for which there is no space is as if it had not been
//! tried. One owner; wrap it in a lock.

mod edit;
mod frame;
pub mod inspect;
mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::features;
use crate::fs::{File, Fs, OpenMode};
use crate::planted::{self, Bug};
use crate::types::Slot;

pub use edit::{BadEdit, encode as encode_edit, take as take_edit};
pub use state::{
    Edit, Incoming, NodeMeta, Part, PartId, Registration, SETTLED_MAX, SUPERSEDED_MAX, SettledGrant,
    SlotEntry, SlotMeta, SlotState, State,
};

/// A file is not replaced below this size, unless somebody says another ([`Manifest::replaced_at`]).
const ROLL_BYTES_MIN: u64 = 1 << 20;
/// A file is replaced when it is more than so many times as large as the state that it began with.
const ROLL_FACTOR: u64 = 4;
/// How many slots an error names.
const NAMED_SLOTS_MAX: usize = 16;
/// No manifest is that large; a greater file is damage.
const FILE_BYTES_MAX: u64 = 4 << 30;

/// See the file's head.
pub struct Manifest {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    number: u64,
    path: PathBuf,
    file: Arc<dyn File>,
    /// Where the next frame goes. What may lie there is the empty frame that confirms the one before.
    end: u64,
    /// The size at which a new file is begun, and below which none is.
    roll_at: u64,
    roll_bytes_min: u64,
    state: State,
    poisoned: Option<String>,
}

fn file_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:06}"))
}

fn io_error(path: &Path, operation: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |error| Error::io(path, operation, &error)
}

impl Manifest {
    /// Opens the manifest in a folder and begins a new file; `None` if there is none.
    ///
    /// # Errors
    /// `Corrupt` if what was promised as durable does not hold; `Unusable` if it is of a newer format; `Io`.
    pub fn open(fs: Arc<dyn Fs>, dir: &Path) -> Result<Option<Manifest>> {
        let Some((number, state)) = read(&*fs, dir)? else { return Ok(None) };
        // A killed start may have left `CURRENT` without a sync: it must not be lost while the file made here is not.
        fs.sync_dir(dir).map_err(io_error(dir, "sync folder"))?;
        let manifest = Manifest::begin_file(fs, dir, number + 1, state)?;
        manifest.remove_others()?;
        Ok(Some(manifest))
    }

    /// Makes a manifest that says `state` in a folder that has none.
    ///
    /// # Errors
    /// `Io`.
    pub fn create(fs: Arc<dyn Fs>, dir: &Path, state: State) -> Result<Manifest> {
        fs.create_dir_all(dir).map_err(io_error(dir, "create folder"))?;
        if let Some(parent) = dir.parent() {
            fs.sync_dir(parent).map_err(io_error(parent, "sync folder"))?;
        }
        Manifest::begin_file(fs, dir, 1, state)
    }

    /// Begins a file that says `state`, after whatever files there are, which go.
    pub(crate) fn replace(fs: Arc<dyn Fs>, dir: &Path, state: State) -> Result<Manifest> {
        let entries = fs.list(dir).map_err(io_error(dir, "list"))?;
        let newest = entries.iter().filter_map(|entry| entry.name.parse::<u64>().ok()).max();
        let manifest = Manifest::begin_file(fs, dir, newest.unwrap_or(0) + 1, state)?;
        manifest.remove_others()?;
        Ok(manifest)
    }

    /// The same, with files that are not replaced below this size.
    #[must_use]
    pub(crate) fn replaced_at(self, bytes_min: u64) -> Manifest {
        Manifest { roll_at: roll_at(self.end, bytes_min), roll_bytes_min: bytes_min, ..self }
    }

    /// What it says.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The file that it is in now.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.end
    }

    /// Makes edits durable, all or none, and takes them into [`Manifest::state`].
    ///
    /// # Errors
    /// `ReadOnly` if there is no space for them: nothing has changed, it can be tried again. `Poisoned` if this or an
    /// earlier write or sync failed: what of it reached the disk is not known.
    ///
    /// # Panics
    /// If the edits can't follow the state: two runs that overlap, a run to remove that is not there. Nothing was
    /// written then.
    pub fn apply(&mut self, edits: &[Edit]) -> Result<()> {
        if let Some(why) = &self.poisoned {
            return Err(Error::Poisoned(why.clone()));
        }
        let mut part = self.state.touched_by(edits);
        for edit in edits {
            if let Err(why) = part.fold(edit.clone()) {
                panic!("an edit that can't follow the manifest's state: {why}");
            }
        }
        self.append(edits)?;
        self.state.replace(part, edits);
        if self.end > self.roll_at { self.roll_over() } else { Ok(()) }
    }

    fn poison(&mut self, error: &Error) -> Error {
        self.poisoned = Some(error.to_string());
        Error::Poisoned(error.to_string())
    }

    fn append(&mut self, edits: &[Edit]) -> Result<()> {
        let mut body = Vec::new();
        edits.iter().for_each(|one| edit::encode(one, &mut body));
        let mut bytes = Vec::with_capacity(frame::HEADER_BYTES + body.len());
        frame::encode(&mut bytes, self.end, &body);
        if let Err(error) = self.file.write_at(&bytes, self.end) {
            if is_no_space(error.kind()) {
                // A part of it may lie beyond the end: the next frame takes its place, or a start cuts it.
                return Err(Error::ReadOnly(format!("{}: no space: {error}", self.path.display())));
            }
            return Err(self.poison(&Error::io(&self.path, "write", &error)));
        }
        if !planted::is(Bug::ManifestNotSynced)
            && let Err(error) = self.file.sync()
        {
            return Err(self.poison(&Error::io(&self.path, "sync", &error)));
        }
        self.end += bytes.len() as u64;
        confirm(&*self.file, &self.path, self.end).map_err(|error| self.poison(&error))
    }

    fn roll_over(&mut self) -> Result<()> {
        let written = write_file(&*self.fs, &self.dir, self.number + 1, &self.state);
        let next = match written {
            Err(Error::Io { kind, .. }) if is_no_space(kind) => {
                // This file goes on; it is tried again a while later.
                self.roll_at = self.end + self.roll_bytes_min;
                tracing::warn!(path = %self.path.display(), "no space to begin a new manifest file");
                return Ok(());
            }
            written => written.map_err(|error| self.poison(&error))?,
        };
        if planted::is(Bug::ManifestRemovedFirst) {
            let _ = self.fs.remove(&self.path);
        }
        install(&*self.fs, &self.dir, &next).map_err(|error| self.poison(&error))?;
        let old = std::mem::replace(&mut self.path, next.path);
        (self.number, self.file, self.end, self.roll_at) =
            (next.number, next.file, next.end, roll_at(next.end, self.roll_bytes_min));
        // What can't be removed now is removed by the next start.
        if let Err(error) = self.fs.remove(&old) {
            tracing::warn!(path = %old.display(), %error, "can't remove the former manifest file");
        }
        Ok(())
    }

    fn begin_file(fs: Arc<dyn Fs>, dir: &Path, number: u64, state: State) -> Result<Manifest> {
        let NewFile { number, path, file, end } = {
            let new = write_file(&*fs, dir, number, &state)?;
            install(&*fs, dir, &new)?;
            new
        };
        let (dir, roll_bytes_min) = (dir.to_owned(), ROLL_BYTES_MIN);
        let roll_at = roll_at(end, roll_bytes_min);
        Ok(Manifest { fs, dir, number, path, file, end, roll_at, roll_bytes_min, state, poisoned: None })
    }

    /// Removes what former files and crashes left.
    fn remove_others(&self) -> Result<()> {
        for entry in self.fs.list(&self.dir).map_err(io_error(&self.dir, "list"))? {
            let path = self.dir.join(&entry.name);
            if path != self.path && entry.name != "CURRENT" && is_ours(&entry.name) {
                self.fs.remove(&path).map_err(io_error(&path, "remove"))?;
            }
        }
        Ok(())
    }
}

/// A manifest file that holds the whole state and that `CURRENT` does not name yet.
struct NewFile {
    number: u64,
    path: PathBuf,
    file: Arc<dyn File>,
    end: u64,
}

fn roll_at(snapshot_bytes: u64, bytes_min: u64) -> u64 {
    bytes_min.max(ROLL_FACTOR * snapshot_bytes)
}

fn is_no_space(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

/// Writes the whole state to a new file, and the file that is to become `CURRENT`; makes both durable. A failure
/// leaves nothing that anybody would read.
fn write_file(fs: &dyn Fs, dir: &Path, number: u64, state: &State) -> Result<NewFile> {
    let path = file_path(dir, number);
    let mut body = Vec::new();
    state.as_edits().for_each(|one| edit::encode(&one, &mut body));
    let mut bytes = Vec::with_capacity(frame::HEADER_BYTES + body.len());
    frame::encode(&mut bytes, 0, &body);
    let file = write_durably(fs, &path, &bytes)?;
    write_durably(fs, &dir.join("CURRENT.tmp"), current_line(&path).as_bytes())?;
    // The new file's name must be durable before CURRENT can name it.
    fs.sync_dir(dir).map_err(io_error(dir, "sync folder"))?;
    Ok(NewFile { number, path, file, end: bytes.len() as u64 })
}

/// Turns `CURRENT` to a new file.
fn install(fs: &dyn Fs, dir: &Path, new: &NewFile) -> Result<()> {
    let current = dir.join("CURRENT");
    fs.rename(&dir.join("CURRENT.tmp"), &current).map_err(io_error(&current, "rename to"))?;
    if planted::is(Bug::CurrentNotSynced) {
        return Ok(());
    }
    fs.sync_dir(dir).map_err(io_error(dir, "sync folder"))?;
    confirm(&*new.file, &new.path, new.end)
}

/// Writes the empty frame that says: what is before was synced. The next frame takes its place. It only helps to
/// tell damage from a torn end, so it may be missing.
fn confirm(file: &dyn File, path: &Path, end: u64) -> Result<()> {
    let mut bytes = Vec::new();
    frame::encode(&mut bytes, end, &[]);
    match file.write_at(&bytes, end) {
        Err(error) if !is_no_space(error.kind()) => Err(Error::io(path, "write", &error)),
        _ => Ok(()),
    }
}

fn is_ours(name: &str) -> bool {
    name == "CURRENT"
        || name == "CURRENT.tmp"
        || name.parse().is_ok_and(|number: u64| format!("{number:06}") == name)
}

/// Writes a file of this name, replacing what a crash may have left there, and syncs its bytes.
fn write_durably(fs: &dyn Fs, path: &Path, bytes: &[u8]) -> Result<Arc<dyn File>> {
    if fs.exists(path).map_err(io_error(path, "look for"))? {
        fs.remove(path).map_err(io_error(path, "remove"))?;
    }
    let file = fs.open(path, OpenMode::CreateNew).map_err(io_error(path, "create"))?;
    file.write_at(bytes, 0).map_err(io_error(path, "write"))?;
    file.sync().map_err(io_error(path, "sync"))?;
    Ok(file)
}

fn current_line(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    format!("{name} {:08x}\n", crc32fast::hash(name.as_bytes()))
}

fn read_all(fs: &dyn Fs, path: &Path) -> Result<Vec<u8>> {
    let file = fs.open(path, OpenMode::Read).map_err(io_error(path, "open"))?;
    let size = file.size().map_err(io_error(path, "read size"))?;
    if size > FILE_BYTES_MAX {
        return Err(Error::corrupt(path, 0, format!("{size} bytes are more than any manifest has")));
    }
    let mut bytes = vec![0; usize::try_from(size).expect("at most FILE_BYTES_MAX")];
    let got = file.read_at(&mut bytes, 0).map_err(io_error(path, "read"))?;
    bytes.truncate(got);
    Ok(bytes)
}

/// What the manifest in a folder says, and the number of its file; changes nothing. `None` if there is none.
///
/// # Errors
/// As [`Manifest::open`].
pub fn read(fs: &dyn Fs, dir: &Path) -> Result<Option<(u64, State)>> {
    let current = dir.join("CURRENT");
    if !fs.exists(&current).map_err(io_error(&current, "look for"))? {
        return no_manifest(fs, dir).map(|()| None);
    }
    let bytes = read_all(fs, &current)?;
    let name = std::str::from_utf8(&bytes).ok().and_then(|line| line.split(' ').next()).unwrap_or_default();
    let number: u64 = name.parse().unwrap_or(0);
    let path = file_path(dir, number);
    if number == 0 || current_line(&path).as_bytes() != bytes {
        return Err(Error::corrupt(&current, 0, "does not name a manifest file"));
    }
    if !fs.exists(&path).map_err(io_error(&path, "look for"))? {
        return Err(Error::corrupt(&path, 0, "CURRENT names this file, but it is missing"));
    }
    let state = replay(&path, &read_all(fs, &path)?)?;
    Ok(Some((number, state)))
}

/// Without `CURRENT` there may only be what a crash of the very first start leaves.
fn no_manifest(fs: &dyn Fs, dir: &Path) -> Result<()> {
    if !fs.exists(dir).map_err(io_error(dir, "look for"))? {
        return Ok(());
    }
    for entry in fs.list(dir).map_err(io_error(dir, "list"))? {
        if entry.name != "CURRENT.tmp" && entry.name != "000001" {
            let what = format!("CURRENT is missing, but {} is there", entry.name);
            return Err(Error::corrupt(&dir.join("CURRENT"), 0, what));
        }
    }
    Ok(())
}

/// Folds all frames of a file's bytes.
fn replay(path: &Path, file: &[u8]) -> Result<State> {
    let mut state: Option<State> = None;
    let mut at = 0;
    while at < file.len() || state.is_none() {
        let (body, len) = match frame::read_at(file, at) {
            frame::Found::Frame { body, len } => (body, len),
            frame::Found::Newer(version) => return Err(newer(path, &format!("format version {version}"))),
            frame::Found::Feature(bit) => return Err(features::refusal(path, bit)),
            frame::Found::Nothing => break,
        };
        fold_frame(&mut state, body, path, at)?;
        at += len;
    }
    if at < file.len()
        && let Some(next) = frame::next_after(file, at)
    {
        let told = told(&file[at..next]);
        let what = format!("a frame of edits does not hold, but one at byte {next} does; {told}");
        return Err(Error::corrupt(path, at as u64, what));
    }
    if at < file.len() {
        tracing::info!(path = %path.display(), from = at, bytes = file.len() - at, "cut the torn end of the manifest");
    }
    // The first frame was synced before CURRENT named the file.
    state.ok_or_else(|| {
        let what = format!("the first frame, the whole state, does not hold; {}", told(file));
        Error::corrupt(path, 0, what)
    })
}

/// What a frame was about that does not hold, for a person.
fn told(frame: &[u8]) -> String {
    let whole = frame::explained(frame);
    let (edits, more) = match &whole {
        Some(body) => inspect::salvage(body),
        None => (inspect::salvage(frame.get(frame::HEADER_BYTES..).unwrap_or_default()).0, true),
    };
    let slots: BTreeSet<Slot> = edits.iter().filter_map(inspect::slot_of).collect();
    let named: Vec<String> = slots.iter().take(NAMED_SLOTS_MAX).map(|slot| format!("slot {slot}")).collect();
    let mut told = match (named.is_empty(), more) {
        (true, true) => "which slots it was about can't be told".to_owned(),
        (true, false) => "it was about no slot".to_owned(),
        (false, _) => format!("it was about {}", named.join(", ")),
    };
    match slots.len() - named.len() {
        0 if more && !named.is_empty() => told += ", perhaps more",
        0 => {}
        others => told += &format!(" and {others} more slots"),
    }
    told
}

fn fold_frame(state: &mut Option<State>, mut body: &[u8], path: &Path, at: usize) -> Result<()> {
    let corrupt = |what: String| Error::corrupt(path, at as u64, what);
    while !body.is_empty() {
        let edit = match edit::take(&mut body) {
            Ok(edit) => edit,
            Err(edit::BadEdit::Newer(number)) => {
                return Err(newer(path, &format!("an edit of kind {number}")));
            }
            Err(edit::BadEdit::Meaning) => return Err(corrupt("an edit has no meaning".to_owned())),
        };
        match (state.as_mut(), edit) {
            (Some(state), edit) => state.fold(edit).map_err(corrupt)?,
            (None, Edit::Node(node)) => *state = Some(State { node, ..State::new(node.node) }),
            (None, _) => return Err(corrupt("the state does not begin with the node".to_owned())),
        }
    }
    Ok(())
}

fn newer(path: &Path, what: &str) -> Error {
    Error::Unusable {
        path: path.to_owned(),
        why: format!(
            "holds {what}, which this program does not know (it reads format version {}): start it with the release \
             that wrote it, or a newer one",
            frame::FORMAT_VERSION
        ),
    }
}
