//! What can be set: by the configuration file, by flags, and at run time by CONFIG SET. One table of keys for all.

mod file;
mod forms;
mod params;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use haypile_engine::engine::SyncMode;
use haypile_replication::copies::SLOTS_MAX;

use crate::notify::Classes;
use crate::operator::Sources;

pub use file::{rewrite, split_lines};
pub use params::{PARAMS, Param, When};

/// The least that `proto-max-bulk-len` can be set to: what is no longer needs no look at it.
pub const BULK_BYTES_MAX_LEAST: usize = 1 << 20;

/// How much may wait for a listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutputLimit {
    /// More bytes than this end the connection; 0 is no limit.
    pub hard_bytes: u64,
    /// More bytes than this for `soft_s` seconds end it; 0 is no limit.
    pub soft_bytes: u64,
    /// See `soft_bytes`.
    pub soft_s: u64,
}

/// All settings. What each means is said in the table of keys.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // the table of keys says it
pub struct Settings {
    pub bind: String,
    pub port: u16,
    pub dir: String,
    pub backup_dir: String,
    pub backup_keep: usize,
    pub slots: String,
    pub standalone: bool,
    pub sync: SyncMode,
    pub ack: usize,
    pub ack_timeout_ms: u64,
    pub replicas_min: usize,
    pub replica_lag_s: u64,
    pub announce: String,
    pub admin_requirepass: String,
    pub admin_sources: Sources,
    pub requirepass: String,
    pub masterauth: String,
    pub maxclients: usize,
    pub timeout_s: u64,
    pub tcp_keepalive_s: u64,
    pub worker_threads: usize,
    pub memory_bytes: u64,
    pub log_segment_bytes: u64,
    pub bulk_bytes_max: u64,
    pub request_bytes_max: u64,
    pub reply_bytes_max: u64,
    pub handover_hold_ms: u64,
    pub script_busy_ms: u64,
    pub script_ms_max: u64,
    pub copy_rate_bytes: u64,
    pub copy_slots_max: u64,
    pub repl_compression: bool,
    pub slave_priority: u64,
    pub tail_wait_ms: u64,
    pub notify: Classes,
    pub slow_us: i64,
    pub slow_kept: usize,
    pub latency_event_ms: u64,
    pub pubsub_limit: OutputLimit,
    pub log_level: String,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            bind: "127.0.0.1".to_owned(),
            port: 9221,
            dir: "./haypile-data".to_owned(),
            backup_dir: String::new(),
            backup_keep: 3,
            slots: String::new(),
            standalone: false,
            sync: SyncMode::EverySec,
            ack: 0,
            ack_timeout_ms: 5000,
            replicas_min: 0,
            replica_lag_s: 10,
            announce: String::new(),
            admin_requirepass: String::new(),
            admin_sources: Sources::default(),
            requirepass: String::new(),
            masterauth: String::new(),
            maxclients: 10_000,
            timeout_s: 0,
            tcp_keepalive_s: 300,
            worker_threads: 0,
            memory_bytes: 256 << 20,
            log_segment_bytes: 64 << 20,
            bulk_bytes_max: 512 << 20,
            request_bytes_max: 1 << 30,
            reply_bytes_max: 1 << 20,
            handover_hold_ms: 5000,
            script_busy_ms: 5000,
            script_ms_max: 60_000,
            copy_rate_bytes: 0,
            copy_slots_max: SLOTS_MAX as u64,
            repl_compression: false,
            slave_priority: 100,
            tail_wait_ms: 2000,
            notify: Classes::NONE,
            slow_us: 10_000,
            slow_kept: 128,
            latency_event_ms: 0,
            pubsub_limit: OutputLimit { hard_bytes: 32 << 20, soft_bytes: 8 << 20, soft_s: 60 },
            log_level: "info".to_owned(),
        }
    }
}

impl Settings {
    /// Sets the key `name` (in any case) to what the text says.
    ///
    /// # Errors
    /// If there is no such key or it can't have this value; the text names both.
    pub fn set(&mut self, name: &str, value: &str) -> Result<&'static Param, String> {
        let param = find(name).ok_or_else(|| format!("unknown key '{name}'"))?;
        (param.set)(self, value).map_err(|why| format!("{}: {why}, not '{value}'", param.name))?;
        Ok(param)
    }

    /// The password that other Haypile nodes ask for: the operators', if there is one, as nodes send each other what only those may;
    /// else the product's. Empty if there is none.
    #[must_use]
    pub fn password_for_nodes(&self) -> &str {
        if self.admin_requirepass.is_empty() { self.password_of_product() } else { &self.admin_requirepass }
    }

    /// The password of all nodes of a Codis product: masterauth, or this node's own. Empty if there is none.
    #[must_use]
    pub fn password_of_product(&self) -> &str {
        if self.masterauth.is_empty() { &self.requirepass } else { &self.masterauth }
    }

    /// Sets everything that a configuration file says. `file` is its name, for errors.
    ///
    /// # Errors
    /// The first line that can't be followed: file, line and why.
    pub fn read_file(&mut self, file: &str, text: &str) -> Result<(), String> {
        for (line, words) in split_lines(text) {
            let words = words.map_err(|why| format!("{file}:{line}: {why}"))?;
            let [name, value] = &words[..] else {
                return Err(format!(
                    "{file}:{line}: expected `name value`, found {} words; quote a value that has blanks",
                    words.len()
                ));
            };
            self.set(name, value).map_err(|why| format!("{file}:{line}: {why}"))?;
        }
        Ok(())
    }
}

/// The key of this name, in any case.
#[must_use]
pub fn find(name: &str) -> Option<&'static Param> {
    PARAMS.iter().find(|param| param.name.eq_ignore_ascii_case(name))
}

/// The settings of a running node. Any thread may read and change them.
#[derive(Debug)]
pub struct Config {
    settings: RwLock<Arc<Settings>>,
    /// How often they were changed: stored once they are, and loaded by [`Seen::now`].
    changes: AtomicU64,
}

/// Settings as somebody saw them, who looks often.
#[derive(Debug)]
pub struct Seen {
    settings: Arc<Settings>,
    changes: u64,
}

impl Seen {
    /// The settings as they are now.
    pub fn now(&mut self, config: &Config) -> &Settings {
        let changes = config.changes.load(Ordering::Acquire);
        if changes != self.changes {
            *self = Seen { settings: config.now(), changes };
        }
        &self.settings
    }
}

impl Config {
    /// Settings to start with.
    #[must_use]
    pub fn new(settings: Settings) -> Config {
        Config { settings: RwLock::new(Arc::new(settings)), changes: AtomicU64::new(0) }
    }

    /// The settings, for who looks at them again and again.
    pub fn seen(&self) -> Seen {
        // Counted before they are looked at: at worst they are looked at once more.
        let changes = self.changes.load(Ordering::Acquire);
        Seen { settings: self.now(), changes }
    }

    /// The settings as they are now.
    pub fn now(&self) -> Arc<Settings> {
        self.settings.read().expect("no code panics while it holds this lock").clone()
    }

    /// Changes several keys at once, or none.
    ///
    /// # Errors
    /// The key at fault, and why.
    pub fn change(&self, pairs: &[(String, String)]) -> Result<(), (String, String)> {
        let mut slot = self.settings.write().expect("no code panics while it holds this lock");
        let mut settings = Settings::clone(&slot);
        for (name, value) in pairs {
            match find(name) {
                Some(param) if param.when == When::Start => {
                    return Err((name.clone(), "can't set immutable config".to_owned()));
                }
                _ => settings.set(name, value).map_err(|why| (name.clone(), why))?,
            };
        }
        *slot = Arc::new(settings);
        self.changes.fetch_add(1, Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
