//! One group of rows on one target: this program again, in a process of its own, as the command line would run it.

use std::path::Path;
use std::process::Command;

use haypile_bench::error::{Error, Result};
use haypile_bench::record::Run;

use super::page_cache::PageCache;
use super::rows::{Amount, Group, Memory, Steps};

/// Bytes of a key.
const KEY_BYTES: u64 = 16;
/// Bytes of a value.
const VALUE_BYTES: u64 = 100;
/// For how many keys the rows' budgets are.
const KEYS_OF_BUDGETS: u64 = 1_000_000;
/// What is done for seconds is done for a fraction of them with `--quick`.
const QUICK: f64 = 0.2;

/// A page cache that was larger than its limit by more than this, on average, was not held to it.
const LIMIT_SLACK: f64 = 1.25;

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Keys of the table.
    pub keys: u64,
    /// Whether what is done for a time is done for less.
    pub quick: bool,
}

/// See the file's head.
#[derive(Clone, Copy, Debug)]
pub struct Cell<'a> {
    /// The group.
    pub group: &'a Group,
    /// The target's name.
    pub target: &'a str,
    /// How much is done.
    pub scale: Scale,
    /// Which repetition, from 1: all choices follow from it.
    pub repeat: u32,
}

impl Cell<'_> {
    /// Runs it; gives the runs that are rows, and which share of the machine's CPU others took meanwhile.
    ///
    /// # Errors
    /// If a process can't be started, or fails.
    pub fn run(&self, parent: &Path) -> Result<(Vec<Run>, f64)> {
        let folder = tempfile::Builder::new()
            .prefix("haypile-bench-")
            .tempdir_in(parent)
            .map_err(|error| Error::file(parent, error))?;
        let (store, json) = (folder.path().join("store"), folder.path().join("runs.json"));
        std::fs::create_dir(&store).map_err(|error| Error::file(&store, error))?;
        let before = Cpu::now();
        let (limit, mut cached) = (self.data_bytes() / 10, None);
        for (index, (steps, config)) in self.processes().into_iter().enumerate() {
            let held = if self.group.page_cache_tenth && index > 0 {
                Some(PageCache::hold(&store, limit).map_err(|error| Error::file(&store, error))?)
            } else {
                None
            };
            let names: Vec<&str> = steps.iter().map(|(workload, _)| *workload).collect();
            let program = std::env::current_exe().map_err(|error| Error::file(Path::new("self"), error))?;
            let output = Command::new(&program)
                .args([self.target, "--workload", &names.join(","), "--config", &config, "--quiet"])
                .args(self.load_args())
                .arg("--existing")
                .arg(&store)
                .arg("--json")
                .arg(&json)
                .output()
                .map_err(|error| Error::file(&program, error))?;
            cached = held.map(PageCache::end);
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(Error::target(
                    "a run of the table",
                    format!("{} {names:?}: {said}", self.target),
                ));
            }
        }
        let others = before.others_until(Cpu::now());
        let text = std::fs::read_to_string(&json).map_err(|error| Error::file(&json, error))?;
        let runs: Vec<Run> = text
            .lines()
            .map(|line| serde_json::from_str(line).map_err(|why| Error::file(&json, why)))
            .collect::<Result<_>>()?;
        let rows = self.group.steps.iter().map(|(_, row)| *row);
        let measured = runs
            .into_iter()
            .zip(rows)
            .filter_map(|(run, row)| Some(Run { label: Some(row?.to_owned()), repeat: self.repeat, ..run }));
        let mut measured: Vec<Run> = measured.collect();
        if let Some(cached) = cached {
            if cached > LIMIT_SLACK * limit as f64 {
                eprintln!(
                    "{}: of its files {cached:.0} bytes stayed cached, not {limit}: left out",
                    self.target
                );
                measured.clear();
            }
            let told = format!("held to {limit} bytes; {cached:.0} on average");
            for run in &mut measured {
                run.configuration.insert("page cache".to_owned(), told.clone());
            }
        }
        Ok((measured, others))
    }

    /// What each process runs, with its settings: the second one opens what the first has closed.
    fn processes(&self) -> Vec<(Steps, String)> {
        let steps = self.group.steps;
        let data = self.data_bytes();
        match self.group.memory {
            Memory::Budget(bytes) => vec![(steps, self.budget(self.scaled(bytes)))],
            Memory::TenthOfData => vec![(steps, self.budget(data / 10))],
            Memory::CacheTenth(bytes) => {
                vec![(&steps[..1], self.budget(self.scaled(bytes))), (&steps[1..], self.cache(data / 10))]
            }
        }
    }

    fn data_bytes(&self) -> u64 {
        self.keys() * (KEY_BYTES + VALUE_BYTES)
    }

    fn keys(&self) -> u64 {
        self.scale.keys * self.group.keys_per_thousand / 1000
    }

    fn scaled(&self, bytes: usize) -> u64 {
        (bytes as u64) * self.scale.keys / KEYS_OF_BUDGETS
    }

    /// The target's setting for a budget.
    fn budget(&self, bytes: u64) -> String {
        match self.target {
            "bare" | "null" => String::new(),
            _ => format!("memory={bytes}"),
        }
    }

    /// The target's setting for a block cache of so many bytes; of Haypile's budget, it is a quarter.
    fn cache(&self, bytes: u64) -> String {
        match self.target {
            "haypile" => format!("memory={}", 4 * bytes),
            _ => format!("memory={},cache={bytes}", 2 * bytes),
        }
    }

    fn load_args(&self) -> Vec<String> {
        let group = self.group;
        let mut args = vec![
            format!("--keys={}", self.keys()),
            format!("--key-size={KEY_BYTES}"),
            format!("--value={VALUE_BYTES}"),
            format!("--threads={}", group.threads),
            format!("--settle={}", group.settle),
            format!("--seed={}", self.repeat),
        ];
        args.push(match group.amount {
            Amount::PerThousand(count) => format!("--ops={}", self.scale.keys * count / 1000),
            Amount::Seconds(seconds) if self.scale.quick => format!("--duration={}", seconds * QUICK),
            Amount::Seconds(seconds) => format!("--duration={seconds}"),
        });
        args
    }
}

/// The machine's CPU time, in ticks.
#[derive(Clone, Copy, Debug, Default)]
struct Cpu {
    /// Of all processors.
    all: u64,
    /// In which something ran.
    busy: u64,
    /// Of processes that this one has started and that have ended.
    ours: u64,
}

impl Cpu {
    fn now() -> Cpu {
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let stat = file("/proc/stat");
        let ticks: Vec<u64> = stat
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .take(8)
            .filter_map(|word| word.parse().ok())
            .collect();
        let own = file("/proc/self/stat");
        let fields: Vec<u64> = own
            .rsplit_once(')')
            .map_or("", |(_, rest)| rest)
            .split_whitespace()
            .skip(13)
            .take(2)
            .filter_map(|word| word.parse().ok())
            .collect();
        let all = ticks.iter().sum();
        // The fourth and fifth are idle and waiting for devices.
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        Cpu { all, busy: all - idle, ours: fields.iter().sum() }
    }

    /// The share of the machine that was neither idle nor ours.
    fn others_until(self, later: Cpu) -> f64 {
        let all = later.all.saturating_sub(self.all).max(1);
        let busy = later.busy.saturating_sub(self.busy);
        busy.saturating_sub(later.ours.saturating_sub(self.ours)) as f64 / all as f64
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::GROUPS;
    use super::*;

    #[test]
    fn a_tenth_of_the_data_is_the_cache_of_each_target_after_opening_it_again() {
        let group = GROUPS.iter().find(|group| group.name == "tenth").unwrap();
        let scale = Scale { keys: 1_000_000, quick: false };
        for (target, wanted) in
            [("haypile", "memory=46400000"), ("rocksdb", "memory=23200000,cache=11600000")]
        {
            let cell = Cell { group, target, scale, repeat: 1 };
            let processes = cell.processes();
            assert_eq!((processes.len(), processes[0].0.len()), (2, 1));
            assert_eq!(processes[0].1, "memory=268435456");
            assert_eq!(processes[1].1, wanted);
        }
    }

    #[test]
    fn what_nobody_used_is_not_others() {
        let before = Cpu { all: 1000, busy: 300, ours: 100 };
        let later = Cpu { all: 1200, busy: 400, ours: 160 };
        assert_eq!(before.others_until(later), 0.2);
        assert!(Cpu::now().all > 0);
    }
}
