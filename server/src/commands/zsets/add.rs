//! ZADD, ZINCRBY, ZREM.

use crate::cx::{self, Cx, Fail, double};
use crate::types::zset::Zset;
use smallvec::SmallVec;

use super::open;

/// What ZADD's options say.
#[derive(Clone, Copy, Default, Debug)]
pub struct Options {
    /// NX: only new members.
    new_only: bool,
    /// XX: only members that are there.
    old_only: bool,
    /// GT: only to a higher score; new members are added.
    greater_only: bool,
    /// LT: only to a lower score; new members are added.
    less_only: bool,
    /// CH: count changes too.
    count_changes: bool,
    /// INCR: the score is added, and the reply is the sum.
    increment: bool,
}

impl Options {
    /// Sets the option of this name; `false` if there is none.
    pub fn set(&mut self, name: &[u8]) -> bool {
        let options: [(&str, &mut bool); 6] = [
            ("nx", &mut self.new_only),
            ("xx", &mut self.old_only),
            ("gt", &mut self.greater_only),
            ("lt", &mut self.less_only),
            ("ch", &mut self.count_changes),
            ("incr", &mut self.increment),
        ];
        let option = options.into_iter().find(|(option, _)| cx::is(name, option));
        option.map(|(_, set)| *set = true).is_some()
    }

    /// Whether no member can be meant: neither new ones nor old ones.
    #[must_use]
    pub fn excludes_all(&self) -> bool {
        self.new_only && self.old_only
    }

    /// What becomes of a score that is `old` now: `None` if nothing.
    fn decide(self, old: Option<f64>, given: f64) -> Result<Option<f64>, Fail> {
        let Some(old) = old else { return Ok((!self.old_only).then_some(given)) };
        if self.new_only {
            return Ok(None);
        }
        let score = if self.increment { old + given } else { given };
        if score.is_nan() {
            return Err(Fail::error("ERR resulting score is not a number (NaN)"));
        }
        let refused = self.less_only && score >= old || self.greater_only && score <= old;
        Ok((!refused).then_some(score))
    }
}

pub fn zadd(cx: &mut Cx<'_>) -> Result<(), Fail> {
    add(cx, Options::default())
}

pub fn zincrby(cx: &mut Cx<'_>) -> Result<(), Fail> {
    add(cx, Options { increment: true, ..Options::default() })
}

fn add(cx: &mut Cx<'_>, mut options: Options) -> Result<(), Fail> {
    let named = cx.args[2..].iter().take_while(|name| options.set(name)).count();
    let pairs = &cx.args[2 + named..];
    if pairs.is_empty() || !pairs.len().is_multiple_of(2) {
        return Err(Fail::syntax());
    }
    let Options { new_only, greater_only, less_only, .. } = options;
    if options.excludes_all() {
        return Err(Fail::error("ERR XX and NX options at the same time are not compatible"));
    }
    if (greater_only || less_only) && new_only || greater_only && less_only {
        return Err(Fail::error("ERR GT, LT, and/or NX options at the same time are not compatible"));
    }
    if options.increment && pairs.len() > 2 {
        return Err(Fail::error("ERR INCR option supports a single increment-element pair"));
    }
    let members = pairs.chunks(2).map(|pair| Ok((pair[1], double(pair[0])?)));
    let members = members.collect::<Result<SmallVec<[_; 2]>, Fail>>()?;
    add_scored(cx, options, &members)
}

/// Adds members with their scores to the sorted set at the first key, and replies.
///
/// # Errors
/// WRONGTYPE, a sum that is not a number, or what the engine meets.
pub fn add_scored(cx: &mut Cx<'_>, options: Options, members: &[(&[u8], f64)]) -> Result<(), Fail> {
    let found = open(cx, cx.key(0))?;
    let existed = found.is_some();
    let mut zset = found.unwrap_or_else(|| Zset::new(cx.key(0)));
    let (mut added, mut updated, mut sum) = (0, 0, None);
    if existed || !options.old_only {
        zset.gather(&mut cx.tx, members.iter().map(|(member, _)| member))?;
        if members.len() > 1 && zset.is_large() {
            let mut places = Vec::with_capacity(2 * members.len());
            for &(member, given) in members {
                let old = zset.score(&mut cx.tx, member)?;
                places.extend([old, Some(given)].into_iter().flatten().map(|score| (member, score)));
            }
            zset.gather_places(&mut cx.tx, places.into_iter())?;
        }
        for &(member, given) in members {
            let old = zset.score(&mut cx.tx, member)?;
            sum = options.decide(old, given)?;
            match (old, sum) {
                (None, Some(score)) => {
                    added += 1;
                    zset.put(&mut cx.tx, member, old, score)?;
                }
                (Some(before), Some(score)) if before != score => {
                    updated += 1;
                    zset.put(&mut cx.tx, member, old, score)?;
                }
                _ => {}
            }
        }
        zset.save(&mut cx.tx)?;
    }
    match (options.increment, sum) {
        (true, Some(sum)) => cx.reply.double(sum),
        (true, None) => cx.reply.null(),
        (false, _) => cx.reply.integer(if options.count_changes { added + updated } else { added }),
    }
    Ok(())
}

pub fn zrem(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let mut removed = 0;
    if let Some(mut zset) = open(cx, cx.key(0))? {
        let members = &cx.args[2..];
        zset.gather(&mut cx.tx, members.iter())?;
        let mut found = Vec::new();
        for member in members {
            found.extend(zset.score(&mut cx.tx, member)?.map(|score| (*member, score)));
        }
        zset.gather_places(&mut cx.tx, found.iter().copied())?;
        for member in members {
            // One that is named twice is there once.
            if let Some(score) = zset.score(&mut cx.tx, member)? {
                zset.remove(&mut cx.tx, member, score)?;
                removed += 1;
            }
        }
        zset.save(&mut cx.tx)?;
    }
    cx.reply.integer(removed);
    Ok(())
}
