use std::collections::BTreeMap;
use std::ops::Bound;

use haypile_engine::read::Direction;
use haypile_engine::testing;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

use super::*;
use crate::types::tests::run;

/// Members with scores, without an order.
type Model = BTreeMap<Vec<u8>, f64>;

#[derive(Clone, Debug)]
enum Act {
    Put(Vec<(Vec<u8>, f64)>),
    Remove(Vec<Vec<u8>>),
    RemoveRanks(usize, usize),
    Make(Vec<(Vec<u8>, f64)>),
    Ranks(usize, usize, bool),
    Part(Range, bool, usize, usize),
}

fn score() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => (-5..5i32).prop_map(f64::from),
        1 => prop::sample::select(vec![0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, 0.1, -1e300, 1e-320]),
    ]
}

fn member() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        30 => (0..500u32).prop_map(|n| format!("m{n}").into_bytes()),
        2 => prop::collection::vec(any::<u8>(), 0..4),
        1 => prop::collection::vec(any::<u8>(), 62..68),
    ]
}

fn cut() -> impl Strategy<Value = Cut> {
    prop_oneof![
        Just(Cut::First),
        Just(Cut::Last),
        member().prop_map(|member| Cut::At(member.into())),
        member().prop_map(|member| Cut::Beside(member.into())),
    ]
}

fn bound() -> impl Strategy<Value = Bound<f64>> {
    prop_oneof![score().prop_map(Bound::Included), score().prop_map(Bound::Excluded), Just(Bound::Unbounded)]
}

fn act() -> impl Strategy<Value = Act> {
    let range = prop_oneof![
        (bound(), bound()).prop_map(|(min, max)| Range::Scores(min, max)),
        (cut(), cut()).prop_map(|(min, max)| Range::Members(min, max)),
    ];
    let scored = |most| prop::collection::vec((member(), score()), 0..most);
    let place = || 0..300usize;
    prop_oneof![
        6 => scored(60).prop_map(Act::Put),
        2 => prop::collection::vec(member(), 1..30).prop_map(Act::Remove),
        1 => (place(), 0..60usize).prop_map(|(from, count)| Act::RemoveRanks(from, count)),
        1 => scored(200).prop_map(Act::Make),
        3 => (place(), place(), any::<bool>()).prop_map(|(from, count, back)| Act::Ranks(from, count, back)),
        6 => (range, any::<bool>(), 0..20usize, 0..600usize)
            .prop_map(|(range, back, skip, count)| Act::Part(range, back, skip, count)),
    ]
}

fn sorted(model: &Model) -> Vec<Scored> {
    let mut out: Vec<Scored> = model.iter().map(|(member, score)| (member.clone().into(), *score)).collect();
    sort(&mut out);
    out
}

fn direction(back: bool) -> Direction {
    if back { Direction::Backward } else { Direction::Forward }
}

fn read<'k>(tx: &mut Tx<'_>, key: &'k Key) -> Read<Zset<'k>> {
    match tx.get(key)? {
        Some(value) => Zset::decode(key, &value),
        None => Ok(Zset::new(key)),
    }
}

/// What a look at it where it lies gives, if it is small and there.
fn look(
    tx: &mut Tx<'_>,
    key: &Key,
    look: impl FnOnce(Pairs<'_>) -> Result<Part<'_>, Broken>,
) -> Read<Option<Vec<Scored>>> {
    let kept = |part: Part<'_>| {
        part.iter().map(|(member, score)| (Bytes::copy_from_slice(member), *score)).collect()
    };
    match tx.read(key, |value| Zset::look(key, &value, |pairs| look(pairs).map(kept)))?.transpose()? {
        Some(Look::Small(part)) => Ok(Some(part)),
        _ => Ok(None),
    }
}

/// What a range means, member by member.
fn is_in(range: &Range, member: &[u8], score: f64) -> bool {
    match range {
        Range::Scores(min, max) => {
            (match min {
                Bound::Included(min) => score >= *min,
                Bound::Excluded(min) => score > *min,
                Bound::Unbounded => true,
            }) && match max {
                Bound::Included(max) => score <= *max,
                Bound::Excluded(max) => score < *max,
                Bound::Unbounded => true,
            }
        }
        Range::Members(min, max) => {
            (match min {
                Cut::First => true,
                Cut::Last => false,
                Cut::At(min) => member >= &min[..],
                Cut::Beside(min) => member > &min[..],
            }) && match max {
                Cut::First => false,
                Cut::Last => true,
                Cut::At(max) => member <= &max[..],
                Cut::Beside(max) => member < &max[..],
            }
        }
    }
}

fn apply(tx: &mut Tx<'_>, key: &Key, model: &mut Model, act: Act) -> Read<()> {
    let mut zset = read(tx, key)?;
    assert_eq!(zset.len(), model.len());
    match act {
        Act::Put(members) => {
            for (member, score) in members {
                let old = zset.score(tx, &member)?;
                assert_eq!(old, model.get(&member).copied());
                zset.put(tx, &member, old, score)?;
                model.insert(member, score);
            }
        }
        Act::Remove(members) => {
            for member in members {
                if let Some(score) = zset.score(tx, &member)? {
                    let rank =
                        sorted(model).iter().position(|(other, _)| *other == member).expect("it is there");
                    assert_eq!(zset.rank(tx, &member, score, Direction::Forward)?, rank);
                    assert_eq!(zset.rank(tx, &member, score, Direction::Backward)?, model.len() - 1 - rank);
                    zset.remove(tx, &member, score)?;
                }
                model.remove(&member);
            }
        }
        Act::RemoveRanks(from, count) => {
            let members = zset.by_rank(tx, from, count, Direction::Forward)?;
            zset.remove_all(tx, &members)?;
            model.retain(|member, _| !members.iter().any(|(removed, _)| removed == member));
        }
        Act::Make(members) => {
            *model = members.into_iter().collect();
            Zset::of(tx, key, &sorted(model))?.save(tx)?;
            zset = read(tx, key)?;
        }
        Act::Ranks(from, count, back) => {
            let mut expected = sorted(model);
            if back {
                expected.reverse();
            }
            let expected: Vec<Scored> = expected.into_iter().skip(from).take(count).collect();
            assert_eq!(zset.by_rank(tx, from, count, direction(back))?, expected);
            let looked = look(tx, key, |pairs| pairs.by_rank(from, count, direction(back)))?;
            assert!(looked.is_none_or(|looked| looked == expected));
        }
        Act::Part(range, back, skip, count) => {
            let mut all = sorted(model);
            // A range of members has a meaning where all have one score.
            if matches!(range, Range::Members(..)) {
                all.iter_mut().for_each(|(_, score)| *score = 1.0);
                all.sort_by(|a, b| a.0.cmp(&b.0));
                *model = all.iter().map(|(member, score)| (member.to_vec(), *score)).collect();
                zset = Zset::of(tx, key, &all)?;
            }
            let mut expected: Vec<_> =
                all.into_iter().filter(|(member, score)| is_in(&range, member, *score)).collect();
            assert_eq!(zset.count(tx, &range)?, expected.len());
            if back {
                expected.reverse();
            }
            let expected: Vec<Scored> = expected.into_iter().skip(skip).take(count).collect();
            assert_eq!(zset.by_range(tx, &range, direction(back), skip, count)?, expected);
            zset.save(tx)?;
            let looked = look(tx, key, |pairs| pairs.by_range(&range, direction(back), skip, count))?;
            assert!(looked.is_none_or(|looked| looked == expected));
            return Ok(());
        }
    }
    zset.save(tx)
}

proptest! {
    #[test]
    fn a_sorted_set_is_the_members_that_it_stands_for(
        groups in prop::collection::vec(prop::collection::vec(act(), 1..6), 1..10),
    ) {
        let (engine, key) = (testing::engine(), Key::new(b"k"));
        let mut model = Model::new();
        // Each group is one transaction, as of a MULTI.
        for group in groups {
            run(&engine, &[&key], |tx| {
                group.into_iter().try_for_each(|act| apply(tx, &key, &mut model, act))
            });
            let all = run(&engine, &[&key], |tx| read(tx, &key)?.all(tx));
            prop_assert_eq!(all, sorted(&model));
            prop_assert_eq!(engine.key_count(), u64::from(!model.is_empty()));
        }
    }
}

fn numbered(count: usize) -> Vec<Scored> {
    (0..count).map(|n| (format!("member-{n:06}").into(), (n / 3) as f64)).collect()
}

#[test]
fn a_large_one_is_walked_over_many_pages_from_both_ends() {
    let (engine, key) = (testing::engine(), Key::new(b"k"));
    let all = numbered(3000);
    run(&engine, &[&key], |tx| Zset::of(tx, &key, &all)?.save(tx));
    run(&engine, &[&key], |tx| {
        let zset = read(tx, &key)?;
        assert_eq!(zset.all(tx)?, all);
        assert_eq!(zset.by_rank(tx, 2000, 900, Direction::Forward)?, all[2000..2900]);
        let range = Range::Scores(Bound::Excluded(9.0), Bound::Included(800.0));
        assert_eq!(zset.count(tx, &range)?, 791 * 3);
        assert_eq!(zset.by_range(tx, &range, Direction::Forward, 600, 700)?, all[630..1330]);
        let back = zset.by_range(tx, &range, Direction::Backward, 600, 700)?;
        assert!(back.iter().eq(all[..2403 - 600].iter().rev().take(700)));
        assert_eq!(zset.rank(tx, &all[2500].0, all[2500].1, Direction::Backward)?, 499);
        Ok(())
    });
}

/// Sets that were made before there was an index have eight bytes at their key.
#[test]
fn a_large_one_without_an_index_is_read_and_written() {
    let (engine, key) = (testing::engine(), Key::new(b"k"));
    let mut all = numbered(1500);
    run(&engine, &[&key], |tx| {
        let mut zset = Zset::of(tx, &key, &all)?;
        let Form::Large { index, .. } = &mut zset.form else { panic!("it is large") };
        *index = None;
        zset.save(tx)
    });
    run(&engine, &[&key], |tx| {
        assert_eq!(tx.get(&key)?.expect("it is there").payload.len(), 8);
        let mut zset = read(tx, &key)?;
        let (member, score) = all.remove(700);
        assert_eq!(zset.rank(tx, &member, score, Direction::Forward)?, 700);
        zset.remove(tx, &member, score)?;
        assert_eq!(zset.by_rank(tx, 600, 200, Direction::Backward)?, reverse(&all[699..899]));
        let range = Range::Scores(Bound::Included(100.0), Bound::Excluded(300.0));
        assert_eq!(zset.count(tx, &range)?, 599);
        assert_eq!(zset.by_range(tx, &range, Direction::Forward, 550, 10)?, all[850..860]);
        zset.put(tx, &member, None, score)?;
        zset.save(tx)
    });
    assert_eq!(run(&engine, &[&key], |tx| read(tx, &key)?.all(tx)), numbered(1500));
}

fn reverse(members: &[Scored]) -> Vec<Scored> {
    members.iter().rev().cloned().collect()
}

#[test]
fn a_scan_sees_every_member_once_however_it_is_cut() {
    let (engine, key) = (testing::engine(), Key::new(b"k"));
    for size in [3, 1000] {
        let all = numbered(size);
        run(&engine, &[&key], |tx| Zset::of(tx, &key, &all)?.save(tx));
        let (mut seen, mut cursor) = (Vec::new(), 0);
        loop {
            let (page, next) = run(&engine, &[&key], |tx| read(tx, &key)?.scan(tx, cursor, 7));
            seen.extend(page);
            if next == 0 {
                break;
            }
            cursor = next;
        }
        seen.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(seen, all);
    }
}

#[test]
fn every_member_is_chosen_at_random_sometimes() {
    let (engine, key) = (testing::engine(), Key::new(b"k"));
    for size in [1, 20, 300] {
        let all = numbered(size);
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
        let mut seen = BTreeMap::new();
        run(&engine, &[&key], |tx| Zset::of(tx, &key, &all)?.save(tx));
        for count in [0, 1, size / 20, size / 2, size, size + 1] {
            run(&engine, &[&key], |tx| {
                let zset = read(tx, &key)?;
                let mut sample = zset.sample(tx, count, &mut rng)?;
                assert_eq!(sample.len(), count.min(size));
                assert_eq!(zset.sample_with_repeats(tx, count * 2, &mut rng)?.len(), count * 2);
                sample.sort_by(|a, b| a.0.cmp(&b.0));
                assert!(sample.iter().all(|member| all.contains(member)));
                assert!(sample.windows(2).all(|pair| pair[0].0 < pair[1].0));
                Ok(())
            });
        }
        for _ in 0..size * 20 {
            let (member, score) =
                run(&engine, &[&key], |tx| read(tx, &key)?.random(tx, &mut rng)).expect("not empty");
            seen.insert(member, score);
        }
        assert!(seen.into_iter().eq(all));
    }
}

#[test]
fn bytes_that_are_no_sorted_set_are_refused() {
    let key = Key::new(b"k");
    let kind = Kind::SortedSet as u8;
    let refused = |value: Value| assert!(Zset::decode(&key, &value).is_err(), "{value:?}");
    let items = |items: &[&[u8]]| {
        Value::whole(kind, SMALL, items.iter().copied().collect::<Items>().payload().to_vec())
    };
    refused(items(&[b"member"]));
    refused(items(&[b"member", b"1234567"]));
    refused(items(&[b"member", &f64::NAN.to_le_bytes()]));
    refused(Value::whole(kind, LARGE, &[0; 8][..]));
    refused(Value { generation: Some(Generation(1)), ..Value::whole(kind, LARGE, &[0; 7][..]) });
    refused(Value { generation: Some(Generation(1)), ..Value::whole(kind, LARGE, &[1; 9][..]) });
    refused(Value { generation: Some(Generation(1)), ..Value::whole(kind, LARGE, &[0; 10][..]) });
    refused(Value { generation: Some(Generation(1)), ..Value::whole(kind, SMALL, &[0; 8][..]) });
}

#[test]
fn a_zero_has_no_sign() {
    let (engine, key) = (testing::engine(), Key::new(b"k"));
    for size in [3, 300] {
        run(&engine, &[&key], |tx| Zset::of(tx, &key, &numbered(size))?.save(tx));
        run(&engine, &[&key], |tx| {
            let mut zset = read(tx, &key)?;
            zset.put(tx, b"zero", None, -0.0)?;
            zset.save(tx)
        });
        run(&engine, &[&key], |tx| {
            let zset = read(tx, &key)?;
            let zeros = Range::Scores(Bound::Included(-0.0), Bound::Included(-0.0));
            assert_eq!(zset.count(tx, &zeros)?, 4);
            let members = zset.by_range(tx, &zeros, Direction::Backward, 0, 1)?;
            let scores = (zset.score(tx, b"zero")?, members[0].1);
            assert!(scores.0.is_some_and(f64::is_sign_positive) && scores.1.is_sign_positive());
            Ok(())
        });
    }
}

/// What is counted is what is read, not time: in a set a hundred times as large a rank reads a few nodes more.
#[test]
fn a_rank_reads_about_as_many_elements_of_a_set_that_is_much_larger() {
    type Op = fn(&mut Tx<'_>, &Zset<'_>, usize) -> Read<()>;
    let name = |number: usize| format!("m{number:06}").into_bytes();
    let ops: [(&str, Op); 6] = [
        ("rank", |tx, zset, at| {
            let member = format!("m{at:06}").into_bytes();
            #[allow(clippy::cast_precision_loss)] // it is small
            zset.rank(tx, &member, at as f64, Direction::Forward).map(|rank| assert_eq!(rank, at))
        }),
        ("rank from the end", |tx, zset, at| {
            let member = format!("m{at:06}").into_bytes();
            #[allow(clippy::cast_precision_loss)] // it is small
            let rank = zset.rank(tx, &member, at as f64, Direction::Backward);
            rank.map(|rank| assert_eq!(rank, zset.len() - 1 - at))
        }),
        ("a window of ranks", |tx, zset, at| {
            zset.by_rank(tx, at, 5, Direction::Forward).map(|part| assert_eq!(part.len(), 5))
        }),
        ("a window of ranks from the end", |tx, zset, at| {
            zset.by_rank(tx, at, 5, Direction::Backward).map(|part| assert_eq!(part.len(), 5))
        }),
        ("a count", |tx, zset, at| {
            #[allow(clippy::cast_precision_loss)] // it is small
            let range = Range::Scores(Bound::Included(at as f64), Bound::Unbounded);
            zset.count(tx, &range).map(|count| assert_eq!(count, zset.len() - at))
        }),
        ("a window far in a range", |tx, zset, at| {
            let range = Range::Scores(Bound::Included(1.0), Bound::Unbounded);
            zset.by_range(tx, &range, Direction::Forward, at, 5).map(|part| assert_eq!(part.len(), 5))
        }),
    ];
    // The fewest elements, to a quarter, with which an operation gets to its end.
    let reads = |members: usize| {
        let (engine, key) = (testing::engine(), Key::new(b"z"));
        run(&engine, &[&key], |tx| {
            #[allow(clippy::cast_precision_loss)] // they are few
            let scored: Vec<Scored> = (0..members).map(|n| (name(n).into(), n as f64)).collect();
            Zset::of(tx, &key, &scored)?.save(tx)
        });
        ops.map(|(_, op)| {
            let enough = |limit: &usize| {
                run(&engine, &[&key], |tx| {
                    tx.limit_reads(usize::MAX);
                    let zset = tx.get(&key)?.map(|value| Zset::decode(&key, &value)).transpose()?;
                    let zset = zset.expect("it was saved");
                    tx.limit_reads(*limit);
                    let done = (1..8).try_for_each(|part| op(tx, &zset, members / 8 * part));
                    tx.limit_reads(usize::MAX);
                    Ok(done.is_ok())
                })
            };
            let mut limits = std::iter::successors(Some(16), |limit| Some(limit * 5 / 4));
            limits.find(enough).expect("a number grows until it is enough")
        })
    };
    let (few, many) = (reads(300), reads(30_000));
    for (((name, _), few), many) in ops.iter().zip(few).zip(many) {
        assert!(many <= few * 3, "{name} reads {few} of 300 elements and {many} of 30,000");
    }
}
