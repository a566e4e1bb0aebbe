//! `docs/COMMANDS.md`, made of the table of commands: `haypile commands` prints it, a test holds the file to it.

use std::fmt::Write;

use super::syntax;
use crate::table::{self, Command, Stand};

const HEAD: &str = "\
# Commands

All commands of this node, made of its table by `haypile commands`. Redis is Redis 7.0.15: each of its commands is here,
supported or refused on purpose. Where the last column is empty a command does and answers what Redis' does; else it says
how it **differs**, why it is **refused** and what to use instead, or that it is Haypile's **own**.

What holds for all commands:

- The keys are spread over 1024 slots, each a master's or a replica's here or not on this node at all; a command on a slot
  that is not here says where it is. A command on keys of several slots of this node is atomic, in MULTI and scripts too.
- Only database 0 holds data. There is one user, `default`, whose password is the setting `requirepass`.
- Behind Codis (without `--standalone`) connections are shared among clients: RESP2 only, nothing waits (`BLPOP` answers at
  once), and `RESET`, `SSUBSCRIBE` and `SUNSUBSCRIBE` are refused.
- Nothing is evicted: data are on disk, `maxmemory` is the budget of what is kept in memory of them.
- What has expired is hidden at once, everywhere; the event `expired` comes when it is removed, within seconds.
- A read of more than 32,768 elements is made off the workers, of its slots as they were when it came, and its reply leaves piece by
  piece. 16 of these run at a time, others wait for a place. A client that takes nothing of such a reply for a minute, or that makes it
  wait for ten seconds in all while another one waits for a place, loses its connection.
- `RENAME` and `COPY` write a collection's elements anew, as they lie under their key's name: of more than 32,768 elements off the workers,
  while commands on the two keys' slots wait, and are answered `BUSY` after `lua-time-limit`; at most 1 GiB, as
  one record of the log, which holds other writes for some tenths of a second for each million of elements.

";

/// The groups in the order in which they are told, with their titles.
const GROUPS: [(&str, &str); 15] = [
    ("generic", "Keys"),
    ("string", "Strings"),
    ("bitmap", "Bits"),
    ("hash", "Hashes"),
    ("list", "Lists"),
    ("set", "Sets"),
    ("sorted-set", "Sorted sets"),
    ("hyperloglog", "HyperLogLogs"),
    ("geo", "Places"),
    ("stream", "Streams"),
    ("pubsub", "Channels"),
    ("transactions", "Transactions"),
    ("scripting", "Scripts and functions"),
    ("connection", "Connections"),
    ("server", "The node"),
];

/// The page.
#[must_use]
pub fn page() -> String {
    let mut out = HEAD.to_owned();
    let all: Vec<&Command> = table::all().to_vec();
    let rest = |command: &&&Command| GROUPS.iter().all(|(group, _)| *group != command.group);
    for (group, title) in GROUPS {
        section(&mut out, title, all.iter().filter(|command| command.group == group).copied());
    }
    section(&mut out, "Slots, Codis and Redis Cluster", all.iter().filter(rest).copied());
    let words = |stand: fn(&Stand) -> bool| {
        table::every().filter(|command| command.subs.is_empty() && stand(&command.stand)).count()
    };
    writeln!(
        out,
        "{} commands and second words: {} as in Redis, {} that differ, {} refused, {} of our own.",
        words(|_| true),
        words(|stand| *stand == Stand::Same),
        words(|stand| matches!(stand, Stand::Differs(_))),
        words(|stand| matches!(stand, Stand::Refused(_))),
        words(|stand| *stand == Stand::Own),
    )
    .expect("a string takes everything");
    out
}

fn section<'a>(out: &mut String, title: &str, commands: impl Iterator<Item = &'a Command>) {
    writeln!(out, "## {title}\n\n| command | what it does | beside Redis |\n|---|---|---|")
        .expect("a string takes everything");
    for command in commands {
        if command.subs.is_empty()
            || !matches!(command.run, table::Run::Family)
            || command.stand != Stand::Same
        {
            row(out, command);
        }
        command.subs.iter().filter(|sub| sub.word() != "help").for_each(|sub| row(out, sub));
    }
    out.push('\n');
}

fn row(out: &mut String, command: &Command) {
    let name = command.name.to_ascii_uppercase().replace('|', " ");
    let syntax = syntax::of(command.name).unwrap_or_default().replace('|', "\\|");
    let usage = format!("{name} {syntax}");
    let beside = match command.stand {
        Stand::Same => String::new(),
        Stand::Differs(how) => format!("**differs:** {how}"),
        Stand::Refused(words) => format!("**refused:** {}", words.strip_prefix("ERR ").unwrap_or(words)),
        Stand::Own => "**own**".to_owned(),
    };
    let summary = if beside.starts_with("**refused") { "" } else { command.summary };
    writeln!(out, "| `{}` | {summary} | {beside} |", usage.trim_end()).expect("a string takes everything");
}
