//! Commands of Redis that are refused on purpose: each says so, and what there is instead.

use crate::table::{Command, Flags, Group};

const CLUSTER: Group = Group("cluster");
const GENERIC: Group = Group("generic");
const HYPERLOGLOG: Group = Group("hyperloglog");
const SERVER: Group = Group("server");

/// Redis' own words where there is no cluster: clients know them.
const NO_CLUSTER: &str = "ERR This instance has cluster support disabled";
const NO_MODULES: &str = "ERR MODULE is refused: there are no modules";

/// See the file's head.
#[rustfmt::skip]
pub const COMMANDS: &[Command] = &[
    CLUSTER.family("cluster", Flags::NONE, "3.0.0", "Refused: this is no Redis Cluster; slots are moved with PKCLUSTER or Codis.", CLUSTER_SUBS),
    SERVER.family("module", Flags::NONE, "4.0.0", "Refused: there are no modules.", MODULE_SUBS),
    CLUSTER.refused("asking", 1, "3.0.0", NO_CLUSTER),
    SERVER.refused("bgrewriteaof", 1, "1.0.0", "ERR BGREWRITEAOF is refused: there is no append-only file, and old log goes by itself; for a copy use BGSAVE"),
    SERVER.refused("failover", -1, "6.2.0", "ERR FAILOVER is refused: hand slots over with PKCLUSTER SLOTSSLAVEOF NO ONE on the replica"),
    GENERIC.refused("migrate", -6, "2.6.0", "ERR MIGRATE is refused: move slots with PKCLUSTER or Codis, and single keys with DUMP and RESTORE"),
    GENERIC.refused("move", 3, "1.0.0", "ERR MOVE is refused: only database 0 holds data"),
    HYPERLOGLOG.refused("pfdebug", 3, "2.8.9", "ERR PFDEBUG is refused: it is for Redis' own developers"),
    HYPERLOGLOG.refused("pfselftest", 1, "2.8.9", "ERR PFSELFTEST is refused: it is for Redis' own developers"),
    SERVER.refused("psync", -3, "2.8.0", "ERR PSYNC is refused: replicas are nodes of this kind, set up with PKCLUSTER SLOTSSLAVEOF or REPLICAOF"),
    CLUSTER.refused("readonly", 1, "3.0.0", NO_CLUSTER),
    CLUSTER.refused("readwrite", 1, "3.0.0", NO_CLUSTER),
    SERVER.refused("replconf", -1, "3.0.0", "ERR REPLCONF is refused: replicas are nodes of this kind, set up with PKCLUSTER SLOTSSLAVEOF or REPLICAOF"),
    SERVER.refused("swapdb", 3, "4.0.0", "ERR SWAPDB is refused: only database 0 holds data"),
    SERVER.refused("sync", 1, "1.0.0", "ERR SYNC is refused: replicas are nodes of this kind, set up with PKCLUSTER SLOTSSLAVEOF or REPLICAOF"),
];

#[rustfmt::skip]
const CLUSTER_SUBS: &[Command] = &[
    CLUSTER.refused("cluster|addslots", -3, "3.0.0", NO_CLUSTER),
    CLUSTER.refused("cluster|addslotsrange", -4, "7.0.0", NO_CLUSTER),
    CLUSTER.refused("cluster|bumpepoch", 2, "3.0.0", NO_CLUSTER),
    CLUSTER.refused("cluster|count-failure-reports", 3, "3.0.0", NO_CLUSTER),
    CLUSTER.refused("cluster|countkeysinslot", 3, "3.0.0", NO_CLUSTER),
    CLUSTER.refused("cluster|delslots", -3, "3.0.0", NO_CLUSTER),
    CLUSTER.refused("cluster|delslotsrange", -4, "7.0.0", NO_CLUSTER),
    CLUSTER.refused("cluster|failover", -2, "3.0.0", NO_CLUSTER),
    CLUSTER.refused("cluster|flushslots", 2, "3.0.0", NO_CLUSTER),
    CLUSTER.refused("cluster|forget", 3, "3.0.0", NO_CLUSTER),
    CLUSTER.refused("cluster|getkeysinslot", 4, "3.0.0", NO_CLUSTER),
    CLUSTER.refused("cluster|info", 2, "3.0.0", NO_CLUSTER),
    CLUSTER.refused("cluster|keyslot", 3, "3.0.0", NO_CLUSTER),
    CLUSTER.refused("cluster|links", 2, "7.0.0", NO_CLUSTER),
    CLUSTER.refused("cluster|meet", -4, "3.0.0", NO_CLUSTER),
    CLUSTER.refused("cluster|myid", 2, "3.0.0", NO_CLUSTER),
    CLUSTER.refused("cluster|nodes", 2, "3.0.0", NO_CLUSTER),
    CLUSTER.refused("cluster|replicas", 3, "5.0.0", NO_CLUSTER),
    CLUSTER.refused("cluster|replicate", 3, "3.0.0", NO_CLUSTER),
    CLUSTER.refused("cluster|reset", -2, "3.0.0", NO_CLUSTER),
    CLUSTER.refused("cluster|saveconfig", 2, "3.0.0", NO_CLUSTER),
    CLUSTER.refused("cluster|set-config-epoch", 3, "3.0.0", NO_CLUSTER),
    CLUSTER.refused("cluster|setslot", -4, "3.0.0", NO_CLUSTER),
    CLUSTER.refused("cluster|shards", 2, "7.0.0", NO_CLUSTER),
    CLUSTER.refused("cluster|slaves", 3, "3.0.0", NO_CLUSTER),
    CLUSTER.refused("cluster|slots", 2, "3.0.0", NO_CLUSTER),
];

#[rustfmt::skip]
const MODULE_SUBS: &[Command] = &[
    SERVER.session("module|list", 2, Flags::NONE, "4.0.0", "Names no module: there are none.", |cx| {
        cx.reply.array(0);
        Ok(())
    }),
    SERVER.refused("module|load", -3, "4.0.0", NO_MODULES),
    SERVER.refused("module|loadex", -3, "7.0.0", NO_MODULES),
    SERVER.refused("module|unload", 3, "4.0.0", NO_MODULES),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Stand;
    use crate::testing::Bench;

    #[test]
    fn every_refusal_has_words_of_its_own() {
        let mut bench = Bench::new();
        let families = COMMANDS.iter().filter(|command| !command.subs.is_empty());
        for command in
            COMMANDS.iter().filter(|command| command.subs.is_empty()).chain(families.flat_map(|f| f.subs))
        {
            let Stand::Refused(words) = command.stand else {
                assert_eq!(command.name, "module|list");
                continue;
            };
            let words_given = command.name.split('|').count();
            let args = vec!["x"; usize::try_from(command.arity.unsigned_abs()).expect("small") - words_given];
            let told = bench.run(&format!("{} {}", command.name.replace('|', " "), args.join(" ")));
            assert_eq!(told, format!("-{words}"), "{}", command.name);
        }
        bench.check("module list -> *0");
    }
}
