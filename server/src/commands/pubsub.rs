//! SUBSCRIBE, PUBLISH and their kin: messages between clients of this node. A message leaves once what came before it in
//! its batch has reached its bound: it tells of nothing that may still vanish.

use bytes::Bytes;

use crate::cx::Fail;
use crate::node::Profile;
use crate::pubsub::{Kind, Message, Subscriptions};
use crate::session::{Mode, SessionCx};
use crate::table::{Command, Flags, Group};

const LISTEN: Flags = Flags::LISTENING;

const T: Group = Group("pubsub");

/// See the file's head.
#[rustfmt::skip]
pub const COMMANDS: &[Command] = &[
    T.session("subscribe", -2, LISTEN, "2.0.0", "Listens to channels.", |cx| subscribe(cx, Kind::Channel)),
    T.session("unsubscribe", -1, LISTEN, "2.0.0", "Listens to channels no more, or to none.", |cx| unsubscribe(cx, Kind::Channel)),
    T.session("psubscribe", -2, LISTEN, "2.0.0", "Listens to all channels of patterns.", |cx| subscribe(cx, Kind::Pattern)),
    T.session("punsubscribe", -1, LISTEN, "2.0.0", "Listens to patterns no more, or to none.", |cx| unsubscribe(cx, Kind::Pattern)),
    T.session("ssubscribe", -2, LISTEN, "7.0.0", "Listens to channels of slots.", |cx| subscribe(cx, Kind::Shard)),
    T.session("sunsubscribe", -1, LISTEN, "7.0.0", "Listens to channels of slots no more, or to none.", |cx| unsubscribe(cx, Kind::Shard)),
    T.session("publish", 3, Flags::FAST, "2.0.0", "Sends a message to who listens to a channel.", |cx| publish(cx, Kind::Channel)),
    T.session("spublish", 3, Flags::FAST, "7.0.0", "Sends a message to who listens to a channel of a slot.", |cx| publish(cx, Kind::Shard)),
    T.family("pubsub", Flags::NONE, "2.8.0", "Tells who listens to what.", SUBS),
];

#[rustfmt::skip]
const SUBS: &[Command] = &[
    T.session("pubsub|channels", -2, Flags::NONE, "2.8.0", "Names the channels that somebody listens to [pattern].", |cx| channels(cx, Kind::Channel)),
    T.session("pubsub|numpat", 2, Flags::NONE, "2.8.0", "Counts the patterns that somebody listens to.", numpat),
    T.session("pubsub|numsub", -2, Flags::NONE, "2.8.0", "Counts who listens to channels.", |cx| numsub(cx, Kind::Channel)),
    T.session("pubsub|shardchannels", -2, Flags::NONE, "7.0.0", "Names the channels of slots that somebody listens to [pattern].", |cx| channels(cx, Kind::Shard)),
    T.session("pubsub|shardnumsub", -2, Flags::NONE, "7.0.0", "Counts who listens to channels of slots.", |cx| numsub(cx, Kind::Shard)),
];

/// The word that answers, for each kind.
fn word(kind: Kind, channel: &'static str, pattern: &'static str, shard: &'static str) -> &'static [u8] {
    match kind {
        Kind::Channel => channel,
        Kind::Pattern => pattern,
        Kind::Shard => shard,
    }
    .as_bytes()
}

/// How many names the connection listens to, as its answers tell it.
fn told(cx: &SessionCx<'_>, kind: Kind) -> usize {
    let count = |kind| cx.session.subscriptions.as_ref().map_or(0, |names| names.count(kind));
    if kind == Kind::Shard { count(kind) } else { count(Kind::Channel) + count(Kind::Pattern) }
}

fn subscribe(cx: &mut SessionCx<'_>, kind: Kind) -> Result<(), Fail> {
    if kind == Kind::Shard && cx.node.profile == Profile::Codis {
        // A proxy passes it on, and its connection is shared among clients.
        return Err(Fail::error("ERR SSUBSCRIBE is not served behind Codis: connect to a standalone node"));
    }
    let (node, mailbox) = (cx.node.clone(), cx.session.mailbox(cx.reply.proto()));
    for name in &cx.args[1..] {
        let new = || Box::new(Subscriptions::new(node.clone(), mailbox.clone()));
        cx.session.subscriptions.get_or_insert_with(new).add(kind, name);
        cx.session.mode = cx.session.mode.with(Mode::LISTENING);
        let count = told(cx, kind);
        cx.reply.push(3);
        cx.reply.bulk(word(kind, "subscribe", "psubscribe", "ssubscribe"));
        cx.reply.bulk(name);
        cx.reply.count(count);
    }
    publish_counts(cx);
    Ok(())
}

fn unsubscribe(cx: &mut SessionCx<'_>, kind: Kind) -> Result<(), Fail> {
    if kind == Kind::Shard && cx.node.profile == Profile::Codis {
        // It is answered once for each channel, and a proxy takes the second answer for that to the next request.
        return Err(Fail::error("ERR SUNSUBSCRIBE is not served behind Codis: connect to a standalone node"));
    }
    let names: Vec<Bytes> = match &cx.args[1..] {
        [] => cx.session.subscriptions.as_ref().map_or_else(Vec::new, |names| names.names(kind)),
        names => names.iter().map(|name| Bytes::copy_from_slice(name)).collect(),
    };
    let said = word(kind, "unsubscribe", "punsubscribe", "sunsubscribe");
    if names.is_empty() {
        let count = told(cx, kind);
        cx.reply.push(3);
        cx.reply.bulk(said);
        cx.reply.null();
        cx.reply.count(count);
    }
    for name in &names {
        if let Some(subscriptions) = &mut cx.session.subscriptions {
            subscriptions.remove(kind, name);
            cx.session.early.extend_from_slice(&subscriptions.mailbox.take());
        }
        let count = told(cx, kind);
        cx.reply.push(3);
        cx.reply.bulk(said);
        cx.reply.bulk(name);
        cx.reply.count(count);
    }
    if cx.session.subscriptions.as_ref().is_some_and(|names| names.is_empty()) {
        cx.session.end_subscriptions();
    }
    publish_counts(cx);
    Ok(())
}

/// Shows in CLIENT LIST what the connection listens to.
fn publish_counts(cx: &mut SessionCx<'_>) {
    let names = cx.session.subscriptions.as_ref();
    let count = |kind| names.map_or(0, |names| names.count(kind));
    cx.session.client.about().listens = (count(Kind::Channel), count(Kind::Pattern), count(Kind::Shard));
}

fn publish(cx: &mut SessionCx<'_>, kind: Kind) -> Result<(), Fail> {
    let (channel, text) = (cx.arg(1), cx.arg(2));
    let receivers = cx.node.pubsub.receivers(kind, channel);
    if receivers > 0 {
        let (channel, text) = (Bytes::copy_from_slice(channel), Bytes::copy_from_slice(text));
        cx.session.outbox.push(Message { kind, channel, text });
    }
    cx.reply.count(receivers);
    Ok(())
}

fn channels(cx: &mut SessionCx<'_>, kind: Kind) -> Result<(), Fail> {
    let pattern = match &cx.args[2..] {
        [] => None,
        [pattern] => Some(*pattern),
        _ => {
            return Err(Fail::arity(&format!(
                "pubsub|{}",
                String::from_utf8_lossy(cx.args[1]).to_lowercase()
            )));
        }
    };
    let names = cx.node.pubsub.channels(kind, pattern);
    cx.reply.bulks(names.iter());
    Ok(())
}

fn numsub(cx: &mut SessionCx<'_>, kind: Kind) -> Result<(), Fail> {
    let names = &cx.args[2..];
    cx.reply.array(names.len() * 2);
    for name in names {
        let count = cx.node.pubsub.listeners(kind, name);
        cx.reply.bulk(name);
        cx.reply.count(count);
    }
    Ok(())
}

fn numpat(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let count = cx.node.pubsub.patterns();
    cx.reply.count(count);
    Ok(())
}

#[cfg(test)]
mod tests;
