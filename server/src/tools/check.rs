//! `haypile check DIR`: verifies everything; a line each problem, a summary at the end.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Write};
use std::path::Path;

use haypile_engine::error::Error;
use haypile_engine::fs::Fs;
use haypile_engine::inspect::{self, Damage, Depth, Figures, Finding, Report};
use haypile_engine::types::Slot;

use super::{DAMAGED, FINE, Failure, within};
use crate::scripting::functions;
use crate::slot_group;

/// Verifies the store in `dir`; the exit status.
///
/// # Errors
/// If it could not be verified.
pub fn check(fs: &dyn Fs, dir: &Path, out: &mut dyn Write) -> Result<u8, Failure> {
    let mut written = Ok(());
    let mut report = inspect::check(fs, dir, Depth::Everything, &mut |finding| {
        if written.is_ok() {
            let finding = Finding { path: within(dir, &finding.path), ..finding.clone() };
            written = writeln!(out, "{finding}");
        }
    })?;
    written?;
    if let Err(why) = functions::check(fs, dir) {
        report.problems += 1;
        writeln!(
            out,
            "{}: {why}: no library of functions is there until all are loaded again",
            functions::FILE
        )?;
    }
    write!(out, "{}", Remedy { dir, damage: &report.damage })?;
    writeln!(out, "{}", Summary(&report))?;
    Ok(if report.problems == 0 { FINE } else { DAMAGED })
}

/// What a start that met damage adds to its error: what is damaged, and what to type. Nothing if it met something else.
pub fn advice(fs: &dyn Fs, dir: &Path, error: &Error) -> String {
    let missing = |kind: &ErrorKind| *kind == ErrorKind::NotFound;
    if !matches!(error, Error::Corrupt { .. }) && !matches!(error, Error::Io { kind, .. } if missing(kind)) {
        return String::new();
    }
    let look = format!("to see all that is damaged: haypile check {}", dir.display());
    match inspect::check(fs, dir, Depth::Start, &mut |_| {}) {
        Ok(report) => format!("\n{}{look}", Remedy { dir, damage: &report.damage }),
        Err(_) => format!("\n{look}"),
    }
}

/// The last line.
struct Summary<'r>(&'r Report);

impl std::fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Figures { segments, frames, records, packs, runs, blocks, entries, slots } = self.0.figures;
        write!(
            f,
            "checked {slots} slots: {segments} log segments ({frames} frames, {records} records), {packs} pack files \
             ({runs} runs, {blocks} blocks, {entries} entries): "
        )?;
        match self.0.problems {
            0 => f.write_str("no problem"),
            1 => f.write_str("1 problem"),
            more => write!(f, "{more} problems"),
        }
    }
}

/// What to type if a store is damaged.
pub(super) struct Remedy<'r> {
    pub(super) dir: &'r Path,
    pub(super) damage: &'r Damage,
}

impl std::fmt::Display for Remedy<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Damage { lost, doubtful, log_through, packs, manifest } = self.damage;
        let group = |slots: Vec<&Slot>| slot_group::show(&slots.into_iter().copied().collect::<Vec<_>>());
        let dir = self.dir.display();
        let lost_group = if lost.is_empty() { "none".to_owned() } else { group(lost.keys().collect()) };
        if !lost.is_empty() {
            writeln!(f, "lost: slots {lost_group}; their data is not whole on this node")?;
        }
        let doubtful: Vec<&Slot> = doubtful.keys().filter(|slot| !lost.contains_key(slot)).collect();
        if !doubtful.is_empty() {
            writeln!(f, "in doubt: slots {}; nothing tells whether they are whole", group(doubtful.clone()))?;
        }
        if lost.is_empty() && log_through.is_none() && packs.is_empty() && !manifest {
            return Ok(());
        }
        if doubtful.is_empty() {
            return writeln!(f, "to repair it: haypile repair {dir} --slots {lost_group}");
        }
        let all: BTreeSet<&Slot> = lost.keys().chain(doubtful).collect();
        writeln!(
            f,
            "to repair it, giving them up: haypile repair {dir} --slots {}",
            group(all.into_iter().collect())
        )?;
        writeln!(
            f,
            "or, keeping what is there of those in doubt: haypile repair {dir} --slots {lost_group} --keep-doubtful"
        )
    }
}
