//! What a run does: which operations, on how many keys, how large the values are.

use std::str::FromStr;

/// A kind of run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Workload {
    /// Writes every key once, in random order.
    FillRandom,
    /// Writes random keys among those that are there.
    Overwrite,
    /// Reads random keys among those that are there.
    ReadRandom,
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Workload, String> {
        match text {
            "fillrandom" => Ok(Workload::FillRandom),
            "overwrite" => Ok(Workload::Overwrite),
            "readrandom" => Ok(Workload::ReadRandom),
            _ => Err(format!("'{text}' is none of fillrandom, overwrite, readrandom")),
        }
    }
}

/// A run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is done.
    pub workload: Workload,
    /// How many keys there are, at least one.
    pub keys: u64,
    /// How many operations are done; a fill does one for each key.
    pub operations: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Operations that share one write, or one request and reply on the wire.
    pub batch: usize,
    /// All choices follow from it.
    pub seed: u64,
}

/// One operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Sets a key to a value.
    Set(Vec<u8>, Vec<u8>),
    /// Reads a key.
    Get(Vec<u8>),
}

impl Plan {
    /// The operations, in order.
    pub fn operations(&self) -> impl Iterator<Item = Operation> + '_ {
        let count = if self.workload == Workload::FillRandom { self.keys } else { self.operations };
        let mut state = self.seed;
        (0..count).map(move |number| {
            let key = match self.workload {
                Workload::FillRandom => self.scattered(number),
                Workload::Overwrite | Workload::ReadRandom => mix(&mut state) % self.keys,
            };
            let key = format!("key:{key:012}").into_bytes();
            match self.workload {
                Workload::ReadRandom => Operation::Get(key),
                _ => Operation::Set(key, value(&mut state, self.value_bytes)),
            }
        })
    }

    /// Every number below `keys` once, out of order: a step that has no divisor in common with `keys`.
    fn scattered(&self, number: u64) -> u64 {
        let step = (1..).map(|add| self.keys / 2 + add).find(|step| gcd(*step, self.keys) == 1).unwrap_or(1);
        let place = u128::from(number) * u128::from(step) % u128::from(self.keys);
        u64::try_from(place).expect("below a u64")
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A value whose second half repeats its first: LZ4 has something to do, as with real data.
fn value(state: &mut u64, bytes: usize) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(bytes + 8);
    while out.len() < bytes.div_ceil(2) {
        out.extend_from_slice(&mix(state).to_le_bytes());
    }
    out.truncate(bytes.div_ceil(2));
    out.extend_from_within(..bytes / 2);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_fill_writes_every_key_once_and_is_the_same_twice() {
        for keys in [1, 2, 9, 1000] {
            let plan = Plan {
                workload: Workload::FillRandom,
                keys,
                operations: 0,
                value_bytes: 33,
                batch: 1,
                seed: 5,
            };
            let all: Vec<Operation> = plan.operations().collect();
            assert_eq!(all, plan.operations().collect::<Vec<_>>());
            let names: BTreeSet<Vec<u8>> = all
                .into_iter()
                .map(|operation| match operation {
                    Operation::Set(key, value) if value.len() == 33 => key,
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(names.len() as u64, keys);
        }
    }
}
