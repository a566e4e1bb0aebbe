//! How many calls took how long, in buckets of an eighth of an octave: what is told of a percentile is off by 12 % at most.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Owner;

/// Buckets of an octave.
const PARTS: usize = 8;
const PARTS_BITS: u32 = 3;
/// The last bucket holds everything from about 18 minutes on.
const BUCKETS: usize = 312;

/// Counts of latencies. Any thread may note and read.
#[derive(Debug)]
pub struct Histogram([AtomicU64; BUCKETS]);

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram([const { AtomicU64::new(0) }; BUCKETS])
    }
}

fn bucket_of(ns: u64) -> usize {
    if ns < PARTS as u64 {
        return usize::try_from(ns).expect("it is small");
    }
    let octave = 63 - ns.leading_zeros();
    let part = usize::try_from(ns >> (octave - PARTS_BITS)).expect("16 at most") % PARTS;
    let octaves = usize::try_from(octave - PARTS_BITS + 1).expect("it is small");
    (octaves * PARTS + part).min(BUCKETS - 1)
}

/// The smallest time that is beyond a bucket, in nanoseconds.
fn end_of(bucket: usize) -> u64 {
    let next = bucket + 1;
    if next < PARTS {
        return next as u64;
    }
    let octave = u32::try_from(next / PARTS).expect("it is small") + PARTS_BITS - 1;
    (1 << octave) + ((next % PARTS) as u64) * (1 << (octave - PARTS_BITS))
}

impl Histogram {
    /// Notes one; it is a thread's of this kind.
    pub fn note(&self, ns: u64, owner: Owner) {
        owner.add(&self.0[bucket_of(ns)], 1);
    }

    /// Adds the counts to others.
    pub fn add_to(&self, counts: &mut Vec<u64>) {
        counts.resize(BUCKETS, 0);
        for (count, bucket) in counts.iter_mut().zip(&self.0) {
            *count += bucket.load(Ordering::Relaxed);
        }
    }
}

/// The time in nanoseconds that this share of the calls (0.5, 0.99) did not exceed.
#[must_use]
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a share of a count
pub fn percentile(counts: &[u64], share: f64) -> u64 {
    let total: u64 = counts.iter().sum();
    let wanted = ((total as f64 * share).ceil() as u64).max(1);
    let mut seen = 0;
    for (bucket, count) in counts.iter().enumerate() {
        seen += count;
        if seen >= wanted {
            return end_of(bucket);
        }
    }
    0
}

/// For each power of two of microseconds by which more calls had ended: how many had.
#[must_use]
pub fn powers(counts: &[u64]) -> Vec<(u64, u64)> {
    let mut out: Vec<(u64, u64)> = Vec::new();
    let mut seen = 0;
    let mut bound_ns = 1024u64;
    for (bucket, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        while end_of(bucket) > bound_ns {
            bound_ns *= 2;
        }
        seen += count;
        match out.last_mut() {
            Some((bound, told)) if *bound == bound_ns / 1000 => *told = seen,
            _ => out.push((bound_ns / 1000, seen)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_narrow() {
        for bucket in 0..BUCKETS - 1 {
            assert_eq!(bucket_of(end_of(bucket)), bucket + 1);
            assert_eq!(bucket_of(end_of(bucket) - 1), bucket);
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_and_powers_are_told() {
        let histogram = Histogram::default();
        (0..98).for_each(|_| histogram.note(900, Owner::One));
        histogram.note(5_000, Owner::Many);
        histogram.note(5_000_000, Owner::One);
        let mut counts = Vec::new();
        histogram.add_to(&mut counts);
        assert!((900..=1024).contains(&percentile(&counts, 0.5)));
        assert!((5_000..=5_700).contains(&percentile(&counts, 0.99)));
        assert!((5_000_000..=5_700_000).contains(&percentile(&counts, 0.999)));
        assert_eq!(powers(&counts), [(1, 98), (8, 99), (8388, 100)]);
        assert_eq!(powers(&[]), []);
    }
}
