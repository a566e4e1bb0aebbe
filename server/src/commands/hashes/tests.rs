use crate::testing::Bench;

/// The replies are those of Redis 7.0.
#[test]
fn hashes_answer_as_redis_does() {
    Bench::new().check(
        "hset h a 1 b              -> -ERR wrong number of arguments for 'hset' command
         hset h a                  -> -ERR wrong number of arguments for 'hset' command
         hmset h a                 -> -ERR wrong number of arguments for 'hmset' command
         hmset h a 1 b             -> -ERR wrong number of arguments for 'hmset' command
         hset h a 1 b 2            -> :2
         hset h a 1 c 3            -> :1
         hset h d 1 d 2            -> :1
         hmset h a 5               -> +OK
         hsetnx h a 2              -> :0
         hsetnx h e \"\"           -> :1
         hlen h                    -> :5
         hget h a                  -> $1 5
         hget h d                  -> $1 2
         hget h nope               -> $-1
         hget none a               -> $-1
         hmget h a nope b          -> *3 $1 5 $-1 $1 2
         hmget none a b            -> *2 $-1 $-1
         hgetall h                 -> *10 $1 a $1 5 $1 b $1 2 $1 c $1 3 $1 d $1 2 $1 e $0
         hgetall none              -> *0
         hkeys h                   -> *5 $1 a $1 b $1 c $1 d $1 e
         hvals none                -> *0
         hexists h e               -> :1
         hexists h nope            -> :0
         hstrlen h a               -> :1
         hstrlen h nope            -> :0
         hdel h a nope a           -> :1
         hdel none a               -> :0
         hdel h b c d e            -> :4
         hlen h                    -> :0
         hget h                    -> -ERR wrong number of arguments for 'hget' command",
    );
}

#[test]
fn a_key_of_another_type_is_refused() {
    let mut bench = Bench::new();
    bench.run("set str v");
    for command in [
        "hset str a 1",
        "hmset str a 1",
        "hsetnx str a 1",
        "hget str a",
        "hmget str a",
        "hgetall str",
        "hdel str a",
        "hexists str a",
        "hlen str",
        "hstrlen str a",
        "hkeys str",
        "hvals str",
        "hincrby str a 1",
        "hincrbyfloat str a 1",
        "hscan str 0 foo bar",
        "hrandfield str",
        "hrandfield str 1",
    ] {
        let reply = bench.run(command);
        assert_eq!(reply, "-WRONGTYPE Operation against a key holding the wrong kind of value", "{command}");
    }
    bench.run("hset h a 1");
    assert_eq!(bench.run("get h"), "-WRONGTYPE Operation against a key holding the wrong kind of value");
}

#[test]
fn numbers_in_fields_are_added_as_redis_does() {
    Bench::new().check(
        "hset h a 2 s abc sp \" 1\" inf inf          -> :4
         hincrby h a 9223372036854775807             -> -ERR increment or decrement would overflow
         hincrby h a -5                              -> :-3
         hincrby h new 7                             -> :7
         hget h new                                  -> $1 7
         hincrby h x abc                             -> -ERR value is not an integer or out of range
         hincrby h s 1                               -> -ERR hash value is not an integer
         hincrby h s 1.5                             -> -ERR value is not an integer or out of range
         hincrby h sp 1                              -> -ERR hash value is not an integer
         hincrbyfloat h s 1                          -> -ERR hash value is not a float
         hincrbyfloat h a abc                        -> -ERR value is not a valid float
         hincrbyfloat h a 4.5                        -> $3 1.5
         hget h a                                    -> $3 1.5
         hincrby h a 1                               -> -ERR hash value is not an integer
         hincrbyfloat h z inf                        -> -ERR value is NaN or Infinity
         hincrbyfloat h z nan                        -> -ERR value is not a valid float
         hexists h z                                 -> :0
         hincrbyfloat h z 0.1                        -> $3 0.1
         hincrbyfloat h z 0.2                        -> $3 0.3
         hincrbyfloat h z 1e20                       -> $21 100000000000000000000
         hincrbyfloat h y 1e-18                      -> $1 0
         hincrbyfloat h y2 1e5000                    -> -ERR value is not a valid float
         hincrbyfloat h inf 1                        -> -ERR increment would produce NaN or Infinity
         hincrbyfloat h sp 1                         -> -ERR hash value is not a float",
    );
}

#[test]
fn a_scan_answers_as_redis_does() {
    Bench::new().check(
        "hset h a 1 b 2                -> :2
         hscan h 0                     -> *2 $1 0 *4 $1 a $1 1 $1 b $1 2
         hscan h 5 match a*            -> *2 $1 0 *2 $1 a $1 1
         hscan h 0 COUNT 1 MATCH *     -> *2 $1 0 *4 $1 a $1 1 $1 b $1 2
         hscan h -1 match x            -> *2 $1 0 *0
         hscan h \"\" match x          -> *2 $1 0 *0
         hscan h 18446744073709551615 match x -> *2 $1 0 *0
         hscan h 18446744073709551616  -> -ERR invalid cursor
         hscan h abc                   -> -ERR invalid cursor
         hscan h \" 1\"                -> -ERR invalid cursor
         hscan h -                     -> -ERR invalid cursor
         hscan h 0 count 0             -> -ERR syntax error
         hscan h 0 count -1            -> -ERR syntax error
         hscan h 0 count x             -> -ERR value is not an integer or out of range
         hscan h 0 match               -> -ERR syntax error
         hscan h 0 foo bar             -> -ERR syntax error
         hscan h 0 novalues            -> -ERR syntax error
         hscan none 0 foo bar          -> *2 $1 0 *0
         hscan none x                  -> -ERR invalid cursor",
    );
}

#[test]
fn fields_chosen_at_random_answer_as_redis_does() {
    let mut bench = Bench::new();
    bench.check(
        "hrandfield none                             -> $-1
         hrandfield none 1                           -> *0
         hrandfield none -1 withvalues               -> *0
         hset h a 1                                  -> :1
         hrandfield h                                -> $1 a
         hrandfield h 5                              -> *1 $1 a
         hrandfield h 0                              -> *0
         hrandfield h -3                             -> *3 $1 a $1 a $1 a
         hrandfield h 5 withvalues                   -> *2 $1 a $1 1
         hrandfield h -2 WITHVALUES                  -> *4 $1 a $1 1 $1 a $1 1
         hrandfield h abc                            -> -ERR value is not an integer or out of range
         hrandfield h 1 abc                          -> -ERR syntax error
         hrandfield h 1 withvalues x                 -> -ERR syntax error
         hrandfield h 5000000000000000000 withvalues -> -ERR value is out of range
         hrandfield h -9223372036854775808           -> -ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807
         hrandfield h 9223372036854775808            -> -ERR value is not an integer or out of range
         hrandfield h -1048577                       -> -ERR value is out of range, at most 1048576 elements with repeats",
    );
}

#[test]
fn resp3_has_maps_and_pairs() {
    Bench::new().resp3().check(
        "hset r a 1 b 2                -> :2
         hgetall r                     -> %2 $1 a $1 1 $1 b $1 2
         hgetall none                  -> %0
         hkeys r                       -> *2 $1 a $1 b
         hvals r                       -> *2 $1 1 $1 2
         hget r x                      -> _
         hmget r a x                   -> *2 $1 1 _
         hdel r b                      -> :1
         hrandfield none               -> _
         hrandfield r -2 withvalues    -> *2 *2 $1 a $1 1 *2 $1 a $1 1
         hrandfield r 0 withvalues     -> *0
         hscan r 0                     -> *2 $1 0 *2 $1 a $1 1
         hincrbyfloat r a 1.5          -> $3 2.5",
    );
}

#[test]
fn a_large_hash_is_read_walked_and_emptied() {
    let mut bench = Bench::new();
    for n in 0..1000 {
        assert_eq!(bench.run(&format!("hset h f{n} {n}")), ":1");
    }
    bench.check(
        "hlen h -> :1000
         hget h f999 -> $3 999
         hset h f999 x g 1 -> :1
         hmget h f999 nope g -> *3 $1 x $-1 $1 1
         hincrby h f5 10 -> :15
         hdel h g g -> :1",
    );
    assert!(bench.run("hgetall h").starts_with("*2000 "));
    assert_eq!(bench.run("hkeys h").split(' ').filter(|word| word.starts_with('f')).count(), 1000);
    let (mut cursor, mut seen) = ("0".to_owned(), 0);
    loop {
        let reply = bench.run(&format!("hscan h {cursor} count 50"));
        let words: Vec<&str> = reply.split(' ').collect();
        cursor = words[2].to_owned();
        seen += words.iter().filter(|word| word.starts_with('f')).count();
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(seen, 1000);
    let reply = bench.run("hrandfield h 300 withvalues");
    assert!(reply.starts_with("*600 "));
    for n in 0..1000 {
        assert_eq!(bench.run(&format!("hdel h f{n}")), ":1");
    }
    assert_eq!(bench.run("hgetall h"), "*0");
    assert_eq!(bench.node.engine.key_count(), 0);
}
