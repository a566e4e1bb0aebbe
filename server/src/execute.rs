//! Runs a command: finds it, checks what may stop it, locks its slots, runs it, commits.
//!
//! A data command runs under its slots' locks, which are never held across a wait: a cache miss or a slot that is
//! being handed over gives all locks up, waits, and runs the command again from its start. What it replied until
//! then is cut off, what it wrote is dropped. The caller writes the log and waits for the gate before it sends
//! anything.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use haypile_engine::clock::TimeMs;
use haypile_engine::engine::{Fetched, Gate, Wanted};
use haypile_engine::error::Error;
use haypile_engine::key::Key;
use haypile_engine::memtable::Guess;
use haypile_engine::roles::ASKS_REPLICAS;
use haypile_engine::slot::{NOBODY, Role};
use haypile_engine::tx::still::Still;
use haypile_engine::tx::{Stop, Tx};
use haypile_engine::types::Slot;
use tokio::sync::OwnedSemaphorePermit;

use crate::ahead::Guesses;
use crate::blocked::{Awaited, Waiting};
use crate::codis::mover;
use crate::codis::moves::Way;
use crate::commands::events;
use crate::commands::slotsrestore;
use crate::cx::{Blocks, Cx, Fail, Reach, Turn, is};
use crate::kept::Kept;
use crate::multi::Watching;
use crate::node::{Node, Profile};
use crate::operator;
use crate::resp::{Proto, ReplyWriter};
use crate::scripting::aside::{Aside, Held};
use crate::session::{Mode, Session, SessionCx};
use crate::table::{self, Command, Flags, Run, Unfit};
use crate::topology;

mod aside;
mod exec;
mod measure;
mod stream;
mod waits;

pub(crate) use aside::free;
pub use measure::may_write;
pub use stream::{Job, Places};

use exec::{Exec, ExecBegun, Tried};
use waits::{Candidates, Served};

/// So often a command that runs off the workers may find its slots changed by who came before it; then it keeps them locked.
const COLLISIONS_MAX: usize = 2;

/// How often a command may miss the cache: each run gets further, so that nothing real comes near.
const MISSES_MAX: usize = 1 << 20;

/// What the connection does after a command.
#[derive(Debug)]
pub enum Next {
    /// The reply is written.
    Go,
    /// The engine has stopped acknowledging: close without another byte.
    Abort(Error),
    /// The command takes the connection over.
    TakeOver(&'static Command),
    /// The reply is to be made and sent, piece by piece; see [`Runner::end_stream`].
    Stream(Box<Job>),
}

/// A command that passed every check that needs no data.
#[derive(Clone, Copy)]
pub struct Checked(pub &'static Command);

impl Checked {
    /// Whether what came before it must be answered first: it waits, or ends the connection's protocol.
    #[must_use]
    pub fn settles_first(self) -> bool {
        matches!(self.0.run, Run::Async(_) | Run::Waiting(..) | Run::Takeover(_))
    }
}

/// Finds a command and checks what needs no data; the error is for the client.
///
/// # Errors
/// In Redis' words.
pub fn check(node: &Node, session: &Session, args: &[&[u8]]) -> Result<Checked, String> {
    check_found(node, session, args, table::resolve(args))
}

/// As [`check`], where it is known what [`table::resolve`] says.
///
/// # Errors
/// In Redis' words.
pub fn check_found(
    node: &Node,
    session: &Session,
    args: &[&[u8]],
    found: Result<&'static Command, Unfit>,
) -> Result<Checked, String> {
    let command = match found {
        Ok(command) => command,
        Err(Unfit::Unknown) => return Err(unknown(args)),
        Err(Unfit::UnknownSub(name)) => {
            let word = &args[1][..args[1].len().min(SHOWN_BYTES)];
            return Err(format!(
                "ERR unknown subcommand '{}'. Try {} HELP.",
                String::from_utf8_lossy(word),
                name.to_ascii_uppercase()
            ));
        }
        Err(Unfit::Arity(name)) => {
            return Err(format!("ERR wrong number of arguments for '{name}' command"));
        }
    };
    if !session.authenticated && !command.flags.has(Flags::NO_AUTH) {
        return Err("NOAUTH Authentication required.".to_owned());
    }
    if operator::is_theirs(command)
        && let Some(why) = operator::hindrance(&node.config.now(), session, command, args)
    {
        return Err(why);
    }
    let on_data = command.flags.has(Flags::WRITE) || command.flags.has(Flags::READONLY);
    if session.db != 0 && on_data {
        debug_assert_eq!(node.profile, Profile::Codis, "standalone has one database");
        return Err(format!(
            "ERR only db 0 holds data, and this connection has selected db {}: SELECT 0",
            session.db
        ));
    }
    Ok(Checked(command))
}

/// So much of what makes no sense is told back.
const SHOWN_BYTES: usize = 128;

/// Redis' words for a command that there is not.
fn unknown(args: &[&[u8]]) -> String {
    let shown = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES)]).into_owned();
    let mut beginning = String::new();
    for arg in args.iter().skip(1) {
        if beginning.len() >= SHOWN_BYTES {
            break;
        }
        let room = SHOWN_BYTES - beginning.len();
        beginning.push_str(&format!("'{}' ", shown(&arg[..arg.len().min(room)])));
    }
    let name = args.first().map(|name| shown(name)).unwrap_or_default();
    format!("ERR unknown command '{name}', with args beginning with: {beginning}")
}

/// A request of a slot that moves.
struct Wrapped {
    key: Key,
    way: Option<Way>,
    answer: Option<Elsewhere>,
}

/// Where a request of a slot that moves has to go if not here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Elsewhere {
    /// Here, in a moment: it is being decided.
    Again,
    /// To the other node.
    There,
}

/// Memory that a connection's commands use one after another.
#[derive(Default)]
pub struct Scratch {
    positions: Vec<usize>,
    keys: Vec<Key>,
    /// The next command's keys, if they have been found before.
    known: Vec<Key>,
    /// Where elements that it touches probably are.
    guesses: Guesses,
    slots: Vec<Slot>,
    /// A proxy knows that the slot moves: it is told where the slot is, and nothing comes back for it.
    wrapped: Option<Wrapped>,
    /// Whether this is for a command that runs off the workers.
    aside: bool,
    /// Whether the command that runs has asked for all slots of the node.
    everything: bool,
    /// Whether replies may be sent piece by piece.
    may_stream: bool,
    /// A place for the command that runs, if it has one already.
    permit: Option<OwnedSemaphorePermit>,
    /// What the command that ran goes on as.
    stream: Option<Box<Job>>,
    /// The command's random seed: a counter with a random start and long strides, as its users mix it well.
    seed: u64,
}

impl Scratch {
    /// For a request of a slot that moves, which says so, on this key. `way` is how the slot goes, if that is known.
    #[must_use]
    pub fn wrapped(key: &[u8], way: Option<Way>) -> Scratch {
        let wrapped = Wrapped { key: Key::new(key), way, answer: None };
        Scratch { wrapped: Some(wrapped), ..Scratch::default() }
    }

    /// For a connection, which can send replies piece by piece.
    #[must_use]
    pub fn streaming() -> Scratch {
        Scratch { may_stream: true, ..Scratch::default() }
    }

    /// What a request of a slot that moves has to be answered instead of what it replied.
    #[must_use]
    pub fn answer(&self) -> Option<Elsewhere> {
        self.wrapped.as_ref().and_then(|wrapped| wrapped.answer)
    }

    /// The next command's keys, all of them, or none where they are not known.
    pub fn know(&mut self, keys: impl Iterator<Item = Key>) {
        self.known.clear();
        self.known.extend(keys);
    }

    /// Where the next command finds elements, probably.
    pub fn expect(&mut self, guesses: &[Guess]) {
        self.guesses.clear();
        self.guesses.extend_from_slice(guesses);
    }

    /// Finds the command's keys and their slots.
    fn fill(&mut self, command: &Command, args: &[&[u8]]) {
        self.seed =
            if self.seed == 0 { rand::random() } else { self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15) };
        self.everything = false;
        std::mem::swap(&mut self.keys, &mut self.known);
        self.known.clear();
        if self.keys.is_empty() {
            self.positions.clear();
            command.keys.positions(args, &mut self.positions);
            self.keys.extend(self.positions.iter().map(|&at| Key::new(args[at])));
        }
        self.slots.clear();
        self.slots.extend(self.keys.iter().map(Key::slot));
        if self.slots.len() > 1 {
            self.slots.sort_unstable();
            self.slots.dedup();
        }
    }
}

/// What a command is run with.
pub struct Runner<'a> {
    /// The node.
    pub node: &'a Arc<Node>,
    /// The connection.
    pub session: &'a mut Session,
    /// The command's arguments; the first is its name.
    pub args: &'a [&'a [u8]],
    /// The time of day when it came.
    pub now: TimeMs,
    /// When it began, in nanoseconds of the monotonic clock; when it has ended, that moment.
    pub since_ns: &'a mut u64,
    /// Memory to work in.
    pub scratch: &'a mut Scratch,
    /// Where its reply is appended.
    pub reply: &'a mut ReplyWriter,
    /// Joined by what its reply waits for.
    pub gate: &'a mut Gate,
}

/// How far a command got without waiting.
pub enum Begun {
    /// To its end.
    Done(Next),
    /// Not far: it has to wait, see [`Runner::go_on`].
    Waits(Waits),
}

/// What a command waits for.
pub struct Waits(For);

impl Waits {
    /// Whether it may take for ever, so that what came before must be answered first.
    #[must_use]
    pub fn blocks(&self) -> bool {
        matches!(self.0, For::Data(_, Attempt::Blocked(..)) | For::Others(_))
    }
}

enum For {
    /// A long script that holds a slot, then all of the command.
    Script(Arc<Aside>),
    /// Memory for writes, then all of the command.
    Room(Body),
    /// What its first attempt lacked; then it is run again.
    Data(Body, Attempt),
    /// What an async command waits for.
    Itself(for<'a> fn(&'a mut SessionCx<'_>) -> table::Pending<'a>),
    /// The same, and it may take for ever.
    Others(for<'a> fn(&'a mut SessionCx<'_>) -> table::Pending<'a>),
    /// What EXEC lacks.
    Exec(Box<Exec>, Option<Tried>),
}

/// What a data command does.
type Body = fn(&mut Cx<'_>) -> Result<(), Fail>;

impl Runner<'_> {
    /// Tells the client that a command is not run; a transaction that it is in fails.
    pub fn refuse(&mut self, text: &str) {
        if let Some(multi) = &mut self.session.multi {
            multi.failed = true;
        }
        let command = self.args.first().and_then(|name| table::find(name));
        if let Some(command) = command {
            let sub = self.args.get(1).and_then(|word| command.sub(word));
            self.node.measured.rejected(sub.unwrap_or(command));
        }
        let start = self.reply.len();
        self.say_error(command, text);
        self.node.measured.error(measure::code(&self.reply.as_bytes()[start..]));
    }

    fn say_error(&mut self, command: Option<&'static Command>, text: &str) {
        self.node.stats.error_replies.fetch_add(1, Ordering::Relaxed);
        if command.is_some_and(|command| command.flags.has(Flags::ACKED)) {
            slotsrestore::ack(self.reply, -1, text);
            self.session.closing = true;
        } else {
            self.reply.error(text);
        }
    }

    /// Runs a command that was checked as far as it need not wait: nearly always to its end.
    pub fn begin(&mut self, Checked(command): Checked) -> Begun {
        if self.session.mode != Mode::PLAIN && self.is_held(command) {
            return Begun::Done(Next::Go);
        }
        // EXEC's commands come before it, as in Redis.
        if self.node.monitors.any() && !matches!(command.run, Run::Exec) {
            measure::tell_monitors(self.node, self.session, command, self.args, self.now);
        }
        if let Some(script) = self.in_the_way(command) {
            return Begun::Waits(Waits(For::Script(script)));
        }
        let start = self.reply.len();
        let done = match command.run {
            Run::Data(body) => {
                self.scratch.fill(command, self.args);
                if self.must_wait_for_room(command) {
                    return Begun::Waits(Waits(For::Room(body)));
                }
                match self.attempt(command, body, self.args, (&Fetched::default(), None), true) {
                    Attempt::Done(done) => done,
                    attempt => return Begun::Waits(Waits(For::Data(body, attempt))),
                }
            }
            Run::Session(body) => body(&mut self.session_cx()),
            Run::Async(body) => return Begun::Waits(Waits(For::Itself(body))),
            Run::Waiting(_, body) => return Begun::Waits(Waits(For::Others(body))),
            Run::Exec => match self.begin_exec() {
                ExecBegun::Done(done) => done,
                ExecBegun::Waits(exec, tried) => return Begun::Waits(Waits(For::Exec(exec, tried))),
            },
            Run::Takeover(_) => return Begun::Done(Next::TakeOver(command)),
            // The table gives it only with its second word.
            Run::Family => Err(Fail::arity(command.name)),
        };
        Begun::Done(self.finish(command, start, done))
    }

    /// Runs a command to its end that may wait, if it need not: then what came before it need not be answered first.
    pub fn at_once(&mut self, Checked(command): Checked) -> Option<Next> {
        let at_once = command.at_once?;
        if self.session.mode != Mode::PLAIN || self.node.monitors.any() || self.in_the_way(command).is_some()
        {
            return None;
        }
        let start = self.reply.len();
        let done = match at_once(&mut self.session_cx()) {
            Ok(false) => return None,
            Ok(true) => Ok(()),
            Err(fail) => Err(fail),
        };
        Some(self.finish(command, start, done))
    }

    /// Waits, and runs the command to its end.
    pub async fn go_on(&mut self, Checked(command): Checked, Waits(waits): Waits) -> Next {
        let start = self.reply.len();
        let done = match waits {
            For::Script(script) => match aside::free(self.node, &script).await {
                Ok(()) => match command.run {
                    Run::Session(body) => body(&mut self.session_cx()),
                    Run::Async(body) | Run::Waiting(_, body) => body(&mut self.session_cx()).await,
                    _ => unreachable!("these are not on keys"),
                },
                Err(fail) => Err(fail),
            },
            For::Room(body) => self.data(command, body, None).await,
            For::Data(body, attempt) => self.data(command, body, Some(attempt)).await,
            For::Itself(body) | For::Others(body) => body(&mut self.session_cx()).await,
            For::Exec(exec, tried) => self.exec(exec, tried).await,
        };
        self.scratch.permit = None;
        match self.scratch.stream.take() {
            Some(job) => Next::Stream(job),
            None => self.finish(command, start, done),
        }
    }

    /// Ends a command whose reply was sent piece by piece, but for what stands there from `start` on.
    pub fn end_stream(&mut self, command: &'static Command, start: usize, done: Result<(), Fail>) -> Next {
        self.finish(command, start, done)
    }

    /// On a connection in some mode: whether that keeps or refuses the command instead of running it.
    fn is_held(&mut self, command: &'static Command) -> bool {
        let listens = self.session.mode.has(Mode::LISTENING) && self.reply.proto() == Proto::Resp2;
        if listens && !command.flags.has(Flags::LISTENING) {
            self.refuse(&format!(
                "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this \
                 context",
                command.name
            ));
            return true;
        }
        let queues = self.session.multi.is_some() && !command.flags.has(Flags::UNQUEUED);
        if queues {
            self.queue(command);
        }
        queues
    }

    fn session_cx(&mut self) -> SessionCx<'_> {
        SessionCx {
            node: self.node,
            session: self.session,
            args: self.args,
            reply: self.reply,
            gate: self.gate,
        }
    }

    /// Tells the client of a failure instead of what was replied from `start` on.
    fn finish(&mut self, command: &'static Command, start: usize, done: Result<(), Fail>) -> Next {
        let next = match done {
            Ok(()) => Next::Go,
            Err(Fail::Stop(Stop::Failed(error @ Error::Poisoned(_)))) => Next::Abort(error),
            Err(fail) => {
                self.reply.truncate(start);
                self.say_error(Some(command), &words(&fail));
                Next::Go
            }
        };
        self.measure(command, self.args, start);
        if !self.session.early.is_empty() {
            let early = std::mem::take(&mut self.session.early);
            self.reply.insert(start, &early);
        }
        if matches!(command.run, Run::Exec) && self.node.monitors.any() {
            measure::tell_monitors(self.node, self.session, command, self.args, self.now);
        }
        next
    }
}

/// What the client is told of a failure.
#[must_use]
pub fn words(fail: &Fail) -> String {
    match fail {
        Fail::Error(text) => text.clone().into_owned(),
        Fail::Blocks(_) => "ERR there is nothing".to_owned(),
        Fail::Long => "ERR it runs too long".to_owned(),
        Fail::Stop(Stop::Miss) => "ERR the data could not be brought into memory".to_owned(),
        Fail::Stop(Stop::Failed(error @ Error::ReadOnly(_))) => format!("MISCONF {error}"),
        Fail::Stop(Stop::Failed(error)) => format!("ERR {error}"),
    }
}

/// What stands in a command's way under its slots' locks.
pub(crate) enum Hindrance {
    /// The client is told.
    Refused(String),
    /// The slot is another node's; the client is told, if it does not come back.
    Gone(Slot, String),
    /// A slot is being handed over, or asks its replicas: nothing is decided yet.
    Fenced(Slot),
}

/// One run of a data command.
enum Attempt {
    /// To its end; the gate is joined.
    Done(Result<(), Fail>),
    Missed(Wanted),
    /// Before, this many changes of roles were counted.
    Fenced(Slot, u64),
    /// A long script holds a slot.
    Busy(Arc<Aside>),
    /// It is long itself.
    Long(Held),
    /// What it was run on has changed meanwhile.
    Changed,
    /// It needs slots that none of its keys is in.
    Asks,
    /// It reads much, for which there is no place now.
    Crowded,
    /// It reads much: its reply is made off the worker.
    Streams(Box<Job>),
    /// There is nothing for it yet. It has entered, unless it had before; and watches keys that another node writes.
    Blocked(Blocks, Option<Waiting>, Option<Watching>),
}

impl Runner<'_> {
    fn must_wait_for_room(&self, command: &Command) -> bool {
        command.flags.has(Flags::WRITE) && self.node.engine.crowd().is_some()
    }

    /// Runs a data command until it gets to its end. `attempt` is how it went at first, if it was tried.
    async fn data(
        &mut self,
        command: &'static Command,
        body: Body,
        attempt: Option<Attempt>,
    ) -> Result<(), Fail> {
        let node = self.node;
        let mut fetched = Fetched::default();
        let mut deadline = None;
        let mut attempt = attempt;
        // Between a wait's beginning and its end: its place, and when it is over.
        let mut waiting: Option<Waiting> = None;
        let mut until_ms = None;
        // Too few rather than too many: then it looks once more.
        let mut changes = 0;
        let mut collisions = 0;
        for _ in 0..MISSES_MAX {
            match attempt.take() {
                None if self.must_wait_for_room(command) => {
                    // What was committed before must not wait behind a flush, which may need it written.
                    node.engine.write()?;
                    node.engine.room().await?;
                }
                None => {}
                Some(Attempt::Done(done)) => return done,
                Some(Attempt::Missed(wanted)) => fetch(node, wanted, &mut fetched).await?,
                Some(Attempt::Fenced(slot, changes)) => unfenced(node, slot, changes, &mut deadline).await?,
                Some(Attempt::Busy(script)) => aside::free(node, &script).await?,
                Some(Attempt::Long(held)) => return self.aside(command, body, held).await,
                Some(Attempt::Changed) => collisions += 1,
                Some(Attempt::Asks) => self.scratch.everything = true,
                Some(Attempt::Crowded) => {
                    node.engine.write()?;
                    self.scratch.permit = node.streams.wait().await;
                }
                Some(Attempt::Streams(job)) => {
                    self.scratch.stream = Some(job);
                    return Ok(());
                }
                Some(Attempt::Blocked(blocks, entered, watched)) => {
                    if let Some(entered) = entered {
                        until_ms = blocks.timeout_ms.map(|ms| node.monotonic_ms().saturating_add(ms));
                        waiting = Some(entered);
                    }
                    let Some(waiting) = &waiting else { unreachable!("it has entered") };
                    loop {
                        let began = node.nanos();
                        let item = self.item(waiting, watched.as_ref(), changes, until_ms).await;
                        // What it waits for others is no time that it takes.
                        *self.since_ns += node.nanos().saturating_sub(began);
                        if let Some(answer) = item {
                            return self.answered(answer);
                        }
                        if waiting.waiter.claim() {
                            break;
                        }
                    }
                    // What it was answered before the claim, it takes.
                    if let Some(answer) = waiting.waiter.take() {
                        return self.answered(answer);
                    }
                    fetched = Fetched::default();
                    deadline = None;
                }
            }
            self.now = node.wall();
            changes = node.engine.role_changes().count();
            let again: Option<Vec<&[u8]>> =
                waiting.as_ref().map(|waiting| waiting.waiter.args.iter().map(|arg| &arg[..]).collect());
            let args = again.as_deref().unwrap_or(self.args);
            // Off the workers it takes as long as it takes: its slots are others' to flush and to ship.
            let still = (self.scratch.aside && !self.scratch.everything && collisions < COLLISIONS_MAX)
                .then(|| node.engine.still(&self.scratch.slots, self.now));
            attempt = Some(self.attempt(command, body, args, (&fetched, still.as_ref()), waiting.is_none()));
            // Nobody else serves it while it tries by itself.
            if let (Some(waiting), Some(Attempt::Blocked(..))) = (&waiting, &attempt) {
                waiting.waiter.unclaim();
            }
        }
        Err(Fail::Stop(Stop::Miss))
    }

    /// Locks, checks, runs, commits: all that is done under locks, in one function without a wait. Leaves no reply unless
    /// it is done.
    fn attempt(
        &mut self,
        command: &'static Command,
        body: Body,
        args: &[&[u8]],
        (fetched, still): (&Fetched, Option<&Still>),
        enters: bool,
    ) -> Attempt {
        let engine = &self.node.engine;
        let Scratch { keys, slots, guesses, seed, wrapped, may_stream, permit, aside, everything, .. } =
            &mut *self.scratch;
        let (keys, slots, permit) = (&keys[..], &slots[..], permit.take());
        let changes = engine.role_changes().count();
        let all = if *everything { topology::present_and(engine, slots) } else { Vec::new() };
        let locked = if *everything { &all[..] } else { slots };
        let asides = &self.node.scripts.asides;
        if !*aside && let Some(script) = asides.holder(locked) {
            return Attempt::Busy(script);
        }
        let turn = match *aside {
            // Nothing else goes on under the locks of all slots: not for long.
            _ if *everything => Turn::Transaction,
            true => Turn::Aside,
            false if asides.has_room() => Turn::Worker,
            false => Turn::Transaction,
        };
        // Declared before what borrows them.
        let (waiting, waiting_args);
        let kept = Kept::default();
        // Its transaction lies here from its beginning to its end: it is large.
        let mut cx = Cx {
            tx: match still {
                None => engine.begin_at(locked, fetched, self.now),
                Some(still) => engine.begin_still(still, fetched),
            },
            args,
            keys,
            reply: self.reply,
            seed: *seed,
            node: self.node,
            kept: &kept,
            turn,
            in_script: false,
            reach: reach(self.node, *everything),
            awaited: Awaited::default(),
            events: Vec::new(),
        };
        if !guesses.is_empty() {
            cx.tx.expect(guesses);
        }
        let reads_others = || args.iter().any(|arg| is(arg, "by") || is(arg, "get"));
        let may_ask = cx.reach == Reach::MayAsk && command.name == "sort_ro" && reads_others();
        if *may_stream && !*aside && !*everything && !may_ask && stream::is_fit(command) {
            cx.tx.limit_reads(stream::ELEMENTS_MAX);
        }
        match hindrance(&cx.tx, slots, command.flags) {
            None => {
                if let Some(slot) = mover::returning(self.node, slots, &cx.tx) {
                    return Attempt::Fenced(slot, changes);
                }
                if command.flags.has(Flags::WRITE)
                    && let Err(fail) = self.node.require_replicas(slots)
                {
                    return Attempt::Done(Err(fail));
                }
            }
            Some(Hindrance::Gone(slot, _))
                if wrapped.is_none() && mover::comes_back(self.node, slot, &cx.tx) =>
            {
                return Attempt::Fenced(slot, changes);
            }
            Some(Hindrance::Refused(text) | Hindrance::Gone(_, text)) => {
                return Attempt::Done(Err(Fail::error(text)));
            }
            Some(Hindrance::Fenced(slot)) => return Attempt::Fenced(slot, changes),
        }
        match key_hindrance(self.node, (keys, slots), wrapped.as_ref(), &mut cx.tx, command) {
            Ok(None) => {}
            Ok(Some(KeyHindrance::Waits(slot))) => return Attempt::Fenced(slot, changes),
            Ok(Some(KeyHindrance::Elsewhere(answer))) => {
                let seen = cx.tx.discard();
                if let Some(wrapped) = wrapped {
                    wrapped.answer = Some(answer);
                }
                return Attempt::Done(seen.map_err(Fail::from).and_then(|seen| {
                    self.gate.join(seen);
                    Err(Fail::error("TRYAGAIN the key is not here any more, or not for long"))
                }));
            }
            Err(Stop::Miss) => return Attempt::Missed(cx.tx.abandon()),
            Err(stop) => return Attempt::Done(Err(stop.into())),
        }
        let start = cx.reply.len();
        waiting = if command.flags.has(Flags::WRITE) && self.node.blocked.any() {
            waits::candidates(self.node, &cx.tx)
        } else {
            Candidates::default()
        };
        cx.awaited = waiting.awaited();
        waiting_args = if waiting.is_empty() { Vec::new() } else { waits::args_of(&waiting) };
        let mut done = events::run(&mut cx, command, body);
        if !enters && command.name == "xreadgroup" && matches!(done, Err(Fail::Error(_))) {
            done = match waits::group_gone(&mut cx.tx, keys) {
                Ok(why) => Err(Fail::error(why)),
                Err(stop) => Err(stop.into()),
            };
        }
        let mut served = Served::default();
        if done.is_ok() && !waiting.is_empty() {
            match waits::serve(&mut cx, &waiting, &waiting_args) {
                Ok(all) => served = all,
                Err(stop) => done = Err(stop.into()),
            }
        }
        let written = &mut self.session.written;
        let before = written.records.len();
        let seen = match &done {
            Ok(()) => {
                let note = |slot, seq| written.note(slot, seq);
                if still.is_none() {
                    self.node.tell(std::mem::take(&mut cx.events), &mut self.session.outbox);
                    let seen = cx.tx.commit_here(note);
                    drop(cx);
                    seen
                } else {
                    let Cx { tx, reply, events, .. } = cx;
                    let Some(committed) = tx.commit_now(note).transpose() else {
                        reply.truncate(start);
                        return Attempt::Changed;
                    };
                    self.node.tell(events, &mut self.session.outbox);
                    // Who came to wait right before it was known that these slots are held has to look by itself.
                    self.node.blocked.wake_all();
                    committed
                }
            }
            Err(Fail::Blocks(_)) if self.node.profile == Profile::Codis => {
                // The connection is shared among clients: nobody waits on it.
                done = Ok(());
                cx.tx.discard()
            }
            Err(Fail::Blocks(blocks)) => {
                let blocks = blocks.clone();
                cx.reply.truncate(start);
                let Cx { mut tx, reply, .. } = cx;
                let (watching, watched) = waits::watch(self.node, &mut tx, keys);
                match watched {
                    Ok(()) => {}
                    Err(Stop::Miss) => return Attempt::Missed(tx.abandon()),
                    Err(stop) => {
                        drop(tx);
                        return Attempt::Done(Err(stop.into()));
                    }
                }
                let entered = enters.then(|| {
                    let who = (self.session.client.id, reply.proto());
                    waits::enter(self.node, who, command, args, (keys, *seed), blocks.clone())
                });
                return match tx.discard() {
                    Ok(seen) => {
                        self.gate.join(seen);
                        Attempt::Blocked(blocks, entered, watching)
                    }
                    Err(error) => Attempt::Done(Err(error.into())),
                };
            }
            Err(Fail::Stop(Stop::Miss)) if let Reach::Waits(slot) = cx.reach => {
                cx.reply.truncate(start);
                return Attempt::Fenced(slot, changes);
            }
            Err(Fail::Stop(Stop::Miss)) if cx.reach == Reach::Asked => {
                cx.reply.truncate(start);
                return Attempt::Asks;
            }
            Err(Fail::Stop(Stop::Miss)) if cx.tx.has_read_enough() => {
                cx.reply.truncate(start);
                let Cx { tx, args, reply, .. } = cx;
                let asked = stream::Asked { command, body, args, keys, seed: *seed, proto: reply.proto() };
                return stream::begin(self.node, tx, &asked, permit, self.gate);
            }
            Err(Fail::Stop(Stop::Miss)) => {
                cx.reply.truncate(start);
                return Attempt::Missed(cx.tx.abandon());
            }
            Err(Fail::Long) => {
                cx.reply.truncate(start);
                // The slots are locked still.
                return Attempt::Long(aside::hold(self.node, command, slots, *self.since_ns));
            }
            // An error tells of what was read, too: it waits until that can't vanish any more.
            Err(_) => cx.tx.discard(),
        };
        match seen {
            Ok(seen) => {
                self.gate.join(seen);
                served.hand_out(seen, &self.session.written.records[before..]);
                Attempt::Done(done)
            }
            Err(error) => Attempt::Done(Err(error.into())),
        }
    }
}

/// Waits until a slot that is being handed over may be another's or this node's again, or has its replicas' answers; not beyond the deadline, which
/// is set by the first wait. `changes` is how many changes of roles were counted before the slot was looked at.
///
/// # Errors
/// What the client is told if that takes too long.
pub async fn unfenced(node: &Node, slot: Slot, changes: u64, deadline: &mut Option<u64>) -> Result<(), Fail> {
    if let Some(heir) = node.replication.heir(slot) {
        return Err(Fail::error(format!(
            "ERR Server in read-only: slot {slot} was taken over by {heir} while this node was away, and serves nobody here \
             until it follows that one"
        )));
    }
    let now = node.monotonic_ms();
    let until = *deadline.get_or_insert(now + node.config.now().handover_hold_ms);
    let wait = Duration::from_millis(until.saturating_sub(now));
    // What was committed before must not wait behind the handover, which may wait for it.
    node.engine.write()?;
    let changed = node.engine.role_changes().wait_past(changes);
    tokio::time::timeout(wait, changed).await.map_err(|_| not_yet(slot, &node.engine.role(slot)))
}

/// Which slots a command may use beside those of its keys: behind Codis none, as each may be elsewhere in a moment.
fn reach(node: &Node, everything: bool) -> Reach {
    match node.profile {
        _ if everything => Reach::Node,
        Profile::Standalone => Reach::MayAsk,
        Profile::Codis => Reach::Keys,
    }
}

/// What stands in a command's way because keys of its slot go to another node one by one.
enum KeyHindrance {
    /// One that it would write is on its way: it waits.
    Waits(Slot),
    /// A proxy has to ask again, or there.
    Elsewhere(Elsewhere),
}

fn key_hindrance(
    node: &Node,
    (keys, slots): (&[Key], &[Slot]),
    wrapped: Option<&Wrapped>,
    tx: &mut Tx<'_>,
    command: &Command,
) -> Result<Option<KeyHindrance>, Stop> {
    if command.flags.has(Flags::WRITE)
        && node.leaving.any()
        && let Some(key) = keys.iter().find(|key| node.leaving.has(key.user()))
    {
        return Ok(Some(match wrapped {
            Some(_) => KeyHindrance::Elsewhere(Elsewhere::Again),
            None => KeyHindrance::Waits(key.slot()),
        }));
    }
    let Some(Wrapped { key, way, .. }) = wrapped else { return Ok(None) };
    // A slot that goes whole is here whole. Of another one, and of one that nobody has asked for since this node
    // started, only what is here is known not to be there.
    if *way == Some(Way::Whole) || !slots.contains(&key.slot()) || tx.read(key, |_| ())?.is_some() {
        return Ok(None);
    }
    let answer = if way.is_none() { Elsewhere::Again } else { Elsewhere::There };
    Ok(Some(KeyHindrance::Elsewhere(answer)))
}

/// Checks a slot for what is no data command of its own, and can't wait until a handover is over.
///
/// # Errors
/// What the client is told.
pub fn check_role(tx: &Tx<'_>, slot: Slot, flags: Flags) -> Result<(), Fail> {
    let write = flags.has(Flags::WRITE);
    match tx.role(slot) {
        Role::Master => Ok(()),
        Role::Fenced | Role::Replica { .. } if !write => Ok(()),
        role @ (Role::Fenced | Role::Owed) => Err(not_yet(slot, role)),
        role => Err(Fail::error(refusal(slot, role, write))),
    }
}

/// What a client is told whose slot is being handed over, or asks its replicas, for too long.
#[must_use]
pub fn not_yet(slot: Slot, role: &Role) -> Fail {
    Fail::error(match role {
        Role::Owed => format!("ERR slot {slot} {ASKS_REPLICAS} and serves nobody yet: try again"),
        _ => format!("ERR slot {slot} is being handed over and takes no writes yet: try again"),
    })
}

/// Whether the node serves such a command on all of these slots of the transaction.
fn hindrance(tx: &Tx<'_>, slots: &[Slot], flags: Flags) -> Option<Hindrance> {
    let write = flags.has(Flags::WRITE);
    let mut fenced = None;
    for &slot in slots {
        match hindrance_at(tx, slot, write) {
            None => {}
            Some(Hindrance::Fenced(slot)) => fenced = Some(Hindrance::Fenced(slot)),
            refused => return refused,
        }
    }
    fenced
}

/// Whether the node serves reads, or writes, on a slot.
pub(crate) fn hindrance_at(tx: &Tx<'_>, slot: Slot, write: bool) -> Option<Hindrance> {
    match tx.role(slot) {
        Role::Master => None,
        Role::Fenced if !write => None,
        Role::Fenced | Role::Owed => Some(Hindrance::Fenced(slot)),
        Role::Replica { .. } if !write => None,
        role @ Role::Absent => Some(Hindrance::Refused(refusal(slot, role, write))),
        role => Some(Hindrance::Gone(slot, refusal(slot, role, write))),
    }
}

/// What the client of a slot is told that this node does not serve.
fn refusal(slot: Slot, role: &Role, write: bool) -> String {
    match role {
        Role::Absent => format!(
            "ERR Partition not found: slot {slot} is not on this node; send the key to the node that has it, or add it \
             here: PKCLUSTER ADDSLOTS {slot}"
        ),
        Role::Moved { to } | Role::Granted { address: to, .. } => {
            format!("ERR Partition not found: slot {slot} was handed over to {to}")
        }
        Role::Replica { upstream } if write && upstream == NOBODY => format!(
            "ERR Server in read-only: slot {slot} is a checkpoint's and nobody's yet: PKCLUSTER SLOTSSLAVEOF NO ONE {slot} \
             makes this node its owner, PKCLUSTER SLOTSSLAVEOF <host> <port> {slot} lets it follow another"
        ),
        Role::Replica { upstream } | Role::Loading { upstream } if write => {
            format!("ERR Server in read-only: slot {slot} follows {upstream}")
        }
        Role::Loading { upstream } => {
            format!("LOADING slot {slot} is being copied from {upstream} and can't be read yet")
        }
        Role::Master | Role::Fenced | Role::Owed | Role::Replica { .. } => {
            unreachable!("the node serves slot {slot} in this role")
        }
    }
}

/// Brings what a command wants into memory: at once if that needs no waiting, else on another thread.
///
/// # Errors
/// What the engine meets.
pub async fn fetch(node: &Node, wanted: Wanted, fetched: &mut Fetched) -> Result<(), Fail> {
    node.stats.keyspace_fetches.fetch_add(1, Ordering::Relaxed);
    let slow = node.engine.try_fetch(wanted, fetched)?;
    if slow.is_empty() {
        return Ok(());
    }
    // What this batch committed before must not wait behind the device: others' reads may wait for it.
    node.engine.write()?;
    let engine = node.engine.clone();
    let mut taken = std::mem::take(fetched);
    let fetching = tokio::task::spawn_blocking(move || (engine.fetch(slow, &mut taken), taken));
    let (result, taken) = fetching.await.map_err(|_| Fail::error("ERR reading data failed"))?;
    *fetched = taken;
    result.map_err(Fail::from)
}

#[cfg(test)]
mod tests;
