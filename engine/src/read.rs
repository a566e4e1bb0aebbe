//! Reading a slot's entries through its layers: own writes, memtable, frozen memtables, runs; newest wins.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Bound;

use bytes::Bytes;

use crate::memtable::Entry;
use crate::slot::SlotCell;
use crate::tx::Read;

/// Which way a range is walked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Ascending.
    Forward,
    /// Descending.
    Backward,
}

/// What a transaction has written to one slot so far.
#[derive(Debug, Default)]
pub struct WriteSet {
    /// The operations as they will stand in the record.
    pub ops: Vec<u8>,
    /// What they do to entries.
    pub overlay: BTreeMap<Bytes, Entry>,
    /// Whether everything older is gone.
    pub cleared: bool,
    /// What they do to the count of keys.
    pub keys_delta: i64,
}

/// The layers of one slot, newest first, as one transaction sees them.
pub struct Layers<'a> {
    /// The transaction's own writes.
    pub writes: &'a WriteSet,
    /// The slot.
    pub cell: &'a SlotCell,
}

type Source<'a> = Peekable<Box<dyn Iterator<Item = (&'a Bytes, &'a Entry)> + 'a>>;

impl<'a> Layers<'a> {
    /// What stands at an entry key; `None` if nothing, or if it was deleted.
    pub fn get(&self, key: &[u8]) -> Read<Option<Bytes>> {
        if let Some(entry) = self.writes.overlay.get(key) {
            return Ok(entry.value().cloned());
        }
        if self.writes.cleared {
            return Ok(None);
        }
        for table in self.tables() {
            if let Some(entry) = table.get(key) {
                return Ok(entry.value().cloned());
            }
            if table.clears_older() {
                return Ok(None);
            }
        }
        Ok(None)
    }

    fn tables(&self) -> impl Iterator<Item = &'a crate::memtable::Memtable> {
        std::iter::once(&self.cell.memtable).chain(self.cell.frozen.iter().map(|frozen| &frozen.table))
    }

    /// Gives the living entries of a range to `visit` until it says stop (`false`).
    pub fn range(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
        visit: &mut dyn FnMut(&Bytes, &Bytes) -> bool,
    ) -> Read<()> {
        let mut sources: Vec<Source<'a>> = Vec::new();
        let mut add = |iter: Box<dyn DoubleEndedIterator<Item = (&'a Bytes, &'a Entry)> + 'a>| {
            let iter: Box<dyn Iterator<Item = _> + 'a> = match direction {
                Direction::Forward => iter,
                Direction::Backward => Box::new(iter.rev()),
            };
            sources.push(iter.peekable());
        };
        add(Box::new(self.writes.overlay.range::<[u8], _>((from, to))));
        if !self.writes.cleared {
            for table in self.tables() {
                add(Box::new(table.range(from, to)));
                if table.clears_older() {
                    break;
                }
            }
        }
        while let Some((key, entry)) = take_newest(&mut sources, direction) {
            if let Entry::Value(value) = entry
                && !visit(key, value)
            {
                break;
            }
        }
        Ok(())
    }
}

/// Takes the next key off all sources; where several have it, the newest source's entry.
fn take_newest<'a>(sources: &mut [Source<'a>], direction: Direction) -> Option<(&'a Bytes, &'a Entry)> {
    let mut best: Option<(&Bytes, usize)> = None;
    for (index, source) in sources.iter_mut().enumerate() {
        let Some((key, _)) = source.peek() else { continue };
        let better = best.is_none_or(|(least, _)| match direction {
            Direction::Forward => *key < least,
            Direction::Backward => *key > least,
        });
        if better {
            best = Some((key, index));
        }
    }
    let (key, newest) = best?;
    let taken = sources[newest].next();
    for source in sources.iter_mut() {
        source.next_if(|(other, _)| *other == key);
    }
    taken
}
