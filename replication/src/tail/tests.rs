use haypile_engine::clock::TimeMs;

use crate::message::Purpose;

use super::*;

const A: NodeId = NodeId([1; 20]);
const B: NodeId = NodeId([2; 20]);
const EPOCH: Epoch = Epoch { term: 3, tag: 9 };

fn slot(number: u16) -> Slot {
    Slot::new(number).expect("in range")
}

fn owed(number: u16, replicas: &[NodeId]) -> Owed {
    let replicas = replicas.iter().map(|node| (*node, format!("10.0.0.{}:9221", node.0[0]))).collect();
    Owed { slot: slot(number), epoch: EPOCH, last: Seq(10), replicas }
}

fn has(number: u16, last: u64) -> Beat {
    Beat { slot: slot(number), last: Seq(last), time: TimeMs(1) }
}

fn begun(actions: &[Action]) -> Vec<Slot> {
    let slots = actions.iter().filter_map(|action| match action {
        Action::Begin(slots) => Some(slots.clone()),
        _ => None,
    });
    slots.flatten().collect()
}

fn came(node: NodeId, more: bool, data: &'static [u8]) -> Event {
    Event::Records { node, more, data: Bytes::from_static(data) }
}

#[test]
fn an_epoch_begins_when_every_replica_has_given_all_that_it_has() {
    let mut taking = Taking::new(vec![owed(1, &[A, B]), owed(2, &[A])]);
    let dialled = taking.on(Event::Start);
    assert_eq!(dialled.len(), 2, "{dialled:?}");
    let asks = vec![(slot(1), EPOCH, Seq(10)), (slot(2), EPOCH, Seq(10))];
    assert_eq!(taking.on(Event::Reached(A)), [Action::Ask(A, asks)]);
    assert_eq!(taking.on(Event::Reached(B)), [Action::Ask(B, vec![(slot(1), EPOCH, Seq(10))])]);
    let told = taking.on(Event::Has(A, vec![has(1, 12)]));
    assert_eq!(begun(&told), [slot(2)], "of which it has nothing more");
    assert_eq!(begun(&taking.on(Event::Has(B, vec![has(1, 11)]))), []);
    assert_eq!(taking.on(came(A, false, b"11")), [Action::Append(A, Bytes::from_static(b"11"))]);
    let given = taking.on(Event::Appended(vec![(slot(1), Seq(11))]));
    assert_eq!(given, [Action::HangUp(B)], "what one of them has is what the other has");
    assert_eq!(taking.awaited(), ["10.0.0.1:9221"]);
    let last = taking.on(Event::Appended(vec![(slot(1), Seq(12))]));
    assert_eq!(last, [Action::HangUp(A), Action::Begin(vec![slot(1)])]);
    assert!(taking.is_over());
    assert_eq!(taking.taken(), 2);
}

#[test]
fn a_replica_that_is_lost_is_asked_again_for_what_is_lacking_and_one_that_refuses_is_not() {
    let mut taking = Taking::new(vec![owed(1, &[A, B])]);
    taking.on(Event::Start);
    taking.on(Event::Reached(A));
    taking.on(Event::Has(A, vec![has(1, 20)]));
    taking.on(came(A, true, b"half of a rec"));
    taking.on(Event::Appended(vec![(slot(1), Seq(15))]));
    assert_eq!(taking.on(Event::Lost(A)), [Action::Dial(A, "10.0.0.1:9221".to_owned())]);
    assert_eq!(taking.on(Event::Reached(A)), [Action::Ask(A, vec![(slot(1), EPOCH, Seq(15))])]);
    taking.on(Event::Has(A, vec![has(1, 20)]));
    let whole = taking.on(came(A, false, b"record"));
    assert_eq!(whole, [Action::Append(A, Bytes::from_static(b"record"))], "the half is forgotten");
    assert_eq!(taking.on(Event::Refused(B)), [Action::HangUp(B)]);
    assert_eq!(begun(&taking.on(Event::Refused(A))), [slot(1)]);
}

#[test]
fn when_time_is_up_everything_begins() {
    let mut taking = Taking::new(vec![owed(1, &[A]), owed(2, &[B])]);
    taking.on(Event::Start);
    assert_eq!(begun(&taking.on(Event::Deadline)), [slot(1), slot(2)]);
    assert!(taking.is_over());
    assert_eq!(taking.on(Event::Reached(A)), [], "too late");
    assert_eq!(taking.on(came(A, false, b"x")), [], "too late");
}

#[test]
fn who_is_waited_for_by_no_replica_begins_at_once() {
    let mut taking = Taking::new(vec![owed(1, &[])]);
    assert_eq!(begun(&taking.on(Event::Start)), [slot(1)]);
}

#[test]
fn a_record_in_pieces_is_appended_whole_and_one_without_an_end_ends_the_asking() {
    let mut taking = Taking::new(vec![owed(1, &[A])]);
    taking.on(Event::Start);
    taking.on(Event::Reached(A));
    taking.on(Event::Has(A, vec![has(1, 11)]));
    assert_eq!(taking.on(came(A, true, b"one ")), []);
    let whole = Action::Append(A, Bytes::from_static(b"one two"));
    assert_eq!(taking.on(came(A, false, b"two")), [whole]);
    let piece = Bytes::from(vec![0; 64 << 20]);
    let mut pieces = 0;
    while !taking.is_over() {
        taking.on(Event::Records { node: A, more: true, data: piece.clone() });
        pieces += 1;
        assert!(pieces < 100, "what is kept has a bound");
    }
}

#[test]
fn a_replica_gives_what_is_of_the_running_epoch_and_nothing_of_another() {
    let engine = haypile_engine::testing::engine();
    let one = slot(579);
    let write = |name: &str| {
        let key = haypile_engine::key::Key::new(name.as_bytes());
        let fetched = haypile_engine::engine::Fetched::default();
        let mut tx = engine.begin(&[one], &fetched);
        let value = haypile_engine::value::Value::whole(1, 0, Bytes::from_static(b"v"));
        assert!(tx.put(&key, &value).is_ok());
        tx.commit().expect("is written");
    };
    (0..5).for_each(|_| write("a"));
    let position = engine.position(one);
    let (epoch, last) = (position.history.current().expect("it has one"), position.last_seq);
    assert_eq!(last, Seq(5));
    let (told, giving) = Giving::look(&engine, &[(one, epoch, Seq(2)), (slot(3), epoch, Seq(0))], true);
    assert_eq!(told.iter().map(|beat| (beat.slot, beat.last)).collect::<Vec<_>>(), [(one, last)]);
    let mut giving = giving.expect("there is more");
    let data = giving.next(&engine).expect("the log has it");
    assert!(giving.is_over());
    let seqs: Vec<Seq> = records(&data).map(|record| record.expect("whole").header.seq).collect();
    assert_eq!(seqs, [Seq(3), Seq(4), Seq(5)]);
    assert!(Giving::look(&engine, &[(one, epoch, last)], true).1.is_none(), "nothing comes after the last");
    engine.follow(&[one], "10.0.0.9:9221").expect("follows");
    engine.promote(&[one]).expect("is promoted");
    let asks = [(one, epoch, Seq(2))];
    let (told, giving) = Giving::look(&engine, &asks, false);
    assert!(told.is_empty() && giving.is_none(), "what follows is of another epoch");
    let heirs = || Giving::look(&engine, &asks, true).0.iter().map(|beat| beat.last).collect::<Vec<_>>();
    assert_eq!(heirs(), [HEIR], "this node was promoted");
    engine.follow(&[one], "10.0.0.9:9221").expect("follows");
    assert_eq!(heirs(), [], "a replica of the heir is none");
}

#[test]
fn an_owner_whose_slot_is_anothers_meanwhile_begins_no_epoch_until_that_one_says_otherwise() {
    let mut taking = Taking::new(vec![owed(1, &[A, B]), owed(2, &[A, B])]);
    taking.on(Event::Start);
    taking.on(Event::Reached(A));
    taking.on(Event::Reached(B));
    taking.on(Event::Has(B, vec![has(1, 11)]));
    let heir = || vec![Beat { slot: slot(1), last: HEIR, time: TimeMs(99) }];
    let actions = taking.on(Event::Has(A, heir()));
    assert_eq!(actions[0], Action::Yield(A, vec![slot(1)]));
    assert_eq!(begun(&actions), [slot(2)], "of which neither has more");
    assert!(!actions.iter().any(|action| matches!(action, Action::Times(beats) if !beats.is_empty())));
    assert_eq!(begun(&taking.on(Event::Deadline)), []);
    assert!(!taking.awaits_tails() && !taking.is_over());

    let owed = || Event::Again(BTreeSet::from([slot(1), slot(7)]));
    assert_eq!(taking.on(owed()), [Action::Ask(A, vec![(slot(1), EPOCH, Seq(10))])]);
    assert_eq!(taking.on(Event::Has(A, heir())), [Action::Times(vec![])], "it was told once");
    assert_eq!(taking.on(Event::Lost(A)), [Action::Dial(A, "10.0.0.1:9221".to_owned())]);
    assert_eq!(taking.on(owed()), [], "who is away has not given it back");
    taking.on(Event::Reached(A));
    assert_eq!(begun(&taking.on(Event::Has(A, vec![]))), [slot(1)], "it was told to follow this node");
    assert!(taking.is_over());
}

#[test]
fn a_slot_that_was_told_to_follow_its_new_owner_is_waited_for_no_longer() {
    let mut taking = Taking::new(vec![owed(1, &[A])]);
    taking.on(Event::Start);
    taking.on(Event::Reached(A));
    taking.on(Event::Has(A, vec![Beat { slot: slot(1), last: HEIR, time: TimeMs(99) }]));
    assert_eq!(taking.on(Event::Again(BTreeSet::new())), [Action::HangUp(A)]);
    assert!(taking.is_over());
}

/// A question was an owner's that takes its tail back, and its keepalives made a replica of it.
#[test]
fn who_only_asks_is_no_replica() {
    let engine = std::sync::Arc::new(haypile_engine::testing::engine());
    for (purpose, registered) in [(Purpose::Question, false), (Purpose::Stream, true)] {
        let registry = std::sync::Arc::new(crate::registry::Registry::default());
        let mut peer = crate::peer::Peer::new(engine.clone(), registry, A, "10.0.0.1:9221".to_owned());
        peer.came_for(purpose);
        peer.on_message(crate::message::Message::Pong, 0).expect("is taken");
        assert_eq!(engine.forget_replica(A), registered);
    }
}
