//! The scheduler: everything that can happen next, one thing at a time, by seed.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use haypile_engine::background::Job;
use haypile_engine::engine::SyncMode;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::random::Coin;
use haypile_engine::types::{Seq, Slot};
use haypile_replication::registry::LinkCommand;

use super::linear::Clients;
use super::model::Model;
use super::net::{Conn, Pace};
use super::node::{Arena, ConnId, Node, tag_of};
use super::{Outcome, Setup, Size, told};

/// Kinds of steps.
const KINDS: usize = 16;
/// The least and the greatest weight of each: messages, turns, writes, replies, background work, time, cuts, stops,
/// starts, checks, operators, parted nodes, disks that fail, clocks that jump, slow links, reads.
const WEIGHTS: [(usize, usize); KINDS] = [
    (200, 600),
    (60, 250),
    (10, 200),
    (20, 60),
    (10, 100),
    (20, 80),
    (0, 25),
    (0, 12),
    (6, 20),
    (3, 6),
    (4, 50),
    (0, 6),
    (0, 4),
    (0, 6),
    (0, 6),
    (5, 40),
];
/// Steps of a small run's character: about 50 writes, and what comes between them.
const SMALL_WEIGHTS: [usize; KINDS] = [330, 130, 140, 60, 40, 50, 8, 8, 30, 3, 40, 2, 1, 2, 2, 30];

/// Whether owners ask for tails is no choice of the coin that makes the others: worlds without are what they were. So chosen
/// that those in which planted bugs were found before are among them.
const TAILS_COIN: u64 = 0x7a11_3b03;

/// See the file's head.
pub struct World<'e> {
    pub(super) setup: Setup,
    pub(super) arena: &'e Arena,
    pub(super) random: Coin,
    pub(super) now: Arc<AtomicU64>,
    pub(super) nodes: Vec<Node<'e>>,
    pub(super) slots: Vec<Slot>,
    pub(super) tags: BTreeMap<Slot, String>,
    pub(super) model: Model,
    pub(super) clients: Clients,
    pub(super) conns: BTreeMap<ConnId, Conn>,
    pub(super) conns_made: ConnId,
    pub(super) sync: SyncMode,
    /// How many replicas must have a write before its reply leaves.
    pub(super) ack: usize,
    /// Operators fork slots by force, too.
    pub(super) wild: bool,
    /// How often each kind of step comes: a run of its own character finds what an average one does not.
    weights: [usize; KINDS],
    /// No replica's log is over its budget.
    pub(super) keeps_log: bool,
    pub(super) written: u64,
    pub(super) handovers: usize,
    pub(super) copies: usize,
    pub(super) step: usize,
    trace: DefaultHasher,
    /// Pairs of nodes between which nothing gets through, the lower number first.
    pub(super) parted: BTreeSet<(usize, usize)>,
    /// Nodes whose power goes in the midst of a sync.
    pub(super) doomed: BTreeSet<usize>,
    /// Slots that were ever removed from nodes.
    pub(super) removed: BTreeSet<(usize, Slot)>,
    /// Pairs of nodes between which it goes slowly.
    pub(super) paces: BTreeMap<(usize, usize), Pace>,
    /// Owners ask their replicas for what they lost in an unclean stop; power is lost in every sync mode.
    pub(super) tails: bool,
    pub(super) taken_back: u64,
    /// What nodes had when they were asked so, by connection.
    pub(super) asked: BTreeMap<ConnId, BTreeMap<Slot, Seq>>,
    /// Steps that are left out, to find a shorter run that fails.
    skipped: BTreeSet<usize>,
}

impl<'e> World<'e> {
    /// A cluster that the seed decides on.
    ///
    /// # Errors
    /// If it does not start.
    pub fn new(arena: &'e Arena, setup: Setup, skipped: BTreeSet<usize>) -> Result<World<'e>, String> {
        let mut random = Coin::new(setup.seed);
        let small = setup.size == Size::Small;
        let node_count = if small { 2 } else { 2 + random.below(5) };
        let slot_count = if small { 2 } else { 1 + random.below(4) };
        let slots: Vec<Slot> = (0..slot_count)
            .map(|n| Slot::new(u16::try_from(n * 7).expect("small")).expect("small"))
            .collect();
        let sync = if random.chance(1, 2) { SyncMode::Always } else { SyncMode::EverySec };
        let wild = random.chance(1, 4);
        // Not from the same coin: worlds that wait for nobody are what they were.
        let ack = usize::from(Coin::new(!setup.seed).chance(1, 3));
        let keeps_log = random.chance(1, 2);
        let mut between = |(low, high): (usize, usize)| low + random.below(high - low + 1);
        let weights = if small { SMALL_WEIGHTS } else { WEIGHTS.map(&mut between) };
        let nodes = (0..node_count)
            .map(|index| Node {
                index,
                fs: MemoryFs::new(),
                running: None,
                acknowledged: Vec::new(),
                ahead_ms: Arc::new(AtomicU64::new(random.below(5000) as u64)),
                faulty: false,
                unsure: false,
                lost_power: false,
                starts: 0,
            })
            .collect();
        let tags = slots.iter().map(|&slot| (slot, tag_of(slot))).collect();
        let mut world = World {
            setup,
            arena,
            random,
            now: Arc::default(),
            nodes,
            slots,
            tags,
            model: Model::default(),
            clients: Clients::default(),
            conns: BTreeMap::new(),
            conns_made: 0,
            sync,
            ack,
            wild,
            weights,
            keeps_log,
            written: 0,
            handovers: 0,
            copies: 0,
            step: 0,
            trace: DefaultHasher::new(),
            parted: BTreeSet::new(),
            doomed: BTreeSet::new(),
            removed: BTreeSet::new(),
            paces: BTreeMap::new(),
            tails: Coin::new(setup.seed ^ TAILS_COIN).chance(1, 2),
            taken_back: 0,
            asked: BTreeMap::new(),
            skipped,
        };
        world.note(|| format!("{node_count} nodes, {slot_count} slots, {sync:?}, ack {ack}, wild: {wild}"));
        for index in 0..node_count {
            world.start(index)?;
        }
        for slot in world.slots.clone() {
            let owner = world.random.below(node_count);
            world.add(owner, slot)?;
        }
        Ok(world)
    }

    /// Faults and operators for a while, then peace.
    ///
    /// # Errors
    /// What was found wrong.
    pub fn run(&mut self) -> Result<(), String> {
        for step in 0..self.setup.steps {
            if self.skipped.contains(&step) {
                continue;
            }
            self.step = step;
            // Each step's choices follow from its own number: one that is left out changes no other.
            self.random = Coin::new(self.setup.seed ^ (step as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            match self.one_step() {
                Err(wrong) if self.is_fault(&wrong) => self.meet_fault(&wrong),
                done => done.map_err(|wrong| format!("step {step}: {wrong}"))?,
            }
            self.learn_grants();
            self.check_owners().map_err(|wrong| format!("step {step}: {wrong}"))?;
        }
        self.settle()
    }

    /// What came of it.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        Outcome {
            trace: self.trace.finish(),
            acknowledged: self.model.acknowledged_count(),
            handovers: self.handovers,
            copies: self.copies,
            starts: self.nodes.iter().map(|node| node.starts).sum(),
            taken_back: self.taken_back,
        }
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    pub(super) fn note(&mut self, what: impl FnOnce() -> String) {
        let line = format!("{:>6} {:>8} ms  {}", self.step, self.now_ms(), what());
        line.hash(&mut self.trace);
        if self.setup.verbose {
            println!("{line}");
        }
    }

    fn one_step(&mut self) -> Result<(), String> {
        let mut at = self.random.below(self.weights.iter().sum());
        let kind = self.weights.iter().position(|&weight| {
            let here = at < weight;
            at = at.saturating_sub(weight);
            here
        });
        let node = self.random.below(self.nodes.len());
        match kind {
            Some(0) => self.while_power_lasts(World::deliver_something)?,
            Some(1) => self.while_power_lasts(|world| world.turn(node))?,
            Some(2) => self.write_something()?,
            Some(3) => self.answer_clients(node)?,
            Some(4) => self.background()?,
            Some(5) => {
                let ms = if self.random.chance(1, 20) { 3000 } else { self.random.below(100) as u64 };
                self.now.fetch_add(ms, Ordering::Relaxed);
            }
            Some(6) => self.cut_something(),
            Some(7) => self.stop_something()?,
            Some(8) => self.start_something()?,
            Some(9) => self.check_something()?,
            Some(10) => self.operate()?,
            Some(11) => self.part_something(),
            Some(12) => self.break_disk(node),
            Some(13) => {
                let ahead_ms = self.random.below(20_000) as u64;
                self.nodes[node].ahead_ms.store(ahead_ms, Ordering::Relaxed);
                self.note(|| format!("{node}'s clock is {ahead_ms} ms ahead"));
            }
            Some(14) => self.slow_something(),
            _ => self.read_something()?,
        }
        Ok(())
    }

    pub(super) fn note_slot(&mut self, node: usize, slot: Slot) {
        let Some(engine) = self.nodes[node].engine() else { return };
        let position = engine.position(slot);
        self.note(|| {
            let (role, last, base) = (position.role, position.last_seq, position.base_seq);
            let history: Vec<String> =
                position.history.starts().iter().map(|s| format!("{}@{}", s.epoch, s.first_seq)).collect();
            format!("{node} slot {slot}: {role:?} last {last} base {base} {}", history.join(" "))
        });
    }

    fn background(&mut self) -> Result<(), String> {
        let node = self.random.below(self.nodes.len());
        let Some(engine) = self.nodes[node].engine() else { return Ok(()) };
        let slot = *self.random.pick(&self.slots).expect("there are slots");
        let done = match self.random.below(6) {
            0 => engine.flush(&[slot]).map(|()| "flush"),
            1 => engine.step(Job::Compact).map(|_| "compact"),
            2 => engine.step(Job::Prepare).map(|_| "prepare"),
            3 => engine.step(Job::Sync).map(|_| "sync"),
            4 => engine.flush_all().map(|()| "flush all"),
            _ => engine.step(Job::Flush).map(|_| "flush step"),
        };
        let what = done.map_err(|error| format!("background work of node {node}: {}", told(&error)))?;
        self.note(|| format!("{node} {what} slot {slot}"));
        Ok(())
    }
}

/// What the operator's commands need.
pub(super) fn handover(slot: Slot) -> LinkCommand {
    let (done, _) = tokio::sync::oneshot::channel();
    LinkCommand::Handover { slots: vec![slot], patience_ms: 3000, done }
}
