//! A slot's past: which epochs it went through and where each began.
//!
//! Two nodes compare histories to learn exactly whether one continues the other. Pure values.

use crate::types::{Epoch, Seq};

/// Where an epoch began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: Epoch,
    /// The first record that belongs to it.
    pub first_seq: Seq,
}

/// The epochs of a slot, oldest first.
///
/// Invariant: terms strictly ascend, first seqs ascend (an epoch may end without a record).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct History(Vec<EpochStart>);

/// What a replica's position means to a master's history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relation {
    /// The replica's records are a prefix of the master's: go on after its last.
    Prefix,
    /// They share a root, then part; `last_common` is the last record that both have.
    Diverged {
        /// The last record that both have.
        last_common: Seq,
    },
    /// Nothing in common.
    Unrelated,
}

impl History {
    /// The history of a slot that begins with `epoch`, its first record being `first_seq`.
    #[must_use]
    pub fn starting(epoch: Epoch, first_seq: Seq) -> History {
        History(vec![EpochStart { epoch, first_seq }])
    }

    /// A history read from disk or network; `None` if it breaks the invariant.
    #[must_use]
    pub fn from_starts(starts: Vec<EpochStart>) -> Option<History> {
        let ordered =
            starts.windows(2).all(|w| w[0].epoch.term < w[1].epoch.term && w[0].first_seq <= w[1].first_seq);
        ordered.then_some(History(starts))
    }

    /// The epochs, oldest first.
    #[must_use]
    pub fn starts(&self) -> &[EpochStart] {
        &self.0
    }

    /// The running epoch.
    #[must_use]
    pub fn current(&self) -> Option<Epoch> {
        self.0.last().map(|start| start.epoch)
    }

    /// The epochs that began at or before `seq`, and the slot's very first, which has no record of its own.
    #[must_use]
    pub fn up_to(&self, seq: Seq) -> History {
        let starts = self.0.iter().enumerate();
        let kept = starts.filter(|(index, start)| *index == 0 || start.first_seq <= seq);
        History(kept.map(|(_, start)| *start).collect())
    }

    /// Begins a new epoch at `first_seq`.
    ///
    /// # Panics
    /// If the term does not grow or the seq goes back: the caller would fork the slot.
    pub fn begin(&mut self, epoch: Epoch, first_seq: Seq) {
        if let Some(last) = self.0.last() {
            assert!(epoch.term > last.epoch.term, "{epoch} does not follow {}", last.epoch);
            assert!(first_seq >= last.first_seq, "{epoch} begins at {first_seq}, before {}", last.first_seq);
        }
        self.0.push(EpochStart { epoch, first_seq });
    }

    /// How `other`, whose last record is `other_last`, relates to this history, whose last is `last`.
    #[must_use]
    pub fn relate(&self, last: Seq, other: &History, other_last: Seq) -> Relation {
        let shared = other.0.iter().rev().find_map(|theirs| {
            let mine = self.0.iter().position(|mine| mine.epoch == theirs.epoch)?;
            Some((mine, other.0.iter().position(|t| t.epoch == theirs.epoch)?))
        });
        let Some((mine, theirs)) = shared else { return Relation::Unrelated };
        let my_end = end_of(&self.0, mine, last);
        let their_end = end_of(&other.0, theirs, other_last);
        if theirs + 1 == other.0.len() && their_end <= my_end {
            return Relation::Prefix;
        }
        Relation::Diverged { last_common: my_end.min(their_end) }
    }
}

/// The last record of the epoch at `index`: the one before the next epoch's first, or the last of all.
fn end_of(starts: &[EpochStart], index: usize, last: Seq) -> Seq {
    starts.get(index + 1).map_or(last, |next| Seq(next.first_seq.0 - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(epochs: &[(u32, u64, u64)]) -> History {
        let starts = epochs
            .iter()
            .map(|&(term, tag, seq)| EpochStart { epoch: Epoch { term, tag }, first_seq: Seq(seq) })
            .collect();
        History::from_starts(starts).expect("ordered")
    }

    #[test]
    fn a_replica_in_an_older_epoch_continues_if_it_stopped_before_that_epoch_ended() {
        let master = history(&[(1, 7, 1), (2, 8, 11)]);
        let replica = history(&[(1, 7, 1)]);
        assert_eq!(master.relate(Seq(20), &replica, Seq(10)), Relation::Prefix);
        assert_eq!(master.relate(Seq(20), &replica, Seq(4)), Relation::Prefix);
        let ahead = master.relate(Seq(20), &replica, Seq(11));
        assert_eq!(ahead, Relation::Diverged { last_common: Seq(10) });
    }

    #[test]
    fn equal_terms_with_different_tags_are_a_fork() {
        let master = history(&[(1, 7, 1), (2, 8, 11)]);
        let replica = history(&[(1, 7, 1), (2, 9, 9)]);
        assert_eq!(master.relate(Seq(20), &replica, Seq(12)), Relation::Diverged { last_common: Seq(8) });
        assert_eq!(master.relate(Seq(20), &history(&[(1, 6, 1)]), Seq(3)), Relation::Unrelated);
    }

    #[test]
    fn a_history_that_goes_back_is_refused() {
        let start = |term, seq| EpochStart { epoch: Epoch { term, tag: 0 }, first_seq: Seq(seq) };
        assert!(History::from_starts(vec![start(2, 1), start(1, 5)]).is_none());
        assert!(History::from_starts(vec![start(1, 5), start(2, 4)]).is_none());
    }
}
