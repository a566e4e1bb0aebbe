//! Two nodes, and what may happen to them: a random walk over writes, background work, slots' lives, replication by
//! hand, handovers, failures, kills and losses of power.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Arc;

use haypile_engine::background::Job;
use haypile_engine::copy::{CopySource, Load, part_id, place_of};
use haypile_engine::engine::Engine;
use haypile_engine::history::Relation;
use haypile_engine::log::{ReadOutcome, record};
use haypile_engine::sst::Run;
use haypile_engine::types::{Epoch, Lsn, NodeId, Seq};

use crate::common::{TestClock, load_of};
use crate::model::{Dice, Effect, Is, Model, Record, State, name, slot_of_tag};
use crate::node::{Node, Plan, RETAIN_BYTES, SEGMENT_BYTES, TAGS};

const TRACE_LINES: usize = 60;
const ADDRESSES: [&str; 2] = ["left:1", "right:1"];

pub struct Pair {
    dice: Dice,
    /// For what became of copies, so that it moves nothing else of a seed's run.
    copy_dice: Dice,
    clock: Arc<TestClock>,
    nodes: [Node; 2],
    lives: u64,
    trace: VecDeque<String>,
    /// A copy is coming: nothing else takes copies, and nodes are not stopped.
    copying: bool,
    /// What each node's master keeps for it of each slot.
    pins: [[Option<Pin>; TAGS]; 2],
}

/// Log that a master keeps for a replica.
#[derive(Clone, Copy)]
struct Pin {
    /// The records after this one.
    seq: Seq,
    /// The first of them lies here, or after.
    from: Lsn,
    /// In which life of the slot.
    life: u64,
    /// In which start of the master.
    start: u64,
}

impl Pair {
    pub fn new(seed: u64) -> Pair {
        let clock = Arc::new(TestClock::default());
        let nodes = [Node::new(0, seed, &clock), Node::new(1, seed, &clock)];
        let trace = VecDeque::new();
        let pins = [[None; TAGS]; 2];
        let copy_dice = Dice(seed ^ 0x636f_7069_6573);
        let mut pair =
            Pair { dice: Dice(seed), copy_dice, clock, nodes, lives: 0, trace, copying: false, pins };
        (0..TAGS).for_each(|tag| pair.add(0, tag));
        pair
    }

    pub fn trace(&self) -> impl Iterator<Item = &String> {
        self.trace.iter()
    }

    fn note(&mut self, line: String) {
        if self.trace.len() == TRACE_LINES {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    pub fn run(&mut self, steps: u64) -> u64 {
        for _ in 0..steps {
            self.step();
            self.one_owner();
        }
        for node in 0..2 {
            self.restart(node);
            (0..TAGS).for_each(|tag| self.nodes[node].check(tag));
            let flushed = self.nodes[node].engine.flush_all();
            flushed.expect("flushes");
            assert_eq!(self.nodes[node].engine.memtable_bytes(), 0, "memory that nothing takes is accounted");
            self.nodes[node].all_synced();
            (0..TAGS).for_each(|tag| self.nodes[node].check(tag));
        }
        let sum = |node: &Node| node.fs.operations().wrapping_mul(31).wrapping_add(node.engine.log_end().0);
        sum(&self.nodes[0]).wrapping_mul(1_000_003).wrapping_add(sum(&self.nodes[1]))
    }

    /// One thing happens.
    fn step(&mut self) {
        let me = self.dice.index(2);
        let tag = self.dice.index(TAGS);
        if self.nodes[me].dead {
            return self.restart(me);
        }
        match self.dice.below(100) {
            0..45 => self.write(me),
            45..62 => self.background(me),
            62..65 => self.nodes[me].check(tag),
            65..67 => self.add(me, tag),
            67 => self.remove(me, tag),
            68..71 => self.follow(me, tag),
            71..77 => self.copy_if_needed(me, tag),
            77..87 => drop(self.stream(me, tag)),
            87..89 => self.promote(me, tag),
            89..94 => self.hand_over(me, tag),
            94..96 => self.fail_soon(me),
            96 => self.close(me),
            _ => self.restart(me),
        }
    }

    /// What may happen while a copy of a slot comes.
    fn small_step(&mut self, copied: usize) {
        let (me, any) = (self.dice.index(2), self.dice.index(TAGS));
        let tag = if self.dice.one_in(2) { copied } else { any };
        if self.nodes[me].dead {
            return;
        }
        match self.dice.below(14) {
            0..5 => self.write(me),
            5..8 => self.background(me),
            8 => self.fail_soon(me),
            9 if self.dice.one_in(4) => self.remove(me, tag),
            10..12 => self.race(copied),
            _ => drop(self.stream(me, tag)),
        }
    }

    /// What a copy of a slot meets at worst: a command of its master, streamed and flushed while the runs still come.
    fn race(&mut self, tag: usize) {
        let Some(me) = (0..2).find(|me| self.nodes[*me].models[tag].is == Is::Loading) else { return };
        if self.nodes[1 - me].models[tag].is == Is::Master {
            let plan = if self.dice.one_in(3) { Plan::Clear } else { self.plan(tag) };
            self.note(format!("node {}: {plan:?} while t{tag} is copied", 1 - me));
            self.nodes[1 - me].write(&[(tag, vec![plan])], true);
        }
        if self.stream(me, tag) && self.dice.one_in(2) {
            self.flush(me, &[tag]);
        }
    }

    /// At most one node acknowledges writes to a slot of one lineage.
    fn one_owner(&self) {
        for tag in 0..TAGS {
            let [left, right] = [0, 1].map(|node| self.nodes[node].engine.position(slot_of_tag(tag)));
            let owns = |is: Is| matches!(is, Is::Master | Is::Fenced);
            if owns(Is::of(&left.role)) && owns(Is::of(&right.role)) {
                let shared = left.history.starts().iter().any(|start| right.history.starts().contains(start));
                assert!(!shared, "slot t{tag} has two owners: {:?} and {:?}", left.history, right.history);
            }
        }
    }

    fn write(&mut self, me: usize) {
        let count = if self.dice.one_in(4) { 3 } else { 1 };
        let mut plans: Vec<(usize, Vec<Plan>)> = Vec::new();
        for _ in 0..count {
            let tag = self.dice.index(TAGS);
            let owned = self.nodes[me].models[tag].is == Is::Master;
            if owned && plans.iter().all(|(other, _)| *other != tag) {
                let commands = 1 + self.dice.below(4) * self.dice.below(2);
                let plan = (0..commands).map(|_| self.plan(tag)).collect();
                plans.push((tag, plan));
            }
        }
        if plans.is_empty() {
            return;
        }
        let write = !self.dice.one_in(4);
        self.note(format!("node {me}: {plans:?} write {write}"));
        self.nodes[me].write(&plans, write);
    }

    fn plan(&mut self, tag: usize) -> Plan {
        let clears = if self.copying { 1 } else { 3 };
        let dice = &mut self.dice;
        let key = name(tag, dice.below(12));
        let sub = |dice: &mut Dice| format!("sub{}", dice.below(30)).into_bytes();
        let bytes = |dice: &mut Dice| {
            let len = dice.index(if dice.clone().one_in(9) { 4000 } else { 90 });
            vec![b'a' + u8::try_from(dice.below(26)).expect("small"); len]
        };
        match dice.below(24) {
            0..9 => {
                let expire_in = dice.one_in(4).then(|| 1 + dice.below(3000));
                Plan::Set { key, payload: bytes(dice), expire_in }
            }
            9..12 => Plan::Delete { key },
            12..15 => {
                let count = dice.below(20);
                let elements = (0..count).map(|_| (sub(dice), bytes(dice))).collect();
                Plan::Create { key, elements }
            }
            15..18 => Plan::Element { key, sub: sub(dice), value: bytes(dice) },
            18..21 => Plan::NoElement { key, sub: sub(dice) },
            21 => Plan::Expire { key, expire_in: dice.one_in(2).then(|| 1 + dice.below(3000)) },
            22 => Plan::Delete { key },
            _ if dice.one_in(clears) => Plan::Clear,
            _ => Plan::Delete { key },
        }
    }

    fn background(&mut self, me: usize) {
        let pick = self.dice.below(9);
        let tags: Vec<usize> = (0..TAGS).filter(|_| self.dice.one_in(2)).collect();
        self.note(format!("node {me}: background {pick} {tags:?}"));
        let node = &mut self.nodes[me];
        let engine = Arc::clone(&node.engine);
        match pick {
            0 | 1 => {
                // Only what was handed to the operating system is synced.
                let written: Vec<u64> = node.models.iter().map(|model| model.written).collect();
                if node.outcome(engine.step(Job::Sync)).is_some() {
                    node.models.iter_mut().zip(written).for_each(|(model, seq)| model.synced = seq);
                }
            }
            2 => drop(node.outcome(engine.step(Job::Flush))),
            3 => self.flush(me, &tags),
            4 | 5 => drop(node.outcome(engine.step(Job::Compact))),
            6 => drop(node.outcome(engine.step(Job::Prepare))),
            7 => self.clock.advance(1 + self.dice.below(900)),
            _ => self.expire(me),
        }
    }

    fn flush(&mut self, me: usize, tags: &[usize]) {
        let node = &mut self.nodes[me];
        let slots: Vec<_> = tags.iter().map(|tag| slot_of_tag(*tag)).collect();
        let engine = Arc::clone(&node.engine);
        if node.outcome(engine.flush(&slots)).is_some() {
            tags.iter().for_each(|&tag| node.models[tag].all_synced());
        }
    }

    fn expire(&mut self, me: usize) {
        let node = &mut self.nodes[me];
        let engine = Arc::clone(&node.engine);
        let done = engine.step(Job::Expire);
        let alive = node.outcome(done).is_some();
        for (tag, model) in node.models.iter_mut().enumerate() {
            let position = engine.position(slot_of_tag(tag));
            if position.last_seq.0 > model.last() {
                assert_eq!(position.last_seq.0, model.last() + 1, "a page of expired keys is one record");
                let now = position.time.0;
                let expired =
                    model.state.0.iter().filter(|(_, (value, _))| value.expiry.is_some_and(|at| at <= now));
                let effects = expired.map(|(key, _)| Effect::Delete { key: key.clone() }).collect();
                model.push(Record::Batch(effects));
                if alive {
                    model.all_written();
                }
            }
        }
    }

    fn fail_soon(&mut self, me: usize) {
        let kind = if self.dice.one_in(2) { ErrorKind::StorageFull } else { ErrorKind::Other };
        let fs = &self.nodes[me].fs;
        let at = fs.operations() + self.dice.below(40);
        fs.fail_operation(at, kind);
        self.note(format!("node {me}: operation {at} will fail with {kind:?}"));
    }

    fn close(&mut self, me: usize) {
        self.note(format!("node {me}: close"));
        let node = &mut self.nodes[me];
        let engine = Arc::clone(&node.engine);
        if node.outcome(engine.close()).is_some() {
            node.all_synced();
        }
        drop(engine);
        self.restart(me);
    }

    fn restart(&mut self, me: usize) {
        if self.copying {
            return;
        }
        let power_lost = self.dice.one_in(2);
        self.note(format!("node {me}: restart, power lost {power_lost}"));
        self.nodes[me].restart(power_lost, &mut self.dice, &mut self.trace);
    }

    fn new_life(&mut self) -> u64 {
        self.lives += 1;
        self.lives
    }

    fn add(&mut self, me: usize, tag: usize) {
        if self.nodes[me].models[tag].is != Is::Absent {
            return;
        }
        self.note(format!("node {me}: add t{tag}"));
        let life = self.new_life();
        let node = &mut self.nodes[me];
        let result = node.engine.add_slots(&[slot_of_tag(tag)]);
        let history = node.engine.position(slot_of_tag(tag)).history;
        let model = Model::begin(Is::Master, life, 0, State::default(), &history);
        node.life_step(result, vec![(tag, model)]);
    }

    fn remove(&mut self, me: usize, tag: usize) {
        let node = &mut self.nodes[me];
        if matches!(node.models[tag].is, Is::Absent | Is::Fenced | Is::Granted) {
            return;
        }
        let result = node.engine.remove_slots(&[slot_of_tag(tag)]);
        let gone = node.engine.role(slot_of_tag(tag)) == haypile_engine::slot::Role::Absent;
        node.life_step(result, vec![(tag, Model::absent())]);
        if gone {
            // What failed was only the removal of files.
            node.models[tag] = Model::absent();
        }
        self.note(format!("node {me}: remove t{tag}"));
    }

    fn follow(&mut self, me: usize, tag: usize) {
        let node = &mut self.nodes[me];
        if matches!(node.models[tag].is, Is::Absent | Is::Fenced | Is::Granted) {
            return;
        }
        let result = node.engine.follow(&[slot_of_tag(tag)], ADDRESSES[1 - me]);
        let mut after = node.models[tag].clone();
        after.is = if after.is == Is::Loading { Is::Loading } else { Is::Replica };
        node.life_step(result, vec![(tag, after)]);
        self.note(format!("node {me}: follow t{tag}"));
    }

    fn promote(&mut self, me: usize, tag: usize) {
        let slot = slot_of_tag(tag);
        let position = self.nodes[me].engine.position(slot);
        let theirs = self.nodes[1 - me].engine.position(slot);
        let node = &mut self.nodes[me];
        let elsewhere = position.granted.as_ref().is_some_and(|(to, _)| *to != node.engine.node());
        if node.models[tag].is != Is::Replica || elsewhere {
            return;
        }
        let related = theirs.history.starts().iter().any(|start| position.history.starts().contains(start));
        let owned = matches!(Is::of(&theirs.role), Is::Master | Is::Fenced | Is::Granted);
        let granted = matches!(&theirs.role, haypile_engine::slot::Role::Granted { to, .. }
            if *to == node.engine.node() && position.last_seq == theirs.last_seq);
        if related && owned && !granted {
            return;
        }
        self.note(format!("node {me}: promote t{tag}"));
        self.begin_epoch(me, tag, |engine| engine.promote(&[slot]));
    }

    fn begin_epoch(
        &mut self,
        me: usize,
        tag: usize,
        step: impl FnOnce(&Engine) -> haypile_engine::error::Result<()>,
    ) {
        let node = &mut self.nodes[me];
        let engine = Arc::clone(&node.engine);
        let result = step(&engine);
        let mut after = node.models[tag].clone();
        after.is = Is::Master;
        let begun = result.is_ok();
        node.life_step(result, vec![(tag, after)]);
        if begun {
            let model = &mut node.models[tag];
            model.push(Record::Epoch);
            model.starts = engine.position(slot_of_tag(tag)).history.starts().to_vec();
            node.all_synced();
        }
    }

    /// A step of a handover, or away from it.
    fn hand_over(&mut self, me: usize, tag: usize) {
        let (slot, you) = (slot_of_tag(tag), 1 - me);
        let engine = Arc::clone(&self.nodes[me].engine);
        let to = self.nodes[you].engine.node();
        let theirs = self.nodes[you].engine.position(slot);
        let mine = engine.position(slot);
        let related = theirs.history.starts().first() == mine.history.starts().first();
        self.note(format!("node {me}: hand over t{tag}: {:?}", self.nodes[me].models[tag].is));
        match self.nodes[me].models[tag].is {
            Is::Master if related && Is::of(&theirs.role) == Is::Replica => {
                engine.fence(&[slot]).expect("it owns the slot");
                self.nodes[me].models[tag].is = Is::Fenced;
            }
            Is::Fenced if self.dice.one_in(4) => {
                engine.unfence(&[slot]);
                self.nodes[me].models[tag].is = Is::Master;
            }
            Is::Fenced => {
                let written = engine.write();
                if self.nodes[me].outcome(written).is_none() {
                    return;
                }
                self.nodes[me].models.iter_mut().for_each(Model::all_written);
                if !self.stream(you, tag) || !self.drained(me, tag) {
                    return;
                }
                self.grant(me, tag, to);
            }
            Is::Granted => self.after_grant(me, tag),
            Is::Replica | Is::Moved if self.dice.one_in(3) => self.detach(me, tag),
            _ => {}
        }
    }

    /// Whether the other node has all of a fenced slot, and follows.
    fn drained(&self, me: usize, tag: usize) -> bool {
        let [mine, theirs] = [me, 1 - me].map(|node| self.nodes[node].engine.position(slot_of_tag(tag)));
        Is::of(&theirs.role) == Is::Replica
            && mine.last_seq == theirs.last_seq
            && mine.history.relate(mine.last_seq, &theirs.history, theirs.last_seq) == Relation::Prefix
    }

    fn grant(&mut self, me: usize, tag: usize, to: NodeId) {
        let you = 1 - me;
        let node = &mut self.nodes[me];
        let before = node.models[tag].clone();
        node.models[tag].push(Record::Grant(you));
        let granted = node.engine.grant(slot_of_tag(tag), to, ADDRESSES[you]);
        if node.outcome(granted).is_some() {
            node.models[tag].is = Is::Granted;
            node.all_synced();
            if self.dice.one_in(4) {
                // Nothing else is done that could make the grant durable.
                self.restart(me);
            }
        } else if !node.dead {
            node.models[tag] = before;
        }
    }

    /// The other node is told of the grant, takes it, and this one hears of it; or it has refused.
    fn after_grant(&mut self, me: usize, tag: usize) {
        let (slot, you) = (slot_of_tag(tag), 1 - me);
        let engine = Arc::clone(&self.nodes[me].engine);
        let (mine, theirs) = (engine.position(slot), self.nodes[you].engine.position(slot));
        let related = theirs.history.starts().first() == mine.history.starts().first();
        match Is::of(&theirs.role) {
            Is::Replica if related => {
                if self.stream(you, tag) {
                    self.promote(you, tag);
                }
            }
            Is::Loading => {}
            Is::Absent => self.begin_epoch(me, tag, |engine| engine.undo_grant(slot)),
            _ if !related => self.begin_epoch(me, tag, |engine| engine.undo_grant(slot)),
            _ => {
                let ended = mine.history.current().expect("it was owned");
                let began = Epoch { term: ended.term + 1, tag: 0 };
                let moved = engine.finish_grants(self.nodes[you].engine.node(), &[(slot, began)]);
                assert_eq!(moved, [slot], "node {you} has answered");
                let node = &mut self.nodes[me];
                let result = Ok(());
                let mut after = node.models[tag].clone();
                after.is = Is::Moved;
                node.life_step(result, vec![(tag, after)]);
            }
        }
    }

    fn detach(&mut self, me: usize, tag: usize) {
        let node = &mut self.nodes[me];
        let granted = node.engine.position(slot_of_tag(tag)).granted;
        let elsewhere = granted.is_some_and(|(to, _)| to != node.engine.node());
        let result = node.engine.detach(&[slot_of_tag(tag)]);
        if node.models[tag].is == Is::Replica && !elsewhere {
            assert!(result.is_err(), "detached a replica of a slot that was granted to nobody");
            return;
        }
        let mut after = node.models[tag].clone();
        after.is = Is::Moved;
        node.life_step(result, vec![(tag, after)]);
    }

    /// Sends a replica the records that it lacks. Says whether it could go on with them.
    fn stream(&mut self, me: usize, tag: usize) -> bool {
        let (slot, you) = (slot_of_tag(tag), 1 - me);
        let master = Arc::clone(&self.nodes[you].engine);
        let (mine, theirs) = (self.nodes[me].engine.position(slot), master.position(slot));
        let loading = Is::of(&mine.role) == Is::Loading;
        // What a node that has stopped acknowledging had begun is known after its restart only.
        if self.nodes.iter().any(|node| node.dead)
            || !matches!(Is::of(&mine.role), Is::Replica | Is::Loading)
            || (loading && !self.copying)
            || matches!(Is::of(&theirs.role), Is::Absent | Is::Loading)
            || theirs.history.relate(theirs.last_seq, &mine.history, mine.last_seq) != Relation::Prefix
        {
            return false;
        }
        let frames = if self.dice.one_in(2) { 1 + self.dice.below(4) } else { u64::MAX };
        let Some(bytes) = records(&master, tag, mine.last_seq, frames) else {
            self.check_pin(me, tag, mine.last_seq);
            return mine.last_seq == theirs.last_seq;
        };
        let node = &mut self.nodes[me];
        let Some(appended) = node.outcome(node.engine.append_replicated(&bytes)) else {
            self.note(format!("node {me}: stream t{tag} failed"));
            // Some of it may be there.
            let last = self.nodes[me].engine.position(slot).last_seq;
            self.take_over(me, tag, last);
            return false;
        };
        assert!(appended.failed.is_empty(), "node {me} t{tag}: {:?}", appended.failed);
        let last = self.nodes[me].engine.position(slot).last_seq;
        self.take_over(me, tag, last);
        if self.dice.one_in(2) {
            self.nodes[me].engine.set_slot_time(slot, theirs.time);
        }
        if !self.dice.one_in(4) {
            let written = self.nodes[me].engine.write();
            if self.nodes[me].outcome(written).is_some() {
                self.nodes[me].models.iter_mut().for_each(Model::all_written);
            }
        }
        self.note(format!("node {me}: stream t{tag} up to {last}"));
        true
    }

    /// Log that is kept for a replica is there unless there is too much of it.
    fn check_pin(&self, me: usize, tag: usize, last: Seq) {
        let master = &self.nodes[1 - me];
        let Some(pin) = self.pins[me][tag] else { return };
        let same = (pin.life, pin.start) == (master.models[tag].life, master.starts);
        // The first segment begins at most its own size before the pin.
        let kept = master.engine.log_end().0 - pin.from.0 + SEGMENT_BYTES <= RETAIN_BYTES;
        let asked = last >= pin.seq && last.0 < master.models[tag].written;
        assert!(!(same && kept && asked), "node {}: no log of t{tag} after {last}: {:?}", 1 - me, pin.seq);
    }

    /// The model of a replica takes its master's records up to `last`.
    fn take_over(&mut self, me: usize, tag: usize, last: Seq) {
        let master = self.nodes[1 - me].models[tag].clone();
        let model = &mut self.nodes[me].models[tag];
        for seq in model.last() + 1..=last.0 {
            model.push(master.record(seq).expect("the master's model has what the master sent").clone());
        }
        let history = self.nodes[me].engine.position(slot_of_tag(tag)).history;
        self.nodes[me].models[tag].starts = history.starts().to_vec();
    }

    /// Gives a replica a copy if the log can't help it.
    fn copy_if_needed(&mut self, me: usize, tag: usize) {
        let slot = slot_of_tag(tag);
        if self.copying
            || self.nodes[1 - me].dead
            || !matches!(self.nodes[me].models[tag].is, Is::Replica | Is::Loading)
            || (self.nodes[me].models[tag].is == Is::Replica && self.stream(me, tag) && !self.dice.one_in(5))
            || self.nodes[me].dead
        {
            return;
        }
        let [mine, master] = [me, 1 - me].map(|node| Arc::clone(&self.nodes[node].engine));
        master.register_replica(mine.node(), ADDRESSES[me]);
        let seq = master.position(slot).flushed_seq;
        master.pin(mine.node(), slot, seq);
        let from = master.locate(slot, seq.next()).unwrap_or(master.log_end());
        let (life, start) = (self.nodes[1 - me].models[tag].life, self.nodes[1 - me].starts);
        self.pins[me][tag] = Some(Pin { seq, from, life, start });
        let Ok(source) = master.copy_source(slot) else { return };
        let complete = source.runs.is_empty();
        self.note(format!("node {me}: copy t{tag} from {} complete {complete}", source.seq));
        let base = self.nodes[1 - me].models[tag].state_at(source.seq.0);
        // What was copied to the master itself begins at its own base.
        let base = base.expect("a master's files hold no less than its own copy");
        assert_eq!(source.keys, base.0.len() as u64, "keys of a copy");
        let begun = self.begin_copy(me, tag, &source, base);
        if begun && !complete {
            self.copying = true;
            self.receive(me, tag, &mine, &source);
            self.copying = false;
        }
    }

    /// Makes room for a copy; `base` is what the slot held where its runs end. Says whether that was done.
    fn begin_copy(&mut self, me: usize, tag: usize, source: &CopySource, base: State) -> bool {
        let complete = source.runs.is_empty();
        let load = Load { complete, ..load_of(slot_of_tag(tag), source) };
        let result = self.nodes[me].engine.start_loading(&[load]);
        let life = self.new_life();
        let is = if complete { Is::Replica } else { Is::Loading };
        let model = Model::begin(is, life, source.seq.0, base, &source.history);
        let begun = result.is_ok();
        self.nodes[me].life_step(result, vec![(tag, model)]);
        begun
    }

    fn receive(&mut self, me: usize, tag: usize, mine: &Engine, source: &CopySource) {
        let slot = slot_of_tag(tag);
        let life = self.nodes[me].models[tag].life;
        let from = NodeId([1; 20]); // there is only one other
        let held =
            mine.held_parts(slot).filter(|(node, _)| *node == from).map_or(Vec::new(), |(_, parts)| parts);
        let Some(mut import) = self.nodes[me].outcome(mine.importer(slot, from)) else { return };
        let known: Vec<_> = held.iter().map(|part| part.of).collect();
        // What is here comes first, as the product sends it.
        let mut runs: Vec<_> = source.runs.iter().enumerate().collect();
        let place = |(index, run): &(usize, &Arc<Run>)| place_of(&known, part_id(run.meta()), *index);
        runs.sort_by_key(|run| place(run).unwrap_or(usize::MAX));
        for (index, run) in runs {
            let meta = run.meta();
            let mut offset = place(&(index, run)).map_or(0, |place| held[place].here.min(meta.len));
            if self.nodes[me].outcome(import.begin_run(part_id(meta), offset)).is_none() {
                return;
            }
            while offset < meta.len {
                let mut chunk = [0; 256];
                let got = run.read_image(offset, &mut chunk).expect("reads");
                if self.nodes[me].outcome(import.chunk(&chunk[..got])).is_none() {
                    return;
                }
                offset += got as u64;
                if self.dice.one_in(2) {
                    self.small_step(tag);
                }
            }
            if self.nodes[me].outcome(import.end_run()).is_none() {
                return;
            }
        }
        if self.dice.one_in(6) {
            self.note(format!("node {me}: copy of t{tag} is put off"));
            self.nodes[me].outcome(import.suspend());
            return;
        }
        // The same copy is announced once more, as after a lost connection, and what came of the first is still here.
        let loads = self.nodes[me].models[tag].is == Is::Loading;
        if loads && self.nodes[me].models[tag].life == life && self.copy_dice.one_in(6) {
            let base = self.nodes[me].models[tag].state_at(source.seq.0).expect("it begins there");
            self.note(format!("node {me}: copy of t{tag} is announced again"));
            if !self.begin_copy(me, tag, source, base) {
                return;
            }
        }
        let result = import.finish();
        let same = self.nodes[me].models[tag].life == life;
        self.note(format!("node {me}: copy of t{tag} is here: {result:?}"));
        if !same {
            assert!(result.is_err(), "a copy was installed into another life");
            return;
        }
        let here = Is::of(&mine.role(slot));
        let mut after = self.nodes[me].models[tag].clone();
        after.is = Is::Replica;
        self.nodes[me].life_step(result, vec![(tag, after)]);
        if here == Is::Replica {
            // What failed was only the removal of files.
            self.nodes[me].models[tag].is = here;
        }
    }
}

/// The slot's records after `after` in a node's log, of at most so many frames; `None` if they are gone or not
/// written yet.
fn records(engine: &Engine, tag: usize, after: Seq, frames: u64) -> Option<Vec<u8>> {
    let slot = slot_of_tag(tag);
    let mut reader = engine.reader(engine.locate(slot, after.next())?);
    let (mut out, mut left) = (Vec::new(), frames);
    while left > 0 {
        match reader.next() {
            ReadOutcome::Frame { records, .. } => {
                let mut rest = &records[..];
                let before = out.len();
                while !rest.is_empty() {
                    let record = record::Record::take(&mut rest).expect("a record of the log");
                    if record.header.slot == slot && record.header.seq > after && record.body.is_history() {
                        out.extend_from_slice(record.bytes);
                    }
                }
                left -= u64::from(out.len() > before);
            }
            ReadOutcome::CaughtUp => break,
            other => panic!("{other:?}"),
        }
    }
    Some(out)
}
