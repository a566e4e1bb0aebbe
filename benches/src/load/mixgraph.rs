//! The social graph of Cao et al., "Characterizing, Modeling, and Benchmarking RocksDB Key-Value Workloads at Facebook",
//! FAST 2020: UDB's object table as db_bench's `mixgraph` models it ("prefix_dist" in RocksDB's wiki).
//!
//! Keys are cut into 30 ranges whose heat follows a two-term exponential; within a range a power law says which key. 85 of
//! 100 operations read, 14 write, 1 scans; lengths of values and scans are Pareto. db_bench also moves the rate along a
//! sine; here `--rate` sets a fixed one.

use haypile_engine::random::Coin;

use super::values::pareto;
use super::{below, floor, fraction};

const RANGES: u64 = 30;
const RANGE_A: f64 = 14.18;
const RANGE_B: f64 = -2.917;
const RANGE_C: f64 = 0.0164;
const RANGE_D: f64 = -0.08082;
const KEY_A: f64 = 0.002_312;
const KEY_B: f64 = 0.3467;
const VALUE_K: f64 = 0.2615;
const VALUE_SIGMA: f64 = 25.45;
/// db_bench's `mix_max_value_size`.
pub const VALUE_BYTES_MAX: usize = 1024;
const SCAN_K: f64 = 2.517;
const SCAN_SIGMA: f64 = 14.236;
/// db_bench's `mix_max_scan_len`.
const SCAN_MAX: u64 = 10_000;

/// What the next operation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Reads a key.
    Get,
    /// Puts a value of so many bytes.
    Put(usize),
    /// Reads so many entries.
    Scan(usize),
}

/// The model, for some number of keys.
#[derive(Clone, Debug)]
pub struct MixGraph {
    keys: u64,
    /// Invariant: ascending; the last is about 1. Up to which fraction of the draws each range gets.
    borders: Vec<f64>,
}

impl MixGraph {
    /// The model over numbers below `keys`.
    #[must_use]
    pub fn new(keys: u64) -> MixGraph {
        let heat = |range: u64| {
            let range = range as f64;
            RANGE_A * (RANGE_B * range).exp() + RANGE_C * (RANGE_D * range).exp()
        };
        // Where the hot ranges lie is the same in every run, as in db_bench.
        let mut heats: Vec<f64> = (1..=RANGES).map(heat).collect();
        let mut coin = Coin::new(RANGES);
        for last in (1..heats.len()).rev() {
            heats.swap(last, coin.below(last + 1));
        }
        let all: f64 = heats.iter().sum();
        let mut sum = 0.0;
        let borders = heats.iter().map(|heat| {
            sum += heat / all;
            sum
        });
        MixGraph { keys: keys.max(RANGES), borders: borders.collect() }
    }

    /// The number of a key.
    #[must_use]
    pub fn key(&self, coin: &mut Coin) -> u64 {
        let draw = fraction(coin.next_u64());
        let range = self.borders.partition_point(|border| *border <= draw).min(self.borders.len() - 1) as u64;
        let range_keys = self.keys / RANGES;
        let u = fraction(coin.next_u64());
        let seed = floor((u / KEY_A).powf(1.0 / KEY_B).ceil());
        range * range_keys + below(Coin::new(seed).next_u64(), range_keys)
    }

    /// What is done.
    #[must_use]
    pub fn turn(coin: &mut Coin) -> Turn {
        match below(coin.next_u64(), 100) {
            0..85 => Turn::Get,
            85..99 => {
                let bytes = pareto(coin.next_u64(), VALUE_K, VALUE_SIGMA);
                Turn::Put(usize::try_from(bytes).unwrap_or(VALUE_BYTES_MAX).min(VALUE_BYTES_MAX))
            }
            _ => {
                let entries = pareto(coin.next_u64(), SCAN_K, SCAN_SIGMA) % SCAN_MAX;
                Turn::Scan(usize::try_from(entries).unwrap_or_default())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_ranges_and_few_keys_get_most() {
        let model = MixGraph::new(30_000);
        let mut coin = Coin::new(8);
        let mut ranges = [0u32; 30];
        let mut keys = vec![0u32; 30_000];
        for _ in 0..100_000 {
            let key = usize::try_from(model.key(&mut coin)).expect("small");
            ranges[key / 1000] += 1;
            keys[key] += 1;
        }
        // exp(-2.917) x 14.18 is three quarters of the sum of all heats.
        let hottest = ranges.iter().copied().max().unwrap_or_default();
        assert!((70_000..85_000).contains(&hottest), "{hottest}");
        keys.sort_unstable_by(|a, b| b.cmp(a));
        let top: u32 = keys[..300].iter().sum();
        assert!(top > 20_000, "the top hundredth has {top} of 100000");
    }

    #[test]
    fn turns_have_their_shares_and_bounds() {
        let mut coin = Coin::new(8);
        let (mut gets, mut puts, mut scans) = (0, 0, 0);
        for _ in 0..100_000 {
            match MixGraph::turn(&mut coin) {
                Turn::Get => gets += 1,
                Turn::Put(bytes) => {
                    assert!((1..=VALUE_BYTES_MAX).contains(&bytes));
                    puts += 1;
                }
                Turn::Scan(entries) => {
                    assert!(entries < 10_000);
                    scans += 1;
                }
            }
        }
        assert!((84_000..86_000).contains(&gets) && (13_500..14_500).contains(&puts), "{gets} {puts}");
        assert!((900..1100).contains(&scans));
    }
}
