//! Three nodes in one thread: real engines, the machines and their drivers, no socket. A random schedule delivers
//! messages one by one, loses connections with what is under way, kills nodes, hands slots over, and flushes.
//!
//! Whatever the schedule: at no step do two nodes own a slot; when all are connected again exactly one does, it has
//! every write that was acknowledged, and whoever follows it has the same.

use std::cell::{Cell, OnceCell};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use haypile_engine::background::Job;
use haypile_engine::clock::{Clock, TimeMs};
use haypile_engine::engine::{Engine, Fetched, Options};
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::key::Key;
use haypile_engine::slot::Role;
use haypile_engine::tx::Stop;
use haypile_engine::types::Slot;
use haypile_engine::value::Value;
use haypile_replication::grants;
use haypile_replication::link::Link;
use haypile_replication::message::Message;
use haypile_replication::peer::Peer;
use haypile_replication::receiver::{LinkState, Receiver};
use haypile_replication::registry::{LinkCommand, LinkEntry, PeerCommand, PeerEntry, Registry};
use proptest::prelude::*;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;

const NODES: usize = 3;
const SLOTS: u16 = 2;
/// Starts of nodes in one schedule.
const STARTS_MAX: usize = 64;

fn slot(number: u16) -> Slot {
    Slot::new(number).expect("in range")
}

fn address(node: usize) -> String {
    format!("10.0.0.{node}:9221")
}

/// Goes on when the schedule says so.
#[derive(Debug, Default)]
struct HandClock(AtomicU64);

impl Clock for HandClock {
    fn wall(&self) -> TimeMs {
        TimeMs(1_000_000 + self.0.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

type Engines = [OnceCell<Arc<Engine>>];

/// A node's side of a connection to another that it follows.
struct Following<'e> {
    link: Link<'e>,
    receiver: Arc<Mutex<Receiver>>,
    commands: UnboundedReceiver<LinkCommand>,
    /// The connection: the other side, and what is under way in both directions.
    connection: Option<Connection>,
}

struct Connection {
    peer: Peer,
    number: u64,
    commands: UnboundedReceiver<PeerCommand>,
    to_master: VecDeque<Message>,
    to_replica: VecDeque<Message>,
}

struct Node<'e> {
    fs: Arc<MemoryFs>,
    engine: &'e Arc<Engine>,
    registry: Arc<Registry>,
    following: BTreeMap<usize, Following<'e>>,
}

struct World<'e> {
    engines: &'e Engines,
    started: Cell<usize>,
    clock: Arc<HandClock>,
    nodes: Vec<Node<'e>>,
    /// Every write that was acknowledged.
    acknowledged: BTreeMap<(Slot, String), String>,
    writes: u32,
}

fn open<'e>(
    engines: &'e Engines,
    started: &Cell<usize>,
    fs: &Arc<MemoryFs>,
    clock: &Arc<HandClock>,
) -> &'e Arc<Engine> {
    let options = Options {
        log_segment_bytes: 256 << 10,
        memory_bytes: 16 << 20,
        seed: Some(started.get() as u64 + 1),
        ..Options::default()
    };
    let fs: Arc<MemoryFs> = Arc::clone(fs);
    let clock: Arc<HandClock> = Arc::clone(clock);
    let (engine, _) = Engine::open(fs, Path::new("/haypile"), clock, options).expect("opens");
    let index = started.get();
    started.set(index + 1);
    engines[index].get_or_init(|| Arc::new(engine))
}

impl<'e> World<'e> {
    fn new(engines: &'e Engines) -> World<'e> {
        let clock = Arc::new(HandClock::default());
        let started = Cell::new(0);
        let node = |_| {
            let fs = Arc::new(MemoryFs::new());
            let engine = open(engines, &started, &fs, &clock);
            engine.add_slots(&[slot(0), slot(1)]).expect("are added");
            Node { fs, engine, registry: Arc::default(), following: BTreeMap::new() }
        };
        let nodes = (0..NODES).map(node).collect();
        let mut world = World { engines, started, clock, nodes, acknowledged: BTreeMap::new(), writes: 0 };
        for number in 0..SLOTS {
            for node in 1..NODES {
                world.follow(node, 0, slot(number));
            }
        }
        world
    }

    fn now_ms(&self) -> u64 {
        self.clock.0.load(Ordering::Relaxed)
    }

    fn write(&mut self, node: usize, slot: Slot, key: u8) {
        let engine = self.nodes[node].engine;
        if engine.role(slot) != Role::Master {
            return;
        }
        let tag = (0u32..).find(|n| Slot::of_key(n.to_string().as_bytes()) == slot).expect("there is one");
        let name = format!("{{{tag}}}{key}");
        self.writes += 1;
        let value = format!("{}", self.writes);
        let mut fetched = Fetched::default();
        loop {
            let mut tx = engine.begin(&[slot], &fetched);
            match tx.put(&Key::new(name.as_bytes()), &Value::whole(1, 0, value.clone())) {
                Ok(()) => {
                    tx.commit().expect("the log takes it");
                    break;
                }
                Err(Stop::Miss) => {
                    let wanted = tx.abandon();
                    engine.fetch(wanted, &mut fetched).expect("is read");
                }
                Err(Stop::Failed(error)) => panic!("{error}"),
            }
        }
        engine.write().expect("is written");
        self.acknowledged.insert((slot, name), value);
    }

    /// As the hub does it, without its questions before.
    fn follow(&mut self, node: usize, upstream: usize, slot: Slot) {
        if node == upstream
            || matches!(self.nodes[node].engine.role(slot), Role::Fenced | Role::Granted { .. })
        {
            return;
        }
        let now_ms = self.now_ms();
        for following in self.nodes[node].following.values_mut() {
            let (done, _) = oneshot::channel();
            following.link.on_command(LinkCommand::Detach { slots: vec![slot], done }, now_ms);
        }
        self.nodes[node].engine.follow(&[slot], &address(upstream)).expect("follows");
        self.attach(node, upstream, slot);
        (0..NODES).for_each(|other| self.flush_out(node, other));
    }

    fn attach(&mut self, node: usize, upstream: usize, slot: Slot) {
        let now_ms = self.now_ms();
        let Node { engine, registry, following, .. } = &mut self.nodes[node];
        let following = following.entry(upstream).or_insert_with(|| {
            let receiver = Arc::new(Mutex::new(Receiver::default()));
            let (sender, commands) = unbounded_channel();
            let entry = LinkEntry { receiver: Arc::clone(&receiver), node: None, commands: sender };
            registry.link_or(&address(upstream), || entry);
            let link = Link::new(engine, Arc::clone(registry), address(upstream), Arc::clone(&receiver));
            Following { link, receiver, commands, connection: None }
        });
        following.link.on_command(LinkCommand::Attach { slots: vec![slot], force: false }, now_ms);
    }

    fn connect(&mut self, node: usize, upstream: usize) {
        let now_ms = self.now_ms();
        let replica = self.nodes[node].engine.node();
        let (engine, registry) =
            (Arc::clone(self.nodes[upstream].engine), Arc::clone(&self.nodes[upstream].registry));
        let master = engine.node();
        let Some(following) = self.nodes[node].following.get_mut(&upstream) else { return };
        if following.connection.is_some() {
            return;
        }
        let peer = Peer::new(Arc::clone(&engine), Arc::clone(&registry), replica, address(node));
        let (sender, commands) = unbounded_channel();
        let number = registry.next_number();
        engine.register_replica(replica, &address(node));
        let (shipper, follower, since) = (peer.shipper(), peer.follower(), engine.clock().wall());
        registry.add_peer(
            replica,
            PeerEntry { number, address: address(node), shipper, follower, since, commands: sender },
        );
        let (to_master, to_replica) = (VecDeque::new(), VecDeque::new());
        following.connection = Some(Connection { peer, number, commands, to_master, to_replica });
        following.link.connected(master, now_ms);
        self.flush_out(node, upstream);
    }

    fn disconnect(&mut self, node: usize, upstream: usize) {
        let now_ms = self.now_ms();
        let replica = self.nodes[node].engine.node();
        let Some(following) = self.nodes[node].following.get_mut(&upstream) else { return };
        let Some(mut connection) = following.connection.take() else { return };
        connection.peer.lost(now_ms);
        following.link.disconnected("the schedule says so", now_ms);
        self.nodes[upstream].registry.remove_peer(replica, connection.number);
    }

    fn kill(&mut self, node: usize) {
        if self.started.get() == STARTS_MAX {
            return;
        }
        for other in 0..NODES {
            self.disconnect(node, other);
            self.disconnect(other, node);
        }
        let fs = Arc::new(self.nodes[node].fs.restart());
        let engine = open(self.engines, &self.started, &fs, &self.clock);
        self.nodes[node] = Node { fs, engine, registry: Arc::default(), following: BTreeMap::new() };
        for number in 0..SLOTS {
            let slot = slot(number);
            if let Role::Replica { upstream } | Role::Loading { upstream } = engine.role(slot) {
                let upstream = (0..NODES).find(|&other| address(other) == upstream).expect("one of us");
                self.attach(node, upstream, slot);
            }
        }
    }

    /// What a link has to say goes on its way.
    fn flush_out(&mut self, node: usize, upstream: usize) {
        let now_ms = self.now_ms();
        let Some(following) = self.nodes[node].following.get_mut(&upstream) else { return };
        let broken = following.link.finish_batch(now_ms);
        assert_eq!(broken, None, "nothing here breaks a connection");
        let out = following.link.take_out();
        if let Some(connection) = &mut following.connection {
            connection.to_master.extend(out);
        }
    }

    fn deliver_to_master(&mut self, node: usize, upstream: usize) -> bool {
        let now_ms = self.now_ms();
        let Some(following) = self.nodes[node].following.get_mut(&upstream) else { return false };
        let Some(connection) = &mut following.connection else { return false };
        let Some(message) = connection.to_master.pop_front() else { return false };
        connection.peer.on_message(message, now_ms).expect("keeps to the protocol");
        let out: Vec<Message> = connection.peer.take_out().collect();
        connection.to_replica.extend(out);
        true
    }

    fn deliver_to_replica(&mut self, node: usize, upstream: usize) -> bool {
        let now_ms = self.now_ms();
        let Some(following) = self.nodes[node].following.get_mut(&upstream) else { return false };
        let Some(connection) = &mut following.connection else { return false };
        let Some(message) = connection.to_replica.pop_front() else { return false };
        following.link.on_message(message, now_ms);
        self.flush_out(node, upstream);
        true
    }

    /// The master's side reads its log and its own news, the replica's side its own news.
    fn pump(&mut self, node: usize, upstream: usize) {
        let now_ms = self.now_ms();
        let Some(following) = self.nodes[node].following.get_mut(&upstream) else { return };
        while let Ok(command) = following.commands.try_recv() {
            following.link.on_command(command, now_ms);
        }
        following.link.on_time(now_ms);
        if let Some(connection) = &mut following.connection {
            while let Ok(command) = connection.commands.try_recv() {
                connection.peer.on_command(command, now_ms);
            }
            connection.peer.log_grew();
            connection.peer.on_time(now_ms);
            connection.peer.pump().expect("nobody asks for tails");
            let out: Vec<Message> = connection.peer.take_out().collect();
            connection.to_replica.extend(out);
        }
        self.flush_out(node, upstream);
    }

    fn ask_handover(&mut self, node: usize, slot: Slot) {
        let now_ms = self.now_ms();
        for following in self.nodes[node].following.values_mut() {
            if following.receiver.lock().expect("no panic").status(slot).is_some() {
                let (done, _) = oneshot::channel();
                let slots = vec![slot];
                following.link.on_command(LinkCommand::Handover { slots, patience_ms: 3000, done }, now_ms);
            }
        }
        (0..NODES).for_each(|upstream| self.flush_out(node, upstream));
    }

    /// An old owner asks the new one about a grant, on a connection of its own.
    fn ask_about_grants(&mut self, node: usize) {
        let engine = self.nodes[node].engine;
        for grant in grants::open(engine) {
            let to = (0..NODES).find(|&other| address(other) == grant.address).expect("one of us");
            let other = &self.nodes[to];
            assert_eq!(other.engine.node(), grant.to);
            let at = address(node);
            let by = (engine.node(), at.as_str());
            let asked = grants::Asked { by, slot: grant.slot, ended: grant.ended, seq: grant.seq };
            let answer = grants::answer(other.engine, &other.registry, asked).expect("is settled");
            match answer.into_message(other.engine).expect("is durable") {
                Message::GrantTaken(taken) => {
                    grants::taken(engine, grant.to, &taken);
                }
                Message::GrantPending(_) => {}
                Message::GrantRefused { why, .. } => {
                    grants::refused(engine, &grant, &why).expect("is taken back")
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn owners(&self, slot: Slot) -> Vec<usize> {
        let owns = |node: &usize| matches!(self.nodes[*node].engine.role(slot), Role::Master | Role::Fenced);
        (0..NODES).filter(owns).collect()
    }

    fn assert_one_owner_at_most(&self) {
        for number in 0..SLOTS {
            let owners = self.owners(slot(number));
            assert!(owners.len() <= 1, "slot {number} is owned by {owners:?}");
        }
    }

    fn settle(&mut self) {
        for _ in 0..40 {
            for node in 0..NODES {
                for upstream in 0..NODES {
                    self.connect(node, upstream);
                    loop {
                        self.pump(node, upstream);
                        let moved =
                            self.deliver_to_master(node, upstream) | self.deliver_to_replica(node, upstream);
                        self.assert_one_owner_at_most();
                        if !moved {
                            break;
                        }
                    }
                }
                self.ask_about_grants(node);
            }
            self.clock.0.fetch_add(1000, Ordering::Relaxed);
        }
    }

    fn content(&self, node: usize, slot: Slot) -> BTreeMap<String, String> {
        let engine = self.nodes[node].engine;
        let mut fetched = Fetched::default();
        loop {
            let mut tx = engine.begin(&[slot], &fetched);
            match tx.keys(slot, 0, 100_000) {
                Ok((page, _)) => {
                    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).expect("is text");
                    return page.iter().map(|(key, value)| (text(key), text(&value.payload))).collect();
                }
                Err(Stop::Miss) => {
                    let wanted = tx.abandon();
                    engine.fetch(wanted, &mut fetched).expect("is read");
                }
                Err(Stop::Failed(error)) => panic!("{error}"),
            }
        }
    }

    fn assert_settled(&mut self) {
        for number in 0..SLOTS {
            let slot = slot(number);
            let owners = self.owners(slot);
            let roles: Vec<Role> = self.nodes.iter().map(|node| node.engine.role(slot)).collect();
            assert_eq!(owners.len(), 1, "slot {slot}: {roles:?}");
            let owner = owners[0];
            let content = self.content(owner, slot);
            let of_slot = self.acknowledged.iter().filter(|((of, _), _)| *of == slot);
            let expected: BTreeMap<String, String> =
                of_slot.map(|((_, key), value)| (key.clone(), value.clone())).collect();
            assert_eq!(content, expected, "slot {slot} on its owner {owner}");
            // Everybody follows the owner now, whatever they did before.
            for node in (0..NODES).filter(|&node| node != owner) {
                self.follow(node, owner, slot);
            }
            self.settle();
            for node in (0..NODES).filter(|&node| node != owner) {
                let receiver = &self.nodes[node].following[&owner].receiver;
                let status = receiver.lock().expect("no panic").status(slot).expect("is attached");
                assert_eq!(status.state, LinkState::Connected, "slot {slot} on {node}: {status:?}");
                assert_eq!(self.content(node, slot), expected, "slot {slot} on {node}");
                let (mine, its) =
                    (self.nodes[node].engine.position(slot), self.nodes[owner].engine.position(slot));
                assert_eq!(
                    (mine.last_seq, mine.history),
                    (its.last_seq, its.history),
                    "slot {slot} on {node}"
                );
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize, u16, u8),
    Follow(usize, usize, u16),
    Handover(usize, u16),
    /// Everything on a connection moves for a while.
    Run(usize, usize, u8),
    Pump(usize, usize),
    ToMaster(usize, usize, u8),
    ToReplica(usize, usize, u8),
    Connect(usize, usize),
    Disconnect(usize, usize),
    Kill(usize),
    Flush(usize, u16),
    AskAboutGrants(usize),
    Later(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let (node, number) = (|| 0..NODES, || 0..SLOTS);
    prop_oneof![
        8 => (node(), number(), any::<u8>()).prop_map(|(n, s, k)| Step::Write(n, s, k % 16)),
        1 => (node(), node(), number()).prop_map(|(n, u, s)| Step::Follow(n, u, s)),
        4 => (node(), number()).prop_map(|(n, s)| Step::Handover(n, s)),
        8 => (node(), node(), 1u8..8).prop_map(|(n, u, t)| Step::Run(n, u, t)),
        10 => (node(), node()).prop_map(|(n, u)| Step::Pump(n, u)),
        10 => (node(), node(), 1u8..6).prop_map(|(n, u, t)| Step::ToMaster(n, u, t)),
        10 => (node(), node(), 1u8..6).prop_map(|(n, u, t)| Step::ToReplica(n, u, t)),
        8 => (node(), node()).prop_map(|(n, u)| Step::Connect(n, u)),
        1 => (node(), node()).prop_map(|(n, u)| Step::Disconnect(n, u)),
        1 => node().prop_map(Step::Kill),
        1 => (node(), number()).prop_map(|(n, s)| Step::Flush(n, s)),
        1 => node().prop_map(Step::AskAboutGrants),
        2 => (1u16..2000).prop_map(Step::Later),
    ]
}

fn run(steps: Vec<Step>) {
    let engines: [OnceCell<Arc<Engine>>; STARTS_MAX] = std::array::from_fn(|_| OnceCell::new());
    let mut world = World::new(&engines);
    for step in steps {
        match step {
            Step::Write(node, number, key) => world.write(node, slot(number), key),
            Step::Follow(node, upstream, number) => {
                // An operator follows who owns the slot; whoever owns it follows nobody.
                let owners = world.owners(slot(number));
                if owners.contains(&upstream) && !owners.contains(&node) {
                    world.follow(node, upstream, slot(number));
                }
            }
            Step::Handover(node, number) => world.ask_handover(node, slot(number)),
            Step::Run(node, upstream, times) => {
                for _ in 0..times {
                    world.pump(node, upstream);
                    world.deliver_to_replica(node, upstream);
                    world.deliver_to_master(node, upstream);
                    world.assert_one_owner_at_most();
                }
            }
            Step::Pump(node, upstream) => world.pump(node, upstream),
            Step::ToMaster(node, upstream, times) => {
                (0..times).for_each(|_| _ = world.deliver_to_master(node, upstream));
            }
            Step::ToReplica(node, upstream, times) => {
                (0..times).for_each(|_| _ = world.deliver_to_replica(node, upstream));
            }
            Step::Connect(node, upstream) => world.connect(node, upstream),
            Step::Disconnect(node, upstream) => world.disconnect(node, upstream),
            Step::Kill(node) => world.kill(node),
            Step::Flush(node, number) => {
                let engine = world.nodes[node].engine;
                engine.flush(&[slot(number)]).expect("flushes");
                for job in [Job::Prepare, Job::Compact, Job::Flush] {
                    engine.step(job).expect("works");
                }
            }
            Step::AskAboutGrants(node) => world.ask_about_grants(node),
            Step::Later(ms) => _ = world.clock.0.fetch_add(u64::from(ms), Ordering::Relaxed),
        }
        world.assert_one_owner_at_most();
    }
    world.settle();
    world.assert_settled();
}

#[test]
fn a_slot_goes_round_and_comes_back() {
    let mut steps = vec![Step::Connect(1, 0), Step::Connect(2, 0)];
    let busy = |node, upstream| {
        (0..6).flat_map(move |_| {
            [
                Step::Pump(node, upstream),
                Step::ToReplica(node, upstream, 9),
                Step::ToMaster(node, upstream, 9),
            ]
        })
    };
    for (node, upstream) in [(1, 0), (2, 1), (0, 2), (1, 0)] {
        steps.extend([
            Step::Write(upstream, 0, 1),
            Step::Follow(node, upstream, 0),
            Step::Connect(node, upstream),
        ]);
        steps.extend(busy(node, upstream));
        steps.extend([Step::Handover(node, 0), Step::Write(upstream, 0, 2)]);
        steps.extend(busy(node, upstream));
        steps.push(Step::Write(node, 0, 3));
    }
    run(steps);
}

/// Proof that the check bites: a promotion that asks nobody makes a second owner.
#[test]
#[should_panic(expected = "slot 0 is owned by [0, 1]")]
fn a_promotion_that_asks_nobody_is_noticed() {
    let engines: [OnceCell<Arc<Engine>>; STARTS_MAX] = std::array::from_fn(|_| OnceCell::new());
    let mut world = World::new(&engines);
    world.settle();
    world.nodes[1].engine.promote(&[slot(0)]).expect("is a whole replica");
    world.assert_one_owner_at_most();
}

// More of it: PROPTEST_CASES=20000 cargo test -p haypile-replication --test schedule
proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_schedule_makes_two_owners_or_loses_a_write(steps in prop::collection::vec(step(), 0..250)) {
        run(steps);
    }
}
