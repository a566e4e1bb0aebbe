//! Gives up slots of a damaged store and keeps all others whole, so that a node can start on it again.
//!
//! What is damaged is a [`check`]'s word. The segments of the log up to the last damaged one go: what they hold of the
//! slots that stay is brought into files first, from records that carry their own checksums. Pack files whose directory
//! is damaged are written anew, run by run. Everything that goes is linked into `trash/` within the folder before.
//!
//! Killed at any step, it is run again with the same result: one manifest file makes all of it count at once; before
//! that nothing has changed, after it what is left is to begin the log's next segment, which a marker in `trash/`
//! calls for, and to remove names.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint::is_no_link;
use crate::engine::Options;
use crate::error::{Error, Result};
use crate::flush::{Part, write_part};
use crate::fs::{Fs, OpenMode};
use crate::inspect::check::check_held;
use crate::inspect::{Damage, Depth, Finding, Report, marker};
use crate::log::inspect::{Folder, Item, SegmentFile, Walker, folder};
use crate::log::segment::{Room, Segment, SegmentHeader, path_of};
use crate::manifest::{Edit, Manifest, SlotMeta, SlotState, State};
use crate::recover::{Folders, Replayed, lock_folder, replay};
use crate::roles::edit_runs;
use crate::slot::{Frozen, SlotCell};
use crate::sst::{FileNo, PackWriter, RunMeta, file_no_of, pack_path};
use crate::types::{Lsn, Seq, Slot};

/// Runs in one pack that is written anew.
const RUNS_MAX: usize = 1024;
/// The size of the segment that the log goes on in.
const SEGMENT_BYTES: u64 = 64 << 20;

/// What becomes of slots of which nothing tells whether they are whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doubtful {
    /// They have to be among those that are given up.
    Refuse,
    /// They stay as far as they are there: their newest writes may be missing.
    Keep,
}

/// A slot that goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GivenUp {
    /// Which.
    pub slot: Slot,
    /// What this node is to it.
    pub state: SlotState,
    /// The last record that is in files.
    pub flushed_seq: Seq,
    /// Keys in files.
    pub keys: u64,
    /// Bytes of its runs.
    pub bytes: u64,
    /// What is damaged of it, if anything is.
    pub why: Option<String>,
}

/// A repair that was thought through and has changed nothing yet. Nobody else can use the folder while it lives.
pub struct Repair {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    folders: Folders,
    state: State,
    report: Report,
    gives_up: Vec<GivenUp>,
    kept_doubtful: Vec<Slot>,
    log: Folder,
    /// The segments up to this one go.
    log_through: Option<u64>,
    /// An earlier repair was cut short when its result counted already.
    cut_short: bool,
    /// It was before the log began anew where the manifest says.
    unfinished: bool,
    _lock: Box<dyn Send + Sync>,
}

/// What was done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Done {
    /// Files that are in `trash/` now, by their paths in the store. Those that others still need are here too.
    pub trash: Vec<PathBuf>,
    /// Records that were brought from the log into files.
    pub records: u64,
    /// Runs that were written anew.
    pub runs: u64,
}

fn io_error(path: &Path, operation: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |error| Error::io(path, operation, &error)
}

impl Repair {
    /// Looks at everything and decides what giving up these slots takes. Findings are told.
    ///
    /// # Errors
    /// `InUse` if a node runs in the folder; `Unusable` if other slots are damaged too (the text names them and what to type), or
    /// if the manifest is beyond repair; what [`check`] returns.
    pub fn plan(
        fs: Arc<dyn Fs>,
        dir: &Path,
        slots: &[Slot],
        doubtful: Doubtful,
        tell: &mut dyn FnMut(&Finding),
    ) -> Result<Repair> {
        let folders = Folders::of(dir);
        if !fs.exists(&folders.manifest).map_err(io_error(&folders.manifest, "look for"))? {
            let why = "not a data folder: there is no folder `manifest` in it".to_owned();
            return Err(Error::Unusable { path: dir.to_owned(), why });
        }
        let lock = lock_folder(&*fs, dir)?;
        let (report, state) = check_held(&*fs, dir, Depth::Everything, tell)?;
        let unusable = |why: String| Error::Unusable { path: dir.to_owned(), why };
        let Some(state) = state else {
            return Err(unusable(
                "nothing is left of the manifest, and without it nothing tells which files make up which slot: restore \
                 the folder from a checkpoint, or begin an empty one and let its slots be copied from other nodes"
                    .to_owned(),
            ));
        };
        let chosen: BTreeSet<Slot> = slots.iter().copied().collect();
        refuse_others(&report.damage, &chosen, doubtful).map_err(unusable)?;
        let gives_up: Vec<GivenUp> =
            chosen.iter().filter_map(|slot| given_up(&state, &report, *slot)).collect();
        let kept_doubtful =
            report.damage.doubtful.keys().filter(|slot| !chosen.contains(slot)).copied().collect();
        let log = folder(&*fs, &folders.log, Some(state.node.node))?;
        let from = state.node.log_start;
        // An earlier repair came as far as the manifest: what is below the log's start goes as it was to.
        let is_old = |segment: &SegmentFile| segment.header.end() <= from;
        let cut_short = marker::read(&*fs, dir)? == Some(from);
        let unfinished = cut_short && log.segments.iter().all(is_old);
        let old = log.segments.iter().filter(|segment| is_old(segment)).map(|old| old.header.number).max();
        let log_through = report.damage.log_through.filter(|through| !cut_short || Some(*through) > old);
        Ok(Repair {
            log_through: log_through.filter(|_| !unfinished),
            cut_short,
            fs,
            dir: dir.to_owned(),
            folders,
            state,
            report,
            gives_up,
            kept_doubtful,
            log,
            unfinished,
            _lock: lock,
        })
    }

    /// What the check found.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The slots that go and that are here.
    #[must_use]
    pub fn gives_up(&self) -> &[GivenUp] {
        &self.gives_up
    }

    /// The slots that stay although nothing tells whether they are whole.
    #[must_use]
    pub fn kept_doubtful(&self) -> &[Slot] {
        &self.kept_doubtful
    }

    /// The segments of the log that go, after what they hold of the slots that stay was brought into files.
    #[must_use]
    pub fn drops_segments(&self) -> Vec<PathBuf> {
        self.dropped().iter().map(|segment| segment.path.clone()).chain(self.dropped_unreadable()).collect()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_needless(&self) -> bool {
        let damage = &self.report.damage;
        self.gives_up.is_empty()
            && !self.cut_short
            && self.log_through.is_none()
            && damage.packs.is_empty()
            && !damage.manifest
    }

    fn dropped(&self) -> Vec<&SegmentFile> {
        let from = self.state.node.log_start;
        let goes = |segment: &&SegmentFile| {
            Some(segment.header.number) <= self.log_through
                || (self.cut_short && segment.header.end() <= from)
        };
        self.log.segments.iter().filter(goes).collect()
    }

    fn dropped_unreadable(&self) -> Vec<PathBuf> {
        let goes = |(path, _): &&(PathBuf, Error)| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            crate::log::segment::number_of(name).is_some_and(|number| Some(number) <= self.log_through)
        };
        self.log.unreadable.iter().filter(goes).map(|(path, _)| path.clone()).collect()
    }

    /// Does it.
    ///
    /// # Errors
    /// `Io`: run it again when the cause is gone.
    pub fn run(self) -> Result<Done> {
        let mut done = Done::default();
        let (mut state, begins) = self.new_state(&mut done)?;
        // Whatever goes has its second name before it loses its first.
        let mut goes = self.drops_segments();
        let live: BTreeSet<FileNo> = state.runs().map(|run| run.file).collect();
        let given: BTreeSet<Slot> = self.gives_up.iter().map(|given| given.slot).collect();
        let before = self.state.runs().filter(|run| !live.contains(&run.file));
        let unused: BTreeSet<FileNo> = before.map(|run| run.file).collect();
        let shared = self.state.runs().filter(|run| given.contains(&run.props.slot)).map(|run| run.file);
        let shared: BTreeSet<FileNo> = shared.filter(|file| live.contains(file)).collect();
        let packs = |files: &BTreeSet<FileNo>| -> Vec<PathBuf> {
            files.iter().map(|file| pack_path(&self.folders.data, *file)).collect()
        };
        goes.extend(packs(&unused));
        let mut kept = packs(&shared);
        if self.report.damage.manifest {
            kept.extend(self.manifest_files()?);
        }
        for path in goes.iter().chain(&kept) {
            if self.move_to_trash(path)? {
                done.trash.push(path.strip_prefix(&self.dir).unwrap_or(path).to_owned());
            }
        }
        if self.log_through.is_some() {
            marker::write(&*self.fs, &self.dir, state.node.log_start)?;
        }
        state.node.next_file = state.node.next_file.max(self.next_file()?);
        let log_start = state.node.log_start;
        let node = state.node.node;
        drop(Manifest::replace(Arc::clone(&self.fs), &self.folders.manifest, state)?);
        // From here on it counts.
        if begins || self.unfinished {
            let numbers = self.log.segments.iter().map(|segment| segment.header.number + 1);
            let number = numbers.chain(self.log_through.map(|number| number + 1)).max().unwrap_or(0);
            let header = SegmentHeader { node, number, base: log_start, bytes: SEGMENT_BYTES };
            let header = self
                .log
                .segments
                .last()
                .map_or(header, |last| SegmentHeader { bytes: last.header.bytes, ..header });
            self.begin_segment(header)?;
        }
        for path in &goes {
            match self.fs.remove(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Error::io(path, "remove", &error));
                }
                _ => {}
            }
        }
        for dir in [&self.folders.log, &self.folders.data] {
            self.fs.sync_dir(dir).map_err(io_error(dir, "sync folder"))?;
        }
        marker::remove(&*self.fs, &self.dir)?;
        Ok(done)
    }

    /// What the manifest is to say; and whether the log has to begin anew.
    fn new_state(&self, done: &mut Done) -> Result<(State, bool)> {
        let mut state = self.state.clone();
        let mut edits = Vec::new();
        let given: BTreeSet<Slot> = self.gives_up.iter().map(|given| given.slot).collect();
        let (rescued, terms) = self.replay(&given)?;
        for slot in &given {
            let entry = &self.state.slots[slot];
            let highest_term = entry.meta.highest_term.max(terms.get(slot).copied().unwrap_or(0));
            let settled = entry.meta.settled.clone();
            let meta = SlotMeta { highest_term, settled, ..SlotMeta::default() };
            edits.push(Edit::Slot(*slot, Box::new(meta)));
            edits.push(edit_runs(*slot, &[], &entry.runs));
        }
        for (node, registration) in &self.state.replicas {
            let acked: Vec<_> = given
                .iter()
                .filter(|slot| registration.acked.contains_key(slot))
                .map(|slot| (*slot, None))
                .collect();
            if !acked.is_empty() {
                let address = registration.address.clone();
                edits.push(Edit::Registration { node: *node, address, acked });
            }
        }
        let mut next = state.node.next_file.max(self.next_file()?);
        edits.extend(self.write_rescued(rescued, &mut next, done)?);
        edits.extend(self.write_anew(&given, &mut next, done)?);
        let begins = match self.log_through {
            None => false,
            Some(through) => {
                let after = self.log.segments.iter().find(|segment| segment.header.number > through);
                state.node.log_start = match after {
                    Some(after) => after.header.base,
                    None => self.beyond_the_log(),
                };
                state.node.clean_end = None;
                after.is_none()
            }
        };
        state.node.incarnation = state.node.incarnation.max(self.report.incarnation);
        state.node.next_file = next;
        for edit in edits {
            state.fold(edit).map_err(|why| Error::Unusable { path: self.dir.clone(), why })?;
        }
        Ok((state, begins))
    }

    /// A position beyond all that the log ever held.
    fn beyond_the_log(&self) -> Lsn {
        let segments = self.log.segments.iter().map(|segment| segment.header.end());
        let known =
            segments.chain([self.state.node.log_start, self.state.log_promise()]).max().unwrap_or_default();
        let unreadable = self.dropped_unreadable().len() as u64;
        known.advance(unreadable << 30)
    }

    /// Reads the log up to the last segment that goes, onto the slots that stay. Gives those slots, and the greatest
    /// term of each slot in the whole log.
    fn replay(&self, given: &BTreeSet<Slot>) -> Result<(Replayed, BTreeMap<Slot, u32>)> {
        let mut slots = Replayed::empty();
        for (slot, entry) in self.state.slots.iter().filter(|(slot, _)| !given.contains(slot)) {
            *slots.slot(*slot).0 = SlotCell::from_meta(&entry.meta);
        }
        let mut terms: BTreeMap<Slot, u32> = BTreeMap::new();
        let node = self.state.node;
        let needed: Vec<_> =
            self.log.segments.iter().filter(|segment| segment.header.end() > node.log_start).collect();
        let last_that_goes = needed.iter().filter(|segment| Some(segment.header.number) <= self.log_through);
        let before = last_that_goes.map(|segment| segment.header.end()).max().unwrap_or(Lsn::ZERO);
        let mut walker = Walker::new(self.state.log_promise());
        let mut failed = None;
        let mut number = None;
        for (index, segment) in needed.iter().enumerate() {
            let mut see = |item: Item<'_>| {
                let Item::Record(at) = item else { return };
                let header = at.record.header;
                let term = terms.entry(header.slot).or_default();
                *term = header.term.max(*term);
                if at.lsn < before && failed.is_none() {
                    failed = replay(&mut slots, node.node, &self.folders.log, &at).err();
                }
            };
            if number.is_some_and(|number| number != segment.header.number) {
                walker.skip(&mut see);
            }
            walker.walk(&*self.fs, segment, needed.get(index + 1).copied(), &mut see)?;
            number = Some(segment.header.number + 1);
        }
        failed.map_or(Ok((slots, terms)), Err)
    }

    /// Brings what was replayed into one pack.
    fn write_rescued(&self, mut rescued: Replayed, next: &mut FileNo, done: &mut Done) -> Result<Vec<Edit>> {
        let mut parts = Vec::new();
        let mut edits = Vec::new();
        let mut metas = Vec::new();
        for (&slot, entry) in &self.state.slots {
            let (cell, began_epoch) = rescued.slot(slot);
            if cell.last_seq > cell.flushed_seq {
                done.records += cell.last_seq.0 - cell.flushed_seq.0;
                let table = std::mem::take(&mut cell.memtable);
                let (last_seq, keys, granted) = (cell.last_seq, cell.keys, cell.granted.clone());
                let loading = matches!(entry.meta.state, SlotState::Loading { .. });
                let oldest = (entry.runs.is_empty() && !loading) || table.clears_older();
                let frozen =
                    vec![crate::sync::Arc::new(Frozen { table, last_seq, keys, granted: granted.clone() })];
                parts.push(Part { slot, life: 0, frozen, first_seq: cell.flushed_seq.next(), oldest });
                (cell.flushed_seq, cell.flushed_keys, cell.flushed_granted) = (last_seq, keys, granted);
            } else if !*began_epoch && cell.time <= entry.meta.time {
                continue;
            }
            let mut meta = cell.meta();
            if *began_epoch && matches!(meta.state, SlotState::Replica { .. }) {
                meta.state = SlotState::Master;
            }
            metas.push((slot, meta));
        }
        let runs = if parts.is_empty() {
            Vec::new()
        } else {
            let mut pack = self.new_pack(next)?;
            for part in &parts {
                write_part(&mut pack, part, &Options::default())?;
            }
            pack.finish()?
        };
        for (slot, meta) in metas {
            edits.push(Edit::Slot(slot, Box::new(meta)));
            let add: Vec<RunMeta> = runs.iter().filter(|run| run.props.slot == slot).cloned().collect();
            let clears = parts.iter().any(|part| part.slot == slot && part.frozen[0].table.clears_older());
            let old = if clears { self.state.slots[&slot].runs.clone() } else { Vec::new() };
            edits.push(edit_runs(slot, &add, &old));
        }
        Ok(edits)
    }

    /// Takes the runs of slots that stay out of packs that are damaged otherwise.
    fn write_anew(&self, given: &BTreeSet<Slot>, next: &mut FileNo, done: &mut Done) -> Result<Vec<Edit>> {
        let packs = &self.report.damage.packs;
        let moves = |run: &&RunMeta| packs.contains(&run.file) && !given.contains(&run.props.slot);
        let runs: Vec<&RunMeta> = self.state.runs().filter(moves).collect();
        let mut edits = Vec::new();
        for some in runs.chunks(RUNS_MAX) {
            let mut pack = self.new_pack(next)?;
            let mut moved = Vec::new();
            for run in some {
                moved.push((*run, self.import(&mut pack, run)?));
                done.runs += 1;
            }
            pack.finish()?;
            edits.extend(
                moved
                    .into_iter()
                    .map(|(old, new)| edit_runs(old.props.slot, &[new], std::slice::from_ref(old))),
            );
        }
        Ok(edits)
    }

    fn import(&self, pack: &mut PackWriter, run: &RunMeta) -> Result<RunMeta> {
        let path = pack_path(&self.folders.data, run.file);
        let file = self.fs.open(&path, OpenMode::Read).map_err(io_error(&path, "open"))?;
        pack.begin_import(run.len, run.crc);
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        while at < run.len {
            let left = usize::try_from(run.len - at).unwrap_or(usize::MAX).min(buffer.len());
            let got = file.read_at(&mut buffer[..left], run.offset + at).map_err(io_error(&path, "read"))?;
            if got == 0 {
                return Err(Error::corrupt(&path, run.offset + at, "cut short"));
            }
            pack.import(&buffer[..got])?;
            at += got as u64;
        }
        pack.end_import()
    }

    fn new_pack(&self, next: &mut FileNo) -> Result<PackWriter> {
        let file = *next;
        *next = next.next();
        PackWriter::create(Arc::clone(&self.fs), &self.folders.data, file, self.state.node.node)
    }

    /// A number that no pack file has.
    fn next_file(&self) -> Result<FileNo> {
        let entries = self.fs.list(&self.folders.data).map_err(io_error(&self.folders.data, "list"))?;
        let used = entries.iter().filter_map(|entry| file_no_of(&entry.name)).max();
        Ok(used.map_or(FileNo(1), FileNo::next))
    }

    fn manifest_files(&self) -> Result<Vec<PathBuf>> {
        let dir = &self.folders.manifest;
        let entries = self.fs.list(dir).map_err(io_error(dir, "list"))?;
        let counts = |name: &str| name == "CURRENT" || name.parse::<u64>().is_ok();
        Ok(entries.iter().filter(|entry| counts(&entry.name)).map(|entry| dir.join(&entry.name)).collect())
    }

    fn begin_segment(&self, header: SegmentHeader) -> Result<()> {
        let dir = &self.folders.log;
        let path = path_of(dir, header.number);
        if self.fs.exists(&path).map_err(io_error(&path, "look for"))? {
            return Ok(());
        }
        let spare = Segment::prepare(&*self.fs, dir, header, Room::Reserved)?;
        self.fs.rename(&spare.path, &path).map_err(io_error(&path, "rename"))?;
        self.fs.sync_dir(dir).map_err(io_error(dir, "sync folder"))
    }

    /// Gives a file a second name in `trash/`; says whether it is there.
    fn move_to_trash(&self, path: &Path) -> Result<bool> {
        if !self.fs.exists(path).map_err(io_error(path, "look for"))? {
            return Ok(false);
        }
        let name = path.strip_prefix(&self.dir).unwrap_or(path);
        let to = self.dir.join(marker::TRASH).join(name);
        let above = to.parent().unwrap_or(&self.dir);
        marker::make_folder(&*self.fs, &self.dir, above)?;
        match self.fs.link(path, &to) {
            // An earlier run of this repair did it, wholly: numbers name one file for ever. `CURRENT` alone is another one.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) if is_no_link(error.kind()) => copy(&*self.fs, path, &to)?,
            linked => linked.map_err(io_error(&to, "link"))?,
        }
        self.fs.sync_dir(above).map_err(io_error(above, "sync folder"))?;
        Ok(true)
    }
}

/// Where there are no links.
fn copy(fs: &dyn Fs, from: &Path, to: &Path) -> Result<()> {
    if fs.exists(to).map_err(io_error(to, "look for"))? {
        return Ok(());
    }
    // It has its name when it is whole: what has it counts as the file.
    let partial = to.with_extension("partial");
    if fs.exists(&partial).map_err(io_error(&partial, "look for"))? {
        fs.remove(&partial).map_err(io_error(&partial, "remove"))?;
    }
    let old = fs.open(from, OpenMode::Read).map_err(io_error(from, "open"))?;
    let new = fs.open(&partial, OpenMode::CreateNew).map_err(io_error(&partial, "create"))?;
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let got = old.read_at(&mut buffer, at).map_err(io_error(from, "read"))?;
        if got == 0 {
            new.sync().map_err(io_error(&partial, "sync"))?;
            return fs.rename(&partial, to).map_err(io_error(to, "rename to"));
        }
        new.write_at(&buffer[..got], at).map_err(io_error(&partial, "write"))?;
        at += got as u64;
    }
}

fn given_up(state: &State, report: &Report, slot: Slot) -> Option<GivenUp> {
    let entry = state.slots.get(&slot)?;
    if entry.meta.state == SlotState::Absent && entry.runs.is_empty() {
        return None;
    }
    let Damage { lost, doubtful, .. } = &report.damage;
    Some(GivenUp {
        slot,
        state: entry.meta.state.clone(),
        flushed_seq: entry.meta.flushed_seq,
        keys: entry.meta.flushed_keys,
        bytes: entry.runs.iter().map(|run| run.len).sum(),
        why: lost.get(&slot).or(doubtful.get(&slot)).cloned(),
    })
}

/// Slots that are damaged and were not named.
fn refuse_others(damage: &Damage, chosen: &BTreeSet<Slot>, doubtful: Doubtful) -> Result<(), String> {
    let named = |slots: &BTreeSet<Slot>| Slot::group(slots.iter().copied());
    let lost: BTreeSet<Slot> = damage.lost.keys().copied().collect();
    let unsure: BTreeSet<Slot> = damage.doubtful.keys().copied().collect();
    let missed: BTreeSet<Slot> = lost.difference(chosen).copied().collect();
    if !missed.is_empty() {
        let all = chosen.union(&missed).copied().collect();
        return Err(format!(
            "the data of slots {} is not whole either, and no node starts on it: give them up too, with --slots {}",
            named(&missed),
            named(&all)
        ));
    }
    let open: BTreeSet<Slot> = unsure.difference(chosen).copied().collect();
    if !open.is_empty() && doubtful == Doubtful::Refuse {
        let all = chosen.union(&open).copied().collect();
        return Err(format!(
            "nothing tells whether slots {} are whole: give them up too, with --slots {}, or keep what is there of them, \
             which may lack their newest writes, with --keep-doubtful",
            named(&open),
            named(&all)
        ));
    }
    Ok(())
}
