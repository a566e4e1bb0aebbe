//! Pack files, their runs, the runs' blocks and entries.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use haypile_engine::error::Error;
use haypile_engine::sst::inspect::{self as sst, BlocksWanted, Directory, RunPlace};
use haypile_engine::sst::{Properties, RunMeta, pack_path};
use haypile_engine::types::Slot;

use super::rows::{BLOCKS, ENTRIES, RUNS, entry_row, name_of};
use super::{Look, Rows};
use crate::tools::Failure;
use crate::tools::sheet::{Cell, Column};

impl Look<'_, '_> {
    pub(super) fn packs(
        &mut self,
        slot: Option<Slot>,
        blocks: BlocksWanted,
        entries: bool,
    ) -> Result<(), Failure> {
        let mut found = Vec::new();
        let columns: &[Column] = &[("file", 12), ("node", 40), ("bytes", 10), ("runs", 4), ("note", 0)];
        self.sheet.table("packs", columns)?;
        let files = self.pack_files()?;
        for path in &files {
            let name = name_of(path);
            match sst::directory(self.fs, path) {
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
                    let runs = self.runs_by_manifest()?;
                    let here = runs.iter().filter(|run| pack_path(&self.data(), run.file) == *path);
                    let wanted = here.filter(|run| slot.is_none_or(|slot| slot == run.props.slot));
                    found.extend(wanted.map(|run| (path.clone(), place(run))));
                    self.unreadable(path, error);
                }
            }
        }
        self.missing_packs(&files.into_iter().collect())?;
        self.sheet.table("runs", RUNS)?;
        for (path, place) in &found {
            self.run(path, *place, None, blocks)?;
        }
        for (path, place) in found.iter().filter(|_| blocks == BlocksWanted::Yes) {
            self.blocks(path, *place, entries)?;
        }
        Ok(())
    }

    fn pack_files(&mut self) -> Result<Vec<PathBuf>, Failure> {
        if self.is_store {
            let data = self.data();
            let listed = self.fs.list(&data).map_err(|error| Error::io(&data, "list", &error));
            let entries = self.hurt(listed)?.unwrap_or_default();
            return Ok(entries.into_iter().map(|entry| data.join(entry.name)).collect());
        }
        let unusable = |why: &str| Error::Unusable { path: self.dir.to_owned(), why: why.to_owned() };
        if self.fs.list(self.dir).is_ok() {
            return Err(
                unusable("a folder without a store in it: name a store's folder, or one pack file").into()
            );
        }
        match self.fs.exists(self.dir) {
            Ok(false) => Err(unusable("there is no such file").into()),
            _ => Ok(vec![self.dir.to_owned()]),
        }
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The runs that the manifest knows.
    fn runs_by_manifest(&mut self) -> Result<Vec<RunMeta>, Failure> {
        if !self.is_store {
            return Ok(Vec::new());
        }
        Ok(self.state()?.iter().flat_map(|state| state.runs().cloned()).collect())
    }

    /// Tells which pack files the manifest knows and the folder does not have.
    pub(super) fn missing_packs(&mut self, files: &BTreeSet<PathBuf>) -> Result<(), Failure> {
        let runs = self.runs_by_manifest()?;
        for run in runs {
            let path = pack_path(&self.data(), run.file);
            // Beside a running node a file may have come or gone meanwhile.
            if !self.in_use && !files.contains(&path) {
                let what = format!("slot {}: the file is missing, and this run with it", run.props.slot);
                self.damaged(&path, Some(run.offset), what);
            }
        }
        Ok(())
    }

    /// A row for a run; what does not hold of it is told at the end.
    pub(super) fn run(
        &mut self,
        path: &Path,
        place: RunPlace,
        expected: Option<&Properties>,
        blocks: BlocksWanted,
    ) -> Result<(), Failure> {
        let (mut props, mut figures, mut faults) = (None, None, Vec::new());
        let walked = sst::walk_run(self.fs, path, place, expected, blocks, &mut |item| match item {
            sst::Item::Properties(found) => props = Some(found.clone()),
            sst::Item::Figures(found) => figures = Some(found.clone()),
            sst::Item::Fault { offset, what } => faults.push((offset, what)),
            sst::Item::Block { .. } => {}
        });
        self.hurt(walked)?;
        faults.into_iter().for_each(|(offset, what)| self.damaged(path, Some(offset), what));
        let number = |get: fn(&Properties) -> u64| Cell::from(props.as_ref().map(get));
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
            let walked =
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
                });
            rows.done?;
            self.hurt(walked)?;
        }
        Ok(())
    }
}

/// Where a run lies, by the manifest's word.
pub(super) fn place(run: &RunMeta) -> RunPlace {
    RunPlace { offset: run.offset, len: run.len, crc: run.crc }
}
