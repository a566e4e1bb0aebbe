//! What a node as a whole has to find out from others, for as long as it takes: after a start, which of the slots that it
//! follows are another group's; and as a replica without any slot, when its master has some.
//!
//! Nothing of this is written down. Who asks again and again needs no answer now, and stops as soon as somebody says otherwise.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use haypile_engine::slot::{NOBODY, Role};
use haypile_engine::types::Slot;

use crate::codis::adopt;
use crate::execute;
use crate::node::Node;
use crate::topology;
use crate::whole::{self, Attached};

/// How often another node is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// After a start. On a node that owns slots, what it follows is on its way here from other groups; whoever owns none asks its
/// masters.
pub fn after_start(node: &Arc<Node>) {
    let mut followed: BTreeMap<String, Vec<Slot>> = BTreeMap::new();
    let mut owns_any = false;
    for slot in Slot::all() {
        match node.engine.role(slot) {
            Role::Replica { upstream } | Role::Loading { upstream } if upstream != NOBODY => {
                followed.entry(upstream).or_default().push(slot);
            }
            Role::Granted { .. } => {
                owns_any = true;
                node.moves.set_found_granted(slot);
            }
            role => owns_any |= role.owns(),
        }
    }
    if owns_any {
        for (owner, slots) in followed {
            for slot in slots {
                node.moves.set_foreign(slot, Some(&owner));
                // Whether a move of Codis' or an operator brings it is not known any more: replicas are left as they are.
                adopt::watch(node, slot, adopt::Audience::Nobody);
            }
        }
        return;
    }
    for (master, slots) in followed {
        let node = Arc::clone(node);
        tokio::spawn(async move { learn(&node, slots, &master).await });
    }
}

async fn learn(node: &Node, mut slots: Vec<Slot>, master: &str) {
    let follows = |slot: &Slot| match node.engine.role(*slot) {
        Role::Replica { upstream } | Role::Loading { upstream } => upstream == master,
        _ => false,
    };
    loop {
        slots.retain(follows);
        if slots.is_empty() || whole::learn(node, &slots, master).await {
            return;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// A replica without slots follows its master as soon as that one has some, until it has all of them or is told otherwise.
pub fn await_slots(node: &Arc<Node>, master: &str) {
    let number = node.moves.await_slots_of(master);
    let (node, master) = (Arc::clone(node), master.to_owned());
    tokio::spawn(async move {
        while node.moves.awaits(number) {
            match whole::attach(&node, &master).await {
                Ok(Attached::Nothing) => {}
                // Some may have come to the master while those before were taken.
                Ok(Attached::Slots) if whole::has_all_of(&node, &master).await => {
                    tracing::info!(%master, slots = topology::present(&node.engine).len(), "the master has slots, and this node follows");
                    node.moves.await_nothing(number);
                }
                Ok(Attached::Slots) => {}
                Err(why) => {
                    tracing::debug!(%master, why = execute::words(&why), "the master has no slots yet")
                }
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    });
}
