//! Keys that all clients write to at once: counters, lists and sets. What is done to them can be done in any order, so that
//! what must be there is known without knowing the order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::remote::Reply;

use super::effect::{Effect, End};
use super::judge::Rule;
use super::model::Fate;
use super::operation::Operation;
use super::value::{Data, Found, Kind};
use super::violation::{Breach, LAST_OPERATIONS, Violation, dated, moment};

/// A write to a shared key.
#[derive(Clone, Debug)]
struct Item {
    client: usize,
    operation: Operation,
    sent: Duration,
    fate: Fate,
    /// What it adds: to a counter a number, else texts.
    by: i64,
    texts: Vec<String>,
    /// The least that the answer can be: all that was answered before it was sent, and itself.
    answer_min: i64,
    /// The answer: the counter's value, the list's length.
    answer: Option<i64>,
    /// It was read back.
    settled: bool,
}

/// One shared key.
#[derive(Clone, Debug)]
struct SharedKey {
    kind: Kind,
    items: Vec<Item>,
    /// Of a counter: its value; of a list: its length; when it was last read back.
    base: i64,
    /// Of a list: what it held when it was last read back.
    list: Vec<String>,
    /// What was lost and must stay so.
    lost: BTreeSet<String>,
}

/// A write under way.
#[derive(Clone, Debug)]
pub struct Ticket {
    key: String,
    item: usize,
}

/// All shared keys.
#[derive(Clone, Default, Debug)]
pub struct SharedKeys {
    keys: BTreeMap<String, SharedKey>,
}

impl SharedKeys {
    /// Whether the tester can judge this operation on a shared key.
    #[must_use]
    pub fn takes(operation: &Operation) -> bool {
        let mut touches = operation.touches();
        let one = touches.next().map(|touch| &touch.effect);
        let known = match one {
            Some(Effect::Add(by)) => *by > 0,
            Some(Effect::Push(End::Tail, _) | Effect::AddMembers(_)) => true,
            _ => false,
        };
        known && touches.next().is_none() && !operation.is_transaction()
    }

    /// Their names and kinds.
    pub fn kinds(&self) -> impl Iterator<Item = (&str, Kind)> {
        self.keys.iter().map(|(name, key)| (name.as_str(), key.kind))
    }

    /// Forgets keys; their names.
    pub fn retire(&mut self, old: impl Fn(&str) -> bool) -> Vec<String> {
        let names: Vec<String> = self.keys.keys().filter(|name| old(name)).cloned().collect();
        for name in &names {
            self.keys.remove(name);
        }
        names
    }

    /// A write is about to be sent.
    ///
    /// # Panics
    /// If it is none that these keys take.
    pub fn sent(&mut self, client: usize, operation: Operation, now: Duration) -> Ticket {
        let touch = operation.touches().next().expect("the caller asked whether these keys take it").clone();
        let kind = touch.effect.kind().unwrap_or(Kind::Text);
        let new = || SharedKey { kind, items: Vec::new(), base: 0, list: Vec::new(), lost: BTreeSet::new() };
        let key = self.keys.entry(touch.key.clone()).or_insert_with(new);
        let texts: Vec<String> = touch.effect.texts().into_iter().map(str::to_owned).collect();
        let by = match touch.effect {
            Effect::Add(by) => by,
            _ => i64::try_from(texts.len()).unwrap_or(i64::MAX),
        };
        let answered =
            key.items.iter().filter(|item| !item.settled && matches!(item.fate, Fate::Answered(_)));
        let answer_min = key.base + answered.map(|item| item.by).sum::<i64>() + by;
        let fate = Fate::Unanswered;
        key.items.push(Item {
            client,
            operation,
            sent: now,
            fate,
            by,
            texts,
            answer_min,
            answer: None,
            settled: false,
        });
        Ticket { key: touch.key, item: key.items.len() - 1 }
    }

    /// It was answered.
    ///
    /// # Errors
    /// If the answer can't be.
    pub fn answered(&mut self, ticket: &Ticket, reply: &Reply, now: Duration) -> Result<Fate, Violation> {
        let Some(key) = self.keys.get_mut(&ticket.key) else { return Ok(Fate::Refused) };
        if matches!(reply, Reply::Error(_)) {
            key.items[ticket.item].fate = Fate::Refused;
            return Ok(Fate::Refused);
        }
        key.items[ticket.item].fate = Fate::Answered(now);
        let issued = key.items.iter().filter(|item| !item.settled && item.fate != Fate::Refused);
        let most = key.base + issued.map(|item| item.by).sum::<i64>();
        let item = &key.items[ticket.item];
        let (least, most) = if key.kind == Kind::Set { (item.by, item.by) } else { (item.answer_min, most) };
        let taken = |other: &Item| {
            key.kind != Kind::Set && Reply::Integer(other.answer.unwrap_or(i64::MIN)) == *reply
        };
        let fits = matches!(reply, Reply::Integer(number) if (least..=most).contains(number));
        if !fits || key.items.iter().any(|other| !other.settled && taken(other)) {
            let expected = format!("{} answers {least} to {most}, and nothing twice", item.operation);
            let found = format!("it answered {}", reply.text());
            let more = key.last_operations(None);
            let key = ticket.key.clone();
            return Err(Violation { breach: Breach::WrongAnswer, key, expected, found, more });
        }
        if let Reply::Integer(number) = reply {
            key.items[ticket.item].answer = Some(*number);
        }
        Ok(Fate::Answered(now))
    }

    /// Judges what was found, and begins anew from it.
    pub fn settle(&mut self, found: &BTreeMap<String, Found>, rule: Rule) -> Vec<Violation> {
        let mut violations = Vec::new();
        for (name, key) in &mut self.keys {
            let Some(found) = found.get(name) else { continue };
            let judged = match key.kind {
                Kind::List => key.settle_list(&found.data, rule),
                Kind::Set => key.settle_set(&found.data, rule),
                _ => key.settle_counter(&found.data, rule),
            };
            if let Err((breach, expected, detail)) = judged {
                let mut more = vec![detail];
                more.extend(key.last_operations(rule.kill_moment()));
                let found = format!("{found}, read at {}", moment(found.at.from));
                violations.push(Violation { breach, key: name.clone(), expected, found, more });
            }
        }
        violations
    }
}

type Judged = Result<(), (Breach, String, String)>;

impl SharedKey {
    fn last_operations(&self, killed: Option<Duration>) -> Vec<String> {
        let mut lines = vec!["the last operations on the key, which all clients write to:".to_owned()];
        let last = &self.items[self.items.len().saturating_sub(LAST_OPERATIONS)..];
        lines.extend(last.iter().map(|item| dated(&item.operation, item.sent, &item.fate.text())));
        lines.extend(killed.map(|at| format!("  killed {:>9}", moment(at))));
        lines
    }

    /// Whether it must be there.
    fn required(item: &Item, rule: Rule) -> bool {
        if item.settled { !rule.may_lose_all() } else { rule.requires(item.fate) }
    }

    fn settle_counter(&mut self, found: &Data, rule: Rule) -> Judged {
        let number = match found {
            Data::Nothing => 0,
            Data::Text(text) => text.parse().unwrap_or(i64::MIN),
            _ => i64::MIN,
        };
        let base = if rule.may_lose_all() { 0 } else { self.base };
        let required = || self.items.iter().filter(|item| Self::required(item, rule));
        let summed = base + required().map(|item| item.by).sum::<i64>();
        // Whoever was answered saw all that the answer counts.
        let least = required().filter_map(|item| item.answer).fold(summed, i64::max);
        let issued = self.items.iter().filter(|item| item.fate != Fate::Refused);
        let most = self.base + issued.map(|item| item.by).sum::<i64>();
        if !(least..=most).contains(&number) {
            let breach = if number < least && number >= 0 { Breach::Lost } else { Breach::Invented };
            let expected = if least == most { least.to_string() } else { format!("{least} to {most}") };
            let detail = format!("{summed} was acknowledged, {most} was tried");
            return Err((breach, expected, detail));
        }
        self.base = number;
        self.items.clear();
        Ok(())
    }

    fn settle_set(&mut self, found: &Data, rule: Rule) -> Judged {
        let none = BTreeSet::new();
        let found = if let Data::Set(members) = found { members } else { &none };
        let mut known = 0;
        let mut missing: BTreeMap<usize, usize> = BTreeMap::new();
        for (index, item) in self.items.iter().enumerate() {
            let there = item.texts.iter().filter(|&text| found.contains(text)).count();
            known += there;
            let command = || format!("{}, {}", item.operation, item.fate.text());
            if there > 0 && there < item.texts.len() {
                let expected = "all members of a command or none".to_owned();
                return Err((Breach::Halved, expected, format!("{there} members of {}", command())));
            }
            if there > 0 && item.fate == Fate::Refused {
                return Err((Breach::Invented, "no member of a refused command".to_owned(), command()));
            }
            if there == 0 && item.fate != Fate::Refused {
                if Self::required(item, rule) {
                    let expected = "every member that was acknowledged".to_owned();
                    return Err((Breach::Lost, expected, format!("lost: {}", command())));
                }
                missing.entry(item.client).or_insert(index);
            } else if let Some(&before) = missing.get(&item.client).filter(|_| item.fate != Fate::Refused) {
                let expected = "no member that was added after a missing one by the same client".to_owned();
                let detail = format!("missing: {}; there: {}", self.items[before].operation, command());
                return Err((Breach::Disordered, expected, detail));
            }
        }
        if known != found.len() {
            let written: BTreeSet<&String> = self.items.iter().flat_map(|item| &item.texts).collect();
            let strange = found.iter().find(|text| !written.contains(text)).cloned().unwrap_or_default();
            let breach = if self.lost.contains(&strange) { Breach::Returned } else { Breach::Invented };
            return Err((
                breach,
                "only what was added".to_owned(),
                format!("not added, or lost before: {strange}"),
            ));
        }
        let (there, lost) = std::mem::take(&mut self.items)
            .into_iter()
            .partition(|item: &Item| item.texts.iter().all(|text| found.contains(text)));
        self.items = there;
        self.lost.extend(Vec::into_iter(lost).flat_map(|item: Item| item.texts));
        self.items.iter_mut().for_each(|item| item.settled = true);
        Ok(())
    }

    fn settle_list(&mut self, found: &Data, rule: Rule) -> Judged {
        let empty = std::collections::VecDeque::new();
        let found = if let Data::List(items) = found { items } else { &empty };
        let settled = self.list.len();
        if let Some(place) = self.list.iter().zip(found).position(|(held, found)| held != found) {
            let expected = format!("{} at {place}, as it was read back before", self.list[place]);
            return Err((Breach::Disordered, expected, format!("at {place}: {}", found[place])));
        }
        if found.len() < settled && !rule.may_lose_all() {
            let expected = format!("at least the {settled} items that were read back before");
            return Err((Breach::Lost, expected, format!("{} items", found.len())));
        }
        // By its first item each push is found, and then must be there whole, where its answer said.
        let starts: BTreeMap<&String, usize> = self
            .items
            .iter()
            .enumerate()
            .filter_map(|(index, item)| Some((item.texts.first()?, index)))
            .collect();
        let mut place = settled.min(found.len());
        let mut last: BTreeMap<usize, usize> = BTreeMap::new();
        let mut latest_sent = Duration::ZERO;
        let mut there = BTreeSet::new();
        while let Some(text) = found.get(place) {
            let start = starts.get(text).filter(|&&index| self.items[index].fate != Fate::Refused);
            let Some((index, item)) = start.map(|&index| (index, &self.items[index])) else {
                let later = self.items.iter().any(|item| item.texts.contains(text));
                let breach = match (later, self.lost.contains(text)) {
                    (true, _) => Breach::Halved,
                    (_, true) => Breach::Returned,
                    _ => Breach::Invented,
                };
                return Err((
                    breach,
                    "whole pushes, one after the other".to_owned(),
                    format!("at {place}: {text}"),
                ));
            };
            let command = format!("{}, {}", item.operation, item.fate.text());
            let end = place + item.texts.len();
            if found.len() < end
                || !item.texts.iter().zip(found.range(place..end)).all(|(sent, found)| sent == found)
            {
                return Err((
                    Breach::Halved,
                    "the whole push".to_owned(),
                    format!("at {place}, by half: {command}"),
                ));
            }
            let answered_elsewhere = item.answer.is_some_and(|answer| usize::try_from(answer) != Ok(end));
            let answered_before = matches!(item.fate, Fate::Answered(at) if at < latest_sent)
                || last.get(&item.client) > Some(&index);
            if answered_elsewhere || answered_before || !there.insert(text) {
                let expected = "pushes in the order in which they were acknowledged, each once".to_owned();
                return Err((Breach::Disordered, expected, format!("at {place}: {command}")));
            }
            latest_sent = latest_sent.max(item.sent);
            last.insert(item.client, index);
            place = end;
        }
        let missing = |item: &&Item| item.texts.first().is_some_and(|text| !there.contains(text));
        if let Some(item) = self.items.iter().filter(missing).find(|item| Self::required(item, rule)) {
            let expected = "every push that was acknowledged".to_owned();
            return Err((Breach::Lost, expected, format!("lost: {}, {}", item.operation, item.fate.text())));
        }
        // Per client, what is missing comes last.
        let unrefused = |(_, item): &(usize, &Item)| item.fate != Fate::Refused && missing(item);
        for (index, item) in self.items.iter().enumerate().filter(unrefused) {
            if last.get(&item.client) > Some(&index) {
                let expected = "no push after a missing one of the same client".to_owned();
                return Err((Breach::Disordered, expected, format!("missing: {}", item.operation)));
            }
        }
        let lost: Vec<String> =
            self.items.iter().filter(missing).flat_map(|item| item.texts.clone()).collect();
        self.lost.extend(lost);
        self.lost.extend(self.list.drain(found.len().min(settled)..));
        self.list = found.iter().cloned().collect();
        self.base = i64::try_from(self.list.len()).unwrap_or(i64::MAX);
        self.items.clear();
        Ok(())
    }
}
