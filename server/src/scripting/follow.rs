//! A replica's functions are its master's.
//!
//! Functions are a node's, slots have masters of their own: so only a node that owns no slot, and follows one and the same node
//! for all that it has, takes that node's functions, whole, in the place of its own. A slot on its way here from another group
//! does not count. Whoever owns a slot, or follows several nodes, keeps what it has, and so does a replica when it is promoted.
//! A master that never had a library says nothing, and leaves its replicas as they are.
//!
//! The replica asks, with the SHA-1 of what it has: `HAYPILE.FUNCTIONS sha1`. The master answers as soon as it has something
//! else, or after a while that it has not. One connection, one question at a time, and again with a pause where that fails, the
//! longer the more often. A master that does not know the question (an older one) is asked rarely.

use std::sync::Arc;
use std::time::Duration;

use haypile_engine::slot::{NOBODY, Role};
use haypile_engine::types::Slot;

use super::machine;
use crate::codis::dial;
use crate::cx::Fail;
use crate::execute;
use crate::node::{Node, Stopping};
use crate::remote::{Client, Reply};
use crate::session::SessionCx;

/// How long a master waits for a change before it answers that there is none.
const HELD: Duration = Duration::from_secs(5);
/// How long an answer may take, the longest payload and the wait included.
const PATIENCE: Duration = Duration::from_secs(30);
/// After a question that failed, and between looks for a master; twice that after the next, and so on.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest after a question that failed.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// After a master has said that it does not know the question.
const PAUSE_STRANGER: Duration = Duration::from_secs(60);
/// What a node says that never had any.
const NEVER: &str = "-";

/// The node whose functions this one's are, if they are another's. Looks at slots, each under its lock.
#[must_use]
pub fn master_of(node: &Node) -> Option<String> {
    let mut master = None;
    for slot in Slot::all() {
        match node.engine.role(slot) {
            Role::Absent | Role::Moved { .. } => {}
            Role::Replica { upstream } | Role::Loading { upstream } => {
                if node.moves.foreign(slot).is_some() || master.as_ref() == Some(&upstream) {
                    continue;
                }
                if master.is_some() || upstream == NOBODY {
                    return None;
                }
                master = Some(upstream);
            }
            Role::Master | Role::Fenced | Role::Owed | Role::Granted { .. } => return None,
        }
    }
    master
}

/// [`master_of`], off the thread that accepts connections: a slot may be locked for long.
async fn look(node: &Arc<Node>) -> Option<String> {
    let node = Arc::clone(node);
    tokio::task::spawn_blocking(move || master_of(&node)).await.ok().flatten()
}

/// Refuses a change of what is another node's.
///
/// # Errors
/// For the client.
pub fn check_own(node: &Node) -> Result<(), Fail> {
    match master_of(node) {
        None => Ok(()),
        Some(master) => Err(Fail::error(format!(
            "READONLY You can't write against a read only replica: its functions are those of {master}."
        ))),
    }
}

/// Takes a master's functions, whichever it is, until the node stops.
pub async fn run(node: Arc<Node>) {
    let mut stopping = node.stopping();
    tokio::select! {
        () = follow(&node) => {}
        _ = stopping.wait_for(|stopping| *stopping != Stopping::No) => {}
    }
}

/// Why a master's functions were not told.
#[derive(Debug)]
enum Refusal {
    /// It is no master of them any more, here.
    Late,
    /// It does not know what it was asked.
    Stranger(String),
    /// Anything else.
    Other(String),
}

/// What has failed since a master's functions were told last.
#[derive(Default, Debug)]
struct Failures {
    in_a_row: u32,
    last: String,
}

impl Failures {
    /// Takes note of one; says how long to wait, and why, if that is news.
    fn note(&mut self, refusal: Refusal) -> (Duration, Option<String>) {
        let (pause, why) = match refusal {
            Refusal::Late => return (PAUSE, None),
            Refusal::Stranger(why) => (PAUSE_STRANGER, why),
            Refusal::Other(why) => (PAUSE.saturating_mul(1 << self.in_a_row.min(5)).min(PAUSE_MAX), why),
        };
        self.in_a_row = self.in_a_row.saturating_add(1);
        let is_news = self.last != why;
        self.last.clone_from(&why);
        (pause, is_news.then_some(why))
    }
}

async fn follow(node: &Arc<Node>) {
    let mut line = None;
    let mut failures = (String::new(), Failures::default());
    loop {
        let Some(master) = look(node).await else {
            line = None;
            // Whether a slot is foreign is found out without a change of its role.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        if failures.0 != master {
            failures = (master.clone(), Failures::default());
        }
        let asked = tokio::select! {
            asked = ask(node, &master, &mut line) => asked,
            () = other_than(node, &master) => Err(Refusal::Late),
        };
        let Err(refusal) = asked else {
            failures.1 = Failures::default();
            continue;
        };
        line = None;
        let (pause, news) = failures.1.note(refusal);
        if let Some(why) = news {
            tracing::warn!(%master, %why, "the master's functions are not told: this node keeps those that it has");
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = other_than(node, &master) => {}
        }
    }
}

/// Resolves once the functions are not this node's any more.
async fn other_than(node: &Arc<Node>, master: &str) {
    loop {
        let seen = node.engine.role_changes().count();
        if look(node).await.as_deref() != Some(master) {
            return;
        }
        node.engine.role_changes().wait_past(seen).await;
    }
}

/// Asks once, and takes what the answer is.
async fn ask(node: &Arc<Node>, master: &str, line: &mut Option<(String, Client)>) -> Result<(), Refusal> {
    let mut client = match line.take() {
        Some((address, client)) if address == master => client,
        _ => dial::connect(master).await.map_err(Refusal::Other)?,
    };
    let seen = node.functions.changes().count();
    let sha = node.functions.sha();
    let words: [&[u8]; 2] = [b"HAYPILE.FUNCTIONS", sha.as_deref().unwrap_or(NEVER).as_bytes()];
    match dial::ask_on(node, &mut client, &words, PATIENCE).await.map_err(Refusal::Other)? {
        Reply::Bulk(None) => {}
        Reply::Bulk(Some(payload)) => {
            let (taker, from) = (Arc::clone(node), master.to_owned());
            // It runs their texts, and waits for the disk. Who was promoted before the look keeps what it has; who is after
            // it has what its master had, or what it was told by then.
            let taken = tokio::task::spawn_blocking(move || {
                let still = master_of(&taker).as_ref() == Some(&from);
                Ok(still && taker.functions.take(&*taker.fs, &payload, machine::library, &from, seen)?)
            });
            let taken = taken.await.map_err(|error| Refusal::Other(error.to_string()))?;
            if !taken.map_err(|fail: Fail| Refusal::Other(execute::words(&fail)))? {
                return Err(Refusal::Late);
            }
            tracing::info!(%master, libraries = node.functions.all().len(), "the master's functions were taken");
        }
        Reply::Error(why) if why.starts_with("ERR unknown command") => return Err(Refusal::Stranger(why)),
        reply => return Err(Refusal::Other(reply.text())),
    }
    *line = Some((master.to_owned(), client));
    Ok(())
}

/// HAYPILE.FUNCTIONS: what this node keeps, once it is something else than what the other one has; else nothing, after a while.
///
/// # Errors
/// None of its own: it is a command.
pub async fn tell(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let (node, theirs) = (cx.node, cx.arg(1));
    let news = async {
        loop {
            let seen = node.functions.changes().count();
            if node.functions.sha().is_some_and(|ours| ours.as_bytes() != theirs) {
                return node.functions.kept();
            }
            node.functions.changes().wait_past(seen).await;
        }
    };
    let told = tokio::time::timeout(HELD, news).await;
    cx.reply.bulk_or_null(told.ok().flatten().as_deref());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_that_fails_again_and_again_is_asked_more_rarely_and_complained_of_once() {
        let mut failures = Failures::default();
        let mut fail = |why: &str| {
            let (pause, news) = failures.note(Refusal::Other(why.to_owned()));
            (pause.as_secs(), news.is_some())
        };
        let noted = [fail("a"), fail("a"), fail("a"), fail("b"), fail("b"), fail("b"), fail("b")];
        let expected = [(1, true), (2, false), (4, false), (8, true), (16, false), (30, false), (30, false)];
        assert_eq!(noted, expected);
    }

    #[test]
    fn a_master_that_does_not_know_the_question_is_asked_once_a_minute() {
        let mut failures = Failures::default();
        let unknown = || Refusal::Stranger("ERR unknown command 'HAYPILE.FUNCTIONS'".to_owned());
        assert!(matches!(failures.note(unknown()), (PAUSE_STRANGER, Some(_))));
        assert!(matches!(failures.note(unknown()), (PAUSE_STRANGER, None)));
        // Another master is nobody's fault.
        assert!(matches!(failures.note(Refusal::Late), (PAUSE, None)));
    }
}
