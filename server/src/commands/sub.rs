//! Commands that are families of their own: `CLIENT LIST`, `CONFIG GET`.

use crate::cx::Fail;
use crate::session::SessionCx;

/// A command's second word.
pub struct Sub {
    /// The word, in lower case.
    pub name: &'static str,
    /// The number of arguments with both words; if negative, at least so many.
    pub arity: i32,
    /// What it does, in one line.
    pub summary: &'static str,
    /// Runs it.
    pub run: fn(&mut SessionCx<'_>) -> Result<(), Fail>,
}

/// Runs the subcommand that the second argument names.
///
/// # Errors
/// In Redis' words if there is none, or what it answers.
pub fn dispatch(cx: &mut SessionCx<'_>, command: &str, subs: &[Sub]) -> Result<(), Fail> {
    let name = cx.arg(1);
    if name.eq_ignore_ascii_case(b"help") {
        return help(cx, command, subs);
    }
    let sub = subs.iter().find(|sub| sub.name.as_bytes().eq_ignore_ascii_case(name)).ok_or_else(|| {
        let name = String::from_utf8_lossy(&name[..name.len().min(128)]).into_owned();
        Fail::error(format!("ERR unknown subcommand '{name}'. Try {} HELP.", command.to_ascii_uppercase()))
    })?;
    let arity = usize::try_from(sub.arity.unsigned_abs()).unwrap_or(usize::MAX);
    let fits = if sub.arity >= 0 { cx.args.len() == arity } else { cx.args.len() >= arity };
    if !fits {
        return Err(Fail::arity(&format!("{command}|{}", sub.name)));
    }
    (sub.run)(cx)
}

fn help(cx: &mut SessionCx<'_>, command: &str, subs: &[Sub]) -> Result<(), Fail> {
    cx.reply.array(1 + subs.len() * 2);
    let title =
        format!("{} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:", command.to_ascii_uppercase());
    cx.reply.simple(&title);
    for sub in subs {
        cx.reply.simple(&sub.name.to_ascii_uppercase());
        cx.reply.simple(&format!("    {}", sub.summary));
    }
    Ok(())
}
