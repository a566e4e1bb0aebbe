//! Nodes for tests: a real engine on a disk in memory, real sockets on the loopback, no server in between. A node
//! keeps its port while it is down, so that it is found again where it was.

#![allow(dead_code, missing_docs)] // each test file uses its part

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use haypile_engine::background::Background;
use haypile_engine::clock::SystemClock;
use haypile_engine::engine::{Engine, Fetched, Options, SyncMode};
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::key::Key;
use haypile_engine::log::ReadOutcome;
use haypile_engine::log::record::Record;
use haypile_engine::slot::Role;
use haypile_engine::tx::{Read as Found, Stop};
use haypile_engine::types::{Seq, Slot};
use haypile_engine::value::Value;
use haypile_replication::hub::{Refused, Replication, Settings};
use haypile_replication::message::Message;
use haypile_replication::receiver::LinkState;
use haypile_replication::status::{Note, ReplicaState};
use haypile_replication::transport::{SYNC_COMMAND, SyncHello};
use tokio::runtime::{Builder, Runtime};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is behind a node's port at the moment.
#[derive(Default)]
struct Door {
    replication: Mutex<Option<Arc<Replication>>>,
    password: Option<String>,
}

pub struct Running {
    pub engine: Arc<Engine>,
    pub replication: Arc<Replication>,
    background: Background,
}

pub struct Node {
    pub address: String,
    fs: Arc<MemoryFs>,
    door: Arc<Door>,
    masterauth: Option<String>,
    /// After an unclean stop, how long replicas are asked for what was lost; `None` asks nobody.
    pub tail_wait: Option<Duration>,
    pub sync: SyncMode,
    running: Option<Running>,
}

pub fn slot(number: u16) -> Slot {
    Slot::new(number).expect("in range")
}

pub fn slots(numbers: impl IntoIterator<Item = u16>) -> Vec<Slot> {
    numbers.into_iter().map(slot).collect()
}

pub fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Waits until something holds; how long that takes is nobody's promise.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let clock = SystemClock::new();
    let monotonic = || haypile_engine::clock::Clock::monotonic(&clock);
    while !holds() {
        assert!(monotonic() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::yield_now();
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Node {
    pub fn start(slots: &[Slot]) -> Node {
        Node::with_password(slots, None, None)
    }

    pub fn with_password(slots: &[Slot], password: Option<&str>, masterauth: Option<&str>) -> Node {
        let door = Arc::new(Door { password: password.map(str::to_owned), ..Door::default() });
        let address = listen(&door);
        let fs = Arc::new(MemoryFs::new());
        let masterauth = masterauth.map(str::to_owned);
        let (tail_wait, sync) = (None, SyncMode::EverySec);
        let mut node = Node { address, fs, door, masterauth, tail_wait, sync, running: None };
        node.open();
        node.engine().add_slots(slots).expect("slots are added");
        node
    }

    fn engine_on(&self, fs: Arc<MemoryFs>) -> Engine {
        let options = Options {
            log_segment_bytes: 1 << 20,
            memory_bytes: 64 << 20,
            sync: self.sync,
            keep_owed: self.tail_wait.is_some(),
            ..Options::default()
        };
        let opened = Engine::open(fs, Path::new("/haypile"), Arc::new(SystemClock::new()), options);
        opened.expect("the folder opens").0
    }

    /// How many slots would ask their replicas, if the node were killed now.
    pub fn owed_on_disk(&self) -> usize {
        self.engine_on(Arc::new(self.fs.restart())).owed().len()
    }

    /// A slot's last record as a start finds it on this node's disk, which is down.
    pub fn last_on_disk(&self, slot: Slot) -> Seq {
        self.engine_on(Arc::new(self.fs.restart())).position(slot).last_seq
    }

    pub fn open(&mut self) {
        let engine = Arc::new(self.engine_on(Arc::clone(&self.fs)));
        let settings = Settings {
            masterauth: self.masterauth.clone(),
            heartbeat: Duration::from_millis(200),
            grant_patience: Duration::from_millis(100),
            tail_wait: self.tail_wait.unwrap_or_default(),
            ..Settings::new(self.address.clone())
        };
        let background = Background::start(&engine).expect("threads");
        let replication = Replication::start(Arc::clone(&engine), settings).expect("threads");
        *self.door.replication.lock().expect("no panic") = Some(Arc::clone(&replication));
        self.running = Some(Running { engine, replication, background });
    }

    /// While it is down: from now on it listens elsewhere, and nobody where it did.
    pub fn move_elsewhere(&mut self) {
        self.door = Arc::new(Door { password: self.door.password.clone(), ..Door::default() });
        self.address = listen(&self.door);
    }

    /// Stops without a word: what was not written is gone. The port stays, and closes whoever knocks.
    pub fn kill(&mut self) {
        *self.door.replication.lock().expect("no panic") = None;
        let running = self.running.take().expect("runs");
        running.replication.shutdown();
        drop(running);
        self.fs = Arc::new(self.fs.restart());
    }

    /// Stops in order.
    pub fn stop(&mut self) {
        *self.door.replication.lock().expect("no panic") = None;
        let running = self.running.take().expect("runs");
        running.replication.shutdown();
        drop(running.background);
        running.engine.close().expect("closes");
        drop(running.engine);
        self.fs = Arc::new(self.fs.restart());
    }

    /// As [`Node::kill`], and the disk forgets what was not synced.
    pub fn lose_power(&mut self, seed: u64) {
        *self.door.replication.lock().expect("no panic") = None;
        let running = self.running.take().expect("runs");
        running.replication.shutdown();
        drop(running);
        self.fs = Arc::new(self.fs.crash(seed));
    }

    pub fn engine(&self) -> &Arc<Engine> {
        &self.running.as_ref().expect("runs").engine
    }

    pub fn replication(&self) -> &Arc<Replication> {
        &self.running.as_ref().expect("runs").replication
    }

    pub fn follow(&self, slots: &[Slot], upstream: &Node, force: bool) -> Result<(), Refused> {
        runtime().block_on(self.replication().follow(slots, &upstream.address, force))
    }

    pub fn no_one(&self, slots: &[Slot], force: bool) -> Result<Vec<Note>, Refused> {
        runtime().block_on(self.replication().no_one(slots, force, Duration::from_secs(5)))
    }

    pub fn role(&self, slot: Slot) -> Role {
        self.engine().role(slot)
    }

    /// Sets a key; `Err` says which role the slot has if it is not this node's to write.
    pub fn set(&self, key: &str, value: &str) -> Result<(), Role> {
        let key = Key::new(key.as_bytes());
        let mut fetched = Fetched::default();
        loop {
            let mut tx = self.engine().begin(&[key.slot()], &fetched);
            if *tx.role(key.slot()) != Role::Master {
                return Err(tx.role(key.slot()).clone());
            }
            let value = Value {
                kind: 1,
                encoding: 0,
                expiry: None,
                generation: None,
                payload: Bytes::copy_from_slice(value.as_bytes()),
            };
            match tx.put(&key, &value) {
                Ok(()) => {
                    tx.commit().expect("the log takes it");
                    self.engine().write().expect("the log is written");
                    return Ok(());
                }
                Err(Stop::Miss) => {
                    let wanted = tx.abandon();
                    self.engine().fetch(wanted, &mut fetched).expect("blocks are read");
                }
                Err(Stop::Failed(error)) => panic!("{error}"),
            }
        }
    }

    /// Every key of a slot with its value.
    pub fn content(&self, slot: Slot) -> BTreeMap<Bytes, Bytes> {
        let mut all = BTreeMap::new();
        let mut from = Some(0);
        while let Some(hash) = from {
            let (page, next) = self.read(slot, |tx| tx.keys(slot, hash, 1000));
            all.extend(page.into_iter().map(|(key, value)| (key, value.payload)));
            from = next;
        }
        all
    }

    fn read<T>(&self, slot: Slot, mut look: impl FnMut(&mut haypile_engine::tx::Tx<'_>) -> Found<T>) -> T {
        let mut fetched = Fetched::default();
        loop {
            let mut tx = self.engine().begin(&[slot], &fetched);
            match look(&mut tx) {
                Ok(found) => return found,
                Err(Stop::Miss) => {
                    let wanted = tx.abandon();
                    self.engine().fetch(wanted, &mut fetched).expect("blocks are read");
                }
                Err(Stop::Failed(error)) => panic!("{error}"),
            }
        }
    }

    /// The slot's records that lie in this node's log, in order.
    pub fn log_of(&self, slot: Slot) -> Vec<Bytes> {
        let mut found = Vec::new();
        let first = self.engine().locate(slot, Seq(1)).expect("the log has all of it");
        let mut reader = self.engine().reader(first);
        loop {
            match reader.next() {
                ReadOutcome::Frame { records, .. } => {
                    let mut rest = &records[..];
                    while let Ok(record) = Record::take(&mut rest) {
                        if record.header.slot == slot {
                            found.push(Bytes::copy_from_slice(record.bytes));
                        }
                    }
                }
                ReadOutcome::CaughtUp => return found,
                other => panic!("{other:?}"),
            }
        }
    }

    pub fn link_state(&self, slot: Slot) -> Option<LinkState> {
        self.replication().status(slot).upstream.map(|upstream| upstream.state)
    }

    pub fn wait_connected(&self, slots: &[Slot]) {
        for &slot in slots {
            until(&format!("slot {slot} of {} is connected", self.address), || {
                self.link_state(slot) == Some(LinkState::Connected)
            });
        }
    }

    /// Waits until every replica of the slots has applied all.
    pub fn wait_drained(&self, slots: &[Slot], replicas: usize) {
        for &slot in slots {
            until(&format!("{replicas} replicas of slot {slot} have all"), || {
                let status = self.replication().status(slot);
                status.replicas.len() == replicas
                    && status
                        .replicas
                        .iter()
                        .all(|replica| replica.state == ReplicaState::BinlogSync && replica.lag_records == 0)
            });
        }
    }
}

/// Where whoever is behind a door is reached, from now on.
fn listen(door: &Arc<Door>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let behind = Arc::clone(door);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let behind = Arc::clone(&behind);
            std::thread::spawn(move || greet(&behind, stream.expect("accepts")));
        }
    });
    address
}

/// What stands before a master and passes everything on, until a replica asks for a handover: then it is as if the
/// master's process had gone.
pub struct DyingMaster {
    pub address: String,
    dead: Arc<AtomicBool>,
}

impl DyingMaster {
    pub fn before(master: &Node) -> DyingMaster {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let (dead, to) = (Arc::<AtomicBool>::default(), master.address.clone());
        let dying = DyingMaster { address, dead: Arc::clone(&dead) };
        std::thread::spawn(move || {
            for replica in listener.incoming() {
                let replica = replica.expect("accepts");
                if dead.load(Ordering::SeqCst) {
                    continue; // closes whoever knocks
                }
                let master = TcpStream::connect(&to).expect("the master listens");
                let (from, to) =
                    (master.try_clone().expect("a socket"), replica.try_clone().expect("a socket"));
                std::thread::spawn(move || pass_on(from, to, |_| true));
                let dead = Arc::clone(&dead);
                std::thread::spawn(move || {
                    let mut said = Said::default();
                    pass_on(replica, master, |bytes| {
                        let dies = said.asks_for_handover(bytes);
                        dead.fetch_or(dies, Ordering::SeqCst);
                        !dies
                    });
                });
            }
        });
        dying
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }
}

/// Passes bytes on as long as `goes_on`, then ends both connections.
fn pass_on(mut from: TcpStream, mut to: TcpStream, mut goes_on: impl FnMut(&[u8]) -> bool) {
    let mut chunk = [0; 4096];
    while let Ok(got) = from.read(&mut chunk) {
        if got == 0 || !goes_on(&chunk[..got]) || to.write_all(&chunk[..got]).is_err() {
            break;
        }
    }
    // Whoever has closed already needs no telling.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// What a replica has said on a connection.
#[derive(Default)]
struct Said {
    bytes: BytesMut,
    greeted: bool,
}

impl Said {
    fn asks_for_handover(&mut self, bytes: &[u8]) -> bool {
        self.bytes.extend_from_slice(bytes);
        if !self.greeted {
            let Some((parts, used)) = parse(&self.bytes) else { return false };
            if parts.first().map(Vec::as_slice) != Some(SYNC_COMMAND.as_bytes()) {
                return false; // nothing comes after it that matters
            }
            self.bytes.advance(used);
            self.greeted = true;
        }
        while let Some(message) = Message::take(&mut self.bytes).expect("a replica keeps to the protocol") {
            if matches!(message, Message::HandoverAsk { .. }) {
                return true;
            }
        }
        false
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        *self.door.replication.lock().expect("no panic") = None;
        if let Some(running) = self.running.take() {
            running.replication.shutdown();
        }
    }
}

/// What a server does with a connection until it becomes one of replication: commands as arrays of bulk strings.
fn greet(door: &Door, mut stream: TcpStream) {
    let mut authenticated = door.password.is_none();
    let mut buffer = Vec::new();
    loop {
        let Some((parts, used)) = parse(&buffer) else {
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk) {
                Ok(0) | Err(_) => return,
                Ok(got) => buffer.extend_from_slice(&chunk[..got]),
            }
            continue;
        };
        buffer.drain(..used);
        if door.replication.lock().expect("no panic").is_none() {
            return;
        }
        let words: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let reply = match words.as_slice() {
            [b"AUTH", password] if door.password.as_deref().map(str::as_bytes) == Some(password) => {
                authenticated = true;
                "+OK\r\n".to_owned()
            }
            [b"AUTH", _] => "-ERR invalid password\r\n".to_owned(),
            _ if !authenticated => "-NOAUTH Authentication required.\r\n".to_owned(),
            [name, args @ ..] if *name == SYNC_COMMAND.as_bytes() => match SyncHello::parse(args) {
                Ok(hello) => {
                    let replication = door.replication.lock().expect("no panic").clone();
                    if let Some(replication) = replication {
                        // A node that is full or stopping closes the connection.
                        let _ = replication.accept(stream, buffer, hello);
                    }
                    return;
                }
                Err(text) => format!("-{text}\r\n"),
            },
            _ => "-ERR unknown command\r\n".to_owned(),
        };
        if stream.write_all(reply.as_bytes()).is_err() {
            return;
        }
    }
}

fn parse(buffer: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let line = |from: usize| {
        let end = buffer[from..].windows(2).position(|pair| pair == b"\r\n")? + from;
        let number: usize = std::str::from_utf8(&buffer[from + 1..end]).ok()?.parse().ok()?;
        Some((number, end + 2))
    };
    let (count, mut at) = line(0)?;
    let mut parts = Vec::new();
    for _ in 0..count {
        let (len, start) = line(at)?;
        parts.push(buffer.get(start..start + len)?.to_vec());
        at = start + len + 2;
    }
    (buffer.len() >= at).then_some((parts, at))
}

pub fn assert_same(a: &Node, b: &Node, slots: &[Slot]) {
    for &slot in slots {
        assert_eq!(a.content(slot), b.content(slot), "slot {slot}");
        assert_eq!(a.engine().pulse(slot).last_seq, b.engine().pulse(slot).last_seq, "slot {slot}");
        assert_eq!(a.engine().position(slot).history, b.engine().position(slot).history, "slot {slot}");
    }
}

/// A key of this slot: `{tag}` decides.
pub fn key_in(slot: Slot, name: &str) -> String {
    let tag =
        (0u32..).find(|number| Slot::of_key(number.to_string().as_bytes()) == slot).expect("there is one");
    format!("{{{tag}}}{name}")
}
