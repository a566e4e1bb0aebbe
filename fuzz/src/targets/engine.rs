//! The engine under steps, stops and failures that the input chooses, beside the model of what it promised.
//!
//! An input is read by [`Choices`]: which options, which failures, then step after step. A stop is a kill or a loss of
//! power, between two operations of the disk or in the midst of a step, or of the recovery from the stop before. After
//! each the engine must hold what the model was told; then it goes on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use haypile_engine::error::Error;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::random::Coin;
use haypile_engine::simulation::{
    Choices, Done, FAILURES, Machine, Node, SLOTS, Setup, Step, Stopped, Told, Violation,
};

/// What names of nodes and epochs follow from.
const SEED: u64 = 1;
/// Steps and stops of one input.
const ACTS_MAX: usize = 160;
/// A stop in the midst comes before one of so many operations, if there are as many.
const OPERATIONS: usize = 24;
/// How often in a row a recovery is cut.
const CUTS_MAX: usize = 3;

/// Random choices of all options: nearly any bytes mean something.
pub(super) fn samples() -> Vec<Vec<u8>> {
    let setups = (0..Setup::ALL.len()).map(|setup| u8::try_from(setup).expect("a handful"));
    setups.map(|setup| [&[setup], &random(u64::from(setup))[..]].concat()).collect()
}

fn random(seed: u64) -> Vec<u8> {
    let mut coin = Coin::new(seed);
    (0..14).flat_map(|_| coin.next_u64().to_le_bytes()).collect()
}

pub(super) fn engine(mut bytes: &[u8]) {
    let setup = Setup::ALL[bytes.below(Setup::ALL.len())];
    let mut run = Run { choices: bytes, setup, story: vec![format!("options: {}", setup.name)] };
    if let Err(violation) = run.all() {
        panic!("{}\n{violation}", run.story.join("\n"));
    }
}

struct Run<'a> {
    choices: &'a [u8],
    setup: Setup,
    /// What was done, for whoever looks at what was found.
    story: Vec<String>,
}

/// What a stop leaves.
struct Left {
    disk: MemoryFs,
    told: Told,
    elapsed_ms: u64,
}

impl Left {
    fn of(node: &Node) -> Left {
        Left {
            disk: node.fs().restart(),
            told: lock(&node.told()).clone(),
            elapsed_ms: node.clock().elapsed_ms(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Run<'_> {
    fn all(&mut self) -> Result<(), Violation> {
        let mut node = match self.choices.below(4) {
            0 => self.failing_life()?,
            _ => {
                let mut node = Node::new(self.setup, SEED, self.setup.new_disk(), Machine::Sound);
                started(node.start().err())?;
                node
            }
        };
        self.step(&mut node, &Step::Add((0..SLOTS).collect()))?;
        for _ in 0..ACTS_MAX {
            if !self.choices.more() {
                break;
            }
            let stop = match self.choices.below(12) {
                0 => Some(Left::of(&node)),
                1 => {
                    let seen = self.before_an_operation(&node);
                    self.chosen_step(&mut node)?;
                    lock(&seen).take()
                }
                _ => {
                    self.chosen_step(&mut node)?;
                    None
                }
            };
            if let Some(left) = stop {
                node = self.stop(left, Stopped::Killed)?;
            }
        }
        self.stop(Left::of(&node), Stopped::Killed).map(drop)
    }

    /// A node's first life on a disk that fails some operations; gives the node of the next.
    fn failing_life(&mut self) -> Result<Node, Violation> {
        let disk = self.setup.new_disk();
        // What the page cache makes of a failed sync is as bad as a loss of power.
        let mut promise = Stopped::Killed;
        for _ in 0..=self.choices.below(3) {
            let (number, failure) = (self.choices.below(256), FAILURES[self.choices.below(FAILURES.len())]);
            self.story.push(format!("operation {number} fails: {failure:?}"));
            disk.fail_operation(number as u64, failure);
            if failure.partly.is_some() {
                promise = Stopped::PowerLost;
            }
        }
        let mut node = Node::new(self.setup, SEED, disk, Machine::Broken);
        match node.start() {
            Err(Error::Io { .. } | Error::ReadOnly(_) | Error::Poisoned(_)) => {}
            Err(error) => started(Some(error))?,
            Ok(_) => {
                let mut done = self.step(&mut node, &Step::Add((0..SLOTS).collect()))?;
                for _ in 0..self.choices.below(64) {
                    if let Done::Stopped(error) = done {
                        self.story.push(format!("it has stopped: {error}"));
                        // A stop in order that was refused, by a sync of the folder that an old segment was
                        // removed from, silences nothing.
                        if let Error::Poisoned(_) = error {
                            node.check_silent()?;
                        }
                        break;
                    }
                    done = self.chosen_step(&mut node)?;
                }
            }
        }
        self.stop(Left::of(&node), promise)
    }

    fn chosen_step(&mut self, node: &mut Node) -> Result<Done, Violation> {
        let step = Step::choose(&mut self.choices, &self.setup);
        self.step(node, &step)
    }

    fn step(&mut self, node: &mut Node, step: &Step) -> Result<Done, Violation> {
        self.story.push(step.to_string());
        node.step(step)
    }

    /// Notes what there is before one of the next operations, or within it, if it comes to that.
    fn before_an_operation(&mut self, node: &Node) -> Arc<Mutex<Option<Left>>> {
        let number = node.fs().operations() + self.choices.below(OPERATIONS) as u64;
        let torn = self.choices.below(2) == 0;
        self.story
            .push(format!("to be stopped {} operation {number}", if torn { "within" } else { "before" }));
        let seen: Arc<Mutex<Option<Left>>> = Arc::default();
        let (sink, told, clock) = (Arc::clone(&seen), node.told(), node.clock());
        node.fs().watch(move |step| {
            if step.operation().number == number {
                let whole = || step.before();
                let disk = if torn { step.torn(number).unwrap_or_else(whole) } else { whole() };
                let left = Left { disk, told: lock(&told).clone(), elapsed_ms: clock.elapsed_ms() };
                *lock(&sink) = Some(left);
            }
        });
        seen
    }

    /// Kills the node or takes its power, starts it again, perhaps in vain, and holds it to what was promised.
    fn stop(&mut self, mut left: Left, mut promise: Stopped) -> Result<Node, Violation> {
        for cut in 0..=CUTS_MAX {
            let disk = match self.choices.below(2) {
                0 => left.disk.restart(),
                _ => {
                    promise = Stopped::PowerLost;
                    left.disk.crash(self.choices.below(256) as u64)
                }
            };
            self.story.push(format!("stopped, what was promised must be there after: {promise:?}"));
            let mut node = Node::after_stop(self.setup, SEED, disk, left.told.clone(), left.elapsed_ms);
            let told = left.told;
            let seen =
                (cut < CUTS_MAX && self.choices.below(4) == 0).then(|| self.before_an_operation(&node));
            node.recover(promise)?;
            match seen.and_then(|seen| lock(&seen).take()) {
                // What the recovery has learned died with it, but for how often there was a start.
                Some(inner) => left = Left { told: Told { starts: inner.told.starts, ..told }, ..inner },
                None => return Ok(node),
            }
        }
        unreachable!("the last recovery is not cut")
    }
}

fn started(error: Option<Error>) -> Result<(), Violation> {
    error.map_or(Ok(()), |error| Err(Violation::new(format!("an empty folder does not open: {error}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_lies_is_convicted() {
        // The canary: if a lost write passed here, no other run would prove anything.
        let convicted = (0..100).any(|seed| {
            let choices = random(seed);
            Run { choices: &choices, setup: Setup::CANARY, story: Vec::new() }.all().is_err()
        });
        assert!(convicted);
    }
}
