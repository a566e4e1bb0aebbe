//! The running node: what all workers, connections and background tasks share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use haypile_engine::clock::TimeMs;
use haypile_engine::engine::{Engine, Fetched, Gate};
use haypile_engine::error::Error;
use haypile_engine::fs::Fs;
use haypile_engine::slot::Role;
use haypile_engine::tx::{Stop, Tx};
use haypile_engine::types::{Seq, Slot};
use haypile_replication::features::Compress;
use haypile_replication::hub::Replication;
use tokio::sync::watch;

use crate::blocked::Blocked;
use crate::clients::{Clients, monotonic_ms};
use crate::codis::dial::Couriers;
use crate::codis::leaving::Leaving;
use crate::codis::moves::Moves;
use crate::config::{Config, Settings};
use crate::cx::Fail;
use crate::execute;
use crate::measured::Measured;
use crate::monitors::Monitors;
use crate::notify::{Classes, Event, Notify};
use crate::pause::Pauses;
use crate::pubsub::{Message, PubSub};
use crate::saves::{self, Saves};
use crate::scripting::functions::Functions;
use crate::scripting::{Scripts, machine};

/// Makes the settings about other nodes hold, but for the password.
pub fn apply_to_replication(replication: &Replication, settings: &Settings) {
    replication.set_compress(if settings.repl_compression { Compress::Yes } else { Compress::No });
    replication.copies().set_rate(settings.copy_rate_bytes);
    replication.copies().set_slots_max(usize::try_from(settings.copy_slots_max).unwrap_or(usize::MAX));
}

/// What the node is to its clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// Behind Codis: RESP2 only, since codis-proxy shares a connection among clients; 16 databases may be selected,
    /// as it opens a connection for each, but only the first holds data.
    Codis,
    /// For any Redis client: RESP3 too, one database.
    Standalone,
}

/// Counters that INFO shows; CONFIG RESETSTAT sets them to zero.
#[derive(Debug, Default)]
#[allow(missing_docs)] // the names are INFO's
pub struct Stats {
    /// Connections that there are: a level, which is not set to zero.
    pub connections: AtomicU64,
    pub connections_received: AtomicU64,
    pub connections_rejected: AtomicU64,
    pub commands_processed: AtomicU64,
    pub writes_processed: AtomicU64,
    pub commands_per_second: AtomicU64,
    pub writes_per_second: AtomicU64,
    /// Commands and writes at the last measurement of their rates.
    measured: [AtomicU64; 2],
    pub input_bytes: AtomicU64,
    pub output_bytes: AtomicU64,
    pub error_replies: AtomicU64,
    pub keyspace_fetches: AtomicU64,
}

impl Stats {
    /// Called every `interval`: counts commands and writes a second since the last call.
    pub fn measure_rates(&self, interval: Duration) {
        for (counter, last, rate) in [
            (&self.commands_processed, &self.measured[0], &self.commands_per_second),
            (&self.writes_processed, &self.measured[1], &self.writes_per_second),
        ] {
            let now = counter.load(Ordering::Relaxed);
            // Smaller than the last if CONFIG RESETSTAT came in between.
            let grown = now.saturating_sub(last.swap(now, Ordering::Relaxed));
            rate.store(grown / interval.as_secs().max(1), Ordering::Relaxed);
        }
    }

    /// Sets all to zero.
    pub fn reset(&self) {
        for counter in [
            &self.connections_received,
            &self.connections_rejected,
            &self.commands_processed,
            &self.writes_processed,
            &self.input_bytes,
            &self.output_bytes,
            &self.error_replies,
            &self.keyspace_fetches,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

/// How the process is asked to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stopping {
    /// It runs.
    No,
    /// Accept no more, finish what was received, close the engine.
    Cleanly,
}

/// See the file's head.
pub struct Node {
    /// The store.
    pub engine: Arc<Engine>,
    /// Whom it follows and who follows it.
    pub replication: Arc<Replication>,
    /// The file system that it is on.
    pub fs: Arc<dyn Fs>,
    /// The settings.
    pub config: Config,
    /// The configuration file, if there is one: what CONFIG REWRITE writes.
    pub config_file: Option<PathBuf>,
    /// What the node is to its clients.
    pub profile: Profile,
    /// Who is connected.
    pub clients: Clients,
    /// Who waits for which key.
    pub blocked: Arc<Blocked>,
    /// Who listens to which channel.
    pub pubsub: PubSub,
    /// Checkpoints that clients ask for.
    pub saves: Saves,
    /// Places for reads of so much that they run off the workers.
    pub streams: execute::Places,
    /// Slots on their way to other nodes.
    pub moves: Moves,
    /// Keys on their way to other nodes, one by one.
    pub leaving: Leaving,
    /// Connections on which they go.
    pub couriers: Couriers,
    /// Scripts that are known, and that run.
    pub scripts: Scripts,
    /// Libraries of functions.
    pub functions: Functions,
    /// Counters.
    pub stats: Stats,
    /// What commands took.
    pub measured: Measured,
    /// Who is told of every command.
    pub monitors: Monitors,
    /// Which events of keys are told.
    pub notify: Notify,
    /// What clients are made to wait for.
    pub pauses: Pauses,
    /// What INFO calls run_id: 40 hexadecimal digits.
    pub run_id: String,
    /// The port that it listens at.
    pub port: u16,
    /// When it started, on the monotonic clock.
    pub started_ms: u64,
    /// `min-replicas-to-write` and `min-replicas-max-lag`, where writes look at them. Each is right alone.
    replicas_min: AtomicUsize,
    replica_lag_ms: AtomicU64,
    stopping: watch::Sender<Stopping>,
    /// So that it is logged once, and not by each connection.
    aborted: AtomicBool,
}

impl Node {
    /// A node over an engine that is open, to listen at `port`.
    #[must_use]
    pub fn new(
        engine: Arc<Engine>,
        replication: Arc<Replication>,
        fs: Arc<dyn Fs>,
        settings: Settings,
        config_file: Option<PathBuf>,
        port: u16,
    ) -> Node {
        let profile = if settings.standalone { Profile::Standalone } else { Profile::Codis };
        let started_ms = monotonic_ms(engine.clock());
        let saves = Saves::new(engine.clock().wall(), saves::records(&engine));
        let run_id = engine.node().to_string();
        let replicas_min = AtomicUsize::new(settings.replicas_min);
        let replica_lag_ms = AtomicU64::new(settings.replica_lag_s * 1000);
        let (functions, read) = Functions::open(&*fs, Path::new(&settings.dir), machine::library);
        if let Err(why) = read {
            tracing::error!(%why, "the libraries of functions can't be read: there are none until they are loaded again");
        }
        let notify = Notify::default();
        notify.set(settings.notify);
        Node {
            engine,
            replication,
            fs,
            measured: Measured::new(&settings),
            monitors: Monitors::default(),
            pauses: Pauses::default(),
            notify,
            config: Config::new(settings),
            config_file,
            profile,
            clients: Clients::default(),
            blocked: Arc::default(),
            pubsub: PubSub::default(),
            saves,
            streams: execute::Places::default(),
            moves: Moves::default(),
            leaving: Leaving::default(),
            couriers: Couriers::default(),
            scripts: Scripts::default(),
            functions,
            stats: Stats::default(),
            run_id,
            port,
            started_ms,
            replicas_min,
            replica_lag_ms,
            stopping: watch::Sender::new(Stopping::No),
            aborted: AtomicBool::new(false),
        }
    }

    /// Changes settings, all or none, and makes them hold.
    ///
    /// # Errors
    /// The key at fault, and why.
    pub fn change_settings(&self, pairs: &[(String, String)]) -> Result<(), (String, String)> {
        self.config.change(pairs)?;
        let settings = self.config.now();
        self.engine.set_sync_mode(settings.sync);
        self.replicas_min.store(settings.replicas_min, Ordering::Relaxed);
        self.replica_lag_ms.store(settings.replica_lag_s * 1000, Ordering::Relaxed);
        self.measured.set(&settings);
        self.notify.set(settings.notify);
        let masterauth =
            Some(settings.password_for_nodes().to_owned()).filter(|password| !password.is_empty());
        self.replication.set_masterauth(masterauth);
        apply_to_replication(&self.replication, &settings);
        Ok(())
    }

    /// Refuses writes to slots that too few replicas follow closely enough, if the operator wants that.
    ///
    /// # Errors
    /// In Redis' words.
    pub fn require_replicas(&self, slots: &[Slot]) -> Result<(), Fail> {
        let least = self.replicas_min.load(Ordering::Relaxed);
        if least == 0 {
            return Ok(());
        }
        if slots.iter().all(|slot| self.good_replicas(*slot) >= least) {
            Ok(())
        } else {
            Err(Fail::error("NOREPLICAS Not enough good replicas to write."))
        }
    }

    /// How many replicas follow a slot closely enough for `min-replicas-to-write`.
    pub fn good_replicas(&self, slot: Slot) -> usize {
        let lag_ms = self.replica_lag_ms.load(Ordering::Relaxed);
        self.replication.acks().good(slot, self.monotonic_ms(), lag_ms)
    }

    /// Makes messages of what happened to keys.
    pub fn tell(&self, events: Vec<Event>, outbox: &mut Vec<Message>) {
        if !events.is_empty() {
            let classes = self.notify.classes();
            events.into_iter().for_each(|event| event.messages(classes, outbox));
        }
    }

    /// Tells of keys from here on that are removed because they have expired.
    pub fn tell_of_expired(self: &Arc<Node>) {
        let node = Arc::downgrade(self);
        self.engine.on_expired(move |keys| {
            let Some(node) = node.upgrade() else { return };
            if node.notify.classes().has(Classes::EXPIRED) {
                let mut outbox = Vec::new();
                let events = keys.iter().map(|key| Event::new(Classes::EXPIRED, "expired", key));
                node.tell(events.collect(), &mut outbox);
                node.deliver(&mut outbox);
            }
        });
    }

    /// Whether a slot is this node's, be it that another has to take it over still.
    pub fn owns(&self, slot: Slot) -> bool {
        let role = self.engine.role(slot);
        role.owns() || matches!(role, Role::Granted { .. })
    }

    /// Resolves once one of these slots is not this node's any more: then nobody acknowledges its records here.
    pub async fn loses(&self, records: &[(Slot, Seq)]) {
        loop {
            let seen = self.engine.role_changes().count();
            if records.iter().any(|(slot, _)| !self.owns(*slot)) {
                return;
            }
            self.engine.role_changes().wait_past(seen).await;
        }
    }

    /// Hands out messages; their gate was reached.
    pub fn deliver(&self, outbox: &mut Vec<Message>) {
        let limit = self.config.now().pubsub_limit;
        let now_ms = self.monotonic_ms();
        outbox.drain(..).for_each(|message| self.pubsub.deliver(&message, limit, now_ms));
    }

    /// Milliseconds of the monotonic clock.
    pub fn monotonic_ms(&self) -> u64 {
        monotonic_ms(self.engine.clock())
    }

    /// Milliseconds of a clock of its own that costs little, and may stand still for some ten of them.
    pub fn roughly_ms(&self) -> u64 {
        u64::try_from(self.engine.clock().roughly().as_millis()).unwrap_or(u64::MAX)
    }

    /// Nanoseconds of the monotonic clock.
    pub fn nanos(&self) -> u64 {
        u64::try_from(self.engine.clock().monotonic().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The time of day.
    pub fn wall(&self) -> TimeMs {
        self.engine.clock().wall()
    }

    /// Asks the process to end.
    pub fn stop(&self) {
        self.scripts.asides.end();
        self.stopping.send_replace(Stopping::Cleanly);
    }

    /// Notes that the engine has stopped acknowledging.
    pub fn aborted(&self, error: &Error) {
        if !self.aborted.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "connections are closed without an answer; restart the node");
        }
    }

    /// Whether and how the process is asked to end; can be waited on.
    pub fn stopping(&self) -> watch::Receiver<Stopping> {
        self.stopping.subscribe()
    }

    /// Whether the node stops.
    pub fn stops(&self) -> bool {
        *self.stopping.borrow() != Stopping::No
    }

    /// Runs `work` on locked slots (ascending, none twice), again after each cache miss, and commits. For what is not a data command of one batch:
    /// walks over the keyspace, SCAN, FLUSHALL.
    ///
    /// # Errors
    /// What `work` answers, or what the engine meets.
    pub async fn transact<T>(
        &self,
        slots: &[Slot],
        work: impl FnMut(&mut Tx<'_>) -> Result<T, Fail>,
    ) -> Result<(T, Gate), Fail> {
        self.transact_noting(slots, work, |_, _| {}).await
    }

    /// As [`Node::transact`], and tells of each record that was written.
    ///
    /// # Errors
    /// As there.
    pub async fn transact_noting<T>(
        &self,
        slots: &[Slot],
        mut work: impl FnMut(&mut Tx<'_>) -> Result<T, Fail>,
        mut wrote: impl FnMut(Slot, Seq),
    ) -> Result<(T, Gate), Fail> {
        let mut fetched = Fetched::default();
        loop {
            let wanted = {
                if let Some(script) = self.scripts.asides.holder(slots) {
                    execute::free(self, &script).await?;
                }
                let mut tx = self.engine.begin(slots, &fetched);
                match work(&mut tx) {
                    Ok(answer) => return Ok((answer, tx.commit_noting(&mut wrote)?)),
                    Err(Fail::Stop(Stop::Miss)) => tx.abandon(),
                    Err(fail) => return Err(fail),
                }
            };
            execute::fetch(self, wanted, &mut fetched).await?;
        }
    }
}
