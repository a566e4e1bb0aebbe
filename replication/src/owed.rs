//! After an unclean stop: asks the replicas of owed slots for what was lost here, and begins the slots' epochs. The
//! loop around [`Taking`]; runs on the control thread, with a task for each replica.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use haypile_engine::error::Error;
use haypile_engine::types::{NodeId, Slot};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{interval, sleep};

use crate::features::TAILS;
use crate::hub::Shared;
use crate::message::{Message, Purpose};
use crate::operate::on_disk;
use crate::registry::{Comer, PeerCommand};
use crate::tail::{Action, Asks, Event, Missed, Taking, WhyMissed};
use crate::told::Repeats;
use crate::transport::Connection;

/// What came of replicas and is not appended yet: so many messages at most, then less is read.
const EVENTS_MAX: usize = 4;
/// A replica that could not be reached is tried again after this.
const DIAL_PAUSE: Duration = Duration::from_millis(100);
/// Who was promoted while this node was away is asked at such intervals whether it still owns the slots.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// What this node's disk did not take is tried again after this.
const DISK_PAUSE: Duration = Duration::from_secs(1);
/// A replica hears so often that it is listened to.
const KEEPALIVE: Duration = Duration::from_secs(1);

/// Asks, until nothing is owed any more; never comes back.
pub(crate) async fn take_back(shared: Arc<Shared>) {
    let owed = shared.engine.owed();
    if !owed.is_empty() {
        let count = owed.len();
        let wait_ms = u64::try_from(shared.settings().tail_wait.as_millis()).unwrap_or(u64::MAX);
        let mut asking = Asking::new(&shared, Taking::new(owed, wait_ms, shared.now_ms()));
        asking.run().await;
        let records = asking.machine.taken();
        tracing::info!(
            slots = count,
            records,
            "after an unclean stop: what replicas had more was taken back"
        );
    }
    pending().await
}

struct Asking<'a> {
    shared: &'a Arc<Shared>,
    machine: Taking,
    /// To the task of each replica: what to ask it. One that is dropped hangs up.
    asking: BTreeMap<NodeId, UnboundedSender<Asks>>,
    /// Why it was tried in vain: again only after a pause.
    tried: BTreeMap<NodeId, String>,
    events: mpsc::Sender<(Event, Option<String>)>,
    inbox: mpsc::Receiver<(Event, Option<String>)>,
    /// Nodes that ask to follow by themselves.
    comers: UnboundedReceiver<Comer>,
    /// Failures that the log was told of.
    repeats: Repeats,
}

impl<'a> Asking<'a> {
    fn new(shared: &'a Arc<Shared>, machine: Taking) -> Asking<'a> {
        let (events, inbox) = mpsc::channel(EVENTS_MAX);
        let comers = shared.registry.comers();
        let (asking, tried, repeats) = (BTreeMap::new(), BTreeMap::new(), Repeats::default());
        Asking { shared, machine, asking, tried, events, inbox, comers, repeats }
    }

    async fn run(&mut self) {
        let mut event = Event::Start;
        loop {
            self.act(event).await;
            if self.machine.is_over() {
                return;
            }
            let deadline_ms = self.machine.deadline_ms();
            let left = deadline_ms.map_or(LOOK_AGAIN, |deadline_ms| {
                Duration::from_millis(deadline_ms.saturating_sub(self.shared.now_ms()))
            });
            event = tokio::select! {
                // Whoever has said something is heard before its time is up.
                biased;
                came = self.inbox.recv() => {
                    let (event, why) = came.expect("a sender is kept here");
                    if let (Event::Lost(node) | Event::Refused(node), Some(why)) = (&event, why) {
                        self.tried.insert(*node, why);
                    }
                    event
                }
                Some((node, address, slot)) = self.comers.recv() => Event::Came(node, address, slot),
                () = sleep(left) => match deadline_ms {
                    Some(_) => Event::Tick,
                    None => Event::Again(self.shared.engine.owed().iter().map(|owed| owed.slot).collect()),
                },
            };
        }
    }

    /// Carries out what an event calls for, and what that leads to.
    async fn act(&mut self, event: Event) {
        let mut actions = self.machine.on(event, self.shared.now_ms());
        while !actions.is_empty() {
            for action in std::mem::take(&mut actions) {
                match action {
                    Action::Dial(node, address) => self.dial(node, address),
                    Action::Ask(node, asks) => {
                        if let Some(task) = self.asking.get(&node) {
                            // A task that has ended says so itself.
                            let _ = task.send(asks);
                        }
                    }
                    Action::HangUp(node) => drop(self.asking.remove(&node)),
                    Action::Times(beats) => {
                        beats.iter().for_each(|beat| self.shared.engine.set_owed_time(beat.slot, beat.time));
                    }
                    Action::Append(node, data) => {
                        let began_ms = self.shared.now_ms();
                        let event = self.append(node, data).await;
                        let now_ms = self.shared.now_ms();
                        self.machine.excuse(now_ms.saturating_sub(began_ms));
                        actions.extend(self.machine.on(event, now_ms));
                    }
                    Action::Begin(slots) => {
                        let began_ms = self.shared.now_ms();
                        self.begin(slots).await;
                        self.machine.excuse(self.shared.now_ms().saturating_sub(began_ms));
                    }
                    Action::Yield(node, slots) => self.give_way(node, slots),
                    Action::Missed(missed) => self.tell(&missed),
                }
            }
        }
    }

    fn tell(&self, missed: &Missed) {
        let of = |(slot, last, upto): &(Slot, _, Option<_>)| match upto {
            Some(upto) => format!("{slot}: {last} of {upto}"),
            None => format!("{slot}: {last}"),
        };
        let (slots, address) = (missed.slots.iter().map(of).collect::<Vec<_>>().join(", "), &missed.address);
        match missed.why {
            WhyMissed::Late => {
                let why = self.tried.get(&missed.node).map_or("it gave nothing", |why| why);
                tracing::warn!(
                    replica = %address, %slots, why,
                    "a replica did not give in time what it has of this node's lost records: what only it has is given up"
                );
            }
            WhyMissed::LogGone => tracing::warn!(
                replica = %address, %slots,
                "a replica has records that this node lost, and its log does not go back so far; to keep them: let it own the slots \
                 (there: PKCLUSTER SLOTSSLAVEOF NO ONE <group> FORCE) and follow it here, before tail-wait-ms are over"
            ),
        }
    }

    /// Another node was promoted while this one was away: nothing of these slots is served until an operator or a sentinel says
    /// whom they follow, or that node is none's owner any more. What only this node has stays until then.
    fn give_way(&self, node: NodeId, slots: Vec<Slot>) {
        let known = self.shared.engine.owed();
        let heir = |slot: &Slot| {
            let owed = known.iter().find(|owed| owed.slot == *slot)?;
            owed.replicas.iter().find(|(replica, _)| *replica == node).map(|(_, address)| address.clone())
        };
        let heirs: Vec<(Slot, String)> = slots.iter().filter_map(|slot| Some((*slot, heir(slot)?))).collect();
        let (count, to) = (heirs.len(), heirs.first().map(|(_, heir)| heir.clone()).unwrap_or_default());
        tracing::warn!(
            slots = count,
            %to,
            "another node was promoted while this one was away: these slots serve nobody here until they are told to follow it"
        );
        self.shared.set_heirs(heirs);
        // Who waits for them waits in vain.
        self.shared.engine.role_changes().notify();
    }

    fn dial(&mut self, node: NodeId, address: String) {
        let pause = match self.tried.contains_key(&node) {
            false => Duration::ZERO,
            true if self.machine.deadline_ms().is_some() => DIAL_PAUSE,
            true => LOOK_AGAIN,
        };
        let (asks, inbox) = unbounded_channel();
        self.asking.insert(node, asks);
        let (shared, events) = (Arc::clone(self.shared), self.events.clone());
        tokio::spawn(async move {
            sleep(pause).await;
            let (event, why) = match converse(&shared, node, &address, inbox, &events).await {
                Ok(()) => return,
                Err(Ended::Lost(why)) => (Event::Lost(node), why),
                Err(Ended::Refused(why)) => (Event::Refused(node), why),
            };
            tracing::debug!(%address, %why, "a replica is asked for lost records");
            // Nobody listens any more when everything is over.
            let _ = events.send((event, Some(why))).await;
        });
    }

    /// Appends what came. What the disk has no room for is tried again until it has, or until nobody wants it any more: nothing
    /// is given up for that.
    async fn append(&mut self, node: NodeId, data: Bytes) -> Event {
        loop {
            let taken = match self.shared.engine.room().await {
                Ok(()) => {
                    let data = data.clone();
                    let append =
                        move |engine: &haypile_engine::engine::Engine| match engine.append_tail(&data) {
                            Err(Error::Limit(why)) => Ok(Err(why)),
                            appended => appended.map(Ok),
                        };
                    on_disk(self.shared, append).await.map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            match taken {
                Ok(Ok(appended)) => {
                    for (slot, why) in &appended.failed {
                        tracing::warn!(%node, %slot, %why, "what a replica sent is not what this node lost: it is passed over");
                    }
                    let unfit = appended.failed.into_iter().map(|(slot, _)| slot).collect();
                    return Event::Appended { node, lasts: appended.applied, unfit };
                }
                Ok(Err(why)) => {
                    tracing::warn!(%node, %why, "what a replica sent is not what this node lost: it is not asked any more");
                    return Event::Refused(node);
                }
                Err(why) => self.disk_failed(&why).await,
            }
        }
    }

    async fn begin(&mut self, slots: Vec<Slot>) {
        loop {
            let todo = slots.clone();
            match on_disk(self.shared, move |engine| engine.begin_owed(&todo)).await {
                Ok(()) => break,
                Err(why) => self.disk_failed(&why.to_string()).await,
            }
        }
        slots.into_iter().for_each(|slot| self.shared.registry.tell_peers(&PeerCommand::Ready(slot)));
    }

    async fn disk_failed(&mut self, why: &str) {
        if let Some(left_out) = self.repeats.news(why, self.shared.now_ms()) {
            tracing::error!(
                %why, left_out,
                "slots serve nobody after an unclean stop, as their disk does not take what it should: it is tried again"
            );
        }
        sleep(DISK_PAUSE).await;
    }
}

/// Why a replica is not heard any more.
enum Ended {
    /// It may be back soon.
    Lost(String),
    /// It gives nothing.
    Refused(String),
}

/// Reaches a replica, asks it and hands on what it answers, until it is hung up on.
async fn converse(
    shared: &Shared,
    node: NodeId,
    address: &str,
    mut asks: UnboundedReceiver<Asks>,
    events: &mpsc::Sender<(Event, Option<String>)>,
) -> Result<(), Ended> {
    let dial = shared.dial(address);
    let mut connection = Connection::open(&dial).await.map_err(Ended::Lost)?;
    let greeted = tokio::time::timeout(dial.patience, connection.hello(&dial, Purpose::Question)).await;
    let late = |_| Ended::Lost(format!("{address}: no answer to the greeting"));
    let answering = greeted.map_err(late)?.map_err(Ended::Lost)?;
    if answering != node {
        // The address may have been given to another machine: it may come by itself and say its new one.
        return Err(Ended::Lost(format!("another node answers at {address}: {answering}")));
    }
    if connection.features() & TAILS == 0 {
        return Err(Ended::Refused(format!("{address} is of an older release and can't be asked")));
    }
    let tell =
        async |event| events.send((event, None)).await.map_err(|_| Ended::Lost("all is over".to_owned()));
    tell(Event::Reached(node)).await?;
    let mut keepalive = interval(KEEPALIVE);
    loop {
        while let Some(message) =
            connection.take_message().map_err(|bad| Ended::Refused(format!("{address}: {bad}")))?
        {
            match message {
                Message::Tails(beats) => tell(Event::Has(node, beats)).await?,
                Message::Records { more, data, .. } => tell(Event::Records { node, more, data }).await?,
                other => return Err(Ended::Refused(format!("{address} answered {other:?}"))),
            }
        }
        tokio::select! {
            asked = asks.recv() => match asked {
                Some(asks) => connection.send(&Message::TailAsk(asks)),
                None => return Ok(()),
            },
            progress = connection.progress() => {
                progress.map_err(|why| Ended::Lost(format!("{address}: {why}")))?;
            }
            // A long tail takes longer than silence is borne.
            _ = keepalive.tick() => connection.send(&Message::Pong),
        }
    }
}
