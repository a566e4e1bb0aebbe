//! Every bug that can be planted (`haypile_engine::planted`) is found by a loop, from the seed that `docs/TESTING.md`
//! records for it; without the bug the same seed finds nothing.
//!
//! `tests/run --only planted` runs it. `HAYPILE_LONG=1` looks for seeds anew, a minute at most for each bug, and prints rows of
//! the table; with `HAYPILE_REWRITE=1` it puts them there. `HAYPILE_PLANTED=NoFolderSync` does only with that bug,
//! `HAYPILE_LOOP=torture` only with that loop, `HAYPILE_FIRST=1000` begins at another seed, `HAYPILE_SECONDS=5` looks shorter.

use std::any::Any;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use haypile_engine::planted::{Bug, with};
use haypile_engine::simulation::{self, Case, Setup, Tally, Workload};
use haypile_tests::sim;
use haypile_tests::sources::{replace, text};

#[path = "../../engine/tests/common/mod.rs"]
mod common;
#[path = "../../engine/tests/torture/model.rs"]
mod model;
#[path = "../../engine/tests/torture/node.rs"]
mod node;
#[path = "../../engine/tests/torture/pair.rs"]
#[allow(dead_code)] // its trace is shown by its own test
mod pair;

/// For how many seconds a loop looks for a bug.
const PATIENCE_SECONDS: u64 = 60;
/// Steps of one run of the two-node torture, and of one of the cluster.
const PAIR_STEPS: u64 = 250;
const CLUSTER_STEPS: usize = 4000;
/// The table's head in `docs/TESTING.md`.
const HEAD: &str = "| bug | what it does | loop | seed | found as | found in |";

/// What a loop found: what repeats it, and what it says.
struct Found {
    seed: String,
    says: String,
}

/// A loop that looks for bugs, one seed at a time.
#[derive(Clone, Copy)]
struct Loop {
    name: &'static str,
    /// What a seed finds, given up at a moment.
    look: fn(u64, Instant) -> Option<Found>,
    /// Once more what was found.
    again: fn(&str) -> Option<Found>,
}

const LOOPS: [Loop; 3] = [
    Loop { name: "crash", look: crash, again: crash_again },
    Loop { name: "torture", look: |seed, _| torture(seed), again: |seed| torture(number_of(seed)) },
    Loop { name: "cluster", look: |seed, _| cluster(seed), again: |seed| cluster(number_of(seed)) },
];

/// One engine, stopped and failed at every operation: `haypile torture --sim`. Each setup has its share of the patience: a bug
/// that only the last of them shows is found as soon as any.
fn crash(seed: u64, until: Instant) -> Option<Found> {
    let sets = u32::try_from(Setup::ALL.len()).expect("small");
    let setup = Setup::ALL[usize::try_from(seed % u64::from(sets)).expect("small")];
    let until = until.min(now() + patience() / sets);
    let explored = Workload::of(seed, setup).explore(&mut Tally::default(), &mut |_| now() < until);
    explored.err().map(|found| case_found(*found))
}

fn crash_again(case: &str) -> Option<Found> {
    let case: Case = case.parse().expect("a case");
    Workload::of(case.seed, case.setup).replay(&case.cuts).err().map(|found| case_found(*found))
}

fn case_found(found: simulation::Found) -> Found {
    Found { seed: found.case.to_string(), says: found.violation.what }
}

/// Two engines, with all that may happen to slots: `engine/tests/torture`.
fn torture(seed: u64) -> Option<Found> {
    pair::Pair::new(seed).run(PAIR_STEPS);
    None
}

/// A cluster of engines with replication between them: `tests/src/sim`.
fn cluster(seed: u64) -> Option<Found> {
    let ran = sim::run(sim::Setup { seed, size: sim::Size::Any, steps: CLUSTER_STEPS, verbose: false });
    ran.err().map(|says| Found { seed: seed.to_string(), says })
}

fn number_of(seed: &str) -> u64 {
    seed.split('/').next().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| panic!("no seed: {seed}"))
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// What is found with a bug, or without: a panic is a finding too.
fn finds(bug: Option<Bug>, seed: &str, looks: impl FnOnce() -> Option<Found>) -> Option<Found> {
    QUIET.set(true);
    let found = catch_unwind(AssertUnwindSafe(|| with(bug, looks)));
    QUIET.set(false);
    found.unwrap_or_else(|panic| Some(Found { seed: seed.to_owned(), says: said(&*panic) }))
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}

fn keep_findings_quiet() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !QUIET.get() {
            before(info);
        }
    }));
}

/// A row of the table in `docs/TESTING.md`.
#[derive(Clone)]
struct Row {
    line: String,
    bug: Bug,
    looks: Loop,
    seed: String,
    /// What the finding says, among other things.
    says: String,
}

fn rows() -> Vec<Row> {
    let page = text("docs/TESTING.md");
    let table = page.split(HEAD).nth(1).expect("docs/TESTING.md has the table of planted bugs");
    table.trim_start().lines().skip(1).take_while(|line| line.starts_with('|')).map(row).collect()
}

fn row(line: &str) -> Row {
    let cells: Vec<&str> = line.split('|').map(str::trim).collect();
    let [_, bug, what, looks, seed, says, seconds, _] = cells[..] else { panic!("not six cells: {line}") };
    assert!(!what.is_empty() && !says.is_empty() && seconds.ends_with(" s"), "an empty cell: {line}");
    let name = bug.trim_matches('`');
    let bug = Bug::ALL.iter().find(|bug| format!("{bug:?}") == name);
    let looks = LOOPS.iter().find(|one| one.name == looks);
    Row {
        line: line.to_owned(),
        bug: *bug.unwrap_or_else(|| panic!("no such bug: {line}")),
        looks: *looks.unwrap_or_else(|| panic!("no such loop: {line}")),
        seed: seed.trim_matches('`').to_owned(),
        says: says.to_owned(),
    }
}

/// Puts what was found now into a row of the document.
fn rewrite(row: &Row, found: &Found, took: Duration) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    if std::env::var("HAYPILE_REWRITE").is_err() {
        return;
    }
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let cells: Vec<&str> = row.line.split('|').map(str::trim).collect();
    let (bug, what, looks) = (cells[1], cells[2], cells[3]);
    let seconds = took.as_secs_f64();
    let line = format!("| {bug} | {what} | {looks} | `{}` | {} | {seconds:.1} s |", found.seed, row.says);
    replace("docs/TESTING.md", &text("docs/TESTING.md").replace(&row.line, &line));
}

fn wanted(bug: Bug) -> bool {
    let only = std::env::var("HAYPILE_PLANTED").ok();
    only.is_none_or(|only| only.split(',').any(|only| only == format!("{bug:?}")))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn patience() -> Duration {
    Duration::from_secs(number("HAYPILE_SECONDS").unwrap_or(PATIENCE_SECONDS))
}

fn short(says: &str) -> String {
    says.lines().collect::<Vec<_>>().join(" ").chars().take(150).collect()
}

#[allow(clippy::disallowed_methods)] // how long to look, nothing that a run depends on
fn now() -> Instant {
    Instant::now()
}

/// Does the work on as many threads as there are cores, and gives all answers.
fn on_all_cores<W: Send, A: Send>(mut works: Vec<W>, work: impl Fn(W) -> A + Sync) -> Vec<A> {
    works.reverse();
    let (works, answers) = (Mutex::new(works), Mutex::new(Vec::new()));
    let next = || works.lock().expect("no panic").pop();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(next) = next() {
                    let answer = work(next);
                    answers.lock().expect("no panic").push(answer);
                }
            });
        }
    });
    answers.into_inner().expect("no panic")
}

/// Looks for a bug from one seed on, for as long as there is patience. What is found says this, too.
fn look(bug: Bug, looks: Loop, first: u64, says: &str) -> Option<(Found, Duration)> {
    let begun = now();
    let until = begun + patience();
    (first..).take_while(|_| now() < until).find_map(|seed| {
        let found = finds(Some(bug), &seed.to_string(), || (looks.look)(seed, until));
        found.filter(|found| found.says.contains(says)).map(|found| (found, begun.elapsed()))
    })
}

#[test]
fn every_planted_bug_has_one_row_in_the_table() {
    let bugs: Vec<Bug> = rows().iter().map(|row| row.bug).collect();
    let named: BTreeSet<Bug> = bugs.iter().copied().collect();
    let missing: Vec<_> = Bug::ALL.iter().filter(|bug| !named.contains(bug)).collect();
    assert!(missing.is_empty(), "docs/TESTING.md has no row for {missing:?}");
    assert_eq!(bugs.len(), named.len(), "a bug has two rows");
}

/// What is wrong with a row, if anything is.
fn check(row: &Row) -> Result<(), String> {
    let Row { bug, looks, seed, says, .. } = row;
    let (name, again) = (looks.name, looks.again);
    if let Some(wrong) = finds(None, seed, || again(seed)) {
        return Err(format!("{name} {seed} finds something without a bug: {}", wrong.says));
    }
    let begun = now();
    let found = finds(Some(*bug), seed, || again(seed)).map(|found| (found, begun.elapsed()));
    let found = match found {
        Some(found) => Some(found),
        None => {
            // A change of the engine has moved it: what counts is that it is still found.
            eprintln!("{bug:?} is not found by {name} {seed} any more; looking on from there");
            let found = look(*bug, *looks, number_of(seed), says);
            if let Some((found, took)) = &found {
                rewrite(row, found, *took);
            }
            found
        }
    };
    let Some((found, took)) = found else {
        return Err(format!("{bug:?} is not found by {name} from {seed} on"));
    };
    println!("{bug:?}: {name} {} in {took:?}: {}", found.seed, short(&found.says));
    if !found.says.contains(says) {
        return Err(format!("{bug:?} is found as {:?}, not as {says:?}", short(&found.says)));
    }
    Ok(())
}

#[test]
fn every_planted_bug_is_found_from_its_seed_and_nothing_is_found_without_it() {
    keep_findings_quiet();
    let rows: Vec<Row> = rows().into_iter().filter(|row| wanted(row.bug)).collect();
    let wrong = on_all_cores(rows, |row| check(&row).err());
    let wrong: Vec<String> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_planted_bug_is_found_within_a_minute_by_looking() {
    if std::env::var("HAYPILE_LONG").is_ok_and(|long| long == "1") {
        look_anew();
    }
}

fn look_anew() {
    keep_findings_quiet();
    let first = number("HAYPILE_FIRST").unwrap_or(1);
    let only = std::env::var("HAYPILE_LOOP").ok();
    let rows = rows();
    let bugs: Vec<Bug> = Bug::ALL.iter().copied().filter(|bug| wanted(*bug)).collect();
    let unfound = on_all_cores(bugs, |bug| {
        let row = rows.iter().find(|row| row.bug == bug);
        let chosen = |looks: &&Loop| match &only {
            Some(only) => only.split(',').any(|name| name == looks.name),
            None => row.is_none_or(|row| row.looks.name == looks.name),
        };
        let says = row.filter(|_| only.is_none()).map_or("", |row| &row.says);
        let mut unfound = true;
        for looks in LOOPS.iter().filter(chosen) {
            let Some((found, took)) = look(bug, *looks, first, says) else { continue };
            let (name, says) = (looks.name, short(&found.says));
            eprintln!("| `{bug:?}` | {name} | `{}` | {says} | {:.1} s |", found.seed, took.as_secs_f64());
            if let Some(row) = row.filter(|row| row.looks.name == name) {
                rewrite(row, &found, took);
            }
            unfound = false;
        }
        unfound.then_some(bug)
    });
    let unfound: Vec<Bug> = unfound.into_iter().flatten().collect();
    assert!(unfound.is_empty(), "not found within {:?}: {unfound:?}", patience());
}
