//! Values in Redis' serialisation.

use bytes::Bytes;
use haypile_server::rdb::{self, Refused};

/// What real servers wrote: a name and the bytes in hexadecimal, a line each.
const PAYLOADS: &str = include_str!("../../../server/src/rdb/payloads.txt");

/// Bytes of version and checksum, at the end.
const FOOTER_BYTES: usize = 10;

pub(super) fn payloads() -> Vec<Vec<u8>> {
    let digit = |byte: &u8| (*byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| pair.iter().filter_map(digit).fold(0, |value, digit| value << 4 | digit);
    let hex = PAYLOADS.lines().filter_map(|line| line.split(' ').nth(1));
    let mut out: Vec<Vec<u8>> = hex.map(|hex| hex.as_bytes().chunks(2).map(pair).collect()).collect();
    // Those that no server here writes: a zipmap, a ziplist as a list, a listpack as a set.
    for body in [
        &b"\x09\x11\x02\x01a\x01\x021..\x02bc\x03\x00xyz\xff"[..],
        b"\x0a\x10\x10\0\0\0\x0d\0\0\0\x02\0\x00\x01k\x03\xf6\xff",
        b"\x14\x0d\x0d\0\0\0\x02\0\x05\x01\x82hi\x03\xff",
    ] {
        let mut payload = [body, &[0; FOOTER_BYTES]].concat();
        repair_payload(&mut payload);
        out.push(payload);
    }
    out
}

pub(super) fn repair_payload(bytes: &mut [u8]) {
    let Some((body, checksum)) = bytes.split_last_chunk_mut::<8>() else { return };
    if let Some((_, version)) = body.split_last_chunk_mut::<2>()
        && u16::from_le_bytes(*version) > rdb::VERSION_MAX
    {
        *version = rdb::VERSION.to_le_bytes();
    }
    *checksum = rdb::crc64(body).to_le_bytes();
}

pub(super) fn payload(bytes: &[u8]) {
    match rdb::load(&Bytes::copy_from_slice(bytes)) {
        Ok(object) => {
            let written = rdb::dump(&object);
            assert_eq!(rdb::load(&written.into()), Ok(object), "what is written reads back");
        }
        Err(Refused::Format | Refused::Footer) => {}
    }
}
