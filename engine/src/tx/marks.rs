//! Taking back the last of what a transaction has written: for one that runs several commands, of which one fails half-way.

use smallvec::SmallVec;

use super::Tx;
use crate::clock::TimeMs;
use crate::key::{Key, element_key, entry_key};
use crate::log::record::{self, Op};
use crate::overlay::{Overlay, Written};

/// What a transaction had written at a moment.
#[derive(Debug)]
pub struct Mark(SmallVec<[SlotMark; 1]>);

#[derive(Debug)]
struct SlotMark {
    record_bytes: usize,
    cleared: bool,
    keys_delta: i64,
    earliest_expiry: Option<TimeMs>,
}

impl Tx<'_> {
    /// Whether the key's slot is locked: others must not be used.
    #[must_use]
    pub fn covers(&self, key: &Key) -> bool {
        self.locked.binary_search_by_key(&key.slot(), |locked| locked.slot).is_ok()
    }

    /// What was written until now.
    #[must_use]
    pub fn mark(&self) -> Mark {
        let marks = self.locked.iter().map(|locked| SlotMark {
            record_bytes: locked.writes.record.len(),
            cleared: locked.writes.cleared,
            keys_delta: locked.writes.keys_delta,
            earliest_expiry: locked.writes.earliest_expiry,
        });
        Mark(marks.collect())
    }

    /// Takes back what was written since the mark. Costs what had been written before, and nothing if nothing was since.
    ///
    /// # Panics
    /// If the mark is another transaction's.
    pub fn rewind(&mut self, mark: &Mark) {
        assert_eq!(self.locked.len(), mark.0.len(), "a transaction's own mark");
        self.found = None;
        for (locked, mark) in self.locked.iter_mut().zip(&mark.0) {
            let writes = &mut locked.writes;
            if writes.record.len() == mark.record_bytes {
                continue;
            }
            writes.record.truncate(mark.record_bytes);
            writes.cleared = mark.cleared;
            writes.keys_delta = mark.keys_delta;
            writes.earliest_expiry = mark.earliest_expiry;
            writes.overlay = replayed(&writes.record);
        }
    }
}

/// What a record's operations do to entries; its header is not filled in yet.
fn replayed(whole: &[u8]) -> Overlay {
    let mut overlay = Overlay::default();
    // Values are told by where they lie.
    let place = |value: &[u8]| {
        let start = value.as_ptr().addr() - whole.as_ptr().addr();
        Written::value(start..start + value.len())
    };
    for op in record::ops(whole.get(record::HEADER_BYTES..).unwrap_or_default()) {
        match op.expect("this transaction wrote it") {
            Op::Put { key, value, .. } => overlay.insert(entry_key(key), place(value)),
            Op::Delete { key } => overlay.insert(entry_key(key), Written::Tombstone),
            Op::PutElement { key, generation, sub, value } => {
                overlay.insert(element_key(key, generation, sub), place(value));
            }
            Op::DeleteElement { key, generation, sub } => {
                overlay.insert(element_key(key, generation, sub), Written::Tombstone);
            }
            Op::Clear => overlay = Overlay::default(),
        }
    }
    overlay
}
