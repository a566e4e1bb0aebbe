//! `haypile check`, `inspect` and `repair` on stores that are whole, crashed, and damaged.

use std::path::Path;

use haypile_engine::fs::Fs;
use haypile_engine::fs::memory::MemoryFs;
use haypile_server::tools;
use haypile_tests::store::{DIR, files, fill, open, overwrite, read};

/// What `haypile check` says, and its exit status.
fn check(fs: &MemoryFs) -> (u8, String) {
    let mut out = Vec::new();
    let status = tools::check(fs, Path::new(DIR), &mut out).unwrap_or_else(|why| panic!("{why}"));
    (status, String::from_utf8(out).expect("text"))
}

fn filled() -> MemoryFs {
    let fs = MemoryFs::new();
    let engine = open(&fs).expect("a fresh folder opens");
    fill(&engine).expect("writes");
    drop(engine);
    fs.restart()
}

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
