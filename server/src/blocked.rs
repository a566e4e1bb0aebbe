//! Clients that wait for an item of a list or a sorted set, or an entry of a stream: first come, first served.
//!
//! Who finds nothing enters itself under its keys while their slots are locked. Whoever then writes one of these keys runs
//! the waiting commands in its own transaction, in the order in which they came, right before the commit: nobody else
//! can come in between, the write and what it served are one group of records, and a writer that sees its own reply sees
//! the item gone. A waiting command that needs a slot which the writer has not locked (BLMOVE) is woken to try by itself.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use haypile_engine::engine::Gate;
use haypile_engine::key::Key;
use haypile_engine::tx::Tx;
use haypile_engine::types::{Seq, Slot};
use tokio::sync::Notify;

use crate::resp::Proto;
use crate::table::Command;

/// Why a wait has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The command was run: its reply, and what that waits for: a gate, and the records that were written.
    Served(Vec<u8>, Gate, Vec<(Slot, Seq)>),
    /// CLIENT UNBLOCK: as if the time was over.
    TimedOut,
    /// CLIENT UNBLOCK: with an error.
    Unblocked,
}

/// A command that waits.
#[derive(Debug)]
pub struct Waiter {
    /// Whose command it is.
    pub client: u64,
    /// The command.
    pub command: &'static Command,
    /// Its arguments; the first is its name.
    pub args: Vec<Bytes>,
    /// The keys of which one must have an item.
    pub waits_for: Vec<Key>,
    /// All keys, where one alone is of no use.
    pub needs_all: Option<Vec<Key>>,
    /// The version of the protocol that its reply is in.
    pub proto: Proto,
    /// Its random seed.
    pub seed: u64,
    /// Held by the one that is about to answer it, its own connection included.
    claimed: AtomicBool,
    /// Somebody wanted to answer it while another held it.
    wanted: AtomicBool,
    answer: Mutex<Option<Answer>>,
    woken: Notify,
}

impl Waiter {
    /// A command that begins to wait.
    #[must_use]
    pub fn new(
        client: u64,
        command: &'static Command,
        args: Vec<Bytes>,
        waits_for: Vec<Key>,
        needs_all: Option<Vec<Key>>,
        proto: Proto,
        seed: u64,
    ) -> Waiter {
        Waiter {
            client,
            command,
            args,
            waits_for,
            needs_all,
            proto,
            seed,
            claimed: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            answer: Mutex::new(None),
            woken: Notify::new(),
        }
    }

    /// Tries to become the one that answers it. If another is, that one will let its connection look again.
    pub fn claim(&self) -> bool {
        let claim = || !self.claimed.swap(true, Ordering::SeqCst);
        if claim() {
            return true;
        }
        self.wanted.store(true, Ordering::SeqCst);
        // Whoever held it may have given it up before it could see that.
        claim()
    }

    /// Gives the claim up without an answer, and lets its connection look again.
    pub fn release(&self) {
        self.claimed.store(false, Ordering::SeqCst);
        self.woken.notify_one();
    }

    /// Gives the claim up and lets it wait on, unless somebody wanted it meanwhile: what that one wrote must be looked at.
    pub fn unclaim(&self) {
        self.claimed.store(false, Ordering::SeqCst);
        if self.wanted.swap(false, Ordering::SeqCst) {
            self.woken.notify_one();
        }
    }

    /// Answers it, after [`Waiter::claim`].
    pub fn give(&self, answer: Answer) {
        *self.answer() = Some(answer);
        self.woken.notify_one();
    }

    /// Lets its connection look again.
    pub fn wake(&self) {
        self.woken.notify_one();
    }

    /// Waits until it is answered or woken.
    pub async fn woken(&self) {
        self.woken.notified().await;
    }

    /// Its answer, if there is one.
    pub fn take(&self) -> Option<Answer> {
        self.answer().take()
    }

    fn answer(&self) -> MutexGuard<'_, Option<Answer>> {
        self.answer.lock().expect("no code panics while it holds this lock")
    }
}

/// Keys that somebody waits for, and which of them a transaction has written or removed, in the order in which it did so.
#[derive(Default)]
pub struct Awaited<'a> {
    keys: &'a [Key],
    /// Invariant: places in `keys`, none twice.
    written: Vec<usize>,
}

impl<'a> Awaited<'a> {
    /// These, none of them written.
    #[must_use]
    pub fn new(keys: &'a [Key]) -> Awaited<'a> {
        Awaited { keys, written: Vec::new() }
    }

    /// Notes what a command has written that was run just now.
    pub fn note(&mut self, tx: &Tx<'_>) {
        for (at, key) in self.keys.iter().enumerate() {
            if (tx.has_written(key) || tx.has_removed(key)) && !self.written.contains(&at) {
                self.written.push(at);
            }
        }
    }

    /// Which key was the first to be written (of those that `turn` others were before).
    #[must_use]
    pub fn written(&self, turn: usize) -> Option<usize> {
        self.written.get(turn).copied()
    }

    /// What was written is given up.
    pub fn forget(&mut self) {
        self.written.clear();
    }
}

type Queues = HashMap<Bytes, VecDeque<Arc<Waiter>>>;

/// Who waits for which key.
#[derive(Debug, Default)]
pub struct Blocked {
    /// How many wait for keys. Changed under the slot's lock of one who enters: a writer that holds that lock later sees it.
    count: AtomicUsize,
    slots: Mutex<HashMap<Slot, Queues>>,
    clients: Mutex<HashMap<u64, Arc<Waiter>>>,
}

impl Blocked {
    /// Whether anybody waits for a key; to be asked with slots locked.
    pub fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// How many clients wait.
    pub fn count(&self) -> usize {
        self.clients().len()
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Slot, Queues>> {
        self.slots.lock().expect("no code panics while it holds this lock")
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<u64, Arc<Waiter>>> {
        self.clients.lock().expect("no code panics while it holds this lock")
    }

    /// Ends a client's wait. Says whether it waited.
    pub fn unblock(&self, client: u64, answer: Answer) -> bool {
        let waiter = self.clients().get(&client).cloned();
        let waiter = waiter.filter(|waiter| waiter.claim());
        waiter.map(|waiter| waiter.give(answer)).is_some()
    }

    /// Lets all who wait for keys look again: many keys are gone at once.
    pub fn wake_all(&self) {
        if self.any() {
            self.clients()
                .values()
                .filter(|waiter| !waiter.waits_for.is_empty())
                .for_each(|waiter| waiter.wake());
        }
    }

    /// Enters a waiter; its slots are locked. One that waits for no key is found by CLIENT UNBLOCK only.
    pub fn enter(self: &Arc<Blocked>, waiter: &Arc<Waiter>) -> Waiting {
        let mut slots = self.slots();
        for key in &waiter.waits_for {
            let queue =
                slots.entry(key.slot()).or_default().entry(Bytes::copy_from_slice(key.user())).or_default();
            if !queue.iter().any(|other| Arc::ptr_eq(other, waiter)) {
                queue.push_back(waiter.clone());
            }
        }
        if !waiter.waits_for.is_empty() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        self.clients().insert(waiter.client, waiter.clone());
        Waiting { blocked: self.clone(), waiter: waiter.clone() }
    }

    /// The keys of a slot that somebody waits for.
    pub fn keys(&self, slot: Slot) -> Vec<Key> {
        self.slots().get(&slot).into_iter().flat_map(HashMap::keys).map(|key| Key::new(key)).collect()
    }

    /// Who waits for a key, who came first first; so many at most.
    pub fn queue(&self, key: &Key, most: usize) -> Vec<Arc<Waiter>> {
        let slots = self.slots();
        let queue = slots.get(&key.slot()).and_then(|queues| queues.get(key.user()));
        queue.into_iter().flatten().take(most).cloned().collect()
    }
}

/// A place in the queues; given up when it is dropped.
pub struct Waiting {
    blocked: Arc<Blocked>,
    /// Who waits.
    pub waiter: Arc<Waiter>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut slots = self.blocked.slots();
        for key in &self.waiter.waits_for {
            let Some(queues) = slots.get_mut(&key.slot()) else { continue };
            if let Some(queue) = queues.get_mut(key.user()) {
                queue.retain(|other| !Arc::ptr_eq(other, &self.waiter));
                if queue.is_empty() {
                    queues.remove(key.user());
                }
            }
            if queues.is_empty() {
                slots.remove(&key.slot());
            }
        }
        if !self.waiter.waits_for.is_empty() {
            self.blocked.count.fetch_sub(1, Ordering::Relaxed);
        }
        self.blocked.clients().remove(&self.waiter.client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    fn waiter() -> Waiter {
        let command = crate::table::find(b"blpop").expect("a command");
        let args = ["blpop", "key", "0"].map(|arg| Bytes::from_static(arg.as_bytes())).to_vec();
        Waiter::new(1, command, args, vec![Key::new(b"key")], None, Proto::Resp2, 0)
    }

    async fn is_woken(waiter: &Waiter) -> bool {
        timeout(Duration::ZERO, waiter.woken()).await.is_ok()
    }

    /// Two writers in two slots want to serve one who waits for keys in both. The second wakes it while the first holds
    /// it, and it falls asleep again; the first finds nothing for it. It must look once more, or the second's item lies there.
    #[tokio::test]
    async fn who_was_wanted_while_another_held_it_looks_again() {
        let waiter = waiter();
        assert!(waiter.claim());
        assert!(!waiter.claim());
        assert!(!is_woken(&waiter).await);
        waiter.unclaim();
        assert!(is_woken(&waiter).await);
    }

    #[tokio::test]
    async fn who_was_not_wanted_waits_on() {
        let waiter = waiter();
        assert!(waiter.claim());
        waiter.unclaim();
        assert!(!is_woken(&waiter).await);
        assert!(waiter.claim());
    }
}
