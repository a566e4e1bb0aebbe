//! The replica's side of a slot: records of another node's log, checked, appended as they are, applied.

use crate::engine::Engine;
use crate::error::Error;
use crate::key;
use crate::log::record::{BadRecord, Body, Op, Record, ops};
use crate::memtable::Stored;
use crate::planted::{self, Bug};
use crate::slot::{Role, SlotCell, earliest};
use crate::types::{Epoch, SLOT_COUNT, Seq, Slot};
use crate::value::Header;

/// Why a slot's records can't be taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// Not the next record: the stream lost or repeated something. Ask the master again.
    #[error("slot {slot}: expected {expected:?}, got {got:?}")]
    Gap {
        /// Whose record it is.
        slot: Slot,
        /// The record that would be next.
        expected: Seq,
        /// The record that came.
        got: Seq,
    },
    /// The record belongs to an epoch that this slot is not in. Ask the master again.
    #[error("slot {slot}: {current:?} is running, a record of term {got} came")]
    Epoch {
        /// Whose record it is.
        slot: Slot,
        /// The running epoch.
        current: Option<Epoch>,
        /// The record's term.
        got: u32,
    },
    /// This node does not follow anybody for the slot (any more).
    #[error("slot {slot} follows nobody here")]
    NotReplica {
        /// Whose record it is.
        slot: Slot,
    },
    /// The record passed its checksum but has no meaning: a newer master or a bug.
    #[error("slot {slot}: {why}")]
    BadRecord {
        /// Whose record it is.
        slot: Slot,
        /// What is wrong with it.
        why: BadRecord,
    },
}

/// What became of a batch of records.
#[derive(Debug, Default)]
pub struct Appended {
    /// For each slot in the batch its last record that was applied.
    pub applied: Vec<(Slot, Seq)>,
    /// For each slot that could not go on, why; its later records in the batch were passed over.
    pub failed: Vec<(Slot, AppendError)>,
}

impl Engine {
    /// Takes whole records, back to back, of any slots that this node follows: appends the same bytes to its own
    /// log and applies them. [`Engine::write`] writes them; only then they may be acknowledged.
    ///
    /// A slot whose record does not fit stops there; other slots go on.
    ///
    /// # Errors
    /// If the log takes no writes, or if the bytes are not records (`Limit`): the connection is not to be trusted.
    pub fn append_replicated(&self, bytes: &[u8]) -> Result<Appended, Error> {
        let mut out = Appended::default();
        // Where each slot stands in `applied`, and one more; 0 if it does not.
        let mut places = [0u16; SLOT_COUNT as usize];
        let mut rest = bytes;
        while !rest.is_empty() {
            let record = Record::take(&mut rest)
                .map_err(|why| Error::Limit(format!("the master sent bytes that are not a record: {why}")))?;
            let slot = record.header.slot;
            if out.failed.iter().any(|(failed, _)| *failed == slot) {
                continue;
            }
            let mut cell = self.lock(slot);
            if let Err(why) = check(&cell, &record) {
                out.failed.push((slot, why));
                continue;
            }
            self.append_checked(&mut cell, &record)?;
            let place = &mut places[slot.index()];
            match usize::from(*place).checked_sub(1).and_then(|place| out.applied.get_mut(place)) {
                Some((_, seq)) => *seq = record.header.seq,
                None => {
                    out.applied.push((slot, record.header.seq));
                    *place = u16::try_from(out.applied.len()).expect("each slot once");
                }
            }
        }
        Ok(out)
    }

    /// Appends another node's record, which was checked, to this node's log as it is, and applies it.
    pub(crate) fn append_checked(&self, cell: &mut SlotCell, record: &Record<'_>) -> Result<(), Error> {
        let mut appender = self.append()?;
        appender.push_raw(record)?;
        let ticket = appender.finish();
        let before = cell.memtable.bytes();
        cell.force = false;
        apply(cell, record);
        cell.last_ticket = ticket;
        self.account_memtable(before, cell.memtable.bytes());
        Ok(())
    }
}

/// Whether a record is the next that a following slot can take. Checks the whole record, so that [`apply`] can't
/// stop half-way.
fn check(cell: &SlotCell, record: &Record<'_>) -> Result<(), AppendError> {
    let slot = record.header.slot;
    if !record.body.is_history() {
        let why = BadRecord::Meaning("a time that belongs to another node's log");
        return Err(AppendError::BadRecord { slot, why });
    }
    if cell.ending || !matches!(cell.role, Role::Replica { .. } | Role::Loading { .. }) {
        return Err(AppendError::NotReplica { slot });
    }
    check_next(cell, record)
}

/// Whether a record of another node's log is the slot's next, and of the running epoch or the start of the next.
pub(crate) fn check_next(cell: &SlotCell, record: &Record<'_>) -> Result<(), AppendError> {
    let slot = record.header.slot;
    // Invariant: dense within the slot, at receive as at append.
    let expected = cell.last_seq.next();
    if record.header.seq != expected {
        return Err(AppendError::Gap { slot, expected, got: record.header.seq });
    }
    check_meaning(cell, record).map_err(|wrong| match wrong {
        Wrong::Epoch => AppendError::Epoch { slot, current: cell.history.current(), got: record.header.term },
        Wrong::Record(why) => AppendError::BadRecord { slot, why },
    })
}

/// What [`check_meaning`] finds.
pub(crate) enum Wrong {
    /// The record is not of the running epoch, nor the start of the next.
    Epoch,
    /// An operation has no meaning.
    Record(BadRecord),
}

/// Whether a record belongs to the running epoch (or begins the next) and all its operations can be applied.
pub(crate) fn check_meaning(cell: &SlotCell, record: &Record<'_>) -> Result<(), Wrong> {
    let running = cell.history.current().map_or(0, |epoch| epoch.term);
    match record.body {
        Body::EpochStart { epoch, .. } if cell.history.current() == Some(epoch) => Ok(()),
        Body::EpochStart { .. } if record.header.term > running => Ok(()),
        Body::Grant { .. } if record.header.term == running => Ok(()),
        Body::Batch(batch) if record.header.term == running || planted::is(Bug::OldEpochReplayed) => {
            let mut keys = cell.keys;
            for op in ops(batch) {
                keys = match op.map_err(Wrong::Record)? {
                    Op::Put { existed: false, .. } => keys + 1,
                    Op::Delete { .. } => {
                        let miscounted = Wrong::Record(BadRecord::Meaning("deletes a key that is not there"));
                        keys.checked_sub(1).ok_or(miscounted)?
                    }
                    Op::Clear => 0,
                    _ => keys,
                };
            }
            Ok(())
        }
        _ => Err(Wrong::Epoch),
    }
}

/// Applies a record that passed [`check_meaning`]: the one function that recovery and replication share.
///
/// # Panics
/// If the record is not the slot's next.
pub(crate) fn apply(cell: &mut SlotCell, record: &Record<'_>) {
    assert_eq!(record.header.seq, cell.last_seq.next(), "slot {}: seqs are dense", record.header.slot);
    match record.body {
        Body::Batch(batch) => {
            for op in ops(batch) {
                apply_op(cell, op.expect("checked before"));
            }
        }
        Body::EpochStart { epoch, .. } => {
            if cell.history.current() != Some(epoch) {
                cell.history.begin(epoch, record.header.seq);
            }
            cell.highest_term = cell.highest_term.max(epoch.term);
            cell.granted = None;
        }
        Body::Grant { to, time, address } => {
            cell.granted = Some((to, address.to_owned()));
            cell.keep_time(time);
        }
        Body::Time(_) => unreachable!("a time has no seq of its own, so it is never the next record"),
    }
    cell.last_seq = record.header.seq;
}

fn apply_op(cell: &mut SlotCell, op: Op<'_>) {
    if let Some(watched) = &cell.watched {
        watched.changed_by(&op);
    }
    match op {
        Op::Put { key, value, existed } => {
            cell.keys += u64::from(!existed);
            let expiry = Header::decode(value).and_then(|header| header.expiry);
            cell.next_expiry = earliest(cell.next_expiry, expiry);
            cell.memtable.insert(&key::entry_key(key), Stored::inline(value));
        }
        Op::Delete { key } => {
            cell.keys -= 1;
            cell.memtable.insert(&key::entry_key(key), Stored::Tombstone);
        }
        Op::PutElement { key, generation, sub, value } => {
            cell.memtable.insert(&key::element_key(key, generation, sub), Stored::inline(value));
        }
        Op::DeleteElement { key, generation, sub } => {
            cell.memtable.insert(&key::element_key(key, generation, sub), Stored::Tombstone);
        }
        Op::Clear => {
            cell.keys = 0;
            cell.memtable.clear();
            cell.cleared_while_loading |= matches!(cell.role, Role::Loading { .. });
        }
    }
}
