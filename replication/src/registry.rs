//! Who this node follows and who follows it, right now: the one place where connections find each other.
//!
//! Locks here are held for looking things up only. Lock order: registry, then a shipper or receiver.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use haypile_engine::clock::TimeMs;
use haypile_engine::types::{NodeId, Seq, Slot};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use crate::acks::{Acks, Follower};
use crate::copies::Copies;
use crate::receiver::Receiver;
use crate::shipper::Shipper;
use crate::status::Note;
use crate::told::Told;

/// A node that asked to follow a slot, and where it listens.
pub type Comer = (NodeId, String, Slot);

/// Where the answer to a handover goes.
pub type AnswerTo = UnboundedSender<Answered>;

/// What came of a handover on the old owner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answered {
    /// For how long writes were held back.
    pub held_ms: u32,
    /// For each slot the granting record, or why nothing changed.
    pub slots: Vec<(Slot, Result<Seq, String>)>,
}

/// What came of a handover that a link asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AskedOutcome {
    /// What was done, slot by slot.
    pub done: Vec<Note>,
    /// Why nothing changed for others.
    pub failures: Vec<String>,
    /// Why it is not known what became of the slots that are in neither: the master is gone.
    pub lost: Option<String>,
}

/// Something that a peer's connection has to know. As many as an operator's steps and copies of slots make.
#[derive(Clone, Debug)]
pub enum PeerCommand {
    /// The slot's content here is being replaced.
    Replaced(Slot),
    /// The slot can be followed again.
    Ready(Slot),
    /// The slot is gone here.
    Dropped(Slot),
    /// The peer is to become the owner of slots that it follows.
    Handover {
        /// Which.
        slots: Vec<Slot>,
        /// For how long it may be tried.
        patience_ms: u32,
        /// Told what came of it: for each slot the granting record, or why nothing changed.
        done: AnswerTo,
    },
    /// The connection is to end.
    Stop(&'static str),
}

/// Something that a link has to do.
#[derive(Debug)]
pub enum LinkCommand {
    /// Follow these slots over this link.
    Attach {
        /// Which.
        slots: Vec<Slot>,
        /// Whether unrelated data here may be replaced.
        force: bool,
    },
    /// Stop following them; then nothing of the link touches them any more.
    Detach {
        /// Which.
        slots: Vec<Slot>,
        /// Told when it is so.
        done: oneshot::Sender<()>,
    },
    /// Ask the master to hand these slots over.
    Handover {
        /// Which.
        slots: Vec<Slot>,
        /// For how long the master may try.
        patience_ms: u32,
        /// Told what came of it.
        done: oneshot::Sender<AskedOutcome>,
    },
    /// The connection is to end, for good.
    Stop,
}

/// A node that follows this one.
#[derive(Clone, Debug)]
pub struct PeerEntry {
    /// Tells this connection from an older or newer one of the same node.
    pub number: u64,
    /// Where the node listens.
    pub address: String,
    /// What it gets.
    pub shipper: Arc<Mutex<Shipper>>,
    /// When it was heard, and what its acknowledgements count under.
    pub follower: Arc<Follower>,
    /// Since when it is connected.
    pub since: TimeMs,
    /// To its connection.
    pub commands: UnboundedSender<PeerCommand>,
}

/// A node that this one follows.
#[derive(Clone, Debug)]
pub struct LinkEntry {
    /// Which slots, and how far.
    pub receiver: Arc<Mutex<Receiver>>,
    /// Who answered there last.
    pub node: Option<NodeId>,
    /// To the link.
    pub commands: UnboundedSender<LinkCommand>,
}

/// How the last connection of a node ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// Why, in words.
    pub why: String,
    /// When, in milliseconds of the monotonic clock.
    pub at_ms: u64,
    /// What the log was told of it.
    told: Told,
}

/// Nodes of which it is remembered why they went.
const ENDED_MAX: usize = 256;

#[derive(Debug, Default)]
struct Inner {
    peers: BTreeMap<NodeId, PeerEntry>,
    links: BTreeMap<String, LinkEntry>,
    /// At most [`ENDED_MAX`].
    ended: BTreeMap<NodeId, Ended>,
    connections: u64,
    /// To whoever asks replicas for what was lost here.
    comers: Option<UnboundedSender<Comer>>,
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Registry {
    inner: Mutex<Inner>,
    acks: Arc<Acks>,
    copies: Copies,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics under this lock")
    }

    /// What the nodes that follow this one have acknowledged.
    #[must_use]
    pub fn acks(&self) -> &Arc<Acks> {
        &self.acks
    }

    /// The copies that this node gives.
    pub fn copies(&self) -> &Copies {
        &self.copies
    }

    /// A number that no other connection has.
    pub fn next_number(&self) -> u64 {
        let mut inner = self.lock();
        inner.connections += 1;
        inner.connections
    }

    /// Notes a peer. An older connection of the same node is told to end.
    pub fn add_peer(&self, node: NodeId, entry: PeerEntry) {
        if let Some(older) = self.lock().peers.insert(node, entry) {
            // It may have ended already; then there is nobody to tell.
            let _ = older.commands.send(PeerCommand::Stop("the node connected again"));
        }
    }

    /// Forgets a peer, unless a newer connection of the same node took its place.
    pub fn remove_peer(&self, node: NodeId, number: u64) {
        let mut inner = self.lock();
        if inner.peers.get(&node).is_some_and(|entry| entry.number == number) {
            inner.peers.remove(&node);
        }
    }

    /// Remembers why a node's connection ended. If that is news for the log: how often it was left out before.
    pub fn note_ended(&self, node: NodeId, why: &str, at_ms: u64) -> Option<u64> {
        let mut inner = self.lock();
        if inner.ended.len() >= ENDED_MAX && !inner.ended.contains_key(&node) {
            let oldest = inner.ended.iter().min_by_key(|(_, ended)| ended.at_ms).map(|(node, _)| *node);
            oldest.and_then(|oldest| inner.ended.remove(&oldest));
        }
        let before = inner.ended.remove(&node);
        let mut told = before.map(|ended| ended.told).unwrap_or_default();
        let news = told.down(why, at_ms);
        inner.ended.insert(node, Ended { why: why.to_owned(), at_ms, told });
        news
    }

    /// A node connected. Says whether that is news for the log.
    pub fn note_connected(&self, node: NodeId) -> bool {
        self.lock().ended.get_mut(&node).is_none_or(|ended| ended.told.up())
    }

    /// How a node's last connection ended, if one did.
    pub fn ended(&self, node: NodeId) -> Option<Ended> {
        self.lock().ended.get(&node).cloned()
    }

    /// All peers.
    pub fn peers(&self) -> Vec<(NodeId, PeerEntry)> {
        self.lock().peers.iter().map(|(node, entry)| (*node, entry.clone())).collect()
    }

    /// Tells all peers something.
    pub fn tell_peers(&self, command: &PeerCommand) {
        if let PeerCommand::Dropped(slot) = command {
            self.acks.forget(*slot);
        }
        for entry in self.lock().peers.values() {
            // A connection that has ended meanwhile needs to know nothing.
            let _ = entry.commands.send(command.clone());
        }
    }

    /// From now on nodes are told of that ask to follow slots whose next epochs are owed.
    pub fn comers(&self) -> UnboundedReceiver<Comer> {
        let (sender, comers) = unbounded_channel();
        self.lock().comers = Some(sender);
        comers
    }

    /// A node asks to follow a slot whose next epoch is owed: it may have what was lost here.
    pub fn note_comer(&self, node: NodeId, address: &str, slot: Slot) {
        if let Some(comers) = &self.lock().comers {
            // Whoever asked replicas may be done.
            let _ = comers.send((node, address.to_owned(), slot));
        }
    }

    /// The link to an upstream.
    pub fn link(&self, upstream: &str) -> Option<LinkEntry> {
        self.lock().links.get(upstream).cloned()
    }

    /// All links.
    pub fn links(&self) -> Vec<(String, LinkEntry)> {
        self.lock().links.iter().map(|(upstream, entry)| (upstream.clone(), entry.clone())).collect()
    }

    /// The link to an upstream, made by `make` if there is none.
    pub fn link_or(&self, upstream: &str, make: impl FnOnce() -> LinkEntry) -> LinkEntry {
        self.lock().links.entry(upstream.to_owned()).or_insert_with(make).clone()
    }

    /// Notes who answers at an upstream.
    pub fn note_link_node(&self, upstream: &str, node: NodeId) {
        if let Some(entry) = self.lock().links.get_mut(upstream) {
            entry.node = Some(node);
        }
    }

    /// The link that a slot is attached to.
    pub fn link_of(&self, slot: Slot) -> Option<(String, LinkEntry)> {
        let holds = |entry: &LinkEntry| {
            let receiver = entry.receiver.lock().expect("no code panics under this lock");
            receiver.status(slot).is_some()
        };
        self.lock().links.iter().find(|(_, entry)| holds(entry)).map(|(u, entry)| (u.clone(), entry.clone()))
    }

    /// Whether the upstream at this address is the node.
    pub fn is_upstream(&self, upstream: &str, node: NodeId, address: &str) -> bool {
        let known = self.lock().links.get(upstream).and_then(|entry| entry.node);
        upstream == address || known == Some(node)
    }
}
