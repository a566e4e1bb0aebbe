//! Doing what `compact/` picks: one slot's runs merged, the result installed if the slot is still the same.
//!
//! One job works on one slot, so a slot's debt never holds another slot back.

use std::collections::HashSet;
use std::sync::atomic::AtomicBool;

use smallvec::SmallVec;

use crate::compact::{Job, MergeOptions, MergeOutcome, PickOptions, merge, pick};
use crate::engine::Engine;
use crate::error::Result;
use crate::planted::{self, Bug};
use crate::roles::edit_runs;
use crate::slot::Role;
use crate::sst::{FileNo, Run, RunMeta};
use crate::sync::Arc;
use crate::types::Slot;
use crate::version::Version;

struct Work {
    slot: Slot,
    life: u64,
    version: Arc<Version>,
    options: MergeOptions,
    job: Job,
}

/// Jobs that read less than this share a pack, and so a sync and a manifest frame, with others.
const SMALL_JOB_BYTES: u64 = 4 << 20;
/// What the jobs of one pack read together, about.
const SHARED_BYTES_MAX: u64 = 32 << 20;

impl Engine {
    /// Does the most urgent compaction of all slots, if there is any, and with a small one some more small ones.
    /// Says whether there was any.
    ///
    /// # Errors
    /// `Io`, `Corrupt`, `ReadOnly`: nothing has changed then. Poisoned, if the manifest is.
    pub fn compact_once(&self, cancel: &AtomicBool) -> Result<bool> {
        let usage = self.packs().usage();
        let dead: HashSet<FileNo> =
            usage.iter().filter(|usage| usage.is_mostly_dead()).map(|usage| usage.file).collect();
        let pick = |slot| self.pick_compaction(slot, &|file| dead.contains(&file));
        let mut works: Vec<Work> = Slot::all().filter_map(pick).collect();
        works.sort_by_key(|work| (work.job.reason, work.job.bytes));
        let mut sum = 0;
        let together = works.iter().take_while(|work| {
            let first = sum == 0;
            sum += work.job.bytes;
            first || (work.job.bytes < SMALL_JOB_BYTES && sum <= SHARED_BYTES_MAX)
        });
        let together = together.count();
        works.truncate(together);
        if works.is_empty() {
            return Ok(false);
        }
        let did = self.compact(&works, cancel)?;
        // They were the last readers of the runs that were merged.
        drop(works);
        self.compactions.notify();
        self.sweep_files()?;
        Ok(did)
    }

    fn pick_compaction(&self, slot: Slot, evacuate: &dyn Fn(FileNo) -> bool) -> Option<Work> {
        let cell = self.lock(slot);
        if cell.version.runs().is_empty() {
            return None;
        }
        let has_bottom = !matches!(cell.role, Role::Loading { .. });
        let (life, version, now) = (cell.life, Arc::clone(&cell.version), cell.time);
        drop(cell);
        let metas: SmallVec<[&RunMeta; 16]> = version.runs().iter().map(|run| run.meta()).collect();
        let job = pick(&metas, PickOptions { has_bottom, ..PickOptions::default() }, evacuate)?;
        // Expired values go by the owner's delete, so that every node counts the same keys.
        let run = self.options().run(0);
        let options = MergeOptions {
            to_bottom: job.to_bottom,
            now,
            keep_expired: !planted::is(Bug::ExpiredDataBack),
            compress: run.compress,
            block_bytes: run.block_bytes,
        };
        drop(metas);
        Some(Work { slot, life, version, options, job })
    }

    fn compact(&self, works: &[Work], cancel: &AtomicBool) -> Result<bool> {
        let mut pack = self.new_pack()?;
        let mut done = 0;
        for work in works {
            match merge(work.inputs(), work.options, cancel, &mut pack)? {
                MergeOutcome::Cancelled => return Ok(false),
                MergeOutcome::Done(_) => done += 1,
            }
        }
        let outputs = pack.finish_open(self.packs())?;
        for work in &works[..done] {
            let of_slot = outputs.iter().filter(|run| run.meta().props.slot == work.slot);
            of_slot.for_each(|run| self.work().compacted(work.job.reason, run.meta()));
        }
        self.install_compactions(&works[..done], outputs)?;
        Ok(true)
    }

    fn install_compactions(&self, works: &[Work], opened: Vec<Arc<Run>>) -> Result<()> {
        let outputs: Vec<RunMeta> = opened.iter().map(|run| run.meta().clone()).collect();
        let mut manifest = self.manifest();
        let mut edits = Vec::new();
        let mut changes = Vec::new();
        for work in works.iter().filter(|work| self.is_unchanged(work)) {
            let of_slot = |run: &&Arc<Run>| run.meta().props.slot == work.slot;
            let add: Vec<Arc<Run>> = opened.iter().filter(of_slot).cloned().collect();
            let added: Vec<RunMeta> = add.iter().map(|run| run.meta().clone()).collect();
            let removed: Vec<RunMeta> = work.inputs().iter().map(|run| run.meta().clone()).collect();
            edits.push(edit_runs(work.slot, &added, &removed));
            changes.push((work.slot, add, removed));
        }
        self.packs().adopt(&outputs);
        if let Err(error) = self.apply(&mut manifest, &edits) {
            self.give_up(&outputs, &error);
            return Err(error);
        }
        for (slot, add, removed) in &changes {
            let mut cell = self.lock(*slot);
            cell.version = Arc::new(cell.version.edited(add, removed));
        }
        // What was merged for a slot that changed meanwhile is of no use.
        let installed = |meta: &&RunMeta| changes.iter().any(|(slot, ..)| *slot == meta.props.slot);
        self.packs().release(outputs.iter().filter(|meta| !installed(meta)));
        changes.iter().for_each(|(_, _, removed)| self.packs().release(removed));
        Ok(())
    }

    /// Whether the slot is still in the same life and has all runs that were merged.
    fn is_unchanged(&self, work: &Work) -> bool {
        let cell = self.lock(work.slot);
        let has = |input: &Arc<Run>| cell.version.runs().iter().any(|run| Arc::ptr_eq(run, input));
        planted::is(Bug::FormerLifeInstalled) || cell.life == work.life && work.inputs().iter().all(has)
    }
}

impl Work {
    fn inputs(&self) -> &[Arc<Run>] {
        &self.version.runs()[self.job.inputs.clone()]
    }
}
