use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::key::{Generation, element_key, entry_key};

fn owned((key, stored): (&[u8], Stored<'_>)) -> (Vec<u8>, Option<Vec<u8>>) {
    (key.to_vec(), stored.value().map(|value| value.to_vec()))
}

type Model = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

fn insert(table: &mut Memtable, model: &mut Model, key: Vec<u8>, value: Option<Vec<u8>>) {
    match &value {
        Some(bytes) => table.insert(&key, Stored::inline(bytes)),
        None => table.insert(&key, Stored::Tombstone),
    }
    model.insert(key, value);
}

fn assert_equal(table: &Memtable, model: &Model) {
    assert_eq!(table.len(), model.len());
    let up: Vec<_> = table.iter().map(owned).collect();
    let mut down: Vec<_> = table.iter().rev().map(owned).collect();
    down.reverse();
    assert!(up.iter().map(|(key, value)| (key, value)).eq(model.iter()));
    assert_eq!(up, down);
}

fn element(key: &str, number: u16) -> Vec<u8> {
    element_key(key.as_bytes(), Generation(7), &number.to_string().into_bytes()).to_vec()
}

/// Keys that share their first bytes now and then, of all lengths about the prefix's.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(0_u8..3, 0..12),
        vec(any::<u8>(), 6..9),
        (0_u16..400).prop_map(|n| element("big", n)),
        (0_u16..40, 0_u8..4).prop_map(|(n, owner)| element(&owner.to_string(), n)),
        (0_u16..4000).prop_map(|n| entry_key(n.to_string().as_bytes()).to_vec())
    ]
}

fn value() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![
        1 => Just(None),
        8 => vec(any::<u8>(), 0..40).prop_map(Some),
        1 => (0_usize..6000).prop_map(|len| Some(vec![7; len])),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn it_holds_what_an_ordered_map_holds(writes in vec((key(), value()), 0..1500), probes in vec((key(), key()), 20)) {
        let (mut table, mut model) = (Memtable::default(), Model::new());
        for (key, value) in writes {
            insert(&mut table, &mut model, key, value);
        }
        assert_equal(&table, &model);
        for (a, b) in probes {
            let found = table.get(&a).map(|stored| stored.value().map(|value| value.to_vec()));
            prop_assert_eq!(found.as_ref(), model.get(&a));
            let (from, to) = (a.clone().min(b.clone()), a.max(b));
            for (from_bound, to_bound) in [
                (Bound::Included(&from[..]), Bound::Excluded(&to[..])),
                (Bound::Excluded(&from[..]), Bound::Included(&to[..])),
                (Bound::Included(&from[..]), Bound::Included(&to[..])),
            ] {
                if from == to && !matches!((from_bound, to_bound), (Bound::Included(_), Bound::Included(_))) {
                    prop_assert_eq!(table.range(from_bound, to_bound).count(), 0);
                    continue;
                }
                let expected: Vec<_> =
                    model.range::<[u8], _>((from_bound, to_bound)).map(|(key, value)| (key.clone(), value.clone())).collect();
                let got: Vec<_> = table.range(from_bound, to_bound).map(owned).collect();
                prop_assert_eq!(&got, &expected);
                let mut back: Vec<_> = table.range(from_bound, to_bound).rev().map(owned).collect();
                back.reverse();
                prop_assert_eq!(back, expected);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever was looked up before, in whatever table, and however long ago.
    #[test]
    fn where_a_key_was_seen_is_a_guess_and_no_more(
        writes in vec((key(), key(), value(), any::<bool>(), 0_u8..8), 0..1500),
    ) {
        let (mut table, mut model) = (Memtable::default(), Model::new());
        let mut seen = Seen::default();
        for (looked_up, other, value, same, age) in writes {
            if age > 0 {
                let found = table.get_noting(&looked_up, &mut seen).map(|stored| stored.value().map(|value| value.to_vec()));
                prop_assert_eq!(found.as_ref(), model.get(&looked_up));
            }
            let key = if same { looked_up } else { other };
            table.insert_seen(&key, value.as_deref().map_or(Stored::Tombstone, Stored::inline), &seen);
            model.insert(key, value);
            if age == 7 {
                (table, model) = (Memtable::default(), Model::new());
            }
        }
        assert_equal(&table, &model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_walk_over_one_collection_gives_what_a_range_has(
        writes in vec((key(), value()), 0..1500),
        probes in vec((0_u16..400, 0_u16..400, 0_usize..200), 20),
    ) {
        let mut table = Memtable::default();
        for (key, value) in writes {
            table.insert(&key, value.as_deref().map_or(Stored::Tombstone, Stored::inline));
        }
        let mut seen = Seen::default();
        for (from, to, most) in probes {
            let (from, to) = (element("big", from), element("big", to));
            if most % 2 == 0 {
                table.get_noting(&from, &mut seen);
                table.get_noting(&to, &mut seen);
            }
            for bounds in [
                (Bound::Included(&from[..]), Bound::Excluded(&to[..])),
                (Bound::Excluded(&from[..]), Bound::Included(&to[..])),
                (Bound::Included(&from[..]), Bound::Included(&element_key(b"big", Generation(8), b"")[..])),
            ] {
                let range = || table.range(bounds.0, bounds.1);
                for (direction, expected) in [
                    (Direction::Forward, range().take(most).map(owned).collect::<Vec<_>>()),
                    (Direction::Backward, range().rev().take(most).map(owned).collect()),
                ] {
                    let mut got = Vec::new();
                    table.walk_elements(bounds, direction, &seen, |key, stored| {
                        got.extend((got.len() < most).then(|| owned((key, stored))));
                        got.len() < most
                    });
                    prop_assert_eq!(got, expected);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Long runs of keys that share much, and then one that shares little.
    #[test]
    fn elements_that_share_more_and_more_are_found(
        subs in vec((0_usize..40, vec(prop_oneof![9 => Just(b'x'), 1 => any::<u8>()], 0..12)), 0..4000),
    ) {
        let (mut table, mut model) = (Memtable::default(), Model::new());
        for (shared, tail) in subs {
            let sub = [&b"a-member-of-a-set-whose-members-are-alike"[..shared], &tail].concat();
            insert(&mut table, &mut model, element_key(b"k", Generation(1), &sub).to_vec(), Some(tail));
        }
        assert_equal(&table, &model);
        for key in model.keys().step_by(16) {
            prop_assert!(table.get(key).is_some());
            let before = table.range(Bound::Unbounded, Bound::Excluded(key)).count();
            prop_assert_eq!(before, model.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(&key[..]))).count());
        }
    }
}

#[test]
fn many_keys_of_a_slot_and_those_whose_hashes_crowd_are_found() {
    let (mut table, mut model) = (Memtable::default(), Model::new());
    for number in 0..20_000_u32 {
        insert(&mut table, &mut model, entry_key(&number.to_be_bytes()).to_vec(), Some(vec![1]));
        let crowded = [&[0xff, 0xff, 0xff, 0xff, 0, 0, 4][..], &number.reverse_bits().to_be_bytes()].concat();
        if number < 3000 {
            insert(&mut table, &mut model, crowded, None);
        }
    }
    assert_equal(&table, &model);
    assert!(model.keys().all(|key| table.get(key).is_some()));
    assert!((20_000..30_000_u32).all(|number| table.get(&entry_key(&number.to_be_bytes())).is_none()));
}

#[test]
fn ascending_keys_and_descending_keys_keep_their_order() {
    for descending in [false, true] {
        let (mut table, mut model) = (Memtable::default(), Model::new());
        for number in 0..5000_u32 {
            let number = if descending { 5000 - number } else { number };
            insert(
                &mut table,
                &mut model,
                element_key(b"one-list", Generation(1), &number.to_be_bytes()).to_vec(),
                Some(vec![1; 3]),
            );
        }
        assert_equal(&table, &model);
    }
}

#[test]
fn a_key_that_is_rewritten_for_ever_takes_bounded_memory() {
    let mut table = Memtable::default();
    for length in 0..20_000_usize {
        let value = vec![1; length % 1500];
        table.insert(format!("hot{}", length % 3).as_bytes(), Stored::inline(&value));
    }
    assert!(table.bytes() < 4 * GARBAGE_BYTES_MIN, "{} bytes for three keys", table.bytes());
}

#[test]
fn a_large_value_is_shared_and_no_longer_charged_once_it_is_gone() {
    let mut table = Memtable::default();
    let large = Bytes::from(vec![1; 1 << 20]);
    table.insert(b"k", Stored::Value(ValueRef::Shared(&large)));
    assert!(table.bytes() > 1 << 20);
    let Some(Stored::Value(ValueRef::Shared(found))) = table.get(b"k") else { panic!("it is shared") };
    assert_eq!(found.as_ptr(), large.as_ptr());
    table.insert(b"k", Stored::inline(b"1"));
    assert!(
        table.bytes() < 4096 && table.get(b"k").and_then(Stored::value).is_some_and(|value| &*value == b"1")
    );
}

#[test]
fn a_clear_drops_everything_and_says_so() {
    let mut table = Memtable::default();
    assert!(table.is_empty() && table.bytes() == 0);
    table.insert(b"a", Stored::Tombstone);
    assert!(!table.is_empty() && table.bytes() > 0);
    table.clear();
    assert!(table.bytes() == 0 && table.clears_older() && !table.is_empty());
}

#[test]
fn an_inverted_range_is_empty() {
    let mut table = Memtable::default();
    table.insert(b"b", Stored::Tombstone);
    assert_eq!(table.range(Bound::Included(b"c"), Bound::Included(b"a")).count(), 0);
    assert_eq!(table.range(Bound::Excluded(b"b"), Bound::Excluded(b"b")).count(), 0);
    assert_eq!(table.range(Bound::Included(b"b"), Bound::Unbounded).count(), 1);
}
