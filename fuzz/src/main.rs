//! Runs the targets: each over its corpus, then over mutations of it for some time or number.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use haypile_engine::clock::{Clock, SystemClock};
use haypile_fuzz::mutate::{Dice, mutated};
use haypile_fuzz::{TARGETS, Target, corpus, find};

/// Inputs between two looks at the clock.
const ROUND: usize = 256;

/// Fuzzes the decoders: each target over its corpus, then over seeded mutations of it.
#[derive(Parser)]
struct Options {
    /// Only these targets
    targets: Vec<String>,
    /// How long each target is tried
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Repeats a run: the mutations follow from it
    #[arg(long)]
    seed: Option<u64>,
    /// Runs one input from a file
    #[arg(long, requires = "targets")]
    input: Option<PathBuf>,
    /// Writes what our encoders give into the corpora
    #[arg(long)]
    write_corpus: bool,
    /// Copies a folder's inputs into the target's corpus, such as what `cargo fuzz cmin` has left
    #[arg(long, requires = "targets")]
    keep: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let unknown = options.targets.iter().find(|name| find(name).is_none());
    if let Some(name) = unknown {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("there is no target {name}; there are {}", names.join(", "));
        return ExitCode::from(2);
    }
    let is_chosen =
        |target: &&Target| options.targets.is_empty() || options.targets.iter().any(|n| n == target.name);
    let chosen: Vec<&Target> = TARGETS.iter().filter(is_chosen).collect();
    if options.write_corpus {
        return write_corpus(&chosen);
    }
    if let Some(folder) = &options.keep {
        return keep(chosen[0], folder);
    }
    if let Some(path) = &options.input {
        return run_file(chosen[0], path);
    }
    let clock = SystemClock::new();
    let seed = options.seed.unwrap_or(clock.wall().0);
    std::panic::set_hook(Box::new(|_| {}));
    let mut failed = 0;
    for target in &chosen {
        match fuzz(target, seed, options.seconds, &clock) {
            Ok(tried) => println!("  ok   {:14} {tried} inputs", target.name),
            Err(why) => {
                failed += 1;
                println!("  FAIL {:14} {why}", target.name);
            }
        }
    }
    println!("fuzz: {} passed, {failed} failed", chosen.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Tries a target; how many inputs it took, or what broke it and how to see it again.
fn fuzz(target: &Target, seed: u64, seconds: u64, clock: &SystemClock) -> Result<usize, String> {
    let named = corpus::load(target).map_err(|error| format!("the corpus can't be read: {error}"))?;
    for (name, input) in &named {
        attempt(target, input).map_err(|why| format!("on {name} of its corpus: {why}"))?;
    }
    let inputs: Vec<Vec<u8>> = named.into_iter().map(|(_, input)| input).collect();
    let mut dice = Dice::new(seed);
    let end = clock.monotonic() + Duration::from_secs(seconds);
    let mut tried = inputs.len();
    while clock.monotonic() < end {
        for _ in 0..ROUND {
            let mut input = mutated(&inputs, &mut dice);
            if dice.below(2) == 0 {
                (target.repair)(&mut input);
            }
            tried += 1;
            attempt(target, &input).map_err(|why| kept(target, seed, &input, &why))?;
        }
    }
    Ok(tried)
}

fn attempt(target: &Target, input: &[u8]) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| target.run_within_memory(input))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })
}

/// Keeps the input, and says how to run it again.
fn kept(target: &Target, seed: u64, input: &[u8], why: &str) -> String {
    let file = PathBuf::from("target/fuzz").join(format!("{}-{}", target.name, corpus::name_of(input)));
    let place = match corpus::write(&file, input) {
        Ok(()) => file.display().to_string(),
        Err(error) => format!("nowhere ({error})"),
    };
    let name = target.name;
    format!(
        "{why}\n       the input is in {place}; see it again with\n       cargo run -p haypile-fuzz -- {name} --input {place}\n       \
         or repeat: cargo run --release -p haypile-fuzz -- {name} --seed {seed}\n       and keep it: cp {place} fuzz/corpus/{name}/"
    )
}

fn run_file(target: &Target, path: &Path) -> ExitCode {
    match corpus::read(path) {
        Ok(input) => {
            target.run_within_memory(&input);
            println!("{}: {} bytes pass", target.name, input.len());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}

fn write_corpus(targets: &[&Target]) -> ExitCode {
    for target in targets {
        for sample in (target.samples)() {
            if let Err(error) = corpus::keep(target, &sample) {
                eprintln!("{}: {error}", target.name);
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn keep(target: &Target, folder: &Path) -> ExitCode {
    let kept = corpus::inputs_in(folder).and_then(|inputs| {
        inputs.iter().try_for_each(|(_, input)| corpus::keep(target, input)).map(|()| inputs.len())
    });
    match kept {
        Ok(count) => {
            println!("{}: {count} inputs kept", target.name);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}
