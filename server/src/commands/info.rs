//! INFO: what operators, clients and Codis ask of a node.

use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use haypile_engine::pace::Crowd;
use haypile_engine::slot::Role;
use haypile_engine::stats::{REASONS, Stats, reason_name};
use haypile_engine::types::Slot;

use super::walk::key_counts;
use crate::cx::Fail;
use crate::files::read_kernel;
use crate::node::{Node, Profile};
use crate::session::SessionCx;
use crate::table::{Command, Flags, Group};

/// The version of Redis whose commands and words are kept to.
pub const REDIS_VERSION: &str = "7.0.15";

/// See the file's head.
pub const COMMANDS: &[Command] = &[Group("server").session(
    "info",
    -1,
    Flags::DANGEROUS.with(Flags::OVER_SLOTS),
    "1.0.0",
    "Tells of the node.",
    info,
)];

/// A part of the answer: appends lines `name:value`.
type Section = fn(&Node, &mut Lines);

/// All sections, in the order in which they are told.
const SECTIONS: &[(&str, Section)] = &[
    ("Server", server),
    ("Clients", clients),
    ("Memory", memory),
    ("Persistence", persistence),
    ("Stats", stats),
    ("Replication", super::replication::section),
    ("CPU", cpu),
    ("Commandstats", super::stats::commands),
    ("Errorstats", super::stats::errors),
    ("Latencystats", super::stats::latencies),
    ("Cluster", cluster),
    ("Keyspace", keyspace),
];

/// Lines being written.
#[derive(Default)]
pub struct Lines(String);

impl Lines {
    /// Appends a line.
    pub fn put(&mut self, name: &str, value: impl std::fmt::Display) {
        write!(self.0, "{name}:{value}\r\n").expect("a string takes everything");
    }

    /// What was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}

fn info(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let named: Vec<String> =
        cx.args[1..].iter().map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()).collect();
    let asked = |words: &[&str]| named.iter().any(|name| words.contains(&name.as_str()));
    let every = asked(&["all", "everything"]);
    let usual = named.is_empty() || asked(&["default"]);
    let mut lines = Lines::default();
    for (name, section) in SECTIONS {
        let told = every || usual && !matches!(*name, "Commandstats" | "Latencystats");
        if told || named.contains(&name.to_ascii_lowercase()) {
            if !lines.0.is_empty() {
                lines.0.push_str("\r\n");
            }
            write!(lines.0, "# {name}\r\n").expect("a string takes everything");
            section(cx.node, &mut lines);
        }
    }
    // Among everything, a second `db0` would be taken for the keyspace's.
    if named == ["replication"] {
        super::replication::election(cx.node, &mut lines);
    }
    cx.reply.verbatim("txt", &lines.0);
    Ok(())
}

fn server(node: &Node, lines: &mut Lines) {
    let uptime = node.monotonic_ms().saturating_sub(node.started_ms) / 1000;
    lines.put("redis_version", REDIS_VERSION);
    lines.put("redis_mode", "standalone");
    lines.put("haypile_version", env!("CARGO_PKG_VERSION"));
    lines.put("haypile_profile", if node.profile == Profile::Codis { "codis" } else { "standalone" });
    lines.put("os", std::env::consts::OS);
    lines.put("arch_bits", usize::BITS);
    lines.put("process_id", std::process::id());
    lines.put("run_id", &node.run_id);
    lines.put("tcp_port", node.port);
    lines.put("server_time_usec", node.wall().0 * 1000);
    lines.put("uptime_in_seconds", uptime);
    lines.put("uptime_in_days", uptime / 86_400);
    if let Some(file) = &node.config_file {
        lines.put("config_file", file.display());
    } else {
        lines.put("config_file", "");
    }
}

fn clients(node: &Node, lines: &mut Lines) {
    lines.put("connected_clients", node.clients.count());
    lines.put("maxclients", node.config.now().maxclients);
    lines.put("blocked_clients", node.blocked.count() + node.pauses.held());
}

fn memory(node: &Node, lines: &mut Lines) {
    let resident = super::memory::resident(node);
    lines.put("used_memory", resident);
    lines.put("used_memory_human", human(resident));
    lines.put("used_memory_rss", resident);
    let budget = node.config.now().memory_bytes;
    lines.put("maxmemory", budget);
    lines.put("maxmemory_human", human(budget));
    lines.put("maxmemory_policy", "noeviction");
    let stats = node.engine.stats();
    lines.put("memtable_bytes", stats.memtable_bytes);
    lines.put("block_cache_bytes", stats.cache_bytes);
    lines.put("index_and_filter_bytes", stats.pinned_bytes);
    lines.put("log_tail_bytes", stats.log_tail_bytes);
}

/// Bytes as people read them, as Redis writes it.
#[allow(clippy::cast_precision_loss)] // two decimals are shown
fn human(bytes: u64) -> String {
    let units = [(1u64 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, letter)) => format!("{:.2}{letter}", bytes as f64 / unit as f64),
        None => format!("{bytes}B"),
    }
}

fn persistence(node: &Node, lines: &mut Lines) {
    let copying = roles(node).iter().filter(|role| matches!(role, Role::Loading { .. })).count();
    // A node whose slot is being copied serves its others: to clients it is not loading.
    lines.put("loading", 0);
    lines.put("copying_slots", copying);
    lines.put("aof_enabled", 1);
    super::save::lines(node, lines);
    let settings = node.config.now();
    lines.put("log_end", node.engine.log_end());
    lines.put("flush_trouble", node.engine.trouble().map_or_else(String::new, |error| error.to_string()));
    lines.put("sync", crate::config::find("sync").map_or_else(String::new, |param| (param.get)(&settings)));
}

fn stats(node: &Node, lines: &mut Lines) {
    let stats = &node.stats;
    for (name, counter) in [
        ("total_connections_received", &stats.connections_received),
        ("total_commands_processed", &stats.commands_processed),
        ("total_write_commands_processed", &stats.writes_processed),
        ("instantaneous_ops_per_sec", &stats.commands_per_second),
        ("total_net_input_bytes", &stats.input_bytes),
        ("total_net_output_bytes", &stats.output_bytes),
        ("rejected_connections", &stats.connections_rejected),
        ("total_error_replies", &stats.error_replies),
        ("cache_misses", &stats.keyspace_fetches),
    ] {
        lines.put(name, counter.load(Ordering::Relaxed));
    }
    let waits = match node.engine.crowd() {
        None => "no",
        Some(Crowd::Slowed) => "slowed: memory is short, they go as fast as flushes free it",
        Some(Crowd::Full) => "stopped: memory is full, they wait for a flush",
    };
    lines.put("writers_wait", waits);
    engine_stats(&node.engine.stats(), lines);
}

/// What the engine wrote and why, and what writers waited for.
fn engine_stats(stats: &Stats, lines: &mut Lines) {
    lines.put("write_amplification", format_args!("{:.2}", stats.write_amplification()));
    lines.put("written_record_bytes", stats.record_bytes);
    lines.put("written_log_bytes", stats.frame_bytes);
    lines.put("written_flush_bytes", stats.flush_write_bytes);
    lines.put("written_compaction_bytes", stats.compaction_write_bytes);
    for (reason, bytes) in REASONS.into_iter().zip(stats.compaction_write_bytes_by_reason) {
        lines.put(&format!("written_compaction_{}_bytes", reason_name(reason)), bytes);
    }
    lines.put("block_cache_hits", stats.cache_hits);
    lines.put("block_cache_misses", stats.cache_misses);
    let ms = |took: Duration| took.as_millis();
    lines.put("stalls_for_memory", stats.stalls);
    lines.put("stalls_for_memory_ms", ms(stats.stalled));
    lines.put("stalls_for_memory_worst_ms", ms(stats.stalled_worst));
    lines.put("slowed_for_memory", stats.slowed);
    lines.put("slowed_for_memory_ms", ms(stats.slowed_for));
    lines.put("slowed_for_memory_worst_ms", ms(stats.slowed_worst));
    lines.put("flushes_held_for_compaction", stats.held);
    lines.put("flushes_held_for_compaction_ms", ms(stats.held_for));
    lines.put("flush_bytes_per_sec", stats.flush_rate);
    lines.put("stalls_of_log_writes", stats.slow_log_writes);
    lines.put("stalls_of_log_writes_worst_ms", ms(stats.slow_log_write_worst));
    lines.put("stalls_for_log_segments", stats.segments_waited_for);
    lines.put("runs", stats.runs);
    lines.put("run_bytes", stats.run_bytes);
    lines.put("pack_files", stats.files);
    lines.put("pack_files_open", stats.open_files);
    lines.put("log_bytes", stats.log_bytes);
    lines.put("log_files_open", stats.log_open_files);
}

/// What this node is to each slot that it has.
fn roles(node: &Node) -> Vec<Role> {
    Slot::all().map(|slot| node.engine.role(slot)).filter(|role| *role != Role::Absent).collect()
}

fn cpu(node: &Node, lines: &mut Lines) {
    // After the name in brackets, the 12th and 13th words are the ticks in user and system mode; a tick is 10 ms.
    let ticks = read_kernel(&*node.fs, "/proc/self/stat", 4096).and_then(|text| {
        let words: Vec<u64> = text
            .rsplit_once(')')?
            .1
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|word| word.parse().ok())
            .collect();
        <[u64; 2]>::try_from(words).ok()
    });
    if let Some([user, system]) = ticks {
        let seconds = |ticks: u64| format!("{}.{:02}0000", ticks / 100, ticks % 100);
        lines.put("used_cpu_sys", seconds(system));
        lines.put("used_cpu_user", seconds(user));
    }
}

fn cluster(_: &Node, lines: &mut Lines) {
    lines.put("cluster_enabled", 0);
}

fn keyspace(node: &Node, lines: &mut Lines) {
    let keys: u64 = key_counts(node).iter().map(|(_, keys)| keys).sum();
    if keys > 0 {
        lines.put("db0", format_args!("keys={keys},expires=0,avg_ttl=0"));
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    fn lines(bench: &mut Bench, command: &str) -> Vec<String> {
        let args = command.split(' ').collect::<Vec<_>>();
        let text = String::from_utf8(bench.run_raw(&args)).expect("text");
        text.split("\r\n").map(str::to_owned).collect()
    }

    #[test]
    fn the_node_tells_what_codis_and_clients_ask_for() {
        let mut bench = Bench::new();
        bench.run("set k v");
        let all = lines(&mut bench, "info");
        for line in [
            "# Server",
            "redis_version:7.0.15",
            "role:master",
            "db0:keys=1,expires=0,avg_ttl=0",
            "loading:0",
            "stalls_for_memory:0",
            "slowed_for_memory:0",
            "written_flush_bytes:0",
        ] {
            assert!(all.iter().any(|have| have == line), "{line} in {all:?}");
        }
        let run_id = all.iter().find_map(|line| line.strip_prefix("run_id:")).expect("there");
        assert!(run_id.len() == 40 && run_id.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let some = lines(&mut bench, "info KEYSPACE cluster");
        let expected =
            ["# Cluster", "cluster_enabled:0", "", "# Keyspace", "db0:keys=1,expires=0,avg_ttl=0", "", ""];
        assert_eq!(some[1..], expected);
        assert_eq!(bench.run("info nosuch"), "$0");
    }
}
