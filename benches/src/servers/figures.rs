//! What the table's repetitions measured, as numbers by row, measure and server; and what they say together. Pure.

use std::fmt::Write as _;

use serde::Serialize;

use super::rows::{Bound, Goal, Measure};
use crate::report::Spread;
use crate::terminal::three_digits;

/// Whose figures the goals are about.
const OURS: &str = "haypile";

#[derive(Debug)]
struct Figure {
    row: String,
    measure: Measure,
    server: String,
    values: Vec<f64>,
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Figures(Vec<Figure>);

/// A goal and what became of it, as the summary's JSON has it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Verdict {
    /// The row.
    pub row: String,
    /// What is measured.
    pub measure: &'static str,
    /// The goal in words.
    pub goal: String,
    /// Haypile's figure or, if the goal is a ratio, that.
    pub is: f64,
    /// Whether it is met.
    pub met: bool,
}

/// A row's figure, as the summary's JSON has it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Shown {
    /// The row.
    pub row: String,
    /// What is measured.
    pub measure: &'static str,
    /// Whose.
    pub server: String,
    /// The median, least and greatest of the repetitions.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// How many repetitions.
    pub of: usize,
}

impl Figures {
    /// Takes down a figure of one repetition.
    pub fn put(&mut self, row: &str, measure: Measure, server: &str, value: f64) {
        let same = |figure: &&mut Figure| {
            (figure.row.as_str(), figure.measure, figure.server.as_str()) == (row, measure, server)
        };
        match self.0.iter_mut().find(same) {
            Some(figure) => figure.values.push(value),
            None => self.0.push(Figure {
                row: row.to_owned(),
                measure,
                server: server.to_owned(),
                values: vec![value],
            }),
        }
    }

    fn spread(&self, row: &str, measure: Measure, server: &str) -> Option<Spread> {
        let figure = self.0.iter().find(|figure| {
            (figure.row.as_str(), figure.measure, figure.server.as_str()) == (row, measure, server)
        });
        Spread::of(figure?.values.clone())
    }

    /// Servers, ours first.
    fn servers(&self) -> Vec<&str> {
        let mut servers = self.names(|figure| &figure.server);
        servers.sort_by_key(|server| *server != OURS);
        servers
    }

    /// Names in the order of their first figures.
    fn names<'f>(&'f self, name: impl Fn(&'f Figure) -> &'f str) -> Vec<&'f str> {
        let mut names = Vec::new();
        for figure in &self.0 {
            if !names.contains(&name(figure)) {
                names.push(name(figure));
            }
        }
        names
    }

    /// The goals that can be judged.
    #[must_use]
    pub fn judge(&self, goals: &[Goal]) -> Vec<Verdict> {
        let servers = self.servers();
        let judge = |&(row, measure, bound): &Goal| {
            let ours = self.spread(row, measure, OURS)?.median;
            let through = |peer: &str| {
                let server = servers.iter().find(|server| server.split(' ').next() == Some(peer))?;
                let theirs = self.spread(row, measure, server)?.median;
                (theirs > 0.0).then(|| ours / theirs)
            };
            let (is, goal, met) = match bound {
                Bound::AtLeast(least, peer) => {
                    let is = through(peer)?;
                    (is, format!(">= {least} x {peer}"), is >= least)
                }
                Bound::AtMost(most, peer) => {
                    let is = through(peer)?;
                    (is, format!("<= {most} x {peer}"), is <= most)
                }
                Bound::Above(least) => (ours, format!(">= {least}"), ours >= least),
                Bound::Below(most) => (ours, format!("<= {most}"), ours <= most),
            };
            Some(Verdict { row: row.to_owned(), measure: measure.name(), goal, is, met })
        };
        goals.iter().filter_map(judge).collect()
    }

    /// All figures.
    #[must_use]
    pub fn shown(&self) -> Vec<Shown> {
        let show = |figure: &Figure| {
            let spread = Spread::of(figure.values.clone())?;
            Some(Shown {
                row: figure.row.clone(),
                measure: figure.measure.name(),
                server: figure.server.clone(),
                median: spread.median,
                min: spread.min,
                max: spread.max,
                of: figure.values.len(),
            })
        };
        self.0.iter().filter_map(show).collect()
    }

    /// Tables in Markdown: loads with their rates and CPU, then all other figures, then the goals.
    #[must_use]
    pub fn markdown(&self, goals: &[Goal]) -> String {
        let mut out = String::from(
            "Thousand operations a second, median (least to greatest); CPU microseconds of the server for one.\n\n",
        );
        let servers = self.servers();
        let others = || servers.iter().filter(|server| **server != OURS);
        let mut head = servers.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        head.extend(others().map(|other| format!("{OURS} / {other}")));
        table_head(&mut out, "load", &head);
        for row in self.names(|figure| &figure.row) {
            let cell = |server: &&str| match self.spread(row, Measure::Rate, server) {
                None => "–".to_owned(),
                Some(rate) => {
                    let cpu = self.spread(row, Measure::Cpu, server);
                    let cpu = cpu.map_or_else(|| "?".to_owned(), |cpu| three_digits(cpu.median));
                    let k = |rate: f64| three_digits(rate / 1e3);
                    format!("{} ({} to {}); {cpu}", k(rate.median), k(rate.min), k(rate.max))
                }
            };
            let ratio = |other: &&str| {
                let of = |measure| {
                    let (ours, theirs) =
                        (self.spread(row, measure, OURS)?, self.spread(row, measure, other)?);
                    (theirs.median > 0.0).then(|| ours.median / theirs.median)
                };
                match (of(Measure::Rate), of(Measure::Cpu)) {
                    (Some(rate), Some(cpu)) => format!("{rate:.2}; {cpu:.2}"),
                    _ => "–".to_owned(),
                }
            };
            let mut cells: Vec<String> = servers.iter().map(cell).collect();
            if cells.iter().all(|cell| cell == "–") {
                continue;
            }
            cells.extend(others().map(ratio));
            line(&mut out, row, &cells);
        }
        out.push('\n');
        table_head(&mut out, "figure", &servers.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let mut rows: Vec<(&str, Measure)> = Vec::new();
        for figure in self.0.iter().filter(|figure| !matches!(figure.measure, Measure::Rate | Measure::Cpu)) {
            if !rows.contains(&(&figure.row, figure.measure)) {
                rows.push((&figure.row, figure.measure));
            }
        }
        for (row, measure) in rows {
            let cell = |server: &&str| match self.spread(row, measure, server) {
                None => "–".to_owned(),
                Some(Spread { median, min, max }) if min < max => {
                    format!("{} ({} to {})", three_digits(median), three_digits(min), three_digits(max))
                }
                Some(spread) => three_digits(spread.median),
            };
            line(
                &mut out,
                &format!("{row}, {}", measure.name()),
                &servers.iter().map(cell).collect::<Vec<_>>(),
            );
        }
        out.push('\n');
        table_head(&mut out, "goal of", &["goal", "is", ""].map(str::to_owned));
        for verdict in self.judge(goals) {
            let met = if verdict.met { "met" } else { "**missed**" };
            let goal = format!("{} {}", verdict.measure, verdict.goal);
            line(&mut out, &verdict.row, &[goal, three_digits(verdict.is), met.to_owned()]);
        }
        out
    }
}

fn table_head(out: &mut String, first: &str, names: &[String]) {
    line(out, first, names);
    writeln!(out, "|---|{}", "---|".repeat(names.len())).expect("a string takes everything");
}

fn line(out: &mut String, first: &str, cells: &[String]) {
    writeln!(out, "| {first} | {} |", cells.join(" | ")).expect("a string takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        let mut figures = Figures::default();
        for (rate, cpu) in [(300e3, 2.0), (100e3, 4.0), (200e3, 3.0)] {
            figures.put("SET", Measure::Rate, "haypile", 2.0 * rate);
            figures.put("SET", Measure::Cpu, "haypile", cpu / 2.0);
            figures.put("SET", Measure::Rate, "redis", rate);
            figures.put("SET", Measure::Cpu, "redis", cpu);
        }
        figures.put("restart", Measure::Seconds, "haypile", 0.25);
        figures
    }

    #[test]
    fn goals_are_judged_by_medians_and_left_out_where_there_is_no_peer() {
        let goals: Vec<Goal> = vec![
            ("SET", Measure::Rate, Bound::AtLeast(2.0, "redis")),
            ("SET", Measure::Rate, Bound::AtLeast(2.5, "redis")),
            ("SET", Measure::Rate, Bound::AtLeast(4.0, "pika")),
            ("SET", Measure::Cpu, Bound::AtMost(0.4, "redis")),
            ("restart", Measure::Seconds, Bound::Below(0.5)),
            ("restart", Measure::Seconds, Bound::Above(0.5)),
        ];
        let verdicts: Vec<(f64, bool)> =
            figures().judge(&goals).iter().map(|verdict| (verdict.is, verdict.met)).collect();
        assert_eq!(verdicts, [(2.0, true), (2.0, false), (0.5, false), (0.25, true), (0.25, false)]);
    }

    #[test]
    fn tables_show_medians_with_their_spread_and_ratios() {
        let text = figures().markdown(&[("restart", Measure::Seconds, Bound::Below(0.5))]);
        for line in [
            "| load | haypile | redis | haypile / redis |",
            "| SET | 400 (200 to 600); 1.50 | 200 (100 to 300); 3.00 | 2.00; 0.50 |",
            "| restart, s | 0.25 | – |",
            "| restart | s <= 0.5 | 0.25 | met |",
        ] {
            assert!(text.lines().any(|have| have == line), "{line}\n{text}");
        }
    }
}
