//! Slots whose next epoch is owed: this node stopped uncleanly as their master, and replicas may have records of the
//! running epoch that it lost. It takes them back before it begins the next epoch and serves again.
//!
//! Kept only with [`crate::engine::Options::keep_owed`]: who opens an engine so asks the replicas, and calls
//! [`Engine::begin_owed`] whatever comes of it. Until then such a slot takes neither writes nor reads. It may be told to
//! follow another node: then no epoch begins, and what it has is still a prefix of what its replicas have. A stop in
//! between, in order or not, leaves it owed again.

use crate::background::Job;
use crate::clock::TimeMs;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::log::record::{BadRecord, Body, Record};
use crate::registry::Replica;
use crate::replica::{self, AppendError, Appended};
use crate::slot::{Role, SlotCell};
use crate::types::{Epoch, NodeId, Seq, Slot};

/// A slot whose next epoch has not begun yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owed {
    /// Which.
    pub slot: Slot,
    /// Its running epoch.
    pub epoch: Epoch,
    /// Its last record here.
    pub last: Seq,
    /// The registered replicas of it, and where each listens.
    pub replicas: Vec<(NodeId, String)>,
}

impl Engine {
    /// The slots whose next epoch is owed.
    pub fn owed(&self) -> Vec<Owed> {
        let known: Vec<(NodeId, Replica)> =
            self.registry().iter().map(|(node, replica)| (*node, replica.clone())).collect();
        let owed = |slot| {
            let cell = self.lock(slot);
            let epoch = cell.history.current().filter(|_| cell.role == Role::Owed)?;
            let follows = known.iter().filter(|(_, replica)| replica.acked.contains_key(&slot));
            let replicas = follows.map(|(node, replica)| (*node, replica.address.clone())).collect();
            Some(Owed { slot, epoch, last: cell.last_seq, replicas })
        };
        Slot::all().filter_map(owed).collect()
    }

    /// Takes records of owed slots back, whole and back to back, as a replica has them: each that is the slot's next is
    /// appended and applied, those that are here already and those of slots that are not owed any more are passed over.
    /// They are durable once the next epoch has begun. Whoever sends them knows that they are of the running epoch.
    ///
    /// Tells of every owed slot that it found a record of how far it is now, whether that record was new or not.
    ///
    /// # Errors
    /// If the bytes are not records (`Limit`): who sent them is not to be trusted. `ReadOnly` if a full disk has no room for
    /// them, also once what is in memory is in files: the same bytes can be given again. Else the log's.
    pub fn append_tail(&self, bytes: &[u8]) -> Result<Appended> {
        self.with_room(|| self.append_owed(bytes))
    }

    fn append_owed(&self, bytes: &[u8]) -> Result<Appended> {
        let mut out = Appended::default();
        let mut rest = bytes;
        while !rest.is_empty() {
            let record = Record::take(&mut rest)
                .map_err(|why| Error::Limit(format!("a replica sent bytes that are not a record: {why}")))?;
            let slot = record.header.slot;
            let mut cell = self.lock(slot);
            if cell.role != Role::Owed || out.failed.iter().any(|(failed, _)| *failed == slot) {
                continue;
            }
            if record.header.seq > cell.last_seq {
                if let Err(why) = check(&cell, &record) {
                    out.failed.push((slot, why));
                    continue;
                }
                self.append_checked(&mut cell, &record)?;
            }
            match out.applied.iter_mut().find(|(applied, _)| *applied == slot) {
                Some((_, seq)) => *seq = cell.last_seq,
                None => out.applied.push((slot, cell.last_seq)),
            }
        }
        Ok(out)
    }

    /// A replica was told that an owed slot's time is this: it does not go back behind it.
    pub fn set_owed_time(&self, slot: Slot, time: TimeMs) {
        let mut cell = self.lock(slot);
        if cell.role == Role::Owed {
            cell.time = cell.time.max(time);
        }
    }

    /// Begins the next epochs of slots, as far as they are owed still: durable with all that was taken back, and this node
    /// serves them.
    ///
    /// # Errors
    /// `ReadOnly` if a full disk has no room for the epochs' records, also once what is in memory is in files: the slots are
    /// owed as before. Else the log's.
    pub fn begin_owed(&self, slots: &[Slot]) -> Result<()> {
        self.with_room(|| self.begin_still_owed(slots))
    }

    /// Does a step that appends to the log. Where a full disk leaves the log no room it is done once more when all that is in
    /// memory is in files, if these have room: log goes then.
    fn with_room<T>(&self, step: impl Fn() -> Result<T>) -> Result<T> {
        match step() {
            Err(Error::ReadOnly(_)) if self.must_shrink_log() => {
                self.flush_all()?;
                self.step(Job::Prepare)?;
                step()
            }
            done => done,
        }
    }

    fn begin_still_owed(&self, slots: &[Slot]) -> Result<()> {
        let mut manifest = self.manifest();
        let owed: Vec<Slot> =
            slots.iter().copied().filter(|&slot| self.lock(slot).role == Role::Owed).collect();
        self.begin_epochs(&mut manifest, &owed)
    }
}

/// Whether a record is the next of an owed slot: a batch of the running epoch. A grant is none: it was synced here before
/// anybody could act on it, so that one which is not here was never given.
fn check(cell: &SlotCell, record: &Record<'_>) -> std::result::Result<(), AppendError> {
    if !matches!(record.body, Body::Batch(_)) {
        let why = BadRecord::Meaning("no batch, in the midst of an epoch");
        return Err(AppendError::BadRecord { slot: record.header.slot, why });
    }
    replica::check_next(cell, record)
}
