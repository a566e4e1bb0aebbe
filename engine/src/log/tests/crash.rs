//! Power lost, and operations failed, at every single I/O operation.

use super::*;

/// What a run knows for sure and what it tried.
#[derive(Default)]
struct Acknowledged {
    /// How many groups were synced.
    synced: usize,
    /// Every group that was appended, in order.
    groups: Vec<Vec<Written>>,
}

impl Acknowledged {
    /// Holds that `found` is a prefix of whole groups with at least what was synced.
    fn check(&self, found: &[Written], context: &str) -> usize {
        let mut rest = found;
        for (count, group) in self.groups.iter().enumerate() {
            match rest.strip_prefix(group.as_slice()) {
                Some(after) => rest = after,
                None => {
                    assert!(rest.is_empty(), "{context}: half a group, or a hole, after {count} groups");
                    assert!(count >= self.synced, "{context}: {count} groups of {} synced", self.synced);
                    return count;
                }
            }
        }
        assert!(rest.is_empty(), "{context}: records that nobody wrote");
        self.groups.len()
    }
}

/// Groups of several slots, some larger than a segment.
fn workload() -> Vec<Vec<Written>> {
    let sizes = [100, 3000, 20_000, 90_000, 10, 15_000, 40_000, 500, 64, 30_000];
    let mut seq = 0;
    sizes
        .iter()
        .map(|&bytes| {
            seq += 1;
            vec![(1, seq, bytes), (2, seq, 33), (3, seq, bytes / 3)]
        })
        .collect()
}

/// Appends and syncs what is not there yet, as a node does, until something fails.
fn run(fs: &MemoryFs, incarnation: u32, known: &mut Acknowledged) -> Result<()> {
    let opened = open(fs, incarnation)?;
    let there = known.check(&opened.records, "open");
    known.groups.truncate(there);
    for (number, group) in workload().into_iter().enumerate().skip(there) {
        known.groups.push(group.clone());
        append(&opened.log, &group)?;
        opened.log.write()?;
        if number % 3 == 2 {
            opened.log.sync()?;
            known.synced = number + 1;
        }
        if number % 4 == 1 {
            opened.log.prepare_next(Room::Zeroed)?;
        }
    }
    opened.log.stop_clean()?;
    known.synced = known.groups.len();
    Ok(())
}

fn operations_of_a_run() -> u64 {
    let fs = MemoryFs::new();
    run(&fs, 1, &mut Acknowledged::default()).unwrap();
    fs.operations()
}

#[test]
fn power_may_fail_at_every_operation_and_again_at_every_operation_of_recovery() {
    for stop in 0..operations_of_a_run() {
        let fs = MemoryFs::new();
        let mut known = Acknowledged::default();
        fs.stop_at(stop);
        let _ = run(&fs, 1, &mut known);
        for seed in [stop, stop + 1_000_000] {
            let fs = fs.crash(seed);
            let context = format!("stop {stop} seed {seed}");
            // How many operations a recovery takes, and what it finds.
            let whole = fs.restart();
            let found = open(&whole, 2).unwrap_or_else(|error| panic!("{context}: {error}"));
            let count = known.check(&found.records, &context);
            for second in 0..whole.operations() {
                let fs = fs.restart();
                fs.stop_at(second);
                assert!(open(&fs, 2).is_err());
                let again = open(&fs.crash(seed + second), 3)
                    .unwrap_or_else(|error| panic!("{context}/{second}: {error}"));
                let kept = known.check(&again.records, &context);
                assert_eq!(kept, count, "{context}/{second}: recovery has another result the second time");
            }
        }
    }
}

#[test]
fn a_node_that_loses_power_again_and_again_gets_to_the_end() {
    for seed in 0..60 {
        let mut fs = MemoryFs::new();
        let mut known = Acknowledged::default();
        let mut incarnation = 1;
        fs.stop_at(5 + seed);
        while run(&fs, incarnation, &mut known).is_err() {
            fs = fs.crash(seed * 1000 + u64::from(incarnation));
            incarnation += 1;
            assert!(incarnation < 50, "seed {seed}: never gets to the end");
            fs.stop_at(17 * (seed + u64::from(incarnation)) % 61);
            if incarnation > 40 {
                fs.stop_at(u64::MAX);
            }
        }
        let found = open(&fs.crash(seed), incarnation + 1).unwrap().records;
        assert_eq!(found, workload().concat(), "seed {seed}");
    }
}

#[test]
fn every_operation_may_fail_once_and_nothing_acknowledged_is_lost() {
    for number in 0..operations_of_a_run() {
        for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
            let fs = MemoryFs::new();
            let mut known = Acknowledged::default();
            fs.fail_operation(number, kind);
            let failed = run(&fs, 1, &mut known).is_err();
            for (found, how) in [(fs.crash(number), "crash"), (fs.restart(), "restart")] {
                let context = format!("operation {number} {kind} {how}, failed: {failed}");
                let opened = open(&found, 2).unwrap_or_else(|error| panic!("{context}: {error}"));
                known.check(&opened.records, &context);
                let durable = open(&found.crash(number + 7), 3).unwrap();
                assert_eq!(durable.records, opened.records, "{context}: what recovery showed is durable");
            }
        }
    }
}

#[test]
fn segments_may_be_removed_with_power_failing_at_every_operation() {
    let fs = MemoryFs::new();
    let opened = open(&fs, 1).unwrap();
    let all = some_records(800, 300);
    for record in &all {
        append(&opened.log, &[*record]).unwrap();
        opened.log.write().unwrap();
    }
    opened.log.sync().unwrap();
    opened.log.prepare_next(Room::Zeroed).unwrap();
    let segments = opened.log.segments();
    let from = segments[4].base;
    assert!(segments.len() > 5);
    for stop in 0..8 {
        for seed in 0..16 {
            let fs = fs.restart();
            let mut incarnation = 2;
            let log = open_at(&fs, Start { from, ..start(incarnation) }).unwrap().log;
            fs.stop_at(fs.operations() + stop);
            assert!(stop > 7 || log.remove_below(from).is_err());
            let fs = fs.crash(seed);
            incarnation += 1;
            let again = open_at(&fs, Start { from, ..start(incarnation) }).unwrap();
            assert!(all.ends_with(&again.records) && again.records.len() > 100);
            let live: Vec<_> =
                again.log.segments().iter().map(|info| info.base.0 / SEGMENT_BYTES_MIN).collect();
            let names: Vec<_> = fs.list(Path::new("/log")).unwrap();
            let on_disk: Vec<_> =
                names.iter().map(|entry| segment::number_of(&entry.name).unwrap()).collect();
            assert_eq!(live, on_disk, "what is on the disk is the log, and all of it");
        }
    }
}

#[test]
fn a_node_killed_at_every_operation_goes_on_and_then_loses_power_without_loss() {
    for stop in 0..operations_of_a_run() {
        let fs = MemoryFs::new();
        let mut known = Acknowledged::default();
        fs.stop_at(stop);
        let _ = run(&fs, 1, &mut known);
        let fs = fs.restart();
        run(&fs, 2, &mut known).unwrap();
        for seed in 0..4 {
            let found = open(&fs.crash(seed), 3).unwrap_or_else(|error| panic!("{stop}/{seed}: {error}"));
            assert_eq!(found.records, workload().concat(), "{stop}/{seed}");
        }
    }
}

/// Writes and syncs small records, so that the change of segments falls between two frames, until there are two
/// segments or the machine stops; gives what was synced and how many operations came before the last write.
fn fill_a_segment(fs: &MemoryFs) -> (Vec<Written>, u64) {
    let log = open(fs, 1).unwrap().log;
    log.prepare_next(Room::Zeroed).unwrap();
    let mut synced = Vec::new();
    loop {
        let record = (1, synced.len() as u64 + 1, 100);
        append(&log, &[record]).unwrap();
        let before = fs.operations();
        if log.write().is_err() || log.segments().len() == 2 {
            return (synced, before);
        }
        log.sync().unwrap();
        synced.push(record);
    }
}

#[test]
fn a_segment_whose_name_was_not_durable_when_the_node_was_killed_is_made_so() {
    let (all, before_change) = fill_a_segment(&MemoryFs::new());
    let mut changed = 0;
    for stop in before_change..before_change + 6 {
        let fs = MemoryFs::new();
        fs.stop_at(stop);
        assert_eq!(fill_a_segment(&fs).0, all);
        let fs = fs.restart();
        let log = open(&fs, 2).unwrap().log;
        changed += log.segments().len() - 1;
        let next = (1, all.len() as u64 + 1, 100);
        let there = read_all(&mut log.reader(Lsn(0))).len() > all.len();
        if !there {
            append(&log, &[next]).unwrap();
        }
        log.write().unwrap();
        log.sync().unwrap();
        for seed in 0..8 {
            let found = open(&fs.crash(seed), 3).unwrap().records;
            assert_eq!(found, [&all[..], &[next]].concat(), "{stop}/{seed}");
        }
    }
    assert!(changed >= 2, "the machine stopped after the rename, before and after the sync of the folder");
}
