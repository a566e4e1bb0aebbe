//! The master's side of one connection: which records and copies a peer gets, and when. A state machine.
//!
//! It promises: within a slot, records leave in the order of their seqs without a hole (invariant 1), from where
//! the peer said it stands or from the end of its copy; and no more than [`IN_FLIGHT_BYTES_MAX`] are under way
//! unacknowledged, whatever is written here.
//!
//! It reads nothing itself. `on` takes what happened and says what to do; `work` says what to read next. Cursors
//! are positions in the log: one that lives at its end, and a few that catch up with it. Each slot is fed by one.
//! A slot may be moved to a cursor further back at any time: what it has been sent already is skipped by seq.

use std::collections::{BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use haypile_engine::log::record::{self, Record};
use haypile_engine::manifest::PartId;
use haypile_engine::planted::{self, Bug};
use haypile_engine::slot_table::{SlotSet, SlotTable};
use haypile_engine::types::{Lsn, NodeId, Seq, Slot};

use crate::copies::SLOTS_MAX;
use crate::decide::{Decision, View, decide};
use crate::message::{CopyHead, CopyId, Message, Reason, SlotAsk};
use crate::status::CopyCount;

/// Bytes of records and copies that may be sent before the peer acknowledges the first of them.
pub const IN_FLIGHT_BYTES_MAX: u64 = 32 << 20;
/// Records are gathered up to this size before they are sent.
pub const BATCH_BYTES: usize = 256 << 10;
/// Cursors at once. A slot for which there is none goes back with the nearest one.
pub const CURSORS_MAX: usize = 6;
/// A cursor this close behind a slot's start feeds it too: reading that much again is cheaper than a cursor.
const CURSOR_JOIN_BYTES: u64 = 4 << 20;

/// Names a position in the log that the shipper reads on from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CursorId(u32);

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The peer asks for a slot; `start` is where the record after its last lies, if it is still in the log.
    Follow {
        /// The question.
        ask: SlotAsk,
        /// What this node knows.
        view: View,
        /// Where to read from.
        start: Option<Lsn>,
    },
    /// The peer wants nothing of these slots any more.
    Unfollow(Vec<Slot>),
    /// A copy was opened: see [`Action::OpenCopy`].
    CopyOpened {
        /// Which.
        copy: CopyId,
        /// What it holds.
        head: CopyHead,
        /// Where the record after its base lies.
        start: Lsn,
        /// The time, for whoever wants to know how fast it goes.
        now_ms: u64,
    },
    /// A copy can't be opened or read on.
    CopyFailed {
        /// Which.
        copy: CopyId,
        /// Whether asking again soon may help.
        reason: Reason,
        /// Why.
        why: String,
    },
    /// The next piece of a copy: see [`Work::ReadCopy`].
    CopyPart {
        /// Which.
        copy: CopyId,
        /// The piece.
        part: CopyPart,
    },
    /// What a read of the log gave: see [`Work::ReadLog`].
    Read {
        /// Which cursor.
        cursor: CursorId,
        /// What it gave.
        outcome: ReadOutcome,
    },
    /// The log has grown.
    LogGrew,
    /// The peer has taken this many bytes in all, and these records are applied and in its log.
    Ack {
        /// Bytes of records and copies since the connection began.
        bytes: u64,
        /// The last record of each slot.
        slots: Vec<(Slot, Seq)>,
    },
    /// The slot's content here is about to be, or was, replaced: what was read of it means nothing any more.
    Replaced(Slot),
    /// The slot here has a history that can be followed again.
    Ready(Slot),
    /// The slot is gone here.
    Dropped(Slot),
    /// What was gathered must leave now: something that belongs after it follows.
    Flush,
}

/// A piece of a copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CopyPart {
    /// A run begins.
    Run {
        /// Which.
        of: PartId,
        /// The peer has its bytes before these.
        from: u64,
    },
    /// Bytes of the run.
    Chunk(Bytes),
    /// The run ends.
    RunEnd,
    /// That was the last run.
    End,
}

/// What a read of the log gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadOutcome {
    /// One group commit.
    Frame {
        /// Where it lies.
        lsn: Lsn,
        /// Where the next will lie.
        next: Lsn,
        /// Its records, back to back.
        records: Bytes,
    },
    /// Nothing more yet.
    CaughtUp,
    /// The log was removed up to beyond here.
    Gone,
    /// It can't be read.
    Corrupt(String),
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Send a message.
    Send(Message),
    /// Send records of these slots, with the slots' times.
    SendRecords {
        /// Whose they are.
        slots: SlotSet,
        /// Whole records, back to back.
        data: Bytes,
    },
    /// Keep the log after this record for the peer.
    Pin(Slot, Seq),
    /// The peer has each of these slots up to a record.
    Acked(Vec<(Slot, Seq)>),
    /// The peer needs nothing of this slot any more.
    Unpin(Slot),
    /// Pin the log, then open a copy of the slot: [`Event::CopyOpened`] or [`Event::CopyFailed`] answers.
    OpenCopy(CopyId),
    /// Let go of a copy.
    CloseCopy(CopyId),
}

/// What to read next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// The log: [`Event::Read`] answers.
    ReadLog {
        /// Which cursor.
        cursor: CursorId,
        /// From here. The cursor's last answer's `next`, unless it was moved.
        from: Lsn,
    },
    /// The next piece of a copy: [`Event::CopyPart`] or [`Event::CopyFailed`] answers.
    ReadCopy(CopyId),
    /// Nothing to read: send what was gathered ([`Event::Flush`]).
    Flush,
}

/// What a peer gets of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Feed {
    /// The record that is sent next.
    next: Seq,
    /// Frames before this position are of no interest: they may hold another life of the slot.
    start: Lsn,
    /// The last record that the peer acknowledged; `None` until it has installed its copy.
    acked: Option<Seq>,
    /// Which cursor feeds it.
    cursor: CursorId,
}

#[derive(Debug)]
struct Cursor {
    id: CursorId,
    at: Lsn,
    state: CursorState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CursorState {
    Readable,
    CaughtUp,
}

/// What a peer is doing with a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// It asked and could not be served yet.
    Waiting,
    /// It waits for a copy or gets one.
    Copying,
    /// It gets records.
    Streaming,
}

/// See the file's head.
#[derive(Debug)]
pub struct Shipper {
    peer: NodeId,
    feeds: SlotTable<Feed>,
    /// Never empty of those in use: every feed's cursor is here. At most [`CURSORS_MAX`].
    cursors: Vec<Cursor>,
    cursors_made: u32,
    /// Whose turn it is.
    turn: usize,
    /// Copies that wait for their turn.
    queued: VecDeque<CopyId>,
    /// Copies that were asked to be opened, or are open. At most `copies_max`.
    copies: VecDeque<Copy>,
    copies_max: usize,
    /// Slots that the peer asked for in vain and will be told about.
    waiting: BTreeSet<Slot>,
    /// Records that were read and not sent.
    gathered: BytesMut,
    gathered_slots: SlotSet,
    sent_bytes: u64,
    acked_bytes: u64,
}

/// Whether copies may be read on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopiesNow {
    /// Yes.
    Go,
    /// Not yet: they would be faster than they may be.
    Wait,
}

/// A copy that was asked to be opened, or is open.
#[derive(Debug)]
struct Copy {
    id: CopyId,
    state: CopyState,
    count: CopyCount,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CopyState {
    Opening,
    Open,
}

impl Shipper {
    /// A shipper for a peer that follows nothing yet.
    #[must_use]
    pub fn new(peer: NodeId) -> Shipper {
        Shipper {
            peer,
            feeds: SlotTable::default(),
            cursors: Vec::new(),
            cursors_made: 0,
            turn: 0,
            queued: VecDeque::new(),
            copies: VecDeque::new(),
            copies_max: SLOTS_MAX,
            waiting: BTreeSet::new(),
            gathered: BytesMut::new(),
            gathered_slots: SlotSet::default(),
            sent_bytes: 0,
            acked_bytes: 0,
        }
    }

    /// What happened, and what is to be done.
    pub fn on(&mut self, event: Event) -> Vec<Action> {
        let mut out = Vec::new();
        match event {
            Event::Follow { ask, view, start } => self.follow(&ask, &view, start, &mut out),
            Event::Unfollow(slots) => slots.into_iter().for_each(|slot| {
                self.detach(slot, &mut out);
                out.push(Action::Unpin(slot));
            }),
            Event::CopyOpened { copy, head, start, now_ms } => {
                self.copy_opened(copy, head, start, now_ms, &mut out);
            }
            Event::CopyFailed { copy, reason, why } => {
                if self.copies.iter().any(|open| open.id == copy) {
                    self.refuse(copy.slot, copy.number, reason, why, &mut out);
                    // The next one pins what it needs.
                    out.push(Action::Unpin(copy.slot));
                }
            }
            Event::CopyPart { copy, part } => self.copy_part(copy, part, &mut out),
            Event::Read { cursor, outcome } => self.read(cursor, outcome, &mut out),
            Event::LogGrew => {
                self.cursors.iter_mut().for_each(|cursor| cursor.state = CursorState::Readable);
            }
            Event::Ack { bytes, slots } => self.ack(bytes, slots, &mut out),
            Event::Replaced(slot) => {
                if self.attached(slot) {
                    self.drop_gathered(slot);
                    self.detach(slot, &mut out);
                    self.waiting.insert(slot);
                }
            }
            Event::Ready(slot) => {
                if self.waiting.remove(&slot) {
                    out.push(Action::Send(Message::HistoryChanged(slot)));
                }
            }
            Event::Dropped(slot) => {
                if self.attached(slot) || self.waiting.contains(&slot) {
                    self.drop_gathered(slot);
                    self.detach(slot, &mut out);
                    out.push(Action::Send(Message::Dropped(slot)));
                }
            }
            Event::Flush => self.flush(&mut out),
        }
        self.open_copies(&mut out);
        out
    }

    /// How many copies may be under way at once; the others wait. Those that are, go on.
    pub fn set_copies_max(&mut self, copies: usize) {
        self.copies_max = copies.max(1);
    }

    /// Whether a copy could be read on.
    #[must_use]
    pub fn has_open_copy(&self) -> bool {
        self.copies.iter().any(|copy| copy.state == CopyState::Open)
    }

    /// What to read next, `None` if there is nothing to do before the next event. Copies are passed over where they are
    /// not to be read on now.
    pub fn work(&mut self, copies: CopiesNow) -> Option<Work> {
        if self.gathered.len() >= BATCH_BYTES {
            return Some(Work::Flush);
        }
        let in_flight = self.sent_bytes + self.gathered.len() as u64 - self.acked_bytes;
        if in_flight < IN_FLIGHT_BYTES_MAX {
            // Round robin over cursors and, as one more participant, the copies: neither starves the other.
            let participants = self.cursors.len() + 1;
            for _ in 0..participants {
                self.turn = (self.turn + 1) % participants;
                match self.cursors.get(self.turn) {
                    Some(cursor) if cursor.state == CursorState::Readable => {
                        return Some(Work::ReadLog { cursor: cursor.id, from: cursor.at });
                    }
                    Some(_) => {}
                    None if copies == CopiesNow::Wait => {}
                    None => {
                        let open = self.copies.iter().position(|copy| copy.state == CopyState::Open);
                        if let Some(copy) = open.and_then(|open| self.copies.remove(open)) {
                            let id = copy.id;
                            self.copies.push_back(copy);
                            return Some(Work::ReadCopy(id));
                        }
                    }
                }
            }
        }
        (!self.gathered.is_empty()).then_some(Work::Flush)
    }

    /// Records that were to be sent were not: they count neither as sent nor as under way.
    pub fn take_back(&mut self, bytes: u64) {
        self.sent_bytes -= bytes;
    }

    /// Where the farthest cursor stands, if one waits for the log to grow.
    #[must_use]
    pub fn waits_at(&self) -> Option<Lsn> {
        self.cursors.iter().filter(|c| c.state == CursorState::CaughtUp).map(|c| c.at).max()
    }

    /// The slots that the peer gets records of.
    pub fn streaming(&self) -> impl Iterator<Item = Slot> {
        self.feeds.iter().map(|(slot, _)| slot)
    }

    /// The last record of the slot that the peer acknowledged; `None` if it has no complete data of it.
    #[must_use]
    pub fn acked(&self, slot: Slot) -> Option<Seq> {
        self.feeds.get(slot).and_then(|feed| feed.acked)
    }

    /// What the peer is doing with a slot, `None` if nothing.
    #[must_use]
    pub fn phase(&self, slot: Slot) -> Option<Phase> {
        let mut copying = self.queued.iter().chain(self.copies.iter().map(|copy| &copy.id));
        if copying.any(|copy| copy.slot == slot) {
            return Some(Phase::Copying);
        }
        if let Some(feed) = self.feeds.get(slot) {
            return Some(if feed.acked.is_some() { Phase::Streaming } else { Phase::Copying });
        }
        self.waiting.contains(&slot).then_some(Phase::Waiting)
    }

    /// How far a slot's copy is, while one is under way.
    #[must_use]
    pub fn copy_progress(&self, slot: Slot) -> Option<CopyCount> {
        let copy = self.copies.iter().find(|copy| copy.id.slot == slot && copy.state == CopyState::Open)?;
        Some(copy.count)
    }

    /// Bytes sent and not acknowledged.
    #[must_use]
    pub fn in_flight_bytes(&self) -> u64 {
        self.sent_bytes - self.acked_bytes
    }

    /// Bytes of records and copies sent since the connection began.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    fn attached(&self, slot: Slot) -> bool {
        matches!(self.phase(slot), Some(Phase::Copying | Phase::Streaming))
    }

    fn follow(&mut self, ask: &SlotAsk, view: &View, start: Option<Lsn>, out: &mut Vec<Action>) {
        let (slot, number) = (ask.slot, ask.number);
        self.detach(slot, out);
        match (decide(view, self.peer, ask), start) {
            (Decision::Continue { from }, Some(start)) => {
                let acked = Seq(from.0 - 1);
                out.push(Action::Pin(slot, acked));
                let from = if planted::is(Bug::RecordSkipped) { from.next() } else { from };
                out.push(Action::Send(Message::Continue { slot, number, from }));
                self.feed(slot, from, start, Some(acked));
            }
            (Decision::Continue { .. } | Decision::Copy, _) => {
                let copy = CopyId { slot, number };
                out.push(Action::Send(Message::CopyQueued(copy)));
                self.queued.push_back(copy);
            }
            (Decision::Refused(reason, why), _) => self.refuse(slot, number, reason, why, out),
        }
    }

    fn refuse(&mut self, slot: Slot, number: u32, reason: Reason, why: String, out: &mut Vec<Action>) {
        self.detach(slot, out);
        if reason == Reason::NotReady {
            self.waiting.insert(slot);
        }
        out.push(Action::Send(Message::Refused { slot, number, reason, why }));
    }

    /// Ends whatever the peer gets of a slot. What was gathered leaves first, so that nothing of it comes after
    /// what is said about the slot next.
    fn detach(&mut self, slot: Slot, out: &mut Vec<Action>) {
        if self.gathered_slots.contains(slot) {
            self.flush(out);
        }
        self.feeds.remove(slot);
        self.waiting.remove(&slot);
        self.queued.retain(|copy| copy.slot != slot);
        self.copies.retain(|copy| {
            if copy.id.slot == slot {
                out.push(Action::CloseCopy(copy.id));
            }
            copy.id.slot != slot
        });
        self.drop_idle_cursors();
    }

    fn open_copies(&mut self, out: &mut Vec<Action>) {
        while self.copies.len() < self.copies_max {
            let Some(id) = self.queued.pop_front() else { return };
            let count = CopyCount { done: 0, total: 0, kept: 0, began_ms: 0 };
            self.copies.push_back(Copy { id, state: CopyState::Opening, count });
            out.push(Action::OpenCopy(id));
        }
    }

    fn copy_opened(&mut self, copy: CopyId, head: CopyHead, start: Lsn, now_ms: u64, out: &mut Vec<Action>) {
        let opening = |entry: &Copy| entry.id == copy && entry.state == CopyState::Opening;
        let Some(index) = self.copies.iter().position(opening) else {
            return; // given up while it was being opened
        };
        if head.runs == 0 {
            // Nothing was ever flushed: the log brings everything.
            self.copies.remove(index);
            out.push(Action::CloseCopy(copy));
        } else {
            self.copies[index].state = CopyState::Open;
            self.copies[index].count.total = head.bytes;
            self.copies[index].count.began_ms = now_ms;
        }
        let next = head.base.next();
        out.push(Action::Send(Message::CopyBegin { copy, head }));
        self.feed(copy.slot, next, start, None);
    }

    fn copy_part(&mut self, copy: CopyId, part: CopyPart, out: &mut Vec<Action>) {
        let open = |entry: &&mut Copy| entry.id == copy && entry.state == CopyState::Open;
        let Some(progress) = self.copies.iter_mut().find(open) else { return };
        let message = match part {
            CopyPart::Run { of, from } => {
                progress.count.done += from;
                progress.count.kept += from;
                Message::CopyRun { copy, of, from }
            }
            CopyPart::Chunk(data) => {
                self.sent_bytes += data.len() as u64;
                progress.count.done += data.len() as u64;
                Message::CopyChunk { copy, data }
            }
            CopyPart::RunEnd => Message::CopyRunEnd(copy),
            CopyPart::End => {
                self.copies.retain(|open| open.id != copy);
                out.push(Action::CloseCopy(copy));
                Message::CopyEnd(copy)
            }
        };
        out.push(Action::Send(message));
    }

    /// Feeds a slot from `next`, which lies at or after `start`, through a cursor that comes by there.
    fn feed(&mut self, slot: Slot, next: Seq, start: Lsn, acked: Option<Seq>) {
        let cursor = self.cursor_before(start);
        self.feeds.insert(slot, Feed { next, start, acked, cursor });
    }

    fn cursor_before(&mut self, start: Lsn) -> CursorId {
        let behind = self.cursors.iter().filter(|cursor| cursor.at <= start).max_by_key(|cursor| cursor.at);
        if let Some(near) = behind
            && start.0 - near.at.0 <= CURSOR_JOIN_BYTES
        {
            return near.id;
        }
        if self.cursors.len() < CURSORS_MAX {
            let id = CursorId(self.cursors_made);
            self.cursors_made = self.cursors_made.wrapping_add(1);
            self.cursors.push(Cursor { id, at: start, state: CursorState::Readable });
            return id;
        }
        if let Some(behind) = behind {
            return behind.id;
        }
        let first = self.cursors.iter_mut().min_by_key(|cursor| cursor.at).expect("CURSORS_MAX is not 0");
        first.at = start;
        first.state = CursorState::Readable;
        first.id
    }

    fn drop_idle_cursors(&mut self) {
        let used: BTreeSet<CursorId> = self.feeds.iter().map(|(_, feed)| feed.cursor).collect();
        self.cursors.retain(|cursor| used.contains(&cursor.id));
    }

    fn read(&mut self, id: CursorId, outcome: ReadOutcome, out: &mut Vec<Action>) {
        let Some(index) = self.cursors.iter().position(|cursor| cursor.id == id) else { return };
        match outcome {
            ReadOutcome::Frame { lsn, next, records } => {
                let before = self.cursors[index].at;
                self.cursors[index].at = next;
                self.gather(id, lsn, &records, out);
                self.merge(id, before, next);
            }
            ReadOutcome::CaughtUp => self.cursors[index].state = CursorState::CaughtUp,
            ReadOutcome::Gone => {
                // Flow control or a slow peer let the log go: what it fed is to be copied.
                for slot in self.fed_by(id) {
                    self.detach(slot, out);
                    out.push(Action::Send(Message::HistoryChanged(slot)));
                }
            }
            ReadOutcome::Corrupt(why) => {
                for slot in self.fed_by(id) {
                    self.refuse(slot, 0, Reason::Failed, why.clone(), out);
                }
            }
        }
    }

    fn fed_by(&self, id: CursorId) -> Vec<Slot> {
        self.feeds.iter().filter(|(_, feed)| feed.cursor == id).map(|(slot, _)| slot).collect()
    }

    fn gather(&mut self, id: CursorId, lsn: Lsn, mut records: &[u8], out: &mut Vec<Action>) {
        while !records.is_empty() {
            // The log's reader has checked the frame that they are of, and whoever gets them checks each.
            let claim = record::claimed(records);
            let taken = claim.and_then(|claim| Some((claim, records.split_at_checked(claim.bytes)?)));
            let Some((claim, (bytes, rest))) = taken else {
                let why = format!("a record at {lsn} of the master's log can't be sent: it has no meaning");
                for slot in self.fed_by(id) {
                    self.refuse(slot, 0, Reason::Failed, why.clone(), out);
                }
                return;
            };
            records = rest;
            if !claim.is_history {
                continue;
            }
            let (slot, seq) = (claim.header.slot, claim.header.seq);
            let Some(feed) = self.feeds.get_mut(slot) else { continue };
            if feed.cursor != id || lsn < feed.start || seq < feed.next {
                continue;
            }
            if seq > feed.next {
                // The slot was replaced here and we have not been told yet: the peer is to ask again.
                self.drop_gathered(slot);
                self.detach(slot, out);
                out.push(Action::Send(Message::HistoryChanged(slot)));
                continue;
            }
            feed.next = seq.next();
            self.gathered_slots.insert(slot);
            self.gathered.extend_from_slice(bytes);
        }
    }

    /// A cursor that has come past another one hands its slots over to it.
    fn merge(&mut self, id: CursorId, before: Lsn, now: Lsn) {
        let ahead = self.cursors.iter().find(|other| other.id != id && other.at > before && other.at <= now);
        // One that stands at the same place serves as well.
        let same = self.cursors.iter().find(|other| other.id != id && other.at == now);
        let Some(into) = ahead.or(same).map(|other| other.id) else { return };
        for (_, feed) in self.feeds.iter_mut().filter(|(_, feed)| feed.cursor == id) {
            feed.cursor = into;
        }
        self.drop_idle_cursors();
    }

    fn flush(&mut self, out: &mut Vec<Action>) {
        if self.gathered.is_empty() {
            return;
        }
        let data = self.gathered.split().freeze();
        self.sent_bytes += data.len() as u64;
        let slots = std::mem::take(&mut self.gathered_slots);
        out.push(Action::SendRecords { slots, data });
    }

    /// Takes a slot's records out of what was gathered.
    fn drop_gathered(&mut self, slot: Slot) {
        if !self.gathered_slots.remove(slot) {
            return;
        }
        let all = self.gathered.split();
        let mut rest = &all[..];
        while let Ok(record) = Record::take(&mut rest) {
            if record.header.slot != slot {
                self.gathered.extend_from_slice(record.bytes);
            }
        }
    }

    fn ack(&mut self, bytes: u64, mut slots: Vec<(Slot, Seq)>, out: &mut Vec<Action>) {
        // A peer that claims more than was sent gets no more credit than that.
        self.acked_bytes = self.acked_bytes.max(bytes.min(self.sent_bytes));
        slots.retain(|&(slot, seq)| {
            let feed = self.feeds.get_mut(slot);
            let Some(feed) = feed.filter(|feed| Some(seq) > feed.acked && seq < feed.next) else {
                return false;
            };
            feed.acked = Some(seq);
            true
        });
        if !slots.is_empty() {
            out.push(Action::Acked(slots));
        }
    }
}
