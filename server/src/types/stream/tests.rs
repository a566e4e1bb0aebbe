use haypile_engine::engine::{Engine, Fetched};
use haypile_engine::testing;

use super::*;

#[test]
fn ids_follow_one_another_and_sort_as_their_bytes() {
    let ids = [
        Id::MIN,
        Id { ms: 0, seq: 1 },
        Id { ms: 0, seq: u64::MAX },
        Id { ms: 1, seq: 0 },
        Id { ms: 256, seq: 3 },
        Id { ms: u64::MAX, seq: 0 },
        Id::MAX,
    ];
    for pair in ids.windows(2) {
        assert!(pair[0] < pair[1] && pair[0].bytes() < pair[1].bytes());
    }
    for id in ids {
        assert_eq!(Id::of_bytes(&id.bytes()), Some(id));
        assert!(id.next().is_none_or(|next| next > id && next.previous() == Some(id)));
    }
    assert_eq!(Id { ms: 0, seq: u64::MAX }.next(), Some(Id { ms: 1, seq: 0 }));
    assert_eq!((Id::MAX.next(), Id::MIN.previous()), (None, None));
}

#[test]
fn meta_data_read_back_and_cut_ones_are_refused() {
    let meta = Meta {
        length: 300,
        added: 70_000,
        groups: 2,
        next_group: 5,
        last: Id::MAX,
        first: Id { ms: 5, seq: 0 },
        deleted: Id { ms: 7, seq: 1 },
    };
    let bytes = meta.encode();
    assert_eq!(Meta::decode(&bytes), Some(meta));
    for cut in 0..bytes.len() {
        assert_eq!(Meta::decode(&bytes[..cut]), None);
    }
}

#[test]
fn an_entry_with_bytes_that_mean_nothing_is_refused() {
    assert_eq!(fields(b"\x02\x01a\x00"), Some(vec![&b"a"[..], b""]));
    for bytes in
        [&b""[..], b"\x02\x01a", b"\x01\x05a", b"\x01\x01ab", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"]
    {
        assert_eq!(fields(bytes), None, "{bytes:?}");
    }
}

fn run<T>(engine: &Engine, key: &Key, body: impl FnOnce(&mut Tx<'_>) -> Read<T>) -> T {
    let fetched = Fetched::default();
    let mut tx = engine.begin(&[key.slot()], &fetched);
    let out = body(&mut tx).expect("all is in memory");
    tx.commit().expect("the log takes it");
    out
}

#[test]
fn a_stream_keeps_its_first_entry_whatever_goes() {
    let (engine, key) = (testing::engine(), Key::new(b"s"));
    let id = |ms| Id { ms, seq: 0 };
    run(&engine, &key, |tx| {
        let mut stream = Stream::create(tx, &key)?;
        (1..=1000).for_each(|ms| stream.append(tx, id(ms), &[b"a", b"b"]));
        stream.save(tx)
    });
    let reopened = |tx: &mut Tx<'_>| Stream::open(&key, &tx.get(&key)?.expect("there"));
    run(&engine, &key, |tx| {
        let mut stream = reopened(tx)?;
        assert_eq!(stream.delete(tx, &[id(500), id(1), id(2), id(2), id(9999)])?, 3);
        assert_eq!((stream.meta.first, stream.meta.deleted, stream.meta.length), (id(3), id(500), 997));
        Ok(())
    });
    run(&engine, &key, |tx| {
        let mut stream = reopened(tx)?;
        let trim = Trim { until: Until::Length(500), approximate: None };
        assert_eq!(stream.trim(tx, trim)?, 497);
        // The 500th is gone already.
        assert_eq!((stream.meta.first, stream.meta.length, stream.meta.added), (id(501), 500, 1000));
        assert!(!stream.meta.has_holes_from(Id::MIN));
        let backward = stream.walk(Id::MIN, Id::MAX, Direction::Backward).gather(tx, 2)?;
        assert_eq!(backward.iter().map(|(id, _)| id.ms).collect::<Vec<_>>(), [1000, 999]);
        assert_eq!(stream.walk(id(1), id(600), Direction::Forward).gather(tx, 9999)?.len(), 100);
        let trim = Trim { until: Until::Id(Id::MAX), approximate: Some(0) };
        assert_eq!(stream.trim(tx, trim)?, 500);
        assert_eq!((stream.meta.first, stream.meta.length, stream.meta.last), (Id::MIN, 0, id(1000)));
        Ok(())
    });
}
