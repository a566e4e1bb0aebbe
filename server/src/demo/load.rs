//! The demo's clients: writers that remember what was acknowledged, and the router between them and the nodes.
//!
//! The router does what codis-proxy does: it knows which node has the slot that moves, and while it is told to hold that
//! slot, requests for it wait. A request that a node refuses is sent again; the promise that is checked at the end is
//! about what was acknowledged.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use haypile_engine::types::Slot;
use tokio::sync::{RwLock, RwLockWriteGuard};

use crate::remote::{Client, Reply};
use crate::screen::Watch;

/// The slot that moves.
pub const MOVING: u16 = 1;
/// The first slot of the second group.
pub const SECOND_GROUP: u16 = 512;
/// Writers.
pub const WRITERS: usize = 12;
/// Commands that a writer sends at once.
const BATCH: usize = 8;
/// Every so many commands one counts instead of setting a key.
const COUNT_EVERY: u32 = 4;
/// Keys of a writer in each part.
const KEYS: usize = 400;
/// Counters in each part, shared by all writers.
const COUNTERS: usize = 8;
/// Keys that the moving slot has before anything else happens.
const FIRST_KEYS: usize = 20_000;
/// How long a refused request is sent again.
const PATIENCE: Duration = Duration::from_secs(15);

/// Which nodes a key belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The slot that moves.
    Moving,
    /// The first group's other slots.
    First,
    /// The second group's slots.
    Second,
}

impl Part {
    /// All of them.
    pub const ALL: [Part; 3] = [Part::Moving, Part::First, Part::Second];

    fn of(key: &str) -> Part {
        match Slot::of_key(key.as_bytes()).number() {
            MOVING => Part::Moving,
            slot if slot < SECOND_GROUP => Part::First,
            _ => Part::Second,
        }
    }
}

/// A tag whose keys are in the moving slot.
fn moving_tag() -> String {
    let in_slot = |tag: &String| Slot::of_key(tag.as_bytes()).number() == MOVING;
    (0..).map(|number: u32| format!("t{number}")).find(in_slot).expect("some tag is in every slot")
}

/// Names for keys of a part, as many as wanted.
fn names(part: Part, prefix: &str, count: usize) -> Vec<String> {
    let tag = moving_tag();
    let name = |number: usize| match part {
        Part::Moving => format!("{{{tag}}}{prefix}:{number}"),
        Part::First | Part::Second => format!("{prefix}:{number}"),
    };
    (0..).map(name).filter(|name| Part::of(name) == part).take(count).collect()
}

/// Keys of one part and how often each was written; the value follows from both.
pub struct Written {
    /// The part.
    pub part: Part,
    /// Each key, and the last write that was acknowledged; 0 if none.
    pub keys: Vec<(String, u32)>,
}

impl Written {
    /// Keys that nobody has written yet.
    fn new(part: Part, prefix: &str, count: usize) -> Written {
        let keys = names(part, prefix, count).into_iter().map(|name| (name, 0)).collect();
        Written { part, keys }
    }
}

/// The value that a key has after its `version`th write: no two writes set the same one.
pub fn value(key: &str, version: u32) -> String {
    let padding = Slot::of_key(format!("{key}{version}").as_bytes()).index() % 160;
    format!("{key}={version}|{}", "#".repeat(padding))
}

/// Shared counters of a part: names, and how often each was counted up with an acknowledgement.
pub struct Counters {
    names: Vec<String>,
    acknowledged: Vec<AtomicU64>,
}

impl Counters {
    fn new(part: Part) -> Counters {
        let acknowledged = (0..COUNTERS).map(|_| AtomicU64::new(0)).collect();
        Counters { names: names(part, "counter", COUNTERS), acknowledged }
    }

    /// Each counter with what it must be.
    pub fn expected(&self) -> impl Iterator<Item = (&str, u64)> {
        let counts = self.acknowledged.iter().map(|count| count.load(Ordering::Relaxed));
        self.names.iter().map(String::as_str).zip(counts)
    }
}

/// What all writers share. Counters are measures, read while they grow.
pub struct Shared {
    /// Where the nodes are, from node 1 on.
    nodes: Vec<SocketAddr>,
    /// The node that has the moving slot. Read-locked while a request for it is under way; write-locked it is held.
    route: RwLock<usize>,
    /// Counters by part, in the order of [`Part::ALL`].
    pub counters: Vec<Counters>,
    /// Writes acknowledged.
    pub acknowledged: AtomicU64,
    /// Writes of the moving slot acknowledged.
    pub acknowledged_moving: AtomicU64,
    /// Requests that a node refused and that were sent again.
    pub refused: AtomicU64,
    /// The longest that a request for the moving slot waited in the router, in microseconds.
    pub held_us_max: AtomicU64,
    stopping: AtomicBool,
    /// The first thing that went wrong.
    trouble: Mutex<Option<String>>,
}

impl Shared {
    /// For nodes at these addresses; the moving slot is on node 1.
    pub fn new(nodes: Vec<SocketAddr>) -> Arc<Shared> {
        Arc::new(Shared {
            nodes,
            route: RwLock::new(0),
            counters: Part::ALL.map(Counters::new).into(),
            acknowledged: AtomicU64::new(0),
            acknowledged_moving: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            held_us_max: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            trouble: Mutex::new(None),
        })
    }

    /// Holds requests for the moving slot: those under way are waited for, others wait until the guard, which is the
    /// node that they then go to, is dropped.
    pub async fn hold(&self) -> RwLockWriteGuard<'_, usize> {
        self.route.write().await
    }

    /// Asks the writers to end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// What went wrong with a writer, if something did.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().expect("no code panics while it holds this lock").clone()
    }

    fn fail(&self, why: String) {
        self.trouble.lock().expect("no code panics while it holds this lock").get_or_insert(why);
    }
}

/// A command that is to be acknowledged.
enum Write {
    /// Write the key at this index again.
    Set(usize),
    /// Count up the counter at this index.
    Count(usize),
}

/// One writer.
pub struct Writer {
    shared: Arc<Shared>,
    clients: Vec<Option<Client>>,
    written: Vec<Written>,
    turn: u32,
}

impl Writer {
    /// The writer with this number, over keys of its own.
    pub fn new(shared: &Arc<Shared>, number: usize) -> Writer {
        let prefix = format!("w{number}");
        let written = Part::ALL.map(|part| Written::new(part, &prefix, KEYS)).into();
        Writer { written, ..Writer::over(shared) }
    }

    fn over(shared: &Arc<Shared>) -> Writer {
        let clients = shared.nodes.iter().map(|_| None).collect();
        Writer { shared: shared.clone(), clients, written: Vec::new(), turn: 0 }
    }

    /// Writes the keys that the moving slot has before anything else happens.
    ///
    /// # Errors
    /// A line for people.
    pub async fn fill(shared: &Arc<Shared>) -> Result<Vec<Written>, String> {
        let written = vec![Written::new(Part::Moving, "first", FIRST_KEYS)];
        let mut writer = Writer { written, ..Writer::over(shared) };
        let all: Vec<usize> = (0..FIRST_KEYS).collect();
        for some in all.chunks(500) {
            writer.acknowledged(0, some.iter().map(|&index| Write::Set(index)).collect()).await?;
        }
        Ok(writer.written)
    }

    /// Writes until it is asked to stop; gives back what was acknowledged.
    pub async fn run(mut self) -> Vec<Written> {
        while !self.shared.stopping.load(Ordering::Relaxed) {
            let part = self.turn as usize % Part::ALL.len();
            let batch = (0..BATCH).map(|_| self.next_write()).collect();
            if let Err(why) = self.acknowledged(part, batch).await {
                self.shared.fail(why);
                break;
            }
        }
        self.written
    }

    fn next_write(&mut self) -> Write {
        self.turn = self.turn.wrapping_add(1);
        let mixed = self.turn.wrapping_mul(0x9e37_79b9) as usize >> 7;
        if self.turn.is_multiple_of(COUNT_EVERY) {
            Write::Count(mixed % COUNTERS)
        } else {
            Write::Set(mixed % KEYS)
        }
    }

    /// Sends writes to a part until each is acknowledged.
    async fn acknowledged(&mut self, part: usize, mut writes: Vec<Write>) -> Result<(), String> {
        let began = Watch::start();
        while !writes.is_empty() {
            if began.elapsed() > PATIENCE {
                return Err(format!("{} writes were refused for {PATIENCE:?}", writes.len()));
            }
            let (refused, why) = self.attempt(part, writes).await?;
            writes = refused;
            if let Some(why) = why {
                self.shared.refused.fetch_add(writes.len() as u64, Ordering::Relaxed);
                tracing::debug!(why, "refused, sent again");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(())
    }

    /// Sends writes once; gives back those that were refused, and the last refusal.
    async fn attempt(
        &mut self,
        part: usize,
        writes: Vec<Write>,
    ) -> Result<(Vec<Write>, Option<String>), String> {
        let shared = self.shared.clone();
        let wanted = Watch::start();
        let moving = self.written[part].part == Part::Moving;
        let guard = if moving { Some(shared.route.read().await) } else { None };
        if moving {
            let waited = u64::try_from(wanted.elapsed().as_micros()).unwrap_or(u64::MAX);
            shared.held_us_max.fetch_max(waited, Ordering::Relaxed);
        }
        let node = match (&guard, self.written[part].part) {
            (Some(node), _) => **node,
            (None, Part::Second) => 2,
            (None, _) => 0,
        };
        let broken = |error: std::io::Error| format!("a client of node {}: {error}", node + 1);
        let client = match &mut self.clients[node] {
            Some(client) => client,
            none => none.insert(Client::connect(shared.nodes[node]).await.map_err(broken)?),
        };
        let (keys, counters) = (&mut self.written[part].keys, &shared.counters[part]);
        // A key may stand in a batch twice: each write has a version of its own.
        let mut sent = Vec::with_capacity(writes.len());
        let mut ahead = std::collections::HashMap::new();
        for write in &writes {
            match *write {
                Write::Set(index) => {
                    let (name, acknowledged) = &keys[index];
                    let version = ahead.entry(index).or_insert(*acknowledged);
                    *version += 1;
                    sent.push(*version);
                    client.push(&[b"SET", name.as_bytes(), value(name, *version).as_bytes()]);
                }
                Write::Count(index) => {
                    sent.push(0);
                    client.push(&[b"INCR", counters.names[index].as_bytes()]);
                }
            }
        }
        client.send().await.map_err(broken)?;
        let (mut refused, mut why) = (Vec::new(), None);
        let mut acknowledged = 0;
        for (write, version) in writes.into_iter().zip(sent) {
            let reply = client.receive().await.map_err(broken)?;
            match (&write, reply) {
                (_, Reply::Error(text)) => {
                    why = Some(text);
                    refused.push(write);
                    continue;
                }
                (Write::Set(index), _) => keys[*index].1 = version,
                (Write::Count(index), _) => {
                    counters.acknowledged[*index].fetch_add(1, Ordering::Relaxed);
                }
            }
            acknowledged += 1;
        }
        shared.acknowledged.fetch_add(acknowledged, Ordering::Relaxed);
        if moving {
            shared.acknowledged_moving.fetch_add(acknowledged, Ordering::Relaxed);
        }
        Ok((refused, why))
    }
}
