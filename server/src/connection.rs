//! One connection: bytes in, commands run in order, replies out.
//!
//! A batch is what one read brought: its commands run one after another, then the log is written once (for all
//! connections of the worker that have a batch at hand), the gate is waited for, and all replies leave in one send. No reply leaves before the write it tells of reached its
//! bound. Replies are gathered up to a limit only; a client that does not read its replies is not read from.
//!
//! Where a worker has several connections, their batches run together, in turns: see `turn`.

use std::future::poll_fn;
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use haypile_engine::clock::TimeMs;
use haypile_engine::engine::Gate;
use haypile_engine::error::Error;
use haypile_replication::acks::Waited;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;

use crate::ahead::{Ahead, Request};
use crate::clients::Usage;
use crate::config::Settings;
use crate::execute::{self, Begun, Checked, Job, Next, Runner, Scratch, Waits};
use crate::node::{Node, Stopping};
use crate::resp::{Limits, Parser, Proto, ReplyWriter};
use crate::session::{Mode, Session, Taken};
use crate::table::{Command, Flags, Run, Unfit};
use crate::unacked::Unacked;

mod others;
mod spare;
mod turn;

pub(crate) use turn::conduct;
use turn::{Left, Seat};

/// How much is read at once, in bytes.
const READ_BYTES: usize = 16 * 1024;
/// How much room is made at once for a long argument that is on its way, in bytes.
const READ_BYTES_MAX: usize = 1 << 20;

/// Why a connection ends.
enum End {
    /// The client is gone, was killed, was idle too long, asked to go, or the node stops.
    Closed,
    /// The engine acknowledges nothing any more: nothing more is sent.
    Aborted(Error),
    /// A command takes the socket; these are its arguments.
    TakeOver(&'static Command, Vec<Bytes>),
}

/// How far a command got by itself.
enum Step {
    /// To its end.
    Done,
    /// To its end, and there are so many replies that they have to leave.
    Full,
    /// Not far: CLIENT PAUSE may hold it back.
    Paused(Checked),
    /// Not far: what came before it is answered first.
    Settles(Checked),
    /// Not far: it waits.
    Waits(Checked, Waits, Answer),
    /// Its reply is made and sent piece by piece.
    Streams(Box<Job>, Answer),
    /// It ends the connection.
    Ends(End),
}

/// A command's answer.
#[derive(Clone, Copy)]
struct Answer {
    /// Where it begins among the replies.
    start: usize,
    /// Whether CLIENT REPLY SKIP was said of it.
    skipped: bool,
}

/// Serves a connection until it ends. Runs on its worker's runtime.
pub async fn serve(node: Arc<Node>, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let (Ok(address), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else { return };
    let client = node.clients.enter(address, local, stream.as_raw_fd(), node.monotonic_ms());
    let _leaving = Leaving(&node, client.clone());
    let _counted = others::Counted::new();
    let authenticated = node.config.now().requirepass.is_empty();
    let connection = Connection {
        node: node.clone(),
        stream,
        session: Session::new(client.clone(), authenticated),
        scratch: Scratch::streaming(),
        reply: ReplyWriter::new(Proto::Resp2),
        gate: Gate::default(),
        unacked: Unacked::default(),
        writes: 0,
        published: ("", Proto::Resp2),
        unsaid: false,
        sent: 0,
        since_ns: 0,
        now: TimeMs::default(),
    };
    let served = Box::new(Served { connection, input: Input::default() });
    let (ended, served) = attend(served).await;
    let Served { connection, input } = *served;
    match ended {
        End::Closed => {}
        End::Aborted(error) => node.aborted(&error),
        End::TakeOver(command, args) => {
            let Run::Takeover(run) = command.run else { return };
            let (stream, unread) = (connection.stream, input.unread);
            run(Taken { node: node.clone(), client, stream, unread, args }).await;
        }
    }
}

/// Takes the connection out of the list, however it ends.
struct Leaving<'a>(&'a Node, Arc<crate::clients::Client>);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.clients.leave(&self.1);
    }
}

struct Connection {
    node: Arc<Node>,
    stream: TcpStream,
    session: Session,
    scratch: Scratch,
    reply: ReplyWriter,
    gate: Gate,
    /// What this batch's replies wait for replicas to have.
    unacked: Unacked,
    /// Commands of this batch that write.
    writes: u64,
    /// The command and protocol that CLIENT LIST shows.
    published: (&'static str, Proto),
    /// Whether commands were run whose replies nobody wants: what they wrote is written all the same.
    unsaid: bool,
    /// Bytes of the replies that have left.
    sent: usize,
    /// When the last command ended, or the batch began, in nanoseconds of the monotonic clock.
    since_ns: u64,
    /// The time of day: looked up now and then, not for each command.
    now: TimeMs,
}

/// How often a client that has sent more is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Waits until the client is gone.
async fn gone(stream: &TcpStream) {
    // What it has sent behind its command is read once that has ended, and hides the end behind it from reads.
    while let Ok(1..) = stream.peek(&mut [0]).await {
        match stream.ready(Interest::READABLE).await {
            Ok(ready) if !ready.is_read_closed() => tokio::time::sleep(LOOK).await,
            _ => return,
        }
    }
}

/// What was received and not run.
#[derive(Default)]
struct Input {
    parser: Parser,
    unread: BytesMut,
    /// What was found in `unread`. Empty between batches.
    ahead: Ahead,
}

/// A client that takes no piece of a long reply for so long loses its connection: what the reply is made of is kept
/// meanwhile.
const STALLS: Duration = Duration::from_secs(60);
/// For so long, all waits of one reply together, a client may make its long reply wait where another one waits for its place.
const STALLS_OTHERS: Duration = Duration::from_secs(10);

/// Commands that are run one after another without a look at the clock.
const COMMANDS_A_LOOK: u64 = 64;

/// A connection with what it has received: handed to who runs a turn of all, and back.
struct Served {
    connection: Connection,
    input: Input,
}

/// Serves a connection until it ends.
async fn attend(mut served: Box<Served>) -> (End, Box<Served>) {
    let node = served.connection.node.clone();
    let client = served.connection.session.client.clone();
    // Made once, and looked at only while there is nothing to read.
    let ends = pin!(async {
        let mut stopping = node.stopping();
        tokio::select! {
            () = client.killed() => {}
            _ = stopping.wait_for(|stopping| *stopping != Stopping::No) => {}
        }
    });
    let mut ends = ends;
    // From here on it wakes whoever serves the connection, also while others have that.
    if poll_fn(|context| Poll::Ready(ends.as_mut().poll(context).is_ready())).await {
        return (End::Closed, served);
    }
    let seat = Seat::new();
    let mut seen = node.config.seen();
    loop {
        let settings = seen.now(&node.config);
        let Served { connection, input } = &mut *served;
        let mailbox = connection.session.listening().cloned();
        let idle = Duration::from_secs(settings.timeout_s);
        let receive = poll_fn(|context| match connection.poll_receive(input, context) {
            Poll::Pending if ends.as_mut().poll(context).is_ready() => Poll::Ready(false),
            received => received,
        });
        let received = match (&mailbox, idle) {
            // Who listens may be silent for ever.
            (Some(mailbox), _) => tokio::select! {
                biased;
                received = receive => received,
                () = mailbox.arrived() => {
                    if let Some(end) = connection.deliver().await {
                        return (end, served);
                    }
                    continue;
                }
            },
            (None, Duration::ZERO) => receive.await,
            (None, idle) => tokio::time::timeout(idle, receive).await.unwrap_or(false),
        };
        if !received {
            return (End::Closed, served);
        }
        input.prepare(connection, settings);
        let ended = if input.ahead.has_found() && others::are_there() && mailbox.is_none() && idle.is_zero() {
            let left;
            (served, left) = seat.take_part(served).await;
            let Served { connection, input } = &mut *served;
            match left {
                Left::Nothing => None,
                Left::Settling => connection.settle().await,
                Left::Step(commands, waits) => {
                    connection.batch(input, commands, Some(*waits), settings).await
                }
            }
        } else {
            // Messages that came before these commands leave before their answers.
            let told = match mailbox {
                Some(_) => connection.deliver().await,
                None => None,
            };
            connection.begins(connection.node.nanos(), connection.node.wall());
            match told {
                None => connection.batch(input, 0, None, settings).await,
                ended => ended,
            }
        };
        if let Some(end) = ended {
            return (end, served);
        }
        if client.is_killed() || served.connection.session.closing {
            return (End::Closed, served);
        }
    }
}

impl Input {
    /// Finds the first requests of what was received.
    fn prepare(&mut self, connection: &Connection, settings: &Settings) {
        connection.tell_query(&self.unread);
        self.ahead = spare::take_ahead();
        self.ahead.find(&mut self.parser, &self.unread, &connection.limits(settings));
    }
}

impl Connection {
    /// Notes that a batch begins, and when that is.
    fn begins(&mut self, since_ns: u64, now: TimeMs) {
        (self.since_ns, self.now) = (since_ns, now);
        self.session.client.active_ms.store(since_ns / 1_000_000, Ordering::Relaxed);
    }

    fn limits(&self, settings: &Settings) -> Limits {
        Limits {
            bulk_bytes_max: settings.bulk_bytes_max,
            request_bytes_max: usize::try_from(settings.request_bytes_max).unwrap_or(usize::MAX),
            authenticated: self.session.authenticated,
            ..Limits::default()
        }
    }

    /// Sends the messages that wait.
    async fn deliver(&mut self) -> Option<End> {
        let mailbox = self.session.listening()?.clone();
        mailbox.switch(self.reply.proto());
        let messages = mailbox.take();
        if messages.is_empty() {
            return None;
        }
        let unsent = &self.session.client.usage.unsent;
        Usage::tell(unsent, messages.len());
        let sent = tokio::select! {
            biased;
            sent = self.stream.write_all(&messages) => sent,
            () = self.session.client.killed() => return Some(End::Closed),
        };
        Usage::tell(unsent, 0);
        self.node.stats.output_bytes.fetch_add(messages.len() as u64, Ordering::Relaxed);
        mailbox.sent();
        sent.is_err().then_some(End::Closed)
    }

    /// Reads what there is; false at the end. While nothing comes, a connection that has received nothing keeps no buffer.
    fn poll_receive(&mut self, input: &mut Input, context: &mut Context<'_>) -> Poll<bool> {
        match self.stream.poll_read_ready(context) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(false),
            Poll::Pending => return Poll::Pending,
        }
        if input.unread.is_empty() {
            input.unread = spare::take();
        }
        let wanted = input.parser.wanted(&input.unread);
        input.unread.reserve(wanted.clamp(READ_BYTES, READ_BYTES_MAX));
        // This way a receive that brings less than there is room for is the last until the kernel tells of more.
        let read = pin!(self.stream.read_buf(&mut input.unread)).poll(context);
        if input.unread.is_empty() {
            spare::give(std::mem::take(&mut input.unread));
        }
        read.map(|read| match read {
            Ok(0) | Err(_) => false,
            Ok(bytes) => {
                self.node.stats.input_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                true
            }
        })
    }

    /// Runs all commands that were received whole, from one that waits on if so many have run already, and answers them.
    async fn batch(
        &mut self,
        input: &mut Input,
        mut commands: u64,
        mut waits: Option<(Step, Request)>,
        settings: &Settings,
    ) -> Option<End> {
        let mut ended = None;
        if waits.is_none() {
            input.ahead.bring_near(&self.node.engine);
        }
        loop {
            let next = waits.take().or_else(|| self.run_ready(input, &mut commands, settings));
            let Some((step, request)) = next else { break };
            let args = input.ahead.args(&request, &input.parser, &input.unread);
            ended = self.go_on(&args, step, settings).await;
            if ended.is_some() {
                break;
            }
        }
        self.ran_all(input, commands);
        if ended.is_some() { ended } else { self.settle().await }
    }

    /// All commands that were received whole have run, so many of them, or one ended the connection.
    fn ran_all(&mut self, input: &mut Input, commands: u64) {
        let Input { unread, ahead, .. } = input;
        unread.advance(ahead.end());
        spare::give_ahead(std::mem::take(ahead));
        if unread.is_empty() {
            spare::give(std::mem::take(unread));
        }
        self.tell_query(unread);
        self.node.stats.commands_processed.fetch_add(commands, Ordering::Relaxed);
        let writes = std::mem::take(&mut self.writes);
        self.node.stats.writes_processed.fetch_add(writes, Ordering::Relaxed);
    }

    /// Runs commands until one does not come to its end by itself, which is told with its request, or none is left. No
    /// future is made for those that do.
    fn run_ready(
        &mut self,
        input: &mut Input,
        commands: &mut u64,
        settings: &Settings,
    ) -> Option<(Step, Request)> {
        let Input { parser, unread, ahead } = input;
        while !self.session.closing {
            let limits = self.limits(settings);
            match ahead.next(parser, unread, &limits, &self.node.engine) {
                Ok(Some(request)) => {
                    *commands += 1;
                    if commands.is_multiple_of(COMMANDS_A_LOOK) {
                        self.now = self.node.wall();
                    }
                    self.scratch.expect(ahead.guesses());
                    self.scratch.know(ahead.take_keys(&request));
                    let args = ahead.args(&request, parser, unread);
                    match self.command(&args, request.command, settings) {
                        Step::Done => {}
                        step => return Some((step, request)),
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    self.reply.error(&format!("ERR {error}"));
                    self.session.closing = true;
                }
            }
        }
        None
    }

    /// Runs a command as far as nothing has to be waited for: nearly always to its end.
    fn command(
        &mut self,
        args: &[&[u8]],
        command: Result<&'static Command, Unfit>,
        settings: &Settings,
    ) -> Step {
        let checked = match execute::check_found(&self.node, &self.session, args, command) {
            Ok(checked) => checked,
            Err(text) => {
                let silent = self.session.mode.has(Mode::SILENT) || self.session.mode.has(Mode::SKIPPING);
                self.session.mode = self.session.mode.without(Mode::SKIPPING);
                let start = self.reply.len();
                self.runner(args).refuse(&text);
                if silent {
                    self.reply.truncate(start);
                }
                return Step::Done;
            }
        };
        if self.node.pauses.is_on() && checked.0.name != "client|unpause" {
            return Step::Paused(checked);
        }
        self.enter(args, checked, settings)
    }

    /// Runs a command that nothing holds back.
    fn enter(&mut self, args: &[&[u8]], checked: Checked, settings: &Settings) -> Step {
        self.session.command = checked.0.name;
        self.writes += u64::from(checked.0.flags.has(Flags::WRITE));
        if !checked.settles_first() {
            return self.begin(args, checked, settings);
        }
        let answer = Answer { start: self.reply.len(), skipped: self.session.mode.has(Mode::SKIPPING) };
        match self.runner(args).at_once(checked) {
            Some(next) => self.ran(args, answer, next, settings),
            None => Step::Settles(checked),
        }
    }

    fn begin(&mut self, args: &[&[u8]], checked: Checked, settings: &Settings) -> Step {
        let answer = Answer { start: self.reply.len(), skipped: self.session.mode.has(Mode::SKIPPING) };
        self.session.mode = self.session.mode.without(Mode::SKIPPING);
        match self.runner(args).begin(checked) {
            Begun::Done(next) => self.ran(args, answer, next, settings),
            Begun::Waits(waits) => Step::Waits(checked, waits, answer),
        }
    }

    /// A command has answered.
    fn ran(&mut self, args: &[&[u8]], answer: Answer, next: Next, settings: &Settings) -> Step {
        let Answer { start, skipped } = answer;
        let silent = skipped || self.session.mode.has(Mode::SILENT) || self.session.mode.has(Mode::SKIPPING);
        // Whoever wants no replies wants messages, and to know what they are told of.
        let silent = silent && !self.session.command.ends_with("subscribe");
        if silent {
            // What came before it may have left meanwhile.
            self.reply.truncate(start.min(self.reply.len()));
            self.unsaid = true;
        }
        let written = &mut self.session.written.records;
        if !written.is_empty() {
            if settings.ack > 0 && !silent {
                self.unacked.push(start, self.reply.len(), written);
            }
            written.clear();
        }
        match next {
            Next::Go => {}
            Next::Abort(error) => return Step::Ends(End::Aborted(error)),
            Next::TakeOver(command) => {
                let args = args.iter().map(|arg| Bytes::copy_from_slice(arg)).collect();
                return Step::Ends(End::TakeOver(command, args));
            }
            Next::Stream(job) => return Step::Streams(job, answer),
        }
        let limit = usize::try_from(settings.reply_bytes_max).unwrap_or(usize::MAX);
        if self.reply.len() >= limit { Step::Full } else { Step::Done }
    }

    /// Waits for what a command waits for, and runs it to its end.
    async fn go_on(&mut self, args: &[&[u8]], step: Step, settings: &Settings) -> Option<End> {
        let mut step = step;
        loop {
            step = match step {
                Step::Done => return None,
                Step::Ends(end) => return Some(end),
                Step::Full => return self.settle().await,
                Step::Paused(checked) => match self.pause(checked).await {
                    None => self.enter(args, checked, settings),
                    ended => return ended,
                },
                Step::Settles(checked) => match self.settle().await {
                    None => {
                        self.since_ns = self.node.nanos();
                        self.begin(args, checked, settings)
                    }
                    ended => return ended,
                },
                Step::Waits(checked, waits, answer) if waits.blocks() => {
                    match self.block(args, checked, waits).await {
                        // What came before it is answered.
                        Ok(next) => self.ran(args, Answer { start: 0, ..answer }, next, settings),
                        Err(end) => return Some(end),
                    }
                }
                Step::Streams(job, answer) => match self.stream(args, job, answer).await {
                    Ok(next) => self.ran(args, Answer { start: 0, ..answer }, next, settings),
                    Err(end) => return Some(end),
                },
                Step::Waits(checked, waits, answer) => {
                    let next = self.runner(args).go_on(checked, waits).await;
                    self.now = self.node.wall();
                    self.ran(args, answer, next, settings)
                }
            };
        }
    }

    /// Waits while CLIENT PAUSE holds the command back; what came before it is answered first.
    async fn pause(&mut self, checked: Checked) -> Option<End> {
        if let Some(end) = self.settle().await {
            return Some(end);
        }
        let Connection { node, stream, session, .. } = self;
        let may_write = execute::may_write(session, checked);
        let client = session.client.clone();
        client.usage.waits.store(true, Ordering::Relaxed);
        let held = node.pauses.hold();
        let mut stopping = node.stopping();
        let ended = tokio::select! {
            () = node.pauses.wait(node, may_write) => None,
            () = gone(stream) => Some(End::Closed),
            () = client.killed() => Some(End::Closed),
            _ = stopping.wait_for(|stopping| *stopping != Stopping::No) => Some(End::Closed),
        };
        client.usage.waits.store(false, Ordering::Relaxed);
        drop(held);
        self.now = self.node.wall();
        self.since_ns = self.node.nanos();
        ended
    }

    /// Runs a command that waits for other clients: what came before it is answered first, and it ends with its client.
    async fn block(&mut self, args: &[&[u8]], checked: Checked, waits: Waits) -> Result<Next, End> {
        if let Some(end) = self.settle().await {
            return Err(end);
        }
        self.publish_command();
        let Connection { node, stream, session, scratch, reply, gate, now, since_ns, .. } = self;
        let client = session.client.clone();
        client.usage.waits.store(true, Ordering::Relaxed);
        Usage::tell(&client.usage.args, args.iter().map(|arg| arg.len()).sum());
        let mut stopping = node.stopping();
        let mut runner = Runner { node, session, args, now: *now, since_ns, scratch, reply, gate };
        let next = tokio::select! {
            next = runner.go_on(checked, waits) => next,
            () = gone(stream) => return Err(End::Closed),
            () = client.killed() => return Err(End::Closed),
            _ = stopping.wait_for(|stopping| *stopping != Stopping::No) => return Err(End::Closed),
        };
        client.usage.waits.store(false, Ordering::Relaxed);
        Usage::tell(&client.usage.args, 0);
        self.now = self.node.wall();
        Ok(next)
    }

    /// Makes and sends a long reply; what came before it is answered first.
    async fn stream(&mut self, args: &[&[u8]], job: Box<Job>, answer: Answer) -> Result<Next, End> {
        if let Some(end) = self.settle().await {
            return Err(end);
        }
        let command = job.command;
        let mut stream = job.start();
        let client = self.session.client.clone();
        let silent = answer.skipped || self.session.mode.has(Mode::SILENT);
        let mut sent = false;
        let mut stalled = Duration::ZERO;
        loop {
            let piece = tokio::select! {
                piece = stream.piece() => piece,
                () = gone(&self.stream) => return Err(End::Closed),
                () = client.killed() => return Err(End::Closed),
            };
            let Some(piece) = piece else { break };
            if silent {
                continue;
            }
            sent = true;
            self.reply.raw(&piece);
            let began = self.node.nanos();
            let node = self.node.clone();
            let why = tokio::select! {
                biased;
                ended = self.settle() => match ended {
                    None => None,
                    Some(end) => return Err(end),
                },
                () = tokio::time::sleep(STALLS) => Some("a client does not read its long reply"),
                () = node.streams.wanted_after(STALLS_OTHERS.saturating_sub(stalled)) => {
                    Some("a client reads its long reply slowly, and others wait for theirs")
                }
            };
            if let Some(why) = why {
                tracing::warn!(client = client.id, command = command.name, "{why}: its connection ends");
                return Err(End::Closed);
            }
            // What it waits for its client is no time that it takes.
            let waited_ns = self.node.nanos().saturating_sub(began);
            self.since_ns += waited_ns;
            stalled += Duration::from_nanos(waited_ns);
        }
        let (done, rest) = stream.end().await;
        let start = self.reply.len();
        match &done {
            Ok(()) => self.reply.raw(&rest),
            Err(fail) if sent => {
                tracing::error!(
                    command = command.name,
                    why = execute::words(fail),
                    "a reply could not be made to its end"
                );
                return Err(End::Closed);
            }
            Err(_) => {}
        }
        let next = self.runner(args).end_stream(command, start, done);
        self.now = self.node.wall();
        Ok(next)
    }

    fn runner<'a>(&'a mut self, args: &'a [&'a [u8]]) -> Runner<'a> {
        Runner {
            node: &self.node,
            session: &mut self.session,
            args,
            now: self.now,
            since_ns: &mut self.since_ns,
            scratch: &mut self.scratch,
            reply: &mut self.reply,
            gate: &mut self.gate,
        }
    }

    /// Writes the log, waits until the replies may leave, and sends them.
    async fn settle(&mut self) -> Option<End> {
        if self.reply.is_empty() && !std::mem::take(&mut self.unsaid) {
            return None;
        }
        let gate = std::mem::take(&mut self.gate);
        if let Err(error) = self.write(gate).await {
            return Some(End::Aborted(error));
        }
        if !self.unacked.is_empty()
            && let Some(end) = self.acknowledged().await
        {
            return Some(end);
        }
        self.publish_command();
        if !self.session.outbox.is_empty() {
            self.node.deliver(&mut self.session.outbox);
        }
        if self.reply.is_empty() {
            return None;
        }
        let mut sent = Ok(());
        if !self.try_send() {
            let rest = &self.reply.as_bytes()[self.sent..];
            Usage::tell(&self.session.client.usage.unsent, rest.len());
            sent = tokio::select! {
                biased;
                sent = self.stream.write_all(rest) => sent,
                () = self.session.client.killed() => return Some(End::Closed),
            };
        }
        self.answered();
        sent.is_err().then_some(End::Closed)
    }

    /// Sends the replies if nothing has to be waited for; says whether all have left. The log has been written.
    fn try_settle(&mut self) -> bool {
        if self.reply.is_empty() && !self.unsaid {
            return true;
        }
        let reached = matches!(self.node.engine.is_reached(self.gate), Ok(true));
        if !reached || !self.unacked.is_empty() || !self.session.outbox.is_empty() {
            return false;
        }
        self.gate = Gate::default();
        self.unsaid = false;
        self.publish_command();
        let sent = self.try_send();
        if sent {
            self.answered();
        }
        sent
    }

    /// Whether there is nothing to do before there is something to read, of which the waker is told then.
    fn rests(&self, waker: &Waker) -> bool {
        let ends = self.session.client.is_killed() || self.session.closing;
        let is_client = !ends && self.session.listening().is_none();
        is_client && self.stream.poll_read_ready(&mut Context::from_waker(waker)).is_pending()
    }

    /// Sends what the kernel takes at once of the replies; says whether that is all, as it nearly always is.
    fn try_send(&mut self) -> bool {
        let bytes = self.reply.as_bytes();
        self.sent += self.stream.try_write(&bytes[self.sent..]).unwrap_or_default();
        self.sent == bytes.len()
    }

    /// All replies have left.
    fn answered(&mut self) {
        self.sent = 0;
        self.node.stats.output_bytes.fetch_add(self.reply.len() as u64, Ordering::Relaxed);
        self.reply.clear();
        let usage = &self.session.client.usage;
        Usage::tell(&usage.unsent, 0);
        Usage::tell(&usage.replies, self.reply.capacity());
    }

    /// Writes the log as far as the gate, unless somebody else does, and waits until the gate is reached.
    async fn write(&self, gate: Gate) -> Result<(), Error> {
        let engine = &self.node.engine;
        // This worker's other connections run the batches that they have at hand first: one write for all of them, and all
        // their replies leave together, for which a client wakes up once.
        if others::are_there() || !engine.is_written(gate)? {
            tokio::task::yield_now().await;
            if !engine.is_written(gate)? {
                engine.write()?;
            }
        }
        if engine.is_reached(gate)? { Ok(()) } else { engine.reached(gate).await }
    }

    /// Waits until replicas have what this batch wrote. Where that takes too long, or can't be any more, the replies that
    /// tell of it become errors.
    async fn acknowledged(&mut self) -> Option<End> {
        let unacked = std::mem::take(&mut self.unacked);
        let settings = self.node.config.now();
        let acks = self.node.replication.acks();
        let records = unacked.records();
        let wait = acks.wait(&records, settings.ack)?;
        let limit = async {
            match settings.ack_timeout_ms {
                0 => std::future::pending().await,
                ms => tokio::time::sleep(Duration::from_millis(ms)).await,
            }
        };
        let mut stopping = self.node.stopping();
        tokio::select! {
            biased;
            waited = wait.over() => match waited {
                Waited::Acked => return None,
                Waited::Gone => {}
            },
            () = self.session.client.killed() => return Some(End::Closed),
            // An error means that the node is gone, which is a stop as well.
            _ = stopping.wait_for(|stopping| *stopping != Stopping::No) => {}
            () = self.node.loses(&records) => {}
            () = limit => {}
            () = gone(&self.stream) => return Some(End::Closed),
        }
        let refused = unacked.refuse(&self.reply, |record| acks.count(&[record]), settings.ack);
        self.node.stats.error_replies.fetch_add(refused.1, Ordering::Relaxed);
        self.reply = refused.0;
        None
    }

    /// Shows in CLIENT LIST what was received and not run.
    fn tell_query(&self, unread: &BytesMut) {
        let usage = &self.session.client.usage;
        Usage::tell(&usage.query, unread.len());
        Usage::tell(&usage.query_free, unread.capacity() - unread.len());
    }

    /// Shows the last command in CLIENT LIST; once a batch, as it takes a lock.
    fn publish_command(&mut self) {
        let command = (self.session.command, self.reply.proto());
        if self.published == command && self.session.mode == Mode::PLAIN {
            return;
        }
        self.published = command;
        let mut about = self.session.client.about();
        about.command = self.session.command;
        about.proto = self.reply.proto();
        about.queued = self.session.multi.as_ref().map(|multi| multi.queue.len());
        about.queued_bytes = self.session.multi.as_ref().map_or(0, |multi| multi.bytes);
        about.monitors = self.session.monitoring.is_some();
    }
}
