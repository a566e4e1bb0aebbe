//! The command line: which subcommand, and for `serve` a flag for every key of the configuration.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use haypile_engine::repair::Doubtful;
use haypile_engine::types::Slot;

use crate::commands::config::file_without_config;
use crate::config::{PARAMS, Settings};
use crate::demo::{self, Folder};
use crate::files::read_text;
use crate::serve;
use crate::slot_group;
use crate::tools::{self, Failure, Form, Subject};
use crate::torture;

/// What a wrong command line ends with.
const USAGE: u8 = 2;

/// Does what the command line says; the process's exit status.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let matches = match command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match matches.subcommand() {
        Some(("serve", matches)) => serve(matches),
        Some(("demo", matches)) => demo(matches),
        Some(("commands", _)) => commands(),
        Some(("check", matches)) => check(matches),
        Some(("torture", matches)) => torture::cli::run(matches),
        Some(("repair", matches)) => repair(matches),
        Some(("inspect", matches)) => inspect(matches),
        Some(("bench", matches)) => haypile_bench::cli::run(matches, haypile_bench::cli::BUILT_IN),
        _ => ExitCode::from(USAGE),
    }
}

fn command() -> Command {
    Command::new("haypile")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A Redis-protocol storage node for Codis clusters; its write-ahead log is the replication log")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(serve_command())
        .subcommand(demo_command())
        .subcommand(
            Command::new("commands")
                .about("Print the commands that a node takes, as docs/COMMANDS.md has them"),
        )
        .subcommand(check_command())
        .subcommand(torture::cli::command())
        .subcommand(repair_command())
        .subcommand(inspect_command())
        .subcommand(haypile_bench::cli::command(haypile_bench::cli::BUILT_IN))
}

fn serve_command() -> Command {
    let defaults = Settings::default();
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .help("a configuration file: `name value` a line; flags go before it");
    let flags = PARAMS.iter().map(|param| {
        let default = (param.get)(&defaults);
        let help = if default.is_empty() {
            param.summary.to_owned()
        } else {
            format!("{} [{default}]", param.summary)
        };
        let arg = Arg::new(param.name).long(param.name).value_name(param.value).help(help);
        if param.value == "yes|no" { arg.num_args(0..=1).default_missing_value("yes") } else { arg }
    });
    Command::new("serve").about("Serve clients from a data folder").arg(config).args(flags)
}

fn demo_command() -> Command {
    let seconds = Arg::new("seconds")
        .long("seconds")
        .value_name("N")
        .default_value("6")
        .value_parser(value_parser!(u64).range(0..=3600))
        .help("how long the load runs before and after the move, together");
    let keep = Arg::new("keep").long("keep").action(ArgAction::SetTrue).help("leave the nodes' folders");
    Command::new("demo")
        .about("Start six nodes, put load on them, move a slot, and check that nothing is lost")
        .args([seconds, keep])
}

fn commands() -> ExitCode {
    // Who closed the pipe wants no more.
    let _ = std::io::stdout().write_all(crate::commands::document::page().as_bytes());
    ExitCode::SUCCESS
}

fn folder() -> Arg {
    Arg::new("dir")
        .value_name("DIR")
        .required(true)
        .value_parser(value_parser!(PathBuf))
        .help("the data folder of a node that is stopped, or a copy of one")
}

fn path(matches: &ArgMatches) -> &Path {
    matches.get_one::<PathBuf>("dir").expect("clap requires it")
}

fn check_command() -> Command {
    Command::new("check")
        .about("Verify everything in a data folder: a line each problem, a summary at the end")
        .after_help(EXIT_STATUS)
        .arg(folder())
}

const EXIT_STATUS: &str = "Exit status: 0 all is well, 1 damage was found, 2 it could not run.";

fn check(matches: &ArgMatches) -> ExitCode {
    tool(|out| tools::check(&*serve::real_fs(), path(matches), out))
}

fn inspect_command() -> Command {
    let json = || {
        let json = Arg::new("json").long("json").action(ArgAction::SetTrue);
        json.help(
            "one JSON value instead of tables: an array for each table, with the columns' names as keys",
        )
    };
    let path = |what: &'static str| {
        Arg::new("dir").value_name("DIR|FILE").required(true).value_parser(value_parser!(PathBuf)).help(what)
    };
    let slot = || {
        let slot =
            Arg::new("slot").long("slot").value_name("N").value_parser(value_parser!(u16).range(0..1024));
        slot.help("only this slot")
    };
    let limit = Arg::new("limit")
        .long("limit")
        .value_name("N")
        .value_parser(value_parser!(u64))
        .help("at most so many rows");
    let entries = Arg::new("entries").long("entries").action(ArgAction::SetTrue).help("show the entries too");
    let number =
        Arg::new("slot").value_name("N").required(true).value_parser(value_parser!(u16).range(0..1024));
    let kind = |name: &'static str, about: &'static str| Command::new(name).about(about).arg(json());
    Command::new("inspect")
        .about("Show what lies in the files of a store; read-only, also beside a running node")
        .after_help("Where something does not hold, a row says so, and the rest is shown. Exit status: 0, or 2 if it could not run.")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            kind("log", "Segments, frames, records").arg(path("a data folder, or a segment's file")).args([slot(), limit]),
        )
        .subcommand(
            kind("manifest", "The manifest's edits, and what they add up to")
                .arg(path("a data folder, or a manifest's file")),
        )
        .subcommand(kind("pack", "Pack files and their runs").arg(path("a data folder, or a pack's file")))
        .subcommand(
            kind("sst", "Runs, their blocks and entries").arg(path("a data folder, or a pack's file")).args([slot(), entries]),
        )
        .subcommand(kind("slot", "Everything of one slot").arg(path("a data folder")).arg(number.help("the slot")))
        .subcommand(kind("tree", "The runs of every slot").arg(path("a data folder")))
}

fn inspect(matches: &ArgMatches) -> ExitCode {
    let Some((kind, matches)) = matches.subcommand() else { return ExitCode::from(USAGE) };
    let slot = |name| matches.get_one::<u16>(name).copied().and_then(Slot::new);
    let subject = match kind {
        "log" => {
            let limit = matches.get_one::<u64>("limit").copied().unwrap_or(u64::MAX);
            Subject::Log { slot: slot("slot"), limit: usize::try_from(limit).unwrap_or(usize::MAX) }
        }
        "manifest" => Subject::Manifest,
        "pack" => Subject::Pack,
        "sst" => Subject::Sst { slot: slot("slot"), entries: matches.get_flag("entries") },
        "slot" => Subject::Slot(slot("slot").expect("clap requires it, below 1024")),
        _ => Subject::Tree,
    };
    let form = if matches.get_flag("json") { Form::Json } else { Form::Text };
    tool(|out| tools::inspect(&*serve::real_fs(), path(matches), &subject, form, out))
}

fn repair_command() -> Command {
    let slots = Arg::new("slots")
        .long("slots")
        .value_name("GROUP")
        .required(true)
        .value_parser(|text: &str| slot_group::parse_choice(text))
        .help(
            "the slots to give up, such as 5 or 0-3,8; none: mend what can be mended without giving up any",
        );
    let doubtful = Arg::new("keep-doubtful")
        .long("keep-doubtful")
        .action(ArgAction::SetTrue)
        .help("keep slots of which nothing tells whether they are whole; their newest writes may be missing");
    let yes = Arg::new("yes").long("yes").action(ArgAction::SetTrue).help("do not ask");
    Command::new("repair")
        .about("Give up damaged slots, so that a node starts again with all others; they can be copied anew")
        .after_help(format!(
            "The other slots keep all that they have. What goes is moved to DIR/trash. `haypile check` tells which slots \
             are damaged.\n\n{EXIT_STATUS}"
        ))
        .args([folder(), slots, doubtful, yes])
}

fn repair(matches: &ArgMatches) -> ExitCode {
    let slots = matches.get_one::<Vec<Slot>>("slots").cloned().unwrap_or_default();
    let doubtful = if matches.get_flag("keep-doubtful") { Doubtful::Keep } else { Doubtful::Refuse };
    let wanted = tools::Wanted { slots: &slots, doubtful };
    let mut ask = |question: &str| {
        if matches.get_flag("yes") { tools::Answer::Yes } else { ask_at_terminal(question) }
    };
    tool(|out| tools::repair(&serve::real_fs(), path(matches), &wanted, out, &mut ask))
}

fn ask_at_terminal(question: &str) -> tools::Answer {
    if !std::io::stdin().is_terminal() {
        return tools::Answer::Nobody;
    }
    eprint!("{question}");
    let mut line = String::new();
    match std::io::stdin().read_line(&mut line) {
        Ok(_) if line.trim().eq_ignore_ascii_case("yes") => tools::Answer::Yes,
        _ => tools::Answer::No,
    }
}

/// Runs a tool with standard output.
fn tool(run: impl FnOnce(&mut dyn Write) -> Result<u8, Failure>) -> ExitCode {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let done = run(&mut out).and_then(|status| Ok(out.flush().map(|()| status)?));
    match done {
        Ok(status) => ExitCode::from(status),
        // Whoever reads has seen enough.
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(why) => fail(&why.to_string(), tools::FAILED),
    }
}

fn demo(matches: &ArgMatches) -> ExitCode {
    demo::run(demo::Options {
        load: Duration::from_secs(matches.get_one("seconds").copied().unwrap_or_default()),
        folder: if matches.get_flag("keep") { Folder::Kept } else { Folder::Removed },
    })
}

fn serve(matches: &ArgMatches) -> ExitCode {
    let file = matches.get_one::<String>("config").map(PathBuf::from);
    let settings = match settings(matches, file.as_deref()) {
        Ok(settings) => settings,
        Err((why, status)) => return fail(&why, status),
    };
    start_logging(&settings.log_level);
    abort_on_panic();
    match serve::run(settings, file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => fail(&why, 1),
    }
}

/// Defaults, then the file, then flags. Without `--config`, what CONFIG REWRITE left in the data folder is the file.
fn settings(matches: &ArgMatches, file: Option<&Path>) -> Result<Settings, (String, u8)> {
    let fs = serve::real_fs();
    let flags = |settings: &mut Settings| {
        let given =
            PARAMS.iter().filter_map(|param| Some((param.name, matches.get_one::<String>(param.name)?)));
        for (name, value) in given {
            settings.set(name, value).map_err(|why| (format!("--{why}"), USAGE))?;
        }
        Ok(())
    };
    let mut settings = Settings::default();
    flags(&mut settings)?;
    let left = file_without_config(&settings);
    let file = match file {
        Some(file) => Some(file),
        None if fs.exists(&left).unwrap_or(false) => Some(left.as_path()),
        None => None,
    };
    if let Some(file) = file {
        let text = read_text(&*fs, file).map_err(|why| (why, 1))?;
        settings = Settings::default();
        settings.read_file(&file.display().to_string(), &text).map_err(|why| (why, 1))?;
        flags(&mut settings)?;
    }
    Ok(settings)
}

fn fail(why: &str, status: u8) -> ExitCode {
    eprintln!("haypile: {why}");
    ExitCode::from(status)
}

/// Events go to stderr, a line each; `RUST_LOG` overrides the level.
fn start_logging(level: &str) {
    let filter =
        tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| level.to_owned().into());
    let _ = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false)
        .with_env_filter(filter)
        .try_init();
}

/// A panic ends the process at once, as kill -9 would, which loses nothing acknowledged: what a broken promise leaves in
/// memory must not be served.
fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}
