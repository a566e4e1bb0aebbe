//! What the command line takes, and what it says.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::Kind;
use crate::error::{Error, Result};
use crate::load::choose::Distribution;
use crate::load::values::Sizes;
use crate::load::workload::{WORKLOADS, Workload};
use crate::plan::{Asked, Settle, SlotSpread, Sync};

/// The command `bench` with a subcommand for each target.
#[must_use]
pub fn command(kinds: &[Kind]) -> Command {
    let files = || {
        let files = Arg::new("files").value_name("FILE").num_args(1..).required(true);
        files.value_parser(value_parser!(PathBuf)).help("results that --json has written")
    };
    let html = text("html", "FILE", "", "where the page goes").required(true);
    let command = Command::new("bench")
        .about("Measure a storage engine or a server: the same load, clock and counters for each")
        .after_help(after_help())
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(resp_command())
        .subcommand(crate::servers::command())
        .subcommand(
            Command::new(REPORT)
                .about("Make one page with plots of results")
                .args([files(), html.value_parser(value_parser!(PathBuf))]),
        )
        .subcommand(
            Command::new(COMPARE)
                .about("Show results side by side: medians, spread over repetitions, and ratios")
                .arg(files()),
        );
    kinds.iter().fold(command, |command, kind| {
        let config = Arg::new("config")
            .long("config")
            .value_name("NAME=VALUE,...")
            .default_value("")
            .help(format!("the target's own settings: {}", kind.settings));
        let folder = [
            Arg::new("dir")
                .long("dir")
                .value_name("DIR")
                .value_parser(value_parser!(PathBuf))
                .help("make a new folder for each repetition in this one, and remove it [the system's temporary folder]"),
            Arg::new("existing")
                .long("existing")
                .value_name("DIR")
                .conflicts_with("dir")
                .value_parser(value_parser!(PathBuf))
                .help("work on the data that is in this folder, and leave it there"),
            Arg::new("keep").long("keep").action(ArgAction::SetTrue).help("leave the new folders"),
        ];
        command.subcommand(Command::new(kind.name).about(kind.about).arg(config).args(folder).args(load_args()))
    })
}

fn resp_command() -> Command {
    let path = |name: &'static str| Arg::new(name).long(name).value_parser(value_parser!(PathBuf));
    Command::new(RESP)
        .about("Any server that speaks the Redis protocol")
        .arg(Arg::new("address").value_name("HOST:PORT").required(true).help("where it listens"))
        .args([
            number("connections", "50", "connections of all threads together"),
            number("pipeline", "16", "requests under way on a connection"),
            number(
                "pid",
                "",
                "the server's process, for CPU, memory and I/O [of a server on this machine, what INFO says]",
            ),
            path("folder")
                .value_name("DIR")
                .help("its data folder, for disk space [what CONFIG GET dir says]"),
            text("auth", "PASSWORD", "", "log in"),
        ])
        .args(load_args())
}

/// The subcommand for servers.
pub const RESP: &str = "resp";
/// The subcommand that makes a page.
pub const REPORT: &str = "report";
/// The subcommand that shows results side by side.
pub const COMPARE: &str = "compare";

fn after_help() -> String {
    let names = WORKLOADS.iter().map(|workload| format!("  {:<17} {}", workload.name, workload.about));
    format!("Workloads, of which any chain runs on the same data:\n{}", names.collect::<Vec<_>>().join("\n"))
}

fn number(name: &'static str, default: &'static str, help: &'static str) -> Arg {
    let arg = Arg::new(name).long(name).value_name("N").value_parser(value_parser!(u64)).help(help);
    if default.is_empty() { arg } else { arg.default_value(default) }
}

fn text(name: &'static str, value: &'static str, default: &'static str, help: &'static str) -> Arg {
    let arg = Arg::new(name).long(name).value_name(value).help(help);
    if default.is_empty() { arg } else { arg.default_value(default) }
}

fn fraction(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).value_parser(value_parser!(f64)).help(help)
}

/// What every target takes.
fn load_args() -> Vec<Arg> {
    vec![
        text("workload", "A,B,C", "", "what to run, one after the other on the same data").required(true),
        number("keys", "1000000", "how many keys there are"),
        number("ops", "", "how many operations; of fills each key once [as many as keys, or --duration]"),
        fraction("duration", "SECONDS", "for how long, except of fills"),
        fraction("warm-up", "SECONDS", "for how long before it counts, except of fills").default_value("0"),
        number("threads", "1", "how many threads make operations"),
        fraction(
            "rate",
            "OPS",
            "open loop: so many operations a second, latency from the intended start; of fills only the last of a chain",
        ),
        number("seed", "1", "all choices follow from it"),
        number("key-size", "16", "bytes of a key"),
        text(
            "value",
            "BYTES",
            "",
            "bytes of a value: BYTES, uniform:MIN:MAX, pareto:K:SIGMA:MAX [as the workload's]",
        ),
        fraction("ratio", "SHARE", "to which share of its size a value compresses").default_value("0.5"),
        text(
            "distribution",
            "NAME",
            "",
            "uniform, zipfian[:THETA], latest[:THETA], hotspot[:KEYS[:OPS]] [the workload's]",
        ),
        number("slots", "", "how many slots the keys fall in [1024; 1 if the chain walks keys in order]"),
        text("slot-spread", "NAME", "uniform", "how operations spread over slots: uniform, zipfian[:THETA]"),
        number("batch", "", "keys of a batch [fillbatch 100, else 10]"),
        number("scan", "", "entries of a scan, at most [ycsb-e 100, else 10]"),
        number("collections", "1", "how many lists or sorted sets"),
        text(
            "sync",
            "WHEN",
            "",
            "a write is answered once it is: none written, everysec too, always on the device [none; a server's own setting]",
        ),
        text(
            "settle",
            "HOW",
            "debt",
            "what the run waits for at its end: none, debt (compactions), flush (and memory)",
        ),
        number("repeat", "1", "how often the whole chain is run, each time on new data"),
        text("json", "FILE", "", "append a line for each run to this file")
            .value_parser(value_parser!(PathBuf)),
        Arg::new("quiet").long("quiet").action(ArgAction::SetTrue).help("no line a second"),
    ]
}

/// A whole number that was given.
pub fn whole(matches: &ArgMatches, name: &str) -> Option<usize> {
    matches.get_one::<u64>(name).map(|number| usize::try_from(*number).unwrap_or(usize::MAX))
}

fn parsed<T: std::str::FromStr<Err = String>>(matches: &ArgMatches, name: &str) -> Result<Option<T>> {
    let Some(text) = matches.get_one::<String>(name) else { return Ok(None) };
    text.parse().map(Some).map_err(|why| Error::Usage(format!("--{name} {why}")))
}

/// The chain and the settings that a command line asks for.
pub fn asked(matches: &ArgMatches) -> Result<(Vec<&'static Workload>, Asked)> {
    let names = matches.get_one::<String>("workload").map_or("", String::as_str);
    let named = |name: &str| {
        Workload::named(name.trim())
            .ok_or_else(|| Error::Usage(format!("there is no workload '{name}': see haypile bench --help")))
    };
    let chain = names.split(',').map(named).collect::<Result<Vec<_>>>()?;
    let defaults = Asked::default();
    let seconds = |name: &str| match matches.get_one::<f64>(name).copied() {
        Some(seconds) if !(0.0..1e9).contains(&seconds) => Err(Error::Usage(format!("--{name} {seconds}"))),
        seconds => Ok(seconds),
    };
    let slots = match whole(matches, "slots") {
        None => None,
        Some(slots) => Some(u16::try_from(slots).map_err(|_| Error::Usage(format!("--slots {slots}")))?),
    };
    let asked = Asked {
        keys: matches.get_one("keys").copied().unwrap_or(defaults.keys),
        key_bytes: whole(matches, "key-size").unwrap_or(defaults.key_bytes),
        value: parsed::<Sizes>(matches, "value")?,
        ratio: matches.get_one("ratio").copied().unwrap_or(defaults.ratio),
        distribution: parsed::<Distribution>(matches, "distribution")?,
        slots,
        slot_spread: parsed::<SlotSpread>(matches, "slot-spread")?.unwrap_or(defaults.slot_spread),
        threads: whole(matches, "threads").unwrap_or(defaults.threads),
        operations: matches.get_one("ops").copied(),
        seconds: seconds("duration")?,
        warm_up_seconds: seconds("warm-up")?.unwrap_or_default(),
        rate: matches.get_one("rate").copied(),
        batch: whole(matches, "batch"),
        scan: whole(matches, "scan"),
        collections: matches.get_one("collections").copied().unwrap_or(defaults.collections),
        seed: matches.get_one("seed").copied().unwrap_or(defaults.seed),
        sync: parsed::<Sync>(matches, "sync")?.unwrap_or(defaults.sync),
        settle: parsed::<Settle>(matches, "settle")?.unwrap_or(defaults.settle),
        connections: defaults.connections,
        pipeline: defaults.pipeline,
    };
    Ok((chain, asked))
}
