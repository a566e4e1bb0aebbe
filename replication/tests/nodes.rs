//! Nodes that follow each other: real engines, real sockets.

mod common;

use common::{DyingMaster, Node, assert_same, key_in, slot, slots, until};
use haypile_engine::slot::Role;
use haypile_replication::hub::Refused;
use haypile_replication::receiver::LinkState;
use haypile_replication::status::Done;

fn fill(node: &Node, slots: &[haypile_engine::types::Slot], keys: u32, value: &str) {
    for &slot in slots {
        for key in 0..keys {
            node.set(&key_in(slot, &format!("k{key}")), &format!("{value}{key}")).expect("is its master");
        }
    }
}

#[test]
fn a_replica_gets_what_was_and_what_comes_as_the_same_bytes() {
    let both = slots([1, 2]);
    let (a, b) = (Node::start(&both), Node::start(&both));
    fill(&a, &both, 50, "before");
    b.follow(&both, &a, false).expect("follows");
    fill(&a, &both, 60, "after");
    b.wait_connected(&both);
    a.wait_drained(&both, 1);
    assert_same(&a, &b, &both);
    for &slot in &both {
        assert_eq!(a.log_of(slot), b.log_of(slot), "slot {slot}");
        assert!(a.log_of(slot).len() >= 110);
    }
    assert_eq!(b.set(&key_in(slot(1), "x"), "y"), Err(b.role(slot(1))));
}

#[test]
fn what_was_flushed_comes_as_a_copy_while_writes_go_on() {
    let all = slots(0..12);
    let (a, b) = (Node::start(&all), Node::start(&all));
    fill(&a, &all, 200, &"x".repeat(500));
    a.engine().flush_all().expect("flushes");
    fill(&a, &all[..3], 10, "unflushed");
    b.follow(&all, &a, false).expect("follows");
    fill(&a, &all, 20, "later");
    b.wait_connected(&all);
    a.wait_drained(&all, 1);
    assert_same(&a, &b, &all);
    for &slot in &all {
        assert!(b.engine().position(slot).base_seq > haypile_engine::types::Seq(0), "slot {slot} was copied");
    }
}

#[test]
fn a_chain_can_be_built_from_its_end() {
    let one = slots([1]);
    let (a, b, c) = (Node::start(&one), Node::start(&one), Node::start(&one));
    fill(&a, &one, 300, "v");
    a.engine().flush_all().expect("flushes");
    c.follow(&one, &b, false).expect("follows an empty slot");
    c.wait_connected(&one);
    b.follow(&one, &a, false).expect("follows");
    fill(&a, &one, 30, "w");
    a.wait_drained(&one, 1);
    until("c has what a has", || {
        c.engine().pulse(slot(1)).last_seq == a.engine().pulse(slot(1)).last_seq
            && c.content(slot(1)) == a.content(slot(1))
    });
    b.wait_drained(&one, 1);
    assert_same(&a, &c, &one);
}

#[test]
fn the_story_of_a_slot_that_moves_under_load() {
    let one = slots([1]);
    let (a, b, c, d) = (Node::start(&one), Node::start(&one), Node::start(&one), Node::start(&one));
    fill(&a, &one, 100, "v");
    b.follow(&one, &a, false).expect("2 follows 1");
    c.follow(&one, &a, false).expect("5 follows 1");
    d.follow(&one, &c, false).expect("6 follows 5");
    c.wait_connected(&one);
    d.wait_connected(&one);

    // Clients write at the old owner, wait while it holds writes back, and go on at the new one.
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let (mut at_a, mut at_c) = (0u32, 0u32);
            for number in 0.. {
                let key = key_in(slot(1), &format!("w{number}"));
                loop {
                    if a.set(&key, "a").is_ok() {
                        at_a += 1;
                        break;
                    }
                    if c.set(&key, "c").is_ok() {
                        at_c += 1;
                        break;
                    }
                    std::thread::yield_now();
                }
                if at_c == 200 {
                    return (at_a, at_c);
                }
            }
            unreachable!("the loop ends by returning")
        });
        until("some writes", || a.engine().pulse(slot(1)).last_seq > haypile_engine::types::Seq(300));
        let notes = c.no_one(&one, false).expect("is handed over");
        assert!(matches!(notes[0].done, Done::HandedOver { .. }), "{notes:?}");
        assert_eq!(c.role(slot(1)), Role::Master);
        assert_eq!(a.role(slot(1)), Role::Moved { to: c.address.clone() });
        writer.join().expect("no panic")
    });
    assert!(written.0 > 100, "{written:?}");
    assert_eq!(u32::try_from(c.content(slot(1)).len()), Ok(100 + written.0 + written.1));
    c.wait_drained(&one, 1);
    assert_same(&c, &d, &one);

    // The seed's last step, typed on the old master and on its replica, does not steal the slot back.
    until("2 has learned of the grant", || b.engine().position(slot(1)).granted.is_some());
    for node in [&a, &b] {
        let notes = node.no_one(&one, false).expect("detaches");
        assert_eq!(notes[0].done, Done::Detached);
        assert_eq!(node.role(slot(1)), Role::Moved { to: c.address.clone() });
        node.engine().remove_slots(&one).expect("is removed");
    }
    c.set(&key_in(slot(1), "last"), "word").expect("is the master");
    c.wait_drained(&one, 1);
    assert_same(&c, &d, &one);
}

#[test]
fn a_replica_of_the_old_owner_follows_the_new_one_without_a_copy() {
    let one = slots([1]);
    let (a, b, c) = (Node::start(&one), Node::start(&one), Node::start(&one));
    fill(&a, &one, 100, "v");
    b.follow(&one, &a, false).expect("follows");
    c.follow(&one, &a, false).expect("follows");
    b.wait_connected(&one);
    c.wait_connected(&one);
    a.wait_drained(&one, 2);
    b.no_one(&one, false).expect("is handed over");
    let base = c.engine().position(slot(1)).base_seq;
    c.follow(&one, &b, false).expect("follows the new owner");
    a.follow(&one, &b, false).expect("the old owner follows the new one");
    fill(&b, &one, 10, "new");
    b.wait_drained(&one, 2);
    assert_same(&b, &c, &one);
    assert_same(&b, &a, &one);
    assert_eq!(c.engine().position(slot(1)).base_seq, base, "no copy was needed");
}

#[test]
fn unrelated_data_is_replaced_by_force_only() {
    let both = slots([1, 2]);
    let (a, b) = (Node::start(&both), Node::start(&both));
    fill(&a, &both, 5, "a");
    fill(&b, &slots([2]), 5, "b");
    let before = b.content(slot(2));
    let refused = b.follow(&both, &a, false).expect_err("slot 2 has data of its own");
    assert!(matches!(&refused, Refused::Unrelated(text) if text.contains("force")), "{refused}");
    assert_eq!((b.role(slot(1)), b.role(slot(2))), (Role::Master, Role::Master), "all or none");
    assert_eq!(b.content(slot(2)), before);
    b.follow(&both, &a, true).expect("is forced");
    a.wait_drained(&both, 1);
    assert_same(&a, &b, &both);
}

#[test]
fn whatever_is_wrong_with_the_upstream_is_said_and_nothing_changes() {
    let one = slots([1]);
    let (a, b) = (Node::start(&slots([2])), Node::with_password(&one, Some("secret"), None));
    let c = Node::with_password(&one, None, Some("wrong"));
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("bound").to_string()
    };
    let follow = |node: &Node, upstream: &str| {
        let slots = one.clone();
        let outcome = common::runtime().block_on(node.replication().follow(&slots, upstream, false));
        outcome.expect_err("is refused").to_string()
    };
    for (upstream, part) in [
        (closed.as_str(), "cannot connect"),
        ("no-such-host.invalid:1", "cannot connect"),
        ("nonsense", "not host:port"),
        (a.address.as_str(), "slot 1 is not on the master"),
        (b.address.as_str(), "refused the password"),
        (c.address.as_str(), "itself"),
    ] {
        let text = follow(&c, upstream);
        assert!(text.contains(part), "{upstream}: {text}");
        assert_eq!(c.role(slot(1)), Role::Master);
    }
    assert!(follow(&a, &b.address).contains("Slot 1 not found"));
    let d = Node::start(&one);
    assert!(follow(&d, &b.address).contains("masterauth"));
    d.replication().set_masterauth(Some("secret".to_owned()));
    d.follow(&one, &b, false).expect("now it may");
    let cycle = {
        b.replication().set_masterauth(None);
        follow(&b, &d.address)
    };
    assert!(cycle.contains("follows this node"), "{cycle}");
}

#[test]
fn a_killed_replica_and_a_killed_master_find_each_other_again() {
    let all = slots(0..4);
    let (mut a, mut b) = (Node::start(&all), Node::start(&all));
    fill(&a, &all, 50, "v");
    b.follow(&all, &a, false).expect("follows");
    a.wait_drained(&all, 1);
    b.kill();
    fill(&a, &all, 60, "w");
    b.open();
    a.wait_drained(&all, 1);
    assert_same(&a, &b, &all);
    a.kill();
    until("b has noticed", || b.link_state(slot(1)) == Some(LinkState::TryConnect));
    a.open();
    fill(&a, &all, 70, "x");
    a.wait_drained(&all, 1);
    assert_same(&a, &b, &all);
}

#[test]
fn without_its_master_a_replica_is_promoted_alone_and_says_so() {
    let one = slots([1]);
    let (mut a, b) = (Node::start(&one), Node::start(&one));
    fill(&a, &one, 50, "v");
    b.follow(&one, &a, false).expect("follows");
    a.wait_drained(&one, 1);
    let (content, history) = (a.content(slot(1)), a.engine().position(slot(1)).history);
    a.kill();
    until("b has noticed", || b.link_state(slot(1)) == Some(LinkState::TryConnect));
    let notes = b.no_one(&one, false).expect("is promoted");
    assert!(matches!(&notes[0].done, Done::PromotedAlone { .. }), "{notes:?}");
    b.set(&key_in(slot(1), "more"), "y").expect("is the master");
    assert_eq!(b.content(slot(1)).len(), content.len() + 1);
    assert!(b.engine().position(slot(1)).history.starts().len() > history.starts().len());

    // The old master comes back with a write that nobody has: it is repaired by a copy when it follows.
    a.open();
    a.set(&key_in(slot(1), "lonely"), "z").expect("does not know better");
    a.follow(&one, &b, false).expect("their histories share a root");
    b.wait_drained(&one, 1);
    assert_same(&b, &a, &one);
}

/// A master that was killed when it had just been asked for a slot: the command said that the handover was lost, and worked
/// when it was given again.
#[test]
fn a_master_that_dies_when_it_is_asked_for_a_slot_is_found_out_at_once() {
    let both = slots([1, 2]);
    let (a, b) = (Node::start(&both), Node::start(&both));
    fill(&a, &both, 20, "v");
    let between = DyingMaster::before(&a);
    let followed = b.replication().follow(&both, &between.address, false);
    common::runtime().block_on(followed).expect("follows");
    b.wait_connected(&both);
    a.wait_drained(&both, 1);
    let notes = b.no_one(&both, false).expect("is promoted");
    assert!(between.is_dead(), "it was asked first");
    assert!(notes.iter().all(|note| matches!(&note.done, Done::PromotedAlone { .. })), "{notes:?}");
    assert_eq!((b.role(slot(1)), b.role(slot(2))), (Role::Master, Role::Master));
    for slot in both {
        assert_eq!(a.content(slot), b.content(slot));
    }
}

#[test]
fn a_master_that_answers_is_not_overruled_because_the_link_is_down() {
    let one = slots([1]);
    let mut a = Node::with_password(&one, Some("secret"), None);
    let b = Node::with_password(&one, None, Some("secret"));
    fill(&a, &one, 5, "v");
    b.follow(&one, &a, false).expect("follows");
    a.wait_drained(&one, 1);
    b.replication().set_masterauth(Some("wrong".to_owned()));
    a.kill();
    until("b has noticed", || b.link_state(slot(1)) == Some(LinkState::TryConnect));
    a.open();
    let refused = b.no_one(&one, false).expect_err("a may still own the slot").to_string();
    assert!(refused.contains("answers") && refused.contains("force"), "{refused}");
    assert!(matches!(b.role(slot(1)), Role::Replica { .. }));
    b.no_one(&one, true).expect("is forced");
    assert_eq!(b.role(slot(1)), Role::Master);
}

#[test]
fn a_handover_that_does_not_finish_changes_nothing() {
    let one = slots([1]);
    let (a, b, c) = (Node::start(&one), Node::start(&one), Node::start(&one));
    fill(&a, &one, 5, "v");
    b.follow(&one, &a, false).expect("follows");
    c.follow(&one, &b, false).expect("follows");
    a.wait_drained(&one, 1);
    b.wait_drained(&one, 1);
    let refused = c.no_one(&one, false).expect_err("b does not own the slot");
    assert!(refused.to_string().contains("is a replica of"), "{refused}");
    assert!(matches!(c.role(slot(1)), Role::Replica { .. }));
    fill(&a, &one, 5, "w");
    a.wait_drained(&one, 1);
    b.wait_drained(&one, 1);
    assert_same(&a, &c, &one);
}

#[test]
fn a_grant_whose_answer_was_lost_is_asked_about_until_it_is_answered() {
    let one = slots([1]);
    let (mut a, mut b) = (Node::start(&one), Node::start(&one));
    fill(&a, &one, 20, "v");
    b.follow(&one, &a, false).expect("follows");
    a.wait_drained(&one, 1);
    // The grant alone, without the answer that the link would bring: as after a kill in between.
    a.engine().fence(&one).expect("owns it");
    a.engine().grant(slot(1), b.engine().node(), &b.address).expect("is granted");
    a.kill();
    b.kill();
    a.open();
    assert!(matches!(a.role(slot(1)), Role::Granted { .. }), "a grant survives");
    b.open();
    until("a knows", || a.role(slot(1)) == Role::Moved { to: b.address.clone() });
    until("b owns", || b.role(slot(1)) == Role::Master);
    assert_eq!(b.content(slot(1)), a.content(slot(1)));
}

#[test]
fn a_grant_to_a_node_that_gave_the_slot_up_is_taken_back() {
    let one = slots([1]);
    let (a, b) = (Node::start(&one), Node::start(&one));
    fill(&a, &one, 20, "v");
    let term = a.engine().position(slot(1)).history.current().expect("has one").term;
    b.engine().remove_slots(&one).expect("is removed");
    a.engine().fence(&one).expect("owns it");
    a.engine().grant(slot(1), b.engine().node(), &b.address).expect("is granted");
    until("a has it back", || a.role(slot(1)) == Role::Master);
    assert!(a.engine().position(slot(1)).history.current().expect("has one").term > term);
}

#[test]
fn all_slots_are_followed_and_handed_over_at_once() {
    let all: Vec<_> = haypile_engine::types::Slot::all().collect();
    let (a, b) = (Node::start(&all), Node::start(&all));
    fill(&a, &all[..100], 2, "v");
    b.follow(&all, &a, false).expect("follows");
    b.wait_connected(&all);
    fill(&a, &all, 1, "w");
    a.wait_drained(&all, 1);
    let notes = b.no_one(&all, false).expect("is handed over");
    assert_eq!(notes.len(), 1024);
    assert!(all.iter().all(|&slot| b.role(slot) == Role::Master));
    assert!(all.iter().all(|&slot| matches!(a.role(slot), Role::Moved { .. })));
    assert_same(&a, &a, &all[..1]);
    for &slot in &all {
        assert_eq!(a.content(slot), b.content(slot));
    }
}
