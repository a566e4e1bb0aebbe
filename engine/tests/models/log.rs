//! The log: appending, group commit, the gate that replies pass, the watermark.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use haypile_engine::log::record::{Body, Header};
use haypile_engine::log::segment::Room;
use haypile_engine::log::{Log, LogOptions, ReadOutcome, Start, Ticket, records};
use haypile_engine::signal::Signal;
use haypile_engine::types::{Lsn, NodeId, Seq, Slot};
use haypile_engine::worker::{Next, Stop, work};
use loom::future::block_on;
use loom::sync::Mutex;
use loom::thread;

use crate::disk::Disk;
use crate::explore;

/// A log on a disk of its own, and its slots, each under its lock.
pub struct Store {
    pub disk: Disk,
    pub log: Log,
    slots: [Mutex<Cell>; 2],
}

/// What a slot's lock protects: its last record.
#[derive(Default)]
struct Cell {
    last_seq: Seq,
    last_ticket: Ticket,
    last_body: Vec<u8>,
}

/// What a thread committed: the records' bodies and when their reply may leave.
pub struct Commit {
    bodies: Vec<Vec<u8>>,
    ticket: Ticket,
}

impl Store {
    /// An empty log that keeps `tail_bytes` in memory. Nothing of this is explored.
    pub fn new(tail_bytes: usize) -> Arc<Store> {
        let disk = Disk::new();
        let start = Start {
            node: NodeId([7; 20]),
            incarnation: 1,
            from: Lsn::ZERO,
            promised: Lsn::ZERO,
            clean_end: None,
        };
        let options =
            LogOptions { segment_bytes: 64 << 10, tail_bytes, pending_bytes: 0, room: Room::Zeroed };
        let (log, _) =
            Log::recover(Arc::new(disk.clone()), Path::new("/log"), start, options, &mut |_| Ok(()))
                .expect("an empty log opens");
        let slots = [Mutex::default(), Mutex::default()];
        Arc::new(Store { disk, log, slots })
    }

    /// One record in each of these slots (ascending), as a transaction makes them: under the slots' locks.
    pub fn commit(&self, by: &str, slots: &[u16]) -> haypile_engine::error::Result<Commit> {
        let mut cells: Vec<_> =
            slots.iter().map(|&slot| self.slots[usize::from(slot)].lock().expect("sound")).collect();
        let mut appender = self.log.begin()?;
        let mut bodies = Vec::new();
        for (&slot, cell) in slots.iter().zip(&cells) {
            let header = Header { slot: slot_of(slot), term: 1, seq: cell.last_seq.next() };
            let body = format!("<{by} {slot} {}>", header.seq.0).into_bytes();
            appender.push(header, &Body::Batch(&body))?;
            bodies.push(body);
        }
        let ticket = appender.finish();
        for (cell, body) in cells.iter_mut().zip(&bodies) {
            **cell = Cell { last_seq: cell.last_seq.next(), last_ticket: ticket, last_body: body.clone() };
        }
        Ok(Commit { bodies, ticket })
    }

    /// Whether all of a commit is in the file, or on the device.
    pub fn holds(&self, commit: &Commit, durably: bool) -> bool {
        commit.bodies.iter().all(|body| self.disk.holds(body, durably))
    }

    /// All records of the log, read from its files. The index leads to each: to its frame, or one before it.
    fn read(&self) -> Vec<(u16, u64)> {
        let mut reader = self.log.reader(Lsn::ZERO);
        let mut seen = Vec::new();
        loop {
            match reader.next() {
                ReadOutcome::Frame { records: body, lsn, .. } => {
                    let record = |record: Result<haypile_engine::log::record::Record<'_>, _>| {
                        let header = record.expect("a whole record").header;
                        let found = self.log.locate(header.slot, header.seq);
                        assert!(found.is_some_and(|found| found <= lsn), "the index leads past a record");
                        (header.slot.number(), header.seq.0)
                    };
                    seen.extend(records(&body).map(record));
                }
                ReadOutcome::CaughtUp => return seen,
                other => panic!("{other:?}"),
            }
        }
    }
}

impl Store {
    /// Each slot has so many records, in order, none twice.
    fn assert_dense(&self, counts: [u64; 2]) {
        let seen = self.read();
        for (slot, count) in (0..).zip(counts) {
            let seqs: Vec<u64> =
                seen.iter().filter(|record| record.0 == slot).map(|record| record.1).collect();
            assert_eq!(seqs, (1..=count).collect::<Vec<_>>(), "slot {slot}");
        }
    }

    /// Nothing is taken or acknowledged any more, also of what was reached before.
    fn assert_ended(&self) {
        assert!(self.commit("c", &[1]).is_err() && self.log.write().is_err() && self.log.sync().is_err());
        let watermark = self.log.watermark();
        assert!(watermark.poison().is_some());
        for ticket in [0, 1, 2] {
            assert!(
                watermark.is_written(Ticket(ticket)).is_err() && watermark.is_synced(Ticket(ticket)).is_err()
            );
            assert!(block_on(watermark.wait_written(Ticket(ticket))).is_err());
            assert!(watermark.block_synced(Ticket(ticket)).is_err());
        }
    }
}

fn slot_of(number: u16) -> Slot {
    Slot::new(number).expect("a slot")
}

#[test]
fn records_of_a_slot_lie_in_the_log_in_their_order_and_each_once() {
    explore(4, || {
        let store = Store::new(0);
        let other = {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                store.commit("b", &[0, 1]).expect("room");
                store.log.write().expect("written");
                store.commit("b", &[1]).expect("room");
                store.log.write().expect("written");
            })
        };
        store.commit("a", &[1]).expect("room");
        store.commit("a", &[0, 1]).expect("room");
        store.log.write().expect("written");
        other.join().expect("ends");
        store.assert_dense([2, 4]);
    });
}

#[test]
fn a_reply_that_waits_for_the_write_leaves_after_it_and_leaves() {
    explore(3, || {
        let store = Store::new(0);
        let other = {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                let commit = store.commit("b", &[0, 1]).expect("room");
                store.log.write().expect("written");
                block_on(store.log.watermark().wait_written(commit.ticket)).expect("sound");
                assert!(store.holds(&commit, false), "a reply before its write");
            })
        };
        // A read waits for the write that it saw, and makes none of its own.
        let (seen, ticket) = {
            let cell = store.slots[1].lock().expect("sound");
            (cell.last_body.clone(), cell.last_ticket)
        };
        block_on(store.log.watermark().wait_written(ticket)).expect("sound");
        assert!(seen.is_empty() || store.disk.holds(&seen, false), "a read's reply before the write");
        let commit = store.commit("a", &[0]).expect("room");
        store.log.write().expect("written");
        block_on(store.log.watermark().wait_written(commit.ticket)).expect("sound");
        assert!(store.holds(&commit, false), "a reply before its write");
        other.join().expect("ends");
        store.assert_dense([2, 1]);
    });
}

/// A client in the mode `always`: it commits, writes, calls for a sync, and waits for it.
fn always(store: &Store, by: &str, unsynced: &Signal) -> bool {
    let Ok(commit) = store.commit(by, &[0]) else { return false };
    if store.log.write().is_err() {
        return false;
    }
    unsynced.notify();
    let acknowledged = block_on(store.log.watermark().wait_synced(commit.ticket)).is_ok();
    assert!(!acknowledged || store.holds(&commit, true), "a reply before its sync");
    acknowledged
}

/// The thread that syncs, as in the background.
fn sync_until(stop: &Stop, unsynced: &Signal, log: &Log) {
    work(stop, unsynced, || match log.sync_written() {
        Ok(true) => Next::Again,
        Ok(false) => Next::Rest(Duration::from_secs(1)),
        Err(_) => Next::End,
    });
}

/// Two clients and the syncing thread; gives what became of the replies.
fn group_commit(store: &Arc<Store>) -> [bool; 2] {
    let (stop, unsynced) = (Arc::new(Stop::default()), Arc::new(Signal::default()));
    let syncer = {
        let (store, stop, unsynced) = (Arc::clone(store), Arc::clone(&stop), Arc::clone(&unsynced));
        thread::spawn(move || sync_until(&stop, &unsynced, &store.log))
    };
    let other = {
        let (store, unsynced) = (Arc::clone(store), Arc::clone(&unsynced));
        thread::spawn(move || always(&store, "b", &unsynced))
    };
    let mine = always(store, "a", &unsynced);
    let theirs = other.join().expect("ends");
    stop.raise(&[&unsynced]);
    syncer.join().expect("ends");
    [mine, theirs]
}

#[test]
fn a_reply_that_waits_for_the_sync_leaves_after_it_and_leaves() {
    explore(1, || {
        let store = Store::new(0);
        assert_eq!(group_commit(&store), [true, true]);
        store.assert_dense([2, 0]);
    });
}

#[test]
fn after_a_sync_that_failed_no_reply_leaves_and_nobody_waits() {
    explore(2, || {
        let store = Store::new(0);
        store.disk.fail_sync_after(0);
        assert_eq!(group_commit(&store), [false, false]);
        store.assert_ended();
    });
}

/// A client in the mode `always` that may block: it commits, writes, and syncs by itself if nobody else does.
fn by_itself(store: &Store, by: &str) -> bool {
    let Ok(commit) = store.commit(by, &[0]) else { return false };
    let acknowledged = store.log.write().is_ok() && store.log.sync_past(commit.ticket).is_ok();
    assert!(!acknowledged || store.holds(&commit, true), "a reply before its sync");
    acknowledged
}

/// Two such clients, and somebody who syncs for another reason; gives what became of the replies.
fn turns(store: &Arc<Store>) -> [bool; 2] {
    let flush = {
        let store = Arc::clone(store);
        thread::spawn(move || drop(store.log.sync()))
    };
    let other = {
        let store = Arc::clone(store);
        thread::spawn(move || by_itself(&store, "b"))
    };
    let mine = by_itself(store, "a");
    let theirs = other.join().expect("ends");
    flush.join().expect("ends");
    [mine, theirs]
}

#[test]
fn whoever_waits_for_a_sync_makes_it_or_waits_for_one() {
    explore(2, || {
        let store = Store::new(0);
        assert_eq!(turns(&store), [true, true]);
        store.assert_dense([2, 0]);
    });
}

#[test]
fn whoever_waits_for_a_sync_that_fails_hears_of_it() {
    explore(2, || {
        let store = Store::new(0);
        store.disk.fail_sync_after(0);
        assert_eq!(turns(&store), [false, false]);
        store.assert_ended();
    });
}

#[test]
fn after_a_write_that_failed_no_reply_leaves_and_nobody_waits() {
    explore(2, || {
        let store = Store::new(0);
        store.disk.fail_write_after(0);
        let acknowledged = group_commit(&store);
        assert_eq!(acknowledged, [false, false]);
        store.assert_ended();
    });
}

#[test]
fn the_watermark_only_grows_and_is_never_ahead_of_the_disk() {
    explore(3, || watermark(&Store::new(0)));
}

#[test]
fn the_watermark_stays_where_a_sync_failed() {
    explore(3, || {
        let store = Store::new(0);
        store.disk.fail_sync_after(1);
        watermark(&store);
        // However few syncs the two threads made, this is the second at least.
        let _ = store.commit("c", &[1]).and_then(|_| store.log.write()).and_then(|_| store.log.sync());
        store.assert_ended();
    });
}

/// One thread writes twice, two sync (the one in the background, and a flush), the model's own looks on.
fn watermark(store: &Arc<Store>) {
    let writer = {
        let store = Arc::clone(store);
        thread::spawn(move || {
            for _ in 0..2 {
                let Ok(_) = store.commit("a", &[0]) else { return };
                let _ = store.log.write();
            }
            let _ = store.log.sync();
        })
    };
    let syncer = {
        let store = Arc::clone(store);
        thread::spawn(move || drop(store.log.sync()))
    };
    let mut before = (0, 0);
    for _ in 0..2 {
        let watermark = store.log.watermark();
        let synced = watermark.synced();
        let written = watermark.written();
        assert!(synced.ticket <= written.ticket && synced.lsn <= written.lsn, "{synced:?} {written:?}");
        assert!(before <= (synced.ticket.0, written.ticket.0), "it went back");
        before = (synced.ticket.0, written.ticket.0);
        for ticket in 1..=2 {
            let body = format!("<a 0 {ticket}>").into_bytes();
            let durable =
                synced.ticket >= Ticket(ticket) || watermark.is_synced(Ticket(ticket)).unwrap_or(false);
            assert!(!durable || store.disk.holds(&body, true), "ahead of the disk");
        }
    }
    writer.join().expect("ends");
    syncer.join().expect("ends");
}
