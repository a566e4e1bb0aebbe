//! COMMAND: what commands there are, as clients ask for it.

use bytes::Bytes;

use super::sub::{Sub, dispatch};
use crate::cx::{Fail, is};
use crate::glob;
use crate::resp::ReplyWriter;
use crate::session::SessionCx;
use crate::table::{self, Command, Flags, Keys, Run};

/// See the file's head.
pub const COMMANDS: &[Command] = &[Command {
    name: "command",
    arity: -1,
    flags: Flags::NONE,
    keys: Keys::None,
    group: "server",
    since: "2.8.13",
    summary: "Tells of the commands.",
    run: Run::Session(command),
}];

const SUBS: &[Sub] = &[
    Sub { name: "count", arity: 2, summary: "Counts the commands.", run: count },
    Sub { name: "list", arity: -2, summary: "Names the commands [FILTERBY PATTERN pattern].", run: list },
    Sub { name: "info", arity: -2, summary: "Tells how commands are called.", run: info },
    Sub { name: "docs", arity: -2, summary: "Tells what commands do.", run: docs },
    Sub { name: "getkeys", arity: -4, summary: "Finds the keys in a command.", run: getkeys },
];

fn command(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    if cx.args.len() == 1 {
        cx.reply.array(table::all().len());
        table::all().iter().for_each(|command| describe(cx.reply, command));
        return Ok(());
    }
    dispatch(cx, "command", SUBS)
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
    let names: Vec<Bytes> = table::all()
        .iter()
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
        names => names.iter().map(|name| table::find(name)).collect(),
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
    for command in commands {
        cx.reply.bulk(command.name.as_bytes());
        cx.reply.map(3);
        for (name, text) in [("summary", command.summary), ("since", command.since), ("group", command.group)]
        {
            cx.reply.bulk(name.as_bytes());
            cx.reply.bulk(text.as_bytes());
        }
    }
    Ok(())
}

fn getkeys(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let args = &cx.args[2..];
    let command = table::find(args[0]).ok_or_else(|| Fail::error("ERR Invalid command specified"))?;
    if matches!(command.keys, Keys::None) {
        return Err(Fail::error("ERR The command has no key arguments"));
    }
    if !command.takes(args.len()) {
        return Err(Fail::error("ERR Invalid number of arguments specified for command"));
    }
    let mut positions = Vec::new();
    command.keys.positions(args, &mut positions);
    if positions.is_empty() {
        return Err(Fail::error("ERR Invalid arguments specified for command"));
    }
    cx.reply.array(positions.len());
    positions.iter().for_each(|&at| cx.reply.bulk(args[at]));
    Ok(())
}

/// The ten values that COMMAND INFO gives of a command.
fn describe(reply: &mut ReplyWriter, command: &Command) {
    let flags = flags(command);
    let categories = categories(command);
    let (first, last, step) = match command.keys {
        Keys::None => (0, 0, 0),
        Keys::Range { first, last, step } => (first, last, step),
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
    // Tips, key specifications, subcommands: clients that use them fall back on the positions above.
    reply.array(0);
    reply.array(0);
    reply.array(0);
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
            "*2 *10 $3 get :2 *2 +readonly +fast :1 :1 :1 *3 +@string +@read +@fast *0 *0 *0 *-1"
        );
        assert!(bench.run("command docs get").starts_with("*2 $3 get *6 $7 summary $"));
        bench.check(
            "command getkeys mset a 1 b 2    -> *2 $1 a $1 b
             command getkeys ping a          -> -ERR The command has no key arguments
             command getkeys nosuch a        -> -ERR Invalid command specified
             command getkeys mset a          -> -ERR Invalid number of arguments specified for command
             command getkeys get             -> -ERR wrong number of arguments for 'command|getkeys' command
             command list filterby pattern GETR* -> *1 $8 getrange
             command list foo                -> -ERR syntax error",
        );
        assert!(bench.run("command").starts_with(&format!("*{} *10 ", table::all().len())));
    }
}
