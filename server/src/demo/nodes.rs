//! The demo's nodes: processes of this very program, in a folder of their own, ended with it however it ends.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::slot_text::{self, SlotText};
use crate::last_lines::LastLines;
use crate::remote::{Client, Reply};

/// How long a node may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(10);

/// A node that runs.
pub struct NodeProcess {
    /// Its number in the story, from 1.
    pub number: usize,
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
    admin: Client,
    log: LastLines,
}

impl NodeProcess {
    /// Starts a node that keeps its data in `folder`, on a free port.
    ///
    /// # Errors
    /// A line for people.
    pub async fn start(number: usize, folder: &Path) -> Result<NodeProcess, String> {
        let named = |what: String| format!("node {number}: {what}");
        let program = std::env::current_exe().map_err(|error| named(format!("this program: {error}")))?;
        let mut child = Command::new(program)
            .args(["serve", "--port", "0", "--maxmemory", "64mb", "--log-segment-bytes", "8mb", "--dir"])
            .arg(folder.join(format!("node-{number}")))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| named(error.to_string()))?;
        let log = LastLines::default();
        if let Some(stderr) = child.stderr.take() {
            log.keep(stderr);
        }
        let stdout = child.stdout.take().ok_or_else(|| named("no output".to_owned()))?;
        let mut lines = BufReader::new(stdout).lines();
        let first = timeout(PATIENCE, lines.next_line()).await;
        let Ok(Ok(Some(line))) = first else {
            return Err(named(format!("did not start\n{}", log.shown())));
        };
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let address = listening(&line).ok_or_else(|| named(format!("unexpected words: {line}")))?;
        let admin = Client::connect(address).await.map_err(|error| named(error.to_string()))?;
        Ok(NodeProcess { number, address, child, admin, log })
    }

    /// Its last log lines, if it ended.
    pub fn obituary(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(format!("node {} died ({status})\n{}", self.number, self.log.shown()))
    }

    /// Runs a command that must answer `+OK`.
    ///
    /// # Errors
    /// What it answered instead.
    pub async fn order(&mut self, line: &str) -> Result<(), String> {
        match self.ask(line).await? {
            Reply::Simple(text) if text == "OK" => Ok(()),
            reply => Err(format!("node {}: {line}: {}", self.number, reply.text())),
        }
    }

    /// Runs a command.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn ask(&mut self, line: &str) -> Result<Reply, String> {
        match timeout(3 * PATIENCE, self.admin.call(line)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => {
                let log = self.log.shown();
                Err(format!("node {}: {line}: the connection broke: {error}\n{log}", self.number))
            }
            Err(_) => Err(format!("node {}: {line}: no answer for {:?}", self.number, 3 * PATIENCE)),
        }
    }

    /// What it tells of slots.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn slots(&mut self, group: &str) -> Result<Vec<SlotText>, String> {
        let text = self.ask(&format!("pkcluster info slot {group}")).await?.text();
        Ok(slot_text::parse(&text))
    }

    /// What it tells of one slot.
    ///
    /// # Errors
    /// If the node does not answer or does not have the slot.
    pub async fn slot(&mut self, slot: u16) -> Result<SlotText, String> {
        let found = self.slots(&slot.to_string()).await?.pop();
        found.ok_or_else(|| format!("node {} does not have slot {slot}", self.number))
    }

    /// Bytes that it has sent to the node at this address, since that one connected.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn shipped_bytes(&mut self, peer: &str) -> Result<u64, String> {
        let text = self.ask("info replication").await?.text();
        let field = |line: &str| line.split_once("sent_bytes=")?.1.split_once(',')?.0.parse().ok();
        let line =
            text.lines().find(|line| line.contains(&format!("addr={peer},")) && line.starts_with("peer"));
        line.and_then(field).ok_or_else(|| format!("node {} does not ship to {peer}", self.number))
    }

    /// Stops it and waits for its end, which must be a clean one.
    ///
    /// # Errors
    /// A line for people.
    pub async fn stop(mut self) -> Result<(), String> {
        if let Some(obituary) = self.obituary() {
            return Err(obituary);
        }
        let id =
            self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(id) = id {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
        match timeout(PATIENCE, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => {
                Err(format!("node {} did not stop cleanly ({status})\n{}", self.number, self.log.shown()))
            }
            Ok(Err(error)) => Err(format!("node {}: {error}", self.number)),
            Err(_) => Err(format!("node {} did not stop within {PATIENCE:?}", self.number)),
        }
    }

    /// Ends it at once.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn kill(mut self) -> Result<(), String> {
        self.child.kill().await.map_err(|error| format!("node {}: {error}", self.number))
    }
}

/// The address in the line that a node prints when it listens.
fn listening(line: &str) -> Option<SocketAddr> {
    line.strip_prefix("haypile listens at ")?.split_once(',')?.0.parse().ok()
}
