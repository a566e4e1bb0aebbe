//! What an operator asks for, step by step: follow a node, follow nobody, settle a grant.
//!
//! Everything is checked before anything changes. Runs on the control thread; the engine's durable steps and the
//! links' work are waited for, never done here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use haypile_engine::engine::Engine;
use haypile_engine::slot::{NOBODY, Role};
use haypile_engine::types::Slot;
use tokio::sync::oneshot;

use crate::grants;
use crate::hub::{Refused, Shared, attach, lock};
use crate::message::{Message, Purpose, Reason, Verdict};
use crate::receiver::{LinkState, Question};
use crate::registry::{LinkCommand, LinkEntry};
use crate::status::{Done, Note};
use crate::transport::Connection;

/// How often is looked whether a link has come up that an operator's step waits for.
const LINK_LOOK: Duration = Duration::from_millis(100);
/// Probes in one message.
const PROBES_MAX: usize = 64;

/// Takes slots off their links, and waits until that is done. Says which link each was on.
pub(crate) async fn detach(shared: &Shared, slots: &[Slot]) -> BTreeMap<String, Vec<Slot>> {
    let mut by_link: BTreeMap<String, (LinkEntry, Vec<Slot>)> = BTreeMap::new();
    for &slot in slots {
        if let Some((upstream, link)) = shared.registry.link_of(slot) {
            by_link.entry(upstream).or_insert_with(|| (link, Vec::new())).1.push(slot);
        }
    }
    let mut detached = BTreeMap::new();
    for (upstream, (link, slots)) in by_link {
        let (done, wait) = oneshot::channel();
        if link.commands.send(LinkCommand::Detach { slots: slots.clone(), done }).is_ok() {
            // A link that ends meanwhile touches nothing any more either.
            let _ = wait.await;
        }
        detached.insert(upstream, slots);
    }
    detached
}

fn attach_again(shared: &Arc<Shared>, detached: BTreeMap<String, Vec<Slot>>) {
    for (upstream, slots) in detached {
        attach(shared, &upstream, slots, false);
    }
}

/// Calls the engine where waiting for the disk holds nobody up.
async fn on_disk<T: Send + 'static>(
    shared: &Arc<Shared>,
    call: impl FnOnce(&Engine) -> haypile_engine::error::Result<T> + Send + 'static,
) -> Result<T, Refused> {
    let engine = Arc::clone(&shared.engine);
    let outcome = tokio::task::spawn_blocking(move || call(&engine)).await;
    let outcome = outcome.map_err(|_| Refused::Other("the engine's step was interrupted".to_owned()))?;
    outcome.map_err(|error| Refused::Other(error.to_string()))
}

pub(crate) async fn follow(
    shared: &Arc<Shared>,
    slots: Vec<Slot>,
    upstream: String,
    force: bool,
) -> Result<(), Refused> {
    let _busy = shared.busy(&slots)?;
    let mut todo = Vec::with_capacity(slots.len());
    for slot in slots {
        match shared.engine.role(slot) {
            Role::Absent => return Err(Refused::NotHere(slot)),
            Role::Fenced => {
                return Err(Refused::Other(format!("slot {slot} is being handed over: try again later")));
            }
            Role::Granted { address, .. } => {
                let why = format!("slot {slot} is being handed over to {address}: try again later");
                return Err(Refused::Other(why));
            }
            Role::Replica { upstream: current } | Role::Loading { upstream: current }
                if current == upstream && !force && is_connected(shared, slot) => {}
            _ => todo.push(slot),
        }
    }
    if upstream == shared.settings().announce {
        return Err(Refused::Itself(upstream));
    }
    probe(shared, &todo, &upstream, force).await?;
    if todo.is_empty() {
        return Ok(());
    }
    let detached = detach(shared, &todo).await;
    let (followed, to) = (todo.clone(), upstream.clone());
    if let Err(error) = on_disk(shared, move |engine| engine.follow(&followed, &to)).await {
        attach_again(shared, detached);
        return Err(error);
    }
    attach(shared, &upstream, todo, force);
    Ok(())
}

fn is_connected(shared: &Shared, slot: Slot) -> bool {
    let link = shared.registry.link_of(slot);
    let status = link.and_then(|(_, link)| lock(&link.receiver).status(slot));
    status.is_some_and(|status| status.state == LinkState::Connected)
}

/// Asks a node about every slot before anything changes here.
async fn probe(shared: &Arc<Shared>, slots: &[Slot], upstream: &str, force: bool) -> Result<(), Refused> {
    let mut connection = Connection::open(&shared.dial(upstream)).await.map_err(Refused::Connect)?;
    let lost = |why| Refused::Connect(format!("{upstream}: {why}"));
    let patience = shared.settings().silence_max;
    let late = |_| Refused::Connect(format!("{upstream}: no answer within {} ms", patience.as_millis()));
    let hello = Message::Hello { features: 0, purpose: Purpose::Question };
    let answer = tokio::time::timeout(patience, connection.ask(&hello)).await.map_err(late)?.map_err(lost)?;
    let Message::HelloOk { node, .. } = answer else {
        return Err(lost("it does not speak this protocol".to_owned()));
    };
    if node == shared.engine.node() {
        return Err(Refused::Itself(upstream.to_owned()));
    }
    for slots in slots.chunks(PROBES_MAX) {
        let question = |&slot| crate::link::ask(&shared.engine, Question { slot, number: 0, force });
        let probe = Message::Probe(slots.iter().map(question).collect());
        let answer =
            tokio::time::timeout(patience, connection.ask(&probe)).await.map_err(late)?.map_err(lost)?;
        let Message::ProbeAnswer(answers) = answer else {
            return Err(lost("it does not speak this protocol".to_owned()));
        };
        if answers.len() != slots.len() {
            return Err(lost("it did not answer for every slot".to_owned()));
        }
        for (_, verdict, text) in answers {
            match verdict {
                // A node that waits for its own copy can be followed: it is asked again until it is ready.
                Verdict::Continue | Verdict::Copy | Verdict::Refused(Reason::NotReady) => {}
                Verdict::Refused(Reason::Unrelated) => return Err(Refused::Unrelated(text)),
                Verdict::Refused(_) => return Err(Refused::Other(text)),
            }
        }
    }
    Ok(())
}

/// What `no one` means for a slot.
enum Step {
    Nothing,
    Detach,
    Ask(String),
    Promote(String),
    /// Promote if nobody answers where the master was.
    PromoteUnlessAlive {
        upstream: String,
        why: String,
    },
    /// Granted away; the new owner has not answered yet.
    AwaitMoved,
    /// Undo a grant: by force only.
    Undo,
}

pub(crate) async fn no_one(
    shared: &Arc<Shared>,
    slots: Vec<Slot>,
    force: bool,
    patience: Duration,
) -> Result<Vec<Note>, Refused> {
    let _busy = shared.busy(&slots)?;
    let mut notes = Vec::with_capacity(slots.len());
    let (mut gone, mut undone, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    let mut asked: BTreeMap<String, Vec<Slot>> = BTreeMap::new();
    let mut awaited = Vec::new();
    let mut silent = BTreeSet::new();
    for slot in slots {
        match settled_step(shared, slot, force, patience, &mut silent).await? {
            Step::Nothing => notes.push(Note { slot, done: Done::WasMaster }),
            Step::Detach => gone.push(slot),
            Step::Ask(upstream) => asked.entry(upstream).or_default().push(slot),
            Step::Promote(why) => alone.push((slot, why)),
            Step::PromoteUnlessAlive { upstream, why } => {
                return Err(Refused::Other(format!(
                    "slot {slot}: the link to its master is down, but {upstream} answers and may still own the slot \
                     ({why}): try again when the link is up; force promotes without it"
                )));
            }
            Step::AwaitMoved => awaited.push(slot),
            Step::Undo => undone.push(slot),
        }
    }
    await_moved(shared, &awaited, patience).await?;
    gone.extend(awaited);
    if !gone.is_empty() {
        let detached = detach(shared, &gone).await;
        let slots = gone.clone();
        if let Err(error) = on_disk(shared, move |engine| engine.detach(&slots)).await {
            attach_again(shared, detached);
            return Err(error);
        }
        notes.extend(gone.into_iter().map(|slot| Note { slot, done: Done::Detached }));
    }
    if !alone.is_empty() {
        let slots: Vec<Slot> = alone.iter().map(|(slot, _)| *slot).collect();
        let detached = detach(shared, &slots).await;
        if let Err(error) = on_disk(shared, move |engine| engine.promote(&slots)).await {
            attach_again(shared, detached);
            return Err(error);
        }
        for (slot, why) in alone {
            let note = Note { slot, done: Done::PromotedAlone { why } };
            tracing::warn!("{note}");
            notes.push(note);
        }
    }
    for slot in undone {
        on_disk(shared, move |engine| engine.undo_grant(slot)).await?;
        notes.push(Note { slot, done: Done::PromotedAlone { why: "force undid its grant".to_owned() } });
    }
    let patience_ms = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
    let mut waits = Vec::new();
    for (upstream, slots) in asked {
        let (done, wait) = oneshot::channel();
        if let Some(link) = shared.registry.link(&upstream) {
            // If the link is gone, so is `done`, and the wait ends at once.
            let _ = link.commands.send(LinkCommand::Handover { slots, patience_ms, done });
        }
        waits.push((upstream, wait));
    }
    let mut failures = Vec::new();
    for (upstream, wait) in waits {
        match wait.await {
            Ok(Ok(done)) => notes.extend(done),
            Ok(Err(why)) => failures.push(why),
            Err(_) => failures.push(format!("the link to {upstream} ended")),
        }
    }
    if failures.is_empty() { Ok(notes) } else { Err(Refused::Other(failures.join("; "))) }
}

fn step(shared: &Shared, slot: Slot, force: bool) -> Result<Step, Refused> {
    let position = shared.engine.position(slot);
    Ok(match position.role {
        Role::Absent => return Err(Refused::NotHere(slot)),
        Role::Master => Step::Nothing,
        Role::Fenced => {
            return Err(Refused::Other(format!("slot {slot} is being handed over: try again later")));
        }
        Role::Granted { .. } if force => Step::Undo,
        Role::Granted { .. } => Step::AwaitMoved,
        Role::Moved { .. } => Step::Detach,
        Role::Loading { upstream } => {
            return Err(Refused::Other(format!(
                "slot {slot} has no complete data: its copy from {upstream} is not finished; wait for it, or \
                 removeslots {slot}"
            )));
        }
        Role::Replica { .. } if force => Step::Promote("force".to_owned()),
        Role::Replica { upstream } => match position.granted {
            Some((to, _)) if to != shared.engine.node() => Step::Detach,
            _ if upstream == NOBODY => Step::Promote("it is a checkpoint's and follows nobody".to_owned()),
            _ => {
                let link = shared.registry.link_of(slot);
                let status = link.and_then(|(_, link)| {
                    let receiver = lock(&link.receiver);
                    Some((receiver.is_connected(), receiver.status(slot)?))
                });
                match status {
                    None => {
                        let why = format!("{upstream} is not connected");
                        Step::PromoteUnlessAlive { upstream, why }
                    }
                    Some((false, status)) => {
                        let why = status.why.unwrap_or_else(|| format!("{upstream} is not connected"));
                        Step::PromoteUnlessAlive { upstream, why }
                    }
                    Some((true, status)) if status.state == LinkState::Error => {
                        Step::Promote(status.why.unwrap_or_else(|| format!("{upstream} refuses the slot")))
                    }
                    Some((true, _)) => Step::Ask(upstream),
                }
            }
        },
    })
}

/// As [`step`], once it is clear whether a master whose link is down lives: a link may be down for a moment only,
/// and an owner that lives hands over, it is not overruled. Those that do not answer are noted in `silent`.
async fn settled_step(
    shared: &Shared,
    slot: Slot,
    force: bool,
    patience: Duration,
    silent: &mut BTreeSet<String>,
) -> Result<Step, Refused> {
    let mut left = patience;
    loop {
        let (upstream, why) = match step(shared, slot, force)? {
            Step::PromoteUnlessAlive { upstream, why } => (upstream, why),
            clear => return Ok(clear),
        };
        if silent.contains(&upstream) || !Connection::answers(&shared.dial(&upstream)).await {
            silent.insert(upstream);
            return Ok(Step::Promote(why));
        }
        if left.is_zero() {
            return Ok(Step::PromoteUnlessAlive { upstream, why });
        }
        // The link tries by itself, at intervals of its own.
        let pause = LINK_LOOK.min(left);
        tokio::time::sleep(pause).await;
        left = left.saturating_sub(pause);
    }
}

/// Waits until the new owners of granted slots have answered.
async fn await_moved(shared: &Shared, slots: &[Slot], patience: Duration) -> Result<(), Refused> {
    let moved = async {
        loop {
            let seen = shared.engine.role_changes().count();
            let granted = |slot: &&Slot| matches!(shared.engine.role(**slot), Role::Granted { .. });
            let Some(slot) = slots.iter().find(granted) else { return };
            tracing::debug!(%slot, "waiting for its new owner");
            shared.engine.role_changes().wait_past(seen).await;
        }
    };
    tokio::time::timeout(patience, moved).await.map_err(|_| {
        let slots: Vec<String> = slots.iter().map(ToString::to_string).collect();
        let slots = slots.join(",");
        Refused::Other(format!(
            "slot {slots} was granted to another node that has not answered; force takes it back"
        ))
    })
}

/// Asks the grantee of open grants at one address; what it answers is carried out.
pub(crate) async fn ask_grantee(
    shared: &Arc<Shared>,
    address: &str,
    open: &[grants::Open],
) -> Result<(), String> {
    let mut connection = Connection::open(&shared.dial(address)).await?;
    let hello = Message::Hello { features: 0, purpose: Purpose::Question };
    let Message::HelloOk { node, .. } = connection.ask(&hello).await? else {
        return Err(format!("{address} does not speak this protocol"));
    };
    let open: Vec<_> = open.iter().filter(|grant| grant.to == node).cloned().collect();
    if open.is_empty() {
        return Err(format!("another node answers at {address}: {node}"));
    }
    let asks = open.iter().map(|grant| (grant.slot, grant.ended, grant.seq)).collect();
    connection.send(&Message::GrantAsk(asks));
    for _ in 0..open.len() {
        match connection.answer().await? {
            Message::GrantTaken(taken) => {
                let taken = on_disk(shared, move |engine| grants::taken(engine, node, &taken)).await;
                taken.map_err(|error| error.to_string())?;
            }
            Message::GrantRefused { slot, why } => {
                let Some(grant) = open.iter().find(|grant| grant.slot == slot).cloned() else {
                    return Err(format!("{address} answered for slot {slot}, it was not asked"));
                };
                let undone = on_disk(shared, move |engine| grants::refused(engine, &grant, &why)).await;
                undone.map_err(|error| error.to_string())?;
            }
            Message::GrantPending(_) => {}
            other => return Err(format!("{address} answered {other:?} to a question about grants")),
        }
    }
    Ok(())
}
