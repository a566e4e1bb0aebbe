//! Which replicas follow this node, and up to where each has acknowledged each slot: what pins the log for them.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::TimeMs;
use crate::manifest::{Edit, Registration};
use crate::types::{NodeId, Seq, Slot};

/// A node that follows this one.
#[derive(Clone, Debug)]
pub struct Replica {
    /// `ip:port` where it says it listens.
    pub address: String,
    /// When it last said anything.
    pub seen: TimeMs,
    /// For each slot that it follows, its last record there: what comes after is kept for it.
    pub acked: BTreeMap<Slot, Seq>,
}

/// All of them, by who they are.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    replicas: BTreeMap<NodeId, Replica>,
    /// Those that changed since [`Registry::changes`], with the slots that they do not follow any more.
    changed: BTreeMap<NodeId, BTreeSet<Slot>>,
    /// One of the changes is that a node follows a slot which it did not follow before.
    news: bool,
}

impl Registry {
    /// The replicas that the manifest knows. They are given as long to come back as if they had just spoken.
    #[must_use]
    pub fn restored(registrations: &BTreeMap<NodeId, Registration>, now: TimeMs) -> Registry {
        let known = registrations.iter().map(|(node, known)| {
            let Registration { address, acked } = known.clone();
            (*node, Replica { address, seen: now, acked })
        });
        Registry { replicas: known.collect(), ..Registry::default() }
    }

    /// A node follows this one, or still does.
    pub fn register(&mut self, node: NodeId, address: &str, now: TimeMs) {
        let replica = self.replicas.entry(node).or_insert_with(|| Replica {
            address: String::new(),
            seen: now,
            acked: BTreeMap::new(),
        });
        replica.address = address.to_owned();
        replica.seen = now;
        self.changed.entry(node).or_default();
    }

    /// It has this slot up to `seq`, or a copy of it begins there.
    pub fn pin(&mut self, node: NodeId, slot: Slot, seq: Seq, now: TimeMs) {
        if let Some(replica) = self.replicas.get_mut(&node) {
            self.news |= replica.acked.insert(slot, seq).is_none();
            replica.seen = now;
            self.changed.entry(node).or_default().remove(&slot);
        }
    }

    /// It has acknowledged each of the slots up to a record. Acknowledgements are cumulative: an older one changes nothing.
    pub fn acked(&mut self, node: NodeId, slots: &[(Slot, Seq)], now: TimeMs) {
        let Some(replica) = self.replicas.get_mut(&node) else { return };
        replica.seen = now;
        let mut changed = false;
        for (slot, seq) in slots {
            if let Some(last) = replica.acked.get_mut(slot) {
                *last = (*seq).max(*last);
                changed = true;
            }
        }
        if changed {
            self.changed.entry(node).or_default();
        }
    }

    /// It no longer follows the slot.
    pub fn unpin(&mut self, node: NodeId, slot: Slot) {
        if let Some(replica) = self.replicas.get_mut(&node) {
            replica.acked.remove(&slot);
            self.changed.entry(node).or_default().insert(slot);
        }
    }

    /// It is gone: nothing is kept for it. Says whether it was known.
    pub fn forget(&mut self, node: NodeId) -> bool {
        self.changed.entry(node).or_default();
        self.replicas.remove(&node).is_some()
    }

    /// The slot is gone from this node: nobody's acknowledgement of it counts.
    pub fn forget_slot(&mut self, slot: Slot) {
        let followers = self.replicas.iter().filter(|(_, replica)| replica.acked.contains_key(&slot));
        let followers: Vec<NodeId> = followers.map(|(node, _)| *node).collect();
        followers.into_iter().for_each(|node| self.unpin(node, slot));
    }

    /// Whether what the manifest does not know yet is more than how far somebody is: after an unclean stop, who is not known
    /// to follow a slot is not asked for it.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.news
    }

    /// What the manifest does not know yet, to be made durable now and then: after a restart a position that is
    /// too old keeps more log than needed, never less than the replica was promised then.
    pub fn changes(&mut self) -> Vec<Edit> {
        self.news = false;
        let changed = std::mem::take(&mut self.changed);
        let edit = |(node, gone): (NodeId, BTreeSet<Slot>)| match self.replicas.get(&node) {
            None => Edit::ReplicaForgotten(node),
            Some(replica) => {
                let acked = replica.acked.iter().map(|(&slot, &seq)| (slot, Some(seq)));
                let acked = acked.chain(gone.into_iter().map(|slot| (slot, None))).collect();
                Edit::Registration { node, address: replica.address.clone(), acked }
            }
        };
        changed.into_iter().map(edit).collect()
    }

    /// What [`Registry::changes`] gave could not be made durable: it is given again next time.
    pub fn changes_failed(&mut self, edits: &[Edit]) {
        for edit in edits {
            match edit {
                Edit::Registration { node, acked, .. } => {
                    let gone = acked.iter().filter(|(_, seq)| seq.is_none()).map(|(slot, _)| *slot);
                    self.changed.entry(*node).or_default().extend(gone);
                }
                Edit::ReplicaForgotten(node) => {
                    self.changed.entry(*node).or_default();
                }
                _ => {}
            }
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeId, &Replica)> {
        self.replicas.iter()
    }

    /// The nodes that have been silent since before `since`.
    #[must_use]
    pub fn silent_since(&self, since: TimeMs) -> Vec<NodeId> {
        self.replicas.iter().filter(|(_, replica)| replica.seen < since).map(|(node, _)| *node).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_tell_the_manifest_all_once_and_acknowledgements_never_go_back() {
        let (node, slot) = (NodeId([1; 20]), Slot::new(7).expect("in range"));
        let mut registry = Registry::default();
        registry.acked(node, &[(slot, Seq(9))], TimeMs(1));
        assert!(registry.changes().is_empty(), "nobody registered");
        registry.register(node, "a:1", TimeMs(1));
        assert!(!registry.has_news(), "it follows nothing yet");
        registry.pin(node, slot, Seq(3), TimeMs(2));
        assert!(registry.has_news());
        registry.acked(node, &[(slot, Seq(5))], TimeMs(3));
        registry.acked(node, &[(slot, Seq(4))], TimeMs(4));
        let address = "a:1".to_owned();
        let edit = Edit::Registration { node, address: address.clone(), acked: vec![(slot, Some(Seq(5)))] };
        assert_eq!(registry.changes(), [edit]);
        assert!(registry.changes().is_empty() && !registry.has_news());
        registry.pin(node, slot, Seq(5), TimeMs(4));
        assert!(!registry.has_news(), "it followed before");
        registry.changes();
        registry.forget_slot(slot);
        assert_eq!(registry.changes(), [Edit::Registration { node, address, acked: vec![(slot, None)] }]);
        assert_eq!(registry.silent_since(TimeMs(5)), [node]);
        assert!(registry.forget(node));
        assert_eq!(registry.changes(), [Edit::ReplicaForgotten(node)]);
    }
}
