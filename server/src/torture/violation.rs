//! What a server did that its promise does not allow, told for people.

use std::fmt;
use std::time::Duration;

use super::operation::Operation;
use super::value::short;

/// How many of the last operations on a key are shown.
pub const LAST_OPERATIONS: usize = 12;

/// The ways to break a promise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Breach {
    /// Acknowledged writes are gone, from one on to the last.
    Lost,
    /// A write is gone and a later one on the same key is there, or items changed places.
    Disordered,
    /// A part of a command or transaction is there, the rest is not.
    Halved,
    /// Something is there that nobody wrote.
    Invented,
    /// Something is there again that was overwritten, deleted, lost or expired.
    Returned,
    /// The key's expiry is not what was set.
    Expiry,
    /// An answer does not fit what was acknowledged before.
    WrongAnswer,
    /// The server ended although nobody killed it.
    Died,
    /// The server stopped answering.
    Silent,
    /// The server did not end when it was asked to.
    Stuck,
    /// The server did not start again.
    NotBack,
}

impl Breach {
    /// One word for scripts and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Breach::Lost => "lost",
            Breach::Disordered => "disordered",
            Breach::Halved => "halved",
            Breach::Invented => "invented",
            Breach::Returned => "returned",
            Breach::Expiry => "expiry",
            Breach::WrongAnswer => "wrong-answer",
            Breach::Died => "died",
            Breach::Silent => "silent",
            Breach::Stuck => "stuck",
            Breach::NotBack => "not-back",
        }
    }

    /// What it means.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Breach::Lost => "acknowledged writes are lost",
            Breach::Disordered => "the order within a key is broken",
            Breach::Halved => "a command was applied by half",
            Breach::Invented => "a value that never was",
            Breach::Returned => "old data came back",
            Breach::Expiry => "an expiry is not what was set",
            Breach::WrongAnswer => "a wrong answer",
            Breach::Died => "the server ended by itself",
            Breach::Silent => "the server stopped answering",
            Breach::Stuck => "the server did not end when it was asked to",
            Breach::NotBack => "the server did not start again",
        }
    }
}

/// One breach.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which kind.
    pub breach: Breach,
    /// The key; empty if it is not about one.
    pub key: String,
    /// What should be so.
    pub expected: String,
    /// What is so.
    pub found: String,
    /// What else is to be said, line by line: the last operations, the server's last words.
    pub more: Vec<String>,
}

impl Violation {
    /// One that is not about a key.
    #[must_use]
    pub fn of_server(breach: Breach, found: String, more: Vec<String>) -> Violation {
        Violation { breach, key: String::new(), expected: String::new(), found, more }
    }

    /// One line.
    #[must_use]
    pub fn headline(&self) -> String {
        let sentence = self.breach.sentence();
        if self.key.is_empty() {
            format!("{sentence}: {}", self.found)
        } else {
            format!("{sentence}: {}: {}", self.key, self.found)
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "VIOLATION: {}", self.breach.sentence())?;
        if !self.key.is_empty() {
            writeln!(out, "  key       {}", self.key)?;
        }
        if !self.expected.is_empty() {
            writeln!(out, "  expected  {}", self.expected)?;
        }
        writeln!(out, "  found     {}", self.found)?;
        for line in &self.more {
            writeln!(out, "  {line}")?;
        }
        Ok(())
    }
}

/// A moment, as all lines show it.
#[must_use]
pub fn moment(at: Duration) -> String {
    format!("{:.4} s", at.as_secs_f64())
}

/// An operation with its times, in one line.
#[must_use]
pub fn dated(operation: &Operation, sent: Duration, fate: &str) -> String {
    format!("  sent {:>11}  {fate:<22}  {}", moment(sent), shortened(operation))
}

/// An operation with its long words cut.
#[must_use]
pub fn shortened(operation: &Operation) -> String {
    let command = |words: &[String]| words.iter().map(|word| short(word)).collect::<Vec<_>>().join(" ");
    operation.requests().iter().map(|request| command(&request.words)).collect::<Vec<_>>().join(" ; ")
}
