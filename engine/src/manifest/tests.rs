//! Edits against their fold; cuts, flipped bits, crashes and failures at every operation.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::clock::TimeMs;
use crate::fs::memory::MemoryFs;
use crate::history::{EpochStart, History};
use crate::sst::{FileNo, Properties, RunMeta};
use crate::types::{Epoch, Lsn, NodeId, Seq, Slot};

fn dir() -> &'static Path {
    Path::new("/manifest")
}

fn slot(number: u16) -> Slot {
    Slot::new(number).expect("in range")
}

fn memory() -> Arc<MemoryFs> {
    Arc::new(MemoryFs::new())
}

fn run(number: u16, file: u64, seqs: std::ops::RangeInclusive<u64>) -> RunMeta {
    let props = Properties {
        slot: slot(number),
        entries: 10,
        tombstones: 2,
        keys: 5,
        min_seq: Seq(*seqs.start()),
        max_seq: Seq(*seqs.end()),
        raw_bytes: 1000,
        min_expiry: Some(TimeMs(99)),
        first_key: b"a".to_vec(),
        last_key: b"z".to_vec(),
    };
    RunMeta { file: FileNo(file), offset: u64::from(number) * 100, len: 90, crc: 0xdead_beef, props }
}

fn meta(state: SlotState, flushed: u64) -> Box<SlotMeta> {
    let epoch = |term| Epoch { term, tag: u64::from(term) * 0x0123_4567_89ab };
    let starts = (1..3).map(|term| EpochStart { epoch: epoch(term), first_seq: Seq(u64::from(term)) });
    let force = matches!(state, SlotState::Replica { .. }) && flushed % 2 == 1;
    Box::new(SlotMeta {
        state,
        force,
        highest_term: 7,
        history: History::from_starts(starts.collect()).expect("ordered"),
        superseded: vec![epoch(5), epoch(6)],
        base_seq: Seq(3),
        base_lsn: Lsn(4),
        role_lsn: Lsn(5),
        flushed_seq: Seq(flushed),
        flushed_keys: 17,
        time: TimeMs(1 << 40),
        granted: Some((NodeId([8; 20]), "127.0.0.1:9221".to_owned())),
        settled: vec![
            SettledGrant { ended: epoch(3), began: Some(epoch(4)) },
            SettledGrant { ended: epoch(5), began: None },
        ],
    })
}

/// Frames of edits, each of a kind that the ones before allow.
fn history() -> Vec<Vec<Edit>> {
    let node = NodeMeta {
        node: NodeId([1; 20]),
        incarnation: 3,
        clean_end: Some(Lsn(1 << 33)),
        log_start: Lsn(64),
        next_file: FileNo(2),
    };
    let upstream = || "10.0.0.1:9221".to_owned();
    vec![
        vec![
            Edit::Slot(slot(0), meta(SlotState::Master, 0)),
            Edit::Slot(slot(1023), meta(SlotState::Absent, 0)),
        ],
        vec![
            Edit::Runs { slot: slot(0), add: vec![run(0, 5, 1..=9)], remove: vec![] },
            Edit::Slot(slot(0), meta(SlotState::Master, 9)),
            Edit::Runs { slot: slot(1023), add: vec![run(1023, 5, 4..=4)], remove: vec![] },
        ],
        vec![Edit::Registration {
            node: NodeId([2; 20]),
            address: "b:1".to_owned(),
            acked: vec![(slot(0), Some(Seq(4))), (slot(1), Some(Seq(0)))],
        }],
        vec![Edit::Runs { slot: slot(0), add: vec![run(0, 6, 10..=12), run(0, 7, 13..=13)], remove: vec![] }],
        vec![Edit::Registration {
            node: NodeId([2; 20]),
            address: "b:2".to_owned(),
            acked: vec![(slot(1), None)],
        }],
        vec![
            Edit::Runs {
                slot: slot(0),
                add: vec![run(0, 8, 1..=13)],
                remove: vec![(FileNo(5), 0), (FileNo(7), 0), (FileNo(6), 0)],
            },
            Edit::Slot(slot(4), meta(SlotState::Loading { upstream: upstream() }, 1)),
            Edit::Slot(slot(5), meta(SlotState::Replica { upstream: upstream() }, 1)),
            Edit::Slot(slot(6), meta(SlotState::Moved { to: upstream() }, 1)),
        ],
        vec![Edit::Incoming(slot(4), Some(incoming(9, 3)))],
        vec![Edit::Incoming(slot(4), Some(incoming(9, 100))), Edit::Incoming(slot(7), None)],
        vec![Edit::ReplicaForgotten(NodeId([2; 20])), Edit::Node(node)],
        vec![Edit::Node(NodeMeta { clean_end: None, next_file: FileNo(1), ..node })],
    ]
}

/// Two runs of a copy: one whole, one of which so many bytes are here.
fn incoming(file: u64, here: u64) -> Incoming {
    let of = |offset, len| PartId { file: FileNo(70), offset, len, crc: 0xffff_ffff };
    let whole = Part { of: of(0, 40), offset: 0, here: 40, crc_here: 0xffff_ffff };
    let half = Part { of: of(1 << 33, 100), offset: 40, here, crc_here: 7 };
    Incoming { file: FileNo(file), source: NodeId([3; 20]), parts: vec![whole, half] }
}

fn first() -> State {
    State::new(NodeId([1; 20]))
}

/// The state after each frame, the first being the one before all.
fn states() -> Vec<State> {
    let mut states = vec![first()];
    for edits in history() {
        let mut state = states[states.len() - 1].clone();
        edits.into_iter().for_each(|edit| state.fold(edit).expect("can follow"));
        states.push(state);
    }
    states
}

fn full(fs: &Arc<MemoryFs>) -> Manifest {
    let mut manifest = Manifest::create(fs.clone(), dir(), first()).expect("creates");
    for (edits, after) in history().iter().zip(&states()[1..]) {
        manifest.apply(edits).expect("applies");
        assert_eq!(manifest.state(), after);
    }
    manifest
}

fn bytes_of(fs: &MemoryFs, name: &str) -> Vec<u8> {
    read_all(fs, &dir().join(name)).expect("reads")
}

fn overwrite(fs: &MemoryFs, name: &str, bytes: &[u8]) {
    let file = fs.open(&dir().join(name), OpenMode::Write).expect("opens");
    file.set_size(0).and_then(|()| file.write_at(bytes, 0)).expect("writes");
}

#[test]
fn what_was_applied_is_there_after_every_kind_of_edit_and_any_number_of_starts() {
    let fs = memory();
    let end = states().pop().expect("some");
    assert_eq!((end.node.next_file, end.replicas.len()), (FileNo(10), 0));
    assert_eq!(states()[5].replicas[&NodeId([2; 20])].acked.len(), 1);
    drop(full(&fs));
    for start in 2..5u64 {
        let manifest = Manifest::open(fs.clone(), dir()).expect("opens").expect("is there");
        assert_eq!(manifest.state(), &end);
        let names: Vec<_> = fs.list(dir()).expect("lists").into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, [format!("{start:06}"), "CURRENT".to_owned()]);
    }
}

#[test]
fn an_empty_folder_and_a_missing_one_hold_no_manifest() {
    let fs = memory();
    assert!(Manifest::open(fs.clone(), dir()).expect("opens").is_none());
    fs.create_dir_all(dir()).expect("makes it");
    assert!(Manifest::open(fs, dir()).expect("opens").is_none());
}

#[test]
fn a_file_cut_at_any_byte_says_what_the_whole_frames_say() {
    let fs = memory();
    drop(full(&fs));
    let whole = bytes_of(&fs, "000001");
    let states = states();
    let mut ends = Vec::new();
    let mut at = 0;
    while let frame::Found::Frame { len, .. } = frame::read_at(&whole, at) {
        at += len;
        ends.push(at);
    }
    assert_eq!(ends.pop(), Some(whole.len()), "the last frame confirms the one before");
    assert_eq!(ends.len(), states.len());
    for cut in 0..=whole.len() {
        overwrite(&fs, "000001", &whole[..cut]);
        let frames = ends.iter().filter(|&&end| end <= cut).count();
        match read(&*fs, dir()) {
            Ok(Some((1, state))) => assert_eq!(state, states[frames - 1], "cut at {cut}"),
            Err(Error::Corrupt { offset: 0, .. }) => assert_eq!(frames, 0, "cut at {cut}"),
            other => panic!("cut at {cut}: {other:?}"),
        }
    }
}

#[test]
fn every_flipped_bit_is_reported_even_in_the_last_frame() {
    let fs = memory();
    drop(full(&fs));
    let end = states().pop().expect("some");
    for name in ["000001", "CURRENT"] {
        let whole = bytes_of(&fs, name);
        // The frame that confirms the last one holds nothing itself.
        let guarded = if name == "CURRENT" { whole.len() } else { whole.len() - frame::HEADER_BYTES };
        for bit in 0..whole.len() * 8 {
            let mut bad = whole.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            overwrite(&fs, name, &bad);
            match read(&*fs, dir()) {
                Err(Error::Corrupt { .. }) => assert!(bit / 8 < guarded, "{name} bit {bit}"),
                Ok(Some((1, state))) if bit / 8 >= guarded => assert_eq!(state, end, "{name} bit {bit}"),
                other => panic!("{name} bit {bit}: {other:?}"),
            }
        }
        overwrite(&fs, name, &whole);
    }
}

#[test]
fn a_newer_format_and_a_newer_edit_name_the_remedy() {
    let fs = memory();
    drop(full(&fs));
    let whole = bytes_of(&fs, "000001");
    let mut body = Vec::new();
    edit::encode(&Edit::ReplicaForgotten(NodeId([0; 20])), &mut body);
    body[0] = 200;
    let mut unknown_edit = whole.clone();
    unknown_edit.truncate(whole.len() - frame::HEADER_BYTES);
    let position = unknown_edit.len() as u64;
    frame::encode(&mut unknown_edit, position, &body);
    let mut version = whole;
    version[16] = 2;
    let len = u32::from_le_bytes([version[4], version[5], version[6], version[7]]) as usize;
    let crc = crc32fast::hash(&version[4..frame::HEADER_BYTES + len]);
    version[..4].copy_from_slice(&crc.to_le_bytes());
    for (bytes, what) in [(unknown_edit, "an edit of kind 200"), (version, "format version 2")] {
        overwrite(&fs, "000001", &bytes);
        let Err(Error::Unusable { why, .. }) = read(&*fs, dir()) else { panic!("{what} is refused") };
        assert!(why.contains(what) && why.contains("start it with the release"), "{why}");
    }
}

#[test]
fn a_missing_current_or_file_is_damage() {
    let fs = memory();
    drop(full(&fs));
    drop(Manifest::open(fs.clone(), dir()));
    let current = bytes_of(&fs, "CURRENT");
    fs.remove(&dir().join("CURRENT")).expect("removes");
    assert!(matches!(read(&*fs, dir()), Err(Error::Corrupt { .. })));
    let file = fs.open(&dir().join("CURRENT"), OpenMode::CreateNew).expect("creates");
    file.write_at(&current, 0).expect("writes");
    assert!(matches!(read(&*fs, dir()), Ok(Some(_))));
    fs.remove(&dir().join("000002")).expect("removes");
    assert!(matches!(read(&*fs, dir()), Err(Error::Corrupt { .. })));
}

#[test]
#[should_panic(expected = "two runs hold the records from 5 to 9")]
fn overlapping_runs_are_our_own_mistake() {
    let mut manifest = Manifest::create(memory(), dir(), first()).expect("creates");
    let add = vec![run(0, 5, 1..=9), run(0, 6, 5..=12)];
    drop(manifest.apply(&[Edit::Runs { slot: slot(0), add, remove: vec![] }]));
}

#[test]
fn a_manifest_that_outgrew_its_state_begins_a_new_file() {
    let fs = memory();
    let mut manifest = Manifest::create(fs.clone(), dir(), first()).expect("creates");
    let address = "x".repeat(64 << 10);
    let node = |number| NodeId([number; 20]);
    let mut largest = 0;
    for number in 0..100u8 {
        let address = address.clone();
        manifest
            .apply(&[Edit::Registration { node: node(number % 2), address, acked: vec![] }])
            .expect("applies");
        largest = largest.max(manifest.bytes());
    }
    assert!(largest < 2 << 20, "{largest}");
    let files = fs.list(dir()).expect("lists");
    assert_eq!(files.len(), 2, "{files:?}");
    assert_ne!(files[0].name, "000001");
    let state = manifest.state().clone();
    assert_eq!(read(&*fs, dir()).expect("reads").expect("is there").1, state);
}

/// Creates, applies, starts again, rolls over; tells how far it came: the last state applied, and one under way.
fn life(fs: &Arc<MemoryFs>, applied: &mut State, next: &mut State) -> Result<()> {
    let mut manifest = match Manifest::open(fs.clone(), dir())? {
        Some(manifest) => manifest,
        None => Manifest::create(fs.clone(), dir(), first())?,
    };
    for (index, edits) in history().into_iter().enumerate() {
        edits.iter().for_each(|edit| next.fold(edit.clone()).expect("can follow"));
        manifest.apply(&edits)?;
        *applied = next.clone();
        if index == 3 {
            manifest = Manifest::open(fs.clone(), dir())?.expect("is there");
        }
        if index == 5 {
            manifest.roll_over()?;
        }
    }
    Ok(())
}

#[test]
fn a_loss_of_power_at_any_operation_loses_nothing_applied() {
    let fs = memory();
    life(&fs, &mut first(), &mut first()).expect("no failure");
    let operations = fs.operations();
    assert!(operations > 40);
    for stop in 0..operations {
        for seed in 0..16 {
            let fs = memory();
            fs.stop_at(stop);
            let (mut applied, mut next) = (first(), first());
            life(&fs, &mut applied, &mut next).expect_err("it stops");
            // The machine may stop again while it starts.
            let mut crashed = Arc::new(fs.crash(seed));
            if seed % 2 == 1 {
                crashed.stop_at(seed / 2);
                drop(Manifest::open(crashed.clone(), dir()));
                crashed = Arc::new(crashed.crash(seed));
            }
            match Manifest::open(crashed.clone(), dir()).expect("opens") {
                None => assert_eq!(applied, first(), "stop {stop} seed {seed}"),
                Some(manifest) => {
                    let state = manifest.state();
                    assert!(*state == applied || *state == next, "stop {stop} seed {seed}: {state:?}");
                }
            }
        }
    }
}

#[test]
fn a_start_that_follows_a_killed_first_one_makes_its_names_durable_before_it_builds_on_them() {
    // The first start was killed between the rename to CURRENT and the sync of the folder. The next one read CURRENT and
    // made 000002; then the power went, and took CURRENT but not 000002: that looked like a lost manifest.
    let fs = memory();
    fs.record_operations(true);
    drop(Manifest::create(fs.clone(), dir(), first()).expect("creates"));
    let told: Vec<String> = fs.journal().iter().map(ToString::to_string).collect();
    let renamed = told.iter().position(|told| told.starts_with("rename")).expect("CURRENT is turned");
    let fs = memory();
    fs.stop_at(renamed as u64);
    drop(Manifest::create(fs.clone(), dir(), first()));
    let operations = {
        let whole = Arc::new(fs.restart());
        Manifest::open(whole.clone(), dir()).expect("opens").expect("is there");
        whole.operations()
    };
    for (stop, seed) in (0..operations).flat_map(|stop| (0..16).map(move |seed| (stop, seed))) {
        let killed = Arc::new(fs.restart());
        killed.stop_at(stop);
        drop(Manifest::open(killed.clone(), dir()));
        let lost = Arc::new(killed.crash(seed));
        Manifest::open(lost, dir()).unwrap_or_else(|error| panic!("stop {stop} seed {seed}: {error}"));
    }
}

#[test]
fn after_any_failed_operation_nothing_more_is_applied_and_nothing_applied_is_lost() {
    let fs = memory();
    life(&fs, &mut first(), &mut first()).expect("no failure");
    for (number, kind) in
        (0..fs.operations()).flat_map(|n| [(n, ErrorKind::Other), (n, ErrorKind::StorageFull)])
    {
        let fs = memory();
        fs.fail_operation(number, kind);
        let (mut applied, mut next) = (first(), first());
        let survived = life(&fs, &mut applied, &mut next).is_ok();
        let case = format!("operation {number}, {kind}");
        assert_eq!(survived, Some(&applied) == states().last(), "{case}");
        for seed in 0..4 {
            if let Some(manifest) = Manifest::open(Arc::new(fs.crash(seed)), dir()).expect("opens") {
                let state = manifest.state();
                assert!(*state == applied || *state == next, "{case}, seed {seed}");
            } else {
                assert_eq!(applied, first(), "{case}, seed {seed}");
            }
        }
    }
    let fs = memory();
    let mut manifest = Manifest::create(fs.clone(), dir(), first()).expect("creates");
    fs.fail_operation(fs.operations() + 1, ErrorKind::Other);
    let edits = &history()[0];
    assert!(matches!(manifest.apply(edits), Err(Error::Poisoned(_))));
    assert!(matches!(manifest.apply(edits), Err(Error::Poisoned(_))), "it stays poisoned");
    assert_eq!(manifest.state(), &first());
}

#[test]
fn no_space_is_an_answer_and_not_the_end() {
    let fs = memory();
    let mut manifest = Manifest::create(fs.clone(), dir(), first()).expect("creates");
    let used = manifest.bytes() + 2 * frame::HEADER_BYTES as u64;
    let frames = history();
    fs.set_capacity(Some(used));
    assert!(matches!(manifest.apply(&frames[0]), Err(Error::ReadOnly(_))));
    assert!(matches!(manifest.apply(&frames[0]), Err(Error::ReadOnly(_))));
    assert_eq!(manifest.state(), &first());
    assert_eq!(read(&*fs, dir()).expect("reads").expect("is there").1, first());
    fs.set_capacity(None);
    for edits in &frames {
        manifest.apply(edits).expect("applies");
    }
    // Nor is a state for which there is no room twice.
    fs.set_capacity(Some(manifest.bytes() + 100));
    manifest.roll_over().expect("goes on in the old file");
    assert_eq!(manifest.number, 1);
    fs.set_capacity(None);
    manifest.apply(&[Edit::ReplicaForgotten(NodeId([1; 20]))]).expect("applies");
    manifest.roll_over().expect("begins a new file");
    assert_eq!(manifest.number, 2);
    assert_eq!(&read(&*fs, dir()).expect("reads").expect("is there").1, manifest.state());
}

#[test]
fn the_document_shows_the_formats_as_the_code_does() {
    let document = include_str!("../../../docs/FORMAT.md");
    for source in [include_str!("edit.rs"), include_str!("frame.rs")] {
        let (_, rest) = source.split_once("//! ```text\n").expect("a table");
        let (table, _) = rest.split_once("//! ```\n").expect("its end");
        let lines =
            table.lines().map(|line| line.trim_start_matches("//!").strip_prefix(' ').unwrap_or_default());
        let table: String = lines.flat_map(|line| [line, "\n"]).collect();
        assert!(document.contains(&table), "docs/FORMAT.md lacks this table:\n{table}");
    }
}

proptest! {
    #[test]
    fn damaged_edits_are_decoded_or_refused(
        frame in any::<prop::sample::Index>(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut body = Vec::new();
        frame.get(&history()).iter().for_each(|edit| edit::encode(edit, &mut body));
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        let mut state = first();
        let mut rest = &body[..];
        while let Ok(edit) = edit::take(&mut rest) {
            if rest.is_empty() || state.fold(edit).is_err() {
                break;
            }
        }
    }
}
