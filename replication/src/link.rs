//! What one upstream brings to this node's engine: carries out what the link's receiver decides.
//!
//! No socket inside: messages come in by [`Link::on_message`] and go out by [`Link::take_out`]. Calls wait for the
//! disk, so each link has a thread of its own. What came in one go is written with one write and acknowledged with
//! one message: [`Link::finish_batch`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use haypile_engine::copy::{CopyImport, Load};
use haypile_engine::engine::Engine;
use haypile_engine::planted::{self, Bug};
use haypile_engine::slot::Role;
use haypile_engine::types::{NodeId, Seq, Slot};
use tokio::sync::oneshot;

use crate::message::{AskState, Held, Message, SlotAsk};
use crate::peer::without;
use crate::receiver::{Action, Event, Question, Receiver};
use crate::registry::{AskedOutcome, LinkCommand, PeerCommand, Registry};
use crate::status::{Done, Note};
use crate::told::Repeats;

/// Questions in one message: histories may be long.
const QUESTIONS_MAX: usize = 64;
/// How long to wait for the master's answer to a handover beyond what it was given.
const HANDOVER_GRACE_MS: u64 = 3000;

/// A handover that this node asked for.
struct Asked {
    slots: BTreeSet<Slot>,
    /// Those that are this node's and that the old owner does not know of yet.
    unconfirmed: BTreeSet<Slot>,
    outcome: AskedOutcome,
    held_ms: u32,
    deadline_ms: u64,
    done: oneshot::Sender<AskedOutcome>,
}

/// A copy that comes.
struct Import<'e> {
    copy: CopyImport<'e>,
    /// Whether a run has begun and not ended.
    in_run: bool,
}

/// See the file's head.
pub struct Link<'e> {
    engine: &'e Engine,
    registry: Arc<Registry>,
    upstream: String,
    /// Who answers there, while the connection stands.
    node: Option<NodeId>,
    receiver: Arc<Mutex<Receiver>>,
    imports: HashMap<Slot, Import<'e>>,
    loads: Vec<Load>,
    /// Slots that go on from what they hold.
    agreed: Vec<Slot>,
    grants: Vec<Slot>,
    acks: BTreeMap<Slot, Seq>,
    ack_due: bool,
    asked: BTreeMap<u64, Asked>,
    asked_count: u64,
    out: Vec<Message>,
    broken: Option<String>,
    /// Failures of slots that the log was told of.
    repeats: Repeats,
}

impl<'e> Link<'e> {
    /// A link that no slot is attached to. `receiver` is shared with whoever wants to look.
    pub fn new(
        engine: &'e Engine,
        registry: Arc<Registry>,
        upstream: String,
        receiver: Arc<Mutex<Receiver>>,
    ) -> Link<'e> {
        Link {
            engine,
            registry,
            upstream,
            node: None,
            receiver,
            imports: HashMap::new(),
            loads: Vec::new(),
            agreed: Vec::new(),
            grants: Vec::new(),
            acks: BTreeMap::new(),
            ack_due: false,
            asked: BTreeMap::new(),
            asked_count: 0,
            out: Vec::new(),
            broken: None,
            repeats: Repeats::default(),
        }
    }

    /// Messages that are to be sent, in order.
    pub fn take_out(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.out)
    }

    /// How many slots are attached.
    #[must_use]
    pub fn slot_count(&self) -> usize {
        self.locked().slot_count()
    }

    /// Whether copies come.
    #[must_use]
    pub fn is_importing(&self) -> bool {
        !self.imports.is_empty()
    }

    /// The connection stands.
    pub fn connected(&mut self, node: NodeId, now_ms: u64) {
        self.node = Some(node);
        self.registry.note_link_node(&self.upstream, node);
        self.feed(Event::Connected, now_ms);
    }

    /// There is no connection (any more).
    pub fn disconnected(&mut self, why: &str, now_ms: u64) {
        self.broken = None;
        self.ack_due = false;
        self.acks.clear();
        // What was not begun needs no end: the slots are asked for again.
        self.loads.clear();
        self.agreed.clear();
        self.grants.clear();
        self.out.clear();
        self.feed(Event::Disconnected(why.to_owned()), now_ms);
        self.out.clear();
        self.node = None;
        for (_, mut asked) in std::mem::take(&mut self.asked) {
            // Those that only lack the old owner's confirmation are done.
            asked.outcome.lost = (!asked.slots.is_empty()).then(|| {
                format!(
                    "the connection to {} was lost during the handover ({why}): it either did not happen, or is \
                     finished as soon as both nodes are connected; pkcluster info slot shows which",
                    self.upstream
                )
            });
            asked.finish();
        }
    }

    /// The master said something.
    pub fn on_message(&mut self, message: Message, now_ms: u64) {
        self.feed(Event::Message(message), now_ms);
    }

    /// Somebody on this node wants something.
    pub fn on_command(&mut self, command: LinkCommand, now_ms: u64) {
        match command {
            LinkCommand::Attach { slots, force } => self.feed(Event::Attach { slots, force }, now_ms),
            LinkCommand::Detach { slots, done } => {
                self.finish_batch(now_ms);
                self.feed(Event::Detach(slots), now_ms);
                // Whoever asked may have given up waiting.
                let _ = done.send(());
            }
            LinkCommand::Handover { slots, patience_ms, done } => {
                if !self.locked().is_connected() {
                    let lost = Some(format!("{} is not connected", self.upstream));
                    // Whoever asked may have given up waiting.
                    let _ = done.send(AskedOutcome { lost, ..AskedOutcome::default() });
                    return;
                }
                self.asked_count += 1;
                let id = self.asked_count;
                self.out.push(Message::HandoverAsk { id, deadline_ms: patience_ms, slots: slots.clone() });
                let deadline_ms = now_ms + u64::from(patience_ms) + HANDOVER_GRACE_MS;
                let asked = Asked {
                    slots: slots.into_iter().collect(),
                    unconfirmed: BTreeSet::new(),
                    outcome: AskedOutcome::default(),
                    held_ms: 0,
                    deadline_ms,
                    done,
                };
                self.asked.insert(id, asked);
            }
            LinkCommand::Stop => {}
        }
    }

    /// Time went by.
    pub fn on_time(&mut self, now_ms: u64) {
        self.feed(Event::Tick, now_ms);
        let late: Vec<u64> =
            self.asked.iter().filter(|(_, asked)| asked.deadline_ms <= now_ms).map(|(id, _)| *id).collect();
        for id in late {
            let Some(mut asked) = self.asked.remove(&id) else { continue };
            // Those that only lack the old owner's confirmation are done.
            asked.outcome.failures.extend(asked.slots.first().map(|slot| {
                format!("no answer from {} to the handover of slot {slot} in time", self.upstream)
            }));
            asked.finish();
        }
    }

    /// When something has to be done whatever comes.
    #[must_use]
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.asked.values().map(|asked| asked.deadline_ms).min()
    }

    /// Everything that came in one go has been handed in: write it, install what is due, acknowledge.
    ///
    /// # Errors
    /// Why the connection has to end.
    pub fn finish_batch(&mut self, now_ms: u64) -> Option<String> {
        self.flush_loads(now_ms);
        if !self.agreed.is_empty()
            && let Err(error) = self.engine.forget_force(&std::mem::take(&mut self.agreed))
        {
            self.broken.get_or_insert(error.to_string());
        }
        if (self.ack_due || !self.grants.is_empty())
            && !planted::is(Bug::EarlyAck)
            && let Err(error) = self.engine.write()
        {
            self.broken.get_or_insert(error.to_string());
        }
        if self.broken.is_none() && self.ack_due {
            self.ack_due = false;
            let slots = std::mem::take(&mut self.acks).into_iter().collect();
            let bytes = self.locked().received_bytes();
            self.out.push(Message::Ack { bytes, slots });
        }
        if self.broken.is_none() {
            self.take_grants(now_ms);
        }
        self.broken.take()
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Receiver> {
        self.receiver.lock().expect("no code panics under this lock")
    }

    fn feed(&mut self, event: Event, now_ms: u64) {
        let actions = self.locked().on(event, now_ms);
        for action in actions {
            self.act(action, now_ms);
        }
    }

    fn act(&mut self, action: Action, now_ms: u64) {
        match action {
            Action::Send(message) => self.out.push(message),
            Action::Ask(questions) => {
                self.flush_loads(now_ms);
                // The master takes the question for an acknowledgement of all before it.
                if !planted::is(Bug::AskedUnwritten)
                    && let Err(error) = self.engine.write()
                {
                    self.broken.get_or_insert(error.to_string());
                    return;
                }
                for questions in questions.chunks(QUESTIONS_MAX) {
                    let asks = questions.iter().map(|question| self.ask(*question)).collect();
                    self.out.push(Message::Follow(asks));
                }
            }
            Action::Append(records) => {
                let failed = self.flush_loads(now_ms);
                // What follows a copy that could not begin is of another history than what is here.
                let records = if failed.is_empty() { records } else { without(&records, &failed) };
                self.append(&records, now_ms);
            }
            Action::Agreed(slot) => self.agreed.push(slot),
            Action::SetTimes(times) => {
                times.into_iter().for_each(|(slot, time)| self.engine.set_slot_time(slot, time));
            }
            Action::StartLoading { slot, head } => {
                // Whoever follows the slot here gets nothing of its old content from now on.
                self.registry.tell_peers(&PeerCommand::Replaced(slot));
                self.loads.push(Load {
                    slot,
                    history: head.history,
                    base: head.base,
                    keys: head.keys,
                    time: head.time,
                    granted: head.granted,
                    complete: head.runs == 0,
                });
            }
            Action::ImportRun { slot, of, from } => {
                self.flush_loads(now_ms);
                if self.locked().status(slot).is_none_or(|status| status.copy.is_none()) {
                    return; // the slot could not be made ready: it is asked for again
                }
                let Some(source) = self.node else { return };
                if !self.imports.contains_key(&slot) {
                    match self.engine.importer(slot, source) {
                        Ok(copy) => drop(self.imports.insert(slot, Import { copy, in_run: false })),
                        Err(error) => return self.import_failed(slot, &error, now_ms),
                    }
                }
                let begun = self.in_run(slot, false).map(|import| {
                    import.in_run = true;
                    import.copy.begin_run(of, from)
                });
                if let Some(Err(error)) = begun {
                    self.import_failed(slot, &error, now_ms);
                }
            }
            Action::ImportChunk(slot, data) => {
                if let Some(Err(error)) = self.in_run(slot, true).map(|import| import.copy.chunk(&data)) {
                    self.import_failed(slot, &error, now_ms);
                }
            }
            Action::ImportRunEnd(slot) => {
                let ended = self.in_run(slot, true).map(|import| {
                    import.in_run = false;
                    import.copy.end_run()
                });
                if let Some(Err(error)) = ended {
                    self.import_failed(slot, &error, now_ms);
                }
            }
            Action::ImportEnd(slot) => {
                if self.in_run(slot, false).is_none() {
                    return;
                }
                if let Some(import) = self.imports.remove(&slot) {
                    match import.copy.finish() {
                        Ok(()) => {
                            tracing::info!(%slot, upstream = %self.upstream, "a slot's copy is installed");
                            self.registry.tell_peers(&PeerCommand::Ready(slot));
                            self.feed(Event::Imported(slot), now_ms);
                        }
                        Err(error) => self.import_failed(slot, &error, now_ms),
                    }
                }
            }
            Action::ImportSuspend(slot) => {
                if let Some(import) = self.imports.remove(&slot)
                    && let Err(error) = import.copy.suspend()
                {
                    tracing::warn!(%slot, upstream = %self.upstream, %error, "what came of a copy is lost");
                }
            }
            Action::Acknowledge(slots) => {
                self.ack_due = true;
                self.acks.extend(slots);
            }
            Action::TakeGrant(slot) => self.grants.push(slot),
            Action::HandoverAnswered { id, held_ms, slots } => self.answered(id, held_ms, slots),
            Action::GrantDone(slots) => self.confirmed(&slots),
            Action::MakeReady(id) => {
                // Nobody is held back yet.
                if let Err(error) = self.engine.sync() {
                    self.broken.get_or_insert(error.to_string());
                }
                self.out.push(Message::HandoverReady(id));
            }
            Action::Disconnect(why) => {
                self.broken.get_or_insert(why);
            }
        }
    }

    /// A question with what is here of a copy from the node that is asked.
    fn ask(&self, question: Question) -> SlotAsk {
        let mut ask = ask(self.engine, question);
        if ask.state == AskState::Loading
            && let Some((source, parts)) = self.engine.held_parts(question.slot)
            && Some(source) == self.node
        {
            ask.held = parts.iter().map(|part| Held { of: part.of, here: part.here }).collect();
        }
        ask
    }

    /// The copy of a slot, if it stands where what came makes sense: within a run or between two. A master that sends
    /// anything else, the end of a copy of which no run came among it, is not to be trusted: the connection ends, or the
    /// slot would wait for ever.
    fn in_run(&mut self, slot: Slot, within: bool) -> Option<&mut Import<'e>> {
        let import = self.imports.get_mut(&slot).filter(|import| import.in_run == within);
        if import.is_none() {
            self.broken.get_or_insert(format!("slot {slot}: the parts of a copy in a wrong order"));
        }
        import
    }

    fn append(&mut self, records: &[u8], now_ms: u64) {
        match self.engine.append_replicated(records) {
            Ok(appended) => {
                self.feed(Event::Appended(appended.applied), now_ms);
                for (slot, error) in appended.failed {
                    if let Some(left_out) = self.repeats.news(&error.to_string(), now_ms) {
                        tracing::warn!(%slot, upstream = %self.upstream, %error, left_out, "records were refused");
                    }
                    self.acks.remove(&slot);
                    self.feed(Event::Failed { slot, why: error.to_string() }, now_ms);
                }
                self.ack_due = true;
            }
            Err(error) => {
                self.broken.get_or_insert(error.to_string());
            }
        }
    }

    fn import_failed(&mut self, slot: Slot, error: &haypile_engine::error::Error, now_ms: u64) {
        if let Some(left_out) = self.repeats.news(&error.to_string(), now_ms) {
            tracing::warn!(%slot, upstream = %self.upstream, %error, left_out, "a slot's copy failed");
        }
        if let Some(Err(error)) = self.imports.remove(&slot).map(|import| import.copy.discard()) {
            tracing::warn!(%slot, %error, "what came of a copy can't be given up");
        }
        self.feed(Event::Failed { slot, why: format!("the copy failed: {error}") }, now_ms);
    }

    /// Begins all copies that were announced, with one durable step. Says which could not begin.
    fn flush_loads(&mut self, now_ms: u64) -> Vec<Slot> {
        if self.loads.is_empty() {
            return Vec::new();
        }
        let loads = std::mem::take(&mut self.loads);
        match self.engine.start_loading(&loads) {
            Ok(()) => {
                // Only now: what was acknowledged of the former content until then counts no more.
                loads.iter().for_each(|load| self.registry.acks().forget(load.slot));
                for load in loads.iter().filter(|load| load.complete) {
                    self.registry.tell_peers(&PeerCommand::Ready(load.slot));
                }
                Vec::new()
            }
            Err(error) => {
                let failed = loads.iter().map(|load| load.slot).collect();
                for load in loads {
                    if let Some(left_out) = self.repeats.news(&error.to_string(), now_ms) {
                        tracing::warn!(slot = %load.slot, %error, left_out, "a slot can't be made ready for its copy");
                    }
                    self.acks.remove(&load.slot);
                    self.grants.retain(|slot| *slot != load.slot);
                    self.feed(Event::Failed { slot: load.slot, why: error.to_string() }, now_ms);
                }
                failed
            }
        }
    }

    /// Begins the next epoch of the slots that were granted to this node, with one durable step.
    fn take_grants(&mut self, now_ms: u64) {
        let slots = std::mem::take(&mut self.grants);
        if slots.is_empty() {
            return;
        }
        if let Err(error) = self.engine.take_grants(&slots) {
            // Another thread may have answered the old owner for one of them: see `grants`.
            tracing::debug!(%error, "granted slots can't be taken together");
        }
        let mut taken = Vec::with_capacity(slots.len());
        for slot in slots {
            if self.engine.role(slot) != Role::Master
                && let Err(error) = self.engine.take_grants(&[slot])
            {
                // The old owner asks again: see `grants`.
                tracing::error!(%slot, %error, "a granted slot can't be taken");
                continue;
            }
            let epoch = self.engine.position(slot).history.current().expect("a promoted slot has an epoch");
            tracing::info!(%slot, from = %self.upstream, %epoch, "a slot was taken over");
            for asked in self.asked.values_mut() {
                if asked.slots.remove(&slot) {
                    asked.unconfirmed.insert(slot);
                    let done = Done::HandedOver { from: self.upstream.clone(), held_ms: asked.held_ms };
                    asked.outcome.done.push(Note { slot, done });
                }
            }
            taken.push((slot, epoch));
        }
        self.feed(Event::Promoted(taken), now_ms);
    }

    fn answered(&mut self, id: u64, held_ms: u32, slots: Vec<(Slot, Result<Seq, String>)>) {
        let Some(asked) = self.asked.get_mut(&id) else { return };
        asked.held_ms = asked.held_ms.max(held_ms);
        for (slot, outcome) in slots {
            if let Err(why) = outcome
                && asked.slots.remove(&slot)
                && !asked.outcome.failures.contains(&why)
            {
                asked.outcome.failures.push(why);
            }
        }
        self.finish_asked();
    }

    fn confirmed(&mut self, slots: &[Slot]) {
        for asked in self.asked.values_mut() {
            asked.unconfirmed.retain(|slot| !slots.contains(slot));
        }
        self.finish_asked();
    }

    fn finish_asked(&mut self) {
        let over = |asked: &Asked| asked.slots.is_empty() && asked.unconfirmed.is_empty();
        let ids: Vec<u64> = self.asked.iter().filter(|(_, asked)| over(asked)).map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(asked) = self.asked.remove(&id) {
                asked.finish();
            }
        }
    }
}

impl Asked {
    fn finish(self) {
        // Whoever asked may have given up waiting; what was done is done.
        let _ = self.done.send(self.outcome);
    }
}

/// What this node has of a slot, as a question to its master.
#[must_use]
pub fn ask(engine: &Engine, question: Question) -> SlotAsk {
    let Question { slot, number, force } = question;
    let position = engine.position(slot);
    let state = match position.role {
        Role::Loading { .. } if !planted::is(Bug::HalfCopyContinued) => AskState::Loading,
        _ if position.keys == 0 => AskState::Empty,
        _ => AskState::Data,
    };
    // What an operator said outlasts a restart.
    let force = force || position.force;
    let (history, last) = (position.history, position.last_seq);
    SlotAsk { slot, number, history, last, state, force, held: Vec::new() }
}

#[cfg(test)]
mod tests;
