//! PING, ECHO, QUIT, SELECT: the connection itself.

use crate::cx::{Fail, integer};
use crate::node::Profile;
use crate::session::SessionCx;
use crate::table::{Command, Flags, Keys, Run};

/// See the file's head.
pub const COMMANDS: &[Command] = &[
    command("ping", -1, "1.0.0", "Tells that the node is there, or gives the argument back.", ping),
    command("echo", 2, "1.0.0", "Gives the argument back.", echo),
    command("quit", -1, "1.0.0", "Closes the connection.", quit),
    command("select", 2, "1.0.0", "Selects the database.", select),
];

const fn command(
    name: &'static str,
    arity: i32,
    since: &'static str,
    summary: &'static str,
    run: fn(&mut SessionCx<'_>) -> Result<(), Fail>,
) -> Command {
    Command {
        name,
        arity,
        flags: Flags::FAST,
        keys: Keys::None,
        group: "connection",
        since,
        summary,
        run: Run::Session(run),
    }
}

fn ping(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    match cx.args {
        [_] => cx.reply.simple("PONG"),
        [_, message] => cx.reply.bulk(message),
        _ => return Err(Fail::arity("ping")),
    }
    Ok(())
}

fn echo(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    cx.reply.bulk(&cx.args[1]);
    Ok(())
}

fn quit(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    cx.session.closing = true;
    cx.reply.ok();
    Ok(())
}

fn select(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let databases = match cx.node.profile {
        Profile::Codis => 16,
        Profile::Standalone => 1,
    };
    match u8::try_from(integer(&cx.args[1]).map_err(|_| Fail::error("ERR invalid DB index"))?) {
        Ok(db) if db < databases => {
            cx.session.db = db;
            cx.session.client.about().db = db;
            cx.reply.ok();
            Ok(())
        }
        _ => Err(Fail::error("ERR DB index is out of range")),
    }
}
