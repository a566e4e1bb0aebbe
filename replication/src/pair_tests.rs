//! Shipper and receiver driven against each other in memory, with models of both nodes: whatever is written, lost,
//! replaced, trimmed and restarted in whatever order, the replica ends with the master's records, each slot's
//! without a hole on the way.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use haypile_engine::clock::TimeMs;
use haypile_engine::history::History;
use haypile_engine::log::record::{Body, Header, Record, encode};
use haypile_engine::manifest::PartId;
use haypile_engine::slot::Role;
use haypile_engine::sst::FileNo;
use haypile_engine::types::{Epoch, Lsn, NodeId, Seq, Slot};
use proptest::prelude::*;

use crate::decide::{LogReach, View};
use crate::message::{AskState, CopyHead, CopyId, Message, Reason, SlotAsk};
use crate::receiver::{self, LinkState, Question, Receiver};
use crate::shipper::{self, CopiesNow, CopyPart, ReadOutcome, Shipper, Work};

const SLOTS: u16 = 7;
const REPLICA: NodeId = NodeId([2; 20]);

fn slot(number: u16) -> Slot {
    Slot::new(number).expect("in range")
}

/// A slot's content as a model: every record that made it, from the first on.
#[derive(Clone, Debug, Default, PartialEq)]
struct Content {
    history: History,
    records: Vec<Bytes>,
}

impl Content {
    fn last(&self) -> Seq {
        Seq(self.records.len() as u64)
    }

    fn truncated(&self, seq: Seq) -> Content {
        let starts = self.history.starts().iter().filter(|start| start.first_seq <= seq).copied().collect();
        let records = self.records[..usize::try_from(seq.0).expect("small")].to_vec();
        Content { history: History::from_starts(starts).expect("a prefix of one"), records }
    }
}

#[derive(Debug, Default)]
struct Master {
    slots: BTreeMap<Slot, Content>,
    superseded: BTreeMap<Slot, Vec<Epoch>>,
    flushed: BTreeMap<Slot, Seq>,
    /// Frames, each with its position and the number of the slot's life that each record belongs to.
    log: Vec<(Lsn, Bytes)>,
    first_kept: usize,
    end: Lsn,
    tags: u64,
    /// Where each slot's present life began.
    life_start: BTreeMap<Slot, Lsn>,
    copies: BTreeMap<CopyId, VecDeque<CopyPart>>,
}

impl Master {
    fn append(&mut self, records: &[Bytes]) {
        let frame: Vec<u8> = records.iter().flat_map(|record| record.iter().copied()).collect();
        self.log.push((self.end, Bytes::from(frame)));
        self.end = self.end.advance(64);
    }

    fn record(&mut self, slot: Slot, body: &Body<'_>, term: u32) -> Bytes {
        let content = self.slots.entry(slot).or_default();
        let mut out = Vec::new();
        let header = Header { slot, term, seq: content.last().next() };
        encode(&mut out, header, body);
        let record = Bytes::from(out);
        content.records.push(record.clone());
        record
    }

    fn begin_epoch(&mut self, slot: Slot) {
        self.tags += 1;
        let content = self.slots.entry(slot).or_default();
        let term = content.history.current().map_or(0, |epoch| epoch.term) + 1;
        let epoch = Epoch { term, tag: self.tags };
        let first = content.last().next();
        content.history.begin(epoch, first);
        let record = self.record(slot, &Body::EpochStart { epoch, by: NodeId([1; 20]) }, term);
        self.append(&[record]);
    }

    fn write(&mut self, slots: &[Slot], what: u8) {
        let mut frame = Vec::new();
        for &slot in slots {
            let term = self.slots[&slot].history.current().expect("has an epoch").term;
            frame.push(self.record(slot, &Body::Batch(&[what, 6]), term));
        }
        self.append(&frame);
    }

    /// A copy from elsewhere replaces the slot: another history, which begins at the same numbers.
    fn replace(&mut self, slot: Slot) {
        let old = self.slots.remove(&slot).expect("is there");
        let epochs = old.history.starts().iter().map(|start| start.epoch);
        self.superseded.entry(slot).or_default().extend(epochs);
        self.flushed.insert(slot, Seq::ZERO);
        self.life_start.insert(slot, self.end);
        self.begin_epoch(slot);
    }

    fn locate(&self, slot: Slot, seq: Seq) -> Option<Lsn> {
        if seq == self.slots[&slot].last().next() {
            return Some(self.end);
        }
        let life = self.life_start.get(&slot).copied().unwrap_or_default();
        let frames = self.log[self.first_kept..].iter().filter(|(lsn, _)| *lsn >= life);
        for (lsn, frame) in frames {
            let mut rest = &frame[..];
            while let Ok(record) = Record::take(&mut rest) {
                if record.header.slot == slot && record.header.seq == seq {
                    return Some(*lsn);
                }
            }
        }
        None
    }

    fn view(&self, slot: Slot, ask: &SlotAsk) -> (View, Option<Lsn>) {
        let content = &self.slots[&slot];
        let start = if ask.last < content.last().next() { self.locate(slot, ask.last.next()) } else { None };
        let view = View {
            role: Role::Master,
            history: content.history.clone(),
            superseded: self.superseded.get(&slot).cloned().unwrap_or_default(),
            last: content.last(),
            log: if start.is_some() { LogReach::There } else { LogReach::Gone },
            follows_asker: false,
        };
        (view, start)
    }

    fn read(&self, from: Lsn) -> ReadOutcome {
        let kept = &self.log[self.first_kept..];
        if from == self.end {
            return ReadOutcome::CaughtUp;
        }
        match kept.iter().find(|(lsn, _)| *lsn == from) {
            Some((lsn, frame)) => {
                ReadOutcome::Frame { lsn: *lsn, next: lsn.advance(64), records: frame.clone() }
            }
            None => ReadOutcome::Gone,
        }
    }

    fn open_copy(&mut self, copy: CopyId) -> shipper::Event {
        let base = self.flushed.get(&copy.slot).copied().unwrap_or_default();
        let Some(start) = self.locate(copy.slot, base.next()) else {
            let why = "the log was trimmed below what is flushed".to_owned();
            return shipper::Event::CopyFailed { copy, reason: Reason::NotReady, why };
        };
        let content = self.slots[&copy.slot].truncated(base);
        let runs = u32::from(!content.records.is_empty());
        let bytes = content.records.iter().map(|record| record.len() as u64).sum();
        if runs > 0 {
            let of = PartId { file: FileNo(1), offset: 0, len: bytes, crc: 0 };
            let mut parts = VecDeque::from([CopyPart::Run { of, from: 0 }]);
            parts.extend(content.records.iter().cloned().map(CopyPart::Chunk));
            parts.extend([CopyPart::RunEnd, CopyPart::End]);
            self.copies.insert(copy, parts);
        }
        let head =
            CopyHead { history: content.history, base, granted: None, keys: 0, time: TimeMs(0), runs, bytes };
        shipper::Event::CopyOpened { copy, head, start, now_ms: 0 }
    }
}

#[derive(Debug, Default)]
struct Held {
    content: Content,
    /// The base of a copy under way and what came of it.
    loading: Option<(Seq, Vec<Bytes>)>,
    /// Records after the base.
    after: Vec<Bytes>,
}

#[derive(Debug, Default)]
struct Replica {
    slots: BTreeMap<Slot, Held>,
}

impl Replica {
    fn ask(&self, question: Question) -> SlotAsk {
        let Question { slot, number, force } = question;
        let (content, state) = match self.slots.get(&slot) {
            Some(Held { loading: Some(_), .. }) => (Content::default(), AskState::Loading),
            Some(held) if held.content.records.is_empty() => (Content::default(), AskState::Empty),
            Some(held) => (held.content.clone(), AskState::Data),
            None => (Content::default(), AskState::Empty),
        };
        let (last, history) = (content.last(), content.history);
        SlotAsk { slot, number, last, history, state, force, held: Vec::new() }
    }

    fn append(&mut self, mut records: &[u8]) -> Vec<(Slot, Seq)> {
        let mut lasts = BTreeMap::new();
        while !records.is_empty() {
            let record = Record::take(&mut records).expect("whole");
            let held = self.slots.get_mut(&record.header.slot).expect("is followed");
            let bytes = Bytes::copy_from_slice(record.bytes);
            let last = match &held.loading {
                Some((base, _)) => Seq(base.0 + held.after.len() as u64),
                None => held.content.last(),
            };
            assert_eq!(record.header.seq, last.next(), "slot {}", record.header.slot);
            if let Body::EpochStart { epoch, .. } = record.body {
                held.content.history.begin(epoch, record.header.seq);
            }
            let term = held.content.history.current().expect("has an epoch").term;
            assert_eq!(term, record.header.term);
            match held.loading {
                Some(_) => held.after.push(bytes),
                None => held.content.records.push(bytes),
            }
            lasts.insert(record.header.slot, record.header.seq);
        }
        lasts.into_iter().collect()
    }
}

#[derive(Default)]
struct Pair {
    master: Master,
    shipper: Option<Shipper>,
    to_master: VecDeque<Message>,
    to_replica: VecDeque<Message>,
    replica: Replica,
    receiver: Receiver,
    now_ms: u64,
    /// What the master was told each slot has.
    acked: BTreeMap<Slot, Seq>,
}

impl Pair {
    fn new() -> Pair {
        let mut pair = Pair::default();
        for number in 0..SLOTS {
            pair.master.begin_epoch(slot(number));
        }
        pair.receiver.on(receiver::Event::Attach { slots: (0..SLOTS).map(slot).collect(), force: false }, 0);
        pair
    }

    fn connect(&mut self) {
        if self.shipper.is_none() {
            self.shipper = Some(Shipper::new(REPLICA));
            self.received(receiver::Event::Connected);
        }
    }

    fn disconnect(&mut self) {
        self.shipper = None;
        self.master.copies.clear();
        self.to_master.clear();
        self.to_replica.clear();
        self.received(receiver::Event::Disconnected("gone".to_owned()));
    }

    fn restart_replica(&mut self) {
        self.disconnect();
        self.receiver = Receiver::default();
        let slots = (0..SLOTS).map(slot).collect();
        self.receiver.on(receiver::Event::Attach { slots, force: false }, self.now_ms);
    }

    fn shipped(&mut self, event: shipper::Event) {
        let Some(shipper) = &mut self.shipper else { return };
        for action in shipper.on(event) {
            match action {
                shipper::Action::Send(message) => self.to_replica.push_back(message),
                shipper::Action::SendRecords { data, .. } => {
                    // In two parts where it can be cut, as a long record would be.
                    let (head, tail) = (data.slice(..data.len() / 2), data.slice(data.len() / 2..));
                    let part = |more, data| Message::Records { more, times: Vec::new(), data };
                    self.to_replica.extend([part(true, head), part(false, tail)]);
                }
                shipper::Action::OpenCopy(copy) => {
                    let event = self.master.open_copy(copy);
                    self.shipped(event);
                }
                shipper::Action::CloseCopy(copy) => drop(self.master.copies.remove(&copy)),
                shipper::Action::Acked(slots) => self.acked.extend(slots),
                shipper::Action::Pin(..) | shipper::Action::Unpin(_) => {}
            }
        }
    }

    fn work(&mut self) -> bool {
        let Some(work) = self.shipper.as_mut().and_then(|shipper| shipper.work(CopiesNow::Go)) else {
            return false;
        };
        let event = match work {
            Work::ReadLog { cursor, from } => {
                shipper::Event::Read { cursor, outcome: self.master.read(from) }
            }
            Work::ReadCopy(copy) => {
                let parts = self.master.copies.get_mut(&copy).expect("is open");
                shipper::Event::CopyPart { copy, part: parts.pop_front().expect("ends with End") }
            }
            Work::Flush => shipper::Event::Flush,
        };
        self.shipped(event);
        true
    }

    fn received(&mut self, event: receiver::Event) {
        let actions = self.receiver.on(event, self.now_ms);
        for action in actions {
            match action {
                receiver::Action::Send(message) => self.to_master.push_back(message),
                receiver::Action::Ask(questions) => {
                    let asks = questions.into_iter().map(|question| self.replica.ask(question)).collect();
                    self.to_master.push_back(Message::Follow(asks));
                }
                receiver::Action::Append(records) => {
                    let lasts = self.replica.append(&records);
                    self.received(receiver::Event::Appended(lasts));
                }
                receiver::Action::StartLoading { slot, head } => {
                    let content = Content { history: head.history, records: Vec::new() };
                    let loading = (head.runs > 0).then(|| (head.base, Vec::new()));
                    let held = Held { content, loading, after: Vec::new() };
                    self.replica.slots.insert(slot, held);
                }
                receiver::Action::ImportChunk(slot, data) => {
                    let held = self.replica.slots.get_mut(&slot).expect("is loading");
                    held.loading.as_mut().expect("is loading").1.push(data);
                }
                receiver::Action::ImportEnd(slot) => {
                    let held = self.replica.slots.get_mut(&slot).expect("is loading");
                    let (base, records) = held.loading.take().expect("is loading");
                    assert_eq!(records.len() as u64, base.0, "the whole copy came");
                    held.content.records = records;
                    held.content.records.append(&mut held.after);
                    self.received(receiver::Event::Imported(slot));
                }
                receiver::Action::Acknowledge(slots) => {
                    for (slot, seq) in &slots {
                        let held = &self.replica.slots[slot];
                        assert!(held.loading.is_none() && held.content.last() == *seq, "acked is applied");
                    }
                    let bytes = self.receiver.received_bytes();
                    self.to_master.push_back(Message::Ack { bytes, slots });
                }
                receiver::Action::Disconnect(why) => panic!("{why}"),
                other => assert!(
                    matches!(
                        other,
                        receiver::Action::ImportRun { .. }
                            | receiver::Action::ImportRunEnd(_)
                            | receiver::Action::ImportSuspend(_)
                            | receiver::Action::Agreed(_)
                            | receiver::Action::SetTimes(_)
                    ),
                    "{other:?}"
                ),
            }
        }
    }

    fn deliver_to_master(&mut self) -> bool {
        let Some(message) = self.to_master.pop_front() else { return false };
        match message {
            Message::Follow(asks) => {
                for ask in asks {
                    let (view, start) = self.master.view(ask.slot, &ask);
                    self.shipped(shipper::Event::Follow { ask, view, start });
                }
            }
            Message::Ack { bytes, slots } => self.shipped(shipper::Event::Ack { bytes, slots }),
            Message::Unfollow(slots) => self.shipped(shipper::Event::Unfollow(slots)),
            other => panic!("{other:?}"),
        }
        true
    }

    fn deliver_to_replica(&mut self) -> bool {
        let Some(message) = self.to_replica.pop_front() else { return false };
        self.received(receiver::Event::Message(message));
        true
    }

    fn settle(&mut self) {
        self.connect();
        for _ in 0..200 {
            self.shipped(shipper::Event::LogGrew);
            while self.work() | self.deliver_to_master() | self.deliver_to_replica() {}
            self.now_ms += receiver::RETRY_MS_MAX;
            self.received(receiver::Event::Tick);
        }
    }

    fn assert_equal(&self) {
        for number in 0..SLOTS {
            let slot = slot(number);
            let status = self.receiver.status(slot).expect("attached");
            assert_eq!(status.state, LinkState::Connected, "slot {slot}: {status:?}");
            assert_eq!(self.replica.slots[&slot].content, self.master.slots[&slot], "slot {slot}");
            assert_eq!(
                self.shipper.as_ref().and_then(|s| s.acked(slot)),
                Some(self.master.slots[&slot].last())
            );
        }
        assert_eq!(self.shipper.as_ref().map(Shipper::in_flight_bytes), Some(0));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<u16>, u8),
    Epoch(u16),
    Flush(u16),
    /// Removes as much of the log as what is flushed allows.
    Trim,
    Replace(u16, bool),
    Work(u8),
    ToMaster(u8),
    ToReplica(u8),
    Connect,
    Disconnect,
    RestartReplica,
    Later,
}

fn step() -> impl Strategy<Value = Step> {
    let number = || 0..SLOTS;
    prop_oneof![
        8 => (prop::collection::btree_set(number(), 1..4), any::<u8>())
            .prop_map(|(slots, what)| Step::Write(slots.into_iter().collect(), what)),
        1 => number().prop_map(Step::Epoch),
        2 => number().prop_map(Step::Flush),
        1 => Just(Step::Trim),
        1 => (number(), any::<bool>()).prop_map(|(slot, told)| Step::Replace(slot, told)),
        8 => (1u8..20).prop_map(Step::Work),
        6 => (1u8..20).prop_map(Step::ToMaster),
        6 => (1u8..20).prop_map(Step::ToReplica),
        2 => Just(Step::Connect),
        1 => Just(Step::Disconnect),
        1 => Just(Step::RestartReplica),
        2 => Just(Step::Later),
    ]
}

fn run(steps: Vec<Step>) {
    let mut pair = Pair::new();
    for step in steps {
        match step {
            Step::Write(slots, what) => {
                let slots: Vec<Slot> = slots.into_iter().map(slot).collect();
                pair.master.write(&slots, what);
                pair.shipped(shipper::Event::LogGrew);
            }
            Step::Epoch(number) => {
                pair.master.begin_epoch(slot(number));
                pair.shipped(shipper::Event::LogGrew);
            }
            Step::Flush(number) => {
                let last = pair.master.slots[&slot(number)].last();
                pair.master.flushed.insert(slot(number), last);
            }
            Step::Trim => {
                let needed = (0..SLOTS).map(slot).filter_map(|slot| {
                    let flushed = pair.master.flushed.get(&slot).copied().unwrap_or_default();
                    pair.master.locate(slot, flushed.next())
                });
                let keep = needed.min().unwrap_or(pair.master.end);
                let first = pair.master.log.iter().position(|(lsn, _)| *lsn >= keep);
                pair.master.first_kept = first.unwrap_or(pair.master.log.len());
            }
            Step::Replace(number, told_first) => {
                let slot = slot(number);
                if told_first {
                    pair.shipped(shipper::Event::Replaced(slot));
                }
                pair.master.replace(slot);
                pair.shipped(shipper::Event::Replaced(slot));
                pair.shipped(shipper::Event::Ready(slot));
            }
            Step::Work(times) => (0..times).for_each(|_| {
                pair.work();
            }),
            Step::ToMaster(times) => (0..times).for_each(|_| {
                pair.deliver_to_master();
            }),
            Step::ToReplica(times) => (0..times).for_each(|_| {
                pair.deliver_to_replica();
            }),
            Step::Connect => pair.connect(),
            Step::Disconnect => pair.disconnect(),
            Step::RestartReplica => pair.restart_replica(),
            Step::Later => {
                pair.now_ms += 1000;
                pair.received(receiver::Event::Tick);
            }
        }
    }
    pair.settle();
    pair.assert_equal();
}

#[test]
fn a_replica_gets_everything_once_and_in_order() {
    run(vec![Step::Connect, Step::Write(vec![0, 1], 1), Step::Flush(0), Step::Write(vec![0], 2)]);
}

#[test]
fn what_the_log_lost_comes_as_a_copy_and_goes_on_from_its_end() {
    let mut steps = vec![Step::Write(vec![0, 1, 2, 3, 4, 5, 6], 1)];
    steps.extend((0..SLOTS).map(Step::Flush));
    steps.extend([Step::Trim, Step::Write(vec![3], 2), Step::Connect, Step::Write(vec![4], 3)]);
    run(steps);
}

#[test]
fn a_gap_asks_for_one_slot_again_and_leaves_the_others_alone() {
    let mut pair = Pair::new();
    pair.settle();
    pair.master.write(&[slot(1), slot(2)], 1);
    let (first, second) = (pair.master.slots[&slot(1)].clone(), pair.master.slots[&slot(2)].clone());
    pair.master.write(&[slot(1)], 2);
    let hole = pair.master.slots[&slot(1)].records.last().expect("written").clone();
    let data = Bytes::from([&hole[..], &second.records[1][..]].concat());
    pair.received(receiver::Event::Message(Message::Records { more: false, times: Vec::new(), data }));
    assert_eq!(pair.receiver.status(slot(1)).expect("attached").state, LinkState::WaitReply);
    assert_eq!(pair.receiver.status(slot(2)).expect("attached").state, LinkState::Connected);
    assert_eq!(pair.replica.slots[&slot(2)].content, second);
    assert!(pair.replica.slots[&slot(1)].content.records.len() < first.records.len());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_the_replica_ends_with_the_masters_records(
        steps in prop::collection::vec(step(), 0..150),
    ) {
        run(steps);
    }
}

#[test]
fn a_copy_that_ends_before_all_that_was_announced_came_is_not_installed() {
    let copy = CopyId { slot: slot(1), number: 1 };
    let of = PartId { file: FileNo(1), offset: 0, len: 10, crc: 0 };
    let head = |runs, bytes| CopyHead {
        history: History::default(),
        base: Seq(5),
        granted: None,
        keys: 0,
        time: TimeMs(0),
        runs,
        bytes,
    };
    // Of the run, four bytes are here already.
    let table = [(1, 10, true), (2, 10, false), (1, 11, false), (0x8000_0000, 10, false)];
    for (runs, bytes, whole) in table {
        let mut receiver = Receiver::default();
        receiver.on(receiver::Event::Attach { slots: vec![slot(1)], force: false }, 0);
        receiver.on(receiver::Event::Connected, 0);
        let said = [
            Message::CopyBegin { copy, head: head(runs, bytes) },
            Message::CopyRun { copy, of, from: 4 },
            Message::CopyChunk { copy, data: Bytes::from_static(b"others") },
            Message::CopyRunEnd(copy),
            Message::CopyEnd(copy),
        ];
        let told = |message| receiver.on(receiver::Event::Message(message), 1);
        let actions: Vec<_> = said.into_iter().flat_map(told).collect();
        let installed = actions.contains(&receiver::Action::ImportEnd(slot(1)));
        assert_eq!(installed, whole, "{runs} runs, {bytes} bytes");
        let ended = actions.iter().any(|action| matches!(action, receiver::Action::Disconnect(_)));
        assert_eq!(ended, !whole, "{runs} runs, {bytes} bytes");
    }
}
