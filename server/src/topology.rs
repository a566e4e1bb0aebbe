//! What this node is to its slots: shown, and changed as an operator wants it, all or nothing.
//!
//! PKCLUSTER and SLAVEOF (through `whole`) both come here. Every refusal contains Pika's words, where Pika has some, and the remedy. What
//! waits for the disk is done off the worker, what waits for other nodes without blocking it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use haypile_engine::clock::TimeMs;
use haypile_engine::digest::Digest;
use haypile_engine::engine::Engine;
use haypile_engine::roles::{ASKS_REPLICAS, Position};
use haypile_engine::slot::Role;
use haypile_engine::types::{Epoch, Seq, Slot};
use haypile_replication::hub::Refused;
use haypile_replication::status::CopyProgress;

use crate::commands::pkcluster::grammar::Then;
use crate::cx::Fail;
use crate::node::Node;
use crate::slot_group;

/// What is told of a slot.
#[derive(Clone, Debug)]
pub struct SlotView {
    /// Which.
    pub slot: Slot,
    /// What this node is to it.
    pub role: Role,
    /// The running epoch; none while it waits for its first copy.
    pub epoch: Option<Epoch>,
    /// Its last record.
    pub last: Seq,
    /// Its last record that is in a file.
    pub flushed: Seq,
    /// Its keys.
    pub keys: u64,
    /// Who follows it here.
    pub replicas: Vec<ReplicaView>,
    /// How it stands with its master, if it follows one.
    pub upstream: Option<UpstreamView>,
    /// Whether its last record, as far as this node has it, gives the slot to another node.
    pub is_given_away: bool,
}

/// A node that follows this one.
#[derive(Clone, Debug)]
pub struct ReplicaView {
    /// `ip:port`.
    pub address: String,
    /// `SlaveNotSync`, `SlaveDbSync` or `SlaveBinlogSync`.
    pub state: &'static str,
    /// Records that it has not applied.
    pub lag: u64,
    /// The last record that it acknowledged.
    pub acked: Seq,
    /// Bytes of this node's log from the first record that it lacks; `None` if the log does not reach back so far.
    pub lag_bytes: Option<u64>,
    /// How old what it lacks is at most, in milliseconds.
    pub lag_ms: u64,
    /// How long ago it said something, in milliseconds.
    pub heard_ms: u64,
    /// How far a copy to it is.
    pub copy: Option<CopyProgress>,
}

/// How a slot stands with its master.
#[derive(Clone, Debug)]
pub struct UpstreamView {
    /// `kConnected`, or another of Pika's words.
    pub state: &'static str,
    /// For how long it has been so, in milliseconds.
    pub for_ms: u64,
    /// How long ago it said something, in milliseconds, if it ever did.
    pub heard_ms: Option<u64>,
    /// Records that the master is known to have and this node lacks.
    pub lag: u64,
    /// How far a copy from it is.
    pub copy: Option<CopyProgress>,
    /// Why it is not connected.
    pub why: Option<String>,
}

/// Whether `force` was said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Force {
    /// It was not.
    #[default]
    No,
    /// It was.
    Yes,
}

/// The slots of this node, ascending: those that it has data of, in whatever role.
#[must_use]
pub fn present(engine: &Engine) -> Vec<Slot> {
    Slot::all().filter(|&slot| engine.role(slot) != Role::Absent).collect()
}

/// The slots of this node and these, ascending.
#[must_use]
pub fn present_and(engine: &Engine, slots: &[Slot]) -> Vec<Slot> {
    Slot::all().filter(|slot| slots.contains(slot) || engine.role(*slot) != Role::Absent).collect()
}

/// Gives the slots back if all of them are here.
///
/// # Errors
/// For the client: the first that is not.
pub fn require_present(engine: &Engine, slots: Vec<Slot>) -> Result<Vec<Slot>, Fail> {
    let absent: Vec<Slot> = slots.iter().copied().filter(|&slot| engine.role(slot) == Role::Absent).collect();
    match absent.first() {
        None => Ok(slots),
        Some(slot) => Err(Fail::error(format!(
            "ERR Slot {slot} not found! First, on this node, PKCLUSTER ADDSLOTS {}",
            slot_group::show(&absent)
        ))),
    }
}

/// What there is to tell of those slots that are here, in the order given.
pub fn views(node: &Node, slots: Vec<Slot>) -> impl Iterator<Item = SlotView> {
    let positions = slots.into_iter().map(|slot| (slot, node.engine.position(slot)));
    let (here, positions): (Vec<Slot>, Vec<Position>) =
        positions.filter(|(_, position)| position.role != Role::Absent).unzip();
    let statuses = node.replication.statuses(&here);
    let node_id = node.engine.node();
    here.into_iter().zip(positions).zip(statuses).map(move |((slot, position), status)| {
        let replicas = status.replicas.into_iter().map(|replica| ReplicaView {
            address: replica.address,
            state: replica.state.word(),
            lag: replica.lag_records,
            acked: replica.acked,
            lag_bytes: replica.lag_bytes,
            lag_ms: replica.lag_ms,
            heard_ms: replica.heard_ms,
            copy: replica.copy,
        });
        let upstream = status.upstream.map(|upstream| UpstreamView {
            state: upstream.state.word(),
            for_ms: upstream.for_ms,
            heard_ms: upstream.heard_ms,
            lag: upstream.lag_records,
            copy: upstream.copy,
            why: upstream.last_error,
        });
        SlotView {
            slot,
            role: position.role,
            epoch: position.history.current(),
            last: position.last_seq,
            flushed: position.flushed_seq,
            keys: position.keys,
            replicas: replicas.collect(),
            upstream,
            is_given_away: position.granted.is_some_and(|(to, _)| to != node_id),
        }
    })
}

/// Makes this node the owner of slots; those that are here already stay as they are.
///
/// # Errors
/// For the client; nothing has changed then.
pub async fn add(node: &Arc<Node>, slots: Vec<Slot>) -> Result<(), Fail> {
    on_disk(node, move |engine| engine.add_slots(&slots)).await
}

/// Adds slots that are not here as ones that follow `master` and wait for a copy.
///
/// # Errors
/// For the client; nothing has changed then.
pub async fn add_replicas(node: &Arc<Node>, slots: Vec<Slot>, master: &str) -> Result<(), Fail> {
    let master = master.to_owned();
    on_disk(node, move |engine| engine.add_replicas(&slots, &master)).await
}

/// Gives slots up with their data; those that are not here are passed over.
///
/// # Errors
/// For the client; nothing has changed then.
pub async fn remove(node: &Arc<Node>, slots: Vec<Slot>) -> Result<(), Fail> {
    // What another node took over while this one was away is that node's.
    let mut heirs: BTreeMap<String, Vec<Slot>> = BTreeMap::new();
    for &slot in &slots {
        match node.replication.heir(slot) {
            Some(heir) => heirs.entry(heir).or_default().push(slot),
            None => removal_hindrance(node, slot).map_or(Ok(()), |why| Err(Fail::error(why)))?,
        }
    }
    for (heir, slots) in heirs {
        follow(node, &slots, &heir, Force::No).await?;
    }
    give_up(node, slots).await
}

/// Gives slots up with their data, whoever may need them.
///
/// # Errors
/// For the client; nothing has changed then.
pub async fn give_up(node: &Arc<Node>, slots: Vec<Slot>) -> Result<(), Fail> {
    node.replication.unfollow(&slots).await;
    let gone = slots.clone();
    on_disk(node, move |engine| engine.remove_slots(&gone)).await?;
    node.replication.dropped(&slots);
    Ok(())
}

/// Why a slot can't be given up: somebody needs it, here or elsewhere.
fn removal_hindrance(node: &Node, slot: Slot) -> Option<String> {
    let position = node.engine.position(slot);
    let status = || node.replication.status(slot);
    match &position.role {
        // What was handed over belongs to its new owner, and what was never whole is no loss.
        Role::Absent | Role::Moved { .. } | Role::Loading { .. } => None,
        Role::Replica { .. } if position.granted.is_some_and(|(to, _)| to != node.engine.node()) => None,
        Role::Replica { upstream } => Some(format!(
            "ERR Corruption: sync slave partition (db0:{slot}) in {} state: it follows {upstream}; first, on this \
             node, PKCLUSTER SLOTSSLAVEOF NO ONE {slot}",
            status().upstream.map_or("kTryConnect", |upstream| upstream.state.word())
        )),
        Role::Fenced | Role::Granted { .. } => Some(format!(
            "ERR Slot in syncing or a change operation is under way, retry later: slot {slot} is being handed over"
        )),
        Role::Owed => Some(format!(
            "ERR Slot in syncing or a change operation is under way, retry later: slot {slot} {ASKS_REPLICAS}"
        )),
        Role::Master => status().replicas.first().map(|replica| {
            format!(
                "ERR Corruption: sync master partition (db0:{slot}) in syncing: {address} follows it; first, on \
                 {address}, PKCLUSTER SLOTSSLAVEOF NO ONE {slot}, or hand the slot over to it",
                address = replica.address
            )
        }),
    }
}

/// Makes slots of this node follow another.
///
/// # Errors
/// For the client; nothing has changed then.
pub async fn follow(node: &Arc<Node>, slots: &[Slot], master: &str, force: Force) -> Result<(), Fail> {
    node.replication.follow(slots, master, force == Force::Yes).await.map_err(|why| refusal(&why))
}

/// Makes slots of this node follow nobody: it takes those over that it follows, if they are not somebody else's.
///
/// # Errors
/// For the client.
pub async fn no_one(node: &Arc<Node>, slots: &[Slot], force: Force) -> Result<(), Fail> {
    // Clients of the former master wait no longer than this, so neither does the handover.
    let patience = Duration::from_millis(node.config.now().handover_hold_ms);
    let done = node.replication.no_one(slots, force == Force::Yes, patience).await;
    for note in done.map_err(|why| refusal(&why))? {
        tracing::info!("{note}");
    }
    Ok(())
}

/// Hands slots of this node over to a node that follows them. A rehearsal says of each slot how far that node is.
///
/// # Errors
/// For the client. Before the grant nothing has changed then.
pub async fn hand_over(
    node: &Arc<Node>,
    slots: &[Slot],
    to: &str,
    timeout_ms: Option<u64>,
    rehearsal: bool,
    then: Then,
) -> Result<Vec<String>, Fail> {
    let patience = Duration::from_millis(timeout_ms.unwrap_or(node.config.now().handover_hold_ms));
    let handed = node.replication.hand_over(slots, to, patience, rehearsal).await;
    let handed = handed.map_err(|why| refusal(&why))?;
    if !rehearsal {
        match then {
            Then::Stay => {}
            Then::Follow => follow(node, slots, to, Force::No).await?,
            Then::Drop => remove(node, slots.to_vec()).await?,
        }
    }
    Ok(handed.iter().map(|one| format!("slot {} ready, lag {}", one.slot, one.lag_records)).collect())
}

/// One line for each slot: what it holds, as of a time.
///
/// # Errors
/// For the client.
pub async fn digests(node: &Arc<Node>, slots: Vec<Slot>, at: Option<u64>) -> Result<Vec<String>, Fail> {
    let engine = node.engine.clone();
    let walk = move || {
        let line = |slot: Slot| {
            let digest = engine.digest(slot, at.map(TimeMs))?;
            let epoch = digest.epoch.map_or_else(|| "-".to_owned(), |epoch| epoch.to_string());
            let Digest { seq, keys, hash, time: TimeMs(time), .. } = digest;
            Ok(format!("slot={slot} epoch={epoch} seq={seq} time={time} keys={keys} digest={hash:032x}"))
        };
        slots.into_iter().map(line).collect::<haypile_engine::error::Result<Vec<String>>>()
    };
    let done = tokio::task::spawn_blocking(walk).await;
    Ok(done.map_err(|_| Fail::error("ERR the digest was cut off, see the node's log"))??)
}

/// What the client is told of a refusal.
fn refusal(why: &Refused) -> Fail {
    Fail::error(match why {
        Refused::NotHere(slot) => {
            format!("ERR {why} First, on this node, PKCLUSTER ADDSLOTS {slot}")
        }
        Refused::Connect(_) => format!("ERR Corruption: {why}"),
        Refused::Itself(_) | Refused::Unrelated(_) | Refused::Other(_) => format!("ERR {why}"),
    })
}

/// Runs a step on the engine on a thread that may wait for the device.
async fn on_disk(
    node: &Arc<Node>,
    step: impl FnOnce(&Engine) -> haypile_engine::error::Result<()> + Send + 'static,
) -> Result<(), Fail> {
    let engine = node.engine.clone();
    let done = tokio::task::spawn_blocking(move || step(&engine)).await;
    Ok(done.map_err(|_| Fail::error("ERR the step was cut off, see the node's log"))??)
}
