//! What a connection can do beyond what every node of this protocol's version does: 64 bits in `hello` and `hello ok`.
//!
//! ```text
//! features, little-endian
//!  0   4   compatible  the other side may use it; who does not know a bit passes it over
//!  4   4   required    who does not know one of these bits must not go on: it refuses, and names the bit
//!
//! bit    compatible
//!   0    compressed: frames of kind 63 are understood
//!   1    near: `handover near` is answered
//!   2    tails: a message of kind 13 is answered
//!   3    heirs: in a message of kind 52, the seq 2^48-1 is understood
//! ```
//! Each side says what it understands, and uses only what the other one said.

/// The other side takes compressed frames.
pub const COMPRESSED: u64 = 1;

/// The other side answers `handover near`.
pub const NEAR: u64 = 2;

/// The other side answers an owner that asks for the tail that it lost.
pub const TAILS: u64 = 4;

/// The other side, an owner that asks for its tail, wants to hear that the slot is another's meanwhile.
pub const HEIRS: u64 = 8;

/// Required bits that this program knows.
const REQUIRED_KNOWN: u64 = 0;
/// The first required bit.
const REQUIRED_FROM: u32 = 32;

/// What this node says that it understands.
#[must_use]
pub fn offered(compress: Compress) -> u64 {
    match compress {
        Compress::Yes => NEAR | TAILS | HEIRS | COMPRESSED,
        Compress::No => NEAR | TAILS | HEIRS,
    }
}

/// Whether what is shipped is compressed, where it pays and the other side agrees.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Compress {
    /// Yes.
    Yes,
    /// No.
    #[default]
    No,
}

impl Compress {
    /// What holds on a connection whose other side said that it understands `theirs`.
    #[must_use]
    pub fn agreed(self, theirs: u64) -> Compress {
        if theirs & COMPRESSED != 0 { self } else { Compress::No }
    }
}

/// Looks whether the other side needs what this program does not know.
///
/// # Errors
/// The words in which it is refused.
pub fn check(theirs: u64) -> Result<(), String> {
    let unknown = (theirs >> REQUIRED_FROM) & !REQUIRED_KNOWN;
    if unknown == 0 {
        return Ok(());
    }
    let bit = unknown.trailing_zeros();
    Err(format!(
        "the other node needs feature {bit} of replication, which this one does not know: \
         start both with the same release, or this one with the newer"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_required_and_unknown_is_refused_by_its_number_and_what_is_compatible_is_passed_over() {
        assert_eq!(check(0xffff_ffff), Ok(()));
        let refused = check((1 << 37) | COMPRESSED).expect_err("bit 5 of the required ones has no meaning");
        assert!(refused.contains("feature 5 "), "{refused}");
    }

    #[test]
    fn it_is_compressed_only_where_both_want_it() {
        for (mine, theirs, agreed) in [
            (Compress::Yes, offered(Compress::Yes), Compress::Yes),
            (Compress::Yes, offered(Compress::No), Compress::No),
            (Compress::No, offered(Compress::Yes), Compress::No),
            (Compress::Yes, !COMPRESSED, Compress::No),
        ] {
            assert_eq!(mine.agreed(theirs), agreed, "{mine:?} {theirs}");
        }
    }
}
