//! After a grant: how the old owner learns that the new one has begun its epoch, or never will.
//!
//! A slot that was granted is nobody's until the grantee begins the next epoch. The grantee does that on the link
//! over which the grant came; where that fails, the old owner asks it, again and again, also after a restart of
//! either. An answer counts only if it comes from the very node that was named.

use haypile_engine::engine::Engine;
use haypile_engine::error::Result;
use haypile_engine::history::History;
use haypile_engine::roles::GrantFate;
use haypile_engine::slot::Role;
use haypile_engine::types::{Epoch, NodeId, Seq, Slot};

use crate::message::Message;
use crate::registry::{LinkCommand, Registry};

/// The grantee's answer to "I granted you this slot with record `seq`, which ended this epoch".
///
/// # Errors
/// If the answer can't be made durable.
pub fn answer(engine: &Engine, registry: &Registry, slot: Slot, ended: Epoch, seq: Seq) -> Result<Message> {
    let position = engine.position(slot);
    if let Role::Replica { .. } = position.role
        && position.last_seq == seq
        && position.history.current() == Some(ended)
        && position.granted.as_ref().is_some_and(|(to, _)| *to == engine.node())
        && engine.settle_grant(slot, ended)? == GrantFate::Open
    {
        if let Some((_, link)) = registry.link_of(slot) {
            // Nothing waits for the answer: from its promotion on the slot takes nothing from a link.
            let (done, _) = tokio::sync::oneshot::channel();
            let _ = link.commands.send(LinkCommand::Detach { slots: vec![slot], done });
        }
        if let Err(error) = engine.take_grants(&[slot]) {
            tracing::warn!(%slot, %error, "a granted slot can't be taken");
        }
    }
    Ok(match engine.settle_grant(slot, ended)? {
        GrantFate::Taken(epoch) => Message::GrantTaken(vec![(slot, epoch)]),
        GrantFate::Open => Message::GrantPending(slot),
        GrantFate::Refused => {
            let why = format!("slot {slot} was granted to this node, which did not follow it any more");
            Message::GrantRefused { slot, why }
        }
    })
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

/// The old owner heard that a grant was refused, durably: it begins a new epoch, if it still is that grant which is
/// open.
///
/// # Errors
/// If that can't be made durable.
pub fn refused(engine: &Engine, grant: &Open, why: &str) -> Result<()> {
    let slot = grant.slot;
    if open(engine).contains(grant) {
        tracing::warn!(%slot, to = %grant.address, %why, "a grant was refused; the slot is taken back");
        engine.undo_grant(slot)?;
    }
    Ok(())
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
    /// The epoch that the grant ended.
    pub ended: Epoch,
    /// The granting record.
    pub seq: Seq,
}

/// The grants of this node that have not been answered.
#[must_use]
pub fn open(engine: &Engine) -> Vec<Open> {
    let granted = |slot| match engine.role(slot) {
        Role::Granted { to, address } => {
            let position = engine.position(slot);
            let ended = position.history.current()?;
            Some(Open { slot, to, address, ended, seq: position.last_seq })
        }
        _ => None,
    };
    Slot::all().filter_map(granted).collect()
}
