"""Copies of slots whose ends are killed half-way, and replicas that hold what their master holds, key by key."""

import random
import re
import unittest

import redis

from harness import LONG, Case, key_in, seed, slot_of
from test_differential import Commands, alike

SLOTS = range(8)
VALUE_BYTES = 20_000
VALUES = 4000
KEYS = [f"k{number}" for number in range(60)]


class Wide(Commands):
    """The same commands over more keys, so that many are left to compare."""

    def k(self):
        return self.r.choice(KEYS)

    def make_expire_later(self):
        return [self.r.choice(["EXPIRE", "PEXPIRE"]), self.k(), self.r.choice([1, 100, 100_000])]


class Copies(Case):
    def under_way(self, replica):
        """Whether some slot has a part of its copy, and how much has come."""
        parts = [re.search(r"copied_bytes: (\d+)/(\d+)", info.text) for info in replica.slots().values()]
        came = [(int(part[1]), int(part[2])) for part in parts if part]
        return any(0 < got < whole for got, whole in came)

    def test_a_copy_ends_well_though_both_ends_are_killed_in_its_middle_in_turn(self):
        # Little memory and short segments: the log's beginning is gone, only a copy brings what was in it.
        flags = ("--slots", "0-7", "--maxmemory", str(16 << 20), "--log-segment-bytes", str(1 << 20))
        master = self.node("master", *flags)
        client = master.client()
        wanted = {}
        for start in range(0, VALUES, 100):
            pipeline = client.pipeline(transaction=False)
            for number in range(start, start + 100):
                key = key_in(number % len(SLOTS), f"v{number}")
                wanted[key] = self.random.randbytes(VALUE_BYTES)
                pipeline.set(key, wanted[key])
            pipeline.execute()
        replica = self.node("replica", *flags)
        replica.pkcluster("slotsslaveof", "127.0.0.1", master.port, "0-7")
        cut = 0
        for round_ in range(20 if LONG else 6):
            done = lambda: all(info.status == "kConnected" for info in replica.slots().values())
            self.wait(lambda: self.under_way(replica) or done(), "the copy goes on")
            cut += not done()
            victim = (replica, master)[round_ % 2]
            victim.kill()
            # What is written meanwhile comes by the log, after the copy.
            victim.start()
            key = key_in(round_ % len(SLOTS), f"during{round_}")
            wanted[key] = b"%d" % round_
            master.do("SET", key, wanted[key])
        self.wait_until_slave_has_all(master, replica, SLOTS)
        client, names = replica.client(), list(wanted)
        for start in range(0, len(names), 200):
            part = names[start : start + 200]
            for key, found in zip(part, client.mget(part), strict=True):
                self.assertTrue(found == wanted[key], f"{key!r}: {found and found[:20]!r}")
        self.assertEqual(client.dbsize(), len(wanted))
        self.assertGreater(cut, 1, "no copy was cut in its middle")
        print(f"       {cut} kills in the middle of a copy of {VALUES * VALUE_BYTES >> 20} MiB")

    READS = {b"string": ("GET",), b"list": ("LRANGE", 0, -1), b"hash": ("HGETALL",), b"set": ("SMEMBERS",),
             b"zset": ("ZRANGE", 0, -1, "WITHSCORES")}

    def raw(self, node):
        client = redis.Redis(port=node.port, protocol=2, socket_timeout=60)
        client.response_callbacks.clear()
        return client

    def content(self, node):
        """Every key with its type, value and moment of expiry."""
        client, cursor, names = self.raw(node), b"0", set()
        while True:
            cursor, part = client.execute_command("SCAN", cursor, "COUNT", 1000)
            names.update(part)
            if cursor == b"0":
                break
        content = {}
        for name in names:
            kind = client.execute_command("TYPE", name)
            if kind not in self.READS:
                continue  # it expired between the two
            read = self.READS[kind]
            value = client.execute_command(read[0], name, *read[1:])
            if kind == b"set":
                value = sorted(value)
            elif kind == b"hash":
                value = sorted(zip(value[::2], value[1::2]))
            expiry = client.execute_command("PEXPIRETIME", name)
            content[name] = (kind, expiry, value)
        return content

    def alike(self, master, replica):
        self.wait_until_slave_has_all(master, replica, range(1024))

        def same():
            # A key may expire between the two readings, and on a replica when its master has said what time it is.
            self.left, self.right = self.content(master), self.content(replica)
            return self.left == self.right

        def what():
            names = [name for name in {*self.left, *self.right} if self.left.get(name) != self.right.get(name)]
            return f"{replica.name} differs in {len(names)} keys (seed {seed()}), such as\n" + "\n".join(
                f"  {name!r}: {str(self.left.get(name))[:300]} | {str(self.right.get(name))[:300]}" for name in names[:5])

        self.wait(same, what, 10)
        return len(self.left)

    def test_replicas_hold_what_their_master_holds_after_random_commands_of_all_types(self):
        flags = ("--slots", "all", "--maxmemory", str(16 << 20), "--log-segment-bytes", str(1 << 20))
        master, first, late = (self.node(name, *flags) for name in ("master", "first", "late"))
        first.do("SLAVEOF", "127.0.0.1", master.port)
        commands = Wide(random.Random(f"{seed()}/copies"))
        client = self.raw(master)
        compared = 0
        for round_ in range(40 if LONG else 6):
            commands.wide = round_ % 2 == 1
            for _ in range(10):
                pipeline = client.pipeline(transaction=False)
                for _ in range(200):
                    pipeline.execute_command(*commands.next())
                pipeline.response_callbacks = {}
                pipeline.execute(raise_on_error=False)
            if round_ == 1:
                # This one gets a copy, and follows the other replica.
                late.do("SLAVEOF", "127.0.0.1", first.port)
            if round_ == 3:
                first.kill()
                first.start()
            if round_ == 4:
                master.kill()
                master.start()
                client = self.raw(master)
            compared += self.alike(master, first)
            if round_ >= 1:
                self.alike(first, late)
        self.assertGreater(compared, 100)
        kinds = {kind for kind, _, _ in self.content(late).values()}
        self.assertGreaterEqual(len(kinds), 4, kinds)
        asked, names = self.ask_alike(master, late, commands, 20_000 if LONG else 4000)
        self.assertGreater(len(names), 60, names)
        print(f"       {compared} keys compared, {asked} reads of {len(names)} commands answered alike")

    def ask_alike(self, master, replica, commands, count):
        """Random reads, each answered by the replica as by its master; how many, and of which commands."""
        left, right = self.raw(master), self.raw(replica)
        table = left.execute_command("COMMAND")
        reads = {row[0].decode().upper() for row in table if b"readonly" in row[2]} | {"OBJECT", "XINFO", "MEMORY"}
        reads -= {"SRANDMEMBER", "HRANDFIELD", "ZRANDMEMBER", "RANDOMKEY"}

        def ask(client, words):
            try:
                return client.execute_command(*words)
            except redis.ResponseError as error:
                return error

        asked, names = 0, set()
        for words in (commands.next() for _ in range(count)):
            if words[0] not in reads:
                continue

            # A key may expire between the two, and on a replica when its master has said what time it is.
            def same():
                self.told = [ask(client, words) for client in (left, right)]
                return alike(words, *self.told)

            self.wait(same, lambda: f"the same answers (seed {seed()}) to {words}: {str(self.told)[:600]}", 20)
            asked += 1
            names.add(words[0])
        return asked, names

    def test_a_reader_on_a_replica_waits_for_what_its_master_adds_to_a_stream(self):
        master, replica = self.node("master", "--standalone"), self.node("replica", "--standalone")
        replica.do("SLAVEOF", "127.0.0.1", master.port)
        master.do("XADD", "s", "1-1", "f", "v")
        self.wait_until_slave_has_all(master, replica, [slot_of("s")])
        reader = redis.Connection(port=replica.port, protocol=2, socket_timeout=60)
        reader.connect()
        for number in range(2, 5):
            reader.send_command("XREAD", "BLOCK", 0, "STREAMS", "s", "$")
            self.wait(lambda: b"blocked_clients:1" in self.raw(replica).execute_command("INFO", "clients"), "it waits")
            master.do("SET", "other", number)
            master.do("XADD", "s", f"{number}-1", "f", "v")
            self.assertEqual(reader.read_response(), [[b"s", [[b"%d-1" % number, [b"f", b"v"]]]]])
        reader.disconnect()


if __name__ == "__main__":
    unittest.main()
