//! PKCLUSTER: which slots this node has, and whom they follow. The commands and words of Pika's sharding mode.
//!
//! `grammar` reads what was typed, [`crate::topology`] does it, `info_text` shows what is.

pub mod grammar;
pub mod info_text;

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use haypile_engine::types::Slot;
use haypile_replication::status::SlotKept;

use self::grammar::{Choice, Request, Totals};
use self::info_text::TableText;
use super::save;
use crate::cx::Fail;
use crate::saves::Plan;
use crate::session::SessionCx;
use crate::table::{Command, Flags, Group, Pending};
use crate::topology;
use crate::whole;

/// See the file's head.
pub const COMMANDS: &[Command] = &[Group("cluster")
    .waiting(
        "pkcluster",
        -1,
        Flags::ADMIN
            .with(Flags::DANGEROUS)
            .with(Flags::NO_MULTI)
            .with(Flags::OPERATOR)
            .with(Flags::OVER_SLOTS),
        "1.0.0",
        "Adds, removes, attaches, detaches and shows slots.",
        pkcluster,
    )
    .own()];

fn pkcluster<'a>(cx: &'a mut SessionCx<'_>) -> Pending<'a> {
    Box::pin(async move {
        match grammar::parse(cx.args).map_err(Fail::error)? {
            Request::AddSlots(slots) => topology::add(cx.node, slots).await?,
            Request::RemoveSlots(slots) => topology::remove(cx.node, slots).await?,
            Request::Follow { master, slots, force } => {
                let slots = local(cx, slots)?;
                topology::follow(cx.node, &slots, &master, force).await?;
                whole::learn(cx.node, &slots, &master).await;
            }
            Request::NoOne { slots, force } => {
                let slots = local(cx, slots)?;
                topology::no_one(cx.node, &slots, force).await?;
            }
            Request::HandOver { to, slots, timeout_ms, rehearsal, then } => {
                let slots = local(cx, slots)?;
                let ready = topology::hand_over(cx.node, &slots, &to, timeout_ms, rehearsal, then).await?;
                if rehearsal {
                    cx.reply.array(ready.len());
                    ready.iter().for_each(|line| cx.reply.bulk(line.as_bytes()));
                    return Ok(());
                }
            }
            Request::Digest(slots, at) => {
                let slots = local(cx, slots)?;
                let lines = topology::digests(cx.node, slots, at).await?;
                cx.reply.array(lines.len());
                lines.iter().for_each(|line| cx.reply.bulk(line.as_bytes()));
                return Ok(());
            }
            Request::Checkpoint { dir, slots } => {
                let slots = local(cx, slots)?;
                return save::run(cx, Plan::At(dir.into(), slots)).await;
            }
            Request::InfoSlot(choice) => {
                info_slot(cx, choice);
                return Ok(());
            }
            Request::InfoTable(totals) => {
                info_table(cx, totals);
                return Ok(());
            }
            Request::InfoUnknown => {
                cx.reply.bulk(b"");
                return Ok(());
            }
            Request::Help => {
                cx.reply.array(grammar::HELP.len());
                grammar::HELP.iter().for_each(|line| cx.reply.simple(line));
                return Ok(());
            }
        }
        cx.reply.ok();
        Ok(())
    })
}

/// The slots that were chosen, which must be here.
fn local(cx: &SessionCx<'_>, choice: Choice) -> Result<Vec<Slot>, Fail> {
    match choice {
        Choice::Group(slots) => topology::require_present(&cx.node.engine, slots),
        Choice::All => match topology::present(&cx.node.engine) {
            none if none.is_empty() => Err(Fail::error(
                "ERR Slots set empty: this node has no slots; first PKCLUSTER ADDSLOTS <group>",
            )),
            slots => Ok(slots),
        },
    }
}

fn info_slot(cx: &mut SessionCx<'_>, choice: Choice) {
    let slots = match choice {
        Choice::All => Slot::all().collect(),
        Choice::Group(slots) => slots,
    };
    let mut out = String::new();
    let kept = cx.node.replication.kept(&slots);
    let kept: HashMap<Slot, SlotKept> = slots.iter().copied().zip(kept).collect();
    let wall = cx.node.wall();
    for view in topology::views(cx.node, slots) {
        info_text::slot(&mut out, &view, kept.get(&view.slot).unwrap_or(&SlotKept::default()), wall);
    }
    cx.reply.bulk(out.as_bytes());
}

fn info_table(cx: &mut SessionCx<'_>, totals: Totals) {
    let stats = &cx.node.stats;
    let text = TableText {
        commands: stats.commands_processed.load(Ordering::Relaxed),
        writes: stats.writes_processed.load(Ordering::Relaxed),
        commands_per_second: stats.commands_per_second.load(Ordering::Relaxed),
        writes_per_second: stats.writes_per_second.load(Ordering::Relaxed),
    };
    cx.reply.bulk(info_text::table(&text, totals).as_bytes());
}
