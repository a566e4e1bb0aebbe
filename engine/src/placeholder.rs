//! Stands in for the log until it is there. Keeps nothing.
#![allow(missing_docs, clippy::unnecessary_wraps)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Result;
use crate::log::record::{self, Body, Header};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Ticket(pub u64);

#[derive(Debug, Default)]
pub struct Log {
    buffer: Mutex<Vec<u8>>,
    next: AtomicU64,
}

pub struct Appender<'a>(std::sync::MutexGuard<'a, Vec<u8>>, &'a Log);

impl Log {
    pub fn begin(&self) -> Result<Appender<'_>> {
        Ok(Appender(self.buffer.lock().expect("not poisoned"), self))
    }
    pub fn write(&self) -> Result<Ticket> {
        self.buffer.lock().expect("not poisoned").clear();
        Ok(Ticket(self.next.load(Ordering::Acquire)))
    }
}

impl Appender<'_> {
    pub fn push(&mut self, header: Header, body: &Body<'_>) -> Result<()> {
        record::encode(&mut self.0, header, body);
        Ok(())
    }
    pub fn finish(self) -> Ticket {
        Ticket(self.1.next.fetch_add(1, Ordering::AcqRel) + 1)
    }
}

/// An engine with all slots, for tests.
pub fn engine() -> crate::engine::Engine {
    let fs = std::sync::Arc::new(NoFs);
    let clock = std::sync::Arc::new(crate::clock::SystemClock::new());
    let (engine, _) =
        crate::engine::Engine::open(fs, std::path::Path::new(""), clock, Default::default()).expect("opens");
    engine.add_slots(&crate::types::Slot::all().collect::<Vec<_>>()).expect("adds");
    engine
}

pub struct NoFs;
impl crate::fs::Fs for NoFs {
    fn open(
        &self,
        _: &std::path::Path,
        _: crate::fs::OpenMode,
    ) -> std::io::Result<std::sync::Arc<dyn crate::fs::File>> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
    fn rename(&self, _: &std::path::Path, _: &std::path::Path) -> std::io::Result<()> {
        Ok(())
    }
    fn link(&self, _: &std::path::Path, _: &std::path::Path) -> std::io::Result<()> {
        Ok(())
    }
    fn remove(&self, _: &std::path::Path) -> std::io::Result<()> {
        Ok(())
    }
    fn remove_dir(&self, _: &std::path::Path) -> std::io::Result<()> {
        Ok(())
    }
    fn list(&self, _: &std::path::Path) -> std::io::Result<Vec<crate::fs::DirEntry>> {
        Ok(vec![])
    }
    fn create_dir_all(&self, _: &std::path::Path) -> std::io::Result<()> {
        Ok(())
    }
    fn sync_dir(&self, _: &std::path::Path) -> std::io::Result<()> {
        Ok(())
    }
    fn exists(&self, _: &std::path::Path) -> std::io::Result<bool> {
        Ok(false)
    }
    fn lock(&self, _: &std::path::Path) -> std::io::Result<Box<dyn Send + Sync>> {
        Ok(Box::new(()))
    }
    fn free_bytes(&self, _: &std::path::Path) -> std::io::Result<u64> {
        Ok(u64::MAX)
    }
}
