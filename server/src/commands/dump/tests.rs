use crate::rdb::{self, Object};
use crate::testing::Bench;

fn dumped(bench: &mut Bench, key: &str) -> Vec<u8> {
    let reply = bench.run_raw(&[&b"dump"[..], key.as_bytes()]);
    let start = reply.windows(2).position(|pair| pair == b"\r\n").expect("a bulk string") + 2;
    reply[start..reply.len() - 2].to_vec()
}

fn restored(bench: &mut Bench, key: &str, payload: &[u8], more: &[&str]) -> String {
    let mut args = vec![&b"restore"[..], key.as_bytes(), b"0", payload];
    args.extend(more.iter().map(|word| word.as_bytes()));
    String::from_utf8_lossy(&bench.run_raw(&args)).trim_end().to_owned()
}

/// A collection of every type, small and large, as commands.
fn collections() -> Vec<(&'static str, &'static str, Vec<String>)> {
    let mut out = Vec::new();
    for (count, prefix) in [(5, "small"), (700, "large")] {
        let mut make = |key: &'static str, ask: &'static str, command: fn(&str, usize) -> String| {
            out.push((key, ask, (0..count).map(|n| command(&format!("{prefix}-{key}"), n)).collect()));
        };
        make("list", "lrange KEY 0 -1", |key, n| format!("rpush {key} item{n}"));
        make("set", "smembers KEY", |key, n| format!("sadd {key} member{n}"));
        make("hash", "hgetall KEY", |key, n| format!("hset {key} field{n} {n}"));
        make("zset", "zrange KEY 0 -1 withscores", |key, n| format!("zadd {key} {n}.1 member{n}"));
    }
    out
}

#[test]
fn what_is_dumped_is_restored_whatever_its_type_and_size() {
    let mut bench = Bench::new();
    for (_, ask, commands) in collections() {
        let key = commands[0].split(' ').nth(1).expect("a key").to_owned();
        commands.iter().for_each(|command| assert!(bench.run(command).starts_with(':'), "{command}"));
        let payload = dumped(&mut bench, &key);
        assert_eq!(restored(&mut bench, "again", &payload, &["replace"]), "+OK");
        let told = |bench: &mut Bench, key: &str| {
            let mut words: Vec<String> =
                bench.run(&ask.replace("KEY", key)).split(' ').map(str::to_owned).collect();
            if !ask.starts_with("lrange") && !ask.starts_with("zrange") {
                words.sort();
            }
            words
        };
        assert_eq!(told(&mut bench, "again"), told(&mut bench, &key), "{key}");
        assert_eq!(bench.run("type again"), bench.run(&format!("type {key}")));
    }
    bench.check("dump nothing -> $-1");
}

#[test]
fn restore_takes_its_options_and_refuses_as_redis_does() {
    let mut bench = Bench::new();
    let payload = rdb::dump(&Object::String("v".into()));
    assert_eq!(restored(&mut bench, "a", &payload, &[]), "+OK");
    assert_eq!(restored(&mut bench, "a", &payload, &[]), "-BUSYKEY Target key name already exists.");
    assert_eq!(restored(&mut bench, "a", &payload, &["replace", "idletime", "5"]), "+OK");
    assert_eq!(restored(&mut bench, "a", &payload, &["REPLACE", "FREQ", "5"]), "+OK");
    let syntax = "-ERR syntax error";
    for (more, error) in [
        (&["idletime", "-1"][..], "-ERR Invalid IDLETIME value, must be >= 0"),
        (&["freq", "256"], "-ERR Invalid FREQ value, must be >= 0 and <= 255"),
        (&["freq", "x"], "-ERR value is not an integer or out of range"),
        (&["freq"], syntax),
        (&["freq", "1", "idletime", "1"], syntax),
        (&["what"], syntax),
    ] {
        assert_eq!(restored(&mut bench, "a", &payload, more), error);
    }
    let mut broken = payload.clone();
    broken[1] ^= 1;
    assert_eq!(restored(&mut bench, "b", &broken, &[]), "-ERR DUMP payload version or checksum are wrong");
    let twice = rdb::dump(&Object::Set(vec!["x".into(), "x".into()]));
    assert_eq!(restored(&mut bench, "a", &twice, &["replace"]), "-ERR Bad data format");
    bench.check(
        "get a                -> $1 v
         restore b -1 x       -> -ERR Invalid TTL value, must be >= 0
         restore b x x        -> -ERR value is not an integer or out of range
         exists b             -> :0",
    );
}

#[test]
fn a_restored_key_has_the_expiry_that_was_asked_for() {
    let mut bench = Bench::new();
    let list = rdb::dump(&Object::List(vec!["v".into(); 300]));
    let mut restore = |ttl: &str, more: &[&str]| {
        let mut args = vec![&b"restore"[..], b"k", ttl.as_bytes(), &list, b"replace"];
        args.extend(more.iter().map(|word| word.as_bytes()));
        assert_eq!(bench.run_raw(&args), b"+OK\r\n");
        bench.run("pexpiretime k")
    };
    assert_eq!(restore("4000000000000", &["absttl"]), ":4000000000000");
    assert_eq!(restore("0", &[]), ":-1");
    // What has passed already takes the old key away and makes none.
    assert_eq!(restore("1", &["absttl"]), ":-2");
    assert_ne!(restore("100000", &[]), ":-1");
    bench.check("llen k -> :300");
}
