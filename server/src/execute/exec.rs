//! EXEC: the commands since MULTI, run as one.
//!
//! All of them that work on data run in one transaction over all their slots, and are committed as one group of
//! records: recovered all or none. A command that fails leaves nothing and lets the others be, as in Redis. Commands on
//! the connection or the node (PUBLISH, CONFIG ...) run right after the commit, each answered at its place. One that may
//! wait (SLAVEOF, KEYS, FLUSHALL ...) holds no lock: it parts the transaction, and what comes before it and what comes
//! behind it are each atomic.

use std::cell::Cell;
use std::ops::Range;

use super::*;
use crate::cx::{Reach, Turn};
use crate::multi::{Multi, Queued};
use crate::scripting::aside::Aside;

/// More commands than this don't fail after they wrote, each of which costs a run of all before it.
const UNDONE_MAX: usize = 64;

/// A transaction on its way.
pub(super) struct Exec {
    queue: Vec<Queued>,
    watching: Option<Box<Watching>>,
    parts: Vec<Part>,
    /// Set once a command of the part that runs has asked for all slots of the node.
    everything: Cell<bool>,
}

/// Commands that run one after another.
enum Part {
    /// Under all their locks. They may write (a script without keys, too) to others than `write_slots`, which are those of keys.
    Locked {
        commands: Range<usize>,
        slots: Vec<Slot>,
        write_slots: Vec<Slot>,
        writes: bool,
        looks_at_watched: bool,
    },
    /// One, without any.
    Alone(usize),
}

/// One run of a locked part.
pub(super) enum Tried {
    /// Committed: the replies of its data commands, back to back, and where each ends and how long it took.
    Done(Vec<u8>, Vec<(usize, u64)>),
    /// Nothing was done.
    Failed(Fail),
    /// A watched key has changed.
    Changed,
    Missed(Wanted),
    Fenced(Slot, u64),
    /// A long script holds a slot.
    Busy(Arc<Aside>),
    /// A command needs slots that no key is in: now it has all.
    Asked,
}

impl Exec {
    fn new(multi: Multi, watching: Option<Box<Watching>>) -> Exec {
        let queue = multi.queue;
        let mut parts = Vec::new();
        let mut from = 0;
        for (at, queued) in queue.iter().enumerate() {
            if matches!(queued.command.run, Run::Async(_)) {
                parts.push(Part::locked(&queue, from..at, None));
                parts.push(Part::Alone(at));
                from = at + 1;
            }
        }
        parts.push(Part::locked(&queue, from..queue.len(), None));
        // What is watched is looked at under the locks of what runs first.
        if let Some(Part::Locked { commands, .. }) = parts.first() {
            parts[0] = Part::locked(&queue, commands.clone(), watching.as_deref());
        }
        Exec { queue, watching, parts, everything: Cell::new(false) }
    }
}

impl Part {
    fn locked(queue: &[Queued], commands: Range<usize>, watching: Option<&Watching>) -> Part {
        let sorted = |mut slots: Vec<Slot>| {
            slots.sort_unstable();
            slots.dedup();
            slots
        };
        let slots_of = |which: fn(&Queued) -> bool| {
            let queued = queue[commands.clone()].iter().filter(move |queued| which(queued));
            queued.flat_map(|queued| &queued.keys).map(Key::slot)
        };
        let watched = watching.into_iter().flat_map(Watching::keys).map(Key::slot);
        let slots = sorted(slots_of(|_| true).chain(watched).collect());
        let write_slots = sorted(slots_of(|queued| queued.command.flags.has(Flags::WRITE)).collect());
        let writes = queue[commands.clone()].iter().any(|queued| queued.command.flags.has(Flags::WRITE));
        Part::Locked { commands, slots, write_slots, writes, looks_at_watched: watching.is_some() }
    }
}

/// Whether the parts behind one are run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Goes {
    On,
    Nowhere,
}

/// How EXEC begins.
pub(super) enum ExecBegun {
    Done(Result<(), Fail>),
    Waits(Box<Exec>, Option<Tried>),
}

/// About what a queued command takes beside its arguments.
const COMMAND_BYTES: u64 = size_of::<Queued>() as u64;
/// About what an argument takes beside its bytes, if it is a key too.
const ARGUMENT_BYTES: u64 = (size_of::<Bytes>() + size_of::<Key>()) as u64;

impl Runner<'_> {
    /// Keeps a command for EXEC.
    pub(super) fn queue(&mut self, command: &'static Command) {
        let limit = self.node.config.now().request_bytes_max;
        let bytes: u64 =
            self.args.iter().map(|arg| arg.len() as u64 + ARGUMENT_BYTES).sum::<u64>() + COMMAND_BYTES;
        let full = self.session.multi.as_ref().is_some_and(|multi| multi.bytes + bytes > limit);
        if full || command.flags.has(Flags::NO_MULTI) {
            let text = if full {
                "ERR the transaction is longer than client-query-buffer-limit"
            } else {
                "ERR Command not allowed inside a transaction"
            };
            return self.refuse(text);
        }
        let Some(multi) = &mut self.session.multi else { return };
        self.scratch.fill(command, self.args);
        multi.bytes += bytes;
        multi.queue.push(Queued {
            command,
            args: self.args.iter().map(|arg| Bytes::copy_from_slice(arg)).collect(),
            keys: std::mem::take(&mut self.scratch.keys),
            seed: self.scratch.seed,
        });
        self.reply.simple("QUEUED");
    }

    /// Begins EXEC: nearly always runs it to its end.
    pub(super) fn begin_exec(&mut self) -> ExecBegun {
        let watching = self.session.watching.take_if(|_| self.session.multi.is_some());
        let Some(multi) = self.session.end_multi() else {
            return ExecBegun::Done(Err(Fail::error("ERR EXEC without MULTI")));
        };
        if multi.failed {
            let text = "EXECABORT Transaction discarded because of previous errors.";
            return ExecBegun::Done(Err(Fail::error(text)));
        }
        let exec = Box::new(Exec::new(*multi, watching));
        let tried = match &exec.parts[..] {
            [Part::Locked { .. }] if !self.waits_for_room(&exec.parts[0]) => {
                self.try_part(&exec, &exec.parts[0], &Fetched::default())
            }
            _ => return ExecBegun::Waits(exec, None),
        };
        match tried {
            Tried::Missed(_) | Tried::Fenced(..) | Tried::Busy(_) | Tried::Asked => {
                ExecBegun::Waits(exec, Some(tried))
            }
            tried => ExecBegun::Done(self.end_part(&exec, 0, tried).map(drop)),
        }
    }

    /// Runs EXEC to its end.
    pub(super) async fn exec(&mut self, exec: Box<Exec>, tried: Option<Tried>) -> Result<(), Fail> {
        let mut tried = tried;
        for at in 0..exec.parts.len() {
            match &exec.parts[at] {
                Part::Locked { .. } => {
                    let tried = self.part(&exec, &exec.parts[at], tried.take()).await?;
                    if self.end_part(&exec, at, tried)? == Goes::Nowhere {
                        break;
                    }
                    exec.everything.set(false);
                }
                Part::Alone(index) => {
                    // What was committed before must not wait behind it.
                    self.node.engine.write()?;
                    self.alone(&exec.queue[*index]).await?;
                }
            }
        }
        Ok(())
    }

    fn waits_for_room(&self, part: &Part) -> bool {
        matches!(part, Part::Locked { writes: true, .. }) && self.node.engine.crowd().is_some()
    }

    /// Runs a locked part until it gets to its end.
    async fn part(&mut self, exec: &Exec, part: &Part, tried: Option<Tried>) -> Result<Tried, Fail> {
        let node = self.node;
        let mut fetched = Fetched::default();
        let (mut deadline, mut tried) = (None, tried);
        for _ in 0..MISSES_MAX {
            match tried.take() {
                None if self.waits_for_room(part) => {
                    node.engine.write()?;
                    node.engine.room().await?;
                }
                None | Some(Tried::Asked) => {}
                Some(Tried::Missed(wanted)) => fetch(node, wanted, &mut fetched).await?,
                Some(Tried::Fenced(slot, changes)) => unfenced(node, slot, changes, &mut deadline).await?,
                Some(Tried::Busy(script)) => {
                    if let Err(fail) = aside::free(node, &script).await {
                        return Ok(Tried::Failed(fail));
                    }
                }
                Some(tried) => return Ok(tried),
            }
            self.now = node.wall();
            tried = Some(self.try_part(exec, part, &fetched));
        }
        Err(Fail::Stop(Stop::Miss))
    }

    /// Locks, checks, runs, commits a locked part.
    fn try_part(&mut self, exec: &Exec, part: &Part, fetched: &Fetched) -> Tried {
        let Part::Locked { commands, slots, write_slots, writes, looks_at_watched } = part else {
            unreachable!("only a locked part is tried")
        };
        let engine = &self.node.engine;
        let changes = engine.role_changes().count();
        let all = if exec.everything.get() { topology::present_and(engine, slots) } else { Vec::new() };
        let locked = if exec.everything.get() { &all } else { slots };
        if let Some(script) = self.node.scripts.asides.holder(locked) {
            return Tried::Busy(script);
        }
        // Declared before what borrows them.
        let (waiting, waiting_args);
        let mut tx = engine.begin_at(locked, fetched, self.now);
        for &slot in slots {
            let write = write_slots.binary_search(&slot).is_ok();
            match hindrance_at(&tx, slot, write) {
                None => {}
                Some(Hindrance::Gone(slot, _)) if mover::comes_back(self.node, slot, &tx) => {
                    return Tried::Fenced(slot, changes);
                }
                Some(Hindrance::Refused(text) | Hindrance::Gone(_, text)) => {
                    return Tried::Failed(Fail::error(text));
                }
                Some(Hindrance::Fenced(slot)) => return Tried::Fenced(slot, changes),
            }
        }
        if let Some(slot) = mover::returning(self.node, slots, &tx) {
            return Tried::Fenced(slot, changes);
        }
        if let Err(fail) = self.node.require_replicas(write_slots) {
            return Tried::Failed(fail);
        }
        let leaving = &self.node.leaving;
        if leaving.any() {
            let queued = exec.queue[commands.clone()].iter();
            let mut writes = queued.filter(|queued| queued.command.flags.has(Flags::WRITE));
            let leaves = writes.find_map(|queued| queued.keys.iter().find(|key| leaving.has(key.user())));
            if let Some(key) = leaves {
                return Tried::Fenced(key.slot(), changes);
            }
        }
        if let Some(watching) = exec.watching.as_ref().filter(|_| *looks_at_watched) {
            match watching.has_changed(&mut tx) {
                Ok(false) => {}
                Ok(true) => {
                    return match tx.discard() {
                        Ok(seen) => {
                            self.gate.join(seen);
                            Tried::Changed
                        }
                        Err(error) => Tried::Failed(error.into()),
                    };
                }
                Err(Stop::Miss) => return Tried::Missed(tx.abandon()),
                Err(stop) => return Tried::Failed(stop.into()),
            }
        }
        waiting = if *writes && self.node.blocked.any() {
            waits::candidates(self.node, &tx)
        } else {
            Candidates::default()
        };
        waiting_args = waits::args_of(&waiting);
        let args: Vec<Vec<&[u8]>> = exec.queue.iter().map(Queued::args).collect();
        let mut replies = ReplyWriter::new(self.reply.proto());
        let kept = Kept::default();
        let mut cx = Cx {
            tx,
            args: &[],
            keys: &[],
            reply: &mut replies,
            seed: 0,
            node: self.node,
            kept: &kept,
            turn: Turn::Transaction,
            in_script: false,
            reach: reach(self.node, exec.everything.get()),
            awaited: waiting.awaited(),
            events: Vec::new(),
        };
        // Commands that failed after they had written: the next run leaves them out. The locks stay, so that nothing else
        // comes out differently.
        let mut undone: Vec<(usize, String)> = Vec::new();
        let ends = loop {
            match run_all(&mut cx, exec, commands, &args, &mut undone) {
                Ok(Some(ends)) => break ends,
                Ok(None) if undone.len() <= UNDONE_MAX => {}
                Ok(None) => {
                    return Tried::Failed(Fail::error("ERR too many commands failed after they wrote"));
                }
                Err(Stop::Miss) if let Reach::Waits(slot) = cx.reach => return Tried::Fenced(slot, changes),
                Err(Stop::Miss) if cx.reach == Reach::Asked => {
                    exec.everything.set(true);
                    return Tried::Asked;
                }
                Err(Stop::Miss) => return Tried::Missed(cx.tx.abandon()),
                Err(stop) => return Tried::Failed(stop.into()),
            }
        };
        let served = match waits::serve(&mut cx, &waiting, &waiting_args) {
            Ok(served) => served,
            Err(Stop::Miss) => return Tried::Missed(cx.tx.abandon()),
            Err(stop) => return Tried::Failed(stop.into()),
        };
        let Cx { tx, reply, events, .. } = cx;
        let written = &mut self.session.written;
        let before = written.records.len();
        match tx.commit_noting(|slot, seq| written.note(slot, seq)) {
            Ok(seen) => {
                self.gate.join(seen);
                self.node.tell(events, &mut self.session.outbox);
                served.hand_out(seen, &written.records[before..]);
                Tried::Done(reply.as_bytes().to_vec(), ends)
            }
            Err(error) => Tried::Failed(error.into()),
        }
    }

    /// Answers the commands of a locked part, and runs those that are not on data.
    fn end_part(&mut self, exec: &Exec, at: usize, tried: Tried) -> Result<Goes, Fail> {
        let Part::Locked { commands, .. } = &exec.parts[at] else {
            unreachable!("only a locked part is tried")
        };
        let (replies, ends) = match tried {
            Tried::Done(replies, ends) => (replies, ends),
            Tried::Changed => {
                self.reply.null_array();
                return Ok(Goes::Nowhere);
            }
            Tried::Failed(fail @ Fail::Stop(Stop::Failed(Error::Poisoned(_)))) => return Err(fail),
            Tried::Failed(fail) if at == 0 => {
                let why = words(&fail);
                return Err(Fail::error(format!("EXECABORT Transaction discarded because of: {why}")));
            }
            Tried::Failed(fail) => {
                let mut replies = ReplyWriter::new(self.reply.proto());
                let mut ends = Vec::new();
                for _ in exec.queue[commands.clone()].iter().filter(|queued| queued.is_on_data()) {
                    replies.error(&words(&fail));
                    ends.push((replies.len(), 0));
                }
                (replies.as_bytes().to_vec(), ends)
            }
            Tried::Missed(_) | Tried::Fenced(..) | Tried::Busy(_) | Tried::Asked => {
                unreachable!("these are tried again")
            }
        };
        if at == 0 {
            self.reply.array(exec.queue.len());
        }
        let (mut from, mut ends) = (0, ends.into_iter());
        for index in commands.clone() {
            let queued = &exec.queue[index];
            let args = queued.args();
            if self.node.monitors.any() {
                measure::tell_monitors(self.node, self.session, queued.command, &args, self.now);
            }
            match queued.command.run {
                Run::Session(body) | Run::Waiting(body, _) => {
                    let start = self.reply.len();
                    let began = self.node.nanos();
                    let mut cx = SessionCx { args: &args, ..self.session_cx() };
                    let done = body(&mut cx);
                    self.answer(start, done)?;
                    let took_ns = self.node.nanos().saturating_sub(began);
                    self.note(queued.command, &args, took_ns, &self.reply.as_bytes()[start..]);
                }
                _ => {
                    let (end, took_ns) = ends.next().expect("each data command was answered");
                    self.note(queued.command, &args, took_ns, &replies[from..end]);
                    self.reply.raw(&replies[from..end]);
                    from = end;
                }
            }
        }
        Ok(Goes::On)
    }

    async fn alone(&mut self, queued: &Queued) -> Result<(), Fail> {
        let Run::Async(body) = queued.command.run else { unreachable!("only what may wait runs alone") };
        let args = queued.args();
        let start = self.reply.len();
        let began = self.node.nanos();
        let done = body(&mut SessionCx { args: &args, ..self.session_cx() }).await;
        self.answer(start, done)?;
        let took_ns = self.node.nanos().saturating_sub(began);
        self.note(queued.command, &args, took_ns, &self.reply.as_bytes()[start..]);
        Ok(())
    }

    /// A failure of one command is its reply; only one of the engine ends all.
    fn answer(&mut self, start: usize, done: Result<(), Fail>) -> Result<(), Fail> {
        match done {
            Err(fail @ Fail::Stop(Stop::Failed(Error::Poisoned(_)))) => Err(fail),
            Err(fail) => {
                self.reply.truncate(start);
                self.node.stats.error_replies.fetch_add(1, Ordering::Relaxed);
                self.reply.error(&words(&fail));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

/// Runs the data commands once, one after another; where each one's reply ends, and how long it took. `None` if one failed after it had
/// written: it was added to `undone`, all have to run again without it.
fn run_all<'a>(
    cx: &mut Cx<'a>,
    exec: &'a Exec,
    commands: &Range<usize>,
    args: &'a [Vec<&'a [u8]>],
    undone: &mut Vec<(usize, String)>,
) -> Result<Option<Vec<(usize, u64)>>, Stop> {
    cx.tx.forget_writes();
    cx.events.clear();
    cx.awaited.forget();
    cx.reply.truncate(0);
    let mut ends = Vec::new();
    let mut since_ns = cx.node.nanos();
    for index in commands.clone() {
        let queued = &exec.queue[index];
        let Run::Data(body) = queued.command.run else { continue };
        let start = cx.reply.len();
        if let Some((_, text)) = undone.iter().find(|(failed, _)| *failed == index) {
            cx.reply.error(text);
        } else {
            (cx.args, cx.keys, cx.seed) = (&args[index], &queued.keys, queued.seed);
            let before = cx.tx.written_bytes();
            match events::run(cx, queued.command, body) {
                // Within a transaction nothing waits: what it replied stands.
                Ok(()) | Err(Fail::Blocks(_)) => {}
                Err(Fail::Error(text)) if cx.tx.written_bytes() == before => {
                    cx.reply.truncate(start);
                    cx.reply.error(&text);
                }
                Err(Fail::Error(text)) => {
                    undone.push((index, text.into_owned()));
                    return Ok(None);
                }
                Err(Fail::Stop(stop)) => return Err(stop),
                Err(Fail::Long) => unreachable!("a script in a transaction is stopped instead"),
            }
        }
        let now_ns = cx.node.nanos();
        ends.push((cx.reply.len(), now_ns.saturating_sub(since_ns)));
        since_ns = now_ns;
    }
    Ok(Some(ends))
}
