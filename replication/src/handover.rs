//! The old owner's side of a handover: prepare, fence, wait until the new owner has all, grant, wait for its answer. A
//! state machine, one for each request.
//!
//! It promises: nothing is granted before the new owner acknowledged every record of the fenced slot; until the
//! grant, every way out lifts the fence and nothing has changed; after it, none does.
//!
//! Writes are held only for the last records: as long as the new owner is farther behind than
//! [`FENCE_LAG_RECORDS`], nothing is fenced. And before that both nodes sync what they have, so that what they sync while
//! writes are held is little.

use std::collections::BTreeMap;

use haypile_engine::types::{Seq, Slot};

/// Slots are fenced once the new owner lacks no more than this many records of each.
pub const FENCE_LAG_RECORDS: u64 = 2000;

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// How far a slot and the new owner are, `None` if the new owner does not follow it completely.
    Progress {
        /// The slot.
        slot: Slot,
        /// This node's last record.
        last: Seq,
        /// The last that the new owner acknowledged.
        acked: Option<Seq>,
    },
    /// [`Action::Prepare`] was done, or has taken long enough.
    Prepared,
    /// [`Action::Fence`] was done; these are the slots' last records, for as long as the fence stands.
    Fenced(Vec<(Slot, Seq)>),
    /// [`Action::Fence`] failed; nothing is fenced.
    FenceFailed(String),
    /// A part of [`Action::Grant`] was done, or failed with nothing changed.
    Granted(Slot, Result<Seq, String>),
    /// The time is up.
    Deadline,
    /// The new owner's connection is gone.
    PeerLost,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Have both nodes sync what they have; then [`Event::Prepared`].
    Prepare,
    /// Hold writes of these slots back; then [`Event::Fenced`] or [`Event::FenceFailed`].
    Fence(Vec<Slot>),
    /// Let writes of these slots go on.
    Unfence(Vec<Slot>),
    /// Grant these slots to the new owner, durably; then [`Event::Granted`] for each.
    Grant(Vec<Slot>),
    /// Answer the new owner: for each slot the granting record, or why nothing changed.
    Answer(Vec<(Slot, Result<Seq, String>)>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The new owner comes near; nothing is held back.
    Nearing,
    /// It is near, and both nodes sync; nothing is held back.
    Preparing,
    /// The fence was asked for.
    Fencing,
    /// Writes are held back; the new owner gets the last records.
    Draining,
    /// The grant is being made durable.
    Granting,
    /// Answered: nothing is left to do here.
    Over,
}

#[derive(Clone, Debug, Default)]
struct Part {
    last: Seq,
    acked: Option<Seq>,
    outcome: Option<Result<Seq, String>>,
}

/// See the file's head.
#[derive(Clone, Debug)]
pub struct Handover {
    phase: Phase,
    parts: BTreeMap<Slot, Part>,
}

impl Handover {
    /// A handover of these slots to the node that asks for them.
    #[must_use]
    pub fn new(slots: &[Slot]) -> Handover {
        let parts = slots.iter().map(|&slot| (slot, Part { last: Seq::MAX, ..Part::default() })).collect();
        Handover { phase: Phase::Nearing, parts }
    }

    /// The slots.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        self.parts.keys().copied()
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Whether writes are held back.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        matches!(self.phase, Phase::Draining | Phase::Granting)
    }

    /// What happened, and what is to be done.
    pub fn on(&mut self, event: Event) -> Vec<Action> {
        match (self.phase, event) {
            (Phase::Nearing | Phase::Preparing | Phase::Draining, Event::Progress { slot, last, acked }) => {
                if let Some(part) = self.parts.get_mut(&slot) {
                    part.acked = acked;
                    if self.phase != Phase::Draining {
                        part.last = last;
                    }
                }
                self.advance()
            }
            // The new owner may have fallen behind, or away, while it was waited for.
            (Phase::Preparing, Event::Prepared) if self.lag() > FENCE_LAG_RECORDS => {
                self.phase = Phase::Nearing;
                Vec::new()
            }
            (Phase::Preparing, Event::Prepared) => {
                self.phase = Phase::Fencing;
                vec![Action::Fence(self.slots().collect())]
            }
            (Phase::Fencing, Event::Fenced(lasts)) => {
                self.phase = Phase::Draining;
                for (slot, last) in lasts {
                    if let Some(part) = self.parts.get_mut(&slot) {
                        part.last = last;
                    }
                }
                self.advance()
            }
            (Phase::Fencing, Event::FenceFailed(why)) => self.give_up(&why, Vec::new()),
            (Phase::Granting, Event::Granted(slot, outcome)) => self.granted(slot, outcome),
            (Phase::Nearing | Phase::Preparing, Event::Deadline | Event::PeerLost) => {
                let why = self.unfinished();
                self.give_up(&why, Vec::new())
            }
            (Phase::Draining, Event::Deadline | Event::PeerLost) => {
                let why = self.unfinished();
                let unfence = Action::Unfence(self.slots().collect());
                self.give_up(&why, vec![unfence])
            }
            // The driver does fence and grant within one call, so that no other event comes in between; and what
            // is granted stays granted. An event for a phase that is past says nothing new.
            (
                Phase::Fencing | Phase::Granting | Phase::Over,
                Event::Progress { .. } | Event::Deadline | Event::PeerLost,
            )
            | (_, Event::Prepared | Event::Fenced(_) | Event::FenceFailed(_) | Event::Granted(..)) => {
                Vec::new()
            }
        }
    }

    fn lag(&self) -> u64 {
        self.parts.values().map(Part::lag).max().unwrap_or(0)
    }

    fn advance(&mut self) -> Vec<Action> {
        let lag = self.lag();
        match self.phase {
            Phase::Nearing if lag <= FENCE_LAG_RECORDS => {
                self.phase = Phase::Preparing;
                vec![Action::Prepare]
            }
            Phase::Draining if lag == 0 => {
                self.phase = Phase::Granting;
                vec![Action::Grant(self.slots().collect())]
            }
            _ => Vec::new(),
        }
    }

    fn granted(&mut self, slot: Slot, outcome: Result<Seq, String>) -> Vec<Action> {
        let mut out = Vec::new();
        let Some(part) = self.parts.get_mut(&slot) else { return out };
        if outcome.is_err() {
            out.push(Action::Unfence(vec![slot]));
        }
        part.outcome = Some(outcome);
        if self.parts.values().all(|part| part.outcome.is_some()) {
            self.phase = Phase::Over;
            let slots = self.parts.iter().filter_map(|(slot, part)| Some((*slot, part.outcome.clone()?)));
            out.push(Action::Answer(slots.collect()));
        }
        out
    }

    fn give_up(&mut self, why: &str, mut actions: Vec<Action>) -> Vec<Action> {
        self.phase = Phase::Over;
        let slots = self.slots().map(|slot| (slot, Err(why.to_owned()))).collect();
        actions.push(Action::Answer(slots));
        actions
    }

    fn unfinished(&self) -> String {
        let Some((slot, part)) = self.parts.iter().max_by_key(|(_, part)| part.lag()) else {
            return "no slot to hand over".to_owned();
        };
        match part.acked {
            None => format!("handover did not finish: slot {slot} is not in sync; nothing changed"),
            Some(_) => format!("handover did not finish: slot {slot} lag {}; nothing changed", part.lag()),
        }
    }
}

impl Part {
    fn lag(&self) -> u64 {
        self.acked.map_or(u64::MAX, |acked| self.last.0.saturating_sub(acked.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(number: u16) -> Slot {
        Slot::new(number).expect("in range")
    }

    fn progress(number: u16, last: u64, acked: Option<u64>) -> Event {
        Event::Progress { slot: slot(number), last: Seq(last), acked: acked.map(Seq) }
    }

    fn failed(actions: &[Action], part: &str) -> bool {
        actions.iter().any(|action| match action {
            Action::Answer(slots) => {
                slots.iter().all(|(_, outcome)| outcome.as_ref().is_err_and(|why| why.contains(part)))
            }
            _ => false,
        })
    }

    #[test]
    fn a_slot_is_fenced_when_near_granted_when_drained_and_then_answered() {
        let mut handover = Handover::new(&[slot(1), slot(2)]);
        assert_eq!(handover.on(progress(1, 10_000, Some(7_000))), []);
        assert_eq!(handover.on(progress(2, 5, Some(5))), [], "the other one is still far");
        let both = vec![slot(1), slot(2)];
        assert_eq!(handover.on(progress(1, 10_000, Some(9_000))), [Action::Prepare]);
        assert_eq!(handover.on(progress(1, 10_000, Some(9_500))), [], "once is enough");
        assert_eq!(handover.on(Event::Prepared), [Action::Fence(both.clone())]);
        assert_eq!(handover.on(Event::Prepared), [], "late");
        assert_eq!(handover.on(Event::Fenced(vec![(slot(1), Seq(10_001)), (slot(2), Seq(5))])), []);
        assert!(handover.is_fenced());
        assert_eq!(handover.on(progress(1, 10_001, Some(10_000))), [], "one record is missing");
        assert_eq!(handover.on(progress(1, 10_001, Some(10_001))), [Action::Grant(both)]);
        assert_eq!(handover.on(Event::Granted(slot(1), Ok(Seq(10_002)))), []);
        assert_eq!(handover.on(Event::Deadline), [], "what is granted stays granted");
        let answer = vec![(slot(1), Ok(Seq(10_002))), (slot(2), Err("disk".to_owned()))];
        let expected = [Action::Unfence(vec![slot(2)]), Action::Answer(answer)];
        assert_eq!(handover.on(Event::Granted(slot(2), Err("disk".to_owned()))), expected);
        assert!(handover.is_over());
    }

    #[test]
    fn a_deadline_or_a_lost_peer_before_the_grant_changes_nothing() {
        for end in [Event::Deadline, Event::PeerLost] {
            let mut far = Handover::new(&[slot(1)]);
            far.on(progress(1, 90_000, Some(10)));
            let actions = far.on(end.clone());
            assert!(failed(&actions, "lag 89990; nothing changed"), "{actions:?}");
            assert_eq!(actions.len(), 1, "nothing was fenced");

            let mut preparing = Handover::new(&[slot(1)]);
            preparing.on(progress(1, 12, Some(10)));
            let actions = preparing.on(end.clone());
            assert!(failed(&actions, "lag 2; nothing changed"), "{actions:?}");
            assert_eq!((actions.len(), preparing.on(Event::Prepared)), (1, Vec::new()), "nothing is fenced");

            let mut draining = Handover::new(&[slot(1)]);
            draining.on(progress(1, 12, Some(10)));
            draining.on(Event::Prepared);
            draining.on(Event::Fenced(vec![(slot(1), Seq(12))]));
            let actions = draining.on(end);
            assert_eq!(actions[0], Action::Unfence(vec![slot(1)]));
            assert!(failed(&actions, "lag 2; nothing changed"), "{actions:?}");
            assert_eq!(draining.on(progress(1, 12, Some(12))), [], "too late");
        }
    }

    #[test]
    fn a_slot_that_is_being_copied_is_never_fenced() {
        let mut handover = Handover::new(&[slot(1)]);
        assert_eq!(handover.on(progress(1, 0, None)), []);
        assert!(failed(&handover.on(Event::Deadline), "not in sync"));
    }

    #[test]
    fn who_fell_behind_while_it_was_waited_for_is_not_fenced_yet() {
        let mut handover = Handover::new(&[slot(1)]);
        assert_eq!(handover.on(progress(1, 10, Some(10))), [Action::Prepare]);
        assert_eq!(handover.on(progress(1, 10_000, Some(10))), []);
        assert_eq!(handover.on(Event::Prepared), [], "too much would be held back");
        assert_eq!(handover.on(progress(1, 10_000, None)), [], "it follows anew");
        assert_eq!(handover.on(progress(1, 10_000, Some(9_999))), [Action::Prepare]);
        assert_eq!(handover.on(Event::Prepared), [Action::Fence(vec![slot(1)])]);
    }

    #[test]
    fn a_fence_that_fails_is_answered() {
        let mut handover = Handover::new(&[slot(1)]);
        handover.on(progress(1, 3, Some(3)));
        handover.on(Event::Prepared);
        assert!(failed(&handover.on(Event::FenceFailed("slot 1 is fenced already".to_owned())), "already"));
        assert!(handover.is_over());
    }
}
