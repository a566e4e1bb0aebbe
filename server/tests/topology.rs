//! Nodes within this process that are added to, attached to and detached from each other as an operator would do it.

mod common;

use std::net::SocketAddr;

use common::Client;
use haypile_engine::slot::Role;
use haypile_engine::types::Slot;
use haypile_server::config::Settings;
use haypile_server::serve::Running;

/// A node behind Codis, its operator's connection, and where it listens.
struct Operated(Running, Client, SocketAddr);

impl Operated {
    fn start(settings: Settings) -> Operated {
        let running = common::start(Settings { standalone: false, ..settings });
        let address = running.address;
        Operated(running, Client::connect(address), address)
    }

    fn plain(slots: &str) -> Operated {
        Operated::start(Settings { slots: slots.to_owned(), ..common::standalone() })
    }

    fn ok(&mut self, line: &str) {
        self.1.ask(line, "+OK\r\n");
    }

    /// Runs a command that is refused; the words.
    fn refused(&mut self, line: &str) -> String {
        self.1.send(format!("{line}\r\n").as_bytes());
        let reply = self.1.line();
        assert!(reply.starts_with('-'), "{line}: {reply}");
        reply
    }

    fn told(&mut self, line: &str) -> String {
        self.1.send(format!("{line}\r\n").as_bytes());
        self.1.bulk()
    }

    fn at(&self) -> String {
        format!("{} {}", self.2.ip(), self.2.port())
    }

    fn role(&self, slot: u16) -> Role {
        self.0.node.engine.role(Slot::new(slot).expect("in range"))
    }

    /// Waits until `info slot` has the line.
    #[allow(clippy::disallowed_methods)] // a test's patience is real time
    fn wait_for(&mut self, slot: u16, line: &str) {
        let began = std::time::Instant::now();
        while !self.told(&format!("pkcluster info slot {slot}")).contains(&format!("{line}\r\n")) {
            assert!(began.elapsed() < common::PATIENCE, "slot {slot} never shows {line}");
            std::thread::yield_now();
        }
    }
}

#[test]
fn steps_are_whole_or_refused_with_the_remedy() {
    let (mut a, mut b) = (Operated::plain("0-3,579"), Operated::plain("0-2,7"));
    b.ok("pkcluster addslots 0-2");
    b.ok("pkcluster removeslots 9,1000");
    let (at_a, at_b) = (a.at(), b.at());
    for (line, words) in [
        (format!("pkcluster slotsslaveof {at_a} 0-2,8"), "Slot 8 not found!"),
        (format!("pkcluster slotsslaveof {at_a} 0-2,7"), "slot 7 is not on the master"),
        (format!("pkcluster slotsslaveof {at_b} 0-2"), "this node itself"),
        (format!("pkcluster slotsslaveof localhost {} 0-2", b.2.port()), "this node itself"),
        ("pkcluster slotsslaveof 127.0.0.1 1 0-2".to_owned(), "connect remote node error"),
        ("pkcluster slotsslaveof nosuch.invalid 9221 0-2".to_owned(), "connect remote node error"),
        ("pkcluster slotsslaveof no one 8".to_owned(), "Slot 8 not found!"),
    ] {
        let reply = b.refused(&line);
        assert!(reply.contains(words), "{line}: {reply}");
        assert!([0, 1, 2, 7].into_iter().all(|slot| b.role(slot) == Role::Master), "{line}");
    }
    b.ok(&format!("pkcluster slotslaveof {at_a} 0-2 0 FORCE"));
    b.ok(&format!("pkcluster slotsslaveof {at_a} 0-2"));
    b.wait_for(1, "  slave status: kConnected");
    a.wait_for(1, "  replication_status: SlaveBinlogSync");
    let reply = a.refused("pkcluster delslots 3,1");
    assert!(
        reply.contains("sync master partition (db0:1) in syncing") && reply.contains("NO ONE 1"),
        "{reply}"
    );
    let reply = b.refused("pkcluster delslots 7,1");
    assert!(reply.contains("sync slave partition (db0:1) in kConnected state"), "{reply}");
    assert_eq!((a.role(3), b.role(7)), (Role::Master, Role::Master));
    let reply = a.refused(&format!("pkcluster slotsslaveof {at_b} 1"));
    assert!(reply.contains("the master follows this node"), "{reply}");
    b.ok("pkcluster slotsslaveof no one 1");
    assert_eq!(b.role(1), Role::Master);
    assert!(matches!(a.role(1), Role::Moved { .. }));
    let reply = a.refused("pkcluster addslots 1");
    assert!(reply.contains("handed over") && reply.contains("removeslots"), "{reply}");
    a.ok("pkcluster slotsslaveof no one 1");
    a.ok("pkcluster removeslots 1");
    assert_eq!(a.role(1), Role::Absent);
}

#[test]
fn a_node_without_slots_takes_those_of_the_master_that_it_is_told_to_follow() {
    let (mut a, mut b) = (Operated::plain("5-8,579"), Operated::plain("none"));
    a.ok("set a v");
    for line in ["slaveof 127.0.0.1 1", "slaveof nosuch.invalid 1", &format!("slaveof {}", b.at())] {
        b.refused(line);
        assert!(b.told("pkcluster info slot").is_empty(), "{line}");
    }
    let at_a = a.at();
    b.ok(&format!("slaveof {at_a} -f"));
    b.wait_for(579, "  slave status: kConnected");
    a.wait_for(579, "  lag: 0");
    assert_eq!(b.told("get a"), "v");
    let info = b.told("info replication");
    assert!(
        info.contains("role:slave\r\n") && info.contains(&format!("master_port:{}\r\n", a.2.port())),
        "{info}"
    );
    b.ok("replicaof no one");
    assert_eq!(b.role(8), Role::Master);
    b.ok("set a w");
    let reply = a.refused("set a x");
    assert!(reply.contains("Partition not found"), "{reply}");
}

#[test]
fn a_node_behind_a_password_is_followed_with_masterauth_only() {
    let locked = Settings { requirepass: "secret".to_owned(), slots: "1".to_owned(), ..common::standalone() };
    let (mut a, mut b) = (Operated::start(locked), Operated::plain("1"));
    let line = format!("pkcluster slotsslaveof {} 1", a.at());
    assert!(b.refused(&line).contains("masterauth"));
    b.ok("config set masterauth wrong");
    assert!(b.refused(&line).contains("refused the password"));
    assert_eq!(b.role(1), Role::Master);
    b.ok("config set masterauth secret");
    b.ok(&line);
    b.wait_for(1, "  slave status: kConnected");
    let hello = "haypile.sync 1 0000000000000000000000000000000000000000 127.0.0.1:9";
    assert!(a.refused(hello).contains("NOAUTH"));
    a.ok("auth secret");
    assert!(a.refused("haypile.sync 99 x y").contains("version"));
}

#[test]
fn the_table_counts_commands_and_writes() {
    let mut a = Operated::plain("all");
    a.ok("set k v");
    let told = a.told("pkcluster info table");
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 7, "{told}");
    assert_eq!(lines[..2], ["table_id: 0", "  partition_num: 1024"]);
    assert_eq!(lines[3], "  total_write_commands_processed:1");
}
