//! The last lines that a child process wrote, to be shown if it fails.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// How many are kept.
const LINES_MAX: usize = 40;
/// Whatever comes without an end of line is cut there.
const LINE_BYTES_MAX: usize = 1000;

/// The last lines of one or several streams.
#[derive(Clone, Default, Debug)]
pub struct LastLines(Arc<Mutex<VecDeque<String>>>);

impl LastLines {
    /// Keeps the last lines of a stream too, until it ends. To be called within a runtime.
    pub fn keep(&self, stream: impl AsyncRead + Unpin + Send + 'static) {
        let lines = self.clone();
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while let Ok(1..) = stream.read_until(b'\n', &mut line).await {
                line.truncate(LINE_BYTES_MAX);
                lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
                line.clear();
            }
        });
    }

    /// Adds a line.
    pub fn push(&self, line: String) {
        let mut lines = self.0.lock().expect("no code panics while it holds this lock");
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// The lines, oldest first.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().expect("no code panics while it holds this lock").iter().cloned().collect()
    }

    /// The lines, to be put below what went wrong.
    #[must_use]
    pub fn shown(&self) -> String {
        self.lines().iter().map(|line| format!("    | {line}\n")).collect()
    }
}
