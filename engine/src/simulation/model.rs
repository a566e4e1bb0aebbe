//! What an engine promised, beside what it was told: the states that each slot may be in after a stop.
//!
//! Every commit leaves its number in its slots, so that a recovered slot says itself which state it is in. For each slot the
//! model keeps all states since the newest that is promised to survive a loss of power; after a stop the slot must
//! be in one of them in all respects: no hole, no half record, no half group, nothing that was dropped.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::violation::Violation;
use super::workload::{Change, NUMBER, Payload, SLOTS, slot};
use crate::clock::TimeMs;

/// What stands at a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Held {
    /// A value.
    Whole(Payload, Option<TimeMs>),
    /// A collection's elements.
    Collection(BTreeMap<u8, Payload>),
    /// The number of the slot's last commit.
    Number(u64),
}

impl Held {
    fn expiry(&self) -> Option<TimeMs> {
        match self {
            Held::Whole(_, expiry) => *expiry,
            Held::Collection(_) | Held::Number(_) => None,
        }
    }

    fn is_visible(&self, now: TimeMs) -> bool {
        self.expiry().is_none_or(|at| at > now)
    }
}

/// What a slot holds, by the number of the key.
pub type Content = BTreeMap<u8, Held>;

/// A state of a slot: `None` is "not on this node".
pub type State = Option<Arc<Content>>;

/// How the machine stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stopped {
    /// The process was killed: the operating system keeps what was written.
    Killed,
    /// Power was lost: what was not synced may be gone.
    PowerLost,
}

#[derive(Clone, Debug)]
struct Version {
    /// The number of the event that led to it; of all slots together they ascend.
    number: u64,
    state: State,
    /// The event was a commit in several slots.
    group: bool,
    /// The event by which the slot was added or removed last.
    life: u64,
}

/// What had expired by a time was hidden from somebody, in one life of a slot: it must not be seen there again.
#[derive(Clone, Copy, Debug, Default)]
struct Hidden {
    life: u64,
    /// After a kill the slot's time is this at least, and after a loss of power this.
    killed: TimeMs,
    power_lost: TimeMs,
}

impl Hidden {
    fn by(self, stopped: Stopped) -> TimeMs {
        match stopped {
            Stopped::Killed => self.killed,
            Stopped::PowerLost => self.power_lost,
        }
    }
}

/// What an engine was told and has promised. See the file's head.
#[derive(Clone, Debug)]
pub struct Model {
    /// Of each slot the states that it may be in, oldest first; never empty.
    slots: Vec<Vec<Version>>,
    hidden: Vec<Hidden>,
    events: u64,
    /// The last event that survives a kill, and the last that survives a loss of power.
    killed: u64,
    power_lost: u64,
}

impl Default for Model {
    fn default() -> Model {
        let nothing = Version { number: 0, state: None, group: false, life: 0 };
        let (slots, hidden) = (vec![vec![nothing]; SLOTS], vec![Hidden::default(); SLOTS]);
        Model { slots, hidden, events: 0, killed: 0, power_lost: 0 }
    }
}

impl Model {
    fn last(&self, index: usize) -> &Version {
        self.slots[index].last().expect("a slot is always in some state")
    }

    /// The slot as it is while nothing stops; `None` if it is not there.
    #[must_use]
    pub fn content(&self, index: usize) -> Option<&Arc<Content>> {
        self.last(index).state.as_ref()
    }

    /// The number of the last event.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The number of the last event that changed a slot.
    #[must_use]
    pub fn last_event(&self, index: usize) -> u64 {
        self.last(index).number
    }

    /// Of what the slot would hold, the last expiry that has come by `now`.
    #[must_use]
    pub fn last_hidden(&self, index: usize, now: TimeMs) -> Option<TimeMs> {
        let content = self.content(index)?;
        content.values().filter(|held| !held.is_visible(now)).filter_map(Held::expiry).max()
    }

    /// A reply has left that does not tell of what had expired by then, as the slot was after this event: that it is not
    /// seen again survives such a stop.
    pub fn hid(&mut self, index: usize, expiry: TimeMs, event: u64, stop: Stopped) {
        let life = self.last(index).life;
        // It tells of a life that ended before it left.
        if event < life {
            return;
        }
        let hidden = &mut self.hidden[index];
        if hidden.life != life {
            *hidden = Hidden { life, ..Hidden::default() };
        }
        hidden.killed = hidden.killed.max(expiry);
        if stop == Stopped::PowerLost {
            hidden.power_lost = hidden.power_lost.max(expiry);
        }
    }

    /// Everything survives a loss of power.
    pub fn survives_all(&mut self) {
        self.survives(Stopped::PowerLost, self.events);
        self.hidden.iter_mut().for_each(|hidden| hidden.power_lost = hidden.killed);
    }

    /// A transaction was committed: the slots and what they hold after it.
    pub fn committed(&mut self, after: Vec<(usize, Content)>) {
        self.events += 1;
        let group = after.len() > 1;
        for (index, content) in after {
            let (state, life) = (Some(Arc::new(content)), self.last(index).life);
            self.slots[index].push(Version { number: self.events, state, group, life });
        }
    }

    /// A slot is being added (empty) or removed; until it is said to be done or undone it may be in either state.
    pub fn changing(&mut self, slots: &[usize], state: &State) {
        self.events += 1;
        for &index in slots {
            let (number, state) = (self.events, state.clone());
            self.slots[index].push(Version { number, state, group: false, life: number });
        }
    }

    /// What was being changed is changed, durably.
    pub fn changed(&mut self, slots: &[usize]) {
        for &index in slots {
            let past = &mut self.slots[index];
            past.drain(..past.len() - 1);
        }
    }

    /// What was being changed is as it was.
    pub fn unchanged(&mut self, slots: &[usize]) {
        for &index in slots {
            self.slots[index].pop();
        }
    }

    /// All events up to this one survive such a stop.
    pub fn survives(&mut self, stop: Stopped, event: u64) {
        self.killed = self.killed.max(event);
        if stop == Stopped::Killed {
            return;
        }
        self.power_lost = self.power_lost.max(event);
        for past in &mut self.slots {
            let promised = past.iter().rposition(|version| version.number <= event).unwrap_or(0);
            past.drain(..promised);
        }
    }

    /// Checks what was found after a stop (of each slot its state and its time), and takes it as the new truth.
    ///
    /// # Errors
    /// The promise that is broken.
    pub fn recovered(&mut self, found: &[(State, TimeMs)], stopped: Stopped) -> Result<(), Violation> {
        let promised = match stopped {
            Stopped::Killed => self.killed,
            Stopped::PowerLost => self.power_lost,
        };
        let mut places = Vec::with_capacity(SLOTS);
        for (index, (state, now)) in found.iter().enumerate() {
            let past = &self.slots[index];
            let Some(place) = past.iter().rposition(|version| is_seen_as(&version.state, state, *now)) else {
                return Err(Violation::new(format!(
                    "slot {} is in a state that it never had, or not since what is promised.\n    found: {}\n    \
                     allowed:{}",
                    slot(index),
                    Shown(state),
                    past.iter().rev().map(|version| version.to_string()).collect::<String>(),
                )));
            };
            let floor = past.iter().rposition(|version| version.number <= promised).unwrap_or(0);
            if place < floor {
                return Err(Violation::new(format!(
                    "slot {} lost what was promised: it is as event {} left it, {} is promised{}",
                    slot(index),
                    past[place].number,
                    past[floor].number,
                    if stopped == Stopped::Killed { " after a kill" } else { " after a loss of power" },
                )));
            }
            let hidden = self.hidden[index].by(stopped);
            if state.is_some() && self.hidden[index].life == past[place].life && *now < hidden {
                let (then, slot) = (hidden.0, slot(index));
                return Err(Violation::new(format!(
                    "slot {slot} hid what had expired by {then}, and its time went back to {}",
                    now.0
                )));
            }
            places.push(place);
        }
        self.check_groups(&places)?;
        for (past, place) in self.slots.iter_mut().zip(places) {
            past.truncate(place + 1);
            past.drain(..place);
        }
        (self.killed, self.power_lost) = (self.events, self.events);
        for hidden in &mut self.hidden {
            (hidden.killed, hidden.power_lost) = (hidden.by(stopped), hidden.by(stopped));
        }
        Ok(())
    }

    /// An atomic group is in all its slots or in none. A slot that was removed or added since tells nothing of it.
    fn check_groups(&self, places: &[usize]) -> Result<(), Violation> {
        let mut seen: BTreeMap<u64, Vec<(usize, bool)>> = BTreeMap::new();
        for (index, (past, &place)) in self.slots.iter().zip(places).enumerate() {
            for (number, version) in past.iter().enumerate().filter(|(_, version)| version.group) {
                let between = &past[number.min(place)..=number.max(place)];
                if between.iter().all(|version| version.state.is_some()) {
                    seen.entry(version.number).or_default().push((index, number <= place));
                }
            }
        }
        for (event, slots) in seen {
            let kept = slots.iter().filter(|(_, kept)| *kept).count();
            if kept > 0 && kept < slots.len() {
                let part = |(index, kept): &(usize, bool)| {
                    format!(" slot {} {}", slot(*index), if *kept { "has it" } else { "lacks it" })
                };
                let told: String = slots.iter().map(part).collect();
                return Err(Violation::new(format!("the commit of event {event} is half there:{told}")));
            }
        }
        Ok(())
    }
}

/// Whether a state looks like that at a time: what has expired is not seen.
#[must_use]
pub fn is_seen_as(state: &State, found: &State, now: TimeMs) -> bool {
    match (state, found) {
        (None, None) => true,
        (Some(state), Some(found)) => {
            let visible = state.iter().filter(|(_, held)| held.is_visible(now));
            visible.eq(found.iter())
        }
        _ => false,
    }
}

/// A slot's content after some changes. What has expired stays: after a stop the slot's time may be an earlier one, unless
/// somebody was told.
#[must_use]
pub fn after(content: &Content, changes: &[Change], number: u64, now: TimeMs) -> Content {
    let mut content = content.clone();
    for change in changes {
        match *change {
            Change::Put { key, payload, expires_in_ms } => {
                let expiry = expires_in_ms.map(|ms| TimeMs(now.0 + u64::from(ms)));
                content.insert(key, Held::Whole(payload, expiry));
            }
            Change::PutElement { key, element, payload } => match content.get_mut(&key) {
                Some(Held::Collection(elements)) => _ = elements.insert(element, payload),
                _ => _ = content.insert(key, Held::Collection(BTreeMap::from([(element, payload)]))),
            },
            Change::DeleteElement { key, element } => {
                if let Some(Held::Collection(elements)) = content.get_mut(&key) {
                    elements.remove(&element);
                }
            }
            Change::Delete { key } => _ = content.remove(&key),
            Change::Clear => content.clear(),
        }
    }
    content.insert(NUMBER, Held::Number(number));
    content
}

/// A state for a person to read.
pub struct Shown<'a>(pub &'a State);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(content) = self.0 else { return f.write_str("not there") };
        if content.is_empty() {
            return f.write_str("empty");
        }
        for (key, held) in content.iter() {
            match held {
                Held::Number(number) => write!(f, "#{number}")?,
                Held::Whole(payload, None) => write!(f, " k{key}={payload}")?,
                Held::Whole(payload, Some(at)) => write!(f, " k{key}={payload} until {}", at.0)?,
                Held::Collection(elements) => {
                    write!(f, " k{key}=[")?;
                    for (place, (element, payload)) in elements.iter().enumerate() {
                        let space = if place > 0 { " " } else { "" };
                        write!(f, "{space}{element}:{payload}")?;
                    }
                    f.write_str("]")?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n      event {}: {}", self.number, Shown(&self.state))
    }
}
