"""Slots wander between nodes under load, again and again, while nodes are killed: never lost, never in two places."""

import unittest

from harness import LONG, Case, seed
from load import Load, Router
from story import Killer, Story

SLOTS = range(8)
MOVES = 100 if LONG else 15


class Wandering(Story):
    """Three nodes; the steps of the story for any slot, from any node to any other."""

    def __init__(self, case, flags=()):
        self.case, self.killer = case, None
        self.nodes = [case.node(f"node{number}", *flags) for number in range(1, 4)]
        self.router = Router()
        self.do(self.nodes[0], "addslots", f"{SLOTS[0]}-{SLOTS[-1]}")
        self.router.route(SLOTS, self.nodes[0])

    def move_slot(self, slot, to):
        owner = self.router.node(slot)
        self.do(to, "addslots", slot)
        self.do(to, "slotsslaveof", "127.0.0.1", owner.port, slot)
        self.wait_for_lag(owner, to, 2000, slot)
        self.router.hold(slot)
        self.wait_for_lag(owner, to, 0, slot)
        self.do(to, "slotsslaveof", "no", "one", slot)
        self.router.route([slot], to)
        self.router.release(slot)
        self.do(owner, "removeslots", slot)

    def check_all(self, load):
        for slot in SLOTS:
            owner = self.router.node(slot)
            load.check(owner, [slot])
            for node in self.nodes:
                if node is not owner:
                    self.case.assertIsNone(node.slot(slot), f"{node.name} has slot {slot} too")
                    load.check_gone(node, [slot], "Partition not found")


class Wander(Case):
    def wander(self, story, load, moves):
        for _ in range(moves):
            slot = self.random.choice(SLOTS)
            owner = story.router.node(slot)
            story.move_slot(slot, self.random.choice([node for node in story.nodes if node is not owner]))
            load.run_until_acked(50)

    def test_slots_wander_between_three_nodes_and_nothing_is_lost(self):
        story = Wandering(self)
        with Load(story.router, seed()) as load:
            load.run_until_acked(500)
            self.wander(story, load, MOVES)
        self.assertEqual(load.refused() + load.in_doubt(), 0)
        story.check_all(load)

    def test_slots_wander_while_nodes_are_killed_and_nothing_is_lost(self):
        story = Wandering(self)
        story.killer = killer = Killer(story, rounds=1000)
        with Load(story.router, seed()) as load:
            load.run_until_acked(500)
            killer.start()
            self.wander(story, load, MOVES)
            # On a fast machine the moves are over before enough was killed: they go on until it was.
            for _ in range(20 * MOVES):
                if killer.kills > 3:
                    break
                self.wander(story, load, 1)
            killer.enough.set()
            killer.finish()
            load.run_until_acked(500)
        self.assertEqual(load.refused(), 0)
        self.assertGreater(killer.kills, 3)
        story.check_all(load)
        for node in story.nodes:
            node.kill()
            node.start()
        story.check_all(load)

    def test_a_slot_is_handed_over_without_a_proxy_that_holds_its_clients(self):
        """`no one` on a replica whose master answers is a handover: writes wait meanwhile, or are told where to go."""
        story = Wandering(self)
        words = ("Partition not found", "Server in read-only", "being handed over", "LOADING")

        def told(said):
            return any(word in said for word in words)

        with Load(story.router, seed(), may_refuse=told) as load:
            load.run_until_acked(500)
            for _ in range(MOVES):
                slot = self.random.choice(SLOTS)
                owner = story.router.node(slot)
                to = self.random.choice([node for node in story.nodes if node is not owner])
                story.do(to, "addslots", slot)
                story.do(to, "slotsslaveof", "127.0.0.1", owner.port, slot)
                story.wait_for_lag(owner, to, 2000, slot)
                story.do(to, "slotsslaveof", "no", "one", slot)
                story.router.route([slot], to)
                story.do(owner, "removeslots", slot)
                load.run_until_acked(50)
        self.assertEqual(load.in_doubt(), 0)
        story.check_all(load)


if __name__ == "__main__":
    unittest.main()
