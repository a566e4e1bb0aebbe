//! What every byte of a store's files is, by the tables of `docs/FORMAT.md`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::fs::{Fs, OpenMode};
use haypile_engine::log::frame::{self, Frame, Parsed};
use haypile_engine::log::segment::{self, SegmentHeader};
use haypile_engine::log::{record, records};
use haypile_engine::manifest::{self, Edit};
use haypile_engine::sst::{FileNo, RunMeta, read_directory};
use haypile_engine::types::{Lsn, Seq, Slot};
use haypile_engine::varint;

use crate::store::DIR;

/// Records of a slot, from one to another.
pub type Span = (Slot, Seq, Seq);

/// Neighbouring bytes of a file that are of one kind.
#[derive(Clone, Debug)]
pub struct Region {
    /// The file.
    pub path: PathBuf,
    /// The first byte.
    pub from: u64,
    /// After the last byte.
    pub to: u64,
    /// What the bytes are.
    pub kind: &'static str,
    /// What is lost with them: an error has to name it.
    pub holds: Vec<Span>,
    /// Slots that the bytes are about, where they hold no records: an error has to name them.
    pub about: Vec<Slot>,
    /// Whether anything on the disk says that they were synced.
    pub promised: bool,
}

/// Reads a whole file.
pub fn bytes_of(fs: &MemoryFs, path: &Path) -> Vec<u8> {
    let file = fs.open(path, OpenMode::Read).expect("is there");
    let mut bytes = vec![0; usize::try_from(file.size().expect("has a size")).expect("small")];
    file.read_at(&mut bytes, 0).expect("reads");
    bytes
}

fn files(fs: &MemoryFs, folder: &str) -> Vec<PathBuf> {
    let dir = Path::new(DIR).join(folder);
    fs.list(&dir).expect("is there").into_iter().map(|entry| dir.join(entry.name)).collect()
}

/// All regions of all files: together they are every byte.
pub fn regions(fs: &MemoryFs) -> Vec<Region> {
    let (number, state) = manifest::read(fs, &Path::new(DIR).join("manifest"))
        .expect("the manifest holds")
        .expect("there is one");
    let mut all = logs(fs, state.log_promise());
    let live: BTreeSet<FileNo> =
        state.slots.values().flat_map(|slot| &slot.runs).map(|run| run.file).collect();
    for path in files(fs, "data") {
        all.extend(pack(fs, &path, &live));
    }
    for path in files(fs, "manifest") {
        all.extend(manifest_file(fs, &path, number));
    }
    let folders = ["log", "data", "manifest"];
    let top = fs.list(Path::new(DIR)).expect("is there");
    assert!(top.iter().all(|entry| folders.contains(&entry.name.as_str())), "{top:?}");
    for path in folders.iter().flat_map(|folder| files(fs, folder)) {
        let mut at = 0;
        for region in all.iter().filter(|region| region.path == path) {
            assert_eq!(region.from, at, "{region:?} leaves a gap");
            at = region.to;
        }
        assert_eq!(at, bytes_of(fs, &path).len() as u64, "{}: all bytes are of some kind", path.display());
    }
    all.retain(|region| region.from < region.to);
    all
}

/// Cuts a file into regions, one after another.
struct Cutter<'a> {
    path: &'a Path,
    at: usize,
    regions: Vec<Region>,
}

impl Cutter<'_> {
    fn cut(&mut self, bytes: usize, kind: &'static str) -> &mut Region {
        self.cut_to(self.at + bytes, kind)
    }

    fn cut_to(&mut self, to: usize, kind: &'static str) -> &mut Region {
        let (from, to) = (self.at as u64, to as u64);
        self.at = usize::try_from(to).expect("small");
        let path = self.path.to_owned();
        self.regions.push(Region {
            path,
            from,
            to,
            kind,
            holds: Vec::new(),
            about: Vec::new(),
            promised: true,
        });
        self.regions.last_mut().expect("pushed just now")
    }
}

/// The log's files, oldest first.
#[derive(Default)]
struct Logs {
    regions: Vec<Region>,
    /// The regions of a logical frame that goes on, and its body so far.
    parts: (Vec<usize>, Vec<u8>),
    /// Everything before this was synced, by the word of some frame or of the manifest.
    promised: Lsn,
    /// Which regions belong to the frame at a position.
    frames: Vec<(usize, Lsn)>,
}

fn logs(fs: &MemoryFs, promised: Lsn) -> Vec<Region> {
    let mut logs = Logs { promised, ..Logs::default() };
    for path in files(fs, "log") {
        logs.segment(&path, &bytes_of(fs, &path));
    }
    for (index, lsn) in logs.frames {
        logs.regions[index].promised = lsn < logs.promised;
    }
    logs.regions
}

impl Logs {
    fn segment(&mut self, path: &Path, bytes: &[u8]) {
        let mut cutter = Cutter { path, at: 0, regions: Vec::new() };
        if path.extension().is_some_and(|extension| extension == "tmp") {
            cutter.cut_to(bytes.len(), "log spare");
            self.regions.append(&mut cutter.regions);
            return;
        }
        let header = SegmentHeader::decode(bytes).expect("the header holds");
        cutter.cut(segment::HEADER_BYTES, "log segment header");
        let mut sealed = false;
        while let Parsed::Frame(frame) =
            frame::parse(bytes, cutter.at, header.base.advance(cutter.at as u64), header.salt())
        {
            sealed |= frame.header.has(frame::SEAL);
            let first = cutter.regions.len();
            cut_frame(&mut cutter, bytes, &frame);
            let numbers = self.regions.len() + first..self.regions.len() + cutter.regions.len();
            self.promised = self.promised.max(frame.header.synced);
            self.frames.extend(numbers.clone().map(|number| (number, frame.header.lsn)));
            if !frame.header.has(frame::SEAL) {
                self.regions.append(&mut cutter.regions);
                self.parts.0.extend(numbers);
                self.parts.1.extend_from_slice(&bytes[frame.body.clone()]);
                if !frame.header.has(frame::MORE) {
                    self.note_records();
                }
            }
        }
        let end = bytes.len() - segment::TRAILER_BYTES;
        let used = bytes[cutter.at..end].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if used > 0 {
            self.frames.push((self.regions.len() + cutter.regions.len(), Lsn(u64::MAX)));
            cutter.cut(used, "log torn");
        }
        let kinds = match sealed {
            true => ["log blank, sealed", "log trailer"],
            false => ["log blank", "log trailer, blank"],
        };
        cutter.cut_to(end, kinds[0]);
        cutter.cut_to(bytes.len(), kinds[1]);
        self.regions.append(&mut cutter.regions);
    }

    /// Notes for the parts of a logical frame which records it holds.
    fn note_records(&mut self) {
        let (numbers, body) = std::mem::take(&mut self.parts);
        let held = records(&body).map(|record| record.expect("holds"));
        let held = held.filter(|record| record.body.is_history()).map(|record| {
            let header = record.header;
            (header.slot, header.seq, header.seq)
        });
        let held: Vec<Span> = held.collect();
        numbers.into_iter().for_each(|number| self.regions[number].holds.clone_from(&held));
    }
}

fn cut_frame(cutter: &mut Cutter<'_>, bytes: &[u8], frame: &Frame) {
    let kinds = match frame.header.flags {
        0 => ["log frame header", "", "log frame padding"],
        flags if flags & frame::SEAL != 0 => ["log seal header", "log slot index", "log seal padding"],
        flags if flags & frame::CLEAN_STOP != 0 => ["log clean stop", "", ""],
        _ => ["log part header", "log part body", "log part padding"],
    };
    cutter.cut(frame::HEADER_BYTES, kinds[0]);
    if frame.header.flags == 0 {
        for record in records(&bytes[frame.body.clone()]) {
            let len = record.expect("holds").bytes.len();
            cutter.cut(record::HEADER_BYTES, "log record header");
            cutter.cut(len - record::HEADER_BYTES, "log record body");
        }
    } else {
        cutter.cut_to(frame.body.end, kinds[1]);
    }
    cutter.cut_to(frame.end, kinds[2]);
}

fn le(bytes: &[u8], at: usize, len: usize) -> usize {
    let mut raw = [0; 8];
    raw[..len].copy_from_slice(&bytes[at..at + len]);
    usize::try_from(u64::from_le_bytes(raw)).expect("small")
}

fn manifest_file(fs: &MemoryFs, path: &Path, current: u64) -> Vec<Region> {
    let bytes = bytes_of(fs, path);
    let mut cutter = Cutter { path, at: 0, regions: Vec::new() };
    let name = path.file_name().and_then(|name| name.to_str()).expect("has a name");
    if name == "CURRENT" {
        cutter.cut_to(bytes.len(), "manifest CURRENT");
    } else if name != format!("{current:06}") {
        cutter.cut_to(bytes.len(), "manifest leftover").promised = false;
    } else {
        let is_frame = |at: usize| bytes.get(at + 18..at + 24) == Some(b"HPMANI");
        while is_frame(cutter.at) {
            let body = le(&bytes, cutter.at + 4, 4);
            let kinds = match (cutter.at, body) {
                (0, _) => ["manifest state header", "manifest state"],
                (_, 0) => ["manifest confirmation", ""],
                _ => ["manifest edits header", "manifest edits"],
            };
            let about = slots_of(&bytes[cutter.at + 32..cutter.at + 32 + body]);
            cutter.cut(32, kinds[0]).about.clone_from(&about);
            cutter.cut(body, kinds[1]).about = about;
        }
        // The last frame has nothing after it that says it was synced.
        cutter.regions.iter_mut().rev().take(2).for_each(|region| region.promised = false);
        cutter.cut_to(bytes.len(), "manifest torn").promised = false;
    }
    cutter.regions
}

/// The slots that edits are about.
fn slots_of(mut edits: &[u8]) -> Vec<Slot> {
    let mut slots = BTreeSet::new();
    while !edits.is_empty() {
        match manifest::take_edit(&mut edits).expect("an edit that holds") {
            Edit::Slot(slot, _) | Edit::Runs { slot, .. } | Edit::Incoming(slot, _) => {
                _ = slots.insert(slot);
            }
            _ => {}
        }
    }
    slots.into_iter().collect()
}

fn pack(fs: &MemoryFs, path: &Path, live: &BTreeSet<FileNo>) -> Vec<Region> {
    let bytes = bytes_of(fs, path);
    let mut cutter = Cutter { path, at: 0, regions: Vec::new() };
    let (number, _, runs) = read_directory(fs, path).expect("the pack holds");
    if !live.contains(&number) {
        cutter.cut_to(bytes.len(), "pack leftover").promised = false;
        return cutter.regions;
    }
    for run in &runs {
        let first = cutter.regions.len();
        cut_run(&mut cutter, &bytes, run);
        let span = (run.props.slot, run.props.min_seq, run.props.max_seq);
        cutter.regions[first..].iter_mut().for_each(|region| region.holds = vec![span]);
    }
    cutter.cut(22 * runs.len(), "pack directory");
    cutter.cut_to(bytes.len(), "pack footer");
    cutter.regions
}

fn cut_run(cutter: &mut Cutter<'_>, bytes: &[u8], run: &RunMeta) {
    let start = usize::try_from(run.offset).expect("small");
    assert_eq!(start, cutter.at, "runs lie one after another");
    let end = start + usize::try_from(run.len).expect("small");
    let footer = end - 52;
    let [filter, index, properties] = [0, 8, 16].map(|at| start + le(bytes, footer + at, 8));
    let mut entries = &bytes[index..properties - 4];
    let count = varint::take(&mut entries).expect("an index begins with a count");
    let mut at = start;
    let mut blocks: Vec<usize> = (0..count)
        .map(|_| {
            at += usize::try_from(varint::take(&mut entries).expect("an offset")).expect("small");
            varint::take_slice(&mut entries).expect("a separator");
            at
        })
        .collect();
    blocks.push(filter);
    for block in blocks.windows(2) {
        let kind = if bytes[block[1] - 9] == 0 { "pack block, raw" } else { "pack block, LZ4" };
        cutter.cut_to(block[1] - 9, kind);
        cutter.cut(9, "pack block trailer");
    }
    cutter.cut_to(index, "pack filter");
    cutter.cut_to(properties, "pack index");
    cutter.cut_to(footer, "pack properties");
    cutter.cut_to(end, "pack run footer");
}
