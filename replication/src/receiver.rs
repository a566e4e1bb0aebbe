//! The replica's side of one connection: which slots of a master this node follows, and how far each is. A state
//! machine.
//!
//! It promises: records are handed on only for a slot that the master said it continues or copies, and only in the
//! order of their seqs without a hole (invariant 1); whatever fails is asked for again, with a growing pause, for
//! as long as the slot is attached; and a grant is taken only when the master itself said so on this connection
//! and the granting record is the last that was applied.
//!
//! It touches nothing itself: `on` takes what happened and says what to do. Times are milliseconds of any clock
//! that does not go back.

use bytes::{Bytes, BytesMut};
use haypile_engine::clock::TimeMs;
use haypile_engine::log::record::{self, BODY_BYTES_MAX, Claim, HEADER_BYTES};
use haypile_engine::manifest::PartId;
use haypile_engine::slot_table::SlotTable;
use haypile_engine::types::{Epoch, Seq, Slot};

use crate::message::{Beat, CopyHead, CopyId, Message, Reason};
use crate::status::CopyCount;

/// The first pause before a slot is asked for again. It doubles up to [`RETRY_MS_MAX`].
pub const RETRY_MS_MIN: u64 = 100;
/// The longest pause before a slot is asked for again.
pub const RETRY_MS_MAX: u64 = 5000;
/// A record that comes in parts is at most this long, with what was gathered before it.
pub(crate) const PARTIAL_BYTES_MAX: usize = BODY_BYTES_MAX + HEADER_BYTES + (1 << 20);

/// Where a slot's link stands, in the words that Pika's users know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// There is no connection, or the master is not ready.
    TryConnect,
    /// The master was asked.
    WaitReply,
    /// The master said that a copy is needed; it has not begun.
    TryDbSync,
    /// A copy is under way.
    WaitDbSync,
    /// Records come.
    Connected,
    /// The master refused, or something failed here. It is tried again.
    Error,
}

impl LinkState {
    /// As `pkcluster info slot` says it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            LinkState::TryConnect => "kTryConnect",
            LinkState::WaitReply => "kWaitReply",
            LinkState::TryDbSync => "kTryDBSync",
            LinkState::WaitDbSync => "kWaitDBSync",
            LinkState::Connected => "kConnected",
            LinkState::Error => "kError",
        }
    }
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// These slots follow the master of this link from now on.
    Attach {
        /// Which.
        slots: Vec<Slot>,
        /// Whether unrelated data here may be replaced.
        force: bool,
    },
    /// These slots do not follow it any more.
    Detach(Vec<Slot>),
    /// The connection stands.
    Connected,
    /// There is no connection (any more).
    Disconnected(String),
    /// The master said something.
    Message(Message),
    /// What [`Action::Append`] did: these slots have these last records now.
    Appended(Vec<(Slot, Seq)>),
    /// A slot's part of what was to be done failed; the rest was done.
    Failed {
        /// The slot.
        slot: Slot,
        /// Why.
        why: String,
    },
    /// [`Action::ImportEnd`] was done: the slot is whole.
    Imported(Slot),
    /// [`Action::TakeGrant`] was done: these slots are this node's, in these epochs.
    Promoted(Vec<(Slot, Epoch)>),
    /// Time went by.
    Tick,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Send a message.
    Send(Message),
    /// Send a `Follow` for these slots with what this node has of each.
    Ask(Vec<Question>),
    /// Append and apply whole records, in order; then [`Event::Appended`], or [`Event::Failed`] for a slot.
    Append(Bytes),
    /// The master goes on from what the slot holds: nothing of that is to be replaced any more.
    Agreed(Slot),
    /// Note slots' times.
    SetTimes(Vec<(Slot, TimeMs)>),
    /// Drop what the slot holds and make it ready for a copy. If the copy has no runs the slot is whole then.
    StartLoading {
        /// The slot.
        slot: Slot,
        /// What the copy begins with.
        head: CopyHead,
    },
    /// A run of the copy begins.
    ImportRun {
        /// The slot.
        slot: Slot,
        /// Which.
        of: PartId,
        /// Its bytes before these are here.
        from: u64,
    },
    /// Bytes of the run.
    ImportChunk(Slot, Bytes),
    /// The run ends.
    ImportRunEnd(Slot),
    /// The copy is whole: install it; then [`Event::Imported`].
    ImportEnd(Slot),
    /// A copy does not come any more: keep what has come of it, for one that goes on.
    ImportSuspend(Slot),
    /// Tell the master that these records are applied and in this node's log.
    Acknowledge(Vec<(Slot, Seq)>),
    /// The slot was granted to this node: begin its next epoch; then [`Event::Promoted`].
    TakeGrant(Slot),
    /// The master's answer to a handover that this node asked for.
    HandoverAnswered {
        /// Which.
        id: u64,
        /// For how long the master held writes back.
        held_ms: u32,
        /// For each slot, the granting record or why not.
        slots: Vec<(Slot, Result<Seq, String>)>,
    },
    /// The old owner knows that the slots are this node's.
    GrantDone(Vec<Slot>),
    /// Slots are about to be handed over to this node: sync what is there, so that the handover has little to wait for, and say
    /// so.
    MakeReady(u64),
    /// The master does not keep to the protocol: end the connection.
    Disconnect(String),
}

/// A slot to ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    /// The slot.
    pub slot: Slot,
    /// The question's number, to be sent with it.
    pub number: u32,
    /// Whether unrelated data here may be replaced.
    pub force: bool,
}

#[derive(Debug)]
struct Link {
    state: LinkState,
    /// The number of the last question.
    number: u32,
    /// The record that comes next; `None` where none is expected.
    next: Option<Seq>,
    /// The copy that is under way.
    copy: Option<CopyId>,
    force: bool,
    why: Option<String>,
    since_ms: u64,
    retry_at_ms: Option<u64>,
    pause_ms: u64,
    /// The master's last record, as last heard.
    master_last: Seq,
    /// The record that grants the slot to this node, as the master said.
    granted_at: Option<Seq>,
    count: CopyCount,
    /// Runs that the copy has, and that have begun.
    runs: (u32, u32),
}

/// What a link of a slot looks like from outside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkStatus {
    /// Where it stands.
    pub state: LinkState,
    /// The last failure, if it still matters.
    pub why: Option<String>,
    /// Since when it stands there, by the clock of the events.
    pub since_ms: u64,
    /// The master's last record, as last heard.
    pub master_last: Seq,
    /// How far the copy is that is under way.
    pub copy: Option<CopyCount>,
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Receiver {
    links: SlotTable<Box<Link>>,
    connected: bool,
    numbers: u32,
    /// The beginning of a record that comes in parts.
    partial: BytesMut,
    received_bytes: u64,
    /// When the master last said anything.
    heard_ms: Option<u64>,
}

impl Receiver {
    /// What happened at `now_ms`, and what is to be done.
    pub fn on(&mut self, event: Event, now_ms: u64) -> Vec<Action> {
        let mut out = Vec::new();
        if matches!(event, Event::Connected | Event::Message(_)) {
            self.heard_ms = Some(now_ms);
        }
        match event {
            Event::Attach { slots, force } => {
                for &slot in &slots {
                    self.links.insert(slot, Box::new(Link::new(force, now_ms)));
                }
                if self.connected {
                    self.ask(&slots, now_ms, &mut out);
                }
            }
            Event::Detach(slots) => self.detach(&slots, &mut out),
            Event::Connected => {
                self.connected = true;
                self.received_bytes = 0;
                self.partial.clear();
                let slots: Vec<Slot> = self.slots().collect();
                self.ask(&slots, now_ms, &mut out);
            }
            Event::Disconnected(why) => {
                self.connected = false;
                for (slot, link) in self.links.iter_mut() {
                    if link.stop() {
                        out.push(Action::ImportSuspend(slot));
                    }
                    link.enter(LinkState::TryConnect, now_ms);
                    link.why = Some(why.clone());
                    link.retry_at_ms = None;
                }
            }
            Event::Message(message) => self.message(message, now_ms, &mut out),
            Event::Appended(slots) => self.appended(&slots, &mut out),
            Event::Failed { slot, why } => {
                if self.connected && self.links.get(slot).is_some() {
                    out.push(Action::Send(Message::Unfollow(vec![slot])));
                }
                self.fail(slot, LinkState::Error, why, now_ms, &mut out);
            }
            Event::Imported(slot) => {
                if let Some(link) = self.links.get_mut(slot)
                    && link.copy.take().is_some()
                {
                    link.connected(now_ms);
                    if let Some(next) = link.next {
                        let last = Seq(next.0 - 1);
                        out.push(Action::Acknowledge(vec![(slot, last)]));
                        self.appended(&[(slot, last)], &mut out);
                    }
                }
            }
            Event::Promoted(taken) => {
                taken.iter().for_each(|(slot, _)| drop(self.links.remove(*slot)));
                if self.connected {
                    out.push(Action::Send(Message::GrantTaken(taken)));
                }
            }
            Event::Tick => {
                let due = |link: &Link| link.retry_at_ms.is_some_and(|at| at <= now_ms);
                let slots: Vec<Slot> =
                    self.links.iter().filter(|(_, link)| due(link)).map(|(slot, _)| slot).collect();
                if self.connected && !slots.is_empty() {
                    self.ask(&slots, now_ms, &mut out);
                }
            }
        }
        out
    }

    /// The slots that are attached.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        self.links.iter().map(|(slot, _)| slot)
    }

    /// How many slots are attached.
    #[must_use]
    pub fn slot_count(&self) -> usize {
        self.links.len()
    }

    /// How a slot's link looks, `None` if the slot is not attached.
    #[must_use]
    pub fn status(&self, slot: Slot) -> Option<LinkStatus> {
        self.links.get(slot).map(|link| LinkStatus {
            state: link.state,
            why: link.why.clone(),
            since_ms: link.since_ms,
            master_last: link.master_last,
            copy: link.copy.map(|_| link.count),
        })
    }

    /// Whether the connection stands.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// When the master last said anything, by the clock of the events; `None` if it never did.
    #[must_use]
    pub fn heard_ms(&self) -> Option<u64> {
        self.heard_ms
    }

    /// Bytes of records and copies that came on this connection.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    fn detach(&mut self, slots: &[Slot], out: &mut Vec<Action>) {
        let mut gone = Vec::new();
        for &slot in slots {
            let Some(mut link) = self.links.remove(slot) else { continue };
            if link.stop() {
                out.push(Action::ImportSuspend(slot));
            }
            gone.push(slot);
        }
        if self.connected && !gone.is_empty() {
            out.push(Action::Send(Message::Unfollow(gone)));
        }
    }

    fn ask(&mut self, slots: &[Slot], now_ms: u64, out: &mut Vec<Action>) {
        let mut questions = Vec::with_capacity(slots.len());
        for &slot in slots {
            self.numbers = self.numbers.wrapping_add(1).max(1);
            let Some(link) = self.links.get_mut(slot) else { continue };
            if link.stop() {
                out.push(Action::ImportSuspend(slot));
            }
            link.number = self.numbers;
            link.retry_at_ms = None;
            link.enter(LinkState::WaitReply, now_ms);
            questions.push(Question { slot, number: link.number, force: link.force });
        }
        if !questions.is_empty() {
            out.push(Action::Ask(questions));
        }
    }

    fn fail(&mut self, slot: Slot, state: LinkState, why: String, now_ms: u64, out: &mut Vec<Action>) {
        let Some(link) = self.links.get_mut(slot) else { return };
        if link.stop() {
            out.push(Action::ImportSuspend(slot));
        }
        link.enter(state, now_ms);
        link.why = Some(why);
        link.retry_at_ms = Some(now_ms + link.pause_ms);
        link.pause_ms = (link.pause_ms * 2).min(RETRY_MS_MAX);
    }

    fn message(&mut self, message: Message, now_ms: u64, out: &mut Vec<Action>) {
        match message {
            Message::Refused { slot, number, reason, why } => {
                // Number 0 speaks of whatever is running.
                if self.links.get(slot).is_some_and(|link| number == 0 || number == link.number) {
                    let state = match reason {
                        Reason::NotReady => LinkState::TryConnect,
                        _ => LinkState::Error,
                    };
                    self.fail(slot, state, why, now_ms, out);
                }
            }
            Message::Continue { slot, number, from } => {
                if let Some(link) = self.answered(slot, number) {
                    link.next = Some(from);
                    link.connected(now_ms);
                    out.push(Action::Agreed(slot));
                }
            }
            Message::CopyQueued(copy) => {
                if let Some(link) = self.answered(copy.slot, copy.number) {
                    link.enter(LinkState::TryDbSync, now_ms);
                }
            }
            Message::CopyBegin { copy, head } => {
                if let Some(link) = self.answered(copy.slot, copy.number) {
                    link.next = Some(head.base.next());
                    let base = head.base;
                    if head.runs == 0 {
                        link.connected(now_ms);
                        out.push(Action::StartLoading { slot: copy.slot, head });
                        out.push(Action::Acknowledge(vec![(copy.slot, base)]));
                        // The granting record may be the last that the copy stands for: none follows it.
                        self.take_grant(copy.slot, out);
                    } else {
                        link.copy = Some(copy);
                        link.count = CopyCount { done: 0, total: head.bytes, kept: 0, began_ms: now_ms };
                        link.runs = (head.runs, 0);
                        link.enter(LinkState::WaitDbSync, now_ms);
                        out.push(Action::StartLoading { slot: copy.slot, head });
                    }
                }
            }
            Message::CopyRun { copy, of, from } => {
                if let Some(link) = self.copying(copy) {
                    link.runs.1 += 1;
                    link.count.done = link.count.done.saturating_add(from);
                    link.count.kept = link.count.kept.saturating_add(from);
                    out.push(Action::ImportRun { slot: copy.slot, of, from });
                }
            }
            Message::CopyChunk { copy, data } => {
                self.received_bytes += data.len() as u64;
                if let Some(link) = self.copying(copy) {
                    link.count.done = link.count.done.saturating_add(data.len() as u64);
                    out.push(Action::ImportChunk(copy.slot, data));
                }
                out.push(Action::Acknowledge(Vec::new()));
            }
            Message::CopyRunEnd(copy) => {
                if self.copying(copy).is_some() {
                    out.push(Action::ImportRunEnd(copy.slot));
                }
            }
            Message::CopyEnd(copy) => {
                if let Some(link) = self.copying(copy) {
                    let (runs, CopyCount { done, total, .. }) = (link.runs, link.count);
                    if runs.0 == runs.1 && done == total {
                        out.push(Action::ImportEnd(copy.slot));
                    } else {
                        out.push(Action::Disconnect(format!(
                            "the copy of slot {} ended after {} of {} runs, {done} of {total} bytes",
                            copy.slot, runs.1, runs.0
                        )));
                    }
                }
            }
            Message::Records { more, times, data } => self.records(more, times, data, now_ms, out),
            Message::Heartbeat(beats) => {
                self.heartbeat(&beats, out);
                out.push(Action::Send(Message::Pong));
            }
            Message::HistoryChanged(slot) => {
                if self.links.get(slot).is_some() {
                    self.ask(&[slot], now_ms, out);
                }
            }
            Message::Dropped(slot) => {
                let why = format!("slot {slot} was removed from the master");
                self.fail(slot, LinkState::Error, why, now_ms, out);
            }
            Message::HandoverAnswer { id, held_ms, slots } => {
                for (slot, outcome) in &slots {
                    if let (Some(link), Ok(seq)) = (self.links.get_mut(*slot), outcome) {
                        link.granted_at = Some(*seq);
                    }
                }
                out.push(Action::HandoverAnswered { id, held_ms, slots: slots.clone() });
                let granted = slots.iter().map(|(slot, _)| *slot);
                granted.for_each(|slot| self.take_grant(slot, out));
            }
            Message::GrantDone(slots) => out.push(Action::GrantDone(slots)),
            Message::HandoverNear(id) => out.push(Action::MakeReady(id)),
            other => {
                out.push(Action::Disconnect(format!("the master sent what a replica sends: {other:?}")));
            }
        }
    }

    /// The link that waits for the answer to this question.
    fn answered(&mut self, slot: Slot, number: u32) -> Option<&mut Link> {
        let link = self.links.get_mut(slot)?;
        let waits = matches!(link.state, LinkState::WaitReply | LinkState::TryDbSync);
        (waits && link.number == number).then_some(&mut **link)
    }

    fn copying(&mut self, copy: CopyId) -> Option<&mut Link> {
        self.links.get_mut(copy.slot).map(|link| &mut **link).filter(|link| link.copy == Some(copy))
    }

    fn records(
        &mut self,
        more: bool,
        times: Vec<(Slot, TimeMs)>,
        data: Bytes,
        now_ms: u64,
        out: &mut Vec<Action>,
    ) {
        self.received_bytes += data.len() as u64;
        if more || !self.partial.is_empty() {
            if self.partial.len() + data.len() > PARTIAL_BYTES_MAX {
                out.push(Action::Disconnect("a record that is longer than any can be".to_owned()));
                return;
            }
            self.partial.extend_from_slice(&data);
        }
        if more {
            out.push(Action::Acknowledge(Vec::new()));
            return;
        }
        let data = if self.partial.is_empty() { data } else { self.partial.split().freeze() };
        match self.wanted(&data, now_ms, out) {
            Ok(wanted) if wanted.is_empty() => out.push(Action::Acknowledge(Vec::new())),
            Ok(wanted) => out.push(Action::Append(wanted)),
            Err(why) => {
                out.push(Action::Disconnect(why));
                return;
            }
        }
        let times: Vec<_> = times.into_iter().filter(|(slot, _)| self.receives(*slot)).collect();
        if !times.is_empty() {
            out.push(Action::SetTimes(times));
        }
    }

    fn receives(&self, slot: Slot) -> bool {
        self.links.get(slot).is_some_and(|link| link.next.is_some())
    }

    /// The records that are to be appended: usually all that came, as one piece. A slot with a hole is asked for
    /// again; the others are none the wiser.
    fn wanted(&mut self, data: &Bytes, now_ms: u64, out: &mut Vec<Action>) -> Result<Bytes, String> {
        let mut kept: Option<BytesMut> = None;
        let mut holes = Vec::new();
        let mut rest = &data[..];
        loop {
            let at = data.len() - rest.len();
            if rest.is_empty() {
                break;
            }
            // Whoever appends it checks it whole.
            let claim = record::claimed(rest);
            let taken = claim.and_then(|claim| Some((claim, rest.split_at_checked(claim.bytes)?)));
            let Some((Claim { header, .. }, (record, after))) = taken else {
                return Err("the master sent a bad record: it has no meaning".to_owned());
            };
            rest = after;
            let slot = header.slot;
            let link = self.links.get_mut(slot);
            let wanted = match link.map(|link| &mut link.next) {
                Some(Some(next)) if *next == header.seq => {
                    *next = next.next();
                    true
                }
                Some(expected @ Some(_)) => {
                    *expected = None;
                    holes.push((slot, header.seq));
                    false
                }
                _ => false,
            };
            match &mut kept {
                Some(kept) if wanted => kept.extend_from_slice(record),
                None if !wanted => kept = Some(BytesMut::from(&data[..at])),
                _ => {}
            }
        }
        for (slot, got) in holes {
            tracing::warn!(%slot, %got, "records of a slot do not follow each other; asking again");
            self.ask(&[slot], now_ms, out);
        }
        Ok(kept.map_or_else(|| data.clone(), BytesMut::freeze))
    }

    fn appended(&mut self, slots: &[(Slot, Seq)], out: &mut Vec<Action>) {
        let mut acks = Vec::with_capacity(slots.len());
        for &(slot, last) in slots {
            if let Some(link) = self.links.get_mut(slot) {
                link.master_last = link.master_last.max(last);
                // A slot that is being copied is not whole: its records are acknowledged with the copy's end.
                if link.copy.is_none() && link.next.is_some() {
                    acks.push((slot, last));
                }
            }
        }
        if !acks.is_empty() {
            out.push(Action::Acknowledge(acks));
        }
        slots.iter().for_each(|(slot, _)| self.take_grant(*slot, out));
    }

    /// Takes a slot that the master granted, once the granting record is applied.
    fn take_grant(&mut self, slot: Slot, out: &mut Vec<Action>) {
        let Some(link) = self.links.get_mut(slot) else { return };
        let (Some(granted_at), Some(next)) = (link.granted_at, link.next) else { return };
        if next == granted_at.next() && link.copy.is_none() {
            link.granted_at = None;
            out.push(Action::TakeGrant(slot));
        }
    }

    fn heartbeat(&mut self, beats: &[Beat], out: &mut Vec<Action>) {
        let mut times = Vec::with_capacity(beats.len());
        for beat in beats {
            if let Some(link) = self.links.get_mut(beat.slot)
                && link.next.is_some()
            {
                link.master_last = link.master_last.max(beat.last);
                times.push((beat.slot, beat.time));
            }
        }
        if !times.is_empty() {
            out.push(Action::SetTimes(times));
        }
    }
}

impl Link {
    fn new(force: bool, now_ms: u64) -> Link {
        Link {
            state: LinkState::TryConnect,
            number: 0,
            next: None,
            copy: None,
            force,
            why: None,
            since_ms: now_ms,
            retry_at_ms: None,
            pause_ms: RETRY_MS_MIN,
            master_last: Seq::ZERO,
            granted_at: None,
            count: CopyCount { done: 0, total: 0, kept: 0, began_ms: 0 },
            runs: (0, 0),
        }
    }

    /// Nothing that is under way counts any more. Says whether a copy was.
    fn stop(&mut self) -> bool {
        self.next = None;
        self.granted_at = None;
        self.copy.take().is_some()
    }

    fn enter(&mut self, state: LinkState, now_ms: u64) {
        if self.state != state {
            self.state = state;
            self.since_ms = now_ms;
        }
    }

    /// The slot streams: what was allowed or went wrong before has been dealt with.
    fn connected(&mut self, now_ms: u64) {
        self.enter(LinkState::Connected, now_ms);
        self.force = false;
        self.why = None;
        self.pause_ms = RETRY_MS_MIN;
    }
}
