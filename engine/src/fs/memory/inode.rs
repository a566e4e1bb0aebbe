//! A file as programs see it and as the disk has it.

use super::content::{CHUNK_BYTES, Content, SECTOR_BYTES};
use crate::random::Coin;

/// See the file's head. Every sector in which the two differ is dirty.
#[derive(Clone, Default)]
pub(super) struct Inode {
    visible: Content,
    durable: Content,
    /// Sectors that are not on the disk: a byte for each chunk. Neither list ends before its last bit that is set.
    dirty: Vec<u8>,
    /// Those of them that a failed sync dropped: the kernel will not write them unless they are written again.
    forgotten: Vec<u8>,
}

impl Inode {
    pub(super) fn len(&self) -> usize {
        self.visible.len()
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: usize) -> usize {
        self.visible.read(buf, offset)
    }

    pub(super) fn write(&mut self, buf: &[u8], offset: usize) {
        self.touch(offset, offset + buf.len());
        self.visible.write(buf, offset);
    }

    pub(super) fn set_size(&mut self, size: usize) {
        self.touch(size.min(self.len()), self.len());
        self.visible.resize(size);
    }

    /// Bytes of this range are about to change.
    fn touch(&mut self, from: usize, to: usize) {
        if from >= to {
            return;
        }
        let chunks = to.div_ceil(CHUNK_BYTES);
        if self.dirty.len() < chunks {
            self.dirty.resize(chunks, 0);
        }
        for chunk in from / CHUNK_BYTES..chunks {
            let start = chunk * CHUNK_BYTES;
            let first = from.saturating_sub(start) / SECTOR_BYTES;
            let last = (to - start).div_ceil(SECTOR_BYTES).min(u8::BITS as usize);
            let mask = (u8::MAX << first) & (u8::MAX >> (u8::BITS as usize - last));
            self.dirty[chunk] |= mask;
            if let Some(forgotten) = self.forgotten.get_mut(chunk) {
                *forgotten &= !mask;
            }
        }
    }

    fn forgotten(&self, chunk: usize) -> u8 {
        self.forgotten.get(chunk).copied().unwrap_or(0)
    }

    fn is_clean(&self) -> bool {
        self.dirty.is_empty() && self.visible.len() == self.durable.len()
    }

    pub(super) fn sync(&mut self) {
        self.durable.resize(self.visible.len());
        for chunk in 0..self.dirty.len() {
            let forgotten = self.forgotten(chunk);
            let synced = self.dirty[chunk] & !forgotten;
            if synced == 0 {
                continue;
            }
            // What is not dirty is the same on both sides: a whole chunk can be shared.
            let mask = if forgotten == 0 { u8::MAX } else { synced };
            self.durable.take_sectors(&self.visible, chunk, mask);
            self.dirty[chunk] &= forgotten;
        }
        self.trim();
    }

    fn trim(&mut self) {
        let used = self.dirty.iter().rposition(|mask| *mask != 0).map_or(0, |last| last + 1);
        self.dirty.truncate(used);
        self.forgotten.truncate(used);
    }

    /// A sync failed: what should have become durable never does, though it reads back.
    pub(super) fn forget(&mut self) {
        self.forgotten.clone_from(&self.dirty);
    }

    /// A sync failed, and each sector met a fate of its own: it had reached the disk before, or it is lost and still reads
    /// back as written (ext4), or it is lost and reads back as it was (btrfs; others once the page is dropped).
    pub(super) fn scatter(&mut self, coin: &mut Coin) {
        if self.visible.len() > self.durable.len() && coin.heads() {
            self.durable.resize(self.visible.len());
        }
        let same_size = self.visible.len() == self.durable.len();
        let both = self.visible.len().min(self.durable.len());
        self.forgotten.resize(self.dirty.len(), 0);
        for chunk in 0..self.dirty.len() {
            for sector in 0..u8::BITS as usize {
                let mask = self.dirty[chunk] & (1 << sector);
                let start = chunk * CHUNK_BYTES + sector * SECTOR_BYTES;
                let inside = start < both && (same_size || start + SECTOR_BYTES <= both);
                match if mask == 0 || !inside { 0 } else { coin.below(3) } {
                    0 => self.forgotten[chunk] |= mask,
                    1 => self.durable.take_sectors(&self.visible, chunk, mask),
                    _ => self.visible.take_sectors(&self.durable, chunk, mask),
                }
            }
            self.dirty[chunk] = self.forgotten[chunk];
        }
        self.trim();
    }

    /// What a loss of power leaves; `None` if nothing is at stake.
    pub(super) fn after_crash(&self, coin: &mut Coin) -> Option<Inode> {
        if self.is_clean() {
            return None;
        }
        let size_is_new = self.visible.len() == self.durable.len() || coin.heads();
        let mut bytes = self.visible.clone();
        bytes.resize(bytes.len().max(self.durable.len()));
        for (chunk, dirty) in self.dirty.iter().enumerate() {
            let mut lost = dirty & self.forgotten(chunk);
            for sector in (0..u8::BITS).filter(|sector| dirty & (1 << sector) != 0) {
                lost |= u8::from(!coin.heads()) << sector;
            }
            if lost != 0 {
                bytes.take_sectors(&self.durable, chunk, lost);
            }
        }
        bytes.resize(if size_is_new { self.visible.len() } else { self.durable.len() });
        Some(Inode { durable: bytes.clone(), visible: bytes, dirty: Vec::new(), forgotten: Vec::new() })
    }

    pub(super) fn flip(&mut self, offset: usize, bit: u8) {
        self.visible.flip(offset, bit);
        self.durable.flip(offset, bit);
    }
}
