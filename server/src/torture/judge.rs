//! Whether what was read back can be: the promise, and what each key may hold by it.
//!
//! The operations on a key have an order, because one client sends them all. So what a key holds must be its state after some
//! first part of them; the promise says how long that part must at least be. What it must not be longer or other than
//! needs no promise: no hole, no half command, nothing that was not written, nothing that had been replaced.

use std::collections::BTreeMap;
use std::time::Duration;

use super::effect::Effect;
use super::model::{ClientLog, Fate, KeyLog, Record, effects};
use super::value::{Data, Deadline, Found, Span, Value};
use super::violation::{Breach, Violation, moment, shortened};

/// What `everysec` may lose: writes acknowledged so long before the kill.
pub const EVERYSEC: Duration = Duration::from_secs(2);
/// How many former states of a key are remembered, to tell what came back. Where all may be lost, all are.
const PAST_MAX: usize = 1000;
/// How far back a hole is looked for, in operations on the key.
const HOLES_MAX: usize = 300;
/// How far back a half command is looked for.
const HALVES_MAX: usize = 60;

/// What a server promises of a write that it acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Promise {
    /// It is never lost.
    Always,
    /// It is not lost if the server lives for two more seconds or stops cleanly.
    Everysec,
    /// Nothing, but that what is left is a state that was.
    Nothing,
}

/// How a server ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kill {
    /// At once.
    Sigkill,
    /// It was asked to.
    Sigterm,
    /// Not at all.
    None,
}

/// What is to be judged by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The promise.
    pub promise: Promise,
    /// The end.
    pub kill: Kill,
    /// When that was.
    pub killed_at: Duration,
}

impl Rule {
    /// Whether a write with this fate must be there.
    #[must_use]
    pub fn requires(&self, fate: Fate) -> bool {
        let Fate::Answered(at) = fate else { return false };
        match (self.promise, self.kill) {
            (_, Kill::None) | (Promise::Always, _) | (Promise::Everysec, Kill::Sigterm) => true,
            (Promise::Everysec, Kill::Sigkill) => at + EVERYSEC <= self.killed_at,
            (Promise::Nothing, _) => false,
        }
    }

    /// Whether even what was read back after an earlier kill may be lost.
    #[must_use]
    pub fn may_lose_all(&self) -> bool {
        self.promise == Promise::Nothing && self.kill != Kill::None
    }

    /// The moment of the kill, if there was one.
    #[must_use]
    pub fn kill_moment(&self) -> Option<Duration> {
        (self.kill != Kill::None).then_some(self.killed_at)
    }
}

impl ClientLog {
    /// Judges what was found at every key of this client, and begins anew from it.
    pub fn settle(&mut self, mut found: BTreeMap<String, Found>, rule: Rule) -> Vec<Violation> {
        self.close();
        let (mut violations, mut verdicts) = (Vec::new(), Vec::new());
        let mut places = BTreeMap::new();
        for (key, log) in &self.keys {
            let Some(found) = found.get(key) else { continue };
            let history = History { key, log, records: &self.records, rule };
            match history.places(found) {
                Ok(some) => {
                    places.insert(key.clone(), some);
                }
                Err(verdict) => verdicts.push((key, verdict)),
            }
        }
        for (key, mut verdict) in verdicts {
            // What is lost here and there on another key is a command by half.
            let elsewhere = verdict.lost.and_then(|record| self.holder(record, &places));
            if let Some(holder) = elsewhere {
                verdict.breach = Breach::Halved;
                verdict.more.push(format!("{holder}, which the same command wrote to, has it"));
            }
            violations.extend(found.get(key).map(|found| self.violation(key, verdict, found, rule)));
        }
        if violations.is_empty() {
            violations.extend(self.halved_between_keys(&places, &found, rule));
        }
        for (key, log) in &mut self.keys {
            if let (Some(place), Some(found)) = (places.get(key), found.remove(key)) {
                log.begin_anew(key, place, found, &self.records, rule);
            }
        }
        self.records.clear();
        violations
    }

    /// A key that surely has this record.
    fn holder(&self, record: usize, places: &BTreeMap<String, Place>) -> Option<&str> {
        let has = |(key, log): &(&String, &KeyLog)| {
            let least = places.get(*key).map_or(0, |place| place.range().0);
            log.entries[..least].iter().any(|entry| entry.record == record)
        };
        self.keys.iter().find(has).map(|(key, _)| key.as_str())
    }

    fn violation(&self, key: &str, verdict: Verdict, found: &Found, rule: Rule) -> Violation {
        let mut more = verdict.more;
        more.extend(self.last_operations(key, rule.kill_moment()));
        let found = format!("{found}, read at {}", moment(found.at.from));
        Violation { breach: verdict.breach, key: key.to_owned(), expected: verdict.expected, found, more }
    }

    /// A command on several keys that is there at one of them and not at another.
    fn halved_between_keys(
        &self,
        places: &BTreeMap<String, Place>,
        found: &BTreeMap<String, Found>,
        rule: Rule,
    ) -> Option<Violation> {
        let mut seen: BTreeMap<usize, (Option<&str>, Option<&str>)> = BTreeMap::new();
        for (key, log) in &self.keys {
            let Some(place) = places.get(key) else { continue };
            let (least, most) = place.range();
            for (index, entry) in log.entries.iter().enumerate() {
                let sides = seen.entry(entry.record).or_default();
                if index < least {
                    sides.0 = Some(key);
                } else if index >= most {
                    sides.1 = Some(key);
                }
            }
        }
        let (record, there, gone) =
            seen.iter().find_map(|(record, sides)| Some((record, sides.0?, sides.1?)))?;
        let record = &self.records[*record];
        let mut more = vec![format!("the command: {}", shortened(&record.operation))];
        more.push(format!("it was sent at {}, {}", moment(record.sent), record.fate.text()));
        for key in [there, gone] {
            more.push(format!("{key}:"));
            more.extend(self.last_operations(key, rule.kill_moment()));
        }
        let held = |key: &str| found.get(key).map(ToString::to_string).unwrap_or_default();
        Some(Violation {
            breach: Breach::Halved,
            key: gone.to_owned(),
            expected: format!("all of the command or nothing of it; {there} has it: {}", held(there)),
            found: format!("{gone} does not: {}", held(gone)),
            more,
        })
    }
}

/// After how many of its entries a key is in the state that was found.
#[derive(Clone, Debug)]
enum Place {
    /// One of these, ascending, at least one.
    After(Vec<usize>),
    /// Before all of them: a state that it had in former times, by its place in the past.
    Past(usize),
}

impl Place {
    fn range(&self) -> (usize, usize) {
        match self {
            Place::After(places) => {
                (places.first().copied().unwrap_or(0), places.last().copied().unwrap_or(0))
            }
            Place::Past(_) => (0, 0),
        }
    }
}

/// Why what was found can't be.
struct Verdict {
    breach: Breach,
    /// The first record that is lost, if some are lost from one on.
    lost: Option<usize>,
    expected: String,
    more: Vec<String>,
}

struct History<'a> {
    key: &'a str,
    log: &'a KeyLog,
    records: &'a [Record],
    rule: Rule,
}

impl History<'_> {
    fn step(&self, value: &mut Value, index: usize) {
        let entry = &self.log.entries[index];
        KeyLog::step(value, self.key, entry, &self.records[entry.record], self.rule.killed_at);
    }

    fn record(&self, index: usize) -> &Record {
        &self.records[self.log.entries[index].record]
    }

    /// The fewest entries that must be there.
    fn least(&self) -> usize {
        let required = |&index: &usize| self.rule.requires(self.record(index).fate);
        (0..self.log.entries.len()).rev().find(required).map_or(0, |last| last + 1)
    }

    fn places(&self, found: &Found) -> Result<Place, Verdict> {
        let least = self.least();
        let mut value = self.log.base.clone();
        let mut places = Vec::new();
        for count in 0..=self.log.entries.len() {
            if count >= least && value.fits(found) {
                places.push(count);
            }
            if count < self.log.entries.len() {
                self.step(&mut value, count);
            }
        }
        if !places.is_empty() {
            return Ok(Place::After(places));
        }
        if self.rule.may_lose_all() {
            let fingerprint = found.data.fingerprint();
            if let Some(place) = self.log.past.iter().rposition(|&past| past == fingerprint) {
                return Ok(Place::Past(place));
            }
            if found.data == Data::Nothing {
                return Ok(Place::Past(0));
            }
        }
        Err(self.diagnose(found, least))
    }

    /// The state after so many entries.
    fn state(&self, count: usize) -> Value {
        let mut value = self.log.base.clone();
        (0..count).for_each(|index| self.step(&mut value, index));
        value
    }

    /// Says in which way it is wrong.
    fn diagnose(&self, found: &Found, least: usize) -> Verdict {
        let all = self.log.entries.len();
        let expected = if least == all {
            self.state(all).to_string()
        } else {
            format!("{}, or a later state up to {}", self.state(least), self.state(all))
        };
        let verdict = |breach, more| Verdict { breach, lost: None, expected: expected.clone(), more };
        if let Some(count) = self.earlier_state(found, least) {
            let record = self.record(count);
            let lost = (count..all).filter(|&index| self.rule.requires(self.record(index).fate)).count();
            let first = Some(self.log.entries[count].record);
            return Verdict { lost: first, ..verdict(Breach::Lost, vec![lost_text(lost, record)]) };
        }
        if let Some(index) = self.hole(found) {
            let record = self.record(index);
            let text = format!(
                "missing, though later ones are there: {}, {}",
                shortened(&record.operation),
                record.fate.text()
            );
            return verdict(Breach::Disordered, vec![text]);
        }
        if let Some((index, text)) = self.half(found) {
            let more = vec![
                format!("only this of it: {text}"),
                format!("the command: {}", shortened(&self.record(index).operation)),
            ];
            return verdict(Breach::Halved, more);
        }
        if let Some(breach) = self.wrong_time(found) {
            return verdict(breach, Vec::new());
        }
        if let Some(text) = self.never_written(found) {
            return verdict(Breach::Invented, vec![format!("nobody wrote: {text}")]);
        }
        if found.data == Data::Nothing {
            return verdict(Breach::Lost, vec!["the key is gone".to_owned()]);
        }
        let returned = self.log.past.contains(&found.data.fingerprint());
        let text = if returned {
            "the key held this before; it was replaced, deleted or expired since"
        } else {
            "the key never held this: parts of it are older, or missing"
        };
        verdict(if returned { Breach::Returned } else { Breach::Disordered }, vec![text.to_owned()])
    }

    /// The last state that is too early.
    fn earlier_state(&self, found: &Found, least: usize) -> Option<usize> {
        let mut value = self.log.base.clone();
        let mut place = None;
        for count in 0..least {
            if value.fits(found) {
                place = Some(count);
            }
            self.step(&mut value, count);
        }
        place
    }

    /// The entry of which only a part is there, with all others up to some later one.
    fn half(&self, found: &Found) -> Option<(usize, String)> {
        let all = self.log.entries.len();
        let from = all.saturating_sub(HALVES_MAX);
        let mut value = self.state(from);
        for index in from..all {
            let record = self.record(index);
            let at = Span { from: record.sent, to: self.rule.killed_at.max(record.sent) };
            for part in parts(record, self.key, &self.log.entries[index]) {
                let mut halved = value.clone();
                let done = part.iter().all(|effect| effect.apply(&mut halved, at, None).is_ok());
                let fits = (index..all).any(|later| {
                    if later > index {
                        self.step(&mut halved, later);
                    }
                    halved.fits(found)
                });
                if done && fits {
                    let text = part.iter().map(Effect::shown).collect::<Vec<_>>().join("; ");
                    return Some((index, text));
                }
            }
            self.step(&mut value, index);
        }
        None
    }

    /// The entry without which all others give what was found.
    fn hole(&self, found: &Found) -> Option<usize> {
        let all = self.log.entries.len();
        let from = all.saturating_sub(HOLES_MAX);
        let mut before = self.state(from);
        for missing in from..all {
            let mut value = before.clone();
            for index in missing + 1..all {
                self.step(&mut value, index);
                if value.fits(found) {
                    return Some(missing);
                }
            }
            self.step(&mut before, missing);
        }
        None
    }

    /// The right data, but expired, or with another deadline.
    fn wrong_time(&self, found: &Found) -> Option<Breach> {
        let mut value = self.log.base.clone();
        let mut same = None;
        for count in 0..=self.log.entries.len() {
            if value.data == found.data && found.data != Data::Nothing {
                let over = |deadline: Deadline| deadline.late.is_some_and(|late| late < found.at.from);
                let expired = value.deadline.is_some_and(over);
                same = Some(if expired { Breach::Returned } else { Breach::Expiry });
            }
            if count < self.log.entries.len() {
                self.step(&mut value, count);
            }
        }
        same.filter(|breach| {
            *breach == Breach::Returned || self.log.base.deadline.is_some() || self.is_timed()
        })
    }

    fn is_timed(&self) -> bool {
        let timed =
            |effect: &Effect| matches!(effect, Effect::Expire(_) | Effect::Persist | Effect::Set(_, Some(_)));
        let mut entries = self.log.entries.iter();
        entries.any(|entry| effects(&self.records[entry.record], self.key, entry).any(timed))
    }

    /// A text in what was found that neither stood there before nor was sent since. Texts of former states are
    /// not remembered: they are told by the name of their writer, whose steps all came before.
    fn never_written(&self, found: &Found) -> Option<String> {
        let sent = |text: &str| {
            self.log.entries.iter().any(|entry| {
                effects(&self.records[entry.record], self.key, entry)
                    .flat_map(Effect::texts)
                    .any(|written| written == text)
            })
        };
        let unknown = |text: &&String| {
            let parts: Vec<&str> = text.split('+').collect();
            let known = |part: &str| sent(part) || sent(&format!("+{part}")) || looks_written(part);
            !self.log.base.data.texts().any(|held| held == *text) && !parts.into_iter().all(known)
        };
        if matches!(&found.data, Data::Text(text) if text.parse::<i64>().is_ok()) {
            return None;
        }
        found.data.texts().find(unknown).cloned()
    }
}

/// Whether a text is one of those that the plan's clients write.
fn looks_written(text: &str) -> bool {
    let (name, padding) = text.split_once('-').unwrap_or((text, ""));
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let named = name.strip_prefix('c').and_then(|rest| rest.split_once('.')).is_some_and(|(client, step)| {
        number(client) && number(step.trim_end_matches(|letter: char| letter.is_ascii_lowercase()))
    });
    let pooled = name.strip_prefix(['m', 'f']).is_some_and(number);
    (named || pooled) && padding.bytes().all(|byte| byte == b'x')
}

/// What a server may have done that does a record by half: parts of its last effect, after some of the others.
fn parts(record: &Record, key: &str, entry: &super::model::Entry) -> Vec<Vec<Effect>> {
    let effects: Vec<Effect> = effects(record, key, entry).cloned().collect();
    let mut all = Vec::new();
    for (index, effect) in effects.iter().enumerate() {
        for part in effect.parts() {
            all.push(effects[..index].iter().cloned().chain([part]).collect());
        }
        if index > 0 {
            all.push(effects[..index].to_vec());
            all.push(vec![effect.clone()]);
        }
    }
    all
}

fn lost_text(lost: usize, first: &Record) -> String {
    let text = format!("{}, {}", shortened(&first.operation), first.fate.text());
    match lost {
        1 => format!("lost: {text}"),
        _ => format!("the last {lost} acknowledged writes of this key are lost; the first of them: {text}"),
    }
}

impl KeyLog {
    /// What was found is what the key holds from now on; its states until then are its past.
    fn begin_anew(&mut self, key: &str, place: &Place, found: Found, records: &[Record], rule: Rule) {
        match place {
            Place::Past(place) => self.past.truncate(place + 1),
            Place::After(_) => {
                let mut value = std::mem::take(&mut self.base);
                for entry in &self.entries[..place.range().1] {
                    self.past.push(value.data.fingerprint());
                    KeyLog::step(&mut value, key, entry, &records[entry.record], rule.killed_at);
                }
                // It may have expired between the last operation and the reading.
                if rule.promise != Promise::Nothing {
                    self.past.push(value.data.fingerprint());
                }
            }
        }
        self.past.push(found.data.fingerprint());
        if rule.promise != Promise::Nothing && self.past.len() > PAST_MAX {
            self.past.drain(..self.past.len() - PAST_MAX);
        }
        self.entries.clear();
        self.base = found.into_value();
        self.now = self.base.clone();
    }
}
