//! WAIT: until so many replicas have what this connection wrote.
//!
//! What it wrote may lie in many slots, each with replicas of its own: the answer is the number of replicas of the slot that
//! has fewest. It is never too large: a slot counts with all that it holds when WAIT comes.

use std::sync::Arc;
use std::time::Duration;

use haypile_engine::types::{Seq, Slot};
use haypile_replication::acks::Waited;

use crate::blocked::{Answer, Waiter};
use crate::cx::{Fail, integer};
use crate::node::Node;
use crate::number;
use crate::session::SessionCx;
use crate::table::{Command, Flags, Group, Keys, Pending, Run};
use crate::topology;

/// See the file's head.
pub const COMMANDS: &[Command] = &[Group("generic").row(
    "wait",
    3,
    Flags::NONE,
    Keys::None,
    "3.0.0",
    "Waits until so many replicas have what this connection wrote.",
    Run::Waiting(count_now, wait),
)
.differs("what this connection wrote may lie in many slots: the answer is that of the slot that has fewest replicas")];

/// What was asked for.
struct Asked {
    replicas: usize,
    /// For how long to wait; for ever if `None`.
    timeout_ms: Option<u64>,
}

impl Asked {
    fn parse(cx: &SessionCx<'_>) -> Result<Asked, Fail> {
        if is_replica(cx.node) {
            return Err(Fail::error(
                "ERR WAIT cannot be used with replica instances: all slots of this node follow another; ask their master",
            ));
        }
        let replicas = usize::try_from(integer(cx.arg(1))?).unwrap_or(0);
        let timeout = number::integer(cx.arg(2))
            .ok_or_else(|| Fail::error("ERR timeout is not an integer or out of range"))?;
        let timeout_ms = u64::try_from(timeout).map_err(|_| Fail::error("ERR timeout is negative"))?;
        Ok(Asked { replicas, timeout_ms: Some(timeout_ms).filter(|ms| *ms > 0) })
    }
}

/// Whether the node owns no slot of those that it has.
fn is_replica(node: &Node) -> bool {
    let slots = topology::present(&node.engine);
    !slots.is_empty() && slots.iter().all(|&slot| !node.owns(slot))
}

/// What replicas must have: the last records of the slots that the connection wrote to, as far as they are still this
/// node's. If it wrote nothing, all that they must is follow.
fn records(cx: &SessionCx<'_>) -> Vec<(Slot, Seq)> {
    let mut wrote = cx.session.written.slots().peekable();
    if wrote.peek().is_none() {
        return Slot::all().filter(|&slot| cx.node.owns(slot)).map(|slot| (slot, Seq::ZERO)).collect();
    }
    let last = |slot| (slot, cx.node.engine.pulse(slot).last_seq);
    wrote.filter(|&slot| cx.node.owns(slot)).map(last).collect()
}

fn count_now(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    Asked::parse(cx)?;
    let count = cx.node.replication.acks().count(&records(cx));
    cx.reply.count(count);
    Ok(())
}

fn wait<'a>(cx: &'a mut SessionCx<'_>) -> Pending<'a> {
    Box::pin(async move {
        let asked = Asked::parse(cx)?;
        let records = records(cx);
        wait_for(cx, &asked, &records).await?;
        cx.reply.count(cx.node.replication.acks().count(&records));
        Ok(())
    })
}

/// Waits until enough replicas have the records, the time is over, or somebody says so.
async fn wait_for(cx: &SessionCx<'_>, asked: &Asked, records: &[(Slot, Seq)]) -> Result<(), Fail> {
    let node = cx.node;
    if records.is_empty() {
        return Ok(());
    }
    let Some(wait) = node.replication.acks().wait(records, asked.replicas) else { return Ok(()) };
    let command = crate::table::find(b"wait").expect("it is in the table");
    let waiter =
        Waiter::new(cx.session.client.id, command, Vec::new(), Vec::new(), None, cx.reply.proto(), 0);
    let waiting = node.blocked.enter(&Arc::new(waiter));
    let until_ms = asked.timeout_ms.map(|ms| node.monotonic_ms().saturating_add(ms));
    loop {
        let over = async {
            match until_ms {
                None => std::future::pending().await,
                Some(until) => {
                    let left = until.saturating_sub(node.monotonic_ms());
                    tokio::time::sleep(Duration::from_millis(left)).await;
                }
            }
        };
        tokio::select! {
            biased;
            waited = wait.over() => return match waited {
                Waited::Acked => Ok(()),
                Waited::Gone => Err(changed()),
            },
            () = waiting.waiter.woken() => match waiting.waiter.take() {
                Some(Answer::Unblocked) => {
                    return Err(Fail::error("UNBLOCKED client unblocked via CLIENT UNBLOCK"));
                }
                Some(_) => return Ok(()),
                None => {}
            },
            () = node.loses(records) => return Err(changed()),
            () = over => return Ok(()),
        }
    }
}

fn changed() -> Fail {
    Fail::error(
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    )
}

#[cfg(test)]
mod tests;
