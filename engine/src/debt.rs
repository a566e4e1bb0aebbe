//! What compaction owes, and how flushes wait for it: so that runs do not pile up without end where more is written than
//! compaction keeps up with.
//!
//! Each flush adds a run to each of its slots. Once those have far more runs than compaction leaves alone, a flush waits
//! before it begins, the longer the more runs there are. That counts as part of its time, so writers are slowed as smoothly
//! as they are by flushes that take long ([`crate::pace`]). Without background threads (simulations) nothing waits.

use std::time::Duration;

use crate::compact::PickOptions;
use crate::engine::Engine;
use crate::types::Slot;

/// How much longer a flush waits for each run too many, on average of its slots.
const WAIT_PER_RUN: Duration = Duration::from_millis(20);
/// No flush waits longer: what is in memory has to go into files all the same.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// So many runs of a slot are no debt yet: compaction lets half as many be, and jobs take their time.
fn runs_allowed() -> usize {
    2 * PickOptions::default().upper_runs_max
}

/// How long a flush of so many slots waits that have so many runs together.
fn wait(slots: usize, runs: usize) -> Duration {
    let surplus = runs.saturating_sub(slots * runs_allowed());
    let slots = u32::try_from(slots.max(1)).unwrap_or(u32::MAX);
    (WAIT_PER_RUN.saturating_mul(u32::try_from(surplus).unwrap_or(u32::MAX)) / slots).min(WAIT_MAX)
}

impl Engine {
    /// Waits before a flush of these slots, if compaction is far behind with them, until it is not or for a while.
    pub(crate) fn wait_for_compaction(&self, slots: &[Slot]) {
        if !self.pace().is_running() {
            return;
        }
        let runs = || slots.iter().map(|&slot| self.lock(slot).version.runs().len()).sum();
        let begin = self.clock().monotonic();
        loop {
            let seen = self.compactions.count();
            let waited = self.clock().monotonic().saturating_sub(begin);
            let left = wait(slots.len(), runs()).saturating_sub(waited);
            if left.is_zero() {
                self.work().held_for_compaction(waited);
                return;
            }
            self.compactions.block_past(seen, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_waits_the_longer_the_more_runs_its_slots_have_and_never_for_ever() {
        let allowed = runs_allowed();
        assert_eq!(wait(0, 0), Duration::ZERO);
        assert_eq!(wait(10, 10 * allowed), Duration::ZERO);
        assert_eq!(wait(10, 10 * (allowed + 1)), WAIT_PER_RUN);
        assert_eq!(wait(10, 10 * allowed + 5), WAIT_PER_RUN / 2);
        assert_eq!(wait(10, 1 << 40), WAIT_MAX);
    }
}
