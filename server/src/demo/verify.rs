//! Reads everything back and compares it with what was acknowledged.

use std::net::SocketAddr;

use super::load::{Counters, Written, value};
use crate::remote::{Client, Reply};

/// Keys that are asked for at once.
const BATCH: usize = 500;
/// How many differences are told.
const TOLD: usize = 3;

/// What reading back found.
#[derive(Default)]
pub struct Findings {
    /// Values that are what they must be.
    pub right: u64,
    /// Values that are older than what was acknowledged, or not there.
    pub lost: u64,
    /// Some of them, for people.
    pub told: Vec<String>,
}

impl Findings {
    /// Both together.
    pub fn add(&mut self, other: Findings) {
        self.right += other.right;
        self.lost += other.lost;
        self.told.extend(other.told);
        self.told.truncate(TOLD);
    }
}

/// Compares what a node has with what must be there.
///
/// # Errors
/// If the node does not answer.
pub async fn compare(
    node: SocketAddr,
    written: impl Iterator<Item = &Written>,
    counters: &Counters,
) -> Result<Findings, String> {
    let keys = written.flat_map(|written| &written.keys).filter(|(_, version)| *version > 0);
    let mut expected: Vec<(&str, String)> =
        keys.map(|(name, version)| (name.as_str(), value(name, *version))).collect();
    let counted = counters.expected().filter(|(_, count)| *count > 0);
    expected.extend(counted.map(|(name, count)| (name, count.to_string())));
    let broken = |error: std::io::Error| format!("reading back from {node}: {error}");
    let mut client = Client::connect(node).await.map_err(broken)?;
    let mut findings = Findings::default();
    for some in expected.chunks(BATCH) {
        some.iter().for_each(|(name, _)| client.push(&[b"GET", name.as_bytes()]));
        client.send().await.map_err(broken)?;
        for (name, value) in some {
            let reply = client.receive().await.map_err(broken)?;
            if matches!(&reply, Reply::Bulk(Some(bytes)) if bytes == value.as_bytes()) {
                findings.right += 1;
            } else {
                findings.lost += 1;
                let told = format!("{node}: {name} should be {value}, is {}", reply.text());
                findings.told.push(told);
                findings.told.truncate(TOLD);
            }
        }
    }
    Ok(findings)
}
