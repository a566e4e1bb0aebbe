use std::collections::BTreeMap;

use proptest::prelude::*;

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

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8, u8),
    Flush,
    Commit,
    Look(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..2_u8, 0..40_u8).prop_map(|(key, sub)| Step::Put(key, sub)),
        3 => (0..2_u8, 0..40_u8).prop_map(|(key, sub)| Step::Delete(key, sub)),
        1 => Just(Step::Flush),
        2 => Just(Step::Commit),
        6 => (0..40_u8, 0..40_u8).prop_map(|(from, to)| Step::Look(from, to)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Written here, in memory, in files, or in some of these.
    #[test]
    fn the_last_element_of_a_range_is_what_a_walk_back_finds(steps in proptest::collection::vec(step(), 0..120)) {
        let engine = crate::testing::engine();
        let keys = [Key::new(b"{k}1"), Key::new(b"{k}2")];
        let slot = keys[0].slot();
        let generation = Generation(1);
        let mut model = [BTreeMap::new(), BTreeMap::new()];
        let mut uncommitted: Vec<(u8, u8, Option<u8>)> = Vec::new();
        let redo = |tx: &mut Tx<'_>, writes: &[(u8, u8, Option<u8>)]| {
            for &(key, sub, value) in writes {
                match value {
                    Some(value) => tx.put_element(&keys[usize::from(key)], generation, &[sub], [value]),
                    None => tx.delete_element(&keys[usize::from(key)], generation, &[sub]),
                }
            }
        };
        for (number, step) in (0_u8..).zip(steps) {
            match step {
                Step::Put(key, sub) => {
                    uncommitted.push((key, sub, Some(number)));
                    model[usize::from(key)].insert(sub, number);
                }
                Step::Delete(key, sub) => {
                    uncommitted.push((key, sub, None));
                    model[usize::from(key)].remove(&sub);
                }
                Step::Flush => engine.flush_all().expect("the disk is sound"),
                Step::Commit => {
                    let fetched = Fetched::default();
                    let mut tx = engine.begin(&[slot], &fetched);
                    redo(&mut tx, &std::mem::take(&mut uncommitted));
                    tx.commit().expect("the log takes it");
                }
                Step::Look(from, to) => {
                    let mut fetched = Fetched::default();
                    let expected = model.iter().map(|model| {
                        let found = (from <= to).then(|| model.range(from..=to).next_back()).flatten();
                        found.map(|(sub, value)| (vec![*sub], vec![*value]))
                    });
                    let expected: Vec<_> = expected.collect();
                    let found = loop {
                        let mut tx = engine.begin(&[slot], &fetched);
                        redo(&mut tx, &uncommitted);
                        let look = |key| {
                            tx.last_element(key, generation, &[from], &[to], |sub, value| (sub.to_vec(), value.to_vec()))
                        };
                        match keys.iter().map(look).collect::<Read<Vec<_>>>() {
                            Ok(found) => break found,
                            Err(Stop::Miss) => {
                                let wanted = tx.abandon();
                                engine.fetch(wanted, &mut fetched).expect("the disk is sound");
                            }
                            Err(stop) => panic!("{stop:?}"),
                        }
                    };
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }
}

/// As [`run`], where blocks may have to be fetched.
fn run_cold<T>(engine: &Engine, key: &Key, body: impl Fn(&mut Tx<'_>) -> Read<T>) -> T {
    let mut fetched = Fetched::default();
    loop {
        let wanted = {
            let mut tx = engine.begin(&[key.slot()], &fetched);
            match body(&mut tx) {
                Ok(out) => {
                    tx.commit().expect("the log takes it");
                    return out;
                }
                Err(Stop::Miss) => tx.abandon(),
                Err(Stop::Failed(error)) => panic!("{error}"),
            }
        };
        engine.fetch(wanted, &mut fetched).expect("the disk gives it");
    }
}

/// Elements of a collection in pages, as long as they may be read.
fn all_elements(tx: &mut Tx<'_>, key: &Key, generation: Generation) -> Read<Vec<(Bytes, Bytes)>> {
    let mut out: Vec<(Bytes, Bytes)> = Vec::new();
    loop {
        let last = out.last().map(|(sub, _)| sub.clone());
        let from = last.as_ref().map_or(Bound::Unbounded, |last| Bound::Excluded(&last[..]));
        let page = tx.elements(key, generation, from, Bound::Unbounded, Direction::Forward, 10)?;
        if page.is_empty() {
            return Ok(out);
        }
        out.extend(page);
    }
}

#[test]
fn what_is_still_does_not_change_whatever_is_written_flushed_and_removed() {
    let engine = crate::testing::engine();
    let key = Key::new(b"k");
    // Once with all in a file, once with all in memory, which is copied, and once with more than is copied.
    for (round, value) in [(0u8, vec![0; 8]), (1, vec![1; 8]), (2, vec![2; 8 << 10])] {
        let generation = run_cold(&engine, &key, |tx| {
            let generation = tx.next_generation(&key);
            tx.put(&key, &Value { generation: Some(generation), ..Value::whole(1, 1, &b""[..]) })?;
            (0..100u8).for_each(|sub| tx.put_element(&key, generation, &[sub], &value));
            Ok(generation)
        });
        if round == 0 {
            engine.flush(&[key.slot()]).expect("the disk takes it");
        }
        let still = engine.still(&[key.slot()], TimeMs(0));
        run_cold(&engine, &key, |tx| {
            (0..100u8).step_by(2).for_each(|sub| tx.delete_element(&key, generation, &[sub]));
            tx.put_element(&key, generation, &[200], b"new");
            Ok(())
        });
        engine.flush(&[key.slot()]).expect("the disk takes it");
        run_cold(&engine, &key, |tx| tx.delete(&key));
        engine.flush(&[key.slot()]).expect("the disk takes it");
        let fetched = Fetched::default();
        let mut tx = engine.begin_still(&still, &fetched);
        assert!(tx.read(&key, |_| ()).expect("reads wait").is_some());
        let elements = all_elements(&mut tx, &key, generation).expect("reads wait");
        assert_eq!(elements.len(), 100);
        assert!(
            elements
                .iter()
                .enumerate()
                .all(|(at, (sub, found))| usize::from(sub[0]) == at && *found == value)
        );
        still.end();
        assert!(
            matches!(all_elements(&mut tx, &key, generation), Err(Stop::Miss)),
            "nobody wants it any more"
        );
        drop(tx);
        engine.end_still(still).expect("there is nothing to flush");
        assert!(run_cold(&engine, &key, |tx| tx.read(&key, |_| ())).is_none());
    }
}

#[test]
fn a_transaction_reads_no_more_elements_than_it_may() {
    let engine = crate::testing::engine();
    let key = Key::new(b"k");
    let generation = run(&engine, &key, |tx| {
        let generation = tx.next_generation(&key);
        (0..100u8).for_each(|sub| tx.put_element(&key, generation, &[sub], b"v"));
        Ok(generation)
    });
    let fetched = Fetched::default();
    for (limit, reads) in [(usize::MAX, true), (101, true), (90, false), (1, false)] {
        let mut tx = engine.begin(&[key.slot()], &fetched);
        tx.limit_reads(limit);
        assert_eq!(all_elements(&mut tx, &key, generation).is_ok(), reads, "{limit}");
        assert_eq!(tx.has_read_enough(), !reads, "{limit}");
    }
}

#[test]
fn what_was_written_on_what_is_still_is_committed_unless_something_has_changed() {
    let engine = crate::testing::engine();
    let (key, other) = (Key::new(b"k"), Key::new(b"{k}2"));
    run(&engine, &key, |tx| tx.put(&key, &Value::whole(0, 0, &b"old"[..])));
    let fetched = Fetched::default();
    let payload = |key: &Key| run(&engine, key, |tx| tx.get(key)).map(|value| value.payload);
    for changes in [false, true] {
        let still = engine.still(&[key.slot()], TimeMs(0));
        let mut tx = engine.begin_still(&still, &fetched);
        assert!(tx.is_still());
        tx.put(&key, &Value::whole(0, 0, &b"new"[..])).expect("reads wait");
        assert_eq!(payload(&key), Some(Bytes::from_static(b"old")), "nobody else sees it");
        if changes {
            run(&engine, &other, |tx| tx.put(&other, &Value::whole(0, 0, &b"x"[..])));
        }
        let mut wrote = 0;
        let committed = tx.commit_now(|_, _| wrote += 1).expect("the log takes it");
        assert_eq!((committed.is_none(), wrote), (changes, usize::from(!changes)));
        assert_eq!(
            payload(&key),
            Some(if changes { Bytes::from_static(b"old") } else { Bytes::from_static(b"new") })
        );
        run(&engine, &key, |tx| tx.put(&key, &Value::whole(0, 0, &b"old"[..])));
        // Who has only read is answered whatever has changed.
        let mut tx = engine.begin_still(&still, &fetched);
        tx.get(&key).expect("reads wait");
        tx.discard().expect("nothing was written");
    }
}
