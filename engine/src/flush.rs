//! From memory to files: the frozen memtables of many slots become one pack, one fsync, one manifest frame.
//!
//! Order, which the crash tests hold: log synced past what the file holds -> file and its name synced -> manifest
//! frame synced -> version published -> log released. One flush at a time; no slot's lock is held over I/O.

use std::collections::BTreeSet;

use crate::engine::{Engine, Options};
use crate::error::Result;
use crate::key;
use crate::manifest::{Edit, SlotMeta};
use crate::memtable::Stored;
use crate::planted::{self, Bug};
use crate::roles::edit_runs;
use crate::slot::{Frozen, Role, SlotCell};
use crate::sst::{EntryRef, PackWriter, Run, RunMeta};
use crate::sync::{Arc, MutexGuard};
use crate::types::{NodeId, Seq, Slot};
use crate::value::Header;

/// One slot's part of a flush.
pub(crate) struct Part {
    pub(crate) slot: Slot,
    pub(crate) life: u64,
    /// Newest first; never empty.
    pub(crate) frozen: Vec<Arc<Frozen>>,
    /// The first record that is not in files yet.
    pub(crate) first_seq: Seq,
    /// There is nothing older that a tombstone could hide.
    pub(crate) oldest: bool,
}

/// A part with the runs that it adds to its slot's version and those that it takes away.
type Change<'a> = (&'a Part, Vec<Arc<Run>>, Vec<RunMeta>);

impl Part {
    fn last_seq(&self) -> Seq {
        self.frozen[0].last_seq
    }

    fn keys(&self) -> u64 {
        self.frozen[0].keys
    }

    fn granted(&self) -> &Option<(NodeId, String)> {
        &self.frozen[0].granted
    }

    fn clears_older(&self) -> bool {
        self.frozen.iter().any(|frozen| frozen.table.clears_older())
    }
}

impl Engine {
    /// Brings everything that these slots have in memory into files.
    ///
    /// # Errors
    /// `Io` if a file can't be written: nothing has changed, the slots keep their memory and it can be tried
    /// again. Poisoned, if the log or the manifest is.
    pub fn flush(&self, slots: &[Slot]) -> Result<()> {
        let _one_at_a_time = self.flush_lock();
        self.flush_parts(slots.iter().filter_map(|&slot| freeze(slot, &mut self.lock(slot))).collect())
    }

    /// Brings everything that these slots have in memory at one moment into files: of an atomic group all or nothing.
    /// No other flush happens for as long as its caller holds the lock.
    pub(crate) fn flush_at_once(&self, _: &MutexGuard<'_, ()>, slots: &BTreeSet<Slot>) -> Result<()> {
        let parts = {
            let mut cells: Vec<_> = slots.iter().map(|&slot| (slot, self.lock(slot))).collect();
            cells.iter_mut().filter_map(|(slot, cell)| freeze(*slot, cell)).collect()
        };
        self.flush_parts(parts)
    }

    fn flush_parts(&self, parts: Vec<Part>) -> Result<()> {
        if parts.is_empty() {
            return Ok(());
        }
        if planted::is(Bug::EarlyLogRelease) {
            self.release_log()?;
        }
        self.log().write()?;
        if !planted::is(Bug::FlushAheadOfLog) {
            self.log().sync()?;
        }
        let runs = self.write_parts(&parts)?;
        self.install_flush(&parts, runs)?;
        self.release_log()
    }

    fn write_parts(&self, parts: &[Part]) -> Result<Vec<Arc<Run>>> {
        let mut pack = self.new_pack()?;
        for part in parts {
            write_part(&mut pack, part, self.options())?;
        }
        let runs = pack.finish_open(self.packs())?;
        self.work().flushed(runs.iter().map(|run| run.meta()));
        Ok(runs)
    }

    fn install_flush(&self, parts: &[Part], opened: Vec<Arc<Run>>) -> Result<()> {
        let runs: Vec<RunMeta> = opened.iter().map(|run| run.meta().clone()).collect();
        let mut manifest = self.manifest();
        let lives =
            |part: &&Part| planted::is(Bug::FormerLifeInstalled) || self.lock(part.slot).life == part.life;
        let alive: Vec<&Part> = parts.iter().filter(lives).collect();
        let mut edits = Vec::new();
        let mut changes: Vec<Change<'_>> = Vec::new();
        for part in alive {
            let cell = self.lock(part.slot);
            let (flushed_seq, flushed_keys) = (part.last_seq(), part.keys());
            let granted = part.granted().clone();
            let history = cell.history.up_to(flushed_seq);
            let meta = SlotMeta { flushed_seq, flushed_keys, granted, history, ..cell.meta() };
            let add: Vec<_> =
                opened.iter().filter(|run| run.meta().props.slot == part.slot).cloned().collect();
            let remove: Vec<RunMeta> = match part.clears_older() {
                true => cell.version.metas(),
                false => Vec::new(),
            };
            edits.push(Edit::Slot(part.slot, Box::new(meta)));
            if !add.is_empty() || !remove.is_empty() {
                let added: Vec<RunMeta> = add.iter().map(|run| run.meta().clone()).collect();
                edits.push(edit_runs(part.slot, &added, &remove));
            }
            changes.push((part, add, remove));
        }
        self.packs().adopt(&runs);
        let publish = || {
            changes.iter().for_each(|(part, add, remove)| self.publish_flush(part, add, remove));
        };
        if planted::is(Bug::EarlyPublish) {
            publish();
        }
        if let Err(error) = self.apply(&mut manifest, &edits) {
            self.give_up(&runs, &error);
            return Err(error);
        }
        if !planted::is(Bug::EarlyPublish) {
            publish();
        }
        // Runs of slots that were dropped or reloaded meanwhile are of no use.
        let installed = |meta: &&RunMeta| changes.iter().any(|(part, ..)| part.slot == meta.props.slot);
        self.packs().release(runs.iter().filter(|meta| !installed(meta)));
        for (_, _, remove) in &changes {
            self.packs().release(remove);
        }
        drop(opened);
        drop(manifest);
        self.sweep_files()
    }

    fn publish_flush(&self, part: &Part, add: &[Arc<Run>], remove: &[RunMeta]) {
        let mut cell = self.lock(part.slot);
        let before = cell.memory_bytes();
        cell.version = Arc::new(cell.version.edited(add, remove));
        cell.frozen.retain(|frozen| !part.frozen.iter().any(|flushed| Arc::ptr_eq(flushed, frozen)));
        cell.flushed_seq = part.last_seq();
        cell.flushed_keys = part.keys();
        cell.flushed_granted = part.granted().clone();
        let after = cell.memory_bytes();
        self.account_memtable(before, after);
    }

    /// The slots whose memory is worth flushing to get `bytes` free, largest first.
    pub(crate) fn largest_slots(&self, bytes: usize) -> Vec<Slot> {
        let mut sizes: Vec<(usize, Slot)> = Slot::all()
            .map(|slot| (self.lock(slot).memory_bytes(), slot))
            .filter(|(size, _)| *size > 0)
            .collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let mut sum = 0;
        let chosen = sizes.into_iter().take_while(|(size, _)| {
            let more = sum < bytes;
            sum += size;
            more
        });
        chosen.map(|(_, slot)| slot).collect()
    }

    /// A slot as it is now, all that it has in memory frozen.
    pub(crate) fn frozen_cell(&self, slot: Slot) -> SlotCell {
        let mut cell = self.lock(slot);
        if !cell.memtable.is_empty() {
            freeze(slot, &mut cell);
        }
        without_memtable(&cell)
    }

    /// Some of these slots, the first ones: about `bytes` of memory, and one at least.
    pub(crate) fn piece_of(&self, mut slots: Vec<Slot>, bytes: usize) -> Vec<Slot> {
        let mut sum = 0;
        let count = slots.iter().take_while(|slot| {
            let more = sum < bytes;
            sum += self.lock(**slot).memory_bytes();
            more
        });
        let count = count.count();
        slots.truncate(count);
        slots
    }

    /// Flushes every slot.
    ///
    /// # Errors
    /// As [`Engine::flush`].
    pub fn flush_all(&self) -> Result<()> {
        self.flush(&Slot::all().collect::<Vec<_>>())
    }
}

/// Swaps a slot's memtable for an empty one, and gives all that waits for a file; `None` if nothing does.
fn freeze(slot: Slot, cell: &mut SlotCell) -> Option<Part> {
    let frozen_up_to = cell.frozen.first().map_or(cell.flushed_seq, |frozen| frozen.last_seq);
    // A slot whose last records left nothing in memory (an epoch's start) holds the log too.
    if cell.role != Role::Absent && cell.last_seq > frozen_up_to {
        let table = std::mem::take(&mut cell.memtable);
        let frozen = Arc::new(Frozen {
            table,
            last_seq: cell.last_seq,
            keys: cell.keys,
            granted: cell.granted.clone(),
        });
        cell.frozen.insert(0, frozen);
    }
    if cell.frozen.is_empty() {
        return None;
    }
    let frozen = cell.frozen.clone();
    let oldest = (cell.version.runs().is_empty() && !matches!(cell.role, Role::Loading { .. }))
        || frozen.iter().any(|frozen| frozen.table.clears_older());
    Some(Part { slot, life: cell.life, frozen, first_seq: cell.flushed_seq.next(), oldest })
}

/// A memtable of no more bytes is copied for who reads it for long: a file for each such reader would be too many.
const COPIED_BYTES_MAX: usize = 256 << 10;

/// All memtables that are copied for one reader take no more bytes: they are in nobody's budget.
const COPIES_BYTES_MAX: usize = 4 * COPIED_BYTES_MAX;

/// One of so many slots as it is now, for who reads them for long.
pub(crate) fn still_cell(slot: Slot, cell: &mut SlotCell, slots: usize) -> SlotCell {
    if cell.memtable.bytes() > COPIED_BYTES_MAX.min(COPIES_BYTES_MAX / slots.max(1)) {
        freeze(slot, cell);
    }
    SlotCell { life: cell.life, memtable: cell.memtable.copy(), ..without_memtable(cell) }
}

/// A slot as it is now but for its memtable: who reads it is no part of its life.
fn without_memtable(cell: &SlotCell) -> SlotCell {
    SlotCell {
        role: cell.role.clone(),
        history: cell.history.clone(),
        last_seq: cell.last_seq,
        keys: cell.keys,
        time: cell.time,
        frozen: cell.frozen.clone(),
        version: Arc::clone(&cell.version),
        ..SlotCell::default()
    }
}

/// The newest entry of each key in these tables, newest first.
fn merged(tables: &[Arc<Frozen>]) -> Vec<(&[u8], Stored<'_>)> {
    let mut merged: Vec<(&[u8], Stored<'_>)> = Vec::new();
    for frozen in tables {
        merged.extend(frozen.table.iter());
        if frozen.table.clears_older() {
            break;
        }
    }
    // Each table is sorted already, so that sorting is merging; stable, so that of equal keys the newest comes first.
    merged.sort_by_key(|(entry_key, _)| *entry_key);
    merged.dedup_by_key(|(entry_key, _)| *entry_key);
    merged
}

/// Writes one slot's run: newest entry of each key, without elements that no longer belong to anything.
pub(crate) fn write_part(pack: &mut PackWriter, part: &Part, options: &Options) -> Result<()> {
    type Entries<'a> = Box<dyn Iterator<Item = (&'a [u8], Stored<'a>)> + 'a>;
    let (entries, count): (Entries<'_>, usize) = match &part.frozen[..] {
        [only] => (Box::new(only.table.iter()), only.table.len()),
        // After a flush that failed there are several.
        several => {
            let merged = merged(several);
            let count = merged.len();
            (Box::new(merged.into_iter()), count)
        }
    };
    pack.begin_run(part.slot, options.run(count as u64));
    // The last user's key that was seen, and the generation that it says its elements belong to.
    let mut owner: Option<(&[u8], Option<key::Generation>)> = None;
    for (entry_key, entry) in entries {
        let parts = key::split(entry_key).expect("memtables hold entry keys only");
        match parts.element {
            None => {
                let header = entry.value().and_then(|value| Header::decode(&value));
                owner = Some((entry_key, header.and_then(|header| header.generation)));
            }
            Some((generation, _)) => match owner {
                Some((prefix, lives)) if prefix == parts.prefix && lives != Some(generation) => continue,
                _ => {}
            },
        }
        match entry {
            Stored::Tombstone if part.oldest => {}
            entry => pack.add(entry_key, EntryRef::from(entry))?,
        }
    }
    pack.end_run(part.first_seq, part.last_seq()).map(drop)
}
