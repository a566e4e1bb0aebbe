//! Large collections: a hash, a set, a sorted set, a list and a stream of ten elements for each key of the table, in the default
//! budget, which they outgrow. Each command on them beside the same on one of ten thousand; all of one read at once, and
//! what others feel meanwhile; and its end.

use std::sync::atomic::{AtomicBool, Ordering};

use haypile_engine::clock::SystemClock;
use haypile_engine::random::Coin;

use super::Table;
use super::instance::{Instance, Product, STANDALONE, Start};
use super::rows::{COLLECTIONS, Collection, Measure};
use crate::error::{Error, Result};
use crate::lane;
use crate::targets::resp::{Control, Pipelines, request};

/// Elements of one that is small beside the other.
const FEW: u64 = 10_000;
/// Elements of a large one, for each key of the table.
const ELEMENTS_PER_KEY: u64 = 10;
/// Elements that one command brings.
const AT_ONCE: u64 = 50;
/// How often a command is asked, one after the other.
const CALLS: usize = 300;
/// Haypile's budget: its default.
const BUDGET_BYTES: u64 = 256 << 20;
/// A key in another slot than all collections.
const OTHER: &str = "other";
const MIB: f64 = (1 << 20) as f64;

/// Measures all kinds of collections, each on a server of its own.
pub fn measure(table: &mut Table, product: &Product, filter: &str) -> Result<()> {
    for kind in COLLECTIONS.iter().filter(|kind| kind.name.contains(filter)) {
        let memory = BUDGET_BYTES.to_string();
        let instance = Instance::start(product, Start { memory: &memory, words: STANDALONE }, &table.parent)?;
        instance.ask(&["SET", OTHER, "x"])?;
        one(table, &instance, kind)?;
    }
    Ok(())
}

fn one(table: &mut Table, instance: &Instance, kind: &Collection) -> Result<()> {
    let clock = SystemClock::new();
    let many = table.keys * ELEMENTS_PER_KEY;
    let began = lane::now(&clock);
    fill(instance, kind, "few", FEW)?;
    fill(instance, kind, "many", many)?;
    let filled = lane::now(&clock).since(began) as f64 / 1e9;
    table.say(&format!("{}: {many} elements in {filled:.1} s", kind.name));
    for command in kind.commands {
        let few = median_us(instance, &clock, command, "few", FEW)?;
        let us = median_us(instance, &clock, command, "many", many)?;
        let row = format!(
            "{}: {}",
            kind.name,
            command.replace(" {c}", "").replace("{e+9}", "j").replace("{e}", "i").replace("{n}", "n")
        );
        table.say(&format!("{row}: {us:.0} us, {few:.0} us of {FEW}"));
        table.figures.put(&row, Measure::Us, instance.product.name(), us);
        table.figures.put(&row, Measure::UsOfFew, instance.product.name(), few);
    }
    whole(table, instance, kind, &clock)?;
    let (few, us) = (end_us(instance, &clock, "few")?, end_us(instance, &clock, "many")?);
    let row = format!("{}: DEL", kind.name);
    table.say(&format!("{row}: {us:.0} us, {few:.0} us of {FEW}"));
    table.figures.put(&row, Measure::Us, instance.product.name(), us);
    table.figures.put(&row, Measure::UsOfFew, instance.product.name(), few);
    let peak = instance.sample().map_or(0, |sample| sample.rss_peak_bytes);
    let share = peak as f64 / BUDGET_BYTES as f64;
    table.say(&format!("{}: most memory {:.0} MiB", kind.name, peak as f64 / MIB));
    table.figures.put(kind.name, Measure::MemoryShare, instance.product.name(), share);
    Ok(())
}

/// Gives a collection elements 0 to `elements`, in an order by chance where it has one of its own.
fn fill(instance: &Instance, kind: &Collection, key: &str, elements: u64) -> Result<()> {
    let mut lines = Pipelines::open(&instance.access, 1, 64)?;
    let each = if kind.alone { 1 } else { AT_ONCE };
    let mut coin = Coin::new(elements);
    let mut next = 0;
    lines.run(elements.div_ceil(each), |out| {
        let mut words: Vec<Vec<u8>> = vec![kind.add.as_bytes().to_vec(), key.as_bytes().to_vec()];
        for element in next..(next + each).min(elements) {
            for word in kind.element.split(' ') {
                let mut score = || (coin.next_u64() % elements).to_string();
                let word = if word == "{s}" { score() } else { word.replace("{n}", &element.to_string()) };
                words.push(word.into_bytes());
            }
        }
        next += each;
        let words: Vec<&[u8]> = words.iter().map(|word| &word[..]).collect();
        request(out, &words);
        1
    })
}

/// How long a command takes on a collection, a client's way there and back included: the median of some hundred.
fn median_us(
    instance: &Instance,
    clock: &SystemClock,
    command: &str,
    key: &str,
    elements: u64,
) -> Result<f64> {
    let mut control = Control::open(&instance.access)?;
    let mut coin = Coin::new(1);
    let mut took = Vec::with_capacity(CALLS);
    for call in 0..CALLS {
        let element = coin.next_u64() % (elements - elements / 10);
        let word = |word: &str| {
            let word = word.replace("{c}", key).replace("{n}", &call.to_string());
            let word = word.replace("{e+9}", &(element + 9).to_string());
            word.replace("{e}", &element.to_string())
        };
        let words: Vec<String> = command.split(' ').map(word).collect();
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let began = lane::now(clock);
        control.ask(&words)?;
        took.push(lane::now(clock).since(began));
    }
    took.sort_unstable();
    Ok(took[CALLS / 2] as f64 / 1e3)
}

fn end_us(instance: &Instance, clock: &SystemClock, key: &str) -> Result<f64> {
    let began = lane::now(clock);
    instance.ask(&["DEL", key])?;
    Ok(lane::now(clock).since(began) as f64 / 1e3)
}

/// Reads all of a large collection in one command, while others ask for a key in another slot.
fn whole(table: &mut Table, instance: &Instance, kind: &Collection, clock: &SystemClock) -> Result<()> {
    let before = others(instance, clock, || Ok(()))?.0;
    let words: Vec<String> = kind.whole.split(' ').map(|word| word.replace("{c}", "many")).collect();
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let mut memory = instance.sample().map_or(0, |sample| sample.rss_bytes);
    let (during, (seconds, strings, peak)) = others(instance, clock, || {
        let mut control = Control::open(&instance.access)?;
        let began = lane::now(clock);
        let (strings, _) = control.drain(&words)?;
        let seconds = lane::now(clock).since(began) as f64 / 1e9;
        let peak = instance.sample().map_or(0, |sample| sample.rss_peak_bytes);
        Ok((seconds, strings, peak))
    })?;
    memory = peak.saturating_sub(memory);
    let (name, row) = (instance.product.name(), format!("{}: {}", kind.name, kind.whole.replace(" {c}", "")));
    table.say(&format!(
        "{row}: {strings} strings in {seconds:.2} s, {:.0} MiB more at most; GET of another slot p99 {:.2} ms, {:.2} ms before",
        memory as f64 / MIB,
        during / 1e6,
        before / 1e6
    ));
    table.figures.put(&row, Measure::Seconds, name, seconds);
    table.figures.put(&row, Measure::P99Ms, name, during / 1e6);
    table.figures.put(&row, Measure::OfBefore, name, during / before);
    Ok(())
}

/// The 99th percentile, in nanoseconds, of requests to another slot while something is done, and for a second at least.
fn others<T: Send>(
    instance: &Instance,
    clock: &SystemClock,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<(f64, T)> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut control = Control::open(&instance.access)?;
            let begun = lane::now(clock);
            let mut took = Vec::new();
            while !done.load(Ordering::Relaxed) || lane::now(clock).since(begun) < 1_000_000_000 {
                let began = lane::now(clock);
                control.ask(&[b"GET", OTHER.as_bytes()])?;
                took.push(lane::now(clock).since(began));
            }
            took.sort_unstable();
            Ok::<f64, Error>(took[took.len() * 99 / 100] as f64)
        });
        let worked = work();
        done.store(true, Ordering::Relaxed);
        let asked = asking.join().map_err(|_| Error::target("ask for another slot", "it panicked"))??;
        Ok((asked, worked?))
    })
}
