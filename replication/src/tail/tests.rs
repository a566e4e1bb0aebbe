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

/// Of whom nothing came for so long is not waited for.
const WAIT_MS: u64 = 1000;

fn taking(owed: Vec<Owed>) -> Taking {
    Taking::new(owed, WAIT_MS, 0)
}

fn appended(node: NodeId, number: u16, last: u64) -> Event {
    Event::Appended { node, lasts: vec![(slot(number), Seq(last))], unfit: Vec::new() }
}

fn came(node: NodeId, more: bool, data: &'static [u8]) -> Event {
    Event::Records { node, more, data: Bytes::from_static(data) }
}

#[test]
fn an_epoch_begins_when_every_replica_has_given_all_that_it_has() {
    let mut taking = taking(vec![owed(1, &[A, B]), owed(2, &[A])]);
    let dialled = taking.on(Event::Start, 0);
    assert_eq!(dialled.len(), 2, "{dialled:?}");
    let asks = vec![(slot(1), EPOCH, Seq(10)), (slot(2), EPOCH, Seq(10))];
    assert_eq!(taking.on(Event::Reached(A), 0), [Action::Ask(A, asks)]);
    assert_eq!(taking.on(Event::Reached(B), 0), [Action::Ask(B, vec![(slot(1), EPOCH, Seq(10))])]);
    let told = taking.on(Event::Has(A, vec![has(1, 12)]), 0);
    assert_eq!(begun(&told), [slot(2)], "of which it has nothing more");
    assert_eq!(begun(&taking.on(Event::Has(B, vec![has(1, 11)]), 0)), []);
    assert_eq!(taking.on(came(A, false, b"11"), 0), [Action::Append(A, Bytes::from_static(b"11"))]);
    let given = taking.on(appended(A, 1, 11), 0);
    assert_eq!(given, [Action::HangUp(B)], "what one of them has is what the other has");
    let last = taking.on(appended(A, 1, 12), 0);
    assert_eq!(last, [Action::HangUp(A), Action::Begin(vec![slot(1)])]);
    assert!(taking.is_over());
    assert_eq!(taking.taken(), 2);
}

#[test]
fn a_replica_that_is_lost_is_asked_again_for_what_is_lacking_and_one_that_refuses_is_not() {
    let mut taking = taking(vec![owed(1, &[A, B])]);
    taking.on(Event::Start, 0);
    taking.on(Event::Reached(A), 0);
    taking.on(Event::Has(A, vec![has(1, 20)]), 0);
    taking.on(came(A, true, b"half of a rec"), 0);
    taking.on(appended(A, 1, 15), 0);
    assert_eq!(taking.on(Event::Lost(A), 0), [Action::Dial(A, "10.0.0.1:9221".to_owned())]);
    assert_eq!(taking.on(Event::Reached(A), 0), [Action::Ask(A, vec![(slot(1), EPOCH, Seq(15))])]);
    taking.on(Event::Has(A, vec![has(1, 20)]), 0);
    let whole = taking.on(came(A, false, b"record"), 0);
    assert_eq!(whole, [Action::Append(A, Bytes::from_static(b"record"))], "the half is forgotten");
    assert_eq!(taking.on(Event::Refused(B), 0), [Action::HangUp(B)]);
    assert_eq!(begun(&taking.on(Event::Refused(A), 0)), [slot(1)]);
}

fn missed(node: NodeId, number: u16, upto: Option<u64>, why: WhyMissed) -> Action {
    let address = format!("10.0.0.{}:9221", node.0[0]);
    Action::Missed(Missed { node, address, slots: vec![(slot(number), Seq(10), upto.map(Seq))], why })
}

#[test]
fn when_time_is_up_everything_begins() {
    let mut taking = taking(vec![owed(1, &[A]), owed(2, &[B])]);
    taking.on(Event::Start, 0);
    assert_eq!(taking.deadline_ms(), Some(WAIT_MS));
    assert_eq!(taking.on(Event::Tick, WAIT_MS - 1), []);
    let over = taking.on(Event::Tick, WAIT_MS);
    assert_eq!(begun(&over), [slot(1), slot(2)]);
    assert!(over.contains(&missed(A, 1, None, WhyMissed::Late)), "{over:?}");
    assert!(taking.is_over());
    assert_eq!(taking.on(Event::Reached(A), WAIT_MS), [], "too late");
    assert_eq!(taking.on(came(A, false, b"x"), WAIT_MS), [], "too late");
}

/// A replica that gave records again and again put off the end of the wait for one that was gone.
#[test]
fn what_comes_of_one_replica_gives_no_other_more_time() {
    let mut taking = taking(vec![owed(1, &[A]), owed(2, &[B]), owed(3, &[A, B])]);
    taking.on(Event::Start, 0);
    taking.on(Event::Reached(A), 100);
    taking.on(Event::Has(A, vec![has(1, 20), has(3, 20)]), 200);
    assert_eq!(taking.deadline_ms(), Some(WAIT_MS), "of the other");
    taking.on(appended(A, 1, 11), 900);
    assert_eq!(begun(&taking.on(Event::Tick, WAIT_MS)), [slot(2)], "nobody else has it");
    assert_eq!(taking.deadline_ms(), Some(900 + WAIT_MS));
    assert_eq!(taking.on(appended(A, 1, 11), 1200), [], "it is not new");
    assert_eq!(taking.deadline_ms(), Some(900 + WAIT_MS));
    taking.excuse(50);
    let over = taking.on(Event::Tick, 900 + WAIT_MS + 50);
    assert_eq!(begun(&over), [slot(1), slot(3)]);
    let slots = vec![(slot(1), Seq(11), Some(Seq(20))), (slot(3), Seq(10), Some(Seq(20)))];
    let address = "10.0.0.1:9221".to_owned();
    assert!(
        over.contains(&Action::Missed(Missed { node: A, address, slots, why: WhyMissed::Late })),
        "{over:?}"
    );
}

#[test]
fn a_long_record_has_the_time_that_it_takes_and_one_that_begins_anew_all_the_time_does_not() {
    let mut taking = taking(vec![owed(1, &[A])]);
    taking.on(Event::Start, 0);
    taking.on(Event::Reached(A), 0);
    taking.on(Event::Has(A, vec![has(1, 11)]), 0);
    for piece in 1..5 {
        taking.on(came(A, true, b"piece"), piece * (WAIT_MS - 1));
    }
    let deadline_ms = 4 * (WAIT_MS - 1) + WAIT_MS;
    assert_eq!(taking.deadline_ms(), Some(deadline_ms));
    taking.on(Event::Lost(A), deadline_ms - 500);
    taking.on(Event::Reached(A), deadline_ms - 400);
    taking.on(Event::Has(A, vec![has(1, 11)]), deadline_ms - 300);
    taking.on(came(A, true, b"piece"), deadline_ms - 200);
    assert_eq!(taking.deadline_ms(), Some(deadline_ms), "so much was there before");
}

/// A replica whose log did not go back so far looked like one that had nothing.
#[test]
fn what_a_replica_has_and_can_not_give_is_told_of_at_once_and_waited_for() {
    let mut taking = taking(vec![owed(1, &[A])]);
    taking.on(Event::Start, 0);
    taking.on(Event::Reached(A), 0);
    assert_eq!(begun(&taking.on(Event::Has(A, vec![has(1, 12)]), 0)), []);
    assert_eq!(taking.on(came(A, false, b""), 0), [missed(A, 1, Some(12), WhyMissed::LogGone)]);
    assert_eq!(taking.on(came(A, false, b""), 0), [], "once");
    let over = taking.on(Event::Tick, WAIT_MS);
    assert!(over.contains(&missed(A, 1, Some(12), WhyMissed::Late)), "{over:?}");
    assert_eq!(begun(&over), [slot(1)]);
}

/// What fitted of a piece was not counted when another slot's record in it did not, and the slot waited for it for ever.
#[test]
fn a_slot_whose_records_do_not_fit_takes_nothing_from_the_others() {
    let mut taking = taking(vec![owed(1, &[A]), owed(2, &[A]), owed(3, &[A])]);
    taking.on(Event::Start, 0);
    taking.on(Event::Reached(A), 0);
    taking.on(Event::Has(A, vec![has(1, 11), has(2, 11), has(3, 11)]), 0);
    let event = Event::Appended { node: A, lasts: vec![(slot(1), Seq(11))], unfit: vec![slot(2)] };
    assert_eq!(begun(&taking.on(event, 0)), [slot(1), slot(2)]);
    assert_eq!(begun(&taking.on(appended(A, 3, 11), 0)), [slot(3)]);
}

/// Only the address that the manifest remembered was tried.
#[test]
fn a_replica_that_comes_by_itself_is_asked_where_it_is_now() {
    let at = |port: u16| format!("10.0.1.1:{port}");
    let mut taking = taking(vec![owed(1, &[A]), owed(2, &[])]);
    assert_eq!(begun(&taking.on(Event::Start, 0)), [slot(2)], "nobody is known to have more of it");
    assert_eq!(taking.on(Event::Came(A, at(1), slot(1)), 10), [], "it is being tried");
    assert_eq!(taking.on(Event::Lost(A), 20), [Action::Dial(A, at(1))]);
    assert_eq!(
        taking.on(Event::Came(B, at(2), slot(1)), 500),
        [Action::Dial(B, at(2))],
        "one that was not known"
    );
    assert_eq!(taking.on(Event::Came(B, at(2), slot(2)), 500), [], "it has begun");
    assert_eq!(begun(&taking.on(Event::Tick, WAIT_MS)), [], "who came later has as much time");
    assert_eq!(taking.on(Event::Reached(B), 1200), [Action::Ask(B, vec![(slot(1), EPOCH, Seq(10))])]);
    assert_eq!(
        taking.on(Event::Came(A, at(3), slot(1)), 1300),
        [Action::Dial(A, at(3))],
        "late is not never"
    );
    taking.on(Event::Has(B, vec![has(1, 10)]), 1400);
    assert_eq!(taking.on(Event::Came(B, at(2), slot(1)), 1500), [], "it has answered");
    assert_eq!(begun(&taking.on(Event::Refused(A), 1600)), [slot(1)]);
}

#[test]
fn who_is_waited_for_by_no_replica_begins_at_once() {
    let mut taking = taking(vec![owed(1, &[])]);
    assert_eq!(begun(&taking.on(Event::Start, 0)), [slot(1)]);
}

#[test]
fn a_record_in_pieces_is_appended_whole_and_one_without_an_end_ends_the_asking() {
    let mut taking = taking(vec![owed(1, &[A])]);
    taking.on(Event::Start, 0);
    taking.on(Event::Reached(A), 0);
    taking.on(Event::Has(A, vec![has(1, 11)]), 0);
    assert_eq!(taking.on(came(A, true, b"one "), 0), []);
    let whole = Action::Append(A, Bytes::from_static(b"one two"));
    assert_eq!(taking.on(came(A, false, b"two"), 0), [whole]);
    let piece = Bytes::from(vec![0; 64 << 20]);
    let mut pieces = 0;
    while !taking.is_over() {
        taking.on(Event::Records { node: A, more: true, data: piece.clone() }, 0);
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
fn what_the_log_does_not_have_any_more_is_told_of_and_its_end_too() {
    let engine = haypile_engine::testing::engine();
    let one = slot(579);
    let mut history = haypile_engine::history::History::default();
    history.begin(EPOCH, Seq(1));
    engine.follow(&[one], "10.0.0.9:9221").expect("follows");
    let (keys, time, granted) = (0, TimeMs(1), None);
    let load =
        haypile_engine::copy::Load { slot: one, history, base: Seq(9), keys, time, granted, complete: true };
    engine.start_loading(&[load]).expect("a copy without runs");
    let (told, giving) = Giving::look(&engine, &[(one, EPOCH, Seq(5))], true);
    assert_eq!(told.iter().map(|beat| (beat.slot, beat.last)).collect::<Vec<_>>(), [(one, Seq(9))]);
    assert!(giving.expect("there should be more").is_over(), "and there is nothing to read");
    let engine = std::sync::Arc::new(engine);
    let registry = std::sync::Arc::new(crate::registry::Registry::default());
    let mut peer = crate::peer::Peer::new(engine, registry, A, "10.0.0.1:9221".to_owned());
    peer.on_message(crate::message::Message::TailAsk(vec![(one, EPOCH, Seq(5))]), 0).expect("is answered");
    peer.pump().expect("has nothing to read");
    let end = crate::message::Message::Records { more: false, times: Vec::new(), data: Bytes::new() };
    assert_eq!(peer.take_out().last(), Some(end));
    let asks = vec![(one, EPOCH, Seq(5)); 1025];
    assert!(
        peer.on_message(crate::message::Message::TailAsk(asks), 0).is_err(),
        "there are not so many slots"
    );
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

#[test]
fn an_owner_whose_slot_is_anothers_meanwhile_begins_no_epoch_until_that_one_says_otherwise() {
    let mut taking = taking(vec![owed(1, &[A, B]), owed(2, &[A, B])]);
    taking.on(Event::Start, 0);
    taking.on(Event::Reached(A), 0);
    taking.on(Event::Reached(B), 0);
    taking.on(Event::Has(B, vec![has(1, 11)]), 0);
    let heir = || vec![Beat { slot: slot(1), last: HEIR, time: TimeMs(99) }];
    let actions = taking.on(Event::Has(A, heir()), 0);
    assert_eq!(actions[0], Action::Yield(A, vec![slot(1)]));
    assert_eq!(begun(&actions), [slot(2)], "of which neither has more");
    assert!(!actions.iter().any(|action| matches!(action, Action::Times(beats) if !beats.is_empty())));
    assert_eq!(begun(&taking.on(Event::Tick, WAIT_MS)), []);
    assert!(taking.deadline_ms().is_none() && !taking.is_over());

    let owed = || Event::Again(BTreeSet::from([slot(1), slot(7)]));
    assert_eq!(taking.on(owed(), 0), [Action::Ask(A, vec![(slot(1), EPOCH, Seq(10))])]);
    assert_eq!(taking.on(Event::Has(A, heir()), 0), [Action::Times(vec![])], "it was told once");
    assert_eq!(taking.on(Event::Lost(A), 0), [Action::Dial(A, "10.0.0.1:9221".to_owned())]);
    assert_eq!(taking.on(owed(), 0), [], "who is away has not given it back");
    taking.on(Event::Reached(A), 0);
    assert_eq!(begun(&taking.on(Event::Has(A, vec![]), 0)), [slot(1)], "it was told to follow this node");
    assert!(taking.is_over());
}

#[test]
fn a_slot_that_was_told_to_follow_its_new_owner_is_waited_for_no_longer() {
    let mut taking = taking(vec![owed(1, &[A])]);
    taking.on(Event::Start, 0);
    taking.on(Event::Reached(A), 0);
    taking.on(Event::Has(A, vec![Beat { slot: slot(1), last: HEIR, time: TimeMs(99) }]), 0);
    assert_eq!(taking.on(Event::Again(BTreeSet::new()), 0), [Action::HangUp(A)]);
    assert!(taking.is_over());
}
