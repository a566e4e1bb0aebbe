//! CLIENT: who is connected, under what name, and how to end a connection.

use std::sync::Arc;

use crate::blocked::Answer;
use crate::clients::{Client, ClientKind, Usage};
use crate::cx::{Fail, is};
use crate::number;
use crate::pause::Paused;
use crate::session::{Mode, SessionCx};
use crate::table::{Command, Flags, Group};

const T: Group = Group("connection");

/// See the file's head.
pub const COMMANDS: &[Command] =
    &[T.family("client", Flags::ADMIN, "2.4.0", "Tells of connections, names them, ends them.", SUBS)];

#[rustfmt::skip]
const SUBS: &[Command] = &[
    T.session("client|id", 2, Flags::NONE, "5.0.0", "Gives this connection's number.", id),
    T.session("client|getname", 2, Flags::NONE, "2.6.9", "Gives this connection's name.", getname),
    T.session("client|setname", 3, Flags::NONE, "2.6.9", "Names this connection.", setname),
    T.session(
        "client|setinfo",
        4,
        Flags::NONE,
        "7.2.0",
        "Says which library is used: LIB-NAME or LIB-VER.",
        setinfo,
    ),
    T.session("client|info", 2, Flags::NONE, "6.2.0", "Tells of this connection.", info),
    T.session(
        "client|list",
        -2,
        Flags::ADMIN,
        "2.4.0",
        "Tells of all connections [TYPE type | ID id ...].",
        list,
    ),
    T.session("client|kill", -3, Flags::ADMIN, "2.4.0", "Ends connections: ip:port, or filters.", kill),
    T.session("client|caching", 3, Flags::NONE, "6.0.0", "Tells that there is no tracking.", |_| {
        Err(Fail::error("ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled"))
    }).differs("there is no tracking: always this error"),
    T.session("client|getredir", 2, Flags::NONE, "6.0.0", "-1: nothing is tracked.", |cx| {
        cx.reply.integer(-1);
        Ok(())
    }).differs("there is no tracking: always -1"),
    T.session("client|pause", -3, Flags::ADMIN, "2.9.50", "Lets commands wait for so many milliseconds: all, or those that write.", pause)
        .differs("UNPAUSE is never held back"),
    T.session("client|reply", 3, Flags::NONE, "3.2.0", "Says whether replies are wanted.", reply),
    T.session("client|tracking", -3, Flags::NONE, "6.0.0", "Refused, but for OFF: there is no tracking.", tracking)
        .differs("ON is refused: caches of clients are not told what changes; use keyspace notifications"),
    T.session("client|trackinginfo", 2, Flags::NONE, "6.2.0", "Tells that there is no tracking.", trackinginfo)
        .differs("there is no tracking: always off"),
    T.session("client|unpause", 2, Flags::ADMIN, "6.2.0", "Ends what PAUSE began.", |cx| {
        cx.node.pauses.end();
        cx.reply.ok();
        Ok(())
    }),
    T.session(
        "client|unblock",
        -3,
        Flags::ADMIN,
        "5.0.0",
        "Ends a client's wait: id [TIMEOUT | ERROR].",
        unblock,
    ),
    T.session(
        "client|no-evict",
        3,
        Flags::ADMIN,
        "7.0.0",
        "ON or OFF; no client is evicted here.",
        on_or_off,
    ),
    T.session("client|no-touch", 3, Flags::NONE, "7.2.0", "ON or OFF; reads leave no trace here.", on_or_off),
];

fn id(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    cx.reply.integer(i64::try_from(cx.session.client.id).unwrap_or(i64::MAX));
    Ok(())
}

fn getname(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let name = cx.session.client.about().name.clone();
    cx.reply.bulk_or_null(Some(name.as_bytes()).filter(|name| !name.is_empty()));
    Ok(())
}

fn setname(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let args = cx.args;
    set_name(cx, args[2])?;
    cx.reply.ok();
    Ok(())
}

/// Names the connection.
///
/// # Errors
/// In Redis' words if it is not such a name.
pub fn set_name(cx: &mut SessionCx<'_>, name: &[u8]) -> Result<(), Fail> {
    let name = printable(name).ok_or_else(|| {
        Fail::error("ERR Client names cannot contain spaces, newlines or special characters.")
    })?;
    cx.session.client.about().name = name;
    Ok(())
}

fn printable(text: &[u8]) -> Option<String> {
    text.iter().all(u8::is_ascii_graphic).then(|| String::from_utf8_lossy(text).into_owned())
}

fn setinfo(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let (option, value) = (cx.arg(2), cx.arg(3));
    let shown = String::from_utf8_lossy(option);
    let (is_name, is_version) = (is(option, "lib-name"), is(option, "lib-ver"));
    if !is_name && !is_version {
        return Err(Fail::error(format!("ERR Unrecognized option '{shown}'")));
    }
    let value = printable(value).ok_or_else(|| {
        Fail::error(format!("ERR {shown} cannot contain spaces, newlines or special characters."))
    })?;
    let mut about = cx.session.client.about();
    if is_name {
        about.library = value;
    } else {
        about.library_version = value;
    }
    drop(about);
    cx.reply.ok();
    Ok(())
}

fn on_or_off(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    if !is(cx.arg(2), "on") && !is(cx.arg(2), "off") {
        return Err(Fail::syntax());
    }
    cx.reply.ok();
    Ok(())
}

/// Shows of this connection what runs on it.
fn tell_of_itself(cx: &SessionCx<'_>) {
    let client = &cx.session.client;
    Usage::tell(&client.usage.args, cx.args.iter().map(|arg| arg.len()).sum());
    client.about().command = cx.session.command;
}

fn info(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    tell_of_itself(cx);
    let line = cx.session.client.line(cx.node.monotonic_ms());
    Usage::tell(&cx.session.client.usage.args, 0);
    cx.reply.verbatim("txt", &(line + "\n"));
    Ok(())
}

fn unblock(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let answer = match &cx.args[3..] {
        [] => Answer::TimedOut,
        [how] if is(how, "timeout") => Answer::TimedOut,
        [how] if is(how, "error") => Answer::Unblocked,
        _ => return Err(Fail::error("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")),
    };
    let id = crate::cx::integer(cx.arg(2))?;
    let ended = u64::try_from(id).is_ok_and(|id| cx.node.blocked.unblock(id, answer));
    cx.reply.integer(i64::from(ended));
    Ok(())
}

fn pause(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    const WRONG: &str = "ERR timeout is not an integer or out of range";
    let what = match &cx.args[3..] {
        [] => Paused::All,
        [what] if is(what, "all") => Paused::All,
        [what] if is(what, "write") => Paused::Writes,
        [_] => return Err(Fail::error("ERR CLIENT PAUSE mode must be WRITE or ALL")),
        _ => return Err(Fail::syntax()),
    };
    let wait_ms = number::integer(cx.arg(2)).ok_or_else(|| Fail::error(WRONG))?;
    let wait_ms = u64::try_from(wait_ms).map_err(|_| Fail::error("ERR timeout is negative"))?;
    let now_ms = cx.node.monotonic_ms();
    cx.node.pauses.begin(what, now_ms.saturating_add(wait_ms), now_ms);
    cx.reply.ok();
    Ok(())
}

fn reply(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let (how, mode) = (cx.arg(2), &mut cx.session.mode);
    if is(how, "on") {
        *mode = mode.without(Mode::SILENT).without(Mode::SKIPPING);
    } else if is(how, "off") {
        *mode = mode.with(Mode::SILENT);
    } else if is(how, "skip") {
        *mode = if mode.has(Mode::SILENT) { *mode } else { mode.with(Mode::SKIPPING) };
    } else {
        return Err(Fail::syntax());
    }
    cx.reply.ok();
    Ok(())
}

fn tracking(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    match &cx.args[2..] {
        [how] if is(how, "off") => {
            cx.reply.ok();
            Ok(())
        }
        [how, ..] if is(how, "on") => Err(Fail::error(
            "ERR CLIENT TRACKING is refused: clients are not told what changes; use keyspace notifications (notify-keyspace-events)",
        )),
        _ => Err(Fail::syntax()),
    }
}

fn trackinginfo(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    cx.reply.map(3);
    cx.reply.bulk(b"flags");
    cx.reply.set(1);
    cx.reply.bulk(b"off");
    cx.reply.bulk(b"redirect");
    cx.reply.integer(-1);
    cx.reply.bulk(b"prefixes");
    cx.reply.array(0);
    Ok(())
}

/// Which connections are meant.
#[derive(Default)]
struct Filter {
    kind: Option<Kinds>,
    ids: Option<Vec<u64>>,
    address: Option<String>,
    local: Option<String>,
}

/// A type of connections: one that there can be here, or one that Redis has besides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kinds {
    Only(ClientKind),
    Nobody,
}

impl Filter {
    fn takes(&self, client: &Client) -> bool {
        let kind = client.about().kind_now();
        self.kind.is_none_or(|kinds| kinds == Kinds::Only(kind))
            && self.ids.as_ref().is_none_or(|ids| ids.contains(&client.id))
            && self.address.as_ref().is_none_or(|address| *address == client.address.to_string())
            && self.local.as_ref().is_none_or(|local| *local == client.local.to_string())
    }
}

fn kinds(text: &[u8]) -> Result<Kinds, Fail> {
    match text.to_ascii_lowercase().as_slice() {
        b"normal" => Ok(Kinds::Only(ClientKind::Normal)),
        b"slave" | b"replica" => Ok(Kinds::Only(ClientKind::Replica)),
        b"pubsub" => Ok(Kinds::Only(ClientKind::Listener)),
        b"master" => Ok(Kinds::Nobody),
        _ => Err(Fail::error(format!("ERR Unknown client type '{}'", String::from_utf8_lossy(text)))),
    }
}

fn number(text: &[u8], wrong: &'static str) -> Result<u64, Fail> {
    let value = number::integer(text).and_then(|value| u64::try_from(value).ok());
    value.filter(|value| *value > 0).ok_or_else(|| Fail::error(wrong))
}

fn list(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let filter = match &cx.args[2..] {
        [] => Filter::default(),
        [option, kind] if is(option, "type") => Filter { kind: Some(kinds(kind)?), ..Filter::default() },
        [option, ids @ ..] if is(option, "id") && !ids.is_empty() => {
            let ids = ids.iter().map(|id| number(id, "ERR Invalid client ID")).collect::<Result<_, _>>()?;
            Filter { ids: Some(ids), ..Filter::default() }
        }
        _ => return Err(Fail::syntax()),
    };
    tell_of_itself(cx);
    let now = cx.node.monotonic_ms();
    let lines: String = cx
        .node
        .clients
        .list()
        .iter()
        .filter(|client| filter.takes(client))
        .map(|client| client.line(now) + "\n")
        .collect();
    Usage::tell(&cx.session.client.usage.args, 0);
    cx.reply.verbatim("txt", &lines);
    Ok(())
}

fn kill(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    if let [_, _, address] = cx.args {
        let filter = Filter { address: Some(text(address)), ..Filter::default() };
        if kill_all(cx, &filter, SkipMe::No) == 0 {
            return Err(Fail::error("ERR No such client"));
        }
        cx.reply.ok();
        return Ok(());
    }
    let mut filter = Filter::default();
    let mut skip_me = SkipMe::Yes;
    for pair in cx.args[2..].chunks(2) {
        let [option, value] = pair else { return Err(Fail::syntax()) };
        if is(option, "id") {
            filter.ids = Some(vec![number(value, "ERR client-id should be greater than 0")?]);
        } else if is(option, "type") {
            filter.kind = Some(kinds(value)?);
        } else if is(option, "addr") {
            filter.address = Some(text(value));
        } else if is(option, "laddr") {
            filter.local = Some(text(value));
        } else if is(option, "user") {
            if &value[..] != b"default" {
                return Err(Fail::error(format!("ERR No such user '{}'", text(value))));
            }
        } else if is(option, "skipme") {
            skip_me = match value.to_ascii_lowercase().as_slice() {
                b"yes" => SkipMe::Yes,
                b"no" => SkipMe::No,
                _ => return Err(Fail::syntax()),
            };
        } else {
            return Err(Fail::syntax());
        }
    }
    let killed = kill_all(cx, &filter, skip_me);
    cx.reply.count(killed);
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether the connection that asks is spared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SkipMe {
    Yes,
    No,
}

fn kill_all(cx: &mut SessionCx<'_>, filter: &Filter, skip_me: SkipMe) -> usize {
    let me = cx.session.client.id;
    let victims: Vec<Arc<Client>> = cx
        .node
        .clients
        .list()
        .into_iter()
        // One that was killed is gone for its operator, even if its worker has not let go of it yet.
        .filter(|client| {
            !client.is_killed() && filter.takes(client) && (client.id != me || skip_me == SkipMe::No)
        })
        .collect();
    for victim in &victims {
        if victim.id == me {
            // It gets its answer first.
            cx.session.closing = true;
        } else {
            victim.kill();
        }
    }
    victims.len()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use crate::testing::Bench;

    #[test]
    fn connections_are_named_and_told_of() {
        let mut bench = Bench::new();
        bench.check(
            "client getname              -> $-1
             client setname \"a b\"      -> -ERR Client names cannot contain spaces, newlines or special characters.
             client setname me           -> +OK
             client getname              -> $2 me
             client setinfo lib-name x   -> +OK
             client setinfo LIB-VER 1.0  -> +OK
             client setinfo foo 1.0      -> -ERR Unrecognized option 'foo'
             client id                   -> :1
             client foo                  -> -ERR unknown subcommand 'foo'. Try CLIENT HELP.
             client getname x            -> -ERR wrong number of arguments for 'client|getname' command
             client no-evict on          -> +OK
             client no-evict x           -> -ERR syntax error
             client list type foo        -> -ERR Unknown client type 'foo'
             client list id 0            -> -ERR Invalid client ID
             client list type replica    -> $0",
        );
        let line = bench.run("client list");
        for part in ["id=1 addr=127.0.0.1:1 ", " name=me ", " lib-name=x lib-ver=1.0", " db=0 ", " resp=2 "] {
            assert!(line.contains(part), "{part} in {line}");
        }
        // All but what the two commands take themselves.
        let rest = |line: String| {
            line.split(" name=").nth(1).map(|rest| rest.split(" argv-mem=").next().map(str::to_owned))
        };
        assert_eq!(rest(bench.run("client list id 1 2")), rest(bench.run("client info")));
        for part in [" fd=-1 ", " flags=N ", " argv-mem=10 ", " multi-mem=0 ", " events=r ", " redir=-1 "] {
            let line = bench.run("client info");
            assert!(line.contains(part), "{part} in {line}");
        }
    }

    #[test]
    fn connections_are_ended_by_address_and_by_filter() {
        let mut bench = Bench::new();
        let local = SocketAddr::from(([127, 0, 0, 1], 1));
        let enter = |port| bench.node.clients.enter(SocketAddr::from(([127, 0, 0, 1], port)), local, -1, 0);
        let (two, three) = (enter(2), enter(3));
        bench.check(
            "client kill 127.0.0.1:9         -> -ERR No such client
             client kill 127.0.0.1:2         -> +OK
             client kill id 0                -> -ERR client-id should be greater than 0
             client kill user x              -> -ERR No such user 'x'
             client kill skipme x            -> -ERR syntax error
             client kill type pubsub         -> :0",
        );
        assert!(two.is_killed() && !three.is_killed());
        bench.check("client kill type normal -> :1");
        assert!(three.is_killed() && !bench.session.closing);
        bench.check("client kill id 1 skipme no -> :1");
        assert!(bench.session.closing);
    }
}
