//! Values: how long they are and what is in them.
//!
//! As in db_bench, a value is a slice out of a megabyte made beforehand, of pieces of which a share is random and the rest
//! repeats it: it costs nothing to make one, and a block of them compresses to about that share.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use haypile_engine::random::Coin;
use serde::{Deserialize, Serialize};

use super::{below, floor, fraction};

/// The longest value.
pub const VALUE_BYTES_MAX: usize = 64 << 20;

/// A piece repeats its beginning.
const PIECE_BYTES: usize = 100;

/// How long values are.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Sizes {
    /// All alike.
    Fixed(usize),
    /// Alike likely from the least to the greatest.
    Uniform {
        /// The least.
        min: usize,
        /// The greatest.
        max: usize,
    },
    /// The generalised Pareto distribution that begins at 0: many short ones, few long ones; at least 1.
    Pareto {
        /// Its shape.
        k: f64,
        /// Its scale.
        sigma: f64,
        /// The greatest.
        max: usize,
    },
}

impl Sizes {
    /// The greatest.
    #[must_use]
    pub fn max(&self) -> usize {
        match *self {
            Sizes::Fixed(bytes) => bytes,
            Sizes::Uniform { max, .. } | Sizes::Pareto { max, .. } => max,
        }
    }

    /// One of them.
    #[must_use]
    pub fn pick(&self, coin: &mut Coin) -> usize {
        match *self {
            Sizes::Fixed(bytes) => bytes,
            Sizes::Uniform { min, max } => {
                min + usize::try_from(below(coin.next_u64(), (max - min) as u64 + 1)).unwrap_or_default()
            }
            Sizes::Pareto { k, sigma, max } => {
                usize::try_from(pareto(coin.next_u64(), k, sigma)).unwrap_or(max).clamp(1, max)
            }
        }
    }
}

/// A generalised Pareto number, by inversion, from 64 random bits.
#[must_use]
pub fn pareto(bits: u64, k: f64, sigma: f64) -> u64 {
    let u = fraction(bits);
    floor(sigma * ((1.0 - u).powf(-k) - 1.0) / k).saturating_add(1)
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sizes::Fixed(bytes) => write!(f, "{bytes}"),
            Sizes::Uniform { min, max } => write!(f, "uniform:{min}:{max}"),
            Sizes::Pareto { k, sigma, max } => write!(f, "pareto:{k}:{sigma}:{max}"),
        }
    }
}

impl From<Sizes> for String {
    fn from(sizes: Sizes) -> String {
        sizes.to_string()
    }
}

impl TryFrom<String> for Sizes {
    type Error = String;

    fn try_from(text: String) -> Result<Sizes, String> {
        text.parse()
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Sizes, String> {
        let usage = || format!("'{text}': BYTES, uniform:MIN:MAX or pareto:K:SIGMA:MAX");
        let bytes = |word: &str| word.parse::<usize>().ok().filter(|bytes| *bytes <= VALUE_BYTES_MAX);
        let number = |word: &str| word.parse::<f64>().ok().filter(|number| *number > 0.0 && *number < 1e9);
        let words: Vec<&str> = text.split(':').collect();
        let sizes = match words[..] {
            [fixed] => bytes(fixed).map(Sizes::Fixed),
            ["uniform", min, max] => bytes(min).zip(bytes(max)).map(|(min, max)| Sizes::Uniform { min, max }),
            ["pareto", k, sigma, max] => number(k)
                .zip(number(sigma))
                .zip(bytes(max))
                .map(|((k, sigma), max)| Sizes::Pareto { k, sigma, max: max.max(1) }),
            _ => None,
        };
        sizes.filter(|sizes| !matches!(sizes, Sizes::Uniform { min, max } if min > max)).ok_or_else(usage)
    }
}

/// Where one lane takes its values from.
#[derive(Clone, Debug)]
pub struct Values {
    data: Arc<[u8]>,
    place: usize,
}

impl Values {
    /// Values of at most `bytes_max`, that compress to about `ratio` (0 to 1) of their size.
    #[must_use]
    pub fn new(bytes_max: usize, ratio: f64, seed: u64) -> Values {
        let bytes = (2 * bytes_max).max(1 << 20);
        let random_bytes = usize::try_from(floor(PIECE_BYTES as f64 * ratio)).unwrap_or_default();
        let random_bytes = random_bytes.clamp(1, PIECE_BYTES);
        let mut coin = Coin::new(seed ^ 0x7661_6c75_6573);
        let mut data = Vec::with_capacity(bytes + 2 * PIECE_BYTES);
        while data.len() < bytes {
            let start = data.len();
            while data.len() < start + random_bytes {
                data.extend_from_slice(&coin.next_u64().to_le_bytes());
            }
            data.truncate(start + random_bytes);
            while data.len() < start + PIECE_BYTES {
                let more = random_bytes.min(start + PIECE_BYTES - data.len());
                data.extend_from_within(start..start + more);
            }
        }
        Values { data: data.into(), place: 0 }
    }

    /// The same data, beginning elsewhere: for another lane.
    #[must_use]
    pub fn from_place(&self, place: usize) -> Values {
        Values { data: Arc::clone(&self.data), place: place % self.data.len() }
    }

    /// The next value, as a place in [`Values::data`].
    pub fn next(&mut self, bytes: usize) -> Range<usize> {
        if self.place + bytes > self.data.len() {
            self.place = 0;
        }
        let start = self.place;
        self.place += bytes;
        start..start + bytes
    }

    /// What values are slices of.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_keep_their_bounds_and_read_back() {
        let mut coin = Coin::new(1);
        for (text, min, max) in
            [("100", 100, 100), ("uniform:5:9", 5, 9), ("pareto:0.2615:25.45:1024", 1, 1024)]
        {
            let sizes: Sizes = text.parse().expect("parses");
            assert_eq!(sizes.to_string(), text);
            let picked: Vec<usize> = (0..20_000).map(|_| sizes.pick(&mut coin)).collect();
            assert!(picked.iter().all(|bytes| (min..=max).contains(bytes)), "{text}");
            if text.starts_with("pareto") {
                let mean = picked.iter().sum::<usize>() / picked.len();
                assert!((32..39).contains(&mean), "{mean}: sigma / (1 - k) is 34.5");
            }
        }
        for text in ["", "x", "uniform:9:5", "uniform:5", "pareto:0:1:10", "99999999999"] {
            assert!(text.parse::<Sizes>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_ratio_says_how_much_of_a_piece_is_random() {
        for (ratio, random) in [(0.0, 1), (0.5, 50), (1.0, 100)] {
            let values = Values::new(100, ratio, 3);
            let piece = &values.data()[..PIECE_BYTES];
            let period = (1..=PIECE_BYTES)
                .find(|&period| piece.iter().zip(&piece[period..]).all(|(a, b)| a == b))
                .unwrap_or(PIECE_BYTES);
            assert_eq!(period, random);
        }
    }

    #[test]
    fn every_value_lies_in_the_data() {
        let mut values = Values::new(700_000, 0.5, 3);
        for _ in 0..10 {
            let range = values.next(700_000);
            assert_eq!(values.data()[range].len(), 700_000);
        }
    }
}
