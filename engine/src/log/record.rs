//! Records: one write to one slot, encoded once, checksummed once, the same bytes on every node of the chain.
//!
//! ```text
//! record, part of the format; all numbers little-endian
//!  0   4   crc        CRC-32 of everything after it
//!  4   4   body_len   bytes after the header
//!  8   2   slot, kind bits 0-9 slot, bits 10-15 kind
//! 10   4   term       of the epoch that it belongs to
//! 14   6   seq        dense within the slot
//! 20   n   body
//!
//! body of kind 1, batch: operations one after another
//!  1 put            key, value             the key was not there
//!  2 replace        key, value             the key was there
//!  3 delete         key                    the key was there
//!  4 put element    key, generation, sub, value
//!  5 delete element key, generation, sub
//!  6 clear          (nothing)              all keys of the slot go
//!    each: u8 number, then its parts; key, sub, value are varint length + bytes, generation is a varint
//!
//! body of kind 2, epoch start: the epoch that begins with this record (its term is also in the header)
//!  0   8   tag
//!  8   20  node       the master that begins it
//!
//! body of kind 3, grant: the slot's last record in this epoch; ownership goes to `node`
//!  0   20  node       who may begin the next epoch
//! 20   8   time       the slot's time when it was given away, milliseconds since 1970
//! 28   v   address    varint length + `ip:port` of that node
//!
//! body of kind 4, time: this node has told somebody what had expired by then. Its term and seq are those of the slot's
//! last record; it is no record of the slot's history, has no place among its seqs and never leaves the node
//!  0   8   time       the slot's time, milliseconds since 1970
//! ```
//! Operations carry effects, never commands: replaying a prefix gives the same state on every node.

use crate::clock::TimeMs;
use crate::key::Generation;
use crate::types::{Epoch, NodeId, Seq, Slot};
use crate::value::Value;
use crate::varint;

/// Bytes of a record's header. Part of the format.
pub const HEADER_BYTES: usize = 20;
/// The greatest body: a 512 MiB key and value, and room to spare.
pub const BODY_BYTES_MAX: usize = 1 << 30;

const KIND_BATCH: u16 = 1;
const KIND_EPOCH_START: u16 = 2;
const KIND_GRANT: u16 = 3;
const KIND_TIME: u16 = 4;

/// A record's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Whose record it is.
    pub slot: Slot,
    /// The term of its epoch.
    pub term: u32,
    /// Its number in the slot.
    pub seq: Seq,
}

/// What a record says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body<'a> {
    /// Operations: see [`ops`]. Not checked beyond the checksum.
    Batch(&'a [u8]),
    /// An epoch begins with this record.
    EpochStart {
        /// The epoch.
        epoch: Epoch,
        /// The master that begins it.
        by: NodeId,
    },
    /// Ownership goes to another node; the last record of its epoch.
    Grant {
        /// Who may begin the next epoch.
        to: NodeId,
        /// The slot's time when it was given away: what had expired for its readers then.
        time: TimeMs,
        /// Where that node listens.
        address: &'a str,
    },
    /// What had expired by then was hidden from somebody here. Of this node's log only: see the file's head.
    Time(TimeMs),
}

impl Body<'_> {
    /// Whether it has a seq of its own and goes to replicas: all but times do.
    #[must_use]
    pub fn is_history(&self) -> bool {
        !matches!(self, Body::Time(_))
    }
}

/// A record within a buffer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// Slot, term, seq.
    pub header: Header,
    /// What it says.
    pub body: Body<'a>,
    /// The whole record as it lies in the log.
    pub bytes: &'a [u8],
}

/// Why bytes are not a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadRecord {
    /// More bytes are needed.
    #[error("cut short")]
    Short,
    /// The checksum does not hold.
    #[error("wrong checksum")]
    Checksum,
    /// The checksum holds but the content has no meaning: a newer format or a bug.
    #[error("{0}")]
    Meaning(&'static str),
}

impl<'a> Record<'a> {
    /// Takes the first record off `bytes` and checks it.
    ///
    /// # Errors
    /// See [`BadRecord`]; `bytes` is then as it was.
    pub fn take(bytes: &mut &'a [u8]) -> Result<Record<'a>, BadRecord> {
        let head = bytes.first_chunk::<HEADER_BYTES>().ok_or(BadRecord::Short)?;
        let body_len = usize::try_from(le32(&head[4..])).map_err(|_| BadRecord::Short)?;
        if body_len > BODY_BYTES_MAX {
            return Err(BadRecord::Checksum);
        }
        let (whole, rest) = bytes.split_at_checked(HEADER_BYTES + body_len).ok_or(BadRecord::Short)?;
        if crc32fast::hash(&whole[4..]) != le32(head) {
            return Err(BadRecord::Checksum);
        }
        let packed = u16::from_le_bytes([head[8], head[9]]);
        let slot = Slot::new(packed & 0x3ff).ok_or(BadRecord::Meaning("slot out of range"))?;
        let term = le32(&head[10..]);
        let mut seq = [0; 8];
        seq[..6].copy_from_slice(&head[14..20]);
        let seq = Seq(u64::from_le_bytes(seq));
        let body = decode_body(packed >> 10, term, &whole[HEADER_BYTES..])?;
        *bytes = rest;
        Ok(Record { header: Header { slot, term, seq }, body, bytes: whole })
    }
}

/// What bytes that may fail their checksum say of themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Slot, term, seq.
    pub header: Header,
    /// Bytes of the whole record.
    pub bytes: usize,
    /// See [`Body::is_history`].
    pub is_history: bool,
}

/// What the record at the front of `bytes` says of itself: for what fails its checksum. `None` if this can't be a
/// record's header.
#[must_use]
pub fn claimed(bytes: &[u8]) -> Option<Claim> {
    let head = bytes.first_chunk::<HEADER_BYTES>()?;
    let body_len = usize::try_from(le32(&head[4..])).ok().filter(|len| *len <= BODY_BYTES_MAX)?;
    let packed = u16::from_le_bytes([head[8], head[9]]);
    let mut seq = [0; 8];
    seq[..6].copy_from_slice(&head[14..20]);
    let header = Header {
        slot: Slot::new(packed & 0x3ff)?,
        term: le32(&head[10..]),
        seq: Seq(u64::from_le_bytes(seq)),
    };
    let kind = packed >> 10;
    let known = (KIND_BATCH..=KIND_TIME).contains(&kind) && (header.seq > Seq::ZERO || kind == KIND_TIME);
    known.then_some(Claim { header, bytes: HEADER_BYTES + body_len, is_history: kind != KIND_TIME })
}

/// Appends a record and returns its length.
///
/// # Panics
/// If the body is larger than [`BODY_BYTES_MAX`] or the seq than [`Seq::MAX`]; callers refuse such input before.
pub fn encode(out: &mut Vec<u8>, header: Header, body: &Body<'_>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    let kind = match body {
        Body::Batch(_) => KIND_BATCH,
        Body::EpochStart { .. } => KIND_EPOCH_START,
        Body::Grant { .. } => KIND_GRANT,
        Body::Time(_) => KIND_TIME,
    };
    match body {
        Body::Batch(ops) => out.extend_from_slice(ops),
        Body::EpochStart { epoch, by } => {
            assert_eq!(epoch.term, header.term, "an epoch's first record is in it");
            out.extend_from_slice(&epoch.tag.to_le_bytes());
            out.extend_from_slice(&by.0);
        }
        Body::Grant { to, time, address } => {
            out.extend_from_slice(&to.0);
            out.extend_from_slice(&time.0.to_le_bytes());
            varint::put_slice(out, address.as_bytes());
        }
        Body::Time(time) => out.extend_from_slice(&time.0.to_le_bytes()),
    }
    seal(&mut out[start..], header, kind);
    out.len() - start
}

/// Makes a record of operations that lie behind [`HEADER_BYTES`] of anything.
///
/// # Panics
/// As [`encode`].
pub fn seal_batch(record: &mut [u8], header: Header) {
    seal(record, header, KIND_BATCH);
}

/// Fills in a record's header.
fn seal(record: &mut [u8], header: Header, kind: u16) {
    assert!(header.seq <= Seq::MAX && header.seq > Seq::ZERO, "{} can't be written", header.seq);
    let (head, body) =
        record.split_first_chunk_mut::<HEADER_BYTES>().expect("it begins with a header's place");
    assert!(body.len() <= BODY_BYTES_MAX, "a record of {} bytes", body.len());
    let body_len = u32::try_from(body.len()).expect("below 2^30");
    head[4..8].copy_from_slice(&body_len.to_le_bytes());
    head[8..10].copy_from_slice(&(header.slot.number() | kind << 10).to_le_bytes());
    head[10..14].copy_from_slice(&header.term.to_le_bytes());
    head[14..].copy_from_slice(&header.seq.0.to_le_bytes()[..6]);
    let crc = crc32fast::hash(&record[4..]);
    record[..4].copy_from_slice(&crc.to_le_bytes());
}

fn le32(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |raw| u32::from_le_bytes(*raw))
}

fn decode_body(kind: u16, term: u32, body: &[u8]) -> Result<Body<'_>, BadRecord> {
    match kind {
        KIND_BATCH => Ok(Body::Batch(body)),
        KIND_EPOCH_START => {
            let (tag, node) = body.split_first_chunk::<8>().ok_or(BadRecord::Meaning("epoch start cut"))?;
            let by = node.try_into().map_err(|_| BadRecord::Meaning("epoch start of the wrong length"))?;
            Ok(Body::EpochStart { epoch: Epoch { term, tag: u64::from_le_bytes(*tag) }, by: NodeId(by) })
        }
        KIND_GRANT => {
            let (node, rest) = body.split_first_chunk::<20>().ok_or(BadRecord::Meaning("grant cut"))?;
            let (time, mut rest) = rest.split_first_chunk::<8>().ok_or(BadRecord::Meaning("grant cut"))?;
            let address = varint::take_slice(&mut rest).ok_or(BadRecord::Meaning("grant cut"))?;
            let address =
                std::str::from_utf8(address).map_err(|_| BadRecord::Meaning("address is not text"))?;
            if !rest.is_empty() {
                return Err(BadRecord::Meaning("grant of the wrong length"));
            }
            Ok(Body::Grant { to: NodeId(*node), time: TimeMs(u64::from_le_bytes(*time)), address })
        }
        KIND_TIME => {
            let time = body.try_into().map_err(|_| BadRecord::Meaning("time of the wrong length"))?;
            Ok(Body::Time(TimeMs(u64::from_le_bytes(time))))
        }
        _ => Err(BadRecord::Meaning("unknown kind of record: written by a newer version")),
    }
}

/// One effect on a slot's entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op<'a> {
    /// A key gets a value (encoded as in `value.rs`).
    Put {
        /// The user's key.
        key: &'a [u8],
        /// The encoded value.
        value: &'a [u8],
        /// Whether the key had an entry before: keeps the count of keys exact at replay.
        existed: bool,
    },
    /// A key that had an entry goes, with all its elements.
    Delete {
        /// The user's key.
        key: &'a [u8],
    },
    /// A collection's element gets a value.
    PutElement {
        /// The user's key.
        key: &'a [u8],
        /// The collection's generation.
        generation: Generation,
        /// The element's sub-key.
        sub: &'a [u8],
        /// The element's value, opaque.
        value: &'a [u8],
    },
    /// A collection's element goes.
    DeleteElement {
        /// The user's key.
        key: &'a [u8],
        /// The collection's generation.
        generation: Generation,
        /// The element's sub-key.
        sub: &'a [u8],
    },
    /// All keys of the slot go.
    Clear,
}

/// An operation's number, and four varints.
const OP_FIXED_BYTES_MAX: usize = 1 + 4 * 10;

impl Op<'_> {
    /// At least as many bytes as [`put_op`] appends.
    fn encoded_len_max(&self) -> usize {
        OP_FIXED_BYTES_MAX
            + match *self {
                Op::Put { key, value, .. } => key.len() + value.len(),
                Op::Delete { key } => key.len(),
                Op::PutElement { key, sub, value, .. } => key.len() + sub.len() + value.len(),
                Op::DeleteElement { key, sub, .. } => key.len() + sub.len(),
                Op::Clear => 0,
            }
    }
}

/// Appends the operation that sets the value at a key to a batch's body. The value comes last.
pub fn put_value<P: AsRef<[u8]>>(out: &mut Vec<u8>, key: &[u8], value: &Value<P>, existed: bool) {
    let value_len = value.encoded_len();
    out.reserve(OP_FIXED_BYTES_MAX + key.len() + value_len);
    out.push(put_number(existed));
    varint::put_slice(out, key);
    varint::put(out, value_len as u64);
    value.encode(out);
}

fn put_number(existed: bool) -> u8 {
    if existed { 2 } else { 1 }
}

/// Appends an operation to a batch's body. Its value, if it has one, comes last.
pub fn put_op(out: &mut Vec<u8>, op: &Op<'_>) {
    out.reserve(op.encoded_len_max());
    match *op {
        Op::Put { key, value, existed } => {
            out.push(put_number(existed));
            varint::put_slice(out, key);
            varint::put_slice(out, value);
        }
        Op::Delete { key } => {
            out.push(3);
            varint::put_slice(out, key);
        }
        Op::PutElement { key, generation, sub, value } => {
            out.push(4);
            varint::put_slice(out, key);
            varint::put(out, generation.0);
            varint::put_slice(out, sub);
            varint::put_slice(out, value);
        }
        Op::DeleteElement { key, generation, sub } => {
            out.push(5);
            varint::put_slice(out, key);
            varint::put(out, generation.0);
            varint::put_slice(out, sub);
        }
        Op::Clear => out.push(6),
    }
}

/// The operations of a batch's body, in order. Yields an error once, then ends, if the body has no meaning.
#[must_use]
pub fn ops(body: &[u8]) -> Ops<'_> {
    Ops(body)
}

/// See [`ops`].
#[derive(Clone, Debug)]
pub struct Ops<'a>(&'a [u8]);

impl<'a> Iterator for Ops<'a> {
    type Item = Result<Op<'a>, BadRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let op = take_op(&mut self.0).ok_or(BadRecord::Meaning("operation cut short or unknown"));
        if op.is_err() {
            self.0 = &[];
        }
        Some(op)
    }
}

fn take_op<'a>(bytes: &mut &'a [u8]) -> Option<Op<'a>> {
    let (&number, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(match number {
        1 | 2 => Op::Put {
            key: varint::take_slice(bytes)?,
            value: varint::take_slice(bytes)?,
            existed: number == 2,
        },
        3 => Op::Delete { key: varint::take_slice(bytes)? },
        4 => Op::PutElement {
            key: varint::take_slice(bytes)?,
            generation: Generation(varint::take(bytes)?),
            sub: varint::take_slice(bytes)?,
            value: varint::take_slice(bytes)?,
        },
        5 => Op::DeleteElement {
            key: varint::take_slice(bytes)?,
            generation: Generation(varint::take(bytes)?),
            sub: varint::take_slice(bytes)?,
        },
        6 => Op::Clear,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(seq: u64) -> Header {
        Header { slot: Slot::new(1023).expect("in range"), term: 7, seq: Seq(seq) }
    }

    #[test]
    fn every_operation_and_kind_of_record_reads_back() {
        let all = [
            Op::Put { key: b"k", value: b"v", existed: false },
            Op::Put { key: b"", value: b"", existed: true },
            Op::Delete { key: b"k" },
            Op::PutElement { key: b"k", generation: Generation(300), sub: b"f", value: b"v" },
            Op::DeleteElement { key: b"k", generation: Generation(3), sub: b"" },
            Op::Clear,
        ];
        let mut batch = Vec::new();
        all.iter().for_each(|op| put_op(&mut batch, op));
        let node = NodeId([9; 20]);
        let bodies = [
            Body::Batch(&batch),
            Body::EpochStart { epoch: Epoch { term: 7, tag: 5 }, by: node },
            Body::Grant { to: node, time: TimeMs(1_700_000_000_000), address: "127.0.0.1:9221" },
            Body::Time(TimeMs(1_700_000_000_001)),
        ];
        let mut log = Vec::new();
        for (index, body) in bodies.iter().enumerate() {
            encode(&mut log, header(index as u64 + 1), body);
        }
        let mut rest = &log[..];
        for (index, body) in bodies.iter().enumerate() {
            let record = Record::take(&mut rest).expect("whole");
            assert_eq!(record.header, header(index as u64 + 1));
            assert_eq!(&record.body, body);
        }
        assert_eq!(Record::take(&mut rest), Err(BadRecord::Short));
        let read: Vec<_> = ops(&batch).collect::<Result<_, _>>().expect("whole");
        assert_eq!(read, all);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut log = Vec::new();
        encode(&mut log, header(1), &Body::Batch(b"\x06"));
        for bit in 0..log.len() * 8 {
            let mut bad = log.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::take(&mut &bad[..]).is_err(), "bit {bit}");
        }
    }
}
