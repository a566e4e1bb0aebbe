//! The payload of a small collection: its items one after another, in their order.
//!
//! ```text
//! payload, part of the format
//!  0   v   count      varint, number of items
//!  .       item       as often: varint length, then the bytes
//! ```
//! A hash has two items for each field (field, value), a sorted set two for each member; lists and sets one.

use std::ops::Range;

use haypile_engine::key::Key;
use haypile_engine::tx::Read;
use haypile_engine::varint;

use super::damaged;

/// The most elements (a hash's field with its value is one) that a small collection has. Part of the format only in
/// that readers take what they find: it may change.
pub const ELEMENTS_MAX: usize = 128;

/// The longest item of a small collection, in bytes.
pub const ITEM_BYTES_MAX: usize = 64;

/// The longest payload of a small collection, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 2048;

/// Bytes that the count is taken to have, however few it has.
const COUNT_BYTES: usize = 2;

/// Whether an item may stand in a small collection.
#[must_use]
pub fn takes(item: &[u8]) -> bool {
    item.len() <= ITEM_BYTES_MAX
}

/// A small collection's items. Finding one is a walk, as they are few; what a walk has found is changed without another
/// ([`Items::replace`]).
#[derive(Clone, Debug, Default)]
pub struct Items {
    count: usize,
    /// Where in the payload the items begin.
    start: usize,
    /// Invariant: the count and `count` whole items and nothing more; all of it may lack if there are none.
    payload: Vec<u8>,
}

impl Items {
    /// Reads a payload; all of it is checked here, so that walking it can't fail. `key` is for the error.
    ///
    /// # Errors
    /// [`haypile_engine::tx::Stop::Failed`] if the bytes are no items.
    pub fn decode(key: &Key, payload: &[u8]) -> Read<Items> {
        Self::try_decode(payload).ok_or_else(|| damaged(key))
    }

    fn try_decode(payload: &[u8]) -> Option<Items> {
        let mut walk = Walk::new(payload).ok()?;
        while walk.next().ok()?.is_some() {}
        Some(Items::of(payload))
    }

    /// The items of a payload that a [`Walk`] has come to the end of.
    ///
    /// # Panics
    /// Now or later if none has.
    #[must_use]
    pub fn of(payload: &[u8]) -> Items {
        let (count, start) = varint::read(payload).expect("there was a walk");
        let count = usize::try_from(count).expect("there was a walk");
        // Most are about to grow.
        let mut copy = Vec::with_capacity(payload.len() + ITEM_BYTES_MAX);
        copy.extend_from_slice(payload);
        Items { count, start, payload: copy }
    }

    /// The payload that stands for them.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        if self.payload.is_empty() { &[0] } else { &self.payload }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether they may stand in one value, if each element takes `items_each` items. That each item is short enough
    /// was asked before it was put in ([`takes`]).
    #[must_use]
    pub fn fit(&self, items_each: usize) -> bool {
        self.count <= ELEMENTS_MAX * items_each
            && self.payload.len() - self.start + COUNT_BYTES <= PAYLOAD_BYTES_MAX
    }

    /// The items in their order.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter { rest: &self.payload[self.start..], left: self.count }
    }

    /// The item at a position.
    #[must_use]
    pub fn at(&self, index: usize) -> Option<&[u8]> {
        self.iter().nth(index)
    }

    /// Where in the payload the items begin that a walk has not come to.
    #[must_use]
    pub fn offset(&self, walk: &Iter<'_>) -> usize {
        self.payload.len() - walk.rest.len()
    }

    /// Appends items.
    pub fn push_all(&mut self, items: &[&[u8]]) {
        // The count may begin to lie there only now.
        self.recount(self.count);
        let end = self.payload.len();
        self.replace(end..end, 0, items);
    }

    /// Appends an item.
    pub fn push(&mut self, item: &[u8]) {
        self.push_all(&[item]);
    }

    /// Replaces `removed` items from `index` on by `items`: insertion, removal and change in one.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn splice(&mut self, index: usize, removed: usize, items: &[&[u8]]) {
        assert!(index + removed <= self.count, "items {index}+{removed} of {}", self.count);
        self.recount(self.count);
        let mut walk = self.iter();
        walk.by_ref().take(index).for_each(drop);
        let start = self.offset(&walk);
        walk.by_ref().take(removed).for_each(drop);
        let end = self.offset(&walk);
        self.replace(start..end, removed, items);
    }

    /// Replaces the `removed` items that lie there in the payload ([`Items::offset`]) by `items`.
    pub fn replace(&mut self, place: Range<usize>, removed: usize, items: &[&[u8]]) {
        let added: usize = items.iter().map(|item| varint::len(item.len() as u64) + item.len()).sum();
        let (end, new_end) = (self.payload.len(), self.payload.len() - place.len() + added);
        self.payload.resize(new_end.max(end), 0);
        self.payload.copy_within(place.end..end, place.start + added);
        self.payload.truncate(new_end);
        let mut rest = &mut self.payload[place.start..place.start + added];
        for item in items {
            rest = varint::write(rest, item.len() as u64);
            let (here, after) = rest.split_at_mut(item.len());
            here.copy_from_slice(item);
            rest = after;
        }
        self.recount(self.count - removed + items.len());
    }

    /// Moves the items that lie there in the payload to before those that lie at `to`, or to the end; where they lie then.
    pub fn shift(&mut self, place: Range<usize>, to: Option<usize>) -> Range<usize> {
        let (to, len) = (to.unwrap_or(self.payload.len()), place.len());
        if to <= place.start {
            self.payload[to..place.end].rotate_right(len);
            to..to + len
        } else {
            self.payload[place.start..to].rotate_left(len);
            to - len..to
        }
    }

    /// There are so many now.
    fn recount(&mut self, count: usize) {
        self.count = count;
        let bytes = varint::len(count as u64);
        if bytes != self.start {
            self.payload.splice(..self.start, std::iter::repeat_n(0, bytes));
            self.start = bytes;
        }
        varint::write(&mut self.payload, count as u64);
    }
}

impl<'a> FromIterator<&'a [u8]> for Items {
    fn from_iter<T: IntoIterator<Item = &'a [u8]>>(items: T) -> Items {
        let mut out = Items::default();
        items.into_iter().for_each(|item| out.push(item));
        out
    }
}

impl<'a> IntoIterator for &'a Items {
    type Item = &'a [u8];
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// A walk over [`Items`].
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        Some(varint::take_slice(&mut self.rest).expect("checked when it was decoded"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Iter<'_> {}

/// Bytes that are no items.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken;

/// A walk over a payload's items where they lie. It checks them on its way: whoever looks for one of them spares reading,
/// and copying, all of them.
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Walk<'a> {
    /// Before the first item.
    ///
    /// # Errors
    /// If the bytes don't say how many there are.
    pub fn new(payload: &'a [u8]) -> Result<Walk<'a>, Broken> {
        let mut rest = payload;
        let count = varint::take(&mut rest).ok_or(Broken)?;
        Ok(Walk { rest, left: usize::try_from(count).map_err(|_| Broken)? })
    }

    /// How many items are still to come.
    #[must_use]
    pub fn left(&self) -> usize {
        self.left
    }

    /// The next item; `None` at the end.
    ///
    /// # Errors
    /// If the bytes are no items.
    #[inline]
    #[allow(clippy::should_implement_trait)] // each one may fail
    pub fn next(&mut self) -> Result<Option<&'a [u8]>, Broken> {
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                varint::take_slice(&mut self.rest).map(Some).ok_or(Broken)
            }
            None if self.rest.is_empty() => Ok(None),
            None => Err(Broken),
        }
    }

    /// Passes items by.
    ///
    /// # Errors
    /// If the bytes are no items.
    pub fn skip(&mut self, count: usize) -> Result<(), Broken> {
        (0..count).try_for_each(|_| self.next().map(drop))
    }
}
