use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::fs::{Fs, OpenMode};
use rustix::process::Pid;

use crate::remote::Reply;

use super::child::group_lives;
use super::judge::{Kill, Promise, Rule};
use super::model::ClientLog;
use super::operation::Operation;
use super::plan::{Plan, is_shared};
use super::script::{Script, Waits};
use super::shared::SharedKeys;
use super::value::{Data, Expires, Found, Span};
use super::verbs::Verbs;
use super::violation::{Breach, Violation};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn operation(text: &str) -> Operation {
    let words: Vec<&str> = text.split(' ').collect();
    let mut operations = Operation::parse_line(&words).expect("a test's command is known");
    assert_eq!(operations.len(), 1, "{text}");
    operations.remove(0)
}

/// One client's history: each operation takes a millisecond, one after the other.
#[derive(Default)]
struct Told {
    log: ClientLog,
    now: u64,
}

impl Told {
    /// An operation and its replies, `&` for one that is not answered, `:` for a number, `+` for a word, `!` for an error.
    fn tell(&mut self, text: &str, reply: &str) -> Result<(), Violation> {
        self.now += 1;
        let number = self.log.sent(operation(text), ms(self.now));
        let one = |reply: &str| match reply.split_at(1) {
            (":", number) => Reply::Integer(number.parse().unwrap()),
            ("+", word) => Reply::Simple(word.to_owned()),
            ("!", word) => Reply::Error(word.to_owned()),
            ("$", "") => Reply::Bulk(None),
            ("$", text) => Reply::Bulk(Some(Bytes::copy_from_slice(text.as_bytes()))),
            (_, items) => Reply::Array(
                items
                    .split(',')
                    .map(|item| Reply::Bulk(Some(Bytes::copy_from_slice(item.as_bytes()))))
                    .collect(),
            ),
        };
        self.now += 1;
        if reply == "&" {
            return Ok(());
        }
        let replies: Vec<Reply> = match reply.split_once("= ") {
            // What EXEC answers.
            Some((queued, answers)) => {
                let mut replies: Vec<Reply> =
                    queued.split(' ').filter(|word| !word.is_empty()).map(one).collect();
                replies.push(Reply::Array(answers.split(' ').map(one).collect()));
                replies
            }
            None => vec![one(reply)],
        };
        self.log.answered(number, &replies, ms(self.now)).map(drop)
    }

    fn all(told: &[(&str, &str)]) -> Told {
        let mut history = Told::default();
        for (text, reply) in told {
            history.tell(text, reply).unwrap_or_else(|violation| panic!("{text}: {violation}"));
        }
        history
    }

    /// Kills with SIGKILL so long after the last operation, and finds these; what is wrong.
    fn killed(&mut self, promise: Promise, after: Duration, found: &[(&str, Data)]) -> Vec<Breach> {
        let killed_at = ms(self.now) + after;
        let rule = Rule { promise, kill: Kill::Sigkill, killed_at };
        self.settled(rule, found)
    }

    fn settled(&mut self, rule: Rule, found: &[(&str, Data)]) -> Vec<Breach> {
        self.now = u64::try_from(rule.killed_at.as_millis()).unwrap() + 1;
        let at = Span { from: ms(self.now), to: ms(self.now + 1) };
        let found: BTreeMap<String, Found> = found
            .iter()
            .map(|(key, data)| {
                ((*key).to_owned(), Found { data: data.clone(), expires_in: Expires::Unknown, at })
            })
            .collect();
        self.now += 1;
        self.log.settle(found, rule).iter().map(|violation| violation.breach).collect()
    }
}

fn text(text: &str) -> Data {
    Data::Text(text.to_owned())
}

fn list(items: &[&str]) -> Data {
    Data::List(items.iter().map(|&item| item.to_owned()).collect())
}

fn hash(fields: &[(&str, &str)]) -> Data {
    Data::Hash(fields.iter().map(|&(field, value)| (field.to_owned(), value.to_owned())).collect())
}

#[test]
fn a_write_that_was_acknowledged_must_be_there_and_one_that_was_not_may_be() {
    let told = [("SET k c0.1a", "+OK"), ("SET k c0.2a", "+OK"), ("SET k c0.3a", "&"), ("SET k c0.4a", "&")];
    for (found, expected) in [
        (text("c0.2a"), vec![]),
        (text("c0.3a"), vec![]),
        (text("c0.4a"), vec![]),
        (text("c0.1a"), vec![Breach::Lost]),
        (Data::Nothing, vec![Breach::Lost]),
        (text("else"), vec![Breach::Invented]),
    ] {
        let mut history = Told::all(&told);
        assert_eq!(history.killed(Promise::Always, ms(0), &[("k", found.clone())]), expected, "{found}");
    }
}

#[test]
fn everysec_may_lose_the_last_two_seconds_and_none_may_lose_all() {
    let told = [("SET k c0.1a", "+OK"), ("SET k c0.2a", "+OK")];
    let early = |promise, after, found| Told::all(&told).killed(promise, ms(after), &[("k", found)]);
    assert_eq!(early(Promise::Everysec, 100, text("c0.1a")), []);
    assert_eq!(early(Promise::Everysec, 100, Data::Nothing), []);
    assert_eq!(early(Promise::Everysec, 2000, text("c0.1a")), [Breach::Lost]);
    assert_eq!(early(Promise::Nothing, 9000, text("c0.1a")), []);
    assert_eq!(early(Promise::Nothing, 9000, Data::Nothing), []);
    assert_eq!(early(Promise::Nothing, 9000, text("c1.1a")), [Breach::Disordered]);
    let stop = Rule { promise: Promise::Everysec, kill: Kill::Sigterm, killed_at: ms(5) };
    assert_eq!(Told::all(&told).settled(stop, &[("k", text("c0.1a"))]), [Breach::Lost]);
    let stop = Rule { promise: Promise::Nothing, ..stop };
    assert_eq!(Told::all(&told).settled(stop, &[("k", text("c0.1a"))]), []);
}

#[test]
fn what_was_read_back_once_must_stay_unless_all_may_be_lost() {
    let again = |promise, found: Data| {
        let mut history = Told::all(&[("SET k c0.1a", "+OK"), ("SET k c0.2a", "+OK")]);
        assert_eq!(history.killed(promise, ms(0), &[("k", text("c0.2a"))]), []);
        history.killed(promise, ms(0), &[("k", found)])
    };
    assert_eq!(again(Promise::Everysec, text("c0.2a")), []);
    assert_eq!(again(Promise::Everysec, text("c0.1a")), [Breach::Returned]);
    assert_eq!(again(Promise::Everysec, Data::Nothing), [Breach::Lost]);
    assert_eq!(again(Promise::Nothing, text("c0.1a")), []);
}

#[test]
fn what_was_lost_and_then_read_back_otherwise_does_not_return() {
    let mut history = Told::all(&[("SET k c0.1a", "+OK"), ("SET k c0.2a", "+OK")]);
    assert_eq!(history.killed(Promise::Nothing, ms(0), &[("k", text("c0.1a"))]), []);
    assert_eq!(history.killed(Promise::Nothing, ms(0), &[("k", text("c0.2a"))]), [Breach::Disordered]);
}

#[test]
fn half_a_command_is_noticed_in_one_key_and_between_keys() {
    let told = [("HSET h a c0.1a b c0.1b c c0.1c", "&")];
    let all = [("a", "c0.1a"), ("b", "c0.1b"), ("c", "c0.1c")];
    assert_eq!(Told::all(&told).killed(Promise::Always, ms(0), &[("h", hash(&all))]), []);
    assert_eq!(Told::all(&told).killed(Promise::Always, ms(0), &[("h", Data::Nothing)]), []);
    assert_eq!(Told::all(&told).killed(Promise::Always, ms(0), &[("h", hash(&all[..1]))]), [Breach::Halved]);
    assert_eq!(Told::all(&told).killed(Promise::Always, ms(0), &[("h", hash(&all[2..]))]), [Breach::Halved]);

    // Seen only when others came after it.
    let mut history = Told::all(&[("HSET h a c0.1a b c0.1b", ":2"), ("HSET h c c0.2a", ":1")]);
    let found = hash(&[("a", "c0.1a"), ("c", "c0.2a")]);
    assert_eq!(history.killed(Promise::Always, ms(0), &[("h", found)]), [Breach::Halved]);

    for command in ["MSET a c0.1a b c0.1b", "MULTI ; SET a c0.1a ; SET b c0.1b ; EXEC"] {
        let found = |a: Data, b: Data| {
            let mut history = Told::all(&[(command, "&")]);
            history.killed(Promise::Nothing, ms(0), &[("a", a), ("b", b)])
        };
        assert_eq!(found(text("c0.1a"), text("c0.1b")), [], "{command}");
        assert_eq!(found(Data::Nothing, Data::Nothing), [], "{command}");
        assert_eq!(found(text("c0.1a"), Data::Nothing), [Breach::Halved], "{command}");
        assert_eq!(found(Data::Nothing, text("c0.1b")), [Breach::Halved], "{command}");
    }

    // Acknowledged, it is as much a half command as a lost one.
    let mut history = Told::all(&[("SET a c0.1a", "+OK"), ("MSET a c0.2a b c0.2b", "+OK")]);
    assert_eq!(
        history.killed(Promise::Always, ms(0), &[("a", text("c0.1a")), ("b", text("c0.2b"))]),
        [Breach::Halved]
    );
    let mut history = Told::all(&[("SET a c0.1a", "+OK"), ("MSET a c0.2a b c0.2b", "+OK")]);
    let lost = history.killed(Promise::Always, ms(0), &[("a", text("c0.1a")), ("b", Data::Nothing)]);
    assert_eq!(lost, [Breach::Lost, Breach::Lost]);
}

#[test]
fn a_hole_and_an_order_that_never_was_are_noticed() {
    let told = [("RPUSH l c0.1a", ":1"), ("RPUSH l c0.2a", ":2"), ("RPUSH l c0.3a", ":3")];
    let found = |promise, items: &[&str]| Told::all(&told).killed(promise, ms(0), &[("l", list(items))]);
    assert_eq!(found(Promise::Nothing, &["c0.1a", "c0.2a"]), []);
    assert_eq!(found(Promise::Nothing, &["c0.1a", "c0.3a"]), [Breach::Disordered]);
    assert_eq!(found(Promise::Always, &["c0.1a", "c0.3a"]), [Breach::Disordered]);
    assert_eq!(found(Promise::Always, &["c0.2a", "c0.1a", "c0.3a"]), [Breach::Disordered]);
}

#[test]
fn answers_are_held_against_the_model() {
    for (told, wrong) in [
        (vec![("INCR n", ":1")], ("INCR n", ":3")),
        (vec![("SET k c0.1a", "+OK"), ("DEL k", ":1")], ("GET k", "$c0.1a")),
        (vec![("SADD s a b", ":2")], ("SADD s b c", ":2")),
        (vec![("RPUSH l a b", ":2")], ("LRANGE l 0 -1", "*b,a")),
        (vec![("RPUSH l a b", ":2")], ("LPOP l", "$b")),
        (vec![("ZADD z 1 a", ":1")], ("ZRANGE z 0 -1 WITHSCORES", "*a,2")),
        (vec![("SET k c0.1a", "+OK")], ("APPEND k x", "!WRONGTYPE")),
        (vec![], ("MULTI ; INCR n ; INCR n ; EXEC", "+OK +QUEUED +QUEUED = :1 :1")),
    ] {
        let mut history = Told::all(&told);
        let breach = history.tell(wrong.0, wrong.1).map_err(|violation| violation.breach);
        assert_eq!(breach, Err(Breach::WrongAnswer), "{}", wrong.0);
    }
}

#[test]
fn a_command_that_is_refused_must_not_have_happened() {
    let found = |data: Data| {
        let mut history = Told::all(&[("SET k c0.1a", "+OK"), ("SET k c0.2a", "!OOM")]);
        history.killed(Promise::Always, ms(0), &[("k", data)])
    };
    assert_eq!(found(text("c0.1a")), []);
    assert_ne!(found(text("c0.2a")), []);
}

#[test]
fn expired_data_is_gone_and_stays_gone() {
    let told = [("SET k c0.1a PX 1000", "+OK")];
    let found = |after, data: Data| Told::all(&told).killed(Promise::Always, ms(after), &[("k", data)]);
    assert_eq!(found(10, text("c0.1a")), []);
    assert_eq!(found(10, Data::Nothing), [Breach::Lost]);
    assert_eq!(found(1000, Data::Nothing), []);
    assert_eq!(found(1000, text("c0.1a")), []);
    assert_eq!(found(2000, text("c0.1a")), [Breach::Returned]);
    let mut history = Told::all(&told);
    assert_eq!(history.killed(Promise::Always, ms(1000), &[("k", Data::Nothing)]), []);
    assert_eq!(history.killed(Promise::Always, ms(0), &[("k", text("c0.1a"))]), [Breach::Returned]);
}

/// What two clients did to shared keys, and what is wrong with what was found.
fn shared(told: &[(usize, &str, &str)], key: &str, found: Data) -> Result<Vec<Breach>, Breach> {
    let mut keys = SharedKeys::default();
    let mut now = 0;
    for (client, text, reply) in told {
        now += 1;
        let ticket = keys.sent(*client, operation(text), ms(now));
        now += 1;
        if let Ok(number) = reply.parse() {
            keys.answered(&ticket, &Reply::Integer(number), ms(now)).map_err(|violation| violation.breach)?;
        }
    }
    let at = Span { from: ms(now), to: ms(now + 1) };
    let found = BTreeMap::from([(key.to_owned(), Found { data: found, expires_in: Expires::Unknown, at })]);
    let rule = Rule { promise: Promise::Always, kill: Kill::Sigkill, killed_at: ms(now) };
    Ok(keys.settle(&found, rule).iter().map(|violation| violation.breach).collect())
}

#[test]
fn shared_keys_hold_what_all_clients_did() {
    let counted = [(0, "INCR {shared}n", "1"), (1, "INCR {shared}n", "2"), (1, "INCR {shared}n", "&")];
    let count = |found: &str| shared(&counted, "{shared}n", text(found));
    assert_eq!(count("2"), Ok(vec![]));
    assert_eq!(count("3"), Ok(vec![]));
    assert_eq!(count("1"), Ok(vec![Breach::Lost]));
    assert_eq!(count("4"), Ok(vec![Breach::Invented]));
    assert_eq!(
        shared(&[(0, "INCR {shared}n", "1"), (1, "INCR {shared}n", "1")], "", text("2")),
        Err(Breach::WrongAnswer)
    );

    let pushed =
        [(0, "RPUSH {shared}l a b", "2"), (1, "RPUSH {shared}l c d", "4"), (0, "RPUSH {shared}l e f", "&")];
    let push = |items: &[&str]| shared(&pushed, "{shared}l", list(items)).unwrap();
    assert_eq!(push(&["a", "b", "c", "d"]), []);
    assert_eq!(push(&["a", "b", "c", "d", "e", "f"]), []);
    assert_eq!(push(&["a", "b", "c", "d", "e"]), [Breach::Halved]);
    assert_eq!(push(&["c", "d", "a", "b"]), [Breach::Disordered]);
    assert_eq!(push(&["a", "b"]), [Breach::Lost]);
    assert_eq!(push(&["a", "b", "c", "d", "x"]), [Breach::Invented]);

    let added = [
        (0, "SADD {shared}s a b", "2"),
        (1, "SADD {shared}s c", "1"),
        (1, "SADD {shared}s d e", "&"),
        (1, "SADD {shared}s f", "&"),
    ];
    let add = |members: &[&str]| {
        let members = members.iter().map(|&member| member.to_owned()).collect();
        shared(&added, "{shared}s", Data::Set(members)).unwrap()
    };
    assert_eq!(add(&["a", "b", "c"]), []);
    assert_eq!(add(&["a", "b", "c", "d", "e"]), []);
    assert_eq!(add(&["a", "b"]), [Breach::Lost]);
    assert_eq!(add(&["a", "b", "c", "d"]), [Breach::Halved]);
    assert_eq!(add(&["a", "b", "c", "f"]), [Breach::Disordered]);
    assert_eq!(add(&["a", "b", "c", "x"]), [Breach::Invented]);
}

#[test]
fn a_seed_is_the_same_history_twice_and_a_script_can_hold_it() {
    let plan = |seed| Plan::new(seed, 3, 100, Verbs::all());
    let lines = |plan: &Plan| -> Vec<String> {
        (0..3)
            .flat_map(|client| (0..2000).map(move |step| (client, step)))
            .map(|(client, step)| format!("c{client} {}", plan.step(client, step)))
            .collect()
    };
    let text = lines(&plan(7));
    assert_eq!(text, lines(&plan(7)));
    assert_ne!(text, lines(&plan(8)));
    let script = format!(
        "promise everysec\n{}\nkill sigkill 30us\nkill start 7us\nc1 INCR n &\nkill none 0us\n",
        text.join("\n")
    );
    let parsed = Script::parse(&script).unwrap();
    assert_eq!(parsed.to_string(), script);
    assert_eq!(parsed.operations(), text.len() + 1);
    assert_eq!(parsed.cycles[1].lines[0].waits, Waits::No);
    assert!(text.iter().any(|line| line.contains("MULTI ; ")), "transactions");
    assert!(text.iter().any(|line| line.split(' ').any(is_shared)), "shared keys");
}

#[test]
fn a_wrong_script_is_refused_by_its_line() {
    for (script, why) in [
        ("c0 SET a b\nc1 SET a c", "line 2: a belongs to client 0"),
        ("c0 EVAL x", "line 1: the tester does not know this command: EVAL x"),
        ("c0 MULTI ; INCR a", "line 1: a MULTI without its EXEC"),
        ("kill often 0us", "line 1: often is none of sigkill, sigterm, none"),
        ("kill sigkill soon", "line 1: soon is no time such as 350us"),
        ("SET a b", "line 1: SET is no client such as c0 (at most c999), and no `promise` or `kill`"),
        (
            "c0 GET {shared0}x",
            "line 1: {shared0}x is shared: only INCR, RPUSH and SADD of new items go there: GET {shared0}x",
        ),
        ("kill start 5us", "line 1: a start is killed after another kill"),
    ] {
        assert_eq!(Script::parse(script), Err(why.to_owned()));
    }
}

/// A `/proc` of these threads: process, thread, name, state, group.
fn processes(threads: &[(u32, u32, &str, &str, u32)]) -> MemoryFs {
    let fs = MemoryFs::new();
    let write = |path: String, text: &str| {
        fs.create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
        fs.open(Path::new(&path), OpenMode::CreateNew).unwrap().write_at(text.as_bytes(), 0).unwrap();
    };
    for (process, thread, name, state, group) in threads {
        let stat = format!("{thread} ({name}) {state} 1 {group} {group} 0 -1 4194560 0\n");
        write(format!("/proc/{process}/task/{thread}/stat"), &stat);
        if process == thread {
            write(format!("/proc/{process}/stat"), &stat);
        }
    }
    fs
}

#[test]
fn a_group_lives_until_the_last_thread_of_each_of_its_processes_has_ended() {
    let lives = |threads: &[(u32, u32, &str, &str, u32)]| {
        group_lives(&processes(threads), Pid::from_raw(40).expect("not zero"))
    };
    assert!(lives(&[(40, 40, "sh", "Z", 40), (41, 41, "haypile", "S", 40)]));
    // It was seen: the first thread had ended, one that synced had not, and the folder's lock was held.
    assert!(lives(&[(40, 40, "sh", "Z", 40), (41, 41, "haypile", "Z", 40), (41, 43, "sync", "D", 40)]));
    assert!(lives(&[(41, 41, "a) Z 1 7 (b", "R", 40)]));
    assert!(!lives(&[(40, 40, "sh", "Z", 40), (41, 41, "haypile", "Z", 40), (41, 43, "sync", "X", 40)]));
    assert!(!lives(&[(41, 41, "haypile", "S", 39), (42, 42, "a) S 1 40 (b", "S", 39)]));
    assert!(!lives(&[(7, 7, "init", "S", 7)]));
}
