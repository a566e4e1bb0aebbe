//! How values of each type are laid out in the engine's entries. Knows no command and no reply.
//!
//! A collection is small or large. A small one is whole in the value at its key, as [`small::Items`]; a large one
//! has its meta data there, with a generation, and an entry for each element. It becomes large when it outgrows the
//! limits of a small one and stays so until its key goes. An empty collection does not exist: its key is deleted.
//!
//! Everything here is plain code on a [`Tx`], and may be run again from the start after a cache miss.

pub mod dict;
pub mod geohash;
pub mod hashed;
pub mod hll;
pub mod list;
pub mod small;
pub mod stream;
pub mod zset;

use std::ops::Bound;

use bytes::Bytes;
use haypile_engine::error::Error;
use haypile_engine::key::{Generation, Key};
use haypile_engine::read::Direction;
use haypile_engine::tx::{Read, Stop, Tx};
use smallvec::SmallVec;

/// A collection's `encoding` if it is whole in its value. Part of the format.
pub const SMALL: u8 = 0;

/// A collection's `encoding` if its elements are entries of their own. Part of the format.
pub const LARGE: u8 = 1;

/// Elements read at a time where all of a large collection are wanted.
const PAGE: usize = 512;

/// What a read answers where a value's or an element's bytes have no meaning.
#[must_use]
pub fn damaged(key: &Key) -> Stop {
    let slot = key.slot();
    Stop::Failed(Error::Limit(format!(
        "a collection in slot {slot} has no meaning: the store is damaged, run check"
    )))
}

/// What a look at a collection gave.
#[derive(Debug)]
pub enum Look<L, T> {
    /// What was looked for in a small one, where it lies.
    Small(T),
    /// A large one, in which it is still to be looked for.
    Large(L),
}

/// The generation for a collection that becomes large now.
///
/// # Errors
/// See [`Stop`].
pub fn new_generation(tx: &mut Tx<'_>, key: &Key) -> Read<Generation> {
    let generation = tx.next_generation(key);
    // One transaction may make, delete and make again: both lives have one generation, so the first one's elements
    // have to go one by one. They are in the transaction's own writes, nowhere else.
    let mut pages = Pages::all(key, generation);
    loop {
        let page = pages.next(tx)?;
        if page.is_empty() {
            return Ok(generation);
        }
        page.iter().for_each(|(sub, _)| tx.delete_element(key, generation, sub));
    }
}

/// The bytes that find an element in its collection; short ones without an allocation.
pub type SubKey = SmallVec<[u8; 48]>;

/// What stands at a collection's key.
type Payload = SmallVec<[u8; 16]>;

/// Elements as they come: sub-key and value.
pub type Page = Vec<(Bytes, Bytes)>;

/// A walk over a large collection's elements, a page at a time. What the walk has passed may be written meanwhile.
#[derive(Debug)]
pub struct Pages<'k> {
    key: &'k Key,
    generation: Generation,
    from: Bound<Bytes>,
    to: Bound<Bytes>,
    direction: Direction,
    ended: bool,
}

impl<'k> Pages<'k> {
    /// Over all elements.
    #[must_use]
    pub fn all(key: &'k Key, generation: Generation) -> Pages<'k> {
        Pages::range(key, generation, Bound::Unbounded, Bound::Unbounded, Direction::Forward)
    }

    /// Over the elements with sub-keys of a range.
    #[must_use]
    pub fn range(
        key: &'k Key,
        generation: Generation,
        from: Bound<Bytes>,
        to: Bound<Bytes>,
        direction: Direction,
    ) -> Pages<'k> {
        Pages { key, generation, from, to, direction, ended: false }
    }

    /// The next elements; none at the end.
    ///
    /// # Errors
    /// See [`Stop`].
    pub fn next(&mut self, tx: &mut Tx<'_>) -> Read<Page> {
        if self.ended {
            return Ok(Page::new());
        }
        let (from, to) = (as_slice(&self.from), as_slice(&self.to));
        let page = tx.elements(self.key, self.generation, from, to, self.direction, PAGE)?;
        self.ended = page.len() < PAGE;
        if let Some((last, _)) = page.last() {
            match self.direction {
                Direction::Forward => self.from = Bound::Excluded(last.clone()),
                Direction::Backward => self.to = Bound::Excluded(last.clone()),
            }
        }
        Ok(page)
    }
}

fn as_slice(bound: &Bound<Bytes>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(bytes) => Bound::Included(bytes),
        Bound::Excluded(bytes) => Bound::Excluded(bytes),
        Bound::Unbounded => Bound::Unbounded,
    }
}

/// Misses that a loop of reads goes on after, so that all blocks that it lacks are fetched together instead of one
/// for each run of the command.
#[derive(Debug, Default)]
pub struct Misses(usize);

impl Misses {
    /// Misses after which a loop stops all the same: what it reads has to find place in the cache.
    const MAX: usize = 256;

    /// What a read gave, or `None` if it missed; the loop goes on then, without an answer.
    ///
    /// # Errors
    /// [`Stop::Failed`], or [`Stop::Miss`] once there were many.
    pub fn pass<T>(&mut self, read: Read<T>) -> Read<Option<T>> {
        match read {
            Ok(value) => Ok(Some(value)),
            Err(Stop::Miss) if self.0 < Self::MAX => {
                self.0 += 1;
                Ok(None)
            }
            Err(stop) => Err(stop),
        }
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0
    }

    /// To be called after the loop.
    ///
    /// # Errors
    /// [`Stop::Miss`] if there was any.
    pub fn end(self) -> Read<()> {
        if self.0 == 0 { Ok(()) } else { Err(Stop::Miss) }
    }
}

#[cfg(test)]
mod tests;
