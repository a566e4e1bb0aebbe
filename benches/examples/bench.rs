//! Runs workloads and prints what they took:
//!
//! ```text
//! cargo run --release -p haypile-bench --example bench -- fillrandom readrandom --keys 1000000
//! cargo run --release -p haypile-bench --example bench -- fillrandom readrandom --address 127.0.0.1:9221
//! ```

use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use haypile_bench::embedded::Store;
use haypile_bench::plan::{Plan, Workload};
use haypile_bench::resp::Connection;
use haypile_engine::clock::SystemClock;
use haypile_engine::engine::Options;
use haypile_engine::fs::real::RealFs;

/// Runs workloads one after another, on the engine in this process or on a server.
#[derive(Parser)]
struct Arguments {
    /// fillrandom, overwrite, readrandom
    #[arg(required = true)]
    workloads: Vec<Workload>,
    /// How many keys there are
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Operations of overwrite and readrandom
    #[arg(long, default_value_t = 100_000)]
    operations: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 100)]
    value_bytes: usize,
    /// Operations in one write or one pipeline
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// All choices follow from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A server's host:port; without it the engine runs in this process
    #[arg(long)]
    address: Option<String>,
    /// The engine's folder; without it a temporary one
    #[arg(long)]
    dir: Option<PathBuf>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let clock = Arc::new(SystemClock::new());
    let plans = arguments.workloads.iter().map(|&workload| Plan {
        workload,
        keys: arguments.keys.max(1),
        operations: arguments.operations,
        value_bytes: arguments.value_bytes,
        batch: arguments.batch,
        seed: arguments.seed,
    });
    if let Some(address) = &arguments.address {
        let mut connection = Connection::open(address)?;
        for plan in plans {
            println!("{:?}: {}", plan.workload, connection.run(&plan, &*clock)?);
        }
        return Ok(());
    }
    let temporary = tempfile::tempdir()?;
    let dir = arguments.dir.clone().unwrap_or_else(|| temporary.path().join("store"));
    let store = Store::open(Arc::new(RealFs), &dir, clock, Options::default())?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    for plan in plans {
        println!("{:?}: {}", plan.workload, runtime.block_on(store.run(&plan))?);
    }
    Ok(store.close()?)
}
