//! The rows of the engine table, as data: what is run, with which memory, and what is aimed at.

/// How much memory a target gets, as a share of a table with a million keys.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Memory {
    /// So many bytes for a million keys, in proportion for others.
    Budget(usize),
    /// A tenth of the data.
    TenthOfData,
    /// The fill as with this budget; then the store is closed and opened with a block cache of a tenth of the data.
    CacheTenth(usize),
}

/// How much is done in what comes after the fill.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Amount {
    /// So many operations for each thousand keys of the table.
    PerThousand(u64),
    /// For so many seconds.
    Seconds(f64),
}

/// Workloads with the row that each is; those without warm up or fill.
pub type Steps = &'static [(&'static str, Option<&'static str>)];

/// Workloads on the same data, of which some are rows of the table.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// What `--groups` calls it.
    pub name: &'static str,
    /// One after the other; the first is a fill.
    pub steps: Steps,
    /// Threads.
    pub threads: u32,
    /// Keys, for each thousand keys of the table.
    pub keys_per_thousand: u64,
    /// What is done after the fill.
    pub amount: Amount,
    /// Memory.
    pub memory: Memory,
    /// What a run waits for at its end, as `--settle` has it.
    pub settle: &'static str,
    /// Whether what the kernel caches of the store's files is held to a tenth of the data after the fill.
    pub page_cache_tenth: bool,
    /// Whether a store that keeps all data in memory takes part.
    pub bare_too: bool,
}

const MIB: usize = 1 << 20;

/// Haypile's default.
const USUAL: Memory = Memory::Budget(256 * MIB);

/// Every block stays in the cache, in each engine's split of it.
const PLENTY: Memory = Memory::Budget(768 * MIB);

const PLAIN: Group = Group {
    name: "",
    steps: &[],
    threads: 1,
    keys_per_thousand: 1000,
    amount: Amount::PerThousand(1000),
    memory: USUAL,
    settle: "debt",
    page_cache_tenth: false,
    bare_too: true,
};

/// Run once on nothing: what the benchmark itself takes.
pub const HARNESS: Group = Group {
    name: "harness",
    steps: &[("fillrandom", Some("harness")), ("readrandom", Some("harness"))],
    ..PLAIN
};

/// All of the table.
pub const GROUPS: &[Group] = &[
    Group {
        name: "write",
        steps: &[("fillrandom", Some("fillrandom")), ("overwrite", Some("overwrite"))],
        ..PLAIN
    },
    Group { name: "batch", steps: &[("fillbatch", Some("fillbatch100"))], ..PLAIN },
    Group {
        name: "write8",
        steps: &[("fillrandom", Some("fillrandom, 8 threads")), ("overwrite", Some("overwrite, 8 threads"))],
        threads: 8,
        ..PLAIN
    },
    Group { name: "batch8", steps: &[("fillbatch", Some("fillbatch100, 8 threads"))], threads: 8, ..PLAIN },
    Group {
        name: "sync8",
        steps: &[("fillsync", Some("fillsync, 8 threads"))],
        threads: 8,
        keys_per_thousand: 40,
        ..PLAIN
    },
    Group {
        name: "read",
        steps: &[
            ("fillrandom", None),
            ("readrandom", None),
            ("readrandom", Some("readrandom, in cache")),
            ("readmissing", Some("readmissing")),
            ("readwhilewriting", Some("readwhilewriting")),
        ],
        memory: PLENTY,
        settle: "flush",
        ..PLAIN
    },
    Group {
        name: "tenth",
        steps: &[
            ("fillrandom", None),
            ("readrandom", None),
            ("readrandom", Some("readrandom, cache a tenth")),
        ],
        memory: Memory::CacheTenth(256 * MIB),
        settle: "flush",
        bare_too: false,
        ..PLAIN
    },
    Group {
        name: "device",
        steps: &[
            ("fillrandom", None),
            ("readrandom", None),
            ("readrandom", Some("readrandom, cache and page cache a tenth")),
        ],
        amount: Amount::PerThousand(100),
        memory: Memory::CacheTenth(256 * MIB),
        settle: "flush",
        page_cache_tenth: true,
        bare_too: false,
        ..PLAIN
    },
    Group {
        name: "seek",
        steps: &[("fillrandom", None), ("seekrandom", None), ("seekrandom", Some("seekrandom, 10 entries"))],
        amount: Amount::PerThousand(300),
        memory: PLENTY,
        settle: "flush",
        ..PLAIN
    },
    Group {
        name: "ycsb",
        steps: &[
            ("fillrandom", None),
            ("ycsb-c", None),
            ("ycsb-c", Some("ycsb-c")),
            ("ycsb-b", Some("ycsb-b")),
            ("ycsb-a", Some("ycsb-a")),
            ("ycsb-f", Some("ycsb-f")),
        ],
        ..PLAIN
    },
    Group {
        name: "sustained",
        steps: &[("fillrandom", None), ("overwrite", Some(SUSTAINED))],
        keys_per_thousand: 2000,
        amount: Amount::Seconds(30.0),
        memory: Memory::TenthOfData,
        bare_too: false,
        ..PLAIN
    },
];

/// The row of which the debt's settling counts as part of its time.
pub const SUSTAINED: &str = "overwrite, data 10 x memory";

/// All rows, in order.
pub fn rows() -> impl Iterator<Item = &'static str> {
    GROUPS.iter().flat_map(|group| group.steps.iter().filter_map(|(_, row)| *row))
}

/// What of a run a goal is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Measure {
    /// Operations a second; of [`SUSTAINED`], until its debt is settled.
    Rate,
    /// CPU microseconds of an operation.
    Cpu,
    /// The slowest operation, in milliseconds.
    WorstMs,
    /// The slowest of a thousand, in milliseconds.
    P999Ms,
    /// The slowest whole second, through the mean.
    SlowestSecond,
    /// Bytes that write calls took for each byte that was put.
    WriteAmplification,
    /// Disk space at the end, in MB.
    DiskMb,
    /// The most memory, without what the benchmark itself takes, through the budget.
    Memory,
}

/// What is aimed at.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Bound {
    /// At least so many times what another target has.
    AtLeast(f64, &'static str),
    /// At least so many times what the best of the others has, the yardstick left out.
    AtLeastBest(f64),
    /// At most so many times what another target has.
    AtMost(f64, &'static str),
    /// At least this.
    Above(f64),
    /// At most this.
    Below(f64),
}

/// A goal of a row.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Goal(pub &'static str, pub Measure, pub Bound);

use Bound::{Above, AtLeast, AtLeastBest, AtMost, Below};
use Measure::{Cpu, DiskMb, Memory as MemoryShare, P999Ms, Rate, SlowestSecond, WorstMs, WriteAmplification};

/// All goals.
pub const GOALS: &[Goal] = &[
    Goal("fillrandom", Rate, AtLeast(2.0, "rocksdb")),
    Goal("fillrandom", Rate, AtLeast(1.3, "fjall")),
    Goal("fillrandom", Rate, AtLeast(0.9, "bare")),
    Goal("fillrandom", Cpu, AtMost(1.1, "bare")),
    Goal("fillrandom", WorstMs, Below(1.0)),
    Goal("overwrite", Rate, AtLeast(2.0, "rocksdb")),
    Goal("overwrite", Rate, AtLeast(1.3, "fjall")),
    Goal("overwrite", Rate, AtLeast(0.9, "bare")),
    Goal("overwrite", Cpu, AtMost(1.1, "bare")),
    Goal("overwrite", WorstMs, Below(1.0)),
    Goal("fillbatch100", Rate, AtLeast(2.0, "rocksdb")),
    Goal("fillbatch100", Rate, AtLeast(1.3, "fjall")),
    Goal("fillbatch100", Rate, AtLeast(0.9, "bare")),
    Goal("fillbatch100", Cpu, AtMost(1.1, "bare")),
    Goal("fillrandom, 8 threads", Rate, AtLeast(3.0, "rocksdb")),
    Goal("overwrite, 8 threads", Rate, AtLeast(3.0, "rocksdb")),
    Goal("fillbatch100, 8 threads", Rate, AtLeast(3.0, "rocksdb")),
    Goal("fillsync, 8 threads", Rate, AtLeast(2.0, "rocksdb")),
    Goal("readrandom, in cache", Rate, AtLeast(2.5, "rocksdb")),
    Goal("readrandom, in cache", Rate, AtLeast(1.2, "redb")),
    Goal("readrandom, in cache", Cpu, Below(1.5)),
    Goal("readrandom, cache a tenth", Rate, AtLeastBest(1.5)),
    Goal("readrandom, cache and page cache a tenth", Rate, AtLeastBest(1.5)),
    Goal("readmissing", Rate, AtLeast(1.2, "fjall")),
    Goal("seekrandom, 10 entries", Rate, AtLeast(3.0, "rocksdb")),
    Goal("readwhilewriting", Rate, AtLeast(3.0, "rocksdb")),
    Goal("ycsb-a", Rate, AtLeast(2.5, "rocksdb")),
    Goal("ycsb-b", Rate, AtLeast(2.5, "rocksdb")),
    Goal("ycsb-c", Rate, AtLeast(2.5, "rocksdb")),
    Goal("ycsb-f", Rate, AtLeast(2.5, "rocksdb")),
    Goal(SUSTAINED, Rate, AtLeast(3.0, "rocksdb")),
    Goal(SUSTAINED, P999Ms, AtMost(0.2, "rocksdb")),
    Goal(SUSTAINED, SlowestSecond, Above(0.5)),
    Goal(SUSTAINED, WriteAmplification, Below(7.0)),
    Goal(SUSTAINED, WriteAmplification, AtMost(0.6, "rocksdb")),
    Goal(SUSTAINED, DiskMb, AtMost(1.0, "rocksdb")),
    Goal(SUSTAINED, MemoryShare, Below(1.1)),
];

#[cfg(test)]
mod tests {
    use haypile_bench::load::workload::Workload;

    use super::*;

    #[test]
    fn rows_are_named_once_and_every_goal_has_its_row_and_peer() {
        let names: Vec<&str> = rows().collect();
        for (place, name) in names.iter().enumerate() {
            assert!(!names[..place].contains(name), "{name}");
        }
        for Goal(row, _, bound) in GOALS {
            assert!(names.contains(row), "{row}");
            if let AtLeast(_, peer) | AtMost(_, peer) = bound {
                assert!(crate::kinds::KINDS.iter().any(|kind| kind.name == *peer), "{peer}");
            }
        }
        for group in GROUPS {
            assert!(Workload::named(group.steps[0].0).is_some_and(Workload::is_fill), "{}", group.name);
        }
    }
}
