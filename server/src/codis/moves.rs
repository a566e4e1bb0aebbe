//! Which slots are on their way from this node to another, and how far each is. Pure bookkeeping, behind one lock.
//!
//! A move lives as long as somebody asks about it: the dashboard's question begins it and keeps it, and so do the
//! requests that a proxy wraps meanwhile. Who waits for a change waits on one counter for all moves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use haypile_engine::types::Slot;
use tokio::sync::watch;

/// How long a move goes on although nobody asks about it any more, in milliseconds.
pub const SILENCE_MS_MAX: u64 = 10_000;

/// For how long after it was told that a slot went the dashboard may give the slot back to this node, in milliseconds: an
/// operator who gives a move up can't know whether it was over by then.
pub const REGRET_MS_MAX: u64 = 10_000;

/// For how long after a move was over, or a proxy asked for its slot last, the slot may come back if the dashboard never heard
/// that it went, in milliseconds.
pub const UNTOLD_MS_MAX: u64 = 60_000;

/// How far a move is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stage {
    /// The other node is told to add the slot and to follow it here.
    Preparing,
    /// It gets a copy.
    Copying,
    /// It has the slot and lacks so many records.
    Following(u64),
    /// Writes are held back for the last records, and the slot is granted.
    HandingOver,
    /// It did not work, and will be tried again for as long as somebody asks.
    Failed(String),
    /// That node takes keys one by one: so many are here still, at most.
    ByKey(u64),
    /// The other node owns the slot.
    Done,
}

impl Stage {
    /// As people read it.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Stage::Preparing => "preparing".to_owned(),
            Stage::Copying => "copying".to_owned(),
            Stage::Following(lag) => format!("following, lag {lag}"),
            Stage::HandingOver => "handing over".to_owned(),
            Stage::Failed(why) => format!("failed: {why}"),
            Stage::ByKey(left) => format!("key by key, {left} left"),
            Stage::Done => "done".to_owned(),
        }
    }
}

/// A slot on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Move {
    /// `host:port` of the other node, as Codis names it.
    pub to: String,
    /// How far it is.
    pub stage: Stage,
    /// Keys that the slot had when it began.
    pub keys: u64,
    /// When it began, on the monotonic clock.
    pub since_ms: u64,
    /// When the dashboard asked last, or a proxy that waits for it.
    pub asked_ms: u64,
    /// When a proxy sent a request of the slot's as of one that moves, or somebody asked.
    pub touched_ms: u64,
    /// When it was over.
    pub done_ms: Option<u64>,
    /// When Codis was told so.
    pub told_ms: Option<u64>,
    /// Whether it is being fetched back.
    returning: bool,
    /// Whether it never is to be.
    stays: bool,
    /// Tells this move from an earlier one of the slot.
    number: u64,
    /// Of one that goes key by key: from which hash on there may be keys.
    place: u64,
}

impl Move {
    fn new(to: &str, stage: Stage, number: u64, now_ms: u64) -> Move {
        Move {
            to: to.to_owned(),
            stage,
            keys: 0,
            since_ms: now_ms,
            asked_ms: now_ms,
            touched_ms: now_ms,
            done_ms: None,
            told_ms: None,
            returning: false,
            stays: false,
            number,
            place: 0,
        }
    }
}

/// How a node takes slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Whole, by the log: it is a Haypile node.
    Whole,
    /// Key by key: it is a codis-server.
    ByKey,
}

/// Whether a slot that was handed over is to come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Return {
    /// It stays where it is.
    No,
    /// It is being fetched.
    UnderWay,
    /// It has to be fetched.
    Begin,
    /// It has to be fetched if its owner knows that it came by a move of Codis': this node has started since and does not.
    Ask,
}

/// What is known of a slot that no move is known of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Past {
    /// It went before this node started, not long ago.
    RightBeforeStart,
    /// It went at another time: by an operator's hand, or long ago.
    Other,
}

/// A move that is to be carried out; whoever holds it is the one that does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// The slot.
    pub slot: Slot,
    number: u64,
}

/// See the file's head.
#[derive(Debug)]
pub struct Moves {
    moves: Mutex<(BTreeMap<Slot, Move>, u64)>,
    changes: watch::Sender<u64>,
    /// When slots came here that another node wanted to move.
    adopted: Mutex<BTreeMap<Slot, u64>>,
    /// Slots that this node follows and that are another group's, with their owners.
    foreign: Mutex<BTreeMap<Slot, String>>,
    /// Whose first slot this node, which has none, waits for: of all that it was told to wait for, the last.
    master: Mutex<(Option<String>, u64)>,
    /// Slots of which somebody waits until they are this node's.
    awaited: Mutex<BTreeSet<Slot>>,
    /// Slots that a start found granted to another node.
    found_granted: Mutex<BTreeSet<Slot>>,
    /// Replicas of this node that are told to take a slot, and have not yet.
    told: Mutex<BTreeMap<String, BTreeSet<Slot>>>,
    /// How nodes take slots, as far as they were asked.
    ways: Mutex<BTreeMap<String, Way>>,
    /// How many are being fetched back: as many as [`Moves::take_back`] said `Begin` of and [`Moves::returned`] was not called for.
    returning: AtomicUsize,
}

impl Default for Moves {
    fn default() -> Moves {
        Moves {
            moves: Mutex::default(),
            changes: watch::Sender::new(0),
            adopted: Mutex::default(),
            foreign: Mutex::default(),
            master: Mutex::default(),
            awaited: Mutex::default(),
            found_granted: Mutex::default(),
            told: Mutex::default(),
            ways: Mutex::default(),
            returning: AtomicUsize::new(0),
        }
    }
}

impl Moves {
    /// Somebody wants the slot moved. If that is not under way already, the caller has to see to it: it gets a ticket.
    pub fn ask(&self, slot: Slot, to: &str, keys: u64, now_ms: u64) -> Option<Ticket> {
        let mut locked = self.lock();
        let (moves, count) = &mut *locked;
        if let Some(found) = moves.get_mut(&slot)
            && (found.returning
                || found.to == to && found.stage != Stage::Done && !is_forgotten(found, now_ms))
        {
            found.asked_ms = now_ms;
            found.touched_ms = now_ms;
            return None;
        }
        *count += 1;
        let number = *count;
        moves.insert(slot, Move { keys, ..Move::new(to, Stage::Preparing, number, now_ms) });
        Some(Ticket { slot, number })
    }

    /// A proxy sent a request of the slot's as one of a slot that moves: it goes on.
    pub fn touch(&self, slot: Slot, now_ms: u64) {
        if let Some(found) = self.lock().0.get_mut(&slot) {
            found.touched_ms = now_ms;
        }
    }

    /// The move of a slot.
    #[must_use]
    pub fn of(&self, slot: Slot) -> Option<Move> {
        self.lock().0.get(&slot).cloned()
    }

    /// All moves, by slot.
    #[must_use]
    pub fn all(&self) -> Vec<(Slot, Move)> {
        self.lock().0.iter().map(|(slot, found)| (*slot, found.clone())).collect()
    }

    /// The move that the ticket is for, if it is wanted still. If nobody asks about it any more it is forgotten.
    #[must_use]
    pub fn wanted(&self, ticket: Ticket, now_ms: u64) -> Option<Move> {
        let mut locked = self.lock();
        let found = locked.0.get(&ticket.slot).filter(|found| found.number == ticket.number)?.clone();
        if is_forgotten(&found, now_ms) {
            locked.0.remove(&ticket.slot);
            drop(locked);
            self.changed();
            return None;
        }
        Some(found)
    }

    /// How the node at an address takes slots, if it was asked; or what it answered now.
    pub fn way_to(&self, address: &str) -> Option<Way> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner).get(address).copied()
    }

    /// What a node answered when it was asked how it takes slots; nothing if it turned out to be another.
    pub fn set_way(&self, address: &str, way: Option<Way>) {
        let mut ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        match way {
            Some(way) => ways.insert(address.to_owned(), way),
            None => ways.remove(address),
        };
    }

    /// How a slot goes that moves now: not known before the dashboard asked for it, in this process.
    #[must_use]
    pub fn way_of(&self, slot: Slot, now_ms: u64) -> Option<Way> {
        let found = self.of(slot)?;
        let is_stale = now_ms.saturating_sub(found.touched_ms) > SILENCE_MS_MAX;
        if is_stale { None } else { self.way_to(&found.to) }
    }

    /// A slot goes key by key, and so many are left; none: it has gone.
    pub fn goes_by_key(&self, slot: Slot, left: u64, now_ms: u64) {
        if let Some(found) = self.lock().0.get_mut(&slot) {
            found.stage = if left == 0 { Stage::Done } else { Stage::ByKey(left) };
            found.done_ms = (left == 0).then_some(now_ms);
        }
        self.changed();
    }

    /// From which hash on a slot that goes key by key may have keys.
    #[must_use]
    pub fn place(&self, slot: Slot) -> u64 {
        self.lock().0.get(&slot).map_or(0, |found| found.place)
    }

    /// Before this hash it had none a moment ago.
    pub fn set_place(&self, slot: Slot, place: u64) {
        if let Some(found) = self.lock().0.get_mut(&slot) {
            found.place = place;
        }
    }

    /// The move got so far; if it is over, [`Moves::done`] says so.
    pub fn set(&self, ticket: Ticket, stage: Stage) {
        self.change(ticket, |found| found.stage = stage);
    }

    /// The move is over: the other node owns the slot.
    pub fn done(&self, ticket: Ticket, now_ms: u64) {
        self.change(ticket, |found| {
            found.stage = Stage::Done;
            found.done_ms = Some(now_ms);
        });
    }

    fn change(&self, ticket: Ticket, change: impl FnOnce(&mut Move)) {
        match self.lock().0.get_mut(&ticket.slot).filter(|found| found.number == ticket.number) {
            Some(found) => change(found),
            None => return,
        }
        self.changed();
    }

    /// A slot came here because its owner was asked to move it.
    pub fn adopted(&self, slot: Slot, now_ms: u64) {
        self.adopted.lock().unwrap_or_else(PoisonError::into_inner).insert(slot, now_ms);
    }

    /// Whether the slot came here by a move not long ago.
    #[must_use]
    pub fn was_adopted(&self, slot: Slot, now_ms: u64) -> bool {
        let adopted = self.adopted.lock().unwrap_or_else(PoisonError::into_inner);
        adopted.get(&slot).is_some_and(|at| now_ms.saturating_sub(*at) <= UNTOLD_MS_MAX)
    }

    /// The slot is another group's although this node follows it, or is not any more.
    pub fn set_foreign(&self, slot: Slot, owner: Option<&str>) {
        let mut foreign = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        match owner {
            Some(owner) => foreign.insert(slot, owner.to_owned()),
            None => foreign.remove(&slot),
        };
    }

    /// Who owns a slot that is another group's.
    #[must_use]
    pub fn foreign(&self, slot: Slot) -> Option<String> {
        self.foreign.lock().unwrap_or_else(PoisonError::into_inner).get(&slot).cloned()
    }

    /// All slots that are.
    #[must_use]
    pub fn all_foreign(&self) -> BTreeSet<Slot> {
        self.foreign.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// This node, which has no slot, waits for one of the node at `master`; names this wait.
    pub fn await_slots_of(&self, master: &str) -> u64 {
        let mut awaited = self.master.lock().unwrap_or_else(PoisonError::into_inner);
        *awaited = (Some(master.to_owned()), awaited.1 + 1);
        awaited.1
    }

    /// Whether it still does.
    #[must_use]
    pub fn awaits(&self, number: u64) -> bool {
        let awaited = self.master.lock().unwrap_or_else(PoisonError::into_inner);
        awaited.0.is_some() && awaited.1 == number
    }

    /// This wait is over.
    pub fn await_nothing(&self, number: u64) {
        if self.awaits(number) {
            self.await_no_slots();
        }
    }

    /// Whatever this node waited for, it does not any more. Whether it did.
    pub fn await_no_slots(&self) -> bool {
        self.master.lock().unwrap_or_else(PoisonError::into_inner).0.take().is_some()
    }

    /// Whose slots it waits for.
    #[must_use]
    pub fn awaited_master(&self) -> Option<String> {
        self.master.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Somebody begins to wait until the slot is this node's, or ends; whether that changes anything.
    pub fn set_awaited(&self, slot: Slot, is_awaited: bool) -> bool {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        if is_awaited { awaited.insert(slot) } else { awaited.remove(&slot) }
    }

    /// Somebody begins to tell a replica to take a slot, or ends; whether that changes anything.
    pub fn set_telling(&self, replica: &str, slot: Slot, is_telling: bool) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if is_telling {
            return told.entry(replica.to_owned()).or_default().insert(slot);
        }
        let Some(slots) = told.get_mut(replica) else { return false };
        let was = slots.remove(&slot);
        if slots.is_empty() {
            told.remove(replica);
        }
        was
    }

    /// How many slots each replica is being told to take.
    #[must_use]
    pub fn telling(&self) -> Vec<(String, usize)> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.iter().map(|(replica, slots)| (replica.clone(), slots.len())).collect()
    }

    /// Codis was told that the slot is the other node's.
    pub fn told(&self, slot: Slot, now_ms: u64) {
        if let Some(found) = self.lock().0.get_mut(&slot) {
            found.told_ms.get_or_insert(now_ms);
        }
    }

    /// The slot went to the node at `to`, which fetched it back: if that was too hasty, it may come here once more.
    pub fn released(&self, slot: Slot, to: &str, keys: u64, now_ms: u64) {
        if let Some(ticket) = self.ask(slot, to, keys, now_ms) {
            self.done(ticket, now_ms);
        }
        self.told(slot, now_ms);
    }

    /// A client's request came for a slot that was handed over to the node at `to`. If Codis was not told of that, or just now, it has
    /// given the move up and the slot back to this node, and it has to be fetched: by whoever is told so first. `past` is for a slot
    /// that no move is known of.
    pub fn take_back(&self, slot: Slot, to: &str, past: Past, now_ms: u64) -> Return {
        let mut locked = self.lock();
        let (moves, count) = &mut *locked;
        let answer = match moves.get(&slot) {
            Some(found) if found.returning => return Return::UnderWay,
            Some(found) if may_return(found, now_ms) => Return::Begin,
            None if past == Past::RightBeforeStart => Return::Ask,
            Some(_) | None => return Return::No,
        };
        *count += 1;
        let number = *count;
        let found = moves.entry(slot).or_insert_with(|| Move::new(to, Stage::Done, number, now_ms));
        found.returning = true;
        self.returning.fetch_add(1, Ordering::Relaxed);
        answer
    }

    /// A start found the slot granted to another node.
    pub fn set_found_granted(&self, slot: Slot) {
        self.found_granted.lock().unwrap_or_else(PoisonError::into_inner).insert(slot);
    }

    /// Whether a start found the slot granted to another node.
    #[must_use]
    pub fn was_found_granted(&self, slot: Slot) -> bool {
        self.found_granted.lock().unwrap_or_else(PoisonError::into_inner).contains(&slot)
    }

    /// Whether the slot is being fetched back.
    #[must_use]
    pub fn is_returning(&self, slot: Slot) -> bool {
        self.any_returning() && self.lock().0.get(&slot).is_some_and(|found| found.returning)
    }

    /// Whether any slot is: without a lock, as each command may ask.
    #[must_use]
    pub fn any_returning(&self) -> bool {
        self.returning.load(Ordering::Relaxed) > 0
    }

    /// The slot is here again, or can't be fetched.
    pub fn returned(&self, slot: Slot) {
        let mut locked = self.lock();
        if locked.0.get(&slot).is_some_and(|found| found.returning) {
            locked.0.remove(&slot);
        }
        self.end_return(locked);
    }

    /// The slot is not to be fetched: it is the other node's for good.
    pub fn stays(&self, slot: Slot) {
        let mut locked = self.lock();
        if let Some(found) = locked.0.get_mut(&slot) {
            (found.returning, found.stays) = (false, true);
        }
        self.end_return(locked);
    }

    fn end_return(&self, locked: MutexGuard<'_, (BTreeMap<Slot, Move>, u64)>) {
        self.returning.fetch_sub(1, Ordering::Relaxed);
        drop(locked);
        self.changed();
    }

    /// Ends a move, or all that are not done; how many there were. A handover that has begun goes on, and what became of it stays
    /// known.
    pub fn cancel(&self, slot: Option<Slot>) -> usize {
        let mut locked = self.lock();
        let before = locked.0.len();
        locked.0.retain(|found, entry| {
            slot.is_some_and(|slot| slot != *found)
                || matches!(entry.stage, Stage::HandingOver | Stage::Done)
                || entry.returning
        });
        let ended = before - locked.0.len();
        drop(locked);
        self.changed();
        ended
    }

    /// To wait for the next change of any move.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Something changed that somebody may wait for.
    pub fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, (BTreeMap<Slot, Move>, u64)> {
        self.moves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_forgotten(found: &Move, now_ms: u64) -> bool {
    !matches!(found.stage, Stage::HandingOver | Stage::Done)
        && now_ms.saturating_sub(found.touched_ms) > SILENCE_MS_MAX
}

/// Whether Codis may not have meant it any more when the slot went.
fn may_return(found: &Move, now_ms: u64) -> bool {
    match found.told_ms {
        _ if found.stays => false,
        Some(at) => now_ms.saturating_sub(at) <= REGRET_MS_MAX,
        None => {
            let last = found.touched_ms.max(found.done_ms.unwrap_or_default());
            now_ms.saturating_sub(last) <= UNTOLD_MS_MAX
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(number: u16) -> Slot {
        Slot::new(number).expect("in range")
    }

    #[test]
    fn a_move_is_begun_once_and_goes_on_while_somebody_asks() {
        let moves = Moves::default();
        let ticket = moves.ask(slot(1), "b:1", 5, 0).expect("the first begins it");
        assert_eq!(moves.ask(slot(1), "b:1", 5, 9_000), None);
        assert!(moves.wanted(ticket, 19_000).is_some());
        moves.touch(slot(1), 20_000);
        assert!(moves.wanted(ticket, 30_000).is_some());
        assert!(moves.wanted(ticket, 30_001).is_none(), "nobody asks");
        assert_eq!(moves.of(slot(1)), None);
    }

    #[test]
    fn another_target_is_another_move_and_the_former_one_changes_nothing_any_more() {
        let moves = Moves::default();
        let old = moves.ask(slot(1), "b:1", 5, 0).expect("begins");
        let new = moves.ask(slot(1), "c:1", 5, 10).expect("another target");
        assert!(moves.wanted(old, 10).is_none());
        moves.done(old, 10);
        assert_eq!(moves.of(slot(1)).map(|found| found.stage), Some(Stage::Preparing));
        moves.done(new, 10);
        assert_eq!(moves.of(slot(1)).map(|found| found.stage), Some(Stage::Done));
        assert!(moves.ask(slot(1), "c:1", 5, 20).is_some(), "what is done can be wanted again");
    }

    fn done(moves: &Moves, now_ms: u64) {
        let ticket = moves.ask(slot(1), "b:1", 5, now_ms).expect("begins");
        moves.done(ticket, now_ms);
    }

    #[test]
    fn what_codis_never_heard_of_can_be_taken_back_once_and_for_a_while() {
        let moves = Moves::default();
        let take_back = |now_ms| moves.take_back(slot(1), "b:1", Past::Other, now_ms);
        assert_eq!(take_back(100), Return::No, "it never moved");
        done(&moves, 0);
        assert_eq!(take_back(100), Return::Begin);
        assert_eq!(take_back(100), Return::UnderWay);
        moves.returned(slot(1));
        assert_eq!(moves.of(slot(1)), None);
        done(&moves, 0);
        moves.told(slot(1), 100);
        assert_eq!(take_back(10_101), Return::No, "it is that node's for good");
        assert_eq!(take_back(10_100), Return::Begin);
        moves.returned(slot(1));
        done(&moves, 0);
        assert_eq!(take_back(60_001), Return::No, "nobody wanted to know for a minute");
        moves.touch(slot(1), 60_000);
        assert_eq!(take_back(120_000), Return::Begin, "a proxy still takes it for one that moves");
        assert!(moves.any_returning());
    }

    #[test]
    fn after_a_restart_the_new_owner_is_asked_whether_a_slot_may_come_back() {
        let moves = Moves::default();
        let take_back = |past| moves.take_back(slot(1), "b:1", past, 500);
        assert_eq!(take_back(Past::Other), Return::No);
        assert_eq!(take_back(Past::RightBeforeStart), Return::Ask);
        assert_eq!(take_back(Past::RightBeforeStart), Return::UnderWay);
        moves.stays(slot(1));
        assert!(!moves.any_returning());
        assert_eq!(take_back(Past::RightBeforeStart), Return::No, "that node said no");
        assert!(!moves.was_adopted(slot(2), 0));
        moves.adopted(slot(2), 1000);
        assert!(moves.was_adopted(slot(2), 61_000) && !moves.was_adopted(slot(2), 61_001));
    }

    #[test]
    fn a_cancel_ends_what_is_not_done_and_lets_a_handover_end() {
        let moves = Moves::default();
        done(&moves, 0);
        let open = moves.ask(slot(2), "b:1", 5, 0).expect("begins");
        let handing_over = moves.ask(slot(3), "b:1", 5, 0).expect("begins");
        moves.set(handing_over, Stage::HandingOver);
        assert_eq!(moves.cancel(None), 1);
        assert!(moves.wanted(open, 0).is_none());
        assert!(moves.of(slot(1)).is_some());
        assert!(moves.wanted(handing_over, 60_000).is_some(), "however long nobody asks");
        moves.done(handing_over, 60_000);
        assert_eq!(
            moves.of(slot(3)).map(|found| (found.stage, found.done_ms)),
            Some((Stage::Done, Some(60_000)))
        );
    }
}
