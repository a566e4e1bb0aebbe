//! A history as a text that people can read, change and replay.
//!
//! ```text
//! # a comment
//! promise always
//! c0 SET {c0g0}str0 c0.1a                 client 0 sends this and waits for the answer
//! c1 INCR {c1g0}ctr ; INCR {c1g0}ctr      a pipeline: sent at once, then all answers are waited for
//! c0 MULTI ; SET a b ; INCR n ; EXEC &    sent and not waited for: under way when the kill comes
//! kill sigkill 300us                      so long after all clients have come here
//! kill start 1500us                       the server is started, and killed again so soon
//! ```
//!
//! After each kill the server is started, everything is read back and judged. Clients work side by side, each in the order of
//! its lines. A key belongs to one client; keys whose names begin with `{shared` to all.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::Duration;

use super::judge::{Kill, Promise};
use super::operation::Operation;
use super::plan::is_shared;
use super::shared::SharedKeys;

/// The most clients of a script.
pub const CLIENTS_MAX: usize = 1000;

/// What one client sends at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// The client.
    pub client: usize,
    /// What.
    pub operations: Vec<Operation>,
    /// Whether the answers are waited for before the kill.
    pub waits: Waits,
}

/// Whether answers are waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waits {
    /// They are.
    Yes,
    /// The kill comes while they are due.
    No,
}

/// How a cycle ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    /// The kill.
    pub kill: Kill,
    /// How long after the last command was sent.
    pub after: Duration,
    /// The server is started and killed so soon, before it is started for good.
    pub starts: Vec<Duration>,
}

/// Operations, then a kill.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cycle {
    /// What the clients send.
    pub lines: Vec<Line>,
    /// How it ends.
    pub mark: Mark,
}

/// A history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Script {
    /// What is promised.
    pub promise: Promise,
    /// From kill to kill.
    pub cycles: Vec<Cycle>,
}

/// The words for promises.
pub const PROMISES: [(&str, Promise); 3] =
    [("always", Promise::Always), ("everysec", Promise::Everysec), ("none", Promise::Nothing)];
/// The words for kills.
pub const KILLS: [(&str, Kill); 3] =
    [("sigkill", Kill::Sigkill), ("sigterm", Kill::Sigterm), ("none", Kill::None)];

/// The word for a value of a table such as [`KILLS`].
pub fn word<T: PartialEq>(table: &[(&'static str, T)], value: &T) -> &'static str {
    table.iter().find(|(_, one)| one == value).map_or("", |(word, _)| word)
}

/// All words of such a table.
pub fn words<T>(table: &[(&'static str, T)]) -> Vec<&'static str> {
    table.iter().map(|(word, _)| *word).collect()
}

/// The value of such a table with this word.
pub fn value<T: Copy>(table: &[(&'static str, T)], word: &str) -> Option<T> {
    table.iter().find(|(name, _)| *name == word).map(|(_, value)| *value)
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// The first wrong line.
    pub fn parse(text: &str) -> Result<Script, String> {
        let mut script = Script { promise: Promise::Always, cycles: Vec::new() };
        let mut lines = Vec::new();
        let mut owners: BTreeMap<String, usize> = BTreeMap::new();
        for (number, text) in text.lines().enumerate() {
            let named = |why: String| format!("line {}: {why}", number + 1);
            let text = text.split_once('#').map_or(text, |(before, _)| before);
            let words: Vec<&str> = text.split_whitespace().collect();
            match words.as_slice() {
                [] => {}
                ["promise", name] => script.promise = find(&PROMISES, name).map_err(named)?,
                ["kill", "start", after] => {
                    let last = script.cycles.last_mut().filter(|_| lines.is_empty());
                    let last =
                        last.ok_or_else(|| named("a start is killed after another kill".to_owned()))?;
                    last.mark.starts.push(time(after).map_err(named)?);
                }
                ["kill", kill, after] => {
                    let kill = find(&KILLS, kill).map_err(named)?;
                    let mark = Mark { kill, after: time(after).map_err(named)?, starts: Vec::new() };
                    script.cycles.push(Cycle { lines: std::mem::take(&mut lines), mark });
                }
                [client, commands @ ..] => {
                    let line = line(client, commands).map_err(named)?;
                    check_keys(&line, &mut owners).map_err(named)?;
                    lines.push(line);
                }
            }
        }
        if !lines.is_empty() {
            let mark = Mark { kill: Kill::None, after: Duration::ZERO, starts: Vec::new() };
            script.cycles.push(Cycle { lines, mark });
        }
        Ok(script)
    }

    /// How many clients it has.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.lines().map(|line| line.client + 1).max().unwrap_or(1)
    }

    /// All lines.
    pub fn lines(&self) -> impl Iterator<Item = &Line> {
        self.cycles.iter().flat_map(|cycle| &cycle.lines)
    }

    /// How many operations it has.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.lines().map(|line| line.operations.len()).sum()
    }

    /// How many keys it touches.
    #[must_use]
    pub fn keys(&self) -> usize {
        let operations = self.lines().flat_map(|line| &line.operations);
        let mut keys: Vec<&str> = operations.flat_map(Operation::keys).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.len()
    }
}

fn find<T: Copy>(table: &[(&'static str, T)], word: &str) -> Result<T, String> {
    value(table, word).ok_or_else(|| format!("{word} is none of {}", words(table).join(", ")))
}

fn time(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix("us").and_then(|number| number.parse().ok());
    number.map(Duration::from_micros).ok_or_else(|| format!("{text} is no time such as 350us"))
}

fn line(client: &str, commands: &[&str]) -> Result<Line, String> {
    let number = client.strip_prefix('c').and_then(|number| number.parse().ok());
    let client = number.filter(|&number| number < CLIENTS_MAX).ok_or_else(|| {
        format!("{client} is no client such as c0 (at most c{}), and no `promise` or `kill`", CLIENTS_MAX - 1)
    })?;
    let (commands, waits) = match commands {
        [commands @ .., "&"] => (commands, Waits::No),
        commands => (commands, Waits::Yes),
    };
    Ok(Line { client, operations: Operation::parse_line(commands)?, waits })
}

fn check_keys(line: &Line, owners: &mut BTreeMap<String, usize>) -> Result<(), String> {
    for operation in &line.operations {
        for key in operation.keys() {
            if is_shared(key) && !SharedKeys::takes(operation) {
                return Err(format!(
                    "{key} is shared: only INCR, RPUSH and SADD of new items go there: {operation}"
                ));
            }
            let owner = *owners.entry(key.to_owned()).or_insert(line.client);
            if owner != line.client && !is_shared(key) {
                return Err(format!("{key} belongs to client {owner}"));
            }
        }
    }
    Ok(())
}

impl fmt::Display for Line {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operations: Vec<String> = self.operations.iter().map(ToString::to_string).collect();
        let end = if self.waits == Waits::No { " &" } else { "" };
        write!(out, "c{} {}{end}", self.client, operations.join(" ; "))
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "kill {} {}us", word(&KILLS, &self.kill), self.after.as_micros())?;
        self.starts.iter().try_for_each(|after| write!(out, "\nkill start {}us", after.as_micros()))
    }
}

impl fmt::Display for Script {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("promise {}\n", word(&PROMISES, &self.promise));
        for cycle in &self.cycles {
            cycle.lines.iter().try_for_each(|line| writeln!(text, "{line}"))?;
            writeln!(text, "{}", cycle.mark)?;
        }
        out.write_str(&text)
    }
}
