//! Which replicas have which records, as they acknowledge them: for whoever waits for that, and for whoever asks.
//!
//! It promises: a wait for `n` replicas ends once `n` nodes that follow a slot here have each acknowledged the record
//! (applied, and in their logs), or once the record's slot is gone or replaced; it ends once, whatever acknowledgements
//! come later, and a replica counts for a slot only while its connection gets the slot's records. It writes nothing and
//! looks at no clock; how long to wait is for who waits.
//!
//! Each slot has a lock of its own, held for looking at a few replicas and waiters: connections of replicas tell
//! ([`Acks::enter`], [`Acks::acked`]), clients' connections ask and wait, on any thread. No other lock is taken under it.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use haypile_engine::planted::{self, Bug};
use haypile_engine::types::{NodeId, SLOT_COUNT, Seq, Slot};
use tokio::sync::Notify;

/// A replica's connection.
#[derive(Debug)]
pub struct Follower {
    node: NodeId,
    /// When it last said anything, in milliseconds of the monotonic clock. Alone; partners with nothing.
    heard_ms: AtomicU64,
}

impl Follower {
    /// The connection of a node that has just come.
    #[must_use]
    pub fn new(node: NodeId, now_ms: u64) -> Follower {
        Follower { node, heard_ms: AtomicU64::new(now_ms) }
    }

    /// It said something.
    pub fn heard(&self, now_ms: u64) {
        self.heard_ms.store(now_ms, Ordering::Relaxed);
    }

    /// When it last did.
    #[must_use]
    pub fn heard_ms(&self) -> u64 {
        self.heard_ms.load(Ordering::Relaxed)
    }
}

/// What a replica has of a slot.
#[derive(Debug)]
struct Has {
    follower: Arc<Follower>,
    /// Its last record there; `None` until it has installed its copy.
    acked: Option<Seq>,
    /// The slot's last record here at some time.
    mark: (Seq, u64),
    /// When it lacked nothing, as far as is known.
    whole_ms: u64,
}

/// Somebody who waits for a record.
#[derive(Debug)]
struct Waiter {
    seq: Seq,
    replicas: usize,
    group: Arc<Group>,
}

/// Everything that somebody waits for at once.
#[derive(Debug)]
struct Group {
    /// Records that too few have, and one more while they are being entered. Who brings it to zero wakes.
    left: AtomicUsize,
    /// Set before the wake-up if a record's slot went.
    gone: AtomicBool,
    woken: Notify,
}

impl Group {
    fn one_less(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.woken.notify_one();
        }
    }
}

#[derive(Debug, Default)]
struct OfSlot {
    /// At most one for each node.
    replicas: Vec<Has>,
    waiters: Vec<Waiter>,
    /// A node that takes the slot to another group: it does not count.
    taker: Option<NodeId>,
}

impl OfSlot {
    fn counts(&self, has: &Has) -> bool {
        self.taker != Some(has.follower.node)
    }

    fn count(&self, seq: Seq) -> usize {
        self.replicas.iter().filter(|has| self.counts(has) && has.acked >= Some(seq)).count()
    }

    fn have(&self, seq: Seq, replicas: usize) -> bool {
        self.count(seq) >= replicas || planted::is(Bug::ReplyBeforeAck)
    }

    /// Ends the waits for what has come.
    fn wake(&mut self) {
        if self.waiters.is_empty() {
            return;
        }
        let mut waiters = std::mem::take(&mut self.waiters);
        waiters.retain(|waiter| {
            let reached = self.have(waiter.seq, waiter.replicas);
            if reached {
                waiter.group.one_less();
            }
            !reached
        });
        self.waiters = waiters;
    }
}

/// A replica of a slot, to be shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// When it last said anything.
    pub heard_ms: u64,
    /// When it had all that there was, to about a second.
    pub whole_ms: u64,
}

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waited {
    /// Enough replicas have everything.
    Acked,
    /// A slot was removed or replaced: nobody will acknowledge its records here any more.
    Gone,
}

/// See the file's head.
#[derive(Debug)]
pub struct Acks {
    slots: Box<[Mutex<OfSlot>]>,
    /// How many wait. Grows before `wanted` is notified.
    waits: AtomicUsize,
    /// Somebody began to wait.
    wanted: Notify,
}

impl Default for Acks {
    fn default() -> Acks {
        let slots = (0..SLOT_COUNT).map(|_| Mutex::default()).collect();
        Acks { slots, waits: AtomicUsize::new(0), wanted: Notify::new() }
    }
}

impl Acks {
    fn of(&self, slot: Slot) -> MutexGuard<'_, OfSlot> {
        self.slots[slot.index()].lock().expect("no code panics under this lock")
    }

    /// A replica follows the slot from now on, and has it up to `acked`; nothing while it waits for its copy. An older
    /// connection of the same node counts no more.
    pub fn enter(&self, follower: &Arc<Follower>, slot: Slot, acked: Option<Seq>, now_ms: u64) {
        let mut of = self.of(slot);
        of.replicas.retain(|has| has.follower.node != follower.node);
        let mark = (acked.unwrap_or_default(), now_ms);
        of.replicas.push(Has { follower: Arc::clone(follower), acked, mark, whole_ms: now_ms });
        of.wake();
    }

    /// The connection gets nothing of the slot any more.
    pub fn leave(&self, follower: &Arc<Follower>, slot: Slot) {
        self.of(slot).replicas.retain(|has| !Arc::ptr_eq(&has.follower, follower));
    }

    /// The connection is gone.
    pub fn leave_all(&self, follower: &Arc<Follower>) {
        Slot::all().for_each(|slot| self.leave(follower, slot));
    }

    /// A replica that has entered acknowledged the slot up to `acked`.
    pub fn acked(&self, follower: &Arc<Follower>, slot: Slot, acked: Seq) {
        let mut of = self.of(slot);
        let Some(has) = of.replicas.iter_mut().find(|has| Arc::ptr_eq(&has.follower, follower)) else {
            return; // the slot began another life meanwhile
        };
        has.acked = has.acked.max(Some(acked));
        if acked >= has.mark.0 {
            has.whole_ms = has.whole_ms.max(has.mark.1);
        }
        of.wake();
    }

    /// At this time the slot's last record here was this: how old is what a replica lacks is told by it.
    pub fn mark(&self, follower: &Arc<Follower>, slot: Slot, last: Seq, now_ms: u64) {
        let mut of = self.of(slot);
        let Some(has) = of.replicas.iter_mut().find(|has| Arc::ptr_eq(&has.follower, follower)) else {
            return;
        };
        if has.acked >= Some(last) {
            has.whole_ms = now_ms;
        }
        // A mark that was not reached yet stays: it is older, so it says more.
        if has.acked >= Some(has.mark.0) {
            has.mark = (last, now_ms);
        }
    }

    /// The slot's content here is gone or another's from now on: no acknowledgement of what it was counts.
    pub fn forget(&self, slot: Slot) {
        let mut of = self.of(slot);
        of.replicas.clear();
        for waiter in of.waiters.drain(..) {
            waiter.group.gone.store(true, Ordering::Release);
            waiter.group.woken.notify_one();
        }
    }

    /// This node follows the slot to take it to another group: who is promoted when this node dies is none of that group,
    /// so what that node alone has is not safe, and its acknowledgements don't count from now on.
    pub fn set_taker(&self, slot: Slot, node: NodeId) {
        self.of(slot).taker = Some(node);
    }

    /// It does not take the slot any more.
    pub fn no_taker(&self, slot: Slot, node: NodeId) {
        let mut of = self.of(slot);
        if of.taker == Some(node) {
            of.taker = None;
            of.wake();
        }
    }

    /// How many replicas have all of these records: the fewest of any slot.
    #[must_use]
    pub fn count(&self, records: &[(Slot, Seq)]) -> usize {
        records.iter().map(|(slot, seq)| self.of(*slot).count(*seq)).min().unwrap_or(0)
    }

    /// How many replicas of the slot have all of it that they were asked to take, and said something at most `lag_ms`
    /// ago.
    #[must_use]
    pub fn good(&self, slot: Slot, now_ms: u64, lag_ms: u64) -> usize {
        let of = self.of(slot);
        let is_here = |has: &Has| now_ms.saturating_sub(has.follower.heard_ms()) <= lag_ms;
        of.replicas.iter().filter(|has| of.counts(has) && has.acked.is_some() && is_here(has)).count()
    }

    /// How a node stands as a replica of the slot, if it is one.
    #[must_use]
    pub fn seen(&self, slot: Slot, node: NodeId) -> Option<Seen> {
        let of = self.of(slot);
        let has = of.replicas.iter().find(|has| has.follower.node == node)?;
        Some(Seen { heard_ms: has.follower.heard_ms(), whole_ms: has.whole_ms })
    }

    /// Begins to wait until so many replicas have these records (each slot at most once); `None` if they do.
    pub fn wait(self: &Arc<Acks>, records: &[(Slot, Seq)], replicas: usize) -> Option<Wait> {
        let left = AtomicUsize::new(1);
        let group = Arc::new(Group { left, gone: AtomicBool::new(false), woken: Notify::new() });
        let mut slots = Vec::new();
        for &(slot, seq) in records {
            let mut of = self.of(slot);
            if !of.have(seq, replicas) {
                group.left.fetch_add(1, Ordering::Relaxed);
                of.waiters.push(Waiter { seq, replicas, group: Arc::clone(&group) });
                slots.push(slot);
            }
        }
        self.waits.fetch_add(1, Ordering::SeqCst);
        let wait = Wait { acks: Arc::clone(self), slots, group };
        // Nobody could bring it to zero before.
        let waits = wait.group.left.fetch_sub(1, Ordering::AcqRel) != 1;
        if waits {
            self.wanted.notify_waiters();
        }
        waits.then_some(wait)
    }

    /// Resolves when somebody waits for an acknowledgement; at once if somebody does.
    pub async fn awaited(&self) {
        loop {
            let mut wanted = pin!(self.wanted.notified());
            // Before the look: who begins to wait after it finds this in the list.
            wanted.as_mut().enable();
            if self.waits.load(Ordering::SeqCst) > 0 {
                return;
            }
            wanted.await;
        }
    }
}

/// A place among those who wait; given up when it is dropped.
#[derive(Debug)]
pub struct Wait {
    acks: Arc<Acks>,
    slots: Vec<Slot>,
    group: Arc<Group>,
}

impl Wait {
    /// Resolves when the wait is over.
    pub async fn over(&self) -> Waited {
        loop {
            if self.group.left.load(Ordering::Acquire) == 0 {
                return Waited::Acked;
            }
            if self.group.gone.load(Ordering::Acquire) {
                return Waited::Gone;
            }
            self.group.woken.notified().await;
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.acks.waits.fetch_sub(1, Ordering::SeqCst);
        if self.group.left.load(Ordering::Acquire) == 0 {
            return;
        }
        for &slot in &self.slots {
            self.acks.of(slot).waiters.retain(|waiter| !Arc::ptr_eq(&waiter.group, &self.group));
        }
    }
}

#[cfg(test)]
mod tests;
