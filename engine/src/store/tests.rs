use std::time::Duration;

use super::*;
use crate::clock::TimeMs;
use crate::fs::memory::MemoryFs;

struct Still;

impl Clock for Still {
    fn wall(&self) -> TimeMs {
        TimeMs(1_000_000)
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

fn open(fs: &MemoryFs) -> Store {
    let options = Options {
        memory_bytes: 1 << 20,
        log_segment_bytes: 64 << 10,
        seed: Some(7),
        own_copies: true,
        ..Options::default()
    };
    Store::open_on(Arc::new(fs.clone()), Path::new("/store"), Arc::new(Still), options).expect("opens")
}

fn all(store: &Store) -> Vec<(Bytes, Bytes)> {
    let mut entries: Vec<_> = store.scan().collect::<Result<_>>().expect("reads");
    entries.sort();
    entries
}

#[test]
fn what_is_written_is_read_scanned_and_there_again_after_a_restart() {
    let fs = MemoryFs::new();
    let store = open(&fs);
    let mut expected = Vec::new();
    // More than the memory, so that it lies in files and in memory.
    for number in 0..3000_u32 {
        let (key, value) = (format!("key {number:05}"), vec![b'v'; 300]);
        store.put(key.as_bytes(), value.clone()).expect("writes");
        expected.push((Bytes::from(key), Bytes::from(value)));
    }
    assert_eq!(store.get(b"key 00017").expect("reads"), Some(expected[17].1.clone()));
    assert!(store.delete(b"key 00017").expect("writes") && !store.delete(b"key 00017").expect("writes"));
    expected.remove(17);
    assert_eq!(all(&store), expected);
    let stats = store.stats();
    assert!(stats.flush_write_bytes > 0 && stats.runs > 0 && stats.pinned_bytes > 0);
    assert!(stats.write_amplification() > 1.0 && stats.record_bytes > 900_000);
    store.close().expect("closes");
    assert_eq!(all(&open(&fs.restart())), expected);
}

#[test]
fn a_value_many_times_as_large_as_a_segment_is_the_same_in_memory_in_the_log_and_in_files() {
    let fs = MemoryFs::new();
    let store = open(&fs);
    let mut expected = Vec::new();
    for (number, bytes) in [100, (17 << 20) + 3, 70_001, (1 << 20) + 1].into_iter().enumerate() {
        let value: Vec<u8> = (0..bytes).map(|at: usize| u8::try_from(at % 251).expect("below 251")).collect();
        let key = format!("key {number}");
        store.put(key.as_bytes(), value.clone()).expect("writes");
        assert!(store.get(key.as_bytes()).expect("reads") == Some(Bytes::from(value.clone())));
        expected.push((Bytes::from(key), Bytes::from(value)));
    }
    drop(store);
    let store = open(&fs.restart());
    assert!(all(&store) == expected, "replayed");
    store.close().expect("closes");
    assert!(all(&open(&fs.restart())) == expected, "from files");
}

#[test]
fn a_batch_happens_whole_and_its_last_write_of_a_key_wins() {
    let store = open(&MemoryFs::new());
    store.put(b"gone", "1").expect("writes");
    let mut batch = Batch::default();
    batch.put(b"a", "1").put(b"b", "1").put(b"a", "2").delete(b"gone").delete(b"never");
    assert!(batch.len() == 5 && !batch.is_empty());
    store.write(&batch).expect("writes");
    assert_eq!(
        all(&store),
        [("a", "2"), ("b", "1")].map(|(key, value)| (Bytes::from(key), Bytes::from(value)))
    );
}

#[test]
fn a_snapshot_stays_as_it_was() {
    let fs = MemoryFs::new();
    let store = open(&fs);
    let name = |number: u32| format!("{{one}}{number}");
    for number in 0..700 {
        store.put(name(number).as_bytes(), "old").expect("writes");
        if number == 400 {
            store.engine().flush_all().expect("flushes");
        }
    }
    let snapshot = store.snapshot(Store::slot(b"one"));
    for number in 0..700 {
        match number % 2 {
            0 => assert!(store.delete(name(number).as_bytes()).expect("writes")),
            _ => store.put(name(number).as_bytes(), "new").expect("writes"),
        }
    }
    store.engine().flush_all().expect("flushes");
    assert_eq!(snapshot.key_count(), 700);
    assert_eq!(snapshot.get(name(500).as_bytes()).expect("reads").as_deref(), Some(&b"old"[..]));
    let entries = snapshot.entries().collect::<Result<Vec<_>>>().expect("reads");
    assert!(entries.len() == 700 && entries.iter().all(|(_, value)| value == "old"));
    assert_eq!(all(&store).len(), 350);
}

#[test]
fn a_slot_that_is_not_the_stores_own_is_an_error_and_a_checkpoint_is_a_store() {
    let fs = MemoryFs::new();
    let store = open(&fs);
    store.put(b"k", "v").expect("writes");
    store.checkpoint(Path::new("/copy")).expect("copies");
    store.engine().remove_slots(&[Store::slot(b"k")]).expect("removes");
    assert!(matches!(store.put(b"k", "v"), Err(Error::Limit(_))));
    let copy = Store::open_on(
        Arc::new(fs.clone()),
        Path::new("/copy"),
        Arc::new(Still),
        Options { own_copies: true, seed: Some(8), ..Options::default() },
    );
    assert_eq!(copy.expect("opens").get(b"k").expect("reads").as_deref(), Some(&b"v"[..]));
}
