//! The faults end: everything has to come to stand, within a bound, and to be right.

use std::sync::atomic::Ordering;

use haypile_engine::random::Coin;
use haypile_engine::slot::Role;
use haypile_engine::types::Slot;
use haypile_replication::receiver::LinkState;

use super::net::Conn;
use super::node::{Node, node_at};
use super::world::World;

/// Rounds without faults after which everything has to stand.
const SETTLE_ROUNDS: usize = 1500;

impl World<'_> {
    /// The faults end: everything has to come to stand, and to be right.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        self.note(|| "the faults end".to_owned());
        self.random = Coin::new(self.setup.seed);
        self.parted.clear();
        self.doomed.clear();
        self.paces.clear();
        self.conns.values_mut().for_each(Conn::hurry);
        self.end_faulty();
        let mut unsettled = None;
        for round in 0..SETTLE_ROUNDS {
            self.step = self.setup.steps + round;
            for node in 0..self.nodes.len() {
                if self.nodes[node].running.is_none() {
                    self.start(node)?;
                }
                self.turn(node)?;
                self.answer_clients(node)?;
            }
            for delivery in self.deliveries() {
                self.deliver(delivery, 8)?;
            }
            self.check_owners().map_err(|wrong| format!("settling, round {round}: {wrong}"))?;
            self.now.fetch_add(50, Ordering::Relaxed);
            unsettled = self.unsettled();
            if unsettled.is_none() && round > 20 && self.deliveries().is_empty() {
                break;
            }
        }
        for node in 0..self.nodes.len() {
            for slot in self.slots.clone() {
                self.note_slot(node, slot);
            }
        }
        if let Some(why) = unsettled {
            return Err(format!("does not settle: {why}"));
        }
        for node in 0..self.nodes.len() {
            for slot in self.slots.clone() {
                self.check_state(node, slot).map_err(|wrong| format!("at the end: {wrong}"))?;
            }
        }
        self.check_acknowledged()?;
        self.clients.check(|slot| self.model.is_forked(slot) || self.model.is_lossy(slot))
    }

    /// What still has to change before everything stands.
    fn unsettled(&self) -> Option<String> {
        for &slot in &self.slots {
            let forked = self.model.is_forked(slot);
            let masters = self.nodes.iter().filter(|node| node.role(slot) == Role::Master).count();
            if !forked && masters != 1 {
                return Some(format!("slot {slot} has {masters} owners"));
            }
            for node in &self.nodes {
                match node.role(slot) {
                    Role::Fenced => return Some(format!("slot {slot} is fenced on node {}", node.index)),
                    Role::Granted { .. } if !forked => {
                        return Some(format!("slot {slot} is granted on node {}", node.index));
                    }
                    Role::Replica { upstream } | Role::Loading { upstream }
                        if self.is_rooted(&upstream, slot) =>
                    {
                        let why = self.replica_unsettled(node, &upstream, slot);
                        if why.is_some() {
                            return why;
                        }
                    }
                    _ => {}
                }
            }
        }
        None
    }

    /// Whether an upstream gets its records from an owner, over any number of nodes.
    fn is_rooted(&self, upstream: &str, slot: Slot) -> bool {
        let mut at = upstream.to_owned();
        for _ in 0..self.nodes.len() {
            let Some(node) = node_at(&at) else { return false };
            match self.nodes[node].role(slot) {
                Role::Master => return true,
                Role::Replica { upstream } | Role::Loading { upstream } => at = upstream,
                _ => return false,
            }
        }
        false
    }

    fn replica_unsettled(&self, node: &Node<'_>, upstream: &str, slot: Slot) -> Option<String> {
        let running = node.running.as_ref()?;
        let above = self.nodes[node_at(upstream)?].engine()?.position(slot);
        let here = running.engine.position(slot);
        let index = node.index;
        let Some((_, link)) = running.registry.link_of(slot) else {
            return Some(format!("slot {slot} of node {index} is on no link"));
        };
        let status = link.receiver.lock().expect("no panic").status(slot)?;
        if status.state != LinkState::Connected {
            if status.state == LinkState::Error && self.model.is_forked(slot) {
                return None; // unrelated data is not replaced without force
            }
            return Some(format!("slot {slot} of node {index}: {:?} {:?}", status.state, status.why));
        }
        let same = here.last_seq == above.last_seq && here.history == above.history;
        (!same || !matches!(here.role, Role::Replica { .. })).then(|| {
            format!(
                "slot {slot} of node {index}: {:?} at {}, {upstream} at {}",
                here.role, here.last_seq, above.last_seq
            )
        })
    }
}
