//! What commands took and answered, noted; and MONITOR's lines.

use super::*;
use crate::clients::unix_seconds;

/// Whether a command may change something, as CLIENT PAUSE WRITE sees it.
#[must_use]
pub fn may_write(session: &Session, Checked(command): Checked) -> bool {
    let queued = || session.multi.as_ref().map_or(&[][..], |multi| &multi.queue);
    match command.run {
        Run::Exec => queued().iter().any(|queued| queued.command.flags.has(Flags::WRITE)),
        _ if session.multi.is_some() && !command.flags.has(Flags::UNQUEUED) => false,
        _ => command.flags.has(Flags::WRITE) || matches!(command.name, "publish" | "spublish" | "pfcount"),
    }
}

/// The code of a reply that is an error, to be counted.
pub(super) fn code(reply: &[u8]) -> &str {
    let text = reply.strip_prefix(b"-").unwrap_or(reply);
    let end = text.iter().position(|byte| !byte.is_ascii_graphic()).unwrap_or(text.len());
    std::str::from_utf8(&text[..end]).unwrap_or("ERR")
}

/// Shows a command to who asked for it, unless it is secret or the operator's, as in Redis.
pub(super) fn tell_monitors(node: &Node, session: &Session, command: &Command, args: &[&[u8]], now: TimeMs) {
    if command.flags.has(Flags::ADMIN) || matches!(command.name, "auth" | "hello") {
        return;
    }
    let address = session.client.address.to_string();
    let limit = node.config.now().pubsub_limit;
    node.monitors.tell(args, (session.db, &address), now, limit, node.monotonic_ms());
}

impl Runner<'_> {
    /// Notes a command that has just ended, whose reply begins at `start`.
    pub(super) fn measure(&mut self, command: &Command, args: &[&[u8]], start: usize) {
        let now_ns = self.node.nanos();
        let since_ns = std::mem::replace(self.since_ns, now_ns);
        let took_ns = if command.flags.has(Flags::HELD) { 0 } else { now_ns.saturating_sub(since_ns) };
        self.note(command, args, took_ns, self.reply.as_bytes().get(start..).unwrap_or_default());
    }

    /// Notes a command that took so long and was answered this.
    pub(super) fn note(&self, command: &Command, args: &[&[u8]], took_ns: u64, reply: &[u8]) {
        let measured = &self.node.measured;
        measured.ran(command, took_ns);
        if reply.first() == Some(&b'-') {
            measured.failed(command);
            measured.error(code(reply));
        }
        if measured.is_long(took_ns) {
            let client =
                || (self.session.client.address.to_string(), self.session.client.about().name.clone());
            measured.long(command, args, took_ns, unix_seconds(self.now), client);
        }
    }
}
