//! Asking another node: one connection, one password, one bound on the time.

use std::time::Duration;

use haypile_engine::types::Slot;

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
        let password = node.config.now().password_for_nodes().to_owned();
        if !password.is_empty() {
            client.push(&[b"AUTH", password.as_bytes()]);
        }
        client.push(words);
        client.send().await.map_err(|error| error.to_string())?;
        if !password.is_empty()
            && let Reply::Error(why) = client.receive().await.map_err(|error| error.to_string())?
        {
            return Err(format!("it refused the password of masterauth: {why}"));
        }
        client.receive().await.map_err(|error| error.to_string())
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(|why| format!("{address}: {why}")),
        Err(_) => Err(format!("{address} did not answer within {} ms", PATIENCE.as_millis())),
    }
}

/// Whether the node at `address` says that it owns the slot.
pub async fn owns(node: &Node, address: &str, slot: Slot) -> bool {
    let number = slot.to_string();
    let answer = ask(node, address, &[b"PKCLUSTER", b"INFO", b"SLOT", number.as_bytes()]).await;
    matches!(answer, Ok(Reply::Bulk(Some(text))) if String::from_utf8_lossy(&text).contains("Role: Master"))
}
