//! What is cached of files is told, and dropped down to a limit; what they hold stays.

#![allow(clippy::unwrap_used)] // what fails here fails the test

use std::path::Path;

use haypile_bench_peers::table::page_cache::{Files, PageCache};

const MIB: usize = 1 << 20;

#[test]
fn what_was_read_is_dropped_down_to_a_limit() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let below = folder.path().join("below");
    std::fs::create_dir(&below).unwrap();
    let paths = [folder.path().join("a"), below.join("b")];
    for (byte, path) in (1..).zip(&paths) {
        std::fs::write(path, vec![byte; 8 * MIB]).unwrap();
    }
    let read = |path: &Path| std::fs::read(path).unwrap();
    let mut files = match Files::list(folder.path()) {
        Ok(files) => files,
        Err(why) => {
            assert_eq!(why.kind(), std::io::ErrorKind::Unsupported, "{why}");
            return;
        }
    };
    files.drop_all().unwrap();
    assert_eq!(files.cached(), 0);
    assert_eq!(read(&paths[1]), [2; 8 * MIB]);
    assert_eq!(files.cached(), 8 * MIB as u64);
    assert_eq!(read(&paths[0]), [1; 8 * MIB]);
    for limit in [12, 5, 1, 0] {
        files.drop_until(limit * MIB as u64);
        assert!(files.cached() <= limit * MIB as u64, "{limit}");
    }
    // Round and round, also over a single file: at its end the hand stayed where it was.
    std::fs::remove_file(&paths[0]).unwrap();
    let mut files = Files::list(folder.path()).unwrap();
    for limit in [3, 3, 0, 3, 0, 0] {
        assert_eq!(read(&paths[1]), [2; 8 * MIB]);
        files.drop_until(limit * MIB as u64);
        assert!(files.cached() <= limit * MIB as u64, "{limit}");
    }
    std::fs::write(&paths[0], vec![1; 8 * MIB]).unwrap();
    // The thread does the same by itself; it begins with nothing cached.
    let held = PageCache::hold(folder.path(), MIB as u64).unwrap();
    assert_eq!([read(&paths[0]), read(&paths[1])], [vec![1; 8 * MIB], vec![2; 8 * MIB]]);
    drop(held);
}
