//! Replication of a node: what the server calls.
//!
//! One thread for what an operator asks (follow, no one) and for open grants, one for each node that follows this
//! one, one for each that this one follows: their work waits for disks. All methods may be called from any thread
//! and any runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use haypile_engine::engine::Engine;
use haypile_engine::pins::{Pin, Pinner};
use haypile_engine::slot::{NOBODY, Role};
use haypile_engine::types::{NodeId, Slot};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, watch};

use crate::acks::Acks;
use crate::copies::Copies;
use crate::features::Compress;
use crate::operate;
use crate::owed;
use crate::receiver::{LinkState, Receiver};
use crate::registry::{LinkCommand, LinkEntry, PeerCommand, PeerEntry, Registry};
use crate::run;
use crate::shipper::Phase;
use crate::status::{
    AwayStatus, Handed, LinkSummary, Note, PeerStatus, ReplicaState, ReplicaStatus, SlotKept, SlotStatus,
    UpstreamStatus,
};
use crate::transport::{Dial, SyncHello};

/// Nodes that may follow this one at once, questions included.
pub const PEERS_MAX: usize = 256;

/// How replication of a node behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `ip:port` that other nodes reach this one at.
    pub announce: String,
    /// The password that other nodes ask for.
    pub masterauth: Option<String>,
    /// How long connecting to another node may take.
    pub connect_patience: Duration,
    /// How often a master tells its replicas that it is there.
    pub heartbeat: Duration,
    /// A connection over which nothing came for this long is given up.
    pub silence_max: Duration,
    /// A grant that was not answered on its link for this long is asked about.
    pub grant_patience: Duration,
    /// Whether what is shipped is compressed, where it pays and the other side agrees.
    pub compress: Compress,
    /// How long replicas may take to give back what this node lost in an unclean stop, counted from the start and from each
    /// piece that came.
    pub tail_wait: Duration,
}

impl Settings {
    /// The usual settings for a node that is reached at `announce`.
    #[must_use]
    pub fn new(announce: String) -> Settings {
        Settings {
            announce,
            masterauth: None,
            connect_patience: Duration::from_millis(1500),
            heartbeat: Duration::from_secs(1),
            silence_max: Duration::from_secs(10),
            grant_patience: Duration::from_secs(2),
            compress: Compress::No,
            tail_wait: Duration::from_secs(2),
        }
    }
}

/// Why slots can't be followed or released. Nothing has changed then, unless the text says otherwise.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// The slot is not on this node.
    #[error("Slot {0} not found!")]
    NotHere(Slot),
    /// The node is asked to follow itself.
    #[error("{0} is this node itself: a node can't follow itself")]
    Itself(String),
    /// The other node can't be reached, or does not let this one in.
    #[error("connect remote node error: {0}")]
    Connect(String),
    /// The other node has data in common with nothing here: only `force` replaces what is here.
    #[error("{0}")]
    Unrelated(String),
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

pub(crate) struct Shared {
    pub(crate) engine: Arc<Engine>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) settings: Mutex<Settings>,
    /// Slots that an operator's step is under way for.
    busy: Mutex<BTreeSet<Slot>>,
    /// Who was promoted to owner of slots while this node was away, as it heard after its start. Of no meaning for a slot that is
    /// not owed any more.
    heirs: Mutex<BTreeMap<Slot, String>>,
    /// Says when to stop.
    pub(crate) stopping: watch::Sender<bool>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

/// Replication of this node. See the file's head.
pub struct Replication {
    shared: Arc<Shared>,
    control: Handle,
}

impl Shared {
    pub(crate) fn settings(&self) -> Settings {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn dial(&self, address: &str) -> Dial {
        let settings = self.settings();
        Dial {
            address: address.to_owned(),
            password: settings.masterauth,
            node: self.engine.node(),
            announce: settings.announce,
            compress: settings.compress,
            patience: settings.connect_patience,
        }
    }

    pub(crate) fn set_heirs(&self, heirs: Vec<(Slot, String)>) {
        self.heirs.lock().unwrap_or_else(PoisonError::into_inner).extend(heirs);
    }

    /// Who owns a slot since this node was away, if that was heard, and this node neither owns nor follows since.
    pub(crate) fn heir(&self, slot: Slot) -> Option<String> {
        let heir = self.heirs.lock().unwrap_or_else(PoisonError::into_inner).get(&slot).cloned();
        heir.filter(|_| self.engine.role(slot) == Role::Owed)
    }

    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.engine.clock().monotonic().as_millis()).unwrap_or(u64::MAX)
    }

    /// Runs a future on a thread of its own until it ends or the node stops.
    fn spawn_thread<F>(self: &Arc<Self>, name: &str, make: impl FnOnce() -> F + Send + 'static) -> bool
    where
        F: Future<Output = ()>,
    {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| !thread.is_finished());
        if threads.len() >= PEERS_MAX || *self.stopping.borrow() {
            return false;
        }
        let spawned =
            std::thread::Builder::new().name(name.to_owned()).spawn(
                move || match Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => runtime.block_on(make()),
                    Err(error) => tracing::error!(%error, "a thread of replication can't start"),
                },
            );
        match spawned {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                tracing::error!(%error, "a thread of replication can't start");
                return false;
            }
        }
        true
    }
}

/// Marks slots as being worked on; takes the marks away when it goes.
pub(crate) struct Busy<'a>(&'a Shared, Vec<Slot>);

impl Shared {
    pub(crate) fn busy(&self, slots: &[Slot]) -> Result<Busy<'_>, Refused> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.iter().find(|slot| busy.contains(slot)) {
            return Err(Refused::Other(format!("slot {slot}: a change operation is under way, retry later")));
        }
        busy.extend(slots);
        Ok(Busy(self, slots.to_vec()))
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut busy = self.0.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.retain(|slot| !self.1.contains(slot));
    }
}

impl Replication {
    /// Starts: slots that followed somebody when the node stopped follow again.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(engine: Arc<Engine>, settings: Settings) -> std::io::Result<Arc<Replication>> {
        let (stopping, _) = watch::channel(false);
        let shared = Arc::new(Shared {
            engine,
            registry: Arc::new(Registry::default()),
            settings: Mutex::new(settings),
            busy: Mutex::default(),
            heirs: Mutex::default(),
            stopping,
            threads: Mutex::default(),
        });
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let control = runtime.handle().clone();
        let (grants, owed, mut stopped) =
            (Arc::clone(&shared), Arc::clone(&shared), shared.stopping.subscribe());
        let thread = std::thread::Builder::new().name("replication".to_owned()).spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    () = run::open_grants(grants) => {}
                    () = owed::take_back(owed) => {}
                    // An error means that the sender is gone, which is a stop as well.
                    _ = stopped.wait_for(|stop| *stop) => {}
                }
            });
        })?;
        shared.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        let replication = Arc::new(Replication { shared, control });
        replication.reattach();
        Ok(replication)
    }

    /// Stops: connections end, nothing is attached any more. The slots' roles stay. Waits for threads.
    pub fn shutdown(&self) {
        self.shared.stopping.send_replace(true);
        for (_, link) in self.shared.registry.links() {
            let _ = link.commands.send(LinkCommand::Stop);
        }
        self.shared.registry.tell_peers(&PeerCommand::Stop("the node stops"));
        let threads =
            std::mem::take(&mut *self.shared.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of replication panicked");
            }
        }
    }

    /// The password that is sent to other nodes from now on.
    pub fn set_masterauth(&self, masterauth: Option<String>) {
        self.shared.settings.lock().unwrap_or_else(PoisonError::into_inner).masterauth = masterauth;
    }

    /// Whether what is shipped is compressed, on connections that are opened from now on.
    pub fn set_compress(&self, compress: Compress) {
        self.shared.settings.lock().unwrap_or_else(PoisonError::into_inner).compress = compress;
    }

    /// The copies that this node gives: how fast and how many at once.
    #[must_use]
    pub fn copies(&self) -> &Copies {
        self.shared.registry.copies()
    }

    /// `host:port` that other nodes reach this one at.
    #[must_use]
    pub fn announce(&self) -> String {
        self.shared.settings().announce
    }

    /// Takes over a client's connection that sent `HAYPILE.SYNC`, with what came after the command. The reply is
    /// sent here.
    ///
    /// # Errors
    /// If there are too many connections or the socket is of no use: it is closed.
    pub fn accept(
        &self,
        stream: std::net::TcpStream,
        leftover: Vec<u8>,
        hello: SyncHello,
    ) -> std::io::Result<()> {
        stream.set_nonblocking(true)?;
        let shared = Arc::clone(&self.shared);
        let name = format!("peer {}", hello.announce);
        let taken = self.shared.spawn_thread(&name, move || run::accepted(shared, stream, leftover, hello));
        if taken { Ok(()) } else { Err(std::io::Error::other("too many nodes follow this one")) }
    }

    /// Makes slots follow the node at `upstream`, all or none: that node is asked about every slot first.
    ///
    /// # Errors
    /// See [`Refused`]; nothing has changed then.
    pub async fn follow(&self, slots: &[Slot], upstream: &str, force: bool) -> Result<(), Refused> {
        let (shared, slots, upstream) = (Arc::clone(&self.shared), slots.to_vec(), upstream.to_owned());
        self.on_control(async move { operate::follow(&shared, slots, upstream, force).await }).await?
    }

    /// Makes slots follow nobody: a replica becomes the owner, by a handover if its master can be reached; what
    /// belongs to another node is detached. `force` asks nobody.
    ///
    /// # Errors
    /// See [`Refused`]. What the checks refuse changes nothing; a handover of several slots may have been done for
    /// some of them, and the text says what is wrong with the others.
    pub async fn no_one(
        &self,
        slots: &[Slot],
        force: bool,
        patience: Duration,
    ) -> Result<Vec<Note>, Refused> {
        let (shared, slots) = (Arc::clone(&self.shared), slots.to_vec());
        self.on_control(async move { operate::no_one(&shared, slots, force, patience).await }).await?
    }

    /// Hands slots of this node over to the node at `to`, which follows them: writes are held back, that node gets the last
    /// records, becomes the owner and says so. With `rehearsal` only looks whether that could begin now.
    ///
    /// # Errors
    /// See [`Refused`]. Before the grant nothing has changed then; where the text says that a slot was granted, it is that
    /// node's as soon as both are connected.
    pub async fn hand_over(
        &self,
        slots: &[Slot],
        to: &str,
        patience: Duration,
        rehearsal: bool,
    ) -> Result<Vec<Handed>, Refused> {
        let (shared, slots, to) = (Arc::clone(&self.shared), slots.to_vec(), to.to_owned());
        self.on_control(async move { operate::hand_over(&shared, slots, &to, patience, rehearsal).await })
            .await?
    }

    /// Stops following for slots that are about to be removed: nothing is appended to them any more.
    pub async fn unfollow(&self, slots: &[Slot]) {
        operate::detach(&self.shared, slots).await;
    }

    /// Slots were removed from this node: who follows them here is told.
    pub fn dropped(&self, slots: &[Slot]) {
        for &slot in slots {
            self.shared.registry.tell_peers(&PeerCommand::Dropped(slot));
        }
    }

    /// Whether any node follows a slot here.
    #[must_use]
    pub fn has_followers(&self, slot: Slot) -> bool {
        self.shared.registry.peers().iter().any(|(_, peer)| lock(&peer.shipper).phase(slot).is_some())
    }

    /// What the nodes that follow this one have acknowledged.
    #[must_use]
    pub fn acks(&self) -> &Arc<Acks> {
        self.shared.registry.acks()
    }

    /// Who was promoted to owner of a slot while this node, its owner, was away; until this node is told whom to follow.
    #[must_use]
    pub fn heir(&self, slot: Slot) -> Option<String> {
        self.shared.heir(slot)
    }

    /// Replication of one slot.
    #[must_use]
    pub fn status(&self, slot: Slot) -> SlotStatus {
        self.statuses(&[slot]).pop().unwrap_or_default()
    }

    /// Replication of slots, in the order given.
    #[must_use]
    pub fn statuses(&self, slots: &[Slot]) -> Vec<SlotStatus> {
        let mut peers = self.shared.registry.peers();
        peers.sort_by(|(_, a), (_, b)| a.address.cmp(&b.address));
        let (links, now_ms) = (self.shared.registry.links(), self.shared.now_ms());
        slots.iter().map(|&slot| self.status_among(slot, &peers, &links, now_ms)).collect()
    }

    fn status_among(
        &self,
        slot: Slot,
        peers: &[(NodeId, PeerEntry)],
        links: &[(String, LinkEntry)],
        now_ms: u64,
    ) -> SlotStatus {
        let last = self.shared.engine.pulse(slot).last_seq;
        let replica = |(node, peer): &(NodeId, PeerEntry)| {
            let (state, acked, copy) = {
                let shipper = lock(&peer.shipper);
                let state = match shipper.phase(slot)? {
                    Phase::Waiting => ReplicaState::NotSync,
                    Phase::Copying => ReplicaState::DbSync,
                    Phase::Streaming => ReplicaState::BinlogSync,
                };
                (state, shipper.acked(slot).unwrap_or_default(), shipper.copy_progress(slot))
            };
            let seen = self.acks().seen(slot, *node);
            let ago = |ms: u64| now_ms.saturating_sub(ms);
            let lag_records = last.0.saturating_sub(acked.0);
            Some(ReplicaStatus {
                address: peer.address.clone(),
                node: *node,
                state,
                acked,
                lag_records,
                lag_bytes: match lag_records {
                    0 => Some(0),
                    _ => self.shared.engine.log_bytes_after(slot, acked),
                },
                lag_ms: if lag_records == 0 { 0 } else { seen.map_or(0, |seen| ago(seen.whole_ms)) },
                heard_ms: seen.map_or(0, |seen| ago(seen.heard_ms)),
                since: peer.since,
                copy: copy.map(|count| count.at(now_ms)),
            })
        };
        let upstream = |(address, link): &(String, LinkEntry)| {
            let receiver = lock(&link.receiver);
            let status = receiver.status(slot)?;
            Some(UpstreamStatus {
                address: address.clone(),
                state: status.state,
                last_error: status.why,
                for_ms: now_ms.saturating_sub(status.since_ms),
                heard_ms: receiver.heard_ms().map(|ms| now_ms.saturating_sub(ms)),
                lag_records: status.master_last.0.saturating_sub(last.0),
                copy: status.copy.map(|count| count.at(now_ms)),
            })
        };
        SlotStatus {
            replicas: peers.iter().filter_map(replica).collect(),
            upstream: links.iter().find_map(upstream),
        }
    }

    /// For whom the log of each of these slots is kept.
    #[must_use]
    pub fn kept(&self, slots: &[Slot]) -> Vec<SlotKept> {
        let connected: BTreeSet<NodeId> =
            self.shared.registry.peers().into_iter().map(|(node, _)| node).collect();
        let now_ms = self.shared.now_ms();
        let kept = |pins: Vec<Pin>| {
            let away = pins.iter().filter_map(|pin| self.away(pin, &connected, now_ms)).collect();
            SlotKept { pins, away }
        };
        self.shared.engine.pins(slots).into_iter().map(kept).collect()
    }

    /// Who a pin is for, if that one is not connected.
    fn away(&self, pin: &Pin, connected: &BTreeSet<NodeId>, now_ms: u64) -> Option<AwayStatus> {
        let Pinner::Replica { node, address, seen } = &pin.by else { return None };
        if connected.contains(node) {
            return None;
        }
        let ended = self.shared.registry.ended(*node);
        Some(AwayStatus {
            address: address.clone(),
            acked: pin.has,
            seen_ms: self.shared.engine.clock().wall().0.saturating_sub(seen.0),
            ended: ended.map(|ended| (ended.why, now_ms.saturating_sub(ended.at_ms))),
        })
    }

    /// Every node that follows slots of this one.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        let status = |(node, peer): (NodeId, PeerEntry)| {
            let shipper = lock(&peer.shipper);
            let (mut slots, mut copying, mut lag_records) = (0, 0, 0);
            for slot in Slot::all() {
                match shipper.phase(slot) {
                    Some(Phase::Streaming) => {
                        let acked = shipper.acked(slot).unwrap_or_default();
                        let last = self.shared.engine.pulse(slot).last_seq;
                        lag_records = lag_records.max(last.0.saturating_sub(acked.0));
                        slots += 1;
                    }
                    Some(Phase::Copying) => copying += 1,
                    _ => {}
                }
            }
            let (sent_bytes, in_flight_bytes) = (shipper.sent_bytes(), shipper.in_flight_bytes());
            let heard_ms = self.shared.now_ms().saturating_sub(peer.follower.heard_ms());
            let (address, since) = (peer.address, peer.since);
            PeerStatus {
                address,
                node,
                slots,
                copying,
                lag_records,
                sent_bytes,
                in_flight_bytes,
                heard_ms,
                since,
            }
        };
        self.shared.registry.peers().into_iter().map(status).collect()
    }

    /// Every node that slots of this one follow.
    #[must_use]
    pub fn upstreams(&self) -> Vec<LinkSummary> {
        let now_ms = self.shared.now_ms();
        let summary = |(address, link): (String, LinkEntry)| {
            let receiver = lock(&link.receiver);
            let all: Vec<_> = receiver.slots().filter_map(|slot| receiver.status(slot)).collect();
            let down = all.iter().filter(|status| status.state != LinkState::Connected);
            let down_ms = down.clone().map(|status| now_ms.saturating_sub(status.since_ms)).max();
            let last_error = down.clone().find_map(|status| status.why.clone());
            (!all.is_empty()).then(|| LinkSummary {
                address,
                node: link.node,
                connected: receiver.is_connected(),
                slots: all.len(),
                streaming: all.len() - down.count(),
                last_error,
                down_ms: down_ms.unwrap_or(0),
                received_bytes: receiver.received_bytes(),
            })
        };
        self.shared.registry.links().into_iter().filter_map(summary).collect()
    }

    async fn on_control<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Refused> {
        let stopped = |_| Refused::Other("the node is stopping".to_owned());
        self.control.spawn(future).await.map_err(stopped)
    }

    fn reattach(&self) {
        let mut by_upstream: BTreeMap<String, Vec<Slot>> = BTreeMap::new();
        for slot in Slot::all() {
            if let Role::Replica { upstream } | Role::Loading { upstream } = self.shared.engine.role(slot)
                && upstream != NOBODY
            {
                by_upstream.entry(upstream).or_default().push(slot);
            }
        }
        for (upstream, slots) in by_upstream {
            attach(&self.shared, &upstream, slots, false);
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no code panics under this lock")
}

/// Hands slots to the link of an upstream, which is made if need be.
pub(crate) fn attach(shared: &Arc<Shared>, upstream: &str, slots: Vec<Slot>, force: bool) {
    let link = shared.registry.link_or(upstream, || {
        let (commands, inbox) = mpsc::unbounded_channel();
        let receiver = Arc::new(Mutex::new(Receiver::default()));
        let entry = LinkEntry { receiver: Arc::clone(&receiver), node: None, commands };
        let (owner, address) = (Arc::clone(shared), upstream.to_owned());
        let name = format!("link {upstream}");
        if !shared.spawn_thread(&name, move || run::link(owner, address, receiver, inbox)) {
            tracing::error!(%upstream, "too many nodes are followed: the link does not start");
        }
        entry
    });
    // A link ends with the node only.
    let _ = link.commands.send(LinkCommand::Attach { slots, force });
}
