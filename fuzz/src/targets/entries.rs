//! What stands in records, memtables and runs: entry keys and values.

use bytes::Bytes;
use haypile_engine::clock::TimeMs;
use haypile_engine::key::{self, Generation};
use haypile_engine::value::Value;

pub(super) fn entry_key(bytes: &[u8]) {
    let Some(parts) = key::split(bytes) else { return };
    assert!(parts.prefix.len() <= bytes.len() && bytes.starts_with(parts.prefix));
    assert!(
        parts.after_elements()[..] > *bytes || parts.element.is_some_and(|(life, _)| life.0 >> 56 == 0xff)
    );
    let again = match parts.element {
        None => key::entry_key(parts.key),
        Some((generation, sub)) => key::element_key(parts.key, generation, sub),
    };
    assert_eq!(key::split(&again).map(|parts| (parts.key, parts.element)), Some((parts.key, parts.element)));
    // The hash in front follows from the key; all else is as it was.
    assert_eq!(again[6..], bytes[6..]);
}

pub(super) fn entry_keys() -> Vec<Vec<u8>> {
    vec![
        key::entry_key(b"key").to_vec(),
        key::entry_key(b"").to_vec(),
        key::element_key(b"key", Generation(5), b"sub").to_vec(),
    ]
}

pub(super) fn value(bytes: &[u8]) {
    if let Some(value) = Value::decode(&Bytes::copy_from_slice(bytes)) {
        let mut again = Vec::new();
        value.encode(&mut again);
        assert_eq!(again, bytes);
    }
}

pub(super) fn values() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for expiry in [None, Some(TimeMs(1 << 41))] {
        for generation in [None, Some(Generation(77))] {
            let mut bytes = Vec::new();
            Value { kind: 4, encoding: 1, expiry, generation, payload: Bytes::from_static(b"payload") }
                .encode(&mut bytes);
            out.push(bytes);
        }
    }
    out
}
