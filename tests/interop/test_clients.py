"""Ordinary clients against a standalone node: redis-py in both protocols, redis-cli, redis-benchmark."""

import subprocess
import unittest

from harness import Case


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

    def test_redis_benchmark_runs_its_default_list_without_an_error(self):
        node = self.standalone()
        done = subprocess.run(["redis-benchmark", "-p", str(node.port), "-P", "16", "-q", "-n", "20000"],
                              capture_output=True, text=True, timeout=600)
        said = done.stdout + done.stderr
        self.assertEqual(done.returncode, 0, said)
        self.assertNotIn("error", said.lower(), said)
        measured = [line for line in said.replace("\r", "\n").splitlines() if "requests per second" in line]
        self.assertGreaterEqual(len(measured), 18, said)
        self.assertTrue(node.alive())

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
