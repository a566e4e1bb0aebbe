//! A file's bytes in chunks that copies share until one of them is written: what makes snapshots cheap.

use std::sync::Arc;

/// What survives or vanishes as one when power is lost.
pub(super) const SECTOR_BYTES: usize = 512;
/// What is shared or copied as one. A chunk's sectors are the bits of a byte.
pub(super) const CHUNK_BYTES: usize = SECTOR_BYTES * u8::BITS as usize;

const ZEROS: Chunk = [0; CHUNK_BYTES];

type Chunk = [u8; CHUNK_BYTES];

/// See the file's head.
#[derive(Clone, Default)]
pub(super) struct Content {
    /// `None` is zeros. Invariant: as many as `len` needs, and what they hold beyond it is zero.
    chunks: Vec<Option<Arc<Chunk>>>,
    len: usize,
}

impl Content {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Cuts or extends (with zeros).
    pub(super) fn resize(&mut self, len: usize) {
        self.chunks.resize(len.div_ceil(CHUNK_BYTES), None);
        let inside = len % CHUNK_BYTES;
        if len < self.len
            && inside > 0
            && let Some(Some(last)) = self.chunks.last_mut()
        {
            Arc::make_mut(last)[inside..].fill(0);
        }
        self.len = len;
    }

    /// Reads up to `buf.len()` bytes; says how many there were.
    pub(super) fn read(&self, buf: &mut [u8], offset: usize) -> usize {
        let count = self.len.saturating_sub(offset).min(buf.len());
        let (mut at, mut rest) = (offset, &mut buf[..count]);
        while !rest.is_empty() {
            let inside = at % CHUNK_BYTES;
            let (piece, more) = rest.split_at_mut(rest.len().min(CHUNK_BYTES - inside));
            match &self.chunks[at / CHUNK_BYTES] {
                Some(chunk) => piece.copy_from_slice(&chunk[inside..inside + piece.len()]),
                None => piece.fill(0),
            }
            at += piece.len();
            rest = more;
        }
        count
    }

    /// Writes, growing if need be.
    pub(super) fn write(&mut self, buf: &[u8], offset: usize) {
        if self.len < offset + buf.len() {
            self.resize(offset + buf.len());
        }
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let inside = at % CHUNK_BYTES;
            let (piece, more) = rest.split_at(rest.len().min(CHUNK_BYTES - inside));
            let chunk = &mut self.chunks[at / CHUNK_BYTES];
            let zeros = *piece == ZEROS[..piece.len()];
            if zeros && piece.len() == CHUNK_BYTES {
                *chunk = None;
            } else if !zeros || chunk.is_some() {
                let bytes = Arc::make_mut(chunk.get_or_insert_with(|| Arc::new(ZEROS)));
                bytes[inside..inside + piece.len()].copy_from_slice(piece);
            }
            at += piece.len();
            rest = more;
        }
    }

    /// Takes a chunk's sectors, those with a bit in `mask`, from another content. What lies beyond the end of this one
    /// is left out.
    pub(super) fn take_sectors(&mut self, from: &Content, chunk: usize, mask: u8) {
        let theirs = from.chunks.get(chunk).cloned().flatten();
        let start = chunk * CHUNK_BYTES;
        let whole = start + CHUNK_BYTES <= self.len || (start < self.len && self.len == from.len);
        if mask == u8::MAX && whole {
            self.chunks[chunk] = theirs;
            return;
        }
        for sector in (0..u8::BITS as usize).filter(|sector| mask & (1 << sector) != 0) {
            let from = sector * SECTOR_BYTES;
            let count = self.len.saturating_sub(start + from).min(SECTOR_BYTES);
            let bytes = theirs.as_ref().map_or(&ZEROS[..count], |chunk| &chunk[from..from + count]);
            if count > 0 {
                self.write(bytes, start + from);
            }
        }
    }

    /// Turns a bit over, if its byte is there.
    pub(super) fn flip(&mut self, offset: usize, bit: u8) {
        let mut byte = [0];
        if self.read(&mut byte, offset) == 1 {
            self.write(&[byte[0] ^ (1 << (bit % 8))], offset);
        }
    }
}
