//! Which runs make up a slot: an immutable value, shared by `Arc`, replaced as a whole under the slot's lock.

use crate::clock::TimeMs;
use crate::sst::{BlockId, Blocks, Found, Lookup, Probe, Run, RunMeta};
use crate::sync::Arc;
use crate::types::Seq;

/// The runs of a slot.
///
/// Invariant: newest first, and each holds records that are all older than those of the run before it.
#[derive(Clone, Default, Debug)]
pub struct Version {
    runs: Vec<Arc<Run>>,
}

/// What a slot's files say about a key.
#[derive(Debug)]
pub enum Answer {
    /// What the newest run that knows the key says.
    Found(Found),
    /// No run knows it.
    Absent,
    /// Unknown until this block of this run is there.
    NeedsBlock(Arc<Run>, BlockId),
}

impl Version {
    /// The version of these runs, in any order.
    ///
    /// # Panics
    /// If two of them overlap in seqs: one of them would be wrong.
    #[must_use]
    pub fn new(mut runs: Vec<Arc<Run>>) -> Version {
        runs.sort_by_key(|run| std::cmp::Reverse(run.meta().props.max_seq));
        for pair in runs.windows(2) {
            let (newer, older) = (&pair[0].meta().props, &pair[1].meta().props);
            assert!(newer.min_seq > older.max_seq, "runs overlap: {newer:?} and {older:?}");
        }
        Version { runs }
    }

    /// This version after an edit: without the runs `removed`, with those `added`.
    ///
    /// # Panics
    /// If a run to remove is not there, or as [`Version::new`].
    #[must_use]
    pub fn edited(&self, added: &[Arc<Run>], removed: &[RunMeta]) -> Version {
        let place = |meta: &RunMeta| (meta.file, meta.offset);
        let goes = |run: &Arc<Run>| removed.iter().any(|meta| place(meta) == place(run.meta()));
        let mut runs: Vec<_> = self.runs.iter().filter(|run| !goes(run)).cloned().collect();
        assert_eq!(runs.len() + removed.len(), self.runs.len(), "a run to remove is not there");
        runs.extend_from_slice(added);
        Version::new(runs)
    }

    /// The runs, newest first.
    #[must_use]
    pub fn runs(&self) -> &[Arc<Run>] {
        &self.runs
    }

    /// Where the runs lie and what they say of themselves, newest first.
    #[must_use]
    pub fn metas(&self) -> Vec<RunMeta> {
        self.runs.iter().map(|run| run.meta().clone()).collect()
    }

    /// The first moment at which one of the keys expires.
    #[must_use]
    pub fn min_expiry(&self) -> Option<TimeMs> {
        self.runs.iter().filter_map(|run| run.meta().props.min_expiry).min()
    }

    /// Looks a key up.
    pub fn get(&self, probe: Probe<'_>, blocks: &mut dyn Blocks) -> Answer {
        for run in &self.runs {
            match run.get(probe, blocks) {
                Lookup::Found(found) => return Answer::Found(found),
                Lookup::Absent => {}
                Lookup::NeedsBlock(id) => return Answer::NeedsBlock(Arc::clone(run), id),
            }
        }
        Answer::Absent
    }

    /// The last record in it.
    #[must_use]
    pub fn max_seq(&self) -> Seq {
        self.runs.first().map_or(Seq::ZERO, |run| run.meta().props.max_seq)
    }

    /// Bytes on disk.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.meta().len).sum()
    }

    /// Entries of all runs, also those that newer ones hide.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.runs.iter().map(|run| run.meta().props.entries).sum()
    }

    /// Bytes of memory that its indexes and filters take.
    #[must_use]
    pub fn pinned_bytes(&self) -> usize {
        self.runs.iter().map(|run| run.pinned_bytes()).sum()
    }
}
