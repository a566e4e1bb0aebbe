//! Clients: they write to whoever owns a slot, and read from it. What they were told is kept: see `linear`.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use haypile_engine::background::Job;
use haypile_engine::clock::TimeMs;
use haypile_engine::engine::SyncMode;
use haypile_engine::slot::Role;
use haypile_engine::types::Slot;
use haypile_engine::value::Value;
use haypile_replication::acks::Waited;

use super::linear::Act;
use super::model::{Effect, lives};
use super::node::{Node, Unanswered, key, transact};
use super::told;
use super::world::World;

/// Keys of a slot.
const KEYS: usize = 12;
/// The longest time to live that a client gives.
const LIFE_MS_MAX: usize = 6000;

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
        let name = self.name(slot);
        self.written += 1;
        let kind = self.random.below(100);
        let padding = if self.random.chance(1, 8) { 4000 } else { 0 };
        let text = format!("{}{}", self.written, "x".repeat(padding));
        let life_ms = self.random.chance(1, 6).then(|| 1 + self.random.below(LIFE_MS_MAX) as u64);
        let position = engine.position(slot);
        let before = position.last_seq;
        let ((effect, existed), gate) = transact(engine, slot, |tx| match kind {
            0 => {
                tx.clear(slot);
                Ok((Effect::Clear, true))
            }
            1..20 => tx.delete(&key(&name)).map(|existed| (Effect::Delete(name.clone()), existed)),
            _ => {
                let mut value = Value::whole(1, 0, Bytes::from(text.clone()));
                value.expiry = life_ms.map(|life_ms| TimeMs(tx.now(slot).0 + life_ms));
                let effect = Effect::Put(name.clone(), text.clone(), value.expiry);
                tx.put(&key(&name), &value).map(|()| (effect, true))
            }
        })?;
        let pulse = engine.pulse(slot);
        let act = match &effect {
            Effect::Put(..) => Act::Put(self.written),
            Effect::Delete(_) if !existed => Act::Read(None),
            Effect::Delete(_) | Effect::Clear => Act::Delete,
        };
        let sent = match &effect {
            Effect::Clear => self.clients.sent_clear(slot),
            _ => self.clients.sent(slot, &name, act),
        };
        if let Effect::Put(_, _, Some(_)) = effect {
            self.clients.sent(slot, &name, Act::Expire(self.written));
        }
        let expired = self.hidden(node, slot, &name, !existed);
        let mut write = None;
        // A delete that found nothing writes nothing, unless what it found had expired.
        if pulse.last_seq != before {
            let epoch = position.history.current().ok_or("an owner without an epoch")?;
            self.model.wrote(node, slot, epoch, pulse.last_seq, effect)?;
            write = Some((slot, epoch, pulse.last_seq));
            self.note(|| format!("{node} slot {slot} {epoch} {} is written", pulse.last_seq));
        }
        // A reply to who changed nothing waits for no replica.
        let wait = write.and_then(|(slot, _, seq)| {
            self.nodes[node].running.as_ref()?.registry.acks().wait(&[(slot, seq)], self.ack)
        });
        self.answer_later(node, Unanswered { gate, wait, write, sent, expired });
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
        let name = self.name(slot);
        let ((value, time), gate) =
            transact(engine, slot, |tx| tx.get(&key(&name)).map(|value| (value, tx.now(slot))))?;
        let value = value.map(|value| String::from_utf8_lossy(&value.payload).into_owned());
        let position = engine.position(slot);
        let expected = self.model.state(slot, &position.history, position.last_seq).remove(&name);
        let expected = expected.filter(|held| lives(held, time)).map(|(text, _)| text);
        if value != expected {
            return Err(format!("a client of node {node} reads {value:?} at {name}, not {expected:?}"));
        }
        let told = self.model.expired_until(slot);
        if time < told {
            return Err(format!(
                "node {node} slot {slot}: a client was told of {told:?}, now it is {time:?}"
            ));
        }
        let lost = self.model.lost(slot, &position.history, position.last_seq);
        if let Some((epoch, seq)) = lost.first() {
            return Err(format!(
                "a client of node {node} reads slot {slot} without {seq} of {epoch}, which was acknowledged"
            ));
        }
        let expired = self.hidden(node, slot, &name, value.is_none());
        let sent = self.clients.sent(slot, &name, Act::Read(value.as_deref().map(number_of)));
        self.answer_later(node, Unanswered { gate, wait: None, write: None, sent, expired });
        Ok(())
    }

    /// The name of one of the slot's keys.
    fn name(&mut self, slot: Slot) -> String {
        format!("{{{}}}{}", self.tags[&slot], self.random.below(KEYS))
    }

    /// When what a client hears to be gone had expired, if it had.
    fn hidden(&self, node: usize, slot: Slot, name: &str, gone: bool) -> Option<(Slot, TimeMs)> {
        let position = self.nodes[node].engine().filter(|_| gone)?.position(slot);
        let (_, until) = self.model.state(slot, &position.history, position.last_seq).remove(name)?;
        until.map(|until| (slot, until))
    }

    fn answer_later(&mut self, node: usize, unanswered: Unanswered) {
        let running = self.nodes[node].running.as_mut().expect("who carried it out runs");
        running.unanswered.push(unanswered);
    }

    pub(super) fn answer_clients(&mut self, node: usize) -> Result<(), String> {
        // Where nothing has to be synced little is, so that a loss of power takes something.
        let often = if self.tails && self.sync == SyncMode::EverySec { 16 } else { 2 };
        let sync = self.random.chance(1, often);
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
                    let Unanswered { write, sent, expired, .. } = unanswered;
                    self.clients.answered(&sent);
                    if let Some((slot, epoch, seq)) = write {
                        self.model.acknowledged(slot, epoch, seq);
                    }
                    expired.into_iter().for_each(|(slot, until)| self.model.told_expired(slot, until));
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

/// Which write's value it is.
fn number_of(value: &str) -> u64 {
    value.trim_end_matches('x').parse().expect("values begin with their number")
}
