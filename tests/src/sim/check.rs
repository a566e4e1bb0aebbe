//! What has to hold all the while.

use std::collections::BTreeMap;

use haypile_engine::history::History;
use haypile_engine::slot::Role;
use haypile_engine::types::{Seq, Slot};

use super::model::{Held, lives};
use super::node::{Node, contents};
use super::world::World;

impl World<'_> {
    /// At most one node may write to a slot that nobody forked.
    pub(super) fn check_owners(&self) -> Result<(), String> {
        for &slot in self.slots.iter().filter(|slot| !self.model.is_forked(**slot)) {
            let owns = |node: &&Node<'_>| node.role(slot).owns();
            let owners: Vec<usize> = self.nodes.iter().filter(owns).map(|node| node.index).collect();
            if owners.len() > 1 {
                return Err(format!("slot {slot} is owned by nodes {owners:?}"));
            }
        }
        Ok(())
    }

    /// What was granted is remembered: whoever has the granting record has to know of it.
    pub(super) fn learn_grants(&mut self) {
        for node in &self.nodes {
            let Some(engine) = node.engine() else { continue };
            for &slot in &self.slots {
                if let Role::Granted { to, .. } = engine.role(slot) {
                    let position = engine.position(slot);
                    let epoch = position.history.current().expect("a granted slot has an epoch");
                    self.model.granted(slot, epoch, position.last_seq, to);
                }
            }
        }
    }

    pub(super) fn check_something(&mut self) -> Result<(), String> {
        let node = self.random.below(self.nodes.len());
        for slot in self.slots.clone() {
            self.check_state(node, slot)?;
        }
        self.check_kept(node)
    }

    /// What a replica has not acknowledged is in its master's log.
    fn check_kept(&self, node: usize) -> Result<(), String> {
        let Some(running) = self.nodes[node].running.as_ref().filter(|_| self.keeps_log) else {
            return Ok(());
        };
        let engine = running.engine;
        for followed in running.followed.values().filter(|followed| followed.stream) {
            let shipper = followed.peer.shipper();
            let shipper = shipper.lock().expect("no panic");
            for &slot in &self.slots {
                let (position, acked) = (engine.position(slot), shipper.acked(slot));
                let lacks = |acked: &Seq| *acked >= position.base_seq && *acked < position.last_seq;
                if let Some(acked) = acked.filter(lacks)
                    && engine.locate(slot, position.last_seq).is_some()
                    && engine.locate(slot, acked.next()).is_none()
                {
                    return Err(format!(
                        "node {node} slot {slot}: no log after {acked}, which a replica lacks"
                    ));
                }
            }
        }
        Ok(())
    }

    /// What a node holds of a slot is what was written up to its last record.
    pub(super) fn check_state(&self, node: usize, slot: Slot) -> Result<(), String> {
        let Some(engine) = self.nodes[node].engine() else { return Ok(()) };
        let position = engine.position(slot);
        if matches!(position.role, Role::Absent | Role::Loading { .. }) {
            return Ok(());
        }
        let (held, time) = contents(engine, slot)?;
        let all = self.model.state(slot, &position.history, position.last_seq);
        let known = all.len() as u64;
        let expected: BTreeMap<String, Held> =
            all.into_iter().filter(|(_, held)| lives(held, time)).collect();
        if held != expected {
            let wrong = expected.iter().find(|(key, value)| held.get(*key) != Some(value));
            let extra = held.iter().find(|(key, _)| !expected.contains_key(*key));
            return Err(format!(
                "node {node} slot {slot} at {} of {:?}: expected {wrong:?}, surplus {extra:?}",
                position.last_seq, position.history
            ));
        }
        let epoch = position.history.current();
        let granted = epoch.and_then(|epoch| self.model.grant_of(slot, epoch, position.last_seq));
        if let Some(to) = granted
            && position.granted.as_ref().map(|(known, _)| *known) != Some(to)
        {
            return Err(format!(
                "node {node} slot {slot} has record {}, which grants it to {to}, and knows of {:?}",
                position.last_seq, position.granted
            ));
        }
        // What has expired counts until it is reclaimed.
        if position.keys < held.len() as u64 || position.keys > known {
            let (counts, has) = (position.keys, held.len());
            return Err(format!("node {node} slot {slot} counts {counts} keys, has {has} of {known}"));
        }
        Ok(())
    }

    /// What a node has said that it has: each slot with its last record and the history that it is of.
    pub(super) fn acknowledged_by(&self, node: usize) -> Vec<(Slot, Seq, History)> {
        let Some(engine) = self.nodes[node].engine() else { return Vec::new() };
        let masters = self.nodes.iter().filter_map(|other| other.running.as_ref());
        let streams = masters.flat_map(|running| running.followed.values());
        let mut said = Vec::new();
        for followed in streams.filter(|followed| followed.stream && followed.from == engine.node()) {
            let shipper = followed.peer.shipper();
            let shipper = shipper.lock().expect("no panic");
            for &slot in &self.slots {
                let position = engine.position(slot);
                // One that follows another node by now may have given it up.
                if let Some(seq) = shipper.acked(slot).filter(|&seq| seq <= position.last_seq) {
                    said.push((slot, seq, position.history));
                }
            }
        }
        said
    }

    /// A killed node still has what it said that it has.
    pub(super) fn check_acknowledged_by(&mut self, node: usize) -> Result<(), String> {
        let Some(engine) = self.nodes[node].engine() else { return Ok(()) };
        for (slot, seq, history) in std::mem::take(&mut self.nodes[node].acknowledged) {
            let position = engine.position(slot);
            if position.history == history && position.last_seq < seq {
                return Err(format!(
                    "node {node} slot {slot}: acknowledged {seq}, was killed, has {}",
                    position.last_seq
                ));
            }
        }
        Ok(())
    }

    pub(super) fn check_acknowledged(&self) -> Result<(), String> {
        for &slot in self.slots.iter().filter(|slot| !self.model.is_forked(**slot)) {
            let owner = self.nodes.iter().find(|node| node.role(slot) == Role::Master);
            let Some(engine) = owner.and_then(Node::engine) else { continue };
            let position = engine.position(slot);
            let lost = self.model.lost(slot, &position.history, position.last_seq);
            if let Some((epoch, seq)) = lost.first() {
                let count = lost.len();
                return Err(format!(
                    "slot {slot}: {count} acknowledged writes are lost, {seq} of {epoch} first"
                ));
            }
        }
        Ok(())
    }
}
