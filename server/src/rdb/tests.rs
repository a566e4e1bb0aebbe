//! Payloads that real servers wrote (`payloads.txt`: server/name, payload in hexadecimal), and our own.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const PAYLOADS: &str = include_str!("payloads.txt");

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn all(texts: &[&str]) -> Vec<Bytes> {
    texts.iter().map(|text| bytes(text)).collect()
}

fn unhex(text: &str) -> Bytes {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| u8::try_from(digit.to_digit(16).expect("a digit")).expect("4 bits"))
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect::<Vec<_>>().into()
}

/// What the servers were given under these names.
fn made(name: &str) -> Object {
    let (a63, b64, c200, e300) = ("a".repeat(63), "b".repeat(64), "c".repeat(200), "e".repeat(300));
    match name {
        "s" => Object::String(bytes("hello")),
        "empty" => Object::String(bytes("")),
        "i8" => Object::String(bytes("-5")),
        "i16" => Object::String(bytes("12345")),
        "i32" => Object::String(bytes("-100000000")),
        "digits" => Object::String(bytes("12345678901")),
        "lzf" => Object::String(bytes(&format!("{}xyz{}", "abc".repeat(100), "q".repeat(400)))),
        "list-ints" => Object::List(all(&[
            "0",
            "1",
            "12",
            "13",
            "127",
            "128",
            "-1",
            "-4096",
            "4095",
            "4096",
            "-4097",
            "32767",
            "-32768",
            "8388607",
            "-8388608",
            "2147483647",
            "-2147483648",
            "9223372036854775807",
            "-9223372036854775808",
        ])),
        "list-strings" => {
            Object::List(all(&["", "x", &a63, &b64, &c200, &e300, "01", "9223372036854775808"]))
        }
        "list-nodes" => {
            Object::List((0..40).map(|n| bytes(&format!("item {n} {}", "z".repeat(300)))).collect())
        }
        "list-plain" => Object::List(all(&[&"p".repeat(9000), "a", &"q".repeat(9000)])),
        "set16" => Object::Set(all(&["-3", "1", "2"])),
        "set32" => Object::Set(all(&["1", "70000"])),
        "set64" => Object::Set(all(&["-1", "1099511627776"])),
        "set" => Object::Set(all(&["7", "a", "b"])),
        "hash" => Object::Hash(vec![
            (bytes("a"), bytes("1")),
            (bytes("b"), bytes(&"x".repeat(60))),
            (bytes("c"), bytes("-70000")),
        ]),
        "stream" => {
            let entry = |id, strings: &[&str]| (id, all(strings));
            let seen_ms = 1_795_407_852_870;
            Object::Stream(Box::new(stream::Stream {
                entries: vec![
                    entry((1, 1), &["a", "1", "b", "two"]),
                    entry((2, 0), &["c", "-3"]),
                    entry((3, 1), &["a", "z", "b", "y"]),
                ],
                last: (3, 1),
                deleted: (1, 5),
                added: 4,
                groups: vec![
                    stream::Group {
                        name: bytes("g"),
                        last: (3, 1),
                        read: Some(4),
                        consumers: vec![(bytes("one"), seen_ms), (bytes("two"), seen_ms)],
                        pending: vec![
                            stream::Pending { id: (1, 1), given_ms: 1000, count: 5, consumer: 0 },
                            stream::Pending { id: (3, 1), given_ms: 2000, count: 7, consumer: 1 },
                        ],
                    },
                    stream::Group {
                        name: bytes("h"),
                        last: (2, 0),
                        read: None,
                        consumers: Vec::new(),
                        pending: Vec::new(),
                    },
                ],
            }))
        }
        "hash-table" => Object::Hash(vec![(bytes("a"), bytes(&"x".repeat(100)))]),
        "zset" => Object::SortedSet(
            [("7", 0.1), ("a", 1.0), ("b", 1.5), ("c", f64::INFINITY), ("d", -2.0), ("e", 3.1)]
                .map(|(member, score)| (bytes(member), score))
                .to_vec(),
        ),
        "zset-table" => Object::SortedSet(
            [(&"a".repeat(100)[..], 0.1), ("b", f64::NEG_INFINITY), ("c", 1e300), ("d", 3.0)]
                .map(|(member, score)| (bytes(member), score))
                .to_vec(),
        ),
        _ => panic!("{name} is not known"),
    }
}

/// In an order of its own where the servers have none.
fn ordered(object: Object) -> Object {
    match object {
        Object::Set(mut members) => {
            members.sort();
            Object::Set(members)
        }
        Object::Hash(mut fields) => {
            fields.sort();
            Object::Hash(fields)
        }
        Object::SortedSet(mut members) => {
            members.sort_by(|a, b| a.0.cmp(&b.0));
            Object::SortedSet(members)
        }
        other => other,
    }
}

fn payloads() -> impl Iterator<Item = (&'static str, Bytes)> {
    PAYLOADS.lines().map(|line| {
        let (name, hex) = line.split_once(' ').expect("a name and a payload");
        (name, unhex(hex))
    })
}

#[test]
fn every_form_that_real_servers_write_is_read() {
    let mut types = std::collections::BTreeSet::new();
    for (name, payload) in payloads() {
        let (_, what) = name.split_once('/').expect("a server and a name");
        let object = load(&payload).unwrap_or_else(|refused| panic!("{name}: {refused}"));
        assert_eq!(ordered(object), made(what), "{name}");
        types.insert(payload[0]);
    }
    assert_eq!(types.into_iter().collect::<Vec<_>>(), [0, 2, 3, 4, 5, 11, 12, 13, 14, 16, 17, 18, 19]);
}

/// A payload of these bytes with a footer that holds.
fn sealed(body: &[u8]) -> Bytes {
    let mut out = [body, &VERSION.to_le_bytes()].concat();
    let checksum = crc64(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.into()
}

#[test]
fn forms_that_these_servers_no_longer_or_not_yet_write_are_read() {
    let zipmap = b"\x09\x11\x02\x01a\x01\x021..\x02bc\x03\x00xyz\xff";
    let fields = vec![(bytes("a"), bytes("1")), (bytes("bc"), bytes("xyz"))];
    assert_eq!(load(&sealed(zipmap)), Ok(Object::Hash(fields)));
    let listpack = b"\x14\x0d\x0d\0\0\0\x02\0\x05\x01\x82hi\x03\xff";
    assert_eq!(load(&sealed(listpack)), Ok(Object::Set(all(&["5", "hi"]))));
    let ziplist = b"\x0a\x10\x10\0\0\0\x0d\0\0\0\x02\0\x00\x01k\x03\xf6\xff";
    assert_eq!(load(&sealed(ziplist)), Ok(Object::List(all(&["k", "5"]))));
    let plain = b"\x12\x02\x01\x02ab\x02\x0a\x0a\0\0\0\x01\0\x81c\x02\xff";
    assert_eq!(load(&sealed(plain)), Ok(Object::List(all(&["ab", "c"]))));
}

#[test]
fn a_footer_that_does_not_hold_and_bytes_without_meaning_are_told_apart() {
    let good = dump(&Object::String(bytes("x")));
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert_eq!(load(&bad.into()), Err(Refused::Footer), "{at}");
        assert_eq!(load(&Bytes::copy_from_slice(&good[..at])), Err(Refused::Footer), "{at}");
    }
    let mut newer = [&good[..good.len() - FOOTER_BYTES], &(VERSION_MAX + 1).to_le_bytes()].concat();
    let checksum = crc64(&newer);
    newer.extend_from_slice(&checksum.to_le_bytes());
    assert_eq!(load(&newer.into()), Err(Refused::Footer));
    for body in [
        &b""[..],
        b"\x01\x00",
        b"\x02\x02\x01a",
        b"\x00\x01ab",
        b"\x00\xc4",
        b"\x00\x81\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x03\x01\x01a\xfd",
        b"\x03\x01\x01a\x03nan",
        b"\x07",
        b"\x63",
        // 2^32 - 1 members without a byte: found by fuzzing, memory was taken for them.
        b"\x0b\x08\0\0\0\0\xff\xff\xff\xff",
        b"\x0b\x0a\x03\0\0\0\x01\0\0\0\0\0",
        b"\x0b\x0c\x02\0\0\0\x02\0\0\0\x02\0\x01\0",
        b"\x14\x0c\x0d\0\0\0\x02\0\x05\x01\x82hi\x03",
        b"\x10\x09\x09\0\0\0\x01\0\x05\x01\xff",
    ] {
        assert_eq!(load(&sealed(body)), Err(Refused::Format), "{body:?}");
    }
}

#[test]
fn no_cut_of_a_real_payload_is_taken() {
    for (name, payload) in payloads() {
        let body = &payload[..payload.len() - FOOTER_BYTES];
        // Every place of the short ones, some of the long ones.
        for at in (0..body.len()).step_by(1 + body.len() / 200) {
            assert_eq!(load(&sealed(&body[..at])), Err(Refused::Format), "{name} cut at {at}");
        }
    }
}

fn item() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        any::<i64>().prop_map(|number| bytes(&number.to_string())),
        prop::collection::vec(any::<u8>(), 0..80).prop_map(Bytes::from),
        (16_000usize..17_000).prop_map(|len| Bytes::from(vec![7; len])),
    ]
}

fn object() -> impl Strategy<Value = Object> {
    let score = any::<f64>().prop_filter("a score is a number", |score| !score.is_nan());
    prop_oneof![
        item().prop_map(Object::String),
        prop::collection::vec(item(), 1..80).prop_map(Object::List),
        prop::collection::vec(item(), 1..80).prop_map(Object::Set),
        prop::collection::vec((item(), item()), 1..80).prop_map(Object::Hash),
        prop::collection::vec((item(), score), 1..80).prop_map(Object::SortedSet),
        stream(),
    ]
}

/// Streams of entries with the same fields or others, any distance of ids between them.
fn stream() -> impl Strategy<Value = Object> {
    let id = || (0..9u64, any::<u8>()).prop_map(|(ms, bits)| (1u64 << (7 * ms), u64::MAX >> (bits % 64)));
    let strings = prop_oneof![
        2 => (item(), item()).prop_map(|(a, b)| vec![bytes("a"), a, bytes("b"), b]),
        1 => prop::collection::vec((item(), item()), 1..4)
            .prop_map(|pairs| pairs.into_iter().flat_map(|(field, value)| [field, value]).collect()),
    ];
    let entries = prop::collection::btree_map(id(), strings, 0..30);
    let pending = prop::collection::btree_map(id(), (any::<u64>(), 0..9u64, 0..2usize), 0..9);
    (entries, pending, id(), 0..9u64).prop_map(|(entries, pending, deleted, gone)| {
        let entries: Vec<_> = entries.into_iter().collect();
        let last = entries.last().map_or((7, 7), |(id, _)| *id);
        let pending = pending.into_iter().map(|(id, (given_ms, count, consumer))| stream::Pending {
            id,
            given_ms,
            count,
            consumer,
        });
        let group = stream::Group {
            name: bytes("g"),
            last,
            read: Some(gone),
            consumers: vec![(bytes("one"), 1), (bytes("two"), u64::MAX >> 1)],
            pending: pending.collect(),
        };
        let added = entries.len() as u64 + gone;
        Object::Stream(Box::new(stream::Stream { entries, last, deleted, added, groups: vec![group] }))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_reads_back(object in object()) {
        prop_assert_eq!(load(&dump(&object).into()), Ok(object));
    }
}
