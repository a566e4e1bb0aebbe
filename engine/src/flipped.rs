//! What a wrong CRC-32 tells: which bit was flipped, if one flipped bit is all that is wrong.
//!
//! Flipping a bit changes the checksum by something that depends on the bit's place alone, and differs from place to place
//! for as long as bytes fit into memory. For telling what damage hit; nothing is ever repaired by it. Where more than that
//! was hit, some bit seems to be the one by chance: with a MiB of bytes in one case of 500.

/// CRC-32's polynomial: what flipping the last bit changes.
const POLYNOMIAL: u32 = 0xedb8_8320;

/// The byte, and which bits of it, whose change changes the CRC-32 of `bytes` bytes by `wrong`: one bit, or any bits of
/// one of the first `head` bytes.
#[must_use]
pub(crate) fn flipped(bytes: usize, head: usize, wrong: u32) -> Option<(usize, u8)> {
    // What each bit changes, from the last one of the last byte on backwards.
    let mut change = POLYNOMIAL;
    for at in (0..bytes).rev() {
        let mut changes = [0; 8];
        for bit in (0..8).rev() {
            changes[bit] = change;
            change = (change >> 1) ^ if change & 1 == 1 { POLYNOMIAL } else { 0 };
        }
        if let Some(bit) = changes.iter().position(|change| *change == wrong) {
            return Some((at, 1 << bit));
        }
        if at < head {
            let set = |byte: u8| (0..8).filter(move |bit| byte >> bit & 1 == 1);
            let changed = |byte: &u8| set(*byte).fold(0, |sum, bit| sum ^ changes[bit]) == wrong;
            if let Some(byte) = (1..=u8::MAX).find(changed) {
                return Some((at, byte));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_changed_byte_of_the_head_is_found() {
        let whole: Vec<u8> = (0..200).collect();
        let crc = crc32fast::hash(&whole);
        let wrong = |at: usize, by: u8| {
            let mut bytes = whole.clone();
            bytes[at] ^= by;
            crc32fast::hash(&bytes) ^ crc
        };
        for at in 0..whole.len() {
            for bit in 0..8 {
                assert_eq!(flipped(whole.len(), 0, wrong(at, 1 << bit)), Some((at, 1 << bit)));
            }
        }
        for (at, by) in (0..20).flat_map(|at| (1..=u8::MAX).map(move |by| (at, by))) {
            assert_eq!(flipped(whole.len(), 20, wrong(at, by)), Some((at, by)));
        }
        assert_eq!(flipped(whole.len(), 20, wrong(30, 0x81)), None);
    }
}
