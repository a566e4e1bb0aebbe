//! What the log was told already: what fails again and again is an event once, not each time. Pure; whoever tells asks.

use std::collections::BTreeMap;

/// What comes back within this time is not told again.
const QUIET_MS: u64 = 60_000;
/// Kinds of failures that are remembered.
const KINDS_MAX: usize = 64;

/// Two failures are of one kind if they differ in numbers only: times, slots, ports of a moment.
fn kind(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// A connection's ups and downs. A failure that stays the same is told once, however often it is met; one that comes back
/// after the connection stood for a while is told again, but once a minute at most. An end is told of those that were
/// told to begin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// The kind of the last failure that was told, and when.
    last: Option<(String, u64)>,
    /// It has stood since the last failure.
    stood: bool,
    /// Its present state's beginning was told.
    told: bool,
    left_out: u64,
}

impl Default for Told {
    fn default() -> Told {
        Told { last: None, stood: true, told: true, left_out: 0 }
    }
}

impl Told {
    /// It fails. If that is to be told: how many failures were not, since the last that was.
    pub fn down(&mut self, why: &str, now_ms: u64) -> Option<u64> {
        let (kind, stood) = (kind(why), std::mem::replace(&mut self.stood, false));
        let known = self.last.as_ref().is_some_and(|(last, at_ms)| {
            *last == kind && (!stood || now_ms.saturating_sub(*at_ms) < QUIET_MS)
        });
        if known {
            self.left_out += 1;
            self.told &= !stood;
            return None;
        }
        self.last = Some((kind, now_ms));
        self.told = true;
        Some(std::mem::take(&mut self.left_out))
    }

    /// It stands. Says whether that is to be told.
    pub fn up(&mut self) -> bool {
        self.stood = true;
        self.told
    }
}

/// Failures of many things of one sort, such as slots: each kind of failure is told once a minute at most.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Repeats(BTreeMap<String, (u64, u64)>);

impl Repeats {
    /// If this failure is to be told: how many of its kind were not, since the last that was.
    pub fn news(&mut self, why: &str, now_ms: u64) -> Option<u64> {
        let kind = kind(why);
        if let Some((at_ms, left_out)) = self.0.get_mut(&kind)
            && now_ms.saturating_sub(*at_ms) < QUIET_MS
        {
            *left_out += 1;
            return None;
        }
        if self.0.len() >= KINDS_MAX {
            self.0.retain(|_, (at_ms, _)| now_ms.saturating_sub(*at_ms) < QUIET_MS);
        }
        let before = if self.0.len() < KINDS_MAX || self.0.contains_key(&kind) {
            self.0.insert(kind, (now_ms, 0))
        } else {
            None
        };
        Some(before.map_or(0, |(_, left_out)| left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_stays_is_told_once_and_its_end_too() {
        let mut told = Told::default();
        assert!(told.up());
        assert_eq!(told.down("nothing came for 10001 ms", 0), Some(0));
        for second in 1..1000 {
            assert_eq!(told.down("nothing came for 10002 ms", second * 1000), None);
        }
        assert!(told.up());
        assert_eq!(told.down("refused", 1_000_000), Some(999));
    }

    #[test]
    fn a_link_that_flaps_is_told_once_a_minute() {
        let mut told = Told::default();
        let mut lines = 0;
        for second in 0..600 {
            lines += u64::from(told.down("the connection broke", second * 1000).is_some());
            lines += u64::from(told.up());
        }
        assert_eq!(lines, 2 * 10);
    }

    #[test]
    fn many_slots_with_one_failure_are_one_line_a_minute() {
        let mut repeats = Repeats::default();
        assert_eq!(repeats.news("slot 1: no space", 0), Some(0));
        for slot in 2..100 {
            assert_eq!(repeats.news(&format!("slot {slot}: no space"), 1000), None);
        }
        assert_eq!(repeats.news("slot 1: another reason", 1000), Some(0));
        assert_eq!(repeats.news("slot 1: no space", 60_000), Some(98));
    }
}
