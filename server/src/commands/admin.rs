//! The process: TIME, SHUTDOWN.

use crate::cx::{Fail, is};
use crate::session::SessionCx;
use crate::table::{Command, Flags, Group};

/// See the file's head.
pub const COMMANDS: &[Command] = &[
    Group("server").session(
        "time",
        1,
        Flags::FAST,
        "2.6.0",
        "Tells the time: seconds since 1970, and microseconds.",
        time,
    ),
    Group("server").session(
        "shutdown",
        -1,
        Flags::ADMIN.with(Flags::DANGEROUS).with(Flags::NO_MULTI),
        "1.0.0",
        "Stops the node cleanly.",
        shutdown,
    ),
];

fn time(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let now = cx.node.wall().0;
    cx.reply.array(2);
    cx.reply.bulk((now / 1000).to_string().as_bytes());
    cx.reply.bulk((now % 1000 * 1000).to_string().as_bytes());
    Ok(())
}

/// Everything acknowledged is in the log, so that saving or not makes no difference. Whoever asked sees the connection
/// end, as in Redis.
fn shutdown(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    for option in &cx.args[1..] {
        if is(option, "abort") {
            return Err(Fail::error("ERR No shutdown in progress."));
        }
        if !["nosave", "save", "now", "force"].iter().any(|known| is(option, known)) {
            return Err(Fail::syntax());
        }
    }
    cx.session.closing = true;
    cx.node.stop();
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::node::Stopping;
    use crate::testing::Bench;

    #[test]
    fn shutdown_stops_the_node_and_answers_nothing() {
        let mut bench = Bench::new();
        bench.check("shutdown foo -> -ERR syntax error\nshutdown abort -> -ERR No shutdown in progress.");
        assert_eq!(*bench.node.stopping().borrow(), Stopping::No);
        bench.check("shutdown nosave ->");
        assert_eq!(*bench.node.stopping().borrow(), Stopping::Cleanly);
        assert!(bench.session.closing);
    }

    #[test]
    fn time_is_seconds_and_microseconds() {
        let reply = Bench::new().run("time");
        let words: Vec<&str> = reply.split(' ').collect();
        assert!(words[0] == "*2" && words[2].parse::<u64>().is_ok_and(|seconds| seconds > 1_700_000_000));
        assert!(words[4].parse::<u64>().is_ok_and(|micros| micros < 1_000_000));
    }
}
