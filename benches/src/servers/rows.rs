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

/// A load of commands of one family.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// What it is called.
    pub name: &'static str,
    /// What is done before, so many times for each key.
    pub before: &'static str,
    /// See `before`.
    pub before_per_key: u64,
    /// What is measured; see `families`.
    pub load: &'static str,
    /// Operations, for each thousand keys of the table.
    pub operations_per_thousand: u64,
}

const fn family(
    name: &'static str,
    (before, before_per_key): (&'static str, u64),
    load: &'static str,
    operations_per_thousand: u64,
) -> Family {
    Family { name, before, before_per_key, load, operations_per_thousand }
}

const NOTHING: (&str, u64) = ("", 0);
const HASH: (&str, u64) = ("HSET h:{k} f{m} {v}", 20);
const LIST: (&str, u64) = ("RPUSH l:{k} {v}", 100);
const SET: (&str, u64) = ("SADD s:{k} m{m}", 100);
const SORTED_SET: (&str, u64) = ("ZADD z:{k} {m} m{m}", 100);
const STREAM: (&str, u64) = ("XADD x:{k} MAXLEN ~ 200 * f {v}", 50);
const GEO: (&str, u64) = ("GEOADD g:{k} 13.{m} 38.{m} m{m}", 50);

/// One after the other, on the same data.
#[rustfmt::skip]
pub const FAMILIES: &[Family] = &[
    family("strings: SETRANGE", NOTHING, "SETRANGE sr:{k} 16 {v}", 500),
    family("strings: GETRANGE", NOTHING, "GETRANGE sr:{k} 0 31", 500),
    family("strings: MGET of 4", ("SET mg:{k} {v}", 3), "MGET mg:{k} mg:{m} mg:{m} mg:{m}", 300),
    family("bits: SETBIT", NOTHING, "SETBIT b:{k} {m} 1", 500),
    family("bits: BITFIELD", NOTHING, "BITFIELD b:{k} INCRBY u8 #{m} 1", 500),
    family("bits: BITCOUNT", NOTHING, "BITCOUNT b:{k}", 500),
    family("hashes: HGET", HASH, "HGET h:{k} f{m}", 500),
    family("hashes: HINCRBY", NOTHING, "HINCRBY hi:{k} f{m} 1", 500),
    family("hashes: HGETALL of 20", NOTHING, "HGETALL h:{k}", 200),
    family("lists: LRANGE of 10", LIST, "LRANGE l:{k} 0 9", 300),
    family("lists: LINDEX", NOTHING, "LINDEX l:{k} 50", 500),
    family("lists: RPUSH and LPOP", NOTHING, "RPUSH l:{k} {v};LPOP l:{k}", 300),
    family("sets: SADD", NOTHING, "SADD s:{k} m{n}", 500),
    family("sets: SISMEMBER", SET, "SISMEMBER s:{k} m{m}", 500),
    family("sets: SRANDMEMBER", NOTHING, "SRANDMEMBER s:{k}", 500),
    family("sets: SINTERCARD", SET, "SINTERCARD 2 s:{k} s:{m}", 100),
    family("sorted sets: ZADD", SORTED_SET, "ZADD z:{k} {m} m{m}", 500),
    family("sorted sets: ZINCRBY", NOTHING, "ZINCRBY z:{k} 1 m{m}", 500),
    family("sorted sets: ZSCORE", NOTHING, "ZSCORE z:{k} m{m}", 500),
    family("sorted sets: ZRANK", NOTHING, "ZRANK z:{k} m{m}", 500),
    family("sorted sets: ZRANGE of 10", NOTHING, "ZRANGE z:{k} 0 9", 300),
    family("sorted sets: ZRANGEBYSCORE of 10", NOTHING, "ZRANGEBYSCORE z:{k} {m} +inf LIMIT 0 10", 300),
    family("HyperLogLog: PFADD", NOTHING, "PFADD p:{k} e{n}", 500),
    family("HyperLogLog: PFCOUNT", NOTHING, "PFCOUNT p:{k}", 500),
    family("geo: GEOADD", GEO, "GEOADD g:{k} 13.{m} 38.{m} m{m}", 300),
    family("geo: GEOSEARCH", NOTHING, "GEOSEARCH g:{k} FROMLONLAT 13.5 38.5 BYRADIUS 50 km COUNT 5", 50),
    family("streams: XADD", STREAM, "XADD x:{k} MAXLEN ~ 200 * f {v}", 300),
    family("streams: XRANGE of 10", NOTHING, "XRANGE x:{k} - + COUNT 10", 200),
    family("streams: XADD and XREADGROUP", ("XGROUP CREATE xg:{n} g 0 MKSTREAM", 1), "XADD xg:1 MAXLEN ~ 1000 * f {v};XREADGROUP GROUP g c COUNT 1 NOACK STREAMS xg:1 >", 100),
    family("keys: EXISTS", NOTHING, "EXISTS h:{k}", 500),
    family("keys: EXPIRE", NOTHING, "EXPIRE mg:{k} 10000", 500),
    family("keys: TTL", NOTHING, "TTL mg:{k}", 500),
    family("keys: SET and DEL", NOTHING, "SET d:{k} {v};DEL d:{k}", 300),
    family("keys: SCAN", NOTHING, "SCAN 0 COUNT 10", 200),
    family("transactions: MULTI, SET, INCR, EXEC", NOTHING, "MULTI;SET t:{k} {v};INCR ti:{k};EXEC", 100),
    family("scripts: EVAL of one GET", NOTHING, "EVAL return_redis.call('get',KEYS[1]) 1 mg:{k}", 200),
    family("scripts: EVAL of one INCR", NOTHING, "EVAL return_redis.call('incr',KEYS[1]) 1 ei:{k}", 200),
    family("messages: PUBLISH to nobody", NOTHING, "PUBLISH c:{k} {v}", 500),
];

/// A kind of collections that are measured large.
#[derive(Clone, Copy, Debug)]
pub struct Collection {
    /// What it is called.
    pub name: &'static str,
    /// What gives it elements.
    pub add: &'static str,
    /// The words of an element: `{n}` is its number, `{s}` a number by chance.
    pub element: &'static str,
    /// Whether a command brings one only.
    pub alone: bool,
    /// Commands on it: `{c}` is its key, `{e}` the number of an element that it has, `{n}` that of the call.
    pub commands: &'static [&'static str],
    /// What reads all of it.
    pub whole: &'static str,
}

/// One after the other.
#[rustfmt::skip]
pub const COLLECTIONS: &[Collection] = &[
    Collection {
        name: "hash", add: "HSET", element: "f{n} value{n}", alone: false,
        commands: &[
            "HGET {c} f{e}", "HMGET {c} f{e} f{e+9}", "HEXISTS {c} f{e}", "HSTRLEN {c} f{e}", "HLEN {c}", "HSET {c} f{e} new", "HSET {c} g{n} new",
            "HDEL {c} g{n}", "HINCRBY {c} g{n} 1", "HRANDFIELD {c}", "HRANDFIELD {c} 10", "HSCAN {c} 0 COUNT 10",
        ],
        whole: "HGETALL {c}",
    },
    Collection {
        name: "set", add: "SADD", element: "m{n}", alone: false,
        commands: &[
            "SISMEMBER {c} m{e}", "SMISMEMBER {c} m{e} m{e+9}", "SCARD {c}", "SADD {c} m{e}", "SADD {c} n{n}", "SREM {c} n{n}", "SRANDMEMBER {c}",
            "SRANDMEMBER {c} 10", "SPOP {c}", "SSCAN {c} 0 COUNT 10",
        ],
        whole: "SMEMBERS {c}",
    },
    Collection {
        name: "sorted set", add: "ZADD", element: "{s} m{n}", alone: false,
        commands: &[
            "ZSCORE {c} m{e}", "ZCARD {c}", "ZADD {c} {e} m{e}", "ZADD {c} {e} n{n}", "ZREM {c} n{n}", "ZINCRBY {c} 1 m{e}", "ZRANK {c} m{e}",
            "ZREVRANK {c} m{e}", "ZRANGE {c} {e} {e+9}", "ZRANGE {c} {e} {e+9} REV", "ZCOUNT {c} {e} +inf", "ZRANGEBYSCORE {c} {e} +inf LIMIT 0 10",
            "ZRANGEBYSCORE {c} 0 +inf LIMIT {e} 10", "ZRANDMEMBER {c}", "ZPOPMIN {c}", "ZPOPMAX {c}", "ZREMRANGEBYRANK {c} {e} {e}", "ZSCAN {c} 0 COUNT 10",
        ],
        whole: "ZRANGE {c} 0 -1",
    },
    Collection {
        name: "list", add: "RPUSH", element: "item{n}", alone: false,
        commands: &[
            "LINDEX {c} {e}", "LLEN {c}", "LSET {c} {e} new", "LRANGE {c} {e} {e+9}", "LPUSH {c} new", "RPUSH {c} new", "LPOP {c}", "RPOP {c}",
            "LMOVE {c} {c} LEFT RIGHT", "LPOS {c} item9 MAXLEN 100", "LTRIM {c} 1 -1",
        ],
        whole: "LRANGE {c} 0 -1",
    },
    Collection {
        name: "stream", add: "XADD", element: "* f value{n}", alone: true,
        commands: &["XLEN {c}", "XADD {c} * f new", "XRANGE {c} - + COUNT 10", "XREVRANGE {c} + - COUNT 10", "XREAD COUNT 10 STREAMS {c} 0", "XTRIM {c} MAXLEN ~ 100000000"],
        whole: "XRANGE {c} - +",
    },
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
    /// Microseconds.
    Us,
    /// The same of a collection of ten thousand.
    UsOfFew,
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
            Measure::Us => "us",
            Measure::UsOfFew => "us of 10,000",
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
    for family in FAMILIES {
        goals.extend([
            (family.name, Measure::Rate, AtLeast(0.5, "redis")),
            (family.name, Measure::Cpu, AtMost(2.0, "redis")),
        ]);
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
