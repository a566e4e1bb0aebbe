//! MONITOR: every command that is run, told to who asked for it. Costs one look at a number while nobody has.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use haypile_engine::clock::TimeMs;

use crate::config::OutputLimit;
use crate::pubsub::Mailbox;

/// Who is told. A mailbox has a limit: who does not read loses its connection.
#[derive(Debug, Default)]
pub struct Monitors {
    /// How many there are. Alone; partners with nothing: who has just come misses what runs at that moment.
    count: AtomicUsize,
    told: Mutex<Vec<Arc<Mailbox>>>,
}

impl Monitors {
    fn told(&self) -> MutexGuard<'_, Vec<Arc<Mailbox>>> {
        self.told.lock().expect("no code panics while it holds this lock")
    }

    /// Whether anybody is told.
    #[must_use]
    pub fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// How many are told.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn add(&self, mailbox: Arc<Mailbox>) {
        let mut told = self.told();
        told.push(mailbox);
        self.count.store(told.len(), Ordering::Relaxed);
    }

    fn remove(&self, mailbox: &Arc<Mailbox>) {
        let mut told = self.told();
        told.retain(|other| !Arc::ptr_eq(other, mailbox));
        self.count.store(told.len(), Ordering::Relaxed);
    }

    /// Tells of a command: `from` is its database and its client's address.
    pub fn tell(&self, args: &[&[u8]], from: (u8, &str), at: TimeMs, limit: OutputLimit, now_ms: u64) {
        let line = line(args, from, at);
        for mailbox in self.told().iter() {
            mailbox.put(limit, now_ms, |out| out.simple(&line));
        }
    }
}

/// A command as MONITOR shows it.
fn line(args: &[&[u8]], (db, address): (u8, &str), TimeMs(at): TimeMs) -> String {
    let mut line = format!("{}.{:06} [{db} {address}]", at / 1000, at % 1000 * 1000);
    for arg in args {
        line.push_str(" \"");
        for &byte in *arg {
            match byte {
                b'\\' | b'"' => line.extend(['\\', char::from(byte)]),
                b'\n' => line.push_str("\\n"),
                b'\r' => line.push_str("\\r"),
                b'\t' => line.push_str("\\t"),
                7 => line.push_str("\\a"),
                8 => line.push_str("\\b"),
                b' '..=b'~' => line.push(char::from(byte)),
                _ => line.push_str(&format!("\\x{byte:02x}")),
            }
        }
        line.push('"');
    }
    line
}

/// That a connection is told; ends when it is dropped.
pub struct Monitoring {
    node: Arc<crate::node::Node>,
    mailbox: Arc<Mailbox>,
}

impl Monitoring {
    /// From here on it is told.
    #[must_use]
    pub fn new(node: Arc<crate::node::Node>, mailbox: Arc<Mailbox>) -> Monitoring {
        node.monitors.add(mailbox.clone());
        Monitoring { node, mailbox }
    }
}

impl Drop for Monitoring {
    fn drop(&mut self) {
        self.node.monitors.remove(&self.mailbox);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_redis_shows_them() {
        let args: [&[u8]; 3] = [b"set", b"a \"b\"\n\\", b"\x00\xff"];
        let shown = line(&args, (0, "127.0.0.1:1"), TimeMs(1_234_567));
        assert_eq!(shown, r#"1234.567000 [0 127.0.0.1:1] "set" "a \"b\"\n\\" "\x00\xff""#);
    }
}
