//! Copies that this node gives: how fast, how many at a time, and which are kept for a replica that lost its
//! connection.
//!
//! A copy that was under way stays open for a while, so that the replica finds the runs of which it has parts even if a
//! compaction has replaced them since. A replica that does not come back holds neither files nor log for longer than
//! [`KEPT_MS`]. Any thread may use it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use haypile_engine::copy::CopySource;
use haypile_engine::types::{NodeId, Slot};

/// Slots that are copied to one replica at once, unless told otherwise.
pub const SLOTS_MAX: usize = 4;
/// A copy whose connection was lost is kept for so long.
pub const KEPT_MS: u64 = 300_000;
/// A piece of a copy is at most this large.
const PIECE_BYTES_MAX: usize = 256 << 10;
/// And not smaller than this, however slow copies are to be.
const PIECE_BYTES_MIN: usize = 4 << 10;
/// So many pieces are sent in a second at least, if the rate is limited: what is sent at once stays small.
const PIECES_A_SECOND: u64 = 20;

/// What of a copy is kept.
#[derive(Debug)]
pub struct Kept {
    /// Its runs.
    pub source: CopySource,
    /// Which life of the slot they are of.
    pub life: u64,
}

/// Bytes that may be sent, and when they were counted.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// Below 0 where a piece was larger than what was left.
    bytes: i64,
    at_ms: u64,
}

/// See the file's head.
#[derive(Debug)]
pub struct Copies {
    /// Bytes a second, all copies of this node together; 0: as fast as it goes.
    rate: AtomicU64,
    slots_max: AtomicUsize,
    piece_bytes: AtomicUsize,
    bucket: Mutex<Bucket>,
    kept: Mutex<BTreeMap<(NodeId, Slot), (Kept, u64)>>,
}

impl Default for Copies {
    fn default() -> Copies {
        Copies {
            rate: AtomicU64::new(0),
            slots_max: AtomicUsize::new(SLOTS_MAX),
            piece_bytes: AtomicUsize::new(PIECE_BYTES_MAX),
            bucket: Mutex::default(),
            kept: Mutex::default(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no code panics under this lock")
}

impl Copies {
    /// How many bytes a second all copies together may take from now on; 0: as many as they can.
    pub fn set_rate(&self, bytes_a_second: u64) {
        self.rate.store(bytes_a_second, Ordering::Relaxed);
        lock(&self.bucket).bytes = 0;
    }

    /// How many slots may be copied to one replica at once from now on; at least one.
    pub fn set_slots_max(&self, slots: usize) {
        self.slots_max.store(slots.max(1), Ordering::Relaxed);
    }

    /// How many slots may be copied to one replica at once.
    #[must_use]
    pub fn slots_max(&self) -> usize {
        self.slots_max.load(Ordering::Relaxed)
    }

    /// The largest piece: for simulations, whose slots are small.
    pub fn set_piece_bytes(&self, bytes: usize) {
        self.piece_bytes.store(bytes.max(1), Ordering::Relaxed);
    }

    /// How large the next piece may be.
    #[must_use]
    pub fn piece_bytes(&self) -> usize {
        let most = self.piece_bytes.load(Ordering::Relaxed);
        match self.rate.load(Ordering::Relaxed) {
            0 => most,
            rate => {
                usize::try_from(rate / PIECES_A_SECOND).unwrap_or(most).clamp(PIECE_BYTES_MIN.min(most), most)
            }
        }
    }

    /// When the next piece may be sent: now, or at the time given.
    #[must_use]
    pub fn next_piece_ms(&self, now_ms: u64) -> Option<u64> {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return None;
        }
        let mut bucket = lock(&self.bucket);
        let passed = now_ms.saturating_sub(bucket.at_ms);
        let earned = i64::try_from(u128::from(rate) * u128::from(passed) / 1000).unwrap_or(i64::MAX);
        // Time too short to earn anything stays to be counted.
        if earned > 0 {
            let most = i64::try_from(rate / PIECES_A_SECOND).unwrap_or(i64::MAX);
            *bucket = Bucket { bytes: bucket.bytes.saturating_add(earned).min(most), at_ms: now_ms };
        }
        if bucket.bytes >= 0 {
            return None;
        }
        let wait_ms = u128::from(bucket.bytes.unsigned_abs()) * 1000 / u128::from(rate) + 1;
        Some(now_ms.saturating_add(u64::try_from(wait_ms).unwrap_or(u64::MAX)))
    }

    /// A piece of so many bytes is sent.
    pub fn sent(&self, bytes: usize) {
        if self.rate.load(Ordering::Relaxed) > 0 {
            let mut bucket = lock(&self.bucket);
            bucket.bytes = bucket.bytes.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    /// Keeps a copy to `node` that was under way.
    pub fn keep(&self, node: NodeId, slot: Slot, kept: Kept, now_ms: u64) {
        lock(&self.kept).insert((node, slot), (kept, now_ms));
    }

    /// The copy that is kept for a node, which is kept no more.
    pub fn take(&self, node: NodeId, slot: Slot) -> Option<Kept> {
        lock(&self.kept).remove(&(node, slot)).map(|(kept, _)| kept)
    }

    /// Lets go of copies that were kept for too long, and tells for whom.
    pub fn expire(&self, now_ms: u64) -> Vec<(NodeId, Slot)> {
        let mut kept = lock(&self.kept);
        let late = kept.iter().filter(|(_, (_, since))| now_ms.saturating_sub(*since) >= KEPT_MS);
        let late: Vec<_> = late.map(|(who, _)| *who).collect();
        late.iter().for_each(|who| drop(kept.remove(who)));
        late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that leave within so many milliseconds, and when each piece does.
    fn flow(copies: &Copies, from_ms: u64, for_ms: u64) -> u64 {
        let (mut now, mut sent) = (from_ms, 0);
        while now < from_ms + for_ms {
            match copies.next_piece_ms(now) {
                Some(at) => {
                    assert!(at > now, "it is worth waiting");
                    now = at;
                }
                None => {
                    let piece = copies.piece_bytes();
                    copies.sent(piece);
                    sent += piece as u64;
                }
            }
        }
        sent
    }

    #[test]
    fn a_rate_is_kept_whatever_it_is_and_a_pause_earns_no_burst() {
        for rate in [1000, 100_000, 50 << 20, 3 << 30] {
            let copies = Copies::default();
            copies.set_rate(rate);
            for from_ms in [1_000, 900_000] {
                let sent = flow(&copies, from_ms, 10_000);
                let slack = 2 * PIECE_BYTES_MIN as u64 + rate / 5;
                assert!(sent.abs_diff(10 * rate) <= slack, "{sent} bytes in 10 s at {rate} a second");
            }
        }
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let copies = Copies::default();
        copies.set_rate(1);
        copies.sent(1 << 30);
        assert!(copies.next_piece_ms(5).is_some());
        copies.set_rate(0);
        copies.sent(1 << 30);
        assert_eq!((copies.next_piece_ms(5), copies.piece_bytes()), (None, PIECE_BYTES_MAX));
    }
}
