//! The events that commands tell to who listens to keys, in Redis' names and order.
//!
//! A command knows nothing of it: what it did is seen from its reply, from what it wrote, and from which of its keys were
//! there before and after. While nobody asks for events a command costs nothing more.

use haypile_engine::key::Key;

use crate::cx::{Cx, Fail, is};
use crate::notify::{Classes, Event};
use crate::table::{Command, Flags};

use super::streams;

const G: Classes = Classes::GENERIC;
const S: Classes = Classes::STRING;
const L: Classes = Classes::LIST;
const SET: Classes = Classes::SET;
const H: Classes = Classes::HASH;
const Z: Classes = Classes::SORTED_SET;
const T: Classes = Classes::STREAM;

/// When a command with one event tells it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    /// It ran without an error.
    Ran,
    /// It answered a number above zero.
    Counted,
    /// It answered something, not nothing.
    Answered,
    /// Its key was there.
    WasThere,
}

use When::{Answered, Counted, Ran, WasThere};

/// Commands with one event, at their first key; if that is gone after, `del` follows.
#[rustfmt::skip]
const SIMPLE: &[(&str, When, Classes, &str)] = &[
    ("append", Ran, S, "append"), ("incr", Ran, S, "incrby"), ("decr", Ran, S, "incrby"),
    ("incrby", Ran, S, "incrby"), ("decrby", Ran, S, "incrby"), ("incrbyfloat", Ran, S, "incrbyfloat"), ("setnx", Counted, S, "set"),
    ("getset", Ran, S, "set"), ("pfadd", Counted, S, "pfadd"), ("pfmerge", Ran, S, "pfadd"),
    ("persist", Counted, G, "persist"),
    ("lpush", Ran, L, "lpush"), ("rpush", Ran, L, "rpush"), ("lpushx", Counted, L, "lpush"), ("rpushx", Counted, L, "rpush"),
    ("lpop", Answered, L, "lpop"), ("rpop", Answered, L, "rpop"), ("linsert", Counted, L, "linsert"), ("lset", Ran, L, "lset"),
    ("lrem", Counted, L, "lrem"), ("ltrim", WasThere, L, "ltrim"),
    ("sadd", Counted, SET, "sadd"), ("srem", Counted, SET, "srem"), ("spop", Answered, SET, "spop"),
    ("hset", Ran, H, "hset"), ("hmset", Ran, H, "hset"), ("hsetnx", Counted, H, "hset"), ("hdel", Counted, H, "hdel"),
    ("hincrby", Ran, H, "hincrby"), ("hincrbyfloat", Ran, H, "hincrbyfloat"),
    ("zrem", Counted, Z, "zrem"), ("zremrangebyscore", Counted, Z, "zremrangebyscore"),
    ("zremrangebyrank", Counted, Z, "zremrangebyrank"), ("zremrangebylex", Counted, Z, "zremrangebylex"),
    ("zpopmin", Answered, Z, "zpopmin"), ("zpopmax", Answered, Z, "zpopmax"), ("zincrby", Ran, Z, "zincr"),
    ("xdel", Counted, T, "xdel"), ("xtrim", Counted, T, "xtrim"), ("xsetid", Ran, T, "xsetid"),
    ("xgroup|create", Ran, T, "xgroup-create"), ("xgroup|setid", Ran, T, "xgroup-setid"),
    ("xgroup|destroy", Counted, T, "xgroup-destroy"), ("xgroup|createconsumer", Counted, T, "xgroup-createconsumer"),
];

/// Commands that store what they find: their event, or `del` if they found nothing.
const STORING: &[(&str, Classes, &str)] = &[
    ("bitop", S, "set"),
    ("sort", L, "sortstore"),
    ("sinterstore", SET, "sinterstore"),
    ("sunionstore", SET, "sunionstore"),
    ("sdiffstore", SET, "sdiffstore"),
    ("zunionstore", Z, "zunionstore"),
    ("zinterstore", Z, "zinterstore"),
    ("zdiffstore", Z, "zdiffstore"),
    ("zrangestore", Z, "zrangestore"),
    ("geosearchstore", Z, "geosearchstore"),
    ("georadius", Z, "georadiusstore"),
    ("georadiusbymember", Z, "georadiusstore"),
];

/// What a command's keys were before it ran.
struct Before {
    classes: Classes,
    existed: Vec<bool>,
    written: usize,
    reply: usize,
    /// The length of what XADD and SETBIT change, or which consumers there were.
    sizes: Vec<Option<u64>>,
}

/// Runs a data command, and keeps its events with what it runs with.
///
/// # Errors
/// As the command; or a miss while it is looked whether its keys are there.
pub fn run<'a>(
    cx: &mut Cx<'a>,
    command: &Command,
    body: fn(&mut Cx<'_>) -> Result<(), Fail>,
) -> Result<(), Fail> {
    run_told(cx, command, body)?;
    cx.awaited.note(&cx.tx);
    Ok(())
}

fn run_told<'a>(
    cx: &mut Cx<'a>,
    command: &Command,
    body: fn(&mut Cx<'_>) -> Result<(), Fail>,
) -> Result<(), Fail> {
    let classes = cx.node.notify.classes();
    // A script's calls tell for themselves.
    if classes == Classes::NONE || command.group == super::scripting::GROUP {
        return body(cx);
    }
    let mut existed = Vec::with_capacity(cx.keys.len());
    for key in cx.keys {
        existed.push(cx.tx.read(key, |_| ())?.is_some());
    }
    let sizes = sizes_before(cx, command)?;
    let before = Before { classes, existed, written: cx.tx.written_bytes(), reply: cx.reply.len(), sizes };
    body(cx)?;
    if command.flags.has(Flags::WRITE) {
        before.tell_of(cx, command)?;
    }
    before.tell_of_misses(cx, command);
    Ok(())
}

/// What else is looked at before a command runs.
fn sizes_before(cx: &mut Cx<'_>, command: &Command) -> Result<Vec<Option<u64>>, Fail> {
    match command.name {
        "xadd" => Ok(vec![streams::length(cx)?]),
        "xreadgroup" | "xclaim" | "xautoclaim" => streams::consumers(cx, 2),
        "xgroup|delconsumer" => streams::consumers(cx, 3),
        "setbit" => Ok(vec![length(cx)?]),
        _ => Ok(Vec::new()),
    }
}

impl Before {
    fn tell(&self, cx: &mut Cx<'_>, class: Classes, name: &'static str, key: &Key) {
        if self.classes.has(class) {
            cx.events.push(Event::new(class, name, key));
        }
    }

    /// Tells that a key is new if it was not there, before what else happened to it.
    fn tell_at(&self, cx: &mut Cx<'_>, class: Classes, name: &'static str, at: usize) -> Result<(), Fail> {
        let key = cx.key(at);
        if self.classes.has(Classes::NEW)
            && !self.existed[at]
            && !cx.events.iter().any(|event| event.is(Classes::NEW, key.user()))
            && there(cx, at)?
        {
            self.tell(cx, Classes::NEW, "new", key);
        }
        self.tell(cx, class, name, key);
        Ok(())
    }

    fn tell_if_gone(&self, cx: &mut Cx<'_>, at: usize) -> Result<(), Fail> {
        if self.existed[at] && !there(cx, at)? {
            self.tell(cx, G, "del", cx.key(at));
        }
        Ok(())
    }

    fn wrote(&self, cx: &Cx<'_>) -> bool {
        cx.tx.written_bytes() > self.written
    }

    /// The number that was answered; 0 if it is none.
    fn counted(&self, cx: &Cx<'_>) -> i64 {
        let reply = &cx.reply.as_bytes()[self.reply..];
        let digits = reply.strip_prefix(b":").and_then(|rest| rest.strip_suffix(b"\r\n"));
        digits.and_then(crate::number::integer).unwrap_or(0)
    }

    /// Whether something was answered: no null and no empty collection.
    fn answered(&self, cx: &Cx<'_>) -> bool {
        let reply = &cx.reply.as_bytes()[self.reply..];
        let nothing: [&[u8]; 5] = [b"$-1", b"*-1", b"_\r\n", b"*0\r\n", b"~0\r\n"];
        !nothing.iter().any(|nothing| reply.starts_with(nothing))
    }

    fn tell_of(&self, cx: &mut Cx<'_>, command: &Command) -> Result<(), Fail> {
        if cx.keys.is_empty() {
            return Ok(());
        }
        if let Some((_, when, class, name)) = SIMPLE.iter().find(|(known, ..)| *known == command.name) {
            let happened = match when {
                Ran => true,
                Counted => self.counted(cx) > 0,
                Answered => self.answered(cx),
                WasThere => self.existed[0],
            };
            if happened {
                self.tell_at(cx, *class, name, 0)?;
                self.tell_if_gone(cx, 0)?;
            }
            return Ok(());
        }
        if let Some((_, class, name)) = STORING.iter().find(|(known, ..)| *known == command.name) {
            return self.tell_stored(cx, command, *class, name);
        }
        self.tell_of_others(cx, command)
    }

    /// What is stored is at the first key, but for commands that name the source first.
    fn tell_stored(
        &self,
        cx: &mut Cx<'_>,
        command: &Command,
        class: Classes,
        name: &'static str,
    ) -> Result<(), Fail> {
        let target = match command.name {
            "sort" | "georadius" | "georadiusbymember" if cx.keys.len() < 2 => return Ok(()),
            "sort" | "georadius" | "georadiusbymember" => cx.keys.len() - 1,
            _ => 0,
        };
        if there(cx, target)? && self.counted(cx) > 0 {
            self.tell_at(cx, class, name, target)
        } else {
            self.tell_if_gone(cx, target)
        }
    }

    fn tell_of_others(&self, cx: &mut Cx<'_>, command: &Command) -> Result<(), Fail> {
        match command.name {
            "set" | "setex" | "psetex" if self.wrote(cx) => {
                self.tell_at(cx, S, "set", 0)?;
                let expires = |arg: &&[u8]| ["ex", "px", "exat", "pxat"].iter().any(|name| is(arg, name));
                if command.name != "set" || cx.args[3..].iter().any(expires) {
                    self.tell_at(cx, G, "expire", 0)?;
                }
            }
            "mset" | "msetnx" if self.wrote(cx) => {
                for at in 0..cx.keys.len() {
                    self.tell_at(cx, S, "set", at)?;
                }
            }
            "restore" if there(cx, 0)? => {
                self.tell(cx, Classes::NEW, "new", cx.key(0));
                self.tell(cx, G, "restore", cx.key(0));
            }
            "getdel" | "restore" => self.tell_if_gone(cx, 0)?,
            "getex" if self.wrote(cx) => {
                if !there(cx, 0)? {
                    self.tell_if_gone(cx, 0)?;
                } else if cx.args[2..].iter().any(|arg| is(arg, "persist")) {
                    self.tell_at(cx, G, "persist", 0)?;
                } else {
                    self.tell_at(cx, G, "expire", 0)?;
                }
            }
            "setrange" if self.wrote(cx) => self.tell_at(cx, S, "setrange", 0)?,
            "setbit" => {
                let old = if self.counted(cx) == 0 { &b"0"[..] } else { b"1" };
                let grown = length(cx)? > self.sizes.first().copied().flatten();
                if grown || cx.args[3] != old {
                    self.tell_at(cx, S, "setbit", 0)?;
                }
            }
            "bitfield" if self.wrote(cx) => self.tell_at(cx, S, "setbit", 0)?,
            "del" | "unlink" => {
                let mut told: Vec<&Key> = Vec::new();
                for (at, key) in cx.keys.iter().enumerate() {
                    if self.existed[at] && !told.contains(&key) {
                        self.tell(cx, G, "del", key);
                        told.push(key);
                    }
                }
            }
            "expire" | "pexpire" | "expireat" | "pexpireat" if self.counted(cx) > 0 => {
                let name = if there(cx, 0)? { "expire" } else { "del" };
                self.tell(cx, G, name, cx.key(0));
            }
            "rename" | "renamenx"
                if (command.name == "rename" || self.counted(cx) > 0) && cx.key(0) != cx.key(1) =>
            {
                // What was there is gone before.
                self.tell(cx, Classes::NEW, "new", cx.key(1));
                self.tell(cx, G, "rename_from", cx.key(0));
                self.tell(cx, G, "rename_to", cx.key(1));
            }
            "copy" if self.counted(cx) > 0 => {
                self.tell(cx, Classes::NEW, "new", cx.key(1));
                self.tell(cx, G, "copy_to", cx.key(1));
            }
            "lmove" | "blmove" | "rpoplpush" | "brpoplpush" if self.answered(cx) => {
                let side = |at: usize| cx.args.get(at).is_some_and(|side| is(side, "left"));
                let ends = command.name.ends_with("lmove");
                let (from_left, to_left) = if ends { (side(3), side(4)) } else { (false, true) };
                self.tell_at(cx, L, if to_left { "lpush" } else { "rpush" }, 1)?;
                self.tell_at(cx, L, if from_left { "lpop" } else { "rpop" }, 0)?;
                self.tell_if_gone(cx, 0)?;
            }
            "blpop" | "brpop" | "bzpopmin" | "bzpopmax" | "lmpop" | "blmpop" | "zmpop" | "bzmpop"
                if self.answered(cx) =>
            {
                self.tell_popped(cx, command)?;
            }
            "smove" if self.counted(cx) > 0 && cx.key(0) != cx.key(1) => {
                self.tell_at(cx, SET, "srem", 0)?;
                self.tell_if_gone(cx, 0)?;
                self.tell_at(cx, SET, "sadd", 1)?;
            }
            "zadd" | "geoadd" if self.wrote(cx) => {
                let incr = command.name == "zadd" && cx.args[2..].iter().any(|arg| is(arg, "incr"));
                self.tell_at(cx, Z, if incr { "zincr" } else { "zadd" }, 0)?;
            }
            "xgroup|delconsumer" if self.sizes.first().copied().flatten().is_some() => {
                self.tell_at(cx, T, "xgroup-delconsumer", 0)?;
            }
            "xadd" if self.answered(cx) => {
                self.tell_at(cx, T, "xadd", 0)?;
                let before = self.sizes.first().copied().flatten().unwrap_or(0);
                if streams::length(cx)?.is_some_and(|length| length < before + 1) {
                    self.tell_at(cx, T, "xtrim", 0)?;
                }
            }
            "xreadgroup" | "xclaim" | "xautoclaim" => {
                let after = streams::consumers(cx, 2)?;
                for (at, key) in cx.keys.iter().enumerate() {
                    if !cx.keys[..at].contains(key)
                        && self.sizes.get(at).copied().flatten().is_none()
                        && after.get(at).copied().flatten().is_some()
                    {
                        self.tell_at(cx, T, "xgroup-createconsumer", at)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A command that takes from the first of its keys that has something.
    fn tell_popped(&self, cx: &mut Cx<'_>, command: &Command) -> Result<(), Fail> {
        let side = |first: &str| cx.args.iter().rev().take(3).any(|arg| is(arg, first));
        let (class, name) = match command.name {
            "blpop" => (L, "lpop"),
            "brpop" => (L, "rpop"),
            "bzpopmin" => (Z, "zpopmin"),
            "bzpopmax" => (Z, "zpopmax"),
            "lmpop" | "blmpop" => (L, if side("left") { "lpop" } else { "rpop" }),
            _ => (Z, if side("min") { "zpopmin" } else { "zpopmax" }),
        };
        let Some(at) = self.existed.iter().position(|existed| *existed) else { return Ok(()) };
        self.tell_at(cx, class, name, at)?;
        self.tell_if_gone(cx, at)
    }

    /// Reads that found no key.
    fn tell_of_misses(&self, cx: &mut Cx<'_>, command: &Command) {
        let reads = command.flags.has(Flags::READONLY) || matches!(command.name, "getdel" | "getex");
        if !reads || !self.classes.has(Classes::MISS) || command.name.contains('|') {
            return;
        }
        for (key, _) in cx.keys.iter().zip(&self.existed).filter(|(_, existed)| !**existed) {
            self.tell(cx, Classes::MISS, "keymiss", key);
        }
    }
}

/// The length of the string at the command's first key.
fn length(cx: &mut Cx<'_>) -> Result<Option<u64>, Fail> {
    Ok(cx.tx.read(&cx.keys[0], |value| value.payload.len() as u64)?)
}

fn there(cx: &mut Cx<'_>, at: usize) -> Result<bool, Fail> {
    Ok(cx.tx.read(&cx.keys[at], |_| ())?.is_some())
}

#[cfg(test)]
mod tests {
    use crate::resp::Proto;
    use crate::testing::Bench;

    /// The events that commands told, each as `event key`.
    fn events(bench: &mut Bench, listener: &mut Bench, lines: &str) -> Vec<String> {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let reply = bench.run(line);
            assert!(!reply.starts_with('-'), "{line}: {reply}");
        }
        let told = listener.session.mailbox(Proto::Resp2).take();
        let told = String::from_utf8(told).expect("text").replace("\r\n", " ");
        let event = |message: &str| {
            let words: Vec<&str> = message.split(' ').collect();
            let name = words.get(5)?.strip_prefix("__keyevent@0__:")?;
            Some(format!("{name} {}", words.get(7)?))
        };
        told.split("*4 ").filter_map(event).collect()
    }

    #[test]
    fn commands_tell_in_redis_names_what_they_did() {
        let mut bench = Bench::new();
        let mut listener = bench.beside();
        listener.run("psubscribe __key*");
        assert!(events(&mut bench, &mut listener, "set quiet v").is_empty());
        bench.run("config set notify-keyspace-events EAn");
        let told = events(
            &mut bench,
            &mut listener,
            "set k v ex 100
             set k v nx
             incr n
             del k nosuch n
             rpush l a b
             lmove l m left right
             lpop l
             sadd s a
             srem s nosuch
             srem s a
             hset h f v
             hdel h f
             zadd z 1 a
             zadd z 1 a
             zunionstore y 1 z
             zunionstore y 1 nosuch
             rename z w
             expire w 100
             persist w
             multi
             incr n
             set m2 1
             exec
             eval \"redis.call('incr', KEYS[1]) return redis.pcall('lpush', KEYS[1], 'x')['err']\" 1 n",
        );
        assert_eq!(
            told,
            [
                "new k",
                "set k",
                "expire k",
                "new n",
                "incrby n",
                "del k",
                "del n",
                "new l",
                "rpush l",
                "new m",
                "rpush m",
                "lpop l",
                "lpop l",
                "del l",
                "new s",
                "sadd s",
                "srem s",
                "del s",
                "new h",
                "hset h",
                "hdel h",
                "del h",
                "new z",
                "zadd z",
                "new y",
                "zunionstore y",
                "del y",
                "new w",
                "rename_from z",
                "rename_to w",
                "expire w",
                "persist w",
                "new n",
                "incrby n",
                "new m2",
                "set m2",
                "incrby n",
            ]
        );
        bench.run("config set notify-keyspace-events Em");
        assert_eq!(
            events(&mut bench, &mut listener, "get nosuch\nget m2\nmget a b"),
            ["keymiss nosuch", "keymiss a", "keymiss b"]
        );
    }
}
