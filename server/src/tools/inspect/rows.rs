//! What stands in which column: a row for each thing that `inspect` shows.

use std::path::Path;

use haypile_engine::key;
use haypile_engine::log::frame;
use haypile_engine::log::inspect::{Hole, Item, SegmentFile};
use haypile_engine::log::record::{Body, Record};
use haypile_engine::log::segment::number_of;
use haypile_engine::manifest::inspect as manifest;
use haypile_engine::manifest::{Edit, SlotEntry, SlotState};
use haypile_engine::sst::EntryRef;
use haypile_engine::types::{Lsn, Slot};
use haypile_engine::value::Header;

use crate::tools::sheet::{Cell, Column, shown};

pub(super) const LOG: &[Column] = &[
    ("segment", 16),
    ("offset", 9),
    ("what", 8),
    ("lsn", 12),
    ("slot", 4),
    ("term", 5),
    ("seq", 8),
    ("kind", 11),
    ("bytes", 8),
    ("note", 0),
];

pub(super) const SLOTS: &[Column] = &[
    ("slot", 4),
    ("state", 22),
    ("highest_term", 12),
    ("base_seq", 8),
    ("flushed_seq", 11),
    ("keys", 8),
    ("runs", 4),
    ("bytes", 10),
    ("base_lsn", 10),
    ("role_lsn", 10),
    ("time", 13),
    ("granted", 0),
];

pub(super) const RUNS: &[Column] = &[
    ("file", 12),
    ("offset", 9),
    ("slot", 4),
    ("bytes", 9),
    ("min_seq", 8),
    ("max_seq", 8),
    ("entries", 8),
    ("tombstones", 10),
    ("keys", 8),
    ("raw_bytes", 9),
    ("min_expiry", 13),
    ("blocks", 6),
    ("filter_bytes", 12),
    ("filter_fill", 11),
    ("false_share", 11),
    ("index_bytes", 11),
];

pub(super) const BLOCKS: &[Column] =
    &[("number", 6), ("offset", 9), ("bytes", 7), ("entries", 7), ("compressed", 10), ("note", 0)];

pub(super) const ENTRIES: &[Column] = &[
    ("key", 32),
    ("generation", 10),
    ("element", 16),
    ("what", 9),
    ("kind", 4),
    ("expiry", 13),
    ("bytes", 7),
    ("note", 0),
];

pub(super) fn lsn(at: Lsn) -> Cell {
    at.to_string().into()
}

pub(super) fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn state_name(state: &SlotState) -> String {
    match state {
        SlotState::Absent => "absent".to_owned(),
        SlotState::Master => "master".to_owned(),
        SlotState::Replica { upstream } => format!("replica of {upstream}"),
        SlotState::Loading { upstream } => format!("loading from {upstream}"),
        SlotState::Moved { to } => format!("moved to {to}"),
    }
}

pub(super) fn segment_row(segment: &SegmentFile) -> [Cell; 10] {
    let header = segment.header;
    let note = match &segment.bad_header {
        None => format!("number {} of node {}", header.number, header.node),
        Some(bad) => format!("the header does not hold ({bad}); made again from its neighbours"),
    };
    let mut row = note_row(&name_of(&segment.path), "segment", &note);
    (row[1], row[3], row[8]) = (0_u64.into(), lsn(header.base), header.bytes.into());
    row
}

pub(super) fn note_row(name: &str, what: &str, note: &str) -> [Cell; 10] {
    let none = || Cell::None;
    let stem = if number_of(name).is_some() { name.trim_end_matches(".log") } else { name };
    [stem.into(), none(), what.into(), none(), none(), none(), none(), none(), none(), note.into()]
}

/// The row of something in a segment; none if only a slot's records are wanted and it is none of them.
pub(super) fn log_row(name: &str, base: Lsn, only: Option<Slot>, item: &Item<'_>) -> Option<[Cell; 10]> {
    let row = |what: &str, offset: u64, bytes: Option<u64>, note: String| {
        let mut row = note_row(name, what, &note);
        (row[1], row[3]) = (offset.into(), lsn(base.advance(offset)));
        row[8] = bytes.into();
        row
    };
    match item {
        Item::Frame { offset, header, body_bytes } => {
            let mut note = format!("start {}, synced {}", header.incarnation, header.synced);
            for (flag, name) in [
                (frame::MORE, "more"),
                (frame::CONTINUED, "continued"),
                (frame::SEAL, "seal"),
                (frame::CLEAN_STOP, "clean stop"),
            ] {
                if header.has(flag) {
                    note.push_str(", ");
                    note.push_str(name);
                }
            }
            let mut row = row("frame", *offset, Some(*body_bytes as u64), note);
            row[3] = lsn(header.lsn);
            unless(only, row)
        }
        Item::Record(at) => {
            let Record { header, body, bytes } = &at.record;
            if only.is_some_and(|only| only != header.slot) {
                return None;
            }
            let (kind, note) = match body {
                Body::Batch(ops) => {
                    ("batch", format!("{} operations", haypile_engine::log::record::ops(ops).count()))
                }
                Body::EpochStart { epoch, by } => ("epoch start", format!("epoch {epoch} by {by}")),
                Body::Grant { to, time, address } => {
                    ("grant", format!("to {to} at {address}, time {}", time.0))
                }
                Body::Time(time) => ("time", format!("what expired by {} was hidden", time.0)),
            };
            let mut row = note_row(name, "record", &note);
            row[3] = lsn(at.lsn);
            row[4] = Cell::Number(header.slot.number().into());
            row[5] = Cell::Number(header.term.into());
            (row[6], row[7], row[8]) = (header.seq.0.into(), kind.into(), bytes.len().into());
            Some(row)
        }
        Item::BadRecord { offset, what } => Some(row("damage", *offset, None, what.clone())),
        Item::Seal { offset, index, bad, .. } => {
            let slots = index.as_ref().map_or(0, |index| index.iter().len());
            let note = bad.clone().unwrap_or_else(|| format!("index of {slots} slots"));
            unless(only.filter(|_| bad.is_none()), row("seal", *offset, None, note))
        }
        Item::Hole(hole) => Some(row("damage", hole.offset, Some(hole.bytes), hole_note(hole))),
        Item::End { offset, torn_bytes: 0, .. } => unless(only, row("end", *offset, None, String::new())),
        Item::End { offset, torn_bytes, .. } => {
            let note = "a write that was never finished; a start cuts it".to_owned();
            Some(row("torn end", *offset, Some(*torn_bytes), note))
        }
    }
}

/// What is known of bytes where frames should be.
pub(super) fn hole_note(hole: &Hole) -> String {
    let lost: Vec<String> =
        hole.lost.iter().map(|lost| format!("slot {} seq {}", lost.header.slot, lost.header.seq)).collect();
    let lost = if lost.is_empty() { String::new() } else { format!("; lost: {}", lost.join(", ")) };
    let unknown = if hole.unknown { "; there may have been other records" } else { "" };
    format!("no frame: {}; {} promises one{lost}{unknown}", hole.what, hole.promised_by)
}

/// What is not a slot's is left out where only a slot is wanted.
fn unless(only: Option<Slot>, row: [Cell; 10]) -> Option<[Cell; 10]> {
    only.is_none().then_some(row)
}

pub(super) fn manifest_row(item: &manifest::Item<'_>) -> [Cell; 5] {
    let none = || Cell::None;
    let of_edit = |edit: &Edit, saved: &str| {
        let (what, slot, note) = match edit {
            Edit::Node(node) => {
                ("node", None, format!("start {}, log from {}", node.incarnation, node.log_start))
            }
            Edit::Slot(slot, meta) => (
                "slot",
                Some(*slot),
                format!("{}, flushed up to {}", state_name(&meta.state), meta.flushed_seq),
            ),
            Edit::Runs { slot, add, remove } => {
                let place = |file: u64, offset: u64| format!("{file:06}.pack@{offset}");
                let add = add.iter().map(|run| format!(" +{}", place(run.file.0, run.offset)));
                let remove = remove.iter().map(|(file, offset)| format!(" -{}", place(file.0, *offset)));
                ("runs", Some(*slot), add.chain(remove).collect::<String>().trim_start().to_owned())
            }
            Edit::Registration { node, address, acked } => {
                ("registration", None, format!("{node} at {address}, {} slots", acked.len()))
            }
            Edit::ReplicaForgotten(node) => ("forgotten", None, node.to_string()),
            Edit::Incoming(slot, incoming) => {
                let told = incoming.as_ref().map_or_else(
                    || "nothing of a copy".to_owned(),
                    |incoming| {
                        let bytes: u64 = incoming.parts.iter().map(|part| part.here).sum();
                        let (file, source) = (incoming.file.0, incoming.source);
                        format!("{bytes} bytes of a copy of {source}'s, in {file:06}.pack")
                    },
                );
                ("incoming", Some(*slot), told)
            }
            Edit::LogSynced(lsn) => ("log synced", None, format!("before {lsn}")),
        };
        let slot = slot.map_or(Cell::None, |slot| Cell::Number(slot.number().into()));
        [Cell::None, Cell::None, what.into(), slot, format!("{saved}{note}").into()]
    };
    match item {
        manifest::Item::Frame { offset, bytes, confirms } => {
            let what = if *confirms { "confirmation" } else { "frame" };
            [(*offset).into(), (*bytes).into(), what.into(), none(), none()]
        }
        manifest::Item::Edit(edit) => of_edit(edit, ""),
        manifest::Item::SavedEdit(edit) => of_edit(edit, "(not certain) "),
        manifest::Item::BadEdit { offset, slot, what } => {
            let slot = slot.map_or(Cell::None, |slot| Cell::Number(slot.number().into()));
            [(*offset).into(), none(), "damage".into(), slot, what.as_str().into()]
        }
        manifest::Item::Damage { offset, bytes, what, .. } => {
            [(*offset).into(), (*bytes).into(), "damage".into(), none(), (*what).into()]
        }
        manifest::Item::TornEnd { offset, bytes } => {
            let note = "a write that was never finished; a start cuts it";
            [(*offset).into(), (*bytes).into(), "torn end".into(), none(), note.into()]
        }
    }
}

pub(super) fn slot_row(slot: Slot, entry: &SlotEntry) -> [Cell; 12] {
    let meta = &entry.meta;
    let granted = meta.granted.as_ref().map(|(node, address)| format!("to {node} at {address}"));
    [
        Cell::Number(slot.number().into()),
        state_name(&meta.state).into(),
        Cell::Number(meta.highest_term.into()),
        meta.base_seq.0.into(),
        meta.flushed_seq.0.into(),
        meta.flushed_keys.into(),
        entry.runs.len().into(),
        entry.runs.iter().map(|run| run.len).sum::<u64>().into(),
        lsn(meta.base_lsn),
        lsn(meta.role_lsn),
        meta.time.0.into(),
        granted.into(),
    ]
}

pub(super) fn entry_row((entry_key, entry): (&[u8], EntryRef<'_>)) -> [Cell; 8] {
    let Some(parts) = key::split(entry_key) else {
        let none = || Cell::None;
        let note = "no entry key".into();
        return [shown(entry_key).into(), none(), none(), none(), none(), none(), none(), note];
    };
    let (generation, element) = match parts.element {
        None => (Cell::None, Cell::None),
        Some((generation, sub)) => (generation.0.into(), shown(sub).into()),
    };
    let header = match (entry, parts.element) {
        (EntryRef::Value(value), None) => Header::decode(value),
        _ => None,
    };
    let what = if entry == EntryRef::Tombstone { "tombstone" } else { "value" };
    [
        shown(parts.key).into(),
        generation,
        element,
        what.into(),
        header.map_or(Cell::None, |header| Cell::Number(header.kind.into())),
        header.and_then(|header| header.expiry).map(|at| at.0).into(),
        entry.value_len().into(),
        header.and_then(|header| header.generation).map(|of| format!("elements of {}", of.0)).into(),
    ]
}
