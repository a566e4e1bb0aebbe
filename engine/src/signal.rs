//! A counter that can be waited for: wakes tasks of any runtime, and needs none.

use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex};

/// Counts events and wakes whoever waits for the next. Any thread may use it.
///
/// Every interleaving of a notifier with waiters is explored by `engine/tests/models/signal.rs`.
#[derive(Debug)]
pub struct Signal {
    /// Notified with every event, for waits that block a thread.
    happened: Condvar,
    /// Grows under the lock of `wakers`, so that a waiter that saw the old count is in the list when it grows.
    count: AtomicU64,
    wakers: Mutex<Vec<Waker>>,
}

impl Default for Signal {
    fn default() -> Signal {
        Signal { happened: Condvar::new(), count: AtomicU64::new(0), wakers: Mutex::new(Vec::new()) }
    }
}

impl Signal {
    /// How many events there were.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// An event: everyone who waits goes on.
    pub fn notify(&self) {
        let woken = {
            let mut wakers = self.wakers.lock().expect("no code panics while it holds this lock");
            self.count.fetch_add(1, Ordering::Release);
            std::mem::take(&mut *wakers)
        };
        self.happened.notify_all();
        woken.into_iter().for_each(Waker::wake);
    }

    /// Blocks the thread until there were more than `seen` events, or for `limit`.
    #[cfg(not(feature = "loom"))]
    pub fn block_past(&self, seen: u64, limit: Duration) {
        let wakers = self.wakers.lock().expect("no code panics while it holds this lock");
        let waited = self.happened.wait_timeout_while(wakers, limit, |_| self.count() <= seen);
        drop(waited.expect("no code panics while it holds this lock"));
    }

    /// As above, without the limit: a model has no time, and a wake-up that is lost must show.
    #[cfg(feature = "loom")]
    pub fn block_past(&self, seen: u64, _limit: Duration) {
        let mut wakers = self.wakers.lock().expect("no code panics while it holds this lock");
        while self.count() <= seen {
            wakers = self.happened.wait(wakers).expect("no code panics while it holds this lock");
        }
    }

    /// Waits until there were more than `seen` events.
    pub async fn wait_past(&self, seen: u64) {
        poll_fn(|cx| {
            if self.count() > seen {
                return Poll::Ready(());
            }
            let mut wakers = self.wakers.lock().expect("no code panics while it holds this lock");
            if self.count() > seen {
                return Poll::Ready(());
            }
            if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                wakers.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}
