//! Unpacks LZF, with which Redis packs strings of more than 20 bytes. Nothing is packed here.
//!
//! ```text
//! 000nnnnn                      n + 1 bytes as they are
//! lllooooo oooooooo             l + 2 bytes (l from 1 to 6) from o + 1 bytes back
//! 111ooooo llllllll oooooooo    l + 9 bytes from o + 1 bytes back
//! ```

/// How many bytes three packed ones can give, at most.
const EXPANSION_MAX: usize = 264;

/// The bytes that `packed` stands for, of which there are `len`; `None` if it stands for something else.
pub fn unpack(packed: &[u8], len: usize) -> Option<Vec<u8>> {
    // No memory is taken for what so few bytes can't give.
    if len > packed.len().checked_mul(EXPANSION_MAX)? {
        return None;
    }
    let mut out: Vec<u8> = Vec::with_capacity(len);
    let mut rest = packed;
    let mut next = |count: usize| {
        let (head, tail) = rest.split_at_checked(count)?;
        rest = tail;
        Some(head)
    };
    while let Some([control]) = next(1) {
        let control = usize::from(*control);
        if control < 32 {
            out.extend_from_slice(next(control + 1)?);
        } else {
            let mut count = control >> 5;
            if count == 7 {
                count += usize::from(*next(1)?.first()?);
            }
            let low = usize::from(*next(1)?.first()?);
            let from = out.len().checked_sub(((control & 31) << 8 | low) + 1)?;
            // What is copied may be what this copy has written: byte by byte.
            for at in from..from + count + 2 {
                out.push(*out.get(at)?);
            }
        }
        if out.len() > len {
            return None;
        }
    }
    (out.len() == len).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_copies_of_every_kind_are_unpacked() {
        assert_eq!(unpack(&[2, b'a', b'b', b'c'], 3).as_deref(), Some(&b"abc"[..]));
        // 'a', then 10 bytes from one back.
        assert_eq!(unpack(&[0, b'a', 0xe0, 1, 0], 11).as_deref(), Some(&b"aaaaaaaaaaa"[..]));
        assert_eq!(unpack(&[1, b'a', b'b', 0x40, 1], 6).as_deref(), Some(&b"ababab"[..]));
        assert_eq!(unpack(&[], 0).as_deref(), Some(&b""[..]));
    }

    #[test]
    fn what_is_cut_or_reaches_too_far_is_refused() {
        for (packed, len) in [
            (&[2, b'a'][..], 3),
            (&[0x20, 0], 3),
            (&[0, b'a', 0x20, 1], 4),
            (&[0, b'a', 0xe0], 9),
            (&[0, b'a'], 2),
            (&[1, b'a', b'b'], 1),
            (&[0, b'a'], usize::MAX),
        ] {
            assert_eq!(unpack(packed, len), None, "{packed:?}");
        }
    }
}
