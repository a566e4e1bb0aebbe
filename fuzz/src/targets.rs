//! The targets. Each asserts what its decoder promises beside not panicking.

use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use haypile_engine::error::Error;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::fs::{Fs, OpenMode};
use haypile_engine::key;
use haypile_engine::log::frame::{self, Parsed, Salt};
use haypile_engine::log::index::SlotIndex;
use haypile_engine::log::inspect;
use haypile_engine::log::record::{self, Body, Op, Record};
use haypile_engine::log::segment::SEGMENT_BYTES_MIN;
use haypile_engine::manifest;
use haypile_engine::sst::{Packs, Scan, read_directory};
use haypile_engine::types::Lsn;
use haypile_engine::value::Value;
use haypile_replication::message::{FRAME_HEADER_BYTES, Message};
use haypile_server::config::Settings;
use haypile_server::resp::{Limits, Parser, split_words};
use haypile_server::slot_group;

use crate::{Target, samples};

pub(crate) const ALL: &[Target] = &[
    Target { name: "record", run: record, repair: repair_records, samples: samples::records },
    Target { name: "operations", run: operations, repair: nothing, samples: samples::operations },
    Target { name: "frame", run: frame, repair: repair_frame, samples: samples::frames },
    Target { name: "slot-index", run: slot_index, repair: nothing, samples: samples::slot_indexes },
    Target { name: "segment", run: segment, repair: repair_segment, samples: samples::segments },
    Target { name: "manifest", run: manifest, repair: repair_manifest, samples: samples::manifests },
    Target { name: "pack", run: pack, repair: repair_pack, samples: samples::packs },
    Target { name: "entry-key", run: entry_key, repair: nothing, samples: samples::entry_keys },
    Target { name: "value", run: value, repair: nothing, samples: samples::values },
    Target { name: "message", run: message, repair: repair_messages, samples: samples::messages },
    Target { name: "request", run: request, repair: nothing, samples: samples::requests },
    Target { name: "words", run: words, repair: nothing, samples: samples::words },
    Target { name: "config", run: config, repair: nothing, samples: samples::configs },
    Target { name: "slot-group", run: group, repair: nothing, samples: samples::groups },
];

fn nothing(_: &mut [u8]) {}

fn le32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let raw = bytes.get(at..)?.first_chunk::<4>()?;
    usize::try_from(u32::from_le_bytes(*raw)).ok()
}

fn record(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(record) = Record::take(&mut rest) {
        if let Body::Batch(batch) = record.body {
            let mut again = Vec::new();
            // A seq of 0 is never written; it is refused where seqs are checked.
            if record.header.seq.0 > 0 {
                record::encode(&mut again, record.header, &record.body);
                assert_eq!(again, record.bytes, "a record that was read is written otherwise");
            }
            operations(batch);
        }
    }
}

fn repair_records(bytes: &mut [u8]) {
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

fn operations(bytes: &[u8]) {
    let read: Result<Vec<Op<'_>>, _> = record::ops(bytes).collect();
    let Ok(read) = read else { return };
    let mut again = Vec::new();
    read.iter().for_each(|op| record::put_op(&mut again, op));
    let second: Vec<Op<'_>> =
        record::ops(&again).collect::<Result<_, _>>().expect("what was written is read");
    assert_eq!(read, second);
}

const FRAME_LSN: Lsn = Lsn(4096);
const FRAME_SALT: Salt = Salt(7);

fn frame(bytes: &[u8]) {
    if let Parsed::Frame(found) = frame::parse(bytes, 0, FRAME_LSN, FRAME_SALT) {
        assert!(found.body.end <= bytes.len() && found.end <= bytes.len());
        assert!(found.header.synced <= found.header.lsn && found.header.lsn == FRAME_LSN);
        assert!(frame::claimed_len(bytes, FRAME_LSN).is_some_and(|len| len == found.end));
    }
}

fn repair_frame(bytes: &mut [u8]) {
    let Some(len) = frame::claimed_len(bytes, FRAME_LSN).filter(|len| *len <= bytes.len()) else { return };
    seal(&mut bytes[..len], FRAME_SALT);
}

/// Gives a frame the checksum that belongs to it.
fn seal(frame: &mut [u8], salt: Salt) {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt.0);
    hasher.update(&frame[4..]);
    let crc = hasher.finalize();
    frame[..4].copy_from_slice(&crc.to_le_bytes());
}

fn slot_index(bytes: &[u8]) {
    if let Some(index) = SlotIndex::decode(bytes) {
        let mut again = Vec::new();
        index.encode(&mut again);
        assert_eq!(again, bytes);
    }
}

/// A file system with one file.
fn disk(path: &Path, bytes: &[u8]) -> MemoryFs {
    let fs = MemoryFs::new();
    let make = || {
        fs.create_dir_all(path.parent().expect("a file lies in a folder"))?;
        fs.open(path, OpenMode::CreateNew)?.write_at(bytes, 0)
    };
    make().expect("a disk in memory takes a file");
    fs
}

/// A decoder of files says what is wrong with the bytes; the operating system has nothing to say here.
fn is_about_bytes(error: &Error) {
    assert!(matches!(error, Error::Corrupt { .. } | Error::Unusable { .. }), "{error}");
}

/// An input is the used part of a segment: zeros follow up to its size, as in the file.
fn segment(bytes: &[u8]) {
    let path = Path::new("/log/0000000000000000.log");
    let mut whole = bytes.to_vec();
    whole.resize(bytes.len().max(segment_bytes()), 0);
    let mut items = 0;
    if let Err(error) = inspect::walk(&disk(path, &whole), path, &mut |_| items += 1) {
        is_about_bytes(&error);
    }
    assert!(items <= whole.len() + 2, "more is found than there are bytes");
}

fn segment_bytes() -> usize {
    usize::try_from(SEGMENT_BYTES_MIN).expect("64 KiB")
}

fn repair_segment(bytes: &mut [u8]) {
    const HEADER: usize = 64;
    if bytes.len() < HEADER {
        return;
    }
    let size = bytes.len().max(segment_bytes()) as u64;
    bytes[48..56].copy_from_slice(&size.to_le_bytes());
    let crc = crc32fast::hash(&bytes[4..HEADER]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    let salt = Salt(crc32fast::hash(&bytes[12..48]));
    let base = bytes[40..48].first_chunk().map_or(0, |raw| u64::from_le_bytes(*raw));
    let mut at = HEADER;
    while at < bytes.len() {
        let lsn = Lsn(base.wrapping_add(at as u64));
        let Some(len) = frame::claimed_len(&bytes[at..], lsn) else { return };
        let Some(frame) = bytes.get_mut(at..at + len) else { return };
        seal(frame, salt);
        at += len;
    }
}

fn manifest(bytes: &[u8]) {
    let path = Path::new("/manifest/000001");
    let fs = disk(path, bytes);
    let current = format!("000001 {:08x}\n", crc32fast::hash(b"000001"));
    let write = fs
        .open(Path::new("/manifest/CURRENT"), OpenMode::CreateNew)
        .and_then(|file| file.write_at(current.as_bytes(), 0));
    write.expect("a disk in memory takes a file");
    match manifest::read(&fs, Path::new("/manifest")) {
        Ok(state) => assert!(state.is_some()),
        Err(error) => is_about_bytes(&error),
    }
}

fn repair_manifest(bytes: &mut [u8]) {
    const HEADER: usize = 24;
    let mut at = 0;
    while let Some(len) = le32_at(bytes, at + 4) {
        let Some(frame) = bytes.get_mut(at..at.saturating_add(HEADER + len)) else { return };
        frame[8..16].copy_from_slice(&(at as u64).to_le_bytes());
        let crc = crc32fast::hash(&frame[4..]);
        frame[..4].copy_from_slice(&crc.to_le_bytes());
        at += HEADER + len;
    }
}

fn pack(bytes: &[u8]) {
    let path = Path::new("/data/000001.pack");
    let fs = Arc::new(disk(path, bytes));
    let metas = match read_directory(&*fs, path) {
        Ok((_, _, metas)) => metas,
        Err(error) => return is_about_bytes(&error),
    };
    let packs = Packs::new(fs, Path::new("/data"));
    for meta in &metas {
        let scanned = packs.open_run(meta).and_then(|run| {
            let mut entries = 0_u64;
            let mut scan = Scan::new(Arc::clone(&run))?;
            while scan.current().is_some() {
                entries += 1;
                assert!(entries <= bytes.len() as u64, "more entries than bytes");
                scan.advance()?;
            }
            run.verify()
        });
        if let Err(error) = scanned {
            assert!(!matches!(error, Error::Poisoned(_)), "{error}");
        }
    }
}

fn repair_pack(bytes: &mut [u8]) {
    const FOOTER: usize = 56;
    let Some(at) = bytes.len().checked_sub(FOOTER) else { return };
    let directory = bytes[at..].first_chunk().map_or(0, |raw| u64::from_le_bytes(*raw));
    if let Some(directory) = usize::try_from(directory).ok().and_then(|start| bytes.get(start..at)) {
        let crc = crc32fast::hash(directory);
        bytes[at + 12..at + 16].copy_from_slice(&crc.to_le_bytes());
    }
    let crc = crc32fast::hash(&bytes[at..at + 52]);
    bytes[at + 52..].copy_from_slice(&crc.to_le_bytes());
}

fn entry_key(bytes: &[u8]) {
    let Some(parts) = key::split(bytes) else { return };
    assert!(parts.prefix.len() <= bytes.len() && bytes.starts_with(parts.prefix));
    assert!(
        parts.after_elements()[..] > *bytes || parts.element.is_some_and(|(life, _)| life.0 >> 56 == 0xff)
    );
    let again = match parts.element {
        None => key::entry_key(parts.key),
        Some((generation, sub)) => key::element_key(parts.key, generation, sub),
    };
    assert_eq!(key::split(&again).map(|parts| (parts.key, parts.element)), Some((parts.key, parts.element)));
}

fn value(bytes: &[u8]) {
    if let Some(value) = Value::decode(&Bytes::copy_from_slice(bytes)) {
        let mut again = Vec::new();
        value.encode(&mut again);
        assert_eq!(again, bytes);
    }
}

fn message(bytes: &[u8]) {
    let mut buffer = BytesMut::from(bytes);
    while let Ok(Some(message)) = Message::take(&mut buffer) {
        let mut again = BytesMut::new();
        message.encode(&mut again);
        assert_eq!(Message::take(&mut again).ok().flatten().as_ref(), Some(&message));
    }
    assert!(buffer.capacity() <= bytes.len() + (16 << 20), "memory grows with what is announced");
}

fn repair_messages(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(len) = le32_at(bytes, at) {
        let Some(frame) = bytes.get_mut(at..at.saturating_add(FRAME_HEADER_BYTES + len)) else { return };
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&frame[4..5]);
        hasher.update(&frame[FRAME_HEADER_BYTES..]);
        let crc = hasher.finalize();
        frame[5..9].copy_from_slice(&crc.to_le_bytes());
        at += FRAME_HEADER_BYTES + len;
    }
}

/// What a parser makes of bytes that come in pieces of `step`.
fn requests(bytes: &[u8], step: usize, limits: &Limits) -> (Vec<Vec<Bytes>>, Option<String>) {
    let mut parser = Parser::default();
    let mut buffer = BytesMut::new();
    let mut found = Vec::new();
    let mut args = Vec::new();
    for piece in bytes.chunks(step.max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            match parser.next(&mut buffer, limits, &mut args) {
                Ok(true) => found.push(args.clone()),
                Ok(false) => break,
                Err(error) => return (found, Some(error.to_string())),
            }
        }
    }
    (found, None)
}

fn request(bytes: &[u8]) {
    for authenticated in [true, false] {
        let limits = Limits { authenticated, ..Limits::default() };
        let whole = requests(bytes, bytes.len(), &limits);
        for step in [1, 7] {
            assert_eq!(
                requests(bytes, step, &limits),
                whole,
                "the pieces in which bytes come make a difference"
            );
        }
    }
}

fn words(bytes: &[u8]) {
    if let Some(words) = split_words(bytes) {
        let length: usize = words.iter().map(Vec::len).sum();
        assert!(length <= bytes.len());
    }
}

fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut settings = Settings::default();
    if let Err(why) = settings.read_file("node.conf", &text) {
        assert!(why.contains("node.conf"), "an error names its file: {why}");
    }
}

fn group(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(slots) = slot_group::parse(&text) {
        assert!(slots.is_sorted_by(|a, b| a < b));
        let shown = slot_group::show(&slots);
        assert_eq!(slot_group::parse(&shown).ok(), Some(slots));
    }
}
