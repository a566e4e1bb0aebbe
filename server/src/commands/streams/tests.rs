use crate::testing::Bench;

// What Redis 7.0 replies; `tests/differential/record.py` writes it.
#[test]
fn replies_are_those_of_redis() {
    Bench::new().check(include_str!("replies.resp2"));
}

#[test]
fn streams_are_maps_by_name_in_resp3() {
    Bench::new().resp3().check(
        "xadd s 1-1 a 1                            -> $3 1-1
         xread streams s 0                         -> %1 $1 s *1 *2 $3 1-1 *2 $1 a $1 1
         xread streams s 1-1                       -> _
         xgroup create s g $                       -> +OK
         xinfo groups s                            -> *1 %6 $4 name $1 g $9 consumers :0 $7 pending :0 \
          $17 last-delivered-id $3 1-1 $12 entries-read _ $3 lag :0
         xinfo consumers s g                       -> *0",
    );
}

#[test]
fn an_id_made_here_is_the_time_and_never_goes_back() {
    let mut bench = Bench::new();
    let made = |reply: String| {
        let id = reply.split_once(' ').expect("a string").1.to_owned();
        let (ms, seq) = id.split_once('-').expect("an id");
        (ms.parse::<u64>().expect("a number"), seq.parse::<u64>().expect("a number"))
    };
    let first = made(bench.run("xadd s * a 1"));
    assert!(first.0 > 1_600_000_000_000, "{first:?}");
    let mut last = first;
    for _ in 0..100 {
        let next = made(bench.run("xadd s * a 1"));
        assert!(next > last, "{last:?} {next:?}");
        last = next;
    }
    assert_eq!(
        bench.run("xadd s 9999999999999-18446744073709551615 a 1"),
        "$34 9999999999999-18446744073709551615"
    );
    assert_eq!(made(bench.run("xadd s * a 1")), (10_000_000_000_000, 0));
}

fn fill(count: usize) -> impl Iterator<Item = String> {
    (1..=count).map(|n| format!("xadd s {n} field value-{n}"))
}

#[test]
fn what_is_trimmed_approximately_goes_in_whole_batches_from_the_oldest_on() {
    let mut bench = Bench::new();
    fill(1234).for_each(|command| drop(bench.run(&command)));
    bench.check(
        "xtrim s maxlen ~ 1200         -> :0
         xtrim s maxlen ~ 1000         -> :200
         xtrim s maxlen ~ 500 limit 99 -> :0
         xtrim s maxlen ~ 500 limit 350 -> :300
         xrange s - + count 1          -> *1 *2 $5 501-0 *2 $5 field $9 value-501
         xtrim s minid ~ 650           -> :100
         xtrim s minid 650             -> :49
         xrange s - + count 1          -> *1 *2 $5 650-0 *2 $5 field $9 value-650
         xlen s                        -> :585
         xtrim s maxlen ~ 0            -> :585
         xlen s                        -> :0
         exists s                      -> :1
         xadd s 1300 a b               -> $6 1300-0",
    );
}

#[test]
fn all_that_a_group_is_given_is_pending_until_it_is_acknowledged() {
    const COUNT: usize = 1500;
    let mut bench = Bench::cold(fill(COUNT).chain(["xgroup create s g 0".to_owned()]));
    let ids = |range: std::ops::RangeInclusive<usize>| range.map(|n| format!(" {n}")).collect::<String>();
    assert_eq!(bench.run("xreadgroup group g a count 600 streams s >").matches("value-").count(), 600);
    assert_eq!(bench.run("xreadgroup group g b streams s >").matches("value-").count(), 900);
    assert_eq!(bench.run("xreadgroup group g a streams s 0").matches("value-").count(), 600);
    assert_eq!(bench.run("xreadgroup group g b count 550 streams s 700").matches("value-").count(), 550);
    assert_eq!(bench.run(&format!("xack s g{}", ids(1..=599))), ":599");
    bench.check(
        "xpending s g          -> *4 :901 $5 600-0 $6 1500-0 *2 *2 $1 a $1 1 *2 $1 b $3 900
         xclaim s g a 0 1500 justid -> *1 $6 1500-0
         xpending s g          -> *4 :901 $5 600-0 $6 1500-0 *2 *2 $1 a $1 2 *2 $1 b $3 899
         xgroup delconsumer s g b -> :899
         xpending s g          -> *4 :2 $5 600-0 $6 1500-0 *1 *2 $1 a $1 2
         copy s t              -> :1
         xack t g 600          -> :1
         xpending t g          -> *4 :1 $6 1500-0 $6 1500-0 *1 *2 $1 a $1 1
         xpending s g          -> *4 :2 $5 600-0 $6 1500-0 *1 *2 $1 a $1 2
         xgroup destroy s g    -> :1
         xgroup create s g 0   -> +OK
         xpending s g          -> *4 :0 $-1 $-1 *-1
         xinfo consumers s g   -> *0
         del s                 -> :1
         xadd s 1-1 a b        -> $3 1-1
         xinfo groups s        -> *0",
    );
}

#[test]
fn a_stream_that_is_not_in_memory_is_read_in_few_runs() {
    let setup = || fill(3000).chain(["xgroup create s g 0".to_owned()]);
    for (command, entries, runs) in [
        ("xrange s 1500 + count 10", 10, 6),
        ("xrange s - +", 3000, 40),
        ("xlen s", 0, 4),
        ("xreadgroup group g a count 5 streams s >", 5, 10),
    ] {
        let (reply, waits) = Bench::cold(setup()).run_counted(command);
        assert_eq!(reply.matches("value-").count(), entries, "{command}");
        assert!(waits <= runs, "{command}: {waits}");
    }
}
