use haypile_engine::engine::Engine;
use haypile_engine::testing;
use proptest::prelude::*;

use super::*;
use crate::types::tests::run;

#[derive(Clone, Debug)]
enum Act {
    Push(bool, Vec<u8>, usize),
    Pop(bool, usize),
    Set(usize, Vec<u8>),
    Insert(usize, Vec<u8>),
    Remove(usize, usize, usize),
    Trim(usize, usize),
    Walk(usize, usize, bool),
    Delete,
}

fn item() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        20 => prop::collection::vec(any::<u8>(), 0..8),
        1 => prop::collection::vec(any::<u8>(), 60..70),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let place = || 0..400usize;
    prop_oneof![
        8 => (any::<bool>(), item(), 1..60usize).prop_map(|(head, item, times)| Act::Push(head, item, times)),
        2 => (any::<bool>(), prop_oneof![Just(1), place()]).prop_map(|(head, count)| Act::Pop(head, count)),
        2 => (place(), item()).prop_map(|(at, item)| Act::Set(at, item)),
        4 => (place(), item()).prop_map(|(at, item)| Act::Insert(at, item)),
        4 => (place(), 1..9usize, 1..40usize).prop_map(|(at, step, count)| Act::Remove(at, step, count)),
        1 => (place(), place()).prop_map(|(from, count)| Act::Trim(from, count)),
        4 => (place(), place(), any::<bool>()).prop_map(|(from, count, back)| Act::Walk(from, count, back)),
        1 => Just(Act::Delete),
    ]
}

fn end(head: bool) -> End {
    if head { End::Head } else { End::Tail }
}

fn read<'k>(tx: &mut Tx<'_>, key: &'k Key) -> Read<List<'k>> {
    match tx.get(key)? {
        Some(value) => List::decode(key, &value),
        None => Ok(List::new(key)),
    }
}

fn contents(
    tx: &mut Tx<'_>,
    list: &List<'_>,
    from: usize,
    count: usize,
    direction: Direction,
) -> Read<Vec<Vec<u8>>> {
    let mut out = Vec::new();
    let mut last = None;
    list.walk(tx, from, count, direction, |position, item| {
        assert!(last.is_none_or(|last: usize| last.abs_diff(position) == 1));
        last = Some(position);
        out.push(item.to_vec());
        true
    })?;
    Ok(out)
}

fn apply(tx: &mut Tx<'_>, key: &Key, model: &mut Vec<Vec<u8>>, act: Act) -> Read<()> {
    let mut list = read(tx, key)?;
    assert_eq!(list.len(), model.len());
    match act {
        Act::Push(head, item, times) => {
            for n in 0..times {
                let item = [&item[..], n.to_string().as_bytes()].concat();
                list.push(tx, end(head), &Bytes::from(item.clone()))?;
                model.insert(if head { 0 } else { model.len() }, item);
            }
        }
        Act::Pop(head, count) => {
            let popped = list.pop(tx, end(head), count)?;
            let count = count.min(model.len());
            let expected: Vec<Vec<u8>> = if head {
                model.drain(..count).collect()
            } else {
                model.drain(model.len() - count..).rev().collect()
            };
            assert_eq!(popped, expected);
        }
        Act::Set(at, item) if at < model.len() => {
            list.set(tx, at, &Bytes::from(item.clone()))?;
            model[at] = item;
        }
        Act::Insert(at, item) if at <= model.len() => {
            list.insert(tx, at, &Bytes::from(item.clone()))?;
            model.insert(at, item);
        }
        Act::Remove(at, step, count) => {
            let positions: Vec<usize> = (at..model.len()).step_by(step).take(count).collect();
            list.remove(tx, &positions)?;
            positions.iter().rev().for_each(|&position| drop(model.remove(position)));
        }
        Act::Trim(from, count) => {
            list.trim(tx, from, count)?;
            *model = model.iter().skip(from).take(count).cloned().collect();
        }
        Act::Walk(from, count, back) => {
            let direction = if back { Direction::Backward } else { Direction::Forward };
            let mut expected: Vec<Vec<u8>> = model.iter().skip(from).take(count).cloned().collect();
            if back {
                expected.reverse();
            }
            assert_eq!(contents(tx, &list, from, count, direction)?, expected);
            assert_eq!(list.get(tx, from)?.as_deref(), model.get(from).map(|item| &item[..]));
        }
        Act::Set(..) | Act::Insert(..) => {}
        Act::Delete => {
            list.trim(tx, 0, 0)?;
            model.clear();
        }
    }
    list.save(tx)
}

/// Keys and elements that the slot holds, to see that nothing is left behind.
fn whole(engine: &Engine, key: &Key) -> Vec<Vec<u8>> {
    run(engine, &[key], |tx| {
        let list = read(tx, key)?;
        contents(tx, &list, 0, usize::MAX, Direction::Forward)
    })
}

proptest! {
    #[test]
    fn a_list_is_the_sequence_that_it_stands_for(
        groups in prop::collection::vec(prop::collection::vec(act(), 1..6), 1..12),
    ) {
        let (engine, key) = (testing::engine(), Key::new(b"k"));
        let mut model = Vec::new();
        // Each group is one transaction, as of a MULTI.
        for group in groups {
            run(&engine, &[&key], |tx| {
                group.into_iter().try_for_each(|act| apply(tx, &key, &mut model, act))
            });
            prop_assert_eq!(whole(&engine, &key), model.clone());
            prop_assert_eq!(engine.key_count(), u64::from(!model.is_empty()));
        }
    }
}

#[test]
fn an_expiry_stays_while_the_list_grows_and_shrinks() {
    let (engine, key) = (testing::engine(), Key::new(b"k"));
    let expiry = Some(TimeMs(u64::MAX));
    run(&engine, &[&key], |tx| {
        let mut list = List { expiry, ..List::new(&key) };
        list.push(tx, End::Head, &Bytes::from_static(b"a"))?;
        list.save(tx)
    });
    for count in [500, 3] {
        run(&engine, &[&key], |tx| {
            let mut list = read(tx, &key)?;
            (0..500).try_for_each(|_| list.push(tx, End::Tail, &Bytes::from_static(b"b")))?;
            list.trim(tx, 1, count)?;
            list.save(tx)
        });
        assert_eq!(run(&engine, &[&key], |tx| tx.get(&key)).map(|value| value.expiry), Some(expiry));
    }
}

#[test]
fn bytes_that_are_no_list_and_a_lost_item_are_refused() {
    let (engine, key) = (testing::engine(), Key::new(b"k"));
    let kind = Kind::List as u8;
    let refused = |value: Value| assert!(List::decode(&key, &value).is_err(), "{value:?}");
    let generation = Some(Generation(1));
    refused(Value::whole(kind, SMALL, &b"\x01"[..]));
    refused(Value::whole(kind, LARGE, &[0; 16][..]));
    refused(Value { generation, ..Value::whole(kind, LARGE, &[0; 15][..]) });
    refused(Value { generation, ..Value::whole(kind, LARGE, &[0xff; 16][..]) });
    refused(Value { generation, ..Value::whole(kind, LARGE, [i64::MAX.to_le_bytes(); 2].concat()) });
    refused(Value::whole(kind, 2, &b"\x00"[..]));
    run(&engine, &[&key], |tx| {
        let mut list = List::new(&key);
        (0..300).try_for_each(|_| list.push(tx, End::Tail, &Bytes::from_static(b"x")))?;
        let Form::Large(span) = list.form else { panic!("300 items are large") };
        tx.delete_element(&key, span.generation, &span.sub_key(100));
        assert!(list.get(tx, 100).is_err() && list.get(tx, 99).is_ok());
        assert!(list.walk(tx, 50, 100, Direction::Backward, |_, _| true).is_err());
        assert!(list.walk(tx, 100, 1, Direction::Forward, |_, _| true).is_err());
        Ok(())
    });
}
