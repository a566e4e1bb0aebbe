//! Figures of the table that are no load: starts, what empty slots take, memory under more data than fits, one large value.

use std::path::Path;
use std::time::Duration;

use super::Table;
use super::instance::{End, Instance, Product, STANDALONE, Start};
use super::rows::{Measure, Row, single};
use crate::error::{Error, Result};
use crate::plan::Sync;
use crate::process::{self, Sample};

/// Starts of Haypile that are measured on the same data; Redis reads all of its log each time, once is enough.
const RESTARTS: usize = 3;
/// Keys of a restart, for each key of the table.
const RESTART_KEYS: u64 = 10;
/// Haypile's budget where data of four times as much is written: its default.
const BUDGET_BYTES: u64 = 256 << 20;
/// The same for a table of few keys; less would be less than what the program takes by itself.
const BUDGET_BYTES_QUICK: u64 = 64 << 20;
/// A table of fewer keys is a quick one.
const FEW_KEYS: u64 = 1_000_000;
/// Bytes of the large value.
const LARGE_BYTES: usize = 100_000_000;
const MIB: f64 = (1 << 20) as f64;
/// How long an idle server is left alone before its memory is looked at.
const IDLE: Duration = Duration::from_secs(1);

fn fill(pipeline: usize) -> Row {
    Row { name: "", workload: "fillrandom", pipeline, sync: Sync::Everysec, operations_per_thousand: 1000 }
}

fn sample(instance: &Instance) -> Result<Sample> {
    instance.sample().ok_or_else(|| Error::target("look at a server", "its process can't be seen"))
}

/// Fills ten times the table's keys, then stops and starts a few times.
pub fn restart(table: &mut Table, product: &Product) -> Result<()> {
    let start = Start { memory: "1gb", words: STANDALONE };
    let mut instance = Instance::start(product, start, &table.parent)?;
    let keys = table.keys * RESTART_KEYS;
    table.load(&instance, &fill(64), keys, 1)?;
    let name = product.name();
    let restarts = if matches!(product, Product::Haypile(_)) { RESTARTS } else { 1 };
    for _ in 0..restarts {
        let (again, stopping) = instance.restart(End::Asked, start)?;
        instance = again;
        table.say(&format!(
            "{name}: {keys} keys, stopped in {stopping:.2} s, ready in {:.3} s",
            instance.ready_seconds
        ));
        table.figures.put(single::RESTART, Measure::Seconds, name, instance.ready_seconds);
        let row = Row { workload: "get", ..fill(16) };
        let run = table.load(&instance, &row, keys, 1)?;
        if run.found_entries != run.operations {
            let why = format!("{} of {} keys are there", run.found_entries, run.operations);
            return Err(Error::target("read after a restart", why));
        }
    }
    Ok(())
}

/// Fills the table's keys some times over, kills the server before it flushed anything, and starts it.
pub fn recovery(table: &mut Table, product: &Product, repeat: u32) -> Result<()> {
    const KEYS: u64 = 2;
    let start = Start { memory: "4gb", words: STANDALONE };
    let instance = Instance::start(product, start, &table.parent)?;
    let keys = table.keys * KEYS;
    let run = table.load(&instance, &fill(64), keys, repeat)?;
    let mut log_bytes = run.counters.get("log_write_bytes").copied().unwrap_or_default();
    let (instance, _) = instance.restart(End::Killed, start)?;
    let mut seconds = instance.ready_seconds;
    let name = product.name();
    if let Some((took, bytes)) = recovered(&instance.output()) {
        (seconds, log_bytes) = (took, bytes);
    }
    let rate = log_bytes / seconds / 1e6;
    table.say(&format!("{name}: {:.0} MB of log after kill -9, {seconds:.3} s", log_bytes / 1e6));
    table.figures.put(single::RECOVERY, Measure::MegabytesPerSecond, name, rate);
    table.figures.put(single::RECOVERY, Measure::Seconds, name, instance.ready_seconds);
    Ok(())
}

/// Seconds and bytes of log in Haypile's first line.
fn recovered(output: &str) -> Option<(f64, f64)> {
    let line = output.lines().find(|line| line.starts_with("haypile listens"))?;
    let number = |after: &str| line.split_once(after)?.1.split_whitespace().next()?.parse().ok();
    Some((number("recovered in ")?, number("records from ")?))
}

/// A node with all slots and no key, over one with none.
pub fn slots(table: &mut Table, product: &Product) -> Result<()> {
    let look = |slots: &str| -> Result<(Sample, usize, usize)> {
        let start = Start { memory: "256mb", words: &["--slots", slots] };
        let instance = Instance::start(product, start, &table.parent)?;
        std::thread::sleep(IDLE);
        let folder = instance.access.folder.clone().unwrap_or_default();
        let threads = instance.access.process.and_then(process::thread_count).unwrap_or_default();
        Ok((sample(&instance)?, process::file_count(&folder), threads))
    };
    let (without, files_without, threads_without) = look("none")?;
    let (with, files, threads) = look("all")?;
    let more = with.rss_bytes.saturating_sub(without.rss_bytes) as f64 / MIB;
    let name = product.name();
    table.say(&format!(
        "{name}: {more:.1} MiB, {} files, {} threads for 1024 empty slots, over {:.1} MiB, {files_without}, {threads_without}",
        files - files_without.min(files),
        threads - threads_without.min(threads),
        without.rss_bytes as f64 / MIB
    ));
    table.figures.put(single::SLOTS, Measure::MemoryMib, name, more);
    table.figures.put(single::SLOTS, Measure::Files, name, files.saturating_sub(files_without) as f64);
    table.figures.put(single::SLOTS, Measure::Threads, name, threads.saturating_sub(threads_without) as f64);
    Ok(())
}

/// Writes and reads data of four times the budget.
pub fn memory(table: &mut Table, product: &Product) -> Result<()> {
    let budget = if table.keys < FEW_KEYS { BUDGET_BYTES_QUICK } else { BUDGET_BYTES };
    let memory = budget.to_string();
    let instance = Instance::start(product, Start { memory: &memory, words: STANDALONE }, &table.parent)?;
    // A key with its value is about 116 bytes.
    let keys = 4 * budget / 116;
    let mut most = 0;
    for (workload, label, part) in [("fillrandom", "fill", 1), ("set", "SET", 4), ("get", "GET", 8)] {
        let row = Row { workload, ..fill(16) };
        let mut run = table.load_of(&instance, &row, keys, keys / part, 1, 100)?;
        most = most.max(run.outside.as_ref().map_or(0, |outside| outside.rss_peak_bytes));
        table.say(&format!(
            "{}: {label}: {:.0} k/s, slowest {:.0} ms, most memory {:.0} MiB of {:.0}",
            product.name(),
            run.operations_per_second / 1e3,
            run.latency.max_ns as f64 / 1e6,
            most as f64 / MIB,
            budget as f64 / MIB
        ));
        run.label = Some(format!("{}, {label}", single::MEMORY));
        table.keep(run)?;
    }
    table.figures.put(single::MEMORY, Measure::MemoryShare, product.name(), most as f64 / budget as f64);
    Ok(())
}

/// What one large value takes beside itself.
pub fn large(table: &mut Table, product: &Product) -> Result<()> {
    let instance = Instance::start(product, Start { memory: "1gb", words: STANDALONE }, &table.parent)?;
    let before = sample(&instance)?;
    instance.ask(&["SET", "large", &"x".repeat(LARGE_BYTES)])?;
    let after = sample(&instance)?;
    let more = after.rss_peak_bytes.saturating_sub(before.rss_bytes) as f64 / MIB;
    table.say(&format!(
        "{}: {more:.0} MiB at most for a value of {:.0} MiB",
        product.name(),
        LARGE_BYTES as f64 / MIB
    ));
    table.figures.put(single::LARGE, Measure::MemoryMib, product.name(), more);
    Ok(())
}

/// Whether there is such a program.
pub fn find_program(name: &Path) -> bool {
    std::process::Command::new(name)
        .arg("--version")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_line_tells_how_much_was_replayed_in_which_time() {
        let line = "haypile listens at 127.0.0.1:1, 1024 slots; recovered in 0.125 s (after an unclean stop): replayed 7 \
                    records from 4096 bytes of log";
        assert_eq!(recovered(line), Some((0.125, 4096.0)));
        assert_eq!(recovered("something else"), None);
    }
}
