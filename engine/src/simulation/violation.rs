//! What is said when a promise is broken.

use std::fmt;

/// A broken promise, with the story that led to it.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which promise, and how it shows.
    pub what: String,
    /// What happened until then, a line each.
    pub story: Vec<String>,
}

impl Violation {
    /// A broken promise whose story is told by whoever knows it.
    pub fn new(what: impl Into<String>) -> Violation {
        Violation { what: what.into(), story: Vec::new() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.story {
            writeln!(f, "  {line}")?;
        }
        write!(f, "VIOLATION: {}", self.what)
    }
}

impl std::error::Error for Violation {}
