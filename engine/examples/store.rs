//! A store in a folder: `cargo run --release -p haypile-engine --example store -- FOLDER`.
//!
//! Counts how often it was run, writes a thousand keys in batches, reads them back, looks at a slot that changes
//! meanwhile, makes a copy of the store, and tells what it cost.

use std::path::PathBuf;

use haypile_engine::{Batch, Options, Result, Store};

fn main() -> Result<()> {
    let dir = std::env::args().nth(1).map_or_else(|| PathBuf::from("haypile-example"), PathBuf::from);
    let options = Options { memory_bytes: 64 << 20, ..Options::default() };
    let store = Store::open(dir.join("store"), options)?;

    let runs = store.get(b"runs")?.and_then(|text| String::from_utf8_lossy(&text).parse::<u64>().ok());
    let runs = runs.unwrap_or(0) + 1;
    store.put(b"runs", runs.to_string())?;
    println!("run number {runs}");

    // Each batch is one write of the log, and happens whole or not at all.
    for hundred in 0..10 {
        let mut batch = Batch::default();
        for number in hundred * 100..(hundred + 1) * 100 {
            batch.put(format!("key:{number}").as_bytes(), format!("value {number} of run {runs}"));
        }
        store.write(&batch)?;
    }

    // Several keys of one slot, read and changed with nobody between: a transaction.
    let counter = haypile_engine::key::Key::new(b"{visits}:total");
    let total = store.change(&[counter.slot()], |tx| {
        let old = tx.get(&counter)?.map_or(0, |value| value.payload.len());
        tx.put(&counter, &haypile_engine::value::Value::whole(0, 0, vec![b'x'; old + 1]))?;
        Ok(old + 1)
    })?;
    println!("{total} visits");

    let before = store.snapshot(Store::slot(b"key:7"));
    store.delete(b"key:7")?;
    println!(
        "key:7 is gone: {}; the snapshot has it: {}",
        store.get(b"key:7")?.is_none(),
        before.get(b"key:7")?.is_some()
    );

    let keys = store.scan().collect::<Result<Vec<_>>>()?;
    println!("{} keys", keys.len());

    let copy = dir.join(format!("copy-{runs}"));
    let made = store.checkpoint(&copy)?;
    println!("{}: {} files linked, {} copied", copy.display(), made.files_linked, made.files_copied);

    let stats = store.stats();
    println!(
        "write amplification {:.2}; {} of {} MiB of memory in memtables; writers waited {} times",
        stats.write_amplification(),
        stats.memtable_bytes >> 20,
        stats.memory_max >> 20,
        stats.stalls,
    );
    store.close()
}
