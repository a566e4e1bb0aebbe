"""Writers with a model of what was acknowledged, and a router that sends each slot to its node as codis-proxy does.

A writer owns its keys, so that what a key may hold is known exactly: what was acknowledged must be there, what was tried
and never answered may be there, nothing else may. A lost connection leaves a write in doubt; an error reply means that
it did not happen.
"""

import random
import threading
import time

import redis

from harness import key_in, slot_of

KINDS = ("string", "counter", "list", "hash", "zset")
VALUE_BYTES_MAX = 300
KEYS_MAX = 3000
TRIES_S = 120


class Router:
    """Which node a slot's requests go to. A slot can be held: its requests wait, as the proxy makes them."""

    def __init__(self):
        self._changed = threading.Condition()
        self._where = {}
        self._held = set()
        self._running = {}

    def route(self, slots, node):
        with self._changed:
            for slot in slots:
                self._where[slot] = node
            self._changed.notify_all()

    def node(self, slot):
        with self._changed:
            return self._where[slot]

    def slots(self):
        with self._changed:
            return sorted(self._where)

    def enter(self, slot):
        """Waits while the slot is held; the node that it is on. The caller says `leave` afterwards."""
        with self._changed:
            self._changed.wait_for(lambda: slot not in self._held)
            self._running[slot] = self._running.get(slot, 0) + 1
            return self._where[slot]

    def leave(self, slot):
        with self._changed:
            self._running[slot] -= 1
            self._changed.notify_all()

    def hold(self, slot, within=60.0):
        """Lets no more requests for the slot through, and waits for those under way."""
        with self._changed:
            self._held.add(slot)
            done = self._changed.wait_for(lambda: not self._running.get(slot), within)
            assert done, f"requests for slot {slot} did not end"

    def release(self, slot):
        with self._changed:
            self._held.discard(slot)
            self._changed.notify_all()


class Entry:
    """What one key may hold. `acked` is certain, `maybe` was tried without an answer."""

    def __init__(self, kind):
        self.kind = kind
        # Of the possible values of a string, or the counts, so many last ones are not answered yet.
        self.pending = 0
        if kind == "string":
            self.possible = [None]
        elif kind == "counter":
            self.low = self.high = 0
        else:
            self.acked, self.maybe = {}, {}
        self.serial = 0

    def begin(self, chance):
        """Plans one write: (command words without the key, what to note)."""
        self.serial += 1
        serial = b"%06d" % self.serial
        if self.kind == "string":
            if self.serial > 1 and chance.random() < 0.1:
                return ("DEL",), None
            value = serial + b":" + chance.randbytes(chance.randrange(VALUE_BYTES_MAX))
            return ("GETSET" if chance.random() < 0.2 else "SET", value), value
        if self.kind == "counter":
            return ("INCR",), 1
        if self.kind == "list":
            return ("RPUSH", serial), (serial, serial)
        if self.kind == "hash":
            value = chance.randbytes(20)
            return ("HSET", serial, value), (serial, value)
        return ("ZADD", self.serial, serial), (serial, float(self.serial))

    def sent(self, note):
        """The write is on its way: from now on it may have happened."""
        self.pending += 1
        if self.kind == "string":
            self.possible.append(note)
        elif self.kind == "counter":
            self.high += 1
        else:
            self.maybe[note[0]] = note[1]

    def answered(self, note, words, answer):
        """It has happened. Why its answer is one that no order of the writes explains, if so."""
        why = self.unexplained(words, answer)
        self.pending -= 1
        if self.kind == "string":
            # What was before it is over; what was sent after it may have happened too.
            self.possible = self.possible[len(self.possible) - self.pending - 1 :]
        elif self.kind == "counter":
            self.low, self.high = int(answer), int(answer) + self.pending
        else:
            self.acked[note[0]] = self.maybe.pop(note[0])
        return why

    def unexplained(self, words, answer):
        """A write's answer is a read: it has seen all that was acknowledged before, and nothing that nobody wrote."""
        if words[0] == "GETSET":
            if answer not in self.possible:
                return f"held {short(answer)}, may have held {[short(value) for value in self.possible]}"
        elif self.kind == "counter":
            if not self.low < int(answer) <= self.high:
                return f"counts {answer}, {self.low} acknowledged before, {self.high} tried"
        elif self.kind == "list":
            if not len(self.acked) < int(answer) <= len(self.acked) + len(self.maybe):
                return f"is {answer} long, {len(self.acked)} acknowledged before, {len(self.maybe)} tried"
        return None

    def refused(self, note):
        """It has not happened."""
        self.pending -= 1
        if self.kind == "string":
            del self.possible[len(self.possible) - self.pending - 1]
        elif self.kind == "counter":
            self.high -= 1
        else:
            self.maybe.pop(note[0])

    def lost(self):
        """The connection is gone: it may have happened, or never will."""
        self.pending = 0

    READ = {"string": ("GET",), "counter": ("GET",), "list": ("LRANGE", 0, -1), "hash": ("HGETALL",),
            "zset": ("ZRANGE", 0, -1, "WITHSCORES")}

    def wrong(self, found):
        """Why what was found can't be; None if it can."""
        if self.kind == "string":
            if found not in self.possible:
                return f"holds {short(found)}, may hold {[short(value) for value in self.possible]}"
            return None
        if self.kind == "counter":
            number = int(found or 0)
            if not self.low <= number <= self.high:
                return f"counts {number}, {self.low} acknowledged, {self.high} tried"
            return None
        if self.kind == "list":
            got = {item: item for item in found}
            if len(got) != len(found) or sorted(found) != list(found):
                return f"its items are out of order or twice: {found[-20:]}"
        elif self.kind == "hash":
            got = found if isinstance(found, dict) else dict(zip(found[::2], found[1::2]))
        else:
            flat = [part for pair in found for part in pair] if found and isinstance(found[0], (list, tuple)) else found
            got = {member: float(score) for member, score in zip(flat[::2], flat[1::2])}
        lost = [part for part in self.acked if got.get(part) != self.acked[part]]
        strange = [part for part in got if part not in self.acked and self.maybe.get(part) != got[part]]
        if lost or strange:
            return f"{self.kind} of {len(got)}: lost {lost[:5]} ({len(lost)}), has {strange[:5]} ({len(strange)}) that nobody wrote"
        return None


def short(value):
    return value if value is None or len(value) < 40 else value[:40] + b"..."


class Writer(threading.Thread):
    """One client: writes in small pipelines until it is told to stop, and notes what was answered."""

    def __init__(self, load, number):
        super().__init__(name=f"writer-{number}", daemon=True)
        self.load, self.number = load, number
        self.random = random.Random(f"{load.seed}/{number}")
        self.entries = {}
        self.names = []
        self.clients = {}
        self.acked = self.in_doubt = self.refused = 0
        self.refusals = {}
        self.failure = None

    def run(self):
        try:
            while not self.load.stopping.is_set():
                self.batch()
        except BaseException as failure:  # whatever it is, the test must hear of it
            self.failure = failure

    def key(self, slot):
        mine = self.entries.setdefault(slot, [])
        if len(mine) < 5 or (len(self.names) < KEYS_MAX and self.random.random() < 0.15):
            kind = KINDS[len(mine) % len(KINDS)]
            name = key_in(slot, f"w{self.number}:{kind}:{len(mine)}:")
            assert slot_of(name) == slot
            mine.append((name, Entry(kind)))
            self.names.append(name)
            return mine[-1]
        return self.random.choice(mine)

    def pick(self):
        if self.load.hot and self.random.random() < 0.4:
            return self.random.choice(self.load.hot)
        return self.random.choice(self.load.slots)

    def batch(self):
        slot = self.pick()
        planned = []
        for _ in range(self.random.randrange(1, 9)):
            name, entry = self.key(slot)
            words, note = entry.begin(self.random)
            planned.append((name, entry, words, note))
        node = self.load.router.enter(slot)
        try:
            self.send(node, planned)
        finally:
            self.load.router.leave(slot)

    def client(self, node):
        client = self.clients.get(node)
        if client is None:
            client = self.clients[node] = node.client(timeout=60)
        return client

    def send(self, node, planned):
        pipeline = self.client(node).pipeline(transaction=False)
        for name, entry, words, note in planned:
            pipeline.execute_command(words[0], name, *words[1:])
            entry.sent(note)
        try:
            answers = pipeline.execute(raise_on_error=False)
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            if isinstance(error, redis.TimeoutError):
                raise AssertionError(f"{node.name} did not answer within 60 s") from error
            self.in_doubt += len(planned)
            for _, entry, _, _ in planned:
                entry.lost()
            self.load.lost_connection(node)
            return
        for (name, entry, words, note), answer in zip(planned, answers, strict=True):
            if isinstance(answer, Exception):
                entry.refused(note)
                self.refused += 1
                said = str(answer)
                self.refusals[said[:80]] = self.refusals.get(said[:80], 0) + 1
                if not self.load.may_refuse(said):
                    raise AssertionError(f"{node.name} refused a write: {said}")
            else:
                self.happened(node, name, entry, words, note, answer)

    def happened(self, node, name, entry, words, note, answer):
        why = entry.answered(note, words, answer)
        assert why is None, f"{name!r} on {node.name}, as the answer to {words[0]} shows: {why}"
        self.acked += 1


class Load:
    """Writers over slots, started and stopped together, and the check of what they wrote."""

    def __init__(self, router, seed, writers=8, hot=(), may_refuse=lambda words: False):
        self.router, self.seed, self.hot = router, seed, list(hot)
        self.may_refuse = may_refuse
        self.slots = router.slots()
        self.stopping = threading.Event()
        self.writers = [Writer(self, number) for number in range(writers)]

    def __enter__(self):
        for writer in self.writers:
            writer.start()
        return self

    def __exit__(self, kind, *_):
        self.stopping.set()
        if kind is None:
            self.stop()

    def lost_connection(self, node):
        """A writer goes on as soon as the node is back; a test that ends wakes it too."""
        deadline = time.monotonic() + TRIES_S
        while not self.stopping.wait(0.01):
            try:
                node.do("PING")
                return
            except (redis.RedisError, OSError):
                assert time.monotonic() < deadline, f"{node.name} did not come back"

    def acked(self):
        return sum(writer.acked for writer in self.writers)

    def in_doubt(self):
        return sum(writer.in_doubt for writer in self.writers)

    def refused(self):
        return sum(writer.refused for writer in self.writers)

    def run_until_acked(self, more, within=120.0):
        """Waits until so many more writes were acknowledged: progress, not time."""
        goal, deadline = self.acked() + more, time.monotonic() + within
        while self.acked() < goal:
            self.raise_failure()
            assert time.monotonic() < deadline, f"{goal - self.acked()} writes of {more} are not acknowledged"
            time.sleep(0.005)

    def raise_failure(self):
        for writer in self.writers:
            if writer.failure:
                raise writer.failure

    def stop(self):
        self.stopping.set()
        for writer in self.writers:
            writer.join(180)
            assert not writer.is_alive(), f"{writer.name} hangs"
            for client in writer.clients.values():
                client.close()
        self.raise_failure()

    def entries(self, slots):
        """All keys of these slots with what they may hold."""
        for writer in self.writers:
            for slot in slots:
                yield from list(writer.entries.get(slot, ()))

    def check(self, node, slots):
        """Reads every key of these slots from the node; the number of keys. Anything that can't be is an error."""
        client = node.client()
        entries = list(self.entries(slots))
        wrong = []
        for start in range(0, len(entries), 500):
            part = entries[start : start + 500]
            pipeline = client.pipeline(transaction=False)
            for name, entry in part:
                read = entry.READ[entry.kind]
                pipeline.execute_command(read[0], name, *read[1:])
            answers = pipeline.execute(raise_on_error=False)
            for (name, entry), answer in zip(part, answers, strict=True):
                why = str(answer) if isinstance(answer, Exception) else entry.wrong(answer)
                if why:
                    wrong.append(f"{name!r} on {node.name}: {why}")
        client.close()
        assert not wrong, f"{len(wrong)} of {len(entries)} keys are wrong, such as\n  " + "\n  ".join(wrong[:10])
        return len(entries)

    def check_gone(self, node, slots, words):
        """Every key of these slots is refused by the node with these words, for reads and writes."""
        client = node.client()
        entries = list(self.entries(slots))
        assert entries, "nothing was written there"
        pipeline = client.pipeline(transaction=False)
        for name, entry in entries:
            read = entry.READ[entry.kind]
            pipeline.execute_command(read[0], name, *read[1:])
            pipeline.execute_command("EXPIRE", name, 1000)
        answers = pipeline.execute(raise_on_error=False)
        client.close()
        for (name, _), *both in zip(entries, answers[::2], answers[1::2], strict=True):
            for answer in both:
                refused = isinstance(answer, redis.ResponseError)
                assert refused, f"{name!r} on {node.name}: answered {answer!r} though the slot is gone"
                assert words in str(answer), f"{name!r} on {node.name}: {answer}"
        return len(entries)
