//! After an unclean stop: asks the replicas of owed slots for what was lost here, and begins the slots' epochs. The
//! loop around [`Taking`]; runs on the control thread, with a task for each replica.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use haypile_engine::engine::Engine;
use haypile_engine::error::Error;
use haypile_engine::types::{NodeId, Slot};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use crate::features::TAILS;
use crate::hub::Shared;
use crate::message::{Message, Purpose};
use crate::operate::on_disk;
use crate::registry::PeerCommand;
use crate::tail::{Action, Asks, Event, Taking};
use crate::transport::Connection;

/// What came of replicas and is not appended yet: so many messages at most, then less is read.
const EVENTS_MAX: usize = 4;
/// A replica that could not be reached is tried again after this.
const DIAL_PAUSE: Duration = Duration::from_millis(100);
/// Who was promoted while this node was away is asked at such intervals whether it still owns the slots.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// An epoch that could not begin is tried again after this.
const BEGIN_PAUSE: Duration = Duration::from_secs(1);

/// Asks, until nothing is owed any more; never comes back.
pub(crate) async fn take_back(shared: Arc<Shared>) {
    let owed = shared.engine.owed();
    if !owed.is_empty() {
        let count = owed.len();
        let mut asking = Asking::new(&shared, Taking::new(owed));
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
    /// Which were tried before: again only after a pause.
    tried: BTreeMap<NodeId, String>,
    events: mpsc::Sender<(Event, Option<String>)>,
    inbox: mpsc::Receiver<(Event, Option<String>)>,
    /// When it is waited no longer.
    deadline_ms: u64,
}

impl<'a> Asking<'a> {
    fn new(shared: &'a Arc<Shared>, machine: Taking) -> Asking<'a> {
        let (events, inbox) = mpsc::channel(EVENTS_MAX);
        let (asking, tried) = (BTreeMap::new(), BTreeMap::new());
        let mut asking = Asking { shared, machine, asking, tried, events, inbox, deadline_ms: 0 };
        asking.wait_on();
        asking
    }

    /// It is waited anew.
    fn wait_on(&mut self) {
        let wait_ms = u64::try_from(self.shared.settings().tail_wait.as_millis()).unwrap_or(u64::MAX);
        self.deadline_ms = self.shared.now_ms().saturating_add(wait_ms);
    }

    async fn run(&mut self) {
        let mut event = Event::Start;
        loop {
            self.act(event).await;
            if self.machine.is_over() {
                return;
            }
            let tails = self.machine.awaits_tails();
            let left = match tails {
                true => Duration::from_millis(self.deadline_ms.saturating_sub(self.shared.now_ms())),
                false => LOOK_AGAIN,
            };
            event = match timeout(left, self.inbox.recv()).await {
                Ok(Some((event, why))) => {
                    if let (Event::Lost(node) | Event::Refused(node), Some(why)) = (&event, why) {
                        self.tried.insert(*node, why);
                    }
                    event
                }
                Ok(None) => unreachable!("a sender is kept here"),
                Err(_) if !tails => {
                    Event::Again(self.shared.engine.owed().iter().map(|owed| owed.slot).collect())
                }
                Err(_) => {
                    let awaited = self.machine.awaited();
                    let why: Vec<&String> = self.tried.values().collect();
                    tracing::warn!(
                        ?awaited,
                        ?why,
                        "replicas did not give what they have of this node's lost records in time: what only they have \
                         is given up"
                    );
                    Event::Deadline
                }
            };
        }
    }

    /// Carries out what an event calls for, and what that leads to.
    async fn act(&mut self, event: Event) {
        let mut actions = self.machine.on(event);
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
                        let (event, before) = (self.append(node, data).await, self.machine.taken());
                        actions.extend(self.machine.on(event));
                        if self.machine.taken() > before {
                            self.wait_on();
                        }
                    }
                    Action::Begin(slots) => self.begin(slots).await,
                    Action::Yield(node, slots) => self.give_way(node, slots),
                }
            }
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
            true if self.machine.awaits_tails() => DIAL_PAUSE,
            true => LOOK_AGAIN,
        };
        let (asks, inbox) = unbounded_channel();
        self.asking.insert(node, asks);
        let (shared, events) = (Arc::clone(self.shared), self.events.clone());
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
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
    async fn append(&self, node: NodeId, data: Bytes) -> Event {
        let mut told = false;
        loop {
            let taken = match self.shared.engine.room().await {
                Ok(()) => {
                    let data = data.clone();
                    let append = move |engine: &Engine| match engine.append_tail(&data) {
                        Err(Error::Limit(why)) => Ok(Err(why)),
                        appended => appended.map(Ok),
                    };
                    on_disk(self.shared, append).await.map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            match taken {
                Ok(Ok(appended)) if appended.failed.is_empty() => return Event::Appended(appended.applied),
                Ok(Ok(appended)) => {
                    let why = appended.failed.iter().map(|(_, why)| why.to_string());
                    let why = why.collect::<Vec<_>>().join("; ");
                    tracing::warn!(%node, %why, "what a replica sent is not what this node lost: it is passed over");
                    return Event::Refused(node);
                }
                Ok(Err(why)) => {
                    tracing::warn!(%node, %why, "what a replica sent is no record: it is not asked any more");
                    return Event::Refused(node);
                }
                Err(why) if !told => {
                    tracing::error!(%why, "records that replicas have can't be taken back yet: the slots serve nobody");
                    told = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(BEGIN_PAUSE).await;
        }
    }

    async fn begin(&self, slots: Vec<Slot>) {
        let mut told = false;
        loop {
            let todo = slots.clone();
            match on_disk(self.shared, move |engine| engine.begin_owed(&todo)).await {
                Ok(()) => break,
                Err(why) if !told => {
                    tracing::error!(%why, "epochs can't begin after an unclean stop: the slots serve nobody yet");
                    told = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(BEGIN_PAUSE).await;
        }
        slots.into_iter().for_each(|slot| self.shared.registry.tell_peers(&PeerCommand::Ready(slot)));
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
        return Err(Ended::Refused(format!("another node answers at {address}: {answering}")));
    }
    if connection.features() & TAILS == 0 {
        return Err(Ended::Refused(format!("{address} is of an older release and can't be asked")));
    }
    let tell =
        async |event| events.send((event, None)).await.map_err(|_| Ended::Lost("all is over".to_owned()));
    tell(Event::Reached(node)).await?;
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
        }
    }
}
