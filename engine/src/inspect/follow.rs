//! Follows each slot's records through the log, as recovery does, and tells what is missing between them.

use crate::log::RecordAt;
use crate::log::record::Header;
use crate::manifest::State;
use crate::memtable::Memtable;
use crate::replica::{self, Wrong};
use crate::slot::{Role, SlotCell};
use crate::types::{Lsn, Seq, Slot};

/// A slot on its way through the log.
struct Follower {
    /// The slot as far as its records go; nothing is kept of them.
    cell: SlotCell,
    /// Everything up to here is in files.
    flushed: Seq,
    /// The last record of the slot's present life that was seen.
    seen: Option<Seq>,
    /// Where it was.
    seen_at: Lsn,
    /// A record is missing or has no meaning: what follows can't be judged.
    broken: bool,
}

/// All slots.
pub(super) struct Followers(Vec<Follower>);

/// Records of a slot that should have come before one that came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Missing {
    pub(super) slot: Slot,
    pub(super) first: Seq,
    pub(super) last: Seq,
    /// All of them are in files: only a replica could want them.
    pub(super) in_files: bool,
}

/// What a record tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Told {
    /// It is the next.
    Next,
    /// It belongs to a former life of its slot.
    Former,
    /// These are missing before it.
    After(Missing),
    /// It can't be.
    Wrong(String),
}

impl Followers {
    pub(super) fn new(state: Option<&State>) -> Followers {
        let follower = |slot: Slot| {
            let entry = state.and_then(|state| state.slots.get(&slot));
            let cell = entry.map_or_else(SlotCell::default, |entry| SlotCell::from_meta(&entry.meta));
            let flushed = cell.flushed_seq;
            Follower { cell, flushed, seen: None, seen_at: Lsn::ZERO, broken: false }
        };
        Followers(Slot::all().map(follower).collect())
    }

    /// The slots that this node has.
    pub(super) fn present(&self) -> impl Iterator<Item = Slot> {
        Slot::all().filter(|slot| self.0[slot.index()].cell.role != Role::Absent)
    }

    /// Where the slot's life begins.
    pub(super) fn base_lsn(&self, slot: Slot) -> Lsn {
        self.0[slot.index()].cell.base_lsn
    }

    /// Takes a record.
    pub(super) fn take(&mut self, at: &RecordAt<'_>) -> Told {
        let header = at.record.header;
        let follower = &mut self.0[header.slot.index()];
        if follower.is_former(at.lsn) {
            return Told::Former;
        }
        let expected = follower.expected();
        let missing = follower.missing_before(header.slot, header.seq);
        let back = follower.seen.is_some() && header.seq < expected;
        if back {
            let what = format!("seq {} where {expected} should follow", header.seq);
            return Told::Wrong(what);
        }
        follower.seen = Some(header.seq);
        follower.seen_at = at.lsn;
        let wrong = follower.apply(at);
        match (missing, wrong) {
            (Some(missing), _) => Told::After(missing),
            (None, Some(what)) => Told::Wrong(format!("seq {}: {what}", header.seq)),
            (None, None) => Told::Next,
        }
    }

    /// A record that is known to have been there, and is not: what is missing with it.
    pub(super) fn lose(&mut self, slot: Slot, seq: Seq, at: Lsn) -> Option<Missing> {
        let follower = &mut self.0[slot.index()];
        if follower.is_former(at) || follower.seen.is_some_and(|seen| seen >= seq) {
            return None;
        }
        let missing = follower.missing_before(slot, seq.next());
        follower.seen = Some(seq);
        follower.broken |= seq > follower.flushed;
        missing
    }

    /// Whether a record that was found damaged is the one that comes next in its slot, so that its header can be
    /// believed. Unless its checksum makes that sure, a slot whose number differs in one bit must not be meant instead.
    pub(super) fn believes(&self, header: Header, at: Lsn, sure: bool) -> bool {
        let Header { slot, term, seq } = header;
        let fits = |slot: Slot| {
            let follower = &self.0[slot.index()];
            let running = follower.cell.history.current().map_or(0, |epoch| epoch.term);
            !follower.is_former(at)
                && follower.expected() == seq
                && (running == term || seq <= follower.flushed)
        };
        let others = (0..10).filter_map(|bit| Slot::new(slot.number() ^ (1 << bit)));
        fits(slot) && (sure || !others.into_iter().any(fits))
    }

    /// Whether this record of the slot was passed, or its loss is known.
    pub(super) fn is_past(&self, slot: Slot, seq: Seq, at: Lsn) -> bool {
        let follower = &self.0[slot.index()];
        follower.is_former(at) || follower.seen.is_some_and(|seen| seen >= seq)
    }

    /// The slots that had no record behind a position: if some were lost there, nothing shows it.
    pub(super) fn silent_since(&self, lsn: Lsn) -> Vec<Slot> {
        let silent = |slot: &Slot| {
            let follower = &self.0[slot.index()];
            follower.seen.is_none() || follower.seen_at <= lsn
        };
        self.present().filter(silent).collect()
    }
}

impl Follower {
    fn is_former(&self, lsn: Lsn) -> bool {
        self.cell.role == Role::Absent || lsn < self.cell.base_lsn
    }

    /// The record that comes next; before the first one was seen it may be an older one.
    fn expected(&self) -> Seq {
        self.seen.unwrap_or(self.flushed).next()
    }

    fn missing_before(&self, slot: Slot, seq: Seq) -> Option<Missing> {
        let first = self.expected();
        let last = Seq(seq.0.checked_sub(1)?);
        (first <= last).then_some(Missing { slot, first, last, in_files: last <= self.flushed })
    }

    /// What the record does to the slot, its data apart; says what is wrong with it.
    fn apply(&mut self, at: &RecordAt<'_>) -> Option<String> {
        let (record, seq) = (&at.record, at.record.header.seq);
        if seq <= self.cell.last_seq || self.broken {
            return None;
        }
        if seq != self.cell.last_seq.next() {
            self.broken = true;
            return None;
        }
        match replica::check_meaning(&self.cell, record) {
            Ok(()) => {
                replica::apply(&mut self.cell, record);
                self.cell.memtable = Memtable::default();
                None
            }
            Err(wrong) => {
                self.broken = true;
                Some(match wrong {
                    Wrong::Epoch => format!("a record of term {} in another epoch", record.header.term),
                    Wrong::Record(why) => why.to_string(),
                })
            }
        }
    }
}
