//! The manifest: its edits, and a whole file of them.

use std::path::Path;
use std::sync::Arc;

use haypile_engine::clock::TimeMs;
use haypile_engine::error::Error;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::fs::{Fs, OpenMode};
use haypile_engine::log::segment::SEGMENT_BYTES_MIN;
use haypile_engine::manifest::{
    self, Edit, Incoming, Manifest, NodeMeta, Part, PartId, SettledGrant, SlotMeta, SlotState, State,
    encode_edit, take_edit,
};
use haypile_engine::sst::FileNo;
use haypile_engine::types::{Lsn, Seq};

use super::{EPOCH, NODE, contents, disk, history, is_about_bytes, le32_at, slot, sst};

fn all_edits() -> Vec<Edit> {
    let states = [
        SlotState::Master,
        SlotState::Replica { upstream: "127.0.0.1:1".to_owned() },
        SlotState::Loading { upstream: "host:2".to_owned() },
        SlotState::Moved { to: "[::1]:3".to_owned() },
        SlotState::Absent,
    ];
    let mut edits: Vec<Edit> = Vec::new();
    for (number, state) in [1, 600, 3, 4, 5].into_iter().zip(states) {
        let settled = SettledGrant { ended: EPOCH, began: (number == 3).then_some(EPOCH) };
        let meta = SlotMeta {
            state,
            highest_term: 3,
            history: history(),
            superseded: vec![EPOCH],
            flushed_seq: Seq(90),
            flushed_keys: 12,
            time: TimeMs(1 << 41),
            granted: (number == 4).then(|| (NODE, "[::1]:3".to_owned())),
            settled: if number < 5 { vec![settled] } else { Vec::new() },
            ..SlotMeta::default()
        };
        edits.push(Edit::Slot(slot(number), Box::new(meta)));
    }
    edits.extend(sst::pack_bytes().1);
    let acked = vec![(slot(1), Some(Seq(80))), (slot(4), None)];
    edits.push(Edit::Registration { node: NODE, address: "127.0.0.1:9".to_owned(), acked });
    let of = PartId { file: FileNo(7), offset: 300, len: 1 << 20, crc: 9 };
    let parts = vec![Part { of, offset: 0, here: 4096, crc_here: 1 << 31 }];
    let incoming = Incoming { file: FileNo(301), source: NODE, parts };
    edits.push(Edit::Incoming(slot(3), Some(incoming)));
    edits
}

pub(super) fn edits() -> Vec<Vec<u8>> {
    let node = NodeMeta {
        node: NODE,
        incarnation: 2,
        clean_end: Some(Lsn(SEGMENT_BYTES_MIN)),
        log_start: Lsn(64),
        next_file: FileNo(300),
    };
    let gone = Edit::Runs { slot: slot(1), add: Vec::new(), remove: vec![(FileNo(1), 0), (FileNo(1), 300)] };
    let others = [Edit::Node(node), gone, Edit::ReplicaForgotten(NODE), Edit::LogSynced(Lsn(1 << 20))];
    let mut out: Vec<Vec<u8>> = Vec::new();
    for edit in all_edits().iter().chain(&others) {
        let mut bytes = Vec::new();
        encode_edit(edit, &mut bytes);
        out.push(bytes);
    }
    out.push(out.concat());
    out
}

pub(super) fn edit(bytes: &[u8]) {
    let mut rest = bytes;
    loop {
        let before = rest;
        let Ok(edit) = take_edit(&mut rest) else { return };
        let mut again = Vec::new();
        encode_edit(&edit, &mut again);
        assert_eq!(again, before[..before.len() - rest.len()], "an edit that was read is written otherwise");
    }
}

const FOLDER: &str = "/manifest";

pub(super) fn files() -> Vec<Vec<u8>> {
    let fs = MemoryFs::new();
    let write = || {
        let dir = Path::new(FOLDER);
        fs.create_dir_all(dir).map_err(|error| Error::io(dir, "create", &error))?;
        let mut manifest = Manifest::create(Arc::new(fs.clone()), dir, State::new(NODE))?;
        manifest.apply(&all_edits())?;
        manifest.apply(&[Edit::ReplicaForgotten(NODE)])
    };
    write().expect("a disk in memory takes a manifest");
    vec![contents(&fs, &Path::new(FOLDER).join("000001"))]
}

pub(super) fn file(bytes: &[u8]) {
    let dir = Path::new(FOLDER);
    let fs = disk(&dir.join("000001"), bytes);
    let current = format!("000001 {:08x}\n", crc32fast::hash(b"000001"));
    let write = fs
        .open(&dir.join("CURRENT"), OpenMode::CreateNew)
        .and_then(|file| file.write_at(current.as_bytes(), 0));
    write.expect("a disk in memory takes a file");
    let state = match manifest::read(&fs, dir) {
        Ok(state) => state.expect("CURRENT names a file").1,
        Err(error) => return is_about_bytes(&error),
    };
    // A start writes the whole state into a file of its own: that must say the same.
    let opened = Manifest::open(Arc::new(fs.clone()), dir).expect("what was read once is read again");
    assert_eq!(opened.expect("it is there").state(), &state);
    let again = manifest::read(&fs, dir).expect("what was just written is read");
    assert_eq!(again, Some((2, state)), "the state as it was written anew");
}

pub(super) fn repair_file(bytes: &mut [u8]) {
    const HEADER: usize = 32;
    let mut at = 0;
    while let Some(len) = le32_at(bytes, at + 4) {
        let Some(frame) = bytes.get_mut(at..at.saturating_add(HEADER + len)) else { return };
        frame[8..16].copy_from_slice(&(at as u64).to_le_bytes());
        let crc = crc32fast::hash(&frame[4..]);
        frame[..4].copy_from_slice(&crc.to_le_bytes());
        at += HEADER + len;
    }
}
