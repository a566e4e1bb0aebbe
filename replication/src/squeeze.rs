//! Frames with LZ4: records and pieces of copies, where it pays.
//!
//! What is compressed is a message's payload on the wire; what the machines see, and what lies in the logs, is the
//! same with and without. A claim about the length is believed only as far as LZ4 can reach and a frame may go.

use bytes::{Bytes, BytesMut};

use crate::message::{BadMessage, FRAME_HEADER_BYTES, Message, PAYLOAD_BYTES_MAX, checksum};

/// The kind of a compressed frame. Part of the protocol.
const COMPRESSED: u8 = 63;
/// Bytes before the block: the inner kind and the length.
const HEAD_BYTES: usize = 5;
/// Less data than this is not worth the work.
const WORTH_BYTES_MIN: usize = 512;
/// LZ4 makes at most so many bytes of one.
const GROWTH_MAX: usize = 255;
/// So much of a large piece is tried before all of it is.
const SAMPLE_BYTES: usize = 16 << 10;
/// After a piece that did not shrink as many are sent as they are: copies come in blocks that are compressed already.
const PASSED_OVER: u32 = 15;

/// One direction of a connection on which compressed frames are understood.
#[derive(Debug, Default)]
pub struct Squeeze {
    /// Pieces that are not even tried, by what they are: records, copies.
    passes: [u32; 2],
}

impl Squeeze {
    /// Appends the message as one frame, compressed if that makes it smaller by an eighth.
    pub fn encode(&mut self, message: &Message, out: &mut BytesMut) {
        let start = out.len();
        message.encode(out);
        if message.data_bytes() < WORTH_BYTES_MIN {
            return;
        }
        let passes = &mut self.passes[usize::from(matches!(message, Message::CopyChunk { .. }))];
        if *passes > 0 {
            *passes -= 1;
            return;
        }
        match compressed(&out[start..]) {
            Some(frame) => {
                out.truncate(start);
                out.extend_from_slice(&frame);
            }
            None => *passes = PASSED_OVER,
        }
    }
}

/// Whether so few bytes are worth it.
fn pays(before: usize, after: usize) -> bool {
    after + before / 8 < before
}

/// A frame with the same message, if it is smaller.
fn compressed(frame: &[u8]) -> Option<Vec<u8>> {
    let kind = *frame.get(4)?;
    let payload = frame.get(FRAME_HEADER_BYTES..)?;
    if payload.len() > 4 * SAMPLE_BYTES {
        let middle = payload.len() / 2;
        let sample = lz4_flex::block::compress(payload.get(middle..middle + SAMPLE_BYTES)?);
        if !pays(SAMPLE_BYTES, sample.len()) {
            return None;
        }
    }
    let most = lz4_flex::block::get_maximum_output_size(payload.len());
    let mut out = vec![0; FRAME_HEADER_BYTES + HEAD_BYTES + most];
    let (head, block) = out.split_at_mut(FRAME_HEADER_BYTES + HEAD_BYTES);
    let len = lz4_flex::block::compress_into(payload, block).ok()?;
    if !pays(payload.len(), HEAD_BYTES + len) {
        return None;
    }
    head[FRAME_HEADER_BYTES] = kind;
    head[FRAME_HEADER_BYTES + 1..].copy_from_slice(&u32::try_from(payload.len()).ok()?.to_le_bytes());
    out.truncate(FRAME_HEADER_BYTES + HEAD_BYTES + len);
    let crc = checksum(COMPRESSED, &out[FRAME_HEADER_BYTES..]);
    out[..4].copy_from_slice(&u32::try_from(HEAD_BYTES + len).ok()?.to_le_bytes());
    out[4] = COMPRESSED;
    out[5..FRAME_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    Some(out)
}

/// The kind and payload that a frame stands for.
///
/// # Errors
/// If it is a compressed one that is none.
pub fn expand(kind: u8, payload: Bytes) -> Result<(u8, Bytes), BadMessage> {
    if kind != COMPRESSED {
        return Ok((kind, payload));
    }
    let bad = |what| BadMessage::Meaning { kind, what };
    let (&[inner, l0, l1, l2, l3], block) =
        payload.split_first_chunk::<HEAD_BYTES>().ok_or(bad("cut short"))?;
    if inner == COMPRESSED {
        return Err(bad("compressed twice"));
    }
    let len = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    if len > PAYLOAD_BYTES_MAX || len > block.len().saturating_mul(GROWTH_MAX) {
        return Err(bad("longer than its bytes can say"));
    }
    let mut out = vec![0; len];
    match lz4_flex::block::decompress_into(block, &mut out) {
        Ok(got) if got == len => Ok((inner, Bytes::from(out))),
        _ => Err(bad("does not decompress to its length")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(data: Vec<u8>) -> Message {
        Message::Records { more: false, times: Vec::new(), data: Bytes::from(data) }
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut x = 0x9e37_79b9_u32;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            x.to_le_bytes()[0]
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn what_shrinks_goes_smaller_and_comes_back_as_it_was() {
        let mut squeeze = Squeeze::default();
        for message in [records(vec![7; 100_000]), records(b"haypile ".repeat(100)), Message::Pong] {
            let (mut plain, mut sent) = (BytesMut::new(), BytesMut::new());
            message.encode(&mut plain);
            squeeze.encode(&message, &mut sent);
            assert_eq!(sent.len() < plain.len() / 2, message.data_bytes() > 0, "{} bytes", sent.len());
            assert_eq!(Message::take(&mut sent), Ok(Some(message)));
        }
    }

    #[test]
    fn what_does_not_shrink_goes_as_it_is_and_is_not_tried_again_at_once() {
        let (mut squeeze, mut plain, mut sent) = (Squeeze::default(), BytesMut::new(), BytesMut::new());
        let message = records(noise(100_000));
        message.encode(&mut plain);
        squeeze.encode(&message, &mut sent);
        assert_eq!(plain, sent);
        // Other data is tried for itself.
        assert_eq!(squeeze.passes, [PASSED_OVER, 0]);
        sent.clear();
        let chunk = Message::CopyChunk {
            copy: crate::message::CopyId {
                slot: haypile_engine::types::Slot::new(1).expect("in range"),
                number: 1,
            },
            data: Bytes::from(vec![0; 10_000]),
        };
        squeeze.encode(&chunk, &mut sent);
        assert!(sent.len() < 1000);
        sent.clear();
        let easy = records(vec![0; 10_000]);
        for _ in 0..PASSED_OVER {
            sent.clear();
            squeeze.encode(&easy, &mut sent);
            assert!(sent.len() > 10_000, "not tried");
        }
        sent.clear();
        squeeze.encode(&easy, &mut sent);
        assert!(sent.len() < 1000);
    }

    /// A compressed frame with this content.
    fn frame(payload: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        out.extend_from_slice(&u32::try_from(payload.len()).expect("small").to_le_bytes());
        out.extend_from_slice(&[COMPRESSED]);
        out.extend_from_slice(&checksum(COMPRESSED, payload).to_le_bytes());
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn a_length_that_no_block_has_is_refused_before_memory_is_taken_for_it() {
        let block = lz4_flex::block::compress(&[0; 64]);
        let claim = |kind: u8, len: u32| {
            let mut payload = vec![kind];
            payload.extend_from_slice(&len.to_le_bytes());
            payload.extend_from_slice(&block);
            Message::take(&mut frame(&payload))
        };
        for (kind, len, why) in [
            (42, u32::MAX, "longer"),
            (42, 8 << 20, "longer"),
            (42, 63, "does not decompress"),
            (42, 65, "does not decompress"),
            (COMPRESSED, 64, "twice"),
        ] {
            let refused = claim(kind, len).expect_err("it is none").to_string();
            assert!(refused.contains(why), "{refused}");
        }
        assert!(Message::take(&mut frame(&[42, 0])).expect_err("cut").to_string().contains("cut short"));
    }
}
