//! What `haypile torture` prints: progress, the summary, and the same as JSON.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _, stdout};
use std::time::Duration;

use crate::screen::{Watch, number};

use super::script::{KILLS, PROMISES, word};
use super::session::Tally;
use super::violation::Violation;
use super::{Options, Verdict};

/// How often a terminal is told how far it is.
const LIVE_EVERY: Duration = Duration::from_millis(200);
/// How often a file or pipe is.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// A line that tells how far it is: on a terminal always the same one.
pub struct Progress {
    told: Watch,
    live: bool,
    shown: bool,
}

impl Progress {
    /// To standard output.
    #[must_use]
    pub fn new() -> Progress {
        Progress { told: Watch::start(), live: stdout().is_terminal(), shown: false }
    }

    /// Tells it, if it is time.
    pub fn tell(&mut self, line: impl FnOnce() -> String) {
        let every = if self.live { LIVE_EVERY } else { LINE_EVERY };
        if self.told.elapsed() < every {
            return;
        }
        self.told = Watch::start();
        if self.live {
            print!("\r\x1b[K{}", line());
            let _ = stdout().flush();
            self.shown = true;
        } else {
            println!("{}", line());
        }
    }

    /// The line goes, so that others can follow.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.shown) {
            print!("\r\x1b[K");
            let _ = stdout().flush();
        }
    }
}

impl Default for Progress {
    fn default() -> Progress {
        Progress::new()
    }
}

/// Smallest, median, 99th percentile and largest; of nothing, zeros.
fn spread(times: &[Duration]) -> [Duration; 4] {
    let mut times = times.to_vec();
    times.sort_unstable();
    let at = |percent: usize| {
        let index = (times.len() * percent).div_ceil(100).saturating_sub(1);
        times.get(index).copied().unwrap_or_default()
    };
    [at(0), at(50), at(99), at(100)]
}

fn ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
}

/// What was counted at the end of a run.
pub struct Counts<'a> {
    /// By the session.
    pub tally: &'a Tally,
    /// Operations acknowledged.
    pub answered: u64,
    /// Operations answered with an error.
    pub refused: u64,
    /// How long it all took.
    pub elapsed: Duration,
    /// What the server can't do.
    pub missing: Vec<&'static str>,
}

impl Counts<'_> {
    fn per_second(&self) -> u64 {
        let millis = self.elapsed.as_millis().max(1);
        u64::try_from(u128::from(self.answered) * 1000 / millis).unwrap_or(u64::MAX)
    }
}

/// The summary for people.
#[must_use]
pub fn summary(counts: &Counts<'_>) -> String {
    let tally = counts.tally;
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<12} {value}");
    };
    let starts = match tally.kills_of_starts {
        0 => String::new(),
        starts => format!(", and {starts} of a server that was starting"),
    };
    row("cycles", format!("{}: {} kills{starts}", number(tally.cycles), number(tally.kills)));
    let rate = number(counts.per_second());
    row("operations", format!("{} acknowledged, {rate} a second", number(counts.answered)));
    row("in doubt", format!("{} under way when the server was killed", number(tally.unanswered)));
    row("read back", format!("{} keys", number(tally.keys_read)));
    if counts.refused > 0 {
        row("refused", format!("{} operations answered with an error", number(counts.refused)));
    }
    if tally.hang_ups > 0 {
        row("hung up", format!("{} connections closed by a server that went on", number(tally.hang_ups)));
    }
    if !counts.missing.is_empty() {
        row("not tested", format!("the server has no {}", counts.missing.join(", ")));
    }
    if !tally.recoveries.is_empty() {
        let [min, p50, p99, max] = spread(&tally.recoveries).map(ms);
        let _ =
            writeln!(text, "  {:<12} {:>9} {:>9} {:>9} {:>9}", "recovery, ms", "min", "p50", "p99", "max");
        let _ = writeln!(text, "  {:<12} {min:>9} {p50:>9} {p99:>9} {max:>9}", "");
    }
    text
}

/// The same for programs.
#[must_use]
pub fn json(
    options: &Options,
    verdict: Verdict,
    counts: Option<&Counts<'_>>,
    failure: &Failure<'_>,
) -> String {
    let mut fields = vec![
        ("verdict", quoted(verdict.name())),
        ("server", quoted(&options.server)),
        ("seed", options.seed.to_string()),
        ("clients", options.clients.to_string()),
        ("keys", options.keys.to_string()),
        ("kill", quoted(word(&KILLS, &options.kill))),
        ("promise", quoted(word(&PROMISES, &options.promise))),
    ];
    if let Some(counts) = counts {
        let tally = counts.tally;
        let [min, p50, p99, max] = spread(&tally.recoveries).map(ms);
        let missing: Vec<String> = counts.missing.iter().map(|name| quoted(name)).collect();
        fields.extend([
            ("seconds", format!("{:.3}", counts.elapsed.as_secs_f64())),
            ("cycles", tally.cycles.to_string()),
            ("kills", tally.kills.to_string()),
            ("kills_of_starts", tally.kills_of_starts.to_string()),
            ("operations", counts.answered.to_string()),
            ("operations_per_second", counts.per_second().to_string()),
            ("in_doubt", tally.unanswered.to_string()),
            ("refused", counts.refused.to_string()),
            ("hung_up", tally.hang_ups.to_string()),
            ("keys_read_back", tally.keys_read.to_string()),
            ("not_tested", format!("[{}]", missing.join(", "))),
            ("recovery_ms", format!("{{\"min\": {min}, \"p50\": {p50}, \"p99\": {p99}, \"max\": {max}}}")),
        ]);
    }
    let violations: Vec<String> = failure.violations.iter().map(violation).collect();
    fields.push(("violations", format!("[{}]", violations.join(", "))));
    if let Some(why) = failure.could_not_run {
        fields.push(("error", quoted(why)));
    }
    if let Some(script) = &failure.script {
        fields.push(("script", quoted(script)));
        fields.push(("repeats", failure.repeats.0.to_string()));
        fields.push(("repeats_of", failure.repeats.1.to_string()));
    }
    let lines: Vec<String> = fields.iter().map(|(name, value)| format!("  \"{name}\": {value}")).collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

/// What went wrong, if anything did.
#[derive(Default)]
pub struct Failure<'a> {
    /// What broke the promise.
    pub violations: &'a [Violation],
    /// Why it could not run.
    pub could_not_run: Option<&'a str>,
    /// The file with the history.
    pub script: Option<String>,
    /// How often that showed the violation again, and of how many runs.
    pub repeats: (usize, usize),
}

fn violation(violation: &Violation) -> String {
    let more: Vec<String> = violation.more.iter().map(|line| quoted(line)).collect();
    format!(
        "{{\"kind\": {}, \"key\": {}, \"expected\": {}, \"found\": {}, \"more\": [{}]}}",
        quoted(violation.breach.name()),
        quoted(&violation.key),
        quoted(&violation.expected),
        quoted(&violation.found),
        more.join(", ")
    )
}

/// A text as JSON has it.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            letter if letter.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(letter));
            }
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}
