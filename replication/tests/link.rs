//! A link whose disk fails: what was not made ready for a copy takes nothing that follows it.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use haypile_engine::clock::SystemClock;
use haypile_engine::engine::{Engine, Options};
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::history::History;
use haypile_engine::log::record::{Body, Header, encode};
use haypile_engine::types::{Epoch, NodeId, Seq, Slot};
use haypile_replication::link::Link;
use haypile_replication::message::{CopyHead, CopyId, Message};
use haypile_replication::receiver::Receiver;
use haypile_replication::registry::{LinkCommand, Registry};

const MASTER: NodeId = NodeId([9; 20]);

fn open(fs: &MemoryFs) -> Engine {
    let options = Options { log_segment_bytes: 64 << 10, ..Options::default() };
    let clock = Arc::new(SystemClock::new());
    Engine::open(Arc::new(fs.clone()), Path::new("/haypile"), clock, options).expect("opens").0
}

/// An empty slot that begins a copy without runs and gets its first record in the same batch; the operation of the disk
/// that is `ahead` fails. Says whether the copy began.
fn begin_copy(ahead: u64) -> bool {
    let slot = Slot::new(3).expect("in range");
    let fs = MemoryFs::new();
    let engine = open(&fs);
    engine.add_slots(&[slot]).expect("is added");
    engine.follow(&[slot], "master:1").expect("follows");
    let mine = engine.position(slot).history;

    let receiver = Arc::new(Mutex::new(Receiver::default()));
    let mut link = Link::new(&engine, Arc::new(Registry::default()), "master:1".to_owned(), receiver);
    link.on_command(LinkCommand::Attach { slots: vec![slot], force: false }, 0);
    link.connected(MASTER, 0);
    let number = match &link.take_out()[..] {
        [Message::Follow(asks)] => asks[0].number,
        other => panic!("{other:?}"),
    };

    let theirs = Epoch { term: 1, tag: 4711 };
    assert_eq!(mine.current().map(|epoch| epoch.term), Some(theirs.term), "only the tags tell them apart");
    let head = CopyHead {
        history: History::starting(theirs, Seq(1)),
        base: Seq::ZERO,
        granted: None,
        keys: 0,
        time: engine.pulse(slot).time,
        runs: 0,
        bytes: 0,
    };
    let mut record = Vec::new();
    encode(&mut record, Header { slot, term: theirs.term, seq: Seq(1) }, &Body::Batch(&[]));
    fs.fail_operation(fs.operations() + ahead, ErrorKind::StorageFull);
    link.on_message(Message::CopyBegin { copy: CopyId { slot, number }, head: head.clone() }, 0);
    link.on_message(Message::Records { more: false, times: Vec::new(), data: Bytes::from(record) }, 0);
    let broken = link.finish_batch(0);

    let position = engine.position(slot);
    if position.history == head.history {
        assert!(position.last_seq == Seq(1) || broken.is_some(), "{position:?}");
        return true;
    }
    assert_eq!(
        (position.history, position.last_seq),
        (mine.clone(), Seq::ZERO),
        "nothing of another history"
    );
    drop(link);
    drop(engine);
    let position = open(&fs.restart()).position(slot);
    assert_eq!(position.last_seq, Seq::ZERO, "nor after a restart: {position:?}");
    false
}

/// The record was appended to what the slot had before: a term is the same on all nodes that add a slot, and a record
/// does not say its epoch's tag. Its master refused the slot ever after, as unrelated.
#[test]
fn records_that_follow_a_copy_that_could_not_begin_are_not_taken() {
    let began: Vec<bool> = (0..40).map(begin_copy).collect();
    assert!(began.contains(&false), "the step that begins a copy failed");
    assert!(began.contains(&true), "and where nothing fails it begins: {began:?}");
}
