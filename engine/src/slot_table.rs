//! Tables with a place for each slot: what is looked up for every record costs an index, not a search.
//!
//! Plain values, without a lock. An empty table takes no memory.

use crate::types::{SLOT_COUNT, Slot};

const WORDS: usize = (SLOT_COUNT as usize).div_ceil(64);

/// Something for some of the slots.
#[derive(Clone, Debug)]
pub struct SlotTable<T> {
    /// Empty, or one for each slot.
    places: Vec<Option<T>>,
    /// How many of them are taken.
    len: usize,
}

impl<T> Default for SlotTable<T> {
    fn default() -> SlotTable<T> {
        SlotTable { places: Vec::new(), len: 0 }
    }
}

impl<T> SlotTable<T> {
    /// What is there for a slot.
    #[must_use]
    pub fn get(&self, slot: Slot) -> Option<&T> {
        self.places.get(slot.index())?.as_ref()
    }

    /// What is there for a slot, to be changed.
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        self.places.get_mut(slot.index())?.as_mut()
    }

    /// Puts something there, and gives back what was there before.
    pub fn insert(&mut self, slot: Slot, value: T) -> Option<T> {
        if self.places.is_empty() {
            self.places.resize_with(usize::from(SLOT_COUNT), || None);
        }
        let before = self.places[slot.index()].replace(value);
        self.len += usize::from(before.is_none());
        before
    }

    /// Takes away what is there for a slot.
    pub fn remove(&mut self, slot: Slot) -> Option<T> {
        let gone = self.places.get_mut(slot.index())?.take();
        self.len -= usize::from(gone.is_some());
        gone
    }

    /// How many slots have something.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All that have something, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &T)> {
        Slot::all().zip(&self.places).filter_map(|(slot, place)| Some((slot, place.as_ref()?)))
    }

    /// As [`SlotTable::iter`], to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Slot, &mut T)> {
        Slot::all().zip(&mut self.places).filter_map(|(slot, place)| Some((slot, place.as_mut()?)))
    }
}

/// Some of the slots.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SlotSet([u64; WORDS]);

impl SlotSet {
    /// Adds a slot. Says whether it was not there.
    pub fn insert(&mut self, slot: Slot) -> bool {
        let (word, bit) = place(slot);
        let before = self.0[word];
        self.0[word] |= bit;
        self.0[word] != before
    }

    /// Takes a slot out. Says whether it was there.
    pub fn remove(&mut self, slot: Slot) -> bool {
        let (word, bit) = place(slot);
        let before = self.0[word];
        self.0[word] &= !bit;
        self.0[word] != before
    }

    /// Whether a slot is there.
    #[must_use]
    pub fn contains(&self, slot: Slot) -> bool {
        let (word, bit) = place(slot);
        self.0[word] & bit != 0
    }

    /// All of them, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Slot> {
        let set = *self;
        Slot::all().filter(move |&slot| set.contains(slot))
    }
}

impl FromIterator<Slot> for SlotSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> SlotSet {
        let mut set = SlotSet::default();
        for slot in slots {
            set.insert(slot);
        }
        set
    }
}

fn place(slot: Slot) -> (usize, u64) {
    (slot.index() / 64, 1 << (slot.index() % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::random::Coin;

    #[test]
    fn tables_and_sets_are_what_maps_and_sets_are() {
        let (mut table, mut map) = (SlotTable::default(), BTreeMap::new());
        let (mut few, mut set) = (SlotSet::default(), BTreeSet::new());
        let mut coin = Coin::new(7);
        assert!(table.is_empty() && table.get(Slot::new(3).expect("in range")).is_none());
        for value in 0..5000 {
            let slot = Slot::new(u16::try_from(coin.below(usize::from(SLOT_COUNT))).expect("small"));
            let slot = slot.expect("in range");
            if coin.chance(1, 2) {
                assert_eq!(table.insert(slot, value), map.insert(slot, value));
                assert_eq!(few.insert(slot), set.insert(slot));
            } else {
                assert_eq!(table.remove(slot), map.remove(&slot));
                assert_eq!(few.remove(slot), set.remove(&slot));
            }
            assert_eq!((table.len(), few.contains(slot)), (map.len(), set.contains(&slot)));
        }
        assert!(table.iter().eq(map.iter().map(|(slot, value)| (*slot, value))));
        assert!(few.iter().eq(set.iter().copied()));
        table.iter_mut().for_each(|(_, value)| *value += 1);
        assert!(table.iter().zip(map.values()).all(|((_, grown), value)| *grown == value + 1));
    }
}
