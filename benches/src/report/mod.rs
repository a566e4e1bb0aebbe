//! Kept results, side by side: as text ([`compare`]) and as a page ([`html`]).
//!
//! A *side* is a target with its settings, in one file of results; a *case* is a workload with its settings. What a side
//! measured in a case are its repetitions, of which the median counts and the least and greatest are shown. Only what has
//! equal settings is a case: nothing is compared that was loaded differently.

pub mod compare;
pub mod html;
mod svg;

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files;
use crate::plan::Plan;
use crate::record::{FORMAT, Run};
use crate::terminal;

/// Settings of a target that say where it ran, not how.
const PLACES: [&str; 2] = ["address", "process"];

/// Settings of a load that follow from others.
const FOLLOWING: [&str; 3] = ["ordered", "sliding", "tagged"];

/// A target with its settings, in one file.
#[derive(Clone, PartialEq, Debug)]
pub struct Side {
    /// What it is called, unlike all others.
    pub label: String,
    /// Its settings.
    pub configuration: BTreeMap<String, String>,
}

/// A workload with its settings, and what each side measured in it.
#[derive(Clone, PartialEq, Debug)]
pub struct Case {
    /// The workload, with those settings that tell it from others of that name.
    pub label: String,
    /// The settings.
    pub plan: Plan,
    /// Each side's repetitions, in the order of [`Results::sides`].
    pub runs: Vec<Vec<Run>>,
}

/// Results, sorted.
#[derive(Clone, PartialEq, Debug)]
pub struct Results {
    /// In the order in which they come in the files.
    pub sides: Vec<Side>,
    /// In the order in which they come in the files.
    pub cases: Vec<Case>,
    /// The machines that they ran on.
    pub machines: Vec<String>,
}

/// Reads a file of results.
///
/// # Errors
/// If it can't be read, or a line is no result.
pub fn read(path: &Path) -> Result<Vec<Run>> {
    let text = files::read_text(path)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |(number, line): (usize, &str)| {
        let at = |why: String| Error::file(path, format!("line {}: {why}", number + 1));
        let run: Run = serde_json::from_str(line).map_err(|why| at(why.to_string()))?;
        match run.format {
            FORMAT => Ok(run),
            other => Err(at(format!("its format is {other}, and {FORMAT} is what this program reads"))),
        }
    };
    lines.map(parse).collect()
}

impl Results {
    /// Sorts the runs of some files, each with what its file is called.
    #[must_use]
    pub fn sort(files: &[(String, Vec<Run>)]) -> Results {
        let mut keys: Vec<(&str, &str, BTreeMap<String, String>)> = Vec::new();
        let mut cases: Vec<Case> = Vec::new();
        let mut machines: Vec<String> = Vec::new();
        for (file, run) in files.iter().flat_map(|(file, runs)| runs.iter().map(move |run| (file, run))) {
            let mut configuration = run.configuration.clone();
            configuration.retain(|name, _| !PLACES.contains(&name.as_str()));
            // When writes are answered is the load's setting, which cases differ by.
            configuration.remove("sync");
            configuration.remove("appendfsync");
            let side = place(&mut keys, (file, &run.target, configuration));
            let name = run.label.as_ref().unwrap_or(&run.workload);
            let like = |case: &Case| case.label == *name && comparable(&case.plan, &run.plan);
            let case = cases.iter().position(like).unwrap_or_else(|| {
                cases.push(Case { label: name.clone(), plan: run.plan.clone(), runs: Vec::new() });
                cases.len() - 1
            });
            let runs = &mut cases[case].runs;
            runs.resize(runs.len().max(side + 1), Vec::new());
            runs[side].push(run.clone());
            let machine = run.machine.iter().map(|(name, value)| format!("{name} {value}"));
            place(&mut machines, machine.collect::<Vec<_>>().join(", "));
        }
        cases.iter_mut().for_each(|case| case.runs.resize(keys.len(), Vec::new()));
        name_cases(&mut cases);
        Results { sides: name_sides(&keys), cases, machines }
    }
}

/// The place of an item in a list, at its end if it was not there.
fn place<T: PartialEq>(list: &mut Vec<T>, item: T) -> usize {
    list.iter().position(|there| *there == item).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    })
}

/// Whether two runs had the same load.
fn comparable(a: &Plan, b: &Plan) -> bool {
    let load = |plan: &Plan| Plan { seed: 0, ..plan.clone() };
    load(a) == load(b)
}

fn name_sides(keys: &[(&str, &str, BTreeMap<String, String>)]) -> Vec<Side> {
    let one_file = keys.windows(2).all(|two| two[0].0 == two[1].0);
    let label = |index: usize| {
        let (file, target, configuration) = &keys[index];
        let mut label = if one_file { (*target).to_owned() } else { format!("{file}: {target}") };
        // Others of that name are told apart by what is set otherwise.
        let others = keys.iter().filter(|(f, t, c)| (f, t) == (file, target) && c != configuration);
        let mut different: Vec<String> = others
            .flat_map(|(_, _, other)| {
                configuration.iter().filter(|(name, value)| other.get(*name) != Some(value))
            })
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        different.sort();
        different.dedup();
        if !different.is_empty() {
            label += &format!(" ({})", different.join(" "));
        }
        label
    };
    (0..keys.len()).map(|index| Side { label: label(index), configuration: keys[index].2.clone() }).collect()
}

fn name_cases(cases: &mut [Case]) {
    let settings = |case: &Case| match serde_json::to_value(&case.plan) {
        Ok(serde_json::Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    };
    let all: Vec<_> = cases.iter().map(|case| (case.label.clone(), settings(case))).collect();
    for (index, case) in cases.iter_mut().enumerate() {
        let (name, mine) = &all[index];
        let others = all.iter().filter(|(other, _)| other == name).map(|(_, settings)| settings);
        let mut different: Vec<String> = others
            .flat_map(|other| mine.iter().filter(|(name, value)| other.get(*name) != Some(value)))
            .filter(|(name, _)| !FOLLOWING.contains(&name.as_str()))
            .map(|(name, value)| format!("{name} {}", value.to_string().trim_matches('"')))
            .collect();
        different.sort();
        different.dedup();
        if !different.is_empty() {
            case.label += &format!(" ({})", different.join(", "));
        }
    }
}

/// The median of some numbers, with the least and the greatest.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spread {
    /// The one in the middle, or between the two there.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of some numbers; `None` of none.
    #[must_use]
    pub fn of(mut numbers: Vec<f64>) -> Option<Spread> {
        numbers.sort_by(f64::total_cmp);
        let middle = numbers.len() / 2;
        let median = match numbers.len() % 2 {
            _ if numbers.is_empty() => return None,
            1 => numbers[middle],
            _ => f64::midpoint(numbers[middle - 1], numbers[middle]),
        };
        Some(Spread { median, min: numbers[0], max: numbers[numbers.len() - 1] })
    }
}

/// Something that is compared.
pub struct Metric {
    /// What it is called.
    pub name: &'static str,
    /// What a run says of it.
    pub value: fn(&Run) -> Option<f64>,
    /// As text.
    pub show: fn(f64) -> String,
}

/// All that is compared.
pub const METRICS: [Metric; 15] = [
    Metric { name: "ops/s", value: |run| Some(run.operations_per_second), show: whole },
    Metric {
        name: "ops/s, settling counted",
        value: |run| Some(run.operations as f64 / (run.seconds + run.settle_seconds)),
        show: whole,
    },
    Metric {
        name: "CPU an operation",
        value: |run| Some(run.cpu_us_per_operation()? * 1e3),
        show: nanoseconds,
    },
    Metric { name: "p50", value: |run| Some(run.latency.percentile_ns(50.0) as f64), show: nanoseconds },
    Metric { name: "p99", value: |run| Some(run.latency.percentile_ns(99.0) as f64), show: nanoseconds },
    Metric { name: "p99.9", value: |run| Some(run.latency.percentile_ns(99.9) as f64), show: nanoseconds },
    Metric { name: "slowest", value: |run| Some(run.latency.max_ns as f64), show: nanoseconds },
    Metric { name: "write amplification", value: Run::write_amplification, show: terminal::three_digits },
    Metric {
        name: "of it the log",
        value: |run| amplification(run, "log_write_bytes"),
        show: terminal::three_digits,
    },
    Metric {
        name: "of it flushes",
        value: |run| amplification(run, "flush_write_bytes"),
        show: terminal::three_digits,
    },
    Metric {
        name: "of it compactions",
        value: |run| amplification(run, "compaction_write_bytes"),
        show: terminal::three_digits,
    },
    Metric {
        name: "cache hits of 100",
        value: |run| {
            let (hits, misses) = (run.counters.get("cache_hits")?, run.counters.get("cache_misses")?);
            (hits + misses > 0.0).then(|| 100.0 * hits / (hits + misses))
        },
        show: terminal::three_digits,
    },
    Metric {
        name: "writers held up",
        value: |run| Some(run.counters.get("stall_ms")? * 1e6),
        show: nanoseconds,
    },
    Metric { name: "disk space", value: |run| run.disk_end_bytes.map(|bytes| bytes as f64), show: bytes },
    Metric {
        name: "memory, peak",
        value: |run| run.outside.as_ref().map(|outside| outside.rss_peak_bytes as f64),
        show: bytes,
    },
];

/// Bytes that a target says it wrote for one reason, for each byte of keys and values written.
fn amplification(run: &Run, counter: &str) -> Option<f64> {
    let bytes = run.counters.get(counter)?;
    (run.written_bytes > 0).then(|| bytes / run.written_bytes as f64)
}

impl Metric {
    /// What repetitions say of it.
    #[must_use]
    pub fn spread(&self, runs: &[Run]) -> Option<Spread> {
        Spread::of(runs.iter().filter_map(self.value).collect())
    }
}

fn whole(number: f64) -> String {
    terminal::grouped(crate::load::floor(number.round()))
}

fn nanoseconds(number: f64) -> String {
    terminal::time(crate::load::floor(number.round()))
}

fn bytes(number: f64) -> String {
    terminal::bytes(crate::load::floor(number.round()))
}

#[cfg(test)]
mod tests;
