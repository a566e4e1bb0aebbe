//! The other node's side of a move: add the slot and follow it at the node that has it, in one step.
//!
//! Replicas of this whole node do the same right after it, each from this node: a group stays complete.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use haypile_engine::slot::Role;
use haypile_engine::types::Slot;
use haypile_replication::transport::split_address;

use super::dial;
use crate::cx::Fail;
use crate::node::Node;
use crate::remote::Reply;
use crate::topology::{self, Force};
use crate::whole;

/// The command by which a node asks another to take a slot: `HAYPILE.ADOPT slot host port`.
pub const COMMAND: &[u8] = b"HAYPILE.ADOPT";

/// How long to wait before a replica that did not take a slot is asked again, at first and at most.
const AGAIN: Duration = Duration::from_millis(50);
const AGAIN_MAX: Duration = Duration::from_secs(2);
/// How often a replica is asked to take a slot: for an hour.
const TELLS_MAX: usize = 1800;

/// Adds the slot if it is not here, and follows it at `from`. It is never this node's on the way there: added, it waits for
/// its copy, whatever happens next. What is this node's and has keys stays so: who asks may follow a node that follows this one.
///
/// # Errors
/// For the client; nothing has changed then.
pub async fn adopt(node: &Arc<Node>, slot: Slot, from: &str) -> Result<(), Fail> {
    let role = node.engine.role(slot);
    if role.owns() && node.engine.position(slot).keys > 0 {
        return Err(Fail::error(format!(
            "ERR slot {slot} is this node's own and has keys: it follows nobody"
        )));
    }
    let is_new = role == Role::Absent;
    if is_new {
        topology::add_replicas(node, vec![slot], from).await?;
    }
    let followed = topology::follow(node, &[slot], from, Force::No).await;
    if followed.is_err() && is_new && matches!(node.engine.role(slot), Role::Loading { .. }) {
        topology::remove(node, vec![slot]).await?;
    }
    followed?;
    node.moves.adopted(slot, node.monotonic_ms());
    if is_replica_of(node, slot, from) {
        // Whose it is its master knows; until it says so it is not this node's in any case.
        node.moves.set_foreign(slot, Some(from));
        whole::learn(node, &[slot], from).await;
    } else if node.engine.role(slot) != Role::Master {
        node.moves.set_foreign(slot, Some(from));
        watch(node, slot, Audience::Replicas);
    }
    tell_replicas(node, slot, from);
    Ok(())
}

/// Whether this node follows the one at `address` with what it has besides, and owns nothing.
fn is_replica_of(node: &Node, slot: Slot, address: &str) -> bool {
    let others = Slot::all().filter(|&other| other != slot && node.moves.foreign(other).is_none());
    let roles: Vec<Role> = others.map(|other| node.engine.role(other)).collect();
    let follows = |role: &Role| matches!(role, Role::Replica { upstream } if upstream == address);
    roles.iter().any(follows) && !roles.iter().any(|role| role.owns())
}

/// Who is to hear of a slot once it is this node's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Audience {
    /// This node's replicas: it comes to the group.
    Replicas,
    /// Nobody: it may have been prepared by hand.
    Nobody,
}

/// Sees to it that a slot is no other group's any more once it is this node's, and that those hear of it who are to.
pub fn watch(node: &Arc<Node>, slot: Slot, audience: Audience) {
    if node.moves.set_awaited(slot, true) {
        let (node, owner) = (Arc::clone(node), node.moves.foreign(slot).unwrap_or_default());
        tokio::spawn(async move { await_handover(&node, slot, &owner, audience).await });
    }
}

async fn await_handover(node: &Arc<Node>, slot: Slot, owner: &str, audience: Audience) {
    loop {
        let seen = node.engine.role_changes().count();
        match node.engine.role(slot) {
            Role::Replica { .. } | Role::Loading { .. } => node.engine.role_changes().wait_past(seen).await,
            role => {
                node.moves.set_foreign(slot, None);
                node.moves.set_awaited(slot, false);
                if role == Role::Master && audience == Audience::Replicas {
                    tell_replicas(node, slot, owner);
                }
                return;
            }
        }
    }
}

fn tell_replicas(node: &Arc<Node>, slot: Slot, from: &str) {
    for address in whole_replicas(node, slot, from) {
        if node.moves.set_telling(&address, slot, true) {
            let node = Arc::clone(node);
            tokio::spawn(async move {
                tell(&node, slot, &address).await;
                node.moves.set_telling(&address, slot, false);
            });
        }
    }
}

/// Who follows all slots that this node owns besides this one, or did before its connection ended. Not who had the slot before: that
/// node may follow some here to fetch them back.
fn whole_replicas(node: &Node, slot: Slot, from: &str) -> Vec<String> {
    let is_owned = |other: &Slot| node.engine.role(*other).owns();
    let others: Vec<Slot> = Slot::all().filter(|other| *other != slot && is_owned(other)).collect();
    if others.is_empty() {
        return Vec::new();
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for peer in node.replication.peers() {
        counts.insert(peer.address, peer.slots + peer.copying);
    }
    for kept in node.replication.kept(&others) {
        for away in kept.away {
            *counts.entry(away.address).or_default() += 1;
        }
    }
    // Those that come to it next.
    for (address, slots) in node.moves.telling() {
        *counts.entry(address).or_default() += slots;
    }
    let whole = counts.into_iter().filter(|(address, count)| address != from && *count >= others.len());
    whole.map(|(address, _)| address).collect()
}

/// Asks a replica of this node to take the slot from here as well: again and again, it may be down.
async fn tell(node: &Arc<Node>, slot: Slot, replica: &str) {
    let mut pause = AGAIN;
    for number in 0..TELLS_MAX {
        match ask(node, slot, replica).await {
            Ok(_) => {
                tracing::info!(%slot, %replica, "a replica follows the slot that came");
                return;
            }
            Err(Refusal::Busy) => {}
            Err(why) if number == 0 => {
                tracing::warn!(%slot, %replica, %why, "a replica does not follow the slot that came yet");
            }
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(AGAIN_MAX);
        if matches!(node.engine.role(slot), Role::Absent | Role::Moved { .. } | Role::Granted { .. }) {
            return;
        }
    }
    tracing::warn!(%slot, %replica, "a replica does not follow the slot that came: SLAVEOF there adds it");
}

/// Asks the node at `address` to add the slot and to follow it here; that node's id.
///
/// # Errors
/// Why it does not.
pub async fn ask(node: &Node, slot: Slot, address: &str) -> Result<String, Refusal> {
    let announce = node.replication.announce();
    let Some((host, port)) = split_address(&announce) else {
        return Err(Refusal::Other(format!("this node is announced at '{announce}', which is no address")));
    };
    let (number, port) = (slot.to_string(), port.to_string());
    let words: [&[u8]; 4] = [COMMAND, number.as_bytes(), host.as_bytes(), port.as_bytes()];
    match dial::ask(node, address, &words).await.map_err(Refusal::Other)? {
        Reply::Bulk(Some(id)) => Ok(String::from_utf8_lossy(&id).into_owned()),
        Reply::Error(why) if why.starts_with("ERR unknown command") => Err(Refusal::Stranger),
        Reply::Error(why) if why.ends_with("retry later") || why.ends_with("try again later") => {
            Err(Refusal::Busy)
        }
        reply => Err(Refusal::Other(format!("{address}: {}", reply.text()))),
    }
}

/// Why another node does not take a slot.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// It is no Haypile node: it takes keys one by one only.
    #[error("it is no Haypile node")]
    Stranger,
    /// Another change of the slot comes to its end there: nothing is wrong, and it may be asked again at once.
    #[error("it works on the slot still")]
    Busy,
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}
