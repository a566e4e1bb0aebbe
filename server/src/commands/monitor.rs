//! MONITOR: see [`crate::monitors`].

use crate::cx::Fail;
use crate::monitors::Monitoring;
use crate::session::SessionCx;
use crate::table::{Command, Flags, Group};

/// See the file's head.
pub const COMMANDS: &[Command] = &[Group("server")
    .session(
        "monitor",
        1,
        Flags::ADMIN.with(Flags::DANGEROUS).with(Flags::NO_MULTI),
        "1.0.0",
        "Tells of every command from here on.",
        monitor,
    )
    .differs(
        "what scripts call is not told; commands of different connections may come in another order than they ran; who does \
         not read loses its connection (client-output-buffer-limit pubsub)",
    )];

fn monitor(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    if cx.session.monitoring.is_none() {
        let mailbox = cx.session.mailbox(cx.reply.proto());
        cx.session.monitoring = Some(Monitoring::new(cx.node.clone(), mailbox));
    }
    cx.reply.ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    #[test]
    fn commands_are_told_but_not_what_is_secret_or_administrative() {
        let mut bench = Bench::new();
        let mut other = bench.beside();
        bench.check("monitor -> +OK");
        other.check(
            "set k \"a b\"           -> +OK
             config get timeout      -> *2 $7 timeout $1 0
             auth x                  -> -ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?
             nosuch                  -> -ERR unknown command 'nosuch', with args beginning with:
             multi                   -> +OK
             get k                   -> +QUEUED
             exec                    -> *1 $3 a b",
        );
        let told = bench.session.mailbox(crate::resp::Proto::Resp2).take();
        let told = String::from_utf8(told).expect("text");
        let commands: Vec<&str> =
            told.lines().filter_map(|line| line.split_once("] ")).map(|(_, command)| command).collect();
        assert_eq!(commands, [r#""set" "k" "a b""#, r#""multi""#, r#""get" "k""#, r#""exec""#]);
        bench.check("reset -> +RESET");
        other.run("get k");
        assert!(!other.node.monitors.any());
    }
}
