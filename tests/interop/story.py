"""The story: six nodes in three groups, load on all slots, slot 1 moves from the first group to the third.

Told step by step, so that a test can tell it in another order or kill nodes meanwhile. Every step may be repeated.
"""

import random
import threading
import time

import redis

from harness import eventually, seed
from load import Load, Router

LOW, HIGH = range(0, 512), range(512, 1024)
SLOT = 1
SMALL_LAG = 2000
PATIENCE_S = 120


class Killer(threading.Thread):
    """Kills each node in turn with kill -9 at a random moment, in random order, round after round, and restarts it."""

    def __init__(self, story, rounds):
        super().__init__(name="killer", daemon=True)
        self.story, self.rounds = story, rounds
        self.random = random.Random(f"{seed()}/killer")
        self.kills = 0
        self.failure = None
        self.enough = threading.Event()

    def run(self):
        try:
            for _ in range(self.rounds):
                for node in self.random.sample(self.story.nodes, len(self.story.nodes)):
                    if self.enough.wait(self.random.random() * 0.8):
                        return
                    node.kill()
                    self.kills += 1
                    node.start()
        except BaseException as failure:  # whatever it is, the test must hear of it
            self.failure = failure

    def finish(self):
        """Waits until every node was killed in every round."""
        self.join(600)
        assert not self.is_alive(), "the killer hangs"
        if self.failure:
            raise self.failure


class Story:
    def __init__(self, case, flags=(), writers=8):
        self.case = case
        self.nodes = [case.node(f"node{number}", *flags) for number in range(1, 7)]
        self.one, self.two, self.three, self.four, self.five, self.six = self.nodes
        self.router = Router()
        self.writers = writers
        self.killer = None

    def do(self, node, *words):
        """Runs a command of PKCLUSTER; while nodes are killed, again until it is done."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = node.pkcluster(*words)
                self.case.assertIn(answer, (b"OK", True), words)
                return
            except (redis.ConnectionError, OSError, redis.ResponseError):
                if self.killer is None or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def look(self, node, slot):
        """What the node says of a slot; None while it is down."""
        try:
            return node.slot(slot)
        except (redis.ConnectionError, OSError):
            if self.killer is None:
                raise
            return None

    def found_groups_one_and_two(self):
        for master, replica, slots in ((self.one, self.two, LOW), (self.three, self.four, HIGH)):
            group = f"{slots[0]}-{slots[-1]}"
            self.do(master, "addslots", group)
            self.do(replica, "addslots", group)
            self.do(replica, "slotsslaveof", "127.0.0.1", master.port, group)
            self.router.route(slots, master)

    def load(self):
        return Load(self.router, seed(), writers=self.writers, hot=[SLOT])

    def add_slot_to_group_three(self):
        for node in (self.five, self.six):
            self.do(node, "addslots", SLOT)

    def attach_five_to_one(self):
        self.do(self.five, "slotsslaveof", "127.0.0.1", self.one.port, SLOT)

    def attach_six_to_five(self):
        self.do(self.six, "slotsslaveof", "127.0.0.1", self.five.port, SLOT)

    def slave_is_within(self, master, replica, lag, slot):
        info = self.look(master, slot)
        slave = info and info.slave_at(replica.address)
        return slave and slave.status == "SlaveBinlogSync" and slave.lag <= lag

    def wait_for_lag(self, master, replica, lag, slot=SLOT):
        def what():
            infos = [(node.name, getattr(self.look(node, slot), "text", None)) for node in (master, replica)]
            return f"lag {lag} of {replica.name} behind {master.name}; they say {infos}"

        eventually(lambda: self.slave_is_within(master, replica, lag, slot), what, PATIENCE_S)

    def move(self, load):
        """Steps 2.3 and 2.4: hold the clients of the slot, wait for lag 0, promote, let the clients go on at node 5."""
        self.wait_for_lag(self.one, self.five, SMALL_LAG)
        self.router.hold(SLOT)
        self.wait_for_lag(self.one, self.five, 0)
        self.do(self.five, "slotsslaveof", "no", "one", SLOT)
        self.router.route([SLOT], self.five)
        self.router.release(SLOT)

    def leave_group_one(self, order):
        """Step 2.5: `no one` and removeslots of the slot on the nodes of the old group."""
        for node in order:
            self.do(node, "slotsslaveof", "no", "one", SLOT)
            self.do(node, "removeslots", SLOT)

    def wait_until_replicas_have_all(self):
        self.case.wait_until_slave_has_all(self.one, self.two, [slot for slot in LOW if slot != SLOT])
        self.case.wait_until_slave_has_all(self.three, self.four, HIGH)
        self.wait_for_lag(self.five, self.six, 0)

    def check(self, load):
        """Every value on every node that should hold it; the slot gone where it was."""
        checked = 0
        for node, slots in ((self.one, LOW), (self.two, LOW), (self.three, HIGH), (self.four, HIGH)):
            checked += load.check(node, [slot for slot in slots if slot != SLOT])
        for node in (self.five, self.six):
            checked += load.check(node, [SLOT])
        for node in (self.one, self.two):
            self.case.assertIsNone(node.slot(SLOT), f"{node.name} still lists slot {SLOT}")
            load.check_gone(node, [SLOT], "Partition not found")
        self.case.assertEqual(self.six.slot(SLOT).master, self.five.address, "node 6 still follows node 5")
        self.case.assertEqual(self.six.slot(SLOT).status, "kConnected")
        self.case.assertEqual(self.five.slot(SLOT).role, "Master")
        self.case.assertIn("Server in read-only", self.six.error("SET", next(iter(load.entries([SLOT])))[0], "x"))
        return checked
