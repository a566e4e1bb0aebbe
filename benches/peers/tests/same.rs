//! All targets are one map: after the same operations, reads, ranges and walks find the same entries and as many bytes.
//!
//! Values are of many lengths, so a stale or a lost value shows in the bytes.

#![allow(clippy::unwrap_used)] // what fails here fails the test

use std::path::Path;

use haypile_bench::cli::Kind;
use haypile_bench::config::Config;
use haypile_bench::load::workload::Workload;
use haypile_bench::plan::{Asked, Plan, Settle, Sync};
use haypile_bench::run::{self, Order, Unwatched};
use haypile_bench_peers::kinds::KINDS;

const KEYS: u64 = 5000;

/// Writes of every kind, with reads of every kind after each.
const CHAIN: &[&str] = &[
    "fillrandom",
    "readrandom",
    "overwrite",
    "readseq",
    "deleterandom",
    "readrandom",
    "readmissing",
    "multireadrandom",
    "seekrandom",
    "ycsb-a",
    "ycsb-e",
    "ycsb-f",
    "mset",
    "mixgraph",
    "readseq",
    "multireadrandom",
];

/// What of a run must be the same everywhere: workload, operations, entries and bytes found.
type Seen = (String, u64, u64, u64);

fn chain(names: &[&str]) -> Vec<&'static Workload> {
    names.iter().map(|name| Workload::named(name).unwrap()).collect()
}

/// Opens, runs and closes; gives what was seen, and how many keys there are after, of `inserted` before.
fn run_chain(kind: &Kind, dir: &Path, names: &[&str], asked: &Asked, mut inserted: u64) -> (Vec<Seen>, u64) {
    let memory = if kind.name == "bare" { "" } else { "memory=1m" };
    let chain = chain(names);
    // Ranges are walked before or after: keys and layouts are those of ordered chains.
    let mut with_ranges = chain.clone();
    with_ranges.extend(Workload::named("readseq"));
    let mut plans = Plan::resolve(asked, &with_ranges).unwrap();
    plans.truncate(chain.len());
    let target = (kind.open)(dir, Config::parse(memory).unwrap(), &plans[0]).unwrap();
    let mut seen = Vec::new();
    for (&workload, plan) in chain.iter().zip(plans) {
        let order = Order { workload, plan, chain: Vec::new(), repeat: 1, inserted };
        let (run, now) = run::run(&*target, &order, &mut Unwatched).unwrap();
        inserted = now;
        assert_eq!(run.errors, 0, "{}: {:?}", kind.name, run.first_error);
        seen.push((run.workload, run.operations, run.found_entries, run.found_bytes));
    }
    target.close().unwrap();
    (seen, inserted)
}

fn asked() -> Asked {
    let value = Some("uniform:1:300".parse().unwrap());
    Asked { keys: KEYS, operations: Some(4000), value, batch: Some(7), ..Asked::default() }
}

/// Runs on every target, in a folder of its own, and compares with what `bare`, a map, has seen.
fn all_see_the_same(asked: &Asked, names: &[&str], other: impl Fn(&Kind, &Path, &[Seen], u64)) {
    let bare = KINDS.iter().find(|kind| kind.name == "bare").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (wanted, _) = run_chain(bare, folder.path(), names, asked, asked.keys);
    assert!(wanted.iter().all(|(_, operations, _, _)| *operations > 0));
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let (seen, inserted) = run_chain(kind, folder.path(), names, asked, asked.keys);
        assert_eq!(seen, wanted, "{}", kind.name);
        other(kind, folder.path(), &wanted, inserted);
    }
}

#[test]
fn every_target_is_the_same_map_and_what_it_closed_it_opens_again() {
    all_see_the_same(&asked(), CHAIN, |kind, dir, wanted, inserted| {
        if kind.name != "bare" {
            let (again, _) = run_chain(kind, dir, &["readseq", "multireadrandom"], &asked(), inserted);
            // The walk begins at the least key again, and so does the other's choice of keys.
            assert_eq!(again, wanted[wanted.len() - 2..], "{}", kind.name);
        }
    });
}

#[test]
fn every_target_is_the_same_map_when_writes_are_synced_and_memory_is_flushed() {
    let asked = Asked { sync: Sync::Always, settle: Settle::Flush, operations: Some(300), ..asked() };
    let asked = Asked { keys: 300, ..asked };
    all_see_the_same(
        &asked,
        &["fillrandom", "overwrite", "mset", "deleterandom", "readrandom", "readseq"],
        |_, _, _, _| {},
    );
}

#[test]
fn threads_side_by_side_lose_nothing() {
    let asked = Asked { threads: 4, value: Some("100".parse().unwrap()), ..asked() };
    all_see_the_same(
        &asked,
        &["fillbatch", "overwrite", "ycsb-a", "readwhilewriting", "readrandom"],
        |_, _, _, _| {},
    );
}
