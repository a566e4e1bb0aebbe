//! Every decoder as a function over bytes that must not panic, whatever the bytes; and what it takes it must give back.
//!
//! A [`Target`] is plain code, so that it runs with any fuzzer. The one here ([`mutate`]) needs no nightly compiler: it
//! changes the inputs of a corpus at random, by seed, and half of the time repairs their checksums, so that what lies
//! behind a checksum is reached too. Corpora are in `fuzz/corpus/TARGET/`; an input that once broke something stays
//! there.

pub mod corpus;
pub mod mutate;
mod samples;
mod targets;

/// A decoder under test.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and its corpus' folder.
    pub name: &'static str,
    /// Decodes. A panic is a finding.
    pub run: fn(&[u8]),
    /// Makes checksums hold again after a mutation, as far as that makes sense.
    pub repair: fn(&mut [u8]),
    /// Inputs to begin with: what our own encoders write.
    pub samples: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: &[Target] = targets::ALL;

/// The target of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
