//! The targets, by layer. Each asserts what its decoder promises beside not panicking.

mod commands;
mod engine;
mod entries;
mod log;
mod manifest;
mod redis;
mod sst;
mod text;
mod wire;

use std::path::Path;

use haypile_engine::error::Error;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::fs::{Fs, OpenMode};
use haypile_engine::history::{EpochStart, History};
use haypile_engine::types::{Epoch, NodeId, Seq, Slot};

use crate::Target;

pub(crate) const ALL: &[Target] = &[
    Target::new("record", log::record, log::records).repaired(log::repair_records),
    Target::new("operations", log::operations, log::batches),
    Target::new("frame", log::frame, log::frames).repaired(log::repair_frame),
    Target::new("slot_index", log::slot_index, log::slot_indexes),
    Target::new("segment_footer", log::footer, log::footers).repaired(log::repair_footer).memory(1 << 20, 64),
    Target::new("segment", log::segment, log::segments).repaired(log::repair_segment).memory(4 << 20, 64),
    Target::new("manifest", manifest::file, manifest::files)
        .repaired(manifest::repair_file)
        .memory(1 << 20, 128),
    Target::new("edit", manifest::edit, manifest::edits),
    // LZ4 expands by 255, and an entry of 4 bytes takes another 32 while a block is decoded.
    Target::new("block", sst::block, sst::blocks).repaired(sst::repair_block).memory(1 << 16, 16 * 256),
    Target::new("index", sst::index, sst::indexes),
    // It makes filters for up to 255 times as many keys as the input has, to fold them.
    Target::new("filter", sst::filter, sst::filters).memory(1 << 17, 256),
    Target::new("run_meta", sst::run_meta, sst::run_metas),
    Target::new("pack_directory", sst::directory, sst::directories).memory(1 << 20, 64),
    Target::new("pack", sst::pack, sst::packs).repaired(sst::repair_pack).memory(4 << 20, 16 * 256),
    Target::new("entry_key", entries::entry_key, entries::entry_keys),
    Target::new("value", entries::value, entries::values),
    // A frame announces its payload, at most 8 MiB.
    Target::new("message", wire::message, wire::messages)
        .repaired(wire::repair_messages)
        .memory(20 << 20, 64),
    Target::new("request", wire::request, wire::requests).memory(1 << 18, 256),
    Target::new("engine", engine::engine, engine::samples).memory(256 << 20, 1 << 16),
    Target::new("commands", commands::commands, commands::samples).memory(64 << 20, 1 << 16),
    // LZF expands by 88, and a packed item of 2 bytes takes another 32, as does a list in its list of parts.
    Target::new("payload", redis::payload, redis::payloads)
        .repaired(redis::repair_payload)
        .memory(1 << 18, 1 << 14),
    Target::new("words", wire::words, wire::lines),
    Target::new("config", text::config, text::configs).memory(1 << 18, 256),
    Target::new("slot_group", text::slot_group, text::slot_groups).memory(1 << 18, 64),
];

const NODE: NodeId = NodeId([7; 20]);
const EPOCH: Epoch = Epoch { term: 3, tag: 0x1234_5678_9abc_def0 };

fn slot(number: u16) -> Slot {
    Slot::new(number).expect("below 1024")
}

fn history() -> History {
    let start = |term, seq| EpochStart { epoch: Epoch { term, ..EPOCH }, first_seq: Seq(seq) };
    History::from_starts(vec![start(1, 1), start(3, 500)]).expect("ordered")
}

fn le32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let raw = bytes.get(at..)?.first_chunk::<4>()?;
    usize::try_from(u32::from_le_bytes(*raw)).ok()
}

fn le64_at(bytes: &[u8], at: usize) -> Option<usize> {
    let raw = bytes.get(at..)?.first_chunk::<8>()?;
    usize::try_from(u64::from_le_bytes(*raw)).ok()
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

/// A file's bytes.
fn contents(fs: &MemoryFs, path: &Path) -> Vec<u8> {
    let read = || {
        let file = fs.open(path, OpenMode::Read)?;
        let mut bytes = vec![0; usize::try_from(file.size()?).expect("fits into memory")];
        file.read_at(&mut bytes, 0)?;
        Ok::<_, std::io::Error>(bytes)
    };
    read().expect("the file was just written")
}

/// A decoder of files says what is wrong with the bytes; the operating system has nothing to say here.
fn is_about_bytes(error: &Error) {
    assert!(matches!(error, Error::Corrupt { .. } | Error::Unusable { .. }), "{error}");
}

fn texts(texts: &[&[u8]]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.to_vec()).collect()
}
