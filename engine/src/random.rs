//! Random numbers for names that must never be drawn twice (nodes, epochs): from the operating system, or from a
//! seed where a run has to be the same twice.

use std::sync::Mutex;

/// A source of random bytes. Any thread may use it.
#[derive(Debug)]
pub struct Random {
    /// The state of the seeded generator; `None` asks the operating system.
    seeded: Option<Mutex<u64>>,
}

impl Random {
    /// The operating system's random numbers, or for a seed always the same ones.
    #[must_use]
    pub fn new(seed: Option<u64>) -> Random {
        Random { seeded: seed.map(Mutex::new) }
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
        let mut state = seeded.lock().expect("no code panics under this lock");
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&split_mix(&mut state).to_le_bytes()[..chunk.len()]);
        }
    }

    /// A random number.
    pub fn number(&self) -> u64 {
        let mut raw = [0; 8];
        self.fill(&mut raw);
        u64::from_le_bytes(raw)
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough for names in a simulation.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
