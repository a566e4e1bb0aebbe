//! The history that a seed stands for: the Nth step of each client, a pure function of seed, client and N.
//!
//! So nothing has to be remembered of a long run but how far each client came. A client owns its keys, which lie in
//! groups: all keys of a group have the same hash tag, so that a cluster lets one command touch several. A few keys are
//! shared by all clients; what is done to those can be done in any order.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::operation::Operation;
use super::verbs::{Verb, Verbs};

/// The most steps in one batch, which is sent at once.
const BATCH_MAX: u64 = 16;
/// What the names of shared keys begin with.
const SHARED: &str = "{shared";
/// Steps of a client until it takes the next shared keys, so that none grows for ever.
const SHARED_STEPS: u64 = 4000;
/// Keys of a client in one group.
const GROUP_KEYS: usize = 9;
/// Fields of a hash, members of a set or sorted set.
const POOL: u32 = 24;
/// What a list is trimmed to.
const LIST_KEPT: &str = "-24";

/// Whether all clients write to this key.
#[must_use]
pub fn is_shared(key: &str) -> bool {
    key.starts_with(SHARED)
}

/// How old a shared key of the plan is: which of the shared keys that follow each other it is.
#[must_use]
pub fn shared_age(key: &str) -> Option<u64> {
    key.strip_prefix(SHARED)?.split_once('}')?.0.parse().ok()
}

/// The tag of a key: keys of one tag may be touched by one command.
#[must_use]
pub fn tag(key: &str) -> &str {
    let tagged = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    tagged.map_or(key, |(tag, _)| tag)
}

/// What a seed stands for.
#[derive(Clone, Debug)]
pub struct Plan {
    seed: u64,
    clients: usize,
    /// Groups of a client.
    groups: usize,
    verbs: Verbs,
}

/// Chances for one step.
struct Dice {
    chance: Xoshiro256PlusPlus,
    client: usize,
    step: u64,
    /// Values drawn so far.
    values: u32,
}

impl Plan {
    /// For so many clients with so many keys together, and a server that knows these verbs.
    #[must_use]
    pub fn new(seed: u64, clients: usize, keys: usize, verbs: Verbs) -> Plan {
        let groups = keys.div_ceil(clients.max(1) * GROUP_KEYS).max(1);
        Plan { seed, clients, groups, verbs }
    }

    /// How many clients there are.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients
    }

    /// The age of the shared keys that a client writes to at this step.
    #[must_use]
    pub fn shared_age_at(step: u64) -> u64 {
        step / SHARED_STEPS
    }

    fn dice(&self, client: usize, step: u64) -> Dice {
        let mixed = (client as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ step.wrapping_mul(0xd6e8_feb8_6659_fd93);
        let chance = Xoshiro256PlusPlus::seed_from_u64(self.seed ^ mixed);
        Dice { chance, client, step, values: 0 }
    }

    /// The batch that begins with this step of this client.
    #[must_use]
    pub fn batch(&self, client: usize, first: u64) -> Vec<Operation> {
        let mut dice = self.dice(client, !first);
        let len = if dice.chance.random_bool(0.4) { 1 } else { dice.chance.random_range(1..=BATCH_MAX) };
        (first..first + len).map(|step| self.step(client, step)).collect()
    }

    /// One step.
    ///
    /// # Panics
    /// If this file writes commands that the tester can't read.
    #[must_use]
    pub fn step(&self, client: usize, step: u64) -> Operation {
        let mut dice = self.dice(client, step);
        let operation = if self.verbs.has(Verb::Multi) && dice.chance.random_bool(0.06) {
            let group = self.group(&mut dice);
            let len = dice.chance.random_range(2..=5);
            Operation::transaction((0..len).map(|_| self.owned(&mut dice, group)).collect())
        } else if dice.chance.random_bool(0.08) {
            Operation::single(self.shared(&mut dice))
        } else {
            let group = self.group(&mut dice);
            Operation::single(self.owned(&mut dice, group))
        };
        operation.expect("the plan holds commands that the tester knows")
    }

    /// A group of the client's; the first ones more often.
    fn group(&self, dice: &mut Dice) -> usize {
        let most = dice.chance.random_range(1..=self.groups);
        dice.chance.random_range(0..most)
    }

    /// A command on keys that this client owns.
    fn owned(&self, dice: &mut Dice, group: usize) -> Vec<String> {
        let client = dice.client;
        let key = |name: &str| format!("{{c{client}g{group}}}{name}");
        let has = |verb: Verb| self.verbs.has(verb);
        loop {
            let part = dice.chance.random_range(0..100);
            let text = key(if dice.chance.random_bool(0.5) { "str0" } else { "str1" });
            let words = match dice.chance.random_range(0..8) {
                0 | 1 => match part {
                    0..50 => vec!["SET".to_owned(), text, dice.value()],
                    50..70 if has(Verb::MultiSet) => {
                        vec![
                            "MSET".to_owned(),
                            key("str0"),
                            dice.value(),
                            key("str1"),
                            dice.value(),
                            key("str2"),
                            dice.value(),
                        ]
                    }
                    50..75 if has(Verb::Append) => {
                        vec!["APPEND".to_owned(), text, format!("+{}", dice.name())]
                    }
                    75..85 => vec!["DEL".to_owned(), text],
                    85.. => vec!["GET".to_owned(), text],
                    _ => continue,
                },
                2 if has(Verb::Count) => match part {
                    0..50 => vec!["INCR".to_owned(), key("ctr")],
                    50..70 => vec!["INCRBY".to_owned(), key("ctr"), dice.number()],
                    70..80 => vec!["DECRBY".to_owned(), key("ctr"), dice.number()],
                    80..85 => vec!["DEL".to_owned(), key("ctr")],
                    _ => vec!["GET".to_owned(), key("ctr")],
                },
                3 if has(Verb::List) => {
                    let key = key("lst");
                    match part {
                        0..30 => dice.many(&["RPUSH", &key], |dice| vec![dice.name()]),
                        30..50 => dice.many(&["LPUSH", &key], |dice| vec![dice.name()]),
                        50..62 => vec!["LPOP".to_owned(), key],
                        62..74 => vec!["RPOP".to_owned(), key],
                        74..86 => vec!["LTRIM".to_owned(), key, LIST_KEPT.to_owned(), "-1".to_owned()],
                        86..90 => vec!["DEL".to_owned(), key],
                        _ => vec!["LRANGE".to_owned(), key, "0".to_owned(), "-1".to_owned()],
                    }
                }
                4 if has(Verb::Hash) => {
                    let key = key("hsh");
                    match part {
                        0..65 => dice.many(&["HSET", &key], |dice| vec![dice.member("f"), dice.value()]),
                        65..80 => dice.many(&["HDEL", &key], |dice| vec![dice.member("f")]),
                        80..85 => vec!["DEL".to_owned(), key],
                        _ => vec!["HGETALL".to_owned(), key],
                    }
                }
                5 if has(Verb::Set) => {
                    let key = key("set");
                    match part {
                        0..50 => dice.many(&["SADD", &key], |dice| vec![dice.member("m")]),
                        50..80 => dice.many(&["SREM", &key], |dice| vec![dice.member("m")]),
                        80..85 => vec!["DEL".to_owned(), key],
                        _ => vec!["SMEMBERS".to_owned(), key],
                    }
                }
                6 if has(Verb::SortedSet) => {
                    let key = key("zst");
                    match part {
                        0..60 => dice.many(&["ZADD", &key], |dice| vec![dice.number(), dice.member("m")]),
                        60..80 => dice.many(&["ZREM", &key], |dice| vec![dice.member("m")]),
                        80..85 => vec!["DEL".to_owned(), key],
                        _ => {
                            let last = ["0", "-1", "WITHSCORES"].map(str::to_owned);
                            ["ZRANGE".to_owned(), key].into_iter().chain(last).collect()
                        }
                    }
                }
                7 if has(Verb::Expire) => {
                    let key = key("exp");
                    match part {
                        0..30 => vec!["SET".to_owned(), key, dice.value(), "PX".to_owned(), dice.life_ms()],
                        30..45 => vec!["SET".to_owned(), key, dice.value()],
                        45..65 => vec!["PEXPIRE".to_owned(), key, dice.life_ms()],
                        65..75 => vec!["PERSIST".to_owned(), key],
                        75..80 => vec!["DEL".to_owned(), key],
                        _ => vec!["GET".to_owned(), key],
                    }
                }
                _ => continue,
            };
            return words;
        }
    }

    /// A command on a key that all clients write to.
    fn shared(&self, dice: &mut Dice) -> Vec<String> {
        let key = |name: &str, dice: &Dice| format!("{SHARED}{}}}{name}", Plan::shared_age_at(dice.step));
        loop {
            match dice.chance.random_range(0..3) {
                0 if self.verbs.has(Verb::Count) => return vec!["INCR".to_owned(), key("ctr", dice)],
                1 if self.verbs.has(Verb::List) => {
                    let key = key("lst", dice);
                    return dice.many(&["RPUSH", &key], |dice| vec![dice.name()]);
                }
                2 if self.verbs.has(Verb::Set) => {
                    let key = key("set", dice);
                    return dice.many(&["SADD", &key], |dice| vec![dice.name()]);
                }
                _ if [Verb::Count, Verb::List, Verb::Set].iter().any(|&verb| self.verbs.has(verb)) => {}
                _ => {
                    let group = self.group(dice);
                    return self.owned(dice, group);
                }
            }
        }
    }
}

impl Dice {
    /// A text that nothing else in the history is: who writes it, at which step, and which value of the step it is.
    fn name(&mut self) -> String {
        self.values += 1;
        let letter = char::from(b'a' + u8::try_from((self.values - 1) % 26).unwrap_or(0));
        format!("c{}.{}{letter}", self.client, self.step)
    }

    /// Such a text, made longer.
    fn value(&mut self) -> String {
        let most = match self.chance.random_range(0..200) {
            0 => 20_000,
            1..10 => 2_000,
            10..60 => 200,
            _ => 1,
        };
        let padding = self.chance.random_range(0..most);
        let name = self.name();
        if padding == 0 { name } else { format!("{name}-{}", "x".repeat(padding)) }
    }

    fn number(&mut self) -> String {
        self.chance.random_range(1..=1_000_000_u32).to_string()
    }

    /// How long something lives: over within the run, or not.
    fn life_ms(&mut self) -> String {
        let most = if self.chance.random_bool(0.7) { 3_000 } else { 600_000 };
        self.chance.random_range(1..=most).to_string()
    }

    fn member(&mut self, prefix: &str) -> String {
        format!("{prefix}{}", self.chance.random_range(0..POOL))
    }

    /// A command with one to five of something; mostly more than one, so that half of it can be seen.
    fn many(&mut self, head: &[&str], mut one: impl FnMut(&mut Dice) -> Vec<String>) -> Vec<String> {
        let len = self.chance.random_range(1..=5);
        let mut words: Vec<String> = head.iter().map(|&word| word.to_owned()).collect();
        let mut seen: Vec<String> = Vec::new();
        for _ in 0..len {
            let item = one(self);
            // A member twice in one command makes its parts hard to tell, and adds nothing.
            let name =
                item.last().filter(|_| item.len() == 2 && head[0] == "ZADD").unwrap_or(&item[0]).clone();
            if !seen.contains(&name) {
                seen.push(name);
                words.extend(item);
            }
        }
        words
    }
}
