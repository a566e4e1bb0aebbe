//! What is seen while a run goes on, and the table at the end.

use std::io::Write;

use crate::record::Run;
use crate::run::{Tick, Watcher};

/// Prints a line a second to standard error.
#[derive(Debug)]
pub struct Progress {
    title: String,
}

impl Progress {
    /// Lines that begin with a title.
    #[must_use]
    pub fn new(title: &str) -> Progress {
        Progress { title: title.to_owned() }
    }
}

impl Watcher for Progress {
    fn tick(&mut self, tick: &Tick) {
        let mut line = format!("{} {:>4} s {:>10}/s", self.title, tick.second, grouped(tick.operations));
        if let Some((p50, p99, max)) = tick.latency_ns {
            line += &format!("  p50 {} p99 {} max {}", time(p50), time(p99), time(max));
        }
        if let Some((now, before)) = tick.process {
            line += &format!(
                "  cpu {:.2} rss {} wrote {}/s",
                now.cpu_seconds() - before.cpu_seconds(),
                bytes(now.rss_bytes),
                bytes(now.write_bytes.saturating_sub(before.write_bytes))
            );
        }
        if let Some(done) = tick.done {
            line += &format!("  {:.0} %", done * 100.0);
        }
        eprintln!("{line}");
    }

    fn settling(&mut self) {}
}

/// The heads of [`row`]'s columns.
const HEADS: [&str; 13] = [
    "workload",
    "ops/s",
    "settle",
    "p50",
    "p99",
    "p99.9",
    "max",
    "cpu/op",
    "write amp",
    "written",
    "read",
    "disk",
    "rss peak",
];

/// What is known of a run, as text; `?` is what can't be known.
fn row(run: &Run) -> [String; 13] {
    let unknown = || "?".to_owned();
    let latency = |percentile| time(run.latency.percentile_ns(percentile));
    let outside = run.outside.as_ref();
    [
        run.workload.clone(),
        grouped(crate::load::floor(run.operations_per_second)),
        format!("{:.2} s", run.settle_seconds),
        latency(50.0),
        latency(99.0),
        latency(99.9),
        time(run.latency.max_ns),
        run.cpu_us_per_operation().map_or_else(unknown, |cpu| format!("{cpu:.2} us")),
        match run.written_bytes {
            0 => "-".to_owned(),
            _ => run.write_amplification().map_or_else(unknown, |ratio| format!("{ratio:.2}")),
        },
        outside.map_or_else(unknown, |outside| bytes(outside.write_bytes)),
        outside.map_or_else(unknown, |outside| bytes(outside.read_bytes)),
        run.disk_end_bytes.map_or_else(unknown, bytes),
        outside.map_or_else(unknown, |outside| bytes(outside.rss_peak_bytes)),
    ]
}

/// Writes a table of runs, and what does not fit in it below.
///
/// # Errors
/// As the output says.
pub fn table(runs: &[Run], out: &mut dyn Write) -> std::io::Result<()> {
    let rows: Vec<[String; 13]> = runs.iter().map(row).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([HEADS[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..HEADS.len()).map(width).collect();
    let mut line = |cells: &[String]| {
        let cells = cells.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    line(&HEADS.map(str::to_owned))?;
    rows.iter().try_for_each(|row| line(row))?;
    for run in runs {
        below(run, out)?;
    }
    Ok(())
}

fn below(run: &Run, out: &mut dyn Write) -> std::io::Result<()> {
    let title = &run.workload;
    if run.errors > 0 {
        let first = run.first_error.as_deref().unwrap_or_default();
        writeln!(out, "{title}: {} OPERATIONS WERE ANSWERED WITH AN ERROR, the first: {first}", run.errors)?;
    }
    if run.kinds.len() > 1 || run.beside.is_some() {
        for kind in run.kinds.iter().chain(&run.beside) {
            let latency = |percentile| time(kind.latency.percentile_ns(percentile));
            writeln!(
                out,
                "{title}: {} {}: p50 {} p99 {} p99.9 {} max {}",
                grouped(kind.operations),
                kind.kind.name(),
                latency(50.0),
                latency(99.0),
                latency(99.9),
                time(kind.latency.max_ns)
            )?;
        }
    }
    let mut facts = Vec::new();
    if run.found_entries > 0 {
        facts.push(format!("found {} entries, {}", grouped(run.found_entries), bytes(run.found_bytes)));
    }
    for (name, value) in run.counters.iter().filter(|(_, value)| **value != 0.0) {
        facts.push(match name.strip_suffix("_bytes") {
            Some(name) => format!("{name} {}", bytes(crate::load::floor(*value))),
            None => format!("{name} {value}"),
        });
    }
    if run.harness_ns > 0.0 {
        facts.push(format!("making and timing an operation {:.0} ns", run.harness_ns));
    }
    if !facts.is_empty() {
        writeln!(out, "{title}: {}", facts.join(", "))?;
    }
    Ok(())
}

/// A number with its thousands apart.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A time with three digits and its unit.
#[must_use]
pub fn time(nanoseconds: u64) -> String {
    let number = nanoseconds as f64;
    let (number, unit) = match nanoseconds {
        0..1000 => return format!("{nanoseconds} ns"),
        1000..1_000_000 => (number / 1e3, "us"),
        1_000_000..1_000_000_000 => (number / 1e6, "ms"),
        _ => (number / 1e9, "s"),
    };
    format!("{} {unit}", three_digits(number))
}

/// Bytes with three digits and their unit.
#[must_use]
pub fn bytes(count: u64) -> String {
    let number = count as f64;
    let (number, unit) = match count {
        0..1000 => return format!("{count} B"),
        1000..1_000_000 => (number / 1e3, "kB"),
        1_000_000..1_000_000_000 => (number / 1e6, "MB"),
        _ => (number / 1e9, "GB"),
    };
    format!("{} {unit}", three_digits(number))
}

/// A number with about three digits.
#[must_use]
pub fn three_digits(number: f64) -> String {
    match number.abs() {
        large if large >= 99.95 => format!("{number:.0}"),
        medium if medium >= 9.995 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            (grouped(0), grouped(999), grouped(1_234_567)),
            ("0".into(), "999".into(), "1,234,567".into())
        );
        assert_eq!(
            (time(999), time(1234), time(123_400)),
            ("999 ns".into(), "1.23 us".into(), "123 us".into())
        );
        assert_eq!(
            (bytes(12), bytes(12_340), bytes(1_999_000_000)),
            ("12 B".into(), "12.3 kB".into(), "2.00 GB".into())
        );
    }
}
