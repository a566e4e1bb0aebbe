//! The engine as a library: a folder with keys and values, calls that block, threads of its own behind them.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use haypile_engine::{Batch, Options, Store};
//!
//! let dir = tempfile::tempdir()?;
//! let store = Store::open(dir.path().join("store"), Options::default())?;
//! store.put(b"hay", "stack")?;
//! assert_eq!(store.get(b"hay")?.as_deref(), Some(&b"stack"[..]));
//!
//! // All of a batch or nothing, also after a loss of power.
//! let mut batch = Batch::default();
//! batch.put(b"needle", "1").delete(b"hay");
//! store.write(&batch)?;
//!
//! let keys = store.scan().map(|entry| Ok(entry?.0)).collect::<Result<Vec<_>, haypile_engine::Error>>()?;
//! assert_eq!(keys, [&b"needle"[..]]);
//! store.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! A [`Store`] is a thin layer over [`Engine`], which is what a server uses: transactions over several slots, values
//! with types, replication. Both can be used on one store ([`Store::engine`]). Any thread may call anything.
//!
//! A call that writes returns when its bound is reached ([`Options::sync`]): handed to the operating system, or in
//! [`SyncMode::Always`](crate::engine::SyncMode::Always) on the device. Writers that are ahead of what can be flushed
//! are held back until there is memory, a piece at a time; [`Store::stats`] tells how often and how long.

use std::collections::BTreeSet;
use std::future::Future;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;

use crate::background::Background;
use crate::checkpoint::{Checkpoint, Progress};
use crate::clock::{Clock, SystemClock};
use crate::engine::{Engine, Gate, Options};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::fs::real::RealFs;
use crate::key::{self, EntryKey, Key};
use crate::read::{BlockSource, Direction, Fetched, Layers, WriteSet};
use crate::slot::{Role, SlotCell};
use crate::stats::Stats;
use crate::tx::{Read, Stop, Tx};
use crate::types::Slot;
use crate::value::Value;

/// Some keys with their values, and where to go on.
type Page = (Vec<(Bytes, Bytes)>, Option<EntryKey>);

/// How many keys a scan takes at a time.
const PAGE_KEYS: usize = 256;

/// See the file's head.
pub struct Store {
    /// Ends before the engine does.
    background: Option<Background>,
    engine: Arc<Engine>,
}

/// Writes that happen together.
#[derive(Clone, Debug, Default)]
pub struct Batch(Vec<(Key, Option<Bytes>)>);

impl Batch {
    /// Sets a key; a later write of the batch to the same key wins.
    pub fn put(&mut self, key: &[u8], value: impl Into<Bytes>) -> &mut Batch {
        self.0.push((Key::new(key), Some(value.into())));
        self
    }

    /// Removes a key, if it is there.
    pub fn delete(&mut self, key: &[u8]) -> &mut Batch {
        self.0.push((Key::new(key), None));
        self
    }

    /// How many writes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Store {
    /// Opens the store in a folder, made if need be with all slots, and recovers what was acknowledged.
    ///
    /// # Errors
    /// As [`Engine::open`]; `Io` if there are no threads to be had.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Store> {
        Store::open_on(Arc::new(RealFs), dir.as_ref(), Arc::new(SystemClock::new()), options)
    }

    /// As [`Store::open`], on any file system and clock.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_on(fs: Arc<dyn Fs>, dir: &Path, clock: Arc<dyn Clock>, options: Options) -> Result<Store> {
        let (engine, opened) = Engine::open(fs, dir, clock, options)?;
        if opened.fresh {
            engine.add_slots(&Slot::all().collect::<Vec<_>>())?;
        }
        let engine = Arc::new(engine);
        let background =
            Background::start(&engine).map_err(|error| Error::io(dir, "start threads", &error))?;
        Ok(Store { engine, background: Some(background) })
    }

    /// What this is a layer over.
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The slot of a key: keys with the same `{tag}` share one.
    #[must_use]
    pub fn slot(key: &[u8]) -> Slot {
        Slot::of_key(key)
    }

    /// The value of a key.
    ///
    /// # Errors
    /// `Io`, `Corrupt`; `Poisoned` if a write that it may have seen can't be made good.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let key = Key::new(key);
        let value = self.run(&[key.slot()], |tx| tx.get(&key))?;
        Ok(value.map(|value| value.payload))
    }

    /// Sets a key.
    ///
    /// # Errors
    /// `Limit` if the slot is not this store's to write, `ReadOnly` if there is no space, `Poisoned`, `Io`.
    pub fn put(&self, key: &[u8], value: impl Into<Bytes>) -> Result<()> {
        let (key, value) = (Key::new(key), Value::whole(0, 0, value));
        self.change(&[key.slot()], |tx| tx.put(&key, &value))
    }

    /// Removes a key; says whether it was there.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn delete(&self, key: &[u8]) -> Result<bool> {
        let key = Key::new(key);
        self.change(&[key.slot()], |tx| tx.delete(&key))
    }

    /// Does all writes of a batch, in its order, or none.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn write(&self, batch: &Batch) -> Result<()> {
        let slots: BTreeSet<Slot> = batch.0.iter().map(|(key, _)| key.slot()).collect();
        let slots: Vec<Slot> = slots.into_iter().collect();
        self.change(&slots, |tx| {
            for (key, value) in &batch.0 {
                match value {
                    Some(value) => tx.put(key, &Value::whole(0, 0, value.clone()))?,
                    None => _ = tx.delete(key)?,
                }
            }
            Ok(())
        })
    }

    /// Runs `body` on slots (ascending, none twice) that only it sees and changes meanwhile; all its writes happen, or
    /// none. It may be run several times until all that it reads is in memory: it must do nothing but use the transaction.
    ///
    /// # Errors
    /// As [`Store::put`], and what `body` gives.
    ///
    /// # Panics
    /// If it uses a slot that is not among `slots`.
    pub fn change<T>(&self, slots: &[Slot], body: impl FnMut(&mut Tx<'_>) -> Read<T>) -> Result<T> {
        block_on(self.engine.room())?;
        self.run(slots, body)
    }

    fn run<T>(&self, slots: &[Slot], mut body: impl FnMut(&mut Tx<'_>) -> Read<T>) -> Result<T> {
        let mut fetched = Fetched::default();
        let (out, gate) = loop {
            let wanted = {
                let mut tx = self.engine.begin(slots, &fetched);
                match body(&mut tx) {
                    Ok(out) => break (out, commit(tx)?),
                    Err(Stop::Failed(error)) => return Err(error),
                    Err(Stop::Miss) => tx.abandon(),
                }
            };
            self.engine.fetch(wanted, &mut fetched)?;
        };
        self.engine.settle(gate)?;
        Ok(out)
    }

    /// All keys with their values, slot by slot, each slot as it is when the scan comes to it ([`Store::snapshot`]).
    pub fn scan(&self) -> impl Iterator<Item = Result<(Bytes, Bytes)>> + '_ {
        Slot::all().flat_map(|slot| self.snapshot(slot).entries())
    }

    /// A slot as it is now, whatever is written, flushed or compacted from here on. Copies nothing; what it holds takes
    /// memory and files until it is dropped.
    #[must_use]
    pub fn snapshot(&self, slot: Slot) -> Snapshot {
        Snapshot { engine: Arc::clone(&self.engine), cell: self.engine.frozen_cell(slot) }
    }

    /// Makes all slots at one moment a store of its own in another folder, of hard links where they can be had.
    ///
    /// # Errors
    /// As [`Engine::checkpoint`].
    pub fn checkpoint(&self, dir: &Path) -> Result<Checkpoint> {
        let slots: BTreeSet<Slot> =
            Slot::all().filter(|slot| self.engine.role(*slot) != Role::Absent).collect();
        self.engine.checkpoint(dir, &slots, &Progress::default())
    }

    /// What it did since it was opened, and what it holds.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// Stops in order: the next opening replays nothing. A store that is dropped instead loses nothing either.
    ///
    /// # Errors
    /// What the last write or sync met; the next opening recovers then as after a crash.
    pub fn close(mut self) -> Result<()> {
        drop(self.background.take());
        self.engine.close()
    }
}

/// Commits, if all that was written is this store's to write.
fn commit(tx: Tx<'_>) -> Result<Gate> {
    if tx.has_writes()
        && let Some(slot) = tx.slots().find(|slot| *tx.role(*slot) != Role::Master)
    {
        return Err(Error::Limit(format!("slot {slot} is not this store's to write")));
    }
    tx.commit()
}

/// A slot at a moment. See [`Store::snapshot`].
pub struct Snapshot {
    engine: Arc<Engine>,
    /// With nothing in its memtable: all that was there is frozen.
    cell: SlotCell,
}

impl Snapshot {
    /// How many keys it has, expired ones that were not reclaimed included.
    #[must_use]
    pub fn key_count(&self) -> u64 {
        self.cell.keys
    }

    /// The value that a key had.
    ///
    /// # Errors
    /// `Io`, `Corrupt`.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let key = Key::new(key);
        let value = self.read(|layers| layers.get(key.entry(), Value::read))?.flatten();
        Ok(value.filter(|value| !value.is_expired(self.cell.time)).map(|value| value.payload))
    }

    /// All keys with their values, in the order of the keys' hashes; after an error nothing more.
    pub fn entries(self) -> impl Iterator<Item = Result<(Bytes, Bytes)>> {
        let mut next = Some(EntryKey::new());
        let mut page = Vec::new().into_iter();
        std::iter::from_fn(move || {
            loop {
                if let Some(entry) = page.next() {
                    return Some(Ok(entry));
                }
                match self.page(next.take()?) {
                    Ok((entries, more)) => (page, next) = (entries.into_iter(), more),
                    Err(error) => return Some(Err(error)),
                }
            }
        })
    }

    /// Some keys from an entry key on.
    fn page(&self, from: EntryKey) -> Result<Page> {
        self.read(|layers| {
            let (mut out, mut next) = (Vec::new(), None);
            let (from, to) = (Bound::Included(&from[..]), Bound::Unbounded);
            layers.range(from, to, Direction::Forward, &mut |entry, bytes| {
                let Some(parts) = key::split(entry) else { return true };
                if out.len() == PAGE_KEYS {
                    next = Some(EntryKey::from_slice(entry));
                    return false;
                }
                if parts.element.is_some() {
                    next = Some(parts.after_elements());
                    return false;
                }
                if let Some(value) = Value::read(bytes).filter(|value| !value.is_expired(self.cell.time)) {
                    out.push((Bytes::copy_from_slice(parts.key), value.payload));
                }
                true
            })?;
            Ok((out, next))
        })
    }

    fn read<T>(&self, mut body: impl FnMut(&Layers<'_>) -> Read<T>) -> Result<T> {
        let mut fetched = Fetched::default();
        loop {
            let wanted = std::cell::RefCell::default();
            let read = {
                let blocks = BlockSource {
                    cache: self.engine.cache(),
                    fetched: &fetched,
                    wanted: &wanted,
                    waits: false,
                };
                body(&Layers { writes: &WriteSet::default(), cell: &self.cell, blocks: &blocks })
            };
            match read {
                Ok(out) => return Ok(out),
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Miss) => self.engine.fetch(wanted.into_inner(), &mut fetched)?,
            }
        }
    }
}

/// Wakes the thread that waits.
struct Thread(std::thread::Thread);

impl Wake for Thread {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a future of the engine, which needs no runtime.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Thread(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(out) => return out,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[cfg(test)]
mod tests;
