//! The command line: `TARGET --workload A,B,C …`, the same for every target.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ArgMatches;

use args::{COMPARE, REPORT, RESP, asked, whole};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::files;
use crate::load::workload::Workload;
use crate::plan::{Asked, Plan};
use crate::record::Run;
use crate::report::{self, Results};
use crate::run::{self, Order};
use crate::servers;
use crate::target::Target;
use crate::targets::resp::{Access, RespTarget};
use crate::terminal::{self, Progress};

mod args;

pub use args::command;

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
        settings: "memory=256m,segment=64m,block=4k,compress=yes,layout=keys|ordered",
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

/// The results that a command line names.
fn results(matches: &ArgMatches) -> Result<Results> {
    let paths = matches.get_many::<PathBuf>("files").into_iter().flatten();
    let read = |path: &PathBuf| {
        let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        Ok((name, report::read(path)?))
    };
    Ok(Results::sort(&paths.map(read).collect::<Result<Vec<_>>>()?))
}

fn compare(matches: &ArgMatches) -> Result<bool> {
    let results = results(matches)?;
    // Whoever reads has seen enough.
    let _ = report::compare::write(&results, &mut std::io::stdout().lock());
    Ok(true)
}

fn page(matches: &ArgMatches) -> Result<bool> {
    let path = matches.get_one::<PathBuf>("html").expect("clap requires it");
    files::write_text(path, &report::html::page(&results(matches)?))?;
    Ok(true)
}

/// Does what the command line says.
#[must_use]
pub fn run(matches: &ArgMatches, kinds: &[Kind]) -> ExitCode {
    let done = match matches.subcommand() {
        Some((RESP, matches)) => server(matches),
        Some((REPORT, matches)) => page(matches),
        Some((COMPARE, matches)) => compare(matches),
        Some((servers::NAME, matches)) => servers::run(matches),
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
