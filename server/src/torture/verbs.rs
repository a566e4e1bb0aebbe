//! What the server under test can do. It is asked once, with commands on keys of their own.

use crate::remote::{Client, Reply};

/// A family of commands that a server may lack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// `MSET`.
    MultiSet,
    /// `APPEND`.
    Append,
    /// `INCR`, `INCRBY`, `DECRBY`.
    Count,
    /// Lists.
    List,
    /// Hashes.
    Hash,
    /// Sets.
    Set,
    /// Sorted sets.
    SortedSet,
    /// `SET ... PX`, `PEXPIRE`, `PERSIST`, `PTTL`.
    Expire,
    /// `MULTI` and `EXEC`.
    Multi,
    /// `SCAN`, which shows keys that nobody wrote.
    Scan,
}

impl Verb {
    const ALL: [Verb; 10] = [
        Verb::MultiSet,
        Verb::Append,
        Verb::Count,
        Verb::List,
        Verb::Hash,
        Verb::Set,
        Verb::SortedSet,
        Verb::Expire,
        Verb::Multi,
        Verb::Scan,
    ];

    /// Its name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Verb::MultiSet => "MSET",
            Verb::Append => "APPEND",
            Verb::Count => "counters",
            Verb::List => "lists",
            Verb::Hash => "hashes",
            Verb::Set => "sets",
            Verb::SortedSet => "sorted sets",
            Verb::Expire => "expiry",
            Verb::Multi => "MULTI",
            Verb::Scan => "SCAN",
        }
    }

    /// Commands that all must be answered without an error.
    fn probe(self) -> &'static [&'static str] {
        match self {
            Verb::MultiSet => &["MSET {probe}a 1 {probe}b 2", "DEL {probe}a", "DEL {probe}b"],
            Verb::Append => &["APPEND {probe} x", "DEL {probe}"],
            Verb::Count => &["INCR {probe}", "INCRBY {probe} 2", "DECRBY {probe} 1", "DEL {probe}"],
            Verb::List => &[
                "RPUSH {probe} a b",
                "LPUSH {probe} c",
                "LPOP {probe}",
                "RPOP {probe}",
                "LTRIM {probe} -5 -1",
                "LRANGE {probe} 0 -1",
                "DEL {probe}",
            ],
            Verb::Hash => &["HSET {probe} a 1 b 2", "HDEL {probe} a", "HGETALL {probe}", "DEL {probe}"],
            Verb::Set => &["SADD {probe} a b", "SREM {probe} a", "SMEMBERS {probe}", "DEL {probe}"],
            Verb::SortedSet => {
                &["ZADD {probe} 1 a 2 b", "ZREM {probe} a", "ZRANGE {probe} 0 -1 WITHSCORES", "DEL {probe}"]
            }
            Verb::Expire => &[
                "SET {probe} x PX 60000",
                "PEXPIRE {probe} 60000",
                "PTTL {probe}",
                "PERSIST {probe}",
                "DEL {probe}",
            ],
            Verb::Multi => &["MULTI", "SET {probe} x", "DEL {probe}", "EXEC"],
            Verb::Scan => &["SCAN 0 COUNT 10"],
        }
    }
}

/// A set of verbs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verbs {
    /// By their place in [`Verb::ALL`].
    has: [bool; Verb::ALL.len()],
}

impl Verbs {
    /// All of them.
    #[must_use]
    pub fn all() -> Verbs {
        Verbs { has: [true; Verb::ALL.len()] }
    }

    /// Asks a server.
    ///
    /// # Errors
    /// If it can't even set, get and delete a string, or does not answer.
    pub async fn probe(client: &mut Client) -> Result<Verbs, String> {
        let broken = |error: std::io::Error| format!("while it was asked what it can do: {error}");
        for line in ["SET {probe} x", "GET {probe}", "DEL {probe}"] {
            if let Reply::Error(text) = client.call(line).await.map_err(broken)? {
                return Err(format!("the server answers `{line}` with: {text}"));
            }
        }
        let mut has = Verbs::all().has;
        for (has, verb) in has.iter_mut().zip(Verb::ALL) {
            for line in verb.probe() {
                *has &= !matches!(client.call(line).await.map_err(broken)?, Reply::Error(_));
            }
        }
        Ok(Verbs { has })
    }

    /// Whether it is one of them.
    #[must_use]
    pub fn has(&self, verb: Verb) -> bool {
        Verb::ALL.iter().zip(self.has).any(|(&one, has)| one == verb && has)
    }

    /// The names of those that are not there.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        Verb::ALL.iter().filter(|&&verb| !self.has(verb)).map(|verb| verb.name()).collect()
    }
}
