//! The users' own keys of a memtable: arrays in the order of their hashes, with gaps.
//!
//! An entry key begins with a uniform hash, so its first eight bytes, its *word*, say where in an array it stands, give or
//! take a few places: that is its home. What finds its home taken stands behind it, and all stand in order (linear
//! probing, with the greater key giving way). So a look-up reads one or two neighbouring cache lines and one key, and a
//! walk in order is a walk over the array.
//!
//! A segment holds the keys of a range of hashes. As the table grows one segment at a time is parted in two, from the
//! first to the last and then over again (linear hashing), so that no insertion moves more than a segment.

use smallvec::SmallVec;

use super::arena::{Arena, At};
use crate::sst::prefix_of;

/// Keys in a segment on average, at most.
const SEGMENT_KEYS: usize = 2048;
/// Homes of the smallest segment.
const HOMES_MIN: usize = 6;
/// Places behind the last home, for keys that give way; more are added as they are needed.
const BEHIND: usize = 2;

/// A search looks at so many items, about.
const LOOKS: usize = 3;

/// A key's word and where it lies, or a gap.
#[derive(Clone, Copy, Debug)]
struct Item {
    word: u64,
    at: At,
}

impl Item {
    const GAP: Item = Item { word: 0, at: At::NOWHERE };

    fn is_gap(self) -> bool {
        self.at == At::NOWHERE
    }
}

/// Keys whose words agree in their first bits.
///
/// Invariant: the keys ascend, and there is no gap between a key and its home, which is not behind it.
#[derive(Debug, Default)]
struct Segment {
    items: Vec<Item>,
    homes: usize,
    len: usize,
}

/// A place between keys: before item `index` of segment `segment`. Ordered as the keys are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    segment: usize,
    index: usize,
}

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// In order. Those before `2 * parted` hold words that agree in `bits + 1` bits, the others in `bits`.
    segments: SmallVec<[Segment; 1]>,
    bits: u32,
    parted: usize,
    len: usize,
}

/// The first bits of a word as a number.
fn top(word: u64, bits: u32) -> usize {
    usize::try_from(word.checked_shr(u64::BITS - bits).unwrap_or(0)).expect("far fewer than 2^32 segments")
}

impl Segment {
    /// Where a key stands that has all places to choose from. `local` is its word without the bits of the segment.
    fn home(&self, local: u64) -> usize {
        usize::try_from((u128::from(local) * self.homes as u128) >> 64).expect("below the number of homes")
    }

    /// The place of the first key that is not below `key`, and whether it is `key`. May be a gap: the next key follows.
    fn search(&self, key: &[u8], word: u64, local: u64, arena: &Arena) -> (usize, bool) {
        let mut index = self.home(local);
        while let Some(item) = self.items.get(index)
            && !item.is_gap()
            && item.word <= word
        {
            if item.word == word {
                let other = arena.key(item.at);
                if other >= key {
                    return (index, other == key);
                }
            }
            index += 1;
        }
        (index, false)
    }

    /// Puts an item before the place where [`Segment::search`] did not find its key.
    fn insert(&mut self, index: usize, item: Item) {
        match self.items[index..].iter().position(|item| item.is_gap()) {
            Some(gap) => {
                self.items.copy_within(index..index + gap, index + 1);
                self.items[index] = item;
            }
            None => {
                if self.items.len() == self.items.capacity() {
                    self.items.reserve_exact(BEHIND);
                }
                self.items.insert(index, item);
            }
        }
        self.len += 1;
    }

    fn is_full(&self) -> bool {
        // From here on what stands before a gap grows long.
        self.len * 16 >= self.homes * 13
    }

    /// The keys `items` in order, with homes to spare. `bits` of their words are the segment's.
    fn of(items: impl Iterator<Item = Item>, len: usize, bits: u32) -> Segment {
        let homes = (len + len / 2 + len / 4).max(HOMES_MIN);
        let mut segment = Segment { items: Vec::with_capacity(homes + BEHIND), homes, len };
        for item in items {
            let home = segment.home(item.word << bits);
            if home > segment.items.len() {
                segment.items.resize(home, Item::GAP);
            }
            segment.items.push(item);
        }
        if segment.items.len() < homes {
            segment.items.resize(homes, Item::GAP);
        }
        segment
    }

    fn keys(&self) -> impl Iterator<Item = Item> {
        self.items.iter().copied().filter(|item| !item.is_gap())
    }
}

impl Keys {
    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        let items: usize = self.segments.iter().map(|segment| segment.items.capacity()).sum();
        let beside =
            if self.segments.spilled() { self.segments.capacity() * size_of::<Segment>() } else { 0 };
        items * size_of::<Item>() + beside
    }

    /// The segment of a word, and how many of the word's bits it is chosen by.
    fn segment_of(&self, word: u64) -> (usize, u32) {
        let number = top(word, self.bits);
        if number < self.parted {
            (top(word, self.bits + 1), self.bits + 1)
        } else {
            (number + self.parted, self.bits)
        }
    }

    /// The place of a key, or where it would be inserted; and whether it is there.
    pub(super) fn search(&self, key: &[u8], arena: &Arena) -> (Place, bool) {
        let word = prefix_of(key);
        let (number, bits) = self.segment_of(word);
        let Some(segment) = self.segments.get(number) else { return (Place { segment: 0, index: 0 }, false) };
        let (index, found) = segment.search(key, word, word << bits, arena);
        (Place { segment: number, index }, found)
    }

    /// Reads where the search for a key begins.
    pub(super) fn look_home(&self, key: &[u8]) -> u64 {
        let word = prefix_of(key);
        let (number, bits) = self.segment_of(word);
        let Some(segment) = self.segments.get(number) else { return 0 };
        let home = segment.home(word << bits);
        let look = |index: usize| segment.items.get(index).map_or(0, |item| item.word);
        look(home) ^ look(home + LOOKS)
    }

    /// Where the first key with the word of this one lies, nearly always it itself if it is there.
    pub(super) fn likely(&self, key: &[u8]) -> Option<At> {
        let word = prefix_of(key);
        let (number, bits) = self.segment_of(word);
        let segment = self.segments.get(number)?;
        let items = segment.items.get(segment.home(word << bits)..)?;
        let item = items.iter().find(|item| item.is_gap() || item.word >= word)?;
        (item.word == word && !item.is_gap()).then_some(item.at)
    }

    /// Whether a place, of whatever table and time, is where the key stands.
    pub(super) fn is_at(&self, place: Place, key: &[u8], arena: &Arena) -> bool {
        let segment = self.segments.get(place.segment);
        let item = segment.and_then(|segment| segment.items.get(place.index)).filter(|item| !item.is_gap());
        item.is_some_and(|item| item.word == prefix_of(key) && arena.key(item.at) == key)
    }

    /// Adds a key at the place where [`Keys::search`] did not find it.
    pub(super) fn insert(&mut self, place: Place, key: &[u8], at: At) {
        let item = Item { word: prefix_of(key), at };
        if self.segments.is_empty() {
            self.segments.push(Segment::of(std::iter::once(item), 1, 0));
            self.len = 1;
            return;
        }
        let segment = &mut self.segments[place.segment];
        segment.insert(place.index, item);
        self.len += 1;
        if segment.is_full() {
            let (_, bits) = self.segment_of(item.word);
            let segment = &mut self.segments[place.segment];
            *segment = Segment::of(segment.keys(), segment.len, bits);
        }
        if self.len > SEGMENT_KEYS * self.segments.len() {
            self.part();
        }
    }

    /// Parts the next segment in two.
    fn part(&mut self) {
        let number = 2 * self.parted;
        let bits = self.bits + 1;
        let whole = &self.segments[number];
        let below = |item: &Item| top(item.word, bits).is_multiple_of(2);
        let len = whole.keys().filter(below).count();
        let lower = Segment::of(whole.keys().take(len), len, bits);
        let upper = Segment::of(whole.keys().skip(len), whole.len - len, bits);
        self.segments[number] = lower;
        self.segments.insert(number + 1, upper);
        self.parted += 1;
        if self.parted == 1 << self.bits {
            (self.bits, self.parted) = (bits, 0);
        }
    }

    /// Says where the key at a place lies now.
    pub(super) fn moved(&mut self, place: Place, at: At) {
        self.segments[place.segment].items[place.index].at = at;
    }

    /// Lets `renew` say for every key where it lies now.
    pub(super) fn renew(&mut self, mut renew: impl FnMut(At) -> At) {
        let items = self.segments.iter_mut().flat_map(|segment| &mut segment.items);
        items.filter(|item| !item.is_gap()).for_each(|item| item.at = renew(item.at));
    }

    /// Where the key after a place lies.
    pub(super) fn at(&self, place: Place) -> At {
        self.segments[place.segment].items[place.index].at
    }

    /// Before all keys.
    pub(super) fn start(&self) -> Place {
        self.settled(Place { segment: 0, index: 0 })
    }

    /// After all keys.
    pub(super) fn end(&self) -> Place {
        Place { segment: self.segments.len(), index: 0 }
    }

    /// Before the first key that is `key` (`after`: is above `key`) or greater.
    pub(super) fn lower_bound(&self, key: &[u8], after: bool, arena: &Arena) -> Place {
        let (mut place, found) = self.search(key, arena);
        place.index += usize::from(found && after);
        self.settled(place)
    }

    /// The same place, named by the key that follows it.
    fn settled(&self, mut place: Place) -> Place {
        while let Some(segment) = self.segments.get(place.segment) {
            let rest = segment.items.get(place.index..).unwrap_or_default();
            if let Some(gaps) = rest.iter().position(|item| !item.is_gap()) {
                place.index += gaps;
                return place;
            }
            place = Place { segment: place.segment + 1, index: 0 };
        }
        self.end()
    }

    /// The next place up.
    pub(super) fn next(&self, place: Place) -> Place {
        self.settled(Place { index: place.index + 1, ..place })
    }

    /// The next place down; there is one unless this is the start.
    pub(super) fn prev(&self, mut place: Place) -> Place {
        loop {
            let before =
                self.segments.get(place.segment).map_or(&[][..], |segment| &segment.items[..place.index]);
            if let Some(index) = before.iter().rposition(|item| !item.is_gap()) {
                return Place { index, ..place };
            }
            let segment = place.segment - 1;
            place = Place { segment, index: self.segments[segment].items.len() };
        }
    }
}
