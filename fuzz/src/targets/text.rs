//! What people write: configuration files and groups of slots.

use haypile_server::config::{PARAMS, Settings, rewrite};
use haypile_server::slot_group as group;

use super::texts;

pub(super) fn configs() -> Vec<Vec<u8>> {
    texts(&[
        b"# node\nport 9221\nsync always\nslots 0-511,600\nrequirepass \"a b\"\n",
        b"standalone yes\nmaxmemory 1gb\nbind 127.0.0.1\nannounce 10.0.0.1:9221\n",
        b"timeout 7\nrequirepass \"\\x01 # \\\" \\\\\"\nlog-level debug\n",
        b"port 99999\n",
        "masterauth \"a\u{85}b\"\n".as_bytes(),
    ])
}

fn shown(settings: &Settings) -> Vec<(&'static str, String)> {
    PARAMS.iter().map(|param| (param.name, (param.get)(settings))).collect()
}

pub(super) fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut settings = Settings::default();
    if let Err(why) = settings.read_file("node.conf", &text) {
        assert!(why.starts_with("node.conf:"), "an error names its file and line: {why}");
        return;
    }
    // What a node writes back is read as what it was.
    let written = rewrite(&text, &settings);
    let mut again = Settings::default();
    again.read_file("node.conf", &written).unwrap_or_else(|why| panic!("{why} in what was written"));
    assert_eq!(shown(&again), shown(&settings), "written as {written:?}");
    // Every value is given in a form that is taken.
    for (name, value) in shown(&settings) {
        let mut other = Settings::default();
        other.set(name, &value).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(shown(&other).iter().find(|(other, _)| *other == name), Some(&(name, value)));
    }
}

pub(super) fn slot_groups() -> Vec<Vec<u8>> {
    texts(&[b"0-1023", b"1,2,3-5,", b"", b",", b"4294967296", b"0-4294967295", b"3-1", b"1-2-3"])
}

pub(super) fn slot_group(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(slots) = group::parse(&text) {
        assert!(slots.is_sorted_by(|a, b| a < b));
        let shown = group::show(&slots);
        assert_eq!(group::parse(&shown).ok(), Some(slots));
    }
}
