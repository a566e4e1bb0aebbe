//! Commands that have run for long, scripts nearly all of them: on a thread of their own, from the start. See
//! [`crate::scripting::aside`].

use haypile_engine::types::Seq;

use super::*;
use crate::clients::Client;
use crate::pubsub::Message;
use crate::scripting::aside::{Aside, Held};

/// A command as it is handed to another thread.
struct Job {
    node: Arc<Node>,
    client: Arc<Client>,
    command: &'static Command,
    body: Body,
    args: Vec<Bytes>,
    scratch: Scratch,
    proto: Proto,
}

/// What came of it.
struct Ran {
    done: Result<(), Fail>,
    reply: Vec<u8>,
    gate: Gate,
    records: Vec<(Slot, Seq)>,
    outbox: Vec<Message>,
    scratch: Scratch,
}

impl Job {
    async fn run(mut self) -> Ran {
        let args: Vec<&[u8]> = self.args.iter().map(|arg| &arg[..]).collect();
        let mut session = Session::new(self.client, true);
        let mut reply = ReplyWriter::new(self.proto);
        let mut gate = Gate::default();
        let mut since_ns = self.node.nanos();
        self.scratch.aside = true;
        let done = Runner {
            node: &self.node,
            session: &mut session,
            args: &args,
            now: self.node.wall(),
            since_ns: &mut since_ns,
            scratch: &mut self.scratch,
            reply: &mut reply,
            gate: &mut gate,
        }
        .data(self.command, self.body, None)
        .await;
        self.scratch.aside = false;
        Ran {
            done,
            reply: reply.as_bytes().to_vec(),
            gate,
            records: session.written.records,
            outbox: session.outbox,
            scratch: self.scratch,
        }
    }
}

/// Waits until a long script has ended, or has run for so long that others are told.
///
/// # Errors
/// BUSY.
pub(crate) async fn free(node: &Node, aside: &Aside) -> Result<(), Fail> {
    // What was committed before must not wait behind it.
    node.engine.write()?;
    let until_ms = aside.since_ms.saturating_add(node.config.now().script_busy_ms);
    let wait = Duration::from_millis(until_ms.saturating_sub(node.monotonic_ms()));
    tokio::time::timeout(wait, aside.over()).await.map_err(|_| match aside.kill {
        Some(kill) => Fail::error(format!(
            "BUSY Redis is busy running a script. You can only call {kill} KILL or SHUTDOWN NOSAVE."
        )),
        None => Fail::error("BUSY a command copies a large collection of this slot: try again"),
    })
}

/// Notes that a command whose slots are locked, and which began then, goes on aside.
pub(super) fn hold(node: &Node, command: &Command, slots: &[Slot], since_ns: u64) -> Held {
    let kill = match command.name {
        "fcall" | "fcall_ro" => Some("FUNCTION"),
        _ if command.group == crate::commands::scripting::GROUP => Some("SCRIPT"),
        _ => None,
    };
    node.scripts.asides.hold(slots, since_ns / 1_000_000, kill)
}

impl Runner<'_> {
    /// The long script that a command which is not on keys would have to wait for under locks.
    pub(super) fn in_the_way(&self, command: &Command) -> Option<Arc<Aside>> {
        let aside = self.node.scripts.asides.any()?;
        command.flags.has(Flags::OVER_SLOTS).then_some(aside)
    }

    /// Runs a command aside, to its end.
    pub(super) async fn aside(
        &mut self,
        command: &'static Command,
        body: Body,
        held: Held,
    ) -> Result<(), Fail> {
        // What was committed before must not wait behind it.
        self.node.engine.write()?;
        let job = Job {
            node: self.node.clone(),
            client: self.session.client.clone(),
            command,
            body,
            args: self.args.iter().map(|arg| Bytes::copy_from_slice(arg)).collect(),
            scratch: std::mem::take(self.scratch),
            proto: self.reply.proto(),
        };
        let runtime = tokio::runtime::Handle::current();
        // It goes on if its client leaves, as in Redis; the slots are free when it has ended.
        let ran = tokio::task::spawn_blocking(move || {
            let ran = runtime.block_on(job.run());
            drop(held);
            ran
        });
        let ran = ran.await.map_err(|_| Fail::error("ERR the node stops"))?;
        *self.scratch = ran.scratch;
        self.reply.raw(&ran.reply);
        self.gate.join(ran.gate);
        ran.records.into_iter().for_each(|(slot, seq)| self.session.written.note(slot, seq));
        self.session.outbox.extend(ran.outbox);
        ran.done
    }
}
