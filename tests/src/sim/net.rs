//! Connections of the simulation: queues in both directions, each message with the time at which it arrives, delivered a
//! few at a time, cut at any point.

use std::collections::VecDeque;

use haypile_engine::types::NodeId;
use haypile_replication::grants::Open;
use haypile_replication::message::Message;

use super::node::ConnId;

/// What a connection is for.
#[derive(Clone, Debug)]
pub enum Purpose {
    /// The node that opened it follows the other, which it knows by this address.
    Stream(String),
    /// The node that opened it asks the other about grants.
    Grants(Vec<Open>),
    /// The node that opened it asks this one for what it lost.
    Tail(NodeId),
}

/// How fast what is sent between two nodes arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pace {
    /// How long every message takes.
    pub delay_ms: u64,
    /// What gets through in a millisecond; no limit if there is none.
    pub bytes_per_ms: Option<u64>,
}

/// Messages on their way in one direction: they arrive in order, one after the other.
#[derive(Debug, Default)]
pub struct Way {
    messages: VecDeque<(u64, Message)>,
    /// When the last byte that was sent has got through.
    busy_until_ms: u64,
}

impl Way {
    fn send(&mut self, message: Message, pace: Pace, now_ms: u64) {
        let took_ms = pace.bytes_per_ms.map_or(0, |bytes| size_of(&message) / bytes);
        self.busy_until_ms = self.busy_until_ms.max(now_ms) + took_ms;
        let before_ms = self.messages.back().map_or(0, |(at_ms, _)| *at_ms);
        self.messages.push_back((before_ms.max(self.busy_until_ms + pace.delay_ms), message));
    }

    /// What has arrived, up to so many messages.
    pub fn take(&mut self, count: usize, now_ms: u64) -> Vec<Message> {
        let arrived = self.messages.iter().take(count).take_while(|(at_ms, _)| *at_ms <= now_ms).count();
        self.messages.drain(..arrived).map(|(_, message)| message).collect()
    }

    /// Whether anything has arrived.
    #[must_use]
    pub fn has_arrived(&self, now_ms: u64) -> bool {
        self.messages.front().is_some_and(|(at_ms, _)| *at_ms <= now_ms)
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// How many messages are under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Nothing is under way any more.
    pub fn clear(&mut self) {
        self.messages.clear();
    }

    /// What is under way arrives at once.
    fn hurry(&mut self) {
        self.messages.iter_mut().for_each(|(at_ms, _)| *at_ms = 0);
        self.busy_until_ms = 0;
    }
}

/// About how much a message is on the wire.
fn size_of(message: &Message) -> u64 {
    let data = match message {
        Message::Records { data, .. } | Message::CopyChunk { data, .. } => data.len(),
        _ => 0,
    };
    64 + data as u64
}

/// A connection between two starts of nodes.
#[derive(Debug)]
pub struct Conn {
    /// Who opened it.
    pub client: usize,
    /// Who was reached.
    pub server: usize,
    /// What for.
    pub purpose: Purpose,
    /// On their way to the server.
    pub to_server: Way,
    /// On their way to the client.
    pub to_client: Way,
    /// How fast, in both directions.
    pub pace: Pace,
    /// Nothing more is sent; each side learns it after what is still under way.
    pub cut: bool,
    /// The client has not yet learned the end.
    pub client_open: bool,
    /// The server has not yet learned the end.
    pub server_open: bool,
    /// When the server last heard something, or accepted.
    pub server_heard_ms: u64,
    /// When the client last heard something, or dialled.
    pub client_heard_ms: u64,
}

impl Conn {
    /// A connection on which nothing was said.
    #[must_use]
    pub fn new(client: usize, server: usize, purpose: Purpose, pace: Pace, now_ms: u64) -> Conn {
        Conn {
            client,
            server,
            purpose,
            to_server: Way::default(),
            to_client: Way::default(),
            pace,
            cut: false,
            client_open: true,
            server_open: true,
            server_heard_ms: now_ms,
            client_heard_ms: now_ms,
        }
    }

    /// The client says something.
    pub fn send_to_server(&mut self, messages: impl IntoIterator<Item = Message>, now_ms: u64) {
        if !self.cut && self.server_open {
            messages.into_iter().for_each(|message| self.to_server.send(message, self.pace, now_ms));
        }
    }

    /// The server says something.
    pub fn send_to_client(&mut self, messages: impl IntoIterator<Item = Message>, now_ms: u64) {
        if !self.cut && self.client_open {
            messages.into_iter().for_each(|message| self.to_client.send(message, self.pace, now_ms));
        }
    }

    /// As fast as can be again, what is under way too.
    pub fn hurry(&mut self) {
        self.pace = Pace::default();
        self.to_server.hurry();
        self.to_client.hurry();
    }

    /// Cuts it: only so many messages under way still arrive in each direction.
    pub fn cut(&mut self, to_server: usize, to_client: usize) {
        self.cut = true;
        self.to_server.messages.truncate(to_server);
        self.to_client.messages.truncate(to_client);
    }
}

/// What can be delivered next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// Something to the server, be it the end.
    ToServer(ConnId),
    /// Something to the client, be it the end.
    ToClient(ConnId),
}
