//! Stores of every version that was ever written open and give back all that was in them; what a later version marks as
//! needed is refused, what it marks as ignorable is ignored.
//!
//! `HAYPILE_REWRITE=1 cargo test -p haypile-tests --test formats` writes today's version anew: only for changes of the
//! format before a release, or into a folder of a new version.

use std::fmt::Write;
use std::path::Path;
use std::sync::Once;

use haypile_engine::background::Job;
use haypile_engine::engine::Engine;
use haypile_engine::error::{Error, Result};
use haypile_engine::fs::Fs;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::fs::real::RealFs;
use haypile_engine::inspect::{self, Depth};
use haypile_tests::fixture::{self, VERSION};
use haypile_tests::sources;
use haypile_tests::store::{self, DIR, content, create, files, open, overwrite, read, slot};

/// The store of the fixture.
fn make(engine: &Engine) -> Result<()> {
    let all = [1, 2, 500].map(slot);
    engine.add_slots(&all)?;
    for number in 0..20 {
        store::put(engine, &all, &format!("key{number}"), format!("value {number} ").repeat(9).as_bytes())?;
    }
    store::put_collection(engine, all[0], "set", 10)?;
    engine.flush_all()?;
    store::delete(engine, all[1], "key3")?;
    store::put(engine, &all[1..], "key4", b"another")?;
    engine.flush(&all[1..])?;
    // Fills a segment.
    store::put(engine, &all[..1], "large", &vec![b'x'; 70_000])?;
    store::put(engine, &all, "last", b"one")?;
    while engine.step(Job::Sync)? {}
    engine.follow(&all[2..], "127.0.0.1:9221")
}

fn said(engine: &Engine) -> String {
    let mut text = String::new();
    for (slot, entries) in content(engine).expect("reads") {
        for (key, value) in entries {
            let value = if value.len() > 300 { format!("{} bytes", value.len()).into_bytes() } else { value };
            writeln!(text, "{slot} {} {}", key.escape_ascii(), value.escape_ascii()).expect("text grows");
        }
    }
    text
}

#[test]
fn a_store_of_every_version_opens_and_gives_back_all_that_was_in_it() {
    let fs = today();
    let report = inspect::check(&fs, Path::new(DIR), Depth::Everything, &mut |_| {}).expect("it is one");
    assert_eq!(report.problems, 0);
    let figures = report.figures;
    assert!(figures.segments >= 2 && figures.packs >= 2 && figures.runs >= 5, "{figures:?}");
    let engine = open(&fs).expect("it opens");
    let expected = sources::text(&format!("tests/testdata/formats/{VERSION}/content.txt"));
    assert_eq!(said(&engine), expected);
}

/// The store of today's version, as it is committed.
fn today() -> MemoryFs {
    static WRITTEN: Once = Once::new();
    fixture::today(VERSION, &WRITTEN, rewrite)
}

fn rewrite() {
    let fs = MemoryFs::new();
    let engine = open(&fs).expect("opens");
    make(&engine).expect("writes");
    drop(engine);
    let root = sources::root().join("tests/testdata/formats").join(VERSION);
    let write = |name: &str, bytes: &[u8]| {
        let path = root.join(name);
        if RealFs.exists(&path).expect("looks") {
            RealFs.remove(&path).expect("removes");
        }
        create(&RealFs, path.to_str().expect("text"), bytes);
    };
    for old in ["log", "data", "manifest"] {
        if let Ok(entries) = RealFs.list(&root.join(old)) {
            entries
                .iter()
                .for_each(|entry| RealFs.remove(&root.join(old).join(&entry.name)).expect("removes"));
        }
    }
    for path in files(&fs, DIR) {
        if !path.ends_with(".tmp") && !path.ends_with("LOCK") {
            let name = path.strip_prefix("/store/").expect("within");
            write(name, &read(&fs, &path));
        }
    }
    let fs = fs.restart();
    write("content.txt", said(&open(&fs).expect("opens")).as_bytes());
}

/// Sets a feature bit and the checksum of what it stands in.
fn set_bit(
    fs: &MemoryFs,
    path: &str,
    bits_at: usize,
    bit: usize,
    crc_at: usize,
    covered: std::ops::Range<usize>,
) {
    let mut bytes = read(fs, path);
    bytes[bits_at + bit / 8] |= 1 << (bit % 8);
    let crc = fixture::crc(&bytes[covered]);
    bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    overwrite(fs, path, 0, &bytes);
}

/// Where the feature bits of each kind of file are: path, bits, checksum, what that covers.
fn places(fs: &MemoryFs) -> Vec<(String, usize, usize, std::ops::Range<usize>)> {
    let all = files(fs, DIR);
    let segment = all.iter().rfind(|path| path.ends_with(".log")).expect("a segment").clone();
    let manifest = all.iter().find(|path| path.contains("/manifest/0")).expect("a manifest").clone();
    let frame = read(fs, &manifest);
    let frame_end =
        32 + usize::try_from(u32::from_le_bytes([frame[4], frame[5], frame[6], frame[7]])).expect("small");
    let pack = all.iter().find(|path| path.ends_with(".pack")).expect("a pack").clone();
    let bytes = read(fs, &pack);
    let end = bytes.len();
    let directory =
        usize::try_from(u64::from_le_bytes(*bytes[end - 64..].first_chunk().expect("8"))).expect("small");
    let first_run = usize::try_from(u64::from_le_bytes(*bytes[directory + 10..].first_chunk().expect("8")))
        .expect("small");
    vec![
        (segment, 56, 0, 4..64),
        (manifest, 24, 0, 4..frame_end),
        (pack.clone(), end - 12, end - 4, end - 64..end - 4),
        (pack, first_run - 12, first_run - 4, first_run - 52..first_run - 4),
    ]
}

#[test]
fn a_required_feature_bit_is_refused_by_its_number_in_every_kind_of_file() {
    let whole = today();
    for (path, bits, crc, covered) in places(&whole) {
        let fs = whole.restart();
        set_bit(&fs, &path, bits, 5, crc, covered);
        let found = inspect::check(&fs, Path::new(DIR), Depth::Everything, &mut |_| {});
        let problems = match found {
            Err(Error::Unusable { path: at, why }) => {
                assert!(path.ends_with(&at.file_name().expect("a file").to_string_lossy().into_owned()));
                assert!(why.contains("needs feature bit 5"), "{path}: {why}");
                0
            }
            Err(error) => panic!("{path}: {error}"),
            Ok(report) => report.problems,
        };
        // A start does not read a pack's directory.
        let is_directory = bits + 12 == read(&fs, &path).len();
        match open(&fs).err() {
            Some(error) => assert!(error.to_string().contains("needs feature bit 5"), "{path}: {error}"),
            None => assert!(is_directory, "{path} was opened"),
        }
        assert!(problems == 0 || is_directory || path.ends_with(".log"), "{path}");
    }
}

#[test]
fn a_compatible_feature_bit_is_ignored_in_every_kind_of_file() {
    let whole = today();
    let expected = said(&open(&whole.restart()).expect("opens"));
    for (path, bits, crc, covered) in places(&whole) {
        let fs = whole.restart();
        set_bit(&fs, &path, bits, 32 + 7, crc, covered);
        let engine = open(&fs).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(said(&engine), expected, "{path}");
    }
}
