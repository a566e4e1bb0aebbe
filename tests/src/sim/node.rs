//! One node of the simulation: a real engine on a simulated disk, with the machines of replication around it and
//! no thread, socket or clock of its own. What `replication/src/run.rs` does with sockets, this does with queues.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use haypile_engine::clock::{Clock, TimeMs};
use haypile_engine::engine::{Engine, Fetched, Gate, Options, SyncMode};
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::history::History;
use haypile_engine::key::Key;
use haypile_engine::slot::Role;
use haypile_engine::tx::{Read, Stop, Tx};
use haypile_engine::types::{Epoch, NodeId, Seq, Slot};
use haypile_engine::value::Value;
use haypile_replication::acks::Wait;
use haypile_replication::grants::Open;
use haypile_replication::link::Link;
use haypile_replication::peer::Peer;
use haypile_replication::receiver::Receiver;
use haypile_replication::registry::{LinkCommand, LinkEntry, PeerCommand, Registry};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;

use super::linear::Sent;
use super::model::Held;
use super::tails::Asking;
use super::told;

/// Slots are small here: their copies come in pieces all the same, and are made durable on the way.
const COPY_PIECE_BYTES: usize = 300;
/// See [`COPY_PIECE_BYTES`].
const COPY_DURABLE_BYTES: u64 = 700;

/// Starts of nodes that one run can have.
pub const STARTS_MAX: usize = 200;

/// Where the engines of a run live, so that links may borrow them: one for each start of a node.
pub struct Arena(Vec<OnceCell<Arc<Engine>>>);

impl Default for Arena {
    fn default() -> Arena {
        Arena((0..STARTS_MAX).map(|_| OnceCell::new()).collect())
    }
}

impl Arena {
    /// Whether there is room for another start.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.0.last().is_some_and(|last| last.get().is_none())
    }

    fn keep(&self, engine: Engine) -> (&Arc<Engine>, usize) {
        let free = self.0.iter().position(|cell| cell.get().is_none()).expect("asked before");
        (self.0[free].get_or_init(|| Arc::new(engine)), free)
    }
}

/// The time of all nodes, with a difference of each.
#[derive(Debug)]
pub struct SimClock {
    /// Milliseconds since the beginning.
    pub now: Arc<AtomicU64>,
    /// How much this node's time of day is ahead.
    pub ahead_ms: Arc<AtomicU64>,
}

impl Clock for SimClock {
    fn wall(&self) -> TimeMs {
        TimeMs(1_000_000 + self.ahead_ms.load(Ordering::Relaxed) + self.now.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.now.load(Ordering::Relaxed))
    }
}

/// Names a connection.
pub type ConnId = u32;

/// This node's side of following another.
pub struct Following<'e> {
    /// The driver.
    pub link: Link<'e>,
    /// Its machine, to look at.
    pub receiver: Arc<Mutex<Receiver>>,
    /// What the node wants of it.
    pub inbox: UnboundedReceiver<LinkCommand>,
    /// The connection, and whether it was greeted.
    pub conn: Option<(ConnId, bool)>,
    /// When it may be tried again.
    pub retry_ms: u64,
}

/// This node's side of being followed, or asked.
pub struct Followed {
    /// The driver.
    pub peer: Peer,
    /// What the node wants of it.
    pub inbox: UnboundedReceiver<PeerCommand>,
    /// Its number in the registry.
    pub number: u64,
    /// Who connected.
    pub from: NodeId,
    /// Whether it is a stream.
    pub stream: bool,
    /// When the next heartbeat is due.
    pub beat_ms: u64,
}

/// A command that was carried out and not answered yet.
pub struct Unanswered {
    /// What the reply waits for.
    pub gate: Gate,
    /// The replicas that it waits for, if it has to.
    pub wait: Option<Wait>,
    /// Which write it is, if it is one.
    pub write: Option<(Slot, Epoch, Seq)>,
    /// What the client waits for.
    pub sent: Sent,
    /// What the reply tells to have expired.
    pub expired: Option<(Slot, TimeMs)>,
}

/// What is there of a node while it runs.
pub struct Running<'e> {
    /// The engine.
    pub engine: &'e Arc<Engine>,
    /// Who follows, who is followed.
    pub registry: Arc<Registry>,
    /// By the upstream's address.
    pub following: BTreeMap<String, Following<'e>>,
    /// By connection.
    pub followed: BTreeMap<ConnId, Followed>,
    /// Since when each grant has been open, and whether its new owner is being asked.
    pub grants: BTreeMap<Slot, (Open, u64)>,
    /// Connections that ask about grants.
    pub asking: BTreeMap<ConnId, Vec<Open>>,
    /// Writes without a reply.
    pub unanswered: Vec<Unanswered>,
    /// While it asks its replicas for what it lost.
    pub owing: Option<Asking>,
}

/// A node, running or not.
pub struct Node<'e> {
    /// Which.
    pub index: usize,
    /// Its disk.
    pub fs: MemoryFs,
    /// What runs.
    pub running: Option<Running<'e>>,
    /// What it had acknowledged to its masters when it was killed.
    pub acknowledged: Vec<(Slot, Seq, History)>,
    /// Its time of day is ahead by this; changed at any time.
    pub ahead_ms: Arc<AtomicU64>,
    /// Its disk was told to fail since it started.
    pub faulty: bool,
    /// It ever lost power, or its disk failed: what it acknowledged to its master it may have lost since.
    pub unsure: bool,
    /// It lost power where acknowledged writes need not be synced, and may not have served again since.
    pub lost_power: bool,
    /// How often it was started.
    pub starts: u64,
}

/// How the others reach a node.
#[must_use]
pub fn address(node: usize) -> String {
    format!("10.0.0.{node}:9221")
}

/// The node at an address.
#[must_use]
pub fn node_at(address: &str) -> Option<usize> {
    address.strip_prefix("10.0.0.")?.strip_suffix(":9221")?.parse().ok()
}

/// Some slots' keys begin with these tags.
#[must_use]
pub fn tag_of(slot: Slot) -> String {
    haypile_engine::simulation::tag(slot).to_string()
}

impl<'e> Node<'e> {
    /// Starts it, as it is on its disk.
    ///
    /// # Errors
    /// What opening says.
    pub fn start(
        &mut self,
        arena: &'e Arena,
        now: &Arc<AtomicU64>,
        seed: u64,
        sync: SyncMode,
        log_retain_bytes: u64,
        keep_owed: bool,
    ) -> Result<(), String> {
        self.starts += 1;
        self.faulty = false;
        self.fs.set_capacity(None);
        let options = Options {
            sync,
            memory_bytes: 1 << 20,
            log_segment_bytes: 64 << 10,
            log_retain_bytes,
            copy_durable_bytes: COPY_DURABLE_BYTES,
            keep_owed,
            seed: Some(
                seed.wrapping_mul(0x9e37_79b9).wrapping_add(self.index as u64 * 1_000_003 + self.starts),
            ),
            ..Options::default()
        };
        let clock = Arc::new(SimClock { now: Arc::clone(now), ahead_ms: Arc::clone(&self.ahead_ms) });
        let opened = Engine::open(Arc::new(self.fs.clone()), Path::new("/haypile"), clock, options);
        let (engine, _) =
            opened.map_err(|error| format!("node {} does not open: {}", self.index, told(&error)))?;
        let (engine, _) = arena.keep(engine);
        let registry = Arc::<Registry>::default();
        registry.copies().set_piece_bytes(COPY_PIECE_BYTES);
        self.running = Some(Running {
            engine,
            registry,
            following: BTreeMap::new(),
            followed: BTreeMap::new(),
            grants: BTreeMap::new(),
            asking: BTreeMap::new(),
            unanswered: Vec::new(),
            owing: None,
        });
        let now_ms = now.load(Ordering::Relaxed);
        for slot in Slot::all() {
            if let Role::Replica { upstream } | Role::Loading { upstream } = engine.role(slot) {
                self.attach(slot, &upstream, false, now_ms);
            }
        }
        Ok(())
    }

    /// Hands a slot to the link of an upstream.
    pub fn attach(&mut self, slot: Slot, upstream: &str, force: bool, now_ms: u64) {
        let Some(running) = &mut self.running else { return };
        let Running { engine, registry, following, .. } = running;
        let following = following.entry(upstream.to_owned()).or_insert_with(|| {
            let receiver = Arc::new(Mutex::new(Receiver::default()));
            let (commands, inbox) = unbounded_channel();
            let entry = LinkEntry { receiver: Arc::clone(&receiver), node: None, commands };
            registry.link_or(upstream, || entry);
            let link = Link::new(engine, Arc::clone(registry), upstream.to_owned(), Arc::clone(&receiver));
            Following { link, receiver, inbox, conn: None, retry_ms: 0 }
        });
        following.link.on_command(LinkCommand::Attach { slots: vec![slot], force }, now_ms);
        following.retry_ms = following.retry_ms.min(now_ms);
    }

    /// Takes a slot off its link. Says which that was.
    pub fn unfollow(&mut self, slot: Slot, now_ms: u64) -> Option<String> {
        let running = self.running.as_mut()?;
        let (upstream, _) = running.registry.link_of(slot)?;
        let (done, _) = oneshot::channel();
        let link = &mut running.following.get_mut(&upstream)?.link;
        link.on_command(LinkCommand::Detach { slots: vec![slot], done }, now_ms);
        Some(upstream)
    }

    /// Its engine, if it runs.
    #[must_use]
    pub fn engine(&self) -> Option<&'e Arc<Engine>> {
        self.running.as_ref().map(|running| running.engine)
    }

    /// What it is to a slot; absent if it does not run.
    #[must_use]
    pub fn role(&self, slot: Slot) -> Role {
        self.engine().map_or(Role::Absent, |engine| engine.role(slot))
    }
}

/// Runs a command on a slot as the server does: again after a miss.
///
/// # Errors
/// What the engine says.
pub fn transact<T>(
    engine: &Engine,
    slot: Slot,
    mut body: impl FnMut(&mut Tx<'_>) -> Read<T>,
) -> Result<(T, Gate), String> {
    let mut fetched = Fetched::default();
    loop {
        let mut tx = engine.begin(&[slot], &fetched);
        match body(&mut tx) {
            Ok(out) => return tx.commit().map(|gate| (out, gate)).map_err(|error| told(&error)),
            Err(Stop::Miss) => {
                let wanted = tx.abandon();
                engine.fetch(wanted, &mut fetched).map_err(|error| told(&error))?;
            }
            Err(Stop::Failed(error)) => return Err(told(&error)),
        }
    }
}

/// All keys and values of a slot that have not expired, and the slot's time. Nobody is told of them: no trace is left.
///
/// # Errors
/// What the engine says.
pub fn contents(engine: &Engine, slot: Slot) -> Result<(BTreeMap<String, Held>, TimeMs), String> {
    let mut fetched = Fetched::default();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    loop {
        let mut tx = engine.begin(&[slot], &fetched);
        let now = tx.now(slot);
        match tx.keys(slot, 0, usize::MAX) {
            Ok((page, _)) => {
                drop(tx.abandon());
                let held = |(key, value): (Bytes, Value)| (text(&key), (text(&value.payload), value.expiry));
                return Ok((page.into_iter().map(held).collect(), now));
            }
            Err(Stop::Miss) => {
                let wanted = tx.abandon();
                engine.fetch(wanted, &mut fetched).map_err(|error| told(&error))?;
            }
            Err(Stop::Failed(error)) => return Err(told(&error)),
        }
    }
}

/// The key with this name.
#[must_use]
pub fn key(name: &str) -> Key {
    Key::new(name.as_bytes())
}
