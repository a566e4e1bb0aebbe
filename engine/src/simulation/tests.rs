use super::*;
use crate::fs::memory::{Action, MemoryFs};

fn go_on(_: &Tally) -> bool {
    true
}

#[test]
fn a_case_is_a_text_that_repeats_it() {
    for text in [
        "7/small",
        "7/always/power@12:3/kill@4",
        "1/tiny-memory/torn@5:7",
        "2/small/eio@30",
        "2/small/part-full@3:1",
    ] {
        assert_eq!(text.parse::<Case>().unwrap().to_string(), text);
    }
    for text in ["", "x/small", "7/nothing", "7/small/power@12", "7/small/kill@x", "7/small/burn@3"] {
        assert!(text.parse::<Case>().is_err(), "{text}");
    }
}

#[test]
fn the_same_seed_is_the_same_run_background_work_included() {
    let run = |setup: &Setup| {
        let fs = MemoryFs::new();
        fs.record_operations(true);
        let mut node = Node::new(*setup, 11, fs.clone(), Machine::Sound);
        node.start().unwrap();
        node.run(&Workload::of(11, *setup).steps).unwrap();
        let told: Vec<String> = fs.journal().iter().map(ToString::to_string).collect();
        (told, node.contents().unwrap())
    };
    for setup in Setup::ALL {
        let (once, twice) = (run(setup), run(setup));
        assert!(once.0.len() > 30, "{}: {} operations", setup.name, once.0.len());
        assert_eq!(once, twice, "{}", setup.name);
    }
}

/// What the sets are there for: nothing is cached in one of them, and there are many flushes, segments and starts.
#[test]
fn a_workload_with_tiny_memory_reads_files_and_caches_nothing_and_small_segments_are_many() {
    let ran = |name: &str| {
        let setup = Setup::named(name).unwrap();
        let mut node = Node::new(setup, 3, MemoryFs::new(), Machine::Sound);
        node.start().unwrap();
        let steps = Workload::of(3, setup).steps;
        steps.iter().filter(|step| **step != Step::Restart).for_each(|step| _ = node.step(step).unwrap());
        node.contents().unwrap();
        (node.engine().stats(), node.engine().log_end())
    };
    let (tiny, _) = ran("tiny-memory");
    assert!(tiny.cache_hits == 0 && tiny.cache_misses > 10 && tiny.cache_bytes == 0, "{tiny:?}");
    assert!(tiny.flush_write_bytes > 0 && tiny.compaction_write_bytes > 0, "{tiny:?}");
    let (_, end) = ran("many-segments");
    assert!(end.0 > 2 * (64 << 10), "the log ends at {end}");
}

#[test]
fn every_set_of_options_survives_a_few_cuts_and_failures() {
    for setup in Setup::ALL {
        let short = Setup { steps: 8, ..*setup };
        let mut tally = Tally::default();
        if let Err(found) = Workload::of(3, short).explore(&mut tally, &mut go_on) {
            panic!("{}\n{}", found.case, found.violation);
        }
        assert!(tally.cycles > 100, "{tally:?}");
    }
}

#[test]
fn a_workload_of_many_manifests_begins_files_while_it_runs() {
    let (fs, setup) = (MemoryFs::new(), Setup::named("many-manifests").unwrap());
    fs.record_operations(true);
    let mut node = Node::new(setup, 1, fs.clone(), Machine::Sound);
    node.start().unwrap();
    let steps = Workload::of(1, setup).steps;
    node.run(&steps).unwrap();
    let starts = 1 + steps.iter().filter(|step| **step == Step::Restart).count();
    let journal = fs.journal();
    let begun = journal.iter().filter(|done| {
        matches!(done.action, Action::Rename(_)) && done.path.ends_with("haypile/manifest/CURRENT.tmp")
    });
    let begun = begun.count();
    assert!(begun > starts + 2, "{begun} manifest files in {starts} starts");
}

#[test]
fn a_workload_on_a_full_disk_is_refused_things_and_one_of_sync_modes_changes_them() {
    let refused = |seed| {
        let setup = Setup::named("full-disk").unwrap();
        let mut node = Node::new(setup, seed, MemoryFs::new(), Machine::Sound);
        node.start().unwrap();
        let steps = Workload::of(seed, setup).steps;
        steps.iter().filter(|step| matches!(node.step(step).unwrap(), Done::Refused(_))).count()
    };
    let refused: Vec<usize> = (0..5).map(refused).collect();
    assert!(refused.iter().sum::<usize>() > 20, "{refused:?}");
    let steps = Workload::of(1, Setup::named("sync-modes").unwrap()).steps;
    assert!(steps.iter().filter(|step| matches!(step, Step::SyncMode(_))).count() > 5);
}
