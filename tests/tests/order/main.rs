//! What is synced, renamed, written and removed, in which order: one file in `tests/testdata/order/` for each thing that
//! an engine does. Besides, rules that hold for every order (`rules.rs`), so that a rewritten file can't lose one.
//!
//! `HAYPILE_REWRITE=1 cargo test -p haypile-tests --test order` writes the files anew.

mod record;
mod rules;

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use haypile_engine::background::Job;
use haypile_engine::checkpoint::Progress;
use haypile_engine::copy::{Load, part_id};
use haypile_engine::engine::{Engine, Gate, Options, SyncMode};
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::key::Key;
use haypile_engine::log::record::{Body, Header, encode};
use haypile_engine::simulation::SimClock;
use haypile_engine::types::{Epoch, NodeId, Seq, Slot};
use haypile_engine::value::Value;
use haypile_tests::sources::{replace, text};
use haypile_tests::store::{self, slot, transact};

use record::{Event, Recorded};

/// The store's folder.
const DIR: &str = "/haypile";

/// An engine whose operations are noted from its first start on.
struct Node {
    recorded: Recorded,
    engine: Engine,
    /// Events before this one are not of what is shown.
    from: usize,
}

fn open(recorded: &Recorded) -> Engine {
    let options = Options {
        sync: SyncMode::Always,
        memory_bytes: 1 << 20,
        log_segment_bytes: 64 << 10,
        seed: Some(1),
        ..Options::default()
    };
    recorded.mark("opening");
    let fs = Arc::new(recorded.fs.clone());
    let (engine, _) =
        Engine::open(fs, Path::new(DIR), Arc::new(SimClock::at(60_000)), options).expect("opens");
    recorded.mark("opened");
    engine
}

fn key(number: u16, name: &str) -> Key {
    store::key(slot(number), name)
}

impl Node {
    /// A node that was started for the first time.
    fn fresh() -> Node {
        let recorded = Recorded::new(MemoryFs::new());
        let engine = open(&recorded);
        Node { recorded, engine, from: 0 }
    }

    /// A node with these slots.
    fn with(slots: &[u16]) -> Node {
        let node = Node::fresh();
        node.add(slots);
        node
    }

    fn add(&self, slots: &[u16]) {
        let slots: Vec<Slot> = slots.iter().copied().map(slot).collect();
        self.engine.add_slots(&slots).expect("adds");
        self.recorded.mark("durable");
    }

    /// What comes from here on is shown.
    fn show(mut self) -> Node {
        self.from = self.recorded.events().len();
        self
    }

    /// A transaction that puts a value into each slot; in the log's buffer when this returns.
    fn put(&self, slots: &[u16], name: &str, bytes: usize) {
        let locked: Vec<Slot> = slots.iter().copied().map(slot).collect();
        let value = Value::whole(0, 0, vec![b'v'; bytes]);
        let keys: Vec<Key> = slots.iter().map(|number| key(*number, name)).collect();
        let put = transact(&self.engine, &locked, |tx| keys.iter().try_for_each(|key| tx.put(key, &value)));
        put.expect("commits");
    }

    fn write(&self) {
        self.engine.write().expect("writes");
    }

    fn sync(&self) {
        self.write();
        self.engine.step(Job::Sync).expect("syncs");
        self.recorded.mark("synced");
    }

    fn flush(&self, slots: &[u16]) {
        let slots: Vec<Slot> = slots.iter().copied().map(slot).collect();
        self.engine.flush(&slots).expect("flushes");
        self.recorded.mark("durable");
    }

    fn step(&self, job: Job) {
        assert!(self.engine.step(job).expect("works"), "{job:?} finds nothing to do");
    }

    /// Ends the process and starts the next one on `fs`.
    fn restart(self, fs: MemoryFs) -> Node {
        let Node { recorded, engine, .. } = self;
        drop(engine);
        let next = Recorded::new(fs);
        let engine = open(&next);
        drop(recorded);
        Node { recorded: next, engine, from: 0 }
    }

    fn killed(self) -> Node {
        let fs = self.recorded.fs.restart();
        self.restart(fs)
    }

    fn lost_power(self, seed: u64) -> Node {
        let fs = self.recorded.fs.crash(seed);
        self.restart(fs)
    }

    fn events(&self) -> Vec<Event> {
        self.recorded.events()
    }
}

/// Whether what a reply waits for has been reached.
fn is_reached(engine: &Engine, gate: Gate) -> bool {
    let waiting = pin!(engine.reached(gate));
    let mut waiting = waiting;
    match waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        std::task::Poll::Ready(reached) => reached.is_ok(),
        std::task::Poll::Pending => false,
    }
}

fn first_open() -> Node {
    Node::fresh()
}

fn slot_add() -> Node {
    let node = Node::fresh().show();
    node.add(&[3, 5]);
    node
}

fn slot_remove() -> Node {
    let node = Node::with(&[3, 5]);
    node.put(&[3], "a", 100);
    node.flush(&[3]);
    node.put(&[3], "b", 100);
    node.write();
    let node = node.show();
    node.engine.remove_slots(&[slot(3)]).expect("removes");
    node.recorded.mark("durable");
    node
}

fn commit_always() -> Node {
    let node = Node::with(&[3, 5]).show();
    let value = Value::whole(0, 0, "v");
    let fetched = haypile_engine::engine::Fetched::default();
    let mut tx = node.engine.begin(&[slot(3), slot(5)], &fetched);
    [3, 5].iter().for_each(|number| tx.put(&key(*number, "a"), &value).expect("puts"));
    let gate = tx.commit().expect("commits");
    node.recorded.mark("committed: in memory");
    assert!(!is_reached(&node.engine, gate));
    node.write();
    node.recorded.mark("written: a reply in `everysec` may leave");
    assert!(!is_reached(&node.engine, gate));
    node.engine.step(Job::Sync).expect("syncs");
    assert!(is_reached(&node.engine, gate));
    node.recorded.mark("synced");
    node.recorded.mark("a reply in `always` may leave");
    node
}

fn flush() -> Node {
    let node = Node::with(&[3, 5]);
    node.put(&[3, 5], "a", 100);
    node.write();
    node.put(&[5], "b", 100);
    let node = node.show();
    node.flush(&[3, 5]);
    node
}

fn compaction() -> Node {
    let node = Node::with(&[3, 5]);
    for name in ["a", "b", "c", "d"] {
        node.put(&[3], name, 100);
        node.flush(&[3]);
    }
    node.put(&[5], "a", 100);
    node.write();
    let node = node.show();
    node.step(Job::Compact);
    node.recorded.mark("durable");
    node
}

fn reader_lets_go() -> Node {
    let node = Node::with(&[3]);
    for name in ["a", "b", "c", "d"] {
        node.put(&[3], name, 100);
        node.flush(&[3]);
    }
    let copy = node.engine.copy_source(slot(3)).expect("a source");
    node.step(Job::Compact);
    let node = node.show();
    node.recorded.mark("the reader lets go");
    drop(copy);
    assert!(!node.engine.step(Job::Flush).expect("works"), "nothing is left to flush");
    node.recorded.mark("durable");
    node
}

fn segment_roll() -> Node {
    let node = Node::with(&[3]);
    for number in 0..3 {
        node.put(&[3], &number.to_string(), 10_000);
        node.sync();
    }
    let node = node.show();
    node.step(Job::Prepare);
    node.recorded.mark("the next segment is prepared");
    node.put(&[3], "before", 9000);
    node.write();
    node.recorded.mark("written: the segment is nearly full");
    node.put(&[3], "after", 9000);
    node.write();
    node.recorded.mark("written: the frame lies in both segments");
    node.sync();
    node
}

fn log_release() -> Node {
    let node = Node::with(&[3, 5]);
    let replica = NodeId([7; 20]);
    node.engine.register_replica(replica, "127.0.0.1:7000");
    node.engine.pin(replica, slot(3), Seq::ZERO);
    for number in 0..12 {
        node.put(&[3, 5], &number.to_string(), 5_000);
        node.sync();
    }
    node.flush(&[3, 5]);
    node.engine.unpin(replica, slot(3));
    let node = node.show();
    assert!(!node.engine.step(Job::Flush).expect("works"), "nothing is left to flush");
    node.recorded.mark("durable");
    node
}

fn clean_close() -> Node {
    let node = Node::with(&[3]);
    node.put(&[3], "a", 100);
    let node = node.show();
    node.engine.close().expect("closes");
    node.recorded.mark("closed");
    node
}

fn open_after_clean_close() -> Node {
    clean_close().killed()
}

fn open_after_kill() -> Node {
    let node = Node::with(&[3]);
    node.put(&[3], "a", 100);
    node.flush(&[3]);
    node.put(&[3], "b", 100);
    node.sync();
    node.put(&[3], "c", 100);
    node.write();
    node.killed()
}

fn open_after_power_loss() -> Node {
    let node = Node::with(&[3]);
    node.put(&[3], "a", 100);
    node.sync();
    // Of these two frames the first is lost and the second is not, so that there is something to cut.
    node.put(&[3], "b", 2000);
    node.write();
    node.put(&[3], "c", 2000);
    node.write();
    // A pack that no manifest knows, and a segment that nobody began.
    node.step(Job::Prepare);
    node.lost_power(4)
}

fn manifest_roll() -> Node {
    let node = Node::fresh();
    let all: Vec<u16> = (0..1024).collect();
    let size = |node: &Node| {
        let roots = node.events();
        roots.iter().filter(|event| event.to_string().starts_with("rename manifest/CURRENT.tmp")).count()
    };
    let before = size(&node);
    loop {
        let here = node.events().len();
        node.add(&all);
        if size(&node) > before {
            return Node { from: here, ..node };
        }
        let slots: Vec<Slot> = Slot::all().collect();
        let here = node.events().len();
        node.engine.remove_slots(&slots).expect("removes");
        if size(&node) > before {
            return Node { from: here, ..node };
        }
    }
}

/// A node that follows another for a slot, and that other.
fn pair() -> (Node, Node) {
    let (master, replica) = (Node::with(&[3]), Node::with(&[3]));
    replica.engine.follow(&[slot(3)], "127.0.0.1:7000").expect("follows");
    (master, replica)
}

fn copy_install() -> Node {
    let (master, replica) = pair();
    master.put(&[3], "a", 100);
    master.flush(&[3]);
    let source = master.engine.copy_source(slot(3)).expect("a source");
    let replica = replica.show();
    let load = Load {
        granted: None,
        slot: slot(3),
        history: source.history.clone(),
        base: source.seq,
        keys: source.keys,
        time: source.time,
        complete: false,
    };
    replica.engine.start_loading(&[load]).expect("makes room");
    replica.recorded.mark("the slot is loading");
    let mut import = replica.engine.importer(slot(3), master.engine.node()).expect("is loading");
    let run = &source.runs[0];
    let mut bytes = vec![0; usize::try_from(run.meta().len).expect("small")];
    run.read_image(0, &mut bytes).expect("reads");
    import.begin_run(part_id(run.meta()), 0).expect("begins");
    import.chunk(&bytes).expect("writes");
    import.end_run().expect("is whole");
    replica.recorded.mark("the run has come");
    import.finish().expect("installs");
    replica.recorded.mark("durable");
    replica
}

fn promotion() -> Node {
    let (_, replica) = pair();
    let replica = replica.show();
    replica.engine.promote(&[slot(3)]).expect("promotes");
    replica.recorded.mark("synced");
    replica.recorded.mark("durable");
    replica
}

fn handover_grant() -> Node {
    let node = Node::with(&[3]);
    node.put(&[3], "a", 100);
    node.write();
    let node = node.show();
    node.engine.fence(&[slot(3)]).expect("fences");
    node.recorded.mark("fenced: writes wait");
    node.engine.grant(slot(3), NodeId([8; 20]), "127.0.0.1:7001").expect("grants");
    node.recorded.mark("synced");
    node.recorded.mark("granted: the other node may be told");
    let began = Epoch { term: 2, tag: 8 };
    assert_eq!(node.engine.finish_grants(NodeId([8; 20]), &[(slot(3), began)]), [slot(3)]);
    node.recorded.mark("moved");
    node.engine.step(Job::Flush).expect("works");
    node.recorded.mark("durable");
    node
}

fn handover_take() -> Node {
    let (_, replica) = pair();
    let before = replica.engine.position(slot(3));
    let term = before.history.current().expect("it was owned").term;
    let header = Header { slot: slot(3), term, seq: before.last_seq.next() };
    let grant = Body::Grant { to: replica.engine.node(), time: before.time, address: "127.0.0.1:7001" };
    let mut record = Vec::new();
    encode(&mut record, header, &grant);
    replica.engine.append_replicated(&record).expect("takes the grant's record");
    replica.engine.write().expect("writes");
    let replica = replica.show();
    replica.engine.take_grants(&[slot(3)]).expect("takes");
    replica.recorded.mark("synced");
    replica.recorded.mark("the other node may be told");
    replica.engine.step(Job::Flush).expect("works");
    replica.recorded.mark("durable");
    replica
}

fn handover_take_after_a_copy() -> Node {
    let (_, replica) = pair();
    let replica = replica.show();
    replica.engine.take_grants(&[slot(3)]).expect("takes");
    replica.recorded.mark("synced");
    replica.recorded.mark("the other node may be told");
    replica.engine.step(Job::Flush).expect("works");
    replica.recorded.mark("durable");
    replica
}

fn checkpoint() -> Node {
    let node = Node::with(&[3, 5]);
    node.put(&[3], "a", 100);
    node.flush(&[3]);
    node.put(&[3, 5], "b", 100);
    let node = node.show();
    let slots = [3, 5].map(slot).into();
    node.engine.checkpoint(Path::new("/copies/one"), &slots, &Progress::default()).expect("is made");
    node.recorded.mark("durable");
    node
}

/// The name of a golden file, what it begins with, and what happens.
type Scene = (&'static str, &'static str, fn() -> Node);

const SCENES: [Scene; 20] = [
    ("first-open", "A folder is made into a store.", first_open),
    ("slot-add", "Two slots are added.", slot_add),
    ("slot-remove", "A slot goes, and its file with it.", slot_remove),
    ("commit-always", "A transaction over two slots, in `always`.", commit_always),
    ("flush", "Two slots' memory goes to one file.", flush),
    ("compaction", "Four runs become one; another slot has records that are not synced.", compaction),
    ("reader-lets-go", "Somebody still read the files that a compaction replaced.", reader_lets_go),
    ("segment-roll", "The log goes on in its next segment.", segment_roll),
    ("log-release", "Log segments go that neither slots nor replicas need.", log_release),
    ("checkpoint", "A checkpoint of two slots, one of which has records in memory.", checkpoint),
    ("manifest-roll", "The manifest has outgrown its state: it goes on in a new file.", manifest_roll),
    ("clean-close", "The node stops in order.", clean_close),
    ("open-after-clean-close", "The next start.", open_after_clean_close),
    ("open-after-kill", "A start after a kill: what was written may not be on the disk.", open_after_kill),
    ("open-after-power-loss", "A start that finds a torn end.", open_after_power_loss),
    ("copy-install", "A slot's copy comes to the node that follows.", copy_install),
    ("promotion", "A replica becomes the owner.", promotion),
    ("handover-grant", "The owner gives a slot away.", handover_grant),
    ("handover-take", "The node that a slot was given to becomes its owner.", handover_take),
    (
        "handover-take-copied",
        "The same, where a copy was taken after the granting record and did not bring it.",
        handover_take_after_a_copy,
    ),
];

/// The events that are shown, one a line, repeated writes once.
fn shown(node: &Node) -> String {
    let mut lines: Vec<String> = node.events()[node.from..].iter().map(ToString::to_string).collect();
    lines.dedup();
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Compares a golden file with what was found, or writes it.
fn differs(name: &str, found: &str) -> Option<String> {
    let path = format!("tests/testdata/order/{name}.txt");
    if std::env::var("HAYPILE_REWRITE").is_ok() {
        replace(&path, found);
    }
    (text(&path) != found).then(|| format!("{path} should be:\n{found}\nHAYPILE_REWRITE=1 writes it anew"))
}

#[test]
fn everything_becomes_durable_in_the_order_that_is_written_down() {
    let differing: Vec<String> = SCENES
        .iter()
        .filter_map(|(name, about, run)| differs(name, &format!("# {about}\n{}", shown(&run()))))
        .collect();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

#[test]
fn nothing_is_relied_on_before_it_is_durable() {
    for (name, _, run) in SCENES {
        rules::check(&run().events()).unwrap_or_else(|why| panic!("{name}: {why}"));
    }
}

#[test]
fn a_sync_that_is_left_out_breaks_a_rule_or_is_known_to_be_spare() {
    // The rules would prove little if they let a sync go that somebody relies on.
    let mut spare =
        "# Syncs that no rule needs: another follows before anything relies on them.\n".to_owned();
    for (name, _, run) in SCENES {
        let node = run();
        let events = node.events();
        for number in node.from..events.len() {
            let line = events[number].to_string();
            let mut fewer = events.clone();
            fewer.remove(number);
            if line.starts_with("sync") && rules::check(&fewer).is_ok() {
                spare.push_str(&format!("{name}: {line}\n"));
            }
        }
    }
    if let Some(difference) = differs("spare-syncs", &spare) {
        panic!("{difference}");
    }
}

#[test]
fn steps_in_another_order_break_a_rule() {
    let move_before = |run: fn() -> Node, what: &str, before: &str| {
        let node = run();
        let mut events = node.events();
        let find = |text: &str| {
            let shown = events.iter().enumerate().skip(node.from);
            let mut found = shown.filter(|(_, event)| event.to_string().starts_with(text));
            found.next().unwrap_or_else(|| panic!("no {text}")).0
        };
        let (from, to) = (find(what), find(before));
        assert!(to < from, "{what} comes after {before}");
        let event = events.remove(from);
        events.insert(to, event);
        rules::check(&events).expect_err(&format!("{what} before {before}"))
    };
    move_before(flush, "write manifest", "sync-dir data");
    move_before(flush, "write manifest", "sync data");
    move_before(flush, "write manifest", "sync log");
    move_before(compaction, "remove data", "sync manifest");
    move_before(slot_remove, "remove data", "sync manifest");
    move_before(log_release, "remove log", "sync manifest");
    move_before(segment_roll, "write log/0000000000000001.log", "sync-dir log");
    move_before(segment_roll, "write log/0000000000000001.log", "sync log/0000000000000000.log");
    move_before(manifest_roll, "rename manifest", "sync manifest/000002");
    move_before(manifest_roll, "remove manifest", "rename manifest");
    move_before(
        checkpoint,
        "rename /copies/one.haypile-partial ->",
        "sync-dir /copies/one.haypile-partial/data",
    );
    move_before(
        checkpoint,
        "rename /copies/one.haypile-partial ->",
        "sync /copies/one.haypile-partial/manifest/000001",
    );
    move_before(commit_always, "-- synced", "sync log");
    move_before(handover_grant, "-- synced", "sync log");
    move_before(promotion, "write manifest", "sync log");
}
