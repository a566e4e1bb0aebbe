use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use haypile_engine::engine::Engine;
use haypile_engine::key::Key;
use haypile_engine::testing;
use haypile_engine::tx::{Read, Stop, Tx};
use haypile_engine::value::Value;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

use super::{Dict, Elements};
use crate::kind::Kind;
use crate::types::Look;
use crate::types::tests::run;

fn with<T>(engine: &Engine, key: &Key, body: impl FnOnce(&mut Tx<'_>, &mut Dict<'_>) -> Read<T>) -> T {
    run(engine, &[key], |tx| {
        let mut dict = tx.get(key)?.map_or(Ok(Dict::new_hash(key)), |value| Dict::hash(key, &value))?;
        let out = body(tx, &mut dict)?;
        dict.close(tx)?;
        Ok(out)
    })
}

#[derive(Clone, Debug)]
enum Step {
    Put(u16, Vec<u8>),
    Remove(u16),
    Delete,
    RemoveAll,
}

fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    // Values that are sometimes too long for a small one, and names enough to outgrow it by number.
    let value = prop_oneof![40 => prop::collection::vec(any::<u8>(), 0..20), 1 => Just(vec![7; 65])];
    let step = prop_oneof![
        200 => (0..200u16, value).prop_map(|(name, value)| Step::Put(name, value)),
        60 => (0..200u16).prop_map(Step::Remove),
        1 => Just(Step::Delete),
        1 => Just(Step::RemoveAll),
    ];
    prop::collection::vec(prop::collection::vec(step, 1..40), 1..20)
}

fn name(number: u16) -> Vec<u8> {
    format!("name {number}").into_bytes()
}

fn all(engine: &Engine, key: &Key) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let elements = with(engine, key, |tx, dict| {
        let all = dict.all(tx)?;
        assert_eq!(all.len(), dict.len());
        for (name, value) in &all {
            assert_eq!(dict.get(tx, name)?.as_ref(), Some(value));
        }
        Ok(all)
    });
    let map: BTreeMap<_, _> = elements.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    assert_eq!(map.len(), elements.len(), "no name twice");
    assert!(looked_at(engine, key).is_none_or(|looked_at| looked_at == map));
    with(engine, key, |tx, dict| {
        let finder = dict.finder(usize::MAX);
        for number in 0..300 {
            assert_eq!(finder.has(tx, &name(number))?, map.contains_key(&name(number)));
        }
        Ok(())
    });
    map
}

/// What a look at it where it lies gives, if it is small and there.
fn looked_at(engine: &Engine, key: &Key) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    let look = |mut elements: Elements<'_>| {
        let (mut map, whole) = (BTreeMap::new(), elements.clone());
        assert_eq!(elements.left() * 2, whole.clone().walk.left());
        while let Some((name, value)) = elements.next()? {
            assert_eq!(whole.clone().find(name), Ok(Some(value)));
            map.insert(name.to_vec(), value.to_vec());
        }
        assert_eq!(whole.find(b"no name"), Ok(None));
        Ok(map)
    };
    let looked = run(engine, &[key], |tx| tx.read(key, |value| Dict::look(key, Kind::Hash, &value, look)));
    match looked.map(|looked| looked.expect("it has a meaning")) {
        Some(Look::Small(map)) => Some(map),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_hash_is_the_map_that_it_stands_for(batches in steps()) {
        let engine = testing::engine();
        let key = Key::new(b"k");
        let mut model = BTreeMap::new();
        for batch in batches {
            // Each batch is one command: opened once, closed once.
            if matches!(batch[0], Step::Delete) {
                let was = run(&engine, &[&key], |tx| tx.delete(&key));
                prop_assert_eq!(was, !model.is_empty());
                model.clear();
            }
            with(&engine, &key, |tx, dict| {
                for step in batch {
                    match step {
                        Step::Put(number, value) => {
                            let new = dict.put(tx, &name(number), &value)?;
                            assert_eq!(new, model.insert(name(number), value).is_none());
                        }
                        Step::Remove(number) => {
                            let was = dict.remove(tx, &name(number))?;
                            assert_eq!(was, model.remove(&name(number)).is_some());
                        }
                        Step::RemoveAll => {
                            for name in std::mem::take(&mut model).into_keys() {
                                assert!(dict.remove(tx, &name)?);
                            }
                        }
                        Step::Delete => {}
                    }
                    assert_eq!(dict.len(), model.len());
                }
                Ok(())
            });
            prop_assert_eq!(&all(&engine, &key), &model);
            prop_assert_eq!(engine.key_count(), u64::from(!model.is_empty()));
        }
    }
}

#[test]
fn a_hash_becomes_large_at_each_limit_and_stays_so_until_its_key_goes() {
    let engine = testing::engine();
    let fill = |key: &Key, count: usize, value: &[u8]| {
        with(&engine, key, |tx, dict| {
            for number in 0..count {
                dict.put(tx, format!("{number}").as_bytes(), value)?;
            }
            Ok(dict.is_large())
        })
    };
    assert!(!fill(&Key::new(b"count"), 128, b"v"));
    assert!(fill(&Key::new(b"count"), 129, b"v"));
    assert!(fill(&Key::new(b"count"), 1, b"v"));
    assert!(!fill(&Key::new(b"item"), 1, &[0; 64]));
    assert!(fill(&Key::new(b"item"), 1, &[0; 65]));
    assert!(!fill(&Key::new(b"bytes"), 29, &[0; 64]));
    assert!(fill(&Key::new(b"bytes"), 31, &[0; 64]));
    run(&engine, &[&Key::new(b"count")], |tx| tx.delete(&Key::new(b"count")));
    assert!(!fill(&Key::new(b"count"), 1, b"v"));
    assert_eq!(all(&engine, &Key::new(b"count")).len(), 1);
}

/// Found by the test above: what was written when it became large stayed, with nothing in it.
#[test]
fn a_hash_that_becomes_large_and_empty_in_one_command_leaves_nothing() {
    let engine = testing::engine();
    let key = Key::new(b"k");
    with(&engine, &key, |tx, dict| {
        dict.put(tx, b"a", &[0; 100])?;
        dict.remove(tx, b"a")
    });
    assert_eq!(engine.key_count(), 0);
    assert_eq!(run(&engine, &[&key], |tx| tx.get(&key)), None);
}

#[test]
fn an_expiry_stays_through_every_change() {
    let engine = testing::engine();
    let key = Key::new(b"k");
    let expiry = Some(haypile_engine::clock::TimeMs(u64::MAX / 2));
    with(&engine, &key, |tx, dict| dict.put(tx, b"a", b"1"));
    run(&engine, &[&key], |tx| {
        let value = tx.get(&key)?.expect("just made");
        tx.put(&key, &Value { expiry, ..value })
    });
    with(&engine, &key, |tx, dict| dict.put(tx, b"b", b"2"));
    assert_eq!(run(&engine, &[&key], |tx| tx.get(&key)).expect("there").expiry, expiry);
    with(&engine, &key, |tx, dict| dict.put(tx, b"c", &[0; 100]));
    assert_eq!(run(&engine, &[&key], |tx| tx.get(&key)).expect("there").expiry, expiry);
}

#[test]
fn a_value_without_meaning_is_an_error() {
    let key = Key::new(b"k");
    let kind = Kind::Hash as u8;
    let values = [
        Value::whole(kind, 0, &b""[..]),
        Value::whole(kind, 0, &b"\x01\x01a"[..]),
        Value::whole(kind, 0, &b"\x02\x01a"[..]),
        Value::whole(kind, 1, &b"\x01"[..]),
        Value::whole(kind, 2, &b"\x00"[..]),
    ];
    for value in values {
        assert!(matches!(Dict::hash(&key, &value), Err(Stop::Failed(_))));
    }
}

/// A set of `count` names, small or large by its number.
fn set(engine: &Engine, key: &Key, count: usize) {
    run(engine, &[key], |tx| {
        let mut set = Dict::new_set(key);
        for number in 0..count {
            set.put_new(tx, format!("{number}").as_bytes(), b"")?;
        }
        set.close(tx)
    });
}

#[test]
fn samples_are_distinct_complete_and_even() {
    // Small; large and few of it; large and much of it.
    for (count, size) in [(40usize, 7usize), (600, 20), (600, 450)] {
        let engine = testing::engine();
        let key = Key::new(b"k");
        set(&engine, &key, count);
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(2);
        let mut hits = HashMap::<Bytes, f64>::new();
        let rounds = 20_000 / size;
        run(&engine, &[&key], |tx| {
            let set = Dict::set(&key, &tx.get(&key)?.expect("it was filled"))?;
            for _ in 0..rounds {
                let chosen = set.sample(tx, size, &mut rng)?;
                assert_eq!(chosen.len(), size);
                assert_eq!(chosen.iter().map(|(name, _)| name).collect::<HashSet<_>>().len(), size);
                chosen.into_iter().for_each(|(name, _)| *hits.entry(name).or_default() += 1.0);
            }
            assert_eq!(set.sample(tx, count + 1, &mut rng)?.len(), count);
            assert_eq!(set.sample_with_repeats(tx, count * 3, &mut rng)?.len(), count * 3);
            assert_eq!(set.sample_with_repeats(tx, 5, &mut rng)?.len(), 5);
            Ok(())
        });
        assert_eq!(hits.len(), count);
        #[allow(clippy::cast_precision_loss)]
        let (expected, freedom) = ((rounds * size) as f64 / count as f64, (count - 1) as f64);
        let chi_squared: f64 = hits.values().map(|hit| (hit - expected).powi(2) / expected).sum();
        assert!(chi_squared < freedom + 5.0 * (2.0 * freedom).sqrt(), "{count} {size}: {chi_squared}");
    }
}
