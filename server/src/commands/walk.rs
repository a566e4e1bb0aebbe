//! What walks over all keys of this node: SCAN, KEYS, RANDOMKEY, DBSIZE, FLUSHDB, FLUSHALL.
//!
//! Only slots that this node serves are seen; each is locked for a page of keys at a time.

use bytes::Bytes;
use haypile_engine::engine::{Fetched, Gate};
use haypile_engine::slot::Role;
use haypile_engine::tx::{KeyPage, Stop, Tx};
use haypile_engine::types::Slot;
use haypile_engine::value::Value;
use rand::RngExt;

use super::scan;
use crate::cx::{Cx, Fail, is};
use crate::execute;
use crate::glob;
use crate::kind::Kind;
use crate::node::Node;
use crate::resp::ReplyWriter;
use crate::session::SessionCx;
use crate::table::{Command, Flags, Group};

const READ: Flags = Flags::READONLY.with(Flags::OVER_SLOTS);

/// See the file's head.
pub const COMMANDS: &[Command] = &[
    Group("generic")
        .waiting("scan", -2, READ, "2.8.0", "Walks over the keys, some at a time.", |cx| {
            Box::pin(scan_keys(cx))
        })
        .at_once(scan_at_once),
    Group("generic").waiting(
        "keys",
        2,
        READ.with(Flags::DANGEROUS),
        "1.0.0",
        "Gives all keys of a pattern.",
        |cx| Box::pin(keys(cx)),
    ),
    Group("generic").waiting("randomkey", 1, READ, "1.0.0", "Gives some key.", |cx| Box::pin(randomkey(cx))),
    Group("server")
        .waiting("dbsize", 1, READ.with(Flags::FAST), "1.0.0", "Counts the keys.", |cx| Box::pin(dbsize(cx))),
    Group("server").waiting("flushdb", -1, FLUSH, "1.0.0", "Removes all keys.", |cx| Box::pin(flush(cx))),
    Group("server").waiting("flushall", -1, FLUSH, "1.0.0", "Removes all keys.", |cx| Box::pin(flush(cx))),
];

const FLUSH: Flags = Flags::WRITE.with(Flags::DANGEROUS).with(Flags::OVER_SLOTS);

/// How many keys a walk that nobody limits takes from a slot at a time.
const PAGE_KEYS: usize = 1000;
/// KEYS in a script, which keeps all of them in memory under all locks, is for nodes with no more.
const SCRIPT_KEYS_MAX: u64 = 1 << 17;

/// A place in the walk over all keys. As a cursor it is a number: the slot's number above 48 bits of hash; 0 is the
/// beginning, and also the end, as no walk stops at its beginning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    slot: Slot,
    hash: u64,
}

impl Place {
    fn of_cursor(cursor: u64) -> Option<Place> {
        let slot = Slot::new(u16::try_from(cursor >> 48).ok()?)?;
        Some(Place { slot, hash: cursor & ((1 << 48) - 1) })
    }

    fn cursor(place: Option<Place>) -> u64 {
        place.map_or(0, |place| u64::from(place.slot.number()) << 48 | place.hash)
    }

    /// Where the next slot begins, unless this is the last.
    fn next_slot(self) -> Option<Place> {
        Slot::new(self.slot.number() + 1).map(|slot| Place { slot, hash: 0 })
    }

    /// A page that begins here, of this slot.
    fn after(self, (keys, next): KeyPage) -> Page {
        let next = match next {
            Some(hash) => Some(Place { slot: self.slot, hash }),
            None => self.next_slot(),
        };
        (keys, next)
    }
}

/// Whether the slot is this node's to read, if not yet: see [`page_of`].
pub(super) fn serves(tx: &Tx<'_>, slot: Slot) -> bool {
    tx.role(slot).owns() || matches!(tx.role(slot), Role::Replica { .. })
}

/// Keys with their values, and where the walk goes on.
type Page = (Vec<(Bytes, Value)>, Option<Place>);

/// A page of keys from `place` on.
async fn page(cx: &mut SessionCx<'_>, place: Place, limit: usize) -> Result<Page, Fail> {
    let page = page_of(cx, place.slot, place.hash, limit).await?.unwrap_or_default();
    Ok(place.after(page))
}

/// A page of a slot's keys from `hash` on; `None` if it is not this node's to read. Waits for a slot that may get back what
/// its replicas have: a walk would miss it.
pub(super) async fn page_of(
    cx: &mut SessionCx<'_>,
    slot: Slot,
    hash: u64,
    limit: usize,
) -> Result<Option<KeyPage>, Fail> {
    let node = cx.node;
    let mut deadline = None;
    loop {
        let changes = node.engine.role_changes().count();
        let mut waits = false;
        let read = |tx: &mut Tx<'_>| {
            waits = *tx.role(slot) == Role::Owed;
            if waits || !serves(tx, slot) {
                return Ok(None);
            }
            Ok(Some(tx.keys(slot, hash, limit)?))
        };
        let (page, gate) = node.transact(&[slot], read).await?;
        if !waits {
            cx.gate.join(gate);
            return Ok(page);
        }
        execute::unfenced(node, slot, changes, &mut deadline).await?;
    }
}

const BEGINNING: u64 = 0;

/// A SCAN on its way.
struct Scan<'a> {
    options: scan::Options,
    kind: Option<&'a [u8]>,
    place: Option<Place>,
    looked_at: usize,
    found: Vec<Bytes>,
}

impl<'a> Scan<'a> {
    fn parse(args: &[&'a [u8]]) -> Result<Scan<'a>, Fail> {
        let cursor = scan::cursor(args[1])?;
        let (mut kind, mut others) = (None, Vec::new());
        for option in args[2..].chunks(2) {
            match option {
                [name, value] if is(name, "type") => kind = Some(*value),
                _ => others.extend_from_slice(option),
            }
        }
        let options = scan::Options::parse(&others)?;
        // A number that no walk gave is past the end: as in Redis, no error.
        Ok(Scan { options, kind, place: Place::of_cursor(cursor), looked_at: 0, found: Vec::new() })
    }

    /// The next page to look at: where it begins, and of how many keys; nothing at the end.
    fn next(&self) -> Option<(Place, usize)> {
        let left = self.options.count.saturating_sub(self.looked_at);
        self.place.filter(|_| left > 0).map(|place| (place, left.min(PAGE_KEYS)))
    }

    fn takes<P>(&self, key: &[u8], value: &Value<P>) -> bool {
        let of_kind = |kind: &[u8]| Kind::of(value).is_some_and(|k| is(kind, k.name()));
        self.kind.is_none_or(of_kind) && self.options.takes(key)
    }

    fn look(&mut self, key: &[u8], value: &Value<&[u8]>) {
        self.looked_at += 1;
        if self.takes(key, value) {
            self.found.push(Bytes::copy_from_slice(key));
        }
    }

    fn take(&mut self, page: Page) {
        let (keys, next) = page;
        self.looked_at += keys.len();
        self.place = next;
        for (key, value) in keys {
            if self.takes(&key, &value) {
                self.found.push(key);
            }
        }
    }

    fn reply(&self, reply: &mut ReplyWriter) {
        reply.array(2);
        reply.bulk(Place::cursor(self.place).to_string().as_bytes());
        reply.bulks(self.found.iter());
    }
}

async fn scan_keys(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let mut scan = Scan::parse(cx.args)?;
    while let Some((place, limit)) = scan.next() {
        scan.take(page(cx, place, limit).await?);
    }
    scan.reply(cx.reply);
    Ok(())
}

/// As [`scan_keys`], as long as the keys are in memory and their slots are this node's to read.
fn scan_at_once(cx: &mut SessionCx<'_>) -> Result<bool, Fail> {
    let mut scan = Scan::parse(cx.args)?;
    // Others wait for it meanwhile.
    if scan.options.count > PAGE_KEYS {
        return Ok(false);
    }
    let (engine, fetched) = (&cx.node.engine, Fetched::default());
    let mut gate = Gate::default();
    while let Some((Place { slot, hash }, limit)) = scan.next() {
        if cx.node.scripts.asides.holder(&[slot]).is_some() {
            return Ok(false);
        }
        let mut tx = engine.begin(&[slot], &fetched);
        if *tx.role(slot) == Role::Owed {
            return Ok(false);
        }
        let mut next = None;
        if serves(&tx, slot) {
            next = match tx.read_keys(slot, hash, limit, |key, value| scan.look(key, &value)) {
                Ok(next) => next,
                Err(Stop::Miss) => return Ok(false),
                Err(stop) => return Err(stop.into()),
            };
        }
        gate.join(tx.commit()?);
        scan.place = match next {
            Some(hash) => Some(Place { slot, hash }),
            None => Place { slot, hash }.next_slot(),
        };
    }
    cx.gate.join(gate);
    scan.reply(cx.reply);
    Ok(true)
}

async fn keys(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let pattern = cx.arg(1);
    let mut found = Vec::new();
    let mut place = Place::of_cursor(BEGINNING);
    while let Some(here) = place {
        let (keys, next) = page(cx, here, PAGE_KEYS).await?;
        found.extend(keys.into_iter().map(|(key, _)| key).filter(|key| glob::matches(pattern, key)));
        place = next;
    }
    cx.reply.bulks(found.iter());
    Ok(())
}

/// Where to look for some key: from a place by chance to the end, then from the beginning, as what is expired may fill any of it.
fn starts(counts: &[(Slot, u64)], rng: &mut impl RngExt) -> Option<[Option<Place>; 2]> {
    let total: u64 = counts.iter().map(|(_, keys)| keys).sum();
    if total == 0 {
        return None;
    }
    let mut chosen = rng.random_range(0..total);
    let slot = counts.iter().find(|(_, keys)| {
        let here = chosen < *keys;
        chosen = chosen.saturating_sub(*keys);
        here
    });
    let hash = rng.random_range(0..1 << 48);
    Some([slot.map(|(slot, _)| Place { slot: *slot, hash }), Place::of_cursor(BEGINNING)])
}

async fn randomkey(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    if let Some(starts) = starts(&key_counts(cx.node), &mut rand::rng()) {
        for mut place in starts {
            while let Some(here) = place {
                let (keys, next) = page(cx, here, 1).await?;
                if let Some((key, _)) = keys.first() {
                    cx.reply.bulk(key);
                    return Ok(());
                }
                place = next;
            }
        }
    }
    cx.reply.null();
    Ok(())
}

/// How many keys each slot has that this node serves.
#[must_use]
pub fn key_counts(node: &Node) -> Vec<(Slot, u64)> {
    let fetched = Fetched::default();
    Slot::all()
        .filter_map(|slot| {
            let tx = node.engine.begin(&[slot], &fetched);
            serves(&tx, slot).then(|| (slot, tx.key_count(slot)))
        })
        .collect()
}

/// One of these in a script, which has all slots locked then: it sees what the script has written.
///
/// # Errors
/// For the script; or what the engine meets.
pub fn in_script(cx: &mut Cx<'_>, command: &Command, args: &[&[u8]]) -> Result<(), Fail> {
    cx.check_reach_all(|| {
        format!(
            "ERR {} in a script is for standalone nodes: behind Codis a script has the slots of its KEYS",
            command.name
        )
    })?;
    let slots: Vec<Slot> = cx.tx.slots().filter(|&slot| serves(&cx.tx, slot)).collect();
    for &slot in &slots {
        cx.check_slot(slot, false)?;
    }
    let counts: Vec<(Slot, u64)> = slots.iter().map(|&slot| (slot, cx.tx.key_count_here(slot))).collect();
    // Nothing else goes on meanwhile, and Lua's own limit does not see it.
    let until_ns =
        cx.node.nanos().saturating_add(cx.node.config.now().script_busy_ms.saturating_mul(1_000_000));
    let page = |cx: &mut Cx<'_>, place: Place, limit: usize| -> Result<Page, Fail> {
        if cx.node.nanos() > until_ns {
            return Err(Fail::error(format!(
                "ERR {} in a script took longer than lua-time-limit: walk over the keys with SCAN, outside of scripts",
                command.name
            )));
        }
        if slots.binary_search(&place.slot).is_err() {
            return Ok(place.after(KeyPage::default()));
        }
        Ok(place.after(cx.tx.keys(place.slot, place.hash, limit)?))
    };
    match command.name {
        "scan" => {
            let mut scan = Scan::parse(args)?;
            while let Some((place, limit)) = scan.next() {
                scan.take(page(cx, place, limit)?);
            }
            scan.reply(cx.reply);
        }
        "keys" => {
            let keys: u64 = counts.iter().map(|(_, keys)| keys).sum();
            if keys > SCRIPT_KEYS_MAX {
                return Err(Fail::error(format!(
                    "ERR KEYS in a script is for nodes of at most {SCRIPT_KEYS_MAX} keys, this one has {keys}: walk over them with \
                     SCAN, outside of scripts"
                )));
            }
            let mut found = Vec::new();
            let mut place = Place::of_cursor(BEGINNING);
            while let Some(here) = place {
                let (keys, next) = page(cx, here, PAGE_KEYS)?;
                found.extend(keys.into_iter().map(|(key, _)| key).filter(|key| glob::matches(args[1], key)));
                place = next;
            }
            cx.reply.bulks(found.iter());
        }
        "randomkey" => {
            for mut place in starts(&counts, &mut cx.rng()).into_iter().flatten() {
                while let Some(here) = place {
                    let (keys, next) = page(cx, here, 1)?;
                    if let Some((key, _)) = keys.first() {
                        cx.reply.bulk(key);
                        return Ok(());
                    }
                    place = next;
                }
            }
            cx.reply.null();
        }
        "dbsize" => {
            let keys: u64 = counts.iter().map(|(_, keys)| keys).sum();
            cx.reply.integer(i64::try_from(keys).unwrap_or(i64::MAX));
        }
        _ => {
            check_flush(args)?;
            let own: Vec<Slot> =
                slots.into_iter().filter(|&slot| !matches!(cx.tx.role(slot), Role::Replica { .. })).collect();
            for &slot in &own {
                cx.check_slot(slot, true)?;
            }
            for slot in own {
                if cx.tx.key_count_here(slot) > 0 {
                    cx.tx.clear(slot);
                }
            }
            cx.reply.ok();
        }
    }
    Ok(())
}

fn check_flush(args: &[&[u8]]) -> Result<(), Fail> {
    match args {
        [_] => Ok(()),
        [_, how] if is(how, "async") || is(how, "sync") => Ok(()),
        _ => Err(Fail::syntax()),
    }
}

/// Whether a script may call it although it is none on keys.
#[must_use]
pub fn is_for_scripts(command: &Command) -> bool {
    matches!(command.name, "scan" | "keys" | "randomkey" | "dbsize" | "flushdb" | "flushall")
}

async fn dbsize(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let keys: u64 = key_counts(cx.node).iter().map(|(_, keys)| keys).sum();
    cx.reply.integer(i64::try_from(keys).unwrap_or(i64::MAX));
    Ok(())
}

async fn flush(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    check_flush(cx.args)?;
    let slots: Vec<Slot> = key_counts(cx.node).into_iter().map(|(slot, _)| slot).collect();
    clear(cx, &slots, |tx| {
        // A slot that follows another node is that node's to flush.
        let own: Vec<Slot> =
            slots.iter().copied().filter(|&slot| !matches!(tx.role(slot), Role::Replica { .. })).collect();
        if own.is_empty() { slots.clone() } else { own }
    })
    .await?;
    cx.reply.ok();
    Ok(())
}

/// Removes the keys of those of the slots that are chosen once all are locked; of none if this node may not write to
/// one of them.
pub(super) async fn clear(
    cx: &mut SessionCx<'_>,
    slots: &[Slot],
    choose: impl Fn(&Tx<'_>) -> Vec<Slot>,
) -> Result<(), Fail> {
    let work = |tx: &mut Tx<'_>| {
        let chosen = choose(tx);
        for &slot in &chosen {
            execute::check_role(tx, slot, Flags::WRITE)?;
        }
        for slot in chosen {
            if tx.key_count(slot) > 0 {
                tx.clear(slot);
            }
        }
        Ok(())
    };
    cx.node.require_replicas(slots)?;
    let written = &mut cx.session.written;
    let ((), gate) = cx.node.transact_noting(slots, work, |slot, seq| written.note(slot, seq)).await?;
    cx.gate.join(gate);
    // A group that somebody waits in may be gone.
    cx.node.blocked.wake_all();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::testing::Bench;

    /// Keys of a reply `*2 $n CURSOR *n $n KEY ...`.
    fn answer(reply: &str) -> (String, Vec<String>) {
        let words: Vec<&str> = reply.split(' ').filter(|word| !word.starts_with(['$', '*'])).collect();
        (words[0].to_owned(), words[1..].iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_scan_finds_every_key_once_whatever_the_count() {
        let mut bench = Bench::new();
        let all: BTreeSet<String> = (0..300).map(|n| format!("key:{n}")).collect();
        for key in &all {
            bench.run(&format!("set {key} v"));
        }
        bench.check("dbsize -> :300");
        for count in [1, 7, 100, 100_000] {
            let (mut cursor, mut found, mut rounds) = ("0".to_owned(), Vec::new(), 0);
            loop {
                let (next, keys) = answer(&bench.run(&format!("scan {cursor} count {count}")));
                found.extend(keys);
                rounds += 1;
                cursor = next;
                if cursor == "0" {
                    break;
                }
            }
            assert_eq!(found.len(), 300);
            assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), all);
            assert!(rounds >= 300 / count);
        }
        let (_, some) = answer(&bench.run("scan 0 match key:1? count 1000 type string"));
        assert_eq!(some.len(), 10);
        assert_eq!(bench.run("scan 0 count 1000 type hash"), "*2 $1 0 *0");
        assert!(bench.run("randomkey").contains("key:"));
        assert!(bench.run("keys key:29?").starts_with("*10 "));
        bench.check("flushall async -> +OK\ndbsize -> :0\nrandomkey -> $-1\nkeys * -> *0");
    }

    #[test]
    fn a_scan_refuses_what_makes_no_sense() {
        Bench::new().check(
            "scan x                          -> -ERR invalid cursor
             scan 0 count 0                  -> -ERR syntax error
             scan 0 count x                  -> -ERR value is not an integer or out of range
             scan 0 foo 1                    -> -ERR syntax error
             scan 0 match                    -> -ERR syntax error
             scan 18446744073709551615       -> *2 $1 0 *0
             flushall foo                    -> -ERR syntax error",
        );
    }
}
