use crate::testing::Bench;

// What Redis 7.0 replies; `tests/differential/record.py` writes it.
#[test]
fn replies_are_those_of_redis() {
    Bench::new().check(include_str!("replies.resp2"));
    Bench::new().resp3().check(include_str!("replies.resp3"));
}

fn pairs(from: usize, to: usize) -> String {
    (from..to).map(|n| format!(" {} member-{n:04}", n / 2)).collect()
}

#[test]
fn a_large_sorted_set_replies_as_a_small_one_does() {
    let mut bench = Bench::new();
    assert_eq!(bench.run(&format!("zadd z{}", pairs(0, 1000))), ":1000");
    assert_eq!(bench.run(&format!("zadd z{}", pairs(0, 1001))), ":1");
    bench.check(
        "zcard z                                     -> :1001
         zscore z member-0501                        -> $3 250
         zrank z member-0501                         -> :501
         zrevrank z member-0501                      -> :499
         zcount z (10 20                             -> :20
         zrange z 600 601                            -> *2 $11 member-0600 $11 member-0601
         zrangebyscore z (498 inf                    -> *3 $11 member-0998 $11 member-0999 $11 member-1000
         zrevrangebyscore z 499 -inf limit 1 2       -> *2 $11 member-0998 $11 member-0997
         zincrby z 1000 member-0000                  -> $4 1000
         zincrby z -0.5 member-0001                  -> $4 -0.5
         zpopmin z                                   -> *2 $11 member-0001 $4 -0.5
         zpopmax z 2                                 -> *4 $11 member-0000 $4 1000 $11 member-1000 $3 500
         zmpop 1 z max                               -> *2 $1 z *1 *2 $11 member-0999 $3 499
         zrem z member-0500 member-0501 none         -> :2
         zcount z 250 250                            -> :0
         zmscore z member-0500 member-0502           -> *2 $-1 $3 251
         zremrangebyscore z 100 300                  -> :400
         zremrangebyrank z 0 -3                      -> :593
         zrange z 0 -1 withscores                    -> *4 $11 member-0997 $3 498 $11 member-0998 $3 499
         zremrangebyrank z 0 -1                      -> :2
         exists z                                    -> :0",
    );
}

#[test]
fn a_scan_walks_a_large_one_in_parts() {
    let mut bench = Bench::new();
    bench.run(&format!("zadd z{}", pairs(0, 500)));
    let (mut cursor, mut seen, mut answers) = ("0".to_owned(), Vec::new(), 0);
    loop {
        let reply = bench.run(&format!("zscan z {cursor} match *[02468] count 40"));
        let words: Vec<&str> = reply.split(' ').collect();
        cursor = words[2].to_owned();
        seen.extend(words.iter().filter(|word| word.starts_with("member-")).map(|word| (*word).to_owned()));
        answers += 1;
        if cursor == "0" {
            break;
        }
    }
    seen.sort();
    let expected: Vec<String> = (0..500).step_by(2).map(|n| format!("member-{n:04}")).collect();
    assert_eq!((seen, answers), (expected, 13));
}

#[test]
fn large_inputs_are_put_together() {
    let mut bench = Bench::new();
    bench.run(&format!("zadd a{}", pairs(0, 600)));
    bench.run(&format!("zadd b{}", pairs(300, 900)));
    let members: String = (250..350).map(|n| format!(" member-{n:04}")).collect();
    bench.run(&format!("sadd s{members}"));
    bench.check(
        "zunionstore u 2 a b                      -> :900
         zscore u member-0300                     -> $3 300
         zscore u member-0899                     -> $3 449
         zinterstore i 3 a b s weights 1 0 0      -> :50
         zrange i 0 0 withscores                  -> *2 $11 member-0300 $3 150
         zdiffstore a 2 a b                       -> :300
         zrange a -1 -1                           -> *1 $11 member-0299
         zintercard 2 s a                         -> :50
         zintercard 2 s a limit 20                -> :20
         zrangestore u u 0 899                    -> :900
         zrangestore u u (9000 +inf byscore       -> :0
         exists u                                 -> :0",
    );
}

#[test]
fn members_chosen_at_random_are_members() {
    let mut bench = Bench::new();
    bench.run(&format!("zadd z{}", pairs(0, 400)));
    for (count, expected) in [("3", 3), ("300", 300), ("1000", 400), ("-5", 5), ("-900", 900)] {
        let reply = bench.run(&format!("zrandmember z {count} withscores"));
        let words: Vec<&str> = reply.split(' ').skip(1).collect();
        let chosen: Vec<(&str, &str)> = words.chunks(4).map(|four| (four[1], four[3])).collect();
        assert_eq!(chosen.len(), expected);
        for (member, score) in &chosen {
            assert_eq!(bench.run(&format!("zscore z {member}")), format!("${} {score}", score.len()));
        }
        let mut distinct = chosen.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert!(count.starts_with('-') || distinct.len() == expected);
    }
    bench
        .check("zrandmember z -1048577 -> -ERR value is out of range, at most 1048576 elements with repeats");
}

/// Sorted sets of 4000 and 2000 members, and a set, none in memory.
fn cold() -> Bench {
    let zset = |key: &'static str, from: usize, to: usize| {
        (from..to).step_by(500).map(move |n| format!("zadd {key}{}", pairs(n, n + 500)))
    };
    let members: String = (1000..2000).map(|n| format!(" member-{n:04}")).collect();
    Bench::cold(zset("a", 0, 4000).chain(zset("b", 3000, 5000)).chain([format!("sadd s{members}")]))
}

#[test]
fn sorted_sets_that_are_not_in_memory_are_read_in_few_runs() {
    let many: String = (0..4000).step_by(13).map(|n| format!(" member-{n:04}")).collect();
    let scored: String = (0..4000).step_by(13).map(|n| format!(" {} member-{n:04}", n / 2 + 1)).collect();
    let commands = [
        (format!("zadd a{scored}"), ":0"),
        (format!("zmscore a{many}"), "*308 $1 0 $1 6 "),
        (format!("zrem a{many}"), ":308"),
        ("zscore a member-2000".to_owned(), "$4 1000"),
        ("zrank a member-3001".to_owned(), ":3001"),
        ("zcount a 100 1500".to_owned(), ":2802"),
        ("zrange a 1800 1801".to_owned(), "*2 $11 member-1800 $11 member-1801"),
        ("zpopmax a 2".to_owned(), "*4 $11 member-3999 $4 1999 $11 member-3998 $4 1999"),
        ("zremrangebyscore a 10 20".to_owned(), ":22"),
        ("zrandmember a 5".to_owned(), "*5 $11 member-"),
        ("zscan a 12345 count 100".to_owned(), "*2 $"),
        ("zinterstore i 2 a b".to_owned(), ":1000"),
        ("zinterstore i 2 a s".to_owned(), ":1000"),
        ("zdiffstore i 2 b a".to_owned(), ":1000"),
        ("zunionstore i 3 b a s".to_owned(), ":5000"),
    ];
    for (command, beginning) in commands {
        let (reply, fetched) = cold().run_counted(&command);
        assert!(reply.starts_with(beginning), "{command:.60}: {reply:.60}");
        assert!((1..=12).contains(&fetched), "{command:.60}: ran {fetched} times more");
    }
}
