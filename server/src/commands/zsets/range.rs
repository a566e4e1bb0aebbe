//! ZRANGE and the commands that it took the place of; ZRANGESTORE, ZCOUNT, ZLEXCOUNT, ZREMRANGEBY….

use std::ops::Bound;

use bytes::Bytes;
use haypile_engine::key::Key;
use haypile_engine::read::Direction;

use crate::commands::ranges::Span;
use crate::cx::{self, Cx, Fail, integer};
use crate::number;
use crate::types::Look;
use crate::types::small::Broken;
use crate::types::zset::{Cut, Pairs, Part, Range, Scored, Zset};

use super::{Scores, open, reply_head, reply_members, reply_more, reply_part, show};

/// Replies of more members are made of so many at a time.
const MEMBERS_AT_ONCE: usize = 4096;

/// What the ends of a range are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// Positions in the order of scores.
    Rank,
    /// Scores.
    Score,
    /// Members, where all have one score.
    Member,
}

/// A range as it was typed.
#[derive(Clone, Debug)]
enum Window {
    Ranks(i64, i64),
    Part(Range),
}

impl Window {
    fn parse(by: By, least: &[u8], most: &[u8]) -> Result<Window, Fail> {
        match by {
            By::Rank => Ok(Window::Ranks(integer(least)?, integer(most)?)),
            By::Score => match (bound(least), bound(most)) {
                (Some(least), Some(most)) => Ok(Window::Part(Range::Scores(least, most))),
                _ => Err(Fail::error("ERR min or max is not a float")),
            },
            By::Member => match (cut(least), cut(most)) {
                (Some(least), Some(most)) => Ok(Window::Part(Range::Members(least, most))),
                _ => Err(Fail::error("ERR min or max not valid string range item")),
            },
        }
    }
}

/// An end of a range of scores, read as C's `strtod` does, which takes an empty text for 0.
fn bound(text: &[u8]) -> Option<Bound<f64>> {
    let (open, text) = match text {
        [b'(', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let digits = &text[text.iter().take_while(|byte| blank(byte)).count()..];
    let plain = || std::str::from_utf8(digits).ok()?.parse::<f64>().ok();
    let score = if text.is_empty() { 0.0 } else { plain().or_else(|| number::double(digits))? };
    if score.is_nan() {
        return None;
    }
    Some(if open { Bound::Excluded(score) } else { Bound::Included(score) })
}

fn cut(text: &[u8]) -> Option<Cut> {
    match text {
        b"-" => Some(Cut::First),
        b"+" => Some(Cut::Last),
        [b'[', member @ ..] => Some(Cut::At(Bytes::copy_from_slice(member))),
        [b'(', member @ ..] => Some(Cut::Beside(Bytes::copy_from_slice(member))),
        _ => None,
    }
}

/// What a command asks for.
#[derive(Clone, Debug)]
struct Asked {
    window: Window,
    direction: Direction,
    scores: Scores,
    skip: usize,
    count: usize,
}

/// Whether the result is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum For {
    Reply,
    Store,
}

impl Asked {
    /// Reads the two ends of a range and the options behind them; `None` is for options to decide.
    fn parse(
        ends: &[&[u8]],
        mut by: Option<By>,
        mut direction: Option<Direction>,
        purpose: For,
    ) -> Result<Asked, Fail> {
        let [first, second, options @ ..] = ends else { return Err(Fail::syntax()) };
        let (mut scores, mut skip, mut limit) = (Scores::Without, 0, -1);
        let mut options = options;
        while let [name, rest @ ..] = options {
            options = rest;
            if purpose == For::Reply && cx::is(name, "withscores") {
                scores = Scores::With;
            } else if let [offset, count, rest @ ..] = options
                && cx::is(name, "limit")
            {
                (skip, limit) = (integer(offset)?, integer(count)?);
                options = rest;
            } else if direction.is_none() && cx::is(name, "rev") {
                direction = Some(Direction::Backward);
            } else if by.is_none() && cx::is(name, "bylex") {
                by = Some(By::Member);
            } else if by.is_none() && cx::is(name, "byscore") {
                by = Some(By::Score);
            } else {
                return Err(Fail::syntax());
            }
        }
        let (by, direction) = (by.unwrap_or(By::Rank), direction.unwrap_or(Direction::Forward));
        if limit != -1 && by == By::Rank {
            return Err(Fail::error(
                "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX",
            ));
        }
        if scores == Scores::With && by == By::Member {
            return Err(Fail::error("ERR syntax error, WITHSCORES not supported in combination with BYLEX"));
        }
        // Ranks count from the end that is given first; scores and members come highest first.
        let swapped = direction == Direction::Backward && by != By::Rank;
        let (least, most) = if swapped { (second, first) } else { (first, second) };
        let window = Window::parse(by, least, most)?;
        // A negative offset passes everything by, a negative limit is none.
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let count = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(Asked { window, direction, scores, skip, count })
    }

    fn read(&self, cx: &mut Cx<'_>, zset: &Zset<'_>) -> Result<Vec<Scored>, Fail> {
        let members = match &self.window {
            Window::Ranks(start, stop) => {
                let Span { from, count } = Span::new(*start, *stop, zset.len());
                zset.by_rank(&mut cx.tx, from, count, self.direction)?
            }
            Window::Part(range) => zset.by_range(&mut cx.tx, range, self.direction, self.skip, self.count)?,
        };
        Ok(members)
    }

    /// The same, of a small one.
    fn part<'p>(&self, pairs: Pairs<'p>) -> Result<Part<'p>, Broken> {
        match &self.window {
            Window::Ranks(start, stop) => {
                let Span { from, count } = Span::new(*start, *stop, pairs.left());
                pairs.by_rank(from, count, self.direction)
            }
            Window::Part(range) => pairs.by_range(range, self.direction, self.skip, self.count),
        }
    }

    /// The ranks of the members that are asked for, if these are many and known by their ranks.
    fn long_span(&self, cx: &mut Cx<'_>, zset: &Zset<'_>) -> Result<Option<Span>, Fail> {
        if zset.len().min(self.count) <= MEMBERS_AT_ONCE || !zset.has_ranks() {
            return Ok(None);
        }
        let span = match &self.window {
            Window::Ranks(start, stop) => Some(Span::new(*start, *stop, zset.len())),
            Window::Part(range) => {
                // Most ranges are short, and it takes less to read one than to learn its ranks.
                let most = MEMBERS_AT_ONCE + 1;
                if zset.by_range(&mut cx.tx, range, self.direction, self.skip, most)?.len() < most {
                    return Ok(None);
                }
                let ranks = zset.ranks_of(&mut cx.tx, range)?;
                ranks.map(|ranks| {
                    let before = if self.direction == Direction::Forward {
                        ranks.start
                    } else {
                        zset.len() - ranks.end
                    };
                    let count = ranks.len().saturating_sub(self.skip).min(self.count);
                    Span { from: before.saturating_add(self.skip), count }
                })
            }
        };
        Ok(span.filter(|span| span.count > MEMBERS_AT_ONCE))
    }

    /// The members that are asked for; none if the key is not there.
    fn members(&self, cx: &mut Cx<'_>, key: &Key) -> Result<Vec<Scored>, Fail> {
        match open(cx, key)? {
            Some(zset) => self.read(cx, &zset),
            None => Ok(Vec::new()),
        }
    }
}

pub fn give(cx: &mut Cx<'_>, by: Option<By>, direction: Option<Direction>) -> Result<(), Fail> {
    let asked = Asked::parse(&cx.args[2..], by, direction, For::Reply)?;
    let shown = show(cx, |reply, pairs| {
        reply_part(reply, &asked.part(pairs)?, asked.scores);
        Ok(())
    })?;
    let zset = match shown {
        None => {
            reply_members(cx.reply, &[], asked.scores);
            return Ok(());
        }
        Some(Look::Small(())) => return Ok(()),
        Some(Look::Large(zset)) => zset,
    };
    if let Some(span) = asked.long_span(cx, &zset)? {
        return give_span(cx, &asked, &zset, span);
    }
    let members = asked.read(cx, &zset)?;
    reply_members(cx.reply, &members, asked.scores);
    Ok(())
}

/// Replies with the members of so many ranks, some at a time: they are too many to be kept together.
fn give_span(cx: &mut Cx<'_>, asked: &Asked, zset: &Zset<'_>, span: Span) -> Result<(), Fail> {
    let Span { from, count } = span;
    reply_head(cx.reply, count, asked.scores);
    for passed in (0..count).step_by(MEMBERS_AT_ONCE) {
        let most = MEMBERS_AT_ONCE.min(count - passed);
        let members = zset.by_rank(&mut cx.tx, from + passed, most, asked.direction)?;
        reply_more(cx.reply, &members, asked.scores);
    }
    Ok(())
}

pub fn zrangestore(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let asked = Asked::parse(&cx.args[3..], None, None, For::Store)?;
    let mut members = asked.members(cx, cx.key(1))?;
    if asked.direction == Direction::Backward {
        members.reverse();
    }
    Zset::of(&mut cx.tx, &cx.keys[0], &members)?.save(&mut cx.tx)?;
    cx.reply.count(members.len());
    Ok(())
}

pub fn count(cx: &mut Cx<'_>, by: By) -> Result<(), Fail> {
    let asked = Asked::parse(&cx.args[2..], Some(by), Some(Direction::Forward), For::Reply)?;
    let count = match (open(cx, cx.key(0))?, &asked.window) {
        (Some(zset), Window::Part(range)) => zset.count(&mut cx.tx, range)?,
        _ => 0,
    };
    cx.reply.count(count);
    Ok(())
}

pub fn remove(cx: &mut Cx<'_>, by: By) -> Result<(), Fail> {
    let asked = Asked::parse(&cx.args[2..], Some(by), Some(Direction::Forward), For::Reply)?;
    let mut removed = 0;
    if let Some(mut zset) = open(cx, cx.key(0))? {
        let members = asked.read(cx, &zset)?;
        removed = members.len();
        zset.remove_all(&mut cx.tx, &members)?;
        zset.save(&mut cx.tx)?;
    }
    cx.reply.count(removed);
    Ok(())
}
