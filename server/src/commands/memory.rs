//! MEMORY: what keys and the node take of it.

use haypile_engine::key::Key;
use haypile_engine::value::Value;

use crate::cx::{Cx, Fail, integer, is};
use crate::files::read_kernel;
use crate::kind::Kind;
use crate::node::Node;
use crate::session::SessionCx;
use crate::table::{Command, Flags, Group, Keys};
use crate::types::dict::Dict;
use crate::types::zset::Zset;

const T: Group = Group("server");

/// See the file's head.
pub const COMMANDS: &[Command] =
    &[T.family("memory", Flags::NONE, "4.0.0", "Tells what keys and the node take of memory.", SUBS)];

#[rustfmt::skip]
const SUBS: &[Command] = &[
    T.session("memory|doctor", 2, Flags::NONE, "4.0.0", "Says whether something is amiss with memory.", doctor)
        .differs("speaks of the engine's budget and of writers that waited for it"),
    T.session("memory|malloc-stats", 2, Flags::NONE, "4.0.0", "Tells what the kernel knows of the process's memory.", malloc_stats)
        .differs("the system's allocator keeps no statistics: what the kernel counts for the process"),
    T.session("memory|purge", 2, Flags::NONE, "4.0.0", "Does nothing: the allocator gives back what it can by itself.", |cx| {
        cx.reply.ok();
        Ok(())
    })
    .differs("there is nothing to purge: the allocator gives memory back by itself"),
    T.session("memory|stats", 2, Flags::OVER_SLOTS, "4.0.0", "Tells what takes how much memory.", stats)
        .differs("the parts are the engine's: memtables, block cache, indexes and filters, log tail"),
    T.data("memory|usage", -3, Flags::READONLY, Keys::Range { first: 2, last: 2, step: 1 }, "4.0.0", "Tells how many bytes a key takes.", usage)
        .differs("bytes of the key with its value, uncompressed, as they lie on disk; what elements take is estimated from samples"),
];

/// The process's resident set, in bytes.
#[must_use]
pub fn resident(node: &Node) -> u64 {
    // The second number of /proc/self/statm is the resident set in pages.
    read_kernel(&*node.fs, "/proc/self/statm", 256)
        .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok())
        .map_or(0, |pages| pages * rustix::param::page_size() as u64)
}

fn doctor(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let (stats, budget) = (cx.node.engine.stats(), cx.node.config.now().memory_bytes);
    let text = if stats.stalls > 0 {
        format!(
            "Sam, writers waited {} times for memory, {} ms together: the device takes flushes more slowly than clients write. \
             A larger maxmemory ({budget} bytes now) evens out bursts, and nothing else.\n",
            stats.stalls,
            stats.stalled.as_millis(),
        )
    } else {
        "Hi Sam, I can't find any memory issue in your instance. I can only account for what occurs on this base.\n"
            .to_owned()
    };
    cx.reply.verbatim("txt", &text);
    Ok(())
}

fn malloc_stats(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let text = read_kernel(&*cx.node.fs, "/proc/self/status", 16 << 10).unwrap_or_default();
    let lines: String =
        text.lines().filter(|line| line.starts_with("Vm")).map(|line| format!("{line}\n")).collect();
    cx.reply.verbatim("txt", &lines);
    Ok(())
}

fn stats(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let (node, stats) = (cx.node, cx.node.engine.stats());
    let keys: u64 = super::walk::key_counts(node).iter().map(|(_, keys)| keys).sum();
    let rows = [
        ("total.allocated", resident(node)),
        ("maxmemory", node.config.now().memory_bytes),
        ("memtables", stats.memtable_bytes as u64),
        ("block.cache", stats.cache_bytes),
        ("indexes.and.filters", stats.pinned_bytes as u64),
        ("log.tail", stats.log_tail_bytes as u64),
        ("clients.count", node.clients.count() as u64),
        ("keys.count", keys),
    ];
    cx.reply.map(rows.len());
    for (name, value) in rows {
        cx.reply.bulk(name.as_bytes());
        cx.reply.integer(i64::try_from(value).unwrap_or(i64::MAX));
    }
    Ok(())
}

fn usage(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let key = cx.key(0);
    let samples = match &cx.args[3..] {
        [] => 5,
        [option, count] if is(option, "samples") => {
            usize::try_from(integer(count)?).map_err(|_| Fail::syntax())?
        }
        _ => return Err(Fail::syntax()),
    };
    let Some(value) = cx.tx.get(key)? else {
        cx.reply.null();
        return Ok(());
    };
    let own = key.entry().len() + value.encoded_len();
    let elements = match value.generation {
        None => 0,
        Some(generation) => {
            let samples = if samples == 0 { usize::MAX } else { samples };
            elements_bytes(cx, key, &value, generation, samples)?
        }
    };
    cx.reply.count(own + elements);
    Ok(())
}

/// How many bytes the elements of a large collection take, by the average of a few.
fn elements_bytes(
    cx: &mut Cx<'_>,
    key: &Key,
    value: &Value,
    generation: haypile_engine::key::Generation,
    samples: usize,
) -> Result<usize, Fail> {
    use std::ops::Bound::Unbounded;

    use haypile_engine::read::Direction;

    // An element's key has its collection's, with the generation.
    const GENERATION_BYTES: usize = 8;
    let len = match Kind::of(value) {
        Some(Kind::List) => crate::types::list::List::decode(key, value)?.len(),
        Some(Kind::Set) => Dict::set(key, value)?.len(),
        Some(Kind::Hash) => Dict::hash(key, value)?.len(),
        // Each member has two: by its name and by its score.
        Some(Kind::SortedSet) => Zset::decode(key, value)?.len() * 2,
        _ => samples,
    };
    let page = cx.tx.elements(key, generation, Unbounded, Unbounded, Direction::Forward, samples)?;
    let taken: usize =
        page.iter().map(|(sub, value)| key.entry().len() + GENERATION_BYTES + sub.len() + value.len()).sum();
    Ok(if page.is_empty() { 0 } else { taken * len.max(page.len()) / page.len() })
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    #[test]
    fn the_node_tells_of_its_memory() {
        let mut bench = Bench::new();
        bench.check(
            "memory purge     -> +OK
             memory usage     -> -ERR wrong number of arguments for 'memory|usage' command
             memory foo       -> -ERR unknown subcommand 'foo'. Try MEMORY HELP.",
        );
        assert!(bench.run("memory doctor").contains("can't find any memory issue"));
        assert!(bench.run("memory stats").contains("$11 block.cache :"));
        assert!(bench.run("memory help").contains("+USAGE key [SAMPLES count]"));
    }
}
