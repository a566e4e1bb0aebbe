//! What Codis' dashboard and proxies ask of a node while a slot moves to another group, and what nodes ask of each other
//! for it.
//!
//! | command | who asks | answer |
//! |---|---|---|
//! | `SLOTSMGRTTAGSLOT host port timeout slot` (also `SLOTSMGRTSLOT`) | dashboard, again and again | `[0, n]` while it goes on, `[n, 0]` once the slot is that node's |
//! | `SLOTSMGRTTAGSLOT-ASYNC host port timeout maxbulks maxbytes slot numkeys` (also `SLOTSMGRTSLOT-ASYNC`) | the same | the same |
//! | `SLOTSMGRT-EXEC-WRAPPER hashkey command ...` | proxy, for each request | `[2, reply]` done here, `[1, _]` ask again, `[0, _]` ask the other node |
//! | `SLOTSMGRTTAGONE host port timeout key` (also `SLOTSMGRTONE`) | proxy, method `sync` | a number, once the slot is that node's |
//! | `SLOTSMGRTTAGONE-ASYNC host port timeout maxbulks maxbytes key ...` (also `SLOTSMGRTONE-ASYNC`) | operator | the same |
//! | `SLOTSMGRTONE-ASYNC-DUMP timeout maxbulks key ...` (also `SLOTSMGRTTAGONE-ASYNC-DUMP`) | operator | the commands that would be sent; nothing goes |
//! | `SLOTSMGRT-ASYNC-STATUS`, `-FENCE`, `-CANCEL` | operator | what goes on; wait for it; end it |
//! | `HAYPILE.ADOPT slot host port` | another node | this node's id, once it follows the slot there |
//! | `HAYPILE.ADOPTED slot` | another node, which had the slot | 1 if it came here by an ADOPT not long ago, else 0 |
//! | `HAYPILE.RELEASE slot node-id` | another node, which follows the slot | OK, once the slot is that node's |
//!
//! A node that does not know `HAYPILE.ADOPT` is a codis-server: to it the same commands carry keys one by one (`codis::export`), and
//! tell how many. A wrapped request then runs here if its key is here, and goes there if not; while it is not known yet how the
//! slot goes, one whose key is not here is asked for again.
//!
//! An answer that says "done" is given only if the slot was handed over to the node that is asked for. The dashboard asks without
//! a pause, so its questions are answered late.

use std::collections::BTreeSet;
use std::time::Duration;

use haypile_engine::slot::Role;
use haypile_engine::tx::Stop;
use haypile_engine::types::Slot;

use super::pkcluster::grammar;
use crate::codis::dial::{self, Wire};
use crate::codis::export::{self, Terms};
use crate::codis::moves::{Move, Stage, Way};
use crate::codis::{adopt, mover};
use crate::cx::{Fail, integer};
use crate::execute::{self, Begun, Checked, Elsewhere, Next, Runner, Scratch};
use crate::node::Node;
use crate::session::SessionCx;
use crate::table::{Command, Flags, Group, Run};

/// How long a question of the dashboard waits for news.
const POLL: Duration = Duration::from_millis(200);
/// How many keys go to a codis-server for a question that does not say how many.
const KEYS_A_STEP: usize = 32;
/// How long a proxy's connection waits at most: requests of others wait behind it.
const WAIT_MS_MAX: u64 = 3000;

const ADMIN: Flags = Flags::ADMIN.with(Flags::DANGEROUS).with(Flags::NO_MULTI);
const NODES: Flags = ADMIN.with(Flags::OPERATOR);
const PROXY: Flags = Flags::DANGEROUS.with(Flags::NO_MULTI);

const T: Group = Group("cluster");

/// See the file's head.
pub const COMMANDS: &[Command] = &[
    T.waiting("slotsmgrttagslot", 5, ADMIN, "1.0.0", "Moves a slot to another node.", |cx| {
        Box::pin(poll(cx, 4, TAGGED))
    })
    .own(),
    T.waiting("slotsmgrtslot", 5, ADMIN, "1.0.0", "Moves a slot to another node.", |cx| {
        Box::pin(poll(cx, 4, UNTAGGED))
    })
    .own(),
    T.waiting("slotsmgrttagslot-async", 8, ADMIN, "1.0.0", "Moves a slot to another node.", |cx| {
        Box::pin(poll(cx, 6, TAGGED))
    })
    .own(),
    T.waiting("slotsmgrtslot-async", 8, ADMIN, "1.0.0", "Moves a slot to another node.", |cx| {
        Box::pin(poll(cx, 6, UNTAGGED))
    })
    .own(),
    T.waiting("slotsmgrttagone", 5, PROXY, "1.0.0", "Moves a key, or waits for its slot.", |cx| {
        Box::pin(keys(cx, 4, TAGGED))
    })
    .own(),
    T.waiting("slotsmgrtone", 5, PROXY, "1.0.0", "Moves a key, or waits for its slot.", |cx| {
        Box::pin(keys(cx, 4, UNTAGGED))
    })
    .own(),
    T.waiting("slotsmgrttagone-async", -7, PROXY, "1.0.0", "Moves keys, or waits for their slots.", |cx| {
        Box::pin(keys(cx, 6, TAGGED))
    })
    .own(),
    T.waiting("slotsmgrtone-async", -7, PROXY, "1.0.0", "Moves keys, or waits for their slots.", |cx| {
        Box::pin(keys(cx, 6, UNTAGGED))
    })
    .own(),
    T.waiting("slotsmgrtone-async-dump", -4, ADMIN, "1.0.0", "Shows how keys would be sent.", |cx| {
        Box::pin(dump(cx, UNTAGGED))
    })
    .own(),
    T.waiting("slotsmgrttagone-async-dump", -4, ADMIN, "1.0.0", "Shows how keys would be sent.", |cx| {
        Box::pin(dump(cx, TAGGED))
    })
    .own(),
    T.waiting("slotsmgrt-exec-wrapper", -3, PROXY, "1.0.0", "Runs a command on a slot that moves.", |cx| {
        Box::pin(wrapper(cx))
    })
    .own(),
    T.waiting("slotsmgrt-async-status", 1, ADMIN, "1.0.0", "Tells which slots move.", |cx| {
        Box::pin(status(cx))
    })
    .own(),
    T.waiting("slotsmgrt-async-fence", 1, ADMIN, "1.0.0", "Waits until no slot moves.", |cx| {
        Box::pin(fence(cx))
    })
    .own(),
    T.waiting("slotsmgrt-async-cancel", 1, ADMIN, "1.0.0", "Ends the moves of slots.", |cx| {
        Box::pin(cancel(cx))
    })
    .own(),
    T.waiting("haypile.release", 3, NODES, "1.0.0", "Hands a slot over to a node that follows it.", |cx| {
        Box::pin(release(cx))
    })
    .own(),
    T.waiting("haypile.adopt", 4, NODES, "1.0.0", "Adds a slot and follows it at another node.", |cx| {
        Box::pin(take_in(cx))
    })
    .own(),
    T.waiting(
        "haypile.adopted",
        2,
        NODES,
        "1.0.0",
        "Tells whether a slot came by a move, not long ago.",
        |cx| Box::pin(adopted(cx)),
    )
    .own(),
];

/// Reads a slot's number.
pub(super) fn slot_at(text: &[u8]) -> Result<Slot, Fail> {
    let slot = u16::try_from(integer(text)?).ok().and_then(Slot::new);
    slot.ok_or_else(|| Fail::error(format!("ERR invalid slot number: {}", String::from_utf8_lossy(text))))
}

/// The node that a slot is to go to; never this one.
fn target(cx: &SessionCx<'_>) -> Result<String, Fail> {
    let to = grammar::address(cx.arg(1), cx.arg(2)).map_err(Fail::error)?;
    if to == cx.node.replication.announce() {
        return Err(Fail::error(format!("ERR destination address error: {to} is this node itself")));
    }
    Ok(to)
}

/// Whether all keys of a hash tag go together, if they go one by one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tags {
    /// They do.
    Together,
    /// Each goes by itself.
    Apart,
}

const TAGGED: Tags = Tags::Together;
const UNTAGGED: Tags = Tags::Apart;

/// Reads how keys are to be carried. `at` is where the slot or the first key stands: the forms with more before it are the ASYNC
/// ones.
fn terms(cx: &SessionCx<'_>, at: usize, tags: Tags) -> Result<Terms, Fail> {
    let number = |at: usize, default: u64| -> Result<u64, Fail> {
        let value = u64::try_from(integer(cx.arg(at))?).map_err(|_| Fail::not_integer())?;
        Ok(if value == 0 { default } else { value })
    };
    let size = |value: u64| usize::try_from(value.min(512 << 10)).unwrap_or(usize::MAX);
    let is_async = at == 6;
    // The slot forms say how many keys; a key form with two keys looks the same and goes by its own keys.
    let keys_max =
        if is_async && cx.args.len() == 8 { number(7, 100).map_or(KEYS_A_STEP, size) } else { KEYS_A_STEP };
    Ok(Terms {
        wire: if is_async { Wire::Pieces } else { Wire::Whole },
        with_tags: tags == Tags::Together,
        timeout: Duration::from_millis(number(3, if is_async { 30_000 } else { 100 })?.min(600_000)),
        elements_max: if is_async { size(number(4, 200)?) } else { usize::MAX },
        keys_max,
    })
}

/// The dashboard wants a slot moved; `at` is where the slot stands.
async fn poll(cx: &mut SessionCx<'_>, at: usize, tags: Tags) -> Result<(), Fail> {
    let (to, slot, terms) = (target(cx)?, slot_at(cx.arg(at))?, terms(cx, at, tags)?);
    let (moved, remaining) = if goes_by_key(cx.node, &to, slot).await {
        by_key(cx, slot, &to, &terms).await?
    } else {
        match settle(cx, slot, &to, POLL).await? {
            // Between two questions the dashboard looks whether it still wants the move: only one that comes when the slot has
            // gone may be told so. If none comes, the move was given up.
            Where::ThereNow => (0, 1),
            Where::There(keys) => {
                cx.node.moves.told(slot, cx.node.monotonic_ms());
                (keys, 0)
            }
            Where::Here(remaining) => (0, remaining),
        }
    };
    cx.reply.array(2);
    for number in [moved, remaining] {
        cx.reply.integer(i64::try_from(number).unwrap_or(i64::MAX));
    }
    Ok(())
}

/// Whether what this node owns of a slot goes to that node key by key. A node that does not answer has not said so.
async fn goes_by_key(node: &Node, to: &str, slot: Slot) -> bool {
    node.engine.role(slot) == Role::Master && dial::way(node, to).await == Ok(Way::ByKey)
}

/// Carries some keys of a slot to a codis-server; how many went, and how many are left.
async fn by_key(cx: &SessionCx<'_>, slot: Slot, to: &str, terms: &Terms) -> Result<(u64, u64), Fail> {
    let node = cx.node;
    let keys = node.engine.position(slot).keys;
    if node.moves.ask(slot, to, keys, node.monotonic_ms()).is_some() {
        tracing::info!(%slot, %to, keys, "a slot is wanted at a codis-server: its keys go there one by one");
    }
    match export::some(node, slot, to, terms).await {
        Ok((went, left)) => {
            node.moves.goes_by_key(slot, left, node.monotonic_ms());
            if left == 0 {
                node.moves.told(slot, node.monotonic_ms());
            }
            Ok((went, left))
        }
        Err(why) => Err(not_sent(node, to, &format!("slot {slot} can't be moved"), &why)),
    }
}

/// The other node may be another by now: it is asked again.
fn not_sent(node: &Node, to: &str, what: &str, why: &str) -> Fail {
    tracing::warn!(%to, %why, "{what}");
    node.moves.set_way(to, None);
    Fail::error(format!("ERR {what} to {to} yet: {why}"))
}

/// A proxy wants keys moved: to a Haypile node their slots go with them. `at` is where the first stands.
async fn keys(cx: &mut SessionCx<'_>, at: usize, tags: Tags) -> Result<(), Fail> {
    let (to, terms, keys) = (target(cx)?, terms(cx, at, tags)?, &cx.args[at..]);
    let slots: BTreeSet<Slot> = keys.iter().map(|key| Slot::of_key(key)).collect();
    let mut by_key = Vec::new();
    for slot in slots {
        if goes_by_key(cx.node, &to, slot).await {
            by_key.extend(keys.iter().copied().filter(|key| Slot::of_key(key) == slot));
        } else {
            whole(cx, slot, &to, terms.timeout).await?;
        }
    }
    let mut went = keys.len() - by_key.len();
    if !by_key.is_empty() {
        let sent = export::these(cx.node, &to, &by_key, &terms).await;
        let sent = sent.map_err(|why| not_sent(cx.node, &to, "the key can't be moved", &why))?;
        went += usize::try_from(sent).unwrap_or(usize::MAX);
    }
    cx.reply.count(went);
    Ok(())
}

/// Shows what codis-server would be sent of keys. As there, the time-out is no more than what large collections live for meanwhile.
async fn dump(cx: &mut SessionCx<'_>, tags: Tags) -> Result<(), Fail> {
    let number = |at: usize, name: &str, default: u64| {
        let text = cx.arg(at);
        let value = integer(text).ok().and_then(|value| i32::try_from(value).ok());
        let value = value.and_then(|value| u64::try_from(value).ok());
        let wrong = || format!("ERR invalid value of {name} ({})", String::from_utf8_lossy(text));
        value.map(|value| if value == 0 { default } else { value }).ok_or_else(|| Fail::error(wrong()))
    };
    let (timeout_ms, elements_max) = (number(1, "timeout", 30_000)?, number(2, "maxbulks", 1000)?);
    let terms = Terms {
        wire: Wire::Pieces,
        with_tags: tags == Tags::Together,
        timeout: Duration::from_millis(timeout_ms),
        elements_max: usize::try_from(elements_max).unwrap_or(usize::MAX),
        keys_max: KEYS_A_STEP,
    };
    let shown = export::shown(cx.node, &cx.args[3..], &terms).await;
    let shown = shown.map_err(|why| Fail::error(format!("ERR {why}")))?;
    cx.reply.array(shown.0.len());
    for words in &shown.0 {
        cx.reply.bulks(words.iter());
    }
    Ok(())
}

/// Waits until a slot is at another Haypile node.
async fn whole(cx: &SessionCx<'_>, slot: Slot, to: &str, patience: Duration) -> Result<(), Fail> {
    let patience = patience.min(Duration::from_millis(WAIT_MS_MAX));
    match settle(cx, slot, to, patience).await? {
        Where::There(_) | Where::ThereNow => {
            // From here on a proxy's requests for the slot go there.
            cx.node.moves.told(slot, cx.node.monotonic_ms());
            Ok(())
        }
        Where::Here(remaining) => Err(Fail::error(format!(
            "ERR slot {slot} is on its way to {to} and not there within {} ms ({remaining} to go): set Codis' \
             migration_method to semi-async",
            patience.as_millis()
        ))),
    }
}

/// Whose a slot is that is wanted elsewhere.
enum Where {
    /// This node's yet; so much is to be done.
    Here(u64),
    /// That node's since a moment ago.
    ThereNow,
    /// That node's; so many keys went.
    There(u64),
}

/// Sees to it that the slot goes to `to`, and waits a while for it.
async fn settle(cx: &SessionCx<'_>, slot: Slot, to: &str, patience: Duration) -> Result<Where, Fail> {
    let node = cx.node;
    match node.engine.role(slot) {
        Role::Absent => {
            return Err(Fail::error(format!(
                "ERR slot {slot} is not on this node: it can't be moved from here"
            )));
        }
        Role::Master | Role::Fenced | Role::Owed | Role::Granted { .. } => mover::want(node, slot, to),
        role if mover::is_elsewhere(node, slot, &role, to).await => {
            let keys = node.moves.of(slot).map_or(0, |found| found.keys);
            return Ok(Where::There(keys));
        }
        Role::Moved { to: other } => {
            return Err(Fail::error(format!(
                "ERR slot {slot} was handed over to {other}, and {to} does not own it: assign the slot to the group of {other}"
            )));
        }
        Role::Replica { upstream } | Role::Loading { upstream } => {
            return Err(Fail::error(format!(
                "ERR slot {slot} follows {upstream} here: only its owner can move it to {to}"
            )));
        }
    }
    let mut changes = node.moves.changes();
    // A failure of before the question may be over.
    let mut is_news = false;
    let waited = async {
        loop {
            match node.moves.of(slot) {
                Some(Move { stage: Stage::Done, .. }) => return Ok(Where::ThereNow),
                Some(Move { stage: Stage::Failed(why), .. }) if is_news => {
                    return Err(failed(slot, to, &why));
                }
                Some(_) => {}
                None => return Err(Fail::error(format!("ERR the move of slot {slot} was cancelled"))),
            }
            // The node that counts lives as long as this.
            let _ = changes.changed().await;
            is_news = true;
        }
    };
    match tokio::time::timeout(patience, waited).await {
        Ok(answer) => answer,
        Err(_) => match node.moves.of(slot) {
            Some(Move { stage: Stage::Failed(why), .. }) => Err(failed(slot, to, &why)),
            found => Ok(Where::Here(found.map_or(1, |found| remaining(&found)))),
        },
    }
}

fn failed(slot: Slot, to: &str, why: &str) -> Fail {
    Fail::error(format!("ERR slot {slot} can't be moved to {to} yet: {why}"))
}

/// What the dashboard shows as remaining: never 0.
fn remaining(found: &Move) -> u64 {
    match &found.stage {
        Stage::Following(left) | Stage::ByKey(left) => *left,
        Stage::HandingOver | Stage::Done => 1,
        Stage::Preparing | Stage::Copying | Stage::Failed(_) => found.keys,
    }
    .max(1)
}

/// Runs a proxy's request on a slot that moves, or says where it has to go.
async fn wrapper(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let (slot, now_ms) = (Slot::of_key(cx.arg(1)), cx.node.monotonic_ms());
    let way = cx.node.moves.way_of(slot, now_ms);
    cx.node.moves.touch(slot, now_ms);
    if let Some(answer) = elsewhere(&cx.node.engine.role(slot), slot)? {
        return say(cx, answer);
    }
    let start = cx.reply.len();
    cx.reply.array(2);
    cx.reply.integer(2);
    let inner = cx.reply.len();
    run_inner(cx, slot, way, start).await?;
    // An error left nothing behind: if the slot went in the meantime, the request can go after it.
    if cx.reply.as_bytes().get(inner..).is_some_and(|reply| reply.starts_with(b"-"))
        && let Some(answer) = elsewhere(&cx.node.engine.role(slot), slot)?
    {
        cx.reply.truncate(start);
        return say(cx, answer);
    }
    Ok(())
}

async fn run_inner(cx: &mut SessionCx<'_>, slot: Slot, way: Option<Way>, start: usize) -> Result<(), Fail> {
    let args = &cx.args[2..];
    let checked = match execute::check(cx.node, cx.session, args) {
        Ok(Checked(command)) if is_nested(command) => {
            return Err(Fail::error(format!("ERR {} can't be wrapped", command.name)));
        }
        Ok(checked) => checked,
        Err(text) => {
            cx.reply.error(&text);
            return Ok(());
        }
    };
    let mut scratch = Scratch::wrapped(cx.arg(1), way);
    let mut since_ns = cx.node.nanos();
    let mut runner = Runner {
        node: cx.node,
        session: cx.session,
        args,
        now: cx.node.wall(),
        since_ns: &mut since_ns,
        scratch: &mut scratch,
        reply: cx.reply,
        gate: cx.gate,
    };
    let next = match runner.begin(checked) {
        Begun::Done(next) => next,
        // Others' requests on this connection do not wait behind the handover of one slot.
        Begun::Waits(_) if matches!(cx.node.engine.role(slot), Role::Fenced | Role::Owed) => {
            cx.reply.truncate(start);
            return say(cx, Elsewhere::Again);
        }
        Begun::Waits(waits) => runner.go_on(checked, waits).await,
    };
    if let Next::Abort(error) = next {
        return Err(Fail::Stop(Stop::Failed(error)));
    }
    if let Some(answer) = scratch.answer() {
        cx.reply.truncate(start);
        return say(cx, answer);
    }
    Ok(())
}

/// Whether a command makes no sense within the wrapper.
fn is_nested(command: &Command) -> bool {
    matches!(command.run, Run::Takeover(_)) || command.name.starts_with("slotsmgrt")
}

fn elsewhere(role: &Role, slot: Slot) -> Result<Option<Elsewhere>, Fail> {
    match role {
        Role::Master | Role::Fenced | Role::Owed => Ok(None),
        Role::Granted { .. } => Ok(Some(Elsewhere::Again)),
        Role::Moved { .. } | Role::Replica { .. } | Role::Loading { .. } => Ok(Some(Elsewhere::There)),
        Role::Absent => Err(Fail::error(format!(
            "ERR Partition not found: slot {slot} is not on this node, so it can't move from here"
        ))),
    }
}

fn say(cx: &mut SessionCx<'_>, answer: Elsewhere) -> Result<(), Fail> {
    cx.reply.array(2);
    match answer {
        Elsewhere::Again => {
            cx.reply.integer(1);
            cx.reply.error("TRYAGAIN the slot is being handed over");
        }
        Elsewhere::There => {
            cx.reply.integer(0);
            cx.reply.error("ERR the slot was handed over");
        }
    }
    Ok(())
}

/// For each slot that moves: slot, where to, how far, keys, milliseconds.
async fn status(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let now_ms = cx.node.monotonic_ms();
    let lines: Vec<String> =
        cx.node.moves.all().iter().map(|(slot, found)| line(*slot, found, now_ms)).collect();
    cx.reply.array(lines.len());
    lines.iter().for_each(|line| cx.reply.bulk(line.as_bytes()));
    Ok(())
}

fn line(slot: Slot, found: &Move, now_ms: u64) -> String {
    let Move { to, stage, keys, since_ms, asked_ms, .. } = found;
    let (age, silent) = (now_ms.saturating_sub(*since_ms), now_ms.saturating_sub(*asked_ms));
    format!("slot={slot} to={to} keys={keys} age_ms={age} asked_ms={silent} stage={}", stage.words())
}

/// Waits until no slot moves any more, or for a while.
async fn fence(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let moves = &cx.node.moves;
    let mut changes = moves.changes();
    let quiet = async {
        let is_moving = |stage: &Stage| !matches!(stage, Stage::ByKey(_) | Stage::Done);
        while cx.node.leaving.any() || moves.all().iter().any(|(_, found)| is_moving(&found.stage)) {
            // The node that counts lives as long as this.
            let _ = changes.changed().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_millis(WAIT_MS_MAX), quiet).await;
    waited.map_err(|_| Fail::error("ERR previous operation has not finished (call fence again)"))?;
    cx.reply.ok();
    Ok(())
}

async fn cancel(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    cx.node.leaving.cancel();
    let ended = cx.node.moves.cancel(None);
    cx.reply.count(ended);
    Ok(())
}

async fn release(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let slot = slot_at(cx.arg(1))?;
    mover::release(cx.node, slot, &String::from_utf8_lossy(cx.arg(2))).await?;
    cx.reply.ok();
    Ok(())
}

async fn take_in(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let slot = slot_at(cx.arg(1))?;
    let mut from = grammar::address(cx.arg(2), cx.arg(3)).map_err(Fail::error)?;
    // A node that listens everywhere does not know how others see it: they see where it comes from.
    if let Some((host, port)) = haypile_replication::transport::split_address(&from)
        && host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified())
    {
        from = std::net::SocketAddr::new(cx.session.client.address.ip(), port).to_string();
    }
    adopt::adopt(cx.node, slot, &from).await?;
    cx.reply.bulk(cx.node.engine.node().to_string().as_bytes());
    Ok(())
}

async fn adopted(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let slot = slot_at(cx.arg(1))?;
    cx.reply.integer(i64::from(cx.node.moves.was_adopted(slot, cx.node.monotonic_ms())));
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::config::Settings;
    use crate::testing::Bench;

    #[test]
    fn a_wrapped_request_is_run_and_its_reply_is_marked() {
        Bench::new().check(
            "slotsmgrt-exec-wrapper a set a 1         -> *2 :1 -TRYAGAIN the slot is being handed over
             set a 0                                  -> +OK
             slotsmgrt-exec-wrapper a set a 1         -> *2 :2 +OK
             slotsmgrt-exec-wrapper a get a           -> *2 :2 $1 1
             slotsmgrt-exec-wrapper a lpush a x       -> *2 :2 -WRONGTYPE Operation against a key holding the wrong kind of value
             slotsmgrt-exec-wrapper a nosuch          -> *2 :2 -ERR unknown command 'nosuch', with args beginning with:
             slotsmgrt-exec-wrapper a get             -> *2 :2 -ERR wrong number of arguments for 'get' command
             slotsmgrt-exec-wrapper a ping            -> *2 :2 +PONG
             slotsmgrt-exec-wrapper a dbsize          -> *2 :2 :1
             slotsmgrt-exec-wrapper a                 -> -ERR wrong number of arguments for 'slotsmgrt-exec-wrapper' command
             slotsmgrt-exec-wrapper a slotsmgrt-exec-wrapper a get a -> -ERR slotsmgrt-exec-wrapper can't be wrapped",
        );
    }

    #[test]
    fn what_codis_server_would_be_sent_is_shown_and_nothing_goes() {
        let (head, name) = ("$18 SLOTSRESTORE-ASYNC", "slotsmgrtone-async-dump");
        Bench::new().check(&format!(
            "set {{a}}1 x            -> +OK
             rpush {{a}}2 1 2 3      -> :3
             {name} 0 0 {{a}}1 none  -> *2 *3 {head} $6 delete $4 {{a}}1 *5 {head} $6 string $4 {{a}}1 $1 0 $1 x
             {name} 5 2 {{a}}2       -> *4 *3 {head} $6 delete $4 {{a}}2 *7 {head} $4 list $4 {{a}}2 $2 15 $1 0 $1 1 $1 2 *6 {head} $4 list $4 {{a}}2 $2 15 $1 0 $1 3 *4 {head} $6 expire $4 {{a}}2 $1 0
             {name} x 0 a            -> -ERR invalid value of timeout (x)
             {name} 0 -1 a           -> -ERR invalid value of maxbulks (-1)
             dbsize                  -> :2",
        ));
        let mut bench = Bench::new();
        bench.check("set {a}1 x -> +OK\n set {a}2 y -> +OK\n set b z -> +OK");
        let reply = bench.run("slotsmgrttagone-async-dump 0 0 {a}1");
        assert!(reply.starts_with("*4 ") && reply.contains("{a}2 $1 0 $1 y"), "{reply}");
    }

    #[test]
    fn nothing_is_done_for_a_slot_that_is_not_here_or_goes_nowhere() {
        let mut bench = Bench::with(Settings::default());
        bench
            .node
            .engine
            .remove_slots(&[haypile_engine::types::Slot::new(5).expect("in range")])
            .expect("removed");
        bench.check(
            "slotsmgrttagslot 127.0.0.1 2 1000 5               -> -ERR slot 5 is not on this node: it can't be moved from here
             slotsmgrttagslot 127.0.0.1 2 1000 1024            -> -ERR invalid slot number: 1024
             slotsmgrttagslot 127.0.0.1 1 1000 6               -> -ERR destination address error: 127.0.0.1:1 is this node itself
             slotsmgrttagslot-async 127.0.0.1 2 1 1 1 5 1      -> -ERR slot 5 is not on this node: it can't be moved from here
             slotsmgrt-async-status                            -> *0
             slotsmgrt-async-fence                             -> +OK
             slotsmgrt-async-cancel                            -> :0",
        );
        let reply = bench.run("slotsmgrttagslot-async 127.0.0.1 2 1 1 1 6 1");
        assert!(reply.starts_with("-ERR slot 6 can't be moved to 127.0.0.1:2 yet: 127.0.0.1:2: "), "{reply}");
        let reply = bench.run("slotsmgrt-async-status");
        assert!(reply.contains("slot=6 to=127.0.0.1:2 keys=0"), "{reply}");
        bench.check("slotsmgrt-async-cancel -> :1");
    }
}
