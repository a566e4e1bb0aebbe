//! What waits to be sent on a connection: small messages one after another in a buffer, large data as it lies in memory,
//! so that a piece of a copy goes from the file's cache to the socket with one copy in between.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

use crate::message::Message;

/// Data of this size and above is not copied to where the message around it is.
const APART_BYTES: usize = 32 << 10;

/// See the file's head.
#[derive(Debug, Default)]
pub struct Outbox {
    /// In order, none of them empty; what is open comes after them.
    parts: VecDeque<Bytes>,
    parts_bytes: usize,
    open: BytesMut,
}

impl Outbox {
    /// Where bytes may be appended.
    pub fn open(&mut self) -> &mut BytesMut {
        &mut self.open
    }

    /// Appends a message.
    pub fn push(&mut self, message: &Message) {
        if message.data_bytes() < APART_BYTES {
            message.encode(&mut self.open);
        } else if let Some(data) = message.encode_apart(&mut self.open) {
            let before = self.open.split().freeze();
            self.parts_bytes += before.len() + data.len();
            self.parts.extend([before, data]);
        }
    }
}

impl Buf for Outbox {
    fn remaining(&self) -> usize {
        self.parts_bytes + self.open.len()
    }

    fn chunk(&self) -> &[u8] {
        self.parts.front().map_or(&self.open[..], |part| &part[..])
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let open = (!self.open.is_empty()).then_some(&self.open[..]);
        let all = self.parts.iter().map(|part| &part[..]).chain(open);
        slices.iter_mut().zip(all).map(|(slice, part)| *slice = IoSlice::new(part)).count()
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(part) = self.parts.front_mut() {
            let here = count.min(part.len());
            part.advance(here);
            self.parts_bytes -= here;
            count -= here;
            if part.has_remaining() {
                return;
            }
            self.parts.pop_front();
        }
        self.open.advance(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::CopyId;
    use haypile_engine::types::Slot;

    #[test]
    fn what_is_sent_is_what_the_messages_are_however_it_leaves() {
        let chunk = |bytes: usize| Message::CopyChunk {
            copy: CopyId { slot: Slot::new(7).expect("in range"), number: 3 },
            data: (0..bytes).map(|n| n.to_le_bytes()[0]).collect(),
        };
        let records = |bytes: usize| Message::Records {
            more: true,
            times: vec![(Slot::new(1).expect("in range"), haypile_engine::clock::TimeMs(5))],
            data: vec![9; bytes].into(),
        };
        let messages = [
            Message::Pong,
            chunk(10),
            chunk(APART_BYTES),
            Message::Pong,
            records(APART_BYTES + 1),
            chunk(1 << 20),
        ];
        let mut plain = BytesMut::new();
        messages.iter().for_each(|message| message.encode(&mut plain));
        for step in [1 << 30, 100_000, 777] {
            let mut outbox = Outbox::default();
            messages.iter().for_each(|message| outbox.push(message));
            assert_eq!(outbox.remaining(), plain.len());
            let mut sent = Vec::new();
            while outbox.has_remaining() {
                let mut slices = [IoSlice::new(&[]); 3];
                let count = outbox.chunks_vectored(&mut slices);
                let there: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
                assert!(there.starts_with(outbox.chunk()));
                let taken = there.len().min(step);
                sent.extend_from_slice(&there[..taken]);
                outbox.advance(taken);
            }
            assert!(sent == plain, "in steps of {step}");
        }
    }
}
