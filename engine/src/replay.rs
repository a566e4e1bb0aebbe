//! Many records of the log onto their slots at once: slot by slot, on several cores.
//!
//! Records of different slots have nothing to do with each other, and those of one slot keep their order. Slot by slot
//! because a record's way through a memtable is memory that the slot's next record is likely to need again; in log
//! order each record would find another slot's. What it brings: `docs/decisions/0006`.

use std::path::Path;

use crate::error::{Error, Result};
use crate::log::RecordAt;
use crate::recover::{Replayed, replay, replay_one};
use crate::slot::SlotCell;
use crate::sync::Mutex;
use crate::types::{NodeId, SLOT_COUNT};

/// Fewer records than this are replayed one after another as they come.
const SHARED_RECORDS_MIN: usize = 4096;
/// More threads than this do not replay: one reads the log for all.
const THREADS_MAX: usize = 4;

/// So many records are looked at together before they are replayed: see [`touch`].
const TOUCHED_RECORDS: usize = 16;

/// Some neighbouring slots and the records that are theirs.
struct Part<'a> {
    first_slot: usize,
    cells: &'a mut [Mutex<SlotCell>],
    began_epoch: &'a mut [bool],
    /// Which of the batch's records, by slot and then in log order.
    records: &'a [u32],
}

/// How many records were applied; or which was not, and why.
type Outcome = Result<u64, (u32, Error)>;

/// Replays records as [`replay`] does; says how many were applied. Of several that are wrong the first is told.
pub(crate) fn replay_batch(
    slots: &mut Replayed,
    node: NodeId,
    log: &Path,
    batch: &[RecordAt<'_>],
) -> Result<u64> {
    if batch.len() < SHARED_RECORDS_MIN {
        return batch.iter().try_fold(0, |sum, at| Ok(sum + u64::from(replay(slots, node, log, at)?)));
    }
    let slot_of = |number: &u32| batch[*number as usize].record.header.slot.index();
    let order = by_slot(batch);
    let mut parts = share(slots, &order, slot_of);
    let run = |part| replay_part(part, node, log, batch);
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let mine = parts.pop();
        let others: Vec<_> = parts.into_iter().map(|part| scope.spawn(move || run(part))).collect();
        let mine = mine.map(run);
        let joined = others.into_iter().map(|thread| thread.join().expect("a replay does not panic"));
        joined.chain(mine).collect()
    });
    let wrong =
        outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).min_by_key(|(number, _)| *number);
    match wrong {
        Some((_, error)) => Err(error.clone()),
        None => Ok(outcomes.into_iter().flatten().sum()),
    }
}

/// The numbers of a batch's records, by slot and then in log order.
fn by_slot(batch: &[RecordAt<'_>]) -> Vec<u32> {
    let mut counts = vec![0_usize; usize::from(SLOT_COUNT)];
    batch.iter().for_each(|at| counts[at.record.header.slot.index()] += 1);
    let mut places: Vec<usize> = counts
        .iter()
        .scan(0, |end, count| {
            *end += count;
            Some(*end - count)
        })
        .collect();
    let mut order = vec![0; batch.len()];
    for (number, at) in (0..).zip(batch) {
        let place = &mut places[at.record.header.slot.index()];
        order[*place] = number;
        *place += 1;
    }
    order
}

/// Cuts the slots into parts with about as many records each.
fn share<'a>(slots: &'a mut Replayed, order: &'a [u32], slot_of: impl Fn(&u32) -> usize) -> Vec<Part<'a>> {
    let count = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let (mut cells, mut began_epoch) = (&mut slots.cells[..], &mut slots.began_epoch[..]);
    let (mut records, mut first_slot) = (order, 0);
    let mut parts = Vec::with_capacity(count);
    for left in (1..=count).rev() {
        let end_slot = match records.get(records.len() / left) {
            Some(number) if left > 1 => slot_of(number),
            _ => usize::from(SLOT_COUNT),
        };
        let mine = records.split_at(records.partition_point(|number| slot_of(number) < end_slot));
        let my_cells = std::mem::take(&mut cells).split_at_mut(end_slot - first_slot);
        let my_began = std::mem::take(&mut began_epoch).split_at_mut(end_slot - first_slot);
        parts.push(Part { first_slot, cells: my_cells.0, began_epoch: my_began.0, records: mine.0 });
        (records, cells, began_epoch, first_slot) = (mine.1, my_cells.1, my_began.1, end_slot);
    }
    parts
}

fn replay_part(part: Part<'_>, node: NodeId, log: &Path, batch: &[RecordAt<'_>]) -> Outcome {
    let mut applied = 0;
    for some in part.records.chunks(TOUCHED_RECORDS) {
        touch(some, batch);
        for &number in some {
            let at = &batch[number as usize];
            let index = at.record.header.slot.index() - part.first_slot;
            let cell = part.cells[index].get_mut().expect("nobody has locked it yet");
            let did = replay_one(cell, &mut part.began_epoch[index], node, log, at);
            applied += u64::from(did.map_err(|error| (number, error))?);
        }
    }
    Ok(applied)
}

/// Looks at both ends of some records. They lie far from each other: looked at one after another, each would be waited for
/// when its turn comes; looked at together, they come from memory together.
fn touch(some: &[u32], batch: &[RecordAt<'_>]) {
    let ends = some.iter().map(|&number| {
        let bytes = batch[number as usize].record.bytes;
        bytes.first().copied().unwrap_or_default() ^ bytes.last().copied().unwrap_or_default()
    });
    std::hint::black_box(ends.fold(0, |all, end| all ^ end));
}
