//! The command line: `TARGET --workload A,B,C …`, the same for every target.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::files;
use crate::load::choose::Distribution;
use crate::load::values::Sizes;
use crate::load::workload::{WORKLOADS, Workload};
use crate::plan::{Asked, Plan, Settle, SlotSpread, Sync};
use crate::record::Run;
use crate::run::{self, Order};
use crate::target::Target;
use crate::targets::resp::{Access, RespTarget};
use crate::terminal::{self, Progress};

/// What a wrong command line ends with.
const USAGE: u8 = 2;

/// A kind of embedded target: how the command line opens it.
#[derive(Clone, Copy)]
pub struct Kind {
    /// Its name on the command line.
    pub name: &'static str,
    /// A line about it.
    pub about: &'static str,
    /// Which settings `--config` takes, for the help.
    pub settings: &'static str,
    /// Opens it in a folder that is empty or holds what an earlier run left.
    pub open: fn(&Path, Config, &Plan) -> Result<Box<dyn Target>>,
}

/// The targets that are in this crate.
pub const BUILT_IN: &[Kind] = &[
    Kind {
        name: "engine",
        about: "Haypile's storage engine in this process, without a server",
        settings: "memory=256m,segment=64m,block=8k,compress=yes,layout=keys|ordered",
        open: |dir, config, plan| {
            let fs = files::real();
            Ok(Box::new(crate::targets::engine::EngineTarget::open(fs, dir, config, plan)?))
        },
    },
    Kind {
        name: "null",
        about: "Nothing: what making and timing operations costs by itself",
        settings: "",
        open: |_, config, _| {
            config.all_used()?;
            Ok(Box::new(crate::targets::null::Null))
        },
    },
];

/// A whole program for some targets: parses the arguments, of which the first is the program, and does what they say.
pub fn main(args: impl IntoIterator<Item = OsString>, kinds: &[Kind]) -> ExitCode {
    match command(kinds).no_binary_name(false).try_get_matches_from(args) {
        Ok(matches) => run(&matches, kinds),
        Err(error) => {
            let _ = error.print();
            if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
        }
    }
}

/// The command `bench` with a subcommand for each target.
#[must_use]
pub fn command(kinds: &[Kind]) -> Command {
    let command = Command::new("bench")
        .about("Measure a storage engine or a server: the same load, clock and counters for each")
        .after_help(after_help())
        .subcommand_required(true)
        .arg_required_else_help(true);
    let command = command.subcommand(resp_command());
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

/// The name of [`resp_command`].
const RESP: &str = "resp";

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
        fraction("rate", "OPS", "open loop: so many operations a second, latency from the intended start"),
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
            "none",
            "a write is answered once it is: none written, everysec too, always on the device",
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

/// Does what the command line says.
#[must_use]
pub fn run(matches: &ArgMatches, kinds: &[Kind]) -> ExitCode {
    let done = match matches.subcommand() {
        Some((RESP, matches)) => server(matches),
        Some((name, matches)) => match kinds.iter().find(|kind| kind.name == name) {
            Some(kind) => embedded(kind, matches),
            None => Err(Error::Usage(format!("there is no target '{name}'"))),
        },
        None => Err(Error::Usage("which target?".into())),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::from(if matches!(error, Error::Usage(_)) { USAGE } else { 1 })
        }
    }
}

fn whole(matches: &ArgMatches, name: &str) -> Option<usize> {
    matches.get_one::<u64>(name).map(|number| usize::try_from(*number).unwrap_or(usize::MAX))
}

fn parsed<T: std::str::FromStr<Err = String>>(matches: &ArgMatches, name: &str) -> Result<Option<T>> {
    let Some(text) = matches.get_one::<String>(name) else { return Ok(None) };
    text.parse().map(Some).map_err(|why| Error::Usage(format!("--{name} {why}")))
}

/// The chain and the settings that a command line asks for.
fn asked(matches: &ArgMatches) -> Result<(Vec<&'static Workload>, Asked)> {
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

/// Runs a chain on an embedded target, each repetition on new data. Says whether all operations were answered well.
fn embedded(kind: &Kind, matches: &ArgMatches) -> Result<bool> {
    let (chain, asked) = asked(matches)?;
    chain.iter().try_for_each(|workload| run::check(kind.name, false, workload))?;
    let plans = Plan::resolve(&asked, &chain)?;
    let config = Config::parse(matches.get_one::<String>("config").map_or("", String::as_str))?;
    let open = |dir: &Path| (kind.open)(dir, config.clone(), &plans[0]);
    let (existing, keep) = (matches.get_one::<PathBuf>("existing"), matches.get_flag("keep"));
    repeated(matches, &chain, &plans, &mut |each| {
        if let Some(dir) = existing {
            return each(open(dir)?);
        }
        let parent = matches.get_one::<PathBuf>("dir").cloned().unwrap_or_else(std::env::temp_dir);
        let mut folder = tempfile::Builder::new()
            .prefix("haypile-bench-")
            .tempdir_in(&parent)
            .map_err(|error| Error::file(&parent, error))?;
        folder.disable_cleanup(keep);
        eprintln!("data in {}", folder.path().display());
        each(open(folder.path())?)
    })
}

/// Runs a chain on a server, each repetition on the data that the one before left. Says whether all operations were
/// answered well.
fn server(matches: &ArgMatches) -> Result<bool> {
    let (chain, asked) = asked(matches)?;
    chain.iter().try_for_each(|workload| run::check(RESP, true, workload))?;
    let access = Access {
        address: matches.get_one::<String>("address").cloned().unwrap_or_default(),
        password: matches.get_one::<String>("auth").cloned(),
        process: whole(matches, "pid").and_then(|pid| u32::try_from(pid).ok()),
        folder: matches.get_one::<PathBuf>("folder").cloned(),
    };
    let sync_asked = matches.get_one::<String>("sync").is_some();
    let open = || RespTarget::open(access.clone(), sync_asked);
    let first = open()?;
    if let Some(unknown) = first.unknown() {
        eprintln!("{unknown}");
    }
    let asked = Asked {
        connections: whole(matches, "connections").unwrap_or(asked.connections),
        pipeline: whole(matches, "pipeline").unwrap_or(asked.pipeline),
        sync: if sync_asked { asked.sync } else { first.sync() },
        ..asked
    };
    let plans = Plan::resolve(&asked, &chain)?;
    repeated(matches, &chain, &plans, &mut |each| each(Box::new(open()?)))
}

/// What a repetition does with the target that was opened for it.
type Each<'a> = dyn FnMut(Box<dyn Target>) -> Result<()> + 'a;

/// Runs a chain as often as is wanted; `with` opens a target for each repetition and hands it on.
fn repeated(
    matches: &ArgMatches,
    chain: &[&'static Workload],
    plans: &[Plan],
    with: &mut dyn FnMut(&mut Each<'_>) -> Result<()>,
) -> Result<bool> {
    let json = matches.get_one::<PathBuf>("json");
    let quiet = matches.get_flag("quiet");
    let names: Vec<String> = chain.iter().map(|workload| workload.name.to_owned()).collect();
    let mut runs: Vec<Run> = Vec::new();
    for repeat in 1..=matches.get_one::<u64>("repeat").copied().unwrap_or(1) {
        let repeat = u32::try_from(repeat).unwrap_or(u32::MAX);
        with(&mut |target| {
            let mut inserted = plans[0].keys;
            if repeat == 1 {
                let settings = target.configuration();
                let settings: Vec<String> =
                    settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
                println!("{}: {}", target.name(), settings.join(" "));
            }
            for (workload, plan) in chain.iter().zip(plans) {
                let order = Order { workload, plan: plan.clone(), chain: names.clone(), repeat, inserted };
                let mut progress = Progress::new(workload.name);
                let watcher: &mut dyn run::Watcher = if quiet { &mut run::Unwatched } else { &mut progress };
                let (run, now) = run::run(&*target, &order, watcher)?;
                inserted = now;
                if let Some(path) = json {
                    files::append_line(
                        path,
                        &serde_json::to_string(&run).map_err(|why| Error::file(path, why))?,
                    )?;
                }
                runs.push(run);
            }
            target.close()
        })?;
    }
    let mut out = std::io::stdout().lock();
    // Whoever reads has seen enough.
    let _ = terminal::table(&runs, &mut out);
    Ok(runs.iter().all(|run| run.errors == 0))
}
