//! What an engine does to its files, an operation at a time, with what each write is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use haypile_engine::fs::memory::{Action, MemoryFs};
use haypile_engine::fs::{Fs, OpenMode};
use haypile_engine::log::{frame, records};
use haypile_engine::varint;

/// How the store's own folder is shown.
pub const STORE: &str = "(folder)";

/// What a write brings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Of a log segment: its header.
    Header,
    /// Zeros.
    Zeros,
    /// Of a log: a frame, or a part of one, that holds so many records.
    Frame(usize),
    /// Of a log: a part of a frame.
    Part,
    /// Of a log: the mark of a clean stop.
    CleanStop,
    /// Of a log segment: its slot index.
    Seal,
    /// Of a log segment: its last bytes.
    Trailer,
    /// Of a manifest: all of the state.
    State,
    /// Of a manifest: edits of these kinds.
    Edits(Vec<&'static str>),
    /// Of a manifest: the empty frame that says that what is before was synced.
    Confirmation,
    /// Anything else.
    Bytes,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Header => f.write_str("header"),
            Kind::Zeros => f.write_str("zeros"),
            Kind::Frame(1) => f.write_str("frame of 1 record"),
            Kind::Frame(count) => write!(f, "frame of {count} records"),
            Kind::Part => f.write_str("part of a frame"),
            Kind::CleanStop => f.write_str("clean stop"),
            Kind::Seal => f.write_str("seal"),
            Kind::Trailer => f.write_str("trailer"),
            Kind::State => f.write_str("state"),
            Kind::Edits(kinds) => {
                let groups = kinds.chunk_by(|a, b| a == b).map(|group| match group {
                    [one] => (*one).to_owned(),
                    more => format!("{} x {}", more.len(), more[0]),
                });
                write!(f, "edits: {}", groups.collect::<Vec<_>>().join(", "))
            }
            Kind::Confirmation => f.write_str("confirmation"),
            Kind::Bytes => f.write_str("bytes"),
        }
    }
}

/// Something that an engine does or that happens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// An operation on a file; of a write what it brings.
    Done { path: String, action: Action, kind: Option<Kind> },
    /// Something that is no operation.
    Mark(&'static str),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, action, kind) = match self {
            Event::Mark(text) => return write!(f, "-- {text}"),
            Event::Done { path, action, kind } => (path, action, kind),
        };
        match action {
            Action::Create => write!(f, "create {path}"),
            Action::Write { .. } => write!(f, "write {path}: {}", kind.as_ref().unwrap_or(&Kind::Bytes)),
            Action::Sync => write!(f, "sync {path}"),
            Action::SetSize(size) => write!(f, "set-size {path} {size}"),
            Action::Rename(to) => write!(f, "rename {path} -> {}", name(to)),
            Action::Link(to) => write!(f, "link {path} -> {}", name(to)),
            Action::Remove => write!(f, "remove {path}"),
            Action::CreateDir => write!(f, "create-dir {path}"),
            Action::RemoveDir => write!(f, "remove-dir {path}"),
            Action::SyncDir => write!(f, "sync-dir {path}"),
        }
    }
}

/// A path within the store's folder.
pub fn name(path: &Path) -> String {
    match path.strip_prefix(super::DIR) {
        Ok(inside) if inside.as_os_str().is_empty() => STORE.to_owned(),
        Ok(inside) => inside.display().to_string(),
        Err(_) => path.display().to_string(),
    }
}

/// A file system in memory whose operations are noted.
#[derive(Clone)]
pub struct Recorded {
    /// The file system.
    pub fs: MemoryFs,
    notes: Arc<Mutex<Notes>>,
}

#[derive(Default)]
struct Notes {
    events: Vec<Event>,
    /// The last operation, if it is a write that was not looked at yet.
    write: Option<(PathBuf, u64, u64)>,
}

impl Notes {
    /// Looks at the last write in the file system after it.
    fn finish(&mut self, after: &MemoryFs) {
        let Some((path, offset, len)) = self.write.take() else { return };
        let mut bytes = vec![0; usize::try_from(len).expect("small")];
        let file = after.open(&path, OpenMode::Read).expect("was written just now");
        file.read_at(&mut bytes, offset).expect("reads");
        if let Some(Event::Done { kind, .. }) = self.events.last_mut() {
            *kind = Some(kind_of(&path, offset, &bytes));
        }
    }
}

impl Recorded {
    /// Notes all that is done to a file system from now on.
    pub fn new(fs: MemoryFs) -> Recorded {
        let notes: Arc<Mutex<Notes>> = Arc::default();
        let recorded = Recorded { fs, notes: Arc::clone(&notes) };
        recorded.fs.watch(move |step| {
            let mut notes = notes.lock().expect("no test panics under this lock");
            notes.finish(&step.before());
            let operation = step.operation();
            if let Action::Write { offset, len } = operation.action {
                notes.write = Some((operation.path.clone(), offset, len));
            }
            let (path, action) = (name(&operation.path), operation.action.clone());
            notes.events.push(Event::Done { path, action, kind: None });
        });
        recorded
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        let after = self.fs.restart();
        let mut notes = self.notes.lock().expect("no test panics under this lock");
        notes.finish(&after);
        notes
    }

    /// Notes something that is no operation.
    pub fn mark(&self, text: &'static str) {
        self.notes().events.push(Event::Mark(text));
    }

    /// All that was noted.
    pub fn events(&self) -> Vec<Event> {
        self.notes().events.clone()
    }
}

fn kind_of(path: &Path, offset: u64, bytes: &[u8]) -> Kind {
    let folder = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    match folder {
        Some("manifest") if bytes.get(18..24) == Some(b"HPMANI") => manifest_kind(offset, bytes),
        Some("log") => log_kind(offset, bytes),
        _ => Kind::Bytes,
    }
}

fn manifest_kind(offset: u64, bytes: &[u8]) -> Kind {
    let mut body = &bytes[32..];
    match (offset, body.is_empty()) {
        (0, _) => return Kind::State,
        (_, true) => return Kind::Confirmation,
        _ => {}
    }
    let mut kinds = Vec::new();
    while let Some((&number, rest)) = body.split_first() {
        body = rest;
        let edit = varint::take_slice(&mut body).expect("an edit has its length");
        let kind = match number {
            1 => "node",
            2 => "slot",
            3 => runs_kind(edit),
            4 => "registration",
            5 => "forgotten",
            6 => "log synced",
            _ => panic!("an edit of kind {number}: give it a name here"),
        };
        kinds.push(kind);
    }
    Kind::Edits(kinds)
}

fn runs_kind(mut edit: &[u8]) -> &'static str {
    varint::take(&mut edit).expect("a slot");
    let added = varint::take(&mut edit).expect("a count");
    for _ in 0..added {
        for _ in 0..4 {
            varint::take(&mut edit).expect("a run's place");
        }
        varint::take_slice(&mut edit).expect("a run's properties");
    }
    match (added, varint::take(&mut edit).expect("a count")) {
        (0, 0) => "no runs",
        (_, 0) => "runs added",
        (0, _) => "runs removed",
        _ => "runs replaced",
    }
}

fn log_kind(offset: u64, bytes: &[u8]) -> Kind {
    if bytes.iter().all(|byte| *byte == 0) {
        return Kind::Zeros;
    }
    if offset == 0 {
        return Kind::Header;
    }
    match bytes.get(4..8) {
        Some(b"HPSL") => Kind::Trailer,
        Some([b'H', b'f', low, high]) => {
            let flags = u16::from_le_bytes([*low, *high]);
            match flags {
                0 => {
                    let len = bytes.get(8..12).and_then(|raw| raw.first_chunk()).expect("a header");
                    let len = usize::try_from(u32::from_le_bytes(*len)).expect("small");
                    Kind::Frame(records(&bytes[frame::HEADER_BYTES..frame::HEADER_BYTES + len]).count())
                }
                _ if flags & frame::SEAL != 0 => Kind::Seal,
                _ if flags & frame::CLEAN_STOP != 0 => Kind::CleanStop,
                _ => Kind::Part,
            }
        }
        _ => Kind::Bytes,
    }
}
