//! What the peers share: how a budget is split, how walks go around, how it is seen that a store is idle.

use std::time::Duration;

use haypile_bench::config::Config;
use haypile_bench::error::{Error, Result};
use haypile_bench::plan::Sync;
use haypile_bench::process::Process;
use haypile_bench::target::Found;

/// The version of a crate that this one is built with.
#[must_use]
pub fn locked_version(name: &str) -> String {
    let package = format!("name = \"{name}\"\nversion = \"");
    let rest = include_str!("../Cargo.lock").split_once(&package).map_or("?", |(_, rest)| rest);
    rest.split('"').next().unwrap_or("?").to_owned()
}

/// One budget for memory: two write buffers and a block cache are all of it.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// All of it.
    pub bytes: usize,
    /// Of each of two write buffers.
    pub buffer_bytes: usize,
    /// Of the block cache.
    pub cache_bytes: usize,
}

impl Budget {
    /// Takes `memory`, `buffer` and `cache` out of the settings. As many as half of the memory is for write buffers, as it
    /// is in Haypile, but none is larger than the 64 MiB that RocksDB and fjall have by default.
    ///
    /// # Errors
    /// If one is no size.
    pub fn take(config: &mut Config) -> Result<Budget> {
        let bytes = config.size("memory", 256 << 20)?;
        let buffer_bytes = config.size("buffer", (bytes / 4).min(64 << 20))?;
        let cache_bytes = config.size("cache", bytes.saturating_sub(2 * buffer_bytes))?;
        Ok(Budget { bytes, buffer_bytes, cache_bytes })
    }

    /// As settings that are shown.
    #[must_use]
    pub fn shown(&self) -> Vec<(String, String)> {
        shown([
            ("memory", self.bytes.to_string()),
            ("buffer", format!("2x{}", self.buffer_bytes)),
            ("cache", self.cache_bytes.to_string()),
        ])
    }
}

/// Settings as a target gives them.
#[must_use]
pub fn shown<const N: usize>(settings: [(&str, String); N]) -> Vec<(String, String)> {
    settings.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Whether writes are synced one by one.
///
/// # Errors
/// If it is to happen about once a second: these engines leave that to their users.
pub fn synced(sync: Sync) -> Result<bool> {
    match sync {
        Sync::None => Ok(false),
        Sync::Always => Ok(true),
        Sync::Everysec => Err(Error::Usage("sync=everysec: this engine has no such mode".into())),
    }
}

/// Reads so many entries, going on where the last call ended: with one iterator, and another one from the least key on where
/// it ends. Twice around is enough if there are fewer.
///
/// # Errors
/// What `open` and `next` say.
pub fn walk<I>(
    walk: &mut Option<I>,
    entries: usize,
    mut open: impl FnMut() -> Result<I>,
    mut next: impl FnMut(&mut I) -> Result<Option<usize>>,
) -> Result<Found> {
    let mut found = Found::NOTHING;
    let mut ends = 0;
    while found.entries < entries as u64 && ends < 2 {
        let iter = match walk {
            Some(iter) => iter,
            None => walk.insert(open()?),
        };
        match next(iter)? {
            Some(bytes) => found.add(bytes),
            None => {
                *walk = None;
                ends += 1;
            }
        }
    }
    Ok(found)
}

/// Waits until `done` says so, twice in a row, and, if the store can't tell everything, until this process does next to
/// nothing besides.
///
/// # Errors
/// What `done` says.
pub fn wait_until(tells_all: bool, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let process = Process::new(std::process::id());
    let cpu = || process.sample().map_or(0.0, |sample| sample.cpu_seconds());
    let pause = Duration::from_millis(if tells_all { 5 } else { 100 });
    let (mut before, mut times) = (cpu(), 0);
    while times < 2 {
        std::thread::sleep(pause);
        let now = cpu();
        let busy = !tells_all && now - before > 0.1 * pause.as_secs_f64();
        before = now;
        times = if done()? && !busy { times + 1 } else { 0 };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_split_and_never_exceeded() {
        for (text, buffer, cache) in
            [("", 64 << 20, 128 << 20), ("memory=1g", 64 << 20, 896 << 20), ("memory=16m", 4 << 20, 8 << 20)]
        {
            let budget = Budget::take(&mut Config::parse(text).unwrap()).unwrap();
            assert_eq!((budget.buffer_bytes, budget.cache_bytes), (buffer, cache), "{text}");
            assert_eq!(2 * budget.buffer_bytes + budget.cache_bytes, budget.bytes, "{text}");
        }
    }

    #[test]
    fn a_walk_goes_on_and_around() {
        let mut place = None;
        let mut entries = |count| walk(&mut place, count, || Ok(0..5_usize), |iter| Ok(iter.next())).unwrap();
        assert_eq!(entries(3), Found { entries: 3, bytes: 3 });
        assert_eq!(entries(4), Found { entries: 4, bytes: 3 + 4 + 1 });
        assert_eq!(entries(100), Found { entries: 8, bytes: 2 + 3 + 4 + 10 }, "to the end, and once around");
    }

    #[test]
    fn versions_are_those_of_the_lock_file() {
        assert!(locked_version("fjall").starts_with("3."));
        assert_eq!(locked_version("no-such-crate"), "?");
    }
}
