"""An existing Codis cluster moves over group by group: keys to and from a codis-server, against a double of it."""

import unittest

from codis import Codis, ProxyLoad
from codis_server import CodisServer
from harness import LONG, Case, key_in, seed

SLOTS = range(0, 6)
BIG = 1500


class Beside(Case):
    """One group of a codis-server, which has all slots, and one of a Haypile node."""

    def cluster(self, method="semi-async", password=None):
        self.old = CodisServer(password)
        self.addCleanup(self.old.close)
        self.new = self.node("new", *(["--requirepass", password] if password else []), password=password)
        self.new.pkcluster("addslots", f"{SLOTS[0]}-{SLOTS[-1]}")
        self.codis = Codis(method=method)
        self.codis.assign(SLOTS, self.old)

    def fill(self, node):
        """Keys of every type and size, some with a time to live, some with a common tag."""
        wanted = {}
        client = node.client()
        for slot in SLOTS[:2]:
            for size in (1, 3, 150, BIG):
                name = lambda kind: key_in(slot, f"{kind}{size}")
                texts = [b"%d" % number for number in range(size)]
                client.execute_command("SET", name("string"), b"v" * size)
                client.execute_command("RPUSH", name("list"), *texts)
                client.execute_command("SADD", name("set"), *texts)
                for at, text in enumerate(texts):
                    client.execute_command("HSET", name("hash"), text, b"x" + text)
                    client.execute_command("ZADD", name("zset"), at / 4 - 1, text)
                wanted[name("string")] = ("GET",), b"v" * size
                wanted[name("list")] = ("LRANGE", 0, -1), texts
                wanted[name("set")] = ("SMEMBERS",), set(texts)
                wanted[name("hash")] = ("HGETALL",), {text: b"x" + text for text in texts}
                wanted[name("zset")] = ("ZRANGE", 0, -1, "WITHSCORES"), [(text, at / 4 - 1) for at, text in enumerate(texts)]
        self.mortal = [key for at, key in enumerate(wanted) if at % 3 == 0]
        for key in self.mortal:
            client.execute_command("PEXPIRE", key, 3_600_000)
        client.close()
        return wanted

    def check_filled(self, node, wanted):
        client = node.client()
        for key, (read, value) in wanted.items():
            found = client.execute_command(read[0], key, *read[1:])
            if read[0] == "SMEMBERS":
                found = set(found)
            if read[0] == "HGETALL" and not isinstance(found, dict):
                found = dict(zip(found[::2], found[1::2]))
            if read[0] == "ZRANGE" and found and not isinstance(found[0], (list, tuple)):
                found = [(member, float(score)) for member, score in zip(found[::2], found[1::2])]
            found = [tuple(pair) for pair in found] if read[0] == "ZRANGE" else found
            self.assertEqual(found, value, key)
            ttl = client.execute_command("PTTL", key)
            self.assertEqual(ttl > 0, key in self.mortal, f"{key}: {ttl}")
            self.assertTrue(ttl <= 3_600_000, ttl)
        client.close()

    def there_and_back(self, method, password=None):
        self.cluster(method, password)
        wanted = self.fill(self.old)
        with ProxyLoad(self.codis, seed(), writers=4, hot=SLOTS[:2]) as load:
            load.run_until_acked(500)
            for target, source in ((self.new, self.old), (self.old, self.new)) * (3 if LONG else 1):
                for slot in SLOTS:
                    self.codis.migrate(slot, target, within=120)
                self.check_filled(target, wanted)
                load.run_until_acked(200)
                for slot in SLOTS:
                    self.assertEqual(source.do("SLOTSINFO") if source is self.old else source.do("SLOTSSCAN", slot, 0, "COUNT", 9)[1], [])
            for slot in SLOTS[:3]:
                self.codis.migrate(slot, self.new, within=120)
            load.stop()
        for node in (self.old, self.new):
            load.check(node, [slot for slot in SLOTS if self.codis.where[slot] is node])
        self.assertEqual((load.refused(), load.in_doubt()), (0, 0))


class MovingOver(Beside):
    def test_keys_of_every_type_go_there_and_back_under_load(self):
        self.there_and_back("semi-async")
        self.assertGreater(self.old.heard["SLOTSRESTORE-ASYNC"], 0)

    def test_the_method_sync_carries_them_too_and_both_have_one_password(self):
        self.there_and_back("sync", "secret")
        self.assertGreater(self.old.heard["SLOTSRESTORE"], 0)

    def test_keys_with_a_common_tag_go_together_and_alone_if_asked_so(self):
        self.cluster()
        first, second, other = key_in(3, "a"), key_in(3, "b"), b"plain"
        for key in (first, second):
            self.new.do("SET", key, "v")
        host, port = self.old.address.split(":")
        self.assertEqual(self.new.do("SLOTSMGRTONE", host, port, 1000, first), 1)
        self.assertEqual(self.old.keys(), [self.as_bytes(first)])
        self.assertEqual(self.new.do("SLOTSMGRTTAGONE-ASYNC", host, port, 1000, 0, 0, first), 1)
        self.assertEqual(sorted(self.old.keys()), sorted(map(self.as_bytes, (first, second))))
        self.assertEqual(self.new.do("SLOTSMGRTTAGONE", host, port, 1000, first), 0)
        self.assertIn("is not on this node", self.new.error("SLOTSMGRTONE", host, port, 1000, other))

    def as_bytes(self, key):
        return key if isinstance(key, bytes) else key.encode()

    def test_what_a_codis_server_can_not_hold_is_named_and_nothing_is_said_to_have_gone(self):
        self.cluster()
        key = key_in(3, "stream")
        self.new.do("XADD", key, "*", "f", "v")
        host, port = self.old.address.split(":")
        words = ("SLOTSMGRTTAGSLOT-ASYNC", host, port, 5000, 200, 33554432, 3, 500)
        self.assertIn("is a stream, which codis-server does not have", self.new.error(*words))
        self.assertEqual(self.new.do("XLEN", key), 1)
        self.new.do("DEL", key)
        self.assertEqual(self.new.do(*words), [0, 0])

    def test_a_request_for_a_key_that_is_not_here_waits_until_it_is_known_how_the_slot_goes(self):
        self.cluster()
        here, gone = key_in(3, "here"), key_in(3, "gone")
        host, port = self.old.address.split(":")
        for key in (here, gone):
            self.new.do("SET", key, "v")
        self.assertEqual(self.new.do("SLOTSMGRTONE-ASYNC", host, port, 1000, 0, 0, gone), 1)
        self.new.kill()
        self.new.start()
        wrapped = lambda *words: self.new.do("SLOTSMGRT-EXEC-WRAPPER", words[1], *words)[0]
        self.assertEqual((wrapped("INCRBY", gone, 1), wrapped("GET", here)), (1, 2))
        self.assertEqual(self.new.do("SLOTSMGRTTAGSLOT-ASYNC", host, port, 5000, 200, 33554432, 3, 500), [1, 0])
        self.assertEqual((wrapped("INCRBY", gone, 1), wrapped("GET", here)), (0, 0))


if __name__ == "__main__":
    unittest.main()
