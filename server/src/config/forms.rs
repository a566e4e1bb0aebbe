//! How values of settings are written as text, and read.

use haypile_engine::engine::SyncMode;

use super::OutputLimit;

/// A whole number within limits.
pub fn number(text: &str, from: u64, to: u64) -> Result<u64, String> {
    let value: u64 = text.parse().map_err(|_| format!("expected a whole number from {from} to {to}"))?;
    if (from..=to).contains(&value) {
        Ok(value)
    } else {
        Err(format!("expected a number from {from} to {to}"))
    }
}

/// A whole number within limits that may be below zero.
pub fn signed(text: &str, from: i64, to: i64) -> Result<i64, String> {
    let value: i64 = text.parse().map_err(|_| format!("expected a whole number from {from} to {to}"))?;
    if (from..=to).contains(&value) {
        Ok(value)
    } else {
        Err(format!("expected a number from {from} to {to}"))
    }
}

/// An amount of bytes: a number with Redis' units (`k` 1000, `kb` 1024 ...).
pub fn bytes(text: &str, from: u64, to: u64) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &lower[digits.len()..] {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return Err("expected bytes, such as 1000, 64mb or 1gb".to_owned()),
    };
    let value = digits.parse::<u64>().ok().and_then(|value| value.checked_mul(unit));
    match value {
        Some(value) if (from..=to).contains(&value) => Ok(value),
        Some(_) => Err(format!("expected from {from} to {to} bytes")),
        None => Err("expected bytes, such as 1000, 64mb or 1gb".to_owned()),
    }
}

/// What may wait for a listener, in Redis' form. Other classes of clients have no limit of this kind: replies are gathered
/// up to `output-buffer-bytes`, and replicas are not fed from memory.
pub fn output_limit(text: &str) -> Result<OutputLimit, String> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let mut limit = None;
    for class in words.chunks(4) {
        let [name, hard, soft, seconds] = class else {
            return Err("expected `pubsub HARD SOFT SECONDS`".to_owned());
        };
        let new = OutputLimit {
            hard_bytes: bytes(hard, 0, 1 << 40)?,
            soft_bytes: bytes(soft, 0, 1 << 40)?,
            soft_s: number(seconds, 0, 1_000_000)?,
        };
        match name.to_ascii_lowercase().as_str() {
            "pubsub" => limit = Some(new),
            "normal" | "slave" | "replica" if new.hard_bytes == 0 && new.soft_bytes == 0 => {}
            _ => return Err("only pubsub can be limited".to_owned()),
        }
    }
    limit.ok_or_else(|| "expected `pubsub HARD SOFT SECONDS`".to_owned())
}

/// As [`output_limit`] reads it.
pub fn show_output_limit(limit: &OutputLimit) -> String {
    format!("pubsub {} {} {}", limit.hard_bytes, limit.soft_bytes, limit.soft_s)
}

/// Yes or no.
pub fn yes_no(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "true" | "on" => Ok(true),
        "no" | "false" | "off" => Ok(false),
        _ => Err("expected yes or no".to_owned()),
    }
}

/// `yes` or `no`.
pub fn show_yes_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

/// A durability mode.
pub fn sync(text: &str) -> Result<SyncMode, String> {
    match text.to_ascii_lowercase().as_str() {
        "always" => Ok(SyncMode::Always),
        "everysec" => Ok(SyncMode::EverySec),
        "no" => Ok(SyncMode::No),
        _ => Err("expected always, everysec or no".to_owned()),
    }
}

/// A durability mode's name.
pub fn show_sync(mode: SyncMode) -> String {
    match mode {
        SyncMode::Always => "always",
        SyncMode::EverySec => "everysec",
        SyncMode::No => "no",
    }
    .to_owned()
}

/// `IP:PORT`, or nothing.
pub fn announce(text: &str) -> Result<String, String> {
    let valid = text
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
    if valid || text.is_empty() { Ok(text.to_owned()) } else { Err("expected IP:PORT".to_owned()) }
}

/// One of a few words.
pub fn word(text: &str, words: &[&str]) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    if words.contains(&lower.as_str()) {
        Ok(lower)
    } else {
        Err(format!("expected one of {}", words.join(", ")))
    }
}
