//! SLOTSINFO, SLOTSHASHKEY, SLOTSSCAN, SLOTSDEL, SLOTSCHECK: what Codis' tools ask of slots.

use haypile_engine::tx::Tx;
use haypile_engine::types::Slot;

use super::scan;
use super::slotsmgrt::slot_at;
use super::walk::{clear, key_counts, page_of};
use crate::cx::{Fail, integer_in};
use crate::execute;
use crate::session::SessionCx;
use crate::table::{Command, Flags, Group, Pending};

const T: Group = Group("cluster");

/// See the file's head.
pub const COMMANDS: &[Command] = &[
    T.session(
        "slotsinfo",
        -1,
        Flags::FAST.with(Flags::OVER_SLOTS),
        "1.0.0",
        "Lists the node's slots with their numbers of keys.",
        info,
    )
    .own(),
    T.session("slotshashkey", -2, Flags::FAST, "1.0.0", "Tells which slots keys are in.", hash_key).own(),
    T.waiting(
        "slotsscan",
        -3,
        Flags::READONLY.with(Flags::OVER_SLOTS),
        "1.0.0",
        "Walks over the keys of a slot.",
        scan_slot,
    )
    .own(),
    T.waiting("slotsdel", -2, DELETE, "1.0.0", "Removes all keys of slots.", delete).own(),
    T.session("slotscheck", 1, Flags::DANGEROUS, "1.0.0", "Tells that keys are in their slots.", check).own(),
];

const DELETE: Flags = Flags::WRITE.with(Flags::DANGEROUS).with(Flags::OVER_SLOTS);

/// Without arguments all slots; else from a slot on, and so many.
fn info(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let count = |text: &&[u8]| integer_in(text, 0, i64::MAX, "ERR invalid slot count");
    let (first, count) = match &cx.args[1..] {
        [] => (0, i64::MAX),
        [first] => (slot_at(first)?.number(), i64::MAX),
        [first, many] => (slot_at(first)?.number(), count(many)?),
        _ => return Err(Fail::arity("slotsinfo")),
    };
    let end = i64::from(first).saturating_add(count);
    let mut counts = key_counts(cx.node);
    counts.retain(|(slot, _)| slot.number() >= first && i64::from(slot.number()) < end);
    cx.reply.array(counts.len());
    for (slot, keys) in counts {
        pair(cx, slot, keys);
    }
    Ok(())
}

fn pair(cx: &mut SessionCx<'_>, slot: Slot, keys: u64) {
    cx.reply.array(2);
    cx.reply.integer(i64::from(slot.number()));
    cx.reply.integer(i64::try_from(keys).unwrap_or(i64::MAX));
}

fn hash_key(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    cx.reply.array(cx.args.len() - 1);
    for key in &cx.args[1..] {
        cx.reply.integer(i64::from(Slot::of_key(key).number()));
    }
    Ok(())
}

/// SLOTSSCAN slot cursor [MATCH pattern] [COUNT n]: as SCAN, within a slot.
fn scan_slot<'a>(cx: &'a mut SessionCx<'_>) -> Pending<'a> {
    Box::pin(async move {
        let (slot, cursor) = (slot_at(cx.arg(1))?, scan::cursor(cx.arg(2))?);
        let options = scan::Options::parse(&cx.args[3..])?;
        let (keys, next) = match page_of(cx, slot, cursor, options.count).await? {
            Some(page) => page,
            None => {
                let refused = |tx: &mut Tx<'_>| execute::check_role(tx, slot, Flags::READONLY);
                cx.node.transact(&[slot], refused).await?;
                (Vec::new(), None)
            }
        };
        let found: Vec<_> = keys.into_iter().map(|(key, _)| key).filter(|key| options.takes(key)).collect();
        cx.reply.array(2);
        cx.reply.bulk(next.unwrap_or(0).to_string().as_bytes());
        cx.reply.bulks(found.iter());
        Ok(())
    })
}

/// Removes the keys, not the slots: those stay this node's. Replicas remove them too.
fn delete<'a>(cx: &'a mut SessionCx<'_>) -> Pending<'a> {
    Box::pin(async move {
        let named = cx.args[1..].iter().map(|text| slot_at(text)).collect::<Result<Vec<_>, _>>()?;
        let mut slots = named.clone();
        slots.sort_unstable();
        slots.dedup();
        clear(cx, &slots, |_| slots.clone()).await?;
        cx.reply.array(named.len());
        for slot in named {
            pair(cx, slot, 0);
        }
        Ok(())
    })
}

/// A key can't be in another slot than its own here: it is found by it.
fn check(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    cx.reply.ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    #[test]
    fn slots_are_listed_scanned_and_emptied() {
        Bench::new().check(
            "slotshashkey a {}b {a}c              -> *3 :579 :0 :579
             slotsinfo 579 0                      -> *0
             slotsinfo 1024                       -> -ERR invalid slot number: 1024
             slotsinfo 1 2 3                      -> -ERR wrong number of arguments for 'slotsinfo' command
             set a 1                              -> +OK
             set {a}x 1                           -> +OK
             slotsinfo 579 2                      -> *2 *2 :579 :2 *2 :580 :0
             slotsscan 579 0 match {a}*           -> *2 $1 0 *1 $4 {a}x
             slotsscan 578 0 count 5              -> *2 $1 0 *0
             slotsscan x 0                        -> -ERR value is not an integer or out of range
             slotsdel 579 3 579                   -> *3 *2 :579 :0 *2 :3 :0 *2 :579 :0
             dbsize                               -> :0
             slotscheck                           -> +OK",
        );
    }
}
