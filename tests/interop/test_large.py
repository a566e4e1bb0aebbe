"""Large collections, against the same commands on Debian's redis-server or a model: replies that are made off the workers while others
write, clients that leave in their midst, and the change from the small to the large form, which nobody is to notice.
"""

import socket
import threading

import redis

from harness import LONG, Case
from test_differential import start_redis

# More than a read may hold its slot for (32,768), so that its reply is made off the worker.
ELEMENTS = 1_000_000 if LONG else 40_000


def numbered(count, width=40):
    return [f"{number:06d}".ljust(width, "x") for number in range(count)]


class Large(Case):
    def filled(self, client, elements=ELEMENTS):
        """All kinds of collections, of so many elements."""
        names = numbered(elements)
        pipeline = client.pipeline(transaction=False)
        for start in range(0, elements, 500):
            part = names[start:start + 500]
            pipeline.hset("hash", mapping={name: name for name in part})
            pipeline.sadd("set", *part)
            pipeline.rpush("list", *part)
            pipeline.zadd("zset", {name: number for number, name in enumerate(part, start)})
            for number, name in enumerate(part, start):
                pipeline.xadd("stream", {"f": name}, id=f"1-{number + 1}")
            pipeline.execute()
        return names

    def test_all_of_a_large_collection_is_read_whole_in_every_way(self):
        node = self.node("node", "--standalone", "--maxmemory", "64mb")
        for protocol in (2, 3):
            client = node.client(protocol=protocol, decode_responses=True)
            client.flushall()
            names = self.filled(client)
            for place in ("memory", "files"):
                with self.subTest(protocol=protocol, place=place):
                    self.assertEqual(client.hgetall("hash"), dict(zip(names, names)))
                    self.assertEqual(sorted(client.hkeys("hash")), names)
                    self.assertEqual(sorted(client.hvals("hash")), names)
                    self.assertEqual(client.smembers("set"), set(names))
                    self.assertEqual(client.lrange("list", 0, -1), names)
                    self.assertEqual(client.lrange("list", 7, -9), names[7:-8])
                    self.assertEqual(client.zrange("zset", 0, -1), names)
                    self.assertEqual(client.zrange("zset", 0, -1, desc=True), names[::-1])
                    self.assertEqual(client.zrangebyscore("zset", 5, "+inf"), names[5:])
                    self.assertEqual(client.zrangebyscore("zset", 5, "+inf", start=3, num=33_000), names[8:33_008])
                    self.assertEqual(client.zrevrangebyscore("zset", f"({ELEMENTS - 5}", "-inf"), names[-6::-1])
                    scored = [(name, float(score)) for name, score in client.zrange("zset", 0, -1, withscores=True)]
                    self.assertEqual(scored, [(name, float(number)) for number, name in enumerate(names)])
                    self.assertEqual([entry[1]["f"] for entry in client.xrange("stream")], names)
                    self.assertEqual([entry[1]["f"] for entry in client.xrevrange("stream", count=35_000)], names[:-35_001:-1])
                    self.assertEqual(client.sinter("set", "set"), set(names))
                    self.assertEqual(len(client.hscan("hash", count=2 * ELEMENTS)[1]), ELEMENTS)
                    # In a transaction and in a script it is made at once.
                    self.assertEqual(client.pipeline().llen("list").lrange("list", 0, -1).execute(), [ELEMENTS, names])
                    self.assertEqual(client.eval("return #redis.call('smembers', KEYS[1])", 1, "set"), ELEMENTS)
                    self.assertEqual(client.ping(), True)
                # Once more with nothing of it in memory.
                node.stop()
                node.start()
                client = node.client(protocol=protocol, decode_responses=True)

    def test_a_long_reply_is_of_one_moment_whatever_is_written_meanwhile(self):
        node = self.node("node", "--standalone")
        client = node.client(decode_responses=True)
        names = numbered(ELEMENTS)
        for start in range(0, ELEMENTS, 500):
            client.hset("hash", mapping={name: "0" for name in names[start:start + 500]})
        first, last, done = names[0], names[-1], threading.Event()

        def write():
            writer, number = node.client(), 0
            while not done.is_set():
                number += 1
                # Far from each other in whatever order they lie: both or none.
                writer.hset("hash", mapping={name: str(number) for name in names[::997]})
        writing = threading.Thread(target=write)
        writing.start()
        try:
            for _ in range(10):
                values = client.hgetall("hash")
                self.assertEqual(len(values), ELEMENTS)
                self.assertEqual(len({values[name] for name in names[::997]}), 1, "a part of one write was seen")
        finally:
            done.set()
            writing.join()
        self.assertEqual(client.hlen("hash"), ELEMENTS)
        self.assertIn(client.hget("hash", first), client.hmget("hash", first, last))

    def test_a_client_that_leaves_in_the_midst_of_its_reply_leaves_nothing(self):
        node = self.node("node", "--standalone")
        client = node.client(decode_responses=True)
        names = numbered(ELEMENTS)
        for start in range(0, ELEMENTS, 500):
            client.sadd("set", *names[start:start + 500])
        for _ in range(40):
            line = socket.create_connection(("127.0.0.1", node.port))
            line.sendall(b"SMEMBERS set\r\nSMEMBERS set\r\nPING\r\n")
            self.assertTrue(line.recv(1000).startswith(b"*%d\r\n" % ELEMENTS))
            line.close()
        # All places are free again.
        readers = [node.client() for _ in range(20)]
        counts = []
        threads = [threading.Thread(target=lambda one=one: counts.append(len(one.smembers("set")))) for one in readers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(counts, [ELEMENTS] * len(readers))
        self.wait(lambda: client.info("clients")["connected_clients"] <= len(readers) + 2, "they are gone")

    def test_large_collections_are_renamed_and_copied_whole_while_others_write(self):
        node = self.node("node", "--standalone", "--maxmemory", "64mb")
        client = node.client(decode_responses=True)
        names = self.filled(client)
        over = threading.Event()
        written = []

        def write():
            own = node.client()
            while not over.is_set():
                own.incr(f"other {len(written) % 100}")
                # In the slot of a key that is on its way: it waits for that.
                own.incr("{zset}beside")
                written.append(1)
            own.close()

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        try:
            for number in range(3):
                self.assertTrue(client.rename("hash", "new"))
                self.assertEqual(0, client.exists("hash"))
                self.assertTrue(client.renamenx("new", "hash"))
                self.assertEqual(client.hgetall("hash"), dict(zip(names, names)))
                self.assertTrue(client.copy("zset", "copy", replace=True))
                self.assertEqual(client.zrange("copy", 0, -1), names)
                self.assertEqual(client.zrank("copy", names[-7]), len(names) - 7)
                self.assertEqual(client.xlen("stream"), len(names))
            # Where it has to end on its worker.
            self.assertEqual([True, len(names)], client.pipeline().rename("list", "{list}new").llen("{list}new").execute())
            self.assertEqual(client.eval("redis.call('rename', KEYS[1], KEYS[2]) return redis.call('scard', KEYS[2])", 2, "set", "new"), len(names))
        finally:
            over.set()
            writer.join()
        self.assertEqual(len(written), client.eval("local n = 0 for i = 0, 99 do n = n + (redis.call('get', 'other ' .. i) or 0) end return n", 0))
        self.assertEqual(str(len(written)), client.get("{zset}beside"))

    def test_slow_readers_do_not_keep_long_replies_from_others(self):
        node = self.node("node", "--standalone", "--maxmemory", "64mb")
        client = node.client()
        value = "x" * 500
        pipeline = client.pipeline(transaction=False)
        for start in range(0, 40_000, 500):
            pipeline.hset("hash", mapping={f"f{number}": value for number in range(start, start + 500)})
        pipeline.execute()
        # As many as there are places, none of which ever stands still for long.
        slow = []
        for _ in range(16):
            line = socket.socket()
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            line.connect(("127.0.0.1", node.port))
            line.sendall(b"*2\r\n$7\r\nHGETALL\r\n$4\r\nhash\r\n")
            self.assertEqual(b"*", line.recv(1))
            slow.append(line)
        over = threading.Event()

        def trickle():
            while not over.wait(0.5):
                for line in slow:
                    try:
                        line.recv(20_000, socket.MSG_DONTWAIT)
                    except OSError:
                        pass

        reader = threading.Thread(target=trickle, daemon=True)
        reader.start()
        try:
            # Twenty megabytes at that pace take ten minutes.
            self.assertEqual(40_000, len(node.client(timeout=240).hgetall("hash")))
        finally:
            over.set()
            reader.join()
            for line in slow:
                line.close()
        self.wait(lambda: node.client().hlen("hash") == 40_000, "the node goes on")

    def test_what_comes_behind_a_long_reply_is_answered_behind_it(self):
        node = self.node("node", "--standalone")
        client = node.client()
        client.eval("for i=1,50000 do redis.call('rpush', KEYS[1], i) end", 1, "list")
        pipeline = client.pipeline(transaction=False)
        pipeline.set("before", 1).lrange("list", 0, -1).rpush("list", "new").llen("list").lrange("list", 0, -1).get("before")
        one, before, pushed, length, after, got = pipeline.execute()
        self.assertEqual((one, len(before), pushed, length, len(after), got), (True, 50_000, 50_001, 50_001, 50_001, b"1"))
        self.assertEqual(after[-1], b"new")

    def test_the_change_from_small_to_large_is_not_noticed(self):
        theirs = redis.Redis(port=start_redis(self), protocol=2, decode_responses=True)
        ours = self.node("node", "--standalone").client(decode_responses=True)
        for number in range(300):
            name, value = f"n{number}", "v" * (number % 80)
            for words in (
                ("HSET", "hash", name, value), ("HGET", "hash", name), ("HLEN", "hash"), ("HSTRLEN", "hash", f"n{number // 2}"),
                ("SADD", "set", value or name), ("SCARD", "set"), ("SISMEMBER", "set", f"n{number // 2}"),
                ("RPUSH", "list", value), ("LPUSH", "list", name), ("LINDEX", "list", number), ("LLEN", "list"), ("LPOS", "list", "n3"),
                ("ZADD", "zset", number * 7 % 31, name), ("ZRANK", "zset", name), ("ZRANGE", "zset", "0", "-1", "WITHSCORES"),
                ("ZCOUNT", "zset", "3", "(17"), ("ZRANGEBYSCORE", "zset", "5", "9", "LIMIT", "2", "3"),
                ("XADD", "stream", f"1-{number + 1}", name, value), ("XLEN", "stream"), ("XRANGE", "stream", f"1-{number}", "+"),
            ):
                self.assertEqual(ours.execute_command(*words), theirs.execute_command(*words), words)
            for read in (lambda client: client.hgetall("hash"), lambda client: client.smembers("set"),
                         lambda client: client.lrange("list", 0, -1), lambda client: client.zrange("zset", 0, -1)):
                self.assertEqual(read(ours), read(theirs), number)
        for number in range(300):
            for words in (("HDEL", "hash", f"n{number}"), ("ZREM", "zset", f"n{number}"), ("LPOP", "list"), ("SREM", "set", "v" * (number % 80)),
                          ("HGETALL", "hash"), ("ZRANGE", "zset", "0", "-1"), ("LRANGE", "list", "0", "-1"), ("EXISTS", "hash", "zset", "list", "set")):
                self.assertEqual(ours.execute_command(*words), theirs.execute_command(*words), words)


if __name__ == "__main__":
    import unittest

    unittest.main()
