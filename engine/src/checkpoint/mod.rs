//! A checkpoint: slots of this node, as they are at one moment, as a store of its own, while writes go on.
//!
//! All its slots are frozen at once, under all their locks, and flushed: so it holds of each exactly the records up to
//! then, and atomic groups whole. What it consists of are the pack files that the slots then have, by hard links, and a
//! manifest; no log. Writers are held up for the freezing only, which is memory work. Links keep what compaction drops
//! meanwhile; where the file system has none (another device) the bytes are copied.
//!
//! The folder is built beside its place, made durable, and renamed: it is there whole or not at all.
//!
//! What a checkpoint is to its slots: nobody's. The copies neither own nor follow ([`NOBODY`]), whatever the node does
//! that they were taken from, until an operator says which; so nothing that is started on it can be a second owner by
//! itself, and nothing that went wrong there comes here by itself. The histories are whole, so a node that is told to
//! follow the old master goes on after the last record that it has. Each start on a checkpoint is a node of its own: it
//! draws its name then (`recover.rs`), so that no grant, pin or answer for the old node counts for it.

mod folder;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::TryLockError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::manifest::{NodeMeta, SlotEntry, SlotMeta, SlotState, State};
use crate::recover::Folders;
use crate::slot::{NOBODY, Role, SlotCell};
use crate::sst::FileNo;
use crate::sync::Arc;
use crate::types::{Lsn, Seq, Slot};
use crate::version::Version;

pub(crate) use folder::is_no_link;
pub use folder::{CARRIED, is_unused, remove, remove_leftovers};

/// What was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// The slots that it holds, each with its last record in it.
    pub slots: Vec<(Slot, Seq)>,
    /// Slots that it lacks since they have no complete data here: they are absent, or their own copy has not come yet.
    pub left_out: Vec<Slot>,
    /// Pack files that are links to this store's.
    pub files_linked: u64,
    /// Pack files that were copied since they could not be linked.
    pub files_copied: u64,
    /// Bytes of its runs.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// How far a checkpoint is, for others to look at, and how to end it early. Only measures: nothing is ordered by them.
#[derive(Debug, Default)]
pub struct Progress {
    files: AtomicU64,
    files_done: AtomicU64,
    bytes: AtomicU64,
    bytes_done: AtomicU64,
    cancelled: AtomicBool,
}

/// [`Progress`] at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Done {
    /// Pack files that it consists of; 0 until that is known.
    pub files: u64,
    /// Those that are in their place.
    pub files_done: u64,
    /// Bytes of runs in all files.
    pub bytes: u64,
    /// Bytes of runs in the files that are in their place.
    pub bytes_done: u64,
}

impl Progress {
    /// How far it is.
    pub fn done(&self) -> Done {
        Done {
            files: self.files.load(Ordering::Relaxed),
            files_done: self.files_done.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            bytes_done: self.bytes_done.load(Ordering::Relaxed),
        }
    }

    /// Ends the checkpoint with an error, at its next file or piece of one.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn check(&self) -> Result<()> {
        match self.cancelled.load(Ordering::Relaxed) {
            true => Err(Error::Limit("the checkpoint was given up: the node stops".to_owned())),
            false => Ok(()),
        }
    }
}

/// The slots at the moment of the checkpoint.
struct Cut {
    /// What the checkpoint's manifest says.
    state: State,
    slots: Vec<(Slot, Seq)>,
    left_out: Vec<Slot>,
    /// Bytes of the runs in each pack file.
    files: BTreeMap<FileNo, u64>,
    /// Keep the files.
    held: Vec<Arc<Version>>,
}

impl Engine {
    /// Makes a checkpoint of slots in the folder `dir`, which must not exist; those above it are made. Waits for the
    /// disk. Slots that have no complete data here are left out, and named.
    ///
    /// # Errors
    /// `Limit` if another one is being made, no slot is left to copy, or `progress` cancels it; `Unusable` if `dir` is
    /// there; `Io` with the file. None of these leaves anything behind, but what a disk that fails holds on to: the next
    /// checkpoint at the same place clears that. `Poisoned`, if the log or the manifest is.
    pub fn checkpoint(&self, dir: &Path, slots: &BTreeSet<Slot>, progress: &Progress) -> Result<Checkpoint> {
        self.checkpoint_with(dir, slots, progress, None)
    }

    /// As [`Engine::checkpoint`], with a file of who uses the engine beside: its name, one of [`CARRIED`], and what is in it.
    ///
    /// # Errors
    /// As [`Engine::checkpoint`].
    ///
    /// # Panics
    /// If the file has another name.
    pub fn checkpoint_with(
        &self,
        dir: &Path,
        slots: &BTreeSet<Slot>,
        progress: &Progress,
        beside: Option<(&str, &[u8])>,
    ) -> Result<Checkpoint> {
        let _one_at_a_time = self.checkpointing.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Error::Limit("another checkpoint is being made".to_owned()),
            TryLockError::Poisoned(_) => unreachable!("a panic in a checkpoint ends the process"),
        })?;
        let started = self.clock().monotonic();
        self.refuse_inside(dir)?;
        // First of all, so that a place that is of no use costs no flush.
        let mut folder = folder::Folder::begin(&**self.fs(), dir)?;
        let cut = self.cut(slots)?;
        let total: u64 = cut.files.values().sum();
        progress.files.store(cut.files.len() as u64, Ordering::Relaxed);
        progress.bytes.store(total, Ordering::Relaxed);
        for (&file, &bytes) in &cut.files {
            folder.take(&self.folders().data, file, progress)?;
            progress.files_done.fetch_add(1, Ordering::Relaxed);
            progress.bytes_done.fetch_add(bytes, Ordering::Relaxed);
        }
        if let Some((name, bytes)) = beside {
            folder.put(name, bytes)?;
        }
        let (files_linked, files_copied) = folder.finish(self.fs(), cut.state)?;
        drop(cut.held);
        // What was dropped meanwhile was kept for this alone.
        if let Err(error) = self.sweep_files() {
            tracing::warn!(%error, "a file that nobody needs any more stays until the next start");
        }
        let took = self.clock().monotonic().saturating_sub(started);
        let (slots, left_out) = (cut.slots, cut.left_out);
        Ok(Checkpoint { slots, left_out, files_linked, files_copied, bytes: total, took })
    }

    /// A start takes what lies between this store's own files for damage.
    fn refuse_inside(&self, dir: &Path) -> Result<()> {
        let Folders { log, data, manifest } = self.folders();
        match [log, data, manifest].into_iter().any(|folder| dir.starts_with(folder)) {
            true => {
                let why = "is a place for this node's own files: name another folder".to_owned();
                Err(Error::Unusable { path: dir.to_owned(), why })
            }
            false => Ok(()),
        }
    }

    /// Brings the slots into files as they are now, and says which.
    fn cut(&self, slots: &BTreeSet<Slot>) -> Result<Cut> {
        // Until the runs are held: another flush would bring later records of some slots into files.
        let flushing = self.flush_lock();
        self.flush_at_once(&flushing, slots)?;
        let manifest = self.manifest();
        let NodeMeta { next_file, .. } = manifest.state().node;
        let mut cut = Cut {
            state: State::new(self.random_name()),
            slots: Vec::new(),
            left_out: Vec::new(),
            files: BTreeMap::new(),
            held: Vec::new(),
        };
        cut.state.node.next_file = next_file;
        for slot in Slot::all() {
            let cell = self.lock(slot);
            let complete = !matches!(cell.role, Role::Absent | Role::Loading { .. });
            let wanted = slots.contains(&slot);
            if wanted && complete {
                cut.take(slot, self.copied_meta(&cell), &cell);
                continue;
            }
            if wanted {
                cut.left_out.push(slot);
            }
            // The term only: if the slot is added there, it is with a later epoch than any that was known here.
            if cell.highest_term > 0 {
                let meta = SlotMeta { highest_term: cell.highest_term, ..SlotMeta::default() };
                cut.state.slots.insert(slot, SlotEntry { meta, ..SlotEntry::default() });
            }
        }
        if cut.slots.is_empty() {
            return Err(Error::Limit(
                "there is no slot with complete data to make a checkpoint of".to_owned(),
            ));
        }
        Ok(cut)
    }

    /// What a slot is in a checkpoint.
    fn copied_meta(&self, cell: &SlotCell) -> SlotMeta {
        let owned = cell.role.owns();
        // Also where the granting record came after the cut, be it that its sync is under way: it may be somebody else's by now.
        let granted = cell.granted.clone().or_else(|| cell.flushed_granted.clone());
        SlotMeta {
            state: match &cell.role {
                Role::Moved { to } => SlotState::Moved { to: to.clone() },
                _ => SlotState::Replica { upstream: NOBODY.to_owned() },
            },
            granted,
            // There is no log, so none of the records is in it.
            base_seq: cell.flushed_seq,
            base_lsn: Lsn::ZERO,
            role_lsn: Lsn::ZERO,
            time: if owned { cell.time.max(self.clock().wall()) } else { cell.time },
            // Grants to the old node: they are not the new one's.
            settled: Vec::new(),
            ..cell.meta()
        }
    }
}

impl Cut {
    fn take(&mut self, slot: Slot, meta: SlotMeta, cell: &SlotCell) {
        self.slots.push((slot, meta.flushed_seq));
        let runs = cell.version.metas();
        for run in &runs {
            *self.files.entry(run.file).or_default() += run.len;
        }
        self.held.push(Arc::clone(&cell.version));
        self.state.slots.insert(slot, SlotEntry { meta, runs, incoming: None });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::clock::SystemClock;
    use crate::engine::Options;
    use crate::fs::memory::MemoryFs;
    use crate::types::NodeId;

    /// A checkpoint that was cut right before a grant, and made while that was synced, took the slot for nobody's: whoever
    /// was started on it could be a second owner.
    #[test]
    fn a_slot_whose_grant_is_being_synced_is_not_free() {
        let fs = MemoryFs::new();
        let clock = Arc::new(SystemClock::new());
        let engine = Engine::open(Arc::new(fs.clone()), Path::new("/haypile"), clock, Options::default());
        let engine = Arc::new(engine.expect("an empty folder opens").0);
        let slot = Slot::new(3).expect("in range");
        engine.add_slots(&[slot]).expect("is added");
        engine.fence(&[slot]).expect("is fenced");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (looks, sees) = (Arc::clone(&engine), Arc::clone(&seen));
        fs.during_syncs(Path::new("/haypile/log"), move || {
            let meta = looks.copied_meta(&looks.lock(slot));
            sees.lock().expect("no panic").push(meta.granted);
        });
        let to = (NodeId([9; 20]), "10.0.0.9:1".to_owned());
        engine.grant(slot, to.0, &to.1).expect("is granted");
        fs.during_no_sync();
        let seen = seen.lock().expect("no panic");
        assert!(!seen.is_empty() && seen.iter().all(|granted| *granted == Some(to.clone())), "{seen:?}");
    }
}
