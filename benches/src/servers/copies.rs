//! Figures of two nodes, one of which follows the other: copies of slots, what they cost other slots' requests, how far a
//! replica is behind, writes that are held while a slot changes hands.
//!
//! Generator, master and replica share the machine's cores.

use std::io::{Read as _, Seek as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use haypile_engine::clock::SystemClock;
use haypile_engine::random::Coin;

use super::Table;
use super::instance::{Instance, Product, STANDALONE, Start};
use super::rows::{Measure, Row, copies};
use crate::error::{Error, Result};
use crate::lane::{self, Moment};
use crate::load::values::Sizes;
use crate::plan::{Asked, Settle, Sync};
use crate::target::Target as _;
use crate::targets::resp::{Control, RespTarget};

/// Slots that are copied.
const SLOTS: u16 = 8;
/// Bytes of a value of them.
const VALUE_BYTES: usize = 2000;
/// Of a file that is copied, what is read and sent at once.
const PIECE_BYTES: usize = 1 << 20;
/// How often latencies are probed.
const PROBE_EVERY: Duration = Duration::from_millis(1);
/// How often it is looked whether a replica has what was written.
const LOOK_EVERY: Duration = Duration::from_micros(100);
/// How often it is looked whether a replica has caught up.
const OFFSET_EVERY: Duration = Duration::from_millis(5);
/// How often it is looked whether a replica follows with all slots.
const FOLLOWS_EVERY: Duration = Duration::from_millis(20);
/// For how long latencies are probed before anything happens.
const PROBE_SECONDS: u64 = 4;
/// For how long a replica is to keep up with half of the full rate.
const HALF_SECONDS: f64 = 10.0;
/// How long anything may take.
const PATIENCE_SECONDS: u64 = 120;
/// A slot changes hands so often.
const HANDOVERS: usize = 30;
/// Writes a second meanwhile, and how many leave at once.
const WRITES_A_SECOND: u64 = 20_000;
const WRITES_AT_ONCE: u64 = 20;

const ALL_SLOTS: Start<'static> = Start { memory: "1gb", words: &["--slots", "all"] };
/// What is copied has to be in files: what is in memory only comes by the log.
const IN_FILES: Start<'static> = Start { memory: "64mb", words: &["--slots", "all"] };

fn target(doing: &'static str, why: impl std::fmt::Display) -> Error {
    Error::target(doing, why)
}

/// All of them; how far a replica is behind of each product, Haypile being the first.
pub fn measure(table: &mut Table, products: &[Product], repeat: u32) -> Result<()> {
    let haypile = &products[0];
    copy(table, haypile, repeat)?;
    attach(table, haypile)?;
    for turn in 0..products.len() {
        // Another is first each time.
        follow(table, &products[(turn + repeat as usize) % products.len()], repeat)?;
    }
    hand_over(table, haypile)
}

fn follow_all(replica: &Instance, master: &Instance) -> Result<()> {
    let (host, port) = master.access.address.split_once(':').unwrap_or_default();
    replica.ask(&["PKCLUSTER", "SLOTSSLAVEOF", host, port, "0-1023"]).map(drop)
}

/// Waits until a node gets the records of all slots, each of which is whole.
fn wait_until_all_follow(replica: &Instance) -> Result<()> {
    let clock = SystemClock::new();
    let begun = lane::now(&clock);
    while replica.ask(&["PKCLUSTER", "INFO", "SLOT", "0-1023"])?.matches("kConnected").count() < 1024 {
        if lane::now(&clock).since(begun) > PATIENCE_SECONDS * 1_000_000_000 {
            return Err(target("wait for a replica", "it does not follow with all slots"));
        }
        std::thread::sleep(FOLLOWS_EVERY);
    }
    Ok(())
}

/// Copies some slots, and as many bytes as a file; asks another slot meanwhile.
fn copy(table: &mut Table, product: &Product, repeat: u32) -> Result<()> {
    let master = Instance::start(product, IN_FILES, &table.parent)?;
    let keys = table.keys * 2 / 5;
    let asked = Asked {
        keys,
        value: Some(Sizes::Fixed(VALUE_BYTES)),
        // As it is on the disk: what could be compressed is.
        ratio: 1.0,
        slots: Some(SLOTS),
        seed: u64::from(repeat),
        sync: Sync::Everysec,
        settle: Settle::Flush,
        ..Asked::default()
    };
    table.load_as(&master, "fillrandom", "slots to copy", repeat, &asked)?;
    RespTarget::open(master.access.clone(), false)?.settle(Settle::Flush)?;
    let replica = Instance::start(product, IN_FILES, &table.parent)?;
    let clock = SystemClock::new();
    let before = probed(&clock, &master, || {
        std::thread::sleep(Duration::from_secs(PROBE_SECONDS));
        Ok(())
    })?;
    let begun = lane::now(&clock);
    let mut seconds = 0.0;
    let during = probed(&clock, &master, || {
        follow_all(&replica, &master)?;
        wait_until_all_follow(&replica)?;
        caught_up(&clock, &master, &replica)?;
        seconds = lane::now(&clock).since(begun) as f64 / 1e9;
        Ok(())
    })?;
    let bytes = keys * VALUE_BYTES as u64;
    let rate = bytes as f64 / 1e6 / seconds;
    let mut plain = 0.0;
    let beside_plain = probed(&clock, &master, || {
        plain = plain_copy(&clock, bytes, &table.parent)?;
        Ok(())
    })?;
    let (before, during, beside_plain) = (p99_ms(before), p99_ms(during), p99_ms(beside_plain));
    let name = product.name();
    table.say(&format!(
        "{name}: {:.0} MB of {SLOTS} slots copied in {seconds:.2} s, {rate:.0} MB/s, a file {plain:.0} MB/s; p99 of another \
         slot {before:.2} ms, during it {during:.2} ms, while the file is copied {beside_plain:.2} ms",
        bytes as f64 / 1e6
    ));
    table.figures.put(copies::COPY, Measure::MegabytesPerSecond, name, rate);
    table.figures.put(copies::COPY, Measure::OfPlain, name, rate / plain);
    table.figures.put(copies::OTHERS, Measure::P99Ms, name, during);
    table.figures.put(copies::OTHERS, Measure::OfBefore, name, during / before);
    table.figures.put(copies::BESIDE_FILE, Measure::P99Ms, name, beside_plain);
    Ok(())
}

/// Does something while another thread asks a slot without pause; how long each answer took, in nanoseconds.
fn probed(clock: &SystemClock, server: &Instance, during: impl FnOnce() -> Result<()>) -> Result<Vec<u64>> {
    let over = AtomicBool::new(false);
    let mut control = Control::open(&server.access)?;
    std::thread::scope(|scope| {
        let prober = scope.spawn(|| -> Result<Vec<u64>> {
            let mut took = Vec::new();
            while !over.load(Ordering::Acquire) {
                let sent = lane::now(clock);
                control.ask(&[b"SET", b"{another}", b"value"])?;
                took.push(lane::now(clock).since(sent));
                std::thread::sleep(PROBE_EVERY);
            }
            Ok(took)
        });
        let done = during();
        over.store(true, Ordering::Release);
        let took = prober.join().map_err(|_| target("probe", "it panicked"))?;
        done.and(took)
    })
}

fn p99_ms(mut nanoseconds: Vec<u64>) -> f64 {
    nanoseconds.sort_unstable();
    let at = nanoseconds.len().saturating_sub(1) * 99 / 100;
    nanoseconds.get(at).copied().unwrap_or_default() as f64 / 1e6
}

/// Sends a file over a socket into a file that is synced: million bytes a second.
fn plain_copy(clock: &SystemClock, bytes: u64, parent: &std::path::Path) -> Result<f64> {
    let file = || tempfile::tempfile_in(parent).map_err(|error| Error::file(parent, error));
    let (mut from, mut to) = (file()?, file()?);
    let mut coin = Coin::new(1);
    let piece: Vec<u8> = (0..PIECE_BYTES / 8).flat_map(|_| coin.next_u64().to_le_bytes()).collect();
    let pieces = bytes.div_ceil(PIECE_BYTES as u64);
    (0..pieces).try_for_each(|_| from.write_all(&piece))?;
    from.rewind()?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let begun = lane::now(clock);
    std::thread::scope(|scope| -> Result<()> {
        let receiver = scope.spawn(move || -> std::io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            let mut piece = vec![0; PIECE_BYTES];
            loop {
                match stream.read(&mut piece)? {
                    0 => return to.sync_all(),
                    got => to.write_all(&piece[..got])?,
                }
            }
        });
        let mut stream = TcpStream::connect(address)?;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match from.read(&mut piece)? {
                0 => break,
                got => stream.write_all(&piece[..got])?,
            }
        }
        drop(stream);
        receiver.join().map_err(|_| target("receive a file", "it panicked"))??;
        Ok(())
    })?;
    Ok((pieces * PIECE_BYTES as u64) as f64 / 1e6 / (lane::now(clock).since(begun) as f64 / 1e9))
}

/// Attaches all slots, empty, in one command.
fn attach(table: &mut Table, product: &Product) -> Result<()> {
    let master = Instance::start(product, ALL_SLOTS, &table.parent)?;
    let replica = Instance::start(product, ALL_SLOTS, &table.parent)?;
    let clock = SystemClock::new();
    let begun = lane::now(&clock);
    follow_all(&replica, &master)?;
    wait_until_all_follow(&replica)?;
    let seconds = lane::now(&clock).since(begun) as f64 / 1e9;
    table.say(&format!("{}: 1024 empty slots follow after {seconds:.2} s", product.name()));
    table.figures.put(copies::ATTACH, Measure::Seconds, product.name(), seconds);
    Ok(())
}

/// Writes as fast as it goes, until the replica has all; then half as fast, while it is looked how late the replica has it.
fn follow(table: &mut Table, product: &Product, repeat: u32) -> Result<()> {
    let start = Start { words: STANDALONE, ..ALL_SLOTS };
    let master = Instance::start(product, start, &table.parent)?;
    let replica = Instance::start(product, start, &table.parent)?;
    super::attach(&replica, &master)?;
    let row = Row { name: "a burst at the full rate", ..super::rows::ROWS[0] };
    table.load(&master, &row, table.keys, repeat)?;
    caught_up(&SystemClock::new(), &master, &replica)?;
    let full = table.load(&master, &row, table.keys, repeat)?;
    let clock = SystemClock::new();
    let behind = caught_up(&clock, &master, &replica)?;
    let rate = full.operations_per_second / 2.0;
    let asked = Asked {
        keys: table.keys,
        seconds: Some(HALF_SECONDS),
        rate: Some(rate),
        value: Some(Sizes::Fixed(super::VALUE_BYTES)),
        seed: u64::from(repeat),
        sync: Sync::Everysec,
        settle: Settle::None,
        ..Asked::default()
    };
    let over = AtomicBool::new(false);
    let mut lags = std::thread::scope(|scope| {
        let prober = scope.spawn(|| lags(&clock, &master, &replica, &over));
        let loaded = table.load_as(&master, "set", "half of the full rate", repeat, &asked);
        over.store(true, Ordering::Release);
        let lags = prober.join().map_err(|_| target("probe", "it panicked"))?;
        loaded.and(lags)
    })?;
    let left = caught_up(&clock, &master, &replica)?;
    lags.sort_unstable();
    let (most, lag) = (lags.last().copied().unwrap_or_default() as f64 / 1e6, p99_ms(lags));
    let name = product.name();
    table.say(&format!(
        "{name}: {:.0} k/s at most with a replica, which has all {behind:.3} s later; at half of that it is {lag:.2} ms late (p99, \
         {most:.1} at most) and has all {left:.3} s after the end",
        full.operations_per_second / 1e3
    ));
    table.figures.put(copies::BURST, Measure::Seconds, name, behind);
    table.figures.put(copies::HALF, Measure::Seconds, name, left);
    table.figures.put(copies::HALF, Measure::P99Ms, name, lag);
    Ok(())
}

/// Waits until a replica has every record of its master, and says how long that took, in seconds.
fn caught_up(clock: &SystemClock, master: &Instance, replica: &Instance) -> Result<f64> {
    let begun = lane::now(clock);
    let offset = |of: &Instance, name: &str| -> Result<Option<u64>> {
        Ok(of.info(name)?.and_then(|text| text.parse().ok()))
    };
    let wanted =
        offset(master, "master_repl_offset")?.ok_or_else(|| target("ask for an offset", "there is none"))?;
    loop {
        let took = lane::now(clock).since(begun);
        if offset(replica, "slave_repl_offset")? >= Some(wanted) {
            return Ok(took as f64 / 1e9);
        }
        if took > PATIENCE_SECONDS * 1_000_000_000 {
            return Err(target("wait for a replica", "it does not catch up"));
        }
        std::thread::sleep(OFFSET_EVERY);
    }
}

/// How long after a write's answer the replica has it, again and again, in nanoseconds.
fn lags(clock: &SystemClock, master: &Instance, replica: &Instance, over: &AtomicBool) -> Result<Vec<u64>> {
    let (mut writer, mut reader) = (Control::open(&master.access)?, Control::open(&replica.access)?);
    let mut lags = Vec::new();
    while !over.load(Ordering::Acquire) {
        let value = lags.len().to_string();
        writer.ask(&[b"SET", b"{lag}", value.as_bytes()])?;
        let written = lane::now(clock);
        while reader.ask(&[b"GET", b"{lag}"])?.as_deref() != Some(&*value) {
            if lane::now(clock).since(written) > PATIENCE_SECONDS * 1_000_000_000 {
                return Err(target("wait for a replica", "a write does not come"));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        lags.push(lane::now(clock).since(written));
        std::thread::sleep(PROBE_EVERY);
    }
    Ok(lags)
}

/// A slot goes to and fro between two nodes while clients write to it, which go where it is.
fn hand_over(table: &mut Table, product: &Product) -> Result<()> {
    let nodes = [
        Instance::start(product, ALL_SLOTS, &table.parent)?,
        Instance::start(product, ALL_SLOTS, &table.parent)?,
    ];
    follow_all(&nodes[1], &nodes[0])?;
    wait_until_all_follow(&nodes[1])?;
    let (clock, over) = (SystemClock::new(), AtomicBool::new(false));
    let (batches, spans) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_steadily(&clock, &nodes, &over));
        let done = (0..HANDOVERS).map(|turn| hand_to(&clock, &nodes, turn)).collect::<Result<Vec<_>>>();
        over.store(true, Ordering::Release);
        let batches = writer.join().map_err(|_| target("write", "it panicked"))?;
        Ok::<_, Error>((batches?, done?))
    })?;
    // The longest that any write took of those that were due while the slot changed hands.
    let held = spans.iter().map(|&(from, to)| {
        let within = batches.iter().filter(|batch| batch.due.0 + batch.took >= from.0 && batch.due.0 <= to.0);
        within.map(|batch| batch.took).max().unwrap_or_default()
    });
    let held: Vec<u64> = held.collect();
    let (median, worst) = (median_ms(held.clone()), p99_ms(held));
    let usual = p99_ms(batches.iter().map(|batch| batch.took).collect());
    table.say(&format!(
        "{}: {HANDOVERS} handovers of a slot that takes {WRITES_A_SECOND} writes a second: {median:.1} ms held (median), {worst:.1} \
         (p99); p99 of all writes {usual:.2} ms",
        product.name()
    ));
    table.figures.put(copies::HANDOVER, Measure::P99Ms, product.name(), worst);
    Ok(())
}

fn median_ms(mut nanoseconds: Vec<u64>) -> f64 {
    nanoseconds.sort_unstable();
    nanoseconds.get(nanoseconds.len() / 2).copied().unwrap_or_default() as f64 / 1e6
}

/// The slot that changes hands, and a key of it.
const SLOT: &str = "579";
const KEY: &[u8] = b"{a}";

/// The owner hands the slot over and follows. When that was.
fn hand_to(clock: &SystemClock, nodes: &[Instance; 2], turn: usize) -> Result<(Moment, Moment)> {
    let (owner, next) = (&nodes[turn % 2], &nodes[(turn + 1) % 2]);
    let begun = lane::now(clock);
    loop {
        let linked = next.ask(&["PKCLUSTER", "INFO", "SLOT", SLOT])?;
        if linked.contains("kConnected") {
            break;
        }
        if lane::now(clock).since(begun) > PATIENCE_SECONDS * 1_000_000_000 {
            return Err(target("wait for a replica", linked));
        }
        std::thread::sleep(OFFSET_EVERY);
    }
    let (host, port) = next.access.address.split_once(':').unwrap_or_default();
    let begun = lane::now(clock);
    owner.ask(&["PKCLUSTER", "HANDOVER", host, port, SLOT, "THEN", "FOLLOW"])?;
    let done = lane::now(clock);
    std::thread::sleep(Duration::from_millis(100));
    Ok((begun, done))
}

/// Some writes that were due at once.
struct Batch {
    due: Moment,
    /// Until all were answered well, in nanoseconds.
    took: u64,
}

/// Writes at an even rate to whoever takes writes.
fn write_steadily(clock: &SystemClock, nodes: &[Instance; 2], over: &AtomicBool) -> Result<Vec<Batch>> {
    let mut controls = [Control::open(&nodes[0].access)?, Control::open(&nodes[1].access)?];
    let every = 1_000_000_000 / (WRITES_A_SECOND / WRITES_AT_ONCE);
    let words: &[&[u8]] = &[b"SET", KEY, b"value of twenty bytes"];
    let (mut owner, mut due, mut batches) = (0, lane::now(clock), Vec::new());
    while !over.load(Ordering::Acquire) {
        let early = due.since(lane::now(clock));
        if early > 0 {
            std::thread::sleep(Duration::from_nanos(early));
        }
        let mut left = usize::try_from(WRITES_AT_ONCE).expect("few");
        loop {
            left -= controls[owner].ask_often(words, left)?;
            if left == 0 {
                break;
            }
            owner = 1 - owner;
            std::thread::sleep(LOOK_EVERY);
        }
        batches.push(Batch { due, took: lane::now(clock).since(due) });
        due = due.plus(every);
    }
    Ok(batches)
}
