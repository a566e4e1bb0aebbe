//! A turn: what several connections of a worker have received is run together, as if it were one batch.
//!
//! A connection that has received something takes a seat. Once all that had something to read have one, the worker's
//! conductor runs: what their commands will touch comes from memory together, they run one after another, the log is written
//! once, and all replies leave. So a client with many connections wakes up once for all its replies. What does not come to its end
//! by itself (a command that waits, a reply that must wait for the device) is left to the connection.
//!
//! All of this is on the worker's thread.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use haypile_engine::engine::Gate;
use haypile_engine::key::Key;
use haypile_engine::memtable::Guess;
use haypile_engine::near::Look;

use super::{Served, Step};
use crate::ahead::Request;
use crate::config::Settings;
use crate::node::Node;

/// A time of day that is older than this is not given to commands.
const STALE_NS: u64 = 1_000_000;

/// What a connection has to do by itself.
pub(super) enum Left {
    /// All is answered.
    Nothing,
    /// All commands have run: their replies wait to leave.
    Settling,
    /// So many commands have run, and this one waits.
    Step(u64, Box<(Step, Request)>),
}

/// Where a connection waits for its turn.
pub(super) struct Seat {
    served: Cell<Option<Box<Served>>>,
    /// What came of the turn, once it is over.
    left: Cell<Option<Left>>,
    /// Who waits for that, and then for what the connection receives.
    waker: RefCell<Waker>,
}

/// Who takes part in the next turn.
struct Turn {
    seats: RefCell<Vec<Rc<Seat>>>,
    /// Wakes the conductor.
    conductor: RefCell<Waker>,
}

thread_local! {
    static TURN: Turn = Turn { seats: RefCell::default(), conductor: RefCell::new(Waker::noop().clone()) };
}

impl Seat {
    pub(super) fn new() -> Rc<Seat> {
        let waker = RefCell::new(Waker::noop().clone());
        Rc::new(Seat { served: Cell::default(), left: Cell::default(), waker })
    }

    /// Takes part in the next turn with what was received. Comes back when there is something to do: not before there is
    /// something to read, if all was answered.
    pub(super) async fn take_part(self: &Rc<Seat>, served: Box<Served>) -> (Box<Served>, Left) {
        self.served.set(Some(served));
        let mut is_seated = false;
        let left = poll_fn(|context| {
            keep(&self.waker, context);
            if !std::mem::replace(&mut is_seated, true) {
                TURN.with(|turn| turn.add(self.clone()));
            }
            self.left.take().map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        (self.served.take().expect("it is given back with what is left"), left)
    }

    /// Gives a connection back, which is woken if it has something to do; else once there is something to read.
    fn give_back(&self, served: Box<Served>, left: Left, wakes: bool) {
        let waker = self.waker.borrow();
        let rests = !wakes && matches!(left, Left::Nothing) && served.connection.rests(&waker);
        self.served.set(Some(served));
        self.left.set(Some(left));
        if !rests {
            waker.wake_by_ref();
        }
    }
}

impl Turn {
    fn add(&self, seat: Rc<Seat>) {
        let seats = &mut *self.seats.borrow_mut();
        seats.push(seat);
        if seats.len() == 1 {
            self.conductor.borrow().wake_by_ref();
        }
    }
}

fn keep(kept: &RefCell<Waker>, context: &Context<'_>) {
    let kept = &mut *kept.borrow_mut();
    if !kept.will_wake(context.waker()) {
        kept.clone_from(context.waker());
    }
}

/// Runs a worker's turns. Never ends.
pub(crate) async fn conduct(node: Arc<Node>) {
    let (mut seen, mut seats) = (node.config.seen(), Vec::new());
    poll_fn(|context| -> Poll<()> {
        TURN.with(|turn| {
            keep(&turn.conductor, context);
            std::mem::swap(&mut seats, &mut *turn.seats.borrow_mut());
        });
        if !seats.is_empty() {
            run(&node, seen.now(&node.config), &mut seats);
        }
        Poll::Pending
    })
    .await;
}

/// One who takes part, and what is left for it.
struct Part {
    seat: Rc<Seat>,
    served: Box<Served>,
    left: Left,
}

/// Runs a turn.
fn run(node: &Node, settings: &Settings, seats: &mut Vec<Rc<Seat>>) {
    let parts = seats.drain(..).filter_map(|seat| {
        let served = seat.served.take()?;
        Some(Part { seat, served, left: Left::Settling })
    });
    let mut parts: Vec<Part> = parts.collect();
    bring_near(node, &mut parts);
    let (mut since_ns, mut now, mut gate) = (node.nanos(), node.wall(), Gate::default());
    let mut now_since_ns = since_ns;
    for Part { served, left, .. } in &mut parts {
        let Served { connection, input } = &mut **served;
        // One command may take long: those after it don't live in the past.
        if since_ns - now_since_ns > STALE_NS {
            (now, now_since_ns) = (node.wall(), since_ns);
        }
        connection.begins(since_ns, now);
        input.ahead.bring_near(&node.engine);
        let mut commands = 0;
        match connection.run_ready(input, &mut commands, settings) {
            Some((step, request)) => *left = Left::Step(commands, Box::new((step, request))),
            None => connection.ran_all(input, commands),
        }
        since_ns = connection.since_ns;
        gate.join(connection.gate);
    }
    let written = node.engine.is_written(gate).and_then(|is| if is { Ok(()) } else { node.engine.write() });
    let stops = node.stops();
    for Part { seat, mut served, mut left } in parts {
        // What fails fails again when the connection tries it.
        if written.is_ok() && matches!(left, Left::Settling) && served.connection.try_settle() {
            left = Left::Nothing;
        }
        seat.give_back(served, left, stops);
    }
}

/// Brings near what those touch who have sent one request each. A longer batch does that by itself.
fn bring_near(node: &Node, parts: &mut [Part]) {
    let (mut keys, mut looks, mut guesses): (Vec<&Key>, Vec<Look>, Vec<(usize, Guess)>) = Default::default();
    for (number, part) in parts.iter().enumerate() {
        let Some((of, touched)) = part.served.input.ahead.single() else { continue };
        let first = keys.len();
        keys.extend(of);
        looks.extend(touched.iter().map(|look| Look { by: number, key: first + look.key, ..look.clone() }));
    }
    if keys.len() > 1 {
        node.engine.bring_near(&keys);
        if !looks.is_empty() {
            node.engine.bring_elements_near(&keys, &looks, |by, guess| guesses.push((by, guess)));
        }
    }
    for (by, guess) in guesses {
        parts[by].served.input.ahead.guess(guess);
    }
}
