//! What commands took: counters and latencies for INFO, the slow log, and the latency events of LATENCY.
//!
//! Every command is counted by the thread that ran it, in one of a few sets of counters: those of the first threads are
//! theirs alone, so that counting takes no more than a load and a store; others share one. Any thread may read them all.
//! Counters only ever grow: what was counted when they were reset is remembered, and taken off.

mod histogram;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};

pub use histogram::{Histogram, percentile, powers};

use crate::config::Settings;
use crate::table::{self, Command, Flags};

/// Sets of counters: all threads beyond it share the last one.
const SETS: usize = 64;
/// Samples that a latency event keeps, as in Redis.
const SAMPLES_MAX: usize = 160;
/// Different codes of errors that are counted; others are counted as one.
const CODES_MAX: usize = 128;
/// Arguments of a slow command that are kept, and bytes of each, as in Redis.
const ARGUMENTS_MAX: usize = 32;
const ARGUMENT_BYTES_MAX: usize = 128;

#[derive(Debug, Default)]
struct Counter {
    calls: AtomicU64,
    took_ns: AtomicU64,
    rejected: AtomicU64,
    failed: AtomicU64,
    latencies: OnceLock<Box<Histogram>>,
}

/// Whose a set of counters is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// This thread's: nobody else writes to it.
    One,
    /// Several threads'.
    Many,
}

impl Owner {
    /// Adds to a counter of the set.
    fn add(self, counter: &AtomicU64, number: u64) {
        match self {
            Owner::One => counter.store(counter.load(Ordering::Relaxed) + number, Ordering::Relaxed),
            Owner::Many => {
                counter.fetch_add(number, Ordering::Relaxed);
            }
        }
    }
}

/// What is known of one command's calls.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// How often it was run.
    pub calls: u64,
    /// How long it ran, together.
    pub took_ns: u64,
    /// How often it was refused before it ran.
    pub rejected: u64,
    /// How often it answered an error.
    pub failed: u64,
    /// How many calls took how long.
    pub latencies: Vec<u64>,
}

/// A command that took long.
#[derive(Clone, Debug)]
pub struct Slow {
    /// Its number, never used again.
    pub id: u64,
    /// When it ended, in seconds since 1970.
    pub at_s: u64,
    /// How long it ran.
    pub took_us: u64,
    /// Its arguments, cut to a length.
    pub args: Vec<Vec<u8>>,
    /// Whose it was.
    pub client: (String, String),
}

/// What happened when something took long: the moment in seconds since 1970, and milliseconds.
pub type Sample = (u64, u64);

/// An event of the latency monitor.
#[derive(Clone, Debug, Default)]
pub struct Event {
    /// The last ones, the oldest first.
    pub samples: VecDeque<Sample>,
    /// The longest since the last reset, in milliseconds.
    pub longest_ms: u64,
}

/// See the file's head.
#[derive(Debug)]
pub struct Measured {
    /// Each is made when its first thread counts something.
    sets: Vec<OnceLock<Vec<Counter>>>,
    /// What had been counted of each command at the last reset.
    forgotten: Mutex<Vec<Figures>>,
    errors: Mutex<BTreeMap<String, u64>>,
    /// What is longer is logged; in microseconds, below zero nothing is.
    slow_us: AtomicI64,
    slow_kept: AtomicUsize,
    slow_next: AtomicU64,
    slow: Mutex<VecDeque<Slow>>,
    /// What takes at least so long is an event; 0 is nothing.
    event_ms: AtomicU64,
    events: Mutex<BTreeMap<&'static str, Event>>,
}

/// The set of counters of this thread.
fn set_of_thread() -> (usize, Owner) {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SET: (usize, Owner) = match NEXT.fetch_add(1, Ordering::Relaxed) {
            set if set < SETS - 1 => (set, Owner::One),
            _ => (SETS - 1, Owner::Many),
        };
    }
    SET.with(|set| *set)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no code panics while it holds this lock")
}

impl Measured {
    /// Nothing is counted yet.
    #[must_use]
    pub fn new(settings: &Settings) -> Measured {
        let measured = Measured {
            sets: (0..SETS).map(|_| OnceLock::new()).collect(),
            forgotten: Mutex::default(),
            errors: Mutex::default(),
            slow_us: AtomicI64::new(0),
            slow_kept: AtomicUsize::new(0),
            slow_next: AtomicU64::new(0),
            slow: Mutex::default(),
            event_ms: AtomicU64::new(0),
            events: Mutex::default(),
        };
        measured.set(settings);
        measured
    }

    /// Goes by these settings from here on.
    pub fn set(&self, settings: &Settings) {
        self.slow_us.store(settings.slow_us, Ordering::Relaxed);
        self.slow_kept.store(settings.slow_kept, Ordering::Relaxed);
        self.event_ms.store(settings.latency_event_ms, Ordering::Relaxed);
        let log = &mut *lock(&self.slow);
        log.truncate(settings.slow_kept);
    }

    fn counter(&self, command: &Command) -> (&Counter, Owner) {
        let (set, owner) = set_of_thread();
        let set = self.sets[set].get_or_init(|| (0..table::count()).map(|_| Counter::default()).collect());
        (&set[command.id], owner)
    }

    /// Counts a command that ran.
    pub fn ran(&self, command: &Command, took_ns: u64) {
        let (counter, owner) = self.counter(command);
        owner.add(&counter.calls, 1);
        owner.add(&counter.took_ns, took_ns);
        counter.latencies.get_or_init(Box::default).note(took_ns, owner);
    }

    /// Counts an error that a command answered.
    pub fn failed(&self, command: &Command) {
        let (counter, owner) = self.counter(command);
        owner.add(&counter.failed, 1);
    }

    /// Counts a command that was refused before it ran.
    pub fn rejected(&self, command: &Command) {
        let (counter, owner) = self.counter(command);
        owner.add(&counter.rejected, 1);
    }

    /// Counts an error by its code.
    pub fn error(&self, code: &str) {
        let errors = &mut *lock(&self.errors);
        let code = if errors.len() >= CODES_MAX && !errors.contains_key(code) { "OTHER" } else { code };
        *errors.entry(code.to_owned()).or_default() += 1;
    }

    /// How often each code of an error was answered.
    pub fn errors(&self) -> Vec<(String, u64)> {
        lock(&self.errors).iter().map(|(code, count)| (code.clone(), *count)).collect()
    }

    /// What is known of a command, over all threads.
    #[must_use]
    pub fn of(&self, command: &Command) -> Figures {
        // Locked first, so that what is taken off was counted before.
        let forgotten = lock(&self.forgotten);
        let mut out = self.of_all_time(command.id);
        if let Some(forgotten) = forgotten.get(command.id) {
            out.calls -= forgotten.calls;
            out.took_ns -= forgotten.took_ns;
            out.rejected -= forgotten.rejected;
            out.failed -= forgotten.failed;
            out.latencies
                .iter_mut()
                .zip(&forgotten.latencies)
                .for_each(|(count, forgotten)| *count -= forgotten);
        }
        out
    }

    fn of_all_time(&self, command: usize) -> Figures {
        let mut out = Figures::default();
        for counter in self.sets.iter().filter_map(OnceLock::get).map(|set| &set[command]) {
            out.calls += counter.calls.load(Ordering::Relaxed);
            out.took_ns += counter.took_ns.load(Ordering::Relaxed);
            out.rejected += counter.rejected.load(Ordering::Relaxed);
            out.failed += counter.failed.load(Ordering::Relaxed);
            if let Some(latencies) = counter.latencies.get() {
                latencies.add_to(&mut out.latencies);
            }
        }
        out
    }

    /// Forgets all counts, as CONFIG RESETSTAT asks; the slow log and the events stay.
    pub fn reset(&self) {
        let mut forgotten = lock(&self.forgotten);
        *forgotten = (0..table::count()).map(|command| self.of_all_time(command)).collect();
        lock(&self.errors).clear();
    }

    /// Whether a command that took so long is to be told to [`Measured::long`].
    #[must_use]
    pub fn is_long(&self, took_ns: u64) -> bool {
        self.is_slow(took_ns) || self.is_event(took_ns)
    }

    fn is_slow(&self, took_ns: u64) -> bool {
        u64::try_from(self.slow_us.load(Ordering::Relaxed)).is_ok_and(|slow_us| took_ns / 1000 >= slow_us)
    }

    fn is_event(&self, took_ns: u64) -> bool {
        let event_ms = self.event_ms.load(Ordering::Relaxed);
        event_ms > 0 && took_ns / 1_000_000 >= event_ms
    }

    /// Keeps what is to be kept of a command that took long. `client` is its address and name.
    pub fn long(
        &self,
        command: &Command,
        args: &[&[u8]],
        took_ns: u64,
        at_s: u64,
        client: impl FnOnce() -> (String, String),
    ) {
        if self.is_event(took_ns) {
            let name = if command.flags.has(Flags::FAST) { "fast-command" } else { "command" };
            self.event(name, at_s, took_ns / 1_000_000);
        }
        let kept = self.slow_kept.load(Ordering::Relaxed);
        // EXEC's commands stand for themselves, as in Redis.
        if kept == 0 || !self.is_slow(took_ns) || matches!(command.run, table::Run::Exec) {
            return;
        }
        let id = self.slow_next.fetch_add(1, Ordering::Relaxed);
        let slow = Slow { id, at_s, took_us: took_ns / 1000, args: shortened(args), client: client() };
        let log = &mut *lock(&self.slow);
        log.push_front(slow);
        log.truncate(kept);
    }

    /// The slow log, the newest first.
    #[must_use]
    pub fn slow(&self, count: usize) -> Vec<Slow> {
        lock(&self.slow).iter().take(count).cloned().collect()
    }

    /// How many entries the slow log has.
    #[must_use]
    pub fn slow_len(&self) -> usize {
        lock(&self.slow).len()
    }

    /// Empties the slow log.
    pub fn forget_slow(&self) {
        lock(&self.slow).clear();
    }

    /// Notes that something took long.
    pub fn event(&self, name: &'static str, at_s: u64, took_ms: u64) {
        let events = &mut *lock(&self.events);
        let event = events.entry(name).or_default();
        event.longest_ms = event.longest_ms.max(took_ms);
        match event.samples.back_mut() {
            // One a second, the longest, as in Redis.
            Some((at, ms)) if *at == at_s => *ms = (*ms).max(took_ms),
            _ => event.samples.push_back((at_s, took_ms)),
        }
        if event.samples.len() > SAMPLES_MAX {
            event.samples.pop_front();
        }
    }

    /// The events, by name.
    #[must_use]
    pub fn events(&self) -> Vec<(&'static str, Event)> {
        lock(&self.events).iter().map(|(name, event)| (*name, event.clone())).collect()
    }

    /// Forgets the events of these names, or all if there is none; says how many there were.
    pub fn forget_events(&self, names: &[&[u8]]) -> usize {
        let events = &mut *lock(&self.events);
        let before = events.len();
        events.retain(|event, _| {
            !names.is_empty() && !names.iter().any(|name| name.eq_ignore_ascii_case(event.as_bytes()))
        });
        before - events.len()
    }
}

/// Arguments as the slow log keeps them, in Redis' form.
fn shortened(args: &[&[u8]]) -> Vec<Vec<u8>> {
    let kept = if args.len() > ARGUMENTS_MAX { ARGUMENTS_MAX - 1 } else { args.len() };
    let mut out: Vec<Vec<u8>> = args[..kept]
        .iter()
        .map(|arg| match arg.len().checked_sub(ARGUMENT_BYTES_MAX) {
            None | Some(0) => arg.to_vec(),
            Some(more) => {
                let mut cut = arg[..ARGUMENT_BYTES_MAX].to_vec();
                cut.extend_from_slice(format!("... ({more} more bytes)").as_bytes());
                cut
            }
        })
        .collect();
    if kept < args.len() {
        out.push(format!("... ({} more arguments)", args.len() - kept).into_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_counted_over_threads_and_forgotten_at_once() {
        let measured = Measured::new(&Settings::default());
        let get = table::find(b"get").expect("there");
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..100).for_each(|_| measured.ran(get, 5000)));
            }
        });
        measured.failed(get);
        measured.error("ERR");
        let figures = measured.of(get);
        assert_eq!((figures.calls, figures.took_ns, figures.failed), (300, 1_500_000, 1));
        assert_eq!(figures.latencies.iter().sum::<u64>(), 300);
        measured.reset();
        assert_eq!(measured.of(get).calls, 0);
        assert!(measured.errors().is_empty());
    }

    #[test]
    fn the_slow_log_keeps_the_newest_and_cuts_them() {
        let settings = Settings { slow_us: 10, slow_kept: 2, latency_event_ms: 1, ..Settings::default() };
        let measured = Measured::new(&settings);
        let get = table::find(b"get").expect("there");
        assert!(!measured.is_long(9_999) && measured.is_long(10_000));
        let long = vec![b'x'; 200];
        let mut args: Vec<&[u8]> = vec![b"get", &long];
        for _ in 0..3 {
            measured.long(get, &args, 2_000_000, 7, || ("a".to_owned(), String::new()));
        }
        let log = measured.slow(10);
        assert_eq!(log.iter().map(|slow| slow.id).collect::<Vec<_>>(), [2, 1]);
        assert!(log[0].args[1].ends_with(b"... (72 more bytes)"));
        args.resize(40, b"y");
        assert_eq!(shortened(&args).len(), 32);
        assert_eq!(shortened(&args)[31], b"... (9 more arguments)");
        let events = measured.events();
        assert_eq!((events[0].0, events[0].1.longest_ms, events[0].1.samples.len()), ("fast-command", 2, 1));
        assert_eq!(measured.forget_events(&[b"nosuch"]), 0);
        assert_eq!(measured.forget_events(&[]), 1);
    }
}
