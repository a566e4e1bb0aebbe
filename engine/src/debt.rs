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
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::background::{Job, pace};
    use crate::clock::SystemClock;
    use crate::engine::{Fetched, Options, SyncMode};
    use crate::fs::memory::MemoryFs;
    use crate::key::{Generation, Key};
    use crate::store::block_on;
    use crate::worker::{self, Next, Stop};

    #[test]
    fn a_flush_waits_the_longer_the_more_runs_its_slots_have_and_never_for_ever() {
        let allowed = runs_allowed();
        assert_eq!(wait(0, 0), Duration::ZERO);
        assert_eq!(wait(10, 10 * allowed), Duration::ZERO);
        assert_eq!(wait(10, 10 * (allowed + 1)), WAIT_PER_RUN);
        assert_eq!(wait(10, 10 * allowed + 5), WAIT_PER_RUN / 2);
        assert_eq!(wait(10, 1 << 40), WAIT_MAX);
    }

    /// How long the device takes for a compaction of the test below, whatever there is to do.
    const COMPACTION: Duration = Duration::from_millis(300);
    /// Before there are so many too many, flushes have waited as long as fifty compactions take.
    const RUNS_TOO_MANY: usize = 40;

    /// Ends the threads of a test, also where it fails.
    struct Ends<'a>(&'a Stop, &'a Engine);

    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.raise(&[&self.1.pressure, &self.1.pace().crowded]);
        }
    }

    #[test]
    fn where_compaction_is_slow_flushes_wait_for_it_and_runs_stay_few() {
        let options = Options {
            memory_bytes: 256 << 10,
            log_segment_bytes: 1 << 20,
            compress: false,
            sync: SyncMode::No,
            ..Options::default()
        };
        let (fs, clock) = (Arc::new(MemoryFs::new()), Arc::new(SystemClock::new()));
        let (engine, _) = Engine::open(fs, Path::new("/debt"), clock, options).expect("opens");
        let slot = Slot::of_key(b"{a}");
        engine.add_slots(&[slot]).expect("is added");
        // Many more than the runs that there may ever be.
        let wanted = runs_allowed() + 2 * RUNS_TOO_MANY;
        let (engine, stop, flushes) = (&engine, &Stop::default(), &AtomicUsize::new(0));
        let most = std::thread::scope(|scope| {
            let ends = Ends(stop, engine);
            engine.pace().set_running(true);
            scope.spawn(|| pace(engine, stop));
            scope.spawn(|| {
                worker::work(stop, &engine.pressure, || {
                    let did = engine.step(Job::Flush).expect("flushes");
                    flushes.fetch_add(usize::from(did), Ordering::Relaxed);
                    if did { Next::Again } else { Next::Rest(Duration::from_millis(100)) }
                });
            });
            scope.spawn(|| {
                worker::work(stop, &stop.signal, || {
                    engine.step(Job::Compact).expect("compacts");
                    Next::Rest(COMPACTION)
                });
            });
            scope.spawn(|| {
                worker::work(stop, &stop.signal, || {
                    engine.step(Job::Prepare).expect("prepares");
                    Next::Rest(Duration::from_millis(10))
                });
            });
            let (key, value, mut most) = (Key::new(b"{a}"), vec![b'v'; 1000], 0);
            let mut number = 0_u32;
            while flushes.load(Ordering::Relaxed) < wanted {
                block_on(engine.room()).expect("there will be room");
                let fetched = Fetched::default();
                let mut tx = engine.begin(&[slot], &fetched);
                number = (number + 1) % 1000;
                tx.put_element(&key, Generation(1), &number.to_be_bytes(), &value);
                tx.commit().expect("commits");
                engine.write().expect("writes");
                most = most.max(engine.lock(slot).version.runs().len());
            }
            drop(ends);
            most
        });
        assert!(most <= runs_allowed() + RUNS_TOO_MANY, "{most} runs");
        assert!(most <= runs_allowed() || engine.stats().held > 0, "{most} runs, and no flush has waited");
    }
}
