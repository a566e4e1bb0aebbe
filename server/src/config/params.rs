//! The table of keys: each is a line of the configuration file, a flag of `serve`, and a name for CONFIG.

use super::Settings;
use super::forms;
use crate::notify::Classes;
use crate::slot_group;

/// When a key can be set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// By file and flag only.
    Start,
    /// By CONFIG SET too.
    Always,
}

/// A key.
pub struct Param {
    /// Its name.
    pub name: &'static str,
    /// What its value looks like, for the help.
    pub value: &'static str,
    /// When it can be set.
    pub when: When,
    /// What it does, in one line.
    pub summary: &'static str,
    /// Its value as text.
    pub get: fn(&Settings) -> String,
    /// Reads its value from text; says what was expected if that fails.
    pub set: fn(&mut Settings, &str) -> Result<(), String>,
}

/// A key whose value is read by `$read` and shown by `$show`.
macro_rules! param {
    ($name:literal, $value:literal, $when:ident, $summary:literal, $field:ident, $read:expr, $show:expr) => {
        Param {
            name: $name,
            value: $value,
            when: When::$when,
            summary: $summary,
            get: |settings| {
                #[allow(clippy::redundant_closure_call)]
                ($show)(&settings.$field)
            },
            set: |settings, text| {
                #[allow(clippy::redundant_closure_call)]
                let value = ($read)(text)?;
                settings.$field = value;
                Ok(())
            },
        }
    };
}

fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

fn filled(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("expected a value".to_owned()) } else { Ok(text.to_owned()) }
}

fn small(text: &str, from: u64, to: u64) -> Result<usize, String> {
    forms::number(text, from, to).and_then(|value| usize::try_from(value).map_err(|error| error.to_string()))
}

/// All keys, by name.
pub static PARAMS: &[Param] = &[
    param!(
        "ack",
        "N",
        Always,
        "how many replicas must have a write, besides what sync asks for, before its reply leaves",
        ack,
        |text| small(text, 0, 256),
        usize::to_string
    ),
    param!(
        "ack-timeout-ms",
        "MS",
        Always,
        "how long a reply waits for that many; then it is an error, and the write stays; 0 is for ever",
        ack_timeout_ms,
        |text| forms::number(text, 0, 86_400_000),
        u64::to_string
    ),
    param!(
        "admin-requirepass",
        "PASSWORD",
        Always,
        "the password for what is for operators (PKCLUSTER, CONFIG ...), the same on all nodes; none if empty",
        admin_requirepass,
        text,
        String::clone
    ),
    param!(
        "admin-sources",
        "ADDRESSES",
        Always,
        "from where what is for operators may come, such as 10.0.0.1 10.1.0.0/16; from anywhere if empty",
        admin_sources,
        |text: &str| text.parse::<crate::operator::Sources>(),
        crate::operator::Sources::to_string
    ),
    param!(
        "announce",
        "IP:PORT",
        Start,
        "where other nodes reach this one; needed if it differs from bind and port",
        announce,
        forms::announce,
        String::clone
    ),
    param!(
        "backup-dir",
        "FOLDER",
        Always,
        "where BGSAVE puts its checkpoints; if empty, backup in the data folder",
        backup_dir,
        text,
        String::clone
    ),
    param!(
        "backup-keep",
        "N",
        Always,
        "how many of its checkpoints BGSAVE keeps, the oldest go; 0 keeps all",
        backup_keep,
        |text| small(text, 0, 1_000_000),
        usize::to_string
    ),
    param!("bind", "IP", Start, "the address to listen at", bind, filled, String::clone),
    param!(
        "busy-reply-threshold",
        "MS",
        Always,
        "the same as lua-time-limit",
        script_busy_ms,
        |text| forms::number(text, 1, 600_000),
        u64::to_string
    ),
    param!(
        "client-output-buffer-limit",
        "pubsub HARD SOFT SECONDS",
        Always,
        "how many bytes may wait for a client that listens to channels: at most, and for how long; 0 is no limit",
        pubsub_limit,
        forms::output_limit,
        forms::show_output_limit
    ),
    param!(
        "client-query-buffer-limit",
        "BYTES",
        Always,
        "the most bytes of one request",
        request_bytes_max,
        |text| forms::bytes(text, 1 << 20, 4 << 30),
        u64::to_string
    ),
    param!(
        "copy-rate-bytes",
        "BYTES",
        Always,
        "how many bytes a second all slots together that other nodes copy from this one may take, 0 for no limit",
        copy_rate_bytes,
        |text| forms::bytes(text, 0, u64::MAX),
        u64::to_string
    ),
    param!(
        "copy-slots-max",
        "N",
        Always,
        "how many slots a node copies from this one at once; the others wait",
        copy_slots_max,
        |text| forms::number(text, 1, 1024),
        u64::to_string
    ),
    param!("dir", "FOLDER", Start, "the data folder; made if it is not there", dir, filled, String::clone),
    param!(
        "handover-hold-ms",
        "MS",
        Always,
        "how long a write waits for a slot that is being handed over",
        handover_hold_ms,
        |text| forms::number(text, 0, 600_000),
        u64::to_string
    ),
    param!(
        "latency-monitor-threshold",
        "MS",
        Always,
        "commands that take at least so long are events of LATENCY; 0 is none",
        latency_event_ms,
        |text| forms::number(text, 0, 3_600_000),
        u64::to_string
    ),
    param!(
        "log-segment-bytes",
        "BYTES",
        Start,
        "the size of a log segment",
        log_segment_bytes,
        |text| forms::bytes(text, 1 << 20, 1 << 30),
        u64::to_string
    ),
    param!(
        "loglevel",
        "LEVEL",
        Start,
        "how much is told on stderr: error, warn, info, debug or trace",
        log_level,
        |text| forms::word(text, &["error", "warn", "info", "debug", "trace"]),
        String::clone
    ),
    param!(
        "lua-time-limit",
        "MS",
        Always,
        "how long a script may run before others are answered BUSY, and one within MULTI is stopped",
        script_busy_ms,
        |text| forms::number(text, 1, 600_000),
        u64::to_string
    ),
    param!(
        "masterauth",
        "PASSWORD",
        Always,
        "the password for the nodes that this one follows",
        masterauth,
        text,
        String::clone
    ),
    param!(
        "maxclients",
        "N",
        Always,
        "the most connections",
        maxclients,
        |text| small(text, 1, 1_000_000),
        usize::to_string
    ),
    param!(
        "maxmemory",
        "BYTES",
        Start,
        "the engine's memory budget: memtables, block cache, log tail, indexes",
        memory_bytes,
        |text| forms::bytes(text, 16 << 20, 1 << 50),
        u64::to_string
    ),
    param!(
        "min-replicas-max-lag",
        "SECONDS",
        Always,
        "how long ago a replica may have said something and still count for min-replicas-to-write",
        replica_lag_s,
        |text| forms::number(text, 1, 1_000_000),
        u64::to_string
    ),
    param!(
        "min-replicas-to-write",
        "N",
        Always,
        "writes to a slot that fewer replicas follow are refused; 0 refuses none",
        replicas_min,
        |text| small(text, 0, 256),
        usize::to_string
    ),
    param!(
        "notify-keyspace-events",
        "LETTERS",
        Always,
        "which events of keys are told to channels, in Redis' letters: KEA tells all",
        notify,
        |text: &str| Classes::parse(text).ok_or_else(|| "expected letters of KEg$lshzxetdmnA".to_owned()),
        |classes: &Classes| classes.show()
    ),
    param!(
        "output-buffer-bytes",
        "BYTES",
        Always,
        "how many bytes of replies are gathered before they are sent and the client's next requests read",
        reply_bytes_max,
        |text| forms::bytes(text, 1 << 10, 1 << 30),
        u64::to_string
    ),
    param!(
        "port",
        "PORT",
        Start,
        "the port to listen at; 0 takes a free one",
        port,
        |text| forms::number(text, 0, 65_535)
            .and_then(|value| u16::try_from(value).map_err(|error| error.to_string())),
        u16::to_string
    ),
    param!(
        "proto-max-bulk-len",
        "BYTES",
        Always,
        "the longest argument, and the longest string that APPEND, SETRANGE and SETBIT make",
        bulk_bytes_max,
        |text| forms::bytes(text, super::BULK_BYTES_MAX_LEAST as u64, 512 << 20),
        u64::to_string
    ),
    param!(
        "repl-compression",
        "yes|no",
        Always,
        "whether what goes to and from other nodes is compressed with LZ4, where it pays and both ends say yes; connections \
         that are opened from now on",
        repl_compression,
        forms::yes_no,
        |value: &bool| forms::show_yes_no(*value)
    ),
    param!(
        "requirepass",
        "PASSWORD",
        Always,
        "the password that clients must give; none if empty",
        requirepass,
        text,
        String::clone
    ),
    param!(
        "script-time-max",
        "MS",
        Always,
        "how long a script may run before it is stopped and all that it did is dropped",
        script_ms_max,
        |text| forms::number(text, 1, 86_400_000),
        u64::to_string
    ),
    param!(
        "slave-priority",
        "N",
        Always,
        "how gladly a sentinel promotes this node: lower is sooner, 0 is never",
        slave_priority,
        |text| forms::number(text, 0, 1_000_000),
        u64::to_string
    ),
    param!(
        "slots",
        "none|all|GROUP",
        Start,
        "the slots that a fresh folder begins with, such as 0-511,600; standalone: all, else none",
        slots,
        |text: &str| slot_group::parse_choice(text).map(|_| text.to_owned()),
        String::clone
    ),
    param!(
        "slowlog-log-slower-than",
        "MICROSECONDS",
        Always,
        "commands that take at least so long are in SLOWLOG; below 0 none is",
        slow_us,
        |text| forms::signed(text, -1, 1_000_000_000_000),
        i64::to_string
    ),
    param!(
        "slowlog-max-len",
        "N",
        Always,
        "how many commands SLOWLOG keeps",
        slow_kept,
        |text| small(text, 0, 1_000_000),
        usize::to_string
    ),
    param!(
        "standalone",
        "yes|no",
        Start,
        "a single node for any Redis client: all slots, RESP3 too; else a node behind Codis",
        standalone,
        forms::yes_no,
        |value: &bool| forms::show_yes_no(*value)
    ),
    param!(
        "sync",
        "always|everysec|no",
        Always,
        "when an acknowledged write is on the device: before the reply, within a second, or when the system likes",
        sync,
        forms::sync,
        |mode: &haypile_engine::engine::SyncMode| forms::show_sync(*mode)
    ),
    param!(
        "tail-wait-ms",
        "MS",
        Start,
        "after an unclean stop: how long replicas may take to give back what was lost here, 0 asks none",
        tail_wait_ms,
        |text| forms::number(text, 0, 600_000),
        u64::to_string
    ),
    param!(
        "tcp-keepalive",
        "SECONDS",
        Always,
        "how long a silent connection waits before its other end is asked; 0 asks never",
        tcp_keepalive_s,
        |text| forms::number(text, 0, 1_000_000),
        u64::to_string
    ),
    param!(
        "timeout",
        "SECONDS",
        Always,
        "how long a client may be idle; 0 is for ever",
        timeout_s,
        |text| forms::number(text, 0, 1_000_000_000),
        u64::to_string
    ),
    param!(
        "worker-threads",
        "N",
        Start,
        "threads that serve clients; 0 takes one a core, but leaves one core free",
        worker_threads,
        |text| small(text, 0, 1024),
        usize::to_string
    ),
];
