//! `haypile-bench-peers TARGET …` as `haypile bench`, and `haypile-bench-peers --table` for all of them.

use std::process::ExitCode;

use haypile_bench::cli;
use haypile_bench_peers::kinds::{KINDS, NULL};
use haypile_bench_peers::table;

fn main() -> ExitCode {
    let mut args: Vec<_> = std::env::args_os().collect();
    if args.get(1).is_some_and(|first| first == "--table") {
        args.remove(1);
        return table::main(args);
    }
    cli::main(args, &[KINDS, &[NULL]].concat())
}
