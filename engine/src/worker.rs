//! A thread that does one thing again and again, and rests until it is called or for a while.
//!
//! Nobody's call is lost: whoever calls while a step runs finds the next step made. Explored, with callers and with
//! being stopped, by `engine/tests/models/`.

use std::time::Duration;

use crate::signal::Signal;
use crate::sync::atomic::{AtomicBool, Ordering};

/// What follows a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Another, at once.
    Again,
    /// A rest of at most so long, until the signal.
    Rest(Duration),
    /// Nothing: the worker has ended.
    End,
}

/// Tells workers to end.
#[derive(Debug, Default)]
pub struct Stop {
    /// Stored (Release) before the workers' signals, loaded (Acquire) by each worker after it has counted them.
    raised: AtomicBool,
    /// For workers that nobody else calls.
    pub signal: Signal,
}

impl Stop {
    /// Ends the workers that rest on [`Stop::signal`] or on one of `signals`.
    pub fn raise(&self, signals: &[&Signal]) {
        self.raised.store(true, Ordering::Release);
        self.signal.notify();
        signals.iter().for_each(|signal| signal.notify());
    }
}

/// Makes steps until one says that it was the last, or until `stop` is raised. Between steps it rests on `signal`.
pub fn work(stop: &Stop, signal: &Signal, mut step: impl FnMut() -> Next) {
    loop {
        // Counted before the step: what comes during the step is not slept through.
        let seen = signal.count();
        if stop.raised.load(Ordering::Acquire) {
            return;
        }
        match step() {
            Next::Again => {}
            Next::Rest(limit) => signal.block_past(seen, limit),
            Next::End => return,
        }
    }
}
