//! Reclaiming expired keys: their owner deletes them by ordinary records, so that every node counts the same keys.
//!
//! Readers never see an expired key; this only frees what it takes. A slot is walked when one of its keys is known
//! to have expired, a page at a time, and walking rests nine times as long as it took: it has at most a tenth of
//! one core.

use std::time::Duration;

use crate::clock::TimeMs;
use crate::engine::Engine;
use crate::error::Result;
use crate::key::Key;
use crate::read::Fetched;
use crate::slot::{Role, earliest};
use crate::tx::{Read, Stop, Tx};
use crate::types::Slot;

/// Keys looked at under one lock of the slot.
const PAGE_KEYS: usize = 256;
/// Walking rests this many times as long as it took.
const REST_FACTOR: u32 = 9;

/// Where the walk stands.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// The slot that is being walked and the hash to go on from.
    at: Option<(Slot, u64)>,
    /// The slot that was walked last: the next one comes after it.
    last: Option<Slot>,
    /// The first expiry yet to come that this walk has seen.
    earliest: Option<TimeMs>,
    rest_until: Duration,
}

/// What a page of keys showed.
struct Page {
    next: Option<u64>,
    earliest: Option<TimeMs>,
    /// What was deleted.
    expired: Vec<Key>,
}

/// Told of keys that were deleted because they had expired.
pub(crate) type Expired = Box<dyn Fn(&[Key]) + Send + Sync>;

impl Engine {
    /// Reclaims a page of expired keys. Says whether there was a page to look at.
    pub(crate) fn expire_step(&self) -> Result<bool> {
        let mut walk = self.expiry_walk();
        let started = self.clock().monotonic();
        if started < walk.rest_until {
            return Ok(false);
        }
        let Some((slot, hash)) = walk.at.or_else(|| self.next_to_walk(walk.last).map(|slot| (slot, 0)))
        else {
            return Ok(false);
        };
        if hash == 0 {
            // Expiries that are written from here on are noted anew.
            self.lock(slot).next_expiry = None;
            walk.earliest = None;
        }
        let page = self.expire_page(slot, hash);
        let took = self.clock().monotonic().saturating_sub(started);
        walk.rest_until = started + took * (REST_FACTOR + 1);
        let (next, seen) = match page {
            Ok(page) => (page.next, page.earliest),
            // The walk is over for now; it comes back.
            Err(error) => {
                self.lock(slot).next_expiry = Some(TimeMs(0));
                walk.at = None;
                return Err(error);
            }
        };
        walk.earliest = earliest(walk.earliest, seen);
        walk.at = next.map(|hash| (slot, hash));
        if next.is_none() {
            walk.last = Some(slot);
            let mut cell = self.lock(slot);
            cell.next_expiry = earliest(cell.next_expiry, walk.earliest);
        }
        Ok(true)
    }

    /// Tells of keys that this engine deletes because they have expired, once that is written; for who is first to ask.
    pub fn on_expired(&self, tell: impl Fn(&[Key]) + Send + Sync + 'static) {
        let _ = self.told_of_expired().set(Box::new(tell));
    }

    fn next_to_walk(&self, last: Option<Slot>) -> Option<Slot> {
        let due = |slot: &Slot| {
            let cell = self.lock(*slot);
            cell.role == Role::Master && cell.next_expiry.is_some_and(|at| at <= self.clock().wall())
        };
        let after = |slot: &Slot| last.is_none_or(|last| *slot > last);
        Slot::all().filter(after).find(due).or_else(|| Slot::all().find(due))
    }

    fn expire_page(&self, slot: Slot, hash: u64) -> Result<Page> {
        let mut fetched = Fetched::default();
        loop {
            let mut tx = self.begin(&[slot], &fetched);
            if *tx.role(slot) != Role::Master {
                // What the rest of the slot holds is not known: walked again once this node owns it again.
                return Ok(Page { next: None, earliest: Some(TimeMs(0)), expired: Vec::new() });
            }
            match delete_expired(&mut tx, slot, hash) {
                Ok(page) => {
                    let wrote = tx.has_writes();
                    tx.commit()?;
                    if wrote {
                        self.write()?;
                    }
                    if let Some(tell) = self.told_of_expired().get().filter(|_| !page.expired.is_empty()) {
                        tell(&page.expired);
                    }
                    return Ok(page);
                }
                Err(Stop::Miss) => {
                    let wanted = tx.abandon();
                    self.fetch(wanted, &mut fetched)?;
                }
                Err(Stop::Failed(error)) => return Err(error),
            }
        }
    }
}

fn delete_expired(tx: &mut Tx<'_>, slot: Slot, hash: u64) -> Read<Page> {
    let now = tx.now(slot);
    let mut expired = Vec::new();
    let mut to_come = None;
    let next = tx.walk_keys(slot, hash, PAGE_KEYS, &mut |key, header, _| match header.expiry {
        Some(at) if at <= now => expired.push(Key::new(key)),
        at => to_come = earliest(to_come, at),
    })?;
    for key in &expired {
        // The log has the slot's time with it: what is gone for good has expired.
        tx.delete(key)?;
    }
    Ok(Page { next, earliest: to_come, expired })
}
