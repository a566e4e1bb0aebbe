//! SLAVEOF, REPLICAOF, ROLE and INFO's section on replication: the node as a whole, in the words of Redis. Also the
//! command by which another node asks for the log.
//!
//! Roles are per slot here. To Redis' tools the node is a slave only if all its slots follow one common master, and a peer
//! is its slave only if it follows all slots that this node owns (of one that owns none, all that it has): a slot that
//! moves to or from another group meanwhile must not change what a sentinel sees.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use haypile_engine::slot::Role;
use haypile_engine::types::Slot;
use haypile_replication::status::{CopyProgress, PeerStatus};
use haypile_replication::transport::{SyncHello, split_address};
use tokio::io::AsyncWriteExt;

use super::info::Lines;
use super::pkcluster::grammar;
use crate::cx::{Fail, is};
use crate::execute;
use crate::node::Node;
use crate::session::{SessionCx, Taken};
use crate::table::{Command, Flags, Group, Keys, Pending, Run};
use crate::topology::{self, SlotView};
use crate::whole;

const ADMIN: Flags = Flags::ADMIN.with(Flags::DANGEROUS);

const T: Group = Group("server");

/// See the file's head.
pub const COMMANDS: &[Command] = &[
    T.waiting("slaveof", -3, ADMIN, "1.0.0", "Lets all slots follow another node, or none.", slave_of),
    T.waiting(
        "replicaof",
        -3,
        ADMIN.with(Flags::OPERATOR),
        "5.0.0",
        "Lets all slots follow another node, or none.",
        slave_of,
    ),
    T.session("role", 1, Flags::FAST, "2.8.12", "Tells whether the node is a master or a slave.", role),
    T.row(
        "haypile.sync",
        4,
        ADMIN.with(Flags::NO_MULTI).with(Flags::OPERATOR),
        Keys::None,
        "1.0.0",
        "Makes the connection one between nodes.",
        Run::Takeover(sync),
    )
    .own(),
];

fn slave_of<'a>(cx: &'a mut SessionCx<'_>) -> Pending<'a> {
    Box::pin(async move {
        let (host, port) = (cx.arg(1), cx.arg(2));
        match &cx.args[3..] {
            [] => {}
            // SLAVEOF replaces what is here anyway, as in Redis; Pika's dashboard says so in words.
            [word] if is(word, "force") || is(word, "-f") => {}
            _ => return Err(Fail::syntax()),
        }
        let done = if is(host, "no") && is(port, "one") {
            whole::no_one(cx.node).await
        } else {
            let master = grammar::address(host, port).map_err(Fail::error)?;
            whole::follow(cx.node, &master).await
        };
        // A sentinel does not read the answer.
        done.inspect_err(|why| tracing::warn!(why = execute::words(why), "SLAVEOF failed"))?;
        cx.reply.ok();
        Ok(())
    })
}

/// The node as Redis' tools see it.
struct Overview {
    /// `host:port` of the node that all slots follow.
    master: Option<String>,
    /// Whether all slots have the connection.
    link_is_up: bool,
    /// Whether a copy is under way.
    is_copying: bool,
    /// For how long the link has been down, at most, in milliseconds.
    down_ms: u64,
    /// How long ago the master said something, at most, in milliseconds.
    heard_ms: Option<u64>,
    /// All records of the slots that a slave has to follow.
    offset: u64,
    /// The terms of their epochs, all together: who has more of these has the newer data.
    terms: u64,
    /// Whether no slot waits for its first copy.
    is_whole: bool,
    /// How many replicas count for `min-replicas-to-write`, of the slot that has fewest, if that is asked for.
    good_slaves: Option<usize>,
    /// Those that follow all slots.
    slaves: Vec<Peer>,
    /// Those that follow some.
    partial_slaves: Vec<Peer>,
}

/// A node that follows this one.
struct Peer {
    address: String,
    is_online: bool,
    slots: usize,
    /// Of these, those that a slave has to follow.
    needed: usize,
    /// Records that it has of the slots that it follows.
    offset: u64,
    /// How long ago it said something, in milliseconds.
    heard_ms: u64,
    /// Records that it lacks, of the slot where it lacks most.
    lag: u64,
}

impl Overview {
    fn of(node: &Node) -> Overview {
        Overview::of_views(node, &all_views(node))
    }

    fn of_views(node: &Node, views: &[SlotView]) -> Overview {
        let is_own = whole::is_own(node);
        let own: Vec<&SlotView> = views.iter().filter(|view| is_own(view)).collect();
        let mut overview = Overview::from_views(&own);
        if own.is_empty() {
            overview.master = node.moves.awaited_master();
        }
        overview
    }

    fn from_views(texts: &[&SlotView]) -> Overview {
        // What was handed over is not this node's any more.
        let kept: Vec<&SlotView> = texts
            .iter()
            .copied()
            .filter(|text| !matches!(text.role, Role::Moved { .. } | Role::Granted { .. }))
            .collect();
        // What comes from another group is not this node's yet.
        let is_owner = |text: &SlotView| text.role.owns();
        let owns_any = kept.iter().any(|text| is_owner(text));
        let is_needed = |text: &SlotView| !owns_any || is_owner(text);
        let needed: Vec<&SlotView> = kept.iter().copied().filter(|text| is_needed(text)).collect();
        let mut peers: BTreeMap<&str, Peer> = BTreeMap::new();
        for text in &kept {
            for replica in &text.replicas {
                let peer = peers.entry(&replica.address).or_insert_with(|| Peer {
                    address: replica.address.clone(),
                    is_online: true,
                    slots: 0,
                    needed: 0,
                    offset: 0,
                    heard_ms: 0,
                    lag: 0,
                });
                peer.slots += 1;
                if is_needed(text) {
                    peer.is_online &= replica.state == "SlaveBinlogSync";
                    peer.needed += 1;
                    peer.offset += text.last.0.saturating_sub(replica.lag);
                }
                peer.heard_ms = peer.heard_ms.max(replica.heard_ms);
                peer.lag = peer.lag.max(replica.lag);
            }
        }
        let (slaves, partial_slaves) = peers.into_values().partition(|peer| peer.needed == needed.len());
        let states = || kept.iter().map(|text| text.upstream.as_ref());
        let down = |state: &str| state != "kConnected";
        Overview {
            master: common_master(&kept),
            link_is_up: states().all(|upstream| upstream.is_some_and(|up| !down(up.state))),
            is_copying: states().flatten().any(|up| matches!(up.state, "kTryDBSync" | "kWaitDBSync")),
            down_ms: states().flatten().filter(|up| down(up.state)).map(|up| up.for_ms).max().unwrap_or(0),
            heard_ms: states().flatten().filter_map(|up| up.heard_ms).max(),
            offset: needed.iter().map(|text| text.last.0).sum(),
            terms: needed.iter().filter_map(|text| text.epoch).map(|epoch| u64::from(epoch.term)).sum(),
            is_whole: !needed.iter().any(|text| matches!(text.role, Role::Loading { .. })),
            good_slaves: None,
            slaves,
            partial_slaves,
        }
    }
}

fn all_views(node: &Node) -> Vec<SlotView> {
    topology::views(node, Slot::all().collect()).collect()
}

/// The node that all slots follow, if there is one.
fn common_master(texts: &[&SlotView]) -> Option<String> {
    let upstream = |text: &SlotView| match &text.role {
        Role::Replica { upstream } | Role::Loading { upstream } => Some(upstream.clone()),
        _ => None,
    };
    let first = upstream(texts.first()?)?;
    texts.iter().all(|text| upstream(text).as_ref() == Some(&first)).then_some(first)
}

/// What INFO calls the role: a slave only if all slots follow one master.
#[must_use]
pub fn role_word(node: &Node) -> &'static str {
    if Overview::of(node).master.is_some() { "slave" } else { "master" }
}

/// INFO's section.
pub fn section(node: &Node, lines: &mut Lines) {
    let id = node.engine.node().to_string();
    let views = all_views(node);
    let mut overview = Overview::of_views(node, &views);
    if node.config.now().replicas_min > 0 {
        let own = Slot::all().filter(|&slot| node.engine.role(slot).owns());
        overview.good_slaves = own.map(|slot| node.good_replicas(slot)).min();
    }
    put(&overview, &id, node.config.now().slave_priority, lines);
    put_copies(&views, lines);
    let peers = node.replication.peers();
    lines.put("peers", peers.len());
    for (index, peer) in peers.iter().enumerate() {
        let PeerStatus { address, slots, copying, lag_records, sent_bytes, in_flight_bytes, .. } = peer;
        lines.put(
            &format!("peer{index}"),
            format_args!(
                "addr={address},slots={slots},copying={copying},lag={lag_records},sent_bytes={sent_bytes},\
                 in_flight_bytes={in_flight_bytes}"
            ),
        );
    }
}

/// What the dashboard of Pika's Codis asks for besides, to choose whom it promotes: whether this node may be, and how much
/// it has.
pub fn election(node: &Node, lines: &mut Lines) {
    put_election(&Overview::of(node), lines);
}

fn put_election(overview: &Overview, lines: &mut Lines) {
    lines.put("is_eligible_for_master_election", overview.is_whole);
    let Overview { terms, offset, .. } = overview;
    lines.put("db0", format_args!("binlog_offset={terms} {offset},safety_purge=none"));
}

/// The copies under way, all slots together.
fn put_copies(views: &[SlotView], lines: &mut Lines) {
    let given = views.iter().flat_map(|view| &view.replicas).filter_map(|replica| replica.copy).collect();
    let taken = views.iter().filter_map(|view| view.upstream.as_ref()?.copy).collect::<Vec<_>>();
    for (name, copies) in [("copies_given", given), ("copies_taken", taken)] {
        let sum = |bytes: fn(&CopyProgress) -> u64| copies.iter().map(bytes).sum::<u64>();
        let (done, total) = (sum(|copy| copy.done), sum(|copy| copy.total));
        let rate = sum(|copy| copy.rate_bytes());
        let left = copies.iter().map(|copy| copy.left_s()).max().flatten();
        let left = left.map_or("-1".to_owned(), |left_s| left_s.to_string());
        let percent = CopyProgress { done, total, kept: 0, for_ms: 0 }.percent();
        lines.put(
            name,
            format_args!(
                "slots={},bytes={done},total_bytes={total},percent={percent},rate_bytes={rate},left_seconds={left}",
                copies.len()
            ),
        );
    }
}

fn put(overview: &Overview, id: &str, priority: u64, lines: &mut Lines) {
    if let Some((host, port)) = overview.master.as_deref().and_then(split_address) {
        lines.put("role", "slave");
        lines.put("master_host", host);
        lines.put("master_port", port);
        lines.put("master_link_status", if overview.link_is_up { "up" } else { "down" });
        match overview.heard_ms.filter(|_| overview.link_is_up) {
            Some(heard_ms) => lines.put("master_last_io_seconds_ago", heard_ms / 1000),
            None => lines.put("master_last_io_seconds_ago", -1),
        }
        lines.put("master_sync_in_progress", u8::from(overview.is_copying));
        lines.put("slave_read_repl_offset", overview.offset);
        lines.put("slave_repl_offset", overview.offset);
        if !overview.link_is_up {
            lines.put("master_link_down_since_seconds", overview.down_ms / 1000);
        }
        lines.put("slave_priority", priority);
        lines.put("slave_read_only", 1);
        lines.put("replica_announced", 1);
    } else {
        lines.put("role", "master");
    }
    lines.put("connected_slaves", overview.slaves.len());
    for (index, peer) in overview.slaves.iter().enumerate() {
        if let Some((ip, port)) = split_address(&peer.address) {
            let state = if peer.is_online { "online" } else { "wait_bgsave" };
            // As in Redis: how long ago it was heard.
            let (offset, lag) = (peer.offset, peer.heard_ms / 1000);
            let name = format!("slave{index}");
            lines.put(&name, format_args!("ip={ip},port={port},state={state},offset={offset},lag={lag}"));
        }
    }
    if let Some(good) = overview.good_slaves {
        lines.put("min_slaves_good_slaves", good);
    }
    lines.put("partial_slaves", overview.partial_slaves.len());
    for (index, peer) in overview.partial_slaves.iter().enumerate() {
        let Peer { address, slots, lag, .. } = peer;
        lines.put(&format!("partial_slave{index}"), format_args!("addr={address},slots={slots},lag={lag}"));
    }
    lines.put("master_failover_state", "no-failover");
    lines.put("master_replid", id);
    lines.put("master_repl_offset", overview.offset);
}

fn role(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let overview = Overview::of(cx.node);
    let offset = i64::try_from(overview.offset).unwrap_or(i64::MAX);
    if let Some((host, port)) = overview.master.as_deref().and_then(split_address) {
        cx.reply.array(5);
        cx.reply.bulk(b"slave");
        cx.reply.bulk(host.as_bytes());
        cx.reply.integer(i64::from(port));
        let state = match overview {
            Overview { link_is_up: true, .. } => "connected",
            Overview { is_copying: true, .. } => "sync",
            _ => "connect",
        };
        cx.reply.bulk(state.as_bytes());
        cx.reply.integer(offset);
        return Ok(());
    }
    cx.reply.array(3);
    cx.reply.bulk(b"master");
    cx.reply.integer(offset);
    cx.reply.array_of(|reply| {
        let slaves =
            overview.slaves.iter().filter_map(|peer| Some((split_address(&peer.address)?, peer.offset)));
        let mut count = 0;
        for ((ip, port), offset) in slaves {
            reply.array(3);
            reply.bulk(ip.as_bytes());
            reply.bulk_integer(i64::from(port));
            reply.bulk_integer(i64::try_from(offset).unwrap_or(i64::MAX));
            count += 1;
        }
        Ok(count)
    })
}

/// Another node follows slots of this one: its connection goes to replication.
fn sync(taken: Taken) -> Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        let Taken { node, client, mut stream, unread, args } = taken;
        let words: Vec<&[u8]> = args[1..].iter().map(|word| &word[..]).collect();
        let mut hello = match SyncHello::parse(&words) {
            Ok(hello) => hello,
            Err(why) => {
                // If that does not reach it, the end of the connection does.
                let _ = stream.write_all(format!("-{why}\r\n").as_bytes()).await;
                return;
            }
        };
        // A node that listens everywhere does not know how others see it: they see where it comes from.
        if let Some((host, port)) = split_address(&hello.announce)
            && host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified())
        {
            hello.announce = std::net::SocketAddr::new(client.address.ip(), port).to_string();
        }
        let accepted =
            stream.into_std().and_then(|stream| node.replication.accept(stream, unread.to_vec(), hello));
        if let Err(error) = accepted {
            tracing::warn!(address = %client.address, %error, "a node that wants to follow is not served");
        }
    })
}

#[cfg(test)]
mod tests {
    use haypile_engine::types::{Epoch, Seq};

    use super::*;
    use crate::topology::{ReplicaView, UpstreamView};

    fn text(slot: u16, role: Role, last: u64, replicas: &[(&str, &'static str, u64)]) -> SlotView {
        let upstream = matches!(role, Role::Replica { .. }).then(|| UpstreamView {
            state: "kConnected",
            for_ms: 100,
            heard_ms: Some(2999),
            lag: 0,
            copy: None,
            why: None,
        });
        let replica = |&(address, state, lag): &(&str, _, _)| {
            let (address, acked) = (address.to_owned(), Seq(last));
            ReplicaView { address, state, lag, acked, lag_bytes: None, lag_ms: 0, heard_ms: 1500, copy: None }
        };
        SlotView {
            slot: Slot::new(slot).expect("in range"),
            role,
            epoch: Some(Epoch { term: 1, tag: 1 }),
            last: Seq(last),
            flushed: Seq(last),
            keys: 0,
            replicas: replicas.iter().map(replica).collect(),
            upstream,
            is_given_away: false,
        }
    }

    fn shown(texts: &[SlotView]) -> Vec<String> {
        let mut lines = Lines::default();
        put(&Overview::from_views(&texts.iter().collect::<Vec<_>>()), "ab", 100, &mut lines);
        lines.text().lines().map(str::to_owned).collect()
    }

    fn follows(address: &str) -> Role {
        Role::Replica { upstream: address.to_owned() }
    }

    #[test]
    fn only_who_follows_all_slots_is_a_slave() {
        let (two, five) = ("10.0.0.2:9221", "10.0.0.5:9221");
        let texts = [
            text(0, Role::Master, 10, &[(two, "SlaveBinlogSync", 0)]),
            text(1, Role::Master, 20, &[(two, "SlaveBinlogSync", 3), (five, "SlaveDbSync", 20)]),
            text(2, Role::Moved { to: five.to_owned() }, 7, &[]),
        ];
        let expected = [
            "role:master",
            "connected_slaves:1",
            "slave0:ip=10.0.0.2,port=9221,state=online,offset=27,lag=1",
            "partial_slaves:1",
            "partial_slave0:addr=10.0.0.5:9221,slots=1,lag=20",
            "master_failover_state:no-failover",
            "master_replid:ab",
            "master_repl_offset:30",
        ];
        assert_eq!(shown(&texts), expected);
    }

    #[test]
    fn a_slot_that_comes_from_another_group_changes_nothing() {
        let (two, five) = ("10.0.0.2:9221", "10.0.0.5:9221");
        let mut texts = vec![text(0, Role::Master, 10, &[(two, "SlaveBinlogSync", 0)])];
        let before = shown(&texts);
        texts.push(text(1, follows(five), 20, &[]));
        texts.push(text(2, Role::Loading { upstream: five.to_owned() }, 0, &[(two, "SlaveNotSync", 0)]));
        assert_eq!(shown(&texts), before);
        texts[1].role = Role::Master;
        let lines = shown(&texts);
        assert_eq!(lines[1], "connected_slaves:0", "it does not follow that slot: {lines:?}");
        assert_eq!(lines[3], "partial_slave0:addr=10.0.0.2:9221,slots=2,lag=0");
    }

    #[test]
    fn pikas_dashboard_learns_who_may_be_promoted_and_who_has_most() {
        let told = |texts: &[SlotView]| {
            let mut lines = Lines::default();
            put_election(&Overview::from_views(&texts.iter().collect::<Vec<_>>()), &mut lines);
            lines.text().lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let mut texts =
            [text(0, follows("10.0.0.1:9221"), 10, &[]), text(1, follows("10.0.0.1:9221"), 20, &[])];
        let yes = ["is_eligible_for_master_election:true", "db0:binlog_offset=2 30,safety_purge=none"];
        assert_eq!(told(&texts), yes);
        texts[1].role = Role::Loading { upstream: "10.0.0.1:9221".to_owned() };
        assert_eq!(told(&texts)[0], "is_eligible_for_master_election:false");
    }

    #[test]
    fn a_node_is_a_slave_if_all_slots_follow_one_master() {
        let one = "10.0.0.1:9221";
        let texts = [text(0, follows(one), 10, &[]), text(1, follows(one), 20, &[])];
        let lines = shown(&texts);
        for line in ["role:slave", "master_host:10.0.0.1", "master_port:9221", "master_link_status:up"] {
            assert!(lines.iter().any(|have| have == line), "{line} in {lines:?}");
        }
        for line in ["slave_repl_offset:30", "master_last_io_seconds_ago:2"] {
            assert!(lines.contains(&line.to_owned()), "{line} in {lines:?}");
        }
        let mut down = texts.clone();
        let upstream = down[1].upstream.as_mut().expect("follows");
        (upstream.state, upstream.for_ms) = ("kTryConnect", 5500);
        let lines = shown(&down);
        assert!(lines.contains(&"master_link_status:down".to_owned()));
        assert!(lines.contains(&"master_link_down_since_seconds:5".to_owned()));
        for other in [Role::Master, follows("10.0.0.9:9221")] {
            let texts = [texts[0].clone(), text(1, other, 20, &[])];
            assert_eq!(shown(&texts)[0], "role:master");
        }
        assert_eq!(shown(&[])[0], "role:master");
    }
}
