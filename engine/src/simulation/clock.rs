//! A clock that goes on only when it is told to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::{Clock, TimeMs};

/// Where every simulation begins: 2023-11-14.
const START_MS: u64 = 1_700_000_000_000;

/// Simulated time: the time of day and the monotonic time are the same, a start apart.
#[derive(Debug, Default)]
pub struct SimClock(AtomicU64);

impl SimClock {
    /// A clock that shows so much time since the simulation's start.
    #[must_use]
    pub fn at(elapsed_ms: u64) -> SimClock {
        SimClock(AtomicU64::new(elapsed_ms))
    }

    /// Lets time pass.
    pub fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }

    /// Milliseconds since the simulation's start.
    pub fn elapsed_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Clock for SimClock {
    fn wall(&self) -> TimeMs {
        TimeMs(START_MS + self.elapsed_ms())
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.elapsed_ms())
    }
}
