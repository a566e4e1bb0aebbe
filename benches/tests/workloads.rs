//! The workloads do what they say, on a disk in memory.

use std::path::Path;
use std::sync::Arc;

use haypile_bench::embedded::Store;
use haypile_bench::plan::{Plan, Workload};
use haypile_engine::clock::SystemClock;
use haypile_engine::engine::Options;
use haypile_engine::fs::memory::MemoryFs;

#[test]
fn what_a_fill_wrote_is_read_after_a_restart_and_nothing_else() {
    let fs = MemoryFs::new();
    let options = Options { memory_bytes: 1 << 20, log_segment_bytes: 1 << 20, ..Options::default() };
    let open = || {
        let clock = Arc::new(SystemClock::new());
        Store::open(Arc::new(fs.clone()), Path::new("/store"), clock, options.clone()).expect("opens")
    };
    let plan =
        |workload, keys| Plan { workload, keys, operations: 2000, value_bytes: 500, batch: 16, seed: 3 };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let run = |store: &Store, plan: Plan| runtime.block_on(store.run(&plan)).expect("runs");

    let store = open();
    let filled = run(&store, plan(Workload::FillRandom, 5000));
    assert_eq!((filled.operations, filled.found), (5000, 0));
    assert_eq!(run(&store, plan(Workload::Overwrite, 5000)).operations, 2000);
    assert_eq!(run(&store, plan(Workload::ReadRandom, 5000)).found, 2000);
    store.close().expect("closes");

    let store = open();
    assert_eq!(run(&store, plan(Workload::ReadRandom, 5000)).found, 2000);
    let half = run(&store, plan(Workload::ReadRandom, 10_000)).found;
    assert!((800..1200).contains(&half), "{half} of 2000 reads over twice the keys");
    assert!(filled.permille(500) <= filled.permille(1000));
    store.close().expect("closes");
}
