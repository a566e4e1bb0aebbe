//! INFO's sections on commands: how often they were called and how long they took, and which errors they answered.

use super::info::Lines;
use crate::measured::percentile;
use crate::node::Node;
use crate::table;

/// `commandstats`.
#[allow(clippy::cast_precision_loss)] // two decimals are shown
pub fn commands(node: &Node, lines: &mut Lines) {
    for command in table::every() {
        let figures = node.measured.of(command);
        if figures.calls + figures.rejected + figures.failed == 0 {
            continue;
        }
        let us = figures.took_ns / 1000;
        let each =
            if figures.calls == 0 { 0.0 } else { figures.took_ns as f64 / 1000.0 / figures.calls as f64 };
        lines.put(
            &format!("cmdstat_{}", command.name),
            format_args!(
                "calls={},usec={us},usec_per_call={each:.2},rejected_calls={},failed_calls={}",
                figures.calls, figures.rejected, figures.failed
            ),
        );
    }
}

/// `latencystats`.
#[allow(clippy::cast_precision_loss)] // three decimals are shown
pub fn latencies(node: &Node, lines: &mut Lines) {
    for command in table::every() {
        let figures = node.measured.of(command);
        if figures.calls == 0 {
            continue;
        }
        let us = |share: f64| percentile(&figures.latencies, share) as f64 / 1000.0;
        lines.put(
            &format!("latency_percentiles_usec_{}", command.name),
            format_args!("p50={:.3},p99={:.3},p99.9={:.3}", us(0.5), us(0.99), us(0.999)),
        );
    }
}

/// `errorstats`.
pub fn errors(node: &Node, lines: &mut Lines) {
    for (code, count) in node.measured.errors() {
        lines.put(&format!("errorstat_{code}"), format_args!("count={count}"));
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    #[test]
    fn calls_failures_and_errors_are_counted() {
        let mut bench = Bench::new();
        bench.check(
            "set k v        -> +OK
             get k          -> $1 v
             get            -> -ERR wrong number of arguments for 'get' command
             lpush k a      -> -WRONGTYPE Operation against a key holding the wrong kind of value
             nosuch         -> -ERR unknown command 'nosuch', with args beginning with:
             client id      -> :1
             multi          -> +OK
             get k          -> +QUEUED
             exec           -> *1 $1 v
             eval \"redis.call('get', KEYS[1])\" 1 k -> $-1",
        );
        let told = bench.run("info commandstats errorstats latencystats");
        for part in [
            "cmdstat_set:calls=1,",
            "cmdstat_get:calls=2,",
            "rejected_calls=1,failed_calls=0",
            "cmdstat_client|id:calls=1,",
            "cmdstat_exec:calls=1,",
            "errorstat_ERR:count=2",
            "errorstat_WRONGTYPE:count=1",
            "latency_percentiles_usec_get:p50=",
        ] {
            assert!(told.contains(part), "{part} in {told}");
        }
        assert!(told.contains("cmdstat_lpush:calls=1,") && told.contains("failed_calls=1"));
        bench.run("config resetstat");
        assert!(!bench.run("info commandstats").contains("cmdstat_get"));
        assert!(!bench.run("info").contains("cmdstat") && bench.run("info all").contains("cmdstat"));
    }
}
