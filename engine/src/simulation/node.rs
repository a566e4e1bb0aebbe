//! An engine on a simulated disk, the steps done to it, and the model that is told of each.

use std::io::ErrorKind;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::checkpoint::Place;
use super::clock::SimClock;
use super::inspect;
use super::model::{Content, Model, Stopped, after, is_seen_as};
use super::setup::{Besides, Setup};
use super::slots::Slots;
use super::violation::Violation;
use super::workload::{Change, NUMBER, SLOTS, Step, Work, key, slot};
use crate::background::Job;
use crate::clock::{Clock, TimeMs};
use crate::engine::{Engine, Fetched, Gate, Opened, Options, SyncMode};
use crate::error::{Error, Result};
use crate::fs::memory::MemoryFs;
use crate::log::LogState;
use crate::slot::Role;
use crate::tx::{Read, Stop, Tx};
use crate::types::Slot;
use crate::value::Value;

/// The folder of the engine.
pub const DIR: &str = "/haypile";

/// The model and where the story is, shared with whoever watches the disk.
#[derive(Clone, Default)]
pub struct Told {
    /// What the engine has promised.
    pub model: Model,
    /// Which step is being done.
    pub step: usize,
    /// How often the node was started: each start draws other names.
    pub starts: u64,
    /// What may be where checkpoints are made.
    pub place: Place,
}

/// Whether anything may fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Machine {
    /// Nothing does: every error is a fault of the engine.
    Sound,
    /// One failure was asked for.
    Failing,
    /// Several were.
    Broken,
}

/// How a step went.
#[derive(Clone, Debug)]
pub enum Done {
    /// As asked.
    Yes,
    /// Refused, and nothing has changed.
    Refused(Error),
    /// The engine acknowledges nothing any more (`Poisoned`), or it could neither stop in order nor start.
    Stopped(Error),
}

/// What a reply tells of.
#[derive(Clone, Copy)]
struct Telling {
    /// The last event.
    event: u64,
    /// A slot in which something was not seen because it had expired, and when the last of it had.
    hidden: Option<(usize, TimeMs)>,
}

/// See the file's head.
pub struct Node {
    setup: Setup,
    seed: u64,
    fs: MemoryFs,
    clock: Arc<SimClock>,
    told: Arc<Mutex<Told>>,
    /// `None` after a start that failed.
    engine: Option<Arc<Engine>>,
    /// Replies that have not left, each with the last event that it tells of.
    gates: Vec<(Telling, Gate)>,
    /// By which bound they leave.
    mode: SyncMode,
    machine: Machine,
}

impl Node {
    /// A node that was not started yet.
    #[must_use]
    pub fn new(setup: Setup, seed: u64, fs: MemoryFs, machine: Machine) -> Node {
        Node {
            setup,
            seed,
            fs,
            clock: Arc::default(),
            told: Arc::default(),
            engine: None,
            gates: Vec::new(),
            mode: setup.sync,
            machine,
        }
    }

    /// The node's next start after a stop, on what the stop left. `told` is what the engine had promised then, and
    /// `elapsed_ms` what the clock showed.
    #[must_use]
    pub fn after_stop(setup: Setup, seed: u64, fs: MemoryFs, told: Told, elapsed_ms: u64) -> Node {
        let clock = Arc::new(SimClock::at(elapsed_ms + 1));
        let told = Arc::new(Mutex::new(told));
        Node { clock, told, ..Node::new(setup, seed, fs, Machine::Sound) }
    }

    /// A failure was asked for: not every error is a fault of the engine.
    pub fn expect_failure(&mut self) {
        self.machine = Machine::Failing;
    }

    /// The disk.
    #[must_use]
    pub fn fs(&self) -> &MemoryFs {
        &self.fs
    }

    /// What the model was told, for whoever watches the disk.
    #[must_use]
    pub fn told(&self) -> Arc<Mutex<Told>> {
        Arc::clone(&self.told)
    }

    /// The node's clock.
    #[must_use]
    pub fn clock(&self) -> Arc<SimClock> {
        Arc::clone(&self.clock)
    }

    pub(super) fn model(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("steps are done to a node that was started")
    }

    pub(super) fn machine(&self) -> Machine {
        self.machine
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// The engine's options, for a start that draws its names from `seed`.
    pub(super) fn options(&self, seed: u64) -> Options {
        self.setup.options(seed)
    }

    /// Starts the engine.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn start(&mut self) -> Result<Opened> {
        let starts = {
            let mut told = self.model();
            told.starts += 1;
            told.starts
        };
        let seed = self.seed ^ starts.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if starts > 1 {
            self.clock.turn_back(seed, self.setup.besides == Besides::Expiry);
        }
        let options = self.options(seed);
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let fs = Arc::new(self.fs.clone());
        let (engine, opened) = Engine::open(fs, std::path::Path::new(DIR), clock, options)?;
        self.engine = Some(Arc::new(engine));
        self.mode = self.setup.sync;
        Ok(opened)
    }

    /// Starts the engine; once more with room, where a full disk leaves none for a start.
    fn start_with_room(&mut self) -> Result<Opened> {
        match self.start() {
            Err(error) if self.fs.is_limited() && is_want_of_room(&error) => {
                self.fs.set_capacity(None);
                self.start()
            }
            started => started,
        }
    }

    /// Starts the engine after a stop, and holds it to what was promised.
    ///
    /// # Errors
    /// If it does not start, or a promise is broken.
    pub fn recover(&mut self, stopped: Stopped) -> Result<(), Violation> {
        if let Err(error) = self.start_with_room() {
            return Err(Violation::new(format!("the engine does not start: {error}")));
        }
        self.check(stopped)
    }

    /// Holds the engine, just started, to what was promised.
    ///
    /// # Errors
    /// A promise that is broken.
    pub fn check(&mut self, stopped: Stopped) -> Result<(), Violation> {
        let engine = self.engine();
        // A read that hides what has expired is refused where the log has stopped: the next start is looked at.
        let has_stopped = || matches!(engine.log().state(), LogState::Poisoned(_));
        let may_refuse = || self.machine != Machine::Sound && has_stopped();
        let found = (0..SLOTS).map(|index| inspect::read(engine, index));
        let found = match found.collect::<Result<Vec<_>, Violation>>() {
            Err(violation) if violation.what.contains("can't be read") && may_refuse() => return Ok(()),
            found => found?,
        };
        inspect::check_counts(engine, &found)?;
        inspect::check_files(engine, &self.fs)?;
        self.check_place()?;
        self.model().model.recovered(&found, stopped)
    }

    /// What every slot holds, for a person or a test to compare.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn contents(&self) -> Result<Vec<super::model::State>, Violation> {
        (0..SLOTS).map(|index| inspect::read(self.engine(), index).map(|(state, _)| state)).collect()
    }

    /// Does the steps, until the engine stops.
    ///
    /// # Errors
    /// A promise that is broken.
    pub fn run(&mut self, steps: &[Step]) -> Result<(), Violation> {
        for (number, step) in steps.iter().enumerate() {
            self.model().step = number;
            match self.step(step)? {
                Done::Stopped(Error::Poisoned(_)) => return self.check_silent(),
                Done::Stopped(_) => return Ok(()),
                Done::Yes | Done::Refused(_) => {}
            }
        }
        Ok(())
    }

    /// Does one step.
    ///
    /// # Errors
    /// A promise that is broken.
    pub fn step(&mut self, step: &Step) -> Result<Done, Violation> {
        self.clock.advance(1);
        let done = match step {
            Step::Commit(parts) => self.commit(parts),
            Step::Read(index) => return self.read(*index),
            Step::Write => self.write(),
            Step::Sync => self.sync(),
            Step::Flush(slots) => {
                self.engine().flush(&slots.iter().map(|&index| slot(index)).collect::<Vec<_>>())
            }
            Step::Background(job) => {
                let done = self.engine().step(*job);
                if let (Job::Flush, Ok(false), Machine::Sound) = (job, &done, self.machine) {
                    inspect::check_budgets(self.engine())?;
                }
                done.map(drop)
            }
            Step::Add(slots) => self.slots().add(slots),
            Step::Remove(index) => self.slots().remove(*index),
            Step::Renew { slot: index, during } => {
                self.slots().renew_during(&self.fs, *index, |engine| match during {
                    Work::Flush => engine.flush_all(),
                    Work::Compact => engine.step(Job::Compact).map(drop),
                })
            }
            Step::Wait(ms) => {
                self.clock.advance(*ms);
                Ok(())
            }
            Step::Checkpoint(slots) => match self.checkpoint(slots)? {
                Done::Yes => Ok(()),
                done => return Ok(done),
            },
            Step::Discard => self.discard(),
            Step::Restart => return self.restart(),
            Step::Fill(bytes) => {
                if self.machine == Machine::Failing {
                    self.machine = Machine::Broken;
                }
                self.fs.set_capacity(Some(self.fs.used_bytes() + u64::from(*bytes)));
                Ok(())
            }
            Step::MakeRoom => return self.make_room(),
            Step::SyncMode(mode) => {
                self.engine().set_sync_mode(*mode);
                self.mode = *mode;
                Ok(())
            }
        };
        let done = self.judge(done)?;
        self.let_replies_leave();
        let waits = match (step, self.mode) {
            (Step::Write, SyncMode::EverySec | SyncMode::No) | (Step::Sync, _) => !self.gates.is_empty(),
            _ => false,
        };
        if waits && matches!(done, Done::Yes) {
            return Err(Violation::new("a reply waits although its bound is reached"));
        }
        Ok(done)
    }

    /// The disk has room again: so has the engine, and it takes writes.
    fn make_room(&mut self) -> Result<Done, Violation> {
        self.fs.set_capacity(None);
        let prepared = self.engine().step(Job::Prepare).map(drop);
        let prepared = self.judge(prepared)?;
        let state = self.engine().log().state();
        if matches!(prepared, Done::Yes) && state != LogState::Open {
            return Err(Violation::new(format!("there is room again, and the log takes nothing: {state:?}")));
        }
        Ok(prepared)
    }

    /// What an error means: on a sound machine there is none, but that a full disk is full.
    pub(super) fn judge(&self, done: Result<()>) -> Result<Done, Violation> {
        match done {
            Ok(()) => Ok(Done::Yes),
            Err(error) if self.fs.is_limited() && is_want_of_room(&error) => Ok(Done::Refused(error)),
            Err(error @ (Error::Corrupt { .. } | Error::Unusable { .. } | Error::Limit(_))) => {
                Err(Violation::new(format!("the engine can't go on: {error}")))
            }
            Err(error) if self.machine == Machine::Sound => {
                Err(Violation::new(format!("an error on a sound machine: {error}")))
            }
            Err(error @ Error::Poisoned(_)) => Ok(Done::Stopped(error)),
            Err(error) => Ok(Done::Refused(error)),
        }
    }

    /// Polls every reply that waits. One that leaves is a promise.
    fn let_replies_leave(&mut self) {
        let mut left = Vec::new();
        for (telling, gate) in std::mem::take(&mut self.gates) {
            let mut waiting = pin!(self.engine().reached(gate));
            match waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => left.push((telling, gate)),
                Poll::Ready(Ok(())) => {
                    let told = &mut *self.model();
                    let stop = match self.mode {
                        SyncMode::Always => Stopped::PowerLost,
                        SyncMode::EverySec | SyncMode::No => Stopped::Killed,
                    };
                    told.model.survives(stop, telling.event);
                    if let Some((index, expiry)) = telling.hidden {
                        told.model.hid(index, expiry, telling.event, stop);
                    }
                }
                Poll::Ready(Err(_)) => {}
            }
        }
        self.gates = left;
    }

    fn write(&self) -> Result<()> {
        self.engine().write()?;
        let told = &mut *self.model();
        told.model.survives(Stopped::Killed, told.model.events());
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.write()?;
        self.engine().step(Job::Sync)?;
        let told = &mut *self.model();
        told.model.survives_all();
        Ok(())
    }

    pub(super) fn is_there(&self, index: usize) -> bool {
        self.model().model.content(index).is_some()
    }

    fn commit(&mut self, parts: &[(usize, Vec<Change>)]) -> Result<()> {
        let parts: Vec<_> = parts.iter().filter(|(index, _)| self.is_there(*index)).collect();
        if parts.is_empty() {
            return Ok(());
        }
        let (number, before) = {
            let told = self.model();
            let content = |index| told.model.content(index).cloned().expect("only slots that are there");
            let before: Vec<_> = parts.iter().map(|(index, _)| content(*index)).collect();
            (told.model.events() + 1, before)
        };
        let slots: Vec<Slot> = parts.iter().map(|(index, _)| slot(*index)).collect();
        let (states, gate) = transact(self.engine(), &slots, |tx| {
            let mut states: Vec<(usize, Content)> = Vec::with_capacity(parts.len());
            for ((index, changes), before) in parts.iter().zip(&before) {
                let now = tx.now(slot(*index));
                changes.iter().try_for_each(|change| apply(tx, *index, change))?;
                let said = Value::whole(0, 0, number.to_string());
                tx.put(key(*index, NUMBER), &said)?;
                states.push((*index, after(before, changes, number, now)));
            }
            Ok(states)
        })?;
        self.model().model.committed(states);
        self.gates.push((Telling { event: number, hidden: None }, gate));
        Ok(())
    }

    /// Reads a slot; its reply is a promise too.
    fn read(&mut self, index: usize) -> Result<Done, Violation> {
        if !self.is_there(index) {
            return Ok(Done::Yes);
        }
        let ((found, now), gate) = inspect::read_with_gate(self.engine(), index)?;
        let told = self.model().clone();
        if !is_seen_as(&told.model.content(index).cloned(), &found, now) {
            return Err(Violation::new(format!(
                "slot {} reads as {}, written was {}",
                slot(index),
                super::model::Shown(&found),
                super::model::Shown(&told.model.content(index).cloned()),
            )));
        }
        // Where a full log has no room for that, its reader is answered without a promise.
        let is_full = matches!(self.engine().log().state(), LogState::ReadOnly(_));
        let kept = self.engine().lock(slot(index)).kept_time;
        let hidden = told.model.last_hidden(index, now).filter(|expiry| !is_full || *expiry <= kept);
        let hidden = hidden.map(|expiry| (index, expiry));
        self.gates.push((Telling { event: told.model.last_event(index), hidden }, gate));
        self.let_replies_leave();
        Ok(Done::Yes)
    }

    /// The slots, for whoever changes which are there.
    fn slots(&self) -> Slots {
        let engine = self.engine.as_ref().expect("steps are done to a node that was started");
        Slots::of(Arc::clone(engine), Arc::clone(&self.told))
    }

    fn restart(&mut self) -> Result<Done, Violation> {
        let closed = self.judge(self.engine().close())?;
        self.let_replies_leave();
        match closed {
            Done::Yes => self.model().model.survives_all(),
            // A node that can't stop in order is killed; on a full disk it starts again.
            Done::Refused(_) if self.machine == Machine::Sound => {
                self.gates.clear();
                self.engine = None;
                return self.recover(Stopped::Killed).map(|()| Done::Yes);
            }
            Done::Refused(error) => return Ok(Done::Stopped(error)),
            Done::Stopped(_) => return Ok(closed),
        }
        self.gates.clear();
        self.engine = None;
        match self.start_with_room() {
            Ok(opened) if !opened.clean && self.machine == Machine::Sound => {
                Err(Violation::new("the stop was in order, but the start does not know it"))
            }
            Ok(_) => self.check(Stopped::PowerLost).map(|()| Done::Yes),
            Err(error) => match self.judge(Err(error))? {
                Done::Refused(error) => Ok(Done::Stopped(error)),
                done => Ok(done),
            },
        }
    }

    /// A node that has stopped acknowledges nothing, whatever is asked of it.
    ///
    /// # Errors
    /// If it does.
    pub fn check_silent(&mut self) -> Result<(), Violation> {
        let Some(engine) = &self.engine else { return Ok(()) };
        if self.gates.iter().any(|(_, gate)| has_left(engine, *gate)) {
            return Err(Violation::new("a reply leaves after the engine has stopped"));
        }
        // The threads of background work learn of it one after another, each at its next step.
        for job in [Job::Compact, Job::Expire, Job::Prepare, Job::Flush, Job::Sync] {
            let _refused = engine.step(job);
        }
        let there: Vec<usize> = (0..SLOTS).filter(|&index| self.is_there(index)).collect();
        for index in there {
            if engine.role(slot(index)) != Role::Master {
                continue;
            }
            let probe = transact(engine, &[slot(index)], |tx| {
                tx.put(key(index, NUMBER), &Value::whole(0, 0, "probe"))
            });
            let Ok((_, gate)) = probe else { continue };
            let written = engine.write();
            let synced = engine.step(Job::Sync);
            if has_left(engine, gate) {
                let what = format!(
                    "a write is acknowledged after the engine has stopped (write: {}, sync: {})",
                    written.map_or_else(|error| error.to_string(), |()| "done".to_owned()),
                    synced.map_or_else(|error| error.to_string(), |_| "done".to_owned()),
                );
                return Err(Violation::new(what));
            }
        }
        Ok(())
    }
}

/// Whether something is refused because the disk is full.
fn is_want_of_room(error: &Error) -> bool {
    match error {
        Error::ReadOnly(_) => true,
        Error::Io { kind, .. } => *kind == ErrorKind::StorageFull,
        Error::Unusable { why, .. } => why.contains("the disk is full: make room"),
        _ => false,
    }
}

fn has_left(engine: &Engine, gate: Gate) -> bool {
    let mut waiting = pin!(engine.reached(gate));
    matches!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())))
}

/// Runs `work` on locked slots, again after each miss, and commits.
///
/// # Errors
/// What the engine meets.
pub fn transact<T>(
    engine: &Engine,
    slots: &[Slot],
    mut work: impl FnMut(&mut Tx<'_>) -> Read<T>,
) -> Result<(T, Gate)> {
    let mut fetched = Fetched::default();
    loop {
        let wanted = {
            let mut tx = engine.begin(slots, &fetched);
            match work(&mut tx) {
                Ok(answer) => return tx.commit().map(|gate| (answer, gate)),
                Err(Stop::Miss) => tx.abandon(),
                Err(Stop::Failed(error)) => return Err(error),
            }
        };
        engine.fetch(wanted, &mut fetched)?;
    }
}

fn apply(tx: &mut Tx<'_>, index: usize, change: &Change) -> Read<()> {
    match *change {
        Change::Put { key: number, payload, expires_in_ms } => {
            let now = tx.now(slot(index));
            let expiry = expires_in_ms.map(|ms| TimeMs(now.0 + u64::from(ms)));
            tx.put(key(index, number), &Value { expiry, ..Value::whole(0, 0, payload.bytes()) })
        }
        Change::PutElement { key: number, element, payload } => {
            let key = key(index, number);
            let generation = match tx.get(key)?.and_then(|value| value.generation) {
                Some(generation) => generation,
                None => {
                    let generation = tx.next_generation(key);
                    let header = Value { generation: Some(generation), ..Value::whole(1, 0, "") };
                    tx.put(key, &header)?;
                    generation
                }
            };
            tx.put_element(key, generation, &[element], payload.bytes());
            Ok(())
        }
        Change::DeleteElement { key: number, element } => {
            let key = key(index, number);
            if let Some(generation) = tx.get(key)?.and_then(|value| value.generation) {
                tx.delete_element(key, generation, &[element]);
            }
            Ok(())
        }
        Change::Delete { key: number } => tx.delete(key(index, number)).map(drop),
        Change::Clear => {
            tx.clear(slot(index));
            Ok(())
        }
    }
}
