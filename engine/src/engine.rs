//! The engine's handle: open, begin a transaction, write, wait for a reply's bound.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::budget::Budget;
use crate::cache::BlockCache;
use crate::clock::{Clock, TimeMs};
use crate::error::{Error, Result};
use crate::expire::{Expired, Walk};
use crate::fs::Fs;
use crate::log::segment::Room;
use crate::log::{Appender, Log, LogReader, Ticket};
use crate::manifest::{Edit, Manifest, NodeMeta};
use crate::pace::Pace;
use crate::planted::{self, Bug};
use crate::random::Random;
use crate::recover::Folders;
use crate::registry::Registry;
use crate::signal::Signal;
use crate::slot::{Role, SlotCell};
use crate::sst::{BLOCK_BYTES_MAX, FileNo, PackWriter, Packs, RunOptions};
use crate::stats::Work;
use crate::sync::{Mutex, MutexGuard};
use crate::tx::Tx;
use crate::types::{Lsn, NodeId, Seq, Slot};

pub use crate::read::{Fetched, Wanted};

/// However little memory there is, segments are not made smaller than this: each costs two syncs.
const SMALL_SEGMENT_BYTES: u64 = 2 << 20;

/// When a reply may leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SyncMode {
    /// Once its write is on the device.
    Always,
    /// Once its write has been handed to the operating system; a sync follows within a second or so.
    #[default]
    EverySec,
    /// Once its write has been handed to the operating system, which syncs when it likes.
    No,
}

impl SyncMode {
    /// How the log makes room.
    pub(crate) fn room(self) -> Room {
        match self {
            SyncMode::Always => Room::Zeroed,
            SyncMode::EverySec | SyncMode::No => Room::Reserved,
        }
    }
}

/// How an engine is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// When a reply may leave.
    pub sync: SyncMode,
    /// Bytes for everything that the engine keeps in memory: memtables, block cache, log tail, indexes and filters, and a
    /// reserve for what is not counted.
    pub memory_bytes: usize,
    /// Bytes of a log segment, at most: a store of little memory has smaller ones, so that its log does not outweigh
    /// its data.
    pub log_segment_bytes: u64,
    /// Bytes of log that are kept for replicas that lag; beyond them their pins are released.
    pub log_retain_bytes: u64,
    /// Whether blocks of files are tried with LZ4.
    pub compress: bool,
    /// The size that a block of a file aims at, 1 to [`BLOCK_BYTES_MAX`].
    pub block_bytes: usize,
    /// A manifest file is replaced by a new one, which begins with the whole state, when it is larger than this and than a few
    /// times that state.
    pub manifest_bytes: u64,
    /// Draw node names and epoch tags from this seed: for simulations. `None` asks the operating system.
    pub seed: Option<u64>,
    /// What has come of a slot's copy is made durable whenever this many bytes came: so much of it comes again after a
    /// crash, at most.
    pub copy_durable_bytes: u64,
    /// Own the slots of a checkpoint that it is opened on, each in a new epoch. Else they are nobody's until an
    /// operator says: another node may own them.
    pub own_copies: bool,
    /// After an unclean stop, begin no epoch of the slots that registered replicas follow: whoever opens it asks these
    /// first for what was lost here. See `owed.rs`.
    pub keep_owed: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            sync: SyncMode::EverySec,
            memory_bytes: 256 << 20,
            log_segment_bytes: 64 << 20,
            log_retain_bytes: 4 << 30,
            compress: true,
            block_bytes: 4 << 10,
            manifest_bytes: 1 << 20,
            seed: None,
            copy_durable_bytes: 16 << 20,
            own_copies: false,
            keep_owed: false,
        }
    }
}

impl Options {
    /// Who may take how much memory.
    pub(crate) fn budget(&self) -> Budget {
        Budget::new(self.memory_bytes)
    }

    /// How a run of at most `entries_max` entries is written.
    pub(crate) fn run(&self, entries_max: u64) -> RunOptions {
        let block_bytes = self.block_bytes.clamp(1, BLOCK_BYTES_MAX);
        RunOptions { compress: self.compress, block_bytes, entries_max }
    }

    /// Bytes of a log segment.
    pub(crate) fn segment_bytes(&self) -> u64 {
        // Rounded down: rounded up it could be half of the memory.
        let in_proportion = 1 << (self.memory_bytes as u64 / 4).max(1).ilog2();
        self.log_segment_bytes.min(SMALL_SEGMENT_BYTES.max(in_proportion))
    }

    /// Bytes of log that may wait for a flush: what recovery reads at most, about.
    pub(crate) fn log_unflushed_bytes(&self) -> u64 {
        (self.memory_bytes as u64).max(2 * self.segment_bytes())
    }
}

/// What opening found and did.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    /// Whether the folder was made now.
    pub fresh: bool,
    /// Whether it is a checkpoint that was never opened before.
    pub copied: bool,
    /// Whether the last stop was a clean one.
    pub clean: bool,
    /// Records replayed from the log.
    pub records: u64,
    /// Bytes of log read.
    pub log_bytes: u64,
    /// Bytes cut off a torn tail.
    pub cut_bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// What a reply waits for: the group commits that it depends on. See [`Engine::reached`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Gate(Ticket);

impl Gate {
    /// Waits for this group commit too.
    pub(crate) fn cover(&mut self, ticket: Ticket) {
        self.0 = self.0.max(ticket);
    }

    /// Waits for what the other waits for too: a batch of commands has one gate.
    pub fn join(&mut self, other: Gate) {
        self.0 = self.0.max(other.0);
    }
}

/// A store of slots in a folder. Shared by `Arc`; all methods may be called from any thread.
///
/// Lock order: manifest, slots ascending, log buffer. No lock but the manifest's is held over I/O.
pub struct Engine {
    node: NodeId,
    options: Options,
    sync: AtomicU64,
    fs: Arc<dyn Fs>,
    folders: Folders,
    clock: Arc<dyn Clock>,
    random: Random,
    slots: Box<[Mutex<SlotCell>]>,
    log: Log,
    manifest: Mutex<Manifest>,
    /// Slots whose role the log has and the manifest does not yet.
    unsaved_roles: Mutex<BTreeSet<Slot>>,
    packs: Packs,
    next_file: AtomicU64,
    cache: BlockCache,
    registry: Mutex<Registry>,
    flushing: Mutex<()>,
    /// One checkpoint at a time.
    pub(crate) checkpointing: Mutex<()>,
    expiry_walk: Mutex<Walk>,
    /// Who is told of keys that were deleted because they had expired.
    expired: OnceLock<Expired>,
    registry_saved: Mutex<Duration>,
    role_changes: Signal,
    /// Grows, under the slot's lock, when a slot begins another life. Partner of itself.
    lives: AtomicU64,
    pace: Pace,
    /// Flushes that were finished: writers that wait for memory look again.
    pub(crate) flushes: Signal,
    /// Compactions that were finished: a flush that waits for them looks again.
    pub(crate) compactions: Signal,
    /// Memory or the log may call for a flush.
    pub(crate) pressure: Signal,
    /// Something was written that somebody waits to see synced.
    pub(crate) unsynced: Signal,
    /// The log has begun its spare segment.
    pub(crate) segment_changed: Signal,
    work: Work,
    /// Why the last flush failed, while it does.
    trouble: Mutex<Option<Error>>,
    pub(crate) closing: AtomicBool,
    _lock: Box<dyn Send + Sync>,
}

/// What recovery hands over.
pub(crate) struct Parts {
    pub fs: Arc<dyn Fs>,
    pub folders: Folders,
    pub clock: Arc<dyn Clock>,
    pub options: Options,
    pub random: Random,
    pub lock: Box<dyn Send + Sync>,
    pub node: NodeId,
    pub log: Log,
    pub manifest: Manifest,
    pub packs: Packs,
    pub next_file: FileNo,
    pub cells: Vec<Mutex<SlotCell>>,
    pub registry: Registry,
}

impl Engine {
    /// Opens the store in a folder, making it if it is not there, and recovers what was acknowledged.
    ///
    /// # Errors
    /// [`Error::Unusable`], `InUse`, `Corrupt` or `Io`, each with its place and remedy.
    pub fn open(
        fs: Arc<dyn Fs>,
        dir: &Path,
        clock: Arc<dyn Clock>,
        options: Options,
    ) -> Result<(Engine, Opened)> {
        Engine::recover(fs, dir, clock, options)
    }

    pub(crate) fn from_parts(parts: Parts) -> Engine {
        let engine = Engine {
            node: parts.node,
            cache: BlockCache::new(parts.options.budget().cache(0) as u64),
            sync: AtomicU64::new(parts.options.sync as u64),
            options: parts.options,
            fs: parts.fs,
            folders: parts.folders,
            clock: parts.clock,
            random: parts.random,
            slots: parts.cells.into(),
            lives: AtomicU64::new(1),
            log: parts.log,
            manifest: Mutex::new(parts.manifest),
            unsaved_roles: Mutex::default(),
            packs: parts.packs,
            next_file: AtomicU64::new(parts.next_file.0),
            registry: Mutex::new(parts.registry),
            flushing: Mutex::default(),
            checkpointing: Mutex::default(),
            expiry_walk: Mutex::default(),
            expired: OnceLock::new(),
            registry_saved: Mutex::default(),
            role_changes: Signal::default(),
            pace: Pace::default(),
            flushes: Signal::default(),
            compactions: Signal::default(),
            pressure: Signal::default(),
            unsynced: Signal::default(),
            segment_changed: Signal::default(),
            work: Work::default(),
            trouble: Mutex::default(),
            closing: AtomicBool::new(false),
            _lock: parts.lock,
        };
        engine.share_memory();
        let replayed = Slot::all().map(|slot| engine.lock(slot).memory_bytes()).sum();
        engine.account_memtable(0, replayed);
        engine
    }

    /// Locks slots (ascending, none twice) for one command. `fetched` is what [`Engine::fetch`] gave for this
    /// command so far.
    pub fn begin<'e>(&'e self, slots: &[Slot], fetched: &'e Fetched) -> Tx<'e> {
        self.begin_at(slots, fetched, self.clock.wall())
    }

    /// As [`Engine::begin`], for whoever has just looked at the clock: `now` is the time of day.
    pub fn begin_at<'e>(&'e self, slots: &[Slot], fetched: &'e Fetched, now: TimeMs) -> Tx<'e> {
        Tx::begin(self, slots, fetched, now)
    }

    /// Reads what a command wants where that needs no waiting; gives back what has to be waited for, to be read
    /// with [`Engine::fetch`] off the worker.
    ///
    /// # Errors
    /// `Io`, `Corrupt`.
    pub fn try_fetch(&self, wanted: Wanted, fetched: &mut Fetched) -> Result<Wanted> {
        let mut left = Wanted::default();
        for (run, id) in wanted.0 {
            match run.try_read_block(id)? {
                Some(block) => {
                    self.cache.insert(id, Arc::clone(&block));
                    fetched.insert(id, block);
                }
                None => left.0.push((run, id)),
            }
        }
        Ok(left)
    }

    /// Reads what a command wants. Waits for the device.
    ///
    /// # Errors
    /// `Io`, `Corrupt`.
    pub fn fetch(&self, wanted: Wanted, fetched: &mut Fetched) -> Result<()> {
        for (run, id) in wanted.0 {
            let block = run.read_block(id)?;
            self.cache.insert(id, Arc::clone(&block));
            fetched.insert(id, block);
        }
        Ok(())
    }

    /// Writes everything that transactions committed so far: one write(2).
    ///
    /// # Errors
    /// If it fails nothing is acknowledged any more.
    pub fn write(&self) -> Result<()> {
        let due = self.write_quietly()?;
        if due || self.sync_mode() == SyncMode::Always {
            self.unsynced.notify();
        }
        Ok(())
    }

    /// As [`Engine::write`]; says whether so much was written that it is time for a sync, whatever replies wait for.
    fn write_quietly(&self) -> Result<bool> {
        let begin = self.clock.roughly();
        self.log.write()?;
        self.work.wrote_log(self.clock.roughly().saturating_sub(begin));
        if self.log.take_spare_due() {
            self.segment_changed.notify();
        }
        Ok(self.log.take_sync_due())
    }

    /// Blocks the thread until a reply with this gate may leave: writes what is pending and, in [`SyncMode::Always`], syncs it
    /// here, together with what others have written, instead of waiting for the thread that does so for those who can't block.
    ///
    /// # Errors
    /// If it can't be reached any more: the reply must not leave.
    pub fn settle(&self, gate: Gate) -> Result<()> {
        if !self.is_written(gate)? && self.write_quietly()? && self.sync_mode() != SyncMode::Always {
            self.unsynced.notify();
        }
        if self.is_reached(gate)? { Ok(()) } else { self.log.sync_past(gate.0) }
    }

    /// Makes everything durable that was appended before the call, whatever the mode: written and synced.
    ///
    /// # Errors
    /// If it fails nothing is acknowledged any more.
    pub fn sync(&self) -> Result<()> {
        self.write()?;
        self.log.sync().map(drop)
    }

    /// The group commit that a slot's last record is in.
    pub fn last_gate(&self, slot: Slot) -> Gate {
        Gate(self.lock(slot).last_ticket)
    }

    /// Whether what a gate stands for is on the device, whatever the mode: else [`Engine::sync`] brings it there.
    ///
    /// # Errors
    /// If nothing is acknowledged any more.
    pub fn is_durable(&self, gate: Gate) -> Result<bool> {
        self.log.watermark().is_synced(gate.0)
    }

    /// Whether what a reply with this gate depends on is written: then there is no need to [`Engine::write`].
    ///
    /// # Errors
    /// If nothing is acknowledged any more.
    pub fn is_written(&self, gate: Gate) -> Result<bool> {
        self.log.watermark().is_written(gate.0)
    }

    /// Whether a reply with this gate may leave: then there is no need to wait for [`Engine::reached`].
    ///
    /// # Errors
    /// As there.
    pub fn is_reached(&self, gate: Gate) -> Result<bool> {
        match self.sync_mode() {
            SyncMode::Always if !planted::is(Bug::EarlyReply) => self.log.watermark().is_synced(gate.0),
            SyncMode::Always | SyncMode::EverySec | SyncMode::No => self.is_written(gate),
        }
    }

    /// Waits until a reply with this gate may leave: written, and in [`SyncMode::Always`] synced.
    ///
    /// # Errors
    /// If it can't be reached any more: the reply must not leave.
    pub async fn reached(&self, gate: Gate) -> Result<()> {
        match self.sync_mode() {
            SyncMode::Always if !planted::is(Bug::EarlyReply) => {
                self.log.watermark().wait_synced(gate.0).await
            }
            SyncMode::Always | SyncMode::EverySec | SyncMode::No => {
                self.log.watermark().wait_written(gate.0).await
            }
        }
    }

    /// Writes what was committed so far, and waits until all that the gate covers is on the device, whatever the mode: for what other
    /// nodes are told to rely on. Background work must be running.
    ///
    /// # Errors
    /// If it can't be reached any more.
    pub async fn synced(&self, gate: Gate) -> Result<()> {
        self.write()?;
        self.unsynced.notify();
        self.log.watermark().wait_synced(gate.0).await
    }

    /// When a reply may leave.
    pub fn sync_mode(&self) -> SyncMode {
        match self.sync.load(Ordering::Relaxed) {
            0 => SyncMode::Always,
            1 => SyncMode::EverySec,
            _ => SyncMode::No,
        }
    }

    /// Changes when a reply may leave, for replies from now on.
    pub fn set_sync_mode(&self, mode: SyncMode) {
        if planted::is(Bug::SyncModeForgotten) {
            return;
        }
        self.sync.store(mode as u64, Ordering::Relaxed);
        self.unsynced.notify();
    }

    /// Counts changes of any slot's role: whoever found a slot fenced waits for the next ([`Signal::wait_past`])
    /// and looks again.
    pub fn role_changes(&self) -> &Signal {
        &self.role_changes
    }

    /// Who this node is.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// How many keys all slots of this node have.
    pub fn key_count(&self) -> u64 {
        Slot::all().map(|slot| self.lock(slot).keys).sum()
    }

    /// Where to begin reading the log to find a record of a slot's present life; `None` if it is gone, or not
    /// written yet.
    pub fn locate(&self, slot: Slot, seq: Seq) -> Option<Lsn> {
        let base = {
            let cell = self.lock(slot);
            if seq <= cell.base_seq {
                return None;
            }
            cell.base_lsn
        };
        self.log.locate(slot, seq).map(|lsn| lsn.max(base))
    }

    /// Reads the log from a position on.
    pub fn reader(&self, from: Lsn) -> LogReader {
        self.log.reader(from)
    }

    /// Resolves once the log is written beyond `since`.
    ///
    /// # Errors
    /// If the log takes no writes any more.
    pub async fn log_changed(&self, since: Lsn) -> Result<()> {
        self.log.changed(since).await
    }

    /// Where the log ends.
    pub fn log_end(&self) -> Lsn {
        self.log.end()
    }

    /// A node follows this one: what it has not acknowledged is kept for it.
    pub fn register_replica(&self, node: NodeId, address: &str) {
        self.registry().register(node, address, self.clock.wall());
    }

    /// A replica has the slot up to `seq`, or gets a copy that begins there: later records are kept for it.
    pub fn pin(&self, node: NodeId, slot: Slot, seq: Seq) {
        self.registry().pin(node, slot, seq, self.clock.wall());
    }

    /// A replica has acknowledged each of the slots up to a record.
    pub fn replica_acked(&self, node: NodeId, slots: &[(Slot, Seq)]) {
        self.registry().acked(node, slots, self.clock.wall());
    }

    /// A replica no longer follows the slot.
    pub fn unpin(&self, node: NodeId, slot: Slot) {
        self.registry().unpin(node, slot);
    }

    /// A replica is gone for good. Says whether it was known.
    pub fn forget_replica(&self, node: NodeId) -> bool {
        let known = self.registry().forget(node);
        if known {
            tracing::info!(%node, "replica forgotten: no log is kept for it any more");
        }
        known
    }

    /// Stops cleanly: everything is in files and synced, so that the next start replays nothing. No other call
    /// may follow but reads. As long as the epoch of a slot is owed, no stop is a clean one to the next start.
    ///
    /// # Errors
    /// What the last write or sync met; the next start recovers then as after a crash.
    pub fn close(&self) -> Result<()> {
        self.closing.store(true, Ordering::Release);
        self.flush_all()?;
        // Not where the log ends: what somebody else may append meanwhile is not promised.
        let end = self.log.stop_clean()?;
        let mut manifest = self.manifest();
        self.save_roles_now(&mut manifest)?;
        // After a clean stop no epoch begins. Those that are owed stay so: the next start asks anew.
        let owes = Slot::all().any(|slot| self.lock(slot).role == Role::Owed);
        let node = NodeMeta { clean_end: (!owes).then_some(end), ..manifest.state().node };
        self.apply(&mut manifest, &[Edit::Node(node)])
    }

    pub(crate) fn lock(&self, slot: Slot) -> MutexGuard<'_, SlotCell> {
        self.slots[slot.index()].lock().expect("a panic under a slot's lock ends the process")
    }

    /// As [`Engine::lock`], unless somebody holds it.
    pub(crate) fn try_lock(&self, slot: Slot) -> Option<MutexGuard<'_, SlotCell>> {
        self.slots[slot.index()].try_lock().ok()
    }

    pub(crate) fn manifest(&self) -> MutexGuard<'_, Manifest> {
        self.manifest.lock().expect("a panic under the manifest's lock ends the process")
    }

    /// The last lock of all: it is held for a look at the set only.
    pub(crate) fn unsaved_roles(&self) -> MutexGuard<'_, BTreeSet<Slot>> {
        self.unsaved_roles.lock().expect("no code panics under this lock")
    }

    /// Grows whenever some slot begins another life (see [`crate::roles::Pulse`]): while it stays, none has.
    pub fn lives(&self) -> u64 {
        self.lives.load(Ordering::Acquire)
    }

    /// Called under the lock of the slot that begins another life.
    pub(crate) fn another_life(&self) {
        self.lives.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().expect("no code panics under this lock")
    }

    /// Holds flushes back for as long as the value lives.
    pub fn hold_flushes(&self) -> impl Sized + '_ {
        self.flush_lock()
    }

    pub(crate) fn flush_lock(&self) -> MutexGuard<'_, ()> {
        self.flushing.lock().expect("a panic in a flush ends the process")
    }

    /// When the registry was last made durable, on the monotonic clock.
    pub(crate) fn registry_saved(&self) -> MutexGuard<'_, Duration> {
        self.registry_saved.lock().expect("a panic in background work ends the process")
    }

    pub(crate) fn told_of_expired(&self) -> &OnceLock<Expired> {
        &self.expired
    }

    pub(crate) fn expiry_walk(&self) -> MutexGuard<'_, Walk> {
        self.expiry_walk.lock().expect("a panic in background work ends the process")
    }

    /// Begins an atomic group of records. Where too much was pending it has been written, and whoever waits for the sync
    /// of that has nothing left to write: the thread that syncs is told here.
    pub(crate) fn append(&self) -> Result<Appender<'_>> {
        self.log.begin_after(|| self.write())
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// How fast writers may go, and the bytes of all memtables, frozen ones included.
    pub(crate) fn pace(&self) -> &Pace {
        &self.pace
    }

    pub(crate) fn work(&self) -> &Work {
        &self.work
    }

    pub(crate) fn packs(&self) -> &Packs {
        &self.packs
    }

    pub(crate) fn cache(&self) -> &BlockCache {
        &self.cache
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// The clock that it was opened with.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(crate) fn random_tag(&self) -> u64 {
        self.random.number()
    }

    pub(crate) fn random_name(&self) -> NodeId {
        self.random.name()
    }

    /// The file system that it was opened on.
    pub fn fs(&self) -> &Arc<dyn Fs> {
        &self.fs
    }

    pub(crate) fn folders(&self) -> &Folders {
        &self.folders
    }

    pub(crate) fn new_pack(&self) -> Result<PackWriter> {
        let number = FileNo(self.next_file.fetch_add(1, Ordering::Relaxed));
        PackWriter::create(Arc::clone(&self.fs), &self.folders.data, number, self.node)
    }

    /// Goes on with a pack file that an import left.
    pub(crate) fn resume_pack(&self, file: FileNo, end: u64) -> Result<PackWriter> {
        PackWriter::resume(Arc::clone(&self.fs), &self.folders.data, file, self.node, end)
    }

    /// Unlinks files that nobody refers to or reads any more, and gives the block cache what indexes and filters leave.
    pub(crate) fn sweep_files(&self) -> Result<()> {
        self.share_memory();
        let gone = self.packs.sweep()?;
        self.cache.purge(&gone);
        Ok(())
    }

    /// Gives the block cache what stays in memory in any case leaves of their share.
    fn share_memory(&self) {
        let pinned = self.packs.pinned_bytes() + self.log.index_bytes();
        self.cache.set_bytes_max(self.options.budget().cache(pinned) as u64);
    }

    /// The manifest failed: what it should say is not durable, so nothing may be acknowledged any more.
    pub(crate) fn poison(&self, error: &Error) {
        self.log.poison(error);
    }

    pub(crate) fn set_trouble(&self, error: Option<Error>) {
        *self.trouble.lock().expect("no code panics under this lock") = error;
        self.flushes.notify();
    }

    /// Why the last flush failed, while it does.
    pub fn trouble(&self) -> Option<Error> {
        self.trouble.lock().expect("no code panics under this lock").clone()
    }
}
