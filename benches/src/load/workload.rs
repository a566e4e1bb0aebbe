//! The workloads by the names that people know, as a table.

use super::choose::{Distribution, THETA};

/// What a lane does at a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Puts the next number in order.
    FillInOrder,
    /// Puts the next number of a shuffled order.
    FillShuffled,
    /// Puts the next numbers of a shuffled order, in one batch.
    FillBatch,
    /// Puts a value at a chosen key.
    Put,
    /// Puts values at chosen keys, in one batch.
    PutBatch,
    /// Puts a value that goes soon at a chosen key.
    PutExpiring,
    /// Puts a value at the next number that was not there.
    Insert,
    /// Reads a chosen key.
    Get,
    /// Reads a key that is not there.
    GetMissing,
    /// Reads chosen keys in one call.
    MultiGet,
    /// Reads a chosen key and puts a value there.
    ReadModifyWrite,
    /// Removes a chosen key.
    Delete,
    /// Reads so many entries from a chosen key on.
    Scan,
    /// Reads 1 to so many entries from a chosen key on.
    ScanUpTo,
    /// Reads all entries in order.
    Walk,
    /// A turn of [`super::mixgraph`].
    MixGraph,
    /// Adds one to a chosen counter.
    Increment,
    /// Sets a field of a hash; a hash has about so many.
    HashSet {
        /// Fields of a hash.
        fields: u64,
    },
    /// Pushes to one of some lists.
    ListPush,
    /// Pops from one of some lists.
    ListPop,
    /// Sets a chosen member's score in one of some sorted sets.
    SortedSetAdd,
}

/// What a workload needs of a target beside put, get and delete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Needs {
    /// Nothing.
    Keys,
    /// Keys that are walked in the order of their bytes.
    Order,
    /// Redis' types.
    Redis,
}

/// How much is done if nobody says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Amount {
    /// Every key once.
    EachKeyOnce,
    /// As many operations as there are keys.
    AsManyAsKeys,
}

/// A workload.
#[derive(Debug)]
pub struct Workload {
    /// What it is called.
    pub name: &'static str,
    /// A line about it.
    pub about: &'static str,
    /// What is done, each with its share in hundredths.
    pub mix: &'static [(u32, Action)],
    /// The popularity of keys, unless the command line says otherwise.
    pub distribution: Distribution,
    /// What it needs of the target.
    pub needs: Needs,
    /// How much is done.
    pub amount: Amount,
    /// Bytes of a value if nobody says.
    pub value_bytes: usize,
    /// Beside the measured lanes one more puts values at random keys until they are through.
    pub writer_beside: bool,
    /// Every write is on the device before it is answered, whatever the command line says.
    pub synced: bool,
    /// Over the wire: one connection, requests sent as replies come, so deep. As a proxy does.
    pub proxy_depth: Option<usize>,
    /// Slots are of unequal heat, whatever the command line says.
    pub slots_zipfian: bool,
}

const PLAIN: Workload = Workload {
    name: "",
    about: "",
    mix: &[],
    distribution: Distribution::Uniform,
    needs: Needs::Keys,
    amount: Amount::AsManyAsKeys,
    value_bytes: 100,
    writer_beside: false,
    synced: false,
    proxy_depth: None,
    slots_zipfian: false,
};

const YCSB: Workload = Workload { distribution: Distribution::Zipfian(THETA), value_bytes: 1000, ..PLAIN };

const REDIS: Workload = Workload { needs: Needs::Redis, value_bytes: 64, ..PLAIN };

/// All workloads.
pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "fillseq",
        about: "db_bench: puts every key once, in order",
        mix: &[(100, Action::FillInOrder)],
        amount: Amount::EachKeyOnce,
        ..PLAIN
    },
    Workload {
        name: "fillrandom",
        about: "db_bench's filluniquerandom: puts every key once, in random order",
        mix: &[(100, Action::FillShuffled)],
        amount: Amount::EachKeyOnce,
        ..PLAIN
    },
    Workload {
        name: "fillbatch",
        about: "db_bench: as fillrandom, --batch keys in each atomic write",
        mix: &[(100, Action::FillBatch)],
        amount: Amount::EachKeyOnce,
        ..PLAIN
    },
    Workload {
        name: "fillsync",
        about: "db_bench: as fillrandom, each write on the device before it is answered",
        mix: &[(100, Action::FillShuffled)],
        amount: Amount::EachKeyOnce,
        synced: true,
        ..PLAIN
    },
    Workload {
        name: "overwrite",
        about: "db_bench: puts values at keys that are there",
        mix: &[(100, Action::Put)],
        ..PLAIN
    },
    Workload {
        name: "readrandom",
        about: "db_bench: reads keys that are there",
        mix: &[(100, Action::Get)],
        ..PLAIN
    },
    Workload {
        name: "readmissing",
        about: "db_bench: reads keys that are not there, between those that are",
        mix: &[(100, Action::GetMissing)],
        ..PLAIN
    },
    Workload {
        name: "multireadrandom",
        about: "db_bench: reads --batch keys in each call",
        mix: &[(100, Action::MultiGet)],
        ..PLAIN
    },
    Workload {
        name: "readseq",
        about: "db_bench: reads entries in order",
        mix: &[(100, Action::Walk)],
        needs: Needs::Order,
        ..PLAIN
    },
    Workload {
        name: "seekrandom",
        about: "db_bench: finds a key and reads --scan entries in order",
        mix: &[(100, Action::Scan)],
        needs: Needs::Order,
        ..PLAIN
    },
    Workload {
        name: "readwhilewriting",
        about: "db_bench: readrandom, while one more thread overwrites",
        mix: &[(100, Action::Get)],
        writer_beside: true,
        ..PLAIN
    },
    Workload {
        name: "deleterandom",
        about: "db_bench: removes random keys",
        mix: &[(100, Action::Delete)],
        ..PLAIN
    },
    Workload {
        name: "ycsb-load",
        about: "YCSB's load: puts every key once, in random order",
        mix: &[(100, Action::FillShuffled)],
        amount: Amount::EachKeyOnce,
        ..YCSB
    },
    Workload {
        name: "ycsb-a",
        about: "YCSB A, update heavy: 50 % reads, 50 % updates (of the whole value), zipfian",
        mix: &[(50, Action::Get), (50, Action::Put)],
        ..YCSB
    },
    Workload {
        name: "ycsb-b",
        about: "YCSB B, read mostly: 95 % reads, 5 % updates, zipfian",
        mix: &[(95, Action::Get), (5, Action::Put)],
        ..YCSB
    },
    Workload { name: "ycsb-c", about: "YCSB C, read only, zipfian", mix: &[(100, Action::Get)], ..YCSB },
    Workload {
        name: "ycsb-d",
        about: "YCSB D, read latest: 95 % reads of the newest, 5 % inserts",
        mix: &[(95, Action::Get), (5, Action::Insert)],
        distribution: Distribution::Latest(THETA),
        ..YCSB
    },
    Workload {
        name: "ycsb-e",
        about: "YCSB E, short ranges: 95 % scans of 1 to 100 entries, 5 % inserts, zipfian",
        mix: &[(95, Action::ScanUpTo), (5, Action::Insert)],
        needs: Needs::Order,
        ..YCSB
    },
    Workload {
        name: "ycsb-f",
        about: "YCSB F: 50 % reads, 50 % reads with a write of the same key after, zipfian",
        mix: &[(50, Action::Get), (50, Action::ReadModifyWrite)],
        ..YCSB
    },
    Workload {
        name: "mixgraph",
        about: "Facebook's social graph (FAST 2020): 85 % reads, 14 % writes, 1 % scans",
        mix: &[(100, Action::MixGraph)],
        needs: Needs::Order,
        ..PLAIN
    },
    Workload {
        name: "set",
        about: "Redis: SET at random keys",
        mix: &[(100, Action::Put)],
        value_bytes: 64,
        ..PLAIN
    },
    Workload {
        name: "get",
        about: "Redis: GET of random keys",
        mix: &[(100, Action::Get)],
        value_bytes: 64,
        ..PLAIN
    },
    Workload {
        name: "mset",
        about: "Redis: MSET of --batch random keys",
        mix: &[(100, Action::PutBatch)],
        value_bytes: 64,
        ..PLAIN
    },
    Workload {
        name: "large",
        about: "Redis: SET and GET of large values (100 KiB)",
        mix: &[(50, Action::Put), (50, Action::Get)],
        value_bytes: 100 << 10,
        ..PLAIN
    },
    Workload {
        name: "incr",
        about: "Redis: INCR of random counters",
        mix: &[(100, Action::Increment)],
        ..REDIS
    },
    Workload {
        name: "hset-small",
        about: "Redis: HSET of a random field, ten to a hash",
        mix: &[(100, Action::HashSet { fields: 10 })],
        ..REDIS
    },
    Workload {
        name: "hset-large",
        about: "Redis: HSET of a random field, a hundred thousand to a hash",
        mix: &[(100, Action::HashSet { fields: 100_000 })],
        ..REDIS
    },
    Workload {
        name: "lpush",
        about: "Redis: LPUSH to --collections lists",
        mix: &[(100, Action::ListPush)],
        ..REDIS
    },
    Workload {
        name: "queue",
        about: "Redis: LPUSH and RPOP on --collections lists, half and half",
        mix: &[(50, Action::ListPush), (50, Action::ListPop)],
        ..REDIS
    },
    Workload {
        name: "zadd",
        about: "Redis: ZADD of a random member with a random score, --collections sorted sets",
        mix: &[(100, Action::SortedSetAdd)],
        ..REDIS
    },
    Workload {
        name: "ttl-churn",
        about: "Redis: SET with PX of 50 to 1000 ms, and GET",
        mix: &[(80, Action::PutExpiring), (20, Action::Get)],
        ..REDIS
    },
    Workload {
        name: "codis",
        about: "as codis-proxy: one connection, 512 requests under way, half SET and half GET, slots alike",
        mix: &[(50, Action::Put), (50, Action::Get)],
        proxy_depth: Some(512),
        ..REDIS
    },
    Workload {
        name: "codis-zipf",
        about: "as codis, few of the slots are hot",
        mix: &[(50, Action::Put), (50, Action::Get)],
        proxy_depth: Some(512),
        slots_zipfian: true,
        ..REDIS
    },
];

impl Workload {
    /// The workload of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Workload> {
        WORKLOADS.iter().find(|workload| workload.name == name)
    }

    /// Whether it fills the keys: it has its own end and is not warmed up.
    #[must_use]
    pub fn is_fill(&self) -> bool {
        self.amount == Amount::EachKeyOnce
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_shares_add_up() {
        for (index, workload) in WORKLOADS.iter().enumerate() {
            assert!(WORKLOADS[..index].iter().all(|other| other.name != workload.name), "{}", workload.name);
            assert_eq!(workload.mix.iter().map(|(share, _)| share).sum::<u32>(), 100, "{}", workload.name);
        }
    }
}
