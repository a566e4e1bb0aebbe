//! The log: its frames and records, and where in it a slot's records are.

use std::collections::BTreeMap;

use haypile_engine::error::Error;
use haypile_engine::log::inspect::{Folder, Item, SegmentFile, Walker, folder, walk};
use haypile_engine::log::segment::path_of;
use haypile_engine::types::{Lsn, Slot};

use super::rows::{LOG, hole_note, log_row, lsn, name_of, note_row, segment_row};
use super::{Look, Rows};
use crate::tools::Failure;
use crate::tools::sheet::{Cell, Column};

const MISSING: &str = "one or more segments before it are missing";

/// A slot's records in a segment.
struct Extent {
    records: u64,
    bytes: u64,
    seqs: (u64, u64),
    lsns: (Lsn, Lsn),
}

impl Rows<'_, '_> {
    fn item(&mut self, name: &str, base: Lsn, only: Option<Slot>, item: &Item<'_>) {
        if let Some(row) = log_row(name, base, only, item) {
            self.row(&row);
        }
    }
}

impl Look<'_, '_> {
    pub(super) fn log(&mut self, slot: Option<Slot>, limit: usize) -> Result<(), Failure> {
        self.sheet.table("log", LOG)?;
        if !self.is_store {
            return self.segment(slot, limit);
        }
        let found = folder(self.fs, &self.dir.join("log"), None);
        let Folder { segments, unreadable, spares, .. } = self.hurt(found)?.unwrap_or_default();
        self.missing_start(&segments)?;
        let mut rows = Rows { sheet: self.sheet, left: limit, done: Ok(()) };
        let mut walker = Walker::new(Lsn::ZERO);
        let mut expected = None;
        for (index, segment) in segments.iter().enumerate() {
            let (name, base) = (name_of(&segment.path), segment.header.base);
            if expected.is_some_and(|number| number != segment.header.number) {
                rows.row(&note_row(&name, "missing", MISSING));
                walker.skip(&mut |item| rows.item(&name, base, slot, &item));
            }
            expected = Some(segment.header.number + 1);
            rows.row(&segment_row(segment));
            let next = segments.get(index + 1);
            let walked = walker.walk(self.fs, segment, next, &mut |item| rows.item(&name, base, slot, &item));
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

    /// Tells of segments that the manifest needs and that are not there.
    fn missing_start(&mut self, segments: &[SegmentFile]) -> Result<(), Failure> {
        let Some(state) = self.state()? else { return Ok(()) };
        let (folder, from) = (self.dir.join("log"), state.node.log_start);
        // Beside a running node the log may have gone on meanwhile.
        if !self.in_use && segments.first().is_none_or(|first| first.header.base > from) {
            let before = segments.first().and_then(|first| first.header.number.checked_sub(1));
            let path = before.map_or(folder.clone(), |number| path_of(&folder, number));
            self.damaged(&path, None, format!("missing: the manifest needs the log from {from} on"));
        }
        Ok(())
    }

    /// One segment's file. If its header does not hold, its neighbours tell what that was.
    fn segment(&mut self, slot: Option<Slot>, limit: usize) -> Result<(), Failure> {
        let name = name_of(self.dir);
        let mut rows = Rows { sheet: self.sheet, left: limit, done: Ok(()) };
        match walk(self.fs, self.dir, &mut |_| {}) {
            Ok(header) => {
                let file = SegmentFile { path: self.dir.to_owned(), header, bad_header: None };
                rows.row(&segment_row(&file));
                walk(self.fs, self.dir, &mut |item| rows.item(&name, header.base, slot, &item))?;
            }
            Err(error @ Error::Corrupt { .. }) => {
                let beside = self.dir.parent().map(|parent| folder(self.fs, parent, None));
                let segments = beside.and_then(Result::ok).unwrap_or_default().segments;
                let here = segments.iter().position(|segment| segment.path == self.dir);
                match here {
                    Some(here) => {
                        let (file, next) = (&segments[here], segments.get(here + 1));
                        rows.row(&segment_row(file));
                        let mut walker = Walker::new(Lsn::ZERO);
                        let base = file.header.base;
                        walker.walk(self.fs, file, next, &mut |item| rows.item(&name, base, slot, &item))?;
                    }
                    None => rows.row(&note_row(&name, "damage", &error.to_string())),
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(rows.done?)
    }

    /// Where in the log the slot's records are: a row each segment.
    pub(super) fn log_of(&mut self, slot: Slot, base: Lsn) -> Result<(), Failure> {
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
        let found = folder(self.fs, &self.dir.join("log"), None);
        let Folder { segments, unreadable, .. } = self.hurt(found)?.unwrap_or_default();
        self.missing_start(&segments)?;
        let mut walker = Walker::new(Lsn::ZERO);
        let mut seen: BTreeMap<String, Extent> = BTreeMap::new();
        let mut expected = None;
        for (index, segment) in segments.iter().enumerate() {
            let name = name_of(&segment.path);
            if let Some(bad) = &segment.bad_header {
                self.damaged(&segment.path, Some(0), format!("the header does not hold ({bad})"));
            }
            if expected.is_some_and(|number| number != segment.header.number) {
                self.damaged(&segment.path, None, MISSING);
                walker.skip(&mut |_| {});
            }
            expected = Some(segment.header.number + 1);
            let mut bad = Vec::new();
            let walked = walker.walk(self.fs, segment, segments.get(index + 1), &mut |item| match item {
                Item::Record(at) if at.record.header.slot == slot && at.record.body.is_history() => {
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
                Item::BadRecord { offset, what } => bad.push((offset, what)),
                Item::Seal { offset, bad: Some(what), .. } => bad.push((offset, what)),
                Item::Hole(hole) => bad.push((hole.offset, hole_note(&hole))),
                _ => {}
            });
            bad.into_iter().for_each(|(offset, what)| self.damaged(&segment.path, Some(offset), what));
            self.hurt(walked)?;
        }
        for (path, error) in unreadable {
            self.unreadable(&path, error);
        }
        for (name, extent) in seen {
            let former = extent.lsns.0 < base;
            let note = former.then(|| format!("records before {base} belong to a former life"));
            self.sheet.row(&[
                name.into(),
                extent.records.into(),
                extent.bytes.into(),
                extent.seqs.0.into(),
                extent.seqs.1.into(),
                lsn(extent.lsns.0),
                lsn(extent.lsns.1),
                Cell::from(note),
            ])?;
        }
        Ok(())
    }
}
