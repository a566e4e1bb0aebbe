//! Values of every type in every form in which they lie on disk: a store of each version opens, tells of them what it told when it
//! was written, and they can be changed. (The bytes themselves are in the tables of `docs/FORMAT.md`; records, frames and files
//! have a store of their own in `formats.rs`.)
//!
//! `HAYPILE_REWRITE=1 cargo test -p haypile-tests --test forms` writes today's version anew: only for changes of the format before
//! a release, or into a folder of a new version.

use std::fmt::Write;
use std::sync::{Arc, Once};

use haypile_engine::engine::Engine;
use haypile_engine::fs::Fs;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::fs::real::RealFs;
use haypile_server::config::Settings;
use haypile_server::testing::Bench;
use haypile_tests::fixture;
use haypile_tests::sources;
use haypile_tests::store::{DIR, create, files, open, read, slot};

/// Where the store lies, beside those of `formats.rs`.
const VERSION: &str = "types-v1";

/// All keys have one tag, and so one slot; this many elements make a collection large, and a sorted set's tree of counts one of several nodes.
const LARGE: usize = 600;
const MEMBERS: usize = 3000;

/// A command with many elements, made by their number.
fn many(command: &str, count: usize, element: impl Fn(usize) -> String) -> Vec<String> {
    let numbers: Vec<usize> = (0..count).collect();
    let line = |part: &[usize]| {
        part.iter().fold(command.to_owned(), |mut line, &number| {
            write!(line, " {}", element(number)).expect("text grows");
            line
        })
    };
    numbers.chunks(100).map(line).collect()
}

/// What makes a key of every form.
fn fill() -> Vec<String> {
    let lines = "set {t}string value|set {t}number 12345|set {t}expires v pxat 4102444800000|setbit {t}bits 1000 1
        set {t}gone x|del {t}gone|sadd {t}gone 1|del {t}gone
        hset {t}hash a 1 b two|hset {t}hash-expires a 1|pexpireat {t}hash-expires 4102444800001
        sadd {t}set x y z|sadd {t}integers 3 -1 2|rpush {t}list a b c|lpush {t}list z|zadd {t}zset 1.5 a -2 b inf c
        pfadd {t}sparse a b c|geoadd {t}geo 13.361389 38.115556 Palermo 15.087269 37.502669 Catania
        xadd {t}stream 1-1 f v g w|xadd {t}stream 1-2 f v|xadd {t}empty 5-5 f v|xdel {t}empty 5-5";
    let mut all: Vec<String> =
        lines.split(['|', '\n']).map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    all.extend(many("hset {t}large-hash", LARGE, |n| format!("field{n} value{n}")));
    all.push("hdel {t}large-hash field7 field8".to_owned());
    all.extend(many("sadd {t}large-set", LARGE, |n| format!("member{n}")));
    all.extend(many("rpush {t}large-list", LARGE, |n| format!("item{n}")));
    all.extend(
        [
            "lpush {t}large-list first",
            "linsert {t}large-list before item300 between",
            "lset {t}large-list 5 set",
        ]
        .map(str::to_owned),
    );
    all.extend(many("zadd {t}large-zset", MEMBERS, |n| {
        format!("{} member{n}", (n * 7919 % 1000) as f64 / 4.0 - 50.0)
    }));
    all.extend(many("zrem {t}large-zset", 300, |n| format!("member{}", n * 3)));
    all.push("zadd {t}large-zset -inf low inf high".to_owned());
    all.extend((1..=LARGE).map(|n| format!("xadd {{t}}large-stream {n}-0 n {n}")));
    let groups = "xgroup create {t}large-stream g 0|xgroup create {t}large-stream h 100-0|xreadgroup group g one count 30 streams {t}large-stream >
        xreadgroup group g two count 10 streams {t}large-stream >|xack {t}large-stream g 3-0 4-0 35-0|xdel {t}large-stream 200-0 5-0
        xtrim {t}large-stream maxlen 590|xgroup createconsumer {t}large-stream h idle";
    all.extend(groups.split(['|', '\n']).map(|line| line.trim().to_owned()));
    all.extend(many("pfadd {t}dense", 5000, |n| format!("element{n}")));
    all
}

/// What is asked of them.
fn questions() -> Vec<String> {
    let mut all = vec!["dbsize".to_owned()];
    let keys = "string number expires bits gone hash hash-expires set integers list zset sparse geo stream empty large-hash large-set \
        large-list large-zset large-stream dense";
    for key in keys.split_ascii_whitespace() {
        all.extend(["type", "pexpiretime", "object encoding"].map(|command| format!("{command} {{t}}{key}")));
    }
    let lines = "mget {t}string {t}number {t}expires|get {t}bits|bitcount {t}bits|hgetall {t}hash|hgetall {t}hash-expires|smembers {t}set
        smembers {t}integers|lrange {t}list 0 -1|zrange {t}zset 0 -1 withscores|pfcount {t}sparse|get {t}sparse|geopos {t}geo Palermo Catania
        xrange {t}stream - +|xinfo stream {t}empty|hlen {t}large-hash|hgetall {t}large-hash|hmget {t}large-hash field7 field9 field599
        scard {t}large-set|smembers {t}large-set|smismember {t}large-set member0 member599 member600|llen {t}large-list
        lrange {t}large-list 0 -1|lindex {t}large-list 301|lpos {t}large-list item599|zcard {t}large-zset
        zrange {t}large-zset 0 -1 withscores|zrange {t}large-zset 1300 1320|zrevrank {t}large-zset member1|zcount {t}large-zset 0 100
        zrangebyscore {t}large-zset (10 11 withscores|zlexcount {t}large-zset - +|xlen {t}large-stream|xrange {t}large-stream - +
        xinfo groups {t}large-stream|xpending {t}large-stream g
        pfcount {t}dense|get {t}dense|pfcount {t}sparse {t}dense";
    all.extend(lines.split(['|', '\n']).map(|line| line.trim().to_owned()));
    all.extend((0..MEMBERS).step_by(97).map(|n| format!("zrank {{t}}large-zset member{n}")));
    all
}

/// Changes in each of the large ones, and what there is then.
const CHANGES: &str = "hset {t}large-hash field7 again|hlen {t}large-hash|sadd {t}large-set new|srem {t}large-set member0|scard {t}large-set
    rpush {t}large-list last|lpop {t}large-list|lindex {t}large-list 300|lindex {t}large-list -1|zadd {t}large-zset 0 new
    zremrangebyrank {t}large-zset 100 1500|zcard {t}large-zset|zrank {t}large-zset high|zrank {t}large-zset member2999
    xadd {t}large-stream 601-0 n 601|xreadgroup group g two count 2 streams {t}large-stream >|xack {t}large-stream g 6-0
    xpending {t}large-stream g|pfadd {t}dense one more|pfadd {t}sparse d|pfcount {t}sparse|append {t}string !|get {t}string
    hset {t}hash c 3|hgetall {t}hash|zincrby {t}zset 10 b|zrange {t}zset 0 -1|del {t}large-zset {t}large-list|exists {t}large-zset";

fn bench(engine: Engine) -> Bench {
    Bench::on(Arc::new(engine), Settings { standalone: true, ..Settings::default() })
}

/// Questions with their answers, long ones by length and checksum.
fn said(bench: &mut Bench) -> String {
    let mut text = String::new();
    let changes = CHANGES.split(['|', '\n']).map(|line| line.trim().to_owned());
    for line in questions().into_iter().chain(changes) {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let reply = bench.run_raw(&words);
        let shown = if reply.len() > 200 {
            format!("{} bytes, CRC-32 {:08x}", reply.len(), fixture::crc(&reply))
        } else {
            reply.escape_ascii().to_string().replace("\\r\\n", " ")
        };
        writeln!(text, "{line} -> {}", shown.trim_end()).expect("text grows");
    }
    text
}

/// The store of today's version, as it is committed.
fn today() -> MemoryFs {
    static WRITTEN: Once = Once::new();
    fixture::today(VERSION, &WRITTEN, rewrite)
}

fn rewrite() {
    let fs = MemoryFs::new();
    let engine = open(&fs).expect("a fresh folder opens");
    engine.add_slots(&[slot_of_all()]).expect("it is added");
    let mut made = bench(engine);
    for line in fill() {
        let reply = made.run(&line);
        assert!(!reply.starts_with('-'), "{line}: {reply}");
    }
    made.node.engine.close().expect("it stops cleanly");
    drop(made);
    let root = sources::root().join("tests/testdata/formats").join(VERSION);
    let write = |name: &str, bytes: &[u8]| {
        let path = root.join(name);
        if RealFs.exists(&path).expect("looks") {
            RealFs.remove(&path).expect("removes");
        }
        create(&RealFs, path.to_str().expect("text"), bytes);
    };
    for folder in ["log", "data", "manifest"] {
        for entry in RealFs.list(&root.join(folder)).into_iter().flatten() {
            RealFs.remove(&root.join(folder).join(&entry.name)).expect("removes");
        }
    }
    for path in files(&fs, DIR) {
        if !path.ends_with(".tmp") && !path.ends_with("LOCK") {
            write(path.strip_prefix("/store/").expect("within"), &read(&fs, &path));
        }
    }
    let mut again = bench(open(&fs.restart()).expect("opens"));
    write("content.txt", said(&mut again).as_bytes());
}

fn slot_of_all() -> haypile_engine::types::Slot {
    haypile_engine::key::Key::new(b"{t}").slot()
}

#[test]
fn values_of_every_form_are_read_and_changed_in_a_store_of_every_version() {
    let fs = today();
    assert!(files(&fs, DIR).iter().any(|path| path.ends_with(".pack")), "values are in a pack");
    let mut bench = bench(open(&fs).expect("it opens"));
    let expected = sources::text(&format!("tests/testdata/formats/{VERSION}/content.txt"));
    let said = said(&mut bench);
    for (ours, theirs) in said.lines().zip(expected.lines()) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(said.lines().count(), expected.lines().count());
    assert!(!said.contains(" -> -"), "nothing is refused");
}

#[test]
fn the_same_commands_give_the_same_answers_today() {
    today();
    let fs = MemoryFs::new();
    let engine = open(&fs).expect("a fresh folder opens");
    engine.add_slots(&[slot_of_all(), slot(0)]).expect("they are added");
    let mut bench = bench(engine);
    for line in fill() {
        bench.run(&line);
    }
    let expected = sources::text(&format!("tests/testdata/formats/{VERSION}/content.txt"));
    for (ours, theirs) in said(&mut bench).lines().zip(expected.lines()) {
        assert_eq!(ours, theirs);
    }
}
