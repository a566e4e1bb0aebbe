//! Clients: they write to whoever owns a slot, and read from it.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use haypile_engine::background::Job;
use haypile_engine::slot::Role;
use haypile_engine::value::Value;
use haypile_replication::acks::Waited;

use super::model::Effect;
use super::node::{Node, Unanswered, key, transact};
use super::told;
use super::world::World;

impl World<'_> {
    pub(super) fn write_something(&mut self) -> Result<(), String> {
        let slot = *self.random.pick(&self.slots).expect("there are slots");
        let owners: Vec<usize> =
            self.nodes.iter().filter(|node| node.role(slot) == Role::Master).map(|node| node.index).collect();
        let Some(&node) = self.random.pick(&owners) else { return Ok(()) };
        let engine = self.nodes[node].engine().expect("an owner runs");
        if engine.is_full() {
            engine.step(Job::Flush).map_err(|error| told(&error))?;
            engine.step(Job::Flush).map_err(|error| told(&error))?;
        }
        let name = format!("{{{}}}{}", self.tags[&slot], self.random.below(12));
        self.written += 1;
        let kind = self.random.below(100);
        let padding = if self.random.chance(1, 8) { 4000 } else { 0 };
        let text = format!("{}{}", self.written, "x".repeat(padding));
        let position = engine.position(slot);
        let before = position.last_seq;
        let (effect, gate) = transact(engine, slot, |tx| match kind {
            0 => {
                tx.clear(slot);
                Ok(Effect::Clear)
            }
            1..20 => tx.delete(&key(&name)).map(|_| Effect::Delete(name.clone())),
            _ => {
                let value = Value::whole(1, 0, Bytes::from(text.clone()));
                tx.put(&key(&name), &value).map(|()| Effect::Put(name.clone(), text.clone()))
            }
        })?;
        let after = engine.pulse(slot).last_seq;
        if after == before {
            return Ok(()); // nothing was there to be deleted
        }
        let epoch = position.history.current().ok_or("an owner without an epoch")?;
        self.model.wrote(node, slot, epoch, after, effect)?;
        let write = (slot, epoch, after);
        let running = self.nodes[node].running.as_mut().expect("an owner runs");
        let wait = running.registry.acks().wait(&[(slot, after)], self.ack);
        running.unanswered.push(Unanswered { gate, wait, write });
        self.note(|| format!("{node} slot {slot} {epoch} {after} is written"));
        if self.random.chance(1, 2) {
            self.answer_clients(node)?;
        }
        Ok(())
    }

    /// A client reads from an owner: it has all that any client was told before.
    pub(super) fn read_something(&mut self) -> Result<(), String> {
        let slot = *self.random.pick(&self.slots).expect("there are slots");
        let owns = |node: &&Node<'_>| matches!(node.role(slot), Role::Master | Role::Fenced);
        let owners: Vec<usize> = self.nodes.iter().filter(owns).map(|node| node.index).collect();
        let Some(&node) = self.random.pick(&owners).filter(|_| !self.model.is_forked(slot)) else {
            return Ok(());
        };
        let engine = self.nodes[node].engine().expect("an owner runs");
        let name = format!("{{{}}}{}", self.tags[&slot], self.random.below(12));
        let (value, _) = transact(engine, slot, |tx| tx.get(&key(&name)))?;
        let value = value.map(|value| String::from_utf8_lossy(&value.payload).into_owned());
        let position = engine.position(slot);
        let expected = self.model.state(slot, &position.history, position.last_seq).remove(&name);
        if value != expected {
            return Err(format!("a client of node {node} reads {value:?} at {name}, not {expected:?}"));
        }
        let lost = self.model.lost(slot, &position.history, position.last_seq);
        if let Some((epoch, seq)) = lost.first() {
            return Err(format!(
                "a client of node {node} reads slot {slot} without {seq} of {epoch}, which was acknowledged"
            ));
        }
        Ok(())
    }

    pub(super) fn answer_clients(&mut self, node: usize) -> Result<(), String> {
        let sync = self.random.chance(1, 2);
        let Some(running) = &mut self.nodes[node].running else { return Ok(()) };
        running.engine.write().map_err(|error| told(&error))?;
        if sync {
            running.engine.step(Job::Sync).map_err(|error| told(&error))?;
        }
        let engine = running.engine;
        let mut context = Context::from_waker(Waker::noop());
        let mut waiting = Vec::new();
        for unanswered in std::mem::take(&mut running.unanswered) {
            let reached = pin!(engine.reached(unanswered.gate)).poll(&mut context);
            let acked = match &unanswered.wait {
                None => Poll::Ready(Waited::Acked),
                Some(wait) => pin!(wait.over()).poll(&mut context),
            };
            match (reached, acked) {
                (Poll::Ready(Err(error)), _) => {
                    return Err(format!("a reply of node {node}: {}", told(&error)));
                }
                (Poll::Ready(Ok(())), Poll::Ready(Waited::Acked)) => {
                    let (slot, epoch, seq) = unanswered.write;
                    self.model.acknowledged(slot, epoch, seq);
                }
                // The client is told that its write may be lost.
                (_, Poll::Ready(Waited::Gone)) => {}
                (Poll::Pending, _) | (_, Poll::Pending) => waiting.push(unanswered),
            }
        }
        self.nodes[node].running.as_mut().expect("it ran before").unanswered = waiting;
        Ok(())
    }
}
