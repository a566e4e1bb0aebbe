//! Readers of the log while it is written, goes on to its next segment and loses its oldest.

use std::sync::Arc;

use haypile_engine::log::record::{Body, Header};
use haypile_engine::log::{LogReader, ReadOutcome, records};
use haypile_engine::types::{Lsn, Seq, Slot};
use loom::future::block_on;
use loom::thread;

use crate::explore;
use crate::log::Store;

/// What the record `seq` of these models says: each byte tells which it is.
fn body(seq: u64, bytes: usize) -> Vec<u8> {
    vec![u8::try_from(seq).expect("few records"); bytes]
}

fn append(store: &Store, seq: u64, bytes: usize) {
    let mut appender = store.log.begin().expect("room");
    let header = Header { slot: Slot::new(0).expect("a slot"), term: 1, seq: Seq(seq) };
    appender.push(header, &Body::Batch(&body(seq, bytes))).expect("room");
    let _ = appender.finish();
    store.log.write().expect("written");
}

/// The seq of the one record in a frame, which must be whole and lie where the one before it ended.
fn seq_of(frame: &[u8], bytes: usize) -> u64 {
    let all: Vec<_> = records(frame).map(|record| record.expect("a whole record")).collect();
    assert_eq!(all.len(), 1);
    let seq = all[0].header.seq.0;
    assert!(matches!(&all[0].body, Body::Batch(ops) if *ops == body(seq, bytes)), "another's bytes");
    seq
}

/// Reads records one by one up to `last`, waiting for what is not written yet. Gives the first, if the log before was gone.
fn follow(store: &Store, reader: &mut LogReader, bytes: usize, last: u64) {
    let mut next_seq = 1;
    let mut at = Lsn::ZERO;
    while next_seq <= last {
        match reader.next() {
            ReadOutcome::Frame { lsn, next, records } => {
                assert!(at <= lsn && lsn < next && reader.position() == next, "{at} {lsn} {next}");
                assert_eq!(seq_of(&records, bytes), next_seq, "none left out, none twice");
                at = next;
                next_seq += 1;
            }
            ReadOutcome::CaughtUp => block_on(store.log.changed(reader.position())).expect("sound"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_reader_gets_each_frame_once_and_whole_from_memory_or_from_the_file() {
    // Room in memory for one frame, or two: others are read from the file that is being written.
    explore(2, || {
        let store = Store::new(300);
        let writer = {
            let store = Arc::clone(&store);
            thread::spawn(move || (1..=3).for_each(|seq| append(&store, seq, 40)))
        };
        follow(&store, &mut store.log.reader(Lsn::ZERO), 40, 3);
        writer.join().expect("ends");
    });
}

#[test]
fn a_reader_of_a_segment_that_goes_gets_its_frames_or_hears_that_they_are_gone() {
    // The third goes on into the next segment.
    const BYTES: usize = 30_000;
    explore(1, || {
        let store = Store::new(0);
        let writer = {
            let store = Arc::clone(&store);
            thread::spawn(move || (1..=3).for_each(|seq| append(&store, seq, BYTES)))
        };
        let remover = {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                let active = store.log.segments().last().expect("one is active").base;
                store.log.remove_below(active).expect("removed")
            })
        };
        let mut reader = store.log.reader(Lsn::ZERO);
        let mut next_seq = 1;
        loop {
            match reader.next() {
                ReadOutcome::Frame { records, .. } => {
                    assert_eq!(seq_of(&records, BYTES), next_seq, "none left out, none twice");
                    next_seq += 1;
                }
                ReadOutcome::CaughtUp if next_seq == 4 => break,
                ReadOutcome::CaughtUp => block_on(store.log.changed(reader.position())).expect("sound"),
                ReadOutcome::Gone => break,
                ReadOutcome::Corrupt(error) => panic!("{error}"),
            }
        }
        let gone = next_seq < 4;
        writer.join().expect("ends");
        let removed = remover.join().expect("ends");
        assert_eq!(store.log.segments().len() + removed, 2, "the log has gone on to its next segment");
        assert!(!gone || removed > 0, "what is there is not gone");
    });
}
