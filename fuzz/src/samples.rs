//! Inputs that our own encoders write: what the corpora begin with.

use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use haypile_engine::clock::TimeMs;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::fs::{Fs, OpenMode};
use haypile_engine::history::{EpochStart, History};
use haypile_engine::key::{Generation, element_key, entry_key};
use haypile_engine::log::frame::{self, FrameHeader, Salt};
use haypile_engine::log::index::GrowingIndex;
use haypile_engine::log::record::{Body, Header, Op, encode, put_op};
use haypile_engine::log::segment::{SEGMENT_BYTES_MIN, SegmentHeader};
use haypile_engine::manifest::{Edit, Manifest, SlotMeta, SlotState, State};
use haypile_engine::sst::{EntryRef, FileNo, PackWriter, RunOptions, pack_path};
use haypile_engine::types::{Epoch, Lsn, NodeId, Seq, Slot};
use haypile_engine::value::Value;
use haypile_replication::message::{
    AskState, Beat, CopyHead, CopyId, Message, Purpose, Reason, SlotAsk, Verdict,
};

const NODE: NodeId = NodeId([7; 20]);
const EPOCH: Epoch = Epoch { term: 3, tag: 0x1234_5678_9abc_def0 };

fn slot(number: u16) -> Slot {
    Slot::new(number).expect("below 1024")
}

fn history() -> History {
    let start = |term, seq| EpochStart { epoch: Epoch { term, ..EPOCH }, first_seq: Seq(seq) };
    History::from_starts(vec![start(1, 1), start(3, 500)]).expect("ordered")
}

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
    all.iter().for_each(|op| put_op(&mut out, op));
    out
}

pub(crate) fn operations() -> Vec<Vec<u8>> {
    vec![batch()]
}

pub(crate) fn records() -> Vec<Vec<u8>> {
    let batch = batch();
    let bodies = [
        Body::Batch(&batch),
        Body::EpochStart { epoch: EPOCH, by: NODE },
        Body::Grant { to: NODE, address: "127.0.0.1:9221" },
    ];
    let mut out: Vec<Vec<u8>> = Vec::new();
    for (seq, body) in (1..).zip(&bodies) {
        let mut record = Vec::new();
        encode(&mut record, Header { slot: slot(1023), term: EPOCH.term, seq: Seq(seq) }, body);
        out.push(record);
    }
    out.push(out.concat());
    out
}

/// A frame around a body.
fn framed(body: &[u8], flags: u16, lsn: Lsn, salt: Salt) -> Vec<u8> {
    let mut out = vec![0; frame::HEADER_BYTES];
    out.extend_from_slice(body);
    frame::seal_up(&mut out, &FrameHeader { flags, incarnation: 2, lsn, synced: Lsn::ZERO }, salt);
    out
}

pub(crate) fn frames() -> Vec<Vec<u8>> {
    let body = records().concat();
    vec![framed(&body, 0, Lsn(4096), Salt(7)), framed(b"", frame::CLEAN_STOP, Lsn(4096), Salt(7))]
}

fn index() -> Vec<u8> {
    let mut growing = GrowingIndex::default();
    for (number, seq, offset) in [(0, 1, 64), (0, 2, 200), (5, 77, 64), (1023, 9, 264)] {
        growing.add(slot(number), Seq(seq), offset);
    }
    let mut out = Vec::new();
    growing.snapshot().encode(&mut out);
    out
}

pub(crate) fn slot_indexes() -> Vec<Vec<u8>> {
    vec![index(), Vec::new()]
}

pub(crate) fn segments() -> Vec<Vec<u8>> {
    let header = SegmentHeader { node: NODE, number: 0, base: Lsn::ZERO, bytes: SEGMENT_BYTES_MIN };
    let mut out = header.encode().to_vec();
    let records = records();
    let bodies: Vec<(&[u8], u16)> = vec![
        (&records[0], 0),
        (&records[3][..30], frame::MORE),
        (&records[3][30..], frame::CONTINUED),
        (b"", frame::CLEAN_STOP),
    ];
    for (body, flags) in bodies {
        let lsn = Lsn(out.len() as u64);
        out.extend_from_slice(&framed(body, flags, lsn, header.salt()));
    }
    let index = index();
    let sealed = [&out[..], &framed(&index, frame::SEAL, Lsn(out.len() as u64), header.salt())].concat();
    vec![out, sealed]
}

/// A file's bytes.
fn file(fs: &MemoryFs, path: &Path) -> Vec<u8> {
    let read = || {
        let file = fs.open(path, OpenMode::Read)?;
        let mut bytes = vec![0; usize::try_from(file.size()?).expect("fits into memory")];
        file.read_at(&mut bytes, 0)?;
        Ok::<_, std::io::Error>(bytes)
    };
    read().expect("the file was just written")
}

fn pack_bytes() -> (Vec<u8>, Vec<Edit>) {
    let fs = MemoryFs::new();
    let dir = Path::new("/data");
    fs.create_dir_all(dir).expect("a disk in memory takes a folder");
    let mut edits = Vec::new();
    let mut write = || {
        let mut writer = PackWriter::create(Arc::new(fs.clone()), dir, FileNo(1), NODE)?;
        for (number, entries) in [(1, 3), (600, 40)] {
            let mut keys: Vec<Vec<u8>> =
                (0..entries).map(|entry| entry_key(format!("key {entry}").as_bytes())).collect();
            keys.push(element_key(b"key 1", Generation(9), b"sub"));
            keys.sort();
            writer.begin_run(slot(number), RunOptions { block_bytes: 256, ..RunOptions::new(true, 64) });
            for (place, key) in keys.iter().enumerate() {
                let entry = if place % 5 == 4 {
                    EntryRef::Tombstone
                } else {
                    EntryRef::Value(b"\0same same same same")
                };
                writer.add(key, entry)?;
            }
            let meta = writer.end_run(Seq(1), Seq(90))?.expect("entries were added");
            edits.push(Edit::Runs { slot: slot(number), add: vec![meta], remove: Vec::new() });
        }
        writer.finish()
    };
    write().expect("a disk in memory takes a file");
    (file(&fs, &pack_path(dir, FileNo(1))), edits)
}

pub(crate) fn packs() -> Vec<Vec<u8>> {
    vec![pack_bytes().0]
}

pub(crate) fn manifests() -> Vec<Vec<u8>> {
    let fs = MemoryFs::new();
    let dir = Path::new("/manifest");
    let states = [
        SlotState::Master,
        SlotState::Replica { upstream: "127.0.0.1:1".to_owned() },
        SlotState::Loading { upstream: "host:2".to_owned() },
        SlotState::Moved { to: "[::1]:3".to_owned() },
        SlotState::Absent,
    ];
    let mut edits: Vec<Edit> = Vec::new();
    for (number, state) in [1, 600, 3, 4, 5].into_iter().zip(states) {
        let meta = SlotMeta {
            state,
            highest_term: 3,
            history: history(),
            superseded: vec![EPOCH],
            flushed_seq: Seq(90),
            flushed_keys: 12,
            time: TimeMs(1 << 41),
            granted: (number == 4).then(|| (NODE, "[::1]:3".to_owned())),
            ..SlotMeta::default()
        };
        edits.push(Edit::Slot(slot(number), Box::new(meta)));
    }
    edits.extend(pack_bytes().1);
    let acked = vec![(slot(1), Some(Seq(80))), (slot(4), None)];
    edits.push(Edit::Registration { node: NODE, address: "127.0.0.1:9".to_owned(), acked });
    let write = || {
        fs.create_dir_all(dir).map_err(|error| haypile_engine::error::Error::io(dir, "create", &error))?;
        let mut manifest = Manifest::create(Arc::new(fs.clone()), dir, State::new(NODE))?;
        manifest.apply(&edits)?;
        manifest.apply(&[Edit::ReplicaForgotten(NODE)])
    };
    write().expect("a disk in memory takes a manifest");
    vec![file(&fs, &dir.join("000001"))]
}

pub(crate) fn entry_keys() -> Vec<Vec<u8>> {
    vec![entry_key(b"key"), entry_key(b""), element_key(b"key", Generation(5), b"sub")]
}

pub(crate) fn values() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for expiry in [None, Some(TimeMs(1 << 41))] {
        for generation in [None, Some(Generation(77))] {
            let mut bytes = Vec::new();
            Value { kind: 4, encoding: 1, expiry, generation, payload: Bytes::from_static(b"payload") }
                .encode(&mut bytes);
            out.push(bytes);
        }
    }
    out
}

fn all_messages() -> Vec<Message> {
    let ask = SlotAsk {
        slot: slot(1),
        number: 4,
        history: history(),
        last: Seq(600),
        state: AskState::Data,
        force: true,
    };
    let copy = CopyId { slot: slot(1), number: 4 };
    let head =
        CopyHead { history: history(), base: Seq(600), keys: 3, time: TimeMs(9), runs: 2, bytes: 4000 };
    vec![
        Message::Hello { features: 0, purpose: Purpose::Stream },
        Message::Probe(vec![ask.clone()]),
        Message::Follow(vec![ask.clone(), ask]),
        Message::Unfollow(vec![slot(1), slot(2)]),
        Message::Ack { bytes: 99, slots: vec![(slot(1), Seq(600))] },
        Message::HandoverAsk { id: 5, deadline_ms: 1000, slots: vec![slot(1)] },
        Message::GrantTaken(vec![(slot(1), EPOCH)]),
        Message::GrantRefused { slot: slot(1), why: "no".to_owned() },
        Message::Pong,
        Message::GrantAsk(vec![(slot(1), Epoch { term: 3, tag: 31 }, Seq(601))]),
        Message::HelloOk { node: NODE, features: 0 },
        Message::ProbeAnswer(vec![(slot(1), Verdict::Refused(Reason::Unrelated), "force".to_owned())]),
        Message::Refused { slot: slot(1), number: 4, reason: Reason::NotHere, why: "not here".to_owned() },
        Message::Continue { slot: slot(1), number: 4, from: Seq(601) },
        Message::CopyQueued(copy),
        Message::CopyBegin { copy, head },
        Message::CopyRun { copy, bytes: 4000, crc: 7 },
        Message::CopyChunk { copy, data: Bytes::from_static(b"bytes of a run") },
        Message::CopyRunEnd(copy),
        Message::CopyEnd(copy),
        Message::Records {
            more: false,
            times: vec![(slot(1), TimeMs(9))],
            data: Bytes::from(records().concat()),
        },
        Message::Heartbeat(vec![Beat { slot: slot(1), last: Seq(601), time: TimeMs(10) }]),
        Message::HistoryChanged(slot(1)),
        Message::Dropped(slot(1)),
        Message::GrantDone(vec![slot(1)]),
        Message::GrantPending(slot(1)),
    ]
}

pub(crate) fn messages() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for message in all_messages() {
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes);
        out.push(bytes.to_vec());
    }
    out.push(out.concat());
    out
}

fn texts(texts: &[&[u8]]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.to_vec()).collect()
}

pub(crate) fn requests() -> Vec<Vec<u8>> {
    texts(&[
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
        b"PING\r\nset key \"a \\x00 b\" 'c'\r\n",
        b"*0\r\n*-1\r\n\r\n*1\r\n$0\r\n\r\n",
        b"*1\r\n$536870912\r\nabc",
        b"*1048577\r\n",
        b"*2\r\n*1\r\n$1\r\na\r\n",
        b"$5\r\nhello\r\n",
    ])
}

pub(crate) fn words() -> Vec<Vec<u8>> {
    texts(&[b"set a b", b"\"quoted \\x41\\n\" 'it\\'s'", b"\"open", b"a\"b\" c", b""])
}

pub(crate) fn configs() -> Vec<Vec<u8>> {
    texts(&[
        b"# node\nport 9221\nsync always\nslots 0-511,600\nrequirepass \"a b\"\n",
        b"standalone yes\nmaxmemory 1gb\nbind 127.0.0.1\nannounce 10.0.0.1:9221\n",
        b"port 99999\n",
    ])
}

pub(crate) fn groups() -> Vec<Vec<u8>> {
    texts(&[b"0-1023", b"1,2,3-5,", b"", b",", b"4294967296", b"0-4294967295", b"3-1", b"1-2-3"])
}
