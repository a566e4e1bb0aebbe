//! What comes over sockets: messages between nodes, and clients' requests.

use bytes::{Bytes, BytesMut};
use haypile_engine::clock::TimeMs;
use haypile_engine::manifest::PartId;
use haypile_engine::sst::FileNo;
use haypile_engine::types::{Epoch, Seq};
use haypile_replication::message::{
    AskState, Beat, CopyHead, CopyId, FRAME_HEADER_BYTES, Held, Message, PAYLOAD_BYTES_MAX, Purpose, Reason,
    SlotAsk, Verdict,
};
use haypile_replication::squeeze::Squeeze;
use haypile_server::resp::{Limits, Parsed, Parser, split_words};

use super::{EPOCH, NODE, history, le32_at, log, slot, texts};

fn all_messages() -> Vec<Message> {
    let of = PartId { file: FileNo(3), offset: 1 << 30, len: 4096, crc: 7 };
    let ask = SlotAsk {
        slot: slot(1),
        number: 4,
        history: history(),
        last: Seq(600),
        state: AskState::Data,
        force: true,
        held: vec![Held { of, here: 4095 }],
    };
    let copy = CopyId { slot: slot(1), number: 4 };
    let head = CopyHead {
        granted: None,
        history: history(),
        base: Seq(600),
        keys: 3,
        time: TimeMs(9),
        runs: 2,
        bytes: 4000,
    };
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
        Message::CopyRun { copy, of, from: 96 },
        Message::CopyChunk { copy, data: Bytes::from_static(b"bytes of a run") },
        Message::CopyRunEnd(copy),
        Message::CopyEnd(copy),
        Message::Records {
            more: false,
            times: vec![(slot(1), TimeMs(9))],
            data: Bytes::from(log::records().concat()),
        },
        Message::Heartbeat(vec![Beat { slot: slot(1), last: Seq(601), time: TimeMs(10) }]),
        Message::HandoverAnswer {
            id: 5,
            held_ms: 900,
            slots: vec![(slot(1), Ok(Seq(601))), (slot(2), Err("no".to_owned()))],
        },
        Message::HistoryChanged(slot(1)),
        Message::Dropped(slot(1)),
        Message::GrantDone(vec![slot(1)]),
        Message::HandoverNear(5),
        Message::HandoverReady(5),
        Message::GrantPending(slot(1)),
        Message::UpstreamAsk(vec![slot(1)]),
        Message::Upstreams(vec![(slot(1), "10.0.0.1:9221".to_owned())]),
        Message::HelloRefused("feature 5".to_owned()),
    ]
}

/// Frames that a connection compresses.
fn compressed() -> Vec<Vec<u8>> {
    let copy = CopyId { slot: slot(1), number: 4 };
    let data = Bytes::from(b"bytes of a run ".repeat(200));
    let records = Bytes::from(log::records().concat().repeat(20));
    let shrinking = [
        Message::CopyChunk { copy, data },
        Message::Records { more: true, times: vec![(slot(1), TimeMs(9))], data: records },
    ];
    let mut squeeze = Squeeze::default();
    let encode = |message: &Message| {
        let mut bytes = BytesMut::new();
        squeeze.encode(message, &mut bytes);
        bytes.to_vec()
    };
    shrinking.iter().map(encode).collect()
}

pub(super) fn messages() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for message in all_messages() {
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes);
        out.push(bytes.to_vec());
    }
    out.push(out.concat());
    out.extend(compressed());
    out
}

/// The kind of a compressed frame: what is read of it is written as it was before.
const COMPRESSED: u8 = 63;

pub(super) fn message(bytes: &[u8]) {
    let mut buffer = BytesMut::from(bytes);
    loop {
        let before = bytes.len() - buffer.len();
        let Ok(Some(message)) = Message::take(&mut buffer) else { break };
        let mut again = BytesMut::new();
        message.encode(&mut again);
        let taken = &bytes[before..bytes.len() - buffer.len()];
        if taken[4] == COMPRESSED {
            assert_eq!(Message::take(&mut again), Ok(Some(message)), "a compressed message reads otherwise");
        } else {
            assert_eq!(again, taken, "a message that was read is written otherwise: {message:?}");
        }
    }
    assert!(
        buffer.capacity() <= 2 * (bytes.len() + FRAME_HEADER_BYTES + PAYLOAD_BYTES_MAX),
        "memory grows with what is announced"
    );
}

pub(super) fn repair_messages(bytes: &mut [u8]) {
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

pub(super) fn requests() -> Vec<Vec<u8>> {
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

/// What a parser makes of bytes that come in pieces of `step`.
fn parsed(bytes: &[u8], step: usize, limits: &Limits) -> (Vec<Vec<Vec<u8>>>, Option<String>) {
    let mut parser = Parser::default();
    let mut found = Vec::new();
    let (mut begin, mut end) = (0, 0);
    while end < bytes.len() {
        end = end.saturating_add(step.max(1)).min(bytes.len());
        loop {
            let buffer = &bytes[begin..end];
            match parser.next(buffer, limits) {
                Ok(Parsed::Request(len)) => {
                    found.push(parser.args(buffer).iter().map(|arg| arg.to_vec()).collect());
                    begin += len;
                }
                Ok(Parsed::Nothing(len)) => begin += len,
                Ok(Parsed::Incomplete) => break,
                Err(error) => return (found, Some(error.to_string())),
            }
        }
    }
    (found, None)
}

/// Requests as a client library writes them.
fn written(requests: &[Vec<Vec<u8>>]) -> Vec<u8> {
    let mut out = Vec::new();
    for args in requests {
        out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
        for arg in args {
            out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            out.extend_from_slice(arg);
            out.extend_from_slice(b"\r\n");
        }
    }
    out
}

pub(super) fn request(bytes: &[u8]) {
    for authenticated in [true, false] {
        let limits = Limits { authenticated, ..Limits::default() };
        let whole = parsed(bytes, bytes.len(), &limits);
        for step in [1, 7] {
            let pieces = parsed(bytes, step, &limits);
            assert_eq!(pieces, whole, "the pieces in which bytes come make a difference");
        }
        if authenticated {
            let again = parsed(&written(&whole.0), usize::MAX, &limits);
            assert_eq!(again, (whole.0, None), "requests that were read are written and read otherwise");
        }
    }
}

pub(super) fn lines() -> Vec<Vec<u8>> {
    texts(&[b"set a b", b"\"quoted \\x41\\n\" 'it\\'s'", b"\"open", b"a\"b\" c", b""])
}

pub(super) fn words(bytes: &[u8]) {
    let Some(words) = split_words(bytes) else { return };
    let length: usize = words.iter().map(Vec::len).sum();
    assert!(length <= bytes.len());
    let mut quoted = Vec::new();
    for word in &words {
        quoted.extend_from_slice(b"\"");
        word.iter().for_each(|byte| quoted.extend_from_slice(format!("\\x{byte:02x}").as_bytes()));
        quoted.extend_from_slice(b"\" ");
    }
    assert_eq!(split_words(&quoted).as_ref(), Some(&words), "words read back when they are quoted");
}
