//! Sorted sets: distinct members, each with a score, in the order of (score, member's bytes).
//!
//! ```text
//! small    payload    items (see `small`), two for each member, in their order: the member, and its score as
//!                     little-endian f64
//! large    payload, part of the format
//!  0   8   count      little-endian, number of members; each has two elements
//!  8   n   index      see `index`; nothing in sets that have none
//! element of a member, part of the format
//!  sub-key  7+n       tag 1, hash48 of the member, the member (see `hashed`)
//!  value    8         the score, little-endian f64
//! element of a score, part of the format
//!  sub-key  9+n       tag 2, the score so that bytes sort as the numbers do (see `score`), the member
//!  value    0         nothing
//! elements of counts   see `index`
//! ```
//! A score is never not-a-number, and a zero has no sign (as in Redis' small sorted sets; its large ones keep it).
//!
//! **Costs** of a large one with n members: a member's score, adding and removing are look-ups; a range of scores costs
//! what it gives, of members too if all have one score (else everything is read: such a range has no meaning in Redis
//! either); a rank, how many members a range has, and where a range of ranks begins cost a walk over a few hundred elements
//! and nodes, however many members there are. All are read in pages.

mod chance;
mod index;
mod range;
mod score;

pub use range::{Cut, Range};
pub use score::sort;

use bytes::Bytes;
use haypile_engine::clock::TimeMs;
use haypile_engine::key::{Generation, Key};
use haypile_engine::tx::{Read, Tx};
use haypile_engine::value::Value;
use smallvec::SmallVec;

use self::index::{At, Index};
use super::small::{self, Broken, Items};
use super::{LARGE, Look, Misses, SMALL, SubKey, damaged, hashed, new_generation};
use crate::kind::Kind;

/// Tag of the elements that are found by their member.
const MEMBERS: u8 = 1;

/// The sub-key of a member's element.
#[must_use]
pub fn member_key(member: &[u8]) -> SubKey {
    hashed::sub_key(MEMBERS, member)
}

/// The sub-key of the element of a member's score.
#[must_use]
pub fn score_key(score: f64, member: &[u8]) -> SubKey {
    score::sub_key(score, member)
}

/// The same, out of the sub-key and the value of the member's element; `None` if that has no meaning.
#[must_use]
pub fn key_of_score(member_key: &[u8], value: &[u8]) -> Option<SubKey> {
    Some(score_key(score::decode(value)?, hashed::name_in(member_key)?))
}

/// A member with its score.
pub type Scored = (Bytes, f64);

/// A sorted set, read at its key; changes to it are kept by [`Zset::save`].
#[derive(Debug)]
pub struct Zset<'k> {
    key: &'k Key,
    expiry: Option<TimeMs>,
    form: Form,
    /// Whether the value at the key has to be written: a large one's members alone do not ask for it.
    changed: bool,
}

#[derive(Debug)]
enum Form {
    /// Invariant: member and score in turn, in order, scores of 8 bytes.
    Small(Items),
    Large {
        generation: Generation,
        count: usize,
        /// One that was made before there were any has none.
        index: Option<Index>,
    },
}

impl<'k> Zset<'k> {
    /// An empty one, for a key where there is none.
    #[must_use]
    pub fn new(key: &'k Key) -> Zset<'k> {
        Zset { key, expiry: None, form: Form::Small(Items::default()), changed: false }
    }

    /// The sorted set that stands at a key.
    ///
    /// # Errors
    /// [`haypile_engine::tx::Stop::Failed`] if the value has no meaning.
    pub fn decode<P: AsRef<[u8]>>(key: &'k Key, value: &Value<P>) -> Read<Zset<'k>> {
        let form = match (value.encoding, value.generation) {
            (SMALL, None) => {
                let payload = value.payload.as_ref();
                Pairs::new(payload).and_then(Pairs::pass).map_err(|Broken| damaged(key))?;
                Form::Small(Items::of(payload))
            }
            (LARGE, Some(generation)) => {
                let (count, index) = large(value.payload.as_ref()).ok_or_else(|| damaged(key))?;
                Form::Large { generation, count, index }
            }
            _ => return Err(damaged(key)),
        };
        Ok(Zset { key, expiry: value.expiry, form, changed: false })
    }

    /// Gives the members of one that is small to `look`.
    ///
    /// # Errors
    /// [`haypile_engine::tx::Stop::Failed`] if the value has no meaning.
    pub fn look<T>(
        key: &'k Key,
        value: &Value<&[u8]>,
        look: impl FnOnce(Pairs<'_>) -> Result<T, Broken>,
    ) -> Read<Look<Zset<'k>, T>> {
        if (value.encoding, value.generation) != (SMALL, None) {
            return Zset::decode(key, value).map(Look::Large);
        }
        let looked = Pairs::new(value.payload).and_then(look);
        looked.map(Look::Small).map_err(|Broken| damaged(key))
    }

    /// A new one with these members, which are in order and distinct.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn of(tx: &mut Tx<'_>, key: &'k Key, members: &[Scored]) -> Read<Zset<'k>> {
        debug_assert!(members.is_sorted_by(|a, b| score::order((&a.0, a.1), (&b.0, b.1)).is_lt()));
        let mut out = Zset { changed: true, ..Zset::new(key) };
        if members.len() <= small::ELEMENTS_MAX && members.iter().all(|(member, _)| small::takes(member)) {
            let mut items = Items::default();
            for (member, score) in members {
                items.push(member);
                items.push(&score::encode(*score));
            }
            if items.fit(2) {
                out.form = Form::Small(items);
                return Ok(out);
            }
        }
        out.form = become_large(tx, key, members.iter().map(|(member, score)| (&member[..], *score)))?;
        Ok(out)
    }

    /// How many members it has.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.form {
            Form::Small(items) => items.len() / 2,
            Form::Large { count, .. } => *count,
        }
    }

    /// Whether it has none: saved so, its key goes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether its members are entries of their own.
    #[must_use]
    pub fn is_large(&self) -> bool {
        matches!(self.form, Form::Large { .. })
    }

    /// Writes what has to stand at its key; an empty one deletes the key.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn save(self, tx: &mut Tx<'_>) -> Read<()> {
        if !self.changed {
            return Ok(());
        }
        if self.is_empty() {
            return tx.delete(self.key).map(drop);
        }
        let mut large = Vec::new();
        let (encoding, generation, payload) = match &self.form {
            Form::Small(items) => (SMALL, None, items.payload()),
            Form::Large { generation, count, index } => {
                large.extend_from_slice(&(*count as u64).to_le_bytes());
                index.iter().for_each(|index| index.encode(&mut large));
                (LARGE, Some(*generation), &large[..])
            }
        };
        let kind = Kind::SortedSet as u8;
        tx.put(self.key, &Value { kind, encoding, expiry: self.expiry, generation, payload })
    }

    /// A member's score.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn score(&self, tx: &mut Tx<'_>, member: &[u8]) -> Read<Option<f64>> {
        match &self.form {
            Form::Small(items) => {
                Ok(pairs(items).find(|(other, _)| *other == member).map(|(_, score)| score))
            }
            Form::Large { generation, .. } => {
                let sub = member_key(member);
                match tx.read_element(self.key, *generation, &sub, score::decode)? {
                    Some(score) => Ok(Some(score.ok_or_else(|| damaged(self.key))?)),
                    None => Ok(None),
                }
            }
        }
    }

    /// Brings the elements of all these members into memory together: for a command that then asks one by one.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn gather<'n>(
        &self,
        tx: &mut Tx<'_>,
        members: impl ExactSizeIterator<Item = &'n (impl AsRef<[u8]> + 'n)>,
    ) -> Read<()> {
        if !self.is_large() || members.len() < 2 {
            return Ok(());
        }
        let mut misses = Misses::default();
        for member in members {
            misses.pass(self.score(tx, member.as_ref()))?;
        }
        misses.end()
    }

    /// Brings what it takes to add or remove members with these scores into memory together.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn gather_places<'n>(
        &self,
        tx: &mut Tx<'_>,
        members: impl Iterator<Item = (&'n [u8], f64)>,
    ) -> Read<()> {
        let Form::Large { generation, index: Some(index), .. } = &self.form else { return Ok(()) };
        let mut misses = Misses::default();
        for (member, score) in members {
            let sub = score::sub_key(score, member);
            index.gather(tx, At(self.key, *generation), &sub[1..], &mut misses)?;
        }
        misses.end()
    }

    /// Gives a member a score; `old` is what [`Zset::score`] says of it now.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    ///
    /// # Panics
    /// If the score is not a number.
    pub fn put(&mut self, tx: &mut Tx<'_>, member: &[u8], old: Option<f64>, score: f64) -> Read<()> {
        assert!(!score.is_nan(), "a score is a number");
        self.changed |= old.is_none() || !self.is_large();
        match &mut self.form {
            Form::Small(items) => {
                put_pair(items, member, old, score);
                let fits = small::takes(member) && items.fit(2);
                if fits { Ok(()) } else { self.grow(tx) }
            }
            Form::Large { generation, count, index } => {
                let at = At(self.key, *generation);
                let old = old.map(|old| score::sub_key(old, member));
                match &old {
                    Some(old) => tx.delete_element(at.0, at.1, old),
                    None => *count += 1,
                }
                let new = put_elements(tx, at, member, score);
                let Some(index) = index else { return Ok(()) };
                let (before, len) = (index.clone(), *count as u64);
                match old {
                    Some(old) => index.shift(tx, at, &old[1..], &new[1..], len)?,
                    None => index.add(tx, at, &new[1..], len)?,
                }
                self.changed |= before != *index;
                Ok(())
            }
        }
    }

    /// Removes a member that has this score.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn remove(&mut self, tx: &mut Tx<'_>, member: &[u8], score: f64) -> Read<()> {
        self.changed = true;
        match &mut self.form {
            Form::Small(items) => remove_pair(items, member),
            Form::Large { generation, count, index } => {
                *count -= 1;
                let at = At(self.key, *generation);
                let sub = score::sub_key(score, member);
                tx.delete_element(at.0, at.1, &member_key(member));
                tx.delete_element(at.0, at.1, &sub);
                if let Some(index) = index {
                    index.remove(tx, at, &sub[1..])?;
                }
            }
        }
        Ok(())
    }

    /// Removes members that it has, with their scores, none twice.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn remove_all(&mut self, tx: &mut Tx<'_>, members: &[Scored]) -> Read<()> {
        if members.len() == self.len() {
            // The key will go, and with it the elements.
            self.changed = !members.is_empty() || self.changed;
            self.form = Form::Small(Items::default());
            return Ok(());
        }
        self.gather_places(tx, members.iter().map(|(member, score)| (&member[..], *score)))?;
        members.iter().try_for_each(|(member, score)| self.remove(tx, member, *score))
    }

    /// Members with their scores from a scan's cursor on, and the cursor to go on from, 0 at the end. A small one is
    /// given whole; see [`hashed::scan`].
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn scan(&self, tx: &mut Tx<'_>, cursor: u64, count: usize) -> Read<(Vec<Scored>, u64)> {
        match &self.form {
            Form::Small(items) => Ok((owned(pairs(items)), 0)),
            Form::Large { generation, .. } => {
                let (page, next) = hashed::scan(tx, self.key, *generation, MEMBERS, cursor, count)?;
                let scored = page.into_iter().map(|(member, score)| self.scored(member, &score));
                Ok((scored.collect::<Read<_>>()?, next))
            }
        }
    }

    fn scored(&self, member: Bytes, score: &[u8]) -> Read<Scored> {
        Ok((member, score::decode(score).ok_or_else(|| damaged(self.key))?))
    }

    fn grow(&mut self, tx: &mut Tx<'_>) -> Read<()> {
        let Form::Small(items) = &self.form else { return Ok(()) };
        self.form = become_large(tx, self.key, pairs(items))?;
        Ok(())
    }
}

/// The members of a small one with their scores, in order.
fn pairs(items: &Items) -> impl Iterator<Item = (&[u8], f64)> {
    let mut items = items.iter();
    std::iter::from_fn(move || {
        let (member, score) = (items.next()?, items.next()?);
        Some((member, score::decode(score).expect("checked when it was decoded, or written here")))
    })
}

/// The members of a small one with their scores, in order, where they lie.
#[derive(Clone, Debug)]
pub struct Pairs<'a>(small::Walk<'a>);

/// Some members with their scores, where they lie.
pub type Part<'a> = SmallVec<[(&'a [u8], f64); 16]>;

impl<'a> Pairs<'a> {
    fn new(payload: &'a [u8]) -> Result<Pairs<'a>, Broken> {
        let walk = small::Walk::new(payload)?;
        if walk.left().is_multiple_of(2) { Ok(Pairs(walk)) } else { Err(Broken) }
    }

    /// Goes to the end.
    fn pass(mut self) -> Result<(), Broken> {
        while self.next()?.is_some() {}
        Ok(())
    }

    /// How many are still to come.
    #[must_use]
    pub fn left(&self) -> usize {
        self.0.left() / 2
    }

    /// The next one; `None` at the end.
    ///
    /// # Errors
    /// If what is walked over has no meaning.
    #[inline]
    #[allow(clippy::should_implement_trait)] // each one may fail
    pub fn next(&mut self) -> Result<Option<(&'a [u8], f64)>, Broken> {
        let Some(member) = self.0.next()? else { return Ok(None) };
        let score = self.0.next()?.and_then(score::decode).ok_or(Broken)?;
        Ok(Some((member, score)))
    }

    /// A member's score and how many come before it, of those that are still to come.
    ///
    /// # Errors
    /// If what is walked over has no meaning.
    pub fn find(mut self, member: &[u8]) -> Result<Option<(f64, usize)>, Broken> {
        let mut before = 0;
        while let Some(other) = self.0.next()? {
            let score = self.0.next()?.ok_or(Broken)?;
            if other == member {
                return Ok(Some((score::decode(score).ok_or(Broken)?, before)));
            }
            before += 1;
        }
        Ok(None)
    }
}

fn owned<'a>(pairs: impl Iterator<Item = (&'a [u8], f64)>) -> Vec<Scored> {
    pairs.map(|(member, score)| (Bytes::copy_from_slice(member), score)).collect()
}

/// Gives a member a score, in one walk; `old` is the one that it has.
fn put_pair(items: &mut Items, member: &[u8], old: Option<f64>, score: f64) {
    let (mut from, mut to) = (None, None);
    let mut walk = items.iter();
    while from.is_none() && old.is_some() || to.is_none() {
        let start = items.offset(&walk);
        let (Some(other), Some(its)) = (walk.next(), walk.next()) else { break };
        if old.is_some() && other == member {
            from = Some(start..items.offset(&walk));
        } else if to.is_none() {
            let its = score::decode(its).expect("checked when it was decoded, or written here");
            to = score::order((other, its), (member, score)).is_ge().then_some(start);
        }
    }
    let bytes = score::encode(score);
    let pair = [member, &bytes];
    match (from, to) {
        (None, None) => items.push_all(&pair),
        (None, Some(to)) => items.replace(to..to, 0, &pair),
        // It takes as many bytes where it goes to.
        (Some(from), to) => {
            let place = items.shift(from, to);
            items.replace(place, 2, &pair);
        }
    }
}

fn remove_pair(items: &mut Items, member: &[u8]) {
    let index = pairs(items).position(|(other, _)| other == member);
    if let Some(index) = index {
        items.splice(index * 2, 2, &[]);
    }
}

/// Writes a member's elements; the sub-key of its score's.
fn put_elements(tx: &mut Tx<'_>, at: At<'_>, member: &[u8], score: f64) -> SubKey {
    let sub = score::sub_key(score, member);
    tx.put_element(at.0, at.1, &member_key(member), score::encode(score));
    tx.put_element(at.0, at.1, &sub, []);
    sub
}

/// Writes members in order as elements of their own.
fn become_large<'m>(
    tx: &mut Tx<'_>,
    key: &Key,
    members: impl Iterator<Item = (&'m [u8], f64)>,
) -> Read<Form> {
    let generation = new_generation(tx, key)?;
    let at = At(key, generation);
    let subs: Vec<SubKey> = members.map(|(member, score)| put_elements(tx, at, member, score)).collect();
    let index = Some(Index::build(tx, at, &subs));
    Ok(Form::Large { generation, count: subs.len(), index })
}

/// The payload of a large one.
fn large(payload: &[u8]) -> Option<(usize, Option<Index>)> {
    let (count, index) = payload.split_first_chunk::<8>()?;
    Some((usize::try_from(u64::from_le_bytes(*count)).ok()?, Index::decode(index)?))
}

#[cfg(test)]
mod tests;
