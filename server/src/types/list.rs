//! Lists: items in the order that they were pushed in, each found by its position.
//!
//! ```text
//! small    payload    the items, in their order (see `small`)
//! large    payload, part of the format
//!  0   8   head       little-endian i64: the index of the first item
//!  8   8   length     little-endian, number of items: each index from `head` to `head + length` has one
//! element, part of the format
//!  sub-key  8         the index as big-endian i64 with its top bit turned, so that bytes sort as the numbers do
//!  value    n         the item
//! ```
//! Indexes grow to both sides, so a push or pop at an end touches one element and the meta data, and an item at a
//! position is one look-up. Inserting or removing in the middle of a large list moves the items on the shorter side:
//! O(n), as in Redis, but written to the log. Trimming writes what goes or what stays, whichever is less.

use std::ops::Bound;

use bytes::Bytes;
use haypile_engine::clock::TimeMs;
use haypile_engine::key::{Generation, Key};
use haypile_engine::read::Direction;
use haypile_engine::tx::{Read, Tx};
use haypile_engine::value::Value;

use super::small::{self, Broken, Items};
use super::{LARGE, Look, Page, Pages, Payload, SMALL, SubKey, damaged, new_generation};
use crate::kind::Kind;

/// An end of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Left: position 0.
    Head,
    /// Right: the last position.
    Tail,
}

/// A list, read at its key; changes to it are kept by [`List::save`]. Positions count from 0 at the head.
#[derive(Debug)]
pub struct List<'k> {
    key: &'k Key,
    expiry: Option<TimeMs>,
    form: Form,
    /// Whether the value at the key has to be written: a large one's items alone do not ask for it.
    changed: bool,
}

#[derive(Debug)]
enum Form {
    Small(Items),
    Large(Span),
}

/// Where a large list's items stand. Invariant: all indexes from `head` to `head + len` are `i64`s and have an item.
#[derive(Clone, Copy, Debug)]
struct Span {
    generation: Generation,
    head: i64,
    len: usize,
}

impl Span {
    fn decode(generation: Generation, payload: &[u8]) -> Option<Span> {
        let (head, len) = ends(payload)?;
        head.checked_add(i64::try_from(len).ok()?)?;
        Some(Span { generation, head, len: usize::try_from(len).ok()? })
    }

    fn encode(self) -> Payload {
        let mut out = Payload::from_slice(&self.head.to_le_bytes());
        out.extend_from_slice(&(self.len as u64).to_le_bytes());
        out
    }

    /// The index of a position; -1 is one before the head.
    fn index(self, position: i64) -> i64 {
        self.head.checked_add(position).expect("nobody pushes 2^63 times")
    }

    fn sub_key(self, position: usize) -> [u8; 8] {
        sub_key(self.index(signed(position)))
    }

    /// See [`List::walk`]: where the items lie, all in one go.
    fn walk(
        self,
        tx: &mut Tx<'_>,
        key: &Key,
        from: usize,
        count: usize,
        direction: Direction,
        mut visit: impl FnMut(usize, &[u8]) -> bool,
    ) -> Read<()> {
        let (mut left, mut goes_on, mut is_sound) = (from..from + count, true, true);
        if left.is_empty() {
            return Ok(());
        }
        let (first, last) = (self.sub_key(from), self.sub_key(from + count - 1));
        let range = (Bound::Included(&first[..]), Bound::Included(&last[..]));
        tx.read_elements(key, self.generation, range, direction, &mut |sub, item| {
            let position = match direction {
                Direction::Forward => left.next(),
                Direction::Backward => left.next_back(),
            };
            let position = position.filter(|position| self.sub_key(*position)[..] == *sub);
            is_sound = position.is_some();
            goes_on = position.is_some_and(|position| visit(position, item));
            goes_on
        })?;
        if is_sound && (left.is_empty() || !goes_on) { Ok(()) } else { Err(damaged(key)) }
    }

    fn pages(self, key: &Key, from: usize, count: usize, direction: Direction) -> Pages<'_> {
        let bound = |position| Bytes::copy_from_slice(&self.sub_key(position));
        let (from, to) = (Bound::Included(bound(from)), Bound::Excluded(bound(from + count)));
        Pages::range(key, self.generation, from, to, direction)
    }
}

/// The sub-key of the item at an index (negative ones count from the end) of a large list with this payload.
#[must_use]
pub fn place_at(payload: &[u8], index: i64) -> Option<SubKey> {
    let (head, len) = ends(payload)?;
    let position = if index < 0 { index.checked_add_unsigned(len)? } else { index };
    Some(SubKey::from_slice(&sub_key(head.checked_add(position)?)))
}

/// The index of the first item of a large list, and how many there are.
fn ends(payload: &[u8]) -> Option<(i64, u64)> {
    let (head, len) = payload.split_first_chunk::<8>()?;
    Some((i64::from_le_bytes(*head), u64::from_le_bytes(len.try_into().ok()?)))
}

fn sub_key(index: i64) -> [u8; 8] {
    (index.cast_unsigned() ^ 1 << 63).to_be_bytes()
}

fn signed(position: usize) -> i64 {
    i64::try_from(position).expect("a list's length is an i64")
}

impl<'k> List<'k> {
    /// An empty list, for a key where there is none.
    #[must_use]
    pub fn new(key: &'k Key) -> List<'k> {
        List { key, expiry: None, form: Form::Small(Items::default()), changed: false }
    }

    /// The list that stands at a key.
    ///
    /// # Errors
    /// [`haypile_engine::tx::Stop::Failed`] if the value has no meaning.
    pub fn decode<P: AsRef<[u8]>>(key: &'k Key, value: &Value<P>) -> Read<List<'k>> {
        let form = match (value.encoding, value.generation) {
            (SMALL, None) => Form::Small(Items::decode(key, value.payload.as_ref())?),
            (LARGE, Some(generation)) => {
                Form::Large(Span::decode(generation, value.payload.as_ref()).ok_or_else(|| damaged(key))?)
            }
            _ => return Err(damaged(key)),
        };
        Ok(List { key, expiry: value.expiry, form, changed: false })
    }

    /// Gives the items of one that is small to `look`.
    ///
    /// # Errors
    /// [`haypile_engine::tx::Stop::Failed`] if the value has no meaning.
    pub fn look<T>(
        key: &'k Key,
        value: &Value<&[u8]>,
        look: impl FnOnce(small::Walk<'_>) -> Result<T, Broken>,
    ) -> Read<Look<List<'k>, T>> {
        if (value.encoding, value.generation) != (SMALL, None) {
            return List::decode(key, value).map(Look::Large);
        }
        let looked = small::Walk::new(value.payload).and_then(look);
        looked.map(Look::Small).map_err(|Broken| damaged(key))
    }

    /// How many items it has.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.form {
            Form::Small(items) => items.len(),
            Form::Large(span) => span.len,
        }
    }

    /// Whether it has none: saved so, its key goes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
        let span_bytes;
        let (encoding, generation, payload) = match &self.form {
            Form::Small(items) => (SMALL, None, items.payload()),
            Form::Large(span) => {
                span_bytes = span.encode();
                (LARGE, Some(span.generation), &span_bytes[..])
            }
        };
        tx.put(
            self.key,
            &Value { kind: Kind::List as u8, encoding, expiry: self.expiry, generation, payload },
        )
    }

    /// The item at a position.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn get(&self, tx: &mut Tx<'_>, position: usize) -> Read<Option<Bytes>> {
        if position >= self.len() {
            return Ok(None);
        }
        match &self.form {
            Form::Small(items) => Ok(items.at(position).map(Bytes::copy_from_slice)),
            Form::Large(span) => {
                let item = tx.element(self.key, span.generation, &span.sub_key(position))?;
                item.map(Some).ok_or_else(|| damaged(self.key))
            }
        }
    }

    /// Gives `count` items from position `from` on to `visit`, with their positions, until it says stop (`false`).
    /// Backward: the same items, the last one first.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn walk(
        &self,
        tx: &mut Tx<'_>,
        from: usize,
        count: usize,
        direction: Direction,
        mut visit: impl FnMut(usize, &[u8]) -> bool,
    ) -> Read<()> {
        let from = from.min(self.len());
        let count = count.min(self.len() - from);
        match (&self.form, direction) {
            (Form::Small(items), Direction::Forward) => {
                let mut items = items.iter().enumerate().skip(from).take(count);
                items.all(|(position, item)| visit(position, item));
            }
            (Form::Small(items), Direction::Backward) => {
                let items: Vec<&[u8]> = items.iter().skip(from).take(count).collect();
                let mut items = items.into_iter().enumerate().rev();
                items.all(|(position, item)| visit(from + position, item));
            }
            (Form::Large(span), _) => return span.walk(tx, self.key, from, count, direction, visit),
        }
        Ok(())
    }

    /// Adds an item at an end.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn push(&mut self, tx: &mut Tx<'_>, end: End, item: &[u8]) -> Read<()> {
        self.changed = true;
        match (&mut self.form, end) {
            (Form::Small(_), End::Head) => self.splice(tx, 0, 0, item),
            (Form::Small(items), End::Tail) => {
                items.push(item);
                let fits = small::takes(item) && items.fit(1);
                if fits { Ok(()) } else { self.grow(tx) }
            }
            (Form::Large(span), _) => {
                if end == End::Head {
                    span.head = span.index(-1);
                }
                span.len += 1;
                let position = if end == End::Head { 0 } else { span.len - 1 };
                tx.put_element(self.key, span.generation, &span.sub_key(position), item);
                Ok(())
            }
        }
    }

    /// Takes up to `count` items off an end, in the order in which they come off.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn pop(&mut self, tx: &mut Tx<'_>, end: End, count: usize) -> Read<Vec<Bytes>> {
        self.changed = true;
        let count = count.min(self.len());
        let (from, direction) = match end {
            End::Head => (0, Direction::Forward),
            End::Tail => (self.len() - count, Direction::Backward),
        };
        let mut out = Vec::new();
        match &mut self.form {
            Form::Small(items) => {
                out.extend(items.iter().skip(from).take(count).map(Bytes::copy_from_slice));
                if end == End::Tail {
                    out.reverse();
                }
                items.splice(from, count, &[]);
            }
            Form::Large(span) => {
                if count == 1 {
                    let item = tx.element(self.key, span.generation, &span.sub_key(from))?;
                    out.push(item.ok_or_else(|| damaged(self.key))?);
                } else {
                    let mut walk = Walk::new(self.key, *span, from, count, direction);
                    while let Some(page) = walk.next(tx)? {
                        out.extend(page.into_iter().map(|(_, item)| item));
                    }
                }
                self.drop_end(tx, end, count);
            }
        }
        Ok(out)
    }

    /// Replaces the item at a position.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    ///
    /// # Panics
    /// If there is no such position.
    pub fn set(&mut self, tx: &mut Tx<'_>, position: usize, item: &[u8]) -> Read<()> {
        assert!(position < self.len(), "position {position} of {}", self.len());
        self.changed |= matches!(self.form, Form::Small(_));
        match &self.form {
            Form::Small(_) => self.splice(tx, position, 1, item),
            Form::Large(span) => {
                tx.put_element(self.key, span.generation, &span.sub_key(position), item);
                Ok(())
            }
        }
    }

    /// Inserts an item so that it then has this position.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    ///
    /// # Panics
    /// If the list is shorter than that.
    pub fn insert(&mut self, tx: &mut Tx<'_>, position: usize, item: &[u8]) -> Read<()> {
        assert!(position <= self.len(), "position {position} of {}", self.len());
        self.changed = true;
        let Form::Large(old) = self.form else { return self.splice(tx, position, 0, item) };
        let new = Span { len: old.len + 1, ..old };
        let new = if position < old.len - position {
            let new = Span { head: old.index(-1), ..new };
            let mut walk = Walk::new(self.key, old, 0, position, Direction::Forward);
            while let Some(page) = walk.next(tx)? {
                for (position, item) in page {
                    tx.put_element(self.key, new.generation, &new.sub_key(position), item);
                }
            }
            new
        } else {
            let mut walk = Walk::new(self.key, old, position, old.len - position, Direction::Backward);
            while let Some(page) = walk.next(tx)? {
                for (position, item) in page {
                    tx.put_element(self.key, new.generation, &new.sub_key(position + 1), item);
                }
            }
            new
        };
        tx.put_element(self.key, new.generation, &new.sub_key(position), item);
        self.form = Form::Large(new);
        Ok(())
    }

    /// Removes the items at these positions.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    ///
    /// # Panics
    /// If they do not ascend or the list has no such position.
    pub fn remove(&mut self, tx: &mut Tx<'_>, positions: &[usize]) -> Read<()> {
        let (Some(&first), Some(&last)) = (positions.first(), positions.last()) else { return Ok(()) };
        assert!(
            positions.is_sorted_by(|a, b| a < b) && last < self.len(),
            "positions of the list, ascending"
        );
        self.changed = true;
        let span = match &mut self.form {
            Form::Small(items) => {
                positions.iter().rev().for_each(|&position| items.splice(position, 1, &[]));
                return Ok(());
            }
            Form::Large(span) => *span,
        };
        let count = positions.len();
        if count == span.len {
            self.drop_end(tx, End::Head, count);
            return Ok(());
        }
        // What is written lies behind what is still to be read.
        let stays = |position: &usize| positions.binary_search(position).is_err();
        let end = if span.len - first <= last + 1 { End::Tail } else { End::Head };
        let (mut target, mut walk) = match end {
            End::Tail => (first, Walk::new(self.key, span, first, span.len - first, Direction::Forward)),
            End::Head => (last, Walk::new(self.key, span, 0, last + 1, Direction::Backward)),
        };
        while let Some(page) = walk.next(tx)? {
            for (_, item) in page.into_iter().filter(|(position, _)| stays(position)) {
                tx.put_element(self.key, span.generation, &span.sub_key(target), item);
                target = if end == End::Tail { target + 1 } else { target - 1 };
            }
        }
        self.drop_end(tx, end, count);
        Ok(())
    }

    /// Keeps `count` items from position `from` on, and no others.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn trim(&mut self, tx: &mut Tx<'_>, from: usize, count: usize) -> Read<()> {
        self.changed = true;
        let from = from.min(self.len());
        let count = count.min(self.len() - from);
        let after = self.len() - from - count;
        if let Form::Small(items) = &mut self.form {
            items.splice(from + count, after, &[]);
            items.splice(0, from, &[]);
            return Ok(());
        }
        if count == 0 || count >= from + after {
            self.drop_end(tx, End::Tail, if count == 0 { self.len() } else { after });
            self.drop_end(tx, End::Head, from.min(self.len()));
            return Ok(());
        }
        self.rebuild(tx, from, count)
    }

    /// Makes the list anew out of a part of it: the old elements go with their generation, unread and unwritten.
    fn rebuild(&mut self, tx: &mut Tx<'_>, from: usize, count: usize) -> Read<()> {
        let mut kept = Vec::with_capacity(count);
        self.walk(tx, from, count, Direction::Forward, |_, item| {
            kept.push(Bytes::copy_from_slice(item));
            true
        })?;
        self.form = Form::Small(Items::default());
        kept.iter().try_for_each(|item| self.push(tx, End::Tail, item))
    }

    /// Forgets `count` items at an end of a large list.
    fn drop_end(&mut self, tx: &mut Tx<'_>, end: End, count: usize) {
        let Form::Large(span) = &mut self.form else { return };
        // Once all are gone the key goes, and with it what is left of them.
        if count < span.len {
            let from = if end == End::Head { 0 } else { span.len - count };
            for position in from..from + count {
                tx.delete_element(self.key, span.generation, &span.sub_key(position));
            }
        }
        if end == End::Head {
            span.head = span.index(signed(count));
        }
        span.len -= count;
    }

    /// Puts one item in the place of `removed` ones in a small list, which may grow large by it.
    fn splice(&mut self, tx: &mut Tx<'_>, position: usize, removed: usize, item: &[u8]) -> Read<()> {
        let Form::Small(items) = &mut self.form else { return Ok(()) };
        items.splice(position, removed, &[item]);
        let fits = small::takes(item) && items.fit(1);
        if fits { Ok(()) } else { self.grow(tx) }
    }

    fn grow(&mut self, tx: &mut Tx<'_>) -> Read<()> {
        let Form::Small(items) = &self.form else { return Ok(()) };
        let span = Span { generation: new_generation(tx, self.key)?, head: 0, len: items.len() };
        for (position, item) in items.iter().enumerate() {
            let item = Bytes::copy_from_slice(item);
            tx.put_element(self.key, span.generation, &span.sub_key(position), item);
        }
        self.form = Form::Large(span);
        Ok(())
    }
}

/// A walk over a large list's items, a page at a time, that finds out if one is not there.
struct Walk<'k> {
    key: &'k Key,
    pages: Pages<'k>,
    span: Span,
    direction: Direction,
    /// Positions still to come.
    left: std::ops::Range<usize>,
}

impl<'k> Walk<'k> {
    fn new(key: &'k Key, span: Span, from: usize, count: usize, direction: Direction) -> Walk<'k> {
        Walk {
            key,
            pages: span.pages(key, from, count, direction),
            span,
            direction,
            left: from..from + count,
        }
    }

    /// Items with their positions; `None` at the end.
    fn next(&mut self, tx: &mut Tx<'_>) -> Read<Option<Vec<(usize, Bytes)>>> {
        if self.left.is_empty() {
            return Ok(None);
        }
        let page: Page = self.pages.next(tx)?;
        let mut out = Vec::with_capacity(page.len());
        for (sub, item) in page {
            let position = match self.direction {
                Direction::Forward => self.left.next(),
                Direction::Backward => self.left.next_back(),
            };
            match position {
                Some(position) if self.span.sub_key(position)[..] == sub[..] => out.push((position, item)),
                _ => return Err(damaged(self.key)),
            }
        }
        if out.is_empty() { Err(damaged(self.key)) } else { Ok(Some(out)) }
    }
}

#[cfg(test)]
mod tests;
