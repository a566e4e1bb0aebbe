//! Verifies a whole store: every frame and record of the log, each slot's seqs, every block, index, filter and count of
//! its runs, the manifest, and whether they agree. Read-only; memory is bounded by one segment of the log and one run's
//! index and filter.

use std::path::Path;

use super::findings::{Damage, Finding, Report, Weight};
use super::{hold, log, marker, packs};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::log::inspect::folder as log_folder;
use crate::manifest::inspect::{Item, folder, walk};
use crate::manifest::{Edit, SlotState, State};
use crate::recover::Folders;
use crate::sst::RunMeta;
use crate::types::{Lsn, NodeId};

/// How much is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Depth {
    /// All of it.
    Everything,
    /// What a start reads: everything but the blocks of runs.
    Start,
}

/// A check under way.
pub(super) struct Check<'f> {
    pub(super) fs: &'f dyn Fs,
    pub(super) depth: Depth,
    /// Whose store it is, if that is known.
    pub(super) node: Option<NodeId>,
    /// Where a repair that was cut short wants the log to begin anew.
    pub(super) repair_began_log_at: Option<Lsn>,
    pub(super) report: Report,
    tell: &'f mut dyn FnMut(&Finding),
}

impl Check<'_> {
    pub(super) fn see(&mut self, finding: &Finding) {
        match finding.weight {
            Weight::Problem => self.report.problems += 1,
            Weight::Note => self.report.notes += 1,
        }
        (self.tell)(finding);
    }

    pub(super) fn damage(&mut self) -> &mut Damage {
        &mut self.report.damage
    }

    /// A problem that makes a run useless, and its slot with it.
    pub(super) fn lost_run(&mut self, finding: &Finding, run: &RunMeta) {
        let props = &run.props;
        let finding = finding.clone().of_seqs(props.slot, props.min_seq, props.max_seq);
        self.see(&finding);
        self.damage().lose(props.slot, &finding);
    }
}

/// Verifies the store in a folder and tells everything that it finds, in the order in which it finds it.
///
/// # Errors
/// `Unusable` if a node runs in it, if it is no store, or if it is of a newer format; `Io` if folders can't be listed. What
/// does not hold is a finding.
pub fn check(fs: &dyn Fs, dir: &Path, depth: Depth, tell: &mut dyn FnMut(&Finding)) -> Result<Report> {
    let _held = hold(fs, dir)?;
    check_held(fs, dir, depth, tell).map(|(report, _)| report)
}

/// As [`check`], by whom nobody else can disturb; gives what the manifest says too.
pub(crate) fn check_held(
    fs: &dyn Fs,
    dir: &Path,
    depth: Depth,
    tell: &mut dyn FnMut(&Finding),
) -> Result<(Report, Option<State>)> {
    let folders = Folders::of(dir);
    for (path, name) in [(&folders.manifest, "manifest"), (&folders.log, "log"), (&folders.data, "data")] {
        if !fs.exists(path).map_err(|error| Error::io(path, "look for", &error))? {
            let why = format!("not a data folder: there is no folder `{name}` in it");
            return Err(Error::Unusable { path: dir.to_owned(), why });
        }
    }
    let repair_began_log_at = marker::read(fs, dir)?;
    let mut check = Check { fs, depth, node: None, repair_began_log_at, report: Report::default(), tell };
    check_lock(&mut check, dir)?;
    let state = check_manifest(&mut check, &folders)?;
    check.node = state.as_ref().map(|state| state.node.node);
    packs::check_packs(&mut check, &folders.data, state.as_ref())?;
    log::check_log(&mut check, &folders.log, state.as_ref())?;
    Ok((check.report, state))
}

/// A folder can be locked for reading, but not as a start locks its file.
fn check_lock(check: &mut Check<'_>, dir: &Path) -> Result<()> {
    let entries = check.fs.list(dir).map_err(|error| Error::io(dir, "list", &error))?;
    if entries.iter().any(|entry| entry.name == "LOCK" && entry.is_dir) {
        let what = "a folder in the place of the file that a start locks: move it away";
        check.see(&Finding::problem(&dir.join("LOCK"), None, what));
    }
    Ok(())
}

fn check_manifest(check: &mut Check<'_>, folders: &Folders) -> Result<Option<State>> {
    let dir = &folders.manifest;
    let found = folder(check.fs, dir)?;
    if let Some(error) = &found.bad_current {
        check.see(&Finding::of_error(error));
        check.damage().manifest = true;
    }
    for name in &found.others {
        check.see(&Finding::note(&dir.join(name), "not the manifest that counts: the next start removes it"));
    }
    for name in &found.strangers {
        check.see(&Finding::note(&dir.join(name), "not a file of a manifest: nobody reads it"));
    }
    let Some(path) = found.current else {
        if found.bad_current.is_none() {
            let what = "there is no manifest: nothing tells which files make up which slot";
            check.see(&Finding::problem(&dir.join("CURRENT"), None, what));
            check.damage().manifest = true;
        }
        return Ok(None);
    };
    let mut hit = Vec::new();
    // What the manifest says of the node itself was in a frame that does not hold.
    let mut node_in_doubt = false;
    let mut state = walk(check.fs, &path, &mut |item| match item {
        Item::Damage { offset, bytes, what, hit: slots, node, unknown } => {
            node_in_doubt |= node || unknown;
            let finding = Finding::problem(&path, offset, format!("{bytes} bytes: {what}"));
            check.see(&finding);
            check.damage().manifest = true;
            hit.push((slots, unknown, finding));
        }
        Item::BadEdit { offset, slot, what } => {
            let finding = Finding { slot, ..Finding::problem(&path, offset, what) };
            check.see(&finding);
            check.damage().manifest = true;
            match slot {
                Some(slot) => check.damage().lose(slot, &finding),
                None => hit.push((Vec::new(), true, finding)),
            }
        }
        Item::TornEnd { offset, bytes } => {
            let what = format!(
                "{bytes} bytes from byte {offset} on are a write that was never finished and that nobody was told of: \
                 the next start cuts them"
            );
            check.see(&Finding::note(&path, what));
        }
        Item::Edit(Edit::Node(_)) => node_in_doubt = false,
        Item::Edit(_) | Item::SavedEdit(_) | Item::Frame { .. } => {}
    })?;
    if node_in_doubt && let Some(state) = &mut state {
        distrust_node(check.fs, folders, state)?;
    }
    for (slots, unknown, finding) in hit {
        let present = state.iter().flat_map(|state| &state.slots);
        let present =
            present.filter(|(_, entry)| entry.meta.state != SlotState::Absent).map(|(slot, _)| *slot);
        let all: Vec<_> = if unknown { present.chain(slots).collect() } else { slots };
        for slot in all {
            let what = "what the manifest says of it may not be all of it".to_owned();
            let finding = Finding { what, ..finding.clone() }.of_slot(slot);
            if !check.damage().doubtful.contains_key(&slot) {
                check.see(&finding);
            }
            check.damage().doubt(slot, &finding);
        }
    }
    Ok(state)
}

/// What the manifest says of the node may be wrong: the whole log is read, and tells whose it is.
fn distrust_node(fs: &dyn Fs, folders: &Folders, state: &mut State) -> Result<()> {
    let log = log_folder(fs, &folders.log, None)?;
    if let Some(first) = log.segments.first() {
        state.node.node = first.header.node;
        state.node.log_start = first.header.base;
    }
    state.node.clean_end = None;
    // The log's frames tell how often it started.
    state.node.incarnation = 1;
    Ok(())
}
