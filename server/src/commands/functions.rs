//! FUNCTION and FCALL: functions that a node keeps; see [`crate::scripting::functions`].

use bytes::Bytes;

use super::scripting::{GROUP, key_count};
use crate::cx::{Cx, Fail, is};
use crate::glob;
use crate::number;
use crate::rdb;
use crate::scripting::follow;
use crate::scripting::functions::{Library, Policy};
use crate::scripting::machine::{self, MayWrite};
use crate::session::SessionCx;
use crate::table::{Command, Flags, Group, Keys, Run, numbered_keys};

const KEYS: Keys = Keys::Custom(|args, positions| numbered_keys(args, 2, positions));

const T: Group = Group(GROUP);

const KEPT: &str = "a node's, whatever slots come and go: kept in its data folder and its checkpoints; a node that follows one \
    other with all its slots takes that one's, and refuses changes; load it on the master of every group";

const NODES: Flags =
    Flags::ADMIN.with(Flags::DANGEROUS).with(Flags::NO_MULTI).with(Flags::OPERATOR).with(Flags::HELD);

type Done = Result<(), Fail>;

/// See the file's head.
#[rustfmt::skip]
pub const COMMANDS: &[Command] = &[
    T.data("fcall", -3, Flags::WRITE, KEYS, "7.0.0", "Calls a function.", |cx| call(cx, MayWrite::Yes)).differs("holds slots as EVAL does"),
    T.data("fcall_ro", -3, Flags::READONLY, KEYS, "7.0.0", "Calls a function that only reads.", |cx| call(cx, MayWrite::No)),
    T.family("function", Flags::OPERATOR, "7.0.0", "Loads, lists, removes and carries over libraries of functions.", SUBS),
    Group("cluster").row("haypile.functions", 2, NODES, Keys::None, "1.0.0", "Gives a replica that has others this node's libraries.",
        Run::Waiting(|_| Err(Fail::error("ERR it waits")), |cx| Box::pin(follow::tell(cx)))).own(),
];

#[rustfmt::skip]
const SUBS: &[Command] = &[
    T.session("function|delete", 3, Flags::OVER_SLOTS, "7.0.0", "Removes a library.", |cx| {
        follow::check_own(cx.node)?;
        if !cx.node.functions.remove(&*cx.node.fs, cx.arg(2))? {
            return Err(Fail::error("ERR Library not found"));
        }
        cx.reply.ok();
        Ok(())
    }).differs(KEPT),
    T.session("function|dump", 2, Flags::NONE, "7.0.0", "Gives all libraries in Redis' serialisation.", |cx| {
        let payload = cx.node.functions.dump();
        cx.reply.bulk(&payload);
        Ok(())
    }),
    T.session("function|flush", -2, Flags::OVER_SLOTS, "7.0.0", "Removes all libraries.", flush).differs(KEPT),
    T.session("function|kill", 2, Flags::NONE, "7.0.0", "Ends the functions that run; nothing of them is kept.", |cx| {
        if !cx.node.scripts.kill() {
            return Err(Fail::error("NOTBUSY No scripts in execution right now."));
        }
        cx.reply.ok();
        Ok(())
    }).differs("ends one that has written, too: nothing of it is kept"),
    T.session("function|list", -2, Flags::NONE, "7.0.0", "Tells of the libraries.", list),
    T.session("function|load", -3, Flags::OVER_SLOTS, "7.0.0", "Makes a library known.", load).differs(KEPT),
    T.session("function|restore", -3, Flags::OVER_SLOTS, "7.0.0", "Makes the libraries known that DUMP gave.", restore).differs(KEPT),
    T.session("function|stats", 2, Flags::NONE, "7.0.0", "Counts libraries and functions.", stats)
        .differs("running_script is null: several may run at once"),
];

fn call(cx: &mut Cx<'_>, may_write: MayWrite) -> Done {
    let found = cx.node.functions.find(cx.args[1]);
    let (library, function) = found.ok_or_else(|| Fail::error("ERR Function not found"))?;
    if number::integer(cx.args[2]).is_none() {
        return Err(Fail::error("ERR Bad number of keys provided"));
    }
    let keys = key_count(cx)?;
    if may_write == MayWrite::No && !function.promises_not_to_write() {
        return Err(Fail::error("ERR Can not execute a script with write flag using *_ro command."));
    }
    let may_write = if function.promises_not_to_write() { MayWrite::No } else { may_write };
    machine::call(cx, &library, &function.name, keys, may_write)
}

fn load(cx: &mut SessionCx<'_>) -> Done {
    let (replace, text) = match cx.args[2..] {
        [text] => (false, text),
        [option, text] if is(option, "replace") => (true, text),
        [option, _, ..] => {
            let option = String::from_utf8_lossy(option);
            return Err(Fail::error(format!("ERR Unknown option given: {option}")));
        }
        [] => return Err(Fail::arity("function|load")),
    };
    let library = machine::library(&Bytes::copy_from_slice(text))?;
    let name = library.name.clone();
    follow::check_own(cx.node)?;
    cx.node.functions.add(&*cx.node.fs, library, replace)?;
    cx.reply.bulk(name.as_bytes());
    Ok(())
}

fn flush(cx: &mut SessionCx<'_>) -> Done {
    match cx.args[2..] {
        [] => {}
        [how] if is(how, "sync") || is(how, "async") => {}
        _ => return Err(Fail::error("ERR FUNCTION FLUSH only supports SYNC|ASYNC option")),
    }
    follow::check_own(cx.node)?;
    cx.node.functions.clear(&*cx.node.fs)?;
    cx.reply.ok();
    Ok(())
}

fn restore(cx: &mut SessionCx<'_>) -> Done {
    let policy = match cx.args[3..] {
        [] => Policy::Append,
        [how] if is(how, "append") => Policy::Append,
        [how] if is(how, "flush") => Policy::Flush,
        [how] if is(how, "replace") => Policy::Replace,
        _ => {
            return Err(Fail::error(
                "ERR Wrong restore policy given, value should be either FLUSH, APPEND or REPLACE.",
            ));
        }
    };
    follow::check_own(cx.node)?;
    let texts = rdb::load_functions(&Bytes::copy_from_slice(cx.arg(2)))
        .map_err(|refused| Fail::error(format!("ERR {refused}")))?;
    let libraries = texts.iter().map(machine::library).collect::<Result<Vec<Library>, Fail>>()?;
    cx.node.functions.add_all(&*cx.node.fs, libraries, policy)?;
    cx.reply.ok();
    Ok(())
}

fn list(cx: &mut SessionCx<'_>) -> Done {
    let (mut pattern, mut with_code) = (None, false);
    let mut rest = cx.args[2..].iter();
    while let Some(arg) = rest.next() {
        if is(arg, "withcode") && !with_code {
            with_code = true;
        } else if is(arg, "libraryname") && pattern.is_none() {
            pattern =
                Some(rest.next().ok_or_else(|| Fail::error("ERR library name argument was not given"))?);
        } else {
            return Err(Fail::error(format!("ERR Unknown argument {}", String::from_utf8_lossy(arg))));
        }
    }
    let mut libraries = cx.node.functions.all();
    libraries.retain(|library| {
        pattern.is_none_or(|pattern| glob::matches_any_case(pattern, library.name.as_bytes()))
    });
    cx.reply.array(libraries.len());
    for library in libraries {
        cx.reply.map(3 + usize::from(with_code));
        cx.reply.bulk(b"library_name");
        cx.reply.bulk(library.name.as_bytes());
        cx.reply.bulk(b"engine");
        cx.reply.bulk(b"LUA");
        cx.reply.bulk(b"functions");
        cx.reply.array(library.functions.len());
        for function in &library.functions {
            cx.reply.map(3);
            cx.reply.bulk(b"name");
            cx.reply.bulk(function.name.as_bytes());
            cx.reply.bulk(b"description");
            cx.reply.bulk_or_null(function.description.as_deref().map(str::as_bytes));
            cx.reply.bulk(b"flags");
            cx.reply.set(function.flags.len());
            function.flags.iter().for_each(|flag| cx.reply.simple(flag));
        }
        if with_code {
            cx.reply.bulk(b"library_code");
            cx.reply.bulk(&library.text);
        }
    }
    Ok(())
}

fn stats(cx: &mut SessionCx<'_>) -> Done {
    let libraries = cx.node.functions.all();
    cx.reply.map(2);
    cx.reply.bulk(b"running_script");
    cx.reply.null();
    cx.reply.bulk(b"engines");
    cx.reply.map(1);
    cx.reply.bulk(b"LUA");
    cx.reply.map(2);
    cx.reply.bulk(b"libraries_count");
    cx.reply.count(libraries.len());
    cx.reply.bulk(b"functions_count");
    cx.reply.count(libraries.iter().map(|library| library.functions.len()).sum());
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    fn load(bench: &mut Bench, text: &str) -> String {
        String::from_utf8_lossy(&bench.run_raw(&["function", "load", text])).trim_end().replace("\r\n", " ")
    }

    const COUNTER: &str = "#!lua name=counter\n\
        local function add(keys, args) return redis.call('incrby', keys[1], args[1]) end\n\
        redis.register_function('add', add)\n\
        redis.register_function{function_name='look', callback=function(keys) return redis.call('get', keys[1]) end, \
        flags={'no-writes'}, description='Looks.'}";

    #[test]
    fn functions_are_loaded_called_told_of_and_removed() {
        let mut bench = Bench::new();
        assert_eq!(load(&mut bench, COUNTER), "$7 counter");
        assert_eq!(load(&mut bench, COUNTER), "-ERR Library 'counter' already exists");
        bench.check(
            "fcall add 1 n 5           -> :5
             fcall_ro look 1 n         -> $1 5
             fcall look 1 n            -> $1 5
             fcall_ro add 1 n 1        -> -ERR Can not execute a script with write flag using *_ro command.
             fcall nosuch 0            -> -ERR Function not found
             fcall add -1              -> -ERR Number of keys can't be negative
             fcall add 2 n             -> -ERR Number of keys can't be greater than number of args
             function stats            -> *4 $14 running_script $-1 $7 engines *2 $3 LUA *4 $15 libraries_count :1 $15 functions_count :2
             function delete nosuch    -> -ERR Library not found
             function kill             -> -NOTBUSY No scripts in execution right now.
             multi                     -> +OK
             fcall add 1 n 1           -> +QUEUED
             incr n                    -> +QUEUED
             exec                      -> *2 :6 :7",
        );
        let listed = bench.run("function list");
        assert!(listed.contains("$12 library_name $7 counter $6 engine $3 LUA $9 functions *2"), "{listed}");
        assert!(listed.contains("$4 look $11 description $6 Looks. $5 flags *1 +no-writes"), "{listed}");
        bench.check(
            "function delete counter   -> +OK
             fcall add 1 n 5           -> -ERR Function not found
             function list             -> *0",
        );
    }

    #[test]
    fn what_is_no_library_is_refused() {
        let mut bench = Bench::new();
        for (text, told) in [
            ("return 1", "-ERR Missing library metadata"),
            ("#!lua\nreturn 1", "-ERR Library name was not given"),
            ("#!js name=a\nx", "-ERR Engine 'js' not found"),
            ("#!lua name=a foo=b\nx", "-ERR Invalid metadata value given: foo=b"),
            ("#!lua name=a-b\nx", "-ERR Library names can only contain letters"),
            ("#!lua name=a\nreturn 1", "-ERR No functions registered"),
            ("#!lua name=a\nlocal x = ", "-ERR Error compiling function"),
            ("#!lua name=a\nredis.register_function('f')", "-ERR Error registering functions"),
            ("#!lua name=a\nredis.call('get', 'k')", "-ERR Error registering functions"),
            (
                "#!lua name=a\nredis.register_function('f', function() end) redis.register_function('f', function() end)",
                "-ERR Error registering functions",
            ),
        ] {
            let said = load(&mut bench, text);
            assert!(said.starts_with(told), "{text}: {said}");
        }
        bench.check("function list -> *0");
    }

    #[test]
    fn what_is_dumped_is_restored_and_kept_over_a_start() {
        let mut bench = Bench::new();
        load(&mut bench, COUNTER);
        let reply = bench.run_raw(&["function", "dump"]);
        let start = reply.iter().position(|byte| *byte == b'\n').expect("a bulk") + 1;
        let payload = &reply[start..reply.len() - 2];
        let restore = |bench: &mut Bench, policy: &[u8]| {
            let told = bench.run_raw(&[&b"function"[..], b"restore", payload, policy]);
            String::from_utf8_lossy(&told).trim_end().to_owned()
        };
        assert_eq!(restore(&mut bench, b"append"), "-ERR Library 'counter' already exists");
        assert_eq!(restore(&mut bench, b"replace"), "+OK");
        bench.check("function flush -> +OK");
        assert_eq!(restore(&mut bench, b"flush"), "+OK");
        bench.check(
            "function restore xxxxxxxxxxxxxxxx -> -ERR DUMP payload version or checksum are wrong
             fcall add 1 n 2                   -> :2",
        );
        let again = crate::scripting::functions::Functions::open(
            &*bench.node.fs,
            std::path::Path::new(&bench.node.config.now().dir),
            crate::scripting::machine::library,
        );
        assert_eq!(again.1, Ok(()));
        assert_eq!(again.0.all()[0].functions.len(), 2);
    }

    /// A master's answer that comes after a promotion, and after the client's own FUNCTION LOAD, must not take that back.
    #[test]
    fn another_nodes_libraries_do_not_replace_what_changed_since_they_were_asked_for() {
        let mut bench = Bench::new();
        let node = bench.node.clone();
        let take = |seen| {
            let payload = bytes::Bytes::from(node.functions.dump());
            node.functions.take(&*node.fs, &payload, crate::scripting::machine::library, "a", seen)
        };
        let seen = node.functions.changes().count();
        load(&mut bench, COUNTER);
        assert!(matches!(take(seen), Ok(false)));
        assert!(matches!(take(seen + 1), Ok(true)));
        assert_eq!(node.functions.all().len(), 1);
    }
}
