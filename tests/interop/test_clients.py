"""Ordinary clients against a node: redis-py in both protocols, ioredis, redis-cli in its modes, redis-benchmark."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import threading
import time
import unittest
from pathlib import Path

import redis

from harness import Case

HERE = Path(__file__).resolve().parent


class Clients(Case):
    def standalone(self, *flags):
        return self.node("node", "--standalone", *flags)

    def test_redis_py_sets_and_gets_in_both_protocols(self):
        node = self.standalone()
        for protocol in (2, 3):
            client = node.client(protocol=protocol, decode_responses=True)
            self.assertTrue(client.ping())
            self.assertTrue(client.set(f"k{protocol}", "väl\0ue"))
            self.assertEqual(client.get(f"k{protocol}"), "väl\0ue")
            self.assertIsNone(client.get("absent"))

    def test_redis_py_uses_every_type_in_both_protocols(self):
        node = self.standalone()
        for protocol in (2, 3):
            with self.subTest(protocol=protocol):
                client = node.client(protocol=protocol, decode_responses=True)
                client.flushall()
                self.assertTrue(client.set("s", "1", ex=100))
                self.assertEqual(client.incrby("s", 41), 42)
                self.assertTrue(0 < client.ttl("s") <= 100)
                self.assertEqual(client.hset("h", mapping={"a": "1", "b": "2"}), 2)
                self.assertEqual(client.hgetall("h"), {"a": "1", "b": "2"})
                self.assertEqual(client.rpush("l", "x", "y", "z"), 3)
                self.assertEqual(client.lrange("l", 0, -1), ["x", "y", "z"])
                self.assertEqual(client.sadd("set", "m", "n"), 2)
                self.assertEqual(set(client.smembers("set")), {"m", "n"})
                self.assertEqual(client.zadd("z", {"one": 1, "half": 0.5}), 2)
                ranged = [tuple(pair) for pair in client.zrange("z", 0, -1, withscores=True)]
                self.assertEqual(ranged, [("half", 0.5), ("one", 1.0)])
                self.assertEqual(sorted(client.keys("*")), ["h", "l", "s", "set", "z"])
                self.assertEqual(client.dbsize(), 5)
                self.assertEqual([client.type(key) for key in ("s", "h", "l", "set", "z")],
                                 ["string", "hash", "list", "set", "zset"])
                self.assertEqual(client.mget("s", "absent"), ["42", None])
                self.assertEqual(sorted(client.scan_iter(count=2)), ["h", "l", "s", "set", "z"])
                with self.assertRaisesRegex(Exception, "WRONGTYPE"):
                    client.lpush("s", "1")
                self.assertEqual(client.delete("s", "h", "absent"), 2)
                self.assertEqual(client.info("replication")["role"], "master")
                self.assertIsInstance(client.client_id(), int)

    def test_redis_py_pipelines_keep_order(self):
        client = self.standalone().client(decode_responses=True)
        pipeline = client.pipeline(transaction=False)
        for number in range(1000):
            pipeline.set(f"k{number % 50}", number)
            pipeline.get(f"k{number % 50}")
        answers = pipeline.execute()
        self.assertEqual(answers[1::2], [str(number) for number in range(1000)])
        self.assertTrue(all(answers[0::2]))

    def test_redis_cli_scan_lists_every_key_once(self):
        node = self.standalone()
        client = node.client()
        wanted = {f"key:{number}" for number in range(2500)}
        pipeline = client.pipeline(transaction=False)
        for key in sorted(wanted):
            pipeline.set(key, key)
        pipeline.execute()
        for more in ([], ["-3"]):
            done = subprocess.run(["redis-cli", "-p", str(node.port), *more, "--scan"],
                                  capture_output=True, text=True, timeout=120, check=True)
            listed = done.stdout.split()
            self.assertEqual(len(listed), len(set(listed)), "a key came twice though nothing was written")
            self.assertEqual(set(listed), wanted)
        done = subprocess.run(["redis-cli", "-p", str(node.port), "--scan", "--pattern", "key:1*"],
                              capture_output=True, text=True, timeout=120, check=True)
        self.assertEqual(set(done.stdout.split()), {key for key in wanted if key.startswith("key:1")})

    def both(self):
        """A node of each profile, with all slots."""
        return [self.standalone(), self.node("codis", "--slots", "all")]

    def test_redis_benchmark_runs_its_default_list_without_an_error(self):
        for node in self.both():
            for pipeline, requests in (("1", "2000"), ("16", "20000")):
                with self.subTest(node=node.name, pipeline=pipeline):
                    done = subprocess.run(["redis-benchmark", "-p", str(node.port), "-P", pipeline, "-q", "-n", requests],
                                          capture_output=True, text=True, timeout=600)
                    said = done.stdout + done.stderr
                    self.assertEqual(done.returncode, 0, said)
                    self.assertNotIn("error", said.lower(), said)
                    measured = [line for line in said.replace("\r", "\n").splitlines() if "requests per second" in line]
                    self.assertGreaterEqual(len(measured), 18, said)
                    self.assertTrue(node.alive())

    def test_redis_py_runs_scripts_transactions_and_messages_in_both_profiles(self):
        for node in self.both():
            with self.subTest(node=node.name):
                client = node.client(decode_responses=True)
                twice = client.register_script("return redis.call('incrby', KEYS[1], ARGV[1] * 2)")
                self.assertEqual([twice(keys=["t"], args=[21]), twice(keys=["t"], args=[1])], [42, 44])
                # Loaded anew where it is not known any more, in a pipeline too.
                client.script_flush()
                pipeline = client.pipeline()
                twice(keys=["t"], args=[3], client=pipeline)
                pipeline.get("t")
                self.assertEqual(pipeline.execute(), [50, "50"])

                def add(pipe):
                    now = int(pipe.get("t"))
                    pipe.multi()
                    pipe.set("t", now + 1)

                self.assertEqual(client.transaction(add, "t"), [True])
                with client.pipeline() as pipe:
                    pipe.watch("t")
                    client.set("t", "other")
                    pipe.multi()
                    pipe.get("t")
                    with self.assertRaises(redis.WatchError):
                        pipe.execute()
                with client.pipeline() as pipe:
                    pipe.set("s", "x").incr("s").get("s")
                    answers = pipe.execute(raise_on_error=False)
                    self.assertEqual([answers[0], answers[2]], [True, "x"])
                    self.assertIsInstance(answers[1], redis.ResponseError)
                listener = client.pubsub(ignore_subscribe_messages=False)
                listener.subscribe("news")
                listener.psubscribe("n*")
                self.assertEqual([listener.get_message(timeout=30)["type"] for _ in range(2)], ["subscribe", "psubscribe"])
                self.assertEqual(client.publish("news", "hello"), 2)
                heard = [listener.get_message(timeout=30) for _ in range(2)]
                self.assertEqual([(one["type"], one["channel"], one["data"]) for one in heard],
                                 [("message", "news", "hello"), ("pmessage", "news", "hello")])
                listener.close()
                with self.assertRaisesRegex(redis.exceptions.RedisClusterException, "(?i)cluster"):
                    redis.RedisCluster(host="127.0.0.1", port=node.port)

    def test_redis_py_waits_for_items_and_locks(self):
        node = self.standalone()
        client, other = node.client(decode_responses=True), node.client(decode_responses=True)
        got = []
        waiter = threading.Thread(target=lambda: got.append(client.blpop(["q1", "q2"], timeout=60)), daemon=True)
        waiter.start()
        self.wait(lambda: other.info("clients")["blocked_clients"] == 1, "it waits")
        other.rpush("q2", "item")
        waiter.join(60)
        self.assertEqual([tuple(item) for item in got], [("q2", "item")])
        with other.lock("lock", timeout=600):
            self.assertFalse(client.lock("lock", timeout=600).acquire(blocking=False))
        self.assertTrue(client.lock("lock", timeout=600).acquire(blocking=False))

    def test_ioredis_does_what_it_does_ordinarily_in_both_profiles(self):
        for node in self.both():
            profile = "standalone" if node.name == "node" else "codis"
            with self.subTest(profile=profile):
                done = subprocess.run(["node", str(HERE / "ioredis.mjs"), str(node.port), profile],
                                      capture_output=True, text=True, timeout=120)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def cli(self, node, *words, timeout=120, **more):
        return subprocess.run(["redis-cli", "-p", str(node.port), *words], capture_output=True, text=True, timeout=timeout, **more)

    def test_redis_cli_finds_the_largest_keys_and_measures_latency(self):
        for node in self.both():
            with self.subTest(node=node.name):
                client = node.client()
                client.rpush("long list", *range(1000))
                client.set("long string", "x" * 10_000)
                client.hset("hash", "f", "v")
                client.zadd("zset", {"m": 1})
                client.xadd("stream", {"f": "v"})
                for mode in ("--bigkeys", "--memkeys"):
                    done = self.cli(node, mode)
                    self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                    self.assertRegex(done.stdout, r'Biggest +list +found \'?"?long list')
                    self.assertRegex(done.stdout, r'Biggest +string +found \'?"?long string')
                    self.assertIn("Sampled 5 keys", done.stdout)
                hot = self.cli(node, "--hotkeys")
                self.assertIn("LFU", hot.stdout + hot.stderr)
                for words in (["--latency"], ["--latency", "--raw"]):
                    done = self.cli(node, *words)
                    self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                    self.assertRegex(done.stdout, r"^\d+ \d+ \d+\.\d+ \d+")
                for words in (["--rdb", str(self.folder / "dump.rdb")], ["--replica"], ["--functions-rdb", str(self.folder / "f.rdb")]):
                    done = self.cli(node, *words, timeout=60)
                    self.assertNotEqual(done.returncode, 0, (words, done.stdout, done.stderr))

    def test_redis_cli_loads_much_at_once_runs_scripts_and_reads_stdin(self):
        node = self.standalone()
        commands = "".join(f"*3\r\n$3\r\nSET\r\n${len(f'k{n}')}\r\nk{n}\r\n$1\r\nv\r\n" for n in range(20_000))
        done = self.cli(node, "--pipe", input=commands)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("errors: 0, replies: 20000", done.stdout)
        self.assertEqual(node.do("DBSIZE"), 20_000)
        script = self.folder / "script.lua"
        script.write_text("return {KEYS[1], ARGV[1], redis.call('get', KEYS[1])}")
        done = self.cli(node, "--eval", str(script), "k7", ",", "x")
        self.assertEqual(done.stdout.split(), ["k7", "x", "v"])
        self.assertEqual(self.cli(node, "-x", "SET", "stdin", input="from stdin").stdout.strip(), "OK")
        self.assertEqual(self.cli(node, "GET", "stdin").stdout.strip(), "from stdin")
        self.assertEqual(self.cli(node, "-3", "HGETALL", "nosuch").stdout.strip(), "")
        self.assertEqual(self.cli(node, "--csv", "LRANGE", "nosuch", "0", "-1").stdout.strip(), "")

    def test_redis_cli_shows_the_nodes_statistics_line_by_line(self):
        node = self.standalone()
        node.do("SET", "k", "v")
        cli = subprocess.Popen(["redis-cli", "-p", str(node.port), "--stat", "-i", "0.05"], stdout=subprocess.PIPE, text=True)
        try:
            lines = [cli.stdout.readline() for _ in range(6)]
        finally:
            cli.kill()
            cli.wait()
            cli.stdout.close()
        self.assertIn("keys", lines[1])
        self.assertEqual([line.split()[0] for line in lines[2:]], ["1"] * 4, lines)

    def test_redis_cli_completes_and_hints_from_the_nodes_own_documentation(self):
        node = self.standalone()
        ours, theirs = pty.openpty()
        # One that does not know how wide it is would ask the terminal.
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        home = {**os.environ, "HOME": str(self.folder), "TERM": "xterm"}
        cli = subprocess.Popen(["redis-cli", "-p", str(node.port)], stdin=theirs, stdout=theirs, stderr=theirs, env=home)
        os.close(theirs)
        said = b""

        def until(words):
            nonlocal said
            end = time.monotonic() + 60
            while words not in said:
                self.assertLess(time.monotonic(), end, said)
                if select.select([ours], [], [], 1)[0]:
                    said = re.sub(rb"\x1b\[[0-9;]*[A-Za-z]", b"", said + os.read(ours, 65536))
            said = said.split(words, 1)[1]

        try:
            until(b"> ")
            os.write(ours, b"help slotsinfo\r")
            # A command that no Redis has: it can only be told of by the node.
            until(b"SLOTSINFO [start [count]]")
            until(b"group:")
            # Before it asks again, the terminal would echo a tab.
            until(b"> ")
            os.write(ours, b"getra\t")
            until(b"GETRANGE")
            os.write(ours, b" ")
            until(b"key start end")
        finally:
            cli.kill()
            cli.wait()
            os.close(ours)

    def test_auth_is_asked_for_and_a_wrong_password_is_refused(self):
        node = self.node("node", "--standalone", "--requirepass", "right", password="right")
        self.assertTrue(node.client().ping())
        with self.assertRaisesRegex(Exception, "(?i)noauth|authentication required"):
            node.client(password=None).get("k")
        with self.assertRaisesRegex(Exception, "WRONGPASS|invalid username-password|invalid password"):
            node.client(password="wrong").get("k")
        self.assertTrue(node.client(protocol=3).set("k", "v"))


if __name__ == "__main__":
    unittest.main()
