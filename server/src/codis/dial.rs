//! Asking another node: one connection, one password, one bound on the time. And sending keys to a codis-server.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use haypile_engine::types::Slot;

use super::adopt;
use super::moves::Way;
use crate::node::Node;
use crate::remote::{Client, Reply};

/// How long another node may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends one command to the node at `address` and waits for the answer.
///
/// # Errors
/// Why there is none, with the address. An error reply is an answer.
pub async fn ask(node: &Node, address: &str, words: &[&[u8]]) -> Result<Reply, String> {
    let asked = async {
        let mut client = Client::connect(address).await.map_err(|error| error.to_string())?;
        exchange(node, &mut client, words).await
    };
    bounded(address, PATIENCE, asked).await
}

/// A connection for more than one question.
///
/// # Errors
/// Why there is none, with the address.
pub async fn connect(address: &str) -> Result<Client, String> {
    let connected = async { Client::connect(address).await.map_err(|error| error.to_string()) };
    bounded(address, PATIENCE, connected).await
}

/// As [`ask`], on a connection that is there; it is of no more use after an error.
///
/// # Errors
/// As [`ask`], without the address.
pub async fn ask_on(
    node: &Node,
    client: &mut Client,
    words: &[&[u8]],
    patience: Duration,
) -> Result<Reply, String> {
    bounded("the other node", patience, exchange(node, client, words)).await
}

async fn bounded<T>(
    address: &str,
    patience: Duration,
    asked: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    match tokio::time::timeout(patience, asked).await {
        Ok(answer) => answer.map_err(|why| format!("{address}: {why}")),
        Err(_) => Err(format!("{address} did not answer within {} ms", patience.as_millis())),
    }
}

/// Gives the passwords, sends a command and waits for the answer.
async fn exchange(node: &Node, client: &mut Client, words: &[&[u8]]) -> Result<Reply, String> {
    let settings = node.config.now();
    let mut passwords = vec![settings.password_for_nodes(), settings.password_of_product()];
    passwords.dedup();
    passwords.retain(|password| !password.is_empty());
    // Not every node has a password for operators, and a codis-server has none: what it asks for comes last.
    for password in &passwords {
        client.push(&[b"AUTH", password.as_bytes()]);
    }
    client.push(words);
    client.send().await.map_err(|error| error.to_string())?;
    let mut refused = None;
    for _ in &passwords {
        if let Reply::Error(why) = client.receive().await.map_err(|error| error.to_string())? {
            refused = Some(why);
        }
    }
    let answer = client.receive().await.map_err(|error| error.to_string())?;
    // A node that asks for no password refuses one too: whether it matters shows in its answer.
    match (refused, &answer) {
        (Some(why), Reply::Error(told)) if is_about_passwords(told) => {
            Err(format!("it refused the password of masterauth: {why} ({told})"))
        }
        _ => Ok(answer),
    }
}

fn is_about_passwords(error: &str) -> bool {
    ["NOAUTH", "NOPERM", "WRONGPASS"].iter().any(|code| error.starts_with(code))
}

/// Whether the node at `address` says that it owns the slot.
pub async fn owns(node: &Node, address: &str, slot: Slot) -> bool {
    let number = slot.to_string();
    let answer = ask(node, address, &[b"PKCLUSTER", b"INFO", b"SLOT", number.as_bytes()]).await;
    let is_owner = |text: &str| text.contains("Role: Master") && !text.contains("Role: Slave");
    matches!(answer, Ok(Reply::Bulk(Some(text))) if is_owner(&String::from_utf8_lossy(&text)))
}

/// How the node at `address` takes slots: asked once, by a command that a codis-server does not know.
///
/// # Errors
/// Why it does not say.
pub async fn way(node: &Node, address: &str) -> Result<Way, String> {
    if let Some(way) = node.moves.way_to(address) {
        return Ok(way);
    }
    let way = match ask(node, address, &[adopt::COMMAND]).await? {
        Reply::Error(why) if why.starts_with("ERR unknown command") => Way::ByKey,
        Reply::Error(why) if why.starts_with("ERR wrong number of arguments") => Way::Whole,
        reply => return Err(format!("{address}: {}", reply.text())),
    };
    tracing::info!(%address, ?way, "a node was asked how it takes slots");
    node.moves.set_way(address, Some(way));
    Ok(way)
}

/// In which words keys are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wire {
    /// SLOTSRESTORE: all keys whole, in one command.
    Whole,
    /// SLOTSRESTORE-ASYNC: each key by itself, large ones in pieces.
    Pieces,
}

/// A connection on which keys go to a codis-server.
pub struct Courier {
    client: Client,
    wire: Wire,
    timeout: Duration,
    /// Acks that have to come.
    unanswered: usize,
    /// What SLOTSRESTORE says.
    triples: Vec<Vec<u8>>,
}

/// What is gathered before it is sent, in bytes and in commands.
const WINDOW_BYTES: usize = 256 << 10;
const WINDOW_COMMANDS: usize = 256;

/// Connects to the codis-server at `address`, gives the password and selects the database.
///
/// # Errors
/// Why not.
pub async fn courier(node: &Node, address: &str, wire: Wire, timeout: Duration) -> Result<Courier, String> {
    let named = |why: String| format!("{address}: {why}");
    let connected = tokio::time::timeout(timeout, Client::connect(address)).await;
    let connected = connected.map_err(|_| named("it does not answer".to_owned()))?;
    let client = connected.map_err(|error| named(error.to_string()))?;
    let mut courier = Courier { client, wire, timeout, unanswered: 0, triples: Vec::new() };
    let password = node.config.now().password_of_product().to_owned();
    let (auth, select): (&[u8], &[u8]) = match wire {
        Wire::Whole => (b"AUTH", b"SELECT"),
        Wire::Pieces => (b"SLOTSRESTORE-ASYNC-AUTH", b"SLOTSRESTORE-ASYNC-SELECT"),
    };
    if !password.is_empty() {
        courier.push(&[auth, password.as_bytes()]);
    }
    courier.push(&[select, b"0"]);
    courier.flush().await.map_err(named)?;
    Ok(courier)
}

/// Who takes pieces of keys, each the words that come after `SLOTSRESTORE-ASYNC`.
pub trait Taker {
    /// Takes one.
    ///
    /// # Errors
    /// Why it is of no more use.
    fn piece(&mut self, words: &[&[u8]]) -> impl Future<Output = Result<(), String>> + Send;
}

impl Taker for Courier {
    async fn piece(&mut self, words: &[&[u8]]) -> Result<(), String> {
        let mut all: Vec<&[u8]> = vec![b"SLOTSRESTORE-ASYNC"];
        all.extend(words);
        self.push(&all);
        if self.client.unsent() >= WINDOW_BYTES || self.unanswered >= WINDOW_COMMANDS {
            self.flush().await?;
        }
        Ok(())
    }
}

/// Keeps the pieces, to be shown.
#[derive(Default)]
pub struct Shown(pub Vec<Vec<Bytes>>);

impl Taker for Shown {
    async fn piece(&mut self, words: &[&[u8]]) -> Result<(), String> {
        let name = Bytes::from_static(b"SLOTSRESTORE-ASYNC");
        let words = words.iter().map(|word| Bytes::copy_from_slice(word));
        self.0.push(std::iter::once(name).chain(words).collect());
        Ok(())
    }
}

impl Courier {
    fn push(&mut self, words: &[&[u8]]) {
        self.client.push(words);
        self.unanswered += 1;
    }

    /// Adds a key to what SLOTSRESTORE says at the end.
    pub fn whole(&mut self, key: &[u8], ttl: &[u8], payload: &[u8]) {
        self.triples.extend([key.to_vec(), ttl.to_vec(), payload.to_vec()]);
    }

    /// Sends what is left, and waits until all of it is acknowledged.
    ///
    /// # Errors
    /// Why it is of no more use.
    pub async fn end(&mut self) -> Result<(), String> {
        if !self.triples.is_empty() {
            let triples = std::mem::take(&mut self.triples);
            let mut words: Vec<&[u8]> = vec![b"SLOTSRESTORE"];
            words.extend(triples.iter().map(Vec::as_slice));
            self.push(&words);
        }
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), String> {
        let exchange = async {
            self.client.send().await.map_err(|error| error.to_string())?;
            while self.unanswered > 0 {
                let reply = self.client.receive().await.map_err(|error| error.to_string())?;
                if !is_taken(self.wire, &reply) {
                    return Err(format!("it answers: {}", reply.text()));
                }
                self.unanswered -= 1;
            }
            Ok(())
        };
        let timeout = self.timeout;
        tokio::time::timeout(timeout, exchange)
            .await
            .map_err(|_| format!("no answer within {} ms", timeout.as_millis()))?
    }
}

fn is_taken(wire: Wire, reply: &Reply) -> bool {
    match (wire, reply) {
        (Wire::Whole, Reply::Simple(_)) => true,
        (Wire::Pieces, Reply::Array(ack)) => {
            matches!(&ack[..], [Reply::Bulk(Some(name)), Reply::Bulk(Some(code)), _]
                if name.eq_ignore_ascii_case(b"SLOTSRESTORE-ASYNC-ACK") && code == "0")
        }
        _ => false,
    }
}

/// Connections that wait for more keys.
#[derive(Default)]
pub struct Couriers(Mutex<Vec<(String, u64, Courier)>>);

/// How long a connection is kept that nobody uses, in milliseconds: less than a codis-server keeps it.
const KEPT_MS_MAX: u64 = 10_000;
/// How many are kept.
const KEPT_MAX: usize = 32;

impl Couriers {
    /// One that waits.
    pub fn take(&self, address: &str, wire: Wire) -> Option<Courier> {
        let mut kept = self.lock();
        let at = kept.iter().position(|(to, _, courier)| to == address && courier.wire == wire)?;
        Some(kept.swap_remove(at).2)
    }

    /// Keeps one for the next keys.
    pub fn keep(&self, address: &str, courier: Courier, now_ms: u64) {
        let mut kept = self.lock();
        kept.retain(|(_, at, _)| now_ms.saturating_sub(*at) <= KEPT_MS_MAX);
        if kept.len() < KEPT_MAX {
            kept.push((address.to_owned(), now_ms, courier));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(String, u64, Courier)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::Settings;
    use crate::testing::Bench;

    /// What PING is answered by a node that answers so, AUTH first, when this one's masterauth is "p".
    fn pinged(answers: &str) -> Result<Reply, String> {
        let bench = Bench::with(Settings { masterauth: "p".into(), standalone: true, ..Settings::default() });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
            let address = listener.local_addr().expect("it has one").to_string();
            let other = async {
                let (mut stream, _) = listener.accept().await.expect("somebody comes");
                let asked = b"*2\r\n$4\r\nAUTH\r\n$1\r\np\r\n*1\r\n$4\r\nPING\r\n";
                let mut heard = vec![0; asked.len()];
                stream.read_exact(&mut heard).await.expect("it asks");
                assert_eq!(heard, asked);
                stream.write_all(answers.as_bytes()).await.expect("it listens");
                stream
            };
            let asked = async {
                let mut client = Client::connect(&address).await.expect("it listens");
                exchange(&bench.node, &mut client, &[b"PING"]).await
            };
            tokio::join!(asked, other).0
        })
    }

    #[test]
    fn a_refused_password_matters_only_to_a_node_that_asks_for_one() {
        assert_eq!(pinged("+OK\r\n+PONG\r\n"), Ok(Reply::Simple("PONG".to_owned())));
        assert_eq!(pinged("-ERR no password is set\r\n+PONG\r\n"), Ok(Reply::Simple("PONG".to_owned())));
        let other = Ok(Reply::Error("ERR busy".to_owned()));
        assert_eq!(pinged("-ERR no password is set\r\n-ERR busy\r\n"), other);
        for told in ["NOAUTH Authentication required.", "NOPERM PING is for operators"] {
            let why = pinged(&format!("-WRONGPASS no\r\n-{told}\r\n"));
            assert_eq!(why, Err(format!("it refused the password of masterauth: WRONGPASS no ({told})")));
        }
        assert_eq!(pinged("+OK\r\n-NOPERM x\r\n"), Ok(Reply::Error("NOPERM x".to_owned())));
    }
}
