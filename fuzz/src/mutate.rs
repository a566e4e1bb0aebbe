//! Random changes of inputs, by seed.

use haypile_engine::random::Coin;

/// Random numbers, the same for a seed everywhere.
#[derive(Debug)]
pub struct Dice(Coin);

/// Bytes and numbers at which decoders tend to break.
const EDGES: [u8; 10] = [0, 1, 0x7f, 0x80, 0xff, b'\r', b'\n', b'$', b'*', b'-'];
/// The longest input that is made.
const INPUT_BYTES_MAX: usize = 1 << 16;

impl Dice {
    /// All numbers follow from the seed.
    #[must_use]
    pub fn new(seed: u64) -> Dice {
        Dice(Coin::new(seed))
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.roll() % bound.max(1) as u64).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        self.roll().to_le_bytes()[0]
    }
}

/// A changed input: one of the corpus, with one to six changes.
#[must_use]
pub fn mutated(corpus: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = corpus.get(dice.below(corpus.len())).cloned().unwrap_or_default();
    for _ in 0..=dice.below(6) {
        change(&mut bytes, corpus, dice);
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

fn change(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], dice: &mut Dice) {
    let at = dice.below(bytes.len());
    let end = (at + 1 + dice.below(16)).min(bytes.len());
    match dice.below(9) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << dice.below(8),
        1 if !bytes.is_empty() => bytes[at] = dice.byte(),
        2 if !bytes.is_empty() => bytes[at] = EDGES[dice.below(EDGES.len())],
        3 => bytes.truncate(at),
        4 => _ = bytes.drain(at.min(end)..end),
        5 => {
            let copy = bytes[at.min(end)..end].to_vec();
            let to = dice.below(bytes.len() + 1);
            bytes.splice(to..to, copy);
        }
        6 => {
            let new: Vec<u8> = (0..=dice.below(8)).map(|_| dice.byte()).collect();
            bytes.splice(at..at, new);
        }
        7 => {
            let other = &corpus[dice.below(corpus.len()).min(corpus.len().saturating_sub(1))];
            let from = dice.below(other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        _ => {
            // A number of 1 to 8 bytes, great or small: lengths and counts.
            let number =
                if dice.below(2) == 0 { u64::MAX >> dice.below(64) } else { dice.roll() >> dice.below(64) };
            let len = 1 << dice.below(4);
            for (place, byte) in bytes.iter_mut().skip(at).zip(&number.to_le_bytes()[..len]) {
                *place = *byte;
            }
        }
    }
}
