//! Who wants to know that a key changes: a flag for each watcher, raised under the slot's lock by whatever changes the
//! key there, be it a transaction, a record of the master that the slot follows, or the end of the slot's life.
//!
//! It tells that something changed, not what. A flag stays raised; it is not persisted. Nothing is done for a slot that
//! nobody watches.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::key::{self, EntryKey};
use crate::log::record::Op;
use crate::signal::Signal;

/// A watcher's flag: raised once one of its keys has changed. Clones are the same flag.
#[derive(Clone, Debug, Default)]
pub struct Flag(Arc<Raised>);

#[derive(Debug, Default)]
struct Raised {
    is: AtomicBool,
    signal: Signal,
}

impl Flag {
    /// Whether it was raised. Certain only for keys whose slots are locked; there it misses nothing.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.0.is.load(Ordering::Relaxed)
    }

    /// Raises it. The slot's lock orders this before whoever looks at it under that lock.
    pub fn raise(&self) {
        if !self.0.is.swap(true, Ordering::Relaxed) {
            self.0.signal.notify();
        }
    }

    /// Waits until it is raised.
    pub async fn raised(&self) {
        self.0.signal.wait_past(0).await;
    }

    fn is(&self, other: &Flag) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Whether there was a (living) key when its watch began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Before {
    /// There was.
    Lived,
    /// There was none: that nothing is removed is no change.
    Absent,
}

/// Who watches a slot's keys.
#[derive(Debug, Default)]
pub(crate) struct Watched(HashMap<EntryKey, Vec<(Flag, Before)>>);

impl Watched {
    pub(crate) fn add(&mut self, key: &[u8], flag: Flag, before: Before) {
        self.0.entry(EntryKey::from_slice(key)).or_default().push((flag, before));
    }

    /// Ends a watch; says whether anybody watches the slot still.
    pub(crate) fn remove(&mut self, key: &[u8], flag: &Flag) -> bool {
        if let Some(watchers) = self.0.get_mut(key) {
            watchers.retain(|(other, _)| !other.is(flag));
            if watchers.is_empty() {
                self.0.remove(key);
            }
        }
        !self.0.is_empty()
    }

    /// An operation was done to the slot.
    pub(crate) fn changed_by(&self, op: &Op<'_>) {
        match *op {
            Op::Put { key, .. } => self.entry_changed(&key::entry_key(key), false),
            Op::Delete { key } => self.entry_changed(&key::entry_key(key), true),
            Op::PutElement { key, generation, sub, .. } | Op::DeleteElement { key, generation, sub } => {
                self.entry_changed(&key::element_key(key, generation, sub), false);
            }
            Op::Clear => self.cleared(),
        }
    }

    /// An entry was written or removed: a key's own, or an element's.
    fn entry_changed(&self, entry_key: &[u8], removed: bool) {
        let Some(parts) = key::split(entry_key) else { return };
        let Some(watchers) = self.0.get(parts.prefix) else { return };
        for (flag, before) in watchers {
            if !removed || parts.element.is_some() || *before == Before::Lived {
                flag.raise();
            }
        }
    }

    /// All keys were removed.
    fn cleared(&self) {
        self.0
            .values()
            .flatten()
            .filter(|(_, before)| *before == Before::Lived)
            .for_each(|(flag, _)| flag.raise());
    }
}

/// The slot's life has ended: nothing is known of its keys.
impl Drop for Watched {
    fn drop(&mut self) {
        self.0.values().flatten().for_each(|(flag, _)| flag.raise());
    }
}
