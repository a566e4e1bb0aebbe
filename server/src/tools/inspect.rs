//! `haypile inspect`: what lies in the files of a store. Read-only, also beside a running node; says where something does
//! not hold, and goes on.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use haypile_engine::error::Error;
use haypile_engine::fs::Fs;
use haypile_engine::inspect::is_in_use;
use haypile_engine::key;
use haypile_engine::log::frame;
use haypile_engine::log::inspect::{Folder, Item, SegmentFile, Walker, folder, walk};
use haypile_engine::log::record::{Body, Record};
use haypile_engine::log::segment::number_of;
use haypile_engine::manifest::inspect as manifest;
use haypile_engine::manifest::{Edit, SlotEntry, SlotState, State};
use haypile_engine::sst::inspect::{self as sst, BlocksWanted, Directory, RunPlace};
use haypile_engine::sst::{EntryRef, RunMeta, pack_path};
use haypile_engine::types::{Lsn, Slot};
use haypile_engine::value::Header;

use super::sheet::{Cell, Column, Form, Sheet, shown};
use super::{FINE, Failure};

/// What to look at.
#[derive(Clone, Debug)]
pub enum Subject {
    /// The log, or one segment: frames and records.
    Log {
        /// Only this slot's records.
        slot: Option<Slot>,
        /// At most so many rows.
        limit: usize,
    },
    /// The manifest's edits, and what they add up to.
    Manifest,
    /// Pack files: their runs.
    Pack,
    /// Runs: their blocks, and entries.
    Sst {
        /// Only this slot's runs.
        slot: Option<Slot>,
        /// Whether entries are shown.
        entries: bool,
    },
    /// Everything of one slot.
    Slot(Slot),
    /// Every slot's runs.
    Tree,
}

/// Shows it; the exit status.
///
/// # Errors
/// If there is nothing of that kind at `path`, or it is of a newer format.
pub fn inspect(
    fs: &dyn Fs,
    path: &Path,
    subject: &Subject,
    form: Form,
    out: &mut dyn Write,
) -> Result<u8, Failure> {
    let manifest = path.join("manifest");
    let is_store = fs.exists(&manifest).map_err(|error| Error::io(&manifest, "look for", &error))?;
    let mut sheet = Sheet::begin(out, form)?;
    let mut look = Look { fs, dir: path, is_store, sheet: &mut sheet };
    if is_store {
        let in_use = is_in_use(fs, path)?;
        look.sheet.table("store", &[("folder", 30), ("in_use", 6)])?;
        look.sheet.row(&[path.display().to_string().into(), Cell::Flag(in_use)])?;
    }
    match subject {
        Subject::Log { slot, limit } => look.log(*slot, *limit)?,
        Subject::Manifest => look.manifest()?,
        Subject::Pack => look.packs(None, BlocksWanted::No, false)?,
        Subject::Sst { slot, entries } => look.packs(*slot, BlocksWanted::Yes, *entries)?,
        Subject::Slot(slot) => look.slot(*slot)?,
        Subject::Tree => look.tree()?,
    }
    sheet.end()?;
    Ok(FINE)
}

const LOG: &[Column] = &[
    ("segment", 16),
    ("offset", 9),
    ("what", 8),
    ("lsn", 12),
    ("slot", 4),
    ("term", 5),
    ("seq", 8),
    ("kind", 11),
    ("bytes", 8),
    ("note", 0),
];

const SLOTS: &[Column] = &[
    ("slot", 4),
    ("state", 22),
    ("highest_term", 12),
    ("base_seq", 8),
    ("flushed_seq", 11),
    ("keys", 8),
    ("runs", 4),
    ("bytes", 10),
    ("base_lsn", 10),
    ("role_lsn", 10),
    ("time", 13),
    ("granted", 0),
];

const RUNS: &[Column] = &[
    ("file", 12),
    ("offset", 9),
    ("slot", 4),
    ("bytes", 9),
    ("min_seq", 8),
    ("max_seq", 8),
    ("entries", 8),
    ("tombstones", 10),
    ("keys", 8),
    ("raw_bytes", 9),
    ("min_expiry", 13),
    ("blocks", 6),
    ("filter_bytes", 12),
    ("filter_fill", 11),
    ("false_share", 11),
    ("index_bytes", 11),
];

const BLOCKS: &[Column] =
    &[("number", 6), ("offset", 9), ("bytes", 7), ("entries", 7), ("compressed", 10), ("note", 0)];

const ENTRIES: &[Column] = &[
    ("key", 32),
    ("generation", 10),
    ("element", 16),
    ("what", 9),
    ("kind", 4),
    ("expiry", 13),
    ("bytes", 7),
    ("note", 0),
];

/// A slot's records in a segment.
struct Extent {
    records: u64,
    bytes: u64,
    seqs: (u64, u64),
    lsns: (Lsn, Lsn),
}

struct Look<'l, 'o> {
    fs: &'l dyn Fs,
    dir: &'l Path,
    is_store: bool,
    sheet: &'l mut Sheet<'o>,
}

fn lsn(at: Lsn) -> Cell {
    at.to_string().into()
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn state_name(state: &SlotState) -> String {
    match state {
        SlotState::Absent => "absent".to_owned(),
        SlotState::Master => "master".to_owned(),
        SlotState::Replica { upstream } => format!("replica of {upstream}"),
        SlotState::Loading { upstream } => format!("loading from {upstream}"),
        SlotState::Moved { to } => format!("moved to {to}"),
    }
}

/// The first error of many rows; the rest is not written.
struct Rows<'s, 'o> {
    sheet: &'s mut Sheet<'o>,
    left: usize,
    done: std::io::Result<()>,
}

impl Rows<'_, '_> {
    fn row(&mut self, cells: &[Cell]) {
        if self.done.is_ok() && self.left > 0 {
            self.left -= 1;
            self.done = self.sheet.row(cells);
        }
    }
}

impl Look<'_, '_> {
    fn log(&mut self, slot: Option<Slot>, limit: usize) -> Result<(), Failure> {
        self.sheet.table("log", LOG)?;
        let mut rows = Rows { sheet: self.sheet, left: limit, done: Ok(()) };
        if !self.is_store {
            let name = name_of(self.dir);
            let header = walk(self.fs, self.dir, &mut |_| {})?;
            rows.row(&segment_row(&SegmentFile { path: self.dir.to_owned(), header, bad_header: None }));
            walk(self.fs, self.dir, &mut |item| {
                log_row(&name, header.base, slot, &item).iter().for_each(|row| rows.row(row));
            })?;
            return Ok(rows.done?);
        }
        let Folder { segments, unreadable, spares, .. } = folder(self.fs, &self.dir.join("log"), None)?;
        let mut walker = Walker::new(Lsn::ZERO);
        let mut expected = None;
        for (index, segment) in segments.iter().enumerate() {
            let (name, base) = (name_of(&segment.path), segment.header.base);
            if expected.is_some_and(|number| number != segment.header.number) {
                let note = "one or more segments before it are missing";
                rows.row(&note_row(&name, "missing", note));
                walker
                    .skip(&mut |item| log_row(&name, base, slot, &item).iter().for_each(|row| rows.row(row)));
            }
            expected = Some(segment.header.number + 1);
            rows.row(&segment_row(segment));
            let next = segments.get(index + 1);
            let walked = walker.walk(self.fs, segment, next, &mut |item| {
                log_row(&name, base, slot, &item).iter().for_each(|row| rows.row(row));
            });
            if let Err(error) = walked {
                rows.row(&note_row(&name, "damage", &error.to_string()));
            }
        }
        for (path, error) in &unreadable {
            rows.row(&note_row(&name_of(path), "damage", &error.to_string()));
        }
        for spare in &spares {
            rows.row(&note_row(spare, "spare", "prepared, not in use"));
        }
        Ok(rows.done?)
    }

    fn manifest(&mut self) -> Result<(), Failure> {
        let path = match self.is_store {
            true => self.manifest_path()?,
            false => self.dir.to_owned(),
        };
        self.sheet.table("edits", &[("offset", 9), ("bytes", 7), ("what", 12), ("slot", 4), ("note", 0)])?;
        let mut rows = Rows { sheet: self.sheet, left: usize::MAX, done: Ok(()) };
        let state = manifest::walk(self.fs, &path, &mut |item| rows.row(&manifest_row(&item)))?;
        rows.done?;
        let Some(state) = state else { return Ok(()) };
        let columns: &[Column] =
            &[("node", 40), ("incarnation", 11), ("clean_end", 12), ("log_start", 12), ("next_file", 9)];
        self.sheet.table("node", columns)?;
        let node = state.node;
        self.sheet.row(&[
            node.node.to_string().into(),
            u64::from(node.incarnation).into(),
            node.clean_end.map_or(Cell::None, lsn),
            lsn(node.log_start),
            node.next_file.0.into(),
        ])?;
        self.sheet.table("slots", SLOTS)?;
        for (slot, entry) in &state.slots {
            self.sheet.row(&slot_row(*slot, entry))?;
        }
        self.sheet.table("replicas", &[("node", 40), ("address", 21), ("slot", 4), ("acked", 8)])?;
        for (node, replica) in &state.replicas {
            for (slot, seq) in &replica.acked {
                let slot = Cell::Number(slot.number().into());
                self.sheet.row(&[
                    node.to_string().into(),
                    replica.address.as_str().into(),
                    slot,
                    seq.0.into(),
                ])?;
            }
        }
        Ok(())
    }

    fn manifest_path(&self) -> Result<PathBuf, Failure> {
        let found = manifest::folder(self.fs, &self.dir.join("manifest"))?;
        match (found.current, found.bad_current) {
            (Some(path), _) => Ok(path),
            (None, Some(error)) => Err(error.into()),
            (None, None) => Err(haypile_engine::error::Error::Unusable {
                path: self.dir.join("manifest"),
                why: "there is no manifest in it".to_owned(),
            }
            .into()),
        }
    }

    fn state(&self) -> Result<Option<State>, Failure> {
        Ok(manifest::walk(self.fs, &self.manifest_path()?, &mut |_| {})?)
    }

    fn packs(&mut self, slot: Option<Slot>, blocks: BlocksWanted, entries: bool) -> Result<(), Failure> {
        let files: Vec<PathBuf> = match self.is_store {
            true => {
                let data = self.dir.join("data");
                self.fs.list(&data)?.into_iter().map(|entry| data.join(entry.name)).collect()
            }
            false if self.fs.list(self.dir).is_ok() => {
                let why =
                    "a folder without a store in it: name a store's folder, or one pack file".to_owned();
                return Err(Error::Unusable { path: self.dir.to_owned(), why }.into());
            }
            false => vec![self.dir.to_owned()],
        };
        let mut found = Vec::new();
        let columns: &[Column] = &[("file", 12), ("node", 40), ("bytes", 10), ("runs", 4), ("note", 0)];
        self.sheet.table("packs", columns)?;
        for path in files {
            let name = name_of(&path);
            match sst::directory(self.fs, &path) {
                Ok(Directory { node, bytes, runs, .. }) => {
                    let count = runs.len().into();
                    self.sheet.row(&[
                        name.into(),
                        node.to_string().into(),
                        bytes.into(),
                        count,
                        Cell::None,
                    ])?;
                    let wanted = runs.into_iter().filter(|run| slot.is_none_or(|slot| slot == run.slot));
                    found.extend(wanted.map(|run| {
                        (path.clone(), RunPlace { offset: run.offset, len: run.len, crc: run.crc })
                    }));
                }
                Err(error) => {
                    let note = format!("{error}; its runs are found through the manifest");
                    self.sheet.row(&[name.into(), Cell::None, Cell::None, Cell::None, note.into()])?;
                    found.extend(self.runs_by_manifest(&path, slot));
                }
            }
        }
        self.sheet.table("runs", RUNS)?;
        for (path, place) in &found {
            self.run(path, *place)?;
        }
        let mut faults = Vec::new();
        for (path, place) in &found {
            if blocks == BlocksWanted::Yes {
                self.blocks(path, *place, entries)?;
            }
            sst::walk_run(self.fs, path, *place, None, blocks, &mut |item| {
                if let sst::Item::Fault { offset, what } = item {
                    faults.push((name_of(path), offset, what));
                }
            })?;
        }
        if !faults.is_empty() {
            self.sheet.table("damage", &[("file", 12), ("offset", 9), ("what", 0)])?;
            for (file, offset, what) in faults {
                self.sheet.row(&[file.into(), offset.into(), what.into()])?;
            }
        }
        Ok(())
    }

    /// The runs of a pack whose directory does not hold.
    fn runs_by_manifest(&self, path: &Path, slot: Option<Slot>) -> Vec<(PathBuf, RunPlace)> {
        if !self.is_store {
            return Vec::new();
        }
        let Ok(Some(state)) = self.state() else { return Vec::new() };
        let data = self.dir.join("data");
        let here = |run: &&RunMeta| {
            pack_path(&data, run.file) == path && slot.is_none_or(|slot| slot == run.props.slot)
        };
        let place = |run: &RunMeta| RunPlace { offset: run.offset, len: run.len, crc: run.crc };
        state.runs().filter(here).map(|run| (path.to_owned(), place(run))).collect()
    }

    fn run(&mut self, path: &Path, place: RunPlace) -> Result<(), Failure> {
        let mut props = None;
        let mut figures = None;
        sst::walk_run(self.fs, path, place, None, BlocksWanted::No, &mut |item| match item {
            sst::Item::Properties(found) => props = Some(found.clone()),
            sst::Item::Figures(found) => figures = Some(found.clone()),
            _ => {}
        })?;
        let number = |get: fn(&haypile_engine::sst::Properties) -> u64| Cell::from(props.as_ref().map(get));
        let figure = |get: fn(&sst::Figures) -> u64| Cell::from(figures.as_ref().map(get));
        let share =
            |get: fn(&sst::Figures) -> f64| figures.as_ref().map_or(Cell::None, |f| Cell::Share(get(f)));
        let expiry = props.as_ref().and_then(|props| props.min_expiry).map(|at| at.0);
        self.sheet.row(&[
            name_of(path).into(),
            place.offset.into(),
            number(|props| props.slot.number().into()),
            place.len.into(),
            number(|props| props.min_seq.0),
            number(|props| props.max_seq.0),
            number(|props| props.entries),
            number(|props| props.tombstones),
            number(|props| props.keys),
            number(|props| props.raw_bytes),
            expiry.into(),
            figure(|figures| figures.blocks),
            figure(|figures| figures.filter_bytes),
            share(|figures| figures.filter_fill),
            share(|figures| figures.filter_false_share),
            figure(|figures| figures.index_bytes),
        ])?;
        Ok(())
    }

    fn blocks(&mut self, path: &Path, place: RunPlace, entries: bool) -> Result<(), Failure> {
        let name = format!("{}@{}", name_of(path), place.offset);
        let tables: [(bool, String, &'static [Column]); 2] =
            [(true, format!("blocks {name}"), BLOCKS), (entries, format!("entries {name}"), ENTRIES)];
        for (index, (_, table, columns)) in tables.into_iter().enumerate().filter(|(_, table)| table.0) {
            self.sheet.table(&table, columns)?;
            let mut rows = Rows { sheet: self.sheet, left: usize::MAX, done: Ok(()) };
            sst::walk_run(self.fs, path, place, None, BlocksWanted::Yes, &mut |item| match item {
                sst::Item::Block { number, offset, bytes, compressed, block } if index == 0 => {
                    let count = block.count().into();
                    let cells = [
                        number.into(),
                        offset.into(),
                        bytes.into(),
                        count,
                        Cell::Flag(compressed),
                        Cell::None,
                    ];
                    rows.row(&cells);
                }
                sst::Item::Fault { offset, what } if index == 0 => {
                    let none = || Cell::None;
                    rows.row(&[none(), offset.into(), none(), none(), none(), what.into()]);
                }
                sst::Item::Block { block, .. } => {
                    (0..block.count()).for_each(|at| rows.row(&entry_row(block.entry_ref(at))));
                }
                _ => {}
            })?;
            rows.done?;
        }
        Ok(())
    }

    fn slot(&mut self, slot: Slot) -> Result<(), Failure> {
        let state = self.state()?;
        let entry = state.as_ref().and_then(|state| state.slots.get(&slot)).cloned().unwrap_or_default();
        self.sheet.table("slot", SLOTS)?;
        self.sheet.row(&slot_row(slot, &entry))?;
        self.sheet.table("history", &[("epoch", 24), ("first_seq", 9)])?;
        for start in entry.meta.history.starts() {
            self.sheet.row(&[start.epoch.to_string().into(), start.first_seq.0.into()])?;
        }
        let columns: &[Column] = &[("node", 40), ("address", 21), ("acked", 8)];
        self.sheet.table("replicas", columns)?;
        for (node, replica) in state.iter().flat_map(|state| &state.replicas) {
            if let Some(seq) = replica.acked.get(&slot) {
                self.sheet.row(&[node.to_string().into(), replica.address.as_str().into(), seq.0.into()])?;
            }
        }
        self.sheet.table("runs", RUNS)?;
        for run in &entry.runs {
            let path = pack_path(&self.dir.join("data"), run.file);
            self.run(&path, RunPlace { offset: run.offset, len: run.len, crc: run.crc })?;
        }
        let columns: &[Column] = &[
            ("segment", 20),
            ("records", 8),
            ("bytes", 9),
            ("first_seq", 9),
            ("last_seq", 9),
            ("first_lsn", 12),
            ("last_lsn", 12),
            ("note", 0),
        ];
        self.sheet.table("log", columns)?;
        for row in self.log_of(slot, entry.meta.base_lsn)? {
            self.sheet.row(&row)?;
        }
        Ok(())
    }

    /// Where in the log the slot's records are: a row each segment.
    fn log_of(&self, slot: Slot, base: Lsn) -> Result<Vec<Vec<Cell>>, Failure> {
        let found = folder(self.fs, &self.dir.join("log"), None)?;
        let mut walker = Walker::new(Lsn::ZERO);
        let mut seen: BTreeMap<String, Extent> = BTreeMap::new();
        for (index, segment) in found.segments.iter().enumerate() {
            let name = name_of(&segment.path);
            walker.walk(self.fs, segment, found.segments.get(index + 1), &mut |item| {
                let Item::Record(at) = item else { return };
                if at.record.header.slot == slot && at.record.body.is_history() {
                    let seq = at.record.header.seq.0;
                    let extent = seen.entry(name.clone()).or_insert(Extent {
                        records: 0,
                        bytes: 0,
                        seqs: (seq, seq),
                        lsns: (at.lsn, at.lsn),
                    });
                    extent.records += 1;
                    extent.bytes += at.record.bytes.len() as u64;
                    (extent.seqs.1, extent.lsns.1) = (seq, at.lsn);
                }
            })?;
        }
        let row = |(name, extent): (String, Extent)| {
            let former = extent.lsns.0 < base;
            let note = former.then(|| format!("records before {base} belong to a former life"));
            vec![
                name.into(),
                extent.records.into(),
                extent.bytes.into(),
                extent.seqs.0.into(),
                extent.seqs.1.into(),
                lsn(extent.lsns.0),
                lsn(extent.lsns.1),
                note.into(),
            ]
        };
        Ok(seen.into_iter().map(row).collect())
    }

    fn tree(&mut self) -> Result<(), Failure> {
        let columns: &[Column] = &[
            ("slot", 4),
            ("run", 6),
            ("file", 12),
            ("offset", 9),
            ("bytes", 10),
            ("entries", 9),
            ("tombstones", 10),
            ("min_seq", 9),
            ("max_seq", 9),
        ];
        self.sheet.table("tree", columns)?;
        let Some(state) = self.state()? else { return Ok(()) };
        let (mut bytes, mut entries, mut count) = (0, 0, 0_u64);
        for (slot, entry) in &state.slots {
            for (index, run) in entry.runs.iter().enumerate() {
                let level = if index + 1 == entry.runs.len() { "bottom" } else { "upper" };
                let props = &run.props;
                self.sheet.row(&[
                    Cell::Number(slot.number().into()),
                    level.into(),
                    name_of(&pack_path(Path::new(""), run.file)).into(),
                    run.offset.into(),
                    run.len.into(),
                    props.entries.into(),
                    props.tombstones.into(),
                    props.min_seq.0.into(),
                    props.max_seq.0.into(),
                ])?;
                (bytes, entries, count) = (bytes + run.len, entries + props.entries, count + 1);
            }
        }
        let slots = state.slots.values().filter(|entry| !entry.runs.is_empty()).count();
        self.sheet.table("total", &[("slots", 5), ("runs", 6), ("bytes", 12), ("entries", 12)])?;
        self.sheet.row(&[slots.into(), count.into(), bytes.into(), entries.into()])?;
        Ok(())
    }
}

fn segment_row(segment: &SegmentFile) -> [Cell; 10] {
    let header = segment.header;
    let note = match &segment.bad_header {
        None => format!("number {} of node {}", header.number, header.node),
        Some(bad) => format!("the header does not hold ({bad}); made again from its neighbours"),
    };
    let mut row = note_row(&name_of(&segment.path), "segment", &note);
    (row[1], row[3], row[8]) = (0_u64.into(), lsn(header.base), header.bytes.into());
    row
}

fn note_row(name: &str, what: &str, note: &str) -> [Cell; 10] {
    let none = || Cell::None;
    let stem = if number_of(name).is_some() { name.trim_end_matches(".log") } else { name };
    [stem.into(), none(), what.into(), none(), none(), none(), none(), none(), none(), note.into()]
}

/// The row of something in a segment; none if only a slot's records are wanted and it is none of them.
fn log_row(name: &str, base: Lsn, only: Option<Slot>, item: &Item<'_>) -> Option<[Cell; 10]> {
    let row = |what: &str, offset: u64, bytes: Option<u64>, note: String| {
        let mut row = note_row(name, what, &note);
        (row[1], row[3]) = (offset.into(), lsn(base.advance(offset)));
        row[8] = bytes.into();
        row
    };
    match item {
        Item::Frame { offset, header, body_bytes } => {
            let mut note = format!("start {}, synced {}", header.incarnation, header.synced);
            for (flag, name) in [
                (frame::MORE, "more"),
                (frame::CONTINUED, "continued"),
                (frame::SEAL, "seal"),
                (frame::CLEAN_STOP, "clean stop"),
            ] {
                if header.has(flag) {
                    note.push_str(", ");
                    note.push_str(name);
                }
            }
            let mut row = row("frame", *offset, Some(*body_bytes as u64), note);
            row[3] = lsn(header.lsn);
            unless(only, row)
        }
        Item::Record(at) => {
            let Record { header, body, bytes } = &at.record;
            if only.is_some_and(|only| only != header.slot) {
                return None;
            }
            let (kind, note) = match body {
                Body::Batch(ops) => {
                    ("batch", format!("{} operations", haypile_engine::log::record::ops(ops).count()))
                }
                Body::EpochStart { epoch, by } => ("epoch start", format!("epoch {epoch} by {by}")),
                Body::Grant { to, time, address } => {
                    ("grant", format!("to {to} at {address}, time {}", time.0))
                }
                Body::Time(time) => ("time", format!("what expired by {} was hidden", time.0)),
            };
            let mut row = note_row(name, "record", &note);
            row[3] = lsn(at.lsn);
            row[4] = Cell::Number(header.slot.number().into());
            row[5] = Cell::Number(header.term.into());
            (row[6], row[7], row[8]) = (header.seq.0.into(), kind.into(), bytes.len().into());
            Some(row)
        }
        Item::BadRecord { offset, what } => Some(row("damage", *offset, None, what.clone())),
        Item::Seal { offset, index, bad, .. } => {
            let slots = index.as_ref().map_or(0, |index| index.iter().len());
            let note = bad.clone().unwrap_or_else(|| format!("index of {slots} slots"));
            unless(only.filter(|_| bad.is_none()), row("seal", *offset, None, note))
        }
        Item::Hole(hole) => {
            let lost: Vec<String> = hole
                .lost
                .iter()
                .map(|lost| format!("slot {} seq {}", lost.header.slot, lost.header.seq))
                .collect();
            let lost = if lost.is_empty() { String::new() } else { format!("; lost: {}", lost.join(", ")) };
            let unknown = if hole.unknown { "; there may have been other records" } else { "" };
            let note = format!("no frame: {}; {} promises one{lost}{unknown}", hole.what, hole.promised_by);
            Some(row("damage", hole.offset, Some(hole.bytes), note))
        }
        Item::End { offset, torn_bytes: 0, .. } => unless(only, row("end", *offset, None, String::new())),
        Item::End { offset, torn_bytes, .. } => {
            let note = "a write that was never finished; a start cuts it".to_owned();
            Some(row("torn end", *offset, Some(*torn_bytes), note))
        }
    }
}

/// What is not a slot's is left out where only a slot is wanted.
fn unless(only: Option<Slot>, row: [Cell; 10]) -> Option<[Cell; 10]> {
    only.is_none().then_some(row)
}

fn manifest_row(item: &manifest::Item<'_>) -> [Cell; 5] {
    let none = || Cell::None;
    let of_edit = |edit: &Edit, saved: &str| {
        let (what, slot, note) = match edit {
            Edit::Node(node) => {
                ("node", None, format!("start {}, log from {}", node.incarnation, node.log_start))
            }
            Edit::Slot(slot, meta) => (
                "slot",
                Some(*slot),
                format!("{}, flushed up to {}", state_name(&meta.state), meta.flushed_seq),
            ),
            Edit::Runs { slot, add, remove } => {
                let place = |file: u64, offset: u64| format!("{file:06}.pack@{offset}");
                let add = add.iter().map(|run| format!(" +{}", place(run.file.0, run.offset)));
                let remove = remove.iter().map(|(file, offset)| format!(" -{}", place(file.0, *offset)));
                ("runs", Some(*slot), add.chain(remove).collect::<String>().trim_start().to_owned())
            }
            Edit::Registration { node, address, acked } => {
                ("registration", None, format!("{node} at {address}, {} slots", acked.len()))
            }
            Edit::ReplicaForgotten(node) => ("forgotten", None, node.to_string()),
            Edit::Incoming(slot, incoming) => {
                let told = incoming.as_ref().map_or_else(
                    || "nothing of a copy".to_owned(),
                    |incoming| {
                        let bytes: u64 = incoming.parts.iter().map(|part| part.here).sum();
                        let (file, source) = (incoming.file.0, incoming.source);
                        format!("{bytes} bytes of a copy of {source}'s, in {file:06}.pack")
                    },
                );
                ("incoming", Some(*slot), told)
            }
            Edit::LogSynced(lsn) => ("log synced", None, format!("before {lsn}")),
        };
        let slot = slot.map_or(Cell::None, |slot| Cell::Number(slot.number().into()));
        [Cell::None, Cell::None, what.into(), slot, format!("{saved}{note}").into()]
    };
    match item {
        manifest::Item::Frame { offset, bytes, confirms } => {
            let what = if *confirms { "confirmation" } else { "frame" };
            [(*offset).into(), (*bytes).into(), what.into(), none(), none()]
        }
        manifest::Item::Edit(edit) => of_edit(edit, ""),
        manifest::Item::SavedEdit(edit) => of_edit(edit, "(not certain) "),
        manifest::Item::BadEdit { offset, slot, what } => {
            let slot = slot.map_or(Cell::None, |slot| Cell::Number(slot.number().into()));
            [(*offset).into(), none(), "damage".into(), slot, what.as_str().into()]
        }
        manifest::Item::Damage { offset, bytes, what, .. } => {
            [(*offset).into(), (*bytes).into(), "damage".into(), none(), (*what).into()]
        }
        manifest::Item::TornEnd { offset, bytes } => {
            let note = "a write that was never finished; a start cuts it";
            [(*offset).into(), (*bytes).into(), "torn end".into(), none(), note.into()]
        }
    }
}

fn slot_row(slot: Slot, entry: &SlotEntry) -> [Cell; 12] {
    let meta = &entry.meta;
    let granted = meta.granted.as_ref().map(|(node, address)| format!("to {node} at {address}"));
    [
        Cell::Number(slot.number().into()),
        state_name(&meta.state).into(),
        Cell::Number(meta.highest_term.into()),
        meta.base_seq.0.into(),
        meta.flushed_seq.0.into(),
        meta.flushed_keys.into(),
        entry.runs.len().into(),
        entry.runs.iter().map(|run| run.len).sum::<u64>().into(),
        lsn(meta.base_lsn),
        lsn(meta.role_lsn),
        meta.time.0.into(),
        granted.into(),
    ]
}

fn entry_row((entry_key, entry): (&[u8], EntryRef<'_>)) -> [Cell; 8] {
    let Some(parts) = key::split(entry_key) else {
        let none = || Cell::None;
        let note = "no entry key".into();
        return [shown(entry_key).into(), none(), none(), none(), none(), none(), none(), note];
    };
    let (generation, element) = match parts.element {
        None => (Cell::None, Cell::None),
        Some((generation, sub)) => (generation.0.into(), shown(sub).into()),
    };
    let header = match (entry, parts.element) {
        (EntryRef::Value(value), None) => Header::decode(value),
        _ => None,
    };
    let what = if entry == EntryRef::Tombstone { "tombstone" } else { "value" };
    [
        shown(parts.key).into(),
        generation,
        element,
        what.into(),
        header.map_or(Cell::None, |header| Cell::Number(header.kind.into())),
        header.and_then(|header| header.expiry).map(|at| at.0).into(),
        entry.value_len().into(),
        header.and_then(|header| header.generation).map(|of| format!("elements of {}", of.0)).into(),
    ]
}
