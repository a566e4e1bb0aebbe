//! The commands that the tester knows: from words to what they do to a key, and what they answer.
//!
//! One direction only: the generator and a script both give words, and what the model believes is read from those.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::remote::Reply;

use super::value::{Data, Deadline, Kind, Life, Span, Value, short};

/// One end of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The first item's.
    Head,
    /// The last item's.
    Tail,
}

/// What a command does to one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Reads the key whole.
    Read(Kind),
    /// Sets a string, perhaps with a time to live.
    Set(String, Option<Duration>),
    /// Removes the key.
    Delete,
    /// Appends to a string.
    Append(String),
    /// Counts.
    Add(i64),
    /// Puts items into a list.
    Push(End, Vec<String>),
    /// Takes an item from a list.
    Pop(End),
    /// Keeps that many items at the tail of a list.
    Trim(usize),
    /// Sets fields of a hash.
    SetFields(Vec<(String, String)>),
    /// Removes fields of a hash.
    DropFields(Vec<String>),
    /// Adds members to a set.
    AddMembers(Vec<String>),
    /// Removes members of a set.
    DropMembers(Vec<String>),
    /// Sets scores of a sorted set.
    Score(Vec<(i64, String)>),
    /// Removes members of a sorted set.
    DropScored(Vec<String>),
    /// Gives the key a time to live.
    Expire(Duration),
    /// Takes it away again.
    Persist,
}

/// What a command must answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// `+OK`.
    Ok,
    /// A number.
    Number(i64),
    /// A string or null.
    Text(Option<String>),
    /// What the key holds.
    Data(Kind, Data),
}

/// An effect and its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Touch {
    /// The key.
    pub key: String,
    /// What happens to it.
    pub effect: Effect,
}

/// What a command does, key by key.
///
/// # Errors
/// If it is none that the tester knows, as a line.
pub fn parse(words: &[String]) -> Result<Vec<Touch>, String> {
    let unknown = || format!("the tester does not know this command: {}", words.join(" "));
    let [verb, key, rest @ ..] = words else { return Err(unknown()) };
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let effect = match (verb.to_ascii_uppercase().as_str(), rest.as_slice()) {
        ("MSET", [_, ..]) if !rest.len().is_multiple_of(2) => {
            let pairs = words[1..].chunks(2);
            let touch =
                |pair: &[String]| Touch { key: pair[0].clone(), effect: Effect::Set(pair[1].clone(), None) };
            return Ok(pairs.map(touch).collect());
        }
        ("GET", []) => Effect::Read(Kind::Text),
        ("LRANGE", ["0", "-1"]) => Effect::Read(Kind::List),
        ("HGETALL", []) => Effect::Read(Kind::Hash),
        ("SMEMBERS", []) => Effect::Read(Kind::Set),
        ("ZRANGE", ["0", "-1", scores]) if scores.eq_ignore_ascii_case("withscores") => {
            Effect::Read(Kind::Zset)
        }
        ("SET", [value]) => Effect::Set((*value).to_owned(), None),
        ("SET", [value, unit, time]) => {
            Effect::Set((*value).to_owned(), Some(duration(unit, time).ok_or_else(unknown)?))
        }
        ("DEL", []) => Effect::Delete,
        ("APPEND", [value]) => Effect::Append((*value).to_owned()),
        ("INCR", []) => Effect::Add(1),
        ("INCRBY", [by]) => Effect::Add(by.parse().map_err(|_| unknown())?),
        ("DECRBY", [by]) => {
            Effect::Add(by.parse::<i64>().ok().and_then(i64::checked_neg).ok_or_else(unknown)?)
        }
        ("LPUSH", [_, ..]) => Effect::Push(End::Head, owned(&rest)),
        ("RPUSH", [_, ..]) => Effect::Push(End::Tail, owned(&rest)),
        ("LPOP", []) => Effect::Pop(End::Head),
        ("RPOP", []) => Effect::Pop(End::Tail),
        ("LTRIM", [from, "-1"]) => {
            let kept = from.strip_prefix('-').and_then(|kept| kept.parse().ok()).ok_or_else(unknown)?;
            Effect::Trim(kept)
        }
        ("HSET", [_, _, ..]) if rest.len().is_multiple_of(2) => {
            Effect::SetFields(rest.chunks(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect())
        }
        ("HDEL", [_, ..]) => Effect::DropFields(owned(&rest)),
        ("SADD", [_, ..]) => Effect::AddMembers(owned(&rest)),
        ("SREM", [_, ..]) => Effect::DropMembers(owned(&rest)),
        ("ZADD", [_, _, ..]) if rest.len().is_multiple_of(2) => {
            let pair = |pair: &[&str]| Some((pair[0].parse().ok()?, pair[1].to_owned()));
            Effect::Score(rest.chunks(2).map(pair).collect::<Option<_>>().ok_or_else(unknown)?)
        }
        ("ZREM", [_, ..]) => Effect::DropScored(owned(&rest)),
        ("PEXPIRE", [time]) => Effect::Expire(duration("PX", time).ok_or_else(unknown)?),
        ("PERSIST", []) => Effect::Persist,
        _ => return Err(unknown()),
    };
    Ok(vec![Touch { key: key.clone(), effect }])
}

fn duration(unit: &str, time: &str) -> Option<Duration> {
    let time = time.parse().ok().filter(|&time| time > 0)?;
    match unit.to_ascii_uppercase().as_str() {
        "PX" => Some(Duration::from_millis(time)),
        "EX" => Some(Duration::from_secs(time)),
        _ => None,
    }
}

impl Effect {
    /// Whether it changes anything.
    #[must_use]
    pub fn writes(&self) -> bool {
        !matches!(self, Effect::Read(_))
    }

    /// The kind of key that it works on; `None` if any.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Effect::Read(kind) => Some(*kind),
            Effect::Set(..) | Effect::Append(_) | Effect::Add(_) => Some(Kind::Text),
            Effect::Push(..) | Effect::Pop(_) | Effect::Trim(_) => Some(Kind::List),
            Effect::SetFields(_) | Effect::DropFields(_) => Some(Kind::Hash),
            Effect::AddMembers(_) | Effect::DropMembers(_) => Some(Kind::Set),
            Effect::Score(_) | Effect::DropScored(_) => Some(Kind::Zset),
            Effect::Delete | Effect::Expire(_) | Effect::Persist => None,
        }
    }

    /// Whether the server's answer tells that the key was there, for a key that may have expired.
    #[must_use]
    pub fn seen_there(&self, reply: &Reply) -> Option<bool> {
        match (self, reply) {
            (Effect::Read(_), Reply::Bulk(found)) => Some(found.is_some()),
            (Effect::Delete | Effect::Expire(_) | Effect::Persist, Reply::Integer(count)) => Some(*count > 0),
            _ => None,
        }
    }

    /// Does it, and says what the server must answer. `there` is what the answer told of a key that may have expired.
    ///
    /// # Errors
    /// If the key holds another kind of data: the history makes no sense.
    pub fn apply(&self, value: &mut Value, at: Span, there: Option<bool>) -> Result<Answer, WrongKind> {
        let life = value.life(at);
        if life == Life::Gone || (life == Life::Either && there == Some(false)) {
            *value = Value::default();
        }
        let certain = life != Life::Either || there.is_some();
        let number = |count: usize| Answer::Number(i64::try_from(count).unwrap_or(i64::MAX));
        let answer = match self {
            Effect::Read(kind) => return Ok(Answer::Data(*kind, value.data.clone())),
            Effect::Set(text, time) => {
                let deadline = time.map(|time| Deadline { early: at.from + time, late: Some(at.to + time) });
                *value = Value { data: Data::Text(text.clone()), deadline };
                return Ok(Answer::Ok);
            }
            Effect::Delete => {
                let was = std::mem::take(value);
                number(usize::from(was.data != Data::Nothing))
            }
            Effect::Expire(time) => number(usize::from(expire(value, *time, at, certain))),
            Effect::Persist => {
                let had = value.deadline.take();
                if !certain {
                    value.deadline = had.map(|had| Deadline { late: None, ..had });
                }
                number(usize::from(had.is_some()))
            }
            Effect::Append(more) => {
                let text = text(value)?;
                text.push_str(more);
                number(text.len())
            }
            Effect::Add(by) => {
                let text = text(value)?;
                let old: i64 = if text.is_empty() { 0 } else { text.parse().map_err(|_| WrongKind)? };
                let new = old.checked_add(*by).ok_or(WrongKind)?;
                *text = new.to_string();
                Answer::Number(new)
            }
            Effect::Push(end, items) => {
                let list = list(value)?;
                for item in items {
                    match end {
                        End::Head => list.push_front(item.clone()),
                        End::Tail => list.push_back(item.clone()),
                    }
                }
                number(list.len())
            }
            Effect::Pop(end) => {
                let list = list(value)?;
                Answer::Text(if *end == End::Head { list.pop_front() } else { list.pop_back() })
            }
            Effect::Trim(kept) => {
                let list = list(value)?;
                list.drain(..list.len().saturating_sub(*kept));
                Answer::Ok
            }
            Effect::SetFields(fields) => {
                let hash = hash(value)?;
                let before = hash.len();
                hash.extend(fields.iter().cloned());
                number(hash.len() - before)
            }
            Effect::DropFields(fields) => {
                let hash = hash(value)?;
                number(fields.iter().filter(|&field| hash.remove(field).is_some()).count())
            }
            Effect::AddMembers(members) => {
                let set = set(value)?;
                number(members.iter().filter(|&member| set.insert(member.clone())).count())
            }
            Effect::DropMembers(members) => {
                let set = set(value)?;
                number(members.iter().filter(|&member| set.remove(member)).count())
            }
            Effect::Score(scores) => {
                let zset = zset(value)?;
                let new = |(score, member): &&(i64, String)| zset.insert(member.clone(), *score).is_none();
                number(scores.iter().filter(new).count())
            }
            Effect::DropScored(members) => {
                let zset = zset(value)?;
                number(members.iter().filter(|&member| zset.remove(member).is_some()).count())
            }
        };
        value.data.tidy();
        if value.data == Data::Nothing {
            value.deadline = None;
        }
        Ok(answer)
    }

    /// What a server that does only a part of it may do: each first part, and each part alone.
    #[must_use]
    pub fn parts(&self) -> Vec<Effect> {
        match self {
            Effect::Push(end, items) => some_of(items).map(|items| Effect::Push(*end, items)).collect(),
            Effect::SetFields(fields) => some_of(fields).map(Effect::SetFields).collect(),
            Effect::DropFields(fields) => some_of(fields).map(Effect::DropFields).collect(),
            Effect::AddMembers(members) => some_of(members).map(Effect::AddMembers).collect(),
            Effect::DropMembers(members) => some_of(members).map(Effect::DropMembers).collect(),
            Effect::Score(scores) => some_of(scores).map(Effect::Score).collect(),
            Effect::DropScored(members) => some_of(members).map(Effect::DropScored).collect(),
            Effect::Append(text) => (1..text.len())
                .filter(|&end| text.is_char_boundary(end))
                .map(|end| Effect::Append(text[..end].to_owned()))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// What it does, for people.
    #[must_use]
    pub fn shown(&self) -> String {
        let all = |items: &[String]| items.iter().map(|item| short(item)).collect::<Vec<_>>().join(", ");
        match self {
            Effect::Set(text, _) => format!("set {}", short(text)),
            Effect::Append(text) => format!("append {}", short(text)),
            Effect::Push(_, items) => format!("push {}", all(items)),
            Effect::AddMembers(members) => format!("add {}", all(members)),
            Effect::DropFields(names) | Effect::DropMembers(names) | Effect::DropScored(names) => {
                format!("remove {}", all(names))
            }
            Effect::SetFields(fields) => {
                let fields = fields.iter().map(|(field, value)| format!("{field}={}", short(value)));
                format!("set {}", fields.collect::<Vec<_>>().join(", "))
            }
            Effect::Score(scores) => {
                let scores = scores.iter().map(|(score, member)| format!("{member}={score}"));
                format!("set {}", scores.collect::<Vec<_>>().join(", "))
            }
            other => format!("{other:?}").to_lowercase(),
        }
    }

    /// The strings that it writes.
    #[must_use]
    pub fn texts(&self) -> Vec<&str> {
        match self {
            Effect::Set(text, _) | Effect::Append(text) => vec![text],
            Effect::Push(_, items) | Effect::AddMembers(items) => items.iter().map(String::as_str).collect(),
            Effect::SetFields(fields) => fields.iter().map(|(_, value)| value.as_str()).collect(),
            Effect::Score(scores) => scores.iter().map(|(_, member)| member.as_str()).collect(),
            _ => Vec::new(),
        }
    }
}

fn some_of<T: Clone>(items: &[T]) -> impl Iterator<Item = Vec<T>> + '_ {
    let first = (1..items.len()).map(|end| items[..end].to_vec());
    let alone = items.iter().map(|item| vec![item.clone()]);
    first.chain(alone.filter(|_| items.len() > 1))
}

/// Sets the deadline; whether the key was there, as far as is known.
fn expire(value: &mut Value, time: Duration, at: Span, certain: bool) -> bool {
    if value.data == Data::Nothing {
        return false;
    }
    let new = Deadline { early: at.from + time, late: Some(at.to + time) };
    let gone_before = value.deadline.filter(|_| !certain);
    let early = gone_before.map_or(new.early, |old| old.early.min(new.early));
    value.deadline = Some(Deadline { early, ..new });
    true
}

/// The key holds data of another kind than the command is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WrongKind;

fn text(value: &mut Value) -> Result<&mut String, WrongKind> {
    if value.data == Data::Nothing {
        value.data = Data::Text(String::new());
    }
    if let Data::Text(text) = &mut value.data { Ok(text) } else { Err(WrongKind) }
}

fn list(value: &mut Value) -> Result<&mut VecDeque<String>, WrongKind> {
    if value.data == Data::Nothing {
        value.data = Data::List(VecDeque::new());
    }
    if let Data::List(items) = &mut value.data { Ok(items) } else { Err(WrongKind) }
}

fn hash(value: &mut Value) -> Result<&mut BTreeMap<String, String>, WrongKind> {
    if value.data == Data::Nothing {
        value.data = Data::Hash(BTreeMap::new());
    }
    if let Data::Hash(fields) = &mut value.data { Ok(fields) } else { Err(WrongKind) }
}

fn set(value: &mut Value) -> Result<&mut BTreeSet<String>, WrongKind> {
    if value.data == Data::Nothing {
        value.data = Data::Set(BTreeSet::new());
    }
    if let Data::Set(members) = &mut value.data { Ok(members) } else { Err(WrongKind) }
}

fn zset(value: &mut Value) -> Result<&mut BTreeMap<String, i64>, WrongKind> {
    if value.data == Data::Nothing {
        value.data = Data::Zset(BTreeMap::new());
    }
    if let Data::Zset(members) = &mut value.data { Ok(members) } else { Err(WrongKind) }
}
