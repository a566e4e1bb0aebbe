//! The log: records and their operations, frames, slot indexes, segments and how they end.

use std::path::PathBuf;

use haypile_engine::clock::TimeMs;
use haypile_engine::fs::OpenMode;
use haypile_engine::key::Generation;
use haypile_engine::log::frame::{self, FrameHeader, Parsed, Salt};
use haypile_engine::log::index::{GrowingIndex, SlotIndex};
use haypile_engine::log::inspect::{self, Item};
use haypile_engine::log::record::{self, Body, Header, Op, Record};
use haypile_engine::log::segment::{
    HEADER_BYTES, SEAL_ROOM_BYTES, SEGMENT_BYTES_MIN, Segment, SegmentHeader, TRAILER_BYTES,
};
use haypile_engine::types::{Lsn, Seq};

use super::{EPOCH, NODE, disk, is_about_bytes, le32_at, slot};

const FRAME_LSN: Lsn = Lsn(4096);
const FRAME_SALT: Salt = Salt(7);

fn batch() -> Vec<u8> {
    let all = [
        Op::Put { key: b"key", value: b"\0value", existed: false },
        Op::Put { key: b"", value: &[1; 300], existed: true },
        Op::Delete { key: b"gone" },
        Op::PutElement { key: b"set", generation: Generation(300), sub: b"member", value: b"" },
        Op::DeleteElement { key: b"set", generation: Generation(300), sub: b"other" },
        Op::Clear,
    ];
    let mut out = Vec::new();
    all.iter().for_each(|op| record::put_op(&mut out, op));
    out
}

pub(super) fn batches() -> Vec<Vec<u8>> {
    vec![batch()]
}

pub(super) fn records() -> Vec<Vec<u8>> {
    let batch = batch();
    let bodies = [
        Body::Batch(&batch),
        Body::EpochStart { epoch: EPOCH, by: NODE },
        Body::Grant { to: NODE, time: TimeMs(1_700_000_000_000), address: "127.0.0.1:9221" },
        Body::Time(TimeMs(1_700_000_000_001)),
    ];
    let mut out: Vec<Vec<u8>> = Vec::new();
    for (seq, body) in (1..).zip(&bodies) {
        let mut record = Vec::new();
        record::encode(&mut record, Header { slot: slot(1023), term: EPOCH.term, seq: Seq(seq) }, body);
        out.push(record);
    }
    out.push(out.concat());
    out
}

pub(super) fn record(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(record) = Record::take(&mut rest) {
        // A seq of 0 is never written; it is refused where seqs are checked.
        if record.header.seq.0 > 0 {
            let mut again = Vec::new();
            record::encode(&mut again, record.header, &record.body);
            assert_eq!(again, record.bytes, "a record that was read is written otherwise");
        }
        if let Body::Batch(batch) = record.body {
            operations(batch);
        }
    }
}

pub(super) fn repair_records(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(len) = le32_at(bytes, at + 4) {
        let Some(end) = at.checked_add(record::HEADER_BYTES + len).filter(|end| *end <= bytes.len()) else {
            return;
        };
        let crc = crc32fast::hash(&bytes[at + 4..end]);
        bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        at = end;
    }
}

pub(super) fn operations(bytes: &[u8]) {
    let read: Result<Vec<Op<'_>>, _> = record::ops(bytes).collect();
    let Ok(read) = read else { return };
    let mut again = Vec::new();
    read.iter().for_each(|op| record::put_op(&mut again, op));
    assert_eq!(again, bytes, "operations that were read are written otherwise");
}

/// A frame around a body.
fn framed(body: &[u8], flags: u16, lsn: Lsn, salt: Salt) -> Vec<u8> {
    let mut out = vec![0; frame::HEADER_BYTES];
    out.extend_from_slice(body);
    frame::seal_up(&mut out, &FrameHeader { flags, incarnation: 2, lsn, synced: Lsn::ZERO }, salt);
    out
}

pub(super) fn frames() -> Vec<Vec<u8>> {
    let body = records().concat();
    vec![framed(&body, 0, FRAME_LSN, FRAME_SALT), framed(b"", frame::CLEAN_STOP, FRAME_LSN, FRAME_SALT)]
}

pub(super) fn frame(bytes: &[u8]) {
    match frame::parse(bytes, 0, FRAME_LSN, FRAME_SALT) {
        Parsed::Frame(found) => {
            assert!(found.body.end <= found.end && found.end <= bytes.len());
            assert_eq!(frame::claimed_len(bytes, FRAME_LSN), Some(found.end));
            assert!(found.header.synced <= found.header.lsn);
            let mut again = bytes[..found.body.end].to_vec();
            frame::seal_up(&mut again, &found.header, FRAME_SALT);
            // The padding is zeros when it is written, and whatever the checksum covers when it is read.
            if bytes[found.body.end..found.end].iter().all(|byte| *byte == 0) {
                assert_eq!(again, bytes[..found.end], "a frame that was read is written otherwise");
            }
        }
        Parsed::Blank => assert!(bytes.iter().take(frame::HEADER_BYTES).all(|byte| *byte == 0)),
        Parsed::Bad(_) => {}
    }
}

pub(super) fn repair_frame(bytes: &mut [u8]) {
    let Some(len) = frame::claimed_len(bytes, FRAME_LSN).filter(|len| *len <= bytes.len()) else { return };
    seal(&mut bytes[..len], FRAME_SALT);
}

/// Gives a frame the checksum that belongs to it.
fn seal(frame: &mut [u8], salt: Salt) {
    let crc = salted(&frame[4..], salt);
    frame[..4].copy_from_slice(&crc.to_le_bytes());
}

fn salted(bytes: &[u8], salt: Salt) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt.0);
    hasher.update(bytes);
    hasher.finalize()
}

fn slot_index_bytes() -> Vec<u8> {
    let mut growing = GrowingIndex::default();
    for (number, seq, offset) in [(0, 1, 64), (0, 2, 200), (5, 77, 64), (1023, 9, 264)] {
        growing.add(slot(number), Seq(seq), offset);
    }
    let mut out = Vec::new();
    growing.snapshot().encode(&mut out);
    out
}

pub(super) fn slot_indexes() -> Vec<Vec<u8>> {
    vec![slot_index_bytes(), Vec::new()]
}

pub(super) fn slot_index(bytes: &[u8]) {
    if let Some(index) = SlotIndex::decode(bytes) {
        let mut again = Vec::new();
        index.encode(&mut again);
        assert_eq!(again, bytes);
        for (slot, span) in index.iter() {
            assert!(span.first <= span.last && span.first_offset <= span.last_offset);
            assert_eq!(index.get(slot), Some(span));
        }
    }
}

const HEADER: SegmentHeader =
    SegmentHeader { node: NODE, number: 0, base: Lsn::ZERO, bytes: SEGMENT_BYTES_MIN };

fn segment_path() -> PathBuf {
    PathBuf::from("/log/0000000000000000.log")
}

#[allow(clippy::cast_possible_truncation)] // 64 KiB
const fn segment_bytes() -> usize {
    SEGMENT_BYTES_MIN as usize
}

/// Where the seal of an input stands: as late as it may.
const SEAL_AT: usize = segment_bytes() - SEAL_ROOM_BYTES;

/// An input is a seal, then the trailer: what lies between them in the file are zeros.
pub(super) fn footers() -> Vec<Vec<u8>> {
    let index = slot_index_bytes();
    let seal = |flags, index: &[u8]| framed(index, flags, Lsn(SEAL_AT as u64), HEADER.salt());
    let trailer = HEADER.trailer(SEAL_AT as u64);
    [seal(frame::SEAL, &index), seal(frame::SEAL, b""), seal(0, &index)]
        .map(|seal| [&seal[..], &trailer].concat())
        .to_vec()
}

pub(super) fn footer(bytes: &[u8]) {
    let Some((seal, trailer)) = bytes.split_last_chunk::<TRAILER_BYTES>() else { return };
    let mut whole = HEADER.encode().to_vec();
    whole.resize(SEAL_AT, 0);
    whole.extend_from_slice(&seal[..seal.len().min(SEAL_ROOM_BYTES - TRAILER_BYTES)]);
    whole.resize(segment_bytes() - TRAILER_BYTES, 0);
    whole.extend_from_slice(trailer);
    let path = segment_path();
    let segment = Segment::open_any(&disk(&path, &whole), &path, OpenMode::Read).expect("its header holds");
    let Some(index) = segment.read_index().expect("a disk in memory is read") else { return };
    let offset = HEADER.seal_offset(trailer).expect("an index was found by its trailer");
    assert_eq!(HEADER.trailer(offset), *trailer, "a trailer that was read is written otherwise");
    let mut body = Vec::new();
    index.encode(&mut body);
    let at = usize::try_from(offset).expect("within 64 KiB") + frame::HEADER_BYTES;
    assert_eq!(whole[at..at + body.len()], body, "an index that was read is written otherwise");
}

pub(super) fn repair_footer(bytes: &mut [u8]) {
    let Some((seal_bytes, trailer)) = bytes.split_last_chunk_mut::<TRAILER_BYTES>() else { return };
    let crc = salted(&trailer[4..], HEADER.salt());
    trailer[..4].copy_from_slice(&crc.to_le_bytes());
    let lsn = Lsn(SEAL_AT as u64);
    if let Some(len) = frame::claimed_len(seal_bytes, lsn).filter(|len| *len <= seal_bytes.len()) {
        seal(&mut seal_bytes[..len], HEADER.salt());
    }
}

pub(super) fn segments() -> Vec<Vec<u8>> {
    let mut out = HEADER.encode().to_vec();
    let records = records();
    let all = records.last().expect("the last is all of them");
    let bodies: Vec<(&[u8], u16)> = vec![
        (&records[0], 0),
        (&all[..30], frame::MORE),
        (&all[30..], frame::CONTINUED),
        (b"", frame::CLEAN_STOP),
    ];
    for (body, flags) in bodies {
        let lsn = Lsn(out.len() as u64);
        out.extend_from_slice(&framed(body, flags, lsn, HEADER.salt()));
    }
    let seal = framed(&slot_index_bytes(), frame::SEAL, Lsn(out.len() as u64), HEADER.salt());
    let sealed = [&out[..], &seal].concat();
    vec![out, sealed]
}

/// An input is the used part of a segment: zeros follow up to its size, as in the file.
pub(super) fn segment(bytes: &[u8]) {
    let path = segment_path();
    let mut whole = bytes.to_vec();
    whole.resize(bytes.len().max(segment_bytes()), 0);
    let mut end = HEADER_BYTES as u64;
    if let Err(error) = inspect::walk(&disk(&path, &whole), &path, &mut |item| follow(&mut end, &item)) {
        is_about_bytes(&error);
    }
    assert!(end <= whole.len() as u64, "the walk ends beyond the file");
}

/// What a walk shows covers the file from its header to the log's end, each byte once.
fn follow(end: &mut u64, item: &Item<'_>) {
    let (offset, bytes) = match item {
        Item::Frame { offset, body_bytes, .. } => {
            (*offset, frame::align(frame::HEADER_BYTES + body_bytes) as u64)
        }
        Item::Hole(hole) => (hole.offset, hole.bytes),
        Item::Record(_) | Item::BadRecord { .. } | Item::Seal { .. } | Item::End { .. } => return,
    };
    assert_eq!(offset, *end, "{item:?} does not begin where what was before it ends");
    *end = offset + bytes;
}

pub(super) fn repair_segment(bytes: &mut [u8]) {
    if bytes.len() < HEADER_BYTES {
        return;
    }
    let size = bytes.len().max(segment_bytes()) as u64;
    bytes[48..56].copy_from_slice(&size.to_le_bytes());
    let crc = crc32fast::hash(&bytes[4..HEADER_BYTES]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    let salt = Salt(crc32fast::hash(&bytes[12..48]));
    let base = bytes[40..48].first_chunk().map_or(0, |raw| u64::from_le_bytes(*raw));
    let mut at = HEADER_BYTES;
    while at < bytes.len() {
        let lsn = Lsn(base.wrapping_add(at as u64));
        let Some(len) = frame::claimed_len(&bytes[at..], lsn) else { return };
        let Some(frame) = bytes.get_mut(at..at + len) else { return };
        seal(frame, salt);
        at += len;
    }
}
