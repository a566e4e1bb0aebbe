//! Who listens to which channel, and messages on their way to them.
//!
//! A message is written into the mailbox of each listener by whoever publishes it, on any thread; the listener's own
//! connection sends it between its batches. A mailbox has a limit: a listener that does not read loses its connection,
//! not everybody's memory. Nothing is kept for who is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::clients::Client;
use crate::config::OutputLimit;
use crate::glob;
use crate::resp::{Proto, ReplyWriter};

/// The kinds of names that are listened to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// A channel.
    Channel,
    /// A pattern of channels.
    Pattern,
    /// A channel that belongs to a slot.
    Shard,
}

/// A message that waits for the gate of what it may tell of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// [`Kind::Channel`] or [`Kind::Shard`].
    pub kind: Kind,
    /// Its channel.
    pub channel: Bytes,
    /// What it says.
    pub text: Bytes,
}

#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    /// Taken by the connection and not sent yet.
    sending: u64,
    /// Since when there has been more than the soft limit, on the monotonic clock.
    over_since_ms: Option<u64>,
}

/// What waits for a listener. Shared by its connection and whoever publishes.
#[derive(Debug)]
pub struct Mailbox {
    client: Arc<Client>,
    /// Which version of the protocol it speaks. Alone; partners with nothing.
    proto: AtomicU8,
    /// Set before `arrived` is told; read by the connection after being woken.
    filled: AtomicBool,
    arrived: Notify,
    pending: Mutex<Pending>,
}

impl Mailbox {
    /// An empty one.
    #[must_use]
    pub fn new(client: Arc<Client>, proto: Proto) -> Mailbox {
        Mailbox {
            client,
            proto: AtomicU8::new(u8::from(proto == Proto::Resp3)),
            filled: AtomicBool::new(false),
            arrived: Notify::new(),
            pending: Mutex::default(),
        }
    }

    /// Speaks another version from here on.
    pub fn switch(&self, proto: Proto) {
        self.proto.store(u8::from(proto == Proto::Resp3), Ordering::Relaxed);
    }

    /// Waits until there is something.
    pub async fn arrived(&self) {
        while !self.has_some() {
            self.arrived.notified().await;
        }
    }

    /// Whether there is something.
    pub fn has_some(&self) -> bool {
        self.filled.load(Ordering::Acquire)
    }

    /// Takes what there is, to be sent; see [`Mailbox::sent`].
    pub fn take(&self) -> Vec<u8> {
        let mut pending = self.pending();
        self.filled.store(false, Ordering::Release);
        pending.sending += pending.bytes.len() as u64;
        std::mem::take(&mut pending.bytes)
    }

    /// What was taken is with the client.
    pub fn sent(&self) {
        let mut pending = self.pending();
        pending.sending = 0;
        pending.over_since_ms = None;
    }

    pub(crate) fn put(&self, limit: OutputLimit, now_ms: u64, write: impl FnOnce(&mut ReplyWriter)) {
        let proto = if self.proto.load(Ordering::Relaxed) == 1 { Proto::Resp3 } else { Proto::Resp2 };
        let mut writer = ReplyWriter::new(proto);
        write(&mut writer);
        let mut pending = self.pending();
        if self.client.is_killed() {
            return;
        }
        pending.bytes.extend_from_slice(writer.as_bytes());
        let total = pending.bytes.len() as u64 + pending.sending;
        let too_long = if limit.soft_bytes > 0 && total > limit.soft_bytes {
            let since = *pending.over_since_ms.get_or_insert(now_ms);
            now_ms.saturating_sub(since) >= limit.soft_s * 1000
        } else {
            pending.over_since_ms = None;
            false
        };
        if too_long || limit.hard_bytes > 0 && total > limit.hard_bytes {
            tracing::warn!(
                client = self.client.id,
                bytes = total,
                "a listener does not read: its connection ends"
            );
            pending.bytes = Vec::new();
            self.client.kill();
            return;
        }
        self.filled.store(true, Ordering::Release);
        drop(pending);
        self.arrived.notify_one();
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().expect("no code panics while it holds this lock")
    }
}

type Listeners = BTreeMap<Bytes, Vec<Arc<Mailbox>>>;

#[derive(Debug, Default)]
struct Tables {
    channels: Listeners,
    patterns: Listeners,
    shards: Listeners,
}

impl Tables {
    fn of(&mut self, kind: Kind) -> &mut Listeners {
        match kind {
            Kind::Channel => &mut self.channels,
            Kind::Pattern => &mut self.patterns,
            Kind::Shard => &mut self.shards,
        }
    }
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct PubSub(Mutex<Tables>);

impl PubSub {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().expect("no code panics while it holds this lock")
    }

    fn listen(&self, kind: Kind, name: &Bytes, mailbox: &Arc<Mailbox>) {
        self.tables().of(kind).entry(name.clone()).or_default().push(mailbox.clone());
    }

    fn leave(&self, kind: Kind, name: &Bytes, mailbox: &Arc<Mailbox>) {
        let mut tables = self.tables();
        let listeners = tables.of(kind);
        if let Some(mailboxes) = listeners.get_mut(name) {
            mailboxes.retain(|other| !Arc::ptr_eq(other, mailbox));
            if mailboxes.is_empty() {
                listeners.remove(name);
            }
        }
    }

    /// How many would get a message.
    pub fn receivers(&self, kind: Kind, channel: &[u8]) -> usize {
        let mut tables = self.tables();
        let direct = tables.of(kind).get(channel).map_or(0, Vec::len);
        if kind == Kind::Shard {
            return direct;
        }
        let patterns = tables.patterns.iter().filter(|(pattern, _)| glob::matches(pattern, channel));
        direct + patterns.map(|(_, listeners)| listeners.len()).sum::<usize>()
    }

    /// Hands a message to who listens.
    pub fn deliver(&self, message: &Message, limit: OutputLimit, now_ms: u64) {
        let Message { kind, channel, text } = message;
        let mut tables = self.tables();
        let word: &[u8] = if *kind == Kind::Shard { b"smessage" } else { b"message" };
        for mailbox in tables.of(*kind).get(channel).into_iter().flatten() {
            mailbox.put(limit, now_ms, |out| {
                out.push(3);
                [word, channel, text].iter().for_each(|part| out.bulk(part));
            });
        }
        if *kind == Kind::Shard {
            return;
        }
        for (pattern, listeners) in
            tables.patterns.iter().filter(|(pattern, _)| glob::matches(pattern, channel))
        {
            for mailbox in listeners {
                mailbox.put(limit, now_ms, |out| {
                    out.push(4);
                    [b"pmessage", &pattern[..], channel, text].iter().for_each(|part| out.bulk(part));
                });
            }
        }
    }

    /// The channels that somebody listens to, of a pattern if one is given.
    pub fn channels(&self, kind: Kind, pattern: Option<&[u8]>) -> Vec<Bytes> {
        let mut tables = self.tables();
        let takes = |name: &&Bytes| pattern.is_none_or(|pattern| glob::matches(pattern, name));
        tables.of(kind).keys().filter(takes).cloned().collect()
    }

    /// How many listen to exactly this name.
    pub fn listeners(&self, kind: Kind, name: &[u8]) -> usize {
        self.tables().of(kind).get(name).map_or(0, Vec::len)
    }

    /// How many patterns somebody listens to.
    pub fn patterns(&self) -> usize {
        self.tables().patterns.len()
    }
}

/// What a connection listens to. Ends with it.
pub struct Subscriptions {
    node: Arc<crate::node::Node>,
    /// Where its messages wait.
    pub mailbox: Arc<Mailbox>,
    names: BTreeSet<(Kind, Bytes)>,
}

impl Subscriptions {
    /// None yet.
    #[must_use]
    pub fn new(node: Arc<crate::node::Node>, mailbox: Arc<Mailbox>) -> Subscriptions {
        Subscriptions { node, mailbox, names: BTreeSet::new() }
    }

    /// Listens to a name.
    pub fn add(&mut self, kind: Kind, name: &[u8]) {
        let name = Bytes::copy_from_slice(name);
        if self.names.insert((kind, name.clone())) {
            self.node.pubsub.listen(kind, &name, &self.mailbox);
        }
    }

    /// Listens to a name no more.
    pub fn remove(&mut self, kind: Kind, name: &[u8]) {
        let entry = (kind, Bytes::copy_from_slice(name));
        if self.names.remove(&entry) {
            self.node.pubsub.leave(kind, &entry.1, &self.mailbox);
        }
    }

    /// The names of a kind.
    #[must_use]
    pub fn names(&self, kind: Kind) -> Vec<Bytes> {
        self.names.iter().filter(|(other, _)| *other == kind).map(|(_, name)| name.clone()).collect()
    }

    /// How many names of a kind there are.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.names.iter().filter(|(other, _)| *other == kind).count()
    }

    /// Whether it listens to nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        for (kind, name) in &self.names {
            self.node.pubsub.leave(*kind, name, &self.mailbox);
        }
    }
}
