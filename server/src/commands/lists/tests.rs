use crate::testing::Bench;

// What Redis 7.0 replies; `tests/differential/record.py` writes it.
#[test]
fn replies_are_those_of_redis() {
    Bench::new().check(include_str!("replies.resp2"));
    Bench::new().resp3().check(include_str!("replies.resp3"));
}

fn words(from: usize, to: usize) -> String {
    (from..to).map(|n| format!(" item-{n:04}")).collect()
}

#[test]
fn a_large_list_replies_as_a_small_one_does() {
    let mut bench = Bench::new();
    assert_eq!(bench.run(&format!("rpush l{}", words(0, 1000))), ":1000");
    assert_eq!(bench.run("lpush l first"), ":1001");
    bench.check(
        "llen l                              -> :1001
         lindex l 0                          -> $5 first
         lindex l -1                         -> $9 item-0999
         lindex l 501                        -> $9 item-0500
         lrange l 700 701                    -> *2 $9 item-0699 $9 item-0700
         lset l 1 again                      -> +OK
         linsert l after item-0001 again     -> :1002
         linsert l before item-0998 again    -> :1003
         lpos l again count 0                -> *3 :1 :3 :1000
         lpos l again rank -1 maxlen 3       -> :1000
         lrem l -2 again                     -> :2
         lrange l 0 3                        -> *4 $5 first $5 again $9 item-0001 $9 item-0002
         lrange l -3 -1                      -> *3 $9 item-0997 $9 item-0998 $9 item-0999
         lmove l l right left                -> $9 item-0999
         lmpop 1 l left count 2              -> *2 $1 l *2 $9 item-0999 $5 first
         ltrim l 100 -2                      -> +OK
         llen l                              -> :898
         ltrim l 1 2                         -> +OK
         lrange l 0 -1                       -> *2 $9 item-0101 $9 item-0102
         rpop l 3                            -> *2 $9 item-0102 $9 item-0101
         exists l                            -> :0",
    );
    assert_eq!(bench.run(&format!("rpush l{}", words(0, 300))), ":300");
    assert_eq!(bench.run("lpop l 300").matches("item-").count(), 300);
    bench.check("llen l -> :0");
}

#[test]
fn an_error_half_way_leaves_no_write_and_no_reply() {
    Bench::new().check(
        "rpush l a          -> :1
         set s v            -> +OK
         lmove l s left left -> -WRONGTYPE Operation against a key holding the wrong kind of value
         lrange l 0 -1      -> *1 $1 a",
    );
}

#[test]
fn lists_that_are_not_in_memory_are_read_in_few_runs() {
    let fill = || {
        ["l", "m"].map(|key| (0..4000).step_by(500).map(move |n| format!("rpush {key}{}", words(n, n + 500))))
    };
    let commands = [
        ("lindex l 2000", "$9 item-2000"),
        ("lrange l 3000 3001", "*2 $9 item-3000 $9 item-3001"),
        ("lpos l item-3999", ":3999"),
        ("lset l 100 new", "+OK"),
        ("linsert l before item-0200 new", ":4001"),
        ("lrem l 0 new", ":2"),
        ("ltrim l 10 -11", "+OK"),
        ("lmove l m right left", "$9 item-3989"),
        ("lpop m 2", "*2 $9 item-3989 $9 item-0000"),
        ("rpush m end", ":4000"),
    ];
    let mut bench = Bench::cold(fill().into_iter().flatten());
    let mut fetches = 0;
    for (command, reply) in commands {
        // Each in a new cold store would be colder, but slower too.
        let (found, fetched) = bench.run_counted(command);
        assert_eq!(found, reply, "{command}");
        assert!(fetched <= 24, "{command}: ran {fetched} times more");
        fetches += fetched;
    }
    assert!(fetches > 2, "it was in memory");
}
