//! SLOTSINFO and SLOTSHASHKEY: what Codis' tools ask of slots.

use haypile_engine::types::Slot;

use super::walk::key_counts;
use crate::cx::Fail;
use crate::session::SessionCx;
use crate::table::{Command, Flags, Keys, Run};

/// See the file's head.
pub const COMMANDS: &[Command] = &[
    row("slotsinfo", -1, "Lists the node's slots with their numbers of keys.", info),
    row("slotshashkey", -2, "Tells which slots keys are in.", hash_key),
];

const fn row(
    name: &'static str,
    arity: i32,
    summary: &'static str,
    run: fn(&mut SessionCx<'_>) -> Result<(), Fail>,
) -> Command {
    let flags = Flags::FAST;
    Command {
        name,
        arity,
        flags,
        keys: Keys::None,
        group: "cluster",
        since: "1.0.0",
        summary,
        run: Run::Session(run),
    }
}

/// Arguments are passed over, as Pika does.
fn info(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let counts = key_counts(cx.node);
    cx.reply.array(counts.len());
    for (slot, keys) in counts {
        cx.reply.array(2);
        cx.reply.integer(i64::from(slot.number()));
        cx.reply.integer(i64::try_from(keys).unwrap_or(i64::MAX));
    }
    Ok(())
}

fn hash_key(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    cx.reply.array(cx.args.len() - 1);
    for key in &cx.args[1..] {
        cx.reply.integer(i64::from(Slot::of_key(key).number()));
    }
    Ok(())
}
