//! Results as text: for each case a table of what each side measured, and its ratio to the first side.

use std::io::{self, Write};

use super::{METRICS, Metric, Results, Spread, shown};
use crate::record::Run;

/// Writes the comparison.
///
/// # Errors
/// As the output says.
pub fn write(results: &Results, out: &mut dyn Write) -> io::Result<()> {
    for (index, side) in results.sides.iter().enumerate() {
        writeln!(out, "[{}] {}: {}", index + 1, side.label, shown(&side.common()))?;
    }
    if results.machines.len() > 1 {
        writeln!(out, "These ran on different machines:")?;
        results.machines.iter().try_for_each(|machine| writeln!(out, "  {machine}"))?;
    }
    for (number, case) in results.cases.iter().enumerate() {
        let present: Vec<usize> = (0..case.runs.len()).filter(|&side| !case.runs[side].is_empty()).collect();
        writeln!(out, "\n{}", case.label)?;
        for &side in &present {
            let special = results.sides[side].special(number);
            if !special.is_empty() {
                writeln!(out, "  [{}] has {}", side + 1, shown(&special))?;
            }
        }
        let errors: u64 = case.runs.iter().flatten().map(|run| run.errors).sum();
        if errors > 0 {
            writeln!(out, "  {errors} OPERATIONS WERE ANSWERED WITH AN ERROR")?;
        }
        let mut rows = vec![head(&present, &case.runs)];
        rows.extend(METRICS.iter().filter_map(|metric| row(metric, &present, &case.runs)));
        lines(&rows, out)?;
    }
    Ok(())
}

fn head(present: &[usize], runs: &[Vec<Run>]) -> Vec<String> {
    let mut row = vec!["median (least to greatest)".to_owned()];
    for (place, &side) in present.iter().enumerate() {
        row.push(format!("[{}] of {}", side + 1, runs[side].len()));
        if place > 0 {
            row.push(format!("/ [{}]", present[0] + 1));
        }
    }
    row
}

/// What each side says of a metric; `None` if none says anything.
fn row(metric: &Metric, present: &[usize], runs: &[Vec<Run>]) -> Option<Vec<String>> {
    let spreads: Vec<Option<Spread>> = present.iter().map(|&side| metric.spread(&runs[side])).collect();
    spreads.iter().flatten().next()?;
    let mut row = vec![metric.name.to_owned()];
    for (place, spread) in spreads.iter().enumerate() {
        row.push(spread.map_or_else(|| "?".to_owned(), |spread| show(metric, spread)));
        if place > 0 {
            let ratio = spreads[0].zip(*spread).filter(|(first, _)| first.median > 0.0);
            row.push(ratio.map_or_else(
                || "?".to_owned(),
                |(first, this)| format!("{:.2}", this.median / first.median),
            ));
        }
    }
    Some(row)
}

fn show(metric: &Metric, spread: Spread) -> String {
    let median = (metric.show)(spread.median);
    if spread.min < spread.max {
        format!("{median} ({} to {})", (metric.show)(spread.min), (metric.show)(spread.max))
    } else {
        median
    }
}

fn lines(rows: &[Vec<String>], out: &mut dyn Write) -> io::Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        writeln!(out, "  {}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}
