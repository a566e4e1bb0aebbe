//! The command line: which subcommand, and for `serve` a flag for every key of the configuration.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Arg, ArgMatches, Command};
use haypile_engine::fs::{Fs, OpenMode};

use crate::config::{PARAMS, Settings};
use crate::serve;

/// What a wrong command line ends with.
const USAGE: u8 = 2;
/// The longest configuration file, in bytes.
const CONFIG_BYTES_MAX: u64 = 16 << 20;

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

fn serve(matches: &ArgMatches) -> ExitCode {
    let fs = serve::real_fs();
    let file = matches.get_one::<String>("config").map(PathBuf::from);
    let mut settings = Settings::default();
    if let Some(file) = &file {
        let read =
            read_text(&*fs, file).and_then(|text| settings.read_file(&file.display().to_string(), &text));
        if let Err(why) = read {
            return fail(&why, 1);
        }
    }
    for param in PARAMS {
        if let Some(value) = matches.get_one::<String>(param.name)
            && let Err(why) = settings.set(param.name, value)
        {
            return fail(&format!("--{why}"), USAGE);
        }
    }
    start_logging(&settings.log_level);
    abort_on_panic();
    match serve::run(settings, file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => fail(&why, 1),
    }
}

fn fail(why: &str, status: u8) -> ExitCode {
    eprintln!("haypile: {why}");
    ExitCode::from(status)
}

/// Reads a text file whole.
///
/// # Errors
/// A line that names the file.
pub fn read_text(fs: &dyn Fs, path: &Path) -> Result<String, String> {
    let named = |error: std::io::Error| format!("{}: {error}", path.display());
    let file: Arc<dyn haypile_engine::fs::File> = fs.open(path, OpenMode::Read).map_err(named)?;
    let size = file.size().map_err(named)?;
    if size > CONFIG_BYTES_MAX {
        return Err(format!("{}: {size} bytes are too many for a configuration file", path.display()));
    }
    let mut bytes = vec![0; usize::try_from(size).map_err(|error| error.to_string())?];
    let read = file.read_at(&mut bytes, 0).map_err(named)?;
    bytes.truncate(read);
    String::from_utf8(bytes).map_err(|_| format!("{}: not UTF-8 text", path.display()))
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
