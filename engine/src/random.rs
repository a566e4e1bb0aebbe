//! Random numbers for names that must never be drawn twice (nodes, epochs): from the operating system, or from a
//! seed where a run has to be the same twice.

use std::sync::Mutex;

use crate::types::NodeId;

/// A source of random bytes. Any thread may use it.
#[derive(Debug)]
pub struct Random {
    /// The state of the seeded generator; `None` asks the operating system.
    seeded: Option<Mutex<Coin>>,
}

impl Random {
    /// The operating system's random numbers, or for a seed always the same ones.
    #[must_use]
    pub fn new(seed: Option<u64>) -> Random {
        Random { seeded: seed.map(|seed| Mutex::new(Coin::new(seed))) }
    }

    /// Fills `out`.
    ///
    /// # Panics
    /// If the operating system has none to give: no name could be trusted.
    pub fn fill(&self, out: &mut [u8]) {
        let Some(seeded) = &self.seeded else {
            getrandom::fill(out).expect("the operating system gives random bytes");
            return;
        };
        let mut coin = seeded.lock().expect("no code panics under this lock");
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&coin.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }

    /// A name for a node.
    pub fn name(&self) -> NodeId {
        let mut name = NodeId([0; 20]);
        self.fill(&mut name.0);
        name
    }

    /// A random number.
    pub fn number(&self) -> u64 {
        let mut raw = [0; 8];
        self.fill(&mut raw);
        u64::from_le_bytes(raw)
    }
}

/// Numbers that follow from a seed, the same on every machine and in every version of every crate: for simulations.
/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Coin(u64);

impl Coin {
    /// All numbers follow from the seed.
    #[must_use]
    pub fn new(seed: u64) -> Coin {
        Coin(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next_u64() % bound as u64).expect("below a usize")
    }

    /// One of some; `None` if there is none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        if of.is_empty() { None } else { of.get(self.below(of.len())) }
    }

    /// True in `parts` of `of` cases.
    pub fn chance(&mut self, parts: usize, of: usize) -> bool {
        self.below(of) < parts
    }

    /// True in half of the cases.
    pub fn heads(&mut self) -> bool {
        self.next_u64() & 1 == 1
    }
}
