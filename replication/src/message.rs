//! What two nodes say to each other: messages, and their form on the wire.
//!
//! Bytes from a peer never panic here: every length is bounded by the frame, every frame by [`PAYLOAD_BYTES_MAX`].
//! `docs/PROTOCOL.md` says who sends what, when.
//!
//! ```text
//! frame; all numbers little-endian
//!  0   4   len      of the payload, at most PAYLOAD_BYTES_MAX
//!  4   1   kind
//!  5   4   crc      CRC-32 of kind and payload
//!  9   n   payload
//!
//! parts
//!  slot   u16                     seq, time, bytes  u64
//!  node   20 bytes                epoch             u32 term, u64 tag
//!  text   u16 length, UTF-8,      data              u32 length, bytes
//!         at most 1024 bytes
//!  list   u32 count, items        history           list of (epoch, seq)
//!  ask    slot, u32 number, history, seq last, u8 state (0 data, 1 empty, 2 loading), u8 force, list of held
//!  copy   slot, u32 number (the ask's): names one copy on a connection
//!  run    u64 file, u64 offset, bytes, u32 crc of its bytes: where a run lies on the node that sends it
//!  held   run, bytes: so much of it is durable at the replica
//!  owner  u8 0, or u8 1, node, text: who the record before grants the slot to, and where that node listens
//!
//! kind                   payload                                              sent by
//!   1 hello              u64 features, u8 purpose (0 stream, 1 question)      who connects
//!   2 probe              list of ask                                          replica
//!   3 follow             list of ask                                          replica
//!   4 unfollow           list of slot                                         replica
//!   5 ack                bytes, list of (slot, seq)                           replica
//!   6 handover ask       u64 id, u32 deadline ms, list of slot                replica
//!   7 grant taken        list of (slot, epoch)                                grantee
//!   8 grant refused      slot, text                                           grantee
//!   9 pong               (nothing)                                            replica
//!  10 grant ask          list of (slot, epoch, seq)                           old owner
//!  11 upstream ask       list of slot                                         replica
//!  12 handover ready     u64 id                                               replica
//!  13 tail ask           list of (slot, epoch, seq): what comes after it?     owner after an unclean stop
//!  32 hello ok           node, u64 features                                   who accepts
//!  33 probe answer       list of (slot, u8 verdict, text)                     master
//!  34 refused            slot, u32 number, u8 reason, text                    master
//!  35 continue           slot, u32 number, seq from                           master
//!  36 copy queued        copy                                                 master
//!  37 copy begin         copy, history, seq base, owner, u64 keys, time, u32 runs, bytes  master
//!  38 copy run           copy, run, bytes: from where on it comes             master
//!  39 copy chunk         copy, data                                           master
//!  40 copy run end       copy                                                 master
//!  41 copy end           copy (none if it has no runs)                        master
//!  42 records            u8 more, list of (slot, time), data                  master, and who sends tails
//!  43 heartbeat          list of (slot, seq last, time)                       master
//!  44 handover answer    u64 id, u32 held ms, list of (slot, u8 granted, seq, text)  master
//!                        granted: no text; else seq 0
//!  45 history changed    slot                                                 master
//!  46 dropped            slot                                                 master
//!  47 grant done         list of slot                                         old owner
//!  48 grant pending      slot                                                 grantee
//!  49 upstreams          list of (slot, text): whom it follows, or nothing    who was asked
//!  50 hello refused      text                                                 who accepts
//!  51 handover near      u64 id                                               master, if the other side has the feature
//!  52 tails              list of (slot, seq, time): records up to there come  replica
//!  63 compressed         u8 kind, u32 length of the payload, LZ4 block: a message of that kind   either, if both have
//!                        the feature (`features.rs`)
//! ```

use bytes::{Buf, Bytes, BytesMut};
use haypile_engine::clock::TimeMs;
use haypile_engine::history::{EpochStart, History};
use haypile_engine::manifest::PartId;
use haypile_engine::sst::FileNo;
use haypile_engine::types::{Epoch, NodeId, Seq, Slot};

use crate::squeeze;

/// The version of this protocol. Nodes of different versions do not talk.
pub const PROTOCOL_VERSION: u32 = 3;
/// The greatest payload that is sent or taken.
pub const PAYLOAD_BYTES_MAX: usize = 8 << 20;
/// The longest text: it is for people.
const TEXT_BYTES_MAX: usize = 1024;
/// Bytes before a frame's payload.
pub const FRAME_HEADER_BYTES: usize = 9;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Records of slots that the connecting node follows. One per pair of nodes: a newer one ends the older.
    Stream,
    /// A few questions; nothing is attached.
    Question,
}

/// What a replica's slot is like when it asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AskState {
    /// It holds keys.
    Data,
    /// It holds no key: nothing is lost if it is replaced.
    Empty,
    /// A copy was under way: what it has is no prefix of anything.
    Loading,
}

/// A replica's question for one slot: may I follow, and from where?
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotAsk {
    /// The slot.
    pub slot: Slot,
    /// Comes back in the answer, so that an answer to an older question is told apart.
    pub number: u32,
    /// The replica's history of the slot.
    pub history: History,
    /// Its last record.
    pub last: Seq,
    /// What the slot is like.
    pub state: AskState,
    /// Whether data that shares no history may be replaced.
    pub force: bool,
    /// What is durable here of a copy from the asked node, in the order in which it lies here.
    pub held: Vec<Held>,
}

/// A run of the asked node, as far as the replica has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// Which run.
    pub of: PartId,
    /// How many of its bytes the replica has.
    pub here: u64,
}

/// Names one copy on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct CopyId {
    /// The slot.
    pub slot: Slot,
    /// The number of the question that the copy answers.
    pub number: u32,
}

/// Why a slot is not given to a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The slot is not on the asked node.
    NotHere,
    /// The slot is waiting for a copy itself: ask again.
    NotReady,
    /// Both have data and nothing in common.
    Unrelated,
    /// The asked node follows the asking one.
    Cycle,
    /// The slot was handed over to another node.
    Moved,
    /// The asked node can't read what it should send.
    Failed,
}

/// What a master would answer to a follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The replica's records are a prefix of the master's.
    Continue,
    /// A copy would replace what the replica has.
    Copy,
    /// No.
    Refused(Reason),
}

/// What a slot's copy begins with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopyHead {
    /// The history up to `base`.
    pub history: History,
    /// The copy holds the state after this record; the records that follow come on their own.
    pub base: Seq,
    /// To whom the record `base` grants the slot, if it does.
    pub granted: Option<(NodeId, String)>,
    /// Keys in it.
    pub keys: u64,
    /// The slot's time.
    pub time: TimeMs,
    /// How many runs come, newest first.
    pub runs: u32,
    /// Bytes of all runs.
    pub bytes: u64,
}

/// A slot's end on its master, or on a replica that sends a tail (or is the slot's heir: [`crate::tail::HEIR`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Beat {
    /// The slot.
    pub slot: Slot,
    /// Its last record.
    pub last: Seq,
    /// Its time.
    pub time: TimeMs,
}

/// A message. See the table at the top of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the table says what each part is
pub enum Message {
    Hello { features: u64, purpose: Purpose },
    Probe(Vec<SlotAsk>),
    Follow(Vec<SlotAsk>),
    Unfollow(Vec<Slot>),
    Ack { bytes: u64, slots: Vec<(Slot, Seq)> },
    HandoverAsk { id: u64, deadline_ms: u32, slots: Vec<Slot> },
    GrantTaken(Vec<(Slot, Epoch)>),
    GrantRefused { slot: Slot, why: String },
    Pong,
    GrantAsk(Vec<(Slot, Epoch, Seq)>),
    UpstreamAsk(Vec<Slot>),
    HandoverReady(u64),
    TailAsk(Vec<(Slot, Epoch, Seq)>),
    HelloOk { node: NodeId, features: u64 },
    ProbeAnswer(Vec<(Slot, Verdict, String)>),
    Refused { slot: Slot, number: u32, reason: Reason, why: String },
    Continue { slot: Slot, number: u32, from: Seq },
    CopyQueued(CopyId),
    CopyBegin { copy: CopyId, head: CopyHead },
    CopyRun { copy: CopyId, of: PartId, from: u64 },
    CopyChunk { copy: CopyId, data: Bytes },
    CopyRunEnd(CopyId),
    CopyEnd(CopyId),
    Records { more: bool, times: Vec<(Slot, TimeMs)>, data: Bytes },
    Heartbeat(Vec<Beat>),
    HandoverAnswer { id: u64, held_ms: u32, slots: Vec<(Slot, Result<Seq, String>)> },
    HistoryChanged(Slot),
    Dropped(Slot),
    GrantDone(Vec<Slot>),
    GrantPending(Slot),
    Upstreams(Vec<(Slot, String)>),
    HelloRefused(String),
    HandoverNear(u64),
    Tails(Vec<Beat>),
}

/// Why bytes are no message: the connection can't go on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadMessage {
    /// A frame claims to be larger than any that is sent.
    #[error("a frame of {0} bytes, at most {PAYLOAD_BYTES_MAX} are sent")]
    TooLong(usize),
    /// The checksum does not hold.
    #[error("a frame with a wrong checksum")]
    Checksum,
    /// The content has no meaning: a bug, or not this protocol.
    #[error("a message of kind {kind} without meaning: {what}")]
    Meaning {
        /// The frame's kind.
        kind: u8,
        /// What does not hold.
        what: &'static str,
    },
}

impl Message {
    /// Bytes of what it carries of records or a copy: what is worth compressing.
    #[must_use]
    pub fn data_bytes(&self) -> usize {
        match self {
            Message::Records { data, .. } | Message::CopyChunk { data, .. } => data.len(),
            _ => 0,
        }
    }

    /// Appends the message as one frame.
    ///
    /// # Panics
    /// If its payload is larger than [`PAYLOAD_BYTES_MAX`]: senders split lists and data before.
    pub fn encode(&self, out: &mut BytesMut) {
        let start = out.len();
        out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
        let kind = self.encode_payload(&mut Writer(out));
        let len = out.len() - start - FRAME_HEADER_BYTES;
        assert!(len <= PAYLOAD_BYTES_MAX, "a message of kind {kind} with {len} bytes");
        let len = u32::try_from(len).expect("at most PAYLOAD_BYTES_MAX");
        out[start..start + 4].copy_from_slice(&len.to_le_bytes());
        out[start + 4] = kind;
        let crc = checksum(kind, &out[start + FRAME_HEADER_BYTES..]);
        out[start + 5..start + 9].copy_from_slice(&crc.to_le_bytes());
    }

    /// As [`Message::encode`], but without the data that it ends with, which is given back and comes next: `None` if it
    /// carries none and was appended whole.
    ///
    /// # Panics
    /// As [`Message::encode`].
    pub fn encode_apart(&self, out: &mut BytesMut) -> Option<Bytes> {
        let (around, data) = match self {
            Message::CopyChunk { copy, data } => {
                (Message::CopyChunk { copy: *copy, data: Bytes::new() }, data.clone())
            }
            Message::Records { more, times, data } => {
                (Message::Records { more: *more, times: times.clone(), data: Bytes::new() }, data.clone())
            }
            other => {
                other.encode(out);
                return None;
            }
        };
        let start = out.len();
        around.encode(out);
        let frame = &mut out[start..];
        let len = frame.len() - FRAME_HEADER_BYTES + data.len();
        assert!(len <= PAYLOAD_BYTES_MAX, "a message with {len} bytes");
        let u32_of = |len| u32::try_from(len).expect("at most PAYLOAD_BYTES_MAX").to_le_bytes();
        // The data's length stands last.
        let last = frame.len() - 4;
        frame[last..].copy_from_slice(&u32_of(data.len()));
        frame[..4].copy_from_slice(&u32_of(len));
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&frame[4..5]);
        hasher.update(&frame[FRAME_HEADER_BYTES..]);
        hasher.update(&data);
        frame[5..FRAME_HEADER_BYTES].copy_from_slice(&hasher.finalize().to_le_bytes());
        Some(data)
    }

    /// Takes the first whole frame off `buffer`; `None` if more bytes are needed.
    ///
    /// # Errors
    /// See [`BadMessage`].
    pub fn take(buffer: &mut BytesMut) -> Result<Option<Message>, BadMessage> {
        let Some(&head) = buffer.first_chunk::<FRAME_HEADER_BYTES>() else { return Ok(None) };
        let [l0, l1, l2, l3, kind, c0, c1, c2, c3] = head;
        let len = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        if len > PAYLOAD_BYTES_MAX {
            return Err(BadMessage::TooLong(len));
        }
        if buffer.len() < FRAME_HEADER_BYTES + len {
            buffer.reserve(FRAME_HEADER_BYTES + len - buffer.len());
            return Ok(None);
        }
        let mut payload = buffer.split_to(FRAME_HEADER_BYTES + len).freeze();
        payload.advance(FRAME_HEADER_BYTES);
        if checksum(kind, &payload) != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(BadMessage::Checksum);
        }
        let (kind, payload) = squeeze::expand(kind, payload)?;
        let mut reader = Reader(payload);
        let message = reader.message(kind).map_err(|what| BadMessage::Meaning { kind, what })?;
        if !reader.0.is_empty() {
            return Err(BadMessage::Meaning { kind, what: "bytes after the end" });
        }
        Ok(Some(message))
    }

    fn encode_payload(&self, out: &mut Writer<'_>) -> u8 {
        match self {
            Message::Hello { features, purpose } => {
                out.u64(*features);
                out.u8(match purpose {
                    Purpose::Stream => 0,
                    Purpose::Question => 1,
                });
                1
            }
            Message::Probe(asks) => {
                out.list(asks, |out, ask| out.ask(ask));
                2
            }
            Message::Follow(asks) => {
                out.list(asks, |out, ask| out.ask(ask));
                3
            }
            Message::Unfollow(slots) => {
                out.list(slots, |out, &slot| out.slot(slot));
                4
            }
            Message::Ack { bytes, slots } => {
                out.u64(*bytes);
                out.list(slots, |out, &(slot, seq)| {
                    out.slot(slot);
                    out.u64(seq.0);
                });
                5
            }
            Message::HandoverAsk { id, deadline_ms, slots } => {
                out.u64(*id);
                out.u32(*deadline_ms);
                out.list(slots, |out, &slot| out.slot(slot));
                6
            }
            Message::GrantTaken(taken) => {
                out.list(taken, |out, &(slot, epoch)| {
                    out.slot(slot);
                    out.epoch(epoch);
                });
                7
            }
            Message::GrantRefused { slot, why } => {
                out.slot(*slot);
                out.text(why);
                8
            }
            Message::Pong => 9,
            Message::GrantAsk(grants) => {
                out.list(grants, |out, ask| out.epoch_seq(ask));
                10
            }
            Message::UpstreamAsk(slots) => {
                out.list(slots, |out, &slot| out.slot(slot));
                11
            }
            Message::HandoverReady(id) => {
                out.u64(*id);
                12
            }
            Message::TailAsk(asks) => {
                out.list(asks, |out, ask| out.epoch_seq(ask));
                13
            }
            Message::HelloOk { node, features } => {
                out.0.extend_from_slice(&node.0);
                out.u64(*features);
                32
            }
            Message::ProbeAnswer(answers) => {
                out.list(answers, |out, (slot, verdict, text)| {
                    out.slot(*slot);
                    out.u8(match verdict {
                        Verdict::Continue => 0,
                        Verdict::Copy => 1,
                        Verdict::Refused(reason) => reason.number(),
                    });
                    out.text(text);
                });
                33
            }
            Message::Refused { slot, number, reason, why } => {
                out.slot(*slot);
                out.u32(*number);
                out.u8(reason.number());
                out.text(why);
                34
            }
            Message::Continue { slot, number, from } => {
                out.slot(*slot);
                out.u32(*number);
                out.u64(from.0);
                35
            }
            Message::CopyQueued(copy) => {
                out.copy(*copy);
                36
            }
            Message::CopyBegin { copy, head } => {
                out.copy(*copy);
                out.history(&head.history);
                out.u64(head.base.0);
                out.owner(head.granted.as_ref());
                out.u64(head.keys);
                out.u64(head.time.0);
                out.u32(head.runs);
                out.u64(head.bytes);
                37
            }
            Message::CopyRun { copy, of, from } => {
                out.copy(*copy);
                out.run(*of);
                out.u64(*from);
                38
            }
            Message::CopyChunk { copy, data } => {
                out.copy(*copy);
                out.data(data);
                39
            }
            Message::CopyRunEnd(copy) => {
                out.copy(*copy);
                40
            }
            Message::CopyEnd(copy) => {
                out.copy(*copy);
                41
            }
            Message::Records { more, times, data } => {
                out.u8(u8::from(*more));
                out.list(times, |out, &(slot, time)| {
                    out.slot(slot);
                    out.u64(time.0);
                });
                out.data(data);
                42
            }
            Message::Heartbeat(beats) => {
                out.list(beats, |out, beat| out.beat(beat));
                43
            }
            Message::HandoverAnswer { id, held_ms, slots } => {
                out.u64(*id);
                out.u32(*held_ms);
                out.list(slots, |out, (slot, outcome)| {
                    out.slot(*slot);
                    out.u8(u8::from(outcome.is_ok()));
                    out.u64(outcome.as_ref().map_or(0, |seq| seq.0));
                    out.text(outcome.as_ref().err().map_or("", String::as_str));
                });
                44
            }
            Message::HistoryChanged(slot) => {
                out.slot(*slot);
                45
            }
            Message::Dropped(slot) => {
                out.slot(*slot);
                46
            }
            Message::GrantDone(slots) => {
                out.list(slots, |out, &slot| out.slot(slot));
                47
            }
            Message::GrantPending(slot) => {
                out.slot(*slot);
                48
            }
            Message::Upstreams(slots) => {
                out.list(slots, |out, (slot, upstream)| {
                    out.slot(*slot);
                    out.text(upstream);
                });
                49
            }
            Message::HelloRefused(why) => {
                out.text(why);
                50
            }
            Message::HandoverNear(id) => {
                out.u64(*id);
                51
            }
            Message::Tails(beats) => {
                out.list(beats, |out, beat| out.beat(beat));
                52
            }
        }
    }
}

impl Reason {
    const ALL: [Reason; 6] =
        [Reason::NotHere, Reason::NotReady, Reason::Unrelated, Reason::Cycle, Reason::Moved, Reason::Failed];

    /// Part of the protocol: 16 and up, so that a verdict fits in the same byte.
    fn number(self) -> u8 {
        match self {
            Reason::NotHere => 16,
            Reason::NotReady => 17,
            Reason::Unrelated => 18,
            Reason::Cycle => 19,
            Reason::Moved => 20,
            Reason::Failed => 21,
        }
    }

    fn from_number(number: u8) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.number() == number)
    }
}

pub(crate) fn checksum(kind: u8, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind]);
    hasher.update(payload);
    hasher.finalize()
}

struct Writer<'a>(&'a mut BytesMut);

impl Writer<'_> {
    fn u8(&mut self, value: u8) {
        self.0.extend_from_slice(&[value]);
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn slot(&mut self, slot: Slot) {
        self.0.extend_from_slice(&slot.number().to_le_bytes());
    }

    fn epoch(&mut self, epoch: Epoch) {
        self.u32(epoch.term);
        self.u64(epoch.tag);
    }

    fn epoch_seq(&mut self, &(slot, epoch, seq): &(Slot, Epoch, Seq)) {
        self.slot(slot);
        self.epoch(epoch);
        self.u64(seq.0);
    }

    fn beat(&mut self, beat: &Beat) {
        self.slot(beat.slot);
        self.u64(beat.last.0);
        self.u64(beat.time.0);
    }

    fn copy(&mut self, copy: CopyId) {
        self.slot(copy.slot);
        self.u32(copy.number);
    }

    fn history(&mut self, history: &History) {
        self.list(history.starts(), |out, start| {
            out.epoch(start.epoch);
            out.u64(start.first_seq.0);
        });
    }

    fn ask(&mut self, ask: &SlotAsk) {
        self.slot(ask.slot);
        self.u32(ask.number);
        self.history(&ask.history);
        self.u64(ask.last.0);
        self.u8(match ask.state {
            AskState::Data => 0,
            AskState::Empty => 1,
            AskState::Loading => 2,
        });
        self.u8(u8::from(ask.force));
        self.list(&ask.held, |out, held| {
            out.run(held.of);
            out.u64(held.here);
        });
    }

    fn run(&mut self, run: PartId) {
        self.u64(run.file.0);
        self.u64(run.offset);
        self.u64(run.len);
        self.u32(run.crc);
    }

    fn owner(&mut self, owner: Option<&(NodeId, String)>) {
        self.u8(u8::from(owner.is_some()));
        if let Some((node, address)) = owner {
            self.0.extend_from_slice(&node.0);
            self.text(address);
        }
    }

    /// A text that is too long is cut.
    fn text(&mut self, text: &str) {
        let end =
            (0..=text.len().min(TEXT_BYTES_MAX)).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        let len = u16::try_from(end).expect("at most TEXT_BYTES_MAX");
        self.0.extend_from_slice(&len.to_le_bytes());
        self.0.extend_from_slice(&text.as_bytes()[..end]);
    }

    fn data(&mut self, data: &[u8]) {
        self.u32(u32::try_from(data.len()).expect("data is split into parts far below 4 GiB"));
        self.0.extend_from_slice(data);
    }

    fn list<T>(&mut self, items: &[T], put: impl Fn(&mut Writer<'_>, &T)) {
        self.u32(u32::try_from(items.len()).expect("a list in memory has fewer than 2^32 items"));
        items.iter().for_each(|item| put(self, item));
    }
}

struct Reader(Bytes);

type Taken<T> = Result<T, &'static str>;

impl Reader {
    fn bytes(&mut self, len: usize) -> Taken<Bytes> {
        if len > self.0.len() {
            return Err("cut short");
        }
        Ok(self.0.split_to(len))
    }

    fn array<const N: usize>(&mut self) -> Taken<[u8; N]> {
        let array = *self.0.first_chunk::<N>().ok_or("cut short")?;
        self.0.advance(N);
        Ok(array)
    }

    fn u8(&mut self) -> Taken<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn flag(&mut self) -> Taken<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err("a flag that is neither 0 nor 1"),
        }
    }

    fn u32(&mut self) -> Taken<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Taken<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn slot(&mut self) -> Taken<Slot> {
        Slot::new(u16::from_le_bytes(self.array()?)).ok_or("slot out of range")
    }

    fn seq(&mut self) -> Taken<Seq> {
        let seq = Seq(self.u64()?);
        if seq > Seq::MAX { Err("seq out of range") } else { Ok(seq) }
    }

    fn time(&mut self) -> Taken<TimeMs> {
        self.u64().map(TimeMs)
    }

    fn epoch(&mut self) -> Taken<Epoch> {
        Ok(Epoch { term: self.u32()?, tag: self.u64()? })
    }

    fn epoch_seq(&mut self) -> Taken<(Slot, Epoch, Seq)> {
        Ok((self.slot()?, self.epoch()?, self.seq()?))
    }

    fn beat(&mut self) -> Taken<Beat> {
        Ok(Beat { slot: self.slot()?, last: self.seq()?, time: self.time()? })
    }

    fn copy(&mut self) -> Taken<CopyId> {
        Ok(CopyId { slot: self.slot()?, number: self.u32()? })
    }

    fn history(&mut self) -> Taken<History> {
        let starts =
            self.list(|reader| Ok(EpochStart { epoch: reader.epoch()?, first_seq: reader.seq()? }))?;
        History::from_starts(starts).ok_or("a history that goes back")
    }

    fn ask(&mut self) -> Taken<SlotAsk> {
        Ok(SlotAsk {
            slot: self.slot()?,
            number: self.u32()?,
            history: self.history()?,
            last: self.seq()?,
            state: match self.u8()? {
                0 => AskState::Data,
                1 => AskState::Empty,
                2 => AskState::Loading,
                _ => return Err("unknown state"),
            },
            force: self.flag()?,
            held: self.list(|reader| {
                let held = Held { of: reader.run()?, here: reader.u64()? };
                if held.here > held.of.len { Err("more of a run than it has") } else { Ok(held) }
            })?,
        })
    }

    fn run(&mut self) -> Taken<PartId> {
        let (file, offset) = (FileNo(self.u64()?), self.u64()?);
        Ok(PartId { file, offset, len: self.u64()?, crc: self.u32()? })
    }

    fn owner(&mut self) -> Taken<Option<(NodeId, String)>> {
        Ok(if self.flag()? { Some((NodeId(self.array()?), self.text()?)) } else { None })
    }

    fn text(&mut self) -> Taken<String> {
        let len = u16::from_le_bytes(self.array()?);
        if usize::from(len) > TEXT_BYTES_MAX {
            return Err("a text that is too long");
        }
        let bytes = self.bytes(usize::from(len))?;
        std::str::from_utf8(&bytes).map(str::to_owned).map_err(|_| "text is not UTF-8")
    }

    fn data(&mut self) -> Taken<Bytes> {
        let len = usize::try_from(self.u32()?).map_err(|_| "too long")?;
        self.bytes(len)
    }

    /// Every item takes at least a byte, so a count is no reason to reserve memory for more than that.
    fn list<T>(&mut self, take: impl Fn(&mut Reader) -> Taken<T>) -> Taken<Vec<T>> {
        let count = usize::try_from(self.u32()?).map_err(|_| "too long")?;
        if count > self.0.len() {
            return Err("a list that is longer than its message");
        }
        (0..count).map(|_| take(self)).collect()
    }

    fn message(&mut self, kind: u8) -> Taken<Message> {
        Ok(match kind {
            1 => Message::Hello {
                features: self.u64()?,
                purpose: match self.u8()? {
                    0 => Purpose::Stream,
                    1 => Purpose::Question,
                    _ => return Err("unknown purpose"),
                },
            },
            2 => Message::Probe(self.list(Reader::ask)?),
            3 => Message::Follow(self.list(Reader::ask)?),
            4 => Message::Unfollow(self.list(Reader::slot)?),
            5 => Message::Ack { bytes: self.u64()?, slots: self.list(|r| Ok((r.slot()?, r.seq()?)))? },
            6 => Message::HandoverAsk {
                id: self.u64()?,
                deadline_ms: self.u32()?,
                slots: self.list(Reader::slot)?,
            },
            7 => Message::GrantTaken(self.list(|r| Ok((r.slot()?, r.epoch()?)))?),
            8 => Message::GrantRefused { slot: self.slot()?, why: self.text()? },
            9 => Message::Pong,
            10 => Message::GrantAsk(self.list(Reader::epoch_seq)?),
            11 => Message::UpstreamAsk(self.list(Reader::slot)?),
            12 => Message::HandoverReady(self.u64()?),
            13 => Message::TailAsk(self.list(Reader::epoch_seq)?),
            32 => Message::HelloOk { node: NodeId(self.array()?), features: self.u64()? },
            33 => Message::ProbeAnswer(self.list(|r| {
                let slot = r.slot()?;
                let verdict = match r.u8()? {
                    0 => Verdict::Continue,
                    1 => Verdict::Copy,
                    number => Verdict::Refused(Reason::from_number(number).ok_or("unknown verdict")?),
                };
                Ok((slot, verdict, r.text()?))
            })?),
            34 => Message::Refused {
                slot: self.slot()?,
                number: self.u32()?,
                reason: Reason::from_number(self.u8()?).ok_or("unknown reason")?,
                why: self.text()?,
            },
            35 => Message::Continue { slot: self.slot()?, number: self.u32()?, from: self.seq()? },
            36 => Message::CopyQueued(self.copy()?),
            37 => Message::CopyBegin {
                copy: self.copy()?,
                head: CopyHead {
                    history: self.history()?,
                    base: self.seq()?,
                    granted: self.owner()?,
                    keys: self.u64()?,
                    time: self.time()?,
                    runs: self.u32()?,
                    bytes: self.u64()?,
                },
            },
            38 => {
                let (copy, of, from) = (self.copy()?, self.run()?, self.u64()?);
                if from > of.len {
                    return Err("a run that goes on after its end");
                }
                Message::CopyRun { copy, of, from }
            }
            39 => Message::CopyChunk { copy: self.copy()?, data: self.data()? },
            40 => Message::CopyRunEnd(self.copy()?),
            41 => Message::CopyEnd(self.copy()?),
            42 => Message::Records {
                more: self.flag()?,
                times: self.list(|r| Ok((r.slot()?, r.time()?)))?,
                data: self.data()?,
            },
            43 => Message::Heartbeat(self.list(Reader::beat)?),
            44 => Message::HandoverAnswer {
                id: self.u64()?,
                held_ms: self.u32()?,
                slots: self.list(|r| {
                    let (slot, granted, seq, text) = (r.slot()?, r.flag()?, r.seq()?, r.text()?);
                    match granted {
                        true if text.is_empty() => Ok((slot, Ok(seq))),
                        false if seq == Seq::ZERO => Ok((slot, Err(text))),
                        _ => Err("an answer that says yes and no"),
                    }
                })?,
            },
            45 => Message::HistoryChanged(self.slot()?),
            46 => Message::Dropped(self.slot()?),
            47 => Message::GrantDone(self.list(Reader::slot)?),
            48 => Message::GrantPending(self.slot()?),
            49 => Message::Upstreams(self.list(|r| Ok((r.slot()?, r.text()?)))?),
            50 => Message::HelloRefused(self.text()?),
            51 => Message::HandoverNear(self.u64()?),
            52 => Message::Tails(self.list(Reader::beat)?),
            _ => return Err("unknown kind"),
        })
    }
}

#[cfg(test)]
mod tests;
