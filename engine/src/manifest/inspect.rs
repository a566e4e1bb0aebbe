//! Reads a manifest for a person or a tool: read-only, and on through damage.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::edit::{self, BadEdit};
use super::frame::{self, Found, HEADER_BYTES};
use super::state::{Edit, State};
use super::{current_line, file_path, io_error, newer, read_all};
use crate::error::{Error, Result};
use crate::features;
use crate::fs::Fs;
use crate::types::{NodeId, Slot};
use crate::varint;

/// What lies in a manifest's folder.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    /// The file that counts: the one that `CURRENT` names, or else the one that it must have named.
    pub current: Option<PathBuf>,
    /// Why `CURRENT` does not say so.
    pub bad_current: Option<Error>,
    /// Other manifest files: a start removes them.
    pub others: Vec<String>,
    /// Files that no manifest has.
    pub strangers: Vec<String>,
}

/// Something that lies in a manifest file, in its order.
#[derive(Debug)]
pub enum Item<'a> {
    /// A frame.
    Frame {
        /// Where in the file.
        offset: u64,
        /// All its bytes.
        bytes: u64,
        /// What follows is true only if that says that it is (the first one).
        confirms: bool,
    },
    /// An edit of the last frame.
    Edit(&'a Edit),
    /// An edit of a frame that does not hold.
    SavedEdit(&'a Edit),
    /// An edit that can't be read or can't follow; it was passed over.
    BadEdit {
        /// Where its frame is.
        offset: u64,
        /// Whose it is, as far as that can be told.
        slot: Option<Slot>,
        /// What is wrong with it.
        what: String,
    },
    /// A frame that does not hold, though one after it does, or that others need. What can be read of its edits is
    /// given and counts.
    Damage {
        /// Where in the file.
        offset: u64,
        /// Up to the next frame.
        bytes: u64,
        /// What does not hold.
        what: &'static str,
        /// The slots of its edits, as far as they can be read: what is known of them is not certain.
        hit: Vec<Slot>,
        /// One of them says what the node is.
        node: bool,
        /// There may have been edits of others.
        unknown: bool,
    },
    /// A write that nobody was told of: a start cuts it.
    TornEnd {
        /// Where in the file.
        offset: u64,
        /// Up to the file's end.
        bytes: u64,
    },
}

/// Looks which file counts.
///
/// # Errors
/// `Io`.
pub fn folder(fs: &dyn Fs, dir: &Path) -> Result<Folder> {
    let mut out = Folder::default();
    let mut numbers = Vec::new();
    for entry in fs.list(dir).map_err(io_error(dir, "list"))? {
        let number: Option<u64> = entry.name.parse().ok().filter(|n| format!("{n:06}") == entry.name);
        match number {
            Some(number) if !entry.is_dir => numbers.push(number),
            _ if entry.name == "CURRENT" => {}
            _ if entry.name == "CURRENT.tmp" => out.others.push(entry.name),
            _ => out.strangers.push(entry.name),
        }
    }
    numbers.sort_unstable();
    let named = match named_by_current(fs, dir) {
        Ok(named) => named.filter(|number| numbers.contains(number)),
        Err(error) => {
            out.bad_current = Some(error);
            None
        }
    };
    let current = named.or_else(|| likely(fs, dir, &numbers));
    if named.is_none() && !numbers.is_empty() {
        let path = dir.join("CURRENT");
        out.bad_current
            .get_or_insert_with(|| Error::corrupt(&path, 0, "missing, or names a file that is not there"));
    }
    let others = numbers.iter().filter(|number| Some(**number) != current);
    out.others.extend(others.map(|number| format!("{number:06}")));
    out.current = current.map(|number| file_path(dir, number));
    Ok(out)
}

fn named_by_current(fs: &dyn Fs, dir: &Path) -> Result<Option<u64>> {
    let path = dir.join("CURRENT");
    if !fs.exists(&path).map_err(io_error(&path, "look for"))? {
        return Ok(None);
    }
    let bytes = read_all(fs, &path)?;
    let name = std::str::from_utf8(&bytes).ok().and_then(|line| line.split(' ').next()).unwrap_or_default();
    let number: u64 = name.parse().unwrap_or(0);
    if number == 0 || current_line(&file_path(dir, number)).as_bytes() != bytes {
        return Err(Error::corrupt(&path, 0, "does not name a manifest file"));
    }
    Ok(Some(number))
}

/// Which file `CURRENT` must have named. Where there are two, the newer one was begun as what the older one said
/// last; if the older one says something else now, then the newer one never counted.
fn likely(fs: &dyn Fs, dir: &Path, numbers: &[u64]) -> Option<u64> {
    let states = |number: u64| {
        let (mut first, mut frames) = (None, 0);
        let last = walk_states(fs, &file_path(dir, number), &mut |item, state| {
            if let Item::Frame { .. } | Item::Damage { .. } = item {
                frames += 1;
            }
            if frames == 1 {
                first = state.cloned();
            }
        });
        last.ok().flatten().map(|last| (first, last))
    };
    let (&newest, older) = numbers.split_last()?;
    let Some((first, _)) = states(newest) else { return likely(fs, dir, older) };
    match older.last().and_then(|&before| states(before).map(|(_, last)| (before, last))) {
        Some((before, last)) if first.as_ref() != Some(&last) => Some(before),
        _ => Some(newest),
    }
}

/// Gives everything in a manifest file to `see`; says what it adds up to, which is `None` if it does not begin with
/// a state.
///
/// # Errors
/// `Unusable` if it is of a newer format, `Io`. Damage is an [`Item`].
pub fn walk(fs: &dyn Fs, path: &Path, see: &mut dyn FnMut(Item<'_>)) -> Result<Option<State>> {
    walk_states(fs, path, &mut |item, _| see(item))
}

type See<'s> = &'s mut dyn FnMut(Item<'_>, Option<&State>);

fn walk_states(fs: &dyn Fs, path: &Path, see: See<'_>) -> Result<Option<State>> {
    let file = read_all(fs, path)?;
    let mut state: Option<State> = None;
    let mut at = 0;
    while at < file.len() {
        match frame::read_at(&file, at) {
            Found::Frame { body, len } => {
                let confirms = body.is_empty();
                see(Item::Frame { offset: at as u64, bytes: len as u64, confirms }, state.as_ref());
                take_edits(&mut state, body, at, path, see)?;
                at += len;
            }
            Found::Feature(bit) => return Err(features::refusal(path, bit)),
            Found::Newer(version) => return Err(newer(path, &format!("format version {version}"))),
            Found::Nothing => {
                let next = frame::next_after(&file, at);
                if next.is_none() && state.is_some() {
                    let bytes = (file.len() - at) as u64;
                    see(Item::TornEnd { offset: at as u64, bytes }, state.as_ref());
                    break;
                }
                let end = next.unwrap_or(file.len());
                let body = file.get(at + HEADER_BYTES..end).unwrap_or_default();
                let (edits, unknown) = salvage(body);
                let hit: BTreeSet<Slot> = edits.iter().filter_map(slot_of).collect();
                let what = match state {
                    Some(_) => "a frame of edits does not hold, but one after it does",
                    None => "the first frame, the whole state, does not hold",
                };
                let (offset, bytes) = (at as u64, (end - at) as u64);
                let hit = hit.into_iter().collect();
                let node = edits.iter().any(|edit| matches!(edit, Edit::Node(_)));
                see(Item::Damage { offset, bytes, what, hit, node, unknown }, state.as_ref());
                for edit in edits {
                    see(Item::SavedEdit(&edit), state.as_ref());
                    // A promise is believed only as it was given.
                    if !matches!(edit, Edit::LogSynced(_)) {
                        take_edit(&mut state, edit, at, see);
                    }
                }
                at = end;
            }
        }
    }
    if file.is_empty() {
        let what = "the first frame, the whole state, does not hold";
        see(Item::Damage { offset: 0, bytes: 0, what, hit: Vec::new(), node: true, unknown: true }, None);
    }
    Ok(state)
}

fn take_edits(
    state: &mut Option<State>,
    mut body: &[u8],
    at: usize,
    path: &Path,
    see: See<'_>,
) -> Result<()> {
    while !body.is_empty() {
        match edit::take(&mut body) {
            Ok(edit) => {
                see(Item::Edit(&edit), state.as_ref());
                take_edit(state, edit, at, see);
            }
            Err(BadEdit::Newer(number)) => return Err(newer(path, &format!("an edit of kind {number}"))),
            Err(BadEdit::Meaning) => {
                let what = "an edit has no meaning".to_owned();
                see(Item::BadEdit { offset: at as u64, slot: None, what }, state.as_ref());
                return Ok(());
            }
        }
    }
    Ok(())
}

fn take_edit(state: &mut Option<State>, edit: Edit, at: usize, see: See<'_>) {
    let bad = match (state.as_mut(), &edit) {
        (Some(state), _) => {
            let edits = [edit.clone()];
            let mut part = state.touched_by(&edits);
            part.fold(edit.clone()).map(|()| state.replace(part, &edits)).err()
        }
        (None, Edit::Node(node)) => {
            *state = Some(State { node: *node, ..State::new(node.node) });
            None
        }
        (None, _) => {
            // What the node is can be told from elsewhere.
            let mut fresh = State::new(NodeId([0; 20]));
            let bad = fresh.fold(edit.clone()).err();
            *state = Some(fresh);
            bad.or(Some("the state does not begin with the node".to_owned()))
        }
    };
    if let Some(what) = bad {
        see(Item::BadEdit { offset: at as u64, slot: slot_of(&edit), what }, state.as_ref());
    }
}

pub(super) fn slot_of(edit: &Edit) -> Option<Slot> {
    match edit {
        Edit::Slot(slot, _) | Edit::Runs { slot, .. } | Edit::Incoming(slot, _) => Some(*slot),
        _ => None,
    }
}

/// The edits that can be read in the body of a frame that does not hold, and whether there may have been others.
pub(super) fn salvage(mut body: &[u8]) -> (Vec<Edit>, bool) {
    let (mut edits, mut unknown) = (Vec::new(), false);
    while !body.is_empty() {
        let mut rest = body;
        match edit::take(&mut rest) {
            Ok(edit) => edits.push(edit),
            Err(_) => {
                unknown = true;
                // Its length may hold all the same.
                rest = body.get(1..).unwrap_or_default();
                if varint::take_slice(&mut rest).is_none() {
                    break;
                }
            }
        }
        body = rest;
    }
    (edits, unknown)
}
