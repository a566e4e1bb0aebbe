//! Merging neighbouring runs of a slot into one: the newest entry of a key wins, and what can't be seen any more is
//! dropped.
//!
//! A user's key comes right before its elements, so its newest entry among the inputs decides about them without any
//! lookup: an element lives iff that entry is a value of the element's generation. Without such an entry the elements
//! are kept, since what decides about them lies in a run that is not among the inputs. Tombstones are dropped only
//! where nothing older is left for them to hide.
//!
//! Expiry decides only about a value that is whole in itself. That of a collection proves nothing: an entry in a
//! newer run or in memory may have put it off, for the same elements. An expired collection goes when its key is
//! deleted.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::clock::TimeMs;
use crate::error::Result;
use crate::key::{self, Generation};
use crate::planted::{self, Bug};
use crate::sst::{EntryRef, PackWriter, Run, RunMeta, RunOptions, Scan, prefix_of};
use crate::sync::Arc;
use crate::value::Header;

/// The cancel flag is looked at every so many entries.
const CANCEL_EVERY: u64 = 1024;

/// How to merge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MergeOptions {
    /// Whether nothing of the slot is older than the inputs.
    pub to_bottom: bool,
    /// The slot's own time.
    pub now: TimeMs,
    /// Whether values stay after they have expired. Then no merge changes the number of keys.
    pub keep_expired: bool,
    /// Whether blocks are tried with LZ4.
    pub compress: bool,
    /// The size that a block aims at.
    pub block_bytes: usize,
}

/// What came of a merge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MergeOutcome {
    /// The run is in the pack.
    Done(MergeResult),
    /// The flag was raised: the pack is of no use any more.
    Cancelled,
}

/// What a merge did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MergeResult {
    /// The run that stands for all inputs; `None` if nothing was left.
    pub run: Option<RunMeta>,
    /// Entries read.
    pub entries_in: u64,
    /// Entries that a newer one hid.
    pub overwritten: u64,
    /// Elements dropped because their collection is gone.
    pub dead_elements: u64,
    /// Tombstones dropped because nothing older is left.
    pub tombstones_dropped: u64,
    /// Users' keys that had expired and were dropped, or made tombstones.
    pub expired_keys: u64,
}

/// Merges runs of one slot, newest first and neighbours, into one run of `out`.
///
/// # Errors
/// `Corrupt` if an input is damaged; `Io`. The pack is then of no use any more.
///
/// # Panics
/// If there is no input, or they are of different slots.
pub fn merge(
    inputs: &[Arc<Run>],
    options: MergeOptions,
    cancel: &AtomicBool,
    out: &mut PackWriter,
) -> Result<MergeOutcome> {
    let (newest, oldest) = (inputs.first().expect("an input"), inputs.last().expect("an input"));
    let slot = newest.meta().props.slot;
    assert!(inputs.iter().all(|run| run.meta().props.slot == slot), "inputs of different slots");
    let entries_max = inputs.iter().map(|run| run.meta().props.entries).sum();
    let mut sources = inputs.iter().map(Source::open).collect::<Result<Vec<_>>>()?;
    let mut result = MergeResult { entries_in: entries_max, ..MergeResult::default() };
    let mut owner = Owner::default();
    out.begin_run(
        slot,
        RunOptions { compress: options.compress, block_bytes: options.block_bytes, entries_max },
    );
    let mut until_look = CANCEL_EVERY;
    while let Some(newest) = least(&sources) {
        until_look -= 1;
        if until_look == 0 {
            if cancel.load(Ordering::Relaxed) {
                return Ok(MergeOutcome::Cancelled);
            }
            until_look = CANCEL_EVERY;
        }
        let (ahead, behind) = sources.split_at_mut(newest + 1);
        let Some((key, entry)) = ahead[newest].scan.current() else { break };
        for source in behind {
            if source.scan.current().is_some_and(|(other, _)| other == key) {
                source.advance()?;
                result.overwritten += 1;
            }
        }
        match owner.judge(key, entry, options, &mut result) {
            Some(Verdict::Keep) => out.add(key, entry)?,
            Some(Verdict::Bury) => out.add(key, EntryRef::Tombstone)?,
            Some(Verdict::Drop) => {}
            None => {
                return Err(inputs[newest].corrupt(0, "an entry has no meaning"));
            }
        }
        ahead[newest].advance()?;
    }
    result.run = out.end_run(oldest.meta().props.min_seq, inputs[0].meta().props.max_seq)?;
    Ok(MergeOutcome::Done(result))
}

/// An input, with the start of its current key as a number: it decides most comparisons.
struct Source {
    scan: Scan,
    prefix: Option<u64>,
}

impl Source {
    fn open(run: &Arc<Run>) -> Result<Source> {
        let mut source = Source { scan: Scan::new(Arc::clone(run))?, prefix: None };
        source.note();
        Ok(source)
    }

    fn note(&mut self) {
        self.prefix = self.scan.current().map(|(key, _)| prefix_of(key));
    }

    fn advance(&mut self) -> Result<()> {
        self.scan.advance()?;
        self.note();
        Ok(())
    }
}

/// The source that stands at the least key, the newest of them.
fn least(sources: &[Source]) -> Option<usize> {
    let mut best: Option<(usize, u64)> = None;
    for (index, source) in sources.iter().enumerate() {
        let Some(prefix) = source.prefix else { continue };
        let better = best.is_none_or(|(least, of_least)| {
            let key = |index: usize| sources[index].scan.current().map(|(key, _)| key);
            prefix < of_least || (prefix == of_least && key(index) < key(least))
        });
        if better {
            best = Some((index, prefix));
        }
    }
    best.map(|(index, _)| index)
}

enum Verdict {
    Keep,
    /// A tombstone stands where it was.
    Bury,
    Drop,
}

/// The last user's key that passed, and which generation of its elements lives.
#[derive(Default)]
struct Owner {
    entry_key: Vec<u8>,
    passed: bool,
    generation: Option<Generation>,
}

impl Owner {
    /// What becomes of the newest entry of a key; `None` if it is no entry.
    fn judge(
        &mut self,
        key: &[u8],
        entry: EntryRef<'_>,
        options: MergeOptions,
        result: &mut MergeResult,
    ) -> Option<Verdict> {
        let parts = key::split(key)?;
        let dropped_at_bottom = |result: &mut MergeResult| {
            if options.to_bottom || planted::is(Bug::TombstoneDroppedEarly) {
                result.tombstones_dropped += 1;
                Verdict::Drop
            } else {
                Verdict::Keep
            }
        };
        let Some((generation, _)) = parts.element else {
            self.entry_key.clear();
            self.entry_key.extend_from_slice(key);
            self.passed = true;
            self.generation = None;
            let EntryRef::Value(value) = entry else { return Some(dropped_at_bottom(result)) };
            let header = Header::decode(value)?;
            self.generation = header.generation;
            let expired = header.expiry.is_some_and(|at| at <= options.now);
            // A collection may have been given a later expiry in a newer place, with the elements that are here.
            if !expired || options.keep_expired || header.generation.is_some() {
                return Some(Verdict::Keep);
            }
            result.expired_keys += 1;
            let nothing_older = options.to_bottom || planted::is(Bug::ExpiredDataBack);
            return Some(if nothing_older { Verdict::Drop } else { Verdict::Bury });
        };
        if self.passed && self.entry_key == parts.prefix && self.generation != Some(generation) {
            result.dead_elements += 1;
            return Some(Verdict::Drop);
        }
        Some(match entry {
            EntryRef::Tombstone => dropped_at_bottom(result),
            EntryRef::Value(_) => Verdict::Keep,
        })
    }
}
