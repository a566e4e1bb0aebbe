//! Commands that wait for an item, from their first attempt to their answer; and how a writer serves them.

use std::sync::Arc;

use haypile_engine::types::Seq;

use super::*;
use crate::blocked::{Answer, Awaited, Waiter, Waiting};
use crate::cx::Blocks;
use crate::kind::Kind;

/// So many of those who wait for a key are served by one write. One that pushes more items at once leaves the rest of them
/// to the next write, or to who asks.
const SERVED_MAX: usize = 1024;

/// Who waits for keys of the slots that a writer has locked.
#[derive(Default)]
pub(super) struct Candidates {
    /// The keys that somebody waits for.
    keys: Vec<Key>,
    /// Of each key who came first is first.
    all: Vec<Candidate>,
}

impl Candidates {
    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The keys, none of them written yet.
    pub(super) fn awaited(&self) -> Awaited<'_> {
        Awaited::new(&self.keys)
    }
}

/// One of them.
struct Candidate {
    waiter: Arc<Waiter>,
    /// Which of the keys it would be served with.
    key: usize,
    /// What the command is run with.
    keys: Vec<Key>,
    /// Whether the writer has locked all that the command needs, to write.
    locked: bool,
}

/// Who waits for keys of the transaction's slots.
pub(super) fn candidates(node: &Node, tx: &Tx<'_>) -> Candidates {
    let slots: Vec<Slot> = tx.slots().collect();
    let keys: Vec<Key> = slots.iter().flat_map(|slot| node.blocked.keys(*slot)).collect();
    let mut all = Vec::new();
    for (at, key) in keys.iter().enumerate() {
        for waiter in node.blocked.queue(key, SERVED_MAX) {
            let keys = waiter.needs_all.clone().unwrap_or_else(|| vec![key.clone()]);
            // A transaction may have locked slots only to read them, which need not be this node's to write.
            let writable =
                |slot: Slot| slots.binary_search(&slot).is_ok() && matches!(tx.role(slot), Role::Master);
            let locked = keys.iter().all(|key| writable(key.slot()));
            all.push(Candidate { waiter, key: at, keys, locked });
        }
    }
    Candidates { keys, all }
}

/// Their commands' arguments.
pub(super) fn args_of(candidates: &Candidates) -> Vec<Vec<&[u8]>> {
    candidates.all.iter().map(|one| one.waiter.args.iter().map(|arg| &arg[..]).collect()).collect()
}

/// What a writer served, to be handed out once it is committed. If it is dropped before, they wait on.
#[derive(Default)]
pub(super) struct Served(Vec<(Arc<Waiter>, Vec<u8>)>);

impl Served {
    /// Hands the replies out; `written` is what was committed.
    pub(super) fn hand_out(mut self, gate: Gate, written: &[(Slot, Seq)]) {
        for (waiter, reply) in self.0.drain(..) {
            waiter.give(Answer::Served(reply, gate, written.to_vec()));
        }
    }

    fn has(&self, waiter: &Arc<Waiter>) -> bool {
        self.0.iter().any(|(other, _)| Arc::ptr_eq(other, waiter))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.iter().for_each(|(waiter, _)| waiter.release());
    }
}

/// Runs the commands that wait for what the transaction has written, as far as there are items: of the keys in the order in
/// which they were written. Nothing of it is left in the reply.
///
/// # Errors
/// A miss, or the engine's failure: the transaction is to be given up.
pub(super) fn serve<'a>(
    cx: &mut Cx<'a>,
    candidates: &'a Candidates,
    args: &'a [Vec<&'a [u8]>],
) -> Result<Served, Stop> {
    let mut served = Served::default();
    // What is served may itself write a key that somebody waits for.
    loop {
        let before = served.0.len();
        let mut turn = 0;
        while let Some(at) = cx.awaited.written(turn) {
            turn += 1;
            let waiting = candidates.all.iter().zip(args).filter(|(one, _)| one.key == at);
            for (one, args) in waiting {
                serve_one(cx, &candidates.keys[at], one, args, &mut served)?;
            }
        }
        if served.0.len() == before {
            break;
        }
    }
    Ok(served)
}

/// Serves one who waits for a key that was written or removed, if there is something for it.
fn serve_one<'a>(
    cx: &mut Cx<'a>,
    key: &'a Key,
    one: &'a Candidate,
    args: &'a [&'a [u8]],
    served: &mut Served,
) -> Result<(), Stop> {
    // Who reads in a group is told that it is gone.
    let told = one.waiter.command.name == "xreadgroup" && cx.tx.has_removed(key);
    if !(told || cx.tx.has_written(key)) || served.has(&one.waiter) {
        return Ok(());
    }
    if !one.locked || !one.waiter.claim() {
        // It looks by itself, once this transaction is over.
        one.waiter.wake();
        return Ok(());
    }
    match run_for(cx, key, one, args) {
        Ok(Some(reply)) => served.0.push((one.waiter.clone(), reply)),
        // Not woken: by itself it would find no more, or another type, which is no answer to who waits.
        Ok(None) => one.waiter.unclaim(),
        Err(stop) => {
            one.waiter.release();
            return Err(stop);
        }
    }
    Ok(())
}

/// Runs a waiting command in another's transaction: its reply, unless there is nothing for it.
fn run_for<'a>(
    cx: &mut Cx<'a>,
    key: &'a Key,
    one: &'a Candidate,
    args: &'a [&'a [u8]],
) -> Result<Option<Vec<u8>>, Stop> {
    let Run::Data(body) = one.waiter.command.run else { unreachable!("only what works on data waits") };
    let (start, proto) = (cx.reply.len(), cx.reply.proto());
    cx.reply.switch(one.waiter.proto);
    (cx.args, cx.keys, cx.seed) = (args, &one.keys, one.waiter.seed);
    let done = match events::run(cx, one.waiter.command, body) {
        Ok(()) => Ok(true),
        Err(Fail::Stop(stop)) => Err(stop),
        // Where an item goes may be of a type that takes none: then there is nothing to wait for.
        Err(Fail::Error(text)) if one.waiter.needs_all.is_some() => {
            cx.reply.truncate(start);
            cx.reply.error(&text);
            Ok(true)
        }
        Err(Fail::Error(_)) if one.waiter.command.name == "xreadgroup" => {
            cx.reply.truncate(start);
            group_gone(&mut cx.tx, std::slice::from_ref(key)).map(|why| {
                cx.reply.error(why);
                true
            })
        }
        // Nothing is left, or it is of another type.
        Err(Fail::Error(_) | Fail::Blocks(_) | Fail::Long) => Ok(false),
    };
    let reply = cx.reply.as_bytes()[start..].to_vec();
    cx.reply.truncate(start);
    cx.reply.switch(proto);
    done.map(|served| served.then_some(reply))
}

/// What is told to who waited in a group that is gone, or whose stream is.
pub(super) fn group_gone(tx: &mut Tx<'_>, keys: &[Key]) -> Result<&'static str, Stop> {
    for key in keys {
        if tx.read(key, |value| value.kind == Kind::Stream as u8)? != Some(true) {
            return Ok("UNBLOCKED the stream key no longer exists");
        }
    }
    Ok("NOGROUP the consumer group this client was blocked on no longer exists")
}

/// Watches the keys of a reader who waits in slots that another node writes: what that wrote serves nobody by itself. No
/// slot may be locked when this is dropped.
pub(super) fn watch(node: &Arc<Node>, tx: &mut Tx<'_>, keys: &[Key]) -> (Option<Watching>, Result<(), Stop>) {
    let is_written_here = |key: &Key| tx.role(key.slot()).owns();
    if keys.iter().all(is_written_here) {
        return (None, Ok(()));
    }
    let mut watching = Watching::new(node.clone());
    let watched = keys.iter().try_for_each(|key| watching.add(tx, key));
    (Some(watching), watched)
}

/// Enters a command among those who wait; its slots are locked. `who` is its client and the protocol that it speaks.
pub(super) fn enter(
    node: &Node,
    who: (u64, Proto),
    command: &'static Command,
    args: &[&[u8]],
    (keys, seed): (&[Key], u64),
    blocks: Blocks,
) -> Waiting {
    let (waits_for, needs_all) =
        if blocks.needs_all { (keys[..1].to_vec(), Some(keys.to_vec())) } else { (keys.to_vec(), None) };
    let args = blocks.args.unwrap_or_else(|| args.iter().map(|arg| Bytes::copy_from_slice(arg)).collect());
    let waiter = Waiter::new(who.0, command, args, waits_for, needs_all, who.1, seed);
    node.blocked.enter(&Arc::new(waiter))
}

impl Runner<'_> {
    /// Waits until there may be an item, a slot has changed hands (`changes` is how many such changes were counted before
    /// the last attempt), or the time is over; or, where another node writes, until it wrote. `None`: try again.
    pub(super) async fn item(
        &self,
        waiting: &Waiting,
        watching: Option<&Watching>,
        changes: u64,
        until_ms: Option<u64>,
    ) -> Option<Answer> {
        let waiter = &waiting.waiter;
        let over = async {
            match until_ms {
                None => std::future::pending().await,
                Some(until) => {
                    let wait = until.saturating_sub(self.node.monotonic_ms());
                    tokio::time::sleep(Duration::from_millis(wait)).await;
                }
            }
        };
        let written = async {
            match watching {
                None => std::future::pending().await,
                Some(watching) => watching.changed().await,
            }
        };
        tokio::select! {
            () = waiter.woken() => {}
            () = written => {}
            () = self.node.engine.role_changes().wait_past(changes) => {}
            // Else somebody is serving it right now: it is woken.
            () = over => if waiter.claim() { return Some(Answer::TimedOut) } else { waiter.woken().await },
        }
        waiter.take()
    }

    /// Answers a command that has waited.
    pub(super) fn answered(&mut self, answer: Answer) -> Result<(), Fail> {
        match answer {
            Answer::Served(reply, gate, written) => {
                let is_error = reply.first() == Some(&b'-');
                self.node.stats.error_replies.fetch_add(u64::from(is_error), Ordering::Relaxed);
                self.reply.raw(&reply);
                self.gate.join(gate);
                written.into_iter().for_each(|(slot, seq)| self.session.written.note(slot, seq));
            }
            Answer::TimedOut => self.reply.null_array(),
            Answer::Unblocked => {
                return Err(Fail::error("UNBLOCKED client unblocked via CLIENT UNBLOCK"));
            }
        }
        Ok(())
    }
}
