//! Stores of former and today's versions, as they lie in `tests/testdata/formats/`.

use std::sync::Once;

use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::fs::real::RealFs;
use haypile_engine::fs::{Fs, OpenMode};

use crate::sources;
use crate::store::{DIR, create};

/// Today's version.
pub const VERSION: &str = "v1";

/// A committed store of today's version. With `HAYPILE_REWRITE` it is written anew before the first test of the process sees it.
///
/// # Panics
/// As [`load`].
#[must_use]
pub fn today(version: &str, written: &Once, rewrite: fn()) -> MemoryFs {
    written.call_once(|| {
        if std::env::var("HAYPILE_REWRITE").is_ok() {
            rewrite();
        }
    });
    load(version)
}

/// The store of a version, on a disk in memory.
///
/// # Panics
/// If it can't be read.
#[must_use]
pub fn load(version: &str) -> MemoryFs {
    let fs = MemoryFs::new();
    let root = sources::root().join("tests/testdata/formats").join(version);
    for folder in ["log", "data", "manifest"] {
        for entry in RealFs.list(&root.join(folder)).expect("the fixture is there") {
            let file = RealFs.open(&root.join(folder).join(&entry.name), OpenMode::Read).expect("it opens");
            let mut bytes = vec![0; usize::try_from(file.size().expect("it has a size")).expect("small")];
            file.read_at(&mut bytes, 0).expect("it reads");
            create(&fs, &format!("{DIR}/{folder}/{}", entry.name), &bytes);
        }
    }
    fs
}

/// The checksum that the formats use.
#[must_use]
pub fn crc(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}
