//! The log: appending, writing, syncing, going on to the next segment.
//!
//! Any thread may call anything. Locks, outermost first: writer, pending, spares, syncing, view, watermark; none
//! of those that an appender needs is held across a write(2) or an fdatasync, except while a segment is made for
//! want of a spare.
//!
//! A failed write or sync poisons the log for ever: nothing is retried and nothing acknowledged any more.

use super::LogOptions;
use super::frame::{self, FrameHeader, HEADER_BYTES as FRAME_HEADER_BYTES};
use super::index::GrowingIndex;
use super::layout::{Geometry, Part, Place};
use super::lock;
use super::pending::{Appender, PENDING_BYTES_MAX, PENDING_BYTES_MIN, Pending, Whose};
use super::reader::LogReader;
use super::segment::{self, HEADER_BYTES as SEGMENT_HEADER_BYTES, Room, Segment, TRAILER_BYTES};
use super::spares::Spares;
use super::tail::Tail;
use super::view::{SegmentInfo, View};
use super::watermark::{Mark, Ticket, Wait, Watermark};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::fs::pool::FilePool;
use crate::planted::{self, Bug};
use crate::sync::{Mutex, MutexGuard};
use crate::types::{Lsn, Seq, Slot};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, TryLockError};

/// Buffers that grew beyond this are not kept.
const KEPT_BUFFER_BYTES_MAX: usize = 1 << 20;

/// How often a thread that is to sync gives way before it does: each takes a microsecond or less, a sync a hundred.
const GIVE_WAY_MAX: usize = if cfg!(feature = "loom") { 1 } else { 16 };

/// Between these bytes that were written and not synced a sync is due, whatever replies wait for it; see
/// [`Log::take_sync_due`].
const SYNC_AHEAD_MIN: u64 = 128 << 10;
const SYNC_AHEAD_MAX: u64 = 4 << 20;

/// A node's log, open. See the head of this file.
pub struct Log {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    incarnation: u32,
    geometry: Geometry,
    writer: Mutex<Writer>,
    pending: Mutex<Pending>,
    pending_bytes_max: usize,
    /// Only measures: nothing is ordered by them.
    frame_bytes: AtomicU64,
    record_bytes: AtomicU64,
    segments_waited_for: AtomicU64,
    /// Only hints: nothing is ordered by them.
    sync_due: AtomicBool,
    spare_due: AtomicBool,
    spares: Spares,
    /// Held while the log's files are synced: of two syncs at once the kernel tells only one of an error.
    syncing: Mutex<()>,
    removing: Mutex<()>,
    /// Whose budget the files of sealed segments are in.
    sealed_files: Arc<FilePool>,
    view: Arc<Mutex<View>>,
    watermark: Watermark,
}

/// Whether the log takes appends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogState {
    /// It does.
    Open,
    /// Not now: there is no room for the next segment. [`Log::prepare_next`] tries again.
    ReadOnly(String),
    /// Never again in this process.
    Poisoned(String),
}

/// What only the thread that writes touches.
struct Writer {
    segment: Arc<Segment>,
    /// Where the next frame may begin.
    at: Place,
    /// Where the log ended when a sync was due last.
    due_at: Lsn,
    /// An empty buffer to give to the appenders in exchange for a full one.
    buffer: Vec<u8>,
    records: Vec<(Slot, Seq)>,
}

/// A group commit on its way.
struct Batch {
    buffer: Vec<u8>,
    records: Vec<(Slot, Seq)>,
    ticket: Ticket,
    from: Place,
}

/// What recovery found and made good: everything before `end` is durable.
pub(super) struct Opened {
    pub(super) sealed: VecDeque<Arc<Segment>>,
    pub(super) active: Arc<Segment>,
    pub(super) index: GrowingIndex,
    pub(super) end: Lsn,
    /// The pool of the sealed segments' files.
    pub(super) sealed_files: Arc<FilePool>,
}

impl Log {
    pub(super) fn open(
        fs: Arc<dyn Fs>,
        dir: &Path,
        incarnation: u32,
        options: LogOptions,
        opened: Opened,
    ) -> Log {
        let Opened { sealed, active, index, end, sealed_files } = opened;
        let header = active.header;
        let at = Place { segment: header.number, offset: header.offset_of(end) };
        let writer = Writer {
            segment: Arc::clone(&active),
            at,
            due_at: end,
            buffer: vec![0; FRAME_HEADER_BYTES],
            records: Vec::new(),
        };
        let tail = Tail::new(end, options.tail_bytes);
        Log {
            fs,
            dir: dir.to_owned(),
            incarnation,
            geometry: Geometry::new(header, options.segment_bytes),
            writer: Mutex::new(writer),
            pending: Mutex::new(Pending::new(at)),
            frame_bytes: AtomicU64::new(0),
            record_bytes: AtomicU64::new(0),
            segments_waited_for: AtomicU64::new(0),
            sync_due: AtomicBool::new(false),
            spare_due: AtomicBool::new(false),
            pending_bytes_max: options.pending_bytes.clamp(PENDING_BYTES_MIN, PENDING_BYTES_MAX),
            spares: Spares::new(header.number),
            syncing: Mutex::default(),
            removing: Mutex::default(),
            sealed_files,
            view: Arc::new(Mutex::new(View { sealed, active, index, end, tail })),
            watermark: Watermark::starting_at(end),
        }
    }

    /// Begins an atomic group of records. Others wait until it is finished or dropped.
    ///
    /// # Errors
    /// `ReadOnly`, `Poisoned`.
    pub fn begin(&self) -> Result<Appender<'_>> {
        self.begin_after(|| self.write().map(drop))
    }

    /// As [`Log::begin`]; where too much is pending already, `write` writes it.
    ///
    /// # Errors
    /// `ReadOnly`, and what `write` says.
    pub fn begin_after(&self, write: impl Fn() -> Result<()>) -> Result<Appender<'_>> {
        loop {
            self.check_open()?;
            let pending = lock(&self.pending);
            if pending.body_bytes() < self.pending_bytes_max {
                return Ok(Appender::new(self, pending, Whose::Writer));
            }
            drop(pending);
            write()?;
        }
    }

    /// As [`Log::begin`], but also while there is no room for the next segment: for what a read has to leave behind.
    /// The active one has room for that, nearly always; where it has not, the record is refused at once, and no reader
    /// asks the disk.
    ///
    /// # Errors
    /// `Poisoned`.
    pub fn begin_note(&self) -> Result<Appender<'_>> {
        if let Some(error) = self.watermark.poison() {
            return Err(error);
        }
        Ok(Appender::new(self, lock(&self.pending), Whose::Reader))
    }

    fn check_open(&self) -> Result<()> {
        if let Some(error) = self.watermark.poison() {
            return Err(error);
        }
        self.spares.full().map_or(Ok(()), |why| Err(Error::ReadOnly(why)))
    }

    /// Makes sure that a frame of `body_bytes` that begins at `from` finds its segments; a note only looks for them while
    /// the log is known to be full.
    pub(super) fn make_room(&self, from: Place, body_bytes: usize, whose: Whose) -> Result<()> {
        let end = self.geometry.plan(from, body_bytes as u64, |_| {});
        if end.segment <= self.spares.last() {
            return Ok(());
        }
        if whose == Whose::Reader {
            self.check_open()?;
        }
        self.segments_waited_for.fetch_add(1, Ordering::Relaxed);
        self.spares.prepare_up_to(end.segment, &*self.fs, &self.dir, &self.geometry)
    }

    /// Writes everything pending, everybody's, as one logical frame; says which group commit is the last written.
    ///
    /// # Errors
    /// `Poisoned`.
    pub fn write(&self) -> Result<Ticket> {
        let mut writer = self.lock_writer()?;
        match self.write_pending(&mut writer)? {
            Some(ticket) => Ok(ticket),
            None => Ok(self.watermark.written().ticket),
        }
    }

    fn lock_writer(&self) -> Result<MutexGuard<'_, Writer>> {
        self.writer.lock().map_err(|_| {
            self.watermark.poison_with(&Error::Poisoned("a thread panicked while it wrote the log".into()))
        })
    }

    /// Says which group commit was written; `None` if nothing was pending.
    fn write_pending(&self, writer: &mut Writer) -> Result<Option<Ticket>> {
        if let Some(error) = self.watermark.poison() {
            return Err(error);
        }
        let Some(batch) = self.take_pending(writer) else { return Ok(None) };
        let ticket = batch.ticket;
        self.write_batch(writer, batch).map_err(|error| self.watermark.poison_with(&error))?;
        Ok(Some(ticket))
    }

    fn take_pending(&self, writer: &mut Writer) -> Option<Batch> {
        let mut pending = lock(&self.pending);
        if pending.body_bytes() == 0 {
            return None;
        }
        let from = pending.at;
        pending.at = self.geometry.plan(from, pending.body_bytes() as u64, |_| {});
        let ticket = pending.ticket;
        pending.ticket = Ticket(ticket.0 + 1);
        Some(Batch {
            buffer: std::mem::replace(&mut pending.buffer, std::mem::take(&mut writer.buffer)),
            records: std::mem::replace(&mut pending.records, std::mem::take(&mut writer.records)),
            ticket,
            from,
        })
    }

    fn write_batch(&self, writer: &mut Writer, mut batch: Batch) -> Result<()> {
        assert_eq!(writer.at, batch.from, "frames are written where they were planned");
        let body_bytes = batch.buffer.len() - FRAME_HEADER_BYTES;
        self.record_bytes.fetch_add(body_bytes as u64, Ordering::Relaxed);
        let mut parts: SmallVec<[Part; 1]> = SmallVec::new();
        let end = self.geometry.plan(batch.from, body_bytes as u64, |part| parts.push(part));
        let first = parts[0].at;
        if first.segment != writer.segment.header.number {
            self.rotate(writer)?;
        }
        let offset = u32::try_from(first.offset).expect("a segment is at most 1 GiB");
        let note = |view: &mut View, records: &[(Slot, Seq)]| {
            records.iter().for_each(|&(slot, seq)| view.index.add(slot, seq, offset));
        };
        let in_one = parts.len() == 1;
        if in_one {
            self.write_frame(writer, &mut batch.buffer, first, 0)?;
        } else {
            // The segment that it begins in is sealed on the way, with its index.
            note(&mut lock(&self.view), &batch.records);
            self.write_parts(writer, &mut batch.buffer, &parts)?;
        }
        assert_eq!(writer.at, end, "a frame ends where it was planned to");
        let (lsn, end) = (self.geometry.lsn(first), self.geometry.lsn(end));
        {
            let view = &mut *lock(&self.view);
            if in_one {
                note(view, &batch.records);
            }
            let body = &batch.buffer[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + body_bytes];
            // Without a reader it would be a copy for nobody: one that comes later finds in the file what came before it.
            if Arc::strong_count(&self.view) > 1 {
                view.tail.push(lsn, end, body);
            } else {
                view.tail.pass(end);
            }
            view.end = end;
        }
        self.watermark.publish_written(Mark { ticket: batch.ticket, lsn: end });
        let unsynced = end.0.saturating_sub(self.watermark.synced_end().max(writer.due_at).0);
        let left = writer.segment.header.end().0.saturating_sub(end.0);
        if unsynced >= (left / 2).clamp(SYNC_AHEAD_MIN, SYNC_AHEAD_MAX) {
            writer.due_at = end;
            self.sync_due.store(true, Ordering::Relaxed);
        }
        writer.keep(batch);
        Ok(())
    }

    /// Whether so much was written that it is time for a sync, told once: before a segment is left all of it is synced, and all
    /// who write wait for that. So the nearer its end, the less is left for then.
    pub(crate) fn take_sync_due(&self) -> bool {
        self.sync_due.load(Ordering::Relaxed) && self.sync_due.swap(false, Ordering::Relaxed)
    }

    /// Whether the segment was changed, told once: it is time for [`Log::prepare_next`], so that nobody waits for the one after.
    pub(crate) fn take_spare_due(&self) -> bool {
        self.spare_due.load(Ordering::Relaxed) && self.spare_due.swap(false, Ordering::Relaxed)
    }

    /// Writes the parts from where they lie: a part's header stands for that moment on what is before it in the buffer, its
    /// padding on what is behind. A copy of a part would take as much memory as a segment has.
    fn write_parts(&self, writer: &mut Writer, buffer: &mut Vec<u8>, parts: &[Part]) -> Result<()> {
        let bytes = buffer.len();
        let mut start = 0;
        for (index, part) in parts.iter().enumerate() {
            if part.at.segment != writer.segment.header.number {
                self.rotate(writer)?;
            }
            let body_bytes = usize::try_from(part.body_bytes).expect("a part lies in memory");
            let end = start + FRAME_HEADER_BYTES + body_bytes;
            let padded_end = start + frame::align(end - start);
            pad(buffer, padded_end);
            let more = if index + 1 < parts.len() { frame::MORE } else { 0 };
            let continued = if index > 0 { frame::CONTINUED } else { 0 };
            let before = buffer[start..start + FRAME_HEADER_BYTES].to_vec();
            let behind = buffer[end..padded_end].to_vec();
            buffer[end..padded_end].fill(0);
            self.write_sealed(writer, &mut buffer[start..padded_end], body_bytes, part.at, more | continued)?;
            buffer[end..padded_end].copy_from_slice(&behind);
            buffer[start..start + FRAME_HEADER_BYTES].copy_from_slice(&before);
            start += body_bytes;
        }
        buffer.truncate(bytes);
        Ok(())
    }

    /// One write(2) of one frame into the writer's segment.
    fn write_frame(&self, writer: &mut Writer, buffer: &mut Vec<u8>, at: Place, flags: u16) -> Result<()> {
        let body_bytes = buffer.len() - FRAME_HEADER_BYTES;
        pad(buffer, frame::align(buffer.len()));
        self.write_sealed(writer, buffer, body_bytes, at, flags)
    }

    /// The same, of a buffer with the frame's padding.
    fn write_sealed(
        &self,
        writer: &mut Writer,
        buffer: &mut [u8],
        body_bytes: usize,
        at: Place,
        flags: u16,
    ) -> Result<()> {
        let segment = &writer.segment;
        assert_eq!(at.segment, segment.header.number, "a frame goes into the active segment");
        let header = FrameHeader {
            flags,
            incarnation: self.incarnation,
            lsn: segment.header.base.advance(at.offset),
            synced: self.watermark.synced_end(),
        };
        frame::seal(buffer, body_bytes, &header, segment.salt);
        segment
            .file
            .write_at(buffer, at.offset)
            .map_err(|error| Error::io(&segment.path, "write", &error))?;
        writer.at = Place { segment: at.segment, offset: at.offset + buffer.len() as u64 };
        self.frame_bytes.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Seals and syncs the active segment, then makes the next one active.
    fn rotate(&self, writer: &mut Writer) -> Result<()> {
        let old = Arc::clone(&writer.segment);
        let index = Arc::new(lock(&self.view).index.snapshot());
        let seal_at = writer.at;
        let mut seal = vec![0; FRAME_HEADER_BYTES];
        index.encode(&mut seal);
        self.write_frame(writer, &mut seal, seal_at, frame::SEAL)?;
        let trailer = old.header.trailer(seal_at.offset);
        old.file
            .write_at(&trailer, old.header.bytes - TRAILER_BYTES as u64)
            .map_err(|error| Error::io(&old.path, "write", &error))?;
        if !planted::is(Bug::NoSyncAtRotation) {
            self.sync_segment(&old, self.watermark.written())?;
        }

        let number = old.header.number + 1;
        let spare = self.spares.take(number);
        let path = segment::path_of(&self.dir, number);
        self.fs.rename(&spare.path, &path).map_err(|error| Error::io(&path, "rename", &error))?;
        self.fs.sync_dir(&self.dir).map_err(|error| Error::io(&self.dir, "sync", &error))?;
        let next = Arc::new(Segment::new(spare.header, path, Arc::clone(&spare.file)));
        writer.segment = Arc::clone(&next);
        writer.at = Place { segment: number, offset: SEGMENT_HEADER_BYTES as u64 };
        let old = Arc::new(old.sealed(index, &self.sealed_files));
        let view = &mut *lock(&self.view);
        view.sealed.push_back(old);
        view.active = next;
        view.index = GrowingIndex::default();
        self.spare_due.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Makes what is written durable; says which group commit is the last synced.
    ///
    /// # Errors
    /// `Poisoned`.
    pub fn sync(&self) -> Result<Ticket> {
        if let Some(error) = self.watermark.poison() {
            return Err(error);
        }
        let written = self.watermark.written();
        if self.watermark.synced() != written {
            // If the segment was changed since, the old one was synced before.
            let active = Arc::clone(&lock(&self.view).active);
            self.sync_segment(&active, written)?;
        }
        Ok(self.watermark.synced().ticket)
    }

    /// Syncs what is written, if anything is that was not synced; says whether. What a thread in the background does.
    ///
    /// # Errors
    /// `Poisoned`.
    pub fn sync_written(&self) -> Result<bool> {
        if self.watermark.synced().ticket >= self.watermark.written().ticket {
            return Ok(false);
        }
        self.sync().map(|_| true)
    }

    /// Makes durable what is written, if a group commit that is written is not durable yet. Of many who come while a sync is
    /// under way one syncs for all.
    ///
    /// # Errors
    /// `Poisoned`.
    pub fn sync_past(&self, ticket: Ticket) -> Result<()> {
        loop {
            let turn = self.watermark.turn();
            if self.watermark.is_synced(ticket)? {
                return Ok(());
            }
            let one_at_a_time = match self.syncing.try_lock() {
                Ok(free) => free,
                Err(TryLockError::Poisoned(free)) => free.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    self.watermark.block_turn(turn);
                    continue;
                }
            };
            self.wait_for_company();
            let written = self.watermark.written();
            let active = Arc::clone(&lock(&self.view).active);
            self.sync_locked(one_at_a_time, &active, written)?;
        }
    }

    /// Gives way to those whom the last sync let go on and who are about to come back with their next write: who syncs at
    /// once syncs for itself alone, and all others wait for two syncs.
    fn wait_for_company(&self) {
        for _ in 0..GIVE_WAY_MAX {
            if !self.watermark.lacks_company() {
                return;
            }
            std::thread::yield_now();
        }
    }

    /// Syncs a segment that holds, together with those before it, all up to `covered`.
    fn sync_segment(&self, segment: &Segment, covered: Mark) -> Result<()> {
        self.sync_locked(lock(&self.syncing), segment, covered)
    }

    fn sync_locked(&self, one_at_a_time: MutexGuard<'_, ()>, segment: &Segment, covered: Mark) -> Result<()> {
        let done = self.sync_now(segment, covered);
        // Whoever finds it locked waits for the end of the turn: so the lock goes first.
        drop(one_at_a_time);
        self.watermark.end_turn();
        done
    }

    fn sync_now(&self, segment: &Segment, covered: Mark) -> Result<()> {
        if let Some(error) = self.watermark.poison() {
            return Err(error);
        }
        // Poisoned before the lock is let go, so that no other sync is believed.
        segment
            .file
            .sync()
            .or_else(|error| if planted::is(Bug::FsyncRetried) { segment.file.sync() } else { Err(error) })
            .map_err(|error| self.watermark.poison_with(&Error::io(&segment.path, "sync", &error)))?;
        self.watermark.publish_synced(covered);
        Ok(())
    }

    /// Writes and syncs everything, then a mark that the node stopped in order; says where that ends. An append
    /// after it makes the stop an unclean one again.
    ///
    /// # Errors
    /// `Poisoned`; `ReadOnly` if there is no room for the mark (all else is durable then).
    pub fn stop_clean(&self) -> Result<Lsn> {
        let mut writer = self.lock_writer()?;
        loop {
            self.write_pending(&mut writer)?;
            let mut pending = lock(&self.pending);
            if pending.body_bytes() > 0 {
                continue;
            }
            let segment = Arc::clone(&writer.segment);
            self.sync_segment(&segment, self.watermark.written())?;
            self.make_room(pending.at, 0, Whose::Writer)?;
            let stopped = self.write_clean_stop(&mut writer);
            let mark = stopped.map_err(|error| self.watermark.poison_with(&error))?;
            pending.at = writer.at;
            let segment = Arc::clone(&writer.segment);
            return self.sync_segment(&segment, mark).map(|()| mark.lsn);
        }
    }

    fn write_clean_stop(&self, writer: &mut Writer) -> Result<Mark> {
        let mut at = writer.at;
        self.geometry.plan(writer.at, 0, |part| at = part.at);
        if at.segment != writer.segment.header.number {
            self.rotate(writer)?;
        }
        self.write_frame(writer, &mut vec![0; FRAME_HEADER_BYTES], at, frame::CLEAN_STOP)?;
        let mark = Mark { ticket: self.watermark.written().ticket, lsn: self.geometry.lsn(writer.at) };
        lock(&self.view).end = mark.lsn;
        self.watermark.publish_written(mark);
        Ok(mark)
    }

    /// Makes the next segment ahead if none is ready, with such room; says whether it did. For a thread in the background, after
    /// each change of segment, and again while the log is read-only.
    ///
    /// # Errors
    /// `ReadOnly` if there is no room, `Poisoned`.
    pub fn prepare_next(&self, room: Room) -> Result<bool> {
        if let Some(error) = self.watermark.poison() {
            return Err(error);
        }
        self.spares.prepare_next(&*self.fs, &self.dir, &self.geometry, room)
    }

    /// Where the next frame will begin at the earliest: after what is written.
    #[must_use]
    pub fn end(&self) -> Lsn {
        lock(&self.view).end
    }

    /// Bytes from the beginning of its oldest segment to where it ends.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        let view = lock(&self.view);
        let oldest = view.sealed.front().unwrap_or(&view.active).header.base;
        view.end.0.saturating_sub(oldest.0)
    }

    /// Bytes of memory that the log's last frames take.
    #[must_use]
    pub fn tail_bytes(&self) -> usize {
        lock(&self.view).tail.bytes()
    }

    /// Bytes of memory that the slot indexes of sealed segments take.
    #[must_use]
    pub fn index_bytes(&self) -> usize {
        let view = lock(&self.view);
        view.sealed.iter().filter_map(|segment| segment.index.get()).map(|index| index.memory_bytes()).sum()
    }

    /// How many files of sealed segments are open.
    #[must_use]
    pub fn open_files(&self) -> usize {
        self.sealed_files.count()
    }

    /// Bytes of frames that were written since it was opened.
    #[must_use]
    pub fn frame_bytes(&self) -> u64 {
        self.frame_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the records in them.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        self.record_bytes.load(Ordering::Relaxed)
    }

    /// How often an append had to make its segment itself, since none was ready.
    #[must_use]
    pub fn segments_waited_for(&self) -> u64 {
        self.segments_waited_for.load(Ordering::Relaxed)
    }

    /// Ends all acknowledgement: something that the log's promises rest on failed elsewhere.
    pub fn poison(&self, why: &Error) {
        self.watermark().poison_with(why);
    }

    /// How far the log is written and synced.
    #[must_use]
    pub fn watermark(&self) -> &Watermark {
        &self.watermark
    }

    /// Waits until something is written beyond `since`.
    pub fn changed(&self, since: Lsn) -> Wait {
        self.watermark.wait_beyond(since)
    }

    /// Whether the log takes appends.
    #[must_use]
    pub fn state(&self) -> LogState {
        match self.check_open() {
            Ok(()) => LogState::Open,
            Err(Error::Poisoned(why)) => LogState::Poisoned(why),
            Err(error) => LogState::ReadOnly(error.to_string()),
        }
    }

    /// The start of a frame at or before the record; `None` if its segment is gone or it is not written yet.
    #[must_use]
    pub fn locate(&self, slot: Slot, seq: Seq) -> Option<Lsn> {
        lock(&self.view).locate(slot, seq)
    }

    /// Reads from `from` on, which is the start of a frame or of a segment.
    #[must_use]
    pub fn reader(&self, from: Lsn) -> LogReader {
        LogReader::new(Arc::clone(&self.view), from)
    }

    /// The live segments, oldest first.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentInfo> {
        lock(&self.view).segments()
    }

    /// The files that it refers to: its segments, oldest first, then those that are prepared.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let view = lock(&self.view);
        let mut files: Vec<PathBuf> = view.sealed.iter().map(|segment| segment.path.clone()).collect();
        files.push(view.active.path.clone());
        drop(view);
        files.extend(self.spares.files());
        files
    }

    /// Removes the sealed segments that lie wholly below `lsn`; says how many. The caller has made sure that
    /// recovery no longer begins in them.
    ///
    /// # Errors
    /// As the file system says; what could not be removed stays readable.
    pub fn remove_below(&self, lsn: Lsn) -> Result<usize> {
        let _one_at_a_time = lock(&self.removing);
        let mut removed = 0;
        loop {
            let oldest = lock(&self.view).sealed.front().filter(|oldest| oldest.header.end() <= lsn).cloned();
            let Some(oldest) = oldest else { return Ok(removed) };
            // Whoever wants to read it from here on hears that it is gone, and does not find its file missing.
            lock(&self.view).sealed.pop_front();
            if let Err(error) = self.fs.remove(&oldest.path) {
                let error = Error::io(&oldest.path, "remove", &error);
                lock(&self.view).sealed.push_front(oldest);
                return Err(error);
            }
            removed += 1;
            // One name at a time, so that a crash never leaves a hole between those that came back.
            self.fs.sync_dir(&self.dir).map_err(|error| Error::io(&self.dir, "sync", &error))?;
        }
    }
}

/// Zeros up to `bytes`. Of a large buffer that is full, padding would double the memory.
fn pad(buffer: &mut Vec<u8>, bytes: usize) {
    let more = bytes.saturating_sub(buffer.len());
    buffer.reserve_exact(more);
    buffer.resize(buffer.len() + more, 0);
}

impl Writer {
    /// Keeps a batch's buffers for the next one, unless it was unusually large.
    fn keep(&mut self, batch: Batch) {
        let (mut buffer, mut records) = (batch.buffer, batch.records);
        buffer.clear();
        buffer.shrink_to(KEPT_BUFFER_BYTES_MAX);
        buffer.resize(FRAME_HEADER_BYTES, 0);
        records.clear();
        records.shrink_to(KEPT_BUFFER_BYTES_MAX / size_of::<(Slot, Seq)>());
        self.buffer = buffer;
        self.records = records;
    }
}
