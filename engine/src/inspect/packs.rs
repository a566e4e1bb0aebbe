//! Pack files against themselves and the manifest.

use std::collections::BTreeMap;
use std::path::Path;

use super::check::{Check, Depth};
use super::findings::Finding;
use crate::error::{Error, Result};
use crate::manifest::{Incoming, SlotState, State};
use crate::sst::inspect::{BlocksWanted, DirectoryEntry, Item, RunPlace, check_bytes, directory, walk_run};
use crate::sst::{FileNo, RunMeta, file_no_of, pack_path};
use crate::types::Slot;

/// Reads every run that the manifest refers to, and every pack's directory.
pub(super) fn check_packs(check: &mut Check<'_>, dir: &Path, state: Option<&State>) -> Result<()> {
    let mut live: BTreeMap<FileNo, Vec<&RunMeta>> = BTreeMap::new();
    for run in state.iter().flat_map(|state| state.runs()) {
        live.entry(run.file).or_default().push(run);
    }
    let incoming = state.iter().flat_map(|state| &state.slots).filter_map(|(slot, entry)| {
        entry.incoming.as_ref().map(|incoming| (incoming.file, (*slot, incoming)))
    });
    let incoming: BTreeMap<FileNo, (Slot, &Incoming)> = incoming.collect();
    let entries = check.fs.list(dir).map_err(|error| Error::io(dir, "list", &error))?;
    for entry in entries {
        let path = dir.join(&entry.name);
        match file_no_of(&entry.name).filter(|_| !entry.is_dir) {
            None => {
                let what = "not a file of this program: a start refuses; move it out of the data folder";
                check.see(&Finding::problem(&path, None, what));
            }
            Some(file) => match live.remove(&file) {
                Some(runs) => check_pack(check, &path, file, runs)?,
                None if incoming.contains_key(&file) => check_incoming(check, &path, incoming[&file]),
                None if state.is_none() => check_pack(check, &path, file, Vec::new())?,
                None => check.see(&Finding::note(&path, "nobody refers to it: the next start removes it")),
            },
        }
    }
    for (file, runs) in live {
        let path = pack_path(dir, file);
        for run in runs {
            check.lost_run(
                &Finding::problem(&path, run.offset, "the file is missing, and this run with it"),
                run,
            );
        }
    }
    state.into_iter().for_each(|state| check_slots(check, dir, state));
    Ok(())
}

/// What has come of a copy. Where it does not hold, nothing is lost: the source has it.
fn check_incoming(check: &mut Check<'_>, path: &Path, (slot, incoming): (Slot, &Incoming)) {
    check.see(&Finding::note(path, format!("holds what has come of slot {slot}'s copy")));
    if check.depth == Depth::Start {
        return;
    }
    for part in &incoming.parts {
        if let Err(error) = check_bytes(check.fs, path, part.offset, part.here, part.crc()) {
            let Finding { offset, what, .. } = Finding::of_error(&error);
            let what = format!("{what}: this copy begins anew");
            check.see(&Finding { offset, ..Finding::note(path, what) }.of_slot(slot));
        }
    }
}

fn check_pack(check: &mut Check<'_>, path: &Path, file: FileNo, mut runs: Vec<&RunMeta>) -> Result<()> {
    check.report.figures.packs += 1;
    match directory(check.fs, path) {
        Ok(found) => {
            let mut wrong = Vec::new();
            if found.file != file {
                wrong.push(format!("says that it is file {}", found.file.0));
            }
            for run in &runs {
                let entry =
                    DirectoryEntry { slot: run.props.slot, offset: run.offset, len: run.len, crc: run.crc };
                if !found.runs.contains(&entry) {
                    let slot = run.props.slot;
                    wrong.push(format!("its directory lacks the run of slot {slot} at byte {}", run.offset));
                }
            }
            let mut end = 0;
            for entry in &found.runs {
                if entry.offset != end {
                    wrong.push(format!("no run begins at byte {end}, where one ends"));
                }
                end = entry.offset + entry.len;
            }
            for what in wrong {
                check.see(&Finding::problem(path, None, what));
                check.damage().packs.insert(file);
            }
        }
        Err(error) => {
            let mut finding = Finding::of_error(&error);
            finding.what.push_str("; no entry is lost by it");
            check.see(&finding);
            check.damage().packs.insert(file);
        }
    }
    runs.sort_by_key(|run| run.offset);
    for pair in runs.windows(2) {
        if pair[0].offset + pair[0].len > pair[1].offset {
            check.lost_run(&Finding::problem(path, pair[1].offset, "two runs overlap here"), pair[1]);
        }
    }
    for run in runs {
        check_run(check, path, run)?;
    }
    Ok(())
}

fn check_run(check: &mut Check<'_>, path: &Path, run: &RunMeta) -> Result<()> {
    check.report.figures.runs += 1;
    let place = RunPlace { offset: run.offset, len: run.len, crc: run.crc };
    let blocks = if check.depth == Depth::Everything { BlocksWanted::Yes } else { BlocksWanted::No };
    let read = walk_run(check.fs, path, place, Some(&run.props), blocks, &mut |item| match item {
        Item::Block { block, .. } => {
            check.report.figures.blocks += 1;
            check.report.figures.entries += block.count() as u64;
        }
        Item::Fault { offset, what } => check.lost_run(&Finding::problem(path, offset, what), run),
        Item::Properties(_) | Item::Figures(_) => {}
    });
    match read {
        Err(error @ Error::Unusable { .. }) => Err(error),
        Err(error) => {
            check.lost_run(&Finding::of_error(&error), run);
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// What the manifest says of each slot against its runs.
fn check_slots(check: &mut Check<'_>, dir: &Path, state: &State) {
    for (&slot, entry) in &state.slots {
        let newest = entry.runs.first().map(|run| run.props.max_seq);
        let what = match newest {
            Some(_) if entry.meta.state == SlotState::Absent => {
                "it is not on this node, but has runs".to_owned()
            }
            Some(newest) if newest > entry.meta.flushed_seq => {
                let flushed = entry.meta.flushed_seq;
                format!("its runs hold records up to {newest}, the manifest says up to {flushed}")
            }
            _ => continue,
        };
        let finding = Finding::problem(dir, None, what).of_slot(slot);
        check.see(&finding);
        check.damage().lose(slot, &finding);
    }
}
