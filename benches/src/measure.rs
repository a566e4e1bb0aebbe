//! What a run took: all of it, and each batch.

use std::fmt;
use std::time::Duration;

/// Times of batches; percentiles are exact.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Operations done.
    pub operations: u64,
    /// From the first to the last.
    pub took: Duration,
    /// Of reads: how many found something.
    pub found: u64,
    batches: Vec<Duration>,
}

impl Report {
    /// Notes a batch.
    pub fn add(&mut self, operations: usize, took: Duration) {
        self.operations += operations as u64;
        self.batches.push(took);
    }

    /// The time that so many of 1000 batches did not exceed.
    #[must_use]
    pub fn permille(&self, permille: usize) -> Duration {
        let mut sorted = self.batches.clone();
        sorted.sort_unstable();
        let place = (sorted.len() * permille).div_ceil(1000).saturating_sub(1);
        sorted.get(place).copied().unwrap_or_default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.operations as f64 / self.took.as_secs_f64().max(1e-9);
        write!(
            f,
            "{} operations in {:.3} s, {rate:.0}/s; a batch: median {:?}, 99 % {:?}, slowest {:?}; found {}",
            self.operations,
            self.took.as_secs_f64(),
            self.permille(500),
            self.permille(990),
            self.permille(1000),
            self.found
        )
    }
}
