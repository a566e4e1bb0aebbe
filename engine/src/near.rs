//! Reads what commands will touch before they run, that of many keys together: then the processor waits for memory once, and
//! not for one key after the other. What is read means nothing, and nothing is promised: a slot that somebody holds is passed
//! over.

use std::hint::black_box;

use smallvec::SmallVec;

use crate::engine::Engine;
use crate::key::Key;
use crate::slot::SlotCell;
use crate::sync::MutexGuard;
use crate::types::Slot;

/// So many keys are looked at together: their lines fit into the processor's nearest cache until the last has been used.
pub const KEYS_NEAR: usize = 16;

impl Engine {
    /// Brings what the memtables have of these keys near. Locks slots, for a moment.
    pub fn bring_near(&self, keys: &[Key]) {
        keys.chunks(KEYS_NEAR).for_each(|some| self.bring_some_near(some));
    }

    fn bring_some_near(&self, keys: &[Key]) {
        // All locks come before all looks: a lock waits for the looks before it.
        let mut cells: SmallVec<[(Slot, MutexGuard<'_, SlotCell>); KEYS_NEAR]> = SmallVec::new();
        let mut looks: SmallVec<[(&[u8], usize); KEYS_NEAR]> = SmallVec::new();
        for key in keys {
            let slot = key.slot();
            let known = cells.iter().position(|(other, _)| *other == slot);
            let Some(cell) = known.or_else(|| {
                cells.push((slot, self.try_lock(slot)?));
                Some(cells.len() - 1)
            }) else {
                continue;
            };
            looks.push((key.entry(), cell));
        }
        // Each pass looks where the one before it has said, and its looks wait for none of each other.
        let homes = looks.iter().map(|&(key, cell)| cells[cell].1.memtable.look_home(key));
        black_box(homes.fold(0, |all, home| all ^ home));
        let entries = looks.iter().map(|&(key, cell)| cells[cell].1.memtable.look_entry(key));
        black_box(entries.fold(0, |all, entry| all ^ entry));
    }
}
