//! The workspace's source files, for tests that read them: what uses what, and which tables the documents repeat.

use std::path::{Path, PathBuf};

use haypile_engine::fs::real::RealFs;
use haypile_engine::fs::{Fs, OpenMode};

/// The workspace's folder.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

/// A file's text, by its path within the workspace.
///
/// # Panics
/// If it can't be read: the test has found something.
#[must_use]
pub fn text(path: &str) -> String {
    let path = root().join(path);
    let read = || {
        let file = RealFs.open(&path, OpenMode::Read)?;
        let mut bytes = vec![0; usize::try_from(file.size()?).expect("a source file fits into memory")];
        let read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = read().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    String::from_utf8(bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Gives a file of the workspace another text, making it if need be.
///
/// # Panics
/// If it can't be written.
pub fn replace(path: &str, text: &str) {
    let path = root().join(path);
    let write = || {
        let mode = if RealFs.exists(&path)? { OpenMode::Write } else { OpenMode::CreateNew };
        let file = RealFs.open(&path, mode)?;
        file.set_size(0)?;
        file.write_at(text.as_bytes(), 0)
    };
    write().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// All Rust files below a folder of the workspace, by name, with their text.
#[must_use]
pub fn rust_files(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = RealFs.list(&root().join(&folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
        for entry in entries {
            let path = format!("{folder}/{}", entry.name);
            if entry.is_dir {
                // What a crate outside the workspace has built lies beside its sources.
                if entry.name != "target" {
                    folders.push(path);
                }
            } else if path.ends_with(".rs") {
                let text = text(&path);
                found.push((path, text));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "there are no sources in {folder}");
    found
}

/// The lines of code: without comments, and without what follows the head of a test module at the file's end.
pub fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let tests_at = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..tests_at]
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default().trim()))
        .filter(|(_, line)| !line.is_empty())
}

/// Whether a file holds unit tests only.
#[must_use]
pub fn is_test_file(path: &str) -> bool {
    path.ends_with("tests.rs") || path.contains("/tests/") || path.ends_with("testing.rs")
}
