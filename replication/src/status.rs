//! What is told about replication: to `pkcluster info slot`, `INFO`, and whoever typed `no one`.

use std::fmt;

use haypile_engine::clock::TimeMs;
use haypile_engine::pins::Pin;
use haypile_engine::types::{NodeId, Seq, Slot};

use crate::receiver::LinkState;

/// How a replica of a slot looks from its master.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplicaState {
    /// It asked and could not be served yet.
    NotSync,
    /// It gets a copy.
    DbSync,
    /// It gets records.
    BinlogSync,
}

impl ReplicaState {
    /// As `pkcluster info slot` says it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            ReplicaState::NotSync => "SlaveNotSync",
            ReplicaState::DbSync => "SlaveDbSync",
            ReplicaState::BinlogSync => "SlaveBinlogSync",
        }
    }
}

/// A replica of a slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaStatus {
    /// Where it listens.
    pub address: String,
    /// Who it is.
    pub node: NodeId,
    /// How far it is.
    pub state: ReplicaState,
    /// The last record that is applied and in the log there.
    pub acked: Seq,
    /// Records that it lacks: 0 means that all are applied there.
    pub lag_records: u64,
    /// Bytes of this node's log from the first of them on; `None` if the log does not reach back so far.
    pub lag_bytes: Option<u64>,
    /// How old what it lacks is at most, to about a second.
    pub lag_ms: u64,
    /// How long ago it said something.
    pub heard_ms: u64,
    /// Since when it is connected.
    pub since: TimeMs,
    /// Bytes of the copy under way that were sent, and that it has.
    pub copy: Option<(u64, u64)>,
}

/// A node that followed a slot here and is not connected: the log is kept for it still.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AwayStatus {
    /// Where it listened.
    pub address: String,
    /// The last record that it acknowledged.
    pub acked: Seq,
    /// How long ago it said something.
    pub seen_ms: u64,
    /// Why its last connection ended, and how long ago, if it had one since this node started.
    pub ended: Option<(String, u64)>,
}

/// The node that a slot follows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UpstreamStatus {
    /// Its `host:port`.
    pub address: String,
    /// Where the link stands.
    pub state: LinkState,
    /// The last failure, while it matters.
    pub last_error: Option<String>,
    /// For how long it has stood there.
    pub for_ms: u64,
    /// How long ago it said something, if it ever did.
    pub heard_ms: Option<u64>,
    /// Records that the master has and this node does not, as last heard.
    pub lag_records: u64,
    /// Bytes of the copy under way that came, and that it has.
    pub copy: Option<(u64, u64)>,
}

/// Replication of one slot, as seen from this node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SlotStatus {
    /// Who follows it here, by address.
    pub replicas: Vec<ReplicaStatus>,
    /// Whom it follows.
    pub upstream: Option<UpstreamStatus>,
}

/// For whom the log of a slot is kept.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SlotKept {
    /// For whom, and how much of it.
    pub pins: Vec<Pin>,
    /// Who of them is not connected.
    pub away: Vec<AwayStatus>,
}

/// A node that follows slots of this one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// Where it listens.
    pub address: String,
    /// Who it is.
    pub node: NodeId,
    /// Slots that it gets records of.
    pub slots: usize,
    /// Slots that wait for a copy or get one.
    pub copying: usize,
    /// The greatest lag of them, in records.
    pub lag_records: u64,
    /// Bytes sent since it connected.
    pub sent_bytes: u64,
    /// Bytes sent and not acknowledged.
    pub in_flight_bytes: u64,
    /// How long ago it said something.
    pub heard_ms: u64,
    /// Since when it is connected.
    pub since: TimeMs,
}

/// A node that slots of this one follow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkSummary {
    /// Its `host:port`.
    pub address: String,
    /// Who answered there last.
    pub node: Option<NodeId>,
    /// Whether the connection stands.
    pub connected: bool,
    /// Slots that follow it.
    pub slots: usize,
    /// Those of them that get records.
    pub streaming: usize,
    /// The last failure of any of them, while it matters.
    pub last_error: Option<String>,
    /// For how long the slot that has been down longest has been, 0 if none is.
    pub down_ms: u64,
    /// Bytes of records and copies that came on this connection.
    pub received_bytes: u64,
}

/// A slot that was handed over, or could be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handed {
    /// The slot.
    pub slot: Slot,
    /// Records that the new owner lacked when it was looked whether it is ready.
    pub lag_records: u64,
    /// For how long writes were held back.
    pub held_ms: u32,
}

/// What `no one` did to a slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    /// The slot.
    pub slot: Slot,
    /// What was done.
    pub done: Done,
}

/// See [`Note`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Done {
    /// It was this node's already.
    WasMaster,
    /// Its former master handed it over.
    HandedOver {
        /// Where that node listens.
        from: String,
        /// For how long writes were held back there.
        held_ms: u32,
    },
    /// It was promoted without its former master, whose last records may be missing.
    PromotedAlone {
        /// Why that node was not asked.
        why: String,
    },
    /// It belongs to another node: it does not follow any more, and is not written here.
    Detached,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slot = self.slot;
        match &self.done {
            Done::WasMaster => write!(f, "slot {slot} was this node's already"),
            Done::HandedOver { from, held_ms } => {
                write!(f, "slot {slot} was handed over by {from}; it held writes for {held_ms} ms")
            }
            Done::PromotedAlone { why } => write!(
                f,
                "slot {slot} was promoted without its former master ({why}): records that only that node had are lost to it"
            ),
            Done::Detached => write!(f, "slot {slot} belongs to another node and is detached"),
        }
    }
}
