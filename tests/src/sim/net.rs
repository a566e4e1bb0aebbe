//! Connections of the simulation: queues in both directions, delivered a few messages at a time, cut at any point.

use std::collections::VecDeque;

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
    pub to_server: VecDeque<Message>,
    /// On their way to the client.
    pub to_client: VecDeque<Message>,
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
    pub fn new(client: usize, server: usize, purpose: Purpose, now_ms: u64) -> Conn {
        Conn {
            client,
            server,
            purpose,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            cut: false,
            client_open: true,
            server_open: true,
            server_heard_ms: now_ms,
            client_heard_ms: now_ms,
        }
    }

    /// The client says something.
    pub fn send_to_server(&mut self, messages: impl IntoIterator<Item = Message>) {
        if !self.cut && self.server_open {
            self.to_server.extend(messages);
        }
    }

    /// The server says something.
    pub fn send_to_client(&mut self, messages: impl IntoIterator<Item = Message>) {
        if !self.cut && self.client_open {
            self.to_client.extend(messages);
        }
    }

    /// Cuts it: only so many messages under way still arrive in each direction.
    pub fn cut(&mut self, to_server: usize, to_client: usize) {
        self.cut = true;
        self.to_server.truncate(to_server);
        self.to_client.truncate(to_client);
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
