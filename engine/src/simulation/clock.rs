//! A clock that goes on only when it is told to, and whose time of day is turned back now and then.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::{Clock, TimeMs};
use crate::random::Coin;

/// Where every simulation begins: 2023-11-14.
const START_MS: u64 = 1_700_000_000_000;

/// Simulated time: the time of day and the monotonic time are a start apart, and how far the first was turned back.
#[derive(Debug, Default)]
pub struct SimClock {
    elapsed_ms: AtomicU64,
    turned_back_ms: AtomicU64,
}

impl SimClock {
    /// A clock that shows so much time since the simulation's start.
    #[must_use]
    pub fn at(elapsed_ms: u64) -> SimClock {
        SimClock { elapsed_ms: AtomicU64::new(elapsed_ms), ..SimClock::default() }
    }

    /// Turns the time of day back, by as much as the seed says: seldom, mostly by about as long as keys live, or by a
    /// day. It is right again after the next call, unless it is turned back at every one.
    pub fn turn_back(&self, seed: u64, always: bool) {
        let mut coin = Coin::new(seed ^ 0x7469_6d65);
        let ms = match if always { 0 } else { coin.below(4) } {
            0 => coin.below(3000) as u64,
            1 if coin.below(4) == 0 => 86_400_000,
            _ => 0,
        };
        self.turned_back_ms.store(ms, Ordering::Relaxed);
    }

    /// Lets time pass.
    pub fn advance(&self, ms: u64) {
        self.elapsed_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Milliseconds since the simulation's start.
    pub fn elapsed_ms(&self) -> u64 {
        self.elapsed_ms.load(Ordering::Relaxed)
    }
}

impl Clock for SimClock {
    fn wall(&self) -> TimeMs {
        TimeMs(START_MS + self.elapsed_ms() - self.turned_back_ms.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.elapsed_ms())
    }
}
