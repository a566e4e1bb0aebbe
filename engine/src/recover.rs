//! Opening a store: the manifest says which files make each slot, the log brings what came after.
//!
//! Killed at any step it starts over with the same result: the first durable change is a new incarnation, and
//! everything after it is either a replay or a step that is repeated if it is not found done.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::background::Job;
use crate::clock::{Clock, TimeMs};
use crate::engine::{Engine, Opened, Options, Parts};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::log::record::{Body, Record};
use crate::log::{Log, LogOptions, RecordAt, Start};
use crate::manifest::{Edit, Manifest, NodeMeta, SlotMeta, SlotState, State};
use crate::planted::{self, Bug};
use crate::random::Random;
use crate::registry::Registry;
use crate::replay;
use crate::replica::{self, Wrong};
use crate::roles;
use crate::slot::{NOBODY, Role, SlotCell};
use crate::sst::Packs;
use crate::sync::Mutex;
use crate::types::{Lsn, NodeId, SLOT_COUNT, Slot};
use crate::version::Version;

/// The folders of a store.
pub(crate) struct Folders {
    pub log: PathBuf,
    pub data: PathBuf,
    pub manifest: PathBuf,
}

impl Folders {
    pub(crate) fn of(dir: &Path) -> Folders {
        Folders { log: dir.join("log"), data: dir.join("data"), manifest: dir.join("manifest") }
    }
}

/// The slots while the log is replayed onto them.
pub(crate) struct Replayed {
    /// Behind the locks that they will have: moving so many costs more than replaying a short log.
    pub(crate) cells: Vec<Mutex<SlotCell>>,
    /// This node began an epoch of the slot after its role was last persisted: it is the master.
    pub(crate) began_epoch: Vec<bool>,
}

impl Replayed {
    /// No slot is here.
    pub(crate) fn empty() -> Replayed {
        let cells = (0..SLOT_COUNT).map(|_| Mutex::new(SlotCell::default())).collect();
        Replayed { cells, began_epoch: vec![false; usize::from(SLOT_COUNT)] }
    }

    /// A slot, and whether this node began an epoch of it after its role was last persisted.
    pub(crate) fn slot(&mut self, slot: Slot) -> (&mut SlotCell, &mut bool) {
        let cell = self.cells[slot.index()].get_mut().expect("nobody has locked it yet");
        (cell, &mut self.began_epoch[slot.index()])
    }
}

impl Engine {
    pub(crate) fn recover(
        fs: Arc<dyn Fs>,
        dir: &Path,
        clock: Arc<dyn Clock>,
        options: Options,
    ) -> Result<(Engine, Opened)> {
        let (started, now) = (clock.monotonic(), clock.wall());
        let random = Random::new(options.seed);
        make_durably(&*fs, dir)?;
        let lock = lock_folder(&*fs, dir)?;
        let folders = Folders::of(dir);
        for folder in [&folders.log, &folders.data, &folders.manifest] {
            fs.create_dir_all(folder).map_err(|error| Error::io(folder, "create folder", &error))?;
        }
        fs.sync_dir(dir).map_err(|error| Error::io(dir, "sync folder", &error))?;
        let (manifest, fresh) = open_manifest(&fs, &folders, &random)?;
        let mut manifest = manifest.replaced_at(options.manifest_bytes);
        let found = manifest.state().clone();
        // Nobody was started on it before: from here on it is a node of its own.
        let copied = found.node.incarnation == 0 && !found.slots.is_empty();
        let node = if copied { random.name() } else { found.node.node };
        let incarnation = found.node.incarnation + 1;
        let owned = if options.own_copies { nobodys(&found) } else { Vec::new() };
        let clean_end = found.node.clean_end.filter(|_| planted::is(Bug::CleanMarkKept));
        let mut edits = vec![Edit::Node(NodeMeta { node, incarnation, clean_end, ..found.node })];
        edits.extend(roles::edits(&owned));
        manifest.apply(&edits)?;
        let state = manifest.state().clone();

        let packs = Packs::new(Arc::clone(&fs), &folders.data);
        let mut slots = open_slots(&state, &packs)?;
        if !planted::is(Bug::OrphansKept) {
            packs.remove_orphans()?;
        }
        let log_options = LogOptions {
            segment_bytes: options.segment_bytes(),
            tail_bytes: options.budget().log_tail(),
            pending_bytes: options.budget().log_pending(),
            room: options.sync.room(),
        };
        let promised = found.log_promise();
        let start = Start {
            node,
            incarnation,
            from: state.node.log_start,
            promised,
            clean_end: found.node.clean_end,
        };
        let mut records = 0;
        let (log, recovered) =
            Log::recover(Arc::clone(&fs), &folders.log, start, log_options, &mut |batch| {
                records += replay::replay_batch(&mut slots, node, &folders.log, batch)?;
                Ok(())
            })?;
        // The mark of a clean stop may be the log's last frame again, when power took all that came after it: only
        // with the manifest's word was it the last thing that this node did.
        let clean = recovered.clean && found.node.clean_end.is_some();
        let owned: BTreeSet<Slot> = owned.iter().map(|(slot, _)| *slot).collect();
        let asked = if options.keep_owed { followed(&state) } else { BTreeSet::new() };
        let finish = finish_roles(&mut slots, node, clean, &owned, &asked);
        let engine = Engine::from_parts(Parts {
            fs,
            folders,
            clock,
            options,
            lock,
            node,
            log,
            manifest,
            packs,
            cells: slots.cells,
            registry: Registry::restored(&state.replicas, now),
            random,
            next_file: state.node.next_file,
        });
        engine.begin_owed_epochs(&finish)?;
        let opened = Opened {
            fresh,
            copied,
            clean,
            records,
            log_bytes: recovered.bytes,
            cut_bytes: recovered.cut.map_or(0, |cut| cut.bytes),
            took: engine.clock().monotonic().saturating_sub(started),
        };
        Ok((engine, opened))
    }

    /// Begins the epochs that a start owes. Where a full disk leaves the log no room for their records, what was replayed
    /// goes into files first: then log can go.
    fn begin_owed_epochs(&self, slots: &[Slot]) -> Result<()> {
        let full = match self.begin_epochs(&mut self.manifest(), slots) {
            Err(Error::ReadOnly(why)) => why,
            done => return done,
        };
        tracing::warn!("the disk is full: flushing, so that the log can shrink");
        // Only the log may know of an epoch that was begun on a replica: it stays, until the manifest knows.
        let in_log_only = |slot: &Slot| matches!(self.lock(*slot).role, Role::Replica { .. });
        let others: Vec<Slot> =
            Slot::all().filter(|slot| !(slots.contains(slot) && in_log_only(slot))).collect();
        self.flush(&others)
            .and_then(|()| self.step(Job::Prepare))
            .and_then(|_| self.begin_epochs(&mut self.manifest(), slots))
            .map_err(|error| match error {
                Error::ReadOnly(_) | Error::Io { kind: ErrorKind::StorageFull, .. } => Error::Unusable {
                    path: self.folders().log.clone(),
                    why: format!(
                        "a start after an unclean stop writes to the log, and the disk is full: make room for {} \
                         bytes, then start again ({full})",
                        self.options().segment_bytes()
                    ),
                },
                error => error,
            })
    }
}

/// Makes a folder and those above it, durably: their names have to outlive a loss of power too. Those that are there
/// already are synced with the others: whoever made them may have been stopped, or failed, before it came to that.
pub(crate) fn make_durably(fs: &dyn Fs, dir: &Path) -> Result<()> {
    fs.create_dir_all(dir).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Error::Unusable {
            path: dir.to_owned(),
            why: "no folder, and none can be made: a file or a link that leads nowhere has this name"
                .to_owned(),
        },
        _ => Error::io(dir, "create folder", &error),
    })?;
    dir.ancestors().filter_map(Path::parent).try_for_each(|above| {
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        match fs.sync_dir(above) {
            // Not ours to open, or nothing that can be synced: then it was not made just now.
            Err(error) if is_foreign(error.kind()) => Ok(()),
            synced => synced.map_err(|error| Error::io(above, "sync folder", &error)),
        }
    })
}

fn is_foreign(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::PermissionDenied | ErrorKind::InvalidInput | ErrorKind::Unsupported)
}

pub(crate) fn lock_folder(fs: &dyn Fs, dir: &Path) -> Result<Box<dyn Send + Sync>> {
    let path = dir.join("LOCK");
    fs.lock(&path).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => Error::InUse { path: dir.to_owned() },
        _ => Error::io(&path, "lock", &error),
    })
}

fn open_manifest(fs: &Arc<dyn Fs>, folders: &Folders, random: &Random) -> Result<(Manifest, bool)> {
    if let Some(manifest) = Manifest::open(Arc::clone(fs), &folders.manifest)? {
        return Ok((manifest, false));
    }
    // A log or data without a manifest is not a fresh folder: somebody's data would be overwritten.
    for folder in [&folders.log, &folders.data] {
        let entries = fs.list(folder).map_err(|error| Error::io(folder, "list", &error))?;
        if let Some(entry) = entries.first() {
            return Err(Error::Unusable {
                path: folder.clone(),
                why: format!(
                    "holds {} but there is no manifest: restore the manifest folder, or move this away",
                    entry.name
                ),
            });
        }
    }
    Ok((Manifest::create(Arc::clone(fs), &folders.manifest, State::new(random.name()))?, true))
}

/// The slots of a checkpoint that are nobody's, as they are when this node owns them.
fn nobodys(state: &State) -> Vec<(Slot, SlotMeta)> {
    let free = |meta: &SlotMeta| {
        meta.granted.is_none() && matches!(&meta.state, SlotState::Replica { upstream } if upstream == NOBODY)
    };
    let slots = state.slots.iter().filter(|(_, entry)| free(&entry.meta));
    slots.map(|(&slot, entry)| (slot, SlotMeta { state: SlotState::Master, ..entry.meta.clone() })).collect()
}

/// The slots that registered replicas follow.
fn followed(state: &State) -> BTreeSet<Slot> {
    state.replicas.values().flat_map(|replica| replica.acked.keys().copied()).collect()
}

fn open_slots(state: &State, packs: &Packs) -> Result<Replayed> {
    let mut slots = Replayed::empty();
    for (slot, entry) in &state.slots {
        packs.adopt(&entry.runs);
        if let Some(incoming) = &entry.incoming {
            packs.hold(incoming.file);
        }
        let runs = entry.runs.iter().map(|run| packs.open_run(run)).collect::<Result<Vec<_>>>()?;
        let mut cell = SlotCell::from_meta(&entry.meta);
        cell.version = crate::sync::Arc::new(Version::new(runs));
        cell.next_expiry = cell.version.min_expiry();
        *slots.slot(*slot).0 = cell;
    }
    Ok(slots)
}

/// Applies a record of the log to its slot, if it is not in files yet and belongs to the slot's present life. Says
/// whether it did.
pub(crate) fn replay(slots: &mut Replayed, node: NodeId, log: &Path, at: &RecordAt<'_>) -> Result<bool> {
    let (cell, began_epoch) = slots.slot(at.record.header.slot);
    replay_one(cell, began_epoch, node, log, at)
}

/// As [`replay`], onto the record's own slot.
pub(crate) fn replay_one(
    cell: &mut SlotCell,
    began_epoch: &mut bool,
    node: NodeId,
    log: &Path,
    at: &RecordAt<'_>,
) -> Result<bool> {
    let RecordAt { lsn, record } = at;
    let lsn = *lsn;
    if let Body::Time(time) = record.body {
        keep_time(cell, lsn, record, time);
        return Ok(false);
    }
    let former = lsn < cell.base_lsn && !planted::is(Bug::OldEpochReplayed);
    if cell.role == Role::Absent || former || record.header.seq <= cell.flushed_seq {
        note_role(cell, began_epoch, node, lsn, record);
        return Ok(false);
    }
    let corrupt =
        |what: String| Err(Error::corrupt(log, lsn.0, format!("slot {}: {what}", record.header.slot)));
    if record.header.seq != cell.last_seq.next() {
        return corrupt(format!("{:?} follows {:?}", record.header.seq, cell.last_seq));
    }
    match replica::check_meaning(cell, record) {
        Ok(()) => {}
        Err(Wrong::Epoch) => {
            return corrupt(format!("a record of term {} in another epoch", record.header.term));
        }
        Err(Wrong::Record(why)) => return corrupt(why.to_string()),
    }
    if let (Body::EpochStart { epoch, by }, Some(ended), Some((to, _))) =
        (&record.body, cell.history.current(), &cell.granted)
        && *by == node
        && *to == node
    {
        cell.settle(ended, Some(*epoch));
    }
    note_role(cell, began_epoch, node, lsn, record);
    // A record after the change of role is the upstream's: what an operator allowed before it came is used up.
    cell.force &= lsn < cell.role_lsn;
    replica::apply(cell, record);
    Ok(true)
}

/// Takes a slot up to the time that it had when something that had expired was hidden from a reader. A time that came
/// before records which are in files is in the manifest with them; one whose place does not fit is of another life.
fn keep_time(cell: &mut SlotCell, lsn: Lsn, record: &Record<'_>, time: TimeMs) {
    let term = cell.history.current().map_or(0, |epoch| epoch.term);
    let fits = record.header.seq == cell.last_seq && record.header.term == term;
    if cell.role != Role::Absent && lsn >= cell.base_lsn && fits {
        cell.keep_time(time);
    }
}

/// A master that was killed between its epoch's record and the manifest is one all the same. Called before the
/// record is applied: an epoch that this node began just then is greater than all that it knew. One that it began
/// long ago comes back in another master's stream when it follows that one from an older position.
fn note_role(cell: &SlotCell, began_epoch: &mut bool, node: NodeId, lsn: Lsn, record: &Record<'_>) {
    if cell.role == Role::Absent || lsn < cell.base_lsn || lsn < cell.role_lsn {
        return;
    }
    match record.body {
        Body::EpochStart { epoch, by } => *began_epoch = by == node && epoch.term > cell.highest_term,
        Body::Grant { .. } => *began_epoch = false,
        Body::Batch(_) | Body::Time(_) => {}
    }
}

/// Settles what each slot is after the replay, and says which have to begin an epoch before they serve: all owned
/// ones after an unclean stop, since their last records may be lost here and known elsewhere, and those of a checkpoint
/// that become `owned` now. Those of them that are `asked` for elsewhere first owe it, whether the manifest knows that this
/// node is their owner or only the log does: see `owed.rs`.
///
/// A grant to this node is not taken here: its record may have come before it was synced where it was made. The old
/// owner is asked.
fn finish_roles(
    slots: &mut Replayed,
    node: NodeId,
    clean: bool,
    owned: &BTreeSet<Slot>,
    asked: &BTreeSet<Slot>,
) -> Vec<Slot> {
    let mut begin = Vec::new();
    for slot in Slot::all() {
        let (cell, began_epoch) = slots.slot(slot);
        match (&cell.role, &cell.granted) {
            (Role::Master, Some((to, address))) if *to != node => {
                cell.role = Role::Granted { to: *to, address: address.clone() };
            }
            (Role::Master, _) if planted::is(Bug::NoEpochAfterCrash) => {}
            (Role::Master, _) if !clean && !owned.contains(&slot) && asked.contains(&slot) => {
                cell.role = Role::Owed;
            }
            (Role::Master, _) if !clean || owned.contains(&slot) => begin.push(slot),
            // An owner by the log's word only, until the slot is flushed or its next epoch begins.
            (Role::Replica { .. }, _) if *began_epoch && !clean && asked.contains(&slot) => {
                cell.role = Role::Owed;
            }
            (Role::Replica { .. }, _) if *began_epoch => begin.push(slot),
            _ => {}
        }
    }
    begin
}
