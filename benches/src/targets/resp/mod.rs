//! Any server that speaks the Redis protocol.
//!
//! What is seen of its process from outside needs to know which one it is: the one that is named, or, at an address of this
//! machine, the one that INFO names. Its settings are asked for with CONFIG GET and shown with the result.

mod clients;
mod pipelines;
mod wire;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::plan::{Plan, Settle, Sync};
use crate::process::Process;
use crate::target::{Counter, Driver, Target};
use clients::Clients;
pub use pipelines::Pipelines;
pub use wire::request;

/// Settings that say how a server's figures came about.
const SETTINGS: [&str; 9] = [
    "appendonly",
    "appendfsync",
    "sync",
    "save",
    "maxmemory",
    "io-threads",
    "auto-aof-rewrite-percentage",
    "workers",
    "threads",
];

/// Fields of INFO that only grow, Haypile's and Redis', and what they are called in reports.
const COUNTERS: [(&str, &str); 10] = [
    ("written_log_bytes", "log_write_bytes"),
    ("written_flush_bytes", "flush_write_bytes"),
    ("written_compaction_bytes", "compaction_write_bytes"),
    ("block_cache_hits", "cache_hits"),
    ("block_cache_misses", "cache_misses"),
    ("stalls_for_memory", "stalls"),
    ("stalls_for_memory_ms", "stall_ms"),
    ("slowed_for_memory", "slowed"),
    ("slowed_for_memory_ms", "slowed_ms"),
    // Redis rewrites its log now and then: what it has then is not what it wrote.
    ("aof_current_size", "log_write_bytes"),
];

/// A server's process is at rest once it used at most this share of a core for half a second.
const REST_CPU: f64 = 0.04;
/// How often it is looked at.
const REST_LOOK: Duration = Duration::from_millis(100);
/// How many looks have to agree.
const REST_LOOKS: usize = 5;
/// For how long it is waited for.
const REST_WAIT_LOOKS: usize = 6000;

/// How to reach a server.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// `HOST:PORT`.
    pub address: String,
    /// What AUTH takes.
    pub password: Option<String>,
    /// Its process, if it is on this machine.
    pub process: Option<u32>,
    /// Its data folder, if it is on this machine.
    pub folder: Option<PathBuf>,
}

/// A server.
pub struct RespTarget {
    access: Access,
    name: String,
    /// The name of the setting that says when writes are answered, and its value as it was found.
    sync_setting: Option<(&'static str, String)>,
    /// Whether the command line says when writes are answered; else it is the server's own setting.
    sync_asked: bool,
}

impl RespTarget {
    /// Asks the server who it is.
    ///
    /// # Errors
    /// If it can't be reached or does not answer as a Redis server does.
    pub fn open(mut access: Access, sync_asked: bool) -> Result<RespTarget> {
        let mut control = Control::open(&access)?;
        let info = control.ask(&[b"INFO"])?.unwrap_or_default();
        let field = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(|value| value.trim().to_owned())
        };
        let version = |product: &str| {
            field(&format!("{product}_version")).map(|version| format!("{product} {version}"))
        };
        let name = ["haypile", "kvrocks", "pika", "valkey", "redis"].into_iter().find_map(version);
        if access.process.is_none() && is_loopback(&access.address) {
            access.process = field("process_id").and_then(|text| text.parse().ok());
        }
        if access.folder.is_none() && access.process.is_some() {
            access.folder = control.setting("dir")?.map(PathBuf::from).filter(|dir| dir.is_absolute());
        }
        let mut sync_setting = None;
        for name in ["sync", "appendfsync"] {
            if sync_setting.is_none() {
                sync_setting = control.setting(name)?.map(|value| (name, value));
            }
        }
        Ok(RespTarget {
            name: name.unwrap_or_else(|| "a Redis server".to_owned()),
            access,
            sync_setting,
            sync_asked,
        })
    }

    /// When the server answers writes as it is configured: what the plan says if the command line does not.
    #[must_use]
    pub fn sync(&self) -> Sync {
        match self.sync_setting.as_ref().map(|(_, value)| value.as_str()) {
            Some("always") => Sync::Always,
            Some("everysec") => Sync::Everysec,
            _ => Sync::None,
        }
    }

    /// What can't be known of this server, to be told before a run.
    #[must_use]
    pub fn unknown(&self) -> Option<&'static str> {
        self.access
            .process
            .is_none()
            .then_some("the server's process is not known: its CPU, memory and I/O are not shown (--pid)")
    }
}

fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host == "localhost" || host == "[::1]" || host.starts_with("127.")
}

impl Target for RespTarget {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn configuration(&self) -> Vec<(String, String)> {
        let mut all = vec![("address".to_owned(), self.access.address.clone())];
        if let Ok(mut control) = Control::open(&self.access) {
            for name in SETTINGS {
                if let Ok(Some(value)) = control.setting(name) {
                    all.push((name.to_owned(), if value.is_empty() { "-".to_owned() } else { value }));
                }
            }
        }
        all.extend(self.access.process.map(|pid| ("process".to_owned(), pid.to_string())));
        all
    }

    fn driver(&self, plan: &Plan, lane: usize) -> Result<Box<dyn Driver + '_>> {
        // A writer beside has a connection of its own.
        let count = if lane < plan.threads {
            let more = usize::from(lane < plan.connections % plan.threads);
            (plan.connections / plan.threads + more).max(1)
        } else {
            1
        };
        let streams = (0..count).map(|_| Ok(Control::open(&self.access)?.0)).collect::<Result<Vec<_>>>()?;
        Ok(Box::new(Clients::new(streams, plan.pipeline, plan.sliding)?))
    }

    fn set_sync(&self, sync: Sync) -> Result<()> {
        let wanted = match sync {
            // What the server has is what is asked for, unless the workload or the command line says otherwise.
            Sync::Everysec | Sync::None if !self.sync_asked => match &self.sync_setting {
                Some((_, value)) => value.clone(),
                None => return Ok(()),
            },
            Sync::None => "no".to_owned(),
            Sync::Everysec => "everysec".to_owned(),
            Sync::Always => "always".to_owned(),
        };
        self.set_sync_to(&wanted)
    }

    fn settle(&self, settle: Settle) -> Result<()> {
        let process = match self.access.process.map(Process::new) {
            Some(process) if settle != Settle::None => process,
            _ => return Ok(()),
        };
        let mut seen: Vec<f64> = Vec::new();
        for _ in 0..REST_WAIT_LOOKS {
            let Some(sample) = process.sample() else { return Ok(()) };
            seen.push(sample.cpu_seconds());
            let looks = seen.len();
            if looks > REST_LOOKS {
                let used = seen[looks - 1] - seen[looks - 1 - REST_LOOKS];
                if used <= REST_CPU * REST_LOOK.as_secs_f64() * REST_LOOKS as f64 {
                    return Ok(());
                }
            }
            std::thread::sleep(REST_LOOK);
        }
        Err(Error::target("settle", "the server has not come to rest for ten minutes"))
    }

    fn counters(&self) -> Vec<Counter> {
        let info = Control::open(&self.access).and_then(|mut control| control.ask(&[b"INFO"]));
        let info = info.ok().flatten().unwrap_or_default();
        let known = |line: &str| {
            let (field, value) = line.split_once(':')?;
            let (_, name) = COUNTERS.iter().find(|(known, _)| *known == field)?;
            Some(Counter::total(name, value.trim().parse().ok()?))
        };
        info.lines().filter_map(known).collect()
    }

    fn folder(&self) -> Option<PathBuf> {
        self.access.folder.clone()
    }

    fn process(&self) -> Option<u32> {
        self.access.process
    }

    fn close(self: Box<Self>) -> Result<()> {
        match &self.sync_setting {
            Some((_, found)) => self.set_sync_to(found),
            None => Ok(()),
        }
    }
}

impl RespTarget {
    /// Sets when writes are answered, in the server's words, if it is set otherwise.
    fn set_sync_to(&self, wanted: &str) -> Result<()> {
        let Some((name, _)) = &self.sync_setting else {
            return Err(Error::target("set when writes are answered", "the server has no such setting"));
        };
        let mut control = Control::open(&self.access)?;
        if control.setting(name)?.as_deref() == Some(wanted) {
            return Ok(());
        }
        control.ask(&[b"CONFIG", b"SET", name.as_bytes(), wanted.as_bytes()]).map(drop)
    }
}

/// A connection for one question at a time.
pub struct Control(TcpStream);

impl Control {
    /// Connects, and gives the password if there is one.
    ///
    /// # Errors
    /// If the server can't be reached or refuses.
    pub fn open(access: &Access) -> Result<Control> {
        let connect = || {
            let stream = TcpStream::connect(&access.address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            Ok(stream)
        };
        let stream = connect().map_err(|error: std::io::Error| {
            Error::target("connect", format!("{}: {error}", access.address))
        })?;
        let mut control = Control(stream);
        if let Some(password) = &access.password {
            control.ask(&[b"AUTH", password.as_bytes()])?;
        }
        Ok(control)
    }

    /// Asks; gives the text of the reply, of an array its last part.
    ///
    /// # Errors
    /// What the server answers, or that it does not.
    pub fn ask(&mut self, words: &[&[u8]]) -> Result<Option<String>> {
        let mut request = Vec::new();
        wire::request(&mut request, words);
        self.0.write_all(&request).map_err(|error| Error::target("send", error))?;
        let mut input = Vec::new();
        let mut piece = vec![0; 16 << 10];
        loop {
            match wire::read(&input) {
                wire::Read::Reply(wire::Reply { error: Some(why), .. }) => {
                    let command = String::from_utf8_lossy(words[0]).into_owned();
                    let why = String::from_utf8_lossy(why);
                    return Err(Error::target("ask the server", format!("{command}: {why}")));
                }
                wire::Read::Reply(_) => return Ok(wire::last_text(&input)),
                wire::Read::Malformed => {
                    return Err(Error::target("ask the server", "it does not speak the Redis protocol"));
                }
                wire::Read::Incomplete => {}
            }
            self.receive(&mut input, &mut piece)?;
        }
    }

    fn receive(&mut self, input: &mut Vec<u8>, piece: &mut [u8]) -> Result<()> {
        match self.0.read(piece) {
            Ok(0) => Err(Error::target("ask the server", "it closed the connection")),
            Ok(count) => {
                input.extend_from_slice(&piece[..count]);
                Ok(())
            }
            Err(error) => Err(Error::target("ask the server", error)),
        }
    }

    /// Asks the same several times at once; how many of the answers are no errors.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn ask_often(&mut self, words: &[&[u8]], times: usize) -> Result<usize> {
        let mut requests = Vec::new();
        (0..times).for_each(|_| wire::request(&mut requests, words));
        self.0.write_all(&requests).map_err(|error| Error::target("send", error))?;
        let (mut input, mut piece) = (Vec::new(), vec![0; 16 << 10]);
        let (mut answered, mut well, mut at) = (0, 0, 0);
        while answered < times {
            match wire::read(&input[at..]) {
                wire::Read::Reply(reply) => {
                    at += reply.len;
                    answered += 1;
                    well += usize::from(reply.error.is_none());
                    continue;
                }
                wire::Read::Malformed => {
                    return Err(Error::target("ask the server", "it does not speak the Redis protocol"));
                }
                wire::Read::Incomplete => {}
            }
            self.receive(&mut input, &mut piece)?;
        }
        Ok(well)
    }

    /// A setting's value; `None` if the server has no such setting, or does not tell.
    fn setting(&mut self, name: &str) -> Result<Option<String>> {
        match self.ask(&[b"CONFIG", b"GET", name.as_bytes()]) {
            Ok(value) => Ok(value),
            Err(Error::Target { doing: "ask the server", why }) if why.starts_with("CONFIG") => Ok(None),
            Err(error) => Err(error),
        }
    }
}
