//! What a merge keeps and drops, as data; that picking bounds runs, space and what is written.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::clock::TimeMs;
use crate::fs::Fs;
use crate::fs::memory::MemoryFs;
use crate::key::{self, Generation, element_key, entry_key};
use crate::memtable::Entry;
use crate::sst::{FileNo, PackWriter, Packs, Properties, Run, RunMeta, RunOptions, Scan};
use crate::types::{NodeId, Seq, Slot};
use crate::value::{Header, Value};

type Model = BTreeMap<Vec<u8>, Entry>;

struct Store {
    fs: Arc<MemoryFs>,
    packs: Packs,
    next_file: u64,
}

impl Store {
    fn new() -> Store {
        let fs = Arc::new(MemoryFs::new());
        fs.create_dir_all(Path::new("/data")).expect("makes it");
        Store { packs: Packs::new(fs.clone(), Path::new("/data")), fs, next_file: 1 }
    }

    fn pack(&mut self) -> PackWriter {
        let file = FileNo(self.next_file);
        self.next_file += 1;
        PackWriter::create(self.fs.clone(), Path::new("/data"), file, NodeId([0; 20])).expect("creates")
    }

    fn run(&mut self, model: &Model, seq: u64) -> Arc<Run> {
        let mut pack = self.pack();
        pack.begin_run(
            slot(),
            RunOptions { compress: false, block_bytes: 64, entries_max: model.len() as u64 },
        );
        model.iter().for_each(|(key, entry)| pack.add(key, entry.into()).expect("adds"));
        let meta = pack.end_run(Seq(seq), Seq(seq)).expect("ends").expect("not empty");
        pack.finish().expect("finishes");
        self.packs.open_run(&meta).expect("opens")
    }

    fn merge(&mut self, inputs: &[Arc<Run>], options: MergeOptions) -> (MergeResult, Model) {
        let mut pack = self.pack();
        let MergeOutcome::Done(result) =
            merge(inputs, options, &AtomicBool::new(false), &mut pack).expect("merges")
        else {
            panic!("nobody cancelled it")
        };
        pack.finish().expect("finishes");
        let mut model = Model::new();
        if let Some(meta) = &result.run {
            let run = self.packs.open_run(meta).expect("opens");
            run.verify().expect("sound");
            let mut scan = Scan::new(run).expect("reads");
            while let Some((key, entry)) = scan.current() {
                model.insert(key.to_vec(), entry.to_owned());
                scan.advance().expect("reads");
            }
        }
        (result, model)
    }
}

fn slot() -> Slot {
    Slot::new(3).expect("in range")
}

fn options(to_bottom: bool, keep_expired: bool) -> MergeOptions {
    MergeOptions { to_bottom, now: TimeMs(100), keep_expired, compress: true, block_bytes: 8 << 10 }
}

/// `k=v` a string, `k=v@90` one that expires, `k=#3` a collection of generation 3 (`@90` too), `k-` a tombstone,
/// `k.3.f=v` and `k.3.f-` an element.
fn parse(words: &str) -> Model {
    words.split_whitespace().map(parse_entry).collect()
}

fn parse_entry(word: &str) -> (Vec<u8>, Entry) {
    let (name, content) = match word.split_once('=') {
        Some((name, content)) => (name, Some(content)),
        None => (word.strip_suffix('-').expect("an entry"), None),
    };
    let parts: Vec<_> = name.split('.').collect();
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    if let [owner, generation, sub] = parts[..] {
        let generation = Generation(generation.parse().expect("a number"));
        let key = element_key(owner.as_bytes(), generation, sub.as_bytes()).to_vec();
        return (key, content.map_or(Entry::Tombstone, |content| Entry::Value(bytes(content))));
    }
    let entry = content.map_or(Entry::Tombstone, |content| {
        let (payload, expiry) = content.split_once('@').unwrap_or((content, ""));
        let generation =
            payload.strip_prefix('#').map(|number| Generation(number.parse().expect("a number")));
        let mut value = Value::whole(1, 0, bytes(payload));
        value.generation = generation;
        value.expiry = expiry.parse().ok().map(TimeMs);
        let mut out = Vec::new();
        value.encode(&mut out);
        Entry::Value(Bytes::from(out))
    });
    (entry_key(name.as_bytes()).to_vec(), entry)
}

/// The words that [`parse`] reads, sorted.
fn show(model: &Model) -> String {
    let mut words: Vec<String> = model
        .iter()
        .map(|(key, entry)| {
            let parts = key::split(key).expect("an entry key");
            let mut word = String::from_utf8_lossy(parts.key).into_owned();
            if let Some((generation, sub)) = parts.element {
                write!(word, ".{}.{}", generation.0, String::from_utf8_lossy(sub)).expect("a string");
            }
            match entry {
                Entry::Tombstone => word.push('-'),
                Entry::Value(value) if parts.element.is_some() => {
                    write!(word, "={}", String::from_utf8_lossy(value)).expect("a string");
                }
                Entry::Value(value) => {
                    let header = Header::decode(value).expect("a value");
                    write!(word, "={}", String::from_utf8_lossy(&value[header.len..])).expect("a string");
                    header.expiry.into_iter().for_each(|at| word.push_str(&format!("@{}", at.0)));
                }
            }
            word
        })
        .collect();
    words.sort();
    words.join(" ")
}

#[test]
fn a_merge_keeps_what_can_still_be_seen() {
    // Inputs newest first | above the bottom | into the bottom. The slot's time is 100; what expired goes.
    let cases: &[(&[&str], &str, &str)] = &[
        (&["a=1", "a=2 b=2", "a=3 b=3 c=3"], "a=1 b=2 c=3", "a=1 b=2 c=3"),
        (&["a-", "a=2 b=2"], "a- b=2", "b=2"),
        (&["a=1", "a-"], "a=1", "a=1"),
        // Expiry of whole values: at 100 it is over.
        (&["a=1@100 b=1@101 c=1"], "a- b=1@101 c=1", "b=1@101 c=1"),
        (&["a=2@500", "a=1@50"], "a=2@500", "a=2@500"),
        // Elements follow their collection's generation.
        (&["a=#3 a.3.f=x a.2.f=old"], "a.3.f=x a=#3", "a.3.f=x a=#3"),
        (&["a.3.f=new", "a=#3 a.3.f=x a.3.g=y"], "a.3.f=new a.3.g=y a=#3", "a.3.f=new a.3.g=y a=#3"),
        (&["a.3.f-", "a=#3 a.3.f=x a.3.g=y"], "a.3.f- a.3.g=y a=#3", "a.3.g=y a=#3"),
        (&["a-", "a=#3 a.3.f=x"], "a-", ""),
        (&["a=string", "a=#3 a.3.f=x a.3.g-"], "a=string", "a=string"),
        (&["a=#4 a.4.f=y", "a=#3 a.3.f=x"], "a.4.f=y a=#4", "a.4.f=y a=#4"),
        // Without the collection's entry nothing is known about its elements.
        (&["a.3.f=x a.2.f=y b=1"], "a.2.f=y a.3.f=x b=1", "a.2.f=y a.3.f=x b=1"),
        (&["a.3.f-"], "a.3.f-", ""),
        // An expired collection may have got more time in a newer place, with these very elements.
        (&["a=#3@50 a.3.f=x a.2.f=y"], "a.3.f=x a=#3@50", "a.3.f=x a=#3@50"),
        (&["a=#3@500", "a=#3@50 a.3.f=x"], "a.3.f=x a=#3@500", "a.3.f=x a=#3@500"),
        // A key that is a prefix of another is not its owner.
        (&["a-", "ab=#3 ab.3.f=x"], "a- ab.3.f=x ab=#3", "ab.3.f=x ab=#3"),
    ];
    for (inputs, above, bottom) in cases {
        for (to_bottom, expected) in [(false, above), (true, bottom)] {
            let mut store = Store::new();
            let seqs = (1..=inputs.len() as u64).rev();
            let runs: Vec<_> =
                inputs.iter().zip(seqs).map(|(words, seq)| store.run(&parse(words), seq)).collect();
            let (result, model) = store.merge(&runs, options(to_bottom, false));
            assert_eq!(show(&model), *expected, "{inputs:?} to_bottom: {to_bottom}");
            let out = model.len() as u64;
            let gone = result.overwritten + result.dead_elements + result.tombstones_dropped;
            let expired_and_gone = if to_bottom { result.expired_keys } else { 0 };
            assert_eq!(result.entries_in, out + gone + expired_and_gone, "{inputs:?}: {result:?}");
            if let Some(meta) = &result.run {
                assert_eq!((meta.props.min_seq, meta.props.max_seq), (Seq(1), Seq(inputs.len() as u64)));
            }
            let (result, kept) = store.merge(&runs, options(to_bottom, true));
            let keys = |model: &Model| {
                model
                    .iter()
                    .filter(|(key, entry)| {
                        key::split(key).is_some_and(|parts| parts.element.is_none())
                            && **entry != Entry::Tombstone
                    })
                    .count()
            };
            assert_eq!(result.expired_keys, 0);
            assert!(keys(&kept) >= keys(&model));
        }
    }
}

#[test]
fn a_raised_flag_ends_a_merge() {
    let mut store = Store::new();
    let model: Model = (0..5000u32)
        .map(|n| (entry_key(&n.to_be_bytes()).to_vec(), Entry::Value(Bytes::from_static(b"\x01v"))))
        .collect();
    let run = store.run(&model, 1);
    let mut pack = store.pack();
    let outcome = merge(&[run], options(true, true), &AtomicBool::new(true), &mut pack).expect("no failure");
    assert_eq!(outcome, MergeOutcome::Cancelled);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_merges_gives_what_the_newest_entries_say(
        layers in proptest::collection::vec(
            proptest::collection::btree_map(0u8..30, proptest::option::of(any::<u8>()), 1..20), 2..8),
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 6),
    ) {
        let mut store = Store::new();
        let mut expected = BTreeMap::new();
        let mut runs = Vec::new();
        for (seq, layer) in layers.iter().enumerate() {
            let entry = |value: &Option<u8>| value.map_or(Entry::Tombstone, |v| Entry::Value(Bytes::from(vec![1, v])));
            let model: Model = layer.iter().map(|(key, value)| (entry_key(&[*key]).to_vec(), entry(value))).collect();
            expected.extend(model.clone());
            runs.insert(0, store.run(&model, seq as u64 + 1));
        }
        expected.retain(|_, entry| *entry != Entry::Tombstone);
        let mut newest_first: Vec<Option<Arc<Run>>> = runs.into_iter().map(Some).collect();
        for (from, to) in cuts {
            let runs: Vec<_> = newest_first.iter().flatten().cloned().collect();
            if runs.is_empty() { break; }
            let (from, to) = (from.index(runs.len()), to.index(runs.len()));
            let (from, to) = (from.min(to), from.max(to) + 1);
            let (result, _) = store.merge(&runs[from..to], options(to == runs.len(), false));
            let merged = result.run.map(|meta| store.packs.open_run(&meta).expect("opens"));
            newest_first = runs[..from].iter().cloned().map(Some).collect();
            newest_first.push(merged);
            newest_first.extend(runs[to..].iter().cloned().map(Some));
        }
        let runs: Vec<_> = newest_first.into_iter().flatten().collect();
        let all = if runs.is_empty() { Model::new() } else { store.merge(&runs, options(true, false)).1 };
        prop_assert_eq!(all, expected);
    }
}

fn meta(len: u64, entries: u64, tombstones: u64, file: u64) -> RunMeta {
    let props = Properties {
        slot: slot(),
        entries,
        tombstones,
        keys: 0,
        min_seq: Seq(1),
        max_seq: Seq(1),
        raw_bytes: len,
        min_expiry: None,
        first_key: vec![],
        last_key: vec![],
    };
    RunMeta { file: FileNo(file), offset: 0, len, crc: 0, props }
}

#[test]
fn pick_chooses_what_a_slot_needs_most() {
    type Picked = Option<(std::ops::Range<usize>, Reason)>;
    // Sizes newest first | which runs, why.
    let cases: &[(&[u64], Picked)] = &[
        (&[], None),
        (&[5], None),
        (&[5, 5], None),
        (&[5, 5, 5], None),
        (&[5, 5, 5, 5], Some((0..4, Reason::Bottom))),
        (&[5, 5, 5, 1000], None),
        (&[5, 5, 5, 5, 1000], Some((0..4, Reason::Tier))),
        (&[5, 5, 5, 5, 20, 1000], Some((0..4, Reason::Tier))),
        (&[5, 20, 20, 20, 20, 1000], Some((1..5, Reason::Tier))),
        (&[5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 1000], Some((0..11, Reason::TooManyRuns))),
        (&[5, 6, 7, 14, 1000], Some((0..4, Reason::Tier))),
        (&[5, 6, 7, 15, 1000], None),
        (&[20, 80, 80, 160, 1000], Some((0..5, Reason::Bottom))),
        (&[1, 1, 400, 1000], Some((0..4, Reason::Bottom))),
        (&[1, 400, 1000], None),
        (&[1, 9, 1, 9, 1, 9, 1, 9, 1, 9, 1, 9, 100_000], Some((0..4, Reason::TooManyRuns))),
    ];
    for (sizes, expected) in cases {
        let runs: Vec<_> = sizes.iter().map(|&len| meta(len, 10, 0, 1)).collect();
        let job = pick(&runs, PickOptions::default(), &|_| false);
        assert_eq!(job.as_ref().map(|job| (job.inputs.clone(), job.reason)), *expected, "{sizes:?}");
        if let Some(job) = job {
            assert_eq!(job.to_bottom, job.inputs.end == runs.len(), "{sizes:?}");
            assert_eq!(job.bytes, sizes[job.inputs].iter().sum::<u64>());
        }
        let loading = PickOptions { has_bottom: false, ..PickOptions::default() };
        let job = pick(&runs, loading, &|_| false);
        assert!(job.is_none_or(|job| !job.to_bottom), "{sizes:?}: a slot that is being loaded has no bottom");
    }
    let tombstones = [meta(100, 3000, 2500, 1), meta(10_000, 5000, 0, 1)];
    let job = pick(&tombstones, PickOptions::default(), &|_| false).expect("needs it");
    assert_eq!((job.inputs, job.to_bottom, job.reason), (0..2, true, Reason::Tombstones));
    let dead = [meta(100, 9, 0, 1), meta(5000, 10, 0, 7), meta(100_000, 10, 0, 8)];
    let job = pick(&dead, PickOptions::default(), &|file| file == FileNo(7)).expect("needs it");
    assert_eq!((job.inputs, job.to_bottom, job.reason), (1..2, false, Reason::Evacuation));
    assert_eq!(pick_all(&dead[..1], PickOptions::default()), None);
    assert_eq!(
        pick_all(&dead, PickOptions::default()).map(|job| (job.inputs, job.to_bottom)),
        Some((0..3, true))
    );
}

/// Flushes `flushes` times `flush_entries` random keys out of `keys`, picking as long as something is picked; a run
/// is its number of distinct keys.
fn fill(keys: u32, flush_entries: u32, flushes: u32) -> (u64, u64, usize, u64) {
    let mut runs: Vec<std::collections::HashSet<u32>> = Vec::new();
    let mut seed = 1u64;
    let (mut flushed, mut written, mut most_runs, mut most_bytes) = (0, 0, 0, 0);
    for _ in 0..flushes {
        let mut run = std::collections::HashSet::new();
        for _ in 0..flush_entries {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            run.insert(u32::try_from((seed >> 33) % u64::from(keys)).expect("below keys"));
        }
        flushed += run.len() as u64;
        written += run.len() as u64;
        runs.insert(0, run);
        loop {
            let metas: Vec<_> =
                runs.iter().map(|run| meta(run.len() as u64, run.len() as u64, 0, 1)).collect();
            let Some(job) = pick(&metas, PickOptions::default(), &|_| false) else { break };
            let merged: std::collections::HashSet<u32> =
                runs[job.inputs.clone()].iter().flatten().copied().collect();
            written += merged.len() as u64;
            runs.splice(job.inputs, [merged]);
        }
        most_runs = most_runs.max(runs.len());
        most_bytes = most_bytes.max(runs.iter().map(|run| run.len() as u64).sum());
    }
    (flushed, written, most_runs, most_bytes)
}

#[test]
fn runs_and_space_and_what_is_written_stay_bounded_while_a_slot_is_filled() {
    // Keys, keys of a flush, flushes: overwriting at random, mostly inserting, a small slot, an even smaller one.
    for (keys, flush, flushes) in
        [(20_000, 200, 600), (10_000_000, 200, 400), (1000, 200, 300), (10, 200, 100)]
    {
        let (flushed, written, most_runs, most_bytes) = fill(keys, flush, flushes);
        let case =
            format!("{keys} keys: {written} written for {flushed} flushed, {most_runs} runs, {most_bytes}");
        assert!(most_runs <= 11, "{case}");
        assert!(written <= 8 * flushed, "{case}");
        let live = u64::from(keys).min(flushed);
        assert!(most_bytes <= live * 4 / 3 + 4 * u64::from(flush), "{case}");
    }
}
