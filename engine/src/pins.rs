//! What keeps the log for a slot: shown to operators. What it is decided by is [`crate::log::retention`].

use crate::clock::TimeMs;
use crate::engine::Engine;
use crate::log::SegmentInfo;
use crate::types::{Lsn, NodeId, Seq, Slot};

/// Who needs records of a slot that are in the log only for its sake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Pinner {
    /// Recovery: they are in no file yet.
    Recovery,
    /// A node that follows the slot, or did a while ago, or gets a copy of it.
    Replica {
        /// Who it is.
        node: NodeId,
        /// Where it says it listens.
        address: String,
        /// When it last said anything.
        seen: TimeMs,
    },
}

/// What somebody keeps of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pin {
    /// For whom.
    pub by: Pinner,
    /// The last record that is not needed.
    pub has: Seq,
    /// Where the oldest segment that is kept for it begins; `None` if nothing is.
    pub segment: Option<Lsn>,
    /// Bytes of log from there to its end.
    pub bytes: u64,
}

impl Engine {
    /// What keeps the log for each of these slots: recovery first, then each registered replica of it.
    pub fn pins(&self, slots: &[Slot]) -> Vec<Vec<Pin>> {
        let segments = self.log().segments();
        slots.iter().map(|&slot| self.pins_of(slot, &segments)).collect()
    }

    fn pins_of(&self, slot: Slot, segments: &[SegmentInfo]) -> Vec<Pin> {
        let (flushed, last) = {
            let cell = self.lock(slot);
            (cell.flushed_seq, cell.last_seq)
        };
        let mut needs = vec![(Pinner::Recovery, flushed)];
        for (node, replica) in self.registry().iter() {
            if let Some(&acked) = replica.acked.get(&slot) {
                let (address, seen) = (replica.address.clone(), replica.seen);
                needs.push((Pinner::Replica { node: *node, address, seen }, acked));
            }
        }
        let end = segments.last().map_or(Lsn(0), |active| active.end);
        let pin = |(by, has): (Pinner, Seq)| {
            let from = (has < last).then(|| self.locate(slot, has.next())).flatten();
            let segment = from.and_then(|from| holding(segments, from));
            Pin { by, has, segment, bytes: segment.map_or(0, |base| end.0.saturating_sub(base.0)) }
        };
        needs.into_iter().map(pin).collect()
    }

    /// Bytes of this node's log from a slot's record after `has` on: what has to be read to send all that comes after
    /// it; 0 if there is none, `None` if the log does not reach back to it.
    pub fn log_bytes_after(&self, slot: Slot, has: Seq) -> Option<u64> {
        let end = self.log_end();
        if has >= self.pulse(slot).last_seq {
            return Some(0);
        }
        self.locate(slot, has.next()).map(|from| end.0.saturating_sub(from.0))
    }
}

/// Where the segment begins in which a position lies.
fn holding(segments: &[SegmentInfo], at: Lsn) -> Option<Lsn> {
    segments.iter().rev().find(|segment| segment.base <= at).map(|segment| segment.base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_for_who_has_everything() {
        let segment = |base, end| SegmentInfo {
            base: Lsn(base),
            end: Lsn(end),
            sealed: true,
            index: std::sync::Arc::default(),
        };
        let segments = [segment(100, 200), segment(200, 300)];
        assert_eq!(holding(&segments, Lsn(199)), Some(Lsn(100)));
        assert_eq!(holding(&segments, Lsn(200)), Some(Lsn(200)));
        assert_eq!(holding(&segments, Lsn(99)), None);
    }
}
