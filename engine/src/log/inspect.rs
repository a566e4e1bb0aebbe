//! Reads a log for a person or a tool: read-only, and on through damage.
//!
//! The rule of what is damage and what a torn end is recovery's. Memory is bounded as recovery's is: one segment, one
//! logical frame.

use super::frame::{self, Frame, FrameHeader, LOGICAL_BYTES_MAX, Parsed};
use super::index::SlotIndex;
use super::record::Record;
use super::salvage::{Salvage, salvage, salvage_body};
use super::scan::Image;
use super::segment::{self, HEADER_BYTES as SEGMENT_HEADER_BYTES, Segment, SegmentHeader};
use super::{RecordAt, records};
use crate::error::{Error, Result};
use crate::fs::{Fs, OpenMode};
use crate::types::{Lsn, NodeId};
use std::path::{Path, PathBuf};

pub use super::salvage::LostRecord;

/// A segment's file.
#[derive(Clone, Debug)]
pub struct SegmentFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Its header; made again from the file's name, size and neighbours if the one in the file does not hold.
    pub header: SegmentHeader,
    /// What is wrong with the header in the file.
    pub bad_header: Option<String>,
}

/// What lies in a log's folder.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    /// The segments, oldest first.
    pub segments: Vec<SegmentFile>,
    /// Files that should be segments and can't be read as such, with the reason.
    pub unreadable: Vec<(PathBuf, Error)>,
    /// Segments that were prepared and are not in use.
    pub spares: Vec<String>,
    /// Files that no log has.
    pub strangers: Vec<String>,
}

/// Bytes of a segment where frames should be and are not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hole {
    /// Where in the file.
    pub offset: u64,
    /// Up to the next frame, or to where only zeros follow.
    pub bytes: u64,
    /// What does not hold.
    pub what: String,
    /// What says that there was something.
    pub promised_by: String,
    /// Records that do not hold.
    pub lost: Vec<LostRecord>,
    /// There may have been more records, of any slot.
    pub unknown: bool,
}

/// Something that lies in a segment, in the order of the file.
#[derive(Debug)]
pub enum Item<'a> {
    /// A frame.
    Frame {
        /// Where in the file.
        offset: u64,
        /// Its header.
        header: FrameHeader,
        /// Bytes of its body.
        body_bytes: usize,
    },
    /// A record of a logical frame, given once that is whole, or of a hole.
    Record(RecordAt<'a>),
    /// A frame that holds, and whose records do not.
    BadRecord {
        /// Where in the file.
        offset: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The segment is full and ends here.
    Seal {
        /// Where in the file.
        offset: u64,
        /// Which records it holds, if that can be read.
        index: Option<SlotIndex>,
        /// What does not hold of seal, index or trailer. No record is lost by it.
        bad: Option<String>,
        /// The logical frame that goes on in the next segment: its records, which the index has, are given there.
        goes_on: Option<Lsn>,
    },
    /// Damage. The records that could be saved out of it follow.
    Hole(Hole),
    /// The log ends here.
    End {
        /// Where in the file.
        offset: u64,
        /// The log's position.
        lsn: Lsn,
        /// Bytes of a write that nobody was told of: a start cuts them.
        torn_bytes: u64,
    },
}

/// Gives the segments of a folder. `node` is whose log it should be, if that is known.
///
/// # Errors
/// `Io` if the folder can't be listed.
pub fn folder(fs: &dyn Fs, dir: &Path, node: Option<NodeId>) -> Result<Folder> {
    let mut out = Folder::default();
    let mut bad = Vec::new();
    for entry in fs.list(dir).map_err(|error| Error::io(dir, "list", &error))? {
        let path = dir.join(&entry.name);
        let Some(number) = segment::number_of(&entry.name).filter(|_| !entry.is_dir) else {
            let is_spare = entry.name.ends_with(".tmp") && !entry.is_dir;
            if is_spare { &mut out.spares } else { &mut out.strangers }.push(entry.name);
            continue;
        };
        match Segment::open_any(fs, &path, OpenMode::Read) {
            Ok(found) if found.header.number != number => {
                let what = format!("says that it is segment {}", found.header.number);
                bad.push((path.clone(), number, Error::corrupt(&path, 32, what)));
            }
            Ok(found) => {
                out.segments.push(SegmentFile { path, header: found.header, bad_header: None });
            }
            Err(error @ Error::Corrupt { .. }) => bad.push((path, number, error)),
            Err(error) => out.unreadable.push((path, error)),
        }
    }
    let node = node.or(out.segments.first().map(|first| first.header.node));
    for (path, number, error) in bad {
        match node.and_then(|node| rebuilt_header(fs, &path, number, node, &out.segments)) {
            Some(header) => {
                let what = match &error {
                    Error::Corrupt { what, .. } => what.clone(),
                    other => other.to_string(),
                };
                out.segments.push(SegmentFile { path, header, bad_header: Some(what) });
            }
            None => out.unreadable.push((path, error)),
        }
    }
    out.segments.sort_by_key(|segment| segment.header.number);
    Ok(out)
}

/// The header that a segment must have had, if its frames or its trailer agree with it.
fn rebuilt_header(
    fs: &dyn Fs,
    path: &Path,
    number: u64,
    node: NodeId,
    others: &[SegmentFile],
) -> Option<SegmentHeader> {
    let file = fs.open(path, OpenMode::Read).ok()?;
    let bytes = file.size().ok()?;
    let mut head = [0; SEGMENT_HEADER_BYTES + frame::HEADER_BYTES];
    file.read_at(&mut head, 0).ok()?;
    let own_lsn = head[SEGMENT_HEADER_BYTES + 16..].first_chunk().map(|raw| u64::from_le_bytes(*raw))?;
    let named = |number: Option<u64>| others.iter().find(|other| Some(other.header.number) == number);
    let before = named(number.checked_sub(1)).map(|before| before.header.end());
    let after = named(Some(number + 1)).and_then(|after| after.header.base.0.checked_sub(bytes)).map(Lsn);
    let own = own_lsn.checked_sub(SEGMENT_HEADER_BYTES as u64).map(Lsn);
    [before, after, own].into_iter().flatten().find_map(|base| {
        let header = SegmentHeader { node, number, base, bytes };
        // Its own encoding says whether sizes are within their bounds.
        let header = SegmentHeader::decode(&header.encode()).ok()?;
        let image = Image::load(&Segment::new(header, path.to_owned(), file.clone())).ok()?;
        let agrees = matches!(image.frame(SEGMENT_HEADER_BYTES), Parsed::Frame(_))
            || image.next_frame(SEGMENT_HEADER_BYTES).is_some()
            || image.seal_offset().is_some()
            || (image.used_end <= SEGMENT_HEADER_BYTES && before.is_some());
        agrees.then_some(header)
    })
}

/// The beginning of a logical frame whose last part has not come yet.
struct Chain {
    lsn: Lsn,
    body: Vec<u8>,
}

/// Reads segments in their order, one after another.
pub struct Walker {
    /// Everything before this was synced, by the manifest's word.
    promised: Lsn,
    incarnation: u32,
    chain: Option<Chain>,
    /// The beginning of a logical frame was seen, so none may lack its own from here on.
    begun: bool,
}

impl Walker {
    /// Begins with any segment. Everything before `promised` was synced, by the manifest's word.
    #[must_use]
    pub fn new(promised: Lsn) -> Walker {
        Walker { promised, incarnation: 0, chain: None, begun: false }
    }

    /// The start of the node that wrote the last frame.
    #[must_use]
    pub fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// A segment is missing: what began before it has no end. Records that can be saved of it are given.
    pub fn skip(&mut self, see: &mut dyn FnMut(Item<'_>)) {
        self.begun = false;
        self.give_up_chain(see);
    }

    /// Gives everything in a segment to `see`; `next` is the segment after it.
    ///
    /// # Errors
    /// `Io` if it can't be read. Damage is an [`Item`].
    pub fn walk(
        &mut self,
        fs: &dyn Fs,
        file: &SegmentFile,
        next: Option<&SegmentFile>,
        see: &mut dyn FnMut(Item<'_>),
    ) -> Result<()> {
        let opened = fs.open(&file.path, OpenMode::Read);
        let opened = opened.map_err(|error| Error::io(&file.path, "open", &error))?;
        let image = Image::load(&Segment::new(file.header, file.path.clone(), opened))?;
        let mut offset = SEGMENT_HEADER_BYTES;
        loop {
            let what = match image.frame(offset) {
                Parsed::Frame(frame) if frame.header.incarnation < self.incarnation => {
                    "a frame from before a cut"
                }
                Parsed::Frame(frame) => {
                    self.incarnation = frame.header.incarnation;
                    let (header, body_bytes) = (frame.header, frame.body.len());
                    see(Item::Frame { offset: offset as u64, header, body_bytes });
                    if header.has(frame::SEAL) {
                        see(seal_item(&image, offset, &frame, self.chain.as_ref().map(|chain| chain.lsn)));
                        if next.is_none() {
                            self.end(&image, offset, see);
                        }
                        return Ok(());
                    }
                    self.take(&image, offset, &frame, see);
                    offset = frame.end;
                    continue;
                }
                Parsed::Blank => "nothing",
                Parsed::Bad(what) => what,
            };
            if next.is_some() && image.seal_offset() == Some(offset) {
                let bad = Some(format!("the seal: {what}"));
                see(Item::Seal { offset: offset as u64, index: None, bad, goes_on: None });
                return Ok(());
            }
            let Some(promised_by) = self.promise(&image, offset, next) else {
                self.end(&image, offset, see);
                return Ok(());
            };
            match self.pass_hole(&image, offset, what, promised_by, see) {
                Some(after) => offset = after,
                None if next.is_some() => return Ok(()),
                None => {
                    let offset = frame::align(image.used_end.max(offset));
                    let lsn = image.lsn(offset);
                    see(Item::End { offset: offset as u64, lsn, torn_bytes: 0 });
                    return Ok(());
                }
            }
        }
    }

    /// Who says that there was something where no frame is.
    fn promise(&self, image: &Image, offset: usize, next: Option<&SegmentFile>) -> Option<String> {
        let stopped_at = image.lsn(offset);
        if next.is_some() {
            return Some("the segment after it".to_owned());
        }
        if self.promised > stopped_at {
            return Some("the manifest".to_owned());
        }
        let promises =
            |frame: &Frame| frame.header.incarnation >= self.incarnation && frame.header.synced > stopped_at;
        image.frames_after(offset).find(promises).map(|frame| format!("the frame at {}", frame.header.lsn))
    }

    /// Tells of a hole and saves what can be saved; gives where the next frame is.
    fn pass_hole(
        &mut self,
        image: &Image,
        offset: usize,
        what: &str,
        promised_by: String,
        see: &mut dyn FnMut(Item<'_>),
    ) -> Option<usize> {
        let mut next = image.next_frame(offset);
        while let Some((at, frame)) = &next
            && frame.header.incarnation < self.incarnation
        {
            next = image.next_frame(*at);
        }
        let frames_end = image.bytes.len() - segment::TRAILER_BYTES;
        let end = match (&next, image.seal_offset()) {
            (Some((at, _)), _) => *at,
            (None, Some(seal)) if seal > offset => seal,
            (None, _) => frame::align(image.used_end.clamp(offset, frames_end)).min(frames_end),
        };
        let mut saved = salvage(image, offset, end);
        let goes_on = next.as_ref().is_some_and(|(_, frame)| frame.header.has(frame::CONTINUED));
        saved.unknown |= self.chain.is_some() || goes_on || end == offset;
        let Salvage { records: kept, lost, unknown } = saved;
        let (at, bytes) = (offset as u64, (end - offset) as u64);
        see(Item::Hole(Hole { offset: at, bytes, what: what.to_owned(), promised_by, lost, unknown }));
        self.give_up_chain(see);
        self.begun = false;
        give_saved(&image.bytes, &kept, image.lsn(offset), see);
        next.map(|(at, _)| at)
    }

    fn give_up_chain(&mut self, see: &mut dyn FnMut(Item<'_>)) {
        if let Some(chain) = self.chain.take() {
            give_saved(&chain.body, &salvage_body(&chain.body).records, chain.lsn, see);
        }
    }

    /// Puts a logical frame together and gives its records.
    fn take(&mut self, image: &Image, offset: usize, frame: &Frame, see: &mut dyn FnMut(Item<'_>)) {
        let body = &image.bytes[frame.body.clone()];
        let (lsn, continued) = (image.lsn(offset), frame.header.has(frame::CONTINUED));
        match (continued, self.chain.as_mut()) {
            (true, Some(chain)) if chain.body.len() + body.len() <= LOGICAL_BYTES_MAX => {
                chain.body.extend_from_slice(body);
            }
            (true, None) => {
                // Its beginning is gone, or was not asked for.
                if self.begun {
                    see(bad_record(offset, "the beginning of a logical frame is missing"));
                }
                give_saved(body, &salvage_body(body).records, lsn, see);
                return;
            }
            (_, chain) => {
                if chain.is_some() {
                    see(bad_record(offset, "the rest of a logical frame is missing before this one"));
                    self.give_up_chain(see);
                }
                self.chain = Some(Chain { lsn, body: body.to_vec() });
            }
        }
        self.begun = true;
        if frame.header.has(frame::MORE) {
            return;
        }
        let Some(chain) = self.chain.take() else { return };
        let mut read = 0;
        for record in records(&chain.body) {
            match record {
                Ok(record) => {
                    read += record.bytes.len();
                    see(Item::Record(RecordAt { lsn: chain.lsn, record }));
                }
                Err(bad) => {
                    see(bad_record(offset, &format!("the record at byte {read} of this frame: {bad}")));
                    let rest = &chain.body[read..];
                    give_saved(rest, &salvage_body(rest).records, chain.lsn, see);
                }
            }
        }
    }

    /// The end of the log: a logical frame that lacks its last part was never finished.
    fn end(&mut self, image: &Image, offset: usize, see: &mut dyn FnMut(Item<'_>)) {
        let torn = image.used_end.saturating_sub(offset) as u64;
        let end = image.lsn(offset);
        let unfinished = self.chain.take().map(|chain| chain.lsn);
        let at_seal = matches!(image.frame(offset), Parsed::Frame(frame) if frame.header.has(frame::SEAL));
        let torn_bytes = match unfinished {
            Some(lsn) => end.0 - lsn.0 + torn,
            None if at_seal => 0,
            None => torn,
        };
        see(Item::End { offset: offset as u64, lsn: unfinished.unwrap_or(end), torn_bytes });
    }
}

fn bad_record(offset: usize, what: &str) -> Item<'static> {
    Item::BadRecord { offset: offset as u64, what: what.to_owned() }
}

fn seal_item(image: &Image, offset: usize, frame: &Frame, goes_on: Option<Lsn>) -> Item<'static> {
    let index = SlotIndex::decode(&image.bytes[frame.body.clone()]);
    let bad = match (&index, image.seal_offset()) {
        (None, _) => Some("the seal holds no slot index".to_owned()),
        (_, Some(at)) if at == offset => None,
        (_, Some(at)) => Some(format!("the trailer says that the seal is at byte {at}")),
        (_, None) => Some("the trailer's checksum is wrong".to_owned()),
    };
    Item::Seal { offset: offset as u64, index, bad, goes_on }
}

fn give_saved(bytes: &[u8], ranges: &[std::ops::Range<usize>], lsn: Lsn, see: &mut dyn FnMut(Item<'_>)) {
    for range in ranges {
        if let Ok(record) = Record::take(&mut &bytes[range.clone()]) {
            see(Item::Record(RecordAt { lsn, record }));
        }
    }
}

/// Gives everything in the segment at `path` to `see`, as if it were the only one of its log unless it is sealed.
///
/// # Errors
/// As [`Segment::open`] if the header does not hold; else as the file system says. Damage behind the header is an
/// [`Item`].
pub fn walk(fs: &dyn Fs, path: &Path, see: &mut dyn FnMut(Item<'_>)) -> Result<SegmentHeader> {
    let segment = Segment::open_any(fs, path, OpenMode::Read)?;
    let file = SegmentFile { path: path.to_owned(), header: segment.header, bad_header: None };
    let next = SegmentHeader { number: file.header.number + 1, base: file.header.end(), ..file.header };
    let next = SegmentFile { path: PathBuf::new(), header: next, bad_header: None };
    let sealed = segment.read_index()?.is_some();
    Walker::new(Lsn::ZERO).walk(fs, &file, sealed.then_some(&next), see)?;
    Ok(file.header)
}
