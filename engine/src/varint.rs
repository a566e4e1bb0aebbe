//! Unsigned LEB128: seven bits a byte, least first. Part of every format.

/// Appends `value`, 1 to 10 bytes.
pub fn put(out: &mut impl Extend<u8>, mut value: u64) {
    while value >= 0x80 {
        #[allow(clippy::cast_possible_truncation)] // masked to seven bits
        out.extend([(value & 0x7f) as u8 | 0x80]);
        value >>= 7;
    }
    #[allow(clippy::cast_possible_truncation)] // below 0x80
    out.extend([value as u8]);
}

/// How many bytes [`put`] appends.
#[must_use]
pub fn len(value: u64) -> usize {
    let bits = u64::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// Writes `value` to the front of `out`, and gives what is behind it.
///
/// # Panics
/// If there is no room for its [`len`] bytes.
pub fn write(mut out: &mut [u8], mut value: u64) -> &mut [u8] {
    loop {
        let (first, rest) = out.split_first_mut().expect("there is room for the whole value");
        #[allow(clippy::cast_possible_truncation)] // masked to seven bits
        let low = (value & 0x7f) as u8;
        out = rest;
        if value < 0x80 {
            *first = low;
            return out;
        }
        *first = low | 0x80;
        value >>= 7;
    }
}

/// Reads a value and how many bytes it took; `None` if cut short, longer than 64 bits or not in its shortest form.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7f);
        if index == 9 && bits > 1 {
            return None;
        }
        value |= bits << (7 * index);
        if byte & 0x80 == 0 {
            return (index == 0 || byte != 0).then_some((value, index + 1));
        }
    }
    None
}

/// Takes a value off the front of `bytes`.
#[inline]
pub fn take(bytes: &mut &[u8]) -> Option<u64> {
    // Nearly all that is read often is short.
    if let [byte, rest @ ..] = *bytes
        && *byte < 0x80
    {
        *bytes = rest;
        return Some(u64::from(*byte));
    }
    take_long(bytes)
}

fn take_long(bytes: &mut &[u8]) -> Option<u64> {
    let (value, used) = read(bytes)?;
    *bytes = bytes.get(used..)?;
    Some(value)
}

/// Takes a length and that many bytes off the front of `bytes`.
#[inline]
pub fn take_slice<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(take(bytes)?).ok()?;
    let (slice, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(slice)
}

/// Appends a length and the bytes.
pub fn put_slice(out: &mut Vec<u8>, slice: &[u8]) {
    put(out, slice.len() as u64);
    out.extend_from_slice(slice);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_reads_back_and_longer_forms_are_refused() {
        for shift in 0..64 {
            for value in [(1u64 << shift) - 1, 1 << shift, u64::MAX] {
                let mut out = Vec::new();
                put(&mut out, value);
                assert_eq!(read(&out), Some((value, out.len())));
                let mut written = [0xee; 12];
                assert_eq!((len(value), write(&mut written, value).len()), (out.len(), 12 - out.len()));
                assert_eq!(&written[..out.len()], out);
                assert_eq!(read(&out[..out.len() - 1]), None);
            }
        }
        assert_eq!(read(&[0x80, 0x00]), None);
        assert_eq!(read(&[0xff; 10]), None);
    }
}
