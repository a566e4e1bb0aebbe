//! The connection itself: PING, ECHO, QUIT, SELECT, AUTH, HELLO, RESET.

use super::info::REDIS_VERSION;
use crate::cx::{Fail, integer, is};
use crate::node::{Node, Profile};
use crate::resp::Proto;
use crate::session::{Mode, SessionCx};
use crate::table::{Command, Flags, Group};

const OPEN: Flags = Flags::FAST.with(Flags::NO_AUTH);

const END: Flags = OPEN.with(Flags::UNQUEUED).with(Flags::LISTENING);

const T: Group = Group("connection");

/// See the file's head.
pub const COMMANDS: &[Command] = &[
    T.session(
        "ping",
        -1,
        Flags::FAST.with(Flags::LISTENING),
        "1.0.0",
        "Tells that the node is there, or gives the argument back.",
        ping,
    ),
    T.session("echo", 2, Flags::FAST, "1.0.0", "Gives the argument back.", echo),
    T.session("quit", -1, END, "1.0.0", "Closes the connection.", quit),
    T.session("select", 2, Flags::FAST, "1.0.0", "Selects the database.", select),
    T.session("auth", -2, OPEN, "1.0.0", "Gives the password.", auth),
    T.session("hello", -1, OPEN, "6.0.0", "Agrees on the protocol, and tells who answers.", hello),
    T.session("reset", 1, END, "6.2.0", "Makes the connection as if it were new.", reset),
];

fn ping(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    match cx.args {
        // A listener in RESP2 takes everything for a message.
        [_, message @ ..] if message.len() < 2 && listens_in_resp2(cx) => {
            cx.reply.array(2);
            cx.reply.bulk(b"pong");
            cx.reply.bulk(message.first().copied().unwrap_or_default());
        }
        [_] => cx.reply.simple("PONG"),
        [_, message] => cx.reply.bulk(message),
        _ => return Err(Fail::arity("ping")),
    }
    Ok(())
}

fn listens_in_resp2(cx: &SessionCx<'_>) -> bool {
    cx.session.mode.has(Mode::LISTENING) && cx.reply.proto() == Proto::Resp2
}

fn echo(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    cx.reply.bulk(cx.args[1]);
    Ok(())
}

fn quit(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    cx.session.closing = true;
    cx.reply.ok();
    Ok(())
}

/// How many databases may be selected; only the first has data.
#[must_use]
pub fn databases(node: &Node) -> u8 {
    match node.profile {
        Profile::Codis => 16,
        Profile::Standalone => 1,
    }
}

fn select(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    match u8::try_from(integer(cx.arg(1))?) {
        Ok(db) if db < databases(cx.node) => {
            select_db(cx, db);
            cx.reply.ok();
            Ok(())
        }
        _ => Err(Fail::error("ERR DB index is out of range")),
    }
}

fn select_db(cx: &mut SessionCx<'_>, db: u8) {
    cx.session.db = db;
    cx.session.client.about().db = db;
}

fn auth(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    match cx.args {
        [_, password] => {
            let settings = cx.node.config.now();
            if settings.requirepass.is_empty() && settings.admin_requirepass.is_empty() {
                return Err(Fail::error(
                    "ERR AUTH <password> called without any password configured for the default user. Are you sure your \
                     configuration is correct?",
                ));
            }
            authenticate(cx, b"default", password)?;
        }
        [_, user, password] => authenticate(cx, user, password)?,
        _ => return Err(Fail::syntax()),
    }
    cx.reply.ok();
    Ok(())
}

/// Lets the connection in, if the password is right.
///
/// # Errors
/// In Redis' words.
pub fn authenticate(cx: &mut SessionCx<'_>, user: &[u8], password: &[u8]) -> Result<(), Fail> {
    let settings = cx.node.config.now();
    let (wanted, admin) = (settings.requirepass.as_bytes(), settings.admin_requirepass.as_bytes());
    let is_operator = !admin.is_empty() && same(admin, password);
    // As in Redis, a node without any password takes all.
    let takes_any = wanted.is_empty() && admin.is_empty();
    let fits = takes_any || is_operator || !wanted.is_empty() && same(wanted, password);
    if user != b"default" || !fits {
        return Err(Fail::error("WRONGPASS invalid username-password pair or user is disabled."));
    }
    cx.session.authenticated = true;
    cx.session.is_operator |= is_operator;
    Ok(())
}

/// Compares in a time that does not tell how much was right.
fn same(wanted: &[u8], given: &[u8]) -> bool {
    let differs = (0..given.len())
        .fold(0u8, |differs, at| differs | (given[at] ^ wanted.get(at).copied().unwrap_or_default()));
    differs == 0 && wanted.len() == given.len()
}

/// What HELLO is asked for.
#[derive(Default)]
struct Greeting<'a> {
    auth: Option<(&'a [u8], &'a [u8])>,
    name: Option<&'a [u8]>,
}

fn greeting<'a>(args: &'a [&'a [u8]]) -> Result<Greeting<'a>, Fail> {
    let mut greeting = Greeting::default();
    let mut rest = args;
    while let [option, after @ ..] = rest {
        rest = match after {
            [user, password, after @ ..] if is(option, "auth") => {
                greeting.auth = Some((user, password));
                after
            }
            [name, after @ ..] if is(option, "setname") => {
                greeting.name = Some(name);
                after
            }
            _ => {
                let option = String::from_utf8_lossy(option);
                return Err(Fail::error(format!("ERR Syntax error in HELLO option '{option}'")));
            }
        };
    }
    Ok(greeting)
}

fn hello(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let args = cx.args;
    let proto = match args.get(1) {
        None => cx.reply.proto(),
        Some(version) => {
            let version = integer(version)
                .map_err(|_| Fail::error("ERR Protocol version is not an integer or out of range"))?;
            match (version, cx.node.profile) {
                (2, _) => Proto::Resp2,
                (3, Profile::Standalone) => Proto::Resp3,
                // Behind Codis the connection is shared among clients that speak RESP2.
                _ => return Err(Fail::error("NOPROTO unsupported protocol version")),
            }
        }
    };
    let Greeting { auth, name } = greeting(args.get(2..).unwrap_or_default())?;
    if let Some((user, password)) = auth {
        authenticate(cx, user, password)?;
    }
    if !cx.session.authenticated {
        return Err(Fail::error(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> \
             option can be used to authenticate the client and select the RESP protocol version at the same time",
        ));
    }
    if let Some(name) = name {
        super::client::set_name(cx, name)?;
    }
    cx.reply.switch(proto);
    cx.reply.map(7);
    cx.reply.bulk(b"server");
    cx.reply.bulk(b"redis");
    cx.reply.bulk(b"version");
    cx.reply.bulk(REDIS_VERSION.as_bytes());
    cx.reply.bulk(b"proto");
    cx.reply.integer(proto.number());
    cx.reply.bulk(b"id");
    cx.reply.integer(i64::try_from(cx.session.client.id).unwrap_or(i64::MAX));
    cx.reply.bulk(b"mode");
    cx.reply.bulk(b"standalone");
    cx.reply.bulk(b"role");
    cx.reply.bulk(super::replication::role_word(cx.node).as_bytes());
    cx.reply.bulk(b"modules");
    cx.reply.array(0);
    Ok(())
}

fn reset(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    if cx.node.profile == Profile::Codis {
        // A proxy passes it on, and its connection is shared among clients.
        return Err(Fail::error("ERR RESET is not served behind Codis: connect to a standalone node"));
    }
    cx.session.is_operator = false;
    select_db(cx, 0);
    cx.session.end_multi();
    cx.session.watching = None;
    cx.session.end_subscriptions();
    cx.session.monitoring = None;
    cx.session.mode = Mode::PLAIN;
    cx.session.client.about().listens = (0, 0, 0);
    cx.session.client.about().name.clear();
    cx.session.authenticated = cx.node.config.now().requirepass.is_empty();
    cx.reply.switch(Proto::Resp2);
    cx.reply.simple("RESET");
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::config::Settings;
    use crate::testing::Bench;

    #[test]
    fn hello_agrees_on_the_protocol_in_standalone() {
        let mut bench = Bench::new();
        assert!(bench.run("hello").starts_with("*14 $6 server $5 redis $7 version"));
        assert!(bench.run("hello 3 setname me").starts_with("%7 $6 server $5 redis $7 version"));
        bench.check(
            "client getname  -> $2 me
             get nope        -> _
             hello 4         -> -NOPROTO unsupported protocol version
             hello x         -> -ERR Protocol version is not an integer or out of range
             hello 2 foo     -> -ERR Syntax error in HELLO option 'foo'
             reset           -> +RESET
             client getname  -> $-1
             select 0        -> +OK
             select 1        -> -ERR DB index is out of range
             select x        -> -ERR value is not an integer or out of range
             ping            -> +PONG
             ping a          -> $1 a
             ping a b        -> -ERR wrong number of arguments for 'ping' command
             echo a          -> $1 a",
        );
    }

    #[test]
    fn behind_codis_resp3_is_refused_and_databases_without_data_can_be_selected() {
        let mut bench = Bench::with(Settings::default());
        bench.check(
            "hello 3     -> -NOPROTO unsupported protocol version
             select 15   -> +OK
             ping        -> +PONG
             reset       -> -ERR RESET is not served behind Codis: connect to a standalone node
             get k       -> -ERR only db 0 holds data, and this connection has selected db 15: SELECT 0
             select 16   -> -ERR DB index is out of range
             select 0    -> +OK
             get k       -> $-1",
        );
    }

    #[test]
    fn a_password_is_asked_for() {
        let mut bench = Bench::new();
        bench.check("auth p -> -ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?");
        let mut bench =
            Bench::with(Settings { requirepass: "p".into(), standalone: true, ..Settings::default() });
        bench.session.authenticated = false;
        bench.check(
            "get k               -> -NOAUTH Authentication required.
             ping                -> -NOAUTH Authentication required.
             hello               -> -NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time
             auth x              -> -WRONGPASS invalid username-password pair or user is disabled.
             auth pp             -> -WRONGPASS invalid username-password pair or user is disabled.
             auth other p        -> -WRONGPASS invalid username-password pair or user is disabled.
             auth p              -> +OK
             get k               -> $-1
             reset               -> +RESET
             get k               -> -NOAUTH Authentication required.
             auth default p      -> +OK
             get k               -> $-1",
        );
    }
}
