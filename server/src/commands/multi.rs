//! MULTI, EXEC, DISCARD, WATCH, UNWATCH: several commands as one. What EXEC does is in `execute/exec.rs`.

use haypile_engine::key::Key;
use haypile_engine::slot::Role;
use haypile_engine::types::Slot;

use crate::codis::mover;
use crate::cx::Fail;
use crate::execute;
use crate::multi::{Multi, Watching};
use crate::session::{Mode, SessionCx};
use crate::table::{Command, Flags, Group, Keys, Run};

const AT_ONCE: Flags = Flags::FAST.with(Flags::UNQUEUED);

const T: Group = Group("transactions");

/// See the file's head.
pub const COMMANDS: &[Command] = &[
    T.session("multi", 1, AT_ONCE, "1.2.0", "Begins a transaction.", multi),
    T.row(
        "exec",
        1,
        Flags::UNQUEUED,
        Keys::None,
        "1.2.0",
        "Runs the transaction's commands as one.",
        Run::Exec,
    ),
    T.session("discard", 1, AT_ONCE, "2.0.0", "Gives the transaction up.", discard),
    T.waiting(
        "watch",
        -2,
        AT_ONCE.with(Flags::OVER_SLOTS),
        "2.2.0",
        "Lets EXEC run nothing if one of the keys changes before.",
        |cx| Box::pin(watch(cx)),
    )
    .at(Keys::ALL),
    T.session("unwatch", 1, Flags::FAST, "2.2.0", "Forgets the watched keys.", unwatch),
];

fn multi(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    if cx.session.multi.is_some() {
        return Err(Fail::error("ERR MULTI calls can not be nested"));
    }
    cx.session.multi = Some(Box::<Multi>::default());
    cx.session.mode = cx.session.mode.with(Mode::MULTI);
    cx.reply.ok();
    Ok(())
}

fn discard(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    if cx.session.end_multi().is_none() {
        return Err(Fail::error("ERR DISCARD without MULTI"));
    }
    cx.session.watching = None;
    cx.reply.ok();
    Ok(())
}

async fn watch(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    if cx.session.multi.is_some() {
        return Err(Fail::error("ERR WATCH inside MULTI is not allowed"));
    }
    let keys: Vec<Key> = cx.args[1..].iter().map(|key| Key::new(key)).collect();
    let mut slots: Vec<Slot> = keys.iter().map(Key::slot).collect();
    slots.sort_unstable();
    slots.dedup();
    let node = cx.node;
    let limit = node.config.now().request_bytes_max;
    if Watching::bytes_with(cx.session.watching.as_deref(), &keys) > limit {
        return Err(Fail::error("ERR the watched keys take more than client-query-buffer-limit: UNWATCH"));
    }
    let watching = cx.session.watching.get_or_insert_with(|| Box::new(Watching::new(node.clone())));
    let mut deadline = None;
    let gate = loop {
        let changes = node.engine.role_changes().count();
        let mut coming = None;
        let watched = node.transact(&slots, |tx| {
            let waits = |&slot: &Slot| *tx.role(slot) == Role::Owed || mover::comes_back(node, slot, tx);
            coming = slots.iter().copied().find(waits);
            if let Some(slot) = coming {
                return Err(execute::not_yet(slot, tx.role(slot)));
            }
            for &slot in &slots {
                execute::check_role(tx, slot, Flags::READONLY)?;
            }
            // A block that is not in memory stops it before the first watch begins.
            for key in &keys {
                tx.read(key, |_| ())?;
            }
            keys.iter().try_for_each(|key| Ok(watching.add(tx, key)?))
        });
        let watched = watched.await;
        match coming {
            Some(slot) => execute::unfenced(node, slot, changes, &mut deadline).await?,
            None => break watched?.1,
        }
    };
    cx.gate.join(gate);
    cx.reply.ok();
    Ok(())
}

fn unwatch(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    cx.session.watching = None;
    cx.reply.ok();
    Ok(())
}

#[cfg(test)]
mod tests;
