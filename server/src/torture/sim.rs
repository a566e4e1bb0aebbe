//! `haypile torture --sim`: the engine alone on a simulated disk, stopped at every operation, thousands of times a second.
//!
//! No process, no socket, no real disk: what is found repeats exactly, from a seed, a set of options and a cut.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use haypile_engine::simulation::{Case, Found, Setup, Tally, Workload, shrink};

use crate::files::replace_text;
use crate::screen::{Watch, number};
use crate::serve::real_fs;

use super::report::{Progress, quoted};

/// How long a story is made shorter at most.
const SHRINK_TIME: Duration = Duration::from_secs(60);
/// Nobody's promise was broken; one was; it could not be tried.
const STATUSES: [u8; 3] = [0, 1, 2];

/// What can be chosen.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The first seed; each workload has the next one.
    pub seed: u64,
    /// How long it runs.
    pub time: Duration,
    /// Only this set of options.
    pub setup: Option<Setup>,
    /// Only this case.
    pub case: Option<Case>,
    /// A file for the result.
    pub json: Option<PathBuf>,
}

/// Tries until the time is over or a promise is broken, and tells of it. The process's exit status.
#[must_use]
pub fn run_sim(options: &Options) -> ExitCode {
    // A panic of the engine is told as the violation that it is.
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let verdict = match &options.case {
        Some(case) => replay(case),
        None => explore(options),
    };
    std::panic::set_hook(print);
    let Some(path) = &options.json else { return ExitCode::from(verdict.status()) };
    match replace_text(&*real_fs(), path, &verdict.json()) {
        Ok(()) => ExitCode::from(verdict.status()),
        Err(why) => {
            eprintln!("haypile: {why}");
            ExitCode::from(STATUSES[2])
        }
    }
}

/// What came of it.
struct Verdict {
    tally: Tally,
    took: Duration,
    found: Option<Box<Found>>,
}

fn replay(case: &Case) -> Verdict {
    let clock = Watch::start();
    let found = Workload::of(case.seed, case.setup).replay(&case.cuts).err();
    match &found {
        Some(found) => println!("{}", found.violation),
        None => println!("{case}: every promise is kept"),
    }
    Verdict { tally: Tally::default(), took: clock.elapsed(), found }
}

fn explore(options: &Options) -> Verdict {
    let clock = Watch::start();
    let mut tally = Tally::default();
    let mut progress = Progress::new();
    let mut found = None;
    let mut count = 0_usize;
    println!("seed {}, {} s", options.seed, options.time.as_secs());
    while found.is_none() && clock.elapsed() < options.time {
        let setup = options.setup.unwrap_or(Setup::ALL[count % Setup::ALL.len()]);
        let seed = options.seed.wrapping_add(count as u64);
        count += 1;
        let workload = Workload::of(seed, setup);
        let mut go_on = |tally: &Tally| {
            progress.tell(|| format!("{} seed {seed} {}", line(tally, clock.elapsed()), setup.name));
            clock.elapsed() < options.time
        };
        found = workload.explore(&mut tally, &mut go_on).err().map(|found| (workload, found));
    }
    let took = clock.elapsed();
    progress.end();
    let found = found.map(|(workload, found)| tell(&workload, found));
    print!("{}", summary(&tally, took));
    Verdict { tally, took, found }
}

/// Tells of a broken promise: what repeats it, and a short story of it.
fn tell(workload: &Workload, found: Box<Found>) -> Box<Found> {
    println!(
        "{}\n\nIt is shown again by\n  haypile torture --sim --case {}\n",
        found.violation.what, found.case
    );
    println!("looking for a shorter story ...");
    let clock = Watch::start();
    let (shorter, why) = shrink(workload, found.clone(), &mut || clock.elapsed() < SHRINK_TIME);
    println!(
        "{} of {} steps are enough ({} {}):\n{}\n",
        shorter.steps.len(),
        workload.steps.len(),
        why.case.setup.name,
        why.case.cuts.iter().map(|cut| format!("/{cut}")).collect::<String>(),
        why.violation
    );
    found
}

fn line(tally: &Tally, took: Duration) -> String {
    format!(
        "{:4} s  {:>9} cycles  {:>6} a second  {:>4} workloads",
        took.as_secs(),
        number(tally.cycles),
        number(per_second(tally, took)),
        tally.workloads
    )
}

fn per_second(tally: &Tally, took: Duration) -> u64 {
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
    tally.cycles.saturating_mul(1000) / ms
}

fn summary(tally: &Tally, took: Duration) -> String {
    let rows = [
        ("workloads", tally.workloads),
        ("operations cut", tally.points),
        ("operations failed", tally.failures),
        ("killed between operations", tally.kills),
        ("killed within a write", tally.torn),
        ("power lost", tally.power),
        ("recoveries cut", tally.recoveries),
        ("crash-and-recover cycles", tally.cycles),
        ("cycles a second", per_second(tally, took)),
    ];
    let line = |(what, count): (&str, u64)| format!("  {what:26}{:>12}\n", number(count));
    rows.into_iter().map(line).collect()
}

impl Verdict {
    fn status(&self) -> u8 {
        if self.found.is_some() { STATUSES[1] } else { STATUSES[0] }
    }

    fn json(&self) -> String {
        let Tally { workloads, points, cycles, kills, torn, power, failures, recoveries } = self.tally;
        let violation = self.found.as_ref().map_or("null".to_owned(), |found| {
            format!(
                "{{\"case\":{},\"what\":{}}}",
                quoted(&found.case.to_string()),
                quoted(&found.violation.what)
            )
        });
        format!(
            "{{\"ok\":{},\"seconds\":{:.1},\"cycles\":{cycles},\"cycles_per_second\":{},\
             \"workloads\":{workloads},\"points\":{points},\"kills\":{kills},\"torn\":{torn},\"power\":{power},\
             \"failures\":{failures},\"recoveries\":{recoveries},\"violation\":{violation}}}\n",
            self.found.is_none(),
            self.took.as_secs_f64(),
            per_second(&self.tally, self.took),
        )
    }
}
