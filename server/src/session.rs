//! One connection's state, and what a command on it (rather than on data) works with.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use haypile_engine::engine::Gate;
use haypile_engine::types::{SLOT_COUNT, Seq, Slot};
use tokio::net::TcpStream;

use crate::clients::Client;
use crate::monitors::Monitoring;
use crate::multi::{Multi, Watching};
use crate::node::Node;
use crate::pubsub::{Mailbox, Message, Subscriptions};
use crate::resp::{Proto, ReplyWriter};

/// What a connection is in beyond running commands one by one, as a set: one look tells that it is in nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mode(u8);

impl Mode {
    /// In nothing.
    pub const PLAIN: Mode = Mode(0);
    /// Between MULTI and EXEC.
    pub const MULTI: Mode = Mode(1);
    /// Listening to channels.
    pub const LISTENING: Mode = Mode(1 << 1);
    /// Getting no replies.
    pub const SILENT: Mode = Mode(1 << 2);
    /// Getting no reply to the next command.
    pub const SKIPPING: Mode = Mode(1 << 3);

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Mode) -> Mode {
        Mode(self.0 | other.0)
    }

    /// Whether all of `other` is in the set.
    #[must_use]
    pub const fn has(self, other: Mode) -> bool {
        self.0 & other.0 == other.0
    }

    /// What is left of it without the other.
    #[must_use]
    pub const fn without(self, other: Mode) -> Mode {
        Mode(self.0 & !other.0)
    }
}

/// What a connection has written: who waits for replicas waits for that.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// The slots in which it ever wrote, a bit each.
    slots: [u64; SLOT_COUNT as usize / 64],
    /// What the command that runs has written: each record's slot and number. The connection takes it after each.
    pub records: Vec<(Slot, Seq)>,
}

impl Written {
    /// It wrote a record.
    pub fn note(&mut self, slot: Slot, seq: Seq) {
        self.slots[slot.index() / 64] |= 1 << (slot.index() % 64);
        self.records.push((slot, seq));
    }

    /// The slots in which it ever wrote.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        Slot::all().filter(|slot| self.slots[slot.index() / 64] >> (slot.index() % 64) & 1 == 1)
    }
}

/// A connection's state. Owned by its worker's task.
pub struct Session {
    /// Its entry in the list of connections.
    pub client: Arc<Client>,
    /// The selected database.
    pub db: u8,
    /// Whether it gave the password, or none was asked for when it came.
    pub authenticated: bool,
    /// Whether it gave the operators' password.
    pub is_operator: bool,
    /// Set to end the connection after the replies so far.
    pub closing: bool,
    /// The name of the last command.
    pub command: &'static str,
    /// What it is in. Holds [`Mode::MULTI`] exactly if there is a `multi`.
    pub mode: Mode,
    /// What came since MULTI.
    pub multi: Option<Box<Multi>>,
    /// What it watches.
    pub watching: Option<Box<Watching>>,
    /// What it listens to. There is none exactly if `mode` lacks [`Mode::LISTENING`].
    pub subscriptions: Option<Box<Subscriptions>>,
    /// That it is told of every command.
    pub monitoring: Option<Monitoring>,
    /// Where messages for it wait, once it has listened to something.
    mailbox: Option<Arc<Mailbox>>,
    /// Messages that leave with the replies, once these may.
    pub outbox: Vec<Message>,
    /// Messages that came to it before the command that runs: they leave before its reply, be that EXEC's.
    pub early: Vec<u8>,
    /// What it wrote.
    pub written: Written,
}

impl Session {
    /// A connection that has just come.
    #[must_use]
    pub fn new(client: Arc<Client>, authenticated: bool) -> Session {
        Session {
            client,
            db: 0,
            authenticated,
            is_operator: false,
            closing: false,
            command: "",
            mode: Mode::PLAIN,
            multi: None,
            watching: None,
            subscriptions: None,
            monitoring: None,
            mailbox: None,
            outbox: Vec::new(),
            early: Vec::new(),
            written: Written::default(),
        }
    }

    /// Where messages for it wait; it speaks this version of the protocol.
    pub fn mailbox(&mut self, proto: Proto) -> Arc<Mailbox> {
        let client = &self.client;
        self.mailbox.get_or_insert_with(|| Arc::new(Mailbox::new(client.clone(), proto))).clone()
    }

    /// Where messages for it wait, if it listens to anything.
    #[must_use]
    pub fn listening(&self) -> Option<&Arc<Mailbox>> {
        self.mailbox.as_ref().filter(|_| self.subscriptions.is_some() || self.monitoring.is_some())
    }

    /// Listens to nothing any more.
    pub fn end_subscriptions(&mut self) {
        self.mode = self.mode.without(Mode::LISTENING);
        self.subscriptions = None;
    }

    /// Ends what MULTI began.
    pub fn end_multi(&mut self) -> Option<Box<Multi>> {
        self.mode = self.mode.without(Mode::MULTI);
        self.multi.take()
    }
}

/// What a session command works with.
pub struct SessionCx<'a> {
    /// The node.
    pub node: &'a Arc<Node>,
    /// The connection.
    pub session: &'a mut Session,
    /// Its arguments; the first is its name.
    pub args: &'a [&'a [u8]],
    /// Where its reply goes.
    pub reply: &'a mut ReplyWriter,
    /// What its reply waits for: a command that commits by itself joins its gate here.
    pub gate: &'a mut Gate,
}

impl<'a> SessionCx<'a> {
    /// An argument; 0 is the name.
    ///
    /// # Panics
    /// If there are fewer: the table's arity is wrong.
    #[must_use]
    pub fn arg(&self, index: usize) -> &'a [u8] {
        self.args[index]
    }
}

/// A connection handed to another protocol.
pub struct Taken {
    /// The node.
    pub node: Arc<Node>,
    /// Its entry in the list of connections; its kind and last activity are the new owner's to keep.
    pub client: Arc<Client>,
    /// The socket; all replies before were sent.
    pub stream: TcpStream,
    /// Bytes that were received after the command.
    pub unread: BytesMut,
    /// The command's arguments; the first is its name.
    pub args: Vec<Bytes>,
}
