//! What the table of servers has: its loads, and the goals that its figures are held against.

use crate::plan::Sync;

/// A load of some connections on a server that has data.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What it is called.
    pub name: &'static str,
    /// The workload.
    pub workload: &'static str,
    /// Requests under way on each connection.
    pub pipeline: usize,
    /// When writes are answered.
    pub sync: Sync,
    /// Operations, for each thousand keys of the table.
    pub operations_per_thousand: u64,
}

const fn row(name: &'static str, workload: &'static str, pipeline: usize, per_thousand: u64) -> Row {
    Row { name, workload, pipeline, sync: Sync::Everysec, operations_per_thousand: per_thousand }
}

/// One after the other, on the same data.
pub const ROWS: &[Row] = &[
    row("SET, pipeline 16", "set", 16, 1000),
    row("GET, pipeline 16", "get", 16, 1000),
    row("INCR, pipeline 16", "incr", 16, 1000),
    row("LPUSH, pipeline 16", "lpush", 16, 1000),
    row("HSET, pipeline 16", "hset-small", 16, 1000),
    row("HSET in large hashes, pipeline 16", "hset-large", 16, 1000),
    row("ZADD, pipeline 16", "zadd", 16, 1000),
    row("SET, pipeline 1", "set", 1, 200),
    row("GET, pipeline 1", "get", 1, 200),
    row("INCR, pipeline 1", "incr", 1, 200),
    row("LPUSH, pipeline 1", "lpush", 1, 200),
    row("HSET, pipeline 1", "hset-small", 1, 200),
    row("ZADD, pipeline 1", "zadd", 1, 200),
    Row { sync: Sync::Always, ..row("SET synced each, pipeline 1", "set", 1, 100) },
    Row { sync: Sync::Always, ..row("SET synced each, pipeline 16", "set", 16, 500) },
    row(PROXY, "codis", 1, 1000),
];

/// One connection.
pub const PROXY: &str = "one deep connection, SET and GET";

/// Those that are run once more without a replica and then with one.
pub const REPLICATED: &[Row] = &[
    row("SET, with a replica", "set", 16, 1000),
    row("INCR, with a replica", "incr", 16, 1000),
    row("HSET, with a replica", "hset-small", 16, 1000),
];

/// Figures that are measured by themselves.
pub mod single {
    /// A stop, and a start that finds all in order.
    pub const RESTART: &str = "clean restart";
    /// A start after `kill -9` with nothing flushed.
    pub const RECOVERY: &str = "recovery of the log";
    /// A node with all slots and no key, over one without slots.
    pub const SLOTS: &str = "1024 empty slots";
    /// More data than memory.
    pub const MEMORY: &str = "4 x the budget";
    /// One SET.
    pub const LARGE: &str = "SET of 100 MB";
}

/// Figures of a node and its replica.
pub mod copies {
    /// Slots with data, to a node that has nothing.
    pub const COPY: &str = "copy of slots";
    /// Requests to a slot that is not copied, meanwhile.
    pub const OTHERS: &str = "another slot during a copy";
    /// The same requests while a file is copied instead, by neither node: what the machine makes of two busy threads.
    pub const BESIDE_FILE: &str = "another slot during a copy of a file";
    /// All slots without keys, in one command.
    pub const ATTACH: &str = "1024 slots attached";
    /// After writes as fast as they go: until the replica has all.
    pub const BURST: &str = "replica after a burst";
    /// Half as many writes as at most: how late the replica has each, and after the end until it has all.
    pub const HALF: &str = "replica at half of the full rate";
    /// A slot under 20,000 writes a second: the longest that one took, of each time.
    pub const HANDOVER: &str = "writes held at a handover";
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Measure {
    /// Operations a second.
    Rate,
    /// CPU microseconds of one, background work included.
    Cpu,
    /// Bytes that the server wrote to its log for one.
    LogBytes,
    /// Bytes that went to the device for one, preparation of files and background work included.
    DeviceBytes,
    /// The 99th percentile, in milliseconds.
    P99Ms,
    /// CPU with a replica through CPU without, in the same repetition.
    CpuRatio,
    /// Bytes that its log and its background work wrote for one with a replica, through the same without.
    BytesRatio,
    /// Seconds.
    Seconds,
    /// A million bytes a second.
    MegabytesPerSecond,
    /// MiB of memory.
    MemoryMib,
    /// Files.
    Files,
    /// Threads.
    Threads,
    /// Most memory through the budget.
    MemoryShare,
    /// Through a copy of as many bytes, over a socket, from a file into one that is synced.
    OfPlain,
    /// Through the same when nothing else is done.
    OfBefore,
}

impl Measure {
    /// As tables call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Measure::Rate => "ops/s",
            Measure::Cpu => "CPU us/op",
            Measure::LogBytes => "log B/op",
            Measure::DeviceBytes => "device B/op",
            Measure::P99Ms => "p99 ms",
            Measure::CpuRatio => "CPU with / without",
            Measure::BytesRatio => "bytes with / without",
            Measure::Seconds => "s",
            Measure::MegabytesPerSecond => "MB/s",
            Measure::MemoryMib => "MiB",
            Measure::Files => "files",
            Measure::Threads => "threads",
            Measure::MemoryShare => "most memory / budget",
            Measure::OfPlain => "/ copy of a file",
            Measure::OfBefore => "p99 / before",
        }
    }
}

/// What a figure of Haypile should be.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// At least so many times another server's.
    AtLeast(f64, &'static str),
    /// At most so many times another server's.
    AtMost(f64, &'static str),
    /// At least so much.
    Above(f64),
    /// At most so much.
    Below(f64),
}

/// A row's figure and its bound.
pub type Goal = (&'static str, Measure, Bound);

/// All goals, in the table's order.
#[must_use]
pub fn goals() -> Vec<Goal> {
    use Bound::{Above, AtLeast, AtMost, Below};
    let mut goals: Vec<Goal> = Vec::new();
    for row in ROWS {
        match (row.name, row.sync, row.pipeline) {
            (PROXY, ..) => goals.push((row.name, Measure::Rate, AtLeast(1.5, "redis"))),
            (_, Sync::Always, _) | (.., 1) => goals.push((row.name, Measure::Rate, AtLeast(1.1, "redis"))),
            _ => goals.extend([
                (row.name, Measure::Cpu, AtMost(1.0, "redis")),
                (row.name, Measure::Rate, AtLeast(1.0, "redis")),
                (row.name, Measure::Rate, AtLeast(2.5, "kvrocks")),
                (row.name, Measure::Rate, AtLeast(4.0, "pika")),
            ]),
        }
    }
    for row in REPLICATED {
        goals.extend([
            (row.name, Measure::CpuRatio, Below(1.1)),
            (row.name, Measure::BytesRatio, Below(1.005)),
        ]);
    }
    goals.extend([
        (ROWS[0].name, Measure::LogBytes, Below(107.0)),
        (single::RECOVERY, Measure::MegabytesPerSecond, Above(500.0)),
        (single::RESTART, Measure::Seconds, Below(0.5)),
        (single::SLOTS, Measure::MemoryMib, Below(8.0)),
        (single::SLOTS, Measure::Files, Below(0.0)),
        (single::SLOTS, Measure::Threads, Below(0.0)),
        (single::MEMORY, Measure::MemoryShare, Below(1.1)),
        (copies::COPY, Measure::OfPlain, Above(0.7)),
        (copies::OTHERS, Measure::OfBefore, Below(2.0)),
        (copies::ATTACH, Measure::Seconds, Below(2.0)),
        (copies::BURST, Measure::Seconds, Below(1.0)),
        (copies::HALF, Measure::Seconds, Below(1.0)),
        (copies::HALF, Measure::P99Ms, Below(5.0)),
        (copies::HANDOVER, Measure::P99Ms, Below(20.0)),
    ]);
    goals
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::workload::Workload;

    #[test]
    fn rows_are_named_once_and_have_a_workload() {
        let all: Vec<&Row> = ROWS.iter().chain(REPLICATED).collect();
        for (place, row) in all.iter().enumerate() {
            assert!(all[..place].iter().all(|other| other.name != row.name), "{}", row.name);
            assert!(Workload::named(row.workload).is_some(), "{}", row.workload);
        }
    }

    #[test]
    fn every_load_without_a_replica_has_a_goal() {
        let goals = goals();
        for row in ROWS {
            assert!(goals.iter().any(|(name, ..)| *name == row.name), "{}", row.name);
        }
    }
}
