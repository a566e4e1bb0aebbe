//! What clients saw, and whether one order explains it: for each key a register that is written, removed, read.
//!
//! Knows nothing of epochs and seqs: a second opinion on the model, made of nothing but what was sent and answered when.
//! The search is Wing and Gong's with Lowe's memory of states. Every value is written once, so that few orders
//! are to be tried.

use std::collections::{BTreeMap, HashSet};

use haypile_engine::types::Slot;

/// What a client did to a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// Wrote the value of this number.
    Put(u64),
    /// Removed it.
    Delete,
    /// Read the value of this number, or nothing.
    Read(Option<u64>),
    /// Nobody's: the value of this number may expire at any time.
    Expire(u64),
}

/// One operation and when it was, in steps of a common count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operation {
    /// What.
    pub act: Act,
    /// When it was sent.
    pub sent: usize,
    /// When its answer came; one without may have happened at any time since, or never.
    pub answered: Option<usize>,
}

/// Everything that clients did.
#[derive(Debug, Default)]
pub struct Clients {
    keys: BTreeMap<(Slot, String), Vec<Operation>>,
    now: usize,
}

/// Operations that are answered together, by their keys and places.
pub type Sent = Vec<(Slot, String, usize)>;

impl Clients {
    /// Something was sent for a key.
    pub fn sent(&mut self, slot: Slot, key: &str, act: Act) -> Sent {
        self.now += 1;
        let operations = self.keys.entry((slot, key.to_owned())).or_default();
        operations.push(Operation { act, sent: self.now, answered: None });
        vec![(slot, key.to_owned(), operations.len() - 1)]
    }

    /// All keys of a slot were removed at once.
    pub fn sent_clear(&mut self, slot: Slot) -> Sent {
        let keys: Vec<String> =
            self.keys.keys().filter(|(of, _)| *of == slot).map(|(_, key)| key.clone()).collect();
        keys.iter().flat_map(|key| self.sent(slot, key, Act::Delete)).collect()
    }

    /// The answer came.
    pub fn answered(&mut self, sent: &Sent) {
        self.now += 1;
        for (slot, key, place) in sent {
            if let Some(operations) = self.keys.get_mut(&(*slot, key.clone())) {
                operations[*place].answered = Some(self.now);
            }
        }
    }

    /// Every key of slots that nobody forked can be explained.
    ///
    /// # Errors
    /// Names a key that can't, with what was done to it.
    pub fn check(&self, is_forked: impl Fn(Slot) -> bool) -> Result<(), String> {
        for ((slot, key), operations) in self.keys.iter().filter(|((slot, _), _)| !is_forked(*slot)) {
            if !explains(operations) {
                return Err(format!(
                    "no order explains what clients saw of {key} in slot {slot}: {operations:?}"
                ));
            }
        }
        Ok(())
    }
}

/// Whether some order of the operations, each between its sending and its answer, explains what was read.
#[must_use]
pub fn explains(operations: &[Operation]) -> bool {
    // A write without an answer that nobody read changes nothing for anybody if it never happened, unless it may have
    // expired.
    let seen = |value: u64| {
        operations
            .iter()
            .any(|other| matches!(other.act, Act::Read(Some(of)) | Act::Expire(of) if of == value))
    };
    let counts = |operation: &&Operation| match operation.act {
        Act::Put(value) => operation.answered.is_some() || seen(value),
        Act::Delete | Act::Expire(_) => true,
        Act::Read(_) => operation.answered.is_some(),
    };
    let operations: Vec<Operation> = operations.iter().filter(counts).copied().collect();
    let mut seen: HashSet<(Vec<u64>, Option<u64>)> = HashSet::new();
    // Which are done, a bit for each, and the value then.
    let mut todo = vec![(vec![0; operations.len().div_ceil(64)], None)];
    while let Some((done, value)) = todo.pop() {
        let left = || (0..operations.len()).filter(|&index| done[index / 64] >> (index % 64) & 1 == 0);
        let Some(first_answer) = left().filter_map(|index| operations[index].answered).min() else {
            return true;
        };
        let mut next = Vec::new();
        // Whatever was sent before the first answer that is still due may be the next that happened.
        for index in left().take_while(|&index| operations[index].sent < first_answer) {
            let after = match operations[index].act {
                Act::Put(written) => Some(Some(written)),
                Act::Delete => Some(None),
                Act::Read(found) => (found == value).then_some(value),
                Act::Expire(expired) => (value == Some(expired)).then_some(None),
            };
            if let Some(after) = after {
                let mut done = done.clone();
                done[index / 64] |= 1 << (index % 64);
                next.push((done, after));
            }
        }
        // Those that were sent first are tried first.
        todo.extend(next.into_iter().rev().filter(|state| seen.insert(state.clone())));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was done, when it was sent and when answered (0: never).
    fn explained(operations: &[(Act, usize, usize)]) -> bool {
        let operation =
            |&(act, sent, answered)| Operation { act, sent, answered: (answered > 0).then_some(answered) };
        explains(&operations.iter().map(operation).collect::<Vec<_>>())
    }

    /// What is tried, what was done (when it was sent and answered), and whether an order explains it.
    type Case = (&'static str, &'static [(Act, usize, usize)], bool);

    #[test]
    fn what_one_order_explains_is_right_and_everything_else_wrong() {
        use Act::{Delete, Expire, Put, Read};
        let table: &[Case] = &[
            ("a read of what was written", &[(Put(1), 1, 2), (Read(Some(1)), 3, 4)], true),
            ("a lost write", &[(Put(1), 1, 2), (Read(None), 3, 4)], false),
            ("what nobody wrote", &[(Put(1), 1, 2), (Read(Some(2)), 3, 4)], false),
            ("an old value", &[(Put(1), 1, 2), (Put(2), 3, 4), (Read(Some(1)), 5, 6)], false),
            ("two at once, either last", &[(Put(1), 1, 4), (Put(2), 2, 3), (Read(Some(1)), 5, 6)], true),
            (
                "two at once, one then the other last",
                &[(Put(1), 1, 4), (Put(2), 2, 3), (Read(Some(1)), 5, 6), (Read(Some(2)), 7, 8)],
                false,
            ),
            ("without an answer, seen", &[(Put(1), 1, 2), (Put(2), 3, 0), (Read(Some(2)), 9, 10)], true),
            ("without an answer, never", &[(Put(1), 1, 2), (Put(2), 3, 0), (Read(Some(1)), 9, 10)], true),
            (
                "without an answer, seen and gone again",
                &[(Put(1), 1, 2), (Put(2), 3, 0), (Read(Some(2)), 4, 5), (Read(Some(1)), 6, 7)],
                false,
            ),
            ("before it was sent", &[(Read(Some(1)), 1, 2), (Put(1), 3, 4)], false),
            ("removed", &[(Put(1), 1, 2), (Delete, 3, 4), (Read(None), 5, 6)], true),
            ("removed and back", &[(Put(1), 1, 2), (Delete, 3, 4), (Read(Some(1)), 5, 6)], false),
            ("expired", &[(Put(1), 1, 2), (Expire(1), 1, 0), (Read(None), 5, 6)], true),
            (
                "expired and back",
                &[(Put(1), 1, 2), (Expire(1), 1, 0), (Read(None), 3, 4), (Read(Some(1)), 5, 6)],
                false,
            ),
            (
                "another expired",
                &[(Put(1), 1, 2), (Expire(1), 1, 0), (Put(2), 3, 4), (Read(None), 5, 6)],
                false,
            ),
        ];
        for (name, operations, expected) in table {
            assert_eq!(explained(operations), *expected, "{name}");
        }
    }

    #[test]
    fn a_long_history_takes_no_time() {
        let mut operations = Vec::new();
        for n in 1..2000 {
            operations.push((Act::Put(n as u64), 3 * n, 3 * n + 5));
            operations.push((Act::Expire(n as u64), 3 * n, 0));
            operations.push((Act::Read(Some(n as u64)), 3 * n + 1, 3 * n + 2));
        }
        assert!(explained(&operations));
    }
}
