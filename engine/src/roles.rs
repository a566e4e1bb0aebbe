//! A slot's life: added, removed, following, promoted, handed over. One durable step each.
//!
//! ```text
//! absent -> master                                      add
//! absent -> loading                                     add as a replica: never an owner, not for a moment
//! master, owed, replica, loading, moved -> replica      follow (a loading slot stays loading)
//! replica -> master                                     promote
//! master -> fenced -> granted -> moved                  handover; fenced -> master undoes it
//! owed -> master                                        after an unclean start: see `owed.rs`
//! replica that learned of a grant, moved -> moved       detach
//! any but fenced, granted and owed -> absent            remove
//! ```
//! Every step holds the manifest's lock from looking at the slots to publishing the change, so steps never
//! interleave; slots' own locks are held for memory work only. Lock order: manifest, slots ascending, log.
//!
//! A handover holds clients back, so two of its steps don't take that lock, which others hold while they sync: a grant
//! (nobody but who fenced a slot touches it) and the end of one (of which another step would find either role). And what the
//! log has durably does not wait for the manifest, which learns it a moment later: see [`Engine::save_roles`].

use std::collections::BTreeSet;

use crate::clock::TimeMs;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::history::History;
use crate::log::record::{Body, Header};
use crate::manifest::{Edit, Manifest, SETTLED_MAX, SettledGrant, SlotMeta, SlotState};
use crate::planted::{self, Bug};
use crate::slot::{Role, SlotCell};
use crate::sst::{FileNo, RunMeta};
use crate::types::{Epoch, Lsn, NodeId, Seq, Slot};

/// What an owed slot does, for texts.
pub const ASKS_REPLICAS: &str = "asks its replicas for what was lost in an unclean stop";

/// Where a slot stands on this node.
#[derive(Clone, Debug)]
pub struct Position {
    /// What this node is to it.
    pub role: Role,
    /// The epochs that led here.
    pub history: History,
    /// Epochs of histories that copies replaced here.
    pub superseded: Vec<Epoch>,
    /// The last record.
    pub last_seq: Seq,
    /// Everything up to here is in files.
    pub flushed_seq: Seq,
    /// A copy brought everything up to here.
    pub base_seq: Seq,
    /// Keys, expired ones that were not reclaimed included.
    pub keys: u64,
    /// To whom the last record grants the slot, if it does.
    pub granted: Option<(NodeId, String)>,
    /// Whether unrelated data here may be replaced by the upstream's.
    pub force: bool,
    /// The slot's time.
    pub time: TimeMs,
    /// Bytes of its files and of what is in memory.
    pub data_bytes: u64,
    /// Which life of the slot this is, since the start of the process: see [`Pulse::life`].
    pub life: u64,
}

/// The little of a slot that is asked for often.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pulse {
    /// The last record.
    pub last_seq: Seq,
    /// The slot's time. An owner's is that of its clock, if that is ahead.
    pub time: TimeMs,
    /// Grows whenever the slot's content is replaced (added, removed, made ready for a copy): records that were
    /// read in another life do not belong to this one.
    pub life: u64,
}

/// What became of a grant to this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GrantFate {
    /// This node began this epoch upon it.
    Taken(Epoch),
    /// This node never takes it.
    Refused,
    /// Neither yet.
    Open,
}

impl Engine {
    /// Where a slot stands.
    pub fn position(&self, slot: Slot) -> Position {
        let cell = self.lock(slot);
        let frozen: usize = cell.frozen.iter().map(|frozen| frozen.table.bytes()).sum();
        Position {
            role: cell.role.clone(),
            history: cell.history.clone(),
            superseded: cell.superseded.clone(),
            last_seq: cell.last_seq,
            flushed_seq: cell.flushed_seq,
            base_seq: cell.base_seq,
            keys: cell.keys,
            granted: cell.granted.clone(),
            force: cell.force,
            time: cell.time,
            data_bytes: cell.version.disk_bytes() + (cell.memtable.bytes() + frozen) as u64,
            life: cell.life,
        }
    }

    /// Where a slot stands, in short: nothing is copied.
    pub fn pulse(&self, slot: Slot) -> Pulse {
        let mut cell = self.lock(slot);
        if cell.role.owns() {
            cell.time = cell.time.max(self.clock().wall());
        }
        Pulse { last_seq: cell.last_seq, time: cell.time, life: cell.life }
    }

    /// What this node is to a slot.
    pub fn role(&self, slot: Slot) -> Role {
        self.lock(slot).role.clone()
    }

    /// Makes this node the owner of slots that it does not have; those that it owns or follows stay as they are.
    ///
    /// # Errors
    /// `Limit` if a slot was handed over and not removed since; nothing has changed then.
    pub fn add_slots(&self, slots: &[Slot]) -> Result<()> {
        let mut manifest = self.manifest();
        let base_lsn = self.durable_end()?;
        let mut new = Vec::new();
        for slot in distinct(slots) {
            let cell = self.lock(slot);
            match &cell.role {
                Role::Absent => {
                    let term = cell.highest_term + 1;
                    let mut meta =
                        SlotMeta { state: SlotState::Master, highest_term: term, ..SlotMeta::default() };
                    meta.settled = cell.settled.clone();
                    meta.history = History::starting(Epoch { term, tag: self.random_tag() }, Seq(1));
                    (meta.base_lsn, meta.role_lsn) = (base_lsn, base_lsn);
                    new.push((slot, meta));
                }
                Role::Moved { to } | Role::Granted { address: to, .. } => {
                    return Err(Error::Limit(format!(
                        "slot {slot} was handed over to {to}: removeslots {slot} first"
                    )));
                }
                _ => {}
            }
        }
        self.apply(&mut manifest, &edits(&new))?;
        new.iter().for_each(|(slot, meta)| self.replace_cell(*slot, SlotCell::from_meta(meta)));
        self.role_changes().notify();
        Ok(())
    }

    /// Adds slots that this node does not have as ones that follow `upstream` (`host:port`) and wait for a copy, in one
    /// durable step: whatever comes in between, no client ever finds them empty and writable here.
    ///
    /// # Errors
    /// `Limit` if a slot is here, in whatever role; nothing has changed then.
    pub fn add_replicas(&self, slots: &[Slot], upstream: &str) -> Result<()> {
        let mut manifest = self.manifest();
        let base_lsn = self.durable_end()?;
        let mut new = Vec::new();
        for slot in distinct(slots) {
            let cell = self.lock(slot);
            if cell.role != Role::Absent {
                return Err(Error::Limit(format!("slot {slot} is on this node already")));
            }
            let meta = SlotMeta {
                state: SlotState::Loading { upstream: upstream.to_owned() },
                highest_term: cell.highest_term,
                settled: cell.settled.clone(),
                base_lsn,
                role_lsn: base_lsn,
                ..SlotMeta::default()
            };
            new.push((slot, meta));
        }
        self.apply(&mut manifest, &edits(&new))?;
        new.iter().for_each(|(slot, meta)| self.replace_cell(*slot, SlotCell::from_meta(meta)));
        self.role_changes().notify();
        Ok(())
    }

    /// Gives slots up with all their data. Slots that are not here are passed over.
    ///
    /// # Errors
    /// `Limit` if a slot is in the middle of a handover; nothing has changed then.
    pub fn remove_slots(&self, slots: &[Slot]) -> Result<()> {
        let mut manifest = self.manifest();
        let mut gone = Vec::new();
        let mut edits = Vec::new();
        for slot in distinct(slots) {
            let cell = self.lock(slot);
            match &cell.role {
                Role::Absent => {}
                Role::Fenced | Role::Granted { .. } => {
                    return Err(Error::Limit(format!("slot {slot} is being handed over: try again later")));
                }
                Role::Owed => {
                    return Err(Error::Limit(format!("slot {slot} {ASKS_REPLICAS}: try again later")));
                }
                _ => {
                    let (highest_term, settled) = (cell.highest_term, cell.settled.clone());
                    let meta = SlotMeta { highest_term, settled, ..SlotMeta::default() };
                    edits.push(Edit::Slot(slot, Box::new(meta)));
                    edits.push(edit_runs(slot, &[], &cell.version.metas()));
                    gone.push(slot);
                }
            }
        }
        self.apply(&mut manifest, &edits)?;
        for slot in gone {
            self.registry().forget_slot(slot);
            let (highest_term, settled) = {
                let cell = self.lock(slot);
                (cell.highest_term, cell.settled.clone())
            };
            self.replace_cell(slot, SlotCell { highest_term, settled, ..SlotCell::default() });
        }
        drop(manifest);
        self.role_changes().notify();
        self.sweep_files()
    }

    /// Makes slots of this node follow `upstream` (`host:port`). They keep their data; whether it is of any use
    /// is between the two nodes' histories.
    ///
    /// # Errors
    /// `Limit` if a slot is absent or in the middle of a handover; nothing has changed then.
    pub fn follow(&self, slots: &[Slot], upstream: &str) -> Result<()> {
        self.turn_to(slots, upstream, false)
    }

    /// As [`Engine::follow`], and remembers durably that what is here may be replaced even if it has nothing in common
    /// with the upstream's.
    ///
    /// # Errors
    /// As [`Engine::follow`].
    pub fn follow_by_force(&self, slots: &[Slot], upstream: &str) -> Result<()> {
        self.turn_to(slots, upstream, true)
    }

    fn turn_to(&self, slots: &[Slot], upstream: &str, force: bool) -> Result<()> {
        let mut manifest = self.manifest();
        let slots = distinct(slots);
        for &slot in &slots {
            match self.lock(slot).role {
                Role::Absent => return Err(Error::Limit(format!("slot {slot} is not on this node"))),
                Role::Fenced | Role::Granted { .. } => {
                    return Err(Error::Limit(format!("slot {slot} is being handed over: try again later")));
                }
                _ => {}
            }
        }
        // From here on a master takes no writes: they wait until the change is published.
        let before: Vec<Role> = slots
            .iter()
            .map(|&slot| {
                let mut cell = self.lock(slot);
                let held = if cell.role.owns() { Role::Fenced } else { cell.role.clone() };
                std::mem::replace(&mut cell.role, held)
            })
            .collect();
        let result = self.durable_end().and_then(|role_lsn| {
            let metas = slots.iter().zip(&before).map(|(&slot, role)| {
                let mut meta = self.lock(slot).meta();
                meta.state = match role {
                    Role::Loading { .. } => SlotState::Loading { upstream: upstream.to_owned() },
                    _ => SlotState::Replica { upstream: upstream.to_owned() },
                };
                meta.role_lsn = role_lsn;
                meta.force = force && !matches!(role, Role::Loading { .. });
                (slot, meta)
            });
            let metas: Vec<_> = metas.collect();
            self.apply(&mut manifest, &edits(&metas)).map(|()| metas)
        });
        match &result {
            Ok(metas) => metas.iter().for_each(|(slot, meta)| self.publish_role(*slot, meta)),
            Err(_) => slots.iter().zip(before).for_each(|(&slot, role)| self.lock(slot).role = role),
        }
        self.role_changes().notify();
        result.map(drop)
    }

    /// The upstream of slots goes on from what they hold: what an operator said about replacing them is used up, durably.
    /// Whatever parts the two later is not theirs to replace.
    ///
    /// # Errors
    /// If it can't be made durable.
    pub fn forget_force(&self, slots: &[Slot]) -> Result<()> {
        let mut manifest = self.manifest();
        // The manifest's word counts: the slot's own goes with the first record.
        let known = &manifest.state().slots;
        let forced = |slot: &Slot| known.get(slot).is_some_and(|entry| entry.meta.force);
        let metas: Vec<_> = distinct(slots)
            .into_iter()
            .filter(forced)
            .map(|slot| (slot, SlotMeta { force: false, ..self.lock(slot).meta() }))
            .collect();
        if metas.is_empty() {
            return Ok(());
        }
        self.apply(&mut manifest, &edits(&metas))?;
        metas.iter().for_each(|(slot, _)| self.lock(*slot).force = false);
        Ok(())
    }

    /// Makes this node the owner of slots that it follows: each begins an epoch, durably, all or none.
    ///
    /// Whoever calls it has stopped the stream from the former master and knows what may be missing.
    ///
    /// # Errors
    /// `Limit` if a slot is not a replica with complete data; nothing has changed then.
    pub fn promote(&self, slots: &[Slot]) -> Result<()> {
        let mut manifest = self.manifest();
        let slots = distinct(slots);
        for &slot in &slots {
            match &self.lock(slot).role {
                Role::Replica { .. } => {}
                Role::Loading { upstream } => {
                    return Err(Error::Limit(format!(
                        "slot {slot} has no complete data: its copy from {upstream} is not finished; \
                         wait for it, or removeslots {slot}"
                    )));
                }
                _ => return Err(Error::Limit(format!("slot {slot} follows nobody here"))),
            }
        }
        if planted::is(Bug::PromotedInOldEpoch) {
            slots.iter().for_each(|&slot| self.lock(slot).role = Role::Master);
            return Ok(());
        }
        self.begin_epochs(&mut manifest, &slots)
    }

    /// Makes this node the owner of slots that were granted to it: as [`Engine::promote`], but a grant is taken once,
    /// and never after it was refused.
    ///
    /// # Errors
    /// As [`Engine::promote`], and `Limit` for a grant that is settled; nothing has changed then.
    pub fn take_grants(&self, slots: &[Slot]) -> Result<()> {
        let mut manifest = self.manifest();
        let slots = distinct(slots);
        let cells: Vec<_> = slots.iter().map(|&slot| (slot, self.lock(slot))).collect();
        for (slot, cell) in &cells {
            if !matches!(cell.role, Role::Replica { .. }) {
                return Err(Error::Limit(format!("slot {slot} is not a replica with complete data")));
            }
            if let Some(settled) = cell.history.current().and_then(|ended| cell.settled(ended)) {
                return Err(Error::Limit(format!(
                    "the grant of slot {slot} that ended {} is settled: {:?} began upon it",
                    settled.ended, settled.began
                )));
            }
        }
        let unknown: Vec<Slot> = cells
            .iter()
            .filter(|(_, cell)| cell.granted.as_ref().is_none_or(|(to, _)| *to != self.node()))
            .map(|(slot, _)| *slot)
            .collect();
        drop(cells);
        if !unknown.is_empty() {
            self.note_granted(&mut manifest, &unknown)?;
        }
        // Clients wait for the answer to the old owner. The log tells a start all of it: the manifest learns it in the
        // background.
        self.begin_epochs_in_log(&slots)
    }

    /// A copy that was taken after the granting record need not have brought it: a start has to know that what begins the
    /// next epoch takes a grant.
    fn note_granted(&self, manifest: &mut Manifest, slots: &[Slot]) -> Result<()> {
        let granted = Some((self.node(), String::new()));
        let metas: Vec<_> = slots
            .iter()
            .map(|&slot| (slot, SlotMeta { granted: granted.clone(), ..self.lock(slot).meta() }))
            .collect();
        self.apply(manifest, &edits(&metas))?;
        for &slot in slots {
            let mut cell = self.lock(slot);
            cell.granted.clone_from(&granted);
            cell.flushed_granted.clone_from(&granted);
        }
        Ok(())
    }

    /// What became of the grant of a slot to this node that ended an epoch.
    pub fn grant_fate(&self, slot: Slot, ended: Epoch) -> GrantFate {
        match self.lock(slot).settled(ended) {
            Some(SettledGrant { began: Some(epoch), .. }) => GrantFate::Taken(epoch),
            Some(SettledGrant { began: None, .. }) => GrantFate::Refused,
            None => GrantFate::Open,
        }
    }

    /// Refuses a grant that was not taken, durably: whatever this node follows later, it does not take that one any
    /// more. Says what became of it. It stays open if this node can't know any more whether it took it.
    ///
    /// # Errors
    /// If the refusal can't be made durable.
    pub fn refuse_grant(&self, slot: Slot, ended: Epoch) -> Result<GrantFate> {
        let mut manifest = self.manifest();
        let fate = self.grant_fate(slot, ended);
        let meta = {
            let cell = self.lock(slot);
            let forgotten = cell.settled.len() >= SETTLED_MAX && cell.highest_term > ended.term;
            if fate != GrantFate::Open || forgotten {
                return Ok(fate);
            }
            let mut meta = cell.meta();
            meta.settled.push(SettledGrant { ended, began: None });
            let surplus = meta.settled.len().saturating_sub(SETTLED_MAX);
            meta.settled.drain(..surplus);
            meta
        };
        self.apply(&mut manifest, &edits(&[(slot, meta)]))?;
        self.lock(slot).settle(ended, None);
        Ok(GrantFate::Refused)
    }

    /// Begins an epoch on each slot and makes this node its master, and tells the manifest.
    pub(crate) fn begin_epochs(&self, manifest: &mut Manifest, slots: &[Slot]) -> Result<()> {
        self.begin_epochs_in_log(slots)?;
        self.save_roles_now(manifest)
    }

    /// Begins an epoch on each slot, its record synced, and makes this node its master. Called under the manifest's lock.
    fn begin_epochs_in_log(&self, slots: &[Slot]) -> Result<()> {
        if slots.is_empty() {
            return Ok(());
        }
        let role_lsn = self.log().end();
        let mut cells: Vec<_> = slots.iter().map(|&slot| self.lock(slot)).collect();
        let mut appender = self.log().begin()?;
        let mut starts = Vec::with_capacity(slots.len());
        for (&slot, cell) in slots.iter().zip(&cells) {
            let tag = if planted::is(Bug::EpochNotUnique) { 0 } else { self.random_tag() };
            let epoch = Epoch { term: cell.highest_term + 1, tag };
            let header = Header { slot, term: epoch.term, seq: cell.last_seq.next() };
            appender.push(header, &Body::EpochStart { epoch, by: self.node() })?;
            starts.push(epoch);
        }
        let ticket = appender.finish();
        for (cell, epoch) in cells.iter_mut().zip(starts) {
            if let (Some(ended), Some((to, _))) = (cell.history.current(), &cell.granted)
                && *to == self.node()
            {
                cell.settle(ended, Some(epoch));
            }
            let seq = cell.last_seq.next();
            cell.history.begin(epoch, seq);
            cell.highest_term = epoch.term;
            cell.granted = None;
            cell.last_seq = seq;
            cell.last_ticket = ticket;
            // Nothing else may be appended until the epoch is durable: writes wait, streams are refused.
            cell.role = Role::Fenced;
        }
        drop(cells);
        self.log().write()?;
        self.log().sync()?;
        // A start would find this node to be the owner, and so it is.
        for &slot in slots {
            let mut cell = self.lock(slot);
            (cell.role, cell.role_lsn, cell.force) = (Role::Master, role_lsn, false);
        }
        self.unsaved_roles().extend(slots);
        self.role_changes().notify();
        Ok(())
    }

    /// Tells the manifest of roles that slots have by the log's word only. Says whether there were any.
    ///
    /// Until it is done a start finds these roles in the log, as it does where a crash came before this: an epoch that this node
    /// began, or a grant whose taker is asked again. The log goes only past what was flushed, and a flush brings the role
    /// with it.
    ///
    /// # Errors
    /// `ReadOnly` if there is no space: it is tried again.
    pub(crate) fn save_roles(&self) -> Result<bool> {
        // Not to wait for others' steps where there is nothing to do.
        let is_any = !self.unsaved_roles().is_empty();
        if is_any { self.save_roles_in(&mut self.manifest()) } else { Ok(false) }
    }

    fn save_roles_in(&self, manifest: &mut Manifest) -> Result<bool> {
        let slots = std::mem::take(&mut *self.unsaved_roles());
        if slots.is_empty() {
            return Ok(false);
        }
        // Those that were removed since are known to be.
        let here = slots.iter().map(|&slot| (slot, self.lock(slot)));
        let here = here.filter(|(_, cell)| cell.role != Role::Absent);
        let metas: Vec<_> = here.map(|(slot, cell)| (slot, cell.meta())).collect();
        let saved = self.apply(manifest, &edits(&metas));
        saved.inspect_err(|_| self.unsaved_roles().extend(slots)).map(|()| !metas.is_empty())
    }

    /// Tells the manifest of roles that slots have by the log's word only, before somebody is told that a step is done: so
    /// that whoever looks at the folder finds it there. Where there is no space for it, that is for later.
    ///
    /// # Errors
    /// The manifest's.
    pub fn save_new_roles(&self) -> Result<()> {
        self.save_roles_now(&mut self.manifest())
    }

    /// As [`Engine::save_roles`]; where there is no space for it, that is for later.
    pub(crate) fn save_roles_now(&self, manifest: &mut Manifest) -> Result<()> {
        match self.save_roles_in(manifest) {
            Err(Error::ReadOnly(why)) => tracing::warn!(why, "new roles are in the log only, for now"),
            saved => drop(saved?),
        }
        Ok(())
    }

    /// Holds writes back on slots that this node owns.
    ///
    /// # Errors
    /// `Limit` if it does not own one of them; nothing has changed then. `ReadOnly` if the manifest has no space to learn
    /// that it does: of an epoch that only the log knows no start would find that it was granted away.
    pub fn fence(&self, slots: &[Slot]) -> Result<()> {
        let mut manifest = self.manifest();
        let slots = distinct(slots);
        if slots.iter().any(|slot| self.unsaved_roles().contains(slot)) {
            self.save_roles_in(&mut manifest)?;
        }
        if let Some(slot) = slots.iter().find(|&&slot| self.lock(slot).role != Role::Master) {
            return Err(Error::Limit(format!("slot {slot} is not owned by this node")));
        }
        slots.iter().for_each(|&slot| self.lock(slot).role = Role::Fenced);
        Ok(())
    }

    /// Lets writes go on where they were held back.
    pub fn unfence(&self, slots: &[Slot]) {
        let _steps = self.manifest();
        for slot in distinct(slots) {
            let mut cell = self.lock(slot);
            // One that has its grant in the log stays fenced: whether that is durable is not known.
            if cell.role == Role::Fenced && cell.granted.is_none() {
                cell.role = Role::Master;
            }
        }
        self.role_changes().notify();
    }

    /// Gives a fenced slot to another node: see [`Engine::grant_all`].
    ///
    /// # Errors
    /// As [`Engine::grant_all`].
    pub fn grant(&self, slot: Slot, to: NodeId, address: &str) -> Result<Seq> {
        let granted = self.grant_all(&[slot], to, address)?;
        Ok(granted.first().expect("one was asked for").1)
    }

    /// Gives fenced slots to another node, all or none: the slots' last records here, synced at once. After this
    /// the node serves nothing of them. Returns the records' numbers.
    ///
    /// # Errors
    /// `Limit` if a slot is not fenced; else the log's.
    pub fn grant_all(&self, slots: &[Slot], to: NodeId, address: &str) -> Result<Vec<(Slot, Seq)>> {
        let slots = distinct(slots);
        let granted = {
            let mut cells: Vec<_> = slots.iter().map(|&slot| (slot, self.lock(slot))).collect();
            if let Some((slot, _)) = cells.iter().find(|(_, cell)| cell.role != Role::Fenced) {
                return Err(Error::Limit(format!("slot {slot} is not fenced: it can't be granted")));
            }
            let mut appender = self.log().begin()?;
            for (slot, cell) in &cells {
                let epoch = cell.history.current().expect("an owned slot has an epoch");
                let header = Header { slot: *slot, term: epoch.term, seq: cell.last_seq.next() };
                appender.push(header, &Body::Grant { to, time: cell.time, address })?;
            }
            let ticket = appender.finish();
            let mut granted = Vec::with_capacity(cells.len());
            for (slot, cell) in &mut cells {
                cell.last_ticket = ticket;
                cell.last_seq = cell.last_seq.next();
                cell.granted = Some((to, address.to_owned()));
                cell.kept_time = cell.time;
                granted.push((*slot, cell.last_seq));
            }
            granted
        };
        self.log().write()?;
        if !planted::is(Bug::GrantNotSynced) {
            self.log().sync()?;
        }
        // Not before: whoever finds the slot granted tells the new owner, which takes it at once.
        for &(slot, _) in &granted {
            self.lock(slot).role = Role::Granted { to, address: address.to_owned() };
        }
        self.role_changes().notify();
        Ok(granted)
    }

    /// A node has begun these epochs: slots that were granted to it are moved there. This node keeps their data and refuses
    /// clients. The manifest learns it a moment later; a start before that finds the grants and asks about them again.
    ///
    /// Says which slots that were: those whose grant to this very node is open and ended an epoch before the one that began.
    pub fn finish_grants(&self, by: NodeId, began: &[(Slot, Epoch)]) -> Vec<Slot> {
        let mut moved = Vec::new();
        for &(slot, epoch) in began {
            let mut cell = self.lock(slot);
            let follows = cell.history.current().is_none_or(|ended| epoch.term > ended.term);
            let address = match &cell.role {
                Role::Granted { to, address } if *to == by && follows => address.clone(),
                _ => continue,
            };
            // The grant lies before it, and the slot has no record after that.
            let role_lsn = self.log().watermark().synced().lsn;
            (cell.role, cell.role_lsn, cell.force) = (Role::Moved { to: address }, role_lsn, false);
            self.unsaved_roles().insert(slot);
            moved.push(slot);
        }
        self.role_changes().notify();
        moved
    }

    /// Takes a granted slot back: its new owner durably refused it, or an operator forces it. A new epoch begins.
    ///
    /// # Errors
    /// `Limit` if the slot was not granted.
    pub fn undo_grant(&self, slot: Slot) -> Result<()> {
        let mut manifest = self.manifest();
        let granted = {
            let mut cell = self.lock(slot);
            if !matches!(cell.role, Role::Granted { .. }) {
                return Err(Error::Limit(format!("slot {slot} was not granted to anybody")));
            }
            // From here on an answer of its new owner comes too late.
            std::mem::replace(&mut cell.role, Role::Fenced)
        };
        self.begin_epochs(&mut manifest, &[slot]).inspect_err(|_| {
            let mut cell = self.lock(slot);
            // Where no epoch's record was appended nothing has changed.
            if cell.role == Role::Fenced && cell.granted.is_some() {
                cell.role = granted;
            }
        })
    }

    /// Stops following where the slot went to somebody else: never writable, until it is removed or follows again.
    ///
    /// # Errors
    /// `Limit` if a slot neither was moved nor has learned of a grant to another node.
    pub fn detach(&self, slots: &[Slot]) -> Result<()> {
        let mut manifest = self.manifest();
        for slot in distinct(slots) {
            let to = {
                let cell = self.lock(slot);
                match (&cell.role, &cell.granted) {
                    (Role::Moved { .. }, _) => continue,
                    (Role::Replica { .. }, Some((to, address))) if *to != self.node() => address.clone(),
                    _ => {
                        return Err(Error::Limit(format!("slot {slot} was not handed over to another node")));
                    }
                }
            };
            self.move_away(&mut manifest, slot, &to)?;
        }
        Ok(())
    }

    fn move_away(&self, manifest: &mut Manifest, slot: Slot, to: &str) -> Result<()> {
        let role_lsn = self.durable_end()?;
        let mut meta = self.lock(slot).meta();
        meta.state = SlotState::Moved { to: to.to_owned() };
        meta.force = false;
        meta.role_lsn = role_lsn;
        self.apply(manifest, &edits(&[(slot, meta.clone())]))?;
        self.publish_role(slot, &meta);
        self.role_changes().notify();
        Ok(())
    }

    /// A slot begins another life: what belonged to the former one goes with its last reader.
    pub(crate) fn replace_cell(&self, slot: Slot, fresh: SlotCell) {
        let old = {
            let mut cell = self.lock(slot);
            self.account_memtable(cell.memory_bytes(), 0);
            let life = cell.life + 1;
            self.another_life();
            std::mem::replace(&mut *cell, SlotCell { life, ..fresh })
        };
        self.packs().release(&old.version.metas());
    }

    /// Makes a step durable. `ReadOnly` (no space) has changed nothing; after any other failure what the disk holds
    /// is unknown, and nothing may be acknowledged any more.
    ///
    /// With it the manifest learns how far the log is synced: what lies there is promised from now on, also if no frame
    /// of the log follows.
    pub(crate) fn apply(&self, manifest: &mut Manifest, edits: &[Edit]) -> Result<()> {
        let synced = self.log().watermark().synced().lsn;
        let mut edits = edits.to_vec();
        if synced > manifest.state().log_synced {
            edits.push(Edit::LogSynced(synced));
        }
        let before = incoming(manifest, &edits);
        manifest.apply(&edits).inspect_err(|error| {
            if !matches!(error, Error::ReadOnly(_)) {
                self.poison(error);
            }
        })?;
        let after = incoming(manifest, &edits);
        after.difference(&before).for_each(|file| self.packs().hold(*file));
        before.difference(&after).for_each(|file| self.packs().let_go(*file));
        Ok(())
    }

    /// Lets go of runs that an edit should have brought. Where it is not known whether the disk has the edit, they stay:
    /// a start may find it there, and then it needs them.
    pub(crate) fn give_up(&self, runs: &[RunMeta], error: &Error) {
        if !matches!(error, Error::Poisoned(_)) {
            self.packs().release(runs);
        }
    }

    fn publish_role(&self, slot: Slot, meta: &SlotMeta) {
        let mut cell = self.lock(slot);
        cell.role = Role::from_state(&meta.state);
        cell.role_lsn = meta.role_lsn;
        cell.force = meta.force;
    }

    /// A position that everything written so far lies before and that the log does not fall behind when the power
    /// is lost: records of a slot's next life must never come to lie before the position where that life begins.
    pub(crate) fn durable_end(&self) -> Result<Lsn> {
        self.log().write()?;
        self.log().sync()?;
        Ok(self.log().watermark().synced().lsn)
    }

    /// A replica's slot time is its master's: it grows to what the master says.
    pub fn set_slot_time(&self, slot: Slot, time: TimeMs) {
        let mut cell = self.lock(slot);
        if matches!(cell.role, Role::Replica { .. } | Role::Loading { .. }) {
            cell.time = cell.time.max(time);
        }
    }
}

fn distinct(slots: &[Slot]) -> Vec<Slot> {
    slots.iter().copied().collect::<BTreeSet<_>>().into_iter().collect()
}

/// A change of a slot's runs.
pub(crate) fn edit_runs(slot: Slot, add: &[RunMeta], remove: &[RunMeta]) -> Edit {
    let remove = remove.iter().map(|run| (run.file, run.offset)).collect();
    Edit::Runs { slot, add: add.to_vec(), remove }
}

pub(crate) fn edits(metas: &[(Slot, SlotMeta)]) -> Vec<Edit> {
    metas.iter().map(|(slot, meta)| Edit::Slot(*slot, Box::new(meta.clone()))).collect()
}

/// The files of copies that are not whole, of the slots that these edits are about.
fn incoming(manifest: &Manifest, edits: &[Edit]) -> BTreeSet<FileNo> {
    let slots = edits.iter().filter_map(|edit| match edit {
        Edit::Slot(slot, _) | Edit::Incoming(slot, _) => manifest.state().slots.get(slot),
        _ => None,
    });
    slots.filter_map(|entry| entry.incoming.as_ref()).map(|incoming| incoming.file).collect()
}
