//! The log against itself and the manifest: every frame and record, each slot's seqs, seals, what a hole has taken.

use std::collections::BTreeMap;
use std::path::Path;

use super::check::Check;
use super::findings::Finding;
use super::follow::{Followers, Missing, Told};
use crate::error::Result;
use crate::fs::Fs;
use crate::log::index::{GrowingIndex, SlotIndex};
use crate::log::inspect::LostRecord;
use crate::log::inspect::{Hole, Item, SegmentFile, Walker, folder};
use crate::log::record::Header;
use crate::log::segment::{number_of, path_of};
use crate::manifest::State;
use crate::types::{Lsn, Seq, Slot};

/// A stretch of which it isn't known yet which records it held.
struct Doubt {
    lsn: Lsn,
    finding: Finding,
}

struct LogCheck<'c, 'f> {
    check: &'c mut Check<'f>,
    followers: Followers,
    /// Everything was in files when the node stopped, so nothing is lost with the log before this.
    all_in_files_before: Lsn,
    /// The segment that is read.
    path: std::path::PathBuf,
    number: u64,
    base: Lsn,
    index: GrowingIndex,
    /// The segment has a hole: its index can't be made again.
    has_hole: bool,
    /// Damaged records of the last hole, until the records that were saved out of it have passed.
    claims: Vec<(LostRecord, Lsn)>,
    /// Holes in this segment, and in those before it whose index could not tell.
    here: Vec<Doubt>,
    doubts: Vec<Doubt>,
    end: Option<Lsn>,
}

/// What does not hold of a segment before the log's start.
fn stumbling_block(
    fs: &dyn Fs,
    segment: &SegmentFile,
    next: Option<&SegmentFile>,
) -> Option<(Option<u64>, String)> {
    let mut first = None;
    let walked = Walker::new(Lsn::ZERO).walk(fs, segment, next, &mut |item| {
        let (offset, what) = match item {
            Item::Hole(hole) => (hole.offset, hole.what),
            Item::BadRecord { offset, what } => (offset, what),
            _ => return,
        };
        first.get_or_insert((Some(offset), what));
    });
    first.or_else(|| walked.err().map(|error| (None, error.to_string())))
}

pub(super) fn check_log(check: &mut Check<'_>, dir: &Path, state: Option<&State>) -> Result<()> {
    let node = state.map(|state| state.node);
    let found = folder(check.fs, dir, node.map(|node| node.node))?;
    for (_, error) in &found.unreadable {
        check.see(&Finding::of_error(error));
    }
    for name in &found.strangers {
        check.see(&Finding::note(&dir.join(name), "not a file of a log: nobody reads it"));
    }
    let from = node.map_or(Lsn::ZERO, |node| node.log_start);
    let promised = state.map_or(Lsn::ZERO, State::log_promise);
    let (old, segments): (Vec<_>, Vec<_>) =
        found.segments.iter().partition(|segment| segment.header.end() <= from);
    let cut_short = check.repair_began_log_at == Some(from);
    for (index, segment) in old.iter().enumerate() {
        let next = found.segments.get(index + 1);
        if cut_short {
            let what = "a repair was cut short before this was removed: run it again";
            check.see(&Finding::problem(&segment.path, None, what));
            check.damage().log(segment.header.number);
        } else if let Some((offset, what)) = stumbling_block(check.fs, segment, next) {
            let what = format!("is not needed any more, but a start reads it, and it does not hold: {what}");
            check.see(&Finding::problem(&segment.path, offset, what));
            check.damage().log(segment.header.number);
        } else {
            let what = "is not needed any more: the next start or flush removes it";
            check.see(&Finding::note(&segment.path, what));
        }
    }
    let mut log = LogCheck {
        followers: Followers::new(state),
        check,
        all_in_files_before: node.and_then(|node| node.clean_end).unwrap_or_default(),
        path: dir.to_owned(),
        number: 0,
        base: Lsn::ZERO,
        index: GrowingIndex::default(),
        has_hole: false,
        claims: Vec::new(),
        here: Vec::new(),
        doubts: Vec::new(),
        end: None,
    };
    log.check.report.figures.slots = log.followers.present().count() as u64;
    let mut walker = Walker::new(promised);
    let mut expected: Option<(u64, Lsn)> = None;
    for (index, segment) in segments.iter().enumerate() {
        log.check_place(dir, segment, expected, from, &mut walker);
        log.begin_segment(segment);
        let next = segments.get(index + 1).copied();
        let fs = log.check.fs;
        if let Err(error) = walker.walk(fs, segment, next, &mut |item| log.item(item)) {
            let finding = Finding::of_error(&error);
            log.check.see(&finding);
            log.check.damage().log(segment.header.number);
            log.doubts.push(Doubt { lsn: segment.header.base, finding });
        }
        log.settle_claims();
        log.doubts.append(&mut log.here);
        expected = Some((segment.header.number + 1, segment.header.end()));
    }
    let last = segments.last().or(old.last()).map(|last| last.header);
    let end = segments.last().map_or(from, |last| last.header.end());
    for (path, _) in &found.unreadable {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(number) = number_of(name)
            && last.is_none_or(|last| last.number < number)
        {
            let finding = Finding::problem(path, None, "what it held is not known");
            log.check.damage().log(number);
            log.doubts.push(Doubt { lsn: end, finding });
        }
    }
    if segments.is_empty() && (from > Lsn::ZERO || promised > Lsn::ZERO) {
        let what = match cut_short {
            true => format!("a repair was cut short before the log began anew at {from}: run it again"),
            false => format!("no segment is there, the log is needed from {from}"),
        };
        let finding = Finding::problem(dir, None, what);
        log.check.see(&finding);
        log.check.damage().log(last.map_or(0, |last| last.number));
        if !cut_short {
            log.doubts.push(Doubt { lsn: from, finding });
        }
    }
    log.check.report.incarnation = walker.incarnation();
    if let Some(node) = node
        && walker.incarnation() > node.incarnation
    {
        let (seen, counted) = (walker.incarnation(), node.incarnation);
        let what = format!("has frames of start {seen} of the node, but the manifest counts only {counted}");
        log.check.see(&Finding::problem(dir, None, what));
        log.check.damage().manifest = true;
    }
    log.finish(dir, promised);
    Ok(())
}

impl LogCheck<'_, '_> {
    /// Whether a segment is where one should be.
    fn check_place(
        &mut self,
        dir: &Path,
        segment: &SegmentFile,
        expected: Option<(u64, Lsn)>,
        from: Lsn,
        walker: &mut Walker,
    ) {
        let header = segment.header;
        if let Some(what) = &segment.bad_header {
            let what = format!("the header does not hold ({what}); read with the one that it must have had");
            self.problem(&Finding::problem(&segment.path, 0, what), header.number);
        }
        let follows = match expected {
            Some(place) => place == (header.number, header.base),
            None => header.base <= from,
        };
        if !follows {
            let (number, lsn) = expected.unwrap_or((header.number.saturating_sub(1), from));
            let path = path_of(dir, number);
            let what =
                format!("missing: the log is needed from {from}, and {lsn} to {} is not there", header.base);
            let finding = Finding::problem(&path, None, what);
            self.problem(&finding, header.number.saturating_sub(1));
            walker.skip(&mut |item| self.item(item));
            self.settle_claims();
            self.doubts.push(Doubt { lsn: header.base, finding });
        }
        let node = self.check.node;
        if let Some(node) = node
            && node != header.node
        {
            let what = format!("belongs to node {}, this is node {node}", header.node);
            self.problem(&Finding::problem(&segment.path, 12, what), header.number);
        }
    }

    fn begin_segment(&mut self, segment: &SegmentFile) {
        self.check.report.figures.segments += 1;
        self.path.clone_from(&segment.path);
        (self.number, self.base) = (segment.header.number, segment.header.base);
        self.index = GrowingIndex::default();
        self.has_hole = segment.bad_header.is_some();
    }

    fn problem(&mut self, finding: &Finding, segment: u64) {
        self.check.see(finding);
        self.check.damage().log(segment);
    }

    fn item(&mut self, item: Item<'_>) {
        if !matches!(item, Item::Record(_)) {
            self.settle_claims();
        }
        match item {
            Item::Frame { .. } => self.check.report.figures.frames += 1,
            // Of no slot's history: nothing is missing with it.
            Item::Record(at) if !at.record.body.is_history() => {}
            Item::Record(at) => {
                self.check.report.figures.records += 1;
                let header = at.record.header;
                if let Some(offset) = at.lsn.0.checked_sub(self.base.0) {
                    let offset = u32::try_from(offset).unwrap_or(u32::MAX);
                    self.index.add(header.slot, header.seq, offset);
                }
                match self.followers.take(&at) {
                    Told::Next | Told::Former => {}
                    Told::After(missing) => self.missing(missing, at.lsn),
                    Told::Wrong(what) => {
                        let offset = at.lsn.0.saturating_sub(self.base.0);
                        let finding = Finding::problem(&self.path, offset, what).of_slot(header.slot);
                        self.problem(&finding, self.number);
                        self.check.damage().lose(header.slot, &finding);
                    }
                }
            }
            Item::BadRecord { offset, what } => {
                self.has_hole = true;
                let finding = Finding::problem(&self.path, offset, what);
                self.problem(&finding, self.number);
                self.here.push(Doubt { lsn: self.base.advance(offset), finding });
            }
            Item::Seal { offset, index, bad, goes_on } => self.seal(offset, index, bad, goes_on),
            Item::Hole(hole) => self.hole(&hole),
            Item::End { offset, lsn, torn_bytes } => {
                self.end = Some(lsn);
                if torn_bytes > 0 {
                    let what = format!(
                        "the log ends at byte {offset}; {torn_bytes} bytes after it do not hold, and nothing promises \
                         that they were durable: the next start cuts them"
                    );
                    self.check.see(&Finding::note(&self.path, what));
                }
            }
        }
    }

    fn hole(&mut self, hole: &Hole) {
        self.has_hole = true;
        let what = format!(
            "{} bytes hold no frame ({}), but {} promises that there was one",
            hole.bytes, hole.what, hole.promised_by
        );
        let finding = Finding::problem(&self.path, hole.offset, what);
        self.problem(&finding, self.number);
        let lsn = self.base.advance(hole.offset);
        self.claims.extend(hole.lost.iter().map(|lost| (*lost, lsn)));
        if hole.unknown {
            self.here.push(Doubt { lsn, finding });
        }
    }

    /// What became of records that were found damaged, now that those that were saved beside them have passed.
    fn settle_claims(&mut self) {
        for (LostRecord { header, sure }, lsn) in std::mem::take(&mut self.claims) {
            let Header { slot, seq, .. } = header;
            if self.followers.is_past(slot, seq, lsn) {
                continue;
            }
            if self.followers.believes(header, lsn, sure) {
                if let Some(missing) = self.followers.lose(slot, seq, lsn) {
                    self.missing(missing, lsn);
                }
            } else {
                let what =
                    format!("a damaged record calls itself slot {slot} seq {seq}, which does not follow");
                let finding = Finding::problem(&self.path, lsn.0.saturating_sub(self.base.0), what);
                self.problem(&finding, self.number);
                self.here.push(Doubt { lsn, finding });
            }
        }
    }

    fn missing(&mut self, missing: Missing, lsn: Lsn) {
        let Missing { slot, first, last, in_files } = missing;
        let in_files = in_files || lsn < self.all_in_files_before;
        let what = match in_files {
            true => "missing in the log, but in files: only replicas that lag could want them",
            false => "missing in the log, and in no file: lost",
        };
        let offset = lsn.0.saturating_sub(self.base.0);
        let finding = Finding::problem(&self.path, offset, what).of_seqs(slot, first, last);
        self.problem(&finding, self.number);
        if !in_files {
            self.check.damage().lose(slot, &finding);
        }
    }

    fn seal(&mut self, offset: u64, index: Option<SlotIndex>, bad: Option<String>, goes_on: Option<Lsn>) {
        if let Some(what) = bad {
            let what = format!("{what}; no record is lost by it");
            self.problem(&Finding::problem(&self.path, offset, what), self.number);
        }
        let Some(index) = index else { return };
        let seen = self.index.snapshot();
        let behind: Vec<(Slot, Seq, Lsn)> = index
            .iter()
            .filter(|(slot, span)| seen.get(*slot).is_none_or(|seen| seen.last < span.last))
            .map(|(slot, span)| (slot, span.last, self.base.advance(u64::from(span.last_offset))))
            .collect();
        if self.has_hole {
            // Records that come with the next segment are not missing; what lacks before them shows then.
            let here = |lsn: Lsn| goes_on.is_none_or(|goes_on| lsn < goes_on);
            for (slot, last, lsn) in behind.into_iter().filter(|(.., lsn)| here(*lsn)) {
                if let Some(missing) = self.followers.lose(slot, last, lsn) {
                    self.missing(missing, lsn);
                }
            }
            // It tells exactly what was here.
            self.here.clear();
        } else if goes_on.is_none() && index != seen {
            let what = "the slot index is not that of the records; no record is lost by it";
            self.problem(&Finding::problem(&self.path, offset, what), self.number);
        }
    }

    fn finish(mut self, dir: &Path, promised: Lsn) {
        if let Some(end) = self.end {
            if end < promised {
                let what = format!("ends at {end}, but the manifest promises everything before {promised}");
                let finding = Finding::problem(&self.path, None, what);
                self.problem(&finding, self.number);
                self.doubts.push(Doubt { lsn: end, finding });
            }
            let beyond: Vec<_> =
                self.followers.present().filter(|slot| self.followers.base_lsn(*slot) > end).collect();
            for slot in beyond {
                let at = self.followers.base_lsn(slot);
                let what = format!("its life begins at {at}, but the log ends at {end}");
                let finding = Finding::problem(dir, None, what).of_slot(slot);
                self.problem(&finding, self.number);
                self.check.damage().lose(slot, &finding);
            }
        }
        let mut silent: BTreeMap<Slot, Finding> = BTreeMap::new();
        for Doubt { lsn, finding } in std::mem::take(&mut self.doubts) {
            if lsn < self.all_in_files_before {
                continue;
            }
            for slot in self.followers.silent_since(lsn) {
                silent.entry(slot).or_insert_with(|| finding.clone());
            }
        }
        let lost = self.check.report.damage.lost.clone();
        silent.retain(|slot, _| !lost.contains_key(slot));
        for (slot, cause) in silent {
            let what = "its last records may have been there: nothing tells";
            let finding = Finding { what: what.to_owned(), ..cause }.of_slot(slot);
            self.check.see(&finding);
            self.check.damage().doubt(slot, &finding);
        }
    }
}
