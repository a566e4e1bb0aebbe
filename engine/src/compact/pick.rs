//! Which runs of a slot to merge next. Pure functions of values.
//!
//! The oldest run is the bottom; those above are its upper runs, in tiers of like size. `tier_runs` neighbours of
//! like size become one run of the next tier; all becomes one new bottom once the upper runs are a fair share of
//! it. With the defaults an entry is written about once per tier (four flushes, 16, 64 ...) and four times into
//! the bottom over its life; space is at most 4/3 of the data, and a lookup asks at most `upper_runs_max` filters
//! and the bottom's.
//!
//! A job into the bottom rewrites all of it: for slots of many GiB it takes long (it can be cancelled). Cutting the
//! bottom into ranges of keys is what would bound it.

use std::borrow::Borrow;
use std::ops::Range;

use crate::sst::{FileNo, RunMeta};

/// How eager to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PickOptions {
    /// So many neighbours of like size are merged; at least 2.
    pub tier_runs: usize,
    /// With more upper runs than this the cheapest neighbours are merged, like or not; at least `tier_runs`.
    pub upper_runs_max: usize,
    /// All is merged into a new bottom once the upper runs' bytes times this are at least the bottom's.
    pub bottom_ratio: u64,
    /// Whether the oldest run is all that there was before: not so while a slot's copy is being received.
    pub has_bottom: bool,
}

impl Default for PickOptions {
    fn default() -> PickOptions {
        PickOptions { tier_runs: 4, upper_runs_max: 10, bottom_ratio: 3, has_bottom: true }
    }
}

/// Why a job was picked, the more urgent first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// Too many runs: lookups suffer.
    TooManyRuns,
    /// The upper runs are a fair share of the bottom.
    Bottom,
    /// Tombstones hide a good part of the bottom.
    Tombstones,
    /// Neighbours of like size.
    Tier,
    /// A run lies in a pack file that is mostly dead.
    Evacuation,
    /// Somebody asked for it.
    Asked,
}

/// Runs to be merged into one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Job {
    /// Which of the slot's runs, newest first: neighbours.
    pub inputs: Range<usize>,
    /// Whether nothing is older than the inputs, so that tombstones have nothing left to hide.
    pub to_bottom: bool,
    /// Bytes to be read; about as many will be written.
    pub bytes: u64,
    /// Why.
    pub reason: Reason,
}

/// Runs whose sizes differ by less than this factor are of one tier.
const LIKE_FACTOR: u64 = 3;
/// Fewer tombstones than this are not worth a job of their own.
const TOMBSTONES_MIN: u64 = 1000;

/// The job that a slot needs most, if any. `runs` are all its runs, newest first; `evacuate` tells the pack files
/// that are mostly dead.
#[must_use]
pub fn pick<R: Borrow<RunMeta>>(
    runs: &[R],
    options: PickOptions,
    evacuate: &dyn Fn(FileNo) -> bool,
) -> Option<Job> {
    let job = |inputs: Range<usize>, reason| Some(job_of(runs, inputs, options, reason));
    let upper_count = if options.has_bottom { runs.len().saturating_sub(1) } else { runs.len() };
    let upper = &runs[..upper_count];
    if let Some(bottom) = runs.get(upper_count).map(Borrow::borrow) {
        let upper_bytes = bytes_of(upper);
        if upper.len() + 1 >= options.tier_runs
            && upper_bytes.saturating_mul(options.bottom_ratio) >= bottom.len
        {
            return job(0..runs.len(), Reason::Bottom);
        }
        let tombstones: u64 = upper.iter().map(|run| run.borrow().props.tombstones).sum();
        if tombstones >= TOMBSTONES_MIN && tombstones.saturating_mul(2) >= bottom.props.entries {
            return job(0..runs.len(), Reason::Tombstones);
        }
    }
    let too_many = upper.len() > options.upper_runs_max;
    if let Some(inputs) = like_neighbours(upper, options.tier_runs) {
        return job(inputs, if too_many { Reason::TooManyRuns } else { Reason::Tier });
    }
    if too_many {
        let windows = (0..=upper.len() - options.tier_runs).map(|at| at..at + options.tier_runs);
        let cheapest = windows.min_by_key(|window| bytes_of(&upper[window.clone()]))?;
        return job(cheapest, Reason::TooManyRuns);
    }
    let evacuated = runs.iter().position(|run| evacuate(run.borrow().file))?;
    job(evacuated..evacuated + 1, Reason::Evacuation)
}

/// The job that makes one run of all, dropping all that can be dropped; `None` if there is nothing to gain.
#[must_use]
pub fn pick_all(runs: &[RunMeta], options: PickOptions) -> Option<Job> {
    let gains = runs.len() > 1 || runs.iter().any(|run| run.props.tombstones > 0 && options.has_bottom);
    gains.then(|| job_of(runs, 0..runs.len(), options, Reason::Asked))
}

fn job_of<R: Borrow<RunMeta>>(runs: &[R], inputs: Range<usize>, options: PickOptions, reason: Reason) -> Job {
    let to_bottom = options.has_bottom && inputs.end == runs.len();
    Job { to_bottom, bytes: bytes_of(&runs[inputs.clone()]), inputs, reason }
}

fn bytes_of<R: Borrow<RunMeta>>(runs: &[R]) -> u64 {
    runs.iter().map(|run| run.borrow().len).sum()
}

/// The cheapest of the longest rows of neighbours of like size, if one is long enough.
fn like_neighbours<R: Borrow<RunMeta>>(upper: &[R], tier_runs: usize) -> Option<Range<usize>> {
    let row_from = |start: usize| {
        let (mut least, mut most) = (u64::MAX, 0);
        let like = upper[start..].iter().take_while(|run| {
            let run: &RunMeta = R::borrow(run);
            let len = run.len;
            (least, most) = (least.min(len), most.max(len));
            most < least.saturating_mul(LIKE_FACTOR)
        });
        start..start + like.count()
    };
    let rows = (0..upper.len()).map(row_from).filter(|row| row.len() >= tier_runs);
    rows.min_by_key(|row| bytes_of(&upper[row.clone()]) / row.len() as u64)
}
