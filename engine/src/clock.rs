//! Where time comes from. The one file of the workspace that reads a clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct TimeMs(pub u64);

/// A source of time, real or simulated. Called from any thread.
pub trait Clock: Send + Sync + 'static {
    /// The time of day. May jump, forwards and backwards.
    fn wall(&self) -> TimeMs;

    /// Time since some fixed moment. Never goes back.
    fn monotonic(&self) -> Duration;

    /// Time since a fixed moment of its own, at a fraction of the price: may stand still for some ten milliseconds.
    fn roughly(&self) -> Duration {
        self.monotonic()
    }
}

/// The operating system's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[allow(clippy::disallowed_methods)] // the one place where the clock is read
    #[must_use]
    pub fn new() -> SystemClock {
        SystemClock { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // the one place where the clock is read
    fn wall(&self) -> TimeMs {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        TimeMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn roughly(&self) -> Duration {
        let since = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
        Duration::try_from(since).unwrap_or_default()
    }
}
