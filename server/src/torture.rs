//! `haypile torture`: a crash tester for any server that speaks the Redis protocol.
//!
//! It starts the server, drives a history that follows from a seed, kills the server in the middle of it, starts it
//! again on the same data, reads everything back, and says whether the server kept its promise. A history that shows that
//! it did not is made smaller and stays as a script. Only processes that it started are killed.

pub mod child;
pub mod cli;
pub mod effect;
pub mod judge;
pub mod lane;
pub mod model;
pub mod operation;
pub mod plan;
pub mod report;
pub mod script;
pub mod session;
pub mod shared;
pub mod shrink;
pub mod sim;
#[cfg(test)]
mod tests;
pub mod value;
pub mod verbs;
pub mod violation;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::files::{read_text, replace_text};
use crate::screen::{Watch, number};
use crate::serve::real_fs;

use judge::{Kill, Promise};
use plan::Plan;
use report::{Counts, Failure, Progress};
use script::{KILLS, Mark, PROMISES, Script, word};
use session::{Session, Stop, Work};
use shrink::Case;
use violation::Violation;

/// How many violations are told in full.
const TOLD_MAX: usize = 3;
/// How long a failure is made smaller, at least and at most.
const SHRINK_MIN: Duration = Duration::from_secs(3);
const SHRINK_MAX: Duration = Duration::from_secs(60);

/// What can be chosen.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server's command, with `{port}` and `{dir}`.
    pub server: String,
    /// What the history follows from.
    pub seed: u64,
    /// How long it runs.
    pub time: Duration,
    /// How many clients work at once.
    pub clients: usize,
    /// How many keys they own together.
    pub keys: usize,
    /// How the server is ended.
    pub kill: Kill,
    /// What it promises.
    pub promise: Promise,
    /// A file for the result.
    pub json: Option<PathBuf>,
    /// A script that is run instead of a history from the seed.
    pub replay: Option<PathBuf>,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The promise was kept.
    Clean,
    /// It was not.
    Violated,
    /// Nothing can be said.
    CouldNotRun,
}

impl Verdict {
    /// One word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Clean => "clean",
            Verdict::Violated => "violation",
            Verdict::CouldNotRun => "could-not-run",
        }
    }

    fn status(self) -> ExitCode {
        match self {
            Verdict::Clean => ExitCode::SUCCESS,
            Verdict::Violated => ExitCode::from(1),
            Verdict::CouldNotRun => ExitCode::from(2),
        }
    }
}

/// Runs it; the process's exit status.
#[must_use]
pub fn run(options: &Options) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return could_not_run(options, &format!("can't start: {error}")).status(),
    };
    let verdict = runtime.block_on(async {
        let done = async {
            match &options.replay {
                Some(file) => replay(options, file).await,
                None => torture(options).await,
            }
        };
        // Dropped where it stands, the server goes with it.
        tokio::select! {
            verdict = done => verdict,
            signal = crate::demo::interrupted() => could_not_run(options, &signal),
        }
    });
    verdict.status()
}

fn could_not_run(options: &Options, why: &str) -> Verdict {
    println!("could not run: {why}");
    let failure = Failure { could_not_run: Some(why), ..Failure::default() };
    write_json(options, Verdict::CouldNotRun, None, &failure)
}

/// Writes the result where it is wanted. The verdict; without its file a good one is none.
fn write_json(
    options: &Options,
    verdict: Verdict,
    counts: Option<&Counts<'_>>,
    failure: &Failure<'_>,
) -> Verdict {
    let Some(file) = &options.json else { return verdict };
    let text = report::json(options, verdict, counts, failure);
    let Err(why) = replace_text(&*real_fs(), file, &text) else { return verdict };
    println!("could not write the result: {why}");
    if verdict == Verdict::Clean { Verdict::CouldNotRun } else { verdict }
}

/// A history from the seed.
async fn torture(options: &Options) -> Verdict {
    let began = Watch::start();
    println!("haypile torture: {}", options.server);
    let mut session = match Session::open(&options.server, options.clients, options.promise).await {
        Ok(session) => session,
        Err(stop) => return could_not_run(options, &reason(&stop)),
    };
    println!(
        "  seed {}, {} clients, {} keys, kill {}, promise {}, {} s",
        options.seed,
        options.clients,
        options.keys,
        word(&KILLS, &options.kill),
        word(&PROMISES, &options.promise),
        options.time.as_secs()
    );
    let plan = Arc::new(Plan::new(options.seed, options.clients, options.keys, session.verbs));
    let stopped = endure(options, &mut session, &plan).await;
    let counts = counts(&session, began.elapsed());
    let tally = session.tally.clone();
    let counts = Counts { tally: &tally, ..counts };
    match stopped {
        Ok(()) if counts.answered == 0 => {
            let last =
                session.common.refusal.lock().expect("no code panics while it holds this lock").clone();
            session.close().await;
            let why = format!("no command was acknowledged; the last answer: {}", last.unwrap_or_default());
            could_not_run(options, &why)
        }
        Ok(()) => {
            session.close().await;
            println!("CLEAN: the promise was kept\n{}", report::summary(&counts));
            write_json(options, Verdict::Clean, Some(&counts), &Failure::default())
        }
        Err(Stop::CouldNotRun(why)) => {
            session.close().await;
            could_not_run(options, &why)
        }
        Err(Stop::Violated(violations)) => convict(options, session, &plan, &violations, &counts).await,
    }
}

fn reason(stop: &Stop) -> String {
    match stop {
        Stop::CouldNotRun(why) => why.clone(),
        Stop::Violated(violations) => violations.first().map(Violation::headline).unwrap_or_default(),
    }
}

fn counts<'a>(session: &'a Session, elapsed: Duration) -> Counts<'a> {
    Counts {
        tally: &session.tally,
        answered: session.common.answered.load(Ordering::Relaxed),
        refused: session.common.refused.load(Ordering::Relaxed),
        elapsed,
        missing: session.verbs.missing(),
    }
}

/// Cycle after cycle, until time is over or something is wrong.
async fn endure(options: &Options, session: &mut Session, plan: &Arc<Plan>) -> Result<(), Stop> {
    let mut chance = Xoshiro256PlusPlus::seed_from_u64(options.seed);
    let mut progress = Progress::new();
    let began = Watch::start();
    while began.elapsed() < options.time {
        let left = options.time.saturating_sub(began.elapsed());
        let time = cycle_time(&mut chance, options.promise).min(left);
        let start = session.tally.recoveries.last().copied().unwrap_or(Duration::from_millis(20));
        let mark = Mark {
            kill: options.kill,
            after: Duration::ZERO,
            starts: starts(&mut chance, options.kill, start),
        };
        let result = session.cycle(Work::Plan(plan, time), &mark).await;
        if result.is_err() {
            progress.end();
            return result;
        }
        progress.tell(|| {
            format!(
                "  {:>5.0} s  {} cycles, {} operations, {} keys read back, all as it must be",
                began.elapsed().as_secs_f64(),
                session.tally.cycles,
                number(session.common.answered.load(Ordering::Relaxed)),
                number(session.tally.keys_read)
            )
        });
    }
    progress.end();
    Ok(())
}

/// How long a server lives: mostly shortly. One that may lose the last two seconds must live longer, or nothing is tested.
fn cycle_time(chance: &mut impl RngExt, promise: Promise) -> Duration {
    let millis = match (chance.random_range(0..10), promise) {
        (0..3, Promise::Everysec) => chance.random_range(2_200..4_500),
        (0..4, _) => chance.random_range(5..80),
        (4..8, _) => chance.random_range(80..500),
        _ => chance.random_range(500..2_000),
    };
    Duration::from_millis(millis)
}

/// Now and then a server that starts is killed, at a moment within the time that starting took last.
fn starts(chance: &mut impl RngExt, kill: Kill, start: Duration) -> Vec<Duration> {
    if kill != Kill::Sigkill || !chance.random_bool(0.25) {
        return Vec::new();
    }
    let count = chance.random_range(1..=3);
    (0..count).map(|_| start.mul_f64(chance.random_range(0.05..1.2))).collect()
}

/// Tells of a violation, makes it smaller, and leaves a script.
async fn convict(
    options: &Options,
    mut session: Session,
    plan: &Plan,
    violations: &[Violation],
    counts: &Counts<'_>,
) -> Verdict {
    violations.iter().take(TOLD_MAX).for_each(|violation| println!("{violation}"));
    if violations.len() > TOLD_MAX {
        println!("and {} more, such as:", violations.len() - TOLD_MAX);
        violations[TOLD_MAX..].iter().take(TOLD_MAX).for_each(|one| println!("  {}", one.headline()));
        println!();
    }
    println!("{}", report::summary(counts));
    let folder = session.keep_folder();
    println!("{}", session::shown(&folder));
    println!("the same history again (what runs when is up to the machine):\n  {}\n", command_line(options));
    let facts = std::mem::take(&mut session.facts);
    session.close().await;
    let budget = (options.time / 2).clamp(SHRINK_MIN, SHRINK_MAX);
    println!("making it smaller, for {} s at most", budget.as_secs());
    let case =
        Case { command: &options.server, promise: options.promise, breach: violations[0].breach, budget };
    let keys: Vec<String> = violations
        .iter()
        .filter(|violation| violation.breach == case.breach && !violation.key.is_empty())
        .take(1)
        .map(|violation| violation.key.clone())
        .collect();
    let shrunk = shrink::shrink(&case, plan, &facts, &keys).await;
    let told = shrunk.violation.as_ref().unwrap_or(&violations[0]);
    let repeated = shrunk.violation.is_some();
    let note = if repeated {
        format!("it showed the violation again in {} of {} further runs", shrunk.repeats, shrunk.again)
    } else {
        "the violation did not repeat: this is what was recorded, as far as it touches the key".to_owned()
    };
    let mut file = PathBuf::from(format!("haypile-torture-{}.txt", options.seed));
    let write = |file: &Path| {
        replace_text(&*real_fs(), file, &script_text(options, file, &shrunk.script, told, &note))
    };
    let mut written = write(&file);
    if let Err(why) = &written {
        println!("the script can't be written here: {why}");
        file = folder.join(file);
        written = write(&file);
    }
    let script = &shrunk.script;
    println!(
        "{} runs: {} operations, {} keys, {} kills; {note}",
        shrunk.runs,
        script.operations(),
        script.keys(),
        script.cycles.len()
    );
    match &written {
        Ok(()) => println!("the script: {}\n  {}", file.display(), replay_line(options, &file)),
        Err(why) => println!("the script could not be written: {why}"),
    }
    let failure = Failure {
        violations,
        script: written.is_ok().then(|| file.display().to_string()),
        repeats: (shrunk.repeats, shrunk.again),
        could_not_run: None,
    };
    write_json(options, Verdict::Violated, Some(counts), &failure)
}

fn script_text(options: &Options, file: &Path, script: &Script, violation: &Violation, note: &str) -> String {
    let about = violation.to_string();
    let comment = |line: &str| format!("# {line}").trim_end().to_owned();
    let mut lines = vec![
        "# A history that broke a promise, found by haypile torture.".to_owned(),
        comment(note),
        "#".to_owned(),
    ];
    lines.extend(about.lines().map(comment));
    lines.extend([
        "#".to_owned(),
        "# `cN ...` is what client N sends; it waits for the answers, except after `&`: that is under way at the kill.".to_owned(),
        "# `kill HOW TIME` ends the server; then it is started, everything is read back and judged. To run this:".to_owned(),
        format!("#   {}", replay_line(options, file)),
        String::new(),
    ]);
    format!("{}\n{script}", lines.join("\n"))
}

/// A text as a shell takes it for one word.
fn shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn replay_line(options: &Options, file: &Path) -> String {
    format!("haypile torture --replay {} --server {}", file.display(), shell(&options.server))
}

fn command_line(options: &Options) -> String {
    format!(
        "haypile torture --server {} --seed {} --seconds {} --clients {} --keys {} --kill {} --promise {}",
        shell(&options.server),
        options.seed,
        options.time.as_secs(),
        options.clients,
        options.keys,
        word(&KILLS, &options.kill),
        word(&PROMISES, &options.promise)
    )
}

/// Runs a script once.
async fn replay(options: &Options, file: &Path) -> Verdict {
    let named = |why| format!("{}: {why}", file.display());
    let script = read_text(&*real_fs(), file).and_then(|text| Script::parse(&text).map_err(named));
    let script = match script {
        Ok(script) => script,
        Err(why) => return could_not_run(options, &why),
    };
    println!(
        "haypile torture: {} operations, {} keys, {} kills, promise {}",
        script.operations(),
        script.keys(),
        script.cycles.len(),
        word(&PROMISES, &script.promise)
    );
    let violations = match shrink::replay(&options.server, &script).await {
        Ok(violations) => violations,
        Err(why) => return could_not_run(options, &why),
    };
    let failure = Failure { violations: &violations, ..Failure::default() };
    let verdict = if violations.is_empty() { Verdict::Clean } else { Verdict::Violated };
    violations.iter().take(TOLD_MAX).for_each(|violation| println!("{violation}"));
    if violations.is_empty() {
        println!("CLEAN: the promise was kept");
    }
    write_json(options, verdict, None, &failure)
}
