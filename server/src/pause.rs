//! CLIENT PAUSE: commands wait until a moment. Costs one look at a flag while nothing is paused.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::node::Node;

/// What waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Paused {
    /// Every command.
    All,
    /// Those that may change something.
    Writes,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Pause {
    what: Paused,
    /// On the monotonic clock.
    until_ms: u64,
}

/// See the file's head.
#[derive(Debug)]
pub struct Pauses {
    /// Set before `now` says what; read before each command.
    on: AtomicBool,
    now: watch::Sender<Option<Pause>>,
    /// How many commands are held back. Alone; partners with nothing.
    held: AtomicUsize,
}

struct Hold<'a>(&'a Pauses);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Pauses {
    fn default() -> Pauses {
        Pauses { on: AtomicBool::new(false), now: watch::Sender::new(None), held: AtomicUsize::new(0) }
    }
}

impl Pauses {
    /// Whether something may be paused.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    /// How many commands are held back.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Counts a command as held back, until what this gives is dropped.
    pub fn hold(&self) -> impl Drop + use<'_> {
        self.held.fetch_add(1, Ordering::Relaxed);
        Hold(self)
    }

    /// Pauses until a moment on the monotonic clock. Of two pauses the later end counts, and the wider, as in Redis.
    pub fn begin(&self, what: Paused, until_ms: u64, now_ms: u64) {
        self.on.store(true, Ordering::Release);
        self.now.send_modify(|now| {
            let old = now.filter(|pause| pause.until_ms > now_ms);
            let all = what == Paused::All || old.is_some_and(|pause| pause.what == Paused::All);
            let until_ms = old.map_or(until_ms, |pause| pause.until_ms.max(until_ms));
            *now = Some(Pause { what: if all { Paused::All } else { Paused::Writes }, until_ms });
        });
    }

    /// Ends what is paused.
    pub fn end(&self) {
        self.now.send_replace(None);
        self.on.store(false, Ordering::Release);
    }

    /// Waits until a command may go on. `may_write` says whether it may change something.
    pub async fn wait(&self, node: &Node, may_write: bool) {
        let mut changes = self.now.subscribe();
        loop {
            let now = *changes.borrow_and_update();
            let left = now
                .filter(|pause| pause.what == Paused::All || may_write)
                .map_or(0, |pause| pause.until_ms.saturating_sub(node.monotonic_ms()));
            if left == 0 {
                return;
            }
            // The sender lives as long as the node.
            let _ = tokio::time::timeout(Duration::from_millis(left), changes.changed()).await;
        }
    }
}
