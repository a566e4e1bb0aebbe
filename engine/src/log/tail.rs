//! The log's last frames in memory, within a budget, so that live shipping never reads the disk.

use crate::types::Lsn;
use bytes::Bytes;
use std::collections::VecDeque;

/// What keeping a frame costs beside its body, in bytes.
const FRAME_COST_BYTES: usize = 96;

/// A logical frame in memory.
#[derive(Clone, Debug)]
pub struct TailFrame {
    /// Where it begins.
    pub lsn: Lsn,
    /// Where it ends.
    pub next: Lsn,
    /// Its records.
    pub records: Bytes,
}

/// The last logical frames.
///
/// Invariant: every frame with records from `start` on is here, in log order.
#[derive(Debug)]
pub struct Tail {
    frames: VecDeque<TailFrame>,
    start: Lsn,
    bytes: usize,
    bytes_max: usize,
}

impl Tail {
    /// The tail of a log that ends at `end`, none of it in memory.
    #[must_use]
    pub fn new(end: Lsn, bytes_max: usize) -> Tail {
        Tail { frames: VecDeque::new(), start: end, bytes: 0, bytes_max }
    }

    /// Adds the log's newest frame and lets the oldest go until the budget holds.
    pub fn push(&mut self, lsn: Lsn, next: Lsn, records: &[u8]) {
        if records.len() + FRAME_COST_BYTES > self.bytes_max {
            return self.pass(next);
        }
        self.bytes += records.len() + FRAME_COST_BYTES;
        self.frames.push_back(TailFrame { lsn, next, records: Bytes::copy_from_slice(records) });
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.frames.pop_front() else { break };
            self.bytes -= oldest.records.len() + FRAME_COST_BYTES;
            self.start = oldest.next;
        }
    }

    /// Keeps nothing of what lies before `next`.
    pub fn pass(&mut self, next: Lsn) {
        self.frames.clear();
        self.bytes = 0;
        self.start = next;
    }

    /// Whether everything from `lsn` on is in memory.
    #[must_use]
    pub fn covers(&self, lsn: Lsn) -> bool {
        lsn >= self.start
    }

    /// The first frame at or after `lsn`.
    #[must_use]
    pub fn first_from(&self, lsn: Lsn) -> Option<&TailFrame> {
        self.frames.get(self.frames.partition_point(|frame| frame.lsn < lsn))
    }

    /// Bytes of memory in use.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_frames_go_when_the_budget_is_used_up() {
        let mut tail = Tail::new(Lsn(64), 3 * (100 + FRAME_COST_BYTES));
        for number in 0..5 {
            tail.push(Lsn(64 + number * 200), Lsn(264 + number * 200), &[7; 100]);
        }
        assert!(tail.bytes() <= 3 * (100 + FRAME_COST_BYTES));
        assert!(!tail.covers(Lsn(64)) && tail.covers(Lsn(464)));
        assert_eq!(tail.first_from(Lsn(464)).unwrap().lsn, Lsn(464));
        assert_eq!(tail.first_from(Lsn(465)).unwrap().lsn, Lsn(664));
        tail.push(Lsn(1064), Lsn(9000), &[7; 1000]);
        assert!(!tail.covers(Lsn(1064)) && tail.covers(Lsn(9000)) && tail.first_from(Lsn(0)).is_none());
    }
}
