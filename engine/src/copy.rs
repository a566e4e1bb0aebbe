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
use crate::manifest::{Edit, Incoming, Manifest, Part, PartId, SUPERSEDED_MAX, SlotState};
use crate::planted::{self, Bug};
use crate::roles::edit_runs;
use crate::slot::{Role, SlotCell, earliest};
use crate::sst::{PackWriter, RUNS_MAX, Run, RunMeta};
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

    /// What is here of the copy that a slot waits for, and whose runs they are: with these the source need not begin
    /// anew. Nothing while an import is under way that has not been suspended.
    #[must_use]
    pub fn held_parts(&self, slot: Slot) -> Option<(NodeId, Vec<Part>)> {
        let manifest = self.manifest();
        let incoming = manifest.state().slots.get(&slot)?.incoming.as_ref()?;
        Some((incoming.source, incoming.parts.clone()))
    }

    /// Takes the runs of a copy from `source` for a slot that is loading; goes on with what is here of that node's.
    ///
    /// # Errors
    /// `Limit` if the slot is not loading.
    pub fn importer(&self, slot: Slot, source: NodeId) -> Result<CopyImport<'_>> {
        let incoming = {
            let manifest = self.manifest();
            manifest.state().slots.get(&slot).and_then(|entry| entry.incoming.clone())
        };
        let cell = self.lock(slot);
        if !matches!(cell.role, Role::Loading { .. }) {
            return Err(Error::Limit(format!("slot {slot} is not waiting for a copy")));
        }
        let life = cell.life;
        drop(cell);
        let resumed = incoming.filter(|incoming| incoming.source == source).and_then(|incoming| {
            let end = incoming.parts.last().map_or(0, |part| part.offset.saturating_add(part.here));
            let resumed = self.resume_pack(incoming.file, end);
            match resumed.and_then(|pack| check_parts(&pack, &incoming.parts).map(|()| pack)) {
                Ok(pack) => Some((pack, incoming.parts)),
                Err(error) => {
                    tracing::warn!(%slot, %error, "what was here of a copy is of no use");
                    None
                }
            }
        });
        let (pack, parts) = match resumed {
            Some(resumed) => resumed,
            None => (self.new_pack()?, Vec::new()),
        };
        Ok(CopyImport { engine: self, slot, life, source, pack, parts, wanted: Vec::new(), fresh_bytes: 0 })
    }
}

/// What is here has lain on the disk, for how long nobody knows: a flipped bit in it would be installed, though the source
/// has the run whole.
fn check_parts(pack: &PackWriter, parts: &[Part]) -> Result<()> {
    parts.iter().try_for_each(|part| pack.check_here(part.offset, part.here, part.crc()))
}

/// Which of the runs that are here is the run `of`, which comes as number `place`.
#[must_use]
pub fn place_of(here: &[PartId], of: PartId, place: usize) -> Option<usize> {
    if planted::is(Bug::PartsMistaken) {
        return (place < here.len()).then_some(place);
    }
    here.iter().position(|known| *known == of)
}

/// A run as the node that it lies on names it.
#[must_use]
pub fn part_id(run: &RunMeta) -> PartId {
    PartId { file: run.file, offset: run.offset, len: run.len, crc: run.crc }
}

impl Part {
    /// Whether all of the run is here.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.here == self.of.len
    }

    /// The checksum of what is here of it.
    #[must_use]
    pub fn crc(&self) -> u32 {
        if self.is_whole() { self.of.crc } else { self.crc_here }
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
/// What has come is made durable every [`Options::copy_durable_bytes`](crate::engine::Options) and when it is
/// suspended: a copy from the same node goes on from there, after a restart too. Dropped before, it leaves what was
/// durable.
pub struct CopyImport<'e> {
    engine: &'e Engine,
    slot: Slot,
    life: u64,
    source: NodeId,
    pack: PackWriter,
    /// What is in the file, in its order. All but the last are whole.
    parts: Vec<Part>,
    /// Those of which the copy consists.
    wanted: Vec<usize>,
    /// Bytes that came since what is here was last made durable.
    fresh_bytes: u64,
}

impl CopyImport<'_> {
    /// Begins the run `of`, of which `from` bytes are here.
    ///
    /// # Errors
    /// `Limit` if it is not so; `Corrupt`, `Io`: the import is of no more use.
    pub fn begin_run(&mut self, of: PartId, from: u64) -> Result<()> {
        let slot = self.slot;
        let known: Vec<PartId> = self.parts.iter().map(|part| part.of).collect();
        let found = place_of(&known, of, self.wanted.len());
        let here = found.map_or(0, |index| self.parts[index].here);
        if !planted::is(Bug::PartsMistaken) && (here != from || from > of.len) {
            return Err(Error::Limit(format!(
                "the copy of slot {slot} goes on after {from} bytes of a run of which {here} of {} are here",
                of.len
            )));
        }
        if self.wanted.len() >= RUNS_MAX || found.is_some_and(|index| self.wanted.contains(&index)) {
            return Err(Error::Limit(format!(
                "the copy of slot {slot} has too many runs, or one of them twice"
            )));
        }
        if let Some(index) = found {
            let Part { of, offset, crc_here, .. } = self.parts[index];
            self.wanted.push(index);
            if self.parts[index].is_whole() {
                return self.pack.adopt_import(offset, of.len, of.crc);
            }
            self.pack.resume_import(offset, crc_here, of.len, of.crc);
            return Ok(());
        }
        if let Some(part) = self.parts.last().copied().filter(|part| !part.is_whole()) {
            // A run that the copy has no more: what comes is written over it.
            self.parts.pop();
            self.pack.cut(part.offset);
        }
        self.wanted.push(self.parts.len());
        self.parts.push(Part { of, offset: self.pack.len(), here: 0, crc_here: 0 });
        self.pack.begin_import(of.len, of.crc);
        Ok(())
    }

    /// The run's next bytes.
    ///
    /// # Errors
    /// `Io`, or `Limit` if there are more than the run has: the import is of no more use.
    pub fn chunk(&mut self, bytes: &[u8]) -> Result<()> {
        let open = self.pack.is_importing();
        let room = |part: &&mut Part| open && part.of.len - part.here >= bytes.len() as u64;
        let part = self.parts.last_mut().filter(room);
        let Some(part) = part else {
            return Err(Error::Limit(format!(
                "a run of slot {}'s copy is longer than it was said",
                self.slot
            )));
        };
        part.here += bytes.len() as u64;
        self.pack.import(bytes)?;
        self.fresh_bytes += bytes.len() as u64;
        if self.fresh_bytes >= self.engine.options().copy_durable_bytes {
            self.make_durable()
        } else {
            Ok(())
        }
    }

    /// Checks the run that was begun.
    ///
    /// # Errors
    /// `Corrupt` if it is not what was sent, or not this slot's: the import is of no more use.
    pub fn end_run(&mut self) -> Result<()> {
        if self.pack.is_importing() {
            self.pack.end_import()?;
        }
        let slot = self.slot;
        match self.pack.runs().last().map(|meta| meta.props.slot) {
            Some(of) if of == slot => Ok(()),
            of => Err(Error::Limit(format!("the copy of slot {slot} has a run of another slot, {of:?}"))),
        }
    }

    /// Makes what has come durable and says so in the manifest.
    fn make_durable(&mut self) -> Result<()> {
        let (here, crc_here) = self.pack.suspend()?;
        if let Some(part) = self.parts.last_mut().filter(|_| self.pack.is_importing()) {
            (part.here, part.crc_here) = (here, crc_here);
        }
        let mut manifest = self.engine.manifest();
        {
            let cell = self.engine.lock(self.slot);
            if cell.life != self.life || !matches!(cell.role, Role::Loading { .. }) {
                return Err(Error::Limit(format!(
                    "slot {} began another life while its copy came",
                    self.slot
                )));
            }
        }
        let incoming = Incoming { file: self.pack.file_no(), source: self.source, parts: self.parts.clone() };
        self.engine.apply(&mut manifest, &[Edit::Incoming(self.slot, Some(incoming))])?;
        self.pack.keep();
        self.fresh_bytes = 0;
        drop(manifest);
        self.engine.sweep_files()
    }

    /// Keeps what has come, for a copy from the same node that goes on.
    ///
    /// # Errors
    /// `Io`, or `Limit` if the slot has begun another life: what was durable before is what is left, if anything.
    pub fn suspend(mut self) -> Result<()> {
        if self.fresh_bytes > 0 { self.make_durable() } else { Ok(()) }
    }

    /// Gives up what has come: it is of no use.
    ///
    /// # Errors
    /// `Io`: it is tried out again by the next copy, and given up then.
    pub fn discard(self) -> Result<()> {
        let CopyImport { engine, slot, pack, .. } = self;
        drop(pack);
        let mut manifest = engine.manifest();
        if manifest.state().slots.get(&slot).is_some_and(|entry| entry.incoming.is_some()) {
            engine.apply(&mut manifest, &[Edit::Incoming(slot, None)])?;
        }
        drop(manifest);
        engine.sweep_files()
    }

    /// Installs the runs beneath everything that came since: the slot has complete data from here on.
    ///
    /// # Errors
    /// `Io`, or `Limit` if the slot has begun another life meanwhile: nothing has changed then.
    pub fn finish(self) -> Result<()> {
        let CopyImport { engine, slot, life, pack, .. } = self;
        let runs: Vec<RunMeta> = pack.finish()?;
        let mut manifest = engine.manifest();
        engine.packs().adopt(&runs);
        let refuse = |why: String| {
            engine.packs().release(&runs);
            Err(Error::Limit(why))
        };
        let (mut meta, cleared, base) = {
            let cell = engine.lock(slot);
            if cell.life != life && !planted::is(Bug::FormerLifeCopied) {
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
