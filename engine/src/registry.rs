//! Which replicas follow this node, and up to where each has acknowledged each slot: what pins the log for them.

use std::collections::BTreeMap;

use crate::clock::TimeMs;
use crate::manifest::Registration;
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
pub struct Registry(BTreeMap<NodeId, Replica>);

impl Registry {
    /// The replicas that the manifest knows. They are given as long to come back as if they had just spoken.
    #[must_use]
    pub fn restored(registrations: &BTreeMap<NodeId, Registration>, now: TimeMs) -> Registry {
        let known = registrations.iter().map(|(node, known)| {
            let Registration { address, acked } = known.clone();
            (*node, Replica { address, seen: now, acked })
        });
        Registry(known.collect())
    }

    /// A node follows this one, or still does.
    pub fn register(&mut self, node: NodeId, address: &str, now: TimeMs) {
        let replica = self.0.entry(node).or_insert_with(|| Replica {
            address: String::new(),
            seen: now,
            acked: BTreeMap::new(),
        });
        replica.address = address.to_owned();
        replica.seen = now;
    }

    /// It has this slot up to `seq`, or a copy of it begins there.
    pub fn pin(&mut self, node: NodeId, slot: Slot, seq: Seq, now: TimeMs) {
        if let Some(replica) = self.0.get_mut(&node) {
            replica.acked.insert(slot, seq);
            replica.seen = now;
        }
    }

    /// It has acknowledged the slot up to `seq`. Acknowledgements are cumulative: an older one changes nothing.
    pub fn acked(&mut self, node: NodeId, slot: Slot, seq: Seq, now: TimeMs) {
        let Some(replica) = self.0.get_mut(&node) else { return };
        replica.seen = now;
        if let Some(last) = replica.acked.get_mut(&slot) {
            *last = seq.max(*last);
        }
    }

    /// It no longer follows the slot.
    pub fn unpin(&mut self, node: NodeId, slot: Slot) {
        if let Some(replica) = self.0.get_mut(&node) {
            replica.acked.remove(&slot);
        }
    }

    /// It is gone: nothing is kept for it. Says whether it was known.
    pub fn forget(&mut self, node: NodeId) -> bool {
        self.0.remove(&node).is_some()
    }

    /// The slot is gone from this node: nobody's acknowledgement of it counts.
    pub fn forget_slot(&mut self, slot: Slot) {
        for replica in self.0.values_mut() {
            replica.acked.remove(&slot);
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeId, &Replica)> {
        self.0.iter()
    }

    /// The nodes that have been silent since before `since`.
    #[must_use]
    pub fn silent_since(&self, since: TimeMs) -> Vec<NodeId> {
        self.0.iter().filter(|(_, replica)| replica.seen < since).map(|(node, _)| *node).collect()
    }
}
