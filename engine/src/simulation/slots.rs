//! Adding and removing slots, also in the midst of work on them.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::node::{DIR, Told};
use super::workload::slot;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::fs::memory::MemoryFs;
use crate::slot::Role;
use crate::types::Slot;

/// The slots of an engine, and the model that is told what becomes of them.
#[derive(Clone)]
pub(super) struct Slots {
    engine: Arc<Engine>,
    told: Arc<Mutex<Told>>,
}

impl Slots {
    pub(super) fn of(engine: Arc<Engine>, told: Arc<Mutex<Told>>) -> Slots {
        Slots { engine, told }
    }

    fn model(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_there(&self, index: usize) -> bool {
        self.model().model.content(index).is_some()
    }

    /// Adds those that are not there.
    pub(super) fn add(&self, slots: &[usize]) -> Result<()> {
        let new: Vec<usize> = slots.iter().copied().filter(|&index| !self.is_there(index)).collect();
        let numbers: Vec<Slot> = new.iter().map(|&index| slot(index)).collect();
        self.change(&new, true, |engine| engine.add_slots(&numbers))
    }

    /// Removes one, if it is there.
    pub(super) fn remove(&self, index: usize) -> Result<()> {
        if !self.is_there(index) {
            return Ok(());
        }
        self.change(&[index], false, |engine| engine.remove_slots(&[slot(index)]))
    }

    /// Does `work`; when it makes its first pack file, a slot is removed and added again: what the file will hold of it is
    /// of a former life then.
    pub(super) fn renew_during(
        &self,
        fs: &MemoryFs,
        index: usize,
        work: impl FnOnce(&Engine) -> Result<()>,
    ) -> Result<()> {
        let renewed = Arc::new(Mutex::new(Ok(())));
        let (slots, outcome) = (self.clone(), Arc::clone(&renewed));
        fs.before_next_file(&Path::new(DIR).join("data"), move || {
            *outcome.lock().expect("no code panics under this lock") =
                slots.remove(index).and_then(|()| slots.add(&[index]));
        });
        let done = work(&self.engine);
        fs.before_no_file();
        let renewed = renewed.lock().expect("no code panics under this lock").clone();
        renewed.and(done)
    }

    fn change(&self, slots: &[usize], added: bool, change: impl FnOnce(&Engine) -> Result<()>) -> Result<()> {
        self.model().model.changing(slots, &added.then(Arc::default));
        let done = change(&self.engine);
        match &done {
            // What of it became durable is not known.
            Err(Error::Poisoned(_)) => {}
            // An error after the change: an old file that can't be removed.
            _ if slots.iter().all(|&index| (self.engine.role(slot(index)) == Role::Absent) != added) => {
                self.model().model.changed(slots);
            }
            _ => self.model().model.unchanged(slots),
        }
        done
    }
}
