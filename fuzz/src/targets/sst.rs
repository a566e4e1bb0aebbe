//! Runs and packs: each part of a run by itself, a pack's directory, and a whole pack.

use std::path::Path;
use std::sync::Arc;

use haypile_engine::error::Error;
use haypile_engine::fs::Fs;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::key::{Generation, element_key, entry_key};
use haypile_engine::manifest::Edit;
use haypile_engine::sst::{
    Block, BlockBuilder, EntryRef, FileNo, Filter, Index, IndexBuilder, KeyHash, PackWriter, Packs, RunMeta,
    RunOptions, Scan, TRAILER_BYTES, pack_path, read_directory,
};
use haypile_engine::types::{Seq, Slot};
use haypile_engine::varint;

use super::{NODE, contents, disk, is_about_bytes, le64_at, slot};

/// Where the block of an input lies.
const BLOCK_OFFSET: u64 = 77;

fn block_slot() -> Slot {
    slot(5)
}

fn stored(entries: &[(&[u8], EntryRef<'_>)], compress: bool) -> Vec<u8> {
    let mut builder = BlockBuilder::default();
    for (key, entry) in entries {
        builder.add(key, *entry);
    }
    let mut out = Vec::new();
    builder.finish(compress, block_slot(), BLOCK_OFFSET, &mut out);
    out
}

pub(super) fn blocks() -> Vec<Vec<u8>> {
    let keys: Vec<Vec<u8>> = (0..40).map(|number| format!("shared key {number:02}").into_bytes()).collect();
    let many: Vec<(&[u8], EntryRef<'_>)> = keys
        .iter()
        .enumerate()
        .map(|(place, key)| {
            let entry = if place % 7 == 6 { EntryRef::Tombstone } else { EntryRef::Value(b"the same value") };
            (&key[..], entry)
        })
        .collect();
    let few: [(&[u8], EntryRef<'_>); 3] =
        [(b"", EntryRef::Value(b"")), (b"a", EntryRef::Tombstone), (b"b", EntryRef::Value(&[7; 200]))];
    vec![stored(&many, true), stored(&many[..6], false), stored(&few, true), stored(&few, false)]
}

pub(super) fn block(bytes: &[u8]) {
    let Ok(block) = Block::decode(bytes, block_slot(), BLOCK_OFFSET) else { return };
    assert!(block.count() > 0);
    let entries: Vec<_> = (0..block.count()).map(|index| block.entry_ref(index)).collect();
    let again = stored(&entries, false);
    // Uncompressed, there is one form for these entries.
    if bytes[bytes.len() - TRAILER_BYTES] == 0 {
        assert_eq!(again, bytes, "a block that was read is written otherwise");
    }
    let second = Block::decode(&again, block_slot(), BLOCK_OFFSET).expect("what was written is read");
    assert!(entries.iter().enumerate().all(|(index, entry)| second.entry_ref(index) == *entry));
    let ascends = entries.windows(2).all(|pair| pair[0].0 < pair[1].0);
    for key in
        [&b""[..], b"shared key 17", &[0xff; 12]].into_iter().chain(entries.iter().map(|(key, _)| *key))
    {
        let (place, found) = (block.lower_bound(key), block.find(key));
        assert!(place <= block.count());
        if ascends {
            assert_eq!(place, entries.partition_point(|(other, _)| *other < key));
            assert_eq!(found.is_some(), entries.iter().any(|(other, _)| *other == key));
        }
    }
}

pub(super) fn repair_block(bytes: &mut [u8]) {
    repair_block_of(bytes, block_slot(), BLOCK_OFFSET);
}

/// Gives a block its checksum; and its length, unless that has to say how far it expands.
fn repair_block_of(bytes: &mut [u8], slot: Slot, offset_in_run: u64) {
    let Some(payload) = bytes.len().checked_sub(TRAILER_BYTES) else { return };
    if bytes[payload] == 0 {
        let len = u32::try_from(payload).unwrap_or(u32::MAX);
        bytes[payload + 1..payload + 5].copy_from_slice(&len.to_le_bytes());
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&slot.number().to_le_bytes());
    hasher.update(&offset_in_run.to_le_bytes());
    hasher.update(&bytes[..payload + 5]);
    bytes[payload + 5..].copy_from_slice(&hasher.finalize().to_le_bytes());
}

/// An input is the length of a run's blocks as a varint, then the index over them.
pub(super) fn indexes() -> Vec<Vec<u8>> {
    let mut builder = IndexBuilder::default();
    let mut last = Vec::new();
    for number in 0..12_u64 {
        let first = format!("{}key {number:02}", "prefix".repeat(usize::from(number > 5))).into_bytes();
        builder.add(number * 300, &last, &first);
        last = [&first[..], b" and more"].concat();
    }
    let mut one = IndexBuilder::default();
    one.add(0, b"", b"key");
    [(builder, 4000), (one, 9)]
        .map(|(builder, len)| {
            let mut out = Vec::new();
            varint::put(&mut out, len);
            builder.encode(&mut out);
            out
        })
        .to_vec()
}

pub(super) fn index(mut bytes: &[u8]) {
    let Some(data_len) = varint::take(&mut bytes) else { return };
    let Some(index) = Index::decode(bytes, data_len) else { return };
    let mut again = Vec::new();
    varint::put(&mut again, index.count() as u64);
    let mut end = 0;
    for block in 0..index.count() {
        let (extent, separator) = (index.extent(block), index.separator(block));
        assert!(extent.start == end && extent.end > end, "blocks lie one after another");
        varint::put(&mut again, extent.start - if block == 0 { 0 } else { index.extent(block - 1).start });
        varint::put_slice(&mut again, separator);
        end = extent.end;
        assert_eq!(index.block_at(extent.start), Some(block));
        assert_eq!(index.block_of(separator), block);
        let next = [separator, b"\0"].concat();
        let is_parted = block + 1 < index.count() && index.separator(block + 1) == next;
        assert_eq!(index.block_of(&next), block + usize::from(is_parted), "the next key");
    }
    assert_eq!(end, data_len);
    assert_eq!(again, bytes, "an index that was read is written otherwise");
}

pub(super) fn filters() -> Vec<Vec<u8>> {
    [3_u64, 200]
        .map(|keys| {
            let mut filter = Filter::for_keys(keys);
            (0..keys).for_each(|key| filter.insert(KeyHash::of(&key.to_be_bytes())));
            let mut out = Vec::new();
            filter.encode(&mut out);
            out
        })
        .to_vec()
}

pub(super) fn filter(bytes: &[u8]) {
    // As a filter's bytes.
    if let Some(mut filter) = Filter::decode(bytes) {
        let mut again = Vec::new();
        filter.encode(&mut again);
        assert_eq!(again, bytes);
        for key in bytes.chunks(7) {
            filter.insert(KeyHash::of(key));
            assert!(filter.may_contain(KeyHash::of(key)));
        }
    }
    // As keys: of what was inserted nothing is missing, however the filter was folded.
    let keys = || bytes.chunks(5).map(KeyHash::of);
    let mut filter = Filter::for_keys(keys().len() as u64 * u64::from(bytes.first().copied().unwrap_or(1)));
    keys().for_each(|key| filter.insert(key));
    filter.shrink_to(keys().len() as u64);
    let mut out = Vec::new();
    filter.encode(&mut out);
    let filter = Filter::decode(&out).expect("what was written is read");
    assert!(keys().all(|key| filter.may_contain(key)));
}

pub(super) fn pack_bytes() -> (Vec<u8>, Vec<Edit>) {
    let fs = MemoryFs::new();
    let dir = Path::new("/data");
    fs.create_dir_all(dir).expect("a disk in memory takes a folder");
    let mut edits = Vec::new();
    let mut write = || {
        let mut writer = PackWriter::create(Arc::new(fs.clone()), dir, FileNo(1), NODE)?;
        for (number, entries) in [(1, 3), (600, 40)] {
            let mut keys: Vec<Vec<u8>> =
                (0..entries).map(|entry| entry_key(format!("key {entry}").as_bytes()).to_vec()).collect();
            keys.push(element_key(b"key 1", Generation(9), b"sub").to_vec());
            keys.sort();
            writer.begin_run(slot(number), RunOptions { block_bytes: 256, ..RunOptions::new(true, 64) });
            for (place, key) in keys.iter().enumerate() {
                let entry = if place % 5 == 4 {
                    EntryRef::Tombstone
                } else {
                    EntryRef::Value(b"\0same same same same")
                };
                writer.add(key, entry)?;
            }
            let meta = writer.end_run(Seq(1), Seq(90))?.expect("entries were added");
            edits.push(Edit::Runs { slot: slot(number), add: vec![meta], remove: Vec::new() });
        }
        writer.finish()
    };
    write().expect("a disk in memory takes a file");
    (contents(&fs, &pack_path(dir, FileNo(1))), edits)
}

pub(super) fn run_metas() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for edit in pack_bytes().1 {
        let Edit::Runs { add, .. } = edit else { continue };
        for mut meta in add {
            for min_expiry in [None, Some(haypile_engine::clock::TimeMs(1 << 41))] {
                meta.props.min_expiry = min_expiry;
                let mut bytes = Vec::new();
                meta.encode(&mut bytes);
                out.push(bytes);
            }
        }
    }
    out
}

pub(super) fn run_meta(bytes: &[u8]) {
    let mut rest = bytes;
    let Some(meta) = RunMeta::take(&mut rest) else { return };
    let mut again = Vec::new();
    meta.encode(&mut again);
    assert_eq!(again, bytes[..bytes.len() - rest.len()], "what was read of a run is written otherwise");
    assert!(meta.offset.checked_add(meta.len).is_some());
}

const ENTRY: usize = 22;
const FOOTER: usize = 64;

/// Where the directory of a pack begins.
fn directory_at(pack: &[u8]) -> Option<usize> {
    le64_at(pack, pack.len().checked_sub(FOOTER)?)
}

/// An input is the directory of a pack whose runs and footer are always the same.
pub(super) fn directories() -> Vec<Vec<u8>> {
    let pack = pack_bytes().0;
    let at = directory_at(&pack).expect("a footer was written");
    let directory = &pack[at..pack.len() - FOOTER];
    vec![directory.to_vec(), directory[..ENTRY].to_vec(), directory.repeat(2)]
}

pub(super) fn directory(bytes: &[u8]) {
    let pack = pack_bytes().0;
    let at = directory_at(&pack).expect("a footer was written");
    let mut whole = [&pack[..at], bytes, &pack[pack.len() - FOOTER..]].concat();
    let count = u32::try_from(bytes.len() / ENTRY).unwrap_or(u32::MAX);
    let footer = whole.len() - FOOTER;
    whole[footer + 8..footer + 12].copy_from_slice(&count.to_le_bytes());
    seal_pack(&mut whole);
    let path = Path::new("/data/000001.pack");
    match read_directory(&disk(path, &whole), path) {
        Ok((file, node, metas)) => {
            assert_eq!((file, node), (FileNo(1), NODE));
            let mut again = Vec::new();
            for meta in &metas {
                again.extend_from_slice(&meta.props.slot.number().to_le_bytes());
                again.extend_from_slice(&meta.offset.to_le_bytes());
                again.extend_from_slice(&meta.len.to_le_bytes());
                again.extend_from_slice(&meta.crc.to_le_bytes());
                assert!(meta.offset + meta.len <= at as u64, "a run lies before the directory");
            }
            assert_eq!(again, bytes, "a directory that was read is written otherwise");
        }
        Err(error) => is_about_bytes(&error),
    }
}

/// Gives directory and footer of a pack their checksums.
fn seal_pack(pack: &mut [u8]) {
    let Some(at) = pack.len().checked_sub(FOOTER) else { return };
    if let Some(directory) = directory_at(pack).and_then(|start| pack.get(start..at)) {
        let crc = crc32fast::hash(directory);
        pack[at + 12..at + 16].copy_from_slice(&crc.to_le_bytes());
    }
    let crc = crc32fast::hash(&pack[at..at + 60]);
    pack[at + 60..].copy_from_slice(&crc.to_le_bytes());
}

pub(super) fn packs() -> Vec<Vec<u8>> {
    vec![pack_bytes().0]
}

pub(super) fn pack(bytes: &[u8]) {
    let path = Path::new("/data/000001.pack");
    let fs = Arc::new(disk(path, bytes));
    let metas = match read_directory(&*fs, path) {
        Ok((_, _, metas)) => metas,
        Err(error) => return is_about_bytes(&error),
    };
    let packs = Packs::new(fs, Path::new("/data"));
    for meta in &metas {
        let scanned = packs.open_run(meta).and_then(|run| {
            let mut keys: Vec<Vec<u8>> = Vec::new();
            let mut scan = Scan::new(Arc::clone(&run))?;
            while let Some((key, _)) = scan.current() {
                keys.push(key.to_vec());
                assert!(keys.len() <= 256 * bytes.len(), "more entries than bytes");
                scan.advance()?;
            }
            run.verify()?;
            // What is sound is in order, complete, and found.
            assert_eq!(keys.len() as u64, meta.props.entries);
            assert!(keys.is_sorted_by(|a, b| a < b));
            assert!(keys.iter().all(|key| run.may_contain(haypile_engine::sst::Probe::new(key))));
            Ok(())
        });
        if let Err(error) = scanned {
            assert!(!matches!(error, Error::Poisoned(_)), "{error}");
        }
    }
}

/// Repairs what stands behind checksums from the inside to the outside: blocks, the other parts of each run, the
/// run as a whole, directory, footer.
pub(super) fn repair_pack(pack: &mut [u8]) {
    let Some(footer_at) = pack.len().checked_sub(FOOTER) else { return };
    let Some(at) = directory_at(pack).filter(|at| *at <= footer_at) else { return };
    let (runs, rest) = pack.split_at_mut(at);
    let directory = rest.len() - FOOTER;
    for entry in rest[..directory].chunks_exact_mut(ENTRY) {
        let place = le64_at(entry, 2).zip(le64_at(entry, 10));
        let run = place.and_then(|(offset, len)| runs.get_mut(offset..offset.checked_add(len)?));
        if let Some(run) = run {
            repair_run(run);
            entry[18..].copy_from_slice(&crc32fast::hash(run).to_le_bytes());
        }
    }
    seal_pack(pack);
}

fn repair_run(run: &mut [u8]) {
    const RUN_FOOTER: usize = 52;
    let Some(end) = run.len().checked_sub(RUN_FOOTER) else { return };
    run[end + 24..end + 32].copy_from_slice(&((end + RUN_FOOTER) as u64).to_le_bytes());
    let parts = [le64_at(run, end), le64_at(run, end + 8), le64_at(run, end + 16), Some(end)];
    let slot = Slot::new(u16::from_le_bytes([run[end + 32], run[end + 33]]));
    if let ([Some(filter), Some(index), Some(properties), _], Some(slot)) = (parts, slot) {
        repair_blocks(run, filter, index, properties, slot);
    }
    for pair in parts.windows(2) {
        let part = pair[0].zip(pair[1]).and_then(|(start, end)| run.get_mut(start..end));
        if let Some((body, crc)) = part.and_then(|part| part.split_last_chunk_mut::<4>()) {
            *crc = crc32fast::hash(body).to_le_bytes();
        }
    }
    let crc = crc32fast::hash(&run[end..end + 48]);
    run[end + 48..].copy_from_slice(&crc.to_le_bytes());
}

fn repair_blocks(run: &mut [u8], filter: usize, index: usize, properties: usize, slot: Slot) {
    let Some(bytes) = properties.checked_sub(4).and_then(|end| run.get(index..end)) else { return };
    let Some(index) = Index::decode(bytes, filter as u64) else { return };
    for number in 0..index.count() {
        let extent = index.extent(number);
        let place = usize::try_from(extent.start).ok().zip(usize::try_from(extent.end).ok());
        if let Some(block) = place.and_then(|(start, end)| run.get_mut(start..end)) {
            repair_block_of(block, slot, extent.start);
        }
    }
}
