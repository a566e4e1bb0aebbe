use super::*;
use crate::clock::TimeMs;
use crate::memtable::Stored;

fn run<T>(engine: &Engine, key: &Key, body: impl FnOnce(&mut Tx<'_>) -> Read<T>) -> T {
    let fetched = Fetched::default();
    let mut tx = engine.begin(&[key.slot()], &fetched);
    let out = body(&mut tx).expect("everything is in memory");
    tx.commit().expect("the log takes it");
    out
}

#[test]
fn a_transaction_sees_its_own_writes_and_leaves_nothing_unless_committed() {
    let engine = crate::testing::engine();
    let key = Key::new(b"k");
    let fetched = Fetched::default();
    let mut tx = engine.begin(&[key.slot()], &fetched);
    tx.put(&key, &Value::whole(0, 0, &b"v"[..])).expect("in memory");
    assert_eq!(tx.get(&key).expect("in memory").map(|v| v.payload), Some(Bytes::from_static(b"v")));
    drop(tx);
    assert_eq!(run(&engine, &key, |tx| tx.get(&key)), None);
    assert_eq!(engine.key_count(), 0);
}

#[test]
fn keys_are_counted_exactly_through_overwrite_expiry_delete_and_clear() {
    let engine = crate::testing::engine();
    let key = Key::new(b"k");
    for _ in 0..2 {
        run(&engine, &key, |tx| tx.put(&key, &Value::whole(0, 0, &b"v"[..])));
    }
    assert_eq!(engine.key_count(), 1);
    let gone = Value { expiry: Some(TimeMs(1)), ..Value::whole(0, 0, &b"v"[..]) };
    run(&engine, &key, |tx| tx.put(&key, &gone));
    assert_eq!(engine.key_count(), 1, "an expired key counts until it is reclaimed");
    assert_eq!(run(&engine, &key, |tx| tx.get(&key)), None);
    assert!(!run(&engine, &key, |tx| tx.delete(&key)), "it was expired");
    assert_eq!(engine.key_count(), 0);
    run(&engine, &key, |tx| tx.put(&key, &Value::whole(0, 0, &b"v"[..])));
    run(&engine, &key, |tx| {
        tx.clear(key.slot());
        Ok(())
    });
    assert_eq!(engine.key_count(), 0);
    assert_eq!(run(&engine, &key, |tx| tx.get(&key)), None);
}

#[test]
fn elements_of_a_former_generation_are_not_seen() {
    let engine = crate::testing::engine();
    let key = Key::new(b"k");
    let mut generations = Vec::new();
    for round in [&b"old"[..], b"new"] {
        run(&engine, &key, |tx| {
            let generation = tx.next_generation(&key);
            generations.push(generation);
            tx.put(&key, &Value { generation: Some(generation), ..Value::whole(1, 1, &b""[..]) })?;
            tx.put_element(&key, generation, round, Bytes::from_static(b"1"));
            Ok(())
        });
    }
    let all = |direction, limit| {
        run(&engine, &key, |tx| {
            tx.elements(&key, generations[1], Bound::Unbounded, Bound::Unbounded, direction, limit)
        })
    };
    assert_eq!(all(Direction::Forward, 9), [(Bytes::from_static(b"new"), Bytes::from_static(b"1"))]);
    assert_eq!(all(Direction::Backward, 9).len(), 1);
    assert_eq!(all(Direction::Backward, 0).len(), 0);
}

#[test]
fn a_walk_over_the_keys_sees_each_once_and_skips_elements() {
    let engine = crate::testing::engine();
    let names: Vec<String> = (0..500).map(|n| format!("{{same}}{n}")).collect();
    for name in &names {
        let key = Key::new(name.as_bytes());
        run(&engine, &key, |tx| {
            let generation = tx.next_generation(&key);
            tx.put(&key, &Value { generation: Some(generation), ..Value::whole(1, 1, &b""[..]) })?;
            (0..3u8).for_each(|n| tx.put_element(&key, generation, &[n], Bytes::new()));
            Ok(())
        });
    }
    let probe = Key::new(names[0].as_bytes());
    let (mut from, mut seen) = (0, Vec::new());
    loop {
        let (page, next) = run(&engine, &probe, |tx| tx.keys(probe.slot(), from, 7));
        seen.extend(page.into_iter().map(|(key, _)| String::from_utf8(key.to_vec()).expect("text")));
        let Some(next) = next else { break };
        from = next;
    }
    let (mut seen, mut names) = (seen, names);
    seen.sort();
    names.sort();
    assert_eq!(seen, names);
}

/// Both collections are of the record's generation: the first one's elements came back in the second.
#[test]
fn a_collection_that_is_made_twice_in_one_transaction_has_the_second_ones_elements_only() {
    let engine = crate::testing::engine();
    let key = Key::new(b"k");
    let all = (Bound::Unbounded, Bound::Unbounded);
    for replaced_by_a_string in [false, true] {
        let generation = run(&engine, &key, |tx| {
            let generation = tx.next_generation(&key);
            let large = Value { generation: Some(generation), ..Value::whole(1, 1, &b""[..]) };
            for sub in [&b"first"[..], b"second"] {
                tx.put(&key, &large)?;
                tx.put_element(&key, generation, sub, Bytes::from_static(b"1"));
                if sub == b"first" && replaced_by_a_string {
                    tx.put(&key, &Value::whole(0, 0, &b"v"[..]))?;
                } else if sub == b"first" {
                    tx.delete(&key)?;
                }
            }
            Ok(generation)
        });
        let found = run(&engine, &key, |tx| {
            tx.elements(&key, generation, all.0, all.1, Direction::Forward, usize::MAX)
        });
        let subs: Vec<_> = found.into_iter().map(|(sub, _)| sub).collect();
        assert_eq!(subs, [Bytes::from_static(b"second")]);
    }
}

#[test]
fn a_large_value_that_keeps_its_buffer_stands_beside_small_ones_of_the_same_transaction() {
    let engine = crate::testing::engine();
    let (key, other) = (Key::new(b"{k}large"), Key::new(b"{k}small"));
    assert_eq!(key.slot(), other.slot());
    let large = Bytes::from(vec![7; 200 << 10]);
    run(&engine, &key, |tx| {
        tx.put(&other, &Value::whole(0, 0, &b"before"[..]))?;
        tx.put(&key, &Value::whole(0, 0, large.clone()))?;
        tx.put(&other, &Value::whole(0, 0, &b"after"[..]))
    });
    let payload = |key: &Key| run(&engine, key, |tx| tx.get(key)).map(|value| value.payload);
    assert_eq!(payload(&key), Some(large));
    assert_eq!(payload(&other), Some(Bytes::from_static(b"after")));
    run(&engine, &key, |tx| tx.put(&key, &Value::whole(0, 0, &b"short"[..])));
    assert_eq!(payload(&key), Some(Bytes::from_static(b"short")));
}

/// Whoever had written nothing itself waited a second for a sync that nobody was told of.
#[test]
fn what_a_commit_writes_for_others_is_synced_at_once() {
    let options = crate::engine::Options {
        sync: crate::engine::SyncMode::Always,
        memory_bytes: 1 << 20,
        ..crate::engine::Options::default()
    };
    let fs = std::sync::Arc::new(crate::fs::memory::MemoryFs::new());
    let clock = std::sync::Arc::new(crate::clock::SystemClock::new());
    let (engine, _) = Engine::open(fs, std::path::Path::new("/h"), clock, options).expect("opens");
    engine.add_slots(&Slot::all().collect::<Vec<_>>()).expect("slots are added");
    let put = |name: &[u8]| {
        let (key, fetched) = (Key::new(name), Fetched::default());
        let mut tx = engine.begin(&[key.slot()], &fetched);
        tx.put(&key, &Value::whole(0, 0, vec![7; 600 << 10])).expect("in memory");
        tx.commit().expect("the log takes it")
    };
    let first = put(b"a");
    put(b"b");
    let told = engine.unsynced.count();
    assert!(!engine.is_written(first).expect("the disk works"));
    put(b"c");
    assert!(engine.is_written(first).expect("the disk works"));
    assert!(engine.unsynced.count() > told);
}

#[test]
fn a_value_does_not_keep_much_more_memory_than_it_has_bytes() {
    for (others, kept) in [(0, true), (10, true), (60, false)] {
        let mut writes = WriteSet::default();
        writes.record.reserve(300 << 10);
        for (name, len) in [(&b"other"[..], others << 10), (b"large", 100 << 10)] {
            let at = writes.record.len();
            writes.record.resize(at + len, 7);
            writes.overlay.insert(EntryKey::from_slice(name), Written::value(at..at + len));
        }
        let mut shared = None;
        writes.put_all(|key, stored| match stored {
            Stored::Value(ValueRef::Shared(bytes)) => shared = Some((key.to_vec(), bytes.clone())),
            Stored::Value(_) => {}
            Stored::Tombstone => panic!("all are values"),
        });
        drop(writes);
        let Some((key, bytes)) = shared else {
            assert!(!kept, "{others}");
            continue;
        };
        assert!(kept && key == b"large", "{others}");
        let buffer = bytes.try_into_mut().expect("nobody else has it");
        assert!(buffer.capacity() <= (100 << 10) * 5 / 4, "{}", buffer.capacity());
    }
}
