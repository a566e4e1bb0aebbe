//! The loops: every operation of a workload cut and failed, every operation of some recoveries cut too.
//!
//! A workload runs once. Before each of its operations the disk is copied, which costs next to nothing, together with
//! what the model had been told at that moment; each copy is then a stop to recover from, several times over. Only
//! failures need a run of their own.

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use super::case::{Case, Cut};
use super::model::{State, Stopped};
use super::node::{Machine, Node, Told};
use super::setup::Setup;
use super::violation::Violation;
use super::workload::Step;
use crate::error::Error;
use crate::fs::memory::{Action, Failure, MemoryFs, Operation};
use crate::random::Coin;

/// What was done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Workloads begun.
    pub workloads: u64,
    /// Operations of workloads that were cut.
    pub points: u64,
    /// Recoveries that were checked, all together.
    pub cycles: u64,
    /// Stops by a kill between two operations.
    pub kills: u64,
    /// Stops by a kill within a write.
    pub torn: u64,
    /// Stops by a loss of power.
    pub power: u64,
    /// Operations that were failed.
    pub failures: u64,
    /// Recoveries that were cut themselves.
    pub recoveries: u64,
}

/// A broken promise and the case that shows it.
#[derive(Clone, Debug)]
pub struct Found {
    /// What repeats it.
    pub case: Case,
    /// What it is.
    pub violation: Violation,
}

/// Says whether to go on; asked after each operation that was cut or failed.
pub type GoOn<'a> = &'a mut dyn FnMut(&Tally) -> bool;

/// How many steps are done after a recovery, before the next stop.
const STEPS_AFTER: usize = 8;
/// One of so many operations has the recovery from a stop there cut too.
const RECOVERIES_OF: u64 = 16;
/// How many losses of power there are at each operation, each with another fate of what was not synced.
const POWER_SEEDS: u64 = 2;
/// How operations fail.
pub const FAILURES: [Failure; 4] = [
    Failure { kind: ErrorKind::Other, partly: None },
    Failure { kind: ErrorKind::StorageFull, partly: None },
    Failure { kind: ErrorKind::Other, partly: Some(1) },
    Failure { kind: ErrorKind::StorageFull, partly: Some(2) },
];

/// A stop: the disk before an operation, and what the model had been told.
struct Point {
    number: u64,
    /// `None` after the last.
    operation: Option<Operation>,
    disk: MemoryFs,
    torn: Option<MemoryFs>,
    told: Told,
    elapsed_ms: u64,
}

/// A workload that can be cut: the steps of a seed, or some of them.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The seed that everything else follows from.
    pub seed: u64,
    /// The options.
    pub setup: Setup,
    /// What is done.
    pub steps: Vec<Step>,
}

impl Workload {
    /// The workload of a seed.
    #[must_use]
    pub fn of(seed: u64, setup: Setup) -> Workload {
        Workload { seed, setup, steps: Step::list(&mut Coin::new(seed), &setup) }
    }

    /// Cuts and fails every operation, as long as `go_on` says so.
    ///
    /// # Errors
    /// The first broken promise.
    pub fn explore(&self, tally: &mut Tally, go_on: GoOn<'_>) -> Result<(), Box<Found>> {
        tally.workloads += 1;
        let points = self.points()?;
        for point in &points {
            self.cut_everyhow(point, tally)?;
            if !go_on(tally) {
                return Ok(());
            }
        }
        for (number, point) in points.iter().enumerate() {
            self.fail(point, FAILURES[number % FAILURES.len()], tally)?;
            if !go_on(tally) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Cuts every operation, as long as `go_on` says so.
    ///
    /// # Errors
    /// The first broken promise.
    pub fn cut_all(&self, tally: &mut Tally, go_on: GoOn<'_>) -> Result<(), Box<Found>> {
        for point in self.points()? {
            self.cut_everyhow(&point, tally)?;
            if !go_on(tally) {
                break;
            }
        }
        Ok(())
    }

    /// Fails every operation in all of these ways, as long as `go_on` says so.
    ///
    /// # Errors
    /// The first broken promise.
    pub fn fail_all(
        &self,
        failures: &[Failure],
        tally: &mut Tally,
        go_on: GoOn<'_>,
    ) -> Result<(), Box<Found>> {
        for point in self.points()? {
            failures.iter().try_for_each(|failure| self.fail(&point, *failure, tally))?;
            if !go_on(tally) {
                break;
            }
        }
        Ok(())
    }

    /// Does once more what these cuts say, and nothing else; tells the story of what is found.
    ///
    /// # Errors
    /// The broken promise.
    pub fn replay(&self, cuts: &[Cut]) -> Result<(), Box<Found>> {
        let tally = &mut Tally::default();
        let Some(first) = cuts.first() else { return self.points().map(drop) };
        let points = self.points()?;
        let Some(point) = points.iter().find(|point| point.number == first.operation()) else {
            return Ok(());
        };
        match (*first, cuts.get(1)) {
            (Cut::Fail(_, failure), _) => self.fail(point, failure, tally),
            (first, None) => self.cut(point, first, tally),
            (first, Some(_)) => self.cut_recovery(point, first, cuts.get(1).copied(), tally),
        }
    }

    /// Runs the workload on a sound machine; gives a stop before each operation, and one at the end.
    fn points(&self) -> Result<Vec<Point>, Box<Found>> {
        let mut node = Node::new(self.setup, self.seed, self.setup.new_disk(), Machine::Sound);
        let points = watch(&node, self.seed);
        let run = guarded(|| {
            let started = node.start();
            started.map_err(|error| Violation::new(format!("an empty folder does not open: {error}")))?;
            node.run(&self.steps)
        });
        run.map_err(|violation| {
            let step = lock(&node.told()).step;
            self.found(&[], violation, step, "")
        })?;
        let mut points = std::mem::take(&mut *lock(&points));
        points.push(Point {
            number: node.fs().operations(),
            operation: None,
            disk: node.fs().restart(),
            torn: None,
            told: lock(&node.told()).clone(),
            elapsed_ms: node.clock().elapsed_ms(),
        });
        Ok(points)
    }

    fn cut_everyhow(&self, point: &Point, tally: &mut Tally) -> Result<(), Box<Found>> {
        tally.points += 1;
        self.cut(point, Cut::Kill(point.number), tally)?;
        if point.torn.is_some() {
            self.cut(point, Cut::Torn(point.number, self.seed), tally)?;
        }
        for seed in 0..POWER_SEEDS {
            self.cut(point, Cut::Power(point.number, seed), tally)?;
        }
        if (point.number ^ self.seed).is_multiple_of(RECOVERIES_OF) {
            self.cut_recovery(point, Cut::Kill(point.number), None, tally)?;
            self.cut_recovery(point, Cut::Power(point.number, 0), None, tally)?;
        }
        Ok(())
    }

    /// What a cut leaves of a disk.
    fn left(&self, point: &Point, cut: Cut, tally: &mut Tally) -> (MemoryFs, Stopped) {
        match cut {
            Cut::Torn(..) => {
                tally.torn += 1;
                (point.torn.as_ref().unwrap_or(&point.disk).restart(), Stopped::Killed)
            }
            Cut::Power(number, seed) => {
                tally.power += 1;
                (point.disk.crash(self.mixed(number, seed)), Stopped::PowerLost)
            }
            Cut::Kill(_) | Cut::Fail(..) => {
                tally.kills += 1;
                (point.disk.restart(), Stopped::Killed)
            }
        }
    }

    fn mixed(&self, number: u64, seed: u64) -> u64 {
        Coin::new(self.seed ^ number.rotate_left(16) ^ seed.rotate_left(48)).next_u64()
    }

    fn cut(&self, point: &Point, cut: Cut, tally: &mut Tally) -> Result<(), Box<Found>> {
        let (disk, stopped) = self.left(point, cut, tally);
        let node = Node::after_stop(self.setup, self.seed, disk, point.told.clone(), point.elapsed_ms);
        self.recover(node, stopped, self.mixed(point.number, 3), tally)
            .map_err(|violation| self.found(&[cut], violation, point.told.step, &point.describe(cut)))
    }

    /// Recovers, goes on for some steps, stops again and recovers again.
    fn recover(
        &self,
        mut node: Node,
        stopped: Stopped,
        seed: u64,
        tally: &mut Tally,
    ) -> Result<(), Violation> {
        tally.cycles += 1;
        guarded(|| node.recover(stopped))?;
        let coin = &mut Coin::new(seed);
        let steps: Vec<Step> = (0..STEPS_AFTER).map(|_| Step::choose(coin, &self.setup)).collect();
        let told = |mut violation: Violation, then: &str| {
            let lines = steps.iter().enumerate().map(|(number, step)| format!("  after {number}: {step}"));
            violation.story.push("recovers, and goes on:".to_owned());
            violation.story.extend(lines);
            violation.story.push(then.to_owned());
            violation
        };
        guarded(|| node.run(&steps)).map_err(|violation| told(violation, ""))?;
        let (disk, stopped, then) = if coin.heads() {
            tally.kills += 1;
            (node.fs().restart(), Stopped::Killed, "is killed again")
        } else {
            tally.power += 1;
            (node.fs().crash(coin.next_u64()), Stopped::PowerLost, "loses power again")
        };
        let (known, elapsed_ms) = (lock(&node.told()).clone(), node.clock().elapsed_ms());
        drop(node);
        tally.cycles += 1;
        let mut node = Node::after_stop(self.setup, self.seed, disk, known, elapsed_ms);
        guarded(|| node.recover(stopped)).map_err(|violation| told(violation, then))
    }

    /// Cuts the recovery from a stop at each of its operations, or only as `second` says. It has to end with the
    /// same state as one that is not cut.
    fn cut_recovery(
        &self,
        point: &Point,
        first: Cut,
        second: Option<Cut>,
        tally: &mut Tally,
    ) -> Result<(), Box<Found>> {
        let (disk, stopped) = self.left(point, first, tally);
        let after =
            |disk| Node::after_stop(self.setup, self.seed, disk, point.told.clone(), point.elapsed_ms);
        let fails = |cuts: &[Cut], violation| {
            let told: Vec<String> = cuts.iter().map(|cut| point.describe(*cut)).collect();
            self.found(cuts, violation, point.told.step, &told.join(", and the recovery: "))
        };
        let mut node = after(disk);
        let points = watch(&node, self.seed);
        let whole = guarded(|| node.recover(stopped).and_then(|()| node.contents()));
        let whole = whole.map_err(|violation| fails(&[first], violation))?;
        tally.cycles += 1;
        drop(node);
        let points = std::mem::take(&mut *lock(&points));
        for inner in &points {
            let all = [Cut::Kill(inner.number), Cut::Power(inner.number, 1)];
            let torn = inner.torn.is_some().then_some(Cut::Torn(inner.number, self.seed));
            for cut in all.into_iter().chain(torn).filter(|cut| second.is_none_or(|only| only == *cut)) {
                tally.recoveries += 1;
                tally.cycles += 1;
                let (disk, again) = self.left(inner, cut, tally);
                let lost = [stopped, again].contains(&Stopped::PowerLost);
                let promise = if lost { Stopped::PowerLost } else { Stopped::Killed };
                let mut node = after(disk);
                let contents = guarded(|| node.recover(promise).and_then(|()| node.contents()));
                let contents = contents.map_err(|violation| fails(&[first, cut], violation))?;
                // What a kill left in memory only may go with the power.
                let must_be_same = stopped == Stopped::PowerLost || again == Stopped::Killed;
                if must_be_same && contents != whole {
                    return Err(fails(&[first, cut], differs(&whole, &contents)));
                }
            }
            let number = inner.number;
            let kind = usize::try_from(number).unwrap_or_default() % FAILURES.len();
            let failed = match second {
                None => Some(FAILURES[kind]),
                Some(Cut::Fail(at, failure)) if at == number => Some(failure),
                Some(_) => None,
            };
            if let Some(failure) = failed {
                let cut = Cut::Fail(number, failure);
                let (disk, _) = self.left(point, first, tally);
                self.fail_recovery(after(disk), stopped, inner, failure, tally)
                    .map_err(|violation| fails(&[first, cut], violation))?;
            }
        }
        Ok(())
    }

    /// Starts after a stop with an operation failed. Whether that start goes on or not, the next one finds what it should.
    fn fail_recovery(
        &self,
        mut node: Node,
        stopped: Stopped,
        point: &Point,
        failure: Failure,
        tally: &mut Tally,
    ) -> Result<(), Violation> {
        let Some(operation) = &point.operation else { return Ok(()) };
        tally.recoveries += 1;
        node.fs().fail_operation(point.number, failure);
        node.expect_failure();
        match node.start() {
            Ok(_) => guarded(|| node.check(stopped))?,
            Err(Error::Io { .. } | Error::ReadOnly(_) | Error::Poisoned(_)) => {}
            Err(Error::Unusable { .. }) if node.fs().is_limited() => {}
            Err(error) => return Err(Violation::new(format!("the engine does not start: {error}"))),
        }
        let forgets = operation.action == Action::Sync && failure.partly.is_some();
        let seed = self.mixed(point.number, 5);
        let (disk, stopped) = match seed.is_multiple_of(2) {
            true => (node.fs().restart(), if forgets { Stopped::PowerLost } else { stopped }),
            false => (node.fs().crash(seed), Stopped::PowerLost),
        };
        let (known, elapsed_ms) = (lock(&node.told()).clone(), node.clock().elapsed_ms());
        drop(node);
        self.recover(Node::after_stop(self.setup, self.seed, disk, known, elapsed_ms), stopped, seed, tally)
    }

    /// Runs the workload with an operation failed; whatever the engine makes of it, nothing that it acknowledged is lost.
    fn fail(&self, point: &Point, failure: Failure, tally: &mut Tally) -> Result<(), Box<Found>> {
        let Some(operation) = &point.operation else { return Ok(()) };
        tally.failures += 1;
        let fs = self.setup.new_disk();
        fs.fail_operation(point.number, failure);
        let mut node = Node::new(self.setup, self.seed, fs, Machine::Failing);
        let run = guarded(|| match node.start() {
            Ok(_) => node.run(&self.steps),
            Err(Error::Io { .. } | Error::ReadOnly(_) | Error::Poisoned(_)) => Ok(()),
            Err(error) => Err(Violation::new(format!("an empty folder does not open: {error}"))),
        });
        let (told, elapsed_ms) = (lock(&node.told()).clone(), node.clock().elapsed_ms());
        let cut = Cut::Fail(point.number, failure);
        let fails = |violation, how: &str| {
            let what = format!("{}; at the end it {how}", point.describe(cut));
            self.found(&[cut], violation, told.step, &what)
        };
        run.map_err(|violation| fails(violation, "runs"))?;
        // Where a sync failed and the bytes read back as they were, a kill is as bad as a loss of power.
        let forgets = operation.action == Action::Sync && failure.partly.is_some();
        let killed = if forgets { Stopped::PowerLost } else { Stopped::Killed };
        let seed = self.mixed(point.number, 4);
        let (kept, lost) = (node.fs().restart(), node.fs().crash(seed));
        drop(node);
        for (disk, stopped, how) in [(kept, killed, "is killed"), (lost, Stopped::PowerLost, "loses power")] {
            let node = Node::after_stop(self.setup, self.seed, disk, told.clone(), elapsed_ms);
            self.recover(node, stopped, seed, tally).map_err(|violation| fails(violation, how))?;
        }
        Ok(())
    }

    /// A violation with its story: the steps until then, the cut, and what came after it.
    fn found(&self, cuts: &[Cut], violation: Violation, step: usize, cut: &str) -> Box<Found> {
        let steps = self.steps.iter().take(step + 1).enumerate();
        let mut story: Vec<String> = steps.map(|(number, step)| format!("step {number}: {step}")).collect();
        if !cut.is_empty() {
            story.push(cut.to_owned());
        }
        story.extend(violation.story.into_iter().filter(|line| !line.is_empty()));
        let case = Case { seed: self.seed, setup: self.setup, cuts: cuts.to_vec() };
        Box::new(Found { case, violation: Violation { what: violation.what, story } })
    }
}

impl Point {
    fn describe(&self, cut: Cut) -> String {
        let number = cut.operation();
        let what = match cut {
            Cut::Kill(_) => "killed before",
            Cut::Torn(..) => "killed within",
            Cut::Power(..) => "power lost before",
            Cut::Fail(..) => "an error in",
        };
        match &self.operation {
            Some(operation) if operation.number == number => {
                format!("{what} operation {number}: {operation}")
            }
            _ => format!("{what} operation {number}"),
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on keeps a stop before each operation of a node's disk.
fn watch(node: &Node, seed: u64) -> Arc<Mutex<Vec<Point>>> {
    let points: Arc<Mutex<Vec<Point>>> = Arc::default();
    let (sink, told, clock) = (Arc::clone(&points), node.told(), node.clock());
    node.fs().watch(move |step| {
        lock(&sink).push(Point {
            number: step.operation().number,
            operation: Some(step.operation().clone()),
            disk: step.before(),
            torn: step.torn(seed ^ step.operation().number),
            told: lock(&told).clone(),
            elapsed_ms: clock.elapsed_ms(),
        });
    });
    points
}

/// A panic is a broken promise too: the engine's own assertions speak by it.
fn guarded<T>(work: impl FnOnce() -> Result<T, Violation>) -> Result<T, Violation> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without a word");
        Err(Violation::new(format!("panicked: {text}")))
    })
}

fn differs(whole: &[State], cut: &[State]) -> Violation {
    use super::model::Shown;
    let pairs = whole.iter().zip(cut).enumerate().filter(|(_, (whole, cut))| whole != cut);
    let told: String = pairs
        .map(|(index, (whole, cut))| {
            let slot = super::workload::slot(index);
            format!("\n    slot {slot}: {}\n      cut: {}", Shown(whole), Shown(cut))
        })
        .collect();
    Violation::new(format!("a recovery that was cut ends otherwise than one that was not:{told}"))
}
