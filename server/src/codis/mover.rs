//! Carries one slot over to another node: it is told to follow, gets what it lacks while this node goes on serving, and is
//! handed the slot once it is near.
//!
//! Every step may be repeated, and is until it works or nobody asks any more: what failed is shown meanwhile. Writes are held
//! back only by the handover itself, which gives up by itself if it takes too long.

use std::sync::Arc;
use std::time::Duration;

use haypile_engine::clock::TimeMs;
use haypile_engine::slot::Role;
use haypile_engine::tx::Tx;
use haypile_engine::types::Slot;
use haypile_replication::handover::FENCE_LAG_RECORDS;
use haypile_replication::status::{ReplicaState, ReplicaStatus};
use haypile_replication::transport::parse_node;

use super::adopt::{self, Refusal};
use super::dial;
use super::moves::{Past, Return, Stage, Ticket, UNTOLD_MS_MAX};
use crate::cx::Fail;
use crate::node::Node;
use crate::remote::Reply;

/// How often is looked how far the other node is.
const LOOK: Duration = Duration::from_millis(10);
/// How long to wait before what failed is tried again.
const AGAIN: Duration = Duration::from_millis(150);
/// For how long writes may be held back in one attempt.
const HOLD: Duration = Duration::from_millis(1000);
/// The dashboard asks without a pause: if it did not for this long, in milliseconds, it may have given up, and nothing is
/// handed over.
const ASKED_MS_MAX: u64 = 500;
/// For how long a slot is fetched back at most, in milliseconds.
const FETCH_MS_MAX: u64 = 30_000;
/// For how long after a start clients wait for what became of a grant, in milliseconds.
const GRANT_ANSWER_MS: u64 = 5_000;
/// How often it is looked for the other node's connection before it is told anew.
const LOOKS_MAX: u32 = 300;

/// Begins to move a slot, or goes on with it.
pub fn want(node: &Arc<Node>, slot: Slot, to: &str) {
    let keys = node.engine.position(slot).keys;
    if let Some(ticket) = node.moves.ask(slot, to, keys, node.monotonic_ms()) {
        tracing::info!(%slot, %to, keys, "a slot is wanted elsewhere");
        let (node, to) = (Arc::clone(node), to.to_owned());
        tokio::spawn(async move { carry(&node, ticket, &to).await });
    }
}

/// What the next step is.
enum Next {
    /// Nothing is left to do.
    End,
    /// Look again after a while.
    Later(Duration),
}

async fn carry(node: &Arc<Node>, ticket: Ticket, to: &str) {
    let mut follower = None;
    carry_on(node, ticket, to, &mut follower).await;
    forget(node, ticket.slot, follower);
}

/// The other node is none of this one's group: its acknowledgements save nothing when this one dies, so they don't count.
fn forget(node: &Node, slot: Slot, follower: Option<Follower>) {
    if let Some(id) = follower.and_then(|follower| parse_node(&follower.id)) {
        node.replication.acks().no_taker(slot, id);
    }
}

async fn carry_on(node: &Arc<Node>, ticket: Ticket, to: &str, follower: &mut Option<Follower>) {
    loop {
        if node.moves.wanted(ticket, node.monotonic_ms()).is_none() {
            tracing::info!(slot = %ticket.slot, %to, "a slot's move is not wanted any more");
            return;
        }
        match step(node, ticket, to, follower).await {
            Ok(Next::End) => return,
            Ok(Next::Later(pause)) => tokio::time::sleep(pause).await,
            Err(why) => {
                tracing::warn!(slot = %ticket.slot, %to, %why, "a slot can't be moved yet");
                node.moves.set(ticket, Stage::Failed(why));
                forget(node, ticket.slot, follower.take());
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// Who follows the slot for the move, and how often it was not seen.
struct Follower {
    id: String,
    missed: u32,
}

async fn step(
    node: &Arc<Node>,
    ticket: Ticket,
    to: &str,
    follower: &mut Option<Follower>,
) -> Result<Next, String> {
    let slot = ticket.slot;
    match node.engine.role(slot) {
        Role::Master | Role::Fenced => {}
        Role::Owed => return Ok(Next::Later(LOOK)),
        // It is decided; the two nodes settle it between them.
        Role::Granted { .. } => return Ok(Next::Later(LOOK)),
        role => {
            return if is_elsewhere(node, slot, &role, to).await {
                node.moves.done(ticket, node.monotonic_ms());
                Ok(Next::End)
            } else {
                Err(format!("this node does not own slot {slot}"))
            };
        }
    }
    let Some(known) = follower else {
        node.moves.set(ticket, Stage::Preparing);
        let id = match adopt::ask(node, slot, to).await {
            Ok(id) => id,
            Err(Refusal::Busy) => return Ok(Next::Later(LOOK)),
            Err(refusal) => {
                if refusal == Refusal::Stranger {
                    node.moves.set_way(to, None);
                }
                return Err(match refusal {
                    Refusal::Other(why) => why,
                    Refusal::Stranger | Refusal::Busy => format!("{to}: {refusal}"),
                });
            }
        };
        if let Some(id) = parse_node(&id) {
            node.replication.acks().set_taker(slot, id);
        }
        *follower = Some(Follower { id, missed: 0 });
        return Ok(Next::Later(LOOK));
    };
    let Some(replica) = replica(node, slot, &known.id) else {
        known.missed += 1;
        if known.missed > LOOKS_MAX {
            return Err(format!("{to} was told to follow slot {slot} and does not connect"));
        }
        return Ok(Next::Later(LOOK));
    };
    known.missed = 0;
    if replica.state != ReplicaState::BinlogSync {
        node.moves.set(ticket, Stage::Copying);
        return Ok(Next::Later(LOOK));
    }
    if replica.lag_records > FENCE_LAG_RECORDS {
        node.moves.set(ticket, Stage::Following(replica.lag_records));
        return Ok(Next::Later(LOOK));
    }
    let now_ms = node.monotonic_ms();
    let asked =
        node.moves.wanted(ticket, now_ms).is_some_and(|found| now_ms - found.asked_ms <= ASKED_MS_MAX);
    if !asked {
        node.moves.set(ticket, Stage::Following(replica.lag_records));
        return Ok(Next::Later(LOOK));
    }
    node.moves.set(ticket, Stage::HandingOver);
    let handed = node.replication.hand_over(&[slot], &replica.address, HOLD, false).await;
    handed.map_err(|why| why.to_string())?;
    // Whatever becomes of the question meanwhile: it is known from here on that the slot went by a move.
    node.moves.done(ticket, node.monotonic_ms());
    Ok(Next::End)
}

fn replica(node: &Node, slot: Slot, id: &str) -> Option<ReplicaStatus> {
    node.replication.status(slot).replicas.into_iter().find(|replica| replica.node.to_string() == id)
}

/// Whether a slot that is not this node's any more is at `to`.
pub async fn is_elsewhere(node: &Node, slot: Slot, role: &Role, to: &str) -> bool {
    match role {
        Role::Moved { to: address } if address == to => true,
        Role::Moved { .. } | Role::Replica { .. } => dial::owns(node, to, slot).await,
        _ => false,
    }
}

/// Whether a slot that is another node's comes back, so that its clients wait: the dashboard gave the move up before or just after it
/// heard that it was done, and requests come here again that a proxy does not send as those of a slot that moves. Called under the slot's
/// lock.
#[must_use]
pub fn comes_back(node: &Arc<Node>, slot: Slot, tx: &Tx<'_>) -> bool {
    match tx.role(slot) {
        Role::Moved { to } => take_back(node, slot, to, tx.now(slot)),
        // Right after a start the new owner is asked what became of it, and clients of what has moved may be sent back here.
        Role::Granted { .. } => {
            node.moves.of(slot).is_some()
                || node.moves.was_found_granted(slot)
                    && node.monotonic_ms() - node.started_ms < GRANT_ANSWER_MS
        }
        Role::Replica { .. } | Role::Loading { .. } => node.moves.is_returning(slot),
        Role::Absent | Role::Master | Role::Fenced | Role::Owed => false,
    }
}

/// The first of the slots that is on its way back: what this node has of it may be old.
#[must_use]
pub fn returning(node: &Node, slots: &[Slot], tx: &Tx<'_>) -> Option<Slot> {
    if !node.moves.any_returning() {
        return None;
    }
    let waits =
        |slot: &Slot| matches!(tx.role(*slot), Role::Replica { .. }) && node.moves.is_returning(*slot);
    slots.iter().copied().find(waits)
}

/// `went` is the slot's time, which stood still when it went.
fn take_back(node: &Arc<Node>, slot: Slot, to: &str, went: TimeMs) -> bool {
    let now_ms = node.monotonic_ms();
    let begun = match node.moves.take_back(slot, to, past(node, went, now_ms), now_ms) {
        Return::No => return false,
        Return::UnderWay => return true,
        Return::Begin => Return::Begin,
        Return::Ask => Return::Ask,
    };
    let (node, from) = (Arc::clone(node), to.to_owned());
    tokio::spawn(async move {
        if begun == Return::Ask && !came_by_a_move(&node, slot, &from).await {
            node.moves.stays(slot);
        } else {
            tracing::warn!(%slot, %from, "a slot's move was given up after it was handed over: it comes back");
            fetch(&node, slot, &from).await;
            node.moves.returned(slot);
        }
        // Who waits for the slot looks again.
        node.engine.role_changes().notify();
    });
    true
}

/// A slot whose move ended while this node was down, or whose end it forgot with its last process.
fn past(node: &Node, went: TimeMs, now_ms: u64) -> Past {
    let up_ms = now_ms.saturating_sub(node.started_ms);
    let started = TimeMs(node.wall().0.saturating_sub(up_ms));
    let is_recent = up_ms <= UNTOLD_MS_MAX && started.0.saturating_sub(went.0) <= UNTOLD_MS_MAX;
    if went <= started && is_recent { Past::RightBeforeStart } else { Past::Other }
}

/// Asks the owner of a slot whether it came there by a move of Codis', lately: nothing that an operator handed over by hand comes back.
async fn came_by_a_move(node: &Node, slot: Slot, owner: &str) -> bool {
    let number = slot.to_string();
    matches!(dial::ask(node, owner, &[ADOPTED, number.as_bytes()]).await, Ok(Reply::Integer(1)))
}

/// The command by which a node asks whether a slot came by a move: `HAYPILE.ADOPTED slot`.
pub const ADOPTED: &[u8] = b"HAYPILE.ADOPTED";

/// The command by which a node asks for a slot that it follows: `HAYPILE.RELEASE slot node-id`.
pub const RELEASE: &[u8] = b"HAYPILE.RELEASE";

/// Follows the slot and asks its owner to hand it over: that one knows whether this node has all of it.
async fn ask_for(node: &Arc<Node>, slot: Slot, from: &str) -> Result<(), String> {
    node.replication.follow(&[slot], from, false).await.map_err(|why| why.to_string())?;
    let (number, id) = (slot.to_string(), node.engine.node().to_string());
    match dial::ask(node, from, &[RELEASE, number.as_bytes(), id.as_bytes()]).await? {
        Reply::Simple(_) => Ok(()),
        reply => Err(format!("{from}: {}", reply.text())),
    }
}

/// Hands a slot over to the node of this id, which follows it.
///
/// # Errors
/// For the client. Before the grant nothing has changed then.
pub async fn release(node: &Arc<Node>, slot: Slot, id: &str) -> Result<(), Fail> {
    let refused = |why: String| Fail::error(format!("ERR {why}"));
    let replica = replica(node, slot, id)
        .ok_or_else(|| refused(format!("slot {slot}: {id} does not follow it here")))?;
    let keys = node.engine.position(slot).keys;
    let handed = node.replication.hand_over(&[slot], &replica.address, HOLD, false).await;
    handed.map_err(|why| refused(why.to_string()))?;
    node.moves.released(slot, &replica.address, keys, node.monotonic_ms());
    Ok(())
}

async fn fetch(node: &Arc<Node>, slot: Slot, from: &str) {
    let until_ms = node.monotonic_ms() + FETCH_MS_MAX;
    let mut why = "not tried".to_owned();
    while node.monotonic_ms() < until_ms {
        match ask_for(node, slot, from).await {
            Ok(()) if node.engine.role(slot) == Role::Master => {
                tracing::info!(%slot, %from, "a slot is back");
                return;
            }
            Ok(()) => {}
            Err(refused) => why = refused,
        }
        tokio::time::sleep(LOOK).await;
    }
    tracing::error!(%slot, %from, %why, "a slot whose move was given up can't be fetched back");
}
