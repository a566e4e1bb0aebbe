//! What the manifest says, as a value: the fold of all edits. Pure.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::clock::TimeMs;
use crate::history::History;
use crate::sst::{FileNo, RunMeta};
use crate::types::{Epoch, Lsn, NodeId, Seq, Slot};

/// Epochs that copies replaced, per slot; more are forgotten, oldest first, by whoever adds one.
pub const SUPERSEDED_MAX: usize = 16;

/// Grants to this node whose fate is remembered, per slot; more are forgotten, oldest first, by whoever adds one.
pub const SETTLED_MAX: usize = 16;

/// What became of a grant to this node, for good: whoever made it may ask long after, and nothing that comes later
/// (the slot removed, handed on, copied from elsewhere) may change the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SettledGrant {
    /// The epoch that the grant ended.
    pub ended: Epoch,
    /// The epoch that this node began upon it, `None` if it refused and never will.
    pub began: Option<Epoch>,
}

/// What this node is to a slot, as far as a restart must know. (Fenced and granted follow from the log.)
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum SlotState {
    /// Not on this node.
    #[default]
    Absent,
    /// The owner.
    Master,
    /// Follows another node.
    Replica {
        /// `host:port` of that node.
        upstream: String,
    },
    /// Follows another node and waits for a copy.
    Loading {
        /// `host:port` of that node.
        upstream: String,
    },
    /// Handed over: keeps its data, refuses clients.
    Moved {
        /// `host:port` of the new owner.
        to: String,
    },
}

/// What the manifest remembers of a slot besides its runs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SlotMeta {
    /// What this node is to it.
    pub state: SlotState,
    /// The greatest term ever seen; kept when the slot is dropped.
    pub highest_term: u32,
    /// The epochs that led here.
    pub history: History,
    /// Epochs of histories that a copy replaced here, oldest first; at most [`SUPERSEDED_MAX`].
    pub superseded: Vec<Epoch>,
    /// A copy brought everything up to here.
    pub base_seq: Seq,
    /// Records of this slot at lower positions of this log belong to a former life.
    pub base_lsn: Lsn,
    /// Control records at lower positions of this log do not change the role any more.
    pub role_lsn: Lsn,
    /// Everything up to here is in the runs.
    pub flushed_seq: Seq,
    /// How many keys there were at `flushed_seq`.
    pub flushed_keys: u64,
    /// The slot's own time.
    pub time: TimeMs,
    /// To whom the slot's last record grants it, if it does: node and address.
    pub granted: Option<(NodeId, String)>,
    /// An operator said that the upstream's data may replace unrelated data here. Of replicas only.
    pub force: bool,
    /// What became of grants to this node, oldest first; at most [`SETTLED_MAX`], kept when the slot is dropped.
    pub settled: Vec<SettledGrant>,
}

/// A slot with its runs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SlotEntry {
    /// Everything but the runs.
    pub meta: SlotMeta,
    /// Its runs, newest first.
    ///
    /// Invariant: of this slot, and never overlapping in seqs.
    pub runs: Vec<RunMeta>,
    /// What is here of the copy that a loading slot waits for.
    ///
    /// Invariant: `None` of any other slot.
    pub incoming: Option<Incoming>,
}

/// A copy that was not whole when it was last looked at: what is durable of it, so that the rest is enough.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Incoming {
    /// The pack file that its runs go to.
    pub file: FileNo,
    /// The node that they come from.
    pub source: NodeId,
    /// The runs, in the order in which they lie in the file. All but the last are whole.
    pub parts: Vec<Part>,
}

/// A run of another node, as far as it is here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// Which run it is.
    pub of: PartId,
    /// Where it begins in this node's file.
    pub offset: u64,
    /// How many of its bytes are here.
    pub here: u64,
    /// CRC-32 of these.
    pub crc_here: u32,
}

/// A run where it lies on the node that it comes from: no other run of that node ever has the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartId {
    /// The number of its pack file there.
    pub file: FileNo,
    /// Where it begins in that file.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
    /// CRC-32 of them.
    pub crc: u32,
}

/// What the manifest remembers of the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeMeta {
    /// Who the node is.
    pub node: NodeId,
    /// How often it started.
    pub incarnation: u32,
    /// Where the log ended, synced, if the node stopped cleanly and has not started since.
    pub clean_end: Option<Lsn>,
    /// Nothing below is needed for recovery.
    pub log_start: Lsn,
    /// Greater than the number of every pack file that was ever referred to.
    pub next_file: FileNo,
}

/// A replica that this node must keep log for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Registration {
    /// Where it listens.
    pub address: String,
    /// For each slot that it follows: the last record that it has.
    pub acked: BTreeMap<Slot, Seq>,
}

/// All that the manifest says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    /// The node.
    pub node: NodeMeta,
    /// Every slot that it has or had.
    pub slots: BTreeMap<Slot, SlotEntry>,
    /// The replicas that it must keep log for.
    pub replicas: BTreeMap<NodeId, Registration>,
    /// Everything in the log before this was synced.
    pub log_synced: Lsn,
}

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Edit {
    /// The node's own data are now these. `next_file` never goes back.
    Node(NodeMeta),
    /// A slot's data, besides its runs, are now these.
    Slot(Slot, Box<SlotMeta>),
    /// A slot's runs: first those to remove go, by file and offset, then those to add come.
    Runs {
        /// The slot.
        slot: Slot,
        /// New runs, in any order.
        add: Vec<RunMeta>,
        /// Runs that go.
        remove: Vec<(FileNo, u64)>,
    },
    /// What is here of the copy that a loading slot waits for.
    Incoming(Slot, Option<Incoming>),
    /// A replica is there, and has acknowledged; slots that are not named stay as they are.
    Registration {
        /// Who it is.
        node: NodeId,
        /// Where it listens.
        address: String,
        /// The last record that it has of a slot; `None` if it no longer follows it.
        acked: Vec<(Slot, Option<Seq>)>,
    },
    /// No log is kept for this replica any more.
    ReplicaForgotten(NodeId),
    /// Everything in the log before this was synced. Never goes back.
    LogSynced(Lsn),
}

impl State {
    /// The state of a node that has nothing yet.
    #[must_use]
    pub fn new(node: NodeId) -> State {
        let node =
            NodeMeta { node, incarnation: 0, clean_end: None, log_start: Lsn::ZERO, next_file: FileNo(1) };
        State { node, slots: BTreeMap::new(), replicas: BTreeMap::new(), log_synced: Lsn::ZERO }
    }

    /// All runs of all slots.
    pub fn runs(&self) -> impl Iterator<Item = &RunMeta> {
        self.slots.values().flat_map(|entry| &entry.runs)
    }

    /// The pack files that it refers to, some more than once: those of runs and those of copies that are not whole.
    pub fn files(&self) -> impl Iterator<Item = FileNo> {
        let incoming = self.slots.values().filter_map(|entry| entry.incoming.as_ref());
        self.runs().map(|run| run.file).chain(incoming.map(|incoming| incoming.file))
    }

    /// Everything in the log before this was synced, by the manifest's word: what was when an edit was written, where it
    /// ended cleanly, and where slots' lives and roles began.
    #[must_use]
    pub fn log_promise(&self) -> Lsn {
        let slots = self.slots.values().flat_map(|entry| [entry.meta.base_lsn, entry.meta.role_lsn]);
        slots.chain(self.node.clean_end).chain([self.log_synced]).max().unwrap_or_default()
    }

    /// Takes an edit in. The error says why it can't follow this state, which is then of no more use.
    pub(crate) fn fold(&mut self, edit: Edit) -> Result<(), String> {
        match edit {
            Edit::Node(node) => {
                let next_file = node.next_file.max(self.node.next_file);
                self.node = NodeMeta { next_file, ..node };
            }
            Edit::Slot(slot, meta) => {
                if meta.superseded.len() > SUPERSEDED_MAX {
                    return Err(format!("slot {slot}: {} superseded epochs", meta.superseded.len()));
                }
                let entry = self.slots.entry(slot).or_default();
                if !matches!(meta.state, SlotState::Loading { .. }) {
                    entry.incoming = None;
                }
                entry.meta = *meta;
            }
            Edit::Incoming(slot, incoming) => {
                let entry = self.slots.entry(slot).or_default();
                if let Some(incoming) = &incoming {
                    if !matches!(entry.meta.state, SlotState::Loading { .. }) {
                        return Err(format!("slot {slot}: parts of a copy that it does not wait for"));
                    }
                    self.node.next_file = self.node.next_file.max(incoming.file.next());
                }
                entry.incoming = incoming;
            }
            Edit::Runs { slot, add, remove } => {
                let next_file = add.iter().map(|run| run.file.next()).max().unwrap_or_default();
                self.node.next_file = self.node.next_file.max(next_file);
                self.slots.entry(slot).or_default().change_runs(slot, add, &remove)?;
            }
            Edit::Registration { node, address, acked } => {
                let registration = self.replicas.entry(node).or_default();
                registration.address = address;
                for (slot, seq) in acked {
                    match seq {
                        Some(seq) => registration.acked.insert(slot, seq),
                        None => registration.acked.remove(&slot),
                    };
                }
            }
            Edit::ReplicaForgotten(node) => {
                self.replicas.remove(&node);
            }
            Edit::LogSynced(lsn) => self.log_synced = self.log_synced.max(lsn),
        }
        Ok(())
    }

    /// The part of the state that these edits touch.
    pub(super) fn touched_by(&self, edits: &[Edit]) -> State {
        let mut part = State { log_synced: self.log_synced, node: self.node, ..State::new(self.node.node) };
        for edit in edits {
            match edit {
                Edit::Node(_) | Edit::LogSynced(_) => {}
                Edit::Slot(slot, _) | Edit::Runs { slot, .. } | Edit::Incoming(slot, _) => {
                    if let (Some(entry), Entry::Vacant(place)) =
                        (self.slots.get(slot), part.slots.entry(*slot))
                    {
                        place.insert(entry.clone());
                    }
                }
                Edit::Registration { node, .. } | Edit::ReplicaForgotten(node) => {
                    part.replicas.extend(self.replicas.get(node).map(|replica| (*node, replica.clone())));
                }
            }
        }
        part
    }

    /// Puts back a part that [`State::touched_by`] gave, after edits.
    pub(super) fn replace(&mut self, part: State, edits: &[Edit]) {
        for edit in edits {
            if let Edit::ReplicaForgotten(node) = edit {
                self.replicas.remove(node);
            }
        }
        self.node = part.node;
        self.log_synced = part.log_synced;
        self.slots.extend(part.slots);
        self.replicas.extend(part.replicas);
    }

    /// Edits that make this state out of one that knows the node only.
    pub(super) fn as_edits(&self) -> impl Iterator<Item = Edit> {
        let slots = self.slots.iter().flat_map(|(&slot, entry)| {
            let runs = Edit::Runs { slot, add: entry.runs.clone(), remove: Vec::new() };
            let meta = Edit::Slot(slot, Box::new(entry.meta.clone()));
            let incoming = entry.incoming.clone().map(|incoming| Edit::Incoming(slot, Some(incoming)));
            [meta, runs].into_iter().chain(incoming)
        });
        let replicas = self.replicas.iter().map(|(&node, replica)| Edit::Registration {
            node,
            address: replica.address.clone(),
            acked: replica.acked.iter().map(|(&slot, &seq)| (slot, Some(seq))).collect(),
        });
        let first = [Edit::Node(self.node), Edit::LogSynced(self.log_synced)];
        first.into_iter().chain(slots).chain(replicas)
    }
}

impl SlotEntry {
    fn change_runs(&mut self, slot: Slot, add: Vec<RunMeta>, remove: &[(FileNo, u64)]) -> Result<(), String> {
        for place in remove {
            let at = self.runs.iter().position(|run| (run.file, run.offset) == *place);
            let Some(at) = at else {
                return Err(format!("slot {slot}: no run at byte {} of pack {}", place.1, place.0.0));
            };
            self.runs.remove(at);
        }
        self.runs.extend(add);
        self.runs.sort_by_key(|run| std::cmp::Reverse(run.props.max_seq));
        if let Some(run) = self.runs.iter().find(|run| run.props.slot != slot) {
            return Err(format!("slot {slot}: a run of slot {}", run.props.slot));
        }
        for pair in self.runs.windows(2) {
            let (newer, older) = (&pair[0].props, &pair[1].props);
            if newer.min_seq <= older.max_seq {
                let (from, to) = (newer.min_seq, older.max_seq);
                return Err(format!("slot {slot}: two runs hold the records from {from} to {to}"));
            }
        }
        Ok(())
    }
}
