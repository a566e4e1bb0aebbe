//! Keys that are on their way to another node this moment, one by one. Pure bookkeeping, behind one lock.
//!
//! From before a key is read for the other node until it is there, and gone here, it is marked: whoever wants to change it under
//! its slot's lock finds the mark and waits. It may still be read.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use haypile_engine::types::hash_tag;
use tokio::sync::watch;

/// What is marked.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mark {
    /// One key.
    Key(Bytes),
    /// All keys with this hash tag: those that are not there yet, too.
    Tag(Bytes),
}

impl Mark {
    /// What has to be marked for a key that goes; with all that have its tag, if it has one and `with_tag` is set.
    #[must_use]
    pub fn of(key: &Bytes, with_tag: bool) -> Mark {
        match tag(key) {
            Some(tag) if with_tag => Mark::Tag(Bytes::copy_from_slice(tag)),
            _ => Mark::Key(key.clone()),
        }
    }
}

/// The hash tag of a key that has one.
#[must_use]
pub fn tag(key: &[u8]) -> Option<&[u8]> {
    let tag = hash_tag(key);
    (tag.len() < key.len()).then_some(tag)
}

/// See the file's head.
#[derive(Debug)]
pub struct Leaving {
    marks: Mutex<BTreeSet<Mark>>,
    /// As many as `marks` has, so that a command can look without a lock. It is set before a key's slot is locked to read the
    /// key, and looked at under that lock.
    count: AtomicUsize,
    /// How often all that goes was told to stay.
    cancels: AtomicU64,
    changes: watch::Sender<u64>,
}

impl Default for Leaving {
    fn default() -> Leaving {
        Leaving {
            marks: Mutex::default(),
            count: AtomicUsize::new(0),
            cancels: AtomicU64::new(0),
            changes: watch::Sender::new(0),
        }
    }
}

impl Leaving {
    /// Whether any key is marked.
    #[must_use]
    pub fn any(&self) -> bool {
        self.count.load(Ordering::SeqCst) > 0
    }

    /// Whether this key is.
    #[must_use]
    pub fn has(&self, key: &[u8]) -> bool {
        self.any() && is_marked(&self.lock(), key)
    }

    /// Marks all of these, or none if one is marked already.
    pub fn begin(&self, new: &BTreeSet<Mark>) -> bool {
        let mut marks = self.lock();
        let meets = |mark: &Mark| match mark {
            Mark::Key(key) => is_marked(&marks, key),
            Mark::Tag(wanted) => marks.iter().any(|other| match other {
                Mark::Key(key) => tag(key) == Some(wanted),
                Mark::Tag(other) => other == wanted,
            }),
        };
        if new.iter().any(meets) {
            return false;
        }
        marks.extend(new.iter().cloned());
        self.count.store(marks.len(), Ordering::SeqCst);
        true
    }

    /// These are there, or stay here.
    pub fn end(&self, old: &BTreeSet<Mark>) {
        let mut marks = self.lock();
        marks.retain(|mark| !old.contains(mark));
        self.count.store(marks.len(), Ordering::SeqCst);
        drop(marks);
        self.changes.send_modify(|count| *count += 1);
    }

    /// To wait for the next end.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Tells all that goes to stay.
    pub fn cancel(&self) {
        self.cancels.fetch_add(1, Ordering::SeqCst);
    }

    /// How often [`Leaving::cancel`] was called.
    #[must_use]
    pub fn cancels(&self) -> u64 {
        self.cancels.load(Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Mark>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_marked(marks: &BTreeSet<Mark>, key: &[u8]) -> bool {
    let key_mark = Mark::Key(Bytes::copy_from_slice(key));
    let tag_mark = tag(key).map(|tag| Mark::Tag(Bytes::copy_from_slice(tag)));
    marks.contains(&key_mark) || tag_mark.is_some_and(|mark| marks.contains(&mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(keys: &[&'static str], with_tag: bool) -> BTreeSet<Mark> {
        keys.iter().map(|key| Mark::of(&Bytes::from_static(key.as_bytes()), with_tag)).collect()
    }

    #[test]
    fn a_key_with_a_tag_takes_all_that_have_it_along() {
        let leaving = Leaving::default();
        assert!(!leaving.any());
        let (tagged, plain) = (marks(&["{t}a", "b"], true), marks(&["c", "{u}d"], false));
        assert!(leaving.begin(&tagged) && leaving.begin(&plain));
        for (key, expected) in [("{t}a", true), ("x{t}", true), ("t", false), ("b", true), ("c", true)] {
            assert_eq!(leaving.has(key.as_bytes()), expected, "{key}");
        }
        assert!(leaving.has(b"{u}d") && !leaving.has(b"{u}e"));
        for (keys, with_tag) in [(["{t}z", "q"], false), (["q", "b"], true), (["q", "{u}e"], true)] {
            assert!(!leaving.begin(&marks(&keys, with_tag)), "{keys:?}");
        }
        assert!(!leaving.has(b"q"), "all or none");
        leaving.end(&tagged);
        leaving.end(&plain);
        assert!(!leaving.any() && leaving.begin(&marks(&["{t}z", "q"], true)));
    }
}
