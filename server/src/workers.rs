//! Workers: threads with a runtime each, on which connections are served. A connection stays with its worker.
//!
//! Sockets are handed out in turn, past workers that have been busy with one thing for long: a script that runs on, say. If
//! all are, a spare worker is started. So a new connection is always heard, and with it whoever comes to end such a script.

use std::future::{Future, poll_fn};
use std::net;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::connection;
use crate::node::Node;

/// Sockets on their way to a worker.
const HANDOUT_MAX: usize = 1024;
/// How long connections may go on with what they received, once the node stops.
const DRAIN: Duration = Duration::from_secs(5);
/// A worker that has been busy with one thing for so long gets no new connection, in milliseconds.
const STUCK_MS: u64 = 100;

/// One of the places that there are for connections; given back when it is dropped.
pub(crate) struct Place(Arc<Node>);

impl Place {
    /// Takes a place if one is free.
    pub(crate) fn take(node: &Arc<Node>) -> Option<Place> {
        let most = node.config.now().maxclients;
        let taken = node.stats.connections.fetch_add(1, Ordering::Relaxed);
        let place = Place(node.clone());
        (taken < most as u64).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.stats.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A socket on its way to a worker.
type Handout = (net::TcpStream, Place);

/// Since when a worker has been busy with one thing.
#[derive(Default)]
struct Pulse(AtomicU64);

impl Pulse {
    /// What no time is.
    const IDLE: u64 = 0;

    /// A future that shows here how long each of its polls has taken so far.
    async fn through<T>(&self, node: &Node, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        poll_fn(|context| {
            self.0.store(node.roughly_ms().max(1), Ordering::Relaxed);
            let polled = future.as_mut().poll(context);
            self.0.store(Self::IDLE, Ordering::Relaxed);
            polled
        })
        .await
    }

    fn is_stuck(&self, now_ms: u64) -> bool {
        match self.0.load(Ordering::Relaxed) {
            Self::IDLE => false,
            since_ms => now_ms.saturating_sub(since_ms) >= STUCK_MS,
        }
    }
}

struct Worker {
    handout: mpsc::Sender<Handout>,
    pulse: Arc<Pulse>,
    thread: JoinHandle<()>,
}

impl Worker {
    fn start(node: &Arc<Node>, number: usize) -> Result<Worker, String> {
        let (handout, sockets) = mpsc::channel(HANDOUT_MAX);
        let pulse = Arc::<Pulse>::default();
        let runtime = runtime()?;
        let (node, beating) = (node.clone(), pulse.clone());
        let thread = thread(format!("worker-{number}"), move || work(&node, &runtime, sockets, &beating))?;
        Ok(Worker { handout, pulse, thread })
    }
}

/// All workers of a node.
pub(crate) struct Workers {
    workers: Vec<Worker>,
    /// How many of them are served in turn; one more is the spare one.
    usual: usize,
    turn: usize,
}

impl Workers {
    /// Starts so many, at least one.
    pub(crate) fn start(node: &Arc<Node>, usual: usize) -> Result<Workers, String> {
        let workers = (0..usual).map(|number| Worker::start(node, number)).collect::<Result<_, _>>()?;
        Ok(Workers { workers, usual, turn: 0 })
    }

    /// Hands a connection to the next that is not stuck.
    pub(crate) async fn serve(&mut self, node: &Arc<Node>, stream: net::TcpStream, place: Place) {
        let now_ms = node.roughly_ms();
        let after = (1..=self.usual).map(|step| (self.turn + step) % self.usual);
        let free = after.into_iter().find(|worker| !self.workers[*worker].pulse.is_stuck(now_ms));
        let chosen = match free {
            Some(worker) => {
                self.turn = worker;
                worker
            }
            None => self.spare(node),
        };
        // It ends only when the node does.
        let _ = self.workers[chosen].handout.send((stream, place)).await;
    }

    /// The spare worker, or the one whose turn it is if no thread can be started.
    fn spare(&mut self, node: &Arc<Node>) -> usize {
        if self.workers.len() == self.usual {
            match Worker::start(node, self.usual) {
                Ok(worker) => {
                    tracing::warn!(
                        "all workers have been busy with one command each for {STUCK_MS} ms: another is started, for new \
                         connections until they are done"
                    );
                    self.workers.push(worker);
                }
                Err(error) => {
                    tracing::warn!(%error, "all workers are busy and no other can be started");
                    return self.turn;
                }
            }
        }
        self.usual
    }

    /// Lets connections finish, and waits for the threads.
    pub(crate) fn end(self) {
        let threads: Vec<JoinHandle<()>> = self.workers.into_iter().map(|worker| worker.thread).collect();
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a worker ended by a panic");
            }
        }
    }
}

/// A worker's life: serves the sockets that it is handed until the node stops.
fn work(node: &Arc<Node>, runtime: &Runtime, mut sockets: mpsc::Receiver<Handout>, pulse: &Arc<Pulse>) {
    let local = LocalSet::new();
    let mut connections = tokio::task::JoinSet::new();
    local.spawn_local({
        let (node, pulse) = (node.clone(), pulse.clone());
        async move { pulse.through(&node, connection::conduct(node.clone())).await }
    });
    runtime.block_on(local.run_until(async {
        loop {
            tokio::select! {
                handout = sockets.recv() => {
                    // The accepting thread ended: the node stops.
                    let Some((socket, place)) = handout else { break };
                    match TcpStream::from_std(socket) {
                        Ok(stream) => {
                            let (node, pulse) = (node.clone(), pulse.clone());
                            connections.spawn_local(async move {
                                pulse.through(&node, connection::serve(node.clone(), stream)).await;
                                drop(place);
                            });
                        }
                        Err(error) => tracing::warn!(%error, "can't serve a connection"),
                    }
                }
                Some(_) = connections.join_next() => {}
            }
        }
        let drain = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, drain).await.is_err() {
            tracing::warn!("some connections did not end in time and are cut");
        }
    }));
}

/// A runtime of one thread.
pub(crate) fn runtime() -> Result<Runtime, String> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("can't start a thread: {error}"))
}

/// Starts a thread with a name.
pub(crate) fn thread(name: String, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, String> {
    std::thread::Builder::new()
        .name(name)
        .spawn(body)
        .map_err(|error| format!("can't start a thread: {error}"))
}
