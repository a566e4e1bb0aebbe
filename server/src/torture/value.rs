//! What a key can hold, as far as the tester writes it, and whether what was read back can be that.
//!
//! A value may have a deadline. The tester doesn't know when exactly a server ran a command, only between which moments, so a
//! deadline is a span too: before its beginning the value must be there, after its end it must be gone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::remote::Reply;

/// How far a server's clock may be from the tester's.
const SLACK: Duration = Duration::from_millis(100);
/// How much of a long text is shown.
const SHOWN_CHARS: usize = 60;
/// How many items of a long collection are shown.
const SHOWN_ITEMS: usize = 12;

/// When a command ran at the server: not before it was sent, not after its answer came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// It was sent then.
    pub from: Duration,
    /// It was answered then; for one that was not, the end of its server.
    pub to: Duration,
}

/// When a value expires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadline {
    /// Before this the value is there.
    pub early: Duration,
    /// After this it is gone; `None` if perhaps never.
    pub late: Option<Duration>,
}

/// Whether a value is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    /// It is.
    There,
    /// It is not.
    Gone,
    /// Nobody can know.
    Either,
}

/// The kinds of keys, by the command that reads them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Strings and counters.
    Text,
    /// Lists.
    List,
    /// Hashes.
    Hash,
    /// Sets.
    Set,
    /// Sorted sets.
    Zset,
}

impl Kind {
    /// The command that reads a key of this kind whole.
    #[must_use]
    pub fn read(self, key: &str) -> Vec<String> {
        let words: &[&str] = match self {
            Kind::Text => &["GET", key],
            Kind::List => &["LRANGE", key, "0", "-1"],
            Kind::Hash => &["HGETALL", key],
            Kind::Set => &["SMEMBERS", key],
            Kind::Zset => &["ZRANGE", key, "0", "-1", "WITHSCORES"],
        };
        words.iter().map(|&word| word.to_owned()).collect()
    }
}

/// What stands at a key.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub enum Data {
    /// Nothing.
    #[default]
    Nothing,
    /// A string or a counter.
    Text(String),
    /// A list.
    List(VecDeque<String>),
    /// A hash.
    Hash(BTreeMap<String, String>),
    /// A set.
    Set(BTreeSet<String>),
    /// A sorted set: scores by member. The tester's scores are whole numbers.
    Zset(BTreeMap<String, i64>),
}

impl Data {
    /// A number that tells two of them apart, nearly surely.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    /// An empty collection is nothing, as Redis has it.
    pub fn tidy(&mut self) {
        let empty = match self {
            Data::Nothing | Data::Text(_) => false,
            Data::List(items) => items.is_empty(),
            Data::Hash(fields) => fields.is_empty(),
            Data::Set(members) => members.is_empty(),
            Data::Zset(members) => members.is_empty(),
        };
        if empty {
            *self = Data::Nothing;
        }
    }

    /// Reads the answer to [`Kind::read`].
    ///
    /// # Errors
    /// If it is no such answer, as text.
    pub fn of(kind: Kind, reply: &Reply) -> Result<Data, String> {
        let mut data = match (kind, reply) {
            (Kind::Text, Reply::Bulk(None)) => Data::Nothing,
            (Kind::Text, Reply::Bulk(Some(_))) => Data::Text(reply.text()),
            (Kind::List, Reply::Array(items)) => Data::List(items.iter().map(Reply::text).collect()),
            (Kind::Set, Reply::Array(items)) => {
                let members: BTreeSet<String> = items.iter().map(Reply::text).collect();
                if members.len() != items.len() {
                    return Err(format!("members twice: {}", reply.text()));
                }
                Data::Set(members)
            }
            (Kind::Hash, Reply::Array(items)) => Data::Hash(
                pairs(items)?.map(|(field, value)| Ok((field, value))).collect::<Result<_, String>>()?,
            ),
            (Kind::Zset, Reply::Array(items)) => Data::Zset(
                pairs(items)?
                    .map(|(member, score)| {
                        let whole = score.parse().map_err(|_| format!("{member} has the score {score}"))?;
                        Ok((member, whole))
                    })
                    .collect::<Result<_, String>>()?,
            ),
            _ => return Err(reply.text()),
        };
        data.tidy();
        Ok(data)
    }

    /// The strings that it is made of.
    pub fn texts(&self) -> Box<dyn Iterator<Item = &String> + '_> {
        match self {
            Data::Nothing => Box::new(std::iter::empty()),
            Data::Text(text) => Box::new(std::iter::once(text)),
            Data::List(items) => Box::new(items.iter()),
            Data::Hash(fields) => Box::new(fields.values()),
            Data::Set(members) => Box::new(members.iter()),
            Data::Zset(members) => Box::new(members.keys()),
        }
    }
}

fn pairs(items: &[Reply]) -> Result<impl Iterator<Item = (String, String)> + '_, String> {
    if items.len().is_multiple_of(2) {
        Ok(items.chunks(2).map(|pair| (pair[0].text(), pair[1].text())))
    } else {
        Err("an odd number of items".to_owned())
    }
}

impl fmt::Display for Data {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let many = |out: &mut fmt::Formatter<'_>, what: &str, len: usize, items: Vec<String>| {
            let more = if len > SHOWN_ITEMS { ", ..." } else { "" };
            write!(out, "{what} of {len}: {}{more}", items.join(", "))
        };
        match self {
            Data::Nothing => write!(out, "nothing"),
            Data::Text(text) => write!(out, "\"{}\"", short(text)),
            Data::List(items) => many(
                out,
                "list",
                items.len(),
                items.iter().take(SHOWN_ITEMS).map(|item| short(item)).collect(),
            ),
            Data::Hash(fields) => {
                let items =
                    fields.iter().take(SHOWN_ITEMS).map(|(name, value)| format!("{name}={}", short(value)));
                many(out, "hash", fields.len(), items.collect())
            }
            Data::Set(members) => {
                let items = members.iter().take(SHOWN_ITEMS).map(|member| short(member));
                many(out, "set", members.len(), items.collect())
            }
            Data::Zset(members) => {
                let items =
                    members.iter().take(SHOWN_ITEMS).map(|(member, score)| format!("{member}={score}"));
                many(out, "sorted set", members.len(), items.collect())
            }
        }
    }
}

/// A text, cut if it is long.
#[must_use]
pub fn short(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}...({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}

/// What a key holds, and until when.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Value {
    /// What.
    pub data: Data,
    /// Until when; `None` is for ever.
    pub deadline: Option<Deadline>,
}

impl Value {
    /// Whether it is still there at some time within the span.
    #[must_use]
    pub fn life(&self, at: Span) -> Life {
        match self.deadline {
            _ if self.data == Data::Nothing => Life::Gone,
            None => Life::There,
            Some(deadline) if at.to + SLACK < deadline.early => Life::There,
            Some(Deadline { late: Some(late), .. }) if at.from > late + SLACK => Life::Gone,
            Some(_) => Life::Either,
        }
    }

    /// Whether this is what was found.
    #[must_use]
    pub fn fits(&self, found: &Found) -> bool {
        let life = self.life(found.at);
        if found.data == Data::Nothing {
            return life != Life::There;
        }
        life != Life::Gone && self.data == found.data && self.deadline_fits(found)
    }

    fn deadline_fits(&self, found: &Found) -> bool {
        match (found.expires_in, self.deadline) {
            (Expires::Unknown, _) | (Expires::Never, None | Some(Deadline { late: None, .. })) => true,
            (Expires::Never, Some(_)) | (Expires::In(_), None) => false,
            (Expires::In(left), Some(deadline)) => {
                let late_enough = found.at.to + left + SLACK >= deadline.early;
                late_enough && deadline.late.is_none_or(|late| found.at.from + left <= late + SLACK)
            }
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.data)?;
        match self.deadline {
            Some(Deadline { early, late: Some(late) }) => {
                write!(out, ", expiring between {:.3} s and {:.3} s", early.as_secs_f64(), late.as_secs_f64())
            }
            Some(Deadline { early, late: None }) => {
                write!(out, ", perhaps expiring from {:.3} s", early.as_secs_f64())
            }
            None => Ok(()),
        }
    }
}

/// What PTTL said of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expires {
    /// It was not asked, or the key is gone.
    Unknown,
    /// The key has no deadline.
    Never,
    /// The time that is left.
    In(Duration),
}

/// What was read back from a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The data.
    pub data: Data,
    /// How long the key still has.
    pub expires_in: Expires,
    /// When it was read.
    pub at: Span,
}

impl Found {
    /// What the key holds from now on.
    #[must_use]
    pub fn into_value(self) -> Value {
        let deadline = match self.expires_in {
            Expires::In(left) => Some(Deadline { early: self.at.from + left, late: Some(self.at.to + left) }),
            Expires::Unknown | Expires::Never => None,
        };
        Value { data: self.data, deadline }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.data)?;
        match self.expires_in {
            Expires::In(left) => write!(out, ", expiring in {} ms", left.as_millis()),
            Expires::Never => write!(out, ", without expiry"),
            Expires::Unknown => Ok(()),
        }
    }
}
