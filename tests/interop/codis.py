"""A small Codis: proxies with a table of slots, and a dashboard that moves slots, in the exact sequences of the real ones.

A proxy sends a slot's requests to its node. While the slot moves it asks the old node for each request, wrapped in
SLOTSMGRT-EXEC-WRAPPER (or, with the method sync, says SLOTSMGRTTAGONE there first), and does what the answer says. The
dashboard brings every proxy into a state twice, first locked, then not: after the first no plain request is under way.
"""

import threading
import time

import redis

from harness import Node
from load import Load, Router, Writer

RETRIES_AT_ONCE = 5
RETRY_S_MAX = 0.02


class State:
    """What a proxy knows of a slot."""

    def __init__(self, backend, source=None):
        self.backend, self.source = backend, source


class Proxy(Router):
    """One table of slots and what is known of each. A locked slot lets nobody enter and waits for those inside."""

    def fill(self, slot, state, locked):
        self.hold(slot)
        self.route([slot], state)
        if not locked:
            self.release(slot)


class Refused(Exception):
    """The dashboard can't go on: what the node said."""


class Codis:
    """The dashboard and its proxies. As in the real one, one lock covers its table; it is not held while a node is asked."""

    def __init__(self, proxies=2, method="semi-async"):
        self.proxies = [Proxy() for _ in range(proxies)]
        self.method = method
        self.where = {}
        self.migrating = {}
        self._lock = threading.RLock()

    def slots(self):
        return sorted(self.where)

    def assign(self, slots, node):
        """`--slots-assign`: moves nothing, tells all proxies. It also is how a move is given up."""
        with self._lock:
            for slot in slots:
                self.migrating.pop(slot, None)
                self.where[slot] = node
                self._fill(slot, State(node))

    def _fill(self, slot, state):
        for locked in (True, False):
            for proxy in self.proxies:
                proxy.fill(slot, state, locked)

    def begin(self, slot, target):
        """Up to the state `migrating`."""
        with self._lock:
            self.migrating[slot] = target
            self._fill(slot, State(target, self.where[slot]))

    def give_up(self, slot):
        """`--slots-assign` back to the old group while the slot moves; whether it did still move."""
        with self._lock:
            if slot not in self.migrating:
                return False
            self.assign([slot], self.where[slot])
            return True

    def poll(self, slot, target):
        """One question to the old node; what remains. Raises what the node says."""
        host, port = target.address.split(":")
        words = ["SLOTSMGRTTAGSLOT-ASYNC", host, port, 5000, 200, 33554432, slot, 500]
        if self.method == "sync":
            words = ["SLOTSMGRTTAGSLOT", host, port, 30000, slot]
        client = self.where[slot].client(timeout=30)
        try:
            client.execute_command("SELECT", 0)
            answer = client.execute_command(*words)
            assert isinstance(answer, list) and len(answer) == 2, answer
            assert all(isinstance(number, int) and number >= 0 for number in answer), answer
            if answer[1] == 0:
                client.execute_command("INFO", "keyspace")
            return answer[1]
        finally:
            client.close()

    def migrate(self, slot, target, within=60.0, errors=()):
        """`--slot-action --create`: until it is done, or given up. Errors with one of these words are tried again, as the
        dashboard does. Says whether it was done."""
        self.begin(slot, target)
        return self.go_on(slot, target, within, errors)

    def go_on(self, slot, target, within=60.0, errors=()):
        deadline = time.monotonic() + within
        while True:
            with self._lock:
                if self.migrating.get(slot) is not target:
                    return False
            failed, remaining = None, None
            try:
                remaining = self.poll(slot, target)
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                if "connection" not in errors:
                    raise
                failed = error
            except redis.ResponseError as error:
                if not any(words in str(error) for words in errors):
                    raise Refused(str(error)) from error
                failed = error
            if remaining == 0:
                with self._lock:
                    if self.migrating.get(slot) is not target:
                        return False
                    del self.migrating[slot]
                    self._fill(slot, State(target))
                    self.where[slot] = target
                return True
            if time.monotonic() > deadline:
                raise AssertionError(f"slot {slot} is not moved within {within:.0f} s; the last error: {failed}")
            if failed:
                time.sleep(0.05)


class ProxyWriter(Writer):
    """A client behind one of the proxies."""

    def __init__(self, load, number):
        super().__init__(load, number)
        self.proxy = load.router.proxies[number % len(load.router.proxies)]
        self.slowest_s = 0.0
        self.wrapped = 0

    def batch(self):
        slot = self.pick()
        planned = []
        for _ in range(self.random.randrange(1, 9)):
            name, entry = self.key(slot)
            words, note = entry.begin(self.random)
            planned.append((name, entry, words, note))
        state = self.proxy.enter(slot)
        begun = time.monotonic()
        try:
            if state.source is None:
                self.send(state.backend, planned)
            else:
                for one in planned:
                    self.forward(state, one)
        finally:
            self.proxy.leave(slot)
        self.slowest_s = max(self.slowest_s, time.monotonic() - begun)

    def forward(self, state, planned):
        """One request of a slot that moves."""
        name, entry, words, note = planned
        if self.load.router.method == "sync":
            host, port = state.backend.address.split(":")
            answer = self.ask(state.source, "SLOTSMGRTTAGONE", host, port, 3000, name)
            if answer is Lost:
                return
            assert isinstance(answer, int), answer
            return self.send(state.backend, [planned])
        entry.sent(note)
        tries = 0
        while True:
            answer = self.ask(state.source, "SLOTSMGRT-EXEC-WRAPPER", name, words[0], name, *words[1:])
            if answer is Lost:
                self.in_doubt += 1
                entry.lost()
                return
            if isinstance(answer, Exception):
                return self.noted(state.source, planned, answer)
            assert isinstance(answer, list) and len(answer) == 2 and answer[0] in (0, 1, 2), answer
            self.wrapped += 1
            if answer[0] == 2:
                return self.noted(state.source, planned, answer[1])
            if answer[0] == 0:
                entry.refused(note)
                return self.send(state.backend, [planned])
            tries += 1
            if tries > RETRIES_AT_ONCE:
                time.sleep(min(RETRY_S_MAX, tries / 1000))
            assert tries < 5000, f"{state.source.name} keeps a request for ever"

    def ask(self, node, *words):
        try:
            return self.client(node).execute_command(*words)
        except (redis.ConnectionError, redis.TimeoutError, OSError):
            self.load.lost_connection(node)
            return Lost
        except redis.ResponseError as error:
            return error

    def noted(self, node, planned, answer):
        name, entry, words, note = planned
        if isinstance(answer, Exception):
            entry.refused(note)
            self.refused += 1
            if not self.load.may_refuse(str(answer)):
                raise AssertionError(f"{node.name} refused a write: {answer}")
        else:
            self.happened(node, name, entry, words, note, answer)


class Lost:
    """No answer: the connection is gone."""


class ProxyLoad(Load):
    """Writers behind the proxies of a Codis."""

    def __init__(self, codis, seed, writers=6, hot=(), may_refuse=lambda words: False):
        super().__init__(codis, seed, writers=0, hot=hot, may_refuse=may_refuse)
        self.writers = [ProxyWriter(self, number) for number in range(writers)]

    def slowest_ms(self):
        return max(writer.slowest_s for writer in self.writers) * 1000

    def wrapped(self):
        return sum(writer.wrapped for writer in self.writers)


__all__ = ["Codis", "Node", "ProxyLoad", "Refused"]
