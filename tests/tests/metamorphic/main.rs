//! One list of operations, many engines: with other memory, segments, blocks and durability, with flushes,
//! compactions, restarts, kills, copies and checkpoints in other places, each answers the same as a model made of maps.
//!
//! `HAYPILE_SEED=N cargo test -p haypile-tests --test metamorphic` repeats a list; `HAYPILE_LONG=1` tries many. A
//! failure is shown as the shortest list that was found to fail.

mod list;
mod machine;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use haypile_engine::random::Coin;
use haypile_tests::seeds::seeds;

use list::{Model, Op, operations};
use machine::{Event, Failure, Machine, Setting};

/// Operations of a list.
const OPERATIONS: usize = 220;
/// Sets of options that a list is run under.
const RUNS: u64 = 6;
/// How often a failing list is tried with something left out.
const TRIES_MAX: usize = 1500;

/// Something that is done, or that happens.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    Op(Op),
    Event(Event),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Op(op) => op.fmt(f),
            Step::Event(event) => event.fmt(f),
        }
    }
}

/// One run of a list: the options, and the list with what happens in between.
fn plan(seed: u64, run: u64) -> (Setting, Vec<Step>) {
    // The list follows from the seed alone.
    let list = operations(&mut Coin::new(seed), OPERATIONS);
    let mut coin = Coin::new(seed.wrapping_mul(1000).wrapping_add(run));
    let setting = Setting::choose(run, &mut coin);
    let mut steps = Vec::new();
    for op in list {
        steps.extend(setting.events(&mut coin).into_iter().map(Step::Event));
        steps.push(Step::Op(op));
    }
    (setting, steps)
}

/// Runs it; at the first answer that is not the model's, which.
fn run(setting: &Setting, steps: &[Step]) -> Result<(), Failure> {
    let mut model = Model::default();
    let mut machine = Machine::new(setting)?;
    for (index, step) in steps.iter().enumerate() {
        let failed = |why: Failure| format!("step {index}, {step}: {why}");
        match step {
            Step::Event(event) => machine.happen(event, &model).map_err(failed)?,
            Step::Op(op) => {
                let expected = model.apply(op);
                let answer = machine.apply(op).map_err(failed)?;
                if answer != expected {
                    return Err(failed(format!("answers {answer:.300?}, should be {expected:.300?}")));
                }
                machine.note(&model);
            }
        }
    }
    machine.check_all(&model)
}

/// As [`run`], with a panic as a failure.
fn outcome(setting: &Setting, steps: &[Step]) -> Result<(), Failure> {
    catch_unwind(AssertUnwindSafe(|| run(setting, steps))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

/// Leaves out whatever is not needed for a failure: steps, then changes within them.
fn shrink(setting: &Setting, steps: Vec<Step>) -> Vec<Step> {
    let mut tries = 0;
    let mut still_fails = |fewer: &[Step]| {
        tries += 1;
        tries <= TRIES_MAX && outcome(setting, fewer).is_err()
    };
    let mut steps = drop_steps(steps, &mut still_fails);
    for index in 0..steps.len() {
        let mut at = 0;
        while let Some(smaller) = without_change(&steps[index], at) {
            let mut fewer = steps.clone();
            fewer[index] = smaller;
            if still_fails(&fewer) {
                steps = fewer;
            } else {
                at += 1;
            }
        }
    }
    steps
}

/// A step without one of a commit's changes; `None` if it has none of this number.
fn without_change(step: &Step, number: usize) -> Option<Step> {
    let Step::Op(Op::Commit(parts)) = step else { return None };
    let mut at = number;
    let mut parts = parts.clone();
    for part in &mut parts {
        if at < part.1.len() {
            part.1.remove(at);
            parts.retain(|(_, changes)| !changes.is_empty());
            return Some(Step::Op(Op::Commit(parts)));
        }
        at -= part.1.len();
    }
    None
}

/// Leaves out steps by halves, quarters and so on.
fn drop_steps(mut steps: Vec<Step>, still_fails: &mut dyn FnMut(&[Step]) -> bool) -> Vec<Step> {
    let mut size = steps.len() / 2;
    while size > 0 {
        let before = steps.len();
        let mut at = 0;
        while at < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + size).min(steps.len()));
            if still_fails(&fewer) {
                steps = fewer;
            } else {
                at += size;
            }
        }
        // Once more by single steps for as long as that helps.
        size = if size == 1 && steps.len() < before { 1 } else { size / 2 };
    }
    steps
}

fn report(seed: u64, run: u64, setting: &Setting, steps: &[Step], why: &str) -> String {
    let short = shrink(setting, steps.to_vec());
    let again = outcome(setting, &short).err().unwrap_or_default();
    let lines: Vec<String> = short.iter().map(|step| format!("  {step}")).collect();
    format!(
        "{why}\nrun {run} of the list, under {setting}; {} of {} steps are enough:\n{}\n=> {again}\n\
         HAYPILE_SEED={seed} cargo test -p haypile-tests --test metamorphic",
        short.len(),
        steps.len(),
        lines.join("\n")
    )
}

#[test]
fn one_list_of_operations_has_the_same_answers_under_all_options_and_interruptions() {
    for seed in seeds(5, 2000) {
        for number in 0..RUNS {
            let (setting, steps) = plan(seed, number);
            if let Err(why) = outcome(&setting, &steps) {
                panic!("{}", report(seed, number, &setting, &steps, &why));
            }
        }
    }
}

#[test]
fn a_key_that_vanishes_is_noticed_and_told_in_few_steps() {
    // The canary: a comparison that can't fail, or a shrinker that stops early, would prove nothing.
    let (setting, mut steps) = plan(3, 1);
    outcome(&setting, &steps).expect("the list holds");
    let lies = (0..list::SLOTS).map(|slot| Step::Event(Event::Lie(slot, 0)));
    steps.extend(lies);
    outcome(&setting, &steps).expect_err("a key of each slot is gone");
    let short = shrink(&setting, steps);
    assert!(short.len() <= 4, "{short:?}");
    assert!(short.iter().any(|step| matches!(step, Step::Event(Event::Lie(..)))), "{short:?}");
}
