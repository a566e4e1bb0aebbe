//! Power that goes in the midst of a sync. A sync takes time: other threads of the node answer meanwhile, and what they
//! say gets out before the power goes.

use std::sync::{Arc, Mutex};

use haypile_engine::random::Coin;
use haypile_engine::roles::GrantFate;
use haypile_engine::types::{Epoch, Slot};
use haypile_replication::grants::{self, Asked};

use super::node::address;
use super::world::World;

/// What is known of a node whose power is about to go.
#[derive(Debug, Default)]
struct Meanwhile {
    gone: bool,
    /// Which nodes heard from it that slots which they had granted were taken.
    heard: Vec<(usize, Slot, Epoch)>,
}

impl World<'_> {
    /// One of the next syncs of a node's log does not end.
    pub(super) fn doom(&mut self, node: usize) {
        self.note(|| format!("{node} is about to lose power in the midst of a sync"));
        self.doomed.insert(node);
    }

    /// Does a step in which the power of doomed nodes may go.
    pub(super) fn while_power_lasts(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        let doomed: Vec<usize> = self.doomed.iter().copied().collect();
        let watched: Vec<_> = doomed.iter().filter_map(|&node| Some((node, self.watch(node)?))).collect();
        let mut done = step(self);
        for (node, meanwhile) in watched {
            self.nodes[node].fs.during_no_sync();
            let Meanwhile { gone, heard } = std::mem::take(&mut *meanwhile.lock().expect("no panic"));
            if !gone {
                continue;
            }
            // Whatever failed in this step failed for want of power.
            done = Ok(());
            let from = self.nodes[node].engine().expect("it ran").node();
            for (owner, slot, epoch) in heard {
                let Some(engine) = self.nodes[owner].engine() else { continue };
                grants::taken(engine, from, &[(slot, epoch)]);
                self.note(|| format!("{owner} hears meanwhile that {epoch} of slot {slot} began"));
            }
            let seed = self.random.next_u64();
            self.note(|| format!("{node} loses power in the midst of a sync"));
            self.nodes[node].fs = self.nodes[node].fs.crash(seed);
            self.nodes[node].unsure = true;
            self.end_of(node);
        }
        done
    }

    /// Lets the others ask about their grants in the midst of each sync of a node's log, and its power go in one of those
    /// in which it could tell something.
    fn watch(&mut self, node: usize) -> Option<Arc<Mutex<Meanwhile>>> {
        let running = self.nodes[node].running.as_ref().filter(|_| self.arena.has_room())?;
        let (engine, registry) = (Arc::clone(running.engine), Arc::clone(&running.registry));
        let others = self.nodes.iter().filter(|other| other.index != node);
        let others: Vec<_> =
            others.filter_map(|other| Some((other.index, Arc::clone(other.engine()?)))).collect();
        let meanwhile = Arc::<Mutex<Meanwhile>>::default();
        let (fs, seen) = (self.nodes[node].fs.clone(), Arc::clone(&meanwhile));
        let mut coin = Coin::new(self.random.next_u64());
        fs.clone().during_syncs("/haypile/log".as_ref(), move || {
            let mut seen = seen.lock().expect("no panic");
            if seen.gone {
                return;
            }
            seen.gone = coin.chance(1, 8);
            for (index, other) in &others {
                for grant in grants::open(other).into_iter().filter(|grant| grant.to == engine.node()) {
                    // Any other answer waits until the change of role that syncs is over.
                    let GrantFate::Taken(epoch) = engine.grant_fate(grant.slot, grant.ended) else {
                        continue;
                    };
                    seen.gone = true;
                    let by = (other.node(), &*address(*index));
                    let asked = Asked { by, slot: grant.slot, ended: grant.ended, seq: grant.seq };
                    let answer = grants::answer(&engine, &registry, asked);
                    if answer.and_then(|answer| answer.may_leave(&engine)).unwrap_or(false) {
                        seen.heard.push((*index, grant.slot, epoch));
                    }
                }
            }
            if seen.gone {
                fs.stop_at(fs.operations());
            }
        });
        Some(meanwhile)
    }
}
