//! After a grant: how the old owner learns that the new one has begun its epoch, or never will.
//!
//! A slot that was granted is nobody's until the grantee begins the next epoch. The grantee does that on the link
//! over which the grant came; where that fails, the old owner asks it, again and again, also after a restart of
//! either. An answer counts only if it comes from the very node that was named.

use haypile_engine::engine::Engine;
use haypile_engine::error::{Error, Result};
use haypile_engine::history::History;
use haypile_engine::roles::GrantFate;
use haypile_engine::slot::Role;
use haypile_engine::types::{Epoch, NodeId, Seq, Slot};

use crate::message::Message;
use crate::registry::{LinkCommand, Registry};

/// A question of an old owner: I granted you this slot, what became of it?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked<'a> {
    /// Who asks, and where it listens.
    pub by: (NodeId, &'a str),
    /// The slot.
    pub slot: Slot,
    /// The epoch that the grant ended.
    pub ended: Epoch,
    /// The granting record.
    pub seq: Seq,
}

/// The grantee's answer.
///
/// Who has the granting record has all before it; a copy that was taken after it need not say to whom it granted the
/// slot, the question does. Who does not follow the asker for the slot any more may never get it: it refuses.
///
/// # Errors
/// If the answer can't be made durable.
pub fn answer(engine: &Engine, registry: &Registry, asked: Asked<'_>) -> Result<Message> {
    let Asked { by: (asker, address), slot, ended, seq } = asked;
    let position = engine.position(slot);
    let has_it = position.last_seq == seq && position.history.current() == Some(ended);
    let waits = match position.role {
        Role::Replica { .. } if has_it && engine.grant_fate(slot, ended) == GrantFate::Open => {
            if let Some((_, link)) = registry.link_of(slot) {
                // Nothing waits for the answer: from its promotion on the slot takes nothing from a link.
                let (done, _) = tokio::sync::oneshot::channel();
                let _ = link.commands.send(LinkCommand::Detach { slots: vec![slot], done });
            }
            match engine.take_grants(&[slot]) {
                Ok(()) => {}
                // Somebody else took it at the same time.
                Err(error @ Error::Limit(_)) => {
                    tracing::warn!(%slot, %error, "a granted slot can't be taken")
                }
                // What the disk has of it is not known.
                Err(error) => return Err(error),
            }
            true
        }
        Role::Replica { upstream } | Role::Loading { upstream } => {
            registry.is_upstream(&upstream, asker, address)
        }
        _ => false,
    };
    let fate = if waits { engine.grant_fate(slot, ended) } else { engine.refuse_grant(slot, ended)? };
    // A node whose disk failed knows in memory what a restart may not find: it says nothing.
    engine.write()?;
    Ok(match fate {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A replica that was turned to another node after it had asked for a slot answered "pending" for ever, and
    /// nobody owned the slot.
    #[test]
    fn who_follows_another_node_refuses_and_who_waits_for_the_record_says_so() {
        let (engine, registry) = (haypile_engine::testing::engine(), Registry::default());
        let slot = Slot::new(3).expect("in range");
        engine.follow(&[slot], "10.0.0.1:9221").expect("follows");
        let ended = Epoch { term: 7, tag: 7 };
        let asked = |address| Asked { by: (NodeId([1; 20]), address), slot, ended, seq: Seq(9) };
        let answered = |address| answer(&engine, &registry, asked(address)).expect("is settled");
        assert_eq!(answered("10.0.0.1:9221"), Message::GrantPending(slot));
        assert!(matches!(answered("10.0.0.2:9221"), Message::GrantRefused { .. }));
        assert!(matches!(answered("10.0.0.1:9221"), Message::GrantRefused { .. }), "refused is refused");
    }
}
