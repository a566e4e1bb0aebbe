//! ZUNION, ZINTER, ZDIFF, with STORE and CARD: sorted sets and sets put together.
//!
//! All that the inputs have is read into memory, but for an intersection or a difference: there the others are only
//! asked for the members of one.

use std::collections::HashMap;

use bytes::Bytes;
use haypile_engine::key::Key;
use haypile_engine::tx::{Read, Tx};

use crate::commands::ranges;
use crate::cx::{self, Cx, Fail, integer};
use crate::kind::Kind;
use crate::number;
use crate::types::dict::Dict;
use crate::types::zset::{Scored, Zset, sort};

use super::{Scores, reply_members};

/// How the inputs are put together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// What any has.
    Union,
    /// What all have.
    Inter,
    /// What the first has and no other.
    Diff,
}

/// How the scores of one member are put together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

impl Aggregate {
    fn parse(text: &[u8]) -> Result<Aggregate, Fail> {
        match text {
            _ if cx::is(text, "sum") => Ok(Aggregate::Sum),
            _ if cx::is(text, "min") => Ok(Aggregate::Min),
            _ if cx::is(text, "max") => Ok(Aggregate::Max),
            _ => Err(Fail::syntax()),
        }
    }

    fn join(self, score: f64, other: f64) -> f64 {
        match self {
            Aggregate::Sum => number_or_zero(score + other),
            Aggregate::Min if other < score => other,
            Aggregate::Max if other > score => other,
            Aggregate::Min | Aggregate::Max => score,
        }
    }
}

/// Infinity less infinity is 0, by Redis' convention.
fn number_or_zero(score: f64) -> f64 {
    if score.is_nan() { 0.0 } else { score }
}

/// What stands at an input's key.
enum Source<'a> {
    Nothing,
    Zset(Zset<'a>),
    Set(Dict<'a>),
}

impl<'a> Source<'a> {
    fn open(cx: &mut Cx<'_>, key: &'a Key) -> Result<Source<'a>, Fail> {
        let Some(value) = cx.tx.get(key)? else { return Ok(Source::Nothing) };
        match Kind::of(&value) {
            Some(Kind::SortedSet) => Ok(Source::Zset(Zset::decode(key, &value)?)),
            Some(Kind::Set) => Ok(Source::Set(Dict::set(key, &value)?)),
            _ => Err(Fail::wrong_type()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Source::Nothing => 0,
            Source::Zset(zset) => zset.len(),
            Source::Set(set) => set.len(),
        }
    }

    /// All members; those of a set have the score 1.
    fn all(&self, tx: &mut Tx<'_>) -> Read<Vec<Scored>> {
        match self {
            Source::Nothing => Ok(Vec::new()),
            Source::Zset(zset) => zset.all(tx),
            Source::Set(set) => Ok(set.all(tx)?.into_iter().map(|(member, _)| (member, 1.0)).collect()),
        }
    }

    fn score(&self, tx: &mut Tx<'_>, member: &[u8]) -> Read<Option<f64>> {
        match self {
            Source::Nothing => Ok(None),
            Source::Zset(zset) => zset.score(tx, member),
            Source::Set(set) => Ok(set.has(tx, member)?.then_some(1.0)),
        }
    }

    fn gather<'n>(&self, tx: &mut Tx<'_>, members: impl ExactSizeIterator<Item = &'n Bytes>) -> Read<()> {
        match self {
            Source::Nothing => Ok(()),
            Source::Zset(zset) => zset.gather(tx, members),
            Source::Set(set) => set.gather(tx, members),
        }
    }
}

struct Input<'a> {
    source: Source<'a>,
    weight: f64,
}

/// What a command asks for.
struct Asked<'a> {
    inputs: Vec<Input<'a>>,
    /// The arguments behind the keys.
    options: &'a [&'a [u8]],
    aggregate: Aggregate,
    scores: Scores,
}

impl<'a> Asked<'a> {
    /// Opens the inputs; their number stands at `at`, and `skip` keys come before them.
    fn open(cx: &mut Cx<'a>, at: usize, skip: usize) -> Result<Asked<'a>, Fail> {
        let count = integer(cx.arg(at))?;
        if count < 1 {
            let name = String::from_utf8_lossy(cx.arg(0)).to_ascii_lowercase();
            return Err(Fail::error(format!("ERR at least 1 input key is needed for '{name}' command")));
        }
        let behind = &cx.args[at + 1..];
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let options = behind.get(count..).ok_or_else(Fail::syntax)?;
        let keys = &cx.keys[skip..];
        let inputs = keys.iter().map(|key| Ok(Input { source: Source::open(cx, key)?, weight: 1.0 }));
        let inputs = inputs.collect::<Result<Vec<_>, Fail>>()?;
        assert_eq!(inputs.len(), count, "the table finds the keys as they are counted here");
        Ok(Asked { inputs, options, aggregate: Aggregate::Sum, scores: Scores::Without })
    }

    /// Reads WEIGHTS, AGGREGATE and, for a reply, WITHSCORES.
    fn read_options(&mut self, operation: Operation, stored: bool) -> Result<(), Fail> {
        let weighed = operation != Operation::Diff;
        let mut options = self.options;
        while let [name, rest @ ..] = options {
            options = rest;
            if weighed && rest.len() >= self.inputs.len() && cx::is(name, "weights") {
                let (weights, rest) = rest.split_at(self.inputs.len());
                for (input, weight) in self.inputs.iter_mut().zip(weights) {
                    input.weight = number::double(weight)
                        .ok_or_else(|| Fail::error("ERR weight value is not a float"))?;
                }
                options = rest;
            } else if weighed
                && let [aggregate, rest @ ..] = rest
                && cx::is(name, "aggregate")
            {
                self.aggregate = Aggregate::parse(aggregate)?;
                options = rest;
            } else if !stored && cx::is(name, "withscores") {
                self.scores = Scores::With;
            } else {
                return Err(Fail::syntax());
            }
        }
        Ok(())
    }

    /// The result, in order.
    fn run(mut self, tx: &mut Tx<'_>, operation: Operation) -> Read<Vec<Scored>> {
        let mut members = match operation {
            Operation::Union => {
                self.smallest_first();
                self.union(tx)?
            }
            Operation::Inter => {
                self.smallest_first();
                self.inter(tx, usize::MAX)?
            }
            Operation::Diff => self.diff(tx)?,
        };
        sort(&mut members);
        Ok(members)
    }

    /// As in Redis; it decides in which order scores are added, and so how the sum is rounded.
    fn smallest_first(&mut self) {
        self.inputs.sort_by_key(|input| input.source.len());
    }

    fn union(&self, tx: &mut Tx<'_>) -> Read<Vec<Scored>> {
        let mut union: HashMap<Bytes, f64> = HashMap::new();
        for Input { source, weight } in &self.inputs {
            for (member, score) in source.all(tx)? {
                let score = number_or_zero(score * weight);
                union
                    .entry(member)
                    .and_modify(|before| *before = self.aggregate.join(*before, score))
                    .or_insert(score);
            }
        }
        Ok(union.into_iter().collect())
    }

    /// Up to `limit` members that all have.
    fn inter(&self, tx: &mut Tx<'_>, limit: usize) -> Read<Vec<Scored>> {
        let [first, others @ ..] = &self.inputs[..] else { return Ok(Vec::new()) };
        let mut left = first.source.all(tx)?;
        left.iter_mut().for_each(|(_, score)| *score = number_or_zero(*score * first.weight));
        for Input { source, weight } in others {
            if left.is_empty() {
                break;
            }
            source.gather(tx, left.iter().map(|(member, _)| member))?;
            let mut both = Vec::new();
            for (member, score) in left {
                if let Some(other) = source.score(tx, &member)? {
                    both.push((member, self.aggregate.join(score, other * weight)));
                }
            }
            left = both;
        }
        left.truncate(limit);
        Ok(left)
    }

    fn diff(&self, tx: &mut Tx<'_>) -> Read<Vec<Scored>> {
        let [first, others @ ..] = &self.inputs[..] else { return Ok(Vec::new()) };
        let mut left = first.source.all(tx)?;
        for Input { source, .. } in others {
            source.gather(tx, left.iter().map(|(member, _)| member))?;
            let mut kept = Vec::new();
            for (member, score) in left {
                if source.score(tx, &member)?.is_none() {
                    kept.push((member, score));
                }
            }
            left = kept;
        }
        Ok(left)
    }
}

pub fn give(cx: &mut Cx<'_>, operation: Operation) -> Result<(), Fail> {
    let mut asked = Asked::open(cx, 1, 0)?;
    asked.read_options(operation, false)?;
    let scores = asked.scores;
    let members = asked.run(&mut cx.tx, operation)?;
    reply_members(cx.reply, &members, scores);
    Ok(())
}

pub fn store(cx: &mut Cx<'_>, operation: Operation) -> Result<(), Fail> {
    let mut asked = Asked::open(cx, 2, 1)?;
    asked.read_options(operation, true)?;
    let members = asked.run(&mut cx.tx, operation)?;
    Zset::of(&mut cx.tx, &cx.keys[0], &members)?.save(&mut cx.tx)?;
    cx.reply.count(members.len());
    Ok(())
}

pub fn zintercard(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let mut asked = Asked::open(cx, 1, 0)?;
    let mut limit = usize::MAX;
    for option in asked.options.chunks(2) {
        match option {
            [name, value] if cx::is(name, "limit") => {
                let value = ranges::bounded(value, 0..=i64::MAX, "ERR LIMIT can't be negative")?;
                limit = usize::try_from(value).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
            }
            _ => return Err(Fail::syntax()),
        }
    }
    asked.smallest_first();
    let members = asked.inter(&mut cx.tx, limit)?;
    cx.reply.count(members.len());
    Ok(())
}
