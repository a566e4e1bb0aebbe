//! What a table's runs say together: medians, spread, ratios, goals. Pure.

use std::io::{self, Write};

use haypile_bench::record::Run;

use super::rows::{Bound, GOALS, Goal, Measure, SUSTAINED, rows};
use crate::kinds::NULL;

/// The target that the others are compared with.
const OURS: &str = "haypile";

/// What a row is called.
fn row_of(run: &Run) -> &str {
    run.label.as_deref().unwrap_or(&run.workload)
}

/// A target's name without its version.
fn short(run: &Run) -> &str {
    run.target.split(' ').next().unwrap_or_default()
}

/// Median, least and greatest.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spread {
    /// The median; of an even number, the lower one of the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_by(f64::total_cmp);
        let median = *values.get(values.len().checked_sub(1)? / 2)?;
        Some(Spread { median, min: values[0], max: values[values.len() - 1] })
    }
}

/// What of a run is measured; `None` if it is not known. The benchmark itself takes `harness_bytes` of memory.
fn measure(run: &Run, what: Measure, harness_bytes: u64) -> Option<f64> {
    let outside = run.outside.as_ref();
    match what {
        Measure::Rate if row_of(run) == SUSTAINED => {
            Some(run.operations as f64 / (run.seconds + run.settle_seconds))
        }
        Measure::Rate => Some(run.operations_per_second),
        Measure::Cpu => run.cpu_us_per_operation(),
        Measure::WorstMs => Some(run.latency.max_ns as f64 / 1e6),
        Measure::P999Ms => Some(run.latency.percentile_ns(99.9) as f64 / 1e6),
        Measure::SlowestSecond => {
            // The last second is not a whole one.
            let whole = &run.series[..run.series.len().checked_sub(1)?];
            let slowest = whole.iter().map(|second| second.operations).min()?;
            Some(slowest as f64 / run.operations_per_second)
        }
        Measure::WriteAmplification => {
            Some(outside?.write_call_bytes as f64 / run.written_bytes.max(1) as f64)
        }
        Measure::DiskMb => Some(run.disk_end_bytes? as f64 / 1e6),
        Measure::Memory => {
            let most = outside?.rss_peak_bytes.saturating_sub(harness_bytes);
            Some(most as f64 / run.memory_budget_bytes? as f64)
        }
    }
}

/// Runs of all rows, targets and repetitions.
pub struct Summary<'r> {
    runs: &'r [Run],
    /// Short names, in the order of their first runs, ours first.
    targets: Vec<&'r str>,
    /// What the benchmark itself takes of memory, as a run on nothing says.
    harness_bytes: u64,
}

impl<'r> Summary<'r> {
    /// A summary of runs.
    #[must_use]
    pub fn new(runs: &'r [Run]) -> Summary<'r> {
        let mut targets: Vec<&str> = Vec::new();
        for name in runs.iter().map(short) {
            if !targets.contains(&name) && name != NULL.name {
                targets.push(name);
            }
        }
        targets.sort_by_key(|name| *name != OURS);
        let nothing = runs.iter().filter(|run| short(run) == NULL.name);
        let harness_bytes = nothing.filter_map(|run| Some(run.outside.as_ref()?.rss_peak_bytes)).max();
        Summary { runs, targets, harness_bytes: harness_bytes.unwrap_or_default() }
    }

    /// What the repetitions of a row say.
    #[must_use]
    pub fn spread(&self, row: &str, target: &str, what: Measure) -> Option<Spread> {
        let of_row = self.runs.iter().filter(|run| row_of(run) == row && short(run) == target);
        Spread::of(of_row.filter_map(|run| measure(run, what, self.harness_bytes)).collect())
    }

    fn median(&self, row: &str, target: &str, what: Measure) -> Option<f64> {
        self.spread(row, target, what).map(|spread| spread.median)
    }

    /// Rows in which targets that did the same operations found different things, with what each found: none, if all is
    /// well.
    #[must_use]
    pub fn disagreements(&self) -> Vec<String> {
        let mut out = Vec::new();
        for row in rows() {
            let of_row: Vec<&Run> = self.runs.iter().filter(|run| row_of(run) == row).collect();
            for run in &of_row {
                let same = |other: &&&Run| other.repeat == run.repeat;
                // What is done for a time differs in how much is done.
                let Some(first) = of_row.iter().find(same).filter(|_| run.plan.seconds.is_none()) else {
                    continue;
                };
                let found = |run: &Run| (run.operations, run.found_entries, run.found_bytes);
                if found(first) != found(run) {
                    out.push(format!(
                        "{row}, repetition {}: {} found {:?}, {} found {:?}",
                        run.repeat,
                        short(first),
                        found(first),
                        short(run),
                        found(run)
                    ));
                }
                if run.errors > 0 {
                    let why = run.first_error.as_deref().unwrap_or_default();
                    out.push(format!("{row}: {} failed {} times: {why}", short(run), run.errors));
                }
            }
        }
        out
    }

    /// Writes everything as Markdown.
    ///
    /// # Errors
    /// As the output says.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let most =
            rows().flat_map(|row| self.targets.iter().map(move |target| self.count(row, target))).max();
        let most = most.unwrap_or_default();
        writeln!(
            out,
            "Medians of {most} unless another number is told (least to greatest): thousand operations a second; CPU \
             microseconds of one.\n"
        )?;
        self.main_table(out, most)?;
        for run in self.runs.iter().filter(|run| short(run) == NULL.name) {
            let (name, cpu) = (&run.workload, run.cpu_us_per_operation().unwrap_or_default());
            writeln!(out, "\nOf that, the benchmark's own work: {} us of each {name}.", digits(cpu))?;
        }
        writeln!(out, "\n{OURS} through each: operations a second / CPU of one.\n")?;
        self.ratios(out)?;
        writeln!(out, "\nSlowest operation, ms.\n")?;
        self.table(out, Measure::WorstMs, |row| !row.starts_with("read") && !row.starts_with("seek"))?;
        if self.targets.iter().any(|target| self.median(SUSTAINED, target, Measure::Rate).is_some()) {
            writeln!(out, "\n{SUSTAINED}: its debt settled within its time.\n")?;
            self.sustained(out)?;
        }
        writeln!(out, "\nGoals\n")?;
        self.goals(out)?;
        writeln!(out, "\nSettings\n")?;
        self.settings(out)
    }

    fn head(&self, out: &mut dyn Write, names: &[&str]) -> io::Result<()> {
        writeln!(out, "| | {} |", names.join(" | "))?;
        writeln!(out, "|---|{}", "---|".repeat(names.len()))
    }

    fn main_table(&self, out: &mut dyn Write, most: usize) -> io::Result<()> {
        self.head(out, &self.targets)?;
        for row in rows().filter(|row| self.runs.iter().any(|run| row_of(run) == *row)) {
            let cell = |target: &&str| {
                let Some(rate) = self.spread(row, target, Measure::Rate) else { return "–".to_owned() };
                let k = |rate: f64| digits(rate / 1e3);
                let cpu = self.median(row, target, Measure::Cpu).map_or("?".to_owned(), digits);
                let (median, least, greatest) = (k(rate.median), k(rate.min), k(rate.max));
                match self.count(row, target) {
                    1 if most == 1 => format!("{median}; {cpu}"),
                    count if count < most => format!("{median} ({least}-{greatest}, of {count}); {cpu}"),
                    _ => format!("{median} ({least}-{greatest}); {cpu}"),
                }
            };
            writeln!(out, "| {row} | {} |", self.targets.iter().map(cell).collect::<Vec<_>>().join(" | "))?;
        }
        Ok(())
    }

    fn count(&self, row: &str, target: &str) -> usize {
        self.runs.iter().filter(|run| row_of(run) == row && short(run) == target).count()
    }

    fn ratios(&self, out: &mut dyn Write) -> io::Result<()> {
        let others: Vec<&str> = self.targets.iter().copied().filter(|target| *target != OURS).collect();
        self.head(out, &others)?;
        for row in rows() {
            let ratio = |target: &str, what| {
                Some(
                    self.median(row, OURS, what)?
                        / self.median(row, target, what).filter(|value| *value > 0.0)?,
                )
            };
            let cells: Vec<String> = others
                .iter()
                .map(|target| match (ratio(target, Measure::Rate), ratio(target, Measure::Cpu)) {
                    (Some(rate), Some(cpu)) => format!("{rate:.2} / {cpu:.2}"),
                    _ => "–".to_owned(),
                })
                .collect();
            if cells.iter().any(|cell| cell != "–") {
                writeln!(out, "| {row} | {} |", cells.join(" | "))?;
            }
        }
        Ok(())
    }

    fn table(&self, out: &mut dyn Write, what: Measure, wanted: impl Fn(&str) -> bool) -> io::Result<()> {
        self.head(out, &self.targets)?;
        for row in rows().filter(|row| wanted(row)) {
            let cells: Vec<Option<Spread>> =
                self.targets.iter().map(|target| self.spread(row, target, what)).collect();
            if cells.iter().any(Option::is_some) {
                let cell = |spread: &Option<Spread>| match spread {
                    Some(spread) => format!("{} (to {})", digits(spread.median), digits(spread.max)),
                    None => "–".to_owned(),
                };
                writeln!(out, "| {row} | {} |", cells.iter().map(cell).collect::<Vec<_>>().join(" | "))?;
            }
        }
        Ok(())
    }

    fn sustained(&self, out: &mut dyn Write) -> io::Result<()> {
        self.head(out, &self.targets)?;
        for (name, what) in [
            ("operations a second", Measure::Rate),
            ("CPU, us", Measure::Cpu),
            ("p99.9, ms", Measure::P999Ms),
            ("slowest, ms", Measure::WorstMs),
            ("slowest second / mean", Measure::SlowestSecond),
            ("bytes in write calls / bytes put", Measure::WriteAmplification),
            ("disk, MB", Measure::DiskMb),
            ("most memory / budget", Measure::Memory),
        ] {
            let cell = |target: &&str| self.median(SUSTAINED, target, what).map_or("–".to_owned(), digits);
            writeln!(out, "| {name} | {} |", self.targets.iter().map(cell).collect::<Vec<_>>().join(" | "))?;
        }
        Ok(())
    }

    fn goals(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "| row | goal | is | |\n|---|---|---|---|")?;
        for Goal(row, what, bound) in GOALS {
            let Some(ours) = self.median(row, OURS, *what) else { continue };
            let Some((is, text, met)) = self.judge(row, *what, *bound, ours) else { continue };
            let met = if met { "reached" } else { "**missed**" };
            writeln!(out, "| {row} | {} {text} | {} | {met} |", name(*what), digits(is))?;
        }
        Ok(())
    }

    /// What is compared, the goal in words, and whether it is reached.
    fn judge(&self, row: &str, what: Measure, bound: Bound, ours: f64) -> Option<(f64, String, bool)> {
        let through = |peer: &str| {
            self.median(row, peer, what).filter(|theirs| *theirs > 0.0).map(|theirs| ours / theirs)
        };
        Some(match bound {
            Bound::AtLeast(least, peer) => {
                let is = through(peer)?;
                (is, format!(">= {least} x {peer}"), is >= least)
            }
            Bound::AtMost(most, peer) => {
                let is = through(peer)?;
                (is, format!("<= {most} x {peer}"), is <= most)
            }
            Bound::AtLeastBest(least) => {
                let peers = self.targets.iter().filter(|target| **target != OURS && **target != "bare");
                let is = peers.filter_map(|peer| through(peer)).min_by(f64::total_cmp)?;
                (is, format!(">= {least} x the best peer"), is >= least)
            }
            Bound::Above(least) => (ours, format!(">= {least}"), ours >= least),
            Bound::Below(most) => (ours, format!("<= {most}"), ours <= most),
        })
    }

    /// Each target's, of its first run; what differs between rows is in the results' file.
    fn settings(&self, out: &mut dyn Write) -> io::Result<()> {
        for target in &self.targets {
            let Some(run) = self.runs.iter().find(|run| short(run) == *target) else { continue };
            let settings: Vec<String> =
                run.configuration.iter().map(|(name, value)| format!("{name}={value}")).collect();
            writeln!(out, "- {}: {}", run.target, settings.join("; "))?;
        }
        Ok(())
    }
}

fn name(what: Measure) -> &'static str {
    match what {
        Measure::Rate => "ops/s",
        Measure::Cpu => "CPU us/op",
        Measure::WorstMs => "slowest ms",
        Measure::P999Ms => "p99.9 ms",
        Measure::SlowestSecond => "slowest second / mean",
        Measure::WriteAmplification => "write amplification",
        Measure::DiskMb => "disk MB",
        Measure::Memory => "memory / budget",
    }
}

fn digits(number: f64) -> String {
    haypile_bench::terminal::three_digits(number)
}

#[cfg(test)]
mod tests;
