//! One client on its connection: sends batches, and holds each answer against its model.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use haypile_engine::clock::{Clock, SystemClock};
use tokio::time::timeout;

use std::net::SocketAddr;

use crate::remote::{Client, Reply};

use super::model::{ClientLog, Fate};
use super::operation::Operation;
use super::plan::{Plan, is_shared};
use super::script::Line;
use super::shared::{SharedKeys, Ticket};
use super::violation::{Breach, Violation};

/// How long an answer may take.
pub const ANSWER_MAX: Duration = Duration::from_secs(30);

/// What all clients of a run share.
pub struct Common {
    /// Time; all moments are since its beginning.
    pub clock: SystemClock,
    /// Where the server is; its port may change when it is started again.
    address: Mutex<SocketAddr>,
    /// The keys that all write to.
    pub shared: Mutex<SharedKeys>,
    /// Clients are to end after the batch that they are at.
    pub stop: AtomicBool,
    /// Operations that were acknowledged.
    pub answered: AtomicU64,
    /// Operations that were answered with an error.
    pub refused: AtomicU64,
    /// The last such error.
    pub refusal: Mutex<Option<String>>,
}

impl Common {
    /// For a server at this address.
    #[must_use]
    pub fn new(address: SocketAddr) -> Arc<Common> {
        Arc::new(Common {
            clock: SystemClock::new(),
            address: Mutex::new(address),
            shared: Mutex::default(),
            stop: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            refusal: Mutex::default(),
        })
    }

    /// The moment now.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// Where the server is.
    ///
    /// # Panics
    /// Never: no code panics while it holds the lock.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        *self.address.lock().expect("no code panics while it holds this lock")
    }

    /// The server is there now.
    ///
    /// # Panics
    /// Never: no code panics while it holds the lock.
    pub fn moved(&self, address: SocketAddr) {
        *self.address.lock().expect("no code panics while it holds this lock") = address;
    }

    /// The shared keys, for a moment.
    ///
    /// # Panics
    /// Never: no code panics while it holds the lock.
    pub fn shared(&self) -> std::sync::MutexGuard<'_, SharedKeys> {
        self.shared.lock().expect("no code panics while it holds this lock")
    }
}

/// Why a client's work ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// It has done what it had to.
    Done,
    /// The connection broke.
    Broken(String),
    /// An answer was wrong.
    Wrong(Box<Violation>),
}

/// One client.
pub struct Lane {
    /// Its number, from 0.
    pub number: usize,
    /// What it did.
    pub log: ClientLog,
    /// The next step of its plan.
    pub next: u64,
    /// All steps before this one were answered.
    pub answered_to: u64,
    /// When it sent something last.
    pub last_sent: Duration,
    common: Arc<Common>,
    client: Option<Client>,
    pending: Vec<Pending>,
}

/// Something that was sent.
enum Pending {
    Own(usize, Operation),
    Shared(Ticket),
}

impl Lane {
    /// The client with this number.
    #[must_use]
    pub fn new(number: usize, common: &Arc<Common>) -> Lane {
        Lane {
            number,
            log: ClientLog::default(),
            next: 0,
            answered_to: 0,
            last_sent: Duration::ZERO,
            common: common.clone(),
            client: None,
            pending: Vec::new(),
        }
    }

    /// Whether something that it sent was not answered.
    #[must_use]
    pub fn in_doubt(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Forgets its connection, and what it waits for there.
    pub fn hang_up(&mut self) {
        self.client = None;
        self.pending.clear();
        self.answered_to = self.next;
    }

    /// Follows the plan until it is told to stop.
    pub async fn follow(&mut self, plan: &Plan) -> End {
        while !self.common.stop.load(Ordering::Relaxed) {
            let batch = plan.batch(self.number, self.next);
            self.next += batch.len() as u64;
            let done = async {
                self.dispatch(batch).await?;
                self.collect().await
            };
            if let Err(end) = done.await {
                return end;
            }
            self.answered_to = self.next;
        }
        End::Done
    }

    /// Sends these lines, waiting for the answers to each.
    pub async fn play(&mut self, lines: Vec<Line>) -> End {
        for line in lines {
            let done = async {
                self.dispatch(line.operations).await?;
                self.collect().await
            };
            if let Err(end) = done.await {
                return end;
            }
        }
        End::Done
    }

    /// Sends operations, without waiting.
    ///
    /// # Errors
    /// If there is no connection.
    pub async fn dispatch(&mut self, batch: Vec<Operation>) -> Result<(), End> {
        let broken = |error: std::io::Error| End::Broken(error.to_string());
        if self.client.is_none() {
            self.client = Some(Client::connect(self.common.address()).await.map_err(broken)?);
        }
        let client = self.client.as_mut().ok_or_else(|| End::Broken("no connection".to_owned()))?;
        let now = self.common.now();
        self.last_sent = now;
        for operation in batch {
            for request in operation.requests() {
                let words: Vec<&[u8]> = request.words.iter().map(|word| word.as_bytes()).collect();
                client.push(&words);
            }
            let shared = operation.touches().any(|touch| is_shared(&touch.key));
            self.pending.push(if shared {
                Pending::Shared(self.common.shared().sent(self.number, operation, now))
            } else {
                Pending::Own(self.log.sent(operation.clone(), now), operation)
            });
        }
        client.send().await.map_err(broken)
    }

    /// Waits for the answers to all that was sent.
    ///
    /// # Errors
    /// If the connection breaks, or an answer is wrong.
    pub async fn collect(&mut self) -> Result<(), End> {
        let mut pending = std::mem::take(&mut self.pending).into_iter();
        let mut result = Ok(());
        for next in pending.by_ref() {
            result = self.collect_one(&next).await;
            if result.is_err() {
                self.pending.push(next);
                break;
            }
        }
        self.pending.extend(pending);
        result
    }

    async fn collect_one(&mut self, pending: &Pending) -> Result<(), End> {
        let requests = match pending {
            Pending::Own(_, operation) => operation.requests().len(),
            Pending::Shared(_) => 1,
        };
        let client = self.client.as_mut().ok_or_else(|| End::Broken("no connection".to_owned()))?;
        let mut replies = Vec::with_capacity(requests);
        for _ in 0..requests {
            let reply = timeout(ANSWER_MAX, client.receive()).await.map_err(|_| silent())?;
            replies.push(reply.map_err(|error| End::Broken(error.to_string()))?);
        }
        let now = self.common.now();
        let fate = match pending {
            Pending::Own(record, _) => self.log.answered(*record, &replies, now),
            Pending::Shared(ticket) => self.common.shared().answered(ticket, &replies[0], now),
        };
        match fate.map_err(|violation| End::Wrong(Box::new(violation)))? {
            Fate::Refused => {
                self.common.refused.fetch_add(1, Ordering::Relaxed);
                let text = replies.iter().find(|reply| matches!(reply, Reply::Error(_))).map(Reply::text);
                *self.common.refusal.lock().expect("no code panics while it holds this lock") = text;
            }
            Fate::Answered(_) | Fate::Unanswered => {
                self.common.answered.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

fn silent() -> End {
    End::Wrong(Box::new(Violation::of_server(
        Breach::Silent,
        format!("a command was not answered within {ANSWER_MAX:?}"),
        Vec::new(),
    )))
}
