//! The loops of `haypile torture --sim` on a short workload, and that they notice what they are there to notice.
//!
//! `HAYPILE_SEED=N cargo test -p haypile-tests --test crash` repeats a seed; `HAYPILE_LONG=1` tries many. A release build
//! does a thousand times as many in the same time: `tests/run --only crash`.

use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::simulation::{Case, Machine, Node, Setup, Stopped, Tally, Workload, shrink};
use haypile_tests::seeds::seeds;

/// Cases that were found by the loops, and what they were.
const FOUND: &[(&str, &str)] = &[
    ("16/small/kill@16/power@8:1", "the first start's CURRENT was lost after a second start had built on it"),
    ("5006/spanning/kill@119", "log that a stop left behind its release stayed until the next release"),
    ("2/no-sync/part-eio@90:1", "a stop in order that failed at the manifest let writes be acknowledged"),
    (
        "1/small/full@61",
        "a file went although the manifest, whose sync had failed, named it for the next start",
    ),
    (
        "109/many-segments/eio@68",
        "a segment whose first frame was not there yet ended before it began: a panic, or all of memory flushed",
    ),
];

#[test]
fn a_stop_or_an_error_at_any_operation_breaks_no_promise() {
    for seed in seeds(2, 200) {
        let setup = Setup::ALL[usize::try_from(seed % Setup::ALL.len() as u64).expect("small")];
        let workload = Workload::of(seed, Setup { steps: 20, ..setup });
        let mut tally = Tally::default();
        if let Err(found) = workload.explore(&mut tally, &mut |_| true) {
            panic!("{} (of 20 steps)\n{}", found.case, found.violation);
        }
        println!("{tally:?}");
        assert!(tally.cycles > 200 && tally.torn > 0 && tally.recoveries > 0, "{tally:?}");
    }
}

#[test]
fn what_was_found_once_is_not_found_again() {
    for (text, story) in FOUND {
        let case: Case = text.parse().expect("a case");
        if let Err(found) = Workload::of(case.seed, case.setup).replay(&case.cuts) {
            panic!("{story}:\n{}", found.violation);
        }
    }
}

/// A node that did the steps of a seed; its disk half way, and everything that it promised to the end.
fn half_way(seed: u64) -> (Setup, Node, MemoryFs) {
    let setup = Setup::ALL[0];
    let steps = Workload::of(seed, setup).steps;
    let mut node = Node::new(setup, seed, MemoryFs::new(), Machine::Sound);
    node.start().expect("an empty folder opens");
    let (first, second) = steps.split_at(steps.len() / 2);
    node.run(first).expect("nothing is broken");
    let early = node.fs().restart();
    node.run(second).expect("nothing is broken");
    (setup, node, early)
}

#[test]
fn a_lie_about_what_was_written_is_found() {
    // The canary: if the model could not tell a lost write, all of the above would prove nothing.
    let (setup, node, early) = half_way(7);
    let told = node.told().lock().expect("no panic").clone();
    let after = |disk: MemoryFs| Node::after_stop(setup, 7, disk, told.clone(), node.clock().elapsed_ms());
    after(node.fs().restart()).recover(Stopped::Killed).expect("the truth passes");
    let lie = after(early).recover(Stopped::Killed).expect_err("half of the workload passed for all of it");
    assert!(lie.what.starts_with("slot "), "{lie}");
}

#[test]
fn a_disk_that_lies_about_syncs_is_found_and_the_story_of_it_is_short_and_repeats() {
    let workload = Workload::of(1, Setup::CANARY);
    let found =
        workload.cut_all(&mut Tally::default(), &mut |_| true).expect_err("it can't keep its promises");
    let again =
        Workload::of(found.case.seed, found.case.setup).replay(&found.case.cuts).expect_err("the same");
    assert_eq!((again.case, again.violation.what), (found.case.clone(), found.violation.what.clone()));
    let (short, why) = shrink(&workload, found, &mut || true);
    assert!(short.steps.len() <= 3, "{}", why.violation);
    assert!(short.replay(&why.case.cuts).is_err());
}
