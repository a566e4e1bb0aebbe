//! A link driven by hand: an engine behind it, the master's messages in front.

use std::path::Path;

use haypile_engine::clock::{SystemClock, TimeMs};
use haypile_engine::engine::Options;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::history::History;
use haypile_engine::types::Epoch;

use super::*;
use crate::message::{CopyHead, CopyId};

const MASTER: NodeId = NodeId([1; 20]);
const UPSTREAM: &str = "10.0.0.1:9221";

fn slot() -> Slot {
    Slot::new(3).expect("in range")
}

fn open(fs: &MemoryFs) -> Engine {
    let options = Options { log_segment_bytes: 1 << 20, ..Options::default() };
    let clock = Arc::new(SystemClock::new());
    Engine::open(Arc::new(fs.clone()), Path::new("/haypile"), clock, options).expect("opens").0
}

/// A link on which the slot was asked for, and the question.
fn asked(engine: &Engine) -> (Link<'_>, SlotAsk) {
    let mut link = Link::new(engine, Arc::default(), UPSTREAM.to_owned(), Arc::default());
    link.on_command(LinkCommand::Attach { slots: vec![slot()], force: false }, 0);
    link.connected(MASTER, 0);
    let ask = question(&mut link);
    (link, ask)
}

fn question(link: &mut Link<'_>) -> SlotAsk {
    let asks = link.take_out().into_iter().find_map(|message| match message {
        Message::Follow(asks) => asks.into_iter().next(),
        _ => None,
    });
    asks.expect("the slot is asked for")
}

/// The slot waited for the rest of its copy for ever.
#[test]
fn the_end_of_a_copy_of_which_no_run_came_ends_the_connection_and_it_begins_again() {
    let engine = open(&MemoryFs::new());
    engine.add_slots(&[slot()]).expect("is added");
    engine.follow(&[slot()], UPSTREAM).expect("follows");
    for part in [Message::CopyEnd, Message::CopyRunEnd] {
        let (mut link, ask) = asked(&engine);
        let copy = CopyId { slot: slot(), number: ask.number };
        let history = History::starting(Epoch { term: 5, tag: 5 }, Seq(1));
        let head =
            CopyHead { history, base: Seq(9), granted: None, keys: 1, time: TimeMs(1), runs: 1, bytes: 10 };
        link.on_message(Message::CopyBegin { copy, head }, 0);
        assert_eq!(link.finish_batch(0), None);
        assert!(matches!(engine.role(slot()), Role::Loading { .. }));
        link.on_message(part(copy), 0);
        let why = link.finish_batch(0).expect("the connection ends");
        link.disconnected(&why, 0);
        link.connected(MASTER, 0);
        assert_eq!(question(&mut link).state, AskState::Loading, "{why}");
    }
}

/// A restart asked with the same force again, and what had parted the two since would have been overwritten unasked.
#[test]
fn a_master_that_goes_on_from_what_is_here_ends_what_force_allowed_durably() {
    let fs = MemoryFs::new();
    let engine = open(&fs);
    engine.add_slots(&[slot()]).expect("is added");
    engine.follow_by_force(&[slot()], UPSTREAM).expect("follows");
    let (mut link, ask) = asked(&engine);
    assert!(ask.force);
    link.on_message(Message::Continue { slot: slot(), number: ask.number, from: ask.last.next() }, 0);
    assert_eq!(link.finish_batch(0), None);
    for seed in 0..8 {
        assert!(!asked(&open(&fs.crash(seed))).1.force);
    }
}
