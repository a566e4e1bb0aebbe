//! Scripts that run for long, and who copies a large collection: they go on off the workers, and keep others from their slots.
//!
//! A worker gives a script up after a moment and has it run anew on a thread of its own, so that its other connections are
//! served. It runs on its slots as they are when it begins, and locks them only to commit: they are flushed and shipped
//! meanwhile. Who needs a slot of such a script waits for it without keeping a worker, and is answered BUSY once it has run
//! for longer than `busy-reply-threshold`, as everybody is in Redis. What was on its way before it was known, or what
//! expires, may change a slot meanwhile: then the script runs once more, and after some such times under the slots' locks.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use haypile_engine::signal::Signal;
use haypile_engine::types::Slot;

use super::lock;

/// More scripts than these don't run off the workers; the others keep theirs.
const ASIDES_MAX: usize = 16;

/// A script that runs off the workers.
#[derive(Debug)]
pub struct Aside {
    slots: Vec<Slot>,
    /// When it began, in milliseconds of the monotonic clock.
    pub since_ms: u64,
    /// What ends it: `SCRIPT` or `FUNCTION`; nothing ends what is no script.
    pub kill: Option<&'static str>,
    over: Signal,
}

impl Aside {
    /// Waits until it has ended.
    pub async fn over(&self) {
        self.over.wait_past(0).await;
    }
}

/// The scripts that run off the workers.
#[derive(Debug, Default)]
pub struct Asides {
    all: Mutex<Vec<Arc<Aside>>>,
    count: AtomicUsize,
    ended: AtomicBool,
}

impl Asides {
    /// Notes that a script goes on off the workers. To be called while its slots are locked: whoever looked before waits for
    /// one of these locks now.
    pub fn hold(self: &Arc<Asides>, slots: &[Slot], since_ms: u64, kill: Option<&'static str>) -> Held {
        let aside = Arc::new(Aside { slots: slots.to_vec(), since_ms, kill, over: Signal::default() });
        lock(&self.all).push(aside.clone());
        self.count.fetch_add(1, Ordering::SeqCst);
        Held { asides: self.clone(), aside }
    }

    /// One that holds one of these slots, ascending.
    #[must_use]
    pub fn holder(&self, slots: &[Slot]) -> Option<Arc<Aside>> {
        if self.count.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let all = lock(&self.all);
        all.iter().find(|aside| aside.slots.iter().any(|slot| slots.binary_search(slot).is_ok())).cloned()
    }

    /// One that holds any slot.
    #[must_use]
    pub fn any(&self) -> Option<Arc<Aside>> {
        if self.count.load(Ordering::SeqCst) == 0 {
            return None;
        }
        lock(&self.all).iter().find(|aside| !aside.slots.is_empty()).cloned()
    }

    /// Whether one more may be set aside: each has a thread, and a Lua state with its memory.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.count.load(Ordering::SeqCst) < ASIDES_MAX
    }

    /// The node stops: no script is to hold that up.
    pub fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }

    /// Whether the node stops.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

/// A script's hold; given up when it is dropped.
#[derive(Debug)]
pub struct Held {
    asides: Arc<Asides>,
    /// Which.
    pub aside: Arc<Aside>,
}

impl Drop for Held {
    fn drop(&mut self) {
        lock(&self.asides.all).retain(|other| !Arc::ptr_eq(other, &self.aside));
        self.asides.count.fetch_sub(1, Ordering::SeqCst);
        self.aside.over.notify();
    }
}
