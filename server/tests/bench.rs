//! `haypile bench` against a node: every workload for servers, for some milliseconds.

use haypile_bench::load::operation::Kind;
use haypile_bench::load::workload::{Needs, WORKLOADS, Workload};
use haypile_bench::plan::{Asked, Plan, Sync};
use haypile_bench::record::Run;
use haypile_bench::run::{self, Order, Unwatched};
use haypile_bench::target::Target;
use haypile_bench::targets::resp::{Access, RespTarget};

mod common;

const KEYS: u64 = 1000;

fn node() -> haypile_server::serve::Running {
    common::start(common::standalone())
}

fn asked() -> Asked {
    Asked {
        keys: KEYS,
        operations: Some(500),
        threads: 2,
        connections: 5,
        pipeline: 8,
        collections: 3,
        ..Asked::default()
    }
}

fn open(address: &str) -> RespTarget {
    RespTarget::open(Access { address: address.to_owned(), ..Access::default() }, false).expect("answers")
}

fn run_chain(address: &str, names: &[&str], asked: &Asked) -> Vec<Run> {
    let chain: Vec<&'static Workload> =
        names.iter().map(|name| Workload::named(name).expect("there is such a workload")).collect();
    let plans = Plan::resolve(asked, &chain).expect("makes sense");
    let target = open(address);
    let runs = chain.iter().zip(&plans).map(|(workload, plan)| {
        let order =
            Order { workload, plan: plan.clone(), chain: Vec::new(), repeat: 1, inserted: asked.keys };
        run::run(&target, &order, &mut Unwatched).expect("runs").0
    });
    runs.collect()
}

#[test]
fn every_workload_for_servers_is_answered_without_an_error() {
    let node = node();
    let address = node.address.to_string();
    let settle = haypile_bench::plan::Settle::None;
    for workload in WORKLOADS.iter().filter(|workload| workload.needs != Needs::Order) {
        let asked = Asked { value: Some("64".parse().expect("a size")), settle, ..asked() };
        let runs = run_chain(&address, &["fillrandom", workload.name], &asked);
        let (fill, run, name) = (&runs[0], &runs[1], workload.name);
        assert_eq!((fill.operations, fill.errors), (KEYS, 0), "{name}");
        assert_eq!((run.errors, run.first_error.as_deref()), (0, None), "{name}");
        let expected = if workload.is_fill() { KEYS } else { 500 };
        assert!((expected..expected + 200).contains(&run.operations), "{name}: {}", run.operations);
        let of = |kind| run.kinds.iter().filter(|of| of.kind == kind).map(|of| of.operations).sum::<u64>();
        match name {
            "readrandom" | "get" | "ycsb-c" | "readwhilewriting" => {
                assert_eq!(run.found_entries, 500, "{name}")
            }
            "multireadrandom" => assert_eq!(run.found_entries, run.operations, "{name}"),
            "readmissing" => assert_eq!(run.found_entries, 0, "{name}"),
            "ycsb-f" => assert_eq!(run.found_entries, 500, "{name}"),
            "incr" | "lpush" | "zadd" | "hset-small" | "hset-large" => {
                assert_eq!(of(Kind::Command), 500, "{name}")
            }
            "codis" | "codis-zipf" => {
                assert_eq!((run.plan.connections, run.plan.pipeline, run.plan.threads), (1, 512, 1));
            }
            _ => {}
        }
    }
    node.stop().expect("stops");
}

#[test]
fn a_server_says_who_it_is_and_a_workload_may_ask_for_its_writes_to_be_synced() {
    let node = node();
    let address = node.address.to_string();
    let target = open(&address);
    assert_eq!(target.name(), format!("haypile {}", env!("CARGO_PKG_VERSION")));
    assert_eq!(target.process(), Some(std::process::id()));
    assert_eq!(target.sync(), Sync::Everysec);
    let synced = || {
        let settings = open(&address).configuration();
        settings.into_iter().find(|(name, _)| name == "sync").expect("it is shown").1
    };
    target.set_sync(Sync::Always).expect("can do");
    assert_eq!(synced(), "always");
    target.set_sync(Sync::Everysec).expect("can do");
    assert_eq!(synced(), "everysec");
    target.set_sync(Sync::Always).expect("can do");
    Box::new(open(&address)).close().expect("what it found is what it leaves");
    assert_eq!(synced(), "always");
    Box::new(target).close().expect("can do");
    assert_eq!(open(&address).sync(), Sync::Everysec);
    node.stop().expect("stops");
}

#[test]
fn an_open_loop_spreads_over_connections_and_large_replies_fit() {
    let node = node();
    let address = node.address.to_string();
    let value = Some("300000".parse().expect("a size"));
    let asked =
        Asked { keys: 20, operations: Some(40), collections: 1, rate: Some(2000.0), value, ..asked() };
    let runs = run_chain(&address, &["fillrandom", "multireadrandom", "readrandom"], &asked);
    assert_eq!((runs[2].operations, runs[2].found_bytes, runs[2].errors), (40, 40 * 300_000, 0));
    assert!(runs[2].seconds >= 0.018, "{}", runs[2].seconds);
    node.stop().expect("stops");
}

#[test]
fn an_error_is_counted_and_the_first_is_kept() {
    let node = node();
    let address = node.address.to_string();
    let mut client = common::Client::connect(node.address);
    for number in 0..10 {
        client.send(format!("SET c{number:015} x\r\n").as_bytes());
        client.expect("+OK\r\n");
    }
    let run = &run_chain(&address, &["incr"], &Asked { keys: 10, collections: 1, ..asked() })[0];
    assert_eq!((run.operations, run.errors), (0, 500), "no counter can be there where strings are");
    assert_eq!(run.first_error.as_deref(), Some("ERR value is not an integer or out of range"));
    let wrong = RespTarget::open(Access { address, password: Some("no".into()), ..Access::default() }, false);
    assert!(wrong.is_err(), "there is no password to log in with");
    node.stop().expect("stops");
}
