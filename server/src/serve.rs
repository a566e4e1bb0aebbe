//! `haypile serve`: opens the engine, listens, spreads connections over workers, and ends cleanly.
//!
//! The accepting thread hands sockets out to the workers.

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use haypile_engine::background::Background;
use haypile_engine::clock::{Clock, SystemClock};
use haypile_engine::engine::{Engine, Opened, Options};
use haypile_engine::error::Error;
use haypile_engine::fs::Fs;
use haypile_engine::slot::{NOBODY, Role};
use haypile_engine::types::Slot;
use haypile_replication::features::Compress;
use haypile_replication::hub::{self, Replication};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal as Listener, SignalKind, signal};

use crate::config::Settings;
use crate::node::{Node, Stopping, apply_to_replication};
use crate::recall;
use crate::scripting::follow;
use crate::slot_group;
use crate::tools;
use crate::topology;
use crate::workers::{Place, Workers, runtime, thread};

/// Over how long commands a second are counted.
const RATES_OVER: Duration = Duration::from_secs(2);
/// How often a start asks again for a folder that another process has, and how long it waits each time.
const LOCK_TRIES: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// A node that runs.
pub struct Running {
    /// The node.
    pub node: Arc<Node>,
    /// Where it listens.
    pub address: SocketAddr,
    /// What opening the engine found.
    pub opened: Opened,
    accept: JoinHandle<()>,
    background: Background,
}

/// Starts a node on a file system and a clock.
///
/// # Errors
/// A line that names the thing and the remedy.
pub fn start(
    settings: Settings,
    config_file: Option<PathBuf>,
    fs: Arc<dyn Fs>,
    clock: Arc<dyn Clock>,
) -> Result<Running, String> {
    let runtime = runtime()?;
    let socket = {
        let _entered = runtime.enter();
        bind(&settings)?
    };
    let options = Options {
        sync: settings.sync,
        memory_bytes: usize::try_from(settings.memory_bytes).unwrap_or(usize::MAX),
        log_segment_bytes: settings.log_segment_bytes,
        own_copies: settings.standalone,
        keep_owed: settings.tail_wait_ms > 0,
        ..Options::default()
    };
    let (engine, opened) = open_patiently(&fs, Path::new(&settings.dir), &clock, &options)
        .map_err(|error| format!("{error}{}", tools::advice(&*fs, Path::new(&settings.dir), &error)))?;
    let engine = Arc::new(engine);
    let background = Background::start(&engine).map_err(|error| format!("can't start threads: {error}"))?;
    tell_of_nobodys(&engine);
    first_slots(&engine, &settings, &opened).map_err(|error| error.to_string())?;
    let listen =
        |error: std::io::Error| format!("can't listen at {}:{}: {error}", settings.bind, settings.port);
    let listener = {
        let _entered = runtime.enter();
        socket.listen(BACKLOG).map_err(listen)?
    };
    let address = listener.local_addr().map_err(listen)?;
    let workers = match settings.worker_threads {
        // A core is left to flushes, compactions, replication and the kernel: docs/decisions/0011 has the figures.
        0 => std::thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1).max(1)),
        workers => workers,
    };
    let replication = start_replication(&engine, &settings, address)?;
    let node = Arc::new(Node::new(engine, replication, fs, settings, config_file, address.port()));
    node.tell_of_expired();
    let workers = Workers::start(&node, workers)?;
    let accepting = node.clone();
    let accept = thread("accept".to_owned(), move || {
        runtime.block_on(accept(&accepting, listener, workers)).end();
    })?;
    Ok(Running { node, address, opened, accept, background })
}

/// Opens the engine, and waits a while if another process has the folder: one that was killed holds it until the last of
/// its threads is gone, which a sync under way may delay, and who starts the next may be quicker.
fn open_patiently(
    fs: &Arc<dyn Fs>,
    dir: &Path,
    clock: &Arc<dyn Clock>,
    options: &Options,
) -> Result<(Engine, Opened), Error> {
    for tried in 0..LOCK_TRIES {
        match Engine::open(fs.clone(), dir, clock.clone(), options.clone()) {
            Err(Error::InUse { .. }) if tried == 0 => {
                tracing::warn!(
                    "{}: in use by another process: waiting up to {} s for its end",
                    dir.display(),
                    (LOCK_PAUSE * LOCK_TRIES).as_secs()
                );
            }
            Err(Error::InUse { .. }) => {}
            opened => return opened,
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    Engine::open(fs.clone(), dir, clock.clone(), options.clone())
}

/// The real file system's and clock's node.
///
/// # Errors
/// As [`start`].
pub fn start_real(settings: Settings, config_file: Option<PathBuf>) -> Result<Running, String> {
    start(settings, config_file, real_fs(), Arc::new(SystemClock::new()))
}

impl Running {
    /// Waits until the node was asked to stop, lets connections finish, and closes the engine.
    ///
    /// # Errors
    /// What closing met: the next start will recover.
    pub fn wait(self) -> Result<(), Error> {
        if self.accept.join().is_err() {
            tracing::error!("who accepts connections ended by a panic");
        }
        // Nothing is appended, no flush or compaction runs into the last one.
        self.node.saves.stop();
        self.node.replication.shutdown();
        drop(self.background);
        self.node.engine.close()
    }

    /// Asks the node to stop, and waits.
    ///
    /// # Errors
    /// As [`Running::wait`].
    pub fn stop(self) -> Result<(), Error> {
        self.node.stop();
        self.wait()
    }
}

/// Starts a node, tells where it listens, and runs it until a signal or SHUTDOWN.
///
/// # Errors
/// A line that names the thing and the remedy.
pub fn run(settings: Settings, config_file: Option<PathBuf>) -> Result<(), String> {
    let runtime = runtime()?;
    survive_file_limits(&runtime).map_err(|error| format!("can't be told of limits on files: {error}"))?;
    let running = start_real(settings, config_file)?;
    // Before the line: who has read it may send them. Before that a signal ends a recovery at once.
    let signals =
        StopSignals::listen(&runtime).map_err(|error| format!("can't wait for signals: {error}"))?;
    // Whoever started it may have closed the pipe: no reason not to serve.
    let _ = writeln!(std::io::stdout(), "{}", start_line(&running));
    runtime.block_on(signals.stop(&running.node));
    running
        .wait()
        .map_err(|error| format!("the stop was not clean, the next start will recover: {error}"))?;
    tracing::info!("stopped cleanly");
    Ok(())
}

/// A file that may not grow any more (`ulimit -f`) is an error of a write, as a full disk is; the signal that comes with
/// it would end the process. Once it has a handler it does not.
fn survive_file_limits(runtime: &Runtime) -> std::io::Result<()> {
    let _entered = runtime.enter();
    let kind = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
    signal(kind).map(drop)
}

/// What is told at the start.
fn start_line(running: &Running) -> String {
    let Opened { fresh, copied, clean, records, log_bytes, cut_bytes, took } = &running.opened;
    let slots = topology::present(&running.node.engine).len();
    let how = match (fresh, copied, clean) {
        (true, ..) => "fresh folder",
        (_, true, _) => "a checkpoint",
        (_, _, true) => "after a clean stop",
        (_, _, false) => "after an unclean stop",
    };
    let cut = if *cut_bytes > 0 { format!(", cut {cut_bytes} bytes off a torn tail") } else { String::new() };
    format!(
        "haypile listens at {}, {slots} slots; recovered in {:.3} s ({how}): replayed {records} records from {log_bytes} bytes \
         of log{cut}",
        running.address,
        took.as_secs_f64(),
    )
}

/// The signals that ask a node to stop; none is lost from the moment that this is there.
struct StopSignals {
    terminate: Listener,
    interrupt: Listener,
}

impl StopSignals {
    fn listen(runtime: &Runtime) -> std::io::Result<StopSignals> {
        let _entered = runtime.enter();
        Ok(StopSignals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for one of them, or for SHUTDOWN, and asks the node to stop.
    async fn stop(mut self, node: &Node) {
        let mut stopping = node.stopping();
        tokio::select! {
            _ = self.terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = self.interrupt.recv() => tracing::info!("SIGINT: stopping"),
            _ = stopping.wait_for(|stopping| *stopping != Stopping::No) => tracing::info!("SHUTDOWN: stopping"),
        }
        node.stop();
    }
}

fn bind(settings: &Settings) -> Result<TcpSocket, String> {
    let place = (settings.bind.as_str(), settings.port);
    let at = || format!("can't listen at {}:{}", settings.bind, settings.port);
    let address = place
        .to_socket_addrs()
        .ok()
        .and_then(|mut addresses| addresses.next())
        .ok_or_else(|| format!("{}: no such address; choose one of this machine's with --bind", at()))?;
    let remedy = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!("{}: the port is taken; stop who has it, or choose another with --port", at())
        }
        std::io::ErrorKind::AddrNotAvailable => {
            format!("{}: not an address of this machine; choose one with --bind", at())
        }
        std::io::ErrorKind::PermissionDenied => {
            format!("{}: not permitted; choose a port above 1023 with --port", at())
        }
        _ => format!("{}: {error}", at()),
    };
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(remedy)?;
    socket.set_reuseaddr(true).map_err(remedy)?;
    socket.bind(address).map_err(remedy)?;
    Ok(socket)
}

/// Slots of a checkpoint wait for an operator's word: without it no write is taken.
fn tell_of_nobodys(engine: &Engine) {
    let nobodys =
        |slot: &Slot| matches!(engine.role(*slot), Role::Replica { upstream } if upstream == NOBODY);
    let slots: Vec<Slot> = Slot::all().filter(nobodys).collect();
    if !slots.is_empty() {
        let slots = slot_group::show(&slots);
        tracing::warn!(
            %slots,
            "slots of a checkpoint are read-only and follow nobody: PKCLUSTER SLOTSSLAVEOF NO ONE <group> makes this node \
             their owner, PKCLUSTER SLOTSSLAVEOF <host> <port> <group> lets them follow another"
        );
    }
}

/// Gives a fresh folder the slots that the settings name.
fn first_slots(engine: &Engine, settings: &Settings, opened: &Opened) -> Result<(), Error> {
    let choice = if settings.slots.is_empty() && settings.standalone { "all" } else { &settings.slots };
    let slots = slot_group::parse_choice(choice).map_err(Error::Limit)?;
    // A standalone node that was killed between making its folder and adding slots has none: it gets them now.
    if opened.fresh || (settings.standalone && topology::present(engine).is_empty()) {
        engine.add_slots(&slots)?;
    }
    Ok(())
}

/// Slots that followed another node go on following it.
fn start_replication(
    engine: &Arc<Engine>,
    settings: &Settings,
    address: SocketAddr,
) -> Result<Arc<Replication>, String> {
    let announce = if settings.announce.is_empty() { address.to_string() } else { settings.announce.clone() };
    let masterauth = Some(settings.password_for_nodes().to_owned()).filter(|password| !password.is_empty());
    let compress = if settings.repl_compression { Compress::Yes } else { Compress::No };
    let tail_wait = Duration::from_millis(settings.tail_wait_ms);
    let own = hub::Settings { masterauth, compress, tail_wait, ..hub::Settings::new(announce) };
    let replication =
        Replication::start(engine.clone(), own).map_err(|error| format!("can't start a thread: {error}"))?;
    apply_to_replication(&replication, settings);
    Ok(replication)
}

/// Hands out connections until the node stops; the workers have more to finish then.
async fn accept(node: &Arc<Node>, listener: TcpListener, mut workers: Workers) -> Workers {
    recall::after_start(node);
    tokio::spawn(follow::run(node.clone()));
    let mut stopping = node.stopping();
    let mut rates = tokio::time::interval(RATES_OVER);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = rates.tick() => {
                node.stats.measure_rates(RATES_OVER);
                continue;
            }
            _ = stopping.wait_for(|stopping| *stopping != Stopping::No) => return workers,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: it passes when connections end.
                tracing::warn!(%error, "can't accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        node.stats.connections_received.fetch_add(1, Ordering::Relaxed);
        let Some(place) = Place::take(node) else {
            node.stats.connections_rejected.fetch_add(1, Ordering::Relaxed);
            refuse(stream).await;
            continue;
        };
        keep_alive(&stream, node.config.now().tcp_keepalive_s);
        if let Ok(stream) = stream.into_std() {
            workers.serve(node, stream, place).await;
        }
    }
}

async fn refuse(mut stream: TcpStream) {
    let words = b"-ERR max number of clients reached\r\n";
    // A new socket's buffer has room for a line; whoever still makes us wait goes without.
    let _ = tokio::time::timeout(Duration::from_millis(10), stream.write_all(words)).await;
}

fn keep_alive(stream: &TcpStream, seconds: u64) {
    if seconds > 0 {
        let idle = Duration::from_secs(seconds);
        let _ = rustix::net::sockopt::set_socket_keepalive(stream, true)
            .and_then(|()| rustix::net::sockopt::set_tcp_keepidle(stream, idle));
    }
}

/// The operating system's files.
#[must_use]
pub fn real_fs() -> Arc<dyn Fs> {
    Arc::new(haypile_engine::fs::real::RealFs)
}
