//! Reads what commands will touch before they run, that of many keys together: then the processor waits for memory once, and
//! not for one key after the other. What is read means nothing, and nothing is promised: a slot that somebody holds is passed
//! over.

use std::hint::black_box;

use smallvec::SmallVec;

use crate::engine::Engine;
use crate::key::{EntryKey, Key};
use crate::memtable::{Guess, Search, Stored};
use crate::slot::SlotCell;
use crate::sync::MutexGuard;
use crate::types::Slot;
use crate::value::Header;

/// So many keys are looked at together: their lines fit into the processor's nearest cache until the last has been used.
pub const KEYS_NEAR: usize = 16;

/// Slots that are locked.
type Cells<'e> = SmallVec<[(Slot, MutexGuard<'e, SlotCell>); KEYS_NEAR]>;

/// The bytes that find an element in its collection.
pub type Sub = SmallVec<[u8; 48]>;

/// Out of an element's sub-key and its value: the sub-key of another one that will be touched because of it.
pub type Next = fn(&[u8], &[u8]) -> Option<Sub>;

/// Out of what stands at a collection's key and a number: the sub-key of an element.
pub type Place = fn(&[u8], i64) -> Option<Sub>;

/// Which element of a collection.
#[derive(Clone, Debug)]
pub enum Which {
    /// This one.
    Sub(Sub),
    /// The one that the collection's own value and this number tell.
    At(Place, i64),
}

/// An element that a command will touch, of the collection at a key.
#[derive(Clone, Debug)]
pub struct Look {
    /// Which command.
    pub by: usize,
    /// Which of the keys.
    pub key: usize,
    /// Which element.
    pub which: Which,
    /// So many elements behind it will be touched too.
    pub more: usize,
    /// Whether another one depends on its value.
    pub next: Option<Next>,
}

impl Engine {
    /// Brings the elements of large collections near that the memtables have, and says of each by whom it will be touched, and
    /// where it probably is: for [`crate::tx::Tx::expect`]. The collections' keys should be near. Locks slots, for a moment.
    pub fn bring_elements_near(&self, keys: &[&Key], looks: &[Look], mut found: impl FnMut(usize, Guess)) {
        looks.chunks(KEYS_NEAR).for_each(|some| self.bring_some_elements_near(keys, some, &mut found));
    }

    fn bring_some_elements_near(&self, keys: &[&Key], looks: &[Look], found: &mut impl FnMut(usize, Guess)) {
        let mut cells: Cells<'_> = SmallVec::new();
        for look in looks {
            self.cell_of(&mut cells, keys[look.key].slot());
        }
        let mut searches: Searches<'_> = SmallVec::new();
        for look in looks {
            let key = keys[look.key];
            let Some((_, cell)) = cells.iter().find(|(slot, _)| *slot == key.slot()) else { continue };
            let Some(Stored::Value(value)) = cell.memtable.get(key.entry()) else { continue };
            let Some(header) = Header::decode(&value) else { continue };
            let Some(generation) = header.generation else { continue };
            let told = match &look.which {
                Which::Sub(_) => None,
                Which::At(place, number) => place(&value[header.len..], *number),
            };
            let sub = match &look.which {
                Which::Sub(sub) => Some(sub),
                Which::At(..) => told.as_ref(),
            };
            if let Some(sub) = sub {
                searches.push((look, key.element(generation, sub), cell.memtable.search()));
            }
        }
        search_together(&mut searches);
        let mut more: Searches<'_> = SmallVec::new();
        for (look, entry, search) in &searches {
            found(look.by, search.guess());
            if let Some(next) = look.next
                && let Which::Sub(first) = &look.which
                && let Some(value) = search.value(entry)
                && let Some(sub) = next(first, &value)
            {
                let mut entry = entry.clone();
                entry.truncate(entry.len() - first.len());
                entry.extend_from_slice(&sub);
                more.push((look, entry, search.again()));
            }
        }
        search_together(&mut more);
        more.iter().for_each(|(look, _, search)| found(look.by, search.guess()));
    }

    /// Locks a slot, unless somebody holds it, or it is locked here; which of the cells it is.
    fn cell_of<'e>(&'e self, cells: &mut Cells<'e>, slot: Slot) -> Option<usize> {
        cells.iter().position(|(other, _)| *other == slot).or_else(|| {
            cells.push((slot, self.try_lock(slot)?));
            Some(cells.len() - 1)
        })
    }

    /// Brings what the memtables have of these keys near. Locks slots, for a moment.
    pub fn bring_near(&self, keys: &[&Key]) {
        keys.chunks(KEYS_NEAR).for_each(|some| self.bring_some_near(some));
    }

    fn bring_some_near(&self, keys: &[&Key]) {
        // All locks come before all looks: a lock waits for the looks before it.
        let mut cells: Cells<'_> = SmallVec::new();
        let mut looks: SmallVec<[(&[u8], usize); KEYS_NEAR]> = SmallVec::new();
        for key in keys {
            looks.extend(self.cell_of(&mut cells, key.slot()).map(|cell| (key.entry(), cell)));
        }
        // Each pass looks where the one before it has said, and its looks wait for none of each other.
        let homes = looks.iter().map(|&(key, cell)| cells[cell].1.memtable.look_home(key));
        black_box(homes.fold(0, |all, home| all ^ home));
        let entries = looks.iter().map(|&(key, cell)| cells[cell].1.memtable.look_entry(key));
        black_box(entries.fold(0, |all, entry| all ^ entry));
    }
}

/// Searches for elements, each with what it is for.
type Searches<'s> = SmallVec<[(&'s Look, EntryKey, Search<'s>); KEYS_NEAR]>;

/// Takes all steps of some searches, of each the same at the same time, and reads what stands where they end.
fn search_together(searches: &mut [(&Look, EntryKey, Search<'_>)]) {
    let steps = searches.iter().map(|(.., search)| search.steps()).max().unwrap_or(0);
    for left in (1..=steps).rev() {
        black_box(searches.iter().fold(0, |all, (.., search)| all ^ search.look()));
        // Those with fewer steps begin later.
        for (_, entry, search) in searches.iter_mut().filter(|(.., search)| search.steps() >= left) {
            search.step(entry);
        }
    }
    black_box(searches.iter().fold(0, |all, (.., search)| all ^ search.look_place()));
    black_box(searches.iter().fold(0, |all, (look, _, search)| all ^ search.look_entries(1 + look.more)));
}
