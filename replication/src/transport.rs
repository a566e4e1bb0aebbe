//! Sockets: the one file of this crate that touches the network.
//!
//! A [`Connection`] carries messages both ways without ever waiting for one direction to go on with the other, so
//! two nodes that send much to each other can't block each other. How it is opened: `docs/PROTOCOL.md`.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use haypile_engine::types::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::features::{self, Compress};
use crate::message::{BadMessage, Message, PROTOCOL_VERSION, Purpose};
use crate::outbox::Outbox;
use crate::squeeze::Squeeze;

/// The command that turns a client's connection into one of replication.
pub const SYNC_COMMAND: &str = "HAYPILE.SYNC";
/// A line of an answer is at most this long.
const LINE_BYTES_MAX: usize = 1024;
const READ_BYTES: usize = 256 << 10;

/// What a node says of itself when it connects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyncHello {
    /// The protocol that it speaks.
    pub version: u32,
    /// Who it is.
    pub node: NodeId,
    /// `ip:port` that clients and other nodes reach it at.
    pub announce: String,
}

impl SyncHello {
    /// Reads the arguments that follow `HAYPILE.SYNC`.
    ///
    /// # Errors
    /// The text of an error reply, without `-`.
    pub fn parse(args: &[&[u8]]) -> Result<SyncHello, String> {
        let [version, node, announce] = args else {
            return Err(format!("ERR wrong number of arguments for '{SYNC_COMMAND}' command"));
        };
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
        let version = text(version).and_then(|text| text.parse().ok());
        let Some(version) = version.filter(|&version| version == PROTOCOL_VERSION) else {
            return Err(format!("ERR this node speaks version {PROTOCOL_VERSION} of {SYNC_COMMAND}"));
        };
        let node = text(node).and_then(|hex| parse_node(&hex)).ok_or("ERR a node id is 40 hex digits")?;
        let announce = text(announce)
            .filter(|address| address.len() <= 300 && split_address(address).is_some())
            .ok_or("ERR the announced address is not ip:port")?;
        Ok(SyncHello { version, node, announce })
    }
}

/// A node's id, as 40 hex digits.
#[must_use]
pub fn parse_node(hex: &str) -> Option<NodeId> {
    if hex.len() != 40 || !hex.is_ascii() {
        return None;
    }
    let mut id = [0; 20];
    for (index, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(NodeId(id))
}

/// Host and port of `host:port`, `[v6]:port` included.
#[must_use]
pub fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok().filter(|&port| port != 0)?;
    (!host.is_empty()).then_some((host, port))
}

/// How to reach and convince another node.
#[derive(Clone, Debug)]
pub struct Dial {
    /// Its `host:port`.
    pub address: String,
    /// The password that it asks for.
    pub password: Option<String>,
    /// Who connects.
    pub node: NodeId,
    /// Where this node listens.
    pub announce: String,
    /// For how long to try.
    pub patience: Duration,
    /// Whether what is shipped is compressed, if the other side agrees.
    pub compress: Compress,
}

/// Messages both ways over one socket.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    inbox: BytesMut,
    outbox: Outbox,
    /// The other side takes compressed frames, and this one wants to send them.
    squeeze: Option<Squeeze>,
    /// What the other side said that it understands.
    features: u64,
}

/// What [`Connection::push`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushed {
    /// Something was sent.
    Some,
    /// Nothing was to be sent all the while.
    Nothing,
}

/// Why there is no connection (any more): words for a person.
pub type Lost = String;

impl Connection {
    /// Connects to another node, authenticates and asks for replication.
    ///
    /// # Errors
    /// Says which node, what it was asked and what came back.
    pub async fn open(dial: &Dial) -> Result<Connection, Lost> {
        let Some((host, port)) = split_address(&dial.address) else {
            return Err(format!("'{}' is not host:port", dial.address));
        };
        match timeout(dial.patience, Connection::greet(dial, host, port)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("{}: no answer within {} ms", dial.address, dial.patience.as_millis())),
        }
    }

    /// Whether anybody answers at the address, willing or not: a node that does may still own what it owned.
    pub async fn answers(dial: &Dial) -> bool {
        let Some((host, port)) = split_address(&dial.address) else { return false };
        let ping = async {
            let stream = TcpStream::connect((host, port)).await?;
            Connection::new(stream, &[]).command(&[b"PING"]).await
        };
        matches!(timeout(dial.patience, ping).await, Ok(Ok(_)))
    }

    async fn greet(dial: &Dial, host: &str, port: u16) -> Result<Connection, Lost> {
        let address = &dial.address;
        let stream = TcpStream::connect((host, port))
            .await
            .map_err(|error| format!("cannot connect to {address}: {error}"))?;
        let mut connection = Connection::new(stream, &[]);
        let mut password_refused = None;
        if let Some(password) = &dial.password {
            let answer = connection.command(&[b"AUTH", password.as_bytes()]).await;
            let answer = answer.map_err(|error| format!("{address}: {error}"))?;
            // A node that asks for no password refuses one too: whether it matters shows in what follows.
            password_refused = answer.strip_prefix('-').map(str::to_owned);
        }
        let (version, node) = (PROTOCOL_VERSION.to_string(), dial.node.to_string());
        let parts = [SYNC_COMMAND.as_bytes(), version.as_bytes(), node.as_bytes(), dial.announce.as_bytes()];
        let answer = connection.command(&parts).await.map_err(|error| format!("{address}: {error}"))?;
        if answer == "+OK" {
            return Ok(connection);
        }
        let answer = answer.trim_start_matches('-');
        if let Some(refusal) = password_refused {
            return Err(format!("{address} refused the password of masterauth: {refusal}"));
        }
        if answer.contains("NOAUTH") {
            return Err(format!("{address} asks for a password: config set masterauth here ({answer})"));
        }
        Err(format!("{address} refused replication: {answer}"))
    }

    /// Takes over a connection on which another node sent [`SYNC_COMMAND`]; `leftover` came after it. The reply
    /// to the command is sent with the first messages. Called on a runtime.
    ///
    /// # Errors
    /// If the runtime can't take the socket.
    pub fn accepted(stream: std::net::TcpStream, leftover: &[u8]) -> io::Result<Connection> {
        let mut connection = Connection::new(TcpStream::from_std(stream)?, leftover);
        connection.outbox.open().extend_from_slice(b"+OK\r\n");
        Ok(connection)
    }

    fn new(stream: TcpStream, leftover: &[u8]) -> Connection {
        // Without it small messages wait for acknowledgements; a socket that can't do it is only slower.
        let _ = stream.set_nodelay(true);
        let (inbox, outbox) = (BytesMut::from(leftover), Outbox::default());
        Connection { stream, inbox, outbox, squeeze: None, features: 0 }
    }

    async fn command(&mut self, parts: &[&[u8]]) -> io::Result<String> {
        let out = self.outbox.open();
        out.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
        for part in parts {
            out.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
            out.extend_from_slice(part);
            out.extend_from_slice(b"\r\n");
        }
        self.stream.write_all_buf(&mut self.outbox).await?;
        loop {
            if let Some(end) = self.inbox.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&self.inbox[..end]).into_owned();
                self.inbox.advance(end + 2);
                return Ok(line);
            }
            if self.inbox.len() > LINE_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a reply without an end"));
            }
            if self.stream.read_buf(&mut self.inbox).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Puts a message into the buffer of what is to be sent.
    pub fn send(&mut self, message: &Message) {
        match &mut self.squeeze {
            Some(squeeze) => squeeze.encode(message, self.outbox.open()),
            None => self.outbox.push(message),
        }
    }

    /// What is sent from now on is compressed where it pays, if that is what was agreed on.
    fn agree(&mut self, compress: Compress) {
        self.squeeze = (compress == Compress::Yes).then(Squeeze::default);
    }

    /// Takes the other side's hello and answers it as `node`: what the connection is for.
    ///
    /// # Errors
    /// If it begins otherwise, or needs what this node does not know: it is told so.
    pub async fn welcome(&mut self, node: NodeId, compress: Compress) -> Result<Purpose, Lost> {
        let first = self.answer().await?;
        let Message::Hello { features, purpose } = first else {
            return Err(format!("it began with {first:?}"));
        };
        if let Err(why) = features::check(features) {
            self.send(&Message::HelloRefused(why.clone()));
            return Err(why);
        }
        self.send(&Message::HelloOk { node, features: features::offered(compress) });
        self.agree(compress.agreed(features));
        self.features = features;
        Ok(purpose)
    }

    /// Says hello, and who answers.
    ///
    /// # Errors
    /// If the other side refuses, answers otherwise, or needs what this node does not know.
    pub async fn hello(&mut self, dial: &Dial, purpose: Purpose) -> Result<NodeId, Lost> {
        let hello = Message::Hello { features: features::offered(dial.compress), purpose };
        let address = &dial.address;
        match self.ask(&hello).await.map_err(|why| format!("{address}: {why}"))? {
            Message::HelloOk { node, features } => {
                features::check(features).map_err(|why| format!("{address}: {why}"))?;
                self.features = features;
                self.agree(dial.compress.agreed(features));
                Ok(node)
            }
            Message::HelloRefused(why) => Err(format!("{address} refused replication: {why}")),
            other => Err(format!("{address} answered {other:?} to the greeting")),
        }
    }

    /// What the other side said that it understands, once it was welcomed.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Bytes that wait to be sent.
    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.outbox.remaining()
    }

    /// The next message that has come in whole.
    ///
    /// # Errors
    /// If the other side does not speak this protocol.
    pub fn take_message(&mut self) -> Result<Option<Message>, BadMessage> {
        Message::take(&mut self.inbox)
    }

    /// Waits until some bytes came or some left. May be dropped at any time without loss.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn progress(&mut self) -> Result<(), Lost> {
        let (mut reading, mut writing) = self.stream.split();
        self.inbox.reserve(READ_BYTES);
        let outcome = tokio::select! {
            read = reading.read_buf(&mut self.inbox) => match read {
                Ok(0) => return Err("the other side closed the connection".to_owned()),
                other => other,
            },
            written = writing.write_buf(&mut self.outbox), if self.outbox.has_remaining() => written,
        };
        outcome.map(drop).map_err(|error| format!("the connection broke: {error}"))
    }

    /// Sends something of what waits, or waits for `pause` if nothing does; reads nothing. Says which it was.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn push(&mut self, pause: Duration) -> Result<Pushed, Lost> {
        if !self.outbox.has_remaining() {
            tokio::time::sleep(pause).await;
            return Ok(Pushed::Nothing);
        }
        let written = self.stream.write_buf(&mut self.outbox).await;
        written.map(|_| Pushed::Some).map_err(|error| format!("the connection broke: {error}"))
    }

    /// Sends a message and waits for the next that comes.
    ///
    /// # Errors
    /// If the connection is gone or the other side does not speak this protocol.
    pub async fn ask(&mut self, message: &Message) -> Result<Message, Lost> {
        self.send(message);
        self.answer().await
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// As [`Connection::ask`].
    pub async fn answer(&mut self) -> Result<Message, Lost> {
        loop {
            if let Some(message) = self.take_message().map_err(|bad| bad.to_string())? {
                return Ok(message);
            }
            self.progress().await?;
        }
    }

    /// Sends what waits, for at most `patience`, and closes.
    pub async fn finish(mut self, patience: Duration) {
        // What does not get through is lost with the connection, as it would be a moment later.
        let _ = timeout(patience, self.stream.write_all_buf(&mut self.outbox)).await;
    }
}
