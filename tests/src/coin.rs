//! Random numbers from a seed, the same on every machine and in every version of every crate.

/// SplitMix64.
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
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next_u64() % bound as u64).expect("below a usize")
    }

    /// True in `parts` of `of` cases.
    pub fn chance(&mut self, parts: usize, of: usize) -> bool {
        self.below(of) < parts
    }
}
