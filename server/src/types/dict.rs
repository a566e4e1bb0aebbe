//! Hashes and sets: names, each with a value or without.
//!
//! ```text
//! part of the format
//! small   payload   items: field, value, field, value ... (hash); member, member ... (set), in order of insertion
//! large   payload   varint: number of elements
//!         sub-key   see `hashed`, tag 0x01
//!         element   the field's value; nothing in a set
//! ```
//! A [`Dict`] is what one command sees of one of them: opened from the value at its key, changed, and closed, which
//! writes what has to stand at the key. Elements of a large one are written at once.

use std::collections::HashSet;
use std::ops::Range;

use bytes::Bytes;
use haypile_engine::clock::TimeMs;
use haypile_engine::key::{Generation, Key, hash48};
use haypile_engine::tx::{Read, Tx};
use haypile_engine::value::Value;
use haypile_engine::varint;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use super::small::{self, Broken, Items};
use super::{LARGE, Look, Misses, Page, Pages, Payload, SMALL, SubKey, damaged, hashed, new_generation};
use crate::kind::Kind;

/// Parts a large one's elements from what a later format may put beside them. Part of the format.
const TAG: u8 = 1;

/// The sub-key of a name's element.
#[must_use]
pub fn sub_key(name: &[u8]) -> SubKey {
    hashed::sub_key(TAG, name)
}

/// Rounds of choosing again what was chosen before: each leaves no more than about a third, so that many are never needed.
const ROUNDS_MAX: usize = 64;

/// A hash or a set; see the file's head.
#[derive(Debug)]
pub struct Dict<'k> {
    key: &'k Key,
    shape: Shape,
    expiry: Option<TimeMs>,
    form: Form,
    /// Whether something stands at the key: what this was opened from, or what it wrote when it became large.
    existed: bool,
    /// Whether what stands at the key has to be written anew.
    changed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shape {
    Hash,
    Set,
}

impl Shape {
    fn kind(self) -> Kind {
        match self {
            Shape::Hash => Kind::Hash,
            Shape::Set => Kind::Set,
        }
    }

    /// Items that an element takes in a small one.
    fn items(self) -> usize {
        match self {
            Shape::Hash => 2,
            Shape::Set => 1,
        }
    }
}

#[derive(Debug)]
enum Form {
    Small(Items),
    Large { generation: Generation, len: u64 },
}

/// A name and its value (nothing in a set), where they lie.
pub type Element<'a> = (&'a [u8], &'a [u8]);

/// The elements of a small one, where they lie.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    walk: small::Walk<'a>,
    shape: Shape,
}

impl<'a> Elements<'a> {
    /// How many are still to come.
    #[must_use]
    pub fn left(&self) -> usize {
        self.walk.left() / self.shape.items()
    }

    /// The next one, with its value (nothing in a set); `None` at the end.
    ///
    /// # Errors
    /// If what is walked over has no meaning.
    #[inline]
    #[allow(clippy::should_implement_trait)] // each one may fail
    pub fn next(&mut self) -> Result<Option<Element<'a>>, Broken> {
        let Some(name) = self.walk.next()? else { return Ok(None) };
        match self.shape {
            Shape::Set => Ok(Some((name, &[]))),
            Shape::Hash => Ok(Some((name, self.walk.next()?.ok_or(Broken)?))),
        }
    }

    /// The value of a name among those that are still to come (nothing in a set), if it is there.
    ///
    /// # Errors
    /// If what is walked over has no meaning.
    pub fn find(mut self, name: &[u8]) -> Result<Option<&'a [u8]>, Broken> {
        while let Some((other, value)) = self.next()? {
            if other == name {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}

impl<'k> Dict<'k> {
    /// The hash of a value that stands at the key.
    ///
    /// # Errors
    /// [`haypile_engine::tx::Stop::Failed`] if the value has no meaning.
    pub fn hash<P: AsRef<[u8]>>(key: &'k Key, value: &Value<P>) -> Read<Dict<'k>> {
        Self::open(key, Shape::Hash, value)
    }

    /// The set of a value that stands at the key.
    ///
    /// # Errors
    /// [`haypile_engine::tx::Stop::Failed`] if the value has no meaning.
    pub fn set<P: AsRef<[u8]>>(key: &'k Key, value: &Value<P>) -> Read<Dict<'k>> {
        Self::open(key, Shape::Set, value)
    }

    /// An empty hash, for a key where there is none.
    #[must_use]
    pub fn new_hash(key: &'k Key) -> Dict<'k> {
        Self::empty(key, Shape::Hash)
    }

    /// An empty set, for a key where there is none.
    #[must_use]
    pub fn new_set(key: &'k Key) -> Dict<'k> {
        Self::empty(key, Shape::Set)
    }

    fn empty(key: &'k Key, shape: Shape) -> Dict<'k> {
        let form = Form::Small(Items::default());
        Dict { key, shape, expiry: None, form, existed: false, changed: false }
    }

    fn open<P: AsRef<[u8]>>(key: &'k Key, shape: Shape, value: &Value<P>) -> Read<Dict<'k>> {
        let form = match (value.encoding, value.generation) {
            (SMALL, None) => Form::Small(Items::decode(key, value.payload.as_ref())?),
            (LARGE, Some(generation)) => {
                let (len, _) = varint::read(value.payload.as_ref()).ok_or_else(|| damaged(key))?;
                Form::Large { generation, len }
            }
            _ => return Err(damaged(key)),
        };
        if matches!(&form, Form::Small(items) if !items.len().is_multiple_of(shape.items())) {
            return Err(damaged(key));
        }
        Ok(Dict { key, shape, expiry: value.expiry, form, existed: true, changed: false })
    }

    /// Gives the elements of a hash or a set (`kind` says which), if it is small, to `look`.
    ///
    /// # Errors
    /// [`haypile_engine::tx::Stop::Failed`] if the value has no meaning.
    pub fn look<T>(
        key: &'k Key,
        kind: Kind,
        value: &Value<&[u8]>,
        look: impl FnOnce(Elements<'_>) -> Result<T, Broken>,
    ) -> Read<Look<Dict<'k>, T>> {
        let shape = if kind == Kind::Hash { Shape::Hash } else { Shape::Set };
        if (value.encoding, value.generation) != (SMALL, None) {
            return Self::open(key, shape, value).map(Look::Large);
        }
        let walk = small::Walk::new(value.payload).ok();
        let walk = walk.filter(|walk| walk.left().is_multiple_of(shape.items()));
        let elements = Elements { walk: walk.ok_or_else(|| damaged(key))?, shape };
        look(elements).map(Look::Small).map_err(|Broken| damaged(key))
    }

    /// How many elements there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.form {
            Form::Small(items) => items.len() / self.shape.items(),
            Form::Large { len, .. } => usize::try_from(*len).unwrap_or(usize::MAX),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether its names have values.
    #[must_use]
    pub fn is_hash(&self) -> bool {
        self.shape == Shape::Hash
    }

    /// Whether its elements are entries of their own.
    #[must_use]
    pub fn is_large(&self) -> bool {
        matches!(self.form, Form::Large { .. })
    }

    /// A small one's element: where its items lie, and its value (nothing in a set).
    fn find<'i>(items: &'i Items, shape: Shape, name: &[u8]) -> Option<(Range<usize>, &'i [u8])> {
        let mut iter = items.iter();
        loop {
            let start = items.offset(&iter);
            let item = iter.next()?;
            let value = if shape == Shape::Hash { iter.next()? } else { &[] };
            if item == name {
                return Some((start..items.offset(&iter), value));
            }
        }
    }

    /// The value of a name (nothing in a set), if it is there.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn get(&self, tx: &mut Tx<'_>, name: &[u8]) -> Read<Option<Bytes>> {
        match &self.form {
            Form::Small(items) => {
                Ok(Self::find(items, self.shape, name).map(|(_, value)| Bytes::copy_from_slice(value)))
            }
            Form::Large { generation, .. } => tx.element(self.key, *generation, &sub_key(name)),
        }
    }

    /// Whether a name is there.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn has(&self, tx: &mut Tx<'_>, name: &[u8]) -> Read<bool> {
        match &self.form {
            Form::Small(items) => Ok(Self::find(items, self.shape, name).is_some()),
            Form::Large { generation, .. } => {
                let sub = sub_key(name);
                Ok(tx.read_element(self.key, *generation, &sub, |_| ())?.is_some())
            }
        }
    }

    /// For asking after so many names.
    #[must_use]
    pub fn finder(&self, names: usize) -> Finder<'_, 'k> {
        match &self.form {
            Form::Small(items) if names >= FINDER_NAMES_MIN => Finder::Names(Names::of(items, self.shape)),
            _ => Finder::Dict(self),
        }
    }

    /// The members of a set that is small.
    #[must_use]
    pub fn small_members(&self) -> Option<small::Iter<'_>> {
        match &self.form {
            Form::Small(items) if self.shape == Shape::Set => Some(items.iter()),
            _ => None,
        }
    }

    /// Brings the elements of all these names into memory together: for a command that then asks one by one.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn gather<'n>(
        &self,
        tx: &mut Tx<'_>,
        names: impl ExactSizeIterator<Item = &'n (impl AsRef<[u8]> + 'n)>,
    ) -> Read<()> {
        if !self.is_large() || names.len() < 2 {
            return Ok(());
        }
        let mut misses = Misses::default();
        for name in names {
            misses.pass(self.get(tx, name.as_ref()))?;
        }
        misses.end()
    }

    /// Sets a name's value (nothing in a set). Says whether the name is new.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn put(&mut self, tx: &mut Tx<'_>, name: &[u8], value: &[u8]) -> Read<bool> {
        let shape = self.shape;
        debug_assert!(shape == Shape::Hash || value.is_empty());
        match &mut self.form {
            Form::Small(items) => {
                let found = Self::find(items, shape, name);
                let new = found.is_none();
                if found.as_ref().is_some_and(|(_, old)| *old == value) {
                    return Ok(false);
                }
                let at = found.map(|(at, _)| at);
                self.changed = true;
                if small::takes(name) && small::takes(value) {
                    let element = [name, value];
                    let element = &element[..shape.items()];
                    match at {
                        Some(at) => items.replace(at, element.len(), element),
                        None => items.push_all(element),
                    }
                    if !items.fit(shape.items()) {
                        self.enlarge(tx)?;
                    }
                } else {
                    if let Some(at) = at {
                        items.replace(at, shape.items(), &[]);
                    }
                    self.enlarge(tx)?;
                    self.put_new(tx, name, value)?;
                }
                Ok(new)
            }
            Form::Large { generation, len } => {
                let sub = sub_key(name);
                let same = tx.read_element(self.key, *generation, &sub, |old| old == value)?;
                let new = same.is_none();
                if same != Some(true) {
                    tx.put_element(self.key, *generation, &sub, value);
                }
                *len += u64::from(new);
                self.changed |= new;
                Ok(new)
            }
        }
    }

    /// Sets a name's value (nothing in a set) where the name is known not to be there: spares looking for it.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn put_new(&mut self, tx: &mut Tx<'_>, name: &[u8], value: &[u8]) -> Read<()> {
        match &mut self.form {
            Form::Small(_) => self.put(tx, name, value).map(drop),
            Form::Large { generation, len } => {
                tx.put_element(self.key, *generation, &sub_key(name), value);
                *len += 1;
                self.changed = true;
                Ok(())
            }
        }
    }

    /// Makes a small one large.
    fn enlarge(&mut self, tx: &mut Tx<'_>) -> Read<()> {
        let Form::Small(items) = &mut self.form else { return Ok(()) };
        let items = std::mem::take(items);
        let generation = new_generation(tx, self.key)?;
        self.form = Form::Large { generation, len: 0 };
        // Elements are nobody's unless the value at the key has their generation: it comes first.
        self.write(tx)?;
        self.existed = true;
        let mut iter = items.iter();
        while let Some(name) = iter.next() {
            let value = if self.shape == Shape::Hash { iter.next().unwrap_or_default() } else { &[] };
            self.put_new(tx, name, value)?;
        }
        Ok(())
    }

    /// Removes a name. Says whether it was there.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn remove(&mut self, tx: &mut Tx<'_>, name: &[u8]) -> Read<bool> {
        match &mut self.form {
            Form::Small(items) => {
                let Some((at, _)) = Self::find(items, self.shape, name) else { return Ok(false) };
                items.replace(at, self.shape.items(), &[]);
            }
            Form::Large { generation, len } => {
                let sub = sub_key(name);
                if tx.read_element(self.key, *generation, &sub, |_| ())?.is_none() {
                    return Ok(false);
                }
                tx.delete_element(self.key, *generation, &sub);
                *len = len.checked_sub(1).ok_or_else(|| damaged(self.key))?;
            }
        }
        self.changed = true;
        Ok(true)
    }

    /// Writes the value at the key.
    fn write(&self, tx: &mut Tx<'_>) -> Read<()> {
        let mut len_bytes = Payload::new();
        let (encoding, generation, payload) = match &self.form {
            Form::Small(items) => (SMALL, None, items.payload()),
            Form::Large { generation, len } => {
                varint::put(&mut len_bytes, *len);
                (LARGE, Some(*generation), &len_bytes[..])
            }
        };
        let kind = self.shape.kind() as u8;
        tx.put(self.key, &Value { kind, encoding, expiry: self.expiry, generation, payload })
    }

    /// Writes what has to stand at the key; nothing if nothing changed. An empty one's key is deleted.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn close(self, tx: &mut Tx<'_>) -> Read<()> {
        if !self.changed {
            return Ok(());
        }
        if !self.is_empty() {
            return self.write(tx);
        }
        if self.existed { tx.delete(self.key).map(drop) } else { Ok(()) }
    }

    /// A walk over all elements, a page at a time.
    #[must_use]
    pub fn walk(&self) -> Walk<'k> {
        match &self.form {
            Form::Small(_) => Walk(Inner::Small(self.elements())),
            Form::Large { generation, .. } => {
                let (from, to) = hashed::all(TAG);
                let direction = haypile_engine::read::Direction::Forward;
                Walk(Inner::Large(self.key, Pages::range(self.key, *generation, from, to, direction)))
            }
        }
    }

    /// A small one's elements; none of a large one.
    fn elements(&self) -> Page {
        let Form::Small(items) = &self.form else { return Page::new() };
        let mut page = Page::with_capacity(self.len());
        let mut iter = items.iter();
        while let Some(name) = iter.next() {
            let value = if self.shape == Shape::Hash { iter.next().unwrap_or_default() } else { &[] };
            page.push((Bytes::copy_from_slice(name), Bytes::copy_from_slice(value)));
        }
        page
    }

    /// All elements at once.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn all(&self, tx: &mut Tx<'_>) -> Read<Page> {
        let mut walk = self.walk();
        let mut all = walk.next(tx)?;
        loop {
            let page = walk.next(tx)?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    /// The elements from a cursor on, and the cursor to go on from, 0 at the end: see [`hashed::scan`]. A small one is
    /// given whole, whatever the cursor and the count.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn scan(&self, tx: &mut Tx<'_>, cursor: u64, count: usize) -> Read<hashed::Scanned> {
        match &self.form {
            Form::Small(_) => Ok((self.elements(), 0)),
            Form::Large { generation, .. } => hashed::scan(tx, self.key, *generation, TAG, cursor, count),
        }
    }

    /// An element chosen at random, evenly (see [`hashed`]); `None` only if there is none.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn random(&self, tx: &mut Tx<'_>, rng: &mut impl Rng) -> Read<Option<(Bytes, Bytes)>> {
        match &self.form {
            Form::Small(items) => {
                if items.is_empty() {
                    return Ok(None);
                }
                let at = rng.random_range(0..self.len()) * self.shape.items();
                let mut iter = items.iter().skip(at);
                let name = iter.next().unwrap_or_default();
                let value = if self.shape == Shape::Hash { iter.next().unwrap_or_default() } else { &[] };
                Ok(Some((Bytes::copy_from_slice(name), Bytes::copy_from_slice(value))))
            }
            Form::Large { generation, len } => hashed::random(tx, self.key, *generation, TAG, *len, rng),
        }
    }

    /// `count` different elements chosen at random, or all if there are not so many.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn sample(&self, tx: &mut Tx<'_>, count: usize, rng: &mut impl Rng) -> Read<Page> {
        // Few of many seldom meet: what did is chosen again.
        if let Form::Large { generation, len } = self.form
            && count <= self.len() / 3
        {
            let (mut chosen, mut names) = (Page::new(), HashSet::new());
            for _ in 0..ROUNDS_MAX {
                let lacking = count - chosen.len();
                let more = hashed::random_many(tx, self.key, generation, TAG, len, lacking, rng)?;
                chosen.extend(more.into_iter().filter(|(name, _)| names.insert(name.clone())));
                if chosen.len() == count {
                    return Ok(chosen);
                }
            }
        }
        let mut all = self.all(tx)?;
        if count < all.len() {
            let (chosen, _) = all.partial_shuffle(rng, count);
            return Ok(chosen.to_vec());
        }
        Ok(all)
    }

    /// `count` elements chosen at random, each among all.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn sample_with_repeats(&self, tx: &mut Tx<'_>, count: usize, rng: &mut impl Rng) -> Read<Page> {
        if let Form::Large { generation, len } = self.form
            && count <= self.len() / 16
        {
            return hashed::random_many(tx, self.key, generation, TAG, len, count, rng);
        }
        let mut chosen = Page::new();
        let all = self.all(tx)?;
        if !all.is_empty() {
            chosen.extend((0..count).map(|_| all[rng.random_range(0..all.len())].clone()));
        }
        Ok(chosen)
    }
}

/// Whoever asks after fewer names walks over a small one for each.
const FINDER_NAMES_MIN: usize = 8;

/// Says of many names whether they are there.
#[derive(Debug)]
pub enum Finder<'d, 'k> {
    /// By looking each up.
    Dict(&'d Dict<'k>),
    /// By their hashes.
    Names(Names<'d>),
}

impl Finder<'_, '_> {
    /// Whether a name is there.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn has(&self, tx: &mut Tx<'_>, name: &[u8]) -> Read<bool> {
        match self {
            Finder::Dict(dict) => dict.has(tx, name),
            Finder::Names(names) => Ok(names.has(name)),
        }
    }
}

/// A small one's names by their hashes.
#[derive(Debug)]
pub struct Names<'d> {
    names: Vec<&'d [u8]>,
    /// At the place of a name's hash, or behind it, the name's number from 1; 0 is none. As many as a power of two, and at least
    /// twice as many as there are names.
    places: Vec<u32>,
}

impl<'d> Names<'d> {
    fn of(items: &'d Items, shape: Shape) -> Names<'d> {
        let names: Vec<&[u8]> = items.iter().step_by(shape.items()).collect();
        let mut places = vec![0; (names.len() * 2).next_power_of_two()];
        for (number, name) in (1..).zip(&names) {
            let mut at = place_in(&places, name);
            while places[at] != 0 {
                at = (at + 1) % places.len();
            }
            places[at] = number;
        }
        Names { names, places }
    }

    fn has(&self, name: &[u8]) -> bool {
        let mut at = place_in(&self.places, name);
        loop {
            match self.places[at] {
                0 => return false,
                number if self.names[number as usize - 1] == name => return true,
                _ => at = (at + 1) % self.places.len(),
            }
        }
    }
}

fn place_in(places: &[u32], name: &[u8]) -> usize {
    usize::try_from(hash48(name) % places.len() as u64).expect("below a length")
}

/// A walk over the elements of a [`Dict`], as it was when the walk began if it is small.
#[derive(Debug)]
pub struct Walk<'k>(Inner<'k>);

#[derive(Debug)]
enum Inner<'k> {
    Small(Page),
    Large(&'k Key, Pages<'k>),
}

impl Walk<'_> {
    /// The next elements, name and value (nothing in a set); none at the end.
    ///
    /// # Errors
    /// See [`haypile_engine::tx::Stop`].
    pub fn next(&mut self, tx: &mut Tx<'_>) -> Read<Page> {
        match &mut self.0 {
            Inner::Small(page) => Ok(std::mem::take(page)),
            Inner::Large(key, pages) => {
                let mut page = pages.next(tx)?;
                for (sub, _) in &mut page {
                    *sub = hashed::name(key, sub)?;
                }
                Ok(page)
            }
        }
    }
}

#[cfg(test)]
mod tests;
