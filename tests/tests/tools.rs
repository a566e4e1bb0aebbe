//! `haypile check` and `inspect` on stores that are whole, crashed, and damaged.

use std::path::Path;

use haypile_engine::fs::Fs;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::fs::real::RealFs;
use haypile_engine::types::Slot;
use haypile_server::rdb;
use haypile_server::scripting::functions::Functions;
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

/// What functions there are is told by one small file that no part of the engine knows.
#[test]
fn a_flipped_bit_in_the_libraries_of_functions_is_reported_and_nothing_of_them_is_run() {
    let fs = filled();
    let texts = [&b"#!lua name=one\n"[..], b"#!lua name=another\nreturn 1"];
    let bytes = rdb::dump_functions(texts.into_iter());
    create(&fs, "/store/functions", &bytes);
    let (status, said) = check(&fs);
    assert_eq!(status, tools::FINE, "{said}");
    for (at, byte) in bytes.iter().enumerate() {
        for bit in 0..8 {
            overwrite(&fs, "/store/functions", at, &[byte ^ 1 << bit]);
            let (status, said) = check(&fs);
            assert_eq!(status, tools::DAMAGED, "byte {at}");
            assert!(said.starts_with("functions: ") && said.ends_with("1 problem\n"), "byte {at}: {said}");
            let run = |_: &_| panic!("byte {at}: a text that nobody wrote is run");
            let (functions, read) = Functions::open(&fs, Path::new(DIR), run);
            assert!(read.expect_err("it does not hold").contains("/store/functions"));
            assert!(functions.all().is_empty());
        }
        overwrite(&fs, "/store/functions", at, &[*byte]);
    }
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
    let said = String::from_utf8(out).expect("text");
    if form == Form::Json {
        let parsed = serde_json::from_str::<serde_json::Value>(&said);
        assert!(parsed.is_ok_and(|value| value.is_object()), "{said}");
    }
    said
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
    for path in files(&whole, DIR) {
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

/// What may become of a file, besides a flipped bit.
const HARMS: [&str; 6] = ["gone", "empty", "half", "zeros", "noise at the beginning", "noise in the middle"];

fn harm(fs: &MemoryFs, path: &str, how: &str) {
    let mut bytes = read(fs, path);
    fs.remove(Path::new(path)).expect("it was there");
    let middle = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last / 2);
    let noise = |bytes: &mut [u8]| bytes.iter_mut().take(16).for_each(|byte| *byte = !*byte);
    match how {
        "gone" => return,
        "empty" => bytes.clear(),
        "half" => bytes.truncate(middle),
        "zeros" => bytes.fill(0),
        "noise at the beginning" => noise(&mut bytes),
        _ => noise(&mut bytes[middle..]),
    }
    create(fs, path, &bytes);
}

/// Whether some row says that something is wrong with a file.
fn is_blamed(said: &str, path: &str) -> bool {
    let name = path.rsplit('/').next().expect("a name");
    let stem = name.trim_end_matches(".log");
    let words = [" damage ", " missing ", " torn end ", "does not hold", "corrupt"];
    let in_a_row =
        said.lines().any(|line| line.contains(stem) && words.iter().any(|word| line.contains(word)));
    // The rows of the manifest's edits have no file's name.
    let cut = path.contains("/manifest/") && said.contains("torn end");
    // What is missing of a manifest is told of `CURRENT`.
    let named = if path.contains("/manifest/") { "manifest/" } else { path.trim_start_matches("/store/") };
    let table = said.split("\ndamage\n").nth(1);
    in_a_row || cut || table.is_some_and(|table| table.contains(named))
}

/// `CURRENT` that did not hold was passed over in silence, and a pack that was gone ended the rows of its slot.
#[test]
fn inspect_never_fails_whatever_became_of_a_file_and_names_it() {
    let whole = fixture::load(VERSION);
    for path in files(&whole, DIR) {
        for how in HARMS {
            let fs = whole.restart();
            harm(&fs, &path, how);
            let mut blamed = false;
            let all = subjects().into_iter().map(|(_, _, subject)| subject);
            for subject in all.chain([Subject::Sst { slot: None, entries: false }]) {
                blamed |= is_blamed(&inspected(&fs, DIR, &subject, Form::Text), &path);
                inspected(&fs, DIR, &subject, Form::Json);
            }
            // Nobody knows of a last segment but the manifest, and a log may end anywhere.
            let last = path.ends_with("0000000000000001.log") && how == "gone";
            assert!(blamed || last, "{path} {how}: nobody says so");
            if how == "gone" {
                continue;
            }
            let alone = match path.split('/').nth(2) {
                Some("log") => Subject::Log { slot: None, limit: usize::MAX },
                Some("data") => Subject::Sst { slot: None, entries: true },
                _ if path.ends_with("CURRENT") => continue,
                _ => Subject::Manifest,
            };
            inspected(&fs, &path, &alone, Form::Text);
            inspected(&fs, &path, &alone, Form::Json);
        }
    }
}

#[test]
fn inspect_shows_what_is_left_when_a_whole_folder_is_gone() {
    let whole = fixture::load(VERSION);
    for folder in ["log", "data", "manifest"] {
        let (fs, path) = (whole.restart(), format!("{DIR}/{folder}"));
        for file in files(&fs, &path) {
            fs.remove(Path::new(&file)).expect("it was there");
        }
        fs.remove_dir(Path::new(&path)).expect("it is empty");
        let said = subjects().into_iter().filter(|(_, of, _)| *of == DIR);
        let said: Vec<String> =
            said.map(|(_, _, subject)| inspected(&fs, DIR, &subject, Form::Text)).collect();
        assert!(said.iter().any(|said| said.contains("\ndamage\n")), "{folder}: {said:?}");
        assert!(said.iter().any(|said| said.len() > 2000), "{folder}: the other folders are shown");
    }
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
