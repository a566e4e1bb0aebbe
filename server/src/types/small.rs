//! The payload of a small collection: its items one after another, in their order.
//!
//! ```text
//! payload, part of the format
//!  0   v   count      varint, number of items
//!  .       item       as often: varint length, then the bytes
//! ```
//! A hash has two items for each field (field, value), a sorted set two for each member; lists and sets one.

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

/// Whether an item may stand in a small collection.
#[must_use]
pub fn takes(item: &[u8]) -> bool {
    item.len() <= ITEM_BYTES_MAX
}

/// A small collection's items. Finding one is a walk, as they are few.
#[derive(Clone, Debug, Default)]
pub struct Items {
    count: usize,
    /// The items, without the count. Invariant: `count` whole items and nothing more.
    body: Vec<u8>,
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
        let (count, used) = varint::read(payload)?;
        let count = usize::try_from(count).ok()?;
        let body = payload.get(used..)?;
        let mut rest = body;
        for _ in 0..count {
            varint::take_slice(&mut rest)?;
        }
        rest.is_empty().then(|| Items { count, body: body.to_vec() })
    }

    /// The payload that stands for them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.body.len() + 2);
        varint::put(&mut out, self.count as u64);
        out.extend_from_slice(&self.body);
        out
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
        self.count <= ELEMENTS_MAX * items_each && self.body.len() + 2 <= PAYLOAD_BYTES_MAX
    }

    /// The items in their order.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter { rest: &self.body, left: self.count }
    }

    /// The item at a position.
    #[must_use]
    pub fn at(&self, index: usize) -> Option<&[u8]> {
        self.iter().nth(index)
    }

    /// Appends an item.
    pub fn push(&mut self, item: &[u8]) {
        varint::put_slice(&mut self.body, item);
        self.count += 1;
    }

    /// Replaces `removed` items from `index` on by `items`: insertion, removal and change in one.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn splice(&mut self, index: usize, removed: usize, items: &[&[u8]]) {
        assert!(index + removed <= self.count, "items {index}+{removed} of {}", self.count);
        let mut iter = self.iter();
        let whole = iter.rest.len();
        iter.by_ref().take(index).for_each(drop);
        let start = whole - iter.rest.len();
        iter.by_ref().take(removed).for_each(drop);
        let end = whole - iter.rest.len();
        let mut bytes = Vec::with_capacity(items.iter().map(|item| item.len() + 2).sum());
        items.iter().for_each(|item| varint::put_slice(&mut bytes, item));
        self.body.splice(start..end, bytes);
        self.count = self.count - removed + items.len();
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
