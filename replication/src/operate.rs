//! What an operator asks for, step by step: follow a node, follow nobody, settle a grant.
//!
//! Everything is checked before anything changes. Runs on the control thread; the engine's durable steps and the
//! links' work are waited for, never done here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use haypile_engine::engine::Engine;
use haypile_engine::roles::ASKS_REPLICAS;
use haypile_engine::slot::{NOBODY, Role};
use haypile_engine::types::Slot;
use tokio::sync::{mpsc, oneshot};

use crate::grants;
use crate::hub::{Refused, Shared, attach, lock};
use crate::message::{Message, Purpose, Reason, Verdict};
use crate::receiver::{LinkState, Question};
use crate::registry::{Answered, AskedOutcome, LinkCommand, LinkEntry, PeerCommand};
use crate::shipper::Phase;
use crate::status::{Done, Handed, Note};
use crate::transport::Connection;

/// How long the new owner may take to confirm what it was granted.
const HANDOVER_GRACE: Duration = Duration::from_secs(3);
/// For how long a step waits for an epoch that is beginning.
const FENCED_MAX: Duration = Duration::from_secs(1);
/// How often is looked whether a link has come up that an operator's step waits for.
const LINK_LOOK: Duration = Duration::from_millis(100);
/// How many questions a node may leave without an answer before it counts as one that hangs.
const SILENT_ASKS: u32 = 2;
/// Probes in one message.
const PROBES_MAX: usize = 64;
/// How often `no one` looks anew at slots whose master was lost while it was asked for them.
const LOST_MAX: usize = 5;
/// Nodes that a chain is followed through before a slot is attached to its end.
const CHAIN_NODES_MAX: usize = 16;

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
pub(crate) async fn on_disk<T: Send + 'static>(
    shared: &Arc<Shared>,
    call: impl FnOnce(&Engine) -> haypile_engine::error::Result<T> + Send + 'static,
) -> Result<T, Refused> {
    let engine = Arc::clone(&shared.engine);
    let outcome = tokio::task::spawn_blocking(move || call(&engine)).await;
    let outcome = outcome.map_err(|_| Refused::Other("the engine's step was interrupted".to_owned()))?;
    outcome.map_err(|error| Refused::Other(error.to_string()))
}

/// What a step made of slots is in the manifest before whoever asked for it hears that it is done: no start needs that, but
/// tools that look at the folder do.
async fn save_roles(shared: &Arc<Shared>) {
    if let Err(why) = on_disk(shared, Engine::save_new_roles).await {
        tracing::error!(%why, "new roles can't be saved");
    }
}

pub(crate) async fn follow(
    shared: &Arc<Shared>,
    slots: Vec<Slot>,
    upstream: String,
    force: bool,
) -> Result<(), Refused> {
    let _busy = shared.busy(&slots)?;
    await_unfenced(shared, &slots).await;
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
    let turned = on_disk(shared, move |engine| {
        if force { engine.follow_by_force(&followed, &to) } else { engine.follow(&followed, &to) }
    });
    if let Err(error) = turned.await {
        attach_again(shared, detached);
        return Err(error);
    }
    attach(shared, &upstream, todo, force);
    Ok(())
}

/// A slot is fenced for a moment while its epoch begins. One that is for longer is refused by whoever looks next.
async fn await_unfenced(shared: &Shared, slots: &[Slot]) {
    let _ = tokio::time::timeout(FENCED_MAX, none_is(shared, slots, |role| *role == Role::Fenced)).await;
}

/// Waits until no slot has such a role.
async fn none_is(shared: &Shared, slots: &[Slot], such: impl Fn(&Role) -> bool) {
    loop {
        let seen = shared.engine.role_changes().count();
        let Some(slot) = slots.iter().find(|&&slot| such(&shared.engine.role(slot))) else { return };
        tracing::debug!(%slot, "waiting for its next role");
        shared.engine.role_changes().wait_past(seen).await;
    }
}

fn is_connected(shared: &Shared, slot: Slot) -> bool {
    let link = shared.registry.link_of(slot);
    let status = link.and_then(|(_, link)| lock(&link.receiver).status(slot));
    status.is_some_and(|status| status.state == LinkState::Connected)
}

/// Asks a node about every slot before anything changes here.
async fn probe(shared: &Arc<Shared>, slots: &[Slot], upstream: &str, force: bool) -> Result<(), Refused> {
    let dial = shared.dial(upstream);
    let mut connection = Connection::open(&dial).await.map_err(Refused::Connect)?;
    let lost = |why| Refused::Connect(format!("{upstream}: {why}"));
    let patience = shared.settings().silence_max;
    let late = |_| Refused::Connect(format!("{upstream}: no answer within {} ms", patience.as_millis()));
    let hello = tokio::time::timeout(patience, connection.hello(&dial, Purpose::Question));
    let node = hello.await.map_err(late)?.map_err(Refused::Connect)?;
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
    look_for_cycle(shared, slots, upstream, &mut connection).await
}

/// Follows the slots from the node that is to be followed up to their owners, node by node: none of them may be this
/// one. Who can't be reached is taken at its word: a cycle through it shows as a slot without an owner.
async fn look_for_cycle(
    shared: &Arc<Shared>,
    slots: &[Slot],
    upstream: &str,
    connection: &mut Connection,
) -> Result<(), Refused> {
    let mut seen = BTreeSet::from([upstream.to_owned()]);
    let mut todo = upstreams(connection, slots).await.unwrap_or_default();
    while let Some((address, (slots, through))) = todo.pop_first() {
        let itself = |slot: Option<&Slot>| {
            let slot = slot.map(ToString::to_string).unwrap_or_default();
            Refused::Other(format!(
                "slot {slot}: {upstream} gets it from this node (through {through}): a slot can't follow itself"
            ))
        };
        if address == shared.settings().announce {
            return Err(itself(slots.first()));
        }
        if !seen.insert(address.clone()) || seen.len() > CHAIN_NODES_MAX {
            continue;
        }
        let asked = tokio::time::timeout(shared.settings().connect_patience, async {
            let dial = shared.dial(&address);
            let mut connection = Connection::open(&dial).await?;
            if connection.hello(&dial, Purpose::Question).await? == shared.engine.node() {
                return Ok(None);
            }
            upstreams(&mut connection, &slots).await.map(Some)
        });
        match asked.await {
            Ok(Ok(None)) => return Err(itself(slots.first())),
            Ok(Ok(Some(further))) => {
                for (next, (slots, _)) in further {
                    let entry = todo.entry(next).or_insert_with(|| (Vec::new(), address.clone()));
                    entry.0.extend(slots);
                }
            }
            Ok(Err(why)) => tracing::debug!(%address, %why, "a node further up can't be asked"),
            Err(_) => tracing::debug!(%address, "a node further up does not answer"),
        }
    }
    Ok(())
}

/// Whom a node follows for slots: each address with its slots, and the node that said so (none yet).
async fn upstreams(
    connection: &mut Connection,
    slots: &[Slot],
) -> Result<BTreeMap<String, (Vec<Slot>, String)>, String> {
    let Message::Upstreams(answers) = connection.ask(&Message::UpstreamAsk(slots.to_vec())).await? else {
        return Err("it does not speak this protocol".to_owned());
    };
    let mut by_address: BTreeMap<String, (Vec<Slot>, String)> = BTreeMap::new();
    for (slot, upstream) in answers.into_iter().filter(|(_, upstream)| !upstream.is_empty()) {
        by_address.entry(upstream.clone()).or_insert_with(|| (Vec::new(), upstream)).0.push(slot);
    }
    Ok(by_address)
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
    let began_ms = shared.now_ms();
    let mut notes = Vec::with_capacity(slots.len());
    let mut todo = slots;
    for again in 0..=LOST_MAX {
        let passed = Duration::from_millis(shared.now_ms().saturating_sub(began_ms));
        let lost = no_one_once(shared, &todo, force, patience.saturating_sub(passed), &mut notes).await?;
        let Some((slots, why)) = lost else {
            save_roles(shared).await;
            return Ok(notes);
        };
        if again == LOST_MAX {
            return Err(Refused::Other(why));
        }
        // A master that was asked and died: whether it is still there is looked at anew.
        tracing::info!(slots = slots.len(), %why, "a master was lost while it was asked for slots");
        todo = slots;
    }
    Ok(notes)
}

/// Makes slots follow nobody, as they stand now. Says of which it is not known what became of them, and why: their master
/// was lost while it was asked for them.
async fn no_one_once(
    shared: &Arc<Shared>,
    slots: &[Slot],
    force: bool,
    patience: Duration,
    notes: &mut Vec<Note>,
) -> Result<Option<(Vec<Slot>, String)>, Refused> {
    let (mut gone, mut undone, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    let mut asked: BTreeMap<String, Vec<Slot>> = BTreeMap::new();
    let mut awaited = Vec::new();
    let mut silent = BTreeSet::new();
    for &slot in slots {
        match settled_step(shared, slot, force, patience, &mut silent).await? {
            Step::Nothing => notes.push(Note { slot, done: Done::WasMaster }),
            Step::Detach => gone.push(slot),
            Step::Ask(upstream) => asked.entry(upstream).or_default().push(slot),
            Step::Promote(why) => alone.push((slot, why)),
            Step::PromoteUnlessAlive { upstream, why } => {
                return Err(Refused::Other(format!(
                    "slot {slot}: this node has no link to its master, but {upstream} answers and may own the slot \
                     ({why}): try again when the link is up, or follow that node; force promotes without it"
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
    promote_alone(shared, alone, notes).await?;
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
            let _ = link.commands.send(LinkCommand::Handover { slots: slots.clone(), patience_ms, done });
        }
        waits.push((upstream, slots, wait));
    }
    let (mut failures, mut lost, mut why_lost) = (Vec::new(), Vec::new(), String::new());
    let mut left = Vec::new();
    for (upstream, mut slots, wait) in waits {
        let Some(outcome) = answered(shared, &upstream, wait).await else {
            let follows = |slot: &Slot| matches!(shared.engine.role(*slot), Role::Replica { upstream: of } if of == upstream);
            let why = || format!("{upstream} does not answer");
            left.extend(slots.into_iter().filter(follows).map(|slot| (slot, why())));
            continue;
        };
        slots.retain(|slot| !outcome.done.iter().any(|note| note.slot == *slot));
        notes.extend(outcome.done);
        failures.extend(outcome.failures);
        if let Some(why) = outcome.lost {
            lost.extend(slots);
            why_lost = why;
        }
    }
    promote_alone(shared, left, notes).await?;
    if !failures.is_empty() {
        return Err(Refused::Other(failures.join("; ")));
    }
    Ok((!lost.is_empty()).then_some((lost, why_lost)))
}

/// What came of a handover that a node was asked for; `None` if that node hangs.
async fn answered(
    shared: &Shared,
    upstream: &str,
    wait: oneshot::Receiver<AskedOutcome>,
) -> Option<AskedOutcome> {
    let ended =
        || AskedOutcome { lost: Some(format!("the link to {upstream} ended")), ..AskedOutcome::default() };
    tokio::select! {
        answered = wait => Some(answered.unwrap_or_else(|_| ended())),
        () = silence(shared, upstream) => None,
    }
}

/// Makes this node the owner of slots without asking anybody; the reasons are told.
async fn promote_alone(
    shared: &Arc<Shared>,
    alone: Vec<(Slot, String)>,
    notes: &mut Vec<Note>,
) -> Result<(), Refused> {
    if alone.is_empty() {
        return Ok(());
    }
    let slots: Vec<Slot> = alone.iter().map(|(slot, _)| *slot).collect();
    let detached = detach(shared, &slots).await;
    let promoted = on_disk(shared, move |engine| {
        let (owed, others): (Vec<Slot>, Vec<Slot>) =
            slots.into_iter().partition(|slot| engine.role(*slot) == Role::Owed);
        engine.begin_owed(&owed)?;
        engine.promote(&others)
    });
    if let Err(error) = promoted.await {
        attach_again(shared, detached);
        return Err(error);
    }
    for (slot, why) in alone {
        let note = Note { slot, done: Done::PromotedAlone { why } };
        tracing::warn!("{note}");
        notes.push(note);
    }
    Ok(())
}

/// Comes back once a node has stopped to answer whoever asks: its machine hangs, and its connections do not know yet.
async fn silence(shared: &Shared, address: &str) {
    let mut missed = 0;
    while missed < SILENT_ASKS {
        if Connection::answers(&shared.dial(address)).await {
            missed = 0;
            tokio::time::sleep(LINK_LOOK).await;
        } else {
            missed += 1;
        }
    }
}

fn step(shared: &Shared, slot: Slot, force: bool) -> Result<Step, Refused> {
    let position = shared.engine.position(slot);
    Ok(match position.role {
        Role::Absent => return Err(Refused::NotHere(slot)),
        // It is the owner, or will be before long.
        Role::Master => Step::Nothing,
        Role::Owed => match shared.heir(slot) {
            None => Step::Nothing,
            Some(heir) if force => Step::Promote(format!("force, beside {heir}")),
            Some(upstream) => {
                let why = "it was promoted while this node was away".to_owned();
                Step::PromoteUnlessAlive { upstream, why }
            }
        },
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
            // If it was granted to the node that is followed here, this one only lacks what that one did with it.
            Some((to, address))
                if to != shared.engine.node()
                    && !address.is_empty()
                    && !shared.registry.is_upstream(&upstream, to, &address) =>
            {
                Step::Detach
            }
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
        // Whom this node does not follow, no link is tried to.
        if left.is_zero() || shared.heir(slot).is_some() {
            return Ok(Step::PromoteUnlessAlive { upstream, why });
        }
        // The link tries by itself, at intervals of its own.
        let pause = LINK_LOOK.min(left);
        tokio::time::sleep(pause).await;
        left = left.saturating_sub(pause);
    }
}

/// Waits until the new owners of granted slots have answered: whoever goes on believes that they took them. One that was
/// started anew before it had the granting record refuses, and the slot is this node's again.
async fn await_moved(shared: &Shared, slots: &[Slot], patience: Duration) -> Result<(), Refused> {
    // What is taken back is fenced for a moment.
    let moved = none_is(shared, slots, |role| matches!(role, Role::Granted { .. } | Role::Fenced));
    tokio::time::timeout(patience, moved).await.map_err(|_| {
        let slots: Vec<String> = slots.iter().map(ToString::to_string).collect();
        let slots = slots.join(",");
        Refused::Other(format!(
            "slot {slots} was granted to another node that has not answered; force takes it back"
        ))
    })?;
    let back: Vec<String> = slots
        .iter()
        .filter(|slot| matches!(shared.engine.role(**slot), Role::Master))
        .map(ToString::to_string)
        .collect();
    if back.is_empty() {
        return Ok(());
    }
    let back = back.join(",");
    Err(Refused::Other(format!(
        "slot {back} was not taken by the node that it was granted to, and is here as before"
    )))
}

/// Hands slots of this node over to a node that follows it: see [`crate::hub::Replication::hand_over`].
pub(crate) async fn hand_over(
    shared: &Arc<Shared>,
    slots: Vec<Slot>,
    to: &str,
    patience: Duration,
    rehearsal: bool,
) -> Result<Vec<Handed>, Refused> {
    let _busy = shared.busy(&slots)?;
    let peer = shared.registry.peers().into_iter().find(|(_, peer)| peer.address == to);
    let Some((node, peer)) = peer else {
        return Err(Refused::Other(format!(
            "{to} does not follow this node (or its connection is down): on it, pkcluster slotsslaveof \
             {} <group> first",
            shared.settings().announce
        )));
    };
    let mut handed = Vec::with_capacity(slots.len());
    for &slot in &slots {
        let (phase, acked) = {
            let shipper = lock(&peer.shipper);
            (shipper.phase(slot), shipper.acked(slot).unwrap_or_default())
        };
        match shared.engine.role(slot) {
            Role::Master => {}
            Role::Granted { to, .. } if to == node => {}
            Role::Absent => return Err(Refused::NotHere(slot)),
            Role::Fenced | Role::Granted { .. } => {
                return Err(Refused::Other(format!("slot {slot} is being handed over already")));
            }
            Role::Moved { to } => {
                return Err(Refused::Other(format!("slot {slot} was handed over to {to} already")));
            }
            Role::Owed if rehearsal => {
                return Err(Refused::Other(format!("slot {slot} {ASKS_REPLICAS}: try again later")));
            }
            // Its replicas follow it when its next epoch has begun: the handover waits for that, as for one that is behind.
            Role::Owed => {
                handed.push(Handed { slot, lag_records: 0, held_ms: 0 });
                continue;
            }
            Role::Replica { upstream } | Role::Loading { upstream } => {
                return Err(Refused::Other(format!(
                    "slot {slot} follows {upstream}: only its owner can hand it over"
                )));
            }
        }
        if phase != Some(Phase::Streaming) {
            let state = if phase.is_none() { "does not follow it" } else { "has no complete copy of it yet" };
            return Err(Refused::Other(format!("slot {slot}: {to} {state}; nothing changed")));
        }
        let lag_records = shared.engine.pulse(slot).last_seq.0.saturating_sub(acked.0);
        handed.push(Handed { slot, lag_records, held_ms: 0 });
    }
    if rehearsal {
        return Ok(handed);
    }
    let patience_ms = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
    let (done, mut wait) = mpsc::unbounded_channel();
    // If its connection ends, so does `done`: then the wait is over at once.
    let _ = peer.commands.send(PeerCommand::Handover { slots: slots.clone(), patience_ms, done });
    let mut failures = Vec::new();
    let mut left: BTreeSet<Slot> = slots.into_iter().collect();
    while !left.is_empty() {
        let answered = tokio::time::timeout(patience + HANDOVER_GRACE, wait.recv()).await;
        let Ok(Some(Answered { held_ms, slots })) = answered else {
            let why = format!("the connection to {to} was lost; pkcluster info slot shows what came of it");
            failures.push(why);
            break;
        };
        for (slot, outcome) in slots {
            left.remove(&slot);
            match outcome {
                Ok(_) => {
                    handed.iter_mut().filter(|one| one.slot == slot).for_each(|one| one.held_ms = held_ms)
                }
                Err(why) if !failures.contains(&why) => failures.push(why),
                Err(_) => {}
            }
        }
    }
    if !failures.is_empty() {
        return Err(Refused::Other(failures.join("; ")));
    }
    let slots: Vec<Slot> = handed.iter().map(|one| one.slot).collect();
    let granted_ms = shared.now_ms();
    await_moved(shared, &slots, patience.max(HANDOVER_GRACE)).await?;
    let more_ms = u32::try_from(shared.now_ms().saturating_sub(granted_ms)).unwrap_or(u32::MAX);
    handed.iter_mut().for_each(|one| one.held_ms = one.held_ms.saturating_add(more_ms));
    save_roles(shared).await;
    Ok(handed)
}

/// Asks the grantee of open grants at one address; what it answers is carried out.
pub(crate) async fn ask_grantee(
    shared: &Arc<Shared>,
    address: &str,
    open: &[grants::Open],
) -> Result<(), String> {
    let dial = shared.dial(address);
    let mut connection = Connection::open(&dial).await?;
    let node = connection.hello(&dial, Purpose::Question).await?;
    let open: Vec<_> = open.iter().filter(|grant| grant.to == node).cloned().collect();
    if open.is_empty() {
        return Err(format!("another node answers at {address}: {node}"));
    }
    let asks = open.iter().map(|grant| (grant.slot, grant.ended, grant.seq)).collect();
    connection.send(&Message::GrantAsk(asks));
    for _ in 0..open.len() {
        match connection.answer().await? {
            Message::GrantTaken(taken) => {
                let moved = grants::taken(&shared.engine, node, &taken).now.len();
                if moved > 0 {
                    tracing::info!(slots = moved, to = %address, "slots were handed over");
                }
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
