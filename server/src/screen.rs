//! What a command prints while it works: a line for each thing that happens, with the time.

use std::time::Duration;

use haypile_engine::clock::{Clock, SystemClock};

/// Measures a time that begins with it.
pub struct Watch(SystemClock);

impl Watch {
    /// Time begins now.
    pub fn start() -> Watch {
        Watch(SystemClock::new())
    }

    /// How long it has been.
    pub fn elapsed(&self) -> Duration {
        self.0.monotonic()
    }
}

/// Lines with the time since the beginning.
pub struct Screen {
    began: Watch,
}

impl Default for Screen {
    fn default() -> Screen {
        Screen::new()
    }
}

impl Screen {
    /// Time begins now.
    pub fn new() -> Screen {
        Screen { began: Watch::start() }
    }

    /// How long it has been going on.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// A headline.
    pub fn chapter(&self, text: &str) {
        println!("\n{text}");
    }

    /// Something happened.
    pub fn line(&self, text: &str) {
        println!("{:>7.2} s  {text}", self.elapsed().as_secs_f64());
    }

    /// An operator types a command at a node.
    pub fn typed(&self, node: usize, command: &str) {
        self.line(&format!("node {node}> {command}"));
    }
}

/// A number with a blank between thousands.
pub fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// A count of bytes.
pub fn bytes(value: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // it is rounded to one digit
    let mebibytes = value as f64 / f64::from(1 << 20);
    format!("{mebibytes:.1} MiB")
}

/// A short time.
pub fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_easy_to_read() {
        assert_eq!([0, 999, 1000, 1_234_567].map(number), ["0", "999", "1 000", "1 234 567"]);
        assert_eq!(bytes(3 << 19), "1.5 MiB");
        assert_eq!(milliseconds(Duration::from_micros(1250)), "1.2 ms");
    }
}
