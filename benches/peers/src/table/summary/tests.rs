//! What is said of runs whose figures are known.

use haypile_bench::load::workload::Workload;
use haypile_bench::plan::{Asked, Plan};
use haypile_bench::record::Outside;
use haypile_bench::run::{self, Order, Unwatched};
use haypile_bench::targets::null::Null;

use super::*;

/// A run with the shape of a real one.
fn run(target: &str, row: &str, repeat: u32, rate: f64, cpu_us: f64) -> Run {
    let workload = Workload::named("readrandom").unwrap();
    let asked = Asked { keys: 100, operations: Some(100), ..Asked::default() };
    let plan = Plan::resolve(&asked, &[workload]).unwrap().remove(0);
    let order = Order { workload, plan, chain: Vec::new(), repeat, inserted: 100 };
    let (mut run, _) = run::run(&Null, &order, &mut Unwatched).unwrap();
    run.target = target.to_owned();
    run.label = Some(row.to_owned());
    run.operations_per_second = rate;
    run.outside = Some(Outside { user_seconds: cpu_us * 100.0 / 1e6, ..Outside::default() });
    run
}

#[test]
fn medians_ratios_and_goals_are_those_of_the_runs() {
    let row = "readrandom, in cache";
    let mut runs: Vec<Run> = [300e3, 900e3, 600e3].map(|rate| run("haypile 0.1.0", row, 1, rate, 1.4)).into();
    runs.extend([200e3, 100e3, 300e3].map(|rate| run("rocksdb 7.8.3", row, 1, rate, 3.5)));
    runs.push(run("redb 4.6.0", row, 1, 550e3, 1.9));
    let summary = Summary::new(&runs);
    let rate = summary.spread(row, "rocksdb", Measure::Rate);
    assert_eq!(rate, Some(Spread { median: 200e3, min: 100e3, max: 300e3 }));
    let mut out = Vec::new();
    summary.write(&mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    for line in [
        "| readrandom, in cache | 600 (300-900); 1.40 | 200 (100-300); 3.50 | 550 (550-550, of 1); 1.90 |",
        "| readrandom, in cache | 3.00 / 0.40 | 1.09 / 0.74 |",
        "| readrandom, in cache | ops/s >= 2.5 x rocksdb | 3.00 | reached |",
        "| readrandom, in cache | ops/s >= 1.2 x redb | 1.09 | **missed** |",
        "| readrandom, in cache | CPU us/op <= 1.5 | 1.40 | reached |",
    ] {
        assert!(text.contains(line), "{line}\nin\n{text}");
    }
    assert!(!text.contains("fillsync"), "rows that were not run are not shown");
}

#[test]
fn targets_that_found_different_things_are_named() {
    let row = "readmissing";
    let mut runs: Vec<Run> =
        ["haypile 0.1.0", "rocksdb 7.8.3", "fjall 3.1.0"].map(|target| run(target, row, 1, 1e6, 1.0)).into();
    assert_eq!(Summary::new(&runs).disagreements(), Vec::<String>::new());
    runs[1].found_entries -= 1;
    let said = Summary::new(&runs).disagreements();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("rocksdb found"), "{said:?}");
}
