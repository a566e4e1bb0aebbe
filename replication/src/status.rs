//! What is told about replication: to `pkcluster info slot`, `INFO`, and whoever typed `no one`.

use std::fmt;

use haypile_engine::clock::TimeMs;
use haypile_engine::pins::Pin;
use haypile_engine::types::{NodeId, Seq, Slot};

use crate::receiver::LinkState;

/// How far a copy is, as whoever sends or takes it counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyCount {
    /// Bytes that were sent or came, those that were there before included.
    pub done: u64,
    /// Bytes that it has.
    pub total: u64,
    /// Bytes that were there before it went on.
    pub kept: u64,
    /// When it began or went on, by the clock of the events.
    pub began_ms: u64,
}

impl CopyCount {
    /// How it looks now.
    #[must_use]
    pub fn at(self, now_ms: u64) -> CopyProgress {
        let CopyCount { done, total, kept, began_ms } = self;
        CopyProgress { done, total, kept, for_ms: now_ms.saturating_sub(began_ms) }
    }
}

/// How far a copy is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyProgress {
    /// Bytes that were sent or came, those that were there before included.
    pub done: u64,
    /// Bytes that it has.
    pub total: u64,
    /// Bytes that were there before it went on.
    pub kept: u64,
    /// For how long it has been under way.
    pub for_ms: u64,
}

impl CopyProgress {
    /// How much of it is done, of 100.
    #[must_use]
    pub fn percent(self) -> u64 {
        let percent = u128::from(self.done) * 100 / u128::from(self.total.max(1));
        u64::try_from(percent).unwrap_or(100).min(100)
    }

    /// Bytes a second since it began; 0 while nothing can be said.
    #[must_use]
    pub fn rate_bytes(self) -> u64 {
        let rate = u128::from(self.done.saturating_sub(self.kept)) * 1000 / u128::from(self.for_ms.max(1));
        u64::try_from(rate).unwrap_or(u64::MAX)
    }

    /// How many seconds the rest takes if it goes on like that.
    #[must_use]
    pub fn left_s(self) -> Option<u64> {
        let left = self.total.saturating_sub(self.done);
        if left == 0 { Some(0) } else { left.checked_div(self.rate_bytes()) }
    }
}

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
    /// The copy under way.
    pub copy: Option<CopyProgress>,
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
    /// The copy under way.
    pub copy: Option<CopyProgress>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copys_end_is_expected_from_what_came_since_it_went_on() {
        let count = CopyCount { done: 600, total: 1000, kept: 400, began_ms: 5_000 };
        let progress = count.at(7_000);
        assert_eq!((progress.percent(), progress.rate_bytes(), progress.left_s()), (60, 100, Some(4)));
        let still = count.at(5_000);
        assert_eq!((still.percent(), still.left_s()), (60, Some(0)), "200 bytes at once");
        let nothing = CopyCount { done: 400, ..count }.at(9_000);
        assert_eq!((nothing.rate_bytes(), nothing.left_s()), (0, None));
        let whole = CopyCount { done: 0, total: 0, kept: 0, began_ms: 0 }.at(1);
        assert_eq!((whole.percent(), whole.left_s()), (0, Some(0)));
    }
}
