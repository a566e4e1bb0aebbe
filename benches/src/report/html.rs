//! Results as one page: a table, bars over all cases, and for each case its seconds and its latencies. No script and no
//! other file: it can be mailed. Pointing at a bar or a line shows its figure.

use std::fmt::Write;

use super::svg::{Axis, Bar, COLOURS, Line, Scale, bar_chart, escape, line_chart};
use super::{Case, METRICS, Metric, Results, Spread, bytes, nanoseconds, shown, whole};
use crate::record::{PERCENTILES, Run};

/// Told apart by people who see few colours, too (Okabe and Ito).
const PALETTE: [&str; COLOURS] =
    ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6d1f", "#7f7f7f"];

const STYLE: &str = "
:root{--ink:#1c1c1e;--soft:#6b6b70;--paper:#fff;--rule:#e4e4e8}
@media(prefers-color-scheme:dark){:root{--ink:#ececf0;--soft:#a0a0a8;--paper:#17171a;--rule:#34343a}}
body{font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:1180px;margin:2em auto;padding:0 1em}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.6em 0}
th,td{padding:.2em .8em;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}
th:first-child,td:first-child{text-align:left}
th{font-weight:600}.soft{color:var(--soft)}.wide{overflow-x:auto}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr));gap:1.2em 2em}
.key{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em}
td.settings{white-space:normal;text-align:left;width:100%}
.bad{color:#c0392b;font-weight:600}
svg{width:100%;height:auto}svg text{fill:var(--ink);font:11px system-ui,sans-serif}
svg .title{font-size:13px;font-weight:600}svg .tick,svg .axis{fill:var(--soft)}
svg .grid{stroke:var(--rule);stroke-width:1}svg .line{fill:none;stroke-width:1.8;stroke-linejoin:round}
svg .spread{stroke:var(--ink);stroke-width:1.5}
";

/// Writes into a string, which takes everything.
macro_rules! put {
    ($out:expr, $($text:tt)*) => {
        write!($out, $($text)*).expect("a string takes everything")
    };
}

/// The page.
#[must_use]
pub fn page(results: &Results) -> String {
    let mut out = String::from(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>haypile bench</title><style>",
    );
    out += STYLE;
    let colours = PALETTE.iter().enumerate().map(|(index, colour)| format!("--c{index}:{colour}"));
    put!(
        out,
        ":root{{{}}}</style></head><body><h1>haypile bench</h1>",
        colours.collect::<Vec<_>>().join(";")
    );
    for machine in &results.machines {
        put!(out, "<p class=\"soft\">{}</p>", escape(machine));
    }
    sides(results, &mut out);
    for name in ["ops/s", "CPU an operation", "write amplification", "p99.9", "disk space", "memory, peak"] {
        if name == "ops/s" {
            out += "<h2>All workloads</h2><div class=\"charts\">";
        }
        if let Some(metric) = METRICS.iter().find(|metric| metric.name == name) {
            out += &bars(metric, results);
        }
    }
    out += "</div>";
    (0..results.cases.len()).for_each(|number| of_case(number, results, &mut out));
    out + "</body></html>\n"
}

/// The sides with their colours and settings.
fn sides(results: &Results, out: &mut String) {
    out.push_str(
        "<div class=\"wide\"><table><tr><th>target</th><th style=\"text-align:left\">settings</th></tr>",
    );
    for (index, side) in results.sides.iter().enumerate() {
        let common = side.common();
        let others = side.configurations.iter().flatten().any(|one| *one != common);
        put!(
            out,
            "<tr><td>{}{}</td><td class=\"soft settings\">{}{}</td></tr>",
            key(index),
            escape(&side.label),
            escape(&shown(&common)),
            if others { "; more with each workload" } else { "" }
        );
    }
    out.push_str("</table></div>");
}

fn key(side: usize) -> String {
    format!("<span class=\"key\" style=\"background:var(--c{})\"></span>", side % COLOURS)
}

/// One metric of all cases; nothing if nobody says anything of it.
fn bars(metric: &Metric, results: &Results) -> String {
    let group = |case: &Case| {
        let bars: Vec<Bar> = (0..case.runs.len())
            .filter_map(|side| {
                let spread = metric.spread(&case.runs[side])?;
                let name = format!("{} {}", results.sides[side].label, case.label);
                Some(Bar { colour: side, name, value: spread.median, range: (spread.min, spread.max) })
            })
            .collect();
        (!bars.is_empty()).then(|| (case.label.clone(), bars))
    };
    let groups: Vec<(String, Vec<Bar>)> = results.cases.iter().filter_map(group).collect();
    if groups.is_empty() {
        return String::new();
    }
    format!("<div>{}</div>", bar_chart(metric.name, metric.show, &groups))
}

fn of_case(number: usize, results: &Results, out: &mut String) {
    let case = &results.cases[number];
    put!(out, "<h2>{}</h2>", escape(&case.label));
    let plan = &case.plan;
    let limits = [
        plan.operations.map(|operations| format!("{} operations", whole(operations as f64))),
        plan.seconds.map(|seconds| format!("{seconds} s")),
        plan.rate.map(|rate| format!("{} a second, open loop", whole(rate))),
    ];
    put!(
        out,
        "<p class=\"soft\">{} keys of {} B, values {} B to {} of their size, {}, {} slots, {} threads, sync {}, settle {:?}, {}</p>",
        whole(plan.keys as f64),
        plan.key_bytes,
        plan.value,
        plan.ratio,
        plan.distribution,
        plan.slots,
        plan.threads,
        plan.sync,
        plan.settle,
        limits.into_iter().flatten().collect::<Vec<_>>().join(", ")
    );
    let special = |side: usize| {
        let special = results.sides[side].special(number);
        let text =
            format!("{}{}: {}", key(side), escape(&results.sides[side].label), escape(&shown(&special)));
        (!special.is_empty()).then_some(text)
    };
    let special: Vec<String> = (0..results.sides.len()).filter_map(special).collect();
    if !special.is_empty() {
        put!(out, "<p class=\"soft\">{}</p>", special.join("<br>"));
    }
    let errors: u64 = case.runs.iter().flatten().map(|run| run.errors).sum();
    if errors > 0 {
        put!(out, "<p class=\"bad\">{errors} operations were answered with an error</p>");
    }
    table(case, results, out);
    out.push_str("<div class=\"charts\">");
    out.push_str(&over_time(case, results, "operations in each second", whole, |second| {
        Some(second.operations as f64)
    }));
    out.push_str(&latencies(case, results));
    out.push_str(&over_time(case, results, "slowest of each second", nanoseconds, |second| {
        Some(second.max_ns as f64)
    }));
    out.push_str(&over_time(case, results, "bytes to the device in each second", bytes, |second| {
        second
            .write_bytes
            .filter(|_| case.runs.iter().flatten().any(|run| run.written_bytes > 0))
            .map(|bytes| bytes as f64)
    }));
    out.push_str("</div>");
}

fn table(case: &Case, results: &Results, out: &mut String) {
    out.push_str("<div class=\"wide\"><table><tr><th>median of</th>");
    let present: Vec<usize> = (0..case.runs.len()).filter(|&side| !case.runs[side].is_empty()).collect();
    for &side in &present {
        put!(out, "<th>{}{} ({})</th>", key(side), escape(&results.sides[side].label), case.runs[side].len());
    }
    out.push_str("</tr>");
    for metric in &METRICS {
        let spreads: Vec<Option<Spread>> =
            present.iter().map(|&side| metric.spread(&case.runs[side])).collect();
        if spreads.iter().all(Option::is_none) {
            continue;
        }
        put!(out, "<tr><td>{}</td>", metric.name);
        for spread in spreads {
            match spread {
                None => out.push_str("<td>?</td>"),
                Some(Spread { median, min, max }) if min < max => {
                    let show = metric.show;
                    put!(out, "<td title=\"{} to {}\">{}</td>", show(min), show(max), show(median));
                }
                Some(spread) => put!(out, "<td>{}</td>", (metric.show)(spread.median)),
            }
        }
        out.push_str("</tr>");
    }
    out.push_str("</table></div>");
}

/// The run of a side whose rate is the median, or the one below it.
fn middle(runs: &[Run]) -> Option<&Run> {
    let mut sorted: Vec<&Run> = runs.iter().collect();
    sorted.sort_by(|a, b| a.operations_per_second.total_cmp(&b.operations_per_second));
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

/// Something of each second, of each side's middle run; nothing if all were too short.
fn over_time(
    case: &Case,
    results: &Results,
    title: &'static str,
    show: fn(f64) -> String,
    value: impl Fn(&crate::record::PerSecond) -> Option<f64>,
) -> String {
    let line = |side: usize| {
        let run = middle(&case.runs[side])?;
        // The last second is not a whole one.
        let whole = run.series.len().saturating_sub(1);
        let points = run.series[..whole].iter().enumerate();
        let points: Vec<(f64, f64)> =
            points.filter_map(|(second, of)| Some((second as f64 + 1.0, value(of)?))).collect();
        (points.len() >= 2).then(|| Line { colour: side, name: results.sides[side].label.clone(), points })
    };
    let lines: Vec<Line> = (0..case.runs.len()).filter_map(line).collect();
    if lines.is_empty() {
        return String::new();
    }
    let x = Axis {
        label: "seconds",
        scale: Scale::Linear,
        ticks: Vec::new(),
        show: |second| format!("{second}"),
    };
    let y = Axis { label: "", scale: Scale::Linear, ticks: Vec::new(), show };
    format!("<div>{}</div>", line_chart(title, &x, &y, &lines))
}

/// Latencies by percentile, of each side's middle run.
fn latencies(case: &Case, results: &Results) -> String {
    // Each nine more is as far from the one before.
    let place = |percentile: f64| 1.0 / (1.0 - percentile / 100.0);
    let line = |side: usize| {
        let run = middle(&case.runs[side])?;
        let points = run.latency.percentiles_ns.iter().filter(|(percentile, _)| *percentile < 100.0);
        let points = points.map(|&(percentile, latency)| (place(percentile), latency as f64)).collect();
        Some(Line { colour: side, name: results.sides[side].label.clone(), points })
    };
    let lines: Vec<Line> = (0..case.runs.len()).filter_map(line).collect();
    let ticks =
        PERCENTILES.iter().filter(|percentile| [50.0, 90.0, 99.0, 99.9, 99.99, 99.999].contains(percentile));
    let ticks = ticks.map(|&percentile| (place(percentile), format!("{percentile}"))).collect();
    let x = Axis { label: "percentile", scale: Scale::Log, ticks, show: |value| format!("{value}") };
    let y = Axis { label: "latency", scale: Scale::Log, ticks: Vec::new(), show: nanoseconds };
    format!("<div>{}</div>", line_chart("latency by percentile", &x, &y, &lines))
}
