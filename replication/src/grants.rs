//! After a grant: how the old owner learns that the new one has begun its epoch, or never will.
//!
//! A slot that was granted is nobody's until the grantee begins the next epoch. The grantee does that on the link
//! over which the grant came; where that fails, the old owner asks it, again and again, also after a restart of
//! either. An answer counts only if it comes from the very node that was named.

use haypile_engine::engine::{Engine, Gate};
use haypile_engine::error::{Error, Result};
use haypile_engine::planted::{self, Bug};
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

/// An answer, and what the disk has to have before it leaves: the old owner gives its slot up for good upon it.
#[derive(Debug)]
pub struct Answer {
    message: Message,
    gate: Gate,
}

impl Answer {
    /// Whether the disk has what is told.
    ///
    /// # Errors
    /// If the disk failed: what is known in memory a restart may not find, and nothing is said.
    pub fn may_leave(&self, engine: &Engine) -> Result<bool> {
        engine.is_durable(self.gate)
    }

    /// The answer, once the disk has what it tells.
    ///
    /// # Errors
    /// As [`Answer::may_leave`].
    pub fn into_message(self, engine: &Engine) -> Result<Message> {
        if !self.may_leave(engine)? {
            engine.sync()?;
        }
        Ok(self.message)
    }
}

/// The grantee's answer.
///
/// Who has the granting record has all before it; a copy that was taken after it need not say to whom it granted the
/// slot, the question does. Who does not follow the asker for the slot any more may never get it: it refuses.
///
/// # Errors
/// If the answer can't be made durable.
pub fn answer(engine: &Engine, registry: &Registry, asked: Asked<'_>) -> Result<Answer> {
    let Asked { slot, ended, .. } = asked;
    let fate = match engine.grant_fate(slot, ended) {
        GrantFate::Open => settle(engine, registry, asked)?,
        settled => settled,
    };
    // Taken is what this process knows: another thread may have begun the epoch just now, and its sync be under way.
    let gate = match fate {
        GrantFate::Taken(_) if !planted::is(Bug::GrantToldUnsynced) => engine.last_gate(slot),
        _ => Gate::default(),
    };
    let message = match fate {
        GrantFate::Taken(epoch) => Message::GrantTaken(vec![(slot, epoch)]),
        GrantFate::Open => Message::GrantPending(slot),
        GrantFate::Refused => {
            let why = format!("slot {slot} was granted to this node, which did not follow it any more");
            Message::GrantRefused { slot, why }
        }
    };
    Ok(Answer { message, gate })
}

/// Takes an open grant, or refuses it, or neither where its record may still come.
fn settle(engine: &Engine, registry: &Registry, asked: Asked<'_>) -> Result<GrantFate> {
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
    if waits { Ok(engine.grant_fate(slot, ended)) } else { engine.refuse_grant(slot, ended) }
}

/// What became of slots whose new owner says that it began their epochs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Taken {
    /// Moved by that: news for the log.
    pub now: Vec<Slot>,
    /// Moved, now or before: what the new owner is told.
    pub all: Vec<Slot>,
}

/// The old owner heard that `from` began epochs of slots: those that were granted to it are moved there.
pub fn taken(engine: &Engine, from: NodeId, slots: &[(Slot, Epoch)]) -> Taken {
    let now = engine.finish_grants(from, slots);
    let moved = |slot: &Slot| matches!(engine.role(*slot), Role::Moved { .. });
    Taken { all: slots.iter().map(|(slot, _)| *slot).filter(moved).collect(), now }
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
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    use haypile_engine::clock::SystemClock;
    use haypile_engine::engine::Options;
    use haypile_engine::fs::memory::MemoryFs;

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
        let answered = |address| {
            let answer = answer(&engine, &registry, asked(address)).expect("is settled");
            answer.into_message(&engine).expect("is durable")
        };
        assert_eq!(answered("10.0.0.1:9221"), Message::GrantPending(slot));
        assert!(matches!(answered("10.0.0.2:9221"), Message::GrantRefused { .. }));
        assert!(matches!(answered("10.0.0.1:9221"), Message::GrantRefused { .. }), "refused is refused");
    }

    /// The old owner gave its slot up for an epoch whose record the new one's power could still take.
    #[test]
    fn an_epoch_that_is_being_synced_is_not_told_of_until_it_is() {
        let fs = MemoryFs::new();
        let clock = Arc::new(SystemClock::new());
        let engine = Engine::open(Arc::new(fs.clone()), Path::new("/haypile"), clock, Options::default());
        let engine = Arc::new(engine.expect("an empty folder opens").0);
        let slot = Slot::new(3).expect("in range");
        engine.add_slots(&[slot]).expect("is added");
        engine.follow(&[slot], "10.0.0.1:9221").expect("follows");
        let position = engine.position(slot);
        let ended = position.history.current().expect("it was owned");
        let asker = (NodeId([1; 20]), "10.0.0.1:9221");
        let asked = Asked { by: asker, slot, ended, seq: position.last_seq };
        let early = Arc::new(Mutex::new(Vec::new()));
        let (taker, heard) = (Arc::clone(&engine), Arc::clone(&early));
        fs.during_syncs(Path::new("/haypile/log"), move || {
            // In a process another thread is here. It would wait for the role's change to be over, but for this.
            if matches!(taker.grant_fate(slot, ended), GrantFate::Taken(_)) {
                let answer = answer(&taker, &Registry::default(), asked).expect("is known");
                heard.lock().expect("no panic").push(answer.may_leave(&taker).expect("the disk works"));
            }
        });
        engine.take_grants(&[slot]).expect("is taken");
        fs.during_no_sync();
        assert_eq!(*early.lock().expect("no panic"), [false]);
        let answer = answer(&engine, &Registry::default(), asked).expect("is known");
        assert!(answer.may_leave(&engine).expect("the disk works"));
        assert!(matches!(answer.into_message(&engine), Ok(Message::GrantTaken(_))));
    }
}
