//! A whole slot from one node to another: its runs as they lie on disk, from the record up to which they hold
//! everything; the log brings the rest.
//!
//! The source takes pointers under the slot's lock and copies nothing; whoever ships the copy has pinned the log
//! before ([`Engine::pin`]), so that what follows the runs is still there when they have arrived. The receiver
//! takes records from then on at once, into memtables and newer runs, while the older runs still come.

use crate::clock::TimeMs;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::history::History;
use crate::manifest::{Edit, Manifest, SUPERSEDED_MAX, SlotState};
use crate::planted::{self, Bug};
use crate::roles::edit_runs;
use crate::slot::{Role, SlotCell, earliest};
use crate::sst::{PackWriter, Run, RunMeta};
use crate::sync::Arc;
use crate::types::{NodeId, Seq, Slot};

/// What a copy of a slot consists of, at the moment it was taken.
#[derive(Debug)]
pub struct CopySource {
    /// The epochs up to `seq`.
    pub history: History,
    /// The runs hold exactly the records up to here.
    pub seq: Seq,
    /// How many keys there were at `seq`.
    pub keys: u64,
    /// The slot's time.
    pub time: TimeMs,
    /// To whom the record `seq` grants the slot, if it does.
    pub granted: Option<(NodeId, String)>,
    /// The runs, newest first. They stay readable for as long as this value lives.
    pub runs: Vec<Arc<Run>>,
    /// Bytes of all runs.
    pub bytes: u64,
}

/// What a receiver has to know before a copy comes.
#[derive(Clone, Debug)]
pub struct Load {
    /// Which slot.
    pub slot: Slot,
    /// The source's epochs up to `base`.
    pub history: History,
    /// The runs that come hold exactly the records up to here.
    pub base: Seq,
    /// How many keys they hold.
    pub keys: u64,
    /// The slot's time at the source.
    pub time: TimeMs,
    /// To whom the record `base` grants the slot, if it does: that record itself does not come.
    pub granted: Option<(NodeId, String)>,
    /// No runs come: the log brings everything.
    pub complete: bool,
}

impl Engine {
    /// Takes a copy of a slot, by reference.
    ///
    /// # Errors
    /// `Limit` if the slot has no complete data here.
    pub fn copy_source(&self, slot: Slot) -> Result<CopySource> {
        let cell = self.lock(slot);
        if matches!(cell.role, Role::Absent | Role::Loading { .. }) {
            return Err(Error::Limit(format!("slot {slot} has no complete data here")));
        }
        let seq = cell.flushed_seq;
        let runs = cell.version.runs().to_vec();
        Ok(CopySource {
            history: cell.history.up_to(seq),
            seq,
            keys: cell.flushed_keys,
            time: cell.time,
            granted: cell.flushed_granted.clone(),
            bytes: cell.version.disk_bytes(),
            runs,
        })
    }

    /// Makes room for copies: what the slots had is gone, their histories become the source's, and records after
    /// `base` may be appended at once. One durable step for all.
    ///
    /// # Errors
    /// `Limit` if a slot follows nobody; nothing has changed then.
    pub fn start_loading(&self, loads: &[Load]) -> Result<()> {
        let mut manifest = self.manifest();
        // No record of the old life may come to lie behind the position where the new one begins.
        loads.iter().for_each(|load| self.lock(load.slot).ending = true);
        let loaded = self.load(&mut manifest, loads);
        if loaded.is_err() {
            loads.iter().for_each(|load| self.lock(load.slot).ending = false);
        }
        drop(manifest);
        self.role_changes().notify();
        loaded.and_then(|()| self.sweep_files())
    }

    fn load(&self, manifest: &mut Manifest, loads: &[Load]) -> Result<()> {
        let base_lsn = self.durable_end()?;
        let mut edits = Vec::new();
        let mut cells = Vec::new();
        for load in loads {
            if cells.iter().any(|(slot, _)| *slot == load.slot) {
                return Err(Error::Limit(format!("slot {} is to be loaded twice at once", load.slot)));
            }
            let cell = self.lock(load.slot);
            let (Role::Replica { upstream } | Role::Loading { upstream }) = cell.role.clone() else {
                return Err(Error::Limit(format!("slot {} follows nobody here", load.slot)));
            };
            let role = if load.complete { Role::Replica { upstream } } else { Role::Loading { upstream } };
            let highest = load.history.current().map_or(0, |epoch| epoch.term);
            let fresh = SlotCell {
                role,
                history: load.history.clone(),
                superseded: superseded(&cell, &load.history),
                settled: cell.settled.clone(),
                highest_term: cell.highest_term.max(highest),
                last_seq: load.base,
                flushed_seq: load.base,
                base_seq: load.base,
                base_lsn,
                role_lsn: base_lsn,
                time: load.time,
                kept_time: load.time,
                keys: load.keys,
                flushed_keys: load.keys,
                granted: load.granted.clone(),
                flushed_granted: load.granted.clone(),
                ..SlotCell::default()
            };
            edits.push(Edit::Slot(load.slot, Box::new(fresh.meta())));
            edits.push(edit_runs(load.slot, &[], &cell.version.metas()));
            cells.push((load.slot, fresh));
        }
        self.apply(manifest, &edits)?;
        cells.into_iter().for_each(|(slot, fresh)| self.replace_cell(slot, fresh));
        Ok(())
    }

    /// Takes the runs of a copy for a slot that is loading.
    ///
    /// # Errors
    /// `Limit` if the slot is not loading.
    pub fn importer(&self, slot: Slot) -> Result<CopyImport<'_>> {
        let cell = self.lock(slot);
        if !matches!(cell.role, Role::Loading { .. }) {
            return Err(Error::Limit(format!("slot {slot} is not waiting for a copy")));
        }
        let life = cell.life;
        drop(cell);
        Ok(CopyImport { engine: self, slot, life, pack: self.new_pack()? })
    }
}

/// Whether two runs of a slot claim the same record: bytes from a network may claim anything.
fn overlap(runs: &[RunMeta]) -> bool {
    let mut spans: Vec<_> = runs.iter().map(|run| (run.props.min_seq, run.props.max_seq)).collect();
    spans.sort_unstable();
    spans.windows(2).any(|pair| pair[1].0 <= pair[0].1)
}

/// The epochs that a downstream replica may still be in: those known before and those that `new` lacks.
fn superseded(cell: &SlotCell, new: &History) -> Vec<crate::types::Epoch> {
    let lost = cell.history.starts().iter().map(|start| start.epoch);
    let mut all: Vec<_> = cell.superseded.iter().copied().chain(lost).collect();
    all.retain(|epoch| !new.starts().iter().any(|start| start.epoch == *epoch));
    let surplus = all.len().saturating_sub(SUPERSEDED_MAX);
    all.drain(..surplus);
    all
}

/// The receiving end of a copy: takes the runs in any order, then installs them all with one durable step.
///
/// Dropped before [`CopyImport::finish`] it leaves nothing behind.
pub struct CopyImport<'e> {
    engine: &'e Engine,
    slot: Slot,
    life: u64,
    pack: PackWriter,
}

impl CopyImport<'_> {
    /// Begins a run of `len` bytes with this checksum: both are the source's, from its [`RunMeta`].
    pub fn begin_run(&mut self, len: u64, crc: u32) {
        self.pack.begin_import(len, crc);
    }

    /// The run's next bytes.
    ///
    /// # Errors
    /// `Io`: the import is of no more use.
    pub fn chunk(&mut self, bytes: &[u8]) -> Result<()> {
        self.pack.import(bytes)
    }

    /// Checks the run that was begun.
    ///
    /// # Errors
    /// `Corrupt` if it is not what was sent, or not this slot's: the import is of no more use.
    pub fn end_run(&mut self) -> Result<()> {
        let meta = self.pack.end_import()?;
        if meta.props.slot != self.slot {
            return Err(Error::Limit(format!(
                "the copy of slot {} has a run of slot {}",
                self.slot, meta.props.slot
            )));
        }
        Ok(())
    }

    /// Installs the runs beneath everything that came since: the slot has complete data from here on.
    ///
    /// # Errors
    /// `Io`, or `Limit` if the slot has begun another life meanwhile: nothing has changed then.
    pub fn finish(self) -> Result<()> {
        let CopyImport { engine, slot, life, pack } = self;
        let runs: Vec<RunMeta> = pack.finish()?;
        let mut manifest = engine.manifest();
        engine.packs().adopt(&runs);
        let refuse = |why: String| {
            engine.packs().release(&runs);
            Err(Error::Limit(why))
        };
        let (mut meta, cleared, base) = {
            let cell = engine.lock(slot);
            if cell.life != life {
                drop(cell);
                return refuse(format!("slot {slot} began another life while its copy came"));
            }
            (cell.meta(), cell.cleared_while_loading, cell.base_seq)
        };
        if let Some(run) = runs.iter().find(|run| run.props.max_seq > base) {
            let max = run.props.max_seq;
            return refuse(format!(
                "the copy of slot {slot} goes up to {max}, it was announced up to {base}"
            ));
        }
        if overlap(&runs) {
            return refuse(format!("the copy of slot {slot} has runs that overlap"));
        }
        let SlotState::Loading { upstream } = meta.state else {
            return refuse(format!("slot {slot} is not waiting for a copy"));
        };
        meta.state = SlotState::Replica { upstream };
        let mut edits = vec![Edit::Slot(slot, Box::new(meta.clone()))];
        if cleared {
            // The copy is dropped for a record that must not be lost after it.
            if let Err(error) = engine.durable_end() {
                engine.packs().release(&runs);
                return Err(error);
            }
        }
        // What a clear has removed since the copy was taken does not come back.
        let kept: &[RunMeta] = if cleared && !planted::is(Bug::ClearLostInCopy) { &[] } else { &runs };
        if !kept.is_empty() {
            edits.push(edit_runs(slot, kept, &[]));
        }
        let opened = kept.iter().map(|run| engine.packs().open_run(run)).collect::<Result<Vec<Arc<Run>>>>();
        let applied = opened.and_then(|opened| engine.apply(&mut manifest, &edits).map(|()| opened));
        let opened = applied.inspect_err(|error| engine.give_up(&runs, error))?;
        {
            let mut cell = engine.lock(slot);
            cell.version = Arc::new(cell.version.edited(&opened, &[]));
            cell.next_expiry = earliest(cell.next_expiry, cell.version.min_expiry());
            cell.role = Role::from_state(&meta.state);
        }
        if cleared && !planted::is(Bug::ClearLostInCopy) {
            engine.packs().release(&runs);
        }
        drop(manifest);
        engine.role_changes().notify();
        engine.sweep_files()
    }
}
