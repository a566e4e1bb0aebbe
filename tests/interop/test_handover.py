"""Slots handed over by their owner: held writes, rehearsals, what becomes of the old owner; digests; cycles."""

import os
import signal
import time
import unittest

from harness import Case, key_in, seed
from load import Load, Router


class Handover(Case):
    def pair(self, slots="0-3"):
        master, replica = self.node("master"), self.node("replica")
        for node in (master, replica):
            node.pkcluster("addslots", slots)
        self.follow(replica, master, slots)
        numbers = range(int(slots.split("-")[0]), int(slots.split("-")[-1]) + 1)
        for number in numbers:
            master.do("SET", key_in(number, "first"), number)
        self.wait_until_slave_has_all(master, replica, numbers)
        return master, replica

    def follow(self, replica, master, slots, *more):
        self.assertEqual(replica.pkcluster("slotsslaveof", "127.0.0.1", master.port, slots, *more), b"OK")

    def hand_over(self, master, to, slots, *more):
        return master.pkcluster("handover", "127.0.0.1", to.port, slots, *more)

    def state(self, node, slot):
        lines = [line.strip() for line in node.slot(slot).text.splitlines()]
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("state: "))

    def digest(self, node, slot, at):
        (line,) = node.pkcluster("digest", slot, "at", at)
        return dict(part.split("=", 1) for part in line.decode().split(" "))

    def test_a_rehearsal_tells_whether_it_could_and_changes_nothing(self):
        master, replica = self.pair()
        self.assertEqual(self.hand_over(master, replica, "0-1", "dryrun"), [b"slot 0 ready, lag 0", b"slot 1 ready, lag 0"])
        self.assertEqual([self.state(master, 0), self.state(replica, 0)], ["master", "replica"])
        other = self.node("other")
        self.assertIn("does not follow this node", master.error("PKCLUSTER", "handover", "127.0.0.1", other.port, "0", "dryrun"))
        other.pkcluster("addslots", "0")
        self.follow(other, replica, "0")
        self.wait(lambda: other.slot(0).status == "kConnected", "it follows")
        self.assertIn("only its owner", replica.error("PKCLUSTER", "handover", "127.0.0.1", other.port, "0", "dryrun"))
        self.assertIn("syntax", master.error("PKCLUSTER", "handover", "127.0.0.1", replica.port, "0", "then", "what"))

    def test_slots_go_to_the_replica_and_the_old_owner_stays_moved_follows_or_drops(self):
        master, replica = self.pair()
        self.assertEqual(self.hand_over(master, replica, "0"), b"OK")
        self.assertEqual(self.hand_over(master, replica, "1", "then", "follow"), b"OK")
        self.assertEqual(self.hand_over(master, replica, "2", "timeout", "2000", "then", "drop"), b"OK")
        self.assertEqual([self.state(replica, slot) for slot in range(4)], ["master", "master", "master", "replica"])
        self.assertEqual([self.state(master, slot) for slot in (0, 1, 3)], ["moved", "replica", "master"])
        self.assertNotIn(2, master.slots())
        replica.do("SET", key_in(1, "first"), "later")
        self.wait_until_slave_has_all(replica, master, [1])
        self.assertEqual(master.do("GET", key_in(1, "first")), b"later")
        self.assertIn("was handed over", master.error("SET", key_in(0, "x"), "y"))
        # And back.
        self.assertEqual(self.hand_over(replica, master, "1", "then", "follow"), b"OK")
        self.assertEqual([self.state(master, 1), self.state(replica, 1)], ["master", "replica"])

    def test_writes_wait_while_slots_go_back_and_forth_and_none_is_lost(self):
        master, replica = self.pair()
        router = Router()
        router.route(range(4), master)
        gone = lambda words: "was handed over" in words or "Server in read-only" in words
        with Load(router, seed(), may_refuse=gone) as load:
            load.run_until_acked(500)
            for turn in range(3):
                self.assertEqual(self.hand_over(master, replica, "0-3", "then", "follow"), b"OK")
                router.route(range(4), replica)
                load.run_until_acked(500)
                master, replica = replica, master
        self.wait_until_slave_has_all(master, replica, range(4))
        load.check(master, range(4))
        load.check(replica, range(4))
        at = int(time.time() * 1000) + 1000
        for slot in range(4):
            one, two = self.digest(master, slot, at), self.digest(replica, slot, at)
            self.assertEqual(one, two, "a replica at the same record has the same content")
            self.assertGreater(int(one["keys"]), 0)

    def test_a_replica_that_hangs_is_not_handed_anything_and_writes_go_on(self):
        master, replica = self.pair()
        self.stop(replica)
        try:
            master.do("SET", key_in(0, "k"), "1")
            said = master.error("PKCLUSTER", "handover", "127.0.0.1", replica.port, "0", "timeout", "300")
            self.assertIn("nothing changed", said)
            self.assertEqual(master.do("SET", key_in(0, "k"), "2"), True)
        finally:
            os.kill(replica.pid, signal.SIGCONT)
        self.wait_until_slave_has_all(master, replica, [0])
        self.assertEqual(self.hand_over(master, replica, "0"), b"OK")
        self.assertEqual(replica.do("GET", key_in(0, "k")), b"2")

    def test_a_digest_tells_of_every_difference(self):
        master, replica = self.pair("7-8")
        at = int(time.time() * 1000) + 1000
        self.assertEqual(self.digest(master, 7, at), self.digest(replica, 7, at))
        self.assertNotEqual(self.digest(master, 7, at)["digest"], self.digest(master, 8, at)["digest"])
        before = self.digest(master, 7, at)["digest"]
        master.do("HSET", key_in(7, "h"), "f", "v")
        self.assertNotEqual(self.digest(master, 7, at)["digest"], before)
        self.wait_until_slave_has_all(master, replica, [7])
        self.assertEqual(self.digest(master, 7, at), self.digest(replica, 7, at))
        self.assertIn("not found", master.error("PKCLUSTER", "digest", "9"))

    def test_a_cycle_over_three_nodes_is_refused(self):
        nodes = [self.node(f"node{number}") for number in range(3)]
        for node in nodes:
            node.pkcluster("addslots", "5")
        for upstream, node in zip(nodes, nodes[1:]):
            self.follow(node, upstream, "5")
        for upstream, node in zip(nodes, nodes[1:]):
            self.wait(lambda: node.slot(5).status == "kConnected", "it follows")
        said = nodes[0].error("PKCLUSTER", "slotsslaveof", "127.0.0.1", nodes[2].port, "5", "force")
        self.assertIn("can't follow itself", said)
        self.assertIn("can't follow itself", nodes[0].error("PKCLUSTER", "slotsslaveof", "127.0.0.1", nodes[0].port, "5"))
        self.assertEqual(nodes[0].do("SET", key_in(5, "k"), "v"), True)


if __name__ == "__main__":
    unittest.main()
