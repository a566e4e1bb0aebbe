//! `haypile check`, `inspect` and `repair` on stores that are whole, crashed, and damaged.

use std::path::Path;

use haypile_engine::fs::Fs;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::fs::real::RealFs;
use haypile_engine::types::Slot;
use haypile_server::tools::{self, Form, Subject};
use haypile_tests::fixture::{self, VERSION};
use haypile_tests::sources;
use haypile_tests::store::{DIR, check, create, files, fill, filled, open, overwrite, read};

#[test]
fn a_store_is_whole_after_a_kill_and_after_a_clean_stop() {
    let fs = filled();
    let (status, said) = check(&fs);
    assert_eq!(status, tools::FINE, "{said}");
    let engine = open(&fs).expect("opens");
    engine.close().expect("closes");
    drop(engine);
    let (status, said) = check(&fs);
    assert_eq!(status, tools::FINE, "{said}");
    assert!(said.ends_with("no problem\n"), "{said}");
}

/// What a crash leaves is not damage, wherever it comes.
#[test]
fn a_store_is_whole_after_power_failed_at_any_operation() {
    let total = {
        let fs = MemoryFs::new();
        drop(fill(&open(&fs).expect("opens")));
        fs.operations()
    };
    for stop in (0..total).step_by(11) {
        let fs = MemoryFs::new();
        fs.stop_at(stop);
        if let Ok(engine) = open(&fs) {
            drop(fill(&engine));
        }
        let fs = fs.crash(stop);
        if files(&fs, "").iter().all(|path| !path.ends_with("/CURRENT")) {
            continue;
        }
        let (status, said) = check(&fs);
        assert_eq!(status, tools::FINE, "stopped at {stop} of {total}: {said}");
        drop(open(&fs).unwrap_or_else(|error| panic!("stopped at {stop}: {error}")));
    }
}

/// Flips a bit of every `1 / part`th of each file's bytes and gives what a check says to `see`: whether it found
/// something, the file, where the bit is, how many bytes of the file are in use.
fn flip_bits(fs: &MemoryFs, part: usize, see: &mut dyn FnMut(bool, &str, usize, usize)) {
    for path in files(fs, DIR) {
        if path.ends_with(".tmp") || path.ends_with("LOCK") {
            continue;
        }
        let bytes = read(fs, &path);
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        for at in (0..used).step_by(1 + used / part) {
            let bad = fs.restart();
            overwrite(&bad, &path, at, &[bytes[at] ^ 1 << (at % 8)]);
            let (status, said) = check(&bad);
            let name = path.strip_prefix(DIR).expect("within").trim_start_matches('/');
            if status == tools::FINE {
                let opened = open(&bad);
                assert!(opened.is_ok(), "{path} byte {at}: a start refuses what a check takes: {said}");
            } else {
                assert!(said.contains(name), "{path} byte {at}: {said}");
            }
            see(status != tools::FINE, name, at, used);
        }
    }
}

/// Every byte of every file that counts is checked.
#[test]
fn a_flipped_bit_anywhere_in_a_store_that_was_stopped_is_reported_with_its_file() {
    let fs = filled();
    let engine = open(&fs).expect("opens");
    engine.close().expect("closes");
    drop(engine);
    let mut reported = 0;
    flip_bits(&fs, 150, &mut |is_reported, name, at, used| {
        reported += u32::from(is_reported);
        // Nobody reads runs that were merged away, and the manifest's last frame only confirms the one before.
        let harmless = name.starts_with("data/") || (name.starts_with("manifest/0") && at + 24 >= used);
        assert!(is_reported || harmless, "{name} byte {at} of {used}");
    });
    assert!(reported > 500, "{reported}");
}

/// What was not promised to anybody when the node was killed may be cut, as the next start does.
#[test]
fn a_start_never_refuses_what_a_check_took() {
    let mut reported = 0;
    flip_bits(&filled(), 60, &mut |is_reported, _, _, _| reported += u32::from(is_reported));
    assert!(reported > 200, "{reported}");
}

#[test]
fn a_store_in_use_is_not_checked() {
    let fs = MemoryFs::new();
    let engine = open(&fs).expect("opens");
    let error = tools::check(&fs, Path::new(DIR), &mut Vec::new()).expect_err("in use").to_string();
    assert!(error.contains("in use by a running node"), "{error}");
    drop(engine);
    check(&fs);
    let error = tools::check(&fs, Path::new("/nothing"), &mut Vec::new()).expect_err("nothing").to_string();
    assert!(error.contains("/nothing: not a data folder"), "{error}");
    assert!(!fs.exists(Path::new("/nothing")).expect("looks"));
}

/// What a tool says about the store of `tests/testdata/formats/`, against the file that remembers it.
fn golden(name: &str, said: &str) {
    let path = format!("tests/testdata/tools/{name}");
    if std::env::var("HAYPILE_REWRITE").is_ok() {
        let whole = sources::root().join(&path);
        if RealFs.exists(&whole).expect("looks") {
            RealFs.remove(&whole).expect("removes");
        }
        create(&RealFs, whole.to_str().expect("text"), said.as_bytes());
    }
    assert_eq!(said, sources::text(&path), "{path}; HAYPILE_REWRITE=1 writes it anew");
}

fn inspected(fs: &MemoryFs, path: &str, subject: &Subject, form: Form) -> String {
    let mut out = Vec::new();
    let status = tools::inspect(fs, Path::new(path), subject, form, &mut out);
    assert_eq!(status.unwrap_or_else(|why| panic!("{why}")), tools::FINE);
    String::from_utf8(out).expect("text")
}

fn subjects() -> Vec<(&'static str, &'static str, Subject)> {
    let slot = Slot::new(2).expect("below 1024");
    vec![
        ("log", DIR, Subject::Log { slot: None, limit: 60 }),
        ("log-slot", DIR, Subject::Log { slot: Some(slot), limit: usize::MAX }),
        ("segment", "/store/log/0000000000000001.log", Subject::Log { slot: None, limit: usize::MAX }),
        ("manifest", DIR, Subject::Manifest),
        ("pack", DIR, Subject::Pack),
        ("sst", DIR, Subject::Sst { slot: Some(slot), entries: true }),
        ("slot", DIR, Subject::Slot(slot)),
        ("tree", DIR, Subject::Tree),
    ]
}

#[test]
fn inspect_shows_everything_that_lies_in_a_store() {
    let fs = fixture::load(VERSION);
    for (name, path, subject) in subjects() {
        golden(&format!("{name}.txt"), &inspected(&fs, path, &subject, Form::Text));
        golden(&format!("{name}.json"), &inspected(&fs, path, &subject, Form::Json));
    }
    let (_, said) = check(&fs);
    golden("check.txt", &said);
}

/// Nothing that lies in the files keeps the rest from being shown.
#[test]
fn inspect_goes_on_through_damage_and_says_where_it_is() {
    let whole = fixture::load(VERSION);
    let mut found = 0;
    for path in files(&whole, DIR).into_iter().filter(|path| !path.ends_with("CURRENT")) {
        let bytes = read(&whole, &path);
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        for at in (0..used).step_by(1 + used / 20) {
            let fs = whole.restart();
            overwrite(&fs, &path, at, &[bytes[at] ^ 0x10]);
            for (_, of, subject) in subjects().into_iter().filter(|(_, of, _)| *of == DIR) {
                let said = inspected(&fs, of, &subject, Form::Text);
                found += u32::from(said.contains("damage") || said.contains("torn end"));
            }
        }
    }
    assert!(found > 50, "{found}");
    let fs = whole.restart();
    let log = "/store/log/0000000000000000.log";
    overwrite(&fs, log, 700, b"damage");
    let subject = Subject::Log { slot: None, limit: 20 };
    golden("log-damaged.txt", &inspected(&fs, DIR, &subject, Form::Text));
    let (status, said) = check(&fs);
    assert_eq!(status, tools::DAMAGED);
    golden("check-damaged.txt", &said);
}

#[test]
fn inspect_works_beside_a_running_node_and_says_so() {
    let fs = MemoryFs::new();
    let engine = open(&fs).expect("opens");
    fill(&engine).expect("writes");
    let said = inspected(&fs, DIR, &Subject::Tree, Form::Json);
    assert!(said.contains("\"in_use\": true"), "{said}");
    drop(engine);
    let said = inspected(&fs, DIR, &Subject::Tree, Form::Json);
    assert!(said.contains("\"in_use\": false"), "{said}");
}
