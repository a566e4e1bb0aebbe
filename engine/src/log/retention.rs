//! Which segments may go. Pure: values in, a decision out.
//!
//! A segment is needed while a slot in it has records that are in no file yet (recovery would miss them), or that a
//! registered replica has not acknowledged. A slot without records in a segment never holds it. Two budgets bound
//! what is held: over the first, the slots that hold the oldest segments are to be flushed; over the second, the
//! replicas' hold on the oldest segments is released, slot by slot.

use super::SegmentInfo;
use super::index::Span;
use crate::planted::{self, Bug};
use crate::types::{Lsn, NodeId, Seq, Slot};
use std::collections::{BTreeMap, BTreeSet};

/// What is still needed of the log. A slot that is in no list needs nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Needs {
    /// The slots that this node has.
    pub slots: BTreeMap<Slot, SlotNeed>,
    /// The replicas that are registered, and copies under way.
    pub replicas: Vec<ReplicaNeed>,
    /// How many bytes of log recovery may have to read.
    pub unflushed_bytes_max: u64,
    /// How many bytes of log are kept for replicas alone.
    pub replica_bytes_max: u64,
}

/// What recovery needs of a slot's records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotNeed {
    /// The last record that is in a file.
    pub flushed: Seq,
    /// Records in frames before this belong to an earlier life of the slot: nobody needs them.
    pub base: Lsn,
}

/// What a replica needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaNeed {
    /// Who it is.
    pub replica: NodeId,
    /// The slots it follows, and the last record that it has of each.
    pub acked: BTreeMap<Slot, Seq>,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Decision {
    /// Segments that lie wholly below may go.
    pub remove_below: Lsn,
    /// Over the replicas' budget: these replicas must take a copy of these slots. Forget their registration.
    pub release: Vec<(NodeId, Slot)>,
    /// Over the unflushed budget: flush these slots, those that hold the oldest segment first.
    pub flush: Vec<Slot>,
}

/// Decides what may go of `segments`, oldest first, the active one last.
#[must_use]
pub fn retain(segments: &[SegmentInfo], needs: &Needs) -> Decision {
    let Some(active) = segments.last() else { return Decision::default() };
    let unflushed_from = segments
        .iter()
        .find(|segment| unflushed(segment, needs).next().is_some())
        .map_or(active.end, |s| s.base);
    let mut decision = Decision { remove_below: unflushed_from.min(active.base), ..Decision::default() };

    if active.end.0 - unflushed_from.0 > needs.unflushed_bytes_max {
        let mut seen = BTreeSet::new();
        let too_old = segments.iter().take_while(|s| active.end.0 - s.base.0 > needs.unflushed_bytes_max);
        for slot in too_old.flat_map(|segment| unflushed(segment, needs)) {
            if seen.insert(slot) {
                decision.flush.push(slot);
            }
        }
    }

    let mut released = BTreeSet::new();
    for segment in segments.iter().take_while(|segment| segment.base < decision.remove_below) {
        let pins: Vec<_> = unacked(segment, needs).filter(|pin| !released.contains(pin)).collect();
        if pins.is_empty() {
            continue;
        }
        if unflushed_from.0 - segment.base.0 <= needs.replica_bytes_max {
            decision.remove_below = segment.base;
            break;
        }
        released.extend(pins);
    }
    decision.release = released.into_iter().collect();
    decision
}

/// The span of a slot in a segment, if this node has the slot and the records are of its present life.
fn living(segment: &SegmentInfo, needs: &Needs, slot: Slot) -> Option<(Span, SlotNeed)> {
    let (span, need) = (segment.index.get(slot)?, needs.slots.get(&slot)?);
    (segment.base.advance(u64::from(span.last_offset)) >= need.base).then_some((*span, *need))
}

/// The slots with records in the segment that are in no file.
fn unflushed(segment: &SegmentInfo, needs: &Needs) -> impl Iterator<Item = Slot> {
    segment.index.iter().filter_map(move |(slot, _)| {
        let (span, need) = living(segment, needs, slot)?;
        (span.last > need.flushed).then_some(slot)
    })
}

/// The replicas that have not all of the segment's records, and of which slots.
fn unacked(segment: &SegmentInfo, needs: &Needs) -> impl Iterator<Item = (NodeId, Slot)> {
    let replicas = if planted::is(Bug::PinsIgnored) { &[] } else { &needs.replicas[..] };
    replicas.iter().flat_map(move |need| {
        need.acked.iter().filter_map(move |(&slot, &acked)| {
            let (span, _) = living(segment, needs, slot)?;
            (span.last > acked).then_some((need.replica, slot))
        })
    })
}
