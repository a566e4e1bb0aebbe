//! Readers: from memory, from files, across removed segments; retention as data.

use super::retention::{Needs, ReplicaNeed, SlotNeed, retain};
use super::*;

#[test]
fn a_reader_goes_from_the_files_into_memory_and_is_caught_up() {
    let fs = MemoryFs::new();
    let opened = open(&fs, 1).unwrap();
    let log = &opened.log;
    let all = some_records(500, 200);
    let mut live = log.reader(log.end());
    for (index, record) in all.iter().enumerate() {
        append(log, &[*record]).unwrap();
        assert!(matches!(live.next(), ReadOutcome::CaughtUp), "nothing pending is read");
        log.write().unwrap();
        assert!(live.in_memory());
        let ReadOutcome::Frame { records, next, .. } = live.next() else { panic!("record {index}") };
        assert_eq!(written(&super::super::records(&records).next().unwrap().unwrap()), *record);
        assert_eq!(next, log.end());
    }
    let mut old = log.reader(Lsn(0));
    assert!(!old.in_memory());
    assert_eq!(read_all(&mut old), all);
    assert_eq!(old.position(), log.end());
    // What comes later is seen by a reader whose last look was into a file.
    let mut from_file = log.reader(Lsn(0));
    read_all(&mut from_file);
    append(log, &[(50, 1, 5000)]).unwrap();
    log.write().unwrap();
    assert!(!from_file.in_memory(), "larger than the tail");
    assert_eq!(read_all(&mut from_file), [(50, 1, 5000)]);
}

#[test]
fn locate_finds_a_frame_at_or_before_the_record() {
    let fs = MemoryFs::new();
    let opened = open(&fs, 1).unwrap();
    let log = &opened.log;
    let all = some_records(400, 200);
    for pair in all.chunks(2) {
        append(log, pair).unwrap();
        log.write().unwrap();
    }
    for (index, record) in all.iter().enumerate() {
        let lsn = log.locate(slot(record.0), Seq(record.1)).unwrap();
        let found = read_all(&mut log.reader(lsn));
        assert!(found.contains(record) && all.ends_with(&found), "record {index}");
    }
    assert_eq!(log.locate(slot(1), Seq(0)), None);
    assert_eq!(log.locate(slot(1), Seq(999)), None);
    assert_eq!(log.locate(slot(900), Seq(1)), None);
}

#[test]
fn removed_segments_are_gone_for_new_readers_but_not_for_those_inside() {
    let fs = MemoryFs::new();
    let opened = open(&fs, 1).unwrap();
    let log = &opened.log;
    let all = some_records(600, 200);
    for record in &all {
        append(log, &[*record]).unwrap();
        log.write().unwrap();
    }
    let segments = log.segments();
    assert!(segments.len() >= 4);
    let mut inside = log.reader(Lsn(0));
    assert!(matches!(inside.next(), ReadOutcome::Frame { .. }));
    assert_eq!(log.remove_below(Lsn(segments[2].base.0 + 5)).unwrap(), 2);
    assert_eq!(log.remove_below(Lsn(segments[2].base.0 + 5)).unwrap(), 0);
    assert!(matches!(log.reader(Lsn(0)).next(), ReadOutcome::Gone));
    assert!(matches!(log.reader(segments[1].base).next(), ReadOutcome::Gone));
    let mut count = 1;
    loop {
        match inside.next() {
            ReadOutcome::Frame { .. } => count += 1,
            ReadOutcome::Gone => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(count > 50, "the rest of the segment that it was in");
    let rest = read_all(&mut log.reader(segments[2].base));
    assert!(all.ends_with(&rest));
    assert_eq!(log.remove_below(Lsn(u64::MAX)).unwrap(), segments.len() - 3, "the active one stays");
    log.stop_clean().unwrap();
    let from = log.segments()[0].base;
    let again = open_at(&fs.crash(1), Start { from, ..start(2) }).unwrap();
    assert!(all.ends_with(&again.records) && again.recovered.clean);
    assert!(
        matches!(open(&fs.crash(1), 2), Err(Error::Corrupt { .. })),
        "the manifest asks for what is gone"
    );
}

/// A replica that lagged behind a log of small segments kept thousands of files open, outside every budget.
#[test]
fn however_many_segments_are_kept_few_of_their_files_are_open() {
    const SEGMENT_BYTES: u64 = 512 << 10;
    let fs = MemoryFs::new();
    let options = LogOptions { segment_bytes: SEGMENT_BYTES, ..OPTIONS };
    let open = |fs: &MemoryFs, start| {
        let fs = Arc::new(fs.clone());
        Log::recover(fs, Path::new("/log"), start, options, &mut |_| Ok(())).unwrap().0
    };
    let log = open(&fs, start(1));
    let all: Vec<Written> = (1..=160).map(|seq| (3, seq, 128 << 10)).collect();
    let mut early = log.reader(Lsn(0));
    for record in &all {
        append(&log, &[*record]).unwrap();
        log.write().unwrap();
        if record.1 == 1 {
            assert!(matches!(early.next(), ReadOutcome::Frame { .. }));
        }
    }
    let segments = log.segments().len();
    assert!(segments > 38, "{segments}");
    assert!(log.open_files() <= 32);
    assert_eq!(read_all(&mut log.reader(Lsn(0))), all);
    assert!(log.open_files() <= 32);
    assert!(log.index_bytes() >= (segments - 1) * 32);
    log.stop_clean().unwrap();
    // A reader in a segment that goes has its file, or hears that it is gone.
    let middle = log.segments()[segments / 2].base;
    log.remove_below(middle).unwrap();
    let mut seqs = 2;
    loop {
        match early.next() {
            ReadOutcome::Frame { records, .. } => {
                let record = super::super::records(&records).next().unwrap().unwrap();
                assert_eq!(written(&record), all[seqs - 1]);
                seqs += 1;
            }
            ReadOutcome::Gone => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(seqs < 160);
    let again = open(&fs.restart(), Start { from: middle, ..start(2) });
    assert!(again.open_files() <= 32);
    let kept = read_all(&mut again.reader(middle));
    assert!(all.ends_with(&kept) && kept.len() > 60, "{}", kept.len());
}

#[test]
fn a_reader_for_some_slots_leaves_out_segments_without_them() {
    let fs = MemoryFs::new();
    let opened = open(&fs, 1).unwrap();
    let log = &opened.log;
    let write = |record| {
        append(log, &[record]).unwrap();
        log.write().unwrap();
    };
    write((5, 1, 10));
    (1..400).for_each(|seq| write((1, seq, 400)));
    write((5, 2, 10));
    (400..800).for_each(|seq| write((1, seq, 400)));
    let mut reader = log.reader(Lsn(0));
    let mut seen = Vec::new();
    let mut frames = 0;
    loop {
        reader.skip_to_slots(|wanted| wanted == slot(5));
        let ReadOutcome::Frame { records, .. } = reader.next() else { break };
        frames += 1;
        seen.extend(
            super::super::records(&records).map(|record| written(&record.unwrap())).filter(|r| r.0 == 5),
        );
    }
    assert_eq!(seen, [(5, 1, 10), (5, 2, 10)]);
    assert!(frames < 300, "{frames} of 801");
}

#[test]
fn a_flipped_bit_is_an_answer_of_its_own() {
    let fs = MemoryFs::new();
    let opened = open(&fs, 1).unwrap();
    let log = &opened.log;
    for seq in 1..=60 {
        append(log, &[(1, seq, 200)]).unwrap();
        log.write().unwrap();
    }
    fs.open(&segment_path(0), OpenMode::Write).unwrap().write_at(b"X", 400).unwrap();
    let mut reader = log.reader(Lsn(0));
    assert!(matches!(reader.next(), ReadOutcome::Frame { .. }));
    let ReadOutcome::Corrupt(Error::Corrupt { offset, .. }) = reader.next() else { panic!("not noticed") };
    assert_eq!(offset, 320);
}

#[test]
fn readers_on_other_threads_see_every_record_once_and_are_woken_for_it() {
    let fs = MemoryFs::new();
    let opened = open(&fs, 1).unwrap();
    let log = &opened.log;
    let all = some_records(2000, 150);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut reader = log.reader(Lsn(0));
                let mut seen = Vec::new();
                while seen.len() < all.len() {
                    log.watermark().block_beyond(reader.position()).unwrap();
                    seen.extend(read_all(&mut reader));
                }
                assert_eq!(seen, all);
            });
        }
        for group in all.chunks(3) {
            append(log, group).unwrap();
            log.write().unwrap();
        }
    });
}

/// Segments of 100 bytes from 0 on; of each the slots with first and last seq. The last one is active.
fn segments(slots: &[&[(u16, u64, u64)]]) -> Vec<SegmentInfo> {
    let count = slots.len() as u64;
    let info = |(number, slots): (u64, &&[(u16, u64, u64)])| {
        let mut index = index::GrowingIndex::default();
        for &(number, first, last) in *slots {
            (first..=last)
                .for_each(|seq| index.add(slot(number), Seq(seq), u32::try_from(seq % 100).unwrap()));
        }
        let base = Lsn(number * 100);
        SegmentInfo {
            base,
            end: Lsn(base.0 + 100),
            sealed: number + 1 < count,
            index: Arc::new(index.snapshot()),
        }
    };
    (0..).zip(slots).map(info).collect()
}

#[test]
fn retention_decides_as_the_table_says() {
    struct Case {
        name: &'static str,
        /// Slot, flushed, base.
        slots: &'static [(u16, u64, u64)],
        /// Of one replica each: slot, acked.
        replicas: &'static [&'static [(u16, u64)]],
        budgets: (u64, u64),
        keeps_from: u64,
        releases: &'static [(u8, u16)],
        flushes: &'static [u16],
    }
    const BIG: (u64, u64) = (10_000, 10_000);
    let cases = [
        Case {
            name: "nobody needs anything: all but the active one may go",
            slots: &[(1, 30, 0), (2, 9, 0)],
            replicas: &[],
            budgets: BIG,
            keeps_from: 300,
            releases: &[],
            flushes: &[],
        },
        Case {
            name: "an unflushed slot holds its segment",
            slots: &[(1, 15, 0), (2, 9, 0)],
            replicas: &[],
            budgets: BIG,
            keeps_from: 100,
            releases: &[],
            flushes: &[],
        },
        Case {
            name: "an absent slot holds nothing",
            slots: &[(2, 9, 0)],
            replicas: &[],
            budgets: BIG,
            keeps_from: 300,
            releases: &[],
            flushes: &[],
        },
        Case {
            name: "records of an earlier life hold nothing",
            slots: &[(1, 0, 200), (2, 9, 0)],
            replicas: &[],
            budgets: BIG,
            keeps_from: 200,
            releases: &[],
            flushes: &[],
        },
        Case {
            name: "a replica holds what it lacks",
            slots: &[(1, 30, 0), (2, 9, 0)],
            replicas: &[&[(1, 30)], &[(2, 4)]],
            budgets: BIG,
            keeps_from: 0,
            releases: &[],
            flushes: &[],
        },
        Case {
            name: "an idle slot's replica holds nothing",
            slots: &[(1, 30, 0), (2, 9, 0)],
            replicas: &[&[(2, 9), (1, 20)]],
            budgets: BIG,
            keeps_from: 200,
            releases: &[],
            flushes: &[],
        },
        Case {
            name: "over the replicas' budget those on the oldest segments are released, others stay",
            slots: &[(1, 30, 0), (2, 9, 0)],
            replicas: &[&[(1, 30), (2, 3)], &[(1, 12)]],
            budgets: (10_000, 350),
            keeps_from: 100,
            releases: &[(0, 2)],
            flushes: &[],
        },
        Case {
            name: "what is unflushed anyway is not the replicas' fault",
            slots: &[(1, 2, 0), (2, 9, 0)],
            replicas: &[&[(1, 2)]],
            budgets: (10_000, 0),
            keeps_from: 0,
            releases: &[],
            flushes: &[],
        },
        Case {
            name: "over the unflushed budget the slots in the oldest segments are flushed, oldest first",
            slots: &[(1, 15, 0), (2, 3, 0), (3, 0, 0)],
            replicas: &[],
            budgets: (250, 10_000),
            keeps_from: 0,
            releases: &[],
            flushes: &[2, 1],
        },
    ];
    let log =
        segments(&[&[(1, 1, 10), (2, 1, 9)], &[(1, 11, 20)], &[(1, 21, 25)], &[(1, 26, 30), (3, 1, 2)]]);
    for case in cases {
        let slots = case.slots.iter().map(|&(number, flushed, base)| {
            (slot(number), SlotNeed { flushed: Seq(flushed), base: Lsn(base) })
        });
        let replicas = case.replicas.iter().enumerate().map(|(index, acked)| ReplicaNeed {
            replica: NodeId([u8::try_from(index).unwrap(); 20]),
            acked: acked.iter().map(|&(number, seq)| (slot(number), Seq(seq))).collect(),
        });
        let needs = Needs {
            slots: slots.collect(),
            replicas: replicas.collect(),
            unflushed_bytes_max: case.budgets.0,
            replica_bytes_max: case.budgets.1,
        };
        let decision = retain(&log, &needs);
        assert_eq!(decision.remove_below, Lsn(case.keeps_from), "{}", case.name);
        let releases: Vec<_> =
            decision.release.iter().map(|(node, slot)| (node.0[0], slot.number())).collect();
        assert_eq!(releases, case.releases, "{}", case.name);
        let flushes: Vec<_> = decision.flush.iter().map(|slot| slot.number()).collect();
        assert_eq!(flushes, case.flushes, "{}", case.name);
    }
}
