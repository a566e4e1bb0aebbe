//! How fast writers may go while memory is short: about as fast as flushes free it, so that nobody waits for a whole
//! flush at once.
//!
//! While memory is far from full nobody is slowed. From `Budget::flush_at` on a thread ticks
//! ([`crate::background::Background`]): each tick lets so many bytes into memtables as flushes have freed in such a time of
//! late; twice as many where memory is hardly short, nearly none where it runs out. Writers that came first wait no longer
//! than those that come now: all wait for the next tick. Without that thread (simulations) writers wait for flushes only.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::signal::Signal;
use crate::sync::Mutex;
use crate::sync::atomic::AtomicBool;

/// How often writers that are slowed are let go on. One writer at full speed does some hundred writes within it, so that
/// only few of them are late at all.
pub(crate) const TICK: Duration = Duration::from_millis(4);
/// A writer that others came before in every tick waits no longer than this while memory is not full.
const PATIENCE: Duration = Duration::from_millis(20);
/// What is believed before the first flush.
const FIRST_RATE: f64 = 50e6;
/// A write that is larger than what was allowed is not held against those that follow for longer than this.
const DEBT: Duration = Duration::from_millis(20);
/// How much the last flush counts against those before it.
const LAST_COUNTS: f64 = 0.3;
/// Between these times of the rate of flushes writers are let go on while memory is short.
const RATE_MIN: f64 = 0.1;
const RATE_MAX: f64 = 8.0;
/// So many flushes' bytes are kept free where memory counts as used up: one that is under way, and what it takes longer.
const MARGIN: f64 = 1.25;
/// A flush of less says nothing of the rate.
const TELLING_BYTES: u64 = 64 << 10;

/// Why a writer has to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crowd {
    /// Memory is short: it goes on with the next tick, or one of the next.
    Slowed,
    /// Memory is full: it goes on after a flush.
    Full,
}

/// How much memory there is for memtables.
#[derive(Clone, Copy, Debug)]
struct Fill {
    used: u64,
    slow_at: u64,
    max: u64,
    /// What one flush frees, about.
    piece: u64,
}

/// Decides what is allowed; no clock inside.
#[derive(Debug)]
struct Gauge {
    /// Bytes a second that flushes have been freeing.
    rate: f64,
    /// So many bytes may have been taken since the start.
    allowed: u64,
    ticked: Option<Duration>,
    /// The flush that is under way: since when, and what it will free.
    flush: Option<(Duration, u64)>,
}

impl Default for Gauge {
    fn default() -> Gauge {
        Gauge { rate: FIRST_RATE, allowed: 0, ticked: None, flush: None }
    }
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // an estimate
impl Gauge {
    fn flush_began(&mut self, now: Duration, bytes: u64) {
        self.flush = Some((now, bytes));
    }

    fn flush_ended(&mut self, now: Duration, freed: u64) {
        let Some((began, _)) = self.flush.take() else { return };
        let took = now.saturating_sub(began).as_secs_f64();
        if freed >= TELLING_BYTES && took > 0.0 {
            self.rate += (freed as f64 / took - self.rate) * LAST_COUNTS;
        }
    }

    /// How much may have been taken until the next tick, where so much is taken now.
    fn tick(&mut self, now: Duration, taken: u64, fill: Fill) -> u64 {
        let since = self.ticked.map_or(TICK, |ticked| now.saturating_sub(ticked).min(5 * TICK));
        if self.ticked.replace(now).is_none() {
            self.allowed = taken;
        }
        // What a flush has written is as good as free: memory falls by a whole flush at a time, writers shall not notice.
        let written = self.flush.map_or(0.0, |(began, bytes)| {
            (now.saturating_sub(began).as_secs_f64() * self.rate).min(bytes as f64)
        });
        let piece = self.flush.map_or(0, |(_, bytes)| bytes).max(fill.piece) as f64;
        let room = (fill.max - fill.slow_at) as f64;
        let room = (room - piece * MARGIN).max(room / 8.0);
        // 0: hardly short; 1: at the end. At two thirds writers go as fast as memory is freed.
        let short = ((fill.used as f64 - written - fill.slow_at as f64) / room).clamp(0.01, 0.99);
        let rate = self.rate * (2.0 * (1.0 - short) / short).clamp(RATE_MIN, RATE_MAX);
        let more = (rate * since.as_secs_f64()) as u64;
        let forgiven = taken.saturating_sub((rate * DEBT.as_secs_f64()) as u64);
        self.allowed = (self.allowed.max(forgiven) + more).min(taken + more);
        self.allowed
    }

    /// Memory is not short any more.
    fn rest(&mut self) {
        self.ticked = None;
    }
}

/// The engine's part of it: see the file's head.
#[derive(Default)]
pub(crate) struct Pace {
    gauge: Mutex<Gauge>,
    /// Bytes that memtables took since the start, and that they gave back. Only measures: nothing is ordered by them.
    taken: AtomicU64,
    freed: AtomicU64,
    allowed: AtomicU64,
    /// Whether there is a thread that ticks. Stored before `ticks` is notified.
    runs: AtomicBool,
    /// Whether that thread ticks by itself. Stored before `ticks` is notified; whoever finds it false calls for the thread.
    ticking: AtomicBool,
    /// Writers that are slowed look again.
    pub(crate) ticks: Signal,
    /// A writer would be slowed, and nobody ticks.
    pub(crate) crowded: Signal,
}

impl Pace {
    fn with<T>(&self, change: impl FnOnce(&mut Gauge) -> T) -> T {
        change(&mut self.gauge.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether there is a thread that ticks, and with it all others that work in the background.
    pub(crate) fn is_running(&self) -> bool {
        self.runs.load(Ordering::Acquire)
    }

    /// The thread that ticks is there, or has ended.
    pub(crate) fn set_running(&self, runs: bool) {
        self.runs.store(runs, Ordering::Release);
        self.ticking.store(false, Ordering::Release);
        self.ticks.notify();
    }
}

impl Engine {
    /// Bytes that memtables take.
    pub fn memtable_bytes(&self) -> usize {
        let pace = self.pace();
        // In this order: what is given back was taken before.
        let freed = pace.freed.load(Ordering::Relaxed);
        let bytes = pace.taken.load(Ordering::Relaxed).saturating_sub(freed);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    pub(crate) fn account_memtable(&self, before: usize, after: usize) {
        let pace = self.pace();
        if after < before {
            pace.freed.fetch_add((before - after) as u64, Ordering::Relaxed);
            return;
        }
        let more = (after - before) as u64;
        let taken = pace.taken.fetch_add(more, Ordering::Relaxed) + more;
        let total = taken.saturating_sub(pace.freed.load(Ordering::Relaxed));
        let limit = self.options().budget().flush_at() as u64;
        if total >= limit && total.saturating_sub(more) < limit {
            self.pressure.notify();
        }
    }

    /// Whether memory is full: only a flush lets writers go on.
    pub fn is_full(&self) -> bool {
        self.memtable_bytes() >= self.options().budget().memtables_max()
    }

    /// Why writes have to wait now, if they have to: see [`Engine::room`].
    pub fn crowd(&self) -> Option<Crowd> {
        let (budget, pace, used) = (self.options().budget(), self.pace(), self.memtable_bytes());
        if used < budget.flush_at() {
            return None;
        }
        if used >= budget.memtables_max() {
            return Some(Crowd::Full);
        }
        let over = pace.taken.load(Ordering::Relaxed) >= pace.allowed.load(Ordering::Relaxed);
        (over && pace.runs.load(Ordering::Acquire)).then_some(Crowd::Slowed)
    }

    /// Waits until there is memory for more writes: called before a batch that writes, with no slot locked. Where memory
    /// is short a wait is a few milliseconds; where it is full it is for a flush.
    ///
    /// # Errors
    /// If memory is full and flushing fails: why it does.
    pub async fn room(&self) -> Result<()> {
        if self.crowd().is_none() {
            return Ok(());
        }
        let begin = self.clock().monotonic();
        let mut worst = Crowd::Slowed;
        loop {
            let (flushes, ticks) = (self.flushes.count(), self.pace().ticks.count());
            let (crowd, waited) = (self.crowd(), self.clock().monotonic().saturating_sub(begin));
            match crowd {
                Some(Crowd::Slowed) if waited < PATIENCE => {
                    if !self.pace().ticking.load(Ordering::Acquire) {
                        self.pace().crowded.notify();
                    }
                    self.pace().ticks.wait_past(ticks).await;
                }
                None | Some(Crowd::Slowed) => {
                    self.work().waited(worst, waited);
                    return Ok(());
                }
                Some(Crowd::Full) => {
                    worst = Crowd::Full;
                    if let Some(trouble) = self.trouble() {
                        let why = format!("no memory for writes, and flushing fails: {trouble}");
                        return Err(Error::ReadOnly(why));
                    }
                    self.pressure.notify();
                    self.flushes.wait_past(flushes).await;
                }
            }
        }
    }

    /// Lets writers that are slowed go on, as far as memory allows. Says whether memory is short still.
    pub(crate) fn tick(&self) -> bool {
        let (budget, pace) = (self.options().budget(), self.pace());
        let (used, now) = (self.memtable_bytes(), self.clock().monotonic());
        let short = used >= budget.flush_at();
        if short {
            let bytes = |bytes: usize| bytes as u64;
            let (slow_at, max) = (bytes(budget.flush_at()), bytes(budget.memtables_max()));
            let fill = Fill { used: bytes(used), slow_at, max, piece: bytes(budget.flush_piece()) };
            let taken = pace.taken.load(Ordering::Relaxed);
            pace.allowed.store(pace.with(|gauge| gauge.tick(now, taken, fill)), Ordering::Relaxed);
        } else {
            pace.with(Gauge::rest);
        }
        pace.ticking.store(short, Ordering::Release);
        pace.ticks.notify();
        short
    }

    /// Does a flush that is to free so many bytes, and learns how fast that is.
    pub(crate) fn paced(&self, bytes: usize, flush: impl FnOnce() -> Result<()>) -> Result<()> {
        let pace = self.pace();
        let freed = pace.freed.load(Ordering::Relaxed);
        pace.with(|gauge| gauge.flush_began(self.clock().monotonic(), bytes as u64));
        let done = flush();
        let freed = pace.freed.load(Ordering::Relaxed).saturating_sub(freed);
        pace.with(|gauge| gauge.flush_ended(self.clock().monotonic(), freed));
        done
    }

    /// Bytes of memtables a second that flushes have been freeing of late.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // an estimate, never negative
    pub(crate) fn flush_rate(&self) -> u64 {
        self.pace().with(|gauge| gauge.rate as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flush of `piece` bytes is begun whenever more than `flush_at` are used; a writer takes what it may, at most `speed`
    /// a second, in a simulated time of steps of 100 us. Gives the longest that it had to wait, the most that was used, and
    /// what it wrote a second in the end.
    fn overload(rates: &[(u64, f64)], speed: u64, piece: u64) -> (Duration, u64, f64) {
        const STEP: Duration = Duration::from_micros(100);
        let (flush_at, max) = (24 << 20, 32 << 20);
        let budget = |used| Fill { used, slow_at: flush_at, max, piece };
        let mut gauge = Gauge::default();
        let (mut taken, mut freed, mut most) = (0_u64, 0_u64, 0_u64);
        let (mut flush, mut allowed, mut waits_since) = (None, u64::MAX, None);
        let (mut longest, mut next_tick) = (Duration::ZERO, Duration::ZERO);
        let mut last = 0;
        for step in 0..200_000_u32 {
            let now = STEP * step;
            let second = now.as_secs();
            let rate = rates.iter().rev().find(|(from, _)| *from <= second).expect("from the start on").1;
            let used = taken - freed;
            most = most.max(used);
            if now >= next_tick {
                next_tick = now + TICK;
                let short = used >= budget(used).slow_at;
                allowed = if short { gauge.tick(now, taken, budget(used)) } else { u64::MAX };
            }
            match flush {
                None if used >= flush_at => {
                    gauge.flush_began(now, piece);
                    flush = Some(now + Duration::from_secs_f64(piece as f64 / rate));
                }
                Some(end) if now >= end => {
                    freed += piece;
                    gauge.flush_ended(now, piece);
                    flush = None;
                }
                _ => {}
            }
            if taken < allowed && used < max {
                longest = longest.max(waits_since.take().map_or(Duration::ZERO, |since| now - since));
                taken += speed / 10_000;
            } else {
                waits_since.get_or_insert(now);
            }
            if step == 150_000 {
                last = taken;
            }
        }
        (longest, most, (taken - last) as f64 / (STEP * 50_000).as_secs_f64())
    }

    #[test]
    fn writers_that_are_too_fast_wait_a_little_often_and_get_all_that_flushes_free() {
        for (rate, speed) in [(80e6, 400), (80e6, 100), (20e6, 400), (200e6, 250), (300e6, 500)] {
            let (longest, most, reached) = overload(&[(0, rate)], speed * 1_000_000, 4 << 20);
            assert!(longest <= Duration::from_millis(40), "{rate} {speed}: waited {longest:?}");
            assert!(most < 32 << 20, "{rate} {speed}: memory was full");
            assert!(reached > rate * 0.9 && reached < rate * 1.1, "{rate} {speed}: {reached} bytes a second");
        }
    }

    #[test]
    fn writers_that_are_slower_than_flushes_never_wait() {
        let (longest, most, reached) = overload(&[(0, 80e6)], 70_000_000, 4 << 20);
        assert!(
            longest == Duration::ZERO && most < 30 << 20 && reached > 69e6,
            "{longest:?} {most} {reached}"
        );
    }

    #[test]
    fn flushes_that_become_four_times_slower_slow_writers_down_without_a_stop() {
        let (longest, _, reached) =
            overload(&[(0, 80e6), (5, 20e6), (10, 80e6), (15, 30e6)], 400_000_000, 4 << 20);
        assert!(longest <= Duration::from_millis(100), "waited {longest:?}");
        assert!(reached > 27e6 && reached < 33e6, "{reached}");
    }

    #[test]
    fn a_write_far_larger_than_what_was_allowed_is_forgiven_soon() {
        let mut gauge = Gauge::default();
        let fill = Fill { used: 26 << 20, slow_at: 25 << 20, max: 32 << 20, piece: 1 << 20 };
        let mut now = Duration::ZERO;
        let first = gauge.tick(now, 0, fill);
        assert!(first > 0);
        let taken = first + (100 << 20);
        let mut ticks = 0;
        while gauge.tick(now, taken, fill) <= taken {
            now += TICK;
            ticks += 1;
        }
        assert!(ticks * TICK <= DEBT + 2 * TICK, "{ticks}");
    }
}
