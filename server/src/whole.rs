//! The node as a whole follows another, or nobody: what SLAVEOF means where each slot has a master of its own.
//!
//! A slot that comes from another group is *foreign* until it was handed over: this node follows its owner for it, or, if this
//! is a replica of the node that it goes to, that node. It has no part in what becomes of the node as a whole: it is not
//! promoted with the others, and INFO does not tell of it. Which are foreign is known to this process only (`codis::moves`);
//! the next one finds it out anew (`recall`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use haypile_engine::slot::Role;
use haypile_engine::types::Slot;

use crate::codis::{adopt, dial};
use crate::commands::pkcluster::grammar::Then;
use crate::cx::Fail;
use crate::node::Node;
use crate::recall;
use crate::remote::Reply;
use crate::slot_group;
use crate::topology::{self, Force, SlotView};

/// How often a node that has to hand slots over before it follows tries to, and how long it waits in between.
const PAY_TRIES: u32 = 20;
const PAY_PAUSE: Duration = Duration::from_millis(150);

/// Which slots of this node are not foreign and did not go from its master to another group: one replica still has these, another
/// does not, and the one that has most of the rest is to be promoted.
pub fn is_own(node: &Node) -> impl Fn(&SlotView) -> bool {
    let foreign = node.moves.all_foreign();
    move |view| {
        let follows = matches!(view.role, Role::Replica { .. } | Role::Loading { .. });
        !follows || !(view.is_given_away || foreign.contains(&view.slot))
    }
}

/// Makes the whole node follow another: all slots of this one, and those that the other has besides. What is here is replaced if
/// need be, as Redis' SLAVEOF does; what the other one had and handed over to a third node goes. Where neither has any slot,
/// this node follows as soon as the other has one.
///
/// # Errors
/// For the client; nothing has changed then.
pub async fn follow(node: &Arc<Node>, master: &str) -> Result<(), Fail> {
    node.moves.await_no_slots();
    if attach(node, master).await? == Attached::Nothing {
        tracing::info!(%master, "neither this node nor its master has any slots: it follows when there are some");
        recall::await_slots(node, master);
    }
    Ok(())
}

/// What came of following another node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attached {
    /// Slots follow it.
    Slots,
    /// Neither has any slot.
    Nothing,
}

/// Whether this node has all slots that another serves.
pub async fn has_all_of(node: &Node, master: &str) -> bool {
    let there = slots_of(node, master).await;
    there.is_ok_and(|there| there.iter().all(|&slot| node.engine.role(slot) != Role::Absent))
}

/// As [`follow`], once.
///
/// # Errors
/// As [`follow`].
pub async fn attach(node: &Arc<Node>, master: &str) -> Result<Attached, Fail> {
    let unanswered = |why| Fail::error(format!("ERR Corruption: connect remote node error: {why}"));
    let there = slots_of(node, master).await.map_err(unanswered)?;
    let mut slots: Vec<Slot> = topology::present(&node.engine)
        .into_iter()
        .filter(|&slot| match node.engine.role(slot) {
            // What was handed over to a third node, and what comes from one, is no part of what the two have in common.
            Role::Moved { .. } | Role::Granted { .. } => there.contains(&slot),
            Role::Replica { .. } | Role::Loading { .. } => {
                there.contains(&slot) || node.moves.foreign(slot).is_none()
            }
            Role::Absent | Role::Master | Role::Fenced | Role::Owed => true,
        })
        .collect();
    let known = match &slots[..] {
        [] => BTreeMap::new(),
        slots => slots_there(node, master, slots).await.map_err(unanswered)?,
    };
    let take = |slots: &mut Vec<Slot>, what: &dyn Fn(Slot) -> bool| -> Vec<Slot> {
        let (taken, left) = slots.iter().partition(|slot| what(**slot));
        *slots = left;
        taken
    };
    // It went to another group while this node was away. What came here is not given up for a node that it came from.
    let here = node.replication.announce();
    let gone = take(&mut slots, &|slot| matches!(known.get(&slot), Some(There::Moved(to)) if *to != here));
    // What the new master has given up already, and this node only follows, is another group's: nobody has it for the two.
    let follows = |slot: Slot| matches!(node.engine.role(slot), Role::Replica { .. } | Role::Loading { .. });
    slots.retain(|slot| known.contains_key(slot) || !follows(*slot));
    // It came here right before this node stopped, and the new master has no more of it than this node gives it.
    let from_here = There::Follows(here);
    let owed =
        take(&mut slots, &|slot| node.engine.role(slot).owns() && known.get(&slot) == Some(&from_here));
    let new: Vec<Slot> = there.into_iter().filter(|&slot| node.engine.role(slot) == Role::Absent).collect();
    slots.extend(&new);
    slots.sort_unstable();
    if slots.is_empty() && gone.is_empty() && owed.is_empty() {
        if master == node.replication.announce() {
            return Err(Fail::error(format!("ERR {master} is this node itself: a node can't follow itself")));
        }
        return Ok(Attached::Nothing);
    }
    topology::add_replicas(node, new.clone(), master).await?;
    let followed = topology::follow(node, &slots, master, Force::Yes).await;
    if followed.is_err() {
        // They were added a moment ago and hold nothing.
        let is_empty = |slot: &Slot| matches!(node.engine.role(*slot), Role::Loading { .. });
        topology::remove(node, new.into_iter().filter(is_empty).collect()).await?;
    } else {
        if !gone.is_empty() {
            tracing::warn!(slots = slot_group::show(&gone), %master, "slots that the master handed over to others are given up");
            topology::give_up(node, gone).await?;
        }
        learn(node, &slots, master).await;
        if !owed.is_empty() {
            pay(node, &owed, master).await?;
        }
    }
    followed.map(|()| Attached::Slots)
}

/// Hands slots over to the node that is to be followed, as soon as it has them.
async fn pay(node: &Arc<Node>, slots: &[Slot], master: &str) -> Result<(), Fail> {
    let mut tries = PAY_TRIES;
    loop {
        let paid = topology::hand_over(node, slots, master, None, false, Then::Follow).await;
        tries -= 1;
        if paid.is_ok() || tries == 0 {
            return paid.map(drop);
        }
        tokio::time::sleep(PAY_PAUSE).await;
    }
}

/// Makes the whole node follow nobody: it takes over what it follows, but for what is another group's.
///
/// # Errors
/// For the client.
pub async fn no_one(node: &Arc<Node>) -> Result<(), Fail> {
    if node.moves.await_no_slots() && topology::present(&node.engine).is_empty() {
        return Ok(());
    }
    let mut ours = Vec::new();
    let mut foreign: BTreeMap<String, Vec<Slot>> = BTreeMap::new();
    for slot in topology::present(&node.engine) {
        match (node.engine.role(slot), node.moves.foreign(slot)) {
            (Role::Replica { .. } | Role::Loading { .. }, Some(owner)) => {
                foreign.entry(owner).or_default().push(slot);
            }
            _ => ours.push(slot),
        }
    }
    topology::no_one(node, &ours, Force::No).await?;
    // Whoever gets one in the end, this node's replicas are to hear of it.
    foreign.values().flatten().for_each(|&slot| adopt::watch(node, slot, adopt::Audience::Replicas));
    for (owner, slots) in foreign {
        // It may have handed them over to the former master since.
        let theirs = match slots_there(node, &owner, &slots).await {
            Ok(there) => {
                there.into_iter().filter(|(_, there)| *there == There::Owned).map(|(slot, _)| slot).collect()
            }
            Err(why) => {
                tracing::warn!(%owner, %why, slots = slot_group::show(&slots), "slots stay as they are: their owner can't be asked");
                continue;
            }
        };
        let theirs: BTreeSet<Slot> = theirs;
        let (stay, came): (Vec<Slot>, Vec<Slot>) = slots.into_iter().partition(|slot| theirs.contains(slot));
        let is_whole = |slot: &Slot| matches!(node.engine.role(*slot), Role::Replica { .. });
        let came: Vec<Slot> = came.into_iter().filter(is_whole).collect();
        topology::no_one(node, &came, Force::No).await?;
        if !stay.is_empty()
            && let Err(why) = topology::follow(node, &stay, &owner, Force::No).await
        {
            tracing::warn!(%owner, why = crate::execute::words(&why), "slots on their way here do not follow their owner");
        }
    }
    Ok(())
}

/// Asks the master of slots for which of them it follows another itself, and keeps that in mind: they are foreign. Those of a
/// node that is a replica as a whole are not. Whether it answered.
pub async fn learn(node: &Node, slots: &[Slot], master: &str) -> bool {
    let asked = async {
        if info_of(node, master).await?.lines().any(|line| line == "role:slave") {
            return Ok(BTreeMap::new());
        }
        slots_there(node, master, slots).await
    };
    match asked.await {
        Ok(there) => {
            for &slot in slots {
                let owner = match there.get(&slot) {
                    Some(There::Follows(owner)) => Some(owner.as_str()),
                    _ => None,
                };
                node.moves.set_foreign(slot, owner);
            }
            true
        }
        Err(why) => {
            tracing::debug!(%master, %why, "a master did not say whom it follows itself");
            false
        }
    }
}

async fn info_of(node: &Node, address: &str) -> Result<String, String> {
    match dial::ask(node, address, &[b"INFO", b"replication"]).await? {
        Reply::Bulk(Some(text)) => Ok(String::from_utf8_lossy(&text).into_owned()),
        reply => Err(format!("{address}: {}", reply.text())),
    }
}

/// What another node is to a slot.
#[derive(Clone, PartialEq, Eq, Debug)]
enum There {
    /// Its owner.
    Owned,
    /// It follows another node for it.
    Follows(String),
    /// It was handed over to another node.
    Moved(String),
    /// It is being handed over.
    Leaving,
}

async fn slots_there(node: &Node, address: &str, slots: &[Slot]) -> Result<BTreeMap<Slot, There>, String> {
    let group = slot_group::show(slots);
    match dial::ask(node, address, &[b"PKCLUSTER", b"INFO", b"SLOT", group.as_bytes()]).await? {
        Reply::Bulk(Some(text)) => {
            Ok(String::from_utf8_lossy(&text).split("\r\n\r\n").filter_map(told).collect())
        }
        reply => Err(format!("{address}: {}", reply.text())),
    }
}

/// Reads what PKCLUSTER INFO SLOT tells of one slot.
fn told(text: &str) -> Option<(Slot, There)> {
    let slot = text.strip_prefix("(db0:")?.split_once(')')?.0.parse().ok().and_then(Slot::new)?;
    let value = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix("  ")?.strip_prefix(name)?.strip_prefix(": "))
    };
    let there = match value("state")? {
        "master" | "fenced" | "recovering" => There::Owned,
        "replica" | "loading" => There::Follows(value("master")?.to_owned()),
        "moved" => There::Moved(value("master")?.to_owned()),
        _ => There::Leaving,
    };
    Some((slot, there))
}

/// Asks a node for the slots that it serves.
async fn slots_of(node: &Node, address: &str) -> Result<BTreeSet<Slot>, String> {
    let slot = |item: &Reply| match item {
        Reply::Array(pair) => match pair.first() {
            Some(Reply::Integer(number)) => u16::try_from(*number).ok().and_then(Slot::new),
            _ => None,
        },
        _ => None,
    };
    match dial::ask(node, address, &[b"SLOTSINFO"]).await? {
        Reply::Array(items) => Ok(items.iter().filter_map(slot).collect()),
        reply => Err(format!("{address} was asked for its slots and said: {}", reply.text())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_node_says_of_its_slots_is_understood() {
        let master = "(db0:5) binlog_offset=1 7,safety_purge=none\r\n  Role: Master\r\n  connected_slaves: 0\r\n  state: master\r\n";
        let chain = "(db0:6) binlog_offset=1 7,safety_purge=none\r\n  Role: Master\r\n  connected_slaves: 1\r\n  slave[0]: a:1\r\n\
                     replication_status: SlaveBinlogSync\r\n  lag: 0\r\n  -----------\r\n  Role: Slave\r\n  master: 10.0.0.1:9221\r\n\
                     \x20 slave status: kConnected\r\n  state: replica\r\n";
        let moved = "(db0:7) binlog_offset=1 7,safety_purge=none\r\n  Role: Slave\r\n  master: b:1\r\n  state: moved\r\n";
        let slot = |number| Slot::new(number).expect("in range");
        assert_eq!(told(master), Some((slot(5), There::Owned)));
        assert_eq!(told(chain), Some((slot(6), There::Follows("10.0.0.1:9221".to_owned()))));
        assert_eq!(told(moved), Some((slot(7), There::Moved("b:1".to_owned()))));
        for wrong in ["", "(db0:1024) x\r\n  state: master", "(db0:5)", "(db0:5) x\r\n  state: replica"] {
            assert_eq!(told(wrong), None, "{wrong}");
        }
    }
}
