use haypile_engine::key::Key;

use crate::config::Settings;
use crate::testing::Bench;

// What Redis 7.0 replies; `tests/differential/record.py` writes it.
#[test]
fn replies_are_those_of_redis() {
    let mut bench = Bench::new();
    let script = include_str!("replies.resp2");
    for line in script.lines() {
        let (command, expected) = line.rsplit_once(" -> ").expect("command -> reply");
        assert_eq!(bench.run(command.trim()), expected.trim_end(), "{command}");
    }
}

fn eval(bench: &mut Bench, script: &str, rest: &[&str]) -> String {
    let words: Vec<&str> = ["eval", script].into_iter().chain(rest.iter().copied()).collect();
    String::from_utf8_lossy(&bench.run_raw(&words)).replace("\r\n", " ").trim_end().to_owned()
}

#[test]
fn a_script_is_run_again_after_a_miss_and_its_effects_are_there_once() {
    let fill = (0..2000).map(|n| format!("rpush {{k}}{} a b", n % 50));
    let mut bench = Bench::cold(fill);
    let script = "local sum = 0 \
        for n = 0, 49 do \
            local ok, length = pcall(redis.call, 'rpush', '{k}' .. n, n) \
            if not ok then return 'caught' end \
            sum = sum + length \
        end \
        redis.call('incr', KEYS[1]) \
        return sum";
    let quoted = format!("eval \"{script}\" 1 {{k}}counter");
    let (reply, waits) = bench.run_counted(&quoted);
    assert_eq!(reply, format!(":{}", 50 * 81));
    assert!(waits > 0, "it was all in memory");
    bench.check("get {k}counter -> $1 1\nllen {k}7 -> :81");
}

#[test]
fn a_call_that_fails_after_it_wrote_leaves_nothing_and_what_came_before_stays() {
    let mut bench = Bench::new();
    bench.check("set {a}s v -> +OK\nrpush {a}l x y z -> :3");
    let script = "redis.call('rpush', KEYS[1], 'w') \
        local r = redis.pcall('lmove', KEYS[1], KEYS[2], 'LEFT', 'LEFT') \
        redis.call('append', KEYS[2], '!') \
        return r.err";
    let reply = eval(&mut bench, script, &["2", "{a}l", "{a}s"]);
    assert!(reply.contains("WRONGTYPE"), "{reply}");
    bench.check("lrange {a}l 0 -1 -> *4 $1 x $1 y $1 z $1 w\nget {a}s -> $2 v!");
}

#[test]
fn a_standalone_node_lets_a_script_use_keys_of_any_slot_as_one_transaction() {
    let mut bench = Bench::new();
    let say = |bench: &mut Bench, script: &str| eval(bench, script, &["1", "named"]);
    let script = "redis.call('set', 'a', 1) redis.call('set', 'b', 2) redis.call('set', KEYS[1], 3) \
        local ok = redis.pcall('lpush', 'a', 'x') \
        return {redis.call('get', 'a') + redis.call('get', 'b') + redis.call('get', KEYS[1]), ok.err}";
    let wrong_type = "WRONGTYPE Operation against a key holding the wrong kind of value";
    assert_eq!(say(&mut bench, script), format!("*2 :6 ${} {wrong_type}", wrong_type.len()));
    bench.check("mget a b named -> *3 $1 1 $1 2 $1 3");
    let walks = "redis.call('set', 'new', 1) redis.call('del', 'a') local found = redis.call('keys', '*') table.sort(found) \
        local page = redis.call('scan', '0', 'count', '1000', 'match', 'n*') table.sort(page[2]) \
        return {table.concat(found, ' '), redis.call('dbsize'), page[1], table.concat(page[2], ' '), \
            redis.call('exists', redis.call('randomkey'))}";
    assert_eq!(say(&mut bench, walks), "*5 $11 b named new :3 $1 0 $9 named new :1");
    let empty = "for _, key in ipairs(redis.call('keys', '*')) do redis.call('unlink', key) end \
        return {redis.call('dbsize'), redis.call('randomkey')}";
    assert_eq!(say(&mut bench, empty), "*2 :0 $-1");
    bench.check(
        "multi                                           -> +OK
         set c 1                                         -> +QUEUED
         eval \"return redis.call('incrby', 'd', 5)\" 0  -> +QUEUED
         eval \"return redis.call('dbsize')\" 0          -> +QUEUED
         exec                                            -> *3 +OK :5 :2
         mget c d                                        -> *2 $1 1 $1 5
         eval_ro \"return redis.call('get', 'd')\" 0     -> $1 5",
    );
}

#[test]
fn a_script_that_needs_all_slots_is_run_again_after_a_miss() {
    let mut bench = Bench::cold((0..500).map(|n| format!("set k{n} {n}")));
    let script = "eval \"local sum = 0 for n = 0, 499 do sum = sum + redis.call('get', 'k' .. n) end \
        redis.call('incr', 'runs') return {sum, #redis.call('keys', 'k*')}\" 0";
    let (reply, waits) = bench.run_counted(script);
    assert_eq!(reply, format!("*2 :{} :500", 499 * 250));
    assert!(waits > 0, "it was all in memory");
    bench.check("get runs -> $1 1");
}

#[test]
fn what_a_script_publishes_and_says_is_answered_as_in_redis() {
    let mut bench = Bench::new();
    bench.check(
        "eval \"return {redis.call('publish', 'c', 'x'), redis.call('ping'), redis.call('ping', 'y'), redis.call('echo', 'z')}\" 0 \
         -> *4 :0 +PONG $1 y $1 z",
    );
    let flush = "redis.call('set', 'a', 1) redis.call('flushall') redis.call('set', 'b', 2) \
        return {redis.call('dbsize'), redis.call('get', 'a'), redis.call('select', 0), redis.acl_check_cmd('get', 'x')}";
    bench.check("set old 1 -> +OK");
    assert_eq!(eval(&mut bench, flush, &["0"]), "*4 :1 $-1 +OK :1");
    assert_eq!(
        eval(&mut bench, "return {2^63, -2^63, 0/0, -3.9}", &["0"]),
        format!("*4 :{0} :{0} :{0} :-3", i64::MIN)
    );
    bench.check("mget old a b -> *3 $-1 $-1 $1 2");
    let refused = eval(&mut bench, "return redis.acl_check_cmd('nosuch')", &["0"]);
    assert!(refused.starts_with("-ERR Invalid command passed to redis.acl_check_cmd()"), "{refused}");
    let refused = eval(&mut bench, "return redis.call('config', 'get', 'port')", &["0"]);
    assert!(refused.starts_with("-ERR This Redis command is not allowed from script"), "{refused}");
    let refused =
        String::from_utf8_lossy(&bench.run_raw(&["eval_ro", "return redis.call('publish', 'c', 'x')", "0"]))
            .into_owned();
    assert!(refused.starts_with("-ERR Write commands are not allowed from read-only scripts"), "{refused}");
}

#[test]
fn keys_of_other_slots_are_refused_behind_codis_and_many_slots_are_one_transaction() {
    let mut bench = Bench::with(Settings::default());
    let refused = eval(&mut bench, "return redis.call('keys', '*')", &["1", "k"]);
    assert!(refused.starts_with("-ERR keys in a script is for standalone nodes"), "{refused}");
    let reply = eval(&mut bench, "return redis.call('set', 'other', 1)", &["1", "k"]);
    assert!(reply.starts_with("-ERR Script attempted to access the key 'other'"), "{reply}");
    let reply = eval(
        &mut bench,
        "for i, key in ipairs(KEYS) do redis.call('set', key, i) end return #KEYS",
        &["4", "a", "b", "c", "d"],
    );
    assert_eq!(reply, ":4");
    bench.check("mget a b c d other -> *5 $1 1 $1 2 $1 3 $1 4 $-1");
}

#[test]
fn a_script_that_runs_too_long_is_stopped_and_leaves_nothing() {
    let settings = Settings { standalone: true, script_ms_max: 20, ..Settings::default() };
    let mut bench = Bench::with(settings);
    for end in ["while true do end", "while true do pcall(function() while true do end end) end"] {
        let reply = eval(&mut bench, &format!("redis.call('set', KEYS[1], 1) {end}"), &["1", "k"]);
        assert!(reply.contains("script-time-max"), "{reply}");
        bench.check("exists k -> :0");
    }
    assert_eq!(eval(&mut bench, "return 1", &["0"]), ":1");
}

#[test]
fn a_script_sees_nothing_beyond_itself_and_leaves_nothing_to_the_next() {
    let mut bench = Bench::new();
    for name in
        ["os", "io", "require", "dofile", "loadfile", "print", "debug", "package", "coroutine", "getfenv"]
    {
        let reply = eval(&mut bench, &format!("return {name}"), &["0"]);
        assert!(reply.contains("nonexistent global variable"), "{name}: {reply}");
    }
    for attempt in [
        "_G.x = 1",
        "rawset(_G, 'x', 1)",
        "rawset(string, 'upper', 1)",
        "table.insert(redis, 1)",
        "KEYS = {}",
        "redis.call = nil",
        "math.random = nil",
        "setmetatable(_G, {})",
        "getmetatable('').__index.upper = 1",
        "loadstring('x = 1')()",
        "loadstring('\\27Lua')()",
        "load(function() return nil end)() y = 1",
    ] {
        let reply = eval(&mut bench, attempt, &["0"]);
        assert!(reply.starts_with("-ERR"), "{attempt}: {reply}");
    }
    assert_eq!(
        eval(&mut bench, "return {('a'):upper(), tostring(rawget(_G, 'x'))}", &["0"]),
        "*2 $1 A $3 nil"
    );
    let reply = eval(&mut bench, "local s = 'x' while true do s = s .. s end", &["0"]);
    assert!(reply.contains("memory"), "{reply}");
    assert_eq!(eval(&mut bench, "return 1", &["0"]), ":1");
}

#[test]
fn flags_in_the_first_line_are_kept_to() {
    let mut bench = Bench::new();
    let mut run = |script: &str| eval(&mut bench, script, &["1", "k"]);
    assert_eq!(run("#!lua flags=no-writes\nreturn redis.call('get', KEYS[1])"), "$-1");
    assert!(run("#!lua flags=no-writes\nreturn redis.call('set', KEYS[1], 1)").contains("read-only scripts"));
    assert_eq!(run("#!lua\nreturn redis.call('set', KEYS[1], 1)"), "+OK");
    assert_eq!(run("#!lua flags=fast\nreturn 1"), "-ERR Unexpected flag in script shebang: fast");
    assert_eq!(run("#!js\nreturn 1"), "-ERR Unexpected engine in script shebang: js");
    assert_eq!(run("#!lua"), "-ERR Invalid script shebang");
}

#[test]
fn scripts_answer_in_the_clients_protocol() {
    let mut bench = Bench::new().resp3();
    bench.check("hset h a 1 -> :1");
    assert_eq!(eval(&mut bench, "return {double=3.5}", &["0"]), ",3.5");
    assert_eq!(eval(&mut bench, "return redis.call('hgetall', KEYS[1])", &["1", "h"]), "*2 $1 a $1 1");
    let script = "redis.setresp(3) return redis.call('hgetall', KEYS[1])";
    assert_eq!(eval(&mut bench, script, &["1", "h"]), "%1 $1 a $1 1");
    assert_eq!(eval(&mut bench, "redis.setresp(3) return true", &["0"]), "#t");
    assert_eq!(eval(&mut bench, "return {map={a=1}}", &["0"]), "%1 $1 a :1");
    assert_eq!(eval(&mut bench, "return false", &["0"]), "_");
}

/// The transaction had locked the slot for a read, and the script wrote to it: the commit of a slot that is another's ended the
/// process.
#[test]
fn a_script_in_a_transaction_writes_to_no_slot_that_is_locked_for_its_reads_alone() {
    for first in ["multi", "watch k"] {
        let mut bench = Bench::new();
        bench.check("set k v -> +OK");
        bench.node.engine.follow(&[Key::new(b"k").slot()], "10.0.0.9:9221").expect("it follows");
        bench.run(first);
        bench.run(if first == "multi" { "get k" } else { "multi" });
        bench.check("eval \"return redis.call('set','k','w')\" 0 -> +QUEUED");
        let reply = bench.run("exec");
        assert!(reply.contains("Server in read-only"), "{reply}");
        bench.check("get k -> $1 v");
    }
}

/// The slots of the node were locked for the script, and the key's was none of these: a look at it ended the process.
#[test]
fn a_transaction_whose_script_needs_all_slots_says_which_key_is_in_none_of_these() {
    let mut bench = Bench::new();
    bench.node.engine.remove_slots(&[Key::new(b"k").slot()]).expect("it is removed");
    bench.check(
        "multi                                  -> +OK
         eval \"return redis.call('dbsize')\" 0 -> +QUEUED
         get k                                  -> +QUEUED",
    );
    let reply = bench.run("exec");
    assert!(reply.contains("Partition not found"), "{reply}");
    let reply = eval(&mut bench, "redis.call('dbsize') return redis.call('get', 'k')", &["0"]);
    assert!(reply.contains("Partition not found"), "{reply}");
}

/// It said that it can't write there, and kept what it had written elsewhere.
#[test]
fn a_script_that_meets_a_slot_on_its_way_to_another_node_leaves_nothing() {
    let mut bench = Bench::with(Settings { standalone: true, handover_hold_ms: 1, ..Settings::default() });
    bench.node.engine.fence(&[Key::new(b"b").slot()]).expect("it is fenced");
    let reply = eval(&mut bench, "redis.call('incr', 'a') redis.call('incr', 'b')", &["0"]);
    assert!(reply.contains("being handed over"), "{reply}");
    bench.check("get a -> $-1");
}
