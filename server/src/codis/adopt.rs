//! The other node's side of a move: add the slot and follow it at the node that has it, in one step.
//!
//! Replicas of this whole node do the same right after it, each from this node: a group stays complete.

use std::sync::Arc;

use haypile_engine::slot::Role;
use haypile_engine::types::Slot;
use haypile_replication::transport::split_address;

use super::dial;
use crate::cx::Fail;
use crate::node::Node;
use crate::remote::Reply;
use crate::topology::{self, Force};

/// The command by which a node asks another to take a slot: `HAYPILE.ADOPT slot host port`.
pub const COMMAND: &[u8] = b"HAYPILE.ADOPT";

/// Adds the slot if it is not here, and follows it at `from`. It is never this node's on the way there: added, it waits for
/// its copy, whatever happens next.
///
/// # Errors
/// For the client; nothing has changed then.
pub async fn adopt(node: &Arc<Node>, slot: Slot, from: &str) -> Result<(), Fail> {
    let is_new = node.engine.role(slot) == Role::Absent;
    if is_new {
        topology::add_replicas(node, vec![slot], from).await?;
    }
    let followed = topology::follow(node, &[slot], from, Force::No).await;
    if followed.is_err() && is_new && matches!(node.engine.role(slot), Role::Loading { .. }) {
        topology::remove(node, vec![slot]).await?;
    }
    followed?;
    node.moves.adopted(slot, node.monotonic_ms());
    for address in whole_replicas(node, slot) {
        let node = Arc::clone(node);
        tokio::spawn(async move { tell(&node, slot, &address).await });
    }
    Ok(())
}

/// Who follows all slots that this node has besides this one.
fn whole_replicas(node: &Node, slot: Slot) -> Vec<String> {
    let others = Slot::all()
        .filter(|&other| other != slot)
        .filter(|&other| {
            !matches!(node.engine.role(other), Role::Absent | Role::Moved { .. } | Role::Granted { .. })
        })
        .count();
    let peers = node.replication.peers().into_iter();
    let whole = peers.filter(|peer| others > 0 && peer.slots + peer.copying >= others);
    whole.map(|peer| peer.address).collect()
}

/// Asks a replica of this node to take the slot from here as well.
async fn tell(node: &Arc<Node>, slot: Slot, replica: &str) {
    match ask(node, slot, replica).await {
        Ok(_) => tracing::info!(%slot, %replica, "a replica follows the slot that came"),
        Err(why) => tracing::warn!(%slot, %replica, %why, "a replica does not follow the slot that came"),
    }
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
