//! Slots as they were at a moment: for what takes so long that it must not hold its slots meanwhile.
//!
//! A transaction that is to read no more than some elements ([`Tx::limit_reads`]) answers a miss when it comes to that limit
//! ([`Tx::has_read_enough`]). Its slots are then taken as they are ([`Tx::still`]): the files and frozen memtables by
//! reference, a small memtable as a copy, a larger one by freezing it. The command runs again on that
//! ([`Engine::begin_still`]), holding nothing that anybody else waits for; its reads wait for the device, so that it has to
//! be off the workers. What is still takes memory and files until it is dropped.
//!
//! What is written on it is seen by that transaction alone, until it is committed to the slots as they are then
//! ([`Tx::commit_now`]), which takes that nothing has changed there meanwhile.

use super::{Locked, Tx};
use crate::clock::TimeMs;
use crate::engine::{Engine, Gate};
use crate::error::Result;
use crate::flush;
use crate::read::{Fetched, WriteSet};
use crate::slot::SlotCell;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::types::{Seq, Slot};

/// A slot of which more memtables wait for a file is flushed once a reader of it has ended.
const FROZEN_MAX: usize = 4;

/// Elements of a walk between two looks at whether anybody wants them.
pub(super) const LOOK_EVERY: usize = 4096;

/// See the file's head.
#[derive(Debug)]
pub struct Still {
    /// Ascending. Nobody else locks one.
    cells: Vec<(Slot, Mutex<SlotCell>)>,
    /// Set by whoever wants its reader to stop; looked at between two pages.
    ended: AtomicBool,
}

impl Still {
    /// Nobody wants what is read any more: reads answer misses from here on.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Whether nobody wants what is read.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

impl Tx<'_> {
    /// Reads no more than so many elements of collections in pages and walks.
    pub fn limit_reads(&mut self, elements: usize) {
        self.elements_left.set(elements);
    }

    /// Whether a read answered a miss because of that limit.
    #[must_use]
    pub fn has_read_enough(&self) -> bool {
        self.elements_left.get() == 0
    }

    /// Whether it is on what is still.
    #[must_use]
    pub fn is_still(&self) -> bool {
        self.still.is_some()
    }

    /// Whether more elements may be read.
    pub(super) fn may_read_elements(&self) -> bool {
        self.elements_left.get() > 0 && self.still.is_none_or(|still| !still.has_ended())
    }

    /// The transaction's slots as they are now. What it has written itself is no part of it.
    pub fn still(&mut self) -> Still {
        let slots = self.locked.len();
        let taken = self
            .locked
            .iter_mut()
            .map(|locked| (locked.slot, flush::still_cell(locked.slot, &mut locked.cell, slots)));
        let cells = taken.map(|(slot, cell)| (slot, Mutex::new(cell))).collect();
        Still { cells, ended: AtomicBool::new(false) }
    }
}

impl Tx<'_> {
    /// Commits what was written on what is still to the slots as they are now, as [`Tx::commit_noting`] does. `None` if they
    /// have changed since: nothing has happened then.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub fn commit_now(mut self, wrote: impl FnMut(Slot, Seq)) -> Result<Option<Gate>> {
        let slots: Vec<Slot> = self.slots().collect();
        let fetched = Fetched::default();
        let mut now = Tx::begin(self.engine, &slots, &fetched, TimeMs::default());
        let pairs = self.locked.iter().zip(&now.locked);
        if self.has_writes() && pairs.into_iter().any(|(then, now)| has_changed(&then.cell, &now.cell)) {
            return Ok(None);
        }
        for (then, now) in self.locked.iter_mut().zip(&mut now.locked) {
            now.writes = std::mem::take(&mut then.writes);
            now.hidden = then.hidden;
        }
        now.commit_noting(wrote).map(Some)
    }
}

/// Whether a slot is not any more what it was.
fn has_changed(then: &SlotCell, now: &SlotCell) -> bool {
    now.last_seq != then.last_seq
        || now.role != then.role
        || now.life != then.life
        || now.ending
        || now.history.current() != then.history.current()
}

impl Engine {
    /// Slots (ascending, none twice) as they are now; see [`Engine::begin_at`].
    pub fn still(&self, slots: &[Slot], now: TimeMs) -> Still {
        self.begin_at(slots, &Fetched::default(), now).still()
    }

    /// A transaction on what is still: to be read, and dropped or committed by [`Tx::commit_now`]. It waits for the device.
    ///
    /// # Panics
    /// If there is another one on it.
    pub fn begin_still<'e>(&'e self, still: &'e Still, fetched: &'e Fetched) -> Tx<'e> {
        let mut tx = Tx { still: Some(still), ..Tx::on(self, fetched) };
        for (slot, cell) in &still.cells {
            let cell = cell.try_lock().expect("one transaction at a time is on what is still");
            tx.locked.push(Locked {
                slot: *slot,
                cell,
                writes: WriteSet::default(),
                hidden: TimeMs::default(),
            });
        }
        tx
    }

    /// What is to be done once its readers have ended: flushes slots that they have left with many frozen memtables.
    ///
    /// # Errors
    /// As [`Engine::flush`].
    pub fn end_still(&self, still: Still) -> Result<()> {
        let slots: Vec<Slot> = still.cells.iter().map(|(slot, _)| *slot).collect();
        drop(still);
        let full = slots.into_iter().filter(|slot| self.lock(*slot).frozen.len() > FROZEN_MAX);
        let full: Vec<Slot> = full.collect();
        if full.is_empty() { Ok(()) } else { self.flush(&full) }
    }
}
