//! COMMAND: what commands there are, as clients ask for it.

use bytes::Bytes;

use super::syntax::{self, Argument, Form};
use super::walk;
use crate::cx::{Fail, is};
use crate::glob;
use crate::resp::ReplyWriter;
use crate::scripting::machine;
use crate::session::SessionCx;
use crate::table::{self, Command, Flags, Group, Keys, Run, Unfit};

const T: Group = Group("server");

/// See the file's head.
pub const COMMANDS: &[Command] = &[Command {
    subs: SUBS,
    ..T.session("command", -1, Flags::NONE, "2.8.13", "Tells of the commands.", command)
}];

const SUBS: &[Command] = &[
    T.session("command|count", 2, Flags::NONE, "2.8.13", "Counts the commands.", count),
    T.session(
        "command|list",
        -2,
        Flags::NONE,
        "7.0.0",
        "Names the commands [FILTERBY PATTERN pattern].",
        list,
    ),
    T.session("command|info", -2, Flags::NONE, "2.8.13", "Tells how commands are called.", info),
    T.session("command|docs", -2, Flags::NONE, "7.0.0", "Tells what commands do.", docs),
    T.session("command|getkeys", -4, Flags::NONE, "2.8.13", "Finds the keys in a command.", getkeys),
    T.session(
        "command|getkeysandflags",
        -4,
        Flags::NONE,
        "7.0.0",
        "Finds the keys in a command, and what it does to them.",
        getkeysandflags,
    ),
];

fn command(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    cx.reply.array(table::all().len());
    table::all().iter().for_each(|command| describe(cx.reply, command));
    Ok(())
}

fn count(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    cx.reply.count(table::all().len());
    Ok(())
}

fn list(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let filter: Box<dyn Fn(&Command) -> bool> = match &cx.args[2..] {
        [] => Box::new(|_| true),
        [by, what, value] if is(by, "filterby") => {
            if is(what, "pattern") {
                Box::new(|command| glob::matches_any_case(value, command.name.as_bytes()))
            } else if is(what, "aclcat") {
                Box::new(|command| categories(command).iter().any(|category| is(value, &category[1..])))
            } else if is(what, "module") {
                Box::new(|_| false)
            } else {
                return Err(Fail::syntax());
            }
        }
        _ => return Err(Fail::syntax()),
    };
    let names: Vec<Bytes> = table::every()
        .filter(|command| filter(command))
        .map(|command| Bytes::from_static(command.name.as_bytes()))
        .collect();
    cx.reply.bulks(names.iter());
    Ok(())
}

/// The commands that are named from the third argument on, or all.
fn named(args: &[&[u8]]) -> Vec<Option<&'static Command>> {
    match &args[2..] {
        [] => table::all().iter().map(|command| Some(*command)).collect(),
        names => names.iter().map(|name| table::named(name)).collect(),
    }
}

fn info(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let commands = named(cx.args);
    cx.reply.array(commands.len());
    for command in commands {
        match command {
            Some(command) => describe(cx.reply, command),
            None => cx.reply.null_array(),
        }
    }
    Ok(())
}

fn docs(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let commands: Vec<&Command> = named(cx.args).into_iter().flatten().collect();
    cx.reply.map(commands.len());
    commands.into_iter().for_each(|command| document(cx.reply, command));
    Ok(())
}

/// The name of a command, and what COMMAND DOCS tells of it.
fn document(reply: &mut ReplyWriter, command: &Command) {
    let arguments = syntax::of(command.name).and_then(syntax::arguments).unwrap_or_default();
    let parts = 3 + usize::from(!arguments.is_empty()) + usize::from(!command.subs.is_empty());
    reply.bulk(command.name.as_bytes());
    reply.map(parts);
    for (name, text) in [("summary", command.summary), ("since", command.since), ("group", command.group)] {
        reply.bulk(name.as_bytes());
        reply.bulk(text.as_bytes());
    }
    if !arguments.is_empty() {
        reply.bulk(b"arguments");
        tell_arguments(reply, &arguments);
    }
    if !command.subs.is_empty() {
        reply.bulk(b"subcommands");
        reply.map(command.subs.len());
        command.subs.iter().for_each(|sub| document(reply, sub));
    }
}

fn tell_arguments(reply: &mut ReplyWriter, arguments: &[Argument]) {
    reply.array(arguments.len());
    for Argument { name, token, form, optional, multiple } in arguments {
        let (kind, of) = match form {
            Form::Value(kind) => (*kind, None),
            Form::Word => ("pure-token", None),
            Form::OneOf(of) => ("oneof", Some(of)),
            Form::Block(of) => ("block", Some(of)),
        };
        let mut flags: Vec<&str> = Vec::new();
        flags.extend(optional.then_some("optional"));
        flags.extend(multiple.then_some("multiple"));
        flags.extend((*multiple && token.is_some()).then_some("multiple_token"));
        let parts = [token.is_some(), !flags.is_empty(), of.is_some()];
        reply.map(2 + parts.into_iter().filter(|there| *there).count());
        for (part, text) in [("name", Some(name.as_str())), ("type", Some(kind)), ("token", token.as_deref())]
        {
            if let Some(text) = text {
                reply.bulk(part.as_bytes());
                reply.bulk(text.as_bytes());
            }
        }
        if !flags.is_empty() {
            reply.bulk(b"flags");
            reply.set(flags.len());
            flags.iter().for_each(|flag| reply.simple(flag));
        }
        if let Some(of) = of {
            reply.bulk(b"arguments");
            tell_arguments(reply, of);
        }
    }
}

/// The command that the arguments from the third on are, and where its keys stand.
fn keys_of<'a>(args: &'a [&'a [u8]]) -> Result<(&'static Command, Vec<&'a [u8]>), Fail> {
    let args = &args[2..];
    let command = match table::resolve(args) {
        Ok(command) => command,
        Err(Unfit::Arity(name))
            if table::named(name.as_bytes()).is_some_and(|command| !has_keys(command)) =>
        {
            return Err(Fail::error("ERR The command has no key arguments"));
        }
        Err(Unfit::Arity(_)) => {
            return Err(Fail::error("ERR Invalid number of arguments specified for command"));
        }
        Err(Unfit::Unknown | Unfit::UnknownSub(_)) => {
            return Err(Fail::error("ERR Invalid command specified"));
        }
    };
    if !has_keys(command) {
        return Err(Fail::error("ERR The command has no key arguments"));
    }
    let mut positions = Vec::new();
    command.keys.positions(args, &mut positions);
    // A script may have none.
    if positions.is_empty() && !(command.group == super::scripting::GROUP && args.get(2) == Some(&&b"0"[..]))
    {
        return Err(Fail::error("ERR Invalid arguments specified for command"));
    }
    Ok((command, positions.into_iter().map(|at| args[at]).collect()))
}

fn has_keys(command: &Command) -> bool {
    !matches!(command.keys, Keys::None)
}

fn getkeys(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let (_, keys) = keys_of(cx.args)?;
    cx.reply.array(keys.len());
    keys.iter().for_each(|key| cx.reply.bulk(key));
    Ok(())
}

fn getkeysandflags(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let (command, keys) = keys_of(cx.args)?;
    cx.reply.array(keys.len());
    for key in keys {
        cx.reply.array(2);
        cx.reply.bulk(key);
        let flags = key_flags(command, cx.args);
        cx.reply.set(flags.len());
        flags.iter().for_each(|flag| cx.reply.simple(flag));
    }
    Ok(())
}

/// What a command does to its keys, as far as its row tells.
fn key_flags(command: &Command, args: &[&[u8]]) -> [&'static str; 2] {
    let gives_old = args.iter().any(|arg| is(arg, "get"));
    if matches!(command.name, "mset" | "setex" | "psetex") || command.name == "set" && !gives_old {
        return ["OW", "update"];
    }
    if command.flags.has(Flags::WRITE) { ["RW", "update"] } else { ["RO", "access"] }
}

/// Commands with no key at a fixed place.
const NUMBERED: [&str; 17] = [
    "blmpop",
    "bzmpop",
    "eval",
    "eval_ro",
    "evalsha",
    "evalsha_ro",
    "fcall",
    "fcall_ro",
    "lmpop",
    "sintercard",
    "xread",
    "xreadgroup",
    "zdiff",
    "zinter",
    "zintercard",
    "zmpop",
    "zunion",
];

/// Commands on data that may wait for others' writes; those up to `bzpopmax` are refused in scripts, the others don't wait there.
const BLOCKING: [&str; 10] = [
    "blmove",
    "blpop",
    "brpop",
    "brpoplpush",
    "bzpopmin",
    "bzpopmax",
    "blmpop",
    "bzmpop",
    "xread",
    "xreadgroup",
];

/// Whether no script may call it.
fn is_kept_from_scripts(command: &Command) -> bool {
    match command.run {
        Run::Data(_) => command.group == super::scripting::GROUP || BLOCKING[..6].contains(&command.name),
        _ => !walk::is_for_scripts(command) && !machine::is_plain(command),
    }
}

/// The ten values that COMMAND INFO gives of a command.
fn describe(reply: &mut ReplyWriter, command: &Command) {
    let flags = flags(command);
    let categories = categories(command);
    let (first, last, step) = match command.keys {
        Keys::None => (0, 0, 0),
        Keys::Range { first, last, step } => (first, last, step),
        Keys::Custom(_) if NUMBERED.contains(&command.name) => (0, 0, 0),
        Keys::Custom(_) => (1, 1, 1),
    };
    reply.array(10);
    reply.bulk(command.name.as_bytes());
    reply.integer(i64::from(command.arity));
    reply.set(flags.len());
    flags.iter().for_each(|flag| reply.simple(flag));
    reply.count(first);
    reply.integer(i64::try_from(last).unwrap_or(i64::MAX));
    reply.count(step);
    reply.set(categories.len());
    categories.iter().for_each(|category| reply.simple(category));
    // No tips.
    reply.array(0);
    specifications(reply, command);
    reply.array(command.subs.len());
    command.subs.iter().for_each(|sub| describe(reply, sub));
}

/// Where the keys are, in the form that Redis has for it since 7.0. Where the arguments decide, COMMAND GETKEYS tells.
fn specifications(reply: &mut ReplyWriter, command: &Command) {
    let field = |reply: &mut ReplyWriter, name: &str, value: i64| {
        reply.bulk(name.as_bytes());
        reply.integer(value);
    };
    let (first, last, step) = match command.keys {
        Keys::None => return reply.array(0),
        Keys::Range { first, last, step } => (first, last, step),
        Keys::Custom(_) => (0, 0, 0),
    };
    let integer = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
    reply.array(1);
    reply.map(3);
    reply.bulk(b"flags");
    let flags = key_flags(command, &[]);
    reply.set(flags.len());
    flags.iter().for_each(|flag| reply.simple(flag));
    for part in ["begin_search", "find_keys"] {
        reply.bulk(part.as_bytes());
        reply.map(2);
        reply.bulk(b"type");
        reply.bulk(match (step, part) {
            (0, _) => b"unknown",
            (_, "begin_search") => b"index",
            _ => b"range",
        });
        reply.bulk(b"spec");
        match (step, part) {
            (0, _) => reply.map(0),
            (_, "begin_search") => {
                reply.map(1);
                field(reply, "index", integer(first));
            }
            _ => {
                reply.map(3);
                let last = i64::try_from(last).unwrap_or(i64::MAX);
                // From the first on, unless it counts from the end.
                field(reply, "lastkey", if last < 0 { last } else { last - integer(first) });
                field(reply, "keystep", integer(step));
                field(reply, "limit", 0);
            }
        }
    }
}

fn flags(command: &Command) -> Vec<&'static str> {
    let mut names: Vec<&str> = [
        (Flags::WRITE, "write"),
        (Flags::READONLY, "readonly"),
        (Flags::ADMIN, "admin"),
        (Flags::FAST, "fast"),
        (Flags::NO_AUTH, "no_auth"),
        (Flags::NO_MULTI, "no_multi"),
    ]
    .into_iter()
    .filter(|(flag, _)| command.flags.has(*flag))
    .map(|(_, name)| name)
    .collect();
    if matches!(command.keys, Keys::Custom(_)) {
        names.push("movablekeys");
    }
    if is_kept_from_scripts(command) {
        names.push("noscript");
    }
    if BLOCKING.contains(&command.name) {
        names.push("blocking");
    }
    names
}

/// The categories of a command, each with its sign.
pub fn categories(command: &Command) -> Vec<&'static str> {
    let mut names = vec![match command.group {
        "string" => "@string",
        "bitmap" => "@bitmap",
        "hash" => "@hash",
        "list" => "@list",
        "set" => "@set",
        "sorted-set" => "@sortedset",
        "generic" => "@keyspace",
        "geo" => "@geo",
        "hyperloglog" => "@hyperloglog",
        "stream" => "@stream",
        "pubsub" => "@pubsub",
        "transactions" => "@transaction",
        "scripting" => "@scripting",
        "connection" => "@connection",
        _ => "@admin",
    }];
    if command.flags.has(Flags::WRITE) {
        names.push("@write");
    }
    if command.flags.has(Flags::READONLY) {
        names.push("@read");
    }
    if command.flags.has(Flags::DANGEROUS) || command.flags.has(Flags::ADMIN) {
        names.push("@dangerous");
    }
    if BLOCKING.contains(&command.name) {
        names.push("@blocking");
    }
    names.push(if command.flags.has(Flags::FAST) { "@fast" } else { "@slow" });
    names
}

#[cfg(test)]
mod tests {
    use crate::table;
    use crate::testing::Bench;

    #[test]
    fn commands_are_told_of_as_clients_expect() {
        let mut bench = Bench::new();
        assert_eq!(bench.run("command count"), format!(":{}", table::all().len()));
        assert_eq!(
            bench.run("command info GET nosuch"),
            "*2 *10 $3 get :2 *2 +readonly +fast :1 :1 :1 *3 +@string +@read +@fast *0 *1 *6 $5 flags *2 +RO +access \
             $12 begin_search *4 $4 type $5 index $4 spec *2 $5 index :1 \
             $9 find_keys *4 $4 type $5 range $4 spec *6 $7 lastkey :0 $7 keystep :1 $5 limit :0 *0 *-1"
        );
        assert!(bench.run("command docs get").starts_with("*2 $3 get *8 $7 summary $"));
        let docs = bench.run("command docs set config");
        for part in [
            "$9 arguments *5 *4 $4 name $3 key $4 type $3 key *4 $4 name $5 value",
            "*6 $4 name $2 nx $4 type $10 pure-token $5 token $2 NX",
            "*6 $4 name $7 seconds $4 type $7 integer $5 token $2 EX",
            "$11 subcommands *10 $10 config|get *8 ",
        ] {
            assert!(docs.contains(part), "{part} in {docs}");
        }
        assert!(bench.run("command info client|kill").starts_with("*1 *10 $11 client|kill :-3 *2 +admin"));
        bench.check(
            "command getkeys mset a 1 b 2    -> *2 $1 a $1 b
             command getkeys ping a          -> -ERR The command has no key arguments
             command getkeys nosuch a        -> -ERR Invalid command specified
             command getkeys mset a          -> -ERR Invalid number of arguments specified for command
             command getkeys get             -> -ERR wrong number of arguments for 'command|getkeys' command
             command getkeys set a           -> -ERR Invalid number of arguments specified for command
             command getkeysandflags lpush l a -> *1 *2 $1 l *2 +RW +update
             command getkeys client list     -> -ERR The command has no key arguments
             command getkeys object encoding k -> *1 $1 k
             command list filterby pattern GETR* -> *1 $8 getrange
             command list foo                -> -ERR syntax error",
        );
        assert!(bench.run("command").starts_with(&format!("*{} *10 ", table::all().len())));
    }
}
