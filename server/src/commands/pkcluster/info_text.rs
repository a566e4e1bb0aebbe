//! The text of `pkcluster info slot` and `pkcluster info table`. Pure.
//!
//! Programs read it by position: the first lines of a slot, and three lines for each replica, are Pika's to the byte.
//! What Pika does not tell comes after them, as `  name: value` lines. A slot ends with an empty line.

use std::fmt::Write;

use haypile_engine::clock::TimeMs;
use haypile_engine::pins::Pinner;
use haypile_engine::slot::Role;
use haypile_replication::status::{AwayStatus, SlotKept};

use super::grammar::Totals;
use crate::topology::{ReplicaView, SlotView, UpstreamView};

/// Appends a slot. `wall` is the time of day.
pub fn slot(out: &mut String, text: &SlotView, kept: &SlotKept, wall: TimeMs) {
    let term = text.epoch.map_or(0, |epoch| epoch.term);
    line(out, format_args!("(db0:{}) binlog_offset={term} {},safety_purge=none", text.slot, text.last));
    let follows = followed(text);
    if follows.is_none() || !text.replicas.is_empty() {
        master(out, text);
    }
    if follows.is_none() {
        about_slot(out, text);
        about_replicas(out, text, kept, wall);
    }
    if let Some((address, state)) = follows {
        if !text.replicas.is_empty() {
            line(out, format_args!("  -----------"));
        }
        line(out, format_args!("  Role: Slave"));
        line(out, format_args!("  master: {address}"));
        line(out, format_args!("  slave status: {state}"));
        if let Some(upstream) = &text.upstream {
            about_upstream(out, upstream);
        }
        about_slot(out, text);
        about_replicas(out, text, kept, wall);
    }
    out.push_str("\r\n");
}

/// Whom the slot follows, and how that stands.
fn followed(text: &SlotView) -> Option<(&str, &'static str)> {
    let state = |otherwise| text.upstream.as_ref().map_or(otherwise, |upstream| upstream.state);
    match &text.role {
        Role::Replica { upstream } | Role::Loading { upstream } => Some((upstream, state("kTryConnect"))),
        // It serves nobody, so it must not look like an owner.
        Role::Moved { to } | Role::Granted { address: to, .. } => Some((to, "kNoConnect")),
        Role::Absent | Role::Master | Role::Fenced | Role::Owed => None,
    }
}

fn master(out: &mut String, text: &SlotView) {
    line(out, format_args!("  Role: Master"));
    line(out, format_args!("  connected_slaves: {}", text.replicas.len()));
    for (index, replica) in text.replicas.iter().enumerate() {
        line(out, format_args!("  slave[{index}]: {}", replica.address));
        line(out, format_args!("  replication_status: {}", replica.state));
        line(out, format_args!("  lag: {}", replica.lag));
    }
}

/// What Pika does not tell of a slot.
fn about_slot(out: &mut String, text: &SlotView) {
    line(out, format_args!("  state: {}", state_word(&text.role)));
    if let Some(epoch) = text.epoch {
        line(out, format_args!("  epoch: {epoch}"));
    }
    line(out, format_args!("  seq: {}", text.last));
    line(out, format_args!("  flushed: {}", text.flushed));
    line(out, format_args!("  keys: {}", text.keys));
    for replica in &text.replicas {
        let Some(copy) = replica.copy else { continue };
        let left = copy.left_s().map_or("-1".to_owned(), |left_s| left_s.to_string());
        line(
            out,
            format_args!(
                "  copy_to: {} copied_bytes={}/{},percent={},rate_bytes={},left_seconds={left}",
                replica.address,
                copy.done,
                copy.total,
                copy.percent(),
                copy.rate_bytes()
            ),
        );
    }
}

/// How far each replica is, who is away, and for whom the log is kept.
fn about_replicas(out: &mut String, text: &SlotView, kept: &SlotKept, wall: TimeMs) {
    for (index, replica) in text.replicas.iter().enumerate() {
        let ReplicaView { address, acked, lag, lag_bytes, lag_ms, heard_ms, .. } = replica;
        let bytes = lag_bytes.map_or_else(|| "gone".to_owned(), |bytes| bytes.to_string());
        let (lag_seconds, heard) = (lag_ms / 1000, heard_ms / 1000);
        line(
            out,
            format_args!(
                "  replica[{index}]: addr={address},acked={acked},lag_records={lag},lag_bytes={bytes},\
                 lag_seconds={lag_seconds},heard_seconds_ago={heard}"
            ),
        );
    }
    for (index, away) in kept.away.iter().enumerate() {
        let AwayStatus { address, acked, seen_ms, ended } = away;
        let lag = text.last.0.saturating_sub(acked.0);
        let seen = seen_ms / 1000;
        line(
            out,
            format_args!(
                "  away[{index}]: addr={address},acked={acked},lag_records={lag},heard_seconds_ago={seen}"
            ),
        );
        if let Some((why, ago_ms)) = ended {
            line(out, format_args!("  away_error[{index}]: {} s ago: {}", ago_ms / 1000, one_line(why)));
        }
    }
    for (index, pin) in kept.pins.iter().filter(|pin| pin.segment.is_some()).enumerate() {
        let (by, silent) = match &pin.by {
            Pinner::Recovery => ("recovery", None),
            Pinner::Replica { address, seen, .. } => {
                (&address[..], Some(wall.0.saturating_sub(seen.0) / 1000))
            }
        };
        let segment = pin.segment.unwrap_or_default();
        let silent = silent.map_or_else(String::new, |seconds| format!(",heard_seconds_ago={seconds}"));
        let (has, bytes) = (pin.has, pin.bytes);
        line(
            out,
            format_args!("  log_pin[{index}]: by={by},after={has},segment={segment},bytes={bytes}{silent}"),
        );
    }
}

/// Words without line ends.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn about_upstream(out: &mut String, upstream: &UpstreamView) {
    line(out, format_args!("  apply_lag: {}", upstream.lag));
    if let Some(copy) = upstream.copy {
        line(out, format_args!("  copied_bytes: {}/{}", copy.done, copy.total));
        line(out, format_args!("  copied_percent: {}", copy.percent()));
        line(out, format_args!("  copy_rate_bytes: {}", copy.rate_bytes()));
        if let Some(left_s) = copy.left_s() {
            line(out, format_args!("  copy_left_seconds: {left_s}"));
        }
    }
    line(out, format_args!("  since_seconds: {}", upstream.for_ms / 1000));
    if let Some(heard_ms) = upstream.heard_ms {
        line(out, format_args!("  heard_seconds_ago: {}", heard_ms / 1000));
    }
    if let Some(why) = &upstream.why {
        line(out, format_args!("  last_error: {}", one_line(why)));
    }
}

/// A role in one word.
fn state_word(role: &Role) -> &'static str {
    match role {
        Role::Absent => "absent",
        Role::Master => "master",
        Role::Fenced => "fenced",
        Role::Owed => "recovering",
        Role::Granted { .. } => "granted",
        Role::Moved { .. } => "moved",
        Role::Replica { .. } => "replica",
        Role::Loading { .. } => "loading",
    }
}

/// Counters of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TableText {
    /// Commands.
    pub commands: u64,
    /// Commands that write.
    pub writes: u64,
    /// Commands in a second, lately.
    pub commands_per_second: u64,
    /// Commands that write in a second, lately.
    pub writes_per_second: u64,
}

/// `info table`. Two of its counters have no blank after the colon, as in Pika.
#[must_use]
pub fn table(text: &TableText, totals: Totals) -> String {
    let mut out = String::new();
    line(&mut out, format_args!("table_id: 0"));
    line(&mut out, format_args!("  partition_num: {}", haypile_engine::types::SLOT_COUNT));
    if totals == Totals::Shown {
        line(&mut out, format_args!("  total_commands_processed:{}", text.commands));
        line(&mut out, format_args!("  total_write_commands_processed:{}", text.writes));
    }
    let reads_per_second = text.commands_per_second.saturating_sub(text.writes_per_second);
    line(&mut out, format_args!("  qps: {}", text.commands_per_second));
    line(&mut out, format_args!("  write_qps: {}", text.writes_per_second));
    line(&mut out, format_args!("  read_qps: {reads_per_second}"));
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes whatever is written to it");
    out.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use haypile_engine::pins::Pin;
    use haypile_engine::types::{Epoch, Lsn, NodeId, Seq, Slot};
    use haypile_replication::status::CopyProgress;

    use super::*;

    fn text(role: Role, replicas: Vec<ReplicaView>, upstream: Option<UpstreamView>) -> SlotView {
        SlotView {
            slot: Slot::new(1).expect("in range"),
            role,
            epoch: Some(Epoch { term: 2, tag: 0xabcd }),
            last: Seq(8192),
            flushed: Seq(8000),
            keys: 7,
            replicas,
            upstream,
            is_given_away: false,
        }
    }

    fn replica(port: u16, state: &'static str, lag: u64) -> ReplicaView {
        let (address, acked) = (format!("10.0.0.5:{port}"), Seq(8192 - lag));
        let (lag_bytes, lag_ms, heard_ms) = (Some(70 * lag), lag, 1999);
        ReplicaView { address, state, lag, acked, lag_bytes, lag_ms, heard_ms, copy: None }
    }

    fn rendered(text: &SlotView) -> String {
        let mut out = String::new();
        slot(&mut out, text, &SlotKept::default(), TimeMs(0));
        out
    }

    fn upstream(state: &'static str) -> UpstreamView {
        UpstreamView { state, for_ms: 61_500, heard_ms: Some(1200), lag: 3, copy: None, why: None }
    }

    #[test]
    fn a_master_shows_exactly_three_lines_for_each_slave_and_its_own_after_them() {
        let slaves = vec![replica(9221, "SlaveBinlogSync", 0), replica(9222, "SlaveNotSync", 8192)];
        let expected = "(db0:1) binlog_offset=2 8192,safety_purge=none\r\n  Role: Master\r\n  connected_slaves: 2\r\n  \
            slave[0]: 10.0.0.5:9221\r\n  replication_status: SlaveBinlogSync\r\n  lag: 0\r\n  \
            slave[1]: 10.0.0.5:9222\r\n  replication_status: SlaveNotSync\r\n  lag: 8192\r\n  \
            state: master\r\n  epoch: 2-000000000000abcd\r\n  seq: 8192\r\n  flushed: 8000\r\n  keys: 7\r\n  \
            replica[0]: addr=10.0.0.5:9221,acked=8192,lag_records=0,lag_bytes=0,lag_seconds=0,heard_seconds_ago=1\r\n  \
            replica[1]: addr=10.0.0.5:9222,acked=0,lag_records=8192,lag_bytes=573440,lag_seconds=8,heard_seconds_ago=1\r\n\r\n";
        assert_eq!(rendered(&text(Role::Master, slaves, None)), expected);
    }

    #[test]
    fn who_is_away_and_what_keeps_the_log_is_told() {
        let (node, address) = (NodeId([5; 20]), "10.0.0.5:9221".to_owned());
        let by = Pinner::Replica { node, address: address.clone(), seen: TimeMs(1000) };
        let pins = vec![
            Pin { by: Pinner::Recovery, has: Seq(8192), segment: None, bytes: 0 },
            Pin { by, has: Seq(8000), segment: Some(Lsn(4096)), bytes: 70_000 },
        ];
        let ended = Some(("it\r\nbroke".to_owned(), 61_000));
        let away = vec![AwayStatus { address, acked: Seq(8000), seen_ms: 62_000, ended }];
        let mut out = String::new();
        slot(&mut out, &text(Role::Master, vec![], None), &SlotKept { pins, away }, TimeMs(63_000));
        let told: Vec<&str> = out.split("\r\n").skip(8).collect();
        let expected = [
            "  away[0]: addr=10.0.0.5:9221,acked=8000,lag_records=192,heard_seconds_ago=62",
            "  away_error[0]: 61 s ago: it  broke",
            "  log_pin[0]: by=10.0.0.5:9221,after=8000,segment=0x1000,bytes=70000,heard_seconds_ago=62",
            "",
            "",
        ];
        assert_eq!(told, expected, "{out}");
    }

    #[test]
    fn a_slave_tells_its_master_state_and_last_error() {
        let role = Role::Replica { upstream: "10.0.0.1:9221".to_owned() };
        let mut link = upstream("kError");
        link.why = Some("no\r\nsuch slot".to_owned());
        link.copy = Some(CopyProgress { done: 60, total: 200, kept: 50, for_ms: 2000 });
        let expected = "(db0:1) binlog_offset=2 8192,safety_purge=none\r\n  Role: Slave\r\n  master: 10.0.0.1:9221\r\n  \
            slave status: kError\r\n  apply_lag: 3\r\n  copied_bytes: 60/200\r\n  copied_percent: 30\r\n  \
            copy_rate_bytes: 5\r\n  copy_left_seconds: 28\r\n  since_seconds: 61\r\n  \
            heard_seconds_ago: 1\r\n  last_error: no  such slot\r\n  state: replica\r\n  epoch: 2-000000000000abcd\r\n  \
            seq: 8192\r\n  flushed: 8000\r\n  keys: 7\r\n\r\n";
        assert_eq!(rendered(&text(role, vec![], Some(link))), expected);
    }

    #[test]
    fn a_master_tells_how_far_a_copy_is_after_what_pika_tells() {
        let mut copied = replica(9221, "SlaveDbSync", 9);
        copied.copy = Some(CopyProgress { done: 100, total: 400, kept: 0, for_ms: 1000 });
        let shown = rendered(&text(Role::Master, vec![copied], None));
        let told =
            "  copy_to: 10.0.0.5:9221 copied_bytes=100/400,percent=25,rate_bytes=100,left_seconds=3\r\n";
        assert!(shown.contains(told), "{shown}");
    }

    #[test]
    fn the_middle_of_a_chain_is_master_and_slave() {
        let role = Role::Replica { upstream: "10.0.0.1:9221".to_owned() };
        let shown =
            rendered(&text(role, vec![replica(9221, "SlaveDbSync", 5)], Some(upstream("kConnected"))));
        let lines: Vec<&str> = shown.split("\r\n").collect();
        let expected = [
            "(db0:1) binlog_offset=2 8192,safety_purge=none",
            "  Role: Master",
            "  connected_slaves: 1",
            "  slave[0]: 10.0.0.5:9221",
            "  replication_status: SlaveDbSync",
            "  lag: 5",
            "  -----------",
            "  Role: Slave",
            "  master: 10.0.0.1:9221",
            "  slave status: kConnected",
        ];
        assert_eq!(lines[..10], expected);
    }

    #[test]
    fn a_slot_that_was_handed_over_looks_like_no_owner() {
        let shown = rendered(&text(Role::Moved { to: "10.0.0.3:9221".to_owned() }, vec![], None));
        assert!(shown.contains("  Role: Slave\r\n  master: 10.0.0.3:9221\r\n  slave status: kNoConnect\r\n"));
        assert!(shown.contains("  state: moved\r\n") && !shown.contains("Master"), "{shown}");
    }

    #[test]
    fn the_table_has_seven_lines_or_five() {
        let counters =
            TableText { commands: 12345, writes: 678, commands_per_second: 10, writes_per_second: 4 };
        let all = "table_id: 0\r\n  partition_num: 1024\r\n  total_commands_processed:12345\r\n  \
            total_write_commands_processed:678\r\n  qps: 10\r\n  write_qps: 4\r\n  read_qps: 6\r\n";
        assert_eq!(table(&counters, Totals::Shown), all);
        assert_eq!(table(&counters, Totals::Left).lines().count(), 5);
    }
}
