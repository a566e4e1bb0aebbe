//! Edits as bytes.
//!
//! ```text
//! edit, part of the format: u8 number, varint length, body of that length
//!  1 node            20 bytes node, varint incarnation (0: a checkpoint; its first start draws a new node),
//!                    option(varint) clean end, varint log start, varint next file
//!  2 slot            varint slot, state, varint highest term, history, epochs superseded, varints base seq,
//!                    base lsn, role lsn, flushed seq, flushed keys, time; option(20 bytes node, text) granted;
//!                    varint n, n settled grants: epoch ended, option(epoch) begun
//!  3 runs            varint slot, varint n, n run metas (`sst/properties.rs`), varint m, m times: varint file,
//!                    varint offset
//!  4 registration    20 bytes node, text address, varint n, n times: varint slot, option(varint) seq
//!  5 forgotten       20 bytes node
//!  6 log synced      varint lsn: everything in the log before this was synced
//!  7 incoming        varint slot; option(varint file, 20 bytes source node, varint n, n parts): what is here of the
//!                    copy that it waits for
//!
//!  part      of a run as it lies at the source: varints file, offset, len, crc; here: varints offset, bytes, crc of them
//!
//!  state     varint: 0 absent, 1 master, 2 replica + text, 3 loading + text, 4 moved + text, 5 replica by force + text
//!  history   varint n, n times: epoch, varint first seq
//!  epochs    varint n, n epochs;  epoch: varint term, 8 bytes tag, little-endian
//!  option    u8 0, or u8 1 and the thing;  text: varint length and UTF-8
//! ```

use super::state::{Edit, Incoming, NodeMeta, Part, PartId, SettledGrant, SlotMeta, SlotState};
use crate::clock::TimeMs;
use crate::history::{EpochStart, History};
use crate::sst::{FileNo, RunMeta};
use crate::types::{Epoch, Lsn, NodeId, Seq, Slot};
use crate::varint;

const NODE: u8 = 1;
const SLOT: u8 = 2;
const RUNS: u8 = 3;
const REGISTRATION: u8 = 4;
const FORGOTTEN: u8 = 5;
const LOG_SYNCED: u8 = 6;
const INCOMING: u8 = 7;

/// Why bytes are no edit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadEdit {
    /// A number that this program does not know.
    Newer(u8),
    /// No meaning at all.
    Meaning,
}

/// Appends an edit.
pub fn encode(edit: &Edit, out: &mut Vec<u8>) {
    let mut body = Vec::new();
    let number = match edit {
        Edit::Node(node) => {
            put_node(&mut body, node);
            NODE
        }
        Edit::Slot(slot, meta) => {
            varint::put(&mut body, u64::from(slot.number()));
            put_slot(&mut body, meta);
            SLOT
        }
        Edit::Runs { slot, add, remove } => {
            varint::put(&mut body, u64::from(slot.number()));
            varint::put(&mut body, add.len() as u64);
            add.iter().for_each(|run| run.encode(&mut body));
            varint::put(&mut body, remove.len() as u64);
            for (file, offset) in remove {
                varint::put(&mut body, file.0);
                varint::put(&mut body, *offset);
            }
            RUNS
        }
        Edit::Registration { node, address, acked } => {
            body.extend_from_slice(&node.0);
            varint::put_slice(&mut body, address.as_bytes());
            varint::put(&mut body, acked.len() as u64);
            for (slot, seq) in acked {
                varint::put(&mut body, u64::from(slot.number()));
                put_option(&mut body, seq.map(|seq| seq.0));
            }
            REGISTRATION
        }
        Edit::ReplicaForgotten(node) => {
            body.extend_from_slice(&node.0);
            FORGOTTEN
        }
        Edit::LogSynced(lsn) => {
            varint::put(&mut body, lsn.0);
            LOG_SYNCED
        }
        Edit::Incoming(slot, incoming) => {
            varint::put(&mut body, u64::from(slot.number()));
            put_incoming(&mut body, incoming.as_ref());
            INCOMING
        }
    };
    out.push(number);
    varint::put_slice(out, &body);
}

/// Takes an edit off the front.
///
/// # Errors
/// See [`BadEdit`].
pub fn take(bytes: &mut &[u8]) -> Result<Edit, BadEdit> {
    let (&number, rest) = bytes.split_first().ok_or(BadEdit::Meaning)?;
    *bytes = rest;
    let mut body = varint::take_slice(bytes).ok_or(BadEdit::Meaning)?;
    let edit = match number {
        NODE => take_node(&mut body).map(Edit::Node),
        SLOT => take_slot(&mut body),
        RUNS => take_runs(&mut body),
        REGISTRATION => take_registration(&mut body),
        FORGOTTEN => take_id(&mut body).map(Edit::ReplicaForgotten),
        LOG_SYNCED => varint::take(&mut body).map(|lsn| Edit::LogSynced(Lsn(lsn))),
        INCOMING => take_incoming(&mut body),
        _ => return Err(BadEdit::Newer(number)),
    };
    edit.filter(|_| body.is_empty()).ok_or(BadEdit::Meaning)
}

fn put_option(out: &mut Vec<u8>, number: Option<u64>) {
    out.push(u8::from(number.is_some()));
    if let Some(number) = number {
        varint::put(out, number);
    }
}

fn take_flag(bytes: &mut &[u8]) -> Option<bool> {
    let (&flag, rest) = bytes.split_first()?;
    *bytes = rest;
    (flag < 2).then_some(flag == 1)
}

#[allow(clippy::option_option)] // the outer one: the bytes hold one at all
fn take_option(bytes: &mut &[u8]) -> Option<Option<u64>> {
    if take_flag(bytes)? { varint::take(bytes).map(Some) } else { Some(None) }
}

fn take_id(bytes: &mut &[u8]) -> Option<NodeId> {
    let (id, rest) = bytes.split_first_chunk::<20>()?;
    *bytes = rest;
    Some(NodeId(*id))
}

fn take_text(bytes: &mut &[u8]) -> Option<String> {
    String::from_utf8(varint::take_slice(bytes)?.to_vec()).ok()
}

fn take_slot_number(bytes: &mut &[u8]) -> Option<Slot> {
    Slot::new(u16::try_from(varint::take(bytes)?).ok()?)
}

/// Takes a count and that many things.
fn take_many<T>(bytes: &mut &[u8], mut one: impl FnMut(&mut &[u8]) -> Option<T>) -> Option<Vec<T>> {
    let count = varint::take(bytes)?;
    // Each takes a byte at least: a greater claim fails before memory is taken for it.
    (0..count).map(|_| one(bytes)).collect()
}

fn put_node(out: &mut Vec<u8>, node: &NodeMeta) {
    out.extend_from_slice(&node.node.0);
    varint::put(out, u64::from(node.incarnation));
    put_option(out, node.clean_end.map(|lsn| lsn.0));
    varint::put(out, node.log_start.0);
    varint::put(out, node.next_file.0);
}

fn take_node(bytes: &mut &[u8]) -> Option<NodeMeta> {
    Some(NodeMeta {
        node: take_id(bytes)?,
        incarnation: u32::try_from(varint::take(bytes)?).ok()?,
        clean_end: take_option(bytes)?.map(Lsn),
        log_start: Lsn(varint::take(bytes)?),
        next_file: FileNo(varint::take(bytes)?),
    })
}

fn put_epoch(out: &mut Vec<u8>, epoch: Epoch) {
    varint::put(out, u64::from(epoch.term));
    out.extend_from_slice(&epoch.tag.to_le_bytes());
}

fn take_epoch(bytes: &mut &[u8]) -> Option<Epoch> {
    let term = u32::try_from(varint::take(bytes)?).ok()?;
    let (tag, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(Epoch { term, tag: u64::from_le_bytes(*tag) })
}

fn put_state(out: &mut Vec<u8>, state: &SlotState, force: bool) {
    let (number, text) = match state {
        SlotState::Absent => (0, None),
        SlotState::Master => (1, None),
        SlotState::Replica { upstream } => (if force { 5 } else { 2 }, Some(upstream)),
        SlotState::Loading { upstream } => (3, Some(upstream)),
        SlotState::Moved { to } => (4, Some(to)),
    };
    varint::put(out, number);
    if let Some(text) = text {
        varint::put_slice(out, text.as_bytes());
    }
}

fn take_state(bytes: &mut &[u8]) -> Option<(SlotState, bool)> {
    let number = varint::take(bytes)?;
    let state = match number {
        0 => SlotState::Absent,
        1 => SlotState::Master,
        2 | 5 => SlotState::Replica { upstream: take_text(bytes)? },
        3 => SlotState::Loading { upstream: take_text(bytes)? },
        4 => SlotState::Moved { to: take_text(bytes)? },
        _ => return None,
    };
    Some((state, number == 5))
}

fn put_slot(out: &mut Vec<u8>, meta: &SlotMeta) {
    put_state(out, &meta.state, meta.force);
    varint::put(out, u64::from(meta.highest_term));
    varint::put(out, meta.history.starts().len() as u64);
    for start in meta.history.starts() {
        put_epoch(out, start.epoch);
        varint::put(out, start.first_seq.0);
    }
    varint::put(out, meta.superseded.len() as u64);
    meta.superseded.iter().for_each(|&epoch| put_epoch(out, epoch));
    for number in [
        meta.base_seq.0,
        meta.base_lsn.0,
        meta.role_lsn.0,
        meta.flushed_seq.0,
        meta.flushed_keys,
        meta.time.0,
    ] {
        varint::put(out, number);
    }
    out.push(u8::from(meta.granted.is_some()));
    if let Some((node, address)) = &meta.granted {
        out.extend_from_slice(&node.0);
        varint::put_slice(out, address.as_bytes());
    }
    varint::put(out, meta.settled.len() as u64);
    for settled in &meta.settled {
        put_epoch(out, settled.ended);
        out.push(u8::from(settled.began.is_some()));
        if let Some(began) = settled.began {
            put_epoch(out, began);
        }
    }
}

fn take_slot(bytes: &mut &[u8]) -> Option<Edit> {
    let slot = take_slot_number(bytes)?;
    let (state, force) = take_state(bytes)?;
    let highest_term = u32::try_from(varint::take(bytes)?).ok()?;
    let starts = take_many(bytes, |bytes| {
        Some(EpochStart { epoch: take_epoch(bytes)?, first_seq: Seq(varint::take(bytes)?) })
    })?;
    let meta = SlotMeta {
        state,
        force,
        highest_term,
        history: History::from_starts(starts)?,
        superseded: take_many(bytes, take_epoch)?,
        base_seq: Seq(varint::take(bytes)?),
        base_lsn: Lsn(varint::take(bytes)?),
        role_lsn: Lsn(varint::take(bytes)?),
        flushed_seq: Seq(varint::take(bytes)?),
        flushed_keys: varint::take(bytes)?,
        time: TimeMs(varint::take(bytes)?),
        granted: if take_flag(bytes)? { Some((take_id(bytes)?, take_text(bytes)?)) } else { None },
        settled: take_many(bytes, |bytes| {
            let ended = take_epoch(bytes)?;
            let began = if take_flag(bytes)? { Some(take_epoch(bytes)?) } else { None };
            Some(SettledGrant { ended, began })
        })?,
    };
    Some(Edit::Slot(slot, Box::new(meta)))
}

fn put_incoming(out: &mut Vec<u8>, incoming: Option<&Incoming>) {
    out.push(u8::from(incoming.is_some()));
    let Some(incoming) = incoming else { return };
    varint::put(out, incoming.file.0);
    out.extend_from_slice(&incoming.source.0);
    varint::put(out, incoming.parts.len() as u64);
    for Part { of, offset, here, crc_here } in &incoming.parts {
        for number in [of.file.0, of.offset, of.len, u64::from(of.crc), *offset, *here, u64::from(*crc_here)]
        {
            varint::put(out, number);
        }
    }
}

fn take_incoming(bytes: &mut &[u8]) -> Option<Edit> {
    let slot = take_slot_number(bytes)?;
    if !take_flag(bytes)? {
        return Some(Edit::Incoming(slot, None));
    }
    let (file, source) = (FileNo(varint::take(bytes)?), take_id(bytes)?);
    let parts = take_many(bytes, |bytes| {
        let mut next = || varint::take(bytes);
        let of = PartId {
            file: FileNo(next()?),
            offset: next()?,
            len: next()?,
            crc: u32::try_from(next()?).ok()?,
        };
        let (offset, here) = (next()?, next()?);
        let crc_here = u32::try_from(next()?).ok()?;
        (here <= of.len).then_some(Part { of, offset, here, crc_here })
    })?;
    Some(Edit::Incoming(slot, Some(Incoming { file, source, parts })))
}

fn take_runs(bytes: &mut &[u8]) -> Option<Edit> {
    Some(Edit::Runs {
        slot: take_slot_number(bytes)?,
        add: take_many(bytes, RunMeta::take)?,
        remove: take_many(bytes, |bytes| Some((FileNo(varint::take(bytes)?), varint::take(bytes)?)))?,
    })
}

fn take_registration(bytes: &mut &[u8]) -> Option<Edit> {
    Some(Edit::Registration {
        node: take_id(bytes)?,
        address: take_text(bytes)?,
        acked: take_many(bytes, |bytes| Some((take_slot_number(bytes)?, take_option(bytes)?.map(Seq))))?,
    })
}
