//! What operators do in a simulation, as `replication/src/hub.rs` does it: with its questions before, and its
//! refusals.

use haypile_engine::engine::Engine;
use haypile_engine::slot::Role;
use haypile_engine::types::Slot;
use haypile_replication::link::ask;
use haypile_replication::message::{Message, Reason, Verdict};
use haypile_replication::peer::Peer;
use haypile_replication::receiver::{LinkState, Question};
use haypile_replication::registry::PeerCommand;
use tokio::sync::mpsc::unbounded_channel;

use super::node::{address, node_at};
use super::told;
use super::world::{World, handover};

use std::sync::Arc;

impl World<'_> {
    /// One command of some kind, on some node, for some slot.
    pub(super) fn operate(&mut self) -> Result<(), String> {
        let node = self.random.below(self.nodes.len());
        let slot = *self.random.pick(&self.slots).expect("there are slots");
        let other = self.random.below(self.nodes.len());
        let force = self.wild && self.random.chance(1, 6);
        if self.nodes[node].running.is_none() {
            return Ok(());
        }
        let position = self.nodes[node].engine().expect("it runs").position(slot);
        match position.role {
            Role::Absent => {
                if let Err(wrong) = self.add(node, slot) {
                    // Whether it is there shows at the next start.
                    self.model.fork(slot);
                    return Err(wrong);
                }
                let target = self.owner(slot, node).filter(|_| self.random.chance(2, 3)).unwrap_or(other);
                // Whoever meant to follow and may not gives the slot back: its owner may be down.
                let followed = match self.follow(node, slot, target, false) {
                    Ok(false) => self.remove(node, slot),
                    done => done.map(drop),
                };
                // A disk failed between the two commands: the slot stays added where another node owns it.
                if let Err(wrong) = followed {
                    self.model.fork(slot);
                    return Err(wrong);
                }
            }
            Role::Moved { .. } if self.random.chance(1, 4) => self.remove(node, slot)?,
            Role::Moved { .. } => {
                self.follow(node, slot, other, force)?;
            }
            Role::Master | Role::Owed if self.wild && self.random.chance(1, 8) => {
                self.follow(node, slot, other, force)?;
            }
            Role::Master if self.random.chance(1, 2) => self.hand_over(node, slot),
            Role::Granted { .. } if force => {
                self.model.fork(slot);
                let undone = self.nodes[node].engine().expect("it runs").undo_grant(slot);
                self.note(|| {
                    format!("operator: {node} slot {slot} takes its grant back: {:?}", undone.err())
                });
            }
            Role::Replica { .. } | Role::Loading { .. } => match self.random.below(10) {
                0 => self.remove(node, slot)?,
                1..3 => {
                    self.follow(node, slot, other, force)?;
                }
                _ => self.no_one(node, slot, force)?,
            },
            _ => {}
        }
        Ok(())
    }

    /// The node that owns a slot, other than one.
    fn owner(&self, slot: Slot, but: usize) -> Option<usize> {
        let owns = |role: &Role| role.owns() || matches!(role, Role::Granted { .. });
        self.nodes.iter().find(|n| n.index != but && owns(&n.role(slot))).map(|n| n.index)
    }

    /// `addslots`.
    pub(super) fn add(&mut self, node: usize, slot: Slot) -> Result<(), String> {
        self.note(|| format!("operator: {node} adds slot {slot}"));
        let engine = self.nodes[node].engine().expect("it runs");
        engine.add_slots(&[slot]).map_err(|error| format!("addslots on node {node}: {}", told(&error)))
    }

    fn remove(&mut self, node: usize, slot: Slot) -> Result<(), String> {
        let now_ms = self.now_ms();
        let upstream = self.nodes[node].unfollow(slot, now_ms);
        self.note(|| format!("operator: {node} removes slot {slot}"));
        let running = self.nodes[node].running.as_ref().expect("it runs");
        running.engine.remove_slots(&[slot]).map_err(|error| format!("removeslots: {}", told(&error)))?;
        running.registry.tell_peers(&PeerCommand::Dropped(slot));
        self.removed.insert((node, slot));
        if let Some(upstream) = upstream {
            self.link_turn(node, &upstream);
        }
        Ok(())
    }

    /// `slotsslaveof <target> <slot>`. Says whether it was accepted.
    fn follow(&mut self, node: usize, slot: Slot, target: usize, force: bool) -> Result<bool, String> {
        let now_ms = self.now_ms();
        let engine = self.nodes[node].engine().expect("it runs");
        let role = engine.role(slot);
        if node == target || matches!(role, Role::Absent | Role::Fenced | Role::Granted { .. }) {
            return Ok(false);
        }
        if self.parted(node, target) {
            return Ok(false);
        }
        let Some(running) = &self.nodes[target].running else { return Ok(false) };
        let (registry, upstream) = (Arc::clone(&running.registry), address(target));
        let mut peer = Peer::new(Arc::clone(running.engine), registry, engine.node(), address(node));
        let question = ask(engine, Question { slot, number: 0, force });
        peer.on_message(Message::Probe(vec![question]), now_ms)?;
        let answer = peer.take_out().next();
        let Some(Message::ProbeAnswer(answers)) = answer else {
            return Err(format!("{answer:?} to a probe"));
        };
        let verdict = answers.first().map(|(_, verdict, _)| *verdict);
        self.note(|| format!("operator: {node} slot {slot} follows {target}, force {force}: {verdict:?}"));
        match verdict {
            Some(Verdict::Continue | Verdict::Copy | Verdict::Refused(Reason::NotReady)) => {}
            _ => return Ok(false),
        }
        // An owner that follows gives up what only it has; a slot that was just added has nothing.
        if force || (role.owns() && engine.position(slot).last_seq.0 > 0) {
            self.model.fork(slot);
        }
        let before = self.nodes[node].unfollow(slot, now_ms);
        let turn = if force { Engine::follow_by_force } else { Engine::follow };
        turn(engine, &[slot], &upstream).map_err(|error| format!("slotsslaveof: {}", told(&error)))?;
        self.nodes[node].attach(slot, &upstream, force, now_ms);
        if let Some(before) = before {
            self.link_turn(node, &before);
        }
        self.link_turn(node, &upstream);
        Ok(true)
    }

    /// `handover <a node that follows> <slot>`, on the owner.
    fn hand_over(&mut self, node: usize, slot: Slot) {
        let peers = self.nodes[node].running.as_ref().expect("it runs").registry.peers();
        let Some((_, peer)) = self.random.pick(&peers) else { return };
        let (commands, address) = (peer.commands.clone(), peer.address.clone());
        self.note(|| format!("operator: {node} hands slot {slot} over to {address}"));
        self.handovers += 1;
        let (done, _) = unbounded_channel();
        // A connection that ended meanwhile does nothing.
        let _ = commands.send(PeerCommand::Handover { slots: vec![slot], patience_ms: 3000, done });
    }

    /// The only replica was promoted without its master: it has every write whose reply waited for a replica. One that an
    /// operator removed the slot from has given up what it had said that it has.
    fn check_promoted(&self, node: usize, slot: Slot) -> Result<(), String> {
        let only = self.nodes.len() == 2 && !self.nodes[node].unsure && !self.removed.contains(&(node, slot));
        if self.ack == 0 || !only || self.model.is_forked(slot) {
            return Ok(());
        }
        let position = self.nodes[node].engine().expect("it runs").position(slot);
        match self.model.lost(slot, &position.history, position.last_seq).first() {
            None => Ok(()),
            Some((epoch, seq)) => Err(format!(
                "node {node} is promoted in slot {slot} without {seq} of {epoch}, whose reply waited for a replica"
            )),
        }
    }

    /// `slotsslaveof no one <slot>`.
    fn no_one(&mut self, node: usize, slot: Slot, force: bool) -> Result<(), String> {
        let now_ms = self.now_ms();
        let engine = self.nodes[node].engine().expect("it runs");
        let position = engine.position(slot);
        let Role::Replica { upstream } = position.role else { return Ok(()) };
        if !force && position.granted.as_ref().is_some_and(|(to, _)| *to != engine.node()) {
            self.note(|| format!("operator: {node} slot {slot} is detached"));
            let before = self.nodes[node].unfollow(slot, now_ms);
            engine.detach(&[slot]).map_err(|error| format!("detach: {}", told(&error)))?;
            if let Some(before) = before {
                self.link_turn(node, &before);
            }
            return Ok(());
        }
        let running = self.nodes[node].running.as_mut().expect("it runs");
        let status = running.registry.link_of(slot).and_then(|(_, link)| {
            let receiver = link.receiver.lock().expect("no panic");
            Some((receiver.is_connected(), receiver.status(slot)?.state))
        });
        match status {
            Some((true, state)) if state != LinkState::Error && !force => {
                self.note(|| format!("operator: {node} wants slot {slot}"));
                self.handovers += 1;
                let running = self.nodes[node].running.as_mut().expect("it runs");
                if let Some(following) = running.following.get_mut(&upstream) {
                    following.link.on_command(handover(slot), now_ms);
                }
                self.link_turn(node, &upstream);
            }
            _ if self.wild => {
                self.note(|| {
                    format!("operator: {node} slot {slot} is promoted alone, master {:?}", node_at(&upstream))
                });
                let before = self.nodes[node].unfollow(slot, now_ms);
                let promoted = engine.promote(&[slot]).map_err(|error| format!("promote: {}", told(&error)));
                if promoted.is_ok() {
                    self.check_promoted(node, slot)?;
                }
                self.model.fork(slot);
                promoted?;
                if let Some(before) = before {
                    self.link_turn(node, &before);
                }
            }
            _ => {}
        }
        Ok(())
    }
}
