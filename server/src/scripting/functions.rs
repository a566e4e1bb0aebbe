//! Libraries of functions, which FCALL calls: what a node knows of them, and where it keeps them.
//!
//! They are a node's, as in Redis Cluster, and not a slot's: a file `functions` in the data folder holds what FUNCTION DUMP
//! gives (each library's text, version and checksum), and is replaced, durably, with every change. They are not in the log, as
//! that is one of slots; a replica as a whole takes its master's ([`follow`](super::follow)), a checkpoint carries the file.
//!
//! What a library's functions are is found by running its text once, by whichever worker loads it first
//! (`machine`); every other worker does the same when it first calls one of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use haypile_engine::fs::Fs;
use haypile_engine::signal::Signal;

use super::sha1hex;
use crate::cx::Fail;
use crate::files;
use crate::rdb;

#[cfg(test)]
mod tests;

/// Where they are kept, in the data folder.
pub const FILE: &str = "functions";
/// Beside it, as they were before another node's took their place; written anew each time.
pub const BEFORE: &str = "functions.before";
/// The most bytes of all libraries together.
const BYTES_MAX: usize = 16 << 20;

/// A function as its library has registered it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// What it says of itself.
    pub description: Option<String>,
    /// Its flags: `no-writes` and others that mean nothing here.
    pub flags: Vec<String>,
}

impl Function {
    /// Whether this is its name, in any case, as in Redis.
    #[must_use]
    pub fn is(&self, name: &[u8]) -> bool {
        self.name.as_bytes().eq_ignore_ascii_case(name)
    }

    /// Whether it promised not to write.
    #[must_use]
    pub fn promises_not_to_write(&self) -> bool {
        self.flags.iter().any(|flag| flag == "no-writes")
    }
}

/// A library.
#[derive(Debug)]
pub struct Library {
    /// Its name.
    pub name: String,
    /// Its text, with the first line that names it.
    pub text: Bytes,
    /// Its functions, by name.
    pub functions: Vec<Function>,
}

/// What happens to libraries of a name that is taken, and to all others, when some are restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// All that were there go.
    Flush,
    /// A name that is taken is an error.
    Append,
    /// Who comes replaces who was there.
    Replace,
}

type Libraries = BTreeMap<String, Arc<Library>>;

/// The libraries that a node knows.
#[derive(Debug)]
pub struct Functions {
    known: Mutex<Known>,
    /// Held over every change, the disk included; `known` is only locked to read and to swap.
    change: Mutex<()>,
    changes: Signal,
    file: PathBuf,
}

#[derive(Debug, Default)]
struct Known {
    libraries: Libraries,
    /// The SHA-1 of what the file holds; `None` where there is none, or none that can be read: such a node has had no
    /// libraries, which is not the same as having none.
    sha: Option<String>,
    /// The node that they were taken from since this one started, if they were.
    from: Option<String>,
}

/// The library's name in the first line of its text, `#!lua name=NAME`, and the Lua behind it.
///
/// # Errors
/// In Redis' words.
pub fn head(text: &[u8]) -> Result<(String, &[u8]), Fail> {
    let missing = || Fail::error("ERR Missing library metadata");
    let line = text.strip_prefix(b"#!").ok_or_else(missing)?;
    let end = line
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or_else(|| Fail::error("ERR Invalid library metadata"))?;
    let words = String::from_utf8_lossy(&line[..end]).into_owned();
    let mut words = words.split_ascii_whitespace();
    let engine = words.next().unwrap_or_default();
    if !engine.eq_ignore_ascii_case("lua") {
        return Err(Fail::error(format!("ERR Engine '{engine}' not found")));
    }
    let mut name = None;
    for word in words {
        match word.strip_prefix("name=") {
            Some(_) if name.is_some() => {
                return Err(Fail::error(
                    "ERR Invalid metadata value, name argument was given multiple times",
                ));
            }
            Some(given) => name = Some(given.to_owned()),
            None => return Err(Fail::error(format!("ERR Invalid metadata value given: {word}"))),
        }
    }
    let name = name.ok_or_else(|| Fail::error("ERR Library name was not given"))?;
    check_name(&name, "Library names")?;
    // The line end stays, so that errors tell the right lines.
    Ok((name, &text[end + 2..]))
}

/// Checks the name of a library or a function.
///
/// # Errors
/// In Redis' words.
pub fn check_name(name: &str, what: &str) -> Result<(), Fail> {
    if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Ok(());
    }
    Err(Fail::error(format!(
        "ERR {what} can only contain letters, numbers, or underscores(_) and must be at least one character long"
    )))
}

impl Functions {
    /// The libraries that the data folder keeps; `load` finds a library's functions.
    ///
    /// # Errors
    /// Why the file can't be read: nothing of it is taken then.
    pub fn open(
        fs: &dyn Fs,
        folder: &Path,
        load: impl Fn(&Bytes) -> Result<Library, Fail>,
    ) -> (Functions, Result<(), String>) {
        let file = folder.join(FILE);
        let functions =
            Functions { known: Mutex::default(), change: Mutex::default(), changes: Signal::default(), file };
        let read = functions.read(fs, load);
        (functions, read)
    }

    fn read(&self, fs: &dyn Fs, load: impl Fn(&Bytes) -> Result<Library, Fail>) -> Result<(), String> {
        let named = |why: String| format!("{}: {why}", self.file.display());
        let Some(texts) = texts(fs, &self.file).map_err(named)? else { return Ok(()) };
        let mut libraries = Libraries::new();
        for text in &texts {
            let library = load(text).map_err(|fail| named(format!("{fail:?}")))?;
            libraries.insert(library.name.clone(), Arc::new(library));
        }
        let sha = Some(sha1hex(&payload(&libraries)));
        *self.lock() = Known { libraries, sha, from: None };
        Ok(())
    }

    /// FCALL takes this lock while it holds slots': who has it looks at no slot, and waits for nothing.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no code panics while it holds this lock")
    }

    /// Before a change: nobody else changes anything while this is held.
    fn alone(&self) -> MutexGuard<'_, ()> {
        self.change.lock().expect("no code panics while it holds this lock")
    }

    fn libraries(&self) -> Libraries {
        self.lock().libraries.clone()
    }

    /// All libraries, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Library>> {
        self.lock().libraries.values().cloned().collect()
    }

    /// Notified when they change.
    #[must_use]
    pub fn changes(&self) -> &Signal {
        &self.changes
    }

    /// The SHA-1 of what [`Functions::kept`] gives.
    #[must_use]
    pub fn sha(&self) -> Option<String> {
        self.lock().sha.clone()
    }

    /// What the data folder keeps; nothing if this node never had libraries.
    #[must_use]
    pub fn kept(&self) -> Option<Vec<u8>> {
        let known = self.lock();
        known.sha.as_ref().map(|_| payload(&known.libraries))
    }

    /// Takes the libraries of the node `from`, as that one keeps them, in the place of all that are here, unless these have
    /// [changed](Functions::changes) since `seen`. Says whether it did. What was here and is not known to be that node's is
    /// kept in the file [`BEFORE`].
    ///
    /// # Errors
    /// If they are none, or could not be kept: nothing has changed then.
    pub fn take(
        &self,
        fs: &dyn Fs,
        payload: &Bytes,
        load: impl Fn(&Bytes) -> Result<Library, Fail>,
        from: &str,
        seen: u64,
    ) -> Result<bool, Fail> {
        let texts = rdb::load_functions(payload).map_err(|refused| Fail::error(format!("ERR {refused}")))?;
        let mut after = Libraries::new();
        for text in &texts {
            let library = load(text)?;
            after.insert(library.name.clone(), Arc::new(library));
        }
        let _alone = self.alone();
        if self.changes.count() != seen {
            return Ok(false);
        }
        self.keep_before(fs, from)?;
        self.keep(fs, after, Some(from)).map(|()| true)
    }

    /// Keeps what is here in a file beside, before what `from` has takes its place.
    fn keep_before(&self, fs: &dyn Fs, from: &str) -> Result<(), Fail> {
        let before = {
            let known = self.lock();
            if known.libraries.is_empty() || known.from.as_deref() == Some(from) {
                return Ok(());
            }
            known.libraries.clone()
        };
        let file = self.file.with_file_name(BEFORE);
        replace(fs, &file, &payload(&before))?;
        tracing::warn!(
            master = from,
            libraries = before.len(),
            file = %file.display(),
            "the master's functions take the place of this node's own, which are kept in this file (FUNCTION RESTORE takes it)"
        );
        Ok(())
    }

    /// The library that has a function, and what is known of that.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<(Arc<Library>, Function)> {
        let known = self.lock();
        known.libraries.values().find_map(|library| {
            let function = library.functions.iter().find(|function| function.is(name))?;
            Some((library.clone(), function.clone()))
        })
    }

    /// Adds a library, in the place of one of its name if that is wanted.
    ///
    /// # Errors
    /// In Redis' words if a name is taken; or that it could not be kept.
    pub fn add(&self, fs: &dyn Fs, library: Library, replace: bool) -> Result<(), Fail> {
        let policy = if replace { Policy::Replace } else { Policy::Append };
        self.add_all(fs, vec![library], policy)
    }

    /// Adds libraries, all or none.
    ///
    /// # Errors
    /// As [`Functions::add`].
    pub fn add_all(&self, fs: &dyn Fs, libraries: Vec<Library>, policy: Policy) -> Result<(), Fail> {
        let _alone = self.alone();
        let mut after = if policy == Policy::Flush { Libraries::new() } else { self.libraries() };
        for library in libraries {
            if policy != Policy::Replace && after.contains_key(&library.name) {
                return Err(Fail::error(format!("ERR Library '{}' already exists", library.name)));
            }
            after.remove(&library.name);
            let taken = |function: &&Function| {
                after
                    .values()
                    .any(|other| other.functions.iter().any(|known| known.is(function.name.as_bytes())))
            };
            if let Some(function) = library.functions.iter().find(taken) {
                return Err(Fail::error(format!("ERR Function {} already exists", function.name)));
            }
            after.insert(library.name.clone(), Arc::new(library));
        }
        self.keep(fs, after, None)
    }

    /// Removes a library; says whether it was there.
    ///
    /// # Errors
    /// That it could not be kept.
    pub fn remove(&self, fs: &dyn Fs, name: &[u8]) -> Result<bool, Fail> {
        let _alone = self.alone();
        let mut after = self.libraries();
        let before = after.len();
        after.retain(|library, _| library.as_bytes() != name);
        if after.len() == before {
            return Ok(false);
        }
        self.keep(fs, after, None)?;
        Ok(true)
    }

    /// Removes all libraries. Also where there are none: a node that never had any tells its replicas nothing, one that was
    /// emptied does.
    ///
    /// # Errors
    /// That it could not be kept.
    pub fn clear(&self, fs: &dyn Fs) -> Result<(), Fail> {
        let _alone = self.alone();
        let is_kept = {
            let known = self.lock();
            known.libraries.is_empty() && known.sha.is_some()
        };
        if is_kept {
            return Ok(());
        }
        self.keep(fs, Libraries::new(), None)
    }

    /// What FUNCTION DUMP gives.
    #[must_use]
    pub fn dump(&self) -> Vec<u8> {
        payload(&self.lock().libraries)
    }

    /// Called by who is [`alone`](Functions::alone): a slow disk keeps nobody from calling functions.
    fn keep(&self, fs: &dyn Fs, after: Libraries, from: Option<&str>) -> Result<(), Fail> {
        let payload = payload(&after);
        if payload.len() > BYTES_MAX {
            return Err(Fail::error(format!("ERR libraries may take {BYTES_MAX} bytes together")));
        }
        replace(fs, &self.file, &payload)?;
        let after = Known { libraries: after, sha: Some(sha1hex(&payload)), from: from.map(str::to_owned) };
        let before = std::mem::replace(&mut *self.lock(), after);
        self.changes.notify();
        drop(before);
        Ok(())
    }
}

fn replace(fs: &dyn Fs, file: &Path, payload: &[u8]) -> Result<(), Fail> {
    files::replace_bytes(fs, file, payload)
        .map_err(|why| Fail::error(format!("ERR the libraries can't be kept: {why}")))
}

/// Whether what a data folder keeps can be read; nothing is run.
///
/// # Errors
/// Why not.
pub fn check(fs: &dyn Fs, folder: &Path) -> Result<(), String> {
    texts(fs, &folder.join(FILE)).map(drop)
}

/// The libraries' texts, if there is a file.
fn texts(fs: &dyn Fs, file: &Path) -> Result<Option<Vec<Bytes>>, String> {
    if !fs.exists(file).map_err(|error| error.to_string())? {
        return Ok(None);
    }
    let payload = Bytes::from(files::read_bytes(fs, file)?);
    rdb::load_functions(&payload).map(Some).map_err(|refused| refused.to_string())
}

fn payload(libraries: &Libraries) -> Vec<u8> {
    rdb::dump_functions(libraries.values().map(|library| &library.text[..]))
}
