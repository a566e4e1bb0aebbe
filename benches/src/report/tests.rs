//! Results of known figures, side by side.

use super::*;
use crate::load::workload::Workload;
use crate::plan::Asked;
use crate::record::{Latency, Outside, PERCENTILES, PerSecond};

fn run(target: &str, workload: &str, threads: usize, rate: f64) -> Run {
    let chain = [Workload::named(workload).expect("there is such a workload")];
    let plan = Plan::resolve(&Asked { threads, ..Asked::default() }, &chain).expect("makes sense").remove(0);
    let percentiles_ns =
        PERCENTILES.iter().map(|&percentile| (percentile, 1000 + crate::load::floor(percentile))).collect();
    Run {
        format: FORMAT,
        started_ms: 1,
        machine: BTreeMap::from([("cores".to_owned(), "2".to_owned())]),
        target: target.to_owned(),
        configuration: BTreeMap::from([("memory".to_owned(), "1 <2>".to_owned())]),
        workload: workload.to_owned(),
        label: None,
        chain: vec![workload.to_owned()],
        repeat: 1,
        plan,
        operations: 1000,
        seconds: 1000.0 / rate,
        settle_seconds: 0.0,
        operations_per_second: rate,
        harness_ns: 50.0,
        found_entries: 0,
        found_bytes: 0,
        written_bytes: 1000,
        errors: 0,
        first_error: None,
        latency: Latency { mean_ns: 1000.0, min_ns: 1, max_ns: 5_000_000, percentiles_ns },
        kinds: Vec::new(),
        beside: None,
        series: vec![PerSecond { operations: 300, write_bytes: Some(7), ..PerSecond::default() }; 4],
        outside: Some(Outside { user_seconds: 0.002, write_bytes: 3000, ..Outside::default() }),
        disk_start_bytes: None,
        disk_end_bytes: Some(12_000_000),
        memory_budget_bytes: None,
        counters: BTreeMap::new(),
    }
}

fn results() -> Results {
    let a = vec![
        run("one", "overwrite", 1, 100.0),
        run("one", "overwrite", 1, 300.0),
        run("one", "overwrite", 1, 200.0),
        run("one", "readrandom", 1, 50.0),
        run("one", "overwrite", 8, 900.0),
    ];
    let b = vec![run("two", "overwrite", 1, 500.0)];
    Results::sort(&[("a".to_owned(), a), ("b".to_owned(), b)])
}

#[test]
fn runs_are_sorted_by_target_and_by_load() {
    let results = results();
    let labels: Vec<&str> = results.sides.iter().map(|side| side.label.as_str()).collect();
    assert_eq!(labels, ["a: one", "b: two"]);
    let labels: Vec<&str> = results.cases.iter().map(|case| case.label.as_str()).collect();
    assert_eq!(labels, ["overwrite (threads 1)", "readrandom", "overwrite (threads 8)"]);
    let counts: Vec<Vec<usize>> =
        results.cases.iter().map(|case| case.runs.iter().map(Vec::len).collect()).collect();
    assert_eq!(counts, [[3, 1], [1, 0], [1, 0]]);
    let spread = METRICS[0].spread(&results.cases[0].runs[0]);
    assert_eq!(spread, Some(Spread { median: 200.0, min: 100.0, max: 300.0 }));
    assert_eq!(Spread::of(vec![1.0, 4.0]).map(|spread| spread.median), Some(2.5));
    assert_eq!(Spread::of(Vec::new()), None);
}

#[test]
fn targets_of_one_name_are_told_apart_by_their_settings() {
    let mut other = run("one", "overwrite", 1, 1.0);
    other.configuration.insert("memory".to_owned(), "5".to_owned());
    other.configuration.insert("process".to_owned(), "77".to_owned());
    let results = Results::sort(&[("a".to_owned(), vec![run("one", "overwrite", 1, 1.0), other])]);
    let labels: Vec<&str> = results.sides.iter().map(|side| side.label.as_str()).collect();
    assert_eq!(labels, ["one (memory=1 <2>)", "one (memory=5)"]);
}

#[test]
fn a_target_with_other_settings_for_another_load_is_one_side() {
    let mut other = run("one", "readrandom", 1, 1.0);
    other.configuration.insert("memory".to_owned(), "5".to_owned());
    other.configuration.insert("block".to_owned(), "4096".to_owned());
    let mut first = run("one", "overwrite", 1, 1.0);
    first.configuration.insert("block".to_owned(), "4096".to_owned());
    let runs = vec![first, other, run("two", "readrandom", 1, 1.0)];
    let results = Results::sort(&[("a".to_owned(), runs)]);
    let labels: Vec<&str> = results.sides.iter().map(|side| side.label.as_str()).collect();
    assert_eq!(labels, ["one", "two"]);
    let counts: Vec<Vec<usize>> =
        results.cases.iter().map(|case| case.runs.iter().map(Vec::len).collect()).collect();
    assert_eq!(counts, [[1, 0], [1, 1]]);
    let one = &results.sides[0];
    assert_eq!(shown(&one.common()), "block=4096");
    assert_eq!((shown(&one.special(0)), shown(&one.special(1))), ("memory=1 <2>".into(), "memory=5".into()));
    assert_eq!(shown(&results.sides[1].special(1)), "");
    let page = html::page(&results);
    assert!(page.contains("one: memory=5") && page.contains("block=4096; more with each workload"));
}

#[test]
fn a_comparison_has_medians_spreads_and_ratios() {
    let mut out = Vec::new();
    compare::write(&results(), &mut out).expect("writes");
    let text = String::from_utf8(out).expect("text");
    let squeezed = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in [
        "[1] of 3 [2] of 1 / [1]",
        "ops/s 200 (100 to 300) 500 2.50",
        "CPU an operation 2.00 us 2.00 us 1.00",
        "write amplification 3.00 3.00 1.00",
        "disk space 12.0 MB",
    ] {
        assert!(squeezed.contains(expected), "{expected}:\n{text}");
    }
}

#[test]
fn a_page_is_whole_and_says_nothing_that_it_was_not_told() {
    let page = html::page(&results());
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</body></html>\n"));
    assert!(
        !page.contains("<script") && !page.contains("http") && !page.contains("NaN") && !page.contains("inf")
    );
    assert!(page.contains("memory=1 &lt;2&gt;"), "what a target says of itself is text");
    for tag in ["svg", "div", "table", "tr", "h2", "p"] {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
    assert_eq!(page.matches("operations in each second").count(), 2 * 3);
}

#[test]
fn a_line_that_is_no_result_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("r.json");
    files::append_line(&path, &serde_json::to_string(&run("one", "get", 1, 1.0)).expect("writes"))
        .expect("appends");
    assert_eq!(read(&path).map(|runs| runs.len()).expect("reads"), 1);
    files::append_line(&path, "{}").expect("appends");
    let why = read(&path).expect_err("no result").to_string();
    assert!(why.contains("line 2"), "{why}");
}
