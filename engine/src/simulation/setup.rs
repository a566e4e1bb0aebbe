//! The sets of options that are tried.

use crate::engine::{Options, SyncMode};
use crate::fs::memory::MemoryFs;

/// What the engine's disk is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disk {
    /// It keeps what it says.
    Honest,
    /// There are no links on it, so checkpoints copy.
    Linkless,
    /// Its syncs of files do nothing.
    Lying,
}

/// What a workload has besides what every one has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Besides {
    /// Nothing.
    Nothing,
    /// The disk runs full, stays so for a while, and has room again.
    FullDisk,
    /// The sync mode is changed while the engine runs.
    SyncModes,
    /// Keys live for a moment only, are read about when they expire, and every start finds the time of day turned back.
    Expiry,
}

/// A set of options under a name, with what the workload does on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setup {
    /// What it is called on a command line.
    pub name: &'static str,
    /// When a reply may leave.
    pub sync: SyncMode,
    /// [`Options::memory_bytes`]. Half of it is for memtables: with little, each flush is small; about a quarter is the
    /// block cache: with little, no block stays.
    pub memory_bytes: usize,
    /// [`Options::log_segment_bytes`].
    pub segment_bytes: u64,
    /// Whether blocks are compressed.
    pub compress: bool,
    /// What a block of a file aims at.
    pub block_bytes: usize,
    /// The longest value, in bytes.
    pub value_bytes_max: usize,
    /// How many steps its workload has.
    pub steps: usize,
    /// [`Options::manifest_bytes`].
    pub manifest_bytes: u64,
    /// What it runs on.
    pub disk: Disk,
    /// What happens besides.
    pub besides: Besides,
}

const SMALL: Setup = Setup {
    name: "small",
    sync: SyncMode::EverySec,
    memory_bytes: 1 << 20,
    segment_bytes: 64 << 10,
    compress: true,
    block_bytes: 8 << 10,
    value_bytes_max: 300,
    steps: 120,
    manifest_bytes: 1 << 20,
    disk: Disk::Honest,
    besides: Besides::Nothing,
};

impl Setup {
    /// All sets. The first is the small workload that speed is measured with.
    pub const ALL: &[Setup] = &[
        SMALL,
        Setup { name: "always", sync: SyncMode::Always, ..SMALL },
        Setup { name: "no-sync", sync: SyncMode::No, ..SMALL },
        Setup { name: "expiring", steps: 60, besides: Besides::Expiry, ..SMALL },
        Setup { name: "tiny-memory", memory_bytes: 4 << 10, block_bytes: 64, value_bytes_max: 200, ..SMALL },
        Setup {
            name: "uncompressed",
            compress: false,
            block_bytes: 512,
            value_bytes_max: 1500,
            disk: Disk::Linkless,
            ..SMALL
        },
        Setup { name: "many-segments", value_bytes_max: 12_000, memory_bytes: 64 << 10, steps: 80, ..SMALL },
        Setup {
            name: "spanning",
            sync: SyncMode::Always,
            value_bytes_max: 60_000,
            memory_bytes: 64 << 10,
            steps: 50,
            ..SMALL
        },
        Setup { name: "large-segment", segment_bytes: 1 << 20, value_bytes_max: 3000, steps: 100, ..SMALL },
        Setup { name: "many-manifests", manifest_bytes: 256, ..SMALL },
        Setup {
            name: "full-disk",
            value_bytes_max: 12_000,
            memory_bytes: 64 << 10,
            besides: Besides::FullDisk,
            ..SMALL
        },
        Setup { name: "sync-modes", besides: Besides::SyncModes, ..SMALL },
    ];

    /// A set on which promises can't be kept: whoever looks for broken ones must find some here.
    pub const CANARY: Setup = Setup { name: "lying-disk", disk: Disk::Lying, ..SMALL };

    /// A new disk.
    #[must_use]
    pub fn new_disk(&self) -> MemoryFs {
        let fs = MemoryFs::new();
        match self.disk {
            Disk::Honest => {}
            Disk::Linkless => fs.forbid_links(),
            Disk::Lying => fs.ignore_syncs(),
        }
        fs
    }

    /// The set of this name, the canary too.
    #[must_use]
    pub fn named(name: &str) -> Option<Setup> {
        Setup::ALL.iter().copied().chain([Setup::CANARY]).find(|setup| setup.name == name)
    }

    /// The engine's options, for a start that draws its names from `seed`.
    #[must_use]
    pub fn options(&self, seed: u64) -> Options {
        Options {
            sync: self.sync,
            memory_bytes: self.memory_bytes,
            log_segment_bytes: self.segment_bytes,
            compress: self.compress,
            block_bytes: self.block_bytes,
            manifest_bytes: self.manifest_bytes,
            seed: Some(seed),
            ..Options::default()
        }
    }
}
