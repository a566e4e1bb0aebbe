//! Copies that stop and go on: what has come of one is durable, belongs to one source, and goes when it is of no use.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{fresh, get, load_of, open, set, slot_of};
use haypile_engine::background::Job;
use haypile_engine::copy::{CopySource, part_id};
use haypile_engine::engine::Engine;
use haypile_engine::fs::Fs;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::inspect::{Depth, check};
use haypile_engine::manifest::Part;
use haypile_engine::slot::Role;
use haypile_engine::types::{NodeId, Slot};

const PIECE_BYTES: usize = 300;

fn slot() -> Slot {
    slot_of("x")
}

/// A master with several runs of the slot, of noise that does not compress.
fn master() -> Arc<Engine> {
    let master = fresh(&MemoryFs::new());
    let mut noise = 1u64;
    for run in 0..3 {
        for key in 0..40 {
            let mut value = String::new();
            for _ in 0..12 {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                value += &format!("{noise:x}");
            }
            set(&master, &format!("{{x}}{run}-{key}"), &value).expect("writes");
        }
        master.flush(&[slot()]).expect("flushes");
    }
    master
}

fn follower(fs: &MemoryFs) -> Arc<Engine> {
    let (replica, _) = open(fs).expect("opens");
    replica.add_slots(&[slot()]).expect("adds");
    replica.follow(&[slot()], "master:1").expect("follows");
    replica
}

fn load(replica: &Engine, source: &CopySource) {
    replica.start_loading(&[load_of(slot(), source)]).expect("makes room");
}

fn held(replica: &Engine, of: NodeId) -> Vec<Part> {
    replica.held_parts(slot()).filter(|(source, _)| *source == of).map_or(Vec::new(), |(_, parts)| parts)
}

/// What an attempt did.
struct Attempt {
    sent_bytes: usize,
    whole: bool,
}

/// Takes the copy from where it stands, for so many pieces. The runs that are here come first.
fn take(replica: &Engine, of: NodeId, source: &CopySource, mut pieces: usize) -> Attempt {
    load(replica, source);
    let held = held(replica, of);
    let mut runs: Vec<_> = source.runs.iter().collect();
    let place = |run: &haypile_engine::sst::RunMeta| held.iter().position(|part| part.of == part_id(run));
    runs.sort_by_key(|run| place(run.meta()).unwrap_or(usize::MAX));
    let mut import = replica.importer(slot(), of).expect("is loading");
    let mut sent_bytes = 0;
    for run in runs {
        let mut offset = place(run.meta()).map_or(0, |place| held[place].here);
        import.begin_run(part_id(run.meta()), offset).expect("begins");
        while offset < run.meta().len {
            if pieces == 0 {
                return Attempt { sent_bytes, whole: false };
            }
            pieces -= 1;
            let mut chunk = [0; PIECE_BYTES];
            let got = run.read_image(offset, &mut chunk).expect("reads");
            import.chunk(&chunk[..got]).expect("takes");
            offset += got as u64;
            sent_bytes += got;
        }
        import.end_run().expect("is whole");
    }
    import.finish().expect("installs");
    Attempt { sent_bytes, whole: true }
}

fn packs(fs: &MemoryFs) -> usize {
    fs.list(Path::new("/haypile/data")).expect("is there").len()
}

fn equal(replica: &Engine, master: &Engine) {
    for (run, key) in (0..3).flat_map(|run| (0..40).map(move |key| (run, key))) {
        let name = format!("{{x}}{run}-{key}");
        assert_eq!(get(replica, &name), get(master, &name), "{name}");
    }
}

#[test]
fn a_copy_goes_on_after_every_loss_of_power_from_what_was_durable() {
    let master = master();
    let source = master.copy_source(slot()).expect("a source");
    let total: u64 = source.runs.iter().map(|run| run.meta().len).sum();
    let mut disk = MemoryFs::new();
    let mut replica = follower(&disk);
    let (mut sent, mut losses, mut before) = (0, 0, 0);
    loop {
        let attempt = take(&replica, master.node(), &source, 9);
        sent += attempt.sent_bytes;
        if attempt.whole {
            break;
        }
        losses += 1;
        drop(replica);
        disk = disk.crash(losses);
        replica = open(&disk).expect("opens").0;
        assert!(matches!(replica.role(slot()), Role::Loading { .. }));
        let here: u64 = held(&replica, master.node()).iter().map(|part| part.here).sum();
        assert!(here > before, "each attempt brings it on: {here} bytes after {before}");
        before = here;
    }
    // 2000 bytes are made durable at a time, and a piece more.
    let most = total + losses * (2000 + PIECE_BYTES as u64);
    assert!(losses > 3 && sent as u64 <= most, "{sent} bytes for {total}, {losses} losses");
    equal(&replica, &master);
    assert_eq!(replica.held_parts(slot()), None);
    drop(replica);
    let (replica, _) = open(&disk.restart()).expect("opens");
    equal(&replica, &master);
}

#[test]
fn what_is_suspended_goes_on_to_the_byte() {
    let master = master();
    let source = master.copy_source(slot()).expect("a source");
    let disk = MemoryFs::new();
    let replica = follower(&disk);
    load(&replica, &source);
    let mut import = replica.importer(slot(), master.node()).expect("is loading");
    let run = &source.runs[0];
    import.begin_run(part_id(run.meta()), 0).expect("begins");
    let mut chunk = [0; 123];
    run.read_image(0, &mut chunk).expect("reads");
    import.chunk(&chunk).expect("takes");
    import.suspend().expect("is kept");
    let parts = held(&replica, master.node());
    assert_eq!(
        parts.iter().map(|part| (part.of, part.here)).collect::<Vec<_>>(),
        [(part_id(run.meta()), 123)]
    );
    assert!(take(&replica, master.node(), &source, usize::MAX).whole);
    equal(&replica, &master);
}

#[test]
fn what_came_of_runs_that_a_copy_has_no_more_is_not_taken_for_others() {
    let master = master();
    let replica = follower(&MemoryFs::new());
    let first = master.copy_source(slot()).expect("a source");
    assert!(!take(&replica, master.node(), &first, 30).whole);
    assert!(!held(&replica, master.node()).is_empty());
    // The runs are merged, and another key comes.
    set(&master, "{x}0-0", "new").expect("writes");
    master.flush(&[slot()]).expect("flushes");
    while master.step(Job::Compact).expect("compacts") {}
    let second = master.copy_source(slot()).expect("a source");
    assert!(take(&replica, master.node(), &second, usize::MAX).whole);
    equal(&replica, &master);
    // What another node sends is never taken for this one's, whatever it calls it.
    let other = follower(&MemoryFs::new());
    assert!(!take(&other, NodeId([9; 20]), &second, 12).whole);
    load(&other, &second);
    let mut import = other.importer(slot(), master.node()).expect("is loading");
    let here = other.held_parts(slot()).map_or(0, |(_, parts)| parts[0].here);
    assert!(here > 0);
    let refused = import.begin_run(part_id(second.runs[0].meta()), here).expect_err("that is not here");
    assert!(refused.to_string().contains("of which 0 of"), "{refused}");
}

#[test]
fn what_has_come_goes_with_the_slot_and_with_a_copy_that_is_given_up() {
    let master = master();
    let source = master.copy_source(slot()).expect("a source");
    let disk = MemoryFs::new();
    let replica = follower(&disk);
    assert!(!take(&replica, master.node(), &source, 20).whole);
    assert_eq!(packs(&disk), 1);
    let import = replica.importer(slot(), master.node()).expect("is loading");
    import.discard().expect("is given up");
    assert_eq!((packs(&disk), replica.held_parts(slot())), (0, None));
    assert!(!take(&replica, master.node(), &source, 20).whole);
    assert_eq!(packs(&disk), 1);
    replica.remove_slots(&[slot()]).expect("removes");
    assert_eq!((packs(&disk), replica.held_parts(slot())), (0, None));
    drop(replica);
    open(&disk.restart()).expect("opens");
    assert_eq!(packs(&disk), 0);
}

#[test]
fn a_file_that_is_gone_or_short_only_makes_the_copy_begin_anew() {
    let master = master();
    let source = master.copy_source(slot()).expect("a source");
    for cut in [None, Some(100)] {
        let disk = MemoryFs::new();
        let replica = follower(&disk);
        assert!(!take(&replica, master.node(), &source, 20).whole);
        drop(replica);
        let name = disk.list(Path::new("/haypile/data")).expect("is there").remove(0).name;
        let path = Path::new("/haypile/data").join(name);
        match cut {
            None => disk.remove(&path).expect("removes"),
            Some(size) => {
                let file = disk.open(&path, haypile_engine::fs::OpenMode::Write).expect("opens");
                file.set_size(size).expect("cuts");
            }
        }
        let (replica, _) = open(&disk.restart()).expect("opens");
        load(&replica, &source);
        let mut import = replica.importer(slot(), master.node()).expect("is loading");
        for run in &source.runs {
            import.begin_run(part_id(run.meta()), 0).expect("begins anew");
            let mut bytes = vec![0; usize::try_from(run.meta().len).expect("small")];
            run.read_image(0, &mut bytes).expect("reads");
            import.chunk(&bytes).expect("takes");
            import.end_run().expect("is whole");
        }
        import.finish().expect("installs");
        equal(&replica, &master);
    }
}

/// What had come of a copy was believed by the manifest's word: a bit that was flipped in it since was installed, and whoever
/// read it was told of damage, although the source had the run whole.
#[test]
fn a_flipped_bit_in_what_has_come_only_makes_the_copy_begin_anew() {
    let master = master();
    let source = master.copy_source(slot()).expect("a source");
    let disk = MemoryFs::new();
    let replica = follower(&disk);
    assert!(!take(&replica, master.node(), &source, 45).whole);
    let here: Vec<_> = held(&replica, master.node());
    assert!(here.len() > 1 && here[0].is_whole(), "{here:?}");
    drop(replica);
    let left = disk.restart();
    let name = left.list(Path::new("/haypile/data")).expect("is there").remove(0).name;
    let path = Path::new("/haypile/data").join(name);
    for part in &here {
        for at in (part.offset..part.offset + part.here).step_by(97) {
            let disk = left.restart();
            disk.flip(&path, at, 5).expect("the file is there");
            let mut told = String::new();
            let report = check(&disk, Path::new("/haypile"), Depth::Everything, &mut |finding| {
                told += &format!("{finding}\n");
            });
            assert_eq!(report.expect("it is a store").problems, 0, "{told}");
            assert!(told.contains(&format!("at byte {}: slot {}: ", part.offset, slot())), "{told}");
            assert!(told.contains("this copy begins anew"), "{told}");
            let (replica, _) = open(&disk).expect("opens");
            load(&replica, &source);
            let mut import = replica.importer(slot(), master.node()).expect("is loading");
            let refused = import.begin_run(part.of, part.here).expect_err("it is not here");
            assert!(refused.to_string().contains("of which 0 of"), "{refused}");
            import.discard().expect("gives up");
            assert!(take(&replica, master.node(), &source, usize::MAX).whole);
            equal(&replica, &master);
        }
    }
}
