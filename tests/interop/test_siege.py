"""Six nodes under siege: killed, paused, cut off from each other, slots handed back and forth, under load all the while.

Nothing that was acknowledged may be lost, no answer may be one that no order of writes explains, and when the siege ends
every slot comes to have one owner by itself, everybody catches up, and all hold the same. It lasts some seconds, ten minutes
with HAYPILE_LONG=1, or HAYPILE_SIEGE_SECONDS.
"""

import os
import random
import re
import signal
import threading
import time
import unittest

import redis

from harness import LONG, Case, eventually, key_in, seed
from load import Load, Router
from relay import Network, Relayed

SECONDS = float(os.environ.get("HAYPILE_SIEGE_SECONDS") or (600 if LONG else 8))
SLOTS = range(12)
MEMBERS = 3
# The least that has to happen, however fast or slow the machine is, and how long that may take.
LEAST = {"kills": 1, "pauses": 1, "cuts": 1, "holds": 1, "handovers": 3}
LEAST_S = 240
SETTLE_S = 120
# A connection is given up after 10 s of silence: some holds and pauses last longer.
LONG_HOLD_S = 12
WHERE = re.compile(r"[Ss]lot (\d+) (?:was handed over to|follows|is being copied from) (127\.0\.0\.1:\d+)")
UNSETTLED = ("is being handed over", "asks its replicas", "Partition not found", "Server in read-only", "LOADING")
DOWN = (redis.ConnectionError, redis.TimeoutError, OSError)


class Besieger(threading.Thread):
    """Does one random thing after the other until it is told to stop."""

    def __init__(self, siege, name):
        super().__init__(name=name, daemon=True)
        self.siege = siege
        self.random = random.Random(f"{seed()}/{name}")
        self.failure = None

    def run(self):
        try:
            while not self.siege.enough.wait(self.random.random() * 0.4):
                self.act()
        except BaseException as failure:  # whatever it is, the test must hear of it
            self.failure = failure

    def pause(self, shortest, longest):
        """Between two moments of one thing; short if the siege ends meanwhile. Mostly short, now and then long."""
        self.siege.enough.wait(shortest + (longest - shortest) * self.random.random() ** 3)

    def finish(self):
        self.join(180)
        assert not self.is_alive(), f"{self.name} hangs"
        if self.failure:
            raise self.failure


class Executioner(Besieger):
    """Kills and pauses nodes, one at a time."""

    def act(self):
        node = self.random.choice(self.siege.nodes)
        if self.random.random() < 0.5:
            node.kill()
            self.siege.count("kills")
            self.pause(0, 2)
            node.start()
            return
        os.kill(node.pid, signal.SIGSTOP)
        self.siege.count("pauses")
        try:
            self.pause(0.05, LONG_HOLD_S)
        finally:
            os.kill(node.pid, signal.SIGCONT)


class Saboteur(Besieger):
    """Cuts, holds up and slows what goes between two nodes, or to and from one."""

    def act(self):
        network = self.siege.network
        nodes = self.random.sample(self.siege.nodes, self.random.choice((1, 2, 2)))
        kind = self.random.choice(("cut", "hold", "slow"))
        if kind == "cut":
            for _ in range(self.random.randrange(1, 4)):
                if network.cut(*nodes):
                    self.siege.count("cuts")
                self.pause(0, 0.3)
            return
        if kind == "hold":
            network.hold(self.random.choice(("in", "out", "both")), *nodes)
            self.siege.count("holds")
        else:
            network.slow(self.random.choice((0.001, 0.01, 0.1)), *nodes)
        self.pause(0.05, LONG_HOLD_S)
        if self.random.random() < 0.5:
            network.cut(*nodes)
        network.heal(*nodes)


class Operator(Besieger):
    """Hands slots over to one of those that follow, and turns those that were left behind to the new owner. Each slot has one
    operator, who looks before each step."""

    def __init__(self, siege, name, slots):
        super().__init__(siege, name)
        self.slots = slots

    def act(self):
        slot = self.random.choice(self.slots)
        owner, others = self.siege.owner(slot)
        if owner is None:
            return
        self.siege.route(slot, owner)
        stray = [node for node, info in others.items() if info.master != owner.reach]
        if stray and self.random.random() < 0.5:
            self.siege.follow(self.random.choice(stray), owner, slot)
            return
        followers = [node for node in others if node not in stray]
        if followers:
            self.hand_over(slot, owner, self.random.choice(followers))

    def hand_over(self, slot, owner, to):
        then = ("then", "follow") if self.random.random() < 0.8 else ()
        patience_ms = self.random.choice((100, 1000, 3000))
        try:
            owner.pkcluster("handover", "127.0.0.1", to.relay_port, slot, "timeout", patience_ms, *then)
        except DOWN + (redis.ResponseError,):
            return  # a look shows what came of it
        self.siege.count("handovers")
        self.siege.route(slot, to)


class Siege:
    """Six nodes; each slot is on three of them."""

    def __init__(self, case):
        self.case, self.network = case, Network()
        case.addCleanup(self.network.close)
        self.nodes = [Relayed(self.network, case.folder, f"node{number}") for number in range(1, 7)]
        case.nodes += self.nodes
        self.at = {node.reach: node for node in self.nodes}
        self.members = {slot: [self.nodes[(slot + n) % 6] for n in range(MEMBERS)] for slot in SLOTS}
        self.router, self.enough = Router(), threading.Event()
        self.counts, self._counting = dict.fromkeys(LEAST, 0), threading.Lock()

    def count(self, what):
        with self._counting:
            self.counts[what] += 1

    def begin(self):
        for node in self.nodes:
            node.start()
        for slot, (owner, *followers) in self.members.items():
            owner.pkcluster("addslots", slot)
            self.router.route([slot], owner)
            for node in followers:
                node.pkcluster("addslots", slot)
                node.pkcluster("slotsslaveof", "127.0.0.1", owner.relay_port, slot)

    def route(self, slot, node):
        if self.router.node(slot) is not node:
            self.router.route([slot], node)

    def told(self, words):
        """A client was refused: it goes where the answer says, as a proxy does that is told of a move, or tries again."""
        where = WHERE.search(words)
        if where:
            self.route(int(where[1]), self.at[where[2]])
        # Nothing is waited for here: a client that is told to come back leaves the node some air.
        time.sleep(0.01)
        return any(known in words for known in UNSETTLED)

    def look(self, slot):
        """What each member says of a slot; None where one does not answer."""
        infos = {}
        for node in self.members[slot]:
            try:
                infos[node] = node.slot(slot)
            except DOWN:
                infos[node] = None
        return infos

    def owner(self, slot):
        """The owner and what the others say, if all answer and the slot is in nobody's hands midway; else nothing."""
        infos = self.look(slot)
        if None in infos.values():
            return None, {}
        owners = [node for node, info in infos.items() if info.state == "master"]
        midway = [node for node, info in infos.items() if info.state in ("fenced", "granted")]
        if len(owners) != 1 or midway:
            return None, {}
        return owners[0], {node: info for node, info in infos.items() if node is not owners[0]}

    def follow(self, node, owner, slot):
        try:
            node.pkcluster("slotsslaveof", "127.0.0.1", owner.relay_port, slot)
        except DOWN + (redis.ResponseError,):
            return False
        return True

    def say(self, slot):
        told = {node.name: info and info.text for node, info in self.look(slot).items()}
        return f"slot {slot}: {told}"

    def settle(self):
        """The siege is over: one owner for each slot without anybody's help, then everybody follows it."""
        owners = {}
        for slot in SLOTS:
            eventually(lambda: self.owner(slot)[0], lambda: "one owner: " + self.say(slot), SETTLE_S)
        for slot in SLOTS:
            owners[slot], others = self.owner(slot)
            for node in others:
                eventually(lambda: self.follow(node, owners[slot], slot), f"{node.name} follows slot {slot}", SETTLE_S)
            self.route(slot, owners[slot])
        return owners


class UnderSiege(Case):
    def test_six_nodes_under_siege_lose_nothing_and_come_to_rest(self):
        siege = Siege(self)
        siege.begin()
        troubles = [Executioner(siege, "executioner"), Saboteur(siege, "saboteur")]
        troubles += [Operator(siege, f"operator-{n}", SLOTS[n::2]) for n in range(2)]
        with Load(siege.router, seed(), writers=4, may_refuse=siege.told) as load:
            load.run_until_acked(500)
            for trouble in troubles:
                trouble.start()
            self.watch(siege, troubles, load)
            siege.enough.set()
            for trouble in troubles:
                trouble.finish()
            siege.network.heal()
            owners = siege.settle()
            load.run_until_acked(500)
            for slot, owner in owners.items():
                self.assertTrue(owner.do("SET", key_in(slot, "after"), "the siege"))
        self.check(siege, load, owners)
        print(f"    {siege.counts}, {siege.network.bytes >> 20} MiB relayed, {load.acked()} writes acknowledged, "
              f"{load.in_doubt()} in doubt, {load.refused()} refused")

    def watch(self, siege, troubles, load):
        """Until the time is over and enough has happened."""
        begun = time.monotonic()
        while True:
            gone = time.monotonic() - begun
            lacking = [what for what, least in LEAST.items() if siege.counts[what] < least]
            if gone > SECONDS and not lacking:
                return
            self.assertLess(gone, SECONDS + LEAST_S, f"too little happened: {siege.counts}")
            load.raise_failure()
            for trouble in troubles:
                if trouble.failure:
                    raise trouble.failure
            time.sleep(0.1)

    def check(self, siege, load, owners):
        """Everybody has everything, and the same."""
        for slot, owner in owners.items():
            members = siege.members[slot]
            for node in members:
                if node is not owner:
                    self.wait(lambda: self.has_all(owner, node, slot), lambda: f"lag 0: {siege.say(slot)}", SETTLE_S)
            at = int(time.time() * 1000) + 1000
            lines = {node.name: self.digest(node, slot, at) for node in members}
            self.assertEqual(len(set(lines.values())), 1, lines)
            for node in members:
                self.assertGreater(load.check(node, [slot]), 0)

    def has_all(self, owner, node, slot):
        slave = owner.slot(slot).slave_at(node.reach)
        return slave and slave.caught_up()

    def digest(self, node, slot, at):
        (line,) = node.pkcluster("digest", slot, "at", at)
        return line.decode()


if __name__ == "__main__":
    unittest.main()
