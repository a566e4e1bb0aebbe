//! How far the log is written and synced, and who waits for it.
//!
//! The futures here need no runtime: they keep a waker each and are woken once. Once the log is poisoned every
//! wait fails, also for what had been reached before: nothing is acknowledged any more. Any thread may wait.
//!
//! Atomics: `written_ticket`, `written_lsn`, `synced_ticket`, `synced_lsn` and `poisoned` are stored (Release) under the lock
//! and loaded (Acquire) by whoever only looks; a waiter looks again under the lock before it registers.

use super::lock;
use crate::error::{Error, Result};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex};
use crate::types::Lsn;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

/// The number of a group commit of this process: grows by one with each; 0 is "nothing", always reached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Ticket(pub u64);

/// How far the log has got.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Mark {
    /// The last group commit that is there.
    pub ticket: Ticket,
    /// The position after it.
    pub lsn: Lsn,
}

/// How far the log is written and synced. Clones are the same watermark.
#[derive(Clone, Default)]
pub struct Watermark {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    marks: Mutex<Marks>,
    /// Notified with every change of `written` and `synced`, for waits that block a thread.
    moved: Condvar,
    /// Notified with every change of `turns`: writes between two syncs are nothing to who waits for a sync.
    turned: Condvar,
    written_ticket: AtomicU64,
    written_lsn: AtomicU64,
    synced_ticket: AtomicU64,
    synced_lsn: AtomicU64,
    poisoned: AtomicBool,
}

#[derive(Default)]
struct Marks {
    written: Mark,
    synced: Mark,
    poison: Option<String>,
    waiters_made: u64,
    /// How often somebody who synced the log let others do so.
    turns: u64,
    /// Threads that wait for the end of this turn.
    in_line: usize,
    /// How many waited for the end of the last one.
    company: usize,
    /// Threads that wait on `moved`. To wake nobody is a system call too, so it is not done for every write.
    blocked: usize,
    /// By what is waited for and a number of the waiter's own.
    waiters: [BTreeMap<(u64, u64), Waker>; 3],
}

/// What a waiter waits for; also the place of its waker in `Marks::waiters`.
#[derive(Clone, Copy)]
enum Event {
    Written = 0,
    Synced = 1,
    End = 2,
}

impl Marks {
    fn poisoned(&self) -> Option<Error> {
        self.poison.clone().map(Error::Poisoned)
    }

    fn reached(&self, event: Event) -> u64 {
        match event {
            Event::Written => self.written.ticket.0,
            Event::Synced => self.synced.ticket.0,
            Event::End => self.written.lsn.0,
        }
    }

    /// Takes the wakers of all who wait for what is reached now.
    fn take_ready(&mut self, event: Event) -> impl Iterator<Item = Waker> + use<> {
        let first_waiting = (self.reached(event).saturating_add(1), 0);
        let waiters = &mut self.waiters[event as usize];
        let ready = match waiters.is_empty() {
            true => BTreeMap::new(),
            false => {
                let still_waiting = waiters.split_off(&first_waiting);
                std::mem::replace(waiters, still_waiting)
            }
        };
        ready.into_values()
    }
}

impl Watermark {
    /// Of a log that ends at `lsn`, all of it synced.
    #[must_use]
    pub fn starting_at(lsn: Lsn) -> Watermark {
        let watermark = Watermark::default();
        let mark = Mark { ticket: Ticket(0), lsn };
        watermark.publish_written(mark);
        watermark.publish_synced(mark);
        watermark
    }

    /// The last group commit whose write(2) returned.
    #[must_use]
    pub fn written(&self) -> Mark {
        lock(&self.shared.marks).written
    }

    /// Where the last group commit that a finished sync covers ends.
    #[must_use]
    pub fn synced_end(&self) -> Lsn {
        Lsn(self.shared.synced_lsn.load(Ordering::Acquire))
    }

    /// The last group commit that a finished sync covers.
    #[must_use]
    pub fn synced(&self) -> Mark {
        lock(&self.shared.marks).synced
    }

    /// Why nothing is acknowledged any more, if so.
    #[must_use]
    pub fn poison(&self) -> Option<Error> {
        if !self.shared.poisoned.load(Ordering::Acquire) {
            return None;
        }
        lock(&self.shared.marks).poisoned()
    }

    /// Whether the group commit is written now.
    ///
    /// # Errors
    /// `Poisoned`.
    pub fn is_written(&self, ticket: Ticket) -> Result<bool> {
        self.peek(Event::Written, ticket.0)
    }

    /// Whether the group commit is synced now.
    ///
    /// # Errors
    /// `Poisoned`.
    pub fn is_synced(&self, ticket: Ticket) -> Result<bool> {
        self.peek(Event::Synced, ticket.0)
    }

    /// Waits until the group commit is written.
    pub fn wait_written(&self, ticket: Ticket) -> Wait {
        self.wait(Event::Written, ticket.0)
    }

    /// Waits until the group commit is synced.
    pub fn wait_synced(&self, ticket: Ticket) -> Wait {
        self.wait(Event::Synced, ticket.0)
    }

    /// Waits until the log's written end lies beyond `since`.
    pub fn wait_beyond(&self, since: Lsn) -> Wait {
        self.wait(Event::End, since.0.saturating_add(1))
    }

    /// As [`Watermark::wait_written`], blocking the thread.
    ///
    /// # Errors
    /// `Poisoned`.
    pub fn block_written(&self, ticket: Ticket) -> Result<()> {
        self.block(Event::Written, ticket.0)
    }

    /// As [`Watermark::wait_synced`], blocking the thread.
    ///
    /// # Errors
    /// `Poisoned`.
    pub fn block_synced(&self, ticket: Ticket) -> Result<()> {
        self.block(Event::Synced, ticket.0)
    }

    /// As [`Watermark::wait_beyond`], blocking the thread.
    ///
    /// # Errors
    /// `Poisoned`.
    pub fn block_beyond(&self, since: Lsn) -> Result<()> {
        self.block(Event::End, since.0.saturating_add(1))
    }

    pub(super) fn publish_written(&self, mark: Mark) {
        let (written, end, blocked) = {
            let mut marks = lock(&self.shared.marks);
            assert!(
                mark.ticket >= marks.written.ticket && mark.lsn >= marks.written.lsn,
                "the log went back"
            );
            marks.written = mark;
            self.shared.written_lsn.store(mark.lsn.0, Ordering::Release);
            self.shared.written_ticket.store(mark.ticket.0, Ordering::Release);
            (marks.take_ready(Event::Written), marks.take_ready(Event::End), marks.blocked)
        };
        if blocked > 0 {
            self.shared.moved.notify_all();
        }
        written.chain(end).for_each(Waker::wake);
    }

    /// Does nothing once the log is poisoned.
    pub(super) fn publish_synced(&self, mark: Mark) {
        let (ready, blocked) = {
            let mut marks = lock(&self.shared.marks);
            if marks.poison.is_some() || mark.lsn < marks.synced.lsn {
                return;
            }
            assert!(mark.lsn <= marks.written.lsn, "only what is written can be synced");
            marks.synced = mark;
            self.shared.synced_lsn.store(mark.lsn.0, Ordering::Release);
            self.shared.synced_ticket.store(mark.ticket.0, Ordering::Release);
            (marks.take_ready(Event::Synced), marks.blocked)
        };
        if blocked > 0 {
            self.shared.moved.notify_all();
        }
        ready.for_each(Waker::wake);
    }

    /// Ends all acknowledgement; the first reason stands.
    pub(super) fn poison_with(&self, reason: &Error) -> Error {
        let (error, wakers) = {
            let mut marks = lock(&self.shared.marks);
            let reason = marks.poison.get_or_insert_with(|| reason.to_string()).clone();
            self.shared.poisoned.store(true, Ordering::Release);
            let wakers: Vec<_> =
                marks.waiters.iter_mut().flat_map(|waiters| std::mem::take(waiters).into_values()).collect();
            (Error::Poisoned(reason), wakers)
        };
        self.shared.moved.notify_all();
        wakers.into_iter().for_each(Waker::wake);
        error
    }

    /// How often somebody who synced the log let others do so: see [`Watermark::block_turn`].
    pub(super) fn turn(&self) -> u64 {
        lock(&self.shared.marks).turns
    }

    /// Somebody who synced the log, or tried to, has let others do so.
    pub(super) fn end_turn(&self) {
        let in_line = {
            let mut marks = lock(&self.shared.marks);
            marks.turns += 1;
            marks.company = std::mem::take(&mut marks.in_line);
            marks.company
        };
        if in_line > 0 {
            self.shared.turned.notify_all();
        }
    }

    /// Whether fewer wait for this turn's end than waited for that of the last one: others are on their way, it seems.
    pub(super) fn lacks_company(&self) -> bool {
        let marks = lock(&self.shared.marks);
        marks.in_line < marks.company
    }

    /// Blocks the thread until a turn after `seen` has ended.
    pub(super) fn block_turn(&self, seen: u64) {
        let mut marks = lock(&self.shared.marks);
        if marks.turns == seen {
            marks.in_line += 1;
        }
        while marks.turns == seen {
            marks = self.shared.turned.wait(marks).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn peek(&self, event: Event, wanted: u64) -> Result<bool> {
        if let Some(error) = self.poison() {
            return Err(error);
        }
        let reached = match event {
            Event::Written => &self.shared.written_ticket,
            Event::Synced => &self.shared.synced_ticket,
            Event::End => &self.shared.written_lsn,
        };
        Ok(reached.load(Ordering::Acquire) >= wanted)
    }

    fn wait(&self, event: Event, wanted: u64) -> Wait {
        Wait { watermark: self.clone(), event, wanted, registered: None }
    }

    fn block(&self, event: Event, wanted: u64) -> Result<()> {
        let mut marks = lock(&self.shared.marks);
        loop {
            if let Some(error) = marks.poisoned() {
                return Err(error);
            }
            if marks.reached(event) >= wanted {
                return Ok(());
            }
            marks.blocked += 1;
            marks = self.shared.moved.wait(marks).unwrap_or_else(PoisonError::into_inner);
            marks.blocked -= 1;
        }
    }
}

/// A wait for the watermark. Fails with `Poisoned` when the log is.
#[must_use = "futures do nothing unless polled"]
pub struct Wait {
    watermark: Watermark,
    event: Event,
    wanted: u64,
    /// The waiter's own number, if a waker of it may be kept.
    registered: Option<u64>,
}

impl Future for Wait {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        match self.watermark.peek(self.event, self.wanted) {
            Err(error) => return Poll::Ready(Err(error)),
            Ok(true) => return Poll::Ready(Ok(())),
            Ok(false) => {}
        }
        let shared = Arc::clone(&self.watermark.shared);
        let mut marks = lock(&shared.marks);
        if let Some(error) = marks.poisoned() {
            return Poll::Ready(Err(error));
        }
        if marks.reached(self.event) >= self.wanted {
            return Poll::Ready(Ok(()));
        }
        let number = *self.registered.get_or_insert_with(|| {
            marks.waiters_made += 1;
            marks.waiters_made
        });
        marks.waiters[self.event as usize].insert((self.wanted, number), context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(number) = self.registered {
            lock(&self.watermark.shared.marks).waiters[self.event as usize].remove(&(self.wanted, number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn poll(wait: &mut Wait, count: &Arc<Count>) -> Poll<Result<()>> {
        Pin::new(wait).poll(&mut Context::from_waker(&Waker::from(Arc::clone(count))))
    }

    fn mark(ticket: u64) -> Mark {
        Mark { ticket: Ticket(ticket), lsn: Lsn(ticket * 100) }
    }

    #[test]
    fn those_whose_ticket_is_reached_are_woken_and_no_others() {
        let watermark = Watermark::starting_at(Lsn(0));
        let (two, three, end) = (Arc::default(), Arc::default(), Arc::default());
        let (mut wait_two, mut wait_three) =
            (watermark.wait_written(Ticket(2)), watermark.wait_written(Ticket(3)));
        let mut beyond = watermark.wait_beyond(Lsn(100));
        assert!(poll(&mut wait_two, &two).is_pending() && poll(&mut wait_three, &three).is_pending());
        watermark.publish_written(mark(1));
        assert!(poll(&mut beyond, &end).is_pending());
        assert_eq!(two.0.load(Ordering::SeqCst), 0);
        watermark.publish_written(mark(2));
        assert_eq!([&two, &three, &end].map(|count| count.0.load(Ordering::SeqCst)), [1, 0, 1]);
        assert!(matches!(poll(&mut wait_two, &two), Poll::Ready(Ok(()))));
        assert!(matches!(poll(&mut beyond, &end), Poll::Ready(Ok(()))));
        assert!(poll(&mut wait_three, &three).is_pending());
        drop(wait_three);
        watermark.publish_written(mark(3));
        assert_eq!(three.0.load(Ordering::SeqCst), 0, "a dropped wait is not woken");
        assert!(!watermark.is_synced(Ticket(1)).unwrap());
        watermark.publish_synced(mark(2));
        assert!(watermark.is_synced(Ticket(2)).unwrap());
        watermark.block_synced(Ticket(2)).unwrap();
    }

    #[test]
    fn poison_wakes_all_and_nothing_is_acknowledged_after() {
        let watermark = Watermark::starting_at(Lsn(0));
        let count = Arc::default();
        let mut wait = watermark.wait_synced(Ticket(1));
        assert!(poll(&mut wait, &count).is_pending());
        watermark.publish_written(mark(1));
        watermark.poison_with(&Error::Limit("the disk burns".into()));
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(matches!(poll(&mut wait, &count), Poll::Ready(Err(Error::Poisoned(_)))));
        watermark.publish_synced(mark(1));
        assert_eq!(watermark.synced().ticket, Ticket(0));
        assert!(watermark.block_written(Ticket(1)).is_err());
        assert!(watermark.is_written(Ticket(0)).is_err());
    }
}
