//! Carries keys one by one to a node that is no Haypile node: a codis-server. It has them before they go here.
//!
//! A few keys at a time, those that share a hash tag together: they are marked (`leaving`), so that nobody changes them; read, and sent
//! in codis-server's own words, large collections in pieces; and once the other node has acknowledged all of them they are deleted
//! here in one durable step. A stop at any moment leaves a key here, or there, or at both: then this node's counts, and its next
//! journey begins with a DELETE there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use haypile_engine::key::Key;
use haypile_engine::read::Direction;
use haypile_engine::tx::Tx;
use haypile_engine::types::Slot;

use super::dial::{self, Courier, Shown, Taker, Wire};
use super::leaving::{self, Mark};
use crate::commands::dump;
use crate::cx::Fail;
use crate::execute;
use crate::kind::Kind;
use crate::node::Node;
use crate::table::Flags;
use crate::types::dict::Dict;
use crate::types::list::List;
use crate::types::zset::Zset;

/// Keys that go together, at most, but for those that share a tag: for so long their writers wait.
const TOGETHER: usize = 32;
/// Keys read at a time where all of a slot are looked at.
const PAGE_KEYS: usize = 1024;
/// How long one question of the dashboard's is worked on.
const STEP_MS: u64 = 100;

/// On what terms keys are carried: Codis says so with each question.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// In which words.
    pub wire: Wire,
    /// Whether all keys of a tag go together.
    pub with_tags: bool,
    /// How long the other node may take for an answer.
    pub timeout: Duration,
    /// Elements in one piece of a collection, at most; fields and values are counted each.
    pub elements_max: usize,
    /// Keys for one question, at most, about.
    pub keys_max: usize,
}

/// Carries some keys of a slot over; how many went, and how many are left.
///
/// # Errors
/// Why not; what had not gone by then is here.
pub async fn some(node: &Arc<Node>, slot: Slot, to: &str, terms: &Terms) -> Result<(u64, u64), String> {
    let begun_ms = node.monotonic_ms();
    let mut went = 0;
    loop {
        let mut changes = node.leaving.changes();
        let Some(keys) = pick(node, slot, terms.keys_max.clamp(1, TOGETHER)).await? else {
            return Ok((went, 0));
        };
        match carry(node, slot, to, keys, terms).await? {
            Some(more) => went += more,
            // Others carry what is left.
            None => drop(tokio::time::timeout(terms.timeout, changes.changed()).await),
        }
        if went >= terms.keys_max as u64 || node.monotonic_ms() - begun_ms >= STEP_MS {
            break;
        }
    }
    let left = if pick(node, slot, 1).await?.is_some() { node.engine.position(slot).keys.max(1) } else { 0 };
    Ok((went, left))
}

/// Carries these keys over; how many of them were here, or came along.
///
/// # Errors
/// As [`some`].
pub async fn these(node: &Arc<Node>, to: &str, keys: &[&[u8]], terms: &Terms) -> Result<u64, String> {
    let mut by_slot: BTreeMap<Slot, Vec<Bytes>> = BTreeMap::new();
    for key in keys {
        by_slot.entry(Slot::of_key(key)).or_default().push(Bytes::copy_from_slice(key));
    }
    let mut went = 0;
    for (slot, keys) in by_slot {
        let until_ms = node.monotonic_ms() + u64::try_from(terms.timeout.as_millis()).unwrap_or(u64::MAX);
        loop {
            let mut changes = node.leaving.changes();
            if let Some(more) = carry(node, slot, to, keys.clone(), terms).await? {
                went += more;
                break;
            }
            let left_ms = until_ms.saturating_sub(node.monotonic_ms());
            let ended = tokio::time::timeout(Duration::from_millis(left_ms), changes.changed()).await;
            ended.map_err(|_| "the keys are being carried over by somebody else".to_owned())?.ok();
        }
    }
    Ok(went)
}

/// A few keys of a slot that nobody carries yet; `None` if it has no keys at all.
async fn pick(node: &Arc<Node>, slot: Slot, count: usize) -> Result<Option<Vec<Bytes>>, String> {
    let mut from = node.moves.place(slot);
    let (mut is_second_round, mut any) = (from == 0, false);
    loop {
        let ((page, next), _) = on_slot(node, slot, |tx| Ok(tx.keys(slot, from, count)?)).await?;
        any |= !page.is_empty();
        let free: Vec<Bytes> =
            page.into_iter().map(|(key, _)| key).filter(|key| !node.leaving.has(key)).take(count).collect();
        if !free.is_empty() {
            node.moves.set_place(slot, from);
            return Ok(Some(free));
        }
        from = match next {
            Some(hash) => hash,
            None if is_second_round => {
                node.moves.set_place(slot, 0);
                return Ok(any.then(Vec::new));
            }
            None => {
                is_second_round = true;
                0
            }
        };
    }
}

/// Keys that are marked, until this goes.
struct Marked<'n> {
    node: &'n Node,
    marks: BTreeSet<Mark>,
}

impl Drop for Marked<'_> {
    fn drop(&mut self) {
        self.node.leaving.end(&self.marks);
        self.node.moves.changed();
        // Who waits for one of the keys looks again.
        self.node.engine.role_changes().notify();
    }
}

/// Carries keys of one slot over, together; `None` if somebody else carries one of them.
async fn carry(
    node: &Arc<Node>,
    slot: Slot,
    to: &str,
    keys: Vec<Bytes>,
    terms: &Terms,
) -> Result<Option<u64>, String> {
    let marks: BTreeSet<Mark> = keys.iter().map(|key| Mark::of(key, terms.with_tags)).collect();
    let cancels = node.leaving.cancels();
    if marks.is_empty() || !node.leaving.begin(&marks) {
        return Ok(None);
    }
    let marked = Marked { node, marks };
    let mut keys: BTreeSet<Bytes> = keys.into_iter().collect();
    keys.extend(mates(node, slot, &marked.marks).await?);
    let keys: Vec<Key> = keys.iter().map(|key| Key::new(key)).collect();
    let sent = match node.couriers.take(to, terms.wire) {
        // It may have been closed since; a second one begins anew.
        Some(courier) => send(node, slot, courier, &keys, terms).await.ok(),
        None => None,
    };
    let (courier, count) = match sent {
        Some(sent) => sent,
        None => {
            send(node, slot, dial::courier(node, to, terms.wire, terms.timeout).await?, &keys, terms).await?
        }
    };
    if node.leaving.cancels() != cancels {
        return Err("interrupted: cancelled".to_owned());
    }
    if count > 0 {
        let (went, gate) = on_slot(node, slot, |tx| {
            let mut went = 0;
            for key in &keys {
                went += u64::from(tx.delete(key)?);
            }
            Ok(went)
        })
        .await?;
        // On the device: a key that came back after a power failure would be older than the one over there.
        node.engine.synced(gate).await.map_err(|error| error.to_string())?;
        tracing::debug!(%slot, %to, went, "keys went");
    }
    node.couriers.keep(to, courier, node.monotonic_ms());
    Ok(Some(count))
}

/// All keys of the slot whose tags are marked.
async fn mates(node: &Arc<Node>, slot: Slot, marks: &BTreeSet<Mark>) -> Result<Vec<Bytes>, String> {
    let mut found = Vec::new();
    let mut from = marks.iter().any(|mark| matches!(mark, Mark::Tag(_))).then_some(0);
    while let Some(hash) = from {
        let ((page, next), _) = on_slot(node, slot, |tx| Ok(tx.keys(slot, hash, PAGE_KEYS)?)).await?;
        let goes = |key: &Bytes| {
            leaving::tag(key).is_some_and(|tag| marks.contains(&Mark::Tag(Bytes::copy_from_slice(tag))))
        };
        found.extend(page.into_iter().map(|(key, _)| key).filter(goes));
        from = next;
    }
    Ok(found)
}

/// Works on a slot that this node owns.
async fn on_slot<T>(
    node: &Arc<Node>,
    slot: Slot,
    mut work: impl FnMut(&mut Tx<'_>) -> Result<T, Fail>,
) -> Result<(T, haypile_engine::engine::Gate), String> {
    let slots = [slot];
    let done = node.transact(&slots, |tx| {
        execute::check_role(tx, slot, Flags::WRITE)?;
        work(tx)
    });
    done.await.map_err(|fail| execute::words(&fail))
}

/// What stands at a key.
enum Found {
    Nothing,
    String(Bytes),
    /// A collection of few elements, as a payload.
    Small(Vec<u8>),
    /// One of many, and what it is called.
    Large(&'static str),
}

/// Sends all of the keys that are there, and waits until the other node has them; how many.
async fn send(
    node: &Arc<Node>,
    slot: Slot,
    mut courier: Courier,
    keys: &[Key],
    terms: &Terms,
) -> Result<(Courier, u64), String> {
    let mut count = 0;
    for key in keys {
        let ((found, ttl), _) = on_slot(node, slot, |tx| read(tx, key, terms)).await?;
        match found {
            Found::Nothing => continue,
            found if terms.wire == Wire::Pieces => {
                in_pieces(node, slot, &mut courier, key, found, ttl, terms).await?;
            }
            Found::String(bytes) => {
                let payload = crate::rdb::Writer::string(&bytes).finish();
                courier.whole(key.user(), ttl.to_string().as_bytes(), &payload);
            }
            Found::Small(payload) => courier.whole(key.user(), ttl.to_string().as_bytes(), &payload),
            Found::Large(what) => large(node, slot, &mut courier, key, what, terms).await?,
        }
        count += 1;
    }
    courier.end().await?;
    Ok((courier, count))
}

/// What would be sent of these keys, in pieces: nothing goes.
///
/// # Errors
/// As [`some`].
pub async fn shown(node: &Arc<Node>, keys: &[&[u8]], terms: &Terms) -> Result<Shown, String> {
    let mut shown = Shown::default();
    for user in keys {
        let (slot, user) = (Slot::of_key(user), Bytes::copy_from_slice(user));
        let mark = Mark::of(&user, terms.with_tags);
        let mut all = BTreeSet::from([user]);
        all.extend(mates(node, slot, &BTreeSet::from([mark])).await?);
        for key in all.iter().map(|key| Key::new(key)) {
            let ((found, ttl), _) = on_slot(node, slot, |tx| read(tx, &key, terms)).await?;
            in_pieces(node, slot, &mut shown, &key, found, ttl, terms).await?;
        }
    }
    Ok(shown)
}

/// Gives a key away in pieces: what stood there goes first.
async fn in_pieces(
    node: &Arc<Node>,
    slot: Slot,
    taker: &mut impl Taker,
    key: &Key,
    found: Found,
    ttl: u64,
    terms: &Terms,
) -> Result<(), String> {
    let name = key.user();
    let ttl = ttl.to_string();
    let (what, whole): (&[u8], &[u8]) = match &found {
        Found::Nothing => return Ok(()),
        Found::Large(what) => return large(node, slot, taker, key, what, terms).await,
        Found::String(bytes) => (b"string", bytes),
        Found::Small(payload) => (b"object", payload),
    };
    taker.piece(&[b"delete", name]).await?;
    taker.piece(&[what, name, ttl.as_bytes(), whole]).await
}

/// What stands at a key, and its time to live in milliseconds, 0 for ever.
fn read(tx: &mut Tx<'_>, key: &Key, terms: &Terms) -> Result<(Found, u64), Fail> {
    let now = tx.now(key.slot());
    let Some(value) = tx.get(key)? else { return Ok((Found::Nothing, 0)) };
    let ttl = value.expiry.map_or(0, |at| at.0.saturating_sub(now.0).max(1));
    let (what, elements) = match Kind::of(&value) {
        Some(Kind::String) => return Ok((Found::String(Bytes::copy_from_slice(&value.payload)), ttl)),
        Some(Kind::List) => ("list", List::decode(key, &value)?.len()),
        Some(Kind::Set) => ("dict", Dict::set(key, &value)?.len()),
        Some(Kind::Hash) => ("hash", Dict::hash(key, &value)?.len() * 2),
        Some(Kind::SortedSet) => ("zset", Zset::decode(key, &value)?.len() * 2),
        Some(Kind::Stream) | None => {
            let name = String::from_utf8_lossy(key.user()).into_owned();
            return Err(Fail::error(format!("ERR '{name}' is a stream, which codis-server does not have")));
        }
    };
    if terms.wire == Wire::Pieces && elements > terms.elements_max {
        return Ok((Found::Large(what), ttl));
    }
    Ok(dump::serialise(tx, key)?.map_or((Found::Nothing, 0), |payload| (Found::Small(payload), ttl)))
}

/// A page of a collection: its elements, and where the next begins.
type Piece = (Vec<Bytes>, Option<u64>);

/// Sends a collection in pieces. It lives there for a while only, until it is whole.
async fn large(
    node: &Arc<Node>,
    slot: Slot,
    courier: &mut impl Taker,
    key: &Key,
    what: &'static str,
    terms: &Terms,
) -> Result<(), String> {
    let name = key.user();
    courier.piece(&[b"delete", name]).await?;
    let for_a_while = (terms.timeout.as_millis() * 3).to_string();
    let mut place = Some(0);
    while let Some(from) = place {
        let (read, _) = on_slot(node, slot, |tx| piece(tx, key, from, terms.elements_max)).await?;
        let Some((elements, next)) = read else {
            // It has expired meanwhile.
            return courier.piece(&[b"delete", name]).await;
        };
        let mut words: Vec<&[u8]> = vec![what.as_bytes(), name, for_a_while.as_bytes(), b"0"];
        words.extend(elements.iter().map(|element| &element[..]));
        courier.piece(&words).await?;
        place = next;
    }
    let ((_, ttl), _) = on_slot(node, slot, |tx| {
        let now = tx.now(slot);
        let ttl = |at: haypile_engine::clock::TimeMs| at.0.saturating_sub(now.0).max(1);
        let expiry = tx.get(key)?.map(|value| value.expiry);
        // Gone by now: it is there for a millisecond.
        Ok(((), expiry.map_or(1, |expiry| expiry.map_or(0, ttl))))
    })
    .await?;
    courier.piece(&[b"expire", name, ttl.to_string().as_bytes()]).await
}

/// Elements of a collection from a place on, about so many.
fn piece(tx: &mut Tx<'_>, key: &Key, from: u64, count: usize) -> Result<Option<Piece>, Fail> {
    let Some(value) = tx.get(key)? else { return Ok(None) };
    let pairs = count.div_ceil(2).max(1);
    let later = |next: u64| (next > 0).then_some(next);
    Ok(Some(match Kind::of(&value) {
        Some(Kind::List) => {
            let list = List::decode(key, &value)?;
            let from = usize::try_from(from).unwrap_or(usize::MAX);
            let mut items = Vec::new();
            list.walk(tx, from, count.max(1), Direction::Forward, |_, item| {
                items.push(Bytes::copy_from_slice(item));
                true
            })?;
            let next = from.saturating_add(items.len());
            (items, (next < list.len()).then_some(next as u64))
        }
        Some(Kind::Set) => {
            let (page, next) = Dict::set(key, &value)?.scan(tx, from, count.max(1))?;
            (page.into_iter().map(|(member, _)| member).collect(), later(next))
        }
        Some(Kind::Hash) => {
            let (page, next) = Dict::hash(key, &value)?.scan(tx, from, pairs)?;
            (page.into_iter().flat_map(|(field, value)| [field, value]).collect(), later(next))
        }
        _ => {
            let (page, next) = Zset::decode(key, &value)?.scan(tx, from, pairs)?;
            let raw = |score: f64| Bytes::copy_from_slice(&score.to_le_bytes());
            (page.into_iter().flat_map(|(member, score)| [member, raw(score)]).collect(), later(next))
        }
    }))
}
