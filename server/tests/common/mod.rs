//! A node within the test's process, on a disk in memory and a free port, and a client that speaks bytes.

#![allow(dead_code, missing_docs)] // each test file uses a part

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use haypile_engine::clock::SystemClock;
use haypile_engine::fs::memory::MemoryFs;
use haypile_server::config::Settings;
use haypile_server::serve::{self, Running};

/// Long enough for a busy machine; only a failing test waits so long.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn standalone() -> Settings {
    Settings {
        standalone: true,
        port: 0,
        dir: "/node".into(),
        worker_threads: 2,
        log_segment_bytes: 1 << 20,
        ..Settings::default()
    }
}

pub fn start(settings: Settings) -> Running {
    start_on(&MemoryFs::new(), settings)
}

pub fn start_on(fs: &MemoryFs, settings: Settings) -> Running {
    serve::start(settings, None, Arc::new(fs.clone()), Arc::new(SystemClock::new())).expect("the node starts")
}

pub struct Client {
    stream: TcpStream,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("the node accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        stream.set_nodelay(true).expect("a socket takes options");
        Client { stream }
    }

    /// The line that comes within a moment, if one does.
    pub fn line_soon(&mut self) -> Option<String> {
        let set =
            |stream: &TcpStream, time| stream.set_read_timeout(Some(time)).expect("a socket takes a timeout");
        set(&self.stream, Duration::from_millis(200));
        let comes = self.stream.peek(&mut [0]).is_ok();
        set(&self.stream, PATIENCE);
        comes.then(|| self.line())
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the node reads");
    }

    /// Reads exactly this.
    ///
    /// # Panics
    /// If something else comes.
    pub fn expect(&mut self, bytes: &str) {
        let mut got = vec![0; bytes.len()];
        if let Err(error) = self.stream.read_exact(&mut got) {
            panic!("expected {bytes:?}: {error}");
        }
        assert_eq!(String::from_utf8_lossy(&got), bytes);
    }

    /// Reads a line, without its end.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).expect("a line comes");
            line.push(byte[0]);
        }
        String::from_utf8_lossy(&line[..line.len() - 2]).into_owned()
    }

    /// Reads a string.
    pub fn bulk(&mut self) -> String {
        let head = self.line();
        let len: usize = head.strip_prefix('$').and_then(|len| len.parse().ok()).expect("a string comes");
        let mut bytes = vec![0; len + 2];
        self.stream.read_exact(&mut bytes).expect("all of it comes");
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    }

    /// Sends an inline command, and reads exactly this.
    pub fn ask(&mut self, line: &str, reply: &str) {
        self.send(format!("{line}\r\n").as_bytes());
        self.expect(reply);
    }

    /// Reads until the node closes.
    pub fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => {}
            // What the node had not read when it closed makes a reset of the close.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the node does not close: {error}"),
        }
        String::from_utf8_lossy(&rest).into_owned()
    }
}

/// A command as clients send it.
pub fn command(args: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
    out
}
