//! The corpora: files in `fuzz/corpus/TARGET/`, one input each, and the inputs that broke something.

use std::io;
use std::path::{Path, PathBuf};

use haypile_engine::fs::real::RealFs;
use haypile_engine::fs::{Fs, OpenMode};

use crate::Target;

/// Where the corpora are.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// A file's bytes.
///
/// # Errors
/// As the file system says.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = RealFs.open(path, OpenMode::Read)?;
    let size = usize::try_from(file.size()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; size];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Makes a file, unless it is there.
///
/// # Errors
/// As the file system says.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        RealFs.create_dir_all(folder)?;
    }
    if RealFs.exists(path)? {
        return Ok(());
    }
    RealFs.open(path, OpenMode::CreateNew)?.write_at(bytes, 0)
}

/// A name that says what an input is: the CRC-32 of its bytes. What libFuzzer adds to a corpus has longer names, and
/// is not kept in the repository (`.gitignore`).
#[must_use]
pub fn name_of(bytes: &[u8]) -> String {
    format!("{:08x}", crc32fast::hash(bytes))
}

/// Puts an input into a target's corpus.
///
/// # Errors
/// As the file system says.
pub fn keep(target: &Target, input: &[u8]) -> io::Result<()> {
    write(&folder().join(target.name).join(name_of(input)), input)
}

/// All files of a folder, with their names.
///
/// # Errors
/// As the file system says.
pub fn inputs_in(folder: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let entries = RealFs.list(folder)?;
    entries.into_iter().map(|entry| Ok((entry.name.clone(), read(&folder.join(&entry.name))?))).collect()
}

/// Whether an input of this name is kept in the repository.
#[must_use]
pub fn is_kept(name: &str) -> bool {
    name.len() == 8
}

/// All inputs of a target's corpus, with the file each is from, and what our encoders write now.
///
/// # Errors
/// As the file system says.
pub fn load(target: &Target) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut inputs = inputs_in(&folder().join(target.name))?;
    for (number, sample) in (target.samples)().into_iter().enumerate() {
        inputs.push((format!("sample {number}"), sample));
    }
    Ok(inputs)
}
