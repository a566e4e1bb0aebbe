//! The server under test: a process that this one starts, in a process group of its own, and kills with all its children.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rand::RngExt;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use haypile_engine::fs::Fs;

use crate::files::read_kernel;
use crate::last_lines::LastLines;
use crate::remote::{Client, Reply};
use crate::screen::Watch;
use crate::serve::real_fs;

/// How long a server may take until it answers `PING`.
pub const START_MAX: Duration = Duration::from_secs(60);
/// How long it may take to end after SIGTERM.
const STOP_MAX: Duration = Duration::from_secs(60);
/// How long its group may take to be gone after SIGKILL.
const KILL_MAX: Duration = Duration::from_secs(10);
/// How long somebody who does not want to wait waits for that.
const DROP_MAX: Duration = Duration::from_secs(1);
/// How often whatever is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Ports below those that the system hands out: else another's connection may have it while the server is down.
const PORTS: std::ops::Range<u16> = 10_000..32_000;
/// How often a server is started that does not find its port free.
const START_TRIES: usize = 5;
/// Ports that are tried.
const PORTS_TRIED: usize = 200;
/// Where the command has the port and the folder.
const PORT: &str = "{port}";
const DIR: &str = "{dir}";

/// How a server is started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The command, with `{port}` and `{dir}`.
    pub command: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its data folder.
    pub folder: PathBuf,
}

impl Launch {
    /// For a fresh folder.
    ///
    /// # Errors
    /// If the command has no place for port or folder, as a line.
    pub fn new(command: &str, folder: &Path) -> Result<Launch, String> {
        for place in [PORT, DIR] {
            if !command.contains(place) {
                return Err(format!("--server has no {place}: the tester chooses port and folder"));
            }
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, rand::rng().random_range(PORTS)));
        Ok(Launch { command: command.to_owned(), address, folder: folder.to_owned() })
    }

    /// Starts it and waits until it answers; how long that took.
    ///
    /// # Errors
    /// Why it does not, as a line, with what its process said.
    pub async fn ready(&mut self) -> Result<(Process, Duration), (String, Vec<String>)> {
        let mut tries = START_TRIES;
        loop {
            let mut process = self.start().await.map_err(|why| (why, Vec::new()))?;
            match process.ready().await {
                Ok(took) => return Ok((process, took)),
                // While it was down, another process took its port: that is not its fault.
                Err(_) if tries > 1 && process.status().is_some() && !self.is_free().await => tries -= 1,
                Err(why) => return Err((why, process.last_words())),
            }
        }
    }

    async fn is_free(&self) -> bool {
        TcpListener::bind(self.address).await.is_ok()
    }

    /// Takes another port if somebody has this one.
    async fn find_port(&mut self) -> Result<(), String> {
        for _ in 0..PORTS_TRIED {
            if self.is_free().await {
                return Ok(());
            }
            self.address.set_port(rand::rng().random_range(PORTS));
        }
        Err("no free port found".to_owned())
    }

    /// Starts it; it may not listen yet.
    ///
    /// # Errors
    /// If no process can be made, as a line.
    pub async fn start(&mut self) -> Result<Process, String> {
        self.find_port().await?;
        let folder = self.folder.to_str().ok_or("the temporary folder's name is no text")?;
        let command = self.command.replace(PORT, &self.address.port().to_string()).replace(DIR, folder);
        let mut child = Command::new("/bin/sh")
            .args(["-c", &command])
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("/bin/sh: {error}"))?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let group = group.ok_or("the process has no number")?;
        let said = LastLines::default();
        if let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) {
            said.keep(out);
            said.keep(err);
        }
        Ok(Process { child, group, said, address: self.address, began: Watch::start(), ended: false })
    }
}

/// A started server. Dropped, it is killed with its group.
pub struct Process {
    child: Child,
    /// The group, named after its first process.
    group: Pid,
    said: LastLines,
    address: SocketAddr,
    began: Watch,
    /// Nothing of the group is left.
    ended: bool,
}

impl Process {
    /// The last lines that it wrote.
    #[must_use]
    pub fn last_words(&self) -> Vec<String> {
        let lines = self.said.lines();
        if lines.is_empty() {
            return vec!["the server said nothing".to_owned()];
        }
        let said = lines.into_iter().map(|line| format!("  | {line}"));
        std::iter::once("the server's last lines:".to_owned()).chain(said).collect()
    }

    /// How it ended, if it did.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until it answers `PING`; how long that took from its start.
    ///
    /// # Errors
    /// Why it does not, as a line.
    pub async fn ready(&mut self) -> Result<Duration, String> {
        let mut last = "it does not listen".to_owned();
        loop {
            if let Some(status) = self.status() {
                // Its last words are on their way.
                sleep(LOOK_EVERY * 10).await;
                return Err(format!("the server ended while it was starting ({status})"));
            }
            if self.began.elapsed() > START_MAX {
                return Err(format!("the server does not answer PING after {START_MAX:?}: {last}"));
            }
            match timeout(START_MAX, ping(self.address)).await {
                Ok(Ok(Reply::Simple(_) | Reply::Bulk(_))) => return Ok(self.began.elapsed()),
                Ok(Ok(Reply::Error(text))) if text.starts_with("NOAUTH") || text.starts_with("NOPERM") => {
                    return Err(format!("the server lets nobody in without a password: {text}"));
                }
                // Redis answers so while it loads.
                Ok(Ok(reply)) => last = reply.text(),
                Ok(Err(error)) => last = error.to_string(),
                Err(_) => last = "it takes connections and does not answer".to_owned(),
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Kills the whole group at once.
    ///
    /// # Errors
    /// If it does not go away, as a line.
    pub async fn kill(&mut self) -> Result<(), String> {
        self.signal(Signal::KILL);
        self.gone(KILL_MAX).await
    }

    /// Asks the whole group to end, without waiting.
    pub fn ask_to_end(&self) {
        self.signal(Signal::TERM);
    }

    /// Kills the whole group, without waiting.
    pub fn strike(&self) {
        self.signal(Signal::KILL);
    }

    /// Waits until it ended after it was asked to. One that does not is killed.
    ///
    /// # Errors
    /// If it had to be killed, as a line.
    pub async fn ended(&mut self) -> Result<(), String> {
        let result = self.gone(STOP_MAX).await;
        if result.is_err() {
            let _ = self.kill().await;
        }
        result
    }

    fn signal(&self, signal: Signal) {
        if !self.ended {
            let _ = kill_process_group(self.group, signal);
        }
    }

    /// Whether nothing of the group is left. The shell that runs the command may be gone long before the server is.
    fn is_gone(&mut self) -> bool {
        self.status().is_some()
            && (test_kill_process_group(self.group).is_err() || !group_lives(&*real_fs(), self.group))
    }

    async fn gone(&mut self, patience: Duration) -> Result<(), String> {
        let began = Watch::start();
        loop {
            if self.is_gone() {
                self.ended = true;
                return Ok(());
            }
            if began.elapsed() > patience {
                return Err(format!("the server is still there after {patience:?}"));
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        // So that nothing writes to its folder any more when that is removed.
        let began = Watch::start();
        while !self.ended && !self.is_gone() && began.elapsed() < DROP_MAX {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

async fn ping(address: SocketAddr) -> std::io::Result<Reply> {
    Client::connect(address).await?.call("PING").await
}

/// Whether the group has a process that is not just waiting to be forgotten. Where there is no `/proc`, a group that
/// can be signalled lives.
pub(super) fn group_lives(fs: &dyn Fs, group: Pid) -> bool {
    let Some(processes) = numbers(fs, "/proc") else { return true };
    processes.iter().any(|process| {
        let process = format!("/proc/{process}");
        match state(fs, &process) {
            Some((state, number)) if number == group.as_raw_pid() => {
                // A process whose first thread has ended looks dead while others still end, and have its files open.
                is_alive(&state) || has_threads(fs, &process)
            }
            _ => false,
        }
    })
}

fn has_threads(fs: &dyn Fs, process: &str) -> bool {
    let threads = numbers(fs, &format!("{process}/task")).unwrap_or_default();
    let states = threads.iter().filter_map(|thread| state(fs, &format!("{process}/task/{thread}")));
    states.into_iter().any(|(state, _)| is_alive(&state))
}

fn is_alive(state: &str) -> bool {
    !matches!(state, "Z" | "X")
}

/// The entries of a folder that are numbers.
fn numbers(fs: &dyn Fs, folder: &str) -> Option<Vec<String>> {
    let entries = fs.list(Path::new(folder)).ok()?;
    let names = entries.into_iter().map(|entry| entry.name);
    Some(names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).collect())
}

/// The state and the group of a process or thread.
fn state(fs: &dyn Fs, of: &str) -> Option<(String, i32)> {
    let stat = read_kernel(fs, &format!("{of}/stat"), 1024)?;
    // pid (name) state parent group ...: the name may hold blanks and parentheses.
    let mut words = stat.rsplit_once(')')?.1.split_whitespace();
    let state = words.next()?.to_owned();
    let group = words.nth(1)?.parse().ok()?;
    Some((state, group))
}
