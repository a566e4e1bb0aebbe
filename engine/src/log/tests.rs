use super::record::{Body, Header};
use super::segment::SEGMENT_BYTES_MIN;
use super::*;
use crate::error::{Error, Result};
use crate::fs::memory::MemoryFs;
use crate::fs::{Fs, OpenMode};
use crate::types::{NodeId, Seq, Slot};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod crash;
mod damage;
mod reading;
mod writing;

const NODE: NodeId = NodeId([7; 20]);
const OPTIONS: LogOptions =
    LogOptions { segment_bytes: SEGMENT_BYTES_MIN, tail_bytes: 4096, pending_bytes: 0, room: Room::Zeroed };

fn slot(number: u16) -> Slot {
    Slot::new(number).unwrap()
}

/// A record as a test names it: slot, seq, bytes of its body.
type Written = (u16, u64, usize);

fn body(record: Written) -> Vec<u8> {
    let (slot, seq, bytes) = record;
    let seed = u64::from(slot) * 31 + seq * 7;
    (0..bytes).map(|index| u8::try_from((seed + index as u64 * 13) % 251).unwrap()).collect()
}

fn append(log: &Log, records: &[Written]) -> Result<Ticket> {
    let mut appender = log.begin()?;
    for &record in records {
        let header = Header { slot: slot(record.0), term: 1, seq: Seq(record.1) };
        appender.push(header, &Body::Batch(&body(record)))?;
    }
    Ok(appender.finish())
}

fn written(record: &super::record::Record<'_>) -> Written {
    let Body::Batch(ops) = &record.body else { panic!("only batches are written here") };
    let found = (record.header.slot.number(), record.header.seq.0, ops.len());
    assert_eq!(*ops, body(found), "the record holds its own bytes");
    found
}

struct Opened {
    log: Log,
    recovered: Recovered,
    records: Vec<Written>,
}

fn start(incarnation: u32) -> Start {
    Start { node: NODE, incarnation, from: Lsn(0), promised: Lsn(0), clean_end: None }
}

fn open_at(fs: &MemoryFs, start: Start) -> Result<Opened> {
    let mut records = Vec::new();
    let (log, recovered) =
        Log::recover(Arc::new(fs.clone()), Path::new("/log"), start, OPTIONS, &mut |found| {
            records.extend(found.iter().map(|at| written(&at.record)));
            Ok(())
        })?;
    assert_eq!(recovered.records, records.len() as u64);
    assert_eq!(recovered.end, log.end());
    Ok(Opened { log, recovered, records })
}

fn open(fs: &MemoryFs, incarnation: u32) -> Result<Opened> {
    open_at(fs, start(incarnation))
}

fn segment_path(number: u64) -> PathBuf {
    super::segment::path_of(Path::new("/log"), number)
}

fn read_file(fs: &MemoryFs, path: &Path) -> Vec<u8> {
    let file = fs.open(path, OpenMode::Read).unwrap();
    let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// Reads to the end.
fn read_all(reader: &mut LogReader) -> Vec<Written> {
    let mut all = Vec::new();
    loop {
        match reader.next() {
            ReadOutcome::Frame { records, .. } => {
                all.extend(super::records(&records).map(|record| written(&record.unwrap())));
            }
            ReadOutcome::CaughtUp => return all,
            other => panic!("{other:?}"),
        }
    }
}

/// `count` records of a few slots, seqs dense per slot.
fn some_records(count: u64, bytes: usize) -> Vec<Written> {
    let mut seqs = BTreeMap::new();
    (0..count)
        .map(|number| {
            let slot = u16::try_from(number * 5 % 7).unwrap();
            let seq = seqs.entry(slot).and_modify(|seq| *seq += 1).or_insert(1);
            (slot, *seq, bytes + usize::try_from(number % 97).unwrap())
        })
        .collect()
}

#[test]
fn the_formats_document_repeats_the_tables() {
    let document = include_str!("../../../docs/FORMAT.md");
    let sources = [
        include_str!("segment.rs"),
        include_str!("frame.rs"),
        include_str!("index.rs"),
        include_str!("record.rs"),
    ];
    for source in sources {
        let head: String = source
            .lines()
            .map_while(|line| line.strip_prefix("//!"))
            .map(|line| line.strip_prefix(' ').unwrap_or(line).to_owned() + "\n")
            .collect();
        let table = head.split("```").nth(1).unwrap();
        assert!(table.lines().count() > 4);
        assert!(document.contains(table), "docs/FORMAT.md lacks this table:\n{table}");
    }
}
