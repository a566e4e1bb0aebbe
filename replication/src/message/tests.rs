use proptest::prelude::*;

use super::*;

fn slot(number: u16) -> Slot {
    Slot::new(number).expect("in range")
}

fn ask() -> SlotAsk {
    let epoch = |term| Epoch { term, tag: u64::from(term) * 77 };
    let mut history = History::starting(epoch(1), Seq(1));
    history.begin(epoch(4), Seq(30));
    let (slot, last, state) = (slot(1023), Seq(41), AskState::Loading);
    let held = vec![Held { of: run(), here: 1 << 32 }, Held { of: run(), here: run().len }];
    SlotAsk { slot, number: 7, history, last, state, force: true, held }
}

fn run() -> PartId {
    PartId { file: FileNo(5), offset: 77, len: 1 << 33, crc: 7 }
}

fn every_message() -> Vec<Message> {
    let copy = CopyId { slot: slot(3), number: 9 };
    let granted = Some((NodeId([9; 20]), "10.0.0.7:9221".to_owned()));
    let head = CopyHead {
        history: ask().history,
        base: Seq(40),
        granted,
        keys: 5,
        time: TimeMs(6),
        runs: 2,
        bytes: 1 << 40,
    };
    vec![
        Message::Hello { features: 3, purpose: Purpose::Question },
        Message::Probe(vec![ask()]),
        Message::Follow(vec![ask(), ask()]),
        Message::Unfollow(vec![slot(0), slot(5)]),
        Message::Ack { bytes: 9, slots: vec![(slot(1), Seq(2)), (slot(3), Seq::MAX)] },
        Message::HandoverAsk { id: 1, deadline_ms: 5000, slots: vec![slot(1)] },
        Message::GrantTaken(vec![(slot(1), Epoch { term: 2, tag: 3 })]),
        Message::GrantRefused { slot: slot(1), why: "gone".to_owned() },
        Message::Pong,
        Message::UpstreamAsk(vec![slot(4)]),
        Message::GrantAsk(vec![(slot(1), Epoch { term: 2, tag: 9 }, Seq(3))]),
        Message::HelloOk { node: NodeId([7; 20]), features: 0 },
        Message::ProbeAnswer(vec![
            (slot(1), Verdict::Continue, String::new()),
            (slot(2), Verdict::Copy, "é".to_owned()),
            (slot(3), Verdict::Refused(Reason::Moved), "x".to_owned()),
        ]),
        Message::Refused { slot: slot(1), number: 1, reason: Reason::Unrelated, why: "no".to_owned() },
        Message::Continue { slot: slot(1), number: 1, from: Seq(4) },
        Message::CopyQueued(copy),
        Message::CopyBegin { copy, head },
        Message::CopyRun { copy, of: run(), from: 1 << 32 },
        Message::CopyChunk { copy, data: Bytes::from_static(b"") },
        Message::CopyRunEnd(copy),
        Message::CopyEnd(copy),
        Message::Records { more: true, times: vec![(slot(1), TimeMs(1))], data: Bytes::from_static(b"rec") },
        Message::Heartbeat(vec![Beat { slot: slot(1), last: Seq(9), time: TimeMs(10) }]),
        Message::HandoverAnswer {
            id: 4,
            held_ms: 3,
            slots: vec![(slot(1), Ok(Seq(5))), (slot(2), Err("lag 4".to_owned()))],
        },
        Message::HistoryChanged(slot(1)),
        Message::Dropped(slot(1)),
        Message::GrantDone(vec![slot(1), slot(2)]),
        Message::GrantPending(slot(1)),
        Message::Upstreams(vec![(slot(1), "10.0.0.2:9221".to_owned()), (slot(2), String::new())]),
        Message::HelloRefused("feature 5".to_owned()),
        Message::HandoverNear(6),
        Message::HandoverReady(6),
        Message::TailAsk(vec![(slot(1), Epoch { term: 2, tag: 9 }, Seq(3))]),
        Message::Tails(vec![Beat { slot: slot(1), last: Seq(9), time: TimeMs(10) }]),
    ]
}

/// The bytes of every message of a version, a line each, as its nodes wrote them.
const VERSION_3: &str = include_str!("v3.txt");

/// A compressed frame as nodes of version 3 wrote it: records, 600 bytes of zeros.
const COMPRESSED_3: &str = "1b0000003fa8e9a2172a610200001000010020580206000f0200ffff3f60000000000000";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> BytesMut {
    let text: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex");
    text.chunks(2).map(byte).collect::<Vec<u8>>()[..].into()
}

#[test]
fn every_message_is_the_bytes_that_it_was_when_its_version_was_made() {
    let mut today = String::new();
    let mut kinds = std::collections::BTreeSet::new();
    for message in every_message() {
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes);
        kinds.insert(bytes[4]);
        today += &format!("{} {}\n", bytes[4], hex(&bytes));
    }
    let all: std::collections::BTreeSet<u8> = (1..=13).chain(32..=52).collect();
    assert_eq!(kinds, all, "a kind of message without bytes to remember it by");
    assert!(VERSION_3 == today, "messages are written otherwise; a new version?\n{today}");
    let read = VERSION_3.lines().map(|line| {
        let (_, bytes) = line.split_once(' ').expect("kind and bytes");
        Message::take(&mut unhex(bytes)).expect("a message").expect("whole")
    });
    assert_eq!(read.collect::<Vec<_>>(), every_message());
}

#[test]
fn a_compressed_frame_of_version_3_is_read() {
    let records = Message::Records { more: false, times: Vec::new(), data: Bytes::from_static(&[0; 600]) };
    let mut today = BytesMut::new();
    squeeze::Squeeze::default().encode(&records, &mut today);
    assert_eq!(today[4], 63);
    assert_eq!(Message::take(&mut unhex(COMPRESSED_3)), Ok(Some(records)), "today: {}", hex(&today));
}

/// The frame of a payload, checksum and length right: what is tested is the payload's decoder.
fn frame(kind: u8, payload: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    out.extend_from_slice(&u32::try_from(payload.len()).expect("short").to_le_bytes());
    out.extend_from_slice(&[kind]);
    out.extend_from_slice(&checksum(kind, payload).to_le_bytes());
    out.extend_from_slice(payload);
    out
}

#[test]
fn every_message_reads_back_alone_and_in_a_row() {
    let mut row = BytesMut::new();
    for message in every_message() {
        let mut alone = BytesMut::new();
        message.encode(&mut alone);
        row.extend_from_slice(&alone);
        assert_eq!(Message::take(&mut alone), Ok(Some(message)));
        assert!(alone.is_empty());
    }
    for message in every_message() {
        assert_eq!(Message::take(&mut row), Ok(Some(message)));
    }
    assert_eq!(Message::take(&mut row), Ok(None));
}

#[test]
fn a_frame_cut_anywhere_waits_for_more_and_a_payload_cut_anywhere_is_refused() {
    for message in every_message() {
        let mut whole = BytesMut::new();
        message.encode(&mut whole);
        for end in 0..whole.len() {
            assert_eq!(Message::take(&mut BytesMut::from(&whole[..end])), Ok(None), "{message:?}");
        }
        let (kind, payload) = (whole[4], &whole[FRAME_HEADER_BYTES..]);
        for end in 0..payload.len() {
            let taken = Message::take(&mut frame(kind, &payload[..end]));
            assert!(matches!(taken, Err(BadMessage::Meaning { .. })), "{message:?} cut to {end}: {taken:?}");
        }
        let longer = [payload, b"x"].concat();
        assert!(Message::take(&mut frame(kind, &longer)).is_err(), "{message:?}");
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    for message in every_message() {
        let mut whole = BytesMut::new();
        message.encode(&mut whole);
        for bit in 0..whole.len() * 8 {
            let mut bad = whole.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // A longer length only waits for bytes that the checksum then speaks about.
            assert!(!matches!(Message::take(&mut bad), Ok(Some(_))), "{message:?} bit {bit}");
        }
    }
}

#[test]
fn a_huge_frame_or_list_is_refused_without_memory_for_it() {
    let mut huge = BytesMut::from(&u32::MAX.to_le_bytes()[..]);
    huge.extend_from_slice(&[1; 5]);
    assert!(matches!(Message::take(&mut huge), Err(BadMessage::TooLong(_))));
    let refused = Message::take(&mut frame(4, &u32::MAX.to_le_bytes()));
    assert!(matches!(refused, Err(BadMessage::Meaning { kind: 4, .. })), "{refused:?}");
}

#[test]
fn a_long_text_is_cut_at_a_character() {
    let why = "é".repeat(4000);
    let mut out = BytesMut::new();
    Message::GrantRefused { slot: slot(1), why }.encode(&mut out);
    let Ok(Some(Message::GrantRefused { why, .. })) = Message::take(&mut out) else { panic!("reads back") };
    assert_eq!(why, "é".repeat(512));
}

#[test]
fn what_no_node_writes_is_refused() {
    // Found by fuzzing: both were taken, and written otherwise when they were passed on.
    let refusal = |bytes: u16| {
        let mut payload = vec![1, 0];
        payload.extend_from_slice(&bytes.to_le_bytes());
        payload.resize(4 + usize::from(bytes), b'x');
        Message::take(&mut frame(8, &payload))
    };
    assert!(matches!(refusal(1024), Ok(Some(_))));
    assert_eq!(refusal(1025), Err(BadMessage::Meaning { kind: 8, what: "a text that is too long" }));

    let mut answer = BytesMut::new();
    Message::HandoverAnswer { id: 4, held_ms: 3, slots: vec![(slot(1), Err(String::new()))] }
        .encode(&mut answer);
    let granted_at = FRAME_HEADER_BYTES + 8 + 4 + 4 + 2;
    for (flag, seq) in [(0, 0), (1, 0), (1, 9), (0, 9)] {
        let mut payload = answer[FRAME_HEADER_BYTES..].to_vec();
        payload[granted_at - FRAME_HEADER_BYTES] = flag;
        payload[granted_at - FRAME_HEADER_BYTES + 1] = seq;
        let taken = Message::take(&mut frame(44, &payload));
        assert_eq!(taken.is_ok(), flag == 1 || seq == 0, "{flag} {seq}: {taken:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_that_encodes_to_them_or_an_error(kind in 0u8..64, payload: Vec<u8>) {
        if let Ok(Some(message)) = Message::take(&mut frame(kind, &payload)) {
            let mut again = BytesMut::new();
            message.encode(&mut again);
            let reread = Message::take(&mut again);
            prop_assert_eq!(reread, Ok(Some(message)));
        }
    }

    #[test]
    fn any_stream_of_bytes_ends_in_waiting_or_an_error(bytes: Vec<u8>) {
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(_)) = Message::take(&mut buffer) {}
    }
}
