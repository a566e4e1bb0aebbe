//! Every workload does what it says, for some milliseconds, on an engine that is open in a folder of its own.

use std::path::Path;
use std::sync::Arc;

use haypile_bench::config::Config;
use haypile_bench::error::Error;
use haypile_bench::load::operation::Kind;
use haypile_bench::load::workload::{Needs, WORKLOADS, Workload};
use haypile_bench::plan::{Asked, Plan, Settle};
use haypile_bench::record::Run;
use haypile_bench::run::{self, Order, Unwatched};
use haypile_bench::target::Target;
use haypile_bench::targets::engine::EngineTarget;
use haypile_engine::fs::memory::MemoryFs;

const KEYS: u64 = 2000;

fn asked() -> Asked {
    Asked { keys: KEYS, operations: Some(600), threads: 2, batch: Some(7), ..Asked::default() }
}

fn chain(names: &[&str]) -> Vec<&'static Workload> {
    names.iter().map(|name| Workload::named(name).expect("there is such a workload")).collect()
}

fn open(fs: &MemoryFs, plan: &Plan) -> EngineTarget {
    let config = Config::parse("memory=1m,segment=1m").expect("parses");
    EngineTarget::open(Arc::new(fs.clone()), Path::new("/store"), config, plan).expect("opens")
}

/// Runs a chain on a new store.
fn run_chain(names: &[&str], asked: &Asked) -> Vec<Run> {
    let chain = chain(names);
    let plans = Plan::resolve(asked, &chain).expect("makes sense");
    let target = open(&MemoryFs::new(), &plans[0]);
    let mut inserted = KEYS;
    let mut runs = Vec::new();
    for (workload, plan) in chain.iter().zip(&plans) {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        let order = Order { workload, plan: plan.clone(), chain: names, repeat: 1, inserted };
        let (run, now) = run::run(&target, &order, &mut Unwatched).expect("runs");
        inserted = now;
        runs.push(run);
    }
    Box::new(target).close().expect("closes");
    runs
}

fn of(run: &Run, kind: Kind) -> u64 {
    run.kinds.iter().filter(|of| of.kind == kind).map(|of| of.operations).sum()
}

#[test]
fn every_workload_for_engines_runs_after_a_fill_and_keeps_its_promises() {
    for workload in WORKLOADS.iter().filter(|workload| workload.needs != Needs::Redis) {
        let value = Some("300".parse().expect("a size"));
        let runs = run_chain(&["fillrandom", workload.name], &Asked { value, ..asked() });
        let (fill, run) = (&runs[0], &runs[1]);
        assert_eq!((fill.operations, of(fill, Kind::Write)), (KEYS, KEYS));
        assert_eq!(fill.written_bytes, KEYS * 316);
        let name = workload.name;
        assert_eq!(run.errors, 0, "{name}");
        let expected = if workload.is_fill() { KEYS } else { 600 };
        // A lane may go beyond its share by the rest of a batch or walk.
        assert!((expected..expected + 2000).contains(&run.operations), "{name}: {}", run.operations);
        let of_kinds: u64 = run.kinds.iter().map(|kind| kind.operations).sum();
        assert_eq!(of_kinds, run.operations, "{name}");
        assert_eq!(run.series.iter().map(|second| second.operations).sum::<u64>(), run.operations, "{name}");
        assert!(run.latency.max_ns >= run.latency.percentile_ns(50.0), "{name}");
        let found_all = match name {
            "readrandom" | "readwhilewriting" | "get" | "ycsb-c" => Some(600),
            "multireadrandom" => Some(run.operations),
            "seekrandom" => None,
            "readmissing" => Some(0),
            "readseq" => Some(run.operations),
            _ => None,
        };
        if let Some(found) = found_all {
            assert_eq!(run.found_entries, found, "{name}");
        }
        assert_eq!(run.beside.is_some(), workload.writer_beside, "{name}");
    }
}

#[test]
fn scans_find_what_they_pass_over_however_the_keys_are_cut() {
    for slots in [1, 5, 1024] {
        let asked = Asked { slots: Some(slots), scan: Some(10), ..asked() };
        let runs = run_chain(&["fillseq", "seekrandom", "readseq"], &asked);
        // Only a scan that begins at one of the last keys finds fewer.
        let found = runs[1].found_entries;
        assert!(found > 600 * 10 - 200 && found <= 6000, "{slots} slots: {found}");
        assert_eq!(runs[2].found_entries, runs[2].operations);
        assert_eq!(runs[2].found_bytes, runs[2].operations * 116);
    }
}

#[test]
fn inserted_keys_are_there_for_the_workloads_that_follow() {
    let runs = run_chain(
        &["ycsb-load", "ycsb-d", "readrandom"],
        &Asked { value: Some("20".parse().expect("a size")), ..asked() },
    );
    assert!(of(&runs[1], Kind::Insert) > 10);
    assert_eq!(runs[2].found_entries, 600);
}

#[test]
fn an_open_loop_keeps_its_rate_and_counts_from_the_intended_start() {
    let asked = Asked { operations: Some(100), rate: Some(1000.0), ..asked() };
    let runs = run_chain(&["fillrandom", "readrandom"], &Asked { operations: Some(100), ..asked });
    // 100 operations at 1000 a second end 99 ms after the first; nothing says how much later on a busy machine.
    assert!(runs[1].seconds >= 0.097, "{}", runs[1].seconds);
    assert_eq!(runs[1].operations, 100);
    assert_eq!((runs[0].plan.rate, runs[1].plan.rate), (None, Some(1000.0)), "the fill only makes the data");
}

#[test]
fn what_a_target_cannot_do_is_refused_before_it_begins() {
    for workload in WORKLOADS {
        let refused = run::check("engine", false, workload);
        assert_eq!(refused.is_err(), workload.needs == Needs::Redis, "{}", workload.name);
        let refused = run::check("resp", true, workload);
        assert_eq!(refused.is_err(), workload.needs == Needs::Order, "{}", workload.name);
    }
    let plan = &Plan::resolve(&asked(), &chain(&["seekrandom"])).expect("makes sense")[0];
    let fs = Arc::new(MemoryFs::new());
    for text in ["layout=keys", "layout=other", "nobody=knows", "memory=x"] {
        let config = Config::parse(text).expect("parses");
        let opened = EngineTarget::open(fs.clone(), Path::new("/store"), config, plan);
        assert!(matches!(opened, Err(Error::Usage(_))), "{text}");
    }
}

#[test]
fn a_settled_store_has_nothing_left_to_compact_and_its_log_is_counted() {
    let asked = Asked { settle: Settle::Flush, ..asked() };
    let run = &run_chain(&["fillrandom"], &asked)[0];
    assert!(run.counters["log_write_bytes"] >= run.written_bytes as f64);
    // Everything was flushed, so a run holds it, compressed to half or so.
    let written = run.counters["flush_write_bytes"];
    assert!(
        written > 0.4 * run.written_bytes as f64 && written < 3.0 * run.written_bytes as f64,
        "{written}"
    );
    let json = serde_json::to_string(run).expect("writes");
    assert_eq!(&serde_json::from_str::<Run>(&json).expect("reads"), run);
}
