//! Streams in payloads.
//!
//! ```text
//! object, Redis' format; an id is two lengths, a raw id 16 bytes, big-endian, a moment 8 bytes, little-endian milliseconds
//!  length     nodes, each: string of a raw id (its first entry's), string holding a listpack
//!  length     entries
//!  id         the last id
//!  id id      the first entry's, the greatest that was deleted by name                                        from 19
//!  length     entries ever added                                                                              from 19
//!  length     groups, each:
//!    string     name
//!    id         last id given
//!    length     entries read; all bits set if that is not known                                               from 19
//!    length     pending ones, each: raw id, moment when it was given, length: how often
//!    length     consumers, each: string: name, moment when it was seen, (in 21) moment when it was active,
//!               length: its pending ones, each a raw id
//!
//! listpack    entries, deleted ones, fields of the first entry, their names, 0; then the entries, each:
//!             flags (1 deleted, 2 the first entry's fields), milliseconds and sequence beyond the node's id,
//!             values; or how many fields, and name and value in turn; how many items that were
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;

use super::packed::{self, Cursor, Listpack};
use super::read::Reader;
use super::types;
use super::write::Writer;
use crate::number;

/// An entry's id: milliseconds and sequence.
pub type Id = (u64, u64);

/// The most entries of a node, and the bytes after which it takes no more: Redis' defaults.
const NODE_ENTRIES: usize = 100;
const NODE_BYTES: usize = 4096;

/// What an entry's flags say.
const DELETED: i64 = 1;
const SAME_FIELDS: i64 = 2;

/// A stream.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stream {
    /// Its entries in order, each with its strings: field, value, field, value ...
    pub entries: Vec<(Id, Vec<Bytes>)>,
    /// The id after which the next one comes.
    pub last: Id,
    /// The greatest id that was deleted by name.
    pub deleted: Id,
    /// How many entries it ever had.
    pub added: u64,
    /// Its groups.
    pub groups: Vec<Group>,
}

/// A group of consumers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// Its name.
    pub name: Bytes,
    /// The last id that it has given out.
    pub last: Id,
    /// How many of all entries it has read, if known.
    pub read: Option<u64>,
    /// Its consumers: names, and when each was seen, in milliseconds since 1970.
    pub consumers: Vec<(Bytes, u64)>,
    /// What is pending, in the order of ids.
    pub pending: Vec<Pending>,
}

/// An entry that was given to a consumer and not acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pending {
    /// Which.
    pub id: Id,
    /// When it was given out, in milliseconds since 1970.
    pub given_ms: u64,
    /// How often.
    pub count: u64,
    /// To which of the group's consumers.
    pub consumer: usize,
}

fn raw(id: Id) -> [u8; 16] {
    (u128::from(id.0) << 64 | u128::from(id.1)).to_be_bytes()
}

fn raw_id(cursor: &mut Cursor) -> Option<Id> {
    Some((u64::from_be_bytes(cursor.array()?), u64::from_be_bytes(cursor.array()?)))
}

impl Stream {
    /// How many entries were ever added up to an id, where that can be told: payloads before 19 don't say.
    fn added_up_to(&self, id: Id) -> Option<u64> {
        let (first, length) = (self.entries.first().map(|(first, _)| *first), self.entries.len() as u64);
        match first {
            _ if self.added == 0 => Some(0),
            _ if id == self.last => Some(self.added),
            _ if id > self.last => None,
            None => Some(self.added),
            Some(first) if id > first => None,
            Some(first) => Some(self.added - length + u64::from(id == first)),
        }
    }
}

// --- writing ---

impl Writer {
    /// A stream, whole.
    #[must_use]
    pub fn stream(stream: &Stream) -> Writer {
        let mut out = Writer(vec![types::STREAM_2]);
        let nodes = nodes(&stream.entries);
        out.number(nodes.len() as u64);
        for (id, node) in &nodes {
            out.item(&raw(*id));
            out.item(node);
        }
        let first = stream.entries.first().map_or((0, 0), |(id, _)| *id);
        out.number(stream.entries.len() as u64);
        [stream.last, first, stream.deleted].into_iter().for_each(|id| out.id(id));
        out.number(stream.added);
        out.number(stream.groups.len() as u64);
        stream.groups.iter().for_each(|group| out.group(group));
        out
    }

    fn id(&mut self, id: Id) {
        self.number(id.0);
        self.number(id.1);
    }

    fn group(&mut self, group: &Group) {
        self.item(&group.name);
        self.id(group.last);
        self.number(group.read.unwrap_or(u64::MAX));
        self.number(group.pending.len() as u64);
        for pending in &group.pending {
            self.0.extend_from_slice(&raw(pending.id));
            self.0.extend_from_slice(&pending.given_ms.to_le_bytes());
            self.number(pending.count);
        }
        let mut own = vec![Vec::new(); group.consumers.len()];
        group.pending.iter().for_each(|pending| own[pending.consumer].push(pending.id));
        self.number(group.consumers.len() as u64);
        for ((name, seen_ms), own) in group.consumers.iter().zip(own) {
            self.item(name);
            self.0.extend_from_slice(&seen_ms.to_le_bytes());
            self.number(own.len() as u64);
            own.into_iter().for_each(|id| self.0.extend_from_slice(&raw(id)));
        }
    }
}

fn nodes(entries: &[(Id, Vec<Bytes>)]) -> Vec<(Id, Vec<u8>)> {
    let mut out = Vec::new();
    let mut rest = entries;
    while let Some((id, first)) = rest.first() {
        let mut bytes = 0;
        let fits = |(_, strings): &&(Id, Vec<Bytes>)| {
            let goes_on = bytes < NODE_BYTES;
            bytes += strings.iter().map(Bytes::len).sum::<usize>();
            goes_on
        };
        let count = rest.iter().take(NODE_ENTRIES).take_while(fits).count();
        let (here, behind) = rest.split_at(count);
        out.push((*id, node(*id, first, here)));
        rest = behind;
    }
    out
}

fn node(master: Id, first: &[Bytes], entries: &[(Id, Vec<Bytes>)]) -> Vec<u8> {
    let fields = |strings: &[Bytes]| -> Vec<Bytes> { strings.iter().step_by(2).cloned().collect() };
    let names = fields(first);
    let count = |count: usize| i64::try_from(count).expect("what is in memory");
    let mut out = Listpack::default();
    out.integer(count(entries.len()));
    out.integer(0);
    out.integer(count(names.len()));
    names.iter().for_each(|name| out.string(name));
    out.integer(0);
    for (id, strings) in entries {
        let same = fields(strings) == names;
        out.integer(if same { SAME_FIELDS } else { 0 });
        out.integer(id.0.wrapping_sub(master.0).cast_signed());
        out.integer(id.1.wrapping_sub(master.1).cast_signed());
        let items = if same {
            strings.iter().skip(1).step_by(2).for_each(|value| out.string(value));
            names.len() + 3
        } else {
            out.integer(count(strings.len() / 2));
            strings.iter().for_each(|string| out.string(string));
            strings.len() + 4
        };
        out.integer(count(items));
    }
    out.finish()
}

// --- reading ---

/// The stream of a payload of this type; `None` if the bytes are none.
pub(super) fn read(reader: &mut Reader, kind: u8) -> Option<Stream> {
    let mut out = Stream::default();
    for _ in 0..reader.number()? {
        let mut id = Cursor::new(reader.string()?);
        let master = raw_id(&mut id).filter(|_| id.is_at_end())?;
        read_node(&packed::listpack(&reader.string()?)?, master, &mut out.entries)?;
    }
    let length = reader.number()?;
    out.last = read_id(reader)?;
    out.added = length;
    if kind != types::STREAM {
        read_id(reader)?;
        out.deleted = read_id(reader)?;
        out.added = reader.number()?;
    }
    let ids = [(0, 0)].into_iter().chain(out.entries.iter().map(|(id, _)| *id));
    let ascend = ids.is_sorted_by(|one, next| one < next);
    let last = out.entries.last().map_or((0, 0), |(id, _)| *id);
    if out.entries.len() as u64 != length || !ascend || last > out.last || out.added < length {
        return None;
    }
    for _ in 0..reader.number()? {
        let group = read_group(reader, kind, &out)?;
        out.groups.push(group);
    }
    Some(out)
}

fn read_id(reader: &mut Reader) -> Option<Id> {
    Some((reader.number()?, reader.number()?))
}

fn read_node(items: &[Bytes], master: Id, out: &mut Vec<(Id, Vec<Bytes>)>) -> Option<()> {
    let mut items = items.iter();
    let integer = |items: &mut std::slice::Iter<'_, Bytes>| number::integer(items.next()?);
    let counted = |items: &mut std::slice::Iter<'_, Bytes>| usize::try_from(integer(items)?).ok();
    let (live, deleted, names) = (counted(&mut items)?, counted(&mut items)?, counted(&mut items)?);
    let names = items.as_slice().get(..names)?;
    items = items.as_slice()[names.len()..].iter();
    (integer(&mut items)? == 0).then_some(())?;
    let before = out.len();
    for _ in 0..live.checked_add(deleted)? {
        let flags = integer(&mut items)?;
        let ms = master.0.wrapping_add(integer(&mut items)?.cast_unsigned());
        let seq = master.1.wrapping_add(integer(&mut items)?.cast_unsigned());
        let mut strings = Vec::new();
        if flags & SAME_FIELDS != 0 {
            for name in names {
                strings.extend([name.clone(), items.next()?.clone()]);
            }
        } else {
            for _ in 0..counted(&mut items)?.checked_mul(2)? {
                strings.push(items.next()?.clone());
            }
        }
        integer(&mut items)?;
        if flags & DELETED == 0 {
            out.push(((ms, seq), strings));
        }
    }
    (items.next().is_none() && out.len() - before == live).then_some(())
}

fn read_group(reader: &mut Reader, kind: u8, stream: &Stream) -> Option<Group> {
    let (name, last) = (reader.string()?, read_id(reader)?);
    let read = match kind {
        types::STREAM => stream.added_up_to(last),
        _ => Some(reader.number()?).filter(|read| *read != u64::MAX),
    };
    // By id: when it was given, how often, and to whom, which comes later.
    let mut pending: BTreeMap<Id, (u64, u64, Option<usize>)> = BTreeMap::new();
    for _ in 0..reader.number()? {
        let id = raw_id(reader.cursor())?;
        let given_ms = u64::from_le_bytes(reader.cursor().array()?);
        if pending.insert(id, (given_ms, reader.number()?, None)).is_some() {
            return None;
        }
    }
    let mut consumers = Vec::new();
    for consumer in 0..usize::try_from(reader.number()?).ok()? {
        consumers.push((reader.string()?, u64::from_le_bytes(reader.cursor().array()?)));
        if kind == types::STREAM_3 {
            reader.cursor().take(8)?;
        }
        for _ in 0..reader.number()? {
            let (.., owner) = pending.get_mut(&raw_id(reader.cursor())?)?;
            owner.replace(consumer).is_none().then_some(())?;
        }
    }
    let pending = pending
        .into_iter()
        .map(|(id, (given_ms, count, consumer))| Some(Pending { id, given_ms, count, consumer: consumer? }));
    Some(Group { name, last, read, consumers, pending: pending.collect::<Option<_>>()? })
}
