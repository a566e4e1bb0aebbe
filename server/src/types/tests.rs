use std::collections::BTreeSet;

use haypile_engine::engine::{Engine, Fetched};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

use super::*;
use crate::types::small::{Broken, Items};

pub(super) fn run<T>(engine: &Engine, keys: &[&Key], body: impl FnOnce(&mut Tx<'_>) -> Read<T>) -> T {
    let slots: BTreeSet<_> = keys.iter().map(|key| key.slot()).collect();
    let fetched = Fetched::default();
    let mut tx = engine.begin(&slots.into_iter().collect::<Vec<_>>(), &fetched);
    let out = body(&mut tx).expect("everything is in memory");
    tx.commit().expect("the log takes it");
    out
}

/// The items of a payload, where they lie.
fn walked(payload: &[u8]) -> Result<Vec<Vec<u8>>, Broken> {
    let (mut walk, mut items) = (small::Walk::new(payload)?, Vec::new());
    while let Some(item) = walk.next()? {
        items.push(item.to_vec());
    }
    Ok(items)
}

#[derive(Clone, Debug)]
enum Edit {
    Push(Vec<u8>),
    Splice(usize, usize, Vec<Vec<u8>>),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let item = || prop::collection::vec(any::<u8>(), 0..200);
    let edit = prop_oneof![
        item().prop_map(Edit::Push),
        (any::<usize>(), 0..4usize, prop::collection::vec(item(), 0..4))
            .prop_map(|(at, removed, items)| Edit::Splice(at, removed, items)),
    ];
    prop::collection::vec(edit, 0..40)
}

proptest! {
    #[test]
    fn items_are_the_vector_that_they_stand_for(edits in edits()) {
        let key = Key::new(b"k");
        let (mut items, mut model) = (Items::default(), Vec::<Vec<u8>>::new());
        for edit in edits {
            match edit {
                Edit::Push(item) => {
                    items.push(&item);
                    model.push(item);
                }
                Edit::Splice(at, removed, new) => {
                    let at = at % (model.len() + 1);
                    let removed = removed.min(model.len() - at);
                    items.splice(at, removed, &new.iter().map(|item| &item[..]).collect::<Vec<_>>());
                    model.splice(at..at + removed, new);
                }
            }
            items = Items::decode(&key, items.payload()).expect("what was encoded");
            prop_assert_eq!(items.len(), model.len());
            prop_assert!(items.iter().eq(model.iter().map(|item| &item[..])));
        }
        let payload = Bytes::copy_from_slice(items.payload());
        prop_assert_eq!(walked(&payload), Ok(model));
        prop_assert!(walked(&[&payload[..], b"x"].concat()).is_err());
        for cut in 0..payload.len() {
            prop_assert!(Items::decode(&key, &payload.slice(..cut)).is_err());
            prop_assert!(walked(&payload[..cut]).is_err());
        }
    }
}

const TAG: u8 = 7;

fn collection(engine: &Engine, key: &Key, names: &[String]) -> Generation {
    run(engine, &[key], |tx| {
        let generation = new_generation(tx, key)?;
        for name in names {
            tx.put_element(key, generation, &hashed::sub_key(TAG, name.as_bytes()), name.clone());
        }
        tx.put_element(key, generation, &[TAG - 1, 0xff], Bytes::new());
        tx.put_element(key, generation, &[TAG + 1], Bytes::new());
        Ok(generation)
    })
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("name {n}")).collect()
}

#[test]
fn pages_give_every_element_once_in_both_directions() {
    let engine = haypile_engine::testing::engine();
    let key = Key::new(b"k");
    let generation = collection(&engine, &key, &names(3 * PAGE));
    let mut walks = Vec::new();
    for direction in [Direction::Forward, Direction::Backward] {
        let (from, to) = hashed::all(TAG);
        let mut pages = Pages::range(&key, generation, from, to, direction);
        let mut seen = Vec::new();
        run(&engine, &[&key], |tx| {
            loop {
                let page = pages.next(tx)?;
                if page.is_empty() {
                    return Ok(());
                }
                seen.extend(page);
            }
        });
        assert_eq!(seen.len(), 3 * PAGE);
        walks.push(seen);
    }
    assert!(walks[0].is_sorted_by(|a, b| a < b));
    walks[1].reverse();
    assert_eq!(walks[0], walks[1]);
}

#[test]
fn a_scan_sees_each_element_once_whatever_the_count() {
    let engine = haypile_engine::testing::engine();
    let key = Key::new(b"k");
    let mut names = names(1000);
    let generation = collection(&engine, &key, &names);
    names.sort();
    for count in [1, 10, 999, 1000, usize::MAX] {
        let (mut cursor, mut seen) = (0, Vec::new());
        loop {
            let (page, next) =
                run(&engine, &[&key], |tx| hashed::scan(tx, &key, generation, TAG, cursor, count));
            assert!(page.iter().all(|(name, value)| name == value));
            seen.extend(page.into_iter().map(|(name, _)| String::from_utf8(name.to_vec()).expect("text")));
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        seen.sort();
        assert_eq!(seen, names);
    }
    let beyond = run(&engine, &[&key], |tx| hashed::scan(tx, &key, generation, TAG, u64::MAX, 10));
    assert_eq!(beyond, (Page::new(), 0));
}

#[test]
fn elements_of_one_hash_are_in_one_answer() {
    let engine = haypile_engine::testing::engine();
    let key = Key::new(b"k");
    let generation = run(&engine, &[&key], |tx| {
        let generation = new_generation(tx, &key)?;
        for n in 0..100u8 {
            // Hashes 0 to 4 with twenty names each, which no real names are likely to have.
            tx.put_element(&key, generation, &[TAG, 0, 0, 0, 0, 0, n / 20, n], Bytes::new());
        }
        Ok(generation)
    });
    let (first, next) = run(&engine, &[&key], |tx| hashed::scan(tx, &key, generation, TAG, 0, 5));
    assert_eq!((first.len(), next), (20, 1));
    let (second, next) = run(&engine, &[&key], |tx| hashed::scan(tx, &key, generation, TAG, 1, 59));
    assert_eq!((second.len(), next), (40, 3));
}

#[test]
fn chance_is_even() {
    for (len, throws) in [(5u32, 20_000u32), (200, 20_000), (1000, 30_000)] {
        let engine = haypile_engine::testing::engine();
        let key = Key::new(b"k");
        let names = names(len as usize);
        let generation = collection(&engine, &key, &names);
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut hits = std::collections::HashMap::<Bytes, u32>::new();
        run(&engine, &[&key], |tx| {
            for _ in 0..throws {
                let (name, _) =
                    hashed::random(tx, &key, generation, TAG, u64::from(len), &mut rng)?.expect("not empty");
                *hits.entry(name).or_default() += 1;
            }
            Ok(())
        });
        let expected = f64::from(throws) / f64::from(len);
        let square = |name: &String| {
            let hit = hits.get(name.as_bytes()).copied().unwrap_or(0);
            (f64::from(hit) - expected).powi(2) / expected
        };
        let chi_squared: f64 = names.iter().map(square).sum();
        // Mean: the degrees of freedom; deviation: the root of their double. Five of those are never chance.
        let freedom = f64::from(len - 1);
        assert!(chi_squared < freedom + 5.0 * (2.0 * freedom).sqrt(), "{len}: {chi_squared}");
    }
}

#[test]
fn nothing_can_be_chosen_from_nothing() {
    let engine = haypile_engine::testing::engine();
    let key = Key::new(b"k");
    let generation = collection(&engine, &key, &[]);
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
    let chosen = run(&engine, &[&key], |tx| hashed::random(tx, &key, generation, TAG, 0, &mut rng));
    assert_eq!(chosen, None);
}

#[test]
fn a_generation_that_is_used_twice_in_one_transaction_begins_empty() {
    let engine = haypile_engine::testing::engine();
    let key = Key::new(b"k");
    let left = run(&engine, &[&key], |tx| {
        let first = new_generation(tx, &key)?;
        tx.put_element(&key, first, b"old", Bytes::new());
        let second = new_generation(tx, &key)?;
        assert_eq!(first, second);
        Pages::all(&key, second).next(tx)
    });
    assert_eq!(left, Page::new());
}

#[test]
fn a_loop_goes_on_after_a_miss_and_ends_with_it() {
    let mut misses = Misses::default();
    assert_eq!(misses.pass(Ok(1)).expect("an answer"), Some(1));
    assert_eq!(misses.pass::<u8>(Err(Stop::Miss)).expect("goes on"), None);
    assert!(matches!(
        misses.pass::<u8>(Err(Stop::Failed(Error::Limit(String::new())))),
        Err(Stop::Failed(_))
    ));
    assert!(matches!(misses.end(), Err(Stop::Miss)));
    assert!(Misses::default().end().is_ok());
}
