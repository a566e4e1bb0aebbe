"""The story against real processes and sockets, told in several ways."""

import unittest

from harness import LONG, Case
from story import LOW, SLOT, Killer, Story


class Told(Case):
    def test_a_slot_moves_between_groups_under_load_and_nothing_is_lost(self):
        story = Story(self)
        story.found_groups_one_and_two()
        with story.load() as load:
            load.run_until_acked(3000)
            story.add_slot_to_group_three()
            story.attach_five_to_one()
            story.attach_six_to_five()
            load.run_until_acked(3000)
            story.move(load)
            load.run_until_acked(3000)
            story.leave_group_one([story.one, story.two])
            load.run_until_acked(3000)
        self.assertEqual(load.refused() + load.in_doubt(), 0)
        story.wait_until_replicas_have_all()
        self.assertGreater(story.check(load), 1000)

    def test_it_is_the_same_if_six_follows_five_before_five_follows_one(self):
        story = Story(self)
        story.found_groups_one_and_two()
        with story.load() as load:
            load.run_until_acked(2000)
            story.add_slot_to_group_three()
            story.attach_six_to_five()
            load.run_until_acked(500)
            story.attach_five_to_one()
            load.run_until_acked(2000)
            story.move(load)
            load.run_until_acked(2000)
            story.leave_group_one([story.two, story.one])
            load.run_until_acked(500)
        self.assertEqual(load.refused() + load.in_doubt(), 0)
        story.wait_until_replicas_have_all()
        story.check(load)

    def test_it_is_the_same_while_every_node_is_killed_in_turn(self):
        story = Story(self)
        story.found_groups_one_and_two()
        story.killer = killer = Killer(story, rounds=10 if LONG else 2)
        with story.load() as load:
            load.run_until_acked(1000)
            killer.start()
            story.add_slot_to_group_three()
            story.attach_five_to_one()
            story.attach_six_to_five()
            load.run_until_acked(1000)
            story.move(load)
            load.run_until_acked(1000)
            story.leave_group_one([story.two, story.one])
            killer.finish()
            load.run_until_acked(1000)
        self.assertEqual(load.refused(), 0)
        self.assertGreaterEqual(killer.kills, 12)
        story.wait_until_replicas_have_all()
        story.check(load)
        for node in story.nodes:
            node.kill()
            node.start()
        story.wait_until_replicas_have_all()
        story.check(load)

    def test_the_old_master_refuses_the_slot_after_no_one_was_typed_there(self):
        story = Story(self)
        story.found_groups_one_and_two()
        with story.load() as load:
            story.add_slot_to_group_three()
            story.attach_five_to_one()
            story.attach_six_to_five()
            story.move(load)
            load.run_until_acked(500)
            for node in (story.one, story.two):
                for _ in range(2):
                    story.do(node, "slotsslaveof", "no", "one", SLOT)
                    load.check_gone(node, [SLOT], "Partition not found")
            story.one.kill()
            story.one.start()
            load.check_gone(story.one, [SLOT], "Partition not found")
            story.leave_group_one([story.one, story.two])
            load.run_until_acked(500)
        story.wait_until_replicas_have_all()
        story.check(load)
        self.assertEqual(set(story.one.slots()), set(LOW) - {SLOT})


if __name__ == "__main__":
    unittest.main()
