//! What goes wrong, and comes back: connections cut, nodes parted, stopped, killed, started, disks that fail.

use std::io::ErrorKind;

use haypile_engine::engine::SyncMode;
use haypile_engine::slot::Role;

use super::net::Pace;
use super::node::{ConnId, Node};
use super::world::World;
use super::{DISK, told};

impl World<'_> {
    pub(super) fn cut_something(&mut self) {
        let ids: Vec<ConnId> = self.conns.iter().filter(|(_, conn)| !conn.cut).map(|(id, _)| *id).collect();
        let Some(&id) = self.random.pick(&ids) else { return };
        let (to_server, to_client) = (self.random.below(6), self.random.below(6));
        self.note(|| format!("#{id} is cut"));
        self.conns.get_mut(&id).expect("it is there").cut(to_server, to_client);
    }

    /// How fast what two nodes send each other arrives.
    pub(super) fn pace(&self, one: usize, other: usize) -> Pace {
        self.paces.get(&(one.min(other), one.max(other))).copied().unwrap_or_default()
    }

    /// The link between two nodes becomes slow, or fast again: what is sent from now on, on connections that stand too.
    pub(super) fn slow_something(&mut self) {
        let (one, other) = (self.random.below(self.nodes.len()), self.random.below(self.nodes.len()));
        if one == other {
            return;
        }
        let pair = (one.min(other), one.max(other));
        let delay_ms_max = if self.random.chance(1, 4) { 3000 } else { 100 };
        let slow = Pace {
            delay_ms: self.random.below(delay_ms_max) as u64,
            bytes_per_ms: self.random.chance(1, 2).then(|| 1 + self.random.below(100) as u64),
        };
        let pace = if self.paces.remove(&pair).is_some() { Pace::default() } else { slow };
        if pace != Pace::default() {
            self.paces.insert(pair, pace);
        }
        for conn in self.conns.values_mut() {
            if (conn.client.min(conn.server), conn.client.max(conn.server)) == pair {
                conn.pace = pace;
            }
        }
        self.note(|| format!("between {one} and {other}: {pace:?}"));
    }

    /// Two nodes can't reach each other any more, or can again. Connections between them stay, for as long as both sides
    /// bear the silence.
    pub(super) fn part_something(&mut self) {
        let (one, other) = (self.random.below(self.nodes.len()), self.random.below(self.nodes.len()));
        if one == other {
            return;
        }
        let pair = (one.min(other), one.max(other));
        if !self.parted.remove(&pair) {
            self.parted.insert(pair);
        }
        let parted = self.parted(one, other);
        self.note(|| format!("{one} and {other} are parted: {parted}"));
    }

    /// Whether nothing gets from one node to the other.
    pub(super) fn parted(&self, one: usize, other: usize) -> bool {
        self.parted.contains(&(one.min(other), one.max(other)))
    }

    /// Who is stopped: often one that has something to lose.
    fn victim(&mut self) -> usize {
        if self.tails && self.random.chance(1, 2) {
            let owns = |node: &&Node<'_>| self.slots.iter().any(|slot| node.role(*slot) == Role::Master);
            let owners: Vec<usize> = self.nodes.iter().filter(owns).map(|node| node.index).collect();
            if let Some(&owner) = self.random.pick(&owners) {
                return owner;
            }
        }
        self.random.below(self.nodes.len())
    }

    pub(super) fn stop_something(&mut self) -> Result<(), String> {
        let node = self.victim();
        if self.nodes[node].running.is_none() || !self.arena.has_room() {
            return Ok(());
        }
        let how = self.random.below(5);
        match how {
            // One whose disk failed has nothing to stop in order.
            0 if !self.nodes[node].faulty => {
                let engine = self.nodes[node].engine().expect("it runs");
                engine.close().map_err(|error| format!("node {node} does not close: {}", told(&error)))?;
                self.note(|| format!("{node} stops"));
                self.nodes[node].fs = self.nodes[node].fs.restart();
            }
            1 if self.sync == SyncMode::Always => {
                self.doom(node);
                return Ok(());
            }
            2 if self.sync == SyncMode::Always => {
                let seed = self.random.next_u64();
                self.note(|| format!("{node} loses power"));
                self.nodes[node].fs = self.nodes[node].fs.crash(seed);
                self.nodes[node].unsure = true;
            }
            2 | 3 if self.tails => {
                let seed = self.random.next_u64();
                self.note(|| format!("{node} loses power, and what was not synced"));
                self.nodes[node].fs = self.nodes[node].fs.crash(seed);
                (self.nodes[node].unsure, self.nodes[node].lost_power) = (true, true);
            }
            _ => {
                self.note(|| format!("{node} is killed"));
                self.nodes[node].acknowledged = self.acknowledged_by(node);
                self.nodes[node].fs = self.nodes[node].fs.restart();
            }
        }
        self.end_of(node);
        Ok(())
    }

    /// A node's process is gone: so are its ends of all connections.
    pub(super) fn end_of(&mut self, node: usize) {
        self.nodes[node].running = None;
        self.doomed.remove(&node);
        let ids: Vec<ConnId> = self.conns.keys().copied().collect();
        for id in ids {
            let (to_server, to_client) = (self.random.below(6), self.random.below(6));
            let conn = self.conns.get_mut(&id).expect("it is there");
            if conn.client == node || conn.server == node {
                conn.cut(to_server, to_client);
                conn.client_open &= conn.client != node;
                conn.server_open &= conn.server != node;
            }
        }
        self.conns.retain(|_, conn| conn.client_open || conn.server_open);
    }

    pub(super) fn start_something(&mut self) -> Result<(), String> {
        let down: Vec<usize> =
            self.nodes.iter().filter(|node| node.running.is_none()).map(|node| node.index).collect();
        match self.random.pick(&down) {
            Some(&node) if self.arena.has_room() => self.start(node),
            _ => Ok(()),
        }
    }

    pub(super) fn start(&mut self, index: usize) -> Result<(), String> {
        let (seed, sync) = (self.setup.seed, self.sync);
        self.note(|| format!("{index} starts"));
        let retain_bytes = if self.keeps_log { 1 << 30 } else { 192 << 10 };
        self.nodes[index].start(self.arena, &self.now, seed, sync, retain_bytes, self.tails)?;
        self.check_acknowledged_by(index)?;
        for slot in self.slots.clone() {
            self.note_slot(index, slot);
        }
        self.begin_asking(index)
    }

    /// One of the next operations of a node's disk fails, or the disk is nearly full.
    pub(super) fn break_disk(&mut self, node: usize) {
        if self.nodes[node].running.is_none() || self.nodes[node].faulty {
            return;
        }
        let fs = self.nodes[node].fs.clone();
        let ahead = self.random.below(12) as u64;
        let how = self.random.below(3);
        // Nothing that was written is lost by it: what a sync that fails by half leaves is that of a loss of power, which
        // what a replica has said that it has need not outlast. The engine's own simulation has those.
        match how {
            0 => fs.set_capacity(Some(fs.used_bytes() + self.random.below(200_000) as u64)),
            1 => fs.fail_operation(fs.operations() + ahead, ErrorKind::StorageFull),
            _ => fs.fail_operation(fs.operations() + ahead, ErrorKind::Other),
        }
        (self.nodes[node].faulty, self.nodes[node].unsure) = (true, true);
        self.note(|| format!("{node}'s disk is about to fail ({how}, {ahead})"));
    }

    /// Whether that is the error of a disk that was told to fail.
    pub(super) fn is_fault(&self, wrong: &str) -> bool {
        wrong.contains(DISK) && self.nodes.iter().any(|node| node.faulty)
    }

    /// A disk failed: its node is ended sooner or later, and comes back with a disk that works.
    pub(super) fn meet_fault(&mut self, wrong: &str) {
        self.note(|| format!("met: {wrong}"));
        if self.random.chance(1, 2) {
            self.nodes.iter().filter(|node| node.faulty).for_each(|node| node.fs.set_capacity(None));
        } else {
            self.end_faulty();
        }
    }

    pub(super) fn end_faulty(&mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].faulty && self.nodes[node].running.is_some() && self.arena.has_room() {
                self.note(|| format!("{node} is killed, its disk failed"));
                self.nodes[node].acknowledged = self.acknowledged_by(node);
                self.nodes[node].fs.set_capacity(None);
                self.nodes[node].fs = self.nodes[node].fs.restart();
                self.end_of(node);
            }
        }
    }
}
