//! After a grant: how the old owner learns that the new one has begun its epoch, or never will.
//!
//! A slot that was granted is nobody's until the grantee begins the next epoch. The grantee does that on the link
//! over which the grant came; where that fails, the old owner asks it, again and again, also after a restart of
//! either. An answer counts only if it comes from the very node that was named.

use haypile_engine::engine::Engine;
use haypile_engine::error::Result;
use haypile_engine::history::History;
use haypile_engine::slot::Role;
use haypile_engine::types::{Epoch, NodeId, Seq, Slot};

use crate::message::Message;
use crate::registry::{LinkCommand, Registry};

/// The grantee's answer to "I granted you this slot with record `seq` of term `term`".
#[must_use]
pub fn answer(engine: &Engine, registry: &Registry, slot: Slot, term: u32, seq: Seq) -> Message {
    let mut position = engine.position(slot);
    if let Role::Replica { .. } = position.role
        && position.last_seq == seq
        && position.granted.as_ref().is_some_and(|(to, _)| *to == engine.node())
    {
        if let Some((_, link)) = registry.link_of(slot) {
            // Nothing waits for the answer: from its promotion on the slot takes nothing from a link.
            let (done, _) = tokio::sync::oneshot::channel();
            let _ = link.commands.send(LinkCommand::Detach { slots: vec![slot], done });
        }
        if let Err(error) = engine.promote(&[slot]) {
            tracing::warn!(%slot, %error, "a granted slot can't be taken");
        }
        position = engine.position(slot);
    }
    let next = position.history.starts().iter().find(|start| start.epoch.term > term);
    if let Some(start) = next.filter(|start| start.first_seq == seq.next()) {
        return Message::GrantTaken(vec![(slot, start.epoch)]);
    }
    match position.role {
        Role::Replica { .. } | Role::Loading { .. } => Message::GrantPending(slot),
        _ => {
            let why = format!("slot {slot} was granted to this node, which does not follow it any more");
            Message::GrantRefused { slot, why }
        }
    }
}

/// The old owner heard that `from` began epochs of slots. Says which of them are moved there now: with one durable
/// step.
///
/// # Errors
/// If that can't be made durable.
pub fn taken(engine: &Engine, from: NodeId, slots: &[(Slot, Epoch)]) -> Result<Vec<Slot>> {
    let (mut moved, mut moving, mut address) = (Vec::new(), Vec::new(), None);
    for &(slot, epoch) in slots {
        let position = engine.position(slot);
        match position.role {
            Role::Granted { to, address: at } if to == from && follows(&position.history, epoch) => {
                moving.push(slot);
                address = Some(at);
            }
            Role::Moved { .. } => moved.push(slot),
            _ => {}
        }
    }
    if let Some(address) = address {
        engine.finish_grants(&moving, &address)?;
        tracing::info!(slots = moving.len(), to = %address, "slots were handed over");
        moved.extend(moving);
    }
    Ok(moved)
}

fn follows(history: &History, epoch: Epoch) -> bool {
    history.current().is_none_or(|current| epoch.term > current.term)
}

/// What a granted slot's new owner is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Open {
    /// The slot.
    pub slot: Slot,
    /// Who was named.
    pub to: NodeId,
    /// Where that node listens.
    pub address: String,
    /// The term of the epoch that the grant ended.
    pub term: u32,
    /// The granting record.
    pub seq: Seq,
}

/// The grants of this node that have not been answered.
#[must_use]
pub fn open(engine: &Engine) -> Vec<Open> {
    let granted = |slot| match engine.role(slot) {
        Role::Granted { to, address } => {
            let position = engine.position(slot);
            let term = position.history.current().map_or(0, |epoch| epoch.term);
            Some(Open { slot, to, address, term, seq: position.last_seq })
        }
        _ => None,
    };
    Slot::all().filter_map(granted).collect()
}
