//! Opening a log: every record is given back in order, the end that a crash tore is cut, damage is told apart from it.
//!
//! The rule: the first position X that holds no valid frame is *damage* if anything valid promises that what lies
//! beyond X was durable: a frame after X, the segment after this one, or the manifest. Else it is the *torn end*.
//! A logical frame whose last part is missing is cut as a whole.
//!
//! Recovery may be killed at any point, with the same result the next time: it removes segments beyond the cut
//! newest first, then zeroes what follows the cut, and appends only after that is synced. After a stop that was
//! not clean, what no frame proves durable is written again and synced, because what a kernel gives back after a
//! failed fsync need not be on the disk.
//!
//! Only bytes that are there are zeroed: what reads as zeros beyond them was written as zeros and synced when the
//! segment was prepared, or after an earlier cut. Should a device bring back other bytes there, they are frames of an
//! earlier start, and none of those is taken after a frame of a later one.
//!
//! Where the manifest says that the log ended, with the mark of a clean stop, and nothing follows, what lies beyond is
//! not looked at. Nothing there can be promised: a frame there would promise what it follows, and that is the mark.

use super::frame::{self, Frame, HEADER_BYTES as FRAME_HEADER_BYTES, LOGICAL_BYTES_MAX, Parsed};
use super::frames::Window;
use super::index::GrowingIndex;
use super::scan::{Around, Image, Lost};
use super::segment::{self, HEADER_BYTES as SEGMENT_HEADER_BYTES, Room, Segment, SegmentHeader};
use super::writer::{Log, Opened};
use super::{LogOptions, RecordAt, parse, records};
use crate::error::{Error, Result};
use crate::fs::pool::FilePool;
use crate::fs::{Fs, OpenMode};
use crate::planted::{self, Bug};
use crate::types::{Lsn, NodeId, SLOT_COUNT, Seq, Slot};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// What the manifest knows of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Start {
    /// Whose log it is.
    pub node: NodeId,
    /// The number of this start of the node; higher than at every start before.
    pub incarnation: u32,
    /// Records in logical frames before this are not asked for: all of them are in files. 0 is "all".
    pub from: Lsn,
    /// Everything before this was synced, by the manifest's word.
    pub promised: Lsn,
    /// The log ended here when the node stopped in order, by the manifest's word.
    pub clean_end: Option<Lsn>,
}

/// What was cut off the log's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// Where the log ends now.
    pub lsn: Lsn,
    /// How many bytes went, not counting zeros at the end.
    pub bytes: u64,
}

/// What recovery found.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Recovered {
    /// The node had stopped in order.
    pub clean: bool,
    /// Records given to the caller.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Live segments.
    pub segments: usize,
    /// The torn end, if there was one.
    pub cut: Option<Cut>,
    /// Where the log ends.
    pub end: Lsn,
}

/// Where a scan stopped.
#[derive(Clone, Copy)]
struct Stop {
    /// Index of the segment.
    segment: usize,
    offset: usize,
    why: &'static str,
    /// Nothing was written there.
    blank: bool,
    /// It stopped at the seal of a segment that has no successor: nothing is lost.
    at_seal: bool,
}

/// A logical frame whose last part has not come yet.
#[derive(Clone)]
struct Chain {
    lsn: Lsn,
    segment: usize,
    offset: usize,
    body: Vec<u8>,
}

/// A whole logical frame in the window whose records were not given to the caller yet.
pub(super) struct Waiting {
    pub(super) lsn: Lsn,
    pub(super) segment: usize,
    pub(super) offset: usize,
    pub(super) body: Range<usize>,
}

/// How many files of sealed segments are open at a time, but for those that a reader holds.
const SEALED_FILES_MAX: usize = 32;

/// How many records are given to the caller at once, at most.
const BATCH_RECORDS_MAX: usize = 64 << 10;

struct Replay<'a, 'f> {
    start: Start,
    segments: &'a [Segment],
    window: Window,
    waiting: Vec<Waiting>,
    /// Where the bytes end that lie beyond the place where the scan stopped.
    used_end: usize,
    indexes: Vec<GrowingIndex>,
    chain: Option<Chain>,
    incarnation: u32,
    /// The greatest LSN that a frame or the manifest promises as durable.
    promise: Lsn,
    last_is_clean_stop: bool,
    /// The beginning of a logical frame was seen, so none may lack its own from here on.
    begun: bool,
    /// By slot; [`Seq::ZERO`] if there was none.
    last_seqs: Vec<Seq>,
    seen: Recovered,
    apply: &'a mut Apply<'f>,
}

/// Takes records in log order, many at once.
pub type Apply<'f> = dyn FnMut(&[RecordAt<'_>]) -> Result<()> + 'f;

impl Log {
    /// Opens the log in `dir`, made if need be: gives every record from `start.from` on to `apply`, in log order and
    /// many at once, repairs the end and returns a log that is ready to append.
    ///
    /// # Errors
    /// `Corrupt` if something that was promised as durable is not what was written, with the slots and seqs it
    /// hit; `Unusable` if the log is another node's or a newer version's; what `apply` returns.
    pub fn recover(
        fs: Arc<dyn Fs>,
        dir: &Path,
        start: Start,
        options: LogOptions,
        apply: &mut Apply<'_>,
    ) -> Result<(Log, Recovered)> {
        let options = LogOptions { segment_bytes: legal_segment_bytes(options.segment_bytes), ..options };
        let sealed_files = FilePool::new(Arc::clone(&fs), SEALED_FILES_MAX);
        let mut segments = open_segments(&*fs, dir, start, &sealed_files)?;
        if segments.is_empty() {
            segments.push(create_first(&*fs, dir, start, options)?);
        }
        let scanned_from = segments
            .iter()
            .take(segments.len() - 1)
            .take_while(|segment| segment.header.end() <= start.from)
            .count();
        let mut replay = Replay {
            start,
            segments: &segments,
            // The tail's memory is not in use yet.
            window: Window::new(options.tail_bytes),
            waiting: Vec::new(),
            used_end: 0,
            indexes: vec![],
            chain: None,
            incarnation: 0,
            promise: start.promised,
            last_is_clean_stop: false,
            begun: false,
            last_seqs: vec![Seq::ZERO; usize::from(SLOT_COUNT)],
            seen: Recovered::default(),
            apply,
        };
        let stop = replay.run(scanned_from)?;
        if planted::is(Bug::HalfGroup)
            && let Some(Chain { lsn, segment, offset, body }) = replay.chain.clone()
        {
            let whole = records(&body).map_while(Result::ok).map(|record| record.bytes.len()).sum();
            replay.give_body(segment, offset, lsn, &body[..whole])?;
        }
        let Replay { mut indexes, chain, promise, last_is_clean_stop, mut seen, used_end, .. } = replay;

        let nothing_lost = stop.at_seal && chain.is_none();
        let used_end = chain.is_none().then_some(used_end);
        let (keep, offset) = chain.map_or((stop.segment, stop.offset), |chain| (chain.segment, chain.offset));
        remove_beyond(&*fs, dir, &mut segments, keep)?;
        let active = segments.pop().expect("the segment with the log's end is kept");
        // From here on it is written.
        let active = Segment::open(&*fs, &active.path, start.node, OpenMode::Write)?;
        seen.end = active.header.base.advance(offset as u64);
        seen.cut = make_durable(&active, offset, used_end, promise)?.filter(|_| !nothing_lost);
        if options.room == Room::Reserved {
            // What was read ahead is in the page cache in large pieces, and the kernel goes through all blocks of a piece
            // at each small write into it: that made a write cost three times as much. Room that was written to is kept:
            // it would have to be read again.
            active.file.forget_cached(offset as u64);
        }
        if let Some(cut) = seen.cut {
            tracing::warn!(path = %active.path.display(), at = %cut.lsn, bytes = cut.bytes, "cut the log's torn end");
        }
        seen.clean = last_is_clean_stop && seen.cut.is_none();
        seen.segments = segments.len() + 1;
        fs.sync_dir(dir).map_err(|error| Error::io(dir, "sync", &error))?;
        indexes.truncate(keep + 1);
        let index = indexes.pop().expect("every segment has an index");
        for (segment, index) in segments.iter().zip(&indexes) {
            segment.index.get_or_init(|| Arc::new(index.snapshot()));
        }
        let sealed: VecDeque<_> = segments.into_iter().map(Arc::new).collect();
        let opened = Opened { sealed, active: Arc::new(active), index, end: seen.end, sealed_files };
        Ok((Log::open(fs, dir, start.incarnation, options, opened), seen))
    }
}

fn legal_segment_bytes(bytes: u64) -> u64 {
    let bytes = bytes.clamp(segment::SEGMENT_BYTES_MIN, segment::SEGMENT_BYTES_MAX);
    bytes - bytes % frame::ALIGN_BYTES as u64
}

/// All segments, oldest first, without a gap; what was prepared and never used is removed.
fn open_segments(fs: &dyn Fs, dir: &Path, start: Start, pool: &Arc<FilePool>) -> Result<Vec<Segment>> {
    if !fs.exists(dir).map_err(|error| Error::io(dir, "look up", &error))? {
        fs.create_dir_all(dir).map_err(|error| Error::io(dir, "make", &error))?;
    }
    // Also if it is there: whoever made it may have been killed before this step.
    let parent = dir.parent().unwrap_or(dir);
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    fs.sync_dir(parent).map_err(|error| Error::io(parent, "sync", &error))?;
    let mut numbers = Vec::new();
    for entry in fs.list(dir).map_err(|error| Error::io(dir, "list", &error))? {
        if let Some(number) = segment::number_of(&entry.name) {
            numbers.push(number);
        } else if entry.name.ends_with(".tmp") {
            let path = dir.join(&entry.name);
            fs.remove(&path).map_err(|error| Error::io(&path, "remove", &error))?;
        }
    }
    numbers.sort_unstable();
    let mut segments: Vec<Segment> = Vec::with_capacity(numbers.len());
    let mut leftovers = Vec::new();
    for number in numbers {
        let path = segment::path_of(dir, number);
        let opened = Segment::open(fs, &path, start.node, OpenMode::Read)?;
        let file = Arc::new(pool.opened(&path, opened.file));
        let segment = Segment::new(opened.header, path.clone(), file);
        if segment.header.number != number {
            return Err(Error::corrupt(
                &path,
                32,
                format!("says that it is segment {}", segment.header.number),
            ));
        }
        let follows = segments
            .last()
            .is_none_or(|last| last.header.number + 1 == number && last.header.end() == segment.header.base);
        if !follows {
            // Segments before the log's start may come back in a crash; after it none may be missing.
            if segment.header.base > start.from {
                let what = format!("the segment before it is missing, the log is needed from {}", start.from);
                return Err(Error::corrupt(&path, 0, what));
            }
            leftovers.append(&mut segments);
        }
        segments.push(segment);
    }
    let (first, end) = match (segments.first(), segments.last()) {
        (Some(first), Some(last)) => (first.header.base, last.header.end()),
        _ => (Lsn::ZERO, Lsn::ZERO),
    };
    if first > start.from || end < start.promised.max(start.from) {
        let what = format!(
            "its segments hold {first} to {end}, but the manifest needs it from {} and promises all before {}",
            start.from, start.promised
        );
        return Err(Error::corrupt(dir, 0, what));
    }
    for leftover in leftovers {
        fs.remove(&leftover.path).map_err(|error| Error::io(&leftover.path, "remove", &error))?;
    }
    Ok(segments)
}

fn create_first(fs: &dyn Fs, dir: &Path, start: Start, options: LogOptions) -> Result<Segment> {
    let header = SegmentHeader { node: start.node, number: 0, base: Lsn::ZERO, bytes: options.segment_bytes };
    let spare = Segment::prepare(fs, dir, header, options.room)?;
    let path = segment::path_of(dir, header.number);
    fs.rename(&spare.path, &path).map_err(|error| Error::io(&path, "rename", &error))?;
    fs.sync_dir(dir).map_err(|error| Error::io(dir, "sync", &error))?;
    Ok(Segment::new(header, path, spare.file))
}

/// Removes the segments after the one at `keep`, newest first, so that a crash leaves no gap.
fn remove_beyond(fs: &dyn Fs, dir: &Path, segments: &mut Vec<Segment>, keep: usize) -> Result<()> {
    while segments.len() > keep + 1 {
        let newest = segments.pop().expect("longer than keep + 1");
        fs.remove(&newest.path).map_err(|error| Error::io(&newest.path, "remove", &error))?;
        fs.sync_dir(dir).map_err(|error| Error::io(dir, "sync", &error))?;
    }
    Ok(())
}

/// Cuts the active segment at `offset` and makes sure that what is left is on the disk: what nothing proves to be
/// there is written again, be it only the mark of a clean stop. Bytes beyond the cut end at `used_end`, if that is known.
fn make_durable(
    active: &Segment,
    offset: usize,
    used_end: Option<usize>,
    promise: Lsn,
) -> Result<Option<Cut>> {
    let used_end = match used_end {
        Some(used_end) => used_end,
        None => Image::load_from(active, offset)?.used_end,
    };
    let (header, file) = (active.header, &active.file);
    let file_bytes = file.size().map_err(|error| Error::io(&active.path, "look up", &error))?;
    let torn = used_end.saturating_sub(offset);
    let proven = promise.0.saturating_sub(header.base.0);
    let proven = usize::try_from(proven).unwrap_or(usize::MAX).clamp(SEGMENT_HEADER_BYTES, offset);
    let proven = if planted::is(Bug::TailNotRewritten) { offset } else { proven };
    if proven == offset && torn == 0 && file_bytes == header.bytes {
        return Ok(None);
    }
    let write_again = || {
        copy_over_itself(active, proven..offset)?;
        if torn > 0 {
            segment::zero(&**file, offset as u64, used_end as u64)?;
        }
        segment::zero(&**file, file_bytes.max(offset as u64), header.bytes)?;
        file.sync()
    };
    write_again().map_err(|error| Error::io(&active.path, "repair", &error))?;
    let lsn = header.base.advance(offset as u64);
    Ok((torn > 0).then_some(Cut { lsn, bytes: torn as u64 }))
}

/// Writes what lies in a part of a segment there once more.
fn copy_over_itself(segment: &Segment, part: Range<usize>) -> std::io::Result<()> {
    const PIECE_BYTES: usize = 1 << 20;
    let mut piece = vec![0; PIECE_BYTES.min(part.len())];
    for at in part.clone().step_by(PIECE_BYTES) {
        let bytes = PIECE_BYTES.min(part.end - at);
        segment.file.read_at(&mut piece[..bytes], at as u64)?;
        segment.file.write_at(&piece[..bytes], at as u64)?;
    }
    Ok(())
}

impl Replay<'_, '_> {
    /// Reads the indexes of the segments before `scanned_from` and everything in the others.
    fn run(&mut self, scanned_from: usize) -> Result<Stop> {
        for index in 0..scanned_from {
            self.indexes.push(GrowingIndex::default());
            let segment = &self.segments[index];
            match segment.read_index()? {
                Some(read) => {
                    read.iter().for_each(|(slot, span)| self.last_seqs[slot.index()] = span.last);
                    segment.index.set(Arc::new(read)).expect("opened just now");
                }
                None => self.scan_old(index)?,
            }
        }
        for index in scanned_from..self.segments.len() {
            self.indexes.push(GrowingIndex::default());
            if let Some(stop) = self.scan(index)? {
                return Ok(stop);
            }
        }
        unreachable!("the scan of the last segment always stops")
    }

    /// Scans a segment before the log's start whose index does not hold: nothing in it is given to the caller.
    fn scan_old(&mut self, index: usize) -> Result<()> {
        tracing::warn!(path = %self.segments[index].path.display(), "the slot index is damaged; made again");
        self.scan(index)?;
        // The segment after it may be known by its index only.
        self.chain = None;
        self.begun = false;
        Ok(())
    }

    /// Takes the frames of a segment; says where the log ends if it ends here.
    fn scan(&mut self, index: usize) -> Result<Option<Stop>> {
        let stop = self.scan_frames(index);
        // What is wrong with an earlier record is told first.
        self.give_waiting()?;
        let Some(stop) = stop? else { return Ok(None) };
        let segment = &self.segments[index];
        let is_last = index + 1 == self.segments.len();
        let at = segment.header.base.advance(stop.offset as u64);
        let ends_clean = is_last && stop.blank && self.last_is_clean_stop && self.chain.is_none();
        if ends_clean && self.start.clean_end == Some(at) {
            self.used_end = stop.offset;
            return Ok(Some(stop));
        }
        let image = Image::load_from(segment, stop.offset)?;
        if !is_last && image.seal_offset() == Some(stop.offset) {
            let (path, offset) = (segment.path.display(), stop.offset);
            tracing::warn!(%path, offset, "the seal is damaged, all frames before it hold");
            return Ok(None);
        }
        self.check_torn(&image, stop, is_last)?;
        self.used_end = image.used_end;
        Ok(Some(stop))
    }

    /// Takes the frames of a segment up to its seal or to where none holds; `None` if a sealed segment ends in order.
    fn scan_frames(&mut self, index: usize) -> Result<Option<Stop>> {
        let segment = &self.segments[index];
        let mut offset = SEGMENT_HEADER_BYTES;
        let stop = Stop { segment: index, offset: 0, why: "", blank: false, at_seal: false };
        loop {
            if !self.window.covers(segment, offset) {
                self.give_waiting()?;
                self.window.cover(segment, offset)?;
            }
            let stop = match self.window.frame(segment, offset) {
                Parsed::Frame(frame) if frame.header.incarnation < self.incarnation => {
                    Stop { why: "a frame from before a cut", ..stop }
                }
                Parsed::Frame(frame) if frame.header.incarnation > self.start.incarnation => {
                    let what = format!(
                        "was written by start {} of the node, but the manifest counts only {}",
                        frame.header.incarnation, self.start.incarnation
                    );
                    return Err(Error::corrupt(&segment.path, offset as u64, what));
                }
                Parsed::Frame(frame) if frame.header.has(frame::SEAL) => {
                    self.note(&frame);
                    if index + 1 < self.segments.len() {
                        return Ok(None);
                    }
                    Stop { at_seal: true, why: "the segment after it was never begun", ..stop }
                }
                Parsed::Frame(frame) => {
                    self.note(&frame);
                    self.take(index, offset, &frame)?;
                    offset += frame.end - frame.body.start + FRAME_HEADER_BYTES;
                    continue;
                }
                Parsed::Blank => Stop { why: "nothing", blank: true, ..stop },
                Parsed::Bad(why) => Stop { why, ..stop },
            };
            return Ok(Some(Stop { offset, ..stop }));
        }
    }

    fn note(&mut self, frame: &Frame) {
        self.incarnation = frame.header.incarnation;
        self.promise = self.promise.max(frame.header.synced);
        // A seal says nothing about how the node stopped.
        if !frame.header.has(frame::SEAL) {
            self.last_is_clean_stop = frame.header.has(frame::CLEAN_STOP);
        }
    }

    /// Takes a frame that lies in the window.
    fn take(&mut self, index: usize, offset: usize, frame: &Frame) -> Result<()> {
        let path = &self.segments[index].path;
        let body = &self.window.bytes()[frame.body.clone()];
        let corrupt = |what: &str| Err(Error::corrupt(path, offset as u64, what));
        let lsn = frame.header.lsn;
        if frame.header.has(frame::CONTINUED) {
            match &mut self.chain {
                Some(chain) if chain.body.len() + body.len() > LOGICAL_BYTES_MAX => {
                    return corrupt("a logical frame without end");
                }
                Some(chain) => chain.body.extend_from_slice(body),
                // It began in a segment that is gone or that is not asked for.
                None if !self.begun => {}
                None => return corrupt("the beginning of a logical frame is missing"),
            }
        } else if self.chain.is_some() {
            return corrupt("the rest of a logical frame is missing");
        } else if frame.header.has(frame::MORE) {
            self.begun = true;
            self.chain = Some(Chain { lsn, segment: index, offset, body: body.to_vec() });
        } else {
            self.begun = true;
            self.waiting.push(Waiting { lsn, segment: index, offset, body: frame.body.clone() });
        }
        if frame.header.has(frame::CONTINUED)
            && !frame.header.has(frame::MORE)
            && let Some(chain) = self.chain.take()
        {
            self.give_body(chain.segment, chain.offset, chain.lsn, &chain.body)?;
        }
        Ok(())
    }

    /// Gives the records of a whole logical frame that lies in no window to the caller, after those that wait.
    fn give_body(&mut self, segment: usize, offset: usize, lsn: Lsn, body: &[u8]) -> Result<()> {
        self.give_waiting()?;
        self.give(&[Waiting { lsn, segment, offset, body: 0..body.len() }], body)
    }

    /// Gives the records that wait in the window to the caller.
    fn give_waiting(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let window = std::mem::take(&mut self.window);
        let given = self.give(&waiting, window.bytes());
        self.window = window;
        given
    }

    /// Gives the records of whole logical frames, whose bodies lie in `bytes`, to the caller.
    fn give(&mut self, frames: &[Waiting], bytes: &[u8]) -> Result<()> {
        for part in parse::all(frames, bytes) {
            let parse::Part { frames, counts, mut records, bad } = part;
            let mut rest = &records[..];
            for (frame, count) in frames.iter().zip(counts) {
                let in_segment = u32::try_from(frame.offset).expect("a segment is at most 1 GiB");
                let (here, after) = rest.split_at(count);
                rest = after;
                for RecordAt { lsn, record } in here {
                    let header = record.header;
                    if record.body.is_history() {
                        self.indexes[frame.segment].add(header.slot, header.seq, in_segment);
                        self.last_seqs[header.slot.index()] = header.seq;
                    }
                    if *lsn >= self.start.from {
                        self.seen.records += u64::from(record.body.is_history());
                        self.seen.bytes += record.bytes.len() as u64;
                    }
                }
            }
            // Frames stand in their order: what is not asked for comes first.
            records.drain(..records.partition_point(|at| at.lsn < self.start.from));
            for batch in records.chunks(BATCH_RECORDS_MAX) {
                (self.apply)(batch)?;
            }
            if let Some((frame, read, bad)) = bad {
                let what = format!("the record at byte {read} of this frame: {bad}");
                return Err(Error::corrupt(&self.segments[frame.segment].path, frame.offset as u64, what));
            }
        }
        Ok(())
    }

    /// Holds that nothing promises anything beyond where the scan stopped.
    fn check_torn(&self, image: &Image, stop: Stop, is_last: bool) -> Result<()> {
        let at = image.lsn(stop.offset);
        let by_frame = || {
            let counts =
                |frame: &Frame| frame.header.incarnation >= self.incarnation && frame.header.synced > at;
            image
                .frames_after(stop.offset)
                .filter(counts)
                .map(|frame| (frame.header.synced, frame.header.lsn))
        };
        let (promised_by, promised) = if !is_last {
            ("the segment after it".to_owned(), None)
        } else if self.start.promised > at {
            let most = by_frame().map(|(synced, _)| synced).chain([self.start.promised]).max();
            ("the manifest".to_owned(), most)
        } else if let Some((_, lsn)) = by_frame().next() {
            (format!("the frame at {lsn}"), by_frame().map(|(synced, _)| synced).max())
        } else {
            return Ok(());
        };
        let lost = self.lost(image, stop, promised)?;
        let what = format!("{}, but {promised_by} promises that it was durable; {lost}", stop.why);
        Err(Error::corrupt(&self.segments[stop.segment].path, stop.offset as u64, what))
    }

    fn lost(&self, image: &Image, stop: Stop, promised: Option<Lsn>) -> Result<Lost> {
        let mut later = BTreeMap::new();
        for segment in &self.segments[stop.segment + 1..] {
            Image::load(segment)?.first_seqs_after(0, &mut later);
        }
        let index = self.segments[stop.segment].read_index()?.unwrap_or_default();
        let begun = self.chain.as_ref().map(|chain| chain.body.clone()).unwrap_or_default();
        let last = Slot::all().map(|slot| (slot, self.last_seqs[slot.index()]));
        let before = last.filter(|(_, seq)| *seq > Seq::ZERO).collect();
        let around = Around { before, later, index, begun, promised };
        Ok(image.lost(stop.offset, &around))
    }
}
