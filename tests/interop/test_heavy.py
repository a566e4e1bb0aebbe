"""Much data in little memory: kills while files are written, the memory bound, values of 100 MB, a disk without space.

The bounds that are asserted here are those that the node holds today; what it took is printed.
"""

import os
import random
import subprocess
import sys
import threading
import time
import unittest

import redis

from harness import LONG, Case, eventually, key_in, seed

SLOTS = [0, 1, 2, 500, 1023]
MEMORY = 16 << 20
SMALL = ("--slots", "0-2,500,1023", "--maxmemory", str(MEMORY), "--log-segment-bytes", str(1 << 20))
# What a process has beyond its budget: code, threads, buffers of sockets and files, and what the allocator keeps.
RSS_MARGIN = 64 << 20
# A file takes a few milliseconds. A process of its own sees it in time; a thread beside the writers would not.
KILL_AT_NEW_FILES = """
import os, signal, sys, time
pid, data, goal, delay = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
seen, deadline = set(os.listdir(data)), time.monotonic() + 60
while len(set(os.listdir(data)) - seen) < goal:
    if time.monotonic() > deadline:
        sys.exit(1)
time.sleep(delay)
os.kill(pid, signal.SIGKILL)
"""


def files_of(folder):
    """The files of a folder, each told from one that took its name since."""
    found = set()
    for entry in os.scandir(folder):
        try:
            status = entry.stat()
        except FileNotFoundError:
            continue
        found.add((entry.name, status.st_ino, status.st_mtime_ns))
    return found


class Filler(threading.Thread):
    """Writes values of some kilobytes over its own keys, and knows of each what it may hold."""

    def __init__(self, node, number, keys=400, bytes_max=16_000):
        super().__init__(daemon=True)
        self.node, self.number = node, number
        self.random = random.Random(f"{seed()}/filler/{number}")
        self.blob = self.random.randbytes(2 * bytes_max)
        self.bytes_max = bytes_max
        self.keys = [key_in(SLOTS[place % len(SLOTS)], f"f{number}:{place}:") for place in range(keys)]
        self.may = {key: {None} for key in self.keys}
        self.acked = self.bytes = self.serial = 0
        self.stopping = threading.Event()
        self.failure = None

    def value(self, serial):
        """A value that follows from its serial number: what is kept of it is the number."""
        if serial is None:
            return None
        chance = random.Random(serial * 31 + self.number)
        start = chance.randrange(self.bytes_max)
        return b"%d:" % serial + self.blob[start : start + chance.randrange(1, self.bytes_max)]

    def run(self):
        try:
            client = self.node.client()
            while not self.stopping.is_set():
                self.batch(client)
        except (redis.ConnectionError, OSError):
            pass  # killed; what was on its way is in doubt
        except BaseException as failure:
            self.failure = failure

    def batch(self, client):
        pipeline = client.pipeline(transaction=False)
        sent = []
        for key in self.random.sample(self.keys, 10):
            self.serial += 1
            value = self.value(self.serial)
            pipeline.set(key, value)
            self.may[key].add(self.serial)
            sent.append((key, self.serial, len(value)))
        pipeline.execute()
        for key, serial, size in sent:
            self.may[key] = {serial}
            self.bytes += size
        self.acked += len(sent)

    def check(self, client):
        """Reads every key; what is found is the truth from here on."""
        for start in range(0, len(self.keys), 100):
            part = self.keys[start : start + 100]
            for key, found in zip(part, client.mget(part), strict=True):
                holds = [serial for serial in self.may[key] if self.value(serial) == found]
                allowed = sorted(serial or 0 for serial in self.may[key])
                assert holds, f"{key!r} holds {found and found[:20]!r}, may be of {allowed}"
                self.may[key] = {holds[0]}


class Heavy(Case):
    def fill(self, node, fillers):
        """The same fillers on a node that was started again."""
        again = [Filler(node, filler.number) for filler in fillers] if fillers else [Filler(node, number) for number in range(3)]
        for new, old in zip(again, fillers or []):
            new.may, new.serial, new.random = old.may, old.serial, old.random
        for filler in again:
            filler.start()
        self.addCleanup(lambda: [filler.stopping.set() for filler in again])
        return again

    def ended(self, fillers):
        for filler in fillers:
            filler.stopping.set()
            filler.join(60)
            self.assertFalse(filler.is_alive(), "a writer hangs")
            if filler.failure:
                raise filler.failure

    def test_kill_9_while_files_are_written_loses_nothing_acknowledged(self):
        node = self.node("node", *SMALL)
        fillers, files, unfinished, rounds = [], 0, 0, 0
        # As often as it takes for one that comes while a file is written.
        while rounds < (60 if LONG else 10) or unfinished == 0 and rounds < 60:
            rounds += 1
            fillers = self.fill(node, fillers)
            data = node.dir / "data"
            seen = set(os.listdir(data))
            goal, delay = self.random.randrange(2, 5), self.random.random() * self.random.choice([0, 0.002, 0.02])

            # A file has just been begun, by a flush or a compaction: it is being written or installed.
            killer = subprocess.run([sys.executable, "-c", KILL_AT_NEW_FILES, str(node.pid), data, str(goal), repr(delay)], timeout=100)
            for filler in fillers:
                if filler.failure:
                    raise filler.failure
            self.assertEqual(killer.returncode, 0, f"no {goal} new files")
            node.kill()
            self.ended(fillers)
            before = files_of(data)
            node.start()
            unfinished += len(before - files_of(data))
            files += len({name for name, _, _ in before} - seen)
            for filler in fillers:
                filler.check(node.client())
        self.assertGreater(sum(filler.serial for filler in fillers), 1000)
        self.assertGreater(unfinished, 0, "no kill came while a file was written")
        print(f"       {files} files written between kills, {unfinished} of them were not needed after")

    def test_memory_stays_within_its_budget_under_load(self):
        budget = 64 << 20
        node = self.node("node", "--standalone", "--maxmemory", str(budget))
        client = node.client()
        blob = self.random.randbytes(1 << 20)
        written, number = 0, 0
        kinds = [lambda p, key, value: p.set(key, value), lambda p, key, value: p.hset("h" + key[:4], key, value),
                 lambda p, key, value: p.rpush("l" + key[:4], value), lambda p, key, value: p.zadd("z" + key[:4], {value[:100]: len(value)})]
        most = 0
        while written < (1 << 30 if LONG else 300 << 20):
            pipeline = client.pipeline(transaction=False)
            for _ in range(200):
                number += 1
                start, size = self.random.randrange(1 << 19), self.random.choice([20, 100, 1000, 4000, 20_000])
                self.random.choice(kinds)(pipeline, f"k{number * 7919 % 200_003:06}", blob[start : start + size])
                written += size
            pipeline.execute()
            most = max(most, node.rss_bytes())
        for start in range(0, 200_003, 5):  # reads, too: the cache is a part of the budget
            if start % 5000 == 0:
                client.mget([f"k{key:06}" for key in range(start, start + 5000, 5)])
                most = max(most, node.rss_bytes())
        peak = node.peak_bytes()
        print(f"       {written >> 20} MiB written with a budget of {budget >> 20} MiB: RSS at most {most >> 20} MiB, peak {peak >> 20} MiB")
        self.assertLess(peak, budget + RSS_MARGIN)

    def test_a_value_of_100_mb_is_set_read_replicated_and_survives(self):
        big = self.random.randbytes(1 << 20) * 100
        flags = ("--slots", "0-9", "--maxmemory", str(64 << 20))
        master, replica = self.node("master", *flags), self.node("replica", *flags)
        replica.pkcluster("slotsslaveof", "127.0.0.1", master.port, "0-9")
        one, two, three = (key_in(3, name) for name in ("one", "two", "three"))
        client = master.client()
        self.assertTrue(client.set(one, big))
        client.set(two, "small")
        self.assertEqual(client.strlen(one), len(big))
        self.assertTrue(client.get(one) == big)
        self.assertEqual(client.setrange(one, 50_000_000, b"here"), len(big))
        self.wait_until_slave_has_all(master, replica, range(10))
        changed = big[:50_000_000] + b"here" + big[50_000_004:]
        self.assertTrue(replica.client().get(one) == changed)
        self.assertEqual(replica.do("GETRANGE", one, 49_999_999, 50_000_004), changed[49_999_999:50_000_005])
        master.kill()
        master.start()
        self.assertTrue(master.client().get(one) == changed, "after kill -9")
        late = self.node("late", *flags)
        late.pkcluster("slotsslaveof", "127.0.0.1", master.port, "3")
        master.do("SET", three, "3")
        self.wait_until_slave_has_all(master, late, [3])
        self.assertTrue(late.client().get(one) == changed, "by a copy")
        master.do("DEL", one)
        self.wait_until_slave_has_all(master, late, [3])
        self.assertEqual([node.client().exists(one) for node in (master, late)], [0, 0])
        self.assertEqual(late.do("GET", three), b"3")

    def test_a_limit_on_files_is_as_a_full_disk_to_writers_of_all_kinds_and_passes(self):
        """As an unprivileged user would meet it: no file may grow beyond a size. Under load, with files being written."""
        node = self.node("node", *SMALL)
        fillers = self.fill(node, [])
        eventually(lambda: any((node.dir / "data").glob("*.pack")), "files are written")
        limit = lambda size: subprocess.run(["prlimit", "--pid", str(node.pid), f"--fsize={size}:unlimited"], check=True)
        # The log's segments are no larger, files of data are.
        limit(1 << 20)
        for filler in fillers:
            filler.join(120)
            self.assertIsInstance(filler.failure, redis.ResponseError, "a writer is told")
            self.assertRegex(str(filler.failure), "(?i)flushing fails.*too large")
        self.assertTrue(node.alive())
        client = node.client()
        for filler in fillers:
            filler.check(client)
        limit("unlimited")

        def writes():
            try:
                return client.set(key_in(0, "again"), "1")
            except redis.ResponseError:
                return False

        self.wait(writes, "writes go on once there is space")
        fillers = self.fill(node, fillers)
        self.wait(lambda: all(filler.acked > 100 for filler in fillers), "more is written")
        self.ended(fillers)
        node.kill()
        node.start()
        for filler in fillers:
            filler.check(node.client())


if __name__ == "__main__":
    unittest.main()
