//! Owners that stopped uncleanly ask their replicas for what they lost, as `replication/src/owed.rs` does it; and what has
//! to come of that: whatever a replica had when it was asked is there when the next epoch begins, unless the replica was
//! lost or took too long.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use haypile_engine::slot::Role;
use haypile_engine::types::{NodeId, Seq, Slot};
use haypile_replication::message::{Message, Purpose as HelloPurpose};
use haypile_replication::registry::{Comer, PeerCommand};
use haypile_replication::tail::{Action, Asks, Event, Taking, WhyMissed};

use tokio::sync::mpsc::UnboundedReceiver;

use super::net::{Conn, Purpose};
use super::node::{ConnId, node_at};
use super::told;
use super::world::World;

/// As the product's default.
const TAIL_WAIT_MS: u64 = 2000;
const LOOK_AGAIN_MS: u64 = 1000;
/// A replica that could not be reached is tried again after this.
const DIAL_PAUSE_MS: u64 = 100;

/// A node that asks.
pub struct Asking {
    machine: Taking,
    /// Replicas that are to be reached, and from when on.
    dials: BTreeMap<NodeId, (String, u64)>,
    conns: BTreeMap<ConnId, NodeId>,
    /// What happened to connections.
    lost: Vec<NodeId>,
    /// Nodes that ask to follow by themselves.
    comers: UnboundedReceiver<Comer>,
    /// When those that own a slot meanwhile are asked whether they still do.
    again_ms: u64,
    /// Slots whose epochs are to begin.
    ready: Vec<Slot>,
    /// What replicas had when they were asked, of those that answered.
    had: BTreeMap<(NodeId, Slot), Seq>,
}

impl World<'_> {
    /// A node was started.
    pub(super) fn begin_asking(&mut self, node: usize) -> Result<(), String> {
        for slot in self.slots.clone() {
            if self.nodes[node].role(slot) == Role::Master {
                self.forgive(node, slot);
            }
        }
        let now_ms = self.now_ms();
        let Some(running) = &mut self.nodes[node].running else { return Ok(()) };
        let owed = running.engine.owed();
        if owed.is_empty() {
            self.nodes[node].lost_power = false;
            return Ok(());
        }
        running.owing = Some(Asking {
            machine: Taking::new(owed, TAIL_WAIT_MS, now_ms),
            dials: BTreeMap::new(),
            conns: BTreeMap::new(),
            lost: Vec::new(),
            comers: running.registry.comers(),
            again_ms: now_ms + LOOK_AGAIN_MS,
            ready: Vec::new(),
            had: BTreeMap::new(),
        });
        self.tail_event(node, Event::Start)
    }

    fn asking(&mut self, node: usize) -> Option<&mut Asking> {
        self.nodes[node].running.as_mut()?.owing.as_mut()
    }

    /// A node's turn: replicas that are to be reached, time that is up, epochs that are to begin.
    pub(super) fn ask_for_tails(&mut self, node: usize) -> Result<(), String> {
        let now_ms = self.now_ms();
        let Some(asking) = self.asking(node) else { return Ok(()) };
        for from in std::mem::take(&mut asking.lost) {
            self.tail_event(node, Event::Lost(from))?;
        }
        while let Some((from, address, slot)) =
            self.asking(node).and_then(|asking| asking.comers.try_recv().ok())
        {
            self.tail_event(node, Event::Came(from, address, slot))?;
        }
        let Some(asking) = self.asking(node) else { return Ok(()) };
        if asking.machine.deadline_ms().is_some_and(|deadline_ms| now_ms >= deadline_ms) {
            self.tail_event(node, Event::Tick)?;
        }
        let Some(asking) = self.asking(node) else { return Ok(()) };
        if now_ms >= asking.again_ms && asking.machine.deadline_ms().is_none() {
            asking.again_ms = now_ms + LOOK_AGAIN_MS;
            let owed = self.nodes[node].engine().map(|engine| engine.owed()).unwrap_or_default();
            self.tail_event(node, Event::Again(owed.iter().map(|owed| owed.slot).collect()))?;
        }
        let Some(asking) = self.asking(node) else { return Ok(()) };
        let due = asking.dials.iter().find(|(_, (_, at_ms))| now_ms >= *at_ms);
        if let Some((from, address)) = due.map(|(from, (address, _))| (*from, address.clone())) {
            self.dial_replica(node, from, &address);
        }
        self.begin_owed(node)
    }

    fn dial_replica(&mut self, node: usize, from: NodeId, address: &str) {
        let now_ms = self.now_ms();
        let Some(server) = node_at(address) else { return };
        let up = self.nodes[server].running.is_some() && !self.parted(node, server) && node != server;
        let id = self.conns_made + 1;
        let Some(asking) = self.asking(node) else { return };
        if !up {
            asking.dials.insert(from, (address.to_owned(), now_ms + DIAL_PAUSE_MS));
            return;
        }
        asking.dials.remove(&from);
        asking.conns.insert(id, from);
        self.conns_made = id;
        let mut conn = Conn::new(node, server, Purpose::Tail(from), self.pace(node, server), now_ms);
        conn.send_to_server([Message::Hello { features: 0, purpose: HelloPurpose::Question }], now_ms);
        self.conns.insert(id, conn);
        self.note(|| format!("{node} asks {server} for what it lost #{id}"));
    }

    /// A node is asked: what it has is remembered, to be looked for when the asker's epoch begins.
    pub(super) fn note_asked(&mut self, server: usize, id: ConnId, asks: &Asks) {
        let Some(engine) = self.nodes[server].engine() else { return };
        for &(slot, epoch, last) in asks {
            let position = engine.position(slot);
            let whole = !matches!(position.role, Role::Absent | Role::Loading { .. });
            let upto = Seq(position.last_seq.0 - u64::from(position.granted.is_some()));
            // What its log does not have any more it can't give.
            if whole
                && position.history.current() == Some(epoch)
                && upto > last
                && engine.write().is_ok()
                && engine.locate(slot, last.next()).is_some()
            {
                self.asked.entry(id).or_default().insert(slot, upto);
            }
        }
    }

    /// A replica said something.
    pub(super) fn tail_answer(
        &mut self,
        node: usize,
        id: ConnId,
        from: NodeId,
        message: Message,
    ) -> Result<(), String> {
        let event = match message {
            Message::HelloOk { node: answering, .. } if answering == from => Event::Reached(from),
            Message::HelloOk { .. } => Event::Refused(from),
            Message::Tails(beats) => {
                let had = self.asked.remove(&id).unwrap_or_default();
                if let Some(asking) = self.asking(node) {
                    asking.had.extend(had.into_iter().map(|(slot, upto)| ((from, slot), upto)));
                }
                Event::Has(from, beats)
            }
            Message::Records { more, data, .. } => Event::Records { node: from, more, data },
            other => return Err(format!("an answer to who lost records: {other:?}")),
        };
        self.tail_event(node, event)?;
        self.begin_owed(node)
    }

    /// A connection to a replica is gone.
    pub(super) fn tail_lost(&mut self, node: usize, id: ConnId) {
        if let Some(asking) = self.asking(node)
            && let Some(from) = asking.conns.remove(&id)
        {
            asking.had.retain(|(of, _), _| *of != from);
            asking.lost.push(from);
        }
    }

    fn tail_event(&mut self, node: usize, event: Event) -> Result<(), String> {
        let now_ms = self.now_ms();
        let Some(running) = &mut self.nodes[node].running else { return Ok(()) };
        let (engine, Some(asking)) = (running.engine, &mut running.owing) else { return Ok(()) };
        let mut actions = VecDeque::from(asking.machine.on(event, now_ms));
        let (mut taken, mut hung_up, mut yielded) = (Vec::new(), Vec::new(), Vec::new());
        let mut given_up = Vec::new();
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Dial(from, address) => drop(asking.dials.insert(from, (address, now_ms))),
                Action::Ask(from, asks) => {
                    let id = asking.conns.iter().find(|(_, of)| **of == from).map(|(id, _)| *id);
                    if let Some(conn) = id.and_then(|id| self.conns.get_mut(&id)) {
                        conn.send_to_server([Message::TailAsk(asks)], now_ms);
                    }
                }
                Action::HangUp(from) => {
                    asking.dials.remove(&from);
                    hung_up.extend(asking.conns.extract_if(.., |_, of| *of == from).map(|(id, _)| id));
                }
                Action::Times(beats) => {
                    beats.iter().for_each(|beat| engine.set_owed_time(beat.slot, beat.time));
                }
                Action::Append(from, data) => {
                    let appended = engine.append_tail(&data).map_err(|error| told(&error))?;
                    if let Some((slot, why)) = appended.failed.first() {
                        return Err(format!("node {node} slot {slot}: a replica's tail does not fit: {why}"));
                    }
                    taken.extend(appended.applied.iter().copied());
                    let event = Event::Appended { node: from, lasts: appended.applied, unfit: Vec::new() };
                    actions.extend(asking.machine.on(event, now_ms));
                }
                Action::Begin(slots) => asking.ready.extend(slots),
                Action::Yield(_, slots) => yielded.extend(slots),
                Action::Missed(missed) => {
                    // What its log had it should have given: that is looked for still.
                    if missed.why == WhyMissed::Late {
                        for (slot, ..) in &missed.slots {
                            asking.had.remove(&(missed.node, *slot));
                        }
                    }
                    given_up.push(missed);
                }
            }
        }
        if !taken.is_empty() {
            self.note(|| format!("{node} takes back up to {taken:?}"));
        }
        if !yielded.is_empty() {
            self.note(|| format!("{node} hears that others own {yielded:?} meanwhile"));
        }
        for missed in given_up {
            self.note(|| format!("{node} does without {:?}: {:?}", missed.slots, missed.why));
        }
        hung_up.into_iter().for_each(|id| self.close_client(id, "nothing more is asked"));
        Ok(())
    }

    /// Begins the epochs of slots whose replicas have answered.
    fn begin_owed(&mut self, node: usize) -> Result<(), String> {
        let Some(running) = &self.nodes[node].running else { return Ok(()) };
        let (engine, Some(asking)) = (running.engine, &running.owing) else { return Ok(()) };
        let ready: Vec<Slot> = asking.ready.clone();
        if !ready.is_empty() {
            for &slot in ready.iter().filter(|slot| engine.role(**slot) == Role::Owed) {
                let last = engine.position(slot).last_seq;
                let had = asking.had.iter().filter(|((_, of), _)| *of == slot);
                if let Some(((from, _), upto)) =
                    had.max_by_key(|(_, upto)| **upto).filter(|(_, upto)| **upto > last)
                {
                    return Err(format!(
                        "node {node} slot {slot}: the next epoch begins after {last}, and {from}, which was asked, has {upto}"
                    ));
                }
            }
            let registry = Arc::clone(&running.registry);
            for &slot in ready.iter().filter(|slot| engine.role(**slot) == Role::Owed) {
                self.forgive(node, slot);
            }
            engine.begin_owed(&ready).map_err(|error| told(&error))?;
            ready.iter().for_each(|&slot| registry.tell_peers(&PeerCommand::Ready(slot)));
            self.note(|| format!("{node} begins the epochs that it owed: {ready:?}"));
            for slot in ready {
                self.note_slot(node, slot);
            }
        }
        if let Some(running) = &mut self.nodes[node].running
            && let Some(asking) = &mut running.owing
        {
            asking.ready.clear();
            if asking.machine.is_over() {
                self.taken_back += asking.machine.taken();
                running.owing = None;
                self.nodes[node].lost_power = false;
            }
        }
        Ok(())
    }

    /// A node lost power where nobody was promised that this loses nothing: what it does not have when it serves again is
    /// no lost write.
    pub(super) fn forgive(&mut self, node: usize, slot: Slot) {
        let Some(engine) = self.nodes[node].engine().filter(|_| self.nodes[node].lost_power) else { return };
        let position = engine.position(slot);
        self.model.forgive(node, slot, &position.history, position.last_seq, position.time);
    }
}
