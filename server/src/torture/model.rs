//! What one client did to the keys that it owns, and what they must hold by that.
//!
//! Only this client writes to them, one connection after the other, so that what each answer must be is known exactly. What
//! was never answered stays in doubt until the key is read back.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::remote::Reply;

use super::effect::{Answer, Effect};
use super::operation::Operation;
use super::value::{Data, Kind, Life, Span, Value, short};
use super::violation::{Breach, LAST_OPERATIONS, Violation, dated, moment};

/// How an operation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Not at all: it may have happened or not.
    Unanswered,
    /// It was acknowledged then.
    Answered(Duration),
    /// It was answered with an error: it must not have happened.
    Refused,
}

impl Fate {
    /// For a line about an operation.
    #[must_use]
    pub fn text(self) -> String {
        match self {
            Fate::Unanswered => "unanswered".to_owned(),
            Fate::Answered(at) => format!("answered {}", moment(at)),
            Fate::Refused => "refused".to_owned(),
        }
    }
}

/// An operation that was sent.
#[derive(Clone, Debug)]
pub struct Record {
    /// What.
    pub operation: Operation,
    /// When.
    pub sent: Duration,
    /// How it ended.
    pub fate: Fate,
}

/// A record among those that changed a key.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its place among the client's records.
    pub record: usize,
    /// What the answers told of a key that may have expired, effect by effect; empty if nothing.
    pub there: Vec<Option<bool>>,
}

/// One key.
#[derive(Clone, Debug)]
pub struct KeyLog {
    /// What it is for.
    pub kind: Kind,
    /// It was given a deadline some time: PTTL is asked.
    pub timed: bool,
    /// What it held when it was last read back.
    pub base: Value,
    /// What it must hold, if everything that was answered happened and nothing else.
    pub now: Value,
    /// What changed it since then, in order.
    pub entries: Vec<Entry>,
    /// Fingerprints of what it held before, oldest first.
    pub past: Vec<u64>,
}

/// What one client did since everything was last read back.
#[derive(Clone, Default, Debug)]
pub struct ClientLog {
    /// Every key that it ever wrote to.
    pub keys: BTreeMap<String, KeyLog>,
    /// Everything that it sent.
    pub records: Vec<Record>,
}

impl ClientLog {
    /// An operation is about to be sent; its number.
    pub fn sent(&mut self, operation: Operation, now: Duration) -> usize {
        for touch in operation.touches().filter(|touch| touch.effect.writes()) {
            let log = self.keys.entry(touch.key.clone()).or_insert_with(|| KeyLog {
                kind: Kind::Text,
                timed: false,
                base: Value::default(),
                now: Value::default(),
                entries: Vec::new(),
                past: Vec::new(),
            });
            log.kind = touch.effect.kind().unwrap_or(log.kind);
            log.timed |=
                matches!(touch.effect, Effect::Expire(_) | Effect::Persist | Effect::Set(_, Some(_)));
        }
        self.records.push(Record { operation, sent: now, fate: Fate::Unanswered });
        self.records.len() - 1
    }

    /// It was answered, each request of it.
    ///
    /// # Errors
    /// If the answer can't be.
    pub fn answered(&mut self, number: usize, replies: &[Reply], now: Duration) -> Result<Fate, Violation> {
        let last = replies.last().expect("an operation has a request, and each is answered");
        let refused =
            replies.iter().find(|reply| matches!(reply, Reply::Error(text) if !is_wrong_kind(text)));
        if refused.is_some() {
            self.records[number].fate = Fate::Refused;
            return Ok(Fate::Refused);
        }
        let record = &mut self.records[number];
        record.fate = Fate::Answered(now);
        let operation = record.operation.clone();
        let at = Span { from: record.sent, to: now };
        let commands = operation.commands().count();
        let answers: &[Reply] = match last {
            Reply::Array(items) if operation.is_transaction() => items,
            reply => std::slice::from_ref(reply),
        };
        if answers.len() != commands {
            let key = operation.keys().first().copied().unwrap_or_default();
            let expected = format!("{commands} answers to a transaction of {commands} commands");
            return Err(self.wrong(key, expected, short(&last.text())));
        }
        let mut entries: BTreeMap<&str, Vec<Option<bool>>> = BTreeMap::new();
        for (request, reply) in operation.commands().zip(answers) {
            for touch in &request.touches {
                let mut none = Value::default();
                let value = self.keys.get_mut(&touch.key).map_or(&mut none, |log| &mut log.now);
                let there = touch.effect.seen_there(reply).filter(|_| value.life(at) == Life::Either);
                let answer = touch.effect.apply(value, at, there);
                // A read changes what is known if it finds that the key has expired.
                let counts = operation.is_transaction() || touch.effect.writes() || there == Some(false);
                if counts {
                    entries.entry(&touch.key).or_default().push(there);
                }
                let wrong = match &answer {
                    Ok(answer) => differs(answer, reply),
                    Err(_) => Some("WRONGTYPE".to_owned()),
                };
                if let Some(expected) = wrong {
                    let command = format!("{} answers {expected}", shortly(&request.words));
                    let found = format!("it answered {}", short(&reply.text()));
                    return Err(self.wrong(&touch.key, command, found));
                }
            }
        }
        for (key, there) in entries {
            if let Some(log) = self.keys.get_mut(key) {
                log.entries.push(Entry { record: number, there });
            }
        }
        Ok(Fate::Answered(now))
    }

    fn wrong(&self, key: &str, expected: String, found: String) -> Violation {
        let more = self.last_operations(key, None);
        Violation { breach: Breach::WrongAnswer, key: key.to_owned(), expected, found, more }
    }

    /// Those operations that were not answered may have happened: they follow what was answered.
    pub fn close(&mut self) {
        for (number, record) in self.records.iter().enumerate() {
            if record.fate != Fate::Unanswered {
                continue;
            }
            for key in record.operation.keys() {
                let writes = record.operation.effects_on(key).any(Effect::writes);
                if let Some(log) = self.keys.get_mut(key).filter(|_| writes) {
                    log.entries.push(Entry { record: number, there: Vec::new() });
                }
            }
        }
    }

    /// The last operations on a key, a line each; `killed` is put among them.
    #[must_use]
    pub fn last_operations(&self, key: &str, killed: Option<Duration>) -> Vec<String> {
        let on_key = |record: &&Record| record.operation.touches().any(|touch| touch.key == key);
        let mut last: Vec<&Record> = self.records.iter().rev().filter(on_key).take(LAST_OPERATIONS).collect();
        last.reverse();
        let mut lines = vec!["the last operations on the key:".to_owned()];
        lines.extend(last.iter().map(|record| dated(&record.operation, record.sent, &record.fate.text())));
        if last.is_empty() {
            lines.push("  none since it was last read back".to_owned());
        }
        lines.extend(killed.map(|at| format!("  killed {:>9}", moment(at))));
        lines
    }
}

impl KeyLog {
    /// What one entry does to a value.
    pub fn step(value: &mut Value, key: &str, entry: &Entry, record: &Record, end: Duration) {
        let to = if let Fate::Answered(at) = record.fate { at } else { end.max(record.sent) };
        let at = Span { from: record.sent, to };
        for (index, effect) in effects(record, key, entry).enumerate() {
            let there = entry.there.get(index).copied().flatten();
            // A server that refuses a command for the kind of the key leaves the key as it is.
            let _ = effect.apply(value, at, there);
        }
    }
}

/// The effects of a record that an entry stands for.
pub fn effects<'a>(record: &'a Record, key: &'a str, entry: &Entry) -> impl Iterator<Item = &'a Effect> {
    // A lone read is an entry only if it found that the key had expired.
    let reads = record.operation.is_transaction() || !entry.there.is_empty();
    record.operation.effects_on(key).filter(move |effect| reads || effect.writes())
}

/// An error that a server gives only if the key holds what it can't hold.
fn is_wrong_kind(error: &str) -> bool {
    error.starts_with("WRONGTYPE") || error.contains("not an integer")
}

fn shortly(words: &[String]) -> String {
    words.iter().map(|word| short(word)).collect::<Vec<_>>().join(" ")
}

/// What should have been answered, if it is something else.
fn differs(answer: &Answer, reply: &Reply) -> Option<String> {
    let (same, expected) = match (answer, reply) {
        (Answer::Ok, reply) => (matches!(reply, Reply::Simple(text) if text == "OK"), "OK".to_owned()),
        (Answer::Number(number), reply) => (*reply == Reply::Integer(*number), number.to_string()),
        (Answer::Text(text), reply) => {
            let found = match reply {
                Reply::Bulk(Some(_)) => Some(Some(reply.text())),
                Reply::Bulk(None) => Some(None),
                _ => None,
            };
            (found.as_ref() == Some(text), text.as_deref().map_or("(nil)".to_owned(), short))
        }
        (Answer::Data(kind, data), reply) => {
            let found = Data::of(*kind, reply);
            (found.as_ref() == Ok(data), data.to_string())
        }
    };
    (!same).then_some(expected)
}
