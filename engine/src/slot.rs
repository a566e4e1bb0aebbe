//! What a slot is at run time: its role, its position and its entries, under one lock.

use std::sync::Arc;

use crate::clock::TimeMs;
use crate::history::History;
use crate::memtable::Memtable;
use crate::placeholder::Ticket;
use crate::types::{Epoch, Lsn, NodeId, Seq};

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
    /// The slot's own time: never goes back.
    pub time: TimeMs,
    /// How many keys it has, expired ones that were not reclaimed included.
    pub keys: u64,
    /// Newest entries.
    pub memtable: Memtable,
    /// Frozen on their way to a file, newest first, each with the last record it holds.
    pub frozen: Vec<Arc<Frozen>>,
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
}
