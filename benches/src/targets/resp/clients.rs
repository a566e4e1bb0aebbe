//! The connections of one thread, each with a pipeline of requests under way.
//!
//! One thread serves all its connections with epoll: a request costs its bytes, a reply a look at its length, a pipeline one
//! send and one receive. In a closed loop a connection sends a whole pipeline and waits for all its replies, as
//! redis-benchmark does; *sliding*, it sends more as soon as half of the replies are there, as a proxy does. In an open loop
//! what is due goes to the next connection that has room.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::OwnedFd;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};

use super::wire::{self, Read};
use crate::error::{Error, Result};
use crate::lane::{Lane, Moment, Turn};
use crate::load::operation::Kind;
use crate::target::{Driver, Found};

/// A receive asks for so much; a buffer grows for a reply that is larger.
const RECEIVE_BYTES: usize = 64 << 10;
/// A server that answers nothing for so long is given up.
const SILENCE_SECONDS: u32 = 60;
/// The timer's mark among the connections'.
const TIMER: u64 = u64::MAX;

/// An operation that was sent.
struct Sent {
    kind: Kind,
    count: u64,
    start: Moment,
    replies_left: usize,
    found: Found,
    failed: bool,
}

struct Connection {
    stream: TcpStream,
    /// Requests, of which the first `written` bytes are sent.
    out: Vec<u8>,
    written: usize,
    /// Replies: the bytes from `parsed` to `received` wait to be read.
    input: Vec<u8>,
    parsed: usize,
    received: usize,
    under_way: VecDeque<Sent>,
    /// Whether epoll tells when more can be sent.
    wants_room: bool,
}

/// See the file's head.
pub struct Clients {
    connections: Vec<Connection>,
    depth: usize,
    sliding: bool,
    epoll: OwnedFd,
    timer: OwnedFd,
    /// Whose turn it is in an open loop.
    next: usize,
}

impl Clients {
    /// Takes over streams that are connected and authenticated.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn new(streams: Vec<TcpStream>, depth: usize, sliding: bool) -> Result<Clients> {
        let make = || -> io::Result<Clients> {
            let epoll = epoll::create(CreateFlags::CLOEXEC)?;
            let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
            let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
            epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
            let mut connections = Vec::new();
            for (number, stream) in streams.into_iter().enumerate() {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                epoll::add(&epoll, &stream, EventData::new_u64(number as u64), EventFlags::IN)?;
                connections.push(Connection {
                    stream,
                    out: Vec::new(),
                    written: 0,
                    input: vec![0; RECEIVE_BYTES],
                    parsed: 0,
                    received: 0,
                    under_way: VecDeque::new(),
                    wants_room: false,
                });
            }
            Ok(Clients { connections, depth, sliding, epoll, timer, next: 0 })
        };
        make().map_err(|error| Error::target("prepare connections", error))
    }

    /// Sends what the lane has to do now; what it has to do next.
    fn send(&mut self, lane: &mut Lane<'_>, ready: &[usize]) -> Result<Next> {
        let mut next = Next::Replies;
        if lane.is_paced() {
            let now = lane.now();
            // One operation to each connection in turn, so that none has to wait behind others without need.
            let mut full = 0;
            while full < self.connections.len() {
                let number = self.next;
                self.next = (self.next + 1) % self.connections.len();
                let connection = &mut self.connections[number];
                if connection.under_way.len() >= self.depth {
                    full += 1;
                    continue;
                }
                full = 0;
                match connection.take(lane, now) {
                    None => {}
                    Some(other) => {
                        next = other;
                        break;
                    }
                }
            }
            for number in 0..self.connections.len() {
                self.flush(number)?;
            }
            return Ok(next);
        }
        let refill_at = if self.sliding { self.depth / 2 } else { 0 };
        for &number in ready {
            let connection = &mut self.connections[number];
            if connection.under_way.len() > refill_at {
                continue;
            }
            let now = lane.now();
            while connection.under_way.len() < self.depth {
                if let Some(other) = connection.take(lane, now) {
                    next = other;
                    break;
                }
            }
            self.flush(number)?;
        }
        Ok(next)
    }

    /// Hands a connection's requests to the kernel, as far as it takes them.
    fn flush(&mut self, number: usize) -> Result<()> {
        let connection = &mut self.connections[number];
        let wants_room = connection.write().map_err(|error| Error::target("send", error))?;
        if wants_room != connection.wants_room {
            connection.wants_room = wants_room;
            let flags = if wants_room { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            epoll::modify(&self.epoll, &connection.stream, EventData::new_u64(number as u64), flags)
                .map_err(|error| Error::target("watch a connection", error))?;
        }
        Ok(())
    }

    fn set_timer(&self, wait_ns: u64) -> Result<()> {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let wait_ns = i64::try_from(wait_ns).unwrap_or(i64::MAX).max(1);
        let it_value = Timespec { tv_sec: wait_ns / 1_000_000_000, tv_nsec: wait_ns % 1_000_000_000 };
        let spec = Itimerspec { it_interval: zero, it_value };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec)
            .map(drop)
            .map_err(|error| Error::target("set a timer", error))
    }
}

/// What a thread waits for when it has sent what it had.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Replies,
    Due(Moment),
    End,
}

impl Connection {
    /// Takes one operation from the lane; what to wait for instead if there is none now.
    fn take(&mut self, lane: &mut Lane<'_>, now: Moment) -> Option<Next> {
        match lane.turn(now) {
            Turn::Do { kind, operation, start } => {
                let replies_left = wire::encode(&mut self.out, &operation);
                let count = operation.count();
                let found = Found::NOTHING;
                self.under_way.push_back(Sent { kind, count, start, replies_left, found, failed: false });
                None
            }
            Turn::Wait(until) => Some(Next::Due(until)),
            Turn::End => Some(Next::End),
        }
    }

    /// Says whether some is left that the kernel does not take now.
    fn write(&mut self) -> io::Result<bool> {
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(false)
    }

    /// Receives once, and tells the lane of every reply that is whole.
    fn receive(&mut self, lane: &mut Lane<'_>) -> Result<()> {
        if self.received == self.input.len() {
            // Either what was read makes room, or the reply is larger than the buffer.
            self.input.copy_within(self.parsed..self.received, 0);
            self.received -= self.parsed;
            self.parsed = 0;
            if self.input.len() - self.received < RECEIVE_BYTES / 2 {
                self.input.resize(self.input.len() * 2, 0);
            }
        }
        match self.stream.read(&mut self.input[self.received..]) {
            Ok(0) => return Err(Error::target("receive", "the server closed the connection")),
            Ok(count) => self.received += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(error) => return Err(Error::target("receive", error)),
        }
        let end = lane.now();
        while self.parsed < self.received {
            let reply = match wire::read(&self.input[self.parsed..self.received]) {
                Read::Reply(reply) => reply,
                Read::Incomplete => break,
                Read::Malformed => {
                    return Err(Error::target("receive", "that is no reply of a Redis server"));
                }
            };
            let Some(sent) = self.under_way.front_mut() else {
                return Err(Error::target("receive", "a reply that nobody asked for"));
            };
            if let Some(why) = reply.error {
                lane.failed(&String::from_utf8_lossy(why));
                sent.failed = true;
            }
            sent.found.entries += reply.found.entries;
            sent.found.bytes += reply.found.bytes;
            sent.replies_left -= 1;
            self.parsed += reply.len;
            if sent.replies_left == 0
                && let Some(sent) = self.under_way.pop_front()
                && !sent.failed
            {
                lane.done(sent.kind, sent.count, sent.start, end, sent.found);
            }
        }
        if self.parsed == self.received {
            self.parsed = 0;
            self.received = 0;
        }
        Ok(())
    }
}

impl Driver for Clients {
    fn drive(&mut self, lane: &mut Lane<'_>) -> Result<()> {
        let mut ready: Vec<usize> = (0..self.connections.len()).collect();
        let mut events: Vec<Event> = Vec::with_capacity(self.connections.len() + 1);
        let mut silent_seconds = 0;
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        loop {
            let next = self.send(lane, &ready)?;
            let waiting = self.connections.iter().any(|connection| !connection.under_way.is_empty());
            match next {
                Next::End if !waiting => return Ok(()),
                Next::Due(until) => self.set_timer(until.since(lane.now()))?,
                Next::End | Next::Replies => {}
            }
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&second)) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::target("wait for replies", error)),
            }
            silent_seconds = if events.is_empty() && waiting { silent_seconds + 1 } else { 0 };
            if silent_seconds >= SILENCE_SECONDS {
                return Err(Error::target(
                    "wait for replies",
                    "the server has answered nothing for a minute",
                ));
            }
            ready.clear();
            for event in &events {
                let (data, flags) = (event.data, event.flags);
                if data.u64() == TIMER {
                    // Its count is of no use; it has to be taken, or it fires again.
                    let _ = rustix::io::read(&self.timer, &mut [0; 8]);
                    continue;
                }
                let number = usize::try_from(data.u64()).expect("it was a connection's place");
                if flags.contains(EventFlags::OUT) {
                    self.flush(number)?;
                }
                if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                    self.connections[number].receive(lane)?;
                    ready.push(number);
                }
            }
        }
    }
}
