//! Benchmarks of storage engines and of servers that speak the Redis protocol: the same load, the same clock, the same
//! counters and the same report for each. `haypile bench` is its command.
//!
//! | module | what it is |
//! |---|---|
//! | [`load`] | the operations: keys, values, popularity, workloads by the names that people know |
//! | [`plan`] | a run's settings, resolved |
//! | [`target`] | **the interface that a target implements** |
//! | [`targets`] | those that are here: Haypile's engine, any server, nothing |
//! | [`lane`], [`board`] | a thread's loop, closed or open, and where it reports |
//! | [`run`] | one run: threads, settling, counters before and after |
//! | [`process`] | CPU, memory, I/O and disk space, from outside |
//! | [`record`] | what is kept of a run |
//! | [`report`] | what was kept, side by side: text and a page with plots |
//! | [`servers`] | the table of servers: each in a process of its own, in turn |
//! | [`cli`] | the command line, for any list of targets |
//!
//! # To add a target in another crate
//!
//! 1. Depend on this crate by path.
//! 2. Implement [`target::Target`] for the open store and [`target::Worker`] for what a thread uses of it; return
//!    `Ok(Box::new(worker))` from [`target::Target::driver`]. [`targets::null`] is the shortest example.
//! 3. `main` is one call, with a row for each target; every flag, workload and output is the same as `haypile bench`'s:
//!
//! ```no_run
//! use haypile_bench::cli::{self, Kind};
//! use haypile_bench::targets::null::Null;
//!
//! fn main() -> std::process::ExitCode {
//!     let null = Kind {
//!         name: "null",
//!         about: "nothing",
//!         settings: "",
//!         // dir: an empty folder, or what an earlier run left; config: `--config name=value,...`; plan: of the chain's first
//!         // workload, of which `ordered`, `keys`, `value` and `sync` may matter for opening.
//!         open: |_dir, config, _plan| {
//!             config.all_used()?;
//!             Ok(Box::new(Null))
//!         },
//!     };
//!     cli::main(std::env::args_os(), &[null])
//! }
//! ```
//!
//! Be fair to it: the settings that its users would choose, all of them in [`target::Target::configuration`]; no loosened
//! durability; [`target::Target::settle`] waits for its background work, and its counters tell the causes of writes where
//! it can tell them.

pub mod board;
pub mod cli;
pub mod config;
pub mod error;
pub mod files;
pub mod lane;
pub mod load;
pub mod plan;
pub mod process;
pub mod record;
pub mod report;
pub mod run;
pub mod servers;
pub mod target;
pub mod targets;
pub mod terminal;
