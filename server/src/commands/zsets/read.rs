//! ZCARD, ZSCORE, ZRANK, ZRANDMEMBER, ZSCAN: what reads members one by one.

use haypile_engine::read::Direction;

use crate::commands::random::{self, Choice};
use crate::commands::scan::{self, Options};
use crate::cx::{self, Cx, Fail};
use crate::number;
use crate::resp::ReplyWriter;
use crate::types::Look;

use super::{Scores, open, reply_members, show};

/// Members with scores that may be asked for: Redis' limit, so that twice as many values can be counted.
const DISTINCT_SCORED_MAX: usize = usize::MAX / 4;

/// Up to here Redis keeps a whole score of a small sorted set as an integer, and ZSCAN shows it so.
const WHOLE_MAX: f64 = (1u64 << 62) as f64;

pub fn zcard(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let shown = show(cx, |reply, pairs| {
        reply.count(pairs.left());
        Ok(())
    })?;
    match shown {
        None => cx.reply.integer(0),
        Some(Look::Small(())) => {}
        Some(Look::Large(zset)) => cx.reply.count(zset.len()),
    }
    Ok(())
}

pub fn zscore(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let member = cx.args[2];
    let shown = show(cx, |reply, pairs| {
        reply_score(reply, pairs.find(member)?.map(|(score, _)| score));
        Ok(())
    })?;
    match shown {
        None => cx.reply.null(),
        Some(Look::Small(())) => {}
        Some(Look::Large(zset)) => {
            let score = zset.score(&mut cx.tx, member)?;
            reply_score(cx.reply, score);
        }
    }
    Ok(())
}

pub fn zmscore(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let zset = open(cx, cx.key(0))?;
    let members = &cx.args[2..];
    cx.reply.array(members.len());
    if let Some(zset) = &zset {
        zset.gather(&mut cx.tx, members.iter())?;
    }
    for member in members {
        let score = match &zset {
            Some(zset) => zset.score(&mut cx.tx, member)?,
            None => None,
        };
        reply_score(cx.reply, score);
    }
    Ok(())
}

fn reply_score(reply: &mut ReplyWriter, score: Option<f64>) {
    match score {
        Some(score) => reply.double(score),
        None => reply.null(),
    }
}

pub fn rank(cx: &mut Cx<'_>, direction: Direction) -> Result<(), Fail> {
    let member = cx.arg(2);
    let shown = show(cx, |reply, pairs| {
        let len = pairs.left();
        match pairs.find(member)? {
            None => reply.null(),
            Some((_, before)) if direction == Direction::Forward => reply.count(before),
            Some((_, before)) => reply.count(len - 1 - before),
        }
        Ok(())
    })?;
    if let Some(Look::Small(())) = shown {
        return Ok(());
    }
    if let Some(Look::Large(zset)) = shown
        && let Some(score) = zset.score(&mut cx.tx, member)?
    {
        let rank = zset.rank(&mut cx.tx, member, score, direction)?;
        cx.reply.count(rank);
    } else {
        cx.reply.null();
    }
    Ok(())
}

pub fn zrandmember(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let mut rng = cx.rng();
    let (choice, scores) = match &cx.args[2..] {
        [] => {
            let chosen = match open(cx, cx.key(0))? {
                Some(zset) => zset.random(&mut cx.tx, &mut rng)?,
                None => None,
            };
            cx.reply.bulk_or_null(chosen.as_ref().map(|(member, _)| &member[..]));
            return Ok(());
        }
        [count, options @ ..] => (random::choice(count)?, scores_wanted(options)?),
    };
    if scores == Scores::With && matches!(choice, Choice::Distinct(count) if count > DISTINCT_SCORED_MAX) {
        return Err(Fail::error("ERR value is out of range"));
    }
    let Some(zset) = open(cx, cx.key(0))? else {
        cx.reply.array(0);
        return Ok(());
    };
    let chosen = match choice {
        Choice::Distinct(count) => zset.sample(&mut cx.tx, count, &mut rng)?,
        Choice::Repeated(count) => zset.sample_with_repeats(&mut cx.tx, count, &mut rng)?,
    };
    reply_members(cx.reply, &chosen, scores);
    Ok(())
}

fn scores_wanted(options: &[&[u8]]) -> Result<Scores, Fail> {
    match options {
        [] => Ok(Scores::Without),
        [option] if cx::is(option, "withscores") => Ok(Scores::With),
        _ => Err(Fail::syntax()),
    }
}

pub fn zscan(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let cursor = scan::cursor(cx.arg(2))?;
    let Some(zset) = open(cx, cx.key(0))? else {
        cx.reply.array(2);
        cx.reply.bulk_integer(0);
        cx.reply.array(0);
        return Ok(());
    };
    let options = Options::parse(&cx.args[3..])?;
    let (mut members, next) = zset.scan(&mut cx.tx, cursor, options.count)?;
    members.retain(|(member, _)| options.takes(member));
    cx.reply.array(2);
    cx.reply.bulk(next.to_string().as_bytes());
    cx.reply.array(members.len() * 2);
    for (member, score) in members {
        cx.reply.bulk(&member);
        let whole = !zset.is_large() && score.fract() == 0.0 && score.abs() <= WHOLE_MAX;
        let text = if whole { format!("{score:.0}") } else { number::format_double(score) };
        cx.reply.bulk(text.as_bytes());
    }
    Ok(())
}
