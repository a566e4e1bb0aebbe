//! The flags of `haypile torture`, and what its promises mean, word for word as they are judged.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use haypile_engine::simulation::{Case, Setup};

use super::judge::{Kill, Promise};
use super::{Options, script, sim};

/// The subcommand.
#[must_use]
pub fn command() -> Command {
    let option = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let number = |name: &'static str, default: &'static str, most: u64, help: &'static str| {
        option(name, "N", help).default_value(default).value_parser(value_parser!(u64).range(1..=most))
    };
    let setups: Vec<_> = Setup::ALL.iter().chain([&Setup::CANARY]).map(|setup| setup.name).collect();
    Command::new("torture")
        .about("Kill a server again and again under load, and check that it keeps its promise")
        .after_help(HELP)
        .args([
            option(
                "server",
                "CMD",
                "the server's command for a shell, with {port} and {dir}; it stays in the foreground",
            )
            .required_unless_present("sim"),
            Arg::new("sim")
                .long("sim")
                .action(ArgAction::SetTrue)
                .conflicts_with_all(["server", "clients", "keys", "kill", "promise", "replay"])
                .help(
                    "instead of a server, the engine alone on a simulated disk, stopped at every operation",
                ),
            option("seed", "N", "what the history follows from [by chance]").value_parser(value_parser!(u64)),
            number("seconds", "30", 1_000_000, "how long it runs"),
            number("clients", "8", script::CLIENTS_MAX as u64, "how many clients work at once"),
            number("keys", "400", 1_000_000, "how many keys they have, all together"),
            option("kill", "HOW", "how the server is ended")
                .value_parser(script::words(&script::KILLS))
                .default_value("sigkill"),
            option("promise", "WHAT", "what the server promises of an acknowledged write")
                .value_parser(script::words(&script::PROMISES))
                .default_value("always"),
            option("json", "FILE", "a file for the result"),
            option("replay", "FILE", "run the script in this file instead; it says what is promised"),
            option("setup", "NAME", "with --sim: only this set of options")
                .value_parser(setups)
                .requires("sim"),
            option("case", "CASE", "with --sim: only this case, as a violation told it")
                .value_parser(value_parser!(Case))
                .requires("sim"),
        ])
}

const HELP: &str = "\
PROMISES
  always    An acknowledged write is never lost, however the server ends.
  everysec  After SIGKILL, writes acknowledged in the last 2 seconds before it may be lost: of each key the last ones, with
            no hole. What was acknowledged earlier, or was read back after an earlier kill, is there. After SIGTERM nothing
            is lost.
  none      After SIGKILL and SIGTERM any number of the last writes of a key may be lost, even all.
With each of them, what a key holds is a state that it had: no command or MULTI by half, on one key or several, no value that
nobody wrote, no write without the earlier ones on its key, nothing that had been replaced, deleted, expired or lost. Answers
fit what was acknowledged before. A write that was not answered may be there or not. A command that is answered with
an error must not have happened. The server comes back after every kill within 60 seconds, and ends within 60 seconds of SIGTERM.

KILLS
  sigkill   at random moments; now and then the server is killed while it starts, too
  sigterm   at random moments, under load
  none      never: everything is read back from the running server

Each client owns its keys, so that what they must hold is known exactly; some counters, lists and sets are shared by all. A
violation is told with the last operations on its key, made smaller by running smaller histories, and left as a script
in ./haypile-torture-SEED.txt (or, where that can't be written, in the server's folder); that folder stays.

SIMULATION
  --sim tries Haypile's engine itself, without process, socket or disk: a seeded workload on a disk in memory, stopped before
  each of its operations (killed, killed within a write, power lost) and at each operation of some recoveries, each operation failed
  once; after each stop it is started and held to what its replies promised. A violation is told with the case that
  repeats it (--case) and a short story. --setup lying-disk is a canary: there, writes must be found to be lost.

EXIT STATUS
  0  the promise was kept      1  it was not      2  nothing can be said: the server did not start, a flag is wrong

EXAMPLES
  haypile torture --server 'haypile serve --standalone --port {port} --dir {dir} --sync always'
  haypile torture --server 'redis-server --port {port} --dir {dir} --appendonly yes --appendfsync always'
  haypile torture --server 'redis-server --port {port} --dir {dir} --appendonly yes' --promise everysec
  haypile torture --sim --seconds 60";

/// Does what the flags say; the process's exit status.
#[must_use]
pub fn run(matches: &ArgMatches) -> ExitCode {
    let number = |name: &str| matches.get_one::<u64>(name).copied();
    let count = |name: &str| number(name).and_then(|number| usize::try_from(number).ok()).unwrap_or(1);
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let chosen = |name: &str| text(name).unwrap_or_default();
    if matches.get_flag("sim") {
        return sim::run_sim(&sim::Options {
            seed: number("seed").unwrap_or_else(|| u64::from(rand::random::<u32>())),
            time: Duration::from_secs(number("seconds").unwrap_or_default()),
            setup: text("setup").and_then(|name| Setup::named(&name)),
            case: matches.get_one::<Case>("case").cloned(),
            json: text("json").map(PathBuf::from),
        });
    }
    super::run(&Options {
        server: chosen("server"),
        seed: number("seed").unwrap_or_else(|| u64::from(rand::random::<u32>())),
        time: Duration::from_secs(number("seconds").unwrap_or_default()),
        clients: count("clients"),
        keys: count("keys"),
        kill: script::value(&script::KILLS, &chosen("kill")).unwrap_or(Kill::Sigkill),
        promise: script::value(&script::PROMISES, &chosen("promise")).unwrap_or(Promise::Always),
        json: text("json").map(PathBuf::from),
        replay: text("replay").map(PathBuf::from),
    })
}
