//! Who is connected: what CLIENT LIST shows, and how CLIENT KILL reaches a connection on another worker.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use haypile_engine::clock::TimeMs;
use tokio::sync::Notify;

use crate::resp::Proto;

/// What a connection says of itself, and what is known of it.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// CLIENT SETNAME.
    pub name: String,
    /// CLIENT SETINFO lib-name.
    pub library: String,
    /// CLIENT SETINFO lib-ver.
    pub library_version: String,
    /// The selected database.
    pub db: u8,
    /// The version of the protocol.
    pub proto: Proto,
    /// The last command's name.
    pub command: &'static str,
    /// How many commands wait for EXEC, after MULTI.
    pub queued: Option<usize>,
    /// What these take, in bytes.
    pub queued_bytes: u64,
    /// Whether it is told of every command.
    pub monitors: bool,
    /// How many channels, patterns and channels of slots it listens to.
    pub listens: (usize, usize, usize),
    /// What it is.
    pub kind: ClientKind,
}

impl About {
    /// What it is to CLIENT KILL TYPE.
    #[must_use]
    pub fn kind_now(&self) -> ClientKind {
        match self.kind {
            ClientKind::Normal if self.listens != (0, 0, 0) => ClientKind::Listener,
            kind => kind,
        }
    }
}

/// What a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ClientKind {
    /// A client.
    #[default]
    Normal,
    /// A client that listens to channels.
    Listener,
    /// A node that follows this one.
    Replica,
}

impl ClientKind {
    /// As CLIENT LIST and CLIENT KILL TYPE name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ClientKind::Normal => "normal",
            ClientKind::Listener => "pubsub",
            ClientKind::Replica => "replica",
        }
    }
}

/// What a connection has in memory, in bytes, as its worker last told. Each alone; partners with nothing.
#[derive(Debug, Default)]
pub struct Usage {
    /// What it has sent that is not answered.
    pub query: AtomicUsize,
    /// Room for more of that.
    pub query_free: AtomicUsize,
    /// Arguments of the command that runs.
    pub args: AtomicUsize,
    /// Room for replies.
    pub replies: AtomicUsize,
    /// Replies and messages that it has not taken.
    pub unsent: AtomicUsize,
    /// Whether its command waits, for others or because all have to.
    pub waits: AtomicBool,
}

impl Usage {
    /// Tells of a number.
    pub fn tell(number: &AtomicUsize, bytes: usize) {
        number.store(bytes, Ordering::Relaxed);
    }
}

/// A connection's socket and state, beside its buffers: about.
const CONNECTION_BYTES: u64 = 4096;

/// A connection. Shared by its worker and whoever lists or kills it.
#[derive(Debug)]
pub struct Client {
    /// Its number, never used again.
    pub id: u64,
    /// Its other end.
    pub address: SocketAddr,
    /// Its end here.
    pub local: SocketAddr,
    /// When it came, on the monotonic clock.
    pub since_ms: u64,
    /// When its last request came, on the monotonic clock. Alone; partners with nothing.
    pub active_ms: AtomicU64,
    about: Mutex<About>,
    /// Its socket's number; negative if it has none.
    fd: i32,
    /// What it has in memory.
    pub usage: Usage,
    /// Set before `wake` is told; read by its worker after being woken and before each read.
    killed: AtomicBool,
    wake: Notify,
}

impl Client {
    /// What is known of it, to read or change.
    pub fn about(&self) -> MutexGuard<'_, About> {
        self.about.lock().expect("no code panics while it holds this lock")
    }

    /// Ends the connection: what it waits for is given up.
    pub fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.wake.notify_waiters();
    }

    /// Whether it was killed.
    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    /// Waits until it is killed.
    pub async fn killed(&self) {
        loop {
            // Several may wait at once: one for the next request, one while something is sent.
            let woken = self.wake.notified();
            if self.is_killed() {
                return;
            }
            woken.await;
        }
    }

    /// One line of CLIENT LIST, without line end.
    #[must_use]
    pub fn line(&self, now_ms: u64) -> String {
        let about = self.about();
        let idle = now_ms.saturating_sub(self.active_ms.load(Ordering::Relaxed)) / 1000;
        let flags = [
            ("O", about.monitors),
            ("S", about.kind == ClientKind::Replica),
            ("P", about.listens != (0, 0, 0)),
            ("x", about.queued.is_some()),
            ("b", self.usage.waits.load(Ordering::Relaxed)),
            ("A", self.is_killed()),
        ];
        let flags: String = flags.iter().filter(|(_, is)| *is).map(|(flag, _)| *flag).collect();
        let flags = if flags.is_empty() { "N" } else { &flags };
        let (channels, patterns, shards) = about.listens;
        let multi = about.queued.map_or("-1".to_owned(), |queued| queued.to_string());
        let told = |number: &AtomicUsize| number.load(Ordering::Relaxed) as u64;
        let (query, query_free) = (told(&self.usage.query), told(&self.usage.query_free));
        let (args, queued) = (told(&self.usage.args), about.queued_bytes);
        let (replies, unsent) = (told(&self.usage.replies), told(&self.usage.unsent));
        let total = CONNECTION_BYTES + query + query_free + args + queued + replies + unsent;
        format!(
            "id={} addr={} laddr={} fd={} name={} age={} idle={idle} flags={flags} db={} sub={channels} psub={patterns} ssub={shards} \
             multi={multi} qbuf={query} qbuf-free={query_free} argv-mem={args} multi-mem={queued} rbs={replies} rbp={replies} \
             obl={unsent} oll=0 omem=0 tot-mem={total} events={} cmd={} user=default redir=-1 resp={} lib-name={} lib-ver={}",
            self.id,
            self.address,
            self.local,
            self.fd,
            about.name,
            now_ms.saturating_sub(self.since_ms) / 1000,
            about.db,
            if unsent > 0 { "rw" } else { "r" },
            if about.command.is_empty() { "NULL" } else { about.command },
            about.proto.number(),
            about.library,
            about.library_version,
        )
    }
}

/// All connections of the node.
#[derive(Debug, Default)]
pub struct Clients {
    next_id: AtomicU64,
    connected: Mutex<BTreeMap<u64, Arc<Client>>>,
}

impl Clients {
    /// Enters a connection.
    pub fn enter(&self, address: SocketAddr, local: SocketAddr, fd: i32, now_ms: u64) -> Arc<Client> {
        let client = Arc::new(Client {
            id: self.next_id.fetch_add(1, Ordering::Relaxed) + 1,
            address,
            local,
            since_ms: now_ms,
            active_ms: AtomicU64::new(now_ms),
            about: Mutex::default(),
            fd,
            usage: Usage::default(),
            killed: AtomicBool::new(false),
            wake: Notify::new(),
        });
        self.lock().insert(client.id, client.clone());
        client
    }

    /// Takes a connection out.
    pub fn leave(&self, client: &Client) {
        self.lock().remove(&client.id);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// All of them, by number.
    pub fn list(&self) -> Vec<Arc<Client>> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Client>>> {
        self.connected.lock().expect("no code panics while it holds this lock")
    }
}

/// Milliseconds of the monotonic clock.
#[must_use]
pub fn monotonic_ms(clock: &dyn haypile_engine::clock::Clock) -> u64 {
    u64::try_from(clock.monotonic().as_millis()).unwrap_or(u64::MAX)
}

/// Seconds since 1970.
#[must_use]
pub fn unix_seconds(time: TimeMs) -> u64 {
    time.0 / 1000
}
