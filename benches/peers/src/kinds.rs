//! The targets by their names on the command line.

use haypile_bench::cli::Kind;
use haypile_bench::files;
use haypile_bench::targets::engine::EngineTarget;
use haypile_bench::targets::null::Null;

use crate::bare::Bare;
use crate::fjall::Fjall;
use crate::leveled::Leveled;
use crate::redb::Redb;
use crate::sled::Sled;

/// Nothing: what making and timing operations costs by itself.
pub const NULL: Kind = Kind {
    name: "null",
    about: "nothing: what making and timing operations costs by itself",
    settings: "",
    open: |_, config, _| {
        config.all_used()?;
        Ok(Box::new(Null))
    },
};

/// All stores.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "haypile",
        about: "Haypile's storage engine",
        settings: "memory=256m,segment=64m,block=4k,compress=yes,layout=keys|ordered",
        open: |dir, config, plan| Ok(Box::new(EngineTarget::open(files::real(), dir, config, plan)?)),
    },
    Kind {
        name: "rocksdb",
        about: "RocksDB, Debian's librocksdb",
        settings: "memory=256m,buffer=64m,cache=128m,block=4k,compress=yes,hash_index=no,statistics=no,file=64m",
        open: |dir, config, _| Ok(Box::new(Leveled::rocksdb(dir, config)?)),
    },
    Kind {
        name: "leveldb",
        about: "LevelDB, Debian's libleveldb",
        settings: "memory=256m,buffer=64m,cache=128m,block=4k,compress=yes,file=2m",
        open: |dir, config, _| Ok(Box::new(Leveled::leveldb(dir, config)?)),
    },
    Kind {
        name: "fjall",
        about: "fjall",
        settings: "memory=256m,buffer=64m,cache=128m",
        open: |dir, config, _| Ok(Box::new(Fjall::open(dir, config)?)),
    },
    Kind {
        name: "redb",
        about: "redb",
        settings: "memory=256m,cache=256m",
        open: |dir, config, _| Ok(Box::new(Redb::open(dir, config)?)),
    },
    Kind {
        name: "sled",
        about: "sled",
        settings: "memory=256m,cache=256m,flush_ms=500",
        open: |dir, config, _| Ok(Box::new(Sled::open(dir, config)?)),
    },
    Kind {
        name: "bare",
        about: "a log that is appended to, and a map in memory: what the kernel allows",
        settings: "",
        open: |dir, config, _| Ok(Box::new(Bare::open(dir, &config)?)),
    },
];
