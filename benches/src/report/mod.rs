//! Kept results, side by side: as text ([`compare`]) and as a page ([`html`]).
//!
//! A *side* is a target in one file of results; a *case* is a workload with its settings. What a side measured in a case are
//! its repetitions, of which the median counts and the least and greatest are shown. Only what has equal settings is a case:
//! nothing is compared that was loaded differently. A target that was set differently for different cases (more memory for
//! one than for another) is one side still; where it met one case with several settings, each of them is a side.

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

/// A target's settings.
pub type Configuration = BTreeMap<String, String>;

/// A target, in one file.
#[derive(Clone, PartialEq, Debug)]
pub struct Side {
    /// What it is called, unlike all others.
    pub label: String,
    /// The settings that it had in each case, in the order of [`Results::cases`]; none where it did not run.
    pub configurations: Vec<Option<Configuration>>,
}

impl Side {
    /// The settings that it had in all of its cases.
    #[must_use]
    pub fn common(&self) -> Configuration {
        let mut all = self.configurations.iter().flatten();
        let mut common = all.next().cloned().unwrap_or_default();
        all.for_each(|one| common.retain(|name, value| one.get(name) == Some(value)));
        common
    }

    /// Those settings of a case that it did not have in all others.
    #[must_use]
    pub fn special(&self, case: usize) -> Configuration {
        let common = self.common();
        let mut special = self.configurations.get(case).cloned().flatten().unwrap_or_default();
        special.retain(|name, _| !common.contains_key(name));
        special
    }
}

/// Settings as text.
fn shown(configuration: &Configuration) -> String {
    let settings = configuration.iter().map(|(name, value)| format!("{name}={value}"));
    settings.collect::<Vec<_>>().join(" ")
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
        let mut keys: Vec<Key<'_>> = Vec::new();
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
        let sides = join_sides(&keys, &mut cases);
        Results { sides, cases, machines }
    }
}

/// File, target and settings of runs.
type Key<'a> = (&'a str, &'a str, Configuration);

/// Makes one side of the runs of a target with different settings, unless two of them are of one case.
fn join_sides(keys: &[Key<'_>], cases: &mut [Case]) -> Vec<Side> {
    let of_target = |index: &usize| {
        let (file, target, _) = &keys[*index];
        (0..keys.len()).filter(move |other| (keys[*other].0, keys[*other].1) == (*file, *target))
    };
    let meets_itself = |index: &usize| {
        cases.iter().any(|case| of_target(index).filter(|&key| !case.runs[key].is_empty()).count() > 1)
    };
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for index in 0..keys.len() {
        if meets_itself(&index) {
            groups.push(vec![index]);
        } else if of_target(&index).next() == Some(index) {
            groups.push(of_target(&index).collect());
        }
    }
    let labels = name_sides(keys);
    let side = |group: &Vec<usize>| {
        let settings = |case: &Case| {
            let key = group.iter().find(|&&key| !case.runs[key].is_empty())?;
            Some(keys[*key].2.clone())
        };
        let label = match group[..] {
            [only] => labels[only].clone(),
            _ => name_of(keys, group[0]),
        };
        Side { label, configurations: cases.iter().map(settings).collect() }
    };
    let sides = groups.iter().map(side).collect();
    for case in cases {
        let mut runs = std::mem::take(&mut case.runs);
        let of_group =
            |group: &Vec<usize>| group.iter().flat_map(|&key| std::mem::take(&mut runs[key])).collect();
        case.runs = groups.iter().map(of_group).collect();
    }
    sides
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

/// A target's name, with its file's where there are several.
fn name_of(keys: &[Key<'_>], index: usize) -> String {
    let one_file = keys.windows(2).all(|two| two[0].0 == two[1].0);
    let (file, target, _) = &keys[index];
    if one_file { (*target).to_owned() } else { format!("{file}: {target}") }
}

/// Names that tell targets apart by what is set otherwise, too.
fn name_sides(keys: &[Key<'_>]) -> Vec<String> {
    let label = |index: usize| {
        let (file, target, configuration) = &keys[index];
        let others = keys.iter().filter(|(f, t, c)| (f, t) == (file, target) && c != configuration);
        let mut different: Vec<String> = others
            .flat_map(|(_, _, other)| {
                configuration.iter().filter(|(name, value)| other.get(*name) != Some(value))
            })
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        different.sort();
        different.dedup();
        match different.is_empty() {
            true => name_of(keys, index),
            false => format!("{} ({})", name_of(keys, index), different.join(" ")),
        }
    };
    (0..keys.len()).map(label).collect()
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
