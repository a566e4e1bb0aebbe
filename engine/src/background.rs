//! The work behind the writes: syncing, flushing, compacting, preparing segments, letting old log go.
//!
//! Each kind is a function that does one step and says whether there was anything to do ([`Engine::step`]), so
//! that a test decides when it happens. [`Background`] calls them from threads of its own.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::TimeMs;
use crate::engine::{Engine, SyncMode};
use crate::error::{Error, Result};
use crate::log::LogState;
use crate::log::retention::{Decision, Needs, ReplicaNeed, SlotNeed, retain};
use crate::manifest::{Edit, Manifest, NodeMeta, SlotMeta, SlotState};
use crate::pace::TICK;
use crate::planted::{self, Bug};
use crate::slot::Role;
use crate::types::Slot;
use crate::worker::{self, Next, Stop};

/// A replica that said nothing for so long is not waited for any more.
const REPLICA_SILENCE_MS: u64 = 3 * 60 * 60 * 1000;

/// How often the manifest learns how far replicas are. Who follows a slot anew it learns at once.
const REGISTRY_SAVE_INTERVAL: Duration = Duration::from_secs(5);

/// A kind of background work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Job {
    /// Syncs what was written.
    Sync,
    /// Flushes if memory or the log calls for it, and lets log go that nobody needs.
    Flush,
    /// Does one compaction.
    Compact,
    /// Prepares the log's next segment.
    Prepare,
    /// Reclaims some expired keys.
    Expire,
    /// Tells the manifest what it should know soon: new roles, and who follows. Waits for no flush.
    Save,
}

impl Engine {
    /// Does one step of a kind of work. Says whether there was anything to do.
    ///
    /// # Errors
    /// What the step met. `Poisoned` is final; after anything else it can be tried again.
    pub fn step(&self, job: Job) -> Result<bool> {
        match job {
            Job::Sync => self.log().sync_written(),
            Job::Flush => self.flush_step(),
            Job::Compact => self.compact_once(&self.closing),
            Job::Prepare => self.log().prepare_next(self.sync_mode().room()),
            Job::Expire => self.expire_step(),
            Job::Save => self.save_step(),
        }
    }

    fn save_step(&self) -> Result<bool> {
        let saved = self.save_roles()?;
        self.save_registry()?;
        Ok(saved)
    }

    fn flush_step(&self) -> Result<bool> {
        match self.save_step() {
            // What is below may make room.
            Err(Error::ReadOnly(_)) => {}
            saved => drop(saved?),
        }
        let budget = self.options().budget();
        // A piece at a time: what it frees is there for writers that wait before the next begins.
        let mut slots = Vec::new();
        if self.log().live_bytes() > self.log_unflushed_bytes() {
            slots = self.piece_of(self.retention().flush, budget.flush_piece());
        }
        if self.memtable_bytes() >= budget.flush_at() {
            slots.extend(self.largest_slots(budget.flush_piece()));
        }
        slots.sort_unstable();
        slots.dedup();
        if slots.is_empty() {
            self.release_log()?;
            // Whoever read a file that nobody refers to may have let go of it since.
            self.sweep_files()?;
            return Ok(false);
        }
        let bytes = slots.iter().map(|&slot| self.lock(slot).memory_bytes()).sum();
        let result = self.paced(bytes, || {
            if !self.must_shrink_log() {
                self.wait_for_compaction(&slots);
            }
            self.flush(&slots)
        });
        self.set_trouble(result.as_ref().err().cloned());
        result.map(|()| true)
    }

    fn retention(&self) -> Decision {
        // Looked at before the slots: one that is added meanwhile has its records after all of these.
        let segments = self.log().segments();
        let silent = TimeMs(self.clock().wall().0.saturating_sub(REPLICA_SILENCE_MS));
        let mut registry = self.registry();
        for node in registry.silent_since(silent) {
            registry.forget(node);
            tracing::info!(%node, "a replica has been silent for too long: no log is kept for it any more");
        }
        let replicas = registry
            .iter()
            .map(|(node, replica)| ReplicaNeed { replica: *node, acked: replica.acked.clone() });
        let replicas = replicas.collect();
        drop(registry);
        let need = |slot| {
            let cell = self.lock(slot);
            let flushed = match cell.frozen.first() {
                Some(frozen) if planted::is(Bug::EarlyLogRelease) => frozen.last_seq,
                _ => cell.flushed_seq,
            };
            let need = SlotNeed { flushed, base: cell.base_lsn };
            (cell.role != Role::Absent).then_some((slot, need))
        };
        let needs = Needs {
            slots: Slot::all().filter_map(need).collect(),
            replicas,
            unflushed_bytes_max: self.log_unflushed_bytes(),
            replica_bytes_max: self.options().log_retain_bytes,
        };
        retain(&segments, &needs)
    }

    /// Bytes of log that may wait for a flush now.
    fn log_unflushed_bytes(&self) -> u64 {
        if self.must_shrink_log() { 0 } else { self.options().log_unflushed_bytes() }
    }

    /// The log has no room to go on, but files have: what is in files holds no log, and that may make the room.
    pub(crate) fn must_shrink_log(&self) -> bool {
        // Not where the files would not fit either: each try would fill the device to the last byte.
        let fits = || {
            let free = self.fs().free_bytes(&self.folders().data).unwrap_or(0);
            free > self.memtable_bytes() as u64
        };
        matches!(self.log().state(), LogState::ReadOnly(_)) && fits()
    }

    /// Makes durable now and then what replicas are known and how far they are.
    fn save_registry(&self) -> Result<()> {
        let mut saved = self.registry_saved();
        let now = self.clock().monotonic();
        if now < *saved + REGISTRY_SAVE_INTERVAL && !self.registry().has_news() {
            return Ok(());
        }
        *saved = now;
        let edits = self.registry().changes();
        if edits.is_empty() {
            return Ok(());
        }
        let applied = self.apply(&mut self.manifest(), &edits);
        applied.inspect_err(|_| self.registry().changes_failed(&edits))
    }

    /// Lets go of log segments that neither a slot nor a replica needs.
    pub(crate) fn release_log(&self) -> Result<()> {
        let decision = self.retention();
        for &(node, slot) in &decision.release {
            self.registry().unpin(node, slot);
            tracing::warn!(%node, %slot, "the log that a replica lacks is over its budget: it will take a copy");
        }
        let mut manifest = self.manifest();
        let node = manifest.state().node;
        if self.log().segments().len() < 2 {
            return Ok(());
        }
        if planted::is(Bug::LogRemovedFirst) {
            self.log().remove_below(decision.remove_below)?;
        }
        // First the word that they are not needed, then they go: recovery misses no segment that it should have. Where the
        // word was given before, a stop or an error may have left some of them.
        if decision.remove_below > node.log_start {
            let mut edits = vec![Edit::Node(NodeMeta { log_start: decision.remove_below, ..node })];
            edits.extend(self.times_of_the_log(&manifest));
            self.apply(&mut manifest, &edits)?;
        }
        drop(manifest);
        self.log().remove_below(decision.remove_below).map(drop)
    }

    /// The times that slots have by the log's word only: the manifest has to know them before log goes.
    fn times_of_the_log(&self, manifest: &Manifest) -> Vec<Edit> {
        let slots = manifest.state().slots.iter().filter(|(_, entry)| entry.meta.state != SlotState::Absent);
        let later = slots.filter_map(|(&slot, entry)| {
            let time = self.lock(slot).kept_time;
            (time > entry.meta.time)
                .then(|| Edit::Slot(slot, Box::new(SlotMeta { time, ..entry.meta.clone() })))
        });
        later.collect()
    }
}

/// The threads that do an engine's background work, until this is dropped.
pub struct Background {
    engine: Arc<Engine>,
    stop: Arc<Stop>,
    threads: Vec<JoinHandle<()>>,
}

impl Background {
    /// Starts the threads.
    ///
    /// # Errors
    /// If the operating system gives none.
    pub fn start(engine: &Arc<Engine>) -> std::io::Result<Background> {
        let stop = Arc::new(Stop::default());
        let mut all = Background { engine: Arc::clone(engine), stop: Arc::clone(&stop), threads: Vec::new() };
        for (name, job) in [
            ("sync", Job::Sync),
            ("flush", Job::Flush),
            ("compact", Job::Compact),
            ("prepare", Job::Prepare),
            ("expire", Job::Expire),
            ("save", Job::Save),
        ] {
            let (engine, stop) = (Arc::clone(engine), Arc::clone(&stop));
            let thread = std::thread::Builder::new().name(format!("haypile-{name}"));
            all.threads.push(thread.spawn(move || run(&engine, job, &stop))?);
        }
        let thread = std::thread::Builder::new().name("haypile-pace".to_owned());
        let (engine, stop) = (Arc::clone(engine), Arc::clone(&stop));
        all.threads.push(thread.spawn(move || pace(&engine, &stop))?);
        Ok(all)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let engine = &self.engine;
        let paced = &engine.pace().crowded;
        self.stop.raise(&[&engine.pressure, &engine.unsynced, &engine.segment_changed, paced]);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a background thread panicked");
            }
        }
    }
}

/// How long a kind of work rests when nobody wakes it.
fn rest(engine: &Engine, job: Job) -> Duration {
    match job {
        Job::Sync if engine.sync_mode() == SyncMode::No => Duration::from_secs(3600),
        Job::Sync => Duration::from_secs(1),
        Job::Flush | Job::Prepare | Job::Expire | Job::Save => Duration::from_millis(100),
        Job::Compact => Duration::from_millis(250),
    }
}

/// Lets writers that are slowed go on, tick by tick, while memory is short.
pub(crate) fn pace(engine: &Engine, stop: &Stop) {
    engine.pace().set_running(true);
    worker::work(stop, &engine.pace().crowded, || {
        Next::Rest(if engine.tick() { TICK } else { Duration::from_secs(3600) })
    });
    engine.pace().set_running(false);
}

fn run(engine: &Engine, job: Job, stop: &Stop) {
    let mut failed: Option<String> = None;
    let signal = match job {
        Job::Sync => &engine.unsynced,
        Job::Flush => &engine.pressure,
        Job::Prepare => &engine.segment_changed,
        Job::Compact | Job::Expire | Job::Save => &stop.signal,
    };
    worker::work(stop, signal, || {
        match engine.step(job) {
            Ok(did) => {
                if failed.take().is_some() {
                    tracing::info!(?job, "works again");
                }
                // In `everysec` one sync a second is the promise; more come only as the log calls for them.
                if did && (job != Job::Sync || engine.sync_mode() == SyncMode::Always) {
                    return Next::Again;
                }
            }
            Err(Error::Poisoned(why)) => {
                tracing::error!(?job, why, "stopped");
                return Next::End;
            }
            Err(error) => {
                let text = error.to_string();
                if failed.as_ref() != Some(&text) {
                    tracing::error!(?job, %error, "failed, will be tried again");
                }
                failed = Some(text);
            }
        }
        Next::Rest(rest(engine, job))
    });
}
