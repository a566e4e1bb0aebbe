//! Doing what `compact/` picks: one slot's runs merged, the result installed if the slot is still the same.
//!
//! One job works on one slot, so a slot's debt never holds another slot back.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::compact::{Job, MergeOptions, MergeOutcome, PickOptions, merge, pick};
use crate::engine::Engine;
use crate::error::Result;
use crate::roles::edit_runs;
use crate::slot::Role;
use crate::sst::{FileNo, Run, RunMeta};
use crate::types::Slot;
use crate::version::Version;

struct Work {
    slot: Slot,
    life: u64,
    version: Arc<Version>,
    options: MergeOptions,
    job: Job,
}

impl Engine {
    /// Does the most urgent compaction of all slots, if there is any. Says whether there was.
    ///
    /// # Errors
    /// `Io`, `Corrupt`: nothing has changed then. Poisoned, if the manifest is.
    pub fn compact_once(&self, cancel: &AtomicBool) -> Result<bool> {
        let dead: HashSet<FileNo> = self
            .packs()
            .usage()
            .iter()
            .filter(|usage| usage.is_mostly_dead())
            .map(|usage| usage.file)
            .collect();
        let most_urgent = Slot::all()
            .filter_map(|slot| self.pick_compaction(slot, &|file| dead.contains(&file)))
            .min_by_key(|work| (work.job.reason, work.job.bytes));
        match most_urgent {
            Some(work) => self.compact(&work, cancel),
            None => Ok(false),
        }
    }

    fn pick_compaction(&self, slot: Slot, evacuate: &dyn Fn(FileNo) -> bool) -> Option<Work> {
        let cell = self.lock(slot);
        if cell.version.runs().is_empty() {
            return None;
        }
        let metas = cell.version.metas();
        let has_bottom = !matches!(cell.role, Role::Loading { .. });
        let (life, version, now) = (cell.life, Arc::clone(&cell.version), cell.time);
        drop(cell);
        let job = pick(&metas, PickOptions { has_bottom, ..PickOptions::default() }, evacuate)?;
        // Expired values go by the owner's delete, so that every node counts the same keys.
        let options = MergeOptions { to_bottom: job.to_bottom, now, keep_expired: true, compress: true };
        Some(Work { slot, life, version, options, job })
    }

    fn compact(&self, work: &Work, cancel: &AtomicBool) -> Result<bool> {
        let inputs = &work.version.runs()[work.job.inputs.clone()];
        let mut pack = self.new_pack()?;
        if let MergeOutcome::Cancelled = merge(inputs, work.options, cancel, &mut pack)? {
            return Ok(false);
        }
        let outputs = pack.finish()?;
        self.install_compaction(work, inputs, &outputs)?;
        Ok(true)
    }

    fn install_compaction(&self, work: &Work, inputs: &[Arc<Run>], outputs: &[RunMeta]) -> Result<()> {
        let mut manifest = self.manifest();
        self.packs().adopt(outputs);
        let opened: Vec<Arc<Run>> =
            outputs.iter().map(|meta| self.packs().open_run(meta)).collect::<Result<_>>()?;
        let removed: Vec<RunMeta> = inputs.iter().map(|run| run.meta().clone()).collect();
        let unchanged = {
            let cell = self.lock(work.slot);
            let has = |input: &Arc<Run>| cell.version.runs().iter().any(|run| Arc::ptr_eq(run, input));
            cell.life == work.life && inputs.iter().all(has)
        };
        if !unchanged {
            self.packs().release(outputs);
            drop(opened);
            drop(manifest);
            return self.sweep_files();
        }
        self.apply(&mut manifest, &[edit_runs(work.slot, outputs, &removed)])?;
        {
            let mut cell = self.lock(work.slot);
            cell.version = Arc::new(cell.version.edited(&opened, &removed));
        }
        self.packs().release(&removed);
        drop(manifest);
        self.sweep_files()
    }
}
