//! HELP of the commands that have second words: `CLIENT HELP`.

use crate::cx::Fail;
use crate::session::SessionCx;
use crate::table::{self, Command, Flags, Group};

use super::syntax;

/// The row of a command's HELP.
#[must_use]
pub fn help_row(family: &Command) -> Command {
    // The table is built once and lives as long as the process.
    let name = String::leak(format!("{}|help", family.name));
    let flags = if family.flags.has(Flags::NO_AUTH) { Flags::NO_AUTH } else { Flags::NONE };
    Group(family.group).session(name, 2, flags, family.since, "Tells of the second words.", help)
}

fn help(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let family = table::find(cx.arg(0)).ok_or_else(|| Fail::error("ERR there is no such command"))?;
    cx.reply.array(1 + family.subs.len() * 2);
    let name = family.name.to_ascii_uppercase();
    cx.reply.simple(&format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    for sub in family.subs {
        let words =
            format!("{} {}", sub.word().to_ascii_uppercase(), syntax::of(sub.name).unwrap_or_default());
        cx.reply.simple(words.trim_end());
        cx.reply.simple(&format!("    {}", sub.summary));
    }
    Ok(())
}
