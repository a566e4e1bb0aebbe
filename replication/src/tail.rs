//! What an owner lost in an unclean stop and its replicas have, taken back before its next epoch begins.
//!
//! [`Taking`] is the owner's side: which replicas are asked, what is appended, and when a slot's epoch begins: once each
//! of its replicas has given all that it has, or will give nothing, or has taken too long. A state machine, with no
//! socket, clock or engine inside. [`Giving`] is the replica's side: what it has of a slot's running epoch, read from its
//! log.
//!
//! All replicas of a slot are asked, since any may have most; what two of them have is the same, so that what comes twice
//! is passed over. Each has its own time: it ends when nothing new came of that replica for as long as is waited, however
//! much comes of others.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use haypile_engine::engine::Engine;
use haypile_engine::log::{LogReader, ReadOutcome, records};
use haypile_engine::owed::Owed;
use haypile_engine::planted::{self, Bug};
use haypile_engine::roles::Position;
use haypile_engine::slot::Role;
use haypile_engine::types::{Epoch, Lsn, NodeId, Seq, Slot};

use crate::message::Beat;
use crate::peer::start_of;
use crate::receiver::PARTIAL_BYTES_MAX;

/// About how much of the log is gathered for one message.
const PIECE_BYTES: usize = 256 << 10;

/// Instead of a slot's last record: the node that answers owns the slot, in an epoch that came after the one asked about. It was
/// promoted while the asker was away.
pub const HEIR: Seq = Seq::MAX;

/// Slots whose tails a replica is asked for: their running epochs and last records.
pub type Asks = Vec<(Slot, Epoch, Seq)>;

/// What happens to an owner that takes its tails back.
#[derive(Debug)]
pub enum Event {
    /// It begins.
    Start,
    /// A node says by itself that it follows a slot, and where it listens now: one that is asked may have a new address, and
    /// one that nobody knew of is asked too.
    Came(NodeId, String, Slot),
    /// A replica was reached and says that it answers.
    Reached(NodeId),
    /// It says up to where it has the slots that it was asked for, and their times.
    Has(NodeId, Vec<Beat>),
    /// Records came from it; the last of them goes on in the next message if there is more. None at all: that was the last
    /// message, and what it said that it has besides it can't give.
    Records {
        /// From whom.
        node: NodeId,
        /// Whether the last record goes on.
        more: bool,
        /// Whole records but for that.
        data: Bytes,
    },
    /// What was to be appended was: the slots' last records. Of some it was not what they lack.
    Appended {
        /// From whom it came.
        node: NodeId,
        /// Slots of which there were records, each with its last record here.
        lasts: Vec<(Slot, Seq)>,
        /// Slots whose records do not fit.
        unfit: Vec<Slot>,
    },
    /// A replica can't be reached, or its connection is gone: it is tried again.
    Lost(NodeId),
    /// It will never answer, or nothing that can be relied on.
    Refused(NodeId),
    /// Time went by.
    Tick,
    /// Some time has passed in which no tails were awaited, and these slots are owed still: whoever owned one of them meanwhile
    /// may not any more.
    Again(BTreeSet<Slot>),
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Reach this replica, some time after the last try: then [`Event::Reached`], `Lost` or `Refused`.
    Dial(NodeId, String),
    /// Ask it.
    Ask(NodeId, Asks),
    /// Its connection is of no more use.
    HangUp(NodeId),
    /// Take up the slots' times.
    Times(Vec<Beat>),
    /// Append records of these slots that came from this node: then [`Event::Appended`], or `Refused` if they can't be.
    Append(NodeId, Bytes),
    /// The slots' next epochs are to begin.
    Begin(Vec<Slot>),
    /// This node owns the slots meanwhile: their epochs do not begin before it says otherwise.
    Yield(NodeId, Vec<Slot>),
    /// Somebody should know that this does not come.
    Missed(Missed),
}

/// What a replica may have of what was lost, and did not give.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Missed {
    /// Which replica.
    pub node: NodeId,
    /// Where it listens, as far as is known.
    pub address: String,
    /// Each slot with its last record here, and up to where the replica has it, if it has said so.
    pub slots: Vec<(Slot, Seq, Option<Seq>)>,
    /// Why.
    pub why: WhyMissed,
}

/// Why a replica's records do not come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhyMissed {
    /// Nothing new came of it for too long: they are given up.
    Late,
    /// Its log does not go back so far. It is waited for all the same: somebody may want the replica to own the slots.
    LogGone,
}

/// What is waited for of a slot.
#[derive(Debug)]
struct Wait {
    epoch: Epoch,
    last: Seq,
    /// The replicas that have not given all that they have: up to where it comes, once they have said so.
    from: BTreeMap<NodeId, Option<Seq>>,
    /// Those that have answered for it, in one way or another.
    heard: BTreeSet<NodeId>,
    /// Who owns it meanwhile: as long as that node does not say otherwise, no epoch begins here.
    heir: Option<NodeId>,
}

impl Wait {
    fn is_settled(&self) -> bool {
        self.from.is_empty() && self.heir.is_none()
    }

    fn is_for(&self, node: NodeId) -> bool {
        self.heir == Some(node) || self.from.contains_key(&node)
    }

    /// Nothing more is to come of a node.
    fn done_with(&mut self, node: NodeId) {
        self.from.remove(&node);
        self.heard.insert(node);
    }
}

/// A replica that is asked.
#[derive(Debug)]
struct Asked {
    address: String,
    /// It was reached, and the connection stands.
    reached: bool,
    /// The beginning of a record that came in part.
    partial: BytesMut,
    /// The longest of such since the last whole record: what comes again after a lost connection is not new.
    longest: usize,
    /// It has answered once.
    answered: bool,
    /// It has said that it can't give all that it has.
    log_gone: bool,
    /// When it is waited for no longer.
    deadline_ms: u64,
}

impl Asked {
    fn new(address: String, deadline_ms: u64) -> Asked {
        let (partial, longest) = (BytesMut::new(), 0);
        Asked { address, reached: false, partial, longest, answered: false, log_gone: false, deadline_ms }
    }
}

/// The owner's side. See the file's head.
#[derive(Debug)]
pub struct Taking {
    waits: BTreeMap<Slot, Wait>,
    asked: BTreeMap<NodeId, Asked>,
    /// For how long nothing new may come of a replica.
    wait_ms: u64,
    taken: u64,
}

impl Taking {
    /// Of these slots, from now on.
    #[must_use]
    pub fn new(owed: Vec<Owed>, wait_ms: u64, now_ms: u64) -> Taking {
        let deadline_ms = now_ms.saturating_add(wait_ms);
        let (mut waits, mut asked) = (BTreeMap::new(), BTreeMap::new());
        for Owed { slot, epoch, last, replicas } in owed {
            let from = replicas.iter().map(|(node, _)| (*node, None)).collect();
            waits.insert(slot, Wait { epoch, last, from, heard: BTreeSet::new(), heir: None });
            let replicas = replicas.into_iter();
            asked.extend(replicas.map(|(node, address)| (node, Asked::new(address, deadline_ms))));
        }
        Taking { waits, asked, wait_ms, taken: 0 }
    }

    /// Whether nothing is waited for any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.waits.is_empty()
    }

    /// How many records were taken back.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// When [`Event::Tick`] is due; `None` if only other owners are waited for, and no tails.
    #[must_use]
    pub fn deadline_ms(&self) -> Option<u64> {
        let gives = |node: &NodeId| self.waits.values().any(|wait| wait.from.contains_key(node));
        self.asked.iter().filter(|(node, _)| gives(node)).map(|(_, asked)| asked.deadline_ms).min()
    }

    /// This node was busy for so long itself, with its own disk: no replica's time.
    pub fn excuse(&mut self, ms: u64) {
        for asked in self.asked.values_mut() {
            asked.deadline_ms = asked.deadline_ms.saturating_add(ms);
        }
    }

    /// Something happened: what is to be done about it.
    pub fn on(&mut self, event: Event, now_ms: u64) -> Vec<Action> {
        let mut out = Vec::new();
        match event {
            Event::Start => {
                out.extend(self.asked.iter().map(|(node, asked)| Action::Dial(*node, asked.address.clone())));
            }
            Event::Came(node, address, slot) => self.came(node, address, slot, now_ms, &mut out),
            Event::Reached(node) => {
                let asks = self.asks(|wait| wait.is_for(node));
                if let Some(asked) = self.asked.get_mut(&node) {
                    asked.reached = true;
                    asked.partial.clear();
                    out.push(Action::Ask(node, asks));
                }
            }
            Event::Has(node, beats) => self.has(node, beats, now_ms, &mut out),
            Event::Records { node, more, data } => self.records(node, more, data, now_ms, &mut out),
            Event::Appended { node, lasts, unfit } => self.appended(node, lasts, &unfit, now_ms),
            Event::Lost(node) => {
                if let Some(asked) = self.asked.get_mut(&node) {
                    asked.reached = false;
                    self.waits
                        .values_mut()
                        .filter_map(|wait| wait.from.get_mut(&node))
                        .for_each(|upto| *upto = None);
                    out.push(Action::Dial(node, asked.address.clone()));
                }
            }
            Event::Refused(node) => self.waits.values_mut().for_each(|wait| wait.done_with(node)),
            Event::Tick => {
                let late = self.asked.iter().filter(|(_, asked)| asked.deadline_ms <= now_ms);
                let late: Vec<NodeId> = late.map(|(node, _)| *node).collect();
                late.into_iter().for_each(|node| self.give_up(node, &mut out));
            }
            Event::Again(owed) => {
                self.waits.retain(|slot, _| owed.contains(slot));
                let heirs: BTreeSet<NodeId> = self.waits.values().filter_map(|wait| wait.heir).collect();
                for node in heirs.into_iter().filter(|node| self.asked.get(node).is_some_and(|a| a.reached)) {
                    out.push(Action::Ask(node, self.asks(|wait| wait.heir == Some(node))));
                }
            }
        }
        self.settle(&mut out);
        out
    }

    fn asks(&self, of: impl Fn(&Wait) -> bool) -> Asks {
        let waits = self.waits.iter().filter(|(_, wait)| of(wait));
        waits.map(|(&slot, wait)| (slot, wait.epoch, wait.last)).collect()
    }

    /// Something new came of a replica.
    fn wait_on(&mut self, node: NodeId, now_ms: u64) {
        if let Some(asked) = self.asked.get_mut(&node) {
            asked.deadline_ms = asked.deadline_ms.max(now_ms.saturating_add(self.wait_ms));
        }
    }

    fn came(&mut self, node: NodeId, address: String, slot: Slot, now_ms: u64, out: &mut Vec<Action>) {
        let Some(wait) = self.waits.get_mut(&slot).filter(|wait| !wait.heard.contains(&node)) else { return };
        if let Some(asked) = self.asked.get_mut(&node) {
            // It is on its way: at the latest the next try finds it.
            asked.address = address;
            if !asked.reached {
                wait.from.entry(node).or_insert(None);
            }
            return;
        }
        wait.from.insert(node, None);
        self.asked.insert(node, Asked::new(address.clone(), now_ms.saturating_add(self.wait_ms)));
        out.push(Action::Dial(node, address));
    }

    fn has(&mut self, node: NodeId, mut beats: Vec<Beat>, now_ms: u64, out: &mut Vec<Action>) {
        let Some(asked) = self.asked.get_mut(&node) else { return };
        let mut is_new = !std::mem::replace(&mut asked.answered, true);
        let inherited: BTreeSet<Slot> =
            beats.extract_if(.., |beat| beat.last == HEIR).map(|beat| beat.slot).collect();
        let has: BTreeMap<Slot, Seq> = beats.iter().map(|beat| (beat.slot, beat.last)).collect();
        let mut yielded = Vec::new();
        for (&slot, wait) in self.waits.iter_mut().filter(|(_, wait)| wait.is_for(node)) {
            if inherited.contains(&slot) {
                wait.done_with(node);
                if wait.heir.replace(node) != Some(node) {
                    yielded.push(slot);
                }
                continue;
            }
            is_new |= wait.heir.take_if(|heir| *heir == node).is_some();
            match has.get(&slot).filter(|&&upto| upto > wait.last && !planted::is(Bug::TailIgnored)) {
                Some(&upto) => drop(wait.from.insert(node, Some(upto))),
                None => wait.done_with(node),
            }
        }
        if is_new {
            self.wait_on(node, now_ms);
        }
        if !yielded.is_empty() {
            out.push(Action::Yield(node, yielded));
        }
        out.push(Action::Times(beats));
    }

    fn records(&mut self, node: NodeId, more: bool, data: Bytes, now_ms: u64, out: &mut Vec<Action>) {
        let Some(asked) = self.asked.get_mut(&node) else { return };
        if !more && asked.partial.is_empty() {
            if !data.is_empty() {
                out.push(Action::Append(node, data));
            } else if !std::mem::replace(&mut asked.log_gone, true) {
                out.extend(self.missed(node, WhyMissed::LogGone));
            }
            return;
        }
        asked.partial.extend_from_slice(&data);
        if asked.partial.len() > PARTIAL_BYTES_MAX {
            // Longer than any record can be.
            self.waits.values_mut().for_each(|wait| wait.done_with(node));
            return;
        }
        let is_new = asked.partial.len() > asked.longest;
        asked.longest = asked.longest.max(asked.partial.len());
        if !more {
            out.push(Action::Append(node, asked.partial.split().freeze()));
        }
        if is_new {
            self.wait_on(node, now_ms);
        }
    }

    fn appended(&mut self, node: NodeId, lasts: Vec<(Slot, Seq)>, unfit: &[Slot], now_ms: u64) {
        let before = self.taken;
        for (slot, last) in lasts {
            if let Some(wait) = self.waits.get_mut(&slot) {
                self.taken += last.0.saturating_sub(wait.last.0);
                wait.last = wait.last.max(last);
                let given = wait.from.extract_if(.., |_, upto| upto.is_some_and(|upto| upto <= wait.last));
                wait.heard.extend(given.map(|(node, _)| node));
            }
        }
        if self.taken > before {
            if let Some(asked) = self.asked.get_mut(&node) {
                asked.longest = 0;
            }
            self.wait_on(node, now_ms);
        }
        for slot in unfit {
            if let Some(wait) = self.waits.get_mut(slot) {
                wait.done_with(node);
            }
        }
    }

    /// What a node has not given is waited for no longer. It may come by itself still.
    fn give_up(&mut self, node: NodeId, out: &mut Vec<Action>) {
        out.extend(self.missed(node, WhyMissed::Late));
        self.waits.values_mut().for_each(|wait| wait.from.retain(|from, _| *from != node));
    }

    /// What a node has not given, if there is anything.
    fn missed(&self, node: NodeId, why: WhyMissed) -> Option<Action> {
        let of = |(&slot, wait): (&Slot, &Wait)| Some((slot, wait.last, *wait.from.get(&node)?));
        let slots: Vec<_> = self.waits.iter().filter_map(of).collect();
        let address = self.asked.get(&node)?.address.clone();
        (!slots.is_empty()).then(|| Action::Missed(Missed { node, address, slots, why }))
    }

    /// Slots for which nobody is waited for begin their epochs; who is waited for by none is let go.
    fn settle(&mut self, out: &mut Vec<Action>) {
        let ready: Vec<Slot> =
            self.waits.iter().filter(|(_, wait)| wait.is_settled()).map(|(slot, _)| *slot).collect();
        ready.iter().for_each(|slot| drop(self.waits.remove(slot)));
        let waits = &self.waits;
        self.asked.retain(|node, _| {
            let awaited = waits.values().any(|wait| wait.is_for(*node));
            if !awaited {
                out.push(Action::HangUp(*node));
            }
            awaited
        });
        if !ready.is_empty() {
            out.push(Action::Begin(ready));
        }
    }
}

/// What of a slot is sent.
#[derive(Debug)]
struct Given {
    term: u32,
    next: Seq,
    upto: Seq,
    from: Lsn,
    /// Which life of the slot it is of.
    life: u64,
}

/// The replica's side. See the file's head.
pub struct Giving {
    reader: LogReader,
    slots: BTreeMap<Slot, Given>,
}

impl Giving {
    /// What this node has of slots after a record of their running epochs: the message that says so, and the records, if
    /// there should be any. A slot of which it has nothing, or of which it knows another epoch after that one, is passed
    /// over; but who understands it is told that this node owns the slot in such an epoch. One that it has, but not in its log any
    /// more, is told of all the same: else it would look like one that it does not have.
    #[must_use]
    pub fn look(
        engine: &Engine,
        asks: &[(Slot, Epoch, Seq)],
        tells_heirs: bool,
    ) -> (Vec<Beat>, Option<Giving>) {
        let (mut beats, mut slots) = (Vec::new(), BTreeMap::new());
        let mut is_any = false;
        for &(slot, epoch, last) in asks {
            let position = engine.position(slot);
            // A copy that is under way is no prefix of anything.
            let whole = !matches!(position.role, Role::Absent | Role::Loading { .. });
            if !whole || position.history.current() != Some(epoch) {
                if tells_heirs && is_heir(&position, epoch) {
                    beats.push(Beat { slot, last: HEIR, time: position.time });
                }
                continue;
            }
            // A grant that the owner does not have was never given: see `haypile_engine::owed`.
            let granted = u64::from(position.granted.is_some());
            let upto = Seq(position.last_seq.0.saturating_sub(granted));
            beats.push(Beat { slot, last: upto, time: position.time });
            if upto <= last {
                continue;
            }
            is_any = true;
            match start_of(engine, slot, last.next()) {
                Some(from) => {
                    let given =
                        Given { term: epoch.term, next: last.next(), upto, from, life: position.life };
                    slots.insert(slot, given);
                }
                None => tracing::warn!(
                    %slot, %last, %upto, "the master lost records, and the log here has them no more"
                ),
            }
        }
        let from = slots.values().map(|given: &Given| given.from).min();
        let reader = engine.reader(from.unwrap_or_else(|| engine.log_end()));
        (beats, is_any.then_some(Giving { reader, slots }))
    }

    /// Whether all was given.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.slots.is_empty()
    }

    /// The next records, whole ones.
    ///
    /// # Errors
    /// If the log does not have them any more, or a slot is not what it was: in words.
    pub fn next(&mut self, engine: &Engine) -> Result<Bytes, String> {
        let mut piece = BytesMut::new();
        let mut over = Vec::new();
        while piece.len() < PIECE_BYTES && over.len() < self.slots.len() {
            let (lsn, body) = match self.reader.next() {
                ReadOutcome::Frame { lsn, records, .. } => (lsn, records),
                ReadOutcome::CaughtUp => return Err("the log ends before what was promised of it".to_owned()),
                ReadOutcome::Gone => return Err("the log was released before it was sent".to_owned()),
                ReadOutcome::Corrupt(error) => return Err(error.to_string()),
            };
            for record in records(&body) {
                let record = record.map_err(|why| format!("a record of the log: {why}"))?;
                let slot = record.header.slot;
                let Some(given) = self.slots.get_mut(&slot).filter(|given| lsn >= given.from) else {
                    continue;
                };
                let is_next = record.header.seq == given.next && given.next <= given.upto;
                if !is_next || record.header.term != given.term || !record.body.is_history() {
                    continue;
                }
                piece.extend_from_slice(record.bytes);
                given.next = given.next.next();
                if given.next > given.upto {
                    over.push(slot);
                }
            }
        }
        // Looked at after reading: what was read is of the life that it is sent as.
        if let Some((slot, _)) =
            self.slots.iter().find(|(slot, given)| engine.pulse(**slot).life != given.life)
        {
            return Err(format!("slot {slot} was replaced"));
        }
        self.slots.retain(|slot, _| !over.contains(slot));
        Ok(piece.freeze())
    }
}

/// Whether a slot's owner, or who is handing it over, began a later epoch than this.
fn is_heir(position: &Position, epoch: Epoch) -> bool {
    let owns = position.role.owns() || matches!(position.role, Role::Granted { .. });
    owns && position.history.starts().iter().any(|start| start.epoch == epoch)
}

#[cfg(test)]
mod tests;
