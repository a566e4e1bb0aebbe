//! `haypile repair DIR --slots GROUP`: gives up these slots, keeps all others, asks first.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use haypile_engine::fs::Fs;
use haypile_engine::inspect::Finding;
use haypile_engine::manifest::SlotState;
use haypile_engine::repair::{Done, Doubtful, GivenUp, Repair};
use haypile_engine::types::Slot;

use super::{FAILED, FINE, Failure, within};
use crate::slot_group;

/// What whoever was asked says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Do it.
    Yes,
    /// Leave everything as it is.
    No,
    /// There is nobody to ask.
    Nobody,
}

/// What to repair, and how.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// The slots to give up.
    pub slots: &'a [Slot],
    /// What becomes of slots that may or may not be whole.
    pub doubtful: Doubtful,
}

/// Shows what will be lost, asks, and does it; the exit status. Called with the question once everything that it is
/// about was written to `out`.
///
/// # Errors
/// If it could not be done: nothing has changed, or it can be run again.
pub fn repair(
    fs: &Arc<dyn Fs>,
    dir: &Path,
    wanted: &Wanted<'_>,
    out: &mut dyn Write,
    ask: &mut dyn FnMut(&str) -> Answer,
) -> Result<u8, Failure> {
    let mut written = Ok(());
    let repair = Repair::plan(Arc::clone(fs), dir, wanted.slots, wanted.doubtful, &mut |finding| {
        if written.is_ok() {
            let finding = Finding { path: within(dir, &finding.path), ..finding.clone() };
            written = writeln!(out, "{finding}");
        }
    });
    written?;
    out.flush()?;
    let repair = repair?;
    if repair.is_needless() {
        writeln!(out, "nothing to repair: no problem was found, and no slot of this node was named")?;
        return Ok(FINE);
    }
    show_plan(dir, &repair, out)?;
    out.flush()?;
    match ask("Do it? Type yes: ") {
        Answer::Yes => {}
        Answer::No => {
            writeln!(out, "left as it was")?;
            return Ok(FAILED);
        }
        Answer::Nobody => {
            writeln!(
                out,
                "left as it was: there is no terminal to ask at; to do it without asking, add --yes"
            )?;
            return Ok(FAILED);
        }
    }
    let Done { trash, records, runs } = repair.run()?;
    writeln!(
        out,
        "repaired: {records} records of slots that stay were brought from the log into files, {runs} runs were written anew"
    )?;
    if !trash.is_empty() {
        writeln!(out, "in {}, to be removed once nobody wants them:", dir.join("trash").display())?;
        for path in trash {
            writeln!(out, "  {}", path.display())?;
        }
    }
    Ok(FINE)
}

fn show_plan(dir: &Path, repair: &Repair, out: &mut dyn Write) -> std::io::Result<()> {
    if repair.gives_up().is_empty() {
        writeln!(out, "no slot will be given up")?;
    }
    for GivenUp { slot, state, flushed_seq, keys, bytes, why } in repair.gives_up() {
        let role = match state {
            SlotState::Absent => "absent".to_owned(),
            SlotState::Master => "master".to_owned(),
            SlotState::Replica { upstream } => format!("replica of {upstream}"),
            SlotState::Loading { upstream } => format!("loading from {upstream}"),
            SlotState::Moved { to } => format!("moved to {to}"),
        };
        writeln!(
            out,
            "slot {slot} ({role}) will be given up: {keys} keys in {bytes} bytes up to seq {flushed_seq}, and what the log has of it"
        )?;
        match why {
            Some(why) => writeln!(out, "  damaged: {why}")?,
            None => writeln!(out, "  nothing is damaged of it")?,
        }
    }
    if !repair.kept_doubtful().is_empty() {
        let group = slot_group::show(repair.kept_doubtful());
        writeln!(
            out,
            "slots {group} stay as far as they are there; their newest writes may be missing, and their roles may be old:"
        )?;
        writeln!(out, "  look at PKCLUSTER INFO TABLE before clients are let in")?;
    }
    for path in repair.drops_segments() {
        let path = within(dir, &path);
        writeln!(
            out,
            "{} goes, after what it holds of slots that stay was brought into files",
            path.display()
        )?;
    }
    Ok(())
}
