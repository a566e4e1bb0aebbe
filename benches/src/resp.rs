//! Workloads on a server that speaks the Redis protocol, over one connection, in pipelines.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use haypile_engine::clock::Clock;

use crate::measure::Report;
use crate::plan::{Operation, Plan};

/// A connection.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn open(address: &str) -> io::Result<Connection> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Connection(BufReader::new(stream)))
    }

    /// Does what the plan says: each batch is one pipeline.
    ///
    /// # Errors
    /// As the operating system says, and the server's first error.
    pub fn run(&mut self, plan: &Plan, clock: &dyn Clock) -> io::Result<Report> {
        let mut report = Report::default();
        let begin = clock.monotonic();
        let mut operations = plan.operations().peekable();
        let mut request = Vec::new();
        while operations.peek().is_some() {
            request.clear();
            let mut sent = 0;
            for operation in operations.by_ref().take(plan.batch.max(1)) {
                match operation {
                    Operation::Set(key, value) => put(&mut request, &[b"SET", &key, &value]),
                    Operation::Get(key) => put(&mut request, &[b"GET", &key]),
                }
                sent += 1;
            }
            let batch_begin = clock.monotonic();
            self.0.get_mut().write_all(&request)?;
            for _ in 0..sent {
                report.found += u64::from(self.reply()?);
            }
            report.add(sent, clock.monotonic().saturating_sub(batch_begin));
        }
        report.took = clock.monotonic().saturating_sub(begin);
        Ok(report)
    }

    /// Reads one reply; whether it is a bulk string that is there.
    fn reply(&mut self) -> io::Result<bool> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        match line.split_at_checked(1) {
            Some(("$", "-1")) | Some(("+", _)) => Ok(false),
            Some(("$", length)) => {
                let length: u64 = length.parse().map_err(io::Error::other)?;
                io::copy(&mut self.0.by_ref().take(length + 2), &mut io::sink())?;
                Ok(true)
            }
            _ => Err(io::Error::other(line.to_owned())),
        }
    }
}

fn put(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}
