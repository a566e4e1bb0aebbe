//! Segments made ahead, so that the append path meets neither a full device nor a journal commit.

use super::layout::Geometry;
use super::lock;
use super::segment::{Room, Segment};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::planted::{self, Bug};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The segments after the active one that are ready.
pub(super) struct Spares {
    /// Held while a segment is made, which takes long.
    preparing: Mutex<()>,
    ready: Mutex<VecDeque<Arc<Segment>>>,
    /// The number of the last segment that exists, active or ready. Stored (Release) by who holds `preparing`,
    /// loaded (Acquire) by appenders.
    last: AtomicU64,
    /// Why nothing may be appended now.
    full: Mutex<Option<String>>,
    /// Whether that is so. Stored (Release) under the lock of `full`, loaded (Acquire) by appenders, who look no further.
    is_full: AtomicBool,
}

impl Spares {
    /// Of a log whose segment `active` is the last.
    pub(super) fn new(active: u64) -> Spares {
        Spares {
            preparing: Mutex::default(),
            ready: Mutex::default(),
            last: AtomicU64::new(active),
            full: Mutex::default(),
            is_full: AtomicBool::new(false),
        }
    }

    /// The number of the last segment that exists.
    pub(super) fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// The files of those that are ready.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        lock(&self.ready).iter().map(|segment| segment.path.clone()).collect()
    }

    /// Why nothing may be appended now.
    pub(super) fn full(&self) -> Option<String> {
        self.is_full.load(Ordering::Acquire).then(|| lock(&self.full).clone()).flatten()
    }

    fn set_full(&self, why: Option<String>) {
        let mut full = lock(&self.full);
        self.is_full.store(why.is_some(), Ordering::Release);
        *full = why;
    }

    /// Makes one segment if none is ready; says whether it did. Success ends the state of being full.
    pub(super) fn prepare_next(
        &self,
        fs: &dyn Fs,
        dir: &Path,
        geometry: &Geometry,
        room: Room,
    ) -> Result<bool> {
        let _one_at_a_time = lock(&self.preparing);
        let missing = lock(&self.ready).is_empty();
        if missing {
            self.prepare(fs, dir, geometry, room)?;
        }
        if !planted::is(Bug::FullForEver) {
            self.set_full(None);
        }
        Ok(missing)
    }

    /// Makes segments until the one with this number exists.
    pub(super) fn prepare_up_to(
        &self,
        number: u64,
        fs: &dyn Fs,
        dir: &Path,
        geometry: &Geometry,
    ) -> Result<()> {
        let _one_at_a_time = lock(&self.preparing);
        let missing = number.saturating_sub(self.last());
        let bytes = missing.saturating_mul(geometry.header(number).bytes);
        if missing > 1 {
            // All or none: those that were made before one fails would fill the device for a write that is refused.
            let free_bytes = fs.free_bytes(dir).map_err(|error| Error::io(dir, "look for space", &error))?;
            if free_bytes < bytes {
                return Err(Error::ReadOnly(format!(
                    "the log has no room for a write that needs {missing} more segments, {bytes} bytes: {free_bytes} \
                     bytes are free"
                )));
            }
        }
        while self.last() < number {
            // Somebody waits for it.
            self.prepare(fs, dir, geometry, Room::Reserved)?;
        }
        Ok(())
    }

    /// The caller holds `preparing`.
    fn prepare(&self, fs: &dyn Fs, dir: &Path, geometry: &Geometry, room: Room) -> Result<()> {
        let number = self.last() + 1;
        match Segment::prepare(fs, dir, geometry.header(number), room) {
            Ok(segment) => {
                lock(&self.ready).push_back(Arc::new(segment));
                self.last.store(number, Ordering::Release);
                Ok(())
            }
            Err(error) => {
                let why = format!(
                    "the log has no room for its next segment of {} bytes ({error}); reads go on, writes are \
                     taken again once there is space",
                    geometry.header(number).bytes
                );
                // With a segment in hand only what is larger than it is refused.
                if lock(&self.ready).is_empty() {
                    self.set_full(Some(why.clone()));
                }
                Err(Error::ReadOnly(why))
            }
        }
    }

    /// Takes the next segment, which must be ready: appenders asked for it before they were let in.
    pub(super) fn take(&self, number: u64) -> Arc<Segment> {
        let next = lock(&self.ready).pop_front().expect("room was made before the append was accepted");
        assert_eq!(next.header.number, number, "segments are used in order");
        next
    }
}
