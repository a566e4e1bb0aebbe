//! What a run measured, as it is kept: one JSON object a line in a file. `docs/PERFORMANCE.md` describes it.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::load::operation::Kind;
use crate::plan::Plan;

/// The shape's version. A field is only ever added; what changes its meaning gets another number.
pub const FORMAT: u32 = 1;

/// The percentiles that are kept.
pub const PERCENTILES: [f64; 9] = [50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99, 99.999, 100.0];

/// Latencies, in nanoseconds.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// The mean.
    pub mean_ns: f64,
    /// The least.
    pub min_ns: u64,
    /// The greatest.
    pub max_ns: u64,
    /// Percentile and latency, ascending: [`PERCENTILES`].
    pub percentiles_ns: Vec<(f64, u64)>,
}

impl Latency {
    /// What a histogram says.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Latency {
        let percentile = |percentile| (percentile, histogram.value_at_percentile(percentile));
        Latency {
            mean_ns: histogram.mean(),
            min_ns: if histogram.is_empty() { 0 } else { histogram.min() },
            max_ns: histogram.max(),
            percentiles_ns: PERCENTILES.into_iter().map(percentile).collect(),
        }
    }

    /// The latency that so many of 100 operations did not exceed; 0 if it is not kept.
    #[must_use]
    pub fn percentile_ns(&self, percentile: f64) -> u64 {
        let kept = self.percentiles_ns.iter().find(|(kept, _)| (kept - percentile).abs() < 1e-9);
        kept.map_or(0, |(_, latency)| *latency)
    }
}

/// Operations of one kind.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OfKind {
    /// Which.
    pub kind: Kind,
    /// How many; of a batch, its keys.
    pub operations: u64,
    /// How long they took; of a batch, all of it.
    pub latency: Latency,
}

/// One second of a run.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct PerSecond {
    /// Operations that ended in it.
    pub operations: u64,
    /// Their median.
    pub p50_ns: u64,
    /// Their 99th percentile.
    pub p99_ns: u64,
    /// The slowest of them.
    pub max_ns: u64,
    /// CPU seconds of the target.
    pub cpu_seconds: Option<f64>,
    /// Bytes that it fetched from devices.
    pub read_bytes: Option<u64>,
    /// Bytes that it sent to devices.
    pub write_bytes: Option<u64>,
    /// Its memory at the end of the second.
    pub rss_bytes: Option<u64>,
}

/// What was seen of the target's process from outside, during the run with its settling.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Outside {
    /// CPU seconds in user mode.
    pub user_seconds: f64,
    /// CPU seconds in the kernel.
    pub system_seconds: f64,
    /// Bytes fetched from devices.
    pub read_bytes: u64,
    /// Bytes sent to devices.
    pub write_bytes: u64,
    /// Bytes that read calls gave.
    pub read_call_bytes: u64,
    /// Bytes that write calls took.
    pub write_call_bytes: u64,
    /// Memory before.
    pub rss_start_bytes: u64,
    /// The most memory of any second.
    pub rss_peak_bytes: u64,
    /// Memory at the end.
    pub rss_end_bytes: u64,
}

/// One run of one workload.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Run {
    /// [`FORMAT`].
    pub format: u32,
    /// Milliseconds since 1970 at its start.
    pub started_ms: u64,
    /// The machine.
    pub machine: BTreeMap<String, String>,
    /// The target's name and version.
    pub target: String,
    /// Its settings, as it ran.
    pub configuration: BTreeMap<String, String>,
    /// The workload.
    pub workload: String,
    /// What a table calls it, where the workload's name is not enough: `fillrandom, 8 threads`.
    #[serde(default)]
    pub label: Option<String>,
    /// All workloads that were run on the same data, in order.
    pub chain: Vec<String>,
    /// Which repetition of the chain, from 1.
    pub repeat: u32,
    /// The settings of the load.
    pub plan: Plan,
    /// Operations done, without those of a writer beside.
    pub operations: u64,
    /// From the first operation's start to the last one's end.
    pub seconds: f64,
    /// From there until the target was settled.
    pub settle_seconds: f64,
    /// Operations through seconds.
    pub operations_per_second: f64,
    /// What generating and timing an operation costs by itself; part of each latency in a closed loop.
    pub harness_ns: f64,
    /// Entries that reads found.
    pub found_entries: u64,
    /// Bytes that reads found.
    pub found_bytes: u64,
    /// Bytes of keys and values that were put, removed keys counted.
    pub written_bytes: u64,
    /// Operations that were answered with an error.
    pub errors: u64,
    /// The first of these errors.
    pub first_error: Option<String>,
    /// All operations' latencies.
    pub latency: Latency,
    /// Each kind's.
    pub kinds: Vec<OfKind>,
    /// The writer's beside the measured threads.
    pub beside: Option<OfKind>,
    /// Second by second.
    pub series: Vec<PerSecond>,
    /// The process from outside; `None` if it is not known or not on this machine.
    pub outside: Option<Outside>,
    /// Disk space of the target's folder before the run.
    pub disk_start_bytes: Option<u64>,
    /// And after it.
    pub disk_end_bytes: Option<u64>,
    /// The memory that the target was given.
    pub memory_budget_bytes: Option<u64>,
    /// What the target says of itself.
    pub counters: BTreeMap<String, f64>,
}

impl Run {
    /// Operations with those of a writer beside: what CPU and bytes are divided by.
    #[must_use]
    pub fn all_operations(&self) -> u64 {
        self.operations + self.beside.as_ref().map_or(0, |beside| beside.operations)
    }

    /// CPU microseconds of the target for each operation, background work and settling included.
    #[must_use]
    pub fn cpu_us_per_operation(&self) -> Option<f64> {
        let outside = self.outside.as_ref()?;
        let cpu = outside.user_seconds + outside.system_seconds;
        Some(cpu * 1e6 / self.all_operations().max(1) as f64)
    }

    /// Bytes sent to devices for each byte of keys and values written; `None` if nothing was written or it is unknown.
    #[must_use]
    pub fn write_amplification(&self) -> Option<f64> {
        let outside = self.outside.as_ref()?;
        (self.written_bytes > 0).then(|| outside.write_bytes as f64 / self.written_bytes as f64)
    }
}
