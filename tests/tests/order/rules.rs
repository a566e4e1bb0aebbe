//! In which order things must become durable: what holds for every journal, whatever the golden files say.

use std::collections::{BTreeMap, BTreeSet};

use haypile_engine::fs::memory::Action;

use crate::record::{Event, Kind, STORE, name};

/// What is not durable yet.
#[derive(Default)]
struct Disk {
    /// Files with bytes that were not synced.
    dirty: BTreeSet<String>,
    /// Files whose names were not synced, with their folders.
    unnamed: BTreeMap<String, String>,
    /// Names that are gone but may come back, with their folders.
    leaving: BTreeMap<String, String>,
    /// The last manifest file that was made.
    newest_manifest: Option<String>,
    /// The manifest file that `CURRENT` names.
    current: Option<String>,
    /// The names in the manifest's folder were synced since the start: what a process that was killed left is durable.
    manifest_known: bool,
    /// The engine is opened: it clears away what a crash left.
    opening: bool,
}

fn folder(path: &str) -> String {
    let inside = path.rsplit_once('/').map_or(STORE, |(folder, _)| folder);
    if path == STORE || inside.is_empty() { "/".to_owned() } else { inside.to_owned() }
}

fn is_manifest(path: &str) -> bool {
    path.strip_prefix("manifest/").is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_segment(path: &str) -> bool {
    path.starts_with("log/") && path.ends_with(".log")
}

impl Disk {
    fn durable(&self, path: &str) -> Result<(), String> {
        if self.dirty.contains(path) {
            return Err(format!("{path} is not synced"));
        }
        if self.unnamed.contains_key(path) {
            return Err(format!("the name of {path} is not synced"));
        }
        Ok(())
    }

    fn all_durable(&self, is_one: impl Fn(&str) -> bool) -> Result<(), String> {
        let paths = self.dirty.iter().chain(self.unnamed.keys());
        paths.filter(|path| is_one(path)).try_for_each(|path| self.durable(path))
    }

    fn written(&mut self, path: &str, kind: &Kind) -> Result<(), String> {
        match kind {
            // Lost, it only tells less.
            Kind::Confirmation => return self.all_durable(|other| other == path),
            Kind::Edits(kinds) => {
                // Whatever the frame names is durable, and so is the frame before.
                self.all_durable(|other| other.starts_with("data/"))?;
                self.durable(path)?;
                // What a flush or a new life says of a slot is not beyond what the log is known to hold.
                if kinds.contains(&"slot") && !self.opening {
                    let removes = kinds.contains(&"runs removed") || kinds.contains(&"no runs");
                    let lives = !removes || kinds.contains(&"runs added") || kinds.contains(&"runs replaced");
                    if lives {
                        self.all_durable(is_segment)?;
                    }
                }
            }
            Kind::Frame(_) | Kind::Part | Kind::CleanStop => {
                // A segment is begun when its name is durable and the one before it is whole.
                self.all_durable(|other| is_segment(other) && other != path)?;
                if self.unnamed.contains_key(path) {
                    return Err(format!("the name of {path} is not synced"));
                }
            }
            Kind::Seal | Kind::Trailer | Kind::Header | Kind::Zeros | Kind::State | Kind::Bytes => {}
        }
        self.dirty.insert(path.to_owned());
        Ok(())
    }

    fn renamed(&mut self, from: &str, to: &str) -> Result<(), String> {
        if self.dirty.contains(from) {
            return Err(format!("{from} is not synced"));
        }
        // A checkpoint has its name when all that is in it is durable.
        let inside = format!("{from}/");
        self.all_durable(|other| other.starts_with(&inside))?;
        if to == "manifest/CURRENT" {
            self.all_durable(is_manifest)?;
            self.current.clone_from(&self.newest_manifest);
        }
        self.unnamed.remove(from);
        self.unnamed.insert(to.to_owned(), folder(to));
        Ok(())
    }

    fn removed(&mut self, path: &str) -> Result<(), String> {
        let is_data = path.starts_with("data/") || is_segment(path) || is_manifest(path);
        if is_data && !self.opening {
            // The manifest's word that it is not needed comes first.
            self.all_durable(|other| other.starts_with("manifest/"))?;
        }
        if is_manifest(path) {
            self.durable("manifest/CURRENT")?;
            if self.current.as_deref() == Some(path) {
                return Err(format!("CURRENT names {path}"));
            }
        }
        if is_segment(path)
            && let Some(other) = self.leaving.keys().find(|other| is_segment(other))
        {
            return Err(format!("{other} is not known to be gone yet"));
        }
        self.dirty.remove(path);
        self.unnamed.remove(path);
        self.leaving.insert(path.to_owned(), folder(path));
        Ok(())
    }

    fn see(&mut self, event: &Event) -> Result<(), String> {
        let (path, action, kind) = match event {
            Event::Mark(text) => return self.marked(text),
            Event::Done { path, action, kind } => (path, action, kind),
        };
        match action {
            Action::Create => {
                self.unnamed.insert(path.clone(), folder(path));
                self.leaving.remove(path);
                if is_manifest(path) {
                    if self.opening && !self.manifest_known && path != "manifest/000001" {
                        return Err("the name of CURRENT may not be durable yet".to_owned());
                    }
                    self.newest_manifest = Some(path.clone());
                }
            }
            Action::Write { .. } => return self.written(path, kind.as_ref().unwrap_or(&Kind::Bytes)),
            Action::SetSize(_) => _ = self.dirty.insert(path.clone()),
            Action::Sync => _ = self.dirty.remove(path),
            Action::SyncDir => {
                self.manifest_known |= path == "manifest";
                self.unnamed.retain(|_, dir| dir != path);
                self.leaving.retain(|_, dir| dir != path);
            }
            Action::Rename(to) => return self.renamed(path, &name(to)),
            Action::Remove => return self.removed(path),
            // Also if it is there: whoever made it may have been killed before its name was synced.
            Action::CreateDir => _ = self.unnamed.insert(path.clone(), folder(path)),
            Action::Link(to) => {
                // It is of use only if the bytes are.
                if self.dirty.contains(path) {
                    return Err(format!("{path} is not synced"));
                }
                self.unnamed.insert(name(to), folder(&name(to)));
            }
            Action::RemoveDir => {}
        }
        Ok(())
    }

    fn marked(&mut self, text: &str) -> Result<(), String> {
        match text {
            "opening" => (self.opening, self.manifest_known) = (true, false),
            "opened" => {
                self.opening = false;
                return self.all_durable(|_| true);
            }
            "synced" => return self.all_durable(is_segment),
            "durable" => return self.all_durable(|path| !path.ends_with(".tmp") && !is_segment(path)),
            "closed" => return self.all_durable(|path| !path.ends_with(".tmp")),
            "killed" => *self = Disk::default(),
            _ => {}
        }
        Ok(())
    }
}

/// Holds the rules against a journal.
pub fn check(events: &[Event]) -> Result<(), String> {
    let mut disk = Disk::default();
    for (number, event) in events.iter().enumerate() {
        disk.see(event).map_err(|why| format!("event {number}, {event}: {why}"))?;
    }
    Ok(())
}
