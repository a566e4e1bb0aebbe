//! Checkpoints of the simulated node: one place for them, what may be in it after a stop, and that it is what the slots
//! were when it was made.
//!
//! Where one is being made or removed, a stop leaves it whole or not at all; what else is in the place then has a name
//! that says so, opens as nothing but a store that is whole, and goes when it is asked to. A checkpoint is always
//! opened on a copy of the disk: whoever opens it makes it another node.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::inspect;
use super::model::{Shown, State, is_seen_as};
use super::node::{Done, Machine, Node};
use super::violation::Violation;
use super::workload::{SLOTS, slot};
use crate::checkpoint::{Progress, remove, remove_leftovers};
use crate::clock::{Clock, TimeMs};
use crate::engine::{Engine, Opened, Options};
use crate::error::Result;
use crate::fs::Fs;
use crate::fs::memory::MemoryFs;
use crate::random::Coin;
use crate::types::{Seq, Slot};

/// The folder of all checkpoints, and the name of the one.
const PLACE: &str = "/checkpoints";
const NAME: &str = "one";
/// What stands there while it is made or removed.
const HALF: &str = "one.haypile-partial";

/// Opening one takes as long as all else of a recovery: where nothing was done to it, one of so many times is enough.
const UNTOUCHED_OF: usize = 16;

fn path() -> PathBuf {
    Path::new(PLACE).join(NAME)
}

/// A slot in a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Taken {
    index: usize,
    state: State,
    /// The slot's time, at least.
    time: TimeMs,
    last_seq: Seq,
}

type Checkpoint = Arc<Vec<Taken>>;

/// What may be in the place of checkpoints.
#[derive(Clone, Debug)]
pub struct Place {
    /// Any of these, nothing among them; never empty.
    may_hold: Vec<Option<Checkpoint>>,
    /// All that were begun: what is half removed, or half made, may be any of them.
    begun: Vec<Checkpoint>,
}

impl Default for Place {
    fn default() -> Place {
        Place { may_hold: vec![None], begun: Vec::new() }
    }
}

impl Place {
    /// What is there is about to be this; until it is said to be, it may be either.
    fn becomes(&mut self, next: Option<Checkpoint>) {
        self.begun.extend(next.clone());
        self.may_hold.push(next);
    }

    /// It is what it was to become.
    fn became(&mut self) {
        self.may_hold.drain(..self.may_hold.len() - 1);
    }
}

/// What a folder opens as, on a copy of the disk.
struct Store {
    found: Vec<(State, TimeMs)>,
    last_seqs: Vec<Seq>,
    owned: bool,
    opened: Opened,
}

impl Store {
    fn read(engine: &Engine, opened: Opened, owned: bool) -> Result<Store, Violation> {
        let found = (0..SLOTS).map(|index| inspect::read(engine, index));
        let found = found.collect::<Result<Vec<_>, Violation>>()?;
        inspect::check_counts(engine, &found)?;
        let last_seqs = (0..SLOTS).map(|index| engine.position(slot(index)).last_seq).collect();
        Ok(Store { found, last_seqs, owned, opened })
    }

    /// How it is not this checkpoint.
    ///
    /// # Errors
    /// The first difference.
    fn is(&self, checkpoint: &[Taken]) -> Result<(), Violation> {
        for (index, (state, now)) in self.found.iter().enumerate() {
            let taken = checkpoint.iter().find(|taken| taken.index == index);
            let expected = taken.and_then(|taken| taken.state.clone());
            let differs = |what: String| Err(Violation::new(format!("slot {}: {what}", slot(index))));
            if !is_seen_as(&expected, state, *now) {
                return differs(format!("found {}, taken was {}", Shown(state), Shown(&expected)));
            }
            let Some(taken) = taken else { continue };
            if *now < taken.time {
                return differs(format!("its time is {}, it was taken at {}", now.0, taken.time.0));
            }
            // A new owner's first record is its epoch's.
            let last_seq = Seq(taken.last_seq.0 + u64::from(self.owned));
            if self.last_seqs[index] != last_seq {
                let found = self.last_seqs[index];
                return differs(format!("its last record is {found:?}, not {last_seq:?}"));
            }
        }
        Ok(())
    }
}

impl Node {
    /// Makes a checkpoint of those of the slots that are there, in the place of the one before.
    ///
    /// # Errors
    /// If it is not whole, or an error leaves something behind.
    pub(super) fn checkpoint(&mut self, slots: &[usize]) -> Result<Done, Violation> {
        let slots: Vec<usize> = slots.iter().copied().filter(|&index| self.is_there(index)).collect();
        if slots.is_empty() {
            return Ok(Done::Yes);
        }
        let discarded = self.discard();
        match self.judge(discarded)? {
            Done::Yes => {}
            done => return Ok(done),
        }
        let checkpoint: Checkpoint = Arc::new(slots.iter().map(|&index| self.taken(index)).collect());
        self.model().place.becomes(Some(Arc::clone(&checkpoint)));
        let numbers = slots.iter().map(|&index| slot(index)).collect();
        let made = self.engine().checkpoint(&path(), &numbers, &Progress::default());
        match &made {
            Ok(made) => {
                self.model().place.became();
                let expected: Vec<(Slot, Seq)> =
                    checkpoint.iter().map(|taken| (slot(taken.index), taken.last_seq)).collect();
                if made.slots != expected || !made.left_out.is_empty() {
                    return Err(Violation::new(format!("a checkpoint of {expected:?} holds {made:?}")));
                }
                // What was said to be made outlives whatever comes.
                let coin = &mut self.coin();
                self.check_whole(&self.fs().crash(coin.next_u64()), coin)?;
            }
            // What removes the rest may fail too, on a disk that fails more than once.
            Err(_) if self.machine() == Machine::Broken => {}
            Err(error) => {
                let left = names(self.fs())?;
                if !left.is_empty() {
                    let what = format!("a checkpoint that failed ({error}) leaves {left:?}");
                    return Err(Violation::new(what));
                }
            }
        }
        self.judge(made.map(drop))
    }

    /// Removes the checkpoint, if there is one.
    ///
    /// # Errors
    /// As [`remove`].
    pub(super) fn discard(&self) -> Result<()> {
        if !self.fs().exists(&path()).unwrap_or(true) {
            return Ok(());
        }
        self.model().place.becomes(None);
        remove(self.fs(), &path())?;
        self.model().place.became();
        Ok(())
    }

    /// Holds the place of checkpoints to what may be there after a stop, and removes what is half there. What a kill
    /// left need not be what the next loss of power leaves: nothing is settled by what is found.
    ///
    /// # Errors
    /// If there is anything else.
    pub(super) fn check_place(&self) -> Result<(), Violation> {
        let (disk, coin) = (self.fs().restart(), &mut self.coin());
        let place = self.model().place.clone();
        let found = names(&disk)?;
        if let Some(name) = found.iter().find(|name| ![NAME, HALF].contains(&&name[..])) {
            return Err(Violation::new(format!(
                "{name} is left of a checkpoint, and its name does not say so"
            )));
        }
        if found.iter().any(|name| name == HALF) {
            self.check_half(&disk, &place, coin)?;
        }
        let nothing_done = place.may_hold.len() == 1;
        match found.iter().any(|name| name == NAME) {
            true if nothing_done && !coin.chance(1, UNTOUCHED_OF) => {}
            true => self.check_whole(&disk, coin)?,
            false if place.may_hold.contains(&None) => {}
            false => return Err(Violation::new("a checkpoint that was made is not there")),
        }
        if coin.heads() {
            // It waits for the next checkpoint.
            return Ok(());
        }
        let cleared = remove_leftovers(self.fs(), Path::new(PLACE), NAME);
        if cleared.is_err() && self.machine() != Machine::Sound {
            return Ok(());
        }
        let left = names(self.fs())?;
        if cleared.is_err() || left.iter().any(|name| name != NAME) {
            let what = format!("what is left of a checkpoint ({left:?}) can't be removed: {cleared:?}");
            return Err(Violation::new(what));
        }
        Ok(())
    }

    /// What choices here and now follow from.
    fn coin(&self) -> Coin {
        Coin::new(self.seed() ^ self.model().starts.rotate_left(48) ^ self.fs().operations())
    }

    fn taken(&self, index: usize) -> Taken {
        let engine = self.engine();
        let position = engine.position(slot(index));
        Taken {
            index,
            state: self.model().model.content(index).cloned(),
            // What is hidden here by now is hidden there too.
            time: position.time.max(self.clock().wall()),
            last_seq: position.last_seq,
        }
    }

    /// Opens the checkpoint that is there, and holds it to what may be.
    fn check_whole(&self, disk: &MemoryFs, coin: &mut Coin) -> Result<(), Violation> {
        let place = self.model().place.clone();
        let store = self.open(disk, NAME, coin);
        let store = store
            .map_err(|error| Violation::new(format!("a checkpoint does not open: {error}")))?
            .map_err(|violation| Violation::new(format!("a checkpoint: {}", violation.what)))?;
        let mut wrong = Violation::new("a checkpoint is there that was not made");
        for checkpoint in place.may_hold.into_iter().flatten() {
            match store.is(&checkpoint) {
                Ok(()) if store.opened.copied => return Ok(()),
                Ok(()) => wrong = Violation::new("a checkpoint passes for its source"),
                Err(violation) => wrong = Violation::new(format!("a checkpoint: {}", violation.what)),
            }
        }
        Err(wrong)
    }

    /// What is half made or half removed does not open, or as nothing, or is whole all the same.
    fn check_half(&self, disk: &MemoryFs, place: &Place, coin: &mut Coin) -> Result<(), Violation> {
        let Ok(store) = self.open(disk, HALF, coin) else { return Ok(()) };
        let store = store?;
        if store.opened.fresh && store.found.iter().all(|(state, _)| state.is_none()) {
            return Ok(());
        }
        match place.begun.iter().any(|checkpoint| store.is(checkpoint).is_ok()) {
            true => Ok(()),
            false => Err(Violation::new("a half-made checkpoint opens as if it were whole")),
        }
    }

    /// Opens a folder of the place on a copy of the disk; half of the time as a node that owns what it finds.
    fn open(&self, disk: &MemoryFs, name: &str, coin: &mut Coin) -> Result<Result<Store, Violation>> {
        let owned = coin.heads();
        let options = Options { own_copies: owned, ..self.options(coin.next_u64()) };
        let dir = Path::new(PLACE).join(name);
        let clock: Arc<dyn Clock> = self.clock();
        let disk = disk.restart();
        // It may be taken to another disk.
        disk.set_capacity(None);
        let (engine, opened) = Engine::open(Arc::new(disk), &dir, clock, options)?;
        Ok(Store::read(&engine, opened, owned))
    }
}

/// What is in the place of checkpoints.
fn names(fs: &MemoryFs) -> Result<Vec<String>, Violation> {
    let place = Path::new(PLACE);
    let listed = match fs.exists(place) {
        Ok(true) => fs.list(place),
        Ok(false) => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let listed = listed.map_err(|error| Violation::new(format!("{PLACE} can't be listed: {error}")))?;
    Ok(listed.into_iter().map(|entry| entry.name).collect())
}
