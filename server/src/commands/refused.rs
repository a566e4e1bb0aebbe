//! Commands of Redis that are refused on purpose: each says so, and what there is instead.

use crate::cx::Fail;
use crate::session::SessionCx;
use crate::table::{Command, Flags, Keys, Run};

/// See the file's head.
#[rustfmt::skip]
pub const COMMANDS: &[Command] = &[
    row("asking", 1, "cluster", "3.0.0"),
    row("bgrewriteaof", 1, "server", "1.0.0"),
    row("cluster", -2, "cluster", "3.0.0"),
    row("failover", -1, "server", "6.2.0"),
    row("migrate", -6, "generic", "2.6.0"),
    row("module", -2, "server", "4.0.0"),
    row("move", 3, "generic", "1.0.0"),
    row("psync", -3, "server", "2.8.0"),
    row("readonly", 1, "cluster", "3.0.0"),
    row("readwrite", 1, "cluster", "3.0.0"),
    row("swapdb", 3, "server", "4.0.0"),
    row("sync", 1, "server", "1.0.0"),
];

/// Redis' own words where there is no cluster: clients know them.
const NO_CLUSTER: &str = "ERR This instance has cluster support disabled";

/// What a client is told.
#[rustfmt::skip]
const WORDS: &[(&str, &str)] = &[
    ("asking", NO_CLUSTER),
    ("bgrewriteaof", "ERR BGREWRITEAOF is refused: there is no append-only file, and old log goes by itself; for a copy use BGSAVE"),
    ("cluster", NO_CLUSTER),
    ("failover", "ERR FAILOVER is refused: hand slots over with PKCLUSTER SLOTSSLAVEOF NO ONE on the replica"),
    ("migrate", "ERR MIGRATE is refused: move slots with PKCLUSTER or Codis, and single keys with DUMP and RESTORE"),
    ("module", "ERR MODULE is refused: there are no modules"),
    ("move", "ERR MOVE is refused: only database 0 holds data"),
    ("psync", "ERR PSYNC is refused: replicas are nodes of this kind, set up with PKCLUSTER SLOTSSLAVEOF or REPLICAOF"),
    ("readonly", NO_CLUSTER),
    ("readwrite", NO_CLUSTER),
    ("swapdb", "ERR SWAPDB is refused: only database 0 holds data"),
    ("sync", "ERR SYNC is refused: replicas are nodes of this kind, set up with PKCLUSTER SLOTSSLAVEOF or REPLICAOF"),
];

const fn row(name: &'static str, arity: i32, group: &'static str, since: &'static str) -> Command {
    let summary = "Refused; the answer says what to use.";
    let flags = Flags::NONE;
    Command { name, arity, flags, keys: Keys::None, group, since, summary, run: Run::Session(refuse) }
}

fn refuse(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let name = cx.arg(0);
    let words = WORDS.iter().find(|(known, _)| known.as_bytes().eq_ignore_ascii_case(name));
    Err(Fail::error(words.map_or("ERR refused", |(_, words)| words)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Bench;

    #[test]
    fn every_refusal_has_words_of_its_own() {
        let mut bench = Bench::new();
        for command in COMMANDS {
            let args = vec!["x"; usize::try_from(command.arity.unsigned_abs()).expect("small") - 1];
            let told = bench.run(&format!("{} {}", command.name, args.join(" ")));
            let words = WORDS.iter().find(|(name, _)| *name == command.name).expect("words").1;
            assert_eq!(told, format!("-{words}"), "{}", command.name);
        }
        assert_eq!(WORDS.len(), COMMANDS.len());
    }
}
