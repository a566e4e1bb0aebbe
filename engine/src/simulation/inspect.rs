//! What an engine holds, read through its front door, and whether its files are those that it refers to.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::model::{Content, Held, State};
use super::node::{DIR, transact};
use super::violation::Violation;
use super::workload::{ELEMENTS, KEYS, NUMBER, Payload, key, slot};
use crate::clock::TimeMs;
use crate::engine::{Engine, Gate};
use crate::fs::Fs;
use crate::fs::memory::MemoryFs;
use crate::read::Direction;
use crate::slot::Role;
use crate::sst::{OPEN_FILES_MAX, pack_path};
use crate::tx::{Stop, Tx};
use crate::value::Value;

/// What a slot holds, and its time.
///
/// # Errors
/// If it can't be read, or two ways to read it do not agree.
pub fn read(engine: &Engine, index: usize) -> Result<(State, TimeMs), Violation> {
    read_with_gate(engine, index).map(|(read, _)| read)
}

/// As [`read`], with what a reply that tells of it waits for.
///
/// # Errors
/// As [`read`].
pub fn read_with_gate(engine: &Engine, index: usize) -> Result<((State, TimeMs), Gate), Violation> {
    let mut wrong = None;
    let read = transact(engine, &[slot(index)], |tx| {
        let now = tx.now(slot(index));
        match read_slot(tx, index) {
            Ok(state) => Ok((state, now)),
            Err(Trouble::Stop(stop)) => Err(stop),
            Err(Trouble::Wrong(what)) => {
                wrong = Some(what);
                Ok((None, now))
            }
        }
    });
    match (read, wrong) {
        (_, Some(what)) => Err(Violation::new(format!("slot {}: {what}", slot(index)))),
        (Err(error), _) => Err(Violation::new(format!("slot {} can't be read: {error}", slot(index)))),
        (Ok(read), None) => Ok(read),
    }
}

enum Trouble {
    Stop(Stop),
    Wrong(String),
}

impl From<Stop> for Trouble {
    fn from(stop: Stop) -> Trouble {
        Trouble::Stop(stop)
    }
}

fn read_slot(tx: &mut Tx<'_>, index: usize) -> Result<State, Trouble> {
    if *tx.role(slot(index)) == Role::Absent {
        return Ok(None);
    }
    let (keys, rest) = tx.keys(slot(index), 0, usize::MAX)?;
    if rest.is_some() {
        return Err(Trouble::Wrong("a walk without a limit does not end".to_owned()));
    }
    let mut content = Content::new();
    for (user, value) in keys {
        let Some(number) = (0..=KEYS).find(|&number| key(index, number).user() == &user[..]) else {
            return Err(Trouble::Wrong(format!("a key that nobody wrote: {user:?}")));
        };
        let alone = tx.get(key(index, number))?;
        if alone.as_ref() != Some(&value) {
            return Err(Trouble::Wrong(format!(
                "k{number} reads alone as {alone:?}, in a walk as {value:?}"
            )));
        }
        content.insert(number, held(tx, index, number, &value)?);
    }
    for number in (0..=KEYS).filter(|number| !content.contains_key(number)) {
        if tx.get(key(index, number))?.is_some() {
            return Err(Trouble::Wrong(format!("k{number} is there, but a walk does not see it")));
        }
    }
    Ok(Some(Arc::new(content)))
}

fn held(tx: &mut Tx<'_>, index: usize, number: u8, value: &Value) -> Result<Held, Trouble> {
    if number == NUMBER {
        let said = std::str::from_utf8(&value.payload).ok().and_then(|text| text.parse().ok());
        return said.map(Held::Number).ok_or_else(|| Trouble::Wrong("the number of a commit".to_owned()));
    }
    let Some(generation) = value.generation else {
        return Ok(Held::Whole(payload(&value.payload)?, value.expiry));
    };
    let all = (Bound::Unbounded, Bound::Unbounded);
    let limit = 2 * usize::from(ELEMENTS);
    let found = tx.elements(key(index, number), generation, all.0, all.1, Direction::Forward, limit)?;
    let element = |(sub, bytes): &(bytes::Bytes, bytes::Bytes)| match sub[..] {
        [element] => Ok((element, payload(bytes)?)),
        _ => Err(Trouble::Wrong(format!("an element that nobody wrote: {sub:?}"))),
    };
    Ok(Held::Collection(found.iter().map(element).collect::<Result<_, Trouble>>()?))
}

/// The payload that makes these bytes.
fn payload(bytes: &[u8]) -> Result<Payload, Trouble> {
    let len = u32::try_from(bytes.len()).map_err(|_| Trouble::Wrong("a value of 4 GiB".to_owned()))?;
    let payload = Payload { len, fill: bytes.first().copied().unwrap_or(0) };
    if payload.bytes() == bytes {
        Ok(payload)
    } else {
        Err(Trouble::Wrong(format!("{len} bytes that nobody wrote")))
    }
}

/// Holds the engine's count of keys to what was found: keys that have expired but were not reclaimed are counted.
///
/// # Errors
/// If they can't both be right.
pub fn check_counts(engine: &Engine, found: &[(State, TimeMs)]) -> Result<(), Violation> {
    let seen: usize = found.iter().filter_map(|(state, _)| state.as_ref()).map(|content| content.len()).sum();
    let there = found.iter().filter(|(state, _)| state.is_some()).count();
    let (counted, most) = (engine.key_count(), there * (usize::from(KEYS) + 1));
    if counted < seen as u64 || counted > most as u64 {
        let what = format!("the engine counts {counted} keys, {seen} are seen, {most} were ever written");
        return Err(Violation::new(what));
    }
    Ok(())
}

/// Holds memory, log and open files to their budgets, when the flush job has nothing more to do.
///
/// # Errors
/// What is over its budget.
pub fn check_budgets(engine: &Engine) -> Result<(), Violation> {
    let options = engine.options();
    let segments = engine.log().segments();
    let kept = match (segments.first(), segments.last()) {
        (Some(first), Some(last)) => last.end.0 - first.base.0,
        _ => 0,
    };
    for (what, used, most) in [
        ("memtables", engine.memtable_bytes() as u64, options.budget().flush_at() as u64),
        ("log that nobody holds", kept, options.log_unflushed_bytes() + options.log_segment_bytes),
        ("block cache", engine.cache().bytes(), options.budget().cache(0) as u64),
        ("open files", engine.packs().open_files() as u64, OPEN_FILES_MAX as u64),
    ] {
        if used > most {
            return Err(Violation::new(format!("over its budget: {what}, {used} of {most}")));
        }
    }
    Ok(())
}

/// Holds that every file is referred to, and that every file that is referred to is there: true after each start.
///
/// # Errors
/// If it is not so.
pub fn check_files(engine: &Engine, fs: &MemoryFs) -> Result<(), Violation> {
    let dir = Path::new(DIR);
    let names = |folder: &str| -> Result<BTreeSet<String>, Violation> {
        let entries = fs.list(&dir.join(folder));
        let entries =
            entries.map_err(|error| Violation::new(format!("{folder} can't be listed: {error}")))?;
        Ok(entries.into_iter().map(|entry| entry.name).collect())
    };
    let name_of =
        |path: PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let log = engine.log().files();
    let manifest = engine.manifest();
    let packs: BTreeSet<PathBuf> = manifest.state().files().map(|file| pack_path(dir, file)).collect();
    let manifests = ["CURRENT".to_owned(), name_of(manifest.path().to_owned())];
    for (folder, needed) in [
        ("log", log.into_iter().map(name_of).collect::<BTreeSet<_>>()),
        ("data", packs.into_iter().map(name_of).collect()),
        ("manifest", manifests.into()),
    ] {
        let there = names(folder)?;
        if there != needed {
            let told = |names: Vec<&String>| format!("{names:?}");
            return Err(Violation::new(format!(
                "folder {folder} after a start: nobody refers to {}, and {} are missing",
                told(there.difference(&needed).collect()),
                told(needed.difference(&there).collect()),
            )));
        }
    }
    Ok(())
}
