//! What one peer gets from this node's engine: carries out what its shipper and its handovers decide.
//!
//! No socket inside: messages come in by [`Peer::on_message`] and go out by [`Peer::take_out`]. Calls may wait for
//! a disk, so each peer has a thread of its own.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use haypile_engine::clock::TimeMs;
use haypile_engine::copy::{CopySource, part_id, place_of};
use haypile_engine::engine::Engine;
use haypile_engine::log::record::Record;
use haypile_engine::log::{LogReader, ReadOutcome as LogRead};
use haypile_engine::manifest::PartId;
use haypile_engine::planted::{self, Bug};
use haypile_engine::roles::ASKS_REPLICAS;
use haypile_engine::slot::Role;
use haypile_engine::slot_table::{SlotSet, SlotTable};
use haypile_engine::types::{Epoch, Lsn, NodeId, SLOT_COUNT, Seq, Slot};

use crate::acks::Follower;
use crate::copies::Kept;
use crate::decide::{Decision, LogReach, View, decide};
use crate::features::{self, Compress};
use crate::grants::{self, Asked, Taken};
use crate::handover::{self, Handover};
use crate::message::{Beat, CopyHead, CopyId, Held, Message, Purpose, Reason, SlotAsk, Verdict};
use crate::registry::{AnswerTo, Answered, PeerCommand, Registry};
use crate::shipper::{self, Action, CopiesNow, CopyPart, CursorId, Phase, ReadOutcome, Shipper, Work};
use crate::tail::Giving;

/// A piece of a record that is longer than a message.
const PIECE_BYTES: usize = 1 << 20;
/// Messages wait in memory up to this size; then nothing more is read.
const OUT_BYTES_MAX: usize = 2 << 20;
/// With records the peer is told their slots' times, each at most so often. Heartbeats bring all of them.
const TIMES_EVERY_MS: u64 = 100;
/// For so long a peer may sync what it has before slots are handed over to it without that.
const READY_MS_MAX: u64 = 500;
/// A handover may be tried for at most this long.
const HANDOVER_MS_MAX: u32 = 60_000;

struct CopyJob {
    source: CopySource,
    /// Which life of the slot it is of.
    life: u64,
    /// The runs in the order in which they are sent, and how much of each the peer has: what it has comes first, so
    /// that nothing of it has to go for something else.
    order: Vec<(usize, u64)>,
    /// How many of them were sent.
    at: usize,
    begun: bool,
    /// Up to where the run was sent.
    offset: u64,
}

/// Who wants a handover to the peer.
#[derive(Clone)]
enum Asker {
    /// The peer, by its question's number.
    Peer(u64),
    /// This node's operator.
    Here(AnswerTo),
}

struct Attempt {
    /// Names it on the connection.
    number: u64,
    asker: Asker,
    machine: Handover,
    deadline_ms: u64,
    /// Until when it is waited for the peer to be ready.
    ready_by_ms: Option<u64>,
    fenced_at_ms: Option<u64>,
}

/// See the file's head.
pub struct Peer {
    engine: Arc<Engine>,
    registry: Arc<Registry>,
    node: NodeId,
    address: String,
    shipper: Arc<Mutex<Shipper>>,
    /// What its acknowledgements count under.
    follower: Arc<Follower>,
    readers: HashMap<CursorId, LogReader>,
    copies: HashMap<CopyId, CopyJob>,
    /// What the peer said that it has of copies.
    held: HashMap<Slot, Vec<Held>>,
    /// When copies may go on, if they wait for it.
    copies_at_ms: Option<u64>,
    /// Which life of a slot is being sent.
    lives: SlotTable<u64>,
    /// What [`Engine::lives`] was when no slot that is being sent had begun another.
    lives_seen: u64,
    /// When the peer was last told a slot's time.
    times_told_ms: SlotTable<u64>,
    attempts: Vec<Attempt>,
    attempts_made: u64,
    /// Since when slots are fenced, by this node's clock, until the peer said that it took them.
    fenced_at_ms: SlotTable<u64>,
    /// What the peer understands.
    features: u64,
    /// It connected to ask something, and follows nothing.
    only_asks: bool,
    /// The tails that it asked for, as long as there is something to send of them.
    giving: Option<Giving>,
    out: VecDeque<Message>,
    out_bytes: usize,
}

impl Peer {
    /// A peer that follows nothing yet.
    #[must_use]
    pub fn new(engine: Arc<Engine>, registry: Arc<Registry>, node: NodeId, address: String) -> Peer {
        let follower = Arc::new(Follower::new(node, now_ms(&engine)));
        Peer {
            follower,
            engine,
            registry,
            node,
            address,
            shipper: Arc::new(Mutex::new(Shipper::new(node))),
            readers: HashMap::new(),
            copies: HashMap::new(),
            held: HashMap::new(),
            copies_at_ms: None,
            lives: SlotTable::default(),
            lives_seen: 0,
            times_told_ms: SlotTable::default(),
            attempts: Vec::new(),
            attempts_made: 0,
            fenced_at_ms: SlotTable::default(),
            features: features::offered(Compress::No),
            only_asks: false,
            giving: None,
            out: VecDeque::new(),
            out_bytes: 0,
        }
    }

    /// The peer understands this, not what a node of this release does.
    pub fn understands(&mut self, features: u64) {
        self.features = features;
    }

    /// The peer connected for this.
    pub fn came_for(&mut self, purpose: Purpose) {
        self.only_asks = purpose == Purpose::Question;
    }

    /// What the peer gets, for whoever wants to look.
    #[must_use]
    pub fn shipper(&self) -> Arc<Mutex<Shipper>> {
        Arc::clone(&self.shipper)
    }

    /// What its acknowledgements count under.
    #[must_use]
    pub fn follower(&self) -> Arc<Follower> {
        Arc::clone(&self.follower)
    }

    /// Messages that are to be sent, in order.
    pub fn take_out(&mut self) -> impl Iterator<Item = Message> {
        self.out_bytes = 0;
        std::mem::take(&mut self.out).into_iter()
    }

    /// The peer said something.
    ///
    /// # Errors
    /// If it does not keep to the protocol: the connection is to end.
    pub fn on_message(&mut self, message: Message, now_ms: u64) -> Result<(), String> {
        self.follower.heard(now_ms);
        match message {
            Message::Probe(asks) => {
                let answers = asks.iter().map(|ask| self.probe(ask)).collect();
                self.push(Message::ProbeAnswer(answers));
            }
            Message::Follow(asks) => asks.into_iter().for_each(|ask| self.follow(ask)),
            Message::Unfollow(slots) => {
                for &slot in &slots {
                    self.lives.remove(slot);
                }
                self.held.retain(|slot, _| !slots.contains(slot));
                self.ship(shipper::Event::Unfollow(slots.clone()));
                slots.iter().for_each(|&slot| drop(self.registry.copies().take(self.node, slot)));
            }
            Message::Ack { bytes, slots } => {
                let wanted = slots.iter().filter(|_| self.is_handing_over()).map(|(slot, _)| *slot);
                let acked: Vec<Slot> = wanted.collect();
                self.ship(shipper::Event::Ack { bytes, slots });
                self.handover_progress(&acked, now_ms);
            }
            Message::HandoverAsk { id, deadline_ms, slots } => {
                self.begin_handover(Asker::Peer(id), deadline_ms.min(HANDOVER_MS_MAX), &slots, now_ms);
            }
            Message::HandoverReady(number) => {
                let waits = |attempt: &Attempt| attempt.number == number && attempt.ready_by_ms.is_some();
                if let Some(index) = self.attempts.iter().position(waits) {
                    self.prepared(index, now_ms);
                    self.attempts.retain(|attempt| !attempt.machine.is_over());
                }
            }
            Message::GrantTaken(taken) => self.grant_taken(&taken),
            Message::GrantAsk(asks) => {
                for (slot, ended, seq) in asks {
                    let asked = Asked { by: (self.node, &self.address), slot, ended, seq };
                    let answer = grants::answer(&self.engine, &self.registry, asked);
                    match answer.and_then(|answer| answer.into_message(&self.engine)) {
                        Ok(answer) => self.push(answer),
                        // The old owner asks again.
                        Err(error) => {
                            return Err(format!("a grant of slot {slot} can't be settled: {error}"));
                        }
                    }
                }
            }
            Message::TailAsk(asks) if asks.len() > usize::from(SLOT_COUNT) => {
                return Err("it asks for the tails of more slots than there are".to_owned());
            }
            Message::TailAsk(asks) => {
                let heirs = self.features & features::HEIRS != 0;
                let (tails, giving) = Giving::look(&self.engine, &asks, heirs);
                self.push(Message::Tails(tails));
                self.giving = giving;
            }
            Message::UpstreamAsk(slots) => {
                let upstreams = slots.into_iter().map(|slot| (slot, self.upstream_of(slot))).collect();
                self.push(Message::Upstreams(upstreams));
            }
            // Whoever asks something is there still; it follows nothing.
            Message::Pong if self.only_asks => {}
            // Keeps the registration alive while nothing is written.
            Message::Pong => self.engine.register_replica(self.node, &self.address),
            other => return Err(format!("a replica sent what a master sends: {other:?}")),
        }
        Ok(())
    }

    /// Something happened on this node.
    pub fn on_command(&mut self, command: PeerCommand, now_ms: u64) {
        match command {
            PeerCommand::Replaced(slot) => self.ship(shipper::Event::Replaced(slot)),
            PeerCommand::Ready(slot) => self.ship(shipper::Event::Ready(slot)),
            PeerCommand::Dropped(slot) => self.ship(shipper::Event::Dropped(slot)),
            PeerCommand::Handover { slots, patience_ms, done } => {
                let asked = Asker::Here(done);
                self.begin_handover(asked, patience_ms.min(HANDOVER_MS_MAX), &slots, now_ms);
            }
            PeerCommand::Stop(_) => {}
        }
    }

    /// The log has grown.
    pub fn log_grew(&mut self) {
        self.ship(shipper::Event::LogGrew);
    }

    /// Reads and gathers until there is nothing to do or enough to send. Says whether there is more to do.
    ///
    /// # Errors
    /// If what was promised can't be sent any more: the connection is to end.
    pub fn pump(&mut self) -> Result<bool, String> {
        self.give_tails()?;
        self.copies_at_ms = None;
        while self.out_bytes < OUT_BYTES_MAX {
            let (copies_max, wait) = (self.registry.copies().slots_max(), self.copies_wait());
            let mut shipper = self.locked();
            shipper.set_copies_max(copies_max);
            let now = if wait.is_some() { CopiesNow::Wait } else { CopiesNow::Go };
            let work = shipper.work(now);
            drop(shipper);
            let Some(work) = work else {
                self.copies_at_ms = wait;
                return Ok(false);
            };
            let event = match work {
                Work::ReadLog { cursor, from } => {
                    shipper::Event::Read { cursor, outcome: self.read_log(cursor, from) }
                }
                Work::ReadCopy(copy) => self.read_copy(copy),
                Work::Flush => shipper::Event::Flush,
            };
            self.ship(event);
        }
        Ok(true)
    }

    /// Sends on what an owner lost.
    fn give_tails(&mut self) -> Result<(), String> {
        while self.out_bytes < OUT_BYTES_MAX
            && let Some(giving) = &mut self.giving
        {
            let piece = giving.next(&self.engine)?;
            let is_over = giving.is_over();
            self.push_records(piece, Vec::new());
            if is_over {
                self.giving = None;
                // That is all: who waits for more waits in vain.
                self.push(Message::Records { more: false, times: Vec::new(), data: Bytes::new() });
            }
        }
        Ok(())
    }

    /// Where to wait for the log to grow, if that is what is waited for.
    #[must_use]
    pub fn waits_at(&self) -> Option<Lsn> {
        self.locked().waits_at()
    }

    /// Tells the peer the slots' ends and times.
    pub fn heartbeat(&mut self) {
        let lives = self.engine.lives();
        let slots: Vec<Slot> = self.locked().streaming().collect();
        let (stale, slots): (Vec<Slot>, Vec<Slot>) = slots.into_iter().partition(|slot| self.is_stale(*slot));
        self.replaced(stale);
        self.lives_seen = lives;
        let beats: Vec<Beat> = slots.into_iter().map(|slot| self.beat(slot)).collect();
        let now_ms = now_ms(&self.engine);
        beats.iter().for_each(|beat| self.registry.acks().mark(&self.follower, beat.slot, beat.last, now_ms));
        self.push(Message::Heartbeat(beats));
    }

    /// Whether slots are being handed over to the peer: their writers wait.
    #[must_use]
    pub fn is_handing_over(&self) -> bool {
        !self.attempts.is_empty()
    }

    /// When [`Peer::on_time`] wants to be called.
    #[must_use]
    pub fn next_deadline_ms(&self) -> Option<u64> {
        let attempts = self.attempts.iter();
        let deadlines =
            attempts.map(|attempt| attempt.ready_by_ms.unwrap_or(u64::MAX).min(attempt.deadline_ms));
        deadlines.chain(self.copies_at_ms).min()
    }

    /// When copies may be read on, if there are any and it is not yet.
    fn copies_wait(&self) -> Option<u64> {
        let at_ms = self.registry.copies().next_piece_ms(self.now_ms())?;
        self.locked().has_open_copy().then_some(at_ms)
    }

    /// By the clock of the events.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.engine.clock().monotonic().as_millis()).unwrap_or(u64::MAX)
    }

    /// Ends handovers whose time is up.
    pub fn on_time(&mut self, now_ms: u64) {
        for index in 0..self.attempts.len() {
            let Attempt { deadline_ms, ready_by_ms, .. } = self.attempts[index];
            if deadline_ms <= now_ms {
                self.attempt(index, handover::Event::Deadline, now_ms);
            } else if ready_by_ms.is_some_and(|until_ms| until_ms <= now_ms) {
                self.prepared(index, now_ms);
            }
        }
        self.attempts.retain(|attempt| !attempt.machine.is_over());
    }

    /// The connection is gone: nothing stays fenced for it.
    pub fn lost(&mut self, now_ms: u64) {
        self.registry.acks().leave_all(&self.follower);
        for index in 0..self.attempts.len() {
            self.attempt(index, handover::Event::PeerLost, now_ms);
        }
        self.attempts.clear();
        // The end of the connection says it: the peer looks whether this node is still there.
        self.out.retain(|message| !is_refusal(message));
        for (copy, job) in std::mem::take(&mut self.copies) {
            self.keep(copy.slot, job);
        }
        if planted::is(Bug::FenceLiftedEarly) {
            let slots: Vec<Slot> = self.locked().streaming().collect();
            slots.into_iter().for_each(|slot| drop(self.engine.undo_grant(slot)));
        }
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Shipper> {
        self.shipper.lock().expect("no code panics under this lock")
    }

    fn push(&mut self, message: Message) {
        self.out_bytes += match &message {
            Message::Records { data, .. } | Message::CopyChunk { data, .. } => data.len(),
            _ => 64,
        };
        self.out.push_back(message);
    }

    fn beat(&self, slot: Slot) -> Beat {
        let pulse = self.engine.pulse(slot);
        Beat { slot, last: pulse.last_seq, time: pulse.time }
    }

    /// What this node knows of a slot, and where the record after the asker's last lies.
    fn view(&self, ask: &SlotAsk) -> (View, Option<Lsn>, u64) {
        let position = self.engine.position(ask.slot);
        let start = start_of(&self.engine, ask.slot, ask.last.next());
        let follows_asker = match &position.role {
            Role::Replica { upstream } | Role::Loading { upstream } => {
                self.registry.is_upstream(upstream, self.node, &self.address)
            }
            _ => false,
        };
        let view = View {
            role: position.role,
            history: position.history,
            superseded: position.superseded,
            last: position.last_seq,
            log: if start.is_some() { LogReach::There } else { LogReach::Gone },
            follows_asker,
        };
        (view, start, position.life)
    }

    fn probe(&self, ask: &SlotAsk) -> (Slot, Verdict, String) {
        let (verdict, text) = match decide(&self.view(ask).0, self.node, ask) {
            Decision::Continue { .. } => (Verdict::Continue, String::new()),
            Decision::Copy => (Verdict::Copy, String::new()),
            Decision::Refused(reason, text) => (Verdict::Refused(reason), text),
        };
        (ask.slot, verdict, text)
    }

    /// Whom this node follows for a slot; nobody is an empty text.
    fn upstream_of(&self, slot: Slot) -> String {
        match self.engine.role(slot) {
            Role::Replica { upstream } | Role::Loading { upstream } => upstream,
            _ => String::new(),
        }
    }

    fn follow(&mut self, ask: SlotAsk) {
        let slot = ask.slot;
        let (view, start, life) = self.view(&ask);
        let granted = match &view.role {
            Role::Granted { to, .. } if *to == self.node => Some(view.last),
            _ => None,
        };
        if view.role == Role::Owed {
            self.registry.note_comer(self.node, &self.address, slot);
        }
        self.lives.insert(slot, life);
        self.times_told_ms.remove(slot);
        self.held.insert(slot, ask.held.clone());
        self.ship(shipper::Event::Follow { ask, view, start });
        self.enter(slot);
        if let Some(seq) = granted {
            // It lost the connection in the middle of a handover: here is the answer again.
            let slots = vec![(slot, Ok(seq))];
            self.push(Message::HandoverAnswer { id: 0, held_ms: 0, slots });
        }
    }

    /// What the peer acknowledges of the slot counts from now on, if it gets the slot.
    fn enter(&self, slot: Slot) {
        let (phase, acked) = {
            let shipper = self.locked();
            (shipper.phase(slot), shipper.acked(slot))
        };
        if !matches!(phase, Some(Phase::Copying | Phase::Streaming)) {
            return;
        }
        self.registry.acks().enter(&self.follower, slot, acked, now_ms(&self.engine));
        // It began another life since it was looked at, and what it was is forgotten.
        if self.is_stale(slot) {
            self.registry.acks().leave(&self.follower, slot);
        }
    }

    /// Nothing that the peer acknowledged of slots counts any more, if it gets nothing of them.
    fn leave(&self, slots: &[Slot]) {
        for &slot in slots {
            if matches!(self.locked().phase(slot), None | Some(Phase::Waiting)) {
                self.registry.acks().leave(&self.follower, slot);
            }
        }
    }

    fn ship(&mut self, event: shipper::Event) {
        let left = match &event {
            shipper::Event::Unfollow(slots) => slots.clone(),
            shipper::Event::Replaced(slot) | shipper::Event::Dropped(slot) => vec![*slot],
            _ => Vec::new(),
        };
        let actions = self.locked().on(event);
        self.leave(&left);
        for action in actions {
            match action {
                Action::Send(message) => {
                    if let Message::HistoryChanged(slot) | Message::Refused { slot, .. } = &message {
                        self.leave(&[*slot]);
                    }
                    self.push(message);
                }
                Action::SendRecords { slots, data } => self.send_records(slots, data),
                Action::Pin(slot, seq) => self.engine.pin(self.node, slot, seq),
                Action::Acked(slots) => {
                    for &(slot, seq) in &slots {
                        self.registry.acks().acked(&self.follower, slot, seq);
                    }
                    self.engine.replica_acked(self.node, &slots);
                }
                Action::Unpin(slot) => self.engine.unpin(self.node, slot),
                Action::OpenCopy(copy) => {
                    let event = self.open_copy(copy);
                    self.ship(event);
                    self.enter(copy.slot);
                }
                Action::CloseCopy(copy) => {
                    if let Some(job) = self.copies.remove(&copy) {
                        self.keep(copy.slot, job);
                    }
                }
            }
        }
    }

    /// Whether a slot began another life here since the peer was told what it gets.
    fn is_stale(&self, slot: Slot) -> bool {
        self.lives.get(slot) != Some(&self.engine.pulse(slot).life)
    }

    /// The times of those slots whose times the peer was not told of late.
    fn times(&mut self, slots: SlotSet) -> Vec<(Slot, TimeMs)> {
        let now_ms = self.now_ms();
        let mut times = Vec::new();
        for slot in slots.iter() {
            let told = self.times_told_ms.get(slot);
            if told.is_none_or(|told_ms| now_ms.saturating_sub(*told_ms) >= TIMES_EVERY_MS) {
                self.times_told_ms.insert(slot, now_ms);
                times.push((slot, self.engine.pulse(slot).time));
            }
        }
        times
    }

    fn send_records(&mut self, slots: SlotSet, data: Bytes) {
        let stale: Vec<Slot> = if self.engine.lives() == self.lives_seen {
            Vec::new()
        } else {
            slots.iter().filter(|slot| self.is_stale(*slot)).collect()
        };
        let mut sent = slots;
        for &slot in &stale {
            sent.remove(slot);
        }
        let times = self.times(sent);
        let mut data = data;
        if !stale.is_empty() {
            // The slot was replaced between reading and now: these may be another life's records.
            let kept = without(&data, &stale);
            self.locked().take_back((data.len() - kept.len()) as u64);
            data = kept;
            self.replaced(stale);
        }
        self.push_records(data, times);
    }

    /// Whole records, in as many messages as need be.
    fn push_records(&mut self, mut data: Bytes, times: Vec<(Slot, TimeMs)>) {
        while data.len() > PIECE_BYTES {
            let piece = data.split_to(PIECE_BYTES);
            self.push(Message::Records { more: true, times: Vec::new(), data: piece });
        }
        if !data.is_empty() {
            self.push(Message::Records { more: false, times, data });
        }
    }

    /// Slots began another life here after the peer had been told what it gets: it is to ask again, at once or when
    /// there is something to ask for.
    fn replaced(&mut self, slots: Vec<Slot>) {
        for slot in slots {
            self.ship(shipper::Event::Replaced(slot));
            if !matches!(self.engine.role(slot), Role::Loading { .. }) {
                self.ship(shipper::Event::Ready(slot));
            }
        }
    }

    fn read_log(&mut self, cursor: CursorId, from: Lsn) -> ReadOutcome {
        let reader = match self.readers.remove(&cursor) {
            Some(reader) if reader.position() == from => reader,
            _ => self.engine.reader(from),
        };
        let reader = self.readers.entry(cursor).insert_entry(reader).into_mut();
        match reader.next() {
            LogRead::Frame { lsn, next, records } => ReadOutcome::Frame { lsn, next, records },
            LogRead::CaughtUp => ReadOutcome::CaughtUp,
            LogRead::Gone => ReadOutcome::Gone,
            LogRead::Corrupt(error) => {
                tracing::error!(peer = %self.address, %error, "the log can't be read for a replica");
                ReadOutcome::Corrupt(error.to_string())
            }
        }
    }

    /// Keeps a copy that did not come to its end, for when the peer asks again.
    fn keep(&self, slot: Slot, job: CopyJob) {
        if job.at < job.order.len() {
            let CopyJob { source, life, .. } = job;
            self.registry.copies().keep(self.node, slot, Kept { source, life }, self.now_ms());
        }
    }

    /// The copy that the peer got a part of, if it can go on.
    fn kept(&self, slot: Slot, life: u64) -> Option<(CopySource, Lsn)> {
        let kept = self.registry.copies().take(self.node, slot)?;
        let here = kept.life == life && self.held.get(&slot).is_some_and(|held| !held.is_empty());
        if !here {
            return None;
        }
        // It is from here on that the log was kept.
        self.engine.pin(self.node, slot, kept.source.seq);
        let start = start_of(&self.engine, slot, kept.source.seq.next())?;
        Some((kept.source, start))
    }

    fn open_copy(&mut self, copy: CopyId) -> shipper::Event {
        let slot = copy.slot;
        let before = self.engine.position(slot);
        let failed = |reason, why| shipper::Event::CopyFailed { copy, reason, why };
        let (source, start) = match self.kept(slot, before.life) {
            Some(kept) => kept,
            None => match self.new_copy(slot, before.flushed_seq) {
                Ok(new) => new,
                Err(why) => return failed(Reason::NotReady, why),
            },
        };
        let Ok(runs) = u32::try_from(source.runs.len()) else {
            return failed(Reason::Failed, format!("slot {slot} has more than 2^32 runs"));
        };
        let held = self.held.remove(&slot).unwrap_or_default();
        let job = CopyJob::new(source, before.life, &held);
        let source = &job.source;
        let head = CopyHead {
            history: source.history.clone(),
            base: source.seq,
            granted: source.granted.clone().filter(|_| !planted::is(Bug::GrantLostInCopy)),
            keys: source.keys,
            time: source.time,
            runs,
            bytes: source.runs.iter().map(|run| run.meta().len).sum(),
        };
        self.lives.insert(slot, before.life);
        let (bytes, kept, base) = (head.bytes, job.kept_bytes(), head.base);
        tracing::info!(%slot, peer = %self.address, bytes, kept, %base, "a slot is copied");
        self.copies.insert(copy, job);
        shipper::Event::CopyOpened { copy, head, start, now_ms: self.now_ms() }
    }

    fn new_copy(&self, slot: Slot, from: Seq) -> Result<(CopySource, Lsn), String> {
        // The log is kept from here on before the copy is taken, so that what follows it can't go meanwhile.
        if !planted::is(Bug::CopyUnpinned) {
            self.engine.pin(self.node, slot, from);
        }
        let source = self.engine.copy_source(slot).map_err(|error| error.to_string())?;
        let start = start_of(&self.engine, slot, source.seq.next())
            .ok_or_else(|| format!("the log of slot {slot} after record {} is gone", source.seq))?;
        Ok((source, start))
    }

    fn read_copy(&mut self, copy: CopyId) -> shipper::Event {
        let piece_bytes = self.registry.copies().piece_bytes();
        let part = match self.copies.get_mut(&copy).map(|job| job.next(piece_bytes)) {
            Some(Ok(part)) => {
                if let CopyPart::Chunk(data) = &part {
                    self.registry.copies().sent(data.len());
                }
                part
            }
            Some(Err(why)) => {
                return shipper::Event::CopyFailed { copy, reason: Reason::Failed, why };
            }
            None => {
                let why = "the copy was closed".to_owned();
                return shipper::Event::CopyFailed { copy, reason: Reason::NotReady, why };
            }
        };
        shipper::Event::CopyPart { copy, part }
    }

    fn begin_handover(&mut self, asker: Asker, patience_ms: u32, slots: &[Slot], now_ms: u64) {
        let busy = |slot: Slot| self.attempts.iter().any(|a| a.machine.slots().any(|other| other == slot));
        let refused = slots.iter().find_map(|&slot| {
            if busy(slot) {
                return Some(format!("slot {slot} is being handed over already"));
            }
            match self.engine.role(slot) {
                // The peer follows as soon as the next epoch has begun: until then it is not in sync, and waited for.
                Role::Master | Role::Owed => None,
                Role::Fenced => Some(format!("slot {slot} is being handed over already")),
                Role::Absent => Some(format!("slot {slot} is not on the master")),
                Role::Replica { upstream } | Role::Loading { upstream } => Some(format!(
                    "slot {slot}: the node that is followed here is a replica of {upstream} itself and can't hand \
                     it over; slotsslaveof {upstream} first, or add force to fork the slot"
                )),
                // Granted to this very peer: say so again.
                Role::Granted { to, .. } if to == self.node => None,
                Role::Granted { address, .. } | Role::Moved { to: address } => {
                    Some(format!("slot {slot} was handed over to {address}"))
                }
            }
        });
        if let Some(why) = refused {
            let slots = slots.iter().map(|&slot| (slot, Err(why.clone()))).collect();
            return self.answer(&asker, 0, slots);
        }
        let (granted, owned): (Vec<Slot>, Vec<Slot>) =
            slots.iter().copied().partition(|&slot| matches!(self.engine.role(slot), Role::Granted { .. }));
        if !granted.is_empty() {
            let slots = granted.iter().map(|&slot| (slot, Ok(self.engine.pulse(slot).last_seq))).collect();
            self.answer(&asker, 0, slots);
        }
        if !owned.is_empty() {
            let deadline_ms = now_ms + u64::from(patience_ms);
            let machine = Handover::new(&owned);
            self.attempts_made += 1;
            let number = self.attempts_made;
            let (ready_by_ms, fenced_at_ms) = (None, None);
            self.attempts.push(Attempt { number, asker, machine, deadline_ms, ready_by_ms, fenced_at_ms });
            self.handover_progress(&owned, now_ms);
        }
    }

    fn handover_progress(&mut self, slots: &[Slot], now_ms: u64) {
        if self.attempts.is_empty() {
            return;
        }
        for &slot in slots {
            let Some(index) =
                self.attempts.iter().position(|attempt| attempt.machine.slots().any(|other| other == slot))
            else {
                continue;
            };
            self.progress(index, slot, now_ms);
        }
        self.attempts.retain(|attempt| !attempt.machine.is_over());
    }

    /// The peer is ready, or it is not waited for any more: this node makes itself ready, too.
    fn prepared(&mut self, index: usize, now_ms: u64) {
        self.attempts[index].ready_by_ms = None;
        if let Err(error) = self.engine.sync() {
            // The grant says so.
            tracing::debug!(%error, "the log can't be synced before a handover");
        }
        // A peer that acknowledges nothing brings no progress either.
        let slots: Vec<Slot> = self.attempts[index].machine.slots().collect();
        for slot in slots {
            self.progress(index, slot, now_ms);
        }
        self.attempt(index, handover::Event::Prepared, now_ms);
    }

    fn progress(&mut self, index: usize, slot: Slot, now_ms: u64) {
        let acked = self.locked().acked(slot);
        let last = self.engine.pulse(slot).last_seq;
        self.attempt(index, handover::Event::Progress { slot, last, acked }, now_ms);
    }

    fn attempt(&mut self, index: usize, event: handover::Event, now_ms: u64) {
        let actions = self.attempts[index].machine.on(event);
        for action in actions {
            match action {
                handover::Action::Prepare if self.features & features::NEAR == 0 => {
                    self.prepared(index, now_ms)
                }
                handover::Action::Prepare => {
                    self.attempts[index].ready_by_ms = Some(now_ms + READY_MS_MAX);
                    let number = self.attempts[index].number;
                    self.push(Message::HandoverNear(number));
                }
                handover::Action::Fence(slots) => {
                    let event = match self.engine.fence(&slots) {
                        Ok(()) => {
                            let fenced_at_ms = self.now_ms();
                            self.attempts[index].fenced_at_ms = Some(fenced_at_ms);
                            for &slot in &slots {
                                self.fenced_at_ms.insert(slot, fenced_at_ms);
                            }
                            let last = |slot| (slot, self.engine.pulse(slot).last_seq);
                            handover::Event::Fenced(slots.into_iter().map(last).collect())
                        }
                        Err(error) => handover::Event::FenceFailed(error.to_string()),
                    };
                    self.attempt(index, event, now_ms);
                }
                handover::Action::Unfence(slots) => self.engine.unfence(&slots),
                handover::Action::Grant(slots) => {
                    // The slots' times go with them: nothing that expired here comes back there.
                    let beats = slots.iter().map(|&slot| self.beat(slot)).collect();
                    self.push(Message::Heartbeat(beats));
                    let outcomes: Vec<_> = match self.engine.grant_all(&slots, self.node, &self.address) {
                        Ok(granted) => granted.into_iter().map(|(slot, seq)| (slot, Ok(seq))).collect(),
                        Err(error) => slots.into_iter().map(|slot| (slot, Err(error.to_string()))).collect(),
                    };
                    for (slot, outcome) in outcomes {
                        self.attempt(index, handover::Event::Granted(slot, outcome), now_ms);
                    }
                }
                handover::Action::Answer(mut slots) => {
                    for (slot, outcome) in &mut slots {
                        if let Err(why) = outcome
                            && self.engine.role(*slot) == Role::Owed
                        {
                            why.push_str(&format!("; slot {slot} {ASKS_REPLICAS}: try again later"));
                        }
                    }
                    let Attempt { asker, fenced_at_ms, .. } = &self.attempts[index];
                    let asker = asker.clone();
                    let held = fenced_at_ms.map_or(0, |at| self.now_ms().saturating_sub(at));
                    let held_ms = u32::try_from(held).unwrap_or(u32::MAX);
                    tracing::info!(peer = %self.address, slots = slots.len(), held_ms, "handover answered");
                    self.answer(&asker, held_ms, slots);
                }
            }
        }
    }

    /// Says what came of a handover, to whoever wants to know: the peer always has to know of what it was granted.
    fn answer(&mut self, asker: &Asker, held_ms: u32, slots: Vec<(Slot, Result<Seq, String>)>) {
        let id = match asker {
            Asker::Peer(id) => *id,
            Asker::Here(done) => {
                // Whoever asked may have given up waiting.
                let _ = done.send(Answered { held_ms, slots: slots.clone() });
                if slots.iter().all(|(_, outcome)| outcome.is_err()) {
                    return;
                }
                0
            }
        };
        self.push(Message::HandoverAnswer { id, held_ms, slots });
    }

    fn grant_taken(&mut self, taken: &[(Slot, Epoch)]) {
        let since_ms = taken.iter().filter_map(|(slot, _)| self.fenced_at_ms.remove(*slot)).min();
        let Taken { now, all } = grants::taken(&self.engine, self.node, taken);
        if !now.is_empty() {
            let held_ms = since_ms.map(|since_ms| self.now_ms().saturating_sub(since_ms));
            tracing::info!(slots = now.len(), to = %self.address, held_ms, "slots were handed over");
        }
        self.ship(shipper::Event::Unfollow(all.clone()));
        self.push(Message::GrantDone(all));
    }
}

impl CopyJob {
    fn new(source: CopySource, life: u64, held: &[Held]) -> CopyJob {
        let known: Vec<PartId> = held.iter().map(|held| held.of).collect();
        let places = source.runs.iter().enumerate().map(|(index, run)| {
            let place = place_of(&known, part_id(run.meta()), index);
            let here = place.map_or(0, |place| held[place].here);
            // By the identity it can't be more than the run has.
            (place.unwrap_or(usize::MAX), index, here.min(run.meta().len))
        });
        let mut places: Vec<_> = places.collect();
        places.sort_unstable();
        let order = places.into_iter().map(|(_, index, here)| (index, here)).collect();
        CopyJob { source, life, order, at: 0, begun: false, offset: 0 }
    }

    /// Bytes that the peer has.
    fn kept_bytes(&self) -> u64 {
        self.order.iter().map(|(_, here)| here).sum()
    }

    fn next(&mut self, piece_bytes: usize) -> Result<CopyPart, String> {
        let Some(&(index, from)) = self.order.get(self.at) else { return Ok(CopyPart::End) };
        let run = &self.source.runs[index];
        let bytes = run.meta().len;
        if !self.begun {
            (self.begun, self.offset) = (true, from);
            return Ok(CopyPart::Run { of: part_id(run.meta()), from });
        }
        if self.offset == bytes {
            (self.at, self.begun) = (self.at + 1, false);
            return Ok(CopyPart::RunEnd);
        }
        let want = usize::try_from(bytes - self.offset).unwrap_or(usize::MAX).min(piece_bytes);
        let mut chunk = BytesMut::zeroed(want);
        let got = run.read_image(self.offset, &mut chunk).map_err(|error| error.to_string())?;
        if got == 0 {
            return Err("a run ends before its end".to_owned());
        }
        chunk.truncate(got);
        self.offset += got as u64;
        Ok(CopyPart::Chunk(chunk.freeze()))
    }
}

/// Whether it says of a handover that nothing of it happened.
fn is_refusal(message: &Message) -> bool {
    match message {
        Message::HandoverAnswer { slots, .. } => slots.iter().all(|(_, outcome)| outcome.is_err()),
        _ => false,
    }
}

/// Milliseconds of the engine's monotonic clock.
fn now_ms(engine: &Engine) -> u64 {
    u64::try_from(engine.clock().monotonic().as_millis()).unwrap_or(u64::MAX)
}

/// Where to read from to find a slot's record `next`, which may be the one that is written next; `None` if it is
/// gone or not to be expected.
pub(crate) fn start_of(engine: &Engine, slot: Slot, next: Seq) -> Option<Lsn> {
    // The end is taken first: whatever is appended after the slot was looked at lies behind it.
    let end = engine.log_end();
    let last = engine.pulse(slot).last_seq;
    if next == last.next() {
        return Some(end);
    }
    if next > last {
        return None;
    }
    engine.write().ok()?;
    engine.locate(slot, next)
}

/// Whole records without those of some slots.
pub(crate) fn without(data: &[u8], slots: &[Slot]) -> Bytes {
    let mut kept = BytesMut::with_capacity(data.len());
    let mut rest = data;
    while let Ok(record) = Record::take(&mut rest) {
        if !slots.contains(&record.header.slot) {
            kept.extend_from_slice(record.bytes);
        }
    }
    kept.freeze()
}
