//! What a master answers to a replica that asks for a slot. Pure.

use haypile_engine::history::{History, Relation};
use haypile_engine::roles::ASKS_REPLICAS;
use haypile_engine::slot::Role;
use haypile_engine::types::{Epoch, NodeId, Seq};

use crate::message::{AskState, Reason, SlotAsk};

/// What the asked node knows of the slot, taken at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// What the asked node is to the slot.
    pub role: Role,
    /// Its history.
    pub history: History,
    /// Epochs of histories that copies replaced there.
    pub superseded: Vec<Epoch>,
    /// Its last record.
    pub last: Seq,
    /// Whether the record after the asker's last is still in the log (or is the next to be written).
    pub log: LogReach,
    /// Whether the asked node follows the asking one for this slot.
    pub follows_asker: bool,
}

/// Whether the record that a replica needs next can be read from the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogReach {
    /// Yes.
    There,
    /// Its segment is gone.
    Gone,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// The records from here on.
    Continue {
        /// The first that is sent.
        from: Seq,
    },
    /// A copy, and then the records that follow it.
    Copy,
    /// No, and the words for a person.
    Refused(Reason, String),
}

/// Answers a replica.
#[must_use]
pub fn decide(view: &View, asker: NodeId, ask: &SlotAsk) -> Decision {
    let slot = ask.slot;
    match &view.role {
        Role::Absent => {
            let text = format!("slot {slot} is not on the master: pkcluster addslots {slot} there first");
            return Decision::Refused(Reason::NotHere, text);
        }
        Role::Replica { .. } | Role::Loading { .. } if view.follows_asker => {
            let text = format!(
                "the master follows this node ({asker}) for slot {slot}: \
                 pkcluster slotsslaveof no one {slot} there first"
            );
            return Decision::Refused(Reason::Cycle, text);
        }
        Role::Loading { upstream } => {
            let text = format!("slot {slot} of the master is waiting for its own copy from {upstream}");
            return Decision::Refused(Reason::NotReady, text);
        }
        Role::Owed => {
            let text = format!("slot {slot}: the master {ASKS_REPLICAS}");
            return Decision::Refused(Reason::NotReady, text);
        }
        _ => {}
    }
    let relation = view.history.relate(view.last, &ask.history, ask.last);
    if relation == Relation::Prefix && ask.state != AskState::Loading && view.log == LogReach::There {
        return Decision::Continue { from: ask.last.next() };
    }
    if let Role::Moved { to } = &view.role {
        let text = format!("slot {slot} was handed over to {to}: follow that node");
        return Decision::Refused(Reason::Moved, text);
    }
    let known = relation != Relation::Unrelated || superseded(view, &ask.history);
    if known || ask.state != AskState::Data || ask.force {
        return Decision::Copy;
    }
    let text = format!(
        "slot {slot} has data here that the master does not know: force replaces it with the master's \
         (pkcluster slotsslaveof <ip> <port> {slot} force)"
    );
    Decision::Refused(Reason::Unrelated, text)
}

/// Whether the replica's slot grew out of what a copy replaced on the asked node: then the copy replaces it there
/// too, as it would have if it had come a moment earlier.
fn superseded(view: &View, theirs: &History) -> bool {
    theirs.starts().iter().any(|start| view.superseded.contains(&start.epoch))
}

#[cfg(test)]
mod tests {
    use haypile_engine::history::EpochStart;
    use haypile_engine::types::Slot;

    use super::*;

    /// Term, tag and first seq of each.
    type Epochs = &'static [(u32, u64, u64)];

    fn history(epochs: Epochs) -> History {
        let start = |&(term, tag, seq)| EpochStart { epoch: Epoch { term, tag }, first_seq: Seq(seq) };
        History::from_starts(epochs.iter().map(start).collect()).expect("ordered")
    }

    const ASKER: NodeId = NodeId([1; 20]);
    const MINE: Epochs = &[(1, 7, 1), (2, 8, 11)];

    fn view(role: Role) -> View {
        View {
            role,
            history: history(MINE),
            superseded: vec![Epoch { term: 1, tag: 66 }],
            last: Seq(20),
            log: LogReach::There,
            follows_asker: false,
        }
    }

    fn ask(epochs: Epochs, last: u64, state: AskState) -> SlotAsk {
        let slot = Slot::new(5).expect("in range");
        SlotAsk {
            slot,
            number: 1,
            history: history(epochs),
            last: Seq(last),
            state,
            force: false,
            held: Vec::new(),
        }
    }

    /// The answer in one word, so that the table below can be read.
    fn word(decision: Decision) -> String {
        match decision {
            Decision::Continue { from } => format!("continue from {from}"),
            Decision::Copy => "copy".to_owned(),
            Decision::Refused(reason, _) => format!("{reason:?}"),
        }
    }

    #[test]
    fn a_slot_is_continued_where_its_records_are_a_prefix_and_copied_where_they_once_were_one() {
        use AskState::{Data, Empty, Loading};
        use LogReach::{Gone, There};
        let table: &[(Epochs, u64, AskState, LogReach, &str)] = &[
            (MINE, 20, Data, There, "continue from 21"),
            (MINE, 12, Data, There, "continue from 13"),
            (MINE, 12, Data, Gone, "copy"),
            (&[(1, 7, 1)], 10, Data, There, "continue from 11"),
            (&[(1, 7, 1)], 4, Data, There, "continue from 5"),
            (&[(1, 7, 1)], 11, Data, There, "copy"),
            (&[(1, 7, 1), (2, 9, 9)], 12, Data, There, "copy"),
            (MINE, 21, Data, There, "copy"),
            (MINE, 12, Loading, There, "copy"),
            (&[(1, 66, 1)], 3, Data, There, "copy"),
            (&[(1, 55, 1)], 3, Data, There, "Unrelated"),
            (&[(1, 55, 1)], 3, Empty, There, "copy"),
            (&[(1, 55, 1)], 3, Loading, There, "copy"),
            (&[], 0, Empty, There, "copy"),
            (&[], 0, Data, There, "Unrelated"),
        ];
        for &(epochs, last, state, log, expected) in table {
            let view = View { log, ..view(Role::Master) };
            let decision = decide(&view, ASKER, &ask(epochs, last, state));
            assert_eq!(word(decision), expected, "{epochs:?} {last} {state:?} {log:?}");
        }
    }

    #[test]
    fn the_role_of_the_asked_node_decides_first() {
        let upstream = || "10.0.0.1:9221".to_owned();
        let to = || "10.0.0.2:9221".to_owned();
        let here = &[(1, 7, 1)][..];
        let fork = &[(1, 7, 1), (3, 9, 9)][..];
        let table = [
            (Role::Absent, here, "NotHere"),
            (Role::Loading { upstream: upstream() }, here, "NotReady"),
            (Role::Replica { upstream: upstream() }, here, "continue from 5"),
            (Role::Replica { upstream: upstream() }, fork, "copy"),
            (Role::Fenced, here, "continue from 5"),
            (Role::Owed, here, "NotReady"),
            (Role::Owed, fork, "NotReady"),
            (Role::Granted { to: NodeId([2; 20]), address: to() }, here, "continue from 5"),
            (Role::Moved { to: to() }, here, "continue from 5"),
            (Role::Moved { to: to() }, fork, "Moved"),
        ];
        for (role, epochs, expected) in table {
            let last = if epochs.len() == 1 { 4 } else { 12 };
            let decision = decide(&view(role.clone()), ASKER, &ask(epochs, last, AskState::Data));
            assert_eq!(word(decision), expected, "{role:?}");
        }
    }

    #[test]
    fn a_node_that_follows_the_asker_refuses_it() {
        for role in [
            Role::Replica { upstream: "10.0.0.1:9221".to_owned() },
            Role::Loading { upstream: "10.0.0.1:9221".to_owned() },
        ] {
            let view = View { follows_asker: true, ..view(role) };
            assert_eq!(word(decide(&view, ASKER, &ask(MINE, 3, AskState::Empty))), "Cycle");
        }
    }

    #[test]
    fn force_replaces_unrelated_data() {
        let forced = SlotAsk { force: true, ..ask(&[(1, 55, 1)], 3, AskState::Data) };
        assert_eq!(decide(&view(Role::Master), ASKER, &forced), Decision::Copy);
    }
}
