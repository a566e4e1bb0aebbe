//! What is done to an engine: a list of steps, drawn from a seed or from a fuzzer's bytes, written out as text.
//!
//! A step means something in every state: what it can't be done to is left out. So any of them can be taken out of a
//! list, and a story that shows a fault can be shortened.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::OnceLock;

use super::setup::{Besides, Setup};
use crate::background::Job;
use crate::engine::SyncMode;
use crate::key::Key;
use crate::random::Coin;
use crate::types::{SLOT_COUNT, Slot};

/// How many slots a workload uses.
pub const SLOTS: usize = 4;
/// How many keys in each, besides the one that counts.
pub const KEYS: u8 = 6;
/// The key that holds the number of the slot's last commit.
pub const NUMBER: u8 = 0;
/// How much room there is on a disk that runs full.
const FILL_BYTES: [u32; 7] = [0, 0, 100, 1000, 10_000, 70_000, 150_000];
/// How many elements a collection has at most.
pub const ELEMENTS: u8 = 4;

/// One of the workload's slots.
///
/// # Panics
/// If `index` is not below [`SLOTS`].
#[must_use]
pub fn slot(index: usize) -> Slot {
    const NUMBERS: [u16; SLOTS] = [0, 1, 511, 1023];
    Slot::new(NUMBERS[index]).expect("below 1024")
}

/// The first hash tag that leads to a slot.
///
/// # Panics
/// Never: every slot has a tag.
#[must_use]
pub fn tag(slot: Slot) -> u32 {
    static TAGS: OnceLock<Vec<u32>> = OnceLock::new();
    let all = TAGS.get_or_init(|| {
        let mut tags = BTreeMap::new();
        for tag in 0_u32.. {
            tags.entry(Slot::of_key(tag.to_string().as_bytes())).or_insert(tag);
            if tags.len() == usize::from(SLOT_COUNT) {
                break;
            }
        }
        tags.into_values().collect()
    });
    all[slot.index()]
}

/// A key of one of the workload's slots.
///
/// # Panics
/// If there is no such slot or key.
#[must_use]
pub fn key(index: usize, number: u8) -> &'static Key {
    static KEYS_OF: OnceLock<Vec<Vec<Key>>> = OnceLock::new();
    let all = KEYS_OF.get_or_init(|| {
        let keys_of = |index| {
            let tag = tag(slot(index));
            (0..=KEYS).map(|number| Key::new(format!("k{number}{{{tag}}}").as_bytes())).collect()
        };
        (0..SLOTS).map(keys_of).collect()
    });
    &all[index][usize::from(number)]
}

/// Where choices come from: a seed or a fuzzer's bytes.
pub trait Choices {
    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize;

    /// Whether there is more to choose: a seed never ends.
    fn more(&self) -> bool {
        true
    }
}

impl Choices for Coin {
    fn below(&mut self, bound: usize) -> usize {
        Coin::below(self, bound)
    }
}

/// Bytes as choices; when they are used up, every choice is the first.
impl Choices for &[u8] {
    fn below(&mut self, bound: usize) -> usize {
        let mut value = 0;
        let mut range = 1;
        while range < bound {
            let (byte, rest) = self.split_first().map_or((0, &[][..]), |(byte, rest)| (*byte, rest));
            *self = rest;
            value = value << 8 | usize::from(byte);
            range <<= 8;
        }
        value % bound
    }

    fn more(&self) -> bool {
        !self.is_empty()
    }
}

/// A value: its length, and what it is filled with. Half of all fillings compress, half do not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Payload {
    /// How many bytes.
    pub len: u32,
    /// The first of them, and what the others follow from; 0 if there is none.
    pub fill: u8,
}

impl Payload {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let len = usize::try_from(self.len).expect("a value lies in memory");
        if self.fill.is_multiple_of(2) {
            return vec![self.fill; len];
        }
        let mut coin = Coin::new(u64::from(self.fill));
        let mut bytes = Vec::with_capacity(len + 8);
        bytes.push(self.fill);
        while bytes.len() < len {
            bytes.extend_from_slice(&coin.next_u64().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// A change of one slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Sets a value.
    Put {
        /// At which key, 1 to [`KEYS`].
        key: u8,
        /// To what.
        payload: Payload,
        /// It expires so many milliseconds from then.
        expires_in_ms: Option<u32>,
    },
    /// Sets an element of the collection at a key; makes a new collection if there is none.
    PutElement {
        /// At which key.
        key: u8,
        /// Which element, below [`ELEMENTS`].
        element: u8,
        /// To what.
        payload: Payload,
    },
    /// Removes an element of the collection at a key, if there is one.
    DeleteElement {
        /// At which key.
        key: u8,
        /// Which element.
        element: u8,
    },
    /// Removes a key.
    Delete {
        /// Which one.
        key: u8,
    },
    /// Removes all keys.
    Clear,
}

/// Background work that makes a pack file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// A flush of all slots.
    Flush,
    /// A compaction, if there is anything to do.
    Compact,
}

/// One step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// One transaction over some slots: a record each, all or none.
    Commit(Vec<(usize, Vec<Change>)>),
    /// Reads a slot whole.
    Read(usize),
    /// Writes what was committed.
    Write,
    /// Writes it and runs the sync job.
    Sync,
    /// Flushes some slots.
    Flush(Vec<usize>),
    /// One step of background work.
    Background(Job),
    /// Adds slots.
    Add(Vec<usize>),
    /// Removes a slot.
    Remove(usize),
    /// Does background work; in its midst a slot is removed, if it is there, and added: another life of it begins.
    Renew {
        /// Which slot.
        slot: usize,
        /// In the midst of what.
        during: Work,
    },
    /// Lets milliseconds pass.
    Wait(u64),
    /// Makes a checkpoint of some slots, in the place of the one before.
    Checkpoint(Vec<usize>),
    /// Removes the checkpoint.
    Discard,
    /// Stops in order and starts again.
    Restart,
    /// The disk has room for so many bytes more, and no others.
    Fill(u32),
    /// The disk has room again.
    MakeRoom,
    /// Replies leave by another bound from now on, until the next start.
    SyncMode(SyncMode),
}

impl Step {
    /// A step by choice.
    pub fn choose(choices: &mut impl Choices, setup: &Setup) -> Step {
        if let Some(step) = Step::besides(choices, setup) {
            return step;
        }
        let one = choices.below(SLOTS);
        match choices.below(32) {
            0..=2 => Step::Write,
            3..=5 => Step::Sync,
            6 => Step::Flush(vec![one]),
            7 => Step::Flush((0..SLOTS).collect()),
            8 => Step::Background(Job::Compact),
            9 => Step::Background(Job::Prepare),
            10 => Step::Background(Job::Flush),
            11 => Step::Background(Job::Expire),
            12 => Step::Wait(choices.below(2000) as u64),
            13 => Step::Read(one),
            14 if choices.below(3) == 0 => Step::Remove(one),
            15 => Step::Add((0..SLOTS).filter(|index| *index == one || choices.below(2) == 0).collect()),
            16 if choices.below(4) == 0 => Step::Restart,
            17 if choices.below(3) == 0 => {
                Step::Checkpoint((0..SLOTS).filter(|index| *index == one || choices.below(4) != 0).collect())
            }
            18 if choices.below(2) == 0 => Step::Discard,
            19 if choices.below(2) == 0 => {
                let during = if choices.below(2) == 0 { Work::Flush } else { Work::Compact };
                Step::Renew { slot: one, during }
            }
            17..=20 => {
                let parts = (0..SLOTS).filter(|index| *index == one || choices.below(2) == 0);
                let slots: Vec<usize> = parts.collect();
                Step::Commit(slots.into_iter().map(|index| (index, changes(choices, setup))).collect())
            }
            _ => Step::Commit(vec![(one, changes(choices, setup))]),
        }
    }

    /// One of those that only some workloads have; these draw one choice more for each step.
    fn besides(choices: &mut impl Choices, setup: &Setup) -> Option<Step> {
        match setup.besides {
            Besides::Nothing => None,
            // From nothing to a segment and a file.
            Besides::FullDisk => match choices.below(24) {
                0 | 1 => Some(Step::Fill(FILL_BYTES[choices.below(FILL_BYTES.len())])),
                2 => Some(Step::MakeRoom),
                _ => None,
            },
            Besides::SyncModes => {
                let modes = [SyncMode::Always, SyncMode::EverySec, SyncMode::No];
                (choices.below(8) == 0).then(|| Step::SyncMode(modes[choices.below(modes.len())]))
            }
            Besides::Expiry => match choices.below(8) {
                0 => Some(Step::Wait(choices.below(1000) as u64)),
                1 | 2 => Some(Step::Read(choices.below(SLOTS))),
                3 => Some(Step::Commit(vec![(choices.below(SLOTS), vec![short_lived(choices, setup)])])),
                _ => None,
            },
        }
    }

    /// The steps of a workload: as many as the setup has, or as the choices last for.
    pub fn list(choices: &mut impl Choices, setup: &Setup) -> Vec<Step> {
        let mut steps = vec![Step::Add((0..SLOTS).collect())];
        while steps.len() < setup.steps && choices.more() {
            steps.push(Step::choose(choices, setup));
        }
        steps
    }
}

fn changes(choices: &mut impl Choices, setup: &Setup) -> Vec<Change> {
    (0..choices.below(3) + 1).map(|_| change(choices, setup)).collect()
}

fn change(choices: &mut impl Choices, setup: &Setup) -> Change {
    let key = 1 + u8::try_from(choices.below(usize::from(KEYS))).expect("a small number");
    let element = u8::try_from(choices.below(usize::from(ELEMENTS))).expect("a small number");
    match choices.below(24) {
        0 => Change::Clear,
        1..=4 => Change::Delete { key },
        5..=9 => Change::PutElement { key, element, payload: payload(choices, setup.value_bytes_max / 4) },
        10 | 11 => Change::DeleteElement { key, element },
        12..=14 => Change::Put {
            key,
            payload: payload(choices, setup.value_bytes_max),
            expires_in_ms: Some(u32::try_from(1 + choices.below(3000)).expect("a small number")),
        },
        _ => Change::Put { key, payload: payload(choices, setup.value_bytes_max), expires_in_ms: None },
    }
}

/// A value that has expired before long.
fn short_lived(choices: &mut impl Choices, setup: &Setup) -> Change {
    let key = 1 + u8::try_from(choices.below(usize::from(KEYS))).expect("a small number");
    let lives_ms = u32::try_from(1 + choices.below(500)).expect("a small number");
    Change::Put { key, payload: payload(choices, setup.value_bytes_max), expires_in_ms: Some(lives_ms) }
}

fn payload(choices: &mut impl Choices, bytes_max: usize) -> Payload {
    // Most values are short, some have any length.
    let bound = if choices.below(3) == 0 { bytes_max + 1 } else { bytes_max / 16 + 2 };
    let len = u32::try_from(choices.below(bound)).expect("a value's length");
    let fill = u8::try_from(choices.below(256)).expect("a byte");
    Payload { len, fill: if len == 0 { 0 } else { fill } }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{:02x}", self.len, self.fill)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Put { key, payload, expires_in_ms: None } => write!(f, "k{key}={payload}"),
            Change::Put { key, payload, expires_in_ms: Some(ms) } => {
                write!(f, "k{key}={payload} for {ms} ms")
            }
            Change::PutElement { key, element, payload } => write!(f, "k{key}[{element}]={payload}"),
            Change::DeleteElement { key, element } => write!(f, "del k{key}[{element}]"),
            Change::Delete { key } => write!(f, "del k{key}"),
            Change::Clear => f.write_str("clear"),
        }
    }
}

fn joined<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |slots: &[usize]| joined(slots.iter().map(|&index| slot(index)));
        match self {
            Step::Commit(parts) => {
                let part = |(index, changes): &(usize, Vec<Change>)| {
                    format!("slot {}: {}", slot(*index), joined(changes))
                };
                write!(f, "commit {}", parts.iter().map(part).collect::<Vec<_>>().join("; "))
            }
            Step::Read(index) => write!(f, "read slot {}", slot(*index)),
            Step::Write => f.write_str("write"),
            Step::Sync => f.write_str("write, sync"),
            Step::Flush(slots) => write!(f, "flush slots {}", names(slots)),
            Step::Background(job) => write!(f, "run job {job:?}"),
            Step::Add(slots) => write!(f, "add slots {}", names(slots)),
            Step::Remove(index) => write!(f, "remove slot {}", slot(*index)),
            Step::Renew { slot: index, during } => {
                write!(f, "{during:?}, and meanwhile remove slot {0} and add slot {0}", slot(*index))
            }
            Step::Wait(ms) => write!(f, "wait {ms} ms"),
            Step::Checkpoint(slots) => write!(f, "make a checkpoint of slots {}", names(slots)),
            Step::Discard => f.write_str("remove the checkpoint"),
            Step::Restart => f.write_str("stop in order, start"),
            Step::Fill(bytes) => write!(f, "the disk has room for {bytes} bytes more"),
            Step::MakeRoom => f.write_str("the disk has room again"),
            Step::SyncMode(mode) => write!(f, "sync mode {mode:?}"),
        }
    }
}
