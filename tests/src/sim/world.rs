//! The scheduler: everything that can happen next, one thing at a time, by seed.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use haypile_engine::background::Job;
use haypile_engine::engine::SyncMode;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::history::History;
use haypile_engine::random::Coin;
use haypile_engine::slot::Role;
use haypile_engine::types::{Seq, Slot};
use haypile_engine::value::Value;
use haypile_replication::grants;
use haypile_replication::message::{Message, Purpose as HelloPurpose};
use haypile_replication::peer::Peer;
use haypile_replication::receiver::{LinkState, RETRY_MS_MIN};
use haypile_replication::registry::{LinkCommand, PeerCommand, PeerEntry};
use tokio::sync::mpsc::unbounded_channel;

use super::model::{Effect, Model};
use super::net::{Conn, Delivery, Purpose};
use super::node::{
    Arena, ConnId, Followed, Node, Running, Unanswered, address, contents, key, node_at, tag_of, transact,
};
use super::{DISK, Outcome, Setup, Size, told};

/// A grant that is not answered for so long is asked about.
const GRANT_PATIENCE_MS: u64 = 2000;
/// Messages that may wait on a connection before nothing more is read for it.
const QUEUED_MAX: usize = 40;
/// Rounds without faults after which everything has to stand.
const SETTLE_ROUNDS: usize = 1500;

/// Kinds of steps.
const KINDS: usize = 15;
/// The least and the greatest weight of each: messages, turns, writes, replies, background work, time, cuts, stops,
/// starts, checks, operators, parted nodes, disks that fail, clocks that jump, reads.
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
    (5, 40),
];
/// A connection on which one side hears nothing for so long is given up by it.
const SILENCE_MS_MAX: u64 = 10_000;
/// Steps of a small run's character: about 50 writes, and what comes between them.
const SMALL_WEIGHTS: [usize; KINDS] = [330, 130, 140, 60, 40, 50, 8, 8, 30, 3, 40, 2, 1, 2, 30];

/// See the file's head.
pub struct World<'e> {
    pub(super) setup: Setup,
    arena: &'e Arena,
    pub(super) random: Coin,
    pub(super) now: Arc<AtomicU64>,
    pub(super) nodes: Vec<Node<'e>>,
    pub(super) slots: Vec<Slot>,
    tags: BTreeMap<Slot, String>,
    pub(super) model: Model,
    conns: BTreeMap<ConnId, Conn>,
    conns_made: ConnId,
    sync: SyncMode,
    /// Operators fork slots by force, too.
    pub(super) wild: bool,
    /// How often each kind of step comes: a run of its own character finds what an average one does not.
    weights: [usize; KINDS],
    /// No replica's log is over its budget.
    keeps_log: bool,
    written: u64,
    pub(super) handovers: usize,
    copies: usize,
    step: usize,
    trace: DefaultHasher,
    /// Pairs of nodes between which nothing gets through, the lower number first.
    parted: BTreeSet<(usize, usize)>,
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
        let node_count = if small { 2 } else { 2 + random.below(3) };
        let slot_count = if small { 2 } else { 1 + random.below(4) };
        let slots: Vec<Slot> = (0..slot_count)
            .map(|n| Slot::new(u16::try_from(n * 7).expect("small")).expect("small"))
            .collect();
        let sync = if random.chance(1, 2) { SyncMode::Always } else { SyncMode::EverySec };
        let wild = random.chance(1, 4);
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
            conns: BTreeMap::new(),
            conns_made: 0,
            sync,
            wild,
            weights,
            keeps_log,
            written: 0,
            handovers: 0,
            copies: 0,
            step: 0,
            trace: DefaultHasher::new(),
            parted: BTreeSet::new(),
            skipped,
        };
        world.note(|| format!("{node_count} nodes, {slot_count} slots, {sync:?}, wild: {wild}"));
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
            Some(0) => self.deliver_something()?,
            Some(1) => self.turn(node),
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
            _ => self.read_something()?,
        }
        Ok(())
    }

    // ---- connections ----

    fn deliver_something(&mut self) -> Result<(), String> {
        let possible = self.deliveries();
        let Some(&delivery) = self.random.pick(&possible) else { return Ok(()) };
        let count = 1 + self.random.below(4);
        self.deliver(delivery, count)
    }

    fn deliveries(&self) -> Vec<Delivery> {
        let mut possible = Vec::new();
        for (&id, conn) in &self.conns {
            if self.parted(conn.client, conn.server) {
                continue;
            }
            if conn.server_open && (conn.cut || !conn.to_server.is_empty()) {
                possible.push(Delivery::ToServer(id));
            }
            if conn.client_open && (conn.cut || !conn.to_client.is_empty()) {
                possible.push(Delivery::ToClient(id));
            }
        }
        possible
    }

    fn deliver(&mut self, delivery: Delivery, count: usize) -> Result<(), String> {
        match delivery {
            Delivery::ToServer(id) => self.deliver_to_server(id, count),
            Delivery::ToClient(id) => self.deliver_to_client(id, count),
        }
    }

    fn take(&mut self, id: ConnId, to_server: bool, count: usize) -> Vec<Message> {
        let Some(conn) = self.conns.get_mut(&id) else { return Vec::new() };
        let queue = if to_server { &mut conn.to_server } else { &mut conn.to_client };
        let count = count.min(queue.len());
        let (client, server) = (conn.client, conn.server);
        let messages: Vec<Message> = queue.drain(..count).collect();
        let now_ms = self.now.load(Ordering::Relaxed);
        let heard = if to_server { &mut conn.server_heard_ms } else { &mut conn.client_heard_ms };
        *heard = now_ms;
        for message in &messages {
            let (from, to) = if to_server { (client, server) } else { (server, client) };
            self.copies += usize::from(matches!(message, Message::CopyBegin { .. }));
            self.note(|| format!("{from} -> {to} #{id} {}", summary(message)));
        }
        messages
    }

    fn deliver_to_server(&mut self, id: ConnId, count: usize) -> Result<(), String> {
        let messages = self.take(id, true, count);
        let now_ms = self.now_ms();
        let Some(conn) = self.conns.get(&id) else { return Ok(()) };
        let (client, server) = (conn.client, conn.server);
        if messages.is_empty() {
            self.close_server(id);
            return Ok(());
        }
        for message in messages {
            if let Message::Hello { purpose, .. } = message {
                self.accept(id, client, server, purpose);
                continue;
            }
            let Some(running) = &mut self.nodes[server].running else { return Ok(()) };
            let Some(followed) = running.followed.get_mut(&id) else { return Ok(()) };
            if let Err(why) = followed.peer.on_message(message, now_ms) {
                if self.nodes[server].faulty {
                    self.close_server(id);
                    return Ok(());
                }
                return Err(format!("node {server} says that node {client} breaks the protocol: {why}"));
            }
        }
        self.serve(server, id);
        Ok(())
    }

    fn accept(&mut self, id: ConnId, client: usize, server: usize, purpose: HelloPurpose) {
        let now_ms = self.now_ms();
        // The hello came from the start of the node that opened the connection: its name stays.
        let Some(from) = self.nodes[client].engine().map(|engine| engine.node()) else {
            self.close_server(id);
            return;
        };
        let Some(running) = &mut self.nodes[server].running else { return };
        let (engine, registry) = (Arc::clone(running.engine), Arc::clone(&running.registry));
        let peer = Peer::new(Arc::clone(&engine), Arc::clone(&registry), from, address(client));
        let (commands, inbox) = unbounded_channel();
        let number = registry.next_number();
        let stream = purpose == HelloPurpose::Stream;
        if stream {
            engine.register_replica(from, &address(client));
            let entry = PeerEntry {
                number,
                address: address(client),
                shipper: peer.shipper(),
                since: engine.clock().wall(),
                commands,
            };
            registry.add_peer(from, entry);
        }
        running.followed.insert(id, Followed { peer, inbox, number, from, stream, beat_ms: now_ms });
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.send_to_client([Message::HelloOk { node: engine.node(), features: 0 }]);
        }
    }

    /// A peer's turn: what the node wants of it, what is to be read for it.
    fn serve(&mut self, server: usize, id: ConnId) {
        let now_ms = self.now_ms();
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let Some(running) = &mut self.nodes[server].running else { return };
        let Some(followed) = running.followed.get_mut(&id) else { return };
        let mut stop = false;
        while let Ok(command) = followed.inbox.try_recv() {
            stop |= matches!(command, PeerCommand::Stop(_));
            followed.peer.on_command(command, now_ms);
        }
        followed.peer.on_time(now_ms);
        if followed.stream && now_ms >= followed.beat_ms {
            followed.peer.heartbeat();
            followed.beat_ms = now_ms + 1000;
        }
        if followed.peer.waits_at().is_some_and(|at| running.engine.log_end() > at) {
            followed.peer.log_grew();
        }
        if conn.to_client.len() < QUEUED_MAX {
            followed.peer.pump();
        }
        conn.send_to_client(followed.peer.take_out());
        stop |= followed.stream && now_ms > conn.server_heard_ms + SILENCE_MS_MAX;
        if stop {
            conn.cut(usize::MAX, usize::MAX);
            self.close_server(id);
        }
    }

    fn close_server(&mut self, id: ConnId) {
        let now_ms = self.now_ms();
        let Some(conn) = self.conns.get_mut(&id) else { return };
        (conn.cut, conn.server_open) = (true, false);
        conn.to_server.clear();
        let server = conn.server;
        if let Some(running) = &mut self.nodes[server].running
            && let Some(mut followed) = running.followed.remove(&id)
        {
            running.registry.remove_peer(followed.from, followed.number);
            followed.peer.lost(now_ms);
        }
        self.note(|| format!("{server} closes #{id}"));
        self.conns.retain(|_, conn| conn.client_open || conn.server_open);
    }

    fn deliver_to_client(&mut self, id: ConnId, count: usize) -> Result<(), String> {
        let messages = self.take(id, false, count);
        let now_ms = self.now_ms();
        let Some(conn) = self.conns.get(&id) else { return Ok(()) };
        let (client, purpose) = (conn.client, conn.purpose.clone());
        if messages.is_empty() {
            self.close_client(id, "cut");
            return Ok(());
        }
        match purpose {
            Purpose::Stream(upstream) => {
                let Some(running) = &mut self.nodes[client].running else { return Ok(()) };
                let Some(following) = running.following.get_mut(&upstream) else { return Ok(()) };
                for message in messages {
                    match message {
                        Message::HelloOk { node, .. } => {
                            following.conn = Some((id, true));
                            following.link.connected(node, now_ms);
                        }
                        message => following.link.on_message(message, now_ms),
                    }
                }
                self.link_turn(client, &upstream);
                Ok(())
            }
            Purpose::Grants(open) => {
                for message in messages {
                    self.grant_answer(client, &open, message)?;
                }
                Ok(())
            }
        }
    }

    /// A link's turn: what the node wants of it, its timers, its connection.
    pub(super) fn link_turn(&mut self, client: usize, upstream: &str) {
        let now_ms = self.now_ms();
        let Some(running) = &mut self.nodes[client].running else { return };
        let Some(following) = running.following.get_mut(upstream) else { return };
        while let Ok(command) = following.inbox.try_recv() {
            following.link.on_command(command, now_ms);
        }
        let greeted = following.conn.filter(|(_, greeted)| *greeted);
        let Some((id, _)) = greeted else {
            let waits = following.conn.is_none() && following.link.slot_count() > 0;
            if waits && now_ms >= following.retry_ms {
                self.dial(client, upstream);
            }
            return;
        };
        following.link.on_time(now_ms);
        let broken = following.link.finish_batch(now_ms);
        let out = following.link.take_out();
        let idle = following.link.slot_count() == 0 && following.link.next_deadline_ms().is_none();
        let mut silent = false;
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.send_to_server(out);
            silent = now_ms > conn.client_heard_ms + SILENCE_MS_MAX;
        }
        if let Some(why) = broken {
            self.note(|| format!("{client} gives #{id} up: {why}"));
            self.close_client(id, &why);
        } else if silent {
            self.close_client(id, "nothing came");
        } else if idle {
            self.close_client(id, "nothing is followed any more");
        }
    }

    fn dial(&mut self, client: usize, upstream: &str) {
        let now_ms = self.now_ms();
        let Some(server) = node_at(upstream) else { return };
        let up = self.nodes[server].running.is_some() && !self.parted(client, server);
        let Some(running) = &mut self.nodes[client].running else { return };
        let Some(following) = running.following.get_mut(upstream) else { return };
        if !up {
            following.retry_ms = now_ms + RETRY_MS_MIN;
            return;
        }
        self.conns_made += 1;
        let id = self.conns_made;
        following.conn = Some((id, false));
        let mut conn = Conn::new(client, server, Purpose::Stream(upstream.to_owned()), now_ms);
        conn.send_to_server([Message::Hello { features: 0, purpose: HelloPurpose::Stream }]);
        self.conns.insert(id, conn);
        self.note(|| format!("{client} dials {server} #{id}"));
    }

    fn close_client(&mut self, id: ConnId, why: &str) {
        let now_ms = self.now_ms();
        let Some(conn) = self.conns.get_mut(&id) else { return };
        (conn.cut, conn.client_open) = (true, false);
        conn.to_client.clear();
        let (client, purpose) = (conn.client, conn.purpose.clone());
        if let Some(running) = &mut self.nodes[client].running {
            match purpose {
                Purpose::Stream(upstream) => {
                    if let Some(following) = running.following.get_mut(&upstream)
                        && following.conn.is_some_and(|(current, _)| current == id)
                    {
                        following.conn = None;
                        following.retry_ms = now_ms + RETRY_MS_MIN;
                        following.link.disconnected(why, now_ms);
                    }
                }
                Purpose::Grants(_) => drop(running.asking.remove(&id)),
            }
        }
        self.note(|| format!("{client} closes #{id}: {why}"));
        self.conns.retain(|_, conn| conn.client_open || conn.server_open);
    }

    fn cut_something(&mut self) {
        let ids: Vec<ConnId> = self.conns.iter().filter(|(_, conn)| !conn.cut).map(|(id, _)| *id).collect();
        let Some(&id) = self.random.pick(&ids) else { return };
        let (to_server, to_client) = (self.random.below(6), self.random.below(6));
        self.note(|| format!("#{id} is cut"));
        self.conns.get_mut(&id).expect("it is there").cut(to_server, to_client);
    }

    // ---- nodes ----

    /// A node goes round all that it has to do.
    fn turn(&mut self, node: usize) {
        let Some(running) = &self.nodes[node].running else { return };
        let upstreams: Vec<String> = running.following.keys().cloned().collect();
        let peers: Vec<ConnId> = running.followed.keys().copied().collect();
        upstreams.iter().for_each(|upstream| self.link_turn(node, upstream));
        peers.into_iter().for_each(|id| self.serve(node, id));
        self.ask_about_grants(node);
    }

    fn ask_about_grants(&mut self, node: usize) {
        let now_ms = self.now_ms();
        let Some(running) = &mut self.nodes[node].running else { return };
        let open = grants::open(running.engine);
        running.grants.retain(|_, (known, _)| open.contains(known));
        for grant in open {
            running.grants.entry(grant.slot).or_insert((grant, now_ms));
        }
        if !running.asking.is_empty() {
            return;
        }
        let due = running.grants.values().find(|(_, since)| now_ms >= since + GRANT_PATIENCE_MS).cloned();
        let Some((grant, _)) = due else { return };
        running.grants.insert(grant.slot, (grant.clone(), now_ms));
        let Some(server) = node_at(&grant.address) else { return };
        if self.nodes[server].running.is_none() || self.parted(node, server) {
            return;
        }
        self.conns_made += 1;
        let id = self.conns_made;
        let ask = Message::GrantAsk(vec![(grant.slot, grant.ended, grant.seq)]);
        let open = vec![grant];
        if let Some(running) = &mut self.nodes[node].running {
            running.asking.insert(id, open.clone());
        }
        let mut conn = Conn::new(node, server, Purpose::Grants(open), now_ms);
        conn.send_to_server([Message::Hello { features: 0, purpose: HelloPurpose::Question }, ask]);
        self.conns.insert(id, conn);
        self.note(|| format!("{node} asks {server} about its grant #{id}"));
    }

    pub(super) fn start(&mut self, index: usize) -> Result<(), String> {
        let (seed, sync) = (self.setup.seed, self.sync);
        self.note(|| format!("{index} starts"));
        let retain_bytes = if self.keeps_log { 1 << 30 } else { 192 << 10 };
        self.nodes[index].start(self.arena, &self.now, seed, sync, retain_bytes)?;
        self.check_acknowledged_by(index)?;
        for slot in self.slots.clone() {
            self.note_slot(index, slot);
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

    fn stop_something(&mut self) -> Result<(), String> {
        let node = self.random.below(self.nodes.len());
        if self.nodes[node].running.is_none() || !self.arena.has_room() {
            return Ok(());
        }
        let how = self.random.below(5);
        match how {
            // One whose disk failed has nothing to stop in order.
            0 if !self.nodes[node].faulty => {
                let engine = self.nodes[node].engine().expect("it runs");
                engine.close().map_err(|error| format!("node {node} does not close: {}", told(&error)))?;
                self.note(|| format!("{node} stops"));
                self.nodes[node].fs = self.nodes[node].fs.restart();
            }
            1 | 2 if self.sync == SyncMode::Always => {
                let seed = self.random.next_u64();
                self.note(|| format!("{node} loses power"));
                self.nodes[node].fs = self.nodes[node].fs.crash(seed);
            }
            _ => {
                self.note(|| format!("{node} is killed"));
                self.nodes[node].acknowledged = self.acknowledged_by(node);
                self.nodes[node].fs = self.nodes[node].fs.restart();
            }
        }
        self.end_of(node);
        Ok(())
    }

    /// A node's process is gone: so are its ends of all connections.
    fn end_of(&mut self, node: usize) {
        self.nodes[node].running = None;
        let ids: Vec<ConnId> = self.conns.keys().copied().collect();
        for id in ids {
            let (to_server, to_client) = (self.random.below(6), self.random.below(6));
            let conn = self.conns.get_mut(&id).expect("it is there");
            if conn.client == node || conn.server == node {
                conn.cut(to_server, to_client);
                conn.client_open &= conn.client != node;
                conn.server_open &= conn.server != node;
            }
        }
        self.conns.retain(|_, conn| conn.client_open || conn.server_open);
    }

    /// Whether nothing gets from one node to the other.
    pub(super) fn parted(&self, one: usize, other: usize) -> bool {
        self.parted.contains(&(one.min(other), one.max(other)))
    }

    /// Two nodes can't reach each other any more, or can again. Connections between them stay, for as long as both sides
    /// bear the silence.
    fn part_something(&mut self) {
        let (one, other) = (self.random.below(self.nodes.len()), self.random.below(self.nodes.len()));
        if one == other {
            return;
        }
        let pair = (one.min(other), one.max(other));
        if !self.parted.remove(&pair) {
            self.parted.insert(pair);
        }
        let parted = self.parted(one, other);
        self.note(|| format!("{one} and {other} are parted: {parted}"));
    }

    /// One of the next operations of a node's disk fails, or the disk is nearly full.
    fn break_disk(&mut self, node: usize) {
        if self.nodes[node].running.is_none() || self.nodes[node].faulty {
            return;
        }
        let fs = self.nodes[node].fs.clone();
        let ahead = self.random.below(12) as u64;
        let how = self.random.below(3);
        // Nothing that was written is lost by it: what a sync that fails by half leaves is that of a loss of power, which
        // what a replica has said that it has need not outlast. The engine's own simulation has those.
        match how {
            0 => fs.set_capacity(Some(fs.used_bytes() + self.random.below(200_000) as u64)),
            1 => fs.fail_operation(fs.operations() + ahead, ErrorKind::StorageFull),
            _ => fs.fail_operation(fs.operations() + ahead, ErrorKind::Other),
        }
        self.nodes[node].faulty = true;
        self.note(|| format!("{node}'s disk is about to fail ({how}, {ahead})"));
    }

    /// Whether that is the error of a disk that was told to fail.
    fn is_fault(&self, wrong: &str) -> bool {
        wrong.contains(DISK) && self.nodes.iter().any(|node| node.faulty)
    }

    /// A disk failed: its node is ended sooner or later, and comes back with a disk that works.
    fn meet_fault(&mut self, wrong: &str) {
        self.note(|| format!("met: {wrong}"));
        if self.random.chance(1, 2) {
            self.nodes.iter().filter(|node| node.faulty).for_each(|node| node.fs.set_capacity(None));
        } else {
            self.end_faulty();
        }
    }

    fn end_faulty(&mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].faulty && self.nodes[node].running.is_some() && self.arena.has_room() {
                self.note(|| format!("{node} is killed, its disk failed"));
                self.nodes[node].acknowledged = self.acknowledged_by(node);
                self.nodes[node].fs.set_capacity(None);
                self.nodes[node].fs = self.nodes[node].fs.restart();
                self.end_of(node);
            }
        }
    }

    /// What a node has said that it has: each slot with its last record and the history that it is of.
    fn acknowledged_by(&self, node: usize) -> Vec<(Slot, Seq, History)> {
        let Some(engine) = self.nodes[node].engine() else { return Vec::new() };
        let masters = self.nodes.iter().filter_map(|other| other.running.as_ref());
        let streams = masters.flat_map(|running| running.followed.values());
        let mut said = Vec::new();
        for followed in streams.filter(|followed| followed.stream && followed.from == engine.node()) {
            let shipper = followed.peer.shipper();
            let shipper = shipper.lock().expect("no panic");
            for &slot in &self.slots {
                let position = engine.position(slot);
                // One that follows another node by now may have given it up.
                if let Some(seq) = shipper.acked(slot).filter(|&seq| seq <= position.last_seq) {
                    said.push((slot, seq, position.history));
                }
            }
        }
        said
    }

    /// A killed node still has what it said that it has.
    fn check_acknowledged_by(&mut self, node: usize) -> Result<(), String> {
        let Some(engine) = self.nodes[node].engine() else { return Ok(()) };
        for (slot, seq, history) in std::mem::take(&mut self.nodes[node].acknowledged) {
            let position = engine.position(slot);
            if position.history == history && position.last_seq < seq {
                return Err(format!(
                    "node {node} slot {slot}: acknowledged {seq}, was killed, has {}",
                    position.last_seq
                ));
            }
        }
        Ok(())
    }

    fn start_something(&mut self) -> Result<(), String> {
        let down: Vec<usize> =
            self.nodes.iter().filter(|node| node.running.is_none()).map(|node| node.index).collect();
        match self.random.pick(&down) {
            Some(&node) if self.arena.has_room() => self.start(node),
            _ => Ok(()),
        }
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

    // ---- clients ----

    fn write_something(&mut self) -> Result<(), String> {
        let slot = *self.random.pick(&self.slots).expect("there are slots");
        let owners: Vec<usize> =
            self.nodes.iter().filter(|node| node.role(slot) == Role::Master).map(|node| node.index).collect();
        let Some(&node) = self.random.pick(&owners) else { return Ok(()) };
        let engine = self.nodes[node].engine().expect("an owner runs");
        if engine.is_full() {
            engine.step(Job::Flush).map_err(|error| told(&error))?;
            engine.step(Job::Flush).map_err(|error| told(&error))?;
        }
        let name = format!("{{{}}}{}", self.tags[&slot], self.random.below(12));
        self.written += 1;
        let kind = self.random.below(100);
        let padding = if self.random.chance(1, 8) { 4000 } else { 0 };
        let text = format!("{}{}", self.written, "x".repeat(padding));
        let position = engine.position(slot);
        let before = position.last_seq;
        let (effect, gate) = transact(engine, slot, |tx| match kind {
            0 => {
                tx.clear(slot);
                Ok(Effect::Clear)
            }
            1..20 => tx.delete(&key(&name)).map(|_| Effect::Delete(name.clone())),
            _ => {
                let value = Value::whole(1, 0, Bytes::from(text.clone()));
                tx.put(&key(&name), &value).map(|()| Effect::Put(name.clone(), text.clone()))
            }
        })?;
        let after = engine.pulse(slot).last_seq;
        if after == before {
            return Ok(()); // nothing was there to be deleted
        }
        let epoch = position.history.current().ok_or("an owner without an epoch")?;
        self.model.wrote(node, slot, epoch, after, effect)?;
        let write = (slot, epoch, after);
        let running = self.nodes[node].running.as_mut().expect("an owner runs");
        running.unanswered.push(Unanswered { gate, write });
        self.note(|| format!("{node} slot {slot} {epoch} {after} is written"));
        if self.random.chance(1, 2) {
            self.answer_clients(node)?;
        }
        Ok(())
    }

    /// A client reads from an owner: it has all that any client was told before.
    fn read_something(&mut self) -> Result<(), String> {
        let slot = *self.random.pick(&self.slots).expect("there are slots");
        let owns = |node: &&Node<'_>| matches!(node.role(slot), Role::Master | Role::Fenced);
        let owners: Vec<usize> = self.nodes.iter().filter(owns).map(|node| node.index).collect();
        let Some(&node) = self.random.pick(&owners).filter(|_| !self.model.is_forked(slot)) else {
            return Ok(());
        };
        let engine = self.nodes[node].engine().expect("an owner runs");
        let name = format!("{{{}}}{}", self.tags[&slot], self.random.below(12));
        let (value, _) = transact(engine, slot, |tx| tx.get(&key(&name)))?;
        let value = value.map(|value| String::from_utf8_lossy(&value.payload).into_owned());
        let position = engine.position(slot);
        let expected = self.model.state(slot, &position.history, position.last_seq).remove(&name);
        if value != expected {
            return Err(format!("a client of node {node} reads {value:?} at {name}, not {expected:?}"));
        }
        let lost = self.model.lost(slot, &position.history, position.last_seq);
        if let Some((epoch, seq)) = lost.first() {
            return Err(format!(
                "a client of node {node} reads slot {slot} without {seq} of {epoch}, which was acknowledged"
            ));
        }
        Ok(())
    }

    fn answer_clients(&mut self, node: usize) -> Result<(), String> {
        let sync = self.random.chance(1, 2);
        let Some(running) = &mut self.nodes[node].running else { return Ok(()) };
        running.engine.write().map_err(|error| told(&error))?;
        if sync {
            running.engine.step(Job::Sync).map_err(|error| told(&error))?;
        }
        let engine = running.engine;
        let mut context = Context::from_waker(Waker::noop());
        let mut waiting = Vec::new();
        for unanswered in std::mem::take(&mut running.unanswered) {
            match pin!(engine.reached(unanswered.gate)).poll(&mut context) {
                Poll::Ready(Ok(())) => {
                    let (slot, epoch, seq) = unanswered.write;
                    self.model.acknowledged(slot, epoch, seq);
                }
                Poll::Ready(Err(error)) => return Err(format!("a reply of node {node}: {}", told(&error))),
                Poll::Pending => waiting.push(unanswered),
            }
        }
        self.nodes[node].running.as_mut().expect("it ran before").unanswered = waiting;
        Ok(())
    }

    // ---- checks ----

    /// At most one node may write to a slot that nobody forked.
    fn check_owners(&self) -> Result<(), String> {
        for &slot in self.slots.iter().filter(|slot| !self.model.is_forked(**slot)) {
            let owns = |node: &&Node<'_>| matches!(node.role(slot), Role::Master | Role::Fenced);
            let owners: Vec<usize> = self.nodes.iter().filter(owns).map(|node| node.index).collect();
            if owners.len() > 1 {
                return Err(format!("slot {slot} is owned by nodes {owners:?}"));
            }
        }
        Ok(())
    }

    /// What was granted is remembered: whoever has the granting record has to know of it.
    fn learn_grants(&mut self) {
        for node in &self.nodes {
            let Some(engine) = node.engine() else { continue };
            for &slot in &self.slots {
                if let Role::Granted { to, .. } = engine.role(slot) {
                    let position = engine.position(slot);
                    let epoch = position.history.current().expect("a granted slot has an epoch");
                    self.model.granted(slot, epoch, position.last_seq, to);
                }
            }
        }
    }

    fn check_something(&mut self) -> Result<(), String> {
        let node = self.random.below(self.nodes.len());
        for slot in self.slots.clone() {
            self.check_state(node, slot)?;
        }
        self.check_kept(node)
    }

    /// What a replica has not acknowledged is in its master's log.
    fn check_kept(&self, node: usize) -> Result<(), String> {
        let Some(running) = self.nodes[node].running.as_ref().filter(|_| self.keeps_log) else {
            return Ok(());
        };
        let engine = running.engine;
        for followed in running.followed.values().filter(|followed| followed.stream) {
            let shipper = followed.peer.shipper();
            let shipper = shipper.lock().expect("no panic");
            for &slot in &self.slots {
                let (position, acked) = (engine.position(slot), shipper.acked(slot));
                let lacks = |acked: &Seq| *acked >= position.base_seq && *acked < position.last_seq;
                if let Some(acked) = acked.filter(lacks)
                    && engine.locate(slot, position.last_seq).is_some()
                    && engine.locate(slot, acked.next()).is_none()
                {
                    return Err(format!(
                        "node {node} slot {slot}: no log after {acked}, which a replica lacks"
                    ));
                }
            }
        }
        Ok(())
    }

    /// What a node holds of a slot is what was written up to its last record.
    fn check_state(&self, node: usize, slot: Slot) -> Result<(), String> {
        let Some(engine) = self.nodes[node].engine() else { return Ok(()) };
        let position = engine.position(slot);
        if matches!(position.role, Role::Absent | Role::Loading { .. }) {
            return Ok(());
        }
        let held = contents(engine, slot)?;
        let expected = self.model.state(slot, &position.history, position.last_seq);
        if held != expected {
            let wrong = expected.iter().find(|(key, value)| held.get(*key) != Some(value));
            let extra = held.iter().find(|(key, _)| !expected.contains_key(*key));
            return Err(format!(
                "node {node} slot {slot} at {} of {:?}: expected {wrong:?}, surplus {extra:?}",
                position.last_seq, position.history
            ));
        }
        let epoch = position.history.current();
        let granted = epoch.and_then(|epoch| self.model.grant_of(slot, epoch, position.last_seq));
        if let Some(to) = granted
            && position.granted.as_ref().map(|(known, _)| *known) != Some(to)
        {
            return Err(format!(
                "node {node} slot {slot} has record {}, which grants it to {to}, and knows of {:?}",
                position.last_seq, position.granted
            ));
        }
        if position.keys != held.len() as u64 {
            return Err(format!("node {node} slot {slot} counts {} keys, has {}", position.keys, held.len()));
        }
        Ok(())
    }

    /// The faults end: everything has to come to stand, and to be right.
    fn settle(&mut self) -> Result<(), String> {
        self.note(|| "the faults end".to_owned());
        self.random = Coin::new(self.setup.seed);
        self.parted.clear();
        self.end_faulty();
        let mut unsettled = None;
        for round in 0..SETTLE_ROUNDS {
            self.step = self.setup.steps + round;
            for node in 0..self.nodes.len() {
                if self.nodes[node].running.is_none() {
                    self.start(node)?;
                }
                self.turn(node);
                self.answer_clients(node)?;
            }
            for delivery in self.deliveries() {
                self.deliver(delivery, 8)?;
            }
            self.check_owners().map_err(|wrong| format!("settling, round {round}: {wrong}"))?;
            self.now.fetch_add(50, Ordering::Relaxed);
            unsettled = self.unsettled();
            if unsettled.is_none() && round > 20 && self.deliveries().is_empty() {
                break;
            }
        }
        for node in 0..self.nodes.len() {
            for slot in self.slots.clone() {
                self.note_slot(node, slot);
            }
        }
        if let Some(why) = unsettled {
            return Err(format!("does not settle: {why}"));
        }
        for node in 0..self.nodes.len() {
            for slot in self.slots.clone() {
                self.check_state(node, slot).map_err(|wrong| format!("at the end: {wrong}"))?;
            }
        }
        self.check_acknowledged()
    }

    /// What still has to change before everything stands.
    fn unsettled(&self) -> Option<String> {
        for &slot in &self.slots {
            let forked = self.model.is_forked(slot);
            let masters = self.nodes.iter().filter(|node| node.role(slot) == Role::Master).count();
            if !forked && masters != 1 {
                return Some(format!("slot {slot} has {masters} owners"));
            }
            for node in &self.nodes {
                match node.role(slot) {
                    Role::Fenced => return Some(format!("slot {slot} is fenced on node {}", node.index)),
                    Role::Granted { .. } if !forked => {
                        return Some(format!("slot {slot} is granted on node {}", node.index));
                    }
                    Role::Replica { upstream } | Role::Loading { upstream }
                        if self.is_rooted(&upstream, slot) =>
                    {
                        let why = self.replica_unsettled(node, &upstream, slot);
                        if why.is_some() {
                            return why;
                        }
                    }
                    _ => {}
                }
            }
        }
        None
    }

    /// Whether an upstream gets its records from an owner, over any number of nodes.
    fn is_rooted(&self, upstream: &str, slot: Slot) -> bool {
        let mut at = upstream.to_owned();
        for _ in 0..self.nodes.len() {
            let Some(node) = node_at(&at) else { return false };
            match self.nodes[node].role(slot) {
                Role::Master => return true,
                Role::Replica { upstream } | Role::Loading { upstream } => at = upstream,
                _ => return false,
            }
        }
        false
    }

    fn replica_unsettled(&self, node: &Node<'_>, upstream: &str, slot: Slot) -> Option<String> {
        let running = node.running.as_ref()?;
        let above = self.nodes[node_at(upstream)?].engine()?.position(slot);
        let here = running.engine.position(slot);
        let index = node.index;
        let Some((_, link)) = running.registry.link_of(slot) else {
            return Some(format!("slot {slot} of node {index} is on no link"));
        };
        let status = link.receiver.lock().expect("no panic").status(slot)?;
        if status.state != LinkState::Connected {
            if status.state == LinkState::Error && self.model.is_forked(slot) {
                return None; // unrelated data is not replaced without force
            }
            return Some(format!("slot {slot} of node {index}: {:?} {:?}", status.state, status.why));
        }
        let same = here.last_seq == above.last_seq && here.history == above.history;
        (!same || !matches!(here.role, Role::Replica { .. })).then(|| {
            format!(
                "slot {slot} of node {index}: {:?} at {}, {upstream} at {}",
                here.role, here.last_seq, above.last_seq
            )
        })
    }

    fn check_acknowledged(&self) -> Result<(), String> {
        for &slot in self.slots.iter().filter(|slot| !self.model.is_forked(**slot)) {
            let owner = self.nodes.iter().find(|node| node.role(slot) == Role::Master);
            let Some(engine) = owner.and_then(Node::engine) else { continue };
            let position = engine.position(slot);
            let lost = self.model.lost(slot, &position.history, position.last_seq);
            if let Some((epoch, seq)) = lost.first() {
                let count = lost.len();
                return Err(format!(
                    "slot {slot}: {count} acknowledged writes are lost, {seq} of {epoch} first"
                ));
            }
        }
        Ok(())
    }
}

impl World<'_> {
    fn grant_answer(&mut self, node: usize, open: &[grants::Open], message: Message) -> Result<(), String> {
        let Some(running): Option<&mut Running<'_>> = self.nodes[node].running.as_mut() else {
            return Ok(());
        };
        let engine = running.engine;
        let mut finished = None;
        match message {
            Message::HelloOk { node: answering, .. } => {
                if !open.iter().all(|grant| grant.to == answering) {
                    return Err(format!("a node changed its name: {answering}"));
                }
            }
            Message::GrantTaken(taken) => {
                let from = open.first().expect("asked about one").to;
                grants::taken(engine, from, &taken).map_err(|error| told(&error))?;
                finished = Some(format!("{node} hears what began: {taken:?}"));
            }
            Message::GrantRefused { slot, why } => {
                let grant = open.iter().find(|grant| grant.slot == slot).expect("asked about it");
                grants::refused(engine, grant, &why).map_err(|error| told(&error))?;
                finished = Some(format!("{node} slot {slot} is refused: {why}"));
            }
            Message::GrantPending(slot) => finished = Some(format!("{node} slot {slot}: pending")),
            other => return Err(format!("an answer about a grant: {other:?}")),
        }
        if let Some(finished) = finished {
            self.note(|| finished);
            let id = self.nodes[node].running.as_ref().and_then(|r| r.asking.keys().next().copied());
            if let Some(id) = id {
                self.close_client(id, "answered");
            }
        }
        Ok(())
    }
}

/// A message in few words.
fn summary(message: &Message) -> String {
    match message {
        Message::Records { data, more, .. } => format!("Records {} bytes more {more}", data.len()),
        Message::CopyChunk { data, .. } => format!("CopyChunk {} bytes", data.len()),
        other => {
            let mut text = format!("{other:?}");
            text.truncate(200);
            text
        }
    }
}

/// What the operator's commands need.
pub(super) fn handover(slot: Slot) -> LinkCommand {
    let (done, _) = tokio::sync::oneshot::channel();
    LinkCommand::Handover { slots: vec![slot], patience_ms: 3000, done }
}
