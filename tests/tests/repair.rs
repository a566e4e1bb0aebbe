//! `haypile repair`: gives up what is damaged and keeps the rest, whatever is damaged and wherever it is killed.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use haypile_engine::fs::Fs;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::inspect::{self, Damage, Depth};
use haypile_engine::repair::Doubtful;
use haypile_engine::slot::Role;
use haypile_engine::types::Slot;
use haypile_server::tools::{self, Answer, Wanted};
use haypile_tests::store::{Content, DIR, check, content, files, filled, key, open, overwrite, read, slot};

fn content_of(fs: &MemoryFs) -> Content {
    content(&open(&fs.restart()).expect("opens")).expect("reads")
}

fn damage(fs: &MemoryFs) -> Damage {
    inspect::check(fs, Path::new(DIR), Depth::Everything, &mut |_| {}).expect("it can be checked").damage
}

/// Runs `haypile repair`; its status, or why it could not, and what it said.
fn repair(fs: &MemoryFs, slots: &[Slot], doubtful: Doubtful, answer: Answer) -> (Result<u8, String>, String) {
    let fs: Arc<dyn Fs> = Arc::new(fs.clone());
    let mut out = Vec::new();
    let wanted = Wanted { slots, doubtful };
    let done = tools::repair(&fs, Path::new(DIR), &wanted, &mut out, &mut |_| answer);
    (done.map_err(|why| why.to_string()), String::from_utf8(out).expect("text"))
}

/// Repairs as the check says, and holds that all that is not named is there, as it was.
fn repair_and_compare(fs: &MemoryFs, before: &Content, what: &str) {
    let Damage { lost, doubtful, .. } = damage(fs);
    let lost: Vec<Slot> = lost.into_keys().collect();
    let (status, said) = repair(fs, &lost, Doubtful::Keep, Answer::Yes);
    assert_eq!(status, Ok(tools::FINE), "{what}: {said}");
    is_whole_but(fs, before, &lost, &doubtful.into_keys().collect(), what);
}

fn is_whole_but(fs: &MemoryFs, before: &Content, lost: &[Slot], doubtful: &BTreeSet<Slot>, what: &str) {
    let (status, said) = check(fs);
    assert_eq!(status, tools::FINE, "{what}: after the repair: {said}");
    let engine = open(fs).unwrap_or_else(|error| panic!("{what}: {error}"));
    let after = content(&engine).unwrap_or_else(|error| panic!("{what}: {error}"));
    for (slot, entries) in before {
        if lost.contains(slot) {
            assert_eq!(engine.role(*slot), Role::Absent, "{what}: slot {slot} was given up");
        } else if !doubtful.contains(slot) {
            let kept = after.get(slot).unwrap_or_else(|| panic!("{what}: slot {slot} was to be kept"));
            let other = entries.iter().find(|(key, value)| kept.get(*key) != Some(value));
            assert!(other.is_none() && kept.len() == entries.len(), "{what}: slot {slot}: {other:?}");
        }
    }
}

/// The first place of a file in which these bytes stand.
fn find(bytes: &[u8], wanted: &[u8]) -> usize {
    bytes.windows(wanted.len()).position(|window| window == wanted).expect("it is there")
}

fn segments(fs: &MemoryFs) -> Vec<String> {
    files(fs, "/store/log").into_iter().filter(|path| path.ends_with(".log")).collect()
}

#[test]
fn damage_to_a_record_costs_its_slot_and_nothing_else() {
    let fs = filled();
    let before = content_of(&fs);
    // The last value that all slots got in one frame, in the record of slot 2.
    let name = key(slot(2), "last").user().to_vec();
    let (path, at) = segments(&fs)
        .into_iter()
        .filter_map(|path| {
            let bytes = read(&fs, &path);
            let at = bytes.windows(name.len()).position(|window| window == name)?;
            Some((path, at))
        })
        .next_back()
        .expect("it was written");
    overwrite(&fs, &path, at, b"X");
    let error = open(&fs).err().expect("a start refuses");
    let advice = tools::advice(&fs, Path::new(DIR), &error);
    assert!(advice.contains("haypile repair /store --slots 2\n"), "{advice}");
    assert!(advice.contains("haypile check /store"), "{advice}");
    let found = damage(&fs);
    assert_eq!(found.lost.keys().copied().collect::<Vec<_>>(), [slot(2)]);
    assert!(found.doubtful.is_empty(), "{found:?}");

    let (refused, _) = repair(&fs, &[slot(1)], Doubtful::Keep, Answer::Yes);
    assert!(refused.expect_err("2 is damaged").contains("--slots 1-2"));
    let (status, said) = repair(&fs, &[slot(2)], Doubtful::Refuse, Answer::Nobody);
    assert_eq!(status, Ok(tools::FAILED));
    assert!(said.contains("slot 2 (master) will be given up") && said.contains("add --yes"), "{said}");
    let (status, said) = repair(&fs, &[slot(2)], Doubtful::Refuse, Answer::No);
    assert_eq!((status, said.lines().last()), (Ok(tools::FAILED), Some("left as it was")));
    assert!(open(&fs).is_err(), "nothing has changed");

    repair_and_compare(&fs, &before, "a record");
    assert!(files(&fs, "/store/trash").iter().any(|path| path.ends_with(".log")));
    let (status, said) = repair(&fs, &[], Doubtful::Refuse, Answer::Yes);
    assert_eq!(status, Ok(tools::FINE));
    assert!(said.contains("nothing to repair"), "{said}");
}

#[test]
fn damage_to_a_run_costs_its_slot_and_nothing_else() {
    let fs = filled();
    let before = content_of(&fs);
    let name = key(slot(3), "key7").user().to_vec();
    let pack = files(&fs, "/store/data")
        .into_iter()
        .find(|path| read(&fs, path).windows(name.len()).any(|window| window == name));
    let pack = pack.expect("it was flushed");
    overwrite(&fs, &pack, find(&read(&fs, &pack), &name), b"X");
    assert_eq!(damage(&fs).lost.into_keys().collect::<Vec<_>>(), [slot(3)]);
    repair_and_compare(&fs, &before, "a run");
    let name = pack.rsplit('/').next().expect("a name");
    assert!(files(&fs, "/store/trash/data").iter().any(|path| path.ends_with(name)), "{name}");
}

#[test]
fn files_that_are_missing_cost_what_was_in_them() {
    let fs = filled();
    let before = content_of(&fs);
    let all = [files(&fs, "/store/data"), segments(&fs), vec!["/store/manifest/CURRENT".to_owned()]].concat();
    for path in all {
        let fs = fs.restart();
        fs.remove(Path::new(&path)).expect("it was there");
        repair_and_compare(&fs, &before, &format!("{path} removed"));
    }
}

#[test]
fn any_flipped_bit_can_be_repaired_and_what_is_not_named_is_kept() {
    let fs = filled();
    let before = content_of(&fs);
    let (mut repaired, mut with_doubt) = (0, 0);
    for path in files(&fs, DIR) {
        if path.ends_with(".tmp") || path.ends_with("LOCK") {
            continue;
        }
        let bytes = read(&fs, &path);
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        for at in (0..used).step_by(1 + used / 40) {
            let bad = fs.restart();
            overwrite(&bad, &path, at, &[bytes[at] ^ 1 << (at % 8)]);
            let found = damage(&bad);
            if found == Damage::default() {
                continue;
            }
            repaired += 1;
            with_doubt += u32::from(!found.doubtful.is_empty());
            repair_and_compare(&bad, &before, &format!("{path} byte {at}"));
        }
    }
    assert!(repaired > 150, "{repaired}");
    assert!(with_doubt < repaired / 2, "{with_doubt} of {repaired} in doubt");
}

#[test]
fn a_repair_may_be_killed_anywhere_and_is_run_again() {
    cut_everywhere(|fs| fs.restart());
}

/// Where there are no links, what goes is copied. A copy that was cut stood in the way of every later repair.
#[test]
fn a_repair_may_be_killed_anywhere_also_where_files_can_not_be_linked() {
    cut_everywhere(|fs| {
        let fs = fs.restart();
        fs.forbid_links();
        fs
    });
}

/// The mark of a repair that was cut: where a bit of it is flipped, a check says what is to be given up, and what it does
/// not name is kept.
fn flip_the_mark(cut: &MemoryFs, before: &Content, given_up: &[Slot], what: &str) {
    const MARK: &str = "/store/trash/log-begins-at";
    if !cut.exists(Path::new(MARK)).expect("looks") {
        return;
    }
    let bytes = read(cut, MARK);
    for (at, byte) in bytes.iter().enumerate() {
        let fs = cut.restart();
        overwrite(&fs, MARK, at, &[byte ^ 1 << (at % 8)]);
        let what = format!("{what}, byte {at} of the mark flipped");
        let Damage { lost, doubtful, .. } = damage(&fs);
        let named: Vec<Slot> = lost.into_keys().chain(given_up.iter().copied()).collect();
        let (status, said) = repair(&fs, &named, Doubtful::Keep, Answer::Yes);
        assert_eq!(status, Ok(tools::FINE), "{what}: {said}");
        is_whole_but(&fs, before, &named, &doubtful.into_keys().collect(), &what);
    }
}

/// Cut by a kill or a loss of power at any operation, and run again: the same result.
fn cut_everywhere(restart: impl Fn(&MemoryFs) -> MemoryFs) {
    let fs = filled();
    let before = content_of(&fs);
    let name = key(slot(2), "last").user().to_vec();
    let last = segments(&fs).pop().expect("there is one");
    overwrite(&fs, &last, find(&read(&fs, &last), &name), b"X");
    let pack = files(&fs, "/store/data").remove(0);
    let size = read(&fs, &pack).len();
    overwrite(&fs, &pack, size - 70, b"XXXX");
    let found = damage(&fs);
    let lost: Vec<Slot> = found.lost.into_keys().collect();
    assert_eq!(lost, [slot(2)]);
    assert_eq!(found.packs.len(), 1, "its directory");
    let total = {
        let fs = restart(&fs);
        assert_eq!(repair(&fs, &lost, Doubtful::Refuse, Answer::Yes).0, Ok(tools::FINE));
        let total = fs.operations();
        is_whole_but(&fs, &before, &lost, &BTreeSet::new(), "not cut");
        total
    };
    for stop in 0..total {
        for power_lost in [false, true] {
            let fs = restart(&fs);
            fs.stop_at(stop);
            let _ = repair(&fs, &lost, Doubtful::Refuse, Answer::Yes);
            let fs = restart(&if power_lost { fs.crash(stop) } else { fs.restart() });
            let what = format!("cut at {stop} of {total}, power lost: {power_lost}");
            if !power_lost && stop % 4 == 0 {
                flip_the_mark(&fs, &before, &lost, &what);
            }
            let (status, said) = repair(&fs, &lost, Doubtful::Refuse, Answer::Yes);
            assert_eq!(status, Ok(tools::FINE), "{what}: {said}");
            is_whole_but(&fs, &before, &lost, &BTreeSet::new(), &what);
        }
    }
}
