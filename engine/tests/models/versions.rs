//! Versions that are replaced while others read them, and files that go with their last reader.

use std::path::{Path, PathBuf};
use std::sync::Arc as Shared;

use haypile_engine::fs::Fs;
use haypile_engine::key::entry_key;
use haypile_engine::memtable::Entry;
use haypile_engine::sst::{EntryRef, FileNo, PackWriter, Packs, RunMeta, RunOptions, pack_path};
use haypile_engine::sync::Arc;
use haypile_engine::types::{NodeId, Seq, Slot};
use haypile_engine::version::Version;
use loom::sync::Mutex;
use loom::thread;

use crate::disk::Disk;
use crate::explore;

/// Two slots' versions, each under its slot's lock, and the packs that hold their runs.
struct Store {
    disk: Disk,
    packs: Packs,
    cells: [Mutex<Arc<Version>>; 2],
    /// Held while an edit is made and installed.
    manifest: Mutex<()>,
}

/// Writes a pack with a run for each of these slots.
fn write_pack(disk: &Disk, file: u64, slots: &[u16]) -> Vec<RunMeta> {
    let fs = Shared::new(disk.clone());
    let mut pack = PackWriter::create(fs, &dir(), FileNo(file), NodeId([7; 20])).expect("created");
    for &slot in slots {
        pack.begin_run(Slot::new(slot).expect("a slot"), RunOptions::new(false, 1));
        pack.add(&entry_key(b"key"), EntryRef::Value(b"its value")).expect("added");
        pack.end_run(Seq(file), Seq(file)).expect("ended");
    }
    pack.finish().expect("finished")
}

fn dir() -> PathBuf {
    PathBuf::from("/data")
}

fn backup() -> PathBuf {
    PathBuf::from("/backup")
}

impl Store {
    /// Both slots have their one run in pack 1. One file is open at a time.
    fn new() -> Shared<Store> {
        let disk = Disk::new();
        let packs = Packs::with_open_files_max(Shared::new(disk.clone()), &dir(), 1);
        let metas = write_pack(&disk, 1, &[0, 1]);
        let version = |meta| Mutex::new(Arc::new(Version::new(vec![packs.open_run(meta).expect("opened")])));
        let cells = [version(&metas[0]), version(&metas[1])];
        packs.adopt(&metas);
        Shared::new(Store { disk, packs, cells, manifest: Mutex::new(()) })
    }

    fn version(&self, slot: usize) -> Arc<Version> {
        Arc::clone(&self.cells[slot].lock().expect("sound"))
    }

    /// Looks the key up as a command does that misses the cache: in a version that it took, off the slot's lock.
    fn read(&self, slot: usize) {
        let version = self.version(slot);
        for run in version.runs() {
            let block = run.read_block(run.block_id(0)).expect("a version's files can be read");
            let found = block.find(&entry_key(b"key")).map(|parsed| block.owned(parsed));
            assert_eq!(found, Some(Entry::Value("its value".into())));
        }
    }

    /// Puts these runs in the place of those that the slot has, in the order of a flush and of a compaction.
    fn replace(&self, slot: usize, added: &[RunMeta]) {
        let opened: Vec<_> = added.iter().map(|meta| self.packs.open_run(meta).expect("opened")).collect();
        let manifest = self.manifest.lock().expect("sound");
        self.packs.adopt(added);
        let removed = {
            let mut cell = self.cells[slot].lock().expect("sound");
            let removed = cell.metas();
            *cell = Arc::new(cell.edited(&opened, &removed));
            removed
        };
        self.packs.release(&removed);
        drop(manifest);
        drop(opened);
        self.packs.sweep().expect("each file is removed once");
    }

    /// Links a slot's files elsewhere, as a checkpoint does: from a version that it took, off the slot's lock.
    fn link(&self, slot: usize) {
        let version = self.version(slot);
        for run in version.runs() {
            let file = run.meta().file;
            self.disk.link(&pack_path(&dir(), file), &pack_path(&backup(), file)).expect("it has its name");
        }
    }

    fn exists(&self, dir: &Path, file: u64) -> bool {
        self.disk.exists(&pack_path(dir, FileNo(file))).expect("sound")
    }

    /// Nobody reads any more: the files that nothing refers to are gone after one more sweep.
    fn assert_swept(&self, kept: &[u64], gone: &[u64]) {
        self.packs.sweep().expect("each file is removed once");
        for (file, there) in
            kept.iter().map(|&file| (file, true)).chain(gone.iter().map(|&file| (file, false)))
        {
            assert_eq!(self.exists(&dir(), file), there, "file {file}");
        }
    }
}

fn spawn(store: &Shared<Store>, act: impl FnOnce(&Store) + 'static) -> thread::JoinHandle<()> {
    let store = Shared::clone(store);
    thread::spawn(move || act(&store))
}

#[test]
fn a_reader_reads_all_of_its_version_and_the_files_go_after_it() {
    explore(2, || {
        let store = Store::new();
        let merged = write_pack(&store.disk, 2, &[0, 1]);
        let (first, second) = (merged[0].clone(), merged[1].clone());
        let compaction = spawn(&store, move |store| {
            store.replace(0, &[first]);
            store.replace(1, &[second]);
        });
        let reader = spawn(&store, |store| store.read(1));
        store.read(0);
        compaction.join().expect("ends");
        reader.join().expect("ends");
        store.assert_swept(&[2], &[1]);
    });
}

#[test]
fn a_shared_file_goes_once_whoever_lets_go_of_it_last() {
    explore(2, || {
        let store = Store::new();
        let merged = write_pack(&store.disk, 2, &[0]);
        let compaction = spawn(&store, move |store| store.replace(0, &merged));
        let removal = spawn(&store, |store| store.replace(1, &[]));
        store.link(1);
        compaction.join().expect("ends");
        removal.join().expect("ends");
        store.assert_swept(&[2], &[1]);
        assert!(store.version(1).runs().is_empty() || store.exists(&backup(), 1));
    });
}
