//! One lane's operations, one after the other, in buffers that are used again.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use haypile_engine::random::Coin;

use super::below;
use super::choose::{Chooser, Zipf};
use super::keys::{Keys, Shuffle, Space, write_digits};
use super::mixgraph::{self, MixGraph, Turn};
use super::operation::{KeyList, Kind, Operation, PairList};
use super::values::{Sizes, Values};
use super::workload::{Action, Workload};
use crate::error::Result;
use crate::plan::{Plan, SlotSpread};

/// Digits of fields and members.
const FIELD_BYTES: usize = 12;

/// Entries that a walk's turn reads.
const WALK_ENTRIES: usize = 1000;

/// What the lanes of a run share.
#[derive(Debug)]
pub struct Load {
    plan: Plan,
    workload: &'static Workload,
    keys: Keys,
    values: Values,
    chooser: Chooser,
    hot_slots: Option<Zipf>,
    shuffle: Shuffle,
    mixgraph: MixGraph,
    /// Numbers below it were put, or are about to be: a lane that inserts takes the next. Nothing else is ordered by it.
    inserted: AtomicU64,
}

impl Load {
    /// The load of a run. `inserted` is how many keys there are before it, [`Load::inserted`] of the run before or the
    /// plan's keys.
    ///
    /// # Errors
    /// If keys of the wanted length can't hold their numbers.
    pub fn new(plan: &Plan, workload: &'static Workload, inserted: u64) -> Result<Arc<Load>> {
        let keys = Keys::new(plan.key_bytes, plan.keys, plan.slots, plan.tagged)?;
        let hot_slots = match plan.slot_spread {
            SlotSpread::Uniform => None,
            SlotSpread::Zipfian(theta) => Some(Zipf::new(keys.ranges(), theta)),
        };
        let value_max = match plan.value {
            Sizes::Fixed(_) if workload.name == "mixgraph" => mixgraph::VALUE_BYTES_MAX,
            sizes => sizes.max(),
        };
        Ok(Arc::new(Load {
            plan: plan.clone(),
            workload,
            keys,
            values: Values::new(value_max, plan.ratio, plan.seed),
            chooser: Chooser::new(plan.distribution, inserted),
            hot_slots,
            shuffle: Shuffle::new(plan.keys, plan.seed),
            mixgraph: MixGraph::new(plan.keys),
            inserted: AtomicU64::new(inserted),
        }))
    }

    /// How many keys were put by now.
    #[must_use]
    pub fn inserted(&self) -> u64 {
        self.inserted.load(Ordering::Relaxed)
    }

    /// The settings.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }
}

/// See the file's head.
#[derive(Debug)]
pub struct Generator {
    load: Arc<Load>,
    coin: Coin,
    values: Values,
    /// A fill's places that are left to this lane.
    places: Range<u64>,
    mix: &'static [(u32, Action)],
    key: Vec<u8>,
    field: [u8; FIELD_BYTES],
    batch_keys: Vec<u8>,
    batch_values: Vec<Range<usize>>,
}

impl Generator {
    /// The operations of one of `lanes` lanes.
    #[must_use]
    pub fn new(load: &Arc<Load>, lane: usize, lanes: usize) -> Generator {
        let (lane, lanes) = (lane as u64, lanes as u64);
        let keys = load.plan.keys;
        let share = |lane: u64| {
            let border = u128::from(keys) * u128::from(lane) / u128::from(lanes);
            u64::try_from(border).expect("a part of the keys")
        };
        let mut coin = Coin::new(load.plan.seed ^ (lane + 1).wrapping_mul(0xd6e8_feb8_6659_fd93));
        let place = usize::try_from(coin.next_u64() >> 32).expect("32 bits");
        Generator {
            values: load.values.from_place(place),
            coin,
            places: share(lane)..share(lane + 1),
            mix: load.workload.mix,
            key: vec![0; load.keys.bytes()],
            field: [0; FIELD_BYTES],
            batch_keys: Vec::new(),
            batch_values: Vec::new(),
            load: Arc::clone(load),
        }
    }

    /// The operations of a writer beside the measured lanes.
    #[must_use]
    pub fn writer(load: &Arc<Load>, lane: usize) -> Generator {
        Generator { mix: &[(100, Action::Put)], ..Generator::new(load, lane, lane + 1) }
    }

    /// The next operation, and what it counts as; `None` once a fill has put every key of this lane.
    pub fn make(&mut self) -> Option<(Kind, Operation<'_>)> {
        let action = self.action();
        let operation = match action {
            Action::FillInOrder => {
                let number = self.places.next()?;
                self.put_at(number)
            }
            Action::FillShuffled => {
                let number = self.load.shuffle.at(self.places.next()?);
                self.put_at(number)
            }
            Action::FillBatch => {
                let end = self.places.end.min(self.places.start + self.load.plan.batch as u64);
                let places = self.places.start..end;
                self.places.start = end;
                if places.is_empty() {
                    return None;
                }
                let shuffle = self.load.shuffle;
                self.batch(places.map(|place| shuffle.at(place)))
            }
            Action::Insert => {
                let number = self.load.inserted.fetch_add(1, Ordering::Relaxed);
                return Some((Kind::Insert, self.put_at(number)));
            }
            Action::MixGraph => self.mixgraph(),
            Action::PutBatch => {
                let (load, mut coin) = (Arc::clone(&self.load), self.coin.clone());
                let batch = load.plan.batch as u64;
                self.coin = Coin::new(self.coin.next_u64());
                self.batch((0..batch).map(|_| choose(&load, &mut coin)))
            }
            Action::MultiGet => {
                self.batch_keys.clear();
                for _ in 0..self.load.plan.batch {
                    let number = choose(&self.load, &mut self.coin);
                    self.load.keys.write(&mut self.key, number, Space::Plain);
                    self.batch_keys.extend_from_slice(&self.key);
                }
                Operation::MultiGet(KeyList::new(&self.batch_keys, self.load.keys.bytes()))
            }
            Action::Walk => Operation::Walk(WALK_ENTRIES),
            _ => {
                let number = choose(&self.load, &mut self.coin);
                self.on(action, number)
            }
        };
        Some((operation.kind(), operation))
    }

    fn action(&mut self) -> Action {
        let [(_, only)] = self.mix else {
            let mut left = below(self.coin.next_u64(), 100);
            for &(share, action) in self.mix {
                match left.checked_sub(u64::from(share)) {
                    None => return action,
                    Some(less) => left = less,
                }
            }
            return self.mix.last().expect("a workload does something").1;
        };
        *only
    }

    /// What is done with a chosen key.
    fn on(&mut self, action: Action, number: u64) -> Operation<'_> {
        let plan = &self.load.plan;
        // Collections lie as far apart as their count allows, so that they fall in different slots.
        let apart = (plan.keys / plan.collections).max(1);
        let (space, number) = match action {
            Action::Increment => (Space::Counter, number),
            Action::HashSet { fields } => (Space::Hash, number / fields * fields),
            Action::ListPush | Action::ListPop => (Space::List, number / apart * apart),
            Action::SortedSetAdd => (Space::SortedSet, number / apart * apart),
            _ => (Space::Plain, number),
        };
        self.load.keys.write(&mut self.key, number, space);
        match action {
            Action::Get => Operation::Get(&self.key),
            Action::GetMissing => {
                self.load.keys.make_missing(&mut self.key);
                Operation::Get(&self.key)
            }
            Action::Delete => Operation::Delete(&self.key),
            Action::Scan => Operation::Scan(&self.key, self.load.plan.scan),
            Action::ScanUpTo => {
                let more = below(self.coin.next_u64(), self.load.plan.scan as u64);
                Operation::Scan(&self.key, 1 + usize::try_from(more).unwrap_or_default())
            }
            Action::Increment => Operation::Increment(&self.key),
            Action::ListPop => Operation::ListPop(&self.key),
            Action::SortedSetAdd => {
                let score = below(self.coin.next_u64(), self.load.plan.keys);
                write_digits(&mut self.field, below(self.coin.next_u64(), self.load.plan.keys));
                Operation::SortedSetAdd(&self.key, score, &self.field)
            }
            _ => {
                let place = self.values.next(self.load.plan.value.pick(&mut self.coin));
                let value = &self.values.data()[place];
                match action {
                    Action::ReadModifyWrite => Operation::ReadModifyWrite(&self.key, value),
                    Action::ListPush => Operation::ListPush(&self.key, value),
                    Action::PutExpiring => {
                        Operation::PutExpiring(&self.key, value, 50 + below(self.coin.next_u64(), 951))
                    }
                    Action::HashSet { fields } => {
                        write_digits(&mut self.field, below(self.coin.next_u64(), fields));
                        Operation::HashSet(&self.key, &self.field, value)
                    }
                    _ => Operation::Put(&self.key, value),
                }
            }
        }
    }

    fn put_at(&mut self, number: u64) -> Operation<'_> {
        self.load.keys.write(&mut self.key, number, Space::Plain);
        let place = self.values.next(self.load.plan.value.pick(&mut self.coin));
        Operation::Put(&self.key, &self.values.data()[place])
    }

    fn batch(&mut self, numbers: impl Iterator<Item = u64>) -> Operation<'_> {
        self.batch_keys.clear();
        self.batch_values.clear();
        for number in numbers {
            self.load.keys.write(&mut self.key, number, Space::Plain);
            self.batch_keys.extend_from_slice(&self.key);
            self.batch_values.push(self.values.next(self.load.plan.value.pick(&mut self.coin)));
        }
        let keys = KeyList::new(&self.batch_keys, self.load.keys.bytes());
        Operation::Batch(PairList { keys, data: self.values.data(), values: &self.batch_values })
    }

    fn mixgraph(&mut self) -> Operation<'_> {
        let number = self.load.mixgraph.key(&mut self.coin);
        self.load.keys.write(&mut self.key, number, Space::Plain);
        match MixGraph::turn(&mut self.coin) {
            Turn::Get => Operation::Get(&self.key),
            Turn::Put(bytes) => {
                let place = self.values.next(bytes);
                Operation::Put(&self.key, &self.values.data()[place])
            }
            Turn::Scan(entries) => Operation::Scan(&self.key, entries),
        }
    }
}

/// The number of a key by the plan's popularity of keys and slots.
fn choose(load: &Load, coin: &mut Coin) -> u64 {
    let count = load.inserted.load(Ordering::Relaxed);
    let picked = load.chooser.pick(coin, count);
    match &load.hot_slots {
        None => picked,
        Some(zipf) => load.keys.within(zipf.rank(coin.next_u64()), picked),
    }
}
