//! Parts of a sorted set: by rank, by score, by member.

use std::ops::{self, Bound};

use bytes::Bytes;
use haypile_engine::key::Generation;
use haypile_engine::read::Direction;
use haypile_engine::tx::{Read, Tx};

use super::index::{At, CHILDREN_MAX};
use super::score::{self, SCORES};
use super::{Form, Pairs, Part, Scored, Zset, owned, pairs};
use crate::types::small::Broken;
use crate::types::{PAGE, Pages, as_slice, damaged};

/// An end of a range of members: before all, after all, or at some bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cut {
    /// Before every member: `-`.
    First,
    /// After every member: `+`.
    Last,
    /// At these bytes, which are in the range: `[bytes`.
    At(Bytes),
    /// At these bytes, which are not: `(bytes`.
    Beside(Bytes),
}

/// Which members are meant.
#[derive(Clone, PartialEq, Debug)]
pub enum Range {
    /// From the lower score to the higher.
    Scores(Bound<f64>, Bound<f64>),
    /// From the lower member to the higher, by their bytes; made for members that all have one score. Where they have
    /// not, it begins with the first (by score) that is not below it and ends before the next that is above it.
    Members(Cut, Cut),
}

impl Range {
    /// Whether nothing can be in it.
    fn is_empty(&self) -> bool {
        match self {
            Range::Scores(Bound::Included(min), Bound::Included(max)) => min > max,
            Range::Scores(
                Bound::Included(min) | Bound::Excluded(min),
                Bound::Included(max) | Bound::Excluded(max),
            ) => min >= max,
            Range::Scores(..) => false,
            Range::Members(Cut::Last, _) | Range::Members(_, Cut::First) => true,
            Range::Members(Cut::First, _) | Range::Members(_, Cut::Last) => false,
            Range::Members(Cut::At(min), Cut::At(max)) => min > max,
            Range::Members(Cut::At(min) | Cut::Beside(min), Cut::At(max) | Cut::Beside(max)) => min >= max,
        }
    }

    fn is_below(&self, (member, score): (&[u8], f64)) -> bool {
        match self {
            Range::Scores(Bound::Included(min), _) => score < *min,
            Range::Scores(Bound::Excluded(min), _) => score <= *min,
            Range::Scores(Bound::Unbounded, _) | Range::Members(Cut::First, _) => false,
            Range::Members(Cut::Last, _) => true,
            Range::Members(Cut::At(min), _) => member < &min[..],
            Range::Members(Cut::Beside(min), _) => member <= &min[..],
        }
    }

    fn is_above(&self, (member, score): (&[u8], f64)) -> bool {
        match self {
            Range::Scores(_, Bound::Included(max)) => score > *max,
            Range::Scores(_, Bound::Excluded(max)) => score >= *max,
            Range::Scores(_, Bound::Unbounded) | Range::Members(_, Cut::Last) => false,
            Range::Members(_, Cut::First) => true,
            Range::Members(_, Cut::At(max)) => member > &max[..],
            Range::Members(_, Cut::Beside(max)) => member >= &max[..],
        }
    }

    /// The members of a walk in order that are in the range.
    fn pick<M: AsRef<[u8]>>(
        &self,
        members: impl Iterator<Item = (M, f64)>,
    ) -> impl Iterator<Item = (M, f64)> {
        members
            .skip_while(|(member, score)| self.is_below((member.as_ref(), *score)))
            .take_while(|(member, score)| !self.is_above((member.as_ref(), *score)))
    }
}

impl<'a> Pairs<'a> {
    /// Of a whole small one, what [`Zset::by_rank`] gives.
    ///
    /// # Errors
    /// If what is walked over has no meaning.
    pub fn by_rank(mut self, from: usize, count: usize, direction: Direction) -> Result<Part<'a>, Broken> {
        let len = self.left();
        let from = from.min(len);
        let count = count.min(len - from);
        let before = if direction == Direction::Forward { from } else { len - from - count };
        self.0.skip(2 * before)?;
        let mut part = Part::new();
        for _ in 0..count {
            part.push(self.next()?.ok_or(Broken)?);
        }
        if direction == Direction::Backward {
            part.reverse();
        }
        Ok(part)
    }

    /// Of a whole small one, what [`Zset::by_range`] gives.
    ///
    /// # Errors
    /// If what is walked over has no meaning.
    pub fn by_range(
        mut self,
        range: &Range,
        direction: Direction,
        skip: usize,
        count: usize,
    ) -> Result<Part<'a>, Broken> {
        let mut part = Part::new();
        if range.is_empty() {
            return Ok(part);
        }
        let forward = direction == Direction::Forward;
        let (mut began, mut passed) = (false, 0);
        // Backward all of the range is needed to know where it ends.
        while !forward || part.len() < count {
            let Some(pair) = self.next()? else { break };
            began = began || !range.is_below(pair);
            if began && range.is_above(pair) {
                break;
            }
            if began && forward && passed < skip {
                passed += 1;
            } else if began {
                part.push(pair);
            }
        }
        if !forward {
            part.reverse();
            part.drain(..skip.min(part.len()));
            part.truncate(count);
        }
        Ok(part)
    }
}

impl Zset<'_> {
    /// All members in order.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn all(&self, tx: &mut Tx<'_>) -> Read<Vec<Scored>> {
        self.by_rank(tx, 0, self.len(), Direction::Forward)
    }

    /// Up to `count` members from the rank `from` on; both count from the end that the direction begins with.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn by_rank(
        &self,
        tx: &mut Tx<'_>,
        from: usize,
        count: usize,
        direction: Direction,
    ) -> Read<Vec<Scored>> {
        let from = from.min(self.len());
        let count = count.min(self.len() - from);
        let after = self.len() - from - count;
        match &self.form {
            Form::Small(items) => Ok(match direction {
                Direction::Forward => owned(pairs(items).skip(from).take(count)),
                Direction::Backward => reversed(owned(pairs(items).skip(after).take(count))),
            }),
            Form::Large { generation, index: Some(index), .. } if from.min(after) >= CHILDREN_MAX => {
                let start = if direction == Direction::Forward { from } else { after };
                let (place, skip) = index.find(tx, At(self.key, *generation), start as u64)?;
                let skip = usize::try_from(skip).map_err(|_| damaged(self.key))?;
                let bounds = (Bound::Included(Bytes::from([&[SCORES], &place[..]].concat())), everything().1);
                let part = self.window(tx, *generation, bounds, Direction::Forward, skip, count)?;
                match (part.len() == count, direction) {
                    (false, _) => Err(damaged(self.key)),
                    (true, Direction::Forward) => Ok(part),
                    (true, Direction::Backward) => Ok(reversed(part)),
                }
            }
            Form::Large { generation, .. } => {
                let part = if from <= after {
                    self.window(tx, *generation, everything(), direction, from, count)?
                } else {
                    reversed(self.window(tx, *generation, everything(), opposite(direction), after, count)?)
                };
                if part.len() == count { Ok(part) } else { Err(damaged(self.key)) }
            }
        }
    }

    /// Up to `count` members of a range in this direction, without the first `skip` of them.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn by_range(
        &self,
        tx: &mut Tx<'_>,
        range: &Range,
        direction: Direction,
        skip: usize,
        count: usize,
    ) -> Read<Vec<Scored>> {
        if range.is_empty() || self.is_empty() {
            return Ok(Vec::new());
        }
        let (generation, index) = match &self.form {
            Form::Small(items) => return Ok(part(owned(range.pick(pairs(items))), direction, skip, count)),
            Form::Large { generation, index, .. } => (*generation, index),
        };
        match self.bounds(tx, range)? {
            Some(bounds) if skip >= CHILDREN_MAX && index.is_some() => {
                let ranks = self.ranks(tx, &bounds)?;
                let count = count.min(ranks.len().saturating_sub(skip));
                let before =
                    if direction == Direction::Forward { ranks.start } else { self.len() - ranks.end };
                self.by_rank(tx, before + skip, count, direction)
            }
            Some(bounds) => self.window(tx, generation, bounds, direction, skip, count),
            None => Ok(part(range.pick(self.all(tx)?.into_iter()).collect(), direction, skip, count)),
        }
    }

    /// Whether it costs little to know where a rank is.
    #[must_use]
    pub fn has_ranks(&self) -> bool {
        matches!(self.form, Form::Small(_) | Form::Large { index: Some(_), .. })
    }

    /// The ranks of a range's members, where they are known without walking over them.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn ranks_of(&self, tx: &mut Tx<'_>, range: &Range) -> Read<Option<ops::Range<usize>>> {
        if range.is_empty() || self.is_empty() || !matches!(self.form, Form::Large { index: Some(_), .. }) {
            return Ok(None);
        }
        match self.bounds(tx, range)? {
            Some(bounds) => self.ranks(tx, &bounds).map(Some),
            None => Ok(None),
        }
    }

    /// How many members a range has.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn count(&self, tx: &mut Tx<'_>, range: &Range) -> Read<usize> {
        if range.is_empty() || self.is_empty() {
            return Ok(0);
        }
        let (generation, index) = match &self.form {
            Form::Small(items) => return Ok(range.pick(pairs(items)).count()),
            Form::Large { generation, index, .. } => (*generation, index),
        };
        match self.bounds(tx, range)? {
            Some(bounds) if index.is_some() => Ok(self.ranks(tx, &bounds)?.len()),
            Some((from, to)) => count(tx, Pages::range(self.key, generation, from, to, Direction::Forward)),
            None => Ok(range.pick(self.all(tx)?.into_iter()).count()),
        }
    }

    /// How many members come before this one, which has this score, in a direction.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn rank(&self, tx: &mut Tx<'_>, member: &[u8], score: f64, direction: Direction) -> Read<usize> {
        match (&self.form, direction) {
            (Form::Small(items), _) => {
                let before = pairs(items).take_while(|(other, _)| *other != member).count();
                Ok(if direction == Direction::Forward { before } else { items.len() / 2 - 1 - before })
            }
            (Form::Large { index: Some(_), .. }, _) => {
                let before = self.below(tx, Bound::Excluded(&score::sub_key(score, member)))?;
                Ok(if direction == Direction::Forward { before } else { self.len() - 1 - before })
            }
            (Form::Large { generation, .. }, _) => {
                let here = Bound::Excluded(Bytes::copy_from_slice(&score::sub_key(score, member)));
                let (first, last) = everything();
                let (from, to) = if direction == Direction::Forward { (first, here) } else { (here, last) };
                count(tx, Pages::range(self.key, *generation, from, to, direction))
            }
        }
    }

    /// The sub-keys of a range; `None` if its members do not stand together.
    fn bounds(&self, tx: &mut Tx<'_>, range: &Range) -> Read<Option<Bounds>> {
        let included = |rank| Bound::Included(Bytes::from(score::prefix(rank)));
        let excluded = |rank| Bound::Excluded(Bytes::from(score::prefix(rank)));
        let (first, last) = everything();
        match range {
            Range::Scores(min, max) => {
                let from = match min {
                    Bound::Included(min) => included(score::rank(*min)),
                    Bound::Excluded(min) => included(score::rank(*min) + 1),
                    Bound::Unbounded => first,
                };
                let to = match max {
                    Bound::Included(max) => excluded(score::rank(*max) + 1),
                    Bound::Excluded(max) => excluded(score::rank(*max)),
                    Bound::Unbounded => last,
                };
                Ok(Some((from, to)))
            }
            Range::Members(min, max) => {
                let least = self.by_rank(tx, 0, 1, Direction::Forward)?;
                let most = self.by_rank(tx, 0, 1, Direction::Backward)?;
                let score = match (&least[..], &most[..]) {
                    ([(_, least)], [(_, most)]) if least == most => *least,
                    _ => return Ok(None),
                };
                let cut = |cut: &Cut, open| match cut {
                    Cut::First | Cut::Last => open,
                    Cut::At(member) => {
                        Bound::Included(Bytes::copy_from_slice(&score::sub_key(score, member)))
                    }
                    Cut::Beside(member) => {
                        Bound::Excluded(Bytes::copy_from_slice(&score::sub_key(score, member)))
                    }
                };
                Ok(Some((cut(min, first), cut(max, last))))
            }
        }
    }

    /// The ranks of the members between bounds, of a large one.
    fn ranks(&self, tx: &mut Tx<'_>, (from, to): &Bounds) -> Read<ops::Range<usize>> {
        let start = match from {
            Bound::Included(sub) => self.below(tx, Bound::Excluded(sub))?,
            Bound::Excluded(sub) => self.below(tx, Bound::Included(sub))?,
            Bound::Unbounded => 0,
        };
        Ok(start..self.below(tx, as_slice(to))?.max(start))
    }

    /// How many members of a large one are below a bound of their sub-keys.
    fn below(&self, tx: &mut Tx<'_>, bound: Bound<&[u8]>) -> Read<usize> {
        let Form::Large { generation, index: Some(index), .. } = &self.form else {
            return Err(damaged(self.key));
        };
        let (Bound::Included([SCORES, place @ ..]) | Bound::Excluded([SCORES, place @ ..])) = bound else {
            return Ok(self.len());
        };
        if place.is_empty() {
            return Ok(0);
        }
        let (known, members) = index.before(tx, At(self.key, *generation), place)?;
        let members = usize::try_from(members).map_err(|_| damaged(self.key))?;
        if known[..] == *place && matches!(bound, Bound::Excluded(_)) {
            return Ok(members);
        }
        let from = Bound::Included(Bytes::from([&[SCORES], &known[..]].concat()));
        let to = bound.map(Bytes::copy_from_slice);
        Ok(members + count(tx, Pages::range(self.key, *generation, from, to, Direction::Forward))?)
    }

    /// Up to `count` members between bounds, without the first `skip`.
    fn window(
        &self,
        tx: &mut Tx<'_>,
        generation: Generation,
        (from, to): Bounds,
        direction: Direction,
        mut skip: usize,
        count: usize,
    ) -> Read<Vec<Scored>> {
        let mut out = Vec::new();
        // A few are read as a few: most ranges and pops are.
        if skip.saturating_add(count) < PAGE {
            if count == 0 {
                return Ok(out);
            }
            let range = (as_slice(&from), as_slice(&to));
            let mut is_sound = true;
            tx.read_elements(self.key, generation, range, direction, &mut |sub, _| {
                if skip > 0 {
                    skip -= 1;
                    return true;
                }
                let member = score::member_in(sub);
                is_sound = member.is_some();
                out.extend(member.map(|(member, score)| (Bytes::copy_from_slice(member), score)));
                is_sound && out.len() < count
            })?;
            return if is_sound { Ok(out) } else { Err(damaged(self.key)) };
        }
        let mut pages = Pages::range(self.key, generation, from, to, direction);
        while out.len() < count {
            let page = pages.next(tx)?;
            if page.is_empty() {
                break;
            }
            let passed = skip.min(page.len());
            skip -= passed;
            for (sub, _) in page.iter().skip(passed).take(count - out.len()) {
                out.push(score::split(sub).ok_or_else(|| damaged(self.key))?);
            }
        }
        Ok(out)
    }
}

type Bounds = (Bound<Bytes>, Bound<Bytes>);

fn everything() -> Bounds {
    (Bound::Included(Bytes::from_static(&[SCORES])), Bound::Excluded(Bytes::from_static(&[SCORES + 1])))
}

fn opposite(direction: Direction) -> Direction {
    match direction {
        Direction::Forward => Direction::Backward,
        Direction::Backward => Direction::Forward,
    }
}

fn reversed(mut members: Vec<Scored>) -> Vec<Scored> {
    members.reverse();
    members
}

fn part(mut members: Vec<Scored>, direction: Direction, skip: usize, count: usize) -> Vec<Scored> {
    if direction == Direction::Backward {
        members.reverse();
    }
    members.into_iter().skip(skip).take(count).collect()
}

fn count(tx: &mut Tx<'_>, mut pages: Pages<'_>) -> Read<usize> {
    let mut count = 0;
    loop {
        let page = pages.next(tx)?;
        if page.is_empty() {
            return Ok(count);
        }
        count += page.len();
    }
}
