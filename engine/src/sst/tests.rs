//! Runs against a map; damage; imports; the life of pack files.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::error::{Error, Result};
use crate::fs::memory::MemoryFs;
use crate::fs::{Fs, OpenMode};
use crate::key::{Generation, element_key, entry_key};
use crate::memtable::{Entry, Stored};
use crate::types::{NodeId, Seq, Slot};

type Model = BTreeMap<Vec<u8>, Entry>;

const NODE: NodeId = NodeId([7; 20]);

fn dir() -> &'static Path {
    Path::new("/data")
}

fn slot(number: u16) -> Slot {
    Slot::new(number).expect("in range")
}

fn memory() -> Arc<MemoryFs> {
    let fs = Arc::new(MemoryFs::new());
    fs.create_dir_all(dir()).expect("makes it");
    fs
}

fn value(bytes: &[u8]) -> Entry {
    Entry::Value(Bytes::copy_from_slice(bytes))
}

fn write(fs: &Arc<MemoryFs>, file: u64, runs: &[(Slot, &Model)], options: RunOptions) -> Vec<RunMeta> {
    let mut pack = PackWriter::create(fs.clone(), dir(), FileNo(file), NODE).expect("creates");
    for (number, (slot, model)) in runs.iter().enumerate() {
        pack.begin_run(*slot, options);
        for (key, entry) in *model {
            pack.add(key, entry.into()).expect("adds");
        }
        let seq = number as u64 * 10;
        pack.end_run(Seq(seq + 1), Seq(seq + 10)).expect("ends");
    }
    pack.finish().expect("finishes")
}

fn open(fs: &Arc<MemoryFs>, meta: &RunMeta) -> Result<Arc<Run>> {
    Packs::new(fs.clone(), dir()).open_run(meta)
}

/// Gives only what was fetched before, and forgets all but the last few.
#[derive(Default)]
struct Fetched(HashMap<BlockId, Arc<Block>>);

impl Blocks for Fetched {
    fn block(&mut self, id: BlockId) -> Option<Arc<Block>> {
        self.0.get(&id).cloned()
    }
}

impl Fetched {
    fn only(&mut self, run: &Run, id: BlockId) {
        self.0.clear();
        self.0.insert(id, run.read_block(id).expect("reads"));
    }

    fn get(&mut self, run: &Run, key: &[u8]) -> Option<Entry> {
        loop {
            match run.get(Probe::new(key), self) {
                Lookup::Found(found) => return Some(found.to_entry()),
                Lookup::Absent => return None,
                Lookup::NeedsBlock(id) => self.only(run, id),
            }
        }
    }

    /// As [`Fetched::get`], by looks at blocks where they lie.
    fn look(&mut self, run: &Run, key: &[u8]) -> Result<Option<Entry>> {
        let entry = |stored: Stored<'_>| {
            stored.value().map_or(Entry::Tombstone, |value| Entry::Value(value.to_bytes()))
        };
        loop {
            match run.look(Probe::new(key), self, entry)? {
                Looked::Found(found) => return Ok(Some(found)),
                Looked::Absent => return Ok(None),
                Looked::NeedsBlock(id) => _ = self.0.insert(id, run.read_block(id)?),
            }
        }
    }

    /// Repeats a move until no block is missing.
    fn step(&mut self, cursor: &mut RunCursor, go: impl Fn(&mut RunCursor, &mut Fetched) -> Step) -> bool {
        loop {
            match go(cursor, self) {
                Step::At => return true,
                Step::End => return false,
                Step::NeedsBlock(id) => self.only(&cursor.run().clone(), id),
            }
        }
    }
}

fn current(cursor: &RunCursor) -> Option<(Vec<u8>, Entry)> {
    let (key, entry) = cursor.current()?;
    assert_eq!(cursor.key(), Some(key));
    cursor.read(|read, stored| assert_eq!((read, EntryRef::from(stored)), (key, entry)));
    Some((key.to_vec(), entry.to_owned()))
}

fn scan_all(run: &Arc<Run>) -> Result<Vec<(Vec<u8>, Entry)>> {
    let mut scan = Scan::new(Arc::clone(run))?;
    let mut all = Vec::new();
    while let Some((key, entry)) = scan.current() {
        all.push((key.to_vec(), entry.to_owned()));
        scan.advance()?;
    }
    Ok(all)
}

fn any_key() -> impl Strategy<Value = Vec<u8>> {
    let user = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..4),
        proptest::collection::vec(Just(b'x'), 100..300),
        Just(b"collection".to_vec()),
    ];
    let sub = proptest::collection::vec(any::<u8>(), 0..20);
    (user, proptest::option::of((0u64..3, sub))).prop_map(|(user, element)| match element {
        None => entry_key(&user).to_vec(),
        Some((generation, sub)) => element_key(&user, Generation(generation), &sub).to_vec(),
    })
}

fn any_entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        1 => Just(Entry::Tombstone),
        3 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(|v| value(&[&[1u8][..], &v].concat())),
        1 => (0usize..3000).prop_map(|len| value(&vec![1; len + 1])),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_run_answers_like_a_map_in_both_directions(
        model in proptest::collection::btree_map(any_key(), any_entry(), 1..200),
        probes in proptest::collection::vec(any_key(), 30),
        block_bytes in prop_oneof![Just(1usize), Just(64), Just(500), Just(8192), Just(BLOCK_BYTES_MAX)],
        compress: bool,
        entries_max in prop_oneof![Just(0u64), Just(200), Just(5000)],
    ) {
        let fs = memory();
        let metas = write(&fs, 1, &[(slot(9), &model)], RunOptions { compress, block_bytes, entries_max });
        let run = open(&fs, &metas[0]).expect("opens");
        run.verify().expect("sound");
        let props = &run.meta().props;
        prop_assert_eq!(props.entries, model.len() as u64);
        prop_assert_eq!(props.tombstones, model.values().filter(|e| **e == Entry::Tombstone).count() as u64);
        prop_assert!(props.first_key.as_slice() <= model.keys().next().unwrap().as_slice());
        prop_assert!(props.last_key.as_slice() >= model.keys().next_back().unwrap().as_slice());
        let all: Vec<_> = model.clone().into_iter().collect();
        prop_assert_eq!(&scan_all(&run).expect("reads"), &all);

        let mut blocks = Fetched::default();
        for key in probes.iter().chain(model.keys()) {
            prop_assert_eq!(blocks.get(&run, key), model.get(key).cloned());
            blocks.0.clear();
            prop_assert_eq!(blocks.look(&run, key).expect("sound"), model.get(key).cloned());
        }
        let mut cursor = RunCursor::new(run.clone());
        for key in probes.iter().chain(model.keys().take(20)) {
            let mut expected = model.range(key.clone()..).map(|(k, e)| (k.clone(), e.clone()));
            blocks.step(&mut cursor, |c, b| c.seek(key, b));
            for _ in 0..10 {
                prop_assert_eq!(current(&cursor), expected.next());
                blocks.step(&mut cursor, |c, b| c.next(b));
            }
            let mut expected = model.range(..key.clone()).rev().map(|(k, e)| (k.clone(), e.clone()));
            blocks.step(&mut cursor, |c, b| c.seek_before(key, b));
            for _ in 0..10 {
                prop_assert_eq!(current(&cursor), expected.next());
                blocks.step(&mut cursor, |c, b| c.prev(b));
            }
        }
        let mut met = Vec::new();
        let mut there = blocks.step(&mut cursor, |c, b| c.seek_last(b));
        while there {
            met.push(current(&cursor).expect("stands there"));
            there = blocks.step(&mut cursor, |c, b| c.prev(b));
        }
        met.reverse();
        prop_assert_eq!(&met, &all);
        met.clear();
        let mut there = blocks.step(&mut cursor, |c, b| c.seek_first(b));
        while there {
            met.push(current(&cursor).expect("stands there"));
            there = blocks.step(&mut cursor, |c, b| c.next(b));
        }
        prop_assert_eq!(&met, &all);
    }
}

fn small_models() -> [Model; 2] {
    let mut first = Model::new();
    let mut second = Model::new();
    for number in 0..12u8 {
        first.insert(entry_key(&[number]).to_vec(), value(&[1, number]));
        second.insert(element_key(b"c", Generation(3), &[number]).to_vec(), value(&[number; 30]));
    }
    first.insert(entry_key(b"gone").to_vec(), Entry::Tombstone);
    [first, second]
}

#[test]
fn every_flipped_bit_of_a_pack_is_reported_or_harmless() {
    let fs = memory();
    let [first, second] = small_models();
    let options = RunOptions { compress: true, block_bytes: 100, entries_max: 13 };
    let metas = write(&fs, 1, &[(slot(1), &first), (slot(1023), &second)], options);
    let path = pack_path(dir(), FileNo(1));
    let file = fs.open(&path, OpenMode::Write).expect("opens");
    let mut bytes = vec![0; usize::try_from(file.size().expect("has one")).expect("small")];
    file.read_at(&mut bytes, 0).expect("reads");
    let sound = read_directory(&*fs, &path).expect("sound");
    assert_eq!(sound, (FileNo(1), NODE, metas.clone()));
    let directory_at = metas[1].offset + metas[1].len;
    for bit in 0..bytes.len() as u64 * 8 {
        let at = bit / 8;
        let original = bytes[usize::try_from(at).expect("small")];
        file.write_at(&[original ^ (1 << (bit % 8))], at).expect("writes");
        let mut reported = false;
        for (meta, model) in metas.iter().zip([&first, &second]) {
            let all =
                open(&fs, meta).and_then(|run| scan_all(&run).and_then(|all| run.verify().map(|()| all)));
            if let Ok(run) = open(&fs, meta) {
                let wrong = |key: &Vec<u8>| {
                    let looked = Fetched::default().look(&run, key);
                    looked.is_ok_and(|entry| entry.as_ref() != model.get(key))
                };
                assert_eq!(model.keys().find(|key| wrong(key)), None, "bit {bit} changes the data");
            }
            match all {
                Ok(all) => assert!(all.into_iter().eq(model.clone()), "bit {bit} changes the data"),
                Err(Error::Corrupt { path: named, offset, what }) => {
                    assert_eq!(named, path);
                    assert!(
                        (meta.offset..meta.offset + meta.len).contains(&offset),
                        "bit {bit}: {offset} {what}"
                    );
                    reported = true;
                }
                Err(other) => panic!("bit {bit}: {other}"),
            }
        }
        match read_directory(&*fs, &path) {
            Ok(account) => {
                assert!(reported && account == sound, "bit {bit} of {directory_at} goes unnoticed")
            }
            Err(Error::Corrupt { .. }) => {}
            Err(other) => panic!("bit {bit}: {other}"),
        }
        file.write_at(&[original], at).expect("writes");
    }
}

#[test]
fn a_cut_pack_is_corrupt_at_every_length() {
    let fs = memory();
    let [first, _] = small_models();
    let metas = write(&fs, 1, &[(slot(1), &first)], RunOptions::new(false, 13));
    let path = pack_path(dir(), FileNo(1));
    let file = fs.open(&path, OpenMode::Write).expect("opens");
    for len in (0..file.size().expect("has one")).rev() {
        file.set_size(len).expect("cuts");
        assert!(matches!(read_directory(&*fs, &path), Err(Error::Corrupt { .. })), "{len}");
        let read = open(&fs, &metas[0]).and_then(|run| scan_all(&run));
        assert!(read.is_ok() == (len >= metas[0].len), "{len}");
    }
}

#[test]
fn a_run_of_another_format_or_another_meaning_is_refused() {
    let fs = memory();
    let [first, second] = small_models();
    let metas = write(&fs, 1, &[(slot(1), &first), (slot(2), &second)], RunOptions::new(false, 13));
    let mut other = metas[0].clone();
    other.props.keys += 1;
    assert!(matches!(open(&fs, &other), Err(Error::Corrupt { .. })));
    // The version lies 18 bytes before the end of the footer, the checksum in its last 4.
    let path = pack_path(dir(), FileNo(1));
    let file = fs.open(&path, OpenMode::Write).expect("opens");
    let footer_at = metas[0].offset + metas[0].len - footer::RUN_FOOTER_BYTES as u64;
    let mut raw = [0; footer::RUN_FOOTER_BYTES];
    file.read_at(&mut raw, footer_at).expect("reads");
    raw[34] = 9;
    let crc = crc32fast::hash(&raw[..48]);
    raw[48..].copy_from_slice(&crc.to_le_bytes());
    file.write_at(&raw, footer_at).expect("writes");
    let Err(Error::Unusable { why, .. }) = open(&fs, &metas[0]) else { panic!("a newer format is refused") };
    assert!(why.contains("version 9"), "{why}");
}

#[test]
fn a_run_image_travels_and_a_damaged_one_leaves_no_trace() {
    let fs = memory();
    let [first, second] = small_models();
    let metas = write(&fs, 1, &[(slot(1), &first), (slot(2), &second)], RunOptions::new(true, 13));
    let mut pack = PackWriter::create(fs.clone(), dir(), FileNo(2), NODE).expect("creates");
    let mut images = Vec::new();
    for meta in &metas {
        let run = open(&fs, meta).expect("opens");
        let mut image = Vec::new();
        let mut chunk = [0; 100];
        while (image.len() as u64) < meta.len {
            let got = run.read_image(image.len() as u64, &mut chunk).expect("reads");
            image.extend_from_slice(&chunk[..got]);
        }
        assert_eq!(run.read_image(meta.len, &mut chunk).expect("reads"), 0);
        images.push(image);
    }
    let mut import = |image: &[u8], meta: &RunMeta| {
        pack.begin_import(meta.len, meta.crc);
        image.chunks(77).for_each(|chunk| pack.import(chunk).expect("writes"));
        pack.end_import()
    };
    let mut damaged = images[0].clone();
    damaged[20] ^= 4;
    assert!(matches!(import(&damaged, &metas[0]), Err(Error::Corrupt { .. })));
    assert!(matches!(import(&images[0][..100], &metas[0]), Err(Error::Corrupt { .. })));
    assert!(matches!(import(&[&images[0][..], b"x"].concat(), &metas[0]), Err(Error::Corrupt { .. })));
    let good = import(&images[1], &metas[1]).expect("sound");
    assert_eq!((good.file, good.offset, &good.props), (FileNo(2), 0, &metas[1].props));
    // Bytes of refused imports lie beyond the end of the file until it is finished.
    assert!(matches!(import(&[&images[0][..], &[0; 5000]].concat(), &metas[0]), Err(Error::Corrupt { .. })));
    assert_eq!(pack.finish().expect("finishes"), std::slice::from_ref(&good));
    let (_, _, account) = read_directory(&*fs, &pack_path(dir(), FileNo(2))).expect("sound");
    assert_eq!(account, std::slice::from_ref(&good));
    let run = open(&fs, &good).expect("opens");
    assert!(scan_all(&run).expect("reads").into_iter().eq(second));
}

#[test]
fn a_pack_file_lives_until_the_manifest_and_the_last_reader_let_go() {
    let fs = memory();
    let [first, second] = small_models();
    let models = [(slot(1), &first), (slot(2), &second)];
    let metas: Vec<_> = (1..=3).map(|file| write(&fs, file, &models, RunOptions::new(false, 13))).collect();
    let exists = |file: u64| fs.exists(&pack_path(dir(), FileNo(file))).expect("asks");
    let packs = Packs::new(fs.clone(), dir());
    packs.adopt(metas[0].iter().chain(&metas[1]));
    assert_eq!(packs.remove_orphans().expect("removes"), ["000003.pack"]);
    assert!(exists(1) && exists(2) && !exists(3));

    let reader = packs.open_run(&metas[0][0]).expect("opens");
    packs.release([&metas[0][0]]);
    assert_eq!(packs.sweep().expect("sweeps"), []);
    let usage = packs.usage();
    assert_eq!((usage[0].file, usage[0].live_runs, usage[0].live_bytes), (FileNo(1), 1, metas[0][1].len));
    assert!(usage[0].total_bytes >= metas[0][0].len + metas[0][1].len);
    packs.release([&metas[0][1]]);
    assert_eq!(packs.sweep().expect("sweeps"), [], "somebody reads it");
    assert!(scan_all(&reader).expect("reads").into_iter().eq(first.clone()));
    drop(reader);
    assert_eq!(packs.sweep().expect("sweeps"), [FileNo(1)]);
    assert!(!exists(1));

    packs.release(&metas[1]);
    assert_eq!(packs.sweep().expect("sweeps"), [FileNo(2)], "nobody has it open");
    assert!(packs.usage().is_empty() && !exists(2));
}

#[test]
fn no_more_files_are_open_than_allowed_and_a_closed_one_is_read_all_the_same() {
    let fs = memory();
    let [first, _] = small_models();
    let metas: Vec<_> =
        (1..=9).flat_map(|file| write(&fs, file, &[(slot(1), &first)], RunOptions::new(false, 13))).collect();
    let packs = Packs::with_open_files_max(fs.clone(), dir(), 3);
    packs.adopt(&metas);
    let runs: Vec<_> = metas.iter().map(|meta| packs.open_run(meta).expect("opens")).collect();
    assert_eq!(packs.open_files(), 3);
    for _ in 0..3 {
        for run in &runs {
            assert!(scan_all(run).expect("reads").into_iter().eq(first.clone()));
            assert!(run.try_read_block(run.block_id(0)).expect("reads").is_some(), "it was just read");
            assert!(packs.open_files() <= 3);
        }
    }
    // Of those not read lately one is closed: a read that must not wait says so.
    let cold = runs.iter().filter(|run| run.try_read_block(run.block_id(0)).expect("reads").is_none());
    assert_eq!(cold.count(), 6);
    drop(runs);
    assert_eq!(packs.open_files(), 0);
}

#[test]
fn a_foreign_file_in_the_folder_is_named_not_removed() {
    let fs = memory();
    let path = dir().join("notes.txt");
    fs.open(&path, OpenMode::CreateNew).expect("creates");
    let Err(Error::Unusable { path: named, .. }) = Packs::new(fs.clone(), dir()).remove_orphans() else {
        panic!("it is refused")
    };
    assert_eq!(named, path);
    assert!(fs.exists(&path).expect("asks"));
}

#[test]
fn a_dropped_writer_and_an_empty_pack_leave_no_file() {
    let fs = memory();
    let mut pack = PackWriter::create(fs.clone(), dir(), FileNo(1), NODE).expect("creates");
    pack.begin_run(slot(1), RunOptions::new(false, 1));
    pack.add(&entry_key(b"k"), EntryRef::Tombstone).expect("adds");
    drop(pack);
    let mut pack = PackWriter::create(fs.clone(), dir(), FileNo(2), NODE).expect("creates");
    pack.begin_run(slot(1), RunOptions::new(false, 1));
    assert_eq!(pack.end_run(Seq(1), Seq(1)).expect("ends"), None);
    assert_eq!(pack.finish().expect("finishes"), []);
    assert_eq!(fs.list(dir()).expect("lists"), []);
}

#[test]
#[should_panic(expected = "keys of a run must ascend")]
fn keys_that_do_not_ascend_are_our_own_mistake() {
    let mut pack = PackWriter::create(memory(), dir(), FileNo(1), NODE).expect("creates");
    pack.begin_run(slot(1), RunOptions::new(false, 2));
    pack.add(&entry_key(b"k"), EntryRef::Tombstone).expect("adds");
    pack.add(&entry_key(b"k"), EntryRef::Tombstone).expect("never comes here");
}

#[test]
fn every_failed_operation_of_a_pack_is_an_error_and_a_finished_one_survives_a_crash() {
    let [first, second] = small_models();
    let run = |fs: &Arc<MemoryFs>| -> Result<Vec<RunMeta>> {
        let mut pack = PackWriter::create(fs.clone(), dir(), FileNo(1), NODE)?;
        for (number, model) in [(1, &first), (2, &second)] {
            pack.begin_run(slot(number), RunOptions::new(false, 13));
            model.iter().try_for_each(|(key, entry)| pack.add(key, entry.into()))?;
            pack.end_run(Seq(1), Seq(2))?;
        }
        pack.finish()
    };
    let durable = || {
        let fs = memory();
        fs.sync_dir(Path::new("/")).expect("syncs");
        fs
    };
    let fs = durable();
    let before = fs.operations();
    let metas = run(&fs).expect("no failure");
    let operations = fs.operations() - before;
    for seed in 0..20 {
        let fs = Arc::new(fs.crash(seed));
        for (meta, model) in metas.iter().zip([&first, &second]) {
            assert!(scan_all(&open(&fs, meta).expect("opens")).expect("reads").into_iter().eq(model.clone()));
        }
    }
    for number in 0..operations {
        let fs = durable();
        fs.fail_operation(before + number, std::io::ErrorKind::Other);
        assert!(matches!(run(&fs), Err(Error::Io { .. })), "operation {number} of {operations}");
        assert_eq!(fs.list(dir()).expect("lists"), [], "operation {number}");
    }
}

#[test]
fn the_document_shows_the_formats_as_the_code_does() {
    let document = include_str!("../../../docs/FORMAT.md");
    for source in [
        include_str!("block.rs"),
        include_str!("filter.rs"),
        include_str!("footer.rs"),
        include_str!("index.rs"),
        include_str!("properties.rs"),
    ] {
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
    fn bytes_of_any_kind_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), len: u64) {
        if let Some(block) = block::Block::from_raw(Bytes::from(bytes.clone())) {
            (0..block.count()).for_each(|index| assert_eq!(block.entry(index), block.entry_ref(index).1.to_owned()));
            prop_assert!(block.lower_bound(&bytes) <= block.count());
        }
        prop_assert!(block::Block::decode(&bytes, slot(0), len).is_err(), "a checksum by chance");
        if let Some(index) = index::Index::decode(&bytes, len) {
            prop_assert!(index.block_of(&bytes) < index.count());
        }
        let _ = filter::Filter::decode(&bytes);
        if let Some(props) = Properties::take(&mut &bytes[..]) {
            let mut again = Vec::new();
            props.encode(&mut again);
            prop_assert!(bytes.starts_with(&again));
        }
        if let Some(meta) = RunMeta::take(&mut &bytes[..]) {
            let mut again = Vec::new();
            meta.encode(&mut again);
            prop_assert!(bytes.starts_with(&again));
        }
    }

    #[test]
    fn a_damaged_block_whose_checksum_was_made_to_hold_is_decoded_or_refused(
        model in proptest::collection::btree_map(any_key(), any_entry(), 1..12),
        compress: bool,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut builder = block::BlockBuilder::default();
        for (key, entry) in &model {
            if builder.has_room(key, entry.into(), 8192) {
                builder.add(key, entry.into());
            }
        }
        let mut stored = Vec::new();
        builder.finish(compress, slot(5), 77, &mut stored);
        prop_assert!(Block::decode(&stored, slot(5), 77).is_ok());
        prop_assert!(Block::decode(&stored, slot(6), 77).is_err(), "of another slot");
        prop_assert!(Block::decode(&stored, slot(5), 78).is_err(), "from another place");
        let body = stored.len() - 4;
        for (at, byte) in damage {
            stored[at.index(body)] = byte;
        }
        let crc = block::checksum(&stored[..body], slot(5), 77);
        stored[body..].copy_from_slice(&crc.to_le_bytes());
        for key in model.keys() {
            let looked = block::look_up(&stored, (slot(5), 77), key, &mut Vec::new(), |entry| {
                entry.value().map_or(0, |value| value.len())
            });
            prop_assert!(looked.is_err() || looked.is_ok_and(|len| len.is_none_or(|len| len < 1 << 20)));
        }
        if let Ok(block) = Block::decode(&stored, slot(5), 77) {
            for key in model.keys() {
                prop_assert!(block.lower_bound(key) <= block.count());
                if let Some(place) = block.find(key) {
                    let value_bytes = block.read(&place, |entry| entry.value().map_or(0, |value| value.len()));
                    prop_assert!(value_bytes < block.memory_bytes());
                }
            }
        }
    }
}
