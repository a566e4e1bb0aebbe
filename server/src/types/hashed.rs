//! Elements that are found by their name (a hash's field, a member), in the order of a hash of it. A position in that
//! order is a number: a scan's cursor, and something to choose at random.
//!
//! ```text
//! sub-key, part of the format
//!  0   1   tag        the type's own: parts these elements from others of the same collection
//!  1   6   hash48     of the name, big-endian
//!  7   n   name
//! ```
//! **Chance.** [`random_many`] chooses evenly: it throws a window of fixed width on the circle of hashes, so that each
//! element is in it with the same probability, takes one of the m elements in it, and keeps it with probability
//! m / [`WINDOW_MAX`] (else it throws again). Each element's chance is then the same for each throw, however the
//! hashes lie. Uneven is only what happens when a window holds more than `WINDOW_MAX` elements: 16 are expected,
//! so by chance that is once in 10^10 throws; names made to collide share the chance of the window that they crowd.
//!
//! Whoever calls these is on a worker, within a transaction.

use std::ops::Bound;

use bytes::Bytes;
use haypile_engine::key::{Generation, Key, hash48};
use haypile_engine::read::Direction;
use haypile_engine::tx::{Read, Tx};
use rand::{Rng, RngExt};

use super::{Misses, Page, SubKey, damaged};

/// One beyond the greatest hash.
const HASHES: u64 = 1 << 48;

/// Elements expected in a random window.
const WINDOW: u64 = 16;

/// Elements above which a window's elements no longer have their full chance.
pub const WINDOW_MAX: usize = 48;

/// Elements of a window that are looked at: the cost of a throw stays bounded whatever the names.
const WINDOW_READ_MAX: usize = 4096;

/// Throws after which any element will do: by chance never reached (the count would have to be far off).
const THROWS_MAX: usize = 256;

/// The sub-key of the element with this name.
#[must_use]
pub fn sub_key(tag: u8, name: &[u8]) -> SubKey {
    let mut head = hash48(name).to_be_bytes();
    // The hash has six bytes: the tag takes the place of the one before.
    head[1] = tag;
    let mut out = SubKey::from_slice(&head[1..]);
    out.extend_from_slice(name);
    out
}

/// The name in a sub-key; shares its memory. `key` is for the error.
///
/// # Errors
/// [`haypile_engine::tx::Stop::Failed`] if it is too short.
pub fn name(key: &Key, sub: &Bytes) -> Read<Bytes> {
    if sub.len() < 7 { Err(damaged(key)) } else { Ok(sub.slice(7..)) }
}

/// The same, borrowed; `None` if it is too short.
#[must_use]
pub fn name_in(sub: &[u8]) -> Option<&[u8]> {
    sub.get(7..)
}

/// The range of all sub-keys with this tag.
#[must_use]
pub fn all(tag: u8) -> (Bound<Bytes>, Bound<Bytes>) {
    (Bound::Included(Bytes::from(vec![tag])), after(tag))
}

fn after(tag: u8) -> Bound<Bytes> {
    Bound::Excluded(Bytes::from(vec![tag + 1]))
}

fn hash_of(key: &Key, sub: &[u8]) -> Read<u64> {
    let mut raw = [0; 8];
    raw[2..].copy_from_slice(sub.get(1..7).ok_or_else(|| damaged(key))?);
    Ok(u64::from_be_bytes(raw))
}

/// A bound right before the first element of a hash.
fn position(tag: u8, hash: u64) -> Vec<u8> {
    [&[tag][..], &hash.to_be_bytes()[2..]].concat()
}

/// Names with their values, and the cursor to go on from, 0 at the end.
pub type Scanned = (Page, u64);

/// The elements from a cursor on, about `count` of them (more only where more have one hash): all of one hash or none.
///
/// A walk that begins with 0 and goes on with each answer's cursor sees every element that is there from its beginning
/// to its end, whatever is written meanwhile.
///
/// # Errors
/// See [`haypile_engine::tx::Stop`].
pub fn scan(
    tx: &mut Tx<'_>,
    key: &Key,
    generation: Generation,
    tag: u8,
    cursor: u64,
    count: usize,
) -> Read<Scanned> {
    if cursor >= HASHES {
        return Ok((Page::new(), 0));
    }
    let from = position(tag, cursor);
    let after = [tag + 1];
    let (from, to) = (Bound::Included(&from[..]), Bound::Excluded(&after[..]));
    let mut limit = count.max(1);
    loop {
        let mut page = tx.elements(key, generation, from, to, Direction::Forward, limit.saturating_add(1))?;
        let mut next = 0;
        if page.len() > limit {
            next = hash_of(key, &page[limit].0)?;
            while let Some((last, _)) = page.last()
                && hash_of(key, last)? == next
            {
                page.pop();
            }
            if page.is_empty() {
                limit = limit.saturating_mul(2);
                continue;
            }
        }
        for (sub, _) in &mut page {
            *sub = name(key, sub)?;
        }
        return Ok((page, next));
    }
}

/// An element (name, value) chosen at random, of `len` that there are; `None` only if there is none.
///
/// # Errors
/// See [`haypile_engine::tx::Stop`].
pub fn random(
    tx: &mut Tx<'_>,
    key: &Key,
    generation: Generation,
    tag: u8,
    len: u64,
    rng: &mut impl Rng,
) -> Read<Option<(Bytes, Bytes)>> {
    Ok(random_many(tx, key, generation, tag, len, 1, rng)?.pop())
}

/// `count` elements (name, value) chosen at random, each of all the `len` that there are; fewer only if the collection is
/// empty or has not the elements that `len` says.
///
/// The same random numbers over the same elements choose the same: a command that runs again after a miss has to
/// begin with the same ones, or it may never end.
///
/// # Errors
/// See [`haypile_engine::tx::Stop`].
pub fn random_many(
    tx: &mut Tx<'_>,
    key: &Key,
    generation: Generation,
    tag: u8,
    len: u64,
    count: usize,
    rng: &mut impl Rng,
) -> Read<Page> {
    let width = if len <= WINDOW { HASHES } else { HASHES / len * WINDOW };
    let (mut chosen, mut misses) = (Page::new(), Misses::default());
    for _ in 0..count.saturating_mul(THROWS_MAX) {
        // What missed will be chosen from in one throw of three: about so much is fetched together as will be needed.
        if chosen.len() + misses.count() / 3 >= count {
            break;
        }
        // Every throw takes as many random numbers, whether it misses or not: the next one is the same in each run.
        let (start, ticket, crowd) =
            (rng.random_range(0..HASHES), rng.random_range(0..WINDOW_MAX), rng.random());
        let Some(mut window) = misses.pass(throw(tx, key, generation, tag, start, width))? else { continue };
        let ticket = if window.len() > WINDOW_MAX { among(crowd, window.len()) } else { ticket };
        if ticket < window.len() {
            let (sub, value) = window.swap_remove(ticket);
            chosen.push((name(key, &sub)?, value));
        }
    }
    misses.end()?;
    if chosen.is_empty() && count > 0 {
        let (page, _) = scan(tx, key, generation, tag, 0, 1)?;
        chosen.extend(page.into_iter().take(1));
    }
    Ok(chosen)
}

/// A random number as a position among `len`.
fn among(random: u64, len: usize) -> usize {
    usize::try_from(random % len as u64).expect("below a length")
}

/// The elements in a window, which may reach over the end of the circle.
fn throw(tx: &mut Tx<'_>, key: &Key, generation: Generation, tag: u8, start: u64, width: u64) -> Read<Page> {
    let end = start + width;
    let mut window = between(tx, key, generation, tag, start, end.min(HASHES))?;
    if end > HASHES {
        window.extend(between(tx, key, generation, tag, 0, end - HASHES)?);
    }
    Ok(window)
}

/// The elements with hashes from `from` to before `to`.
fn between(tx: &mut Tx<'_>, key: &Key, generation: Generation, tag: u8, from: u64, to: u64) -> Read<Page> {
    let to = if to >= HASHES { vec![tag + 1] } else { position(tag, to) };
    let from = position(tag, from);
    let (from, to) = (Bound::Included(&from[..]), Bound::Excluded(&to[..]));
    tx.elements(key, generation, from, to, Direction::Forward, WINDOW_READ_MAX)
}
