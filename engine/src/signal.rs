//! A counter that can be waited for: wakes tasks of any runtime, and needs none.

use std::future::poll_fn;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};

/// Counts events and wakes whoever waits for the next. Any thread may use it.
#[derive(Debug, Default)]
pub struct Signal {
    /// Grows under the lock of `wakers`, so that a waiter that saw the old count is in the list when it grows.
    count: AtomicU64,
    wakers: Mutex<Vec<Waker>>,
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
        woken.into_iter().for_each(Waker::wake);
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
