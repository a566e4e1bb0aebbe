//! One load for commands of each family: Haypile beside redis-server, pipelines of 16 on 50 connections.
//!
//! A command is a text in which `{k}` stands for the number of a key, `{m}` for one of a member or field, `{n}` for one that
//! grows, `{v}` for a value of 64 bytes. Several commands with `;` between them are one operation.

use haypile_engine::clock::SystemClock;
use haypile_engine::random::Coin;

use super::instance::{Instance, Product, STANDALONE, Start};
use super::rows::{FAMILIES, Family, Measure};
use super::{MEMORY, Table, VALUE_BYTES};
use crate::error::{Error, Result};
use crate::lane;
use crate::targets::resp::{Pipelines, request};

const CONNECTIONS: usize = 50;
const PIPELINE: usize = 16;
/// Keys of a family, for each thousand of the table.
const KEYS_PER_THOUSAND: u64 = 10;
/// Members of a collection.
const MEMBERS: u64 = 100;

/// A word of a command.
enum Word {
    Text(Vec<u8>),
    Value,
    Key(Vec<u8>),
    Member(Vec<u8>),
    Counter(Vec<u8>),
}

/// What requests are made of.
struct Maker {
    commands: Vec<Vec<Word>>,
    coin: Coin,
    counter: u64,
    keys: u64,
    value: Vec<u8>,
    words: Vec<Vec<u8>>,
}

impl Maker {
    fn new(text: &str, keys: u64, seed: u64) -> Maker {
        let word = |word: &str| {
            let head = |mark: &str| word.strip_suffix(mark).map(|head| head.as_bytes().to_vec());
            match (word, head("{k}"), head("{m}"), head("{n}")) {
                ("{v}", ..) => Word::Value,
                (_, Some(head), ..) => Word::Key(head),
                (_, _, Some(head), _) => Word::Member(head),
                (.., Some(head)) => Word::Counter(head),
                _ => Word::Text(word.replace('_', " ").into_bytes()),
            }
        };
        let commands = text.split(';').map(|text| text.split_whitespace().map(word).collect()).collect();
        Maker {
            commands,
            coin: Coin::new(seed),
            counter: 0,
            keys,
            value: vec![b'v'; VALUE_BYTES],
            words: Vec::new(),
        }
    }

    /// Appends the next operation's requests; how many replies they get.
    fn next(&mut self, out: &mut Vec<u8>) -> usize {
        self.counter += 1;
        // All words of an operation that name a key name the same one.
        let key = self.coin.next_u64() % self.keys;
        for command in &self.commands {
            self.words.clear();
            for word in command {
                let numbered = |head: &[u8], number: u64| [head, number.to_string().as_bytes()].concat();
                self.words.push(match word {
                    Word::Text(text) => text.clone(),
                    Word::Value => self.value.clone(),
                    Word::Key(head) => numbered(head, key),
                    Word::Member(head) => numbered(head, self.coin.next_u64() % MEMBERS),
                    Word::Counter(head) => numbered(head, self.counter),
                });
            }
            let words: Vec<&[u8]> = self.words.iter().map(|word| &word[..]).collect();
            request(out, &words);
        }
        self.commands.len()
    }
}

/// Measures all families on all servers, each on new data.
pub fn measure(table: &mut Table, products: &[Product], repeat: u32, filter: &str) -> Result<()> {
    let start = Start { memory: MEMORY, words: STANDALONE };
    let instances: Vec<Instance> = products
        .iter()
        .map(|product| Instance::start(product, start, &table.parent))
        .collect::<Result<_>>()?;
    let chosen = |family: &&Family| family.name.to_lowercase().contains(&filter.to_lowercase());
    for family in FAMILIES.iter().filter(chosen) {
        let mut said = format!("{}:", family.name);
        for turn in 0..instances.len() {
            // Another server is first each time.
            let instance = &instances[(turn + repeat as usize) % instances.len()];
            let (rate, cpu) = load(table, instance, family, repeat)?;
            let name = instance.product.name();
            table.figures.put(family.name, Measure::Rate, name, rate);
            table.figures.put(family.name, Measure::Cpu, name, cpu);
            said += &format!(" {name} {:.0} k/s, CPU {cpu:.2} us;", rate / 1e3);
        }
        table.say(&said);
    }
    Ok(())
}

/// Operations a second, and CPU microseconds of one.
fn load(table: &Table, instance: &Instance, family: &Family, repeat: u32) -> Result<(f64, f64)> {
    let keys = (table.keys * KEYS_PER_THOUSAND / 1000).max(10);
    let named = |error: Error| Error::target("load a server", format!("{}: {error}", family.name));
    let mut lines = Pipelines::open(&instance.access, CONNECTIONS, PIPELINE)?;
    let mut load = |text: &str, operations: u64, seed: u64| {
        let mut maker = Maker::new(text, keys, seed);
        lines.run(operations, |out| maker.next(out)).map_err(named)
    };
    if !family.before.is_empty() {
        load(family.before, keys * family.before_per_key, u64::from(repeat))?;
    }
    let operations = table.keys * family.operations_per_thousand / 1000;
    let clock = SystemClock::new();
    let sample =
        || instance.sample().ok_or_else(|| Error::target("look at a server", "its process can't be seen"));
    let (begun, before) = (lane::now(&clock), sample()?);
    load(family.load, operations, u64::from(repeat) + 1)?;
    let (seconds, after) = (lane::now(&clock).since(begun) as f64 / 1e9, sample()?);
    let cpu = (after.cpu_seconds() - before.cpu_seconds()) * 1e6 / operations as f64;
    Ok((operations as f64 / seconds, cpu))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_becomes_requests_with_one_key_for_an_operation() {
        let mut maker = Maker::new("MULTI;HSET h:{k} f{m} {v};HGET h:{k} x_y;EXEC", 1, 7);
        let mut out = Vec::new();
        assert_eq!(maker.next(&mut out), 4);
        let text = String::from_utf8(out).expect("text");
        assert!(text.starts_with("*1\r\n$5\r\nMULTI\r\n*4\r\n$4\r\nHSET\r\n$3\r\nh:0\r\n"), "{text}");
        assert!(
            text.ends_with("*3\r\n$4\r\nHGET\r\n$3\r\nh:0\r\n$3\r\nx y\r\n*1\r\n$4\r\nEXEC\r\n"),
            "{text}"
        );
    }
}
