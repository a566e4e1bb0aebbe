//! The engine table: every group of rows on every target, each in a process of its own, one after the other; the targets
//! take turns within a repetition, so that a machine that slows down slows all of them.

pub mod cell;
pub mod page_cache;
pub mod rows;
pub mod summary;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use haypile_bench::error::{Error, Result};
use haypile_bench::files;
use haypile_bench::record::Run;
use haypile_bench::terminal::three_digits;

use self::cell::{Cell, Scale};
use self::rows::{GROUPS, Group, HARNESS};
use self::summary::Summary;
use crate::kinds::{KINDS, NULL};

/// So many repetitions there are of everything, however long they take, if so many were asked for.
const REPEATS_MIN: u32 = 3;

fn command() -> Command {
    let names: Vec<&str> = GROUPS.iter().map(|group| group.name).collect();
    let kinds: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    Command::new("haypile-bench-peers --table")
        .about("Every row of the engine table on every target, interleaved")
        .arg(
            Arg::new("targets")
                .long("targets")
                .value_name("A,B,C")
                .default_value("haypile,rocksdb,fjall,redb,bare")
                .help(format!("of {}, or all", kinds.join(","))),
        )
        .arg(
            Arg::new("groups")
                .long("groups")
                .value_name("A,B,C")
                .default_value("all")
                .help(format!("of {}", names.join(","))),
        )
        .arg(number("repeat", "5").help("repetitions, of which medians are shown [--quick: 1]"))
        .arg(number("keys", "1000000").help("keys [--quick: 200000]; memory is in proportion"))
        .arg(number("enough", "0").help(
            "leave a target out of a group's further repetitions once it took so many seconds for it in three or more; 0 is \
             never",
        ))
        .arg(
            Arg::new("quick")
                .long("quick")
                .action(ArgAction::SetTrue)
                .help("fewer keys, once: two or three minutes"),
        )
        .arg(path("dir", "make the folders of the stores in this one [the system's temporary folder]"))
        .arg(path(
            "json",
            "append each row's run as a line to this file: for haypile bench report and compare",
        ))
        .arg(path("markdown", "write the table to this file too"))
}

fn number(name: &'static str, default: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("N").value_parser(value_parser!(u64)).default_value(default)
}

fn path(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("PATH").value_parser(value_parser!(PathBuf)).help(help)
}

/// The whole command, with the program's name first.
#[must_use]
pub fn main(args: Vec<OsString>) -> ExitCode {
    let matches = match command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match run(&matches) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("haypile-bench-peers: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Those of some names that a list asks for, in the order of the list; `all` of them.
fn chosen<'a, T>(list: &str, all: &'a [T], name: impl Fn(&T) -> &'static str) -> Result<Vec<&'a T>> {
    if list == "all" {
        return Ok(all.iter().collect());
    }
    let find = |wanted: &str| {
        all.iter()
            .find(|item| name(item) == wanted)
            .ok_or_else(|| Error::Usage(format!("there is no '{wanted}': see --table --help")))
    };
    list.split(',').map(|wanted| find(wanted.trim())).collect()
}

/// Runs all; says whether all targets agree in what they found.
fn run(matches: &ArgMatches) -> Result<bool> {
    let text = |name: &str| matches.get_one::<String>(name).map_or("", String::as_str);
    let targets: Vec<&str> =
        chosen(text("targets"), KINDS, |kind| kind.name)?.iter().map(|kind| kind.name).collect();
    let groups: Vec<&Group> = chosen(text("groups"), GROUPS, |group| group.name)?;
    let quick = matches.get_flag("quick");
    let whole = |name: &str, quickly: u64| match matches.value_source(name) {
        Some(clap::parser::ValueSource::DefaultValue) if quick => quickly,
        _ => matches.get_one::<u64>(name).copied().unwrap_or(quickly),
    };
    let scale = Scale { keys: whole("keys", 200_000).max(10_000), quick };
    let repeats = u32::try_from(whole("repeat", 1)).unwrap_or(u32::MAX);
    let parent = matches.get_one::<PathBuf>("dir").cloned().unwrap_or_else(std::env::temp_dir);
    let json = matches.get_one::<PathBuf>("json");

    let enough = matches.get_one::<u64>("enough").map_or(0, |seconds| *seconds);
    // How long each group has taken each target.
    let mut spent: BTreeMap<(&str, &str), Duration> = BTreeMap::new();

    let nothing = Cell { group: &HARNESS, target: NULL.name, scale, repeat: 1 };
    let mut runs: Vec<Run> = nothing.run(&parent)?.0;
    for repeat in 1..=repeats {
        for group in &groups {
            let part = targets.iter().filter(|target| group.bare_too || **target != "bare");
            let part: Vec<&str> = part.copied().collect();
            for turn in 0..part.len() {
                // Another target is first each time.
                let target = part[(turn + repeat as usize - 1) % part.len()];
                let spent = spent.entry((group.name, target)).or_default();
                if enough > 0 && repeat > REPEATS_MIN && spent.as_secs() >= enough {
                    continue;
                }
                let cell = Cell { group, target, scale, repeat };
                let started = Instant::now();
                let (measured, others) = cell.run(&parent)?;
                *spent += started.elapsed();
                for run in &measured {
                    if let Some(path) = json {
                        let line = serde_json::to_string(run).map_err(|why| Error::file(path, why))?;
                        files::append_line(path, &line)?;
                    }
                }
                eprintln!("{repeat}/{repeats} {}", line(target, &measured, others));
                runs.extend(measured);
            }
        }
    }

    let summary = Summary::new(&runs);
    let mut markdown = Vec::new();
    summary.write(&mut markdown)?;
    let markdown = String::from_utf8_lossy(&markdown).into_owned();
    println!("{markdown}");
    if let Some(path) = matches.get_one::<PathBuf>("markdown") {
        std::fs::write(path, &markdown).map_err(|error| Error::file(path, error))?;
    }
    let disagreements = summary.disagreements();
    for disagreement in &disagreements {
        println!("NOT THE SAME: {disagreement}");
    }
    Ok(disagreements.is_empty())
}

/// What a cell measured, in a line.
fn line(target: &str, runs: &[Run], others: f64) -> String {
    let one = |run: &Run| {
        let cpu = run.cpu_us_per_operation().map_or("?".to_owned(), three_digits);
        let rate = three_digits(run.operations_per_second / 1e3);
        format!("{} {rate} k/s {cpu} us", run.label.as_deref().unwrap_or(&run.workload))
    };
    let all: Vec<String> = runs.iter().map(one).collect();
    format!("{target:<8} {}; others took {:.0} % of the machine", all.join("; "), others * 100.0)
}
