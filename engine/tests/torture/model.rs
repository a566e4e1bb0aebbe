//! What a slot must be: its records as a list of effects, and what is known to be written and synced of them.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use haypile_engine::history::{EpochStart, History};
use haypile_engine::slot::Role;
use haypile_engine::types::Slot;

/// A seeded source of decisions: SplitMix64.
#[derive(Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("below a usize")
    }
}

/// An effect on a slot's keys.
#[derive(Clone, Debug)]
pub enum Effect {
    Put { key: Vec<u8>, value: Value },
    Delete { key: Vec<u8> },
    PutElement { key: Vec<u8>, generation: u64, sub: Vec<u8>, value: Vec<u8> },
    DeleteElement { key: Vec<u8>, generation: u64, sub: Vec<u8> },
    Clear,
}

/// What stands at a key.
#[derive(Clone, PartialEq, Eq)]
pub struct Value {
    pub payload: Vec<u8>,
    pub expiry: Option<u64>,
    pub generation: Option<u64>,
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(&self.payload[..self.payload.len().min(1)]);
        write!(f, "{text}x{} until {:?} of {:?}", self.payload.len(), self.expiry, self.generation)
    }
}

/// One record of a slot.
#[derive(Clone, Debug)]
pub enum Record {
    Batch(Vec<Effect>),
    /// An epoch's start.
    Epoch,
    /// To the node with this index.
    Grant(usize),
}

type Elements = BTreeMap<Vec<u8>, Vec<u8>>;

/// A slot's keys, expired ones included, with the elements of large collections.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct State(pub BTreeMap<Vec<u8>, (Value, Elements)>);

impl State {
    pub fn take(&mut self, effect: &Effect) {
        match effect {
            Effect::Put { key, value } => {
                let elements = match self.0.remove(key) {
                    Some((old, elements)) if old.generation == value.generation => elements,
                    _ => Elements::new(),
                };
                self.0.insert(key.clone(), (value.clone(), elements));
            }
            Effect::Delete { key } => drop(self.0.remove(key)),
            Effect::PutElement { key, generation, sub, value } => {
                if let Some((owner, elements)) = self.0.get_mut(key)
                    && owner.generation == Some(*generation)
                {
                    elements.insert(sub.clone(), value.clone());
                }
            }
            Effect::DeleteElement { key, generation, sub } => {
                if let Some((owner, elements)) = self.0.get_mut(key)
                    && owner.generation == Some(*generation)
                {
                    elements.remove(sub);
                }
            }
            Effect::Clear => self.0.clear(),
        }
    }

    fn apply(&mut self, record: &Record) {
        if let Record::Batch(effects) = record {
            effects.iter().for_each(|effect| self.take(effect));
        }
    }
}

/// What a node has to be to a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Is {
    Absent,
    Master,
    Fenced,
    Granted,
    Moved,
    Replica,
    Loading,
}

impl Is {
    pub fn of(role: &Role) -> Is {
        match role {
            Role::Absent => Is::Absent,
            Role::Master => Is::Master,
            Role::Owed => unreachable!("these engines begin their epochs at once"),
            Role::Fenced => Is::Fenced,
            Role::Granted { .. } => Is::Granted,
            Role::Moved { .. } => Is::Moved,
            Role::Replica { .. } => Is::Replica,
            Role::Loading { .. } => Is::Loading,
        }
    }
}

/// A slot of a node.
#[derive(Clone, Debug)]
pub struct Model {
    pub is: Is,
    /// Which life of the slot, of all in a run.
    pub life: u64,
    pub base_seq: u64,
    base: State,
    /// The records after `base_seq`.
    records: Vec<Record>,
    /// After all of them.
    pub state: State,
    /// Everything up to here was handed to the operating system.
    pub written: u64,
    /// Everything up to here is on the device.
    pub synced: u64,
    /// The epochs that were seen.
    pub starts: Vec<EpochStart>,
}

impl Model {
    pub fn absent() -> Model {
        Model::begin(Is::Absent, 0, 0, State::default(), &History::default())
    }

    /// A life that begins after `base_seq`; all before is durable.
    pub fn begin(is: Is, life: u64, base_seq: u64, base: State, history: &History) -> Model {
        Model {
            is,
            life,
            base_seq,
            state: base.clone(),
            base,
            records: Vec::new(),
            written: base_seq,
            synced: base_seq,
            starts: history.starts().to_vec(),
        }
    }

    pub fn last(&self) -> u64 {
        self.base_seq + self.records.len() as u64
    }

    pub fn push(&mut self, record: Record) {
        self.state.apply(&record);
        self.records.push(record);
    }

    pub fn record(&self, seq: u64) -> Option<&Record> {
        self.records.get(usize::try_from(seq.checked_sub(self.base_seq + 1)?).ok()?)
    }

    /// The state after the record `seq`; `None` if that is before this life's base.
    pub fn state_at(&self, seq: u64) -> Option<State> {
        let count = usize::try_from(seq.checked_sub(self.base_seq)?).ok()?;
        let mut state = self.base.clone();
        self.records.get(..count)?.iter().for_each(|record| state.apply(record));
        Some(state)
    }

    /// Forgets the records after `seq`.
    pub fn cut(&mut self, seq: u64) {
        self.state = self.state_at(seq).expect("a cut within the records");
        self.records.truncate(usize::try_from(seq - self.base_seq).expect("a count"));
        self.written = self.written.min(seq);
        self.synced = self.synced.min(seq);
        self.starts.retain(|start| start.first_seq.0 <= seq.max(1));
    }

    pub fn all_written(&mut self) {
        self.written = self.last();
    }

    pub fn all_synced(&mut self) {
        self.all_written();
        self.synced = self.last();
    }

    /// What may be left after a stop that loses what is not synced, or nothing that was written.
    pub fn survivors(&self, power_lost: bool) -> RangeInclusive<u64> {
        (if power_lost { self.synced } else { self.written })..=self.last()
    }

    /// What the node `me` must be after a restart that left the records up to `prefix`.
    pub fn is_after(&self, me: usize, prefix: u64) -> Is {
        let granted = match self.record(prefix) {
            Some(Record::Grant(to)) => Some(*to),
            _ => None,
        };
        match (self.is, granted) {
            (Is::Master | Is::Fenced | Is::Granted, Some(to)) if to != me => Is::Granted,
            (Is::Master | Is::Fenced | Is::Granted, _) => Is::Master,
            (Is::Replica, Some(to)) if to == me => Is::Master,
            (is, _) => is,
        }
    }
}

/// The name of a key: `{tag}number`.
pub fn name(tag: usize, number: u64) -> Vec<u8> {
    format!("{{t{tag}}}{number}").into_bytes()
}

pub fn slot_of_tag(tag: usize) -> Slot {
    Slot::of_key(&name(tag, 0))
}
