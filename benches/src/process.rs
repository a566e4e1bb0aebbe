//! What can be seen of a process from outside, the same for every target: `/proc/PID` and the folder of its files.
//!
//! Linux only. What can't be read (a process of another user, another machine) is unknown, which is not 0.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A process at one moment.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    /// CPU seconds in user mode, all threads.
    pub user_seconds: f64,
    /// CPU seconds in the kernel, all threads.
    pub system_seconds: f64,
    /// Bytes that were fetched from devices.
    pub read_bytes: u64,
    /// Bytes that were or will be sent to devices.
    pub write_bytes: u64,
    /// Bytes that read calls gave, from devices or not.
    pub read_call_bytes: u64,
    /// Bytes that write calls took, to files and sockets.
    pub write_call_bytes: u64,
    /// Memory that it has now.
    pub rss_bytes: u64,
    /// The most that it ever had.
    pub rss_peak_bytes: u64,
}

impl Sample {
    /// CPU seconds in all.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        self.user_seconds + self.system_seconds
    }
}

/// A process that is watched.
#[derive(Clone, Debug)]
pub struct Process {
    folder: String,
    ticks: f64,
}

impl Process {
    /// Watches a process by its number.
    #[must_use]
    pub fn new(pid: u32) -> Process {
        Process { folder: format!("/proc/{pid}"), ticks: rustix::param::clock_ticks_per_second() as f64 }
    }

    /// Looks at it; `None` if it can't be seen.
    #[must_use]
    pub fn sample(&self) -> Option<Sample> {
        let file = |name: &str| std::fs::read_to_string(format!("{}/{name}", self.folder)).ok();
        let (user, system) = cpu_ticks(&file("stat")?)?;
        let status = file("status")?;
        let io = file("io")?;
        let io = |name| field(&io, name);
        Some(Sample {
            user_seconds: user as f64 / self.ticks,
            system_seconds: system as f64 / self.ticks,
            read_bytes: io("read_bytes")?,
            write_bytes: io("write_bytes")?.saturating_sub(io("cancelled_write_bytes")?),
            read_call_bytes: io("rchar")?,
            write_call_bytes: io("wchar")?,
            rss_bytes: field(&status, "VmRSS")? * 1024,
            rss_peak_bytes: field(&status, "VmHWM")? * 1024,
        })
    }
}

/// The number after `name:` at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Ticks in user mode and in the kernel, of `/proc/PID/stat`: the 14th and 15th field; the 2nd may hold anything.
fn cpu_ticks(stat: &str) -> Option<(u64, u64)> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Bytes that the files of a folder and those below it take on the device; a file with two names counts once. `None` if
/// the folder can't be read.
#[must_use]
pub fn disk_bytes(dir: &Path) -> Option<u64> {
    let mut seen = std::collections::HashSet::new();
    let mut folders = vec![dir.to_owned()];
    let mut bytes = 0;
    let mut first = true;
    while let Some(folder) = folders.pop() {
        // A store may remove any file while this walks.
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(_) if first => return None,
            Err(_) => continue,
        };
        first = false;
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                folders.push(entry.path());
            } else if seen.insert((meta.dev(), meta.ino())) {
                bytes += meta.blocks() * 512;
            }
        }
    }
    Some(bytes)
}

/// Threads of a process.
#[must_use]
pub fn thread_count(pid: u32) -> Option<usize> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    usize::try_from(field(&status, "Threads")?).ok()
}

/// Files in a folder and those below it.
#[must_use]
pub fn file_count(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { file_count(&entry.path()) } else { 1 }).sum()
}

/// What the whole machine did while something was measured.
#[derive(Clone, Copy, Debug)]
pub struct OtherCpu {
    busy: f64,
    own: f64,
}

impl OtherCpu {
    /// From now on.
    #[must_use]
    pub fn begin() -> OtherCpu {
        // The first line: user, nice, system, idle, iowait, irq, softirq, steal.
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let ticks: Vec<u64> = stat
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .take(8)
            .filter_map(|word| word.parse().ok())
            .collect();
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        let busy = ticks.iter().sum::<u64>() - idle;
        let own = Process::new(std::process::id()).sample().map_or(0.0, |sample| sample.cpu_seconds());
        OtherCpu { busy: busy as f64 / rustix::param::clock_ticks_per_second() as f64, own }
    }

    /// How many cores others took than this process and the run's target, in words.
    #[must_use]
    pub fn end(self, run: &crate::record::Run) -> String {
        let now = OtherCpu::begin();
        let target = run.outside.as_ref().map_or(0.0, |of| of.user_seconds + of.system_seconds);
        let others = (now.busy - self.busy - (now.own - self.own) - target).max(0.0);
        let cores = others / (run.seconds + run.settle_seconds).max(1e-9);
        format!("others took {cores:.2} cores")
    }
}

/// The machine, for reports: processor, cores, memory, kernel.
#[must_use]
pub fn machine() -> Vec<(String, String)> {
    let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = file("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = field(&file("/proc/meminfo"), "MemTotal").unwrap_or_default() >> 10;
    vec![
        ("processor".to_owned(), model.map_or("unknown", |(_, name)| name.trim()).to_owned()),
        ("cores".to_owned(), cores.to_string()),
        ("memory".to_owned(), format!("{memory} MiB")),
        ("kernel".to_owned(), file("/proc/sys/kernel/osrelease").trim().to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_a_strange_name_is_read() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 12 34 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu_ticks(stat), Some((12, 34)));
        assert_eq!(cpu_ticks("7 (a"), None);
        assert_eq!(field("VmHWM:\t   5 kB\nVmRSS:\t 3 kB\n", "VmRSS"), Some(3));
        assert_eq!(field("x", "VmRSS"), None);
    }

    #[test]
    fn this_process_can_be_seen_and_one_that_is_not_there_is_unknown() {
        let sample = Process::new(std::process::id()).sample().expect("this is Linux");
        assert!(sample.rss_bytes > 0 && sample.rss_peak_bytes >= sample.rss_bytes);
        assert_eq!(Process::new(u32::MAX).sample(), None);
        assert_eq!(disk_bytes(Path::new("/there/is/no/such/folder")), None);
    }

    #[test]
    fn a_file_with_two_names_takes_its_space_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = tempfile::NamedTempFile::new_in(dir.path()).expect("a file");
        file.as_file().set_len(0).expect("sets");
        std::io::Write::write_all(&mut file.as_file(), &[1; 10_000]).expect("writes");
        file.as_file().sync_all().expect("syncs");
        let one = disk_bytes(dir.path()).expect("reads");
        std::fs::hard_link(file.path(), dir.path().join("second")).expect("links");
        assert!(one >= 10_000);
        assert_eq!(disk_bytes(dir.path()), Some(one));
    }
}
