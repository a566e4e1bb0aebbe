//! The load: which operations, on which keys, with which values. Everything follows from a seed.
//!
//! Promises: the same plan and seed give every target the same operations, byte for byte; a step allocates nothing.
//! Knows no target and no clock.

pub mod choose;
pub mod generator;
pub mod keys;
pub mod mixgraph;
pub mod operation;
pub mod values;
pub mod workload;

/// A float as a whole number, cut off; what is below zero or no number is 0.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // `as` saturates, which is what is meant
pub(crate) fn floor(number: f64) -> u64 {
    number as u64
}

/// A number below `bound`, from 64 random bits; 0 if the bound is 0.
pub(crate) fn below(bits: u64, bound: u64) -> u64 {
    u64::try_from((u128::from(bits) * u128::from(bound)) >> 64).expect("a product's upper half")
}

/// A fraction in [0, 1), from 64 random bits.
pub(crate) fn fraction(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}
