//! The loops that bring sockets, engine and machines together: one for a peer, one for a link, one for open
//! grants. Each belongs to one thread.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use haypile_engine::types::NodeId;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::grants;
use crate::hub::{Shared, lock};
use crate::link::Link;
use crate::message::{Message, Purpose};
use crate::operate::ask_grantee;
use crate::peer::Peer;
use crate::receiver::{RETRY_MS_MAX, RETRY_MS_MIN, Receiver};
use crate::registry::{LinkCommand, PeerCommand, PeerEntry};
use crate::told::{Repeats, Told};
use crate::transport::{Connection, Pushed, SyncHello};

/// While this much waits to be sent, nothing more is read for a peer.
const UNSENT_BYTES_MAX: usize = 4 << 20;
/// A replica's answers are small: this much means that the master does not read them.
const ANSWERS_BYTES_MAX: usize = 64 << 20;
/// Records that come in quick succession leave together: for so long after some have left, the log is not looked at, unless
/// somebody waits for what replicas acknowledge. Each look wakes a thread here and one on the replica.
const SHIP_EVERY: Duration = Duration::from_millis(1);
/// How often a link looks at its timers.
const LINK_TICK: Duration = Duration::from_millis(100);
/// How often a replica that can't take records says that it is there.
const KEEPALIVE: Duration = Duration::from_secs(1);
/// How often it is looked for copies that were kept for too long.
const KEPT_LOOK: Duration = Duration::from_secs(10);
/// How long what is left may take to be sent when a connection ends.
const FAREWELL: Duration = Duration::from_millis(500);

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Serves a node that connected.
pub(crate) async fn accepted(
    shared: Arc<Shared>,
    stream: std::net::TcpStream,
    leftover: Vec<u8>,
    hello: SyncHello,
) {
    let connection = match Connection::accepted(stream, &leftover) {
        Ok(connection) => connection,
        Err(error) => {
            tracing::warn!(peer = %hello.announce, %error, "a connection can't be taken over");
            return;
        }
    };
    serve(&shared, connection, &hello).await;
}

async fn serve(shared: &Arc<Shared>, mut connection: Connection, hello: &SyncHello) {
    let settings = shared.settings();
    let welcome = connection.welcome(shared.engine.node(), settings.compress);
    let welcomed = tokio::time::timeout(settings.silence_max, welcome).await;
    let Ok(Ok(purpose)) = welcomed else {
        tracing::info!(peer = %hello.announce, ?welcomed, "a connection of a node without a greeting that holds");
        connection.finish(FAREWELL).await;
        return;
    };
    let (engine, registry) = (Arc::clone(&shared.engine), Arc::clone(&shared.registry));
    let mut peer = Peer::new(engine, registry, hello.node, hello.announce.clone());
    peer.understands(connection.features());
    peer.came_for(purpose);
    let (commands, mut inbox) = unbounded_channel();
    let number = shared.registry.next_number();
    if purpose == Purpose::Stream {
        shared.engine.register_replica(hello.node, &hello.announce);
        let entry = PeerEntry {
            number,
            address: hello.announce.clone(),
            shipper: peer.shipper(),
            follower: peer.follower(),
            since: shared.engine.clock().wall(),
            commands,
        };
        shared.registry.add_peer(hello.node, entry);
        if shared.registry.note_connected(hello.node) {
            tracing::info!(peer = %hello.announce, node = %hello.node, "a replica connected");
        }
    }
    let why = converse(shared, &mut connection, &mut peer, &mut inbox, purpose).await;
    shared.registry.remove_peer(hello.node, number);
    if purpose == Purpose::Stream
        && let Some(left_out) = shared.registry.note_ended(hello.node, &why, shared.now_ms())
    {
        tracing::info!(peer = %hello.announce, %why, left_out, "a replica's connection ended");
    }
    peer.lost(shared.now_ms());
    peer.take_out().for_each(|message| connection.send(&message));
    connection.finish(FAREWELL).await;
}

async fn converse(
    shared: &Shared,
    connection: &mut Connection,
    peer: &mut Peer,
    inbox: &mut UnboundedReceiver<PeerCommand>,
    purpose: Purpose,
) -> String {
    let settings = shared.settings();
    let mut stopping = shared.stopping.subscribe();
    let mut heard_ms = shared.now_ms();
    let mut beat_ms = heard_ms;
    let mut rest_until = Duration::ZERO;
    loop {
        let now_ms = shared.now_ms();
        loop {
            match connection.take_message() {
                Ok(Some(message)) => {
                    heard_ms = now_ms;
                    if let Err(why) = peer.on_message(message, now_ms) {
                        return why;
                    }
                }
                Ok(None) => break,
                Err(bad) => return bad.to_string(),
            }
        }
        peer.on_time(now_ms);
        if now_ms >= beat_ms && purpose == Purpose::Stream {
            peer.heartbeat();
            beat_ms = now_ms + millis(settings.heartbeat);
        }
        if now_ms.saturating_sub(heard_ms) > millis(settings.silence_max) {
            return format!("nothing came for {} ms", now_ms - heard_ms);
        }
        let more = match connection.unsent_bytes() < UNSENT_BYTES_MAX {
            true => match peer.pump() {
                Ok(more) => more,
                Err(why) => return why,
            },
            false => false,
        };
        for message in peer.take_out() {
            rest_until = shared.engine.clock().monotonic() + SHIP_EVERY;
            connection.send(&message);
        }
        let next_ms = peer.next_deadline_ms().map_or(beat_ms, |deadline| deadline.min(beat_ms));
        let wake = match purpose {
            Purpose::Stream => Duration::from_millis(next_ms.saturating_sub(now_ms).max(1)),
            Purpose::Question => settings.silence_max,
        };
        let (waits_at, hurries) = (peer.waits_at(), peer.is_handing_over());
        let log_grew = async {
            let Some(lsn) = waits_at else { return pending().await };
            if !hurries {
                rest(shared, rest_until).await;
            }
            shared.engine.log_changed(lsn).await
        };
        tokio::select! {
            progress = connection.progress() => {
                if let Err(why) = progress {
                    return why;
                }
            }
            grown = log_grew => match grown {
                Ok(()) => peer.log_grew(),
                Err(error) => return error.to_string(),
            },
            command = inbox.recv(), if purpose == Purpose::Stream => match command {
                Some(PeerCommand::Stop(why)) => return why.to_owned(),
                Some(command) => peer.on_command(command, shared.now_ms()),
                None => return "it was forgotten".to_owned(),
            },
            // An error means that the sender is gone, which is a stop as well.
            _ = stopping.wait_for(|stop| *stop) => return "the node stops".to_owned(),
            () = tokio::time::sleep(wake) => {}
            // Whoever serves clients goes first: a copy can take all of a core.
            () = tokio::task::yield_now(), if more => std::thread::yield_now(),
        }
    }
}

/// Waits until a time of the monotonic clock, or until somebody waits for what replicas acknowledge.
async fn rest(shared: &Shared, until: Duration) {
    let left = until.saturating_sub(shared.engine.clock().monotonic());
    if !left.is_zero() {
        tokio::select! {
            () = tokio::time::sleep(left) => {}
            () = shared.registry.acks().awaited() => {}
        }
    }
}

/// Follows one node for as long as this one runs.
pub(crate) async fn link(
    shared: Arc<Shared>,
    upstream: String,
    receiver: Arc<Mutex<Receiver>>,
    mut inbox: UnboundedReceiver<LinkCommand>,
) {
    let engine = Arc::clone(&shared.engine);
    let mut link = Link::new(&engine, Arc::clone(&shared.registry), upstream.clone(), receiver);
    let mut pause_ms = RETRY_MS_MIN;
    let mut told = Told::default();
    loop {
        if link.slot_count() == 0 {
            match inbox.recv().await {
                None | Some(LinkCommand::Stop) => return,
                Some(command) => link.on_command(command, shared.now_ms()),
            }
            pause_ms = RETRY_MS_MIN;
            continue;
        }
        let began_ms = shared.now_ms();
        let why = match greet(&shared, &upstream, &mut link, &mut inbox).await {
            Ok(Some((connection, node))) => {
                pause_ms = RETRY_MS_MIN;
                if told.up() {
                    tracing::info!(%upstream, slots = link.slot_count(), "following");
                }
                link.connected(node, shared.now_ms());
                match receive(&shared, connection, &mut link, &mut inbox).await {
                    Ended::Stop => {
                        // What came of copies is kept for the next start.
                        link.disconnected("the node stops", shared.now_ms());
                        return;
                    }
                    Ended::Idle => continue,
                    Ended::Lost(why) => why,
                }
            }
            Ok(None) => return,
            Err(why) => why,
        };
        let now_ms = shared.now_ms();
        link.disconnected(&why, now_ms);
        if let Some(left_out) = told.down(&why, now_ms) {
            tracing::warn!(%upstream, %why, left_out, "the link is down; trying again");
        }
        let until_ms = began_ms.max(now_ms.saturating_sub(RETRY_MS_MAX)).max(now_ms) + pause_ms;
        pause_ms = (pause_ms * 2).min(RETRY_MS_MAX);
        while shared.now_ms() < until_ms {
            let left = Duration::from_millis(until_ms.saturating_sub(shared.now_ms()).max(1));
            tokio::select! {
                command = inbox.recv() => match command {
                    None | Some(LinkCommand::Stop) => return,
                    Some(command) => {
                        // Somebody wants something now: no reason to wait any longer.
                        pause_ms = RETRY_MS_MIN;
                        let attached = matches!(command, LinkCommand::Attach { .. });
                        link.on_command(command, shared.now_ms());
                        if attached || link.slot_count() == 0 {
                            break;
                        }
                    }
                },
                () = tokio::time::sleep(left) => {}
            }
        }
    }
}

/// Connects and says hello; commands are dealt with meanwhile. `None` if the link is to stop.
async fn greet(
    shared: &Shared,
    upstream: &str,
    link: &mut Link<'_>,
    inbox: &mut UnboundedReceiver<LinkCommand>,
) -> Result<Option<(Connection, NodeId)>, String> {
    let dial = shared.dial(upstream);
    let opening = async {
        let mut connection = Connection::open(&dial).await?;
        let asked = tokio::time::timeout(dial.patience, connection.hello(&dial, Purpose::Stream)).await;
        let node = asked.map_err(|_| format!("{upstream}: no answer to the greeting"))??;
        if node == shared.engine.node() {
            return Err(format!("{upstream} is this node itself"));
        }
        Ok((connection, node))
    };
    tokio::pin!(opening);
    loop {
        tokio::select! {
            opened = &mut opening => return opened.map(Some),
            command = inbox.recv() => match command {
                None | Some(LinkCommand::Stop) => return Ok(None),
                Some(command) => link.on_command(command, shared.now_ms()),
            },
        }
    }
}

enum Ended {
    Stop,
    /// No slot is attached any more.
    Idle,
    Lost(String),
}

async fn receive(
    shared: &Shared,
    mut connection: Connection,
    link: &mut Link<'_>,
    inbox: &mut UnboundedReceiver<LinkCommand>,
) -> Ended {
    let silence_max = millis(shared.settings().silence_max);
    let mut heard_ms = shared.now_ms();
    loop {
        let now_ms = shared.now_ms();
        loop {
            match connection.take_message() {
                Ok(Some(message)) => {
                    heard_ms = now_ms;
                    link.on_message(message, now_ms);
                }
                Ok(None) => break,
                Err(bad) => return Ended::Lost(bad.to_string()),
            }
        }
        if link.is_importing() {
            // As whoever sends them does.
            std::thread::yield_now();
        }
        link.on_time(now_ms);
        let broken = link.finish_batch(now_ms);
        link.take_out().iter().for_each(|message| connection.send(message));
        if let Some(why) = broken {
            connection.finish(FAREWELL).await;
            return Ended::Lost(why);
        }
        if link.slot_count() == 0 && link.next_deadline_ms().is_none() {
            connection.finish(FAREWELL).await;
            link.disconnected("nothing is followed any more", now_ms);
            return Ended::Idle;
        }
        if connection.unsent_bytes() > ANSWERS_BYTES_MAX {
            return Ended::Lost("the master does not read what it is answered".to_owned());
        }
        if now_ms.saturating_sub(heard_ms) > silence_max {
            return Ended::Lost(format!("nothing came for {} ms", now_ms - heard_ms));
        }
        // Records are taken only as fast as memory for them is freed. The master hears from us meanwhile.
        loop {
            tokio::select! {
                biased;
                room = shared.engine.room() => match room {
                    Ok(()) => break,
                    Err(error) => return Ended::Lost(error.to_string()),
                },
                pushed = connection.push(KEEPALIVE) => match pushed {
                    Ok(Pushed::Nothing) => connection.send(&Message::Pong),
                    Ok(Pushed::Some) => {}
                    Err(why) => return Ended::Lost(why),
                },
            }
            heard_ms = shared.now_ms();
        }
        tokio::select! {
            progress = connection.progress() => {
                if let Err(why) = progress {
                    return Ended::Lost(why);
                }
            }
            command = inbox.recv() => match command {
                None | Some(LinkCommand::Stop) => {
                    connection.finish(FAREWELL).await;
                    return Ended::Stop;
                }
                Some(command) => link.on_command(command, shared.now_ms()),
            },
            () = tokio::time::sleep(LINK_TICK) => {}
        }
    }
}

/// Lets go of copies whose replicas did not come back, and of the log after them.
fn forget_copies(shared: &Shared) {
    for (node, slot) in shared.registry.copies().expire(shared.now_ms()) {
        let serves =
            |(peer, entry): &(NodeId, PeerEntry)| *peer == node && lock(&entry.shipper).phase(slot).is_some();
        if !shared.registry.peers().iter().any(serves) {
            tracing::info!(%node, %slot, "a replica did not come back for its copy: nothing is kept for it");
            shared.engine.unpin(node, slot);
        }
    }
}

/// Asks the new owners of granted slots until they have answered.
pub(crate) async fn open_grants(shared: Arc<Shared>) {
    let mut repeats = Repeats::default();
    // Those that a start finds are on no connection's way.
    let mut patience = Duration::ZERO;
    loop {
        let seen = shared.engine.role_changes().count();
        let before = grants::open(&shared.engine);
        forget_copies(&shared);
        if before.is_empty() {
            patience = shared.settings().grant_patience;
            // Whether it was a change or time that ended the wait shows above.
            let _ = tokio::time::timeout(KEPT_LOOK, shared.engine.role_changes().wait_past(seen)).await;
            continue;
        }
        tokio::time::sleep(std::mem::replace(&mut patience, shared.settings().grant_patience)).await;
        // Those that were open all the while: the others are on their way.
        let open = grants::open(&shared.engine).into_iter().filter(|grant| before.contains(grant));
        let mut by_address: BTreeMap<String, Vec<grants::Open>> = BTreeMap::new();
        open.for_each(|grant| by_address.entry(grant.address.clone()).or_default().push(grant));
        for (address, open) in by_address {
            let asked =
                tokio::time::timeout(shared.settings().silence_max, ask_grantee(&shared, &address, &open));
            let why = match asked.await {
                Ok(Ok(())) => continue,
                Ok(Err(why)) => why,
                Err(_) => format!("{address} does not answer in time"),
            };
            if let Some(left_out) = repeats.news(&why, shared.now_ms()) {
                tracing::warn!(%address, %why, left_out, "a granted slot's new owner does not answer");
            }
        }
    }
}
