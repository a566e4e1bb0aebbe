//! Which key an operation is about: the popularity of keys.
//!
//! `zipfian` is YCSB's *scrambled* one: ranks are drawn among 10^10 items and hashed to the keys, so that the popular keys
//! lie apart and the share of the most popular one does not depend on how many keys there are. `latest` is YCSB's too:
//! zipfian over the keys' age. The sampler is that of Gray et al., "Quickly generating billion-record synthetic
//! databases", SIGMOD 1994.

use std::fmt;
use std::str::FromStr;

use haypile_engine::random::Coin;
use serde::{Deserialize, Serialize};

use super::{below, floor, fraction};

/// How many items YCSB draws ranks among before it scrambles them.
const YCSB_ITEMS: u64 = 10_000_000_000;

/// YCSB's skew.
pub const THETA: f64 = 0.99;

/// The popularity of keys.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Distribution {
    /// All keys alike.
    Uniform,
    /// YCSB's scrambled zipfian with this skew, between 0 and 1.
    Zipfian(f64),
    /// The newest keys most, with this skew, between 0 and 1.
    Latest(f64),
    /// A share of the keys gets a share of the operations.
    Hotspot {
        /// The hot share of the keys, between 0 and 1.
        keys: f64,
        /// The share of the operations that goes there, between 0 and 1.
        operations: f64,
    },
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Distribution::Uniform => write!(f, "uniform"),
            Distribution::Zipfian(theta) => write!(f, "zipfian:{theta}"),
            Distribution::Latest(theta) => write!(f, "latest:{theta}"),
            Distribution::Hotspot { keys, operations } => write!(f, "hotspot:{keys}:{operations}"),
        }
    }
}

impl From<Distribution> for String {
    fn from(distribution: Distribution) -> String {
        distribution.to_string()
    }
}

impl TryFrom<String> for Distribution {
    type Error = String;

    fn try_from(text: String) -> Result<Distribution, String> {
        text.parse()
    }
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Distribution, String> {
        let mut words = text.split(':');
        let name = words.next().unwrap_or_default();
        let mut share = |default: f64| match words.next() {
            None => Ok(default),
            Some(word) => match word.parse::<f64>() {
                Ok(number) if number > 0.0 && number < 1.0 => Ok(number),
                _ => Err(format!("'{word}' is not between 0 and 1")),
            },
        };
        let found = match name {
            "uniform" => Distribution::Uniform,
            "zipfian" => Distribution::Zipfian(share(THETA)?),
            "latest" => Distribution::Latest(share(THETA)?),
            "hotspot" => Distribution::Hotspot { keys: share(0.2)?, operations: share(0.8)? },
            _ => {
                return Err(format!(
                    "'{text}': uniform, zipfian[:THETA], latest[:THETA], hotspot[:KEYS[:OPS]]"
                ));
            }
        };
        match words.next() {
            None => Ok(found),
            Some(more) => Err(format!("'{more}' is too much in '{text}'")),
        }
    }
}

/// Ranks below a bound, rank 0 the most popular.
#[derive(Clone, Debug)]
pub struct Zipf {
    items: f64,
    theta: f64,
    zeta: f64,
    alpha: f64,
    eta: f64,
    second: f64,
}

impl Zipf {
    /// Ranks below `items` with this skew, between 0 and 1.
    #[must_use]
    pub fn new(items: u64, theta: f64) -> Zipf {
        let items = items.max(2);
        let zeta = zeta(items, theta);
        let eta = (1.0 - (2.0 / items as f64).powf(1.0 - theta)) / (1.0 - zeta_exact(2, theta) / zeta);
        Zipf {
            items: items as f64,
            theta,
            zeta,
            alpha: 1.0 / (1.0 - theta),
            eta,
            second: 1.0 + 0.5f64.powf(theta),
        }
    }

    /// A rank, from 64 random bits.
    #[must_use]
    pub fn rank(&self, bits: u64) -> u64 {
        let u = fraction(bits);
        let place = u * self.zeta;
        if place < 1.0 {
            return 0;
        }
        if place < self.second {
            return 1;
        }
        floor((self.items * (self.eta * u - self.eta + 1.0).powf(self.alpha)).min(self.items - 1.0))
    }

    /// The share of operations that the most popular item gets.
    #[must_use]
    pub fn top_share(&self) -> f64 {
        1.0 / self.zeta
    }

    /// The skew.
    #[must_use]
    pub fn theta(&self) -> f64 {
        self.theta
    }
}

fn zeta_exact(items: u64, theta: f64) -> f64 {
    (1..=items).map(|item| (item as f64).powf(-theta)).sum()
}

/// The sum of `i^-theta` for i to `items`: exact for the first 10,000, the rest by Euler and Maclaurin, which is off by less
/// than 1e-9 there.
fn zeta(items: u64, theta: f64) -> f64 {
    const EXACT: u64 = 10_000;
    if items <= EXACT {
        return zeta_exact(items, theta);
    }
    let (from, to) = (EXACT as f64, items as f64);
    let integral = (to.powf(1.0 - theta) - from.powf(1.0 - theta)) / (1.0 - theta);
    zeta_exact(EXACT, theta) + integral + (to.powf(-theta) - from.powf(-theta)) / 2.0
}

/// Draws key numbers.
#[derive(Clone, Debug)]
pub enum Chooser {
    /// All alike.
    Uniform,
    /// Scrambled ranks.
    Scrambled(Zipf),
    /// Ranks as ages.
    Latest(Zipf),
    /// A hot share.
    Hotspot {
        /// The hot share of the keys.
        keys: f64,
        /// The share of operations that it gets.
        operations: f64,
    },
}

impl Chooser {
    /// Draws by a distribution among about so many keys.
    #[must_use]
    pub fn new(distribution: Distribution, keys: u64) -> Chooser {
        match distribution {
            Distribution::Uniform => Chooser::Uniform,
            Distribution::Zipfian(theta) => Chooser::Scrambled(Zipf::new(YCSB_ITEMS, theta)),
            Distribution::Latest(theta) => Chooser::Latest(Zipf::new(keys, theta)),
            Distribution::Hotspot { keys, operations } => Chooser::Hotspot { keys, operations },
        }
    }

    /// A number below `count`.
    #[must_use]
    pub fn pick(&self, coin: &mut Coin, count: u64) -> u64 {
        match self {
            Chooser::Uniform => below(coin.next_u64(), count),
            Chooser::Scrambled(zipf) => fnv64(zipf.rank(coin.next_u64())) % count.max(1),
            Chooser::Latest(zipf) => (count.max(1) - 1).saturating_sub(zipf.rank(coin.next_u64())),
            Chooser::Hotspot { keys, operations } => {
                let hot = floor(count as f64 * keys).clamp(1, count.max(1));
                if hot == count || fraction(coin.next_u64()) < *operations {
                    below(coin.next_u64(), hot)
                } else {
                    hot + below(coin.next_u64(), count - hot)
                }
            }
        }
    }
}

/// FNV-1 over a number's bytes, as YCSB scrambles with.
fn fnv64(number: u64) -> u64 {
    const PRIME: u64 = 1_099_511_628_211;
    let bytes = number.to_le_bytes();
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(distribution: Distribution, count: u64) -> Vec<f64> {
        const DRAWS: u32 = 200_000;
        let chooser = Chooser::new(distribution, count);
        let mut coin = Coin::new(5);
        let mut seen = vec![0u32; usize::try_from(count).expect("small")];
        for _ in 0..DRAWS {
            seen[usize::try_from(chooser.pick(&mut coin, count)).expect("small")] += 1;
        }
        seen.iter().map(|&times| f64::from(times) / f64::from(DRAWS)).collect()
    }

    #[test]
    fn the_sum_over_ycsbs_items_is_the_constant_that_ycsb_has() {
        let zipf = Zipf::new(YCSB_ITEMS, 0.99);
        assert!((1.0 / zipf.top_share() - 26.469_028_201_783_02).abs() < 1e-6, "{}", 1.0 / zipf.top_share());
    }

    #[test]
    fn each_distribution_gives_keys_their_share() {
        let uniform = shares(Distribution::Uniform, 100);
        assert!(uniform.iter().all(|share| (0.008..0.012).contains(share)));

        let zipfian = shares(Distribution::Zipfian(0.99), 1000);
        let top = zipfian.iter().copied().fold(0.0, f64::max);
        assert!((0.037..0.045).contains(&top), "{top}");
        assert!(zipfian[0] < top, "the most popular is not the first");

        let latest = shares(Distribution::Latest(0.99), 1000);
        assert!(latest[999] > 0.1 && latest[999] > latest[998] && latest[998] > latest[990]);

        let hotspot = shares(Distribution::Hotspot { keys: 0.1, operations: 0.9 }, 1000);
        let hot: f64 = hotspot[..100].iter().sum();
        assert!((0.89..0.91).contains(&hot), "{hot}");
    }

    #[test]
    fn a_distribution_reads_back_as_it_is_written() {
        for text in ["uniform", "zipfian:0.99", "latest:0.5", "hotspot:0.2:0.8"] {
            assert_eq!(text.parse::<Distribution>().map(String::from).as_deref(), Ok(text));
        }
        for text in ["", "zipf", "zipfian:1", "zipfian:0.5:3", "hotspot:2"] {
            assert!(text.parse::<Distribution>().is_err(), "{text}");
        }
    }
}
