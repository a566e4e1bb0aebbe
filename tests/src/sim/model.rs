//! What was written, by the identity of each write: `(slot, epoch, seq)`. A slot's state on any node is a function
//! of the epochs that it went through and its last record; this file is that function.

use std::collections::{BTreeMap, BTreeSet};

use haypile_engine::clock::TimeMs;
use haypile_engine::history::History;
use haypile_engine::types::{Epoch, NodeId, Seq, Slot};

/// What a write did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Set a key, until a time if there is one.
    Put(String, String, Option<TimeMs>),
    /// Removed a key that was there.
    Delete(String),
    /// Removed all keys of the slot.
    Clear,
}

/// Who accepted writes of an epoch, and which.
#[derive(Clone, Debug)]
struct Era {
    node: usize,
    writes: BTreeMap<Seq, Effect>,
    acknowledged: BTreeSet<Seq>,
}

/// Everything that any node ever accepted.
#[derive(Clone, Debug, Default)]
pub struct Model {
    eras: BTreeMap<(Slot, u32, u64), Era>,
    /// Slots of which the operator threw acknowledged writes away on purpose: a fork, a promotion without the
    /// master, the owner removed.
    forked: BTreeSet<Slot>,
    /// The records that ended epochs by a grant, and to whom.
    grants: BTreeMap<(Slot, u32, u64), (Seq, NodeId)>,
    /// Until when clients were told that keys have expired.
    expired: BTreeMap<Slot, TimeMs>,
    /// Slots that lost writes, or their time, where that may be.
    lossy: BTreeSet<Slot>,
}

/// What a key holds, and until when.
pub type Held = (String, Option<TimeMs>);

/// Whether a value is still there at a time.
#[must_use]
pub fn lives(held: &Held, time: TimeMs) -> bool {
    held.1.is_none_or(|until| until > time)
}

impl Model {
    /// A node accepted a write.
    ///
    /// # Errors
    /// If another node accepted one in the same epoch, or one with this number was accepted before.
    pub fn wrote(
        &mut self,
        node: usize,
        slot: Slot,
        epoch: Epoch,
        seq: Seq,
        effect: Effect,
    ) -> Result<(), String> {
        let era = self.eras.entry((slot, epoch.term, epoch.tag)).or_insert_with(|| Era {
            node,
            writes: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
        });
        if era.node != node {
            return Err(format!("slot {slot}: nodes {} and {node} both take writes in {epoch}", era.node));
        }
        match era.writes.insert(seq, effect) {
            None => Ok(()),
            Some(before) => Err(format!("slot {slot}: record {seq} of {epoch} was {before:?} before")),
        }
    }

    /// A client got its reply.
    pub fn acknowledged(&mut self, slot: Slot, epoch: Epoch, seq: Seq) {
        if let Some(era) = self.eras.get_mut(&(slot, epoch.term, epoch.tag)) {
            era.acknowledged.insert(seq);
        }
    }

    /// An owner granted a slot: the epoch's last record says to whom.
    pub fn granted(&mut self, slot: Slot, epoch: Epoch, seq: Seq, to: NodeId) {
        self.grants.insert((slot, epoch.term, epoch.tag), (seq, to));
    }

    /// To whom a record granted the slot, if it did.
    #[must_use]
    pub fn grant_of(&self, slot: Slot, epoch: Epoch, seq: Seq) -> Option<NodeId> {
        self.grants.get(&(slot, epoch.term, epoch.tag)).filter(|(at, _)| *at == seq).map(|(_, to)| *to)
    }

    /// The operator did something that may lose acknowledged writes of a slot.
    pub fn fork(&mut self, slot: Slot) {
        self.forked.insert(slot);
    }

    /// A node that may have lost what was not synced serves again: of what it wrote itself, this is all that there is.
    pub fn forgive(&mut self, node: usize, slot: Slot, history: &History, last: Seq, time: TimeMs) {
        let spans = spans(history, last);
        for ((_, term, tag), era) in self.eras.range_mut((slot, 0, 0)..=(slot, u32::MAX, u64::MAX)) {
            let epoch = Epoch { term: *term, tag: *tag };
            let held = spans.iter().find(|(held, ..)| *held == epoch);
            let is_held = |seq: &Seq| held.is_some_and(|(_, from, to)| seq >= from && seq <= to);
            if era.node == node && !era.writes.keys().all(is_held) {
                era.acknowledged.retain(is_held);
                self.lossy.insert(slot);
            }
        }
        if self.expired.get(&slot).is_some_and(|told| *told > time) {
            self.expired.remove(&slot);
            self.lossy.insert(slot);
        }
    }

    /// Whether clients may have seen of the slot what is not there any more.
    #[must_use]
    pub fn is_lossy(&self, slot: Slot) -> bool {
        self.lossy.contains(&slot)
    }

    /// Whether the operator ever did.
    #[must_use]
    pub fn is_forked(&self, slot: Slot) -> bool {
        self.forked.contains(&slot)
    }

    /// A client was told that something had expired by then.
    pub fn told_expired(&mut self, slot: Slot, until: TimeMs) {
        let told = self.expired.entry(slot).or_default();
        *told = (*told).max(until);
    }

    /// The slot's time as clients have seen it: no owner is behind it.
    #[must_use]
    pub fn expired_until(&self, slot: Slot) -> TimeMs {
        self.expired.get(&slot).copied().unwrap_or_default()
    }

    /// The keys and values after a history up to its last record, expired ones too.
    #[must_use]
    pub fn state(&self, slot: Slot, history: &History, last: Seq) -> BTreeMap<String, Held> {
        let mut state = BTreeMap::new();
        for (epoch, from, to) in spans(history, last) {
            let Some(era) = self.eras.get(&(slot, epoch.term, epoch.tag)) else { continue };
            for effect in era.writes.range(from..=to).map(|(_, effect)| effect) {
                match effect {
                    Effect::Put(key, value, until) => {
                        drop(state.insert(key.clone(), (value.clone(), *until)));
                    }
                    Effect::Delete(key) => drop(state.remove(key)),
                    Effect::Clear => state.clear(),
                }
            }
        }
        state
    }

    /// Acknowledged writes that a history does not hold.
    #[must_use]
    pub fn lost(&self, slot: Slot, history: &History, last: Seq) -> Vec<(Epoch, Seq)> {
        let spans = spans(history, last);
        let mut lost = Vec::new();
        for ((_, term, tag), era) in self.eras.range((slot, 0, 0)..=(slot, u32::MAX, u64::MAX)) {
            let epoch = Epoch { term: *term, tag: *tag };
            let held = spans.iter().find(|(held, ..)| *held == epoch);
            let missing = |seq: &&Seq| held.is_none_or(|(_, from, to)| *seq < from || *seq > to);
            lost.extend(era.acknowledged.iter().filter(missing).map(|seq| (epoch, *seq)));
        }
        lost
    }

    /// How many writes were acknowledged.
    #[must_use]
    pub fn acknowledged_count(&self) -> usize {
        self.eras.values().map(|era| era.acknowledged.len()).sum()
    }
}

/// Each epoch with its first and last record; those without records are left out.
fn spans(history: &History, last: Seq) -> Vec<(Epoch, Seq, Seq)> {
    let starts = history.starts();
    let end = |index: usize| starts.get(index + 1).map_or(last, |next| Seq(next.first_seq.0 - 1));
    let span = |(index, start): (usize, &haypile_engine::history::EpochStart)| {
        (start.first_seq <= end(index)).then(|| (start.epoch, start.first_seq, end(index)))
    };
    starts.iter().enumerate().filter_map(span).collect()
}
