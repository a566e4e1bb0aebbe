//! Every interleaving of a few threads in the hand-made pieces of concurrency, on the code that the product runs.
//!
//! `cargo test -p haypile-engine --features loom --test models`; `HAYPILE_LONG=1` explores more. A wait that nobody ends
//! is a deadlock, which loom reports. What each model catches: `docs/TESTING.md`.

mod disk;
mod log;
mod signal;
mod store;
mod tail;
mod versions;

use loom::model::Builder;

/// How long a model may take with `HAYPILE_LONG`: those that are not through then have seen that many interleavings more.
const LONG: std::time::Duration = std::time::Duration::from_secs(60);

/// Explores a model: every interleaving in which threads are taken off at most `preemptions` times where they could go
/// on. With `HAYPILE_LONG` once more, for as long as [`LONG`].
fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    let long = std::env::var_os("HAYPILE_LONG").is_some_and(|value| value == "1");
    builder.preemption_bound = Some(preemptions + usize::from(long));
    builder.max_branches = 20_000;
    builder.max_duration = long.then_some(LONG);
    let runs = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = std::sync::Arc::clone(&runs);
    builder.check(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        model();
    });
    println!("{} interleavings", runs.load(std::sync::atomic::Ordering::Relaxed));
}
