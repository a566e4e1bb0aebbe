//! What a slot is at run time: its role, its position and its entries, under one lock.

use crate::clock::TimeMs;
use crate::history::History;
use crate::log::Ticket;
use crate::manifest::{SETTLED_MAX, SettledGrant, SlotMeta, SlotState};
use crate::memtable::Memtable;
use crate::planted::{self, Bug};
use crate::sync::Arc;
use crate::types::{Epoch, Lsn, NodeId, Seq};
use crate::version::Version;
use crate::watch::Watched;

/// Whom a slot of a checkpoint follows, until an operator says: there is no such place.
pub const NOBODY: &str = "nobody:0";

/// What this node is to a slot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Role {
    /// Not on this node.
    #[default]
    Absent,
    /// The owner: takes writes.
    Master,
    /// The owner, holding writes back while a handover is tried. Not persisted: a restart ends it.
    Fenced,
    /// The owner before an unclean stop, whose next epoch has not begun: its replicas are asked first for what it lost.
    /// Not persisted: see `owed.rs`.
    Owed,
    /// The owner until a moment ago: its last record gives the slot to another node, which has not answered yet.
    Granted {
        /// Who may begin the next epoch.
        to: NodeId,
        /// Where that node listens.
        address: String,
    },
    /// Handed over: keeps its data, refuses clients.
    Moved {
        /// Where the new owner listens.
        to: String,
    },
    /// Follows another node.
    Replica {
        /// `host:port` of that node.
        upstream: String,
    },
    /// Follows another node and is waiting for a copy: has no complete data.
    Loading {
        /// `host:port` of that node.
        upstream: String,
    },
}

/// Everything of a slot that its lock protects.
#[derive(Debug, Default)]
pub struct SlotCell {
    /// What this node is to the slot.
    pub role: Role,
    /// The epochs that led here.
    pub history: History,
    /// Epochs of histories that a copy replaced here: a downstream replica in one of them is no stranger.
    pub superseded: Vec<Epoch>,
    /// The greatest term ever seen for the slot, kept after it is dropped.
    pub highest_term: u32,
    /// The last record in the log, [`Seq::ZERO`] if there was none.
    pub last_seq: Seq,
    /// The group commit that the last record is in: what a read's reply waits for.
    pub last_ticket: Ticket,
    /// Everything up to here is in files.
    pub flushed_seq: Seq,
    /// Records of this slot at lower positions of this log belong to a former life.
    pub base_lsn: Lsn,
    /// Control records at lower positions of this log do not change the role any more.
    pub role_lsn: Lsn,
    /// A copy brought everything up to here.
    pub base_seq: Seq,
    /// To whom the last record grants the slot, if it does.
    pub granted: Option<(NodeId, String)>,
    /// An operator said that unrelated data here may be replaced by the upstream's; so it stays until the upstream's
    /// first records or its copy come.
    pub force: bool,
    /// What became of grants to this node, oldest first.
    pub settled: Vec<SettledGrant>,
    /// The slot's own time: never goes back.
    pub time: TimeMs,
    /// How much of it the log or the manifest has: a start takes it up there at least.
    ///
    /// Invariant: no reply leaves that hides what expires later than this.
    pub kept_time: TimeMs,
    /// How many keys it had at `flushed_seq`.
    pub flushed_keys: u64,
    /// To whom the record `flushed_seq` grants the slot, if it does.
    pub flushed_granted: Option<(NodeId, String)>,
    /// How many keys it has, expired ones that were not reclaimed included.
    pub keys: u64,
    /// No key that is not known to have expired does so before; `None` if none ever does. See `expire.rs`.
    pub next_expiry: Option<TimeMs>,
    /// Newest entries.
    pub memtable: Memtable,
    /// Frozen on their way to a file, newest first, each with the last record it holds.
    pub frozen: Vec<Arc<Frozen>>,
    /// The runs in files.
    pub version: Arc<Version>,
    /// Which life of the slot this is, since the start of the process: work that was begun for a former life
    /// (a flush, a compaction, a copy) is not installed into the next.
    pub life: u64,
    /// The slot is about to begin another life, from a position of the log that is already decided: no record may
    /// be appended to this one any more.
    pub ending: bool,
    /// A clear was applied while a copy was coming: what the copy brings is gone already.
    pub cleared_while_loading: bool,
    /// Who wants to know that keys change, if anybody does.
    pub(crate) watched: Option<Box<Watched>>,
}

impl SlotCell {
    /// The slot as the manifest has it; the log's records come on top.
    #[must_use]
    pub fn from_meta(meta: &SlotMeta) -> SlotCell {
        SlotCell {
            role: Role::from_state(&meta.state),
            history: meta.history.clone(),
            superseded: meta.superseded.clone(),
            highest_term: meta.highest_term,
            last_seq: meta.flushed_seq,
            flushed_seq: meta.flushed_seq,
            base_lsn: meta.base_lsn,
            role_lsn: meta.role_lsn,
            base_seq: meta.base_seq,
            granted: meta.granted.clone(),
            force: meta.force,
            settled: meta.settled.clone(),
            time: meta.time,
            kept_time: meta.time,
            keys: meta.flushed_keys,
            flushed_keys: meta.flushed_keys,
            flushed_granted: meta.granted.clone(),
            ..SlotCell::default()
        }
    }

    /// What the manifest has to know of the slot as it is now. The runs are edits of their own.
    ///
    /// All that records decide is as of `flushed_seq`: the log brings what came after, once more or, where it was
    /// lost with the power, not at all.
    #[must_use]
    pub fn meta(&self) -> SlotMeta {
        SlotMeta {
            state: self.role.to_state(),
            highest_term: self.highest_term,
            history: self.history.up_to(self.flushed_seq),
            superseded: self.superseded.clone(),
            base_seq: self.base_seq,
            base_lsn: self.base_lsn,
            role_lsn: self.role_lsn,
            flushed_seq: self.flushed_seq,
            flushed_keys: self.flushed_keys,
            time: self.time,
            granted: self.flushed_granted.clone(),
            force: self.force && matches!(self.role, Role::Replica { .. }),
            settled: self.settled.clone(),
        }
    }

    /// Remembers what became of a grant to this node.
    pub(crate) fn settle(&mut self, ended: Epoch, began: Option<Epoch>) {
        if self.settled.iter().all(|settled| settled.ended != ended) && !planted::is(Bug::GrantTakenTwice) {
            self.settled.push(SettledGrant { ended, began });
            let surplus = self.settled.len().saturating_sub(SETTLED_MAX);
            self.settled.drain(..surplus);
        }
    }

    /// The log has that the slot's time is this at least.
    pub(crate) fn keep_time(&mut self, time: TimeMs) {
        self.time = self.time.max(time);
        self.kept_time = self.kept_time.max(time);
    }

    /// What became of the grant that ended an epoch, if anything did.
    pub(crate) fn settled(&self, ended: Epoch) -> Option<SettledGrant> {
        self.settled.iter().copied().find(|settled| settled.ended == ended)
    }

    /// Bytes of memory that its memtables take.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.memtable.bytes() + self.frozen.iter().map(|frozen| frozen.table.bytes()).sum::<usize>()
    }
}

impl Role {
    /// Whether the slot is this node's and no other's, be it that it takes no writes for the moment.
    #[must_use]
    pub fn owns(&self) -> bool {
        matches!(self, Role::Master | Role::Fenced | Role::Owed)
    }

    /// The role that a persisted state stands for.
    #[must_use]
    pub fn from_state(state: &SlotState) -> Role {
        match state.clone() {
            SlotState::Absent => Role::Absent,
            SlotState::Master => Role::Master,
            SlotState::Replica { upstream } => Role::Replica { upstream },
            SlotState::Loading { upstream } => Role::Loading { upstream },
            SlotState::Moved { to } => Role::Moved { to },
        }
    }

    /// The state to persist. A fence ends with the process; a grant is found in the log.
    #[must_use]
    pub fn to_state(&self) -> SlotState {
        match self.clone() {
            Role::Absent => SlotState::Absent,
            Role::Master | Role::Fenced | Role::Owed | Role::Granted { .. } => SlotState::Master,
            Role::Replica { upstream } => SlotState::Replica { upstream },
            Role::Loading { upstream } => SlotState::Loading { upstream },
            Role::Moved { to } => SlotState::Moved { to },
        }
    }
}

/// A memtable on its way to a file.
#[derive(Debug)]
pub struct Frozen {
    /// Its entries.
    pub table: Memtable,
    /// Its last record.
    pub last_seq: Seq,
    /// How many keys the slot had then.
    pub keys: u64,
    /// To whom that record grants the slot, if it does.
    pub granted: Option<(NodeId, String)>,
}

/// The earlier of two moments that may never come.
pub(crate) fn earliest(a: Option<TimeMs>, b: Option<TimeMs>) -> Option<TimeMs> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
