//! Any requests, as bytes: on several connections a pipeline each, and replies of any length one at a time. For what has no
//! workload: commands of every family, and collections.

use std::io::{Read as _, Write as _};

use super::wire::{self, Read};
use super::{Access, Control};
use crate::error::{Error, Result};

/// Connections that one thread serves in turn: it reads a pipeline's replies, then sends the next pipeline. All others are
/// with the server meanwhile.
pub struct Pipelines {
    lines: Vec<Line>,
    depth: usize,
}

struct Line {
    control: Control,
    input: Vec<u8>,
    under_way: usize,
}

impl Pipelines {
    /// Connects so often; each sends so many requests at once.
    ///
    /// # Errors
    /// If the server can't be reached or refuses.
    pub fn open(access: &Access, connections: usize, depth: usize) -> Result<Pipelines> {
        let line = |_| Ok(Line { control: Control::open(access)?, input: Vec::new(), under_way: 0 });
        Ok(Pipelines { lines: (0..connections).map(line).collect::<Result<_>>()?, depth })
    }

    /// Sends so many requests and waits for all replies. `request` appends one, and says how many replies that gets.
    ///
    /// # Errors
    /// The first reply that is an error, or that the server does not answer.
    pub fn run(&mut self, requests: u64, mut request: impl FnMut(&mut Vec<u8>) -> usize) -> Result<()> {
        let mut left = requests;
        let mut out = Vec::new();
        while left > 0 {
            for line in &mut self.lines {
                line.settle()?;
                out.clear();
                for _ in 0..left.min(self.depth as u64) {
                    left -= 1;
                    line.under_way += request(&mut out);
                }
                line.control.0.write_all(&out).map_err(|error| Error::target("send", error))?;
            }
        }
        self.lines.iter_mut().try_for_each(Line::settle)
    }
}

impl Line {
    /// Waits for all replies.
    fn settle(&mut self) -> Result<()> {
        let mut at = 0;
        let mut piece = [0; 64 << 10];
        while self.under_way > 0 {
            match wire::read(&self.input[at..]) {
                Read::Reply(reply) => {
                    if let Some(why) = reply.error {
                        return Err(Error::target("load a server", String::from_utf8_lossy(why)));
                    }
                    at += reply.len;
                    self.under_way -= 1;
                    continue;
                }
                Read::Malformed => {
                    return Err(Error::target("receive", "that is no reply of a Redis server"));
                }
                Read::Incomplete => {}
            }
            self.input.drain(..at);
            at = 0;
            self.control.receive(&mut self.input, &mut piece)?;
        }
        self.input.drain(..at);
        Ok(())
    }
}

impl Control {
    /// Asks something whose answer is an array of strings, of any length, and keeps nothing of it: how many there were, and
    /// their bytes.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub fn drain(&mut self, words: &[&[u8]]) -> Result<(u64, u64)> {
        let mut request = Vec::new();
        wire::request(&mut request, words);
        self.0.write_all(&request).map_err(|error| Error::target("send", error))?;
        let (mut input, mut at) = (Vec::new(), 0);
        let mut piece = vec![0; 1 << 20];
        // Values that are to come, and what of the last one is.
        let (mut left, mut strings, mut bytes) = (1u64, 0u64, 0u64);
        while left > 0 {
            let line = input[at..].iter().position(|&byte| byte == b'\n');
            let head = line.map(|line| (at + line + 1, &input[at..at + line.saturating_sub(1)]));
            let length = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<usize>().ok();
            let malformed = || Error::target("receive", "that is no array of strings");
            let read = match head {
                None => None,
                Some((after, [b'*', text @ ..])) => {
                    Some((after, length(text).ok_or_else(malformed)? as u64, None))
                }
                Some((after, [b'$', text @ ..])) => {
                    let length = length(text).ok_or_else(malformed)?;
                    (input.len() >= after + length + 2).then_some((after + length + 2, 0, Some(length)))
                }
                Some((after, [b':', ..])) => Some((after, 0, Some(0))),
                Some((_, text)) => {
                    return Err(Error::target("ask the server", String::from_utf8_lossy(text)));
                }
            };
            match read {
                Some((after, more, string)) => {
                    at = after;
                    left = left - 1 + more;
                    strings += u64::from(string.is_some());
                    bytes += string.unwrap_or_default() as u64;
                }
                None => {
                    input.drain(..at);
                    at = 0;
                    match self.0.read(&mut piece) {
                        Ok(0) => return Err(Error::target("ask the server", "it closed the connection")),
                        Ok(count) => input.extend_from_slice(&piece[..count]),
                        Err(error) => return Err(Error::target("ask the server", error)),
                    }
                }
            }
        }
        Ok((strings, bytes))
    }
}
