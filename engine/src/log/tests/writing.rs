//! Appending, rotation, room, poison.

use super::*;

#[test]
fn what_is_written_comes_back_in_order_after_a_clean_stop_and_after_a_kill() {
    let fs = MemoryFs::new();
    let all = some_records(100, 50);
    let opened = open(&fs, 1).unwrap();
    assert_eq!(opened.recovered, Recovered { segments: 1, end: Lsn(64), ..Recovered::default() });
    for pair in all[..60].chunks(2) {
        append(&opened.log, pair).unwrap();
        opened.log.write().unwrap();
    }
    opened.log.stop_clean().unwrap();
    let again = open(&fs.crash(1), 2).unwrap();
    assert!(again.recovered.clean && again.recovered.cut.is_none());
    assert_eq!(again.records, all[..60]);
    // One group for many appends; what is never written is never read.
    let tickets: Vec<_> = all[60..99].iter().map(|record| append(&again.log, &[*record]).unwrap()).collect();
    assert!(tickets.iter().all(|ticket| *ticket == tickets[0]));
    assert_eq!(again.log.write().unwrap(), tickets[0]);
    let next = append(&again.log, &all[99..]).unwrap();
    assert_eq!(next, Ticket(tickets[0].0 + 1));
    assert_eq!(read_all(&mut again.log.reader(Lsn(0))), all[..99]);
}

#[test]
fn after_a_kill_everything_written_is_there_and_is_made_durable() {
    let fs = MemoryFs::new();
    let all = some_records(40, 50);
    let opened = open(&fs, 1).unwrap();
    append(&opened.log, &all[..39]).unwrap();
    opened.log.write().unwrap();
    append(&opened.log, &all[39..]).unwrap();
    let fs = fs.restart();
    let killed = open(&fs, 2).unwrap();
    assert_eq!(killed.records, all[..39]);
    assert!(!killed.recovered.clean);
    assert_eq!(killed.log.watermark().synced().lsn, killed.log.end());
    for seed in 0..8 {
        assert_eq!(open(&fs.crash(seed), 3).unwrap().records, all[..39]);
    }
}

#[test]
fn frames_cost_forty_bytes_at_most_and_segments_follow_each_other() {
    let fs = MemoryFs::new();
    let opened = open(&fs, 1).unwrap();
    let all = some_records(600, 300);
    let mut before = opened.log.end();
    for record in &all {
        append(&opened.log, &[*record]).unwrap();
        opened.log.write().unwrap();
        let after = opened.log.end();
        let in_segment = |lsn: Lsn| lsn.0 / SEGMENT_BYTES_MIN;
        if in_segment(before) == in_segment(after) {
            assert!(after.0 - before.0 <= (20 + record.2 + 40) as u64);
        }
        before = after;
    }
    let segments = opened.log.segments();
    assert!(segments.len() > 3);
    for (number, info) in segments.iter().enumerate() {
        assert_eq!(info.base, Lsn(number as u64 * SEGMENT_BYTES_MIN));
        assert_eq!(info.sealed, number + 1 < segments.len());
        assert_eq!(info.index.iter().len(), 7);
    }
    let again = open(&fs.restart(), 2).unwrap();
    assert_eq!(again.records, all);
    let indexes =
        |log: &Log| log.segments().into_iter().map(|info| (info.index, info.end)).collect::<Vec<_>>();
    assert_eq!(indexes(&again.log), indexes(&opened.log), "the indexes are made again as they were");
    // From the second segment on: the first is known by its seal.
    let second = Start { from: segments[1].base, ..start(3) };
    let later = open_at(&fs.restart(), second).unwrap();
    assert!(later.records.len() < all.len() && all.ends_with(&later.records));
    assert_eq!(indexes(&later.log), indexes(&opened.log));
}

#[test]
fn a_record_larger_than_a_segment_spans_several_and_is_whole_or_absent() {
    let fs = MemoryFs::new();
    let opened = open(&fs, 1).unwrap();
    let all = [(1, 1, 30_000), (2, 1, 200_000), (1, 2, 10)];
    for record in all {
        append(&opened.log, &[record]).unwrap();
        opened.log.write().unwrap();
    }
    opened.log.sync().unwrap();
    assert!(opened.log.segments().len() > 4);
    let again = open(&fs.crash(3), 2).unwrap();
    assert_eq!(again.records, all);
    assert_eq!(read_all(&mut again.log.reader(Lsn(0))), all);
    let at = again.log.locate(slot(2), Seq(1)).unwrap();
    assert_eq!(read_all(&mut again.log.reader(at)), all[1..]);
    // Readers that begin where the rest of it lies go on with the next whole one.
    assert_eq!(read_all(&mut again.log.reader(Lsn(2 * SEGMENT_BYTES_MIN))), all[2..]);
}

#[test]
fn an_append_that_is_dropped_leaves_nothing() {
    let fs = MemoryFs::new();
    let opened = open(&fs, 1).unwrap();
    append(&opened.log, &[(1, 1, 10)]).unwrap();
    let mut appender = opened.log.begin().unwrap();
    appender.push(Header { slot: slot(2), term: 1, seq: Seq(1) }, &Body::Batch(b"gone")).unwrap();
    assert_eq!(appender.bytes(), 24);
    drop(appender);
    assert_eq!(opened.log.begin().unwrap().finish(), Ticket(0), "an empty group waits for nothing");
    append(&opened.log, &[(1, 2, 10)]).unwrap();
    opened.log.write().unwrap();
    assert_eq!(read_all(&mut opened.log.reader(Lsn(0))), [(1, 1, 10), (1, 2, 10)]);
}

#[test]
fn without_space_appends_are_refused_nothing_accepted_is_lost_and_space_heals() {
    let fs = MemoryFs::new();
    let opened = open(&fs, 1).unwrap();
    fs.set_capacity(Some(SEGMENT_BYTES_MIN * 2 + 100));
    assert!(opened.log.prepare_next(Room::Zeroed).unwrap());
    assert!(!opened.log.prepare_next(Room::Zeroed).unwrap());
    let mut accepted = Vec::new();
    let refused = loop {
        let record = (1, accepted.len() as u64 + 1, 700);
        match append(&opened.log, &[record]) {
            Ok(_) => accepted.push(record),
            Err(error) => break error,
        }
        if accepted.len() % 3 == 0 {
            opened.log.write().unwrap();
        }
    };
    assert!(matches!(&refused, Error::ReadOnly(why) if why.contains("no space: ")), "{refused}");
    assert!(accepted.len() > 80, "{}", accepted.len());
    assert!(matches!(opened.log.state(), LogState::ReadOnly(_)));
    assert!(matches!(opened.log.begin().err().unwrap(), Error::ReadOnly(_)));
    assert!(matches!(opened.log.prepare_next(Room::Zeroed), Err(Error::ReadOnly(_))));
    opened.log.write().unwrap();
    opened.log.sync().unwrap();
    assert_eq!(read_all(&mut opened.log.reader(Lsn(0))), accepted);

    fs.set_capacity(Some(SEGMENT_BYTES_MIN * 4));
    assert!(opened.log.prepare_next(Room::Zeroed).unwrap());
    assert_eq!(opened.log.state(), LogState::Open);
    let last = (1, accepted.len() as u64 + 1, 700);
    append(&opened.log, &[last]).unwrap();
    opened.log.stop_clean().unwrap();
    accepted.push(last);
    assert_eq!(open(&fs.crash(5), 2).unwrap().records, accepted);
}

#[test]
fn a_record_for_which_there_is_no_space_is_refused_while_smaller_ones_are_taken() {
    let fs = MemoryFs::new();
    let opened = open(&fs, 1).unwrap();
    fs.set_capacity(Some(SEGMENT_BYTES_MIN * 3));
    let used_bytes = fs.used_bytes();
    assert!(matches!(append(&opened.log, &[(1, 1, 500_000)]), Err(Error::ReadOnly(_))));
    assert_eq!(fs.used_bytes(), used_bytes, "nothing was made of what it would have needed");
    append(&opened.log, &[(1, 1, 500)]).unwrap();
    opened.log.write().unwrap();
    assert_eq!(read_all(&mut opened.log.reader(Lsn(0))), [(1, 1, 500)]);
}

#[test]
fn after_a_failed_sync_or_write_everything_fails_for_ever() {
    for fail_write in [false, true] {
        let fs = MemoryFs::new();
        let opened = open(&fs, 1).unwrap();
        let log = &opened.log;
        append(log, &[(1, 1, 10)]).unwrap();
        let ticket = log.write().unwrap();
        log.sync().unwrap();
        append(log, &[(1, 2, 10)]).unwrap();
        if fail_write {
            fs.fail_operation(fs.operations(), ErrorKind::Other);
            assert!(matches!(log.write(), Err(Error::Poisoned(_))));
        } else {
            log.write().unwrap();
            fs.fail_operation(fs.operations(), ErrorKind::Other);
            assert!(matches!(log.sync(), Err(Error::Poisoned(_))));
        }
        assert!(matches!(log.begin().err().unwrap(), Error::Poisoned(_)));
        assert!(matches!(log.write(), Err(Error::Poisoned(_))));
        assert!(matches!(log.sync(), Err(Error::Poisoned(_))));
        assert!(matches!(log.prepare_next(Room::Zeroed), Err(Error::Poisoned(_))));
        assert!(matches!(log.stop_clean(), Err(Error::Poisoned(_))));
        assert!(matches!(log.watermark().block_synced(ticket), Err(Error::Poisoned(_))));
        assert!(matches!(log.state(), LogState::Poisoned(_)));
        let again = open(&fs.crash(1), 2).unwrap();
        assert_eq!(again.records, [(1, 1, 10)], "what was synced before is there, what failed is not");
    }
}

#[test]
fn many_threads_append_and_their_records_are_whole_and_in_order() {
    let fs = MemoryFs::new();
    let opened = open(&fs, 1).unwrap();
    let log = &opened.log;
    std::thread::scope(|scope| {
        for thread in 0..4u16 {
            scope.spawn(move || {
                for seq in 1..=200 {
                    let ticket = append(log, &[(thread, seq, 300), (thread + 10, seq, 5)]).unwrap();
                    if seq % 3 == 0 {
                        assert!(log.write().unwrap() >= ticket);
                    }
                    if seq % 50 == 0 {
                        log.sync().unwrap();
                        log.prepare_next(Room::Zeroed).unwrap();
                    }
                }
                let ticket = log.write().unwrap();
                log.sync().unwrap();
                log.watermark().block_synced(ticket).unwrap();
            });
        }
    });
    let found = open(&fs.crash(9), 2).unwrap().records;
    assert_eq!(found.len(), 4 * 200 * 2);
    for thread in [0, 1, 2, 3, 10, 11, 12, 13] {
        let seqs: Vec<_> = found.iter().filter(|record| record.0 == thread).map(|record| record.1).collect();
        assert!(seqs.iter().copied().eq(1..=200));
    }
}

#[test]
fn a_log_on_the_real_file_system_survives_restarts_and_rotation() {
    use crate::fs::real::RealFs;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut expected = Vec::new();
    for incarnation in 1..=4 {
        let mut found = Vec::new();
        let (log, recovered) =
            Log::recover(Arc::new(RealFs), &path, start(incarnation), OPTIONS, &mut |batch| {
                found.extend(batch.iter().map(|at| written(&at.record)));
                Ok(())
            })
            .unwrap();
        assert_eq!(found, expected);
        assert_eq!(recovered.clean, incarnation % 2 == 0, "every other stop is a clean one");
        for seq in 1..=50 {
            let record = (u16::try_from(incarnation).unwrap(), seq, 2000);
            append(&log, &[record]).unwrap();
            log.write().unwrap();
            expected.push(record);
        }
        log.prepare_next(Room::Zeroed).unwrap();
        assert_eq!(read_all(&mut log.reader(Lsn(0))), expected);
        if incarnation % 2 == 1 {
            log.stop_clean().unwrap();
        }
    }
    let names: Vec<_> = RealFs.list(&path).unwrap().into_iter().map(|entry| entry.name).collect();
    assert!(names.len() > 8 && names.last().unwrap().ends_with(".tmp"), "{names:?}");
}

#[test]
fn a_larger_segment_size_holds_for_new_segments_only() {
    let fs = MemoryFs::new();
    let log = open(&fs, 1).unwrap().log;
    let all: Vec<_> = (1..=600).map(|seq| (1, seq, 1000)).collect();
    for record in &all[..100] {
        append(&log, &[*record]).unwrap();
        log.write().unwrap();
    }
    let before = log.segments().len();
    let larger = LogOptions { segment_bytes: 2 * SEGMENT_BYTES_MIN, ..OPTIONS };
    for incarnation in 2..=3 {
        let mut found = Vec::new();
        let (log, _) =
            Log::recover(Arc::new(fs.clone()), Path::new("/log"), start(incarnation), larger, &mut |batch| {
                found.extend(batch.iter().map(|at| written(&at.record)));
                Ok(())
            })
            .unwrap();
        if incarnation == 3 {
            assert_eq!(found, all);
            let sizes: Vec<_> =
                log.segments().windows(2).map(|pair| pair[1].base.0 - pair[0].base.0).collect();
            assert!(sizes[..before].iter().all(|size| *size == SEGMENT_BYTES_MIN));
            assert!(
                sizes.len() > before && sizes[before..].iter().all(|size| *size == 2 * SEGMENT_BYTES_MIN)
            );
            return;
        }
        for record in &all[100..] {
            append(&log, &[*record]).unwrap();
            log.write().unwrap();
        }
    }
}
