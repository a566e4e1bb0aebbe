//! What is known of a run without reading its blocks: kept in the run itself and in the manifest.
//!
//! ```text
//! properties, part of the format: varints, in this order
//!  slot; entries; tombstones; keys; min_seq; max_seq; raw_bytes; expiry: 0 none, else min_expiry + 1;
//!  first_key, last_key: length and bytes
//!
//! run meta, part of the format: varints, in this order
//!  file; offset; len; crc; length of the properties and the properties
//! ```

use super::FileNo;
use crate::clock::TimeMs;
use crate::error::Error;
use crate::types::{Seq, Slot};
use crate::varint;

/// A longer first or last key is kept as a bound of this length.
const BOUND_BYTES_MAX: usize = 64;

/// What a run says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Properties {
    /// Whose entries they are.
    pub slot: Slot,
    /// How many entries, tombstones included; at least 1.
    pub entries: u64,
    /// How many of them are tombstones.
    pub tombstones: u64,
    /// How many of them are values of users' keys (neither elements nor tombstones).
    pub keys: u64,
    /// The first record whose effect is in it.
    pub min_seq: Seq,
    /// The last record whose effect is in it. Runs of a slot never overlap in seqs.
    pub max_seq: Seq,
    /// Bytes of keys and values before compression.
    pub raw_bytes: u64,
    /// The first moment at which one of its users' keys expires.
    pub min_expiry: Option<TimeMs>,
    /// No key is below; the first key itself if it is short.
    pub first_key: Vec<u8>,
    /// No key is above; the last key itself if it is short.
    pub last_key: Vec<u8>,
}

/// A run's place and properties: what the manifest remembers of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunMeta {
    /// The pack file that it is in.
    pub file: FileNo,
    /// Its first byte in that file.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
    /// CRC-32 of all its bytes.
    pub crc: u32,
    /// What it says of itself.
    pub props: Properties,
}

impl Properties {
    /// Appends the bytes that stand for them.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let expiry = self.min_expiry.map_or(0, |at| at.0.saturating_add(1));
        for number in [
            u64::from(self.slot.number()),
            self.entries,
            self.tombstones,
            self.keys,
            self.min_seq.0,
            self.max_seq.0,
            self.raw_bytes,
            expiry,
        ] {
            varint::put(out, number);
        }
        varint::put_slice(out, &self.first_key);
        varint::put_slice(out, &self.last_key);
    }

    /// Takes properties off the front; `None` if they are cut short or contradict themselves.
    #[must_use]
    pub fn take(bytes: &mut &[u8]) -> Option<Properties> {
        let mut next = || varint::take(bytes);
        let slot = Slot::new(u16::try_from(next()?).ok()?)?;
        let (entries, tombstones, keys) = (next()?, next()?, next()?);
        let (min_seq, max_seq) = (Seq(next()?), Seq(next()?));
        let raw_bytes = next()?;
        let min_expiry = next()?.checked_sub(1).map(TimeMs);
        let first_key = varint::take_slice(bytes)?.to_vec();
        let last_key = varint::take_slice(bytes)?.to_vec();
        let fits = entries > 0
            && tombstones.checked_add(keys).is_some_and(|sum| sum <= entries)
            && min_seq <= max_seq
            && max_seq <= Seq::MAX
            && first_key <= last_key;
        fits.then_some(Properties {
            slot,
            entries,
            tombstones,
            keys,
            min_seq,
            max_seq,
            raw_bytes,
            min_expiry,
            first_key,
            last_key,
        })
    }
}

impl RunMeta {
    /// An error of what lies there, with the records that are lost with it.
    pub(super) fn naming(&self, error: Error) -> Error {
        let Properties { slot, min_seq, max_seq, .. } = &self.props;
        match error {
            Error::Corrupt { path, offset, what } => {
                Error::Corrupt { path, offset, what: format!("slot {slot} seq {min_seq}..{max_seq}: {what}") }
            }
            other => other,
        }
    }

    /// Appends the bytes that stand for it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for number in [self.file.0, self.offset, self.len, u64::from(self.crc)] {
            varint::put(out, number);
        }
        let mut props = Vec::new();
        self.props.encode(&mut props);
        varint::put_slice(out, &props);
    }

    /// Takes a run's meta data off the front; `None` if it is cut short or contradicts itself.
    #[must_use]
    pub fn take(bytes: &mut &[u8]) -> Option<RunMeta> {
        let file = FileNo(varint::take(bytes)?);
        let (offset, len) = (varint::take(bytes)?, varint::take(bytes)?);
        let crc = u32::try_from(varint::take(bytes)?).ok()?;
        let mut rest = varint::take_slice(bytes)?;
        let props = Properties::take(&mut rest)?;
        let fits = rest.is_empty() && offset.checked_add(len).is_some();
        fits.then_some(RunMeta { file, offset, len, crc, props })
    }
}

/// The key, or a prefix of it if it is long: not above the key.
pub(super) fn bound_below(key: &[u8]) -> Vec<u8> {
    key[..key.len().min(BOUND_BYTES_MAX)].to_vec()
}

/// The key, or a short bound above it if it is long.
pub(super) fn bound_above(key: &[u8]) -> Vec<u8> {
    let Some(prefix) = key.get(..BOUND_BYTES_MAX) else { return key.to_vec() };
    match prefix.iter().rposition(|&byte| byte < 0xff) {
        Some(at) => {
            let mut bound = prefix[..=at].to_vec();
            bound[at] += 1;
            bound
        }
        None => key.to_vec(),
    }
}
