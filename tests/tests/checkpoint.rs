//! Checkpoints: taken while others write, cut and failed at every operation, opened, followed on.
//!
//! `HAYPILE_SEED=N cargo test -p haypile-tests --test checkpoint` repeats a seed; `HAYPILE_LONG=1` tries many.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use haypile_engine::background::{Background, Job};
use haypile_engine::checkpoint::{Checkpoint, Progress, is_unused, remove, remove_leftovers};
use haypile_engine::clock::SystemClock;
use haypile_engine::copy::Load;
use haypile_engine::engine::{Engine, Opened, Options};
use haypile_engine::error::{Error, Result};
use haypile_engine::fs::Fs;
use haypile_engine::fs::memory::{Action, MemoryFs};
use haypile_engine::history::Relation;
use haypile_engine::log::ReadOutcome;
use haypile_engine::log::record::Record;
use haypile_engine::simulation::{self, Done, FAILURES, Machine, Node, SLOTS, Setup, Step, Tally, Workload};
use haypile_engine::slot::{NOBODY, Role};
use haypile_engine::types::{Epoch, NodeId, Seq, Slot};
use haypile_engine::value::Value;
use haypile_tests::seeds::seeds;
use haypile_tests::store::{key, slot, transact};

const STORE: &str = "/haypile";
const COPY: &str = "/copies/one";
/// Steps of the workload before a checkpoint.
const STEPS: usize = 50;

fn open_at(fs: &Arc<dyn Fs>, dir: &str, own_copies: bool) -> Result<(Engine, Opened)> {
    let options =
        Options { memory_bytes: 1 << 20, log_segment_bytes: 1 << 20, own_copies, ..Options::default() };
    Engine::open(Arc::clone(fs), Path::new(dir), Arc::new(SystemClock::new()), options)
}

fn present(engine: &Engine) -> BTreeSet<Slot> {
    Slot::all().filter(|&slot| engine.role(slot) != Role::Absent).collect()
}

fn take(engine: &Engine, dir: &str) -> Result<Checkpoint> {
    engine.checkpoint(Path::new(dir), &present(engine), &Progress::default())
}

fn put(engine: &Engine, slot: Slot, name: &str, value: &str) {
    let value = Value::whole(0, 0, Bytes::copy_from_slice(value.as_bytes()));
    transact(engine, &[slot], |tx| tx.put(&key(slot, name), &value)).expect("it is written");
    engine.write().expect("it is written");
}

fn get(engine: &Engine, slot: Slot, name: &str) -> Option<String> {
    let value = transact(engine, &[slot], |tx| tx.get(&key(slot, name))).expect("it reads");
    value.map(|value| String::from_utf8(value.payload.to_vec()).expect("text"))
}

// --- while others write --------------------------------------------------------------------------------------------

const NUMBER: &str = "number";
const GROUP: &str = "group";

/// What the commit `number` of a slot does to it: a name, and the value that it gets or `None`.
fn change(number: u64) -> (String, Option<String>) {
    let name = format!("k{}", number % 7);
    let value = (!number.is_multiple_of(5)).then(|| format!("{number}").repeat(40));
    (name, value)
}

/// What a slot holds after so many commits.
fn after(commits: u64) -> BTreeMap<String, String> {
    let mut state = BTreeMap::new();
    for number in 1..=commits {
        match change(number) {
            (name, Some(value)) => _ = state.insert(name, value),
            (name, None) => _ = state.remove(&name),
        }
    }
    if commits > 0 {
        state.insert(NUMBER.to_owned(), commits.to_string());
    }
    state
}

/// How many commits a slot had, which must be what it holds.
fn commits_in(engine: &Engine, slot: Slot) -> u64 {
    let names = (0..7).map(|number| format!("k{number}")).chain([NUMBER.to_owned()]);
    let found: BTreeMap<String, String> =
        names.filter_map(|name| Some((name.clone(), get(engine, slot, &name)?))).collect();
    let commits = found.get(NUMBER).map_or(0, |number| number.parse().expect("a number"));
    assert_eq!(found, after(commits), "slot {slot} is in a state that it never had");
    commits
}

/// Two slots that are written together, and one alone. Counts what is acknowledged.
fn write_until(engine: &Engine, together: &[Slot], stop: &AtomicBool, acknowledged: &AtomicU64) {
    for number in 1.. {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let (name, value) = change(number);
        transact(engine, together, |tx| {
            for &slot in together {
                let whole = |text: &str| Value::whole(0, 0, Bytes::copy_from_slice(text.as_bytes()));
                match &value {
                    Some(value) => tx.put(&key(slot, &name), &whole(value))?,
                    None => _ = tx.delete(&key(slot, &name))?,
                }
                tx.put(&key(slot, NUMBER), &whole(&number.to_string()))?;
                tx.put(&key(slot, GROUP), &whole(&number.to_string()))?;
            }
            Ok(())
        })
        .expect("it is committed");
        engine.write().expect("it is written");
        acknowledged.store(number, Ordering::Release);
        if engine.is_full() {
            engine.flush_all().expect("a disk in memory takes it");
        }
    }
}

#[test]
fn a_checkpoint_under_load_holds_a_prefix_of_each_slot_and_whole_groups() {
    let memory = MemoryFs::new();
    let fs: Arc<dyn Fs> = Arc::new(memory.clone());
    let engine = Arc::new(open_at(&fs, STORE, false).expect("opens").0);
    let all = [slot(3), slot(500), slot(1000)];
    engine.add_slots(&all).expect("slots are added");
    let background = Background::start(&engine).expect("threads");
    let stop = AtomicBool::new(false);
    let (pair, single) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| write_until(&engine, &all[..2], &stop, &pair));
        scope.spawn(|| write_until(&engine, &all[2..], &stop, &single));
        for round in 0..8 {
            // Something new for every checkpoint, and something for flushes and compactions in between.
            let enough = |count: &AtomicU64| count.load(Ordering::Acquire) > 200 * (round + 1);
            while !(enough(&pair) && enough(&single)) {
                std::thread::yield_now();
            }
            let before = [&pair, &single].map(|count| count.load(Ordering::Acquire));
            let dir = format!("/copies/{round}");
            let made = take(&engine, &dir).expect("it is made");
            let later = [&pair, &single].map(|count| count.load(Ordering::Acquire) + 1);
            assert_eq!((made.slots.len(), made.left_out.len(), made.files_copied), (3, 0, 0));
            let (copy, opened) = open_at(&fs, &dir, round % 2 == 0).expect("a node starts on it");
            assert!(opened.copied && opened.records == 0);
            let commits = all.map(|slot| commits_in(&copy, slot));
            assert_eq!(commits[0], commits[1], "a group is half there");
            for (count, (before, later)) in commits[1..].iter().zip(before.into_iter().zip(later)) {
                assert!((before..=later).contains(count), "{count} is not from {before} to {later}");
            }
            for (slot, seq) in made.slots {
                let position = copy.position(slot);
                // A new owner's first record is its epoch's.
                assert_eq!(position.last_seq.0, seq.0 + u64::from(round % 2 == 0), "slot {slot}");
            }
        }
        stop.store(true, Ordering::Release);
    });
    drop(background);
    drop(engine);
    let after: Arc<dyn Fs> = Arc::new(memory.restart());
    let again = open_at(&after, STORE, false).expect("opens").0;
    let acknowledged = [&pair, &pair, &single].map(|count| count.load(Ordering::Acquire));
    assert_eq!(all.map(|slot| commits_in(&again, slot)), acknowledged, "the source");
    // The copies have outlived what compaction removed from the source.
    open_at(&after, "/copies/0", false).expect("opens again");
}

// --- cut and failed ------------------------------------------------------------------------------------------------

/// Steps of a seed, and then a checkpoint, on a node that nothing was done to yet.
fn workload(seed: u64, steps: usize) -> Workload {
    let setup = Setup::ALL[usize::try_from(seed).expect("small") % Setup::ALL.len()];
    let mut workload = Workload::of(seed, Setup { steps, ..setup });
    workload.steps.push(Step::Checkpoint((0..SLOTS).collect()));
    workload
}

/// A node that does the steps before the checkpoint; `None` if it could not.
fn before(workload: &Workload, fs: &MemoryFs) -> Option<Node> {
    let mut node = Node::new(workload.setup, workload.seed, fs.clone(), Machine::Failing);
    node.start().ok()?;
    let (_, steps) = workload.steps.split_last().expect("a checkpoint is the last");
    node.run(steps).unwrap_or_else(|broken| panic!("{broken}"));
    Some(node)
}

#[test]
fn a_checkpoint_that_is_cut_or_fails_at_any_operation_is_whole_or_not_there_and_leaves_its_source_alone() {
    for seed in seeds(2, 100) {
        let mut workload = workload(seed, 3);
        // What is written then is in no checkpoint.
        workload.steps.extend([Step::Commit(vec![(0, Vec::new())]), Step::Sync, Step::Discard]);
        let mut tally = Tally::default();
        let cut = workload.cut_all(&mut tally, &mut |_| true);
        let failed = cut.and_then(|()| workload.fail_all(&FAILURES, &mut tally, &mut |_| true));
        if let Err(found) = failed {
            panic!("{}\n{}", found.case, found.violation);
        }
        assert!(tally.points > 60 && tally.failures > 4 * 60, "{tally:?}");
    }
}

#[test]
fn a_checkpoint_that_fails_says_where() {
    for seed in seeds(2, 100) {
        let workload = workload(seed, STEPS);
        let sound = workload.setup.new_disk();
        let mut node = before(&workload, &sound).expect("nothing fails");
        let first = sound.operations();
        node.step(workload.steps.last().expect("a checkpoint")).expect("it is whole");
        assert!(sound.operations() > first + 10, "a checkpoint takes some operations");
        for operation in first..sound.operations() {
            let fs = workload.setup.new_disk();
            fs.fail_operation(operation, ErrorKind::Other);
            let mut node = before(&workload, &fs).expect("only the checkpoint fails");
            let done = node.step(workload.steps.last().expect("a checkpoint"));
            let what = format!("operation {operation}");
            let (Done::Refused(error) | Done::Stopped(error)) =
                done.unwrap_or_else(|broken| panic!("{what}: {broken}"))
            else {
                continue;
            };
            let told = error.to_string();
            assert!(told.contains("a failure that the test asked for"), "{what}: {told}");
            let named = ["/: ", simulation::DIR, "/checkpoints"];
            assert!(named.iter().any(|name| told.contains(name)), "{what}: {told}");
        }
    }
}

#[test]
fn what_is_half_removed_never_comes_back_as_a_whole_one() {
    // A removal that was stopped before the other name was durable, and was then finished under that name: a loss of
    // power brought the old name back, with some of the files.
    let fs = MemoryFs::new();
    let source = open_at(&(Arc::new(fs.clone()) as Arc<dyn Fs>), STORE, false).expect("opens").0;
    source.add_slots(&[slot(7)]).expect("is added");
    put(&source, slot(7), "a", "1");
    take(&source, COPY).expect("is made");
    let whole = fs.restart();
    let operations = {
        let fs = whole.restart();
        remove(&fs, Path::new(COPY)).expect("is removed");
        fs.operations()
    };
    for operation in 0..operations {
        let stopped = whole.restart();
        stopped.stop_at(operation);
        remove(&stopped, Path::new(COPY)).expect_err("the machine stops");
        let again = stopped.restart();
        remove_leftovers(&again, Path::new("/copies"), "one").expect("nothing fails any more");
        for seed in 0..16 {
            let after = again.crash(seed);
            if after.exists(Path::new(COPY)).expect("looks") {
                let copy = open_at(&(Arc::new(after) as Arc<dyn Fs>), COPY, false);
                let copy = copy.unwrap_or_else(|error| panic!("operation {operation}, {seed}: {error}")).0;
                assert_eq!(get(&copy, slot(7), "a").as_deref(), Some("1"));
            }
        }
    }
}

#[test]
fn a_checkpoint_outlives_a_loss_of_power_although_its_folders_were_made_by_one_that_failed() {
    let dir = "/far/away/one";
    let run = |failed: Option<u64>| {
        let fs = MemoryFs::new();
        let source = open_at(&(Arc::new(fs.clone()) as Arc<dyn Fs>), STORE, false).expect("opens").0;
        source.add_slots(&[slot(7)]).expect("is added");
        put(&source, slot(7), "a", "1");
        let before = fs.operations();
        if let Some(operation) = failed {
            fs.fail_operation(before + operation, ErrorKind::Other);
        }
        // The second one fails only where the first one's error has stopped the engine.
        let there = take(&source, dir).is_ok() || take(&source, dir).is_ok();
        (fs.operations() - before, there.then_some(fs))
    };
    let mut tried = 0;
    for failed in 0..run(None).0 {
        let (_, Some(fs)) = run(Some(failed)) else { continue };
        tried += 1;
        for seed in 0..8 {
            let after: Arc<dyn Fs> = Arc::new(fs.crash(seed));
            let copy = open_at(&after, dir, false).expect("opens").0;
            assert_eq!(get(&copy, slot(7), "a").as_deref(), Some("1"), "operation {failed} failed, {seed}");
        }
    }
    assert!(tried > 10, "{tried}");
}

// --- what it is to its slots ---------------------------------------------------------------------------------------

#[test]
fn what_starts_on_a_checkpoint_is_another_node_that_owns_nothing_until_it_is_told() {
    let memory = MemoryFs::new();
    let fs: Arc<dyn Fs> = Arc::new(memory.clone());
    let source = open_at(&fs, STORE, false).expect("opens").0;
    let mine = slot(7);
    source.add_slots(&[mine]).expect("is added");
    put(&source, mine, "a", "1");
    take(&source, COPY).expect("is made");
    assert!(is_unused(&memory, Path::new(COPY)).expect("reads"));
    put(&source, mine, "a", "2");
    let at_source = source.position(mine);

    // Two starts on two copies of the folder are two nodes.
    let twin: Arc<dyn Fs> = Arc::new(memory.restart());
    let (copy, opened) = open_at(&fs, COPY, false).expect("opens");
    assert!(opened.copied && !opened.fresh);
    assert!(!is_unused(&memory, Path::new(COPY)).expect("reads"), "it is that node's now");
    let other = open_at(&twin, COPY, false).expect("opens").0;
    assert_eq!(BTreeSet::from([source.node(), copy.node(), other.node()]).len(), 3);
    let position = copy.position(mine);
    assert_eq!(position.role, Role::Replica { upstream: NOBODY.to_owned() });
    assert_eq!(get(&copy, mine, "a").as_deref(), Some("1"));
    assert_eq!(position.history, at_source.history, "it is no owner: no epoch began");
    let relation = at_source.history.relate(at_source.last_seq, &position.history, position.last_seq);
    assert_eq!(relation, Relation::Prefix);

    // Told to own them, be it after a clean stop, it begins an epoch of its own.
    let name = copy.node();
    copy.close().expect("stops cleanly");
    drop(copy);
    let (owner, opened) = open_at(&fs, COPY, true).expect("opens");
    assert!(opened.clean && !opened.copied);
    assert_eq!(owner.node(), name, "it has its name for good");
    let position = owner.position(mine);
    assert_eq!(position.role, Role::Master);
    let (old, new) = (at_source.history.current().expect("one"), position.history.current().expect("one"));
    assert!(new.term > old.term && new.tag != old.tag, "{old} and {new}");
    put(&owner, mine, "a", "3");
    assert_eq!(get(&source, mine, "a").as_deref(), Some("2"));
}

#[test]
fn a_copy_goes_on_with_the_log_of_its_master_where_the_checkpoint_ends() {
    let fs: Arc<dyn Fs> = Arc::new(MemoryFs::new());
    let source = open_at(&fs, STORE, false).expect("opens").0;
    let mine = slot(7);
    source.add_slots(&[mine]).expect("is added");
    (0..50).for_each(|number| put(&source, mine, &format!("k{number}"), "old"));
    let made = take(&source, COPY).expect("is made");
    (25..75).for_each(|number| put(&source, mine, &format!("k{number}"), "new"));
    let copy = open_at(&fs, COPY, false).expect("opens").0;
    copy.follow(&[mine], "10.0.0.1:9221").expect("follows");
    let from = made.slots[0].1.next();
    assert_eq!(copy.position(mine).last_seq.next(), from);
    let mut reader = source.reader(source.locate(mine, from).expect("the log has it"));
    while let ReadOutcome::Frame { records, .. } = reader.next() {
        let mut rest = &records[..];
        while let Ok(record) = Record::take(&mut rest) {
            if record.header.seq >= from {
                let appended = copy.append_replicated(record.bytes).expect("takes records");
                assert!(appended.failed.is_empty(), "{:?}", appended.failed);
            }
        }
    }
    assert_eq!(copy.position(mine).last_seq, source.position(mine).last_seq);
    for number in 0..75 {
        let name = format!("k{number}");
        assert_eq!(get(&copy, mine, &name), get(&source, mine, &name));
    }
}

#[test]
fn what_was_given_away_stays_so_and_what_is_not_complete_is_left_out() {
    let fs: Arc<dyn Fs> = Arc::new(MemoryFs::new());
    let source = open_at(&fs, STORE, false).expect("opens").0;
    let all: Vec<Slot> = (0..6).map(slot).collect();
    source.add_slots(&all).expect("are added");
    all.iter().for_each(|&slot| put(&source, slot, "a", "1"));
    let to = NodeId([9; 20]);
    source.fence(&all[..3]).expect("fenced");
    source.grant_all(&all[..2], to, "10.0.0.9:1").expect("granted");
    assert_eq!(source.finish_grants(to, &[(all[0], Epoch { term: 2, tag: 9 })]), all[..1]);
    source.follow(&all[3..5], "10.0.0.8:1").expect("follow");
    let load = |slot: Slot| {
        let position = source.position(slot);
        let (history, base) = (position.history, Seq(40));
        Load { granted: None, slot, history, base, keys: 1, time: position.time, complete: false }
    };
    source.start_loading(&[load(all[4])]).expect("waits for a copy");
    let made = take(&source, COPY).expect("is made");
    assert_eq!(made.left_out, [all[4]]);
    for own in [false, true] {
        let copy = open_at(&fs, COPY, own).expect("opens").0;
        assert_eq!(copy.role(all[0]), Role::Moved { to: "10.0.0.9:1".to_owned() });
        let granted = copy.position(all[1]);
        assert_eq!(granted.role, Role::Replica { upstream: NOBODY.to_owned() }, "it may be another's");
        assert_eq!(granted.granted, Some((to, "10.0.0.9:1".to_owned())));
        let free = if own { Role::Master } else { Role::Replica { upstream: NOBODY.to_owned() } };
        for index in [2, 3, 5] {
            assert_eq!(copy.role(all[index]), free, "slot {}", all[index]);
            assert_eq!(get(&copy, all[index], "a").as_deref(), Some("1"));
        }
        assert_eq!(copy.role(all[4]), Role::Absent);
        copy.add_slots(&all[4..5]).expect("a slot that was left out can be added");
        let (old, new) = (source.position(all[4]), copy.position(all[4]));
        assert!(new.history.current().expect("one").term > old.history.current().expect("one").term);
        copy.remove_slots(&all[4..5]).expect("and removed");
    }
}

// --- the place -----------------------------------------------------------------------------------------------------

#[test]
fn where_there_are_no_links_the_bytes_are_copied_durably_and_a_full_device_is_told() {
    let memory = MemoryFs::new();
    memory.forbid_links();
    let fs: Arc<dyn Fs> = Arc::new(memory.clone());
    let source = open_at(&fs, STORE, false).expect("opens").0;
    let mine = slot(7);
    source.add_slots(&[mine]).expect("is added");
    (0..100).for_each(|number| put(&source, mine, &format!("k{number}"), &"0123456789abcdef".repeat(number)));
    source.flush_all().expect("flushes");
    let used = fs.list(Path::new("/haypile/data")).expect("lists").len();
    assert!(used > 0);
    memory.set_capacity(Some(1));
    let error = take(&source, COPY).expect_err("there is no space").to_string();
    assert!(error.contains(COPY) && error.contains("no space left"), "{error}");
    assert_eq!(memory.list(Path::new("/copies")).expect("lists"), []);
    memory.set_capacity(None);
    let made = take(&source, COPY).expect("is made");
    assert_eq!((made.files_linked, made.files_copied), (0, 1));
    for seed in 0..4 {
        let after: Arc<dyn Fs> = Arc::new(memory.crash(seed));
        let copy = open_at(&after, COPY, false).expect("opens").0;
        for number in 0..100 {
            assert_eq!(get(&copy, mine, &format!("k{number}")), Some("0123456789abcdef".repeat(number)));
        }
    }
}

#[test]
fn the_progress_of_a_checkpoint_counts_its_files_and_bytes_one_after_another() {
    let memory = MemoryFs::new();
    let fs: Arc<dyn Fs> = Arc::new(memory.clone());
    let source = open_at(&fs, STORE, false).expect("opens").0;
    for number in 1..=5 {
        source.add_slots(&[slot(number)]).expect("is added");
        put(&source, slot(number), "a", &"value".repeat(100 * usize::from(number)));
        source.flush(&[slot(number)]).expect("flushes");
    }
    let progress = Arc::new(Progress::default());
    let (told, seen) = (Arc::clone(&progress), Arc::new(Mutex::new(Vec::new())));
    let sink = Arc::clone(&seen);
    memory.watch(move |step| {
        if matches!(step.operation().action, Action::Link(_)) {
            sink.lock().expect("no panic").push(told.done());
        }
    });
    let made = source.checkpoint(Path::new(COPY), &present(&source), &progress).expect("is made");
    let seen = std::mem::take(&mut *seen.lock().expect("no panic"));
    let all = progress.done();
    assert_eq!((all.files, all.files_done, all.bytes_done), (5, 5, all.bytes));
    assert_eq!((made.files_linked, made.bytes), (5, all.bytes));
    assert_eq!(seen.iter().map(|done| done.files_done).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert!(seen.windows(2).all(|pair| pair[0].bytes_done < pair[1].bytes_done), "{seen:?}");
    assert!(seen.iter().all(|done| (done.files, done.bytes) == (all.files, all.bytes)), "{seen:?}");
}

#[test]
fn a_checkpoint_takes_only_a_place_that_is_free_and_removes_only_its_own() {
    let memory = MemoryFs::new();
    let fs: Arc<dyn Fs> = Arc::new(memory.clone());
    let source = open_at(&fs, STORE, false).expect("opens").0;
    source.add_slots(&[slot(1)]).expect("is added");
    take(&source, COPY).expect("is made");
    let refused = |dir: &str, words: &str| {
        let error = take(&source, dir).expect_err("refused").to_string();
        assert!(error.contains(words), "{dir}: {error}");
    };
    refused(COPY, "is there already");
    refused(STORE, "is there already");
    refused("/haypile/data/copy", "name another folder");
    refused("/haypile/log", "name another folder");
    refused("/", "not a name");
    memory.create_dir_all(Path::new("/mine.haypile-partial/letters")).expect("made");
    refused("/mine", "move it out of the way");
    assert!(memory.exists(Path::new("/mine.haypile-partial/letters")).expect("looks"));

    let progress = Progress::default();
    progress.cancel();
    put(&source, slot(1), "a", "1");
    let error = source.checkpoint(Path::new("/late"), &present(&source), &progress).expect_err("given up");
    assert!(matches!(error, Error::Limit(_)), "{error}");
    assert!(!memory.exists(Path::new("/late")).expect("looks"));
    source.remove_slots(&[slot(1)]).expect("is removed");
    let error = source.checkpoint(Path::new("/none"), &BTreeSet::from([slot(1)]), &Progress::default());
    assert!(error.is_err_and(|error| error.to_string().contains("no slot")));
    // The slot is gone from the source, and so are its files; the copy has them.
    source.step(Job::Flush).expect("steps");
    assert_eq!(open_at(&fs, COPY, false).expect("opens").0.key_count(), 0);
}
