//! What a file's format has beyond its version: 64 bits in the header or footer of every kind of file.
//!
//! ```text
//! features, part of the format; little-endian; the manifest's speak for the whole store, those of a segment or a
//! run for itself (a run goes from node to node as it is)
//!  0   4   required    who does not know one of these bits must not read the file: it is refused, and the bit named
//!  4   4   compatible  who does not know one of these bits reads the file all the same
//! ```
//! No bit has a meaning yet. A change that older programs can read past gets a compatible bit, one that they would
//! misread a required bit, one that moves the bits themselves a new version.

use std::path::Path;

use crate::error::{Error, Result};

/// Bytes that they take. Part of the format.
pub const BYTES: usize = 8;

/// Required bits that this program knows.
const KNOWN: u32 = 0;

/// A file's feature bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// Whoever does not know one of these must not read the file.
    pub required: u32,
    /// Whoever does not know one of these may read the file.
    pub compatible: u32,
}

impl Features {
    /// What this program writes.
    pub const WRITTEN: Features = Features { required: 0, compatible: 0 };

    /// The bytes that stand for them.
    #[must_use]
    pub fn encode(self) -> [u8; BYTES] {
        let mut out = [0; BYTES];
        out[..4].copy_from_slice(&self.required.to_le_bytes());
        out[4..].copy_from_slice(&self.compatible.to_le_bytes());
        out
    }

    /// Reads them; what is not there is zero.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Features {
        let word = |at: usize| {
            let raw = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
            raw.map_or(0, |raw| u32::from_le_bytes(*raw))
        };
        Features { required: word(0), compatible: word(4) }
    }

    /// The lowest required bit that this program does not know.
    #[must_use]
    pub fn unknown(self) -> Option<u32> {
        let unknown = self.required & !KNOWN;
        (unknown != 0).then(|| unknown.trailing_zeros())
    }

    /// Refuses a file that needs a bit that this program does not know.
    ///
    /// # Errors
    /// `Unusable`, with the bit and the remedy.
    pub fn check(self, path: &Path) -> Result<()> {
        self.unknown().map_or(Ok(()), |bit| Err(refusal(path, bit)))
    }
}

/// What is said of a file that needs a bit that this program does not know.
#[must_use]
pub fn refusal(path: &Path, bit: u32) -> Error {
    let why = format!(
        "needs feature bit {bit}, which this program does not know: start it with the release that wrote it, or a newer \
         one"
    );
    Error::Unusable { path: path.to_owned(), why }
}

const _: () = assert!(Features::WRITTEN.required & !KNOWN == 0);
